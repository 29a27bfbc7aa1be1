"""One payment, one effect: what a person says about a payment, credits that name one, reports of
fraud."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.sql.helpers import (
    NOBODY,
    Caller,
    account_of,
    at_once,
    key_id,
    ledger_problems,
    new_user,
    person,
    session,
    staff,
)
from tests.sql.payments import (
    PRICE,
    USES,
    attach,
    begin,
    bought,
    configure_provider,
    credits_of,
    deliver,
    event_of,
    give_back,
    legacy,
    problems_of,
    purchases_of,
    returns_of,
    warn,
)
from tests.support import Database, unique


@pytest.fixture(autouse=True)
def the_ledger_is_right_afterwards(module_database: Database) -> Iterator[None]:
    """Stripe is set up for tests; every account's books agree at the end."""
    configure_provider(module_database)
    yield
    assert ledger_problems(module_database) == []


def _balance(database: Database, who: dict[str, str]) -> int:
    return int(account_of(database, who)["paid_credits"])


def _paid(payment_id: str, amount: int = PRICE, currency: str = "usd") -> str:
    """The payload of a payment that succeeded."""
    subject = {"id": payment_id, "amount_received": amount, "currency": currency}
    return json.dumps({"data": {"object": subject}})


def _grant(caller: Caller, who: dict[str, str], amount: int = USES, **arguments: Any) -> Any:
    """The id of a credit given by hand."""
    return caller.row("create_credit", **who, amount_minor=amount, **arguments)["credit_id"]


def _lost(database: Database, dba: Caller, amount: int = PRICE) -> tuple[dict[str, str], str, str]:
    """A payment whose account did not exist when it was reported, and does by now: the identity,
    the payment's id, the event's id."""
    who, payment_id, event_id = person(), unique("pi"), unique("evt")
    payload = _paid(payment_id, amount)
    answer = deliver(dba, event_id, payment_id, **who, amount_minor=amount, payload=payload)
    assert answer["outcome"] == "account_not_found"
    dba.row("create_account", **who)
    return who, payment_id, event_id


def _settle(caller: Caller, who: dict[str, Any], payment_id: str, amount: int = PRICE) -> Any:
    row = caller.row("settle_purchase", payment_id=payment_id, amount_minor=amount, **who)
    return row["outcome"], row["credits_added"]


def _settled(caller: Caller, who: dict[str, Any], payment_id: str) -> str:
    return str(_settle(caller, who, payment_id)[0])


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
    who, payment_id, event_id = _lost(module_database, dba)
    credit_id = _grant(dba, who)
    dba.row("resolve_payment_event", event_id=event_id, reason="granted", credit_id=credit_id)
    assert problems_of(dba, payment_id) == []
    assert _settle(dba, legacy(module_database, who), payment_id) == ("already_credited", 0)
    again = deliver(dba, event_id, payment_id, **legacy(module_database, who))
    assert (again["outcome"], again["needs_attention"]) == ("account_not_found", False)
    later = deliver(dba, unique("evt"), payment_id, **legacy(module_database, who))
    assert (later["outcome"], later["credits_added"]) == ("already_credited", 0)
    assert _balance(module_database, who) == USES
    (purchase,) = purchases_of(module_database, account_of(module_database, who)["id"])
    assert (purchase["credit_id"], purchase["price_minor"]) == (credit_id, PRICE)
    listed = _listed(dba, payment_id)
    assert (listed["status"], listed["resolved"]) == ("settled", True)


@pytest.mark.parametrize("how", [None, "refunded", "other"])
def test_a_payment_dealt_with_otherwise_is_never_credited(
    module_database: Database, dba: Caller, how: str | None
) -> None:
    who, payment_id, event_id = _lost(module_database, dba)
    dba.row("resolve_payment_event", event_id=event_id, reason="dealt with", how=how)
    assert _settle(dba, legacy(module_database, who), payment_id) == ("resolved", 0)
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
    assert _settle(dba, legacy(module_database, who), payment_id) == ("resolved", 0)
    listed = _listed(dba, payment_id)
    assert (listed["status"], listed["resolved"]) == ("pending", True)
    assert _balance(module_database, who) == 0


def test_all_open_events_of_a_resolved_payment_leave_the_list(
    module_database: Database, dba: Caller
) -> None:
    _, payment_id, first = _lost(module_database, dba)
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
    who, payment_id, event_id = _lost(module_database, dba, PRICE // 2)
    credit_id = _grant(dba, who, USES // 2)
    dba.row("resolve_payment_event", event_id=event_id, reason="granted", credit_id=credit_id)
    refund = unique("re")
    assert give_back(dba, payment_id, (refund, PRICE // 4))["outcome"] == "taken_back"
    assert _balance(module_database, who) == USES // 4
    assert give_back(dba, payment_id, (unique("re"), PRICE // 4))["outcome"] == "taken_back"
    assert _balance(module_database, who) == 0
    assert returns_of(module_database, payment_id)[refund]["uses_taken"] == USES // 4


def test_money_that_went_back_before_the_payment_was_known_is_taken_after_it_was_credited_by_hand(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id, event_id = _lost(module_database, dba)
    part, gone = (unique("re"), PRICE // 2), unique("evt")
    named = legacy(module_database, who)
    answer = give_back(dba, payment_id, part, event_id=gone, **named)
    assert answer["outcome"] == "payment_unknown"
    credit_id = _grant(dba, who)
    dba.row("resolve_payment_event", event_id=event_id, reason="granted", credit_id=credit_id)
    assert [row["problem"] for row in problems_of(dba, payment_id)] == ["payment_unknown"]
    assert give_back(dba, payment_id, part, event_id=gone, **named)["outcome"] == "taken_back"
    assert _balance(module_database, who) == USES // 2


def test_money_that_waits_for_its_purchase_is_taken_when_that_is_credited_by_hand(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    attach(dba, begin(dba, who), payment_id)
    assert give_back(dba, payment_id, (unique("re"), PRICE // 2))["outcome"] == "waiting"
    credit_id = _grant(dba, who)
    dba.row(
        "resolve_payment", payment_id=payment_id, how="credited", credit_id=credit_id, reason="hand"
    )
    assert _balance(module_database, who) == USES // 2


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
    assert _balance(module_database, who) == 0


def test_an_event_without_a_payment_is_closed_by_itself(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id, event_id = _lost(module_database, dba)
    module_database.execute(
        "UPDATE billing_data.payment_events SET payment_id = NULL WHERE event_id = %s", event_id
    )
    dba.row("resolve_payment_event", event_id=event_id, reason="a test")
    assert event_of(module_database, event_id)["resolution"] == "a test"
    assert _settle(dba, legacy(module_database, who), payment_id) == ("credited", USES)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("unknown", "it does not exist"),
        ("negative", "it took credits away"),
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
        _grant(dba, who, 50)
        row = dba.row("adjust_credits", account_id=account_id, amount=-USES, reason="a test")
        credit_id = row["credit_id"]
    elif kind == "of another payment":
        bought(module_database, who)
        credit_id = credits_of(module_database, account_id)[-1]["id"]
    elif kind == "of another resolution":
        credit_id = _grant(dba, who)
        dba.row("resolve_payment", payment_id=unique("pi"), how="credited", reason="a test",
                credit_id=credit_id)  # fmt: skip
    elif kind == "naming another payment":
        credit_id = _grant(dba, who, external_transaction_id=f"pi_{unique()}")
    elif kind == "given back":
        _, other = bought(module_database, who)
        refund = unique("re")
        give_back(dba, other, (refund, PRICE))
        give_back(dba, other, (refund, PRICE), withdrawn=False)
        credit_id = credits_of(module_database, account_id)[-1]["id"]
    elif kind == "of another account":
        credit_id = _grant(dba, new_user(module_database))
    elif kind.startswith("too"):
        credit_id = _grant(dba, who, 9 if kind == "too small" else 41)
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
    _, lost, _ = _lost(module_database, dba)
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
        who, payment_id, _ = _lost(module_database, dba)
        credit = {"credit_id": _grant(dba, who)} if how == "credited" else {}
        before = _balance(module_database, who)

        resolve = partial(_resolve, payment_id=payment_id, how=how, **credit)
        settle = partial(_settled, who=legacy(module_database, who), payment_id=payment_id)
        answers = Counter(at_once(module_database, [resolve, settle, settle, settle], 4))
        if answers["done"]:
            assert answers["credited"] == 0, answers
            assert _balance(module_database, who) == before
        else:
            assert (answers["credited"], answers["payment_already_credited"]) == (1, 1), answers
            assert _balance(module_database, who) == before + USES


def test_one_credit_resolves_one_payment_even_when_two_are_resolved_at_once(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database)
    credit_id = _grant(dba, who)

    resolves = [
        partial(_resolve, payment_id=unique("pi"), how="credited", credit_id=credit_id)
        for _ in range(8)
    ]
    answers = Counter(at_once(module_database, resolves, 8))
    assert answers == {"done": 1, "credit_not_usable": 7}


def test_who_resolved_a_payment_how_and_why_is_in_the_audit_log(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, payment_id, _ = _lost(module_database, dba)
    ada, credit_id = staff(module_database, "admin"), _grant(dba, who)
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


# --- a resolution that is taken back -------------------------------------------------------------


@pytest.mark.parametrize("how", ["refunded", "other"])
def test_a_resolution_taken_back_lets_the_payment_be_credited(
    module_database: Database, dba: Caller, how: str
) -> None:
    who, payment_id, event_id = _lost(module_database, dba)
    dba.row("resolve_payment_event", event_id=event_id, how=how, reason="wrong")
    dba.row("reopen_payment", payment_id=payment_id, reason="it was another payment")
    assert [row["reference"] for row in problems_of(dba, payment_id)] == [event_id]
    answer = deliver(dba, event_id, payment_id, **legacy(module_database, who))
    assert answer["outcome"] == "credited"
    assert _balance(module_database, who) == USES


@pytest.mark.parametrize("sold", [True, False])
def test_a_credit_taken_back_from_a_payment_is_free_for_another(
    module_database: Database, dba: Caller, sold: bool
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    if sold:
        attach(dba, begin(dba, who), payment_id)
    before = purchases_of(module_database, account_of(module_database, who)["id"])
    how = {"how": "credited", "credit_id": _grant(dba, who, 15), "reason": "a test"}
    dba.row("resolve_payment", payment_id=payment_id, **how)
    dba.row("reopen_payment", payment_id=payment_id, reason="a wrong payment")
    assert purchases_of(module_database, account_of(module_database, who)["id"]) == before
    dba.row("resolve_payment", payment_id=unique("pi"), **how)
    assert _settle(dba, legacy(module_database, who), payment_id) == ("credited", USES)


def test_a_credit_that_names_the_payment_stays_its_credit_when_a_resolution_is_taken_back(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id, event_id = _lost(module_database, dba)
    credit_id = _grant(dba, who, external_transaction_id=payment_id)
    dba.row("resolve_payment_event", event_id=event_id, reason="x", credit_id=credit_id)
    dba.row("reopen_payment", payment_id=payment_id, reason="to look again")
    answer = deliver(dba, event_id, payment_id, **legacy(module_database, who))
    assert answer["outcome"] == "already_credited"
    assert _balance(module_database, who) == USES


@pytest.mark.parametrize("kind", ["unknown", "credited", "returned"])
def test_only_a_persons_word_that_nothing_followed_is_taken_back(
    module_database: Database, dba: Caller, kind: str
) -> None:
    payment_id = unique("pi")
    if kind == "credited":
        _, payment_id = bought(module_database)
    elif kind == "returned":
        credit_id = _grant(dba, new_user(module_database))
        dba.row("resolve_payment", payment_id=payment_id, how="credited", reason="x",
                credit_id=credit_id)  # fmt: skip
        give_back(dba, payment_id, (unique("re"), 1))
    refusal = dba.refusal("reopen_payment", payment_id=payment_id, reason="x")
    assert (refusal.sqlstate, refusal.slug) == ("PB409", "payment_not_resolved")


# --- credits that name a payment -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["purchase", "grant", "refund", "adjustment"])
def test_a_credit_for_a_payment_that_was_credited_is_refused_on_any_account(
    module_database: Database, web: Caller, dba: Caller, kind: str
) -> None:
    who, payment_id = bought(module_database)
    other = new_user(module_database)
    for whose in (who, other):
        named = {
            **whose,
            "amount_minor": USES,
            "transaction_type": kind,
            "external_transaction_id": payment_id,
        }
        refusal = dba.refusal("create_credit", **named)
        assert (refusal.sqlstate, refusal.slug) == ("PB409", "payment_already_credited")
        assert refusal.message == f"Payment {payment_id} was credited or dealt with before"
        row = web.row("record_credit", **named, description="x", api_key_id=key_id(module_database))
        assert (row["outcome"], row["credit_id"]) == ("payment_already_credited", None)
    assert (_balance(module_database, who), _balance(module_database, other)) == (USES, 0)


def test_a_credit_for_a_payment_that_a_person_has_dealt_with_is_refused(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id, _ = _lost(module_database, dba)
    dba.row("resolve_payment", payment_id=payment_id, how="refunded", reason="x")
    refusal = dba.refusal(
        "create_credit", **who, amount_minor=USES, external_transaction_id=payment_id
    )
    assert refusal.slug == "payment_already_credited"


@pytest.mark.parametrize("known_by", ["sale", "event"])
def test_a_credit_that_names_a_payment_first_is_its_credit(
    module_database: Database, dba: Caller, known_by: str
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    if known_by == "sale":
        attach(dba, begin(dba, who), payment_id)
    else:
        who, payment_id, _ = _lost(module_database, dba)
    _grant(dba, who, external_transaction_id=payment_id)
    refusal = dba.refusal(
        "create_credit", **who, amount_minor=USES, external_transaction_id=payment_id
    )
    assert refusal.slug == "payment_already_credited"
    answer = deliver(dba, unique("evt"), payment_id, **legacy(module_database, who))
    assert (answer["outcome"], answer["credits_added"]) == ("already_credited", 0)
    assert _balance(module_database, who) == USES
    assert give_back(dba, payment_id, (unique("re"), PRICE))["outcome"] == "taken_back"
    assert _balance(module_database, who) == 0


def test_a_credit_for_a_payment_of_another_account_is_refused(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    attach(dba, begin(dba, who), payment_id)
    refusal = dba.refusal(
        "create_credit", **new_user(module_database), amount_minor=USES,
        external_transaction_id=payment_id,
    )  # fmt: skip
    assert (refusal.sqlstate, refusal.slug) == ("PB409", "payment_of_another_account")
    assert deliver(dba, unique("evt"), payment_id)["outcome"] == "credited"


@pytest.mark.parametrize("kind", ["another amount", "another account"])
def test_a_payment_credited_by_hand_in_another_way_is_listed_and_not_credited(
    module_database: Database, dba: Caller, kind: str
) -> None:
    who, payment_id, event_id = new_user(module_database), f"pi_{unique()}", unique("evt")
    whose = who if kind == "another amount" else new_user(module_database)
    credit_id = _grant(dba, whose, 15, external_transaction_id=payment_id)
    answer = deliver(dba, event_id, payment_id, **legacy(module_database, who))
    assert (answer["outcome"], answer["needs_attention"]) == ("credited_by_hand", True)
    (problem,) = problems_of(dba, payment_id)
    assert (problem["problem"], problem["reference"]) == ("credited_by_hand", event_id)
    assert _balance(module_database, who) in (0, 15)
    dba.row("resolve_payment_event", event_id=event_id, reason="x", credit_id=credit_id)
    assert problems_of(dba, payment_id) == []
    assert _settle(dba, legacy(module_database, who), payment_id) == ("already_credited", 0)
    assert give_back(dba, payment_id, (unique("re"), PRICE))["outcome"] == "taken_back"
    assert _balance(module_database, whose) == 0


def test_a_second_credit_for_a_payment_that_is_not_known_is_made_and_listed(
    module_database: Database, dba: Caller
) -> None:
    first, second, payment_id = new_user(module_database), new_user(module_database), unique("pi_")
    _grant(dba, first, 5, external_transaction_id=payment_id)
    assert problems_of(dba, payment_id) == []
    twice = _grant(dba, second, 5, external_transaction_id=payment_id)
    (problem,) = problems_of(dba, payment_id)
    assert (problem["problem"], problem["reference"]) == ("credited_twice", str(twice))
    assert problem["account_id"] == account_of(module_database, second)["id"]
    dba.row("resolve_payment_warning", warning_id=str(twice), reason="taken back")
    assert problems_of(dba, payment_id) == []
    refusal = dba.refusal("resolve_payment_warning", warning_id=str(twice), reason="again")
    assert (refusal.sqlstate, refusal.slug) == ("PB404", "payment_warning_not_found")


def test_ids_that_are_no_payments_may_be_used_as_often_as_one_likes(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database)
    for name in ("order 1", "order 1", "re_1", "re_1", "pip_1", "pip_1"):
        _grant(dba, who, 1, external_transaction_id=name)
    assert _balance(module_database, who) == 6
    assert {row["payment_id"] for row in dba.rows("list_payment_problems", limit=500)}.isdisjoint(
        {"order 1", "re_1", "pip_1"}
    )


@pytest.mark.parametrize("whose", ["the same account", "another account"])
def test_the_event_and_a_credit_by_hand_at_once_credit_once(
    module_database: Database, dba: Caller, whose: str
) -> None:
    for _ in range(10):
        who, payment_id = new_user(module_database), unique("pi_")
        by_hand = who if whose == "the same account" else new_user(module_database)
        named = legacy(module_database, who)

        def grant(caller: Caller, by_hand: Any = by_hand, payment_id: str = payment_id) -> str:
            row = caller.row(
                "record_credit", **by_hand, amount_minor=USES, transaction_type="purchase",
                description="x", external_transaction_id=payment_id,
            )  # fmt: skip
            return str(row["outcome"])

        def event(caller: Caller, who: Any = named, payment_id: str = payment_id) -> str:
            return str(deliver(caller, unique("evt"), payment_id, **who)["outcome"])

        answers = Counter(at_once(module_database, [grant, event], 2))
        total = sum(_balance(module_database, one) for one in (who, by_hand))
        assert total == (2 * USES if by_hand is who else USES), answers
        assert answers["created"] + answers["credited"] == 1, answers


# --- reports of fraud ----------------------------------------------------------------------------


def test_a_report_of_fraud_is_listed_once_until_a_person_has_dealt_with_it(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    (who, payment_id), warning_id = bought(module_database), unique("issfr")
    for _ in range(2):
        answer = warn(web, payment_id, warning_id)
        assert (answer["outcome"], answer["needs_attention"]) == ("acknowledged", False)
    (problem,) = problems_of(dba, payment_id)
    assert (problem["problem"], problem["reference"]) == ("fraud_warning", warning_id)
    assert problem["account_id"] == account_of(module_database, who)["id"]
    assert problem["what_is_wrong"] == "the bank of the card's owner reports fraud"
    dba.row("resolve_payment_warning", warning_id=warning_id, reason="refunded")
    assert problems_of(dba, payment_id) == []
    warn(web, payment_id, warning_id)
    assert problems_of(dba, payment_id) == []
    assert _balance(module_database, who) == USES


@pytest.mark.parametrize("order", [(True, False), (False, True), (False,)])
def test_a_report_whose_money_has_gone_back_asks_for_nobody_in_any_order(
    module_database: Database, dba: Caller, order: tuple[bool, ...]
) -> None:
    (_, payment_id), warning_id = bought(module_database), unique("issfr")
    for is_open in order:
        assert warn(dba, payment_id, warning_id, is_open=is_open)["outcome"] == "acknowledged"
    assert problems_of(dba, payment_id) == []


def test_a_report_about_somebody_elses_payment_is_ignored(dba: Caller) -> None:
    payment_id = unique("pi")
    assert warn(dba, payment_id, unique("issfr"))["outcome"] == "ignored"
    assert problems_of(dba, payment_id) == []


@pytest.mark.parametrize("fault", [{"warning_id": None}, {"warning_is_open": None}])
def test_a_report_that_says_too_little_is_refused(dba: Caller, fault: dict[str, Any]) -> None:
    arguments = {"warning_id": "issfr_1", "warning_is_open": True, **fault}
    refusal = dba.refusal(
        "process_payment_event", event_id=unique("evt"), event_type="x", payload="{}",
        action="warn", payment_id="pi_1", **arguments,
    )  # fmt: skip
    assert (refusal.slug, refusal.detail["argument"]) == ("invalid_argument", "p_warning_id")


def test_the_tables_refuse_a_second_effect_and_a_second_use_of_a_credit_even_from_a_superuser(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    account_id = account_of(module_database, who)["id"]
    (credit,) = credits_of(module_database, account_id)
    insert = (
        "INSERT INTO billing_data.payment_effects (provider, payment_id, effect, account_id,"
        " credit_id, created_at, resolved_at, resolution) VALUES ('stripe', %s, %s, %s, %s, now(),"
        " %s, %s)"
    )
    with session(module_database, "postgres") as root:
        for row, constraint in (
            ((payment_id, "other", None, None, "now", "x"), "payment_effects_pkey"),
            ((unique(), "credited", account_id, credit["id"], None, None),
             "payment_effects_credit_once"),
            ((unique(), "credited", account_id, NOBODY, None, None), "payment_effects_credit"),
            ((unique(), "credited", None, None, None, None), "payment_effects_credited"),
            ((unique(), "refunded", account_id, credit["id"], "now", "x"),
             "payment_effects_credited"),
            ((unique(), "refunded", None, None, None, None), "payment_effects_by_a_person"),
            ((unique(), "refunded", None, None, "now", None), "payment_effects_resolved"),
        ):  # fmt: skip
            assert root.refused(insert, *row).slug == constraint
