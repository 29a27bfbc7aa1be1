"""POST /v1/billing/purchases, GET .../{payment_id} and .../{payment_id}/status (contract 2.7, 2.8,
7.7, 8.2, 8.8, 8.22, 9.3, 10)."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.http.contract import (
    UUID,
    account_path,
    account_row,
    assert_error,
    fault,
    faults_of,
    make_account,
    part,
    row_counts,
)
from tests.http.purchases import INTENTS, asked, assert_unavailable, invalid
from tests.payments import (
    EMAIL,
    PURCHASES,
    assert_credited_once,
    assert_receipt,
    buy,
    credited,
    ledger,
    log_lines,
    purchase_body,
    purchase_rows,
    tell,
)
from tests.stripe_double import Status, StripeDouble
from tests.support import (
    Service,
    identity,
    unique,
)


@contextlib.contextmanager
def pricing(shop: Service, **changes: Any) -> Iterator[None]:
    """Sets another pack or price until the block ends."""

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


def test_a_price_stripe_does_not_take_is_told_to_who_can_change_it(
    shop: Service, customer: httpx2.Client
) -> None:
    with pricing(shop):
        # Older releases accepted prices like this.
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
    """A client without a key."""
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
