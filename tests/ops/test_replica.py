"""A real streaming replica: what is read there, that its lag or absence breaks nothing, and that it
takes over without losing acknowledged writes."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import psutil
import pytest

from server.staff.admin_token import issue_token
from tests.ops.load import Load, account_with_credits
from tests.ops.proxy import TcpProxy, service_behind, socket_of
from tests.replica import ReplicaCluster, socket_folder
from tests.support import (
    BILLING,
    TEMPLATE,
    Database,
    Service,
    TestCluster,
    charge_body,
    clean_environment,
    free_port,
    identity,
    running_service,
    unique,
    wait_for,
)

SECRET = "0123456789abcdef-of-the-tests-only"
CHARGES = "/v1/billing/charges"
HISTORY = "/v1/billing/transactions"


@pytest.fixture(scope="module")
def replica() -> Iterator[ReplicaCluster]:
    """A primary with a replica, for this module alone."""
    with tempfile.TemporaryDirectory(prefix="ciris-test-") as folder:
        primary = TestCluster(Path(folder, "primary"), 18)
        try:
            replica = ReplicaCluster(primary, Path(folder, "replica"), "replica1")
            yield replica
            replica.stop()
        finally:
            primary.stop()


@pytest.fixture
def database(replica: ReplicaCluster) -> Iterator[Database]:
    """A migrated database that the replica also has."""
    with replica.primary.database() as database:
        replica.catch_up(database)
        yield database
        # Sessions on the replica would prevent it from dropping the database.
        replica.cluster.start()
        with contextlib.suppress(Exception):
            replica.twin(database).execute("SELECT pg_wal_replay_resume()")


@contextlib.contextmanager
def reading_service(
    database: Database, replica: ReplicaCluster, **environment: Any
) -> Iterator[Service]:
    """A server that reads from the replica."""
    url = replica.dsn(database.name, "t_web")
    with running_service(
        database, DATABASE_READ_URL=url, ADMIN_JWT_SECRET=SECRET, **environment
    ) as service:
        yield service


def wait_until_reading(service: Service, times: int = 1) -> None:
    """Returns once the server has found the replica good, for the `times`-th time."""
    wait_for(
        lambda: service.process.output.count("reads that may be stale go to the replica") >= times,
        "the replica to be used",
    )


def history(client: httpx2.Client, user: str) -> int:
    """How many transactions the user's history shows."""
    answer = client.get(HISTORY, params=identity(user))
    assert answer.status_code == 200, answer.text
    return int(answer.json()["total_count"])


def charge(client: httpx2.Client, user: str) -> None:
    answer = client.post(CHARGES, json=charge_body(user))
    assert answer.status_code == 201, answer.text


def lag(service: Service) -> float:
    """The value of the gauge."""
    text = httpx2.get(f"{service.base_url}/metrics", verify=False).text
    [line] = [line for line in text.splitlines() if line.startswith("billing_replica_lag_seconds")]
    return float(line.split()[-1])


@contextlib.contextmanager
def paused(replica: ReplicaCluster, database: Database) -> Iterator[None]:
    """Pauses the replica: what is committed now is not visible there."""
    replica.catch_up(database)
    twin = replica.twin(database)
    twin.execute("SELECT pg_wal_replay_pause()")
    wait_for(lambda: twin.value("SELECT pg_get_wal_replay_pause_state()") == "paused", "the pause")
    try:
        yield
    finally:
        twin.execute("SELECT pg_wal_replay_resume()")


def test_history_and_lists_come_from_the_replica_and_decisions_never_do(
    database: Database, replica: ReplicaCluster
) -> None:
    database.execute(
        "SELECT billing.add_admin(p_email => 'other@ciris.ai', p_full_name => 'Other Example',"
        " p_role => 'admin')",
        user="t_dba",
    )
    staff = database.value(
        "SELECT admin_user_id FROM billing.add_admin(p_email => 'ada@ciris.ai',"
        " p_full_name => 'Ada Example', p_role => 'admin')",
        user="t_dba",
    )
    token = database.know_token(
        issue_token(SECRET, str(staff), "ada@ciris.ai", "admin", datetime.now(UTC)), "ada@ciris.ai"
    )
    bearer = {"Authorization": f"Bearer {token}"}
    with reading_service(database, replica, READ_MAX_LAG="600") as service:
        user = account_with_credits(service, 2)
        revoked = database.create_key(name="soon revoked")
        replica.catch_up(database)
        wait_until_reading(service)
        with service.client() as client, service.client(revoked) as other:
            before = history(client, user)
            overview = client.get("/admin/api/analytics/overview", headers=bearer).json()
            assert history(other, user) == before
            with paused(replica, database):
                charge(client, user)
                # Nothing that decides is stale: the second credit is the last one.
                charge(client, user)
                check = client.post("/v1/billing/credits/check", json=identity(user)).json()
                assert (check["has_credit"], check["credits_remaining"]) == (False, 0)
                assert client.post(CHARGES, json=charge_body(user)).status_code == 402
                account = client.get(f"/v1/billing/accounts/oauth:google/{user}").json()
                assert account["paid_credits"] == 0
                # What may be stale is stale: it comes from the paused replica.
                assert history(client, user) == before
                newcomer = account_with_credits(service, 2)
                again = client.get("/admin/api/analytics/overview", headers=bearer).json()
                assert again["total_users"] == overview["total_users"]
                listed = client.get(
                    "/admin/api/users", params={"search": newcomer}, headers=bearer
                ).json()
                assert newcomer not in str(listed)
                # A revocation takes effect at once, and a key that the replica does not have yet is
                # valid.
                database.execute(
                    "SELECT billing.revoke_api_key(p_api_key_id => %s)", revoked.id, user="t_dba"
                )
                refused = other.get(HISTORY, params=identity(user))
                assert (refused.status_code, refused.json()["code"]) == (401, "api_key_invalid")
                with service.client(database.create_key(name="new")) as new:
                    # Unknown to the replica, so the primary answers.
                    assert history(new, newcomer) > 0
                database.execute(
                    "SELECT billing.set_admin(p_email => 'ada@ciris.ai', p_reason => 'left',"
                    " p_is_active => false)",
                    user="t_dba",
                )
                gone = client.get("/admin/api/analytics/overview", headers=bearer)
                assert gone.status_code == 403
            wait_for(lambda: history(client, user) == before + 2, "the replica to go on")


def test_a_replica_too_far_behind_is_not_asked_until_it_has_caught_up(
    database: Database, replica: ReplicaCluster
) -> None:
    with reading_service(database, replica, READ_MAX_LAG="2") as service:
        user = account_with_credits(service, 100)
        replica.catch_up(database)
        wait_until_reading(service)
        with service.client() as client:
            assert lag(service) < 2
            with paused(replica, database):
                before = history(client, user)
                charge(client, user)
                assert history(client, user) == before
                wait_for(lambda: history(client, user) == before + 1, "the primary to be asked")
                assert wait_for(lambda: lag(service) > 2, "the gauge to show it")
            wait_until_reading(service, 2)
            assert lag(service) < 2


def test_a_replica_that_is_away_or_silent_costs_no_answer(
    database: Database, replica: ReplicaCluster, tmp_path: Path
) -> None:
    replica.cluster.stop()
    # The replica is not even there when the server starts.
    secret = tmp_path / "read_url"
    host = quote(str(replica.cluster.directory / "run"))
    secret.write_text(f"postgresql://t_web@/{database.name}?host={host}\n")
    with running_service(database, DATABASE_READ_URL_FILE=str(secret)) as service:
        user = account_with_credits(service)
        with service.client() as client:

            def all_is_well(seconds: float) -> float:
                """Reads and charges for this many seconds; returns the longest time one request
                took."""
                longest = 0.0
                ends = time.monotonic() + seconds
                while time.monotonic() < ends:
                    began = time.monotonic()
                    known = history(client, user)
                    charge(client, user)
                    assert known > 0
                    longest = max(longest, time.monotonic() - began)
                return longest

            all_is_well(0.5)
            replica.cluster.start()
            wait_until_reading(service)
            all_is_well(0.5)
            replica.cluster.kill()
            all_is_well(1.5)
            replica.cluster.start()
            wait_until_reading(service, 2)
            all_is_well(0.5)
            frozen = replica.processes()
            for process in frozen:
                process.suspend()
            try:
                longest = all_is_well(4)
            finally:
                for process in frozen:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.resume()
            assert longest < 5, longest  # and not once a second
            wait_until_reading(service, 3)
            all_is_well(0.5)
        assert '"level":"ERROR"' not in service.process.output
    assert database.execute("SELECT * FROM billing.verify_ledger()") == []


def test_a_server_does_not_start_with_a_standby(
    database: Database, replica: ReplicaCluster
) -> None:
    standby = replica.dsn(database.name, "t_web")
    for url, reason in (
        (f"{standby}&target_session_attrs=read-write", "TargetServerAttributeNotMatched"),
        (standby, "the database is a standby, or made read-only"),
    ):
        started = subprocess.run(
            [BILLING, "serve", "--port", str(free_port())],
            check=False,
            env={**clean_environment(), "DATABASE_URL": url},
            capture_output=True,
            text=True,
        )
        assert (started.returncode, started.stderr.count("\n")) == (1, 1), started.stderr
        assert reason in started.stderr


async def test_a_server_that_is_led_to_a_standby_for_a_while_says_so_and_goes_on(
    database: Database, replica: ReplicaCluster
) -> None:
    replica.catch_up(database)
    primary, standby = (socket_of(each) for each in (database.dsn(), replica.dsn(database.name)))
    async with (
        TcpProxy(primary).running() as proxy,
        service_behind(proxy, database) as (service, _),
    ):
        with service.client() as client:

            async def post(path: str, body: dict[str, Any]) -> httpx2.Response:
                return await asyncio.to_thread(client.post, path, json=body)

            user = unique()
            check = ("/v1/billing/credits/check", identity(user))
            assert (await post(*check)).status_code == 200
            for _ in range(2):
                proxy.upstream = standby
                proxy.cut()
                answers = [await post(*check), await post(CHARGES, charge_body(user))]
                answers += [await post("/v1/billing/accounts", identity(unique()))] * 3
                for answer in answers[1:]:  # the first one may have used a connection that was cut
                    assert answer.status_code == 503, answer.text
                    assert "Retry-After" in answer.headers
                health = await asyncio.to_thread(client.get, "/health")
                assert health.status_code == 503
                assert "cannot write" in health.json()["detail"]["error"]
                proxy.upstream = primary  # the connections stay with the same server
                assert (await post(*check)).status_code == 200
                assert (await post(CHARGES, charge_body(user))).status_code == 201
                health = await asyncio.to_thread(client.get, "/health")
                assert health.status_code == 200


async def test_a_promoted_replica_has_all_that_was_acknowledged() -> None:
    """With synchronous replication. One URL names both servers, so the service finds the new
    primary by itself."""
    with tempfile.TemporaryDirectory(prefix="ciris-test-") as folder:
        primary = TestCluster(Path(folder, "primary"), 18)
        replica = ReplicaCluster(primary, Path(folder, "replica"), "replica1")
        try:
            # The template itself is used: nobody clones it here.
            database = Database(primary, TEMPLATE)
            database.execute("ALTER SYSTEM SET synchronous_standby_names = 'replica1'")
            database.execute("SELECT pg_reload_conf()")
            wait_for(
                lambda: database.value("SELECT sync_state FROM pg_stat_replication") == "sync",
                "synchronous replication",
            )
            hosts = ",".join(
                quote(socket_folder(cluster.dsn("postgres"))) for cluster in (primary, replica)
            )
            url = (
                f"postgresql://t_web@/{TEMPLATE}?host={hosts}&port=5432,5432"
                "&target_session_attrs=read-write"
            )
            with running_service(
                database, DATABASE_URL=url, workers=2, STATEMENT_TIMEOUT="2", LOCK_TIMEOUT="0.5"
            ) as service:
                users = [account_with_credits(service) for _ in range(6)]
                # While the only synchronous replica is silent, nothing is acknowledged.
                frozen = replica.processes()
                for process in frozen:
                    process.suspend()
                with service.client() as client:
                    body = charge_body(users[0], idempotency_key=unique())
                    assert client.post(CHARGES, json=body).status_code == 503
                for process in frozen:
                    process.resume()
                load = Load(service, users, insist=True)
                async with load.running():
                    await load.more_answers(300)
                    await asyncio.to_thread(primary.cluster.kill)
                    acknowledged = len(load.charged)
                    load.statuses.clear()
                    async with asyncio.timeout(20):  # for a while only the standby is there
                        while load.statuses[503] < 10:
                            await asyncio.sleep(0.02)
                    promoted = replica.twin(database)
                    promoted.execute("SELECT pg_promote()")
                    await load.more_answers(100)
                print(f"acknowledged before: {acknowledged}, answered: {dict(load.statuses)}")
                load.check_against(promoted)
                verified = subprocess.run(
                    [BILLING, "verify"],
                    check=False,
                    env={**clean_environment(), "DATABASE_URL": url.replace("t_web", "t_dba")},
                    capture_output=True,
                    text=True,
                )
                assert verified.returncode == 0, verified.stderr
                assert verified.stdout.startswith("The books agree.\n")
        finally:
            replica.stop()
            primary.stop()
