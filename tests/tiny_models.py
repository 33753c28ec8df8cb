"""Tiny random models, processors and turns for the tests."""

from __future__ import annotations

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from titans_mal import Qwen2AudioMALConfig, Qwen2AudioMALForAudioEmotion


LABELS = ("neutral", "happy", "sad", "angry")
SPECIAL = ["<pad>", "<s>", "<|im_end|>", "<|audio_bos|>", "<|audio_eos|>", "<|AUDIO|>", "<unk>"]
WORDS = ["user", "assistant", "emotion", "?", *LABELS, *(f"word{i}" for i in range(30))]
VOCABULARY = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
AUDIO = VOCABULARY["<|AUDIO|>"]
LABEL_TOKENS = [VOCABULARY[label] for label in LABELS]
MEL_BINS, MAX_FRAMES = 16, 300
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)
# Decoding modes of `generate`.
MODES = {
    "greedy": {},
    "sampling": {"do_sample": True},
    "beams": {"num_beams": 3},
    "beams that return several": {"num_beams": 4, "num_return_sequences": 2},
    "several samples": {"do_sample": True, "num_return_sequences": 3},
    "beam sampling": {"num_beams": 2, "do_sample": True},
    "static cache": {"cache_implementation": "static"},
    "no key-value cache": {"use_cache": False},
    "beams without a key-value cache": {"num_beams": 3, "use_cache": False},
    "prompt look-up": {"prompt_lookup_num_tokens": 2},
    "scores": {"return_dict_in_generate": True, "output_scores": True, "output_hidden_states": True},
}


def host_config(**kwargs) -> dict:
    """Fields of a Qwen2-Audio of four blocks."""
    fields = {
        "audio_config": {
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": MEL_BINS,
            "max_source_positions": MAX_FRAMES // 2,
            "d_model": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
        },
        "text_config": {
            "model_type": "qwen2",
            "vocab_size": len(VOCABULARY),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": None,
            "tie_word_embeddings": False,
        },
        "audio_token_index": AUDIO,
    }
    return fields | kwargs


def tiny_config(memory: dict | None = None, **kwargs) -> Qwen2AudioMALConfig:
    memory = {"layers": [0, 2], "num_heads": 2, "head_dim": 8, "depth": 2, "chunk_size": 4, **(memory or {})}
    fields = {"id2label": dict(enumerate(LABELS)), "label_token_ids": LABEL_TOKENS, "emotion_prompt": "emotion ?"}
    return Qwen2AudioMALConfig(**host_config(), memory_config=memory, **(fields | kwargs))


def tiny_model(memory: dict | None = None, *, fresh: bool = False, seed: int = 0, **kwargs):
    """A model whose memory does something, as after training; `fresh` leaves it as it was initialised."""
    torch.manual_seed(seed)
    model = Qwen2AudioMALForAudioEmotion(tiny_config(memory, **kwargs)).eval()
    if not fresh:
        stir(model.titans_memory)
    return model


@torch.no_grad()
def stir(memory, std: float = 0.3) -> None:
    """Random weights instead of those of an untrained memory."""
    for parameter in memory.parameters():
        parameter.add_(std * torch.randn_like(parameter))


def tiny_host() -> Qwen2AudioForConditionalGeneration:
    return Qwen2AudioForConditionalGeneration(Qwen2AudioConfig(**host_config())).eval()


def host_of(model) -> Qwen2AudioForConditionalGeneration:
    """A plain host with the weights of the model's host."""
    host = tiny_host()
    host.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("titans_memory")})
    return host


def tiny_turns(rows: int, *, seed: int = 0, padding_side: str = "left", frames: list[int] | None = None) -> dict:
    """Inputs of turns of ragged length, as the processor would make them."""
    rng = np.random.default_rng(seed)
    frames = frames or rng.integers(24, 90, size=rows).tolist()
    prompts = []
    for count in frames:
        audio = ((count - 1) // 2 + 1 - 2) // 2 + 1
        words = rng.integers(len(SPECIAL), len(VOCABULARY), size=5).tolist()
        prompts.append([1, *words[:2], *[AUDIO] * audio, *words[2:]])
    longest = max(map(len, prompts))
    ids, mask = torch.zeros(rows, longest, dtype=torch.long), torch.zeros(rows, longest, dtype=torch.long)
    features, feature_mask = torch.zeros(rows, MEL_BINS, MAX_FRAMES), torch.zeros(rows, MAX_FRAMES, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        place = slice(longest - len(prompt), None) if padding_side == "left" else slice(0, len(prompt))
        ids[row, place] = torch.tensor(prompt)
        mask[row, place] = 1
        features[row, :, : frames[row]] = torch.from_numpy(rng.standard_normal((MEL_BINS, frames[row]))).float()
        feature_mask[row, : frames[row]] = 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "input_features": features,
        "feature_attention_mask": feature_mask,
    }


def rows_of(turns: dict, rows) -> dict:
    """Some rows of a batch, with the batch's padding."""
    return {name: tensor[rows] for name, tensor in turns.items()}


def unpadded(turns: dict, row: int) -> dict:
    """One row alone, without its padding."""
    keep = turns["attention_mask"][row].bool()
    single = {name: tensor[[row]] for name, tensor in turns.items()}
    return single | {name: single[name][:, keep] for name in ("input_ids", "attention_mask")}


def tiny_processor(**kwargs) -> Qwen2AudioProcessor:
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=SPECIAL[1:-1],
        padding_side="left",
    )
    extractor = WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=3)
    return Qwen2AudioProcessor(extractor, tokenizer, chat_template=CHAT_TEMPLATE, **kwargs)


def save_base(folder):
    """A host checkpoint with its processor, as a user finds it on the Hub; returns the host."""
    torch.manual_seed(1)
    host = tiny_host()
    host.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return host


def tone(seconds: float = 1.0, *, frequency: float = 220.0, level: float = 0.1, rate: int = 16_000) -> np.ndarray:
    """(samples,) float32, a sine of the given amplitude."""
    time = np.arange(int(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def state_of(cache) -> list:
    """Everything that a cache holds, for comparing before and after."""
    tensors = [tensor for layer in cache.layers for tensor in (*(layer.weights or ()), *(layer.momentum or ()))]
    tensors = [tensor.clone() for tensor in (*tensors, cache.turns, cache.tokens)]
    return [*tensors, cache.conversation_ids, [dict(speakers) for speakers in cache.speaker_ids]]


def assert_same_state(before: list, after: list) -> None:
    """Bit by bit."""
    assert len(before) == len(after)
    for one, other in zip(before, after):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
