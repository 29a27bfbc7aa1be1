"""The page of one account: why it is as it is, its owner, its balances, a page of its history, and
the forms, which are shown again when they have a fault."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from aiohttp import web

from server.admin_pages.charts import Chart, bar_chart
from server.admin_pages.lists import list_page, window
from server.admin_pages.page import PAGE_SIZE, done, page_number, render
from server.admin_pages.timeline import Timeline, origin_address, read_timeline
from server.gateway import Refused, Row, functions
from server.http.app_keys import GATEWAY
from server.http.origins import with_origins
from server.http.validation import CURSOR
from server.staff.guard import Visit

_ATTEMPTS = 10  # how many of a top-up's newest attempts are shown
_LOTS = 200  # how many lots are shown, in the order of spending
_SCHEDULES = 50  # the newest
_OPEN_HOLDS = 50  # the newest
_SETTLED_HOLDS = 10  # at least, of those that there are
TABS = (
    ("timeline", "Timeline"),
    ("ledger", "Ledger"),
    ("checks", "Checks"),
    ("purchases", "Purchases"),
)
_PRESETS = (1, 5, 20, 100)  # credits that are granted in one step
_DAYS = 30  # of the chart


@dataclass(frozen=True, slots=True)
class FailedForm:
    """A form that is shown again with its input. Either it was refused, and `faults` say why; or it
    was only tried, and `tried` says what it would do."""

    name: str
    values: Mapping[str, str]
    faults: Mapping[str, str] = field(default_factory=dict)
    tried: Row | None = None


@dataclass(frozen=True, slots=True)
class _Tab:
    name: str = "timeline"
    number: int = 1
    cursor: str | None = None
    links: Sequence[tuple[str, str, bool]] = field(default=())


def address_of(account_id: UUID) -> str:
    """The path of an account's page."""
    return f"/admin/accounts/{account_id}"


def id_of(request: web.Request, name: str) -> UUID:
    """Returns the id of this name in the path. Raises HTTPNotFound for what is not an id."""
    text = request.match_info[name]
    try:
        found = UUID(text)
    except ValueError:
        raise web.HTTPNotFound from None
    if str(found) != text.lower():  # UUID() accepts other spellings too
        raise web.HTTPNotFound
    return found


def account_id_of(request: web.Request) -> UUID:
    """Returns the account id in the path. Raises HTTPNotFound for what is not an id."""
    return id_of(request, "account_id")


async def read_account(visit: Visit, account_id: UUID) -> Row:
    """The account. Raises Refused (account_not_found)."""
    return await visit.row(functions.get_account_by_id(account_id=account_id))


async def show_account(
    visit: Visit, account_id: UUID, failed: FailedForm | None = None
) -> web.StreamResponse:
    """Shows the account's page. With `failed` it shows this form again, with status 422 where the
    form has faults. The id of a merged account leads to the page of the one that stayed."""
    request = visit.request
    account = await read_account(visit, account_id)
    if str(account["account_id"]) != str(account_id):
        if failed is None:
            message = f"Account {account_id} was merged into this one."
            return await done(visit, address_of(account["account_id"]), message)
        account_id = account["account_id"]
    tab = _Tab(links=_links(account_id, "timeline"))
    if failed is None:
        name = request.query.get("tab", "timeline")
        name = name if name in dict(TABS) else "timeline"
        cursor = request.query.get("cursor")
        tab = _Tab(name, page_number(request.query), cursor, _links(account_id, name))
    settings = await request.app[GATEWAY].sign_in(functions.get_settings())
    assert settings is not None
    states = await visit.rows(functions.explain_account(account_id=account_id, at=_at(visit)))
    needed = max((state["credits_needed"] or 0 for state in states), default=0)
    timeline = Timeline()
    if tab.name == "timeline":
        timeline = await read_timeline(visit, account_id, address_of(account_id))
    faults = failed.faults if failed else timeline.faults
    return await render(
        visit,
        "admin/accounts/detail.html",
        status=422 if faults else 200,
        account=account,
        address=address_of(account_id),
        tab=tab.name,
        tabs=tab.links,
        history=await _history(visit, account, tab),
        timeline=timeline,
        states=states,
        needed=needed,
        presets=sorted({*_PRESETS, settings["pack_uses"], *([needed] if needed else [])}),
        charts=await _charts(visit, account_id),
        notes=await visit.rows(functions.list_notes(account_id=account_id)),
        top_up=await _top_up(visit, account_id),
        holds=await _holds(visit, account_id),
        lots=await visit.rows(
            functions.list_lots(account_id=account_id, pool=False, limit=_LOTS + 1)
        ),
        schedules=await visit.rows(
            functions.list_grant_schedules(account_id=account_id, limit=_SCHEDULES + 1)
        ),
        limits={
            "attempts": _ATTEMPTS,
            "holds": _OPEN_HOLDS,
            "lots": _LOTS,
            "schedules": _SCHEDULES,
        },
        opened=failed.name if failed else request.query.get("do", ""),
        merges=await visit.rows(functions.list_merges(account_id=account_id)),
        configured_free_uses=settings["free_uses"],
        idempotency_key=new_key(),
        failed=failed.name if failed else "",
        values=failed.values if failed else {},
        faults=failed.faults if failed else {},
        tried=failed.tried if failed else None,
    )


async def _top_up(visit: Visit, account_id: UUID) -> dict[str, Any] | None:
    """The account's newest top-up, with what was agreed to before and the newest attempts; None
    where nobody ever agreed to one."""
    consents = await visit.rows(functions.list_top_ups(account_id=account_id))
    if not any(str(row["account_id"]) == str(account_id) for row in consents):
        return None
    return {
        "now": await visit.row(functions.get_top_up(account_id=account_id)),
        "consents": consents,
        "attempts": await visit.rows(
            functions.list_top_up_attempts(account_id=account_id, limit=_ATTEMPTS + 1)
        ),
    }


async def _holds(visit: Visit, account_id: UUID) -> dict[str, Sequence[Row]]:
    """The account's open holds and those that ended last, newest first."""
    held = await visit.rows(
        functions.list_holds(account_id=account_id, state="open", limit=_OPEN_HOLDS + 1)
    )
    newest = await visit.rows(
        functions.list_holds(account_id=account_id, limit=len(held) + _SETTLED_HOLDS)
    )
    return {"open": held, "over": [hold for hold in newest if hold["state"] != "open"]}


def _at(visit: Visit) -> datetime | None:
    """The time in the address up to which a denial is looked for; None for now."""
    with contextlib.suppress(ValueError):
        asked = datetime.fromisoformat(visit.request.query.get("at", ""))
        if 2000 <= asked.year < 9999:
            return asked if asked.tzinfo else asked.replace(tzinfo=UTC)
    return None


async def _charts(visit: Visit, account_id: UUID) -> list[Chart]:
    """Charges and used credits by day; nothing for an account that used nothing in this time."""
    rows = await visit.rows(functions.list_account_days(account_id=account_id, days=_DAYS))
    charts = [
        bar_chart("charges", "Charges", rows),
        bar_chart("credits_used", "Paid credits used", rows),
    ]
    return [chart for chart in charts if chart.total]


def new_key() -> str:
    """An idempotency key for a form: its change happens once, however often it is sent."""
    return f"console-{secrets.token_urlsafe(18)}"


def _links(account_id: UUID, current: str) -> list[tuple[str, str, bool]]:
    return [
        (f"{address_of(account_id)}?tab={name}#history", title, name == current)
        for name, title in TABS
    ]


async def _history(visit: Visit, account: Row, tab: _Tab) -> dict[str, Any]:
    rows: Sequence[Any]
    next_cursor: str | None = None
    account_id, span = account["account_id"], window(tab.number)
    if tab.name == "timeline":
        return list_page([], 1, address_of(account["account_id"]), {})
    if tab.name == "checks":
        rows = await visit.rows(functions.list_checks(account_id=account_id, **span))
    elif tab.name == "purchases":
        rows = await visit.rows(functions.list_purchases(account_id=account_id, **span))
    else:
        rows = await _ledger(visit, account, tab)
        next_cursor = rows[0]["next_cursor"]
        # Past the end, the function returns one row that has only the number of entries.
        rows = [row for row in rows if row["transaction_id"] is not None]
        rows = [
            {**row, "origin_url": origin_address(account_id, row)}
            for row in await with_origins(visit.rows, account_id, rows)
        ]
    return list_page(
        rows,
        tab.number,
        address_of(account_id),
        {"tab": tab.name},
        "#history",
        next_cursor=next_cursor,
    )


async def _ledger(visit: Visit, account: Row, tab: _Tab) -> Sequence[Row]:
    who = {name: account[name] for name in ("oauth_provider", "external_id")}
    if tab.cursor is not None and re.fullmatch(CURSOR, tab.cursor):
        # The cursor is another account's: show the page by its number.
        with contextlib.suppress(Refused):
            return await visit.rows(
                functions.list_transactions(
                    **who,
                    limit=PAGE_SIZE,
                    cursor=tab.cursor,
                )
            )
    return await visit.rows(
        functions.list_transactions(
            **who,
            limit=PAGE_SIZE,
            offset=(tab.number - 1) * PAGE_SIZE,
        )
    )
