"""Statements of accounts: read from the database in pages, and sent as JSON or CSV while they are
read."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from aiohttp import web
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from server.csv_text import csv_lines
from server.gateway import FunctionCall, Row, functions
from server.http import fields as f
from server.http.json_answer import JSON
from server.http.origins import with_origins
from server.http.streams import send_parts
from server.http.validation import RequestModel

_PAGE = 1000
_INSTANT = timedelta(microseconds=1)
CSV = "text/csv; charset=utf-8"
Read = Callable[[FunctionCall], Awaitable[Sequence[Row]]]
Encode = Callable[[Any], bytes]
STAFF_COLUMNS = (*functions.statement.columns, "origin")


def _moment(value: datetime) -> datetime:
    """A time in UTC. A time without a zone counts as UTC."""
    if not 2 <= value.year <= 9998:
        raise PydanticCustomError("time_range", "Input should be a time of the years 2 to 9998")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Moment = Annotated[datetime, AfterValidator(_moment)]


class PeriodQuery(RequestModel):
    """A period: half open, by default this month."""

    first: Annotated[
        Moment | None,
        f.means("The beginning, included: a UTC day or a time. By default, this UTC month's."),
    ] = Field(default=None, alias="from")
    beyond: Annotated[
        Moment | None,
        f.means("The end, not included: a UTC day or a time. By default, a month after `from`."),
    ] = Field(default=None, alias="to")

    def period(self) -> tuple[datetime, datetime]:
        """The period with its defaults."""
        first = self.first or datetime.now(UTC).replace(
            day=1, hour=0, minute=0, second=0, microsecond=0
        )
        return first, self.beyond or month_after(first)


class BalanceQuery(RequestModel):
    """When to look at a balance."""

    at: Annotated[Moment, f.AT_TIME]


def month_after(moment: datetime) -> datetime:
    """The same day and time of the next month, or its last day where it has no such day."""
    following = moment.replace(day=1) + timedelta(days=32)
    last = (following.replace(day=1) + timedelta(days=32)).replace(day=1) - timedelta(days=1)
    return following.replace(day=min(moment.day, last.day))


class AgentRow(TypedDict):
    """A row of a statement."""

    kind: Annotated[
        Literal["opening", "entry", "free_uses", "closing"],
        f.means(
            "What the account had before; an entry; free uses set by staff; what it had after."
            " Where an account's books begin within the period, a second `opening` says with what."
        ),
    ]
    at: Annotated[datetime | None, f.WHEN]
    ledger_version: Annotated[f.Count, f.means("The entry's number in the account's ledger.")]
    type: Annotated[Literal["charge", "credit"] | None, f.ENTRY_TYPE]
    transaction_type: Annotated[
        Literal["purchase", "grant", "refund", "adjustment"] | None,
        f.means("Why credits were added or taken away; null for charges."),
    ]
    paid_with: Annotated[
        Literal["free", "paid"] | None,
        f.means("Whether a free use or paid credits paid; null for credits."),
    ]
    amount_minor: Annotated[f.Integer | None, f.means("Credits; negative for charges.")]
    credits_change: Annotated[f.Integer | None, f.means("By how much paid credits changed.")]
    balance_after: Annotated[f.Count | None, f.BALANCE_AFTER]
    free_uses_change: Annotated[f.Integer | None, f.means("By how much free uses changed.")]
    free_uses_after: Annotated[f.Count | None, f.means("Free uses left afterwards.")]
    currency: Annotated[str | None, f.LEDGER_CURRENCY]
    reason: Annotated[str | None, f.means("What its writer said of it.")]
    corrects_id: Annotated[UUID | None, f.means("The charge or credit that it reverses.")]
    transfer_id: Annotated[UUID | None, f.means("The transfer of which it is one side.")]
    transaction_id: Annotated[UUID | None, f.TRANSACTION_ID]
    external_transaction_id: Annotated[str | None, f.ENTRY_PAYMENT_ID]
    metadata_message_id: Annotated[str | None, f.means("The message that was charged for.")]
    metadata_agent_id: Annotated[str | None, f.means("The agent that charged.")]
    metadata_channel_id: Annotated[str | None, f.CHANNEL_ID]
    metadata_request_id: Annotated[str | None, f.means("The agent's own id for its work.")]
    writer_kind: f.WriterKind | None


class StaffRow(AgentRow):
    """A row of a statement, with who wrote it."""

    writer: Annotated[str | None, f.WRITER]
    origin: Annotated[
        str | None,
        f.means(
            "For a side of a transfer or merge, the other account; for a reversal, what it"
            " reverses; null for others."
        ),
    ]


class _Head(TypedDict):
    account_id: Annotated[UUID, f.ACCOUNT_ID]
    period_start: Annotated[datetime, f.means("The beginning, included.")]
    period_end: Annotated[datetime, f.means("The end, not included.")]
    entry_count: Annotated[f.Count, f.means("How many entries the period has.")]


class AgentStatement(_Head):
    """An account's statement of a period. Opening, plus all changes, is closing."""

    rows: Annotated[list[AgentRow], f.means("Opening, what happened in order, closing.")]


class StaffStatement(_Head):
    """An account's statement of a period. Opening, plus all changes, is closing."""

    rows: Annotated[list[StaffRow], f.means("Opening, what happened in order, closing.")]


_EXAMPLE_ROW: dict[str, Any] = dict.fromkeys(AgentRow.__annotations__)
EXAMPLE_ROWS: tuple[dict[str, Any], ...] = (
    {**_EXAMPLE_ROW, "kind": "opening", "at": "2026-11-01T00:00:00Z", "ledger_version": 7,
     "balance_after": 20, "free_uses_after": 0, "currency": "USD"},
    {**_EXAMPLE_ROW, "kind": "entry", "at": "2026-11-22T10:24:05.141499Z", "ledger_version": 8,
     "type": "charge", "paid_with": "paid", "amount_minor": -1, "credits_change": -1,
     "balance_after": 19, "free_uses_change": 0, "free_uses_after": 0, "currency": "USD",
     "reason": "one use", "transaction_id": "019a9c2e-b0e4-7a52-9c81-3d5f7b2e6a90",
     "writer_kind": "api_key"},
    {**_EXAMPLE_ROW, "kind": "closing", "at": "2026-12-01T00:00:00Z", "ledger_version": 8,
     "balance_after": 19, "free_uses_after": 0, "currency": "USD"},
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that is about to be read by `read`, of the account and period."""

    read: Read
    account_id: UUID
    first: datetime
    beyond: datetime
    after: int  # the ledger version before the period
    through: int  # and at its end
    is_for_staff: bool  # the rows then have the columns of STAFF_COLUMNS

    @property
    def entry_count(self) -> int:
        """How many entries the period has."""
        return self.through - self.after

    async def page(self, after: int | None, limit: int = _PAGE) -> Sequence[Row]:
        """The rows with the `limit` entries behind the ledger version `after`; the first page has
        the opening row, the last one the closing row."""
        rows = await self.read(
            functions.statement(
                account_id=self.account_id,
                from_=self.first,
                to=self.beyond,
                after=after,
                through=self.through,
                limit=limit,
            )
        )
        return await with_origins(self.read, self.account_id, rows) if self.is_for_staff else rows

    async def pages(self) -> AsyncIterator[Sequence[Row]]:
        """All rows, page by page."""
        after: int | None = None
        while True:
            rows = await self.page(after)
            yield rows
            if rows[-1]["kind"] == "closing":
                return
            after = min(self.through, (self.after if after is None else after) + _PAGE)


async def open_statement(
    read: Read, account_id: UUID, first: datetime, beyond: datetime, *, is_for_staff: bool = True
) -> Statement:
    """Looks up where the period lies in the account's ledger. Raises Refused."""
    [start] = await read(functions.balance_at(account_id=account_id, at=first - _INSTANT))
    [end] = await read(functions.balance_at(account_id=account_id, at=beyond - _INSTANT))
    through = max(start["ledger_version"], end["ledger_version"])
    return Statement(
        read, start["account_id"], first, beyond, start["ledger_version"], through, is_for_staff
    )


async def send_json(
    request: web.Request,
    statement: Statement,
    row: Callable[[Row], Mapping[str, Any]],
    encode: Encode,
    headers: Mapping[str, str],
) -> web.StreamResponse:
    """Sends the statement as one JSON document. `encode` writes a value as the API does."""

    async def parts() -> AsyncIterator[bytes]:
        head = encode(
            {
                "account_id": statement.account_id,
                "period_start": statement.first,
                "period_end": statement.beyond,
                "entry_count": statement.entry_count,
            }
        )
        before = head[:-1] + b',"rows":['
        async for rows in statement.pages():
            yield before + encode([row(one) for one in rows])[1:-1]
            before = b","
        yield b"]}"

    return await send_parts(request, parts(), JSON, {**headers, **_counted(statement)})


async def send_csv(
    request: web.Request, statement: Statement, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Sends the statement as CSV, for staff; its last line is the closing row."""
    columns = STAFF_COLUMNS

    async def parts() -> AsyncIterator[bytes]:
        header: list[Sequence[Any]] = [columns]
        async for rows in statement.pages():
            yield csv_lines([*header, *([row[name] for name in columns] for row in rows)])
            header = []

    name = f"statement-{statement.account_id}-{statement.first:%Y-%m-%d}.csv"
    headers = {**headers, "Content-Disposition": f'attachment; filename="{name}"'}
    return await send_parts(request, parts(), CSV, {**headers, **_counted(statement)})


def _counted(statement: Statement) -> Mapping[str, str]:
    return {"X-Entry-Count": str(statement.entry_count)}
