"""Top-ups over HTTP: a user saves a card and agrees, and the card buys credits by itself. Stripe is
the double, called by Stripe's own SDK."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.payments import (
    forget_faults,
    ledger,
    paid_credits,
    paying_service,
)
from tests.stripe_double import StripeDouble, running_stripe
from tests.support import Database, Service
from tests.top_ups import (
    CONSENT,
    assert_charged_once,
    attempts,
    read,
    saver,
    use_up,
    wait_for_attempt,
)


@pytest.fixture(scope="module")
def double() -> Iterator[StripeDouble]:
    with running_stripe() as double:
        yield double


@pytest.fixture(autouse=True)
def no_fault_is_left_behind(double: StripeDouble) -> Iterator[None]:
    yield
    forget_faults(double)


@pytest.fixture(scope="module")
def shop(module_database: Database, double: StripeDouble) -> Iterator[Service]:
    with paying_service(module_database, double) as service:
        yield service


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
