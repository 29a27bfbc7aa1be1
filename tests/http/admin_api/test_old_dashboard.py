"""The old service's dashboard calls the staff's API without /api."""

from __future__ import annotations

import pytest

from server.http.route import STAFF
from server.routes import OLD_ADDRESSES, ROUTES
from tests.http.admin_api.helpers import Person, hire, new_account
from tests.support import Service, unique

READS = ["/users", "/users?search=nobody", "/api-keys", "/analytics/overview", "/config/providers"]


@pytest.mark.parametrize("path", READS)
def test_an_address_without_api_answers_like_the_one_with_it(viewer: Person, path: str) -> None:
    old = viewer.call("GET", f"/admin{path}")
    new = viewer.call("GET", f"/admin/api{path}")
    assert (old.status_code, new.status_code) == (200, 200)
    assert old.headers["content-type"] == new.headers["content-type"] == "application/json"
    assert old.json() == new.json()


def test_one_user_and_the_days_are_read_there_too(viewer: Person, service: Service) -> None:
    account_id = new_account(service)
    assert viewer.call("GET", f"/admin/users/{account_id}").json()["account_id"] == account_id
    assert len(viewer.call("GET", "/admin/analytics/daily?days=3").json()) == 4


def test_keys_and_providers_are_changed_there_too(admin: Person) -> None:
    made = admin.call("POST", "/admin/api-keys", json={"name": unique("key")})
    assert made.status_code == 201
    rotated = admin.call("POST", f"/admin/api-keys/{made.json()['id']}/rotate")
    assert rotated.status_code == 200
    assert admin.call("DELETE", f"/admin/api-keys/{rotated.json()['id']}").status_code == 204
    changed = admin.call("PUT", "/admin/config/providers/stripe", json={"is_enabled": False})
    assert changed.status_code == 200


def test_who_may_not_is_refused_there_too(service: Service) -> None:
    assert Person(service).call("GET", "/admin/users").status_code == 401
    made = hire(service, "viewer").call("POST", "/admin/api-keys", json={"name": "x"})
    assert made.status_code == 403


def test_every_old_address_is_guarded_like_the_one_it_stands_for() -> None:
    twins = {(route.method, route.path): route for route in ROUTES}
    assert len(OLD_ADDRESSES) == 10
    for route in OLD_ADDRESSES:
        twin = twins[route.method, route.path.replace("/admin/", "/admin/api/", 1)]
        assert (route.guard, route.handler) == (STAFF, twin.handler)
        assert (route.method, route.path) not in twins
