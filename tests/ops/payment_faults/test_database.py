"""Purchases and webhooks when the database goes away."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Iterator

import httpx2
import psycopg
import pytest

from tests.ops.payment_faults.helpers import (
    CHECK,
    INTENTS,
    InBackground,
    intents_of,
    purchase,
    waiting_for_a_lock,
)
from tests.payments import (
    PURCHASES,
    assert_credited_once,
    assert_receipt,
    buy,
    buy_and_pay,
    ledger,
    log_lines,
    paid_credits,
    purchase_rows,
    tell,
)
from tests.stripe_double import (
    HoldAfter,
    StripeDouble,
)
from tests.support import (
    Database,
    Service,
    held_account,
    identity,
    unique,
    wait_for,
    wait_until_healthy,
)

# The database goes away


@contextlib.contextmanager
def gone(database: Database) -> Iterator[None]:
    """Until the block ends, no connection to the database is left and none is accepted."""
    allow = f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS'
    with psycopg.connect(database.cluster.dsn("postgres"), autocommit=True) as connection:
        connection.execute(f"{allow} false")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            [database.name],
        )
        try:
            yield
        finally:
            connection.execute(f"{allow} true")


def test_a_database_that_goes_away_before_the_commit_costs_no_credit(
    shop: Service, double: StripeDouble
) -> None:
    user, database = unique(), shop.database
    payment_id = buy_and_pay(shop, double, user)
    event = double.succeeded_event(payment_id)
    with psycopg.connect(database.dsn()) as holder, contextlib.suppress(psycopg.Error):
        holder.execute(
            "SELECT 1 FROM billing_data.accounts WHERE external_id = %s FOR UPDATE", (user,)
        )
        delivery = InBackground(lambda: tell(shop, double, event))
        wait_for(lambda: waiting_for_a_lock(database) == 1, "the event to wait")
        with gone(database):  # the holder's connection ends as well
            answer = delivery.wait()
            again = tell(shop, double, event)
        holder.rollback()
    assert isinstance(answer, httpx2.Response)
    for told in (answer, again):
        assert (told.status_code, told.json()["code"]) == (500, "webhook_failed")
        assert told.json()["detail"] == "Webhook processing failed"
        for leak in ("postgres", "asyncpg", "SQLSTATE", database.name):
            assert leak not in told.text
    wait_until_healthy(shop.base_url, shop.process)
    (line, *_) = log_lines(shop, event_id=event["id"], level="ERROR")
    assert "Stripe will send it again" in line["message"]
    assert ledger(database, user) == []
    for _ in range(2):
        assert_receipt(tell(shop, double, event), "success")
    assert_credited_once(database, user, payment_id)
    assert paid_credits(database, user) == 20


@pytest.mark.parametrize("moment", ["at the offer", "at the record"])
def test_a_database_that_goes_away_during_a_purchase_costs_no_payment(
    shop: Service, double: StripeDouble, moment: str
) -> None:
    user, database = unique(), shop.database
    with shop.client() as client:
        assert client.post(CHECK, json=identity(user)).status_code == 200
    if moment == "at the offer":
        with gone(database):
            answer = purchase(shop, user, "once")
            assert intents_of(double, user) == []
    else:
        hold = double.on("POST", INTENTS, HoldAfter())
        request = InBackground(lambda: purchase(shop, user, "once"))
        assert hold.reached.wait(20)
        with gone(database):
            hold.release()
            ended = request.wait()
            assert isinstance(ended, httpx2.Response)
            answer = ended
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    assert "_secret_" not in answer.text
    wait_until_healthy(shop.base_url, shop.process)
    answer = purchase(shop, user, "once")
    assert answer.status_code == 201, answer.text
    payment_id = answer.json()["payment_id"]
    assert [intent["id"] for intent in intents_of(double, user)] == [payment_id]
    assert len(purchase_rows(database, user)) == 1
    double.pay(payment_id)
    assert_receipt(tell(shop, double, double.succeeded_event(payment_id)), "success")
    assert_credited_once(database, user, payment_id)


def test_without_a_database_a_payment_cannot_be_read_and_is_not_said_to_be_unknown(
    shop: Service, double: StripeDouble
) -> None:
    payment_id, database = buy(shop)["payment_id"], shop.database
    with shop.client() as client:
        with gone(database):
            for path in ("", "/status"):
                answer = client.get(f"{PURCHASES}/{payment_id}{path}")
                assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        wait_until_healthy(shop.base_url, shop.process)
        assert client.get(f"{PURCHASES}/{payment_id}").status_code == 200


def test_an_account_held_for_too_long_makes_the_event_come_again_and_holds_up_no_other(
    shop: Service, double: StripeDouble
) -> None:
    held, *others = [unique() for _ in range(4)]
    database = shop.database
    events = {
        user: [double.succeeded_event(buy_and_pay(shop, double, user)) for _ in range(3)]
        for user in (held, *others)
    }
    with (
        concurrent.futures.ThreadPoolExecutor(12) as threads,
        held_account(database, held),
    ):
        stuck = [threads.submit(tell, shop, double, event) for event in events[held][:1]]
        wait_for(lambda: waiting_for_a_lock(database) >= 1, "the event to wait")
        for user in others:
            for event in events[user]:
                assert_receipt(tell(shop, double, event), "success")
        for future in stuck:
            assert future.result().status_code == 500
    assert ledger(database, held) == []
    for event in events[held]:
        assert_receipt(tell(shop, double, event), "success")
    for user in (held, *others):
        assert paid_credits(database, user) == 60
    assert database.execute("SELECT * FROM billing.verify_ledger()") == []
