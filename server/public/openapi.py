"""The OpenAPI document, made from the route table: from the types of requests and answers, the
handlers' docstrings and the table of error codes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from http import HTTPStatus
from inspect import cleandoc
from typing import Any

from pydantic import TypeAdapter

from server import __version__
from server.http.error_codes import (
    ERROR_CODES,
    ERROR_HEADERS,
    Error,
    InsufficientCredits,
    ValidationError,
)
from server.http.example_values import ERROR_VALUES, REQUEST_ID
from server.http.request_shape import needs_no_field
from server.http.route import SIGNED, STAFF, ErrorAnswer, Route, Section
from server.limits import INT64_MAX, most
from server.payments.provider import PaymentProvider
from server.payments.registry import all_providers, provider_of
from server.public.introduction import INTRODUCTION, TITLE

Schema = dict[str, Any]

_JSON = "application/json"
_ID: Schema = {"type": "string", "format": "uuid"}
_ANYTHING: Schema = {"type": "object"}


def _header(description: str, **schema: Any) -> Schema:
    return {"description": description, "schema": {"type": "string", **schema}}


_HEADERS: Mapping[str, Schema] = {
    "X-Request-ID": _header("The request's id: the one sent in X-Request-ID, or one made for it."),
    "Idempotent-Replayed": _header(
        "`true` when this is the first answer over again; otherwise absent.", enum=["true"]
    ),
    "X-Existing-Charge-ID": _header("The charge that the idempotency key made.", format="uuid"),
    "X-Existing-Credit-ID": _header("The credit that the idempotency key made.", format="uuid"),
    "X-Existing-Hold-ID": _header("The hold that the idempotency key made.", format="uuid"),
    "WWW-Authenticate": _header("How to sign in.", enum=["ApiKey", "Bearer"]),
    "Retry-After": _header(
        "Seconds to wait before sending the same again.",
        type="integer",
        format="int64",
        minimum=0,
    ),
    "X-Entry-Count": _header(
        "How many entries the statement has.", type="integer", format="int64", minimum=0
    ),
    "X-Truncated": _header("Whether there are more than the answer has.", enum=["true", "false"]),
    "Cache-Control": _header("Whether, and how long, the answer may be kept."),
}


def _signature_scheme(provider: PaymentProvider) -> str:
    return f"{provider.kind.title()}Signature"


_SECURITY_SCHEMES: Mapping[str, Schema] = {
    "ApiKeyAuth": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "An API key: `cbk_`, `test_` or `live_`, and 43 characters. It has the"
        " permissions `billing:read`, `billing:write` or both. Keep it out of web pages and"
        " repositories.",
    },
    **{
        _signature_scheme(provider): {
            "type": "apiKey",
            "in": "header",
            "name": provider.webhook.header,
            "description": provider.webhook.description,
        }
        for provider in all_providers()
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
        "description": "The session of a browser whose user signed in to the console. It changes"
        " things only for the console's own pages.",
    },
}

# Errors of many operations whose bodies have more fields than others.
_ERROR_ANSWERS = {
    answer.code: answer
    for answer in (
        ErrorAnswer(
            "insufficient_credits",
            InsufficientCredits,
            {
                "balance": 0,
                "required": 1,
                "shortfall": 1,
                "retryable": False,
                "purchase_url": "https://example.com/buy",
            },
        ),
        ErrorAnswer(
            "balance_overflow",
            Error,
            {"detail": f"Balance overflow: 20 and {INT64_MAX} together exceed {INT64_MAX}"},
        ),
        ErrorAnswer(
            "validation_error",
            ValidationError,
            {
                "detail": [
                    {
                        "type": "missing",
                        "loc": ["body", "external_id"],
                        "msg": "Field required",
                        "input": {"oauth_provider": "oauth:google"},
                    }
                ]
            },
        ),
    )
}


@cache
def document(table: tuple[Section, ...]) -> dict[str, Any]:
    """The OpenAPI document of every route in the table that is neither internal nor a page."""
    sections = [
        (section, described)
        for section in table
        if (described := [route for route in section.routes if route.is_described])
    ]
    routes = [route for _, described in sections for route in described]
    schemas = _Schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for section, described in sections:
        for route in described:
            operation = _Description(route, section.name, schemas).operation()
            paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": __version__, "description": INTRODUCTION},
        "servers": [{"url": "/", "description": "Where this description was read."}],
        "tags": [{"name": one.name, "description": one.text} for one, _ in sections],
        "paths": paths,
        "components": {
            "schemas": schemas.shown(),
            "headers": dict(_HEADERS),
            "securitySchemes": dict(_SECURITY_SCHEMES),
        },
        "x-error-codes": [
            {"code": code, "status": e.status, "detail": e.detail, "meaning": e.meaning}
            for code, e in ERROR_CODES.items()
        ],
    }


class _Schemas:
    """The schemas of all types in the routes."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._of_parameters = {
            model for route in routes for model in (route.parameters, route.query) if model
        }
        self._of_bodies = {route.body for route in routes if route.body}
        types = [*self._of_parameters, *(kind for route in routes for kind in _types(route))]
        schemas, definitions = TypeAdapter.json_schemas(
            [
                (key, "validation", TypeAdapter(kind))
                for key, kind in {id(t): t for t in types}.items()
            ],
            ref_template="#/components/schemas/{model}",
        )
        self._by_identity = {key: _tidy(schema) for (key, _), schema in schemas.items()}
        # A type that is described where it is used is still among the definitions, but nothing
        # refers to it.
        references = set(re.findall(r"/schemas/(\w+)", repr((schemas, definitions))))
        self._inlined = definitions["$defs"].keys() - references
        self.named = {name: _tidy(one) for name, one in sorted(definitions["$defs"].items())}
        for schema in self.named.values():
            self._refer_to_named(schema.get("properties", {}))

    def _refer_to_named(self, fields: dict[str, Schema]) -> None:
        # pydantic writes out the item type of a list even when it does not check the items.
        for field in fields.values():
            for name, schema in self.named.items():
                if field.get("items") == schema:
                    field["items"] = {"$ref": f"#/components/schemas/{name}"}

    def of(self, kind: Any) -> Schema:
        """The schema of a type, which may refer to the named ones."""
        return self._by_identity[id(kind)]

    def parameters(self, model: Any) -> tuple[Schema, list[str]]:
        """The schemas of a model's fields, and the names of the required ones."""
        schema: Schema = self.named[model.__name__] if model else {}
        return schema.get("properties", {}), schema.get("required", [])

    def shown(self) -> dict[str, Schema]:
        """The named schemas except those that are lists of parameters and nothing else."""
        hidden = {model.__name__ for model in self._of_parameters - self._of_bodies}
        hidden |= self._inlined
        return {name: schema for name, schema in self.named.items() if name not in hidden}


def _types(route: Route) -> list[Any]:
    bodies = [answer.body for answer in _error_answers(route).values()]
    return [kind for kind in (route.body, route.answer, Error, *bodies) if kind is not None]


def _error_answers(route: Route) -> dict[str, ErrorAnswer]:
    own = {error.code: error for error in route.errors if isinstance(error, ErrorAnswer)}
    return _ERROR_ANSWERS | own


class _Description:
    """One operation in the document."""

    def __init__(self, route: Route, tag: str, schemas: _Schemas) -> None:
        self._route = route
        self._tag = tag
        self._schemas = schemas
        self._answers = _error_answers(route)

    def operation(self) -> dict[str, Any]:
        """The operation as OpenAPI has it."""
        route = self._route
        operation: dict[str, Any] = {
            "operationId": _camel_case(route.handler.__name__),
            "tags": [self._tag],
            "summary": route.summary,
            "description": self._prose(),
            "security": _security(route),
        }
        if parameters := self._parameters():
            operation["parameters"] = parameters
        if route.body is not None or route.example.request is not None:
            schema = self._schemas.of(route.body) if route.body is not None else _ANYTHING
            content = {_JSON: {"schema": schema, "example": route.example.request}}
            optional = route.is_for_agents and route.body and needs_no_field(route.body)
            operation["requestBody"] = {"required": not optional, "content": content}
        operation["responses"] = self._responses()
        return operation

    def _prose(self) -> str:
        route = self._route
        paragraphs = cleandoc(route.handler.__doc__ or "").split("\n\n")
        paragraphs = [paragraph.replace("\n", " ") for paragraph in paragraphs]
        if route.is_for_agents:
            paragraphs.append(f"The key needs the permission `{route.guard}`.")
        if route.guard == STAFF and route.writes:
            paragraphs.append("For staff with the role `admin`; it is recorded in the audit log.")
        return "\n\n".join(paragraphs)

    def _parameters(self) -> list[dict[str, Any]]:
        route = self._route
        in_path, _ = self._schemas.parameters(route.parameters)
        in_query, required = self._schemas.parameters(route.query)
        parameters = [
            self._parameter("path", name, in_path.get(name, _FILE_NAME), required=True)
            for name in re.findall(r"{(\w+)}", route.path)
        ]
        parameters += [
            self._parameter("query", name, schema, required=name in required)
            for name, schema in in_query.items()
        ]
        if route.idempotent:
            key = {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "Makes it safe to send the request again: a repeat is answered with"
                " the first answer.",
                "schema": {"type": "string", "maxLength": most("idempotency_key")},
            }
            if route.example.idempotency_key is not None:
                key["example"] = route.example.idempotency_key
            parameters.append(key)
        return parameters

    def _parameter(
        self, where: str, name: str, schema: Schema, *, required: bool
    ) -> dict[str, Any]:
        schema = dict(schema)
        description = schema.pop("description")
        parameter = {
            "name": name,
            "in": where,
            "required": required,
            "description": description,
            "schema": schema,
        }
        values = self._route.example.values
        return parameter | ({"example": values[name]} if name in values else {})

    def _responses(self) -> dict[str, Any]:
        route = self._route
        succeeds = {str(status): self._success() for status in (route.success, *route.successes)}
        responses: dict[str, Any] = {}
        by_status: dict[int, list[str]] = {}
        for code in self._error_codes():
            by_status.setdefault(ERROR_CODES[code].status, []).append(code)
        for status, codes in by_status.items():
            responses[str(status)] = self._error_response(status, codes)
        for answer in self._answers.values():
            if answer.status is not None:
                responses[str(answer.status)] = self._response(
                    answer.status, ["Retry-After"], self._content(answer.body, answer.example)
                )
        if route.is_for_agents:
            refused = responses.setdefault(
                "429", {"headers": {"Retry-After": _header_ref("Retry-After")}}
            )
            refused["description"] = (
                "Too many requests from one address: the proxy in front of the service says when to"
                " come back."
            )
            if "content" in refused:
                refused["description"] += " With a body: the service itself refuses."
        return succeeds | dict(sorted(responses.items()))

    def _success(self) -> dict[str, Any]:
        route = self._route
        headers = ["Cache-Control"] if route.guard == STAFF else []
        headers += ["Idempotent-Replayed"] if route.idempotent else []
        content: dict[str, Any] | None = None
        if route.answer is not None:
            content = self._content(route.answer, route.example.answer)
        elif route.content_type:
            content = {route.content_type: {"schema": {"type": "string"}}}
        return self._response(route.success, [*headers, *route.headers], content)

    def _content(self, kind: Any, example: Any) -> dict[str, Any]:
        return {_JSON: {"schema": self._schemas.of(kind), "example": example}}

    def _response(
        self, status: int, headers: Iterable[str], content: dict[str, Any] | None
    ) -> dict[str, Any]:
        response: dict[str, Any] = {
            "description": HTTPStatus(status).phrase,
            "headers": {name: _header_ref(name) for name in ("X-Request-ID", *headers)},
        }
        return response | ({"content": content} if content else {})

    def _error_codes(self) -> list[str]:
        route = self._route
        codes: list[str] = []
        if route.body is not None:
            codes += ["body_too_large", "unsupported_content_encoding"]
        if route.guard == SIGNED:
            codes += ["body_too_large"]
        if route.is_for_agents:
            codes += ["api_key_format", "api_key_invalid", "api_key_expired", "permission_missing"]
            codes += ["validation_error", "unavailable"]
        if route.guard == STAFF:
            codes += route.guard_errors or ("not_authenticated", "admin_deactivated")
            codes += ["cross_origin", "admin_role_required"] if route.writes else []
            codes += ["unavailable", "console_closed"]
            if route.body or route.parameters or route.query:
                codes += ["validation_error"]
        if route.idempotent:
            codes += ["idempotency_key_reused"]
        own = [error.code if isinstance(error, ErrorAnswer) else error for error in route.errors]
        return [*codes, *(code for code in own if code in ERROR_CODES), "internal_error"]

    def _error_response(self, status: int, codes: list[str]) -> dict[str, Any]:
        bodies = [self._answers[code].body if code in self._answers else Error for code in codes]
        kinds = [self._schemas.of(body) for body in dict.fromkeys(bodies)]
        schema = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        examples = {
            code: {"summary": ERROR_CODES[code].meaning, "value": self._error_example(code)}
            for code in codes
        }
        headers = dict.fromkeys(ERROR_HEADERS[code] for code in codes if code in ERROR_HEADERS)
        if status == HTTPStatus.UNAUTHORIZED and self._route.guard_errors:
            headers = {}  # a route that identifies its caller itself does not say how to sign in
        return self._response(status, headers, {_JSON: {"schema": schema, "examples": examples}})

    def _error_example(self, code: str) -> dict[str, Any]:
        further = self._answers[code].example if code in self._answers else {}
        detail = further.get("detail") or ERROR_CODES[code].detail.format_map(ERROR_VALUES)
        return {"detail": detail, "code": code, "request_id": REQUEST_ID, **further}


_FILE_NAME: Schema = {"type": "string", "description": "The file's name."}


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def _header_ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/headers/{name}"}


def _security(route: Route) -> list[dict[str, list[str]]]:
    if route.guard == SIGNED:
        provider = provider_of(route.path.rpartition("/")[2])
        return [{_signature_scheme(provider): []}]
    if route.guard == STAFF:
        return [{"StaffToken": []}, {"StaffSession": []}]
    return [{"ApiKeyAuth": [route.guard]}] if route.is_for_agents else []


def _tidy(schema: Schema) -> Schema:
    """Removes pydantic's invented titles and writes `null` as a second type."""
    schema = {name: value for name, value in schema.items() if name != "title"}
    if "default" in schema and schema["default"] is None:
        del schema["default"]
    match schema.get("anyOf"):
        case [{"type": str(kind)} as other, {"type": "null"}]:
            del schema["anyOf"]
            schema = {**other, **schema, "type": [kind, "null"]}
            if "enum" in schema:
                schema["enum"] = [*schema["enum"], None]
        case [{"type": str(kind), **one}, {"type": str(other), **another}] if (
            not one and not another
        ):
            del schema["anyOf"]
            schema["type"] = [kind, other]
    if schema.get("additionalProperties") is True:  # objects allow this by default
        del schema["additionalProperties"]
    if "items" in schema:
        schema["items"] = _tidy(schema["items"])
    if "properties" in schema:
        schema["properties"] = {name: _tidy(one) for name, one in schema["properties"].items()}
    return schema
