"""Logs are JSON lines, and plain ones on a terminal: time, level, message and what the call adds as
`extra`. No secret and no identity is ever passed to a log call."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import orjson

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; a traceback, if any, in `exception`."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _added(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class TerminalFormatter(logging.Formatter):
    """A line for people: 12:30:01 INFO request method=GET status=200."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line; a traceback, if any, follows it."""
        values = (f" {key}={value}" for key, value in _added(record).items())
        return super().formatMessage(record) + "".join(values)


def _added(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def configure(level: str) -> None:
    """Sends all logs to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TerminalFormatter() if sys.stderr.isatty() else JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # asyncio would log "connection refused" once more for each request; the gateway has logged it
    # already.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    # The stripe package would log what is sent to Stripe, including e-mail addresses.
    logging.getLogger("stripe").setLevel(logging.WARNING)
