"""What every agent endpoint does before its handler, in the order that clients rely on (contract.md
1): read and parse the body, require the key header, identify the key, check the fields. Only a
caller with a valid key is told about faults in the fields."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel

from server.agent.guard import GUARD, WHERE_KEYS_GO
from server.gateway import Gateway, Refused, Row
from server.http.app_keys import GATEWAY
from server.http.client_address import client_address
from server.http.errors import ApiError, from_refused, unavailable, validation_error
from server.http.quick_decoder import quick_decoder
from server.http.request_shape import Shape, needs_no_field
from server.http.validation import missing

READ = "billing:read"
WRITE = "billing:write"


class Call(NamedTuple):
    """A request that passed the guard: who is asking, and the valid parts of the request."""

    gateway: Gateway
    api_key_id: UUID
    permission: str
    idempotency_key: str | None = None
    body: Any = None
    path: Any = None
    query: Any = None


Handler = Callable[[web.Request, Call], Awaitable[web.StreamResponse]]


def agent_endpoint(
    permission: str,
    handler: Handler,
    *,
    body: type[BaseModel] | None = None,
    path: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    idempotent: bool | str = False,
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Guards `handler` with an API key that has `permission` and gives it validated models.
    With `idempotent`, the Idempotency-Key header is read too; where it names a field of the body,
    only beside that field. A body that needs no field need not be sent."""

    quick = body and quick_decoder(body)
    may_be_absent = body is not None and needs_no_field(body)
    shape = Shape(body, path, query, idempotent, quick, may_be_absent)

    async def endpoint(request: web.Request) -> web.StreamResponse:
        models, entries = await shape.read(request)
        presented = request.headers.get("X-API-Key")
        if presented is None:
            raise validation_error([missing("header", "x-api-key"), *entries], WHERE_KEYS_GO)
        app = request.app
        gateway = app[GATEWAY]
        api_key_id = await app[GUARD].identify(presented)
        if entries:
            await require_api_key(gateway, api_key_id, permission)
            gateway.note_key_use(api_key_id, client_address(request))
            raise validation_error(entries)
        call = Call(gateway, api_key_id, permission, **models)
        try:
            response = await handler(request, call)
        except Refused as error:
            failure = await _error_of(gateway, api_key_id, error)
        except ApiError as error:
            failure = error
        else:
            gateway.note_key_use(api_key_id, client_address(request))
            return response
        if failure.status != 401:
            gateway.note_key_use(api_key_id, client_address(request))
        raise failure

    return endpoint


async def require_api_key(gateway: Gateway, api_key_id: UUID, permission: str) -> None:
    """Raises ApiError unless the key is valid for the permission right now."""
    try:
        await gateway.require_api_key(api_key_id, permission)
    except Refused as error:
        raise await _error_of(gateway, api_key_id, error) from error


async def _error_of(gateway: Gateway, api_key_id: UUID, error: Refused) -> ApiError:
    """The error that answers a refusal. It also revokes a key that has expired."""
    if error.slug == "api_key_expired":
        await gateway.retire_expired_api_key(api_key_id)
    return from_refused(error)


async def refused_outcome(
    gateway: Gateway, api_key_id: UUID, permission: str, row: Row
) -> ApiError | None:
    """The answer to an outcome that blames the key or says that the account is busy; None for every
    other outcome."""
    outcome = row["outcome"]
    if outcome == "busy":
        return unavailable(1, (await gateway.refused(outcome)).message)
    if outcome.startswith(("api_key_", "permission_")):
        refused = await gateway.refused(outcome, {"permission": permission})
        return await _error_of(gateway, api_key_id, refused)
    return None
