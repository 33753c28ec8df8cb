"""Train the tiny checkpoint that ships with the repository, from a seed alone.

1. A Qwen2-Audio of under a million parameters learns to describe single utterances: emotion, pitch, level, voice.
2. It is frozen, gets a memory, and the memory alone is trained on conversations (turn-parallel).
3. Held-out conversations are evaluated with memory on, with memory off, and with the memory reset before every turn.

    python examples/quickstart/train_tiny.py [--output DIR] [--also DIR_WITH_METADATA_CSV]
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.progress import (
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.nn import functional as F

from titans_mal import AutoModelForAudioEmotion, TitansMemoryConfig, load_audio, load_conversations
from titans_mal.data.synthetic import speak
from titans_mal.data.synthetic.bayes_bound import best_accuracy
from titans_mal.data.synthetic.suites import EMOTION_CHANGES, EMOTIONS, TURN_SCATTER, Speaker, baseline
from titans_mal.data.synthetic.voices import LEVEL_MEAN, PITCH_MEDIAN
from titans_mal.quickstart.tiny_host import (
    LEVEL_WORDS,
    PITCH_WORDS,
    PROMPT,
    TRACT_WORDS,
    build_host,
    build_processor,
)


HERE = Path(__file__).parent
FIRST_SCORED_TURN = 2  # counted from 0: the first two turns are each speaker's neutral introduction


def progress_bar() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )


def prompt_of(processor) -> str:
    content = [{"type": "audio"}, {"type": "text", "text": PROMPT}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )


def prepare(processor, waveforms: list[np.ndarray], answers: list[str] | None = None) -> dict[str, torch.Tensor]:
    """Model inputs of single turns; with `answers`, these follow the prompt."""
    text = [prompt_of(processor) + answer for answer in answers or [""] * len(waveforms)]
    extractor = processor.feature_extractor
    return dict(
        processor(text=text, audio=waveforms, sampling_rate=extractor.sampling_rate, padding=True, return_tensors="pt")
    )


def collate(parts: list[dict[str, torch.Tensor]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Concatenate inputs of different lengths, padded on the left."""
    longest = max(part["input_ids"].shape[1] for part in parts)

    def padded(part: dict[str, torch.Tensor], key: str) -> torch.Tensor:
        if key not in ("input_ids", "attention_mask", "inputs_embeds"):
            return part[key]
        padding = (0, 0) * (part[key].dim() - 2) + (longest - part[key].shape[1], 0)
        return F.pad(part[key], padding, value=pad_token_id if key == "input_ids" else 0)

    return {key: torch.cat([padded(part, key) for part in parts]) for key in parts[0]}


def draw_utterance(rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """An utterance of a random speaker, and its description: emotion, pitch, level and tract."""
    speaker, emotion = Speaker.draw(rng), int(rng.integers(len(EMOTIONS)))
    pitch, level = (speaker.pitch, speaker.level) + EMOTION_CHANGES[emotion] + TURN_SCATTER * rng.standard_normal(2)
    waveform = speaker.voice.speak(pitch, level, rng)
    words = (
        EMOTIONS[emotion],
        _bin(pitch, np.log(65 / PITCH_MEDIAN), np.log(350 / PITCH_MEDIAN), PITCH_WORDS),
        _bin(level, -56 - LEVEL_MEAN, -16 - LEVEL_MEAN, LEVEL_WORDS),
        _bin(speaker.voice.tract, 0.75, 1.1, TRACT_WORDS),
    )
    return waveform, " ".join(words)


def _bin(value: float, low: float, high: float, words: list[str]) -> str:
    return words[int(np.clip((value - low) / (high - low) * len(words), 0, len(words) - 1))]


def train(parameters, batches, loss_of, *, learning_rate: float, description: str, steps: int) -> None:
    """AdamW with warm-up and cosine decay over `steps` batches."""
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))),
    )
    average = None
    with progress_bar() as bar:
        task = bar.add_task(description, total=steps, note="")
        for _ in range(steps):
            loss = loss_of(next(batches))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            average = loss.item() if average is None else 0.95 * average + 0.05 * loss.item()
            bar.update(task, advance=1, note=f"loss {average:.3f}")


def train_host(host, processor, *, utterances: int, steps: int, seed: int, batch_size: int = 64) -> None:
    """Teach the host to describe single utterances."""
    rng = np.random.default_rng(seed)
    drawn = [draw_utterance(rng) for _ in range(utterances)]
    parts = [prepare(processor, *map(list, zip(*drawn[start : start + 500]))) for start in range(0, utterances, 500)]
    inputs = collate(parts, processor.tokenizer.pad_token_id)
    answer_length = 4

    def batches():
        while True:
            order = rng.permutation(utterances)
            for start in range(0, utterances - batch_size + 1, batch_size):
                rows = torch.as_tensor(order[start : start + batch_size])
                yield {key: tensor[rows] for key, tensor in inputs.items()}

    def loss_of(batch):
        logits = host(**batch).logits[:, -answer_length - 1 : -1]
        targets = batch["input_ids"][:, -answer_length:]
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    train(list(host.parameters()), batches(), loss_of, learning_rate=2e-3, description="host", steps=steps)


@torch.no_grad()
def encode(model, processor, waveforms: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """Model inputs of single turns, with the embeddings that the frozen front computes."""
    inputs, received = prepare(processor, waveforms), []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda decoder, args, kwargs: received.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    try:
        with model.disable_memory():
            model(**inputs, logits_to_keep=1)
    finally:
        hook.remove()
    return {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "inputs_embeds": received[0]}


def train_memory(model, processor, *, conversations: int, steps: int, seed: int, batch_size: int = 16) -> None:
    """Train the memory alone on conversations: all turns of a batch of them in one forward."""
    parts, emotions = [], []
    for number in range(conversations):
        # Some begin with any emotion, so that the memory also learns turns without history.
        suite = baseline() if number % 4 else dataclasses.replace(baseline(), introduced=False)
        rng = np.random.default_rng((seed, number))
        script = suite.draw(rng)
        parts.append(encode(model, processor, speak(script, rng)))
        emotions.append([-1 if turn.is_introduction else turn.emotion for turn in script.turns])
    labels = torch.tensor(emotions)
    rng = np.random.default_rng(seed)

    def batches():
        while True:
            order = rng.permutation(conversations)
            for start in range(0, conversations - batch_size + 1, batch_size):
                chosen = order[start : start + batch_size]
                batch = collate([parts[i] for i in chosen], processor.tokenizer.pad_token_id)
                ids = torch.arange(batch_size).repeat_interleave(labels.shape[1])
                yield batch | {
                    "conversation_ids": ids,
                    "emotion_labels": labels[chosen].flatten(),
                    "logits_to_keep": 1,
                }

    model.requires_grad_(False)
    parameters = list(model.titans_memory.requires_grad_(True).parameters())
    model.train()
    train(
        parameters, batches(), lambda batch: model(**batch).loss, learning_rate=3e-3, description="memory", steps=steps
    )
    model.eval()


@torch.no_grad()
def evaluate(model, processor, conversations: list[tuple[list[np.ndarray], list[int]]]) -> dict[str, float]:
    """Accuracy on turns 3 and later with memory on, memory off, and memory reset before every turn."""
    correct, scored = dict.fromkeys(("memory on", "memory off", "reset every turn"), 0), 0
    for waveforms, labels in conversations:
        inputs = prepare(processor, waveforms)
        with model.disable_memory():
            memory_off = model(**inputs).emotion_logits
        logits = {
            "memory on": model(**inputs, conversation_ids=torch.zeros(len(labels), dtype=torch.long)).emotion_logits,
            "memory off": memory_off,
            "reset every turn": model(**inputs).emotion_logits,
        }
        targets = torch.tensor(labels)[FIRST_SCORED_TURN:]
        scored += len(targets)
        for name, values in logits.items():
            correct[name] += int((values.argmax(-1)[FIRST_SCORED_TURN:] == targets).sum())
    return {name: count / scored for name, count in correct.items()}


def held_out(conversations: int, seed: int) -> list[tuple[list[np.ndarray], list[int]]]:
    drawn = []
    for number in range(conversations):
        rng = np.random.default_rng((seed, number))
        script = baseline().draw(rng)
        drawn.append((speak(script, rng), [turn.emotion for turn in script.turns]))
    return drawn


def from_folder(folder: Path) -> list[tuple[list[np.ndarray], list[int]]]:
    """The test split of a folder with a metadata.csv."""
    conversations: dict[str, tuple[list, list]] = {}
    for row in load_conversations(folder, label_set=EMOTIONS)["test"]:
        waveforms, labels = conversations.setdefault(row["conversation_id"], ([], []))
        waveforms.append(load_audio(row["audio"]))
        labels.append(row["emotion"])
    return list(conversations.values())


def main(
    output: Annotated[Path, typer.Option(help="Folder for the checkpoint.")] = HERE / "tiny-qwen2-audio-mal",
    also: Annotated[
        Path | None, typer.Option(help="Folder with metadata.csv whose test split is also evaluated.")
    ] = None,
    utterances: Annotated[int, typer.Option(help="Number of utterances on which the host is trained.")] = 16_000,
    host_steps: Annotated[int, typer.Option(help="Number of training steps of the host.")] = 1300,
    conversations: Annotated[int, typer.Option(help="Number of conversations on which the memory is trained.")] = 2500,
    memory_steps: Annotated[int, typer.Option(help="Number of training steps of the memory.")] = 800,
    test_conversations: Annotated[int, typer.Option(help="Number of test conversations.")] = 200,
    seed: Annotated[int, typer.Option(help="Random seed of data and weights.")] = 0,
) -> None:
    """Train the tiny checkpoint, save it, and print its table."""
    began = time.monotonic()
    torch.manual_seed(seed)
    processor = build_processor()
    host = build_host(processor)
    train_host(host, processor, utterances=utterances, steps=host_steps, seed=seed + 1)
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        host.save_pretrained(folder)
        processor.save_pretrained(folder)
        model = AutoModelForAudioEmotion.from_base(
            folder,
            id2label=dict(enumerate(EMOTIONS)),
            memory_config=TitansMemoryConfig(
                layers=[0, 1, 2], head_dim=32, chunk_size=32, feature_map="identity", step_bound="token"
            ),
            emotion_prompt=PROMPT,
        )
    train_memory(model, processor, conversations=conversations, steps=memory_steps, seed=seed + 2)
    # The host was trained here, so there is no base to name: everything is saved.
    model.config.adapter_only = False
    model.config.base_model_name_or_path = model.config.base_fingerprint = None
    model.save_pretrained(output)
    processor.save_pretrained(output)
    leave_out_code(output)
    minutes = (time.monotonic() - began) / 60

    suites = {"synthetic": held_out(test_conversations, seed + 3)}
    if also is not None:
        suites[also.name] = from_folder(also)
    report(model, {name: evaluate(model, processor, suite) for name, suite in suites.items()}, minutes)


def leave_out_code(folder: Path) -> None:
    """Remove the copied code, since the repository contains the package itself."""
    for file in folder.glob("*.py"):
        file.unlink()
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"], config["custom_pipelines"]
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def report(model, results: dict[str, dict[str, float]], minutes: float) -> None:
    memory = model.titans_memory.num_parameters()
    print(
        f"\nTrained in {minutes:.1f} minutes; {model.num_parameters() - memory:,} parameters of the host, "
        f"{memory:,} of memory."
    )
    print(f"Best possible from the utterance alone (synthetic): {best_accuracy(baseline(), uses_history=False):.1%}\n")
    columns = list(next(iter(results.values())))
    print("| accuracy on turns 3 and later | " + " | ".join(columns) + " |")
    print("| --- |" + " --- |" * len(columns))
    for name, accuracies in results.items():
        print(f"| {name} | " + " | ".join(f"{accuracies[column]:.1%}" for column in columns) + " |")
    print(json.dumps(results))


if __name__ == "__main__":
    typer.run(main)
