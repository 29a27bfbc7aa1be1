"""An MCP server over the client, for assistants: what a user has, what became of it, may they go
on. What takes credits or begins a payment is offered only with --allow-writes."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

try:
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp_types import ToolAnnotations
except ImportError as error:
    raise ImportError("it needs an extra: pip install 'ciris-billing-client[mcp]'") from error

from ciris_billing_client.clients import AsyncBilling
from ciris_billing_client.errors import BillingError
from ciris_billing_client.models import User
from ciris_billing_client.version import __version__

Result = dict[str, Any]
Tool = Callable[..., Awaitable[Result]]

_INSTRUCTIONS = (
    "Credits of the users of an AI agent. A user is an oauth_provider such as oauth:google and an"
    " external_id. 1 credit is 1 use; free uses go first."
)
_NO_LINK = (
    "Nobody has said where credits can be bought. Whoever runs the service says it by its setting"
    " PURCHASE_URL; whoever runs this MCP server can say it by --purchase-url or"
    " CIRIS_BILLING_PURCHASE_URL."
)


def mcp_server(
    billing: AsyncBilling, *, purchase_url: str | None = None, allow_writes: bool = False
) -> MCPServer:
    """The server: reading tools, and writing ones if they are allowed."""
    # Below a warning, every request would be logged with its user.
    server = MCPServer(
        "ciris-billing", instructions=_INSTRUCTIONS, version=__version__, log_level="WARNING"
    )
    asking = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True)
    _offer(server, _reading(billing), ToolAnnotations(read_only_hint=True))
    _offer(server, _asking(billing, purchase_url), asking)  # may create an account
    if allow_writes:
        _offer(server, _writing(billing), ToolAnnotations(destructive_hint=True))
    return server


def _offer(server: MCPServer, tools: Sequence[Tool], annotations: ToolAnnotations) -> None:
    for tool in tools:
        server.add_tool(tool, annotations=annotations)


async def _told(call: Callable[[], Awaitable[msgspec.Struct]]) -> Result:
    """The answer as JSON; a refusal as an error that the assistant can read."""
    try:
        told: Result = msgspec.to_builtins(await call())
    except (BillingError, ValueError) as error:
        raise ToolError(str(error)) from error
    return told


def _reading(billing: AsyncBilling) -> list[Tool]:
    async def balance(oauth_provider: str, external_id: str, at: datetime | None = None) -> Result:
        """Paid credits and free uses that a user has, or had at a time."""
        return await _told(lambda: billing.balance(User(oauth_provider, external_id), at=at))

    async def history(
        oauth_provider: str, external_id: str, limit: int = 20, cursor: str | None = None
    ) -> Result:
        """A user's charges (negative) and credits, newest first. next_cursor leads to the next
        page."""
        user = User(oauth_provider, external_id)
        return await _told(lambda: billing.history_page(user, limit=limit, cursor=cursor))

    return [balance, history]


def _asking(billing: AsyncBilling, purchase_url: str | None) -> list[Tool]:
    async def check(oauth_provider: str, external_id: str) -> Result:
        """May this user go on? has_credit says it, reason why not. A user who is new gets an
        account with free uses."""
        return await _told(lambda: billing.check(User(oauth_provider, external_id)))

    async def purchase_link(oauth_provider: str, external_id: str) -> Result:
        """Where the user can buy credits, and, once they are needed, what the next pack costs
        (minor units such as cents) and how many uses it has. A user who is new gets an account."""
        answer = await _told(lambda: billing.check(User(oauth_provider, external_id)))
        link = purchase_url or answer["purchase_url"]
        if link is None:
            raise ToolError(_NO_LINK)
        facts = ("purchase_required", "purchase_price_minor", "purchase_uses")
        return {"purchase_url": link, **{name: answer[name] for name in facts}}

    return [check, purchase_link]


def _writing(billing: AsyncBilling) -> list[Tool]:
    async def charge(
        oauth_provider: str, external_id: str, amount: int, description: str, idempotency_key: str
    ) -> Result:
        """Takes credits of a user for work that was done. The same idempotency_key is charged
        once."""
        user = User(oauth_provider, external_id)
        return await _told(
            lambda: billing.charge(
                user, amount, description=description, idempotency_key=idempotency_key
            )
        )

    async def reverse(charge_id: str, reason: str, amount: int | None = None) -> Result:
        """Gives a charge back, by default all that is left of it; the same amount of it once,
        however often this is asked."""
        key = f"mcp:{charge_id.lower()}:{amount}"[:255]  # an id may be written in capitals
        return await _told(
            lambda: billing.reverse(charge_id, reason, amount=amount, idempotency_key=key)
        )

    return [charge, reverse]


def main() -> None:
    """`ciris-billing-mcp`: serves on standard input and output."""
    parser = argparse.ArgumentParser(
        prog="ciris-billing-mcp",
        description="CIRIS Billing as an MCP server on standard input and output. The service's"
        " address and an API key are in CIRIS_BILLING_URL and CIRIS_BILLING_API_KEY.",
    )
    parser.add_argument(
        "--allow-writes", action="store_true", help="offer tools that charge and reverse, too"
    )
    parser.add_argument(
        "--purchase-url",
        default=os.environ.get("CIRIS_BILLING_PURCHASE_URL"),
        help="where users buy credits (CIRIS_BILLING_PURCHASE_URL), instead of where the service"
        " says",
    )
    given = parser.parse_args()
    try:
        billing = AsyncBilling()
    except ValueError as error:
        parser.error(str(error))
    asyncio.run(_serve(billing, given.purchase_url, given.allow_writes))


async def _serve(billing: AsyncBilling, purchase_url: str | None, allow_writes: bool) -> None:
    async with billing:
        await mcp_server(
            billing, purchase_url=purchase_url, allow_writes=allow_writes
        ).run_stdio_async()
