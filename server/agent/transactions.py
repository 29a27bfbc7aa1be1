"""GET /v1/billing/transactions: an account's history, newest first (contract.md 2.6)."""

from typing import Annotated, NotRequired
from uuid import UUID

from aiohttp import web
from typing_extensions import TypedDict

from server.agent.charges import EXAMPLE_CHARGE
from server.agent.credits import EXAMPLE_CREDIT
from server.agent.endpoint import Call
from server.agent.models import TransactionsQuery
from server.gateway import Refused, functions
from server.http import fields as f
from server.http.answers import From, reader
from server.http.errors import json_response
from server.http.example_values import ADA
from server.http.route import Example
from server.http.validation import refused_field


class Transaction(f.LedgerRow):
    """An entry of an account's history."""

    metadata: Annotated[f.Origin | None, f.ENTRY_ORIGIN, From(f.origin_of_charge)]
    corrects_id: NotRequired[Annotated[UUID, f.CORRECTS]]


class TransactionPage(TypedDict):
    """A page of an account's history; empty for an unknown account."""

    transactions: Annotated[list[Transaction], f.TRANSACTIONS]
    total_count: Annotated[f.Count, f.TOTAL]
    has_more: Annotated[bool, f.HAS_MORE]
    next_cursor: Annotated[str | None, f.NEXT_CURSOR]


_ENTRY = ("amount_minor", "currency", "description", "created_at", "balance_after")
EXAMPLE = Example(
    {
        "transactions": [
            {
                "transaction_id": EXAMPLE_CREDIT["credit_id"],
                "type": "credit",
                **{name: EXAMPLE_CREDIT[name] for name in _ENTRY},
                "transaction_type": "grant",
                "external_transaction_id": None,
                "metadata": None,
            },
            {
                "transaction_id": EXAMPLE_CHARGE["charge_id"],
                "type": "charge",
                **{name: EXAMPLE_CHARGE[name] for name in _ENTRY},
                "amount_minor": -1,
                "transaction_type": None,
                "external_transaction_id": None,
                "metadata": EXAMPLE_CHARGE["metadata"],
            },
        ],
        "total_count": 2,
        "has_more": False,
        "next_cursor": None,
    },
    values={**ADA, "limit": 2, "offset": 0},
)

_transaction = reader(Transaction, functions.list_transactions.columns)


async def list_transactions(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists an account's charges and credits together, newest first. An unknown user has an empty
    history. Use `cursor`, not `offset`, for the next page: entries that are added meanwhile shift
    an offset, but no entry appears twice when you follow cursors."""
    query: TransactionsQuery = call.query
    try:
        rows = await call.gateway.read(
            functions.list_transactions(
                oauth_provider=query.oauth_provider,
                external_id=query.external_id,
                limit=query.limit,
                offset=query.offset,
                cursor=query.cursor,
                api_key_id=call.api_key_id,
            )
        )
    except Refused as error:
        raise refused_field(error, "query", query) from None
    next_cursor = rows[0]["next_cursor"]
    page: TransactionPage = {
        "transactions": [_transaction(row) for row in rows if row["transaction_id"]],
        "total_count": rows[0]["total_count"],
        "has_more": next_cursor is not None,
        "next_cursor": next_cursor,
    }
    return json_response(200, page)
