"""/admin/api/users/{account_id}/timeline: what happened to an account, in one list."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from aiohttp import web
from typing_extensions import TypedDict

from server.admin_api.endpoint import Call, answer
from server.admin_api.models import TimelineQuery, UserPath
from server.gateway import Row, functions
from server.http import fields as f
from server.http.answers import From, reader
from server.http.example_values import ACCOUNT_ID, AT, CREDIT_ID
from server.http.route import Example
from server.timeline_words import told


def _changes(row: Row) -> Any:
    return orjson.loads(row["changes"]) if row["changes"] is not None else None


def _words(row: Row) -> str:
    return told({**dict(row), "changes": _changes(row)})


class TimelineRow(TypedDict):
    """Something that happened. What some fields mean depends on its kind."""

    kind: Annotated[
        Literal["check", "denial", "charge", "credit", "hold", "purchase", "staff"],
        f.means("What it is; `denial` is a refused charge, `staff` an act of staff or a DBA."),
    ]
    at: Annotated[datetime, f.WHEN]
    id: Annotated[UUID, f.ITS_ID]
    words: Annotated[str, From(_words), f.means("What happened, in a few words.")]
    what: Annotated[
        str,
        f.means(
            "`allowed` or `denied` for a check; `refused`; `charge`, `free_use` or the type of a"
            " credit; the state of a hold; `offered`, `pending` or `settled`; or the act."
        ),
    ]
    reason: Annotated[
        str | None, f.means("Why, in its writer's words, or what was missing; null without any.")
    ]
    writer_kind: f.WriterKind | None
    writer: Annotated[str | None, f.WRITER]
    credits_change: Annotated[f.Integer | None, f.means("What it changed of the paid credits.")]
    free_uses_change: Annotated[f.Integer | None, f.means("What it changed of the free uses.")]
    balance_after: Annotated[f.Count | None, f.means("Paid credits after an entry.")]
    amount_minor: Annotated[
        f.Count | None,
        f.means("What a refused charge or a hold asked for, or the price of a purchase."),
    ]
    currency: Annotated[str | None, f.means("The currency of it.")]
    paid_credits: Annotated[
        f.Count | None,
        f.means(
            "Paid credits at a check or refusal, the credits of a purchase, or what was captured of"
            " a hold."
        ),
    ]
    free_uses: Annotated[
        f.Count | None, f.means("Free uses at a check or refusal, or that a hold keeps.")
    ]
    times: Annotated[
        f.Count | None,
        f.means("How often: refusals of one key and reason in a minute are one row."),
    ]
    payment_id: Annotated[str | None, f.PAYMENT_ID]
    message_id: Annotated[str | None, f.means("The message that it was for.")]
    agent_id: Annotated[str | None, f.AGENT_ID]
    channel_id: Annotated[str | None, f.CHANNEL_ID]
    request_id: Annotated[str | None, f.means("The agent's own id for what it worked on.")]
    corrects_id: Annotated[UUID | None, f.means("The entry that it reverses.")]
    left_to_reverse: Annotated[
        f.Count | None, f.means("How much of an entry can still be reversed by staff.")
    ]
    audit_id: Annotated[UUID | None, f.means("Its entry in the audit log.")]
    changes: Annotated[
        dict[str, Any] | None,
        From(_changes),
        f.means(
            "Of an act: `before` and `after`, each a value or an object of the fields that changed,"
            " and by name what else it tells, such as `amount`; of a transfer or merge also"
            " `other_account_id` and `other_account`, its address or external id. Of an entry that"
            " another one explains: `act`. Where that is `transfer`, `merge` or `undo_merge`,"
            " `account_id` and `account` are the other account; where it is `reversal`, `of`"
            " (`charge` or `credit`), `at`, `amount` and `text` are the entry that was reversed."
            " Null for all others."
        ),
    ]


class TimelinePage(TypedDict):
    """A page of an account's timeline."""

    rows: Annotated[list[TimelineRow], f.means("What happened, newest first.")]
    has_more: Annotated[bool, f.HAS_MORE]
    next_cursor: Annotated[str | None, f.NEXT_CURSOR]


EXAMPLE = Example(
    {
        "rows": [
            {
                "kind": "credit",
                "at": AT,
                "id": CREDIT_ID,
                "words": "Grant",
                "what": "grant",
                "reason": "Welcome gift",
                "writer_kind": "staff",
                "writer": "ada@example.com",
                "credits_change": 20,
                "free_uses_change": 0,
                "balance_after": 20,
                "amount_minor": None,
                "currency": "USD",
                "paid_credits": None,
                "free_uses": None,
                "times": None,
                "payment_id": None,
                "message_id": None,
                "agent_id": None,
                "channel_id": None,
                "request_id": None,
                "corrects_id": None,
                "left_to_reverse": 20,
                "audit_id": "019a9c2e-7f06-7a52-9c1e-0b8d4f6a2e94",
                "changes": None,
            }
        ],
        "has_more": False,
        "next_cursor": None,
    },
    values={"account_id": ACCOUNT_ID, "kind": "credit", "from": "2026-11-01"},
)

_row = reader(TimelineRow, functions.list_timeline.columns)


async def list_user_timeline(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists what happened to an account, newest first: checks, denials, charges, credits, holds,
    purchases and what staff did, each with its writer and reason. Pages go on by `next_cursor`;
    rows that are added meanwhile do not shift them. A page of denials may be short: no more than
    10,000 checks are looked at for it."""
    path: UserPath = call.path
    query: TimelineQuery = call.query
    rows = await call.rows(
        functions.list_timeline(
            account_id=path.account_id,
            kinds=[query.kind] if query.kind else None,
            cursor=query.cursor,
            limit=query.limit,
            row_id=query.row_id,
            **query.days,
        )
    )
    following = rows[-1]["next_cursor"] if rows else None
    page: TimelinePage = {
        # A page that found nothing has one row that tells only where to go on.
        "rows": [_row(row) for row in rows if row["kind"] is not None],
        "has_more": following is not None,
        "next_cursor": following,
    }
    return answer(200, page)
