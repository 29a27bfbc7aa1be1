"""/admin/payments: purchases, the provider's events, and the problems that need a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote
from uuid import UUID

from aiohttp import web

from server.admin_pages.lists import (
    Column,
    csv_address,
    days_given,
    days_of,
    every_row,
    headings,
    list_page,
    send_list,
    sorting,
    window,
)
from server.admin_pages.page import (
    FormFault,
    done,
    form_of,
    page_number,
    render,
    required,
)
from server.admin_pages.refusals import all_of, fault_of
from server.gateway import Refused, Row, functions
from server.payment_kinds import PROVIDER_KINDS
from server.payments.advice import advice_on, with_name
from server.payments.registry import name_of, provider_of
from server.staff.guard import Visit, require_admin

PURCHASES = "/admin/payments"
_EVENTS = "/admin/payments/events"
_PROBLEMS = "/admin/payments/problems"
_PAGES = ((PURCHASES, "Purchases"), (_EVENTS, "Events"), (_PROBLEMS, "Needs a person"))
_STATUSES = (
    ("", "Any"),
    ("offered", "Offered: no payment yet"),
    ("pending", "Pending: not paid yet"),
    ("settled", "Settled: paid and credited"),
    ("returned", "Money went back"),
)
_DAYS_OF = (("", "When it was offered"), ("paid", "When it was paid"))
COLUMNS = (
    Column("Offered", "newest"),
    Column("Account"),
    Column("Payment"),
    Column("Uses", "uses", is_number=True),
    Column("Price", "price", is_number=True),
    Column("Status", "settled"),
    Column("Returned", is_number=True),
    Column("Taken back", is_number=True),
    Column("Shortfall", is_number=True),
    Column("Refund"),
)
EVENT_COLUMNS = (
    Column("Received", "newest"),
    Column("Event"),
    Column("Outcome"),
    Column("Payment"),
    Column("Account"),
    Column("Mode"),
    Column("Deliveries", is_number=True),
)
_GIVE_DAYS = "Give days as 2026-11-22"
_WARNINGS = ("fraud_warning", "credited_twice", "paid_after_erasure")
_GONE = ("payment_event_not_found", "payment_return_not_found", "payment_warning_not_found")
_FIELDS = {
    "p_reason": "reason",
    "p_how": "how",
    "p_credit_id": "credit_id",
    "credit_not_usable": "credit_id",
}
_REFERENCES = {
    "shortfall": "Refund or dispute",
    "fraud_warning": "Report of fraud",
    "credited_twice": "Second credit",
    "paid_after_erasure": "Credit of a person who was erased",
}
_HOWS = (
    ("other", "Dealt with otherwise"),
    ("credited", "Credited by hand"),
    ("refunded", "Refunded in {provider}"),
)


async def purchases(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Lists purchases and their state, with what they add up to."""
    number, query = page_number(request.query), _query(request)
    order = sorting(request.query, COLUMNS)
    faults: Mapping[str, str] = {}
    filters: dict[str, Any] = {}
    rows: list[Row] = []
    try:
        filters = _filters(query)
        rows = await visit.rows(
            functions.list_purchases(**filters, **order.arguments, **window(number))
        )
    except FormFault as fault:
        faults = fault.faults
    sorted_query = {**query, "sort": order.text} if "sort" in request.query else query
    return await render(
        visit,
        "admin/payments/purchases.html",
        status=422 if faults else 200,
        links=_links(PURCHASES),
        query=query,
        form={"from": "", "to": "", "status": "", "days": "", **query},
        faults=faults,
        statuses=_STATUSES,
        days_of=_DAYS_OF,
        headings=headings(COLUMNS, order, PURCHASES, query),
        totals=[] if faults else await visit.rows(functions.total_purchases(**filters)),
        csv_address=csv_address(PURCHASES, sorted_query),
        **list_page([with_page(row) for row in rows], number, PURCHASES, sorted_query),
    )


async def purchases_csv(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Sends the purchases that match as CSV."""
    order = sorting(request.query, COLUMNS)
    try:
        filters = _filters(_query(request))
    except FormFault:
        raise web.HTTPUnprocessableEntity(reason=_GIVE_DAYS) from None
    rows = await every_row(
        lambda span: visit.rows(functions.list_purchases(**filters, **order.arguments, **span))
    )
    columns = [name for name in functions.list_purchases.columns if not name.endswith("_text")]
    return await send_list("purchases", columns, rows)


def _query(request: web.Request) -> dict[str, str]:
    """The known filters of purchases in the address."""
    status = request.query.get("status", "")
    given = {
        "status": status if status in dict(_STATUSES) else "",
        "days": "paid" if request.query.get("days") == "paid" else "",
        **days_given(request.query),
    }
    return {name: value for name, value in given.items() if value}


def _filters(query: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of list_purchases. Raises FormFault."""
    days = days_of({"from": "", "to": "", **query})
    return {"status": query.get("status"), "days_of": query.get("days", "offered"), **days}


def with_page(purchase: Row) -> dict[str, Any]:
    """A purchase with the addresses of its payment here and at the provider."""
    payment_id = purchase["payment_id"]
    here = f"{PURCHASES}/{quote(payment_id, safe='')}" if payment_id else None
    return {**dict(purchase), "address": here, "provider_page": provider_page(purchase)}


def provider_page(payment: Mapping[str, Any]) -> str | None:
    """Where staff see a payment at its provider; None for what has no payment or no page there. A
    payment of which nothing is known yet is looked for among the live ones."""
    if payment["payment_id"] is None or payment["provider"] not in PROVIDER_KINDS:
        return None
    is_test = payment["livemode"] is False
    return provider_of(payment["provider"]).payment_page(payment["payment_id"], is_test)


async def events(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Lists the provider's events and the outcome of each."""
    number, query = page_number(request.query), _event_query(request)
    order = sorting(request.query, EVENT_COLUMNS)
    faults: Mapping[str, str] = {}
    rows: list[Row] = []
    total: Row | None = None
    try:
        filters = _event_filters(query)
        rows = await visit.rows(
            functions.list_payment_events(**filters, reverse=order.is_reversed, **window(number))
        )
        total = await visit.row(functions.count_payment_events(**filters))
    except FormFault as fault:
        faults = fault.faults
    sorted_query = {**query, "sort": order.text} if "sort" in request.query else query
    return await render(
        visit,
        "admin/payments/events.html",
        status=422 if faults else 200,
        links=_links(_EVENTS),
        query=query,
        form={"from": "", "to": "", **query},
        faults=faults,
        total=total,
        headings=headings(EVENT_COLUMNS, order, _EVENTS, query),
        csv_address=csv_address(_EVENTS, sorted_query),
        **list_page([with_page(row) for row in rows], number, _EVENTS, sorted_query),
    )


async def events_csv(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Sends the events that match as CSV."""
    try:
        filters = _event_filters(_event_query(request))
    except FormFault:
        raise web.HTTPUnprocessableEntity(reason=_GIVE_DAYS) from None
    order = sorting(request.query, EVENT_COLUMNS)
    rows = await every_row(
        lambda span: visit.rows(
            functions.list_payment_events(**filters, reverse=order.is_reversed, **span)
        )
    )
    return await send_list("payment-events", functions.list_payment_events.columns, rows)


def _event_query(request: web.Request) -> dict[str, str]:
    event_id = request.query.get("event", "").replace("\0", "").strip()
    given = {"event": event_id, **days_given(request.query)}
    return {name: value for name, value in given.items() if value}


def _event_filters(query: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of list_payment_events. Raises FormFault."""
    days = days_of({"from": "", "to": "", **query})
    return {"event_id": query.get("event"), **days}


async def problems(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Lists payments and returns of money that need a person, with what to do."""
    return await _show_problems(visit, page_number(request.query))


async def problems_csv(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Sends what needs a person as CSV."""
    rows = await every_row(lambda span: visit.rows(functions.list_payment_problems(**span)))
    return await send_list("payment-problems", functions.list_payment_problems.columns, rows)


async def resolve(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Closes an event or a shortfall that a person has dealt with."""
    await require_admin(visit)
    reference = request.match_info["event_id"].replace("\0", "")
    form = await form_of(request)
    try:
        await _resolve(visit, form.get("kind", ""), reference, form)
    except FormFault as fault:
        return await _show_problems(visit, page_number(form), reference, form, fault.faults)
    except Refused as error:
        if error.slug in _GONE:
            return await done(
                visit, _PROBLEMS, f"{reference} is resolved already, or unknown.", "warning"
            )
        faults = fault_of(
            error,
            {"p_reason": "reason", "p_credit_id": "credit_id", "credit_not_usable": "credit_id"},
        ).faults
        return await _show_problems(visit, page_number(form), reference, form, faults)
    return await done(visit, _PROBLEMS, f"{reference} is resolved.")


async def _resolve(visit: Visit, kind: str, reference: str, form: Mapping[str, str]) -> None:
    if kind in ("shortfall", *_WARNINGS):
        reason = required(form, "reason", "what you did about it")
        if kind == "shortfall":
            await visit.rows(functions.resolve_shortfall(return_id=reference, reason=reason))
        else:
            await visit.rows(functions.resolve_payment_warning(warning_id=reference, reason=reason))
        return
    reason, credit_id = all_of(
        lambda: required(form, "reason", "what you did about it"),
        lambda: _credit_of(form),
    )
    await visit.rows(
        functions.resolve_payment_event(
            event_id=reference,
            reason=reason,
            how=form.get("how") or None,
            credit_id=credit_id,
        )
    )


def _credit_of(form: Mapping[str, str]) -> UUID | None:
    """The credit that was given for the payment, where the form says that there is one."""
    if form.get("how") != "credited":
        return None
    text = required(form, "credit_id", "the credit's id; the account's ledger shows it")
    try:
        return UUID(text)
    except ValueError:
        raise FormFault(
            credit_id="A credit's id looks like 0197f2a0-0000-7000-8000-000000000000."
        ) from None


async def _show_problems(
    visit: Visit,
    number: int,
    failed: str = "",
    values: Mapping[str, str] | None = None,
    faults: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    rows = await visit.rows(functions.list_payment_problems(**window(number)))
    return await render(
        visit,
        "admin/payments/problems.html",
        status=422 if failed else 200,
        links=_links(_PROBLEMS),
        total=await visit.row(functions.count_payment_problems()),
        failed=failed,
        values=values or {},
        faults=faults or {},
        **list_page([_problem(row) for row in rows], number, _PROBLEMS, {}),
    )


def _problem(row: Row) -> dict[str, Any]:
    is_shortfall = row["problem"] == "shortfall"
    is_event = not is_shortfall and row["problem"] not in _WARNINGS
    words = row["what_is_wrong"][:1].upper() + row["what_is_wrong"][1:]
    return {
        **dict(row),
        # A return of money says nothing about its payment when that payment was never reported.
        "asks_how": is_event and row["payment_id"] and row["problem"] != "payment_unknown",
        "reference_name": _REFERENCES.get(row["problem"], "Event"),
        "advice": advice_on(row["problem"], row["provider"]),
        "provider_name": name_of(row["provider"]),
        "hows": [(how, with_name(text, row["provider"])) for how, text in _HOWS],
        "title": "Shortfall" if is_shortfall else words,
        "words": words if is_shortfall else None,
        "resolve_address": f"{_PROBLEMS}/{quote(row['reference'], safe='')}",
    }


def _links(current: str) -> list[tuple[str, str, bool]]:
    return [(address, name, address == current) for address, name in _PAGES]
