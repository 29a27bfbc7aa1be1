"""POST /v1/billing/accounts and GET /v1/billing/accounts/{provider}/{id} (contract.md 2.4, 2.5)."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from server.agent.endpoint import Call
from server.agent.models import AccountPath, AccountRequest
from server.gateway import Row
from server.http.errors import json_response
from server.observe import metrics

_FIELDS = (
    "account_id",
    "oauth_provider",
    "external_id",
    "wa_id",
    "tenant_id",
    "customer_email",
    "balance_minor",
    "currency",
    "plan_name",
    "status",
    "paid_credits",
    "marketing_opt_in",
    "marketing_opt_in_at",
    "marketing_opt_in_source",
    "created_at",
    "updated_at",
)


async def create_account(request: web.Request, call: Call) -> web.StreamResponse:
    """201 always; an account that exists is given back untouched."""
    body: AccountRequest = call.body
    row = await call.gateway.create_account(
        body.oauth_provider,
        body.external_id,
        body.wa_id,
        body.tenant_id,
        body.initial_balance_minor,
        body.currency,
        body.plan_name,
        body.customer_email,
        body.user_role,
        body.agent_id,
        body.marketing_opt_in,
        body.marketing_opt_in_source,
        call.idempotency_key,
        call.api_key_id,
    )
    if row["account_created"]:
        metrics.ACCOUNTS_CREATED.inc()
    headers = {"Idempotent-Replayed": "true"} if row["replayed"] else None
    return json_response(201, _account(row), headers)


async def get_account(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with the account, 404 when the identity has none."""
    path: AccountPath = call.path
    row = await call.gateway.get_account(path.oauth_provider, path.external_id, call.api_key_id)
    return json_response(200, _account(row))


def _account(row: Row) -> dict[str, Any]:
    return {field: row[field] for field in _FIELDS}
