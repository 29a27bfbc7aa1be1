"""Reads a request and checks its shape in the order that clients rely on (contract.md 1): first the
body as JSON, then header, path, query and body against their models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pydantic import BaseModel, Field

from server.http.errors import known_error
from server.http.json_answer import JSON
from server.http.quick_decoder import QuickDecoder
from server.http.validation import (
    Entries,
    RequestModel,
    Text255,
    missing,
    parse_json_body,
    validate,
)


class WriteHeaders(RequestModel):
    """The headers of every writing POST beside the key."""

    idempotency_key: Text255 | None = Field(default=None, alias="idempotency-key")


def needs_no_field(model: type[BaseModel]) -> bool:
    """Whether a body without fields is one of this model."""
    return not any(field.is_required() for field in model.model_fields.values())


@dataclass(frozen=True, slots=True)
class Shape:
    """The models of a request's parts. With `idempotent`, the Idempotency-Key header is read too;
    where it names a field of the body, only beside that field.
    `quick` reads a plain body without its model, into an object with the same attributes. A body
    that `may_be_absent` then is one without fields."""

    body: type[BaseModel] | None
    path: type[BaseModel] | None
    query: type[BaseModel] | None
    idempotent: bool | str
    quick: QuickDecoder | None = None
    may_be_absent: bool = False

    async def read(self, request: web.Request) -> tuple[dict[str, Any], Entries]:
        """Returns the request's parts as models, and the entries of what fails, in the order of the
        contract. Raises ApiError for a body that is not JSON."""
        models: dict[str, Any] = {}
        entries: Entries = []
        parsed, absent, body = None, True, None
        if self.body is not None:
            _refuse_encoding(request)
            raw = await _body(request)
            absent = not raw
            if self.quick is not None and request.headers.get("Content-Type", JSON) == JSON:
                body = self.quick(raw)
            if body is None:
                parsed = parse_json_body(request, raw) if raw else None
        if self.idempotent is True:
            models["idempotency_key"] = _idempotency_key(request, entries)
        if self.path is not None:
            models["path"], faults = validate(self.path, dict(request.match_info), "path")
            entries += faults
        if self.query is not None:
            # When a parameter is given twice, the last one counts.
            models["query"], faults = validate(self.query, dict(request.query.items()), "query")
            entries += faults
        if body is not None:
            models["body"] = body
        elif self.body is not None and absent and self.may_be_absent:
            models["body"] = self.body()
        elif self.body is not None and absent:
            entries.append(missing("body"))
        elif self.body is not None:
            models["body"], faults = validate(self.body, parsed, "body")
            entries += faults
        if isinstance(self.idempotent, str) and getattr(models.get("body"), self.idempotent, None):
            models["idempotency_key"] = _idempotency_key(request, entries)
        return models, entries


def _idempotency_key(request: web.Request, entries: Entries) -> str | None:
    header = request.headers.get("Idempotency-Key")
    if header is not None:
        entries += validate(WriteHeaders, {"idempotency-key": header}, "header")[1]
    return header or None


async def _body(request: web.Request) -> bytes:
    """Returns the body. Most bodies arrive together with their head and need not be collected in
    pieces."""
    content = request.content
    if content.is_eof() and content.total_bytes < request.client_max_size:
        return content.read_nowait()
    return await request.read()


def _refuse_encoding(request: web.Request) -> None:
    """Refuses compressed bodies. Bodies are small, and unpacking would let a few bytes become
    many."""
    if request.headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
        raise known_error("unsupported_content_encoding", headers={"Accept-Encoding": "identity"})
