"""Run the application by uvicorn, so that streams end in order when it stops."""

from __future__ import annotations

import contextlib
import gc
import math
import socket
import sys
import time
from typing import Any

import uvicorn
from fastapi import FastAPI


# The largest message of a stream, two minutes of mono audio at 16 kHz, and how many may wait to be processed.
_MESSAGE_BYTES, _MESSAGES = 4 << 20, 2


def run_server(app: FastAPI, **options: Any) -> None:
    """Serve an application of `create_app` until a signal stops it; `options` are those of uvicorn.

    Raises:
        SystemExit: if the server cannot start, as on a port that is in use.
    """
    config = uvicorn.Config(app, ws_max_size=_MESSAGE_BYTES, ws_max_queue=_MESSAGES, **options)
    server = _Server(config)
    # Otherwise a collection goes through all objects of the libraries and the model, and holds up all turns meanwhile.
    gc.collect()
    gc.freeze()
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(1)


class _Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn itself closes streams at once, in the middle of a turn and before its answer.
        began, grace = time.monotonic(), self.config.timeout_graceful_shutdown
        await self.config.app.state.service.end_streams()  # type: ignore[union-attr]
        if grace is not None:
            self.config.timeout_graceful_shutdown = max(1, math.ceil(grace - (time.monotonic() - began)))
        await super().shutdown(sockets)
