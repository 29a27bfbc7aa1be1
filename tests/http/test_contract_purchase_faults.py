"""Purchases while Stripe does not answer or nothing is set up, and by the agent's frontend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from server.encryption import Cipher
from tests.http.contract import (
    CHARGES,
    CHECK,
    assert_error,
    assert_error_shape,
    faults_of,
    make_account,
)
from tests.http.purchases import INTENT, INTENTS, assert_unavailable
from tests.payments import (
    EMAIL,
    ENCRYPTION_KEY,
    PURCHASES,
    assert_credited_once,
    assert_receipt,
    buy,
    buy_and_pay,
    forget_faults,
    log_lines,
    paid_credits,
    paying_service,
    purchase_body,
    seal_for,
    set_provider,
    tell,
)
from tests.stripe_double import Drop, Status, StripeDouble
from tests.support import (
    Database,
    Service,
    TestCluster,
    charge_body,
    identity,
    unique,
)

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
    """Two servers whose provider each test sets up in its own way; one has no ENCRYPTION_KEY."""

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
    """Sets the provider up in this way; returns the server to call."""
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
    # It works again without a restart.
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
