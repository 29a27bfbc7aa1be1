"""How many calls of one kind run at once, and how many may wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from server.gateway.errors import QueueFull


class Track:
    """At most `size` calls at once and `max_queue` waiting; beyond that it raises QueueFull."""

    def __init__(self, size: int, max_queue: int) -> None:
        self._slots = asyncio.Semaphore(size)
        self._max_queue = max_queue
        self._waiting = 0
        self._accounts: dict[tuple[Any, ...], tuple[asyncio.Lock, int]] = {}

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return self._waiting

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Held while a call runs."""
        with self._counted():
            await self._slots.acquire()
        try:
            yield
        finally:
            self._slots.release()

    async def pause(self, seconds: float) -> None:
        """Waits outside the slots; who does so counts among those who wait."""
        with self._counted():
            await asyncio.sleep(seconds)

    @contextlib.asynccontextmanager
    async def for_account(self, account: tuple[Any, ...]) -> AsyncIterator[None]:
        """A slot for a write to one account. One account never holds more than one slot, so that
        a locked account does not hold up the others."""
        lock, users = self._accounts.get(account, (asyncio.Lock(), 0))
        self._accounts[account] = (lock, users + 1)
        try:
            with self._counted():
                await lock.acquire()
            try:
                async with self.slot():
                    yield
            finally:
                lock.release()
        finally:
            lock, users = self._accounts.pop(account)
            if users > 1:
                self._accounts[account] = (lock, users - 1)

    @contextlib.contextmanager
    def _counted(self) -> Any:
        if self._waiting >= self._max_queue:
            raise QueueFull()
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
