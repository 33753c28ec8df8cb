"""The script that evaluates all folds, on a tree that looks like IEMOCAP."""

import runpy
import subprocess
import sys
from pathlib import Path

import corpus_trees
import pytest
import typer
from tiny_models import tiny_model, tiny_processor
from typer.testing import CliRunner


SCRIPT = Path(__file__).parents[2] / "examples" / "evaluation" / "evaluate_folds.py"


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.slow
def test_folds_are_evaluated_and_pooled(tmp_path):
    for fold in range(1, 6):
        folder = tmp_path / f"model-{fold}"
        tiny_model(seed=fold).save_pretrained(folder)
        tiny_processor().save_pretrained(folder)
    corpus_trees.iemocap(tmp_path / "corpus")
    options = ["--data-dir", tmp_path / "corpus", "--output", tmp_path / "reports", "--resamples", 100]
    done = run(tmp_path / "model-{fold}", "iemocap", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    table = (tmp_path / "reports" / "folds.md").read_text()
    assert "Mean of 5 reports" in table
    assert "## Folds pooled" in table
    assert "must contain {fold}" in run(tmp_path / "model-1", "iemocap", *options).stderr
    assert "meld has official splits" in run(tmp_path / "model-{fold}", "meld", *options).stderr


def test_what_is_wrong_is_said_on_one_line(tmp_path):
    """For arguments, and for models that do not exist."""
    application = typer.Typer()
    application.command()(runpy.run_path(str(SCRIPT))["main"])

    def answer(model: str, corpus: str) -> tuple[int, str]:
        options = ["--data-dir", str(tmp_path / "corpus"), "--output", str(tmp_path / "reports")]
        done = CliRunner().invoke(application, [model, corpus, *options])
        return done.exit_code, " ".join(done.output.replace("│", " ").split())

    code, said = answer("model-{fold}", "nosuch")
    assert (code, "must be one of iemocap, " in said) == (2, True), said
    corpus_trees.iemocap(tmp_path / "corpus", sessions=(1, 2))
    code, said = answer(str(tmp_path / "model-{fold}"), "iemocap")
    assert (code, "Error: The checkpoint" in said, "model-1 does not exist" in said) == (1, True, True), said
