"""/admin/staff: who may sign in, and with which role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from aiohttp import web

from server.admin_pages.lists import (
    Column,
    csv_address,
    headings,
    send_list,
    sort_rows,
    sorting,
)
from server.admin_pages.page import FormFault, done, form_of, reason_of, render, required
from server.admin_pages.refusals import fault_of
from server.gateway import Refused, Row, functions
from server.http.app_keys import GATEWAY
from server.limits import most
from server.staff.guard import Visit, require_admin

_ROLES = ("viewer", "admin")
_ACTIONS = ("role", "deactivate", "reactivate")
_COLUMNS = (
    Column("Who", "email", descending=False),
    Column("Role", "role", descending=False),
    Column("May sign in", "is_active"),
    Column("Last sign-in", "last_login_at"),
    Column("Added", "created_at"),
)
_PATH = "/admin/staff"
_LAST_ADMIN = "Nothing was changed. Make somebody else an administrator first."


async def list_staff(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Shows the list, or the page that changes one person."""
    for action in _ACTIONS:
        if action in request.query and visit.is_admin:
            return await _change_page(visit, request.query[action], action)
    return await _list(visit, {}, {})


async def export(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Sends the list as CSV."""
    rows = await visit.rows(functions.list_admins())
    ordered = sort_rows(rows, sorting(request.query, _COLUMNS), _COLUMNS)
    return await send_list("staff", functions.list_admins.columns, ordered)


async def add(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Invites somebody new to sign in."""
    await require_admin(visit)
    form = await form_of(request)
    try:
        person = await _add(visit, form)
    except FormFault as error:
        return await _list(visit, form, error.faults, status=422)
    return await done(
        visit, "/admin/staff", f"{person['email']} can now sign in as {person['role']}."
    )


async def change(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Changes somebody's role, or whether they may sign in."""
    await require_admin(visit)
    form = await form_of(request)
    action, email = form.get("action", ""), request.match_info["email"].replace("\0", "")
    if action not in _ACTIONS:
        raise web.HTTPUnprocessableEntity
    try:
        role = _role(form) if action == "role" else None
        person = await visit.row(
            functions.set_admin(
                email=email,
                reason=reason_of(form),
                role=role,
                is_active=None if action == "role" else action == "reactivate",
            )
        )
    except FormFault as error:
        return await _change_page(visit, email, action, form, error.faults, status=422)
    except Refused as error:
        if error.slug != "last_admin":
            raise
        message = f"{error.message}. {_LAST_ADMIN}"
        return await _change_page(
            visit, email, action, form, status=409, flash={"kind": "error", "message": message}
        )
    return await done(visit, "/admin/staff", _said(action, person))


def _said(action: str, person: Row) -> str:
    match action:
        case "role":
            return f"{person['email']} is now {person['role']}."
        case "deactivate":
            return f"{person['email']} is deactivated and signed out."
        case _:
            return f"{person['email']} can sign in again."


async def _add(visit: Visit, form: Mapping[str, str]) -> Row:
    email = required(form, "email", what="an e-mail address")
    full_name = form.get("full_name") or None
    if full_name and len(full_name) > most("full_name"):
        raise FormFault(full_name=f"Use at most {most('full_name')} characters.")
    role = _role(form)
    reason = reason_of(form)
    if await _find(visit, email) is not None:
        raise FormFault(email=f"{email} is on the list already; change them there.")
    try:
        return await visit.row(
            functions.add_admin(email=email, full_name=full_name, role=role, reason=reason)
        )
    except Refused as error:
        raise fault_of(error, {"p_email": "email"}) from None


def _role(form: Mapping[str, str]) -> str:
    if form.get("role") not in _ROLES:
        raise FormFault(role="Choose viewer or admin.")
    return form["role"]


async def _list(
    visit: Visit, form: Mapping[str, str], faults: Mapping[str, str], *, status: int = 200
) -> web.StreamResponse:
    settings = await visit.request.app[GATEWAY].sign_in(functions.get_settings())
    assert settings is not None
    order = sorting(visit.request.query, _COLUMNS)
    people = sort_rows(await visit.rows(functions.list_admins()), order, _COLUMNS)
    columns = (*_COLUMNS, Column("Change")) if visit.is_admin else _COLUMNS
    return await render(
        visit,
        "admin/staff/list.html",
        status=status,
        people=[{**dict(row), "address": quote(row["email"], safe="")} for row in people],
        headings=headings(columns, order, _PATH, {}),
        csv_address=csv_address(_PATH, {}),
        domain=settings["admin_email_domain"],
        form={"role": "viewer", **form},
        faults=faults,
    )


async def _change_page(
    visit: Visit,
    email: str,
    action: str,
    form: Mapping[str, str] | None = None,
    faults: Mapping[str, str] | None = None,
    *,
    status: int = 200,
    **context: Any,
) -> web.StreamResponse:
    person = await _find(visit, email)
    if person is None:
        raise web.HTTPNotFound
    return await render(
        visit,
        "admin/staff/change.html",
        status=status,
        action=action,
        person=person,
        address=quote(person["email"], safe=""),
        form={"role": person["role"], **(form or {})},
        faults=faults or {},
        **context,
    )


async def _find(visit: Visit, email: str) -> Row | None:
    rows = await visit.rows(functions.list_admins())
    return next((row for row in rows if row["email"] == email.lower()), None)
