"""What is stored and shown of secrets."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx2
import pytest

from server.embedded import find_binaries
from tests.http.contract import (
    CHARGES,
    make_account,
)
from tests.http.webhooks.helpers import (
    INTENTS,
    REFUNDS,
    post,
)
from tests.payments import (
    ENCRYPTION_KEY,
    PURCHASES,
    Json,
    assert_receipt,
    buy_and_pay,
    event_row,
    forget_faults,
    paid_credits,
    paying_service,
    purchase_body,
    purchase_rows,
    tell,
)
from tests.stripe_double import Drop, Slow, Status, StripeDouble, running_stripe
from tests.support import (
    Service,
    TestCluster,
    charge_body,
    unique,
)

# Secrets in stored data and output


def test_a_stored_event_has_no_client_secret(shop: Service, double: StripeDouble) -> None:
    payment_id = buy_and_pay(shop, double, unique())
    event = double.succeeded_event(payment_id)
    secret = event["data"]["object"]["client_secret"]
    assert_receipt(tell(shop, double, event), "success")
    payload = event_row(shop.database, event["id"])["payload"]
    assert payload["data"]["object"]["id"] == payment_id
    assert payload["data"]["object"].get("client_secret") is None
    assert secret not in json.dumps(payload)


@pytest.mark.parametrize(
    ("type", "subject"),
    [
        ("invoice.created", {"confirmation_secret": {"client_secret": "pi_1_secret_planted"}}),
        ("charge.succeeded", {"payment_intent": {"client_secret": "pi_1_secret_planted"}}),
        ("setup_intent.failed", {"last_error": [{"x": {"client_secret": "pi_1_secret_planted"}}]}),
    ],
)
def test_a_stored_event_has_no_client_secret_further_inside_either(
    shop: Service, double: StripeDouble, type: str, subject: Json
) -> None:
    event = double.event(type, {"id": "x_1", **subject})
    assert_receipt(tell(shop, double, event), "ignored")
    assert "planted" not in json.dumps(event_row(shop.database, event["id"])["payload"])


@dataclass
class Planted:
    """Everything that was sent and written in a session with recognisable secrets; the server has
    ended."""

    service: Service
    double: StripeDouble
    dump: str
    log: str
    answers: list[httpx2.Response] = field(default_factory=list)
    pages: dict[str, str] = field(default_factory=dict)
    client_secrets: list[str] = field(default_factory=list)


PERSON = "planted.person@example.com"


@pytest.fixture(scope="module")
def planted(cluster: TestCluster) -> Iterator[Planted]:
    """A server at DEBUG with every access logged: purchases, good and bad events, and Stripe
    failing in each way."""
    with (
        running_stripe() as own,
        cluster.database() as database,
        paying_service(database, own, LOG_LEVEL="DEBUG", ACCESS_LOG_SAMPLE="1") as service,
    ):
        planted = Planted(service, own, "", "")
        _all_sorts(planted)
        for path in ("/metrics", "/openapi.json", "/docs", "/", "/health"):
            answer = httpx2.get(service.base_url + path, verify=False)
            assert answer.status_code == 200
            planted.pages[path] = answer.text
        assert service.process.stop() == 0
        planted.log = service.process.output
        dump = find_binaries(18) / "pg_dump"
        planted.dump = subprocess.run(
            [dump, "--dbname", database.dsn(), "--inserts"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        yield planted


def _all_sorts(planted: Planted) -> None:
    service, double = planted.service, planted.double

    def keep(answer: httpx2.Response, *statuses: int) -> httpx2.Response:
        assert answer.status_code in statuses, answer.text
        planted.answers.append(answer)
        return answer

    with service.client() as client:

        def purchase(*statuses: int, **headers: str) -> httpx2.Response:
            body = purchase_body(unique(), customer_email=PERSON)
            return keep(client.post(PURCHASES, json=body, headers=headers), *statuses)

        made = purchase(201, **{"Idempotency-Key": "once"}).json()
        payment_id = made["payment_id"]
        planted.client_secrets.append(made["client_secret"])
        foreign = double.create_intent(amount=500, currency="usd", receipt_email=PERSON)
        planted.client_secrets.append(foreign["client_secret"])
        keep(client.get(f"{PURCHASES}/{payment_id}/status"), 200)
        keep(client.get(f"{PURCHASES}/{foreign['id']}"), 404)
        quoting = {
            "error": {
                "type": "invalid_request_error",
                "message": f"Quoting {double.api_key} {PERSON} {made['client_secret']}",
                "param": "receipt_email",
                "code": "email_invalid",
            }
        }
        for fault in (
            *(Status(status, quoting) for status in (400, 401, 402, 403, 404, 409, 429, 500)),
            Drop(),
            Slow(1.6),
            Status(200, quoting),
        ):
            double.on("POST", INTENTS, fault, times=9)
            purchase(503, 500)
            forget_faults(double)
            if isinstance(fault, Status):
                double.on("GET", payment_id, fault, times=9)
                keep(client.get(f"{PURCHASES}/{payment_id}"), 503, 500, 200)
                forget_faults(double)
        with double.outage():
            purchase(503)
        keep(client.post(PURCHASES, json={"customer_email": PERSON * 20}), 422)
        keep(client.post(PURCHASES, content=f'{{"customer_email": "{PERSON}"'), 422)

    double.pay(payment_id)
    event = double.succeeded_event(payment_id)
    body = json.dumps(event).encode()
    right = double.sign(body)
    keep(post(service, body, None), 401)
    keep(post(service, body, right + "0"), 401)
    keep(post(service, body, double.webhook_secret), 401)
    keep(post(service, b"{" + body, double.sign(b"{" + body)), 401)
    keep(post(service, body * 2000, right), 413)
    keep(post(service, body, right), 200)
    keep(post(service, body, right), 200)
    for change in ({"amount_received": 1}, {"currency": "eur"}, {"metadata": {"account_id": "x"}}):
        other = double.succeeded_event(payment_id)
        other["data"]["object"] = {**other["data"]["object"], "id": unique("pi"), **change}
        keep(tell(service, double, other), 500, 400)
    double.refund(payment_id, 100)
    refunded = double.refunded_event(payment_id)
    double.on("GET", REFUNDS, Status(500, quoting), times=2)
    keep(tell(service, double, refunded), 500)
    keep(tell(service, double, refunded), 200)


def test_the_planted_session_met_everything(planted: Planted) -> None:
    statuses = Counter(answer.status_code for answer in planted.answers)
    print(dict(statuses))
    assert {200, 201, 400, 401, 404, 413, 422, 500, 503} <= set(statuses)
    assert len(planted.log.splitlines()) > len(planted.answers)
    assert '"level":"DEBUG"' in planted.log
    assert "billing_purchases_total" in planted.pages["/metrics"]


def _secrets_of(planted: Planted) -> dict[str, list[str]]:
    return {
        "the API key of Stripe": [planted.double.api_key],
        "the webhook's secret": [planted.double.webhook_secret],
        "the key that encrypts": [ENCRYPTION_KEY],
        "an agent's API key": [planted.service.key.secret, planted.service.key.secret[20:]],
        "a payment's secret": planted.client_secrets,
        "an e-mail address": [PERSON, "planted.person"],
    }


SECRETS = (
    "the API key of Stripe",
    "the webhook's secret",
    "the key that encrypts",
    "an agent's API key",
    "a payment's secret",
    "an e-mail address",
)


@pytest.mark.parametrize("what", SECRETS)
def test_no_secret_is_in_the_log_or_on_a_page(planted: Planted, what: str) -> None:
    for secret in _secrets_of(planted)[what]:
        assert [line for line in planted.log.splitlines() if secret in line] == []
        assert [path for path, text in planted.pages.items() if secret in text] == []


@pytest.mark.parametrize("what", SECRETS)
def test_no_secret_is_in_an_answer_but_the_payments_own_in_its_purchase(
    planted: Planted, what: str
) -> None:
    def may_tell(answer: httpx2.Response) -> bool:
        if what == "a payment's secret":
            return PURCHASES in str(answer.request.url) and answer.is_success
        # A 422 repeats what the caller sent.
        return what == "an e-mail address" and answer.status_code == 422

    for secret in _secrets_of(planted)[what]:
        for answer in planted.answers:
            said = answer.text + str(answer.headers.raw)
            assert secret not in said or may_tell(answer), answer.request.url
    if what == "a payment's secret":
        mine, foreign = planted.client_secrets
        told = [answer for answer in planted.answers if mine in answer.text]
        assert len(told) >= 2
        assert not any(foreign in answer.text for answer in planted.answers)


@pytest.mark.parametrize("what", [name for name in SECRETS if name != "an e-mail address"])
def test_no_secret_is_in_the_database_in_clear(planted: Planted, what: str) -> None:
    assert "INSERT INTO billing_data.provider_configs" in planted.dump
    assert "INSERT INTO billing_data.payment_events" in planted.dump
    assert planted.double.publishable_key in planted.dump
    for secret in _secrets_of(planted)[what]:
        assert secret not in planted.dump


async def test_events_at_once_of_all_kinds_leave_the_books_in_order(
    shop: Service, double: StripeDouble
) -> None:
    """Credits, refunds and charges of one account arrive at the same time."""
    user = await asyncio.to_thread(make_account, shop, free=0)
    payments = [await asyncio.to_thread(buy_and_pay, shop, double, user) for _ in range(4)]
    events = []
    for number, payment_id in enumerate(payments):
        events.append(await asyncio.to_thread(double.succeeded_event, payment_id))
        if number % 2:
            await asyncio.to_thread(double.refund, payment_id)
            events.append(await asyncio.to_thread(double.refunded_event, payment_id))
    async with shop.async_client() as client:

        async def deliver(event: Json) -> httpx2.Response:
            return await asyncio.to_thread(tell, shop, double, event)

        answers = await asyncio.gather(
            *(deliver(event) for event in events * 3),
            *(client.post(CHARGES, json=charge_body(user)) for _ in range(10)),
        )
    delivered = answers[: 3 * len(events)]
    assert {answer.status_code for answer in delivered} == {200}
    spent = sum(answer.status_code == 201 for answer in answers[3 * len(events) :])
    short: int = shop.database.value(
        "SELECT coalesce(sum(r.uses_due - r.uses_taken), 0)::bigint"
        " FROM billing_data.payment_returns AS r INNER JOIN billing_data.accounts AS a"
        " ON a.id = r.account_id WHERE a.external_id = %s",
        user,
    )
    assert paid_credits(shop.database, user) == 4 * 20 - 2 * 20 - spent + short
    assert len(purchase_rows(shop.database, user)) == 4
    assert shop.database.execute("SELECT * FROM billing.verify_ledger()") == []
