"""/metrics of several worker processes: names, sums, and labels that cannot grow."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import prometheus_client
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from server.observe import metrics
from server.routes import ROUTES
from tests.http.contract import ACCOUNTS, BATCH, CHARGES, CHECK, CREDITS, TRANSACTIONS
from tests.http.metrics import Labels, Metrics, read
from tests.support import (
    Database,
    Key,
    Service,
    charge_body,
    credit_body,
    held_account,
    identity,
    running_service,
    unique,
    wait_for,
    worker_pids,
)

WORKERS = 3


NAMES = {
    "billing_service_info": "gauge",
    "billing_http_requests_total": "counter",
    "billing_http_request_duration_seconds": "histogram",
    "billing_http_requests_in_progress": "gauge",
    "billing_credit_checks_total": "counter",
    "billing_credit_check_duration_seconds": "histogram",
    "billing_charges_total": "counter",
    "billing_charge_amount_minor": "histogram",
    "billing_charge_duration_seconds": "histogram",
    "billing_outbox_waiting": "gauge",
    "billing_outbox_overdue_seconds": "gauge",
    "billing_outbox_failed": "gauge",
    "billing_top_ups_total": "counter",
    "billing_webhook_deliveries_total": "counter",
    "billing_holds_total": "counter",
    "billing_hold_duration_seconds": "histogram",
    "billing_holds_open": "gauge",
    "billing_credits_held": "gauge",
    "billing_holds_overdue_seconds": "gauge",
    "billing_holds_expired": "gauge",
    "billing_credits_added_total": "counter",
    "billing_credit_amount_minor": "histogram",
    "billing_accounts_created_total": "counter",
    "billing_account_balance_minor": "histogram",
    "billing_payment_provider_duration_seconds": "histogram",
    "billing_payment_events_total": "counter",
    "billing_payment_problems": "gauge",
    "billing_db_connections_active": "gauge",
    "billing_db_connections_max": "gauge",
    "billing_db_queue_full_total": "counter",
    "billing_db_queue_max": "gauge",
    "billing_db_requests_waiting": "gauge",
    "billing_ledger_checked_timestamp_seconds": "gauge",
    "billing_ledger_problems": "gauge",
    "billing_ledger_sealed_timestamp_seconds": "gauge",
    "billing_ledger_seals_behind": "gauge",
    "billing_ledger_verified_timestamp_seconds": "gauge",
    "billing_ledger_mismatches": "gauge",
    "billing_replica_lag_seconds": "gauge",
    "billing_db_queries_total": "counter",
    "billing_db_write_verifications_total": "counter",
    "billing_errors_total": "counter",
}


EMAIL = "ada.lovelace@example.com"


HOLDS = "/v1/billing/holds"
USERS = 20


MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Traffic:
    """The requests to a fresh service, and its metrics afterwards."""

    service: Service
    key: Key
    users: list[str]
    metrics: Metrics
    account_id: str


@pytest.fixture(scope="module")
def traffic(module_database: Database) -> Iterator[Traffic]:
    """20 users of several workers: each checks, uses up 3 free uses, is refused, is granted 10,
    pays 4, repeats that charge, holds and releases 2, is refused a hold; 5 of them are denied a
    check."""
    with running_service(module_database, workers=WORKERS) as service:
        users = [unique("metrics") for _ in range(USERS)]
        account_id = asyncio.run(_send(service, users))
        yield Traffic(service, service.key, users, read(service), account_id)


async def _send(service: Service, users: list[str]) -> str:
    headers = {"X-API-Key": service.key.secret}

    async def post(
        session: aiohttp.ClientSession, path: str, body: object, status: int, **more: str
    ) -> dict[str, str]:
        async with session.post(path, json=body, headers={**headers, **more}) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json()

    async def session_of(number: int, user: str) -> str:
        # New connections, so that every worker gets some of the work.
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(service.base_url, connector=connector) as session:
            check = {**identity(user), "customer_email": EMAIL}
            await post(session, CHECK, check, 200)
            for _ in range(3):
                await post(session, CHARGES, charge_body(user), 201)
            await post(session, CHARGES, charge_body(user), 402)
            if number < 5:
                await post(session, CHECK, check, 200)  # denied
            await post(session, CREDITS, credit_body(user, 10), 201)
            paid = charge_body(user, 4)
            await post(session, CHARGES, paid, 201, **{"Idempotency-Key": "one"})
            await post(session, CHARGES, paid, 201, **{"Idempotency-Key": "one"})
            other = {**paid, "description": "another"}
            await post(session, CHARGES, other, 422, **{"Idempotency-Key": "one"})
            hold = await post(session, HOLDS, {**identity(user), "amount_minor": 2}, 201)
            await post(session, f"{HOLDS}/{hold['hold_id']}/release", {}, 200)
            await post(session, HOLDS, {**identity(user), "amount_minor": 7}, 402)
            async with session.get(TRANSACTIONS, params=identity(user), headers=headers) as answer:
                assert (await answer.json())["total_count"] == 5
            account = f"{ACCOUNTS}/oauth:google/{user}"
            async with session.get(account, headers=headers) as answer:
                return str((await answer.json())["account_id"])

    ids = await asyncio.gather(*(session_of(number, user) for number, user in enumerate(users)))
    async with aiohttp.ClientSession(service.base_url) as session:
        await post(session, ACCOUNTS, identity(unique()), 201)
        known = {"charges": [charge_body(users[0]), charge_body("nobody"), charge_body(users[1])]}
        await post(session, BATCH, known, 200)
        await post(session, CHECK, {}, 422)
        await post(session, CHECK, {}, 401, **{"X-API-Key": "cbk_test_of_nobody"})
    return str(ids[0])


def test_every_name_of_the_contract_is_there_with_help_and_type(traffic: Traffic) -> None:
    lines = traffic.metrics.text.splitlines()
    for name, kind in NAMES.items():
        assert f"# TYPE {name} {kind}" in lines
        [help_line] = [line for line in lines if line.startswith(f"# HELP {name} ")]
        assert len(help_line) > len(f"# HELP {name} ")
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE ")}
    assert {name for name in typed if name.startswith("billing_")} == set(NAMES)


def test_requests_of_all_workers_add_up(traffic: Traffic) -> None:
    requests = "billing_http_requests_total"
    metrics = traffic.metrics
    for endpoint, method, statuses in (
        (CHECK, "POST", {"200": USERS + 5, "422": 1, "401": 1}),
        (CHARGES, "POST", {"201": USERS * 5, "402": USERS, "422": USERS}),
        (CREDITS, "POST", {"201": USERS}),
        (BATCH, "POST", {"200": 1}),
        (ACCOUNTS, "POST", {"201": 1}),
        (TRANSACTIONS, "GET", {"200": USERS}),
        (ACCOUNTS + "/{oauth_provider}/{external_id}", "GET", {"200": USERS}),
    ):
        found = {
            dict(labels)["status"]: value
            for labels, value in metrics.samples[requests].items()
            if {("endpoint", endpoint), ("method", method)} <= labels
        }
        assert found == statuses, endpoint
        duration = "billing_http_request_duration_seconds_count"
        assert metrics.sum(duration, endpoint=endpoint) == sum(statuses.values())
    # The request for the metrics itself.
    assert metrics.sum("billing_http_requests_in_progress") == 1
    assert metrics.sum("billing_service_info") == 1


def test_checks_of_all_workers_add_up(traffic: Traffic) -> None:
    metrics = traffic.metrics
    by_result = metrics.by("billing_credit_checks_total", "result")
    assert by_result == {"allowed": USERS, "denied": 5}
    assert metrics.sum("billing_credit_check_duration_seconds_count") == USERS + 5
    assert metrics.sum("billing_accounts_created_total") == USERS + 1


def test_charges_of_all_workers_add_up(traffic: Traffic) -> None:
    metrics = traffic.metrics
    assert metrics.by("billing_charges_total", "outcome") == {
        "created": USERS * 4 + 2,
        "insufficient_credits": USERS,
        "replayed": USERS,
        "conflict": USERS,
        "account_not_found": 1,
    }
    assert metrics.sum("billing_charge_amount_minor_count") == USERS * 4 + 2
    assert metrics.sum("billing_charge_amount_minor_sum") == USERS * (3 + 4) + 2
    assert metrics.sum("billing_charge_duration_seconds_count") == USERS * 7


def test_holds_of_all_workers_add_up(traffic: Traffic) -> None:
    metrics = traffic.metrics
    outcomes = metrics.by("billing_holds_total", "outcome")
    assert outcomes == {"created": 2 * USERS, "insufficient_credits": USERS}
    assert metrics.sum("billing_holds_total", operation="release") == USERS
    assert metrics.sum("billing_hold_duration_seconds_count") == 2 * USERS


def test_credits_of_all_workers_add_up(traffic: Traffic) -> None:
    metrics = traffic.metrics
    added = metrics.by("billing_credits_added_total", "transaction_type")
    assert added == {"grant": USERS}
    assert metrics.sum("billing_credit_amount_minor_count") == USERS
    assert metrics.sum("billing_credit_amount_minor_sum") == USERS * 10
    ledger_rows = USERS * 4 + 2 + USERS
    assert metrics.sum("billing_account_balance_minor_count") == ledger_rows
    assert metrics.sum("billing_account_balance_minor_sum") == USERS * (10 + 6) + 5 + 5
    verified = metrics.by("billing_db_write_verifications_total", "result")
    assert verified == {"confirmed": ledger_rows, "unknown": 0}


def test_errors_and_database_calls_of_all_workers_add_up(traffic: Traffic) -> None:
    metrics = traffic.metrics
    assert metrics.by("billing_errors_total", "code") == {
        "insufficient_credits": 2 * USERS,
        "idempotency_key_reused": USERS,
        "account_not_found": 1,
        "validation_error": 1,
        "api_key_invalid": 1,
    }
    queries = "billing_db_queries_total"
    assert metrics.sum(queries, function="record_credit", result="success") == USERS
    assert metrics.sum(queries, function="get_account", result="success") == USERS
    # Calls for batches: at least one, at most one for each charge.
    assert 1 <= metrics.sum(queries, function="create_charges") <= USERS * 7 + 1
    assert set(metrics.by(queries, "result")) == {"success"}


def test_what_the_database_has_is_what_was_counted(traffic: Traffic) -> None:
    row = traffic.service.database.execute(
        "SELECT (SELECT count(*) FROM billing_data.charges),"
        " (SELECT sum(amount_minor) FROM billing_data.charges)::bigint,"
        " (SELECT count(*) FROM billing_data.credits),"
        " (SELECT count(*) FROM billing_data.accounts),"
        " (SELECT count(*) FROM billing_data.credit_checks)"
    )[0]
    metrics = traffic.metrics
    assert row == (
        metrics.sum("billing_charges_total", outcome="created"),
        metrics.sum("billing_charge_amount_minor_sum"),
        metrics.sum("billing_credits_added_total"),
        metrics.sum("billing_accounts_created_total"),
        metrics.sum("billing_credit_checks_total"),
    )


def _odd_request(service: Service, method: str, path: str) -> int:
    """The status of a request that no client library would send."""
    host, _, port = service.base_url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
        key = f"X-API-Key: {service.key.secret}\r\nContent-Length: 0\r\n\r\n"
        connection.sendall((head + key).encode())
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return int(answer.split()[1])


def _odd_requests(service: Service, token: str) -> None:
    methods = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "PROPFIND", "BREW")
    paths = (
        f"/{token}",
        f"/v1/billing/{token}",
        f"/v1/billing/charges/{token}",
        f"/v1/billing/accounts/oauth:{token}/{token}",
        f"/v1/billing/accounts/oauth%3A{token}/a%2F{token}%22%0A",
        f"/static/{token}.css",
        f"/static/..%2F{token}",
        f"/metrics/{token}",
        f"/health?{token}={token}",
        f"//{token}//",
        f"/{token}/",
        f"/%00{token}",
        f"http://{token}.example.com/{token}",
        "/v1/billing/charges",
    )
    for path in paths:
        for method in methods:
            assert 200 <= _odd_request(service, method, path) < 500
            assert 200 <= _odd_request(service, f"{method[:2]}{token.upper()}", path) < 500


def test_labels_are_closed_sets_whatever_is_asked_for(traffic: Traffic) -> None:
    service = traffic.service
    _odd_requests(service, "first")
    before = read(service)
    for number in range(3):
        _odd_requests(service, f"again{number}")
    after = read(service)
    assert after.series == before.series
    for labels in after.samples["billing_http_requests_total"]:
        values = dict(labels)
        assert values["endpoint"] in {route.path for route in ROUTES} | {"unmatched"}
        assert values["method"] in {
            *("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "other"),
        }
        assert re.fullmatch(r"[1-5]\d\d", values["status"])
    assert after.sum("billing_http_requests_total", endpoint="unmatched") > 50


def test_no_label_tells_who_a_request_was_about(traffic: Traffic) -> None:
    with traffic.service.client() as client:
        for user in (*traffic.users, "nobody"):
            client.get(f"{ACCOUNTS}/oauth:google/{user}", headers={"User-Agent": user})
    text = read(traffic.service).text
    for private in (
        *(EMAIL, traffic.key.secret, traffic.key.prefix, traffic.key.id, traffic.account_id),
        *("nobody", "metrics-", "oauth:", "127.0.0.1"),
    ):
        assert private not in text


def test_an_endpoint_is_known_by_its_template(traffic: Traffic) -> None:
    before = read(traffic.service)
    with httpx2.Client(base_url=traffic.service.base_url, verify=False) as client:
        for path in ("/nowhere", "/nowhere/else", "/v1/billing/purchase", "/.env"):
            assert client.get(path).status_code == 404
    after = read(traffic.service)
    requests = "billing_http_requests_total"
    for labels, more in (({"endpoint": "unmatched", "status": "404"}, 4), ({"status": "404"}, 4)):
        assert after.sum(requests, **labels) - before.sum(requests, **labels) == more


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-For": ""},
        {"x-forwarded-for": "10.0.0.1, 198.51.100.7"},
        {"Forwarded": "for=127.0.0.1"},
    ],
)
def test_what_a_proxy_forwards_finds_no_metrics(traffic: Traffic, headers: dict[str, str]) -> None:
    answer = httpx2.get(f"{traffic.service.base_url}/metrics", headers=headers, verify=False)
    assert answer.status_code == 404
    assert answer.json()["detail"] == "Not Found"
    assert "billing_" not in answer.text


async def test_workers_stay_small(traffic: Traffic) -> None:
    service, requests = traffic.service, 3000
    headers = {"X-API-Key": service.key.secret}
    connector = aiohttp.TCPConnector(limit=30)
    async with aiohttp.ClientSession(
        service.base_url, connector=connector, headers=headers
    ) as session:

        async def one(number: int) -> None:
            body = identity(f"small-{number % 500}")
            path = CHARGES if number % 3 == 2 else CHECK
            if path == CHARGES:
                body = charge_body(body["external_id"])
            async with session.post(path, json=body) as answer:
                await answer.read()
                assert answer.status in (200, 201, 402, 404)

        for start in range(0, requests, 500):
            await asyncio.gather(*(one(number) for number in range(start, start + 500)))
    sizes = [
        psutil.Process(pid).memory_info().rss / MEGABYTE for pid in worker_pids(service.process)
    ]
    print(f"resident after {requests} requests: {', '.join(f'{size:.0f} MB' for size in sizes)}")
    assert len(sizes) == WORKERS
    assert max(sizes) < 120


def foreground(metrics: Metrics, name: str) -> dict[Labels, float]:
    """The series of `name` without the calls that workers make by themselves every few seconds."""
    background = {
        ("function", name)
        for name in (
            "record_api_key_use", "create_check_partitions", "claim_deliveries", "claim_top_ups",
            "announce_expiring_credits", "tidy_holds", "watch_holds",
        )
    }  # fmt: skip
    return {
        labels: value for labels, value in metrics.samples[name].items() if not labels & background
    }


def test_counts_survive_a_killed_worker(traffic: Traffic) -> None:
    service = traffic.service
    before = read(service)
    victim = min(worker_pids(service.process))
    psutil.Process(victim).kill()
    wait_for(lambda: len(worker_pids(service.process) - {victim}) == WORKERS, "a new worker")

    def unconnected() -> Metrics | None:
        try:
            return read(service)
        except httpx2.TransportError:  # it was a connection of the killed worker
            return None

    after = wait_for(unconnected, "/metrics")
    for name in NAMES:
        if name.endswith("_total") and name != "billing_http_requests_total":
            assert foreground(after, name) == foreground(before, name)
    for name in ("billing_charge_amount_minor_sum", "billing_credit_check_duration_seconds_count"):
        assert after.sum(name) == before.sum(name)
    requests = "billing_http_requests_total"
    assert after.sum(requests, endpoint=CHECK) == before.sum(requests, endpoint=CHECK)
    assert after.sum("billing_http_requests_in_progress") == 1
    assert after.sum("billing_service_info") == 1


def test_what_waits_and_what_is_refused_because_too_much_waits_is_counted(
    database: Database,
) -> None:
    with running_service(database, MAX_QUEUE="3", LOCK_TIMEOUT="20") as service:
        user = unique("queued")
        with service.client() as client:
            assert client.post(CHECK, json=identity(user)).status_code == 200
        before = read(service)
        assert before.sum("billing_db_queue_max") == 3
        assert before.sum("billing_db_queue_full_total") == 0

        async def charge_at_once(count: int) -> list[int]:
            async with service.async_client() as client:
                requests = [client.post(CHARGES, json=charge_body(user)) for _ in range(count)]
                return [answer.status_code for answer in await asyncio.gather(*requests)]

        with held_account(database, user) as holder, ThreadPoolExecutor() as pool:
            waiting = "billing_db_requests_waiting"
            held = pool.submit(asyncio.run, charge_at_once(3))
            wait_for(lambda: read(service).sum(waiting, kind="charges") == 3, "three to wait")
            assert asyncio.run(charge_at_once(5)) == [503] * 5
            assert read(service).sum("billing_db_queue_full_total") == 5
            holder.rollback()
            assert held.result() == [201] * 3
        wait_for(lambda: read(service).sum(waiting) == 0, "nothing to wait")


def test_counts_of_a_worker_that_is_told_to_end_are_not_lost(database: Database) -> None:
    with running_service(database, workers=1) as service, service.client() as client:
        body = identity(unique())
        for _ in range(5):
            assert client.post(CHECK, json=body).status_code == 200
        [worker] = worker_pids(service.process)
        psutil.Process(worker).terminate()
        wait_for(lambda: worker_pids(service.process) - {worker}, "another worker")
        assert read(service).sum("billing_http_requests_total", endpoint=CHECK) == 5


@given(
    st.lists(
        st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.5, 10.0]), st.floats(0, 1e6)), max_size=300
    )
)
def test_what_is_summed_in_memory_gives_the_series_that_the_library_would_give(
    amounts: list[float],
) -> None:
    def series(kind: Any) -> list[Any]:
        registry = CollectorRegistry()
        counter = kind.Counter("c", "c", ["label"], registry=registry)
        histogram = kind.Histogram("h", "h", ["label"], buckets=(0, 1, 2.5, 10), registry=registry)
        for number, amount in enumerate(amounts):
            counter.labels(str(number % 2)).inc(amount)
            histogram.labels(str(number % 2)).observe(amount)
            if number % 100 == 50:
                metrics.flush()
        metrics.flush()
        return [
            (sample.name, sample.labels, pytest.approx(sample.value))
            for family in registry.collect()
            for sample in family.samples
            if not sample.name.endswith("_created")
        ]

    assert series(metrics) == series(prometheus_client)


def test_a_gauge_that_is_told_late_tells_its_newest_value() -> None:
    registry = CollectorRegistry()
    gauge = metrics.SummedGauge("g", "g", registry=registry)
    for step in (gauge.inc, gauge.inc, gauge.dec):
        step()
    assert registry.get_sample_value("g") == 0
    metrics.flush()
    assert registry.get_sample_value("g") == 1
    gauge.set(7)
    metrics.flush()
    assert registry.get_sample_value("g") == 7


def test_a_new_process_does_not_count_again_what_its_parent_counted(tmp_path: Path) -> None:
    script = """
import os
from server.observe import metrics
metrics.count_check("allowed").inc()
child = os.fork()
metrics.flush()
if child:
    os.waitpid(child, 0)
    print(metrics.render().decode())
"""
    answer = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Metrics(answer.stdout).sum("billing_credit_checks_total") == 1
