"""/admin/accounts/{account_id}/statement: an account's statement of a period, to look at, to print
and as CSV; and /admin/consumers: who used most in a month."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from aiohttp import web

from server.admin_pages.account_view import account_id_of, address_of, read_account
from server.admin_pages.charts import bar_chart
from server.admin_pages.lists import (
    Column,
    Sorting,
    csv_address,
    headings,
    send_list,
    sorting,
)
from server.admin_pages.money import write_money
from server.admin_pages.page import CSV_LIMIT, HEADERS, PAGE_SIZE, FormFault, render
from server.admin_pages.timeline import origin_address
from server.gateway import FunctionCall, Row, functions
from server.http.statements import month_after, open_statement, send_csv
from server.staff.guard import Visit

_TOP = "/admin/consumers"
_CONSUMERS = (
    Column("Place", is_number=True),
    Column("Account"),
    Column("Uses", "uses", is_number=True),
    Column("of them free", is_number=True),
    Column("Credits used", "credits", is_number=True),
    Column("Last used"),
    Column("Statement"),
)
_ENTRIES = 500  # entries on a page
_FIRST_YEAR, _LAST_YEAR = 2000, 9000
_MOST_DAYS = 366


async def show(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Shows a statement; of a long one, a page of its entries."""
    account = await read_account(visit, account_id_of(request))
    given = {name: request.query.get(name, "").strip() for name in ("from", "last", "to")}
    faults: Mapping[str, str] = {}
    try:
        first, beyond = _period(given)
    except FormFault as error:
        faults = error.faults
        first, beyond = _period({})
    statement = await open_statement(
        visit.rows, account["account_id"], _midnight(first), _midnight(beyond)
    )
    after = _version(request.query.get("after", ""), statement.after, statement.through)
    rows = await statement.page(after, _ENTRIES)
    days = await visit.rows(
        functions.list_usage(from_=first, to=beyond, account_id=account["account_id"])
    )
    address = f"{address_of(account['account_id'])}/statement"
    period = _in_address(first, beyond)
    shown_to = min(statement.through, (statement.after if after is None else after) + _ENTRIES)
    return await render(
        visit,
        "admin/accounts/statement.html",
        status=422 if faults else 200,
        account=account,
        address=address,
        csv_address=f"{address}.csv?{urlencode(period)}",
        months=_months(address, first),
        first=first,
        last=beyond - timedelta(days=1),
        is_running=first <= datetime.now(UTC).date() < beyond,
        form=given if faults else period,
        faults=faults,
        rows=[_shown(account["account_id"], row) for row in rows],
        entry_count=statement.entry_count,
        next_page=f"{address}?{urlencode({**period, 'after': shown_to})}"
        if shown_to < statement.through
        else None,
        first_page=f"{address}?{urlencode(period)}" if after is not None else None,
        sums=_sums(days),
        money=[
            (currency, await write_money(visit.request, minor, currency))
            for currency, minor in _money(days)
        ],
        chart=bar_chart("charges", "Uses", _by_day(days)),
        made_at=datetime.now(UTC),
    )


def _shown(account_id: UUID, row: Row) -> dict[str, Any]:
    """The row with the address of what explains it."""
    return {**row, "origin_url": origin_address(account_id, row)}


async def export(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Sends a statement as CSV."""
    given = {name: request.query.get(name, "").strip() for name in ("from", "last", "to")}
    try:
        first, beyond = _period(given)
    except FormFault:
        raise web.HTTPUnprocessableEntity(reason="Give days as 2026-11-22") from None
    statement = await open_statement(
        visit.rows, account_id_of(request), _midnight(first), _midnight(beyond)
    )
    return await send_csv(request, statement, HEADERS)


async def list_consumers(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Shows who used most in a month."""
    month, beyond = _month(request)
    order = replace(sorting(request.query, _CONSUMERS), is_reversed=False)
    before = (month - timedelta(days=1)).replace(day=1)
    chosen = {"month": f"{month:%Y-%m}"}
    return await render(
        visit,
        "admin/accounts/consumers.html",
        month=month,
        rows=await visit.rows(_consumers(month, beyond, order)),
        page_size=PAGE_SIZE,
        links=[
            (f"{_TOP}?{urlencode({'month': f'{one:%Y-%m}', 'sort': order.name})}", one)
            for one in (before, beyond)
        ],
        headings=[
            replace(one, link=None) if one.order else one
            for one in headings(_CONSUMERS, order, _TOP, chosen)
        ],
        csv_address=csv_address(_TOP, {**chosen, "sort": order.name}),
        period=urlencode(_in_address(month, beyond)),
    )


async def export_consumers(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Sends who used most in a month as CSV."""
    month, beyond = _month(request)
    call = _consumers(month, beyond, sorting(request.query, _CONSUMERS))
    rows = await visit.rows(call.given(limit=CSV_LIMIT + 1))
    return await send_list("top-consumers", functions.list_top_consumers.columns, rows)


def _month(request: web.Request) -> tuple[date, date]:
    """The month in the address, or this one, and the one after it."""
    try:
        month = _day(request.query.get("month", "") + "-01", "month")
    except FormFault:
        month = datetime.now(UTC).date()
    month = month.replace(day=1)
    return month, month_after(_midnight(month)).date()


def _consumers(month: date, beyond: date, order: Sorting) -> FunctionCall:
    return functions.list_top_consumers(
        from_=month, to=beyond, sort=order.name, limit=PAGE_SIZE + 1
    )


def _period(given: Mapping[str, str]) -> tuple[date, date]:
    """The first day and the day after the last. Raises FormFault."""
    if given.get("from"):
        first = _day(given["from"], "from")
    else:
        first = datetime.now(UTC).date().replace(day=1)
    if given.get("last"):
        beyond = _day(given["last"], "last") + timedelta(days=1)
    elif given.get("to"):
        beyond = _day(given["to"], "last")  # old links name the day after the last
    else:
        return first, month_after(_midnight(first)).date()
    if not first < beyond <= first + timedelta(days=_MOST_DAYS):
        raise FormFault(
            last=f"Give the first day or a later one, at most {_MOST_DAYS} days in all."
        )
    return first, beyond


def _in_address(first: date, beyond: date) -> dict[str, str]:
    """The period as addresses give it: both days belong to it."""
    return {"from": first.isoformat(), "last": (beyond - timedelta(days=1)).isoformat()}


def _day(text: str, name: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise FormFault(**{name: "Give a day as 2026-11-22."}) from None
    if not _FIRST_YEAR <= day.year <= _LAST_YEAR:
        raise FormFault(**{name: f"Give a day of the years {_FIRST_YEAR} to {_LAST_YEAR}."})
    return day


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _version(text: str, low: int, high: int) -> int | None:
    """The ledger version behind which a page begins; None for the first page."""
    if text.isascii() and text.isdecimal() and len(text) < 19 and low < int(text) <= high:
        return int(text)
    return None


def _months(address: str, first: date) -> list[tuple[str, date, bool]]:
    """Links to the months around the one that is shown: address, month, whether it is this one."""
    month = first.replace(day=1)
    before = (month - timedelta(days=1)).replace(day=1)
    after = month_after(_midnight(month)).date()
    return [
        (f"{address}?{urlencode({'from': one.isoformat()})}", one, one == first)
        for one in (before, month, after)
    ]


_SUMMED = ("charges", "free_charges", "credits_used", "credits_added", "credits_taken_back")


def _sums(days: list[Row]) -> dict[str, int]:
    return {name: sum(int(day[name]) for day in days) for name in _SUMMED}


def _by_day(days: list[Row]) -> list[dict[str, Any]]:
    """One row for each day, where a day with several currencies has more."""
    found: dict[date, dict[str, Any]] = {}
    for day in days:
        row = found.setdefault(day["day"], {"day": day["day"], "charges": 0})
        row["charges"] += day["charges"]
    return list(found.values())


def _money(days: list[Row]) -> list[tuple[str, int]]:
    """Currency, and what was sold less what went back, in minor units."""
    found: dict[str, int] = {}
    for day in days:
        if day["currency"]:
            paid = int(day["sold_minor"]) - int(day["returned_minor"])
            found[day["currency"]] = found.get(day["currency"], 0) + paid
    return sorted(found.items())
