"""`ciris-billing reconcile`: from when on, many, in trouble, on a terminal, and again."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import secrets
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import pytest

from tests.ops.command_line import refused, run
from tests.ops.reconcile.helpers import KEY, USES, Shop, day, found
from tests.stripe_double import (
    HoldAfter,
    HoldBefore,
    Status,
    running_stripe,
)
from tests.support import (
    BILLING,
    Database,
    Process,
    clean_environment,
    running_service,
    unique,
)

DAY = 24 * 3600


# From when on


def test_what_is_older_than_the_date_is_not_compared(shop: Shop) -> None:
    users = [unique(name) for name in ("older", "edge", "newer")]
    older, edge, newer = (shop.buy(user) for user in users)
    created = {payment: shop.double.charge_of(payment)["created"] for payment in (older, edge)}
    since = int(time.time()) - 2 * DAY
    for payment, second in ((older, since - 1), (edge, since)):
        shop.double.age(shop.double.charge_of(payment)["id"], created[payment] - second)
    at = datetime.fromtimestamp(since, timezone(timedelta(hours=9))).isoformat()
    with ThreadPoolExecutor(2) as threads:
        exact = threads.submit(shop.report, 1, since=at)
        earlier = threads.submit(shop.report, 1, since=day(3))
    assert set(found(exact.result())) == {edge, newer}
    assert set(found(earlier.result())) == {older, edge, newer}

    # A payment that is older but was credited since then is requested by its id.
    assert shop.credit(older) == "credited"
    fixed = shop.report(0, "--fix", since=at)
    assert (fixed["payments_compared"], set(found(fixed))) == (3, {edge, newer})
    refunds = [shop.double.refund(payment)["id"] for payment in (older, edge, newer)]
    dispute = shop.double.dispute(edge)["id"]
    for returned in (refunds[0], dispute):
        shop.double.age(returned, int(time.time()) - since + 60)
    assert set(found(shop.report(1, since=at))) == {refunds[1], refunds[2]}


@pytest.mark.parametrize("date", ["yesterday", "2026-02-30"])
def test_what_is_no_date_is_answered_with_the_usage(date: str) -> None:
    message = refused(run("reconcile", "stripe", "--since", date), 2)
    assert message.startswith("usage: ciris-billing reconcile")
    assert "must be a date like 2026-11-01" in message


def test_another_provider_is_answered_with_the_usage() -> None:
    assert "paypal" in refused(run("reconcile", "paypal", "--since", day(1)), 2)


def test_dates_far_off_are_dates(troubled: Shop) -> None:
    with ThreadPoolExecutor(2) as threads:
        dates = {"0001-01-01": 1, "9999-12-31T23:59:59+00:00": 0}
        reports = {date: threads.submit(troubled.report, 0, since=date) for date in dates}
    compared = {date: report.result()["payments_compared"] for date, report in reports.items()}
    assert compared == dates


# Many


def test_every_page_is_read_and_a_run_that_failed_between_two_is_finished(shop: Shop) -> None:
    user = unique()
    metadata = shop.offer(user)
    del metadata["purchase_id"]  # an account is enough, as with the old service
    payments = {shop.pay(metadata) for _ in range(115)}

    hold = shop.double.on("GET", "/v1/charges$", HoldAfter())
    with ThreadPoolExecutor(1) as threads:
        midway = threads.submit(shop.run, "--fix")
        assert hold.reached.wait(30)
        shop.double.on("GET", "/v1/charges$", Status(500), times=2)
        hold.release()
    message = refused(midway.result(), 1)
    assert midway.result().stdout == ""
    assert "Stripe failed" in message
    assert "try again" in message
    assert shop.ledger(user) == [USES] * 100  # everything done until then is right
    assert shop.verify() == []

    shop.double.requests.clear()
    rest = shop.report(0, "--fix")
    assert (rest["payments_compared"], len(rest["differences"])) == (115, 15)
    pages = [one.query for one in shop.double.requests if one.path == "/v1/charges"]
    assert [page["limit"] for page in pages] == ["100", "100"]
    assert shop.ledger(user) == [USES] * 115
    known = shop.database.execute("SELECT payment_id::text FROM billing_data.purchases")
    assert payments <= {payment_id for (payment_id,) in known}
    shop.agrees(115)


# Trouble


@pytest.mark.parametrize(
    ("path", "status", "attempts", "words"),
    [
        ("/v1/refunds$", 502, 2, "Stripe failed"),
        ("/v1/disputes$", 500, 2, "Stripe failed"),
        ("/v1/payment_intents/", 503, 2, "Stripe failed"),
        ("/v1/disputes$", 429, 1, "429"),
        ("/v1/charges$", 401, 1, "does not accept the API key"),
    ],
)
def test_what_stripe_cannot_answer_is_no_agreement(
    troubled: Shop, path: str, status: int, attempts: int, words: str
) -> None:
    troubled.double.on("GET", path, Status(status), times=attempts)
    done = troubled.run("--json")
    assert words in refused(done, 1)
    assert done.stdout == ""


@pytest.mark.parametrize("path", ["/v1/charges$", "/v1/disputes$"])
def test_stripe_gone_midway_is_no_agreement(troubled: Shop, path: str) -> None:
    hold = troubled.double.on("GET", path, HoldBefore())
    with ThreadPoolExecutor(1) as threads:
        midway = threads.submit(troubled.run, "--json", "--fix")
        assert hold.reached.wait(30)
        with troubled.double.outage():
            done = midway.result()
    hold.release()
    assert "Stripe cannot be reached" in refused(done, 1)
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.fixture(scope="module")
def troubled(module_database: Database) -> Iterator[Shop]:
    """A shop whose Stripe fails. Its books and Stripe agree except for one payment of nobody."""
    with running_stripe() as double:
        shop = Shop(module_database, double)
        shop.bought(unique())
        shop.pay({"order": "17"})
        shop.agrees(1)
        yield shop


def test_a_key_that_may_not_read_disputes_is_said_and_the_rest_compared(troubled: Shop) -> None:
    troubled.double.on("GET", "/v1/disputes$", Status(403))
    done = troubled.run("--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    [note] = report["notes"]
    assert note.startswith("disputes were not compared: ")
    assert "permission" in note
    assert done.stderr == f"ciris-billing: {note}\n"
    assert report["payments_compared"] == 1


def test_who_is_no_dba_is_refused_with_a_sentence(troubled: Shop) -> None:
    done = troubled.run("--fix", user="t_web")
    assert "permission denied" in refused(done, 1)
    assert len(done.stderr.splitlines()) == 1


def test_without_its_configuration_nothing_is_asked(troubled: Shop) -> None:
    troubled.double.requests.clear()
    with ThreadPoolExecutor(2) as threads:
        other = threads.submit(troubled.run, ENCRYPTION_KEY=secrets.token_urlsafe(48))
        weak = threads.submit(troubled.run, ENCRYPTION_KEY="weak")
    assert "with a key that ENCRYPTION_KEY does not have" in refused(other.result(), 1)
    assert "ENCRYPTION_KEY" in refused(weak.result(), 2)
    assert troubled.double.requests == []


# What a terminal sees


def read_all(terminal: int) -> str:
    """What was written to a terminal whose other end is closed."""
    parts = []
    with contextlib.suppress(OSError):  # how a terminal ends
        while part := os.read(terminal, 65536):
            parts.append(part)
    os.close(terminal)
    return b"".join(parts).decode()


@pytest.mark.parametrize("options", [("--json",), ()], ids=["json", "table"])
def test_progress_is_shown_on_a_terminal_and_never_in_the_output(
    troubled: Shop, options: tuple[str, ...]
) -> None:
    command = [BILLING, "reconcile", "stripe", "--since", day(1), *options]
    environment = {**clean_environment(), **troubled.environment(), "TERM": "xterm"}
    terminal, its_end = pty.openpty()
    termios.tcsetwinsize(its_end, (24, 120))
    with subprocess.Popen(
        command, env=environment, stdin=its_end, stdout=subprocess.PIPE, stderr=its_end, text=True
    ) as process:
        os.close(its_end)
        assert process.stdout is not None
        output = process.stdout.read()
        assert process.wait(30) == 0
    seen = read_all(terminal)
    assert "comparing" in seen
    assert "comparing" not in output
    if options:
        assert json.loads(output)["payments_compared"] == 1
    else:
        assert output.startswith("Both sides agree.\n")


def test_a_plain_localstripe_is_enough_but_for_disputes(shop: Shop) -> None:
    user = unique()
    payment = shop.buy(user)
    shop.double.refund(payment, 250)
    direct = shop.double.direct_url
    done = shop.run("--fix", "--json", STRIPE_API_BASE=direct)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"ciris-billing: disputes were not compared: .+\n", done.stderr)
    fixed = json.loads(done.stdout)
    assert [f"ciris-billing: {note}\n" for note in fixed["notes"]] == [done.stderr]
    assert sorted(kind for kind, _, _ in found(fixed).values()) == [
        "not_credited",
        "not_taken_back",
    ]
    assert shop.ledger(user) == [USES, -USES // 2]


# At the same time, and again


def test_two_runs_beside_the_webhook_credit_and_take_back_once(shop: Shop) -> None:
    users = [unique(f"user{number}") for number in range(12)]
    payments = [shop.buy(user, attached=number % 2 == 0) for number, user in enumerate(users)]
    double = shop.double
    for payment in payments[:4]:
        double.refund(payment, 250)
    events = [double.succeeded_event(payment) for payment in payments]
    events += [double.refunded_event(payment) for payment in payments[:4]]
    selling = running_service(shop.database, ENCRYPTION_KEY=KEY, STRIPE_API_BASE=double.base_url)
    with selling as service, ThreadPoolExecutor(10) as threads:
        first = double.on("GET", "/v1/charges$", HoldAfter())
        second = double.on("GET", "/v1/charges$", HoldAfter())
        runs = [threads.submit(shop.run, "--fix", "--json") for _ in range(2)]
        assert first.reached.wait(30)
        assert second.reached.wait(30)
        posted = [
            threads.submit(double.deliver, service.base_url, event)
            for event in [*events[::-1], *events]
        ]
        first.release()
        second.release()
        statuses = {answer.result().status_code for answer in posted}
    assert statuses == {200}
    for one in runs:
        assert one.result().returncode == 0, one.result().stderr
    for number, user in enumerate(users):
        assert sorted(shop.ledger(user)) == ([-USES // 2, USES] if number < 4 else [USES])
    shop.agrees(12, returns=4)


def test_a_run_that_was_killed_midway_is_finished_by_the_next(shop: Shop) -> None:
    users = [unique(f"user{number}") for number in range(6)]
    payments = [shop.buy(user) for user in users]
    for payment in payments[:3]:
        shop.double.refund(payment)
    command = [BILLING, "reconcile", "stripe", "--since", day(1), "--fix"]
    # While the command asks for the newest payment but two, and again before the returns.
    for path in (f"/v1/payment_intents/{payments[3]}$", "/v1/refunds$"):
        hold = shop.double.on("GET", path, HoldBefore())
        process = Process(command, shop.environment()).start()
        assert hold.reached.wait(30), process.output
        assert process.stop(signal.SIGKILL) == -signal.SIGKILL
        hold.release()
        assert shop.verify() == []
        credited = [shop.ledger(user) for user in users]
        assert all(amounts in ([], [USES]) for amounts in credited)
        assert credited.count([USES]) == (2 if "intents" in path else 6)
    shop.report(0, "--fix")
    assert [sum(shop.ledger(user)) for user in users] == [0, 0, 0, USES, USES, USES]
    assert sum(len(shop.ledger(user)) for user in users) == 9
    shop.agrees(6, returns=3)


def test_a_run_whose_database_goes_away_says_so_and_the_next_one_finishes(shop: Shop) -> None:
    users = [unique(f"user{number}") for number in range(3)]
    payments = [shop.buy(user) for user in users]
    hold = shop.double.on("GET", f"/v1/payment_intents/{payments[1]}$", HoldAfter())
    name = shop.database.name
    with ThreadPoolExecutor(1) as threads:
        midway = threads.submit(shop.run, "--fix")
        assert hold.reached.wait(30)
        admin = Database(shop.database.cluster, "postgres")
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        hold.release()
        message = refused(midway.result(), 1)
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert "database" in message
    assert sum(map(len, map(shop.ledger, users))) == 1
    shop.report(0, "--fix")
    assert [shop.ledger(user) for user in users] == [[USES]] * 3
