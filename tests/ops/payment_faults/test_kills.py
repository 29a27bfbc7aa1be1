"""Purchases and webhooks when the server is killed at each step."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psutil
import psycopg
import pytest

from tests.ops.payment_faults.helpers import (
    INTENTS,
    InBackground,
    intents_of,
    kill,
    purchase,
    settled,
    waiting_for_a_lock,
)
from tests.payments import (
    PURCHASES,
    assert_credited_once,
    assert_receipt,
    buy_and_pay,
    ledger,
    paid_credits,
    paying_service,
    purchase_rows,
    tell,
)
from tests.stripe_double import (
    WEBHOOK_PATH,
    HoldAfter,
    HoldBefore,
    StripeDouble,
)
from tests.support import (
    Service,
    held_account,
    unique,
    wait_for,
    wait_until_healthy,
    worker_pids,
)

# The server is killed


@pytest.mark.parametrize(
    "step", ["before Stripe was asked", "before Stripe's answer", "before the answer was recorded"]
)
def test_a_server_killed_in_a_purchase_sells_it_once_when_it_is_asked_again(
    shop: Service, double: StripeDouble, tmp_path: Path, step: str
) -> None:
    user, database = unique(), shop.database
    hold = HoldBefore() if step == "before Stripe was asked" else HoldAfter()
    double.on("POST", INTENTS, hold)
    with paying_service(database, double, TMPDIR=str(tmp_path)) as service:
        request = InBackground(lambda: purchase(service, user, "once"))
        assert hold.reached.wait(20)
        if step == "before the answer was recorded":
            with psycopg.connect(database.dsn()) as holder:
                holder.execute("SELECT 1 FROM billing_data.purchases FOR UPDATE")
                hold.release()
                wait_for(lambda: waiting_for_a_lock(database) == 1, "the record to be written")
                kill(service)
                holder.rollback()
        else:
            kill(service)
        assert isinstance(request.wait(), httpx2.TransportError)
    hold.release()
    wait_for(lambda: settled(database), "what was under way")
    (offered,) = purchase_rows(database, user)
    if step != "before the answer was recorded":  # then its last call may still have arrived
        assert offered["payment_id"] is None
    assert ledger(database, user) == []

    answer = purchase(shop, user, "once")
    assert answer.status_code == 201, answer.text
    payment_id = answer.json()["payment_id"]
    assert [row["id"] for row in purchase_rows(database, user)] == [offered["id"]]
    assert [intent["id"] for intent in intents_of(double, user)] == [payment_id]
    double.pay(payment_id)
    assert_receipt(tell(shop, double, double.succeeded_event(payment_id)), "success")
    assert_credited_once(database, user, payment_id)
    assert paid_credits(database, user) == 20


def test_a_server_killed_before_it_credited_credits_once_when_stripe_comes_again(
    shop: Service, double: StripeDouble, tmp_path: Path
) -> None:
    user, database = unique(), shop.database
    with paying_service(database, double, workers=2, TMPDIR=str(tmp_path)) as service:
        payment_id = buy_and_pay(service, double, user)
        event = double.succeeded_event(payment_id)
        with held_account(database, user) as holder:
            delivery = InBackground(lambda: tell(service, double, event))
            wait_for(lambda: waiting_for_a_lock(database) == 1, "the event to wait")
            kill(service)
            # Nobody is left to read its answer.
            database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'ciris-billing'"
                " AND wait_event_type = 'Lock'"
            )
            assert isinstance(delivery.wait(), httpx2.TransportError)
            holder.rollback()
    wait_for(lambda: settled(database), "what was under way")
    assert ledger(database, user) == []
    stored = "SELECT count(*) FROM billing_data.payment_events WHERE event_id = %s"
    assert database.value(stored, event["id"]) == 0
    for _ in range(2):
        assert_receipt(tell(shop, double, event), "success")
    assert_credited_once(database, user, payment_id)
    assert paid_credits(database, user) == 20


def test_a_call_that_outlives_its_server_and_the_redelivery_credit_once(
    shop: Service, double: StripeDouble, tmp_path: Path
) -> None:
    """The database finishes the call though its client is dead."""
    user, database = unique(), shop.database
    with paying_service(database, double, TMPDIR=str(tmp_path)) as service:
        payment_id = buy_and_pay(service, double, user)
        event = double.succeeded_event(payment_id)
        with held_account(database, user) as holder:
            delivery = InBackground(lambda: tell(service, double, event))
            wait_for(lambda: waiting_for_a_lock(database) == 1, "the event to wait")
            kill(service)
            holder.rollback()
        assert isinstance(delivery.wait(), httpx2.TransportError)
    wait_for(lambda: settled(database), "what was under way")
    assert_receipt(tell(shop, double, event), "success")
    assert_credited_once(database, user, payment_id)
    assert paid_credits(database, user) == 20


def test_an_event_whose_answer_nobody_took_is_credited_and_its_redelivery_changes_nothing(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    event = double.succeeded_event(payment_id)
    body = json.dumps(event).encode()
    address = urlsplit(shop.base_url)
    with held_account(shop.database, user) as holder:
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(
                f"POST {WEBHOOK_PATH} HTTP/1.1\r\nHost: {address.netloc}\r\n"
                f"Stripe-Signature: {double.sign(body)}\r\nContent-Length: {len(body)}\r\n\r\n"
                "".encode()
                + body
            )
            wait_for(lambda: waiting_for_a_lock(shop.database) == 1, "the event to wait")
        holder.rollback()
    wait_for(lambda: ledger(shop.database, user), "the credit")
    assert_receipt(tell(shop, double, event), "success")
    assert_credited_once(shop.database, user, payment_id)


def test_a_server_killed_after_it_credited_and_before_it_said_so_credits_once(
    shop: Service, double: StripeDouble, tmp_path: Path
) -> None:
    user, database = unique(), shop.database
    with paying_service(database, double, TMPDIR=str(tmp_path)) as service:
        event = double.succeeded_event(payment_id := buy_and_pay(service, double, user))
        (worker,) = worker_pids(service.process)
        with held_account(database, user) as holder:
            delivery = InBackground(lambda: tell(service, double, event))
            wait_for(lambda: waiting_for_a_lock(database) == 1, "the event to wait")
            psutil.Process(worker).suspend()  # it receives no answers from the database
            holder.rollback()
            wait_for(lambda: ledger(database, user), "the credit")
        kill(service)
        assert isinstance(delivery.wait(), httpx2.TransportError)
    assert_receipt(tell(shop, double, event), "success")
    with shop.client() as client:
        answer = client.get(f"{PURCHASES}/{payment_id}/status")
        assert answer.json()["credits_added"] == 20
    assert_credited_once(database, user, payment_id)
    assert paid_credits(database, user) == 20


def test_killed_workers_in_a_purchase_leave_new_ones_to_make_it(
    shop: Service, double: StripeDouble
) -> None:
    user, database = unique(), shop.database
    hold = double.on("POST", INTENTS, HoldAfter())
    with paying_service(database, double, workers=2) as service:
        request = InBackground(lambda: purchase(service, user, "once"))
        assert hold.reached.wait(20)
        before = worker_pids(service.process)
        for pid in before:
            psutil.Process(pid).kill()
        assert isinstance(request.wait(), httpx2.TransportError)
        wait_for(lambda: len(worker_pids(service.process) - before) == 2, "new workers")
        hold.release()
        wait_until_healthy(service.base_url, service.process)
        answer = wait_for(lambda: _answered(lambda: purchase(service, user, "once")), "an answer")
        assert answer.status_code == 201
    assert [intent["id"] for intent in intents_of(double, user)] == [answer.json()["payment_id"]]
    assert len(purchase_rows(database, user)) == 1


def _answered(work: Callable[[], httpx2.Response]) -> httpx2.Response | None:
    with contextlib.suppress(httpx2.TransportError):
        return work()
    return None


def test_sigterm_ends_what_it_has_begun(shop: Service, double: StripeDouble) -> None:
    user, other, database = unique(), unique(), shop.database
    hold = HoldBefore()
    with paying_service(database, double, STRIPE_TIMEOUT="10") as service:
        payment_id = buy_and_pay(service, double, other)
        event = double.succeeded_event(payment_id)
        double.on("POST", INTENTS, hold)
        selling = InBackground(lambda: purchase(service, user, "once"))
        assert hold.reached.wait(20)
        with held_account(database, other) as holder:
            telling = InBackground(lambda: tell(service, double, event))
            wait_for(lambda: waiting_for_a_lock(database) == 1, "the event to wait")
            service.process.process.send_signal(signal.SIGTERM)
            holder.rollback()
        hold.release()
        for request, status in ((telling, 200), (selling, 201)):
            answer = request.wait()
            assert isinstance(answer, httpx2.Response), answer
            assert answer.status_code == status
        assert service.process.process.wait(20) == 0
        assert "Traceback" not in service.process.output
    assert_credited_once(database, other, payment_id)
    assert purchase_rows(database, user)[0]["payment_id"] is not None
