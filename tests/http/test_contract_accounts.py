"""POST and GET /v1/billing/accounts (contract 2.4, 2.5, 7.1, 7.2, 8.1, 8.2, 8.10)."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from tests.http.contract import (
    ACCOUNT_FIELDS,
    ACCOUNTS,
    CHARGES,
    CHECK,
    CREDITS,
    INT64_MAX,
    TIME,
    UUID,
    account_path,
    account_row,
    assert_error,
    make_account,
    row_counts,
)
from tests.support import Service, charge_body, credit_body, identity, unique


def test_a_new_account_has_defaults(service: Service, client: httpx2.Client) -> None:
    user = unique()
    response = client.post(ACCOUNTS, json=identity(user))
    assert response.status_code == 201
    body = response.json()
    assert tuple(body) == ACCOUNT_FIELDS
    assert body == {
        "account_id": body["account_id"],
        "oauth_provider": "oauth:google",
        "external_id": user,
        "wa_id": None,
        "tenant_id": None,
        "customer_email": None,
        "balance_minor": 0,
        "currency": "USD",
        "plan_name": "free",
        "status": "active",
        "paid_credits": 0,
        "marketing_opt_in": False,
        "marketing_opt_in_at": None,
        "marketing_opt_in_source": None,
        "created_at": body["created_at"],
        "updated_at": body["updated_at"],
    }
    assert re.fullmatch(UUID, body["account_id"])
    assert re.fullmatch(TIME, body["created_at"])
    assert re.fullmatch(TIME, body["updated_at"])
    row = account_row(service, user)
    assert (row["free_uses_remaining"], row["total_uses"]) == (3, 0)


def test_everything_given_is_stored(service: Service, client: httpx2.Client) -> None:
    user = unique()
    given = {
        **identity(user),
        "wa_id": "wa",
        "tenant_id": "tenant",
        "initial_balance_minor": 700,
        "currency": "eur",
        "plan_name": "pro",
        "customer_email": "ann@example.com",
        "user_role": "observer",
        "agent_id": "agent-1",
        "marketing_opt_in": True,
        "marketing_opt_in_source": "signup",
    }
    response = client.post(ACCOUNTS, json=given)
    assert response.status_code == 201
    body = response.json()
    for field, value in {**given, "currency": "EUR"}.items():
        if field not in ("initial_balance_minor", "user_role", "agent_id"):
            assert body[field] == value
    assert (body["balance_minor"], body["paid_credits"]) == (700, 0)
    assert re.fullmatch(TIME, body["marketing_opt_in_at"])
    stamp = datetime.fromisoformat(body["marketing_opt_in_at"])
    assert abs(datetime.now(UTC) - stamp) < timedelta(minutes=1)
    row = account_row(service, user)
    assert (row["user_role"], row["agent_id"]) == ("observer", "agent-1")
    assert client.get(account_path(user)).json() == body


def test_an_initial_balance_can_be_spent_by_nothing(
    service: Service, client: httpx2.Client
) -> None:
    user = unique()
    body = {**identity(user), "initial_balance_minor": INT64_MAX}
    assert client.post(ACCOUNTS, json=body).json()["balance_minor"] == INT64_MAX
    for _ in range(3):
        assert client.post(CHARGES, json=charge_body(user)).json()["paid_with"] == "free"
    refused = client.post(CHARGES, json=charge_body(user))
    assert_error(refused, 402, "Insufficient credits. Balance: 0, Required: 1")
    check = client.post(CHECK, json=identity(user)).json()
    assert (check["has_credit"], check["credits_remaining"]) == (False, 0)
    assert account_row(service, user)["balance_minor"] == INT64_MAX


@pytest.mark.parametrize("status", ["active", "suspended", "closed"])
def test_an_account_that_exists_is_given_back_untouched(
    service: Service, client: httpx2.Client, status: str
) -> None:
    user = make_account(service, free=1, paid=5, status=status)
    before, row = row_counts(service), account_row(service, user)
    response = client.post(
        ACCOUNTS,
        json={
            **identity(user),
            "wa_id": "other",
            "tenant_id": "other",
            "initial_balance_minor": 9,
            "currency": "EUR",
            "plan_name": "other",
            "customer_email": "other@example.com",
            "user_role": "other",
            "agent_id": "other",
            "marketing_opt_in": True,
            "marketing_opt_in_source": "other",
        },
    )
    assert response.status_code == 201
    assert tuple(response.json()) == ACCOUNT_FIELDS
    assert response.json() == client.get(account_path(user)).json()
    assert response.json()["status"] == status
    assert (response.json()["paid_credits"], response.json()["currency"]) == (5, "USD")
    assert account_row(service, user) == row
    assert row_counts(service) == before


async def test_fifty_creations_in_parallel_make_one_account(service: Service) -> None:
    user = unique()
    async with service.async_client() as client:
        answers = await asyncio.gather(
            *(client.post(ACCOUNTS, json={**identity(user), "wa_id": f"{n}"}) for n in range(50))
        )
    assert {answer.status_code for answer in answers} == {201}
    bodies = [answer.json() for answer in answers]
    assert all(body == bodies[0] for body in bodies)


async def test_checks_and_creations_in_parallel_make_one_account(service: Service) -> None:
    user = unique()
    async with service.async_client() as client:
        answers = await asyncio.gather(
            *(
                client.post(path, json=identity(user))
                for _ in range(20)
                for path in (CHECK, ACCOUNTS)
            )
        )
    assert {answer.status_code for answer in answers} == {200, 201}
    ids = {answer.json()["account_id"] for answer in answers if answer.status_code == 201}
    assert ids == {account_row(service, user)["id"]}


def test_reading_an_account_tells_what_it_has_now(service: Service, client: httpx2.Client) -> None:
    user = make_account(service, free=0, paid=5)
    assert client.post(CHARGES, json=charge_body(user, 2)).status_code == 201
    assert client.post(CREDITS, json=credit_body(user, 10)).status_code == 201
    response = client.get(account_path(user))
    assert response.status_code == 200
    body = response.json()
    assert tuple(body) == ACCOUNT_FIELDS
    assert body["paid_credits"] == 13
    row = account_row(service, user)
    assert (body["account_id"], body["external_id"]) == (row["id"], user)
    updated = datetime.fromisoformat(body["updated_at"])
    assert updated > datetime.fromisoformat(body["created_at"])


@pytest.mark.parametrize("status", ["active", "suspended", "closed"])
def test_reading_an_account_tells_its_status(
    service: Service, client: httpx2.Client, status: str
) -> None:
    user = make_account(service, status=status)
    assert client.get(account_path(user)).json()["status"] == status


@pytest.mark.parametrize(
    ("provider", "external_id", "path"),
    [
        ("oauth:google", "plain", "oauth:google/plain"),
        ("oauth:google", "colon", "oauth%3Agoogle/colon"),
        ("oauth:google", "lower", "oauth%3agoogle/lower"),
        ("oauth:api:internal", "a", "oauth:api:internal/a"),
        ("oauth:google", "a b+c", "oauth:google/a%20b+c"),
        ("oauth:google", "100%25", "oauth:google/100%2525"),
        ("oauth:google", "ü😀", "oauth:google/%C3%BC%F0%9F%98%80"),
        ("oauth:google", "a?b#c&d", "oauth:google/a%3Fb%23c%26d"),
        ("oauth:google", "ann@example.com", "oauth:google/ann@example.com"),
        ("oauth:google", "..", "oauth:google/%2E%2E"),
        ("oauth:google", "x" * 255, "oauth:google/" + "x" * 255),
    ],
)
def test_path_parts_are_percent_decoded(
    client: httpx2.Client, service: Service, provider: str, external_id: str, path: str
) -> None:
    made = client.post(
        ACCOUNTS, json={"oauth_provider": provider, "external_id": external_id}
    ).json()
    # As bytes, because a client library would normalize the path.
    response = client.get(
        httpx2.URL(service.base_url).copy_with(raw_path=f"{ACCOUNTS}/{path}".encode())
    )
    assert (response.status_code, response.json()) == (200, made)


@pytest.mark.parametrize(
    "query", [{}, {"wa_id": "other"}, {"tenant_id": "other"}, {"wa_id": "", "tenant_id": ""}]
)
def test_wa_id_and_tenant_id_are_ignored_when_reading(
    service: Service, client: httpx2.Client, query: dict[str, Any]
) -> None:
    user = make_account(service)
    response = client.get(account_path(user), params=query)
    assert (response.status_code, response.json()["external_id"]) == (200, user)


def test_an_unknown_account_is_not_found_and_not_created(
    service: Service, client: httpx2.Client
) -> None:
    user = unique()
    client.post(CHECK, json={**identity(user), "wa_id": f"wa-{user}"})
    before = row_counts(service)
    for path in (
        account_path(unique()),
        account_path(user, "oauth:discord"),
        account_path(user.upper()),
        account_path(f"wa-{user}"),
        f"{account_path(unique())}?wa_id=wa-{user}",
    ):
        assert_error(client.get(path), 404, "Account not found")
    assert row_counts(service) == before


def test_an_external_id_with_a_slash_cannot_be_addressed_by_a_path(client: httpx2.Client) -> None:
    user = f"a/{unique()}"
    assert client.post(ACCOUNTS, json=identity(user)).status_code == 201
    assert client.post(CHECK, json=identity(user)).status_code == 200
    assert_error(client.get(f"{ACCOUNTS}/oauth:google/{user}"), 404, "Not Found")
