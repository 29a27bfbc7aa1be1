"""Profile updates (contract 7.5) on checks, charges and credits, whatever the outcome of the
request."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from tests.http.contract import (
    ACCOUNTS,
    BATCH,
    CHARGES,
    CHECK,
    CREDITS,
    account_path,
    account_row,
    make_account,
)
from tests.support import Service, charge_body, credit_body, identity, unique

CARRIERS = ("check", "charges", "batch", "credits")
FULL = {
    "customer_email": "ann@example.com",
    "user_role": "observer",
    "agent_id": "agent-1",
    "marketing_opt_in": True,
    "marketing_opt_in_source": "signup",
}
FIELDS = (*FULL, "marketing_opt_in_at")


def carry(client: httpx2.Client, carrier: str, user: str, **profile: Any) -> httpx2.Response:
    """A request that carries a profile."""
    if carrier == "check":
        return client.post(CHECK, json={**identity(user), **profile})
    if carrier == "credits":
        return client.post(CREDITS, json=credit_body(user, **profile))
    if carrier == "batch":
        return client.post(BATCH, json={"charges": [charge_body(user, **profile)]})
    return client.post(CHARGES, json=charge_body(user, **profile))


def profile_of(service: Service, user: str) -> dict[str, Any]:
    row = account_row(service, user)
    return {field: row[field] for field in FIELDS}


def account_with_profile(service: Service, client: httpx2.Client, **state: Any) -> str:
    user = make_account(service, **state)
    assert carry(client, "check", user, **FULL).status_code == 200
    return user


@pytest.mark.parametrize("carrier", CARRIERS)
def test_what_is_given_is_stored_and_consent_is_stamped(
    service: Service, client: httpx2.Client, carrier: str
) -> None:
    user = make_account(service)
    before = datetime.now(UTC)
    assert carry(client, carrier, user, **FULL).status_code in (200, 201)
    profile = profile_of(service, user)
    assert {field: profile[field] for field in FULL} == FULL
    assert before <= datetime.fromisoformat(profile["marketing_opt_in_at"]) <= datetime.now(UTC)
    account = client.get(account_path(user)).json()
    assert account["customer_email"] == "ann@example.com"
    assert account["marketing_opt_in"] is True
    assert datetime.fromisoformat(account["marketing_opt_in_at"]) == datetime.fromisoformat(
        profile["marketing_opt_in_at"]
    )
    assert account["marketing_opt_in_source"] == "signup"


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize(
    ("field", "value"),
    [("customer_email", "bob@example.com"), ("user_role", "admin"), ("agent_id", "agent-2")],
)
def test_a_field_is_replaced_when_given_and_different(
    service: Service, client: httpx2.Client, carrier: str, field: str, value: str
) -> None:
    user = account_with_profile(service, client)
    before = profile_of(service, user)
    assert carry(client, carrier, user, **{field: value}).status_code in (200, 201)
    assert profile_of(service, user) == {**before, field: value}


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize(
    "profile",
    [
        {},
        {"customer_email": None, "user_role": None, "agent_id": None},
        {"marketing_opt_in": False},
        {"marketing_opt_in": False, "marketing_opt_in_source": "other"},
        {"marketing_opt_in_source": "other"},
        {"marketing_opt_in_source": None},
        {"marketing_opt_in": True},
        {"marketing_opt_in": True, "marketing_opt_in_source": "other"},
        FULL,
    ],
    ids=str,
)
def test_what_is_absent_null_equal_or_already_consented_changes_nothing(
    service: Service, client: httpx2.Client, carrier: str, profile: dict[str, Any]
) -> None:
    user = account_with_profile(service, client)
    before = profile_of(service, user)
    assert carry(client, carrier, user, **profile).status_code in (200, 201)
    assert profile_of(service, user) == before


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_source_without_consent_is_ignored(
    service: Service, client: httpx2.Client, carrier: str
) -> None:
    user = make_account(service)
    for profile in (
        {"marketing_opt_in_source": "signup"},
        {"marketing_opt_in_source": "signup", "marketing_opt_in": False},
    ):
        assert carry(client, carrier, user, **profile).status_code in (200, 201)
        stored = profile_of(service, user)
        assert stored["marketing_opt_in"] is False
        assert stored["marketing_opt_in_at"] is None
        assert stored["marketing_opt_in_source"] is None


@pytest.mark.parametrize("carrier", CARRIERS)
def test_consent_without_a_source_keeps_the_source_there_is(
    service: Service, client: httpx2.Client, carrier: str
) -> None:
    user = unique()
    made = {**identity(user), "marketing_opt_in_source": "import"}
    assert client.post(ACCOUNTS, json=made).status_code == 201
    assert carry(client, carrier, user, marketing_opt_in=True).status_code in (200, 201)
    stored = profile_of(service, user)
    assert (stored["marketing_opt_in"], stored["marketing_opt_in_source"]) == (True, "import")
    assert stored["marketing_opt_in_at"] is not None


@pytest.mark.parametrize("creator", [CHECK, ACCOUNTS])
def test_creation_stores_the_profile_and_stamps_consent(
    service: Service, client: httpx2.Client, creator: str
) -> None:
    user = unique()
    before = datetime.now(UTC)
    assert client.post(creator, json={**identity(user), **FULL}).status_code in (200, 201)
    stored = profile_of(service, user)
    assert {field: stored[field] for field in FULL} == FULL
    assert before <= datetime.fromisoformat(stored["marketing_opt_in_at"]) <= datetime.now(UTC)


@pytest.mark.parametrize("creator", [CHECK, ACCOUNTS])
@pytest.mark.parametrize("consent", [{}, {"marketing_opt_in": False}])
def test_creation_stores_the_source_as_given_and_stamps_nothing_without_consent(
    service: Service, client: httpx2.Client, creator: str, consent: dict[str, bool]
) -> None:
    user = unique()
    body = {**identity(user), "marketing_opt_in_source": "import", **consent}
    assert client.post(creator, json=body).status_code in (200, 201)
    stored = profile_of(service, user)
    assert (stored["marketing_opt_in"], stored["marketing_opt_in_at"]) == (False, None)
    assert stored["marketing_opt_in_source"] == "import"


@pytest.mark.parametrize(
    ("state", "fields", "status"),
    [
        ({"free": 0}, {}, 402),
        ({"status": "suspended"}, {}, 403),
        ({"status": "closed"}, {}, 403),
        ({}, {"currency": "EUR"}, 400),
        ({}, {"idempotency_key": "used"}, 409),
        ({"free": 1}, {"idempotency_key": "used"}, 409),
    ],
    ids=str,
)
@pytest.mark.parametrize("carrier", ["charges", "batch"])
def test_a_refused_charge_keeps_the_profile_it_carried(
    *,
    service: Service,
    client: httpx2.Client,
    carrier: str,
    state: dict[str, Any],
    fields: dict[str, Any],
    status: int,
) -> None:
    user = make_account(service, **state)
    if status == 409:
        used = client.post(CHARGES, json=charge_body(user, idempotency_key="used"))
        assert used.status_code == 201
    response = carry(client, carrier, user, **fields, **FULL)
    if carrier == "batch":
        assert [result["status"] for result in response.json()["results"]] == [status]
    else:
        assert response.status_code == status
    stored = profile_of(service, user)
    assert {field: stored[field] for field in FULL} == FULL
    assert stored["marketing_opt_in_at"] is not None


@pytest.mark.parametrize(("fields", "status"), [({"currency": "EUR"}, 400), ({}, 409)])
def test_a_refused_credit_keeps_the_profile_it_carried(
    service: Service, client: httpx2.Client, fields: dict[str, Any], status: int
) -> None:
    user = make_account(service)
    first = client.post(CREDITS, json=credit_body(user, idempotency_key="used"))
    assert first.status_code == 201
    key = {"idempotency_key": "used"} if status == 409 else {}
    response = carry(client, "credits", user, **key, **fields, **FULL)
    assert response.status_code == status
    assert {field: profile_of(service, user)[field] for field in FULL} == FULL


def test_a_check_by_a_key_that_may_only_read_answers_and_changes_no_profile(
    service: Service, client: httpx2.Client
) -> None:
    known, new = account_with_profile(service, client), unique()
    before = profile_of(service, known)
    reader = {"X-API-Key": service.database.create_key(["billing:read"]).secret}
    profile = {**FULL, "customer_email": "eve@example.com", "user_role": "admin"}
    for user in (known, new):
        response = client.post(CHECK, json={**identity(user), **profile}, headers=reader)
        assert response.status_code == 200
        assert response.json()["has_credit"] is True
    assert profile_of(service, known) == before
    assert profile_of(service, new) == dict.fromkeys(FIELDS) | {"marketing_opt_in": False}


@pytest.mark.parametrize("status", ["suspended", "closed"])
@pytest.mark.parametrize("carrier", ["check", "credits"])
def test_suspended_and_closed_accounts_take_profile_updates(
    service: Service, client: httpx2.Client, carrier: str, status: str
) -> None:
    user = make_account(service, status=status)
    assert carry(client, carrier, user, **FULL).status_code in (200, 201)
    assert {field: profile_of(service, user)[field] for field in FULL} == FULL


def test_a_profile_never_creates_an_account(service: Service, client: httpx2.Client) -> None:
    user = unique()
    for carrier in ("charges", "credits"):
        assert carry(client, carrier, user, **FULL).status_code == 404
    count = service.database.value(
        "SELECT count(*) FROM billing_data.accounts WHERE external_id = %s", user
    )
    assert count == 0


@pytest.mark.parametrize("carrier", ["charges", "credits"])
def test_wa_id_and_tenant_id_are_never_updated(
    service: Service, client: httpx2.Client, carrier: str
) -> None:
    user = unique()
    client.post(CHECK, json={**identity(user), "wa_id": "first"})
    assert carry(client, carrier, user, wa_id="second", tenant_id="t").status_code == 201
    row = account_row(service, user)
    assert (row["wa_id"], row["tenant_id"]) == ("first", None)
