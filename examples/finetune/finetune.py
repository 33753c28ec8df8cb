"""Fine-tune the memory of an audio language model, and optionally a LoRA on it, on conversations.

    accelerate launch examples/finetune/finetune.py --base-model Qwen/Qwen2-Audio-7B-Instruct \
        --memory-layers 8 16 24 --dataset iemocap --data-dir IEMOCAP_full_release --label-set 4-class --fold 5 \
        --lora-r 16 --dtype bfloat16 --checkpoint-blocks --output-dir iemocap-fold5

It ends with `OUTPUT_DIR/model`, which `AutoModelForAudioEmotion.from_pretrained` loads, and `OUTPUT_DIR/report`. All
options of transformers' `TrainingArguments` are options here; `per_device_train_batch_size` counts conversations.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import filelock
import numpy as np
from datasets import Dataset, DatasetDict
from finetune_options import DataOptions, ModelOptions, RunOptions, parse_options
from run_report import print_peak, print_start, write_recipe
from transformers import AutoProcessor, set_seed

from titans_mal import AutoModelForAudioEmotion, TitansMemoryConfig, evaluate_conversations, load_conversations
from titans_mal.cli.options import as_label_set
from titans_mal.evaluation.markdown import report_markdown
from titans_mal.processes import end_processes, process_state
from titans_mal.training import (
    ConversationTrainer,
    ConversationTrainingArguments,
    choose_trained_parts,
    last_good_checkpoint,
)


def load_model(options: ModelOptions, labels: list[str]):
    """A host with a fresh memory on `memory_layers`; without these, a model that has a memory already."""
    how = {"revision": options.base_revision, "dtype": options.dtype}
    memory = json.loads(options.memory)
    if not options.memory_layers:
        if memory:
            raise ValueError("memory needs memory_layers: a model that has a memory keeps it as it is.")
        model = AutoModelForAudioEmotion.from_pretrained(options.base_model, **how)
    else:
        model = AutoModelForAudioEmotion.from_base(
            options.base_model,
            id2label=dict(enumerate(labels)),
            memory_config=TitansMemoryConfig(layers=options.memory_layers, **memory),
            **how,
        )
    choose_trained_parts(
        model,
        lora_rank=options.lora_r,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        lora_on_audio_tower=options.lora_audio_tower,
    )
    return model


def load_data(options: DataOptions, seed: int) -> tuple[DatasetDict, Dataset, Dataset | None]:
    """All splits; what is trained on; and what evaluations on the way hear."""
    with process_state().main_process_first():
        splits = load_conversations(
            options.dataset, data_dir=options.data_dir, label_set=as_label_set(options.label_set), fold=options.fold
        )
    if options.validation_share is None and "dev" in splits:
        return splits, splits["train"], splits["dev"]
    share = 0.1 if options.validation_share is None else options.validation_share
    return splits, *hold_out(splits["train"], share, seed=seed)


def hold_out(train: Dataset, share: float, *, seed: int) -> tuple[Dataset, Dataset | None]:
    """The conversations that are trained on, and a random share of them that only evaluations on the way hear."""
    names = list(dict.fromkeys(train["conversation_id"]))
    if not 0 <= share < 1 or (share and len(names) < 2):
        raise ValueError(
            f"validation_share must be 0, or below 1 with two conversations; got {share} of {len(names)}."
        )
    count = min(max(1, round(share * len(names))), len(names) - 1) if share else 0
    held = set(np.random.default_rng(seed).choice(names, count, replace=False).tolist())
    is_held = [name in held for name in train["conversation_id"]]
    kept = train.select([row for row, is_out in enumerate(is_held) if not is_out])
    return kept, train.select([row for row, is_out in enumerate(is_held) if is_out]) if held else None


def enter(output: Path, options: RunOptions) -> str | None:
    """Check that a training may begin, or go on, in a folder; the checkpoint that it goes on from."""
    state = process_state()
    if options.processes and state.num_processes != options.processes:
        raise SystemExit(f"{options.processes} processes are expected, and there are {state.num_processes}.")
    checkpoint = last_good_checkpoint(output) if options.resume else None
    if any(output.glob("checkpoint-*")):
        if not options.resume:
            raise SystemExit(f"{output} holds a training already: give --resume, or another --output-dir.")
        if checkpoint is None:
            state.print("No checkpoint is whole: the training begins anew.")
    return checkpoint


def lock(output: Path) -> filelock.BaseFileLock:
    """Keep other trainings out of a folder, for as long as what is returned lives."""
    output.mkdir(parents=True, exist_ok=True)
    held = filelock.FileLock(output / ".lock")
    try:
        held.acquire(timeout=0)
    except filelock.Timeout:
        raise SystemExit(f"Another training is writing to {output}.") from None
    return held


def main(
    model_options: ModelOptions, data_options: DataOptions, run: RunOptions, arguments: ConversationTrainingArguments
) -> int:
    """Train, save an adapter, and evaluate it on the test split; the exit status, which tells of a signal."""
    output, state = Path(arguments.output_dir), process_state()
    checkpoint = enter(output, run)
    held = lock(output) if state.is_main_process else None  # noqa: F841 (until the end)
    set_seed(arguments.seed)
    splits, train, validation = load_data(data_options, arguments.seed)
    if validation is None:
        arguments.set_evaluate(strategy="no")
    model = load_model(model_options, train.features["emotion"].names)
    processor = AutoProcessor.from_pretrained(model_options.base_model, revision=model_options.base_revision)
    trainer = ConversationTrainer(model, arguments, processor=processor, train_dataset=train, eval_dataset=validation)
    print_start(trainer)
    trainer.train(resume_from_checkpoint=checkpoint)
    print_peak()
    if trainer.stopped.received is not None and trainer.state.global_step < trainer.total_steps:
        state.print(f"Stopped by a signal at step {trainer.state.global_step}: --resume goes on.")
        return 128 + trainer.stopped.received
    finish(trainer, processor, splits, asdict(model_options) | asdict(data_options))
    return 0


def finish(trainer: ConversationTrainer, processor, splits: DatasetDict, options: dict) -> None:
    """Save what was trained with its recipe, and evaluate it under all controls."""
    output = Path(trainer.args.output_dir)
    trainer.save_model(str(output / "model"))
    if trainer.is_world_process_zero():
        processor.save_pretrained(output / "model")
        write_recipe(trainer, options, output / "model")
    if "test" in splits:
        report = evaluate_conversations(
            trainer.accelerator.unwrap_model(trainer.model),
            processor,
            splits["test"],
            output / "report",
            name=str(output / "model"),
            train=splits["train"],
            batch_size=trainer.args.per_device_eval_batch_size,
        )
        if trainer.is_world_process_zero():
            print(report_markdown(report.content))


if __name__ == "__main__":
    status = main(*parse_options())
    end_processes()
    sys.exit(status)
