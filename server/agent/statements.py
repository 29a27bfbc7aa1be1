"""GET /v1/billing/accounts/{provider}/{id}/statement and .../balance: an account's books at a past
time."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import orjson
from aiohttp import web
from typing_extensions import TypedDict

from server.agent.endpoint import Call
from server.agent.models import AccountPath
from server.gateway import FunctionCall, Refused, Row, functions
from server.http import fields as f
from server.http.answers import reader
from server.http.errors import json_response
from server.http.example_values import ACCOUNT_ID, ADA, AT, CREDIT_ID
from server.http.route import Example
from server.http.statements import (
    EXAMPLE_ROWS,
    AgentRow,
    BalanceQuery,
    PeriodQuery,
    open_statement,
    send_json,
)
from server.http.validation import refused_field


class Balance(TypedDict):
    """What an account had at a time."""

    account_id: Annotated[UUID, f.ACCOUNT_ID]
    at: Annotated[datetime, f.means("The time, in UTC.")]
    state: Annotated[Literal["known", "before_account", "before_books"], f.BALANCE_STATE]
    paid_credits: Annotated[f.Count | None, f.PAID_CREDITS_THEN]
    free_uses: Annotated[f.Count | None, f.FREE_USES_THEN]
    transaction_id: Annotated[UUID | None, f.LAST_ENTRY]


STATEMENT = Example(
    {
        "account_id": ACCOUNT_ID,
        "period_start": "2026-11-01T00:00:00Z",
        "period_end": "2026-12-01T00:00:00Z",
        "entry_count": 1,
        "rows": list(EXAMPLE_ROWS),
    },
    values={**ADA, "from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z"},
)
BALANCE = Example(
    {
        "account_id": ACCOUNT_ID,
        "at": AT,
        "state": "known",
        "paid_credits": 20,
        "free_uses": 0,
        "transaction_id": CREDIT_ID,
    },
    values={**ADA, "at": AT},
)

_balance = reader(Balance, functions.balance_at.columns)
_row = reader(AgentRow, functions.statement.columns)


async def get_account_statement(request: web.Request, call: Call) -> web.StreamResponse:
    """An account's statement of a period: what it had before, every entry, and what it had
    afterwards. The answer is sent while it is read, so it may be long."""
    query: PeriodQuery = call.query

    async def read(wanted: FunctionCall) -> list[Row]:
        return await call.gateway.read(wanted.given(api_key_id=call.api_key_id))

    try:
        statement = await open_statement(
            read, await _account_id(call), *query.period(), is_for_staff=False
        )
        return await send_json(request, statement, _row, _encode, {})
    except Refused as error:
        raise refused_field(error, "query", query) from None


async def get_account_balance(request: web.Request, call: Call) -> web.StreamResponse:
    """What an account had at a time, and which entry left it so. An entry that was written at
    exactly this time counts."""
    query: BalanceQuery = call.query
    [row] = await call.gateway.read(
        functions.balance_at(
            account_id=await _account_id(call), at=query.at, api_key_id=call.api_key_id
        )
    )
    return json_response(200, _balance(row))


async def _account_id(call: Call) -> UUID:
    path: AccountPath = call.path
    [row] = await call.gateway.read(
        functions.get_account(
            oauth_provider=path.oauth_provider,
            external_id=path.external_id,
            api_key_id=call.api_key_id,
        )
    )
    account_id: UUID = row["account_id"]
    return account_id


def _encode(value: object) -> bytes:
    return orjson.dumps(value, default=str)
