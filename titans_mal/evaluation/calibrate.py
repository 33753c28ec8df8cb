"""`calibrate`: fit a temperature for a model's probabilities on a validation split."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from ..modeling.atomic_files import replace_text
from ..modeling.json_text import read_json
from .calibration import calibration_of, fit_temperature, probabilities_of, threshold_for
from .evaluate_conversations import PROGRESS_FOLDER, check_data, score_table
from .protocol import Reading, model_of, protocol_of


@dataclass(frozen=True)
class Calibration:
    """The temperature of a model, and the logits that it was fitted on.

    Attributes:
        temperature: the fitted one.
        before: the model's previous temperature.
        logits: (turns, labels), with memory on, of turns with a label.
        references: (turns,) their labels.
    """

    temperature: float
    before: float
    logits: np.ndarray
    references: np.ndarray

    def numbers(self, temperature: float) -> dict:
        """`calibration_of` these turns at a given temperature."""
        return calibration_of(probabilities_of(self.logits, temperature), self.references)

    def threshold_for(self, accuracy: float) -> dict | None:
        """As `calibration.threshold_for`, for these turns at the fitted temperature."""
        probabilities = probabilities_of(self.logits, self.temperature)
        return threshold_for(probabilities.max(-1), probabilities.argmax(-1) == self.references, accuracy)


def calibrate(
    model, processor, dataset: Dataset, output_dir: str | Path, *, batch_size: int = 16, strict: bool = False
) -> Calibration:
    """Fit `config.emotion_temperature` on a validation split, by the log loss with memory on.

    Emotion transitions of the model, which use the temperature, are left out. The model's configuration is updated;
    use `save_pretrained`, or `save_temperature` with a folder, to save it.

    Args:
        model: a model with memory.
        processor: the processor of its host.
        dataset: a split used neither for training nor for reported numbers.
        output_dir: folder for the scores; a stopped run resumes from it.
        batch_size: turns scored at once.
        strict: raise if a turn's audio is unusable.

    Raises:
        ValueError: as `evaluate_conversations`.
    """
    dataset = dataset.with_format(None)
    check_data(model, dataset)
    reading: Reading = {"readout": "logits", "max_new_tokens": 1, "seed": 0}
    transitions, model.config.emotion_transitions = model.config.emotion_transitions, None
    if transitions is not None:
        warnings.warn(
            "The temperature, the calibration error and the threshold are those of turns without the model's emotion "
            "transitions.",
            stacklevel=2,
        )
    try:
        run = {"protocol": protocol_of(model, processor, dataset, **reading), "model": model_of(model)}
        # Logits do not depend on the temperature, so a run of a calibrated model can be resumed too.
        run["model"].pop("temperature")
        folder = Path(output_dir) / PROGRESS_FOLDER
        lines, _ = score_table(
            model, processor, dataset, folder, run, ["memory"], batch_size=batch_size, strict=strict, **reading
        )
    finally:
        model.config.emotion_transitions = transitions
    logits = {int(row): values for line in lines for row, values in line["scores"]["memory"]["logits"].items()}
    labels = dataset["emotion"][:]
    rows = [row for row, label in enumerate(labels) if label >= 0 and row in logits]
    references, answers = np.array([labels[row] for row in rows]), np.array([logits[row] for row in rows])
    before = model.config.emotion_temperature
    model.config.emotion_temperature = fit_temperature(answers, references)
    return Calibration(model.config.emotion_temperature, before, answers, references)


def save_temperature(folder: str | Path, temperature: float) -> None:
    """Write a temperature into the configuration of a model's folder; other files are unchanged.

    Raises:
        FileNotFoundError: if there is no configuration.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not the folder of a model: config.json is missing.")
    config = read_json(path, dict)
    config["emotion_temperature"] = temperature
    replace_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
