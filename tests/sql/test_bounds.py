"""Every input has a limit: the arguments of every function are found in the catalogue, so that a
new function is tested as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from server.limits import most
from tests.sql.arguments import Call, argument_types, working_call
from tests.sql.catalogue import FUNCTIONS
from tests.sql.helpers import Caller, Refusal, new_user, session
from tests.support import Database

LONG = 3_000_000  # more characters than any field may have
MOMENTS = ("timestamp with time zone", "date", "timestamp with time zone[]")


def _too_long(type_: str, given: str) -> list[str]:
    """Expressions of a type that are too long; they keep the beginning or the end of the given
    one."""
    more = f"repeat('x', {LONG})"
    if type_ == "text":
        return [f"({given})::text || {more}", f"{more} || ({given})::text", more]
    if type_ == "text[]":
        return [f"array_fill({more}, ARRAY[coalesce(cardinality(({given})::text[]), 1)])"]
    if type_ == "jsonb":
        return [f"coalesce(({given})::jsonb, '{{}}') || jsonb_build_object('x', {more})"]
    if type_ == "bytea":
        return [f"convert_to({more}, 'UTF8')"]
    return []


def _attempt(caller: Caller, statement: str) -> tuple[Refusal | None, list[dict[str, Any]]]:
    """The result of a call; its transaction stays open when the call succeeded."""
    caller.execute("BEGIN")
    try:
        return None, caller.execute(statement)
    except psycopg.Error as error:
        return Refusal.of(error), []


def _longest_row(database: Database, caller: Caller) -> int:
    """The characters of the longest row of any table, as the caller's open transaction sees it."""
    tables = database.execute(
        "SELECT c.oid::regclass::text FROM pg_class AS c WHERE c.relkind = 'r'"
        " AND c.relnamespace = 'billing_data'::regnamespace"
    )
    caller.execute("RESET ROLE")
    lengths = " UNION ALL ".join(
        f"SELECT max(length(t::text)) AS longest FROM {table} AS t" for (table,) in tables
    )
    (row,) = caller.execute(f"SELECT coalesce(max(l.longest), 0) AS most FROM ({lengths}) AS l")
    return int(row["most"])


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_text_that_is_too_long_is_refused_or_finds_nothing(
    world: Database, name: str
) -> None:
    with working_call(world, name) as (caller, call):
        for argument, type_ in call.types.items():
            for expression in _too_long(type_, call.given.get(argument, "NULL")):
                statement = call.statement(**{argument: expression})
                refusal, rows = _attempt(caller, statement)
                if refusal:
                    # One of our functions must refuse, not PostgreSQL itself, and the text must not
                    # be repeated in full.
                    assert refusal.sqlstate.startswith("PB"), (statement, refusal.message[:300])
                    assert len(refusal.message) < 1000, statement
                elif FUNCTIONS[name][1] == "v" and caller.connection.info.user == "t_dba":
                    assert _longest_row(world, caller) < LONG, statement
                assert sum(len(str(row)) for row in rows) < LONG, statement
                caller.execute("ROLLBACK")


def _takes_a_list(database: Database, name: str) -> bool:
    return any(type_.endswith("[]") for type_ in argument_types(database, name).values())


def _reshaped(call: Call, shape: str) -> dict[str, str]:
    """All arrays of a call in another shape, with the same items."""
    arrays = {
        name: value
        for name, value in call.given.items()
        if call.types[name].endswith("[]") and value != "NULL"
    }
    return {
        name: shape.format(value=f"({value})::{call.types[name]}") for name, value in arrays.items()
    }


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
@pytest.mark.parametrize(
    "shape",
    ["ARRAY[{value}]", "array_fill(({value})[1], ARRAY[cardinality({value})], ARRAY[0])"],
    ids=["two dimensions", "counted from 0"],
)
def test_an_array_that_is_no_list_is_refused(world: Database, name: str, shape: str) -> None:
    if not _takes_a_list(world, name):
        return
    with working_call(world, name) as (caller, call):
        # Arguments that an example leaves out are given too, if they may be given alone.
        arrays = _reshaped(call, shape) or {
            argument: shape.format(value=f"ARRAY[NULL]::{type_}")
            for argument, type_ in call.types.items()
            if type_.endswith("[]")
        }
        refusal, _ = _attempt(caller, call.statement(**arrays))
        assert refusal
        assert refusal.slug == "invalid_argument", refusal
        caller.execute("ROLLBACK")


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
@pytest.mark.parametrize(
    "value",
    ["array_fill(NULL::{type}, ARRAY[{most}])", "'{{}}'", "ARRAY[NULL]::{type}[]"],
    ids=["too many", "empty", "of nothing"],
)
def test_arrays_of_too_many_or_of_no_items_are_answered_or_refused(
    world: Database, name: str, value: str
) -> None:
    if not _takes_a_list(world, name):
        return
    with working_call(world, name) as (caller, call):
        arrays = {
            argument: value.format(type=type_.removesuffix("[]"), most=most("items") + 1)
            for argument, type_ in call.types.items()
            if type_.endswith("[]")
        }
        for chosen in (arrays, *({argument: value} for argument, value in arrays.items())):
            refusal, _ = _attempt(caller, call.statement(**chosen))
            if refusal:
                assert refusal.sqlstate.startswith("PB"), (chosen, refusal)
            else:
                assert "array_fill" not in value, "too many were accepted"
            caller.execute("ROLLBACK")


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_no_function_takes_a_moment_that_never_comes(world: Database, name: str) -> None:
    if not set(MOMENTS) & set(argument_types(world, name).values()):
        return
    with working_call(world, name) as (caller, call):
        for argument, type_ in call.types.items():
            if type_ not in MOMENTS:
                continue
            for moment in ("infinity", "-infinity", "0044-03-15 BC", "20000-01-01"):
                value = f"'{moment}'::{type_}"
                if type_.endswith("[]"):
                    value = f"ARRAY['{moment}']::{type_}"
                refusal, _ = _attempt(caller, call.statement(**{argument: value}))
                assert refusal, (argument, moment)
                assert refusal.slug == "invalid_argument", refusal
                caller.execute("ROLLBACK")


def test_a_description_has_at_most_1000_characters_in_charges_and_credits(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=5)
    longest = "ü" * most("description")
    assert len(longest) == 1000
    assert dba.row("create_charge", **who, description=longest)["description"] == longest
    for function, more in (("create_charge", {}), ("create_credit", {"amount_minor": 1})):
        refusal = dba.refusal(function, **who, **more, description=longest + "x")
        assert refusal.message == "Invalid p_description: it must have at most 1000 characters"


def test_a_page_of_history_has_an_end(module_database: Database, dba: Caller) -> None:
    # 500 rows, each of at most a description and six fields.
    widest = most("description") + 6 * most("external_id") + 1000
    assert 500 * widest < 2_000_000
    who = new_user(module_database)
    refusal = dba.refusal("list_transactions", **who, limit=501)
    assert refusal.slug == "invalid_argument"


# Columns without a limit of their own, and why they need none.
BOUNDED_OTHERWISE = {
    "answer": "what a function answered to bounded arguments",
    "changes": "bounded in bytes",
    "config_data": "bounded in bytes",
    "consent_before": "three columns of an account",
    "created_by_role": "a role's name",
    "database_login": "a role's name",
    "data": "made from columns that are bounded",
    "database_role": "a role's name",
    "denial_reason": "one of the check's own sentences",
    "key_hash": "bounded by another name",
    "kinds": "each one of a closed set",
    "leaves": "eight bytes for each entry of a day",
    "metadata": "written by no function",
    "old_secret": "made by the server, and encrypted",
    "payload": "bounded in bytes",
    "payment_provider": "one of three",
    "problems": "what verify_ledger finds in a range of accounts",
    "permissions": "bounded in number, each by its type",
    "provider": "one of three",
    "request_fingerprint": "a digest",
    "secret": "made by the server, and encrypted",
    "session_hash": "a digest",
    "started_by": "a role's name",
    "ticket_hash": "a digest",
}


def test_every_column_of_text_has_a_bound_that_the_limits_know(module_database: Database) -> None:
    rows = module_database.execute("""
        SELECT c.relname, a.attname, max(pg_get_constraintdef(k.oid))
        FROM pg_attribute AS a
        INNER JOIN pg_class AS c ON c.oid = a.attrelid AND NOT c.relispartition
        LEFT JOIN pg_constraint AS k
            ON k.conrelid = c.oid AND k.contype = 'c' AND a.attnum = ANY (k.conkey)
            AND (pg_get_constraintdef(k.oid) ~ 'length' OR pg_get_constraintdef(k.oid) ~ 'ARRAY|~')
        WHERE c.relnamespace = 'billing_data'::regnamespace AND c.relkind IN ('r', 'p')
            AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypmod = -1
            AND a.atttypid IN ('text'::regtype, 'varchar'::regtype, 'jsonb'::regtype,
                'bytea'::regtype, 'varchar[]'::regtype, 'text[]'::regtype)
        GROUP BY 1, 2
    """)
    assert len(rows) > 30
    unbounded = {
        (table, column)
        for table, column, bound in rows
        if bound is None and column not in BOUNDED_OTHERWISE
    }
    assert unbounded <= {("charges", "paid_with"), ("locks", "name")}


def test_the_tables_refuse_what_a_function_would_let_through(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=1)
    with session(module_database, "postgres") as root:
        refused = root.refused(
            "INSERT INTO billing_data.credits SELECT (c).* FROM (SELECT jsonb_populate_record(c,"
            " jsonb_build_object('id', gen_random_uuid(), 'ledger_version', 99, 'description',"
            " repeat('x', 1001))) AS c FROM billing_data.credits AS c"
            " INNER JOIN billing_data.accounts AS a ON a.id = c.account_id"
            " WHERE a.external_id = %s) AS n",
            who["external_id"],
        )
    assert (refused.sqlstate, refused.slug) == ("23514", "credits_description")


def test_the_web_tier_reads_every_limit_from_the_file_of_the_database(
    module_database: Database,
) -> None:
    text = (Path(__file__).resolve().parents[2] / "sql" / "limits.sql").read_text(encoding="utf-8")
    fields = [line.split("'")[1] for line in text.splitlines() if line.startswith("    WHEN '")]
    assert len(fields) > 10
    for field in (*fields, "external_id"):
        assert module_database.value("SELECT billing_data.most(%s)", field) == most(field)
