"""When batches are sent, and on which connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from server.gateway.batcher import Batcher, Turns
from server.gateway.call import Row
from server.gateway.pool import Pool
from tests.ops.pools import alive_backends, backend_pid, new_pool, open_connections
from tests.support import Database, wait_for

# The seconds for a late batch: far less than a test would wait for one that is never sent.
LATE = 1.0


@dataclass
class Sender:
    """The `send` of a Batcher; each batch is in flight until the test answers it."""

    batches: list[list[str]] = field(default_factory=list)
    back: list[asyncio.Event] = field(default_factory=list)
    left: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def send(self, items: Any, wait: float | None) -> list[Row]:
        """Sends as the gateway does; rows come in any order."""
        self.batches.append([user for _, user in items])
        self.back.append(back := asyncio.Event())
        async with self.left:
            self.left.notify_all()
        async with asyncio.timeout(20):  # so that a failed test ends
            await back.wait()
        numbers = range(len(items), 0, -1)
        return [
            {"item": number, "outcome": "done", "user": items[number - 1][1]} for number in numbers
        ]

    async def until(self, count: int) -> None:
        """Waits until this many batches were sent."""
        async with asyncio.timeout(10), self.left:
            await self.left.wait_for(lambda: len(self.batches) >= count)


def _batcher(sender: Sender, turns: Turns | None = None, *, shared: bool = False) -> Batcher:
    async def nobody(account: Any) -> None:
        return None

    return Batcher(
        sender.send,
        nobody,
        repeatable=lambda item: True,
        shares_processor=lambda: shared,
        max_in_flight=2,
        max_lock_waits=1,
        max_queue=1000,
        timeout=10.0,
        turns=turns,
    )


def _submitter(batcher: Batcher) -> Callable[[str], asyncio.Task[str]]:
    async def submit(user: str) -> str:
        return str((await batcher.submit(("oauth:google", user)))["user"])

    return lambda user: asyncio.create_task(submit(user))


async def _turns(count: int) -> None:
    """Lets the event loop turn so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
def nothing_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch is late, however slow the machine."""
    for name in ("_LATE_MIN", "_LATE_MAX"):
        monkeypatch.setattr(f"server.gateway.batcher.{name}", 60.0)


@pytest.mark.usefixtures("nothing_is_late")
async def test_what_arrives_while_a_batch_is_in_flight_leaves_together_when_it_is_answered() -> (
    None
):
    sender = Sender()
    batcher = _batcher(sender)
    submit = _submitter(batcher)
    answers = [submit("first")]
    await sender.until(1)
    for user in ("second", "third"):
        answers.append(submit(user))
        await _turns(10)  # in which a batch would be sent
    assert sender.batches == [["first"]]
    sender.back[0].set()
    await sender.until(2)
    assert sender.batches == [["first"], ["second", "third"]]
    sender.back[1].set()
    assert await asyncio.gather(*answers) == ["first", "second", "third"]
    await batcher.drain()


@pytest.mark.usefixtures("nothing_is_late")
async def test_of_two_kinds_that_follow_each_other_the_longer_queue_is_sent_first() -> None:
    """A shorter queue is passed over twice at the most."""
    sender, turns = Sender(), Turns()
    holds, captures = (_submitter(_batcher(sender, turns)) for _ in range(2))
    answers = [holds("hold")]
    await sender.until(1)
    answers.append(holds("short"))
    for number in range(1, 5):
        answers += [captures(f"capture {number}.{part}") for part in range(2)]
        await _turns(10)  # in which a batch would be sent
        assert len(sender.batches) == number
        sender.back[number - 1].set()
        await sender.until(number + 1)
    assert sender.batches == [
        ["hold"],
        ["capture 1.0", "capture 1.1"],
        ["capture 2.0", "capture 2.1"],
        ["short"],
        [f"capture {number}.{part}" for number in (3, 4) for part in range(2)],
    ]
    sender.back[4].set()
    assert len(await asyncio.gather(*answers)) == 10


@pytest.mark.usefixtures("nothing_is_late")
async def test_a_queue_that_became_the_longest_while_another_was_completed_is_sent_first() -> None:
    """The captures that follow the answered holds, not the one hold that waited for these."""
    sender, turns = Sender(), Turns()
    batchers = [_batcher(sender, turns, shared=True) for _ in range(2)]
    holds, captures = (_submitter(batcher) for batcher in batchers)
    answers = [holds("hold")]
    await sender.until(1)
    answers.append(holds("waited"))
    await _turns(1)
    sender.back[0].set()
    await answers[0]
    answers += [captures(f"followed {number}") for number in range(2)]
    await sender.until(2)
    assert sender.batches == [["hold"], ["followed 0", "followed 1"]]
    drained = asyncio.create_task(batchers[1].drain())
    sender.back[1].set()
    await sender.until(3)
    assert sender.batches[2] == ["waited"]
    assert not drained.done()  # a batcher of the same turns has not been answered yet
    sender.back[2].set()
    await asyncio.gather(*answers, drained)


async def test_requests_that_are_being_read_at_the_same_time_leave_together() -> None:
    """Two requests arrive at once, and then one with every turn of the event loop."""
    sender = Sender()
    batcher = _batcher(sender)
    submit = _submitter(batcher)
    answers = [submit("user 0")]
    for number in range(1, 20):
        answers.append(submit(f"user {number}"))
        await _turns(1)
    await sender.until(1)
    assert sender.batches == [[f"user {number}" for number in range(20)]]
    sender.back[0].set()
    assert len(await asyncio.gather(*answers)) == 20


@pytest.mark.usefixtures("nothing_is_late")
@pytest.mark.parametrize("shared", [True, False])
async def test_what_follows_the_answers_leaves_with_what_waited_if_the_processor_is_shared(
    shared: bool,
) -> None:
    """A request takes some turns of the event loop until it is queued. A lone one waits for none of
    them, nor does one where the processor would do nothing meanwhile."""
    sender = Sender()
    batcher = _batcher(sender, shared=shared)
    submit = _submitter(batcher)
    answers = [submit("lone")]
    await _turns(2)  # one until it is queued, one until it is sent
    assert sender.batches == [["lone"]]
    answers.append(submit("waited"))
    await _turns(1)
    sender.back[0].set()
    await answers[0]
    for number in range(3):
        await _turns(5)
        answers.append(submit(f"followed {number}"))
    await sender.until(2)
    followed = ["followed 0", "followed 1", "followed 2"]
    assert sender.batches[1] == (["waited", *followed] if shared else ["waited"])
    sender.back[1].set()
    if not shared:
        await sender.until(3)
        assert sender.batches[2] == followed
        sender.back[2].set()
    await asyncio.gather(*answers)
    await batcher.drain()


async def test_a_late_batch_holds_up_nobody_and_no_more_than_the_allowed_ones_are_in_flight() -> (
    None
):
    sender = Sender()
    batcher = _batcher(sender)
    submit = _submitter(batcher)
    stuck, second = submit("stuck"), None
    await sender.until(1)
    async with asyncio.timeout(LATE):
        second = submit("second")
        await sender.until(2)
        sender.back[1].set()
        assert await second == "second"
        # The batches behind the second one do not wait for the late one either.
        third = submit("third")
        await sender.until(3)
    fourth = submit("fourth")
    await asyncio.sleep(0.3)  # many times as long as a batch takes to be late
    assert sender.batches == [["stuck"], ["second"], ["third"]]
    assert not stuck.done()
    sender.back[0].set()
    await sender.until(4)
    for back in sender.back:
        back.set()
    assert list(await asyncio.gather(stuck, third, fourth)) == ["stuck", "third", "fourth"]
    await batcher.drain()
    assert batcher.waiting == 0


async def test_batches_take_turns_again_when_the_late_one_is_answered() -> None:
    sender = Sender()
    batcher = _batcher(sender)
    submit = _submitter(batcher)
    answers = [submit("stuck")]
    await sender.until(1)
    answers.append(submit("second"))
    await sender.until(2)
    for back in sender.back:
        back.set()
    await asyncio.gather(*answers)
    # As long as batches take no time, so that the next one is soon late.
    for number in range(3, 50):
        answers.append(submit(f"user {number}"))
        await sender.until(number)
        sender.back[-1].set()
        await answers[-1]
    assert [len(batch) for batch in sender.batches] == [1] * 49
    await batcher.drain()


# Connections of their own


async def _own_pid(pool: Pool, user: str) -> int:
    connection = await pool.take(user)
    try:
        return await backend_pid(pool, connection)
    finally:
        pool.put_back(connection)


async def test_a_kept_connection_serves_its_user_and_nobody_else(database: Database) -> None:
    pool = new_pool(Pool, database.dsn("t_web"), 3)
    kept = await _own_pid(pool, "charges")
    [common] = await open_connections(pool, 1)
    other = await _own_pid(pool, "checks")
    assert len({kept, common, other}) == 3
    for _ in range(3):
        assert await _own_pid(pool, "charges") == kept
        assert await open_connections(pool, 1) == {common}
        assert await _own_pid(pool, "checks") == other
    assert pool.in_use == 0
    await pool.close()


async def test_a_statement_stays_prepared_on_the_connection_that_is_kept_for_it(
    database: Database,
) -> None:
    pool = new_pool(Pool, database.dsn("t_web"))
    prepared = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%the one%'"

    async def call() -> None:
        connection = await pool.take("charges")
        await pool.fetch(connection, "SELECT 'the one', $1::integer", 1)
        pool.put_back(connection)

    for _ in range(5):
        await call()
    connection = await pool.take("charges")
    uses = "SELECT generic_plans + custom_plans FROM pg_prepared_statements WHERE statement LIKE $1"
    assert (await pool.fetch(connection, prepared))[0][0] == 2  # and this statement itself
    assert (await pool.fetch(connection, uses, "%the one%integer%"))[0][0] == 5
    pool.put_back(connection)
    await pool.close()


async def test_kept_connections_count_among_those_that_may_be_open(database: Database) -> None:
    pool = new_pool(Pool, database.dsn("t_web"), 2)
    first, second = await _own_pid(pool, "charges"), await _own_pid(pool, "checks")
    opened = await open_connections(pool, 2)
    assert not opened & {first, second}
    await asyncio.to_thread(
        wait_for,
        lambda: alive_backends(database, {first, second, *opened}) == opened,
        "the kept ones to be closed",
    )
    # And the other way round: the connection that was idle for longest makes room.
    again = await _own_pid(pool, "charges")
    await asyncio.to_thread(
        wait_for, lambda: len(alive_backends(database, {again, *opened})) == 2, "one to be closed"
    )
    await pool.close()


async def test_kept_connections_are_closed_when_nobody_needs_them_or_their_like_failed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = new_pool(Pool, database.dsn("t_web"), 4)
    kept = await _own_pid(pool, "charges")
    async with pool.connection() as failing:
        database.execute("SELECT pg_terminate_backend(%s)", await backend_pid(pool, failing))
        with pytest.raises(asyncpg.PostgresError):
            await pool.fetch(failing, "SELECT 1")
    await asyncio.to_thread(
        wait_for, lambda: not alive_backends(database, {kept}), "the kept one to be closed as well"
    )
    again = await _own_pid(pool, "charges")
    assert again != kept
    monkeypatch.setattr("server.gateway.pool._IDLE_LIMIT", 0.1)
    await asyncio.sleep(0.2)
    await open_connections(pool, 1)  # this call closes the others, which were not needed
    await asyncio.to_thread(
        wait_for, lambda: not alive_backends(database, {again}), "it to be closed"
    )
    await pool.close()
