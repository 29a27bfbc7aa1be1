"""The keys under which shared objects are stored on the application and the request. An object of
one package alone has its key beside its class."""

from __future__ import annotations

import asyncio

from aiohttp import web

from server.config import ServeConfig
from server.gateway import Gateway
from server.http.route import Section

CONFIG = web.AppKey("config", ServeConfig)
GATEWAY = web.AppKey("gateway", Gateway)
ROUTE_TABLE: web.AppKey[tuple[Section, ...]] = web.AppKey("route_table")

# Set when the process stops accepting connections. A client that is answered after that must use a
# new connection.
STOPPING = web.AppKey("stopping", asyncio.Event)

REQUEST_ID = web.RequestKey("request_id", str)
