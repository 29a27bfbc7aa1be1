"""A hold as agents and staff read it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from typing_extensions import TypedDict

from server.gateway import CAPTURE_ITEM, Row
from server.http import fields as f
from server.http.answers import From, reader
from server.http.example_values import ACCOUNT_ID, HOLD_ID
from server.http.validation import RequestModel

Status = Literal["open", "captured", "released", "expired"]


class HoldPath(RequestModel):
    """A hold in the path."""

    hold_id: Annotated[UUID, f.HOLD_ID]


class WhichHolds(RequestModel):
    """Which of an account's holds, newest first."""

    status: Annotated[Status | None, f.STATUS_FILTER] = None
    after: Annotated[UUID | None, f.means("The last hold of the page before.")] = None


class Hold(TypedDict):
    """A hold, with what its account has now."""

    hold_id: Annotated[UUID | None, f.means("The hold; null where it was only tried.")]
    account_id: Annotated[UUID, f.ACCOUNT_ID]
    amount_minor: Annotated[f.Positive, f.means("Credits it was made for.")]
    currency: Annotated[str, f.ACCOUNT_CURRENCY]
    status: Annotated[
        Status,
        From("state"),
        f.means(
            "`open` until it is `captured` or `released`, or its time is over (`expired`). An"
            " expired hold can still be captured while the credits are there."
        ),
    ]
    paid_with: Annotated[
        Literal["free", "paid"],
        f.means("Whether it keeps one free use, whatever its amount, or paid credits."),
    ]
    captured_minor: Annotated[
        f.Count | None, f.means("How much of it was captured; null until then.")
    ]
    charge_id: Annotated[
        UUID | None, f.means("The charge that the capture made; null where there is none.")
    ]
    late: Annotated[
        bool, From("is_late"), f.means("Whether it was captured after its time was over.")
    ]
    description: Annotated[str, f.DESCRIPTION]
    metadata: Annotated[f.Origin, f.CHARGE_ORIGIN]
    created_at: Annotated[datetime, f.WHEN]
    expires_at: Annotated[datetime, f.means("When its time is over, in UTC.")]
    settled_at: Annotated[
        datetime | None, f.means("When it was captured or released, in UTC; null until then.")
    ]
    balance: Annotated[f.Count, f.means("Paid credits the account has, held ones included.")]
    held: Annotated[f.Count, f.means("Paid credits that open holds keep.")]
    available: Annotated[f.Count, f.AVAILABLE]
    free_uses_available: Annotated[f.Count, f.means("Free uses that no open hold keeps.")]


class HoldPage(TypedDict):
    """Some of an account's holds, newest first."""

    holds: Annotated[list[Hold], f.means("The holds of this page.")]
    has_more: Annotated[bool, f.HAS_MORE]


EXAMPLE_HOLD: dict[str, Any] = {
    "hold_id": HOLD_ID,
    "account_id": ACCOUNT_ID,
    "amount_minor": 5,
    "currency": "USD",
    "status": "open",
    "paid_with": "paid",
    "captured_minor": None,
    "charge_id": None,
    "late": False,
    "description": "Summarise a channel",
    "metadata": {
        "message_id": "msg-5562",
        "agent_id": "scout",
        "channel_id": "general",
        "request_id": None,
    },
    "created_at": "2026-11-22T10:26:00.948849+00:00",
    "expires_at": "2026-11-22T10:41:00.948849+00:00",
    "settled_at": None,
    "balance": 20,
    "held": 5,
    "available": 15,
    "free_uses_available": 0,
}
SETTLED_HOLD = {**EXAMPLE_HOLD, "settled_at": "2026-11-22T10:26:41.118204+00:00", "held": 0}
RELEASED_HOLD = {**SETTLED_HOLD, "status": "released", "available": 20}

hold_of = reader(Hold, CAPTURE_ITEM.columns)


def page_of_holds(rows: Sequence[Row], limit: int) -> HoldPage:
    """A page of at most `limit` holds. `rows` has one row more if there is a next page."""
    return {"holds": [hold_of(row) for row in rows[:limit]], "has_more": len(rows) > limit}
