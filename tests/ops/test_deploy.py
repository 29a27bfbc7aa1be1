"""A new release under load: its schema and functions are loaded while servers of the old release
work; then its servers take over. No request may fail."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest

from tests.contributing import NEXT_STEP as OF_THE_EXAMPLE
from tests.contributing import Scratch, add_a_field_to_charges
from tests.ops.load import account_with_credits
from tests.support import (
    Database,
    Process,
    Service,
    charge_body,
    clean_environment,
    copy_tree,
    free_port,
    identity,
    make_environment,
    running_service,
    unique,
    wait_until_healthy,
)

NEXT_STEP = "2026_12_31_0099_next_release"


class Clients:
    """Clients of several servers, as behind nginx: each request goes to one of them on a new
    connection, and to the next one only when the connection is refused. Unexpected answers are kept
    in `failed`."""

    def __init__(self, service: Service, users: list[str], addresses: list[str]) -> None:
        self._headers = {"X-API-Key": service.key.secret}
        self._users = users
        self.addresses = addresses
        self.answers: Counter[str] = Counter()
        self.charges = 0
        self.failed: list[str] = []
        self._stopping = False

    @contextlib.asynccontextmanager
    async def running(self, clients: int = 8) -> AsyncIterator[Clients]:
        """Works until the block ends, or before by finish()."""
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector, headers=self._headers) as session:
            self._tasks = [asyncio.create_task(self._client(session, n)) for n in range(clients)]
            try:
                yield self
            finally:
                await self.finish()

    async def finish(self) -> None:
        """Returns when no request is under way any more."""
        self._stopping = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), 60)

    async def more_answers(self, count: int, address: str | None = None) -> None:
        """Returns after `count` more answers, of one server or of all."""

        def seen() -> int:
            return self.answers[address] if address else self.answers.total()

        enough = seen() + count
        async with asyncio.timeout(60):
            while seen() < enough:
                await asyncio.sleep(0.01)

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        turn = number
        while not self._stopping:
            turn += 1
            user = self._users[turn % len(self._users)]
            if turn % 4 == 0:
                await self._ask(session, turn, "credits/check", 200, json=identity(user))
            elif turn % 9 == 0:
                await self._ask(session, turn, "transactions", 200, params=identity(user))
            else:
                body = charge_body(user, idempotency_key=unique("deploy"))
                await self._ask(session, turn, "charges", 201, json=body)
                self.charges += 1

    async def _ask(
        self, session: aiohttp.ClientSession, turn: int, path: str, wanted: int, **options: Any
    ) -> None:
        method = "POST" if "json" in options else "GET"
        addresses = list(self.addresses)
        start = turn % len(addresses)
        for address in (*addresses[start:], *addresses[:start]):
            try:
                url = f"{address}/v1/billing/{path}"
                async with session.request(method, url, **options) as answer:
                    text = await answer.text()
            except aiohttp.ClientConnectorError:
                continue
            except aiohttp.ClientError as error:
                self.failed.append(f"{path} at {address}: {error!r} {error.__cause__!r}")
                return
            self.answers[address] += 1
            if answer.status != wanted:
                self.failed.append(f"{path} at {address}: {answer.status} {text}")
            return
        self.failed.append(f"{path}: no server listens")


@pytest.fixture(scope="module")
def release(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The next release: functions with another body, with another argument, and a new one; a new
    field of an item and of its outcome; and a migration step. Returns its folder bin/."""
    folder = tmp_path_factory.mktemp("release")
    copy = copy_tree(tree, folder / "tree")
    for file in (copy / "sql").glob("*.sql"):
        text = file.read_text()
        # Each function gets another body.
        text = re.sub(r"(?m)^BEGIN$", "BEGIN\n    -- As of the next release.", text)
        file.write_text(text)
    add_a_field_to_charges(Scratch(copy))
    _replace(copy / "sql" / "errors.sql", "'Account is closed'", "'Account is closed now'")
    _replace(
        copy / "sql" / "transactions.sql",
        "\n) RETURNS TABLE (\n    total_count",
        ",\n    p_next_argument text DEFAULT NULL\n) RETURNS TABLE (\n    total_count",
    )
    with (copy / "sql" / "help.sql").open("a") as help_sql:
        help_sql.write(
            "\nCREATE OR REPLACE FUNCTION billing.next_release() RETURNS text LANGUAGE sql STABLE"
            " SECURITY DEFINER SET search_path = pg_catalog, pg_temp RETURN 'next';\n"
            "GRANT EXECUTE ON FUNCTION billing.next_release TO billing_server, billing_dba;\n"
        )
    (copy / "migrations" / f"{NEXT_STEP}.sql").write_text(
        f"-- A column that the next release will fill.\n-- depends: {OF_THE_EXAMPLE}\n"
        "SET LOCAL lock_timeout = '1s';\n"
        "ALTER TABLE billing_data.accounts ADD COLUMN next_column text;\n"
        "ALTER TABLE billing_data.charges ADD COLUMN next_column text;\n"
    )
    (copy / "migrations" / f"{NEXT_STEP}.rollback.sql").write_text(
        "ALTER TABLE billing_data.accounts DROP COLUMN next_column;\n"
        "ALTER TABLE billing_data.charges DROP COLUMN next_column;\n"
    )
    return make_environment(folder / "environment", copy)


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text, (file, old)
    file.write_text(text.replace(old, new))


async def _migrate(database: Database, python: str | Path = sys.executable) -> None:
    """Runs `ciris-billing migrate` of a release while servers work."""
    done = await asyncio.to_thread(
        subprocess.run,
        [python, "-P", "-m", "server", "migrate"],
        check=False,
        cwd="/",
        env={**clean_environment(), "DATABASE_URL": database.dsn()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def _server(database: Database, python: Path) -> Iterator[str]:
    port = free_port()
    process = Process(
        [str(python), "-P", "-m", "server", "serve", "--port", str(port)],
        {"DATABASE_URL": database.dsn("t_web")},
        cwd="/",
    ).start()
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_healthy(address, process)
        yield address
    finally:
        process.stop()


async def test_a_deploy_under_load_fails_no_request(database: Database, release: Path) -> None:
    """Two servers of the old release work on while everything is replaced. Then the new release
    takes over, and they end."""
    with running_service(database) as old, running_service(database) as other:
        users = [account_with_credits(old) for _ in range(6)]
        clients = Clients(old, users, [old.base_url, other.base_url])
        async with clients.running():
            await clients.more_answers(200)
            for _ in range(2):  # this release once more: all definitions are replaced
                await _migrate(database)
            for _ in range(2):
                await _migrate(database, release / "python")
                await clients.more_answers(200)
            assert clients.failed == []
            assert database.value("SELECT billing.next_release()") == "next"
            assert database.value("SELECT count(next_column) FROM billing_data.charges") == 0
            with _server(database, release / "python") as new:
                clients.addresses.append(new)
                for ended in (old, other):
                    assert await asyncio.to_thread(ended.process.stop) == 0
                    await clients.more_answers(50)
                clients.addresses[:] = [new]
                await clients.more_answers(100, new)
                await clients.finish()
    print(f"answered: {dict(clients.answers)}")
    assert clients.failed == []
    charged = "SELECT count(*) FROM billing_data.charges WHERE idempotency_key LIKE 'deploy-%'"
    assert database.value(charged) == clients.charges
    assert database.execute("SELECT * FROM billing.verify_ledger()") == []


@pytest.mark.alone
async def test_a_deploy_under_load_fails_no_request_with_the_shortest_time_outs(
    database: Database, release: Path
) -> None:
    """Loads the same release again, then one with another errors view and other functions, and then
    back. Statements get more than the least time-out that may be configured: on a busy machine
    planning takes longer."""
    shortest: dict[str, Any] = {"LOCK_TIMEOUT": "0.05", "STATEMENT_TIMEOUT": "0.5"}
    with running_service(database, **shortest) as service:
        users = [account_with_credits(service) for _ in range(6)]
        clients = Clients(service, users, [service.base_url])
        async with clients.running(4):
            await clients.more_answers(100)
            assert clients.failed == []
            for python in (sys.executable, release / "python", sys.executable) * 2:
                await _migrate(database, python)
                await clients.more_answers(50)
                assert clients.failed == []
        assert "Account is closed now" not in database.value(
            "SELECT string_agg(e.message, ' ') FROM billing.errors AS e"
        )
    assert clients.failed == []
    assert database.execute("SELECT * FROM billing.verify_ledger()") == []


async def test_a_deploy_that_has_to_wait_for_a_transaction_makes_nobody_else_wait(
    database: Database, release: Path
) -> None:
    """A person's open transaction holds the ledger's tables. A deploy that waited for them would
    delay all others behind it. A deploy that changes no table does not wait at all: the same
    release again, and here the way back."""
    with running_service(database) as service:
        users = [account_with_credits(service) for _ in range(4)]
        held = account_with_credits(service)
        clients = Clients(service, users, [service.base_url])
        async with clients.running():
            with psycopg.connect(database.dsn("t_dba")) as person:
                for python, waits in (
                    (release / "python", True),
                    (release / "python", False),
                    (sys.executable, False),
                ):
                    person.execute(
                        "SELECT billing.create_charge(p_oauth_provider => 'oauth:google',"
                        " p_external_id => %s, p_amount_minor => 1, p_description => 'by hand')",
                        (held,),
                    )
                    deploy = asyncio.create_task(_migrate(database, python))
                    for _ in range(5):  # for longer than a request waits for a lock
                        await clients.more_answers(5)
                        await asyncio.sleep(0.6)
                    assert not (waits and deploy.done())
                    if not waits:
                        await deploy
                    person.commit()
                    await deploy
            await clients.finish()
    assert clients.failed == []
    assert database.execute("SELECT * FROM billing.verify_ledger()") == []
