"""Lists of items: a list is decided as its items would be one after the other, however it is
divided. Requests are recognised by their own fields, not by fields that a later release adds."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.app import ITEM_FIELDS
from server.config import ServeConfig
from server.gateway import Gateway, SchemaMismatch
from tests.sql.helpers import (
    Caller,
    account_read_by,
    charge_all,
    key_id,
    ledger_problems,
    new_user,
    new_user_by,
    outcomes,
    person,
    session,
    tamper,
)
from tests.sql.payments import configure_provider
from tests.support import Database, unique

KEYS = (None, None, "a", "b", "c")
EMAILS = (None, None, None, "ada@example.com", "ben@example.com")

items = st.lists(
    st.fixed_dictionaries(
        {
            "user": st.integers(0, 2),
            "amount_minor": st.integers(-1, 6),
            "currency": st.sampled_from(("USD", "USD", "USD", "EUR", "US")),
            "idempotency_key": st.sampled_from(KEYS),
            "customer_email": st.sampled_from(EMAILS),
        }
    ),
    max_size=14,
)


def send(caller: Caller, wanted: Sequence[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    """billing.charge_items, in the order of the items."""
    wait = "true" if options.get("wait", True) else "false"
    rows = caller.execute(
        "SELECT c.* FROM billing.charge_items(ARRAY(SELECT r"
        " FROM jsonb_array_elements(%s::jsonb) WITH ORDINALITY AS e (item, place)"
        " CROSS JOIN LATERAL jsonb_populate_record(NULL::billing.charge_item, e.item) AS r"
        f" ORDER BY e.place), p_wait => {wait}) AS c ORDER BY c.item",
        json.dumps(wanted, default=str),
    )
    assert [row["item"] for row in rows] == list(range(1, len(wanted) + 1))
    return rows


def _state(dba: Caller, who: dict[str, str]) -> dict[str, Any]:
    account = account_read_by(dba, who)
    names = ("paid_credits", "free_uses_remaining", "total_uses", "ledger_version", "status")
    return {name: account[name] for name in (*names, "customer_email")}


def _of(who: dict[str, str], item: dict[str, Any]) -> dict[str, Any]:
    return {**who, "description": "x"} | {n: v for n, v in item.items() if n != "user"}


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """The part of an outcome that is equal for two users."""
    names = ("outcome", "amount_minor", "currency", "balance_before", "balance_after")
    more = ("free_uses_after", "paid_with", "balance", "account_currency")
    return {name: row[name] for name in (*names, *more)}


@dataclass(frozen=True)
class World:
    """Three users, as each test begins with them."""

    paid: tuple[int, ...]
    free: tuple[bool, ...]
    suspended: int | None

    def users(self, dba: Caller) -> list[dict[str, str]]:
        """Creates these users anew."""
        made = [
            new_user_by(dba, paid=amount, free=keep)
            for amount, keep in zip(self.paid, self.free, strict=True)
        ]
        if self.suspended is not None:
            who = made[self.suspended]
            dba.row("set_account_status", **who, status="suspended", reason="a test")
        return made


worlds = st.builds(
    World,
    st.tuples(*[st.integers(0, 9)] * 3),
    st.tuples(*[st.booleans()] * 3),
    st.sampled_from((None, None, None, 0, 2)),
)


@settings(max_examples=80)
@given(wanted=items, world=worlds, cuts=st.lists(st.integers(1, 14), max_size=3))
def test_a_list_is_decided_as_its_items_one_after_the_other(
    dba: Caller, wanted: list[dict[str, Any]], world: World, cuts: list[int]
) -> None:
    """The same items are sent as one list, each alone, and divided into several lists."""
    ends = [*sorted(cuts), len(wanted) + 14]
    ways = {
        "whole": [wanted],
        "each": [[item] for item in wanted],
        "cut": [wanted[start:end] for start, end in zip((0, *ends), ends, strict=False)],
    }
    told, states = {}, {}
    for way, lists in ways.items():
        users = world.users(dba)
        rows = [
            row
            for part in lists
            for row in send(dba, [_of(users[item["user"]], item) for item in part])
        ]
        told[way] = [_told(row) for row in rows]
        states[way] = [_state(dba, user) for user in users]
    assert told["whole"] == told["each"] == told["cut"]
    assert states["whole"] == states["each"] == states["cut"]


@settings(max_examples=40)
@given(wanted=items)
def test_the_single_form_decides_as_the_list_does(
    module_database: Database, dba: Caller, wanted: list[dict[str, Any]]
) -> None:
    world = World((4, 0, 2), (False, True, True), None)
    alone, listed = world.users(dba), world.users(dba)
    for item in wanted:
        (row,) = send(dba, [_of(listed[item["user"]], item)])
        asked = _of(alone[item["user"]], item)
        plain = dba.rows("create_charge", **asked, only_plain=True)
        if row["outcome"] == "created":
            (made,) = plain or dba.rows("create_charge", **asked)
            assert {name: made[name] for name in made if name in _told(row)} == {
                name: value for name, value in _told(row).items() if name in made
            }
        else:
            assert plain == []
            refusal = dba.refusal("create_charge", **asked)
            used = "charge_already_exists"
            slug = {"replayed": used, "conflict": used}.get(row["outcome"], row["outcome"])
            assert refusal.slug == slug
            # An error undoes the profile update, which an outcome in a list keeps.
            if item["customer_email"] and row["outcome"] != "invalid_argument":
                email = {"customer_email": item["customer_email"]}
                dba.row("check_credit", **alone[item["user"]], **email)
    for one, other in zip(alone, listed, strict=True):
        assert _state(dba, one) == _state(dba, other)
    assert ledger_problems(module_database) == []


def test_the_old_arrays_are_the_same_items(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database, paid=3, free=False)
    wanted = [{**who, "amount_minor": amount, "description": "x"} for amount in (2, 5, 1, 1)]
    assert outcomes(charge_all(dba, wanted)) == [
        "created", "insufficient_credits", "created", "insufficient_credits",
    ]  # fmt: skip


def test_what_is_not_plain_leaves_nothing_behind(module_database: Database, dba: Caller) -> None:
    new = person()
    assert dba.rows("check_credit", **new, only_plain=True) == []
    assert dba.execute(
        "SELECT count(*) AS n FROM billing_data.accounts WHERE external_id = %s", new["external_id"]
    ) == [{"n": 0}]
    who = new_user(module_database, paid=1)
    before = _state(dba, who)
    changed = {"customer_email": "ada@example.com", "only_plain": True}
    assert dba.rows("check_credit", **who, **changed) == []
    assert dba.rows("create_charge", **who, **changed) == []
    with session(module_database, "t_dba") as other:
        other.execute("BEGIN")
        other.row("create_charge", **who)
        # The account is held, and the call does not wait.
        assert dba.rows("create_charge", **who, only_plain=True) == []
        other.execute("ROLLBACK")
    assert _state(dba, who) == before


def test_a_list_that_was_made_to_take_long_does_not(module_database: Database, dba: Caller) -> None:
    """Each second item needs all that was left before the first of its pair. It is too much, and
    the items after it can be decided only afterwards."""
    count = 500
    who = new_user(module_database, paid=count, free=False)
    wanted = []
    for left in range(count, 0, -1):
        wanted += [{"amount_minor": 1}, {"amount_minor": left}]
    begun = time.monotonic()
    rows = send(dba, [{**who, "currency": "USD", "description": "x", **item} for item in wanted])
    taken = time.monotonic() - begun
    assert outcomes(rows) == ["created", "insufficient_credits"] * count
    assert taken < 10, taken


@pytest.mark.parametrize("count", [2000])
def test_one_key_many_times_in_a_list_is_one_charge(
    module_database: Database, dba: Caller, count: int
) -> None:
    who = new_user(module_database, paid=9)
    item = {**who, "amount_minor": 1, "currency": "USD", "description": "x"}
    rows = send(dba, [{**item, "idempotency_key": "k"}] * count)
    assert outcomes(rows) == ["created"] + ["replayed"] * (count - 1)
    assert len({row["charge_id"] for row in rows}) == 1


# --- fingerprints --------------------------------------------------------------------------------

REQUESTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # function -> the request, and one more field for it
    "create_credit": ({"amount_minor": 5}, {"external_transaction_id": "order 1"}),
    "create_account": ({"plan_name": "free"}, {"wa_id": "wa-1"}),
    "begin_purchase": ({}, {"agent_id": "datum"}),
}


@pytest.mark.parametrize("recorded", ["as now", "as before", "none"])
def test_a_used_key_tells_requests_apart_only_by_a_fingerprint_of_the_present_form(
    database: Database, recorded: str
) -> None:
    who = new_user(database, paid=5)
    item = {**who, "amount_minor": 1, "currency": "USD", "description": "x"}
    with session(database, "t_dba") as dba:
        (first,) = send(dba, [{**item, "idempotency_key": "k"}])
    forms = {"as now": "request_fingerprint", "as before": "sha256('x')", "none": "NULL"}
    tamper(
        database,
        f"UPDATE billing_data.charges SET request_fingerprint = {forms[recorded]}"
        " WHERE id = %(id)s",
        id=first["charge_id"],
    )
    with session(database, "t_dba") as dba:
        same, other = send(
            dba,
            [
                {**item, "idempotency_key": "k"},
                {**item, "idempotency_key": "k", "metadata_agent_id": "datum"},
            ],
        )
    assert same["outcome"] == "replayed"
    assert other["outcome"] == ("conflict" if recorded == "as now" else "replayed")


def test_fields_that_are_absent_are_no_part_of_a_fingerprint(module_database: Database) -> None:
    """Therefore a field that a later release adds changes no fingerprint of a request without it. A
    field that is given does, under its name."""
    parts = "billing_data.field_hash('amount', '1') # billing_data.field_hash('currency', 'USD')"
    fingerprints = [
        module_database.value(f"SELECT billing_data.fingerprint({parts}{more})")
        for more in (
            "",
            " # billing_data.field_hash('next', NULL)",
            " # billing_data.field_hash('next', '')",
            " # billing_data.field_hash('next', 'x')",
            " # billing_data.field_hash('other', 'x')",
        )
    ]
    assert fingerprints[0] == fingerprints[1]
    assert len(set(fingerprints)) == 4
    # Recorded by releases that are in use: these values may never change.
    assert fingerprints[0].hex() == "02fc4e038c3d210092"


@pytest.mark.parametrize("function", sorted(REQUESTS))
def test_every_kind_of_request_has_such_a_fingerprint(
    module_database: Database, dba: Caller, function: str
) -> None:
    asked, more = REQUESTS[function]
    who, key = new_user(module_database), unique()
    if function == "begin_purchase":
        configure_provider(module_database)
        asked = {"customer_email": "ada@example.com"}
    first = dba.row(function, **who, **asked, idempotency_key=key)
    if function == "create_credit":
        refusal = dba.refusal(function, **who, **asked, **more, idempotency_key=key)
        assert refusal.slug == "credit_already_exists"
    else:
        again = dba.row(function, **who, **asked, idempotency_key=key)
        assert again["replayed"]
        assert again["account_id"] == first["account_id"]
        refusal = dba.refusal(function, **who, **asked, **more, idempotency_key=key)
        assert refusal.slug == "idempotency_key_reused"


def test_the_items_of_a_list_have_one_actor(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database, paid=5)
    item = {**who, "amount_minor": 1, "currency": "USD", "description": "x"}
    key = key_id(module_database, "billing:write")
    assert (
        dba.refused(
            "SELECT billing.charge_items(ARRAY[jsonb_populate_record(NULL::billing.charge_item,"
            " %s::jsonb)])",
            json.dumps({**item, "api_key_id": str(key)}),
        ).slug
        == "actor_not_allowed"
    )
    rows = send(dba, [item, {**item, "api_key_id": str(key)}])
    assert outcomes(rows) == ["created", "actor_not_allowed"]
    with session(module_database, "t_web") as web:
        rows = send(web, [{**item, "api_key_id": str(key)}, item])
        assert outcomes(rows) == ["created", "api_key_invalid"]


@pytest.mark.parametrize("kind", sorted(ITEM_FIELDS))
def test_a_server_whose_items_have_other_fields_than_the_database_does_not_start(
    module_database: Database, kind: str
) -> None:
    async def compare(fields: dict[str, tuple[str, ...]]) -> None:
        gateway = Gateway(ServeConfig(module_database.dsn("t_web")), fields)
        try:
            await gateway.compare_with_database()
        finally:
            await gateway.close()

    asyncio.run(compare(ITEM_FIELDS))
    own = ITEM_FIELDS[kind]
    for other in ((*own[1::-1], *own[2:]), own[:-1], (*own, "next")):
        with pytest.raises(SchemaMismatch, match=f"billing.{kind} is not {', '.join(other)}"):
            asyncio.run(compare({**ITEM_FIELDS, kind: other}))
