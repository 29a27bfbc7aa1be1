"""No setting of the caller's session changes what a function does. Each function is called with its
header's example, under PostgreSQL's default settings and under hostile ones."""

from __future__ import annotations

import re
import uuid
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.composite import CompositeInfo, register_composite

from tests.sql.arguments import Call, working_call
from tests.sql.catalogue import FUNCTIONS
from tests.support import Database, TestCluster

SQL = Path(__file__).resolve().parents[2] / "sql"

HOSTILE = {
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "backslash_quote": "off",
    "DateStyle": "SQL, DMY",
    "TimeZone": "Pacific/Kiritimati",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "search_path": "hostile, pg_temp, pg_catalog, billing_data",
    "row_security": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "extra_float_digits": "-15",
    "xmlbinary": "hex",
    "xmloption": "document",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "plpgsql.extra_errors": "all",
    "plpgsql.check_asserts": "off",
    "enable_indexscan": "off",
    "enable_hashagg": "off",
    "debug_parallel_query": "on",
    "constraint_exclusion": "on",
    "enable_partition_pruning": "off",
    "default_text_search_config": "simple",
    "default_toast_compression": "pglz",
    "gin_fuzzy_search_limit": "1",
    "synchronous_commit": "off",
    "work_mem": "64kB",
}
# The names of these settings in older versions.
FORMER_NAMES = {"debug_parallel_query": "force_parallel_mode"}
OTHERS = {
    "DateStyle": "German",
    "TimeZone": "America/St_Johns",
    "IntervalStyle": "iso_8601",
    "default_transaction_isolation": "repeatable read",
}


def _connect(database: Database, user: str, settings: dict[str, str]) -> Any:
    connection = psycopg.connect(database.dsn(user), autocommit=True, row_factory=dict_row)
    for outcome in ("check_outcome", "hold_outcome"):
        info = CompositeInfo.fetch(connection, f"billing.{outcome}")
        assert info
        register_composite(info, connection)
    known = {row["name"] for row in connection.execute("SELECT name FROM pg_settings")}
    for name, value in settings.items():
        named = name if name in known or "." in name else FORMER_NAMES.get(name, name)
        connection.execute("SELECT pg_catalog.set_config(%s, %s, false)", (named, value))
    return connection


def _effect(connection: Any, call: Call) -> tuple[Any, Any]:
    """The result of a call and the audit log rows it wrote; the call is rolled back."""
    connection.execute("BEGIN")
    try:
        rows = connection.execute(call.statement(), binary=True).fetchall()
        connection.execute("SET LOCAL search_path = pg_catalog")
        audit = None
        if connection.info.user == "t_dba":
            audit = connection.execute(
                "SELECT l.action, l.changes::text AS changes"
                " FROM billing_data.admin_audit_logs AS l"
                " WHERE l.created_at >= transaction_timestamp() ORDER BY 1, 2",
                binary=True,
            ).fetchall()
    finally:
        connection.execute("ROLLBACK")
    return _alike(rows), _alike(audit)


def _alike(value: Any) -> Any:
    """A value without what differs from call to call: new ids, times a little later, and how long
    it took."""
    if isinstance(value, list | tuple):
        return [_alike(item) for item in value]
    if isinstance(value, dict):
        return {name: _alike(item) for name, item in value.items()}
    if isinstance(value, datetime):
        return int(value.timestamp()) // 86400
    if isinstance(value, timedelta):
        return "a while"
    if isinstance(value, str | uuid.UUID):
        text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "an id", str(value))
        # The hour stays, so that a text in the session's time zone is seen.
        return re.sub(r"(?<=[T ]\d\d):\d\d:\d\d(\.\d+)?", ":later", text)
    return value


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_no_setting_of_the_callers_session_changes_what_a_function_does(
    world: Database, name: str
) -> None:
    world.execute(
        "CREATE SCHEMA IF NOT EXISTS hostile; GRANT USAGE ON SCHEMA hostile TO PUBLIC;"
        " CREATE OR REPLACE FUNCTION hostile.length(text) RETURNS integer LANGUAGE sql"
        " AS 'SELECT 1/0'; CREATE OR REPLACE FUNCTION hostile.lower(text) RETURNS text"
        " LANGUAGE sql AS 'SELECT NULL'; CREATE OR REPLACE FUNCTION hostile.clock_timestamp()"
        " RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz'"
    )
    with working_call(world, name) as (caller, call):
        user = caller.connection.info.user
        with _connect(world, user, {}) as plain:
            wanted = _effect(plain, call)
        for settings in (HOSTILE, HOSTILE | OTHERS):
            with _connect(world, user, settings) as hostile:
                assert _effect(hostile, call) == wanted
        with _connect(world, user, {"default_transaction_read_only": "on"}) as reading:
            if FUNCTIONS[name][1] == "s":
                assert _effect(reading, call) == wanted
            else:  # the function has nothing to write, or is refused as a whole
                with suppress(psycopg.errors.ReadOnlySqlTransaction):
                    _effect(reading, call)


def test_no_text_in_a_definition_depends_on_how_backslashes_are_read() -> None:
    # With standard_conforming_strings off, only E'...' is read as written.
    bad = []
    for file in sorted(SQL.glob("*.sql")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith(("--", "\\ir ")):
                continue
            for before, literal in re.findall(r"(\w?)('(?:[^']|'')*')", line):
                if "\\" in literal and before != "E":
                    bad.append(f"{file.name}: {line.strip()}")
    assert bad == []


def test_partitions_have_the_bounds_of_utc_months_whatever_the_callers_settings(
    any_cluster: TestCluster,
) -> None:
    with any_cluster.database() as database:
        for settings, months in ((HOSTILE, 5), (HOSTILE | OTHERS, 7)):
            with _connect(database, "t_dba", settings) as caller:
                caller.execute(
                    "SELECT * FROM billing.create_check_partitions(p_months => %s)", (months,)
                )
        bounds = database.execute(
            "SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_class AS c"
            " WHERE c.relkind = 'r' AND c.relname ~ '^credit_checks_[0-9]{4}_' ORDER BY c.relname"
        )
        assert len(bounds) == 8
        edges = [re.findall(r"'(\d{4}-\d\d)-01 00:00:00\+00'", bound) for (bound,) in bounds]
        assert all(len(edge) == 2 for edge in edges), bounds
        assert all(before[1] == after[0] for before, after in pairwise(edges)), bounds
