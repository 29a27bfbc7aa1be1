"""POST /v1/billing/credits (contract 2.3, 7.4, 7.6, 8.10)."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from typing import Any

import httpx2
import pytest

from tests.http.contract import (
    CHECK,
    CREDIT_FIELDS,
    CREDITS,
    INT64_MAX,
    TIME,
    UUID,
    account_row,
    assert_error,
    assert_error_shape,
    make_account,
    part,
    row_counts,
    set_status,
)
from tests.support import Service, credit_body, identity, unique


def assert_existing(response: httpx2.Response, credit: dict[str, Any]) -> None:
    assert_error(response, 409, "Credit already exists")
    assert response.headers["x-existing-credit-id"] == credit["credit_id"]
    assert response.json()["credit"] == credit


@pytest.mark.parametrize("kind", ["purchase", "grant", "refund", "adjustment"])
def test_each_kind_of_credit_adds_paid_credits(
    service: Service, client: httpx2.Client, kind: str
) -> None:
    user = make_account(service, free=2, paid=5)
    response = client.post(
        CREDITS,
        json=credit_body(user, 20, transaction_type=kind, external_transaction_id="pi_1"),
    )
    assert response.status_code == 201
    body = response.json()
    account = account_row(service, user)
    assert body == {
        "credit_id": body["credit_id"],
        "account_id": account["id"],
        "amount_minor": 20,
        "currency": "USD",
        "balance_after": 25,
        "transaction_type": kind,
        "description": "one use",
        "external_transaction_id": "pi_1",
        "created_at": body["created_at"],
    }
    assert re.fullmatch(UUID, body["credit_id"])
    assert re.fullmatch(TIME, body["created_at"])
    assert (account["paid_credits"], account["balance_minor"]) == (25, 0)
    assert (account["free_uses_remaining"], account["total_uses"]) == (2, 1)


def test_a_credit_without_an_external_transaction_says_null(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service)
    body = client.post(CREDITS, json=credit_body(user)).json()
    assert tuple(body) == CREDIT_FIELDS
    assert body["external_transaction_id"] is None


def test_a_credit_makes_a_spent_account_usable_again(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=0)
    assert client.post(CHECK, json=identity(user)).json()["has_credit"] is False
    assert client.post(CREDITS, json=credit_body(user, 1)).status_code == 201
    check = client.post(CHECK, json=identity(user)).json()
    assert (check["has_credit"], check["credits_remaining"]) == (True, 1)


@pytest.mark.parametrize("status", ["suspended", "closed"])
def test_suspended_and_closed_accounts_take_credits(
    service: Service, client: httpx2.Client, status: str
) -> None:
    user = make_account(service, status=status)
    response = client.post(CREDITS, json=credit_body(user, 4))
    assert (response.status_code, response.json()["balance_after"]) == (201, 4)
    assert account_row(service, user)["status"] == status


def test_an_unknown_account_is_not_created(service: Service, client: httpx2.Client) -> None:
    before = row_counts(service)
    response = client.post(CREDITS, json=credit_body(unique(), 5))
    assert_error(response, 404, "Account not found")
    assert row_counts(service) == before


@pytest.mark.parametrize(
    ("account", "credit"), [("USD", "EUR"), ("EUR", "USD"), ("USD", "eur"), ("GBP", "Usd")]
)
def test_another_currency_than_the_accounts_is_refused(
    service: Service, client: httpx2.Client, account: str, credit: str
) -> None:
    user = make_account(service, currency=account)
    before = row_counts(service)
    response = client.post(CREDITS, json=credit_body(user, 5, currency=credit))
    assert_error(
        response,
        400,
        f"Data integrity error: Currency mismatch: account={account}, credit={credit.upper()}",
    )
    assert row_counts(service) == before


@pytest.mark.parametrize("currency", ["eur", "Eur", "EUR"])
def test_a_currency_is_answered_in_capitals(
    service: Service, client: httpx2.Client, currency: str
) -> None:
    user = make_account(service, currency="EUR")
    response = client.post(CREDITS, json=credit_body(user, currency=currency))
    assert (response.status_code, response.json()["currency"]) == (201, "EUR")


def test_a_balance_fills_64_bits_and_no_more(service: Service, client: httpx2.Client) -> None:
    user = make_account(service, paid=1)
    before, account = row_counts(service), account_row(service, user)
    assert_error_shape(client.post(CREDITS, json=credit_body(user, INT64_MAX)), 422)
    assert row_counts(service) == before
    assert account_row(service, user) == account
    full = client.post(CREDITS, json=credit_body(user, INT64_MAX - 1))
    assert (full.status_code, full.json()["balance_after"]) == (201, INT64_MAX)
    before = row_counts(service)
    assert_error_shape(client.post(CREDITS, json=credit_body(user, 1)), 422)
    assert row_counts(service) == before
    assert client.post(CHECK, json=identity(user)).json()["credits_remaining"] == INT64_MAX


def test_a_used_key_is_answered_with_the_credit_it_made(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service)
    body = credit_body(user, 5, idempotency_key="k", external_transaction_id="x")
    first = client.post(CREDITS, json=body)
    assert first.status_code == 201
    assert "x-existing-credit-id" not in first.headers
    assert_existing(client.post(CREDITS, json=body), first.json())
    for change in (
        {"amount_minor": 9},
        {"currency": "EUR"},
        {"transaction_type": "refund"},
        {"description": "other"},
        {"external_transaction_id": None},
    ):
        assert_existing(client.post(CREDITS, json={**body, **change}), first.json())
    set_status(service, user, "closed")
    assert_existing(client.post(CREDITS, json=body), first.json())
    assert account_row(service, user)["paid_credits"] == 5


@pytest.mark.parametrize("key", ["", None])
def test_an_empty_key_is_no_key(service: Service, client: httpx2.Client, key: str | None) -> None:
    user = make_account(service)
    for total in (5, 10):
        response = client.post(CREDITS, json=credit_body(user, 5, idempotency_key=key))
        assert (response.status_code, response.json()["balance_after"]) == (201, total)


def test_a_key_belongs_to_one_account(service: Service, client: httpx2.Client) -> None:
    for _ in range(2):
        user = make_account(service)
        response = client.post(CREDITS, json=credit_body(user, idempotency_key="shared"))
        assert (response.status_code, response.json()["balance_after"]) == (201, 1)


def test_one_external_transaction_may_be_credited_under_two_keys(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service)
    for key in ("k1", "k2"):
        body = credit_body(user, idempotency_key=key, external_transaction_id="pi_1")
        assert client.post(CREDITS, json=body).status_code == 201


async def test_one_key_fifty_times_in_parallel_credits_once(service: Service) -> None:
    user = make_account(service)
    body = credit_body(user, 5, idempotency_key="race")
    async with service.async_client() as client:
        answers = await asyncio.gather(*(client.post(CREDITS, json=body) for _ in range(50)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 49}
    (made,) = (answer.json() for answer in answers if answer.status_code == 201)
    for answer in answers:
        if answer.status_code == 409:
            assert_existing(answer, made)
    assert account_row(service, user)["paid_credits"] == 5


async def test_parallel_credits_all_count(service: Service) -> None:
    user = make_account(service)
    async with service.async_client() as client:
        answers = await asyncio.gather(
            *(client.post(CREDITS, json=credit_body(user, 3)) for _ in range(50))
        )
    assert {answer.status_code for answer in answers} == {201}
    balances = sorted(part(answer.json(), CREDIT_FIELDS)["balance_after"] for answer in answers)
    assert balances == [*range(3, 151, 3)]
