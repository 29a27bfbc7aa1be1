"""POST /v1/billing/credits: add paid credits (contract.md 2.3)."""

from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired
from uuid import UUID

from aiohttp import web
from typing_extensions import TypedDict

from server.agent.endpoint import Call
from server.agent.models import CreditRequest
from server.gateway import functions
from server.http import fields as f
from server.http.answers import reader
from server.http.error_codes import Error
from server.http.errors import from_refused, json_response
from server.http.example_values import ACCOUNT_ID, ADA, CREDIT_ID
from server.http.route import ErrorAnswer, Example
from server.limits import INT64_MAX
from server.observe import metrics


class Credit(TypedDict):
    """Added credits as they stand in the ledger."""

    credit_id: Annotated[UUID, f.CREDIT_ID]
    account_id: Annotated[UUID, f.ACCOUNT_ID]
    amount_minor: Annotated[f.Positive, f.AMOUNT]
    currency: Annotated[str, f.ACCOUNT_CURRENCY]
    balance_after: Annotated[f.Count, f.NEW_BALANCE]
    transaction_type: Annotated[
        Literal["purchase", "grant", "refund", "adjustment"], f.TRANSACTION_TYPE
    ]
    description: Annotated[str, f.DESCRIPTION]
    external_transaction_id: Annotated[str | None, f.PAYMENT_ID]
    created_at: Annotated[datetime, f.WHEN]
    expires_at: NotRequired[Annotated[datetime, f.CREDITS_EXPIRE_AT]]
    effective_at: NotRequired[Annotated[datetime, f.EFFECTIVE_AT]]
    priority: NotRequired[Annotated[f.Count, f.PRIORITY]]
    source: NotRequired[
        Annotated[Literal["purchase", "grant", "promotion", "refund"], f.CREDIT_SOURCE]
    ]


class CreditExists(Error):
    """The idempotency key has added credits before."""

    credit: Annotated[Credit, f.means("The credit that the idempotency key already made.")]


EXAMPLE_CREDIT = {
    "credit_id": CREDIT_ID,
    "account_id": ACCOUNT_ID,
    "amount_minor": 20,
    "currency": "USD",
    "balance_after": 20,
    "transaction_type": "grant",
    "description": "Welcome gift",
    "external_transaction_id": None,
    "created_at": "2026-11-22T10:25:12.004117+00:00",
}
CREATED = Example(
    EXAMPLE_CREDIT,
    request={
        **ADA,
        "amount_minor": 20,
        "currency": "USD",
        "description": "Welcome gift",
        "transaction_type": "grant",
    },
    idempotency_key="welcome-user-1042",
)
ALREADY_EXISTS = ErrorAnswer("credit_already_exists", CreditExists, {"credit": EXAMPLE_CREDIT})

# The answer repeats what the request says about the kind of the credits.
_KIND = ("expires_at", "effective_at", "priority", "source")
_credit = reader(Credit, (*functions.record_credit.columns, *_KIND))


async def create_credit(request: web.Request, call: Call) -> web.StreamResponse:
    """Adds paid credits to an existing account, also to a suspended or closed one. All four values
    of `transaction_type` add; the value only tells the kind in the history. An
    `external_transaction_id` that is the id of a payment makes this the payment's credit. A payment
    that was sold here has a credit already. Credits with `expires_at`, another `priority` than 50
    or the source `promotion` are spent apart from the others: by priority, then those that end
    first. With `effective_at` in the future they come then."""
    body: CreditRequest = call.body
    kind: dict[str, Any] = {name: getattr(body, name) for name in _KIND}
    row = await call.gateway.write(
        functions.record_credit(
            oauth_provider=body.oauth_provider,
            external_id=body.external_id,
            amount_minor=body.amount_minor,
            transaction_type=body.transaction_type.value,
            description=body.description,
            currency=body.currency,
            external_transaction_id=body.external_transaction_id,
            idempotency_key=body.idempotency_key or call.idempotency_key or None,
            customer_email=body.customer_email,
            user_role=body.user_role,
            agent_id=body.agent_id,
            marketing_opt_in=body.marketing_opt_in,
            marketing_opt_in_source=body.marketing_opt_in_source,
            api_key_id=call.api_key_id,
            **kind,
        )
    )
    told = {**row, **kind}
    outcome: str = row["outcome"]
    if outcome == "created":
        metrics.CREDITS_ADDED.labels(row["transaction_type"]).inc()
        metrics.CREDIT_AMOUNT.observe(row["amount_minor"])
        metrics.ACCOUNT_BALANCE.observe(row["balance_after"])
        metrics.write_verified("confirmed").inc()
        return json_response(201, _credit(told))
    replays = call.idempotency_key is not None
    if outcome == "replayed" and replays:
        return json_response(201, _credit(told), {"Idempotent-Replayed": "true"})
    if outcome in ("replayed", "conflict") and not replays:
        error = from_refused(await call.gateway.refused("credit_already_exists"))
        error.headers = {"X-Existing-Credit-ID": str(row["credit_id"])}
        error.extra = {"credit": _credit(told)}
        raise error
    raise await call.gateway.refused(
        "idempotency_key_reused" if outcome == "conflict" else outcome,
        {
            "balance": row["balance"],
            "amount": row["amount_minor"],
            "maximum": INT64_MAX,
            "account_currency": row["account_currency"],
            "currency": row["currency"],
            "payment_id": body.external_transaction_id,
        },
    )
