"""GET /openapi.json, the pages that show it, /llms.txt, and the static files of all pages."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

import aiohttp_jinja2
import jinja2
import orjson
from aiohttp import web

from server.http import fields as f
from server.http.app_keys import ROUTE_TABLE
from server.http.json_answer import JSON
from server.http.route import Example, Section
from server.public.docs_view import PAGES, in_short, plain_text, view
from server.public.introduction import TITLE
from server.public.openapi import document
from server.resources import resource_folder

OpenApi = Annotated[dict[str, Any], f.means("An OpenAPI document.")]

OPENAPI = Example({"openapi": "3.1.0", "info": {"title": TITLE}})
AUDIENCE = Example(values={"audience": "agents"})
STATIC_FILE = Example(values={"name": "base.css"})

_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_SCRIPTED_HEADERS = {
    **_PAGE_HEADERS,
    "Content-Security-Policy": _PAGE_HEADERS["Content-Security-Policy"]
    + "; script-src 'self'; connect-src 'self'",
}


async def get_openapi(request: web.Request) -> web.StreamResponse:
    """This description as OpenAPI 3.1, for generating clients and for agents to read."""
    body = await asyncio.to_thread(_document_json, request.app[ROUTE_TABLE])
    return web.Response(body=body, content_type=JSON)


async def get_docs(request: web.Request) -> web.StreamResponse:
    """The same description as a page for people. The page needs no script."""
    return await _page(request, "", _PAGE_HEADERS)


async def get_docs_for(request: web.Request) -> web.StreamResponse:
    """The calls of one audience: `agents`, `webhooks`, `staff` or `admins`. The page reads whole
    without scripts; with them it can be filtered, copied from and tried against this server."""
    audience = request.match_info["audience"]
    if audience not in PAGES:
        raise web.HTTPNotFound
    return await _page(request, audience, _SCRIPTED_HEADERS)


async def _page(
    request: web.Request, audience: str, headers: Mapping[str, str]
) -> web.StreamResponse:
    environment = aiohttp_jinja2.get_env(request.app)
    html = await asyncio.to_thread(_page_html, environment, request.app[ROUTE_TABLE], audience)
    return web.Response(text=html, content_type="text/html", headers=headers)


async def get_llms_text(request: web.Request) -> web.StreamResponse:
    """The same description in short, as Markdown for language models (llmstxt.org)."""
    text = await asyncio.to_thread(_llms_text, request.app[ROUTE_TABLE])
    return web.Response(text=text, content_type="text/plain")


async def get_static_file(request: web.Request) -> web.StreamResponse:
    """Style sheets and images of the pages."""
    name = request.match_info["name"]  # a plain name of a file in static/
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


# Each is made once, in a thread: it takes a tenth of a second, and charges must not wait for that.
@cache
def _document_json(table: tuple[Section, ...]) -> bytes:
    return orjson.dumps(document(table))


@cache
def _page_html(environment: jinja2.Environment, table: tuple[Section, ...], audience: str) -> str:
    # It contains no text of users, and its examples have line breaks, so finalize is left out.
    plain = environment.overlay(finalize=None)
    plain.filters = {**environment.filters, "plain_text": plain_text}
    return plain.get_template("docs.html").render(view(document(table), audience))


@cache
def _llms_text(table: tuple[Section, ...]) -> str:
    return in_short(document(table))
