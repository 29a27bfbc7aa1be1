"""POST /v1/billing/webhooks/stripe (contract 3, 7.7, 8.3, 8.4, 8.5, 8.22): what Stripe says becomes
credits once, and whatever could not be done is asked for again and told to staff. The planted
secrets at the end go through all of it and come out nowhere."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import random
import re
import secrets
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from server.embedded import find_binaries
from tests.http.metrics import Metrics
from tests.http.wire import (
    CHARGES,
    assert_error,
    make_account,
    make_charges,
    set_status,
)
from tests.payments import (
    ENCRYPTION_KEY,
    PURCHASES,
    Json,
    assert_credited_once,
    assert_receipt,
    buy,
    buy_and_pay,
    configure_stripe,
    credited,
    event_row,
    forget_faults,
    known_user,
    ledger,
    legacy_metadata,
    log_lines,
    paid_credits,
    paying_service,
    problems,
    purchase_body,
    purchase_rows,
    seal_for,
    set_provider,
    tell,
)
from tests.stripe_double import WEBHOOK_PATH, Drop, Slow, Status, StripeDouble, running_stripe
from tests.support import (
    Database,
    Service,
    TestCluster,
    charge_body,
    identity,
    unique,
    wait_for,
)

INTENTS = "/v1/payment_intents$"
REFUNDS = "/v1/refunds$"


def post(
    service: Service, body: bytes, signature: str | bytes | None, **headers: str
) -> httpx2.Response:
    """The body as it is, under this signature (None: without one)."""
    sent: dict[str, Any] = {"Content-Type": "application/json", **headers}
    if signature is not None:
        sent["Stripe-Signature"] = signature
    url = f"{service.base_url}{WEBHOOK_PATH}"
    return httpx2.post(url, content=body, headers=sent, timeout=30, verify=False)


def assert_refused(answer: httpx2.Response) -> None:
    assert_error(answer, 401, "Invalid webhook signature")
    assert answer.json()["code"] == "webhook_signature_invalid"


def assert_failed(answer: httpx2.Response) -> None:
    assert_error(answer, 500, "Webhook processing failed")
    assert answer.json()["code"] == "webhook_failed"


def event_count(database: Database) -> int:
    count: int = database.value("SELECT count(*) FROM billing_data.payment_events")
    return count


# From the purchase to the credits


def test_a_payment_is_credited_when_stripe_tells_of_it(shop: Service, double: StripeDouble) -> None:
    user = make_account(shop, free=0, paid=3)
    payment_id = buy_and_pay(shop, double, user)
    assert paid_credits(shop.database, user) == 3
    event = double.succeeded_event(payment_id)
    double.requests.clear()
    answer = tell(shop, double, event)
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "success", "event_id": event["id"]},
    )
    assert answer.headers["content-type"] == "application/json"
    assert double.requests == []  # the signed event is proof enough
    assert paid_credits(shop.database, user) == 23
    assert_credited_once(shop.database, user, payment_id)
    assert ledger(shop.database, user)[-1] == (
        *(20, "purchase", payment_id),
        "Purchased $5.00 (20 uses) via Stripe",
    )
    stored = event_row(shop.database, event["id"])
    assert (stored["event_type"], stored["outcome"]) == ("payment_intent.succeeded", "credited")
    assert (stored["payment_id"], stored["deliveries"]) == (payment_id, 1)
    with shop.client() as client:
        assert client.post(CHARGES, json=charge_body(user)).status_code == 201


def test_stripe_itself_delivers_and_the_credits_arrive(cluster: TestCluster) -> None:
    with (
        running_stripe() as own,
        cluster.database() as database,
        paying_service(database, own) as service,
    ):
        own.send_webhooks_to(f"{service.base_url}{WEBHOOK_PATH}")
        user = unique()
        payment_id = str(buy(service, user)["payment_id"])
        own.pay(payment_id, "4000000000000002")
        own.pay(payment_id)
        wait_for(lambda: paid_credits(database, user) == 20, "the credits")
        assert_credited_once(database, user, payment_id)
        types = "SELECT e.event_type, e.outcome FROM billing_data.payment_events AS e ORDER BY 1"
        wait_for(lambda: event_count(database) == 2, "the other event")
        assert database.execute(types) == [
            ("payment_intent.payment_failed", "acknowledged"),
            ("payment_intent.succeeded", "credited"),
        ]


def test_an_event_delivered_fifty_times_at_once_credits_once(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    event = double.succeeded_event(payment_id)
    with concurrent.futures.ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda _: tell(shop, double, event), range(50)))
    for answer in answers:
        assert_receipt(answer, "success")
    assert_credited_once(shop.database, user, payment_id)
    assert event_row(shop.database, event["id"])["deliveries"] == 50


def test_fifty_events_of_one_payment_at_once_credit_once(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    events = [double.succeeded_event(payment_id) for _ in range(50)]
    with concurrent.futures.ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda event: tell(shop, double, event), events))
    for answer in answers:
        assert_receipt(answer, "success")
    assert_credited_once(shop.database, user, payment_id)
    outcomes = Counter(event_row(shop.database, event["id"])["outcome"] for event in events)
    assert outcomes == {"credited": 1, "already_credited": 49}


def test_a_redelivered_event_is_a_success_again_and_changes_nothing(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    event = double.succeeded_event(payment_id)
    answers = [tell(shop, double, event) for _ in range(3)]
    for answer in answers:
        assert answer.json() == {"status": "success", "event_id": event["id"]}
    set_status(shop, user, "closed")
    assert_receipt(tell(shop, double, event), "success")
    assert_credited_once(shop.database, user, payment_id)


def test_the_proof_of_the_api_is_not_needed_when_stripe_is_down(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    event = double.succeeded_event(payment_id)
    with double.outage():
        assert_receipt(tell(shop, double, event), "success")
    assert_credited_once(shop.database, user, payment_id)


def test_many_users_pay_at_once_and_each_gets_theirs(shop: Service, double: StripeDouble) -> None:
    users = [unique() for _ in range(12)]
    payments = {user: buy_and_pay(shop, double, user) for user in users}
    events = [double.succeeded_event(payment_id) for payment_id in payments.values()] * 3
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    random.Random(seed).shuffle(events)
    with concurrent.futures.ThreadPoolExecutor(24) as threads:
        for answer in threads.map(lambda event: tell(shop, double, event), events):
            assert_receipt(answer, "success")
    for user, payment_id in payments.items():
        assert paid_credits(shop.database, user) == 20
        assert_credited_once(shop.database, user, payment_id)


def test_a_failed_payment_is_acknowledged(shop: Service, double: StripeDouble) -> None:
    user = unique()
    payment_id = str(buy(shop, user)["payment_id"])
    double.pay(payment_id, "4000000000000002")
    event = double.failed_event(payment_id)
    answer = tell(shop, double, event)
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "acknowledged", "event_id": event["id"]},
    )
    assert_receipt(tell(shop, double, event), "acknowledged")
    assert event_row(shop.database, event["id"])["payment_id"] == payment_id
    assert ledger(shop.database, user) == []


def test_a_report_of_fraud_is_listed_until_the_money_has_gone_back(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    assert_receipt(tell(shop, double, double.succeeded_event(payment_id)), "success")
    warning = {
        "id": unique("issfr"),
        "object": "radar.early_fraud_warning",
        "actionable": True,
        "charge": "ch_1",
        "fraud_type": "made_with_stolen_card",
        "payment_intent": payment_id,
    }
    for kind, actionable, listed in (
        ("created", True, [("fraud_warning",)]),
        ("updated", True, [("fraud_warning",)]),
        ("updated", False, []),
        ("created", True, []),
    ):
        event = double.event(
            f"radar.early_fraud_warning.{kind}", {**warning, "actionable": actionable}
        )
        assert_receipt(tell(shop, double, event), "acknowledged")
        assert (
            shop.database.execute(
                "SELECT problem FROM billing.list_payment_problems() WHERE reference = %s",
                warning["id"],
                user="t_dba",
            )
            == listed
        )
    assert_credited_once(shop.database, user, payment_id)


@pytest.mark.parametrize(
    ("type", "subject"),
    [
        ("customer.created", {"id": "cus_1", "object": "customer", "email": "ada@example.com"}),
        ("account.updated", {}),
        ("payment_intent.created", {"id": "pi_1", "status": "requires_payment_method"}),
        ("payment_intent.canceled", {"id": "pi_1", "status": "canceled"}),
        ("payment_intent.processing", {"id": "pi_1", "status": "processing"}),
        ("invoice.paid", {"id": "in_1", "status": None}),
        ("charge.succeeded", {"id": "ch_1", "status": "succeeded", "payment_intent": "pi_1"}),
        ("something.quite_new", {"nested": [[{"deep": None}]]}),
        ("charge.dispute.created", {"id": "du_1", "amount": 500, "status": "needs_response"}),
        ("charge.refunded", {"id": "ch_1", "payment_intent": None, "amount_refunded": 5}),
        ("refund.updated", {"id": "re_1", "amount": 5, "payment_intent": None}),
        ("radar.early_fraud_warning.created", {"id": "issfr_1", "payment_intent": "pi_1"}),
        ("radar.early_fraud_warning.created", {"id": "issfr_1", "charge": "ch_1"}),
        ("radar.early_fraud_warning.created", {"id": None, "payment_intent": "pi_1"}),
    ],
)
def test_what_is_of_no_concern_here_is_ignored(
    shop: Service, double: StripeDouble, type: str, subject: Json
) -> None:
    event = double.event(type, subject)
    for _ in range(2):
        answer = tell(shop, double, event)
        assert (answer.status_code, answer.json()) == (
            200,
            {"status": "ignored", "event_id": event["id"]},
        )
    assert event_row(shop.database, event["id"])["outcome"] == "ignored"
    assert problems(shop.database, "pi_1") == []


@pytest.mark.parametrize("subject", [None, "text", 5, ["list"]])
def test_an_event_about_something_that_is_no_object_is_ignored(
    shop: Service, double: StripeDouble, subject: Any
) -> None:
    event = {**double.event("payment_intent.succeeded", {}), "data": {"object": subject}}
    assert_receipt(tell(shop, double, event), "ignored")


# The signature


def test_only_who_knows_the_secret_is_believed(shop: Service, double: StripeDouble) -> None:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    body = json.dumps(double.succeeded_event(payment_id)).encode()
    right = double.sign(body)
    timestamp, _, value = right.partition(",")
    before = event_count(shop.database)
    wrong: list[str | bytes | None] = [
        None,
        "",
        "garbage",
        "t=,v1=",
        "t=now,v1=abc",
        timestamp,
        value,
        f"{timestamp},v0={value[3:]}",
        f"{timestamp},v1=",
        f"{timestamp},v1={'0' * 64}",
        f"{timestamp},v1={value[3:].upper()}0",
        f"{timestamp},{value[:-1]}",
        f"t=-1,{value}",
        f"t={2**70},{value}",
        right.encode() + "é".encode(),
        right.encode() + b"\xff\xfe",
        f"{timestamp},v1=".encode() + "ключ".encode(),
        double.sign(body, secret="whsec_somebody_else"),
        double.sign(body, secret=double.api_key),
        double.sign(body + b" "),
        "x" * 4000,
        "t=1," * 500,
    ]
    for signature in wrong:
        assert_refused(post(shop, body, signature))
    assert event_count(shop.database) == before
    assert ledger(shop.database, user) == []
    assert_receipt(post(shop, body, right), "success")
    assert_credited_once(shop.database, user, payment_id)


def test_a_signature_is_good_for_five_minutes(shop: Service, double: StripeDouble) -> None:
    user = unique()
    event = double.succeeded_event(buy_and_pay(shop, double, user))
    # Signed a while ago to the second, and it must not be older when it arrives than it is here.
    assert_refused(tell(shop, double, event, timestamp=int(time.time()) - 301))
    assert_refused(tell(shop, double, event, timestamp=int(time.time()) - 86_400))
    assert ledger(shop.database, user) == []
    assert_receipt(tell(shop, double, event, timestamp=int(time.time()) - 295), "success")
    assert paid_credits(shop.database, user) == 20


def test_of_several_signatures_one_must_be_right(shop: Service, double: StripeDouble) -> None:
    """As while the webhook's secret is being changed."""
    user = unique()
    body = json.dumps(double.succeeded_event(buy_and_pay(shop, double, user))).encode()
    timestamp, _, value = double.sign(body).partition(",")
    other = double.sign(body, secret="whsec_other").partition(",")[2]
    assert_refused(post(shop, body, f"{timestamp},{other},v1={'a' * 64}"))
    assert_receipt(post(shop, body, f"{timestamp},{other},{value},v0=abc"), "success")


def test_a_body_changed_by_one_byte_is_refused(shop: Service, double: StripeDouble) -> None:
    user = unique()
    body = json.dumps(double.succeeded_event(buy_and_pay(shop, double, user))).encode()
    signature = double.sign(body)
    for changed in (body + b"\n", body.replace(b"500", b"501", 1), body[:-1], b""):
        assert changed != body
        assert_refused(post(shop, changed, signature))
    assert ledger(shop.database, user) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"{",
        b"[]",
        b'[{"id": "evt_1", "type": "customer.created"}]',
        b"null",
        b'"evt_1"',
        # Of a kind that moves money, and nothing to store it by.
        b'{"type": "payment_intent.succeeded", "data": {"object": {"id": "pi_1"}}}',
        b'{"id": 7, "type": "charge.refunded", "data": {"object": {"id": "ch_1"}}}',
        b'{"id": "'
        + b"x" * 256
        + b'", "type": "charge.dispute.closed", "data": {"object": {"id": "du_1"}}}',
        b'{"id": "evt_1", "type": "a", "data": {"object": {}}, "x": NaN}',
        b'{"id": "evt_\xff", "type": "a", "data": {"object": {}}}',
        b'{"x":' * 3000 + b"1" + b"}" * 3000,
    ],
)
def test_what_is_signed_and_no_event_is_refused(
    shop: Service, double: StripeDouble, body: bytes
) -> None:
    before = event_count(shop.database)
    answer = post(shop, body, double.sign(body))
    assert_refused(answer)
    assert event_count(shop.database) == before
    (line,) = log_lines(shop, request_id=answer.headers["x-request-id"], level="ERROR")
    assert line["message"].startswith("a webhook with a valid signature was refused for its shape")


@pytest.mark.parametrize(
    "body",
    [
        {"type": "customer.created"},
        {"type": "customer.created", "data": {}},
        {"type": "customer.created", "data": None},
        {"type": "customer.created", "data": [{"object": {}}]},
        {"type": None, "data": {"object": {}}},
        {"type": 5, "data": {"object": {}}},
        {"type": "", "data": {"object": {}}},
        {"type": "t" * 300, "data": {"object": {}}},
        {"type": "\0", "object": "event", "livemode": "yes"},
        {"type": "ping", "object": "event"},
        {"type": "v1.billing.meter.error_report_triggered", "object": "v2.core.event"},
        {"type": "payment_intent.succeeded"},
        {"type": "payment_intent.succeeded", "data": {"object": {"id": ""}}},
        {"type": "payment_intent.succeeded", "data": {"object": {"id": 7, "metadata": {}}}},
        {"type": "payment_intent.payment_failed", "data": {"object": {"id": "p" * 256}}},
        {"type": "charge.refunded", "data": {"object": {"payment_intent": "pi_1"}}},
        {"type": "refund.updated", "data": "re_1"},
        {"type": "a", "deep": json.loads("[" * 400 + "]" * 400)},
        {"type": "a", "note": "\0", "deep": json.loads("[" * 900 + "]" * 900)},
        {},
    ],
    ids=lambda body: json.dumps(body)[:70],
)
def test_a_signed_event_that_we_do_not_use_is_ignored_and_stored(
    shop: Service, double: StripeDouble, body: Json
) -> None:
    event_id = unique("evt")
    content = json.dumps({"id": event_id, **body}).encode()
    for _ in range(2):
        answer = post(shop, content, double.sign(content))
        assert (answer.status_code, answer.json()) == (
            200,
            {"status": "ignored", "event_id": event_id},
        )
    row = event_row(shop.database, event_id)
    assert (row["outcome"], row["deliveries"]) == ("ignored", 2)
    kind = body.get("type")
    assert row["event_type"] == (
        kind[:255] if isinstance(kind, str) and kind.strip("\0") else "unknown"
    )


@pytest.mark.parametrize("event_id", [None, "", 7, ["evt_1"], "\0", "x" * 256])
def test_a_signed_event_that_we_do_not_use_and_that_has_no_id_is_ignored(
    shop: Service, double: StripeDouble, event_id: Any
) -> None:
    before = event_count(shop.database)
    body = json.dumps({**double.event("customer.created", {}), "id": event_id}).encode()
    answer = post(shop, body, double.sign(body))
    assert (answer.status_code, answer.json()) == (200, {"status": "ignored", "event_id": None})
    assert event_count(shop.database) == before


def test_a_thin_event_tells_the_operator_which_events_to_ask_stripe_for(
    shop: Service, double: StripeDouble
) -> None:
    body = json.dumps(
        {
            "id": unique("evt"),
            "object": "v2.core.event",
            "type": "v1.payment_intent.succeeded",
            "related_object": {"id": "pi_1", "type": "payment_intent"},
        }
    ).encode()
    answer = post(shop, body, double.sign(body))
    assert_receipt(answer, "ignored")
    (line,) = log_lines(shop, request_id=answer.headers["x-request-id"], level="WARNING")
    assert "thin event: give the endpoint snapshot events" in line["message"]


@pytest.mark.parametrize(
    ("signature", "told"),
    [
        (None, "it has no Stripe-Signature header"),
        ("", "it has no Stripe-Signature header"),
        ("garbage", "header is not one of Stripe's"),
        ("t=now,v1=00", "header is not one of Stripe's"),
        ("t=1700000000,v0=00", "header is not one of Stripe's"),
        ("t=1700000000,v1=00", "signed with another secret"),
    ],
)
def test_the_log_says_what_is_wrong_with_a_signature(
    shop: Service, signature: str | None, told: str
) -> None:
    answer = post(shop, b"{}", signature)
    assert_refused(answer)
    (line,) = log_lines(shop, request_id=answer.headers["x-request-id"], level="WARNING")
    assert told in line["message"]
    assert "webhook secret the one Stripe shows" in line["message"]


def test_a_stale_signature_sends_the_operator_to_the_clock_and_not_to_the_secret(
    shop: Service, double: StripeDouble
) -> None:
    event = double.event("customer.created", {})
    answer = tell(shop, double, event, timestamp=int(time.time()) - 4000)
    assert_refused(answer)
    (line,) = log_lines(shop, request_id=answer.headers["x-request-id"], level="WARNING")
    age = re.search(r"signed (\d+) s ago, and 300 s are allowed", line["message"])
    assert age
    assert 4000 <= int(age[1]) < 4060
    assert "clock" in line["message"]
    assert "secret" not in line["message"]
    # Who does not know the secret learns nothing of the age.
    other = tell(shop, double, event, timestamp=int(time.time()) - 4000, secret="whsec_other")
    (line,) = log_lines(shop, request_id=other.headers["x-request-id"], level="WARNING")
    assert "another secret" in line["message"]


def test_a_signature_in_an_odd_form_is_read_as_stripe_means_it(
    shop: Service, double: StripeDouble
) -> None:
    body = json.dumps(double.event("customer.created", {})).encode()
    timestamp, _, value = double.sign(body).partition(",")
    wrong = f"v1={'0' * 64}"
    for header in (
        f"{value},{timestamp}",
        f"{timestamp} , {value}",
        f"{timestamp},{value},{value},{wrong}",
        f"{timestamp},{wrong},{wrong},{value},v2=x,,=,t",
        f"{timestamp},{value},t=1",  # the first time is the one that is signed
    ):
        assert_receipt(post(shop, body, header), "ignored")
    for header in (
        f"t=1,{timestamp},{value}",
        f"{timestamp},V1={value[3:]}",
        f"{timestamp};{value}",
    ):
        assert_refused(post(shop, body, header))


def test_ten_megabytes_are_refused_and_the_server_goes_on(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    event = double.succeeded_event(payment_id)
    body = json.dumps({**event, "filler": "x" * 10_000_000}).encode()
    for _ in range(2):
        answer = post(shop, body, double.sign(body))
        assert_error(answer, 413, "Request body too large: at most 1048576 bytes are accepted")
    assert ledger(shop.database, user) == []
    assert_receipt(tell(shop, double, event), "success")


def test_the_key_of_an_agent_is_neither_needed_nor_enough(
    shop: Service, double: StripeDouble
) -> None:
    body = json.dumps(double.event("customer.created", {})).encode()
    assert_refused(post(shop, body, None, **{"X-API-Key": shop.key.secret}))
    answer = post(shop, body, double.sign(body), **{"X-API-Key": "nonsense"})
    assert_receipt(answer, "ignored")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_the_content_type_does_not_matter(
    shop: Service, double: StripeDouble, content_type: str
) -> None:
    body = json.dumps(double.event("customer.created", {})).encode()
    answer = post(shop, body, double.sign(body), **{"Content-Type": content_type})
    assert_receipt(answer, "ignored")


def test_other_methods_are_not_allowed(shop: Service) -> None:
    answer = httpx2.get(f"{shop.base_url}{WEBHOOK_PATH}", verify=False)
    assert_error(answer, 405, "Method Not Allowed")
    assert answer.headers["allow"] == "POST"


def test_characters_that_the_database_cannot_hold_do_no_harm(
    shop: Service, double: StripeDouble
) -> None:
    user = known_user(shop)
    legacy = legacy_metadata(shop.database, user)
    strange = {"note\0": "a\0b", "external_id": f"{user}\0", "emoji": "😀"}
    intent = double.create_intent(amount=500, currency="usd", metadata=legacy)
    double.pay(intent["id"])
    event = double.succeeded_event(intent["id"])
    event["data"]["object"]["metadata"].update(strange)
    assert_receipt(tell(shop, double, event), "success")
    assert_credited_once(shop.database, user, intent["id"])
    payload = event_row(shop.database, event["id"])["payload"]
    assert payload["data"]["object"]["metadata"]["emoji"] == "😀"
    assert payload["data"]["object"]["metadata"]["note"] == "ab"


# What cannot be credited


@dataclass(frozen=True)
class Fault:
    """A payment that cannot be credited, and how it is told."""

    event: Json
    payment_id: str
    user: str


def a_fault(shop: Service, double: StripeDouble, problem: str) -> Fault:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    event = double.succeeded_event(payment_id)
    intent = event["data"]["object"]
    if problem == "amount_mismatch":
        intent.update(amount=499, amount_received=499)
    if problem == "currency_mismatch":
        intent["currency"] = "eur"
    if problem == "mode_mismatch":
        event = double.succeeded_event(payment_id, livemode=True)
    if problem == "payment_mismatch":
        assert_receipt(tell(shop, double, event), "success")
        second = double.create_intent(amount=500, currency="usd", metadata=intent["metadata"])
        double.pay(second["id"])
        payment_id = second["id"]
        event = double.succeeded_event(payment_id)
    if problem == "balance_overflow":
        shop.database.execute(
            "SELECT c.credit_id FROM billing.create_credit(p_oauth_provider => 'oauth:google',"
            " p_external_id => %s, p_amount_minor => %s, p_currency => 'USD') AS c",
            user,
            2**63 - 20,
            user="t_dba",
        )
    return Fault(event, payment_id, user)


FAULTS = (
    "amount_mismatch",
    "balance_overflow",
    "currency_mismatch",
    "mode_mismatch",
    "payment_mismatch",
)


@pytest.mark.parametrize("problem", FAULTS)
def test_what_cannot_be_credited_is_kept_told_and_asked_for_again(
    shop: Service, double: StripeDouble, problem: str
) -> None:
    fault = a_fault(shop, double, problem)
    before = ledger(shop.database, fault.user)
    for delivery in (1, 2):
        answer = tell(shop, double, fault.event)
        assert_failed(answer)
        stored = event_row(shop.database, fault.event["id"])
        assert (stored["outcome"], stored["deliveries"]) == (problem, delivery)
    assert ledger(shop.database, fault.user) == before
    assert problems(shop.database, fault.payment_id) == [problem]
    (line,) = log_lines(shop, request_id=answer.headers["x-request-id"], level="ERROR")
    assert line["event_id"] == fault.event["id"]
    assert line["event_type"] == "payment_intent.succeeded"
    assert f"payment {fault.payment_id} was not credited ({problem}): " in line["message"]
    advice = line["message"].partition("): ")[2]
    assert re.search(r"\b(create|grant|refund|check|resolve)\b", advice)

    # Once a person has seen to it, Stripe's next attempt is accepted and changes nothing.
    shop.database.execute(
        "SELECT billing.resolve_payment_event(p_event_id => %s, p_reason => 'refunded')",
        fault.event["id"],
        user="t_dba",
    )
    assert problems(shop.database, fault.payment_id) == []
    assert_receipt(tell(shop, double, fault.event), "success")
    assert ledger(shop.database, fault.user) == before


def test_more_than_was_asked_for_is_not_credited_either(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    event = double.succeeded_event(buy_and_pay(shop, double, user))
    for amount in (0, -500, 501, 500_000, None, "500", 500.0, True, 2**63):
        event["data"]["object"]["amount_received"] = amount
        assert_failed(tell(shop, double, event))
    assert ledger(shop.database, user) == []
    event["data"]["object"]["amount_received"] = 500
    assert_receipt(tell(shop, double, event), "success")
    assert paid_credits(shop.database, user) == 20


def test_an_account_that_does_not_exist_is_told_and_credited_once_it_does(
    shop: Service, double: StripeDouble
) -> None:
    user, account_id = unique("nobody"), str(uuid4())
    metadata = {"account_id": account_id, **identity(user)}
    intent = double.create_intent(amount=500, currency="usd", metadata=metadata)
    double.pay(intent["id"])
    event = double.succeeded_event(intent["id"])
    answer = tell(shop, double, event)
    assert_failed(answer)
    assert problems(shop.database, intent["id"]) == ["account_not_found"]
    (line,) = log_lines(shop, request_id=answer.headers["x-request-id"], level="ERROR")
    assert line["event_id"] == event["id"]
    assert intent["id"] in line["message"]
    assert "find out at Stripe who paid" in line["message"]
    # As when the database was restored from a backup. One made anew is another account.
    shop.database.execute(
        "INSERT INTO billing_data.accounts (id, oauth_provider, external_id) VALUES (%s, %s, %s)",
        account_id,
        *identity(user).values(),
    )
    assert_receipt(tell(shop, double, event), "success")
    assert problems(shop.database, intent["id"]) == []
    assert_credited_once(shop.database, user, intent["id"])


@pytest.mark.parametrize(
    "kept", [["account_id"], ["oauth_provider"], ["external_id"], ["account_id", "external_id"]]
)
def test_a_payment_that_does_not_say_whom_it_is_for_is_a_400(
    shop: Service, double: StripeDouble, kept: list[str]
) -> None:
    user = known_user(shop)
    whole = legacy_metadata(shop.database, user)
    metadata = {name: whole[name] for name in kept}
    intent = double.create_intent(amount=500, currency="usd", metadata=metadata)
    double.pay(intent["id"])
    event = double.succeeded_event(intent["id"])
    answer = tell(shop, double, event)
    assert_error(answer, 400, "Missing account metadata in webhook")
    assert answer.json()["code"] == "webhook_metadata_missing"
    assert problems(shop.database, intent["id"]) == ["metadata_missing"]
    (line,) = log_lines(shop, request_id=answer.headers["x-request-id"], level="ERROR")
    assert (line["event_id"], intent["id"] in line["message"]) == (event["id"], True)
    assert ledger(shop.database, user) == []


@pytest.mark.parametrize("metadata", [{}, {"order": "4711"}, None, "text", []])
def test_a_payment_of_another_shop_is_ignored(
    shop: Service, double: StripeDouble, metadata: Any
) -> None:
    intent = double.create_intent(amount=500, currency="usd")
    double.pay(intent["id"])
    event = double.succeeded_event(intent["id"])
    event["data"]["object"]["metadata"] = metadata
    assert_receipt(tell(shop, double, event), "ignored")
    assert problems(shop.database, intent["id"]) == []


def test_an_account_in_another_currency_is_credited(shop: Service, double: StripeDouble) -> None:
    user = make_account(shop, currency="EUR")
    assert_credited_once(shop.database, user, credited(shop, double, user))
    assert paid_credits(shop.database, user) == 20


@pytest.mark.parametrize("status", ["suspended", "closed"])
def test_an_account_that_was_closed_meanwhile_is_credited(
    shop: Service, double: StripeDouble, status: str
) -> None:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    set_status(shop, user, status)
    assert_receipt(tell(shop, double, double.succeeded_event(payment_id)), "success")
    assert_credited_once(shop.database, user, payment_id)


def test_a_purchase_whose_payment_was_not_written_down_is_found_by_what_the_payment_says(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    # As after a server that died when Stripe had answered.
    shop.database.execute(
        "UPDATE billing_data.purchases SET payment_id = NULL, payment_status = NULL"
        " WHERE payment_id = %s",
        payment_id,
    )
    assert_receipt(tell(shop, double, double.succeeded_event(payment_id)), "success")
    assert_credited_once(shop.database, user, payment_id)


# Whose payment it is


def foreign_event(double: StripeDouble, metadata: Any, **fields: Any) -> Json:
    """A payment that this service knows nothing of, with this metadata; `fields` on the event."""
    intent = double.create_intent(amount=500, currency="usd")
    double.pay(intent["id"])
    event = {**double.succeeded_event(intent["id"]), **fields}
    event["data"]["object"]["metadata"] = metadata
    return event


CLAIMS = (
    "another account",
    "a purchase that is unknown",
    "its own account and a purchase that is unknown",
    "a purchase of another account",
    "somebody else beside a purchase",
    "an account that is no id",
    "a purchase that is no id",
    "an account of a connected account",
    "a purchase of a connected account",
)


def claim(shop: Service, kind: str) -> tuple[str, Json]:
    """A user of ours, and metadata that names them without showing that they paid."""
    user, other = known_user(shop), known_user(shop)
    mine, theirs = (legacy_metadata(shop.database, who) for who in (user, other))
    sold = begun(shop, user)
    return user, {
        "another account": {**mine, "account_id": theirs["account_id"]},
        "a purchase that is unknown": {
            **mine,
            "account_id": str(uuid4()),
            "purchase_id": str(uuid4()),
        },
        "its own account and a purchase that is unknown": {**mine, "purchase_id": str(uuid4())},
        "a purchase of another account": {**mine, "purchase_id": begun(shop, other)["purchase_id"]},
        "somebody else beside a purchase": {**theirs, **sold},
        "an account that is no id": {**mine, "account_id": "7"},
        "a purchase that is no id": {**mine, "purchase_id": "7"},
        "an account of a connected account": mine,
        "a purchase of a connected account": {**mine, **sold},
    }[kind]


def begun(shop: Service, user: str) -> Json:
    """What is sold and waits for a payment that this database has not heard of."""
    [(account_id, purchase_id)] = shop.database.execute(
        "SELECT account_id::text, purchase_id::text FROM billing.begin_purchase("
        "p_oauth_provider => 'oauth:google', p_external_id => %s,"
        " p_customer_email => 'ada@example.com')",
        user,
        user="t_dba",
    )
    return {"account_id": account_id, "purchase_id": purchase_id}


@pytest.mark.parametrize("kind", CLAIMS)
def test_a_payment_that_cannot_show_whom_it_is_for_is_kept_and_told_and_not_credited(
    shop: Service, double: StripeDouble, kind: str
) -> None:
    user, metadata = claim(shop, kind)
    connected = {"account": "acct_1"} if "connected" in kind else {}
    event = foreign_event(double, metadata, **connected)
    payment_id = event["data"]["object"]["id"]
    # No attempt of Stripe's could change it, so it is not asked for again.
    for _ in range(2):
        answer = tell(shop, double, event)
        assert_receipt(answer, "ignored")
    assert event_row(shop.database, event["id"])["outcome"] == "not_sold_here"
    assert problems(shop.database, payment_id) == ["not_sold_here"]
    (line,) = log_lines(shop, request_id=answer.headers["x-request-id"], level="ERROR")
    assert f"payment {payment_id} was not credited (not_sold_here): " in line["message"]
    assert ledger(shop.database, user) == []
    # Its refund moves nothing and is nothing to look at.
    refund = double.refund(payment_id)
    refunded = {**double.refund_event("refund.created", refund), **connected}
    refunded["data"]["object"]["metadata"] = metadata
    assert_receipt(tell(shop, double, refunded), "ignored")
    assert problems(shop.database, payment_id) == ["not_sold_here"]
    assert ledger(shop.database, user) == []


@pytest.mark.parametrize("metadata", [{}, None, "text", {"order": "7"}, "foreign"], ids=str)
@pytest.mark.parametrize("account", [None, "acct_1"])
def test_our_own_payment_is_ours_whatever_its_metadata_says(
    shop: Service, double: StripeDouble, metadata: Any, account: str | None
) -> None:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    if metadata == "foreign":
        metadata = {**legacy_metadata(shop.database, known_user(shop)), "purchase_id": str(uuid4())}

    def ours(event: Json) -> Json:
        event["data"]["object"]["metadata"] = metadata
        return {**event, "account": account}

    assert_receipt(tell(shop, double, ours(double.succeeded_event(payment_id))), "success")
    assert_credited_once(shop.database, user, payment_id)
    refund = double.refund(payment_id, 100)
    for event in (
        double.refund_event("refund.created", refund),
        double.refunded_event(payment_id),
        double.dispute_event("charge.dispute.created", double.dispute(payment_id, 150)),
    ):
        assert_receipt(tell(shop, double, ours(event)), "success")
    assert paid_credits(shop.database, user) == 10


@pytest.mark.parametrize("metadata", [{}, {"order": "7"}, "claimed"], ids=str)
def test_nothing_of_the_other_mode_that_is_not_ours_is_asked_for_again(
    shop: Service, double: StripeDouble, metadata: Any
) -> None:
    if metadata == "claimed":
        metadata = {"account_id": str(uuid4()), "purchase_id": str(uuid4()), **identity()}
    paid = foreign_event(double, metadata)
    payment_id = paid["data"]["object"]["id"]
    refund = double.refund(payment_id, 100)
    for event in (
        paid,
        double.refunded_event(payment_id),
        double.refund_event("refund.created", refund),
        double.refund_event("refund.failed", double.fail_refund(refund["id"])),
        *(
            double.dispute_event(f"charge.dispute.{type}", double.dispute(payment_id))
            for type in ("created", "funds_withdrawn", "closed")
        ),
    ):
        event["data"]["object"]["metadata"] = metadata
        answer = tell(shop, double, {**event, "livemode": True})
        assert_receipt(answer, "ignored")
        assert log_lines(shop, request_id=answer.headers["x-request-id"], level="ERROR") == []
    assert problems(shop.database, payment_id) == []


def test_a_return_of_the_other_mode_is_told_as_what_it_is(
    shop: Service, double: StripeDouble
) -> None:
    payment_id = credited(shop, double, unique())
    double.refund(payment_id)
    answer = tell(shop, double, double.refunded_event(payment_id, livemode=True))
    assert_failed(answer)
    (line,) = log_lines(shop, request_id=answer.headers["x-request-id"], level="ERROR")
    assert line["message"].startswith(
        f"money that went back of payment {payment_id} was not booked (mode_mismatch): "
    )


# Money that goes back


def refund_of(shop: Service, double: StripeDouble, payment_id: str, amount: int) -> httpx2.Response:
    double.refund(payment_id, amount)
    return tell(shop, double, double.refunded_event(payment_id))


def test_a_refund_takes_the_pack_back(shop: Service, double: StripeDouble) -> None:
    user = make_account(shop, paid=5)
    payment_id = credited(shop, double, user)
    refund = double.refund(payment_id)
    double.requests.clear()
    event = double.refunded_event(payment_id)
    assert_receipt(tell(shop, double, event), "success")
    # Stripe's events no longer carry a charge's refunds, so it was asked.
    (asked,) = double.requests
    assert (asked.method, asked.path) == ("GET", "/v1/refunds")
    assert asked.query["charge"] == event["data"]["object"]["id"]
    assert paid_credits(shop.database, user) == 5
    assert ledger(shop.database, user)[-1] == (
        *(-20, "refund", refund["id"]),
        "Refund of $5.00 via Stripe (20 uses taken back)",
    )
    for again in (event, double.refunded_event(payment_id)):
        assert_receipt(tell(shop, double, again), "success")
    assert paid_credits(shop.database, user) == 5


def test_refunds_that_the_event_carries_are_not_asked_for(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    double.refund(payment_id, 250)
    double.requests.clear()
    event = double.refunded_event(payment_id, embed_refunds=True)
    assert_receipt(tell(shop, double, event), "success")
    assert double.requests == []
    assert paid_credits(shop.database, user) == 10


def test_a_cut_list_of_refunds_is_not_taken_for_the_whole(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    for _ in range(12):
        double.refund(payment_id, 25)
    event = double.refunded_event(payment_id, embed_refunds=True)
    assert event["data"]["object"]["refunds"]["has_more"] is True
    assert_receipt(tell(shop, double, event), "success")
    assert paid_credits(shop.database, user) == 8


def test_partial_refunds_take_back_in_proportion_and_all_for_all(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    left = []
    for amount in (24, 1, 100, 125, 249, 1):
        assert_receipt(refund_of(shop, double, payment_id, amount), "success")
        left.append(paid_credits(shop.database, user))
    # floor(20 * refunded / 500) in all: of 24, 25, 125, 250, 499, 500 cents
    assert left == [20, 19, 15, 10, 1, 0]
    assert shop.database.execute("SELECT * FROM billing.verify_ledger()") == []


@pytest.mark.parametrize("type", ["refund.created", "refund.updated", "charge.refund.updated"])
def test_an_event_of_the_refund_itself_does_the_same(
    shop: Service, double: StripeDouble, type: str
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    refund = double.refund(payment_id, 250)
    for _ in range(2):
        assert_receipt(tell(shop, double, double.refund_event(type, refund)), "success")
        assert_receipt(tell(shop, double, double.refunded_event(payment_id)), "success")
    assert paid_credits(shop.database, user) == 10


def test_a_refund_that_failed_gives_back_what_was_taken(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    refund = double.refund(payment_id, 300)
    assert_receipt(tell(shop, double, double.refund_event("refund.created", refund)), "success")
    assert paid_credits(shop.database, user) == 8
    failed = double.refund_event("refund.failed", double.fail_refund(refund["id"]))
    for _ in range(2):
        assert_receipt(tell(shop, double, failed), "success")
    assert paid_credits(shop.database, user) == 20
    # What is told late changes nothing any more.
    late = double.refund_event("refund.created", refund)
    assert_receipt(tell(shop, double, late), "success")
    assert_receipt(tell(shop, double, double.refunded_event(payment_id)), "success")
    assert paid_credits(shop.database, user) == 20


def test_a_refund_told_before_its_payment_is_taken_back_all_the_same(
    shop: Service, double: StripeDouble
) -> None:
    user = make_account(shop, paid=1)
    payment_id = buy_and_pay(shop, double, user)
    succeeded = double.succeeded_event(payment_id)
    assert_receipt(refund_of(shop, double, payment_id, 250), "success")
    assert paid_credits(shop.database, user) == 1
    assert_receipt(tell(shop, double, succeeded), "success")
    assert paid_credits(shop.database, user) == 11
    assert shop.database.execute("SELECT * FROM billing.verify_ledger()") == []


@pytest.mark.parametrize("number", range(3))
def test_events_in_any_order_end_the_same(shop: Service, double: StripeDouble, number: int) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed} ({number})")
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    refunds = [double.refund(payment_id, amount) for amount in (100, 150)]
    failed = double.fail_refund(refunds[0]["id"])
    dispute = double.dispute(payment_id, 50)
    events = [
        double.succeeded_event(payment_id),
        *(double.refund_event("refund.created", refund) for refund in refunds),
        double.refund_event("refund.failed", failed),
        double.refunded_event(payment_id),
        double.dispute_event("charge.dispute.created", dispute),
        double.dispute_event("charge.dispute.funds_withdrawn", dispute),
        double.failed_event(payment_id),
    ]
    deliveries = events * 2
    random.Random(seed).shuffle(deliveries)
    for event in deliveries:
        assert tell(shop, double, event).status_code == 200
    # 150 of 500 refunded for good, 50 disputed: 12 of 20 uses remain.
    assert paid_credits(shop.database, user) == 12
    assert shop.database.execute("SELECT * FROM billing.verify_ledger()") == []


NO_SUCH_CHARGE = {
    "error": {
        "type": "invalid_request_error",
        "code": "resource_missing",
        "param": "charge",
        "message": "No such charge",
    }
}


@pytest.mark.parametrize(
    "fault",
    [Status(403), Status(404, NO_SUCH_CHARGE), Status(400, NO_SUCH_CHARGE)],
    ids=["not permitted", "no such charge", "no such parameter"],
)
def test_a_charge_that_stripe_does_not_show_us_is_listed_and_can_be_resolved(
    shop: Service, double: StripeDouble, fault: Status
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    double.refund(payment_id)
    event = double.refunded_event(payment_id)
    double.on("GET", REFUNDS, fault, times=2)
    for _ in range(2):
        answer = tell(shop, double, event)
        assert_failed(answer)
        (line,) = log_lines(shop, request_id=answer.headers["x-request-id"], level="ERROR")
        assert "charge_unreadable" in line["message"]
    row = event_row(shop.database, event["id"])
    assert (row["outcome"], row["deliveries"]) == ("charge_unreadable", 2)
    assert problems(shop.database, payment_id) == ["charge_unreadable"]
    shop.database.execute(
        "SELECT billing.resolve_payment_event(p_event_id => %s, p_reason => 'taken by hand')",
        event["id"],
        user="t_dba",
    )
    assert problems(shop.database, payment_id) == []
    double.on("GET", REFUNDS, fault)
    assert tell(shop, double, event).status_code == 200
    forget_faults(double)
    assert paid_credits(shop.database, user) == 20


def test_a_charge_that_can_be_read_again_is_taken_back_by_the_next_attempt(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    double.refund(payment_id)
    event = double.refunded_event(payment_id)
    double.on("GET", REFUNDS, Status(403))
    assert_failed(tell(shop, double, event))
    assert_receipt(tell(shop, double, event), "success")
    assert paid_credits(shop.database, user) == 0
    assert problems(shop.database, payment_id) == []


def test_a_charge_of_another_shop_that_we_may_not_read_is_ignored(
    shop: Service, double: StripeDouble
) -> None:
    intent = double.create_intent(amount=500, currency="usd")
    double.pay(intent["id"])
    double.refund(intent["id"])
    event = double.refunded_event(intent["id"])
    double.on("GET", REFUNDS, Status(403))
    assert_receipt(tell(shop, double, event), "ignored")
    assert problems(shop.database, intent["id"]) == []


def test_while_stripe_cannot_say_what_was_refunded_the_event_is_asked_for_again(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    double.refund(payment_id)
    event = double.refunded_event(payment_id)
    for fault in (Status(500), Status(429), Status(401), Drop()):
        double.on("GET", REFUNDS, fault, times=9)
        answer = tell(shop, double, event)
        assert_failed(answer)
        (line,) = log_lines(shop, request_id=answer.headers["x-request-id"], level="ERROR")
        assert (line["event_id"], "again" in line["message"]) == (event["id"], True)
        forget_faults(double)
    with double.outage():
        assert_failed(tell(shop, double, event))
    assert paid_credits(shop.database, user) == 20
    assert_receipt(tell(shop, double, event), "success")
    assert paid_credits(shop.database, user) == 0


def test_credits_that_were_spent_cannot_be_taken_and_staff_are_told(
    shop: Service, double: StripeDouble
) -> None:
    user = make_account(shop, free=0)
    payment_id = credited(shop, double, user)
    make_charges(shop.database, user, 13)
    assert_receipt(refund_of(shop, double, payment_id, 500), "success")
    assert paid_credits(shop.database, user) == 0
    assert problems(shop.database, payment_id) == ["shortfall"]
    told = shop.database.value(
        "SELECT p.what_is_wrong FROM billing.list_payment_problems(p_limit => 500) AS p"
        " WHERE p.payment_id = %s",
        payment_id,
        user="t_dba",
    )
    assert told == "refund of $5.00: 20 uses were due, 7 could be taken, 13 are short"
    assert shop.database.execute("SELECT * FROM billing.verify_ledger()") == []


def test_a_dispute_takes_back_and_gives_back_when_it_is_won(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    dispute = double.dispute(payment_id)
    created = double.dispute_event("charge.dispute.created", dispute)
    withdrawn = double.dispute_event("charge.dispute.funds_withdrawn", dispute)
    for event in (created, withdrawn, created):
        assert_receipt(tell(shop, double, event), "success")
        assert paid_credits(shop.database, user) == 0
    won = double.close_dispute(dispute["id"], "won")
    for type in ("charge.dispute.closed", "charge.dispute.funds_reinstated"):
        assert_receipt(tell(shop, double, double.dispute_event(type, won)), "success")
        assert paid_credits(shop.database, user) == 20
    amounts = [entry[0] for entry in ledger(shop.database, user)]
    assert amounts == [20, -20, 20]
    assert shop.database.execute("SELECT * FROM billing.verify_ledger()") == []


def test_a_lost_dispute_takes_back_once(shop: Service, double: StripeDouble) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    dispute = double.dispute(payment_id)
    tell(shop, double, double.dispute_event("charge.dispute.created", dispute))
    lost = double.close_dispute(dispute["id"], "lost")
    answer = tell(shop, double, double.dispute_event("charge.dispute.closed", lost))
    assert_receipt(answer, "success")
    assert [entry[0] for entry in ledger(shop.database, user)] == [20, -20]


def dispute_moves(
    shop: Service, double: StripeDouble, dispute: Json, type: str, **fields: Any
) -> None:
    """Stripe tells of the dispute as it is."""
    event = double.dispute_event(f"charge.dispute.{type}", dispute, **fields)
    assert_receipt(tell(shop, double, event), "success")


def test_a_dispute_that_gave_back_only_part_takes_the_rest(
    shop: Service, double: StripeDouble
) -> None:
    user = make_account(shop, paid=12)
    payment_id = credited(shop, double, user)
    assert_receipt(refund_of(shop, double, payment_id, 200), "success")
    assert paid_credits(shop.database, user) == 24
    dispute = double.dispute(payment_id)
    dispute_moves(shop, double, dispute, "funds_withdrawn")
    assert paid_credits(shop.database, user) == 12
    dispute_moves(shop, double, double.close_dispute(dispute["id"], "lost"), "closed")
    # What was refunded is given back to us, the dispute stays lost: all the money is away.
    dispute_moves(shop, double, double.move_dispute(dispute["id"], 200), "funds_reinstated")
    assert paid_credits(shop.database, user) == 12
    # Half of the rest comes back: 350 of 500 are away.
    dispute_moves(shop, double, double.move_dispute(dispute["id"], 150), "funds_reinstated")
    assert paid_credits(shop.database, user) == 18
    assert [entry[0] for entry in ledger(shop.database, user)[1:]] == [20, -8, -12, 6]
    assert shop.database.execute("SELECT * FROM billing.verify_ledger()") == []


@pytest.mark.parametrize("has_moves", [True, False], ids=["balance transactions", "status alone"])
def test_a_dispute_may_be_lost_and_won_and_lost_again(
    shop: Service, double: StripeDouble, has_moves: bool
) -> None:
    user = make_account(shop, paid=3)
    payment_id = credited(shop, double, user)
    dispute = double.dispute(payment_id)
    stages = [dispute]
    for number in range(4):
        if number % 2 and has_moves:
            double.move_dispute(dispute["id"], -500)
        stages.append(double.close_dispute(dispute["id"], "lost" if number % 2 else "won"))
    if not has_moves:
        stages = [{**stage, "balance_transactions": None} for stage in stages]
    now = int(time.time())
    events = [
        double.dispute_event("charge.dispute.updated", stage, created=now + number)
        for number, stage in enumerate(stages)
    ]
    balances = []
    for event in events:
        assert_receipt(tell(shop, double, event), "success")
        balances.append(paid_credits(shop.database, user))
    assert balances == [3, 23, 3, 23, 3]
    assert [entry[0] for entry in ledger(shop.database, user)[1:]] == [20, -20, 20, -20, 20, -20]
    # Whatever is told again of earlier changes nothing.
    for event in events[::-1]:
        again = {**event, "id": unique("evt")}
        assert_receipt(tell(shop, double, again), "success")
        assert paid_credits(shop.database, user) == 3
    assert shop.database.execute("SELECT * FROM billing.verify_ledger()") == []


def test_money_that_is_reinstated_while_the_bank_still_looks_comes_back(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    dispute = double.dispute(payment_id)
    dispute_moves(shop, double, dispute, "created")
    under_review = double.close_dispute(dispute["id"], "under_review")
    dispute_moves(shop, double, under_review, "updated")
    assert paid_credits(shop.database, user) == 0
    dispute_moves(shop, double, double.move_dispute(dispute["id"], 500), "funds_reinstated")
    assert paid_credits(shop.database, user) == 20
    dispute_moves(shop, double, double.close_dispute(dispute["id"], "lost"), "closed")
    assert paid_credits(shop.database, user) == 20


@pytest.mark.parametrize("number", range(3))
def test_news_of_a_dispute_in_any_order_end_as_the_newest(
    shop: Service, double: StripeDouble, number: int
) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed} ({number})")
    user = unique()
    payment_id = credited(shop, double, user)
    stages = [double.dispute(payment_id, status="warning_needs_response")]
    dispute_id = stages[0]["id"]
    for amount, status in ((-500, "needs_response"), (200, "lost"), (300, "won"), (-125, "lost")):
        double.move_dispute(dispute_id, amount)
        stages.append(double.close_dispute(dispute_id, status))
    types = ("created", "updated", "closed", "funds_withdrawn", "funds_reinstated")
    dice = random.Random(seed)
    events = [
        # All in one second, and types that say nothing about the state.
        double.dispute_event(f"charge.dispute.{dice.choice(types)}", stage, created=1_800_000_000)
        for stage in stages * 2
    ]
    dice.shuffle(events)
    for event in events:
        assert tell(shop, double, event).status_code == 200
    assert paid_credits(shop.database, user) == 15
    assert shop.database.execute("SELECT * FROM billing.verify_ledger()") == []


@pytest.mark.parametrize(
    ("type", "status", "left"),
    [
        ("funds_reinstated", "lost", 0),
        ("funds_reinstated", "under_review", 0),
        ("closed", "lost", 0),
        ("funds_withdrawn", "won", 20),
        ("funds_withdrawn", "prevented", 20),
        ("created", "warning_closed", 20),
    ],
)
def test_the_status_of_a_dispute_counts_and_not_the_type_of_its_event(
    shop: Service, double: StripeDouble, type: str, status: str, left: int
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    dispute = {**double.dispute(payment_id), "status": status}
    del dispute["balance_transactions"]
    event = double.dispute_event(f"charge.dispute.{type}", dispute)
    assert tell(shop, double, event).status_code == 200
    assert paid_credits(shop.database, user) == left


def test_an_event_of_a_payment_that_has_not_succeeded_credits_nothing(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    event = double.succeeded_event(buy_and_pay(shop, double, user))
    event["data"]["object"]["status"] = "processing"
    assert_receipt(tell(shop, double, event), "ignored")
    assert ledger(shop.database, user) == []


@pytest.mark.parametrize("rates", [(0.92, 0.95), (None, None)], ids=["rates", "no rates"])
def test_a_dispute_settled_in_another_currency_counts_by_its_share(
    shop: Service, double: StripeDouble, rates: tuple[float | None, float | None]
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    dispute = double.dispute(payment_id)
    withdrawn, reinstated = ({"currency": "eur", "exchange_rate": rate} for rate in rates)
    back = 190 if rates[0] else 184  # both are 200 of the 500 cents
    dispute["balance_transactions"] = [{"amount": -460, **withdrawn}]
    dispute_moves(shop, double, dispute, "funds_withdrawn")
    assert paid_credits(shop.database, user) == 0
    moves = [*dispute["balance_transactions"], {"amount": back, **reinstated}]
    dispute_moves(shop, double, {**dispute, "balance_transactions": moves}, "funds_reinstated")
    assert paid_credits(shop.database, user) == 8


@pytest.mark.parametrize(
    "status", ["warning_needs_response", "warning_under_review", "warning_closed"]
)
def test_an_inquiry_moves_no_money(shop: Service, double: StripeDouble, status: str) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    inquiry = double.dispute(payment_id, status=status)
    for type in ("created", "updated", "closed"):
        event = double.dispute_event(f"charge.dispute.{type}", inquiry)
        assert_receipt(tell(shop, double, event), "ignored")
    assert paid_credits(shop.database, user) == 20


def test_a_refund_of_another_shop_is_ignored(shop: Service, double: StripeDouble) -> None:
    intent = double.create_intent(amount=500, currency="usd")
    double.pay(intent["id"])
    refund = double.refund(intent["id"])
    dispute_event = double.dispute_event(
        "charge.dispute.created", {**double.dispute(intent["id"]), "id": "du_other"}
    )
    for event in (
        double.refunded_event(intent["id"]),
        double.refund_event("refund.created", refund),
        dispute_event,
    ):
        assert_receipt(tell(shop, double, event), "ignored")
    assert problems(shop.database, intent["id"]) == []


def test_a_live_event_finds_a_test_set_up_and_moves_nothing(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = credited(shop, double, user)
    double.refund(payment_id)
    event = double.refunded_event(payment_id, livemode=True)
    assert_failed(tell(shop, double, event))
    assert paid_credits(shop.database, user) == 20


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
    """Of two endpoints, or of one whose secret is rolled."""
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
    # Signed with both, as Stripe does while a secret is rolled.
    set_provider(bare.database, seal_for(double, webhook_secret=f"{second},{third}"))
    body = json.dumps(double.event("customer.created", {})).encode()
    timestamp, _, old = double.sign(body, secret=first).partition(",")
    new = double.sign(body, secret=third).partition(",")[2]
    assert_receipt(post(bare, body, f"{timestamp},{old},{new}"), "ignored")
    bare.database.execute("DELETE FROM billing_data.payment_events")


@pytest.fixture(scope="module")
def bare(cluster: TestCluster, double: StripeDouble) -> Iterator[Service]:
    """A server whose provider each test sets up its own way."""
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
            ("outcome=credited",): 3,  # redelivered, it still is what became of it
            ("outcome=already_credited",): 1,
            ("outcome=acknowledged",): 1,
            ("outcome=ignored",): 2,
            ("outcome=amount_mismatch",): 1,
            ("outcome=error",): 1,
            ("outcome=taken_back",): 1,
        }
        assert _counts(service, "billing_payment_provider_requests_total") == {
            ("operation=create_intent", "result=success"): 2,
            ("operation=create_intent", "result=error"): 2,  # asked once more, under a new key
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


# What is stored and shown of secrets


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
    """What was sent and said in a session with recognisable secrets; the server has ended."""

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
    """At DEBUG, with every access logged: purchases, events good and bad, and Stripe failing in
    each way."""
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
        # A 422 quotes what the caller sent.
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
    """Credits, refunds and charges of one account meet."""
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
