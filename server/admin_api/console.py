"""The rest of what the console's pages can do, for scripts: payments, the price, staff, the audit
log."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from server.admin_api.endpoint import Call, answer, page_of, pick
from server.admin_api.models import (
    AddStaffRequest,
    AuditQuery,
    ChangeStaffRequest,
    EventPath,
    PageQuery,
    PaymentPath,
    ProblemsQuery,
    PurchasesQuery,
    ResolveEventRequest,
    ResolvePaymentRequest,
    ResolveRequest,
    ReturnPath,
    SetPricingRequest,
    StaffPath,
    WarningPath,
)
from server.gateway import Row, calls
from server.http.app_keys import GATEWAY

_PRICING = ("free_uses", "pack_uses", "pack_price_minor", "pack_currency")


async def list_purchases(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with one page of purchases, newest first."""
    query: PurchasesQuery = call.query
    rows = await call.rows(
        calls.LIST_PURCHASES,
        account_id=query.account_id,
        status=query.status_filter,
        limit=query.page_size + 1,
        offset=query.offset,
    )
    return answer(200, page_of("purchases", rows, query, _purchase))


async def list_payment_events(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with one page of the payment provider's events, newest first."""
    query: PageQuery = call.query
    rows = await call.rows(
        calls.LIST_PAYMENT_EVENTS, limit=query.page_size + 1, offset=query.offset
    )
    return answer(200, page_of("events", rows, query, _event))


async def list_payment_problems(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with one page of what a person must look at."""
    query: ProblemsQuery = call.query
    rows = await call.rows(
        calls.LIST_PAYMENT_PROBLEMS, limit=query.page_size + 1, offset=query.offset
    )
    return answer(200, page_of("problems", rows, query, _problem))


async def resolve_payment_event(request: web.Request, call: Call) -> web.StreamResponse:
    """200; 404 for an event that is unknown or needs nobody's attention."""
    path: EventPath = call.path
    body: ResolveEventRequest = call.body
    await call.rows(
        calls.RESOLVE_PAYMENT_EVENT,
        event_id=path.event_id,
        reason=body.reason,
        how=body.how,
        credit_id=body.credit_id,
    )
    return answer(200, {"event_id": path.event_id, "resolution": body.reason})


async def resolve_payment(request: web.Request, call: Call) -> web.StreamResponse:
    """200; 409 for a payment that was credited or dealt with, or a credit that cannot be its."""
    path: PaymentPath = call.path
    body: ResolvePaymentRequest = call.body
    await call.rows(
        calls.RESOLVE_PAYMENT,
        payment_id=path.payment_id,
        how=body.how,
        reason=body.reason,
        credit_id=body.credit_id,
        amount_minor=body.amount_minor,
        currency=body.currency,
    )
    return answer(200, {"payment_id": path.payment_id, "resolution": body.reason})


async def reopen_payment(request: web.Request, call: Call) -> web.StreamResponse:
    """200; 409 for a payment that no person has resolved, or whose money went back since."""
    path: PaymentPath = call.path
    body: ResolveRequest = call.body
    await call.rows(calls.REOPEN_PAYMENT, payment_id=path.payment_id, reason=body.reason)
    return answer(200, {"payment_id": path.payment_id, "reason": body.reason})


async def resolve_payment_warning(request: web.Request, call: Call) -> web.StreamResponse:
    """200; 404 for a warning that is unknown or closed."""
    path: WarningPath = call.path
    body: ResolveRequest = call.body
    await call.rows(calls.RESOLVE_PAYMENT_WARNING, warning_id=path.warning_id, reason=body.reason)
    return answer(200, {"warning_id": path.warning_id, "resolution": body.reason})


async def resolve_shortfall(request: web.Request, call: Call) -> web.StreamResponse:
    """200; 404 for a refund or dispute without an open shortfall."""
    path: ReturnPath = call.path
    body: ResolveRequest = call.body
    await call.rows(calls.RESOLVE_SHORTFALL, return_id=path.return_id, reason=body.reason)
    return answer(200, {"return_id": path.return_id, "resolution": body.reason})


async def get_settings(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with what new users get free and what a pack is."""
    row = await request.app[GATEWAY].sign_in(calls.GET_SETTINGS)
    assert row is not None
    return answer(200, pick(row, *_PRICING))


async def set_pricing(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with the price as it is now; what is not given is kept."""
    body: SetPricingRequest = call.body
    row = await call.row(
        calls.SET_PRICING,
        reason=body.reason,
        free_uses=body.free_uses,
        pack_uses=body.pack_uses,
        pack_price_minor=body.pack_price_minor,
        pack_currency=body.pack_currency,
    )
    return answer(200, pick(row, *_PRICING))


async def list_staff(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with everybody, by e-mail address."""
    rows = await call.rows(calls.LIST_ADMINS)
    return answer(
        200,
        {"staff": [_member(row) | pick(row, "created_at", "last_login_at") for row in rows]},
    )


async def add_staff(request: web.Request, call: Call) -> web.StreamResponse:
    """201 with the new member; somebody who was there before gets this role and may sign in."""
    body: AddStaffRequest = call.body
    row = await call.row(
        calls.ADD_ADMIN,
        email=body.email,
        full_name=body.name,
        role=body.role,
        reason=body.reason,
    )
    return answer(201, _member(row))


async def change_staff(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with the member as they are now; 409 when nobody would be left to administer."""
    path: StaffPath = call.path
    body: ChangeStaffRequest = call.body
    row = await call.row(
        calls.SET_ADMIN,
        email=path.email,
        reason=body.reason,
        role=body.role,
        is_active=body.is_active,
    )
    return answer(200, _member(row))


async def list_audit_log(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with one page of what was done, newest first."""
    query: AuditQuery = call.query
    rows = await call.rows(
        calls.LIST_AUDIT_LOG,
        who=query.who,
        action=query.action,
        resource_id=query.resource_id,
        **{"from": query.first_day},
        to=query.last_day,
        limit=query.page_size + 1,
        offset=query.offset,
    )
    return answer(200, page_of("entries", rows, query, _entry))


def _purchase(row: Row) -> dict[str, Any]:
    return {
        **pick(row, "purchase_id", "account_id", "oauth_provider", "external_id"),
        **pick(row, "customer_email", "provider", "payment_id", "status", "uses"),
        **pick(row, "price_minor", "currency", "created_at", "settled_at"),
        **pick(row, "returned_minor", "uses_taken_back", "shortfall"),
    }


def _event(row: Row) -> dict[str, Any]:
    return {
        **pick(row, "provider", "event_id", "event_type", "payment_id", "account_id", "outcome"),
        **pick(row, "needs_attention", "deliveries", "livemode", "received_at"),
        **pick(row, "last_received_at", "resolved_at", "resolution"),
    }


def _problem(row: Row) -> dict[str, Any]:
    return {
        **pick(row, "problem", "provider", "reference", "payment_id", "account_id"),
        **pick(row, "what_is_wrong", "happened_at"),
    }


def _member(row: Row) -> dict[str, Any]:
    return {
        **pick(row, id="admin_user_id", email="email", name="full_name"),
        **pick(row, "role", "is_active"),
    }


def _entry(row: Row) -> dict[str, Any]:
    return {
        **pick(row, "id", "created_at", "who", "action", "resource_type", "resource_id", "reason"),
        "changes": orjson.loads(row["changes"]) if row["changes"] is not None else None,
        **pick(row, "ip_address", "user_agent"),
    }
