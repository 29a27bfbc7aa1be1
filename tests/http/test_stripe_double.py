"""The Stripe double behaves like Stripe where the service relies on it. It is called through
Stripe's own SDK."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import Queue
from typing import Any

import aiohttp
import httpx2
import pytest
import stripe

from tests.stripe_double import (
    Drop,
    DropAfter,
    HoldAfter,
    HoldBefore,
    Slow,
    Status,
    StripeDouble,
    running_stripe,
)

INTENT: dict[str, Any] = {
    "amount": 500,
    "currency": "usd",
    "description": "20 uses",
    "receipt_email": "ada@example.com",
    "automatic_payment_methods": {"enabled": True},
    "metadata": {"purchase": "p-1"},
}
INTENTS = "/v1/payment_intents$"


@pytest.fixture(scope="module")
def double() -> Iterator[StripeDouble]:
    with running_stripe() as double:
        yield double


@pytest.fixture
def fresh() -> Iterator[StripeDouble]:
    """A double that is empty."""
    with running_stripe() as double:
        yield double


def sdk(double: StripeDouble, key: str | None = None, **options: Any) -> stripe.StripeClient:
    options = {"max_network_retries": 0, **options}
    return stripe.StripeClient(
        key or double.api_key, base_addresses={"api": double.base_url}, **options
    )


def create(double: StripeDouble, key: str | None = None, **changes: Any) -> stripe.PaymentIntent:
    options: Any = {"idempotency_key": key} if key else {}
    params: Any = {**INTENT, **changes}
    return sdk(double).v1.payment_intents.create(params, options)


def paid(double: StripeDouble, **changes: Any) -> str:
    payment_id = create(double, **changes).id
    double.pay(payment_id)
    return payment_id


async def test_an_intent_keeps_what_it_was_made_with_and_counts_what_was_received(
    double: StripeDouble,
) -> None:
    params: Any = INTENT
    async with aiohttp.ClientSession() as session:
        intents = sdk(double, http_client=stripe.AIOHTTPClient(session=session)).v1.payment_intents
        made = await intents.create_async(params)
        assert (made.status, made.amount_received) == ("requires_payment_method", 0)
        assert str(made.client_secret).startswith(f"{made.id}_secret_")
        await asyncio.to_thread(double.pay, made.id)
        found = await intents.retrieve_async(made.id, {"expand": ["latest_charge"]})
        plain = await intents.retrieve_async(made.id)
    assert (found.status, found.amount_received, found.livemode) == ("succeeded", 500, False)
    assert (found.description, found.receipt_email) == ("20 uses", "ada@example.com")
    assert found.automatic_payment_methods is not None
    assert found.automatic_payment_methods.enabled is True
    assert isinstance(found.latest_charge, stripe.Charge)
    assert found.latest_charge.metadata["purchase"] == "p-1"
    assert plain.latest_charge == found.latest_charge.id


def test_a_declined_card_leaves_an_intent_that_another_card_can_pay(double: StripeDouble) -> None:
    payment_id = create(double).id
    declined = double.pay(payment_id, "4000000000009995")
    assert declined["status"] == "requires_payment_method"
    assert declined["last_payment_error"]["decline_code"] == "insufficient_funds"
    assert double.charge_of(payment_id)["status"] == "failed"
    assert double.pay(payment_id)["last_payment_error"] is None
    charges = sdk(double).v1.charges.list({"payment_intent": payment_id})
    assert [charge.status for charge in charges.data] == ["succeeded", "failed"]


def test_an_intent_that_is_paid_cannot_be_cancelled(double: StripeDouble) -> None:
    assert sdk(double).v1.payment_intents.cancel(create(double).id).status == "canceled"
    with pytest.raises(stripe.InvalidRequestError) as refused:
        sdk(double).v1.payment_intents.cancel(paid(double))
    assert refused.value.code == "payment_intent_unexpected_state"


def test_the_same_key_gives_the_same_intent_and_refuses_other_parameters(
    double: StripeDouble,
) -> None:
    first, again = create(double, "key-1"), create(double, "key-1")
    assert again.id == first.id
    assert (replayed(first), replayed(again)) == (None, "true")
    with pytest.raises(stripe.IdempotencyError):
        create(double, "key-1", amount=600)


def test_a_key_refused_for_bad_parameters_can_be_used_again(double: StripeDouble) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        create(double, "key-2", receipt_email="ada")
    assert (refused.value.code, refused.value.param) == ("email_invalid", "receipt_email")
    create(double, "key-2")


def test_a_failure_that_stripe_remembers_is_given_again(double: StripeDouble) -> None:
    double.on("POST", INTENTS, Status(500, remembered=True))
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            create(double, "key-3")
    create(double, "key-4")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"amount": "many"}, "parameter_invalid_integer"),
        ({"amount": 49}, "amount_too_small"),
        ({"currency": ""}, "parameter_missing"),
        ({"colour": "red"}, "parameter_unknown"),
    ],
)
def test_bad_parameters_are_refused_by_name(
    double: StripeDouble, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        create(double, **changes)
    assert (refused.value.code, refused.value.param) == (code, next(iter(changes)))


def test_a_missing_object_is_named(double: StripeDouble) -> None:
    client = sdk(double).v1
    reads = [
        (client.payment_intents.retrieve, "payment_intent", "intent"),
        (client.charges.retrieve, "charge", "id"),
        (client.disputes.retrieve, "dispute", "id"),
    ]
    for read, kind, param in reads:
        with pytest.raises(stripe.InvalidRequestError, match=f"No such {kind}: 'x_1'") as missing:
            read("x_1")
        error = missing.value
        assert (error.http_status, error.code, error.param) == (404, "resource_missing", param)


def test_another_secret_key_is_refused(double: StripeDouble) -> None:
    for key in ("sk_test_other", double.publishable_key):
        with pytest.raises(stripe.AuthenticationError, match="Invalid API Key"):
            sdk(double, key).v1.payment_intents.list()
    assert httpx2.get(f"{double.base_url}/v1/charges", verify=False).status_code == 401


def test_lists_come_newest_first_in_pages_within_times(fresh: StripeDouble) -> None:
    client = sdk(fresh).v1
    ids = [create(fresh).id for _ in range(12)]
    page = client.payment_intents.list()
    assert [one.id for one in page.data] == ids[:1:-1]
    assert page.has_more
    everything = client.payment_intents.list({"limit": 5}).auto_paging_iter()
    assert [one.id for one in everything] == ids[::-1]
    made_oldest, made_border = (client.payment_intents.retrieve(ids[at]).created for at in (3, 7))
    fresh.age(ids[7], 3600)
    fresh.age(ids[3], 7200)
    oldest, border = (client.payment_intents.retrieve(ids[at]).created for at in (3, 7))
    assert (oldest, border) == (made_oldest - 7200, made_border - 3600)
    older = client.payment_intents.list({"created": {"lte": border}})
    assert ([one.id for one in older.data], older.has_more) == ([ids[7], ids[3]], False)
    newer = client.payment_intents.list({"created": {"gt": border}, "limit": 100})
    assert {one.id for one in newer.data} == {*ids} - {ids[7], ids[3]}
    window: Any = {"gte": oldest, "lt": border}
    assert [one.id for one in client.payment_intents.list({"created": window}).data] == [ids[3]]
    for bad in ({"limit": 101}, {"limit": 0}, {"starting_after": "pi_x"}):
        with pytest.raises(stripe.InvalidRequestError):
            client.payment_intents.list(bad)  # type: ignore[arg-type]


def test_a_refund_names_what_it_refunds(double: StripeDouble) -> None:
    for params in ({}, {"charge": "ch_x"}, {"payment_intent": create(double).id}):
        with pytest.raises(stripe.InvalidRequestError):
            sdk(double).v1.refunds.create(params)  # type: ignore[arg-type]


def test_refunds_add_up_on_the_charge_and_a_failed_one_counts_no_more(
    double: StripeDouble,
) -> None:
    payment_id = paid(double)
    first = double.refund(payment_id, 200)
    assert double.charge_of(payment_id)["amount_refunded"] == 200
    with pytest.raises(stripe.InvalidRequestError):
        sdk(double).v1.refunds.create({"payment_intent": payment_id, "amount": 301})
    assert double.refund(payment_id)["amount"] == 300
    charge = double.charge_of(payment_id)
    assert (charge["amount_refunded"], charge["refunded"]) == (500, True)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        sdk(double).v1.refunds.create({"charge": charge["id"]})
    assert refused.value.code == "charge_already_refunded"
    assert double.fail_refund(first["id"])["status"] == "failed"
    charge = double.charge_of(payment_id)
    assert (charge["amount_refunded"], charge["refunded"]) == (300, False)
    double.refund(paid(double))
    for query in ({"payment_intent": payment_id}, {"charge": charge["id"]}):
        refunds = sdk(double).v1.refunds.list(query)  # type: ignore[arg-type]
        assert [(one.amount, one.status) for one in refunds.data] == [
            (300, "succeeded"),
            (200, "failed"),
        ]


def test_a_dispute_is_found_and_marks_its_charge(double: StripeDouble) -> None:
    payment_id = paid(double)
    assert double.charge_of(payment_id)["disputed"] is False
    dispute = double.dispute(payment_id, 400)
    charge = double.charge_of(payment_id)
    assert (charge["disputed"], dispute["charge"]) == (True, charge["id"])
    client = sdk(double).v1
    assert [one.id for one in client.disputes.list({"charge": charge["id"]}).data] == [
        dispute["id"]
    ]
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.refunds.create({"payment_intent": payment_id})
    assert refused.value.code == "charge_disputed"
    double.close_dispute(dispute["id"], "lost")
    found = client.disputes.retrieve(dispute["id"])
    assert (found.status, found.amount, found.payment_intent) == ("lost", 400, payment_id)


def test_a_dropped_request_is_not_done_and_a_dropped_answer_is(double: StripeDouble) -> None:
    for fault, done in ((Drop(), False), (DropAfter(), True)):
        double.on("POST", INTENTS, fault)
        key, before = f"drop-{done}", count(double)
        with pytest.raises(stripe.APIConnectionError):
            create(double, key)
        assert count(double) == before + done
        assert replayed(create(double, key)) == ("true" if done else None)
        assert count(double) == before + 1


def test_the_sdk_repeats_a_lost_answer_under_its_key(double: StripeDouble) -> None:
    double.on("POST", INTENTS, DropAfter())
    before = count(double)
    double.requests.clear()
    params: Any = INTENT
    sdk(double, max_network_retries=1).v1.payment_intents.create(params)
    lost, again = double.requests
    assert (lost.status, again.status) == (None, 200)
    assert lost.headers["idempotency-key"] == again.headers["idempotency-key"]
    assert (again.form["amount"], again.form["metadata[purchase]"]) == ("500", "p-1")
    assert count(double) == before + 1


@pytest.mark.parametrize(("hold", "done"), [(HoldBefore(), False), (HoldAfter(), True)])
async def test_a_held_request_waits_until_it_is_released(
    double: StripeDouble, hold: HoldBefore | HoldAfter, done: bool
) -> None:
    before = await asyncio.to_thread(count, double)
    double.on("POST", INTENTS, hold)
    waiting = asyncio.create_task(asyncio.to_thread(create, double))
    assert await asyncio.to_thread(hold.reached.wait, 10)
    assert await asyncio.to_thread(count, double) == before + done
    assert not waiting.done()
    hold.release()
    await waiting
    assert await asyncio.to_thread(count, double) == before + 1


def test_faults_answer_slow_down_and_are_used_up(double: StripeDouble) -> None:
    limited = {"error": {"type": "invalid_request_error", "code": "rate_limit", "message": "Slow."}}
    double.on("POST", INTENTS, Status(429, limited, {"Stripe-Should-Retry": "true"}), times=2)
    for _ in range(2):
        with pytest.raises(stripe.RateLimitError):
            create(double)
    double.on("POST", INTENTS, Slow(0.2))
    started = time.monotonic()
    create(double)
    assert time.monotonic() - started >= 0.2


def test_during_an_outage_connections_are_refused_and_nothing_is_lost(
    double: StripeDouble,
) -> None:
    payment_id = create(double).id
    headers = {"Authorization": f"Bearer {double.api_key}"}
    with httpx2.Client(base_url=double.base_url, headers=headers, verify=False) as client:
        url = f"/v1/payment_intents/{payment_id}"
        assert client.get(url).status_code == 200
        with double.outage(), pytest.raises(httpx2.ConnectError):
            client.get(url)
        assert client.get(url).status_code == 200


def test_two_doubles_do_not_see_each_other(double: StripeDouble, fresh: StripeDouble) -> None:
    create(double)
    assert sdk(fresh).v1.payment_intents.list().data == []


def test_events_are_signed_so_that_the_sdk_believes_only_ours(
    double: StripeDouble, inbox: Inbox
) -> None:
    payment_id = paid(double)
    refund = double.refund(payment_id, 100)
    events = [
        double.succeeded_event(payment_id, event_id="evt_1", livemode=True),
        double.refunded_event(payment_id),
        double.refunded_event(payment_id, embed_refunds=True),
        double.refund_event("refund.failed", double.fail_refund(refund["id"])),
        double.dispute_event("charge.dispute.created", double.dispute(payment_id)),
    ]
    for event in events:
        assert double.deliver(inbox.url, event).status_code == 200
        path, signature, body = inbox.posts.get(timeout=5)
        assert path == "/v1/billing/webhooks/stripe"
        read = stripe.Webhook.construct_event(body, signature, double.webhook_secret)
        assert (read.id, read.type) == (event["id"], event["type"])
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.Webhook.construct_event(body, signature, "whsec_other")
    assert [("refunds" in event["data"]["object"]) for event in events[1:3]] == [False, True]
    double.deliver(inbox.url, events[0], timestamp=int(time.time()) - 3600)
    _, signature, body = inbox.posts.get(timeout=5)
    with pytest.raises(stripe.SignatureVerificationError, match="tolerance"):
        stripe.Webhook.construct_event(body, signature, double.webhook_secret)


def test_localstripe_itself_tells_of_payments(fresh: StripeDouble, inbox: Inbox) -> None:
    fresh.send_webhooks_to(f"{inbox.url}/hook")
    payment_id = create(fresh).id
    fresh.pay(payment_id, "4000000000000002")
    fresh.pay(payment_id)
    types = set()
    for _ in range(2):
        path, signature, body = inbox.posts.get(timeout=10)
        event = stripe.Webhook.construct_event(body, signature, fresh.webhook_secret)
        assert (path, event.data.object["id"]) == ("/hook", payment_id)
        types.add(event.type)
    assert types == {"payment_intent.succeeded", "payment_intent.payment_failed"}


def replayed(answer: stripe.PaymentIntent) -> str | None:
    assert answer.last_response is not None
    return answer.last_response.headers.get("Idempotent-Replayed")


def count(double: StripeDouble) -> int:
    """How many intents localstripe holds, asked directly and not through the front."""
    answer = httpx2.get(
        f"{double.direct_url}/v1/payment_intents",
        headers={"Authorization": f"Bearer {double.api_key}"},
        verify=False,
    )
    return int(answer.json()["total_count"])


class Inbox:
    """Receives posts: (path, signature, body)."""

    def __init__(self) -> None:
        posts: Queue[tuple[str, str, bytes]] = Queue()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                posts.put((self.path, self.headers["Stripe-Signature"], body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.posts = posts
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    thread = threading.Thread(target=inbox.server.serve_forever, args=(0.02,))
    thread.start()
    yield inbox
    inbox.server.shutdown()
    thread.join()
    inbox.server.server_close()
