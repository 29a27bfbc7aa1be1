"""Calls of billing functions from the command line, under the login's own database role."""

from __future__ import annotations

import os
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from server.cli.output import CommandFailed
from server.config import load_database_url


def call_function(statement: LiteralString, **arguments: Any) -> list[dict[str, Any]]:
    """Runs one `SELECT ... FROM billing.f(...)`, with %(name)s arguments, and gives its rows.

    Raises ConfigError without a database URL, CommandFailed when the database refuses."""
    url = load_database_url(os.environ)
    try:
        with psycopg.connect(url, connect_timeout=10, row_factory=dict_row) as connection:
            return connection.execute(statement, arguments).fetchall()
    except psycopg.errors.UndefinedFunction as error:
        raise CommandFailed(
            "the database lacks a function this release calls: run `ciris-billing migrate`"
            f" ({_first_line(error)})"
        ) from None
    except psycopg.errors.InsufficientPrivilege as error:
        raise CommandFailed(
            f"{_first_line(error)}: this needs the login of a member of billing_dba"
        ) from None
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
        hint = error.diag.message_hint
        raise CommandFailed(_first_line(error) + (f" ({hint})" if hint else "")) from None


def _first_line(error: psycopg.Error) -> str:
    return (error.diag.message_primary or str(error)).strip().splitlines()[0]
