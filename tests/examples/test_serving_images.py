"""The image and what is started beside it, as far as can be known without a container engine."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from titans_mal.cli import app


SERVING = Path(__file__).resolve().parents[2] / "examples" / "serving"
ROOT = SERVING.parents[1]
MODEL = ROOT / "examples" / "quickstart" / "tiny-qwen2-audio-mal"


def instructions(kind):
    """The instructions of a kind in the Dockerfile, without their names."""
    lines = (SERVING / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    return [line.removeprefix(kind).strip() for line in lines if line.startswith(f"{kind} ")]


def copied():
    """The source and the target of everything that the image copies."""
    return [(source, words[-1]) for words in map(str.split, instructions("COPY")) for source in words[:-1]]


def options_of(words):
    return {word for word in words if word.startswith("--")}


def known_options():
    shown = (
        CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "300", "TERM": "dumb", "NO_COLOR": "1"}).stdout
    )
    return {*re.findall(r"--[a-z-]+", shown)}


def test_the_image_copies_what_is_there_and_starts_what_is_known():
    kept = {line[1:] for line in (SERVING / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    assert {source for source, _ in copied()} == kept
    assert [source for source in kept if not (ROOT / source).exists()] == []
    (entry,) = instructions("ENTRYPOINT")
    assert options_of(shlex.split(entry.replace("\\", "").replace('"', " "))) <= known_options()
    assert [int(user) > 0 for user in instructions("USER")] == [True]
    assert len(instructions("HEALTHCHECK")) == 1
    # What titans-mal reads of the repository to be installed.
    described = re.search(r"^long_description = file: (.+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)[1]
    assert described in kept


def test_two_servers_share_a_redis_that_appends_behind_tls():
    content = yaml.safe_load((SERVING / "compose.yaml").read_text())
    services = content["services"]
    servers = [services["server-1"], services["server-2"]]
    for server in servers:
        assert server["environment"]["STATES"].startswith("redis://redis:")
        assert server["environment"]["TITANS_MAL_TOKEN"].startswith("${TITANS_MAL_TOKEN:?")
        assert options_of(server["command"]) <= known_options()
        assert (SERVING / server["build"]["context"] / server["build"]["dockerfile"]).resolve().is_file()
        assert "ports" not in server  # only the proxy is reached
        assert (server["read_only"], server["cap_drop"]) == (True, ["ALL"])
        assert server["depends_on"] == {"redis": {"condition": "service_healthy"}}
    command = services["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert "healthcheck" in services["redis"]
    assert "ports" not in services["redis"]
    assert services["proxy"]["ports"] == ["443:443"]
    caddy = (SERVING / "Caddyfile").read_text()
    assert {*re.findall(r"server-\d:8000", caddy)} == {"server-1:8000", "server-2:8000"}
    used = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())}
    assert {*content["volumes"]} <= used
    # Each variable that is used is set here, in the Dockerfile or by who starts it.
    named = {*re.findall(r"\$\{(\w+)", (SERVING / "compose.yaml").read_text() + caddy.replace("{$", "${"))}
    assert named == {"TITANS_MAL_TOKEN", "MODEL", "MODEL_DIR", "OMP_NUM_THREADS", "SITE"}


@pytest.mark.slow
def test_a_linter_finds_nothing_in_the_dockerfile():
    linter = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if linter is None:
        pytest.skip("hadolint is not installed: the extra release has it")
    done = subprocess.run([linter, SERVING / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.slow
def test_the_commands_of_the_dockerfile_make_a_server(tmp_path):
    """In a folder that holds what the image copies, in an environment of its own; without what needs to be root."""
    context, environment = tmp_path / "app", tmp_path / "titans"
    for source, target in copied():
        place = context / (Path(source).name if target == "./" else target)
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / source).is_dir() else shutil.copy2)(ROOT / source, place)
    (commands,) = instructions("RUN")
    ours = [part.strip() for part in commands.split("&&") if part.split()[0] not in ("useradd", "install")]
    assert len(ours) == 3
    for command in ours:
        # The registry is that of who runs the test.
        command = command.replace('--index-url "${TORCH_INDEX}"', "").replace("/opt/titans", str(environment))
        subprocess.run(["sh", "-c", command], cwd=context, env={**os.environ, "PIP_QUIET": "2"}, check=True)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    variables = {"PATH": f"{environment}/bin:/usr/bin:/bin", "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "cache")}
    start = [*yaml.safe_load(instructions("ENTRYPOINT")[0]), "--host", "127.0.0.1", "--port", port]
    server = subprocess.Popen(start, cwd=tmp_path, env={**variables, "MODEL": str(MODEL), "STATES": "states"})
    try:
        check = yaml.safe_load(instructions("HEALTHCHECK")[0].partition("CMD")[2].replace("8000", port))
        deadline = time.monotonic() + 120
        while subprocess.run(check, env=variables, stderr=subprocess.DEVNULL).returncode:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.5)
    finally:
        server.terminate()
    assert server.wait(timeout=60) in (0, -signal.SIGTERM)
