"""What is below one of /admin/api/users: its ledger, its checks, and what staff put right."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from server.admin_api.endpoint import Call, answer, page_of, pick
from server.admin_api.models import (
    AdjustCreditsRequest,
    LedgerQuery,
    PageQuery,
    ResetFreeUsesRequest,
    SetStatusRequest,
    UserPath,
)
from server.gateway import Refused, Row, calls
from server.http.errors import from_refused

_METADATA = ("message_id", "agent_id", "channel_id", "request_id")


async def list_ledger(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with one page of charges and credits, newest first."""
    query: LedgerQuery = call.query
    account = await _account(call)
    rows = await call.rows(
        calls.LIST_ACCOUNT_TRANSACTIONS,
        oauth_provider=account["oauth_provider"],
        external_id=account["external_id"],
        limit=query.page_size,
        offset=query.offset,
        cursor=query.cursor,
    )
    total = rows[0]["total_count"]
    return answer(
        200,
        {
            "transactions": [_transaction(row) for row in rows if row["transaction_id"]],
            "total": total,
            "page": query.page,
            "page_size": query.page_size,
            "total_pages": -(-total // query.page_size),
            "next_cursor": rows[0]["next_cursor"],
        },
    )


async def list_checks(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with one page of checks, newest first, with why they were denied."""
    query: PageQuery = call.query
    account = await _account(call)
    rows = await call.rows(
        calls.LIST_CHECKS,
        account_id=account["account_id"],
        limit=query.page_size + 1,
        offset=query.offset,
    )
    return answer(200, page_of("checks", rows, query, _check))


async def adjust_credits(request: web.Request, call: Call) -> web.StreamResponse:
    """201 with the ledger's new entry; 402 when there is less to take away."""
    path: UserPath = call.path
    body: AdjustCreditsRequest = call.body
    try:
        row = await call.row(
            calls.ADJUST_CREDITS,
            account_id=path.account_id,
            amount=body.amount_minor,
            reason=body.reason,
            idempotency_key=call.idempotency_key,
        )
    except Refused as error:
        if error.slug != "insufficient_credits":
            raise
        refusal = from_refused(error)
        balance, required = int(error.values["balance"]), int(error.values["required"])
        refusal.extra = {
            "balance": balance,
            "required": required,
            "shortfall": required - balance,
            "retryable": False,
        }
        raise refusal from None
    adjustment = {
        "credit_id": row["credit_id"],
        "account_id": path.account_id,
        **pick(row, "amount_minor", "balance_before", "balance_after", "created_at"),
    }
    return answer(201, adjustment, {"Idempotent-Replayed": "true"} if row["replayed"] else None)


async def reset_free_uses(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with how many free uses there were and are."""
    path: UserPath = call.path
    body: ResetFreeUsesRequest = call.body
    row = await call.row(
        calls.RESET_FREE_USES,
        account_id=path.account_id,
        reason=body.reason,
        free_uses=body.free_uses,
    )
    uses = pick(row, "free_uses_before", "free_uses_remaining")
    return answer(200, {"account_id": path.account_id, **uses})


async def set_status(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with the state the account was in and is in."""
    body: SetStatusRequest = call.body
    account = await _account(call)
    row = await call.row(
        calls.SET_ACCOUNT_STATUS,
        oauth_provider=account["oauth_provider"],
        external_id=account["external_id"],
        status=body.status,
        reason=body.reason,
    )
    return answer(200, pick(row, "account_id", "status", "previous_status"))


async def _account(call: Call) -> Row:
    """The account of the path. Raises Refused (account_not_found)."""
    path: UserPath = call.path
    return await call.row(calls.GET_ACCOUNT_BY_ID, account_id=path.account_id)


def _transaction(row: Row) -> dict[str, Any]:
    is_charge = row["type"] == "charge"
    return {
        **pick(row, "transaction_id", "type", "amount_minor", "currency", "description"),
        **pick(row, "created_at", "balance_after", "transaction_type"),
        **pick(row, "external_transaction_id", "paid_with"),
        "metadata": {name: row[f"metadata_{name}"] for name in _METADATA} if is_charge else None,
    }


def _check(row: Row) -> dict[str, Any]:
    return {
        **pick(row, "check_id", "has_credit", "created_at", reason="denial_reason"),
        **pick(row, "credits_remaining", "free_uses_remaining"),
        **pick(
            row,
            agent_id="context_agent_id",
            channel_id="context_channel_id",
            request_id="context_request_id",
        ),
    }
