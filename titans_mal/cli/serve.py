"""`titans-mal serve`: live conversations over HTTP and WebSocket."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Annotated

import typer
from safetensors import SafetensorError

from .analyze import tiny_checkpoint
from .messages import errors_in_one_line
from .options import Model


def serve(
    model: Model = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 accepts other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    states: Annotated[
        str | None,
        typer.Option(
            help="Where to store conversation states: a folder, or redis://HOST:PORT/DB to share them among servers. "
            "Default: a temporary folder."
        ),
    ] = None,
    token: Annotated[
        str | None, typer.Option(envvar="TITANS_MAL_TOKEN", help="Bearer token that clients must send.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cuda, cpu, ... Default: cuda if available.")] = None,
    dtype: Annotated[str, typer.Option(help="Precision of the host: auto, float32, bfloat16 or float16.")] = "auto",
    max_batch: Annotated[int, typer.Option(help="Maximal number of turns scored at once.")] = 16,
    max_wait_ms: Annotated[float, typer.Option(help="Milliseconds that a turn waits for others to join.")] = 5.0,
    max_live: Annotated[int, typer.Option(help="Number of conversations kept in memory.")] = 256,
    max_conversations: Annotated[int, typer.Option(help="Maximal number of open conversations.")] = 1000,
    max_megabytes: Annotated[float, typer.Option(help="Maximal size of a turn's audio file, in MB.")] = 25.0,
    turn_seconds: Annotated[float, typer.Option(help="Seconds allowed to send a turn, and to answer it.")] = 60.0,
    log_names: Annotated[
        bool, typer.Option("--log-names", help="Log names of conversations and queries instead of hashes.")
    ] = False,
    log_format: Annotated[str, typer.Option(help="text, or json: one object a line.")] = "text",
    protect_operations: Annotated[
        bool, typer.Option("--protect-operations", help="Require the token for /metrics and /docs too.")
    ] = False,
    time_to_live: Annotated[float, typer.Option(help="Seconds until an unused conversation is forgotten.")] = 3600.0,
) -> None:
    """Serve live conversations. /docs shows the API, /metrics is for Prometheus, /health for load balancers.

    On a signal to stop, waiting turns are scored and all states are saved.
    """
    with errors_in_one_line(SafetensorError):
        if log_format not in ("text", "json"):
            raise ValueError(f"--log-format is text or json, got {log_format!r}.")
        is_redis = states is not None and states.startswith(("redis://", "rediss://", "unix://"))
        needed = ("fastapi", "uvicorn", "prometheus_client", "python_multipart", *(["redis"] if is_redis else []))
        missing = [name for name in needed if not importlib.util.find_spec(name)]
        if missing:
            raise ValueError(f"The server needs {', '.join(missing)}: pip install 'titans_mal[serve]'")
        import torch
        import uvicorn
        from transformers import AutoProcessor

        from titans_mal import AutoModelForAudioEmotion, ConversationPool

        from ..server import ServerSettings, create_app
        from ..server.gate import name_hash
        from ..server.logs import log_config

        settings = ServerSettings(
            token=token,
            max_conversations=max_conversations,
            max_megabytes=max_megabytes,
            time_to_live=time_to_live,
            turn_seconds=turn_seconds,
            protect_operations=protect_operations,
        )
        log_name = repr if log_names else name_hash()
        place = None if states is None else Path(states)
        if is_redis:
            from ..server.redis_states import RedisStates

            place = RedisStates(states)
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
            time_to_live=time_to_live,
            log_name=log_name,
        )
        is_json = log_format == "json"
        logs = {} if log_names and not is_json else {"log_config": log_config(as_json=is_json)}
        # Accepted turns are answered before the server stops.
        grace = math.ceil(turn_seconds) + 5
        app = create_app(pool, settings, log_name=log_name)
        uvicorn.run(app, host=host, port=port, timeout_graceful_shutdown=grace, **logs)
