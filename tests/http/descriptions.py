"""The API's description, and checks that an answer is as described."""

from __future__ import annotations

from typing import Any

import httpx2
import jsonschema

from server.http.error_codes import ERROR_HEADERS
from server.public.openapi import document
from server.routes import SECTIONS

Json = dict[str, Any]


DOCUMENT = document(SECTIONS)


EVERY_OPERATION = {
    operation["operationId"]: {"method": method.upper(), "path": path, **operation}
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}


CODES = {error["code"]: error for error in DOCUMENT["x-error-codes"]}


def closed(schema: Any) -> Any:
    """The schema, which then allows no fields that it does not describe."""
    if isinstance(schema, dict):
        inner = {name: closed(value) for name, value in schema.items()}
        if isinstance(schema.get("properties"), dict):
            inner["additionalProperties"] = False
        return inner
    return [closed(item) for item in schema] if isinstance(schema, list) else schema


def validate(value: Any, schema: Json) -> None:
    """Raises unless `value` is valid for `schema`, which may refer to the document's others, and
    has no other fields."""
    whole = {**closed(schema), "components": closed(DOCUMENT["components"])}
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    assert {"date-time", "uuid"} <= checker.checkers.keys()
    jsonschema.Draft202012Validator(whole, format_checker=checker).validate(value)


def validate_answer(name: str, answer: httpx2.Response) -> None:
    """Raises unless the operation's description has this answer."""
    described = EVERY_OPERATION[name]["responses"][str(answer.status_code)]
    if "content" in described:
        content_type = answer.headers["content-type"].split(";")[0]
        content = described["content"][content_type]
        if content_type == "application/json":
            validate(answer.json(), content["schema"])
    else:
        assert answer.content == b""
    sent = {
        header.lower()
        for header in DOCUMENT["components"]["headers"]
        if header.lower() in answer.headers
    }
    promised = {header.lower() for header in described["headers"]}
    assert sent <= promised
    # Some headers come only with certain errors of a status; those of this error must be there.
    code = answer.json()["code"] if answer.is_error else ""
    others = {header.lower() for header in {*ERROR_HEADERS.values()} - {ERROR_HEADERS.get(code)}}
    assert promised - sent <= {"idempotent-replayed"} | others
