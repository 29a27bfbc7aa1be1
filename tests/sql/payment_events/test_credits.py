"""billing.process_payment_event: a payment adds what was sold, once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.sql.helpers import (
    Caller,
    account_of,
    at_once,
    new_user,
    person,
    session,
)
from tests.sql.payment_events.helpers import paid_credits_of
from tests.sql.payments import (
    PRICE,
    USES,
    attach,
    begin,
    credits_of,
    deliver,
    event_of,
    give_back,
    legacy,
    metadata,
    problems_of,
    purchases_of,
)
from tests.support import Database, unique

# --- a payment that succeeded --------------------------------------------------------------------


@pytest.mark.parametrize("is_attached", [True, False], ids=["attached", "never attached"])
def test_a_payment_adds_what_was_sold(
    module_database: Database, web: Caller, dba: Caller, is_attached: bool
) -> None:
    who, event_id, payment_id = new_user(module_database), unique("evt"), unique("pi")
    purchase = begin(dba, who)
    if is_attached:
        attach(dba, purchase, payment_id)
    answer = deliver(web, event_id, payment_id, None if is_attached else purchase, livemode=False)
    assert answer == {
        "outcome": "credited",
        "needs_attention": False,
        "deliveries": 1,
        "account_id": purchase["account_id"],
        "purchase_id": purchase["purchase_id"],
        "credits_added": USES,
    }
    (credit,) = credits_of(module_database, purchase["account_id"])
    expected = {
        "ledger_version": 1,
        "amount_minor": USES,
        "currency": "USD",
        "balance_before": 0,
        "balance_after": USES,
        "transaction_type": "purchase",
        "description": "Purchased $5.00 (20 uses) via Stripe",
        "external_transaction_id": payment_id,
        "idempotency_key": f"stripe-{payment_id}",
        "payment_provider": "stripe",
        "database_role": None,
    }
    assert {name: credit[name] for name in expected} == expected
    (row,) = purchases_of(module_database, purchase["account_id"])
    assert (row["payment_id"], row["credit_id"]) == (payment_id, credit["id"])
    assert row["settled_at"] == credit["created_at"]
    event = event_of(module_database, event_id)
    expected = {
        "provider": "stripe",
        "event_type": "payment_intent.succeeded",
        "payment_id": payment_id,
        "outcome": "credited",
        "livemode": False,
        "deliveries": 1,
        "account_id": purchase["account_id"],
        "resolved_at": None,
    }
    assert {name: event[name] for name in expected} == expected
    assert problems_of(dba, payment_id) == []
    assert account_of(module_database, who)["free_uses_remaining"] == 3


def test_an_event_that_comes_again_changes_nothing(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, event_id, payment_id = new_user(module_database), unique("evt"), unique("pi")
    purchase = begin(dba, who)
    deliver(web, event_id, payment_id, purchase)
    before = account_of(module_database, who)
    for number in (2, 3):
        again = deliver(web, event_id, payment_id, purchase, payload='{"other": 1}')
        assert (again["outcome"], again["needs_attention"]) == ("credited", False)
        assert (again["deliveries"], again["credits_added"]) == (number, 0)
        assert again["account_id"] == purchase["account_id"]
    assert account_of(module_database, who) == before
    event = event_of(module_database, event_id)
    assert event["last_received_at"] > event["received_at"]
    assert event["payload"] == {}


def test_another_event_of_a_paid_payment_adds_nothing(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    purchase = begin(dba, who)
    deliver(web, unique("evt"), payment_id, purchase)
    other = deliver(web, unique("evt"), payment_id, purchase)
    assert (other["outcome"], other["credits_added"]) == ("already_credited", 0)
    assert (other["account_id"], other["purchase_id"]) == tuple(metadata(purchase).values())
    assert paid_credits_of(module_database, who) == USES


def test_one_event_fifty_times_at_once_credits_once(module_database: Database, dba: Caller) -> None:
    who, event_id, payment_id = new_user(module_database), unique("evt"), unique("pi")
    purchase = begin(dba, who)
    call = partial(deliver, event_id=event_id, payment_id=payment_id, purchase=purchase)
    answers = at_once(module_database, [call] * 50)
    assert sorted(answer["deliveries"] for answer in answers) == list(range(1, 51))
    assert {answer["outcome"] for answer in answers} == {"credited"}
    assert Counter(answer["credits_added"] for answer in answers) == {USES: 1, 0: 49}
    assert len(credits_of(module_database, purchase["account_id"])) == 1
    assert event_of(module_database, event_id)["deliveries"] == 50


@pytest.mark.parametrize("kind", ["attached", "never attached", "of the old service"])
def test_twenty_events_of_one_payment_at_once_credit_once(
    module_database: Database, dba: Caller, kind: str
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    known = legacy(module_database, who)
    if kind != "of the old service":
        purchase = begin(dba, who)
        known = metadata(purchase)
        if kind == "attached":
            attach(dba, purchase, payment_id)
            known = {}
    calls = [
        partial(deliver, event_id=unique("evt"), payment_id=payment_id, **known) for _ in range(20)
    ]
    answers = at_once(module_database, calls, 20)
    assert Counter(answer["outcome"] for answer in answers) == {
        "credited": 1,
        "already_credited": 19,
    }
    account = account_of(module_database, who)
    assert account["paid_credits"] == USES
    assert len(credits_of(module_database, account["id"])) == 1
    assert len(purchases_of(module_database, account["id"])) == 1


def test_an_event_and_reconciliation_at_once_credit_once(
    module_database: Database, dba: Caller
) -> None:
    for _ in range(5):
        who, payment_id = new_user(module_database), unique("pi")
        attach(dba, begin(dba, who), payment_id)
        calls: list[Callable[[Caller], dict[str, Any]]] = [
            lambda caller, paid=payment_id: deliver(caller, unique("evt"), paid),  # type: ignore[misc]
            lambda caller, paid=payment_id: caller.row(  # type: ignore[misc]
                "settle_purchase", payment_id=paid, amount_minor=PRICE
            ),
        ]
        answers = at_once(module_database, calls * 5, 10)
        assert Counter(answer["outcome"] for answer in answers)["credited"] == 1
        assert paid_credits_of(module_database, who) == USES


def test_many_payments_of_one_account_at_once_are_all_credited(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database)
    calls = [
        partial(deliver, event_id=unique("evt"), payment_id=unique("pi"), purchase=begin(dba, who))
        for _ in range(30)
    ]
    answers = at_once(module_database, calls, 30)
    assert {answer["outcome"] for answer in answers} == {"credited"}
    assert paid_credits_of(module_database, who) == 30 * USES


@pytest.mark.parametrize("status", ["suspended", "closed"])
def test_suspended_and_closed_accounts_get_what_they_paid_for_and_lose_what_went_back(
    module_database: Database, dba: Caller, status: str
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    purchase = begin(dba, who)
    dba.row("set_account_status", **who, status=status, reason="a test")
    assert deliver(dba, unique("evt"), payment_id, purchase)["outcome"] == "credited"
    assert paid_credits_of(module_database, who) == USES
    assert give_back(dba, payment_id, (unique("re"), PRICE))["outcome"] == "taken_back"
    assert paid_credits_of(module_database, who) == 0
    assert account_of(module_database, who)["status"] == status


def test_what_was_sold_is_credited_whatever_the_settings_say_by_then(
    own: tuple[Database, Caller],
) -> None:
    database, dba = own
    who = new_user(database)
    attach(dba, begin(dba, who), "pi_1")
    unattached = begin(dba, who)
    dba.row(
        "set_pricing",
        reason="a test",
        pack_uses=1,
        pack_price_minor=999,
        pack_currency="EUR",
    )
    assert deliver(dba, "evt_1", "pi_1")["credits_added"] == USES
    assert deliver(dba, "evt_2", "pi_2", unattached)["credits_added"] == USES
    assert paid_credits_of(database, who) == 2 * USES
    later = begin(dba, who)
    answer = deliver(dba, "evt_3", "pi_3", later, amount_minor=999, currency="eur")
    assert (answer["outcome"], answer["credits_added"]) == ("credited", 1)
    newest = dba.rows("list_transactions", **who, limit=1)[0]
    assert newest["description"] == "Purchased 9.99 EUR (1 uses) via Stripe"
    assert newest["currency"] == "USD"


def test_an_account_in_another_currency_gets_its_credits_in_its_own(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = person(), unique("pi")
    dba.row("create_account", **who, currency="EUR")
    purchase = begin(dba, who)
    assert purchase["currency"] == "USD"
    assert deliver(dba, unique("evt"), payment_id, purchase)["outcome"] == "credited"
    give_back(dba, payment_id, (unique("re"), PRICE // 2))
    credits = credits_of(module_database, purchase["account_id"])
    assert [(row["currency"], row["amount_minor"]) for row in credits] == [
        ("EUR", USES),
        ("EUR", -USES // 2),
    ]


@pytest.mark.parametrize(
    ("currency", "amount", "text"),
    [
        ("USD", 50, "$0.50"),
        ("USD", 123456, "$1234.56"),
        ("EUR", 550, "5.50 EUR"),
        ("JPY", 550, "550 JPY"),
        ("KRW", 700, "700 KRW"),
        ("KWD", 12340, "12.340 KWD"),
        ("UGX", 500_000, "5000 UGX"),
        ("ISK", 60_000, "600 ISK"),
        ("HUF", 17_500, "175.00 HUF"),
    ],
)
def test_a_description_shows_money_as_people_write_it(
    own: tuple[Database, Caller], currency: str, amount: int, text: str
) -> None:
    database, dba = own
    who = new_user(database)
    dba.row("set_pricing", reason="a test", pack_price_minor=amount, pack_currency=currency)
    deliver(dba, "evt_1", "pi_1", begin(dba, who), amount_minor=amount, currency=currency.lower())
    (row,) = dba.rows("list_transactions", **who)
    assert row["description"] == f"Purchased {text} (20 uses) via Stripe"


def test_the_client_secret_is_not_stored(module_database: Database, web: Caller) -> None:
    event_id, secret = unique("evt"), unique("pi_secret")
    payload = {
        "id": event_id,
        "data": {
            "object": {
                "id": "pi_1",
                "client_secret": secret,
                "last_payment_error": {"payment_intent": {"client_secret": secret}},
            }
        },
    }
    for action in ("settle", "ignore"):
        deliver(web, event_id, "pi_1", payload=json.dumps(payload), action=action)
    event = event_of(module_database, event_id)
    assert event["payload"]["data"]["object"] == {
        "id": "pi_1",
        "client_secret": None,
        "last_payment_error": {"payment_intent": {"client_secret": None}},
    }
    dump = module_database.value(
        "SELECT string_agg(e::text, ' ') FROM billing_data.payment_events AS e"
    )
    assert secret not in dump


@pytest.mark.parametrize(
    ("action", "outcome"), [("acknowledge", "acknowledged"), ("ignore", "ignored")]
)
def test_events_without_effect_are_stored_and_change_nothing(
    module_database: Database, web: Caller, action: str, outcome: str
) -> None:
    event_id = unique("evt")
    for number in (1, 2):
        answer = web.row(
            "process_payment_event",
            event_id=event_id,
            event_type="payment_intent.payment_failed",
            payload="{}",
            action=action,
            livemode=True,
        )
        assert answer == {
            "outcome": outcome,
            "needs_attention": False,
            "deliveries": number,
            "account_id": None,
            "purchase_id": None,
            "credits_added": 0,
        }
    assert event_of(module_database, event_id)["outcome"] == outcome


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"event_id": ""}, "p_event_id"),
        ({"event_id": None}, "p_event_id"),
        ({"event_id": "x" * 256}, "p_event_id"),
        ({"event_type": ""}, "p_event_type"),
        ({"event_type": None}, "p_event_type"),
        ({"event_type": "x" * 256}, "p_event_type"),
        ({"provider": "bank"}, "p_provider"),
        ({"provider": None}, "p_provider"),
        ({"payload": None}, "p_payload"),
        ({"action": "pay"}, "p_action"),
        ({"action": None}, "p_action"),
        ({"payment_id": None}, "p_payment_id"),
        ({"payment_id": ""}, "p_payment_id"),
        ({"payment_id": "x" * 256}, "p_payment_id"),
        ({"action": "return", "payment_id": None}, "p_payment_id"),
        ({"action": "return", "return_ids": ["re_1"]}, "arrays"),
        ({"action": "return", "return_ids": None}, "arrays"),
        ({"action": "return", "returns_withdrawn": [True]}, "arrays"),
    ],
    ids=lambda value: (
        ",".join(f"{k}={str(v)[:9]}" for k, v in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_a_faulty_event_is_refused_and_not_stored(
    module_database: Database, web: Caller, change: dict[str, Any], argument: str
) -> None:
    count = "SELECT count(*) FROM billing_data.payment_events"
    before = module_database.value(count)
    event = {
        "event_id": unique("evt"),
        "event_type": "payment_intent.succeeded",
        "payload": "{}",
        "action": "settle",
        "payment_id": unique("pi"),
        "amount_minor": PRICE,
        "currency": "usd",
    }
    refusal = web.refusal("process_payment_event", **{**event, **change})
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
    assert refusal.detail["argument"] == argument
    assert module_database.value(count) == before


@pytest.mark.parametrize(
    "call",
    ["process_payment_event", "resolve_payment_event", "settle_purchase", "return_payment"],
)
def test_what_moves_money_commits_durably(module_database: Database, call: str) -> None:
    with session(module_database, "t_dba", autocommit=False) as dba:
        event_id = unique("evt")
        deliver(dba, event_id, unique("pi"))
        dba.connection.commit()
        dba.execute("SET synchronous_commit = off")
        if call == "process_payment_event":
            deliver(dba, unique("evt"), "pi_1")
        elif call == "resolve_payment_event":
            dba.row(call, event_id=event_id, reason="a test")
        elif call == "settle_purchase":
            dba.row(call, payment_id="pi_1", amount_minor=1)
        else:
            dba.row(call, payment_id="pi_1", return_id="re", kind="refund", amount_minor=1)
        assert dba.execute("SHOW synchronous_commit") == [{"synchronous_commit": "on"}]
        dba.connection.rollback()
