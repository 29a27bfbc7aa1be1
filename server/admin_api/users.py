"""/admin/api/users: finding accounts and reading one (contract.md 5, mended by 8.14)."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from server.admin_api.endpoint import Call, answer, pick
from server.admin_api.models import UserPath, UsersQuery
from server.gateway import Row, calls

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
    "created_at",
    "last_charge_at",
    "last_credit_at",
    "total_charged",
    "total_credited",
    "charge_count",
    "credit_count",
    "paid_credits",
    "free_uses_remaining",
    "total_uses",
)
_DETAILS = (
    "user_role",
    "agent_id",
    "marketing_opt_in",
    "marketing_opt_in_at",
    "marketing_opt_in_source",
    "updated_at",
)


async def list_users(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with one page, by default of all accounts, the newest first."""
    query: UsersQuery = call.query
    rows = await call.rows(
        calls.LIST_ACCOUNTS,
        search=query.search,
        status=query.status_filter or None,
        sort=query.sort,
        match=query.match,
        limit=query.page_size,
        offset=query.offset,
        count=True,
    )
    total = rows[0]["total_count"]
    return answer(
        200,
        {
            "users": [_user(row) for row in rows if row["account_id"]],
            "total": total,
            "page": query.page,
            "page_size": query.page_size,
            "total_pages": -(-total // query.page_size),
        },
    )


async def get_user(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with the account and what is known of its owner; 404 for an unknown id."""
    path: UserPath = call.path
    row = await call.row(calls.GET_ACCOUNT_BY_ID, account_id=path.account_id)
    return answer(200, _user(row) | pick(row, *_DETAILS))


def _user(row: Row) -> dict[str, Any]:
    return pick(row, *_FIELDS)
