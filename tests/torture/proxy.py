"""The network between the server and PostgreSQL: a TCP proxy that can misbehave."""

from __future__ import annotations

import asyncio
import contextlib

_PIECE = 65536


class _Link:
    """One connection. While `swallows_requests` or `swallows_answers` is set, what comes from that
    side is read and thrown away, as by a network that no longer delivers."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.writers = (client, server)
        self.swallows_requests = False
        self.swallows_answers = False

    def abort(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """Listens on 127.0.0.1 and passes connections on to a Unix socket."""

    def __init__(self) -> None:
        self.upstream = ""
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut_answers = False

    async def start(self) -> int:
        """Begins to listen; gives the port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Ends every connection, and listens no more."""
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Ends all connections by a reset."""
        for link in list(self._links):
            link.abort()

    @contextlib.contextmanager
    def cut_answers(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[misc]
        """While the block lasts, a connection breaks in the middle of its next answer."""
        self._cut_answers = True
        try:
            yield
        finally:
            self._cut_answers = False

    def black_hole(self) -> int:
        """From now on the present connections deliver nothing, either way, and say nothing; new
        ones work. Gives how many they are."""
        for link in self._links:
            link.swallows_requests = link.swallows_answers = True
        return len(self._links)

    def half_open(self) -> None:
        """From now on the present connections deliver requests, and none of the answers."""
        for link in self._links:
            link.swallows_answers = True

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, upstream = await asyncio.open_unix_connection(self.upstream)
        except OSError:  # PostgreSQL is away
            writer.transport.abort()
            return
        link = _Link(writer, upstream)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_requests(link, reader, upstream))
                both.create_task(self._pass_answers(link, answers, writer))
        except* (OSError, EOFError):
            pass
        finally:
            link.abort()
            self._links.discard(link)

    async def _pass_requests(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while piece := await reader.read(_PIECE):
            if not link.swallows_requests:
                writer.write(piece)
                await writer.drain()
        raise EOFError

    async def _pass_answers(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while piece := await reader.read(_PIECE):
            if link.swallows_answers:
                continue
            if self._cut_answers:
                writer.write(piece[: len(piece) // 2])
                await writer.drain()
                raise EOFError
            writer.write(piece)
            await writer.drain()
        if link.swallows_answers:  # its end is not delivered either
            await asyncio.Event().wait()
        raise EOFError
