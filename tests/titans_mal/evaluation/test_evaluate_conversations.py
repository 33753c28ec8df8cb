"""Whole conversations through a tiny model: every condition, leaks, batches, stops, processes, reports."""

import csv
import json
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from peft import LoraConfig
from tiny_models import LABELS, save_base, tiny_model, tone

from titans_mal import ConversationMemoryCache, Qwen2AudioMALForAudioEmotion, load_audio, load_conversations
from titans_mal.data.synthetic.voices import to_wav
from titans_mal.evaluation import evaluate_conversations as runner
from titans_mal.evaluation.conditions import CONDITIONS
from titans_mal.evaluation.evaluate_conversations import evaluate_conversations
from titans_mal.evaluation.report import EvaluationReport
from titans_mal.evaluation.stored_scores import StoredScores
from titans_mal.evaluation.table_scoring import TableScorer
from titans_mal.modeling.turn_rules import CutTurnWarning
from titans_mal.processes import process_state


# Turns of the conversations, of which "c" is longer than a batch.
LENGTHS = {"a": 3, "b": 4, "c": 7, "d": 2}
BATCH = 5


def write_talks(
    folder,
    emotions=lambda talk, turn: LABELS[(turn + ord(talk)) % 4],
    audio=lambda talk, turn: None,
    speakers=lambda talk, turn: "XY"[turn % 2],
):
    folder.mkdir(parents=True)
    with open(folder / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "conversation_id", "turn_index", "speaker", "emotion"])
        for talk, length in LENGTHS.items():
            for turn in range(length):
                name = f"{talk}{turn}.wav"
                frequency = 100 + 37 * turn + 11 * ord(talk) % 50
                waveform = audio(talk, turn)
                waveform = tone(0.4 + 0.1 * (turn % 3), frequency=frequency) if waveform is None else waveform
                (folder / name).write_bytes(to_wav(waveform))
                table.writerow([name, talk, turn, speakers(talk, turn), emotions(talk, turn)])
    return load_conversations(folder, label_set=LABELS)["test"]


@pytest.fixture
def talks(tmp_path):
    return write_talks(tmp_path / "talks")


def evaluated(model, processor, dataset, folder, **options) -> EvaluationReport:
    return evaluate_conversations(
        model, processor, dataset, folder, **{"batch_size": BATCH, "resamples": 100, **options}
    )


def scored_logits(folder) -> dict[str, np.ndarray]:
    """What the progress files hold: by condition, (turns, labels)."""
    lines = [json.loads(path.read_text()) for path in folder.glob("progress/group-*.json")]
    names = {name for line in lines for name in line["scores"]}
    merged = {name: {} for name in names}
    for line in lines:
        for name, scored in line["scores"].items():
            merged[name] |= {int(row): logits for row, logits in scored["logits"].items()}
    return {name: np.array([rows[row] for row in sorted(rows)]) for name, rows in merged.items()}


def stream(model, processor, turns, cache, **options) -> np.ndarray:
    """(turns, labels), turn by turn, as a live user would."""
    logits = []
    for turn in turns:
        inputs = model.prepare_turn(processor, turn["audio"])
        with torch.inference_mode():
            logits.append(model(**inputs, memory_cache=cache, **options).emotion_logits[0].tolist())
    return np.array(logits)


def test_conditions_match_their_descriptions(model, processor, tmp_path):
    talks = write_talks(tmp_path / "talks", speakers=lambda talk, turn: f"{talk}{turn % 2}")
    report = evaluated(model, processor, talks, tmp_path / "out")
    scored = scored_logits(tmp_path / "out")
    assert set(scored) == set(CONDITIONS)
    rows = list(talks)
    parts = {name: [row for row in rows if row["conversation_id"] == name] for name in LENGTHS}
    expected = {"memory": [], "reset": [], "memory_off": [], "other_state": []}
    for turns in parts.values():
        expected["memory"].append(stream(model, processor, turns, ConversationMemoryCache(model.config)))
        expected["reset"].append(stream(model, processor, turns, None))
        with model.disable_memory():
            expected["memory_off"].append(stream(model, processor, turns, None))
    # Before each turn as many turns of the next conversation as were said of its own; none is as long as "c".
    for name, partner in {"a": "b", "b": "c", "d": "a"}.items():
        cache = ConversationMemoryCache(model.config)
        for place, turn in enumerate(parts[name]):
            expected["other_state"].append(stream(model, processor, [turn], cache, update_memory=False))
            stream(model, processor, parts[partner][place : place + 1], cache)
    for name, values in expected.items():
        np.testing.assert_allclose(scored[name], np.concatenate(values), atol=2e-5, err_msg=name)
    for name in ("reset", "memory_off", "memory_half", "shuffled"):
        assert np.abs(scored[name] - scored["memory"]).max() > 1e-3, name
    covered = [*range(7), 14, 15]
    assert np.abs(scored["other_state"] - scored["memory"][covered]).max() > 1e-3
    # The first turn of a conversation reads nothing that was written.
    first = [0, 3, 7, 14]
    np.testing.assert_allclose(scored["memory"][first], scored["reset"][first], atol=2e-5)
    np.testing.assert_allclose(scored["other_state"][[0, 3, 7]], scored["reset"][[0, 3, 14]], atol=2e-5)
    # Half reads lie between, and leave no hook behind.
    assert not any(layer._forward_hooks for layer in model.titans_memory.layers)
    # What has no partner is left out of this condition alone, and counted.
    assert report.content["without_partner"] == 1
    assert sum(map(sum, report.conditions["other_state"]["confusion"])) == 9
    assert sum(map(sum, report.conditions["memory"]["confusion"])) == 16
    has_it = [turn["conversation_id"] for turn in report.predictions if "other_state" in turn["predicted"]]
    assert has_it == ["a"] * 3 + ["b"] * 4 + ["d"] * 2
    pairs = [turn for turn in report.predictions if "other_state" in turn["predicted"]]
    right = {name: np.mean([t["predicted"][name] == t["label"] for t in pairs]) for name in ("memory", "other_state")}
    found = report.content["differences"]["other_state"]["metrics"]["wa"]["value"]
    assert found == pytest.approx(right["memory"] - right["other_state"])
    text = (tmp_path / "out" / "report.md").read_text()
    assert "1 of 4 conversations have no partner" in text


@pytest.mark.parametrize("scope", ["conversation", "speaker"])
def test_another_history_has_the_same_length(processor, tmp_path, monkeypatch, scope):
    """Counted in the memory before every scored turn, also where a turn of the partner or an own one is unusable."""

    def audio(talk, turn):
        return np.zeros(8000) if (talk, turn) in {("b", 1), ("c", 2)} else None

    talks = write_talks(tmp_path / "talks", audio=audio, speakers=lambda talk, turn: f"{talk}{turn % 2}")
    model = tiny_model({"scope": scope, "max_speakers": 2})
    seen = {"memory": {}, "other_state": {}}
    score = TableScorer.score

    def counting(self, turns, cache, *, update_memory=True):
        if update_memory:
            # One by one, so that each turn's history is counted before it.
            parts = [score(self, [turn], cache) for turn in turns if not count("memory", turn, cache)]
            for part in parts[1:]:
                parts[0].add(part)
            return parts[0]
        for turn in turns:
            count("other_state", turn, cache)
        return score(self, turns, cache, update_memory=False)

    def count(name, turn, cache):
        streams = model.config.memory_config.streams_per_row
        start = turn.conversation * streams
        seen[name][turn.row] = sorted(cache.turns[start : start + streams].tolist())

    monkeypatch.setattr(TableScorer, "score", counting)
    report = evaluated(model, processor, talks, tmp_path / "out", conditions=["memory", "other_state"], batch_size=1)
    usable = [turn["conversation_id"] for turn in report.predictions]
    assert len(usable) == 14
    rows = [row for row in seen["other_state"] if row in {*seen["memory"]} and talks[row]["conversation_id"] != "c"]
    # Of "a" no turn is left out: "b" has three that can be used, and it needs two.
    assert len(rows) == 3 + 3 + 2
    for row in rows:
        assert seen["other_state"][row] == seen["memory"][row], (row, scope)
    assert max(map(sum, seen["other_state"].values())) == 2


def test_conversations_with_common_speakers_are_not_partners(model, processor, talks, tmp_path):
    report = evaluated(model, processor, talks, tmp_path / "out", conditions=["memory", "other_state"])
    assert "other_state" not in report.conditions
    assert report.content["without_partner"] == 4
    assert "no common speaker" in report.content["left_out"]["other_state"]
    assert "Left out: other_state, since no conversation has a partner" in (tmp_path / "out" / "report.md").read_text()


def test_another_state_may_be_of_the_training_split(model, processor, tmp_path):
    """Where the evaluated split has no partner: the scores are those of the same partner within one table."""
    both = write_talks(tmp_path / "talks", speakers=lambda talk, turn: "AB"[talk in "cd"])
    rows = {name: [row for row, of in enumerate(both["conversation_id"]) if of == name] for name in "abcd"}
    test, train = both.select(rows["a"]), both.select(rows["c"])
    given = {"conditions": ["memory", "other_state"]}
    report = evaluated(model, processor, test, tmp_path / "out", train=train, **given)
    assert (report.content["without_partner"], report.content["partners_from_training"]) == (0, 1)
    together = both.select([*rows["a"], *rows["c"]])
    expected = evaluated(model, processor, together, tmp_path / "together", **given)
    found, wanted = (
        [[*turn["probabilities"]["other_state"].values()] for turn in of.predictions if turn["conversation_id"] == "a"]
        for of in (report, expected)
    )
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert (
        "the other conversation is of the training split for 1 of 1 conversations"
        in (tmp_path / "out" / "report.md").read_text()
    )


def test_a_run_is_resumed_only_with_the_same_partners(model, processor, tmp_path):
    both = write_talks(tmp_path / "talks", speakers=lambda talk, turn: "AB"[talk in "cd"])
    rows = {name: [row for row, of in enumerate(both["conversation_id"]) if of == name] for name in "abcd"}
    given = {"conditions": ["memory", "other_state"], "train": both.select(rows["c"])}
    test, train = both.select(rows["a"]), both.select([*rows["c"], *rows["d"]])
    evaluated(model, processor, test, tmp_path / "out", **given)
    # Training turns that are no partners do not matter.
    evaluated(model, processor, test, tmp_path / "out", **{**given, "train": train})
    other = {**given, "train": both.select(rows["c"][::-1]).map(lambda _, row: {"turn_index": row}, with_indices=True)}
    with pytest.raises(ValueError, match="a run with a different choice of training partners"):
        evaluated(model, processor, test, tmp_path / "out", **other)


def test_an_unusable_partner_of_the_training_split_is_named_as_such(model, processor, tmp_path):
    audio = lambda talk, turn: np.zeros(8000) if (talk, turn) == ("c", 1) else None  # noqa: E731
    both = write_talks(tmp_path / "talks", audio=audio, speakers=lambda talk, turn: "AB"[talk in "cd"])
    rows = {name: [row for row, of in enumerate(both["conversation_id"]) if of == name] for name in "abcd"}
    test, train = both.select(rows["a"]), both.select(rows["c"])
    with pytest.raises(ValueError, match="Row 1 of the training split cannot be used"):
        evaluated(model, processor, test, tmp_path / "out", train=train, conditions=["other_state"], strict=True)


def test_shuffled_turns_keep_their_places(model, processor, talks, tmp_path):
    evaluated(model, processor, talks, tmp_path / "out", conditions=["shuffled"], seed=3)
    scored = scored_logits(tmp_path / "out")["shuffled"]
    rng = np.random.default_rng((3, zlib.crc32(b"c")))
    order = rng.permutation(7)
    rows = [row for row in talks if row["conversation_id"] == "c"]
    said = stream(model, processor, [rows[i] for i in order], ConversationMemoryCache(model.config))
    np.testing.assert_allclose(scored[7 + order], said, atol=2e-5)
    assert order.tolist() != sorted(order)


def test_memory_by_speaker(processor, talks, tmp_path):
    model = tiny_model({"scope": "speaker", "max_speakers": 2})
    evaluated(model, processor, talks, tmp_path / "out", conditions=["memory"])
    scored = scored_logits(tmp_path / "out")["memory"]
    rows = [row for row in talks if row["conversation_id"] == "b"]
    cache, logits = ConversationMemoryCache(model.config), []
    for row in rows:
        inputs = model.prepare_turn(processor, row["audio"])
        output = model(**inputs, memory_cache=cache, speaker_ids=["XY".index(row["speaker"])])
        logits.append(output.emotion_logits[0].tolist())
    np.testing.assert_allclose(scored[3:7], logits, atol=2e-5)


def test_batches_do_not_change_the_numbers(model, processor, talks, tmp_path):
    reports = {size: evaluated(model, processor, talks, tmp_path / str(size), batch_size=size) for size in (1, 5, 64)}
    first = scored_logits(tmp_path / "1")
    for size in (5, 64):
        for name, logits in scored_logits(tmp_path / str(size)).items():
            np.testing.assert_allclose(logits, first[name], atol=2e-5, err_msg=name)
    for one, other in zip(reports[1].predictions, reports[64].predictions, strict=True):
        found = [turn.pop("probabilities") for turn in (one, other)]
        assert one == other
        for condition, probabilities in found[0].items():
            assert found[1][condition] == pytest.approx(probabilities, abs=1e-4)


@pytest.mark.filterwarnings("ignore:No turn has the labels")
def test_gold_labels_do_not_reach_the_model(model, processor, tmp_path):
    """Over the whole path, from the files on."""
    datasets = {
        "right": write_talks(tmp_path / "right"),
        "flipped": write_talks(tmp_path / "flipped", emotions=lambda talk, turn: LABELS[(3 * turn + 1) % 4]),
        "unscored": write_talks(tmp_path / "unscored", emotions=lambda talk, turn: "sad" if turn == 0 else "bored"),
    }
    scored = {}
    for name, dataset in datasets.items():
        evaluated(model, processor, dataset, tmp_path / "out" / name)
        scored[name] = scored_logits(tmp_path / "out" / name)
    assert datasets["right"]["emotion"][:] != datasets["flipped"]["emotion"][:]
    for name in ("flipped", "unscored"):
        for condition, logits in scored[name].items():
            np.testing.assert_array_equal(logits, scored["right"][condition], err_msg=condition)


def test_a_later_turn_changes_no_earlier_one(model, processor, talks, tmp_path):
    """Turn 4 of "c" has other audio: its own answer and later ones change, and nothing else."""
    other = write_talks(
        tmp_path / "other", audio=lambda talk, turn: tone(0.9, frequency=400) if (talk, turn) == ("c", 4) else None
    )
    for name, dataset in (("one", talks), ("two", other)):
        evaluated(model, processor, dataset, tmp_path / name)
    one, two = (scored_logits(tmp_path / name) for name in ("one", "two"))
    changed = 7 + 4
    for name in ("memory", "memory_half", "reset", "memory_off"):
        np.testing.assert_allclose(two[name][:changed], one[name][:changed], atol=2e-5, err_msg=name)
        np.testing.assert_allclose(two[name][14:], one[name][14:], atol=2e-5, err_msg=name)
        assert np.abs(two[name][changed] - one[name][changed]).max() > 1e-3
    assert np.abs(two["memory"][changed + 1 : 14] - one["memory"][changed + 1 : 14]).max() > 1e-4
    np.testing.assert_allclose(two["reset"][changed + 1 :], one["reset"][changed + 1 :], atol=2e-5)


def test_a_stopped_run_is_resumed(model, processor, talks, tmp_path, monkeypatch):
    whole = evaluated(model, processor, talks, tmp_path / "whole")
    score, groups = runner._score, []

    def stopping(scorer, group, *args, **kwargs):
        if len(groups) == 1:
            raise KeyboardInterrupt
        groups.append(group.number)
        return score(scorer, group, *args, **kwargs)

    monkeypatch.setattr(runner, "_score", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluated(model, processor, talks, tmp_path / "out")
    # Killed in the middle of writing.
    (tmp_path / "out" / "progress" / "group-000001.77.unfinished").write_text('{"group": 1, "scores')
    monkeypatch.setattr(
        runner, "_score", lambda *args, **kwargs: groups.append(args[1].number) or score(*args, **kwargs)
    )
    report = evaluated(model, processor, talks, tmp_path / "out")
    assert sorted(groups) == [0, 1, 2]
    assert report.predictions == whole.predictions
    assert report.conditions == whole.conditions
    # Nothing is left to score, and other arguments are another run.
    evaluated(model, processor, talks, tmp_path / "out")
    assert len(groups) == 3
    with pytest.raises(ValueError, match="holds a run with a different requested_conditions"):
        evaluated(model, processor, talks, tmp_path / "out", conditions=["memory"])
    with pytest.raises(ValueError, match="with a different protocol and audio: choose another folder"):
        evaluated(model, processor, talks.select(range(7)), tmp_path / "out")
    with pytest.raises(ValueError, match="with a different model"):
        evaluated(tiny_model(seed=1), processor, talks, tmp_path / "out")
    other_host = tiny_model()
    with torch.no_grad():
        other_host.lm_head.weight[0, 0] += 1
    with pytest.raises(ValueError, match="with a different model"):
        evaluated(other_host, processor, talks, tmp_path / "out")
    (tmp_path / "talks" / "a0.wav").write_bytes(to_wav(tone(0.5)))
    with pytest.raises(ValueError, match="with a different audio"):
        evaluated(model, processor, talks, tmp_path / "out")
    (tmp_path / "out" / "progress" / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json cannot be read .* remove it"):
        evaluated(model, processor, talks, tmp_path / "out")


def test_a_missing_group_does_not_count_as_wrong_answers(model, processor, talks, tmp_path, monkeypatch):
    evaluated(model, processor, talks, tmp_path / "out")
    read = StoredScores.read
    monkeypatch.setattr(StoredScores, "read", lambda self: read(self)[:1] + read(self)[2:])
    monkeypatch.setattr(runner, "_with_bar", lambda groups, *, shown: [])
    with pytest.raises(ValueError, match=r"The groups \[1\] of 3 were not scored"):
        evaluated(model, processor, talks, tmp_path / "out")


def test_a_turn_that_could_not_be_scored_is_tried_again(model, processor, talks, tmp_path):
    whole = (tmp_path / "talks" / "b1.wav").read_bytes()
    os.remove(tmp_path / "talks" / "b1.wav")
    report = evaluated(model, processor, talks, tmp_path / "out", conditions=["memory"])
    assert len(report.content["not_scored"]) == 1
    assert report.protocol["scored"] == 15
    for _ in range(2):
        with pytest.raises(ValueError, match=r"Row 4 .* cannot be used: No such audio file"):
            evaluated(model, processor, talks, tmp_path / "out", conditions=["memory"], strict=True)
    (tmp_path / "talks" / "b1.wav").write_bytes(whole)
    with pytest.raises(ValueError, match="with a different audio"):
        evaluated(model, processor, talks, tmp_path / "out", conditions=["memory"])


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(model, processor, talks, tmp_path):
    """As `accelerate launch` starts them, through the command."""
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    for processes in (1, 2):
        # accelerate 1.15 starts several processes on a CPU under this name alone.
        several = ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else ["--cpu"]
        command = [sys.executable, "-m", "accelerate.commands.launch", *several, "--num_processes", str(processes)]
        command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        command += ["-m", "titans_mal.cli", "evaluate", str(tmp_path / "model"), str(tmp_path / "talks")]
        command += ["--output", str(tmp_path / str(processes)), "--batch-size", "5", "--resamples", "100"]
        # With another number of threads, sums are taken in another order.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (EvaluationReport.load(tmp_path / name) for name in "12")
    assert (one.content["processes"], two.content["processes"]) == (1, 2)
    assert one.predictions == two.predictions
    assert one.conditions == two.conditions
    assert one.content["differences"] == two.content["differences"]
    first, second = scored_logits(tmp_path / "1"), scored_logits(tmp_path / "2")
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_unconnected_processes_are_rejected(monkeypatch):
    assert process_state().num_processes == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="started 2 processes, but accelerate was initialised with 1"):
        process_state()


def test_unusable_turns_are_left_out_of_every_condition(model, processor, tmp_path):
    def audio(talk, turn):
        return {("b", 1): np.zeros(8000), ("b", 2): tone(0.03), ("c", 0): tone(4.0)}.get((talk, turn))

    talks = write_talks(tmp_path / "talks", audio=audio)
    with pytest.warns(CutTurnWarning, match=r"^c, turn 0 lasts 4\.0 s; its first 3 s are used\.$"):
        report = evaluated(model, processor, talks, tmp_path / "out", problems=["a problem of the loader"])
    cut = {"conversation_id": "c", "turn_index": 0, "seconds": 4.0, "processed_seconds": 3.0}
    assert report.content["cut"] == [cut]
    assert "- c, turn 0: the first 3 of 4.0 s" in (tmp_path / "out" / "report.md").read_text()
    processed = {
        (turn["conversation_id"], turn["turn_index"]): turn["processed_seconds"] for turn in report.predictions
    }
    assert (processed["b", 2], processed["c", 0], processed["c", 1]) == (0.03, 3.0, 0.5)
    assert report.content["problems"] == ["a problem of the loader"]
    (left_out,) = report.content["not_scored"]
    assert (left_out["conversation_id"], left_out["turn_index"]) == ("b", 1)
    assert "silent" in left_out["reason"]
    # The short one is padded.
    assert ("b", 2) in [(turn["conversation_id"], turn["turn_index"]) for turn in report.predictions]
    assert len(report.predictions) == 15
    assert {sum(map(sum, column["confusion"])) for column in report.conditions.values()} == {15}
    with pytest.raises(ValueError, match=r"Row 4 of the dataset cannot be used: .*silent"):
        evaluated(model, processor, talks, tmp_path / "strict", strict=True)


@pytest.mark.parametrize(
    ("readout", "expected_readout"),
    [("linear", "linear head"), ("audio", "linear head on audio"), ("verbalizer", "label tokens")],
)
def test_readouts_of_the_config(processor, talks, tmp_path, readout, expected_readout):
    model = tiny_model(emotion_readout=readout)
    report = evaluated(model, processor, talks, tmp_path / "out", conditions=["memory"])
    assert report.protocol["readout"] == expected_readout
    rows = [row for row in talks if row["conversation_id"] == "d"]
    expected = stream(model, processor, rows, ConversationMemoryCache(model.config))
    np.testing.assert_allclose(scored_logits(tmp_path / "out")["memory"][14:], expected, atol=2e-5)


def test_generated_text(model, processor, talks, tmp_path):
    report = evaluated(
        model,
        processor,
        talks,
        tmp_path / "out",
        readout="text",
        max_new_tokens=3,
        conditions=["memory", "memory_off"],
    )
    assert report.protocol["readout"] == "generated text of at most 3 tokens"
    # Logits there are none to normalise.
    assert set(report.conditions) == {"memory", "memory_off", "majority", "copy_previous"}
    lines = [json.loads(path.read_text()) for path in (tmp_path / "out" / "progress").glob("group-*.json")]
    texts = {int(row): text for line in lines for row, text in line["scores"]["memory"]["texts"].items()}
    cache = ConversationMemoryCache(model.config)
    for row in range(3):
        inputs = model.prepare_turn(processor, talks[row]["audio"])
        tokens = model.generate(**inputs, memory_cache=cache, max_new_tokens=3, do_sample=False)
        said = processor.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert texts[row] == said
    silent = np.mean([turn["predicted"]["memory"] is None for turn in report.predictions])
    assert report.conditions["memory"]["unparsable"] == pytest.approx(silent)
    assert "no label named" in (tmp_path / "out" / "report.md").read_text()


def test_generated_text_is_parsed_by_label_words(processor, talks, tmp_path, monkeypatch):
    words = {label: f"word{number}" for number, label in enumerate(LABELS)}
    model = tiny_model(label_words=words)
    answers = [f"It is {words[LABELS[max(emotion, 0)]]}." for emotion in talks["emotion"]]
    texts = iter(answers)
    monkeypatch.setattr(TableScorer, "_generate", lambda self, given: [next(texts) for _ in given["input_ids"]])
    report = evaluated(model, processor, talks, tmp_path / "out", readout="text", conditions=["memory"], batch_size=1)
    assert report.content["model"]["label_words"] == words
    assert report.conditions["memory"]["unparsable"] == 0
    with pytest.raises(ValueError, match=r"choose one of \['train', 'test'\]"):
        evaluated(model, processor, DatasetDict(train=talks, test=talks), tmp_path / "splits")
    unknown = talks.map(lambda row: {"emotion": None if row["turn_index"] == 0 else row["emotion"]})
    for given in ({"dataset": unknown}, {"dataset": unknown.with_format("numpy")}, {"train": unknown}):
        tables = {"dataset": talks, **given}
        with pytest.raises(ValueError, match="it must be -1 if it is unknown"):
            evaluated(model, processor, tables.pop("dataset"), tmp_path / "unknown", **tables)
    formatted = talks.with_format("numpy", columns=["audio"])
    evaluated(model, processor, formatted, tmp_path / "formatted", conditions=["memory"])
    with pytest.raises(ValueError, match="strict must be True or False, got 'no'"):
        evaluated(model, processor, talks, tmp_path / "strict", strict="no")


def test_written_files(model, processor, talks, tmp_path):
    own = np.bincount(talks["emotion"]).argmax()
    other = (own + 1) % len(LABELS)
    train = talks.select(range(3)).map(lambda row: {"emotion": int(other)})
    report = evaluated(model, processor, talks, tmp_path / "out", train=train)
    assert {turn["predicted"]["majority"] for turn in report.predictions} == {LABELS[other]}
    folder = tmp_path / "out"
    for name in ("confusion.png", "history.png"):
        assert (folder / name).stat().st_size > 5000
    text = (folder / "report.md").read_text()
    for column in report.conditions.values():
        assert f"| {column['title']} |" in text
    assert "| majority from | the training split |" in text
    again = EvaluationReport.load(folder / "report.json")
    assert again == report == EvaluationReport.load(folder)
    assert len(report.predictions) == 16
    # Columns can be recomputed from the predictions.
    for name, column in report.conditions.items():
        right = np.mean([turn["predicted"][name] == turn["label"] for turn in report.predictions])
        assert column["metrics"]["wa"]["value"] == pytest.approx(right)
        by_history = column["by_history"]
        assert sum(found["turns"] for found in by_history.values()) == 16
        assert sum(found["turns"] * found["wa"] for found in by_history.values()) == pytest.approx(16 * right)
    assert list(report.content["surprise"]) == list(report.conditions["memory"]["by_history"])


def test_labels_in_another_order_and_fewer_of_them(model, processor, talks, tmp_path):
    """The data's labels count: scores are those of its labels alone, whatever their order in the model."""
    folder = tmp_path / "talks"
    fewer = load_conversations(folder, label_set=["sad", "neutral"])["test"]
    evaluated(model, processor, talks, tmp_path / "all", conditions=["memory"])
    report = evaluated(model, processor, fewer, tmp_path / "fewer", conditions=["memory"])
    every, some = (scored_logits(tmp_path / name)["memory"] for name in ("all", "fewer"))
    np.testing.assert_array_equal(some, every[:, [LABELS.index("sad"), LABELS.index("neutral")]])
    assert report.protocol["labels"] == ["sad", "neutral"]
    assert report.protocol["scored"] == len(report.predictions) < 16
    assert report.protocol["turns"] == 16


def test_a_single_conversation_has_no_partner(model, processor, talks, tmp_path):
    report = evaluated(model, processor, talks.select(range(3)), tmp_path / "out")
    assert "other_state" not in report.conditions
    assert report.conditions["memory"]["metrics"]["wa"]["interval"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"conditions": ["memory", "dreams"]},
            r"conditions must be a list of any of \['memory', .* got \['memory', 'dreams'\]",
        ),
        ({"conditions": []}, "conditions must be a list"),
        ({"readout": "speech"}, "readout must be one of"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"conditions": "memory"}, "conditions must be a list of any of .* got 'memory'"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1, got 0"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"resamples": 99}, "resamples must be an integer of at least 100, got 99"),
    ],
)
def test_arguments_are_checked_before_anything_is_written(model, processor, talks, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        evaluated(model, processor, talks, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_unknown_labels_are_rejected(model, processor, talks, tmp_path):
    folder = tmp_path / "talks"
    foreign = load_conversations(folder, label_set={"sad": "sadness", "happy": "happy"})["test"]
    message = (
        r"labels \['sadness'\] that the model does not know; it knows \['neutral'.*Give a label_set \(--label-set\)"
    )
    with pytest.raises(ValueError, match=message):
        evaluated(model, processor, foreign, tmp_path / "out")
    with pytest.raises(ValueError, match="No turn of the dataset is scored"):
        evaluated(model, processor, talks.map(lambda row: {"emotion": -1}), tmp_path / "out")
    with pytest.raises(ValueError, match="row 1, of 'a', has turn_index=0 after 1"):
        evaluated(model, processor, talks.select([1, 0, 2]), tmp_path / "out")
    with pytest.raises(ValueError, match="row 3, of 'a', has turn_index=0 after 2"):
        evaluated(model, processor, talks.select([0, 1, 2, 0]), tmp_path / "out")
    with pytest.raises(ValueError, match="needs the columns"):
        evaluated(model, processor, talks.remove_columns("speaker"), tmp_path / "out")
    train = load_conversations(folder, label_set=LABELS[::-1])["test"]
    with pytest.raises(ValueError, match="train must have scored turns and the labels"):
        evaluated(model, processor, talks, tmp_path / "out", train=train)
    speakers = tiny_model({"scope": "speaker", "max_speakers": 1})
    with pytest.raises(ValueError, match=r"can hold max_speakers=1 speakers .* 'a' has \['X', 'Y'\]"):
        evaluated(speakers, processor, talks, tmp_path / "out")
    with torch.no_grad():
        broken = tiny_model()
        broken.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"logits or values of rows \[0, 1, 2, 3, 4\] are not finite"):
        evaluated(broken, processor, talks, tmp_path / "out")


def test_a_custom_table(model, processor, talks, tmp_path):
    """Without columns that are not needed, in another format, and taken apart."""
    own = talks.remove_columns(["seconds", "split", "start", "end", "transcript"]).with_format("numpy")
    report = evaluated(model, processor, own.filter(lambda row: row["conversation_id"] != "a"), tmp_path / "own")
    part = evaluated(model, processor, talks.select(range(3, 16)), tmp_path / "part")
    assert report.predictions == part.predictions
    assert report.protocol["split"] == "unnamed"


def test_a_report_names_the_run_and_not_its_base(processor, talks, tmp_path):
    """A model that was made of a base here, the folder that it was saved to, and its LoRA and recipe."""
    save_base(tmp_path / "base")
    memory = {"layers": [1], "num_heads": 2, "head_dim": 8, "chunk_size": 4, "scope": "speaker"}
    model = Qwen2AudioMALForAudioEmotion.from_base(
        tmp_path / "base", id2label=dict(enumerate(LABELS)), memory_config=memory, emotion_prompt="emotion ?"
    )
    model.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "k_proj"]))
    fresh = evaluated(model, processor, talks, tmp_path / "fresh", conditions=["memory"]).content["model"]
    assert (fresh["name"], fresh["training"]) == (str(tmp_path / "fresh"), None)
    run = tmp_path / "runs" / "seed3"
    model.save_pretrained(run)
    (run / "training_recipe.json").write_text('{"seed": 3, "learning_rate": 0.01}')
    loaded = Qwen2AudioMALForAudioEmotion.from_pretrained(run)
    one = evaluated(loaded, processor, talks, tmp_path / "one", conditions=["memory"])
    two = evaluated(model, processor, talks, tmp_path / "two", conditions=["memory"], name=str(run))
    assert one.content["model"] == two.content["model"]
    assert one.content["model"]["name"] == str(run)
    assert one.content["model"]["base"] == str(tmp_path / "base")
    assert one.content["model"]["training"] == {"seed": 3, "learning_rate": 0.01}
    assert one.content["model"]["lora"] == {"type": "LORA", "rank": 2, "alpha": 4, "targets": ["k_proj", "q_proj"]}
    assert one.content["model"]["memory"]["layers"] == [1]
    assert one.content["model"]["memory"]["scope"] == "speaker"
    named = evaluated(loaded, processor, talks, tmp_path / "named", conditions=["memory"], name="mine").content[
        "model"
    ]
    assert (named["name"], named["training"]) == ("mine", {"seed": 3, "learning_rate": 0.01})
    text = (tmp_path / "one" / "report.md").read_text()
    assert "| memory | layers 1, scope speaker |" in text
    assert "| LoRA | rank 2 on k_proj, q_proj |" in text
    assert "| training seed | 3 |" in text


def test_the_model_is_left_as_it_was(processor, talks, tmp_path):
    model = tiny_model()
    model.titans_memory.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluated(model, processor, talks, tmp_path / "out")
    assert not model.training
    assert model.titans_memory.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert np.isfinite(load_audio(talks[0]["audio"])).all()
