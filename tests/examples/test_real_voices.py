"""The examples on human voices, on made-up utterances."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from made_up_voices import corpus_of, write_voices
from tiny_models import save_base, tiny_model, tiny_processor, tone
from tiny_processors import tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2AudioForConditionalGeneration, WhisperConfig, WhisperModel

from titans_mal import load_conversations
from titans_mal.data.audio import load_turn
from titans_mal.data.synthetic.voices import to_wav
from titans_mal.evaluation.report import EvaluationReport
from titans_mal.modeling.turn_rules import CutTurnWarning
from titans_mal.training import fit_voice_memory


def test_no_utterance_occurs_twice_and_the_same_seed_gives_the_same(real):
    speakers, emotions = corpus_of()
    draw = lambda seed: real["dialogues"].Composer(speakers, emotions, [0, 2, 3], seed=(seed,)).draw(None, 20)[0]  # noqa: E731
    dialogues = draw(1)
    for dialogue in dialogues:
        assert len(set(dialogue.utterances)) == len(dialogue) == 10
        people = {(inner, speakers[u]) for inner, u in zip(dialogue.speakers, dialogue.utterances)}
        assert len(people) <= 2
        assert not {1} & {speaker for _, speaker in people}
    assert all((a.utterances == b.utterances).all() for a, b in zip(dialogues, draw(1)))
    assert any((a.utterances != b.utterances).any() for a, b in zip(dialogues, draw(2)))


def test_a_script_that_needs_an_utterance_twice_is_skipped_and_counted(real):
    speakers, emotions = corpus_of(takes=2)
    composer = real["dialogues"].Composer(speakers, emotions, [0, 1], seed=(0,))
    assert composer.perform([(0, 1)] * 3) is None
    dialogue = composer.perform([(0, 1), (1, 2), (0, 1)])
    assert emotions[dialogue.utterances].tolist() == [1, 2, 1]
    drawn, skipped = composer.draw([[(0, 1)] * 3, [(0, 0), (1, 0)]], 10)
    assert len(drawn) == 10
    assert skipped > 0
    with pytest.raises(ValueError, match="could be performed"):
        composer.draw([[(0, 1)] * 3], 2)


def test_sequences_of_meld_and_of_a_plain_table_are_the_same(real, tmp_path):
    rows = [(7, turn, "AB"[turn % 2], ("joy", "neutral")[turn % 2]) for turn in range(20)] + [(8, 0, "A", "joy")]
    # One of the copies of MELD is in Windows-1252.
    with open(tmp_path / "test_sent_emo.csv", "w", newline="", encoding="cp1252") as file:
        table = csv.writer(file)
        table.writerow(["Utterance", "Dialogue_ID", "Utterance_ID", "Speaker", "Emotion"])
        table.writerows([["That\u2019s \u201cit\u201d,\nalso", *row] for row in rows])
    with open(tmp_path / "plain.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["split", "dialogue", "turn", "speaker", "emotion"])
        table.writerows([["test", *row] for row in rows])
    mapping = real["dialogues"].SEQUENCE_LABELS
    found = [real["dialogues"].read_sequences(tmp_path / name, mapping) for name in ("test_sent_emo.csv", "plain.csv")]
    assert found[0] == found[1] == {"test": [[(turn % 2, ("happy", "neutral")[turn % 2]) for turn in range(10)]] * 2}
    with pytest.raises(ValueError, match="is not mapped"):
        real["dialogues"].read_sequences(tmp_path / "plain.csv", {"joy": "happy"})


def test_composed_dialogues_are_a_folder_of_conversations(real, tmp_path):
    voices = write_voices(tmp_path / "voices", speakers=4, takes=6)
    real["compose"].main(voices, tmp_path / "out", fold=2, train=3, test=2)
    tables = load_conversations(tmp_path / "out")
    assert {split: len(table) for split, table in tables.items()} == {"train": 30, "test": 20}
    assert set(tables["test"]["speaker"]) <= {"p2", "p3"}
    assert set(tables["train"]["speaker"]) <= {"p0", "p1"}
    assert tables["train"].features["emotion"].names == ["happy", "sad"]


def test_copies_in_other_voices_are_other_speakers_and_are_written_changed(real, tmp_path):
    voices = real["voices_reader"].read_voices(write_voices(tmp_path / "voices", speakers=4, takes=2))
    more = voices.in_other_voices(["p0", "p1"], 2)
    assert more.speakers == [
        *voices.speakers[:1],
        "p0_voice1",
        "p0_voice2",
        "p1",
        "p1_voice1",
        "p1_voice2",
        "p2",
        "p3",
    ]
    assert len(more.utterances) == 16 + 2 * 2 * 4
    assert more.folds == voices.folds
    index = next(n for n, utterance in enumerate(more.utterances) if utterance.speaker == "p0_voice1")
    original = next(n for n, u in enumerate(more.utterances) if u.path == more.utterances[index].path)
    dialogue = real["dialogues"].Dialogue(np.array([original, index]), np.array([0, 1]))
    real["compose"].write_dialogues(more, [("train", dialogue)], more.labels, tmp_path / "out")
    table = load_conversations(tmp_path / "out")["train"]
    assert table["speaker"] == ["p0", "p0_voice1"]
    assert len(set(table["emotion"])) == 1
    plain, changed = (load_turn(row["audio"], 16_000) for row in table)
    speed = more.utterances[index].change.speed
    assert len(changed) == pytest.approx(len(plain) / speed, abs=2)
    assert len(changed) != len(plain)


def test_recall_and_its_paired_interval(real):
    emotions, speakers = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    hits = np.array([[1, 1, 0, 1], [1, 0, 0, 0]])
    recall = real["intervals"].average_recall(hits, emotions)
    assert recall[0] == pytest.approx(((1 + 0.5 + 0) / 3 + 0.5) / 2)
    turns = real["intervals"].ScoredTurns(emotions, speakers, np.array([0, 1, 2, 3]))
    points, low, high = real["intervals"].paired_difference(hits, np.zeros_like(hits), turns, resamples=200)
    assert points == pytest.approx(100 * recall[0])
    assert low < points < high
    same = real["intervals"].paired_difference(hits, hits, turns, resamples=200)
    assert same == (0.0, 0.0, 0.0)
    # More seeds do not narrow an interval.
    many = real["intervals"].paired_difference(np.tile(hits, (9, 1)), np.zeros((18, 4)), turns, resamples=200)
    assert many == pytest.approx((points, low, high))


def test_sequences_of_one_split_are_a_usage_error(real, tmp_path):
    """MELD has a file for each split: without the others, tests would be scored on random emotions."""
    table = tmp_path / "train_sent_emo.csv"
    rows = [f"train,0,{turn},{'AB'[turn % 2]},neutral" for turn in range(12)]
    table.write_text("\n".join(["split,dialogue,turn,speaker,emotion", *rows]))
    compose = real["compose"]
    assert set(compose.scripts_of([table], ["neutral"])) == {"train"}
    with pytest.raises(typer.BadParameter, match=r"no dialogues of the splits \['test'\], but of \['train'\]"):
        compose.scripts_of([table], ["neutral"], required=("train", "test"))


def test_transitions_are_decoded_forward_only(real):
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    mask, transitions = torch.ones(2, 5, dtype=torch.bool), torch.full((3, 3), 0.1) + 0.7 * torch.eye(3)
    decode = real["models"].decode_transitions
    scores = decode(logits, mask, transitions, weight=1.0)
    later = logits.clone()
    later[:, 3:] = 0
    torch.testing.assert_close(decode(later, mask, transitions, weight=1.0)[:, :3], scores[:, :3])
    assert (decode(logits, mask, transitions, weight=0.0).argmax(-1) == logits.argmax(-1)).all()
    # Beliefs of another dialogue: the first turn has none, and its own turns are the default.
    others = decode(logits, mask, transitions, weight=1.0, history=later)
    torch.testing.assert_close(others[:, 0], scores[:, 0])
    torch.testing.assert_close(decode(logits, mask, transitions, weight=1.0, history=logits), scores)
    assert not torch.allclose(others[:, 4], scores[:, 4])
    # A turn that says nothing is what the turn before was.
    sure = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    assert decode(sure, torch.ones(1, 2, dtype=torch.bool), transitions, weight=1.0)[0, 1].argmax() == 0


@pytest.fixture(scope="module")
def study(real):
    """Made-up utterances of 20 speakers: an offset of each speaker hides the emotion."""
    rng = np.random.default_rng(0)
    speakers, emotions = corpus_of(speakers=20, emotions=3, takes=8)
    voices, means = 3 * rng.standard_normal((20, 24)), 1.5 * rng.standard_normal((3, 24))
    features = voices[speakers] + means[emotions] + 0.7 * rng.standard_normal((len(speakers), 24))
    corpus = real["study"].Corpus.of(features.astype(np.float32), speakers, emotions)
    part = real["study"].Part(corpus, list(range(16)), 3, real["study"].Scripts(), seed=(0,))
    test = real["scored_dialogues"].TestDialogues(corpus, [16, 17, 18, 19], None, part.hidden, seed=(1,), count=60)
    return corpus, part, test


def test_the_same_utterances_give_the_same_components(real):
    features = np.random.default_rng(0).standard_normal((60, 40)).astype(np.float32)
    first, again = (real["encoder_features"].Projection(features, 8)(features) for _ in range(2))
    assert first.equal(again)


def test_copies_are_different_speakers(real):
    speakers, emotions = corpus_of()
    features = np.arange(len(speakers), dtype=np.float32)[:, None]
    corpus = real["study"].Corpus.of(
        features, speakers, emotions, voices=[features + 1000], channels=[features - 1000]
    )
    assert corpus.originals == len(speakers)
    assert corpus.people.tolist() == np.tile(speakers, 3).tolist()
    assert corpus.speakers.reshape(3, -1).tolist() == [speakers.tolist(), (speakers + 4).tolist(), speakers.tolist()]
    assert corpus.channels.reshape(3, -1).tolist() == [[0] * len(speakers)] * 2 + [[1] * len(speakers)]
    part = real["study"].Part(corpus, [0, 1, 2], 3, real["study"].Scripts(), seed=(0,))
    for dialogue in part._dialogues:
        assert len({*corpus.channels[dialogue.utterances]}) == 1
        assert 3 not in corpus.people[dialogue.utterances]
    assert any(corpus.speakers[dialogue.utterances].max() > 3 for dialogue in part._dialogues)
    test = real["scored_dialogues"].TestDialogues(corpus, [0, 3], None, part.hidden, seed=(1,), count=5)
    assert test.utterances.max() < corpus.originals
    copies = real["encoder_features"].Copy("channel", 1).speakers(["a", "b"])
    assert copies["a"] is copies["b"]
    assert copies["a"].speed == 1 != real["encoder_features"].Copy("voice", 1).speakers(["a", "b"])["a"].speed


def test_controls_of_the_memory_have_no_history_or_another_one(real, study):
    _, part, test = study
    model = part.make("memory")
    with torch.no_grad():
        model.readout.weight.normal_()
        own = model(test.batch)
        reset = model.without_history(test.batch)
        plain = model.readout(test.batch.turns)
        other = model.with_other_history(test.batch, test.partners)
        # A partner's history is that partner's: the dialogue as its own partner is the dialogue itself.
        self_partner = model.with_other_history(test.batch, test.batch)
    assert reset.equal(plain)
    assert own[:, 0].equal(plain[:, 0])
    assert other[:, 0].equal(plain[:, 0])
    torch.testing.assert_close(self_partner, own, rtol=0, atol=1e-4)
    assert not torch.allclose(other[:, 5:], own[:, 5:])


def test_partners_share_no_speaker_and_have_as_many_turns(study):
    corpus, _, test = study
    assert test.has_partner.all()
    for own, other in zip(test.batch.utterances, test.partners.utterances):
        assert not {*corpus.speakers[own]} & {*corpus.speakers[other]}
        assert (other >= 0).sum() == (own >= 0).sum()


def test_two_test_speakers_get_the_history_of_training_speakers(real, study):
    corpus, part, _ = study
    rest = [int(speaker) for speaker in np.unique(corpus.people)[2:]]
    test = real["scored_dialogues"].TestDialogues(corpus, [0, 1], None, part.hidden, seed=(3,), others=rest, count=4)
    assert test.has_partner.all()
    assert not {0, 1} & {*corpus.speakers[test.partners.utterances[test.partners.mask]]}
    alone = real["scored_dialogues"].TestDialogues(corpus, [0, 1], None, part.hidden, seed=(3,), count=4)
    assert not alone.has_partner.any()
    assert alone.partners is None


def test_partners_are_drawn_at_random_for_each_seed(real, study):
    corpus, part, _ = study
    of_seed = lambda seed: real["scored_dialogues"].TestDialogues(  # noqa: E731
        corpus, [16, 17, 18, 19], None, part.hidden, seed=(1,), partner_seed=(seed,), count=60
    )
    first, again, other = of_seed(0), of_seed(0), of_seed(1)
    assert first.partner_numbers.tolist() == again.partner_numbers.tolist()
    assert first.utterances.tolist() == other.utterances.tolist()
    assert (first.partner_numbers != other.partner_numbers).mean() > 0.8
    assert len({*first.partner_numbers.tolist()}) > 40
    assert not first.from_training.any()


def test_a_network_beside_the_readout_is_averaged_with_it(real, study):
    _, part, test = study
    model = part.train("utterance", penalty=0.1, seed=(1,))
    stronger = part.with_network("utterance", model, {"penalty": 0.1}, seed=(1,))
    assert model.readout.weight.shape[0] == 3
    linear, network = stronger.readout.readouts
    assert linear is model.readout
    with torch.no_grad():
        turns = test.batch.turns
        mean = (linear(turns).softmax(-1) + network(turns).softmax(-1)) / 2
        torch.testing.assert_close(stronger(test.batch), mean.log())
        recall = real["intervals"].average_recall(test.is_right(network(turns)), test.emotions)[0]
    assert recall > 0.5
    again = part.with_network("utterance", model, {"penalty": 0.1}, seed=(1,)).readout.readouts[1]
    assert again[1].weight.equal(network[1].weight)


def test_the_longest_dialogue_may_have_no_partner(real, study):
    """It has three of the four test speakers, the others two."""
    corpus, part, _ = study
    scripts = [[(turn % 3, turn % 3) for turn in range(12)], [(turn % 2, turn % 3) for turn in range(10)]]
    test = real["scored_dialogues"].TestDialogues(corpus, [16, 17, 18, 19], scripts, part.hidden, seed=(1,), count=8)
    assert not test.has_partner[0]
    assert test.has_partner[-1]
    assert test.partners.utterances.shape[1] == 10
    model = part.train("memory", penalty=0.1, seed=(1,))
    with torch.no_grad():
        own = model(test.batch)
        other, of_partners = test.with_other_history(model, own), test.of_partners(model, own)
    for found in (other, of_partners):
        assert found.shape == own.shape
        assert found[0].equal(own[0])
        assert not torch.allclose(found[-1, 5:10], own[-1, 5:10])


def test_the_attention_depends_on_its_seed_alone(real, study, monkeypatch):
    monkeypatch.setattr(real["study"], "STEPS", 2)
    _, part, _ = study
    first = part.train("attention_8", penalty=0.1, seed=(4,))
    torch.rand(3)
    again, other = (part.train("attention_8", penalty=0.1, seed=(seed,)) for seed in (4, 5))
    assert first.query.weight.equal(again.query.weight)
    assert not first.query.weight.equal(other.query.weight)


def test_the_weight_of_transitions_is_the_best_for_the_chosen_model_of_utterances(real):
    low, high = (("penalty", value) for value in (0.01, 0.03))
    once = ("as_in_dialogues", False)
    means = {("utterance", low, once): 0.7, ("utterance", high, once): 0.6}
    means |= {("transitions", ("weight", 0.25), low, once): 0.71, ("transitions", ("weight", 1.0), low, once): 0.69}
    means |= {("transitions", ("weight", 1.0), high, once): 0.9}
    names = real["study"].WITH_SHRINKAGE
    means |= {(name, low, ("shrinkage", size)): size / 10 for name in names for size in (1.0, 2.0)}
    best = real["study"].best_options(means)
    assert best["utterance"] == {"penalty": 0.01, "as_in_dialogues": False}
    assert best["transitions"] == {"weight": 0.25}
    assert best["attention_8"] == {"penalty": 0.01}
    assert best["memory"] == {"penalty": 0.01, "shrinkage": 2.0}


def test_reports_of_earlier_versions_are_left_out(real, capsys):
    run = dict.fromkeys(real["feature_report"].RUN, "x")
    old = {"pooled": [{**run, "uar": {}}]}
    new = {"pooled": [{**run, "uar": dict.fromkeys(real["feature_report"].MODELS), "over_partners_of_test": None}]}
    assert not real["feature_report"].is_of_this_version(old)
    assert "earlier version (x x x x x)" in capsys.readouterr().out
    assert real["feature_report"].is_of_this_version(new)


def test_speakers_with_too_few_utterances_are_an_error(real):
    speakers, emotions = corpus_of(speakers=2, emotions=2, takes=1)
    composer = real["dialogues"].Composer(speakers, emotions, [0, 1], seed=(0,))
    with pytest.raises(ValueError, match="2 speakers have too few utterances for dialogues of 10 turns"):
        composer.random()


def test_the_memory_helps_where_a_voice_hides_the_emotion(real, study):
    _, part, test = study
    chosen = {name: {"penalty": 0.1} for name in ("utterance", "attention_8")}
    chosen |= {name: {"penalty": 0.1, "shrinkage": 0.5} for name in real["study"].WITH_SHRINKAGE}
    right = real["study"].score_models(part, test, chosen | {"transitions": {"weight": 0.5}}, seed=(2,))
    assert sorted(right) == sorted(real["feature_report"].MODELS)
    recall = {name: real["intervals"].average_recall(hits, test.emotions)[0] for name, hits in right.items()}
    assert recall["memory"] > recall["utterance"] + 0.03
    assert recall["memory"] > recall["memory_other"] + 0.03
    assert recall["memory"] > recall["memory_reset"] + 0.03
    assert recall["oracle"] > recall["running_mean"] - 0.01


def test_the_oracle_is_given_the_emotions_of_earlier_turns_only(study):
    _, part, test = study
    model = part.train("oracle", penalty=0.1, shrinkage=0.5, seed=(1,))
    batch, turn = test.batch, 2
    number = batch.utterances[0, turn]
    emotions = batch.emotions.clone()
    emotions[number] = (emotions[number] + 1) % 3
    with torch.no_grad():
        given, other = model(batch)[0], model(replace(batch, emotions=emotions))[0]
    is_changed = (given != other).any(-1)
    is_of_speaker = batch.speakers[0] == batch.speakers[0, turn]
    assert is_changed.tolist() == (is_of_speaker & (torch.arange(len(is_of_speaker)) > turn)).tolist()
    assert is_changed.any()


def saved_of(folder: Path, seeds: dict[int, int]) -> dict[int, list[dict]]:
    """What is saved of each fold, with its number of seeds."""
    return {
        fold: [dict(np.load(folder / f"right_{fold}_{seed}.npz")) for seed in range(count)]
        for fold, count in seeds.items()
    }


def test_a_corpus_of_two_folds_of_two_speakers_is_reported(real, study, tmp_path, monkeypatch):
    monkeypatch.setattr(real["scored_dialogues"], "PARTNERS", 60)
    for name, value in (("TRAINING_DIALOGUES", 20), ("STEPS", 2)):
        monkeypatch.setattr(real["study"], name, value)
    monkeypatch.setattr(real["networks"], "STEPS", 2)
    corpus, _, _ = study
    keep = corpus.people < 4
    parts = {name: getattr(corpus, name)[keep] for name in ("features", "speakers", "emotions", "people", "channels")}
    small = real["corpus"].Corpus(**parts, originals=int(keep[: corpus.originals].sum()))
    options = {"folds": [[0, 1], [2, 3]], "labels": 3, "scripts": real["corpus"].Scripts(), "seeds": 1}
    # As a version without the newer models left it.
    (tmp_path / "chosen_2.json").write_text('{"utterance": {"penalty": 0.01}}')
    real["features"].run_fold(small, small, fold=2, folder=tmp_path, **options)
    assert {*real["study"].TRAINED, "transitions"} == {*json.loads((tmp_path / "chosen_2.json").read_text())}
    utterances = tuple(real["voices"].Utterance(Path(str(i)), f"p{s}", "x") for i, s in enumerate(small.speakers))
    about = {"train": "a", "test": "a", "script": "random", "blocks": "all", "copies": "0-0"}
    found = real["feature_report"].report(
        saved_of(tmp_path, {2: 1}), about, real["voices"].Voices("a", utterances, ())
    )
    assert found["pooled"][0]["without_partner"] == 0
    assert "| memory_other | -" not in real["feature_report"].table(found)
    right = dict(np.load(tmp_path / "right_2_0.npz"))
    np.savez(tmp_path / "right_2_0.npz", **right | {"has_partner": np.zeros_like(right["has_partner"])})
    alone = real["feature_report"].report(
        saved_of(tmp_path, {2: 1}), about, real["voices"].Voices("a", utterances, ())
    )
    assert "| memory_other | - |" in real["feature_report"].table(alone)
    assert "| memory - memory_other | - |" in real["feature_report"].table(alone)
    assert {row["uar"] for row in alone["rows"] if row["listener"] == "memory_other"} == {None}
    assert {group["uar"]["memory_other"] for group in alone["groups"]} == {None}


@pytest.mark.slow
def test_utterances_are_weighted_as_in_dialogues_only_after_real_sequences(real, study):
    corpus, part, test = study
    options = {option for option, _ in part.try_options(test, seed=(5,)) if option[0] == "utterance"}
    assert all(("as_in_dialogues", False) in option for option in options)
    once, often = (part.train("utterance", penalty=0.1, seed=(5,), as_in_dialogues=value) for value in (False, True))
    assert not once.readout.weight.equal(often.readout.weight)
    script = [[(turn % 2, turn % 3) for turn in range(10)]]
    after = real["study"].Part(corpus, range(4, 8), 3, real["corpus"].Scripts(script, script), seed=(6,))
    found = {option for option, _ in after.try_options(test, seed=(5,)) if option[0] == "utterance"}
    assert {dict(option[1:])["as_in_dialogues"] for option in found} == {False, True}


def test_the_host_is_trained_on_copies_and_tested_without(real, tmp_path):
    voices = real["voices_reader"].read_voices(write_voices(tmp_path / "voices", speakers=4, takes=6))
    folders = real["host"].write_data(voices, 1, [], tmp_path / "out", train=4, test=2, copies=1)
    singles, dialogues = (load_conversations(folder) for folder in folders)
    assert set(singles["train"]["speaker"]) == {"p2", "p2_voice1", "p3", "p3_voice1"}
    assert any("voice1" in speaker for speaker in dialogues["train"]["speaker"])
    assert set(dialogues["test"]["speaker"]) == {"p0", "p1"}


def test_a_run_is_kept_and_reported(real, study, tmp_path, monkeypatch):
    monkeypatch.setattr(real["scored_dialogues"], "PARTNERS", 60)
    for name, value in (("TRAINING_DIALOGUES", 20), ("STEPS", 2)):
        monkeypatch.setattr(real["study"], name, value)
    monkeypatch.setattr(real["networks"], "STEPS", 2)
    monkeypatch.setattr(real["study"], "SHRINKAGES", (1.0,))
    corpus, _, _ = study
    folds = [list(range(0, 4)), list(range(4, 8)), list(range(8, 20))]
    options = {"folds": folds[:2], "labels": 3, "scripts": real["study"].Scripts(), "seeds": 2, "folder": tmp_path}
    real["features"].run_fold(corpus, corpus, fold=1, **options)
    chosen = json.loads((tmp_path / "chosen_1.json").read_text())
    assert set(chosen) == {
        "utterance", "running_mean", "memory", "memory_speaker", "oracle", "attention_8", "transitions",
    }  # fmt: skip
    assert set(chosen["transitions"]) == {"weight"}
    utterances = tuple(
        real["voices"].Utterance(Path(str(i)), f"p{s:02}", "x", "FM"[s % 2]) for i, s in enumerate(corpus.speakers)
    )
    voices = real["voices"].Voices("made-up", utterances, ())
    about = {"train": "a", "test": "b", "script": "random", "blocks": "all", "copies": "0-0"}
    found = real["feature_report"].report(saved_of(tmp_path, {1: 2}), about, voices)
    assert len(found["rows"]) == 2 * len(real["feature_report"].MODELS)
    saved = [real["features"]._is_saved(tmp_path, fold, seed) for fold in (1, 2) for seed in (0, 1)]
    assert saved == [True, True, False, False]
    of_now = dict(np.load(tmp_path / "right_1_0.npz"))
    np.savez(tmp_path / "right_2_0.npz", **{name: of_now[name] for name in of_now if name != "right_network"})
    assert not real["features"]._is_saved(tmp_path, 2, 0)
    (pooled,) = found["pooled"]
    assert (pooled["folds"], pooled["dialogues"], pooled["without_partner"]) == (1, 200, 0)
    assert 20 < pooled["different_partners"] <= 60
    assert pooled["over_partners_of_test"] is not None
    saved = saved_of(tmp_path, {1: 2})
    of_training = {1: [of | {"from_training": np.ones_like(of["from_training"])} for of in saved[1]]}
    (pooled_of_training,) = real["feature_report"].report(of_training, about, voices)["pooled"]
    assert pooled_of_training["over_partners_of_test"] is None
    assert pooled_of_training["partners_from_training"] == 200
    assert f"{pooled['different_partners']} different dialogues" in real["feature_report"].table(found)
    assert {"listener", "train", "test", "script", "fold", "seed", "turns", "uar", "conversations"} <= {
        *found["rows"][0]
    }
    assert {"listener", "over", "train", "test", "script", "points", "low", "high"} <= {*found["differences"][0]}
    assert {group["kind"] for group in found["groups"]} == {"speaker", "gender"}
    printed = real["feature_report"].table(found)
    assert "memory - memory_other" in printed
    assert "With only 4 test speakers, the intervals are too narrow." in printed
    # A speaker may have the name of a gender.
    renamed = json.loads(json.dumps(found).replace('"group": "p00"', '"group": "F"'))
    assert real["feature_report"].table(renamed) == printed.replace("| p00 |", "| F |")
    few = {
        1: [of | {"from_training": of["has_partner"] & (np.arange(200) > 4)} for of in saved_of(tmp_path, {1: 1})[1]]
    }
    assert real["feature_report"].report(few, about, voices)["pooled"][0]["over_partners_of_test"] == (
        "too few (5 dialogues)"
    )
    for folder in ("earlier", "now"):
        (tmp_path / "runs" / folder).mkdir(parents=True)
        (tmp_path / "runs" / folder / "part.json").write_text(json.dumps(found))
    assert len(real["features"]._join_reports(tmp_path / "runs")["pooled"]) == 1
    gains = {g["group"]: g["uar"]["memory"] - g["uar"]["utterance"] for g in found["groups"] if g["kind"] == "speaker"}
    count = f"{sum(gain > 0 for gain in gains.values())} of {len(gains)}"
    assert f"{count} speakers gain (signed-rank test of the gains: p = 0." in printed
    worst = min(gains, key=gains.get)
    (recall,) = (group["uar"] for group in found["groups"] if group["group"] == worst)
    assert f"| {worst} | {100 * recall['utterance']:.1f} | {100 * recall['memory']:.1f} |" in printed
    means = [
        np.mean([row["uar"] for row in found["rows"] if row["listener"] == name]) for name in ("utterance", "memory")
    ]
    assert f"Fold 1: utterance {100 * means[0]:.1f}, memory {100 * (means[1] - means[0]):+.1f} points." in printed


@pytest.mark.parametrize("kept", [None, 1])
def test_a_host_has_the_first_blocks_of_both_models(kept, real, tmp_path):
    sizes = {"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "d_model": 16, "num_mel_bins": 8}
    sizes |= {"decoder_attention_heads": 2, "decoder_ffn_dim": 32}
    whisper = WhisperModel(WhisperConfig(**sizes, encoder_ffn_dim=32, vocab_size=64, pad_token_id=0))
    words = tokenizer({"<|im_end|>": 20})
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **sizes))
    for model in (whisper, text, words):
        model.save_pretrained(tmp_path / type(model).__name__)
    names = [str(tmp_path / type(model).__name__) for model in (whisper, text)]
    words.save_pretrained(tmp_path / type(text).__name__)
    hosts = []
    for folder in (tmp_path / "host", tmp_path / "again"):
        real["host_parts"].make_host(*names, 1, folder, encoder_blocks=kept)
        hosts.append(Qwen2AudioForConditionalGeneration.from_pretrained(folder))
        torch.rand(3)
    host, again = hosts
    # Also the embeddings of new tokens are the same.
    assert all(weight.equal(again.state_dict()[name]) for name, weight in host.state_dict().items())
    assert len(host.model.audio_tower.layers) == (kept or 2)
    assert len(host.get_decoder().layers) == 1
    for block, original in zip(host.model.audio_tower.layers, whisper.encoder.layers):
        torch.testing.assert_close(block.fc1.weight, original.fc1.weight)


def test_the_projector_whitens_what_the_tower_gives_at_audio_tokens(real):
    model, rng = tiny_model(), np.random.default_rng(0)
    turns = [{"audio": {"bytes": to_wav(rng.normal(0, 0.1, 8000 + 800 * n)), "path": None}} for n in range(30)]
    seen = []
    real["host_parts"].whiten_projector(model, tiny_processor(), turns, turns=30)
    projector = real["host_parts"].projector_of(model)
    projector.register_forward_hook(lambda module, args, output: seen.append(output))
    for turn in turns:
        inputs, _ = real["host_parts"].TurnScorer(model, tiny_processor()).inputs([load_turn(turn["audio"], 16_000)])
        count = int(model.audio_mask(inputs["input_ids"], dict(inputs)).sum())
        with torch.no_grad(), model.disable_memory():
            model(**inputs)
        seen[-1] = seen[-1].flatten(0, -2)[:count]
    projected = torch.cat(seen).double()
    scale = model.get_input_embeddings().weight.double().std()
    directions = torch.linalg.svdvals(projected - projected.mean(0)) / len(projected) ** 0.5
    assert projected.mean(0).abs().max() < 0.05 * scale
    # The others have hardly any variance in the tower's outputs either.
    widest = directions[: projector.linear.in_features // 4]
    assert widest.max() < 1.1 * widest.min()


def test_a_host_for_few_speakers_is_trained_and_names_what_it_cuts(real, tmp_path):
    folder = write_voices(tmp_path / "voices", speakers=4, takes=6)
    (folder / "0_joy_0.wav").unlink()
    (folder / "0_joy_0.wav").write_bytes(to_wav(tone(4.0)))
    voices = real["voices_reader"].read_voices(folder)
    folders = real["host"].write_data(voices, 2, [], tmp_path / "out", train=1, test=1, copies=0)
    singles = load_conversations(folders[0])["train"]
    save_base(tmp_path / "host")
    model = real["host"].from_host(tmp_path / "host", voices.labels, "conversation", "audio")
    before = real["host_parts"].projector_of(model).linear.weight.clone()
    with pytest.warns(CutTurnWarning, match=r"train_00000, turn 0 lasts 4\.0 s; its first 3 s are used"):
        real["host"].train_on_utterances(model, tiny_processor(), singles, steps=2, batch_size=4)
    assert not real["host_parts"].projector_of(model).linear.weight.equal(before)
    fit_voice_memory(model, tiny_processor(), singles)
    assert model.titans_memory.layers[0].voice_gain.item() == 1
    before = {name: tensor.clone() for name, tensor in model.named_parameters() if ".lora_B" in name}
    dialogues = load_conversations(folders[1])["train"]
    real["host"].train_on_dialogues(
        model, tiny_processor(), dialogues, steps=1, output=tmp_path / "memory", with_memory=True
    )
    changed = {name for name, tensor in model.named_parameters() if name in before and not tensor.equal(before[name])}
    assert any(".layers.1." in name for name in changed)
    assert not any(".layers.0." in name for name in changed), "the memory was fitted to the outputs of block 0"


def report_of(predicted: dict[str, list[str]], labels: list[str], speaker: str) -> SimpleNamespace:
    """What pooling uses of a report on dialogues of two turns."""
    turns = [
        {
            "conversation_id": f"talk {place // 2}",
            "turn_index": place % 2,
            "speaker": speaker,
            "label": label,
            "predicted": {name: words[place] for name, words in predicted.items()},
        }
        for place, label in enumerate(labels)
    ]
    conditions = {name: {"title": f"title of {name}"} for name in predicted}
    return SimpleNamespace(protocol={"labels": ["happy", "sad"]}, conditions=conditions, predictions=turns)


def test_reports_of_the_host_are_pooled_over_folds(real, tmp_path, monkeypatch, capsys):
    labels = ["happy", "sad", "sad", "sad"]
    right, half = labels, ["happy", "happy", "happy", "sad"]
    folds = {
        "one": {"memory": (right, half, half), "plain": (half,)},
        "two": {"memory": (right, right, half), "plain": (half,)},
    }
    found = {}
    for fold, reports in folds.items():
        for name, words in reports.items():
            (tmp_path / fold / name / "report").mkdir(parents=True)
            conditions = ("memory", "memory_off", "other_state") if name == "memory" else ("memory_off", "transitions")
            predicted = dict(zip(conditions, words))
            if name == "memory":
                predicted["transitions"] = half
            found[tmp_path / fold / name / "report"] = report_of(predicted, labels, f"speaker {fold}")
    monkeypatch.setattr(EvaluationReport, "load", lambda folder: found[folder])
    for fold, output in enumerate((tmp_path / "one", tmp_path / "two")):
        (output / "host_options.json").write_text(json.dumps({"fold": fold, "blocks": 2}))
    real["host_folds"].main([tmp_path / "one", tmp_path / "two"], resamples=200)
    printed = capsys.readouterr().out
    assert "8 turns of 2 speakers in 4 dialogues" in printed
    assert "With only 2 test speakers, the intervals are too narrow." in printed
    assert "memory, title of memory: UA 100.0, WA 100.0" in printed
    # Of six sad turns, four are right.
    assert f"memory, title of memory_off: UA {100 * (1 + 4 / 6) / 2:.1f}, WA 75.0" in printed
    assert "memory of memory - memory_off of memory: UA +16.7 (" in printed
    assert ", WA +25.0 (" in printed
    assert "memory of memory - memory_off of plain: UA +33.3 (" in printed
    assert "with the memory, 2 turns become right and 0 wrong" in printed
    assert "speaker one: 100.0 with the memory, 66.7 without" in printed
    assert "transitions" not in [line.split(" of ")[0] for line in printed.splitlines()]
    lacking = found[tmp_path / "two" / "memory" / "report"].predictions
    del lacking[0]["predicted"]["other_state"]
    with pytest.raises(ValueError, match="1 of 4 turns of a fold have no prediction of 'other_state'"):
        real["host_folds"].main([tmp_path / "one", tmp_path / "two"], resamples=200)
    found[tmp_path / "one" / "plain" / "report"].predictions[0]["label"] = "sad"
    with pytest.raises(ValueError, match="memory and plain of a fold are of different turns"):
        real["host_folds"].main([tmp_path / "one", tmp_path / "two"], resamples=200)


def test_seeds_of_the_host_are_averaged(real, tmp_path, monkeypatch, capsys):
    labels = ["happy", "sad"]
    of_seeds = {"seed 0": (labels, ["happy", "happy"]), "seed 1": (labels, labels)}
    found = {}
    for seed, (name, (memory, off)) in enumerate(of_seeds.items()):
        folder = tmp_path / name / "memory" / "report"
        folder.mkdir(parents=True)
        predicted = {"memory": memory, "memory_off": off, "other_state": labels, "transitions": labels}
        found[folder] = report_of(predicted, labels, "speaker")
        (tmp_path / name / "host_options.json").write_text(json.dumps({"fold": 1, "seed": seed}))
    monkeypatch.setattr(EvaluationReport, "load", lambda folder: found[folder])
    real["host_folds"].main([tmp_path / name for name in of_seeds], resamples=50)
    printed = capsys.readouterr().out
    assert "2 turns of 1 speakers in 1 dialogues; 2 seeds" in printed
    assert "memory, title of memory_off: UA 75.0, WA 75.0" in printed
    assert "memory of memory - memory_off of memory: UA +25.0 (" in printed
    assert "[by seed: +50.0, +0.0]" in printed
    assert "with the memory, 0.5 turns become right and 0 wrong" in printed


def test_pooled_hosts_have_the_same_options_and_seeds(real, tmp_path):
    def output(name, **options):
        (tmp_path / name).mkdir()
        (tmp_path / name / "host_options.json").write_text(json.dumps({"blocks": 2, **options}))
        return tmp_path / name

    by_fold = real["host_folds"].outputs_by_fold
    one, other, two = output("one", fold=1, seed=1), output("other", fold=1, seed=0), output("two", fold=2, seed=0)
    assert by_fold([one, other]) == [[other, one]]
    assert by_fold([two, other]) == [[two], [other]]
    assert by_fold([output("earlier", fold=3), two]) == [[tmp_path / "earlier"], [two]]
    with pytest.raises(ValueError, match=r"same seeds, got, by fold: \{1: \[0, 1\], 2: \[0\]\}"):
        by_fold([one, other, two])
    with pytest.raises(ValueError, match="are of the same fold and seed: give each once"):
        by_fold([one, two, one])
    with pytest.raises(ValueError, match=r"three and .*one contain hosts of other options"):
        by_fold([one, output("three", fold=3, seed=1, blocks=3)])


def test_a_host_with_other_options_is_not_used_again(real, tmp_path):
    check = real["options_file"].check_options
    check(tmp_path / "options.json", {"readout": "audio", "fold": 1})
    check(tmp_path / "options.json", {"readout": "audio", "fold": 1})
    with pytest.raises(ValueError, match=r"other options \(readout: audio then, linear now\)"):
        check(tmp_path / "options.json", {"readout": "linear", "fold": 1})
    with pytest.raises(ValueError, match=r"\(fold: 1 then, None now\)"):
        check(tmp_path / "options.json", {"readout": "audio"})
    with pytest.raises(ValueError, match="not empty, and no options are recorded"):
        check(tmp_path / "others.json", {"readout": "audio"})


def test_paths_are_recorded_as_absolute_ones(real, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check = real["options_file"].check_options
    check(tmp_path / "new" / "options.json", {"voices": Path("a"), "sequences": [Path("b")], "test_voices": None})
    check(
        tmp_path / "new" / "options.json",
        {"voices": tmp_path / "a", "sequences": [tmp_path / "b"], "test_voices": None},
    )
