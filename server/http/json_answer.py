"""JSON answers. aiohttp needs a dozen calls to write one. A plain answer, as nearly all are, is
composed here at once, byte for byte the same."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from time import time

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import SERVER_SOFTWARE, HttpVersion11

JSON = "application/json"


class JsonAnswer(web.Response):
    """A JSON answer without a charset in its content type, as clients have always received it."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status=status, body=body, content_type=JSON, headers=headers)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Writes the answer if it is a plain one: the connection stays open, and there is a body to
        send. aiohttp writes the others, or refuses them for what their headers contain."""
        body, headers = self.body, self.headers
        fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if (
            request.version != HttpVersion11
            or not request.keep_alive
            or self.keep_alive is False
            or request.method == "HEAD"
            or not isinstance(body, bytes)
            or self._cookies
            or not "".join(headers.values()).isprintable()
        ):
            return await super().prepare(request)
        self._keep_alive = self._eof_sent = True  # aiohttp reads both after this method returns
        head = (
            f"HTTP/1.1 {self.status} {self.reason}\r\n{fields}"
            f"Content-Length: {len(body)}\r\n{_date_and_server(int(time()))}\r\n\r\n"
        )
        await request.writer.write(head.encode() + body)
        await request.writer.drain()
        return None


@lru_cache(1)
def _date_and_server(second: int) -> str:
    return f"Date: {formatdate(second, usegmt=True)}\r\nServer: {SERVER_SOFTWARE}"
