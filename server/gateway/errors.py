"""What a call into the database can end in, beside a result."""

from __future__ import annotations

from typing import Any

import asyncpg
import orjson

from server import metrics

_RETRYABLE = frozenset({"40001", "40P01"})
_LOCK_NOT_AVAILABLE = "55P03"
_READ_ONLY = "25006"
_UNAVAILABLE_CLASSES = ("53", "57")


class Unavailable(Exception):
    """The database cannot answer now; the caller may try again in `retry_after` seconds."""

    def __init__(self, reason: str, retry_after: int = 1) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class QueueFull(Unavailable):
    """More requests wait for the database than may; counted where it is made."""

    def __init__(self) -> None:
        super().__init__("too many requests are waiting for the database")
        metrics.DB_QUEUE_FULL.inc()


class ConnectionLost(Unavailable):
    """The connection broke while a call was under way: whether it took effect is unknown."""


class Busy(Unavailable):
    """Another transaction held the account for longer than the lock time-out."""


class Refused(Exception):
    """A billing function refused the call: `slug` and `status` from billing.errors, `message` as
    worded there, `values` what its placeholders were filled with."""

    def __init__(self, slug: str, status: int, message: str, values: dict[str, Any]) -> None:
        super().__init__(message)
        self.slug = slug
        self.status = status
        self.message = message
        self.values = values


class RightsMissing(Unavailable):
    """The login cannot become the web tier's role: not migrated, or not a member of it."""


class DatabaseFault(Exception):
    """PostgreSQL failed in a way no caller can mend. Its message and detail are left out: they
    may quote a row."""

    def __init__(self, error: asyncpg.PostgresError) -> None:
        where = [error.sqlstate, error.table_name, error.constraint_name]
        super().__init__(" ".join(str(part) for part in where if part))


def is_retryable(error: asyncpg.PostgresError) -> bool:
    """Whether the transaction was undone and may simply be run again."""
    return error.sqlstate in _RETRYABLE


def translate(error: asyncpg.PostgresError) -> Exception:
    """The gateway's exception for a PostgreSQL error; by SQLSTATE, since asyncpg calls every
    class it does not know a fatal error."""
    state: str = error.sqlstate or ""
    if state.startswith("PB"):
        values = orjson.loads(error.detail) if error.detail else {}
        return Refused(error.constraint_name or "refused", int(state[2:]), error.message, values)
    if state == _LOCK_NOT_AVAILABLE:
        return Busy("the account is held by another transaction")
    if state.startswith(("57P", "08")):
        return ConnectionLost("the database is shutting down, or the connection broke")
    if state == _READ_ONLY:
        return Unavailable("the database is a standby, or made read-only")
    if state[:2] in _UNAVAILABLE_CLASSES or state in _RETRYABLE:
        return Unavailable(f"the database cannot answer (SQLSTATE {state})")
    return DatabaseFault(error)
