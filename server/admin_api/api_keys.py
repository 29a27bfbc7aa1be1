"""/admin/api/api-keys (contract.md 5, changed by 8.6 and 8.24). A secret is made here, shown once
and stored nowhere."""

import asyncio
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from aiohttp import web
from typing_extensions import TypedDict

from server.admin_api.endpoint import NO_STORE, Call, answer
from server.admin_api.models import CreateKeyRequest, KeyPath, KeysQuery, ReasonQuery
from server.api_key_secret import NewSecret, new_secret
from server.gateway import Row, functions
from server.http import fields as f
from server.http.answers import From, reader
from server.http.errors import known_error
from server.http.example_values import API_KEY_ID, AT, NEW_API_KEY_ID, THEN
from server.http.route import Example


class ApiKey(TypedDict):
    """An API key, without its secret."""

    id: Annotated[UUID, From("api_key_id"), f.ITS_ID]
    name: Annotated[str, f.KEY_NAME]
    key_prefix: Annotated[str, f.KEY_PREFIX]
    environment: Annotated[Literal["test", "live"], f.ENVIRONMENT]
    permissions: Annotated[list[str], f.PERMISSIONS]
    status: Annotated[
        Literal["active", "rotating", "revoked"],
        f.means("`rotating` keys are replaced and work until they expire."),
    ]
    created_at: Annotated[datetime, f.WHEN]
    expires_at: Annotated[datetime | None, f.EXPIRES_AT]
    last_used_at: Annotated[
        datetime | None, f.means("When it was last used, in UTC; null before that.")
    ]
    created_by_email: Annotated[
        str | None,
        f.means("Who made the key; null when it was made in the database or on the command line."),
    ]
    description: Annotated[str | None, f.PURPOSE]
    last_used_ip: Annotated[str | None, f.means("Where it was last used from; null before that.")]
    rotated_to: Annotated[UUID | None, f.means("The key that replaces it.")]


class NewKey(TypedDict):
    """The successor's particulars."""

    id: Annotated[UUID, f.ITS_ID]
    name: Annotated[str, f.KEY_NAME]
    key_prefix: Annotated[str, f.KEY_PREFIX]
    plaintext_key: Annotated[str, f.PLAINTEXT_KEY]
    environment: Annotated[Literal["test", "live"], f.ENVIRONMENT]
    permissions: Annotated[list[str], f.PERMISSIONS]
    expires_at: Annotated[datetime | None, f.EXPIRES_AT]


class CreatedKey(NewKey):
    """A new API key with its secret."""

    created_at: Annotated[datetime, f.WHEN]


class RotatedKey(TypedDict):
    """The successor of an API key with its secret."""

    id: Annotated[UUID, f.ITS_ID]
    name: Annotated[str, f.KEY_NAME]
    new_key_prefix: Annotated[str, f.means("The successor's first 20 characters.")]
    new_plaintext_key: Annotated[
        str, f.means("The successor's secret. It is shown this once and stored nowhere.")
    ]
    old_key_expires_at: Annotated[
        datetime, f.means("Until when the old key goes on working, in UTC.")
    ]
    new_key: Annotated[NewKey, f.means("The successor; its secret is shown this once.")]


_PREFIX = "cbk_live_Zx81kQw0aBc"
_SECRET = "cbk_live_..."  # noqa: S105
_EXAMPLE = {
    "name": "scout",
    "environment": "live",
    "permissions": ["billing:read", "billing:write"],
}
_KEY_PATH = {"api_key_id": API_KEY_ID}
LIST = Example(
    [
        {
            "id": API_KEY_ID,
            **_EXAMPLE,
            "key_prefix": _PREFIX,
            "status": "active",
            "created_at": THEN,
            "expires_at": None,
            "last_used_at": AT,
            "created_by_email": "ada@example.com",
            "description": None,
            "last_used_ip": "203.0.113.7",
            "rotated_to": None,
        }
    ],
    values={"environment": "live"},
)
CREATED = Example(
    {
        "id": API_KEY_ID,
        **_EXAMPLE,
        "key_prefix": _PREFIX,
        "plaintext_key": _SECRET,
        "expires_at": "2027-11-22T10:24:05.141499Z",
        "created_at": AT,
    },
    request={"name": "scout", "expires_in_days": 365},
)
REVOKED = Example(values=_KEY_PATH)
ROTATED = Example(
    {
        "id": NEW_API_KEY_ID,
        "name": "scout",
        "new_key_prefix": "cbk_live_Yw72jPv9zAb",
        "new_plaintext_key": _SECRET,
        "old_key_expires_at": "2026-11-23T10:24:05.141499Z",
        "new_key": {
            "id": NEW_API_KEY_ID,
            **_EXAMPLE,
            "key_prefix": "cbk_live_Yw72jPv9zAb",
            "plaintext_key": _SECRET,
            "expires_at": None,
        },
    },
    values=_KEY_PATH,
)

_key = reader(ApiKey, functions.list_api_keys.columns)


async def list_api_keys(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists all keys, newest first, including revoked ones, without their secrets."""
    query: KeysQuery = call.query
    rows = await call.rows(
        functions.list_api_keys(environment=query.environment, status=query.status_filter)
    )
    return answer(200, [_key(row) for row in rows])


async def create_api_key(request: web.Request, call: Call) -> web.StreamResponse:
    """Makes a key. Its secret is in the answer and nowhere else."""
    body: CreateKeyRequest = call.body
    secret = await asyncio.to_thread(new_secret, body.environment)
    row = await call.row(
        functions.create_api_key(
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
    )
    key: CreatedKey = {**_new_key(row, secret), "created_at": row["created_at"]}
    return answer(201, key)


async def rotate_api_key(request: web.Request, call: Call) -> web.StreamResponse:
    """Replaces a key: the successor has the same name, environment, permissions and remaining
    lifetime. The old key works for 24 more hours."""
    query: ReasonQuery = call.query
    old = await _key_of_path(call)
    secret = await asyncio.to_thread(new_secret, old["environment"])
    row = await call.row(
        functions.rotate_api_key(
            api_key_id=old["api_key_id"],
            key_prefix=secret.prefix,
            key_hash=secret.hash,
            key_digest=secret.digest,
            reason=query.reason,
        )
    )
    rotated: RotatedKey = {
        "id": row["api_key_id"],
        "name": row["name"],
        "new_key_prefix": row["key_prefix"],
        "new_plaintext_key": secret.plaintext,
        "old_key_expires_at": row["old_key_expires_at"],
        # The dashboard of the old service looks for the secret here.
        "new_key": _new_key(row, secret),
    }
    return answer(200, rotated)


async def revoke_api_key(request: web.Request, call: Call) -> web.StreamResponse:
    """Revokes a key: its next request is refused. Revoking it again has no effect."""
    path: KeyPath = call.path
    query: ReasonQuery = call.query
    await call.rows(functions.revoke_api_key(api_key_id=path.api_key_id, reason=query.reason))
    return web.Response(status=204, headers=NO_STORE)


def _new_key(row: Row, secret: NewSecret) -> NewKey:
    return {
        "id": row["api_key_id"],
        "name": row["name"],
        "key_prefix": row["key_prefix"],
        "plaintext_key": secret.plaintext,
        "environment": row["environment"],
        "permissions": row["permissions"],
        "expires_at": row["expires_at"],
    }


async def _key_of_path(call: Call) -> Row:
    """Returns the key of the path. Raises ApiError (400, as the contract says)."""
    path: KeyPath = call.path
    for row in await call.rows(functions.list_api_keys(environment=None, status=None)):
        if row["api_key_id"] == path.api_key_id:
            return row
    raise known_error("api_key_unknown", api_key_id=path.api_key_id)
