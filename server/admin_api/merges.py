"""Credits that staff move from one account to another, and accounts that they merge."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from aiohttp import web
from typing_extensions import TypedDict

from server.admin_api.endpoint import Call, answer
from server.admin_api.models import MergeRequest, TransferRequest, UndoMergeRequest, UserPath
from server.gateway import Row, functions
from server.http import fields as f
from server.http.answers import reader
from server.http.example_values import ACCOUNT_ID, AT, THEN
from server.http.route import Example

_OTHER_ID = "019a9c2d-4a3b-7e19-8d55-2f7c1e9b6a40"
_MERGE_ID = "019a9c30-77a0-7c11-9b5e-3d1f0a8c2e66"


class Transfer(TypedDict):
    """Credits that were moved, or would be."""

    transfer_id: Annotated[
        UUID | None, f.means("What both ledger entries have; null where the call only tried.")
    ]
    from_account_id: Annotated[UUID, f.means("The account that gave.")]
    from_balance_before: Annotated[f.Count, f.means("Its paid credits before.")]
    from_balance_after: Annotated[f.Count, f.means("Its paid credits after.")]
    to_account_id: Annotated[UUID, f.means("The account that took.")]
    to_balance_before: Annotated[f.Count, f.means("Its paid credits before.")]
    to_balance_after: Annotated[f.Count, f.means("Its paid credits after.")]
    amount_minor: Annotated[f.Positive, f.means("The credits that were moved.")]
    currency: Annotated[str, f.ACCOUNT_CURRENCY]
    created_at: Annotated[datetime | None, f.WHEN]


class MergedAccount(TypedDict):
    """An account that was merged into another one, or would be."""

    merge_id: Annotated[UUID | None, f.means("The merge; null where the call only tried.")]
    merged_account_id: Annotated[UUID, f.means("The account whose id and identity lead on now.")]
    account_id: Annotated[UUID, f.means("The account that stays.")]
    credits_moved: Annotated[f.Count, f.means("Paid credits that it took over.")]
    balance_after: Annotated[f.Count, f.NEW_BALANCE]
    free_uses_given: Annotated[f.Count, f.means("Free uses that it took over.")]
    free_uses_after: Annotated[f.Count, f.means("Its free uses after.")]
    takes_consent: Annotated[
        bool, f.means("Whether the merged account's marketing consent, the newer one, counts.")
    ]
    created_at: Annotated[datetime | None, f.WHEN]


class UndoneMerge(TypedDict):
    """A merge that was undone, or would be."""

    undo_id: Annotated[UUID | None, f.means("Null where the call only tried.")]
    merge_id: Annotated[UUID, f.means("The merge.")]
    merged_account_id: Annotated[UUID, f.means("The account that is its own again.")]
    account_id: Annotated[UUID, f.means("The account that it was merged into.")]
    credits_moved_back: Annotated[f.Count, f.means("Paid credits that it got back.")]
    free_uses_given_back: Annotated[f.Count, f.means("Free uses that it got back.")]
    undone_at: Annotated[datetime | None, f.WHEN]


class Merge(TypedDict):
    """A merge that an account took part in."""

    merge_id: Annotated[UUID, f.means("The merge.")]
    merged_account_id: Annotated[UUID, f.means("The account that was merged.")]
    oauth_provider: Annotated[str, f.means("Its sign-in provider.")]
    external_id: Annotated[str, f.means("Its id there.")]
    customer_email: Annotated[str | None, f.means("Its e-mail address.")]
    account_id: Annotated[UUID, f.means("The account that it was merged into.")]
    credits_moved: Annotated[f.Count, f.means("Paid credits that moved.")]
    free_uses_given: Annotated[f.Count, f.means("Free uses that moved.")]
    reason: Annotated[str, f.means("Why it was merged.")]
    who: Annotated[str, f.means("The staff member or database role that merged it.")]
    created_at: Annotated[datetime, f.WHEN]
    undone_at: Annotated[datetime | None, f.means("When the merge was undone; null if never.")]
    undo_reason: Annotated[str | None, f.means("Why it was undone.")]
    problem: Annotated[str | None, f.means("Why the merge cannot be undone now; null when it can.")]


_PATH = {"account_id": ACCOUNT_ID}
TRANSFER = Example(
    {
        "transfer_id": _MERGE_ID,
        "from_account_id": ACCOUNT_ID,
        "from_balance_before": 20,
        "from_balance_after": 15,
        "to_account_id": _OTHER_ID,
        "to_balance_before": 0,
        "to_balance_after": 5,
        "amount_minor": 5,
        "currency": "USD",
        "created_at": AT,
    },
    request={"to_account_id": _OTHER_ID, "amount_minor": 5, "reason": "The wrong sign-in"},
    values=_PATH,
    idempotency_key="ticket-511",
)
MERGED = Example(
    {
        "merge_id": _MERGE_ID,
        "merged_account_id": ACCOUNT_ID,
        "account_id": _OTHER_ID,
        "credits_moved": 15,
        "balance_after": 20,
        "free_uses_given": 1,
        "free_uses_after": 3,
        "takes_consent": False,
        "created_at": AT,
    },
    request={"into_account_id": _OTHER_ID, "reason": "One person with two sign-ins"},
    values=_PATH,
    idempotency_key="ticket-512",
)
UNDONE = Example(
    {
        "undo_id": None,
        "merge_id": _MERGE_ID,
        "merged_account_id": ACCOUNT_ID,
        "account_id": _OTHER_ID,
        "credits_moved_back": 15,
        "free_uses_given_back": 2,
        "undone_at": None,
    },
    request={"reason": "Two people after all", "dry_run": True},
    values=_PATH,
    idempotency_key="ticket-513",
)
MERGES = Example(
    [
        {
            "merge_id": _MERGE_ID,
            "merged_account_id": _OTHER_ID,
            "oauth_provider": "oauth:google",
            "external_id": "110248495921238986420",
            "customer_email": "ada@example.com",
            "account_id": ACCOUNT_ID,
            "credits_moved": 15,
            "free_uses_given": 1,
            "reason": "One person with two sign-ins",
            "who": "grace@example.com",
            "created_at": THEN,
            "undone_at": None,
            "undo_reason": None,
            "problem": None,
        }
    ],
    values=_PATH,
)
TRANSFER_ERRORS = (
    "account_erased",
    "account_not_active",
    "accounts_are_one",
    "accounts_of_other_currency",
    "balance_overflow",
    "user_not_found",
)

_transfer = reader(Transfer, functions.transfer_credits.columns)
_merged = reader(MergedAccount, functions.merge_accounts.columns)
_undone = reader(UndoneMerge, functions.undo_merge.columns)
_merge = reader(Merge, functions.list_merges.columns)


async def transfer_user_credits(request: web.Request, call: Call) -> web.StreamResponse:
    """Moves paid credits to another account of the same currency. Credits leave only an active
    account."""
    path: UserPath = call.path
    body: TransferRequest = call.body
    row = await call.row(
        functions.transfer_credits(
            from_account_id=path.account_id,
            to_account_id=body.to_account_id,
            amount=body.amount_minor,
            reason=body.reason,
            idempotency_key=call.idempotency_key,
            dry_run=body.dry_run,
        )
    )
    return answer(200, _transfer(row), _headers(row))


async def merge_user(request: web.Request, call: Call) -> web.StreamResponse:
    """Merges the account into another one. Its credits move there, and its id and identity lead
    there from then on, for everything. Both accounts must be active."""
    path: UserPath = call.path
    body: MergeRequest = call.body
    row = await call.row(
        functions.merge_accounts(
            account_id=path.account_id,
            into_account_id=body.into_account_id,
            reason=body.reason,
            idempotency_key=call.idempotency_key,
            dry_run=body.dry_run,
        )
    )
    return answer(200, _merged(row), _headers(row))


async def undo_user_merge(request: web.Request, call: Call) -> web.StreamResponse:
    """Undoes the merge of the account, as long as the account that it was merged into has not
    changed since. The path has the id of the account that was merged."""
    path: UserPath = call.path
    body: UndoMergeRequest = call.body
    row = await call.row(
        functions.undo_merge(
            account_id=path.account_id,
            reason=body.reason,
            idempotency_key=call.idempotency_key,
            dry_run=body.dry_run,
        )
    )
    return answer(200, _undone(row), _headers(row))


async def list_user_merges(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists the merges that an account took part in, newest first."""
    path: UserPath = call.path
    rows = await call.rows(functions.list_merges(account_id=path.account_id))
    return answer(200, [_merge(row) for row in rows])


def _headers(row: Row) -> dict[str, str] | None:
    return {"Idempotent-Replayed": "true"} if row["replayed"] else None
