"""GET /v1/billing/transactions: an account's history, newest first (contract.md 2.6)."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from server.agent.endpoint import Call
from server.agent.models import TransactionsQuery
from server.gateway import Refused, Row
from server.http.errors import json_response
from server.http.validation import refused_field


async def list_transactions(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with one page; an unknown account has an empty history. 422 for another's cursor."""
    query: TransactionsQuery = call.query
    try:
        rows = await call.gateway.list_transactions(
            query.oauth_provider,
            query.external_id,
            query.limit,
            query.offset,
            query.cursor,
            call.api_key_id,
        )
    except Refused as error:
        raise refused_field(error, "query", query) from None
    next_cursor = rows[0]["next_cursor"]
    return json_response(
        200,
        {
            "transactions": [_transaction(row) for row in rows if row["transaction_id"]],
            "total_count": rows[0]["total_count"],
            "has_more": next_cursor is not None,
            "next_cursor": next_cursor,
        },
    )


def _transaction(row: Row) -> dict[str, Any]:
    is_charge = row["type"] == "charge"
    return {
        "transaction_id": row["transaction_id"],
        "type": row["type"],
        "amount_minor": row["amount_minor"],
        "currency": row["currency"],
        "description": row["description"],
        "created_at": row["created_at"],
        "balance_after": row["balance_after"],
        "transaction_type": row["transaction_type"],
        "external_transaction_id": row["external_transaction_id"],
        "metadata": {
            "message_id": row["metadata_message_id"],
            "agent_id": row["metadata_agent_id"],
            "channel_id": row["metadata_channel_id"],
            "request_id": row["metadata_request_id"],
        }
        if is_charge
        else None,
    }
