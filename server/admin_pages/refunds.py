"""/admin/payments/{payment_id}: one payment with what became of it, and refunding it after a
preview."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from aiohttp import web

from server.admin_pages.account_view import new_key
from server.admin_pages.money import read_money, write_money
from server.admin_pages.page import FormFault, done, form_of, reason_of, render
from server.admin_pages.payments import PURCHASES, with_page
from server.admin_pages.refusals import all_of, fault_of
from server.gateway import Refused, Row, functions
from server.http.app_keys import GATEWAY, REQUEST_ID
from server.payments.payments import PAYMENTS
from server.payments.provider import NotConfigured, PaymentProviderError, RequestRefused
from server.payments.refunds import carry_out
from server.payments.registry import name_of
from server.staff.guard import Visit, require_admin

_LOG = logging.getLogger(__name__)
_FIELDS = {
    "p_reason": "reason",
    "p_amount_minor": "amount",
    "p_amount_text": "amount",
    "refund_too_great": "amount",
}


async def show(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Shows one payment."""
    return await _show(visit)


async def refund(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Shows what a refund would do, and, once that is confirmed, asks the provider for it."""
    await require_admin(visit)
    form = await form_of(request)
    confirmed = form.get("confirm") == "yes"
    purchase = await _purchase(visit)
    try:
        amount, reason = all_of(
            partial(_text, form, "amount"),
            partial(reason_of, form),
        )
        minor = await read_money(request, amount, purchase["currency"]) if amount else None
        row = await visit.row(
            functions.begin_refund(
                payment_id=purchase["payment_id"],
                provider=purchase["provider"],
                reason=reason,
                amount_minor=minor,
                idempotency_key=form.get("idempotency_key") or None,
                dry_run=not confirmed,
            )
        )
        if not confirmed:
            return await render(
                visit,
                "admin/payments/confirm_refund.html",
                purchase=purchase,
                address=address_of(purchase["payment_id"]),
                row=row,
                amount=await write_money(
                    request, row["amount_minor"], purchase["currency"], with_currency=False
                ),
                form=form,
                provider_name=name_of(purchase["provider"]),
            )
        return await _carry_out(visit, purchase, row)
    except (FormFault, Refused) as error:
        fault = fault_of(error, _FIELDS) if isinstance(error, Refused) else error
        return await _show(visit, form, fault.faults)


def address_of(payment_id: str) -> str:
    """The path of a payment's page."""
    return f"{PURCHASES}/{quote(payment_id, safe='')}"


def _text(form: Mapping[str, str], field: str) -> str:
    return form.get(field, "")


async def _carry_out(visit: Visit, purchase: Row, begun: Row) -> web.StreamResponse:
    request = visit.request
    name, address = name_of(purchase["provider"]), address_of(purchase["payment_id"])

    async def finish(**arguments: Any) -> None:
        await visit.row(functions.finish_refund(**arguments))

    async def connect() -> Any:
        return await request.app[PAYMENTS].stored_api(request.app[GATEWAY], purchase["provider"])

    try:
        await carry_out(begun, connect, finish)
    except RequestRefused as error:
        return await done(visit, address, f"{name} refunded nothing: {error}.", "error")
    except (PaymentProviderError, NotConfigured) as error:
        _LOG.warning("payment provider: %s", error, extra={"request_id": request[REQUEST_ID]})
        return await done(
            visit,
            address,
            f"It is not known whether {name} made the refund: {error}. Ask again below: the money"
            " goes back once.",
            "warning",
        )
    message = f"{name} refunds {begun['amount_text']}. The credits are taken back when it reports"
    return await done(visit, address, f"{message} the refund, usually within a minute.")


async def _purchase(visit: Visit) -> Row:
    payment_id = visit.request.match_info["payment_id"].replace("\0", "")
    rows = await visit.rows(functions.list_purchases(payment_id=payment_id, limit=1))
    if not rows:
        raise web.HTTPNotFound
    return rows[0]


async def _show(
    visit: Visit,
    form: Mapping[str, str] | None = None,
    faults: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    purchase = await _purchase(visit)
    payment_id = purchase["payment_id"]
    events = await visit.rows(functions.list_payment_events(payment_id=payment_id))
    return await render(
        visit,
        "admin/payments/payment.html",
        status=422 if faults else 200,
        purchase=with_page(purchase),
        address=address_of(payment_id),
        provider_name=name_of(purchase["provider"]),
        idempotency_key=(form or {}).get("idempotency_key") or new_key(),
        values=form or {},
        faults=faults or {},
        refunds=await visit.rows(
            functions.list_refunds(payment_id=payment_id, provider=purchase["provider"])
        ),
        events=[with_page(event) for event in events],
    )
