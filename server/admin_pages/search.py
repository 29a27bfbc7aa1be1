"""/admin/search: the one search of the console. One hit leads there; several are shown by kind."""

from __future__ import annotations

from itertools import groupby
from typing import Any
from urllib.parse import quote, urlencode

from aiohttp import web

from server.admin_pages.page import render, see_other
from server.admin_pages.timeline import row_address
from server.admin_pages.visible import exact
from server.gateway import Row, functions
from server.limits import most
from server.staff.guard import Visit

_LIMIT = 10
_KINDS = {
    "account": "Accounts",
    "payment": "Payments",
    "event": "Events of payment providers",
    "charge": "Charges",
    "credit": "Credits",
    "hold": "Holds",
    "key": "API keys",
    "staff": "Staff",
    "audit": "Audit log",
}


async def find(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Shows what was found, or leads to it when it is one thing."""
    asked = exact(request.query.get("q", "").replace("\0", "").strip())[: most()]
    rows = await visit.rows(functions.search(search=asked, limit=_LIMIT + 1)) if asked else []
    if len(rows) == 1:
        return see_other(address_of(rows[0]))
    order = list(_KINDS)
    rows = sorted(rows, key=lambda row: order.index(row["kind"]))
    return await render(
        visit,
        "admin/search.html",
        asked=asked,
        groups=[
            _group(kind, list(found), asked) for kind, found in groupby(rows, lambda r: r["kind"])
        ],
        whole_search=f"/admin/accounts?{urlencode({'search': asked, 'match': 'substring'})}",
    )


def _group(kind: str, rows: list[Row], asked: str) -> dict[str, Any]:
    more = None
    if len(rows) > _LIMIT:
        more = {
            "account": f"/admin/accounts?{urlencode({'search': asked})}",
            "audit": "/admin/audit",
            "key": "/admin/keys",
            "staff": "/admin/staff",
        }.get(kind)
    return {
        "title": _KINDS[kind],
        "rows": [{**dict(row), "address": address_of(row)} for row in rows[:_LIMIT]],
        "is_cut": len(rows) > _LIMIT,
        "more": more,
    }


def address_of(hit: Row) -> str:
    """The page that shows what was found."""
    kind, name = hit["kind"], quote(hit["id"], safe="")
    if kind in ("charge", "credit", "hold"):
        return row_address(hit["account_id"], hit["id"])
    return {
        "account": f"/admin/accounts/{name}",
        "payment": f"/admin/payments/{name}",
        "event": f"/admin/payments/events?event={name}#event-{name}",
        "key": f"/admin/keys#key-{name}",
        "staff": "/admin/staff",
        "audit": f"/admin/audit?entry={name}#{name}",
    }[kind]
