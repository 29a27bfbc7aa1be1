"""/admin/api/analytics: the service in figures (contract.md 5, mended by 8.7)."""

from __future__ import annotations

from aiohttp import web

from server.admin_api.endpoint import Call, answer, pick
from server.admin_api.models import DailyQuery
from server.gateway import calls

_OVERVIEW = (
    "total_users",
    "active_users",
    "total_api_keys",
    "active_api_keys",
    "total_balance_minor",
    "total_charged_all_time",
    "total_credited_all_time",
    "charges_last_24h",
    "credits_last_24h",
    "charges_last_7d",
    "credits_last_7d",
)
_FURTHER = (
    "free_charges",
    "credits_used",
    "credits_sold",
    "credits_taken_back",
    "checks",
    "checks_denied",
    "accounts_created",
)


async def overview(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with eleven figures."""
    return answer(200, pick(await call.row(calls.GET_OVERVIEW), *_OVERVIEW))


async def daily(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with a row for each of the last days, the oldest first, and one for today."""
    query: DailyQuery = call.query
    rows = await call.rows(calls.LIST_DAILY_FIGURES, days=query.days)
    return answer(
        200,
        [
            {
                **pick(row, date="day", charges="charges", credits="credits"),
                **pick(row, charge_amount="charge_amount", credit_amount="credits_added"),
                **pick(row, "unique_users", *_FURTHER),
            }
            for row in rows
        ],
    )
