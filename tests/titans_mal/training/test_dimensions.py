"""Dimensions of emotion, from a folder's columns over training to a report, a picture and files."""

import csv
import json

import numpy as np
import pytest
import torch
from scipy import stats
from tiny_models import LABELS, save_base, tiny_model, tone

from titans_mal import (
    AudioEmotionPipeline,
    ConversationAnalyzer,
    ConversationMemoryCache,
    Qwen2AudioMALForAudioEmotion,
    draw_timeline,
    evaluate_conversations,
    load_conversations,
)
from titans_mal.data.synthetic.voices import to_wav
from titans_mal.export import export_turns
from titans_mal.training import ConversationTrainer, ConversationTrainingArguments


DIMENSIONS = ["arousal", "valence"]


def write_talks(folder, *, emotions=True):
    """Tones whose pitch is their arousal, from 0 to 1; valence is the opposite, and not known of each third turn."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with open(folder / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        header = ["file_name", "conversation_id", "turn_index", "speaker", "split", "arousal", "valence"]
        table.writerow([*header, "emotion"])
        for split, talks in (("train", 16), ("test", 12)):
            for talk in range(talks):
                for turn in range(4):
                    arousal, name = float(rng.uniform()), f"{split}{talk}-{turn}.wav"
                    (folder / name).write_bytes(to_wav(tone(0.4, frequency=200 * 8**arousal)))
                    valence = "" if turn == 2 else f"{1 - arousal:.4f}"
                    emotion = LABELS[int(arousal > 0.5)] if emotions else ""
                    place = [name, f"{split}{talk}", turn, "XY"[turn % 2], split]
                    table.writerow([*place, f"{arousal:.4f}", valence, emotion])
    return load_conversations(folder, label_set=list(LABELS))


def tiny(**kwargs):
    model = tiny_model(emotion_dimensions=DIMENSIONS, **kwargs)
    model.requires_grad_(False)
    model.emotion_values_head.requires_grad_(True)
    return model


def ccc(x, y) -> float:
    x, y = np.array(x), np.array(y)
    r = stats.pearsonr(x, y).statistic
    return 2 * r * x.std() * y.std() / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
@pytest.mark.parametrize("readout", ["verbalizer", None])
def test_a_truth_that_is_known_is_learned_and_reported(processor, tmp_path, readout):
    splits = write_talks(tmp_path / "talks", emotions=readout is not None)
    model = tiny(emotion_readout=readout)
    arguments = ConversationTrainingArguments(
        output_dir=tmp_path / "run", max_steps=40, learning_rate=0.05, per_device_train_batch_size=8, window=4,
        report_to="none", use_cpu=True, save_strategy="no", logging_steps=1000, evaluation_resamples=100,
    )  # fmt: skip
    before = evaluate_conversations(model, processor, splits["test"], tmp_path / "before", conditions=["memory"])
    trainer = ConversationTrainer(
        model, arguments, processor=processor, train_dataset=splits["train"], eval_dataset=splits["test"]
    )
    trainer.train()
    metrics = trainer.evaluate()
    report = evaluate_conversations(
        model, processor, splits["test"], tmp_path / "after", conditions=["memory", "memory_off"], resamples=100
    )
    found = report.content["dimensions"]["memory"]
    assert found["arousal"]["value"] > 0.6 > before.content["dimensions"]["memory"]["arousal"]["value"]
    assert found["valence"]["value"] > 0.6
    assert (found["arousal"]["turns"], found["valence"]["turns"]) == (48, 36)
    low, high = found["arousal"]["interval"]
    assert low < found["arousal"]["value"] < high
    assert metrics["eval_ccc"] == pytest.approx(np.mean([result["value"] for result in found.values()]))
    assert ("eval_ua" in metrics) == ("memory" in report.conditions) == (readout is not None)
    # The values of the report are those of a live call.
    analyzer = ConversationAnalyzer(model, processor)
    turns = [row for row in splits["test"] if row["conversation_id"] == "test0"]
    live = [analyzer.push(row["audio"], speaker=row["speaker"]) for row in turns]
    lines = [json.loads(path.read_text()) for path in (tmp_path / "after" / "progress").glob("group-*.json")]
    values = {int(row): v for line in lines for row, v in line["scores"]["memory"]["values"].items()}
    for row, turn in enumerate(live):
        assert list(turn.values.values()) == pytest.approx(values[row], abs=1e-4)
    gold = splits["test"]["arousal"][:]
    assert found["arousal"]["value"] == pytest.approx(ccc([values[row][0] for row in range(48)], gold), abs=1e-6)
    text = (tmp_path / "after" / "report.md").read_text()
    assert "## Dimensions" in text
    assert "| condition | arousal | valence |" in text
    assert (tmp_path / "after" / "tables" / "dimensions.csv").is_file()


@pytest.mark.parametrize("readout", ["linear", None])
def test_values_in_pipeline_exports_and_timeline(processor, tmp_path, readout):
    model = tiny(emotion_readout=readout)
    pipe = AudioEmotionPipeline(model=model, processor=processor)
    turns = pipe([{"audio": (tone(0.5), 16_000), "start": i, "end": i + 0.5, "speaker": "A"} for i in (0.0, 1.0)])
    for turn in turns:
        assert list(turn["values"]) == DIMENSIONS
        turn["conversation_id"] = "call"
        assert (turn["label"] is None) == (turn["score"] is None) == (turn["scores"] == {}) == (readout is None)
    rows = list(csv.DictReader(export_turns(turns, "csv").splitlines()))
    assert float(rows[0]["arousal"]) == turns[0]["values"]["arousal"]
    assert json.loads(export_turns(turns, "jsonl").splitlines()[1])["values"] == turns[1]["values"]
    for name in ("vtt", "textgrid"):
        assert f"arousal {turns[0]['values']['arousal']:.2f}, valence" in export_turns(turns, name)
    label = "<NA>" if readout is None else turns[0]["label"]
    assert f" <NA> {label} A " in export_turns(turns, "rttm")
    for suffix in ("png", "html"):
        assert draw_timeline(turns, tmp_path / f"timeline.{suffix}").stat().st_size > 5000
    assert "arousal" in (tmp_path / "timeline.html").read_text()
    analyzer = ConversationAnalyzer(model, processor)
    live = analyzer.push(tone(0.5), 16_000, speaker="A")
    assert live.values == pytest.approx(turns[0]["values"], abs=1e-5)
    analyzer.save(tmp_path / "state")
    resumed = ConversationAnalyzer(model, processor)
    resumed.load(tmp_path / "state")
    assert resumed.history == [live]


def test_forward_loss_saving_and_loading(processor, tmp_path):
    save_base(tmp_path / "base")
    model = Qwen2AudioMALForAudioEmotion.from_base(
        tmp_path / "base", id2label=dict(enumerate(LABELS)), emotion_readout=None, emotion_dimensions=DIMENSIONS
    )
    inputs = model.prepare_turn(processor, [(tone(0.4), 16_000), (tone(0.6, frequency=500), 16_000)])
    targets = torch.tensor([[0.2, float("nan")], [0.8, 0.1]])
    output = model(**inputs, emotion_value_labels=targets)
    assert output.emotion_logits is None
    assert output.emotion_values.shape == (2, 2)
    x, y = output.emotion_values[:, 0].tolist(), targets[:, 0].tolist()
    assert output.loss.item() == pytest.approx(1 - ccc(x, y), abs=1e-4)
    output.loss.backward()
    assert model.emotion_values_head.weight.grad.abs().sum() > 0
    model.save_pretrained(tmp_path / "saved")
    loaded = Qwen2AudioMALForAudioEmotion.from_pretrained(tmp_path / "saved").eval()
    assert loaded.config.emotion_dimensions == DIMENSIONS
    assert loaded.config.emotion_readout is None
    cache = ConversationMemoryCache(loaded.config, batch_size=2)
    with torch.inference_mode():
        again = loaded(**inputs, memory_cache=cache, logits_to_keep=1)
    torch.testing.assert_close(again.emotion_values, model.eval()(**inputs).emotion_values, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"emotion_labels were given, .* or the model does not predict them"):
        loaded(**inputs, emotion_labels=[0, 1])
    with pytest.raises(ValueError, match=r"emotion_value_labels were given, .* or the model does not predict them"):
        tiny_model()(**inputs, emotion_value_labels=targets)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"emotion_dimensions": "valence"}, "emotion_dimensions must be a list of different names, got 'valence'"),
        ({"emotion_dimensions": ["a", "a"]}, "emotion_dimensions must be a list of different names"),
        ({"emotion_dimensions": [""]}, "emotion_dimensions must be a list of different names"),
        ({"emotion_readout": None}, "Without an emotion_readout, emotion_dimensions"),
        ({"emotion_readout": "text"}, r"emotion_readout must be one of .* or None, got 'text'"),
    ],
)
def test_configurations_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**fields)


def test_an_invalid_rating(tmp_path):
    write_talks(tmp_path / "talks")
    path = tmp_path / "talks" / "metadata.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1].replace(",0.", ",high", 1), *lines[2:]]))
    with pytest.warns(UserWarning, match="cannot be used"):
        conversations = load_conversations(tmp_path / "talks", label_set=list(LABELS))
    assert any("arousal must be a number" in str(problem) for problem in conversations.problems)
