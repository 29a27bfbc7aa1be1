"""Events that a person deals with, lists of payments, and the ledger's check."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.sql.helpers import (
    Caller,
    account_of,
    at_once,
    key_id,
    ledger_problems,
    new_user,
    person,
    session,
    staff,
    tamper,
)
from tests.sql.payment_events.helpers import paid_credits_of, spend
from tests.sql.payments import (
    PRICE,
    USES,
    attach,
    begin,
    bought,
    configure_provider,
    deliver,
    event_of,
    give_back,
    legacy,
    problems_of,
)
from tests.support import Database, unique


def test_an_event_that_was_dealt_with_by_hand_leaves_the_list_and_comes_again_in_vain(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, event_id, payment_id = new_user(module_database), unique("evt"), unique("pi")
    ada = staff(module_database, "admin")
    named = legacy(module_database, who)
    deliver(web, event_id, payment_id, **named, amount_minor=PRICE + 1)
    web.row(
        "resolve_payment_event",
        event_id=event_id,
        reason="granted by hand",
        session_hash=ada.session_hash,
    )
    assert problems_of(dba, payment_id) == []
    event = event_of(module_database, event_id)
    assert (event["outcome"], event["resolution"]) == ("amount_mismatch", "granted by hand")
    assert event["resolved_at"] > event["received_at"]
    answer = deliver(web, event_id, payment_id, **named)
    assert (answer["outcome"], answer["needs_attention"]) == ("amount_mismatch", False)
    assert paid_credits_of(module_database, who) == 0
    rows = module_database.execute(
        "SELECT action, resource_type, changes, reason, admin_user_id, database_role"
        " FROM billing_data.admin_audit_logs WHERE resource_id = %s",
        event_id,
    )
    assert rows == [
        (
            "payment_event.resolve",
            "payment_event",
            {"outcome": "amount_mismatch"},
            "granted by hand",
            ada.id,
            None,
        )
    ]


@pytest.mark.parametrize("kind", ["unknown", "credited", "resolved", "of another provider"])
def test_only_an_open_fault_can_be_resolved(
    module_database: Database, dba: Caller, kind: str
) -> None:
    event_id = unique("evt")
    provider = "paypal" if kind == "of another provider" else "stripe"
    if kind == "credited":
        deliver(dba, event_id, unique("pi"), **legacy(module_database, new_user(module_database)))
    elif kind != "unknown":
        deliver(dba, event_id, unique("pi"))
    if kind == "resolved":
        dba.row("resolve_payment_event", event_id=event_id, reason="a test")
    refusal = dba.refusal(
        "resolve_payment_event", event_id=event_id, reason="a test", provider=provider
    )
    assert (refusal.sqlstate, refusal.slug) == ("PB404", "payment_event_not_found")
    assert refusal.message == f"Payment event not found: {event_id}"


def test_money_back_of_a_charge_that_is_not_shown_to_us_waits_for_a_person_or_the_next_attempt(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    event_id = unique("evt")
    unreadable: dict[str, Any] = {"event_id": event_id, "action": "unreadable"}
    for deliveries in (1, 2):
        answer = give_back(web, payment_id, **unreadable)
        assert (answer["outcome"], answer["needs_attention"]) == ("charge_unreadable", True)
        assert answer["deliveries"] == deliveries
        assert answer["account_id"] == account_of(module_database, who)["id"]
    (problem,) = problems_of(dba, payment_id)
    assert (problem["problem"], problem["reference"]) == ("charge_unreadable", event_id)
    assert problem["account_id"] == answer["account_id"]
    assert "does not show us the charge" in problem["what_is_wrong"]
    # Now it can be read.
    answer = give_back(web, payment_id, (unique("re"), PRICE), event_id=event_id)
    assert (answer["outcome"], answer["needs_attention"]) == ("taken_back", False)
    assert problems_of(dba, payment_id) == []
    assert paid_credits_of(module_database, who) == 0
    # Or a person has dealt with the payment.
    who, payment_id = bought(module_database)
    unreadable["event_id"] = unique("evt")
    give_back(web, payment_id, **unreadable)
    dba.row("resolve_payment_event", event_id=unreadable["event_id"], reason="by hand")
    assert not give_back(web, payment_id, **unreadable)["needs_attention"]
    assert problems_of(dba, payment_id) == []
    # For a payment that is not ours nobody needs to do anything.
    answer = give_back(web, unique("pi"), action="unreadable")
    assert (answer["outcome"], answer["needs_attention"]) == ("ignored", False)


@pytest.mark.parametrize("reason", ["", None])
def test_a_fault_is_not_resolved_without_a_reason(dba: Caller, reason: str | None) -> None:
    event_id = unique("evt")
    deliver(dba, event_id, unique("pi"))
    refusal = dba.refusal("resolve_payment_event", event_id=event_id, reason=reason)
    assert refusal.detail["argument"] == "p_reason"


def test_a_fault_resolved_at_once_by_many_is_resolved_by_one(
    module_database: Database, dba: Caller
) -> None:
    event_id = unique("evt")
    deliver(dba, event_id, unique("pi"))

    def resolve(caller: Caller) -> str | None:
        try:
            caller.row("resolve_payment_event", event_id=event_id, reason="a test")
        except Exception as error:
            diagnosis = getattr(error, "diag", None)
            return diagnosis.constraint_name if diagnosis else str(error)
        return "done"

    counted = Counter(at_once(module_database, [resolve] * 10, 10))
    assert counted == {"done": 1, "payment_event_not_found": 9}


# --- what people look at -------------------------------------------------------------------------


def test_problems_are_listed_newest_first_page_by_page(own: tuple[Database, Caller]) -> None:
    database, dba = own
    for number in range(5):
        deliver(dba, f"evt_{number}", f"pi_{number}")
    who, payment_id = bought(database)
    spend(database, who, USES)
    give_back(dba, payment_id, ("re_1", PRICE))
    rows = dba.rows("list_payment_problems")
    assert [row["reference"] for row in rows] == [
        "re_1",
        *(f"evt_{number}" for number in range(4, -1, -1)),
    ]
    assert {row["provider"] for row in rows} == {"stripe"}
    pages = [
        row
        for offset in range(0, 8, 2)
        for row in dba.rows("list_payment_problems", limit=2, offset=offset)
    ]
    assert pages == rows
    assert dba.rows("list_payment_problems", limit=0) == []


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"limit": -1}, "p_limit"),
        ({"limit": 502}, "p_limit"),
        ({"limit": None}, "p_limit"),
        ({"offset": -1}, "p_offset"),
        ({"offset": None}, "p_offset"),
    ],
    ids=str,
)
def test_a_senseless_page_is_refused(dba: Caller, arguments: dict[str, Any], argument: str) -> None:
    refusal = dba.refusal("list_payment_problems", **arguments)
    assert (refusal.slug, refusal.detail["argument"]) == ("invalid_argument", argument)


def test_staff_see_problems_a_viewer_does_not_resolve_them_and_a_key_sees_none(
    module_database: Database, web: Caller
) -> None:
    event_id, payment_id = unique("evt"), unique("pi")
    deliver(web, event_id, payment_id)
    viewer, ada = staff(module_database, "viewer"), staff(module_database, "admin")
    for somebody in (viewer, ada):
        assert len(problems_of(web, payment_id, session_hash=somebody.session_hash)) == 1
    resolve = {"event_id": event_id, "reason": "a test"}
    refusal = web.refusal("resolve_payment_event", **resolve, session_hash=viewer.session_hash)
    assert refusal.slug == "admin_role_required"
    key = key_id(module_database)
    for function, arguments in (
        ("resolve_payment_event", resolve),
        ("list_payment_problems", {}),
    ):
        assert web.refusal(function, **arguments, api_key_id=key).sqlstate == "42883"
    web.row("resolve_payment_event", **resolve, session_hash=ada.session_hash)
    assert problems_of(web, payment_id, session_hash=viewer.session_hash) == []


def test_payments_are_listed_by_id_and_by_the_time_they_were_credited(
    own: tuple[Database, Caller],
) -> None:
    database, dba = own
    who = new_user(database)
    account_id = account_of(database, who)["id"]
    sold = {}
    for name in ("pi_a", "pi_b", "pi_c", "pi_d"):
        sold[name] = begin(dba, who)
        attach(dba, sold[name], name)
    start: datetime = database.value("SELECT clock_timestamp()")
    for name in ("pi_a", "pi_b", "pi_c"):
        deliver(dba, f"evt_{name}", name)
    give_back(dba, "pi_b", ("re_2", 100), ("re_1", 100))
    give_back(dba, "pi_b", ("re_1", 100), withdrawn=False)
    rows = dba.rows("list_payments", payment_ids=["pi_b", "pi_d", "pi_unknown"])
    assert [row["payment_id"] for row in rows] == ["pi_b", "pi_d"]
    settled_at = rows[0]["settled_at"]
    assert settled_at > start
    pack = {"account_id": account_id, "uses": USES, "price_minor": PRICE, "currency": "USD"}
    assert rows[0] == {
        "payment_id": "pi_b",
        "purchase_id": sold["pi_b"]["purchase_id"],
        **pack,
        "status": "settled",
        "settled_at": settled_at,
        "resolved": False,
        "return_ids": ["re_1", "re_2"],
        "return_statuses": ["restored", "taken"],
        "return_away_minor": [0, 100],
    }
    assert rows[1] == {
        "payment_id": "pi_d",
        "purchase_id": sold["pi_d"]["purchase_id"],
        **pack,
        "status": "pending",
        "settled_at": None,
        "resolved": False,
        "return_ids": [],
        "return_statuses": [],
        "return_away_minor": [],
    }
    since = dba.rows("list_payments", since=settled_at)
    assert [row["payment_id"] for row in since] == ["pi_b", "pi_c"]
    both = dba.rows("list_payments", payment_ids=["pi_d"], since=settled_at)
    assert [row["payment_id"] for row in both] == ["pi_b", "pi_c", "pi_d"]
    assert dba.rows("list_payments") == []
    assert dba.rows("list_payments", since=settled_at + timedelta(days=1)) == []
    assert dba.rows("list_payments", since=start, provider="paypal") == []


# --- the ledger checks purchases and returns -----------------------------------------------------

DAMAGE = {
    "a purchase that says it sold more": (
        "UPDATE billing_data.purchases SET uses = 21 WHERE payment_id = %(payment)s",
        "was not credited with what was sold",
    ),
    "a credit that is larger than what was sold": (
        "UPDATE billing_data.credits SET amount_minor = 21, balance_after = balance_after + 1"
        " WHERE external_transaction_id = %(payment)s",
        "was not credited with what was sold",
    ),
    "a purchase settled by another account's credit": (
        "UPDATE billing_data.purchases SET credit_id = (SELECT c.id FROM billing_data.credits AS c"
        " WHERE c.account_id <> purchases.account_id AND c.amount_minor = 20 LIMIT 1)"
        " WHERE payment_id = %(payment)s",
        "was not credited with what was sold",
    ),
    "a return that says it took less": (
        "UPDATE billing_data.payment_returns SET uses_taken = 3 WHERE return_id = %(return)s",
        "did not take what they say",
    ),
    "a return that took from another account": (
        "UPDATE billing_data.payment_return_credits SET credit_id = (SELECT c.id FROM"
        " billing_data.credits AS c WHERE c.account_id <> payment_return_credits.account_id"
        " AND c.amount_minor = -4 LIMIT 1) WHERE return_id = %(return)s",
        "did not take what they say",
    ),
    "a return of less money than it is due for": (
        "UPDATE billing_data.payment_returns SET away_minor = 50 WHERE return_id = %(return)s",
        "is not what its money stands for",
    ),
    "returns that were due more than was sold": (
        "UPDATE billing_data.payment_returns SET uses_due = 21 WHERE return_id = %(return)s",
        "than was sold",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_ledgers_check_finds(database: Database, kind: str) -> None:
    configure_provider(database)
    for number in (1, 2):
        who, payment_id = bought(database)
        with session(database, "t_dba") as dba:
            give_back(dba, payment_id, (f"re_{number}", 100))
    assert ledger_problems(database) == []
    statement, problem = DAMAGE[kind]
    unique = {
        "purchases": "purchases_credit_once",
        "payment_return_credits": "payment_return_credits_once",
    }
    for table, name in unique.items():
        database.execute(f"ALTER TABLE billing_data.{table} DROP CONSTRAINT {name}")
    tamper(database, statement, **{"payment": payment_id, "return": "re_2"})
    # Created again by name; otherwise its absence is reported as well.
    for table, name in unique.items():
        database.execute(f"ALTER TABLE billing_data.{table} ADD CONSTRAINT {name} CHECK (true)")
    found = ledger_problems(database)
    assert {row[0] for row in found} == {account_of(database, who)["id"]}
    assert any(row[1].endswith(problem) for row in found), found


def test_the_tables_refuse_impossible_purchases_and_returns_even_from_a_superuser(
    database: Database,
) -> None:
    configure_provider(database)
    _, payment_id = bought(database)
    with session(database, "t_dba") as dba:
        give_back(dba, payment_id, ("re_1", 100))
        attach(dba, begin(dba, person()), "pi_pending")
    # Its trigger would refuse these before the constraints do.
    database.execute("ALTER TABLE billing_data.purchases DISABLE TRIGGER purchases_fixed")
    with session(database, "postgres") as root:
        for statement in (
            "UPDATE billing_data.purchases SET settled_at = now() WHERE payment_id = 'pi_pending'",
            "UPDATE billing_data.purchases SET payment_id = NULL WHERE settled_at IS NOT NULL",
            "UPDATE billing_data.purchases SET credit_id = NULL WHERE settled_at IS NOT NULL",
            "UPDATE billing_data.purchases SET uses = 0",
            "UPDATE billing_data.purchases SET price_minor = 0",
            "UPDATE billing_data.payment_returns SET uses_taken = uses_due + 1",
            "UPDATE billing_data.payment_returns SET uses_taken = -1",
            "UPDATE billing_data.payment_returns SET amount_minor = 0",
            "UPDATE billing_data.payment_returns SET kind = 'gift'",
            "UPDATE billing_data.payment_returns SET status = 'odd'",
            "UPDATE billing_data.payment_returns SET status = 'restored'",
            "UPDATE billing_data.payment_returns SET away_minor = 0",
            "UPDATE billing_data.payment_returns SET away_minor = amount_minor + 1",
            "UPDATE billing_data.payment_returns SET state = 'odd'",
            "UPDATE billing_data.payment_returns SET transactions = -1",
            "UPDATE billing_data.payment_events SET outcome = 'odd'",
            "UPDATE billing_data.payment_events SET resolved_at = now()",
        ):
            assert root.refused(statement).sqlstate == "23514", statement
        for statement in (
            f"UPDATE billing_data.purchases SET payment_id = '{payment_id}'",
            "UPDATE billing_data.purchases SET credit_id = (SELECT c.id FROM billing_data.credits"
            " AS c LIMIT 1), settled_at = now()",
        ):
            assert root.refused(statement).sqlstate == "23505", statement
        refusal = root.refused("DELETE FROM billing_data.purchases WHERE settled_at IS NOT NULL")
        assert refusal.sqlstate in ("23503", "23001")


@pytest.mark.parametrize(
    ("kind", "amount", "accepted"),
    [
        ("purchase", -1, False),
        ("grant", -1, False),
        ("refund", -1, True),
        ("adjustment", -1, True),
        ("refund", -6, False),
        ("refund", 0, False),
    ],
)
def test_only_refunds_and_adjustments_take_and_none_below_zero(
    database: Database, kind: str, amount: int, accepted: bool
) -> None:
    account = account_of(database, new_user(database, paid=5))["id"]
    statement = (
        "INSERT INTO billing_data.credits (account_id, ledger_version, id, amount_minor, currency,"
        " balance_before, balance_after, transaction_type, description, payment_provider)"
        " VALUES (%s, 2, gen_random_uuid(), %s, 'USD', 5, 5 + %s, %s, 'd', 'stripe')"
    )
    with session(database, "postgres") as root:
        if accepted:
            root.execute(statement, account, amount, amount, kind)
        else:
            assert root.refused(statement, account, amount, amount, kind).sqlstate == "23514"
