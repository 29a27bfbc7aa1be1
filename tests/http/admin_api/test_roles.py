"""Who may do what in the staff API: every route, by every way of naming oneself."""

from __future__ import annotations

import pytest

from server.http.route import STAFF
from server.routes import ROUTES
from tests.http.admin_api.helpers import (
    EVERY_WRITE,
    MATRIX,
    PUBLIC_URL,
    Person,
    audit_rows,
    hire,
    session_cookie,
)
from tests.http.contract import (
    assert_error,
)
from tests.support import (
    Service,
)

EVERY_ROUTE = pytest.mark.parametrize("route", MATRIX, ids=" ".join)


def test_the_role_matrix_has_every_route_of_the_staff() -> None:
    assert {(route.method, route.path) for route in ROUTES if route.guard == STAFF} == set(MATRIX)


@EVERY_ROUTE
def test_an_administrator_may_do_everything(
    service: Service, admin: Person, route: tuple[str, str]
) -> None:
    wanted = MATRIX[route](service)
    answer = admin.call(route[0], wanted.path, json=wanted.body)
    assert answer.status_code == wanted.success, answer.text
    assert answer.headers["cache-control"] == "no-store"


@EVERY_ROUTE
def test_a_viewer_sees_everything_and_changes_nothing(
    service: Service, viewer: Person, route: tuple[str, str]
) -> None:
    wanted = MATRIX[route](service)
    before = audit_rows(service)
    answer = viewer.call(route[0], wanted.path, json=wanted.body)
    if route[0] == "GET":
        assert answer.status_code == wanted.success
    else:
        assert_error(answer, 403, "Admin role required. Your role: viewer (read-only)")
        assert answer.json()["code"] == "admin_role_required"
    assert audit_rows(service) == before


@EVERY_ROUTE
def test_nobody_gets_nothing(service: Service, route: tuple[str, str]) -> None:
    wanted = MATRIX[route](service)
    before = audit_rows(service)
    answer = Person(service).call(route[0], wanted.path, json=wanted.body)
    assert_error(answer, 401, "Not authenticated")
    if route[1] != "/admin/oauth/user":
        assert answer.headers["www-authenticate"] == "Bearer"
    else:
        assert "www-authenticate" not in answer.headers
    assert audit_rows(service) == before


@EVERY_ROUTE
def test_an_api_key_opens_none_of_it(service: Service, route: tuple[str, str]) -> None:
    wanted = MATRIX[route](service)
    for headers in (
        {"X-API-Key": service.key.secret},
        {"Authorization": f"Bearer {service.key.secret}"},
    ):
        answer = Person(service).call(route[0], wanted.path, json=wanted.body, headers=headers)
        assert answer.status_code == 401


@EVERY_WRITE
@pytest.mark.parametrize("role", ["admin", "viewer"])
def test_a_browser_session_writes_only_for_our_own_pages(
    service: Service, admin: Person, viewer: Person, role: str, route: tuple[str, str]
) -> None:
    cookie = session_cookie(admin if role == "admin" else viewer)
    nobody = Person(service)
    for origin in (
        {},
        {"Origin": "https://evil.example.com"},
        {"Origin": "null"},
        {"Origin": f"{PUBLIC_URL}.evil.example.com"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example.com", "Sec-Fetch-Site": "same-origin"},
    ):
        wanted = MATRIX[route](service)
        before = audit_rows(service)
        answer = nobody.call(
            route[0], wanted.path, json=wanted.body, headers={"Cookie": cookie, **origin}
        )
        assert_error(answer, 403, "Calls with a browser session must come from our own pages")
        assert answer.json()["code"] == "cross_origin"
        assert audit_rows(service) == before
    for origin in ({"Origin": PUBLIC_URL}, {"Sec-Fetch-Site": "same-origin"}):
        wanted = MATRIX[route](service)
        answer = nobody.call(
            route[0], wanted.path, json=wanted.body, headers={"Cookie": cookie, **origin}
        )
        assert answer.status_code == (wanted.success if role == "admin" else 403), answer.text


@EVERY_ROUTE
def test_a_browser_session_reads(service: Service, viewer: Person, route: tuple[str, str]) -> None:
    if route[0] == "GET":
        wanted = MATRIX[route](service)
        cookie = session_cookie(viewer)
        answer = Person(service).call("GET", wanted.path, headers={"Cookie": cookie})
        assert answer.status_code == 200


@EVERY_ROUTE
def test_whoever_was_deactivated_is_out_at_once(
    service: Service, admin: Person, route: tuple[str, str]
) -> None:
    leaver = hire(service, "admin")
    cookie = session_cookie(leaver)
    assert leaver.get("/staff")
    gone = admin.put(f"/staff/{leaver.email}", {"is_active": False, "reason": "left"})
    assert gone.json()["is_active"] is False
    wanted = MATRIX[route](service)
    by_token = leaver.call(route[0], wanted.path, json=wanted.body)
    is_user = route[1] == "/admin/oauth/user"
    assert_error(by_token, 403, "User not authorized" if is_user else "User account is deactivated")
    headers = {"Cookie": cookie, "Origin": PUBLIC_URL}
    by_session = Person(service).call(route[0], wanted.path, json=wanted.body, headers=headers)
    assert_error(by_session, 401, "Invalid or expired token")
