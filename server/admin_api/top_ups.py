"""The routes below one account of /admin/api/users that concern its top-up: what the person agreed
to, what the card was charged, and ending it. Staff cannot agree for a person."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from aiohttp import web
from typing_extensions import TypedDict

from server.admin_api.endpoint import Call, answer
from server.admin_api.models import EndTopUpRequest, UserPath
from server.gateway import functions
from server.http import fields as f
from server.http.answers import From, reader
from server.http.example_values import ACCOUNT_ID, AT, PAYMENT_ID, THEN
from server.http.route import Example
from server.http.top_ups import EXAMPLE_TOP_UP, TopUp


class TopUpConsent(TypedDict):
    """A consent of the person."""

    top_up_id: Annotated[UUID, f.means("The consent.")]
    status: Annotated[Literal["on", "off"], f.means("Whether it is in force.")]
    threshold: Annotated[f.Count, f.means("Paid credits left at which a top-up is bought.")]
    amount: Annotated[str, From("amount_text"), f.means("What one top-up costs at most.")]
    monthly_cap: Annotated[str, From("monthly_cap_text"), f.means("What a month may cost.")]
    card: Annotated[str | None, f.means("The card; null once the person was erased.")]
    consent_version: Annotated[str, f.means("Which version of the words.")]
    consent_text: Annotated[str, f.means("The words that the person agreed to.")]
    consent_at: Annotated[datetime, f.means("When the consent was recorded.")]
    consent_by: Annotated[str, f.means("The API key or database role that recorded it.")]
    ended_at: Annotated[datetime | None, f.means("When it ended; null while it is in force.")]
    end_reason: Annotated[str | None, f.means("Why it ended.")]


class TopUpAttempt(TypedDict):
    """What a top-up tried to buy."""

    purchase_id: Annotated[UUID, f.means("The purchase.")]
    payment_id: Annotated[str | None, f.PAYMENT_ID]
    status: Annotated[
        Literal["open", "succeeded", "failed", "canceled"], f.means("What came of it.")
    ]
    credited: Annotated[bool, f.means("Whether the credits have arrived.")]
    uses: Annotated[f.Positive, f.means("How many uses it buys.")]
    price_minor: Annotated[f.Positive, f.means("What it costs, in minor units.")]
    currency: Annotated[str, f.PRICE_CURRENCY]
    problem: Annotated[str | None, f.means("What went wrong, in one word; null for nothing.")]
    problem_text: Annotated[str | None, f.means("The same for people.")]
    created_at: Annotated[datetime, f.WHEN]
    ended_at: Annotated[datetime | None, f.means("When it ended; null while it is open.")]


class UserTopUp(TypedDict):
    """An account's top-up with what was agreed to before, and the newest attempts."""

    top_up: Annotated[TopUp, f.means("The newest consent, and how it goes.")]
    consents: Annotated[list[TopUpConsent], f.means("All consents, newest first.")]
    attempts: Annotated[list[TopUpAttempt], f.means("The newest attempts.")]


_PATH = {"account_id": ACCOUNT_ID}
TOP_UP = Example(
    {
        "top_up": EXAMPLE_TOP_UP,
        "consents": [
            {
                "top_up_id": "019a9c2f-1e0b-7a52-8c3d-5b7e9f1a2c48",
                "status": "on",
                "threshold": 2,
                "amount": "$5.00",
                "monthly_cap": "$20.00",
                "card": "visa 4242",
                "consent_version": "2026-11",
                "consent_text": "Charge my card $5.00 for 20 uses when 2 are left.",
                "consent_at": AT,
                "consent_by": "shop",
                "ended_at": None,
                "end_reason": None,
            }
        ],
        "attempts": [
            {
                "purchase_id": "019a9c2f-77a0-7c11-9b5e-3d1f0a8c2e66",
                "payment_id": PAYMENT_ID,
                "status": "succeeded",
                "credited": True,
                "uses": 20,
                "price_minor": 500,
                "currency": "USD",
                "problem": None,
                "problem_text": None,
                "created_at": THEN,
                "ended_at": THEN,
            }
        ],
    },
    values=_PATH,
)
ENDED = Example(
    {**EXAMPLE_TOP_UP, "status": "off", "ended_at": AT, "end_reason": "staff"},
    request={"reason": "The card was reported as stolen"},
    values=_PATH,
)

_top_up = reader(TopUp, functions.get_top_up.columns)
_consent = reader(TopUpConsent, functions.list_top_ups.columns)
_attempt = reader(TopUpAttempt, functions.list_top_up_attempts.columns)


async def get_user_top_up(request: web.Request, call: Call) -> web.StreamResponse:
    """Reads what the person agreed to, the newest first, and what the card was charged."""
    path: UserPath = call.path
    newest = await call.row(functions.get_top_up(account_id=path.account_id))
    consents = await call.rows(functions.list_top_ups(account_id=path.account_id))
    attempts = await call.rows(functions.list_top_up_attempts(account_id=path.account_id))
    read: UserTopUp = {
        "top_up": _top_up(newest),
        "consents": [_consent(row) for row in consents],
        "attempts": [_attempt(row) for row in attempts],
    }
    return answer(200, read)


async def end_user_top_up(request: web.Request, call: Call) -> web.StreamResponse:
    """Ends the account's top-up at once. Only the person can agree again, through an agent."""
    path: UserPath = call.path
    body: EndTopUpRequest = call.body
    await call.row(functions.end_top_up(account_id=path.account_id, reason=body.reason))
    row = await call.row(functions.get_top_up(account_id=path.account_id))
    return answer(200, _top_up(row))
