"""Connections that break at each step of a call, by a proxy that stands between the pool and a real
PostgreSQL and misbehaves at a message of the test's choice: whichever step it is, the caller hears
that the database is unavailable, no connection stays behind, and the next call is served."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from server.gateway.errors import Unavailable, translate
from server.gateway.pool import Pool
from server.gateway.pooler import TransactionPool
from tests.support import Database

PATIENCE = 1.0  # on a busy machine twenty connections at once take a while
QUESTION = "SELECT current_user::text AS role, current_setting('billing.client_address', true)"
CLIENT = ("192.0.2.7", "a browser")
_FIELDS = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
SHUTDOWN = b"E" + struct.pack("!I", 4 + len(_FIELDS)) + _FIELDS


@dataclass
class Interposer:
    """Passes everything on, until the server has said `ready_times` times that it is ready for a
    query; then the fault, on that first connection alone."""

    fault: str
    ready_times: int
    upstream: str
    connections: int = 0
    struck: bool = False
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the pool."""
        self.connections += 1
        first = self.connections == 1
        self.tasks.add(asyncio.create_task(self._pass_on(reader, writer, first)))

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bool
    ) -> None:
        their_reader, their_writer = await asyncio.open_unix_connection(self.upstream)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._copy_requests(reader, their_writer))
                both.create_task(self._copy_answers(their_reader, writer, first))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            their_writer.close()

    async def _copy_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while piece := await reader.read(65536):
            writer.write(piece)
        raise ConnectionResetError

    async def _copy_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bool
    ) -> None:
        ready = 0
        while True:
            head = await reader.readexactly(5)
            message = head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
            ready += head[:1] == b"Z"
            if first and ready == self.ready_times:
                self.struck = True
                if self.fault == "instead":  # of this answer: the connection ends
                    raise ConnectionResetError
                # In one piece, so that the client has read the farewell before it asks again.
                writer.write(message + (SHUTDOWN if self.fault == "farewell" else b""))
                if self.fault == "cut":
                    raise ConnectionResetError
                await asyncio.Event().wait()  # silent from here on
            writer.write(message)


@contextlib.asynccontextmanager
async def interposed(database: Database, fault: str, ready_times: int) -> AsyncIterator[Any]:
    """An Interposer before `database`, and the URL that leads through it."""
    there = urlsplit(database.dsn("t_web"))
    query = {name: values[0] for name, values in parse_qs(there.query).items()}
    socket = f".s.PGSQL.{query['port']}"
    with tempfile.TemporaryDirectory(prefix="ciris-test-") as folder:
        between = Interposer(fault, ready_times, str(Path(query["host"], socket)))
        server = await asyncio.start_unix_server(between.serve, str(Path(folder, socket)))
        try:
            yield between, f"postgresql://t_web@{there.path}?host={folder}&port={query['port']}"
        finally:
            server.close()
            for task in between.tasks:
                task.cancel()
            await asyncio.gather(*between.tasks, return_exceptions=True)


def _pool(kind: Callable[..., Pool], url: str) -> Pool:
    return kind(
        url,
        1,
        connect_timeout=PATIENCE,
        statement_timeout=PATIENCE,
        lock_timeout=PATIENCE,
    )


async def _call(pool: Pool, way: str) -> Any:
    try:
        async with asyncio.timeout(10), pool.connection() as connection:
            if way == "for staff":
                return await pool.fetch_for(connection, CLIENT, QUESTION)
            return await pool.fetch(connection, QUESTION)
    except asyncpg.PostgresError as error:
        raise translate(error) from None  # as the gateway does


async def _at_step(
    database: Database, kind: Callable[..., Pool], way: str, fault: str, step: int
) -> str | None:
    """The name of what the first call raised; None when the fault's step is beyond its end."""
    async with interposed(database, fault, step) as (between, url):
        pool = _pool(kind, url)
        raised = None
        try:
            await _call(pool, way)
        except Unavailable as error:
            raised = type(error).__name__
        if not between.struck:
            assert raised is None
            await pool.close()
            return None
        # The fault may strike behind the last statement; then the next caller meets it.
        for _ in range(2):
            try:
                rows = await _call(pool, way)
            except Unavailable as error:
                assert raised is None
                raised = type(error).__name__
            else:
                break
        address = CLIENT[0] if way == "for staff" else None
        assert [tuple(row) for row in rows] == [("billing_server", address)]
        assert pool.in_use == 0
        await pool.close()
        return raised or "nothing"


@pytest.mark.parametrize("fault", ["farewell", "cut", "instead", "silence"])
@pytest.mark.parametrize("way", ["for agents", "for staff"])
@pytest.mark.parametrize("kind", [Pool, TransactionPool])
async def test_a_connection_that_breaks_at_any_step_is_unavailable_and_replaced(
    database: Database, kind: Callable[..., Pool], way: str, fault: str
) -> None:
    ends = await asyncio.gather(
        *(_at_step(database, kind, way, fault, step) for step in range(1, 20))
    )
    print(ends)
    struck = [end for end in ends if end is not None]
    assert ends == struck + [None] * (len(ends) - len(struck))
    assert 3 <= len(struck) < len(ends)
    assert set(struck) <= {"Unavailable", "ConnectionLost"}
    # While the connection is set up nothing was asked, so nothing can be unknown.
    assert struck[0] == "Unavailable"
