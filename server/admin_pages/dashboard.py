"""/admin: today, the last 30 days, and the newest actions."""

from __future__ import annotations

from aiohttp import web

from server.admin_pages.charts import bar_chart
from server.admin_pages.page import render
from server.gateway import functions
from server.staff.guard import Visit

_DAYS = 30
_CHARTS = (
    ("checks", "Checks"),
    ("charges", "Charges"),
    ("credits_sold", "Credits sold"),
    ("unique_users", "Unique users"),
)


async def show(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Shows the dashboard."""
    days = await visit.rows(functions.list_daily_figures(days=_DAYS - 1))  # the function adds today
    overview = await visit.row(functions.get_overview())
    # Somebody who came on two days is one user, so the days must not be added up.
    totals = {"unique_users": overview["unique_users_30d"]}
    return await render(
        visit,
        "admin/dashboard.html",
        overview=overview,
        today=days[-1],
        days=days,
        charts=[bar_chart(name, title, days, totals.get(name)) for name, title in _CHARTS],
        activity=await visit.rows(functions.list_audit_log(limit=10)),
    )


async def not_found(request: web.Request) -> web.StreamResponse:
    """Answers every other address below /admin."""
    raise web.HTTPNotFound
