"""Calibration of probabilities: expected calibration error, temperature, and threshold for a given accuracy."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax


# Number of confidence bins of equal width (Guo et al. 2017 use 15).
BINS = 10
# Search range of the temperature.
TEMPERATURES = (0.05, 20.0)


def calibration_of(probabilities: np.ndarray, references: np.ndarray) -> dict:
    """The expected calibration error (Guo et al. 2017, arXiv 1706.04599, equation 3) and its components.

    Args:
        probabilities: (turns, labels) of scored turns.
        references: (turns,) the true labels.

    Returns:
        `ece`: mean over turns of |accuracy - confidence| of their bin. `log_loss`: mean of -log of the true label's
        probability. `bins`: for each non-empty range of confidence, `from`, `to`, `turns`, `confidence` (mean) and
        `accuracy`. `coverage`: as `coverage_curve`.
    """
    confidence, right = probabilities.max(-1), probabilities.argmax(-1) == references
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = []
    for place in np.unique(places):
        chosen = places == place
        bins.append(
            {
                "from": place / BINS,
                "to": (place + 1) / BINS,
                "turns": int(chosen.sum()),
                "confidence": float(confidence[chosen].mean()),
                "accuracy": float(right[chosen].mean()),
            }
        )
    error = sum(found["turns"] * abs(found["accuracy"] - found["confidence"]) for found in bins) / len(references)
    given = probabilities[np.arange(len(references)), references]
    return {
        "ece": float(error),
        "log_loss": float(-np.log(np.maximum(given, np.finfo(float).tiny)).mean()),
        "bins": bins,
        "coverage": coverage_curve(confidence, right),
    }


def coverage_curve(confidence: np.ndarray, right: np.ndarray, *, points: int = 50) -> list[dict]:
    """Coverage and accuracy if turns below a confidence threshold are labelled "unknown".

    Args:
        confidence: (turns,), the highest probability.
        right: (turns,) bool.
        points: maximal number of points, at evenly spaced coverages.

    Returns:
        A list, from all turns to the most confident, of `threshold` (turns of at least that confidence are answered),
        `coverage` (their share) and `accuracy` (among them).
    """
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence, accuracies = confidence[order], np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    # Turns of equal confidence are answered together.
    lasts = np.flatnonzero(np.append(sorted_confidence[:-1] != sorted_confidence[1:], True))
    chosen = lasts[np.unique(np.linspace(0, len(lasts) - 1, min(points, len(lasts))).round().astype(int))]
    return [
        {
            "threshold": float(sorted_confidence[last]),
            "coverage": float((last + 1) / len(order)),
            "accuracy": float(accuracies[last]),
        }
        for last in chosen[::-1]
    ]


def threshold_for(confidence: np.ndarray, right: np.ndarray, accuracy: float) -> dict | None:
    """The point of the full `coverage_curve` with the most coverage whose accuracy is at least `accuracy`.

    Returns:
        Its `threshold`, `coverage` and `accuracy`; None if no point reaches it.

    Raises:
        ValueError: for an accuracy outside of (0, 1].
    """
    if not 0 < accuracy <= 1:
        raise ValueError(f"accuracy must be above 0 and at most 1, got {accuracy!r}.")
    curve = coverage_curve(confidence, right, points=len(confidence))
    return next((point for point in curve if point["accuracy"] >= accuracy), None)


def fit_temperature(logits: np.ndarray, references: np.ndarray) -> float:
    """The temperature T that minimises the mean log loss of softmax(logits / T) (Guo et al. 2017, section 4.2).

    Args:
        logits: (turns, labels) of a validation split.
        references: (turns,) the true labels; turns below 0 are not scored.

    Returns:
        T within `TEMPERATURES`. If all answers are right there is no minimum, and the lowest value is returned.

    Raises:
        ValueError: if no turn is scored.
    """
    scored = references >= 0
    if not scored.any():
        raise ValueError("No turn is scored: a temperature needs turns with labels.")
    logits, references = logits[scored], references[scored]
    rows = np.arange(len(references))

    def loss(log_temperature: float) -> float:
        return -log_softmax(logits / np.exp(log_temperature), axis=-1)[rows, references].mean()

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def probabilities_of(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """(turns, labels), softmax(logits / temperature)."""
    return softmax(logits / temperature, axis=-1)
