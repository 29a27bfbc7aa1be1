"""A top-up as agents and staff read it."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from typing_extensions import TypedDict

from server.http import fields as f
from server.http.answers import Inline
from server.http.example_values import ACCOUNT_ID


class Consent(TypedDict):
    """The consent as it was recorded."""

    version: Annotated[str, f.means("Which version of the words.")]
    text: Annotated[str, f.means("The words that the user agreed to.")]
    at: Annotated[datetime, f.means("When the consent was recorded, in UTC.")]


class Attempt(TypedDict):
    """The newest attempt to charge the card, and its result."""

    status: Annotated[
        Literal["open", "succeeded", "failed", "canceled"] | None,
        f.means("`open` while it is under way; null when there was no attempt yet."),
    ]
    payment_id: Annotated[
        str | None, f.means("Its payment, which `GET /v1/billing/purchases/{payment_id}` reads.")
    ]
    at: Annotated[datetime | None, f.means("When it began.")]


END_REASONS = Literal[
    "erased", "failures", "merged", "price_changed", "replaced", "staff", "withdrawn"
]


class TopUp(TypedDict):
    """What the user agreed to, and how it goes."""

    account_id: Annotated[UUID, f.ACCOUNT_ID]
    status: Annotated[Literal["on", "off"], f.means("Whether the card is charged when it must.")]
    threshold: Annotated[f.Count, f.means("Paid credits left at which a top-up is bought.")]
    packs: Annotated[f.Positive, f.means("How many packs one top-up buys.")]
    uses: Annotated[f.Positive, f.means("How many uses these have now.")]
    amount_minor: Annotated[f.Positive, f.means("What one top-up costs at most, in minor units.")]
    currency: Annotated[str, f.PRICE_CURRENCY]
    monthly_cap_minor: Annotated[f.Positive, f.means("What a UTC month may cost, in minor units.")]
    spent_this_month_minor: Annotated[
        f.Count, f.means("What top-ups cost in this UTC month, one under way included.")
    ]
    card: Annotated[str | None, f.means("The card, as `visa 4242`.")]
    consent: Annotated[Consent, Inline(), f.means("What the user agreed to.")]
    failures: Annotated[
        f.Count, f.means("Failures in a row; the third one ends the top-up (`status` off).")
    ]
    problem: Annotated[
        str | None,
        f.means(
            "What went wrong last, in one word: `cap_reached`, `authentication_required`,"
            " `expired_card`, `insufficient_funds`, `card_declined` or another word of the bank's;"
            " `price_changed`; `money_returned` (a refund or dispute: the user must agree again);"
            " `provider_unavailable`. Null when all is well."
        ),
    ]
    problem_text: Annotated[str | None, f.means("The same for people.")]
    next_attempt_at: Annotated[
        datetime | None, f.means("Nothing is tried before this time; null when nothing waits.")
    ]
    ended_at: Annotated[datetime | None, f.means("When it ended; null while it is on.")]
    end_reason: Annotated[
        END_REASONS | None,
        f.means(
            "Why it ended: three `failures` in a row, `price_changed` (packs became dearer than"
            " agreed), `withdrawn`, `staff`, the account was `merged` or the person `erased`."
        ),
    ]
    attempt: Annotated[Attempt, Inline(), f.means("The newest attempt to charge the card.")]


EXAMPLE_TOP_UP = {
    "account_id": ACCOUNT_ID,
    "status": "on",
    "threshold": 2,
    "packs": 1,
    "uses": 20,
    "amount_minor": 500,
    "currency": "USD",
    "monthly_cap_minor": 2000,
    "spent_this_month_minor": 0,
    "card": "visa 4242",
    "consent": {
        "version": "2026-11",
        "text": "Charge my card $5.00 for 20 uses when 2 are left, at most $20.00 a month.",
        "at": "2026-11-22T10:25:12.004117+00:00",
    },
    "failures": 0,
    "problem": None,
    "problem_text": None,
    "next_attempt_at": None,
    "ended_at": None,
    "end_reason": None,
    "attempt": {"status": None, "payment_id": None, "at": None},
}
