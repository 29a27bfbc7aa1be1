"""Takes over a database of the old service, in one transaction. It moves the old tables aside,
makes ours by the usual steps, carries the rows over inside the database and verifies the books.
Only then does it commit."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from server.adopt.bulk import put_on, take_off
from server.adopt.keys import (
    EndedKey,
    carry_over_providers,
    has_secrets,
    judge_keys,
    require_cipher,
)
from server.adopt.old_database import (
    CARRIED_OVER,
    INTENTS,
    KEPT,
    LOGINS_UNDER_WAY,
    TAKEN_OVER,
    Connection,
    OldDatabase,
    examine,
    lock_tables,
    refuse_writers,
    writers,
)
from server.adopt.report import AdoptionReport, Finding, KeptTable, Rule, as_count
from server.config import SettingsSeed
from server.migrate import MigrationError
from server.migrate.definitions import load_definitions
from server.migrate.one_transaction import apply_steps, run_step_again
from server.migrate.runner import connect, seed_settings

_HERE = Path(__file__).resolve().parent
_BULKY = ("billing_data.charges", "billing_data.credits", "billing_data.accounts")
_BOUNDED = ("billing_data.admin_audit_logs",)
# For two cores that do nothing else: the processor time of PostgreSQL that `make adopt-growth`
# measured, and a quarter more for the disk.
_SECONDS_AT_LEAST = 5.0
_SECONDS_AN_ACCOUNT = 65e-6
_SECONDS_AN_ENTRY = 25e-6
_SECONDS_A_CHECK = 10e-6
_DEFAULT_FREE_USES = 3
_SECTION = re.compile(r"^-- stage: (.+)\n", re.MULTILINE)
_OTHER_STEPS = 9

Step = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is known before anything is changed."""

    old: OldDatabase
    rules: tuple[Rule, ...]
    ended_keys: tuple[EndedKey, ...]
    findings: tuple[Finding, ...]
    seconds: float


def count_steps() -> int:
    """The number of steps that adopt() reports."""
    files = ("plan.sql", "transformation.sql", "payments.sql")
    return sum(len(_SECTION.findall(_text(file))) for file in files) + _OTHER_STEPS


def forecast(
    dsn: str,
    seed: SettingsSeed,
    encryption_keys: Sequence[str],
    step: Step = lambda _: None,
    idle_logins: Sequence[str] = (),
) -> AdoptionReport | None:
    """Reports what adopt() would find and leave, and how long it would take. It changes nothing and
    blocks nobody. Returns None if the database was taken over before. Raises MigrationError."""
    with _session(dsn) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        try:
            old = examine(connection)
            if old is None:
                return None
            if has_secrets(connection):
                require_cipher(encryption_keys)
            plan = _make_plan(connection, old, seed, step)
            found = tuple(str(writer) for writer in writers(connection, idle_logins))
            untouched = _untouched(connection, old)
            kept = tuple(
                KeptTable(f"legacy_service.{table}", _count(connection, f"public.{table}"), _WHAT)
                for table in KEPT
                if table in old.tables
            )
        except psycopg.Error as error:
            raise MigrationError(_what_failed(connection, error)) from None
        finally:
            _end(connection)
    return AdoptionReport(
        old.revision,
        True,
        plan.rules,
        plan.ended_keys,
        plan.findings,
        kept,
        untouched,
        found,
        plan.seconds,
    )


def adopt(
    dsn: str,
    seed: SettingsSeed,
    encryption_keys: Sequence[str],
    step: Step = lambda _: None,
    idle_logins: Sequence[str] = (),
) -> AdoptionReport | None:
    """Takes the database over. Returns what was done, or None if it was taken over before. Raises
    MigrationError, and then the old database is as it was. The caller runs `migrate` afterwards.

    idle_logins: sessions of these logins may stay open while they are idle."""
    started = time.monotonic()
    with _session(dsn) as connection:
        connection.execute("BEGIN")
        try:
            report = _adopt(
                connection, seed, encryption_keys, step, started=started, idle_logins=idle_logins
            )
        except psycopg.Error as error:
            raise MigrationError(_what_failed(connection, error)) from None
        finally:
            _end(connection)
    return report


def _what_failed(connection: Connection, error: psycopg.Error) -> str:
    # The error's details are left out: they show a row's values, and some of those are secrets.
    reason = error.diag.message_primary or str(error).splitlines()[0]
    if connection.broken:
        # If the connection is lost during COMMIT, nobody can tell here whether it took effect.
        return (
            f"the connection was lost ({reason}). What was not committed was undone: run this again"
            " when the database is back; then it says whether the database was taken over"
        )
    return f"taking the database over failed and was undone, the old one is as it was: {reason}"


def _adopt(
    connection: Connection,
    seed: SettingsSeed,
    encryption_keys: Sequence[str],
    step: Step,
    *,
    started: float,
    idle_logins: Sequence[str],
) -> AdoptionReport | None:
    old = examine(connection)
    if old is None:
        return None
    refuse_writers(connection, idle_logins)
    lock_tables(connection, old)
    cipher = require_cipher(encryption_keys) if has_secrets(connection) else None
    plan = _make_plan(connection, old, seed, step)
    untouched = _untouched(connection, old)

    step("moving the old tables aside")
    _move_aside(connection, old)
    step("making our tables")
    apply_steps(connection)
    _settings(connection)
    taken_off = take_off(connection, (*_BULKY, *_BOUNDED))
    _run_sections(connection, "transformation.sql", old, step)
    carry_over_providers(connection, cipher)
    step("making indexes")
    put_on(connection, taken_off)
    step("counting rows for the planner")
    connection.execute("ANALYZE")
    step("loading sql/")
    load_definitions(connection)
    _settings(connection)
    seed_settings(connection, seed)
    _run_sections(connection, "payments.sql", old, step)
    step("finding what was sold")
    run_step_again(connection, "2026_11_22_0021_purchase_backfill")
    connection.execute("ANALYZE billing_data.purchases")
    run_step_again(connection, "2026_11_26_0038_payment_effects_backfill")
    connection.execute("ANALYZE billing_data.payment_effects")
    _settings(connection)
    step("counting again")
    _compare(connection, plan.rules)
    step("verifying the books")
    _verify(connection)
    step("putting the old tables away")
    kept = _put_away(connection, old)
    report = AdoptionReport(
        old.revision,
        False,
        plan.rules,
        plan.ended_keys,
        plan.findings,
        kept,
        untouched,
        seconds=round(time.monotonic() - started, 1),
    )
    _note(connection, report)
    connection.execute("COMMIT")
    return report


@contextmanager
def _session(dsn: str) -> Iterator[Connection]:
    with connect(dsn) as connection:
        _settings(connection, is_local=False)
        yield connection


_SESSION = {
    # Parallel hashes lie in shared memory, of which a container may have little.
    "enable_parallel_hash": "off",
    "search_path": "public",
    "DateStyle": "ISO",
    "TimeZone": "UTC",
    "work_mem": "256MB",
    "maintenance_work_mem": "512MB",
    "temp_buffers": "64MB",
    "default_transaction_read_only": "off",
    "client_min_messages": "warning",
}


def _settings(connection: Connection, *, is_local: bool = True) -> None:
    """Sets our settings in place of those of the login, of a step or of loading sql/. Sorts and
    joins get more memory, and no statement has a time limit."""
    if is_local:
        connection.execute("SET LOCAL ROLE NONE")
    for name, value in _SESSION.items():
        connection.execute("SELECT set_config(%s, %s, %s)", (name, value, is_local))
    connection.execute(
        "SELECT set_config(s.name, '0', %s) FROM pg_settings AS s WHERE s.name IN"
        " ('lock_timeout', 'statement_timeout', 'transaction_timeout',"
        " 'idle_in_transaction_session_timeout')",
        (is_local,),
    )


def _end(connection: Connection) -> None:
    """Undoes what was not committed."""
    with suppress(psycopg.Error):  # if the connection is lost, the database undoes it
        if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            connection.execute("ROLLBACK")


def _make_plan(connection: Connection, old: OldDatabase, seed: SettingsSeed, step: Step) -> _Plan:
    free_uses = _DEFAULT_FREE_USES if seed.free_uses is None else seed.free_uses
    for name, value in (
        ("adopt.free_uses", str(free_uses)),
        ("adopt.balance_is_copy", str(old.balance_is_copy).lower()),
    ):
        connection.execute("SELECT set_config(%s, %s, true)", (name, value))
    ended_keys = judge_keys(connection)
    _run_sections(connection, "plan.sql", old, step)
    rows = connection.execute(_text("forecast.sql")).fetchall()
    rules = tuple(Rule(rule, as_count(found), int(expected)) for rule, found, expected in rows)
    findings = tuple(
        Finding(what, count, tuple(examples)) for what, count, examples in _findings(connection)
    )
    counts = {rule.rule: rule.before or 0 for rule in rules}
    seconds = (
        _SECONDS_AT_LEAST
        + _SECONDS_AN_ACCOUNT * counts["accounts"]
        + _SECONDS_AN_ENTRY * (counts["charges"] + counts["credits"])
        + _SECONDS_A_CHECK * counts["checks"]
    )
    return _Plan(old, rules, tuple(ended_keys), findings, round(seconds, 1))


def _findings(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute(_text("findings.sql")).fetchall()


def _text(file: str) -> str:
    return (_HERE / file).read_text(encoding="utf-8")


def _run_sections(connection: Connection, file: str, old: OldDatabase, step: Step) -> None:
    """Runs a file section by section. Sections that need a table or column which this revision does
    not have are left out."""
    parts = _SECTION.split(_text(file))[1:]
    for title, statements in zip(parts[::2], parts[1::2], strict=True):
        name, _, needs = title.partition("; needs ")
        if not needs or needs in old.tables or needs in old.columns:
            step(name)
            connection.execute(statements)


def _count(connection: Connection, table: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - our names
    assert row is not None
    return int(row[0])


def _untouched(connection: Connection, old: OldDatabase) -> tuple[str, ...]:
    rows = connection.execute(
        "SELECT c.oid::regclass::text FROM pg_catalog.pg_class AS c"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')"
        " AND c.relname <> ALL (%s) ORDER BY 1",
        ([*old.tables, "alembic_version"],),
    )
    return tuple(row[0] for row in rows)


def _move_aside(connection: Connection, old: OldDatabase) -> None:
    connection.execute("CREATE SCHEMA legacy_service")
    connection.execute(
        "COMMENT ON SCHEMA legacy_service IS"
        " 'What is left of the old service: see legacy_service.adoption and docs/adopting.md.'"
    )
    for table in old.tables:
        connection.execute(f"ALTER TABLE public.{table} SET SCHEMA legacy_service")


def _compare(connection: Connection, rules: Sequence[Rule]) -> None:
    """Raises MigrationError unless our tables hold what was foreseen, rule by rule."""
    found = {rule: int(count) for rule, count in connection.execute(_text("outcome.sql"))}
    wrong = [
        f"{rule.rule} would be {found[rule.rule]} and not {rule.after}"
        for rule in rules
        if found[rule.rule] != rule.after
    ]
    if wrong:
        raise MigrationError(
            f"taking the database over was undone, because {'; '.join(wrong)}: please report this"
        )


def _verify(connection: Connection) -> None:
    problems = connection.execute(
        "SELECT v.account_id, v.problem, v.expected, v.found FROM billing.verify_ledger() AS v"
        " LIMIT 5"
    ).fetchall()
    if problems:
        shown = "; ".join(
            f"{account}: {problem} (expected {expected}, found {found})"
            for account, problem, expected, found in problems
        )
        raise MigrationError(
            f"taking the database over was undone, because its books would not agree: {shown}"
        )


_WHAT = "this service has no such feature; the rows are as the old service left them"
_OUR_KEPT = {
    "accounts_before_merging": "the accounts of one identity as they were",
    "changed_entries": "entries whose key, figures or time had to be changed, as they were",
    "store_settings": "settings of stores, encrypted with ENCRYPTION_KEY",
    "daily_free_uses": "each account's daily free uses; this service has no such feature",
    "display_names": "users' display names; this service has no such field",
    "test_credits": "credits of test purchases; this service does not mark them",
    INTENTS: "payment intents that could not become purchases",
}


def _put_away(connection: Connection, old: OldDatabase) -> tuple[KeptTable, ...]:
    """Drops the tables that were carried over, and with them every secret in clear text. Returns
    the tables that are kept."""
    for table, constraint in connection.execute(_FOREIGN_KEYS).fetchall():
        connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}")
    odd = {
        table: f"it has columns that no revision has: {', '.join(columns)}"
        for table, columns in old.unknown_columns(_our_columns(connection)).items()
    }
    for table in (*CARRIED_OVER, LOGINS_UNDER_WAY):
        if table not in odd:
            connection.execute(f"DROP TABLE IF EXISTS legacy_service.{table}")
    kept = []
    words = {**_OUR_KEPT, **dict.fromkeys(KEPT, _WHAT), **odd}
    for (table,) in connection.execute(_TABLES_LEFT).fetchall():
        rows = _count(connection, f"legacy_service.{table}")
        if rows == 0 and table in _OUR_KEPT:
            connection.execute(f"DROP TABLE legacy_service.{table}")
            continue
        connection.execute(f"GRANT SELECT ON legacy_service.{table} TO billing_dba")
        kept.append(KeptTable(f"legacy_service.{table}", rows, words[table]))
    connection.execute("GRANT USAGE ON SCHEMA legacy_service TO billing_dba")
    return tuple(kept)


def _our_columns(connection: Connection) -> set[str]:
    rows = connection.execute(
        "SELECT c.relname || '.' || a.attname FROM pg_catalog.pg_class AS c"
        " INNER JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid"
        " WHERE c.relnamespace = 'billing_data'::regnamespace AND c.relname = ANY (%s)",
        (list(CARRIED_OVER),),
    )
    return {row[0] for row in rows}


_FOREIGN_KEYS = """
    SELECT c.conrelid::regclass::text, quote_ident(c.conname)
    FROM pg_catalog.pg_constraint AS c
    WHERE c.contype = 'f' AND c.connamespace = 'legacy_service'::regnamespace
"""
_TABLES_LEFT = """
    SELECT c.relname
    FROM pg_catalog.pg_class AS c
    WHERE c.relnamespace = 'legacy_service'::regnamespace AND c.relkind = 'r'
    ORDER BY c.relname
"""


def _note(connection: Connection, report: AdoptionReport) -> None:
    """Keeps the report, which marks the database as taken over, and a revision that keeps the old
    service from making its tables anew."""
    connection.execute(
        "CREATE TABLE legacy_service.adoption (adopted_at timestamptz NOT NULL DEFAULT now(),"
        " report jsonb NOT NULL)"
    )
    connection.execute("GRANT SELECT ON legacy_service.adoption TO billing_dba")
    connection.execute(
        "INSERT INTO legacy_service.adoption (report) VALUES (%s)", (Jsonb(report.as_dict()),)
    )
    connection.execute("UPDATE public.alembic_version SET version_num = %s", (TAKEN_OVER,))
