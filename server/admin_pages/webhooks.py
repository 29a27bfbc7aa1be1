"""/admin/webhooks: where alerts are sent, and what is on its way there. A secret is shown once, on
the page that answers the form."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
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
    sort_rows,
    sorting,
    window,
)
from server.admin_pages.page import (
    FormFault,
    done,
    form_of,
    page_number,
    reason_of,
    render,
    required,
    whole_number,
)
from server.admin_pages.refusals import FORM, all_of, fault_of
from server.gateway import Refused, Row, functions
from server.http.app_keys import CONFIG, GATEWAY
from server.outbox import endpoints
from server.outbox.endpoints import EndpointFault
from server.outbox.sender import SENDER
from server.staff.guard import Visit, require_admin

_PAGE = "/admin/webhooks"
_DELIVERIES = f"{_PAGE}/deliveries"
_PAGES = ((_PAGE, "Endpoints"), (_DELIVERIES, "Deliveries"))
_ENDPOINTS = (
    Column("Name", "name", descending=False),
    Column("State", "status", descending=False),
    Column("Address"),
    Column("Alerts"),
    Column("Secret"),
    Column("Test event", "tried_at"),
    Column("Waiting", "waiting", is_number=True),
    Column("Failed", "failed", is_number=True),
)
_FIELDS = {
    "p_name": "name",
    "p_url": "url",
    "p_kinds": "kinds",
    "p_reason": "reason",
    "p_threshold": "threshold",
}
_GONE = ("webhook_endpoint_not_found", "delivery_not_found")
_CONFLICTS = ("webhook_not_tried", "webhook_endpoint_in_use", "webhook_endpoint_off")
_MOST_LOW = 10**12


async def show(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Lists the endpoints, with the forms that change them."""
    return await _show(visit)


async def create(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Makes an endpoint and shows its secret, once."""
    await require_admin(visit)
    form = await form_of(request)
    kinds = [str(kind) for kind in (await request.post()).getall("kinds", [])]
    try:
        name, url, reason = all_of(
            lambda: required(form, "name", "the endpoint a name"),
            lambda: required(form, "url", "its address"),
            lambda: reason_of(form),
        )
        endpoint_id, secret = await endpoints.create_endpoint(
            visit.rows, request.app[SENDER], name=name, url=url, kinds=kinds, reason=reason
        )
    except (FormFault, EndpointFault, Refused) as error:
        return await _failed(visit, "create", {**form, "kinds": kinds}, error)
    return await render(
        visit,
        "admin/webhooks/secret.html",
        status=201,
        secret=secret,
        endpoint={"endpoint_id": endpoint_id, "name": name, "url": url},
        until=None,
    )


async def change(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Does what the form's button says to an endpoint."""
    await require_admin(visit)
    endpoint_id = _id(request, "endpoint_id")
    form = await form_of(request)
    kinds = [str(kind) for kind in (await request.post()).getall("kinds", [])]
    action = form.get("action", "")
    if action not in _ACTIONS:
        raise web.HTTPNotFound
    try:
        return await _ACTIONS[action](visit, endpoint_id, form)
    except (FormFault, EndpointFault, Refused) as error:
        return await _failed(visit, f"change-{endpoint_id}", {**form, "kinds": kinds}, error)


async def deliveries(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Lists deliveries, newest first."""
    return await _show_deliveries(visit)


async def export(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Sends the deliveries that match as CSV, without the bodies of the alerts."""
    given = _given(request, await _known(visit))
    try:
        filters = _filters(given)
    except FormFault:
        raise web.HTTPUnprocessableEntity(reason="Give days as 2026-11-22") from None
    rows = await every_row(lambda span: visit.rows(functions.list_deliveries(**filters, **span)))
    columns = [name for name in functions.list_deliveries.columns if name != "payload"]
    return await send_list("deliveries", columns, rows)


async def resend(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Sends a delivery again."""
    await require_admin(visit)
    delivery_id = _id(request, "delivery_id")
    form = await form_of(request)
    try:
        await visit.rows(
            functions.resend_deliveries(delivery_id=delivery_id, reason=reason_of(form))
        )
    except FormFault as fault:
        return await _show_deliveries(visit, str(delivery_id), fault.faults)
    except Refused as error:
        if error.slug not in (*_GONE, *_CONFLICTS):
            raise
        return await done(visit, _DELIVERIES, f"{error.message}.", "error")
    return await done(visit, _DELIVERIES, "The delivery is due again.")


async def set_low_balance(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Sets the balance that counts as low; an empty field switches it off."""
    await require_admin(visit)
    form = await form_of(request)
    try:
        threshold, reason = all_of(
            lambda: whole_number(form, "threshold", 1, _MOST_LOW, optional=True),
            lambda: reason_of(form),
        )
        await visit.rows(functions.set_low_balance(threshold=threshold, reason=reason))
    except (FormFault, Refused) as error:
        return await _failed(visit, "low", form, error)
    if threshold is None:
        return await done(visit, _PAGE, "No balance counts as low any more.")
    return await done(visit, _PAGE, f"A balance of {threshold:,} or less counts as low.")


async def _try(visit: Visit, endpoint_id: UUID, form: Mapping[str, str]) -> web.StreamResponse:
    attempt = await endpoints.try_endpoint(visit.rows, visit.request.app[SENDER], endpoint_id)
    if attempt.error is not None:
        return await done(visit, _PAGE, f"The test event failed: {attempt.error}.", "error")
    return await done(visit, _PAGE, f"The test event was accepted ({attempt.status}).")


async def _set(visit: Visit, endpoint_id: UUID, form: Mapping[str, str]) -> web.StreamResponse:
    kinds = [str(kind) for kind in (await visit.request.post()).getall("kinds", [])]
    name, url, reason = all_of(
        lambda: required(form, "name", "the endpoint a name"),
        lambda: required(form, "url", "its address"),
        lambda: reason_of(form),
    )
    row = await endpoints.change_endpoint(
        visit.rows, visit.request.app[SENDER], endpoint_id,
        name=name, url=url, kinds=kinds, reason=reason,
    )  # fmt: skip
    message = f"{row['name']} is changed."
    if row["status"] != row["previous_status"]:
        message += " It is off until you have tried its new address."
    return await done(visit, _PAGE, message)


async def _switch(visit: Visit, endpoint_id: UUID, form: Mapping[str, str]) -> web.StreamResponse:
    row = await endpoints.change_endpoint(
        visit.rows, visit.request.app[SENDER], endpoint_id,
        status=form["action"], reason=reason_of(form),
    )  # fmt: skip
    return await done(visit, _PAGE, f"{row['name']} is {row['status']}.")


async def _rotate(visit: Visit, endpoint_id: UUID, form: Mapping[str, str]) -> web.StreamResponse:
    secret, until = await endpoints.rotate_secret(
        visit.rows, visit.request.app[SENDER], endpoint_id, reason_of(form)
    )
    endpoint = await visit.row(functions.get_webhook_endpoint(endpoint_id=endpoint_id))
    return await render(
        visit,
        "admin/webhooks/secret.html",
        status=201,
        secret=secret,
        endpoint=endpoint,
        until=until,
    )


async def _resend_failed(
    visit: Visit, endpoint_id: UUID, form: Mapping[str, str]
) -> web.StreamResponse:
    row = await visit.row(
        functions.resend_deliveries(endpoint_id=endpoint_id, reason=reason_of(form))
    )
    return await done(visit, _PAGE, f"{row['resend_deliveries']:,} deliveries are due again.")


async def _delete(visit: Visit, endpoint_id: UUID, form: Mapping[str, str]) -> web.StreamResponse:
    row = await visit.row(
        functions.delete_webhook_endpoint(endpoint_id=endpoint_id, reason=reason_of(form))
    )
    return await done(visit, _PAGE, f"{row['delete_webhook_endpoint']} is deleted.")


_ACTIONS = {
    "try": _try,
    "set": _set,
    "on": _switch,
    "off": _switch,
    "paused": _switch,
    "rotate": _rotate,
    "resend": _resend_failed,
    "delete": _delete,
}


async def _failed(
    visit: Visit,
    name: str,
    form: Mapping[str, Any],
    error: FormFault | EndpointFault | Refused,
) -> web.StreamResponse:
    """Shows the page again with what was typed, and what is wrong with it."""
    if isinstance(error, Refused) and error.slug in _GONE:
        return await done(visit, _PAGE, f"{error.message}.", "error")
    return await _show(visit, name, form, _faults(error))


def _faults(error: FormFault | EndpointFault | Refused) -> dict[str, str]:
    if isinstance(error, FormFault):
        return error.faults
    if isinstance(error, EndpointFault):
        return {error.field: error.problem}
    if error.slug in _CONFLICTS:
        return {FORM: f"{error.message}."}
    return fault_of(error, _FIELDS).faults


async def _show(
    visit: Visit,
    failed: str = "",
    form: Mapping[str, Any] | None = None,
    faults: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    order = sorting(visit.request.query, _ENDPOINTS)
    rows = sort_rows(await visit.rows(functions.list_webhook_endpoints()), order, _ENDPOINTS)
    settings = await visit.request.app[GATEWAY].sign_in(functions.get_settings())
    assert settings is not None
    low = {"threshold": settings["low_balance"] or ""}
    return await render(
        visit,
        "admin/webhooks/list.html",
        status=422 if failed else 200,
        links=_links(_PAGE),
        headings=headings(_ENDPOINTS, order, _PAGE, {}),
        endpoints=[_view(row, failed, form or {}, faults or {}) for row in rows],
        low_balance=settings["low_balance"],
        low_values=form if failed == "low" else low,
        low_faults=(faults or {}) if failed == "low" else {},
        new=form if failed == "create" else {"kinds": []},
        new_faults=(faults or {}) if failed == "create" else {},
        kinds=endpoints.KINDS,
        has_encryption_key=bool(visit.request.app[CONFIG].encryption_keys),
        now=datetime.now(UTC),
    )


def _view(
    row: Row, failed: str, form: Mapping[str, Any], faults: Mapping[str, str]
) -> dict[str, Any]:
    """An endpoint with what its two forms show: one switches it, the other changes it."""
    name = f"change-{row['endpoint_id']}"
    failed_here = failed == name
    failed_set = failed_here and form.get("action") == "set"
    stored = {"name": row["name"], "url": row["url"], "kinds": row["kinds"]}
    return {
        **dict(row),
        "form": name,
        "values": {**stored, **form} if failed_set else stored,
        "faults": faults if failed_set else {},
        "act_values": form if failed_here and not failed_set else {},
        "act_faults": faults if failed_here and not failed_set else {},
    }


async def _show_deliveries(
    visit: Visit, failed: str = "", faults: Mapping[str, str] | None = None
) -> web.StreamResponse:
    number, known = page_number(visit.request.query), await _known(visit)
    given = _given(visit.request, known)
    chosen = {name: value for name, value in given.items() if value}
    wrong: Mapping[str, str] = {}
    found: list[Row] = []
    total: Row | None = None
    try:
        filters = _filters(given)
        found = await visit.rows(functions.list_deliveries(**filters, **window(number)))
        total = await visit.row(functions.count_deliveries(**filters))
    except FormFault as fault:
        wrong = fault.faults
    return await render(
        visit,
        "admin/webhooks/deliveries.html",
        status=422 if failed or wrong else 200,
        links=_links(_DELIVERIES),
        form=given,
        wrong=wrong,
        is_filtered=bool(chosen),
        total=total,
        choices=[
            ("endpoint", "Endpoint", list(known.items())),
            ("state", "State", [(state, state.capitalize()) for state in endpoints.STATES]),
            ("kind", "Alert", [(kind, kind) for kind, _ in endpoints.KINDS]),
        ],
        failed=failed,
        faults=faults or {},
        csv_address=csv_address(_DELIVERIES, chosen),
        **list_page(found, number, _DELIVERIES, chosen),
    )


async def _known(visit: Visit) -> dict[str, str]:
    """The names of the endpoints by their ids."""
    rows = await visit.rows(functions.list_webhook_endpoints())
    return {str(row["endpoint_id"]): row["name"] for row in rows}


def _given(request: web.Request, known: Mapping[str, str]) -> dict[str, str]:
    """The filters of deliveries in the address that have a known value, and the days."""
    allowed = {"endpoint": known, "state": endpoints.STATES, "kind": dict(endpoints.KINDS)}
    asked = {name: request.query.get(name, "") for name in allowed}
    chosen = {name: value if value in allowed[name] else "" for name, value in asked.items()}
    return {**chosen, **days_given(request.query)}


def _filters(given: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of list_deliveries. Raises FormFault."""
    return {
        "endpoint_id": UUID(given["endpoint"]) if given["endpoint"] else None,
        "state": given["state"] or None,
        "kind": given["kind"] or None,
        **days_of(given),
    }


def _links(current: str) -> list[tuple[str, str, bool]]:
    return [(address, name, address == current) for address, name in _PAGES]


def _id(request: web.Request, name: str) -> UUID:
    try:
        return UUID(request.match_info[name])
    except ValueError:
        raise web.HTTPNotFound from None
