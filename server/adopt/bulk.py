"""Loads many rows into tables without keeping up their indexes row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

_Connection = psycopg.Connection[tuple[Any, ...]]

# A constraint that another table refers to must stay. Of the check constraints, only the limits
# that older rows may exceed are taken off.
_CONSTRAINTS: LiteralString = """
    SELECT
        c.conrelid::regclass::text, quote_ident(c.conname), pg_get_constraintdef(c.oid),
        c.contype = 'c'
    FROM pg_catalog.pg_constraint AS c
    WHERE c.conrelid = ANY (%(tables)s::regclass[])
        AND (
            c.contype IN ('p', 'u', 'f')
            OR (
                c.contype = 'c'
                AND (
                    c.conname LIKE '%%\\_description'
                    OR c.conrelid = to_regclass('billing_data.admin_audit_logs')
                )
            )
        )
        AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_constraint AS f
            WHERE f.contype = 'f' AND f.confrelid = c.conrelid AND f.conindid = c.conindid
                AND c.contype IN ('p', 'u')
        )
    ORDER BY c.contype <> 'f', c.conrelid::regclass::text, c.conname
"""
_INDEXES: LiteralString = """
    SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
    FROM pg_catalog.pg_index AS i
    WHERE i.indrelid = ANY (%(tables)s::regclass[])
        AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_constraint AS c WHERE c.conindid = i.indexrelid
        )
    ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class TakenOff:
    """The indexes and constraints that were taken off, and the definitions to put them on again."""

    indexes: Sequence[tuple[str, str]]
    constraints: Sequence[tuple[str, str, str, bool]]


def take_off(connection: _Connection, tables: Sequence[str]) -> TakenOff:
    """Takes off the indexes and constraints that cost time for each row."""
    constraints = connection.execute(_CONSTRAINTS, {"tables": list(tables)}).fetchall()
    for table, name, _, _ in constraints:
        _execute(connection, f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    indexes = connection.execute(_INDEXES, {"tables": list(tables)}).fetchall()
    for name, _ in indexes:
        _execute(connection, f"DROP INDEX {name}")
    return TakenOff(indexes, constraints)


def put_on(connection: _Connection, taken_off: TakenOff) -> None:
    """Puts them on again. A limit that older rows exceed is put on for new rows only, as the step
    that made it did."""
    for _, definition in taken_off.indexes:
        _execute(connection, definition)
    # Foreign keys last: they need what they refer to.
    for table, name, definition, is_bound in reversed(taken_off.constraints):
        statement = f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}"
        try:
            with connection.transaction():
                _execute(connection, statement)
        except psycopg.errors.CheckViolation:
            if not is_bound:
                raise
            _execute(connection, f"{statement} NOT VALID")


@contextmanager
def without_indexes(connection: _Connection, tables: Sequence[str]) -> Iterator[None]:
    """Within the block `tables` have no indexes, so that it can load them quickly."""
    taken_off = take_off(connection, tables)
    yield
    put_on(connection, taken_off)


def _execute(connection: _Connection, statement: str) -> None:
    # The statement is made of names and definitions that PostgreSQL's own catalogue gave.
    connection.execute(statement)
