"""Fine-tune the memory of an audio language model, and optionally a LoRA on it, on conversations.

    accelerate launch examples/finetune/finetune.py --base-model Qwen/Qwen2-Audio-7B-Instruct --memory-layers 8 \
        --memory-layers 16 --memory-layers 24 --dataset iemocap --data-dir IEMOCAP_full_release --label-set 4-class \
        --fold 5 --lora-r 16 --dtype bfloat16 --gradient-checkpointing --output iemocap-fold5

It ends with `OUTPUT/model`, which `AutoModelForAudioEmotion.from_pretrained` loads, and `OUTPUT/report`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import filelock
import numpy as np
import typer
from datasets import Dataset
from run_report import print_peak, print_start, write_recipe
from transformers import AutoProcessor, set_seed

from titans_mal import AutoModelForAudioEmotion, TitansMemoryConfig, evaluate_conversations, load_conversations
from titans_mal.cli.options import as_label_set
from titans_mal.evaluation.markdown import report_markdown
from titans_mal.processes import process_state
from titans_mal.training import (
    ConversationTrainer,
    ConversationTrainingArguments,
    choose_trained_parts,
    last_good_checkpoint,
)


def load_model(base_model: str, revision: str | None, layers: list[int], memory: dict, labels: list[str], **how):
    """A host with a fresh memory on `layers`; without layers, a model that has a memory already."""
    if not layers:
        if memory:
            raise ValueError("memory needs memory_layers: a model that has a memory keeps it as it is.")
        return AutoModelForAudioEmotion.from_pretrained(base_model, revision=revision, **how)
    return AutoModelForAudioEmotion.from_base(
        base_model,
        revision=revision,
        id2label=dict(enumerate(labels)),
        memory_config=TitansMemoryConfig(layers=layers, **memory),
        **how,
    )


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
    base_model: Annotated[str, typer.Option(help="A host, or a model with memory; a folder or a Hub repo.")],
    dataset: Annotated[str, typer.Option(help="A corpus, a folder with metadata.csv, or a Hub dataset.")],
    output: Annotated[Path, typer.Option(help="Gets checkpoints, evaluations, the model and its report.")],
    base_revision: Annotated[str | None, typer.Option(help="Commit of the base model.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where your copy of a corpus lies.")] = None,
    label_set: Annotated[
        str | None,
        typer.Option(help="Of the corpus (4-class), labels (sad,happy), or a mapping (excited=happy,sad=sad)."),
    ] = None,
    fold: Annotated[int | None, typer.Option(help="The fold that is tested.")] = None,
    validation_share: Annotated[
        float | None, typer.Option(help="Of the training, for evaluations on the way. Default: the dev split, or 0.1.")
    ] = None,
    memory_layers: Annotated[list[int] | None, typer.Option(help="Blocks that get a fresh memory; repeat it.")] = None,
    memory: Annotated[str, typer.Option(help="Other fields of TitansMemoryConfig, as '{\"head_dim\": 32}'.")] = "{}",
    lora_r: Annotated[int | None, typer.Option(help="Rank of a LoRA on the language model.")] = None,
    lora_alpha: Annotated[
        float | None, typer.Option(help="Its scale times its rank; default: twice the rank.")
    ] = None,
    lora_dropout: float = 0.0,
    lora_audio_tower: Annotated[bool, typer.Option("--lora-audio-tower", help="A LoRA there too.")] = False,
    window: Annotated[int, typer.Option(help="Turns of a conversation in a step.")] = 8,
    lanes: Annotated[int, typer.Option(help="Conversations that a process hears at once.")] = 4,
    accumulation: Annotated[int, typer.Option(help="Batches of an optimiser step, for each process.")] = 1,
    epochs: float = 3.0,
    max_steps: Annotated[int, typer.Option(help="In place of epochs.")] = -1,
    learning_rate: float = 1e-3,
    warmup_steps: Annotated[float, typer.Option(help="Steps, or below 1 their share.")] = 0.05,
    class_weights: Annotated[str, typer.Option(help="none or balanced.")] = "none",
    soft_labels: Annotated[bool, typer.Option("--soft-labels", help="From emotion_probabilities.")] = False,
    dtype: Annotated[str, typer.Option(help="Of the host: auto, float32, bfloat16.")] = "auto",
    bf16: Annotated[bool, typer.Option("--bf16", help="Autocast; of no use for a host in bfloat16.")] = False,
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing")] = False,
    save_steps: int = 200,
    logging_steps: int = 10,
    workers: Annotated[int, typer.Option(help="Processes that decode sound, for each process.")] = 0,
    processes: Annotated[int, typer.Option(help="How many processes must be there; 0: as many as were launched.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint that is whole.")] = False,
    report_to: Annotated[str, typer.Option(help="Where Trainer logs: none, tensorboard, wandb, ...")] = "none",
    seed: int = 0,
) -> None:
    """Train, save an adapter, and evaluate it on the test split."""
    recipe = {name: value for name, value in locals().items() if name not in ("output", "resume", "data_dir")}
    state = process_state()
    if processes and state.num_processes != processes:
        raise SystemExit(f"{processes} processes are expected, and there are {state.num_processes}: see the README.")
    checkpoint = last_good_checkpoint(output) if resume else None
    if any(output.glob("checkpoint-*")):
        if not resume:
            raise SystemExit(f"{output} holds a training already: give --resume, or another --output.")
        if checkpoint is None:
            state.print("No checkpoint is whole: the training begins anew.")
    held = lock(output) if state.is_main_process else None
    set_seed(seed)
    with state.main_process_first():
        splits = load_conversations(dataset, data_dir=data_dir, label_set=as_label_set(label_set), fold=fold)
    if validation_share is None and "dev" in splits:
        train, validation = splits["train"], splits["dev"]
    else:
        train, validation = hold_out(splits["train"], 0.1 if validation_share is None else validation_share, seed=seed)
    labels = train.features["emotion"].names
    model = load_model(base_model, base_revision, memory_layers or [], json.loads(memory), labels, dtype=dtype)
    processor = AutoProcessor.from_pretrained(base_model, revision=base_revision)
    choose_trained_parts(
        model,
        lora_rank=lora_r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        lora_on_audio_tower=lora_audio_tower,
    )
    trainer = ConversationTrainer(
        model,
        ConversationTrainingArguments(
            output_dir=str(output),
            window=window,
            per_device_train_batch_size=lanes,
            per_device_eval_batch_size=lanes * window,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=epochs,
            max_steps=max_steps,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=warmup_steps,
            class_weights=class_weights,
            soft_labels=soft_labels,
            bf16=bf16,
            checkpoint_blocks=gradient_checkpointing,
            eval_strategy="no" if validation is None else "epoch",
            save_steps=save_steps,
            save_total_limit=3,
            logging_steps=logging_steps,
            dataloader_num_workers=workers,
            report_to=report_to,
            seed=seed,
        ),
        processor=processor,
        train_dataset=train,
        eval_dataset=validation,
    )
    print_start(trainer)
    trainer.train(resume_from_checkpoint=checkpoint)
    print_peak()
    if trainer.stopped.received is not None and trainer.state.global_step < trainer.total_steps:
        state.print(f"Stopped by a signal at step {trainer.state.global_step}: --resume goes on.")
        sys.exit(128 + trainer.stopped.received)
    finish(trainer, processor, splits, output, recipe)


def finish(trainer: ConversationTrainer, processor, splits, output: Path, recipe: dict) -> None:
    """Save what was trained with its recipe, and evaluate it under all controls."""
    trainer.save_model(str(output / "model"))
    if trainer.is_world_process_zero():
        processor.save_pretrained(output / "model")
        write_recipe(trainer, recipe, output / "model")
    if "test" in splits:
        report = evaluate_conversations(
            trainer.accelerator.unwrap_model(trainer.model),
            processor,
            splits["test"],
            output / "report",
            train=splits["train"],
            batch_size=trainer.args.per_device_eval_batch_size,
        )
        if trainer.is_world_process_zero():
            print(report_markdown(report.content))


if __name__ == "__main__":
    typer.run(main)
