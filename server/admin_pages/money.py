"""Amounts of money as people type them, like 7.99. The decimals of a currency are those of
billing.currencies."""

from __future__ import annotations

from aiohttp import web

from server.gateway import functions
from server.http.app_keys import GATEWAY


async def read_money(request: web.Request, text: str, currency: str) -> int:
    """The amount in minor units. Raises Refused (invalid_argument) for what is no amount."""
    row = await request.app[GATEWAY].sign_in(
        functions.read_money(amount_text=text, currency=currency)
    )
    assert row is not None
    return int(row["read_money"])


async def write_money(
    request: web.Request, amount_minor: int, currency: str, *, with_currency: bool = True
) -> str:
    """The amount as people write it, with or without its currency."""
    row = await request.app[GATEWAY].sign_in(
        functions.describe_money(
            amount_minor=amount_minor, currency=currency, with_currency=with_currency
        )
    )
    assert row is not None
    return str(row["describe_money"])
