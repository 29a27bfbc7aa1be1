"""The API's description, and whether an answer is as it describes."""

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
    """The schema without room for fields it does not describe."""
    if isinstance(schema, dict):
        inner = {name: closed(value) for name, value in schema.items()}
        if isinstance(schema.get("properties"), dict):
            inner["additionalProperties"] = False
        return inner
    return [closed(item) for item in schema] if isinstance(schema, list) else schema


def validate(value: Any, schema: Json) -> None:
    """Raises unless `value` is what `schema`, which may refer to the document's others, says, with
    nothing beside it."""
    whole = {**closed(schema), "components": closed(DOCUMENT["components"])}
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    assert {"date-time", "uuid"} <= checker.checkers.keys()
    jsonschema.Draft202012Validator(whole, format_checker=checker).validate(value)


def validate_answer(name: str, answer: httpx2.Response) -> None:
    """Raises unless the answer is one that the operation's description has."""
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
    # Of the headers that come with some errors of a status, this error's must be there.
    code = answer.json()["code"] if answer.is_error else ""
    others = {header.lower() for header in {*ERROR_HEADERS.values()} - {ERROR_HEADERS.get(code)}}
    assert promised - sent <= {"idempotent-replayed"} | others
