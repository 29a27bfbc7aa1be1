"""What the clients in production send and read (contract 9.1, 9.3, 9.4, 9.5), in their own form."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.http.contract import (
    CHARGES,
    CHECK,
    CREDITS,
    TRANSACTIONS,
    account_row,
    make_account,
    set_status,
)
from tests.support import Service, credit_body, unique

AGENT = {"User-Agent": "CIRIS-Agent-CreditGate/1.0"}
FRONTEND = {"User-Agent": "CIRIS-Agent-Frontend/1.0"}
PROVIDERS = ["google", "discord", "wa", "api", "api-key", "service-account"]


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def agent_check(provider: str, user: str, **fields: Any) -> dict[str, Any]:
    """The agent's request before it works for a user."""
    return {
        "oauth_provider": f"oauth:{provider}",
        "external_id": user,
        "wa_id": f"wa-{user}",
        "tenant_id": "tenant-1",
        "customer_email": "ann@example.com",
        "marketing_opt_in": False,
        "agent_id": "datum",
        "user_role": "observer",
        "context": {"channel_id": "discord_1_2", "request_id": "req-1"},
        **fields,
    }


def agent_spend(provider: str, user: str, key: str | None = None) -> dict[str, Any]:
    """The agent's charge for one interaction."""
    if key is None:
        text = f"{provider}:{user}:{int(time.time())}:1"
        key = f"charge_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return {
        "oauth_provider": f"oauth:{provider}",
        "external_id": user,
        "wa_id": f"wa-{user}",
        "amount_minor": 1,
        "currency": "USD",
        "description": "Message interaction",
        "idempotency_key": key,
        "metadata": {"message_id": "msg-1", "channel_id": "discord_1_2", "source": "agent"},
    }


def frontend_identity(user: str) -> dict[str, Any]:
    """The identity as the agent's pages send it: explicit nulls, another wa_id."""
    return {
        "oauth_provider": "oauth:google",
        "external_id": user,
        "wa_id": f"user-of-agent-{user}",
        "tenant_id": None,
        "customer_email": None,
        "marketing_opt_in": False,
        "user_role": "observer",
    }


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_agents_check_is_answered_with_what_its_model_reads(
    client: httpx2.Client, provider: str
) -> None:
    response = client.post(CHECK, json=agent_check(provider, unique()), headers=AGENT)
    assert response.status_code == 200
    body = response.json()
    assert isinstance(body["has_credit"], bool)
    for counter in ("credits_remaining", "free_uses_remaining", "total_uses"):
        assert body[counter] is None or is_int(body[counter])
    for price in ("purchase_price_minor", "purchase_uses"):
        assert body[price] is None or is_int(body[price])


def test_an_agents_denied_check_is_200_with_a_reason(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=0)
    body = client.post(CHECK, json=agent_check("google", user), headers=AGENT)
    assert body.status_code == 200
    assert body.json()["has_credit"] is False
    assert isinstance(body.json()["reason"], str)
    assert body.json()["purchase_required"] is True


def test_an_agents_spend_is_new_once_and_then_names_the_charge(
    service: Service, client: httpx2.Client
) -> None:
    user = unique()
    client.post(CHECK, json=agent_check("google", user), headers=AGENT)
    body = agent_spend("google", user)
    first = client.post(CHARGES, json=body, headers=AGENT)
    assert first.status_code == 201
    assert isinstance(first.json()["charge_id"], str)
    assert is_int(first.json()["balance_after"])
    again = client.post(CHARGES, json=body, headers=AGENT)
    assert again.status_code == 409
    assert again.headers["X-Existing-Charge-ID"] == first.json()["charge_id"]
    assert isinstance(again.json()["detail"], str)
    assert account_row(service, user)["total_uses"] == 1


@pytest.mark.parametrize(
    ("state", "status"),
    [({"free": 0}, 402), ({"status": "suspended"}, 403), ({"status": "closed"}, 403)],
)
def test_an_agents_refused_spend_has_a_detail_to_show(
    service: Service, client: httpx2.Client, state: dict[str, Any], status: int
) -> None:
    user = make_account(service, **state)
    response = client.post(CHARGES, json=agent_spend("google", user), headers=AGENT)
    assert response.status_code == status
    assert isinstance(response.json()["detail"], str)


def test_an_agent_with_a_bad_key_gets_a_detail_to_show(stranger: httpx2.Client) -> None:
    headers = {**AGENT, "X-API-Key": "cbk_live_" + "x" * 43}
    response = stranger.post(CHECK, json=agent_check("google", unique()), headers=headers)
    assert response.status_code == 401
    assert isinstance(response.json()["detail"], str)


def test_the_wa_ids_of_agent_and_frontend_differ_and_mean_one_account(
    service: Service, client: httpx2.Client
) -> None:
    user = unique()
    client.post(CHECK, json=agent_check("google", user), headers=AGENT)
    client.post(CHARGES, json=agent_spend("google", user), headers=AGENT)
    seen = client.post(CHECK, json=frontend_identity(user), headers=FRONTEND).json()
    assert (seen["free_uses_remaining"], seen["total_uses"]) == (2, 1)
    assert account_row(service, user)["wa_id"] == f"wa-{user}"


@pytest.mark.parametrize("state", [{}, {"free": 0}, {"free": 0, "paid": 3}, {"status": "closed"}])
def test_the_frontends_credits_page_finds_every_field_it_reads(
    service: Service, client: httpx2.Client, state: dict[str, Any]
) -> None:
    user = make_account(service, **state)
    response = client.post(CHECK, json=frontend_identity(user), headers=FRONTEND)
    assert response.status_code == 200
    body = response.json()
    assert isinstance(body["has_credit"], bool)
    for counter in ("credits_remaining", "free_uses_remaining", "total_uses"):
        assert is_int(body[counter])
    assert isinstance(body["plan_name"], str)
    assert isinstance(body["purchase_required"], bool)
    for price in ("purchase_price_minor", "purchase_uses"):
        assert is_int(body[price]) if body["purchase_required"] else body[price] is None


def test_the_frontends_internal_users_have_accounts_of_their_own(client: httpx2.Client) -> None:
    body = {**frontend_identity(unique()), "oauth_provider": "oauth:api:internal"}
    response = client.post(CHECK, json=body, headers=FRONTEND)
    assert (response.status_code, response.json()["has_credit"]) == (200, True)


def test_the_frontends_check_after_a_purchase_works_with_its_unknown_context(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=0)
    client.post(CREDITS, json=credit_body(user, 20, transaction_type="purchase"))
    body = {
        **frontend_identity(user),
        "wa_id": None,
        "user_role": None,
        "agent_id": None,
        "marketing_opt_in_source": None,
        "context": {"source": "purchase_status_check"},
    }
    response = client.post(CHECK, json=body, headers=FRONTEND)
    assert (response.status_code, response.json()["credits_remaining"]) == (200, 20)


def test_the_frontends_history_has_every_field_its_model_requires(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=2, paid=5)
    query: dict[str, str | int] = {
        "oauth_provider": "oauth:google",
        "external_id": user,
        "wa_id": "user-of-agent",
        "tenant_id": "",
        "customer_email": "",
        "marketing_opt_in": "false",
        "user_role": "observer",
        "limit": 50,
        "offset": 0,
    }
    response = client.get(TRANSACTIONS, params=query, headers=FRONTEND)
    assert response.status_code == 200
    body = response.json()
    assert is_int(body["total_count"])
    assert isinstance(body["has_more"], bool)
    assert len(body["transactions"]) == 2
    for item in body["transactions"]:
        for text in ("transaction_id", "type", "currency", "description", "created_at"):
            assert isinstance(item[text], str)
        assert is_int(item["amount_minor"])
        assert is_int(item["balance_after"])
        assert item["metadata"] is None or isinstance(item["metadata"], dict)
        for optional in ("transaction_type", "external_transaction_id"):
            assert item[optional] is None or isinstance(item[optional], str)


@pytest.fixture
def proxy(service: Service) -> Iterator[httpx2.Client]:
    """CIRISProxy's client."""
    with httpx2.Client(
        base_url=service.base_url,
        headers={"X-API-Key": service.key.secret},
        timeout=httpx2.Timeout(10, connect=5),
        verify=False,
    ) as client:
        yield client


def test_the_proxys_interaction_is_one_check_and_one_paid_charge_of_many(
    service: Service, proxy: httpx2.Client
) -> None:
    user = unique()
    check = proxy.post(CHECK, json={"oauth_provider": "oauth:google", "external_id": user})
    assert check.status_code == 200
    assert check.json()["has_credit"] is True
    for counter in ("free_uses_remaining", "credits_remaining", "daily_free_uses_remaining"):
        assert check.json().get(counter) is None or is_int(check.json()[counter])
    interaction = unique("interaction")
    charge = {
        "oauth_provider": "oauth:google",
        "external_id": user,
        "amount_minor": 1,
        "currency": "USD",
        "description": f"LiteLLM interaction: {interaction}",
        "idempotency_key": f"litellm:{interaction}",
    }
    answers = [proxy.post(CHARGES, json=charge) for _ in range(70)]
    assert [answer.status_code for answer in answers] == [201] + [409] * 69
    made = answers[0].json()["charge_id"]
    assert {answer.headers["x-existing-charge-id"] for answer in answers[1:]} == {made}
    assert account_row(service, user)["total_uses"] == 1


def test_the_proxys_repeated_charge_stays_a_conflict_when_the_account_is_suspended(
    service: Service, proxy: httpx2.Client
) -> None:
    user = make_account(service, free=1)
    charge = agent_spend("google", user, "litellm:1")
    assert proxy.post(CHARGES, json=charge).status_code == 201
    set_status(service, user, "suspended")
    assert proxy.post(CHARGES, json=charge).status_code == 409


def test_the_proxy_is_told_plainly_that_there_is_no_usage_endpoint_yet(
    proxy: httpx2.Client,
) -> None:
    response = proxy.post("/v1/billing/litellm/usage", json={"interaction_id": "1"})
    assert response.status_code == 404
    assert response.json()["detail"] == "Not Found"


def test_status_pages_and_bridges_get_a_quick_200_from_health(stranger: httpx2.Client) -> None:
    started = time.monotonic()
    response = stranger.get("/health")
    assert response.status_code == 200
    assert time.monotonic() - started < 1
