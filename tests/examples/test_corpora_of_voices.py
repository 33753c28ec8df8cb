"""Corpora of the example on human voices: what their tables may contain, and what the scripts make of them."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from made_up_voices import corpus_of, write_voices
from tiny_models import tone
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

from titans_mal import load_conversations
from titans_mal.data.synthetic.voices import to_wav


def write_table(folder: Path, rows: list[dict], *, seconds: float = 0.3) -> Path:
    """A folder with a table of these rows, and their files where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["file_name", "speaker", "emotion"])
        table.writeheader()
        table.writerows(rows)
    for number, row in enumerate(rows):
        path = folder / row["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(to_wav(tone(seconds, frequency=100 + 3 * number)))
    return folder


def rows_of(speakers=("a", "b", "c", "d"), emotions=("angry", "sad"), takes: int = 2) -> list[dict]:
    """Rows whose file names are the same for each speaker and emotion, in folders of their own."""
    return [
        {"file_name": f"{speaker}/{emotion}/{take}.wav", "speaker": speaker, "emotion": emotion}
        for speaker in speakers
        for emotion in emotions
        for take in range(takes)
    ]


def tiny_whisper(folder: Path) -> str:
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 16, "num_mel_bins": 8, "encoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 32}
    torch.manual_seed(0)
    WhisperModel(WhisperConfig(**sizes, **heads, vocab_size=64, pad_token_id=0)).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=8).save_pretrained(folder)
    return str(folder)


def test_a_folder_of_utterances_is_read_with_its_folds(real, tmp_path):
    voices = real["voices_reader"].read_voices(write_voices(tmp_path, speakers=7, takes=1))
    assert voices.labels == ["happy", "sad"]
    assert [len(fold) for fold in voices.folds] == [3, 2, 2]
    assert sorted(name for fold in voices.folds for name in fold) == voices.speakers
    assert voices.licence == "CC BY-NC 4.0"
    with pytest.raises(ValueError, match=r"no utterances labelled \['calm'\]"):
        voices.keep(["calm"])
    few = real["voices_reader"].read_voices(write_voices(tmp_path / "few", speakers=3, takes=1))
    with pytest.raises(ValueError, match=r"Two folds of at least 2 speakers each are needed, but few has only"):
        few.check_folds()
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="must hold metadata"):
        real["voices_reader"].read_voices(tmp_path / "empty")


def test_speakers_without_a_kept_label_are_in_no_fold(real, tmp_path):
    voices = real["voices_reader"].read_voices(write_voices(tmp_path, speakers=7, takes=1))
    utterances = [u for u in voices.utterances if (u.speaker, u.emotion) not in {("p0", "sad"), ("p4", "sad")}]
    kept = dataclasses.replace(voices, utterances=tuple(utterances)).keep(["sad"])
    assert kept.speakers == ["p1", "p2", "p3", "p5", "p6"]
    # Two of the three folds would have one speaker, who would never be tested.
    assert kept.folds == (("p1", "p2", "p3"), ("p5", "p6"))
    assert voices.keep(["sad"]).folds == voices.folds


def test_folds_of_a_part_of_a_corpus_are_drawn_again(real):
    usable_folds = real["voices"].usable_folds
    assert usable_folds([["a", "b"], ["c", "d", "e"]]) == (("a", "b"), ("c", "d", "e"))
    assert usable_folds([["a", "b", "c", "d"]]) == (("a", "b"), ("c", "d"))
    assert usable_folds([["a", "b", "c", "d"], ["e"]]) == (("a", "b", "c"), ("d", "e"))
    assert usable_folds([["a", "b"], ["c"]]) == ()


def test_labels_are_compared_without_capitals_and_blanks(real, tmp_path, capsys):
    rows = rows_of()
    rows[0]["emotion"], rows[1]["emotion"], rows[2]["emotion"] = "Anger", " ANGRY ", ""
    rows[4]["speaker"] = " b"
    voices = real["voices_reader"].read_voices(write_table(tmp_path, [*rows, rows[5]]))
    assert (voices.labels, voices.speakers) == (["angry", "sad"], ["a", "b", "c", "d"])
    assert len(voices.utterances) == len(rows) - 1
    printed = capsys.readouterr().out
    assert "rows left out since they are without an emotion: 1." in printed
    assert "rows left out since they are repeated: 1." in printed
    assert str(voices) == f"{tmp_path.name}: 15 utterances of 4 speakers (angry 8, sad 7)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speaker": ""}, "line 17: file_name and speaker must not be empty"),
        ({"file_name": " "}, "line 17: file_name and speaker must not be empty"),
        (
            {"file_name": "a/angry/0.wav"},
            "line 17: a/angry/0.wav has other fields in an earlier row",
        ),
    ],
)
def test_rows_that_contradict_are_rejected(real, tmp_path, change, message):
    rows = rows_of()
    folder = write_table(tmp_path, rows)
    with pytest.raises(ValueError, match=message):
        real["voices_reader"].read_voices(write_table(folder, [*rows[:-1], rows[-1] | change]))


@pytest.mark.parametrize("line", ["a/angry/0.wav,a,angry,more", "a/angry/0.wav,a"])
def test_rows_with_too_many_or_few_fields_are_rejected(real, tmp_path, line):
    folder = write_table(tmp_path, rows_of())
    with open(folder / "metadata.csv", "a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match="line 18: the number of fields differs from that of the header"):
        real["voices_reader"].read_voices(folder)


def test_missing_files_are_named_at_once(real, tmp_path):
    folder = write_table(tmp_path, rows_of())
    for name in ("b/sad/0.wav", "c/sad/0.wav"):
        (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"2 files of .* do not exist, the first is .*b/sad/0\.wav"):
        real["voices_reader"].read_voices(folder)


def test_files_of_one_name_stay_apart_in_dialogues(real, tmp_path):
    voices = real["voices_reader"].read_voices(write_table(tmp_path / "voices", rows_of(takes=6)))
    real["compose"].main(tmp_path / "voices", tmp_path / "out", train=6, test=3)
    contents = {utterance.path.read_bytes(): utterance for utterance in voices.utterances}
    for table in load_conversations(tmp_path / "out").values():
        for row in table:
            utterance = contents[Path(row["audio"]["path"]).read_bytes()]
            label = table.features["emotion"].int2str(row["emotion"])
            assert (row["speaker"], label) == (utterance.speaker, utterance.emotion)
    slashed = write_table(tmp_path / "slashed", [row | {"speaker": f"x/{row['speaker']}"} for row in rows_of(takes=6)])
    real["compose"].main(slashed, tmp_path / "of_slashed", train=2, test=2)
    assert {*load_conversations(tmp_path / "of_slashed")["test"]["speaker"]} == {"x/a", "x/b"}


def test_a_table_of_dialogues_is_complete_or_not_there(real, tmp_path, monkeypatch):
    voices = real["voices_reader"].read_voices(write_table(tmp_path / "voices", rows_of(takes=6)))
    written, write = [], real["compose"]._write_audio

    def interrupted(utterance, target):
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(target)
        write(utterance, target)

    monkeypatch.setattr(real["compose"], "_write_audio", interrupted)
    given = (voices, 1, [], tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        real["host"].write_data(*given, train=2, test=2, copies=1)
    monkeypatch.setattr(real["compose"], "_write_audio", write)
    singles, _ = real["host"].write_data(*given, train=2, test=2, copies=1)
    assert len(load_conversations(singles)["train"]) == 2 * 24


def test_folds_of_the_host_are_counted_from_one(real, tmp_path):
    voices = real["voices_reader"].read_voices(write_table(tmp_path, rows_of()))
    real["compose"].check_fold(voices, 2)
    for fold in (0, 3, -1):
        with pytest.raises(typer.BadParameter, match=f"--fold must be in 1..2 for {tmp_path.name}, got {fold}"):
            real["compose"].check_fold(voices, fold)


def test_features_follow_the_contents_of_files(real, tmp_path):
    folder, whisper, cache = tmp_path / "voices", tiny_whisper(tmp_path / "whisper"), tmp_path / "cache"
    read, features_of = real["voices_reader"].read_voices, real["encoder_features"].features_of
    voices = read(write_table(folder, rows_of()))
    first = features_of(voices, whisper, cache)
    np.testing.assert_array_equal(features_of(voices, whisper, cache), first)
    assert len(list(cache.iterdir())) == 1
    (folder / "a/angry/0.wav").write_bytes(to_wav(tone(0.5, frequency=333)))
    changed = read(folder)
    assert changed.fingerprint != voices.fingerprint
    again = features_of(changed, whisper, cache)
    assert (again[0] != first[0]).any()
    np.testing.assert_array_equal(again[1:], first[1:])
    renamed = dataclasses.replace(changed, name="CMU/voices")
    np.testing.assert_array_equal(features_of(renamed, whisper, cache), again)
    assert len(list(cache.iterdir())) == 3


def test_another_table_is_another_run(real, tmp_path):
    voices = real["voices_reader"].read_voices(write_table(tmp_path / "voices", rows_of()))
    sequences = tmp_path / "sequences.csv"
    sequences.write_text("a")
    options = real["options_file"]
    file = tmp_path / "out" / "options.json"
    for _ in range(2):
        options.check_options(file, options.fingerprints(voices, sequences=[sequences]))
    sequences.write_text("b")
    with pytest.raises(ValueError, match="contents of sequences"):
        options.check_options(file, options.fingerprints(voices, sequences=[sequences]))
    sequences.write_text("a")
    first, *others = voices.utterances
    swapped = dataclasses.replace(voices, utterances=(dataclasses.replace(first, emotion="sad"), *others))
    with pytest.raises(ValueError, match="data"):
        options.check_options(file, options.fingerprints(swapped, sequences=[sequences]))


@pytest.mark.parametrize("seconds", [0.045, 0.1, 0.2, 0.24])
def test_short_utterances_have_finite_features(real, tmp_path, seconds):
    turns = real["encoder_features"].WhisperTurns(tiny_whisper(tmp_path / "whisper"))
    (tmp_path / "short.wav").write_bytes(to_wav(tone(seconds)))
    assert np.isfinite(turns(tmp_path / "short.wav")).all()


@pytest.mark.parametrize(
    ("samples", "message"),
    [(tone(0.03), "lasts 0.030 s, but the minimum is 0.04 s"), (np.zeros(16_000, np.float32), "silent")],
)
def test_useless_audio_is_named(real, tmp_path, samples, message):
    turns = real["encoder_features"].WhisperTurns(tiny_whisper(tmp_path / "whisper"))
    (tmp_path / "bad.wav").write_bytes(to_wav(samples))
    with pytest.raises(ValueError, match=rf"bad\.wav.*{message}|{message}.*bad\.wav"):
        turns(tmp_path / "bad.wav")


@pytest.mark.parametrize("labels", [2, 3])
def test_readouts_of_two_labels_are_no_coin(real, labels):
    """Two of two labels, or two of three: scikit-learn then has a single row of weights."""
    rng = np.random.default_rng(0)
    speakers, emotions = corpus_of(speakers=8, emotions=2, takes=10)
    features = np.stack([emotions + 0.3 * rng.standard_normal(len(emotions)) for _ in range(6)], 1)
    features[:, 3:] = rng.standard_normal((len(emotions), 3))
    corpus = real["corpus"].Corpus.of(features.astype(np.float32), speakers, emotions)
    part = real["study"].Part(corpus, range(6), labels, real["corpus"].Scripts(), seed=(0,))
    test = real["scored_dialogues"].TestDialogues(corpus, [6, 7], None, part.hidden, seed=(1,), count=20)
    for name, options in (("utterance", {}), ("memory", {"shrinkage": 1.0})):
        model = part.train(name, seed=(2,), penalty=0.1, **options)
        with torch.no_grad():
            logits = model(test.batch)
        assert real["intervals"].average_recall(test.is_right(logits), test.emotions)[0] > 0.9
        assert (logits.argmax(-1) < 2).all()


def test_a_monologue_is_no_other_history(real):
    speakers, emotions = corpus_of(speakers=7, takes=40)
    features = np.random.default_rng(0).standard_normal((len(speakers), 8)).astype(np.float32)
    corpus = real["corpus"].Corpus.of(features, speakers, emotions)
    part = real["study"].Part(corpus, range(3, 7), 3, real["corpus"].Scripts(), seed=(0,))
    test = real["scored_dialogues"].TestDialogues(
        corpus, [0, 1, 2], None, part.hidden, seed=(1,), others=[3, 4, 5, 6], count=100
    )
    counts = [len({*speakers[row[row >= 0].numpy()]}) for row in test.partners.utterances]
    assert test.has_partner.all()
    assert min(counts) == 2


def test_draws_of_random_emotions_are_counted_too(real):
    speakers, emotions = corpus_of(speakers=2, takes=4)
    _, skipped = real["dialogues"].Composer(speakers, emotions, [0, 1], seed=(0,)).draw(None, 50)
    assert skipped > 0


def test_folds_are_not_those_of_another_corpus(real, tmp_path):
    voices = write_table(tmp_path / "voices", rows_of())
    others = write_table(tmp_path / "others", rows_of(speakers=("y", "z")), seconds=0.4)
    with pytest.raises(typer.BadParameter, match="omit it with --test-voices"):
        real["features"].main(voices, "whisper", tmp_path / "out", folds="1", test_voices=others)


def test_numbers_of_options(real):
    numbers_of = real["features"].numbers_of
    assert numbers_of(None, range(1, 4), "--folds") == [1, 2, 3]
    assert numbers_of("3, 1", range(1, 4), "--folds") == [3, 1]
    for wrong in ("0", "1-3", "4", "x", "1,,2"):
        with pytest.raises(typer.BadParameter, match=rf"--folds must be numbers in 1\.\.3, got {wrong}"):
            numbers_of(wrong, range(1, 4), "--folds")


def test_corpora_of_training_and_test_are_different(real, tmp_path, capsys):
    read, check = real["voices_reader"].read_voices, real["features"].check_voices
    voices = read(write_table(tmp_path / "voices", rows_of()))
    check(voices, voices)
    assert "voices: 16 utterances of 4 speakers (angry 8, sad 8)" in capsys.readouterr().out
    with pytest.raises(typer.BadParameter, match="16 recordings are in both --voices and --test-voices"):
        check(voices, read(tmp_path / "voices"))
    others = read(write_table(tmp_path / "others", rows_of(speakers=("a", "z")), seconds=0.4))
    check(voices, others)
    assert "speakers of the same names: ['a']" in capsys.readouterr().out
    with pytest.raises(typer.BadParameter, match="A dialogue needs 2 speakers"):
        check(voices, read(write_table(tmp_path / "one", rows_of(speakers=("z",)), seconds=0.5)))
    with pytest.raises(typer.BadParameter, match=r"others has \['sad'\]: give --labels"):
        check(voices, others.keep(["sad"]))
    with pytest.raises(typer.BadParameter, match="Two labels are needed"):
        check(voices.keep(["sad"]), voices.keep(["sad"]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("train", "1", "first", "A", "joy")], "the number of a turn must be an integer, got 'first'"),
        ([("train", "1", "0", "A", "joy")] * 2, "dialogue 1 of train has two turns 0"),
    ],
)
def test_tables_of_sequences_are_checked(real, tmp_path, rows, message):
    with open(tmp_path / "plain.csv", "w", newline="") as file:
        csv.writer(file).writerows([("split", "dialogue", "turn", "speaker", "emotion"), *rows])
    with pytest.raises(ValueError, match=message):
        real["dialogues"].read_sequences(tmp_path / "plain.csv", {"joy": "happy"})


def test_splits_and_dialogues_may_have_any_name(real, tmp_path):
    rows = [("Train", "Ses01", str(turn), "AB"[turn % 2], "joy") for turn in range(10)]
    with open(tmp_path / "plain.csv", "w", newline="") as file:
        csv.writer(file).writerows([("split", "dialogue", "turn", "speaker", "emotion"), *rows])
    found = real["dialogues"].read_sequences(tmp_path / "plain.csv", {"joy": "happy"})
    assert {split: [len(piece) for piece in pieces] for split, pieces in found.items()} == {"train": [10]}
    with pytest.raises(typer.BadParameter, match=r"no dialogues of the splits \['test'\]"):
        real["compose"].scripts_of([tmp_path / "plain.csv"], ["happy"], required=["test"])
