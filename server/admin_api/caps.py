"""/admin/api/caps: how much may be charged in a minute, a day or a month."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from aiohttp import web
from typing_extensions import TypedDict

from server.admin_api.endpoint import NO_STORE, Call, answer, page_of
from server.admin_api.models import CapPath, CapsQuery, DeleteCapQuery, SetCapRequest
from server.gateway import Refused, functions
from server.http import fields as f
from server.http.answers import From, reader
from server.http.errors import known_error
from server.http.example_values import API_KEY_ID, AT, BOUNDED
from server.http.route import Example


class Cap(TypedDict):
    """A cap, with what the present minute, day or month has used of it."""

    cap_id: Annotated[UUID, f.ITS_ID]
    scope: Annotated[Literal["all", "api_key", "account", "agent"], f.CAP_SCOPE]
    subject: Annotated[
        str, f.means("The id of the first key of its rotations, the account or the agent.")
    ]
    subject_name: Annotated[str, f.means("Whose cap it is, for people.")]
    period: Annotated[Literal["minute", "day", "month"], f.CAP_PERIOD]
    mode: Annotated[Literal["hard", "alert"], f.CAP_MODE]
    limit: Annotated[f.Count, From("limit_minor"), f.CAP_LIMIT]
    used: Annotated[f.Count, From("used_minor"), f.CAP_USED]
    left: Annotated[f.Count, From("left_minor"), f.means("Credits that can still be charged.")]
    resets_at: Annotated[datetime, f.CAP_RESETS_AT]
    reached_at: Annotated[
        datetime | None,
        f.means("When the limit was used up, or the cap first refused; null before that."),
    ]
    counts_from: Annotated[datetime, f.means("Since when the cap counts: when it was set.")]
    updated_at: Annotated[datetime, f.means("When the limit last changed.")]


class CapPage(f.BoundedPage):
    """A page of caps."""

    caps: Annotated[list[Cap], f.means("The caps of this page.")]


_EXAMPLE = {
    "cap_id": "019a9c2e-51d0-7c3b-8a44-6f1e2d3c4b5a",
    "scope": "api_key",
    "subject": API_KEY_ID,
    "subject_name": "scout (cbk_live_Zx81kQw0aBc...)",
    "period": "day",
    "mode": "hard",
    "limit": 1000,
    "used": 998,
    "left": 2,
    "resets_at": "2026-11-23T00:00:00Z",
    "reached_at": None,
    "counts_from": AT,
    "updated_at": AT,
}
LIST = Example(
    {"caps": [_EXAMPLE], **BOUNDED},
    values={"scope": "api_key"},
)
SET = Example(
    _EXAMPLE,
    request={
        "scope": "api_key",
        "subject": API_KEY_ID,
        "period": "day",
        "limit": 1000,
        "reason": "Bounds the damage if it leaks",
    },
)
DELETED = Example(
    values={"cap_id": _EXAMPLE["cap_id"], "reason": "The agent needs more at month's end"}
)

_cap = reader(Cap, functions.list_caps.columns)


async def list_caps(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists caps with what is used and left of each in the present minute, day or month."""
    query: CapsQuery = call.query
    filters: dict[str, Any] = {"scope": query.scope, "account_id": query.account_id}
    rows = await call.rows(
        functions.list_caps(**filters, limit=query.page_size + 1, offset=query.offset)
    )
    counted = await call.row(functions.count_caps(**filters))
    return answer(200, page_of("caps", rows, query, _cap, counted))


async def set_cap(request: web.Request, call: Call) -> web.StreamResponse:
    """Sets how many credits may be charged in a minute, day or month (UTC): by an API key and the
    keys that it is rotated to, to an account, by an agent, or by all together. A second call for
    the same scope, subject, period and mode changes the limit. A new cap counts from now on."""
    body: SetCapRequest = call.body
    try:
        row = await call.row(
            functions.set_cap(
                scope=body.scope,
                subject=body.subject,
                period=body.period,
                mode=body.mode,
                limit_minor=body.limit,
                reason=body.reason,
            )
        )
    except Refused as error:
        if error.slug != "account_not_found":
            raise
        raise known_error("user_not_found", account_id=body.subject) from None
    return answer(200, _cap(row))


async def delete_cap(request: web.Request, call: Call) -> web.StreamResponse:
    """Deletes a cap: from the next request on it refuses nothing."""
    path: CapPath = call.path
    query: DeleteCapQuery = call.query
    await call.row(functions.delete_cap(cap_id=path.cap_id, reason=query.reason))
    return web.Response(status=204, headers=NO_STORE)
