"""What a folder becomes before it goes up: its card, its code, its Space; and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from tiny_models import save_base, tiny_model, tiny_processor
from transformers import AutoProcessor

from titans_mal import (
    AudioEmotionPipeline,
    AutoModelForAudioEmotion,
    TitansMemoryConfig,
    evaluate_conversations,
    load_conversations,
    publish_folder,
)
from titans_mal.modeling.checkpoint_saving import check_base_is_public
from titans_mal.publishing import write_space
from titans_mal.publishing.model_card import MARKER, MARKERS


QUICKSTART = Path(__file__).resolve().parents[3] / "examples" / "quickstart"
RECORDINGS = sorted((QUICKSTART / "conversation").glob("turn_*.wav"))


@pytest.fixture
def folder(tmp_path):
    """The shipped model, which is saved in full and without its code."""
    return shutil.copytree(QUICKSTART / "tiny-qwen2-audio-mal", tmp_path / "model")


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Of the shipped model, and of the same with another memory."""
    folders = []
    for place in range(2):
        model = AutoModelForAudioEmotion.from_pretrained(QUICKSTART / "tiny-qwen2-audio-mal")
        if place:
            with torch.no_grad():
                model.titans_memory.layers[0].query_proj.weight[0, 0] += 1
        processor = AutoProcessor.from_pretrained(QUICKSTART / "tiny-qwen2-audio-mal")
        data = load_conversations(QUICKSTART / "conversation", label_set=model.config.labels)["test"]
        folders.append(tmp_path_factory.mktemp("report"))
        evaluate_conversations(model, processor, data, folders[-1], conditions=("memory", "memory_off"), resamples=100)
    return folders


def test_a_recipe_for_non_commercial_use_needs_such_a_licence(folder):
    (folder / "training_recipe.json").write_text('{"licences": {"ravdess": "CC BY-NC-SA 4.0"}}')
    with pytest.raises(ValueError, match="allow non-commercial use only"):
        dry(folder, license="apache-2.0")
    dry(folder, license="cc-by-nc-sa-4.0")
    dry(folder, license="apache-2.0", force_license=True)


def test_a_corpus_that_the_publisher_names_needs_such_a_licence(folder):
    with pytest.raises(ValueError, match="ravdess"):
        dry(folder, license="apache-2.0", datasets=["ravdess"])
    dry(folder, license="cc-by-nc-sa-4.0", datasets=["ravdess"])


def dry(folder, **facts):
    return publish_folder(folder, "org/name", dry_run=True, **facts)


def card_of(folder) -> tuple[str, dict]:
    text = (folder / "README.md").read_text(encoding="utf-8")
    return text, ModelCard(text).data.to_dict()


def test_a_card_without_facts_says_so(folder):
    publication = dry(folder)
    assert publication.url is None
    assert publication.missing == [
        "license",
        "language",
        "datasets",
        "evaluation",
        "training recipe",
        "examples",
    ]
    text, data = card_of(folder)
    assert "Not stated by its publisher: license, language, datasets, evaluation, training recipe, examples." in text
    assert "## Evaluation\n\nNot evaluated.\n" in text
    assert "## Training\n\nNot stated.\n" in text
    assert "Article 5(1)(f)" in text
    assert data["pipeline_tag"] == "audio-classification"
    assert data["library_name"] == "transformers"
    assert not {"license", "language", "datasets", "metrics", "model-index", "widget", "base_model"} & {*data}


def test_the_limits_of_a_card_are_those_of_its_memory(tmp_path):
    cards = {}
    for voices in ([], [0], [0, 2]):
        folder = tmp_path / f"voices-{len(voices)}"
        tiny_model({"layers": [0, 2], "voice_layers": voices, "voice_key_dim": 2}).save_pretrained(folder)
        tiny_processor().save_pretrained(folder)
        dry(folder)
        cards[len(voices)] = card_of(folder)[0]
    assert ["half-life" in cards[count] for count in (0, 1, 2)] == [True, True, False]
    assert ["recalls the usual voice" in cards[count] for count in (0, 1, 2)] == [False, True, True]


def test_the_numbers_of_a_card_are_those_of_its_report(folder, reports):
    recipe = {"steps": 1500, "data": "a | b", "memory": "{}", "fold": None, "note": "", "seed": 0}
    (folder / "training_recipe.json").write_text(json.dumps(recipe))
    facts = {"license": "apache-2.0", "language": ["en"], "datasets": ["synthetic-baseline"]}
    publication = dry(folder, reports=reports[:1], examples=RECORDINGS[:3], **facts)
    assert publication.missing == []
    assert publication.files["evaluation/history_1.png"].stat().st_size > 5000
    text, data = card_of(folder)
    assert "Not stated by its publisher" not in text
    report = json.loads((reports[0] / "report.json").read_text())
    (index,) = data["model-index"]
    (result,) = index["results"]
    assert result["dataset"] == {
        "type": report["protocol"]["corpus"],
        "name": report["protocol"]["corpus"],
        "config": report["protocol"]["label_set"],
        "split": "test",
        "args": {"labels": report["protocol"]["labels"]},
    }
    metrics = {(metric["args"]["condition"], metric["args"]["metric"]): metric for metric in result["metrics"]}
    # Controls, baselines and floors are in the table, but are not results of the model.
    assert {condition for condition, _ in metrics} == {"memory", "memory_off"}
    assert len(result["metrics"]) == len(metrics) == 8
    assert "| floor: majority |" in text
    for (condition, metric), found in metrics.items():
        measured = report["conditions"][condition]["metrics"][metric]
        assert found["value"] == round(100 * measured["value"], 2)
        # Of one conversation there is no interval; what is null, the Hub's metadata leave out.
        measured = {name: report["protocol"][name] for name in ("scored", "conversations", "seed")}
        assert found["args"] == {"condition": condition, "metric": metric, "resamples": 100, **measured}
    assert metrics["memory", "ua"]["name"] == "UA (memory on)"
    assert f"| memory on | {100 * report['conditions']['memory']['metrics']['wa']['value']:.1f} |" in text
    assert str(QUICKSTART) not in text
    assert "| data | a \\| b |" in text
    assert "| seed | 0 |" in text
    assert not any(f"| {name} |" in text.partition("## Training")[2] for name in ("memory", "fold", "note"))
    assert "![WA by the number of earlier turns of the speaker](evaluation/history_1.png)" in text
    for heading in ("## Intended use", "## Citation"):
        assert heading in text
    assert "arXiv:2501.00663" in text
    # What the model answers to the examples, which are one conversation.
    pipe = AudioEmotionPipeline(
        model=AutoModelForAudioEmotion.from_pretrained(folder), processor=AutoProcessor.from_pretrained(folder)
    )
    scored = pipe([str(path) for path in RECORDINGS[:3]])
    for widget, turn, path in zip(data["widget"], scored, RECORDINGS):
        assert widget["src"] == f"https://huggingface.co/org/name/resolve/main/examples/{path.name}"
        assert widget["output"][0] == {"label": turn["label"], "score": round(turn["score"], 4)}
        assert len(widget["output"]) == len(turn["scores"])


def test_a_report_of_another_model_is_rejected(folder, reports):
    with pytest.raises(
        ValueError, match=r"The report .* does not belong to .*: it was measured with .* \('\w+', 'emotion"
    ):
        dry(folder, reports=[reports[1]])
    with pytest.raises(FileNotFoundError, match="no evaluation report"):
        dry(folder, reports=[folder])


def test_a_custom_card_is_kept(folder):
    dry(folder)
    text, _ = card_of(folder)
    (folder / "README.md").write_text(text.replace("Not stated.", "With patience."), encoding="utf-8")
    dry(folder)
    assert card_of(folder)[0] == text
    own = text.replace(f"<!-- {MARKER} -->\n", "").replace("Not stated.", "With patience.")
    (folder / "README.md").write_text(own, encoding="utf-8")
    dry(folder, license="mit")
    assert card_of(folder)[0] == own


def test_only_the_models_own_files_go_up(folder):
    strange = (
        *("data.csv", "checkpoint-10/model.safetensors", "pytorch_model.bin", "token", "a.py", "lora/notes.txt"),
        *("lora/adapter_model.bin", "lora/adapter_data.csv", "lora/adapter_x/train.jsonl", "model.fp16.safetensors"),
    )
    for name in (*strange, "examples/mine.wav", "model.safetensors.bak", "scheduler.pt", "LICENSE"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    publication = dry(folder)
    assert publication.left_out == sorted([*strange, "examples/mine.wav", "model.safetensors.bak", "scheduler.pt"])
    assert {"LICENSE", "handler.py", "model.safetensors", "modeling_qwen2_audio_mal.py"} <= {*publication.files}
    assert {path.parts[0] for path in map(Path, publication.files)} == {*publication.files}


def test_a_folder_that_cannot_be_published_says_what_to_do(folder, tmp_path):
    for name in ("name", "a/b/c", "org/na me"):
        with pytest.raises(ValueError, match=r"org/name|Repo id"):
            publish_folder(folder, name, dry_run=True)
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        dry(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"The example .*nowhere\.wav does not exist"):
        dry(folder, examples=["nowhere.wav"])
    text = tmp_path / "text.csv"
    text.write_text("no audio")
    with pytest.raises(ValueError, match=r"text\.csv"):
        dry(folder, examples=[text])
    assert not (folder / "examples").exists()
    (folder / "training_recipe.json").write_text("[1]")
    with pytest.raises(ValueError, match="must hold a JSON object, got list"):
        dry(folder)
    save_base(tmp_path / "base")
    with pytest.raises(ValueError, match="is a 'qwen2_audio' without memory"):
        dry(tmp_path / "base")
    memory = TitansMemoryConfig(layers=[0], num_heads=2, head_dim=8)
    model = AutoModelForAudioEmotion.from_base(
        tmp_path / "base", id2label={0: "sad", 1: "happy"}, memory_config=memory, emotion_prompt="emotion ?"
    )
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"base of this adapter is .*base, which others cannot load\. Publish"):
        dry(tmp_path / "adapter")
    with pytest.raises(ValueError, match="which others cannot load"):
        model.push_to_hub("org/name")
    # An adapter, by its config, that holds what only a model in full may.
    config = json.loads((tmp_path / "adapter" / "config.json").read_text())
    config |= {"base_model_name_or_path": "org/base", "base_model_revision": "a" * 40}
    (tmp_path / "adapter" / "config.json").write_text(json.dumps(config))
    dry(tmp_path / "adapter")
    weights = load_file(tmp_path / "adapter" / "model.safetensors") | {"lm_head.weight": torch.zeros(2, 2)}
    save_file(weights, tmp_path / "adapter" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"holds 1 weights of the host \(lm_head\.weight\).*adapter_only = False"):
        dry(tmp_path / "adapter")
    (tmp_path / "adapter" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks weights: model\.safetensors is missing"):
        dry(tmp_path / "adapter")


def test_custom_files_and_links_are_kept(folder, tmp_path):
    (folder / "handler.py").write_text("# my own\n")
    (tmp_path / "elsewhere.txt").write_text("Generated by titans_mal")
    (folder / "README.md").symlink_to(tmp_path / "elsewhere.txt")
    dry(folder)
    assert (folder / "handler.py").read_text() == "# my own\n"
    (tmp_path / "elsewhere.txt").write_text(f"<!-- {MARKER} -->")
    dry(folder)
    assert (tmp_path / "elsewhere.txt").read_text() == f"<!-- {MARKER} -->"
    assert "## Use" in card_of(folder)[0]


def test_files_generated_by_earlier_versions_are_overwritten(folder):
    (folder / "handler.py").write_text(f"# {MARKERS[1]}\n")
    dry(folder)
    assert MARKER in (folder / "handler.py").read_text()


@pytest.mark.parametrize("name", ["LICENSE", "LICENSE.md", "README.md", "requirements.txt"])
def test_targets_of_links_are_not_published(folder, tmp_path, name):
    (tmp_path / "secret.txt").write_text("secret")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "secret.txt")
    publication = dry(folder)
    assert not any(path.read_bytes() == b"secret" for path in publication.files.values())
    assert (tmp_path / "secret.txt").read_text() == "secret"


@pytest.mark.parametrize(
    "name",
    ["merges.txt", "config.json", "model.safetensors", "tokenizer.json", "training_recipe.json", "lora",
     "lora/adapter_config.json", "modeling_x.py", "additional_chat_templates"],
)  # fmt: skip
def test_a_model_with_links_out_of_its_folder_is_rejected(folder, tmp_path, name):
    elsewhere, path = tmp_path / "elsewhere", folder / name
    path.parent.mkdir(exist_ok=True)
    if path.is_file():
        shutil.move(path, elsewhere)
    elif "." in name:
        elsewhere.write_text("{}")
    else:
        elsewhere.mkdir()
    path.symlink_to(elsewhere)
    with pytest.raises(ValueError, match=f"{name} is a link out of the folder, to {elsewhere}: replace it"):
        dry(folder)


def test_a_link_within_the_folder_is_a_file_like_others(folder):
    (folder / "LICENSE").write_text("mine")
    (folder / "LICENSE.txt").symlink_to("LICENSE")
    assert {"LICENSE", "LICENSE.txt"} <= {*dry(folder).files}


def test_keys_are_not_published_as_a_license(folder):
    for name in ("LICENSE.pem", "LICENSE.key", "LICENSE.safetensors"):
        (folder / name).write_text("secret")
    publication = dry(folder)
    assert not any(name.startswith("LICENSE.") for name in publication.files)
    assert "LICENSE.pem" in publication.left_out


def test_a_card_says_that_scores_follow_transitions(folder):
    dry(folder)
    assert "turn before" not in card_of(folder)[0]
    config = json.loads((folder / "config.json").read_text())
    labels = len(config["id2label"])
    config["emotion_transitions"] = [[1.0] * labels] * labels
    (folder / "config.json").write_text(json.dumps(config))
    dry(folder)
    assert "The scores of a turn also depend on the likely\nemotion of the turn before" in card_of(folder)[0]


def test_values_in_a_card_are_text(folder):
    hostile = "![x](http://tracker/a.png) <img src=x> [a](javascript:b) `c` \\| d\n# e"
    (folder / "training_recipe.json").write_text(json.dumps({hostile: hostile, "epochs": 3}))
    dry(folder)
    text = card_of(folder)[0]
    (row,) = (line for line in text.splitlines() if "tracker" in line)
    for markup in ("](", "<img", " `c`", "\n"):
        assert markup not in row
    assert row.replace("\\\\", "").replace("\\|", "").count("|") == 3
    assert "| epochs | 3 |" in text


def test_weights_of_several_savings_and_missing_ones(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model-00001-of-00002.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match=r"several saves: remove model-00001-of-00002\.safetensors"):
        dry(folder)
    index = {
        "metadata": {},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00002\.safetensors is missing"):
        dry(folder)


def test_local_paths_are_not_published(tmp_path):
    save_base(tmp_path / "base")
    memory = TitansMemoryConfig(layers=[0], num_heads=2, head_dim=8)
    model = AutoModelForAudioEmotion.from_base(
        tmp_path / "base", id2label={0: "sad", 1: "happy"}, memory_config=memory, emotion_prompt="emotion ?"
    )
    model.config.adapter_only = False
    model.save_pretrained(tmp_path / "model")
    publication = dry(tmp_path / "model")
    for path in publication.files.values():
        assert str(tmp_path).encode() not in path.read_bytes(), path
    assert "base_model" not in card_of(tmp_path / "model")[1]
    for place in ("C:\\models\\base", "./base", "/base", "a/b/c"):
        model.config.base_model_name_or_path = place
        with pytest.raises(ValueError, match="which others cannot load"):
            check_base_is_public(model.config) if model.config.adapter_only else check_base_is_public(
                type(model.config)(**{**model.config.to_dict(), "adapter_only": True})
            )


def test_a_lora_is_stated_and_required(tmp_path):
    save_base(tmp_path / "base")
    memory = TitansMemoryConfig(layers=[0], num_heads=2, head_dim=8)
    model = AutoModelForAudioEmotion.from_base(
        tmp_path / "base", id2label={0: "sad", 1: "happy"}, memory_config=memory, emotion_prompt="emotion ?"
    )
    model.add_adapter(LoraConfig(r=2, target_modules=r".*language_model.*q_proj"))
    model.config.base_model_name_or_path = "org/base"
    model.save_pretrained(tmp_path / "model")
    publication = dry(tmp_path / "model")
    assert {"lora/adapter_config.json", "lora/adapter_model.safetensors"} <= {*publication.files}
    assert "revision of the base" in publication.missing
    assert "only the memory and a LoRA on the host" in card_of(tmp_path / "model")[0]
    assert "peft" in (tmp_path / "model" / "requirements.txt").read_text().split()
    (tmp_path / "model" / "lora" / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="lacks the LoRA in lora/ that its config"):
        dry(tmp_path / "model")
    model.delete_adapter("default")
    model.save_pretrained(tmp_path / "model")
    dry(tmp_path / "model")
    assert "LoRA" not in card_of(tmp_path / "model")[0].partition("## Use")[0]
    assert "peft" not in (tmp_path / "model" / "requirements.txt").read_text().split()


def test_a_space_is_complete(tmp_path):
    files = write_space(tmp_path / "space", "org/name", has_lora=True)
    folder = tmp_path / "space"
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {*files}
    assert 'os.environ.get("MODEL_ID", "org/name")' in files["app.py"].read_text()
    assert "models:\n- org/name\n" in files["README.md"].read_text()
    assert "peft" in files["requirements.txt"].read_text().split()
    for path in files.values():
        assert b"{{" not in path.read_bytes() or path.suffix == ".wav"
        compile(path.read_text(), path.name, "exec") if path.suffix == ".py" else None


def test_intervals_and_folds_reach_the_card(folder, reports, tmp_path):
    content = json.loads((reports[0] / "report.json").read_text())
    content["conditions"]["memory"]["metrics"]["ua"]["interval"] = [0.5, 0.9]
    content["protocol"]["fold"] = 5
    (tmp_path / "report.json").write_text(json.dumps(content))
    dry(folder, reports=[tmp_path])
    text, data = card_of(folder)
    assert "(50.0 to 90.0)" in text
    assert ", fold 5, test" in text
    reported = next(m for m in data["model-index"][0]["results"][0]["metrics"] if m["name"] == "UA (memory on)")
    assert (reported["args"]["interval"], reported["args"]["fold"]) == ([50.0, 90.0], 5)
