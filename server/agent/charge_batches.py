"""POST /v1/billing/charges:batch: many charges, and captures of holds, in one request (contract.md
10)."""

from hashlib import sha256
from typing import Annotated, Any, NamedTuple

import orjson
from aiohttp import web
from pydantic import Field, SkipValidation
from typing_extensions import TypedDict

from server.agent.charges import (
    CHARGE,
    EXAMPLE_CHARGE,
    EXAMPLE_REQUEST,
    Answer,
    Charge,
    ChargeExists,
    ChargeRequest,
    answer_charge,
    charge_item,
    from_error,
)
from server.agent.endpoint import Call
from server.agent.holds import (
    CaptureItem,
    HoldSettled,
    HoldTooSmall,
    capture_item,
    count_capture,
    refused_capture,
)
from server.gateway import Item, Row
from server.http import fields as f
from server.http.error_codes import CapReached, Error, InsufficientCredits, ValidationError
from server.http.errors import json_response, validation_error
from server.http.example_values import STRANGER
from server.http.holds import Hold, hold_of
from server.http.route import Example
from server.http.validation import RequestModel, validate


class ChargeBatchRequest(RequestModel):
    """POST /v1/billing/charges:batch. Each charge is validated by itself, so that a malformed one
    fails alone."""

    charges: Annotated[
        list[SkipValidation[ChargeRequest | CaptureItem]],
        Field(min_length=1, max_length=1000),
        f.means(
            "The charges, each decided by itself. One with a `hold_id` is the capture of that hold;"
            " captures come first."
        ),
    ]


class ChargeResult(TypedDict):
    """The outcome of one charge of a batch: the answer it would have had by itself."""

    index: Annotated[f.Count, f.means("The charge's place in the request, from 0.")]
    status: Annotated[
        f.Integer,
        f.means("The HTTP status: 201 for a charge, 200 for a capture, else the error's."),
    ]
    body: Annotated[
        Charge
        | Hold
        | Error
        | InsufficientCredits
        | CapReached
        | ChargeExists
        | HoldSettled
        | HoldTooSmall
        | ValidationError,
        f.means("The charge, the hold that was captured, or the error body."),
    ]


class ChargeBatch(TypedDict):
    """The outcomes of a batch."""

    results: Annotated[list[ChargeResult], f.means("A result for each charge, in the order sent.")]
    created_count: Annotated[
        f.Count, f.means("How many charges this request made; replayed ones do not count.")
    ]
    total_count: Annotated[f.Count, f.means("How many charges were sent.")]


BATCH = Example(
    {
        "results": [
            {
                "index": 0,
                "status": 201,
                "body": {
                    **EXAMPLE_CHARGE,
                    "charge_id": "019a9c2e-9b44-7e0f-a6d8-3c5f7b1e2d60",
                    "created_at": "2026-11-22T10:24:07.310426+00:00",
                    "metadata": dict.fromkeys(f.ChargeOrigin.__annotations__),
                    "free_uses_remaining": 1,
                },
            },
            {
                "index": 1,
                "status": 404,
                "body": {
                    "detail": "Account not found",
                    "code": "account_not_found",
                    "request_id": "4c1f0c9b7a5e4d0f8b6a2e9d3c7f1a50",
                },
            },
        ],
        "created_count": 1,
        "total_count": 2,
    },
    request={
        "charges": [
            EXAMPLE_REQUEST,
            {**EXAMPLE_REQUEST, **STRANGER, "description": "Summarised a channel"},
        ]
    },
    idempotency_key="scout-batch-17",
)


class _Batch(NamedTuple):
    """What a request asks for, by the places in it."""

    charges: dict[int, Item]
    captures: dict[int, Item]


async def create_charges(request: web.Request, call: Call) -> web.StreamResponse:
    """Charges for up to 1,000 uses at once. Each charge is decided by itself, and charges of one
    account in the order sent. A charge that fails does not affect the others: `status` and `body`
    of its result are what `POST /v1/billing/charges` would have answered. Give each charge an
    `idempotency_key`, or send an Idempotency-Key header, which covers the whole list: the same list
    again gets the first answer, including refusals, and charges nothing. The header belongs to your
    API key and the keys it was rotated from or to; under any other API key it is another list. An
    `idempotency_key` belongs to the account, whatever the API key. An entry with a `hold_id`
    captures that hold, as `POST /v1/billing/holds/{hold_id}/capture` does; captures come first."""
    body: ChargeBatchRequest = call.body
    results: list[Answer | None] = [None] * len(body.charges)
    batch = _Batch({}, {})
    for index, raw in enumerate(body.charges):
        is_capture = isinstance(raw, dict) and "hold_id" in raw
        model: type[CaptureItem | ChargeRequest] = CaptureItem if is_capture else ChargeRequest
        asked, faults = validate(model, raw, "body", prefix=("charges", index))
        if isinstance(asked, CaptureItem):
            batch.captures[index] = capture_item(
                asked.hold_id, asked.amount_minor, asked.overage, call.api_key_id
            )
        elif asked is not None:
            batch.charges[index] = charge_item(asked, call.api_key_id, None)
        else:
            results[index] = from_error(request, validation_error(faults))
    charged, captured, replayed = await _send_together(call, batch)
    for index, row in zip(batch.charges, charged, strict=True):
        results[index] = await answer_charge(request, call, row, replays=False)
    for (index, item), row in zip(batch.captures.items(), captured, strict=True):
        results[index] = await _answer_capture(request, call, item, row, replayed=replayed)
    answers = [answer for answer in results if answer is not None]
    told: ChargeBatch = {
        "results": [
            {"index": index, "status": answer.status, "body": answer.body}  # type: ignore[typeddict-item]
            for index, answer in enumerate(answers)
        ],
        "created_count": sum(answer.status == 201 for answer in answers),
        "total_count": len(answers),
    }
    return json_response(200, told, {"Idempotent-Replayed": "true"} if replayed else None)


async def _send_together(call: Call, batch: _Batch) -> tuple[list[Row], list[Row], bool]:
    """Returns a row for each charge, a row for each capture, and whether this is a first answer
    again."""
    items, captures = list(batch.charges.values()), list(batch.captures.values())
    count, places = len(call.body.charges), list(batch.charges)
    understood = [count, places, [_understood(item) for item in items]]
    if call.idempotency_key is None:
        captured = await call.gateway.capture_holds(captures) if captures else []
        return await call.gateway.create_charges(items) if items else [], captured, False
    if captures:
        understood += [list(batch.captures), [item[:-1] for item in captures]]
        return await call.gateway.settle_once(
            items, captures, call.idempotency_key, _digest(understood)
        )
    if not items:
        return [], [], False
    rows = await call.gateway.create_charges_once(
        items,
        call.idempotency_key,
        batch_fingerprint_before(count, places, items),
        _digest(understood),
    )
    return rows, [], bool(rows[0].get("replayed"))


async def _answer_capture(
    request: web.Request, call: Call, item: Item, row: Row, *, replayed: bool
) -> Answer:
    if not replayed:
        count_capture(row)
    if row["outcome"] in ("created", "replayed"):
        return Answer(200, hold_of(row), {})
    error = await refused_capture(call, row, item[0], item[1])
    if error.status in (401, 403):
        raise error  # the fault is the key's and concerns the whole request
    return from_error(request, error)


def batch_fingerprint_before(count: int, places: list[int], items: list[Item]) -> bytes:
    """The fingerprint as the release before makes it: only by this one are that release's batches
    recognised."""
    texts = []
    for item in items:
        fields = zip(CHARGE.fields, item, strict=True)
        texts.append(f"ChargeItem({', '.join(f'{name}={value!r}' for name, value in fields)})")
    return _digest([count, places, texts])


def _understood(item: Item) -> dict[str, Any]:
    """What must be equal when a batch is sent again, under whichever API key. Fields that were not
    given are left out, so that a new field in a later release does not change the fingerprint."""
    return {
        name: value
        for name, value in zip(CHARGE.fields, item, strict=True)
        if value is not None and name != "api_key_id"
    }


def _digest(understood: Any) -> bytes:
    return sha256(orjson.dumps(understood, default=str)).digest()
