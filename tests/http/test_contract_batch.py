"""POST /v1/billing/charges:batch (contract 10): an outcome per item in the order sent."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx2
import pytest

from tests.http.contract import (
    BATCH,
    CHARGES,
    NOT_AN_OBJECT,
    account_row,
    assert_error,
    fault,
    faults_of,
    make_account,
    row_counts,
)
from tests.support import Service, charge_body, unique

REUSED = "Idempotency key was used with a different request"


def send(client: httpx2.Client, *charges: Any, **headers: str) -> list[dict[str, Any]]:
    """The results of a batch, after checking that each is at its place."""
    response = client.post(BATCH, json={"charges": list(charges)}, headers=headers)
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert [result["index"] for result in results] == [*range(len(charges))]
    return results


def statuses(results: list[dict[str, Any]]) -> list[int]:
    return [result["status"] for result in results]


def test_each_outcome_stands_where_its_charge_stood(
    service: Service, client: httpx2.Client
) -> None:
    good, spent = make_account(service), make_account(service, free=0)
    suspended = make_account(service, status="suspended")
    closed = make_account(service, status="closed")
    used = charge_body(good, idempotency_key="used")
    first = client.post(CHARGES, json=used).json()
    results = send(
        client,
        charge_body(good, 5, metadata={"message_id": "m"}),
        charge_body(spent, 2),
        charge_body(unique()),
        {"oauth_provider": "google"},
        charge_body(suspended),
        used,
        charge_body(good, currency="EUR"),
        charge_body(closed),
        charge_body(good, description="last"),
    )
    assert statuses(results) == [201, 402, 404, 422, 403, 409, 400, 403, 201]
    bodies = [result["body"] for result in results]
    assert (bodies[0]["amount_minor"], bodies[0]["paid_with"]) == (5, "free")
    assert bodies[0]["metadata"]["message_id"] == "m"
    assert [body.get("detail") for body in bodies[1:3]] == [
        "Insufficient credits. Balance: 0, Required: 2",
        "Account not found",
    ]
    assert (bodies[1]["shortfall"], bodies[1]["retryable"]) == (2, False)
    assert bodies[3]["detail"][0]["loc"] == [
        "body",
        "charges",
        3,
        "oauth_provider",
    ]
    assert bodies[4]["detail"] == "Account suspended: Account suspended"
    assert (bodies[5]["detail"], bodies[5]["charge"]) == ("Charge already exists", first)
    assert bodies[6]["detail"] == (
        "Data integrity error: Currency mismatch: account=USD, charge=EUR"
    )
    assert bodies[7]["detail"] == "Account is closed"
    assert (bodies[8]["description"], bodies[8]["free_uses_remaining"]) == ("last", 0)
    for body in bodies[1:8]:
        assert body["code"]
        assert body["request_id"]


def test_a_charge_in_a_batch_is_answered_as_it_would_be_alone(
    service: Service, client: httpx2.Client
) -> None:
    alone, batched = make_account(service, free=1, paid=5), make_account(service, free=1, paid=5)
    single = [client.post(CHARGES, json=charge_body(alone, 3)) for _ in range(3)]
    results = send(client, *(charge_body(batched, 3) for _ in range(3)))
    assert statuses(results) == [response.status_code for response in single] == [201, 201, 402]
    own = {"charge_id", "account_id", "created_at", "request_id"}
    for response, result in zip(single, results, strict=True):
        one, other = response.json(), result["body"]
        assert one.keys() == other.keys()
        assert {k: v for k, v in one.items() if k not in own} == {
            k: v for k, v in other.items() if k not in own
        }


@pytest.mark.parametrize(
    "malformed",
    [None, 7, "text", [], {}, {"amount_minor": 0}, {"metadata": None}],
    ids=str,
)
def test_one_malformed_charge_fails_alone(
    service: Service, client: httpx2.Client, malformed: Any
) -> None:
    user = make_account(service)
    results = send(client, charge_body(user), malformed, charge_body(user))
    assert statuses(results) == [201, 422, 201]
    entries = results[1]["body"]["detail"]
    assert all(entry["loc"][:3] == ["body", "charges", 1] for entry in entries)
    if not isinstance(malformed, dict):
        assert entries == [
            fault("model_attributes_type", ["body", "charges", 1], NOT_AN_OBJECT, malformed)
        ]
    assert account_row(service, user)["total_uses"] == 2


def test_a_value_the_database_could_not_store_fails_alone(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service)
    results = send(
        client,
        charge_body(user),
        charge_body(user, description="a\0b"),
        charge_body(user, 2**63),
        charge_body(user, idempotency_key="x" * 256),
        charge_body(user),
    )
    assert statuses(results) == [201, 422, 422, 422, 201]


@pytest.mark.parametrize("charges", [[], None, "text", {}, 7], ids=str)
def test_what_is_no_list_of_charges_is_refused(
    service: Service, client: httpx2.Client, charges: Any
) -> None:
    before = row_counts(service)
    (entry,) = faults_of(client.post(BATCH, json={"charges": charges}))
    assert (entry["loc"], entry["input"]) == (["body", "charges"], charges)
    assert row_counts(service) == before


def test_a_thousand_charges_are_taken_and_one_more_is_refused(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=0, paid=999)
    charges = [charge_body(user, description=f"{n}") for n in range(1001)]
    before = row_counts(service)
    (entry,) = faults_of(client.post(BATCH, json={"charges": charges}))
    assert entry["loc"] == ["body", "charges"]
    assert row_counts(service) == before
    results = send(client, *charges[:1000])
    assert statuses(results) == [201] * 999 + [402]
    assert [result["body"]["balance_after"] for result in results[:-1]] == [*range(998, -1, -1)]
    assert [result["body"]["description"] for result in results[:3]] == ["0", "1", "2"]


def test_charges_of_one_account_are_decided_in_their_order(
    service: Service, client: httpx2.Client
) -> None:
    users = [make_account(service, free=1, paid=4) for _ in range(3)]
    results = send(
        client, *(charge_body(user, amount) for amount in (9, 3, 3, 1, 1) for user in users)
    )
    by_user = [statuses(results[number::3]) for number in range(3)]
    assert by_user == [[201, 201, 402, 201, 402]] * 3


def test_the_last_credit_goes_to_the_first_of_a_batch(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=0, paid=1)
    results = send(client, *(charge_body(user) for _ in range(3)))
    assert statuses(results) == [201, 402, 402]
    assert results[1]["body"]["balance"] == 0


def test_a_key_twice_in_one_batch_charges_once(service: Service, client: httpx2.Client) -> None:
    user, other = make_account(service), make_account(service)
    results = send(
        client,
        charge_body(user, idempotency_key="k"),
        charge_body(user, idempotency_key="k"),
        charge_body(other, idempotency_key="k"),
        charge_body(user, 2, idempotency_key="k"),
        charge_body(user, idempotency_key=""),
        charge_body(user, idempotency_key=""),
    )
    assert statuses(results) == [201, 409, 201, 409, 201, 201]
    made = results[0]["body"]
    assert [results[n]["body"]["charge"] for n in (1, 3)] == [made, made]
    assert account_row(service, user)["free_uses_remaining"] == 0


async def test_the_same_batch_in_parallel_charges_each_key_once(service: Service) -> None:
    users = [make_account(service) for _ in range(4)]
    charges = [charge_body(u, idempotency_key=f"k{n}") for u in users for n in range(2)]
    async with service.async_client() as client:
        answers = await asyncio.gather(
            *(
                client.post(BATCH, json={"charges": charges[::step]})
                for step in (1, -1)
                for _ in range(10)
            )
        )
    assert {answer.status_code for answer in answers} == {200}
    results = [result for answer in answers for result in answer.json()["results"]]
    assert Counter(statuses(results)) == {201: 8, 409: 8 * 19}
    assert [account_row(service, user)["free_uses_remaining"] for user in users] == [1] * 4


async def test_batches_and_single_charges_in_parallel_never_overspend(service: Service) -> None:
    user = make_account(service, free=0, paid=25)
    async with service.async_client() as client:
        answers = await asyncio.gather(
            *(client.post(CHARGES, json=charge_body(user)) for _ in range(20)),
            *(client.post(BATCH, json={"charges": [charge_body(user)] * 4}) for _ in range(10)),
        )
    made = [answer.status_code for answer in answers[:20]]
    made += [s for answer in answers[20:] for s in statuses(answer.json()["results"])]
    assert Counter(made) == {201: 25, 402: 35}
    assert account_row(service, user)["paid_credits"] == 0


def test_a_key_for_the_whole_batch_replays_its_first_answer(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=2)
    body = {"charges": [charge_body(user), charge_body(user, description="second")]}
    headers = {"Idempotency-Key": unique("key")}
    first = client.post(BATCH, json=body, headers=headers)
    assert (first.status_code, statuses(first.json()["results"])) == (200, [201, 201])
    assert "idempotent-replayed" not in first.headers
    before = row_counts(service)
    again = client.post(BATCH, json=body, headers=headers)
    assert row_counts(service) == before, "a replay has no second effect"
    assert again.headers["idempotent-replayed"] == "true"
    assert (again.status_code, again.json()) == (first.status_code, first.json())


def test_a_repeated_batch_charges_nothing_twice(service: Service, client: httpx2.Client) -> None:
    user = make_account(service, free=3)
    charges = [charge_body(user), charge_body(user)]
    headers = {"Idempotency-Key": unique("key")}
    first = send(client, *charges, **headers)
    again = send(client, *charges, **headers)
    assert statuses(again) == statuses(first) == [201, 201]
    assert [r["body"] for r in again] == [r["body"] for r in first]
    assert first[0]["body"]["charge_id"] != first[1]["body"]["charge_id"]
    assert account_row(service, user)["free_uses_remaining"] == 1


def test_a_repeated_batch_under_the_rotated_api_key_charges_nothing_twice(
    service: Service,
) -> None:
    user = make_account(service, free=0, paid=9)
    keys = [service.database.create_key()]
    body = {"charges": [charge_body(user), {"malformed": True}, charge_body(user, 2)]}
    headers = {"Idempotency-Key": unique("key")}
    with service.client(keys[0]) as client:
        first = client.post(BATCH, json=body, headers=headers)
    assert statuses(first.json()["results"]) == [201, 422, 201]
    for _ in range(2):
        keys.append(service.database.rotate_key(keys[-1].id))
    for key in keys:  # all of them are valid for a day
        with service.client(key) as client:
            again = client.post(BATCH, json=body, headers=headers)
            other = client.post(BATCH, json={"charges": [charge_body(user)]}, headers=headers)
        assert again.headers["idempotent-replayed"] == "true"
        assert made(again) == made(first)
        assert_error(other, 422, REUSED)
    assert account_row(service, user)["paid_credits"] == 6


def test_two_customers_use_the_same_batch_key_and_see_nothing_of_each_other(
    service: Service,
) -> None:
    """The same holds when an API key was created in place of a revoked one, or when both belong to
    one agent."""
    user = make_account(service, free=0, paid=9)
    body = {"charges": [charge_body(user)]}
    headers = {"Idempotency-Key": unique("key")}
    answers = []
    for _ in range(3):
        key = service.database.create_key(name="the same name")
        with service.client(key) as client:
            answers.append(client.post(BATCH, json=body, headers=headers))
        service.database.execute(
            "SELECT billing.revoke_api_key(p_api_key_id => %s)", key.id, user="t_dba"
        )
    assert all("idempotent-replayed" not in answer.headers for answer in answers)
    assert len({made(answer)[0]["charge_id"] for answer in answers}) == 3
    assert account_row(service, user)["paid_credits"] == 6


def made(response: httpx2.Response) -> list[dict[str, Any]]:
    """The charges that a batch made."""
    assert response.status_code == 200, response.text
    return [result["body"] for result in response.json()["results"] if result["status"] == 201]


def test_another_batch_under_a_used_key_is_refused(service: Service, client: httpx2.Client) -> None:
    user = make_account(service, free=3)
    headers = {"Idempotency-Key": unique("key")}
    assert statuses(send(client, charge_body(user), **headers)) == [201]
    before = row_counts(service)
    response = client.post(BATCH, json={"charges": [charge_body(user, 2)]}, headers=headers)
    assert row_counts(service) == before
    assert_error(response, 422, REUSED)


def test_a_longer_batch_under_a_used_key_is_refused(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=3)
    headers = {"Idempotency-Key": unique("key")}
    assert statuses(send(client, charge_body(user), **headers)) == [201]
    before = row_counts(service)
    body = {"charges": [charge_body(user), charge_body(user)]}
    response = client.post(BATCH, json=body, headers=headers)
    assert_error(response, 422, REUSED)
    assert row_counts(service) == before


def test_a_charges_own_key_wins_over_the_batchs(service: Service, client: httpx2.Client) -> None:
    user = make_account(service)
    own = charge_body(user, idempotency_key="own")
    first = client.post(CHARGES, json=own)
    results = send(client, own, charge_body(user), **{"Idempotency-Key": unique("key")})
    assert results[1]["status"] == 201
    assert results[0]["body"] == first.json() or results[0]["body"]["charge"] == first.json()
    assert account_row(service, user)["total_uses"] == 2


def test_a_batch_key_has_at_most_255_characters(service: Service, client: httpx2.Client) -> None:
    user = make_account(service)
    before = row_counts(service)
    body = {"charges": [charge_body(user)]}
    response = client.post(BATCH, json=body, headers={"Idempotency-Key": "k" * 256})
    assert [entry["loc"] for entry in faults_of(response)] == [["header", "idempotency-key"]]
    assert row_counts(service) == before


def test_the_longest_key_works_for_a_batch_too(service: Service, client: httpx2.Client) -> None:
    user = make_account(service)
    headers = {"Idempotency-Key": unique("k" * 235)[:255].ljust(255, "k")}
    first = send(client, charge_body(user), **headers)
    again = send(client, charge_body(user), **headers)
    assert statuses(first) == statuses(again) == [201]
    assert first[0]["body"] == again[0]["body"]
