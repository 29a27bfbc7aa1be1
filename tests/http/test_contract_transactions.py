"""GET /v1/billing/transactions (contract 2.6, 8.10, 8.16)."""

from __future__ import annotations

import base64
import re
from typing import Any

import httpx2
import pytest

from tests.http.contract import (
    BATCH,
    CHARGES,
    CREDITS,
    INT64_MAX,
    TIME,
    TRANSACTION_FIELDS,
    TRANSACTIONS,
    make_account,
    make_charges,
    row_counts,
)
from tests.support import Service, charge_body, credit_body, identity, unique

NOTHING = {"transactions": [], "total_count": 0, "has_more": False, "next_cursor": None}
METADATA = {"message_id": "m", "agent_id": "a", "channel_id": None, "request_id": "r"}


def history(client: httpx2.Client, user: str, **query: Any) -> dict[str, Any]:
    response = client.get(TRANSACTIONS, params={**identity(user), **query})
    assert response.status_code == 200, response.text
    body = response.json()
    assert set(body) == {"transactions", "total_count", "has_more", "next_cursor"}
    assert body["has_more"] is (body["next_cursor"] is not None)
    return body


@pytest.fixture(scope="module")
def user(service: Service, client: httpx2.Client) -> str:
    """A user with seven rows: three charges, a credit, two charges, a credit. Their numbers are
    their order."""
    user = make_account(service)
    for number in range(1, 8):
        if number in (4, 7):
            response = client.post(CREDITS, json=credit_body(user, 10, description=f"{number}"))
        else:
            response = client.post(CHARGES, json=charge_body(user, 2, description=f"{number}"))
        assert response.status_code == 201
    return user


def test_a_charge_and_a_credit_are_told_in_full(service: Service, client: httpx2.Client) -> None:
    user = make_account(service, free=0, paid=5)
    charge = client.post(
        CHARGES, json=charge_body(user, 2, description="spent", metadata=METADATA)
    ).json()
    credit = client.post(
        CREDITS,
        json=credit_body(
            user,
            20,
            description="bought",
            transaction_type="purchase",
            external_transaction_id="pi_1",
        ),
    ).json()
    newest, second = history(client, user)["transactions"][:2]
    assert tuple(newest) == TRANSACTION_FIELDS
    assert newest == {
        "transaction_id": credit["credit_id"],
        "type": "credit",
        "amount_minor": 20,
        "currency": "USD",
        "description": "bought",
        "created_at": credit["created_at"],
        "balance_after": 23,
        "transaction_type": "purchase",
        "external_transaction_id": "pi_1",
        "metadata": None,
    }
    assert tuple(second) == TRANSACTION_FIELDS
    assert second == {
        "transaction_id": charge["charge_id"],
        "type": "charge",
        "amount_minor": -2,
        "currency": "USD",
        "description": "spent",
        "created_at": charge["created_at"],
        "balance_after": 3,
        "transaction_type": None,
        "external_transaction_id": None,
        "metadata": METADATA,
    }


def test_a_free_use_is_a_charge_that_leaves_the_balance(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, paid=4)
    client.post(CHARGES, json=charge_body(user, 9))
    newest = history(client, user)["transactions"][0]
    assert (newest["amount_minor"], newest["balance_after"]) == (-9, 4)


def test_the_newest_comes_first_over_both_kinds(client: httpx2.Client, user: str) -> None:
    rows = history(client, user)["transactions"]
    assert [row["description"] for row in rows] == ["7", "6", "5", "4", "3", "2", "1"]
    assert [row["type"] for row in rows] == ["credit"] + ["charge"] * 2 + ["credit"] + [
        "charge"
    ] * 3
    assert [row["balance_after"] for row in rows] == [16, 6, 8, 10, 0, 0, 0]
    times = [row["created_at"] for row in rows]
    assert times == sorted(times, reverse=True)
    assert all(re.fullmatch(TIME, at) for at in times)


@pytest.mark.parametrize("offset", [0, 1, 5, 6, 7, 8, 100, INT64_MAX])
@pytest.mark.parametrize("limit", [0, 1, 2, 6, 7, 8, 500])
def test_a_page_is_a_slice_of_the_whole(
    client: httpx2.Client, user: str, limit: int, offset: int
) -> None:
    whole = ["7", "6", "5", "4", "3", "2", "1"]
    page = history(client, user, limit=limit, offset=offset)
    assert [row["description"] for row in page["transactions"]] == whole[offset:][:limit]
    assert page["total_count"] == 7
    assert page["has_more"] is (offset + limit < 7)


def test_fifty_come_at_once_by_default(service: Service, client: httpx2.Client) -> None:
    user = make_account(service, paid=60)
    for count, more in ((49, False), (50, False), (51, True)):
        wanted = count - history(client, user)["total_count"]
        make_charges(service.database, user, wanted)
        page = history(client, user)
        assert len(page["transactions"]) == min(count, 50)
        assert (page["total_count"], page["has_more"]) == (count, more)
    rest = history(client, user, offset=50)
    assert (len(rest["transactions"]), rest["has_more"]) == (1, False)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_pages_of_rows_with_one_time_neither_repeat_nor_skip(
    service: Service, client: httpx2.Client, size: int
) -> None:
    user = make_account(service, free=0, paid=20)
    charges = [charge_body(user, description=f"{number}") for number in range(20)]
    batch = client.post(BATCH, json={"charges": charges}).json()
    assert [result["status"] for result in batch["results"]] == [201] * 20
    seen: list[str] = []
    page: dict[str, Any] = {"has_more": True}
    while page["has_more"]:
        page = history(client, user, limit=size, offset=len(seen))
        seen += [row["transaction_id"] for row in page["transactions"]]
    assert len(set(seen)) == len(seen) == page["total_count"] == 24
    made = [result["body"]["charge_id"] for result in batch["results"]]
    assert seen[:20] == made[::-1]


@pytest.mark.parametrize("query", [{}, {"limit": 0}, {"offset": 5}, {"limit": 500, "wa_id": "x"}])
def test_an_unknown_account_has_an_empty_history_and_is_not_created(
    service: Service, client: httpx2.Client, query: dict[str, Any]
) -> None:
    before = row_counts(service)
    assert history(client, unique(), **query) == NOTHING
    assert row_counts(service) == before


def test_an_account_without_transactions_has_an_empty_history(
    service: Service, client: httpx2.Client
) -> None:
    assert history(client, make_account(service)) == NOTHING


def test_wa_id_and_tenant_id_are_ignored(client: httpx2.Client, user: str) -> None:
    for query in ({"wa_id": "x"}, {"tenant_id": ""}, {"wa_id": "", "tenant_id": "y"}):
        assert history(client, user, **query)["total_count"] == 7


def test_accounts_do_not_see_each_others_history(
    service: Service, client: httpx2.Client, user: str
) -> None:
    other = make_account(service, free=2)
    assert history(client, other)["total_count"] == 1
    params = {"oauth_provider": "oauth:discord", "external_id": user}
    assert client.get(TRANSACTIONS, params=params).json() == NOTHING


def test_refused_charges_and_replays_leave_no_row(service: Service, client: httpx2.Client) -> None:
    user = make_account(service, free=1)
    body = charge_body(user, idempotency_key="k")
    assert client.post(CHARGES, json=body).status_code == 201
    assert client.post(CHARGES, json=body).status_code == 409
    assert client.post(CHARGES, json=charge_body(user)).status_code == 402
    assert history(client, user)["total_count"] == 3


@pytest.mark.parametrize("status", ["suspended", "closed"])
def test_a_suspended_or_closed_account_keeps_its_history(
    service: Service, client: httpx2.Client, status: str
) -> None:
    user = make_account(service, free=1, status=status)
    assert history(client, user)["total_count"] == 2


def test_query_values_are_percent_decoded(client: httpx2.Client, service: Service) -> None:
    user = f"é &=+ {unique()}"
    client.post("/v1/billing/accounts", json=identity(user))
    client.post(CHARGES, json=charge_body(user))
    assert history(client, user)["total_count"] == 1


def walk(client: httpx2.Client, user: str, limit: int) -> list[str]:
    """The descriptions of a whole history, page after page; a charge is added between two pages."""
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = history(client, user, limit=limit, **cursor)
        found += [entry["description"] for entry in page["transactions"]]
        client.post(CREDITS, json=credit_body(user, 1, description="new"))
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 500])
def test_entries_that_are_added_between_two_pages_repeat_and_hide_nothing(
    service: Service, client: httpx2.Client, limit: int
) -> None:
    user = make_account(service)
    for number in range(1, 8):
        client.post(CREDITS, json=credit_body(user, 1, description=f"{number}"))
    assert walk(client, user, limit) == ["7", "6", "5", "4", "3", "2", "1"]


def test_a_page_by_offset_tells_the_cursor_of_the_next(client: httpx2.Client, user: str) -> None:
    page = history(client, user, limit=2, offset=1)
    assert [entry["description"] for entry in page["transactions"]] == ["6", "5"]
    page = history(client, user, limit=3, cursor=page["next_cursor"])
    assert [entry["description"] for entry in page["transactions"]] == ["4", "3", "2"]
    page = history(client, user, limit=3, cursor=page["next_cursor"])
    assert [entry["description"] for entry in page["transactions"]] == ["1"]
    assert page["total_count"] == 7


def test_no_entries_are_a_page_that_goes_nowhere(client: httpx2.Client, user: str) -> None:
    page = history(client, user, limit=0)
    again = history(client, user, limit=0, cursor=page["next_cursor"])
    assert (again["transactions"], again["next_cursor"]) == ([], page["next_cursor"])


def forged(cursor: str, version: int) -> str:
    """A cursor of the same account with another version."""
    raw = base64.urlsafe_b64decode(cursor)[:16] + version.to_bytes(8, signed=True)
    return base64.urlsafe_b64encode(raw).decode()


@pytest.mark.parametrize(
    "bad",
    ["", "x", "x" * 32, "x" * 33, "é" * 32, "=" * 32, "\x00", "/" * 32, "7", "x" * 31 + "\n"],
)
def test_what_is_no_cursor_is_422(client: httpx2.Client, user: str, bad: str) -> None:
    response = client.get(TRANSACTIONS, params={**identity(user), "cursor": bad})
    assert response.status_code == 422, response.text
    (fault,) = response.json()["detail"]
    assert fault["loc"] == ["query", "cursor"]


@pytest.mark.parametrize("version", [0, -1, 8, INT64_MAX, -(2**63)])
def test_a_cursor_that_points_outside_the_history_is_422(
    client: httpx2.Client, user: str, version: int
) -> None:
    good = history(client, user, limit=1)["next_cursor"]
    params = {**identity(user), "cursor": forged(good, version)}
    response = client.get(TRANSACTIONS, params=params)
    assert response.status_code == 422
    assert response.json()["detail"] == [
        {
            "type": "value_error",
            "loc": ["query", "cursor"],
            "msg": "Value error, it must be a next_cursor of this account's history",
            "input": params["cursor"],
            "ctx": {"error": {}},
        }
    ]


@pytest.mark.parametrize("whose", ["another", "an unknown"])
def test_a_cursor_is_good_for_its_account_alone(
    service: Service, client: httpx2.Client, user: str, whose: str
) -> None:
    cursor = history(client, user, limit=1)["next_cursor"]
    other = unique()
    if whose == "another":
        other = make_account(service, paid=1)
        client.post(CREDITS, json=credit_body(other, 10))
    response = client.get(TRANSACTIONS, params={**identity(other), "cursor": cursor})
    assert response.status_code == 422
    (fault,) = response.json()["detail"]
    assert fault["loc"] == ["query", "cursor"]


def test_a_cursor_goes_without_an_offset(client: httpx2.Client, user: str) -> None:
    cursor = history(client, user, limit=1)["next_cursor"]
    params = {**identity(user), "cursor": cursor, "offset": 1}
    response = client.get(TRANSACTIONS, params=params)
    assert response.status_code == 422
    (fault,) = response.json()["detail"]
    assert (fault["loc"], fault["input"]) == (["query", "offset"], 1)
