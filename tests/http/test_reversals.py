"""POST /v1/billing/charges/{charge_id}/reverse, as an agent whose job failed calls it."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.http.contract import (
    CHARGES,
    CHECK,
    INT64_MAX,
    TRANSACTIONS,
    account_row,
    assert_error,
    faults_of,
    make_account,
)
from tests.http.descriptions import validate_answer
from tests.support import Service, charge_body, identity, unique

WHY = {"reason": "The job failed"}


def _charge(client: httpx2.Client, user: str, amount: int = 1) -> dict[str, Any]:
    answer = client.post(CHARGES, json=charge_body(user, amount))
    assert answer.status_code == 201
    charge: dict[str, Any] = answer.json()
    return charge


def _reverse(
    client: httpx2.Client, charge_id: str, body: Any = None, **headers: str
) -> httpx2.Response:
    answer = client.post(
        f"{CHARGES}/{charge_id}/reverse", json={**WHY, **(body or {})}, headers=headers
    )
    validate_answer("reverseCharge", answer)
    return answer


def test_a_failed_job_gives_the_use_back(service: Service, client: httpx2.Client) -> None:
    user = make_account(service, free=1)
    assert client.post(CHECK, json=identity(user)).json()["has_credit"] is True
    charge = _charge(client, user, 7)
    assert client.post(CHECK, json=identity(user)).json()["has_credit"] is False
    answer = _reverse(client, charge["charge_id"])
    assert answer.status_code == 201
    body = answer.json()
    assert body == {
        "reversal_id": body["reversal_id"],
        "charge_id": charge["charge_id"],
        "account_id": charge["account_id"],
        "amount_minor": 7,
        "currency": "USD",
        "paid_with": "free",
        "balance_after": 0,
        "free_uses_remaining": 1,
        "reversed_minor": 7,
        "reason": "The job failed",
        "created_at": body["created_at"],
    }
    assert client.post(CHECK, json=identity(user)).json()["free_uses_remaining"] == 1
    again = _reverse(client, charge["charge_id"])
    assert (again.status_code, again.json()["code"]) == (409, "already_reversed")
    history = client.get(TRANSACTIONS, params=identity(user)).json()
    newest, oldest = history["transactions"][:2]
    assert (newest["transaction_id"], newest["type"]) == (body["reversal_id"], "credit")
    assert (newest["corrects_id"], newest["amount_minor"]) == (charge["charge_id"], 0)
    assert (oldest["transaction_id"], oldest["amount_minor"]) == (charge["charge_id"], -7)
    assert "corrects_id" not in oldest


def test_credits_are_given_back_in_parts(service: Service, client: httpx2.Client) -> None:
    user = make_account(service, free=0, paid=9)
    charge = _charge(client, user, 6)["charge_id"]
    part = _reverse(client, charge, {"amount_minor": 4}).json()
    assert (part["paid_with"], part["balance_after"], part["reversed_minor"]) == ("paid", 7, 4)
    more = _reverse(client, charge, {"amount_minor": 3})
    assert_error(more, 422, f"Entry {charge} can be reversed by 2 at most, and 3 was asked for")
    assert _reverse(client, charge).json()["amount_minor"] == 2
    assert account_row(service, user)["paid_credits"] == 9


def test_a_repeat_under_its_key_gets_the_first_answer(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=0, paid=9)
    charge = _charge(client, user, 9)["charge_id"]
    body = {"amount_minor": 2}
    for place in ("header", "body"):
        key = unique("failed")
        headers = {"Idempotency-Key": key} if place == "header" else {}
        sent = body if headers else {**body, "idempotency_key": key}
        first, again = (_reverse(client, charge, sent, **headers) for _ in range(2))
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.json() == first.json()
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        other = _reverse(client, charge, {**sent, "amount_minor": 1}, **headers)
        assert (other.status_code, other.json()["code"]) == (
            (422, "idempotency_key_reused") if headers else (409, "reversal_exists")
        )
    assert account_row(service, user)["paid_credits"] == 4


def test_another_keys_charge_does_not_exist_and_a_rotated_keys_does(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=3)
    first, second = (_charge(client, user)["charge_id"] for _ in range(2))
    before = account_row(service, user)
    with service.client(service.database.create_key()) as stranger:
        unknown = "0197f2a0-0000-7000-8000-000000000001"
        for charge in (first, unknown):
            assert_error(_reverse(stranger, charge), 404, f"Charge not found: {charge}")
    reader = service.database.create_key(["billing:read"])
    with service.client(reader) as client_of_reader:
        assert _reverse(client_of_reader, first).json()["code"] == "permission_missing"
    assert account_row(service, user) == before
    successor = service.database.create_key()
    service.database.execute(
        "UPDATE billing_data.api_keys SET rotated_to = %s WHERE id = %s",
        successor.id,
        service.key.id,
    )
    with service.client(successor) as rotated:
        assert _reverse(rotated, first).status_code == 201
        younger = _charge(rotated, user)["charge_id"]
    assert _reverse(client, younger).status_code == 201
    assert _reverse(client, second).json()["free_uses_remaining"] == 3


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"amount_minor": 0}, ["body", "amount_minor"]),
        ({"amount_minor": -1}, ["body", "amount_minor"]),
        ({"amount_minor": INT64_MAX + 1}, ["body", "amount_minor"]),
        ({"amount_minor": 1.5}, ["body", "amount_minor"]),
        ({"reason": None}, ["body", "reason"]),
        ({"reason": "  "}, ["body", "reason"]),
        ({"reason": "x" * 501}, ["body", "reason"]),
        ({"reason": "a\0b"}, ["body", "reason"]),
        ({"idempotency_key": "x" * 256}, ["body", "idempotency_key"]),
    ],
)
def test_a_wrong_shape_is_told_with_its_field(
    service: Service, client: httpx2.Client, body: dict[str, Any], where: list[str]
) -> None:
    charge = _charge(client, make_account(service, free=1))["charge_id"]
    answer = _reverse(client, charge, body)
    assert answer.status_code == 422
    assert [fault["loc"] for fault in faults_of(answer)] == [where]


def test_what_is_no_id_is_no_charge(client: httpx2.Client) -> None:
    answer = _reverse(client, "the-charge")
    assert faults_of(answer)[0]["loc"] == ["path", "charge_id"]
