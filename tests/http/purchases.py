"""Purchases as clients make them."""

from __future__ import annotations

from typing import Any

import httpx2

from tests.http.contract import (
    assert_error,
)
from tests.stripe_double import StripeDouble

INTENTS = "/v1/payment_intents$"


INTENT = "/v1/payment_intents/"


def asked(double: StripeDouble, method: str = "POST") -> list[Any]:
    """The requests to Stripe by this method since the list was last cleared."""
    return [request for request in double.requests if request.method == method]


def assert_unavailable(answer: httpx2.Response) -> None:
    assert_error(answer, 503, "Payment provider unavailable")
    assert answer.json()["code"] == "payment_provider_unavailable"
    assert int(answer.headers["retry-after"]) >= 1


def invalid(code: str, param: str) -> dict[str, Any]:
    """Stripe's refusal of a parameter."""
    error = {"type": "invalid_request_error", "code": code, "param": param, "message": "No."}
    return {"error": error}
