"""Credits and free uses that are held before they are spent: billing.create_hold and the others."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from tests.sql.console import assert_argument_refused
from tests.sql.helpers import (
    Caller,
    account_of,
    at_once,
    key_id,
    ledger_problems,
    new_user,
    session,
    tamper,
)
from tests.sql.holds import SECOND, figures, make_hold, stopped_clock
from tests.support import Database, unique


@pytest.fixture
def payer(module_database: Database) -> dict[str, str]:
    """Somebody with ten paid credits and no free use."""
    return new_user(module_database, paid=10, free=False)


# --- holding -------------------------------------------------------------------------------------


def test_what_is_held_is_available_to_nothing_else(
    module_database: Database, dba: Caller, payer: dict[str, str]
) -> None:
    hold = make_hold(dba, payer, 7)
    assert (hold["state"], hold["paid_with"], hold["currency"]) == ("open", "paid", "USD")
    assert (hold["balance"], hold["held"], hold["available"]) == (10, 7, 3)
    assert figures(module_database, payer)[:2] == (10, 7)
    check = dba.row("check_credit", **payer)
    assert (check["has_credit"], check["credits_remaining"]) == (True, 3)
    account = account_of(module_database, payer)["id"]
    other = account_of(module_database, new_user(module_database))["id"]
    why = {"reason": "more than is free"}
    for function, arguments in (
        ("create_charge", {**payer, "amount_minor": 4}),
        ("create_hold", {**payer, "amount_minor": 4}),
        ("adjust_credits", {"account_id": account, "amount": -4, **why}),
        ("transfer_credits",
            {"from_account_id": account, "to_account_id": other, "amount": 4, **why}),
    ):  # fmt: skip
        refusal = dba.refusal(function, **arguments)
        assert (refusal.slug, refusal.detail["balance"]) == ("insufficient_credits", 3), function
    assert dba.row("create_charge", **payer, amount_minor=3)["balance_after"] == 7
    assert not dba.row("check_credit", **payer)["has_credit"]
    assert dba.refusal("create_charge", **payer).slug == "insufficient_credits"
    assert ledger_problems(module_database) == []


def test_each_hold_keeps_one_free_use_whatever_its_amount(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=5)
    held = [make_hold(dba, who, 100) for _ in range(3)]
    assert [h["paid_with"] for h in held] == ["free"] * 3
    assert held[2]["free_uses_available"] == 0
    charge = dba.row("create_charge", **who)
    assert (charge["paid_with"], charge["free_uses_after"]) == ("paid", 3)
    assert dba.refusal("create_hold", **who, amount_minor=5).slug == "insufficient_credits"
    dba.row("release_hold", hold_id=held[0]["hold_id"], reason="not needed")
    assert dba.row("create_charge", **who)["paid_with"] == "free"
    captured = dba.row("capture_hold", hold_id=held[1]["hold_id"], amount_minor=60)
    assert (captured["captured_minor"], captured["balance"]) == (60, 4)
    assert figures(module_database, who) == (4, 0, 1, 1, 3)
    none = dba.row("capture_hold", hold_id=held[2]["hold_id"], amount_minor=0)
    assert (none["state"], none["charge_id"], none["free_uses_available"]) == ("captured", None, 1)
    assert ledger_problems(module_database) == []


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"amount_minor": 0}, "p_amount_minor"),
        ({"amount_minor": -1}, "p_amount_minor"),
        ({"amount_minor": None}, "p_amount_minor"),
        ({"expires_in_seconds": 0}, "p_expires_in_seconds"),
        ({"expires_in_seconds": 86401}, "p_expires_in_seconds"),
        ({"expires_in_seconds": None}, "p_expires_in_seconds"),
        ({"description": ""}, "p_description"),
        ({"idempotency_key": "x" * 256}, "p_idempotency_key"),
        ({"currency": "US"}, "p_currency"),
        ({"dry_run": None}, "p_dry_run"),
        ({"oauth_provider": "google"}, "p_oauth_provider"),
    ],
)
def test_a_hold_of_another_shape_is_refused(
    module_database: Database, dba: Caller, payer: dict[str, str], arguments: dict[str, Any],
    argument: str,
) -> None:  # fmt: skip
    asked = {**payer, "amount_minor": 1, **arguments}
    assert_argument_refused(dba, "create_hold", argument, **asked)


def test_a_dry_run_says_what_would_be_and_holds_nothing(
    module_database: Database, dba: Caller, payer: dict[str, str]
) -> None:
    hold = make_hold(dba, payer, 7, dry_run=True)
    assert (hold["hold_id"], hold["held"], hold["available"]) == (None, 7, 3)
    assert dba.refusal(
        "create_hold", **payer, amount_minor=11, dry_run=True
    ).slug == "insufficient_credits"  # fmt: skip
    assert figures(module_database, payer)[:2] == (10, 0)
    assert dba.rows("list_holds", **payer) == []


def test_a_key_holds_once(module_database: Database, dba: Caller, payer: dict[str, str]) -> None:
    key = unique("hold")
    first = make_hold(dba, payer, 4, idempotency_key=key)
    again = make_hold(dba, payer, 4, idempotency_key=key)
    assert (again["outcome"], again["hold_id"], again["held"]) == ("replayed", first["hold_id"], 4)
    refusal = dba.refusal("create_hold", **payer, amount_minor=5, idempotency_key=key)
    assert refusal.slug == "hold_already_exists"
    assert refusal.detail["hold_id"] == str(first["hold_id"])


def test_of_twenty_holds_of_75_on_500_exactly_six_are_made(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=500, free=False)

    def items(amount: int, count: int) -> tuple[str, str]:
        item = who | {"amount_minor": amount, "expires_in_seconds": 900, "description": "x"}
        return (
            "SELECT o.outcome FROM billing.hold_items(ARRAY(SELECT jsonb_populate_record("
            f"NULL::billing.hold_item, %s::jsonb) FROM generate_series(1, {count}))) AS o",
            json.dumps(item),
        )

    calls = [lambda caller: str(caller.execute(*items(75, 1))[0]["outcome"])] * 20
    assert sorted(at_once(module_database, calls)) == (
        ["created"] * 6 + ["insufficient_credits"] * 14
    )
    assert figures(module_database, who)[:2] == (500, 450)
    one_list = dba.execute(*items(20, 20))
    assert [row["outcome"] for row in one_list] == ["created"] * 2 + ["insufficient_credits"] * 18


# --- settling ------------------------------------------------------------------------------------


def test_a_capture_charges_what_was_used_and_gives_the_rest_back(
    module_database: Database, dba: Caller, payer: dict[str, str]
) -> None:
    hold = make_hold(dba, payer, 7, description="a long job", metadata_agent_id="scout")
    done = dba.row("capture_hold", hold_id=hold["hold_id"], amount_minor=3)
    assert (done["state"], done["captured_minor"], done["is_late"]) == ("captured", 3, False)
    assert (done["balance"], done["held"], done["available"]) == (7, 0, 7)
    [entry] = dba.rows("list_transactions", **payer, limit=1)
    assert entry["transaction_id"] == done["charge_id"]
    assert (entry["amount_minor"], entry["description"]) == (-3, "a long job")
    assert (entry["balance_after"], entry["metadata_agent_id"]) == (7, "scout")
    again = dba.row("capture_hold", hold_id=hold["hold_id"], amount_minor=3)
    assert (again["outcome"], again["charge_id"]) == ("replayed", done["charge_id"])
    for other in ({"amount_minor": 4}, {"amount_minor": 3, "overage": "available"}, {}):
        refusal = dba.refusal("capture_hold", hold_id=hold["hold_id"], **other)
        assert (refusal.slug, refusal.detail["state"]) == ("hold_settled", "captured")
    refusal = dba.refusal("release_hold", hold_id=hold["hold_id"], reason="too late")
    assert refusal.slug == "hold_settled"
    assert ledger_problems(module_database) == []


@pytest.mark.parametrize(
    ("asked", "captured"),
    [
        ({"amount_minor": 0}, 0),
        ({"amount_minor": 7}, 7),
        ({}, 7),
        ({"amount_minor": 8}, None),
        ({"amount_minor": 8, "overage": "available"}, 8),
        ({"amount_minor": 10, "overage": "available"}, 10),
        ({"amount_minor": 11, "overage": "available"}, 10),
        ({"amount_minor": 2**63 - 1, "overage": "available"}, 10),
    ],
)
def test_overage_takes_what_else_is_there_and_never_more(
    module_database: Database, dba: Caller, payer: dict[str, str], asked: dict[str, Any],
    captured: int | None,
) -> None:  # fmt: skip
    arguments = {"hold_id": make_hold(dba, payer, 7)["hold_id"], **asked}
    if captured is None:
        refusal = dba.refusal("capture_hold", **arguments)
        assert (refusal.slug, refusal.detail["held"]) == ("capture_exceeds_hold", 7)
        assert figures(module_database, payer)[:2] == (10, 7)
    else:
        done = dba.row("capture_hold", **arguments)
        assert (done["captured_minor"], done["balance"]) == (captured, 10 - captured)
        assert figures(module_database, payer)[:2] == (10 - captured, 0)


def test_overage_takes_nothing_that_another_hold_keeps(
    module_database: Database, dba: Caller, payer: dict[str, str]
) -> None:
    hold = make_hold(dba, payer, 4)["hold_id"]
    make_hold(dba, payer, 5)
    done = dba.row("capture_hold", hold_id=hold, amount_minor=10, overage="available")
    assert (done["captured_minor"], done["available"], done["held"]) == (5, 0, 5)


def test_a_release_gives_everything_back_once(
    module_database: Database, dba: Caller, payer: dict[str, str]
) -> None:
    hold = make_hold(dba, payer, 7)["hold_id"]
    released = dba.row("release_hold", hold_id=hold, reason="failed")
    assert (released["state"], released["available"]) == ("released", 10)
    assert dba.row("release_hold", hold_id=hold, reason="failed")["outcome"] == "replayed"
    assert figures(module_database, payer)[:2] == (10, 0)
    assert dba.refusal("capture_hold", hold_id=hold).slug == "hold_settled"
    assert dba.refusal("extend_hold", hold_id=hold).slug == "hold_settled"
    assert_argument_refused(dba, "release_hold", "p_reason", hold_id=hold, reason=" ")


# --- time ----------------------------------------------------------------------------------------


def test_a_hold_ends_at_its_microsecond(
    module_database: Database, dba: Caller, payer: dict[str, str]
) -> None:
    hold = make_hold(dba, payer, 10, expires_in_seconds=60)
    made = hold["created_at"].isoformat()
    with stopped_clock(module_database, 60 * SECOND - 1, made):
        assert not dba.row("check_credit", **payer)["has_credit"]
        assert dba.refusal("create_charge", **payer).slug == "insufficient_credits"
        assert dba.row("get_hold", hold_id=hold["hold_id"])["available"] == 0
    with stopped_clock(module_database, 60 * SECOND, made):
        told = dba.row("get_hold", hold_id=hold["hold_id"])
        assert (told["state"], told["available"], told["held"]) == ("expired", 10, 0)
        assert dba.row("check_credit", **payer)["credits_remaining"] == 10
        assert dba.row("create_charge", **payer, amount_minor=10)["balance_after"] == 0
    assert ledger_problems(module_database) == []


@pytest.mark.parametrize(("taken", "asked"), [(0, 7), (3, 7), (4, 7), (4, 6), (10, 0)])
def test_a_hold_that_is_over_is_captured_while_its_credits_are_there(
    module_database: Database, dba: Caller, payer: dict[str, str], taken: int, asked: int
) -> None:
    hold = make_hold(dba, payer, 7, expires_in_seconds=1)
    with stopped_clock(module_database, SECOND, hold["created_at"].isoformat()):
        if taken:
            dba.row("create_charge", **payer, amount_minor=taken)
        arguments = {"hold_id": hold["hold_id"], "amount_minor": asked}
        if taken + asked <= 10:
            done = dba.row("capture_hold", **arguments)
            assert (done["is_late"], done["captured_minor"]) == (True, asked)
            assert done["balance"] == 10 - taken - asked
        else:
            refusal = dba.refusal("capture_hold", **arguments)
            assert refusal.slug == "hold_expired"
            assert (refusal.detail["available"], refusal.detail["required"]) == (6, 7)
    assert ledger_problems(module_database) == []


def test_a_hold_is_extended_and_never_shortened(
    module_database: Database, dba: Caller, payer: dict[str, str]
) -> None:
    hold = make_hold(dba, payer, 7, expires_in_seconds=60)
    made = hold["created_at"].isoformat()
    with stopped_clock(module_database, 59 * SECOND, made):
        longer = dba.row("extend_hold", hold_id=hold["hold_id"], expires_in_seconds=60)
        assert (longer["expires_at"] - hold["created_at"]).total_seconds() == 119
        same = dba.row("extend_hold", hold_id=hold["hold_id"], expires_in_seconds=1)
        assert same["expires_at"] == longer["expires_at"]
    with stopped_clock(module_database, 119 * SECOND - 1, made):
        assert dba.row("check_credit", **payer)["credits_remaining"] == 3
    with stopped_clock(module_database, 119 * SECOND, made):
        refusal = dba.refusal("extend_hold", hold_id=hold["hold_id"])
        assert refusal.slug == "hold_expired"
        assert dba.row("check_credit", **payer)["credits_remaining"] == 10


def test_tidying_books_what_is_so_already(
    module_database: Database, dba: Caller, payer: dict[str, str]
) -> None:
    before = dba.row("watch_holds")
    hold = make_hold(dba, payer, 7, expires_in_seconds=1)
    with stopped_clock(module_database, SECOND, hold["created_at"].isoformat()):
        over = dba.row("watch_holds")
        assert over["credits_held"] == before["credits_held"] + 7
        assert over["over_since"] <= hold["expires_at"]
        booked = dba.value("tidy_holds")
        assert booked >= 1
        assert dba.value("tidy_holds") == 0
        assert dba.row("watch_holds")["over_since"] is None
    assert dba.row("watch_holds")["newly_expired"] >= over["newly_expired"] + booked
    assert figures(module_database, payer)[:2] == (10, 0)
    [change] = module_database.execute(
        "SELECT change, created_at FROM billing_data.hold_changes WHERE hold_id = %s",
        hold["hold_id"],
    )
    assert change == ("expired", hold["expires_at"])


@pytest.mark.parametrize("function", ["capture_hold", "release_hold", "extend_hold", "get_hold"])
def test_no_hold_at_all_is_not_found_either(dba: Caller, function: str) -> None:
    why = {"reason": "a test"} if function == "release_hold" else {}
    refusal = dba.refusal(function, hold_id=None, **why)
    assert (refusal.slug, refusal.message) == ("hold_not_found", "Hold not found: null")


# --- who ------------------------------------------------------------------------------------------


def test_a_hold_belongs_to_the_key_that_made_it(
    module_database: Database, web: Caller, payer: dict[str, str]
) -> None:
    ours, theirs = (key_id(module_database, "billing:read", "billing:write") for _ in range(2))
    hold = make_hold(web, payer, 7, api_key_id=ours)["hold_id"]
    for function in ("capture_hold", "release_hold", "extend_hold", "get_hold"):
        refusal = web.refusal(function, hold_id=hold, api_key_id=theirs)
        assert refusal.slug == "hold_not_found", function
        refusal = web.refusal(function, hold_id=uuid.uuid4(), api_key_id=ours)
        assert refusal.slug == "hold_not_found", function
    assert web.rows("list_holds", **payer, api_key_id=theirs) == []
    assert [h["hold_id"] for h in web.rows("list_holds", **payer, api_key_id=ours)] == [hold]
    done = web.row("capture_hold", hold_id=hold, api_key_id=ours)
    assert done["captured_minor"] == 7
    [writer] = module_database.execute(
        "SELECT api_key_id FROM billing_data.charges WHERE id = %s", done["charge_id"]
    )
    assert (
        writer
        == module_database.execute(
            "SELECT id FROM billing_data.api_keys WHERE coalesce(credential, id) = %s", ours
        )[0]
    )


def test_an_account_with_holds_is_not_merged_away(
    module_database: Database, dba: Caller, payer: dict[str, str]
) -> None:
    hold = make_hold(dba, payer, 7)["hold_id"]
    account = account_of(module_database, payer)["id"]
    other = new_user(module_database)
    arguments = {
        "account_id": account, "into_account_id": account_of(module_database, other)["id"],
        "reason": "one person",
    }  # fmt: skip
    assert dba.refusal("merge_accounts", **arguments).slug == "account_has_holds"
    dba.row("release_hold", hold_id=hold, reason="merging")
    late = make_hold(dba, payer, 2, expires_in_seconds=1)
    with stopped_clock(module_database, SECOND, late["created_at"].isoformat()):
        dba.row("merge_accounts", **arguments)
        done = dba.row("capture_hold", hold_id=late["hold_id"])
        assert (done["is_late"], done["balance"]) == (True, 8)
        again = make_hold(dba, payer, 3)  # the merged identity leads to the other account
        assert again["account_id"] == arguments["into_account_id"]
    assert ledger_problems(module_database) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing_data.accounts SET held_credits = held_credits - 1 WHERE held_credits > 0",
        "UPDATE billing_data.accounts SET due_at = NULL WHERE held_credits > 0",
        "UPDATE billing_data.holds SET captured_minor = captured_minor - 1"
        " WHERE captured_minor > 1",
    ],
)
def test_holds_that_do_not_agree_are_found(database: Database, statement: str) -> None:
    who = new_user(database, paid=10, free=False)
    with session(database, "t_dba") as dba:
        make_hold(dba, who, 3)
        dba.row("capture_hold", hold_id=make_hold(dba, who, 4)["hold_id"])
    assert ledger_problems(database) == []
    tamper(database, statement)
    assert ledger_problems(database) != []
