"""Published and loaded over a Hub on loopback, by the real client in fresh processes."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import scipy.io.wavfile
import torch
from huggingface_hub import ModelCard
from loopback_hub import LoopbackHub
from tiny_models import save_base, tiny_turns, tone


# One worker publishes for all.
pytestmark = pytest.mark.xdist_group("hub")

# What a publisher has, and a way to score turns.
MAKE = """
import torch
from peft import LoraConfig
from titans_mal import AutoModelForAudioEmotion, TitansMemoryConfig

turns = torch.load("turns.pt")

def make(seed, **kwargs):
    memory = TitansMemoryConfig(layers=[0, 2], num_heads=2, head_dim=8, chunk_size=4)
    id2label = {0: "neutral", 1: "happy", 2: "sad", 3: "angry"}
    torch.manual_seed(seed)
    model = AutoModelForAudioEmotion.from_base(
        "org/base", id2label=id2label, memory_config=memory, emotion_prompt="emotion ?", **kwargs
    )
    with torch.no_grad():
        for parameter in model.titans_memory.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()

@torch.no_grad()
def scores_of(model):
    return model(**turns, conversation_ids=[0, 0]).emotion_logits
"""
WITHOUT_PACKAGE = 'import sys; sys.modules["titans_mal"] = None\n'


class Machine:
    """Processes with a home of their own that see the Hub on loopback."""

    def __init__(self, hub: LoopbackHub, folder):
        self.hub, self.folder = hub, folder
        folder.mkdir()
        torch.save(tiny_turns(2), folder / "turns.pt")
        for place in range(2):
            scipy.io.wavfile.write(folder / f"turn_{place}.wav", 16_000, tone(0.7, frequency=200 + 60 * place))

    def run(self, code: str, *, fails: bool = False, **environment) -> str:
        """What the code prints; with `fails`, what is said of its failure."""
        environment = {**self.hub.environment(self.folder / "home"), "COLUMNS": "200", **environment}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=self.folder
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr if fails else done.stdout

    def tensors(self, name: str) -> dict:
        return torch.load(self.folder / name)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_base(folder)
    with LoopbackHub() as hub:
        hub.add("org/base", folder)
        yield hub


@pytest.fixture(scope="module")
def published(hub, tmp_path_factory):
    """The machine that published an adapter twice, then one with a LoRA, and a model in full; and its expectations."""
    machine = Machine(hub, tmp_path_factory.mktemp("publisher") / "machine")
    reported = machine.run(
        MAKE
        + """
expected = {}
model = make(1)
model.push_to_hub("org/adapter", license="apache-2.0")
expected["first"] = scores_of(model)
model = make(2)
model.push_to_hub("org/adapter", license="apache-2.0", language=["en"], examples=["turn_0.wav", "turn_1.wav"])
expected["second"] = scores_of(model)
model.add_adapter(LoraConfig(r=2, target_modules=r".*language_model.*q_proj", init_lora_weights=False))
model.eval().push_to_hub("org/adapter-with-lora")
expected["lora"] = scores_of(model)
model = make(2)
model.config.adapter_only = False
print("url", model.push_to_hub("org/full", private=True, max_shard_size="40KB"))
torch.save(expected, "expected.pt")
model.config.adapter_only = True
model.save_pretrained("adapter")
"""
    )
    assert re.search(rf"url {hub.url}/org/full/commit/[0-9a-f]{{40}}", reported)
    # The base goes on; adapters stay with the revision that they were made for.
    changed = tmp_path_factory.mktemp("changed")
    torch.manual_seed(5)
    host = save_base(changed)
    with torch.no_grad():
        host.lm_head.weight.mul_(3)
    host.save_pretrained(changed)
    hub.add("org/base", changed)
    return machine


@pytest.fixture
def machine(hub, tmp_path):
    return Machine(hub, tmp_path / "machine")


def test_one_commit_holds_all_and_nothing_else(hub, published):
    files = hub.files("org/adapter-with-lora")
    assert {name for name in files if not name.endswith(".py")} == {
        ".gitattributes", "README.md", "chat_template.jinja", "config.json", "generation_config.json",
        "lora/adapter_config.json", "lora/adapter_model.safetensors", "model.safetensors", "processor_config.json",
        "requirements.txt", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert {"handler.py", "modeling_qwen2_audio_mal.py", "pipeline_audio_emotion.py", "conversation_store.py"} <= {
        *files
    }
    # The Hub's own first commit, and one for each publication.
    assert len(hub.commits("org/adapter-with-lora")) == 2
    assert len(hub.commits("org/adapter")) == 3
    assert "examples/turn_0.wav" in hub.files("org/adapter")
    assert "models/org/full" in hub.private
    assert "models/org/adapter" not in hub.private
    assert sum("model-000" in name for name in hub.files("org/full")) > 2
    for repo in ("org/adapter", "org/adapter-with-lora", "org/full"):
        everything = b"".join(hub.files(repo).values())
        assert str(published.folder).encode() not in everything
        assert b"hf_test" not in everything
    # A small part of the host's size, and none of its weights.
    assert b"lm_head" not in files["model.safetensors"]
    lora = json.loads(files["lora/adapter_config.json"])
    assert (lora["base_model_name_or_path"], lora["revision"]) == ("org/base", hub.commits("org/base")[0])


@pytest.mark.slow
def test_loading_with_the_package(hub, published, machine):
    first = hub.commits("org/adapter")[1]
    machine.run(
        MAKE
        + f"""
from transformers import AutoProcessor
expected = torch.load({str(published.folder / "expected.pt")!r})
load = AutoModelForAudioEmotion.from_pretrained
eager = load("org/adapter", attn_implementation="eager")
assert eager.config._attn_implementation == "eager"
torch.testing.assert_close(scores_of(eager), expected["second"], rtol=0, atol=1e-5)
model = load("org/adapter")
assert torch.equal(scores_of(model), expected["second"])
assert model.config.base_model_revision == {hub.commits("org/base")[0]!r}
assert torch.equal(scores_of(load("org/adapter", revision={first!r})), expected["first"])
assert torch.equal(scores_of(load("org/adapter-with-lora")), expected["lora"])
assert torch.equal(scores_of(load("org/full")), expected["second"])
# The base's present state is another host, which is loaded only by who passes over that; and so it is saved.
try:
    load("org/adapter", base_model_revision="main")
except ValueError as error:
    assert "is not the host that the adapter org/adapter was made for" in str(error), error
else:
    raise AssertionError("another host")
other = load("org/adapter", base_model_revision="main", base_fingerprint=None)
assert not torch.equal(scores_of(other), expected["second"])
assert other.config.base_model_revision == {hub.commits("org/base")[1]!r}
half = load("org/adapter", dtype="bfloat16", device_map="cpu", cache_dir="elsewhere")
assert half.dtype == torch.bfloat16 and half.titans_memory.layers[0].query_proj.weight.dtype == torch.float32
AutoProcessor.from_pretrained("org/adapter")
"""
    )
    assert {path.name for path in (machine.folder / "elsewhere").glob("models--*")} == {
        "models--org--adapter",
        "models--org--base",
    }
    # And again without a Hub, out of the cache.
    before = len(hub.requests)
    offline = f"""
expected = torch.load({str(published.folder / "expected.pt")!r})
load = AutoModelForAudioEmotion.from_pretrained
for repo, name in (("org/adapter", "second"), ("org/adapter-with-lora", "lora"), ("org/full", "second")):
    assert torch.equal(scores_of(load(repo, **kwargs)), expected[name]), repo
"""
    machine.run(MAKE + "kwargs = {}" + offline, HF_HUB_OFFLINE="1")
    machine.run(MAKE + 'kwargs = {"local_files_only": True}' + offline)
    assert hub.requests[before:] == []


@pytest.mark.slow
def test_loading_without_the_package(published, machine):
    """With transformers and torch alone, by the code in the repo."""
    printed = machine.run(
        WITHOUT_PACKAGE
        + f"""
import torch
from transformers import AutoModel, AutoModelForMultimodalLM, pipeline
turns, expected = torch.load("turns.pt"), torch.load({str(published.folder / "expected.pt")!r})
for auto_class, repo, name in (
    (AutoModelForMultimodalLM, "org/adapter", "second"),
    (AutoModel, "org/adapter-with-lora", "lora"),
    (AutoModelForMultimodalLM, "org/full", "second"),
):
    model = auto_class.from_pretrained(repo, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules.")
    with torch.no_grad():
        logits = model(**turns, conversation_ids=[0, 0]).emotion_logits
    torch.testing.assert_close(logits, expected[name], rtol=0, atol=1e-6)
pipe = pipeline("audio-emotion", model="org/adapter", trust_remote_code=True)
turns = pipe(["turn_0.wav", "turn_1.wav"])
print("turns:", [turn["scores"] for turn in turns])
single = pipeline("audio-classification", model="org/adapter", trust_remote_code=True)
(best,) = single("turn_0.wav", top_k=1)
assert best == {{"score": turns[0]["score"], "label": turns[0]["label"]}}
import scipy.io.wavfile
rate, samples = scipy.io.wavfile.read("turn_0.wav")
several = single([samples, {{"raw": samples, "sampling_rate": rate}}, open("turn_0.wav", "rb").read()])
assert [len(ranked) for ranked in several] == [4, 4, 4]
assert all(ranked[0] == best for ranked in several)
# A model that was loaded like this saves and publishes like any other.
model.config.adapter_only = False
model.save_pretrained("again")
AutoModel.from_pretrained("again", trust_remote_code=True)
"""
    )
    with_package = machine.run(
        """
from titans_mal import AudioEmotionPipeline
from transformers import pipeline
turns = pipeline("audio-emotion", model="org/adapter")(["turn_0.wav", "turn_1.wav"])
print("turns:", [turn["scores"] for turn in turns])
try:
    pipeline("audio-classification", model="org/adapter")
except ValueError as error:
    assert 'use pipeline("audio-emotion", model="org/adapter")' in str(error), error
"""
    )
    assert printed.rpartition("turns:")[2] == with_package.rpartition("turns:")[2]


@pytest.mark.slow
def test_the_card_of_the_repo(hub, published, machine):
    text = hub.files("org/adapter")["README.md"].decode()
    card = ModelCard(text)
    reported = card.data.to_dict()
    assert (reported["base_model"], reported["base_model_relation"]) == ("org/base", "adapter")
    assert reported["widget"][0]["src"] == f"{hub.url}/org/adapter/resolve/main/examples/turn_0.wav"
    # Its code runs as it stands there.
    with_package, without = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    labels = machine.run(with_package).split()
    assert len(labels) == 2
    assert [line.split()[0] for line in machine.run(WITHOUT_PACKAGE + without).splitlines()] == labels
    assert [output["output"][0]["label"] for output in reported["widget"]] == labels


@pytest.mark.slow
def test_loading_errors_name_the_checkpoint(hub, published, machine, tmp_path):
    files = hub.files("org/adapter")
    config = json.loads(files["config.json"])
    without_weights = {name: content for name, content in files.items() if name != "model.safetensors"}
    state = {"titans_memory.layers.0.query_proj.weight": torch.zeros(2, 2)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    hub.add("org/pickled", without_weights | {"pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes()})
    gone = config | {"base_model_name_or_path": "org/gone"}
    hub.add("org/orphan", files | {"config.json": json.dumps(gone).encode()})
    hub.add("org/plain", {"config.json": json.dumps({"model_type": "bert"}).encode()})
    wide = config | {"base_model_name_or_path": "org/plain", "base_model_revision": None}
    hub.add("org/misplaced", files | {"config.json": json.dumps(wide).encode()})
    hub.private.add("models/org/adapter-with-lora")
    printed = machine.run(
        MAKE
        + f"""
def refused(repo, *words, kinds=(OSError, ValueError), **kwargs):
    try:
        AutoModelForAudioEmotion.from_pretrained(repo, **kwargs)
    except kinds as error:
        assert all(word in str(error) for word in words), error
    else:
        raise AssertionError(repo)

refused("org/pickled", "model.safetensors")
refused("org/orphan", "base org/gone", "adapter org/orphan", {config["base_model_revision"]!r})
refused("org/misplaced", "base org/plain", "adapter org/misplaced", "'bert'")
refused("org/nothing", "org/nothing")
refused("org/adapter", "nowhere", revision="nowhere")
refused("org/adapter", "base org/base at revision nowhere", "adapter org/adapter", base_model_revision="nowhere")
refused("org/adapter-with-lora", "org/adapter-with-lora", token=False)
AutoModelForAudioEmotion.from_pretrained("org/adapter-with-lora", token="hf_test")
print("all refused")
"""
    )
    assert printed.endswith("all refused\n")


@pytest.mark.slow
def test_a_broken_upload_leaves_the_old_revision(hub, published, machine):
    shutil.copytree(published.folder / "adapter", machine.folder / "adapter")
    machine.run(MAKE + 'make(1).push_to_hub("org/broken")')
    commits, content = hub.commits("org/broken"), hub.files("org/broken")
    # The client tries again, after ever longer waits; here it does not wait.
    impatient = """
import types
import huggingface_hub.utils._http as http
http.time = types.SimpleNamespace(**{**vars(http.time), "sleep": lambda seconds: None})
"""
    push = 'make(7).push_to_hub("org/broken")'
    hub.drop_uploads_after = 1000
    try:
        assert "Error while uploading 'model.safetensors'" in machine.run(MAKE + impatient + push, fails=True)
    finally:
        hub.drop_uploads_after = None
    assert hub.commits("org/broken") == commits
    assert hub.files("org/broken") == content
    machine.run(
        MAKE
        + """
assert torch.equal(scores_of(AutoModelForAudioEmotion.from_pretrained("org/broken")), scores_of(make(1)))
make(7).push_to_hub("org/broken")
assert torch.equal(scores_of(AutoModelForAudioEmotion.from_pretrained("org/broken")), scores_of(make(7)))
"""
    )


@pytest.mark.slow
def test_publishing_by_command(hub, published, machine):
    """Takes the folder's own files, says what it leaves out, and takes old weights away."""
    folder = machine.folder / "adapter"
    shutil.copytree(published.folder / "adapter", folder)
    for name in ("optimizer.pt", "training_args.bin", "data.jsonl", ".env", "notes.py", "examples/mine.wav"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"hf_test")
    (folder / "training_recipe.json").write_text(json.dumps({"epochs": 3, "torch": "2.13.0"}))
    command = "import sys; from titans_mal.cli import app; sys.argv[1:] = {}; app()"
    arguments = [
        "publish",
        "adapter",
        "org/by-command",
        "--license",
        "mit",
        "--language",
        "en",
        "--dataset",
        "iemocap",
    ]
    dry = machine.run(command.format([*arguments, "--dry-run"]))
    assert "Not published: .env, data.jsonl, examples/mine.wav, notes.py, optimizer.pt, training_args.bin\n" in dry
    assert "Missing in the card: evaluation, examples\n" in dry
    assert "Nothing was uploaded to org/by-command." in dry
    assert "models/org/by-command" not in hub.repos
    card = (folder / "README.md").read_text()
    assert "| epochs | 3 |" in card
    assert ModelCard(card).data.to_dict()["datasets"] == ["iemocap"]
    hub.add(
        "org/by-command",
        {
            "lora/adapter_config.json": b"{}",
            "model-00001-of-00002.safetensors": b"",
            "LICENSE": b"x",
            "adapter_config.json": b"{}",
        },
    )
    published = machine.run(command.format([*arguments, "--example", "turn_0.wav", "--space", "org/app"]))
    assert f"Published: {hub.url}/org/by-command/commit/" in published
    files = hub.files("org/by-command")
    assert not [name for name in files if "adapter_" in name or "-of-" in name]
    assert "LICENSE" in files
    assert "examples/turn_0.wav" in files
    assert b"hf_test" not in b"".join(files.values())
    listed = {line.split()[1] for line in published.splitlines() if re.match(r" *[\d,]+  ", line)}
    app = hub.files("org/app", repo_type="space")
    assert {name for name in app if not name.startswith("examples/")} == {
        ".gitattributes", "README.md", "app.py", "requirements.txt", "timeline.py",
    }  # fmt: skip
    assert len([name for name in app if name.startswith("examples/")]) == 3
    assert listed == {*files, *app} - {"LICENSE", ".gitattributes"}
    rejected = machine.run(command.format([*arguments, "--private"]), fails=True)
    assert "Error: org/by-command exists and is public" in rejected
    assert hub.files("org/by-command") == files
    machine.run(command.format([*arguments, "--revision", "next"]))
    assert hub.files("org/by-command") == files
    assert "handler.py" in hub.files("org/by-command", "next")
    rejected = machine.run(command.format(["publish", "adapter", "name"]), fails=True)
    assert rejected.strip() == "Error: The name of a repository must be \"org/name\", got 'name'."
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"base_model_name_or_path": "org/gone"}))
    rejected = machine.run(command.format(["publish", "adapter", "org/orphan-too"]), fails=True)
    assert "The base org/gone at revision" in rejected
    assert "of the adapter org/orphan-too is not on the Hub" in rejected
    assert "models/org/orphan-too" not in hub.repos
