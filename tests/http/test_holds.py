"""Reserve, work, settle: holds as an agent makes, captures and releases them."""

from __future__ import annotations

import re
import urllib.error
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.http.contract import (
    BATCH,
    CHARGES,
    CHECK,
    INT64_MAX,
    account_path,
    assert_error,
    faults_of,
    make_account,
    set_status,
)
from tests.http.descriptions import validate_answer
from tests.sql.holds import SECOND, stopped_clock
from tests.support import Service, charge_body, held_account, identity, unique

HOLDS = "/v1/billing/holds"
NOBODYS = "0197f2a0-0000-7000-8000-00000000abcd"


def _hold(
    client: httpx2.Client, user: str, amount: int = 5, key: str | None = None, **fields: Any
) -> httpx2.Response:
    headers = {"Idempotency-Key": key} if key else {}
    answer = client.post(
        HOLDS, json={**identity(user), "amount_minor": amount, **fields}, headers=headers
    )
    validate_answer("createHold", answer)
    return answer


def _held(client: httpx2.Client, user: str, amount: int = 5, **fields: Any) -> str:
    answer = _hold(client, user, amount, **fields)
    assert answer.status_code == 201, answer.text
    hold_id: str = answer.json()["hold_id"]
    return hold_id


_OPERATIONS = {"capture": "captureHold", "release": "releaseHold", "extend": "extendHold"}


def _settle(client: httpx2.Client, hold_id: str, how: str, **body: Any) -> httpx2.Response:
    answer = client.post(f"{HOLDS}/{hold_id}/{how}", json=body)
    validate_answer(_OPERATIONS[how], answer)
    return answer


@pytest.fixture
def payer(service: Service) -> str:
    """Somebody with ten paid credits and no free use."""
    return make_account(service, free=0, paid=10)


def test_a_hold_is_made_captured_and_told(client: httpx2.Client, payer: str) -> None:
    metadata = {"message_id": "m", "agent_id": "scout", "channel_id": None, "request_id": "r"}
    answer = _hold(
        client, payer, 7, currency="usd", expires_in_seconds=60, description="A long job",
        metadata=metadata,
    )  # fmt: skip
    assert answer.status_code == 201
    body = answer.json()
    assert body == {
        "hold_id": body["hold_id"],
        "account_id": body["account_id"],
        "amount_minor": 7,
        "currency": "USD",
        "status": "open",
        "paid_with": "paid",
        "captured_minor": None,
        "charge_id": None,
        "late": False,
        "description": "A long job",
        "metadata": metadata,
        "created_at": body["created_at"],
        "expires_at": body["expires_at"],
        "settled_at": None,
        "balance": 10,
        "held": 7,
        "available": 3,
        "free_uses_available": 0,
    }
    assert client.get(f"{HOLDS}/{body['hold_id']}").json() == body
    refused = client.post(CHARGES, json=charge_body(payer, 4))
    assert (refused.status_code, refused.json()["balance"]) == (402, 3)
    done = _settle(client, body["hold_id"], "capture", amount_minor=4)
    assert done.status_code == 200
    assert "idempotent-replayed" not in done.headers
    settled = done.json()
    assert (settled["status"], settled["captured_minor"], settled["late"]) == ("captured", 4, False)
    assert (settled["balance"], settled["held"], settled["available"]) == (6, 0, 6)
    again = _settle(client, body["hold_id"], "capture", amount_minor=4)
    assert (again.status_code, again.json()) == (200, settled)
    assert again.headers["idempotent-replayed"] == "true"
    other = _settle(client, body["hold_id"], "capture", amount_minor=5)
    assert (other.status_code, other.json()["code"]) == (409, "hold_settled")
    assert other.json()["hold"]["captured_minor"] == 4
    history = client.get("/v1/billing/transactions", params=identity(payer)).json()
    newest = history["transactions"][0]
    assert (newest["transaction_id"], newest["amount_minor"]) == (settled["charge_id"], -4)
    assert (newest["description"], newest["metadata"]) == ("A long job", metadata)


def test_a_release_gives_back_and_a_free_use_can_be_held(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=1)
    hold_id = _held(client, user, 100)
    assert client.get(f"{HOLDS}/{hold_id}").json()["paid_with"] == "free"
    assert client.post(CHECK, json=identity(user)).json()["has_credit"] is False
    released = _settle(client, hold_id, "release", reason="The job failed")
    assert (released.json()["status"], released.json()["free_uses_available"]) == ("released", 1)
    again = _settle(client, hold_id, "release")
    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    refused = _settle(client, hold_id, "capture")
    assert (refused.status_code, refused.json()["code"]) == (409, "hold_settled")
    assert client.post(CHECK, json=identity(user)).json()["has_credit"] is True


def test_what_settles_a_hold_needs_no_body(service: Service, client: httpx2.Client) -> None:
    payer = make_account(service, free=0, paid=10)
    extended, captured, released = (_held(client, payer, 3) for _ in range(3))
    for hold_id, how, state in (
        (extended, "extend", "open"),
        (captured, "capture", "captured"),
        (released, "release", "released"),
    ):
        for body in (b"", b"{}"):  # the same request
            answer = client.post(f"{HOLDS}/{hold_id}/{how}", content=body)
            assert (answer.status_code, answer.json()["status"]) == (200, state), answer.text
    assert answer.json()["balance"] == 10 - 3
    assert client.post(f"{HOLDS}/{extended}/release", content=b"{").status_code == 422
    assert client.post(HOLDS).status_code == 422


def test_a_header_key_repeats_and_a_body_key_conflicts(client: httpx2.Client, payer: str) -> None:
    key = unique("key")
    first = _hold(client, payer, 2, key=key)
    again = _hold(client, payer, 2, key=key)
    assert (again.status_code, again.json()["hold_id"]) == (201, first.json()["hold_id"])
    assert again.headers["idempotent-replayed"] == "true"
    other = _hold(client, payer, 3, key=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    for amount in (2, 3):
        conflict = _hold(client, payer, amount, idempotency_key=key)
        assert (conflict.status_code, conflict.json()["code"]) == (409, "hold_already_exists")
        assert conflict.headers["x-existing-hold-id"] == first.json()["hold_id"]
        assert conflict.json()["hold"]["hold_id"] == first.json()["hold_id"]
    assert client.get(f"{HOLDS}/{first.json()['hold_id']}").json()["held"] == 2


def test_a_dry_run_says_what_its_idempotency_key_made_before(
    client: httpx2.Client, payer: str
) -> None:
    key = unique("key")
    tried = _hold(client, payer, 2, dry_run=True, key=key)
    assert (tried.status_code, tried.json()["hold_id"]) == (200, None)
    made = _held(client, payer, 2, key=key)
    again = _hold(client, payer, 2, dry_run=True, key=key)
    assert (again.status_code, again.json()["hold_id"]) == (200, made)
    assert again.headers["idempotent-replayed"] == "true"
    other = _hold(client, payer, 3, dry_run=True, key=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    for amount in (2, 3):
        conflict = _hold(client, payer, amount, dry_run=True, idempotency_key=key)
        assert (conflict.status_code, conflict.json()["code"]) == (409, "hold_already_exists")
        assert conflict.headers["x-existing-hold-id"] == made
        assert conflict.json()["hold"]["hold_id"] == made


def test_a_refused_hold_says_what_a_refused_charge_says(
    service: Service, client: httpx2.Client, payer: str
) -> None:
    _held(client, payer, 4)
    for dry_run in (False, True):
        refused = _hold(client, payer, 7, dry_run=dry_run)
        assert_error(refused, 402, "Insufficient credits. Balance: 6, Required: 7")
        body = refused.json()
        assert (body["balance"], body["required"], body["shortfall"]) == (6, 7, 1)
        assert body["retryable"] is False
        other = _hold(client, payer, 1, currency="EUR", dry_run=dry_run)
        assert (other.status_code, other.json()["code"]) == (400, "charge_currency_mismatch")
        unknown = _hold(client, unique(), dry_run=dry_run)
        assert (unknown.status_code, unknown.json()["code"]) == (404, "account_not_found")
    for status in ("suspended", "closed"):
        set_status(service, payer, status)
        assert _hold(client, payer, 1).json()["code"] == f"account_{status}"


def test_a_dry_run_holds_nothing(client: httpx2.Client, payer: str) -> None:
    tried = _hold(client, payer, 7, dry_run=True)
    assert (tried.status_code, tried.json()["hold_id"], tried.json()["held"]) == (200, None, 7)
    assert client.post(CHECK, json=identity(payer)).json()["credits_remaining"] == 10


@pytest.mark.parametrize(
    ("fields", "loc"),
    [
        ({"amount_minor": 0}, ["body", "amount_minor"]),
        ({"amount_minor": INT64_MAX + 1}, ["body", "amount_minor"]),
        ({"amount_minor": None}, ["body", "amount_minor"]),
        ({"expires_in_seconds": 0}, ["body", "expires_in_seconds"]),
        ({"expires_in_seconds": 86401}, ["body", "expires_in_seconds"]),
        ({"description": ""}, ["body", "description"]),
        ({"currency": "US"}, ["body", "currency"]),
        ({"metadata": {"agent_id": "x" * 256}}, ["body", "metadata", "agent_id"]),
        ({"dry_run": "perhaps"}, ["body", "dry_run"]),
    ],
)
def test_a_field_of_another_shape_is_named(
    client: httpx2.Client, payer: str, fields: dict[str, Any], loc: list[str]
) -> None:
    answer = client.post(HOLDS, json={**identity(payer), "amount_minor": 1, **fields})
    assert [entry["loc"] for entry in faults_of(answer)] == [loc]


@pytest.mark.parametrize(
    ("how", "body", "loc"),
    [
        ("capture", {"amount_minor": -1}, ["body", "amount_minor"]),
        ("capture", {"amount_minor": INT64_MAX + 1}, ["body", "amount_minor"]),
        ("capture", {"overage": "all"}, ["body", "overage"]),
        ("capture", {"overage": None}, ["body", "overage"]),
        ("extend", {"expires_in_seconds": 0}, ["body", "expires_in_seconds"]),
        ("release", {"reason": "x" * 501}, ["body", "reason"]),
    ],
)
def test_what_a_hold_is_settled_with_has_its_shape(
    client: httpx2.Client, payer: str, how: str, body: dict[str, Any], loc: list[str]
) -> None:
    hold_id = _held(client, payer)
    answer = client.post(f"{HOLDS}/{hold_id}/{how}", json=body)
    assert [entry["loc"] for entry in faults_of(answer)] == [loc]
    no_id = client.post(f"{HOLDS}/none/{how}", json={})
    assert [entry["loc"] for entry in faults_of(no_id)] == [["path", "hold_id"]]


@pytest.mark.parametrize(
    ("used", "overage", "captured"),
    [(0, "refuse", 0), (7, "refuse", 7), (8, "available", 8), (11, "available", 10)],
)
def test_a_capture_takes_what_was_used(
    client: httpx2.Client, payer: str, used: int, overage: str, captured: int
) -> None:
    hold_id = _held(client, payer, 7)
    done = _settle(client, hold_id, "capture", amount_minor=used, overage=overage)
    assert (done.status_code, done.json()["captured_minor"]) == (200, captured)
    assert done.json()["balance"] == 10 - captured
    assert (done.json()["charge_id"] is None) is (captured == 0)


def test_more_than_is_held_is_refused_with_what_there_is(client: httpx2.Client, payer: str) -> None:
    hold_id = _held(client, payer, 7)
    refused = _settle(client, hold_id, "capture", amount_minor=8)
    assert_error(refused, 409, f"Hold {hold_id} is of 7, and 8 was asked for")
    assert (refused.json()["available"], refused.json()["required"]) == (3, 8)
    assert client.get(f"{HOLDS}/{hold_id}").json()["status"] == "open"


def test_a_hold_that_is_over_is_captured_late_or_says_what_is_left(
    service: Service, client: httpx2.Client, payer: str
) -> None:
    first = _hold(client, payer, 4, expires_in_seconds=1).json()
    second = _hold(client, payer, 5, expires_in_seconds=1).json()
    with stopped_clock(service.database, SECOND, second["created_at"]):
        assert client.get(f"{HOLDS}/{first['hold_id']}").json()["status"] == "expired"
        extended = _settle(client, first["hold_id"], "extend")
        assert (extended.status_code, extended.json()["code"]) == (409, "hold_expired")
        late = _settle(client, first["hold_id"], "capture")
        assert (late.json()["late"], late.json()["available"]) == (True, 6)
        assert client.post(CHARGES, json=charge_body(payer, 2)).status_code == 201
        refused = _settle(client, second["hold_id"], "capture")
        assert (refused.status_code, refused.json()["code"]) == (409, "hold_expired")
        assert (refused.json()["available"], refused.json()["required"]) == (4, 5)
        assert _settle(client, second["hold_id"], "capture", amount_minor=4).status_code == 200


def test_a_hold_is_extended(client: httpx2.Client, payer: str) -> None:
    made = _hold(client, payer, expires_in_seconds=10).json()
    longer = _settle(client, made["hold_id"], "extend", expires_in_seconds=3600)
    assert longer.status_code == 200
    assert longer.json()["expires_at"] > made["expires_at"]


def test_what_comes_after_a_hold_was_settled_is_told_how(client: httpx2.Client, payer: str) -> None:
    captured, released = _held(client, payer, 4), _held(client, payer, 4)
    _settle(client, captured, "capture", amount_minor=3)
    _settle(client, released, "release")
    calls = [
        (captured, "capture"), (captured, "release"), (captured, "extend"),
        (released, "capture"), (released, "extend"),
    ]  # fmt: skip
    for hold_id, operation in calls:
        answer = _settle(client, hold_id, operation)
        assert (answer.status_code, answer.json()["code"]) == (409, "hold_settled")
        assert answer.json()["hold"] == client.get(f"{HOLDS}/{hold_id}").json()


def test_a_hold_belongs_to_its_key(service: Service, client: httpx2.Client, payer: str) -> None:
    hold_id = _held(client, payer)
    with service.client(service.database.create_key(("billing:read", "billing:write"))) as other:
        for how in ("capture", "release", "extend"):
            for each in (hold_id, NOBODYS):
                refused = _settle(other, each, how)
                assert_error(refused, 404, f"Hold not found: {each}")
        assert other.get(f"{HOLDS}/{hold_id}").status_code == 404
        assert other.get(f"{account_path(payer)}/holds").json()["holds"] == []
    assert client.get(f"{HOLDS}/{hold_id}").json()["status"] == "open"


def test_holds_are_listed_after_a_crash(client: httpx2.Client, payer: str) -> None:
    made = [_held(client, payer, 1) for _ in range(4)]
    _settle(client, made[1], "release")

    def listed(**query: Any) -> tuple[list[str], bool]:
        answer = client.get(f"{account_path(payer)}/holds", params=query)
        validate_answer("listAccountHolds", answer)
        body = answer.json()
        return [hold["hold_id"] for hold in body["holds"]], body["has_more"]

    assert listed() == (made[::-1], False)
    assert listed(status="open") == ([made[3], made[2], made[0]], False)
    assert listed(limit=2) == ([made[3], made[2]], True)
    assert listed(limit=2, after=made[2]) == ([made[1], made[0]], False)
    unknown = client.get(f"{account_path(unique())}/holds")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "account_not_found")
    assert [entry["loc"] for entry in faults_of(
        client.get(f"{account_path(payer)}/holds", params={"status": "lost"})
    )] == [["query", "status"]]  # fmt: skip


def test_reading_keys_read_holds_and_make_none(
    service: Service, client: httpx2.Client, payer: str
) -> None:
    with service.client(service.database.create_key(("billing:read",))) as reader:
        refused = _hold(reader, payer)
        assert (refused.status_code, refused.json()["code"]) == (403, "permission_missing")
        refused = _settle(reader, NOBODYS, "capture")
        assert (refused.status_code, refused.json()["code"]) == (403, "permission_missing")


# --- beside checks -------------------------------------------------------------------------------


def _check(client: httpx2.Client, user: str, **hold: Any) -> dict[str, Any]:
    body = {**identity(user), "context": {"agent_id": "scout"}}
    answer = client.post(CHECK, json={**body, "hold": hold} if hold else body)
    validate_answer("checkCredit", answer)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_a_check_can_hold_in_the_same_call(client: httpx2.Client, payer: str) -> None:
    allowed = _check(client, payer, amount_minor=7, expires_in_seconds=60, description="A job")
    assert (allowed["has_credit"], allowed["reason"]) == (True, None)
    assert (allowed["credits_remaining"], allowed["held"], allowed["available"]) == (3, 7, 3)
    hold = allowed["hold"]
    assert (hold["status"], hold["amount_minor"], hold["description"]) == ("open", 7, "A job")
    assert hold["metadata"]["agent_id"] == "scout"
    assert client.get(f"{HOLDS}/{hold['hold_id']}").json() == hold
    denied = _check(client, payer, amount_minor=4)
    assert (denied["has_credit"], denied["hold"]) == (False, None)
    assert denied["reason"] == "Fewer credits are available than the hold needs"
    assert (denied["credits_remaining"], denied["purchase_required"]) == (3, True)
    plain = _check(client, payer)
    assert (plain["has_credit"], plain["held"], plain["available"]) == (True, 7, 3)
    assert "hold" not in plain


def test_a_repeated_check_gets_its_hold_again(client: httpx2.Client, payer: str) -> None:
    key = unique("check")
    first = _check(client, payer, amount_minor=10, idempotency_key=key)
    again = _check(client, payer, amount_minor=10, idempotency_key=key)
    assert again["has_credit"] is True
    assert again["hold"]["hold_id"] == first["hold"]["hold_id"]
    conflict = client.post(
        CHECK, json={**identity(payer), "hold": {"amount_minor": 9, "idempotency_key": key}}
    )
    assert (conflict.status_code, conflict.json()["code"]) == (409, "hold_already_exists")
    assert conflict.json()["hold"]["held"] == 10


def test_the_header_of_a_check_names_its_hold(client: httpx2.Client, payer: str) -> None:
    def check(amount: int, **hold: Any) -> httpx2.Response:
        body = {**identity(payer), "hold": {"amount_minor": amount, **hold}}
        answer = client.post(CHECK, json=body, headers={"Idempotency-Key": key})
        validate_answer("checkCredit", answer)
        return answer

    key = unique("check")
    first, again = check(4), check(4)
    assert again.json() == first.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["held"] == 4
    other = check(5)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    named = check(5, idempotency_key=unique("own"))
    assert named.json()["held"] == 9


def test_a_check_without_a_hold_has_no_key_as_ever(client: httpx2.Client, payer: str) -> None:
    for header in ("k" * 256, "a key", ""):
        answers = [
            client.post(CHECK, json=identity(payer) | more, headers={"Idempotency-Key": header})
            for more in ({}, {"hold": None})
        ]
        assert [one.status_code for one in answers] == [200, 200]
        assert not any("idempotent-replayed" in one.headers for one in answers)
    held = {**identity(payer), "hold": {"amount_minor": 4}}
    refused = client.post(CHECK, json=held, headers={"Idempotency-Key": "k" * 256})
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["header", "idempotency-key"]


def test_a_check_that_holds_creates_accounts_and_says_why_not(
    service: Service, client: httpx2.Client, payer: str
) -> None:
    new = _check(client, unique(), amount_minor=100)
    assert (new["hold"]["paid_with"], new["free_uses_remaining"]) == ("free", 2)
    set_status(service, payer, "suspended")
    denied = _check(client, payer, amount_minor=1)
    assert (denied["has_credit"], denied["reason"], denied["hold"]) == (
        False, "Account suspended", None,
    )  # fmt: skip
    assert denied["purchase_required"] is False
    with service.client(service.database.create_key(("billing:read",))) as reader:
        refused = reader.post(CHECK, json={**identity(payer), "hold": {"amount_minor": 1}})
        assert (refused.status_code, refused.json()["code"]) == (403, "permission_missing")
    bad = client.post(CHECK, json={**identity(payer), "hold": {"amount_minor": 0}})
    assert [entry["loc"] for entry in faults_of(bad)] == [["body", "hold", "amount_minor"]]


def test_an_account_tells_what_is_held_only_while_something_is(
    client: httpx2.Client, payer: str
) -> None:
    hold_id = _held(client, payer, 4)
    account = client.get(account_path(payer))
    validate_answer("getAccount", account)
    assert (account.json()["paid_credits"], account.json()["held"]) == (10, 4)
    assert account.json()["available"] == 6
    _settle(client, hold_id, "release")
    for answer in (client.get(account_path(payer)).json(), _check(client, payer)):
        assert not {"held", "available"} & answer.keys()


# --- beside charges ------------------------------------------------------------------------------


def _batch(client: httpx2.Client, entries: list[Any], key: str | None = None) -> httpx2.Response:
    headers = {"Idempotency-Key": key} if key else {}
    answer = client.post(BATCH, json={"charges": entries}, headers=headers)
    validate_answer("createCharges", answer)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("keyed", [False, True])
def test_a_batch_captures_first_and_then_charges(
    client: httpx2.Client, payer: str, *, keyed: bool
) -> None:
    """The charge of six can be paid only after the capture has given back what it does not use."""
    hold_id = _held(client, payer, 9)
    entries = [
        charge_body(payer, 6),
        {"hold_id": hold_id, "amount_minor": 2},
        {"hold_id": hold_id, "amount_minor": 3},
        {"hold_id": NOBODYS},
        {"hold_id": "none"},
        charge_body(payer, 3),
    ]
    key = unique("batch") if keyed else None
    answer = _batch(client, entries, key)
    results = answer.json()["results"]
    assert [result["status"] for result in results] == [201, 200, 409, 404, 422, 402]
    assert answer.json()["created_count"] == 1
    assert results[1]["body"]["captured_minor"] == 2
    assert (results[2]["body"]["code"], results[2]["body"]["hold"]["captured_minor"]) == (
        "hold_settled", 2,
    )  # fmt: skip
    assert (results[5]["body"]["balance"], results[5]["body"]["required"]) == (2, 3)
    if key:
        again = _batch(client, entries, key)
        assert again.headers["idempotent-replayed"] == "true"
        for one, other in zip(again.json()["results"], results, strict=True):
            one["body"].pop("request_id", None), other["body"].pop("request_id", None)
            assert one == other
        changed = [*entries[:1], {"hold_id": hold_id, "amount_minor": 4}, *entries[2:]]
        refused = client.post(BATCH, json={"charges": changed}, headers={"Idempotency-Key": key})
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    assert _check(client, payer)["credits_remaining"] == 2


def test_a_keyed_batch_of_captures_whose_account_is_held_does_nothing(
    service: Service, client: httpx2.Client, payer: str
) -> None:
    hold_id, key = _held(client, payer, 9), unique("batch")
    entries = {"charges": [{"hold_id": hold_id}]}
    with held_account(service.database, payer):
        refused = client.post(BATCH, json=entries, headers={"Idempotency-Key": key})
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert client.get(f"{HOLDS}/{hold_id}").json()["status"] == "open"
    answer = _batch(client, entries["charges"], key)
    assert answer.json()["results"][0]["body"]["captured_minor"] == 9


# --- the loop of docs/api.md ---------------------------------------------------------------------


class _Crash(BaseException):
    """The agent's process ends."""


def _crash() -> int:
    raise _Crash


def _fail() -> int:
    raise ValueError("the model gave up")


def test_the_documented_loop_settles_each_job_once_also_after_a_crash(
    service: Service, client: httpx2.Client, payer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "run_job" in block
    )
    monkeypatch.setenv("BILLING_URL", service.base_url)
    monkeypatch.setenv("BILLING_KEY", service.key.secret)
    names: dict[str, Any] = {}
    exec(code, names)
    user, run_job = identity(payer), names["run_job"]
    with pytest.raises(_Crash):
        run_job(user, "1", 7, _crash)
    assert client.get(account_path(payer)).json()["held"] == 7
    assert run_job(user, "1", 7, lambda: 5)["captured_minor"] == 5
    assert run_job(user, "1", 7, _fail)["captured_minor"] == 5  # it is not done again
    with pytest.raises(ValueError, match="gave up"):
        run_job(user, "2", 5, _fail)
    assert client.get(account_path(payer)).json()["paid_credits"] == 5
    with pytest.raises(urllib.error.HTTPError, match="402"):
        run_job(user, "3", 6, lambda: 1)
