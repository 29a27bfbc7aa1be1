"""POST /v1/billing/charges (contract 2.2, 7.3, 7.6, 8.9, 8.12, 8.13, 10)."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.http.contract import (
    CHARGE_FIELDS,
    CHARGES,
    CHECK,
    CREDITS,
    INT64_MAX,
    TIME,
    TRANSACTIONS,
    UUID,
    account_row,
    assert_error,
    faults_of,
    make_account,
    part,
    row_counts,
    set_status,
)
from tests.support import (
    Service,
    TestCluster,
    charge_body,
    credit_body,
    identity,
    running_service,
    unique,
)

PURCHASE_URL = "https://pay.example.com/buy?pack=20"


@pytest.fixture(scope="module")
def shop(cluster: TestCluster) -> Iterator[Service]:
    """A server with a purchase URL."""
    with (
        cluster.database() as database,
        running_service(database, PURCHASE_URL=PURCHASE_URL) as service,
    ):
        yield service


def assert_insufficient(response: httpx2.Response, balance: int, required: int) -> None:
    assert_error(response, 402, f"Insufficient credits. Balance: {balance}, Required: {required}")
    body = response.json()
    assert body["code"] == "insufficient_credits"
    assert (body["balance"], body["required"]) == (balance, required)
    assert body["shortfall"] == required - balance
    assert body["retryable"] is False


def test_a_free_use_pays_for_any_amount_and_leaves_paid_credits_alone(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=3, paid=7)
    metadata = {"message_id": "m", "agent_id": "a", "channel_id": "c", "request_id": "r"}
    response = client.post(CHARGES, json=charge_body(user, 1000, metadata=metadata))
    assert response.status_code == 201
    body = response.json()
    account = account_row(service, user)
    assert part(body, CHARGE_FIELDS) == {
        "charge_id": body["charge_id"],
        "account_id": account["id"],
        "amount_minor": 1000,
        "currency": "USD",
        "balance_after": 7,
        "created_at": body["created_at"],
        "description": "one use",
        "metadata": metadata,
    }
    assert re.fullmatch(UUID, body["charge_id"])
    assert re.fullmatch(TIME, body["created_at"])
    assert (body["paid_with"], body["free_uses_remaining"]) == ("free", 2)
    assert (account["free_uses_remaining"], account["paid_credits"]) == (2, 7)
    assert account["total_uses"] == 1


def test_paid_credits_are_taken_when_no_free_use_is_left(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=0, paid=7)
    body = client.post(CHARGES, json=charge_body(user, 5)).json()
    assert (body["amount_minor"], body["balance_after"], body["paid_with"]) == (5, 2, "paid")
    assert body["free_uses_remaining"] == 0
    account = account_row(service, user)
    assert (account["paid_credits"], account["total_uses"]) == (2, 4)


@pytest.mark.parametrize(("paid", "amount"), [(5, 5), (1, 1), (INT64_MAX, INT64_MAX)])
def test_the_last_credit_can_be_spent(
    service: Service, client: httpx2.Client, paid: int, amount: int
) -> None:
    user = make_account(service, free=0, paid=paid)
    response = client.post(CHARGES, json=charge_body(user, amount))
    assert (response.status_code, response.json()["balance_after"]) == (201, 0)
    assert_insufficient(client.post(CHARGES, json=charge_body(user)), 0, 1)


@pytest.mark.parametrize(("paid", "amount"), [(0, 1), (3, 4), (3, INT64_MAX)])
def test_too_few_credits_are_refused_with_what_an_agent_needs_to_know(
    service: Service, client: httpx2.Client, paid: int, amount: int
) -> None:
    user = make_account(service, free=0, paid=paid)
    before, account = row_counts(service), account_row(service, user)
    response = client.post(CHARGES, json=charge_body(user, amount))
    assert_insufficient(response, paid, amount)
    assert "purchase_url" not in response.json()
    assert row_counts(service) == before
    assert account_row(service, user) == account


def test_a_charge_is_never_split_over_free_uses_and_paid_credits(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=1, paid=3)
    assert client.post(CHARGES, json=charge_body(user, 4)).json()["paid_with"] == "free"
    assert_insufficient(client.post(CHARGES, json=charge_body(user, 4)), 3, 4)
    assert client.post(CHARGES, json=charge_body(user, 3)).json()["balance_after"] == 0


def test_a_refusal_for_credits_names_where_to_buy_them(shop: Service) -> None:
    user = make_account(shop, free=0)
    with shop.client() as client:
        response = client.post(CHARGES, json=charge_body(user))
        batch = client.post(f"{CHARGES}:batch", json={"charges": [charge_body(user)]})
    assert_insufficient(response, 0, 1)
    assert response.json()["purchase_url"] == PURCHASE_URL
    assert batch.json()["results"][0]["body"]["purchase_url"] == PURCHASE_URL


@pytest.mark.parametrize("currency", ["usd", "Usd", "USD"])
def test_a_currency_is_answered_in_capitals(
    service: Service, client: httpx2.Client, currency: str
) -> None:
    user = make_account(service)
    response = client.post(CHARGES, json=charge_body(user, currency=currency))
    assert (response.status_code, response.json()["currency"]) == (201, "USD")


def test_a_description_may_be_long_and_in_any_script(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service)
    for text in ("é😀\u202e\t\n" * 200, " ", "\\x00 ' \" %s {0} <b>"):
        response = client.post(CHARGES, json=charge_body(user, description=text))
        assert (response.status_code, response.json()["description"]) == (201, text)
    history = client.get(TRANSACTIONS, params=identity(user)).json()["transactions"]
    assert history[0]["description"] == "\\x00 ' \" %s {0} <b>"


def test_a_description_is_bounded(service: Service, client: httpx2.Client) -> None:
    """It is stored in rows that are never removed, and a page of history has 500 of them."""
    user = make_account(service)
    for path, body in ((CHARGES, charge_body(user)), (CREDITS, credit_body(user))):
        longest = client.post(path, json={**body, "description": "x" * 1000})
        assert longest.status_code == 201
        (entry,) = faults_of(client.post(path, json={**body, "description": "x" * 1001}))
        assert (entry["type"], entry["loc"]) == ("string_too_long", ["body", "description"])
        assert entry["msg"] == "String should have at most 1000 characters"
        assert entry["ctx"] == {"max_length": 1000}


def test_metadata_defaults_to_four_nulls(service: Service, client: httpx2.Client) -> None:
    user = make_account(service)
    nothing = {"message_id": None, "agent_id": None, "channel_id": None, "request_id": None}
    wanted: list[dict[str, Any]] = [{}, {"metadata": {}}, {"metadata": nothing}]
    for fields in wanted:
        response = client.post(CHARGES, json=charge_body(user, **fields))
        assert response.json()["metadata"] == nothing
    history = client.get(TRANSACTIONS, params=identity(user)).json()["transactions"]
    assert history[0]["metadata"] == nothing


def test_an_unknown_account_is_not_created(service: Service, client: httpx2.Client) -> None:
    before = row_counts(service)
    response = client.post(CHARGES, json=charge_body(unique(), idempotency_key="k"))
    assert_error(response, 404, "Account not found")
    assert row_counts(service) == before


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        ("suspended", "Account suspended: Account suspended"),
        ("closed", "Account is closed"),
    ],
)
@pytest.mark.parametrize(
    ("free", "paid", "currency"), [(3, 5, "USD"), (0, 0, "USD"), (3, 5, "EUR")]
)
def test_a_suspended_or_closed_account_is_not_charged_whatever_it_has(
    *,
    service: Service,
    client: httpx2.Client,
    status: str,
    detail: str,
    free: int,
    paid: int,
    currency: str,
) -> None:
    user = make_account(service, free=free, paid=paid, status=status)
    before = account_row(service, user)
    response = client.post(CHARGES, json=charge_body(user, currency=currency))
    assert_error(response, 403, detail)
    assert account_row(service, user) == before


@pytest.mark.parametrize(("free", "paid"), [(3, 0), (0, 9), (0, 0)])
def test_another_currency_than_the_accounts_is_refused_before_its_credits_are_counted(
    service: Service, client: httpx2.Client, free: int, paid: int
) -> None:
    user = make_account(service, free=free, paid=paid)
    before = account_row(service, user)
    response = client.post(CHARGES, json=charge_body(user, currency="eur"))
    assert_error(response, 400, "Data integrity error: Currency mismatch: account=USD, charge=EUR")
    assert account_row(service, user) == before


def test_an_account_in_another_currency_is_charged_in_it(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=0, paid=2, currency="EUR")
    response = client.post(CHARGES, json=charge_body(user, currency="eur"))
    assert (response.status_code, response.json()["currency"]) == (201, "EUR")
    response = client.post(CHARGES, json=charge_body(user))
    assert_error(response, 400, "Data integrity error: Currency mismatch: account=EUR, charge=USD")


def assert_existing(response: httpx2.Response, charge: dict[str, Any]) -> None:
    assert_error(response, 409, "Charge already exists")
    assert response.headers["x-existing-charge-id"] == charge["charge_id"]
    assert response.json()["charge"] == charge


def test_a_used_key_is_answered_with_the_charge_it_made(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service)
    body = charge_body(user, idempotency_key="k", metadata={"message_id": "m"})
    first = client.post(CHARGES, json=body)
    assert first.status_code == 201
    assert "x-existing-charge-id" not in first.headers
    before, account = row_counts(service), account_row(service, user)
    for _ in range(3):
        assert_existing(client.post(CHARGES, json=body), first.json())
    assert row_counts(service) == before
    assert account_row(service, user) == account


@pytest.mark.parametrize(
    "change",
    [
        {"amount_minor": 9},
        {"currency": "EUR"},
        {"description": "something else"},
        {"metadata": {"message_id": "other"}},
        {"customer_email": "ann@example.com"},
    ],
    ids=str,
)
def test_a_used_key_is_a_conflict_even_with_another_payload(
    service: Service, client: httpx2.Client, change: dict[str, Any]
) -> None:
    user = make_account(service)
    first = client.post(CHARGES, json=charge_body(user, idempotency_key="k"))
    response = client.post(CHARGES, json={**charge_body(user, idempotency_key="k"), **change})
    assert_existing(response, first.json())


@pytest.mark.parametrize("status", ["active", "suspended", "closed"])
def test_a_used_key_is_a_conflict_even_when_the_account_could_not_pay_any_more(
    service: Service, client: httpx2.Client, status: str
) -> None:
    user = make_account(service, free=1)
    body = charge_body(user, idempotency_key="k")
    first = client.post(CHARGES, json=body)
    assert (first.status_code, first.json()["free_uses_remaining"]) == (201, 0)
    set_status(service, user, status)
    assert_existing(client.post(CHARGES, json=body), first.json())


def test_a_refused_charge_does_not_use_up_its_key(service: Service, client: httpx2.Client) -> None:
    user = make_account(service, free=0)
    body = charge_body(user, idempotency_key="k")
    assert_insufficient(client.post(CHARGES, json=body), 0, 1)
    assert client.post(CREDITS, json=credit_body(user, 1)).status_code == 201
    assert client.post(CHARGES, json=body).status_code == 201


def test_a_key_belongs_to_one_account(service: Service, client: httpx2.Client) -> None:
    charges = set()
    for _ in range(3):
        user = make_account(service)
        response = client.post(CHARGES, json=charge_body(user, idempotency_key="shared"))
        assert response.status_code == 201
        charges.add(response.json()["charge_id"])
    assert len(charges) == 3


def test_another_accounts_key_is_no_excuse_for_an_account_that_cannot_pay(
    service: Service, client: httpx2.Client
) -> None:
    rich, poor = make_account(service), make_account(service, free=0)
    key = unique("key")
    assert client.post(CHARGES, json=charge_body(rich, idempotency_key=key)).status_code == 201
    assert_insufficient(client.post(CHARGES, json=charge_body(poor, idempotency_key=key)), 0, 1)


def test_a_charge_and_a_credit_may_share_a_key(service: Service, client: httpx2.Client) -> None:
    user = make_account(service)
    assert client.post(CHARGES, json=charge_body(user, idempotency_key="k")).status_code == 201
    assert client.post(CREDITS, json=credit_body(user, idempotency_key="k")).status_code == 201


@pytest.mark.parametrize("key", ["", None])
def test_an_empty_key_is_no_key(service: Service, client: httpx2.Client, key: str | None) -> None:
    user = make_account(service)
    for left in (2, 1, 0):
        response = client.post(CHARGES, json=charge_body(user, idempotency_key=key))
        assert (response.status_code, response.json()["free_uses_remaining"]) == (201, left)


@pytest.mark.parametrize("key", ["a" * 255, " ", "é😀", "k\t", "' OR 1=1 --", "%", "null"])
def test_keys_are_compared_as_they_are(service: Service, client: httpx2.Client, key: str) -> None:
    user = make_account(service)
    first = client.post(CHARGES, json=charge_body(user, idempotency_key=key))
    assert first.status_code == 201
    assert_existing(client.post(CHARGES, json=charge_body(user, idempotency_key=key)), first.json())
    other = client.post(CHARGES, json=charge_body(user, idempotency_key=key[:-1] + "x"))
    assert other.status_code == 201


async def test_one_key_fifty_times_in_parallel_charges_once(service: Service) -> None:
    user = make_account(service, free=0, paid=50)
    body = charge_body(user, idempotency_key="race")
    async with service.async_client() as client:
        answers = await asyncio.gather(*(client.post(CHARGES, json=body) for _ in range(50)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 49}
    (made,) = (answer.json() for answer in answers if answer.status_code == 201)
    for answer in answers:
        if answer.status_code == 409:
            assert_existing(answer, made)
    assert account_row(service, user)["paid_credits"] == 49


async def test_parallel_charges_never_overspend(service: Service) -> None:
    user = make_account(service, free=2, paid=10)
    async with service.async_client() as client:
        answers = await asyncio.gather(
            *(client.post(CHARGES, json=charge_body(user)) for _ in range(100))
        )
    assert Counter(answer.status_code for answer in answers) == {201: 12, 402: 88}
    made = [answer.json() for answer in answers if answer.status_code == 201]
    assert sorted(c["balance_after"] for c in made if c["paid_with"] == "paid") == [*range(10)]
    assert sorted(c["free_uses_remaining"] for c in made if c["paid_with"] == "free") == [0, 1]
    account = account_row(service, user)
    assert (account["paid_credits"], account["free_uses_remaining"]) == (0, 0)
    assert account["total_uses"] == 1 + 12


def test_a_check_after_a_charge_tells_the_same_counters(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=1, paid=5)
    client.post(CHARGES, json=charge_body(user))
    charge = client.post(CHARGES, json=charge_body(user, 2)).json()
    check = client.post(CHECK, json=identity(user)).json()
    assert check["credits_remaining"] == charge["balance_after"] == 3
    assert check["free_uses_remaining"] == charge["free_uses_remaining"] == 0
    assert check["total_uses"] == 4
