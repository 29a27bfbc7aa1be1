"""Errors as the client sees them: `detail` has the wording of the wire contract, `code` is for
programs, and `request_id` is for asking us what happened (contract.md 1 and 10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from server.gateway import Refused
from server.http.app_keys import REQUEST_ID
from server.http.error_codes import ERROR_CODES
from server.http.json_answer import JsonAnswer
from server.observe import metrics
from server.observe.coded_error import CodedError


class ApiError(CodedError):
    """An answer other than success. `detail` is a string, or the list of a 422; `extra` are
    further fields of the body."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: Any,
        *,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers or {}
        self.extra = extra or {}


def json_response(status: int, body: Any, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return JsonAnswer(status, orjson.dumps(body, default=str), headers)


def error_body(request_id: str, error: ApiError) -> dict[str, Any]:
    """The body of an error answer."""
    return {"detail": error.detail, "code": error.code, "request_id": request_id, **error.extra}


def error_response(request: web.Request, error: ApiError) -> web.Response:
    """Makes the answer for an error, and counts it."""
    metrics.count_error(error.code).inc()
    return json_response(error.status, error_body(request[REQUEST_ID], error), error.headers)


def unavailable(retry_after: int, detail: str | None = None) -> ApiError:
    """503: try again in `retry_after` seconds."""
    error = known_error("unavailable", headers={"Retry-After": str(retry_after)})
    error.detail = detail or error.detail
    return error


def known_error(code: str, *, headers: Mapping[str, str] | None = None, **values: Any) -> ApiError:
    """The error of this code as error_codes.py words it. `values` fill the placeholders."""
    known = ERROR_CODES[code]
    return ApiError(known.status, code, known.detail.format_map(values), headers=headers)


def validation_error(
    entries: list[dict[str, Any]], extra: Mapping[str, Any] | None = None
) -> ApiError:
    """422 with one entry per failing field."""
    return ApiError(422, "validation_error", entries, extra=extra)


def from_refused(error: Refused) -> ApiError:
    """The answer that says a refusal: the one place where a slug becomes HTTP."""
    return ApiError(error.status, error.slug, error.message, headers=_refusal_headers(error.status))


def _refusal_headers(status: int) -> Mapping[str, str]:
    if status == 401:
        return {"WWW-Authenticate": "ApiKey"}
    if status == 503:
        return {"Retry-After": "1"}
    return {}
