"""The Dockerfile and what starts beside it, as far as can be known without a container engine."""

import re
import shlex
from pathlib import Path

import yaml
from typer.testing import CliRunner

from titans_mal.cli import app


SERVING = Path(__file__).resolve().parents[2] / "examples" / "serving"
ROOT = SERVING.parents[1]


def options_of(words):
    return {word for word in words if word.startswith("--")}


def known_options():
    shown = (
        CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "300", "TERM": "dumb", "NO_COLOR": "1"}).stdout
    )
    return {*re.findall(r"--[a-z-]+", shown)}


def test_the_image_copies_what_is_there_and_starts_what_is_known():
    lines = (SERVING / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    for line in lines:
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
    entry = next(line for line in lines if line.startswith("ENTRYPOINT"))
    assert options_of(shlex.split(entry.replace("\\", "").replace('"', " "))) <= known_options()
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users
    assert users[-1] not in ("root", "0")
    assert any(line.startswith("HEALTHCHECK") for line in lines)


def test_two_servers_share_a_redis_that_appends_behind_tls():
    content = yaml.safe_load((SERVING / "compose.yaml").read_text())
    services = content["services"]
    servers = [services["server-1"], services["server-2"]]
    for server in servers:
        assert server["environment"]["STATES"].startswith("redis://redis:")
        assert options_of(server["command"]) <= known_options()
        assert (SERVING / server["build"]["context"] / server["build"]["dockerfile"]).resolve().is_file()
        assert "ports" not in server  # only the proxy is reached
    command = services["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert services["proxy"]["ports"] == ["443:443"]
    caddy = (SERVING / "Caddyfile").read_text()
    assert {*re.findall(r"server-\d:8000", caddy)} == {"server-1:8000", "server-2:8000"}
    used = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())}
    assert {*content["volumes"]} <= used
