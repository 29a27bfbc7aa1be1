"""GET /, /health and /metrics (contract.md 6)."""

import asyncio
import ipaddress
from datetime import UTC, datetime
from typing import Annotated, Literal

from aiohttp import web
from typing_extensions import TypedDict

from server.gateway import DatabaseFault, ReadOnly, Refused, Unavailable
from server.http import fields as f
from server.http.answers import Inline
from server.http.app_keys import CONFIG, GATEWAY
from server.http.errors import ApiError, json_response
from server.http.example_values import REQUEST_ID
from server.http.route import ErrorAnswer, Example
from server.observe import metrics
from server.public.introduction import TITLE
from server.resources import latest_step


class ServiceInfo(TypedDict):
    """The service and its version."""

    service: Annotated[str, f.means("Its name.")]
    version: Annotated[str, f.means("The version of the wire contract.")]
    status: Annotated[str, f.STATE]


class Health(TypedDict):
    """The service can serve requests."""

    status: Annotated[Literal["healthy"], f.STATE]
    database: Annotated[Literal["connected"], f.means("Whether the database answers.")]
    timestamp: Annotated[datetime, f.WHEN]


class Unfitness(TypedDict):
    """Why the service cannot serve requests."""

    status: Annotated[Literal["unhealthy"], f.STATE]
    database: Annotated[
        Literal["connected", "disconnected"], f.means("Whether the database answers.")
    ]
    error: Annotated[str, f.means("What is the matter.")]
    timestamp: Annotated[datetime, f.WHEN]


class Unhealthy(TypedDict):
    """The service cannot serve requests."""

    detail: Annotated[Unfitness, Inline(), f.means("What is the matter.")]
    code: Annotated[Literal["unhealthy"], f.CODE]
    request_id: Annotated[str, f.REQUEST_ID]


_HEALTH_TIMEOUT = 0.9

# This version is a constant of the wire contract that clients know. /openapi.json has the release's
# version.
_INFO: ServiceInfo = {"service": TITLE, "version": "0.1.0", "status": "running"}
ROOT = Example(_INFO)
HEALTH = Example(
    {
        "status": "healthy",
        "database": "connected",
        "timestamp": "2026-11-22T10:24:00.948849+00:00",
    }
)
UNHEALTHY = ErrorAnswer(
    "unhealthy",
    Unhealthy,
    {
        "detail": {
            "status": "unhealthy",
            "database": "disconnected",
            "error": "the database does not answer",
            "timestamp": "2026-11-22T10:24:00.948849+00:00",
        },
        "code": "unhealthy",
        "request_id": REQUEST_ID,
    },
    status=503,
)


async def get_root(request: web.Request) -> web.StreamResponse:
    """Names the service and the version of the wire contract."""
    return json_response(200, _INFO)


async def get_health(request: web.Request) -> web.StreamResponse:
    """For load balancers: 200 when the database answers within a second and has the schema that
    this release needs, 503 otherwise."""
    gateway = request.app[GATEWAY]
    problem = ""
    database: Literal["connected", "disconnected"] = "disconnected"
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
        health: Health = {"status": "healthy", "database": "connected", "timestamp": now}
        return json_response(200, health)
    detail: Unfitness = {
        "status": "unhealthy",
        "database": database,
        "error": problem,
        "timestamp": now,
    }
    raise ApiError(503, "unhealthy", detail, headers={"Retry-After": "1"})


async def prometheus(request: web.Request) -> web.StreamResponse:
    """Returns the metrics of all worker processes, for machines in private networks only."""
    if not _is_internal(request):
        raise web.HTTPNotFound
    if request.app[CONFIG].workers > 1:
        # By then the counts of the other processes are known.
        await asyncio.sleep(2 * metrics.FLUSH_SECONDS)
    metrics.flush()
    body = await asyncio.to_thread(metrics.render)
    return web.Response(body=body, headers={"Content-Type": metrics.CONTENT_TYPE})


def _is_internal(request: web.Request) -> bool:
    """Whether the request came directly from a loopback or private address; a request that a proxy
    forwarded is from outside."""
    if "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
        return False
    try:
        address = ipaddress.ip_address(request.remote or "")
    except ValueError:
        return False
    return address.is_private or address.is_loopback
