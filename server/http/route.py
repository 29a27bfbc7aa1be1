"""One line of the route table, and the words for who may pass."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from pydantic import BaseModel

PUBLIC = "public"
INTERNAL = "internal"  # private addresses only, and never through the proxy
PAGE = "page"  # of the console, for signed-in staff; redirects others to the sign-in page
OPEN_PAGE = "open page"  # of the console, on the way to signing in
STAFF = "staff"  # a bearer token of a staff member, or their browser session
SIGNED = "signed"  # by the payment provider, with the webhook's secret

RequestHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One URL. `guard` is one of the words above, or the permission an API key needs."""

    method: str
    path: str
    guard: str
    handler: RequestHandler
    summary: str
    body: type[BaseModel] | None = None
    parameters: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    success: int = 200
    idempotent: bool = False
