"""Books at a past time: statements of an account, its balance at a time, usage by day, and who used
most."""

from datetime import date, datetime
from typing import Annotated, Literal
from uuid import UUID

from aiohttp import web
from typing_extensions import TypedDict

from server.admin_api.endpoint import NO_STORE, Call, answer, encode
from server.admin_api.models import DaysQuery, TopQuery, UserPath
from server.gateway import functions
from server.http import fields as f
from server.http.answers import reader
from server.http.example_values import ACCOUNT_ID, ADA, AT, CREDIT_ID
from server.http.route import Example
from server.http.statements import (
    EXAMPLE_ROWS,
    STAFF_COLUMNS,
    BalanceQuery,
    PeriodQuery,
    StaffRow,
    Statement,
    open_statement,
    send_csv,
    send_json,
)


class UserBalance(TypedDict):
    """What an account had at a time."""

    account_id: Annotated[UUID, f.ACCOUNT_ID]
    at: Annotated[datetime, f.means("The time, in UTC.")]
    state: Annotated[Literal["known", "before_account", "before_books"], f.BALANCE_STATE]
    paid_credits: Annotated[f.Count | None, f.PAID_CREDITS_THEN]
    free_uses: Annotated[f.Count | None, f.FREE_USES_THEN]
    ledger_version: Annotated[f.Count, f.means("The number of the newest entry then.")]
    transaction_id: Annotated[UUID | None, f.LAST_ENTRY]
    type: Annotated[Literal["charge", "credit"] | None, f.ENTRY_TYPE]
    amount_minor: Annotated[f.Integer | None, f.means("Credits; negative for charges.")]
    created_at: Annotated[datetime | None, f.means("When that entry was written, in UTC.")]
    reason: Annotated[str | None, f.means("What its writer said of it.")]
    writer_kind: f.WriterKind | None
    writer: Annotated[str | None, f.WRITER]


class UsageDay(TypedDict):
    """Usage and money of a UTC day. Where money of several currencies moved, the day has a row for
    each, and its usage is in the first."""

    day: Annotated[date, f.means("The day, in UTC.")]
    charges: Annotated[f.Count, f.means("Charges, those that free uses paid for included.")]
    free_charges: Annotated[f.Count, f.means("Charges that free uses paid for.")]
    credits_used: Annotated[f.Count, f.means("Paid credits that were charged.")]
    credits_added: Annotated[f.Count, f.means("Credits that were added.")]
    credits_sold: Annotated[f.Count, f.means("Credits that were bought.")]
    credits_taken_back: Annotated[f.Count, f.means("Credits that were taken away.")]
    currency: Annotated[str | None, f.means("The currency of the money; null for none.")]
    sold_minor: Annotated[f.Count, f.means("Money of purchases that were credited that day.")]
    returned_minor: Annotated[
        f.Count, f.means("Money of refunds and disputes of that day that is away now.")
    ]


class TopConsumer(TypedDict):
    """An account that used much in a period."""

    place: Annotated[f.Positive, f.means("Its place, from 1.")]
    account_id: Annotated[UUID, f.ACCOUNT_ID]
    oauth_provider: f.OAuthProvider
    external_id: Annotated[str, f.EXTERNAL_ID]
    customer_email: Annotated[str | None, f.CUSTOMER_EMAIL]
    charges: Annotated[f.Count, f.means("Charges, those that free uses paid for included.")]
    free_charges: Annotated[f.Count, f.means("Charges that free uses paid for.")]
    credits_used: Annotated[f.Count, f.means("Paid credits that were charged.")]
    last_charge_at: Annotated[datetime, f.means("When it was last charged in that period, in UTC.")]


_PATH = {"account_id": ACCOUNT_ID}
STATEMENT = Example(
    {
        "account_id": ACCOUNT_ID,
        "period_start": "2026-11-01T00:00:00Z",
        "period_end": "2026-12-01T00:00:00Z",
        "entry_count": 1,
        "rows": [
            {
                **row,
                "writer": "Scout (cbk_live_k3J9xQ2mTz8)" if row["writer_kind"] else None,
                "origin": None,
            }
            for row in EXAMPLE_ROWS
        ],
    },
    values={**_PATH, "from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z"},
)
CSV_STATEMENT = Example(values=STATEMENT.values)
BALANCE = Example(
    {
        "account_id": ACCOUNT_ID,
        "at": AT,
        "state": "known",
        "paid_credits": 20,
        "free_uses": 0,
        "ledger_version": 7,
        "transaction_id": CREDIT_ID,
        "type": "credit",
        "amount_minor": 20,
        "created_at": AT,
        "reason": "Welcome gift",
        "writer_kind": "staff",
        "writer": "ada@example.com",
    },
    values={**_PATH, "at": AT},
)
_DAY = {
    "day": "2026-11-22",
    "charges": 3,
    "free_charges": 1,
    "credits_used": 2,
    "credits_added": 20,
    "credits_sold": 20,
    "credits_taken_back": 0,
    "currency": "USD",
    "sold_minor": 500,
    "returned_minor": 0,
}
_DAYS = {"from": "2026-11-22", "to": "2026-11-23"}
USER_USAGE = Example([_DAY], values={**_PATH, **_DAYS})
USAGE = Example([_DAY], values=_DAYS)
TOP = Example(
    [
        {
            "place": 1,
            "account_id": ACCOUNT_ID,
            **ADA,
            "customer_email": "ada@example.com",
            "charges": 412,
            "free_charges": 3,
            "credits_used": 409,
            "last_charge_at": AT,
        }
    ],
    values={**_DAYS, "sort": "uses", "limit": 20},
)

_balance = reader(UserBalance, functions.balance_at.columns)
_row = reader(StaffRow, STAFF_COLUMNS)
_day = reader(UsageDay, functions.list_usage.columns)
_consumer = reader(TopConsumer, functions.list_top_consumers.columns)


async def get_user_statement(request: web.Request, call: Call) -> web.StreamResponse:
    """An account's statement of a period: what it had before, every entry with its writer and
    reason, and what it had afterwards. The answer is sent while it is read, so it may be long."""
    return await send_json(request, await _opened(call), _row, encode, NO_STORE)


async def export_user_statement(request: web.Request, call: Call) -> web.StreamResponse:
    """An account's statement of a period as CSV (UTF-8, RFC 4180). Text that a spreadsheet would
    take for a formula begins with an apostrophe. The last line is the closing row."""
    return await send_csv(request, await _opened(call), NO_STORE)


async def get_user_balance(request: web.Request, call: Call) -> web.StreamResponse:
    """What an account had at a time, and which entry left it so. An entry that was written at
    exactly this time counts."""
    path: UserPath = call.path
    query: BalanceQuery = call.query
    row = await call.row(functions.balance_at(account_id=path.account_id, at=query.at))
    return answer(200, _balance(row))


async def list_user_usage(request: web.Request, call: Call) -> web.StreamResponse:
    """An account's usage and money by UTC day, from `from` up to and without `to`; by default this
    month. Days on which nothing happened are included."""
    path: UserPath = call.path
    query: DaysQuery = call.query
    rows = await call.rows(
        functions.list_usage(from_=query.first, to=query.beyond, account_id=path.account_id)
    )
    return answer(200, [_day(row) for row in rows])


async def list_usage(request: web.Request, call: Call) -> web.StreamResponse:
    """Usage and money of all accounts by UTC day, from `from` up to and without `to`; by default
    this month. Days on which nothing happened are included."""
    query: DaysQuery = call.query
    rows = await call.rows(functions.list_usage(from_=query.first, to=query.beyond))
    return answer(200, [_day(row) for row in rows])


async def list_top_consumers(request: web.Request, call: Call) -> web.StreamResponse:
    """The accounts that used most from `from` up to and without `to`; by default this month. The
    header X-Truncated says whether more accounts were charged than the answer has."""
    query: TopQuery = call.query
    rows = await call.rows(
        functions.list_top_consumers(
            from_=query.first, to=query.beyond, sort=query.sort, limit=query.limit + 1
        )
    )
    is_cut = len(rows) > query.limit
    return answer(
        200,
        [_consumer(row) for row in rows[: query.limit]],
        {"X-Truncated": "true" if is_cut else "false"},
    )


async def _opened(call: Call) -> Statement:
    path: UserPath = call.path
    query: PeriodQuery = call.query
    return await open_statement(call.rows, path.account_id, *query.period())
