"""/admin/api/users/{account_id}/denial and /explanation: why an account was refused something, and
why it is as it is."""

from datetime import datetime
from typing import Annotated, Literal

from aiohttp import web
from typing_extensions import TypedDict

from server.admin_api.endpoint import Call, answer
from server.admin_api.models import DenialQuery, UserPath
from server.gateway import functions
from server.http import fields as f
from server.http.answers import From, reader
from server.http.example_values import ACCOUNT_ID, AT
from server.http.route import Example


class Denial(TypedDict):
    """The denied check or refused charge that is nearest to a time, in words and in fields."""

    sentence: Annotated[
        str, f.means("What was asked, by whom, what the account had, what was missing.")
    ]
    what_helps: Annotated[str | None, f.means("What to do now; null when nothing was refused.")]
    kind: Annotated[
        Literal["check", "charge"] | None,
        f.means("What was refused; null when nothing was, and so are the fields that follow."),
    ]
    denied_at: Annotated[datetime | None, f.WHEN]
    reason: Annotated[
        str | None,
        f.means(
            "`insufficient_credits`, `account_suspended`, `account_closed`,"
            " `charge_currency_mismatch`, `account_cap_reached` or `cap_reached`; for old checks,"
            " the text of the service before."
        ),
    ]
    refusals: Annotated[
        f.Positive | None,
        f.means("How many charges were refused so within that minute; the last one is told."),
    ]
    would_pass_now: Annotated[
        bool | None, f.means("Whether the same request would be accepted now.")
    ]
    api_key_name: Annotated[str | None, f.means("The name of the API key that asked.")]
    api_key_prefix: Annotated[str | None, f.means("How that key begins.")]
    database_role: Annotated[
        str | None, f.means("The database role that asked, where no API key did.")
    ]
    agent_id: Annotated[str | None, f.means("The agent that asked.")]
    channel_id: Annotated[str | None, f.CHANNEL_ID]
    request_id: Annotated[str | None, f.means("The agent's own id for what it worked on.")]
    amount_minor: Annotated[f.Positive | None, f.means("The charge; null for a check.")]
    currency: Annotated[str | None, f.means("The charge's currency; null for a check.")]
    paid_credits_then: Annotated[f.Count | None, f.means("Paid credits at that time.")]
    free_uses_then: Annotated[f.Count | None, f.means("Free uses at that time.")]
    paid_credits: Annotated[f.Count, From("paid_credits_now"), f.CREDITS_LEFT]
    free_uses_remaining: Annotated[f.Count, From("free_uses_now"), f.FREE_USES_REMAINING]
    status: Annotated[Literal["active", "suspended", "closed"], From("status_now"), f.STATE]


class Obstacle(TypedDict):
    """Something that is in an account's way or must be decided, in words and in fields."""

    kind: Annotated[
        Literal["erased", "suspended", "closed", "payment_problem", "out_of_credits", "denied"],
        f.means("What it is; `denied` is the last refusal."),
    ]
    sentence: Annotated[str, f.means("What it is, since when and by whom.")]
    what_helps: Annotated[str | None, f.means("What to do about it.")]
    since: Annotated[datetime | None, f.means("Since when, or when, in UTC.")]
    is_over: Annotated[bool | None, f.means("True for a refusal of what would be accepted now.")]
    agent_id: Annotated[str | None, f.means("The agent that asked.")]
    credits_needed: Annotated[f.Positive | None, f.means("How many credits would be enough.")]
    payment_id: Annotated[str | None, f.PAYMENT_ID]


class Explanation(TypedDict):
    """Why an account is as it is."""

    reasons: Annotated[
        list[Obstacle], f.means("The most important first; none where nothing is in its way.")
    ]


EXPLANATION = Example(
    {
        "reasons": [
            {
                "kind": "suspended",
                "sentence": "The account is suspended since 2026-11-22 10:24:00 UTC.",
                "what_helps": "Make it active again if its owner may go on.",
                "since": AT,
                "is_over": False,
                "agent_id": None,
                "credits_needed": None,
                "payment_id": None,
            }
        ]
    },
    values={"account_id": ACCOUNT_ID},
)
DENIAL = Example(
    {
        "sentence": 'At 2026-11-22 10:24:00 UTC, the API key "Scout" (cb_live_k3J9xQ2mTz81...)'
        " wanted to charge 5 credits in USD. It was refused because the account had no free uses"
        " and 2 paid credits. One free use or 3 paid credits more would have been enough.",
        "what_helps": "Grant at least 3 credits or set free uses anew; or the user buys a pack.",
        "kind": "charge",
        "denied_at": AT,
        "reason": "insufficient_credits",
        "refusals": 1,
        "would_pass_now": False,
        "api_key_name": "Scout",
        "api_key_prefix": "cb_live_k3J9xQ2mTz81",
        "database_role": None,
        "agent_id": "scout",
        "channel_id": "general",
        "request_id": None,
        "amount_minor": 5,
        "currency": "USD",
        "paid_credits_then": 2,
        "free_uses_then": 0,
        "paid_credits": 2,
        "free_uses_remaining": 0,
        "status": "active",
    },
    values={"account_id": ACCOUNT_ID},
)

_denial = reader(Denial, functions.explain_denial.columns)


async def explain_denial(request: web.Request, call: Call) -> web.StreamResponse:
    """Tells why an account was last refused something, by now or by the time `at`, and what
    helps."""
    path: UserPath = call.path
    query: DenialQuery = call.query
    row = await call.row(functions.explain_denial(account_id=path.account_id, at=query.at))
    return answer(200, _denial(row))


_reason = reader(Obstacle, functions.explain_account.columns)


async def explain_account(request: web.Request, call: Call) -> web.StreamResponse:
    """Tells why an account is as it is: whether it is suspended or closed, its payment problems,
    whether it is out of credits, and why it was last refused something, by now or by the time `at`.
    Each with what helps."""
    path: UserPath = call.path
    query: DenialQuery = call.query
    rows = await call.rows(functions.explain_account(account_id=path.account_id, at=query.at))
    told: Explanation = {"reasons": [_reason(row) for row in rows]}
    return answer(200, told)
