"""The cost of a conversation's eighth turn in the decoder, with a memory and with earlier turns in the prompt.

The audio tower runs once for the turn in all of them and is left out. Weights do not matter, so fresh ones are
timed, without the LoRA, which can be merged.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from prompt_history import history_logits
from spoken_suites import Encoded, load_host
from torch.utils.flop_counter import FlopCounterMode

from titans_mal import ConversationMemoryCache


TURN = 7  # counted from 0


def turn_costs(encoded: Encoded, *, repeats: int = 30) -> dict[str, dict[str, float]]:
    """Positions, millions of floating-point operations and milliseconds (the least) of turn 8, by model.

    Args:
        encoded: its first conversation is timed.
        repeats: how often.
    """
    first = encoded[:1]
    model, _ = load_host()
    calls: dict[str, tuple[int, Callable]] = {
        "utterance": (1, lambda: _alone(model, first)),
        "memory": (1, _with_memory(model, first)),
    }
    for turns in (2, 4, 8):
        calls[f"prompt-{turns}"] = (min(turns, TURN) + 1, lambda turns=turns: _with_prompt(model, first, turns))
    costs = {}
    for name, (turns, call) in calls.items():
        positions = int(first.attention_mask[0, TURN + 1 - turns : TURN + 1].sum())
        costs[name] = {"positions": positions, **_measure(call, repeats)}
    return costs


def _measure(call: Callable, repeats: int) -> dict[str, float]:
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            call()
        seconds = []  # the least of which is what other work on the machine disturbs least
        for _ in range(repeats):
            began = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - began)
    return {"mflops": counter.get_total_flops() / 1e6, "milliseconds": 1e3 * min(seconds)}


def _turn_inputs(encoded: Encoded, turn: int) -> dict:
    kept = encoded.attention_mask[0, turn].bool()
    return {
        "input_ids": encoded.input_ids[0, turn, kept][None],
        "attention_mask": encoded.attention_mask[0, turn, kept][None],
        "inputs_embeds": encoded.embeddings[0, turn, kept][None],
        "logits_to_keep": 1,
    }


def _alone(model, encoded: Encoded):
    with model.disable_memory():
        return model(**_turn_inputs(encoded, TURN))


def _with_memory(model, encoded: Encoded) -> Callable:
    """Turn 8 with the memory that seven turns have written; it reads and writes."""
    cache = ConversationMemoryCache(model.config, batch_size=1)
    with torch.no_grad():
        for turn in range(TURN):
            model(**_turn_inputs(encoded, turn), memory_cache=cache)
    # Written at every repeat: a write costs the same at every turn.
    return lambda: model(**_turn_inputs(encoded, TURN), memory_cache=cache)


def _with_prompt(model, encoded: Encoded, turns: int):
    """Turn 8 with those before it in one prompt, without cached keys and values."""
    window = encoded[:, max(0, TURN - turns) : TURN + 1]
    return history_logits(model, window, turns)
