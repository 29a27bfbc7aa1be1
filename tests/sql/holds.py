"""What tests of holds share: a clock that stands still, and lists of holds and captures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from tests.sql.helpers import Caller, account_of
from tests.support import Database

SECOND = 1_000_000  # in microseconds


@contextmanager
def stopped_clock(database: Database, microseconds: int, since: str | datetime) -> Iterator[None]:
    """Stops the clock of the rules at some microseconds after `since`."""
    definition = database.execute(
        "SELECT pg_get_functiondef('billing_data.clock'::regproc::oid) AS d"
    )[0][0]
    database.execute(
        "CREATE OR REPLACE FUNCTION billing_data.clock() RETURNS timestamptz LANGUAGE sql VOLATILE"
        f" RETURN '{since}'::timestamptz + interval '{microseconds} microseconds'"
    )
    try:
        yield
    finally:
        database.execute(definition)


def later(moment: datetime, seconds: float) -> datetime:
    """The moment so many seconds after another one."""
    return moment + timedelta(seconds=seconds)


def make_hold(caller: Caller, who: dict[str, str], amount: int, **more: Any) -> dict[str, Any]:
    """Makes a hold."""
    return caller.row("create_hold", **who, amount_minor=amount, **more)


def hold_all(
    caller: Caller, items: Sequence[dict[str, Any]], **options: Any
) -> list[dict[str, Any]]:
    """billing.hold_items, its answers in the order of the items."""
    defaults = {"expires_in_seconds": 900, "description": "one use"}
    return _list_call(
        caller, "hold_items", "hold_item", [{**defaults, **item} for item in items], options
    )


def capture_all(
    caller: Caller, items: Sequence[dict[str, Any]], **options: Any
) -> list[dict[str, Any]]:
    """billing.capture_items, its answers in the order of the items."""
    return _list_call(caller, "capture_items", "capture_item", items, options)


def _list_call(
    caller: Caller,
    function: str,
    item: str,
    items: Sequence[dict[str, Any]],
    options: dict[str, Any],
) -> list[dict[str, Any]]:
    more = "".join(f", p_{name} => %s" for name in options)
    rows = caller.execute(
        f"SELECT * FROM billing.{function}(p_items => ARRAY(SELECT p FROM jsonb_populate_recordset("
        f"NULL::billing.{item}, %s::jsonb) AS p){more})",
        json.dumps(items, default=str),
        *options.values(),
    )
    assert sorted(row["item"] for row in rows) == list(range(1, len(items) + 1))
    return sorted(rows, key=lambda row: row["item"])


def figures(database: Database, who: dict[str, str]) -> tuple[int, int, int, int, int]:
    """Paid credits, held ones, free uses, held ones, uses in all."""
    account = account_of(database, who)
    return (
        account["paid_credits"], account["held_credits"], account["free_uses_remaining"],
        account["held_free_uses"], account["total_uses"],
    )  # fmt: skip
