"""The page of one account: its owner, its balances, one page of its history, and the forms, which
are shown again when they have a fault."""

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

from server.admin_pages.lists import list_page, window
from server.admin_pages.page import PAGE_SIZE, done, page_number, render
from server.gateway import Refused, Row, functions
from server.http.app_keys import GATEWAY
from server.http.validation import CURSOR
from server.staff.guard import Visit

TABS = (("ledger", "Ledger"), ("checks", "Checks"), ("purchases", "Purchases"))


@dataclass(frozen=True, slots=True)
class FailedForm:
    """A form that was refused: its name, its input, and what is wrong."""

    name: str
    values: Mapping[str, str]
    faults: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Tab:
    name: str = "ledger"
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
    """Shows the account's page; with a failed form, the page that shows its faults (422). The id of
    a merged account leads to the page of the one that stayed."""
    request = visit.request
    account = await read_account(visit, account_id)
    if str(account["account_id"]) != str(account_id):
        if failed is None:
            message = f"Account {account_id} was merged into this one."
            return await done(visit, address_of(account["account_id"]), message)
        account_id = account["account_id"]
    tab = _Tab(links=_links(account_id, "ledger"))
    if failed is None:
        name = request.query.get("tab", "ledger")
        name = name if name in dict(TABS) else "ledger"
        cursor = request.query.get("cursor")
        tab = _Tab(name, page_number(request.query), cursor, _links(account_id, name))
    settings = await request.app[GATEWAY].sign_in(functions.get_settings())
    assert settings is not None
    return await render(
        visit,
        "admin/accounts/detail.html",
        status=200 if failed is None else 422,
        account=account,
        address=address_of(account_id),
        tab=tab.name,
        tabs=tab.links,
        history=await _history(visit, account, tab),
        denial=await _denial(visit, account_id),
        merges=await visit.rows(functions.list_merges(account_id=account_id)),
        configured_free_uses=settings["free_uses"],
        idempotency_key=new_key(),
        failed=failed.name if failed else "",
        values=failed.values if failed else {},
        faults=failed.faults if failed else {},
    )


async def _denial(visit: Visit, account_id: UUID) -> Row | None:
    """Why the account was last refused something, by now or by the time in the address; None when
    nothing was refused."""
    at = None
    with contextlib.suppress(ValueError):
        asked = datetime.fromisoformat(visit.request.query.get("at", ""))
        if 2000 <= asked.year < 9999:
            at = asked if asked.tzinfo else asked.replace(tzinfo=UTC)
    row = await visit.row(functions.explain_denial(account_id=account_id, at=at))
    return row if row["kind"] else None


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
    if tab.name == "checks":
        rows = await visit.rows(functions.list_checks(account_id=account_id, **span))
    elif tab.name == "purchases":
        rows = await visit.rows(functions.list_purchases(account_id=account_id, **span))
    else:
        rows = await _ledger(visit, account, tab)
        next_cursor = rows[0]["next_cursor"]
        # Past the end, the function returns one row that has only the number of entries.
        rows = [row for row in rows if row["transaction_id"] is not None]
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
