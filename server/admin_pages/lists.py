"""Lists: which rows to ask a function for and which of them to show, the columns by which they can
be sorted, the days that they are limited to, and the whole list as CSV."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, TypedDict
from urllib.parse import urlencode

from aiohttp import web

from server.admin_pages.page import CSV_LIMIT, HEADERS, PAGE_SIZE, FormFault
from server.csv_text import csv_lines
from server.http.validation import finite_day, last_of_days

_CSV_STEP = 500


class Window(TypedDict):
    """Which rows of a list."""

    limit: int
    offset: int


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a list. `sort` is the name by which a function sorts by it, and `descending` says
    that this order begins with the greatest."""

    title: str
    sort: str | None = None
    descending: bool = True
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Heading:
    """A column as it is shown: `order` is its value of aria-sort where the list is sorted by it,
    and `link` sorts the list by it, or the other way round."""

    title: str
    is_number: bool
    link: str | None
    order: str | None


@dataclass(frozen=True, slots=True)
class Sorting:
    """By which column a list is sorted."""

    name: str
    is_reversed: bool

    @property
    def text(self) -> str:
        """The sorting as it stands in the address."""
        return f"-{self.name}" if self.is_reversed else self.name

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of a function that lists."""
        return {"sort": self.name, "reverse": self.is_reversed}


def window(number: int) -> Window:
    """The limit and offset of a page. One row more than is shown tells whether there is a next
    page."""
    return {"limit": PAGE_SIZE + 1, "offset": (number - 1) * PAGE_SIZE}


def sorting(query: Mapping[str, str], columns: Sequence[Column]) -> Sorting:
    """The sorting that an address asks for; with the newest first, or by the first column that
    sorts, when it asks for none that is known."""
    names = [column.sort for column in columns if column.sort]
    asked = query.get("sort", "")
    name = asked.removeprefix("-")
    if name in names:
        return Sorting(name, asked.startswith("-"))
    usual = next((name for name in ("newest", "created_at") if name in names), names[0])
    return Sorting(usual, False)


def sort_rows(rows: Sequence[Any], now: Sorting, columns: Sequence[Column]) -> list[Any]:
    """Sorts the rows of a list that is read as a whole by their value of the sorting's name; what
    has no value comes last."""
    descending = next(column.descending for column in columns if column.sort == now.name)
    known = [row for row in rows if row[now.name] is not None]
    known.sort(key=lambda row: row[now.name], reverse=descending != now.is_reversed)
    return [*known, *(row for row in rows if row[now.name] is None)]


def headings(
    columns: Sequence[Column], now: Sorting, path: str, query: Mapping[str, str]
) -> list[Heading]:
    """The heads of a list's columns. Their links keep `query`."""

    def heading(column: Column) -> Heading:
        if column.sort is None:
            return Heading(column.title, column.is_number, None, None)
        is_current = column.sort == now.name
        other = Sorting(column.sort, is_current and not now.is_reversed)
        order = None
        if is_current:
            order = "descending" if column.descending != now.is_reversed else "ascending"
        link = f"{path}?{urlencode({**query, 'sort': other.text})}"
        return Heading(column.title, column.is_number, link, order)

    return [heading(column) for column in columns]


def days_given(query: Mapping[str, str]) -> dict[str, str]:
    """The first and the last day as they stand in an address."""
    return {name: query.get(name, "").replace("\0", "").strip() for name in ("from", "to")}


def days_of(given: Mapping[str, str]) -> dict[str, Any]:
    """The days as arguments of a function that lists. Raises FormFault for what is no day."""
    days: dict[str, date | None] = {}
    faults: dict[str, str] = {}
    for name in ("from", "to"):
        try:
            days[name] = finite_day(date.fromisoformat(given[name])) if given[name] else None
        except ValueError:
            faults[name] = "Give a day as 2026-11-22."
    if faults:
        raise FormFault(**faults)
    try:
        last_of_days(days["from"], days["to"])
    except ValueError as error:
        raise FormFault(to=f"{error}.") from None
    return {"from_": days["from"], "to": days["to"]}


def list_page(
    rows: Sequence[Any],
    number: int,
    path: str,
    query: Mapping[str, str],
    anchor: str = "",
    *,
    next_cursor: str | None = None,
) -> dict[str, Any]:
    """A page's rows and its pager, whose links keep `query` and lead to `anchor`. Where the list
    has cursors, the next page begins at one, whatever rows are added meanwhile."""

    def address(other: int, **more: str) -> str:
        return f"{path}?{urlencode({**query, 'page': str(other), **more})}{anchor}"

    following = None
    if next_cursor is not None:
        following = address(number + 1, cursor=next_cursor)
    elif len(rows) > PAGE_SIZE:
        following = address(number + 1)

    return {
        "rows": rows[:PAGE_SIZE],
        "number": number,
        "pager": {
            "number": number,
            "first": address(1),
            "previous": address(number - 1) if number > 1 else None,
            "next": following,
        },
    }


def csv_address(path: str, query: Mapping[str, str]) -> str:
    """The address of the same list as CSV."""
    return f"{path}.csv?{urlencode(query)}" if query else f"{path}.csv"


async def every_row(
    read: Callable[[Window], Awaitable[Sequence[Any]]],
) -> list[Any]:
    """All rows of a list, page by page; one more than CSV_LIMIT when there are more."""
    rows: list[Any] = []
    while len(rows) <= CSV_LIMIT:
        step = await read({"limit": _CSV_STEP + 1, "offset": len(rows)})
        rows += step[:_CSV_STEP]
        if len(step) <= _CSV_STEP:
            break
    return rows


async def send_list(name: str, columns: Sequence[str], rows: Sequence[Any]) -> web.StreamResponse:
    """A list as CSV. A column is the name of a row's value. At most CSV_LIMIT rows are sent; when
    there are more, the last line says so."""
    lines: list[Sequence[Any]] = [columns]
    lines += ([row[column] for column in columns] for row in rows[:CSV_LIMIT])
    is_cut = len(rows) > CSV_LIMIT
    if is_cut:
        lines.append([f"Only the first {CSV_LIMIT:,} rows are here: narrow the filters."])
    return web.Response(
        body=await asyncio.to_thread(csv_lines, lines),
        content_type="text/csv",
        charset="utf-8",
        headers={
            **HEADERS,
            "Content-Disposition": f'attachment; filename="{name}.csv"',
            "X-Truncated": "true" if is_cut else "false",
        },
    )
