"""POST /v1/billing/credits/check: may this user go on? (contract.md 2.1)"""

from time import perf_counter
from typing import Annotated, NotRequired

from aiohttp import web
from typing_extensions import TypedDict

from server.agent.endpoint import Call, refused_outcome
from server.agent.items import ItemFields
from server.agent.models import CheckRequest
from server.gateway import CHECK_ITEM
from server.http import fields as f
from server.http.answers import reader
from server.http.errors import json_response
from server.http.example_values import ADA
from server.http.route import Example
from server.observe import metrics


class CreditCheck(TypedDict):
    """Whether a user may go on. Every field is always present, but for `low_balance`."""

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

CHECK = ItemFields(CheckRequest)

_check = reader(CreditCheck, CHECK_ITEM.columns)


async def check_credit(request: web.Request, call: Call) -> web.StreamResponse:
    """Answers whether the user has a free use or a paid credit left, and uses up nothing. A denial
    is an answer, not an error: the status is 200 and `reason` says why. An unknown user gets an
    account with free uses. E-mail address, role, agent and marketing consent are stored when given.
    """
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
    return json_response(200, _check(row))
