"""Credits that end, or are spent before or after others: what pays, and what is given back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest

from tests.sql.helpers import Caller, account_of, ledger_problems, new_user, session
from tests.sql.holds import capture_all
from tests.sql.lots import clock_at, now_of
from tests.sql.payments import bought, configure_provider
from tests.support import Database


@pytest.fixture
def root(module_database: Database) -> Iterator[Caller]:
    with session(module_database, "postgres") as caller:
        yield caller


@pytest.fixture
def payer(module_database: Database) -> dict[str, str]:
    """Somebody with ten paid credits of the usual kind and no free use."""
    return new_user(module_database, paid=10, free=False)


def give(caller: Caller, who: dict[str, str], amount: int, **more: Any) -> Any:
    return caller.row("create_credit", **who, amount_minor=amount, **more)["credit_id"]


def lefts(root: Caller, *lots: Any) -> list[int]:
    rows = root.execute(
        "SELECT l.left_minor FROM unnest(%s::uuid[]) WITH ORDINALITY AS i (id, place)"
        " JOIN billing_data.lots AS l ON l.id = i.id ORDER BY i.place",
        list(lots),
    )
    return [row["left_minor"] for row in rows]


def allocations(root: Caller, entry: Any) -> dict[Any, int]:
    rows = root.execute(
        "SELECT lot_id, amount_minor FROM billing_data.lot_allocations WHERE entry_id = %s", entry
    )
    return {row["lot_id"]: row["amount_minor"] for row in rows}


def in_future(database: Database, **more: int) -> datetime:
    return now_of(database) + timedelta(**more)


def test_charges_draw_by_priority_then_by_end_then_by_age_and_the_pool_never_ends(
    module_database: Database, dba: Caller, root: Caller, payer: dict[str, str]
) -> None:
    soon, later = in_future(module_database, hours=1), in_future(module_database, hours=2)
    last = give(dba, payer, 3, priority=51, expires_at=soon)
    later_lot = give(dba, payer, 3, expires_at=later)
    older, newer = (give(dba, payer, 3, expires_at=soon) for _ in range(2))
    first = give(dba, payer, 3, priority=49)
    order = (first, older, newer, later_lot, last)
    charge = dba.row("create_charge", **payer, amount_minor=8)
    assert lefts(root, *order) == [0, 0, 1, 3, 3]
    assert allocations(root, charge["charge_id"]) == {first: 3, older: 3, newer: 2}
    charge = dba.row("create_charge", **payer, amount_minor=5)
    assert allocations(root, charge["charge_id"]) == {newer: 1, later_lot: 3}
    charge = dba.row("create_charge", **payer, amount_minor=9)
    assert allocations(root, charge["charge_id"]) == {}
    assert charge["balance_after"] == 3
    charge = dba.row("create_charge", **payer, amount_minor=3)
    assert allocations(root, charge["charge_id"]) == {last: 3}
    account = account_of(module_database, payer)
    assert (account["paid_credits"], account["has_lots"]) == (0, False)
    assert ledger_problems(module_database) == []


def test_a_lot_ends_at_its_microsecond_and_a_ledger_row_books_it(
    module_database: Database, dba: Caller, root: Caller, payer: dict[str, str]
) -> None:
    end = in_future(module_database, hours=1)
    lot = give(dba, payer, 5, expires_at=end)
    with clock_at(module_database, end - timedelta(microseconds=1)):
        assert dba.row("create_charge", **payer, amount_minor=2)["balance_after"] == 13
    with clock_at(module_database, end):
        # Whoever reads before it is booked is told the same.
        account_id = account_of(module_database, payer)["id"]
        assert dba.row("get_account", **payer)["paid_credits"] == 10
        for key in (None, "once", "once"):
            again = dba.row("create_account", **payer, idempotency_key=key)
            assert (again["paid_credits"], again["account_created"]) == (10, False)
        assert dba.row("get_account_by_id", account_id=account_id)["paid_credits"] == 10
        assert dba.row("list_accounts", search=str(account_id))["paid_credits"] == 10
        assert account_of(module_database, payer)["paid_credits"] == 13
        assert dba.row("check_credit", **payer)["credits_remaining"] == 10
        assert dba.refusal("create_charge", **payer, amount_minor=11).detail["balance"] == 10
        assert ledger_problems(module_database) == []
    assert lefts(root, lot) == [0]
    rows = root.execute(
        "SELECT c.* FROM billing_data.credits AS c JOIN billing_data.lot_allocations AS n"
        " ON n.entry_id = c.id WHERE n.lot_id = %s",
        lot,
    )
    assert [(r["amount_minor"], r["transaction_type"]) for r in rows] == [(-3, "adjustment")]
    assert rows[0]["description"].startswith("Expired: 3 of 5 credits, which ended at ")
    account = account_of(module_database, payer)
    assert (account["paid_credits"], account["has_lots"], account["due_at"]) == (10, False, None)


def test_the_banner_and_the_preview_of_a_refund_count_no_lot_that_has_ended(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, free=False)
    end = in_future(module_database, hours=1)
    give(dba, who, 5, expires_at=end)
    account_id = account_of(module_database, who)["id"]
    explained = partial(dba.rows, "explain_account", account_id=account_id)
    assert explained() == []
    with clock_at(module_database, end):
        [state] = explained()
        assert state["kind"] == "out_of_credits"
        assert state["since"] == end
        assert "it has no free uses and no paid credits." in state["sentence"]
    configure_provider(module_database)
    _, payment_id = bought(module_database, who)
    tried = partial(dba.row, "begin_refund", payment_id=payment_id, reason="x", dry_run=True)
    assert tried()["credits_there"] == 25
    with clock_at(module_database, end):
        assert tried()["credits_there"] == 20


# --- holds ---------------------------------------------------------------------------------------


def test_a_hold_keeps_its_lots_over_their_end_and_what_it_gives_back_ends_then(
    module_database: Database, dba: Caller, root: Caller, payer: dict[str, str]
) -> None:
    end = in_future(module_database, minutes=5)
    lot = give(dba, payer, 8, expires_at=end)
    holds = [
        dba.row("create_hold", **payer, amount_minor=n, expires_in_seconds=900)["hold_id"]
        for n in (3, 2, 7)
    ]
    assert lefts(root, lot) == [0]
    assert ledger_problems(module_database) == []
    with clock_at(module_database, end):
        first = dba.row("capture_hold", hold_id=holds[0], amount_minor=2)
        # One of the three that it kept of the lot is over.
        assert (first["balance"], first["held"], first["available"]) == (15, 9, 6)
        released = dba.row("release_hold", hold_id=holds[1], reason="not needed")
        assert (released["balance"], released["held"]) == (13, 7)
        last = dba.row("capture_hold", hold_id=holds[2])
        assert (last["balance"], last["held"]) == (6, 0)
        assert ledger_problems(module_database) == []
    assert allocations(root, first["charge_id"]) == {lot: 2}
    assert allocations(root, last["charge_id"]) == {lot: 3}
    assert lefts(root, lot) == [0]
    assert account_of(module_database, payer)["has_lots"] is False


def test_a_capture_pays_in_the_order_of_spending_and_overage_draws_like_a_charge(
    module_database: Database, dba: Caller, root: Caller, payer: dict[str, str]
) -> None:
    before = give(dba, payer, 4, priority=10)
    after = give(dba, payer, 4, priority=90)
    hold = dba.row("create_hold", **payer, amount_minor=15)["hold_id"]
    assert lefts(root, before, after) == [0, 3]
    part = dba.row("capture_hold", hold_id=hold, amount_minor=5)
    assert allocations(root, part["charge_id"]) == {before: 4}
    assert lefts(root, before, after) == [0, 4]
    hold = dba.row("create_hold", **payer, amount_minor=10)["hold_id"]
    assert lefts(root, after) == [3]
    more = dba.row("capture_hold", hold_id=hold, amount_minor=50, overage="available")
    assert (more["captured_minor"], more["available"]) == (13, 0)
    assert allocations(root, more["charge_id"]) == {after: 4}
    assert ledger_problems(module_database) == []


def test_captures_in_one_list_take_of_a_lot_what_they_charge_and_no_more(
    module_database: Database, dba: Caller, root: Caller
) -> None:
    who = new_user(module_database, free=False)
    lot = give(dba, who, 6, priority=90)
    holds = [dba.row("create_hold", **who, amount_minor=3)["hold_id"] for _ in range(2)]
    captures = [{"hold_id": holds[0], "amount_minor": 0}, {"hold_id": holds[1]}]
    told = capture_all(dba, captures)
    assert [row["available"] for row in told] == [3, 3]
    assert allocations(root, told[1]["charge_id"]) == {lot: 3}
    assert lefts(root, lot) == [3]
    assert ledger_problems(module_database) == []


def test_a_hold_that_is_over_gives_its_lots_back_and_is_captured_late_from_what_is_there(
    module_database: Database, dba: Caller, root: Caller, payer: dict[str, str]
) -> None:
    lot = give(dba, payer, 5, expires_at=in_future(module_database, hours=1))
    hold = dba.row("create_hold", **payer, amount_minor=6, expires_in_seconds=1)
    with clock_at(module_database, hold["expires_at"]):
        assert dba.row("check_credit", **payer)["credits_remaining"] == 15
        assert lefts(root, lot) == [5]
        dba.row("create_charge", **payer, amount_minor=4)
        late = dba.row("capture_hold", hold_id=hold["hold_id"])
    assert (late["is_late"], late["balance"]) == (True, 5)
    assert allocations(root, late["charge_id"]) == {lot: 1}
    assert ledger_problems(module_database) == []


def test_a_dry_run_of_a_hold_takes_nothing_of_a_lot(
    module_database: Database, dba: Caller, root: Caller, payer: dict[str, str]
) -> None:
    lot = give(dba, payer, 5, priority=1)
    assert dba.row("create_hold", **payer, amount_minor=6, dry_run=True)["available"] == 9
    assert lefts(root, lot) == [5]


# --- giving back and taking back ------------------------------------------------------------------


def test_a_reversal_gives_back_from_the_end_of_what_was_spent(
    module_database: Database, dba: Caller, root: Caller, payer: dict[str, str]
) -> None:
    first, last = give(dba, payer, 3, priority=1), give(dba, payer, 3, priority=99)
    charge = dba.row("create_charge", **payer, amount_minor=15)["charge_id"]
    assert lefts(root, first, last) == [0, 1]
    why = {"charge_id": charge, "reason": "a test"}
    for amount, expected in ((1, [0, 2]), (2, [0, 3]), (9, [0, 3]), (2, [2, 3]), (1, [3, 3])):
        reversal = dba.row("reverse_charge", **why, amount=amount)["reversal_id"]
        assert lefts(root, first, last) == expected, amount
    assert allocations(root, reversal) == {first: -1}
    assert account_of(module_database, payer)["paid_credits"] == 16
    assert ledger_problems(module_database) == []


def test_what_comes_back_to_a_lot_that_is_over_ends_at_once(
    module_database: Database, dba: Caller, root: Caller, payer: dict[str, str]
) -> None:
    end = in_future(module_database, hours=1)
    lot = give(dba, payer, 5, expires_at=end)
    charge = dba.row("create_charge", **payer, amount_minor=7)["charge_id"]
    with clock_at(module_database, end):
        back = dba.row("reverse_charge", charge_id=charge, reason="the job failed")
        assert back["balance_after"] == 15
        assert account_of(module_database, payer)["paid_credits"] == 10
        assert ledger_problems(module_database) == []
    assert lefts(root, lot) == [0]


def test_taking_a_credit_back_takes_its_own_lot_first(
    module_database: Database, dba: Caller, root: Caller, payer: dict[str, str]
) -> None:
    soon = give(dba, payer, 5, expires_at=in_future(module_database, hours=1))
    later = give(dba, payer, 5, expires_at=in_future(module_database, hours=2))
    usual = give(dba, payer, 4)
    dba.row("reverse_credit", credit_id=later, reason="by mistake", amount=3)
    assert lefts(root, soon, later) == [5, 2]
    dba.row("reverse_credit", credit_id=usual, reason="by mistake")
    assert lefts(root, soon, later) == [5, 2]
    dba.row("create_charge", **payer, amount_minor=7)
    # Nothing is left of it: what is missing is drawn like a charge.
    dba.row("reverse_credit", credit_id=later, reason="by mistake")
    assert lefts(root, soon, later) == [0, 0]
    assert account_of(module_database, payer)["paid_credits"] == 8
    assert ledger_problems(module_database) == []


def test_credits_that_staff_took_away_go_back_to_the_lots_they_were_of(
    module_database: Database, dba: Caller, root: Caller, payer: dict[str, str]
) -> None:
    end = in_future(module_database, hours=1)
    soon, later = give(dba, payer, 5, expires_at=end), give(dba, payer, 5, priority=90)
    account = account_of(module_database, payer)["id"]
    taken = dba.row("adjust_credits", account_id=account, amount=-17, reason="a test")["credit_id"]
    assert lefts(root, soon, later) == [0, 3]
    for amount, left in ((1, [0, 4]), (10, [0, 5]), (4, [3, 5])):
        dba.row("reverse_credit", credit_id=taken, reason="by mistake", amount=amount)
        assert lefts(root, soon, later) == left
        assert ledger_problems(module_database) == []
    # The account is merged: the rest comes back as it was, where the account leads.
    stays = new_user(module_database, free=False)
    stays_id = account_of(module_database, stays)["id"]
    dba.row("merge_accounts", account_id=account, into_account_id=stays_id, reason="one person")
    dba.row("reverse_credit", credit_id=taken, reason="by mistake")
    listed = dba.rows("list_lots", account_id=stays_id)
    assert sum(row["left_minor"] for row in listed if row["expires_at"] == end) == 5
    assert ledger_problems(module_database) == []
    with clock_at(module_database, end):
        assert dba.row("check_credit", **stays)["credits_remaining"] == 15
        assert ledger_problems(module_database) == []


def test_what_is_given_back_of_the_end_of_a_lot_does_not_end_again(
    module_database: Database, dba: Caller, payer: dict[str, str]
) -> None:
    end = in_future(module_database, hours=1)
    give(dba, payer, 5, expires_at=end)
    account = account_of(module_database, payer)["id"]
    with clock_at(module_database, end):
        dba.row("check_credit", **payer)
        (ended,) = module_database.execute(
            "SELECT id FROM billing_data.credits WHERE account_id = %s AND amount_minor = -5",
            account,
        )
        dba.row("reverse_credit", credit_id=ended[0], reason="goodwill")
        assert dba.row("check_credit", **payer)["credits_remaining"] == 15
        assert ledger_problems(module_database) == []


def test_adjustments_and_transfers_draw_like_charges_and_moved_credits_stay_of_their_kind(
    module_database: Database, dba: Caller, root: Caller, payer: dict[str, str]
) -> None:
    end = in_future(module_database, hours=1)
    lot = give(dba, payer, 5, expires_at=end, source="promotion")
    account = account_of(module_database, payer)["id"]
    other = new_user(module_database, free=False)
    other_id = account_of(module_database, other)["id"]
    dba.row("adjust_credits", account_id=account, amount=-2, reason="a test")
    assert lefts(root, lot) == [3]
    dba.row(
        "transfer_credits", from_account_id=account, to_account_id=other_id, amount=4,
        reason="a test",
    )  # fmt: skip
    (moved,) = root.execute("SELECT * FROM billing_data.lots WHERE account_id = %s", other_id)
    assert (moved["left_minor"], moved["expires_at"], moved["source"]) == (3, end, "promotion")
    assert moved["origin_id"] == lot
    assert ledger_problems(module_database) == []
    with clock_at(module_database, end):
        assert dba.row("check_credit", **other)["credits_remaining"] == 1
        assert dba.row("check_credit", **payer)["credits_remaining"] == 9
    assert ledger_problems(module_database) == []


def test_a_merge_moves_lots_and_undoing_it_moves_exactly_those_back(
    module_database: Database, dba: Caller, root: Caller, payer: dict[str, str]
) -> None:
    end = in_future(module_database, hours=1)
    stays = new_user(module_database, paid=6, free=False)
    theirs = give(dba, stays, 5, expires_at=end)
    lot = give(dba, payer, 7, expires_at=end + timedelta(hours=1))
    charge = dba.row("create_charge", **payer, amount_minor=2)["charge_id"]
    ids = {"account_id": account_of(module_database, payer)["id"], "reason": "a test"}
    into = account_of(module_database, stays)["id"]
    dba.row("merge_accounts", **ids, into_account_id=into)
    assert lefts(root, lot, theirs) == [0, 5]
    assert ledger_problems(module_database) == []
    dba.row("undo_merge", **ids)
    assert lefts(root, theirs) == [5]
    back = root.execute(
        "SELECT left_minor, expires_at, origin_id FROM billing_data.lots"
        " WHERE account_id = %s AND has_left", ids["account_id"],
    )  # fmt: skip
    assert [tuple(row.values()) for row in back] == [(5, end + timedelta(hours=1), lot)]
    assert ledger_problems(module_database) == []
    dba.row("merge_accounts", **ids, into_account_id=into)
    dba.row("reverse_charge", charge_id=charge, reason="the job failed")
    sums = root.execute(
        "SELECT sum(left_minor) AS n FROM billing_data.lots WHERE account_id = %s", into
    )
    assert sums[0]["n"] == 5 + 5 + 2
    assert ledger_problems(module_database) == []


# --- reading -------------------------------------------------------------------------------------


def listed(caller: Caller, account_id: Any, **more: Any) -> list[tuple[Any, ...]]:
    rows = caller.rows("list_lots", account_id=account_id, **more)
    return [(r["lot_id"], r["left_minor"], r["held_minor"], r["in_pool"]) for r in rows]


def test_every_credit_is_listed_with_what_is_left_and_every_charge_with_what_paid(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, free=False)
    account = account_of(module_database, who)["id"]
    first = give(dba, who, 5, transaction_type="purchase")
    second = give(dba, who, 5)
    lot = give(dba, who, 4, priority=1)
    charge = dba.row("create_charge", **who, amount_minor=10)["charge_id"]
    third = give(dba, who, 2)
    assert listed(dba, account) == [(second, 4, 0, True), (third, 2, 0, True)]
    assert listed(dba, account, all=True)[:2] == [(lot, 0, 0, False), (first, 0, 0, True)]
    paid = dba.rows("list_allocations", charge_id=charge)
    assert [(r["lot_id"], r["amount_minor"], r["source"]) for r in paid] == [
        (lot, 4, "grant"), (first, 5, "purchase"), (second, 1, "grant"),
    ]  # fmt: skip
    dba.row("reverse_credit", credit_id=third, reason="by mistake")
    back = dba.row("reverse_charge", charge_id=charge, reason="a test", amount=3)["reversal_id"]
    dba.row("create_hold", **who, amount_minor=5)
    assert listed(dba, account) == [(second, 4, 4, True), (back, 3, 1, True)]
    for _ in range(2):
        dba.row("create_charge", **who, amount_minor=1)
    paid = dba.rows("list_allocations", account_id=account, limit=3)
    assert [(r["lot_id"], r["amount_minor"]) for r in paid] == [
        (second, 1), (second, 1), (lot, 4), (first, 5), (second, 1),
    ]  # fmt: skip
    by_charge: dict[Any, int] = {}
    for row in paid:
        by_charge[row["charge_id"]] = by_charge.get(row["charge_id"], 0) + row["amount_minor"]
    assert sorted(by_charge.values()) == [1, 1, 10]


def test_a_check_tells_what_ends_next_alone_and_in_a_list(
    module_database: Database, dba: Caller, payer: dict[str, str]
) -> None:
    plain = new_user(module_database, paid=1)
    ends = in_future(module_database, hours=1)
    give(dba, payer, 3, expires_at=ends)
    give(dba, payer, 2, expires_at=ends)
    give(dba, payer, 4, priority=1)
    alone = dba.row("check_credit", **payer)
    assert (alone["next_expiry_at"], alone["next_expiry_amount_minor"]) == (ends, 5)
    item = "jsonb_populate_record(NULL::billing.check_item, %s::jsonb)"
    rows = dba.execute(
        f"SELECT * FROM billing.check_items(ARRAY[{item}, {item}]) ORDER BY item",
        json.dumps(plain), json.dumps(payer),
    )  # fmt: skip
    told = [(row["next_expiry_at"], row["next_expiry_amount_minor"]) for row in rows]
    assert told == [(None, None), (ends, 5)]
