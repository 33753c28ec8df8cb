"""What `python -m build` makes of the repository, and whether it works outside of it."""

import email
import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from bare_environment import make_environment


ROOT = Path(__file__).resolve().parents[1]
SETUP = ConfigParser()
SETUP.read(ROOT / "setup.cfg")
SOURCES = ["setup.cfg", "pyproject.toml", "LICENSE", "titans_mal", "modeling", "hub_cards", "examples/quickstart"]
pytestmark = pytest.mark.slow


def run(*command: object, **kwargs) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    pytest.importorskip("build", reason="needs the extra release")
    clone, dist = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("dist")
    for name in [*SOURCES, "examples/documentation/package.md"]:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, clone / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, clone)
    return dist


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    (path,) = built.glob("*.whl")
    return path


def test_the_wheel_is_small_and_whole(wheel):
    assert wheel.stat().st_size < 6_000_000
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "titans_mal/quickstart/tiny-qwen2-audio-mal/model.safetensors" in names
    assert "titans_mal/quickstart/conversation/metadata.csv" in names
    assert "titans_mal/modeling/neural_memory.py" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names} == {"titans_mal", names[-1].split("/")[0]}


def test_the_metadata_is_complete(built, wheel):
    pytest.importorskip("twine", reason="needs the extra release")
    assert run(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir()).count("PASSED") == 2
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Author"]
    assert "Apache-2.0" in (metadata["License-Expression"], metadata["License"])
    assert metadata.get_all("Project-URL")
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert not re.findall(r"\]\((?!https://)", metadata.get_payload())


def test_the_demo_runs_outside_of_the_clone(wheel, tmp_path):
    python = make_environment(tmp_path / "environment", *SETUP["options"]["install_requires"].split())
    (site,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    place = tmp_path / "place"
    place.mkdir()
    command = [python, "-I", "-m", "titans_mal.cli"]
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    assert run(*command, "--version", cwd=place, env=environment).startswith("titans-mal ")
    printed = run(*command, "demo", cwd=place, env=environment)
    assert "memory on: 9 of 12 turns right" in printed
    assert [path.name for path in place.iterdir()] == ["timeline.png"]
    turn = site / "titans_mal/quickstart/conversation/turn_00_A.wav"
    assert "sad" in run(*command, "analyze", turn, cwd=place, env=environment)
