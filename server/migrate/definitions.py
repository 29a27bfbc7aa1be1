"""Loads sql/ into the database, in one transaction, on every deploy.

What sql/ defines is replaced in place, so that running servers keep calling it; what changed its
shape is dropped and made anew; what an older release left behind goes."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from server.resources import resource_folder

_DEFINES = re.compile(
    r"^CREATE OR REPLACE (FUNCTION|VIEW) (billing|billing_data)\.(\w+)", re.MULTILINE
)
_LOCK_TIMEOUT = "500ms"  # whoever waits for a table makes everybody else wait behind
_LOCK_PATIENCE_SECONDS = 60.0
_Connection = psycopg.Connection[tuple[Any, ...]]


def load_definitions(connection: _Connection) -> list[str]:
    """Loads every file that sql/load.sql lists; gives the names of stale definitions it dropped.

    `connection` must be in autocommit mode and be a member of billing_owner. Raises psycopg.Error
    and leaves everything as it was: psycopg.errors.LockNotAvailable when some transaction holds a
    table for a minute."""
    deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
    while True:
        try:
            return _load_all(connection)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)  # for those who waited meanwhile


def _load_all(connection: _Connection) -> list[str]:
    folder = resource_folder("sql")
    files = [
        folder / line.split()[1]
        for line in (folder / "load.sql").read_text(encoding="utf-8").splitlines()
        if line.startswith("\\ir ")
    ]
    wanted: set[tuple[str, str]] = set()
    with connection.transaction():
        connection.execute("SELECT set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,))
        connection.execute("SET LOCAL search_path = pg_catalog")
        connection.execute("GRANT SELECT ON public._yoyo_migration TO billing_owner")
        for file in files:
            wanted |= _load(connection, file)
        dropped = _drop_stale(connection, wanted)
    return dropped


def _load(connection: _Connection, file: Path) -> set[tuple[str, str]]:
    text: LiteralString = file.read_text(encoding="utf-8")
    defined = {(schema, name) for _, schema, name in _DEFINES.findall(text)}
    overloads = _signatures(connection, defined)
    if len(overloads) > len(defined):
        # Somebody's overload stands beside ours: which is which would be a guess.
        for oid, kind in overloads:
            _drop(connection, oid, kind)
        overloads = []
    try:
        with connection.transaction():
            connection.execute(text)
    except (
        psycopg.errors.InvalidFunctionDefinition,
        psycopg.errors.InvalidTableDefinition,
        psycopg.errors.AmbiguousFunction,
    ):
        # A function's arguments or result, or a view's columns changed: it cannot be replaced in
        # place.
        for oid, kind in overloads:
            _drop(connection, oid, kind)
        connection.execute(text)
        return defined
    # An argument list changed: the old form would stand beside the new one as an overload.
    for oid, kind in overloads:
        row = connection.execute(
            "SELECT count(*) FROM pg_proc AS p INNER JOIN pg_proc AS q"
            " ON q.pronamespace = p.pronamespace AND q.proname = p.proname WHERE p.oid = %s",
            (oid,),
        ).fetchone()
        if row and row[0] > 1:
            _drop(connection, oid, kind)
    return defined


def _signatures(
    connection: _Connection, names: set[tuple[str, str]]
) -> list[tuple[int, LiteralString]]:
    found: list[tuple[int, LiteralString]] = []
    for schema, name in names:
        for kind, query in _LOOKUPS.items():
            found += [(row[0], kind) for row in connection.execute(query, (schema, name))]
    return found


_LOOKUPS: dict[LiteralString, LiteralString] = {
    "FUNCTION": "SELECT p.oid FROM pg_proc AS p"
    " WHERE p.pronamespace::regnamespace::text = %s AND p.proname = %s",
    "VIEW": "SELECT c.oid FROM pg_class AS c WHERE c.relkind = 'v'"
    " AND c.relnamespace::regnamespace::text = %s AND c.relname = %s",
}


def _drop(connection: _Connection, oid: int, kind: LiteralString) -> None:
    cast_to: LiteralString = "regprocedure" if kind == "FUNCTION" else "regclass"
    row = connection.execute(
        sql.SQL("SELECT %s::oid::{}::text WHERE EXISTS (SELECT FROM {} WHERE oid = %s)").format(
            sql.SQL(cast_to), sql.SQL("pg_proc" if kind == "FUNCTION" else "pg_class")
        ),
        (oid, oid),
    ).fetchone()
    if row:  # an earlier CASCADE may have taken it
        connection.execute(sql.SQL("DROP {} {} CASCADE").format(sql.SQL(kind), sql.SQL(row[0])))


def _drop_stale(connection: _Connection, wanted: set[tuple[str, str]]) -> list[str]:
    rows = connection.execute(
        "SELECT p.oid, 'FUNCTION', n.nspname, p.proname FROM pg_proc AS p"
        " INNER JOIN pg_namespace AS n ON n.oid = p.pronamespace"
        " WHERE n.nspname IN ('billing', 'billing_data')"
        " UNION ALL SELECT c.oid, 'VIEW', n.nspname, c.relname FROM pg_class AS c"
        " INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE n.nspname IN ('billing', 'billing_data') AND c.relkind = 'v'"
    ).fetchall()
    stale = [row for row in rows if (row[2], row[3]) not in wanted]
    for oid, kind, _, _ in stale:
        _drop(connection, oid, kind)
    return sorted(f"{schema}.{name}" for _, _, schema, name in stale)
