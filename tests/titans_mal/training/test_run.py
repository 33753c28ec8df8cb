"""A whole training from its options: `titans-mal train` and `titans-mal ablate`, in this process."""

import csv
import json
import runpy
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tiny_models import LABELS, save_base
from transformers import AutoConfig
from typer.testing import CliRunner

from titans_mal import AutoModelForAudioEmotion
from titans_mal.cli import app
from titans_mal.training import ConversationTrainer, run
from titans_mal.training.run import hold_out, lock
from titans_mal.training.run_options import ModelOptions, parse_options
from titans_mal.training.run_report import check_same_options, write_options


SMALL = '{"num_heads": 2, "head_dim": 8, "chunk_size": 4}'


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_base(folder)
    return folder


def invoke(command: str, base, talks, output, *options: str, labels=LABELS):
    """A command on one step of training."""
    given = {"label-set": ",".join(labels)} if labels else {}
    given |= {
        "base-model": base, "dataset": talks, "output-dir": output, "window": 3,
        "per-device-train-batch-size": 1, "max-steps": 1, "validation-share": 0, "save-steps": 1, "use-cpu": True,
    }  # fmt: skip
    words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
    return CliRunner().invoke(app, [command, *words, *options])


def test_train_writes_a_model_and_a_report_and_warns_of_a_local_base(base, talks_folder, tmp_path):
    words = ("--label-words", '{"sad": "word1"}')
    done = invoke("train", base, talks_folder, tmp_path, "--memory-layers", "0", "--memory", SMALL, *words)
    assert done.exit_code == 0, done.output
    assert AutoConfig.from_pretrained(tmp_path / "model").label_words == {"sad": "word1"}
    assert "Warning: The trained model cannot be published as it is: The base of this adapter is" in done.output
    assert "| memory on |" in done.output
    assert AutoModelForAudioEmotion.from_pretrained(tmp_path / "model").config.memory_config.layers == [0]
    assert (tmp_path / "report" / "report.json").is_file()
    again = invoke("train", base, talks_folder, tmp_path, "--memory-layers", "0", "--memory", SMALL)
    assert again.exit_code == 1
    assert "already holds a training: pass --resume to continue it" in one_line_error(again)


def test_a_longer_training_replaces_the_report(base, talks_folder, tmp_path):
    options = ("--memory-layers", "0", "--memory", SMALL, "--validation-share", "0.3", "--calibrate", "True")
    assert invoke("train", base, talks_folder, tmp_path, *options).exit_code == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    marks = [tmp_path / folder / "mark" for folder in ("report", "calibration")]
    for mark in marks:
        mark.touch()
    # Nothing is trained again: report and scores are kept.
    assert invoke("train", base, talks_folder, tmp_path, *options, "--resume").exit_code == 0
    assert all(mark.exists() for mark in marks)
    longer = invoke("train", base, talks_folder, tmp_path, *options, "--max-steps", "2", "--resume")
    assert longer.exit_code == 0, longer.output
    now = json.loads((tmp_path / "report" / "report.json").read_text())
    assert now["model"]["weights"] != report["model"]["weights"]
    assert now["model"]["training"]["steps"] == 2
    assert not any(mark.exists() for mark in marks)


def test_a_finished_training_without_checkpoints_is_kept(base, talks_folder, tmp_path):
    options = ("--memory-layers", "0", "--memory", SMALL, "--save-strategy", "no")
    assert invoke("train", base, talks_folder, tmp_path, *options).exit_code == 0
    again = invoke("train", base, talks_folder, tmp_path, *options)
    assert again.exit_code == 1
    assert "already holds a training: pass --resume to continue it" in one_line_error(again)
    other = invoke("train", base, talks_folder, tmp_path, *options, "--learning-rate", "0.05", "--resume")
    assert other.exit_code == 1
    assert "was trained with other options (learning_rate" in one_line_error(other)
    # One that was stopped before its report is done again by the same command.
    (tmp_path / "report" / "report.json").unlink()
    assert invoke("train", base, talks_folder, tmp_path, *options).exit_code == 0


def test_train_fits_voices_transitions_and_a_temperature(base, talks_folder, tmp_path, monkeypatch):
    copies, fit = [], run.fit_voice_memory
    monkeypatch.setattr(
        run, "fit_voice_memory", lambda *given, **how: copies.append(how["virtual_voices"]) or fit(*given, **how)
    )
    # Transitions are counted after the training, so that they do not choose its best model.
    train, before, lora = ConversationTrainer.train, [], []

    def watched(self, *given, **how):
        before.append(self.model.config.emotion_transitions)
        lora.extend(name for name, p in self.model.named_parameters() if ".lora_" in name and p.requires_grad)
        return train(self, *given, **how)

    monkeypatch.setattr(ConversationTrainer, "train", watched)
    memory = '{"num_heads": 2, "head_dim": 8, "voice_layers": [0], "voice_key_dim": 1}'
    fitted = (
        "--emotion-readout", "audio", "--emotion-transitions", "True", "--calibrate", "True",
        "--validation-share", "0.4", "--eval-strategy", "no", "--virtual-speakers", "0.5", "--lora-r", "2",
    )  # fmt: skip
    done = invoke("train", base, talks_folder, tmp_path, "--memory-layers", "0", "2", "--memory", memory, *fitted)
    assert done.exit_code == 0, done.output
    model = AutoModelForAudioEmotion.from_pretrained(tmp_path / "model")
    temperature = json.loads((tmp_path / "report" / "report.json").read_text())["model"]["temperature"]
    assert 1.0 != model.config.emotion_temperature == pytest.approx(temperature)
    assert any(".layers.1." in name for name in lora)
    assert not any(".layers.0." in name for name in lora), "the memory was fitted to the outputs of block 0"
    voices = model.titans_memory.layers[0]
    assert voices.voice_gain == 1
    assert voices.voice_mean.any()
    assert copies == [run.VIRTUAL_VOICES]
    assert before == [None]
    assert model.config.emotion_transitions is not None
    assert model.config.emotion_readout == "audio"
    recipe = json.loads((tmp_path / "model" / "training_recipe.json").read_text())
    assert recipe["emotion_transitions"] is True
    # A model that is trained further keeps its fit, and the licences of its corpora.
    (tmp_path / "model" / "training_recipe.json").write_text(json.dumps({"dataset": "ravdess"}))
    options = ("--validation-share", "0", "--eval-strategy", "no")
    done = invoke("train", tmp_path / "model", talks_folder, tmp_path / "further", *options)
    assert done.exit_code == 0, done.output
    assert len(copies) == 1
    recipe = json.loads((tmp_path / "further" / "model" / "training_recipe.json").read_text())
    assert recipe["licences"] == {"ravdess": "CC BY-NC-SA 4.0"}


def test_a_memory_of_voices_alone_leaves_nothing_to_train(base, talks_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "fit_voice_memory", lambda *given, **how: pytest.fail("was fitted before the check"))
    memory = '{"voice_layers": [0]}'
    done = invoke("train", base, talks_folder, tmp_path, "--memory-layers", "0", "--memory", memory)
    assert done.exit_code == 1
    assert "Nothing is trained by gradients: a memory of voices is fitted." in one_line_error(done)


def write_ratings(talks: Path, folder: Path, *, labels: bool) -> Path:
    """The same talks, with the valence of all turns and the arousal of none."""
    with open(talks / "metadata.csv", newline="") as file:
        rows = [
            {**row, "file_name": str(talks / row["file_name"]), "valence": place / 50, "arousal": ""}
            for place, row in enumerate(csv.DictReader(file))
        ]
    for row in () if labels else rows:
        del row["emotion"]
    folder.mkdir()
    with open(folder / "metadata.csv", "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return folder


@pytest.mark.parametrize("labels", [True, False])
def test_train_learns_ratings_beside_labels_and_alone(base, talks_folder, tmp_path, labels):
    rated = write_ratings(talks_folder, tmp_path / "rated", labels=labels)
    given = ("--memory-layers", "0", "--memory", SMALL, "--dimensions", "valence")
    done = invoke("train", base, rated, tmp_path / "out", *given, labels=LABELS if labels else ())
    assert done.exit_code == 0, done.output
    config = AutoConfig.from_pretrained(tmp_path / "out" / "model")
    assert config.emotion_dimensions == ["valence"]
    assert config.emotion_readout == ("verbalizer" if labels else None)
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text())
    assert report["dimensions"]["memory"]["valence"]["turns"] == 7
    assert ("memory" in report["conditions"]) == labels
    assert ("out of: neutral" in report["protocol"]["prompt"]) == labels
    text = (tmp_path / "out" / "report" / "report.md").read_text()
    assert ("![Confusion]" in text) == labels
    assert "## Dimensions" in text
    assert report["model"]["training"]["dimensions"] == "valence"
    done = invoke("train", base, rated, tmp_path / "other", "--memory-layers", "0", "--dimensions", "valence, arousal")
    assert "No training turn of" in one_line_error(done)
    assert "has a rating of ['arousal']; the data has ['valence']" in one_line_error(done)


def one_line_error(done) -> str:
    """The only error that a command printed, without a traceback."""
    assert "Traceback" not in done.output
    (line,) = [line for line in done.output.splitlines() if line.startswith("Error: ")]
    return line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--memory", "{depth: 2}"), 'memory must be JSON such as {"depth": 2}, got'),
        (("--memory", '{"deep": 2}'), "memory must be a JSON object with fields of"),
        (("--memory", "[2]"), "memory must be a JSON object with fields of"),
        (("--memory", '{"depth": 0}'), "depth"),
        (("--label-words", "sad=low"), 'label_words must be JSON such as {"fear": "fearful"}, got'),
        (("--label-words", '{"bored": "low"}'), "label_words must map labels out of"),
        (("--label-words", '["low"]'), "label_words must map labels out of"),
        (("--calibrate", "True"), "calibrate needs a validation split: give a validation_share"),
        (("--window", "1"), "window must be an integer of at least 2, got 1"),
        (("--push-to-hub", "True"), "push_to_hub=True is not supported: training does not publish"),
        (("--validation-share", "1.0"), "validation_share must be at least 0 and below 1"),
        (("--base-model", "/nowhere"), "/nowhere"),
        (("--dataset", "/nowhere"), "/nowhere"),
        (("--cache-audio", "kept", "--lora-r", "2", "--lora-audio-tower", "True"), "The audio tower is trained"),
    ],
)
def test_errors_take_one_line(base, talks_folder, tmp_path, options, message):
    done = invoke("train", base, talks_folder, tmp_path / "out", "--memory-layers", "0", *options)
    assert done.exit_code == 1
    assert message in one_line_error(done)


def test_help_and_unknown_options(base, talks_folder, tmp_path):
    done = CliRunner().invoke(app, ["train", "--help"])
    assert done.exit_code == 0
    assert "--memory_layers" in done.output
    assert "usage: titans-mal train --base-model" in done.output
    assert "--bf16" in done.output
    for rejected in ("--fp16", "--deepspeed", "--push_to_hub"):
        assert rejected not in done.output
    of_ablate = CliRunner().invoke(app, ["ablate", "--help"]).output
    assert "--memory-layers and --memory may be repeated" in of_ablate
    with pytest.raises(ValueError, match="fp16=True is not supported: its loss scaling"):
        parse_options(["--base-model", "x", "--dataset", "x", "--output-dir", str(tmp_path / "out"), "--fp16", "True"])
    assert invoke("train", base, talks_folder, tmp_path, "--no-such-option", "1").exit_code != 0
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_sweep_gives_one_table(base, talks_folder, tmp_path):
    sweep = ("--memory-layers", "0", "2", "--memory-layers", "1", "--memory", SMALL)
    done = invoke("ablate", base, talks_folder, tmp_path, *sweep)
    assert done.exit_code == 0, done.output
    settings = "_chunk_size-4_head_dim-8_num_heads-2"
    folders = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert folders == [f"layers-0-2{settings}", f"layers-1{settings}"]
    table = (tmp_path / "ablation.md").read_text()
    for layers in ("0, 2", "1"):
        assert f"| {layers} |" in table
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("report.json")}
    again = invoke("ablate", base, talks_folder, tmp_path, *sweep)
    assert again.exit_code == 0
    assert "Training 1" not in again.output
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("report.json")} == written


@pytest.mark.parametrize(
    "option", [("--emotion-prompt", "emotion ?"), ("--with-transcript",), ("--label-words", '{"sad": "word1"}'),
               ("--dimensions", "valence")],
)  # fmt: skip
def test_a_sweep_takes_the_options_that_need_a_new_memory(option, base, talks_folder, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(run, "run_training", lambda model, *_, **__: given.append(model) or (3, None))
    done = invoke("ablate", base, talks_folder, tmp_path, "--memory-layers", "0", "2", "--memory-layers", "1", *option)
    assert done.exit_code == 3, done.output
    assert given[0].memory_layers == [0, 2]
    field = option[0].removeprefix("--").replace("-", "_")
    assert getattr(given[0], field) == (option[1] if option[1:] else True)


def test_a_training_continues_only_with_its_own_options(tmp_path):
    given = ["--base-model", "base", "--memory-layers", "1", "--dataset", "talks", "--output-dir", str(tmp_path)]

    def options(*more: str):
        model, data, _, arguments = parse_options([*given, *more], program="train")
        return asdict(model) | asdict(data), arguments

    check_same_options(*options(), is_longer=False)  # a training of an earlier version
    write_options(*options("--max-steps", "2"))
    check_same_options(*options("--max-steps", "2", "--logging-steps", "1"), is_longer=False)
    check_same_options(*options("--max-steps", "9"), is_longer=True)
    for more in (["--max-steps", "9"], ["--max-steps", "2", "--num-train-epochs", "9"]):
        with pytest.raises(ValueError, match="was trained with other options"):
            check_same_options(*options(*more), is_longer=False)
    for name, value in (("weight-decay", "0.1"), ("label-smoothing-factor", "0.1"), ("lora-r", "2"), ("seed", "1")):
        with pytest.raises(ValueError, match=name.replace("-", "_")):
            check_same_options(*options(f"--{name}", value), is_longer=True)


def test_memory_fields_need_layers():
    assert ModelOptions("base", memory_layers=[1], memory=SMALL).memory_fields == json.loads(SMALL)
    with pytest.raises(ValueError, match="memory: only with memory_layers"):
        ModelOptions("base", memory=SMALL)
    with pytest.raises(ValueError, match="label_words: only with memory_layers"):
        ModelOptions("base", label_words='{"sad": "low"}')
    with pytest.raises(ValueError, match=r"alpha and dropout of a LoRA.* need its rank"):
        ModelOptions(base_model="base", memory_layers=[0], lora_alpha=32.0)
    with pytest.raises(ValueError, match="dimensions: only with memory_layers"):
        ModelOptions("base", dimensions="valence")


def test_a_share_of_the_conversations_is_held_out(talks):
    train = talks["train"]
    names = set(train["conversation_id"])
    for share, count in ((0, 0), (0.01, 1), (0.4, 2), (0.9, 4)):
        kept, held = hold_out(train, share, seed=0)
        of_held = set() if held is None else set(held["conversation_id"])
        assert len(of_held) == count
        assert set(kept["conversation_id"]) == names - of_held
    with pytest.raises(ValueError, match=r"got 1\.0 for 5"):
        hold_out(train, 1.0, seed=0)


def test_two_trainings_do_not_share_a_folder(tmp_path):
    held = lock(tmp_path / "out")
    with pytest.raises(ValueError, match="Another training is writing"):
        lock(tmp_path / "out")
    held.release()
    lock(tmp_path / "out").release()


def test_a_plain_host_can_be_made_from_the_repository(tmp_path):
    script = Path(__file__).parents[3] / "examples" / "finetune" / "plain_host.py"
    runpy.run_path(str(script))["main"](tmp_path / "host")
    tiny = AutoModelForAudioEmotion.from_pretrained(script.parents[1] / "quickstart" / "tiny-qwen2-audio-mal")
    model = AutoModelForAudioEmotion.from_base(
        tmp_path / "host", id2label=tiny.config.id2label, emotion_prompt=tiny.config.emotion_prompt,
        memory_config={"layers": [0, 1, 2], "num_heads": 4, "head_dim": 32},
    )  # fmt: skip
    assert model.config.label_token_ids == tiny.config.label_token_ids
    own = tiny.state_dict()
    for name, tensor in model.state_dict().items():
        assert name.startswith("titans_memory") or torch.equal(tensor, own[name]), name
