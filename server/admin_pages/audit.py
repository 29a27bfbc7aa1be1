"""/admin/audit: who did what, when, why and from where, as a page and as CSV."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import orjson
from aiohttp import web

from server.admin_pages.activity import told
from server.admin_pages.lists import (
    Column,
    csv_address,
    days_given,
    days_of,
    headings,
    list_page,
    send_list,
    sorting,
    window,
)
from server.admin_pages.page import CSV_LIMIT, FormFault, page_number, render
from server.gateway import Row, functions
from server.staff.guard import Visit

_PATH = "/admin/audit"
_TEXTS = {"who": "who", "action": "action", "thing": "resource_id"}
# Column of the CSV -> column of billing.list_audit_log.
_COLUMNS = {
    "when": "created_at",
    "who": "who",
    "action": "action",
    "thing": "resource_type",
    "thing_id": "resource_id",
    "account": "account_name",
    "other_account": "other_account_name",
    "reason": "reason",
    "changes": "changes",
    "address": "ip_address",
    "browser": "user_agent",
    "login": "database_login",
}
_HEADS = (
    Column("When", "newest"),
    Column("Who"),
    Column("What"),
    Column("Changes"),
    Column("Why"),
    Column("From where"),
)


@dataclass(frozen=True, slots=True)
class Change:
    """One line of what a change did: the value before, where it is known, and the value after."""

    name: str
    value: str
    before: str | None = None


async def list_entries(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Shows a page of the log."""
    given, number = _given(request), page_number(request.query)
    order = sorting(request.query, _HEADS)
    faults: Mapping[str, str] = {}
    rows: list[Row] = []
    total: Row | None = None
    try:
        filters = _filters(given)
        rows = await visit.rows(
            functions.list_audit_log(**filters, reverse=order.is_reversed, **window(number))
        )
        total = await visit.row(functions.count_audit_log(**filters))
    except FormFault as error:
        faults = error.faults
    chosen = {name: value for name, value in given.items() if value}
    sorted_query = {**chosen, "sort": order.text} if "sort" in request.query else chosen
    shown = list_page(rows, number, _PATH, sorted_query)
    return await render(
        visit,
        "admin/audit/list.html",
        status=422 if faults else 200,
        total=total,
        entries=[_shown(row) for row in shown["rows"]],
        pager=shown["pager"],
        headings=headings(_HEADS, order, _PATH, chosen),
        form=given,
        faults=faults,
        is_filtered=bool(chosen),
        csv_address=csv_address(_PATH, sorted_query),
    )


async def export(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Sends the entries that match as CSV."""
    try:
        filters = _filters(_given(request))
    except FormFault:
        raise web.HTTPUnprocessableEntity(reason="Give days as 2026-11-22") from None
    # One row more than is sent tells whether there are more.
    order = sorting(request.query, _HEADS)
    rows = await visit.rows(
        functions.list_audit_log(
            **filters, reverse=order.is_reversed, limit=CSV_LIMIT + 1, offset=0
        )
    )
    return await send_list("audit-log", list(_COLUMNS), [_csv_row(row) for row in rows])


def _given(request: web.Request) -> dict[str, str]:
    texts = {
        name: request.query.get(name, "").replace("\0", "").strip() for name in (*_TEXTS, "entry")
    }
    return {**texts, **days_given(request.query)}


def _filters(given: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of the function. Raises FormFault for text that is not a day or an id."""
    entry_id = None
    if given["entry"]:
        try:
            entry_id = UUID(given["entry"])
        except ValueError:
            raise FormFault(entry="This is not the id of an entry.") from None
    texts = {argument: given[name] or None for name, argument in _TEXTS.items()}
    return {**texts, **days_of(given), "entry_id": entry_id}


def _shown(row: Row) -> dict[str, Any]:
    entry = dict(row)
    entry["about_two"] = told(row)["parts"] if row["other_account_id"] else None
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
    if before is None and isinstance(after, dict):  # it was made
        return [
            *lines,
            *(
                Change(name.replace("_", " "), _text(value))
                for name, value in after.items()
                if value is not None
            ),
        ]
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


def _csv_row(row: Row) -> dict[str, Any]:
    """The entry under the names of the CSV's columns."""
    changes = orjson.dumps(_json(row["changes"])).decode() if row["changes"] else ""
    return {
        **{column: row[name] for column, name in _COLUMNS.items() if name != "changes"},
        "changes": changes,
    }
