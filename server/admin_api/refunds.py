"""POST /admin/api/payments/{payment_id}/refund: giving the money of a payment back."""

import logging
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from aiohttp import web
from typing_extensions import TypedDict

from server.admin_api.endpoint import Call, answer
from server.admin_api.models import PaymentPath, RefundRequest
from server.gateway import functions
from server.http import fields as f
from server.http.answers import reader
from server.http.app_keys import GATEWAY, REQUEST_ID
from server.http.errors import known_error
from server.http.example_values import ACCOUNT_ID, AT, PAYMENT_ID
from server.http.route import Example
from server.payments.payments import PAYMENTS
from server.payments.provider import (
    NotConfigured,
    PaymentProviderError,
    ProviderApi,
    RequestRefused,
)
from server.payments.refunds import carry_out

_LOG = logging.getLogger(__name__)
_PAUSE = 5  # seconds after which asking again may help
ERRORS = (
    "idempotency_key_reused",
    "payment_not_found",
    "payment_not_settled",
    "payment_provider_not_configured",
    "payment_provider_unavailable",
    "payment_refunded",
    "refund_refused",
    "refund_too_great",
)


class RefundOfPayment(TypedDict):
    """A refund that the payment provider makes."""

    refund_id: Annotated[UUID | None, f.means("The refund here; null for a dry run.")]
    return_id: Annotated[str | None, f.means("The refund at the provider; null for a dry run.")]
    payment_id: Annotated[str, f.PAYMENT_ID]
    account_id: Annotated[UUID, f.ACCOUNT_ID]
    amount_minor: Annotated[f.Positive, f.means("The money, in minor units such as cents.")]
    currency: Annotated[str, f.PRICE_CURRENCY]
    credits_due: Annotated[
        f.Count, f.means("How many credits are taken back when the provider reports the refund.")
    ]
    credits_there: Annotated[f.Count, f.means("How many paid credits the account has now.")]
    reason: Annotated[str, f.means("Why.")]
    created_at: Annotated[datetime | None, f.WHEN]


REFUNDED = Example(
    {
        "refund_id": "0197f2a0-0000-7000-8000-0000000000aa",
        "return_id": "re_3PExample",
        "payment_id": PAYMENT_ID,
        "account_id": ACCOUNT_ID,
        "amount_minor": 500,
        "currency": "USD",
        "credits_due": 20,
        "credits_there": 20,
        "reason": "Bought by mistake",
        "created_at": AT,
    },
    request={"reason": "Bought by mistake"},
    values={"payment_id": PAYMENT_ID},
    idempotency_key="ticket-417",
)

_refund = reader(RefundOfPayment, functions.begin_refund.columns)


async def refund_payment(request: web.Request, call: Call) -> web.StreamResponse:
    """Gives the money of a payment back, whole or in part, by the payment provider. The credits are
    taken back when the provider reports the refund, a moment later. Where the answer is 503, the
    same request with the same Idempotency-Key goes on with the refund: the money goes back once."""
    path: PaymentPath = call.path
    body: RefundRequest = call.body
    begun = await call.row(
        functions.begin_refund(
            payment_id=path.payment_id,
            reason=body.reason,
            amount_minor=body.amount_minor,
            idempotency_key=call.idempotency_key,
            dry_run=body.dry_run,
        )
    )
    if body.dry_run:
        return answer(200, _refund(begun))

    async def finish(**arguments: Any) -> None:
        await call.row(functions.finish_refund(**arguments))

    async def connect() -> ProviderApi:
        return await request.app[PAYMENTS].stored_api(request.app[GATEWAY], begun["provider"])

    try:
        return_id = await carry_out(begun, connect, finish)
    except RequestRefused as error:
        raise known_error("refund_refused", problem=str(error)) from None
    except NotConfigured:
        raise await request.app[GATEWAY].refused("payment_provider_not_configured") from None
    except PaymentProviderError as error:
        _LOG.warning("payment provider: %s", error, extra={"request_id": request[REQUEST_ID]})
        raise known_error(
            "payment_provider_unavailable", headers={"Retry-After": str(_PAUSE)}
        ) from None
    headers = {"Idempotent-Replayed": "true"} if begun["replayed"] else None
    return answer(200, {**_refund(begun), "return_id": return_id}, headers)
