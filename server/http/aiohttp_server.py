"""How aiohttp speaks HTTP for us. Answers to input that never becomes a request have our error
shape too, and neither they nor the log quote anything that a client sent."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from secrets import token_hex
from time import monotonic
from typing import Any

import orjson
from aiohttp import web
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from server.http.app_keys import STOPPING
from server.observe import metrics

_Handler = Callable[[Any], Awaitable[web.StreamResponse]]

_LOG = logging.getLogger(__name__)
_DRAIN_SECONDS = 1.0
_MALFORMED = "Malformed HTTP request"
_VARIABLE = re.compile(r"\{(\w+)\}")
_ID = re.compile(r"(?<=/)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![^/])")
_SOME_ID = "00000000-0000-4000-8000-000000000000"


class ClientGone(web.HTTPClientError):
    """The client closed its connection before it had sent its whole request. Nobody reads the
    answer. Its status, which nginx uses as well, keeps it out of the count of our own faults."""

    status_code = 499


class _Protocol(RequestHandler):
    __slots__ = ()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Ends a request whose body was cut short, as the client's fault and not as our error. A
        request that waits for the database is not disturbed: its work is finished."""
        super().connection_lost(exc if self._current_request is None else ClientGone())

    def data_received(self, data: bytes) -> None:
        """Works as aiohttp's method, which has a malformed request answered after the current one.
        But when the current request's own body is malformed, aiohttp would wait for the rest of it
        until the client gives up; here that request ends at once."""
        super().data_received(data)
        if not self._messages or not isinstance(self._messages[-1][0], _ErrInfo):
            return
        request = self._current_request
        if request is not None and not request.content.is_eof():
            self._lingering_time = 0.0  # nothing more can be read from this connection
            request.content.set_exception(web.HTTPBadRequest(reason=_MALFORMED))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what the parser refused. The parser's message is dropped: it quotes the faulty
        header, which may be an API key."""
        request_id = token_hex(16)
        if status >= 500:
            _LOG.error("unhandled error", exc_info=exc, extra={"request_id": request_id})
        else:
            reason = type(exc).__name__
            _LOG.info("malformed request: %s", reason, extra={"request_id": request_id})
        code = "internal_error" if status >= 500 else "malformed_request"
        metrics.count_http("other", "unmatched", str(status)).inc()
        metrics.count_error(code).inc()
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was under way")
        body = {
            "detail": "Internal Server Error" if status >= 500 else _MALFORMED,
            "code": code,
            "request_id": request_id,
        }
        response = web.Response(
            status=status,
            body=orjson.dumps(body),
            content_type="application/json",
            headers={"X-Request-ID": request_id},
        )
        response.force_close()
        return response


class _KnownPaths:
    """The results of aiohttp's router and middlewares, kept for paths without variables, and for
    those whose only variable is a UUID. Other paths, URLs with a query, and requests with an Expect
    header take aiohttp's own way."""

    def __init__(self, app: web.Application, general: _Handler) -> None:
        self._app = app
        self._general = general
        self._fixed: dict[tuple[str, str], tuple[web.UrlMappingMatchInfo, _Handler]] = {}
        self._of_ids: dict[tuple[str, str], tuple[web.AbstractRoute, str, _Handler]] = {}
        patterns = {
            resource.canonical: pattern
            for resource in app.router.resources()
            if (pattern := resource.get_info().get("pattern"))
        }
        for route in app.router.routes():
            resource = route.resource
            handler: _Handler = route.handler
            for middleware in reversed(app.middlewares):
                handler = partial(middleware, handler=handler)
            if isinstance(resource, web.PlainResource):
                match = self._match({}, route)
                self._fixed[route.method, resource.canonical] = match, handler
            elif isinstance(resource, web.DynamicResource):
                names = _VARIABLE.findall(resource.canonical)
                if len(names) > 1:
                    continue
                path = _VARIABLE.sub(_SOME_ID, resource.canonical)
                fitting = {name for name, pattern in patterns.items() if pattern.fullmatch(path)}
                if fitting == {resource.canonical}:  # no other route could be meant
                    path = _VARIABLE.sub("{}", resource.canonical)
                    self._of_ids[route.method, path] = route, names[0], handler

    def _match(self, variables: dict[str, str], route: web.AbstractRoute) -> Any:
        match = web.UrlMappingMatchInfo(variables, route)
        match.add_app(self._app)
        match.freeze()
        return match

    def __call__(self, request: Any) -> Awaitable[web.StreamResponse]:
        path: str = request.raw_path
        if "Expect" in request.headers:
            return self._general(request)
        fixed = self._fixed.get((request.method, path))
        if fixed is not None:
            request._match_info, handler = fixed
            return handler(request)
        id_found = _ID.search(path)
        if id_found is not None:
            path = f"{path[: id_found.start()]}{{}}{path[id_found.end() :]}"
            known = self._of_ids.get((request.method, path))
            if known is not None:
                route, name, handler = known
                request._match_info = self._match({name: id_found[0]}, route)
                return handler(request)
        return self._general(request)


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """An AppRunner whose connections behave as described above."""

    __slots__ = ()

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        # aiohttp makes its server inside the application and offers no way to choose its class.
        server.__class__ = _Server
        server.request_handler = _KnownPaths(self.app, server.request_handler)
        return server

    async def cleanup(self) -> None:
        """Stops. A client that connected before we stopped listening is still answered: a proxy
        goes to the next server when a connection is refused, but not once it has sent a request."""
        if self.server is not None:
            self.app[STOPPING].set()  # from now on answers close their connections
            await self._stop_listening(self.server)
            await _drain(self.server)
        await super().cleanup()

    async def _stop_listening(self, server: web.Server) -> None:
        loop = asyncio.get_running_loop()
        for site in list(self.sites):
            listener = getattr(site, "_sock", None)  # aiohttp does not publish it
            waiting = _accept_backlog(listener) if listener is not None else []
            await site.stop()  # this closes the listener at once: nobody can connect in between
            for connection in waiting:
                await loop.connect_accepted_socket(server, connection)


def _accept_backlog(listener: socket.socket) -> list[socket.socket]:
    """Accept the connections in the listener's backlog: closing the listener would reset them."""
    waiting = []
    try:
        while True:
            waiting.append(listener.accept()[0])
    except OSError:  # the backlog is empty
        return waiting


async def _drain(server: web.Server) -> None:
    """Give a request that is on its way a moment to arrive. It is answered, and its connection is
    closed after the answer. If idle connections were closed at once, a charge that a proxy is just
    sending on one of them would be lost."""
    deadline = monotonic() + _DRAIN_SECONDS
    while True:
        # This comes first, since a connection that was just accepted is not in the list yet.
        # aiohttp offers no event for a connection that has ended.
        await asyncio.sleep(0.02)
        if not server.connections or monotonic() > deadline:
            return


async def ignore_other_expectations(request: web.Request) -> None:
    """Answers `Expect: 100-continue` and ignores every other expectation."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # These bytes are not part of the answer.
        request.writer.output_size = 0
