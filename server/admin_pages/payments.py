"""/admin/payments: purchases, the provider's events, and what of them needs a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from aiohttp import web

from server.admin_pages.lists import list_page, window
from server.admin_pages.page import (
    FormFault,
    done,
    form_of,
    page_number,
    render,
    required,
)
from server.admin_pages.refusals import fault_of
from server.gateway import Refused, Row, calls
from server.staff.guard import Visit, require_admin

_PURCHASES = "/admin/payments"
_EVENTS = "/admin/payments/events"
_PROBLEMS = "/admin/payments/problems"
_PAGES = ((_PURCHASES, "Purchases"), (_EVENTS, "Events"), (_PROBLEMS, "Needs a person"))
_STATUSES = (
    ("", "Any"),
    ("offered", "Offered: no payment yet"),
    ("pending", "Pending: not paid yet"),
    ("settled", "Settled: paid and credited"),
    ("returned", "Money went back"),
)
_OUTCOMES = {
    "credited": "credits added",
    "already_credited": "credits were there already",
    "taken_back": "credits taken back",
    "restored": "credits given back",
    "waiting": "waits for the payment",
    "unchanged": "nothing to do",
    "acknowledged": "noted",
    "ignored": "not ours",
    "account_not_found": "no such account",
    "amount_mismatch": "another amount was paid",
    "balance_overflow": "the balance cannot hold it",
    "currency_mismatch": "another currency was paid",
    "metadata_missing": "does not say for whom",
    "mode_mismatch": "test and live mixed",
    "not_sold_here": "cannot show that it is ours",
    "payment_mismatch": "the purchase has another payment",
    "payment_unknown": "the payment was not reported yet",
}
_THEN = (
    "Stripe sends the event again for three days, and then it is credited; after that"
    " `ciris-billing reconcile stripe --fix` does it."
)
_COMPARE = (
    "Compare the payment in Stripe with the purchase. Refund it there, or grant the credits on the"
    " account's page, then resolve this with what you did."
)
_WHO_PAID = (
    "Find out in Stripe who paid. Refund the payment there, or grant the credits on the account's"
    " page, then resolve this with what you did."
)
_ADVICE = {
    "account_not_found": _WHO_PAID,
    "amount_mismatch": _COMPARE,
    "balance_overflow": "Take credits away from the account so that there is room, or refund the"
    f" payment in Stripe. {_THEN}",
    "currency_mismatch": _COMPARE,
    "metadata_missing": _WHO_PAID,
    "mode_mismatch": "Stripe sends events here of a mode that this server is not set up for: take"
    " its endpoint of that mode away in Stripe's dashboard. If money was paid, grant the credits"
    " by hand. Then resolve this.",
    "not_sold_here": "The payment names a purchase or an account, but not as this service does: its"
    f" metadata may be a copy. If it is somebody else's, resolve this. If not: {_WHO_PAID}",
    "payment_mismatch": "The user may have paid twice. Refund one of the payments in Stripe, then"
    " resolve this.",
    "payment_unknown": "Money went back for a payment that Stripe has not reported yet. It sends"
    " both events again; after three days `ciris-billing reconcile stripe --fix` does it.",
    "shortfall": "The money went back after the credits were used, and a balance never goes below"
    " 0: the missing uses stay with you. Where it is abuse, suspend the account. Then write it off"
    " by resolving this.",
}


async def purchases(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Purchases and what became of them."""
    number, status = page_number(request.query), request.query.get("status", "")
    query = {"status": status} if status and status in dict(_STATUSES) else {}
    rows = await visit.rows(
        calls.LIST_PURCHASES, account_id=None, status=query.get("status"), **window(number)
    )
    return await render(
        visit,
        "admin/payments/purchases.html",
        links=_links(_PURCHASES),
        chosen=query.get("status", ""),
        statuses=_STATUSES,
        **list_page(rows, number, _PURCHASES, query),
    )


async def events(request: web.Request, visit: Visit) -> web.StreamResponse:
    """The provider's events and what came of each."""
    number = page_number(request.query)
    rows = await visit.rows(calls.LIST_PAYMENT_EVENTS, **window(number))
    return await render(
        visit,
        "admin/payments/events.html",
        links=_links(_EVENTS),
        outcomes=_OUTCOMES,
        **list_page(rows, number, _EVENTS, {}),
    )


async def problems(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Payments and returns of money that need a person, with what to do."""
    return await _show_problems(visit, page_number(request.query))


async def resolve(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Closes an event or a shortfall that somebody has dealt with."""
    await require_admin(visit)
    reference = request.match_info["event_id"].replace("\0", "")
    form = await form_of(request)
    try:
        reason = required(form, "reason", 500, "what you did about it")
        if form.get("kind") == "shortfall":
            await visit.rows(calls.RESOLVE_SHORTFALL, return_id=reference, reason=reason)
        else:
            await visit.rows(calls.RESOLVE_PAYMENT_EVENT, event_id=reference, reason=reason)
    except FormFault as fault:
        return await _show_problems(visit, page_number(form), reference, form, fault.faults)
    except Refused as error:
        if error.slug in ("payment_event_not_found", "payment_return_not_found"):
            return await done(
                visit, _PROBLEMS, f"{reference} is resolved already, or unknown.", "warning"
            )
        faults = fault_of(error, {"p_reason": "reason"}).faults
        return await _show_problems(visit, page_number(form), reference, form, faults)
    return await done(visit, _PROBLEMS, f"{reference} is resolved.")


async def _show_problems(
    visit: Visit,
    number: int,
    failed: str = "",
    values: Mapping[str, str] | None = None,
    faults: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    rows = await visit.rows(calls.LIST_PAYMENT_PROBLEMS, **window(number))
    return await render(
        visit,
        "admin/payments/problems.html",
        status=422 if failed else 200,
        links=_links(_PROBLEMS),
        failed=failed,
        values=values or {},
        faults=faults or {},
        **list_page([_problem(row) for row in rows], number, _PROBLEMS, {}),
    )


def _problem(row: Row) -> dict[str, Any]:
    is_event = row["problem"] != "shortfall"
    words = row["what_is_wrong"][:1].upper() + row["what_is_wrong"][1:]
    return {
        **dict(row),
        "is_event": is_event,
        "advice": _ADVICE.get(row["problem"], "Compare the payment in Stripe with the account."),
        "title": words if is_event else "Shortfall",
        "words": None if is_event else words,
        "resolve_address": f"{_PROBLEMS}/{quote(row['reference'], safe='')}",
    }


def _links(current: str) -> list[tuple[str, str, bool]]:
    return [(address, name, address == current) for address, name in _PAGES]
