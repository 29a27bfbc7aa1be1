"""POST /v1/billing/purchases and GET .../{payment_id}, .../{payment_id}/status (contract.md 2.7,
2.8): what is sold is recorded, then the payment provider is asked for its payment. Credits arrive
by webhook."""

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

import orjson
from aiohttp import web
from typing_extensions import TypedDict

from server.agent.endpoint import Call
from server.agent.models import PurchasePath, PurchaseRequest
from server.gateway import Refused, functions
from server.http import fields as f
from server.http.app_keys import REQUEST_ID
from server.http.errors import ApiError, json_response, known_error
from server.http.example_values import ADA, PAYMENT_ID
from server.http.route import Example
from server.observe import metrics
from server.payments.payments import PAYMENTS
from server.payments.provider import (
    Payment as ProviderPayment,
)
from server.payments.provider import (
    PaymentMissing,
    PaymentProviderError,
    ProviderApi,
    Purchase,
)
from server.payments.registry import provider_of

WhyOver = Literal["payment_canceled", "payment_unreadable"]


class Payment(TypedDict):
    """A payment as the payment provider has it now."""

    payment_id: Annotated[str, f.PAYMENT_ID]
    client_secret: Annotated[
        str,
        f.means(
            "With the publishable key, what Stripe's script in the user's client needs to"
            " take the payment. Keep it to that client. Empty when the payment cannot be"
            " read."
        ),
    ]
    amount_minor: Annotated[
        f.Positive, f.means("What the pack costs, in minor units such as cents.")
    ]
    currency: Annotated[str, f.PRICE_CURRENCY]
    uses_purchased: Annotated[f.Positive, f.means("How many uses the pack has.")]
    status: Annotated[
        str,
        f.means(
            "The payment's status in Stripe's words, such as `requires_payment_method` or"
            " `succeeded`; `unknown` when it cannot be read."
        ),
    ]
    publishable_key: Annotated[
        str, f.means("The payment provider's public key, for its script in the client.")
    ]
    credits_added: Annotated[
        f.Count, f.means("Credits the payment has added: 0 until it is credited.")
    ]
    payable: NotRequired[
        Annotated[
            Literal[False],
            f.means(
                "False when the payment was not paid and can no longer be: buy again, with a new"
                " Idempotency-Key. Absent otherwise."
            ),
        ]
    ]
    code: NotRequired[
        Annotated[
            WhyOver,
            f.means(
                "Why it can no longer be paid: `payment_canceled` at the payment provider, or"
                " `payment_unreadable` because the service has changed its provider account or"
                " its mode."
            ),
        ]
    ]


_LOG = logging.getLogger(__name__)
_OVER: dict[str, WhyOver] = {"unknown": "payment_unreadable", "canceled": "payment_canceled"}
_PROVIDER_PAUSE = 5  # seconds after which trying again may help


EXAMPLE_PAYMENT = {
    "payment_id": PAYMENT_ID,
    "client_secret": f"{PAYMENT_ID}_secret_example",
    "amount_minor": 500,
    "currency": "USD",
    "uses_purchased": 20,
    "status": "requires_payment_method",
    "publishable_key": "pk_test_example",
    "credits_added": 0,
}
OFFERED = Example(
    EXAMPLE_PAYMENT,
    request={**ADA, "customer_email": "ada@example.com"},
    idempotency_key="purchase-user-1042",
)
PAID = Example(
    {**EXAMPLE_PAYMENT, "status": "succeeded", "credits_added": 20},
    values={"payment_id": PAYMENT_ID},
)
PROVIDER_FAULTS = ("payment_provider_not_configured", "payment_provider_unavailable")


async def create_purchase(request: web.Request, call: Call) -> web.StreamResponse:
    """Offers the current pack at the current price and has Stripe make a payment for it. Give
    `client_secret` and `publishable_key` to Stripe's script in the user's client, which takes the
    card. The credits are added when Stripe reports that the money has arrived, a moment after the
    user paid. An unknown user gets an account. The same request with the same Idempotency-Key
    (`customer_email` may differ) returns the same payment in its current state: `status` and
    `credits_added` may have changed. When `payable` is false, the payment can no longer be paid:
    buy again with a new Idempotency-Key. With `save_card`, Stripe saves the card that pays; a
    top-up may then charge it, once the user has agreed (`PUT .../top-up`)."""
    # A purchase for which the provider made no payment stays an offer, and costs nobody anything.
    body: PurchaseRequest = call.body
    offer = await call.gateway.write(
        functions.begin_purchase(
            oauth_provider=body.oauth_provider,
            external_id=body.external_id,
            wa_id=body.wa_id,
            tenant_id=body.tenant_id,
            customer_email=body.customer_email,
            user_role=body.user_role,
            agent_id=body.agent_id,
            marketing_opt_in=body.marketing_opt_in,
            marketing_opt_in_source=body.marketing_opt_in_source,
            idempotency_key=call.idempotency_key,
            api_key_id=call.api_key_id,
            save_card=body.save_card,
        )
    )
    if offer["account_created"]:
        metrics.ACCOUNTS_CREATED.inc()
    api, client_key = await open_provider(request, call, offer)
    payment_id, replayed = offer["payment_id"], offer["payment_id"] is not None
    try:
        if replayed:
            payment = await _read(api, payment_id)
        else:
            payment = await api.begin_payment(_purchase(body, offer))
            payment_id = await _attach(call, offer, payment)
            if payment_id != payment.id:  # another request for this purchase was first
                payment = await api.get_payment(payment_id)
    except (PaymentProviderError, PaymentMissing) as error:
        metrics.PURCHASES.labels("error").inc()
        raise provider_unavailable(request, offer, error) from error
    metrics.PURCHASES.labels("replayed" if replayed else "created").inc()
    answer = _payment(payment_id, payment, client_key, offer)
    return json_response(201, answer, {"Idempotent-Replayed": "true"} if replayed else None)


async def get_purchase(request: web.Request, call: Call) -> web.StreamResponse:
    """Reads a payment as Stripe has it now. The user may go on once `credits_added` is not 0. When
    `payable` is false, the payment can no longer be paid: buy again."""
    path: PurchasePath = call.path
    [known] = await call.gateway.read(
        functions.find_purchase(payment_id=path.payment_id, api_key_id=call.api_key_id)
    )
    api, client_key = await open_provider(request, call, known)
    try:
        payment = await _read(api, path.payment_id)
    except PaymentProviderError as error:
        raise provider_unavailable(request, known, error) from error
    if known["purchase_id"] is None and (payment is None or not await _is_ours(call, payment)):
        raise await call.gateway.refused("payment_not_found", {"payment_id": path.payment_id})
    return json_response(200, _payment(path.payment_id, payment, client_key, known))


async def get_purchase_status(request: web.Request, call: Call) -> web.StreamResponse:
    """The same as without `/status`."""
    return await get_purchase(request, call)


async def _read(api: ProviderApi, payment_id: str) -> ProviderPayment | None:
    """Returns the payment as the provider has it now. None when it cannot be read with the present
    keys, because they belong to another mode or account than the keys it was made with."""
    try:
        return await api.get_payment(payment_id)
    except PaymentMissing:
        return None


async def _attach(call: Call, offer: Mapping[str, Any], payment: ProviderPayment) -> str:
    """Records the payment of a purchase. Returns the payment that was recorded first."""
    attached = await call.gateway.write(
        functions.attach_payment(
            account_id=offer["account_id"],
            purchase_id=offer["purchase_id"],
            payment_id=payment.id,
            payment_status=payment.status,
            api_key_id=call.api_key_id,
        )
    )
    return str(attached["payment_id"])


async def open_provider(
    request: web.Request, call: Call, purchase: Mapping[str, Any]
) -> tuple[ProviderApi, str]:
    """The API of a purchase's provider, and its public key. Raises Refused."""
    payments, kind = request.app[PAYMENTS], purchase["provider"]
    settings = payments.settings(kind, orjson.loads(purchase["config_data"]))
    if settings is None:
        raise await call.gateway.refused("payment_provider_not_configured")
    return await payments.api(kind, settings), provider_of(kind).client_key(settings)


def provider_unavailable(
    request: web.Request, purchase: Mapping[str, Any], error: Exception
) -> ApiError:
    """The answer where a purchase's provider fails; the log says why."""
    name = provider_of(purchase["provider"]).name
    _LOG.error(
        "payment provider: %s",
        str(error) or f"{name} does not know a payment that was made for a purchase",
        extra={"request_id": request[REQUEST_ID]},
    )
    return known_error(
        "payment_provider_unavailable", headers={"Retry-After": str(_PROVIDER_PAUSE)}
    )


async def _is_ours(call: Call, payment: ProviderPayment) -> bool:
    """Whether a payment without a purchase was made by the old service: such a payment names an
    account by its id and its identity, and no purchase."""
    claim = payment.claim
    if claim.purchase_id or claim.is_foreign:
        return False
    if not claim.account_id or not claim.oauth_provider or not claim.external_id:
        return False
    try:
        [account] = await call.gateway.read(
            functions.get_account(
                oauth_provider=claim.oauth_provider,
                external_id=claim.external_id,
                api_key_id=call.api_key_id,
            )
        )
    except Refused as error:
        if error.slug == "account_not_found":
            return False
        raise
    return bool(account["account_id"] == claim.account_id)


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
        save_card=body.save_card,
    )


def _payment(
    payment_id: str,
    payment: ProviderPayment | None,
    client_key: str,
    purchase: Mapping[str, Any],
) -> Payment:
    """The answer about a payment. When the payment can no longer be paid, the answer says so and
    why: `payable` is false, and `code` is set."""
    credits_added = purchase["credits_added"]
    if payment is None:
        secret, status = "", "succeeded" if credits_added else "unknown"
        amount_minor, currency = purchase["price_minor"], purchase["currency"]
    else:
        secret, status = payment.client_secret, payment.status
        amount_minor, currency = payment.amount_minor, payment.currency
    answer: Payment = {
        "payment_id": payment_id,
        "client_secret": secret,
        "amount_minor": amount_minor,
        "currency": currency,
        "uses_purchased": purchase["uses"],
        "status": status,
        "publishable_key": client_key,
        "credits_added": credits_added,
    }
    over = None if credits_added else _OVER.get(status)
    return answer if over is None else {**answer, "payable": False, "code": over}
