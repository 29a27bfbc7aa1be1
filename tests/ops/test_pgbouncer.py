"""Behaviour that shows only through a real PgBouncer in transaction mode. `make test-pgbouncer`
runs all tests of the API through it as well."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator

import psycopg
import pytest

from tests.ops.load import Load, account_with_credits
from tests.pgbouncer import PgBouncer, running_pgbouncer, want_pgbouncer
from tests.support import (
    BILLING,
    Database,
    Service,
    charge_body,
    clean_environment,
    held_account,
    running_service,
    wait_for,
)

POOL = 3
CHARGES = "/v1/billing/charges"


@pytest.fixture(scope="module")
def bouncer(module_database: Database) -> Iterator[PgBouncer]:
    """A PgBouncer with few server connections, so that sessions share them."""
    want_pgbouncer()
    with running_pgbouncer(module_database.dsn(), pool_size=POOL) as bouncer:
        yield bouncer


@pytest.fixture(scope="module")
def pooled(module_database: Database, bouncer: PgBouncer) -> Iterator[Service]:
    """A server with two workers that share them."""
    with running_service(
        module_database,
        workers=2,
        DATABASE_URL=bouncer.dsn(module_database.name, "t_web"),
        DATABASE_POOLER="transaction",
        LOCK_TIMEOUT="0.5",
    ) as service:
        yield service


def _backends(database: Database, what: str = "count(*)") -> object:
    return database.value(
        f"SELECT {what} FROM pg_stat_activity WHERE usename = 't_web' AND datname = %s",
        database.name,
    )


async def test_few_server_connections_serve_many_and_may_break_without_a_wrong_answer(
    pooled: Service, bouncer: PgBouncer
) -> None:
    database = pooled.database
    users = [account_with_credits(pooled) for _ in range(8)]
    load = Load(pooled, users, clients=48, insist=True)
    async with load.running():
        await load.more_answers(300)
        assert _backends(database) == POOL
        assert set(load.statuses) == {201}
        for _ in range(3):
            for _ in range(5):  # somewhere between BEGIN and the answer to COMMIT
                await asyncio.to_thread(_backends, database, "count(pg_terminate_backend(pid))")
                await asyncio.sleep(0.02)
            await load.more_answers(100)
        for _ in range(3):
            await asyncio.to_thread(bouncer.stop)
            await asyncio.to_thread(bouncer.start)
            await load.more_answers(100)
    print(f"answered: {dict(load.statuses)}")
    assert set(load.statuses) == {201, 503}
    load.check_against(database)


def test_a_held_account_answers_after_the_lock_time_out_and_nothing_lasts_in_the_session(
    pooled: Service, bouncer: PgBouncer
) -> None:
    user = account_with_credits(pooled)
    with pooled.client() as client, held_account(pooled.database, user):
        began = time.monotonic()
        body = {**charge_body(user), "transaction_type": "grant"}
        answer = client.post("/v1/billing/credits", json=body)  # this request waits in the database
        assert answer.status_code == 503, answer.text
        assert 0.4 < time.monotonic() - began < 3
    with psycopg.connect(bouncer.dsn(pooled.database.name, "t_web"), autocommit=True) as connection:
        settings = ("role", "lock_timeout", "statement_timeout", "billing.client_address")
        for name in settings:
            found = connection.execute("SELECT current_setting(%s, true)", (name,)).fetchone()
            assert found is not None
            assert found[0] in (None, "", "none", "0"), name


def test_a_login_that_may_do_everything_gives_its_rights_away(
    module_database: Database, bouncer: PgBouncer
) -> None:
    """Otherwise the functions would take the server for a person and require no key."""
    with running_service(
        module_database,
        DATABASE_URL=bouncer.dsn(module_database.name, "postgres"),
        DATABASE_POOLER="transaction",
    ) as service:
        user = account_with_credits(service)
        with service.client() as client:
            assert client.post(CHARGES, json=charge_body(user)).status_code == 201
        assert "gives them away" in service.process.output
    by = "SELECT count(*) FROM billing_data.charges WHERE database_role IS NOT NULL"
    assert module_database.value(by) == 0


def test_commands_work_through_it_and_migrate_wants_the_database_itself(
    module_database: Database, bouncer: PgBouncer
) -> None:
    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BILLING, *arguments],
            check=False,
            env={
                **clean_environment(),
                "DATABASE_URL": bouncer.dsn(module_database.name, "t_dba"),
                "DATABASE_POOLER": "transaction",
                **environment,
            },
            capture_output=True,
            text=True,
        )

    for arguments in (
        ("keys", "create", "through a pooler"),
        ("keys", "list"),
        ("admins", "list"),
        ("verify",),
    ):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
    refused = run("migrate")
    assert refused.returncode == 2
    assert "MIGRATION_DATABASE_URL is not set" in refused.stderr
    assert run("migrate", MIGRATION_DATABASE_URL=module_database.dsn()).returncode == 0


def test_a_database_that_is_away_behind_it_is_503_soon(pooled: Service, bouncer: PgBouncer) -> None:
    bouncer.stop()
    try:
        with pooled.client() as client:
            began = time.monotonic()
            assert client.get("/health").status_code == 503
            answer = client.post(CHARGES, json=charge_body("nobody"))
            assert answer.status_code == 503, answer.text
            assert time.monotonic() - began < 4
    finally:
        bouncer.start()
    with pooled.client() as client:
        wait_for(lambda: client.get("/health").status_code == 200, "the pooler to be back")
