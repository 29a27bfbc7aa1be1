"""How many calls of one kind run at once, and how many may wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from server.gateway.errors import Busy, QueueFull


@dataclass(slots=True)
class _Account:
    """The calls that write to one account. `refusals` counts the calls that found it held."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    refusals: int = 0


class Slots:
    """At most `size` calls run at once and `max_queue` wait; beyond that it raises QueueFull."""

    def __init__(self, size: int, max_queue: int) -> None:
        self._slots = asyncio.Semaphore(size)
        self._max_queue = max_queue
        self._waiting = 0
        self._accounts: dict[tuple[Any, ...], _Account] = {}

    @property
    def waiting(self) -> int:
        """The number of calls that wait."""
        return self._waiting

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """A slot that is held while a call runs."""
        with self._counted():
            await self._slots.acquire()
        try:
            yield
        finally:
            self._slots.release()

    async def pause(self, seconds: float) -> None:
        """Waits without a slot; the call counts among those that wait."""
        with self._counted():
            await asyncio.sleep(seconds)

    @contextlib.asynccontextmanager
    async def for_account(self, key: tuple[Any, ...]) -> AsyncIterator[None]:
        """A slot for a write to one account. The calls for one account hold at most one slot, so
        that a locked account does not delay other accounts. When a call found the account held
        until the lock time-out, the calls that waited behind it are refused with it: they have
        waited as long."""
        account = self._accounts.setdefault(key, _Account())
        account.users += 1
        try:
            refusals = account.refusals
            with self._counted():
                await account.lock.acquire()
            try:
                if account.refusals > refusals:
                    raise Busy("the account is held by another transaction")
                async with self.slot():
                    yield
            except Busy:
                account.refusals += 1
                raise
            finally:
                account.lock.release()
        finally:
            account.users -= 1
            if not account.users:
                del self._accounts[key]

    @contextlib.contextmanager
    def _counted(self) -> Any:
        if self._waiting >= self._max_queue:
            raise QueueFull()
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
