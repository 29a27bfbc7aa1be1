"""What the tests of webhooks share."""

from __future__ import annotations

from typing import Any

import httpx2

from tests.http.contract import (
    assert_error,
)
from tests.payments import (
    tell,
)
from tests.stripe_double import WEBHOOK_PATH, StripeDouble
from tests.support import (
    Database,
    Service,
)

INTENTS = "/v1/payment_intents$"


REFUNDS = "/v1/refunds$"


def post(
    service: Service, body: bytes, signature: str | bytes | None, **headers: str
) -> httpx2.Response:
    """Posts the body unchanged with this signature; None sends none."""
    sent: dict[str, Any] = {"Content-Type": "application/json", **headers}
    if signature is not None:
        sent["Stripe-Signature"] = signature
    url = f"{service.base_url}{WEBHOOK_PATH}"
    return httpx2.post(url, content=body, headers=sent, timeout=30, verify=False)


def assert_refused(answer: httpx2.Response) -> None:
    assert_error(answer, 401, "Invalid webhook signature")
    assert answer.json()["code"] == "webhook_signature_invalid"


def assert_failed(answer: httpx2.Response) -> None:
    assert_error(answer, 500, "Webhook processing failed")
    assert answer.json()["code"] == "webhook_failed"


def event_count(database: Database) -> int:
    count: int = database.value("SELECT count(*) FROM billing_data.payment_events")
    return count


# Money that goes back


def refund_of(shop: Service, double: StripeDouble, payment_id: str, amount: int) -> httpx2.Response:
    double.refund(payment_id, amount)
    return tell(shop, double, double.refunded_event(payment_id))
