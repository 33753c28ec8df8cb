"""What the core does without the extras, and what is said where one is missing."""

import ast
import json
import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from bare_environment import make_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from titans_mal.extras import MissingExtraError, extra


ROOT = Path(__file__).resolve().parents[2]
SETUP = ConfigParser()
SETUP.read(ROOT / "setup.cfg")
SCRIPT = """
import json, pkgutil, sys
from importlib import import_module
from importlib.util import find_spec
root, folder = sys.argv[1:]
sys.path.insert(0, root)
extras = ("silero_vad", "praatio", "webvtt", "plotly", "jsonschema", "fastapi", "uvicorn", "redis", "gradio")
assert not [name for name in extras if find_spec(name)]
import titans_mal
for module in pkgutil.walk_packages(titans_mal.__path__[:1], "titans_mal."):
    if not module.name.startswith(("titans_mal.server", "titans_mal.cli.__main__")):
        import_module(module.name)
from typer.testing import CliRunner
from titans_mal.cli import app
quickstart = root + "/examples/quickstart/"
model, talk = quickstart + "tiny-qwen2-audio-mal", quickstart + "conversation"
answers = {}
for name, arguments in {
    "folder": ["analyze", talk, "--model", model, "--timeline", folder + "/line.png"],
    "file": ["analyze", talk + "/turn_01_B.wav", "--model", model, "--json", folder + "/turns.json"],
    "evaluate": ["evaluate", model, talk, "--output", folder + "/report"],
    "vtt": ["analyze", talk, "--model", model, "--format", "vtt"],
    "textgrid": ["analyze", talk, "--model", model, "--format", "textgrid"],
    "html": ["analyze", talk, "--model", model, "--timeline", folder + "/line.html"],
    "follow": ["analyze", "--follow", "--model", model],
    "serve": ["serve", "--model", model],
    "space": ["space", "--model", model],
}.items():
    result = CliRunner().invoke(app, arguments)
    # What was not expected is not printed.
    answers[name] = [result.exit_code, result.output + repr(result.exception or "")]
print("answers:", json.dumps(answers), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What commands of the core say in an environment that has nothing else."""
    folder = tmp_path_factory.mktemp("core")
    python = make_environment(folder / "environment", *SETUP["options"]["install_requires"].split())
    command = [str(python), "-I", "-c", SCRIPT, str(ROOT), str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=folder, env={"HF_HOME": str(folder)})
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.partition("answers:")[2].splitlines()[0])


@pytest.mark.slow
def test_the_core_analyses_and_evaluates(answers):
    for name in ("folder", "file", "evaluate"):
        assert answers[name][0] == 0, answers[name][1]
    assert "is processed as one turn" in answers["file"][1]
    assert "pip install 'titans_mal[live]'" in " ".join(answers["file"][1].split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "extra"),
    [("vtt", "formats"), ("textgrid", "formats"), ("html", "html"), ("follow", "live"), ("serve", "serve"),
     ("space", "space")],
)  # fmt: skip
def test_a_missing_extra_is_one_sentence(answers, name, extra):
    code, printed = answers[name]
    assert code == 1
    (line,) = [line for line in printed.splitlines() if line.startswith("Error:")]
    assert f"needs {'fastapi, uvicorn, ' if name == 'serve' else ''}" in line
    assert line.endswith(f": pip install 'titans_mal[{extra}]'")


def test_errors_of_other_imports_are_left():
    with (
        pytest.raises(MissingExtraError, match=r"A hat needs hats: pip install 'titans_mal\[wear\]'"),
        extra("wear", "A hat"),
    ):
        import hats.straw  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name 'hat'") as raised, extra("wear", "A hat"):
        from json import hat  # noqa: F401
    assert not isinstance(raised.value, MissingExtraError)


def test_all_has_everything():
    extras = {name: set(lines.split()) for name, lines in SETUP["options.extras_require"].items()}
    assert extras["all"] == {"titans-mal[formats,granite,html,live,schema,serve,space,voxtral]"}
    assert {*extras} == {
        "all",
        "lora",
        "browser",
        "docs",
        "release",
        "test",
        *["formats", "granite", "html", "live", "schema", "serve", "space", "voxtral"],
    }


def _installed_with(package: str, *extras: str) -> set[str]:
    """Names of all packages that pip installs for a package with extras, by the metadata of those installed here."""
    found, waiting = set(), [(package, frozenset(extras))]
    while waiting:
        one = name, wanted = waiting.pop()
        if one in found:
            continue
        found.add(one)
        try:
            needed = map(Requirement, requires(name) or ())
        except PackageNotFoundError:
            continue
        waiting += [
            (canonicalize_name(need.name), frozenset(need.extras))
            for need in needed
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in {"", *wanted})
        ]
    return {name for name, _ in found}


def test_the_examples_import_nothing_that_their_readmes_do_not_install():
    """Those of a server need the extra `serve`; a README names what else has to be installed."""
    installed, written_otherwise = _installed_with("titans-mal", "serve"), {"sklearn": "scikit-learn"}
    ours = {"titans_mal", *(path.stem for path in (ROOT / "tests").glob("*.py"))}
    for path in (ROOT / "examples").rglob("*.py"):
        readme = (path.parent / "README.md").read_text(encoding="utf-8")
        local = ours | {file.stem for file in path.parent.glob("*.py")} | sys.stdlib_module_names
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = {alias.name.partition(".")[0] for alias in node.names}
            else:
                modules = {str(node.module).partition(".")[0]} if isinstance(node, ast.ImportFrom) else set()
            for module in modules - local:
                package = canonicalize_name(written_otherwise.get(module, module))
                assert package in installed or f"pip install {package}" in readme, f"{path.name} imports {module}"
