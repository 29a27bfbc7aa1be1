"""Pools of connections for tests, and their open connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from server.gateway.pool import Pool
from tests.support import (
    Database,
)

PATIENCE = 1.0  # opening twenty connections at once takes a while on a busy machine


def new_pool(kind: Callable[..., Pool], url: str, size: int = 1, **options: Any) -> Pool:
    patience = {"connect_timeout": PATIENCE, "statement_timeout": PATIENCE}
    return kind(url, size, **{**patience, "lock_timeout": PATIENCE, **options})


PID = "SELECT pg_backend_pid()"


async def backend_pid(pool: Pool, connection: Any) -> int:
    return int((await pool.fetch(connection, PID))[0][0])


async def open_connections(pool: Pool, count: int) -> set[int]:
    """Makes the pool open `count` connections; returns the server's process ids."""
    all_of_them = asyncio.Barrier(count)

    async def one() -> int:
        async with pool.connection() as connection:
            await all_of_them.wait()
            return await backend_pid(pool, connection)

    return set(await asyncio.gather(*(one() for _ in range(count))))


def alive_backends(database: Database, pids: set[int]) -> set[int]:
    rows = database.execute("SELECT pid FROM pg_stat_activity WHERE pid = ANY (%s)", list(pids))
    return {pid for (pid,) in rows}
