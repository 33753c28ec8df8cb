"""Parts of a report: a LoRA's conditions, baselines, groups, calibration, files, and that it can be written again."""

import csv
import json

import numpy as np
import pytest
import torch
from peft import LoraConfig
from tiny_models import LABELS, save_base, tone

from titans_mal import Qwen2AudioMALForAudioEmotion, load_conversations
from titans_mal.data.synthetic.voices import to_wav
from titans_mal.evaluation import evaluate_conversations as runner
from titans_mal.evaluation.baselines import decode_dialogues, emotion_transitions, speaker_centred
from titans_mal.evaluation.evaluate_conversations import evaluate_conversations
from titans_mal.evaluation.report_file import EvaluationReport


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve conversations of three turns in each of two splits, with a column for the gender."""
    folder = tmp_path_factory.mktemp("talks")
    rng = np.random.default_rng(0)
    with open(folder / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "conversation_id", "turn_index", "speaker", "emotion", "split"])
        for split in ("train", "test"):
            for talk in range(12):
                for turn in range(3):
                    name = f"{split}{talk}-{turn}.wav"
                    (folder / name).write_bytes(to_wav(tone(0.3, frequency=float(rng.uniform(100, 400)))))
                    speaker = f"{'XY'[turn % 2]}{talk % 3}"
                    table.writerow([name, f"{split}{talk}", turn, speaker, LABELS[int(rng.integers(4))], split])
    return folder


@pytest.fixture(scope="module")
def tables(folder):
    return load_conversations(folder, label_set=LABELS)


def evaluated(model, processor, tables, output, **options) -> EvaluationReport:
    options = {
        "train": tables["train"],
        "batch_size": 32,
        "resamples": 100,
        "conditions": ["memory", "memory_off"],
    } | options
    return evaluate_conversations(model, processor, tables["test"], output, **options)


def logits_of(output, name: str) -> np.ndarray:
    lines = [json.loads(path.read_text()) for path in output.glob("group-*.json")]
    rows = {int(row): values for line in lines for row, values in line["scores"][name]["logits"].items()}
    return np.array([rows[row] for row in sorted(rows)])


def with_lora(folder):
    """A tiny model whose LoRA and memory do something."""
    save_base(folder)
    memory = {"layers": [0, 2], "num_heads": 2, "head_dim": 8, "chunk_size": 4}
    model = Qwen2AudioMALForAudioEmotion.from_base(
        folder, id2label=dict(enumerate(LABELS)), memory_config=memory, emotion_prompt="emotion ?"
    ).eval()
    model.add_adapter(LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or name.startswith("titans_memory"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def test_a_lora_adds_two_conditions(processor, tables, tmp_path):
    model = with_lora(tmp_path / "base")
    requires_grad = {name: p.requires_grad for name, p in model.named_parameters()}
    report = evaluated(model, processor, tables, tmp_path / "out", conditions=None)
    assert {"memory", "memory_off", "host", "host_memory"} <= {*report.conditions}
    assert report.conditions["host"]["title"] == "host alone"
    assert report.conditions["memory_off"]["title"] == "memory off, LoRA on"
    assert report.conditions["host_memory"]["title"] == "memory on, LoRA off"
    # All four differ, and the model is as it was.
    logits = {name: logits_of(tmp_path / "out" / "progress", name) for name in report.content["requested_conditions"]}
    names = ("memory", "memory_off", "host", "host_memory")
    for one, name in enumerate(names):
        for other in names[one + 1 :]:
            assert np.abs(logits[name] - logits[other]).max() > 1e-3, (name, other)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == requires_grad
    again = evaluated(model, processor, tables, tmp_path / "again", conditions=["memory"])
    assert again.conditions["memory"]["metrics"] == report.conditions["memory"]["metrics"]
    # Without its LoRA it is the host itself, and the host with this memory.
    model.delete_adapter("default")
    bare = evaluated(model, processor, tables, tmp_path / "bare")
    assert set(bare.content["requested_conditions"]) == {"memory", "memory_off"}
    for name, as_before in (("memory", "host_memory"), ("memory_off", "host")):
        np.testing.assert_allclose(logits_of(tmp_path / "bare" / "progress", name), logits[as_before], atol=2e-5)
    with pytest.raises(ValueError, match=r"conditions must be a list of any of \['memory'.* got \['host'\]"):
        evaluated(model, processor, tables, tmp_path / "none", conditions=["host"])


def test_baselines_need_the_training_split(model, processor, tables, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "TRAINING_TURNS", 20)
    report = evaluated(model, processor, tables, tmp_path / "out", seed=5)
    assert report.content["left_out"] == {}
    training = logits_of(tmp_path / "out" / "progress" / "train", "memory_off")
    assert training.shape == (20, 4)
    alone = logits_of(tmp_path / "out" / "progress", "memory_off")
    turns = report.predictions
    names = [[turn[column] for turn in turns] for column in ("conversation_id", "speaker")]
    expected = speaker_centred(alone, *names, training.mean(0)).argmax(-1)
    assert [turn["predicted"]["speaker_centred"] for turn in turns] == [LABELS[place] for place in expected]
    # They are compared with the memory like any other condition.
    trained = {"speaker_centred", "transitions", "memory_transitions"}
    assert trained <= {*report.content["differences"]}
    # Transitions are decoded from the probabilities without memory, and from those with it.
    chances = emotion_transitions(tables["train"]["emotion"], tables["train"]["conversation_id"], len(LABELS))
    for name, of in (("transitions", "memory_off"), ("memory_transitions", "memory")):
        logits = logits_of(tmp_path / "out" / "progress", of)
        decoded = decode_dialogues(logits, names[0], *chances)
        assert [turn["predicted"][name] for turn in turns] == [LABELS[place] for place in decoded.argmax(-1)]
    without = evaluated(model, processor, tables, tmp_path / "without", train=None)
    assert {*report.conditions} - {*without.conditions} == trained
    assert without.content["left_out"] == dict.fromkeys(trained, "there is no training split")
    assert (
        "Left out: speaker_centred, since there is no training split."
        in (tmp_path / "without" / "report.md").read_text()
    )


def test_the_files_of_a_report(model, processor, tables, tmp_path):
    report = evaluated(model, processor, tables, tmp_path / "out")
    out = tmp_path / "out"
    for name in ("confusion", "history", "calibration"):
        assert (out / f"{name}.png").stat().st_size > 5000
        assert (out / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    tables_there = {path.name for path in (out / "tables").iterdir()}
    for name in ("metrics", "differences", "history", "recall", "calibration", "by_speaker"):
        assert {f"{name}.csv", f"{name}.tex"} <= tables_there
    rows = list(csv.DictReader((out / "tables" / "metrics.csv").open()))
    assert [row["condition"] for row in rows] == [column["title"] for column in report.conditions.values()]
    wa = report.conditions["memory"]["metrics"]["wa"]
    assert float(rows[0]["WA"]) == pytest.approx(100 * wa["value"], abs=1e-3)
    assert float(rows[0]["WA low"]) == pytest.approx(100 * wa["interval"][0], abs=1e-3)
    text = (out / "report.md").read_text()
    assert "WA: weighted accuracy" in text
    assert "UA: unweighted accuracy" in text
    # Twelve conversations, 12 turns: an interval there is, and still too few to say much.
    assert "| condition | 0 | (1) |" in text
    assert report.conditions["memory"]["by_history"]["1"]["interval"] is not None


def test_probabilities_of_all_labels(model, processor, tables, tmp_path):
    report = evaluated(model, processor, tables, tmp_path / "out")
    logits = torch.tensor(logits_of(tmp_path / "out" / "progress", "memory"))
    for turn, expected in zip(report.predictions, torch.softmax(logits, -1).tolist()):
        assert list(turn["probabilities"]["memory"].values()) == pytest.approx(expected, abs=1e-6)
        for name, shares in turn["probabilities"].items():
            assert list(shares) == list(LABELS)
            assert max(shares, key=shares.get) == turn["predicted"][name]
    assert set(report.predictions[0]["probabilities"]) == {
        "memory", "memory_off", "speaker_centred", "transitions", "memory_transitions",
    }  # fmt: skip


def test_results_by_group(model, processor, tables, tmp_path):
    test = tables["test"]
    genders = ["f" if speaker.startswith("X") else "m" for speaker in test["speaker"]]
    genders[0] = None
    test = test.add_column("gender", genders)
    report = evaluated(model, processor, {**tables, "test": test}, tmp_path / "out")
    groups = report.content["groups"]
    assert set(groups) == {"gender", "speaker"}
    assert {name: found["turns"] for name, found in groups["gender"].items()} == {"f": 23, "m": 12}
    for column, values in (("gender", genders), ("speaker", test["speaker"][:])):
        for name, found in groups[column].items():
            turns = [turn for turn, value in zip(report.predictions, values) if value == name]
            right = [turn["predicted"]["memory"] == turn["label"] for turn in turns]
            assert found["turns"] == len(turns)
            assert found["conditions"]["memory"]["wa"] == pytest.approx(np.mean(right))
            recalls = {label: [] for label in {turn["label"] for turn in turns}}
            for turn, is_right in zip(turns, right):
                recalls[turn["label"]].append(is_right)
            assert found["conditions"]["memory"]["ua"] == pytest.approx(np.mean(list(map(np.mean, recalls.values()))))
    worst = min(groups["gender"], key=lambda name: groups["gender"][name]["conditions"]["memory"]["ua"])
    text = (tmp_path / "out" / "report.md").read_text()
    assert f"By gender, memory on: the worst of 2 with at least 10 turns is {worst} (UA " in text


def test_the_same_arguments_write_the_same_report(model, processor, tables, tmp_path):
    """Byte for byte, apart from the time."""
    written = []
    for _ in range(2):
        output = tmp_path / "out"
        evaluated(model, processor, tables, output, conditions=None)
        created = json.loads((output / "report.json").read_text())["created"]
        files = {path.relative_to(output): path.read_bytes() for path in output.rglob("*") if path.is_file()}
        written.append({name: content.replace(created.encode(), b"") for name, content in files.items()})
        output.rename(tmp_path / f"before{len(written)}")
    assert written[0].keys() == written[1].keys()
    for name, content in written[0].items():
        assert content == written[1][name], name


def test_other_seeds_give_other_shuffles(model, processor, tables, tmp_path):
    reports = [
        evaluated(model, processor, tables, tmp_path / str(seed), conditions=["shuffled"], seed=seed)
        for seed in (0, 1)
    ]
    logits = [logits_of(tmp_path / str(seed) / "progress", "shuffled") for seed in (0, 1)]
    assert np.abs(logits[0] - logits[1]).max() > 1e-3
    assert [report.protocol["seed"] for report in reports] == [0, 1]
    # Without memory on and off there are no groups, and nothing is compared.
    assert reports[0].content["groups"] == reports[0].content["differences"] == {}
