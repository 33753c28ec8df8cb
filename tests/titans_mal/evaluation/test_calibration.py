"""Calibration, against values by hand and distributions that are known."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from tiny_models import LABELS, tiny_model
from tiny_talks import write_talks
from typer.testing import CliRunner

from titans_mal import (
    AudioEmotionPipeline,
    ConversationAnalyzer,
    Qwen2AudioMALForAudioEmotion,
    evaluate_conversations,
    load_audio,
    load_conversations,
)
from titans_mal.cli import app
from titans_mal.evaluation.calibrate import calibrate
from titans_mal.evaluation.calibration import (
    calibration_of,
    coverage_curve,
    fit_temperature,
    probabilities_of,
    threshold_for,
)
from titans_mal.modeling.model_identity import state_identity


def test_the_error_by_hand():
    # Two turns at 0.95, one of them right; three at 0.65, all right; one at 1, which belongs to the last range.
    first = np.array([0.95, 0.95, 0.65, 0.65, 0.65, 1.0])
    probabilities = np.stack([first, 1 - first], -1)
    found = calibration_of(probabilities, np.array([0, 1, 0, 0, 0, 0]))
    assert found["ece"] == pytest.approx((3 * abs(1 - 0.65) + 3 * abs(2 / 3 - 2.9 / 3)) / 6)
    assert [(b["from"], b["turns"]) for b in found["bins"]] == [(0.6, 3), (0.9, 3)]
    assert found["log_loss"] == pytest.approx(-np.mean(np.log([0.95, 0.05, 0.65, 0.65, 0.65, 1.0])))


def test_calibrated_answers_have_no_error():
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((40_000, 4))
    labels = [rng.choice(4, p=p) for p in softmax(logits, -1)]
    assert calibration_of(probabilities_of(logits), np.array(labels))["ece"] < 0.01
    assert calibration_of(probabilities_of(3 * logits), np.array(labels))["ece"] > 0.1


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_found(temperature):
    rng = np.random.default_rng(1)
    logits = 2 * rng.standard_normal((20_000, 4))
    labels = np.array([rng.choice(4, p=p) for p in softmax(logits, -1)])
    labels[:100] = -1
    assert fit_temperature(temperature * logits, labels) == pytest.approx(temperature, rel=0.05)
    error = calibration_of(probabilities_of(temperature * logits[100:], temperature), labels[100:])["ece"]
    assert error < 0.015


def test_a_temperature_needs_scored_turns():
    with pytest.raises(ValueError, match="No turn is scored"):
        fit_temperature(np.zeros((2, 3)), np.array([-1, -1]))


def test_coverage_and_the_threshold_of_a_wanted_accuracy():
    confidence = np.array([0.9, 0.8, 0.8, 0.6, 0.5])
    right = np.array([True, True, False, True, False])
    curve = coverage_curve(confidence, right)
    reported = [(p["threshold"], p["coverage"], p["accuracy"]) for p in curve]
    # Both turns of 0.8 are answered, or neither.
    expected = [(0.5, 1.0, 0.6), (0.6, 0.8, 0.75), (0.8, 0.6, 2 / 3), (0.9, 0.2, 1.0)]
    assert reported == [pytest.approx(point) for point in expected]
    assert threshold_for(confidence, right, 0.7)["threshold"] == 0.6
    assert threshold_for(confidence, right, 0.6)["coverage"] == 1.0
    assert threshold_for(confidence, right, 0.9)["threshold"] == 0.9
    assert threshold_for(confidence, ~right, 1.0) is None
    for accuracy in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="accuracy must be above 0 and at most 1"):
            threshold_for(confidence, right, accuracy)


def test_a_curve_of_many_turns_is_short():
    rng = np.random.default_rng(2)
    confidence = rng.uniform(size=1000)
    curve = coverage_curve(confidence, confidence > rng.uniform(size=1000))
    assert len(curve) == 50
    assert (curve[0]["coverage"], curve[-1]["coverage"]) == (1.0, 0.001)
    assert curve[0]["accuracy"] < curve[25]["accuracy"]


def test_a_model_keeps_its_temperature(model, processor, tmp_path):
    """Fitted by the command on a split, written into the folder, and used for probabilities alone."""
    talks = load_conversations(write_talks(tmp_path / "talks"), label_set=LABELS)
    with torch.no_grad():
        model.lm_head.weight.mul_(8)  # far too sure
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    options = ["--split", "test", "--output", tmp_path / "out", "--accuracy", "0.1"]
    done = CliRunner().invoke(app, list(map(str, ["calibrate", folder, tmp_path / "talks", *options])))
    assert done.exit_code == 0, done.output
    assert "answers 100% of the turns" in done.output
    loaded = Qwen2AudioMALForAudioEmotion.from_pretrained(folder)
    temperature = loaded.config.emotion_temperature
    found = calibrate(loaded, processor, talks["test"], tmp_path / "again")
    assert found.before == temperature == found.temperature > 1.5
    assert found.numbers(temperature)["log_loss"] < found.numbers(1.0)["log_loss"]
    # Probabilities of the pipeline and of live calls are softer; answers, logits, losses and states are the same.
    one, two = (AudioEmotionPipeline(model=m, processor=processor) for m in (model, loaded))
    turn = talks["test"][0]["audio"]
    (before,), (after,) = one([turn]), two([turn])
    assert before["label"] == after["label"]
    inputs = model.prepare_turn(processor, turn)
    with torch.inference_mode():
        outputs = [m(**inputs, emotion_labels=[1]) for m in (model, loaded)]
    torch.testing.assert_close(outputs[0].emotion_logits, outputs[1].emotion_logits)
    torch.testing.assert_close(outputs[0].loss, outputs[1].loss)
    expected = torch.softmax(outputs[0].emotion_logits[0] / temperature, -1).tolist()
    assert list(after["scores"].values()) == pytest.approx(expected, abs=1e-5)
    assert ConversationAnalyzer(loaded, processor).push(*tone_of(turn)).scores == pytest.approx(after["scores"])
    report = evaluate_conversations(loaded, processor, talks["test"], tmp_path / "report", conditions=["memory"])
    assert report.content["model"]["temperature"] == temperature
    assert list(report.predictions[0]["probabilities"]["memory"].values()) == pytest.approx(expected, abs=1e-5)
    state = state_identity(model.config)
    assert state == state_identity(loaded.config)


def tone_of(audio) -> tuple[np.ndarray, int]:
    return load_audio(audio, 16_000), 16_000


@pytest.mark.parametrize("temperature", [0, -1, float("inf"), float("nan"), "2", True, None])
def test_a_temperature_is_a_number_above_0(temperature):
    with pytest.raises(ValueError, match="emotion_temperature must be a number above 0"):
        tiny_model(emotion_temperature=temperature)
