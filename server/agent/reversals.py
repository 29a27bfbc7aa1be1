"""POST /v1/billing/charges/{charge_id}/reverse: a charge is given back."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from aiohttp import web
from typing_extensions import TypedDict

from server.agent.charges import EXAMPLE_CHARGE
from server.agent.endpoint import Call
from server.agent.models import Amount
from server.gateway import Refused, functions
from server.http import fields as f
from server.http.answers import reader
from server.http.errors import json_response, known_error
from server.http.route import Example
from server.http.validation import Reason, RequestModel, Text255
from server.observe import metrics


class ChargePath(RequestModel):
    """/v1/billing/charges/{charge_id}"""

    charge_id: Annotated[UUID, f.CHARGE_ID]


class ReversalRequest(RequestModel):
    """POST /v1/billing/charges/{charge_id}/reverse"""

    amount_minor: Annotated[
        Amount | None,
        f.means("How much of the charge to give back; null for all that is left of it."),
    ] = None
    reason: Annotated[Reason, f.means("Why, for people who read the history.")]
    idempotency_key: Annotated[
        Text255 | None,
        f.means(
            "Names this reversal within the account: a repeat gives nothing back again and gets"
            " the first answer. Wins over the Idempotency-Key header."
        ),
    ] = None


class Reversal(TypedDict):
    """A charge that was given back, whole or in part, as it stands in the ledger."""

    reversal_id: Annotated[UUID, f.REVERSAL_ID]
    charge_id: Annotated[UUID, f.CHARGE_ID]
    account_id: Annotated[UUID, f.ACCOUNT_ID]
    amount_minor: Annotated[f.Positive, f.means("How much of the charge was given back.")]
    currency: Annotated[str, f.ACCOUNT_CURRENCY]
    paid_with: Annotated[
        Literal["free", "paid"], f.means("Whether a free use or paid credits were given back.")
    ]
    balance_after: Annotated[f.Count, f.BALANCE_AFTER]
    free_uses_remaining: Annotated[f.Count, f.FREE_USES_REMAINING]
    reversed_minor: Annotated[f.Positive, f.REVERSED]
    reason: Annotated[str, f.means("Why.")]
    created_at: Annotated[datetime, f.WHEN]


EXAMPLE = Example(
    {
        "reversal_id": "019a9c2f-10d2-7b3e-8e57-52f0c6a1b9d4",
        "charge_id": EXAMPLE_CHARGE["charge_id"],
        "account_id": EXAMPLE_CHARGE["account_id"],
        "amount_minor": 1,
        "currency": "USD",
        "paid_with": "free",
        "balance_after": 0,
        "free_uses_remaining": 3,
        "reversed_minor": 1,
        "reason": "The job failed",
        "created_at": "2026-11-22T10:24:31.118204+00:00",
    },
    request={"reason": "The job failed"},
    values={"charge_id": EXAMPLE_CHARGE["charge_id"]},
    idempotency_key="msg-5561-failed",
)
ERRORS = (
    "charge_not_found",
    "already_reversed",
    "reversal_exists",
    "reversal_too_great",
    "free_use_is_whole",
    "balance_overflow",
)

_reversal = reader(Reversal, functions.reverse_charge.columns)


async def reverse_charge(request: web.Request, call: Call) -> web.StreamResponse:
    """Gives a charge back to what paid for it, as when a job failed: a free use whole, paid credits
    as far as `amount_minor` says. A charge can be given back in several parts, which are together
    never more than it. Only the API key that made the charge may do this, and the keys it was
    rotated from or to; to every other key the charge does not exist. The charge stays in the
    history, and its reversal is an entry of its own."""
    body: ReversalRequest = call.body
    path: ChargePath = call.path
    try:
        row = await call.gateway.write(
            functions.reverse_charge(
                charge_id=path.charge_id,
                reason=body.reason,
                amount=body.amount_minor,
                idempotency_key=body.idempotency_key or call.idempotency_key or None,
                api_key_id=call.api_key_id,
            )
        )
    except Refused as error:
        if error.slug == "idempotency_key_reused" and body.idempotency_key:
            raise known_error("reversal_exists") from None
        raise
    if row["replayed"]:
        return json_response(201, _reversal(row), {"Idempotent-Replayed": "true"})
    metrics.CREDITS_ADDED.labels("refund").inc()
    metrics.ACCOUNT_BALANCE.observe(row["balance_after"])
    metrics.write_verified("confirmed").inc()
    return json_response(201, _reversal(row))
