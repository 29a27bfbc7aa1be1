"""Lays out the OpenAPI document for a template, by audience: prose in blocks, schemas as rows,
examples as text, as curl lines and in Python."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import quote, urlencode

from markupsafe import Markup

from server.limits import INT64_MAX

Json = dict[str, Any]

_FORMATS = {"uuid": "UUID", "date": "date", "date-time": "time", "uri": "URL"}
_OF_EVERY_ANSWER = "X-Request-ID"  # the introduction describes it
_NO_BODY: Json = {"no body": {"schema": {}}}


# Who reads: the end of the section's address, and its name.
AUDIENCES = {
    "agents": "For agents",
    "webhooks": "For payment providers",
    "staff": "For staff",
    "admins": "For administrators",
    "service": "For everybody",
}
PAGES = ("agents", "webhooks", "staff", "admins")  # the audiences that have a page of their own
# The sections of the staff's API about settings for the whole service; the others are about users.
_OF_ADMINS = ("API keys", "settings", "staff", "signing in", "alerts", "caps")
_WEBHOOKS = {
    "name": "Webhooks",
    "description": "What payment providers send, and sign. Nobody else can call these.",
}


def view(document: Json, audience: str = "") -> Json:
    """The values that templates/docs.html shows. The page of all audiences has the introduction,
    the error codes, and what staff call in short; the page of one has its calls."""
    groups = _groups(document)
    audiences = {
        key: _audience(key, name, [group for group in groups if group["audience"] == key])
        for key, name in AUDIENCES.items()
    }
    staff = [audiences["staff"], audiences["admins"]]
    if audience:
        shown = [audiences[audience]]
    else:
        shown = [one for one in audiences.values() if one not in staff]
    _tell_once(shown)
    examples = _error_examples(document)
    introduction = _blocks(document["info"]["description"])
    return {
        "title": document["info"]["title"],
        "version": document["info"]["version"],
        "audience": audience,
        "pages": [(key, name) for key, name in AUDIENCES.items() if key in PAGES],
        "introduction": [] if audience else introduction,
        "audiences": shown,
        "staff": [] if audience else staff,
        "errors": [
            {**error, "example": examples.get(error["code"])}
            for error in document["x-error-codes"]
            if not audience
        ],
    }


def in_short(document: Json) -> str:
    """The document as Markdown for language models: the introduction, and a line for each call with
    the fields that it needs."""
    lines = [
        f"# {document['info']['title']}",
        "",
        "> The whole description is /openapi.json (OpenAPI 3.1); for people it is /docs.",
        "",
        document["info"]["description"].strip(),
    ]
    for group in _groups(document):
        lines += ["", f"## {group['name']}", "", group["description"], ""]
        for shown in group["operations"]:
            page = f"/docs/{group['audience']}" if group["audience"] in PAGES else "/docs"
            needs = [row["name"] for row in shown["body"] if row["required"]]
            lines.append(
                f"- [{shown['method']} {shown['path']}]({page}#{shown['anchor']}):"
                f" {shown['summary']}" + (f" (needs {', '.join(needs)})" if needs else "")
            )
    return "\n".join(lines) + "\n"


def _groups(document: Json) -> list[Json]:
    """The document's tags with their operations and their readers. What a provider signs is a group
    of its own."""
    names = [*document["tags"], _WEBHOOKS]
    groups = {
        tag["name"]: {**tag, "anchor": _anchor(tag["name"]), "operations": []} for tag in names
    }
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            shown = _operation(document, method.upper(), path, operation)
            name = _WEBHOOKS["name"] if shown["is_signed"] else operation["tags"][0]
            groups[name]["operations"].append(shown)
    for name, group in groups.items():
        group["audience"] = "staff" if name.startswith("Staff: ") else "agents"
        group["title"] = name.removeprefix("Staff: ").capitalize()
        if name.removeprefix("Staff: ") in _OF_ADMINS:
            group["audience"] = "admins"
        elif name == _WEBHOOKS["name"]:
            group["audience"] = "webhooks"
        elif not any(shown["has_key"] for shown in group["operations"]):
            group["audience"] = "service"
    return list(groups.values())


def _audience(key: str, name: str, groups: list[Json]) -> Json:
    """One audience's groups. Errors that every operation of a group may answer are described
    once."""
    for group in groups:
        operations = group["operations"]
        group["errors"] = [
            error
            for error in (operations[0]["errors"] if len(operations) > 1 else [])
            if error["code"] and all(error in shown["errors"] for shown in operations)
        ]
        for shown in operations:
            shown["errors"] = [error for error in shown["errors"] if error not in group["errors"]]
    return {
        "key": key,
        "anchor": f"calls-{key}",
        "name": name,
        "groups": groups,
        "client": next(
            (
                shown["client"]
                for group in groups
                for shown in group["operations"]
                if shown["client"]
            ),
            None,
        ),
    }


_MANY = 4  # fields; a shorter list is shown again wherever it is needed


def _tell_once(audiences: list[Json]) -> None:
    """Fields that the page has described with another call's answer are not described again: a row
    with `same_as` leads to that call. It stands for the whole answer, or for each item of a
    list."""
    told: dict[str, Json] = {}
    for audience in audiences:
        for group in audience["groups"]:
            for shown in group["operations"]:
                shown["answer"]["fields"] = _shortened(shown, told)


def _shortened(shown: Json, told: dict[str, Json]) -> list[Json]:
    rows: list[Json] = []
    for prefix, block in groupby(shown["answer"]["fields"], key=_list_of):
        fields = list(block)
        key = json.dumps([{**row, "name": row["name"].removeprefix(prefix)} for row in fields])
        first = told.setdefault(key, shown) if len(fields) >= _MANY else shown
        if first is shown:
            rows += fields
        else:
            rows.append({"name": prefix.removesuffix("."), "same_as": first})
    return rows


def _list_of(row: Json) -> str:
    """The part of a field's name that names its list: `results[]` of `results[].status`."""
    before, mark, _ = str(row["name"]).partition("[].")
    return before + mark


def _error_examples(document: Json) -> dict[str, str]:
    """An example of each error's body."""
    examples: dict[str, str] = {}
    for methods in document["paths"].values():
        for operation in methods.values():
            for response in operation["responses"].values():
                for code, example in _content(response).get("examples", {}).items():
                    examples.setdefault(code, _pretty(example["value"]))
    return examples


def _operation(document: Json, method: str, path: str, operation: Json) -> Json:
    status, response = next(iter(operation["responses"].items()))
    content_type, content = next(iter(response.get("content", _NO_BODY).items()))
    body = _content(operation.get("requestBody", {}))
    is_signed = any(name.endswith("Signature") for item in operation["security"] for name in item)
    call = _Call.of(method, path, operation, body)
    return {
        "anchor": operation["operationId"],
        "method": method,
        "path": path,
        "summary": operation["summary"],
        "description": _blocks(operation["description"]),
        "parameters": [
            {"where": parameter["in"], **_row(document, parameter["name"], parameter)}
            for parameter in operation.get("parameters", ())
        ],
        "body": _rows(document, body["schema"]) if body else [],
        "is_signed": is_signed,
        "has_key": bool(operation["security"]),
        # What only a payment provider can sign, nobody can try.
        **({"curl": None, "python": None, "client": None} if is_signed else call.examples()),
        "answer": {
            "status": status,
            "phrase": response["description"],
            "content_type": content_type,
            "fields": _rows(document, content["schema"]),
            "headers": [
                {"name": name, "description": _resolve(document, header)["description"]}
                for name, header in response["headers"].items()
                if name != _OF_EVERY_ANSWER
            ],
            "example": _pretty(content["example"]) if "example" in content else None,
        },
        "errors": [
            error
            for status, response in operation["responses"].items()
            if int(status) >= 400
            for error in _errors(document, status, response)
        ],
    }


def _errors(document: Json, status: str, response: Json) -> list[Json]:
    headers = [name for name in response["headers"] if name != _OF_EVERY_ANSWER]
    content = _content(response)
    if "examples" not in content:
        meaning = response["description"]
        if "schema" in content:
            meaning = _resolve(document, content["schema"])["description"]
        return [{"status": status, "code": None, "meaning": meaning, "headers": headers}]
    return [
        {"status": status, "code": code, "meaning": example["summary"], "headers": headers}
        for code, example in content["examples"].items()
    ]


def _content(message: Json) -> Json:
    content: Json = message.get("content", {}).get("application/json", {})
    return content


@dataclass(frozen=True, slots=True)
class _Call:
    """An example of a call, from which it is written for the shell and in Python. `headers` are
    those that no client sends by itself."""

    method: str
    path: str
    query: Sequence[tuple[str, str]]
    headers: Mapping[str, str]
    body: Any
    security: list[Json]

    @classmethod
    def of(cls, method: str, path: str, operation: Json, body: Json) -> _Call:
        """The call of an operation with its examples."""
        query, headers = [], {}
        for parameter in operation.get("parameters", ()):
            if "example" not in parameter:
                continue
            value = str(parameter["example"])
            if parameter["in"] == "path":
                path = path.replace("{" + parameter["name"] + "}", quote(value, safe=":"))
            elif parameter["in"] == "query":
                query.append((parameter["name"], value))
            else:
                headers[parameter["name"]] = value
        example = body["example"] if body else None
        return cls(method, path, query, headers, example, operation["security"])

    def examples(self) -> Json:
        """The example in each language, and how its client is made in Python."""
        return {"curl": self._curl(), "python": self._python(), "client": self._client()}

    @property
    def _is_staffs(self) -> bool:
        return {"StaffToken": []} in self.security

    @property
    def _target(self) -> str:
        return self.path + ("?" + urlencode(self.query, safe=":") if self.query else "")

    def _curl(self) -> str:
        """A curl line that works as it stands once BILLING_URL and BILLING_KEY are set."""
        headers = []
        if self.security:
            headers.append(
                '"Authorization: Bearer $BILLING_TOKEN"'
                if self._is_staffs
                else '"X-API-Key: $BILLING_KEY"'
            )
        if self.body is not None:
            headers.append("'Content-Type: application/json'")
        headers += [shlex.quote(f"{name}: {value}") for name, value in self.headers.items()]
        # For these two methods curl needs no option.
        has_body = self.body is not None
        how = "" if self.method == ("POST" if has_body else "GET") else f"-X {self.method} "
        lines = [
            f'curl -sS {how}"$BILLING_URL{self._target}"',
            *(f"-H {header}" for header in headers),
        ]
        if has_body:
            lines.append(f"-d {shlex.quote(_pretty(self.body))}")
        return " \\\n  ".join(lines)

    def _python(self) -> str:
        """The same call by the client that _client makes."""
        name = "staff" if self._is_staffs else "billing"
        arguments = [_in_python(self._target)]
        if self.headers:
            arguments.append(f"headers={_in_python(dict(self.headers))}")
        if self.body is not None:
            arguments.append(f"json={_in_python(self.body)}")
        call = f"{name}.{self.method.lower()}({', '.join(arguments)}).json()"
        return call.removesuffix(".json()") if self.method == "DELETE" else call

    def _client(self) -> str | None:
        if not self.security:
            return None
        header = (
            '"Authorization": f"Bearer {os.environ[\'BILLING_TOKEN\']}"'
            if self._is_staffs
            else '"X-API-Key": os.environ["BILLING_KEY"]'
        )
        name = "staff" if self._is_staffs else "billing"
        return (
            f"import os, httpx2\n\n{name} = httpx2.Client(\n"
            f'    base_url=os.environ["BILLING_URL"],\n    headers={{{header}}},\n)'
        )


def _in_python(value: Any, margin: str = "") -> str:
    """A value of JSON as a Python program writes it, an item a line."""
    inner = margin + "    "
    match value:
        case dict() if value:
            items = [f'"{name}": {_in_python(item, inner)}' for name, item in value.items()]
            return "{\n" + "".join(f"{inner}{item},\n" for item in items) + margin + "}"
        case list() if value:
            items = [_in_python(item, inner) for item in value]
            return "[\n" + "".join(f"{inner}{item},\n" for item in items) + margin + "]"
        case str():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return repr(value)


def _rows(document: Json, schema: Json, prefix: str = "") -> list[Json]:
    """A row for each field of an object, nested ones below it with dotted names."""
    schema = _resolve(document, schema)
    if schema.get("type") == "array":
        return _rows(document, schema["items"], f"{prefix}[].")
    rows = []
    for name, field in schema.get("properties", {}).items():
        shape = _resolve(document, field)
        required = name in schema.get("required", ())
        rows.append(
            _row(document, prefix + name, {"required": required, "schema": shape, **_words(field)})
        )
        if "items" in shape:
            rows += _rows(document, shape["items"], f"{prefix}{name}[].")
        else:
            rows += _rows(document, shape, f"{prefix}{name}.")
    return rows


def _words(field: Json) -> Json:
    return {"description": field.get("description", "")}


def _row(document: Json, name: str, field: Json) -> Json:
    return {
        "name": name,
        "type": _type(document, field["schema"]),
        "required": field["required"],
        "description": field["description"],
    }


def _type(document: Json, schema: Json) -> str:
    """A schema's type and bounds in words."""
    schema = _resolve(document, schema)
    kinds = schema.get("type", "any")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    words = [_FORMATS.get(schema.get("format", ""), str(kinds[0]))]
    if "enum" in schema:
        words = [" | ".join(json.dumps(value) for value in schema["enum"] if value is not None)]
    if "const" in schema:
        words = [json.dumps(schema["const"])]
    if choice := re.fullmatch(r"\^\(([\w|]+)\)\$", schema.get("pattern", "")):
        words = [" | ".join(json.dumps(value) for value in choice[1].split("|"))]
    if kinds[0] == "array":
        words = [f"list of {_type(document, schema['items'])}"]
    if "anyOf" in schema:
        words = ["object"]
    words += _bounds(schema)
    if "null" in kinds:
        words[0] += " or null"
    if "default" in schema:
        words.append(f"default {json.dumps(schema['default'])}")
    return ", ".join(words)


def _bounds(schema: Json) -> list[str]:
    if "pattern" in schema and "maxLength" in schema and schema["maxLength"] == 3:
        return ["3 letters"]
    least = schema.get("minimum", schema.get("minLength", schema.get("minItems")))
    if "exclusiveMinimum" in schema:
        least = schema["exclusiveMinimum"] + 1
    most = schema.get("maximum", schema.get("maxLength", schema.get("maxItems")))
    unit = " characters" if "minLength" in schema or "maxLength" in schema else ""
    if most is not None and most < INT64_MAX:
        return [f"{least} to {most}{unit}" if least else f"at most {most}{unit}"]
    if least == 1 and unit:
        return ["not empty"]
    return [f"{least} or more"] if least is not None else []


def _resolve(document: Json, schema: Json) -> Json:
    if "$ref" not in schema:
        return schema
    target: Any = document
    for part in schema["$ref"].removeprefix("#/").split("/"):
        target = target[part]
    resolved: Json = target
    return resolved


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def plain_text(value: str) -> Markup:
    """The filter for text between tags: there, quotes need no escape, which is five times as
    long."""
    return Markup(html.escape(value, quote=False))  # noqa: S704


def _anchor(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")


def _blocks(text: str) -> list[Json]:
    """Parses the little Markdown that our own prose uses: headings, lists, code fences, paragraphs.
    Inside a line, the template shows only `code`."""
    blocks: list[Json] = []
    for part in re.split(r"\n{2,}", text.strip()):
        if part.startswith("## "):
            blocks.append({"kind": "heading", "text": part[3:], "anchor": _anchor(part[3:])})
        elif part.startswith("```"):
            blocks.append({"kind": "code", "text": part.strip("`").strip()})
        elif part.startswith("- "):
            blocks.append({"kind": "list", "items": re.split(r"\n- ", part[2:])})
        else:
            blocks.append({"kind": "paragraph", "text": part})
    return blocks
