"""/admin/audit: who did what, when, why and from where, as a page and as CSV."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import date
from typing import Any
from urllib.parse import urlencode

import orjson
from aiohttp import web

from server.admin_pages.lists import list_page, window
from server.admin_pages.page import HEADERS, FormFault, page_number, render
from server.csv_text import csv_lines
from server.gateway import Row, functions
from server.http.validation import finite_day
from server.staff.guard import Visit

_EXPORT_LIMIT = 10_000  # the most that billing.list_audit_log returns at once
_TEXTS = {"who": "who", "action": "action", "thing": "resource_id"}
_COLUMNS = (
    "when",
    "who",
    "action",
    "thing",
    "thing_id",
    "reason",
    "changes",
    "address",
    "browser",
    "login",
)


@dataclass(frozen=True, slots=True)
class Change:
    """One line of what a change did: the value before, where it is known, and the value after."""

    name: str
    value: str
    before: str | None = None


async def list_entries(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Shows a page of the log."""
    given = _given(request)
    number = page_number(request.query)
    try:
        filters = _filters(given)
    except FormFault as error:
        return await _page(visit, given, [], 1, error.faults)
    rows = await visit.rows(functions.list_audit_log(**filters, **window(number)))
    return await _page(visit, given, rows, number, {})


async def export(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Sends the newest entries that match, as CSV."""
    try:
        filters = _filters(_given(request))
    except FormFault:
        raise web.HTTPUnprocessableEntity(reason="Give days as 2026-11-22") from None
    rows = await visit.rows(functions.list_audit_log(**filters, limit=_EXPORT_LIMIT, offset=0))
    return web.Response(
        body=await asyncio.to_thread(_csv, rows),
        content_type="text/csv",
        charset="utf-8",
        headers={**HEADERS, "Content-Disposition": 'attachment; filename="audit-log.csv"'},
    )


async def _page(
    visit: Visit,
    given: dict[str, str],
    rows: list[Row],
    number: int,
    faults: dict[str, str],
) -> web.StreamResponse:
    chosen = {name: value for name, value in given.items() if value}
    shown = list_page(rows, number, "/admin/audit", chosen)
    return await render(
        visit,
        "admin/audit/list.html",
        status=422 if faults else 200,
        entries=[_shown(row) for row in shown["rows"]],
        pager=shown["pager"],
        form=given,
        faults=faults,
        is_filtered=bool(chosen),
        export_url=f"/admin/audit.csv?{urlencode(chosen)}" if chosen else "/admin/audit.csv",
        export_limit=_EXPORT_LIMIT,
    )


def _given(request: web.Request) -> dict[str, str]:
    return {
        name: request.query.get(name, "").replace("\0", "").strip()
        for name in (*_TEXTS, "from", "to")
    }


def _filters(given: dict[str, str]) -> dict[str, Any]:
    """The arguments of the function. Raises FormFault for text that is not a day."""
    days: dict[str, date | None] = {}
    faults: dict[str, str] = {}
    for name in ("from", "to"):
        try:
            days[name] = finite_day(date.fromisoformat(given[name])) if given[name] else None
        except ValueError:
            faults[name] = "Give a day as 2026-11-22."
    if faults:
        raise FormFault(**faults)
    if days["from"] and days["to"] and days["from"] > days["to"]:
        raise FormFault(to="The last day is before the first.")
    texts = {argument: given[name] or None for name, argument in _TEXTS.items()}
    return texts | {"from_": days["from"], "to": days["to"]}


def _shown(row: Row) -> dict[str, Any]:
    entry = dict(row)
    entry["changes"] = changes_of(row["action"], _json(row["changes"]))
    entry["thing_url"] = f"/admin/audit?{urlencode({'thing': row['resource_id'] or ''})}"
    return entry


def _json(changes: Any) -> Any:
    return orjson.loads(changes) if isinstance(changes, str) else changes


def changes_of(action: str, changes: Any) -> list[Change]:
    """The `changes` of an entry, line by line."""
    if not isinstance(changes, dict):
        return [] if changes is None else [Change("value", _text(changes))]
    lines = [
        Change(name.replace("_", " "), _text(value))
        for name, value in changes.items()
        if name not in ("before", "after")
    ]
    if "before" not in changes and "after" not in changes:
        return lines
    before, after = changes.get("before"), changes.get("after")
    if not isinstance(before, dict) and not isinstance(after, dict):
        # The change is about one thing, which the action names: account.set_status.
        name = action.partition(".")[2].partition("_")[2].replace("_", " ") or "value"
        return [*lines, Change(name, _text(after), _text(before))]
    old = before if isinstance(before, dict) else {}
    new = after if isinstance(after, dict) else {}
    for name in dict.fromkeys((*old, *new)):
        label, value = name.replace("_", " "), _text(new.get(name))
        is_same = name in old and name in new and old[name] == new[name]
        lines.append(Change(label, value, None if is_same else _text(old.get(name))))
    return lines


def _text(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case str():
            return value
        case list():
            return ", ".join(_text(item) for item in value) or "nothing"
        case _:
            return orjson.dumps(value).decode()


def _csv(rows: list[Row]) -> bytes:
    return csv_lines(
        [
            _COLUMNS,
            *(
                (
                    row["created_at"],
                    row["who"],
                    row["action"],
                    row["resource_type"],
                    row["resource_id"],
                    row["reason"],
                    orjson.dumps(_json(row["changes"])).decode() if row["changes"] else "",
                    row["ip_address"],
                    row["user_agent"],
                    row["database_login"],
                )
                for row in rows
            ),
        ]
    )
