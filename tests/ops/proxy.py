"""A TCP proxy in front of a PostgreSQL of the tests, with faults of a network: it stops delivering
without closing anything, and can lead to another server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp

from tests.support import Database, Service, running_service

_PIECE = 65536


def socket_of(dsn: str) -> str:
    """The Unix socket of a test cluster's DSN."""
    query = {name: values[0] for name, values in parse_qs(urlsplit(dsn).query).items()}
    return str(Path(query["host"], f".s.PGSQL.{query['port']}"))


@dataclass
class TcpProxy:
    """Forwards connections to the socket `upstream`. Connections in `lost` no longer deliver; those
    in `mute` deliver requests and none of the answers. While `loses_new` is set, new connections do
    not deliver either. While `cuts_answers` is set, each connection breaks in the middle of its
    next answer."""

    upstream: str
    port: int = 0
    loses_new: bool = False
    cuts_answers: bool = False
    accepted: int = 0
    present: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    mute: set[int] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def url(self, dsn: str) -> str:
        """The URL that leads through the proxy to the database of `dsn`."""
        there = urlsplit(dsn)
        return f"postgresql://{there.netloc}127.0.0.1:{self.port}{there.path}"

    def lose_present(self) -> int:
        """Delivers nothing any more on the present connections, and closes none. Returns how many
        there are."""
        self.lost |= self.present
        return len(self.present)

    def mute_present(self) -> None:
        """Delivers no more answers on the present connections."""
        self.mute |= self.present

    def cut(self) -> None:
        """Closes the present connections."""
        for task in self._tasks:
            task.cancel()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[TcpProxy]:
        """Listens on 127.0.0.1 until the block ends."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.create_task(self._pass_on(self.accepted, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.present.add(number)
        if self.loses_new:
            self.lost.add(number)
        try:
            their_reader, their_writer = await asyncio.open_unix_connection(self.upstream)
        except OSError:  # PostgreSQL is not running
            writer.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_requests(number, reader, their_writer))
                both.create_task(self._pass_answers(number, their_reader, writer))
        except* (OSError, EOFError):
            pass
        finally:
            self.present.discard(number)
            writer.transport.abort()
            their_writer.transport.abort()

    async def _pass_requests(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while piece := await reader.read(_PIECE):
            if number not in self.lost:
                writer.write(piece)
        await self._end(number in self.lost)

    async def _pass_answers(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while piece := await reader.read(_PIECE):
            if number in self.lost | self.mute:
                continue
            if self.cuts_answers:
                writer.write(piece[: len(piece) // 2])
                await writer.drain()
                raise EOFError
            writer.write(piece)
        await self._end(number in self.lost | self.mute)

    async def _end(self, is_lost: bool) -> None:
        if is_lost:  # the end of the connection is not delivered either
            await asyncio.Event().wait()
        raise EOFError


@contextlib.asynccontextmanager
async def service_behind(
    proxy: TcpProxy, database: Database, **environment: Any
) -> AsyncIterator[tuple[Service, aiohttp.ClientSession]]:
    """A server that reaches its database through the proxy, and a client of that server."""
    url = proxy.url(database.dsn("t_web"))
    entered = contextlib.ExitStack()
    service = await asyncio.to_thread(
        entered.enter_context, running_service(database, DATABASE_URL=url, **environment)
    )
    try:
        async with aiohttp.ClientSession(
            service.base_url,
            headers={"X-API-Key": service.key.secret},
            connector=aiohttp.TCPConnector(limit=0),
        ) as session:
            yield service, session
    finally:
        await asyncio.to_thread(entered.close)
