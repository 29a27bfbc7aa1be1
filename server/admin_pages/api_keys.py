"""/admin/keys: list, create, rotate and revoke API keys. A secret is shown once, on the page that
answers the form; nothing stores it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

from aiohttp import web

from server.admin_pages.lists import (
    Column,
    Sorting,
    csv_address,
    headings,
    send_list,
    sort_rows,
    sorting,
)
from server.admin_pages.page import (
    FormFault,
    done,
    form_of,
    reason_of,
    render,
    required,
    whole_number,
)
from server.api_key_secret import NewSecret, new_secret
from server.gateway import Refused, Row, functions
from server.staff.guard import Visit, require_admin

_STATUSES = ("active", "rotating", "revoked")
_ENVIRONMENTS = ("test", "live")
_PERMISSIONS = (
    ("billing:read", "Check credits, read accounts, purchases and history"),
    ("billing:write", "Charge, add credits, create accounts, sell"),
)
_COLUMNS = (
    Column("Name", "name", descending=False),
    Column("Key"),
    Column("Permissions"),
    Column("Status", "status", descending=False),
    Column("Created", "created_at"),
    Column("Last used", "last_used_at"),
    Column("Expires", "expires_at", descending=False),
)
_PATH = "/admin/keys"
_NEW: dict[str, object] = {"environment": "live", "permissions": [name for name, _ in _PERMISSIONS]}


async def list_keys(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Shows the list, or the question before a key is rotated or revoked."""
    for action in ("rotate", "revoke"):
        if action in request.query and visit.is_admin:
            return await _question(visit, action, request.query[action])
    return await _list(visit, _NEW, {})


async def create(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Creates a key and shows its secret, once."""
    await require_admin(visit)
    form: dict[str, object] = {**await form_of(request)}
    form["permissions"] = (await request.post()).getall("permissions", [])
    try:
        key, secret = await _create(visit, form)
    except FormFault as error:
        return await _list(visit, form, error.faults, status=422)
    return await render(visit, "admin/keys/secret.html", status=201, key=key, secret=secret)


async def rotate(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Replaces a key. Shows its successor's secret, once, and until when the old key works."""
    await require_admin(visit)
    key_id = _key_id(request)
    form = await form_of(request)
    try:
        reason = reason_of(form)
    except FormFault as error:
        return await _question(visit, "rotate", str(key_id), form, error.faults)
    old = await _find(visit, str(key_id))
    # The environment of an unknown key does not matter: the function refuses it.
    secret = await _new_secret(str(old["environment"]) if old else "live")
    try:
        key = await visit.row(
            functions.rotate_api_key(
                api_key_id=key_id,
                key_prefix=secret.prefix,
                key_hash=secret.hash,
                key_digest=secret.digest,
                reason=reason,
            )
        )
    except Refused as error:
        if error.slug != "api_key_not_active":
            raise
        return await _list(
            visit, _NEW, {}, status=409, flash={"kind": "error", "message": error.message}
        )
    return await render(
        visit,
        "admin/keys/secret.html",
        status=201,
        key=key,
        secret=secret.plaintext,
        old_key=old,
    )


async def revoke(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Revokes a key at once."""
    await require_admin(visit)
    key_id = _key_id(request)
    form = await form_of(request)
    try:
        reason = reason_of(form)
    except FormFault as error:
        return await _question(visit, "revoke", str(key_id), form, error.faults)
    key = await visit.row(functions.revoke_api_key(api_key_id=key_id, reason=reason))
    return await done(
        visit, "/admin/keys", f"The key {key['name']} ({key['key_prefix']}...) is revoked."
    )


async def _create(visit: Visit, form: dict[str, object]) -> tuple[Row, str]:
    """Creates the key that the form asks for. Raises FormFault with all its faults."""
    texts = {name: value for name, value in form.items() if isinstance(value, str)}
    faults: dict[str, str] = {}
    name, purpose, days = "", "", None
    try:
        name = required(texts, "name", what="the key a name")
    except FormFault as error:
        faults |= error.faults
    try:
        days = whole_number(texts, "expires_in_days", 1, 3650, optional=True)
    except FormFault as error:
        faults |= error.faults
    try:
        purpose = required(texts, "description", "what it is for")
    except FormFault as error:
        faults |= error.faults
    if texts.get("environment") not in _ENVIRONMENTS:
        faults["environment"] = "Choose test or live."
    permissions = [name for name, _ in _PERMISSIONS if name in _chosen(form)]
    if not permissions or len(permissions) != len(set(_chosen(form))):
        faults["permissions"] = "Choose at least one of these."
    if faults:
        raise FormFault(**faults)
    secret = await _new_secret(texts["environment"])
    key = await visit.row(
        functions.create_api_key(
            name=name,
            key_prefix=secret.prefix,
            key_hash=secret.hash,
            key_digest=secret.digest,
            environment=texts["environment"],
            permissions=permissions,
            description=purpose,
            expires_in_days=days,
        )
    )
    return key, secret.plaintext


def _chosen(form: dict[str, object]) -> list[object]:
    chosen = form["permissions"]
    assert isinstance(chosen, list)
    return chosen


async def _new_secret(environment: str) -> NewSecret:
    # Argon2 is slow, so it runs in a thread.
    return await asyncio.to_thread(new_secret, environment)


async def _list(
    visit: Visit,
    form: dict[str, object],
    faults: dict[str, str],
    *,
    status: int = 200,
    **context: object,
) -> web.StreamResponse:
    query = visit.request.query
    chosen = _chosen_filters(query)
    order = sorting(query, _COLUMNS)
    return await render(
        visit,
        "admin/keys/list.html",
        status=status,
        keys=await _keys(visit, chosen, order),
        now=datetime.now(UTC),
        chosen={"status": "", "environment": "", **chosen},
        is_filtered=bool(chosen),
        headings=headings(_columns(visit), order, _PATH, chosen),
        csv_address=csv_address(_PATH, chosen),
        form=form,
        faults=faults,
        permissions=_PERMISSIONS,
        **context,
    )


async def export(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Sends the keys that match as CSV, without their secrets, which nothing stores."""
    order = sorting(request.query, _COLUMNS)
    rows = await _keys(visit, _chosen_filters(request.query), order)
    return await send_list("api-keys", functions.list_api_keys.columns, rows)


def _columns(visit: Visit) -> tuple[Column, ...]:
    return (*_COLUMNS, Column("Change")) if visit.is_admin else _COLUMNS


def _chosen_filters(query: Mapping[str, str]) -> dict[str, str]:
    known = (("status", _STATUSES), ("environment", _ENVIRONMENTS))
    return {name: query[name] for name, values in known if query.get(name) in values}


async def _keys(visit: Visit, chosen: Mapping[str, str], order: Sorting) -> list[Row]:
    rows = await visit.rows(
        functions.list_api_keys(status=chosen.get("status"), environment=chosen.get("environment"))
    )
    return sort_rows(rows, order, _COLUMNS)


async def _question(
    visit: Visit,
    action: str,
    key_id: str,
    form: Mapping[str, str] | None = None,
    faults: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Shows the page that asks before a key is rotated or revoked; again when no reason was
    given."""
    key = await _find(visit, key_id)
    if key is None:
        raise web.HTTPNotFound
    return await render(
        visit,
        f"admin/keys/{action}.html",
        status=422 if faults else 200,
        key=key,
        form=form or {},
        faults=faults or {},
    )


async def _find(visit: Visit, key_id: str) -> Row | None:
    rows = await visit.rows(functions.list_api_keys())
    return next((row for row in rows if str(row["api_key_id"]) == key_id.lower()), None)


def _key_id(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["api_key_id"])
    except ValueError:
        raise web.HTTPNotFound from None
