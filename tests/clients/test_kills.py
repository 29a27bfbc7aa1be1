"""The client package while its server is killed again and again: whatever a caller was told is in
the books once, and nothing else is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count

import psutil
import pytest
from ciris_billing_client import AsyncBilling, Billing, NewCharge, User

from tests.ops.load import account_with_credits
from tests.run import free_port
from tests.support import Database, Service, running_service, wait_for, worker_pids

ROUNDS = 3
CREDITS = 1_000_000


class Killable:
    """A server that is killed and started again, at the same address."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.port = free_port()
        self.key = database.create_key()
        self.base_url = f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[Service]:
        with running_service(self.database, port=self.port) as service:
            yield service

    def kill(self, service: Service) -> None:
        """SIGKILL to the server and its worker, by their ids."""
        for pid in (service.process.process.pid, *worker_pids(service.process)):
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()


class Agents:
    """Agents at work, and what they were told."""

    def __init__(self, async_client: AsyncBilling, client: Billing, users: list[User]) -> None:
        self.async_client, self.client, self.users = async_client, client, users
        self.charged: list[tuple[str, int, str]] = []  # user, amount, charge
        self.is_over = False

    async def charges(self, user: User) -> None:
        """Charges by the async client, and gives every third charge back."""
        for number in count(1):
            if self.is_over:
                return
            charge = await self.async_client.charge(user, number % 3 + 1)
            amount = charge.amount_minor
            if number % 3 == 0:
                reversal = await self.async_client.reverse(charge.charge_id, "it failed", amount=1)
                amount -= reversal.amount_minor
            self.charged.append((user.external_id, amount, str(charge.charge_id)))

    async def uses(self, user: User) -> None:
        """Holds credits, and settles two of three holds."""
        for number in count(1):
            if self.is_over:
                return
            async with self.async_client.use(user, 3) as use:
                if number % 3:
                    use.settle(number % 3)
            assert use.hold.status == ("captured" if number % 3 else "released")
            if use.hold.captured_minor:
                charge = str(use.hold.charge_id)
                self.charged.append((user.external_id, use.hold.captured_minor, charge))

    async def batches(self) -> None:
        """Charges lists that hold every user."""
        while not self.is_over:
            batch = await self.async_client.batch([NewCharge(user=user) for user in self.users])
            for user, result in zip(self.users, batch.results, strict=True):
                assert not isinstance(result.outcome, Exception)
                self.charged.append((user.external_id, 1, str(result.outcome.charge_id)))

    def sync_charges(self, user: User) -> None:
        """Charges by the sync client, in a thread of its own."""
        while not self.is_over:
            charge = self.client.charge(user)
            self.charged.append((user.external_id, 1, str(charge.charge_id)))


@pytest.fixture
def killable(database: Database) -> Killable:
    return Killable(database)


async def test_no_use_is_lost_or_counted_twice_while_the_server_is_killed(
    killable: Killable, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ciris_billing_client")
    with killable.running() as service:
        users = [User("oauth:google", account_with_credits(service, CREDITS)) for _ in range(4)]
        killable.kill(service)
    address = killable.base_url, killable.key.secret
    async with AsyncBilling(*address, deadline=120, retries=1000) as first:
        with Billing(*address, deadline=120, retries=1000) as second:
            agents = Agents(first, second, users)
            work = [
                *(asyncio.create_task(agents.charges(user)) for user in users),
                *(asyncio.create_task(agents.uses(user)) for user in users[2:]),
                asyncio.create_task(agents.batches()),
                *(
                    asyncio.create_task(asyncio.to_thread(agents.sync_charges, user))
                    for user in users[:2]
                ),
            ]
            for _ in range(ROUNDS):
                with killable.running() as service:
                    await more(agents, 100)
                    killable.kill(service)
            with killable.running():
                await more(agents, 100)
                agents.is_over = True
                await asyncio.gather(*work)
    assert len(caplog.messages) >= ROUNDS  # calls were struck, and repeated
    assert_books_are_what_was_told(killable.database, agents)


async def more(agents: Agents, answers: int) -> None:
    """Waits until the agents have been told so many more charges."""
    wanted = len(agents.charged) + answers
    await asyncio.to_thread(wait_for, lambda: len(agents.charged) >= wanted, "more charges", 60)


def assert_books_are_what_was_told(database: Database, agents: Agents) -> None:
    rows = database.execute("SELECT id::text FROM billing_data.charges WHERE paid_with = 'paid'")
    assert sorted(charge for (charge,) in rows) == sorted(id for _, _, id in agents.charged)
    left = dict(database.execute("SELECT external_id, paid_credits FROM billing_data.accounts"))
    for user in agents.users:
        used = sum(amount for owner, amount, _ in agents.charged if owner == user.external_id)
        assert left[user.external_id] == CREDITS - used
    states = "SELECT h.state::text, h.charge_id::text FROM billing_data.holds AS h"
    holds = database.execute(states)
    assert {state for state, _ in holds} == {"captured", "released"}
    assert {charge for _, charge in holds} - {None} <= {charge for _, _, charge in agents.charged}
    assert database.execute("SELECT * FROM billing.verify_ledger()") == []
