"""Evaluation of whole conversations during a training."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import Trainer

from ..evaluation.evaluate_conversations import evaluate_conversations
from ..evaluation.report import EvaluationReport
from .arguments import ConversationTrainingArguments
from .tables import evaluation_sets


# Subfolder of the training's folder for reports.
EVALUATION_FOLDER = "evaluation"
# Conditions of an evaluation during training; the final one has all conditions.
_EVALUATED = ("memory", "memory_off")


class EvaluatingTrainer(Trainer):
    """A Trainer whose evaluation scores whole conversations, with memory on and off, and writes reports."""

    args: ConversationTrainingArguments
    # Set by `ConversationTrainer`.
    _processor: Any
    _audio_cache: AbstractContextManager

    def evaluate(
        self,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        ignore_keys: Sequence[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Score whole conversations with memory on and off, and write a report into the training's folder.

        Args:
            eval_dataset: a table, or several by name (part of the names of their metrics); None: the trainer's.
            ignore_keys: ignored, for compatibility.
            metric_key_prefix: of the metrics' names; if it is not "eval", also the report's folder.

        Returns:
            `eval_ua`, `eval_wa` (memory on) and `eval_ua_memory_off` (memory off); for a model with
            `emotion_dimensions` also their mean concordance, `eval_ccc` and `eval_ccc_memory_off`; for several tables
            `eval_NAME_ua` and so on.
        """
        tables = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(tables, dict):
            prefixes = {f"{metric_key_prefix}_{name}": table for name, table in evaluation_sets(tables).items()}
            several = (self.evaluate(table, ignore_keys, prefix) for prefix, table in prefixes.items())
            return {name: value for metrics in several for name, value in metrics.items()}
        if self.optimizer is not None and hasattr(self.optimizer, "eval"):
            self.optimizer.eval()  # schedule-free optimisers evaluate other weights than they train
        report = self._write_report(tables, "" if metric_key_prefix == "eval" else metric_key_prefix)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in _metrics_of(report).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _write_report(self, table: Dataset, name: str) -> EvaluationReport:
        """Evaluate one table at this step, in its own folder."""
        folder = Path(self.args.output_dir) / EVALUATION_FOLDER / name / f"step-{self.state.global_step}"
        if self.is_world_process_zero():
            # From a run that was interrupted after this evaluation.
            shutil.rmtree(folder, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        with self._audio_cache:
            return evaluate_conversations(
                self.accelerator.unwrap_model(self.model),
                self._processor,
                table,
                folder,
                conditions=_EVALUATED,
                batch_size=self.args.per_device_eval_batch_size,
                resamples=self.args.evaluation_resamples,
            )

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix: str = "test"):
        """Not supported: use `evaluate(test_dataset, metric_key_prefix="test")`, which writes a report.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "predict would return tensors without their conversations: evaluate(test_dataset, "
            'metric_key_prefix="test") writes a report, and EvaluationReport.load(folder).predictions has every turn.'
        )


def _metrics_of(report: EvaluationReport) -> dict[str, float]:
    """The metrics that are logged from a report during training."""
    metrics = {}
    for condition, suffix in zip(_EVALUATED, ("", "_memory_off")):
        if condition in report.conditions:
            metrics[f"ua{suffix}"] = report.conditions[condition]["metrics"]["ua"]["value"]
        if condition in report.content["dimensions"]:
            found = report.content["dimensions"][condition].values()
            metrics[f"ccc{suffix}"] = sum(result["value"] for result in found) / len(found)
    if "memory" in report.conditions:
        metrics["wa"] = report.conditions["memory"]["metrics"]["wa"]["value"]
    return metrics
