"""Small trees that look like the corpora, with the traps of the real ones inside."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import av
import numpy as np
from tiny_models import tone

from titans_mal.data.synthetic.voices import to_wav


def write_wav(path: Path, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_wav(tone(seconds)))


def write_mp4(
    path: Path, seconds: float = 0.5, *, rate: int = 48_000, layout: str = "stereo", in_channel=None
) -> None:
    """A clip with AAC audio: a tone in all channels, or in one of them alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=rate, layout=layout)
        samples = np.zeros((stream.layout.nb_channels, int(seconds * rate)), np.float32)
        samples[slice(None) if in_channel is None else in_channel] = 0.3 * np.sin(
            2 * np.pi * 200 * np.arange(samples.shape[1]) / rate
        )
        for start in range(0, samples.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(samples[:, start : start + 1024], format="fltp", layout=layout)
            frame.sample_rate = rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    path.write_bytes(buffer.getvalue())


def write_csv(path: Path, rows: list[dict], encoding: str = "utf-8", newline: str = "\r\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.StringIO(newline="")
    table = csv.DictWriter(buffer, list(rows[0]), lineterminator=newline)
    table.writeheader()
    table.writerows(rows)
    path.write_bytes(buffer.getvalue().encode(encoding))


def iemocap(root: Path, sessions=(1, 2, 3, 4, 5)) -> Path:
    """Two dialogues a session, listed one speaker after the other, with a label outside of the sets in each."""
    for number in sessions:
        for dialogue in (f"Ses0{number}F_impro01", f"Ses0{number}M_script01_1b"):
            session = root / f"Session{number}"
            # Name, start, end, code, words; those of one speaker first.
            turns = [
                (f"{dialogue}_F000", 0.5, 1.5, "neu", "Hello."),
                (f"{dialogue}_F001", 4.25, 5.0, "exc", "What!"),
                (f"{dialogue}_F002", 7.0, 7.5, "xxx", "Well."),
                (f"{dialogue}_M000", 2.0, 3.5, "fru", "No."),
                (f"{dialogue}_M001", 5.5, 6.25, "ang", "Never: [LAUGHTER]"),
            ]
            lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
            for name, start, end, code, _ in turns:
                lines += [
                    f"[{start:.4f} - {end:.4f}]\t{name}\t{code}\t[2.5000, 2.5000, 2.5000]",
                    "C-E2:\tNeutral;\t()",
                    "C-E4:\tAnger; Frustration;\t()",
                    f"C-{name[-4]}1:\tAnger; Happiness;\t()",
                    "A-E3:\tval 3; act 2; dom  2;\t()",
                    "",
                ]
                write_wav(session / "sentences" / "wav" / dialogue / f"{name}.wav", end - start)
            evaluation = session / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"
            evaluation.parent.mkdir(parents=True, exist_ok=True)
            evaluation.write_text("\n".join(lines))
            (evaluation.parent / f"._{dialogue}.txt").write_bytes(b"\x00\x05\x16\x07")
            (evaluation.parent / "Categorical").mkdir(exist_ok=True)
            (evaluation.parent / "Categorical" / f"{dialogue}_e2_cat.txt").write_text(f"{turns[0][0]} :Anger; ()")
            transcript = session / "dialog" / "transcriptions" / f"{dialogue}.txt"
            transcript.parent.mkdir(parents=True, exist_ok=True)
            spoken = [f"{name} [{start:08.4f}-{end:08.4f}]: {words}" for name, start, end, _, words in turns]
            transcript.write_text("\n".join([*spoken, f"{dialogue}_FXX0 [003.0-003.2]: Mm.", "M: aside"]))
    return root


def _meld_row(dialogue, utterance, speaker, emotion, sentiment, start, end, words="Hi.") -> dict:
    return {
        "Sr No.": "1",
        "Utterance": words,
        "Speaker": speaker,
        "Emotion": emotion,
        "Sentiment": sentiment,
        "Dialogue_ID": dialogue,
        "Utterance_ID": utterance,
        "Season": "1",
        "Episode": "2",
        "StartTime": start,
        "EndTime": end,
    }


def meld(root: Path) -> Path:
    """Dialogue 0 in each split, with a gap, a start time that goes back, and one trap of each kind."""
    for split, clips in (
        ("train", "train/train_splits"),
        ("dev", "dev_splits_complete"),
        ("test", "output_repeated_splits_test"),
    ):
        rows = [
            _meld_row(0, 4, "Joey", "joy", "positive", "0:16:20,059", "0:16:21,1", words="That\u2019s \u201cit\u201d"),
            _meld_row(0, 0, "Chandler", "surprise", "negative", "00:16:16,059", "00:16:17,500"),
            _meld_row(0, 1, "Joey", "neutral", "neutral", "00:16:15,000", "00:16:17,900"),
        ]
        write_mp4(root / clips / "dia0_utt0.mp4", 0.6, layout="5.1", in_channel=3)
        write_mp4(root / clips / "dia0_utt1.mp4", 0.6, layout="mono")
        write_mp4(root / clips / "dia0_utt4.mp4", 0.6)
        (root / clips / "._dia0_utt0.mp4").write_bytes(b"\x00")
        if split == "train":
            rows.append(_meld_row(125, 3, "Ross", "anger", "negative", "00:01:00,000", "00:01:01,000"))
            whole = root / clips / "dia125_utt3.mp4"
            write_mp4(whole)
            whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        elif split == "dev":
            rows.append(_meld_row(110, 7, "Ross", "sadness", "negative", "00:01:00,000", "00:01:01,000"))
            write_mp4(root / clips / "dia49_utt4.mp4")
        else:
            rows.append(_meld_row(38, 4, "All", "fear", "negative", "00:01:00,000", "00:06:05,000"))
            rows.append(_meld_row(93, 5, "Guy #1", "disgust", "negative", "00:01:00,000", "00:01:00,064"))
            write_mp4(root / clips / "dia38_utt4.mp4", 62, rate=16_000, layout="mono")
            write_mp4(root / clips / "dia93_utt5.mp4", 0.064, layout="mono")
            write_mp4(root / clips / "final_videos_testdia101_utt0.mp4")
        # One of the copies is in Windows-1252.
        write_csv(root / f"{split}_sent_emo.csv", rows, encoding="cp1252" if split == "train" else "utf-8")
    return root


def m3ed(root: Path) -> Path:
    annotation = {}
    for movie in ("anjia", "biancheng", "xiaohuanxi"):
        clip = f"{movie}_1"
        dialog = {}
        # Ten turns: as strings, the tenth would come second.
        for number in range(1, 11):
            letter = "AB"[number % 2]
            dialog[f"{clip}_{number}"] = {
                "StartTime": f"00:00:{number:02d}:05",
                "EndTime": f" 00:00:{number:02d}:20",
                "Text": "是 的",
                "Speaker": letter,
                "EmoAnnotation": {"EmoAnnotator1": "Sad", "final_mul_emo": "Sad", "final_main_emo": "Anger"},
            }
            write_wav(root / "modality_speech" / f"{letter}_{clip}_{number}.wav")
        annotation[movie] = {
            clip: {
                "Dialog": dialog,
                "SpeakerInfo": {"A": {"Name": "李", "Gender": "女"}, "B": {"Name": "王", "Gender": "Male"}},
            },
            f"{movie}_2": {
                "Dialog": {f"{movie}_2_1": {**dialog[f"{clip}_1"], "Speaker": "A"}},
                "SpeakerInfo": {"A": {"Name": "王", "Gender": "男"}},
            },
        }
        write_wav(root / "modality_speech" / f"A_{movie}_2_1.wav")
    (root / "annotation.json").write_text(json.dumps(annotation, ensure_ascii=False), encoding="utf-8")
    (root / "splitInfo").mkdir()
    for split, movie in zip(("train", "val", "test"), annotation):
        (root / "splitInfo" / f"movie_list_{split}.txt").write_text(movie)
    return root


def dailytalk(root: Path, dialogues: int = 6) -> Path:
    metadata = {}
    for number in range(dialogues):
        utterances = {}
        # Eleven turns, of which the first is by either of the two; listed in another order than they were spoken.
        for index in (10, *range(10)):
            speaker = (number + index) % 2
            emotion = ("no emotion", "happiness")[index % 2]
            utterances[str(index)] = {"turn": 1, "speaker": speaker, "text": "Yes.", "emotion": emotion}
            write_wav(root / "data" / str(number) / f"{index}_{speaker}_d{number}.wav", 0.2)
        metadata[str(number)] = utterances
    (root / "metadata.json").write_text(json.dumps(metadata))
    return root


def emorynlp(root: Path) -> Path:
    for number, split in enumerate(("train", "dev", "test")):
        rows = []
        for utterance, speakers in ((1, "['Rachel Green']"), (3, '["Phoebe\'s Assistant", "#ALL#"]')):
            rows.append(
                {
                    "Utterance": "Coffee.",
                    "Speaker": speakers,
                    "Emotion": ("Neutral", "Mad")[utterance == 3],
                    "Scene_ID": 1,
                    "Utterance_ID": utterance,
                    "Season": 1,
                    "Episode": 10 + number,
                    "Start_Time": "00:00:03.795",
                    "End_Time": "00:00:05.004",
                }
            )
            clip = f"emorynlp_{split}_splits/sea1_ep{10 + number}_sc1_utt{utterance}.mp4"
            write_mp4(root / clip)
        write_csv(root / f"emorynlp_{split}_final.csv", rows, newline="\n")
    return root


def msp_podcast(root: Path) -> Path:
    rows, times = [], {}
    for name, code, speaker, split in (
        ("MSP-PODCAST_0001_0010.wav", "H", "12", "Train"),
        ("MSP-PODCAST_0001_0008.wav", "N", "Unknown", "Train"),
        ("MSP-PODCAST_0001_0009.wav", "X", "Unknown", "Train"),
        ("MSP-PODCAST_0001_0011.wav", "A", "12", "Test1"),
        ("MSP-PODCAST_0002_0001.wav", "C", "7", "Development"),
    ):
        rows.append({"FileName": name, "EmoClass": code, "EmoAct": 4.0, "SpkrID": speaker, "Split_Set": split})
        rows[-1]["Gender"] = "Male" if speaker == "12" else "Unknown"
        write_wav(root / "Audios" / name)
        segment = int(name[-8:-4])
        times[name.removesuffix(".wav")] = {"Start_Time": 10.0 * segment, "End_Time": 10.0 * segment + 0.5}
    write_csv(root / "Labels" / "labels_consensus.csv", rows)
    (root / "Time Labels").mkdir()
    (root / "Time Labels" / "segments.json").write_text(json.dumps(times))
    return root


def msp_improv(root: Path) -> Path:
    lines = []
    for session in range(1, 7):
        actor = f"F{session:02d}"
        for scenario, letters, code in (
            ("T", "MF02", "A"),
            ("T", "FM01", "N"),
            ("S", "MF03", "H"),
            ("R", "FF01", "X"),
            ("P", "FM01", "S"),
        ):
            name = f"S01A-{actor}-{scenario}-{letters}"
            lines += [
                f"UTD-IMPROV-{name}.avi; {code}; A:3.000000; V:NaN; D:3.000000 ; N:4.000000;",
                "WORKER0001; Angry; Angry,Frustrated; A:3; V:3; D:3; N:3;",
                "",
            ]
            write_wav(root / "Audio" / f"session{session}" / "S01A" / scenario / f"MSP-IMPROV-{name}.wav")
    (root / "Evalution.txt").write_text("\n".join(lines))
    return root


def crema_d(root: Path) -> Path:
    for actor in range(1001, 1008):
        for emotion in ("ANG", "NEU"):
            write_wav(root / "AudioWAV" / f"{actor}_DFA_{emotion}_XX.wav")
    actors = ((1001, 51, "Male"), (1002, 21, "Female"))
    write_csv(
        root / "VideoDemographics.csv", [{"ActorID": actor, "Age": age, "Sex": sex} for actor, age, sex in actors]
    )
    (root / "AudioWAV" / "1076_MTI_SAD_XX.wav").write_bytes(to_wav(np.zeros(8000)))
    (root / "AudioWAV" / "1002_ITH_SAD_X.wav").write_text("version https://git-lfs.github.com/spec/v1\n")
    write_wav(root / "AudioWAV" / "notes.wav")
    return root


def ravdess(root: Path) -> Path:
    for actor in (1, 2, 5, 24):
        for folder in ("", "copy/"):
            write_wav(root / f"{folder}Actor_{actor:02d}" / f"03-01-05-01-02-01-{actor:02d}.wav")
        write_wav(root / f"Actor_{actor:02d}" / f"03-02-05-01-02-01-{actor:02d}.wav")
    return root


def emodb(root: Path) -> Path:
    """Each speaker angry and neutral, one of them bored in capitals, a speaker that EmoDB does not have, and notes."""
    for speaker in ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16", "07"):
        write_wav(root / "wav" / f"{speaker}a01Wa.wav")
        write_wav(root / "wav" / f"{speaker}b10Nb.wav")
    write_wav(root / "wav" / "03a05Lc.WAV")
    write_wav(root / "wav" / "notes.wav")
    return root
