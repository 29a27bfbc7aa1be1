"""The faults. Each begins at once and lasts as long as the round says. At the round's end
Stage.recover removes what is left of it and starts what it has ended. The black hole and the
half-open network are not removed: only new connections work, and the server must find that out by
itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from random import Random
from typing import Any

import psutil
import psycopg

from tests.support import clean_environment
from tests.torture.stage import Stage

Fault = Callable[[Stage, Random], AbstractAsyncContextManager[None]]
FAULTS: dict[str, Fault] = {}


def _fault(name: str) -> Callable[[Callable[[Stage, Random], AsyncIterator[None]]], None]:
    def register(function: Callable[[Stage, Random], AsyncIterator[None]]) -> None:
        FAULTS[name] = contextlib.asynccontextmanager(function)

    return register


async def _execute(stage: Stage, statement: str) -> list[tuple[Any, ...]]:
    """Runs a statement in a thread: it may wait until the round's other fault ends."""

    def execute() -> list[tuple[Any, ...]]:
        with stage.connect() as connection:
            return connection.execute(statement).fetchall()

    return await asyncio.to_thread(execute)


@_fault("crash of PostgreSQL")
async def _crash(stage: Stage, _: Random) -> AsyncIterator[None]:
    await asyncio.to_thread(stage.cluster.cluster.kill)
    yield


@_fault("stop of PostgreSQL")
async def _stop_database(stage: Stage, _: Random) -> AsyncIterator[None]:
    await asyncio.to_thread(stage.stop_database)
    yield


@_fault("kill of a PostgreSQL process")
async def _kill_backend(stage: Stage, rng: Random) -> AsyncIterator[None]:
    """PostgreSQL ends all sessions and recovers by itself."""
    with contextlib.suppress(psycopg.Error, ProcessLookupError):
        found = await _execute(
            stage, "SELECT pid FROM pg_stat_activity WHERE usename = 't_web' ORDER BY pid"
        )
        if found:
            os.kill(rng.choice(found)[0], signal.SIGKILL)
    yield


@_fault("kill of a worker")
async def _kill_worker(stage: Stage, rng: Random) -> AsyncIterator[None]:
    workers = stage.server_pids()[1:]
    if workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(workers), signal.SIGKILL)
    yield


@_fault("kill of the server")
async def _kill_server(stage: Stage, _: Random) -> AsyncIterator[None]:
    await asyncio.to_thread(stage.kill_server)
    yield


@_fault("stop of the server")
async def _stop_server(stage: Stage, _: Random) -> AsyncIterator[None]:
    await asyncio.to_thread(stage.stop_server)
    yield


@_fault("cut connections")
async def _cut(stage: Stage, rng: Random) -> AsyncIterator[None]:
    for _ in range(rng.randint(1, 3)):
        stage.proxy.cut()
        await asyncio.sleep(rng.uniform(0, 0.2))
    yield


@_fault("cut answers")
async def _cut_answers(stage: Stage, _: Random) -> AsyncIterator[None]:
    stage.proxy.cuts_answers = True
    try:
        yield
    finally:
        stage.proxy.cuts_answers = False


@_fault("half-open connections")
async def _half_open(stage: Stage, _: Random) -> AsyncIterator[None]:
    stage.proxy.mute_present()
    yield


@_fault("black hole")
async def _black_hole(stage: Stage, _: Random) -> AsyncIterator[None]:
    stage.proxy.lose_present()
    yield


@_fault("frozen PostgreSQL")
async def _freeze_database(stage: Stage, _: Random) -> AsyncIterator[None]:
    with _frozen(stage.postgres_pids):
        yield


@_fault("frozen worker")
async def _freeze_worker(stage: Stage, rng: Random) -> AsyncIterator[None]:
    with _frozen(lambda: rng.sample(stage.server_pids()[1:], 1)):
        yield


@contextmanager
def _frozen(find: Callable[[], list[int]]) -> Iterator[None]:
    pids: list[int] = []
    # The other fault of the round may have ended it.
    with contextlib.suppress(OSError, ValueError, IndexError, psutil.NoSuchProcess):
        pids = find()
    try:
        _signal(pids, signal.SIGSTOP)
        yield
    finally:
        _signal(pids, signal.SIGCONT)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@_fault("full disk")
async def _full_disk(stage: Stage, _: Random) -> AsyncIterator[None]:
    await asyncio.to_thread(stage.fill_disk)
    try:
        yield
    finally:
        stage.free_disk()


@_fault("read-only PostgreSQL")
async def _read_only(stage: Stage, _: Random) -> AsyncIterator[None]:
    with contextlib.suppress(psycopg.Error):  # PostgreSQL is away now, or has no room
        await asyncio.to_thread(stage.set_read_only, "on")
    yield


@_fault("held accounts")
async def _locks(stage: Stage, rng: Random) -> AsyncIterator[None]:
    async with _transaction(
        stage,
        "SELECT 1 FROM billing_data.accounts AS a"
        f" WHERE hashtext(a.external_id) % 3 = {rng.randint(0, 2)} FOR UPDATE",
    ):
        yield


@_fault("locked ledger")
async def _locked_ledger(stage: Stage, _: Random) -> AsyncIterator[None]:
    async with _transaction(stage, "LOCK TABLE billing_data.charges IN ACCESS EXCLUSIVE MODE"):
        yield


@contextlib.asynccontextmanager
async def _transaction(stage: Stage, statement: str) -> AsyncIterator[None]:
    """Another session's open transaction, which has run the statement. There is none where the
    round's other fault has ended PostgreSQL, or holds what the statement needs."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(psycopg.Error):
            session = stack.enter_context(await asyncio.to_thread(stage.connect))
            stack.callback(session.close)  # closing undoes the transaction
            session.execute("BEGIN")
            session.execute("SET LOCAL lock_timeout = '500ms'")
            await asyncio.to_thread(session.execute, statement)
        yield


@_fault("deadlocks")
async def _deadlocks(stage: Stage, rng: Random) -> AsyncIterator[None]:
    """Sessions lock the accounts one by one in an order that none of our functions uses."""
    stopping = asyncio.Event()

    def lock_backwards() -> None:
        with contextlib.suppress(psycopg.Error), stage.connect() as session:
            ids = session.execute(
                "SELECT a.id FROM billing_data.accounts AS a ORDER BY a.created_at DESC LIMIT 12"
            ).fetchall()
            while not stopping.is_set():
                with contextlib.suppress(psycopg.errors.DeadlockDetected), session.transaction():
                    for (account,) in rng.sample(ids, len(ids)):
                        session.execute(
                            "SELECT 1 FROM billing_data.accounts WHERE id = %s FOR UPDATE",
                            (account,),
                        )

    sessions = [asyncio.create_task(asyncio.to_thread(lock_backwards)) for _ in range(3)]
    yield
    stopping.set()
    await asyncio.gather(*sessions)


@_fault("ended sessions")
async def _terminate(stage: Stage, rng: Random) -> AsyncIterator[None]:
    how = rng.choice(["pg_terminate_backend", "pg_cancel_backend"])
    for _ in range(rng.randint(1, 4)):
        with contextlib.suppress(psycopg.Error):
            await _execute(
                stage, f"SELECT {how}(pid) FROM pg_stat_activity WHERE usename = 't_web'"
            )
        await asyncio.sleep(rng.uniform(0, 0.2))
    yield


@_fault("migrate")
async def _migrate(stage: Stage, _: Random) -> AsyncIterator[None]:
    """Loads the release's definitions again. This may fail where PostgreSQL is away."""
    task = asyncio.create_task(
        asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "server", "migrate"],
            check=False,
            env={**clean_environment(), "DATABASE_URL": stage.database.dsn()},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=120,
        )
    )
    yield
    await task


@_fault("revoked key")
async def _revoke(stage: Stage, _: Random) -> AsyncIterator[None]:
    with contextlib.suppress(psycopg.Error):  # PostgreSQL is away now
        await asyncio.to_thread(stage.replace_key)
    yield
