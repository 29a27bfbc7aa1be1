"""Caps as tests set them, and lists of charges with what caps said."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from server.api_key_secret import new_secret
from tests.sql.helpers import Caller, account_of, session
from tests.support import Database

_CHARGE = {"amount_minor": 1, "currency": "USD", "description": "one use"}


def set_cap(
    dba: Caller, scope: str, limit: int, subject: Any = None, period: str = "day", **more: Any
) -> dict[str, Any]:
    """Sets a cap; returns it as billing.list_caps tells it."""
    return dba.row(
        "set_cap",
        scope=scope,
        subject=None if subject is None else str(subject),
        period=period,
        limit_minor=limit,
        reason="a test",
        **more,
    )


def cap_now(dba: Caller, cap: dict[str, Any]) -> dict[str, Any]:
    """The cap as it is now."""
    return dba.row("list_caps", cap_id=cap["cap_id"])


def used(dba: Caller, cap: dict[str, Any]) -> int:
    """What the cap's window has used."""
    amount: int = cap_now(dba, cap)["used_minor"]
    return amount


def no_caps(dba: Caller) -> None:
    """Deletes all caps of the database."""
    for cap in dba.rows("list_caps"):
        dba.row("delete_cap", cap_id=cap["cap_id"], reason="a test")


def charge_list(
    caller: Caller, items: list[dict[str, Any]], *, wait: bool = True
) -> list[dict[str, Any]]:
    """billing.charge_items, its answers in the order of the items."""
    rows = caller.execute(
        "SELECT c.* FROM billing.charge_items(p_items => ARRAY("
        " SELECT jsonb_populate_record(NULL::billing.charge_item, i.asked)"
        " FROM jsonb_array_elements(%s) WITH ORDINALITY AS i (asked, place) ORDER BY i.place"
        "), p_wait => %s) AS c ORDER BY c.item",
        Jsonb([{**_CHARGE, **{k: _plain(v) for k, v in item.items()}} for item in items]),
        wait,
    )
    assert [row["item"] for row in rows] == list(range(1, len(items) + 1))
    return rows


def rotated(database: Database, key_id: UUID) -> UUID:
    """The id of the key that replaces this one."""
    secret = new_secret("live")
    with session(database, "t_dba") as dba:
        row = dba.row(
            "rotate_api_key",
            api_key_id=key_id,
            key_prefix=secret.prefix,
            key_hash=secret.hash,
            reason="a test",
        )
    found: UUID = row["api_key_id"]
    return found


def account_id(database: Database, who: dict[str, str]) -> str:
    """The id of an identity's account."""
    return str(account_of(database, who)["id"])


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, UUID) else value


@contextlib.contextmanager
def clock_at(database: Database, moment: str) -> Iterator[None]:
    """Stops the clock of the rules at a moment, such as '2028-02-29 23:59:59.999999Z'."""
    definition = database.value("SELECT pg_get_functiondef('billing_data.clock'::regproc::oid)")
    database.execute(
        "CREATE OR REPLACE FUNCTION billing_data.clock() RETURNS timestamptz LANGUAGE sql VOLATILE"
        f" RETURN '{moment}'::timestamptz"
    )
    try:
        yield
    finally:
        database.execute(definition)
