"""Turns bodies, query strings and paths into models. What fails becomes the contract's 422 list
(contract.md 1), whose shape is that of pydantic's own error entries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, timedelta
from email.message import Message
from typing import Annotated, Any, TypeVar

import orjson
from aiohttp import web
from pydantic import AfterValidator, BaseModel, StringConstraints, ValidationError
from pydantic_core import PydanticCustomError

from server.gateway import Refused
from server.http.errors import validation_error
from server.limits import INT64_MAX, most

Entries = list[dict[str, Any]]
Model = TypeVar("Model", bound=BaseModel)


class RequestModel(BaseModel, defer_build=True):
    """A part of a request: its body, path or query. The validator is made when it is first used: a
    server has a hundred of these models, most servers use few, and the start is quicker."""


def without_nul(value: str) -> str:
    """Returns `value`, unless it contains NUL, which the database cannot store."""
    if "\0" in value:
        raise PydanticCustomError("string_nul", "String should not contain NUL characters")
    return value


def finite_day(day: date) -> date:
    """Returns the day, or the day before it for Python's last day: asyncpg takes that for
    infinity."""
    return min(day, date.max - timedelta(days=1))


def last_of_days(first: date | None, last: date | None) -> date | None:
    """Returns the last of some days. Raises PydanticCustomError, a ValueError, when it is before
    the first."""
    if first is not None and last is not None and last < first:
        raise PydanticCustomError("days_order", "The last day is before the first")
    return last


def _provider(value: str) -> str:
    if not value.startswith("oauth:"):
        raise ValueError('oauth_provider must start with "oauth:"')
    return value


_NoNul = AfterValidator(without_nul)
Text = Annotated[str, StringConstraints(min_length=1), _NoNul]
UserRole = Annotated[str, StringConstraints(max_length=most("user_role")), _NoNul]
OptInSource = Annotated[str, StringConstraints(max_length=most("marketing_opt_in_source")), _NoNul]
PlanName = Annotated[str, StringConstraints(min_length=1, max_length=most("plan_name")), _NoNul]
Description = Annotated[
    str, StringConstraints(min_length=1, max_length=most("description")), _NoNul
]
Reason = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=most("reason")), _NoNul
]
Text255 = Annotated[str, StringConstraints(max_length=most()), _NoNul]
Name255 = Annotated[str, StringConstraints(min_length=1, max_length=most()), _NoNul]
Day = Annotated[date, AfterValidator(finite_day)]
Provider = Annotated[Name255, AfterValidator(_provider)]
# The form of what billing_data.history_cursor makes. The SQL function checks whose cursor it is.
CURSOR = "[A-Za-z0-9_-]{32}"
Cursor = Annotated[str, StringConstraints(pattern=f"^{CURSOR}$")]
Currency = Annotated[
    str,
    StringConstraints(min_length=most("currency"), max_length=most("currency")),
    StringConstraints(pattern="^[A-Za-z]{3}$"),
    AfterValidator(str.upper),
]


def parse_json_body(request: web.Request, raw: bytes) -> Any:
    """Returns the body as JSON. When its content type says that it is something else, returns the
    raw text, which no model accepts. Raises ApiError (422 json_invalid)."""
    header = request.headers.get("Content-Type")
    if header is not None and not _is_json(header):
        return raw.decode("utf-8", "replace")
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise validation_error([_json_invalid(raw, error)]) from None


def _is_json(content_type: str) -> bool:
    if content_type == "application/json":
        return True
    message = Message()
    message["content-type"] = content_type
    subtype = message.get_content_subtype()
    return message.get_content_maintype() == "application" and (
        subtype == "json" or subtype.endswith("+json")
    )


def _json_invalid(raw: bytes, error: orjson.JSONDecodeError) -> dict[str, Any]:
    """The entry for malformed JSON, in the words of the standard library's parser, which the old
    service used; in orjson's own words where only orjson refuses it (NaN, lone surrogates,
    nesting)."""
    offset, reason = error.pos, error.msg
    try:
        json.loads(raw)
    except json.JSONDecodeError as standard:
        offset, reason = standard.pos, standard.msg
    except (ValueError, RecursionError):
        pass  # orjson refuses it for another reason: encoding, nesting, digits
    return {
        "type": "json_invalid",
        "loc": ["body", offset],
        "msg": "JSON decode error",
        "input": {},
        "ctx": {"error": reason},
    }


def validate(
    model: type[Model], data: Any, where: str, *, prefix: tuple[str | int, ...] = ()
) -> tuple[Model | None, Entries]:
    """Returns `data` as `model`, or None with the entries of what fails. Their locations begin with
    `where` (body, query or path)."""
    try:
        return model.model_validate(data, from_attributes=True), []
    except ValidationError as error:
        return None, [_entry(where, prefix, fault) for fault in error.errors(include_url=False)]


def _entry(where: str, prefix: tuple[str | int, ...], fault: Mapping[str, Any]) -> dict[str, Any]:
    entry = {
        "type": fault["type"],
        "loc": [where, *prefix, *fault["loc"]],
        "msg": fault["msg"],
        # A missing field has no value. In a body, the object that lacks the field is shown instead.
        "input": None if fault["type"] == "missing" and where != "body" else _plain(fault["input"]),
    }
    if fault["type"] == "value_error":
        entry["ctx"] = {"error": {}}
    elif fault.get("ctx"):
        entry["ctx"] = dict(fault["ctx"])
    return entry


def _plain(value: Any) -> Any:
    """What was sent, in a form that JSON can carry; shortened where it must be."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > INT64_MAX:
        return float(value)
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        if isinstance(value, str):
            return value.encode("utf-8", "replace").decode()
        return f"{type(value).__name__} that is nested too deeply"
    return value


def refused_field(error: Refused, where: str, sent: BaseModel) -> Exception:
    """Turns a function's refusal of one field into the 422 entry of that field of `sent`. Any other
    refusal is returned as it is."""
    if error.slug != "invalid_argument":
        return error
    name = str(error.values["argument"]).removeprefix("p_")
    problem = str(error.values["problem"])
    entry = {
        "type": "value_error",
        "loc": [where, name],
        "msg": f"Value error, {problem}",
        "input": _plain(getattr(sent, name, None)),
        "ctx": {"error": {}},
    }
    return validation_error([entry])


def missing(where: str, name: str | None = None) -> dict[str, Any]:
    """The entry for a missing header, query parameter or whole body."""
    loc = [where] if name is None else [where, name]
    return {"type": "missing", "loc": loc, "msg": "Field required", "input": None}
