"""POST /v1/billing/charges: this user used one (contract.md 2.2)."""

from collections.abc import Mapping
from datetime import UTC, datetime
from math import ceil
from time import perf_counter
from typing import Annotated, Any, Literal, NamedTuple, NotRequired
from uuid import UUID

import orjson
from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from server.agent.endpoint import Call, refused_outcome
from server.agent.items import ItemFields
from server.agent.models import Amount, Identity, Profile
from server.gateway import CHARGE_ITEM, Gateway, Item, Row
from server.http import fields as f
from server.http.answers import From, reader
from server.http.app_keys import CONFIG, REQUEST_ID
from server.http.error_codes import ERROR_CODES, CapReached, Error, ReachedCap
from server.http.errors import ApiError, error_body, from_refused, json_response
from server.http.example_values import ACCOUNT_ID, ADA, ERROR_VALUES
from server.http.route import ErrorAnswer, Example
from server.http.validation import Currency, Description, RequestModel, Text255
from server.observe import metrics


class ChargeMetadata(RequestModel):
    """The origin of a charge, stored with it."""

    message_id: Annotated[Text255 | None, f.means("The message that was worked on.")] = None
    agent_id: Annotated[Text255 | None, f.AGENT_ID] = None
    channel_id: Annotated[Text255 | None, f.CHANNEL_ID] = None
    request_id: Annotated[Text255 | None, f.means("The agent's own id for what it worked on.")] = (
        None
    )


class _Charge(RequestModel):
    amount_minor: Annotated[Amount, f.AMOUNT]
    currency: Annotated[Currency, f.SAME_CURRENCY]
    description: Annotated[Description, f.DESCRIPTION]
    idempotency_key: Annotated[Text255 | None, f.IDEMPOTENCY_KEY] = None
    metadata: Annotated[ChargeMetadata, f.CHARGE_ORIGIN] = Field(default_factory=ChargeMetadata)


class ChargeRequest(Profile, _Charge, Identity):
    """POST /v1/billing/charges"""


class Charge(TypedDict):
    """A charge as it stands in the ledger."""

    charge_id: Annotated[UUID, f.CHARGE_ID]
    account_id: Annotated[UUID, f.ACCOUNT_ID]
    amount_minor: Annotated[f.Positive, f.means("As asked for, also when a free use paid.")]
    currency: Annotated[str, f.ACCOUNT_CURRENCY]
    balance_after: Annotated[f.Count, f.BALANCE_AFTER]
    created_at: Annotated[datetime, f.WHEN]
    description: Annotated[str, f.DESCRIPTION]
    metadata: Annotated[f.Origin, f.CHARGE_ORIGIN]
    paid_with: Annotated[
        Literal["free", "paid"], f.means("Whether a free use or paid credits paid.")
    ]
    free_uses_remaining: NotRequired[
        Annotated[
            f.Count,
            From("free_uses_after"),
            f.means(
                "Free uses left after the charge; absent for charges that the service before this"
                " one made."
            ),
        ]
    ]


class ChargeExists(Error):
    """The idempotency key has made a charge before."""

    charge: Annotated[Charge, f.means("The charge that the idempotency key already made.")]


EXAMPLE_CHARGE = {
    "charge_id": "019a9c2e-7f06-7a52-9c1e-0b8d4f6a2e93",
    "account_id": ACCOUNT_ID,
    "amount_minor": 1,
    "currency": "USD",
    "balance_after": 0,
    "created_at": "2026-11-22T10:24:00.948849+00:00",
    "description": "Answered a message",
    "metadata": {
        "message_id": "msg-5561",
        "agent_id": "scout",
        "channel_id": "general",
        "request_id": None,
    },
    "paid_with": "free",
    "free_uses_remaining": 2,
}
EXAMPLE_REQUEST = {**ADA, "amount_minor": 1, "currency": "USD", "description": "Answered a message"}
CREATED = Example(
    EXAMPLE_CHARGE,
    request={
        **EXAMPLE_REQUEST,
        "metadata": {"message_id": "msg-5561", "agent_id": "scout", "channel_id": "general"},
    },
    idempotency_key="msg-5561",
)


def _cap_example(code: str, scope: str, capped: str) -> ErrorAnswer:
    cap = {
        "cap_id": ERROR_VALUES["cap_id"],
        "scope": scope,
        "period": "day",
        "limit": 1000,
        "used": 998,
        "resets_at": "2026-11-23T00:00:00Z",
    }
    detail = ERROR_CODES[code].detail.format(capped=capped, **cap)
    further = {"detail": detail, "cap": cap, "required": 5, "retryable": True}
    return ErrorAnswer(code, CapReached, further)


CAP_REACHED = _cap_example("cap_reached", "api_key", "this API key")
ACCOUNT_CAP_REACHED = _cap_example("account_cap_reached", "account", "this account")
ALREADY_EXISTS = ErrorAnswer("charge_already_exists", ChargeExists, {"charge": EXAMPLE_CHARGE})

# A charge needs an existing account, so these two fields have no account to be stored with.
CHARGE = ItemFields(ChargeRequest, leave_out=frozenset({"wa_id", "tenant_id"}))

_charge = reader(Charge, CHARGE_ITEM.columns)


class Answer(NamedTuple):
    """The answer to one charge: by itself the response, in a batch one result among others."""

    status: int
    body: Mapping[str, Any]
    headers: dict[str, str]


async def create_charge(request: web.Request, call: Call) -> web.StreamResponse:
    """Uses up one free use, whatever the amount. When no free use is left, it takes the whole
    amount from the paid credits; it never mixes the two. The account must exist; a check creates
    it. Of two requests for the last credit one is answered 201 and the other 402."""
    started = perf_counter()
    row = await call.gateway.create_charge(
        charge_item(call.body, call.api_key_id, call.idempotency_key)
    )
    metrics.CHARGE_DURATION.observe(perf_counter() - started)
    answer = await answer_charge(request, call, row, replays=call.idempotency_key is not None)
    return json_response(answer.status, answer.body, answer.headers)


def charge_item(body: ChargeRequest, api_key_id: UUID, header_key: str | None) -> Item:
    """A charge as the database takes it. The body's idempotency key wins over the header's."""
    body.idempotency_key = body.idempotency_key or header_key or None
    return CHARGE.item(body, api_key_id)


async def answer_charge(request: web.Request, call: Call, row: Row, *, replays: bool) -> Answer:
    """The answer to a charge. With `replays` a charge that was made before is one."""
    outcome: str = row["outcome"]
    if row.get("replayed"):
        if outcome == "created":
            return Answer(201, _charge(row), {})
        return from_error(request, await _refusal(request, call, row, replays=replays))
    metrics.count_charge(outcome).inc()
    if outcome == "created":
        metrics.CHARGE_AMOUNT.observe(row["amount_minor"])
        metrics.ACCOUNT_BALANCE.observe(row["balance_after"])
        metrics.write_verified("confirmed").inc()
        return Answer(201, _charge(row), {})
    if outcome == "replayed" and replays:
        return Answer(201, _charge(row), {"Idempotent-Replayed": "true"})
    return from_error(request, await _refusal(request, call, row, replays=replays))


async def _refusal(request: web.Request, call: Call, row: Row, *, replays: bool) -> ApiError:
    outcome: str = row["outcome"]
    if outcome in ("replayed", "conflict"):
        if replays:
            return await _refused_row(call.gateway, "idempotency_key_reused", row)
        error = await _refused_row(call.gateway, "charge_already_exists", row)
        error.headers = {"X-Existing-Charge-ID": str(row["charge_id"])}
        error.extra = {"charge": _charge(row)}
        return error
    fault = await refused_outcome(call.gateway, call.api_key_id, call.permission, row)
    if fault is not None:
        if outcome != "busy":
            raise fault  # the fault is the key's and concerns the whole request
        return fault
    if row["cap"] is not None:
        return await refused_by_cap(call.gateway, outcome, orjson.loads(row["cap"]))
    error = await _refused_row(call.gateway, outcome, row)
    if outcome == "insufficient_credits":
        tell_shortfall(request, error, row["balance"], row["amount_minor"])
    return error


async def refused_by_cap(gateway: Gateway, slug: str, told: Mapping[str, Any]) -> ApiError:
    """The error that answers a refusal by a cap; `told` says which cap it was, and when its window
    ends."""
    error = from_refused(await gateway.refused(slug, told))
    metrics.count_cap_refusal(told["scope"], told["period"]).inc()
    error.extra = {
        "cap": {name: told[name] for name in ReachedCap.__annotations__},
        "required": told["required"],
        "retryable": told["required"] <= told["limit"],
    }
    if error.status == 429:
        seconds = (datetime.fromisoformat(told["resets_at"]) - datetime.now(UTC)).total_seconds()
        error.headers = {"Retry-After": str(max(1, ceil(seconds)))}
    return error


def tell_shortfall(request: web.Request, error: ApiError, balance: int, required: int) -> None:
    """Adds to an error what the account has, what it needed, and where to buy credits."""
    extra: dict[str, Any] = {
        "balance": balance,
        "required": required,
        "shortfall": required - balance,
        "retryable": False,
    }
    purchase_url = request.app[CONFIG].purchase_url
    if purchase_url:
        extra["purchase_url"] = purchase_url
    error.extra = extra


async def _refused_row(gateway: Gateway, slug: str, row: Row) -> ApiError:
    values = {
        "balance": row["balance"],
        "required": row["amount_minor"],
        "account_currency": row["account_currency"],
        "currency": row["currency"],
    }
    return from_refused(await gateway.refused(slug, values))


def from_error(request: web.Request, error: ApiError) -> Answer:
    """The answer that is an error, which is counted."""
    metrics.count_error(error.code).inc()
    return Answer(error.status, error_body(request[REQUEST_ID], error), dict(error.headers))
