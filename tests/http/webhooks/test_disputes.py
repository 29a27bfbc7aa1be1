"""Money that goes back by a dispute."""

from __future__ import annotations

import random
import secrets
import time
from typing import Any

import pytest

from tests.http.contract import (
    make_account,
)
from tests.http.webhooks.helpers import (
    assert_failed,
    refund_of,
)
from tests.payments import (
    Json,
    assert_receipt,
    buy_and_pay,
    credited,
    ledger,
    paid_credits,
    problems,
    tell,
)
from tests.stripe_double import StripeDouble
from tests.support import (
    Service,
    unique,
)


def test_a_dispute_takes_back_and_gives_back_when_it_is_won(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    dispute = double.dispute(payment_id)
    created = double.dispute_event("charge.dispute.created", dispute)
    withdrawn = double.dispute_event("charge.dispute.funds_withdrawn", dispute)
    for event in (created, withdrawn, created):
        assert_receipt(tell(shop, double, event), "success")
        assert paid_credits(shop.database, user) == 0
    won = double.close_dispute(dispute["id"], "won")
    for type in ("charge.dispute.closed", "charge.dispute.funds_reinstated"):
        assert_receipt(tell(shop, double, double.dispute_event(type, won)), "success")
        assert paid_credits(shop.database, user) == 20
    amounts = [entry[0] for entry in ledger(shop.database, user)]
    assert amounts == [20, -20, 20]
    assert shop.database.execute("SELECT * FROM billing.verify_ledger()") == []


def test_a_lost_dispute_takes_back_once(shop: Service, double: StripeDouble) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    dispute = double.dispute(payment_id)
    tell(shop, double, double.dispute_event("charge.dispute.created", dispute))
    lost = double.close_dispute(dispute["id"], "lost")
    answer = tell(shop, double, double.dispute_event("charge.dispute.closed", lost))
    assert_receipt(answer, "success")
    assert [entry[0] for entry in ledger(shop.database, user)] == [20, -20]


def dispute_moves(
    shop: Service, double: StripeDouble, dispute: Json, type: str, **fields: Any
) -> None:
    """Stripe reports the dispute as it is now."""
    event = double.dispute_event(f"charge.dispute.{type}", dispute, **fields)
    assert_receipt(tell(shop, double, event), "success")


def test_a_dispute_that_gave_back_only_part_takes_the_rest(
    shop: Service, double: StripeDouble
) -> None:
    user = make_account(shop, paid=12)
    payment_id = credited(shop, double, user)
    assert_receipt(refund_of(shop, double, payment_id, 200), "success")
    assert paid_credits(shop.database, user) == 24
    dispute = double.dispute(payment_id)
    dispute_moves(shop, double, dispute, "funds_withdrawn")
    assert paid_credits(shop.database, user) == 12
    dispute_moves(shop, double, double.close_dispute(dispute["id"], "lost"), "closed")
    # The refunded money is given back to us, and the dispute stays lost: all the money is away.
    dispute_moves(shop, double, double.move_dispute(dispute["id"], 200), "funds_reinstated")
    assert paid_credits(shop.database, user) == 12
    # Half of the rest comes back: 350 of 500 are away.
    dispute_moves(shop, double, double.move_dispute(dispute["id"], 150), "funds_reinstated")
    assert paid_credits(shop.database, user) == 18
    assert [entry[0] for entry in ledger(shop.database, user)[1:]] == [20, -8, -12, 6]
    assert shop.database.execute("SELECT * FROM billing.verify_ledger()") == []


@pytest.mark.parametrize("has_moves", [True, False], ids=["balance transactions", "status alone"])
def test_a_dispute_may_be_lost_and_won_and_lost_again(
    shop: Service, double: StripeDouble, has_moves: bool
) -> None:
    user = make_account(shop, paid=3)
    payment_id = credited(shop, double, user)
    dispute = double.dispute(payment_id)
    stages = [dispute]
    for number in range(4):
        if number % 2 and has_moves:
            double.move_dispute(dispute["id"], -500)
        stages.append(double.close_dispute(dispute["id"], "lost" if number % 2 else "won"))
    if not has_moves:
        stages = [{**stage, "balance_transactions": None} for stage in stages]
    now = int(time.time())
    events = [
        double.dispute_event("charge.dispute.updated", stage, created=now + number)
        for number, stage in enumerate(stages)
    ]
    balances = []
    for event in events:
        assert_receipt(tell(shop, double, event), "success")
        balances.append(paid_credits(shop.database, user))
    assert balances == [3, 23, 3, 23, 3]
    assert [entry[0] for entry in ledger(shop.database, user)[1:]] == [20, -20, 20, -20, 20, -20]
    # Earlier events that are delivered again change nothing.
    for event in events[::-1]:
        again = {**event, "id": unique("evt")}
        assert_receipt(tell(shop, double, again), "success")
        assert paid_credits(shop.database, user) == 3
    assert shop.database.execute("SELECT * FROM billing.verify_ledger()") == []


def test_money_that_is_reinstated_while_the_bank_still_looks_comes_back(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    dispute = double.dispute(payment_id)
    dispute_moves(shop, double, dispute, "created")
    under_review = double.close_dispute(dispute["id"], "under_review")
    dispute_moves(shop, double, under_review, "updated")
    assert paid_credits(shop.database, user) == 0
    dispute_moves(shop, double, double.move_dispute(dispute["id"], 500), "funds_reinstated")
    assert paid_credits(shop.database, user) == 20
    dispute_moves(shop, double, double.close_dispute(dispute["id"], "lost"), "closed")
    assert paid_credits(shop.database, user) == 20


@pytest.mark.parametrize("number", range(3))
def test_news_of_a_dispute_in_any_order_end_as_the_newest(
    shop: Service, double: StripeDouble, number: int
) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed} ({number})")
    user = unique()
    payment_id = credited(shop, double, user)
    stages = [double.dispute(payment_id, status="warning_needs_response")]
    dispute_id = stages[0]["id"]
    for amount, status in ((-500, "needs_response"), (200, "lost"), (300, "won"), (-125, "lost")):
        double.move_dispute(dispute_id, amount)
        stages.append(double.close_dispute(dispute_id, status))
    types = ("created", "updated", "closed", "funds_withdrawn", "funds_reinstated")
    dice = random.Random(seed)
    events = [
        # All within one second, with types that say nothing about the state.
        double.dispute_event(f"charge.dispute.{dice.choice(types)}", stage, created=1_800_000_000)
        for stage in stages * 2
    ]
    dice.shuffle(events)
    for event in events:
        assert tell(shop, double, event).status_code == 200
    assert paid_credits(shop.database, user) == 15
    assert shop.database.execute("SELECT * FROM billing.verify_ledger()") == []


@pytest.mark.parametrize(
    ("type", "status", "left"),
    [
        ("funds_reinstated", "lost", 0),
        ("funds_reinstated", "under_review", 0),
        ("closed", "lost", 0),
        ("funds_withdrawn", "won", 20),
        ("funds_withdrawn", "prevented", 20),
        ("created", "warning_closed", 20),
    ],
)
def test_the_status_of_a_dispute_counts_and_not_the_type_of_its_event(
    shop: Service, double: StripeDouble, type: str, status: str, left: int
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    dispute = {**double.dispute(payment_id), "status": status}
    del dispute["balance_transactions"]
    event = double.dispute_event(f"charge.dispute.{type}", dispute)
    assert tell(shop, double, event).status_code == 200
    assert paid_credits(shop.database, user) == left


def test_an_event_of_a_payment_that_has_not_succeeded_credits_nothing(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    event = double.succeeded_event(buy_and_pay(shop, double, user))
    event["data"]["object"]["status"] = "processing"
    assert_receipt(tell(shop, double, event), "ignored")
    assert ledger(shop.database, user) == []


@pytest.mark.parametrize("rates", [(0.92, 0.95), (None, None)], ids=["rates", "no rates"])
def test_a_dispute_settled_in_another_currency_counts_by_its_share(
    shop: Service, double: StripeDouble, rates: tuple[float | None, float | None]
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    dispute = double.dispute(payment_id)
    withdrawn, reinstated = ({"currency": "eur", "exchange_rate": rate} for rate in rates)
    back = 190 if rates[0] else 184  # both are 200 of the 500 cents
    dispute["balance_transactions"] = [{"amount": -460, **withdrawn}]
    dispute_moves(shop, double, dispute, "funds_withdrawn")
    assert paid_credits(shop.database, user) == 0
    moves = [*dispute["balance_transactions"], {"amount": back, **reinstated}]
    dispute_moves(shop, double, {**dispute, "balance_transactions": moves}, "funds_reinstated")
    assert paid_credits(shop.database, user) == 8


@pytest.mark.parametrize(
    "status", ["warning_needs_response", "warning_under_review", "warning_closed"]
)
def test_an_inquiry_moves_no_money(shop: Service, double: StripeDouble, status: str) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    inquiry = double.dispute(payment_id, status=status)
    for type in ("created", "updated", "closed"):
        event = double.dispute_event(f"charge.dispute.{type}", inquiry)
        assert_receipt(tell(shop, double, event), "ignored")
    assert paid_credits(shop.database, user) == 20


def test_a_refund_of_another_shop_is_ignored(shop: Service, double: StripeDouble) -> None:
    intent = double.create_intent(amount=500, currency="usd")
    double.pay(intent["id"])
    refund = double.refund(intent["id"])
    dispute_event = double.dispute_event(
        "charge.dispute.created", {**double.dispute(intent["id"]), "id": "du_other"}
    )
    for event in (
        double.refunded_event(intent["id"]),
        double.refund_event("refund.created", refund),
        dispute_event,
    ):
        assert_receipt(tell(shop, double, event), "ignored")
    assert problems(shop.database, intent["id"]) == []


def test_a_live_event_finds_a_test_set_up_and_moves_nothing(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    double.refund(payment_id)
    event = double.refunded_event(payment_id, livemode=True)
    assert_failed(tell(shop, double, event))
    assert paid_credits(shop.database, user) == 20
