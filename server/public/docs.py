"""GET /openapi.json and the page that shows it, made from the route table and the models, so that
they cannot drift from what is served."""

from __future__ import annotations

import asyncio
import mimetypes
import re
from collections.abc import Iterable, Mapping
from functools import cache
from http import HTTPStatus
from typing import Any

import aiohttp_jinja2
import jinja2
import orjson
from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from server import __version__
from server.http.app_keys import ROUTE_TABLE
from server.http.json_answer import JSON
from server.http.route import INTERNAL, OPEN_PAGE, PAGE, PUBLIC, SIGNED, STAFF, Route
from server.public.answers import (
    ERROR_HEADERS,
    ERROR_SCHEMAS,
    ERRORS,
    FIELDS,
    HEADERS,
    OBJECT,
    SCHEMAS,
    STRING,
    Schema,
    ref,
)
from server.public.docs_view import view
from server.public.operations import (
    ERROR_EXTRAS,
    ERROR_VALUES,
    INTRODUCTION,
    OPERATIONS,
    REQUEST_ID_EXAMPLE,
    TAGS,
    TITLE,
    UNHEALTHY_EXAMPLE,
    Operation,
)
from server.public.staff_answers import STAFF_SCHEMAS
from server.public.staff_operations import STAFF_OPERATIONS
from server.resources import resource_folder

_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


async def openapi(request: web.Request) -> web.StreamResponse:
    """The OpenAPI 3.1 document."""
    body = await asyncio.to_thread(_document_json, request.app[ROUTE_TABLE])
    return web.Response(body=body, content_type=JSON)


async def page(request: web.Request) -> web.StreamResponse:
    """The same as a page that needs no script."""
    environment = aiohttp_jinja2.get_env(request.app)
    html = await asyncio.to_thread(_page_html, environment, request.app[ROUTE_TABLE])
    return web.Response(text=html, content_type="text/html", headers=_PAGE_HEADERS)


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
def document(table: tuple[Route, ...]) -> dict[str, Any]:
    """The OpenAPI document of everything in the route table but what is internal.

    Raises LookupError for a route that nobody has described yet."""
    routes = [route for route in table if route.guard not in (INTERNAL, PAGE, OPEN_PAGE)]
    schemas = _model_schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in sorted(routes, key=_reading_order):
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    only_parameters = {
        model.__name__ for route in routes for model in (route.parameters, route.query) if model
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": __version__, "description": INTRODUCTION},
        "servers": [{"url": "/", "description": "Where this description was read."}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": {
                name: schema for name, schema in schemas.items() if name not in only_parameters
            },
            "headers": dict(HEADERS),
            "securitySchemes": {
                "ApiKeyAuth": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-API-Key",
                    "description": "An API key: `cbk_`, `test_` or `live_`, and 43 characters. It"
                    " has the permissions `billing:read`, `billing:write` or both. Keep it out of"
                    " web pages and repositories.",
                },
                "StripeSignature": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Stripe-Signature",
                    "description": "Made by Stripe from the body, the time and the webhook's"
                    " secret.",
                },
                "StaffToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A staff member's token, good for 24 hours:"
                    " `ciris-billing admins token EMAIL` makes one.",
                },
                "StaffSession": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "admin_token",
                    "description": "The session of a browser whose user signed in to the console."
                    " It changes things only for the console's own pages.",
                },
            },
        },
        "x-error-codes": [
            {"code": code, "status": e.status, "detail": e.detail, "meaning": e.meaning}
            for code, e in ERRORS.items()
        ],
    }


# Each is made once, in a thread: it takes a tenth of a second, and charges do not wait for it.
@cache
def _document_json(table: tuple[Route, ...]) -> bytes:
    return orjson.dumps(document(table))


@cache
def _page_html(environment: jinja2.Environment, table: tuple[Route, ...]) -> str:
    # Nothing in it is a user's, and its examples have line breaks.
    plain = environment.overlay(finalize=None)
    return plain.get_template("docs.html").render(view(document(table)))


def _described(route: Route) -> Operation:
    described = OPERATIONS.get((route.method, route.path))
    described = described or STAFF_OPERATIONS.get((route.method, route.path))
    if described is None:
        raise LookupError(f"{route.method} {route.path} is not described in server/public/")
    return described


def _reading_order(route: Route) -> int:
    return list(TAGS).index(_described(route).tag)


def _is_agents(route: Route) -> bool:
    return route.guard not in (PUBLIC, SIGNED, STAFF)


def _is_signed(route: Route) -> bool:
    return route.guard == SIGNED


def _is_staff(route: Route) -> bool:
    return route.guard == STAFF


def _writes(route: Route) -> bool:
    return route.method != "GET"


def _security(route: Route) -> list[dict[str, list[str]]]:
    if _is_signed(route):
        return [{"StripeSignature": []}]
    if _is_staff(route):
        return [{"StaffToken": []}, {"StaffSession": []}]
    return [{"ApiKeyAuth": [route.guard]}] if _is_agents(route) else []


def _operation(route: Route, schemas: Mapping[str, Schema]) -> dict[str, Any]:
    described = _described(route)
    operation: dict[str, Any] = {
        "operationId": described.id,
        "tags": [described.tag],
        "summary": route.summary,
        "description": described.description,
        "security": _security(route),
    }
    if _is_agents(route):
        operation["description"] += f"\n\nThe key needs the permission `{route.guard}`."
    if _is_staff(route) and _writes(route):
        operation["description"] += "\n\nFor staff with the role `admin`; it is recorded in the"
        operation["description"] += " audit log."
    parameters = _parameters(route, described, schemas)
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {
                    "schema": ref(route.body.__name__),
                    "example": described.request,
                }
            },
        }
    elif described.request is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": OBJECT, "example": described.request}},
        }
    operation["responses"] = _responses(route, described)
    return operation


def _parameters(
    route: Route, described: Operation, schemas: Mapping[str, Schema]
) -> list[dict[str, Any]]:
    parameters = []
    for name in re.findall(r"{(\w+)}", route.path):
        schema = _properties(route.parameters, schemas).get(name, STRING)
        parameters.append(_parameter("path", name, schema, True, described.values))
    for name, schema in _properties(route.query, schemas).items():
        assert route.query is not None
        required = name in schemas[route.query.__name__].get("required", ())
        parameters.append(_parameter("query", name, schema, required, described.values))
    if route.idempotent:
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "Makes it safe to send the request again: a repeat is answered with"
                " the first answer.",
                "schema": {"type": "string", "maxLength": 255},
                "example": described.idempotency_key,
            }
        )
    return parameters


def _properties(model: type[BaseModel] | None, schemas: Mapping[str, Schema]) -> Schema:
    properties: Schema = schemas[model.__name__]["properties"] if model is not None else {}
    return properties


def _parameter(
    where: str, name: str, schema: Schema, required: bool, values: Mapping[str, Any]
) -> dict[str, Any]:
    schema = dict(schema)
    description = schema.pop("description", FIELDS[name])
    parameter = {
        "name": name,
        "in": where,
        "required": required,
        "description": description,
        "schema": schema,
    }
    return parameter | ({"example": values[name]} if name in values else {})


def _responses(route: Route, described: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": STRING}
    if described.answer is not None:
        content = {"schema": described.answer, "example": described.example}
    private = ("Cache-Control",) if _is_staff(route) else ()
    success: dict[str, Any] = {
        "description": HTTPStatus(route.success).phrase,
        "headers": _headers(*private, *described.headers),
    }
    if described.content_type:
        success["content"] = {described.content_type: content}
    responses: dict[str, Any] = {str(route.success): success}
    by_status: dict[int, list[str]] = {}
    for code in _error_codes(route, described):
        by_status.setdefault(ERRORS[code].status, []).append(code)
    for status, codes in sorted(by_status.items()):
        responses[str(status)] = _error_response(status, codes, described.headerless)
    if _is_agents(route):
        responses["429"] = {
            "description": "Too many requests from one address: the proxy in front of the service"
            " says when to come back.",
            "headers": {"Retry-After": _header("Retry-After")},
        }
    if route.path == "/health":
        responses["503"] = {
            "description": HTTPStatus(503).phrase,
            "headers": _headers("Retry-After"),
            "content": {
                "application/json": {"schema": ref("Unhealthy"), "example": UNHEALTHY_EXAMPLE}
            },
        }
    return dict(sorted(responses.items()))


def _error_codes(route: Route, described: Operation) -> list[str]:
    codes: list[str] = []
    if route.body is not None:
        codes += ["body_too_large", "unsupported_content_encoding"]
    if _is_signed(route):
        codes += ["body_too_large"]
    if _is_agents(route):
        codes += ["api_key_format", "api_key_invalid", "api_key_expired", "permission_missing"]
        codes += ["validation_error", "unavailable"]
    if _is_staff(route):
        codes += described.guard_errors or ("not_authenticated", "admin_deactivated")
        codes += ["cross_origin", "admin_role_required"] if _writes(route) else []
        codes += ["unavailable", "console_closed"]
        if route.body or route.parameters or route.query:
            codes += ["validation_error"]
    return [*codes, *described.errors, "internal_error"]


def _error_response(status: int, codes: list[str], headerless: bool) -> dict[str, Any]:
    names = list(dict.fromkeys(ERROR_SCHEMAS.get(code, "Error") for code in codes))
    further = dict.fromkeys(ERROR_HEADERS[code] for code in codes if code in ERROR_HEADERS)
    if headerless and status == 401:
        further = {}
    return {
        "description": HTTPStatus(status).phrase,
        "headers": _headers(*further),
        "content": {
            "application/json": {
                "schema": ref(names[0])
                if len(names) == 1
                else {"anyOf": [ref(name) for name in names]},
                "examples": {
                    code: {"summary": ERRORS[code].meaning, "value": _error_example(code)}
                    for code in codes
                },
            }
        },
    }


def _error_example(code: str) -> dict[str, Any]:
    extras = ERROR_EXTRAS.get(code, {})
    detail = extras.get("detail") or ERRORS[code].detail.format_map(ERROR_VALUES)
    return {"detail": detail, "code": code, "request_id": REQUEST_ID_EXAMPLE, **extras}


def _headers(*names: str) -> dict[str, Any]:
    return {name: _header(name) for name in ("X-Request-ID", *names)}


def _header(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/headers/{name}"}


def _model_schemas(routes: Iterable[Route]) -> dict[str, Schema]:
    """What requests are made of, by model name, and what answers are made of."""
    models = {
        model: None
        for route in routes
        for model in (route.body, route.parameters, route.query)
        if model is not None
    }
    definitions = models_json_schema(
        [(model, "validation") for model in models],
        ref_template="#/components/schemas/{model}",
    )[1]["$defs"]
    batch = definitions["ChargeBatchRequest"]["properties"]["charges"]
    batch["items"] = ref("ChargeRequest")  # the model looks at each item by itself, later
    tidy = {
        name: _tidy(schema, name)
        for name, schema in (definitions | {**SCHEMAS, **STAFF_SCHEMAS}).items()
    }
    return dict(sorted(tidy.items()))


def _tidy(schema: Schema, owner: str) -> Schema:
    """Without pydantic's made-up titles; `null` as a type beside the other; every field with its
    meaning."""
    schema = {name: value for name, value in schema.items() if name != "title"}
    if "default" in schema and schema["default"] is None:
        del schema["default"]
    match schema.get("anyOf"):
        case [{"type": str(kind)} as other, {"type": "null"}]:
            del schema["anyOf"]
            schema = {**other, "type": [kind, "null"], **schema}
    if "items" in schema:
        schema["items"] = _tidy(schema["items"], owner)
    if "properties" in schema:
        schema["properties"] = {
            name: _field(name, _tidy(field, owner), owner)
            for name, field in schema["properties"].items()
        }
    return schema


def _field(name: str, schema: Schema, owner: str) -> Schema:
    if name == "oauth_provider":
        schema = {**schema, "pattern": "^oauth:"}
    if "description" not in schema:
        schema = {**schema, "description": FIELDS.get(f"{owner}.{name}") or FIELDS[name]}
    return schema
