"""`ciris-billing serve` when its database goes away or is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

import aiohttp
import httpx2
import psutil
import pytest

from tests.ops.load import Load, account_with_credits
from tests.ops.serve.helpers import (
    BATCH,
    CHARGES,
    CHECK,
    CREDITS,
    exceptions,
    session_for,
    timed_post,
)
from tests.support import (
    Database,
    TestCluster,
    charge_body,
    credit_body,
    identity,
    running_service,
    temporary_cluster,
    unique,
    wait_until_healthy,
    worker_pids,
)


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[TestCluster]:
    """A cluster that these tests may stop and kill."""
    with temporary_cluster(18) as cluster:
        yield cluster


@pytest.fixture
def own_database(own_cluster: TestCluster) -> Iterator[Database]:
    """A migrated database in a cluster that may be stopped; it runs again afterwards."""
    with own_cluster.database() as database:
        yield database
        own_cluster.cluster.start()


# The database goes away


@pytest.mark.alone
def test_a_stopped_database_is_a_503_within_a_second_and_mends_itself(
    own_database: Database,
) -> None:
    cluster = own_database.cluster.cluster
    with running_service(own_database, workers=2) as service:
        user = account_with_credits(service)
        workers = worker_pids(service.process)
        unknown = service.key.secret[:-4] + "AAAA"
        with service.client() as client:
            cluster.stop()
            requests = [
                client.build_request("POST", CHECK, json=identity(user)),
                client.build_request("POST", CHARGES, json=charge_body(user)),
                client.build_request("POST", BATCH, json={"charges": [charge_body(user)]}),
                client.build_request("POST", CREDITS, json=credit_body(user)),
                client.build_request("POST", "/v1/billing/accounts", json=identity(unique())),
                client.build_request("GET", f"/v1/billing/accounts/oauth:google/{user}"),
                client.build_request("GET", "/v1/billing/transactions", params=identity(user)),
                client.build_request(
                    "POST", CHECK, json=identity(user), headers={"X-API-Key": unknown}
                ),
                client.build_request("GET", "/health"),
            ]
            for request in requests * 3:
                began = time.monotonic()
                answer = client.send(request)
                assert time.monotonic() - began < 1
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["Retry-After"]) >= 1
                for leak in ("PGSQL", "socket", "asyncpg", "Error", "SQLSTATE", "postgres"):
                    assert leak not in answer.text
                if request.url.path == "/health":
                    detail = answer.json()["detail"]
                    assert set(detail) == {"status", "database", "error", "timestamp"}
                    assert detail["status"] == "unhealthy"
                    assert detail["database"] == "disconnected"
                else:
                    assert isinstance(answer.json()["detail"], str)
                    assert answer.json()["code"] == "unavailable"
            assert client.get("/").status_code == 200

            cluster.start()
            wait_until_healthy(service.base_url, service.process, timeout=5)
            for _ in range(10):
                answer = client.post(CHARGES, json=charge_body(user))
                assert answer.status_code == 201, answer.text
        assert worker_pids(service.process) == workers
    assert own_database.execute("SELECT * FROM billing.verify_ledger()") == []


@pytest.mark.alone
def test_a_database_that_went_silent_fails_the_health_check_within_a_second(
    own_database: Database,
) -> None:
    cluster = own_database.cluster.cluster
    pid = int((cluster.directory / "pg" / "postmaster.pid").read_text().split()[0])
    postmaster = psutil.Process(pid)
    with running_service(own_database) as service:
        frozen = [postmaster, *postmaster.children()]
        try:
            for process in frozen:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend()
            for _ in range(3):
                began = time.monotonic()
                answer = httpx2.get(f"{service.base_url}/health", timeout=10, verify=False)
                assert time.monotonic() - began < 1.5
                assert answer.status_code == 503
                assert answer.json()["detail"]["database"] == "disconnected"
        finally:
            for process in frozen:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()
        wait_until_healthy(service.base_url, service.process, timeout=5)


def test_connections_that_were_cut_while_idle_are_replaced(database: Database) -> None:
    """They are cut by a fail-over, a proxy's time-out or an administrator."""
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
    with running_service(database) as service:
        user = account_with_credits(service)
        answers = []
        with service.client() as client:
            for path, body in ((CHECK, identity(user)), (CHARGES, charge_body(user))) * 10:
                client.post(path, json=body)
                assert (True,) in database.execute(cut, "ciris-billing")
                answers.append(client.post(path, json=body).status_code)
                assert client.post(path, json=body).status_code in (200, 201)
        assert set(answers) <= {200, 201, 503}, (answers, exceptions(service))


@pytest.mark.parametrize("way", ["stop", "crash"])
async def test_a_database_that_restarts_under_load_makes_no_answer_wrong(
    own_database: Database, way: str
) -> None:
    cluster = own_database.cluster.cluster
    with running_service(own_database, workers=2) as service:
        users = [account_with_credits(service) for _ in range(8)]
        keyless_user = account_with_credits(service)
        load = Load(service, users, insist=True)
        keyless: dict[str, int] = {}

        async def charge_without_keys(session: aiohttp.ClientSession) -> None:
            while True:
                description = unique("keyless")
                body = charge_body(keyless_user, description=description)
                keyless[description], _, _ = await timed_post(session, CHARGES, body)

        async with session_for(service) as session, load.running():
            others = [asyncio.create_task(charge_without_keys(session)) for _ in range(4)]
            await load.more_answers(100)
            await asyncio.to_thread(cluster.stop if way == "stop" else cluster.kill)
            await asyncio.to_thread(cluster.start)
            await load.more_answers(100)
            for task in others:
                task.cancel()
            ends = await asyncio.gather(*others, return_exceptions=True)
            assert {type(end) for end in ends} == {asyncio.CancelledError}
    print(f"answered: {dict(load.statuses)}")
    assert load.wrong == [], exceptions(service)
    assert set(load.statuses) == {201, 503}
    assert load.unanswered == set()
    load.check_against(own_database)
    # Without a key nothing may be sent again: a charge is made when it was answered 201, and at
    # most once otherwise.
    rows = own_database.execute(
        "SELECT description, count(*) FROM billing_data.charges"
        " WHERE description LIKE 'keyless-%' GROUP BY 1"
    )
    assert {count for _, count in rows} == {1}
    assert set(keyless.values()) <= {201, 503}
    answered = {description for description, status in keyless.items() if status == 201}
    assert answered
    assert answered <= {description for description, _ in rows}
