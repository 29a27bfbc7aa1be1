"""Middleware for every request: a request id, error bodies in one shape, metrics, a sampled access
log, and CORS for the agent API."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from time import perf_counter

from aiohttp import web

from server.gateway import Refused, Unavailable
from server.http.app_keys import CONFIG, REQUEST_ID, STOPPING
from server.http.errors import ApiError, error_response, from_refused, known_error, unavailable
from server.observe import metrics, telemetry

_ACCESS = logging.getLogger("server.access")
_LOG = logging.getLogger(__name__)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_CODES = {
    400: "malformed_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    499: "client_gone",  # aiohttp_server.ClientGone
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def around_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives the request an id, turns every error into an answer, counts the request and logs it."""
    started = perf_counter()
    presented = request.headers.get("X-Request-ID")
    if presented is None or not _REQUEST_ID.fullmatch(presented):
        # The id must be unique, but it may be guessed; secure randomness would cost a system call.
        presented = f"{random.getrandbits(128):032x}"
    request[REQUEST_ID] = presented
    metrics.HTTP_IN_PROGRESS.inc()
    try:
        if telemetry.tracer is None:
            response = await _answer(request, handler)
        else:
            response = await telemetry.tracer.serve(request, handler, _answer, request_id=presented)
    finally:
        metrics.HTTP_IN_PROGRESS.dec()
    headers = response.headers
    headers["X-Request-ID"] = presented
    if request.app[STOPPING].is_set():
        response.force_close()
    if "Origin" in request.headers:
        # Any page may call with an API key of its own. Cookies are never accepted here.
        headers["Access-Control-Allow-Origin"] = "*"
        headers["Access-Control-Expose-Headers"] = (
            "X-Request-ID, X-Existing-Charge-ID, X-Existing-Credit-ID, Idempotent-Replayed,"
            " Retry-After"
        )
    _observe(request, response, perf_counter() - started)
    return response


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return error_response(request, error)
    except Refused as error:
        return error_response(request, from_refused(error))
    except Unavailable as error:
        _LOG.warning("unavailable: %s", error, extra={"request_id": request[REQUEST_ID]})
        return error_response(request, unavailable(error.retry_after))
    except web.HTTPException as error:
        return await _http_exception(request, error)
    except Exception:
        _LOG.exception("unhandled error", extra={"request_id": request[REQUEST_ID]})
        return error_response(request, known_error("internal_error"))


async def _http_exception(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    if error.status < 400:
        return error
    if error.status == 404 and await _exists_without_slash(request):
        location = request.rel_url.raw_path.rstrip("/")
        if request.rel_url.raw_query_string:
            location += "?" + request.rel_url.raw_query_string
        return web.Response(status=307, headers={"Location": location})
    detail: str = error.reason
    headers: dict[str, str] = {}
    if isinstance(error, web.HTTPMethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        if request.method == "OPTIONS":
            return _preflight(headers["Allow"])
    elif isinstance(error, web.HTTPRequestEntityTooLarge):
        limit = request.app[CONFIG].max_body_bytes
        return error_response(request, known_error("body_too_large", limit=limit))
    code = _CODES.get(error.status, "http_error")
    return error_response(request, ApiError(error.status, code, detail, headers=headers))


async def _exists_without_slash(request: web.Request) -> bool:
    """Whether the path without its final slash is one of ours."""
    path = request.rel_url.raw_path.rstrip("/")
    if not path or path == request.rel_url.raw_path:
        return False
    other = request.clone(rel_url=request.rel_url.with_path(path, encoded=True))
    match = await request.app.router.resolve(other)
    return match.http_exception is None or match.http_exception.status == 405


def _preflight(allow: str) -> web.Response:
    return web.Response(
        status=200,
        headers={
            "Allow": allow,
            "Access-Control-Allow-Origin": "*",
            "Access-Control-Allow-Methods": allow,
            "Access-Control-Allow-Headers": (
                "X-API-Key, Content-Type, Idempotency-Key, X-Request-ID, traceparent"
            ),
            "Access-Control-Max-Age": "600",
        },
    )


def _labels(method: str, resource: web.AbstractResource | None) -> tuple[str, str]:
    """The method and the route template; both are of a closed set."""
    endpoint = resource.canonical if resource is not None else "unmatched"
    return method if method in _METHODS else "other", endpoint


@lru_cache(1024)  # the cache is bounded, because a client may send any method
def _series(
    method: str, resource: web.AbstractResource | None, status: int
) -> tuple[metrics.Counter, metrics.Histogram]:
    labels = _labels(method, resource)
    return metrics.count_http(*labels, str(status)), metrics.time_http(*labels)


def _observe(request: web.Request, response: web.StreamResponse, seconds: float) -> None:
    resource = request.match_info.route.resource
    answered, duration = _series(request.method, resource, response.status)
    answered.inc()
    duration.observe(seconds)
    sample = request.app[CONFIG].access_log_sample
    if response.status >= 500 or (sample and random.random() < sample):  # noqa: S311
        method, endpoint = _labels(request.method, resource)
        _ACCESS.info(
            "request",
            extra={
                "request_id": request[REQUEST_ID],
                "method": method,
                "endpoint": endpoint,
                "status": response.status,
                "milliseconds": round(seconds * 1000, 2),
            },
        )
