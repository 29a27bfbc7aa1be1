"""/admin/api/analytics: the service in figures (contract.md 5, changed by 8.7)."""

from datetime import date
from typing import Annotated

from aiohttp import web
from typing_extensions import TypedDict

from server.admin_api.endpoint import Call, answer
from server.admin_api.models import DailyQuery
from server.gateway import functions
from server.http import fields as f
from server.http.answers import From, reader
from server.http.route import Example


class Overview(TypedDict):
    """The service at a glance."""

    total_users: Annotated[f.Count, f.means("Accounts in any state.")]
    active_users: Annotated[f.Count, f.means("Accounts in the state active.")]
    total_api_keys: Annotated[f.Count, f.means("API keys in any state.")]
    active_api_keys: Annotated[f.Count, f.means("API keys in the state active.")]
    total_balance_minor: Annotated[
        f.Count, f.means("Reserved for real money; nothing can spend it.")
    ]
    total_charged_all_time: Annotated[f.Count, f.means("Paid credits that were ever charged.")]
    total_credited_all_time: Annotated[f.Count, f.means("Credits that were ever added.")]
    charges_last_24h: Annotated[f.Count, f.means("Charges of the last 24 hours.")]
    credits_last_24h: Annotated[
        f.Count, f.means("How often credits were added in the last 24 hours.")
    ]
    charges_last_7d: Annotated[f.Count, f.means("Charges of the last 7 days.")]
    credits_last_7d: Annotated[f.Count, f.means("How often credits were added in the last 7 days.")]


class Daily(TypedDict):
    """A day in figures."""

    date: Annotated[date, From("day"), f.means("The day, in UTC.")]
    charges: Annotated[f.Count, f.means("Charges, those that free uses paid for included.")]
    credits: Annotated[f.Count, f.means("How often credits were added.")]
    charge_amount: Annotated[
        f.Count, f.means("Credits that were charged, those that free uses paid for included.")
    ]
    credit_amount: Annotated[f.Count, From("credits_added"), f.means("Credits that were added.")]
    unique_users: Annotated[
        f.Count,
        f.means("Users of that day: accounts that were charged, with a free use or credits."),
    ]
    free_charges: Annotated[f.Count, f.means("Charges that free uses paid for.")]
    credits_used: Annotated[f.Count, f.means("Paid credits that were charged.")]
    credits_sold: Annotated[f.Count, f.means("Credits that were bought.")]
    credits_taken_back: Annotated[
        f.Count, f.means("Credits that were taken away, after refunds or by staff.")
    ]
    checks: Annotated[f.Count, f.means("Checks.")]
    checks_denied: Annotated[f.Count, f.means("Checks that were answered with no.")]
    accounts_created: Annotated[f.Count, f.means("Accounts made that day.")]


OVERVIEW = Example(
    {
        "total_users": 1042,
        "active_users": 1040,
        "total_api_keys": 4,
        "active_api_keys": 3,
        "total_balance_minor": 0,
        "total_charged_all_time": 88210,
        "total_credited_all_time": 91400,
        "charges_last_24h": 412,
        "credits_last_24h": 9,
        "charges_last_7d": 2980,
        "credits_last_7d": 61,
    }
)
DAILY = Example(
    [
        {
            "date": f"2026-11-{day}",
            "charges": 412,
            "credits": 9,
            "charge_amount": 412,
            "credit_amount": 180,
            "unique_users": 77,
            "free_charges": 30,
            "credits_used": 382,
            "credits_sold": 160,
            "credits_taken_back": 0,
            "checks": 640,
            "checks_denied": 12,
            "accounts_created": 10,
        }
        for day in (21, 22)
    ],
    values={"days": 1},
)

_overview = reader(Overview, functions.get_overview.columns)
_day = reader(Daily, functions.list_daily_figures.columns)


async def get_overview(request: web.Request, call: Call) -> web.StreamResponse:
    """The service at a glance. The last 24 hours and 7 days are exact to five minutes."""
    return answer(200, _overview(await call.row(functions.get_overview())))


async def list_daily_figures(request: web.Request, call: Call) -> web.StreamResponse:
    """Returns a row for each of the last `days` days, oldest first, and one for today."""
    query: DailyQuery = call.query
    rows = await call.rows(functions.list_daily_figures(days=query.days))
    return answer(200, [_day(row) for row in rows])
