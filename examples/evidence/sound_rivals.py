"""The rows of the sound form's tables: how each listener is made and what it tells of the test conversations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from sound_history import history_logits, train_history
from sound_listeners import memory_logits, normalised_logits, train_memory
from spoken_suites import Heard, load_host
from temporary_lora import choose_learning_rate, temporary_logits
from torch import Tensor


@dataclass(frozen=True)
class Trial:
    """What all listeners of a table share.

    Attributes:
        train, test: conversations.
        steps: of training, each on a batch of conversations.
        seed: of weights and of the order of the batches.
    """

    train: Heard
    test: Heard
    steps: int
    seed: int = 0


@dataclass(frozen=True)
class Told:
    """What became of a listener.

    Attributes:
        logits: (conversations, turns, labels), or several of the same model by the key of their row.
        parameters: how many were trained; None: none.
        model: that told them, where it is heard again on other voices.
    """

    logits: Tensor | dict[str, Tensor]
    parameters: int | None = None
    model: object | None = None


@dataclass(frozen=True)
class Entry:
    """A row of the table: its title, how it is made, and whether one seed has to do.

    Attributes:
        run: None: told by the listener of another row.
        has_one_seed: nothing is trained, or it is slow.
    """

    title: str
    run: Callable[[Trial], Told] | None
    has_one_seed: bool = True


def _host(trial: Trial) -> Told:
    return Told(trial.test.host_logits)


def _normalised(trial: Trial) -> Told:
    return Told(normalised_logits(trial.test))


def _memory(trial: Trial, **memory) -> Told:
    model, _ = load_host(seed=trial.seed, **memory)
    train_memory(model, trial.train, steps=trial.steps, seed=trial.seed)
    logits = memory_logits(model, trial.test)
    return Told(logits, model.titans_memory.num_parameters(), model)


def _memory_and_reset(trial: Trial) -> Told:
    told = _memory(trial)
    logits = {"memory": told.logits, "reset": memory_logits(told.model, trial.test, resets=True)}
    return Told(logits, told.parameters, told.model)


def _never_written(trial: Trial) -> Told:
    model, _ = load_host(seed=trial.seed)
    for layer in model.titans_memory.layers:
        # A fresh memory answers nothing and its projection starts at zero: without writes no gradient leaves there.
        torch.nn.init.normal_(layer.initial_memory[-1], std=layer.config.head_dim**-0.5)
    train_memory(model, trial.train, steps=trial.steps, seed=trial.seed, writes=False)
    return Told(memory_logits(model, trial.test, writes=False), model.titans_memory.num_parameters())


def _prompt(turns: int, *, by_speaker: bool = False) -> Callable[[Trial], Told]:
    def run(trial: Trial) -> Told:
        model, _ = load_host()
        parameters = train_history(
            model, trial.train, turns, steps=trial.steps, seed=trial.seed, by_speaker=by_speaker
        )
        logits = history_logits(model, trial.test, turns, by_speaker=by_speaker)
        return Told(logits, sum(parameter.numel() for parameter in parameters))

    return run


def _temporary(trial: Trial) -> Told:
    model, _ = load_host()
    learning_rate = choose_learning_rate(model, trial.train, seed=trial.seed)
    return Told(temporary_logits(model, trial.test, learning_rate=learning_rate, seed=trial.seed))


ENTRIES = {
    "utterance": Entry("utterance only: the host", _host),
    "memory": Entry("memory (linear fast weights, depth 1)", _memory_and_reset, has_one_seed=False),
    "reset": Entry("that memory, reset every turn", None, has_one_seed=False),
    "speaker-memory": Entry(
        "memory of each speaker (told who talks)",
        lambda trial: _memory(trial, scope="speaker"),
        has_one_seed=False,
    ),
    "normalised": Entry("z-normalised by speaker (told who talks)", _normalised),
    "prompt-8": Entry("8 turns in the prompt, LoRA", _prompt(8)),
    "prompt-8-own": Entry("8 turns of the same speaker in the prompt, LoRA", _prompt(8, by_speaker=True)),
    "lora": Entry("utterance only, LoRA", _prompt(0)),
    "never-written": Entry("learned memory, never written", _never_written),
    "deep": Entry("memory of depth 2", lambda trial: _memory(trial, depth=2)),
    "temporary": Entry("temporary LoRA", _temporary),
    "prompt-2": Entry("2 turns in the prompt, LoRA", _prompt(2)),
    "prompt-4": Entry("4 turns in the prompt, LoRA", _prompt(4)),
}
