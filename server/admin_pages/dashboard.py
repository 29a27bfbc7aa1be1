"""/admin: what happened in a period, beside the period before; what needs a person; and the newest
actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from server.admin_pages.activity import told
from server.admin_pages.charts import bar_chart
from server.admin_pages.lists import Heading, days_given, days_of, send_list
from server.admin_pages.page import FormFault, render
from server.gateway import Row, functions
from server.staff.guard import Visit

_RANGES = (("today", "Today", 1), ("7", "7 days", 7), ("30", "30 days", 30), ("90", "90 days", 90))
_DEFAULT = "30"
_MOST_DAYS = 366
_CHARTS = (
    ("checks", "Checks"),
    ("charges", "Charges"),
    ("credits_sold", "Credits sold"),
    ("unique_users", "Users"),
)
_FIGURES = (
    ("Checks", "checks"),
    ("of them denied", "checks_denied"),
    ("Charges, free", "free_charges"),
    ("Charges, paid", "paid_charges"),
    ("Credits sold", "credits_sold"),
    ("Credits used", "credits_used"),
    ("Users", "users"),
    ("New accounts", "accounts"),
)


_COLUMNS = (
    ("Checks", "checks"),
    ("Denied", "checks_denied"),
    ("Charges", "charges"),
    ("of them free", "free_charges"),
    ("Credits sold", "credits_sold"),
    ("Credits used", "credits_used"),
    ("Users", "unique_users"),
    ("New accounts", "accounts_created"),
)


@dataclass(frozen=True, slots=True)
class Period:
    """Whole UTC days, both included."""

    first: date
    last: date

    @property
    def days(self) -> int:
        """How many days."""
        return (self.last - self.first).days + 1

    @property
    def before(self) -> Period:
        """The period of the same length before this one."""
        return Period(self.first - timedelta(days=self.days), self.first - timedelta(days=1))

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of functions that count a period, which ends before its last argument."""
        return {"from_": self.first, "to": self.last + timedelta(days=1)}


async def show(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Shows the dashboard."""
    chosen, given = request.query.get("range", ""), days_given(request.query)
    faults: Mapping[str, str] = {}
    try:
        chosen, period = _period(chosen, given)
    except FormFault as fault:
        faults = fault.faults
        chosen, period = _period(_DEFAULT, {})
    unit, rows = await _rows(visit, period)
    now = _with_shares(await visit.row(functions.get_figures(**period.arguments)))
    before = _with_shares(await visit.row(functions.get_figures(**period.before.arguments)))
    # Somebody who came on two days is one user, so the rows must not be added up.
    totals = {"unique_users": now["users"]}
    activity = await visit.rows(functions.list_audit_log(limit=10))
    return await render(
        visit,
        "admin/dashboard.html",
        status=422 if faults else 200,
        ranges=[(f"/admin?range={name}", title, name == chosen) for name, title, _ in _RANGES],
        period=period,
        form=given if faults else _days_shown(period),
        faults=faults,
        figures=[
            _figure(title, now[name], before[name], now.get(f"{name}_share"))
            for title, name in _FIGURES
        ],
        money=_beside(
            await visit.rows(functions.list_money(**period.arguments)),
            await visit.rows(functions.list_money(**period.before.arguments)),
        ),
        payments_address=f"/admin/payments?{urlencode({'days': 'paid', **_days_shown(period)})}",
        overview=await visit.row(functions.get_overview()),
        unit=unit,
        rows=rows,
        columns=_COLUMNS,
        headings=[
            Heading(unit.capitalize(), False, None, None),
            *(Heading(title, True, None, None) for title, _ in _COLUMNS),
        ],
        csv_address=f"/admin/figures.csv?{urlencode(_days_shown(period))}",
        charts=[bar_chart(name, title, rows, totals.get(name)) for name, title in _CHARTS],
        activity=[told(entry) for entry in activity],
    )


async def export(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Sends the figures of each day, or of each hour of one day, as CSV."""
    try:
        _, period = _period(request.query.get("range", ""), days_given(request.query))
    except FormFault:
        raise web.HTTPUnprocessableEntity(reason="Give days as 2026-11-22") from None
    _, rows = await _rows(visit, period)
    return await send_list("figures", list(rows[0].keys()), rows)


async def _rows(visit: Visit, period: Period) -> tuple[str, list[Row]]:
    """The figures of each day of a period, or of each hour where it is one day, and which of the
    two they are."""
    if period.days == 1:
        return "hour", await visit.rows(functions.list_hourly_figures(day=period.first))
    return "day", await visit.rows(
        functions.list_daily_figures(days=period.days - 1, to=period.last)
    )


def _period(chosen: str, given: Mapping[str, str]) -> tuple[str, Period]:
    """The name of the range and its days; a range of days of one's own has no name. Raises
    FormFault."""
    today = datetime.now(UTC).date()
    if not chosen and any(given.values()):
        days = days_of({**given, "to": given["to"] or today.isoformat()})
        last = days["to"]
        first = days["from_"] or last
        if not 2000 <= first.year <= last.year <= 9000:
            raise FormFault(**{"from": "Give days of the years 2000 to 9000."})
        if (last - first).days >= _MOST_DAYS:
            raise FormFault(to=f"Give at most {_MOST_DAYS} days.")
        return "", Period(first, last)
    counts = {name: count for name, _, count in _RANGES}
    name = chosen if chosen in counts else _DEFAULT
    return name, Period(today - timedelta(days=counts[name] - 1), today)


def _days_shown(period: Period) -> dict[str, str]:
    return {"from": period.first.isoformat(), "to": period.last.isoformat()}


def _with_shares(row: Row) -> dict[str, Any]:
    """The figures, with those that follow from others."""
    checks, denied = row["checks"], row["checks_denied"]
    return {
        **dict(row),
        "paid_charges": row["charges"] - row["free_charges"],
        "checks_denied_share": f"{100 * denied / checks:.1f} %" if checks else None,
    }


def _figure(title: str, now: Any, before: Any, share: str | None) -> dict[str, Any]:
    """A figure beside that of the period before; `change` says by how much it grew."""
    change = None
    if before and now != before:
        change = f"{100 * (int(now) - int(before)) / int(before):+.0f} %"
    return {"title": title, "now": now, "before": before, "share": share, "change": change}


def _beside(now: list[Row], before: list[Row]) -> list[dict[str, Any]]:
    """The money of both periods by currency; a currency may be in one of them only."""
    rows: dict[str, dict[str, Any]] = {}
    for name, found in (("now", now), ("before", before)):
        for row in found:
            rows.setdefault(row["currency"], {"currency": row["currency"]})[name] = row
    return [{"now": None, "before": None, **rows[currency]} for currency in sorted(rows)]


async def not_found(request: web.Request) -> web.StreamResponse:
    """Answers every other address below /admin."""
    raise web.HTTPNotFound
