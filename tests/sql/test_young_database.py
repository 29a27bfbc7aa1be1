"""What an agent asks for with each use reads a few rows, also in a young database, where PostgreSQL
made its plans when there were a few users, and thousands have come since."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.sql.helpers import Caller, key_id, session
from tests.support import Database, TestCluster, unique

_USERS = 3_000
_ITEMS = 20
# What may be read of a table: rows for each item, and rows for the call.
_FOR_EACH, _FOR_ALL = 15, 100


class Watched:
    """Calls functions and counts what they read."""

    def __init__(self, database: Database, caller: Caller) -> None:
        self.database, self.caller = database, caller
        self.too_many: list[tuple[str, dict[str, int]]] = []
        self.key = str(key_id(database, "billing:read", "billing:write"))

    def items(self, kind: str, function: str, items: list[dict[str, Any]], **more: Any) -> Any:
        """Calls a function with a list of items."""
        key = {"api_key_id": self.key, "marketing_opt_in": False}
        return self.call(
            f"SELECT * FROM billing.{function}(p_items => ARRAY(SELECT jsonb_populate_record("
            f"NULL::billing.{kind}_item, i) FROM jsonb_array_elements(%s::jsonb) AS i)"
            + "".join(f", p_{name} => %s" for name in more)
            + ")",
            json.dumps([item | key for item in items]),
            *more.values(),
            items=len(items),
        )

    def one(self, function: str, **arguments: Any) -> dict[str, Any]:
        """Calls a function about one user."""
        named = ", ".join(f"p_{name} => %s" for name in arguments)
        (row,) = self.call(
            f"SELECT * FROM billing.{function}({named}, p_api_key_id => %s)",
            *arguments.values(),
            self.key,
            items=1,
        )
        return row

    def call(self, statement: str, *arguments: Any, items: int) -> list[dict[str, Any]]:
        before = self._read()
        rows = self.caller.execute(statement, *arguments)
        after = self._read()
        read = {table: after[table] - before[table] for table in after}
        most = items * _FOR_EACH + _FOR_ALL
        if too_many := {table: rows for table, rows in read.items() if rows > most}:
            self.too_many.append((statement.partition("(")[0], too_many))
        return rows

    def _read(self) -> dict[str, int]:
        self.caller.execute("SELECT pg_stat_force_next_flush()")
        rows = self.database.execute(
            "SELECT relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)"
            " FROM pg_stat_user_tables WHERE schemaname = 'billing_data'"
        )
        return dict(rows)


def _users(first: int, count: int = _ITEMS) -> list[dict[str, str]]:
    return [
        {"oauth_provider": "oauth:google", "external_id": f"young-{n}"}
        for n in range(first, first + count)
    ]


_WHAT = {"amount_minor": 1, "currency": "USD", "description": "a test"}


def _charges(users: list[dict[str, str]], **more: Any) -> list[dict[str, Any]]:
    return [{**user, **_WHAT, "idempotency_key": unique(), **more} for user in users]


def _outcomes(rows: list[dict[str, Any]]) -> set[str]:
    return {row["outcome"] for row in rows}


def _come(database: Database, users: list[dict[str, str]]) -> None:
    names = [user["external_id"] for user in users]
    with session(database, "t_dba") as dba:
        dba.execute(
            "SELECT count(*) FROM billing.check_credits("
            "array_fill('oauth:google'::text, ARRAY[%s]), %s)",
            len(names),
            names,
        )
        dba.execute(
            "SELECT count(*) FROM unnest(%s::text[]) AS u (name)"
            " CROSS JOIN LATERAL billing.create_credit('oauth:google', u.name, 100)",
            names,
        )


def _use_lists(watched: Watched, users: list[dict[str, str]], *, wait: bool) -> None:
    charges = _charges(users)
    assert _outcomes(watched.items("check", "check_items", users, wait=wait)) == {"checked"}
    for outcome in ("created", "replayed"):
        assert _outcomes(watched.items("charge", "charge_items", charges, wait=wait)) == {outcome}
    changing = _charges(users, customer_email="ada@example.com")
    assert _outcomes(watched.items("charge", "charge_items", changing, wait=wait)) == {"created"}
    holds = _charges(users, expires_in_seconds=900)
    held = watched.items("hold", "hold_items", holds, wait=wait)
    captures = [{"hold_id": str(row["hold_id"])} for row in held]
    for outcome in ("created", "replayed"):
        captured = watched.items("capture", "capture_items", captures, wait=wait)
        assert _outcomes(captured) == {outcome}
    once = {"idempotency_key": unique(), "request_fingerprint": b"1", "wait": wait}
    for replayed in (False, True):
        rows = watched.items("charge", "charge_items_once", charges, **once)
        assert {row["replayed"] for row in rows} == {replayed}


def _use_single_calls(watched: Watched, who: dict[str, str]) -> None:
    watched.one("check_credit", **who)
    watched.one("create_charge", **who, amount_minor=1, idempotency_key=unique())
    hold = watched.one("create_hold", **who, amount_minor=1, idempotency_key=unique())
    watched.one("capture_hold", hold_id=hold["hold_id"])
    watched.one("check_and_hold", **who, amount_minor=1, idempotency_key=unique())


@pytest.fixture(scope="module", params=[1, _ITEMS])
def watched(cluster: TestCluster, request: pytest.FixtureRequest) -> Iterator[Watched]:
    """A session of the web tier that made its plans when there were a few users. Now there are
    thousands."""
    first, everyone = _users(1, request.param), _users(1, _USERS)
    with cluster.database() as database:
        database.execute("VACUUM ANALYZE")
        _come(database, first)
        with session(database, "t_web") as web:
            watched = Watched(database, web)
            for wait in (False, True):
                _use_lists(watched, first, wait=wait)
            _use_single_calls(watched, first[0])
            _come(database, everyone[len(first) :])
            for kind in ("charge", "hold"):
                charges = _charges(everyone, expires_in_seconds=900)
                made = watched.items(kind, f"{kind}_items", charges, wait=False)
                assert _outcomes(made) == {"created"}
            watched.too_many.clear()
            yield watched


@pytest.mark.parametrize("wait", [False, True])
def test_lists_read_a_few_rows_for_each_item(watched: Watched, wait: bool) -> None:
    _use_lists(watched, _users(1_000), wait=wait)
    assert watched.too_many == []


def test_single_calls_read_a_few_rows(watched: Watched) -> None:
    _use_single_calls(watched, _users(_USERS)[0])
    assert watched.too_many == []
