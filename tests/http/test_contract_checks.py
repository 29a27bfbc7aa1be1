"""POST /v1/billing/credits/check (contract 2.1, 7.2, 7.6, 7.9, 8.1, 8.15, 8.23)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.http.contract import (
    ACCOUNTS,
    CHECK,
    CHECK_FIELDS,
    account_row,
    make_account,
    part,
    row_counts,
    set_status,
)
from tests.support import Service, identity, unique

NONE_LEFT = "No free uses or credits remaining"


def answer(**fields: Any) -> dict[str, Any]:
    return {
        "has_credit": True,
        "credits_remaining": 0,
        "plan_name": "free",
        "reason": None,
        "free_uses_remaining": 3,
        "total_uses": 0,
        "purchase_required": False,
        "purchase_price_minor": None,
        "purchase_uses": None,
        **fields,
    }


DENIED = {
    "has_credit": False,
    "reason": NONE_LEFT,
    "purchase_required": True,
    "purchase_price_minor": 500,
    "purchase_uses": 20,
}
SUSPENDED = {"has_credit": False, "reason": "Account suspended"}
CLOSED = {"has_credit": False, "reason": "Account closed"}
# The state of an account -> the answer to a check.
STATES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"free": 3}, answer()),
    ({"free": 1}, answer(free_uses_remaining=1, total_uses=2)),
    ({"free": 2, "paid": 7}, answer(free_uses_remaining=2, total_uses=1, credits_remaining=7)),
    ({"free": 0, "paid": 1}, answer(free_uses_remaining=0, total_uses=3, credits_remaining=1)),
    ({"free": 0, "paid": 0}, answer(free_uses_remaining=0, total_uses=3, **DENIED)),
    (
        {"free": 2, "paid": 5, "status": "suspended"},
        answer(free_uses_remaining=2, total_uses=1, credits_remaining=5, **SUSPENDED),
    ),
    (
        {"free": 0, "paid": 0, "status": "suspended"},
        answer(free_uses_remaining=0, total_uses=3, **SUSPENDED),
    ),
    (
        {"free": 3, "paid": 9, "status": "closed"},
        answer(credits_remaining=9, **CLOSED),
    ),
    ({"free": 0, "status": "closed"}, answer(free_uses_remaining=0, total_uses=3, **CLOSED)),
]


def audit(service: Service, user: str) -> list[dict[str, Any]]:
    """The audit rows of a user's checks, in their order."""
    return [
        row
        for (row,) in service.database.execute(
            "SELECT to_jsonb(c) FROM billing_data.credit_checks AS c WHERE c.external_id = %s"
            " ORDER BY c.created_at, c.id",
            user,
        )
    ]


@pytest.fixture
def other_settings(service: Service) -> Iterator[None]:
    """Five free uses; a pack is 50 uses for 1200."""
    change = (
        "UPDATE billing_data.settings SET free_uses = %s, pack_uses = %s, pack_price_minor = %s"
    )
    service.database.execute(change, 5, 50, 1200)
    yield
    service.database.execute(change, 3, 20, 500)


def test_a_new_account_is_made_with_three_free_uses(
    service: Service, client: httpx2.Client
) -> None:
    user = unique()
    response = client.post(CHECK, json=identity(user))
    assert response.status_code == 200
    assert part(response.json(), CHECK_FIELDS) == answer()
    row = account_row(service, user)
    assert (row["free_uses_remaining"], row["paid_credits"], row["balance_minor"]) == (3, 0, 0)
    assert (row["currency"], row["plan_name"], row["status"]) == ("USD", "free", "active")


@pytest.mark.parametrize(("state", "expected"), STATES, ids=str)
def test_each_state_of_an_account_has_its_answer(
    service: Service, client: httpx2.Client, state: dict[str, Any], expected: dict[str, Any]
) -> None:
    user = make_account(service, **state)
    for _ in range(2):
        response = client.post(CHECK, json=identity(user))
        assert response.status_code == 200
        assert part(response.json(), CHECK_FIELDS) == expected


def test_a_check_consumes_nothing(service: Service, client: httpx2.Client) -> None:
    user = make_account(service, free=1, paid=2)
    before = account_row(service, user)
    for _ in range(5):
        assert client.post(CHECK, json=identity(user)).json()["has_credit"] is True
    assert account_row(service, user) == before


def test_a_reactivated_account_has_credit_again(service: Service, client: httpx2.Client) -> None:
    user = make_account(service, status="suspended")
    assert client.post(CHECK, json=identity(user)).json()["has_credit"] is False
    service.database.execute(
        "SELECT s.status FROM billing.set_account_status(p_oauth_provider => 'oauth:google',"
        " p_external_id => %s, p_status => 'active', p_reason => 'a test') AS s",
        user,
        user="t_dba",
    )
    assert part(client.post(CHECK, json=identity(user)).json(), CHECK_FIELDS) == answer()


def test_the_plan_of_the_account_is_told(client: httpx2.Client) -> None:
    user = unique()
    assert client.post(ACCOUNTS, json={**identity(user), "plan_name": "pro"}).status_code == 201
    assert client.post(CHECK, json=identity(user)).json()["plan_name"] == "pro"


@pytest.mark.usefixtures("other_settings")
def test_free_uses_and_pack_are_what_is_configured(service: Service, client: httpx2.Client) -> None:
    user = unique()
    assert client.post(CHECK, json=identity(user)).json()["free_uses_remaining"] == 5
    made = unique()
    assert client.post(ACCOUNTS, json=identity(made)).status_code == 201
    assert client.post(CHECK, json=identity(made)).json()["free_uses_remaining"] == 5
    service.database.execute(
        "UPDATE billing_data.accounts SET free_uses_remaining = 0 WHERE external_id = %s", user
    )
    denied = client.post(CHECK, json=identity(user)).json()
    assert (denied["purchase_price_minor"], denied["purchase_uses"]) == (1200, 50)


def test_one_identity_is_one_account_whatever_else_is_sent(
    service: Service, client: httpx2.Client
) -> None:
    user = unique()
    client.post(CHECK, json={**identity(user), "wa_id": "wa-1", "tenant_id": "t-1"})
    first = account_row(service, user)
    for wa_id in ("wa-2", None, "wa-1"):
        body = {**identity(user), "wa_id": wa_id, "tenant_id": "t-2"}
        assert client.post(CHECK, json=body).status_code == 200
    assert account_row(service, user) == first
    assert (first["wa_id"], first["tenant_id"]) == ("wa-1", "t-1")
    # No look-up uses wa_id, not even that of an existing account.
    other = unique()
    client.post(CHECK, json={**identity(other), "wa_id": "wa-1", "tenant_id": "t-1"})
    assert account_row(service, other)["id"] != first["id"]


def test_the_provider_is_part_of_the_identity(service: Service, client: httpx2.Client) -> None:
    user = unique()
    for provider in ("oauth:google", "oauth:discord", "oauth:api:internal", "oauth:"):
        body = {"oauth_provider": provider, "external_id": user}
        assert part(client.post(CHECK, json=body).json(), CHECK_FIELDS) == answer()
    count = service.database.value(
        "SELECT count(*) FROM billing_data.accounts WHERE external_id = %s", user
    )
    assert count == 4


async def test_fifty_first_checks_in_parallel_make_one_account(service: Service) -> None:
    user = unique()
    bodies = [{**identity(user), "wa_id": f"wa-{n}" if n % 2 else None} for n in range(50)]
    async with service.async_client() as client:
        answers = await asyncio.gather(*(client.post(CHECK, json=body) for body in bodies))
    assert [response.status_code for response in answers] == [200] * 50
    assert all(part(response.json(), CHECK_FIELDS) == answer() for response in answers)
    count = service.database.value(
        "SELECT count(*) FROM billing_data.accounts WHERE external_id = %s", user
    )
    assert count == 1
    assert len(audit(service, user)) == 50


@pytest.mark.parametrize(("state", "expected"), STATES, ids=str)
def test_each_check_leaves_an_audit_row_with_the_decision_it_made(
    service: Service, client: httpx2.Client, state: dict[str, Any], expected: dict[str, Any]
) -> None:
    user = make_account(service, **state)
    for _ in range(3):
        client.post(CHECK, json=identity(user))
    rows = audit(service, user)
    assert len(rows) == 3
    for row in rows:
        assert row["account_id"] == account_row(service, user)["id"]
        assert row["oauth_provider"] == "oauth:google"
        assert row["has_credit"] is expected["has_credit"]
        assert row["denial_reason"] == expected["reason"]
        assert row["credits_remaining"] == expected["credits_remaining"]
        assert row["plan_name"] == expected["plan_name"]
        assert row["api_key_id"] == service.key.id


def test_an_audit_row_tells_the_identity_and_where_the_check_came_from(
    service: Service, client: httpx2.Client
) -> None:
    user = unique()
    context = {"agent_id": "agent-1", "channel_id": "channel-1", "request_id": "request-1"}
    body = {**identity(user), "wa_id": "wa", "tenant_id": "tenant", "context": context}
    assert client.post(CHECK, json=body).status_code == 200
    assert client.post(CHECK, json={**identity(user), "agent_id": "profile"}).status_code == 200
    first, second = audit(service, user)
    assert (first["has_credit"], first["denial_reason"]) == (True, None)
    assert {name: first[f"context_{name}"] for name in context} == context
    assert (first["wa_id"], first["tenant_id"]) == ("wa", "tenant")
    assert [second[f"context_{name}"] for name in context] == [None, None, None]


def test_a_check_that_updates_the_profile_leaves_one_audit_row_too(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service)
    client.post(CHECK, json={**identity(user), "customer_email": "ann@example.com"})
    assert len(audit(service, user)) == 1


def test_a_refused_check_leaves_nothing(
    service: Service, client: httpx2.Client, stranger: httpx2.Client
) -> None:
    before = row_counts(service)
    assert client.post(CHECK, json={**identity(), "context": None}).status_code == 422
    refused = stranger.post(CHECK, json=identity(), headers={"X-API-Key": "cbk_nope"})
    assert refused.status_code == 401
    assert stranger.post(CHECK, json=identity()).status_code == 422
    assert row_counts(service) == before


def test_a_status_change_holds_from_the_next_check_on(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service)
    assert client.post(CHECK, json=identity(user)).json()["has_credit"] is True
    set_status(service, user, "closed")
    assert client.post(CHECK, json=identity(user)).json()["reason"] == "Account closed"
