"""From the purchase to the credits: what Stripe tells is credited once."""

from __future__ import annotations

import concurrent.futures
import random
import secrets
from collections import Counter
from typing import Any

import pytest

from tests.http.contract import (
    CHARGES,
    make_account,
    set_status,
)
from tests.http.webhooks.helpers import (
    event_count,
)
from tests.payments import (
    Json,
    assert_credited_once,
    assert_receipt,
    buy,
    buy_and_pay,
    event_row,
    ledger,
    paid_credits,
    paying_service,
    problems,
    tell,
)
from tests.stripe_double import WEBHOOK_PATH, StripeDouble, running_stripe
from tests.support import (
    Service,
    TestCluster,
    charge_body,
    unique,
    wait_for,
)

# From the purchase to the credits


def test_a_payment_is_credited_when_stripe_tells_of_it(shop: Service, double: StripeDouble) -> None:
    user = make_account(shop, free=0, paid=3)
    payment_id = buy_and_pay(shop, double, user)
    assert paid_credits(shop.database, user) == 3
    event = double.succeeded_event(payment_id)
    double.requests.clear()
    answer = tell(shop, double, event)
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "success", "event_id": event["id"]},
    )
    assert answer.headers["content-type"] == "application/json"
    assert double.requests == []  # the signed event is enough proof
    assert paid_credits(shop.database, user) == 23
    assert_credited_once(shop.database, user, payment_id)
    assert ledger(shop.database, user)[-1] == (
        *(20, "purchase", payment_id),
        "Purchased $5.00 (20 uses) via Stripe",
    )
    stored = event_row(shop.database, event["id"])
    assert (stored["event_type"], stored["outcome"]) == ("payment_intent.succeeded", "credited")
    assert (stored["payment_id"], stored["deliveries"]) == (payment_id, 1)
    with shop.client() as client:
        assert client.post(CHARGES, json=charge_body(user)).status_code == 201


def test_stripe_itself_delivers_and_the_credits_arrive(cluster: TestCluster) -> None:
    with (
        running_stripe() as own,
        cluster.database() as database,
        paying_service(database, own) as service,
    ):
        own.send_webhooks_to(f"{service.base_url}{WEBHOOK_PATH}")
        user = unique()
        payment_id = str(buy(service, user)["payment_id"])
        own.pay(payment_id, "4000000000000002")
        own.pay(payment_id)
        wait_for(lambda: paid_credits(database, user) == 20, "the credits")
        assert_credited_once(database, user, payment_id)
        types = "SELECT e.event_type, e.outcome FROM billing_data.payment_events AS e ORDER BY 1"
        wait_for(lambda: event_count(database) == 2, "the other event")
        assert database.execute(types) == [
            ("payment_intent.payment_failed", "acknowledged"),
            ("payment_intent.succeeded", "credited"),
        ]


def test_an_event_delivered_fifty_times_at_once_credits_once(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    event = double.succeeded_event(payment_id)
    with concurrent.futures.ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda _: tell(shop, double, event), range(50)))
    for answer in answers:
        assert_receipt(answer, "success")
    assert_credited_once(shop.database, user, payment_id)
    assert event_row(shop.database, event["id"])["deliveries"] == 50


def test_fifty_events_of_one_payment_at_once_credit_once(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    events = [double.succeeded_event(payment_id) for _ in range(50)]
    with concurrent.futures.ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda event: tell(shop, double, event), events))
    for answer in answers:
        assert_receipt(answer, "success")
    assert_credited_once(shop.database, user, payment_id)
    outcomes = Counter(event_row(shop.database, event["id"])["outcome"] for event in events)
    assert outcomes == {"credited": 1, "already_credited": 49}


def test_a_redelivered_event_is_a_success_again_and_changes_nothing(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    event = double.succeeded_event(payment_id)
    answers = [tell(shop, double, event) for _ in range(3)]
    for answer in answers:
        assert answer.json() == {"status": "success", "event_id": event["id"]}
    set_status(shop, user, "closed")
    assert_receipt(tell(shop, double, event), "success")
    assert_credited_once(shop.database, user, payment_id)


def test_the_proof_of_the_api_is_not_needed_when_stripe_is_down(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    event = double.succeeded_event(payment_id)
    with double.outage():
        assert_receipt(tell(shop, double, event), "success")
    assert_credited_once(shop.database, user, payment_id)


def test_many_users_pay_at_once_and_each_gets_theirs(shop: Service, double: StripeDouble) -> None:
    users = [unique() for _ in range(12)]
    payments = {user: buy_and_pay(shop, double, user) for user in users}
    events = [double.succeeded_event(payment_id) for payment_id in payments.values()] * 3
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    random.Random(seed).shuffle(events)
    with concurrent.futures.ThreadPoolExecutor(24) as threads:
        for answer in threads.map(lambda event: tell(shop, double, event), events):
            assert_receipt(answer, "success")
    for user, payment_id in payments.items():
        assert paid_credits(shop.database, user) == 20
        assert_credited_once(shop.database, user, payment_id)


def test_a_failed_payment_is_acknowledged(shop: Service, double: StripeDouble) -> None:
    user = unique()
    payment_id = str(buy(shop, user)["payment_id"])
    double.pay(payment_id, "4000000000000002")
    event = double.failed_event(payment_id)
    answer = tell(shop, double, event)
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "acknowledged", "event_id": event["id"]},
    )
    assert_receipt(tell(shop, double, event), "acknowledged")
    assert event_row(shop.database, event["id"])["payment_id"] == payment_id
    assert ledger(shop.database, user) == []


def test_a_report_of_fraud_is_listed_until_the_money_has_gone_back(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    assert_receipt(tell(shop, double, double.succeeded_event(payment_id)), "success")
    warning = {
        "id": unique("issfr"),
        "object": "radar.early_fraud_warning",
        "actionable": True,
        "charge": "ch_1",
        "fraud_type": "made_with_stolen_card",
        "payment_intent": payment_id,
    }
    for kind, actionable, listed in (
        ("created", True, [("fraud_warning",)]),
        ("updated", True, [("fraud_warning",)]),
        ("updated", False, []),
        ("created", True, []),
    ):
        event = double.event(
            f"radar.early_fraud_warning.{kind}", {**warning, "actionable": actionable}
        )
        assert_receipt(tell(shop, double, event), "acknowledged")
        assert (
            shop.database.execute(
                "SELECT problem FROM billing.list_payment_problems() WHERE reference = %s",
                warning["id"],
                user="t_dba",
            )
            == listed
        )
    assert_credited_once(shop.database, user, payment_id)


@pytest.mark.parametrize(
    ("type", "subject"),
    [
        ("customer.created", {"id": "cus_1", "object": "customer", "email": "ada@example.com"}),
        ("account.updated", {}),
        ("payment_intent.created", {"id": "pi_1", "status": "requires_payment_method"}),
        ("payment_intent.canceled", {"id": "pi_1", "status": "canceled"}),
        ("payment_intent.processing", {"id": "pi_1", "status": "processing"}),
        ("invoice.paid", {"id": "in_1", "status": None}),
        ("charge.succeeded", {"id": "ch_1", "status": "succeeded", "payment_intent": "pi_1"}),
        ("something.quite_new", {"nested": [[{"deep": None}]]}),
        ("charge.dispute.created", {"id": "du_1", "amount": 500, "status": "needs_response"}),
        ("charge.refunded", {"id": "ch_1", "payment_intent": None, "amount_refunded": 5}),
        ("refund.updated", {"id": "re_1", "amount": 5, "payment_intent": None}),
        ("radar.early_fraud_warning.created", {"id": "issfr_1", "payment_intent": "pi_1"}),
        ("radar.early_fraud_warning.created", {"id": "issfr_1", "charge": "ch_1"}),
        ("radar.early_fraud_warning.created", {"id": None, "payment_intent": "pi_1"}),
    ],
)
def test_what_is_of_no_concern_here_is_ignored(
    shop: Service, double: StripeDouble, type: str, subject: Json
) -> None:
    event = double.event(type, subject)
    for _ in range(2):
        answer = tell(shop, double, event)
        assert (answer.status_code, answer.json()) == (
            200,
            {"status": "ignored", "event_id": event["id"]},
        )
    assert event_row(shop.database, event["id"])["outcome"] == "ignored"
    assert problems(shop.database, "pi_1") == []


@pytest.mark.parametrize("subject", [None, "text", 5, ["list"]])
def test_an_event_about_something_that_is_no_object_is_ignored(
    shop: Service, double: StripeDouble, subject: Any
) -> None:
    event = {**double.event("payment_intent.succeeded", {}), "data": {"object": subject}}
    assert_receipt(tell(shop, double, event), "ignored")
