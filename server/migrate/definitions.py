"""Loads sql/ into the database, in one transaction, on every deploy.

Definitions in sql/ are replaced in place, so that running servers can go on calling them. A
definition whose shape changed is dropped and made anew. A definition that an older release left
behind is dropped. Statements that need a lock which running servers would wait for (views,
triggers, ALTER TABLE) run last, and only where they change something."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from server.resources import resource_folder

_DEFINES = re.compile(
    r"^CREATE OR REPLACE (FUNCTION|VIEW) (billing|billing_data)\.(\w+)", re.MULTILINE
)
_VIEW = re.compile(r"CREATE OR REPLACE VIEW (\w+\.\w+)")
# DO blocks count too: they check for themselves whether anything must be done
# (sql/append_only.sql).
_LOCKS_TABLES = re.compile(
    r"CREATE OR REPLACE TRIGGER\b|ALTER TABLE\b|DO\b.*?\b(?:TRIGGER|ALTER TABLE)\b", re.DOTALL
)
# Parts of SQL that may contain a semicolon which ends no statement; the last alternative ends one.
_TOKEN = re.compile(
    r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"[^\"]*\"|(\$\w*\$).*?\1|\bBEGIN ATOMIC\b.*?^END;|;",
    re.DOTALL | re.MULTILINE,
)
_SCRATCH = "billing_data.scratch_of_migrate"
_LOCK_TIMEOUT = "500ms"
# Other sessions queue behind a session that waits for a table lock. Therefore this is less than the
# least LOCK_TIMEOUT.
_TABLE_LOCK_TIMEOUT = "20ms"
_PAUSE_SECONDS = 0.2  # for the sessions that queued meanwhile
_LOCK_PATIENCE_SECONDS = 60.0
_MET_A_LOCK = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
_Connection = psycopg.Connection[tuple[Any, ...]]


class _CannotBeLast(Exception):
    """Another object needs a view that was to be replaced at the end."""


def load_definitions(connection: _Connection) -> list[str]:
    """Loads every file that sql/load.sql lists. Returns the names of stale definitions that it
    dropped.

    `connection` must be in autocommit mode and be a member of billing_owner. On psycopg.Error,
    which it raises, everything is as before: psycopg.errors.LockNotAvailable when a transaction
    holds a table for a minute."""
    deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
    tables_last = True
    while True:
        try:
            return _load_all(connection, deadline, tables_last=tables_last)
        except _CannotBeLast:
            tables_last = False
        except _MET_A_LOCK:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)


def _load_all(connection: _Connection, deadline: float, *, tables_last: bool) -> list[str]:
    folder = resource_folder("sql")
    files = [
        folder / line.split()[1]
        for line in (folder / "load.sql").read_text(encoding="utf-8").splitlines()
        if line.startswith("\\ir ")
    ]
    wanted: set[tuple[str, str]] = set()
    last: list[str] = []
    with connection.transaction():
        _set_lock_timeout(connection, _LOCK_TIMEOUT)
        connection.execute("SET LOCAL search_path = pg_catalog")
        connection.execute("GRANT SELECT ON public._yoyo_migration TO billing_owner")
        try:
            for file in files:
                text = file.read_text(encoding="utf-8")
                wanted |= {(schema, name) for _, schema, name in _DEFINES.findall(text)}
                if tables_last:
                    text, postponed = _without_table_locks(connection, text)
                    last += postponed
                _load(connection, text)
            return _finish(connection, last, wanted, deadline)
        except (
            psycopg.errors.InvalidTableDefinition,
            psycopg.errors.UndefinedColumn,
            psycopg.errors.UndefinedTable,
        ) as error:
            if not last:
                raise
            raise _CannotBeLast from error


def _set_lock_timeout(connection: _Connection, timeout: str) -> None:
    connection.execute("SELECT set_config('lock_timeout', %s, true)", (timeout,))


def _statements(text: str) -> Iterator[str]:
    start = 0
    for token in _TOKEN.finditer(text):
        if token[0].endswith(";") and not token[0].startswith(("-", "/", "'", '"', "$")):
            yield text[start : token.end()]
            start = token.end()
    yield text[start:]


def _bare(statement: str) -> str:
    """Returns the statement without the comments and empty lines before it."""
    return re.sub(r"\A(\s+|--[^\n]*\n)*", "", statement)


def _without_table_locks(connection: _Connection, text: str) -> tuple[str, list[str]]:
    """Splits the file into the statements that running servers do not notice and those whose locks
    they would wait for. A new view stays among the first: nobody uses it yet, and later statements
    may."""
    kept, last = "", []
    for statement in _statements(text):
        bare = _bare(statement)
        view = _VIEW.match(bare)
        if (view and _view_definition(connection, view[1])) or _LOCKS_TABLES.match(bare):
            last.append(bare)
        else:
            kept += statement
    return kept, last


def _finish(
    connection: _Connection, last: list[str], wanted: set[tuple[str, str]], deadline: float
) -> list[str]:
    """Runs the statements whose locks running servers would wait for. It waits for a lock so
    briefly that nobody notices; when one is held it releases the others and tries again."""
    changes = [statement for statement in last if _changes_something(connection, statement)]
    stale = _stale(connection, wanted)
    while True:
        try:
            with connection.transaction():
                _set_lock_timeout(connection, _TABLE_LOCK_TIMEOUT)
                for statement in changes:
                    connection.execute(statement)
                for oid, kind, _ in stale:
                    _drop(connection, oid, kind)
            return sorted(name for _, _, name in stale)
        except _MET_A_LOCK:
            if time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE_SECONDS)


def _changes_something(connection: _Connection, statement: str) -> bool:
    """Whether the statement changes something; false for a view that would stay the same."""
    view = _VIEW.match(statement)
    if not view:
        return True
    found = _view_definition(connection, view[1])
    if found is None:
        # dropping something of another shape dropped the view and its grants too
        raise _CannotBeLast
    with connection.transaction(force_rollback=True):
        connection.execute(statement.replace(view[1], _SCRATCH, 1))
        return found != _view_definition(connection, _SCRATCH)


def _view_definition(connection: _Connection, name: str) -> tuple[Any, ...] | None:
    """PostgreSQL's own definition of a view; None when there is no such view."""
    return connection.execute(
        "SELECT pg_get_viewdef(c.oid), c.reloptions FROM pg_class AS c"
        " WHERE c.oid = to_regclass(%s) AND c.relkind = 'v'",
        (name,),
    ).fetchone()


def _load(connection: _Connection, text: LiteralString) -> None:
    defined = {(schema, name) for _, schema, name in _DEFINES.findall(text)}
    overloads = _signatures(connection, defined)
    if len(overloads) > len(defined):
        # Somebody's overload stands beside our function, and we cannot tell which one is meant.
        for oid, kind in overloads:
            _drop(connection, oid, kind)
        overloads = []
    try:
        with connection.transaction():
            connection.execute(text)
        return _drop_old_forms(connection, overloads)
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


def _drop_old_forms(connection: _Connection, overloads: list[tuple[int, LiteralString]]) -> None:
    """Drops the old form of a function whose argument list changed. The new form stands beside it,
    so PostgreSQL keeps both.
    """
    for oid, kind in overloads:
        row = connection.execute(
            "SELECT count(*) FROM pg_proc AS p INNER JOIN pg_proc AS q"
            " ON q.pronamespace = p.pronamespace AND q.proname = p.proname WHERE p.oid = %s",
            (oid,),
        ).fetchone()
        if row and row[0] > 1:
            _drop(connection, oid, kind)


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
    if row:  # an earlier CASCADE may have dropped it
        connection.execute(sql.SQL("DROP {} {} CASCADE").format(sql.SQL(kind), sql.SQL(row[0])))


def _stale(
    connection: _Connection, wanted: set[tuple[str, str]]
) -> list[tuple[int, LiteralString, str]]:
    rows = connection.execute(
        "SELECT p.oid, 'FUNCTION', n.nspname, p.proname FROM pg_proc AS p"
        " INNER JOIN pg_namespace AS n ON n.oid = p.pronamespace"
        " WHERE n.nspname IN ('billing', 'billing_data')"
        # sql/kept.sql makes these functions and drops them as well.
        " AND coalesce(obj_description(p.oid, 'pg_proc'), '') NOT LIKE 'Kept for servers of the%'"
        " UNION ALL SELECT c.oid, 'VIEW', n.nspname, c.relname FROM pg_class AS c"
        " INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE n.nspname IN ('billing', 'billing_data') AND c.relkind = 'v'"
    ).fetchall()
    return [
        (oid, kind, f"{schema}.{name}")
        for oid, kind, schema, name in rows
        if (schema, name) not in wanted
    ]
