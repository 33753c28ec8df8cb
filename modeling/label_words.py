"""Labels as the tokens of their words: how they are found, and how whole words are scored."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers.utils import logging


logger = logging.get_logger(__name__)


def find_label_tokens(tokenizer, prompt: str, words: Sequence[str]) -> list[int] | list[list[int]]:
    """The tokens of each label's word as it would follow the generation prompt.

    Args:
        tokenizer: tokenizer of the host.
        prompt: the chat template's text up to where the answer begins.
        words: words from which the host is asked to choose.

    Returns:
        The first token of each word if these differ; otherwise all tokens of each word, with a warning.

    Raises:
        ValueError: if a word is not tokens after the prompt, or begins another one, naming them.
    """
    prefix = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    tokens = []
    for word in words:
        ids = tokenizer(prompt + word, add_special_tokens=False)["input_ids"]
        of_word = ids[len(prefix) :]
        if not of_word or ids[: len(prefix)] != prefix or of_word[0] == tokenizer.unk_token_id:
            raise ValueError(f"The tokenizer has no token for the label {word!r} after the prompt {prompt[-40:]!r}.")
        tokens.append(of_word)
    first = [of_word[0] for of_word in tokens]
    if len({*first}) == len(first):
        return first
    clashes = [word for word, token in zip(words, first) if first.count(token) > 1]
    for word, of_word in zip(words, tokens):
        longer = [other for other, of_other in zip(words, tokens) if other != word and _begins(of_word, of_other)]
        if longer or tokenizer.unk_token_id in of_word:
            raise ValueError(
                f"The labels {clashes} begin with the same token, and the verbalizer cannot distinguish {word!r} "
                f'from {longer or "others"}: use other words (label_words) or emotion_readout="linear".'
            )
    steps = len({tuple(of_word[:-1]) for of_word in tokens if len(of_word) > 1})
    logger.warning(
        f"The labels {clashes} begin with the same token, so whole words are scored, with {steps} more decoding steps "
        "per call. Words with different first tokens (label_words) need none."
    )
    return tokens


def are_label_tokens(tokens, count: int, vocab_size: float) -> bool:
    """Whether `tokens` are those of `count` labels: one token per label, or one list per label.

    No token may occur twice, and no list may be the beginning of another.
    """
    if not isinstance(tokens, list | tuple) or len(tokens) != count:
        return False
    if not are_whole_words(tokens):
        return _are_tokens(tokens, vocab_size) and len({*tokens}) == count
    if not all(isinstance(word, list | tuple) and word and _are_tokens(word, vocab_size) for word in tokens):
        return False
    return not any(_begins(one, other) for i, one in enumerate(tokens) for j, other in enumerate(tokens) if i != j)


def are_whole_words(tokens: Sequence) -> bool:
    """Whether labels are scored as whole words, and not by their first token; the kinds are not mixed."""
    return isinstance(next(iter(tokens), None), list | tuple)


def word_scores(first: Tensor, words: Sequence[Sequence[int]], step: Callable[[Sequence[int]], Tensor]) -> Tensor:
    """The log-probability that the host's answer begins with each word: the sum over the word's tokens.

    Args:
        first: (rows, vocab_size), the logits where the answers begin.
        words: the tokens of each word.
        step: gives the logits (rows, tokens, vocab_size) behind each of the tokens that an answer begins with.

    Returns:
        (rows, words) in float32 (float64 for float64 logits).
    """
    beginnings = {tuple(word[:-1]) for word in words if len(word) > 1}
    later = {beginning: _log_probabilities(step(beginning)) for beginning in sorted(beginnings)}
    at_first = _log_probabilities(first)
    scores = []
    for word in words:
        score = at_first[:, word[0]]
        for position, token in enumerate(word[1:]):
            score = score + later[tuple(word[:-1])][:, position, token]
        scores.append(score)
    return torch.stack(scores, dim=-1)


def copy_of_cache(past):
    """A cache of keys and values that grows by itself: its tensors are shared until they are replaced."""
    twin = copy.copy(past)
    twin.layers = [copy.copy(layer) for layer in past.layers]
    return twin


def _log_probabilities(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)


def _are_tokens(tokens: Sequence, vocab_size: float) -> bool:
    return all(type(token) is int and 0 <= token < vocab_size for token in tokens)


def _begins(word: Sequence[int], other: Sequence[int]) -> bool:
    return list(other[: len(word)]) == list(word)
