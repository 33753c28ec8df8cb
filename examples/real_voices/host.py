"""The host form: Whisper's encoder and the first blocks of a small language model, with a memory of voices.

    python examples/real_voices/host.py --whisper openai/whisper-tiny.en \\
        --language-model HuggingFaceTB/SmolLM2-135M-Instruct --voices RAVDESS --fold 1 --output OUT

A Qwen2-Audio is made of the two, whose encoder and language model stay frozen. First its projector, a LoRA and a
linear head are trained on single utterances of the training speakers. Then the memory is fitted to their voices,
and LoRA and readout are trained on composed dialogues twice: with the memory and, for comparison, without. With
--sequences, the memory is also evaluated with emotion transitions. OUT gets the host, the adapters with their recipe,
and the reports. `host_folds.py` pools those of several folds.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from compose import Script, check_fold, scripts_of, voices_of_script, write_dialogues
from datasets import Dataset
from dialogues import Composer, Dialogue
from host_folds import print_reports
from host_parts import make_host, projector_of, whiten_projector
from options_file import check_options, fingerprints
from torch.nn import functional as F
from transformers import (
    PreTrainedModel,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
)
from voices import Voices

from titans_mal import (
    AutoModelForAudioEmotion,
    ConversationTrainer,
    ConversationTrainingArguments,
    TitansMemoryConfig,
    choose_trained_parts,
    evaluate_conversations,
    load_conversations,
)
from titans_mal.cli.messages import errors_in_one_line
from titans_mal.data.audio import load_turn
from titans_mal.modeling.turn_rules import warn_of_cut_turns
from titans_mal.modeling.turn_scoring import TurnScorer
from titans_mal.training import (
    AudioTowerCache,
    fit_emotion_transitions,
    fit_voice_memory,
    freeze_before_voice_memory,
)
from titans_mal.training.tables import longer_turns
from titans_mal.training_recipe import LICENCES, RECIPE_FILE


LORA_RANK = 8


def from_host(folder: Path, labels: list[str], scope: str, readout: str) -> PreTrainedModel:
    """The host with a memory of voices on its first block, a readout ("audio" or "linear") and a LoRA."""
    model = AutoModelForAudioEmotion.from_base(
        folder,
        id2label=dict(enumerate(labels)),
        emotion_readout=readout,
        memory_config=TitansMemoryConfig(layers=[0], voice_layers=[0], scope=scope),
        emotion_prompt="Emotion?",
    )
    choose_trained_parts(model, lora_rank=LORA_RANK)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def train_on_utterances(
    model: PreTrainedModel, processor, table: Dataset, *, steps: int, seed: int = 0, batch_size: int = 24,
    learning_rate: float = 1e-3,
) -> None:  # fmt: skip
    """Train projector, LoRA and readout on single turns; the memory has no part in it."""
    window = model.max_turn_seconds(processor)
    warn_of_cut_turns(longer_turns(table, window), window)
    whiten_projector(model, processor, table, seed=seed)
    model.train()
    projector = projector_of(model)
    projector.requires_grad_(True)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    scorer, order = TurnScorer(model, processor), list[int]()
    for step in range(steps):
        if len(order) < batch_size:
            order = torch.randperm(len(table), generator=generator).tolist()
        rows = [table[order.pop()] for _ in range(batch_size)]
        inputs, _ = scorer.inputs([load_turn(row["audio"], scorer.sampling_rate) for row in rows])
        labels = torch.tensor([row["emotion"] for row in rows], device=model.device)
        with model.disable_memory():
            logits = model(**inputs, logits_to_keep=1).emotion_logits
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            print(f"utterances, step {step}: loss {loss.item():.3f}", flush=True)
    projector.requires_grad_(False)
    model.eval()


def save_trained(model: PreTrainedModel, untrained: Path, processor, host: Path) -> None:
    """Save the host with its trained projector and, beside it, LoRA and readout, which both trainings start from."""
    weights = model.state_dict()
    trained = Qwen2AudioForConditionalGeneration.from_pretrained(untrained)
    names = {key for key in trained.state_dict() if "multi_modal_projector" in key}
    trained.load_state_dict({key: weights[key] for key in names}, strict=False)
    trained.save_pretrained(host)
    processor.save_pretrained(host)
    torch.save({k: v for k, v in weights.items() if ".lora_" in k or "emotion_head" in k}, host / "first.pt")


def train_on_dialogues(
    model, processor, table: Dataset, *, steps: int, output: Path, with_memory: bool, seed: int = 0
) -> None:
    """Train the readout and the LoRA after the first block on dialogues, with the memory or without."""
    freeze_before_voice_memory(model)
    arguments = ConversationTrainingArguments(
        output_dir=str(output), window=16, per_device_train_batch_size=2, max_steps=steps, learning_rate=3e-4,
        lr_scheduler_type="cosine", class_weights="balanced", logging_steps=10, save_strategy="no", report_to="none",
        disable_tqdm=True, seed=seed,
    )  # fmt: skip
    trainer = ConversationTrainer(model, arguments, processor=processor, train_dataset=table)
    if with_memory:
        trainer.train()
        return
    with model.disable_memory():
        trainer.train()


def write_data(
    voices: Voices, fold: int, sequences: list[Path], output: Path, *, train: int, test: int, copies: int
) -> tuple[Path, Path]:
    """Folders of the training speakers' utterances, each by itself, and of composed dialogues."""
    labels = voices.labels
    of_training = [name for name in voices.speakers if name not in voices.folds[fold - 1]]
    voices = voices.in_other_voices(of_training, copies)
    speakers, emotions = voices.arrays(labels)
    tested = [voices.speakers.index(name) for name in voices.folds[fold - 1]]
    rest = [number for number in range(len(voices.speakers)) if number not in tested]
    scripts = scripts_of(sequences, labels, required=("train", "test")) if sequences else {}
    given = lambda split: scripts[split] if sequences else None  # noqa: E731
    drawn = {
        "train": Composer(speakers, emotions, rest, seed=(fold, 0)).draw(given("train"), train)[0],
        "test": Composer(speakers, emotions, tested, seed=(fold, 1)).draw(given("test"), test)[0],
    }
    folders = output / "utterances", output / "dialogues"
    single = [
        ("train", Dialogue(np.array([index]), np.array([0])))
        for index, speaker in enumerate(speakers)
        if speaker in rest
    ]
    dialogues = [(split, dialogue) for split, some in drawn.items() for dialogue in some]
    for folder, content in zip(folders, (single, dialogues)):
        # The table is written last, so that an interrupted run writes it again.
        if not (folder / "metadata.csv").exists():
            write_dialogues(voices, content, labels, folder)
    return folders


def write_recipe(folder: Path, corpus: Voices, **fields: int) -> None:
    """Record the corpus, its licence and other fields beside a model, for `titans-mal publish`."""
    recipe = {"dataset": corpus.name, **fields, LICENCES: {corpus.name: corpus.licence or "not stated"}}
    (folder / RECIPE_FILE).write_text(json.dumps(recipe, indent=2) + "\n")


def main(
    whisper: Annotated[str, typer.Option(help="Folder or Hub repo of a Whisper checkpoint.")],
    language_model: Annotated[
        str, typer.Option(help="Folder or Hub repo of a language model with the architecture of Llama.")
    ],
    voices: Annotated[
        Path,
        typer.Option(
            help="Folder of RAVDESS or EmoDB, or with a metadata.csv of the columns file_name, speaker, emotion."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the host, the data, the adapters and the reports.")],
    fold: Annotated[int, typer.Option(help="Number of the fold whose speakers are tested, counted from 1.")] = 1,
    sequences: Annotated[
        list[Path] | None,
        typer.Option(
            help="CSV of MELD, whose emotion sequences the dialogues follow. May be repeated. Default: random "
            "emotions."
        ),
    ] = None,
    blocks: Annotated[int, typer.Option(help="Number of blocks of the language model to keep.")] = 2,
    encoder_blocks: Annotated[
        int | None, typer.Option(min=1, help="Number of blocks of Whisper's encoder to keep. Default: all.")
    ] = None,
    utterance_steps: Annotated[
        int, typer.Option(help="Number of training steps on single utterances, 24 per step.")
    ] = 200,
    dialogue_steps: Annotated[int, typer.Option(help="Number of training steps on dialogues, 2 per step.")] = 100,
    train_dialogues: Annotated[int, typer.Option(help="Number of dialogues composed for training.")] = 200,
    test_dialogues: Annotated[int, typer.Option(help="Number of dialogues composed for the test.")] = 200,
    virtual_voices: Annotated[
        int, typer.Option(help="Number of copies of each training speaker in another voice.")
    ] = 2,
    scope: Annotated[
        str, typer.Option(help="Scope of the memory: conversation, or speaker (the speaker of each turn is given).")
    ] = "conversation",
    readout: Annotated[
        str, typer.Option(help="Head on the mean of the audio tokens (audio) or on the last position (linear).")
    ] = "audio",
    seed: Annotated[
        int,
        typer.Option(
            help="Random seed of the projector, and of the order of utterances and dialogues in training. Dialogues, "
            "and the first LoRA and readout, are the same for every seed."
        ),
    ] = 0,
    resamples: Annotated[int, typer.Option(help="Number of bootstrap resamples of the reports.")] = 1000,
) -> None:
    """Make the host, train it with and without memory, and write the reports."""
    corpus = voices_of_script(voices, Script.SEQUENCES if sequences else Script.RANDOM)
    made_with = {
        "whisper": whisper, "language_model": language_model, "voices": voices, "fold": fold,
        "sequences": sequences, "blocks": blocks, "encoder_blocks": encoder_blocks,
        "utterance_steps": utterance_steps, "dialogue_steps": dialogue_steps, "train_dialogues": train_dialogues,
        "test_dialogues": test_dialogues, "virtual_voices": virtual_voices, "scope": scope, "readout": readout,
        "seed": seed,
    }  # fmt: skip
    check_fold(corpus, fold)
    print(corpus)
    check_options(output / "host_options.json", made_with | fingerprints(corpus, sequences=sequences or []))
    utterances, dialogues = write_data(
        corpus, fold, sequences or [], output, train=train_dialogues, test=test_dialogues, copies=virtual_voices
    )
    singles = load_conversations(utterances, label_set=corpus.labels)["train"]
    data = load_conversations(dialogues, label_set=corpus.labels)
    make = partial(from_host, scope=scope, readout=readout)
    host = output / "host"
    if not (host / "config.json").exists():
        untrained = output / "untrained_host"
        make_host(whisper, language_model, blocks, untrained, encoder_blocks=encoder_blocks)
        first = make(untrained, corpus.labels)
        processor = Qwen2AudioProcessor.from_pretrained(untrained)
        with AudioTowerCache(first, output / "tower"):
            train_on_utterances(first, processor, singles, steps=utterance_steps, seed=seed)
        save_trained(first, untrained, processor, host)
    processor, reports = Qwen2AudioProcessor.from_pretrained(host), {}
    evaluated = partial(evaluate_conversations, dataset=data["test"], train=data["train"], resamples=resamples)
    for name in ("memory", "plain"):
        model = make(host, corpus.labels)
        model.load_state_dict(torch.load(host / "first.pt", weights_only=True), strict=False)
        with AudioTowerCache(model, output / "tower"):
            fit_voice_memory(model, processor, singles)
            train_on_dialogues(
                model,
                processor,
                data["train"],
                steps=dialogue_steps,
                output=output / name,
                with_memory=name == "memory",
                seed=seed,
            )
            model.save_pretrained(output / name / "adapter")
            processor.save_pretrained(output / name / "adapter")
            write_recipe(output / name / "adapter", corpus, fold=fold)
            conditions = ("memory", "memory_off", "reset", "other_state") if name == "memory" else ("memory_off",)
            folder = output / name / "report"
            reports[name] = evaluated(model, processor, output_dir=folder, conditions=conditions, name=name)
            if name == "memory" and sequences:
                fit_emotion_transitions(model, data["train"])
                folder, conditions = output / "with_transitions" / "report", ("memory", "other_state")
                reports["with_transitions"] = evaluated(
                    model, processor, output_dir=folder, conditions=conditions, name="with_transitions"
                )
    print_reports(reports)


if __name__ == "__main__":
    typer.run(errors_in_one_line()(main))
