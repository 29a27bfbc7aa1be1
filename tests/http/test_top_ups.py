"""Top-ups over HTTP: a user saves a card and agrees, and the card buys credits by itself. Stripe is
the double, called by Stripe's own SDK."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.http import metrics
from tests.http.contract import assert_error
from tests.payments import (
    buy,
    buy_and_pay,
    credited,
    known_user,
    ledger,
    paid_credits,
    tell,
)
from tests.stripe_double import Status, StripeDouble
from tests.support import Service, unique, wait_for
from tests.top_ups import (
    CANCEL,
    CONFIRM,
    CONSENT,
    agree,
    assert_charged_once,
    attempts,
    hurry,
    intents,
    read,
    saver,
    top_up_path,
    use_up,
    wait_for_attempt,
)


def test_a_saved_card_buys_a_pack_when_the_credits_run_out(
    shop: Service, double: StripeDouble
) -> None:
    user, _ = saver(shop, double)
    assert attempts(shop.database, user) == []
    use_up(shop, user)
    _, _, payment_id = wait_for_attempt(shop.database, user, "succeeded")
    assert paid_credits(shop.database, user) == 0  # Stripe has not reported it
    intent = double.intent(payment_id)
    assert (intent["amount"], intent["currency"], intent["status"]) == (500, "usd", "succeeded")
    assert_charged_once(shop, double, user, payment_id)
    assert ledger(shop.database, user)[-1] == (
        20, "purchase", payment_id, "Purchased $5.00 (20 uses) via Stripe",
    )  # fmt: skip
    told = read(shop, user)
    assert (told["status"], told["problem"], told["spent_this_month_minor"]) == ("on", None, 500)
    assert told["card"] == "visa 4242"
    assert told["consent"]["text"] == CONSENT["text"]
    assert told["attempt"]["status"] == "succeeded"
    assert told["attempt"]["payment_id"] == payment_id


DECLINES = {
    "4000000000009995": ("insufficient_funds", "the card does not have enough money"),
    "4000000000000069": ("expired_card", "the card has expired"),
    "4000000000000002": ("card_declined", "the card was declined"),
    "4000002500003155": (
        "authentication_required", "the bank wants the user to confirm the payment",
    ),
}  # fmt: skip


@pytest.mark.parametrize("card", DECLINES)
def test_a_card_that_cannot_be_charged_is_told_in_words_and_its_payment_is_canceled(
    shop: Service, double: StripeDouble, card: str
) -> None:
    problem, words = DECLINES[card]
    user, saved_by = saver(shop, double)
    double.wear_out(saved_by, card)
    use_up(shop, user)
    _, noted, payment_id = wait_for_attempt(shop.database, user, "failed")
    assert noted == problem
    assert double.intent(payment_id)["status"] == "canceled"
    told = read(shop, user)
    assert (told["status"], told["failures"], told["problem"]) == ("on", 1, problem)
    assert told["problem_text"] == words
    assert told["spent_this_month_minor"] == 0
    # The pause is over, and the card is good again.
    double.wear_out(saved_by, None)
    hurry(shop.database, user)
    _, _, payment_id = wait_for_attempt(shop.database, user, "succeeded", 2)
    assert_charged_once(shop, double, user, payment_id)


def test_after_three_failures_nothing_is_tried_until_the_user_agrees_again(
    shop: Service, double: StripeDouble
) -> None:
    user, saved_by = saver(shop, double)
    double.wear_out(saved_by, "4000000000009995")
    use_up(shop, user)
    for number in (1, 2, 3):
        wait_for_attempt(shop.database, user, "failed", number)
        hurry(shop.database, user)
    told = read(shop, user)
    assert (told["status"], told["end_reason"], told["failures"]) == ("off", "failures", 3)
    asked = len(intents(double, user))
    assert asked == 4
    # With another card: the user buys once more, and agrees.
    bought = credited(shop, double, user, save_card=True)
    assert agree(shop, user, bought).json()["status"] == "on"
    use_up(shop, user)
    wait_for_attempt(shop.database, user, "succeeded", 4)
    outcomes = metrics.read(shop).by("billing_top_ups_total", "outcome")
    assert outcomes["failed"] >= 3
    assert outcomes["switched_off"] >= 1
    assert outcomes["succeeded"] >= 1


def test_a_declined_payment_that_cannot_be_canceled_now_is_canceled_before_it_counts(
    shop: Service, double: StripeDouble
) -> None:
    user, saved_by = saver(shop, double)
    double.wear_out(saved_by, "4000000000000069")
    double.on("POST", CANCEL, Status(500), times=2)
    use_up(shop, user)
    wait_for(
        lambda: [row for row in attempts(shop.database, user) if row[1] == "provider_unavailable"],
        "the cancellation to fail",
    )
    hurry(shop.database, user)
    _, problem, payment_id = wait_for_attempt(shop.database, user, "failed")
    assert problem == "expired_card"
    assert double.intent(payment_id)["status"] == "canceled"
    assert len(attempts(shop.database, user)) == 1


@pytest.mark.parametrize("kind", ["refund", "dispute"])
def test_a_refund_or_a_dispute_of_a_top_up_is_not_followed_by_another_one(
    shop: Service, double: StripeDouble, kind: str
) -> None:
    user, _ = saver(shop, double)
    use_up(shop, user)
    _, _, payment_id = wait_for_attempt(shop.database, user, "succeeded")
    assert_charged_once(shop, double, user, payment_id)
    if kind == "refund":
        double.refund(payment_id)
        event = double.refunded_event(payment_id)
    else:
        event = double.dispute_event("charge.dispute.created", double.dispute(payment_id))
    assert tell(shop, double, event).status_code == 200
    wait_for(lambda: read(shop, user)["problem"] == "money_returned", "the top-up to wait")
    assert len(attempts(shop.database, user)) == 1
    assert paid_credits(shop.database, user) == 0
    assert agree(shop, user, None).status_code == 200
    wait_for_attempt(shop.database, user, "succeeded", 2)


def test_a_payment_that_stripe_does_not_let_us_cancel_stays_open_because_it_may_be_paid(
    shop: Service, double: StripeDouble
) -> None:
    user, _ = saver(shop, double)
    refused = {"type": "invalid_request_error", "code": "payment_intent_unexpected_state"}
    refusal = Status(400, {"error": {**refused, "message": "No."}})
    double.on("POST", CONFIRM, refusal)
    double.on("POST", CANCEL, refusal)
    use_up(shop, user)
    rows = wait_for(lambda: [row for row in attempts(shop.database, user) if row[1]], "the refusal")
    ((state, problem, payment_id),) = rows
    assert (state, problem) == ("open", "processing")
    double.pay(payment_id)
    hurry(shop.database, user)
    assert wait_for_attempt(shop.database, user, "succeeded")[2] == payment_id
    assert_charged_once(shop, double, user, payment_id)


def test_a_charge_that_stripe_refuses_is_a_failure_and_its_payment_is_canceled(
    shop: Service, double: StripeDouble
) -> None:
    user, _ = saver(shop, double)
    refused = {"type": "invalid_request_error", "code": "payment_method_unexpected_state"}
    double.on("POST", CONFIRM, Status(400, {"error": {**refused, "message": "No."}}))
    use_up(shop, user)
    _, problem, payment_id = wait_for_attempt(shop.database, user, "failed")
    assert problem == "card_refused"
    assert double.intent(payment_id)["status"] == "canceled"


def test_a_card_that_stripe_does_not_know_any_more_is_a_failure(
    shop: Service, double: StripeDouble
) -> None:
    user, _ = saver(shop, double)
    shop.database.execute(
        "UPDATE billing_data.top_ups SET payment_method_id = 'pm_gone' WHERE account_id ="
        " (SELECT id FROM billing_data.accounts WHERE external_id = %s)", user,
    )  # fmt: skip
    use_up(shop, user)
    assert wait_for_attempt(shop.database, user, "failed")[1] == "card_missing"


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ("not paid", 409, "top_up_card_missing"),
        ("paid without saving the card", 409, "top_up_card_missing"),
        ("of somebody else", 404, "payment_not_found"),
        ("unknown", 404, "payment_not_found"),
        ("none", 409, "top_up_card_missing"),
    ],
)
def test_only_a_paid_purchase_of_the_user_that_saved_its_card_can_be_agreed_with(
    shop: Service, double: StripeDouble, how: str, status: int, code: str
) -> None:
    user = known_user(shop)
    payments: dict[str, Callable[[], str | None]] = {
        "not paid": lambda: str(buy(shop, user, save_card=True)["payment_id"]),
        "paid without saving the card": lambda: buy_and_pay(shop, double, user),
        "of somebody else": lambda: credited(shop, double, unique(), save_card=True),
        "unknown": lambda: "pi_unknown",
        "none": lambda: None,
    }
    answer = agree(shop, user, payments[how]())
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize(
    "changes",
    [
        {"consent": {"agreed": False, "version": "1", "text": "Charge me."}},
        {"consent": {"agreed": "true", "version": "1", "text": "Charge me."}},
        {"consent": {"agreed": True, "version": "1", "text": ""}},
        {"consent": {"agreed": True, "version": "", "text": "Charge me."}},
        {"consent": None},
        {"threshold": 20},
        {"threshold": -1},
        {"packs": 0},
        {"packs": 1001},
        {"monthly_cap_minor": 499},
        {"monthly_cap_minor": 2**63},
    ],
)
def test_a_consent_is_explicit_and_its_terms_make_sense(
    shop: Service, double: StripeDouble, changes: dict[str, Any]
) -> None:
    user = unique("saver")
    answer = agree(shop, user, credited(shop, double, user, save_card=True), **changes)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    (field,) = changes
    assert {fault["loc"][:2][1] for fault in answer.json()["detail"]} == {field}
    with shop.client() as client:
        assert client.get(top_up_path(user)).json()["code"] == "top_up_not_found"


def test_a_purchase_repeated_with_its_key_saves_one_card_and_without_saving_is_another_request(
    shop: Service, double: StripeDouble
) -> None:
    user, key = unique("saver"), unique("key")
    double.requests.clear()
    first = buy(shop, user, key, save_card=True)
    assert buy(shop, user, key, save_card=True)["payment_id"] == first["payment_id"]
    customers = [asked for asked in double.requests if asked.path == "/v1/customers"]
    assert len(customers) == 1
    intent = double.intent(first["payment_id"])
    assert intent["setup_future_usage"] == "off_session"
    assert intent["customer"].startswith("cus_")
    with shop.client() as client:
        answer = client.post(
            "/v1/billing/purchases",
            json={"oauth_provider": "oauth:google", "external_id": user,
                  "customer_email": "ada@example.com"},
            headers={"Idempotency-Key": key},
        )  # fmt: skip
    assert answer.json()["code"] == "idempotency_key_reused"
    plain = double.intent(buy(shop, unique())["payment_id"])
    assert (plain["setup_future_usage"], plain["customer"]) == (None, None)


def test_a_withdrawn_consent_is_off_at_once_and_can_be_given_again_with_the_saved_card(
    shop: Service, double: StripeDouble
) -> None:
    user, _ = saver(shop, double)
    with shop.client() as client:
        for _ in range(2):
            answer = client.delete(top_up_path(user))
            assert (answer.status_code, answer.json()["status"]) == (200, "off")
            assert answer.json()["end_reason"] == "withdrawn"
        use_up(shop, user)
        other, _ = saver(shop, double)
        use_up(shop, other)
        wait_for_attempt(shop.database, other, "succeeded")  # so there was a look meanwhile
        assert attempts(shop.database, user) == []
        assert agree(shop, user, None).json()["status"] == "on"
        wait_for_attempt(shop.database, user, "succeeded")
        assert_error(client.delete(top_up_path(unique())), 404, "Account not found")
