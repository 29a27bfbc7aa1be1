"""The client package against a running server."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from ciris_billing_client import AsyncBilling, Billing

from tests.support import Service


class Either:
    """One of the two clients. Its methods are awaited, whichever it is, so that a test is of
    both."""

    def __init__(self, client: AsyncBilling | Billing) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self.client, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            answer = method(*args, **kwargs)
            return await answer if inspect.isawaitable(answer) else answer

        return call

    async def end(self) -> None:
        """Closes the client."""
        if isinstance(self.client, Billing):
            self.client.close()
        else:
            await self.client.aclose()

    async def all_history(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Every entry that the client iterates over."""
        if isinstance(self.client, Billing):
            return list(self.client.history(*args, **kwargs))
        return [entry async for entry in self.client.history(*args, **kwargs)]


@pytest.fixture(params=["async", "sync"])
async def billing(request: pytest.FixtureRequest, service: Service) -> AsyncIterator[Either]:
    """Each of the two clients."""
    kind = Billing if request.param == "sync" else AsyncBilling
    either = Either(kind(service.base_url, service.key.secret))
    yield either
    await either.end()
