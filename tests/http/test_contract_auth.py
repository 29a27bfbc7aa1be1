"""Who may call (contract 1, 7.8, 8.24): the key's format, its lifetime, its permissions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx2
import pytest

from server.api_key_secret import new_secret
from tests.http.contract import (
    CHARGES,
    CHECK,
    ENDPOINTS,
    READING,
    assert_error,
    call,
    call_with_faults,
    fault,
    faults_of,
    row_counts,
)
from tests.support import Key, Service, charge_body, identity, unique

BAD_FORMAT = "Authentication failed: Invalid API key format"
INVALID = "Authentication failed: Invalid API key"
EXPIRED = "Authentication failed: API key expired"
Ask = Callable[..., httpx2.Response]
NO_HEADER = fault("missing", ["header", "x-api-key"], "Field required", None)


def expire(service: Service, key: Key) -> None:
    service.database.execute(
        "UPDATE billing_data.api_keys SET expires_at = now() - interval '1 second' WHERE id = %s",
        key.id,
    )


def revoke(service: Service, key: Key) -> None:
    service.database.execute(
        "SELECT r.status FROM billing.revoke_api_key(p_api_key_id => %s) AS r",
        key.id,
        user="t_dba",
    )


def assert_unauthorized(response: httpx2.Response, detail: str) -> None:
    assert_error(response, 401, detail)
    assert response.headers["www-authenticate"] == "ApiKey"


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("presented", ["", "nope", "CBK_test_x", "Bearer cbk_test_x", "cb", "cbk-"])
def test_what_does_not_start_with_cbk_has_no_key_format(
    stranger: httpx2.Client, endpoint: str, presented: str
) -> None:
    assert_unauthorized(call(stranger, endpoint, **{"X-API-Key": presented}), BAD_FORMAT)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("presented", ["cbk_", "cbk_test_", "cbk_test_" + "A" * 43, "cbk_é"])
def test_a_key_that_does_not_exist_is_invalid(
    stranger: httpx2.Client, endpoint: str, presented: str
) -> None:
    headers = {"X-API-Key": presented.encode()}
    assert_unauthorized(call(stranger, endpoint, **headers), INVALID)  # type: ignore[arg-type]


def test_a_key_with_a_wrong_tail_is_invalid_however_often_it_is_tried(
    service: Service, stranger: httpx2.Client
) -> None:
    wrong = service.key.secret[:-1] + ("a" if service.key.secret[-1] != "a" else "b")
    for presented in (wrong, wrong, service.key.secret + "x", service.key.secret[:-1]):
        assert_unauthorized(call(stranger, "check", **{"X-API-Key": presented}), INVALID)
    assert call(stranger, "check", **{"X-API-Key": service.key.secret}).status_code == 200


@pytest.mark.parametrize("name", ["X-API-Key", "x-api-key", "X-API-KEY", "x-Api-kEY"])
def test_the_header_may_be_written_in_any_case(
    service: Service, stranger: httpx2.Client, name: str
) -> None:
    assert call(stranger, "check", **{name: service.key.secret}).status_code == 200


def test_a_revoked_key_is_invalid_from_the_next_request_on(
    service: Service, stranger: httpx2.Client
) -> None:
    key = service.database.create_key()
    headers = {"X-API-Key": key.secret}
    assert call(stranger, "check", **headers).status_code == 200
    revoke(service, key)
    for endpoint in ENDPOINTS:
        assert_unauthorized(call(stranger, endpoint, **headers), INVALID)
        assert_unauthorized(call_with_faults(stranger, endpoint, **headers), INVALID)


@pytest.mark.parametrize("ask", [call, call_with_faults])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_expired_key_is_told_so_once_and_is_invalid_from_then_on(
    service: Service, stranger: httpx2.Client, endpoint: str, ask: Ask
) -> None:
    key = service.database.create_key()
    expire(service, key)
    headers = {"X-API-Key": key.secret}
    assert_unauthorized(ask(stranger, endpoint, **headers), EXPIRED)
    assert_unauthorized(ask(stranger, endpoint, **headers), INVALID)
    status = service.database.value(
        "SELECT status FROM billing_data.api_keys WHERE id = %s", key.id
    )
    assert status == "revoked"


def test_expiry_is_checked_at_each_use_of_a_key_that_worked_before(
    service: Service, stranger: httpx2.Client
) -> None:
    key = service.database.create_key()
    headers = {"X-API-Key": key.secret}
    assert call(stranger, "check", **headers).status_code == 200
    expire(service, key)
    assert_unauthorized(call(stranger, "check", **headers), EXPIRED)
    assert_unauthorized(call(stranger, "check", **headers), INVALID)


@pytest.mark.parametrize("ask", [call, call_with_faults])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_key_without_the_permission_is_told_which_one_it_lacks(
    service: Service, stranger: httpx2.Client, endpoint: str, ask: Ask
) -> None:
    wanted, other = "billing:read", "billing:write"
    if endpoint not in READING:
        wanted, other = other, wanted
    key = service.database.create_key([other])
    before = row_counts(service)
    response = ask(stranger, endpoint, **{"X-API-Key": key.secret})
    assert_error(response, 403, f"Missing required permission: {wanted}")
    assert "www-authenticate" not in response.headers
    assert row_counts(service) == before


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_one_permission_an_endpoint_names_is_enough(
    service: Service, stranger: httpx2.Client, endpoint: str
) -> None:
    key = service.database.create_key(["billing:read" if endpoint in READING else "billing:write"])
    assert call(stranger, endpoint, **{"X-API-Key": key.secret}).status_code not in (401, 403)


@pytest.mark.parametrize(
    "permissions", [[], ["billing:*"], ["BILLING:READ"], ["billing"], ["billing:read "], ["*"]]
)
def test_permissions_are_matched_exactly(
    service: Service, stranger: httpx2.Client, permissions: list[str]
) -> None:
    key = service.database.create_key(permissions)
    response = call(stranger, "check", **{"X-API-Key": key.secret})
    assert_error(response, 403, "Missing required permission: billing:read")


def test_malformed_json_is_told_before_anything_about_the_key(
    service: Service, stranger: httpx2.Client
) -> None:
    expected = [
        fault(
            "json_invalid",
            ["body", 1],
            "JSON decode error",
            {},
            {"error": "Expecting property name enclosed in double quotes"},
        )
    ]
    reader = service.database.create_key(["billing:read"])
    for key in ({}, {"X-API-Key": "nope"}, {"X-API-Key": "cbk_x"}, {"X-API-Key": reader.secret}):
        headers = {"Content-Type": "application/json", **key}
        response = stranger.post(CHARGES, content=b"{", headers=headers)
        assert faults_of(response) == expected


def test_a_missing_key_is_the_first_entry_of_a_422(stranger: httpx2.Client) -> None:
    assert faults_of(stranger.post(CHECK, json=identity())) == [NO_HEADER]
    body = {"oauth_provider": 1, "marketing_opt_in": None}
    assert [(e["loc"], e["type"]) for e in faults_of(stranger.post(CHECK, json=body))] == [
        (["header", "x-api-key"], "missing"),
        (["body", "oauth_provider"], "string_type"),
        (["body", "external_id"], "missing"),
        (["body", "marketing_opt_in"], "bool_type"),
    ]
    response = stranger.post(CHECK)
    assert faults_of(response) == [NO_HEADER, fault("missing", ["body"], "Field required", None)]


def test_a_missing_key_comes_before_faults_of_path_and_query(stranger: httpx2.Client) -> None:
    response = stranger.get(f"/v1/billing/accounts/x/{'a' * 256}", params={"wa_id": "b" * 256})
    assert [(e["loc"], e["type"]) for e in faults_of(response)] == [
        (["header", "x-api-key"], "missing"),
        (["path", "oauth_provider"], "value_error"),
        (["path", "external_id"], "string_too_long"),
        (["query", "wa_id"], "string_too_long"),
    ]
    response = stranger.get("/v1/billing/transactions", params={"limit": "x", "offset": "-1"})
    assert [(e["loc"], e["type"]) for e in faults_of(response)] == [
        (["header", "x-api-key"], "missing"),
        (["query", "oauth_provider"], "missing"),
        (["query", "external_id"], "missing"),
        (["query", "limit"], "int_parsing"),
        (["query", "offset"], "greater_than_equal"),
    ]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_bad_key_is_told_before_faults_of_the_fields(
    stranger: httpx2.Client, endpoint: str
) -> None:
    response = call_with_faults(stranger, endpoint, **{"X-API-Key": "nope"})
    assert_unauthorized(response, BAD_FORMAT)
    response = call_with_faults(stranger, endpoint, **{"X-API-Key": "cbk_nope"})
    assert_unauthorized(response, INVALID)


def test_a_bad_key_is_told_before_business_errors(stranger: httpx2.Client) -> None:
    response = stranger.post(CHARGES, json=charge_body(unique()), headers={"X-API-Key": "cbk_x"})
    assert_unauthorized(response, INVALID)


def test_a_rotated_key_works_beside_its_successor_until_its_grace_ends(
    service: Service, stranger: httpx2.Client
) -> None:
    key = service.database.create_key()
    successor = new_secret("test")
    grace = service.database.value(
        "SELECT r.old_key_expires_at - now() FROM billing.rotate_api_key(p_api_key_id => %s,"
        " p_key_prefix => %s, p_key_hash => %s) AS r",
        key.id,
        successor.prefix,
        successor.hash,
        user="t_dba",
    )
    assert grace.total_seconds() == pytest.approx(24 * 3600, abs=60)
    for secret in (key.secret, successor.plaintext):
        assert call(stranger, "check", **{"X-API-Key": secret}).status_code == 200
    expire(service, key)
    assert_unauthorized(call(stranger, "check", **{"X-API-Key": key.secret}), EXPIRED)
    assert call(stranger, "check", **{"X-API-Key": successor.plaintext}).status_code == 200


def test_test_and_live_keys_see_the_same_data(service: Service, stranger: httpx2.Client) -> None:
    live = new_secret("live")
    service.database.execute(
        "SELECT k.api_key_id FROM billing.create_api_key(p_name => 'live', p_key_prefix => %s,"
        " p_key_hash => %s, p_environment => 'live') AS k",
        live.prefix,
        live.hash,
        user="t_dba",
    )
    user = unique()
    for secret, left in ((service.key.secret, 2), (live.plaintext, 1)):
        headers = {"X-API-Key": secret}
        assert call(stranger, "check", user, **headers).json()["free_uses_remaining"] == left + 1
        charge = stranger.post(CHARGES, json=charge_body(user), headers=headers)
        assert charge.json()["free_uses_remaining"] == left


@dataclass(frozen=True)
class LastUse:
    """When and from where a key was last used, as recorded, and when it really was."""

    before: datetime
    at: datetime | None
    address: str | None


@pytest.fixture(scope="module")
def last_uses(service: Service, stranger: httpx2.Client) -> dict[str, LastUse]:
    """Keys used in several ways, once the first of them has its use recorded (at most 10 s)."""
    keys = {name: service.database.create_key() for name in ("good", "faulty", "revoked")}
    before: dict[str, datetime] = {}

    def use(name: str, ask: Ask = call) -> int:
        return ask(stranger, "check", **{"X-API-Key": keys[name].secret}).status_code

    def read(name: str) -> tuple[datetime | None, str | None]:
        return service.database.execute(
            "SELECT last_used_at, host(last_used_ip) FROM billing_data.api_keys WHERE id = %s",
            keys[name].id,
        )[0]

    assert use("revoked") == 200
    revoke(service, keys["revoked"])
    before["revoked"] = datetime.now(UTC)
    assert use("revoked") == 401
    before["faulty"] = datetime.now(UTC)
    assert use("faulty", call_with_faults) == 422
    before["good"] = datetime.now(UTC)
    assert use("good") == 200
    deadline = time.monotonic() + 10
    while read("good")[0] is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return {name: LastUse(before[name], *read(name)) for name in keys}


def test_the_last_use_of_a_key_is_recorded_with_its_address(last_uses: dict[str, LastUse]) -> None:
    use = last_uses["good"]
    assert use.at is not None
    assert use.before <= use.at <= datetime.now(UTC)
    assert use.address == "127.0.0.1"


def test_a_good_key_whose_request_is_at_fault_was_used_all_the_same(
    last_uses: dict[str, LastUse],
) -> None:
    use = last_uses["faulty"]
    assert use.at is not None
    assert use.address == "127.0.0.1"


def test_a_refused_use_of_a_revoked_key_is_no_use(last_uses: dict[str, LastUse]) -> None:
    use = last_uses["revoked"]
    assert use.at is not None
    assert use.at < use.before
