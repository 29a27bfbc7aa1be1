"""The exceptions in which a call of the database can end."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import asyncpg

from server.gateway.refusals import is_refusal, raised_refusal
from server.observe import metrics


class Unavailable(Exception):
    """The database cannot answer now. The caller may try again in `retry_after` seconds."""

    def __init__(self, reason: str, retry_after: int = 1) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class QueueFull(Unavailable):
    """Too many requests wait for the database. It is counted where it is raised."""

    def __init__(self) -> None:
        super().__init__("too many requests are waiting for the database")
        metrics.DB_QUEUE_FULL.inc()


class ConnectionLost(Unavailable):
    """The connection broke during a call: whether the call took effect is unknown."""


class Busy(Unavailable):
    """Another transaction held the account for longer than the lock time-out."""


class ReadOnly(Unavailable):
    """The server cannot write: it is a standby or read-only."""

    def __init__(self) -> None:
        super().__init__("the database is a standby, or made read-only")


class RightsMissing(Unavailable):
    """The login cannot become the web tier's role, or that role lacks a right that the server
    needs: the database was not migrated, or somebody revoked a right."""


class DatabaseFault(Exception):
    """PostgreSQL failed in a way that no caller can correct. Its message and detail are left out:
    they may quote a row."""

    def __init__(self, error: asyncpg.PostgresError) -> None:
        where = [error.sqlstate, error.table_name, error.constraint_name]
        super().__init__(" ".join(str(part) for part in where if part))


class Meaning(Enum):
    """What a SQLSTATE means for the caller."""

    FAULT = "a fault of ours, or of the one item; 500"
    BUSY = "somebody holds what the call needs; 503"
    AGAIN = "undone, and may be run again at once; 503 when it does not help"
    REPLACED = "undone; it may have met a deploy, and be run again in a moment; 500 if it did not"
    UNAVAILABLE = "undone; the database cannot do it now; 503"
    RIGHTS = "undone; the role lacks a right until somebody gives it; 503"
    READ_ONLY = "undone; the server cannot write, nor can those of its connections' age; 503"
    LOST = "the connection has ended, and whether the call took effect is unknown; 503"


# fmt: off
_FAULTS = (
    "00", "01", "02", "03", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "24", "25",
    "26", "27", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "42", "HV", "P0",
    "22", "23", "44", "54",  # something in one item, which must fail alone
    "55",  # "not in prerequisite state": mostly a record that was never assigned
    "XX",  # corrupt data or an internal error: a person must look
)
# fmt: on
# The longest entry that a SQLSTATE begins with decides. Every class of PostgreSQL is here
# (tests/ops/test_connections.py compares), so that classes without a special meaning were decided
# too.
MEANINGS: dict[str, Meaning] = {
    **dict.fromkeys(_FAULTS, Meaning.FAULT),
    "08": Meaning.LOST,
    "25006": Meaning.READ_ONLY,
    "25P03": Meaning.LOST,  # idle_in_transaction_session_timeout and
    "25P04": Meaning.LOST,  # transaction_timeout end the session
    "28": Meaning.RIGHTS,  # the login was locked or its password changed
    "40": Meaning.UNAVAILABLE,
    "40001": Meaning.AGAIN,  # serialization failure
    "40002": Meaning.FAULT,  # a constraint, at commit
    "40003": Meaning.LOST,  # whether the statement completed is unknown
    "40P01": Meaning.AGAIN,  # deadlock
    "42501": Meaning.RIGHTS,
    # A function or type was replaced after PostgreSQL had looked it up and before it used it: it no
    # longer exists, or has another shape. Other sessions see the definitions of a deploy a moment
    # before their caches are invalidated. This was seen where deploys and calls met a thousand
    # times.
    **dict.fromkeys(("42703", "42704", "42804", "42883", "42P13"), Meaning.REPLACED),
    "53": Meaning.UNAVAILABLE,  # disk full, out of memory, too many connections, no more locks
    "55006": Meaning.UNAVAILABLE,  # object in use
    "55P03": Meaning.BUSY,
    "57": Meaning.UNAVAILABLE,  # statement_timeout, or cancelled by an administrator
    "57P": Meaning.LOST,  # the server or the session ends, or does not accept sessions yet
    "58": Meaning.UNAVAILABLE,  # the disk is missing or fails
    "72": Meaning.UNAVAILABLE,  # snapshot too old
    "F0": Meaning.UNAVAILABLE,  # the server's configuration
}


# What SET ROLE fails with where the login may not become the role, or the role does not exist.
_ROLE_REFUSED = frozenset({"42501", "22023", "42704"})

# The text of an internal error where a deploy has just replaced what the session had cached.
_FORGOTTEN = "cache lookup failed for "


def meaning_of(error: asyncpg.PostgresError) -> Meaning:
    """The meaning of an error; FAULT where its SQLSTATE is not known."""
    state = error.sqlstate or ""
    if state == "XX000" and str(error).startswith(_FORGOTTEN):
        return Meaning.REPLACED
    prefixes = (state[:length] for length in (5, 3, 2))
    return next((MEANINGS[each] for each in prefixes if each in MEANINGS), Meaning.FAULT)


def condemns(error: asyncpg.PostgresError) -> bool:
    """Whether this connection cannot be used after the error, nor any connection opened before
    it."""
    return meaning_of(error) in (Meaning.LOST, Meaning.READ_ONLY)


def translate(error: asyncpg.PostgresError) -> Exception:
    """Returns the gateway's exception for a PostgreSQL error. The SQLSTATE decides, because asyncpg
    reports every class it does not know as a fatal error."""
    if is_refusal(error):
        return raised_refusal(error)
    make = _EXCEPTIONS.get(meaning_of(error))
    return make(error.sqlstate or "") if make else DatabaseFault(error)


_EXCEPTIONS: dict[Meaning, Callable[[str], Unavailable]] = {
    Meaning.BUSY: lambda _: Busy("the account is held by another transaction"),
    Meaning.LOST: lambda _: ConnectionLost(
        "the database is shutting down, or the connection broke"
    ),
    Meaning.READ_ONLY: lambda _: ReadOnly(),
    Meaning.RIGHTS: lambda state: RightsMissing(
        f"the login lacks a right (SQLSTATE {state})", retry_after=5
    ),
    Meaning.UNAVAILABLE: lambda state: Unavailable(
        f"the database cannot answer (SQLSTATE {state})"
    ),
    Meaning.AGAIN: lambda state: Unavailable(f"the database cannot answer (SQLSTATE {state})"),
}


def not_begun(error: Exception, role: str) -> Unavailable:
    """The exception for an error of a transaction's first statements, in which the session becomes
    `role`. The call was not made yet, so it took no effect."""
    state = getattr(error, "sqlstate", None)
    if state in _ROLE_REFUSED:
        return RightsMissing(f"the login cannot become {role} (SQLSTATE {state})", retry_after=5)
    reason = f"SQLSTATE {state}" if state else type(error).__name__
    return Unavailable(f"the database lets nothing begin ({reason})")


def lost(error: Exception) -> ConnectionLost:
    """The exception for a connection that broke during a call."""
    return ConnectionLost(f"the connection broke: {type(error).__name__}")
