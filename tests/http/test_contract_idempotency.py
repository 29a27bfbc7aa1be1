"""The Idempotency-Key header on charges, credits and accounts (contract 10)."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import httpx2
import pytest

from tests.http.contract import (
    ACCOUNTS,
    CHARGES,
    CREDITS,
    account_row,
    assert_error,
    body_for,
    fault,
    faults_of,
    make_account,
    row_counts,
    set_status,
)
from tests.support import Service, charge_body, credit_body, identity, unique

PATHS = {"charges": CHARGES, "credits": CREDITS, "accounts": ACCOUNTS}
WRITERS = tuple(PATHS)
LEDGER = ("charges", "credits")
REUSED = "Idempotency key was used with a different request"
OTHER_PAYLOADS: list[tuple[str, dict[str, Any]]] = [
    ("charges", {"amount_minor": 2}),
    ("charges", {"currency": "EUR"}),
    ("charges", {"description": "another"}),
    ("charges", {"metadata": {"message_id": "m"}}),
    ("charges", {"metadata": {"request_id": "m"}}),
    ("credits", {"amount_minor": 2}),
    ("credits", {"currency": "EUR"}),
    ("credits", {"description": "another"}),
    ("credits", {"transaction_type": "refund"}),
    ("credits", {"external_transaction_id": "x"}),
    ("accounts", {"initial_balance_minor": 1}),
    ("accounts", {"plan_name": "pro"}),
    ("accounts", {"currency": "EUR"}),
]


def send(
    client: httpx2.Client, endpoint: str, body: dict[str, Any], key: str | bytes | None
) -> httpx2.Response:
    headers: Any = {} if key is None else {"Idempotency-Key": key}
    return client.post(PATHS[endpoint], json=body, headers=headers)


def assert_replayed(response: httpx2.Response, first: httpx2.Response) -> None:
    assert response.status_code == first.status_code
    assert response.json() == first.json()
    assert response.headers["idempotent-replayed"] == "true"


def existing_id(endpoint: str, answer: dict[str, Any]) -> tuple[str, str]:
    """The header and value that name what a used key of this endpoint created."""
    noun = endpoint.removesuffix("s")
    return f"x-existing-{noun}-id", answer[f"{noun}_id"]


@pytest.mark.parametrize("endpoint", WRITERS)
def test_a_repeat_gets_the_first_answer(
    service: Service, client: httpx2.Client, endpoint: str
) -> None:
    user = make_account(service)
    body = body_for(endpoint, user)
    first = send(client, endpoint, body, "k")
    assert first.status_code == 201
    assert "idempotent-replayed" not in first.headers
    before, row = row_counts(service), account_row(service, user)
    for _ in range(3):
        assert_replayed(send(client, endpoint, body, "k"), first)
    assert row_counts(service) == before
    assert account_row(service, user) == row


def test_the_first_answer_of_a_creation_is_kept_too(
    service: Service, client: httpx2.Client
) -> None:
    user = unique()
    body = {**identity(user), "marketing_opt_in": True, "initial_balance_minor": 5}
    first = send(client, "accounts", body, "k")
    assert first.status_code == 201
    assert_replayed(send(client, "accounts", body, "k"), first)


@pytest.mark.parametrize("endpoint", WRITERS)
def test_the_first_answer_stands_whatever_became_of_the_account(
    service: Service, client: httpx2.Client, endpoint: str
) -> None:
    user = make_account(service, free=1)
    body = body_for(endpoint, user)
    first = send(client, endpoint, body, "k")
    client.post(CREDITS, json=credit_body(user, 7, customer_email="ann@example.com"))
    client.post(CHARGES, json=charge_body(user))
    set_status(service, user, "closed")
    assert_replayed(send(client, endpoint, body, "k"), first)


@pytest.mark.parametrize("endpoint", WRITERS)
def test_the_same_request_may_be_written_differently(
    service: Service, client: httpx2.Client, endpoint: str
) -> None:
    user = make_account(service)
    body = {**body_for(endpoint, user), "currency": "USD"}
    first = send(client, endpoint, body, "k")
    assert first.status_code == 201
    again = json.dumps(
        {**dict(reversed(body.items())), "currency": "usd", "unknown": 1, "customer_email": None},
        indent=4,
    )
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json; charset=utf-8"}
    assert_replayed(client.post(PATHS[endpoint], content=again, headers=headers), first)


@pytest.mark.parametrize(("endpoint", "change"), OTHER_PAYLOADS, ids=str)
def test_another_request_under_a_used_key_is_refused(
    service: Service, client: httpx2.Client, endpoint: str, change: dict[str, Any]
) -> None:
    user = make_account(service)
    body = body_for(endpoint, user)
    first = send(client, endpoint, body, "k")
    before, row = row_counts(service), account_row(service, user)
    response = send(client, endpoint, {**body, **change}, "k")
    assert_error(response, 422, REUSED)
    assert "idempotent-replayed" not in response.headers
    assert row_counts(service) == before
    assert account_row(service, user) == row
    assert_replayed(send(client, endpoint, body, "k"), first)


@pytest.mark.parametrize("endpoint", LEDGER)
def test_the_key_in_the_body_wins_over_the_header(
    service: Service, client: httpx2.Client, endpoint: str
) -> None:
    user = make_account(service)
    body = {**body_for(endpoint, user), "idempotency_key": "in-body"}
    first = send(client, endpoint, body, "in-header")
    assert first.status_code == 201
    # The body's key has been used ...
    repeat = send(client, endpoint, body, None)
    header, made = existing_id(endpoint, first.json())
    assert (repeat.status_code, repeat.headers[header]) == (409, made)
    assert_replayed(send(client, endpoint, body, "another-header"), first)
    # ... and the header's key has not.
    other = send(client, endpoint, body_for(endpoint, user), "in-header")
    assert other.status_code == 201
    assert "idempotent-replayed" not in other.headers
    assert existing_id(endpoint, other.json())[1] != made


@pytest.mark.parametrize("endpoint", LEDGER)
def test_header_and_body_name_the_same_keys(
    service: Service, client: httpx2.Client, endpoint: str
) -> None:
    user = make_account(service)
    body = body_for(endpoint, user)
    keyed = {**body, "idempotency_key": "k"}
    first = send(client, endpoint, body, "k")
    repeat = send(client, endpoint, keyed, None)
    header, made = existing_id(endpoint, first.json())
    assert (repeat.status_code, repeat.headers[header]) == (409, made)
    assert repeat.json()[endpoint.removesuffix("s")] == first.json()
    assert "idempotent-replayed" not in repeat.headers
    second = send(client, endpoint, {**body, "idempotency_key": "k2"}, None)
    assert_replayed(send(client, endpoint, body, "k2"), second)


@pytest.mark.parametrize("endpoint", LEDGER)
@pytest.mark.parametrize("in_body", ["", None])
def test_an_empty_key_in_the_body_leaves_the_header_in_force(
    service: Service, client: httpx2.Client, endpoint: str, in_body: str | None
) -> None:
    user = make_account(service)
    body = {**body_for(endpoint, user), "idempotency_key": in_body}
    first = send(client, endpoint, body, "k")
    assert_replayed(send(client, endpoint, body, "k"), first)


@pytest.mark.parametrize("endpoint", LEDGER)
def test_an_empty_header_is_no_key(service: Service, client: httpx2.Client, endpoint: str) -> None:
    user = make_account(service)
    answers = [send(client, endpoint, body_for(endpoint, user), "") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() != answers[1].json()


@pytest.mark.parametrize("endpoint", WRITERS)
def test_a_key_belongs_to_one_account(
    service: Service, client: httpx2.Client, endpoint: str
) -> None:
    answers = [
        send(client, endpoint, body_for(endpoint, make_account(service)), "shared")
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert all("idempotent-replayed" not in answer.headers for answer in answers)


def test_a_key_is_kept_apart_for_each_endpoint(service: Service, client: httpx2.Client) -> None:
    user = make_account(service)
    for endpoint in WRITERS:
        response = send(client, endpoint, body_for(endpoint, user), "k")
        assert response.status_code == 201
        assert "idempotent-replayed" not in response.headers


def test_a_refused_request_does_not_use_up_its_key(service: Service, client: httpx2.Client) -> None:
    user = make_account(service, free=0)
    body = charge_body(user)
    for _ in range(2):
        refused = send(client, "charges", body, "k")
        assert_error(refused, 402, "Insufficient credits. Balance: 0, Required: 1")
        assert "idempotent-replayed" not in refused.headers
    client.post(CREDITS, json=credit_body(user, 1))
    first = send(client, "charges", body, "k")
    assert (first.status_code, "idempotent-replayed" in first.headers) == (201, False)
    assert_replayed(send(client, "charges", body, "k"), first)


@pytest.mark.parametrize("endpoint", WRITERS)
def test_a_key_may_have_255_characters(
    service: Service, client: httpx2.Client, endpoint: str
) -> None:
    user = make_account(service)
    body = body_for(endpoint, user)
    first = send(client, endpoint, body, "k" * 255)
    assert_replayed(send(client, endpoint, body, "k" * 255), first)
    before = row_counts(service)
    assert faults_of(send(client, endpoint, body, "k" * 256)) == [
        fault(
            "string_too_long",
            ["header", "idempotency-key"],
            "String should have at most 255 characters",
            "k" * 256,
            {"max_length": 255},
        )
    ]
    assert row_counts(service) == before


def test_a_key_in_another_script_is_one_key_in_header_and_body(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service)
    first = send(client, "charges", charge_body(user), "ключ-é".encode())
    assert first.status_code == 201
    repeat = send(client, "charges", charge_body(user, idempotency_key="ключ-é"), None)
    assert repeat.status_code == 409


@pytest.mark.parametrize("endpoint", WRITERS)
async def test_a_key_sent_fifty_times_in_parallel_has_one_effect_and_one_answer(
    service: Service, endpoint: str
) -> None:
    user = make_account(service)
    body = body_for(endpoint, user)
    before = row_counts(service)
    async with service.async_client() as client:
        answers = await asyncio.gather(
            *(
                client.post(PATHS[endpoint], json=body, headers={"Idempotency-Key": "race"})
                for _ in range(50)
            )
        )
    assert {answer.status_code for answer in answers} == {201}
    assert all(answer.json() == answers[0].json() for answer in answers)
    marks = Counter(answer.headers.get("idempotent-replayed") for answer in answers)
    assert marks == {None: 1, "true": 49}
    after = row_counts(service)
    assert sum(after[name] - before[name] for name in ("charges", "credits")) == (
        0 if endpoint == "accounts" else 1
    )


def test_faults_of_the_fields_beat_the_key(service: Service, client: httpx2.Client) -> None:
    user = make_account(service)
    assert send(client, "charges", charge_body(user), "k").status_code == 201
    response = send(client, "charges", charge_body(user, 0), "k")
    assert [entry["type"] for entry in faults_of(response)] == ["greater_than"]


def test_a_used_key_does_not_open_the_door_to_another_callers_key(
    service: Service, client: httpx2.Client, stranger: httpx2.Client
) -> None:
    user = make_account(service)
    body = charge_body(user)
    assert send(client, "charges", body, "k").status_code == 201
    reader = service.database.create_key(["billing:read"])
    headers = {"Idempotency-Key": "k", "X-API-Key": reader.secret}
    response = stranger.post(CHARGES, json=body, headers=headers)
    assert_error(response, 403, "Missing required permission: billing:write")
