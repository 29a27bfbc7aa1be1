"""POST /v1/billing/charges and charges:batch: this user used one (contract.md 2.2 and 10)."""

from __future__ import annotations

from hashlib import sha256
from time import perf_counter
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from aiohttp import web

from server.agent.endpoint import Call, refused_outcome
from server.agent.items import CHARGE
from server.agent.models import ChargeBatchRequest, ChargeRequest
from server.gateway import Gateway, Item, Row
from server.http.app_keys import CONFIG, REQUEST_ID
from server.http.errors import ApiError, error_body, json_response, refusal, validation_error
from server.http.validation import validate
from server.observe import metrics


class _Answer(NamedTuple):
    """What one charge is answered: by itself the response, in a batch one result of many."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]


async def create_charge(request: web.Request, call: Call) -> web.StreamResponse:
    """201 with the charge; a used key 409, or the first answer for an Idempotency-Key header."""
    started = perf_counter()
    row = await call.gateway.create_charge(_item(call.body, call.api_key_id, call.idempotency_key))
    metrics.CHARGE_DURATION.observe(perf_counter() - started)
    answer = await _answer(request, call, row, replays=call.idempotency_key is not None)
    return json_response(answer.status, answer.body, answer.headers)


async def create_charges(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with a result per charge, in the order sent: `status` and `body` are what the single
    endpoint would have answered. An Idempotency-Key header stands for the whole list: the same
    list again gets the first answer."""
    body: ChargeBatchRequest = call.body
    results: list[_Answer | None] = [None] * len(body.charges)
    items: list[Item] = []
    places: list[int] = []
    for index, raw in enumerate(body.charges):
        charge, faults = validate(ChargeRequest, raw, "body", prefix=("charges", index))
        if charge is None:
            results[index] = _from_error(request, validation_error(faults))
        else:
            items.append(_item(charge, call.api_key_id, None))
            places.append(index)
    rows = await _send_together(call, items, places)
    for index, row in zip(places, rows, strict=True):
        results[index] = await _answer(request, call, row, replays=False)
    answers = [answer for answer in results if answer is not None]
    return json_response(
        200,
        {
            "results": [
                {"index": index, "status": answer.status, "body": answer.body}
                for index, answer in enumerate(answers)
            ],
            "created_count": sum(answer.status == 201 for answer in answers),
            "total_count": len(answers),
        },
        {"Idempotent-Replayed": "true"} if rows and rows[0].get("replayed") else None,
    )


async def _send_together(call: Call, items: list[Item], places: list[int]) -> list[Row]:
    if not items:
        return []
    if call.idempotency_key is None:
        return await call.gateway.create_charges(items)
    count = len(call.body.charges)
    return await call.gateway.create_charges_once(
        items,
        call.idempotency_key,
        batch_fingerprint_before(count, places, items),
        _digest([count, places, [_understood(item) for item in items]]),
    )


def batch_fingerprint_before(count: int, places: list[int], items: list[Item]) -> bytes:
    """As the release before made it: only by this can its batches be recognised."""
    texts = []
    for item in items:
        fields = zip(CHARGE.fields, item, strict=True)
        texts.append(f"ChargeItem({', '.join(f'{name}={value!r}' for name, value in fields)})")
    return _digest([count, places, texts])


def _understood(item: Item) -> dict[str, Any]:
    """What must be the same when a batch is sent again, by whichever API key. Fields that were not
    given are left out, so that a field of a later release makes no other request of it."""
    return {
        name: value
        for name, value in zip(CHARGE.fields, item, strict=True)
        if value is not None and name != "api_key_id"
    }


def _digest(understood: Any) -> bytes:
    return sha256(orjson.dumps(understood, default=str)).digest()


def _item(body: ChargeRequest, api_key_id: UUID, header_key: str | None) -> Item:
    body.idempotency_key = body.idempotency_key or header_key or None
    return CHARGE.item(body, api_key_id)


async def _answer(request: web.Request, call: Call, row: Row, *, replays: bool) -> _Answer:
    outcome: str = row["outcome"]
    if row.get("replayed"):
        if outcome == "created":
            return _Answer(201, _charge(row), {})
        return _from_error(request, await _refusal(request, call, row, replays=replays))
    metrics.count_charge(outcome).inc()
    if outcome == "created":
        metrics.CHARGE_AMOUNT.observe(row["amount_minor"])
        metrics.ACCOUNT_BALANCE.observe(row["balance_after"])
        metrics.write_verified("confirmed").inc()
        return _Answer(201, _charge(row), {})
    if outcome == "replayed" and replays:
        return _Answer(201, _charge(row), {"Idempotent-Replayed": "true"})
    return _from_error(request, await _refusal(request, call, row, replays=replays))


async def _refusal(request: web.Request, call: Call, row: Row, *, replays: bool) -> ApiError:
    outcome: str = row["outcome"]
    if outcome in ("replayed", "conflict"):
        if replays:
            return await _catalogue_refusal(call.gateway, "idempotency_key_reused", row)
        error = await _catalogue_refusal(call.gateway, "charge_already_exists", row)
        error.headers = {"X-Existing-Charge-ID": str(row["charge_id"])}
        error.extra = {"charge": _charge(row)}
        return error
    fault = await refused_outcome(call.gateway, call.api_key_id, call.permission, row)
    if fault is not None:
        if outcome != "busy":
            raise fault  # the key's: it concerns the whole request
        return fault
    error = await _catalogue_refusal(call.gateway, outcome, row)
    if outcome == "insufficient_credits":
        balance, required = row["balance"], row["amount_minor"]
        error.extra = {
            "balance": balance,
            "required": required,
            "shortfall": required - balance,
            "retryable": False,
        }
        purchase_url = request.app[CONFIG].purchase_url
        if purchase_url:
            error.extra["purchase_url"] = purchase_url
    return error


async def _catalogue_refusal(gateway: Gateway, slug: str, row: Row) -> ApiError:
    return refusal(
        slug,
        await gateway.wording(slug),
        {
            "balance": row["balance"],
            "required": row["amount_minor"],
            "account_currency": row["account_currency"],
            "currency": row["currency"],
        },
    )


def _from_error(request: web.Request, error: ApiError) -> _Answer:
    metrics.count_error(error.code).inc()
    return _Answer(error.status, error_body(request[REQUEST_ID], error), dict(error.headers))


def _charge(row: Row) -> dict[str, Any]:
    body = {
        "charge_id": row["charge_id"],
        "account_id": row["account_id"],
        "amount_minor": row["amount_minor"],
        "currency": row["currency"],
        "balance_after": row["balance_after"],
        "created_at": row["created_at"],
        "description": row["description"],
        "metadata": {
            "message_id": row["metadata_message_id"],
            "agent_id": row["metadata_agent_id"],
            "channel_id": row["metadata_channel_id"],
            "request_id": row["metadata_request_id"],
        },
        "paid_with": row["paid_with"],
    }
    if row["free_uses_after"] is not None:  # charges of the old service do not tell
        body["free_uses_remaining"] = row["free_uses_after"]
    return body
