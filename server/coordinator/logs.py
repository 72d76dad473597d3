"""Logs as lines of JSON: what happened and numbers about it, never values of data or arrays."""

from __future__ import annotations

import json
import logging
import time

NAME = "fedpoet"


class JsonLines(logging.Formatter):
    """One JSON object a line: time in UTC, level, logger, message, and the record's `facts`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_as_json(level: int = logging.INFO) -> None:
    """Let fedpoet's own loggers write lines of JSON to standard error, and Flower's only warnings."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logger = logging.getLogger(NAME)
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level)
    logging.getLogger("flwr").setLevel(logging.WARNING)
