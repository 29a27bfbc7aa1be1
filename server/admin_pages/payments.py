"""/admin/payments: purchases, the provider's events, and the problems that need a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote
from uuid import UUID

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
from server.admin_pages.refusals import all_of, fault_of
from server.gateway import Refused, Row, functions
from server.payments.advice import advice_on, with_name
from server.payments.registry import name_of
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
    """Lists purchases and their state."""
    number, status = page_number(request.query), request.query.get("status", "")
    query = {"status": status} if status and status in dict(_STATUSES) else {}
    rows = await visit.rows(functions.list_purchases(status=query.get("status"), **window(number)))
    return await render(
        visit,
        "admin/payments/purchases.html",
        links=_links(_PURCHASES),
        chosen=query.get("status", ""),
        statuses=_STATUSES,
        **list_page(rows, number, _PURCHASES, query),
    )


async def events(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Lists the provider's events and the outcome of each."""
    number = page_number(request.query)
    rows = await visit.rows(functions.list_payment_events(**window(number)))
    return await render(
        visit,
        "admin/payments/events.html",
        links=_links(_EVENTS),
        **list_page(rows, number, _EVENTS, {}),
    )


async def problems(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Lists payments and returns of money that need a person, with what to do."""
    return await _show_problems(visit, page_number(request.query))


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
        # Money that went back of a payment that was never reported says nothing about that payment.
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
