"""Connections that break, are lost without notice, or lead to a server that cannot write.

The faults happen at each step of a call, by a proxy between the pool and a real PostgreSQL that
misbehaves at a message of the test's choice. Whatever the step, the caller is told that the
database is unavailable, no connection stays open, and the next call succeeds."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import httpx2
import psycopg
import pytest

from server.gateway.errors import MEANINGS, ReadOnly, Unavailable, translate
from server.gateway.pool import Pool
from server.gateway.pooler import TransactionPool
from tests.ops.load import account_with_credits
from tests.ops.pools import PATIENCE, PID, alive_backends, backend_pid, new_pool, open_connections
from tests.ops.proxy import TcpProxy, service_behind, socket_of
from tests.support import (
    Database,
    TestCluster,
    charge_body,
    held_account,
    identity,
    running_service,
    temporary_cluster,
    wait_for,
)

QUESTION = "SELECT current_user::text AS role, current_setting('billing.client_address', true)"


CLIENT = ("192.0.2.7", "a browser")


_FIELDS = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"


SHUTDOWN = b"E" + struct.pack("!I", 4 + len(_FIELDS)) + _FIELDS


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[TestCluster]:
    """A cluster that these tests may starve and damage."""
    with temporary_cluster(18) as cluster:
        yield cluster


@dataclass
class Interposer:
    """Forwards everything until the server has said `ready_times` times that it is ready for a
    query. Then the fault happens, on that first connection alone."""

    fault: str
    ready_times: int
    upstream: str
    connections: int = 0
    struck: bool = False
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection of the pool."""
        self.connections += 1
        first = self.connections == 1
        self.tasks.add(asyncio.create_task(self._pass_on(reader, writer, first)))

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bool
    ) -> None:
        their_reader, their_writer = await asyncio.open_unix_connection(self.upstream)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._copy_requests(reader, their_writer))
                both.create_task(self._copy_answers(their_reader, writer, first))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            their_writer.close()

    async def _copy_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while piece := await reader.read(65536):
            writer.write(piece)
        raise ConnectionResetError

    async def _copy_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bool
    ) -> None:
        ready = 0
        while True:
            head = await reader.readexactly(5)
            message = head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
            ready += head[:1] == b"Z"
            if first and ready == self.ready_times:
                self.struck = True
                if self.fault == "instead":  # the answer is cut and the connection ends
                    raise ConnectionResetError
                # Both messages go in one write, so that the client has read the farewell before it
                # sends again.
                writer.write(message + (SHUTDOWN if self.fault == "farewell" else b""))
                if self.fault == "cut":
                    raise ConnectionResetError
                await asyncio.Event().wait()  # silent from here on
            writer.write(message)


@contextlib.asynccontextmanager
async def interposed(database: Database, fault: str, ready_times: int) -> AsyncIterator[Any]:
    """An Interposer in front of `database`, and the URL that leads through it."""
    there = urlsplit(database.dsn("t_web"))
    upstream = Path(socket_of(database.dsn("t_web")))
    port = upstream.name.rpartition(".")[2]
    with tempfile.TemporaryDirectory(prefix="ciris-test-") as folder:
        between = Interposer(fault, ready_times, str(upstream))
        server = await asyncio.start_unix_server(between.serve, str(Path(folder, upstream.name)))
        try:
            yield between, f"postgresql://t_web@{there.path}?host={folder}&port={port}"
        finally:
            server.close()
            for task in between.tasks:
                task.cancel()
            await asyncio.gather(*between.tasks, return_exceptions=True)


async def _call(pool: Pool, way: str) -> Any:
    try:
        async with asyncio.timeout(10), pool.connection() as connection:
            if way == "for staff":
                return await pool.fetch_for(connection, CLIENT, QUESTION)
            return await pool.fetch(connection, QUESTION)
    except asyncpg.PostgresError as error:
        raise translate(error) from None  # as the gateway does


async def _at_step(
    database: Database, kind: Callable[..., Pool], way: str, fault: str, step: int
) -> str | None:
    """The name of the exception of the first call. None when the call has fewer steps than the
    fault's."""
    async with interposed(database, fault, step) as (between, url):
        pool = new_pool(kind, url)
        raised = None
        try:
            await _call(pool, way)
        except Unavailable as error:
            raised = type(error).__name__
        if not between.struck:
            assert raised is None
            await pool.close()
            return None
        # The fault may happen after the last statement; then the next call meets it.
        for _ in range(2):
            try:
                rows = await _call(pool, way)
            except Unavailable as error:
                assert raised is None
                raised = type(error).__name__
            else:
                break
        address = CLIENT[0] if way == "for staff" else None
        assert [tuple(row) for row in rows] == [("billing_server", address)]
        assert pool.in_use == 0
        await pool.close()
        return raised or "nothing"


@pytest.mark.parametrize("fault", ["farewell", "cut", "instead", "silence"])
@pytest.mark.parametrize("way", ["for agents", "for staff"])
@pytest.mark.parametrize("kind", [Pool, TransactionPool])
async def test_a_connection_that_breaks_at_any_step_is_unavailable_and_replaced(
    database: Database, kind: Callable[..., Pool], way: str, fault: str
) -> None:
    ends = await asyncio.gather(
        *(_at_step(database, kind, way, fault, step) for step in range(1, 20))
    )
    print(ends)
    struck = [end for end in ends if end is not None]
    assert ends == struck + [None] * (len(ends) - len(struck))
    assert 3 <= len(struck) < len(ends)
    assert set(struck) <= {"Unavailable", "ConnectionLost"}
    # While the connection is set up, no call was sent, so no effect can be unknown.
    assert struck[0] == "Unavailable"


# Connections lost without notice


CHARGES = "/v1/billing/charges"


PROMISED = 5.0  # seconds to the first good answer


async def _charge(session: aiohttp.ClientSession, user: str, key: str | None = None) -> int:
    headers = {"Idempotency-Key": key} if key else {}
    async with session.post(CHARGES, json=charge_body(user), headers=headers) as answer:
        return answer.status


async def _open_many(session: aiohttp.ClientSession, users: list[str]) -> None:
    """Makes the server open connections for every kind of call."""

    async def read(user: str) -> int:
        async with session.get("/v1/billing/transactions", params=identity(user)) as answer:
            return answer.status

    async def credit(user: str) -> int:
        body = {**charge_body(user), "transaction_type": "grant"}
        async with session.post("/v1/billing/credits", json=body) as answer:
            return answer.status

    calls: list[Awaitable[int]] = []
    for user in users * 5:
        calls += [_charge(session, user), read(user), credit(user)]
    assert set(await asyncio.gather(*calls)) <= {200, 201}


@pytest.mark.parametrize("rest", [0.0, 3.5], ids=["in the middle of work", "while at rest"])
async def test_after_connections_were_lost_without_a_word_a_keyed_charge_succeeds_in_seconds(
    database: Database, rest: float
) -> None:
    async with (
        TcpProxy(socket_of(database.dsn())).running() as proxy,
        service_behind(proxy, database) as (service, session),
    ):
        users = [await asyncio.to_thread(account_with_credits, service) for _ in range(4)]
        await _open_many(session, users)
        await asyncio.sleep(rest)  # until the server itself no longer trusts them
        assert proxy.lose_present() >= 4
        began = time.monotonic()
        statuses = [await _charge(session, users[0], f"lost-{number}") for number in range(10)]
        seconds = time.monotonic() - began
    print(f"ten charges after the loss took {seconds:.1f} s: {statuses}")
    assert statuses == [201] * 10
    assert seconds < PROMISED


async def test_a_slow_statement_is_not_taken_for_a_lost_connection(database: Database) -> None:
    pool = new_pool(Pool, database.dsn("t_web"), 2, statement_timeout=10.0)
    async with pool.connection() as connection:
        await pool.fetch(connection, "SELECT pg_sleep(4)")
        assert not connection.is_closed()
    await pool.close()


@pytest.mark.parametrize("way", ["for agents", "for staff"])
async def test_answers_that_never_come_are_given_up_before_the_statement_could_be(
    database: Database, way: str
) -> None:
    """The server is asked: a backend that is idle will not answer any more."""
    async with TcpProxy(socket_of(database.dsn())).running() as proxy:
        url = proxy.url(database.dsn("t_web"))
        pool = new_pool(Pool, url, 2, statement_timeout=30.0, connect_timeout=10.0)
        await _call(pool, way)
        proxy.lose_present()
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await _call(pool, way)
        assert time.monotonic() - began < PROMISED
        await _call(pool, way)
        await pool.close()


async def test_a_connection_that_fails_takes_those_of_its_age_with_it_and_no_younger_one(
    database: Database,
) -> None:
    pool = new_pool(Pool, database.dsn("t_web"), 4)
    old = await open_connections(pool, 3)
    async with pool.connection() as failing:
        killed = await backend_pid(pool, failing)
        async with pool.connection(), pool.connection(), pool.connection() as young:
            youngest = await backend_pid(pool, young)
        database.execute("SELECT pg_terminate_backend(%s)", killed)
        with pytest.raises(asyncpg.PostgresError):
            await pool.fetch(failing, PID)
    assert killed in old
    assert youngest not in old
    await asyncio.to_thread(
        wait_for,
        lambda: alive_backends(database, {*old, youngest}) == {youngest},
        "the old ones to be closed",
    )
    async with pool.connection() as next_one:
        assert await backend_pid(pool, next_one) == youngest
    await pool.close()


async def test_a_connection_is_replaced_when_it_is_old(database: Database) -> None:
    pool = new_pool(Pool, database.dsn("t_web"), max_age=0.5)
    [first] = await open_connections(pool, 1)
    again = await open_connections(pool, 1)
    await asyncio.sleep(0.6)
    assert await open_connections(pool, 1) != {first}
    assert again == {first}
    await pool.close()


async def test_connections_that_nobody_needs_any_more_are_closed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.gateway.pool._IDLE_LIMIT", 0.5)
    pool = new_pool(Pool, database.dsn("t_web"), 3)
    opened = await open_connections(pool, 3)
    deadline = time.monotonic() + 20
    while len(alive_backends(database, opened)) > 1 and time.monotonic() < deadline:
        await open_connections(pool, 1)
        await asyncio.sleep(0.1)
    assert len(alive_backends(database, opened)) == 1
    await pool.close()


async def test_the_kernel_watches_the_sockets(database: Database) -> None:
    async with TcpProxy(socket_of(database.dsn())).running() as proxy:
        pool = new_pool(Pool, proxy.url(database.dsn("t_web")))
        async with pool.connection() as connection:
            transport = connection._transport  # type: ignore[attr-defined]
            ours = transport.get_extra_info("socket")
            assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 4000
        await pool.close()


@pytest.mark.alone
async def test_a_host_that_swallows_connections_does_not_use_up_the_time_of_the_next(
    database: Database,
) -> None:
    async with (
        TcpProxy(socket_of(database.dsn()), loses_new=True).running() as silent,
        TcpProxy(socket_of(database.dsn())).running() as good,
    ):
        name = database.name
        url = f"postgresql://t_web@127.0.0.1:{silent.port},127.0.0.1:{good.port}/{name}"
        pool = new_pool(Pool, url, 2)
        assert len(await open_connections(pool, 1)) == 1
        # From now on the good host is tried first.
        began = time.monotonic()
        assert len(await open_connections(pool, 2)) == 2
        assert time.monotonic() - began < PATIENCE
        assert silent.accepted == 1
        await pool.close()


@pytest.mark.alone
async def test_attempts_to_connect_into_nothing_end_in_time(database: Database) -> None:
    async with TcpProxy(socket_of(database.dsn()), loses_new=True).running() as proxy:
        pool = new_pool(Pool, proxy.url(database.dsn("t_web")))
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await _call(pool, "for agents")
        assert time.monotonic() - began < PATIENCE + 1
        await pool.close()


# A server that cannot write


def _make_read_only(
    database: Database, value: str = "SET default_transaction_read_only = on"
) -> None:
    """Makes the server's new sessions read-only; the present ones stay as they are."""
    database.execute(f"ALTER ROLE t_web IN DATABASE {database.name} {value}")


def test_after_a_short_lead_to_a_server_that_cannot_write_charges_go_on(
    database: Database,
) -> None:
    with running_service(database) as service, service.client() as client:
        user = account_with_credits(service)

        def charge() -> httpx2.Response:
            return client.post(CHARGES, json=charge_body(user))

        assert charge().status_code == 201
        _make_read_only(database)
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            "ciris-billing",
        )  # as a fail-over does
        wait_for(lambda: charge().status_code == 503, "the first refusal")
        for _ in range(5):
            answer = charge()
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert int(answer.headers["Retry-After"]) >= 1
            health = client.get("/health")
            assert health.status_code == 503
            assert health.json()["detail"]["status"] == "unhealthy"
        # The sessions that were opened meanwhile would stay read-only.
        _make_read_only(database, "RESET default_transaction_read_only")
        wait_for(lambda: charge().status_code == 201, "charges to go on", timeout=5)
        assert client.get("/health").status_code == 200
        assert {charge().status_code for _ in range(10)} == {201}


async def test_connections_that_read_well_and_cannot_write_are_not_kept(
    database: Database,
) -> None:
    pool = new_pool(Pool, database.dsn("t_web"), 2)
    opened = await open_connections(pool, 2)
    async with pool.connection() as connection:
        await pool.fetch(
            connection, "SELECT set_config('default_transaction_read_only','on',false)"
        )
        with pytest.raises(asyncpg.PostgresError) as raised:
            await pool.fetch(connection, "SELECT billing.try_writing()")
        assert isinstance(translate(raised.value), ReadOnly)
    assert not opened & await open_connections(pool, 2)
    await pool.close()


async def test_a_pool_for_reading_takes_a_server_that_cannot_write_and_one_for_writing_does_not(
    database: Database,
) -> None:
    _make_read_only(database)
    for kind in (Pool, TransactionPool):
        reading = new_pool(kind, database.dsn("t_web"), read_only=True)
        assert await _call(reading, "for agents")
        await reading.close()
        writing = new_pool(kind, database.dsn("t_web"))
        with pytest.raises(ReadOnly):
            await _call(writing, "for agents")
        await writing.close()


def test_health_says_so_when_no_locks_are_left_as_charges_do(own_cluster: TestCluster) -> None:
    """Every login that may connect can use up all locks."""
    with (
        own_cluster.database() as database,
        running_service(database) as service,
        service.client() as client,
    ):
        user = account_with_credits(service)

        def charge() -> int:
            return client.post(CHARGES, json=charge_body(user)).status_code

        with psycopg.connect(database.dsn(), autocommit=True) as glutton:
            with pytest.raises(psycopg.errors.OutOfMemory):
                glutton.execute(
                    "SELECT count(pg_advisory_lock(n)) FROM generate_series(1, 10000000) AS n"
                )
            assert charge() == 503
            # A connection that is opened meanwhile cannot even read.
            wait_for(
                lambda: "the database cannot take a charge" in client.get("/health").text,
                "/health to say so",
            )
            glutton.execute("SELECT pg_advisory_unlock_all()")
        wait_for(lambda: client.get("/health").status_code == 200, "/health to be well again")
        assert charge() == 201


def test_health_is_well_while_somebody_holds_a_table_for_a_moment_and_an_account_for_long(
    database: Database,
) -> None:
    with running_service(database, LOCK_TIMEOUT="1") as service, service.client() as client:
        user = account_with_credits(service)
        with held_account(database, user):
            for _ in range(3):
                assert client.get("/health").status_code == 200
                time.sleep(0.5)  # the server tries once a second
        with psycopg.connect(database.dsn()) as holder:
            holder.execute("LOCK TABLE billing_data.charges")
            time.sleep(1.1)
            assert client.get("/health").status_code == 200
            # When this lasts longer than charges wait, it is reported.
            wait_for(lambda: client.get("/health").status_code == 503, "/health to say so")
            holder.rollback()
        wait_for(lambda: client.get("/health").status_code == 200, "/health to be well again")


def test_a_disk_that_is_gone_is_unavailable_and_mends_itself(own_cluster: TestCluster) -> None:
    with (
        own_cluster.database() as database,
        running_service(database) as service,
        service.client() as client,
    ):
        user = account_with_credits(service)

        def charge() -> httpx2.Response:
            return client.post(CHARGES, json=charge_body(user))

        path = database.value("SELECT pg_relation_filepath('billing_data.charges')")
        database.execute("CHECKPOINT")
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            "ciris-billing",
        )  # which still have the file open
        file = own_cluster.cluster.directory / "pg" / path
        gone = file.rename(file.with_suffix(".gone"))
        answers = [charge() for _ in range(5)]
        gone.rename(file)
        for answer in answers:
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["Retry-After"]) >= 1
        assert "SQLSTATE 58P01" in service.process.output
        wait_for(lambda: charge().status_code == 201, "charges to go on")
        assert database.execute("SELECT * FROM billing.verify_ledger()") == []


# The meaning of PostgreSQL's errors


def test_the_meaning_of_every_class_of_sqlstates_was_decided() -> None:
    known = {
        state[:2]
        for error in vars(asyncpg.exceptions).values()
        if isinstance(error, type) and (state := getattr(error, "sqlstate", None))
    }
    assert len(known) > 40
    assert known - {state[:2] for state in MEANINGS} == set()


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("08006", "ConnectionLost"),
        ("22P02", "DatabaseFault"),
        ("23505", "DatabaseFault"),
        ("25006", "ReadOnly"),
        ("25P03", "ConnectionLost"),
        ("25P04", "ConnectionLost"),
        ("28000", "RightsMissing"),
        ("40001", "Unavailable"),
        ("40P01", "Unavailable"),
        ("42501", "RightsMissing"),
        ("42P01", "DatabaseFault"),
        ("53100", "Unavailable"),
        ("53200", "Unavailable"),
        ("53300", "Unavailable"),
        ("54000", "DatabaseFault"),
        ("55000", "DatabaseFault"),
        ("55P03", "Busy"),
        ("57014", "Unavailable"),
        ("57P01", "ConnectionLost"),
        ("57P05", "ConnectionLost"),
        ("58000", "Unavailable"),
        ("58030", "Unavailable"),
        ("58P01", "Unavailable"),
        ("72000", "Unavailable"),
        ("F0000", "Unavailable"),
        ("P0001", "DatabaseFault"),
        ("XX000", "DatabaseFault"),
        ("XX001", "DatabaseFault"),
        ("99999", "DatabaseFault"),
    ],
)
async def test_an_error_that_postgresql_really_raises_is_translated_by_its_sqlstate(
    module_database: Database, state: str, expected: str
) -> None:
    connection = await asyncpg.connect(module_database.dsn())
    try:
        with pytest.raises(asyncpg.PostgresError) as raised:
            await connection.execute(
                f"DO $$ BEGIN RAISE EXCEPTION 'a test' USING ERRCODE = '{state}'; END $$"
            )
    finally:
        await connection.close()
    assert type(translate(raised.value)).__name__ == expected
