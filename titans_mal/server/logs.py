"""The server's log: readable lines, or one JSON object per line."""

from __future__ import annotations

import copy
import json
import logging
from datetime import UTC, datetime
from typing import Any


logger = logging.getLogger("titans_mal.server")

# Standard attributes of records; all others are extra fields.
_RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime", "color_message", "taskName"}


class JsonFormatter(logging.Formatter):
    """A record as JSON: time, level, logger, message, extra fields, and traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((name, value) for name, value in vars(record).items() if name not in _RECORD)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _WithoutPaths(logging.Filter):
    """Drops the lines in which uvicorn logs the address of a WebSocket."""

    def filter(self, record: logging.LogRecord) -> bool:
        return '"WebSocket ' not in str(record.msg)


def log_config(*, as_json: bool = False) -> dict:
    """uvicorn's logging configuration, with `Gate`'s access lines instead of uvicorn's, which contain names.

    Args:
        as_json: one JSON object per line, also for warnings of this package and of transformers.
    """
    from uvicorn.config import LOGGING_CONFIG

    config = copy.deepcopy(LOGGING_CONFIG)
    config["filters"] = {"without_paths": {"()": _WithoutPaths}}
    config["handlers"]["default"]["filters"] = ["without_paths"]
    config["loggers"]["uvicorn.access"] = {"handlers": [], "level": "WARNING", "propagate": False}
    config["loggers"][logger.name] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    if as_json:
        config["formatters"]["default"] = {"()": JsonFormatter}
        config["loggers"]["titans_mal"] = {"handlers": ["default"], "level": "WARNING", "propagate": False}
        config["loggers"]["transformers"] = {"handlers": ["default"], "level": "WARNING", "propagate": False}
    return config
