"""Where things hang on the application and the request; the only module that defines such keys."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from server.agent.guard import Guard
    from server.config import ServeConfig
    from server.gateway import Gateway
    from server.http.route import Route
    from server.payments.payments import Payments
    from server.staff.identity_provider import IdentityProvider
    from server.staff.limiter import Limiter
    from server.staff.sessions import Cookies

CONFIG: web.AppKey[ServeConfig] = web.AppKey("config")
GATEWAY: web.AppKey[Gateway] = web.AppKey("gateway")
GUARD: web.AppKey[Guard] = web.AppKey("guard")
COOKIES: web.AppKey[Cookies] = web.AppKey("cookies")
IDENTITY_PROVIDER: web.AppKey[IdentityProvider] = web.AppKey("identity_provider")
LIMITER: web.AppKey[Limiter] = web.AppKey("limiter")
ROUTE_TABLE: web.AppKey[tuple[Route, ...]] = web.AppKey("route_table")
PAYMENTS: web.AppKey[Payments] = web.AppKey("payments")

# Set once the process stops accepting: who is answered then must come back on a new connection.
STOPPING: web.AppKey[asyncio.Event] = web.AppKey("stopping", asyncio.Event)

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
