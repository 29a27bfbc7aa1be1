"""API keys in the staff API, from their making to their end."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from tests.http.admin_api.helpers import (
    AGENT,
    NOBODYS_ID,
    Z_TIME,
    Person,
    audit_rows,
)
from tests.http.contract import (
    assert_error,
    faults_of,
)
from tests.support import (
    Service,
    charge_body,
    identity,
    unique,
    wait_for,
)

KEY = (
    *("id", "name", "key_prefix", "environment", "permissions", "status", "created_at"),
    *("expires_at", "last_used_at", "created_by_email"),
)


# API keys


def may_check(service: Service, secret: str) -> httpx2.Response:
    """Whether a key is good."""
    return httpx2.post(
        f"{service.base_url}/v1/billing/credits/check",
        json=identity(),
        headers={"X-API-Key": secret},
        timeout=30,
        verify=False,
    )


def test_a_key_is_made_shown_once_and_works(service: Service, admin: Person) -> None:
    answer = admin.post("/api-keys", {"name": "scout", "description": "for tests", "extra": 1})
    assert answer.status_code == 201
    key = answer.json()
    assert tuple(key) == (
        *("id", "name", "key_prefix", "plaintext_key", "environment", "permissions"),
        *("expires_at", "created_at"),
    )
    assert re.fullmatch(r"cbk_live_[A-Za-z0-9_-]{43}", key["plaintext_key"])
    assert key["key_prefix"] == key["plaintext_key"][:20]
    assert key["permissions"] == ["billing:read", "billing:write"]
    assert (key["environment"], key["expires_at"]) == ("live", None)
    assert re.fullmatch(Z_TIME, key["created_at"])
    assert may_check(service, key["plaintext_key"]).status_code == 200
    listed = admin.get("/api-keys")
    assert isinstance(listed, list)
    assert tuple(listed[0])[: len(KEY)] == KEY
    assert listed[0]["id"] == key["id"]
    assert listed[0]["created_by_email"] == admin.email
    assert listed[0]["description"] == "for tests"
    assert key["plaintext_key"][20:] not in json.dumps(listed)
    (row,) = audit_rows(service, key["id"])
    assert row[:2] == ("api_key.create", admin.id)
    assert row[4:6] == ("127.0.0.1", AGENT)
    everything = service.database.value(
        "SELECT string_agg(l::text, ' ') FROM billing_data.admin_audit_logs AS l"
    )
    assert key["plaintext_key"][20:] not in everything + service.process.output


def test_a_key_may_be_for_tests_read_only_and_for_a_while(service: Service, admin: Person) -> None:
    body = {
        "name": "n" * 255,
        "environment": "test",
        "permissions": ["billing:read"],
        "expires_in_days": 3650,
    }
    key = admin.post("/api-keys", body).json()
    assert key["plaintext_key"].startswith("cbk_test_")
    left = datetime.fromisoformat(key["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=3649) < left <= timedelta(days=3650)
    charge = httpx2.post(
        f"{service.base_url}/v1/billing/charges",
        json=charge_body(unique()),
        headers={"X-API-Key": key["plaintext_key"]},
        verify=False,
    )
    assert_error(charge, 403, "Missing required permission: billing:write")
    useless = admin.post("/api-keys", {"name": "x", "permissions": []}).json()
    assert may_check(service, useless["plaintext_key"]).status_code == 403


@pytest.mark.parametrize("permission", ["billing:wirte", "BILLING:READ", "billing:read ", "*", ""])
def test_a_permission_that_there_is_not_is_refused(
    service: Service, admin: Person, permission: str
) -> None:
    name = unique()
    response = admin.post("/api-keys", {"name": name, "permissions": ["billing:read", permission]})
    assert response.status_code == 422
    problem = "it must be a list of billing:read, billing:write"
    assert response.json()["detail"] == f"Invalid permissions: {problem}"
    assert name not in [key["name"] for key in admin.get("/api-keys")]


def test_keys_are_listed_by_environment_and_state(service: Service, admin: Person) -> None:
    made = {
        env: admin.post("/api-keys", {"name": unique(), "environment": env}).json()["id"]
        for env in ("test", "live")
    }
    admin.delete(f"/api-keys/{made['test']}")
    for env, status, expected in (
        ("test", "revoked", {made["test"]}),
        ("test", "active", set()),
        ("live", "active", {made["live"]}),
        ("live", "rotating", set()),
    ):
        listed = admin.get("/api-keys", environment=env, status_filter=status)
        assert all((one["environment"], one["status"]) == (env, status) for one in listed)
        assert {one["id"] for one in listed} & set(made.values()) == expected
    times = [one["created_at"] for one in admin.get("/api-keys")]
    assert times == sorted(times, reverse=True)


def _reasons(service: Service, resource_id: str) -> list[str | None]:
    """Why, oldest first, as the audit log has it."""
    rows = service.database.execute(
        "SELECT l.reason FROM billing_data.admin_audit_logs AS l"
        " WHERE l.resource_id = %s ORDER BY l.created_at",
        resource_id,
    )
    return [reason for (reason,) in rows]


def test_a_revoked_key_is_refused_at_its_next_request(service: Service, admin: Person) -> None:
    key = admin.post("/api-keys", {"name": "x"}).json()
    assert may_check(service, key["plaintext_key"]).status_code == 200
    for _ in range(2):
        gone = admin.delete(f"/api-keys/{key['id']}?reason=it+leaked")
        assert (gone.status_code, gone.content) == (204, b"")
    refused = may_check(service, key["plaintext_key"])
    assert_error(refused, 401, "Authentication failed: Invalid API key")
    assert [row[0] for row in audit_rows(service, key["id"])] == [
        "api_key.revoke",
        "api_key.create",
    ]
    assert _reasons(service, key["id"]) == [None, "it leaked"]
    unknown = admin.delete(f"/api-keys/{NOBODYS_ID}")
    assert_error(unknown, 404, f"API key not found: {NOBODYS_ID}")
    assert faults_of(admin.delete("/api-keys/x"))[0]["type"] == "uuid_parsing"


def test_a_rotated_key_works_for_a_day_more(service: Service, admin: Person) -> None:
    old = admin.post(
        "/api-keys",
        {
            "name": "scout",
            "environment": "test",
            "permissions": ["billing:read"],
            "expires_in_days": 30,
        },
    ).json()
    before = datetime.now(UTC)
    answer = admin.post(f"/api-keys/{old['id']}/rotate?reason=yearly")
    assert answer.status_code == 200
    new = answer.json()
    assert tuple(new) == (
        *("id", "name", "new_key_prefix", "new_plaintext_key", "old_key_expires_at", "new_key"),
    )
    assert new["id"] != old["id"]
    assert new["name"] == "scout"
    assert new["new_plaintext_key"].startswith("cbk_test_")
    assert new["new_key_prefix"] == new["new_plaintext_key"][:20]
    inner = new["new_key"]
    assert inner["plaintext_key"] == new["new_plaintext_key"]
    assert (inner["name"], inner["environment"], inner["permissions"]) == (
        "scout",
        "test",
        ["billing:read"],
    )
    assert re.fullmatch(Z_TIME, new["old_key_expires_at"])
    grace = datetime.fromisoformat(new["old_key_expires_at"]) - before
    assert timedelta(hours=24) <= grace < timedelta(hours=24, minutes=1)
    for secret in (old["plaintext_key"], new["new_plaintext_key"]):
        assert may_check(service, secret).status_code == 200
    (listed,) = [one for one in admin.get("/api-keys") if one["id"] == old["id"]]
    assert (listed["status"], listed["rotated_to"]) == ("rotating", new["id"])
    again = admin.post(f"/api-keys/{old['id']}/rotate")
    assert_error(again, 409, "API key cannot be rotated: its status is rotating")
    service.database.execute(
        "UPDATE billing_data.api_keys SET expires_at = now() - interval '1 second' WHERE id = %s",
        old["id"],
    )
    ended = may_check(service, old["plaintext_key"])
    assert_error(ended, 401, "Authentication failed: API key expired")
    once_more = may_check(service, old["plaintext_key"])
    assert_error(once_more, 401, "Authentication failed: Invalid API key")
    assert may_check(service, new["new_plaintext_key"]).status_code == 200
    assert [row[0] for row in audit_rows(service, old["id"])] == [
        "api_key.rotate",
        "api_key.create",
    ]
    assert _reasons(service, old["id"]) == [None, "yearly"]
    assert _reasons(service, new["id"]) == ["yearly"]
    assert new["new_plaintext_key"][20:] not in service.process.output


def test_a_key_in_its_last_day_can_be_revoked(service: Service, admin: Person) -> None:
    old = admin.post("/api-keys", {"name": "x"}).json()
    admin.post(f"/api-keys/{old['id']}/rotate")
    assert admin.delete(f"/api-keys/{old['id']}").status_code == 204
    assert may_check(service, old["plaintext_key"]).status_code == 401


def test_an_unknown_key_cannot_be_rotated(admin: Person) -> None:
    answer = admin.post(f"/api-keys/{NOBODYS_ID}/rotate")
    assert_error(answer, 400, f"API key not found: {NOBODYS_ID}")


def test_the_last_use_of_a_key_is_told(service: Service, admin: Person) -> None:
    key = admin.post("/api-keys", {"name": "x"}).json()
    may_check(service, key["plaintext_key"])

    def used() -> Any:
        (one,) = [one for one in admin.get("/api-keys") if one["id"] == key["id"]]
        return one if one["last_used_at"] else None

    found = wait_for(used, "the use to be recorded")
    assert found["last_used_ip"] == "127.0.0.1"
    assert re.fullmatch(Z_TIME, found["last_used_at"])
