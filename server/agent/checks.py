"""POST /v1/billing/credits/check: may this user go on? (contract.md 2.1)"""

from __future__ import annotations

from time import perf_counter

from aiohttp import web

from server.agent import items
from server.agent.endpoint import Call, refused_outcome
from server.http.errors import json_response
from server.observe import metrics


async def check_credit(request: web.Request, call: Call) -> web.StreamResponse:
    """Answers 200 for a denial too: that is an answer, not an error."""
    started = perf_counter()
    row = await call.gateway.check_credit(items.CHECK.item(call.body, call.api_key_id))
    metrics.CREDIT_CHECK_DURATION.observe(perf_counter() - started)
    if row["outcome"] != "checked":
        error = await refused_outcome(call.gateway, call.api_key_id, call.permission, row)
        assert error is not None
        raise error
    metrics.count_check("allowed" if row["has_credit"] else "denied").inc()
    if row["account_created"]:
        metrics.ACCOUNTS_CREATED.inc()
    return json_response(
        200,
        {
            "has_credit": row["has_credit"],
            "credits_remaining": row["credits_remaining"],
            "plan_name": row["plan_name"],
            "reason": row["reason"],
            "free_uses_remaining": row["free_uses_remaining"],
            "total_uses": row["total_uses"],
            "purchase_required": row["purchase_required"],
            "purchase_price_minor": row["purchase_price_minor"],
            "purchase_uses": row["purchase_uses"],
        },
    )
