"""The MCP server of the client package, started as assistants start it, on a running server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from ciris_billing_client import AsyncBilling, Billing, NewCharge, User
from ciris_billing_client.mcp_server import mcp_server
from mcp import Client, StdioServerParameters

from tests.support import Service, clean_environment, running_service, unique

START = "from ciris_billing_client.mcp_server import main; main()"


@asynccontextmanager
async def assistant(service: Service, tree: Path, *options: str) -> AsyncIterator[Client]:
    """An MCP client whose server was started with these options."""
    server = StdioServerParameters(
        command=sys.executable,
        args=["-c", START, *options],
        env={
            **clean_environment(),
            "PYTHONPATH": str(tree / "clients/python"),
            "CIRIS_BILLING_URL": service.base_url,
            "CIRIS_BILLING_API_KEY": service.key.secret,
        },
    )
    async with Client(server) as client:
        yield client


async def ask(client: Client, tool: str, **arguments: Any) -> Any:
    """What a tool answers: its structure, or the text of an error."""
    result = await client.call_tool(tool, arguments)
    text = getattr(result.content[0], "text", "")
    return text if result.is_error else json.loads(text)


def poor_user(service: Service) -> dict[str, str]:
    """A user who had three free uses, and two credits since."""
    user = User("oauth:google", unique())
    with Billing(service.base_url, service.key.secret) as billing:
        billing.check(user)
        billing.batch([NewCharge(user=user)] * 3)
        billing.add_credits(user, 2, description="welcome")
    return user._asdict()


async def test_an_assistant_reads_and_is_offered_nothing_that_takes(
    service: Service, tree: Path
) -> None:
    ada = poor_user(service)
    async with assistant(service, tree) as client:
        offered = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(offered) == {"check", "balance", "history", "purchase_link"}
        assert all(tool.description for tool in offered.values())
        assert (await ask(client, "check", **ada))["credits_remaining"] == 2
        assert (await ask(client, "balance", **ada))["paid_credits"] == 2
        before = await ask(client, "balance", **ada, at="2020-01-01T00:00:00Z")
        assert before["state"] == "before_account"
        page = await ask(client, "history", **ada, limit=3)
        rest = await ask(client, "history", **ada, limit=3, cursor=page["next_cursor"])
        amounts = [entry["amount_minor"] for entry in page["transactions"] + rest["transactions"]]
        assert amounts == [2, -1, -1, -1]
        no_link = await ask(client, "purchase_link", **ada)
        assert "PURCHASE_URL" in no_link
        assert "--purchase-url" in no_link
        refused = await ask(client, "charge", **ada, amount=1, description="x", idempotency_key="k")
        assert "charge" in refused
        assert "account_not_found" in await ask(
            client, "balance", oauth_provider="oauth:google", external_id=unique()
        )


async def test_the_purchase_link_is_the_services_unless_the_assistants_operator_gave_one(
    service: Service,
) -> None:
    ada = poor_user(service)
    buy_here, or_here = "https://example.com/buy", "https://example.com/shop"
    with running_service(service.database, PURCHASE_URL=buy_here) as shop:
        async with AsyncBilling(shop.base_url, shop.key.secret) as billing:
            async with Client(mcp_server(billing)) as client:
                told = await ask(client, "purchase_link", **ada)
                assert (told["purchase_url"], told["purchase_required"]) == (buy_here, False)
            async with Client(mcp_server(billing, purchase_url=or_here)) as client:
                assert (await ask(client, "purchase_link", **ada))["purchase_url"] == or_here


async def test_what_takes_credits_is_offered_when_it_is_allowed(
    service: Service, tree: Path
) -> None:
    ada = poor_user(service)
    shop = "https://example.com/shop"
    async with assistant(service, tree, "--allow-writes", "--purchase-url", shop) as client:
        assert (await ask(client, "purchase_link", **ada))["purchase_url"] == shop
        order = {**ada, "amount": 2, "description": "an answer", "idempotency_key": "message-1"}
        charge = await ask(client, "charge", **order)
        assert (await ask(client, "charge", **order))["charge_id"] == charge["charge_id"]
        assert (await ask(client, "balance", **ada))["paid_credits"] == 0
        refused = await ask(client, "charge", **{**order, "idempotency_key": "message-2"})
        assert "402 insufficient_credits" in refused
        odd = await ask(client, "charge", **{**order, "idempotency_key": "ключ"})
        assert "idempotency key" in odd
        back = {"charge_id": charge["charge_id"], "reason": "it failed", "amount": 1}
        assert (await ask(client, "reverse", **back))["balance_after"] == 1
        assert (await ask(client, "reverse", **back))["replayed"]
        assert (await ask(client, "balance", **ada))["paid_credits"] == 1


@pytest.mark.parametrize(
    ("options", "environment", "said"),
    [
        (["--help"], {}, "--allow-writes"),
        ([], {"CIRIS_BILLING_URL": "http://127.0.0.1:1"}, "CIRIS_BILLING_API_KEY"),
    ],
)
def test_a_wrong_start_says_what_is_wrong(
    tree: Path, options: list[str], environment: dict[str, str], said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", START, *options],
        check=False,
        env={**clean_environment(), "PYTHONPATH": str(tree / "clients/python"), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == (0 if "--help" in options else 2)
    assert said in done.stdout + done.stderr
