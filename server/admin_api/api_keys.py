"""/admin/api/api-keys (contract.md 5, mended by 8.6 and 8.24). A secret is made here, shown once
and stored nowhere."""

from __future__ import annotations

import asyncio

from aiohttp import web

from server.admin_api.endpoint import NO_STORE, Call, answer, pick
from server.admin_api.models import CreateKeyRequest, KeyPath, KeysQuery, ReasonQuery
from server.api_key_secret import new_secret
from server.gateway import Row, calls
from server.http.errors import ApiError

_FIELDS = (
    "name",
    "key_prefix",
    "environment",
    "permissions",
    "status",
    "created_at",
    "expires_at",
    "last_used_at",
    "created_by_email",
    "description",
    "last_used_ip",
    "rotated_to",
)


async def list_keys(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with a bare array, newest first, revoked keys included; never a secret or hash."""
    query: KeysQuery = call.query
    rows = await call.rows(
        calls.LIST_API_KEYS, environment=query.environment, status=query.status_filter
    )
    return answer(200, [{"id": row["api_key_id"], **pick(row, *_FIELDS)} for row in rows])


async def create_key(request: web.Request, call: Call) -> web.StreamResponse:
    """201 with the key's secret, which is never shown again."""
    body: CreateKeyRequest = call.body
    secret = await asyncio.to_thread(new_secret, body.environment)
    row = await call.row(
        calls.CREATE_API_KEY,
        name=body.name,
        key_prefix=secret.prefix,
        key_hash=secret.hash,
        key_digest=secret.digest,
        environment=body.environment,
        permissions=body.permissions,
        description=body.description or None,
        expires_in_days=body.expires_in_days,
        reason=body.reason,
    )
    return answer(
        201,
        {
            "id": row["api_key_id"],
            **pick(row, "name", "key_prefix"),
            "plaintext_key": secret.plaintext,
            **pick(row, "environment", "permissions", "expires_at", "created_at"),
        },
    )


async def rotate_key(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with the successor's secret; 400 for an unknown key, 409 for one that is not active."""
    query: ReasonQuery = call.query
    old = await _key(call)
    secret = await asyncio.to_thread(new_secret, old["environment"])
    row = await call.row(
        calls.ROTATE_API_KEY,
        api_key_id=old["api_key_id"],
        key_prefix=secret.prefix,
        key_hash=secret.hash,
        key_digest=secret.digest,
        reason=query.reason,
    )
    return answer(
        200,
        {
            **pick(row, id="api_key_id", name="name", new_key_prefix="key_prefix"),
            "new_plaintext_key": secret.plaintext,
            "old_key_expires_at": row["old_key_expires_at"],
            # Where the dashboard of the old service looks for it.
            "new_key": {
                **pick(row, id="api_key_id", name="name", key_prefix="key_prefix"),
                "plaintext_key": secret.plaintext,
                **pick(row, "environment", "permissions", "expires_at"),
            },
        },
    )


async def revoke_key(request: web.Request, call: Call) -> web.StreamResponse:
    """204, also for a key that is revoked already."""
    path: KeyPath = call.path
    query: ReasonQuery = call.query
    await call.rows(calls.REVOKE_API_KEY, api_key_id=path.api_key_id, reason=query.reason)
    return web.Response(status=204, headers=NO_STORE)


async def _key(call: Call) -> Row:
    """The key of the path. Raises ApiError (400, as the contract has it)."""
    path: KeyPath = call.path
    for row in await call.rows(calls.LIST_API_KEYS, environment=None, status=None):
        if row["api_key_id"] == path.api_key_id:
            return row
    raise ApiError(400, "api_key_unknown", f"API key not found: {path.api_key_id}")
