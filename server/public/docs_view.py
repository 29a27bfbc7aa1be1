"""Lays out the OpenAPI document for a template: prose in blocks, schemas as table rows, examples as
text and as curl lines."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any
from urllib.parse import quote, urlencode

from server.limits import INT64_MAX

Json = dict[str, Any]

_FORMATS = {"uuid": "UUID", "date": "date", "date-time": "time", "uri": "URL"}
_NO_BODY: Json = {"no body": {"schema": {}}}


def view(document: Json) -> Json:
    """The values that templates/docs.html shows."""
    groups: list[Json] = [
        {**tag, "anchor": _anchor(tag["name"]), "operations": []} for tag in document["tags"]
    ]
    by_tag = {group["name"]: group["operations"] for group in groups}
    examples: dict[str, str] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            by_tag[operation["tags"][0]].append(
                _operation(document, method.upper(), path, operation)
            )
            for response in operation["responses"].values():
                for code, example in _content(response).get("examples", {}).items():
                    examples.setdefault(code, _pretty(example["value"]))
    return {
        "title": document["info"]["title"],
        "version": document["info"]["version"],
        "introduction": _blocks(document["info"]["description"]),
        "groups": groups,
        "errors": [
            {**error, "example": examples.get(error["code"])} for error in document["x-error-codes"]
        ],
    }


def _operation(document: Json, method: str, path: str, operation: Json) -> Json:
    status, response = next(iter(operation["responses"].items()))
    content_type, content = next(iter(response.get("content", _NO_BODY).items()))
    body = _content(operation.get("requestBody", {}))
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
        # What only a payment provider can sign, nobody can try.
        "curl": None
        if any(name.endswith("Signature") for item in operation["security"] for name in item)
        else _curl(method, path, operation, body),
        "answer": {
            "status": status,
            "phrase": response["description"],
            "content_type": content_type,
            "fields": _rows(document, content["schema"]),
            "headers": [
                {"name": name, "description": _resolve(document, header)["description"]}
                for name, header in response["headers"].items()
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
    headers = [name for name in response["headers"] if name != "X-Request-ID"]
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


def _curl(method: str, path: str, operation: Json, body: Json) -> str:
    """A curl line that works as it stands once BILLING_URL and BILLING_KEY are set."""
    parameters = [p for p in operation.get("parameters", ()) if "example" in p]
    query = []
    headers = _credentials(operation["security"])
    if body:
        headers.append("'Content-Type: application/json'")
    for parameter in parameters:
        value = str(parameter["example"])
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", quote(value, safe=":"))
        elif parameter["in"] == "query":
            query.append((parameter["name"], value))
        else:
            headers.append(shlex.quote(f"{parameter['name']}: {value}"))
    target = path + ("?" + urlencode(query, safe=":") if query else "")
    # For these two methods curl needs no option.
    how = "" if method == ("POST" if body else "GET") else f"-X {method} "
    lines = [f'curl -sS {how}"$BILLING_URL{target}"', *(f"-H {header}" for header in headers)]
    if body:
        lines.append(f"-d {shlex.quote(_pretty(body['example']))}")
    return " \\\n  ".join(lines)


def _credentials(security: list[Json]) -> list[str]:
    if {"StaffToken": []} in security:
        return ['"Authorization: Bearer $BILLING_TOKEN"']
    return ['"X-API-Key: $BILLING_KEY"'] if security else []


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
