"""A receiver of alerts as somebody else would write it: aiohttp, and the library of Standard
Webhooks to verify what arrives. It can be told to misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from tests.support import free_port, wait_for

Behaviour = int | str  # a status, or "hang", "reset", "redirect", "flood"


@dataclass
class Receiver:
    """What it has received, and what it answers: the next of `behaviours`, or else 204."""

    port: int
    secrets: list[str] = field(default_factory=list)
    behaviours: list[Behaviour] = field(default_factory=list)
    accepted: list[dict[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)  # of all requests, in their order
    refused: int = 0
    elsewhere: int = 0  # requests to where a redirect leads
    hold: threading.Event = field(default_factory=threading.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/billing"

    def verified(self, headers: dict[str, str], body: bytes) -> dict[str, Any] | None:
        """The alert, if one of the secrets signed it."""
        for secret in self.secrets:
            with contextlib.suppress(WebhookVerificationError):
                alert: dict[str, Any] = Webhook(secret).verify(body, headers)
                return alert
        return None

    def wait(self, count: int) -> list[dict[str, Any]]:
        """The alerts, once there are this many."""
        wait_for(lambda: len(self.accepted) >= count, f"{count} alerts, not {self.accepted}")
        return self.accepted

    async def receive(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        alert = self.verified(dict(request.headers), body)
        if alert is None:
            self.refused += 1
            return web.Response(status=401)
        self.ids.append(request.headers["webhook-id"])
        behaviour = self.behaviours.pop(0) if self.behaviours else 204
        if behaviour == "hang":
            await self.ended.wait()
        if behaviour == "reset":
            assert request.transport is not None
            request.transport.abort()
        if behaviour == "redirect":
            raise web.HTTPFound(f"http://127.0.0.1:{self.port}/elsewhere")
        if behaviour == "flood":
            return await self._flood(request)
        if behaviour == "hold":  # it answers when the test says so
            self.accepted.append(alert)
            await asyncio.to_thread(self.hold.wait, 60)
            return web.Response(status=204)
        if isinstance(behaviour, int):
            if 200 <= behaviour < 300:
                self.accepted.append(alert)
            return web.Response(status=behaviour)
        return web.Response(status=500)

    async def _flood(self, request: web.Request) -> web.StreamResponse:
        """An answer without end."""
        answer = web.StreamResponse(status=500)
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await answer.write(b"x" * 65536)
        return answer

    async def lead_elsewhere(self, request: web.Request) -> web.StreamResponse:
        self.elsewhere += 1
        return web.Response(status=204)


@contextlib.contextmanager
def running_receiver() -> Iterator[Receiver]:
    """A receiver on a free port of 127.0.0.1, until the end of the block."""
    receiver = Receiver(free_port())
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/billing", receiver.receive)
        app.router.add_route("*", "/elsewhere", receiver.lead_elsewhere)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", receiver.port).start()
        ready.set()
        await receiver.ended.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(10)
    try:
        yield receiver
    finally:
        receiver.hold.set()
        loop.call_soon_threadsafe(receiver.ended.set)
        thread.join(20)
        loop.close()
