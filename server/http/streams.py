"""Answers that are sent while they are made, so that a long one takes no more memory than a part of
it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping

from aiohttp import web

from server.http.app_keys import REQUEST_ID

_LOG = logging.getLogger(__name__)


async def send_parts(
    request: web.Request,
    parts: AsyncIterator[bytes],
    content_type: str,
    headers: Mapping[str, str],
) -> web.StreamResponse:
    """Sends the parts of an answer as they are made; a slow client is waited for. What fails before
    the first part is answered as any other error. Later the connection is broken off, so that the
    client does not take what it has for the whole."""
    first = await anext(parts)
    response = web.StreamResponse(
        headers={"Content-Type": content_type, "X-Request-ID": request[REQUEST_ID], **headers}
    )
    if "Origin" in request.headers and not request.path.startswith("/admin"):
        response.headers["Access-Control-Allow-Origin"] = "*"
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    try:
        await response.write(first)
        async for part in parts:
            await response.write(part)
        await response.write_eof()
    except ConnectionResetError:
        pass  # the client has gone
    except Exception:
        _LOG.exception("an answer broke off", extra={"request_id": request[REQUEST_ID]})
        if request.transport is not None:
            request.transport.abort()
    return response
