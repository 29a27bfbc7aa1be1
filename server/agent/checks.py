"""POST /v1/billing/credits/check: may this user go on? (contract.md 2.1)"""

from datetime import datetime
from time import perf_counter
from typing import Annotated, NotRequired

import orjson
from aiohttp import web
from typing_extensions import TypedDict

from server.agent.endpoint import Call, refused_outcome
from server.agent.holds import refused_hold
from server.agent.items import ItemFields
from server.agent.models import CheckHold, CheckRequest
from server.gateway import CHECK_ITEM, Row, functions
from server.http import fields as f
from server.http.answers import From, reader
from server.http.app_keys import CONFIG
from server.http.errors import json_response
from server.http.example_values import ADA
from server.http.holds import Hold, hold_of
from server.http.route import Example
from server.observe import metrics


def _available(row: Row) -> int | None:
    return None if row["held"] is None else row["credits_remaining"]


def _told_later(row: Row) -> None:
    """The row has no column for this field; it is added to the answer afterwards."""
    return None


class NextExpiry(TypedDict):
    """Credits that end unless they are spent before."""

    at: Annotated[datetime, f.means("When what is left of them ends.")]
    amount_minor: Annotated[f.Positive, f.means("How many credits end then.")]


def _next_expiry(row: Row) -> NextExpiry | None:
    at = row["next_expiry_at"]
    return {"at": at, "amount_minor": row["next_expiry_amount_minor"]} if at else None


class CreditCheck(TypedDict):
    """Whether a user may go on. The fields from `low_balance` on are present only where they say
    something."""

    has_credit: Annotated[bool, f.HAS_CREDIT]
    credits_remaining: Annotated[f.Count | None, f.CREDITS_LEFT]
    plan_name: Annotated[str | None, f.PLAN_NAME]
    reason: Annotated[str | None, f.means("Why not; null when the user may go on.")]
    free_uses_remaining: Annotated[f.Count | None, f.FREE_USES_REMAINING]
    total_uses: Annotated[f.Count | None, f.TOTAL_USES]
    purchase_required: Annotated[bool, f.means("Whether the user must buy credits to go on.")]
    purchase_price_minor: Annotated[
        f.Count | None,
        f.means(
            "What the next pack costs, in minor units such as cents; null unless one is needed."
        ),
    ]
    purchase_uses: Annotated[
        f.Count | None, f.means("How many uses the next pack has; null unless one is needed.")
    ]
    low_balance: NotRequired[
        Annotated[
            bool,
            f.means(
                "Whether free uses and credits left are at the threshold that staff set, or below;"
                " absent where they set none."
            ),
        ]
    ]
    held: NotRequired[Annotated[f.Count, f.HELD]]
    available: NotRequired[
        Annotated[
            f.Count,
            From(_available),
            f.means("As `credits_remaining`: what no hold keeps; absent while nothing is held."),
        ]
    ]
    hold: NotRequired[
        Annotated[
            Hold | None,
            From(_told_later),
            f.means(
                "The hold that was asked for; null where it was not made; absent where none was"
                " asked for."
            ),
        ]
    ]
    next_expiry: NotRequired[
        Annotated[
            NextExpiry,
            From(_next_expiry),
            f.means("When credits end next, and how many; absent where none end."),
        ]
    ]
    purchase_url: NotRequired[Annotated[f.Url, From(_told_later), f.PURCHASE_URL]]


EXAMPLE = Example(
    {
        "has_credit": True,
        "credits_remaining": 0,
        "plan_name": "free",
        "reason": None,
        "free_uses_remaining": 3,
        "total_uses": 0,
        "purchase_required": False,
        "purchase_price_minor": None,
        "purchase_uses": None,
    },
    request={
        **ADA,
        "context": {"agent_id": "scout", "channel_id": "general", "request_id": "req-88"},
        "customer_email": "ada@example.com",
    },
)

CHECK = ItemFields(CheckRequest, leave_out=frozenset({"hold"}))

_decided = reader(CreditCheck, CHECK_ITEM.columns)


def _check(request: web.Request, row: Row) -> CreditCheck:
    answer = _decided(row)
    purchase_url = request.app[CONFIG].purchase_url
    if purchase_url:
        answer["purchase_url"] = purchase_url
    return answer


async def check_credit(request: web.Request, call: Call) -> web.StreamResponse:
    """Answers whether the user has a free use or a paid credit left, and uses up nothing. A denial
    is an answer, not an error: the status is 200 and `reason` says why. An unknown user gets an
    account with free uses. E-mail address, role, agent and marketing consent are stored when given.
    With `hold`, credits are kept for the work in the same call: `has_credit` says whether that
    could be done, so that nobody works on what another request may spend. An idempotency key is
    that of the hold."""
    if call.body.hold is not None:
        return await _check_and_hold(request, call, call.body.hold)
    started = perf_counter()
    row = await call.gateway.check_credit(CHECK.item(call.body, call.api_key_id))
    metrics.CREDIT_CHECK_DURATION.observe(perf_counter() - started)
    if row["outcome"] != "checked":
        error = await refused_outcome(call.gateway, call.api_key_id, call.permission, row)
        assert error is not None
        raise error
    metrics.count_check("allowed" if row["has_credit"] else "denied").inc()
    if row["account_created"]:
        metrics.ACCOUNTS_CREATED.inc()
    return json_response(200, _check(request, row))


async def _check_and_hold(request: web.Request, call: Call, hold: CheckHold) -> web.Response:
    asked = dict(zip(CHECK.fields, CHECK.item(call.body, call.api_key_id), strict=True))
    row = await call.gateway.write(
        functions.check_and_hold(
            **asked,
            amount_minor=hold.amount_minor,
            expires_in_seconds=hold.expires_in_seconds,
            description=hold.description,
            idempotency_key=hold.idempotency_key or call.idempotency_key,
        )
    )
    checked: Row = row["checked"]
    made: Row = row["hold"]
    metrics.count_hold("create", made["outcome"]).inc()
    if made["cap"] is not None:
        cap = orjson.loads(made["cap"])
        metrics.count_cap_refusal(cap["scope"], cap["period"]).inc()
    if made["outcome"] == "conflict":
        raise await refused_hold(request, call, made, hold)
    metrics.count_check("allowed" if checked["has_credit"] else "denied").inc()
    if checked["account_created"]:
        metrics.ACCOUNTS_CREATED.inc()
    answer = _check(request, checked)
    answer["hold"] = hold_of(made) if checked["has_credit"] else None
    replayed = made["outcome"] == "replayed" and call.idempotency_key is not None
    return json_response(200, answer, {"Idempotent-Replayed": "true"} if replayed else None)
