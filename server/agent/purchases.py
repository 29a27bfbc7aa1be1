"""POST /v1/billing/purchases and GET .../{payment_id}, .../{payment_id}/status (contract.md 2.7,
2.8): what is sold is recorded, then Stripe is asked for its payment. Credits arrive by webhook."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from server.agent.endpoint import Call
from server.agent.models import PurchasePath, PurchaseRequest
from server.gateway import Refused
from server.http.app_keys import REQUEST_ID
from server.http.errors import ApiError, json_response, refusal, unavailable
from server.observe import metrics
from server.payments.payments import PAYMENTS
from server.payments.settings import ProviderSettings
from server.payments.stripe_api import (
    Intent,
    PaymentMissing,
    PaymentProviderError,
    Purchase,
    StripeApi,
)
from server.payments.stripe_events import purchase_metadata

_LOG = logging.getLogger(__name__)
_OVER = {"unknown": "payment_unreadable", "canceled": "payment_canceled"}
_PROVIDER_PAUSE = 5  # seconds after which trying again may help


async def create_purchase(request: web.Request, call: Call) -> web.StreamResponse:
    """201 with what the client needs to pay; 503 when Stripe is not set up or does not answer.
    A purchase that Stripe did not answer for stays an offer, and costs nobody anything. A repeat
    gets the recorded payment in the state of today."""
    body: PurchaseRequest = call.body
    offer = await call.gateway.begin_purchase(
        body.oauth_provider,
        body.external_id,
        body.wa_id,
        body.tenant_id,
        body.customer_email,
        body.user_role,
        body.agent_id,
        body.marketing_opt_in,
        body.marketing_opt_in_source,
        call.idempotency_key,
        call.api_key_id,
    )
    if offer["account_created"]:
        metrics.ACCOUNTS_CREATED.inc()
    settings, stripe = await _provider(request, call, offer["config_data"])
    payment_id, replayed = offer["payment_id"], offer["payment_id"] is not None
    try:
        if replayed:
            intent = await _read(stripe, payment_id)
        else:
            intent = await stripe.create_intent(_purchase(body, offer))
            payment_id = await _attach(call, offer, intent)
            if payment_id != intent.id:  # another request for this purchase was faster
                intent = await stripe.get_intent(payment_id)
    except (PaymentProviderError, PaymentMissing) as error:
        metrics.PURCHASES.labels("error").inc()
        raise _provider_unavailable(request, error) from error
    metrics.PURCHASES.labels("replayed" if replayed else "created").inc()
    answer = _payment(payment_id, intent, settings, offer)
    return json_response(201, answer, {"Idempotent-Replayed": "true"} if replayed else None)


async def get_purchase(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with the payment as Stripe has it now; 404 for one that is unknown or not ours, 503 when
    Stripe does not answer."""
    path: PurchasePath = call.path
    known = await call.gateway.find_purchase(path.payment_id, call.api_key_id)
    settings, stripe = await _provider(request, call, known["config_data"])
    try:
        intent = await _read(stripe, path.payment_id)
    except PaymentProviderError as error:
        raise _provider_unavailable(request, error) from error
    if known["purchase_id"] is None and (intent is None or not await _is_ours(call, intent)):
        slug = "payment_not_found"
        raise refusal(slug, await call.gateway.wording(slug), {"payment_id": path.payment_id})
    return json_response(200, _payment(path.payment_id, intent, settings, known))


async def _read(stripe: StripeApi, payment_id: str) -> Intent | None:
    """The payment as Stripe has it now; None when it cannot be read with the present keys, which
    are then of another mode or account than those it was made with."""
    try:
        return await stripe.get_intent(payment_id)
    except PaymentMissing:
        return None


async def _attach(call: Call, offer: Mapping[str, Any], intent: Intent) -> str:
    """Records the payment of a purchase; gives the one that was recorded first."""
    attached = await call.gateway.attach_payment(
        offer["account_id"], offer["purchase_id"], intent.id, intent.status, call.api_key_id
    )
    return str(attached["payment_id"])


async def _provider(
    request: web.Request, call: Call, config_data: Mapping[str, Any]
) -> tuple[ProviderSettings, StripeApi]:
    payments = request.app[PAYMENTS]
    settings = payments.settings(config_data)
    if settings is None:
        slug = "payment_provider_not_configured"
        raise refusal(slug, await call.gateway.wording(slug), {})
    return settings, await payments.stripe(settings)


def _provider_unavailable(request: web.Request, error: Exception) -> ApiError:
    _LOG.error(
        "payment provider: %s",
        str(error) or "Stripe does not know a payment that was made for a purchase",
        extra={"request_id": request[REQUEST_ID]},
    )
    answer = unavailable("Payment provider unavailable", _PROVIDER_PAUSE)
    answer.code = "payment_provider_unavailable"
    return answer


async def _is_ours(call: Call, intent: Intent) -> bool:
    """Whether a payment without a purchase was made by the old service: then it names an account
    by its id and its identity, and no purchase."""
    named = purchase_metadata(dict(intent.metadata))
    if named["purchase_id"] or named["is_foreign"]:
        return False
    if not named["account_id"] or not named["oauth_provider"] or not named["external_id"]:
        return False
    try:
        account = await call.gateway.get_account(
            named["oauth_provider"], named["external_id"], call.api_key_id
        )
    except Refused as error:
        if error.slug == "account_not_found":
            return False
        raise
    return bool(account["account_id"] == named["account_id"])


def _purchase(body: PurchaseRequest, offer: Mapping[str, Any]) -> Purchase:
    return Purchase(
        purchase_id=str(offer["purchase_id"]),
        account_id=str(offer["account_id"]),
        oauth_provider=body.oauth_provider,
        external_id=body.external_id,
        uses=offer["uses"],
        price_minor=offer["price_minor"],
        currency=offer["currency"],
        customer_email=body.customer_email,
    )


def _payment(
    payment_id: str,
    intent: Intent | None,
    settings: ProviderSettings,
    purchase: Mapping[str, Any],
) -> dict[str, Any]:
    """The answer about a payment. One that can no longer be paid says so, and why: `payable`
    false, `code`."""
    credits_added = purchase["credits_added"]
    if intent is None:
        secret, status = "", "succeeded" if credits_added else "unknown"
        amount_minor, currency = purchase["price_minor"], purchase["currency"]
    else:
        secret, status = intent.client_secret, intent.status
        amount_minor, currency = intent.amount_minor, intent.currency
    answer = {
        "payment_id": payment_id,
        "client_secret": secret,
        "amount_minor": amount_minor,
        "currency": currency,
        "uses_purchased": purchase["uses"],
        "status": status,
        "publishable_key": settings.publishable_key,
        "credits_added": credits_added,
    }
    over = None if credits_added else _OVER.get(status)
    return answer if over is None else {**answer, "payable": False, "code": over}
