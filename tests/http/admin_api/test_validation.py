"""What the staff API refuses, and in which words."""

from __future__ import annotations

import re
from typing import Any

import pytest

from server.http.route import STAFF
from server.routes import ROUTES
from tests.http.admin_api.helpers import (
    EVERY_WRITE,
    MATRIX,
    Json,
    Person,
    audit_rows,
    new_account,
)
from tests.http.contract import (
    INT64_MAX,
    assert_error,
    fault,
    faults_of,
)
from tests.support import (
    Service,
)

# Validation


@EVERY_WRITE
def test_whoever_may_not_is_told_so_before_what_is_wrong(
    service: Service, viewer: Person, route: tuple[str, str]
) -> None:
    path = re.sub(r"{\w+}", "nonsense", route[1])
    for body in (b"{", b"[]", b"{}", b""):
        headers = {"Content-Type": "application/json"}
        nobody = Person(service).call(route[0], path, content=body, headers=headers)
        assert_error(nobody, 401, "Not authenticated")
        answer = viewer.call(route[0], path, content=body, headers=headers)
        assert_error(answer, 403, "Admin role required. Your role: viewer (read-only)")


WITH_BODY = [(route.method, route.path) for route in ROUTES if route.guard == STAFF and route.body]


EVERY_BODY = pytest.mark.parametrize("route", WITH_BODY, ids=" ".join)


@EVERY_BODY
def test_a_body_that_is_no_json_is_told_where(
    service: Service, admin: Person, route: tuple[str, str]
) -> None:
    path = MATRIX[route](service).path
    headers = {"Content-Type": "application/json"}
    broken = admin.call(route[0], path, content=b'{"reason": ', headers=headers)
    assert faults_of(broken) == [
        fault("json_invalid", ["body", 11], "JSON decode error", {}, {"error": "Expecting value"})
    ]
    absent = admin.call(route[0], path)
    assert faults_of(absent) == [fault("missing", ["body"], "Field required", None)]
    other = admin.call(route[0], path, content=b"reason=x", headers={"Content-Type": "text/plain"})
    assert faults_of(other)[0]["type"] == "model_attributes_type"
    array = admin.call(route[0], path, json=[])
    assert faults_of(array)[0]["type"] == "model_attributes_type"


@EVERY_BODY
def test_a_body_that_is_packed_or_too_large_is_refused(
    service: Service, admin: Person, route: tuple[str, str]
) -> None:
    wanted = MATRIX[route](service)
    packed = admin.call(
        route[0], wanted.path, json=wanted.body, headers={"Content-Encoding": "gzip"}
    )
    assert packed.status_code == 415
    large = admin.call(route[0], wanted.path, json={"filler": "x" * 1_200_000})
    assert large.status_code == 413


def _too_long(field: str, most: int) -> Json:
    return fault(
        "string_too_long",
        ["body", field],
        f"String should have at most {most} characters",
        "x" * (most + 1),
        {"max_length": most},
    )


def _pattern(where: str, field: str, pattern: str, given: str) -> Json:
    return fault(
        "string_pattern_mismatch",
        [where, field],
        f"String should match pattern '{pattern}'",
        given,
        {"pattern": pattern},
    )


def _bound(where: str, field: str, bound: int, given: Any, at_least: bool) -> Json:
    word, kind, name = ("greater", "greater_than_equal", "ge")
    if not at_least:
        word, kind, name = ("less", "less_than_equal", "le")
    return fault(
        kind,
        [where, field],
        f"Input should be {word} than or equal to {bound}",
        given,
        {name: bound},
    )


_ENV, _STATE = "^(test|live)$", "^(active|rotating|revoked)$"


_NUL = "String should not contain NUL characters"


@pytest.mark.parametrize(
    ("path", "query", "entry"),
    [
        ("/users", {"page": "0"}, _bound("query", "page", 1, "0", True)),
        ("/users", {"page_size": "0"}, _bound("query", "page_size", 1, "0", True)),
        ("/users", {"page_size": "501"}, _bound("query", "page_size", 500, "501", False)),
        ("/users", {"search": "a\0"}, fault("string_nul", ["query", "search"], _NUL, "a\0")),
        (
            "/users",
            {"sort": "id; DROP"},
            _pattern("query", "sort", "^(newest|oldest|email|credits|uses)$", "id; DROP"),
        ),
        ("/api-keys", {"environment": "prod"}, _pattern("query", "environment", _ENV, "prod")),
        ("/api-keys", {"environment": "live\n"}, _pattern("query", "environment", _ENV, "live\n")),
        ("/api-keys", {"status_filter": ""}, _pattern("query", "status_filter", _STATE, "")),
        ("/analytics/daily", {"days": "0"}, _bound("query", "days", 1, "0", True)),
        ("/analytics/daily", {"days": "366"}, _bound("query", "days", 365, "366", False)),
        (
            "/analytics/daily",
            {"days": "many"},
            fault(
                "int_parsing",
                ["query", "days"],
                "Input should be a valid integer, unable to parse string as an integer",
                "many",
            ),
        ),
    ],
)
def test_a_query_at_fault_is_told_in_the_contracts_words(
    viewer: Person, path: str, query: Json, entry: Json
) -> None:
    answer = viewer.call("GET", f"/admin/api{path}", params=query)
    assert faults_of(answer) == [entry]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/users", {"page": "1.5"}),
        ("/users", {"page": str(10**30)}),
        ("/users", {"page": "-1"}),
        ("/users", {"match": "regex"}),
        ("/purchases", {"account_id": "ada"}),
        ("/purchases", {"status_filter": "lost"}),
        ("/payment-problems", {"page_size": "101"}),
        ("/audit-log", {"from": "yesterday"}),
        ("/audit-log", {"to": "2026-13-01"}),
        ("/audit-log", {"who": "\0"}),
        ("/users/not-an-id", {}),
        ("/users/not-an-id/transactions", {}),
        ("/users/not-an-id/checks", {}),
    ],
)
def test_a_query_or_path_at_fault_is_no_500(viewer: Person, path: str, query: Json) -> None:
    (entry,) = faults_of(viewer.call("GET", f"/admin/api{path}", params=query))
    if not query:
        assert (entry["type"], entry["loc"]) == ("uuid_parsing", ["path", "account_id"])


@pytest.mark.parametrize(
    ("body", "entry"),
    [
        (
            {},
            fault("missing", ["body", "name"], "Field required", {}),
        ),
        (
            {"name": ""},
            fault(
                "string_too_short",
                ["body", "name"],
                "String should have at least 1 character",
                "",
                {"min_length": 1},
            ),
        ),
        ({"name": "x" * 256}, _too_long("name", 255)),
        ({"name": "x", "environment": "prod"}, _pattern("body", "environment", _ENV, "prod")),
        (
            {"name": "x", "expires_in_days": 0},
            _bound("body", "expires_in_days", 1, 0, True),
        ),
        (
            {"name": "x", "expires_in_days": 3651},
            _bound("body", "expires_in_days", 3650, 3651, False),
        ),
        (
            {"name": "x", "permissions": [1]},
            fault("string_type", ["body", "permissions", 0], "Input should be a valid string", 1),
        ),
        (
            {"name": "x\0"},
            fault("string_nul", ["body", "name"], _NUL, "x\0"),
        ),
    ],
)
def test_a_key_at_fault_is_not_made(
    service: Service, admin: Person, body: Json, entry: Json
) -> None:
    before = audit_rows(service)
    assert faults_of(admin.post("/api-keys", body)) == [entry]
    assert audit_rows(service) == before


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("credits", {"amount_minor": 5}),
        ("credits", {"amount_minor": 5, "reason": ""}),
        ("credits", {"amount_minor": 5, "reason": " \t\n "}),
        ("credits", {"amount_minor": 5, "reason": "x" * 501}),
        ("credits", {"amount_minor": 5, "reason": "x\0"}),
        ("credits", {"amount_minor": 0, "reason": "x"}),
        ("credits", {"amount_minor": 1.5, "reason": "x"}),
        ("credits", {"amount_minor": INT64_MAX + 1, "reason": "x"}),
        ("credits", {"amount_minor": -INT64_MAX - 1, "reason": "x"}),
        ("credits", {"amount_minor": None, "reason": "x"}),
        ("free-uses", {}),
        ("free-uses", {"free_uses": -1, "reason": "x"}),
        ("free-uses", {"free_uses": INT64_MAX + 1, "reason": "x"}),
        ("status", {"status": "frozen", "reason": "x"}),
        ("status", {"status": "active"}),
    ],
)
def test_a_change_of_an_account_that_cannot_be_is_not_made(
    service: Service, admin: Person, what: str, body: Json
) -> None:
    account = new_account(service)
    before = admin.get(f"/users/{account}")
    send = admin.put if what == "status" else admin.post
    assert faults_of(send(f"/users/{account}/{what}", body))
    assert admin.get(f"/users/{account}") == before
    assert audit_rows(service, account) == []


def test_what_is_not_there_is_told_in_json(service: Service, viewer: Person) -> None:
    answer = viewer.call("GET", "/admin/api/nothing")
    assert_error(answer, 404, "Not Found")
    assert_error(viewer.call("DELETE", "/admin/api/users"), 405, "Method Not Allowed")
    moved = viewer.call("GET", "/admin/api/users/?page=2")
    assert (moved.status_code, moved.headers["location"]) == (307, "/admin/api/users?page=2")
