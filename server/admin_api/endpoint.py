"""What every call of the staff's API does before and after its handler (contract.md 5). A caller
who may not make the call is told that first; only others are told what is wrong with the request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Any
from uuid import UUID

import orjson
from aiohttp import web
from pydantic import BaseModel

from server.admin_api.models import PageQuery
from server.gateway import FunctionCall, Refused, Row
from server.http.errors import ApiError, from_refused, known_error, validation_error
from server.http.json_answer import JSON
from server.http.request_shape import Shape
from server.http.validation import Entries
from server.staff.guard import Visit, require_admin


@dataclass(frozen=True, slots=True)
class Call:
    """A staff member's request that passed the guard: who is asking, and the valid parts of the
    request."""

    visit: Visit
    idempotency_key: str | None = None
    body: Any = None
    path: Any = None
    query: Any = None

    async def rows(self, call: FunctionCall) -> list[Row]:
        """Calls a function in the staff member's name. Raises Refused."""
        return await self.visit.rows(call)

    async def row(self, call: FunctionCall) -> Row:
        """Returns the one row of a call."""
        return await self.visit.row(call)


Handler = Callable[[web.Request, Call], Awaitable[web.StreamResponse]]


def staff_endpoint(
    handler: Handler,
    *,
    writes: bool,
    body: type[BaseModel] | None = None,
    path: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    idempotent: bool | str = False,
    secret: bool = False,
) -> Callable[[web.Request, Visit], Awaitable[web.StreamResponse]]:
    """Gives `handler` validated models. With `writes`, only administrators may call it. With
    `secret`, an error never repeats what was sent."""
    shape = Shape(body, path, query, idempotent)

    async def endpoint(request: web.Request, visit: Visit) -> web.StreamResponse:
        if writes:
            await require_admin(visit)
        models, entries = await shape.read(request)
        if entries:
            raise validation_error(_silenced(entries) if secret else entries)
        try:
            return await handler(request, Call(visit, **models))
        except Refused as error:
            raise _in_staff_words(error, models.get("path")) from None

    return endpoint


def answer(status: int, body: Any, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer that is not to be cached. Its times end in Z, unlike those of the agents'
    API."""
    return web.Response(
        status=status,
        body=encode(body),
        content_type=JSON,
        headers={**NO_STORE, **(headers or {})},
    )


def encode(body: Any) -> bytes:
    """The body of a JSON answer."""
    return orjson.dumps(body, default=_plain, option=orjson.OPT_UTC_Z)


# The types that the driver makes of uuid (a class of its own) and inet.
_TEXTS = (UUID, IPv4Address, IPv4Interface, IPv6Address, IPv6Interface)
NO_STORE = {"Cache-Control": "no-store"}


def page_of(
    name: str,
    rows: Sequence[Row],
    query: PageQuery,
    entry: Callable[[Row], Any],
    counted: Row | None = None,
) -> dict[str, Any]:
    """A page of a list. `rows` has one row more than the page if there is a next page. `counted` is
    how many rows the list has, counted up to a limit, where that is counted."""
    total = {"total": counted[name], "total_is_minimum": counted["is_more"]} if counted else {}
    return {
        name: [entry(row) for row in rows[: query.page_size]],
        "page": query.page,
        "page_size": query.page_size,
        "has_more": len(rows) > query.page_size,
        **total,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return orjson.Fragment(f"{value:f}")  # a sum may not fit into 64 bits
    if isinstance(value, _TEXTS):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in an answer")


def _silenced(entries: Entries) -> Entries:
    return [{**entry, "input": None} if entry["loc"][0] == "body" else entry for entry in entries]


def _in_staff_words(error: Refused, path: Any) -> ApiError:
    if error.slug == "account_not_found":
        missing = error.values.get("account_id") or path.account_id
        return known_error("user_not_found", account_id=missing)
    answer = from_refused(error)
    if error.slug == "insufficient_credits":
        balance, required = int(error.values["balance"]), int(error.values["required"])
        answer.extra = {
            "balance": balance,
            "required": required,
            "shortfall": required - balance,
            "retryable": False,
        }
    if error.slug == "invalid_argument":
        argument = str(error.values["argument"]).removeprefix("p_")
        answer.detail = f"Invalid {argument}: {error.values['problem']}"
    return answer
