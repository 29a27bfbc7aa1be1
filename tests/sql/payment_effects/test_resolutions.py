"""One payment, one effect: a person's resolution of a payment, credits that name a payment, reports
of fraud."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.sql.helpers import (
    NOBODY,
    Caller,
    account_of,
    at_once,
    new_user,
    person,
    staff,
)
from tests.sql.payment_effects.helpers import (
    grant_by_hand,
    lost_payment,
    paid_credits_of,
    settle,
)
from tests.sql.payments import (
    PRICE,
    USES,
    attach,
    begin,
    bought,
    credits_of,
    deliver,
    event_of,
    give_back,
    legacy,
    problems_of,
    purchases_of,
    returns_of,
)
from tests.support import Database, unique


def _settled(caller: Caller, who: dict[str, Any], payment_id: str) -> str:
    return str(settle(caller, who, payment_id)[0])


def _resolve(caller: Caller, **arguments: Any) -> str:
    """'done', or the slug of the refusal."""
    try:
        caller.row("resolve_payment", reason="a test", **arguments)
    except psycopg.Error as error:
        return str(error.diag.constraint_name)
    return "done"


def _listed(caller: Caller, payment_id: str) -> dict[str, Any]:
    return caller.row("list_payments", payment_ids=[payment_id])


# --- a person's resolution -----------------------------------------------------------------------


def test_a_payment_credited_by_hand_is_not_credited_again_by_anybody(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id, event_id = lost_payment(module_database, dba)
    credit_id = grant_by_hand(dba, who)
    dba.row("resolve_payment_event", event_id=event_id, reason="granted", credit_id=credit_id)
    assert problems_of(dba, payment_id) == []
    assert settle(dba, legacy(module_database, who), payment_id) == ("already_credited", 0)
    again = deliver(dba, event_id, payment_id, **legacy(module_database, who))
    assert (again["outcome"], again["needs_attention"]) == ("account_not_found", False)
    later = deliver(dba, unique("evt"), payment_id, **legacy(module_database, who))
    assert (later["outcome"], later["credits_added"]) == ("already_credited", 0)
    assert paid_credits_of(module_database, who) == USES
    (purchase,) = purchases_of(module_database, account_of(module_database, who)["id"])
    assert (purchase["credit_id"], purchase["price_minor"]) == (credit_id, PRICE)
    listed = _listed(dba, payment_id)
    assert (listed["status"], listed["resolved"]) == ("settled", True)


@pytest.mark.parametrize("how", [None, "refunded", "other"])
def test_a_payment_dealt_with_otherwise_is_never_credited(
    module_database: Database, dba: Caller, how: str | None
) -> None:
    who, payment_id, event_id = lost_payment(module_database, dba)
    dba.row("resolve_payment_event", event_id=event_id, reason="dealt with", how=how)
    assert settle(dba, legacy(module_database, who), payment_id) == ("resolved", 0)
    later = deliver(dba, unique("evt"), payment_id, **legacy(module_database, who))
    assert (later["outcome"], later["needs_attention"]) == ("resolved", False)
    refund = give_back(dba, payment_id, (unique("re"), PRICE), **legacy(module_database, who))
    assert (refund["outcome"], refund["needs_attention"]) == ("resolved", False)
    assert problems_of(dba, payment_id) == []
    assert account_of(module_database, who)["ledger_version"] == 0
    listed = _listed(dba, payment_id)
    assert (listed["status"], listed["resolved"], listed["account_id"]) == ("resolved", True, None)


@pytest.mark.parametrize("how", ["refunded", "other"])
def test_a_pending_purchase_dealt_with_otherwise_is_never_credited(
    module_database: Database, dba: Caller, how: str
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    attach(dba, begin(dba, who), payment_id)
    dba.row("resolve_payment", payment_id=payment_id, how=how, reason="a test")
    assert deliver(dba, unique("evt"), payment_id)["outcome"] == "resolved"
    assert settle(dba, legacy(module_database, who), payment_id) == ("resolved", 0)
    listed = _listed(dba, payment_id)
    assert (listed["status"], listed["resolved"]) == ("pending", True)
    assert paid_credits_of(module_database, who) == 0


def test_all_open_events_of_a_resolved_payment_leave_the_list(
    module_database: Database, dba: Caller
) -> None:
    _, payment_id, first = lost_payment(module_database, dba)
    second = unique("evt")
    deliver(dba, second, payment_id, **person())
    assert len(problems_of(dba, payment_id)) == 2
    dba.row("resolve_payment", payment_id=payment_id, how="refunded", reason="in the dashboard")
    assert problems_of(dba, payment_id) == []
    for event_id in (first, second):
        assert event_of(module_database, event_id)["resolution"] == "in the dashboard"


def test_a_refund_of_a_payment_credited_by_hand_takes_back_from_that_credits_account(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id, event_id = lost_payment(module_database, dba, PRICE // 2)
    credit_id = grant_by_hand(dba, who, USES // 2)
    dba.row("resolve_payment_event", event_id=event_id, reason="granted", credit_id=credit_id)
    refund = unique("re")
    assert give_back(dba, payment_id, (refund, PRICE // 4))["outcome"] == "taken_back"
    assert paid_credits_of(module_database, who) == USES // 4
    assert give_back(dba, payment_id, (unique("re"), PRICE // 4))["outcome"] == "taken_back"
    assert paid_credits_of(module_database, who) == 0
    assert returns_of(module_database, payment_id)[refund]["uses_taken"] == USES // 4


def test_money_that_went_back_before_the_payment_was_known_is_taken_after_it_was_credited_by_hand(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id, event_id = lost_payment(module_database, dba)
    part, gone = (unique("re"), PRICE // 2), unique("evt")
    named = legacy(module_database, who)
    answer = give_back(dba, payment_id, part, event_id=gone, **named)
    assert answer["outcome"] == "payment_unknown"
    credit_id = grant_by_hand(dba, who)
    dba.row("resolve_payment_event", event_id=event_id, reason="granted", credit_id=credit_id)
    assert [row["problem"] for row in problems_of(dba, payment_id)] == ["payment_unknown"]
    assert give_back(dba, payment_id, part, event_id=gone, **named)["outcome"] == "taken_back"
    assert paid_credits_of(module_database, who) == USES // 2


def test_money_that_waits_for_its_purchase_is_taken_when_that_is_credited_by_hand(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    attach(dba, begin(dba, who), payment_id)
    assert give_back(dba, payment_id, (unique("re"), PRICE // 2))["outcome"] == "waiting"
    credit_id = grant_by_hand(dba, who)
    dba.row(
        "resolve_payment", payment_id=payment_id, how="credited", credit_id=credit_id, reason="hand"
    )
    assert paid_credits_of(module_database, who) == USES // 2


def test_a_word_about_a_refund_is_no_word_about_the_payment(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id, event_id = new_user(module_database), unique("pi"), unique("evt")
    named = legacy(module_database, who)
    give_back(dba, payment_id, (unique("re"), 1), event_id=event_id, **named)
    dba.row("resolve_payment_event", event_id=event_id, reason="a test")
    assert problems_of(dba, payment_id) == []
    answer = deliver(dba, unique("evt"), payment_id, **legacy(module_database, who))
    assert answer["outcome"] == "credited"


def test_a_settled_payments_event_is_closed_and_its_later_returns_still_count(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    event_id = unique("evt")
    give_back(dba, payment_id, (unique("re"), 100), event_id=event_id, currency="eur")
    dba.row("resolve_payment_event", event_id=event_id, reason="a test", how="other")
    assert problems_of(dba, payment_id) == []
    assert give_back(dba, payment_id, (unique("re"), PRICE))["outcome"] == "taken_back"
    assert paid_credits_of(module_database, who) == 0


def test_an_event_without_a_payment_is_closed_by_itself(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id, event_id = lost_payment(module_database, dba)
    module_database.execute(
        "UPDATE billing_data.payment_events SET payment_id = NULL WHERE event_id = %s", event_id
    )
    dba.row("resolve_payment_event", event_id=event_id, reason="a test")
    assert event_of(module_database, event_id)["resolution"] == "a test"
    assert settle(dba, legacy(module_database, who), payment_id) == ("credited", USES)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("unknown", "it does not exist"),
        ("negative", "it took credits away"),
        ("a correction", "it is itself a correction"),
        ("reversed", "it was reversed"),
        ("of another payment", "it is the credit of another payment"),
        ("of another resolution", "it is the credit of another payment"),
        ("naming another payment", "it is the credit of another payment"),
        ("given back", "it belongs to a refund or dispute"),
        ("of another account", "it was given to another account than the payment was sold to"),
        ("too small", "it gave 9 credits, and what was paid buys 20"),
        ("too large", "it gave 41 credits, and what was paid buys 20"),
    ],
)
def test_only_a_credit_that_can_be_for_the_payment_resolves_it(
    module_database: Database, dba: Caller, kind: str, problem: str
) -> None:
    who, payment_id = new_user(module_database, free=False), unique("pi")
    attach(dba, begin(dba, who), payment_id)
    account_id = account_of(module_database, who)["id"]
    credit_id = NOBODY
    if kind == "negative":
        grant_by_hand(dba, who, 50)
        row = dba.row("adjust_credits", account_id=account_id, amount=-USES, reason="a test")
        credit_id = row["credit_id"]
    elif kind == "a correction":
        grant_by_hand(dba, who)
        charge = dba.row("create_charge", **who, amount_minor=USES)["charge_id"]
        row = dba.row("reverse_charge", charge_id=charge, reason="a test")
        credit_id = row["reversal_id"]
    elif kind == "reversed":
        credit_id = grant_by_hand(dba, who)
        dba.row("reverse_credit", credit_id=credit_id, reason="a test", amount=1)
    elif kind == "of another payment":
        bought(module_database, who)
        credit_id = credits_of(module_database, account_id)[-1]["id"]
    elif kind == "of another resolution":
        credit_id = grant_by_hand(dba, who)
        dba.row("resolve_payment", payment_id=unique("pi"), how="credited", reason="a test",
                credit_id=credit_id)  # fmt: skip
    elif kind == "naming another payment":
        credit_id = grant_by_hand(dba, who, external_transaction_id=f"pi_{unique()}")
    elif kind == "given back":
        _, other = bought(module_database, who)
        refund = unique("re")
        give_back(dba, other, (refund, PRICE))
        give_back(dba, other, (refund, PRICE), withdrawn=False)
        credit_id = credits_of(module_database, account_id)[-1]["id"]
    elif kind == "of another account":
        credit_id = grant_by_hand(dba, new_user(module_database))
    elif kind.startswith("too"):
        credit_id = grant_by_hand(dba, who, 9 if kind == "too small" else 41)
    arguments = {"how": "credited", "reason": "a test", "credit_id": credit_id}
    refusal = dba.refusal("resolve_payment", payment_id=payment_id, **arguments)
    assert (refusal.sqlstate, refusal.slug) == ("PB409", "credit_not_usable")
    assert refusal.detail["problem"] == problem
    assert deliver(dba, unique("evt"), payment_id)["outcome"] == "credited"


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"how": "paid"}, "p_how"),
        ({"how": None}, "p_how"),
        ({"how": "credited"}, "p_credit_id"),
        ({"how": "refunded", "credit_id": NOBODY}, "p_credit_id"),
        ({"reason": " "}, "p_reason"),
        ({"reason": None}, "p_reason"),
        ({"reason": "x" * 501}, "p_reason"),
        ({"payment_id": ""}, "p_payment_id"),
        ({"payment_id": None}, "p_payment_id"),
        ({"payment_id": "p" * 256}, "p_payment_id"),
        ({"amount_minor": 0}, "p_amount_minor"),
        ({"currency": "dollars"}, "p_currency"),
        ({"provider": "cash"}, "p_provider"),
    ],
)
def test_a_senseless_resolution_is_refused(
    dba: Caller, arguments: dict[str, Any], argument: str
) -> None:
    good = {"payment_id": unique("pi"), "how": "refunded", "reason": "a test"}
    refusal = dba.refusal("resolve_payment", **{**good, **arguments})
    assert (refusal.slug, refusal.detail["argument"]) == ("invalid_argument", argument)


def test_a_payment_is_resolved_once_and_not_after_it_was_credited(
    module_database: Database, dba: Caller
) -> None:
    _, paid = bought(module_database)
    _, lost, _ = lost_payment(module_database, dba)
    dba.row("resolve_payment", payment_id=lost, how="other", reason="a test")
    for payment_id in (paid, lost):
        refusal = dba.refusal(
            "resolve_payment", payment_id=payment_id, how="refunded", reason="a test"
        )
        assert (refusal.sqlstate, refusal.slug) == ("PB409", "payment_already_credited")


@pytest.mark.parametrize("how", ["refunded", "credited"])
def test_a_resolution_and_the_payments_event_at_once_leave_one_effect(
    module_database: Database, dba: Caller, how: str
) -> None:
    for _ in range(8):
        who, payment_id, _ = lost_payment(module_database, dba)
        credit = {"credit_id": grant_by_hand(dba, who)} if how == "credited" else {}
        before = paid_credits_of(module_database, who)

        resolve = partial(_resolve, payment_id=payment_id, how=how, **credit)
        settle = partial(_settled, who=legacy(module_database, who), payment_id=payment_id)
        answers = Counter(at_once(module_database, [resolve, settle, settle, settle], 4))
        if answers["done"]:
            assert answers["credited"] == 0, answers
            assert paid_credits_of(module_database, who) == before
        else:
            assert (answers["credited"], answers["payment_already_credited"]) == (1, 1), answers
            assert paid_credits_of(module_database, who) == before + USES


def test_one_credit_resolves_one_payment_even_when_two_are_resolved_at_once(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database)
    credit_id = grant_by_hand(dba, who)

    resolves = [
        partial(_resolve, payment_id=unique("pi"), how="credited", credit_id=credit_id)
        for _ in range(8)
    ]
    answers = Counter(at_once(module_database, resolves, 8))
    assert answers == {"done": 1, "credit_not_usable": 7}


def test_who_resolved_a_payment_how_and_why_is_in_the_audit_log(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, payment_id, _ = lost_payment(module_database, dba)
    ada, credit_id = staff(module_database, "admin"), grant_by_hand(dba, who)
    web.row(
        "resolve_payment", payment_id=payment_id, how="credited", credit_id=credit_id,
        reason="granted by hand", session_hash=ada.session_hash,
    )  # fmt: skip
    web.row(
        "reopen_payment",
        payment_id=payment_id,
        reason="a wrong one",
        session_hash=ada.session_hash,
    )
    rows = module_database.execute(
        "SELECT action, changes, reason, admin_user_id FROM billing_data.admin_audit_logs"
        " WHERE resource_type = 'payment' AND resource_id = %s ORDER BY created_at",
        payment_id,
    )
    how = {"how": "credited", "credit_id": str(credit_id)}
    assert rows == [
        ("payment.resolve", how, "granted by hand", ada.id),
        ("payment.reopen", {**how, "resolution": "granted by hand"}, "a wrong one", ada.id),
    ]


@pytest.mark.parametrize("call", ["resolve_payment", "reopen_payment", "resolve_payment_warning"])
def test_a_viewer_and_nobody_resolve_nothing(
    module_database: Database, web: Caller, call: str
) -> None:
    arguments = {
        "resolve_payment": {"payment_id": "pi_x", "how": "other"},
        "reopen_payment": {"payment_id": "pi_x"},
        "resolve_payment_warning": {"warning_id": "issfr_x"},
    }[call]
    viewer = staff(module_database, "viewer")
    refusal = web.refusal(call, **arguments, reason="x", session_hash=viewer.session_hash)
    assert refusal.slug == "admin_role_required"
    assert web.refusal(call, **arguments, reason="x").slug == "actor_required"
