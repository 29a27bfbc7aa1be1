"""Resolutions taken back, credits that name a payment, and reports of fraud."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.sql.helpers import (
    NOBODY,
    Caller,
    account_of,
    at_once,
    key_id,
    new_user,
    session,
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
    give_back,
    legacy,
    problems_of,
    purchases_of,
    warn,
)
from tests.support import Database, unique

# --- a resolution that is taken back -------------------------------------------------------------


@pytest.mark.parametrize("how", ["refunded", "other"])
def test_a_resolution_taken_back_lets_the_payment_be_credited(
    module_database: Database, dba: Caller, how: str
) -> None:
    who, payment_id, event_id = lost_payment(module_database, dba)
    dba.row("resolve_payment_event", event_id=event_id, how=how, reason="wrong")
    dba.row("reopen_payment", payment_id=payment_id, reason="it was another payment")
    assert [row["reference"] for row in problems_of(dba, payment_id)] == [event_id]
    answer = deliver(dba, event_id, payment_id, **legacy(module_database, who))
    assert answer["outcome"] == "credited"
    assert paid_credits_of(module_database, who) == USES


@pytest.mark.parametrize("sold", [True, False])
def test_a_credit_taken_back_from_a_payment_is_free_for_another(
    module_database: Database, dba: Caller, sold: bool
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    if sold:
        attach(dba, begin(dba, who), payment_id)
    before = purchases_of(module_database, account_of(module_database, who)["id"])
    how = {"how": "credited", "credit_id": grant_by_hand(dba, who, 15), "reason": "a test"}
    dba.row("resolve_payment", payment_id=payment_id, **how)
    dba.row("reopen_payment", payment_id=payment_id, reason="a wrong payment")
    assert purchases_of(module_database, account_of(module_database, who)["id"]) == before
    dba.row("resolve_payment", payment_id=unique("pi"), **how)
    assert settle(dba, legacy(module_database, who), payment_id) == ("credited", USES)


def test_a_credit_that_names_the_payment_stays_its_credit_when_a_resolution_is_taken_back(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id, event_id = lost_payment(module_database, dba)
    credit_id = grant_by_hand(dba, who, external_transaction_id=payment_id)
    dba.row("resolve_payment_event", event_id=event_id, reason="x", credit_id=credit_id)
    dba.row("reopen_payment", payment_id=payment_id, reason="to look again")
    answer = deliver(dba, event_id, payment_id, **legacy(module_database, who))
    assert answer["outcome"] == "already_credited"
    assert paid_credits_of(module_database, who) == USES


@pytest.mark.parametrize("kind", ["unknown", "credited", "returned"])
def test_only_a_persons_word_that_nothing_followed_is_taken_back(
    module_database: Database, dba: Caller, kind: str
) -> None:
    payment_id = unique("pi")
    if kind == "credited":
        _, payment_id = bought(module_database)
    elif kind == "returned":
        credit_id = grant_by_hand(dba, new_user(module_database))
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
    assert (paid_credits_of(module_database, who), paid_credits_of(module_database, other)) == (
        USES,
        0,
    )


def test_a_credit_for_a_payment_that_a_person_has_dealt_with_is_refused(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id, _ = lost_payment(module_database, dba)
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
        who, payment_id, _ = lost_payment(module_database, dba)
    grant_by_hand(dba, who, external_transaction_id=payment_id)
    refusal = dba.refusal(
        "create_credit", **who, amount_minor=USES, external_transaction_id=payment_id
    )
    assert refusal.slug == "payment_already_credited"
    answer = deliver(dba, unique("evt"), payment_id, **legacy(module_database, who))
    assert (answer["outcome"], answer["credits_added"]) == ("already_credited", 0)
    assert paid_credits_of(module_database, who) == USES
    assert give_back(dba, payment_id, (unique("re"), PRICE))["outcome"] == "taken_back"
    assert paid_credits_of(module_database, who) == 0


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
    credit_id = grant_by_hand(dba, whose, 15, external_transaction_id=payment_id)
    answer = deliver(dba, event_id, payment_id, **legacy(module_database, who))
    assert (answer["outcome"], answer["needs_attention"]) == ("credited_by_hand", True)
    (problem,) = problems_of(dba, payment_id)
    assert (problem["problem"], problem["reference"]) == ("credited_by_hand", event_id)
    assert paid_credits_of(module_database, who) in (0, 15)
    dba.row("resolve_payment_event", event_id=event_id, reason="x", credit_id=credit_id)
    assert problems_of(dba, payment_id) == []
    assert settle(dba, legacy(module_database, who), payment_id) == ("already_credited", 0)
    assert give_back(dba, payment_id, (unique("re"), PRICE))["outcome"] == "taken_back"
    assert paid_credits_of(module_database, whose) == 0


def test_a_second_credit_for_a_payment_that_is_not_known_is_made_and_listed(
    module_database: Database, dba: Caller
) -> None:
    first, second, payment_id = new_user(module_database), new_user(module_database), unique("pi_")
    grant_by_hand(dba, first, 5, external_transaction_id=payment_id)
    assert problems_of(dba, payment_id) == []
    twice = grant_by_hand(dba, second, 5, external_transaction_id=payment_id)
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
        grant_by_hand(dba, who, 1, external_transaction_id=name)
    assert paid_credits_of(module_database, who) == 6
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
        total = sum(paid_credits_of(module_database, one) for one in (who, by_hand))
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
    assert paid_credits_of(module_database, who) == USES


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
