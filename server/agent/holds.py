"""Holds: credits that are kept for a use whose price is known afterwards (docs/api.md)."""

from collections.abc import Mapping
from time import perf_counter
from typing import Annotated, Any, Literal, NotRequired
from uuid import UUID

import orjson
from aiohttp import web
from pydantic import Field

from server.agent.charges import ChargeMetadata, refused_by_cap, tell_shortfall
from server.agent.endpoint import Call, refused_outcome
from server.agent.items import ItemFields
from server.agent.models import Amount, CheckHold, Identity, Lifetime, Limit
from server.gateway import FunctionCall, Gateway, Refused, Row, functions
from server.http import fields as f
from server.http.error_codes import Error
from server.http.errors import ApiError, from_refused, json_response
from server.http.example_values import ADA, HOLD_ID
from server.http.holds import (
    EXAMPLE_HOLD,
    RELEASED_HOLD,
    SETTLED_HOLD,
    Hold,
    HoldPath,
    WhichHolds,
    hold_of,
    page_of_holds,
)
from server.http.route import ErrorAnswer, Example
from server.http.validation import (
    Currency,
    Description,
    Reason,
    RequestModel,
    Text255,
    refused_field,
)
from server.limits import INT64_MAX
from server.observe import metrics

Overage = Literal["refuse", "available"]

_OVERAGE = f.means(
    "What to do when more was used than is held: `refuse`, or take what else is `available`, which"
    " may be less than was used."
)


class _Hold(RequestModel):
    amount_minor: Annotated[Amount, f.HOLD_AMOUNT]
    currency: Annotated[Currency | None, f.SAME_CURRENCY] = None
    expires_in_seconds: Annotated[Lifetime, f.LIFETIME] = 900
    description: Annotated[Description, f.DESCRIPTION] = "one use"
    idempotency_key: Annotated[Text255 | None, f.IDEMPOTENCY_KEY] = None
    metadata: Annotated[ChargeMetadata, f.CHARGE_ORIGIN] = Field(default_factory=ChargeMetadata)
    dry_run: Annotated[bool, f.DRY_RUN] = False


class HoldRequest(_Hold, Identity):
    """POST /v1/billing/holds"""


class _Capture(RequestModel):
    amount_minor: Annotated[
        Annotated[int, Field(ge=0, le=INT64_MAX)] | None,
        f.means("How much was used; null for all that is held, 0 for nothing."),
    ] = None
    overage: Annotated[Overage, _OVERAGE] = "refuse"


class CaptureRequest(_Capture):
    """POST /v1/billing/holds/{hold_id}/capture"""


class CaptureItem(_Capture):
    """A capture among the charges of a batch."""

    hold_id: Annotated[UUID, f.HOLD_ID]


class ReleaseRequest(RequestModel):
    """POST /v1/billing/holds/{hold_id}/release"""

    reason: Annotated[Reason | None, f.means("Why, for people who look at the hold.")] = None


class ExtendRequest(RequestModel):
    """POST /v1/billing/holds/{hold_id}/extend"""

    expires_in_seconds: Annotated[Lifetime, f.LIFETIME] = 900


class HoldsQuery(WhichHolds):
    """GET /v1/billing/accounts/{oauth_provider}/{external_id}/holds"""

    limit: Annotated[Limit, f.HOLDS_LIMIT] = 50


class HoldExists(Error):
    """The idempotency key has made a hold before."""

    hold: Annotated[Hold, f.means("The hold that the idempotency key already made.")]


class HoldSettled(Error):
    """The hold was settled before by another request."""

    hold: NotRequired[Annotated[Hold, f.means("The hold as it was settled.")]]


class HoldTooSmall(Error):
    """The capture asks for more than can be given."""

    available: Annotated[f.Count, f.AVAILABLE]
    required: Annotated[f.Count, f.means("Credits the capture asked for.")]


_CAPTURED = {
    **SETTLED_HOLD,
    "status": "captured",
    "captured_minor": 3,
    "charge_id": "019a9c2f-ad61-7f3c-8b52-0e4d7a1c9b36",
    "balance": 17,
    "available": 17,
}
_BY_ID = {"hold_id": HOLD_ID}
CREATED = Example(
    EXAMPLE_HOLD,
    request={
        **ADA,
        "amount_minor": 5,
        "description": "Summarise a channel",
        "metadata": {"message_id": "msg-5562", "agent_id": "scout", "channel_id": "general"},
    },
    idempotency_key="msg-5562",
)
CAPTURED = Example(_CAPTURED, request={"amount_minor": 3}, values=_BY_ID)
RELEASED = Example(RELEASED_HOLD, request={"reason": "The job failed"}, values=_BY_ID)
EXTENDED = Example(
    {**EXAMPLE_HOLD, "expires_at": "2026-11-22T10:56:30.104466+00:00"},
    request={"expires_in_seconds": 1800},
    values=_BY_ID,
)
READ_ONE = Example(EXAMPLE_HOLD, values=_BY_ID)
LIST = Example({"holds": [EXAMPLE_HOLD], "has_more": False}, values={**ADA, "status": "open"})

ALREADY_EXISTS = ErrorAnswer("hold_already_exists", HoldExists, {"hold": EXAMPLE_HOLD})
SETTLED = ErrorAnswer("hold_settled", HoldSettled, {"hold": _CAPTURED})
EXPIRED = ErrorAnswer("hold_expired", HoldTooSmall, {"available": 2, "required": 5})
EXCEEDED = ErrorAnswer("capture_exceeds_hold", HoldTooSmall, {"available": 15, "required": 6})

HOLD = ItemFields(HoldRequest, leave_out=frozenset({"wa_id", "tenant_id", "dry_run"}))
CAPTURE_FIELDS = ("hold_id", "amount_minor", "overage", "api_key_id")


async def create_hold(request: web.Request, call: Call) -> web.StreamResponse:
    """Keeps credits for work whose price is known afterwards: one free use, whatever the amount, or
    the whole amount from the paid credits. What is held is not available to charges, other holds
    and transfers. Capture the hold with what was used, or release it. When its time is over, it
    keeps nothing any more; `extend` makes it longer. The hold belongs to your API key and the keys
    it was rotated from or to."""
    body: HoldRequest = call.body
    body.idempotency_key = body.idempotency_key or call.idempotency_key or None
    if body.dry_run:
        return await _try_hold(request, call, body)
    started = perf_counter()
    row = await call.gateway.create_hold(HOLD.item(body, call.api_key_id))
    metrics.HOLD_DURATION.observe(perf_counter() - started)
    outcome: str = row["outcome"]
    metrics.count_hold("create", outcome).inc()
    if outcome == "created":
        return json_response(201, hold_of(row))
    if outcome == "replayed" and call.idempotency_key is not None:
        return json_response(201, hold_of(row), {"Idempotent-Replayed": "true"})
    raise await refused_hold(request, call, row, body)


async def _try_hold(request: web.Request, call: Call, body: HoldRequest) -> web.Response:
    values = dict(zip(HOLD.fields, HOLD.item(body, call.api_key_id), strict=True))
    try:
        row = await call.gateway.write(functions.create_hold(**values, dry_run=True))
    except Refused as error:
        refusal = from_refused(error)
        if "scope" in error.values:
            refusal = await refused_by_cap(call.gateway, error.slug, error.values)
        elif error.slug == "insufficient_credits":
            tell_shortfall(request, refusal, error.values["balance"], body.amount_minor)
        elif error.slug == "hold_already_exists":
            refusal = await _hold_exists(call, await _get_hold(call, error.values["hold_id"]))
        raise refusal from None
    if row["outcome"] == "created":
        return json_response(200, hold_of(row))
    if call.idempotency_key is not None:
        return json_response(200, hold_of(row), {"Idempotent-Replayed": "true"})
    raise await _hold_exists(call, row)


async def _get_hold(call: Call, hold_id: Any) -> Row:
    [row] = await call.gateway.read(
        functions.get_hold(hold_id=UUID(str(hold_id)), api_key_id=call.api_key_id)
    )
    return row


async def _hold_exists(call: Call, row: Row) -> ApiError:
    """The error that answers a request whose idempotency key made the hold of this row before."""
    if call.idempotency_key is not None:
        return from_refused(await call.gateway.refused("idempotency_key_reused"))
    error = from_refused(await call.gateway.refused("hold_already_exists"))
    error.headers = {"X-Existing-Hold-ID": str(row["hold_id"])}
    error.extra = {"hold": hold_of(row)}
    return error


async def capture_hold(request: web.Request, call: Call) -> web.StreamResponse:
    """Charges what was used of a hold and gives the rest back. `amount_minor` may be 0: nothing is
    charged then. When more was used than is held, say `overage: available`: it takes what else is
    there, never below zero, and `captured_minor` says how much that was. A hold whose time is over
    is captured all the same (`late`) while the credits are still there. The same capture again gets
    the first answer; a hold is settled once."""
    path: HoldPath = call.path
    body: CaptureRequest = call.body
    row = await call.gateway.capture_hold(
        capture_item(path.hold_id, body.amount_minor, body.overage, call.api_key_id)
    )
    count_capture(row)
    if row["outcome"] == "created":
        return json_response(200, hold_of(row))
    if row["outcome"] == "replayed":
        return json_response(200, hold_of(row), {"Idempotent-Replayed": "true"})
    raise await refused_capture(call, row, path.hold_id, body.amount_minor)


async def release_hold(request: web.Request, call: Call) -> web.StreamResponse:
    """Gives back all that a hold keeps, as when nothing was used: it cannot be captured any more.
    Releasing it again gets the same answer."""
    path: HoldPath = call.path
    body: ReleaseRequest = call.body
    return await _change(
        call,
        "release",
        functions.release_hold(
            hold_id=path.hold_id, reason=body.reason, api_key_id=call.api_key_id
        ),
    )


async def extend_hold(request: web.Request, call: Call) -> web.StreamResponse:
    """Lets an open hold last longer: `expires_in_seconds` from now. It never ends earlier because
    of this. A hold whose time is over cannot be extended: make another one."""
    path: HoldPath = call.path
    body: ExtendRequest = call.body
    return await _change(
        call,
        "extend",
        functions.extend_hold(
            hold_id=path.hold_id,
            expires_in_seconds=body.expires_in_seconds,
            api_key_id=call.api_key_id,
        ),
    )


async def get_hold(request: web.Request, call: Call) -> web.StreamResponse:
    """Reads a hold, as it is now, with what its account has."""
    path: HoldPath = call.path
    return json_response(200, hold_of(await _get_hold(call, path.hold_id)))


async def list_account_holds(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists the holds that your API key, or a key it was rotated from or to, made for an account,
    newest first. After a crash, `status=open` lists those that still wait to be settled."""
    query: HoldsQuery = call.query
    try:
        rows = await call.gateway.read(
            functions.list_holds(
                oauth_provider=call.path.oauth_provider,
                external_id=call.path.external_id,
                state=query.status,
                after=query.after,
                limit=query.limit + 1,
                api_key_id=call.api_key_id,
            )
        )
    except Refused as error:
        raise refused_field(error, "query", query) from None
    return json_response(200, page_of_holds(rows, query.limit))


async def _change(call: Call, operation: str, change: FunctionCall) -> web.Response:
    try:
        row = await call.gateway.write(change)
    except Refused as error:
        metrics.count_hold(operation, error.slug).inc()
        refusal = from_refused(error)
        if error.slug == "hold_expired":
            refusal.extra = {name: error.values[name] for name in ("available", "required")}
        elif error.slug == "hold_settled":
            refusal.extra = {"hold": hold_of(await _get_hold(call, error.values["hold_id"]))}
        raise refusal from None
    metrics.count_hold(operation, row["outcome"]).inc()
    replayed = row["outcome"] == "replayed"
    headers = {"Idempotent-Replayed": "true"} if replayed else None
    return json_response(200, hold_of(row), headers)


def capture_item(
    hold_id: UUID, amount_minor: int | None, overage: str, api_key_id: UUID
) -> tuple[Any, ...]:
    """A capture as the database takes it: CAPTURE_FIELDS."""
    return (hold_id, amount_minor, overage, api_key_id)


def count_capture(row: Row) -> None:
    """Counts the outcome of a capture. A capture that charges something counts as a charge, too."""
    metrics.count_hold("capture", row["outcome"]).inc()
    if row["outcome"] == "created" and row["captured_minor"]:
        metrics.count_charge("created").inc()
        metrics.CHARGE_AMOUNT.observe(row["captured_minor"])
        metrics.ACCOUNT_BALANCE.observe(row["balance"])
        metrics.write_verified("confirmed").inc()


async def refused_hold(
    request: web.Request, call: Call, row: Row, asked: _Hold | CheckHold
) -> ApiError:
    """The error that answers a hold that was not made, or was made before under the same key."""
    fault = await refused_outcome(call.gateway, call.api_key_id, call.permission, row)
    if fault is not None:
        return fault
    outcome: str = row["outcome"]
    if outcome in ("replayed", "conflict"):
        return await _hold_exists(call, row)
    values = {
        "balance": row["available"],
        "required": asked.amount_minor,
        "account_currency": row["account_currency"],
        "currency": getattr(asked, "currency", None),
    }
    if row["cap"] is not None:
        return await refused_by_cap(call.gateway, outcome, orjson.loads(row["cap"]))
    error = from_refused(await call.gateway.refused(outcome, values))
    if outcome == "insufficient_credits":
        tell_shortfall(request, error, row["available"], asked.amount_minor)
    return error


async def refused_capture(call: Call, row: Row, hold_id: UUID, asked_minor: int | None) -> ApiError:
    """The error that answers a capture that was not made."""
    fault = await refused_outcome(call.gateway, call.api_key_id, call.permission, row)
    if fault is not None:
        return fault
    outcome: str = row["outcome"]
    required = row["amount_minor"] if asked_minor is None else asked_minor
    error = await _refused(
        call.gateway,
        outcome,
        {
            "hold_id": hold_id,
            "available": row["available"],
            "held": row["amount_minor"],
            "required": required,
            "state": row["state"],
        },
    )
    if outcome == "hold_settled":
        error.extra = {"hold": hold_of(row)}
    elif outcome in ("hold_expired", "capture_exceeds_hold"):
        error.extra = {"available": row["available"], "required": required}
    return error


async def _refused(gateway: Gateway, slug: str, values: Mapping[str, Any]) -> ApiError:
    return from_refused(await gateway.refused(slug, values))
