"""The Idempotency-Key of a purchase, and reading what was bought, as the contract has it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.http.contract import (
    assert_error,
    faults_of,
)
from tests.http.purchases import INTENT, INTENTS, asked, assert_unavailable, invalid
from tests.payments import (
    PURCHASES,
    assert_credited_once,
    assert_receipt,
    buy,
    known_user,
    legacy_metadata,
    purchase_body,
    purchase_rows,
    tell,
)
from tests.stripe_double import Drop, DropAfter, HoldBefore, Status, StripeDouble
from tests.support import (
    Service,
    unique,
)

FIELDS = {
    *("payment_id", "client_secret", "amount_minor", "currency", "uses_purchased", "status"),
    *("publishable_key", "credits_added"),
}


# The Idempotency-Key header


def test_a_repeat_is_answered_with_the_first_answer_in_the_state_of_today(
    shop: Service, customer: httpx2.Client, double: StripeDouble
) -> None:
    user = unique()
    headers = {"Idempotency-Key": "once"}
    first = customer.post(PURCHASES, json=purchase_body(user), headers=headers)
    assert "idempotent-replayed" not in first.headers

    def repeat() -> httpx2.Response:
        again = customer.post(PURCHASES, json=purchase_body(user), headers=headers)
        assert again.status_code == 201
        assert again.headers["idempotent-replayed"] == "true"
        return again

    assert repeat().content == first.content
    body = first.json()
    double.pay(body["payment_id"])
    assert repeat().json() == {**body, "status": "succeeded"}
    event = double.succeeded_event(body["payment_id"])
    assert_receipt(tell(shop, double, event), "success")
    assert repeat().json() == {**body, "status": "succeeded", "credits_added": 20}
    assert len(purchase_rows(shop.database, user)) == 1
    assert_credited_once(shop.database, user, body["payment_id"])


def test_a_payment_canceled_at_stripe_says_that_it_can_no_longer_be_paid(
    shop: Service, customer: httpx2.Client, double: StripeDouble
) -> None:
    user = unique()
    body = buy(shop, user, key="once")
    double.cancel(body["payment_id"])
    canceled = {**body, "status": "canceled", "payable": False, "code": "payment_canceled"}
    assert buy(shop, user, key="once") == canceled
    for path in ("", "/status"):
        answer = customer.get(f"{PURCHASES}/{body['payment_id']}{path}")
        assert (answer.status_code, answer.json()) == (200, canceled)
    assert len(intents_of(double, user)) == 1
    # The answer asks for a new purchase.
    again = buy(shop, user, key="another")
    assert again["payment_id"] != body["payment_id"]
    double.pay(again["payment_id"])
    event = double.succeeded_event(again["payment_id"])
    assert_receipt(tell(shop, double, event), "success")
    assert_credited_once(shop.database, user, again["payment_id"])


def test_a_payment_of_other_keys_is_recorded_though_it_cannot_be_read(
    shop: Service, customer: httpx2.Client, double: StripeDouble
) -> None:
    """Test keys were replaced by live ones, or by those of another account: Stripe knows no such
    payment."""
    user = unique()
    body = buy(shop, user, key="once")
    url = f"{PURCHASES}/{body['payment_id']}"
    gone = {**invalid("resource_missing", "intent")}
    unreadable = {
        **body,
        "client_secret": "",
        "status": "unknown",
        "payable": False,
        "code": "payment_unreadable",
    }
    double.on("GET", INTENT + body["payment_id"], Status(404, gone), times=2)
    assert buy(shop, user, key="once") == unreadable
    answer = customer.get(url)
    assert (answer.status_code, answer.json()) == (200, unreadable)
    double.pay(body["payment_id"])
    event = double.succeeded_event(body["payment_id"])
    assert_receipt(tell(shop, double, event), "success")
    paid = {**body, "client_secret": "", "status": "succeeded", "credits_added": 20}
    double.on("GET", INTENT + body["payment_id"], Status(404, gone), times=2)
    assert buy(shop, user, key="once") == paid
    answer = customer.get(url)
    assert (answer.status_code, answer.json()) == (200, paid)
    assert len(intents_of(double, user)) == len(purchase_rows(shop.database, user)) == 1
    assert_credited_once(shop.database, user, body["payment_id"])


def test_another_address_for_the_receipt_is_no_other_request(
    shop: Service, customer: httpx2.Client, double: StripeDouble
) -> None:
    user = unique()
    body = buy(shop, user, key="once")
    double.requests.clear()
    answer = customer.post(
        PURCHASES,
        json=purchase_body(user, customer_email="grace@example.com"),
        headers={"Idempotency-Key": "once"},
    )
    assert (answer.status_code, answer.json()) == (201, body)
    assert answer.headers["idempotent-replayed"] == "true"
    assert asked(double) == []
    assert len(purchase_rows(shop.database, user)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"user_role": "admin"},
        {"agent_id": "scout"},
        {"marketing_opt_in": True},
        {"marketing_opt_in_source": "banner"},
    ],
)
def test_a_key_stands_for_one_request(
    shop: Service, customer: httpx2.Client, double: StripeDouble, change: dict[str, Any]
) -> None:
    user = unique()
    buy(shop, user, key="once")
    double.requests.clear()
    answer = customer.post(
        PURCHASES, json=purchase_body(user, **change), headers={"Idempotency-Key": "once"}
    )
    assert_error(answer, 422, "Idempotency key was used with a different request")
    assert answer.json()["code"] == "idempotency_key_reused"
    assert double.requests == []
    assert len(purchase_rows(shop.database, user)) == 1


def test_a_key_belongs_to_one_account_and_an_empty_one_is_none(shop: Service) -> None:
    assert buy(shop, unique(), key="shared") != buy(shop, unique(), key="shared")
    user = unique()
    with shop.client() as client:
        for _ in range(2):
            answer = client.post(
                PURCHASES, json=purchase_body(user), headers={"Idempotency-Key": ""}
            )
            assert answer.status_code == 201
        answer = client.post(
            PURCHASES, json=purchase_body(user), headers={"Idempotency-Key": "k" * 256}
        )
        assert [entry["loc"] for entry in faults_of(answer)] == [["header", "idempotency-key"]]
    assert len(purchase_rows(shop.database, user)) == 2


@pytest.mark.parametrize("lost", [False, True], ids=["not made at Stripe", "made at Stripe"])
def test_a_key_whose_purchase_failed_is_decided_anew_and_sells_once(
    shop: Service, customer: httpx2.Client, double: StripeDouble, lost: bool
) -> None:
    user, headers = unique(), {"Idempotency-Key": "once"}
    double.on("POST", INTENTS, DropAfter() if lost else Drop(), times=2)
    assert_unavailable(customer.post(PURCHASES, json=purchase_body(user), headers=headers))
    (offered,) = purchase_rows(shop.database, user)
    assert offered["payment_id"] is None
    double.requests.clear()
    answer = customer.post(PURCHASES, json=purchase_body(user), headers=headers)
    assert answer.status_code == 201
    assert "idempotent-replayed" not in answer.headers
    (row,) = purchase_rows(shop.database, user)
    assert (row["id"], row["payment_id"]) == (offered["id"], answer.json()["payment_id"])
    assert len(intents_of(double, user)) == 1
    again = customer.post(PURCHASES, json=purchase_body(user), headers=headers)
    assert (again.content, again.headers["idempotent-replayed"]) == (answer.content, "true")


def intents_of(double: StripeDouble, user: str) -> list[dict[str, Any]]:
    """The payments that Stripe has for a user."""
    answer = httpx2.get(
        f"{double.direct_url}/v1/payment_intents",
        params={"limit": 1_000_000},
        headers={"Authorization": f"Bearer {double.api_key}"},
        verify=False,
    )
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["data"]
    return [row for row in rows if row["metadata"].get("external_id") == user]


async def test_one_key_at_once_is_one_purchase_and_one_payment(
    shop: Service, double: StripeDouble
) -> None:
    user, headers = unique(), {"Idempotency-Key": "race"}
    hold = double.on("POST", INTENTS, HoldBefore())
    async with shop.async_client() as client:

        async def purchase() -> httpx2.Response:
            return await client.post(PURCHASES, json=purchase_body(user), headers=headers)

        requests = [asyncio.create_task(purchase()) for _ in range(20)]
        assert await asyncio.to_thread(hold.reached.wait, 10)
        hold.release()
        answers = await asyncio.gather(*requests)
        last = await purchase()
    statuses = Counter(answer.status_code for answer in answers)
    print(f"20 at once: {dict(statuses)}")
    # Stripe refuses an idempotency key that is in use; a client that gets this answer may try
    # again.
    assert set(statuses) <= {201, 503}
    assert statuses[201] >= 1
    assert last.status_code == 201
    assert last.headers["idempotent-replayed"] == "true"
    assert {answer.content for answer in answers if answer.status_code == 201} == {last.content}
    for answer in answers:
        if answer.status_code == 503:
            assert_unavailable(answer)
    assert len(purchase_rows(shop.database, user)) == 1
    assert [intent["id"] for intent in intents_of(double, user)] == [last.json()["payment_id"]]


def test_an_unanswered_purchase_can_be_paid_once_its_repeat_is_answered(
    shop: Service, customer: httpx2.Client, double: StripeDouble
) -> None:
    user, headers = unique(), {"Idempotency-Key": "once"}
    with double.outage():
        assert_unavailable(customer.post(PURCHASES, json=purchase_body(user), headers=headers))
    body = buy(shop, user, key="once")
    double.pay(body["payment_id"])
    assert_receipt(tell(shop, double, double.succeeded_event(body["payment_id"])), "success")
    assert_credited_once(shop.database, user, body["payment_id"])


# Reading


@pytest.mark.parametrize("path", ["", "/status"])
def test_a_payment_is_read_as_stripe_has_it_now(
    shop: Service, customer: httpx2.Client, double: StripeDouble, path: str
) -> None:
    user = unique()
    body = buy(shop, user)
    url = f"{PURCHASES}/{body['payment_id']}{path}"
    answer = customer.get(url)
    assert (answer.status_code, answer.json()) == (200, body)
    assert answer.headers["content-type"] == "application/json"
    double.pay(body["payment_id"])
    assert customer.get(url).json() == {**body, "status": "succeeded"}
    tell(shop, double, double.succeeded_event(body["payment_id"]))
    assert customer.get(url).json() == {**body, "status": "succeeded", "credits_added": 20}
    double.refund(body["payment_id"])
    assert_receipt(tell(shop, double, double.refunded_event(body["payment_id"])), "success")
    assert customer.get(url).status_code == 200


def test_both_addresses_give_the_same_bytes(customer: httpx2.Client, shop: Service) -> None:
    payment_id = buy(shop)["payment_id"]
    plain = customer.get(f"{PURCHASES}/{payment_id}")
    assert plain.content == customer.get(f"{PURCHASES}/{payment_id}/status").content


@pytest.mark.parametrize(
    "query",
    [
        "oauth_provider=google&external_id=&wa_id=&tenant_id=&marketing_opt_in=maybe",
        "payment_id=pi_other&limit=-1",
        "%00=%00",
        "x" * 1000,
    ],
)
def test_any_query_string_is_ignored(customer: httpx2.Client, shop: Service, query: str) -> None:
    body = buy(shop)
    for path in ("", "/status"):
        answer = customer.get(f"{PURCHASES}/{body['payment_id']}{path}?{query}")
        assert (answer.status_code, answer.json()) == (200, body)


@pytest.mark.parametrize("path", ["", "/status"])
@pytest.mark.parametrize(
    ("sent", "named"),
    [
        ("pi_nobodys", "pi_nobodys"),
        ("nonsense", "nonsense"),
        ("pi_%2e%2e%2frefunds", "pi_../refunds"),
        ("..%2Fcharges", "../charges"),
        ("pi_%C3%BC", "pi_ü"),
        ("pi_" + "x" * 300, "pi_" + "x" * 300),
    ],
)
def test_an_unknown_payment_is_a_404_that_names_it(
    customer: httpx2.Client, path: str, sent: str, named: str
) -> None:
    answer = customer.get(f"{PURCHASES}/{sent}{path}")
    assert_error(answer, 404, f"Payment not found: {named}")
    assert answer.json()["code"] == "payment_not_found"


@pytest.mark.parametrize(
    "whose",
    [
        "nobody's",
        "another shop's",
        "an unknown account's",
        "a wrong account's",
        "a broken id's",
        "an unknown purchase's",
        "a broken purchase's",
    ],
)
def test_a_payment_that_is_not_ours_is_not_shown(
    shop: Service, customer: httpx2.Client, double: StripeDouble, whose: str
) -> None:
    user, other = known_user(shop), known_user(shop)
    mine = legacy_metadata(shop.database, user)
    metadata: dict[str, Any] = {
        "nobody's": {},
        "another shop's": {"order": "4711"},
        "an unknown account's": {**mine, "account_id": str(uuid4()), "external_id": unique()},
        "a wrong account's": {**legacy_metadata(shop.database, other), "external_id": user},
        "a broken id's": {**mine, "account_id": "5f8e"},
        "an unknown purchase's": {**mine, "purchase_id": str(uuid4())},
        "a broken purchase's": {**mine, "purchase_id": "5f8e"},
    }[whose]
    intent = double.create_intent(amount=500, currency="usd", metadata=metadata)
    for path in ("", "/status"):
        answer = customer.get(f"{PURCHASES}/{intent['id']}{path}")
        assert_error(answer, 404, f"Payment not found: {intent['id']}")
        assert "_secret_" not in answer.text


def test_a_payment_that_the_old_service_made_is_shown(
    shop: Service, customer: httpx2.Client, double: StripeDouble
) -> None:
    user = known_user(shop)
    metadata = legacy_metadata(shop.database, user)
    intent = double.create_intent(amount=500, currency="usd", metadata=metadata)
    url = f"{PURCHASES}/{intent['id']}/status"
    shown = customer.get(url)
    assert (shown.status_code, set(shown.json())) == (200, FIELDS)
    assert shown.json()["client_secret"] == intent["client_secret"]
    assert (shown.json()["uses_purchased"], shown.json()["credits_added"]) == (20, 0)
    double.pay(intent["id"])
    assert_receipt(tell(shop, double, double.succeeded_event(intent["id"])), "success")
    assert customer.get(url).json()["credits_added"] == 20
    assert_credited_once(shop.database, user, intent["id"])
