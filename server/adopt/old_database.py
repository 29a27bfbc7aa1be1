"""Examines a database before it is taken over, and decides whether it may be."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from server.migrate import MigrationError

BASE = "2025_10_21_0008"
REVISIONS = (
    BASE,
    "2025_11_25_0009",
    "2025_11_25_0010",
    "2025_11_29_0011",
    "2025_12_01_0012",
    "2025_12_04_0013",
    "2025_12_05_0014",
    "2025_12_14_0015",
    "2025_12_17_0016",
    "2026_01_29_0017",
    "2026_05_01_0018",
    "2026_05_01_0019",
    "2026_05_01_0020",
    "2026_08_28_0021",
)
# What alembic_version says afterwards. The old service does not start on a revision that it does
# not know, so it cannot make its tables again beside ours.
TAKEN_OVER = "taken_over_by_ciris_billing"
CARRIED_OVER = (
    "accounts",
    "charges",
    "credits",
    "credit_checks",
    "api_keys",
    "admin_users",
    "admin_audit_logs",
    "provider_configs",
)
# This service does not have these features, so the rows are kept as they are.
KEPT = (
    "google_play_purchases",
    "apple_storekit_purchases",
    "llm_usage_logs",
    "product_inventory",
    "product_usage_logs",
    "revoked_tokens",
)
KEPT_COLUMNS = (
    "accounts.daily_free_uses_remaining",
    "accounts.daily_free_uses_reset_at",
    "accounts.daily_free_uses_limit",
    "accounts.display_name",
    "credits.is_test",
)
INTENTS = "stripe_payment_intents"
LOGINS_UNDER_WAY = "admin_oauth_sessions"

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class OldDatabase:
    """An old database that may be taken over. `tables` are the tables of the old service that it
    has, and `columns` are their columns, written as table.column."""

    revision: str
    tables: tuple[str, ...]
    columns: Collection[str]

    def unknown_columns(self, carried_over: Collection[str]) -> dict[str, list[str]]:
        """Returns the columns that somebody added to the tables we carry over, by table. It leaves
        out the table with secrets, because that one is never kept."""
        found: dict[str, list[str]] = {}
        for name in sorted(set(self.columns) - set(carried_over) - set(KEPT_COLUMNS)):
            table, _, column = name.partition(".")
            if table in CARRIED_OVER and table != "provider_configs":
                found.setdefault(table, []).append(column)
        return found

    @property
    def balance_is_copy(self) -> bool:
        """Whether balance_minor repeats paid_credits, as later revisions had it."""
        return self.revision > BASE


@dataclass(frozen=True, slots=True)
class Writer:
    """A session that may write into the database."""

    login: str
    program: str
    address: str
    kind: str

    def __str__(self) -> str:
        program = f" ({self.program})" if self.program else ""
        return f"{self.kind} of {self.login or 'the system'}{program} from {self.address}"


def examine(connection: Connection) -> OldDatabase | None:
    """Returns the old service's database, or None if it was taken over before. Raises
    MigrationError for any other database, and says what to do."""
    facts = connection.execute(
        "SELECT to_regclass('public.alembic_version') IS NOT NULL,"
        " to_regclass('public._yoyo_migration') IS NOT NULL,"
        " to_regclass('legacy_service.adoption') IS NOT NULL,"
        " to_regnamespace('billing_data') IS NOT NULL,"
        " to_regnamespace('legacy_service') IS NOT NULL"
    ).fetchone()
    assert facts is not None
    has_alembic, is_ours, was_taken_over, has_our_schema, has_legacy_schema = facts
    if was_taken_over and is_ours:
        return None
    if is_ours:
        raise MigrationError(
            "this database belongs to this service already and not to an old service: run"
            " `ciris-billing migrate` without --adopt"
        )
    if not has_alembic:
        raise MigrationError(
            "this is no database of the old service (table alembic_version is missing): check"
            " MIGRATION_DATABASE_URL, or run `ciris-billing migrate` without --adopt for a new one"
        )
    if has_our_schema or has_legacy_schema:
        raise MigrationError(
            "the database has a schema billing_data or legacy_service that this service did not"
            " make: rename or drop it, then run this again"
        )
    found = connection.execute("SELECT v.version_num FROM public.alembic_version AS v").fetchall()
    revision = found[0][0] if len(found) == 1 else " and ".join(row[0] for row in found) or "none"
    if revision not in REVISIONS:
        raise MigrationError(
            f"the old database is at revision {revision}: this release takes over"
            f" {REVISIONS[0]} to {REVISIONS[-1]}. Bring it to one of them with the old service's"
            " own migrations (alembic upgrade), then run this again"
        )
    return _with_tables(connection, revision)


def _with_tables(connection: Connection, revision: str) -> OldDatabase:
    rows = connection.execute(
        "SELECT c.relname, a.attname, pg_has_role(c.relowner, 'USAGE')"
        " FROM pg_catalog.pg_class AS c"
        " INNER JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0"
        " AND NOT a.attisdropped AND c.relname = ANY (%s)",
        ([*CARRIED_OVER, *KEPT, INTENTS, LOGINS_UNDER_WAY, "alembic_version"],),
    ).fetchall()
    columns = {f"{table}.{column}" for table, column, _ in rows}
    tables = {table for table, _, _ in rows}
    needed = (*CARRIED_OVER, "accounts.paid_credits")
    missing = [name for name in needed if name not in tables and name not in columns]
    if missing:
        raise MigrationError(
            f"the old database says it is at {revision} and has no {', '.join(missing)}: is it"
            " restored completely? Run this on a complete database"
        )
    foreign = sorted({table for table, _, is_mine in rows if not is_mine})
    if foreign:
        raise MigrationError(
            f"the login does not own {', '.join(foreign)}: let MIGRATION_DATABASE_URL name the"
            " tables' owner or a superuser"
        )
    return OldDatabase(revision, tuple(sorted(tables - {"alembic_version"})), columns)


_END_OF_SESSION = 1.0  # seconds
_WRITERS: LiteralString = """
    SELECT
        coalesce(s.usename, ''), coalesce(s.application_name, ''),
        coalesce(host(s.client_addr), 'this machine'),
        CASE
            WHEN coalesce(s.backend_type, 'client backend') = 'client backend' THEN 'a session'
            ELSE 'a ' || s.backend_type
        END
    FROM pg_catalog.pg_stat_activity AS s
    WHERE s.datname = current_database()
        AND s.pid <> pg_backend_pid()
        AND coalesce(s.backend_type, '') NOT IN ('autovacuum worker', 'parallel worker')
        -- A login that can only read, such as that of monitoring, is not in the way.
        AND (
            s.backend_type <> 'client backend'
            OR has_table_privilege(s.usesysid, 'public.charges', 'INSERT') IS NOT FALSE
        )
        -- A state that this login may not see counts as busy.
        AND NOT (coalesce(s.state, 'hidden') = 'idle' AND s.usename = ANY (%s))
    ORDER BY s.backend_start
"""


def writers(connection: Connection, idle_logins: Collection[str] = ()) -> list[Writer]:
    """Returns the sessions that may write into the old tables at any moment, and the workers that
    replicate into or out of the database. Sessions of `idle_logins` count only while they do
    something: the operator has said that they do not belong to the service."""
    return [Writer(*row) for row in connection.execute(_WRITERS, [list(idle_logins)])]


def refuse_writers(connection: Connection, idle_logins: Collection[str]) -> None:
    """Raises MigrationError if any are left. A session that was just closed takes a moment to
    end, so it is looked for twice."""
    found = writers(connection, idle_logins)
    if found:
        time.sleep(_END_OF_SESSION)
        connection.execute("SELECT pg_stat_clear_snapshot()")
        found = writers(connection, idle_logins)
    if found:
        shown = "; ".join(map(str, found[:5])) + ("; ..." if len(found) > 5 else "")
        raise MigrationError(
            f"{len(found)} others may write into the database ({shown}): stop the old service and"
            " replication, close open sessions, then run this again. Idle sessions of a login that"
            " does not belong to the service may stay with --idle-login. Nothing was changed"
        )


def lock_tables(connection: Connection, old: OldDatabase) -> None:
    """Locks the old tables for everybody else until the transaction ends."""
    tables = ", ".join(f"public.{table}" for table in ("alembic_version", *old.tables))
    try:
        # This is enough time for autovacuum to give way.
        connection.execute("SET LOCAL lock_timeout = '5s'")
        connection.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
        connection.execute("SET LOCAL lock_timeout = 0")
    except psycopg.errors.LockNotAvailable:
        raise MigrationError(
            "somebody holds a lock on the old tables (another adoption, or a transaction that was"
            " left open or prepared): end it, then run this again. Nothing was changed"
        ) from None
