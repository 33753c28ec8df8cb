"""A complete training run: from options to a saved adapter with its recipe and report."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import filelock
import numpy as np
from datasets import Dataset, DatasetDict
from transformers import AutoProcessor, set_seed

from ..auto import AutoModelForAudioEmotion
from ..data.conversations import load_conversations
from ..data.table import DIMENSIONS
from ..evaluation.calibrate import calibrate
from ..evaluation.dimensions import targets_of
from ..evaluation.evaluate_conversations import PROGRESS_FOLDER, evaluate_conversations
from ..evaluation.protocol import model_of
from ..evaluation.report import EvaluationReport
from ..modeling.audio_emotion_mixin import AudioEmotionMixin
from ..modeling.checkpoint_saving import check_base_is_public
from ..modeling.configuration_titans_mal import DEFAULT_EMOTION_PROMPT, READOUTS, read_labels
from ..modeling.configuration_titans_memory import TitansMemoryConfig
from ..modeling.json_text import read_json
from ..processes import process_state
from .arguments import ConversationTrainingArguments
from .checkpoints import last_good_checkpoint
from .run_options import DataOptions, ModelOptions, RunOptions
from .run_report import check_same_options, print_peak, print_start, write_options, write_recipe
from .trained_parts import choose_trained_parts, freeze_before_voice_memory
from .trainer import ConversationTrainer
from .transitions import fit_emotion_transitions
from .voices import fit_voice_memory, has_voices_to_fit


# Files and folders written at the end of a training.
MODEL_FOLDER, REPORT_FOLDER = "model", "report"
# Scores of the validation split, for calibration.
CALIBRATION_FOLDER = "calibration"
# Number of copies of the training speakers for fitting a voice memory; measured in examples/real_voices.
VIRTUAL_VOICES = 4
# Part of the default prompt that asks for one of the labels.
_CHOICE = DEFAULT_EMOTION_PROMPT.partition("?")[2]


def run_training(
    model_options: ModelOptions,
    data_options: DataOptions,
    run: RunOptions,
    arguments: ConversationTrainingArguments,
    *,
    label_set=None,
) -> tuple[int, EvaluationReport | None]:
    """Train, save an adapter with its recipe, and evaluate it on the test split under all conditions.

    Args:
        label_set: label set for `load_conversations`; None: the name in `data_options`.

    Returns:
        The exit status (0, or 128 plus the number of the signal that stopped the training), and the report; None if
        the training was stopped or there is no test split.

    Raises:
        ValueError: for invalid options, a folder that holds or is used by another training, a training that is
            resumed with other options, data without a training split, and as `ConversationTrainer`.
    """
    output, state = Path(arguments.output_dir), process_state()
    options, checkpoint = asdict(model_options) | asdict(data_options), checkpoint_to_resume(output, run)
    if run.resume:
        check_same_options(options, arguments, is_longer=True)
    held = lock(output) if state.is_main_process else None
    try:
        set_seed(arguments.seed)
        splits, train, validation = load_data(data_options, arguments.seed, label_set=label_set)
        if validation is None:
            arguments.set_evaluate(strategy="no")
            if run.calibrate:
                raise ValueError("calibrate needs a validation split: give a validation_share.")
        _check_ratings(train, model_options.dimension_names, data_options.dataset)
        model = load_model(model_options, train.features["emotion"].names)
        _check_model(model, train, model_options, run, data_options.dataset)
        processor = AutoProcessor.from_pretrained(model_options.base_model, revision=model_options.base_revision)
        if has_voices_to_fit(model) and checkpoint is None:
            copies = VIRTUAL_VOICES if arguments.virtual_speakers else 0
            fit_voice_memory(model, processor, train, virtual_voices=copies)
        freeze_before_voice_memory(model)
        trainer = ConversationTrainer(
            model, arguments, processor=processor, train_dataset=train, eval_dataset=validation
        )
        if state.is_main_process:
            write_options(options, arguments)
        print_start(trainer)
        trainer.train(resume_from_checkpoint=checkpoint)
        print_peak()
        if trainer.stopped.received is not None and trainer.state.global_step < trainer.total_steps:
            state.print(f"Stopped by a signal at step {trainer.state.global_step}: use --resume to continue.")
            return 128 + trainer.stopped.received, None
        trained = trainer.accelerator.unwrap_model(trainer.model)
        _discard_results(output / CALIBRATION_FOLDER, trained)
        if model_options.emotion_transitions:
            fit_emotion_transitions(trained, train)
        if run.calibrate:
            calibrate(
                trained,
                processor,
                validation,
                output / CALIBRATION_FOLDER,
                batch_size=arguments.per_device_eval_batch_size,
            )
        return 0, _finish(trainer, processor, splits, options)
    finally:
        if held is not None:
            held.release()


def _check_ratings(train: Dataset, dimensions: Sequence[str], name: str) -> None:
    """Raise ValueError for a dimension that no training turn has, which would stay untrained."""
    targets = targets_of(train, dimensions)
    lacking = [wanted for wanted in dimensions if wanted not in targets or np.isnan(targets[wanted]).all()]
    if lacking:
        there = [column for column in DIMENSIONS if column in train.column_names]
        raise ValueError(f"No training turn of {name} has a rating of {lacking}; the data has {there}.")


def _check_model(model: AudioEmotionMixin, train: Dataset, options: ModelOptions, run: RunOptions, name: str) -> None:
    """Raise ValueError for options that the model or the training turns cannot serve."""
    wanted = {"calibrate": run.calibrate, "emotion_transitions": options.emotion_transitions}
    of_labels = [option for option, is_wanted in wanted.items() if is_wanted]
    if of_labels and not read_labels(model.config):
        raise ValueError(f"{' and '.join(of_labels)} needs a model that reads labels.")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "Nothing is trained by gradients: a memory of voices is fitted. Give emotion_readout audio or linear, a "
            "lora_r, or further memory_layers."
        )
    if model.config.takes_transcript and not any(train["transcript"]):
        raise ValueError(f"The prompt includes a transcript, but no turn of {name} has one.")


def load_model(options: ModelOptions, labels: list[str]) -> AudioEmotionMixin:
    """A host with a new memory on `memory_layers`; without them, a model that already has a memory.

    Warns if the model could not be published.
    """
    how = {"revision": options.base_revision, "dtype": options.dtype}
    if not options.memory_layers:
        model = AutoModelForAudioEmotion.from_pretrained(options.base_model, **how)
    else:
        model = AutoModelForAudioEmotion.from_base(
            options.base_model,
            id2label=dict(enumerate(labels)),
            memory_config=TitansMemoryConfig(layers=options.memory_layers, **options.memory_fields),
            # Data without labels can have ratings.
            emotion_readout=(options.emotion_readout or READOUTS[0]) if labels or not options.dimensions else None,
            emotion_dimensions=options.dimension_names,
            emotion_prompt=options.prompt if labels else options.prompt.replace(_CHOICE, ""),
            label_words=options.words,
            **how,
        )
    try:
        check_base_is_public(model.config)
    except ValueError as error:
        warnings.warn(f"The trained model cannot be published as it is: {error}", UserWarning, stacklevel=2)
    choose_trained_parts(
        model,
        lora_rank=options.lora_r,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        lora_on_audio_tower=options.lora_audio_tower,
    )
    return model


def load_data(options: DataOptions, seed: int, *, label_set=None) -> tuple[DatasetDict, Dataset, Dataset | None]:
    """All splits; the training split; and the data of evaluations during training.

    Raises:
        ValueError: for data without a training split.
    """
    wanted = options.label_set if label_set is None else label_set
    with process_state().main_process_first():
        splits = load_conversations(
            options.dataset,
            data_dir=options.data_dir,
            label_set=wanted,
            fold=options.fold,
            emobox=options.emobox,
            split_longer_than=options.split_longer_than,
            split_by=options.split_by,
            test_share=options.test_share,
            validation_share=options.validation_share or None if options.split_by else None,
            split_seed=options.split_seed,
        )
    if "train" not in splits:
        raise ValueError(
            f"{options.dataset} has no split 'train', only {list(splits)}: draw splits with split_by and "
            "test_share, or give a fold."
        )
    if options.split_by is not None and "validation" in splits:
        return splits, splits["train"], splits["validation"]
    if options.validation_share is None and "dev" in splits:
        return splits, splits["train"], splits["dev"]
    share = 0.1 if options.validation_share is None else options.validation_share
    return splits, *hold_out(splits["train"], share, seed=seed)


def hold_out(train: Dataset, share: float, *, seed: int) -> tuple[Dataset, Dataset | None]:
    """The training conversations, and a random share of them that is only used for evaluations during training.

    Raises:
        ValueError: for a share that leaves no training data.
    """
    names = list(dict.fromkeys(train["conversation_id"]))
    if not 0 <= share < 1 or (share and len(names) < 2):
        raise ValueError(
            f"validation_share must be at least 0 and below 1, and needs two conversations; got {share} for "
            f"{len(names)} conversations."
        )
    count = min(max(1, round(share * len(names))), len(names) - 1) if share else 0
    held = set(np.random.default_rng(seed).choice(names, count, replace=False).tolist())
    is_held = [name in held for name in train["conversation_id"]]
    kept = train.select([row for row, is_out in enumerate(is_held) if not is_out])
    return kept, train.select([row for row, is_out in enumerate(is_held) if is_out]) if held else None


def checkpoint_to_resume(output: Path, options: RunOptions) -> str | None:
    """Check that a training may start or resume in a folder; returns the checkpoint to resume from, or None.

    Raises:
        ValueError: if it already holds a training, or the number of processes differs from the expected one.
    """
    state = process_state()
    if options.processes and state.num_processes != options.processes:
        raise ValueError(f"--processes requires {options.processes} processes, but {state.num_processes} are running.")
    checkpoint = last_good_checkpoint(output) if options.resume else None
    is_finished = (output / MODEL_FOLDER).exists() and (output / REPORT_FOLDER / "report.json").exists()
    if any(output.glob("checkpoint-*")) or is_finished:
        if not options.resume:
            raise ValueError(
                f"{output} already holds a training: pass --resume to continue it, or choose another --output-dir."
            )
        if checkpoint is None:
            state.print("No checkpoint is complete: the training starts from the beginning.")
    return checkpoint


def _discard_results(folder: Path, model: AudioEmotionMixin) -> None:
    """Delete the scores of other weights, as of a shorter training in the same folder."""
    run, state = folder / PROGRESS_FOLDER / "run.json", process_state()
    has_run = run.is_file()
    state.wait_for_everyone()  # all processes have seen the same
    if not has_run:
        return
    is_other = read_json(run, dict)["model"]["weights"] != model_of(model)["weights"]
    state.wait_for_everyone()  # all processes have read the file
    if is_other and state.is_main_process:
        shutil.rmtree(folder)
    state.wait_for_everyone()


def lock(output: Path) -> filelock.BaseFileLock:
    """Lock a folder against other trainings, until the returned lock is released.

    Raises:
        ValueError: if another training has locked it.
    """
    output.mkdir(parents=True, exist_ok=True)
    held = filelock.FileLock(output / ".lock")
    try:
        held.acquire(timeout=0)
    except filelock.Timeout:
        raise ValueError(f"Another training is writing to {output}.") from None
    return held


def _finish(trainer: ConversationTrainer, processor, splits: DatasetDict, options: dict) -> EvaluationReport | None:
    """Save the trained model with its recipe, and evaluate it under all conditions."""
    output = Path(trainer.args.output_dir)
    trainer.save_model(str(output / MODEL_FOLDER))
    if trainer.is_world_process_zero():
        processor.save_pretrained(output / MODEL_FOLDER)
        write_recipe(trainer, options, output / MODEL_FOLDER)
    # The report of every process needs the recipe.
    trainer.accelerator.wait_for_everyone()
    if "test" not in splits:
        return None
    trained = trainer.accelerator.unwrap_model(trainer.model)
    _discard_results(output / REPORT_FOLDER, trained)
    return evaluate_conversations(
        trained,
        processor,
        splits["test"],
        output / REPORT_FOLDER,
        name=str(output / MODEL_FOLDER),
        train=splits["train"],
        batch_size=trainer.args.per_device_eval_batch_size,
    )
