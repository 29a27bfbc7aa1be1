"""How staff name themselves to the staff API: bearer tokens and cookies, good ones and others."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import psycopg
import pytest

from tests.http.admin_api.helpers import (
    BAD,
    PUBLIC_URL,
    SECRET,
    Person,
    hire,
    session_cookie,
    staff_environment,
    stranger,
    token,
)
from tests.http.contract import (
    assert_error,
)
from tests.http.descriptions import CODES
from tests.sql.helpers import set_staff_domain
from tests.support import (
    Database,
    Service,
    running_service,
    unique,
)


def unsigned(person: Person, algorithm: str = "none") -> str:
    """A token that says it needs no signature."""
    parts = [
        {"alg": algorithm, "typ": "JWT"},
        {
            "sub": person.id,
            "iat": int(time.time()),
            "exp": int(time.time()) + 3600,
            "jti": unique(),
        },
    ]
    encoded = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts
    ]
    return person.service.database.know_token(".".join([*encoded, ""]), person.email)


BAD_TOKENS: dict[str, tuple[Callable[[Person], str], str]] = {
    "no header's content": (lambda p: "Bearer", "Not authenticated"),
    "another scheme": (lambda p: f"Basic {p.token}", "Not authenticated"),
    "no scheme": (lambda p: p.token, "Not authenticated"),
    "not a token": (lambda p: "Bearer abc", BAD),
    "more than a token": (lambda p: f"Bearer {p.token} {p.token}", BAD),
    "expired": (
        lambda p: f"Bearer {token(p, exp=datetime.now(UTC) - timedelta(seconds=1))}",
        BAD,
    ),
    "never expiring": (lambda p: f"Bearer {token(p, exp=None)}", BAD),
    "without a time": (lambda p: f"Bearer {token(p, iat=None)}", BAD),
    "of another secret": (lambda p: f"Bearer {token(p, secret='x' * 16 + SECRET)}", BAD),
    "of no secret": (lambda p: f"Bearer {unsigned(p)}", BAD),
    "of no secret, shouted": (lambda p: f"Bearer {unsigned(p, 'NONE')}", BAD),
    "changed": (lambda p: f"Bearer {p.token[:-4]}AAAA", BAD),
    "of nobody": (lambda p: f"Bearer {token(p, sub=None)}", "Invalid token payload"),
    "of no id": (lambda p: f"Bearer {token(p, sub='ada')}", "Invalid token payload"),
    "that nobody was given": (lambda p: f"Bearer {stranger(p)}", BAD),
}


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_a_token_that_is_not_good_opens_nothing(service: Service, admin: Person, name: str) -> None:
    make, detail = BAD_TOKENS[name]
    for method, path in (("GET", "/admin/api/users"), ("POST", "/admin/api/api-keys")):
        headers = {"Authorization": make(admin)}
        answer = Person(service).call(method, path, json={}, headers=headers)
        assert_error(answer, 401, detail)
        assert answer.headers["www-authenticate"] == "Bearer"


def test_the_header_beats_the_cookie(service: Service, admin: Person, viewer: Person) -> None:
    headers = {"Cookie": session_cookie(admin), "Origin": PUBLIC_URL}
    answer = viewer.post("/api-keys", {"name": "x"}, **headers)
    assert answer.status_code == 403
    bad = Person(service, token="abc").call("GET", "/admin/api/users", headers=headers)
    assert_error(bad, 401, BAD)
    good = admin.post("/api-keys", {"name": "x"}, Cookie="admin_token=rubbish")
    assert good.status_code == 201


@pytest.mark.parametrize("value", ["rubbish", "", "gAAAAA", "\u00ff\u00fe", "a" * 3000])
def test_a_cookie_that_is_not_ours_opens_nothing(service: Service, value: str) -> None:
    headers: Any = {"Cookie": f"admin_token={value}".encode("latin-1")}
    answer = httpx2.get(f"{service.base_url}/admin/api/users", headers=headers, verify=False)
    assert_error(answer, 401, BAD)


@pytest.mark.parametrize("header", ["Authorization", "User-Agent", "Origin", "Cookie"])
def test_bytes_that_are_no_text_are_no_fault_of_ours(
    service: Service, admin: Person, header: str
) -> None:
    headers: dict[str, Any] = {"Authorization": f"Bearer {admin.token}".encode()}
    if header == "Origin":
        headers = {"Cookie": session_cookie(admin).encode()}
    headers[header] = {"Authorization": b"Bearer \xff\xfe"}.get(header, b"\xff\xfe")
    answer = httpx2.post(
        f"{service.base_url}/admin/api/api-keys", headers=headers, json={"name": "x"}, verify=False
    )
    wanted = {"Authorization": 401, "Origin": 403}.get(header, 201)
    assert answer.status_code == wanted, answer.text


def test_the_role_is_the_databases_not_the_tokens(service: Service, viewer: Person) -> None:
    lying = Person(service, token=token(viewer, role="admin"))
    assert lying.post("/api-keys", {"name": "x"}).status_code == 403


def test_the_command_lines_token_opens_the_door(service: Service, admin: Person) -> None:
    from tests.support import BILLING, Process

    process = Process(
        [BILLING, "admins", "token", admin.email],
        {"ADMIN_JWT_SECRET": SECRET, "DATABASE_URL": service.database.dsn("t_dba")},
    ).start()
    process.process.wait(30)
    assert process.stop() == 0
    printed = process.last_output.strip()
    me = Person(service, token=printed).call("GET", "/admin/oauth/user").json()
    assert me == {
        "id": admin.id,
        "email": admin.email,
        "name": admin.email.split("@")[0],
        "picture": None,
        "role": "admin",
    }


def test_without_a_secret_there_is_no_console(database: Database) -> None:
    with running_service(database) as service:
        nobody = Person(service, token="abc")
        answer = nobody.call("GET", "/admin/api/users")
        assert_error(answer, 503, "The staff console is not set up")
        assert answer.json()["code"] == "console_closed"
        for method, what in (("GET", "login"), ("GET", "callback"), ("POST", "logout")):
            answer = nobody.call(method, f"/admin/oauth/{what}")
            assert_error(answer, 503, CODES["sign_in_not_configured"]["detail"])


def test_without_a_database_staff_are_told_to_come_back(database: Database) -> None:
    set_staff_domain(database)
    with running_service(database, **staff_environment()) as service:
        person = hire(service, "admin")
        with psycopg.connect(database.cluster.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS false')
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                [database.name],
            )
        for method, path in (("GET", "/admin/api/users"), ("PUT", "/admin/api/config/pricing")):
            answer = person.call(method, path, json={})
            assert answer.status_code == 503
            assert answer.json()["code"] == "unavailable"
            assert int(answer.headers["retry-after"]) > 0
