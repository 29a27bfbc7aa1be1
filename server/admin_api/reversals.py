"""Charges that staff give back, and credits that they take back."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from aiohttp import web
from typing_extensions import TypedDict

from server.admin_api.endpoint import Call, answer
from server.admin_api.models import ReverseRequest, UserChargePath, UserCreditPath
from server.gateway import Row, functions
from server.http import fields as f
from server.http.answers import reader
from server.http.example_values import ACCOUNT_ID, AT, CREDIT_ID
from server.http.route import Example

_CHARGE_ID = "019a9c2e-7f06-7a52-9c1e-0b8d4f6a2e93"
_REVERSAL = Annotated[
    UUID | None, f.means("The entry that was written; null where the call only tried.")
]


class ReversedCharge(TypedDict):
    """A charge that was given back, or would be."""

    reversal_id: _REVERSAL
    charge_id: Annotated[UUID, f.CHARGE_ID]
    account_id: Annotated[UUID, f.ACCOUNT_ID]
    amount_minor: Annotated[f.Positive, f.means("How much of the charge was given back.")]
    paid_with: Annotated[
        Literal["free", "paid"], f.means("Whether a free use or paid credits were given back.")
    ]
    balance_before: Annotated[f.Count, f.means("Paid credits before this entry.")]
    balance_after: Annotated[f.Count, f.NEW_BALANCE]
    free_uses_remaining: Annotated[f.Count, f.FREE_USES_REMAINING]
    reversed_minor: Annotated[f.Positive, f.REVERSED]
    created_at: Annotated[datetime | None, f.WHEN]


class ReversedCredit(TypedDict):
    """A credit that was taken back, or would be."""

    reversal_id: _REVERSAL
    credit_id: Annotated[UUID, f.CREDIT_ID]
    account_id: Annotated[UUID, f.ACCOUNT_ID]
    amount_minor: Annotated[
        f.Integer,
        f.means("Credits; negative, because they are taken back, except where staff took them."),
    ]
    balance_before: Annotated[f.Count, f.means("Paid credits before this entry.")]
    balance_after: Annotated[f.Count, f.NEW_BALANCE]
    reversed_minor: Annotated[f.Positive, f.REVERSED]
    created_at: Annotated[datetime | None, f.WHEN]


CHARGE = Example(
    {
        "reversal_id": "019a9c2f-10d2-7b3e-8e57-52f0c6a1b9d4",
        "charge_id": _CHARGE_ID,
        "account_id": ACCOUNT_ID,
        "amount_minor": 1,
        "paid_with": "free",
        "balance_before": 20,
        "balance_after": 20,
        "free_uses_remaining": 3,
        "reversed_minor": 1,
        "created_at": AT,
    },
    request={"reason": "The job failed"},
    values={"charge_id": _CHARGE_ID},
    idempotency_key="ticket-415",
)
CREDIT = Example(
    {
        "reversal_id": None,
        "credit_id": CREDIT_ID,
        "account_id": ACCOUNT_ID,
        "amount_minor": -5,
        "balance_before": 20,
        "balance_after": 15,
        "reversed_minor": 5,
        "created_at": None,
    },
    request={"amount_minor": 5, "reason": "Granted by mistake", "dry_run": True},
    values={"credit_id": CREDIT_ID},
    idempotency_key="ticket-416",
)
ERRORS = (
    "account_erased",
    "already_reversed",
    "entry_of_old_service",
    "reversal_too_great",
    "balance_overflow",
)

_charge = reader(ReversedCharge, functions.reverse_charge.columns)
_credit = reader(ReversedCredit, functions.reverse_credit.columns)


async def reverse_user_charge(request: web.Request, call: Call) -> web.StreamResponse:
    """Gives a charge back to what paid for it: a free use whole, paid credits as far as
    `amount_minor` says. All reversals of a charge are together never more than it."""
    path: UserChargePath = call.path
    row = await call.row(functions.reverse_charge(charge_id=path.charge_id, **_arguments(call)))
    return answer(200, _charge(row), _headers(row))


async def reverse_user_credit(request: web.Request, call: Call) -> web.StreamResponse:
    """Takes a grant back, whole or in part, and never more than the account has; or gives back
    credits that staff took away. A credit that belongs to a payment is not taken back here: refund
    the payment."""
    path: UserCreditPath = call.path
    row = await call.row(functions.reverse_credit(credit_id=path.credit_id, **_arguments(call)))
    return answer(200, _credit(row), _headers(row))


def _arguments(call: Call) -> dict[str, Any]:
    body: ReverseRequest = call.body
    return {
        "amount": body.amount_minor,
        "reason": body.reason,
        "dry_run": body.dry_run,
        "idempotency_key": call.idempotency_key,
    }


def _headers(row: Row) -> dict[str, str] | None:
    return {"Idempotent-Replayed": "true"} if row["replayed"] else None
