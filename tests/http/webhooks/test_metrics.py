"""Webhooks where nothing is set up, and what is counted."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import httpx2
import pytest

from tests.http.contract import (
    assert_error,
)
from tests.http.metrics import Metrics
from tests.http.webhooks.helpers import (
    INTENTS,
    REFUNDS,
    assert_refused,
    event_count,
    post,
)
from tests.payments import (
    PURCHASES,
    assert_receipt,
    buy,
    buy_and_pay,
    configure_stripe,
    paying_service,
    purchase_body,
    seal_for,
    set_provider,
    tell,
)
from tests.stripe_double import Status, StripeDouble
from tests.support import (
    Service,
    TestCluster,
    unique,
)

# Not set up


@pytest.mark.parametrize("how", ["not at all", "and switched off", "without a webhook secret"])
def test_without_a_provider_there_is_nobody_to_believe(
    cluster: TestCluster, double: StripeDouble, how: str, bare: Service
) -> None:
    bare.database.execute("DELETE FROM billing_data.provider_configs")
    sealed = seal_for(double)
    if how == "without a webhook secret":
        sealed["webhook_secret"] = None
    if how != "not at all":
        set_provider(bare.database, sealed, is_active=how != "and switched off")
    event = double.event("customer.created", {})
    for answer in (tell(bare, double, event), post(bare, b"", None), post(bare, b"[]", "nonsense")):
        assert_error(answer, 503, "Payment provider not configured")
        assert answer.json()["code"] == "payment_provider_not_configured"
    assert event_count(bare.database) == 0


def test_another_webhook_secret_counts_from_the_next_event_on(
    double: StripeDouble, bare: Service
) -> None:
    configure_stripe(bare.database, double)
    event = double.event("customer.created", {})
    assert_receipt(tell(bare, double, event), "ignored")
    set_provider(bare.database, seal_for(double, webhook_secret="whsec_the_next_one"))
    assert_refused(tell(bare, double, event))
    assert_receipt(tell(bare, double, event, secret="whsec_the_next_one"), "ignored")
    bare.database.execute("DELETE FROM billing_data.payment_events")


def test_several_webhook_secrets_count_at_a_time_until_one_is_taken_away(
    double: StripeDouble, bare: Service
) -> None:
    """The secrets of two endpoints, or of one endpoint whose secret is being changed."""
    first, second, third = (f"whsec_{name}{'x' * 28}{name}" for name in ("aaaa", "bbbb", "cccc"))
    configure_stripe(bare.database, double)

    def accepted() -> list[bool]:
        events = [double.event("customer.created", {}) for _ in range(3)]
        answers = [
            tell(bare, double, event, secret=secret)
            for event, secret in zip(events, (first, second, third), strict=True)
        ]
        assert {answer.status_code for answer in answers} <= {200, 401}
        return [answer.status_code == 200 for answer in answers]

    for given, expected in (
        (first, [True, False, False]),
        (f"{first},{second}", [True, True, False]),
        (["whsec_…aaaa", "whsec_…bbbb", third], [True, True, True]),
        ("whsec_…bbbb, whsec_…cccc", [False, True, True]),
        (["whsec_…cccc"], [False, False, True]),
        ("whsec_…cccc", [False, False, True]),
        ([first], [True, False, False]),
    ):
        set_provider(bare.database, seal_for(double, webhook_secret=given))
        assert accepted() == expected
    # Signed with both secrets, as Stripe does during a change of the secret.
    set_provider(bare.database, seal_for(double, webhook_secret=f"{second},{third}"))
    body = json.dumps(double.event("customer.created", {})).encode()
    timestamp, _, old = double.sign(body, secret=first).partition(",")
    new = double.sign(body, secret=third).partition(",")[2]
    assert_receipt(post(bare, body, f"{timestamp},{old},{new}"), "ignored")
    bare.database.execute("DELETE FROM billing_data.payment_events")


@pytest.fixture(scope="module")
def bare(cluster: TestCluster, double: StripeDouble) -> Iterator[Service]:
    """A server whose provider each test sets up in its own way."""
    with cluster.database() as database, paying_service(database, double) as service:
        yield service


# What is counted


def test_purchases_events_and_calls_of_stripe_are_counted(
    cluster: TestCluster, double: StripeDouble
) -> None:
    with cluster.database() as database, paying_service(database, double, workers=2) as service:
        for name in ("purchases", "payment_events", "payment_provider_requests"):
            assert set(_counts(service, f"billing_{name}_total").values()) <= {0}
        user = unique()
        payment_id = str(buy(service, user, key="once")["payment_id"])
        buy(service, user, key="once")
        with service.client() as client:
            assert client.get(f"{PURCHASES}/{payment_id}").status_code == 200
            assert client.get(f"{PURCHASES}/pi_nobodys").status_code == 404
            double.on("POST", INTENTS, Status(500), times=4)
            assert client.post(PURCHASES, json=purchase_body(unique())).status_code == 503
            double.on("GET", payment_id, Status(500), times=2)
            assert client.get(f"{PURCHASES}/{payment_id}").status_code == 503
        double.pay(payment_id)
        event = double.succeeded_event(payment_id)
        tell(service, double, event, secret="whsec_other")
        tell(service, double, event, timestamp=int(time.time()) - 400)
        for body in (b"not JSON", b"{}"):
            post(service, body, double.sign(body))
        for _ in range(3):
            tell(service, double, event)
        tell(service, double, double.succeeded_event(payment_id))
        tell(service, double, double.failed_event(payment_id))
        tell(service, double, double.event("customer.created", {}))
        wrong = double.succeeded_event(buy_and_pay(service, double, user))
        wrong["data"]["object"]["amount_received"] = 1
        tell(service, double, wrong)
        double.refund(payment_id)
        refunded = double.refunded_event(payment_id)
        double.on("GET", REFUNDS, Status(500), times=2)
        tell(service, double, refunded)
        tell(service, double, refunded)

        assert _counts(service, "billing_purchases_total") == {
            ("result=created",): 2,
            ("result=replayed",): 1,
            ("result=error",): 1,
        }
        assert _counts(service, "billing_payment_events_total") == {
            ("outcome=invalid_signature",): 1,
            ("outcome=stale_signature",): 1,
            ("outcome=malformed",): 1,
            ("outcome=credited",): 3,  # a redelivered event counts with its outcome again
            ("outcome=already_credited",): 1,
            ("outcome=acknowledged",): 1,
            ("outcome=ignored",): 2,
            ("outcome=amount_mismatch",): 1,
            ("outcome=error",): 1,
            ("outcome=taken_back",): 1,
        }
        assert _counts(service, "billing_payment_provider_requests_total") == {
            ("operation=create_intent", "result=success"): 2,
            ("operation=create_intent", "result=error"): 2,  # requested once more, with a new key
            ("operation=get_intent", "result=success"): 3,
            ("operation=get_intent", "result=error"): 1,
            ("operation=list_refunds", "result=success"): 1,
            ("operation=list_refunds", "result=error"): 1,
        }
        metrics = _metrics(service)
        for name in ("purchases", "payment_events", "payment_provider_requests"):
            assert f"# TYPE billing_{name}_total counter" in metrics.text
            assert re.search(rf"# HELP billing_{name}_total \w+", metrics.text)
        assert metrics.sum("billing_payment_provider_duration_seconds_count") == 10
        assert metrics.by("billing_credits_added_total", "transaction_type") == {"purchase": 1}
        assert metrics.sum("billing_credit_amount_minor_sum") == 20
        assert metrics.sum("billing_accounts_created_total") == 2
        assert database.value("SELECT count(*) FROM billing_data.accounts") == 2


def _metrics(service: Service) -> Metrics:
    return Metrics(httpx2.get(f"{service.base_url}/metrics", verify=False, timeout=30).text)


def _counts(service: Service, name: str) -> dict[tuple[str, ...], float]:
    """A counter's values by its labels."""
    metrics = _metrics(service)
    assert "billing_service_info" in metrics.text
    return {
        tuple(sorted(f"{label}={value}" for label, value in labels)): value
        for labels, value in metrics.samples.get(name, {}).items()
    }


def test_labels_of_payments_are_closed_sets(shop: Service, double: StripeDouble) -> None:
    def everything() -> None:
        secret = unique("somebody")
        body = json.dumps(double.event(f"{secret}.happened", {"id": secret})).encode()
        assert_receipt(post(shop, body, double.sign(body)), "ignored")
        assert_refused(post(shop, body, f"t=1,v1={secret}"))
        with shop.client() as client:
            assert client.get(f"{PURCHASES}/{secret}").status_code == 404
            double.on("POST", INTENTS, Status(400, {"error": {"code": secret}}), times=2)
            body_of_one = purchase_body(secret, agent_id=secret)
            assert client.post(PURCHASES, json=body_of_one).status_code == 503
        buy(shop, secret, key=secret)

    everything()
    _metrics(shop)  # is counted itself
    before = _metrics(shop).series
    everything()
    assert _metrics(shop).series == before
    assert "somebody" not in _metrics(shop).text
