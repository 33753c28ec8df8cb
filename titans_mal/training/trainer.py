"""`ConversationTrainer`: transformers' Trainer for windows of conversations, carrying the memory between steps."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from functools import cached_property

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from ..data.problems import Problem
from ..data.table import SOFT_LABELS
from ..evaluation.evaluate_conversations import check_data
from ..modeling.audio_emotion_mixin import AudioEmotionMixin
from ..modeling.configuration_titans_mal import read_labels
from ..modeling.emotion_dimensions import concordance_loss
from ..modeling.turn_rules import warn_of_cut_turns
from .arguments import ConversationTrainingArguments
from .audio_cache import AudioTowerCache
from .interruptions import SkippedSteps, StopOnSignal, any_process
from .lane_states import LaneStates
from .lanes import LaneSampler
from .losses import balanced_class_weights, summed_loss
from .options import check_own_loss, check_trainer_arguments
from .tables import check_soft_labels, evaluation_sets, longer_turns
from .trained_parts import check_is_saved_whole
from .trainer_checkpoints import CheckpointingTrainer
from .trainer_evaluation import EvaluatingTrainer
from .windows import IS_NOISE, PROBLEMS, VALUES, TurnDataset, WindowCollator


class ConversationTrainer(EvaluatingTrainer, CheckpointingTrainer):
    """Trains a model on conversations, with all turns of a window in one forward pass.

    Frozen parameters stay frozen: use `choose_trained_parts` to choose what is trained.

    Args:
        model: a model with memory.
        args: arguments of the training.
        processor: the processor of the host.
        train_dataset, eval_dataset: splits of `load_conversations`; several evaluation sets as a dict by name.
        kwargs: arguments for `transformers.Trainer`, except those in `options.REJECTED_ARGUMENTS`. A
            `compute_loss_func` receives the outputs, the emotion labels and `num_items_in_batch`, the scored turns of
            the whole step.

    Attributes:
        stopped: whether, and by which signal, the training was stopped.
        problems: unusable turns in this process's batches so far.

    Raises:
        ValueError: for unsupported arguments; for data with labels unknown to the model, turns out of order, too many
            speakers for the memory, no scored turn, or no column `emotion_probabilities` for soft labels; and for a
            model without trained parameters, or of which saving would lose a part.
    """

    args: ConversationTrainingArguments
    model: AudioEmotionMixin
    train_dataset: TurnDataset

    def __init__(
        self,
        model,
        args: ConversationTrainingArguments,
        *,
        processor,
        train_dataset: Dataset,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        **kwargs,
    ):
        check_trainer_arguments(kwargs)
        if not isinstance(args, ConversationTrainingArguments):
            raise TypeError(f"args must be ConversationTrainingArguments, got {type(args).__name__}.")
        if processor is None:
            raise TypeError("The training needs the processor of the model's host, got None.")
        if kwargs.get("compute_loss_func") is not None:
            check_own_loss(args)
        check_is_saved_whole(model)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError("The model has no trained parameters: call choose_trained_parts(model) first.")
        check_data(model, train_dataset)
        for table in evaluation_sets(eval_dataset).values():
            check_data(model, table)
        self._audio_cache = AudioTowerCache(model, args.cache_audio) if args.cache_audio else contextlib.nullcontext()
        self._processor = processor
        known = read_labels(model.config)
        self._label_columns = (
            [known.index(label) for label in train_dataset.features["emotion"].names] if known else []
        )
        if args.soft_labels:
            check_soft_labels(train_dataset)
        turns = TurnDataset(
            train_dataset,
            sampling_rate=model.audio_extractor(processor).sampling_rate,
            label_columns=self._label_columns,
            soft_labels=args.soft_labels,
            dimensions=model.config.emotion_dimensions,
            virtual_speakers=args.virtual_speakers,
            seed=args.seed,
        )
        collator = WindowCollator(model, processor, self._label_columns)
        window = model.max_turn_seconds(processor)
        warn_of_cut_turns(longer_turns(train_dataset, window), window)
        if model.config.memory_config.read == "history" and max(map(len, turns.conversations)) < 2:
            raise ValueError(
                "Every conversation has a single turn, so the memory has no history to learn from: use "
                "conversations of two turns or more."
            )
        super().__init__(model, args, collator, train_dataset=turns, eval_dataset=eval_dataset, **kwargs)
        # The loss is divided by the scored turns of the whole step, and must not be divided by accumulation steps.
        self.model_accepts_loss_kwargs = True
        self._class_weights = None
        if args.class_weights == "balanced":
            labels = [self._label_columns[label] if label >= 0 else -1 for label in train_dataset["emotion"]]
            self._class_weights = balanced_class_weights(labels, len(model.config.labels))
        self._lane_states = LaneStates(model.config, args.per_device_train_batch_size)
        self._logged_step = 0
        self.problems: list[Problem] = []
        self.stopped = StopOnSignal()
        for callback in (self.stopped, SkippedSteps(), _SetEpoch(self)):
            self.add_callback(callback)

    @property
    def skipped(self) -> SkippedSteps:
        """Counts the skipped steps."""
        # Trainer may replace the callback when it restores callbacks from a checkpoint.
        return next(callback for callback in self.callback_handler.callbacks if isinstance(callback, SkippedSteps))

    @cached_property
    def lane_sampler(self) -> LaneSampler:
        """Determines the turns of each step of this process."""
        return LaneSampler(
            self.train_dataset.conversations,
            window=self.args.window,
            lanes=self.args.per_device_train_batch_size,
            batches=self.args.gradient_accumulation_steps * self.args.world_size,
            process_index=self.args.process_index,
            num_processes=self.args.world_size,
            seed=self.args.data_seed if self.args.data_seed is not None else self.args.seed,
        )

    def get_train_dataloader(self) -> DataLoader:
        """The batches of this process, without accelerate's own distribution."""
        return DataLoader(
            self.train_dataset,
            batch_sampler=self.lane_sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
            pin_memory=self.args.dataloader_pin_memory and torch.accelerator.is_available(),
            # A separate generator, so that creating an iterator does not change the random state of a resumed
            # training.
            generator=torch.Generator(),
        )

    def training_step(self, model, inputs: dict, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Forward and backward pass of a batch; carries the lanes' memory, detached from the graph."""
        inputs = dict(inputs)
        self._set_aside(inputs.pop(PROBLEMS, ()))
        is_noise = inputs.pop(IS_NOISE, False)
        cache = self._lane_states.of_batch(inputs["conversation_ids"].tolist(), inputs.pop("begins").tolist())
        before = cache.snapshot()
        # Always run backward, since other processes wait for this one's gradients.
        loss = super().training_step(model, {**inputs, "memory_cache": cache}, num_items_in_batch)
        if any_process(not bool(torch.isfinite(loss))):
            cache.restore(before)
            self.skipped.mark()
            return torch.full_like(loss, torch.nan)
        cache.detach_()
        if is_noise:
            cache.restore(before)
        return loss

    def _set_aside(self, problems: Sequence[Problem]) -> None:
        """Record unusable turns, with one warning for the first; training continues without them."""
        if problems and not self.problems:
            warnings.warn(
                f"Training continues without turns that are unusable; the first is {problems[0]}. `trainer.problems` "
                "lists them, and load_conversations(..., decode=True) drops them beforehand.",
                stacklevel=2,
            )
        self.problems += [problem for problem in problems if problem not in self.problems]

    def compute_loss(self, model, inputs: dict, return_outputs: bool = False, num_items_in_batch=None):
        """The summed loss of the scored turns, divided by their number in the whole step over all processes.

        For a model with `emotion_dimensions`, 1 - CCC of each batch is added, weighted by its turns with values.
        """
        labels, probabilities = inputs.pop("emotion_labels"), inputs.pop(SOFT_LABELS, None)
        values = inputs.pop(VALUES, None)
        output = model(**inputs, logits_to_keep=1)
        if self.compute_loss_func is not None:
            loss = self.compute_loss_func(output, labels, num_items_in_batch=num_items_in_batch)
        else:
            loss = 0.0
            if output.emotion_logits is not None:
                loss = summed_loss(
                    output.emotion_logits,
                    labels,
                    probabilities=probabilities,
                    class_weights=self._class_weights,
                    label_smoothing=self.args.label_smoothing_factor,
                )
                loss = loss / num_items_in_batch
            if values is not None:
                share = _with_values(values).to(self._valued_turns.device) / self._valued_turns
                loss = loss + share * concordance_loss(output.emotion_values, values)
        # Compensates for averaging gradients over processes.
        loss = loss * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        scored = sum((batch["emotion_labels"] >= 0).sum() for batch in batch_samples).to(device)
        valued = sum(_with_values(batch[VALUES]) for batch in batch_samples if VALUES in batch)
        valued = torch.as_tensor(valued, device=device)
        if self.args.world_size > 1:
            scored, valued = (self.accelerator.gather(count).sum() for count in (scored, valued))
        self._valued_turns = valued.clamp(min=1)
        return scored.clamp(min=1)

    def push_to_hub(self, *args, **kwargs):
        """Not supported: use `titans-mal publish` or `publish_folder`, which upload all needed files.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "A trainer's push_to_hub would upload checkpoints and no card: use save_model(folder), then "
            "`titans-mal publish FOLDER ORG/NAME`."
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As Trainer's; also logs the number of skipped steps, and no loss if all steps were skipped."""
        if "loss" in logs:
            if self.skipped.unlogged >= self.state.global_step - self._logged_step:
                logs = {name: value for name, value in logs.items() if name != "loss"}
            self.skipped.unlogged, self._logged_step = 0, self.state.global_step
        super().log(logs | {"skipped_steps": self.skipped.count} if self.skipped.count else logs, start_time)


def _with_values(values: Tensor) -> Tensor:
    """Number of turns with a value for any dimension."""
    return (~values.isnan()).any(-1).sum()


class _SetEpoch(TrainerCallback):
    """Sets the sampler's epoch, also in a resumed training."""

    def __init__(self, trainer: ConversationTrainer):
        self._sampler = trainer.lane_sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._sampler.epoch = state.global_step // self._sampler.steps_per_epoch
