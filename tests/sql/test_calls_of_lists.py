"""PostgreSQL puts the small rules in the place of their calls, so that a list costs no call of a
function for each of its items."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.sql.helpers import Caller, key_id, new_user, session
from tests.support import Database, unique

_ITEMS = 20


@pytest.fixture(scope="module")
def counted(module_database: Database) -> Iterator[Caller]:
    """The web tier's session, in which calls are counted."""
    module_database.execute(
        "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET track_functions = ''all''',"
        " current_database()); END$$"
    )
    with session(module_database, "t_web") as caller:
        yield caller


def _send(caller: Caller, function: str, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kind = {"charge_items": "charge", "check_items": "check", "hold_items": "hold"}
    return caller.execute(
        f"SELECT * FROM billing.{function}(ARRAY(SELECT jsonb_populate_record("
        f"NULL::billing.{kind.get(function, 'capture')}_item, i)"
        " FROM jsonb_array_elements(%s::jsonb) AS i), false)",
        json.dumps(items),
    )


def _calls(database: Database, caller: Caller) -> dict[str, int]:
    caller.execute("SELECT pg_stat_force_next_flush()")
    rows = database.execute("SELECT funcname, calls FROM pg_stat_user_functions")
    return dict(rows)


@pytest.mark.parametrize("function", ["check_items", "charge_items", "hold_items", "capture_items"])
def test_a_list_calls_no_function_for_each_of_its_items(
    module_database: Database, counted: Caller, function: str
) -> None:
    key = str(key_id(module_database, "billing:read", "billing:write"))
    by_key = {"api_key_id": key, "marketing_opt_in": False}
    whats = {"amount_minor": 1, "currency": "USD", "description": "a test"}
    items = [
        {**new_user(module_database, paid=9, free=False), **by_key}
        | ({} if function == "check_items" else {**whats, "idempotency_key": unique()})
        | ({} if function in ("check_items", "charge_items") else {"expires_in_seconds": 60})
        for _ in range(_ITEMS)
    ]
    if function == "capture_items":
        held = _send(counted, "hold_items", items)
        items = [{"hold_id": str(row["hold_id"]), "api_key_id": key} for row in held]
    before = _calls(module_database, counted)
    done = _send(counted, function, items)
    assert len(done) == _ITEMS
    if function == "check_items":
        assert all(row["has_credit"] for row in done)
    else:
        assert {row["outcome"] for row in done} == {"created"}
    after = _calls(module_database, counted)
    assert after[function] == before.get(function, 0) + 1
    often = {name for name, calls in after.items() if calls - before.get(name, 0) >= _ITEMS}
    assert often == set()
