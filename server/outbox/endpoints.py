"""What staff do with webhook endpoints, in the console and by its API: before the database is
called, the address is checked, the secret is made and encrypted, and a test event is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import orjson

from server.gateway import FunctionCall, Row, functions
from server.outbox.secrets import new_secret, sealed
from server.outbox.sender import Attempt, Message, Sender

KINDS = (
    ("balance.low", "What is left crossed the threshold of a low balance"),
    ("balance.empty", "Nothing is left"),
    ("balance.recovered", "What is left is above the threshold again"),
    ("credits.expiring", "Credits will expire soon"),
    ("cap.reached", "A cap was reached"),
    ("purchase.credited", "A purchase was paid and credited"),
    ("topup.failed", "An automatic top-up failed"),
    ("account.suspended", "Staff suspended the account"),
    ("account.reactivated", "Staff made the account active again"),
)
TEST_KIND = "webhook.test"
STATUSES = ("off", "on", "paused")
STATES = ("waiting", "delivered", "failed")

Ask = Callable[[FunctionCall], Awaitable[list[Row]]]


class EndpointFault(Exception):
    """The value that was given for this `field` of an endpoint is not acceptable."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field
        self.problem = problem


async def create_endpoint(
    ask: Ask, sender: Sender, *, name: str, url: str, kinds: Sequence[str], reason: str
) -> tuple[UUID, str]:
    """Makes an endpoint, switched off. Returns its id and its secret, which nothing shows again.
    Raises EndpointFault, Refused."""
    await _require_address(sender, url)
    secret, stored = _secret(sender)
    rows = await ask(
        functions.create_webhook_endpoint(
            name=name, url=url, kinds=list(kinds), secret=stored, reason=reason
        )
    )
    return rows[0]["create_webhook_endpoint"], secret


async def change_endpoint(
    ask: Ask, sender: Sender, endpoint_id: UUID, *, reason: str, **changed: Any
) -> Row:
    """Changes the given values of an endpoint: name, url, kinds, status. Raises EndpointFault,
    Refused."""
    given = {name: value for name, value in changed.items() if value is not None}
    if "url" in given:
        await _require_address(sender, given["url"])
    call = functions.set_webhook_endpoint(endpoint_id=endpoint_id, reason=reason, **given)
    return (await ask(call))[0]


async def rotate_secret(
    ask: Ask, sender: Sender, endpoint_id: UUID, reason: str
) -> tuple[str, datetime]:
    """Gives an endpoint another secret. Returns it, and until when the old one signs as well.
    Raises EndpointFault, Refused."""
    secret, stored = _secret(sender)
    rows = await ask(
        functions.rotate_webhook_secret(endpoint_id=endpoint_id, secret=stored, reason=reason)
    )
    return secret, rows[0]["rotate_webhook_secret"]


async def try_endpoint(ask: Ask, sender: Sender, endpoint_id: UUID) -> Attempt:
    """Sends a test event, and records the result. Raises Refused."""
    endpoint = (await ask(functions.get_webhook_endpoint(endpoint_id=endpoint_id)))[0]
    now = datetime.now(UTC)
    payload = orjson.dumps(
        {"type": TEST_KIND, "timestamp": now.isoformat(), "data": {"endpoint": endpoint["name"]}}
    )
    attempt = await sender.send(
        Message(str(uuid4()), endpoint["url"], endpoint["secrets"], payload.decode())
    )
    await ask(
        functions.record_webhook_try(
            endpoint_id=endpoint_id, url=endpoint["url"], error=attempt.error
        )
    )
    return attempt


def _secret(sender: Sender) -> tuple[str, str]:
    """A new secret, and its stored form."""
    if sender.cipher is None:
        raise EndpointFault("url", "A secret cannot be stored: ENCRYPTION_KEY is not set.")
    secret = new_secret()
    return secret, sealed(secret, sender.cipher)


async def _require_address(sender: Sender, url: str) -> None:
    problem = await sender.problem_of(url)
    if problem is not None:
        raise EndpointFault("url", problem)
