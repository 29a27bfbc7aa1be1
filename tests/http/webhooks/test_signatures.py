"""The signature of a webhook, and what is signed and yet refused."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import httpx2
import pytest

from tests.http.contract import (
    assert_error,
)
from tests.http.webhooks.helpers import (
    assert_refused,
    event_count,
    post,
)
from tests.payments import (
    Json,
    assert_credited_once,
    assert_receipt,
    buy_and_pay,
    event_row,
    known_user,
    ledger,
    legacy_metadata,
    log_lines,
    paid_credits,
    tell,
)
from tests.stripe_double import WEBHOOK_PATH, StripeDouble
from tests.support import (
    Service,
    unique,
)

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
    # It was signed just at the limit, and it must not be older on arrival than it is here.
    assert_refused(tell(shop, double, event, timestamp=int(time.time()) - 301))
    assert_refused(tell(shop, double, event, timestamp=int(time.time()) - 86_400))
    assert ledger(shop.database, user) == []
    assert_receipt(tell(shop, double, event, timestamp=int(time.time()) - 295), "success")
    assert paid_credits(shop.database, user) == 20


def test_of_several_signatures_one_must_be_right(shop: Service, double: StripeDouble) -> None:
    """As during a change of the webhook's secret."""
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
        # An event of a kind that moves money, without an id to store it by.
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
    # A sender that does not know the secret is not told about the age.
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
        f"{timestamp},{value},t=1",  # the first time is the signed one
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
