"""Money that goes back by a refund."""

from __future__ import annotations

import random
import secrets

import pytest

from tests.http.contract import (
    make_account,
    make_charges,
)
from tests.http.webhooks.helpers import (
    REFUNDS,
    assert_failed,
    refund_of,
)
from tests.payments import (
    assert_receipt,
    buy_and_pay,
    credited,
    event_row,
    forget_faults,
    ledger,
    log_lines,
    paid_credits,
    problems,
    tell,
)
from tests.stripe_double import Drop, Status, StripeDouble
from tests.support import (
    Service,
    unique,
)


def test_a_refund_takes_the_pack_back(shop: Service, double: StripeDouble) -> None:
    user = make_account(shop, paid=5)
    payment_id = credited(shop, double, user)
    refund = double.refund(payment_id)
    double.requests.clear()
    event = double.refunded_event(payment_id)
    assert_receipt(tell(shop, double, event), "success")
    # Stripe's events no longer contain a charge's refunds, so Stripe was asked.
    (asked,) = double.requests
    assert (asked.method, asked.path) == ("GET", "/v1/refunds")
    assert asked.query["charge"] == event["data"]["object"]["id"]
    assert paid_credits(shop.database, user) == 5
    assert ledger(shop.database, user)[-1] == (
        *(-20, "refund", refund["id"]),
        "Refund of $5.00 via Stripe (20 uses taken back)",
    )
    for again in (event, double.refunded_event(payment_id)):
        assert_receipt(tell(shop, double, again), "success")
    assert paid_credits(shop.database, user) == 5


def test_refunds_that_the_event_carries_are_not_asked_for(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    double.refund(payment_id, 250)
    double.requests.clear()
    event = double.refunded_event(payment_id, embed_refunds=True)
    assert_receipt(tell(shop, double, event), "success")
    assert double.requests == []
    assert paid_credits(shop.database, user) == 10


def test_a_cut_list_of_refunds_is_not_taken_for_the_whole(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    for _ in range(12):
        double.refund(payment_id, 25)
    event = double.refunded_event(payment_id, embed_refunds=True)
    assert event["data"]["object"]["refunds"]["has_more"] is True
    assert_receipt(tell(shop, double, event), "success")
    assert paid_credits(shop.database, user) == 8


def test_partial_refunds_take_back_in_proportion_and_all_for_all(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    left = []
    for amount in (24, 1, 100, 125, 249, 1):
        assert_receipt(refund_of(shop, double, payment_id, amount), "success")
        left.append(paid_credits(shop.database, user))
    # floor(20 * refunded / 500) in all: of 24, 25, 125, 250, 499, 500 cents
    assert left == [20, 19, 15, 10, 1, 0]
    assert shop.database.execute("SELECT * FROM billing.verify_ledger()") == []


@pytest.mark.parametrize("type", ["refund.created", "refund.updated", "charge.refund.updated"])
def test_an_event_of_the_refund_itself_does_the_same(
    shop: Service, double: StripeDouble, type: str
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    refund = double.refund(payment_id, 250)
    for _ in range(2):
        assert_receipt(tell(shop, double, double.refund_event(type, refund)), "success")
        assert_receipt(tell(shop, double, double.refunded_event(payment_id)), "success")
    assert paid_credits(shop.database, user) == 10


def test_a_refund_that_failed_gives_back_what_was_taken(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    refund = double.refund(payment_id, 300)
    assert_receipt(tell(shop, double, double.refund_event("refund.created", refund)), "success")
    assert paid_credits(shop.database, user) == 8
    failed = double.refund_event("refund.failed", double.fail_refund(refund["id"]))
    for _ in range(2):
        assert_receipt(tell(shop, double, failed), "success")
    assert paid_credits(shop.database, user) == 20
    # A late report no longer changes anything.
    late = double.refund_event("refund.created", refund)
    assert_receipt(tell(shop, double, late), "success")
    assert_receipt(tell(shop, double, double.refunded_event(payment_id)), "success")
    assert paid_credits(shop.database, user) == 20


def test_a_refund_told_before_its_payment_is_taken_back_all_the_same(
    shop: Service, double: StripeDouble
) -> None:
    user = make_account(shop, paid=1)
    payment_id = buy_and_pay(shop, double, user)
    succeeded = double.succeeded_event(payment_id)
    assert_receipt(refund_of(shop, double, payment_id, 250), "success")
    assert paid_credits(shop.database, user) == 1
    assert_receipt(tell(shop, double, succeeded), "success")
    assert paid_credits(shop.database, user) == 11
    assert shop.database.execute("SELECT * FROM billing.verify_ledger()") == []


@pytest.mark.parametrize("number", range(3))
def test_events_in_any_order_end_the_same(shop: Service, double: StripeDouble, number: int) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed} ({number})")
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    refunds = [double.refund(payment_id, amount) for amount in (100, 150)]
    failed = double.fail_refund(refunds[0]["id"])
    dispute = double.dispute(payment_id, 50)
    events = [
        double.succeeded_event(payment_id),
        *(double.refund_event("refund.created", refund) for refund in refunds),
        double.refund_event("refund.failed", failed),
        double.refunded_event(payment_id),
        double.dispute_event("charge.dispute.created", dispute),
        double.dispute_event("charge.dispute.funds_withdrawn", dispute),
        double.failed_event(payment_id),
    ]
    deliveries = events * 2
    random.Random(seed).shuffle(deliveries)
    for event in deliveries:
        assert tell(shop, double, event).status_code == 200
    # 150 of 500 refunded for good, 50 disputed: 12 of 20 uses remain.
    assert paid_credits(shop.database, user) == 12
    assert shop.database.execute("SELECT * FROM billing.verify_ledger()") == []


NO_SUCH_CHARGE = {
    "error": {
        "type": "invalid_request_error",
        "code": "resource_missing",
        "param": "charge",
        "message": "No such charge",
    }
}


@pytest.mark.parametrize(
    "fault",
    [Status(403), Status(404, NO_SUCH_CHARGE), Status(400, NO_SUCH_CHARGE)],
    ids=["not permitted", "no such charge", "no such parameter"],
)
def test_a_charge_that_stripe_does_not_show_us_is_listed_and_can_be_resolved(
    shop: Service, double: StripeDouble, fault: Status
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    double.refund(payment_id)
    event = double.refunded_event(payment_id)
    double.on("GET", REFUNDS, fault, times=2)
    for _ in range(2):
        answer = tell(shop, double, event)
        assert_failed(answer)
        (line,) = log_lines(shop, request_id=answer.headers["x-request-id"], level="ERROR")
        assert "charge_unreadable" in line["message"]
    row = event_row(shop.database, event["id"])
    assert (row["outcome"], row["deliveries"]) == ("charge_unreadable", 2)
    assert problems(shop.database, payment_id) == ["charge_unreadable"]
    shop.database.execute(
        "SELECT billing.resolve_payment_event(p_event_id => %s, p_reason => 'taken by hand')",
        event["id"],
        user="t_dba",
    )
    assert problems(shop.database, payment_id) == []
    double.on("GET", REFUNDS, fault)
    assert tell(shop, double, event).status_code == 200
    forget_faults(double)
    assert paid_credits(shop.database, user) == 20


def test_a_charge_that_can_be_read_again_is_taken_back_by_the_next_attempt(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    double.refund(payment_id)
    event = double.refunded_event(payment_id)
    double.on("GET", REFUNDS, Status(403))
    assert_failed(tell(shop, double, event))
    assert_receipt(tell(shop, double, event), "success")
    assert paid_credits(shop.database, user) == 0
    assert problems(shop.database, payment_id) == []


def test_a_charge_of_another_shop_that_we_may_not_read_is_ignored(
    shop: Service, double: StripeDouble
) -> None:
    intent = double.create_intent(amount=500, currency="usd")
    double.pay(intent["id"])
    double.refund(intent["id"])
    event = double.refunded_event(intent["id"])
    double.on("GET", REFUNDS, Status(403))
    assert_receipt(tell(shop, double, event), "ignored")
    assert problems(shop.database, intent["id"]) == []


def test_while_stripe_cannot_say_what_was_refunded_the_event_is_asked_for_again(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    double.refund(payment_id)
    event = double.refunded_event(payment_id)
    for fault in (Status(500), Status(429), Status(401), Drop()):
        double.on("GET", REFUNDS, fault, times=9)
        answer = tell(shop, double, event)
        assert_failed(answer)
        (line,) = log_lines(shop, request_id=answer.headers["x-request-id"], level="ERROR")
        assert (line["event_id"], "again" in line["message"]) == (event["id"], True)
        forget_faults(double)
    with double.outage():
        assert_failed(tell(shop, double, event))
    assert paid_credits(shop.database, user) == 20
    assert_receipt(tell(shop, double, event), "success")
    assert paid_credits(shop.database, user) == 0


def test_credits_that_were_spent_cannot_be_taken_and_staff_are_told(
    shop: Service, double: StripeDouble
) -> None:
    user = make_account(shop, free=0)
    payment_id = credited(shop, double, user)
    make_charges(shop.database, user, 13)
    assert_receipt(refund_of(shop, double, payment_id, 500), "success")
    assert paid_credits(shop.database, user) == 0
    assert problems(shop.database, payment_id) == ["shortfall"]
    told = shop.database.value(
        "SELECT p.what_is_wrong FROM billing.list_payment_problems(p_limit => 500) AS p"
        " WHERE p.payment_id = %s",
        payment_id,
        user="t_dba",
    )
    assert told == "refund of $5.00: 20 uses were due, 7 could be taken, 13 are short"
    assert shop.database.execute("SELECT * FROM billing.verify_ledger()") == []
