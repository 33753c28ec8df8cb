"""The rows of the audio form's tables: how each model is made, trained and scored on the test conversations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from audio_models import memory_logits, normalised_logits, train_memory
from prompt_history import history_logits, train_history
from spoken_suites import Encoded, load_host
from temporary_lora import choose_learning_rate, temporary_logits
from torch import Tensor


@dataclass(frozen=True)
class Trial:
    """The data and settings that all models of a table share.

    Attributes:
        train, test: conversations.
        steps: of training, each on a batch of conversations.
        seed: of weights and of the order of the batches.
    """

    train: Encoded
    test: Encoded
    steps: int
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """The scores of a model.

    Attributes:
        logits: (conversations, turns, labels), or several of the same model by the key of their row.
        parameters: how many were trained; None: none.
        model: the trained model, if it is scored on other voices too.
    """

    logits: Tensor | dict[str, Tensor]
    parameters: int | None = None
    model: object | None = None


@dataclass(frozen=True)
class Entry:
    """A row of the table: its title, how it is made, and whether it has one seed only.

    Attributes:
        run: trains and scores the model; None: the run of another row gives this result too.
        has_one_seed: True if nothing is trained, or if training is slow.
    """

    title: str
    run: Callable[[Trial], Result] | None
    has_one_seed: bool = True


def _host(trial: Trial) -> Result:
    return Result(trial.test.host_logits)


def _normalised(trial: Trial) -> Result:
    return Result(normalised_logits(trial.test))


def _memory(trial: Trial, **memory) -> Result:
    model, _ = load_host(seed=trial.seed, **memory)
    train_memory(model, trial.train, steps=trial.steps, seed=trial.seed)
    logits = memory_logits(model, trial.test)
    return Result(logits, model.titans_memory.num_parameters(), model)


def _memory_and_reset(trial: Trial) -> Result:
    result = _memory(trial)
    logits = {"memory": result.logits, "reset": memory_logits(result.model, trial.test, resets=True)}
    return Result(logits, result.parameters, result.model)


def _never_written(trial: Trial) -> Result:
    model, _ = load_host(seed=trial.seed)
    for layer in model.titans_memory.layers:
        # A fresh memory returns zeros and its projection is zero: without writes every gradient would be zero.
        torch.nn.init.normal_(layer.initial_memory[-1], std=layer.config.head_dim**-0.5)
    train_memory(model, trial.train, steps=trial.steps, seed=trial.seed, writes=False)
    return Result(memory_logits(model, trial.test, writes=False), model.titans_memory.num_parameters())


def _prompt(turns: int, *, by_speaker: bool = False) -> Callable[[Trial], Result]:
    def run(trial: Trial) -> Result:
        model, _ = load_host()
        parameters = train_history(
            model, trial.train, turns, steps=trial.steps, seed=trial.seed, by_speaker=by_speaker
        )
        logits = history_logits(model, trial.test, turns, by_speaker=by_speaker)
        return Result(logits, sum(parameter.numel() for parameter in parameters))

    return run


def _temporary(trial: Trial) -> Result:
    model, _ = load_host()
    learning_rate = choose_learning_rate(model, trial.train, seed=trial.seed)
    return Result(temporary_logits(model, trial.test, learning_rate=learning_rate, seed=trial.seed))


ENTRIES = {
    "utterance": Entry("utterance only: the host", _host),
    "memory": Entry("memory (linear fast weights, depth 1)", _memory_and_reset, has_one_seed=False),
    "reset": Entry("that memory, reset every turn", None, has_one_seed=False),
    "speaker-memory": Entry(
        "memory of each speaker (given the speaker)",
        lambda trial: _memory(trial, scope="speaker"),
        has_one_seed=False,
    ),
    "normalised": Entry("z-normalised by speaker (given the speaker)", _normalised),
    "prompt-8": Entry("8 turns in the prompt, LoRA", _prompt(8)),
    "prompt-8-own": Entry("8 turns of the same speaker in the prompt, LoRA", _prompt(8, by_speaker=True)),
    "lora": Entry("utterance only, LoRA", _prompt(0)),
    "never-written": Entry("learned memory, never written", _never_written),
    "deep": Entry("memory of depth 2", lambda trial: _memory(trial, depth=2)),
    "temporary": Entry("temporary LoRA", _temporary),
    "prompt-2": Entry("2 turns in the prompt, LoRA", _prompt(2)),
    "prompt-4": Entry("4 turns in the prompt, LoRA", _prompt(4)),
}
