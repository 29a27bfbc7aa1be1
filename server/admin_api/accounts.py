"""The routes below one account of /admin/api/users: its ledger, its checks, and corrections by
staff."""

from datetime import datetime
from typing import Annotated, Literal, NotRequired
from uuid import UUID

from aiohttp import web
from typing_extensions import TypedDict

from server.admin_api.endpoint import Call, answer, page_of
from server.admin_api.models import (
    AdjustCreditsRequest,
    LedgerQuery,
    PageQuery,
    ResetFreeUsesRequest,
    SetStatusRequest,
    UserPath,
)
from server.gateway import Row, functions
from server.http import fields as f
from server.http.answers import From, reader
from server.http.example_values import ACCOUNT_ID, AT, COUNTED, CREDIT_ID, PAGED, THEN
from server.http.route import Example


class LedgerEntry(f.LedgerRow):
    """An entry of an account's ledger."""

    paid_with: Annotated[
        Literal["free", "paid"] | None,
        f.means("Whether a free use or paid credits paid; null for credits."),
    ]
    metadata: Annotated[f.Origin | None, f.ENTRY_ORIGIN, From(f.origin_of_charge)]
    free_uses_change: Annotated[
        f.Integer, f.means("Free uses; negative for those used, positive for those given back.")
    ]
    reversed_minor: Annotated[f.Count, f.REVERSED]
    corrects_id: NotRequired[Annotated[UUID, f.CORRECTS]]


class LedgerPage(f.CountedPage):
    """A page of an account's ledger."""

    transactions: Annotated[list[LedgerEntry], f.TRANSACTIONS]
    next_cursor: Annotated[str | None, f.NEXT_CURSOR]


class Check(TypedDict):
    """A check as it was answered."""

    check_id: Annotated[UUID, f.means("The check.")]
    has_credit: Annotated[bool, f.HAS_CREDIT]
    created_at: Annotated[datetime, f.WHEN]
    reason: Annotated[
        str | None, From("denial_reason"), f.means("Why not; null when the user might go on.")
    ]
    credits_remaining: Annotated[f.Count | None, f.CREDITS_LEFT]
    free_uses_remaining: Annotated[f.Count | None, f.FREE_USES_REMAINING]
    agent_id: Annotated[str | None, From("context_agent_id"), f.means("The agent that asked.")]
    channel_id: Annotated[str | None, From("context_channel_id"), f.CHANNEL_ID]
    request_id: Annotated[
        str | None,
        From("context_request_id"),
        f.means("The agent's own id for what it was about to work on."),
    ]


class CheckPage(f.OpenPage):
    """A page of an account's checks."""

    checks: Annotated[list[Check], f.means("Checks.")]


class Adjustment(TypedDict):
    """Credits that staff added or took away."""

    credit_id: Annotated[UUID, f.CREDIT_ID]
    account_id: Annotated[UUID, f.ACCOUNT_ID]
    amount_minor: Annotated[
        f.Integer, f.means("Credits added; negative when they were taken away.")
    ]
    balance_before: Annotated[f.Count, f.means("Paid credits before this entry.")]
    balance_after: Annotated[f.Count, f.NEW_BALANCE]
    created_at: Annotated[datetime, f.WHEN]


class FreeUsesReset(TypedDict):
    """An account's free uses."""

    account_id: Annotated[UUID, f.ACCOUNT_ID]
    free_uses_before: Annotated[f.Count, f.means("Free uses left before.")]
    free_uses_remaining: Annotated[f.Count, f.FREE_USES_REMAINING]


class StatusChange(TypedDict):
    """An account's state."""

    account_id: Annotated[UUID, f.ACCOUNT_ID]
    status: Annotated[Literal["active", "suspended", "closed"], f.STATE]
    previous_status: Annotated[
        Literal["active", "suspended", "closed"], f.means("The state the account was in.")
    ]


_PATH = {"account_id": ACCOUNT_ID}
LEDGER = Example(
    {
        "transactions": [
            {
                "transaction_id": CREDIT_ID,
                "type": "credit",
                "amount_minor": 20,
                "currency": "USD",
                "description": "Welcome gift",
                "created_at": THEN,
                "balance_after": 20,
                "transaction_type": "grant",
                "external_transaction_id": None,
                "paid_with": None,
                "metadata": None,
                "free_uses_change": 0,
                "reversed_minor": 0,
            }
        ],
        **COUNTED,
        "next_cursor": None,
    },
    values=_PATH,
)
CHECKS = Example(
    {
        "checks": [
            {
                "check_id": "019a9c2e-5b1d-7c40-8f3a-6d2b9e0c4a18",
                "has_credit": False,
                "created_at": AT,
                "reason": "No free uses or credits remaining",
                "credits_remaining": 0,
                "free_uses_remaining": 0,
                "agent_id": "scout",
                "channel_id": "general",
                "request_id": "req-88",
            }
        ],
        **PAGED,
    },
    values=_PATH,
)
ADJUSTMENT = Example(
    {
        "credit_id": CREDIT_ID,
        "account_id": ACCOUNT_ID,
        "amount_minor": 5,
        "balance_before": 17,
        "balance_after": 22,
        "created_at": AT,
    },
    request={"amount_minor": 5, "reason": "Goodwill after the outage"},
    values=_PATH,
    idempotency_key="ticket-311",
)
FREE_USES = Example(
    {"account_id": ACCOUNT_ID, "free_uses_before": 0, "free_uses_remaining": 3},
    request={"reason": "A new start"},
    values=_PATH,
)
STATUS = Example(
    {"account_id": ACCOUNT_ID, "status": "suspended", "previous_status": "active"},
    request={"status": "suspended", "reason": "Card reported stolen"},
    values=_PATH,
)

_entry = reader(LedgerEntry, functions.list_transactions.columns)
_check = reader(Check, functions.list_checks.columns)
_status = reader(StatusChange, functions.set_account_status.columns)


async def list_user_transactions(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists an account's ledger, newest first, with the balance after each entry. Go on with
    `cursor`, not `page`, where entries may be added meanwhile."""
    query: LedgerQuery = call.query
    account = await _account(call)
    rows = await call.rows(
        functions.list_transactions(
            oauth_provider=account["oauth_provider"],
            external_id=account["external_id"],
            limit=query.page_size,
            offset=query.offset,
            cursor=query.cursor,
        )
    )
    total = rows[0]["total_count"]
    page: LedgerPage = {
        "transactions": [_entry(row) for row in rows if row["transaction_id"]],
        "total": total,
        "page": query.page,
        "page_size": query.page_size,
        "total_pages": -(-total // query.page_size),
        "next_cursor": rows[0]["next_cursor"],
    }
    return answer(200, page)


async def list_user_checks(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists the answers to an account's checks, newest first, with the reason of each denial."""
    query: PageQuery = call.query
    account = await _account(call)
    rows = await call.rows(
        functions.list_checks(
            account_id=account["account_id"],
            limit=query.page_size + 1,
            offset=query.offset,
        )
    )
    return answer(200, page_of("checks", rows, query, _check))


async def adjust_credits(request: web.Request, call: Call) -> web.StreamResponse:
    """Adds paid credits to an account, or takes some away. It never takes more than the account
    has."""
    path: UserPath = call.path
    body: AdjustCreditsRequest = call.body
    row = await call.row(
        functions.adjust_credits(
            account_id=path.account_id,
            amount=body.amount_minor,
            reason=body.reason,
            idempotency_key=call.idempotency_key,
            expires_at=body.expires_at,
            priority=body.priority,
            source=body.source,
        )
    )
    adjustment: Adjustment = {
        "credit_id": row["credit_id"],
        "account_id": row["account_id"],
        "amount_minor": row["amount_minor"],
        "balance_before": row["balance_before"],
        "balance_after": row["balance_after"],
        "created_at": row["created_at"],
    }
    return answer(201, adjustment, {"Idempotent-Replayed": "true"} if row["replayed"] else None)


async def reset_free_uses(request: web.Request, call: Call) -> web.StreamResponse:
    """Sets how many free uses an account has left, by default to what new accounts get."""
    path: UserPath = call.path
    body: ResetFreeUsesRequest = call.body
    row = await call.row(
        functions.reset_free_uses(
            account_id=path.account_id,
            reason=body.reason,
            free_uses=body.free_uses,
        )
    )
    uses: FreeUsesReset = {
        "account_id": path.account_id,
        "free_uses_before": row["free_uses_before"],
        "free_uses_remaining": row["free_uses_remaining"],
    }
    return answer(200, uses)


async def set_user_status(request: web.Request, call: Call) -> web.StreamResponse:
    """Suspends an account, closes it, or makes it active again. A suspended or closed account is
    not charged."""
    body: SetStatusRequest = call.body
    account = await _account(call)
    row = await call.row(
        functions.set_account_status(
            oauth_provider=account["oauth_provider"],
            external_id=account["external_id"],
            status=body.status,
            reason=body.reason,
        )
    )
    return answer(200, _status(row))


async def _account(call: Call) -> Row:
    """Returns the account of the path. Raises Refused (account_not_found)."""
    path: UserPath = call.path
    return await call.row(functions.get_account_by_id(account_id=path.account_id))
