"""Logging of the three programs: short lines on standard error, or one JSON object per line.

Prompts are private: nothing below level debug may hold one.
"""

import json as jsonlib
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO


class ShortFormatter(logging.Formatter):
    """`12:34:56 warning: text`; plain text below warnings, since most lines are of that kind."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", datefmt="%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - stdlib's name
        """One line, with its level where that says something."""
        if record.levelno in (logging.DEBUG, logging.WARNING, logging.ERROR, logging.CRITICAL):
            return f"{record.asctime} {record.levelname.lower()}: {record.message}"
        return f"{record.asctime} {record.message}"


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC, ISO 8601), level, logger, message, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return jsonlib.dumps(fields, ensure_ascii=False)


def setup(level: int, json: bool = False, stream: TextIO | None = None) -> None:
    """Send all log lines from `level` on to `stream`, by default standard error.

    Calling it again replaces what an earlier call set up.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if json else ShortFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
