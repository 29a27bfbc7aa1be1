"""Calls without an answer: is the statement slow, or was the connection lost without notice?

A connection that waits for an answer cannot be asked. So the server is asked, on a connection of
its own, about the backends of such connections. When a backend is idle or gone, no answer will come
from it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from server.gateway.hosts import BROKEN

_SILENCE = 2.0  # after that many seconds without an answer the server is asked
_PAUSE = 0.5  # seconds between two looks; an answer that is under way arrives meanwhile
_PATIENCE = 1.0  # seconds for one look
_AT_WORK = (
    "SELECT s.pid FROM pg_catalog.pg_stat_activity AS s"
    " WHERE s.pid = ANY ($1::integer[])"
    " AND (s.state IS NULL OR s.state NOT IN"
    " ('idle', 'idle in transaction', 'idle in transaction (aborted)'))"
)


class SilenceWatch:
    """Finds connections whose answer will never come. `connect` returns a connection to the server.
    `give_up` is called with each lost connection, and ends its call."""

    def __init__(
        self, connect: Callable[[], Awaitable[Any]], give_up: Callable[[Any], None]
    ) -> None:
        self._connect = connect
        self._give_up = give_up
        self._silent: dict[Any, int] = {}
        self._inquiry: asyncio.Task[None] | None = None

    def expect(self, connection: Any, pid: int | None) -> asyncio.TimerHandle | None:
        """Notes that an answer is due from the server process `pid`; with None it cannot be asked
        about. Pass the returned handle to `answered`."""
        if pid is None:
            return None
        return asyncio.get_running_loop().call_later(_SILENCE, self._suspect, connection, pid)

    def answered(self, connection: Any, expected: asyncio.TimerHandle | None) -> None:
        """The call has ended, successfully or not: no answer is due any more."""
        if expected is not None:
            expected.cancel()
            self._silent.pop(connection, None)

    async def close(self) -> None:
        """Ends an inquiry that is under way."""
        if self._inquiry is not None:
            self._inquiry.cancel()
            await asyncio.gather(self._inquiry, return_exceptions=True)

    def _suspect(self, connection: Any, pid: int) -> None:
        self._silent[connection] = pid
        if self._inquiry is None or self._inquiry.done():
            self._inquiry = asyncio.get_running_loop().create_task(self._inquire())

    async def _inquire(self) -> None:
        idle: set[Any] = set()
        while self._silent:
            found = await self._idle_ones()
            for connection in found & idle & self._silent.keys():
                self._give_up(connection)
            idle = found
            await asyncio.sleep(_PAUSE)

    async def _idle_ones(self) -> set[Any]:
        """The silent connections whose backend does nothing; none when the server cannot be
        asked."""
        asked = dict(self._silent)
        connection = None
        try:
            async with asyncio.timeout(_PATIENCE):
                connection = await self._connect()
                rows = await connection.fetch(_AT_WORK, list(asked.values()))
        except (*BROKEN, asyncpg.PostgresError):
            return set()
        finally:
            if connection is not None:
                connection.terminate()
        at_work = {row["pid"] for row in rows}
        return {silent for silent, pid in asked.items() if pid not in at_work}
