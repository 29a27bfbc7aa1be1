"""GET /, /health and /metrics (contract.md 6)."""

from __future__ import annotations

import asyncio
import ipaddress
from datetime import UTC, datetime

from aiohttp import web

from server.gateway import DatabaseFault, ReadOnly, Refused, Unavailable
from server.http.app_keys import CONFIG, GATEWAY
from server.http.errors import ApiError, json_response
from server.observe import metrics
from server.resources import latest_step

_HEALTH_TIMEOUT = 0.9

# The version is a constant of the wire contract that clients know; /openapi.json has the release's.
ROOT = {"service": "CIRIS Billing API", "version": "0.1.0", "status": "running"}


async def root(request: web.Request) -> web.StreamResponse:
    """Says what answers here."""
    return json_response(200, ROOT)


async def health(request: web.Request) -> web.StreamResponse:
    """200 when the database, on the connections that charges use, answers within a second, has the
    schema this release needs, and can take a charge."""
    gateway = request.app[GATEWAY]
    problem = ""
    database = "disconnected"
    try:
        async with asyncio.timeout(_HEALTH_TIMEOUT):
            step = await gateway.get_schema_version()
            database = "connected"
            if step < latest_step():
                problem = (
                    "the database schema is older than this release: run ciris-billing migrate"
                )
            else:
                await gateway.try_writing()
    except ReadOnly:
        problem = "the database cannot write: it is a standby, or made read-only"
    except (Unavailable, Refused, DatabaseFault, TimeoutError):
        problem = {
            "connected": "the database cannot take a charge",
            "disconnected": "the database does not answer",
        }[database]
    now = datetime.now(UTC)
    if not problem:
        return json_response(200, {"status": "healthy", "database": database, "timestamp": now})
    detail = {"status": "unhealthy", "database": database, "error": problem, "timestamp": now}
    raise ApiError(503, "unhealthy", detail, headers={"Retry-After": "1"})


async def prometheus(request: web.Request) -> web.StreamResponse:
    """The metrics of all worker processes, for machines of the house only."""
    if not _is_internal(request):
        raise web.HTTPNotFound
    if request.app[CONFIG].workers > 1:
        await asyncio.sleep(2 * metrics.FLUSH_SECONDS)  # what others have counted is known then
    metrics.flush()
    body = await asyncio.to_thread(metrics.render)
    return web.Response(body=body, headers={"Content-Type": metrics.CONTENT_TYPE})


def _is_internal(request: web.Request) -> bool:
    """Asked directly, from a loopback or private address: what a proxy forwards is from outside."""
    if "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
        return False
    try:
        address = ipaddress.ip_address(request.remote or "")
    except ValueError:
        return False
    return address.is_private or address.is_loopback
