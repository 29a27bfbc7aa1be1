"""Runs all steps inside one transaction that the caller began, for taking over a database: when
that fails, nothing may be left behind, not even yoyo's own tables."""

from __future__ import annotations

from typing import Any

import psycopg
import yoyo
from yoyo import internalmigrations
from yoyo.backends import PostgresqlPsycopgBackend
from yoyo.connections import default_migration_table, parse_uri

from server.resources import resource_folder


class _GivenConnection(PostgresqlPsycopgBackend):  # type: ignore[misc]
    """yoyo's backend on a connection whose transaction the caller ends. Where yoyo would begin and
    commit a transaction, this sets and releases a savepoint."""

    _in_transaction: bool = False
    _internal_schema_updated: bool = False

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._given = connection
        super().__init__(parse_uri("postgresql+psycopg:///"), default_migration_table)

    def connect(self, dburi: Any) -> Any:
        return self._given

    def copy(self) -> _GivenConnection:
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the connection open, because it is the caller's."""

    def begin(self) -> None:
        assert not self._in_transaction
        self.savepoint("yoyo")
        self._in_transaction = True

    def commit(self) -> None:
        self.savepoint_release("yoyo")
        self._in_transaction = False

    def rollback(self) -> None:
        self.savepoint_rollback("yoyo")
        self._in_transaction = False

    def ensure_internal_schema_updated(self) -> None:
        if not self._internal_schema_updated:
            self.create_lock_table()
            internalmigrations.upgrade(self)
            self._internal_schema_updated = True


def apply_steps(connection: psycopg.Connection[tuple[Any, ...]]) -> list[str]:
    """Applies every step to a schema public that has none of our tables. Returns the names of the
    steps."""
    backend = _GivenConnection(connection)
    backend.ensure_internal_schema_updated()
    steps = list(backend.to_apply(yoyo.read_migrations(str(resource_folder("migrations")))))
    for step in steps:
        backend.apply_one(step)
    return [step.id for step in steps]


def run_step_again(connection: psycopg.Connection[tuple[Any, ...]], step: str) -> None:
    """Runs a step that fills tables once more, over rows that were added since. The step itself
    must say that it may be run again."""
    file = resource_folder("migrations") / f"{step}.sql"
    connection.execute(file.read_text(encoding="utf-8"))
