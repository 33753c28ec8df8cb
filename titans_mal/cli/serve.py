"""`titans-mal serve`: live conversations over HTTP and WebSocket."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from safetensors import SafetensorError

from .analyze import tiny_checkpoint
from .messages import errors_in_one_line
from .options import Model


def serve(
    model: Model = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 accepts connections from other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    states: Annotated[
        str | None,
        typer.Option(
            help="Where conversation states are stored: a folder, or redis://HOST:PORT/DB to share them among "
            "servers. Default: a temporary folder."
        ),
    ] = None,
    token: Annotated[
        str | None, typer.Option(envvar="TITANS_MAL_TOKEN", help="Bearer token that clients must send.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cuda, cpu, ... Default: cuda if available.")] = None,
    dtype: Annotated[str, typer.Option(help="Precision of the host: auto, float32, bfloat16 or float16.")] = "auto",
    max_batch: Annotated[int, typer.Option(help="Maximal number of turns scored at once.")] = 16,
    max_wait_ms: Annotated[
        float, typer.Option(help="Maximal time, in milliseconds, that a turn waits for others to form a batch.")
    ] = 5.0,
    max_live: Annotated[
        int, typer.Option(help="Number of conversations whose states stay in RAM; the others are in --states.")
    ] = 256,
    max_conversations: Annotated[int, typer.Option(help="Maximal number of open conversations.")] = 1000,
    max_megabytes: Annotated[float, typer.Option(help="Maximal size of a turn's audio file, in MB.")] = 25.0,
    turn_seconds: Annotated[
        float, typer.Option(help="Time limit, in seconds, for receiving a turn and for answering it.")
    ] = 60.0,
    log_names: Annotated[
        bool, typer.Option("--log-names", help="Log conversation names and query parameters instead of their hashes.")
    ] = False,
    log_format: Annotated[
        str, typer.Option(help="Format of the log: text, or json with one object per line.")
    ] = "text",
    protect_operations: Annotated[
        bool, typer.Option("--protect-operations", help="Require the token for /metrics and /docs as well.")
    ] = False,
    forget_after: Annotated[
        float,
        typer.Option(
            "--forget-after",
            "--time-to-live",
            help="Delete a conversation or a remembered person after this many seconds without use, also if it was "
            "saved in --states.",
        ),
    ] = 3600.0,
    remember_speakers: Annotated[
        str | None,
        typer.Option(
            "--remember-speakers",
            metavar="KEY",
            envvar="TITANS_MAL_REMEMBER_SPEAKERS",
            help="Remember speakers across calls: a turn sent with person=ID, which states that person's consent, "
            "continues the person's memory of earlier calls. The memory is stored under a hash with this key. Needs a "
            "model with a memory for each speaker.",
        ),
    ] = None,
    alerts: Annotated[
        Path | None, typer.Option(help="TOML file with alert rules, such as examples/serving/alerts.toml.")
    ] = None,
    webhook: Annotated[str | None, typer.Option(help="URL to which alerts are sent as signed JSON.")] = None,
    webhook_secret: Annotated[
        str | None, typer.Option(envvar="TITANS_MAL_WEBHOOK_SECRET", help="Secret key with which alerts are signed.")
    ] = None,
    webhook_allow: Annotated[
        str | None,
        typer.Option(
            metavar="HOSTS",
            help="Comma-separated hosts and networks to which alerts may be sent, as in hooks.example,10.1.0.0/16.",
        ),
    ] = None,
) -> None:
    """Serve live conversations. /docs shows the API, /metrics is for Prometheus, /health for load balancers.

    On SIGINT or SIGTERM, the server scores the waiting turns and saves all states before it stops.
    """
    with errors_in_one_line(SafetensorError):
        if log_format not in ("text", "json"):
            raise ValueError(f"--log-format must be text or json, got {log_format!r}.")
        is_redis = states is not None and states.startswith(("redis://", "rediss://", "unix://"))
        _check_packages("redis" if is_redis else None)
        import torch
        from transformers import AutoProcessor

        from titans_mal import AutoModelForAudioEmotion, ConversationPool

        from ..server import ServerSettings, create_app
        from ..server.gate import name_hash
        from ..server.logs import log_config
        from ..server.run import run_server

        settings = ServerSettings(
            token=token,
            max_conversations=max_conversations,
            max_megabytes=max_megabytes,
            time_to_live=forget_after,
            turn_seconds=turn_seconds,
            protect_operations=protect_operations,
        )
        log_name = repr if log_names else name_hash()
        place = _states(states, is_redis)
        sender = _alerts(alerts, webhook, webhook_secret, webhook_allow, claims=place if is_redis else None)
        name = model or tiny_checkpoint()
        loaded = AutoModelForAudioEmotion.from_pretrained(name, dtype=dtype)
        loaded.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        pool = ConversationPool(
            loaded,
            AutoProcessor.from_pretrained(name),
            max_batch=max_batch,
            max_wait_ms=max_wait_ms,
            max_live=max_live,
            states=place,
            time_to_live=forget_after,
            log_name=log_name,
            remember_speakers=remember_speakers,
        )
        is_json = log_format == "json"
        logs: dict[str, Any] = {} if log_names and not is_json else {"log_config": log_config(as_json=is_json)}
        # Accepted turns are answered before the server stops.
        grace = math.ceil(turn_seconds) + 5
        app = create_app(pool, settings, log_name=log_name, alerts=sender)
        run_server(app, host=host, port=port, timeout_graceful_shutdown=grace, **logs)


def _check_packages(*more: str | None) -> None:
    needed = ("fastapi", "uvicorn", "prometheus_client", "python_multipart", *filter(None, more))
    missing = [name for name in needed if not importlib.util.find_spec(name)]
    if missing:
        raise ValueError(f"The server needs {', '.join(missing)}: pip install 'titans_mal[serve]'")


def _states(states: str | None, is_redis: bool) -> Any:
    """The argument `states` of a pool."""
    if states is None or not is_redis:
        return None if states is None else Path(states)
    from ..server.redis_states import RedisStates

    return RedisStates(states)


def _alerts(rules: Path | None, url: str | None, secret: str | None, allowed: str | None, *, claims: Any) -> Any:
    """The alerts of a server; None without rules.

    Raises:
        ValueError: if only some of these options are given.
    """
    given = {"--alerts": rules, "--webhook": url, "--webhook-secret": secret, "--webhook-allow": allowed}
    missing = [name for name, value in given.items() if not value and name != "--webhook-secret"]
    if len(missing) == 3:
        return None
    if missing or not secret or rules is None:
        missing = missing or ["--webhook-secret"]
        raise ValueError(f"Alerts need all of {', '.join(given)}: also give {', '.join(missing)}.")
    from ..server.alert_rules import read_rules
    from ..server.alerts import Alerts
    from ..server.webhook import AllowList, Webhook

    found = read_rules(rules)
    hosts = [entry.strip() for entry in str(allowed).split(",")]
    return Alerts(found, Webhook(str(url), secret, AllowList(hosts)), claims)
