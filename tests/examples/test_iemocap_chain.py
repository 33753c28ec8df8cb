"""The commands of `examples/finetune/IEMOCAP.md`, on a tree of synthetic audio that is laid out as the release."""

import json
import re
import shlex
from pathlib import Path

import pytest
from corpus_trees import iemocap
from tiny_models import save_base
from typer.testing import CliRunner

from titans_mal.cli import app


RECIPE = Path(__file__).parents[2] / "examples" / "finetune" / "IEMOCAP.md"
# In place of the large host, its size and its length of training.
SMALL = {
    "--memory-layers 8 16 24": '--memory-layers 0 2 --memory \'{"num_heads": 2, "head_dim": 8}\' --use-cpu True',
    "--lora-r 16": "--lora-r 2",
    "--dtype bfloat16": "--dtype float32",
    "--gradient-accumulation-steps 8": "--gradient-accumulation-steps 1 --window 3",
    "--num-train-epochs 3": "--max-steps 1",
    "1 2 3 4 5": "1 5",
}


def commands(text: str) -> list[list[str]]:
    """The words of each command of the recipe's block of bash, its loop unrolled."""
    block = re.search(r"```bash\n(.*?)```", text, re.DOTALL).group(1).replace("\\\n", " ")
    numbers, body, rest = re.fullmatch(r"for fold in ([\d ]+); do(.*?)\ndone\n(.*)", block, re.DOTALL).groups()
    lines = [body.replace("$fold", number) for number in numbers.split()] + rest.strip().splitlines()
    return [shlex.split(line) for line in lines]


def test_the_loop_is_unrolled():
    lines = commands(RECIPE.read_text())
    assert [line[1] for line in lines] == ["train"] * 5 + ["compare", "publish"]
    assert all(line[0] == "titans-mal" for line in lines)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*turns:UserWarning")
def test_the_chain_on_synthetic_audio(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_base(tmp_path / "base")
    iemocap(tmp_path / "IEMOCAP_full_release")
    text = RECIPE.read_text().replace("Qwen/Qwen2-Audio-7B-Instruct", "base")
    for large, small in SMALL.items():
        assert large in text
        text = text.replace(large, small)
    *chain, publish = commands(text)
    for words in chain:
        # As a shell does it.
        words = [path for word in words for path in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
        done = CliRunner().invoke(app, words[1:])
        assert done.exit_code == 0, done.output
    pooled = (tmp_path / "iemocap" / "report.md").read_text()
    for fold in (1, 5):
        report = json.loads((tmp_path / "iemocap" / f"fold-{fold}" / "report" / "report.json").read_text())
        assert report["protocol"]["fold"] == fold
    assert "pooled" in pooled.lower()
    assert any((tmp_path / "iemocap" / "audio").rglob("*.safetensors"))
    # A base that is a folder is what nobody else has; up to there the command is whole.
    done = CliRunner().invoke(app, publish[1:])
    assert done.exit_code == 1
    assert "The base of this adapter is" in done.output
