"""Charges that a cap refuses, as an agent sees them; and caps in the staff's API and console."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from tests.http.contract import BATCH, CHARGES, CHECK, account_row, make_account, set_cap
from tests.http.descriptions import validate_answer
from tests.http.metrics import read
from tests.support import Database, Service, charge_body, identity, running_service, unique


@pytest.fixture(autouse=True)
def _caps_go(service: Service) -> Iterator[None]:
    yield
    service.database.execute("TRUNCATE billing_data.caps, billing_data.cap_usage")


def _charge(client: httpx2.Client, user: str, amount: int = 1, **fields: Any) -> httpx2.Response:
    answer = client.post(CHARGES, json=charge_body(user, amount, **fields))
    validate_answer("createCharge", answer)
    return answer


def test_a_cap_of_an_account_is_its_budget_and_refuses_with_402(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=0, paid=50)
    cap = set_cap(service, "account", 10, user)
    assert _charge(client, user, 8).status_code == 201
    answer = _charge(client, user, 3)
    assert answer.status_code == 402
    assert "retry-after" not in answer.headers
    body = answer.json()
    frees = body["cap"]["resets_at"]
    now = datetime.now(UTC)
    following = (now.year + now.month // 12, now.month % 12 + 1)
    assert frees == f"{following[0]}-{following[1]:02}-01T00:00:00Z"
    assert body == {
        "detail": "Cap of 10 per month for this account reached, 8 used; it frees at " + frees,
        "code": "account_cap_reached",
        "request_id": answer.headers["x-request-id"],
        "cap": {
            "cap_id": cap, "scope": "account", "period": "month", "limit": 10, "used": 8,
            "resets_at": frees,
        },
        "required": 3,
        "retryable": True,
    }  # fmt: skip
    assert account_row(service, user)["paid_credits"] == 42


@pytest.mark.parametrize("scope", ["api_key", "agent", "all"])
def test_other_caps_refuse_with_429_and_say_how_long_to_wait(
    service: Service, client: httpx2.Client, scope: str
) -> None:
    user = make_account(service, free=0, paid=50)
    subject = {"api_key": service.key.id, "agent": "scout", "all": None}[scope]
    set_cap(service, scope, 2, subject, period="day")
    answer = _charge(client, user, 3, metadata={"agent_id": "scout"})
    assert answer.status_code == 429
    body = answer.json()
    assert (body["code"], body["cap"]["scope"]) == ("cap_reached", scope)
    assert (body["required"], body["retryable"]) == (3, False)
    left = datetime.fromisoformat(body["cap"]["resets_at"]) - datetime.now(UTC)
    assert 0 <= int(answer.headers["retry-after"]) - left.total_seconds() < 30
    assert _charge(client, user, 2, metadata={"agent_id": "scout"}).status_code == 201


def test_a_batch_charges_what_fits_and_each_other_result_is_what_a_charge_alone_would_get(
    service: Service, client: httpx2.Client
) -> None:
    users = [make_account(service, free=0, paid=1000) for _ in range(2)]
    set_cap(service, "api_key", 500, service.key.id)
    charges = [charge_body(users[number % 2]) for number in range(1000)]
    key = {"Idempotency-Key": unique()}
    answer = client.post(BATCH, json={"charges": charges}, headers=key)
    validate_answer("createCharges", answer)
    body = answer.json()
    assert body["created_count"] == 500
    statuses = [result["status"] for result in body["results"]]
    assert statuses == [201] * 500 + [429] * 500
    alone = _charge(client, users[0]).json()
    refused = body["results"][-1]["body"]
    assert {**refused, "request_id": ""} == {**alone, "request_id": ""}
    again = client.post(BATCH, json={"charges": charges}, headers=key)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["results"][-1]["body"]["cap"] == refused["cap"]
    left = sum(account_row(service, user)["paid_credits"] for user in users)
    assert left == 1500


def test_a_check_whose_hold_a_cap_refuses_says_which_cap_and_when_it_frees(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=0, paid=50)
    set_cap(service, "account", 10, user)
    before = read(service).sum("billing_cap_refusals_total", scope="account", period="month")
    answer = client.post(CHECK, json={**identity(user), "hold": {"amount_minor": 11}})
    validate_answer("checkCredit", answer)
    body = answer.json()
    assert (body["has_credit"], body["hold"], body["purchase_required"]) == (False, None, False)
    assert body["reason"] == _charge(client, user, 11).json()["detail"]
    after = read(service).sum("billing_cap_refusals_total", scope="account", period="month")
    assert after == before + 2


def test_a_key_that_was_used_is_answered_with_its_charge_when_the_cap_is_reached(
    service: Service, client: httpx2.Client
) -> None:
    user, key = make_account(service, free=0, paid=50), {"Idempotency-Key": unique()}
    set_cap(service, "api_key", 1, service.key.id)
    first = client.post(CHARGES, json=charge_body(user), headers=key)
    assert (first.status_code, _charge(client, user).status_code) == (201, 429)
    again = client.post(CHARGES, json=charge_body(user), headers=key)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotent-replayed"] == "true"


def test_refusals_are_counted_by_scope_and_period_and_by_nothing_of_anybody(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=0, paid=50)
    set_cap(service, "agent", 0, "scout", period="minute")
    before = read(service).sum("billing_cap_refusals_total", scope="agent", period="minute")
    _charge(client, user, metadata={"agent_id": "scout"})
    after = read(service)
    assert after.sum("billing_cap_refusals_total", scope="agent", period="minute") == before + 1
    labels = {name for series in after.samples["billing_cap_refusals_total"] for name, _ in series}
    assert labels == {"scope", "period"}


def test_a_leaked_key_is_bounded_at_several_servers_at_once(database: Database) -> None:
    with (
        running_service(database, workers=2) as one,
        running_service(database, workers=2) as other,
    ):
        leaked = database.create_key(name="leaked")
        users = [make_account(one, free=0, paid=1000) for _ in range(5)]
        set_cap(one, "api_key", 200, leaked.id)
        gate = threading.Barrier(12)

        def attack(number: int) -> int:
            service = (one, other)[number % 2]
            charged = 0
            with service.client(leaked) as client:
                gate.wait(timeout=60)
                for turn in range(6):
                    user = users[(number + turn) % 5]
                    if turn % 3 == 2:
                        batch = {"charges": [charge_body(user, 2) for _ in range(50)]}
                        charged += 2 * client.post(BATCH, json=batch).json()["created_count"]
                    else:
                        charged += client.post(CHARGES, json=charge_body(user)).status_code == 201
            return charged

        with ThreadPoolExecutor(12) as pool:
            charged = sum(pool.map(attack, range(12)))
        left = sum(account_row(one, user)["paid_credits"] for user in users)
        assert charged == 5000 - left
        assert 199 <= charged <= 200
