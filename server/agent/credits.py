"""POST /v1/billing/credits: add paid credits (contract.md 2.3)."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from server.agent.endpoint import Call
from server.agent.models import CreditRequest
from server.gateway import Row
from server.http.errors import ApiError, json_response, refusal
from server.limits import INT64_MAX
from server.observe import metrics


async def create_credit(request: web.Request, call: Call) -> web.StreamResponse:
    """201 with the credit; a used key 409, or the first answer for an Idempotency-Key header."""
    body: CreditRequest = call.body
    row = await call.gateway.record_credit(
        body.oauth_provider,
        body.external_id,
        body.amount_minor,
        body.transaction_type.value,
        body.description,
        body.currency,
        body.external_transaction_id,
        body.idempotency_key or call.idempotency_key or None,
        body.customer_email,
        body.user_role,
        body.agent_id,
        body.marketing_opt_in,
        body.marketing_opt_in_source,
        call.api_key_id,
    )
    outcome: str = row["outcome"]
    if outcome == "created":
        metrics.CREDITS_ADDED.labels(row["transaction_type"]).inc()
        metrics.CREDIT_AMOUNT.observe(row["amount_minor"])
        metrics.ACCOUNT_BALANCE.observe(row["balance_after"])
        metrics.write_verified("confirmed").inc()
        return json_response(201, _credit(row))
    replays = call.idempotency_key is not None
    if outcome == "replayed" and replays:
        return json_response(201, _credit(row), {"Idempotent-Replayed": "true"})
    if outcome in ("replayed", "conflict") and not replays:
        raise ApiError(
            409,
            "credit_already_exists",
            (await call.gateway.wording("credit_already_exists")).message,
            headers={"X-Existing-Credit-ID": str(row["credit_id"])},
            extra={"credit": _credit(row)},
        )
    slug = "idempotency_key_reused" if outcome == "conflict" else outcome
    raise refusal(
        slug,
        await call.gateway.wording(slug),
        {
            "balance": row["balance"],
            "amount": row["amount_minor"],
            "maximum": INT64_MAX,
            "account_currency": row["account_currency"],
            "currency": row["currency"],
            "payment_id": body.external_transaction_id,
        },
    )


def _credit(row: Row) -> dict[str, Any]:
    return {
        "credit_id": row["credit_id"],
        "account_id": row["account_id"],
        "amount_minor": row["amount_minor"],
        "currency": row["currency"],
        "balance_after": row["balance_after"],
        "transaction_type": row["transaction_type"],
        "description": row["description"],
        "external_transaction_id": row["external_transaction_id"],
        "created_at": row["created_at"],
    }
