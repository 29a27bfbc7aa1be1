"""POST /v1/billing/purchases, GET .../{payment_id} and .../{payment_id}/status (contract 2.7, 2.8,
7.7, 8.2, 8.8, 8.22, 9.3, 10)."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from server.encryption import Cipher
from tests.http.wire import (
    CHARGES,
    CHECK,
    UUID,
    account_path,
    account_row,
    assert_error,
    assert_error_shape,
    fault,
    faults_of,
    make_account,
    part,
    row_counts,
)
from tests.payments import (
    EMAIL,
    ENCRYPTION_KEY,
    PURCHASES,
    assert_credited_once,
    assert_receipt,
    buy,
    buy_and_pay,
    credited,
    forget_faults,
    known_user,
    ledger,
    legacy_metadata,
    log_lines,
    paid_credits,
    paying_service,
    purchase_body,
    purchase_rows,
    seal_for,
    set_provider,
    tell,
)
from tests.stripe_double import Drop, DropAfter, HoldBefore, Status, StripeDouble
from tests.support import (
    Database,
    Service,
    TestCluster,
    charge_body,
    identity,
    unique,
)

FIELDS = {
    *("payment_id", "client_secret", "amount_minor", "currency", "uses_purchased", "status"),
    *("publishable_key", "credits_added"),
}
INTENTS = "/v1/payment_intents$"
INTENT = "/v1/payment_intents/"


@contextlib.contextmanager
def pricing(shop: Service, **changes: Any) -> Iterator[None]:
    """Another pack or price until the block ends."""

    def change(uses: int, price: int, currency: str) -> None:
        shop.database.execute(
            "SELECT s.pack_uses FROM billing.set_pricing(p_pack_uses => %s,"
            " p_pack_price_minor => %s, p_pack_currency => %s, p_reason => 'a test') AS s",
            uses,
            price,
            currency,
            user="t_dba",
        )

    change(**{"uses": 20, "price": 500, "currency": "USD", **changes})
    try:
        yield
    finally:
        change(20, 500, "USD")


def asked(double: StripeDouble, method: str = "POST") -> list[Any]:
    """What Stripe was asked by this method since the list was last cleared."""
    return [request for request in double.requests if request.method == method]


def assert_unavailable(answer: httpx2.Response) -> None:
    assert_error(answer, 503, "Payment provider unavailable")
    assert answer.json()["code"] == "payment_provider_unavailable"
    assert int(answer.headers["retry-after"]) >= 1


# Buying


def test_a_purchase_is_answered_with_what_the_client_needs_to_pay(
    customer: httpx2.Client, double: StripeDouble
) -> None:
    answer = customer.post(PURCHASES, json=purchase_body(unique()))
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    assert "idempotent-replayed" not in answer.headers
    body = answer.json()
    made = double.intent(body["payment_id"])
    assert body == {
        "payment_id": made["id"],
        "client_secret": made["client_secret"],
        "amount_minor": 500,
        "currency": "USD",
        "uses_purchased": 20,
        "status": "requires_payment_method",
        "publishable_key": double.publishable_key,
        "credits_added": 0,
    }


def test_stripe_is_asked_for_exactly_what_is_sold(shop: Service, double: StripeDouble) -> None:
    user = unique()
    double.requests.clear()
    body = buy(shop, user, customer_email="grace@example.com", return_url="https://example.com/")
    (request,) = double.requests
    (row,) = purchase_rows(shop.database, user)
    assert (request.method, request.path, request.query) == ("POST", "/v1/payment_intents", {})
    assert request.form == {
        "amount": "500",
        "currency": "usd",
        "description": "Purchase 20 uses",
        "receipt_email": "grace@example.com",
        "metadata[account_id]": account_row(shop, user)["id"],
        "metadata[oauth_provider]": "oauth:google",
        "metadata[external_id]": user,
        "metadata[purchase_id]": row["id"],
    }
    assert request.headers["authorization"] == f"Bearer {double.api_key}"
    assert row["id"] in request.headers["idempotency-key"]
    assert re.fullmatch(UUID, row["id"])
    assert (row["payment_id"], row["uses"], row["price_minor"]) == (body["payment_id"], 20, 500)
    assert (row["currency"], row["customer_email"]) == ("USD", "grace@example.com")
    assert (row["api_key_id"], row["settled_at"]) == (shop.key.id, None)


async def test_purchases_of_one_second_stay_apart(shop: Service, double: StripeDouble) -> None:
    user = unique()
    double.requests.clear()
    async with shop.async_client() as client:
        answers = await asyncio.gather(
            *(client.post(PURCHASES, json=purchase_body(user)) for _ in range(5))
        )
    assert [answer.status_code for answer in answers] == [201] * 5
    assert len({answer.json()["payment_id"] for answer in answers}) == 5
    keys = [request.headers["idempotency-key"] for request in asked(double)]
    assert len(set(keys)) == len(keys) == 5
    assert len(purchase_rows(shop.database, user)) == 5


def test_a_new_user_gets_an_account_with_their_profile(
    shop: Service, customer: httpx2.Client
) -> None:
    user = unique()
    buy(
        shop,
        user,
        wa_id="wa-1",
        tenant_id="tenant-1",
        user_role="admin",
        agent_id="scout",
        marketing_opt_in=True,
        marketing_opt_in_source="purchase",
    )
    row = account_row(shop, user)
    assert part(
        row,
        (
            *("wa_id", "tenant_id", "customer_email", "user_role", "agent_id", "plan_name"),
            *("currency", "status", "paid_credits", "free_uses_remaining"),
            *("marketing_opt_in", "marketing_opt_in_source"),
        ),
    ) == {
        "wa_id": "wa-1",
        "tenant_id": "tenant-1",
        "customer_email": EMAIL,
        "user_role": "admin",
        "agent_id": "scout",
        "plan_name": "free",
        "currency": "USD",
        "status": "active",
        "paid_credits": 0,
        "free_uses_remaining": 3,
        "marketing_opt_in": True,
        "marketing_opt_in_source": "purchase",
    }
    assert row["marketing_opt_in_at"] is not None
    assert customer.get(account_path(user)).json()["marketing_opt_in"] is True


def test_the_account_of_a_known_user_is_left_as_it_is(shop: Service) -> None:
    user = make_account(shop, free=1, paid=7)
    before = account_row(shop, user)
    buy(
        shop,
        user,
        wa_id="other",
        tenant_id="other",
        user_role="other",
        agent_id="other",
        marketing_opt_in=True,
        marketing_opt_in_source="other",
    )
    assert account_row(shop, user) == before


@pytest.mark.parametrize("status", ["suspended", "closed"])
def test_an_account_that_may_not_charge_may_buy(
    shop: Service, double: StripeDouble, status: str
) -> None:
    user = make_account(shop, status=status)
    assert_credited_once(shop.database, user, credited(shop, double, user))


@pytest.mark.parametrize("email", ["ada", "ada at example.com", "Ünï@"])
def test_an_address_that_can_get_no_receipt_is_no_reason_not_to_sell(
    shop: Service, double: StripeDouble, email: str
) -> None:
    user = unique()
    double.requests.clear()
    double.on("POST", INTENTS, Status(400, invalid("email_invalid", "receipt_email")))
    body = buy(shop, user, customer_email=email)
    refused, taken = asked(double)
    assert refused.form["receipt_email"] == email
    assert "receipt_email" not in taken.form
    assert taken.form["metadata[external_id]"] == user
    assert refused.headers["idempotency-key"] != taken.headers["idempotency-key"]
    (row,) = purchase_rows(shop.database, user)
    assert (row["payment_id"], row["customer_email"]) == (body["payment_id"], email)


def invalid(code: str, param: str) -> dict[str, Any]:
    """Stripe's refusal of a parameter."""
    error = {"type": "invalid_request_error", "code": code, "param": param, "message": "No."}
    return {"error": error}


def test_a_price_stripe_does_not_take_is_told_to_who_can_change_it(
    shop: Service, customer: httpx2.Client
) -> None:
    with pricing(shop):
        # Such as older releases let pass.
        shop.database.execute("UPDATE billing_data.settings SET pack_price_minor = 10")
        answer = customer.post(PURCHASES, json=purchase_body(unique()))
    assert_unavailable(answer)
    (line,) = log_lines(shop, request_id=answer.headers["x-request-id"], level="ERROR")
    assert "amount_too_small" in line["message"]


def test_another_pack_at_another_price_in_another_currency_is_sold_as_set(
    shop: Service, double: StripeDouble
) -> None:
    double.requests.clear()
    with pricing(shop, uses=100, price=1999, currency="EUR"):
        body = buy(shop)
    assert (body["amount_minor"], body["currency"], body["uses_purchased"]) == (1999, "EUR", 100)
    (request,) = double.requests
    assert (request.form["amount"], request.form["currency"]) == ("1999", "eur")
    assert request.form["description"] == "Purchase 100 uses"


def test_a_currency_that_stripe_alone_counts_in_hundredths_is_sold_and_written_right(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    double.requests.clear()
    with pricing(shop, price=500_000, currency="UGX"):
        body = buy(shop, user)
    assert (body["amount_minor"], body["currency"]) == (500_000, "UGX")
    (request,) = asked(double)
    assert (request.form["amount"], request.form["currency"]) == ("500000", "ugx")
    double.pay(body["payment_id"])
    event = double.succeeded_event(body["payment_id"])
    assert_receipt(tell(shop, double, event), "success")
    text = "Purchased 5000 UGX (20 uses) via Stripe"
    assert ledger(shop.database, user) == [(20, "purchase", body["payment_id"], text)]


def test_what_was_sold_is_credited_though_the_price_has_changed_since(
    shop: Service, customer: httpx2.Client, double: StripeDouble
) -> None:
    user = unique()
    body = buy(shop, user, key="sold")
    with pricing(shop, uses=7, price=900):
        read = customer.get(f"{PURCHASES}/{body['payment_id']}").json()
        assert (read["uses_purchased"], read["amount_minor"]) == (20, 500)
        again = buy(shop, user, key="sold")
        assert again == body
        double.pay(body["payment_id"])
        event = double.succeeded_event(body["payment_id"])
        assert_receipt(tell(shop, double, event), "success")
        read = customer.get(f"{PURCHASES}/{body['payment_id']}").json()
        assert (read["uses_purchased"], read["credits_added"]) == (20, 20)
    assert_credited_once(shop.database, user, body["payment_id"])


# Shapes and rights


def test_faults_come_in_the_order_and_wording_of_the_contract(customer: httpx2.Client) -> None:
    long = "x" * 256
    given = {
        "marketing_opt_in_source": long[:51],
        "marketing_opt_in": None,
        "agent_id": long,
        "user_role": long[:51],
        "return_url": "",
        "customer_email": long,
        "tenant_id": long,
        "wa_id": long,
        "external_id": "",
        "oauth_provider": "google",
    }

    def too_long(name: str, limit: int) -> dict[str, Any]:
        text = f"String should have at most {limit} characters"
        return fault("string_too_long", ["body", name], text, given[name], {"max_length": limit})

    def too_short(name: str) -> dict[str, Any]:
        text = "String should have at least 1 character"
        return fault("string_too_short", ["body", name], text, "", {"min_length": 1})

    assert faults_of(customer.post(PURCHASES, json=given)) == [
        fault(
            "value_error",
            ["body", "oauth_provider"],
            'Value error, oauth_provider must start with "oauth:"',
            "google",
            {"error": {}},
        ),
        too_short("external_id"),
        too_long("wa_id", 255),
        too_long("tenant_id", 255),
        too_long("customer_email", 255),
        too_short("return_url"),
        too_long("user_role", 50),
        too_long("agent_id", 255),
        fault(
            "bool_type",
            ["body", "marketing_opt_in"],
            "Input should be a valid boolean",
            None,
        ),
        too_long("marketing_opt_in_source", 50),
    ]


def test_an_address_is_required_and_not_null(customer: httpx2.Client) -> None:
    who = identity()
    loc = ["body", "customer_email"]
    assert faults_of(customer.post(PURCHASES, json=who)) == [
        fault("missing", loc, "Field required", who)
    ]
    assert faults_of(customer.post(PURCHASES, json={**who, "customer_email": None})) == [
        fault("string_type", loc, "Input should be a valid string", None)
    ]
    assert faults_of(customer.post(PURCHASES, json={**who, "customer_email": ""})) == [
        fault(
            "string_too_short",
            loc,
            "String should have at least 1 character",
            "",
            {"min_length": 1},
        )
    ]
    answer = customer.post(PURCHASES, json={**who, "customer_email": f"{'x' * 244}@example.com"})
    assert [entry["type"] for entry in faults_of(answer)] == ["string_too_long"]
    answer = customer.post(PURCHASES, json={**who, "customer_email": "ada\0@example.com"})
    assert [entry["loc"] for entry in faults_of(answer)] == [loc]


def test_what_is_nullable_may_be_null_and_the_longest_address_is_taken(shop: Service) -> None:
    nullable = ("wa_id", "tenant_id", "return_url", "user_role", "agent_id")
    nothing = dict.fromkeys((*nullable, "marketing_opt_in_source"))
    user = unique()
    email = f"{'x' * 243}@example.com"
    assert len(email) == 255
    buy(shop, user, **{**nothing, "customer_email": email})
    assert account_row(shop, user)["customer_email"] == email


def test_an_absent_key_is_told_before_the_faults_and_a_bad_one_instead_of_them(
    shop: Service, double: StripeDouble, stranger_of_the_shop: httpx2.Client
) -> None:
    before = row_counts(shop)
    double.requests.clear()
    answer = stranger_of_the_shop.post(PURCHASES, json={"oauth_provider": "oauth:google"})
    assert [(entry["type"], entry["loc"]) for entry in faults_of(answer)] == [
        ("missing", ["header", "x-api-key"]),
        ("missing", ["body", "external_id"]),
        ("missing", ["body", "customer_email"]),
    ]
    answer = stranger_of_the_shop.post(
        PURCHASES, json={}, headers={"X-API-Key": "cbk_test_nobody's"}
    )
    assert_error(answer, 401, "Authentication failed: Invalid API key")
    reader = shop.database.create_key(["billing:read"])
    writer = shop.database.create_key(["billing:write"])
    for body in ({}, purchase_body(unique())):
        with shop.client(reader) as client:
            answer = client.post(PURCHASES, json=body)
            assert_error(answer, 403, "Missing required permission: billing:write")
    with shop.client(writer) as client:
        for path in ("pi_1", "pi_1/status"):
            answer = client.get(f"{PURCHASES}/{path}")
            assert_error(answer, 403, "Missing required permission: billing:read")
    assert row_counts(shop) == before
    assert double.requests == []


@pytest.fixture(scope="module")
def stranger_of_the_shop(shop: Service) -> Iterator[httpx2.Client]:
    """Presents no key."""
    with httpx2.Client(base_url=shop.base_url, timeout=30, verify=False) as client:
        yield client


def test_a_key_that_may_only_read_reads_and_one_that_may_only_write_buys(shop: Service) -> None:
    writer = shop.database.create_key(["billing:write"])
    with shop.client(writer) as client:
        made = client.post(PURCHASES, json=purchase_body(unique()))
        assert made.status_code == 201
    reader = shop.database.create_key(["billing:read"])
    with shop.client(reader) as client:
        answer = client.get(f"{PURCHASES}/{made.json()['payment_id']}")
        assert (answer.status_code, answer.json()) == (200, made.json())


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
    # What the answer asks for: a new purchase.
    again = buy(shop, user, key="another")
    assert again["payment_id"] != body["payment_id"]
    double.pay(again["payment_id"])
    event = double.succeeded_event(again["payment_id"])
    assert_receipt(tell(shop, double, event), "success")
    assert_credited_once(shop.database, user, again["payment_id"])


def test_a_payment_of_other_keys_is_recorded_though_it_cannot_be_read(
    shop: Service, customer: httpx2.Client, double: StripeDouble
) -> None:
    """Test keys became live ones, or Stripe's account another: Stripe knows no such payment."""
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
    # Stripe refuses a key that is in use; who is told so may come again.
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


# Stripe does not answer


@pytest.mark.parametrize(
    "fault",
    [
        Status(500),
        Status(503),
        Status(429, {"error": {"type": "invalid_request_error", "code": "rate_limit"}}),
        Status(401),
        Status(403),
        Status(400),
        Drop(),
        Status(200, ["what is this?"]),
        Status(200, {"object": "payment_intent"}),
    ],
    ids=["500", "503", "429", "401", "403", "400", "dropped", "a list", "a payment without an id"],
)
def test_a_stripe_that_fails_is_a_503_and_never_a_404(
    shop: Service, customer: httpx2.Client, double: StripeDouble, fault: Any
) -> None:
    payment_id = buy(shop)["payment_id"]
    for path in ("", "/status"):
        double.on("GET", INTENT, fault, times=9)
        assert_unavailable(customer.get(f"{PURCHASES}/{payment_id}{path}"))
        forget_faults(double)
    double.on("POST", INTENTS, fault, times=9)
    assert_unavailable(customer.post(PURCHASES, json=purchase_body(unique())))
    forget_faults(double)
    assert customer.get(f"{PURCHASES}/{payment_id}").status_code == 200


def test_an_outage_of_stripe_is_a_503_and_over_when_it_is_over(
    shop: Service, customer: httpx2.Client, double: StripeDouble
) -> None:
    payment_id = buy(shop)["payment_id"]
    user = make_account(shop)
    with double.outage():
        assert_unavailable(customer.get(f"{PURCHASES}/{payment_id}"))
        assert_unavailable(customer.get(f"{PURCHASES}/{payment_id}/status"))
        assert_unavailable(customer.get(f"{PURCHASES}/pi_nobodys"))
        answer = customer.post(PURCHASES, json=purchase_body(user))
        assert_unavailable(answer)
        assert customer.post(CHARGES, json=charge_body(user)).status_code == 201
    (line,) = log_lines(shop, request_id=answer.headers["x-request-id"], level="ERROR")
    assert "cannot be reached" in line["message"]
    assert customer.get(f"{PURCHASES}/{payment_id}").status_code == 200
    buy(shop, user)


# Not set up


@dataclass(frozen=True)
class Bare:
    """Two servers whose provider each test sets up its own way; one has no ENCRYPTION_KEY."""

    keyed: Service
    keyless: Service
    database: Database


@pytest.fixture(scope="module")
def bare(cluster: TestCluster, double: StripeDouble) -> Iterator[Bare]:
    with (
        cluster.database() as database,
        paying_service(database, double) as keyed,
        paying_service(database, double, ENCRYPTION_KEY="") as keyless,
    ):
        yield Bare(keyed, keyless, database)


def _set_up(bare: Bare, double: StripeDouble, how: str) -> Service:
    """Sets the provider up in this way; gives the server to ask."""
    bare.database.execute("DELETE FROM billing_data.provider_configs")
    if how == "not at all":
        return bare.keyed
    sealed = seal_for(double)
    if how == "without an API key":
        sealed["api_key"] = None
    if how == "with an empty API key":
        sealed["api_key"] = {"encrypted": Cipher([ENCRYPTION_KEY]).encrypt(""), "masked": "…"}
    if how == "with another ENCRYPTION_KEY":
        sealed = seal_for(double, "another-key-of-32-characters-or-more!")
    if how == "with a secret that was changed":
        token = sealed["api_key"]["encrypted"]
        sealed["api_key"] = {**sealed["api_key"], "encrypted": token[:-5] + "AAAA="}
    set_provider(bare.database, sealed, is_active=how != "and switched off")
    if how == "with an empty API key in clear":  # as the old service may have left it
        bare.database.execute(
            "UPDATE billing_data.provider_configs SET config_data = config_data || %s::jsonb",
            '{"api_key": ""}',
        )
    return bare.keyless if how == "without ENCRYPTION_KEY" else bare.keyed


WAYS = (
    "not at all",
    "and switched off",
    "without an API key",
    "with an empty API key",
    "with an empty API key in clear",
    "with another ENCRYPTION_KEY",
    "with a secret that was changed",
    "without ENCRYPTION_KEY",
)


@pytest.mark.parametrize("how", WAYS)
def test_nothing_is_sold_while_the_provider_is_not_set_up(
    bare: Bare, double: StripeDouble, how: str
) -> None:
    service = _set_up(bare, double, how)
    double.requests.clear()
    with service.client() as client:
        for answer in (
            client.post(PURCHASES, json=purchase_body(unique())),
            client.get(f"{PURCHASES}/pi_1"),
            client.get(f"{PURCHASES}/pi_1/status"),
        ):
            assert_error(answer, 503, "Payment provider not configured")
            assert answer.json()["code"] == "payment_provider_not_configured"
    assert double.requests == []
    if "ENCRYPTION_KEY" in how or "changed" in how:
        assert any("cannot be decrypted" in line["message"] for line in log_lines(service))
    # It is mended without a restart.
    set_provider(bare.database, seal_for(double))
    if service is bare.keyed:
        buy(service)


@pytest.mark.parametrize("how", ["not at all", "and switched off"])
def test_before_it_tells_that_nothing_is_set_up_it_looks_at_the_key_and_the_request(
    bare: Bare, double: StripeDouble, how: str
) -> None:
    service = _set_up(bare, double, how)
    user = unique()
    with httpx2.Client(base_url=service.base_url, verify=False) as client:
        body = purchase_body(user)
        answer = client.post(PURCHASES, json=body)
        assert [entry["loc"] for entry in faults_of(answer)] == [["header", "x-api-key"]]
        answer = client.post(PURCHASES, json=body, headers={"X-API-Key": "password"})
        assert_error(answer, 401, "Authentication failed: Invalid API key format")
    reader = bare.database.create_key(["billing:read"])
    with service.client(reader) as client:
        answer = client.post(PURCHASES, json=body)
        assert_error(answer, 403, "Missing required permission: billing:write")
    writer = bare.database.create_key(["billing:write"])
    with service.client(writer) as client:
        answer = client.get(f"{PURCHASES}/pi_1")
        assert_error(answer, 403, "Missing required permission: billing:read")
        assert_error_shape(client.post(PURCHASES, json={}), 422)
        answer = client.post(PURCHASES, json=body)
        assert_error(answer, 503, "Payment provider not configured")
    accounts = "SELECT count(*) FROM billing_data.accounts WHERE external_id = %s"
    assert bare.database.value(accounts, user) == 0


def test_an_older_encryption_key_still_opens_what_it_sealed(
    bare: Bare, double: StripeDouble
) -> None:
    older = "the-key-before-this-one-0123456789abcdef"
    keys = f"{ENCRYPTION_KEY},{older}"
    with paying_service(bare.database, double, ENCRYPTION_KEY=keys) as service:
        buy(service)
        set_provider(bare.database, seal_for(double, older))
        buy(service)


def test_another_api_key_is_used_from_the_next_purchase_on(
    bare: Bare, double: StripeDouble
) -> None:
    bare.database.execute("DELETE FROM billing_data.provider_configs")
    set_provider(bare.database, seal_for(double, api_key="sk_test_revoked"))
    with bare.keyed.client() as client:
        answer = client.post(PURCHASES, json=purchase_body(unique()))
        assert_unavailable(answer)
    (line,) = log_lines(bare.keyed, request_id=answer.headers["x-request-id"], level="ERROR")
    assert "does not accept the API key" in line["message"]
    set_provider(bare.database, seal_for(double))
    buy(bare.keyed)


# The agent's frontend, as it calls (contract 9.3)


def test_the_frontend_of_the_agent_buys_and_sees_its_credits(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    who = {
        **identity(user),
        "wa_id": "wa-2026-11-22-7",
        "tenant_id": None,
        "customer_email": EMAIL,
        "user_role": "observer",
        "marketing_opt_in": False,
    }
    headers = {"User-Agent": "CIRIS-Agent-Frontend/1.0", "X-API-Key": shop.key.secret}
    with httpx2.Client(
        base_url=shop.base_url, headers=headers, timeout=10, verify=False
    ) as frontend:
        before = frontend.post(CHECK, json={**who, "context": {}}).json()
        assert (before["credits_remaining"], before["has_credit"]) == (0, True)

        initiated = frontend.post(PURCHASES, json={**who, "return_url": None})
        assert initiated.is_success
        made = initiated.json()
        for name in ("payment_id", "client_secret", "currency", "publishable_key"):
            assert isinstance(made[name], str)
        assert (made["amount_minor"], made["uses_purchased"]) == (500, 20)

        def status() -> dict[str, Any]:
            query = {**who, "tenant_id": "", "marketing_opt_in": "false"}
            answer = frontend.get(f"{PURCHASES}/{made['payment_id']}/status", params=query)
            assert answer.status_code == 200
            body: dict[str, Any] = answer.json()
            return body

        def remaining() -> int:
            nulls = dict.fromkeys(("agent_id", "marketing_opt_in_source"))
            context = {"source": "purchase_status_check"}
            answer = frontend.post(CHECK, json={**who, **nulls, "context": context})
            assert answer.status_code == 200
            count: int = answer.json()["credits_remaining"]
            return count

        assert (status()["status"], status()["credits_added"], remaining()) == (
            *("requires_payment_method", 0),
            0,
        )
        double.pay(made["payment_id"])
        assert (status()["status"], status()["credits_added"], remaining()) == ("succeeded", 0, 0)
        tell(shop, double, double.succeeded_event(made["payment_id"]))
        assert (status()["status"], status()["credits_added"], remaining()) == ("succeeded", 20, 20)
        history = frontend.get("/v1/billing/transactions", params=identity(user))
    (entry,) = history.json()["transactions"]
    assert entry["type"] == "credit"
    assert entry["transaction_type"] == "purchase"
    assert entry["external_transaction_id"] == made["payment_id"]
    assert (entry["amount_minor"], entry["currency"], entry["balance_after"]) == (20, "USD", 20)
    assert entry["description"] == "Purchased $5.00 (20 uses) via Stripe"


def test_a_declined_card_credits_nothing_and_another_may_follow(
    shop: Service, customer: httpx2.Client, double: StripeDouble
) -> None:
    user = unique()
    payment_id = buy(shop, user)["payment_id"]
    double.pay(payment_id, "4000000000009995")
    assert customer.get(f"{PURCHASES}/{payment_id}").json()["status"] == "requires_payment_method"
    double.pay(payment_id)
    assert_receipt(tell(shop, double, double.succeeded_event(payment_id)), "success")
    assert_credited_once(shop.database, user, payment_id)


def test_two_packs_add_up(shop: Service, double: StripeDouble) -> None:
    user = unique()
    payments = [buy_and_pay(shop, double, user) for _ in range(2)]
    for payment_id in reversed(payments):
        assert_receipt(tell(shop, double, double.succeeded_event(payment_id)), "success")
    assert paid_credits(shop.database, user) == 40
    for payment_id in payments:
        assert_credited_once(shop.database, user, payment_id)
