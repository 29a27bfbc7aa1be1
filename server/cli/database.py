"""Calls of billing functions from the command line, under the login's own database role."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, LiteralString

from server.cli.output import CommandFailed, waiting
from server.config import load_database_url

if TYPE_CHECKING:
    import psycopg

_WAITING = "waiting for the database"
_WHO_MAY = "it needs the login of a member of billing_dba"
_FOR_PSQL = re.compile(r"\bbilling\.|\bp_[a-z]|\bSELECT\b")


def call_function(statement: LiteralString, **arguments: Any) -> list[dict[str, Any]]:
    """Runs one `SELECT ... FROM billing.f(...)` with %(name)s arguments and returns its rows.

    Raises ConfigError without a database URL, CommandFailed when the database refuses."""
    with waiting(_WAITING), _connected() as connection:
        return connection.execute(statement, arguments).fetchall()


@contextmanager
def stream_function(
    statement: LiteralString, **arguments: Any
) -> Iterator[Iterator[dict[str, Any]]]:
    """As call_function, for answers that may be long: the rows are read a thousand at a time."""
    with ExitStack() as stack:
        with waiting(_WAITING):
            cursor = stack.enter_context(stack.enter_context(_connected()).cursor("rows"))
            cursor.itersize = 1000
            cursor.execute(statement, arguments)
            first = cursor.fetchmany(cursor.itersize)
        yield chain(first, cursor)


@contextmanager
def _connected() -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """A connection. What the database refuses while it is used becomes CommandFailed."""
    url = load_database_url(os.environ)
    import psycopg
    from psycopg.rows import dict_row

    try:
        with psycopg.connect(url, connect_timeout=10, row_factory=dict_row) as connection:
            yield connection
    except psycopg.errors.UndefinedFunction:
        raise CommandFailed(
            "the database does not fit this release: run `ciris-billing migrate`"
        ) from None
    except psycopg.errors.InsufficientPrivilege:
        raise CommandFailed(f"permission denied: {_WHO_MAY}") from None
    except UnicodeEncodeError:
        raise CommandFailed("an argument is not valid UTF-8 text") from None
    except psycopg.errors.InvalidSchemaName:
        raise CommandFailed(
            "the database has no schema billing: run `ciris-billing migrate`"
        ) from None
    except psycopg.OperationalError as error:
        raise CommandFailed(
            f"cannot connect to the database ({_first_line(error)}):"
            " is DATABASE_URL right and the database up?"
        ) from None
    except psycopg.Error as error:
        raise CommandFailed(_in_words(error), error.diag.constraint_name) from None


def _in_words(error: psycopg.Error) -> str:
    """The text of a refusal without the names of functions and their arguments, which only help in
    psql."""
    code, slug = error.sqlstate or "", error.diag.constraint_name
    if slug == "invalid_argument":
        values = json.loads(error.diag.message_detail or "{}")
        argument = str(values["argument"]).removeprefix("p_").replace("_", " ")
        problem = re.sub(r"\bp_(\w+)", r"\1", values["problem"])  # it may name another argument
        return f"{argument}: {problem}"
    if slug == "actor_required":
        return f"{_first_line(error)}: {_WHO_MAY}"
    if code.startswith("PB"):
        hint = error.diag.message_hint
        return _first_line(error) + (f" ({hint})" if hint and not _FOR_PSQL.search(hint) else "")
    if code.startswith("22"):  # a value is wrong, and PostgreSQL's own words say how
        return f"the database does not take a value: {_first_line(error)}"
    return f"the database refuses it (SQLSTATE {code or 'unknown'}): its log says why"


def _first_line(error: psycopg.Error) -> str:
    return (error.diag.message_primary or str(error)).strip().splitlines()[0]
