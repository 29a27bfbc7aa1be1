"""`ciris-billing serve` starting, ending, and losing workers."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from gunicorn.config import Config

from server.http.gunicorn_server import Worker
from tests.ops.load import Load, account_with_credits
from tests.ops.serve.helpers import (
    CHARGES,
    arrived,
    session_for,
    timed_post,
)
from tests.support import (
    BILLING,
    Database,
    Process,
    Service,
    charge_body,
    free_port,
    has_two_workers_beside,
    held_account,
    running_service,
    wait_for,
    wait_until_healthy,
    worker_pids,
)

# Starting


@pytest.mark.alone
def test_it_is_ready_within_two_seconds(database: Database) -> None:
    seconds: list[float] = []
    for _ in range(3):  # the best of three: other programs run on this machine too
        port = free_port()
        began = time.monotonic()
        process = Process(
            [BILLING, "serve", "--port", str(port)], {"DATABASE_URL": database.dsn("t_web")}
        ).start()
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}", process)
            seconds.append(time.monotonic() - began)
        finally:
            assert process.stop() == 0
        if seconds[-1] < 2:
            break
    print(f"`serve` was healthy after {min(seconds):.2f} s")
    assert min(seconds) < 4  # it takes 2 s alone, and twice that beside other programs


def test_it_answers_before_it_has_loaded_what_only_some_requests_need(database: Database) -> None:
    environment: dict[str, Any] = {
        "PYTHONPROFILEIMPORTTIME": "1",  # makes Python report everything it imports
        "ENCRYPTION_KEY": "0123456789abcdef-of-the-tests-only",
    }
    with running_service(database, **environment) as service:

        def loaded() -> set[str]:
            lines = service.process.output.splitlines()
            return {line.rpartition("|")[2].strip() for line in lines if "import time:" in line}

        at_start = loaded()
        assert {"aiohttp", "asyncpg", "pydantic"} <= at_start
        assert at_start & {"psycopg", "yoyo", "stripe", "requests", "authlib", "httpx2"} == set()
        # After that the server loads it, before a request has to wait for it.
        wait_for(lambda: "stripe._app_info" in loaded(), "the payment provider's package")


def test_a_login_that_may_do_everything_gives_its_rights_away_and_says_so_once(
    database: Database,
) -> None:
    database.execute("CREATE TABLE public.seen (login text, role text)")
    database.execute(
        "CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$"
        " BEGIN INSERT INTO public.seen VALUES (session_user, current_setting('role'));"
        " RETURN NEW; END $$"
    )
    for table in ("charges", "credits", "accounts"):
        database.execute(
            f"CREATE TRIGGER see BEFORE INSERT ON billing_data.{table}"
            " FOR EACH ROW EXECUTE FUNCTION public.see()"
        )
    with running_service(database, user="postgres", workers=2) as service:
        account_with_credits(service)
        assert set(database.execute("SELECT * FROM public.seen")) == {
            ("postgres", "billing_server")
        }
        sessions = "SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name = %s"
        assert database.execute(sessions, "ciris-billing") == [("postgres",)]
        assert service.process.stop() == 0
        lines = [line for line in service.process.output.splitlines() if "SET ROLE" in line]
    assert len(lines) == 1
    assert json.loads(lines[0])["level"] == "WARNING"


def test_a_login_of_its_own_needs_no_such_warning(database: Database) -> None:
    with running_service(database) as service:
        account_with_credits(service)
        assert "SET ROLE" not in service.process.output


# Ending, and losing a worker


async def test_sigterm_under_load_answers_all_it_accepted(database: Database) -> None:
    with running_service(database, workers=2, LOCK_TIMEOUT="10") as service:
        users = [account_with_credits(service) for _ in range(8)]
        held = account_with_credits(service)
        load = Load(service, users)
        async with session_for(service) as session:
            with held_account(database, held) as holder:
                slow = asyncio.create_task(timed_post(session, CHARGES, charge_body(held)))
                await arrived(service, session)
                async with load.running():
                    await load.more_answers(200)
                    service.process.process.send_signal(signal.SIGTERM)
                    # It no longer accepts connections, and still works on the requests it has.
                    await asyncio.to_thread(wait_for, lambda: _refuses(service), "a closed port")
                    holder.rollback()
                    status, _, _ = await slow
                    assert status == 201
        assert await asyncio.to_thread(service.process.process.wait, 20) == 0
        assert "Traceback" not in service.process.output
    print(f"answered: {dict(load.statuses)}, closed before an answer: {len(load.unanswered)}")
    assert set(load.statuses) == {201}
    load.check_against(database)


async def test_an_answer_given_while_it_ends_says_that_its_connection_ends_too(
    database: Database,
) -> None:
    """Otherwise the client sends its next request on a connection that is about to close."""
    with running_service(database, LOCK_TIMEOUT="10") as service:
        held = await asyncio.to_thread(account_with_credits, service)
        async with session_for(service) as session:

            async def charge() -> tuple[int, str | None]:
                async with session.post(CHARGES, json=charge_body(held)) as answer:
                    return answer.status, answer.headers.get("Connection")

            with held_account(database, held) as holder:
                slow = asyncio.create_task(charge())
                await arrived(service, session)
                service.process.process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(wait_for, lambda: _refuses(service), "a closed port")
                holder.rollback()
                assert await slow == (201, "close")
        assert await asyncio.to_thread(service.process.process.wait, 20) == 0


def _refuses(service: Service) -> bool:
    try:
        httpx2.get(f"{service.base_url}/", timeout=5, verify=False)
    except httpx2.TransportError:
        return True
    return False


def test_a_worker_that_is_told_to_end_does_not_finish_its_pause_first() -> None:
    loop = asyncio.new_event_loop()
    worker = Worker(0, 0, [], None, 60, Config(), None)
    worker.loop = loop
    pause = worker._wait_next_notify()
    worker.handle_exit(signal.SIGTERM, None)
    assert not worker.alive
    assert pause.done()
    worker.tmp.close()
    loop.close()


async def test_ctrl_c_ends_it_as_well(database: Database) -> None:
    with running_service(database, workers=2) as service:
        wait_for(lambda: len(worker_pids(service.process)) == 2, "both workers")
        workers = worker_pids(service.process)
        assert service.process.stop(signal.SIGINT) == 0
        assert not [pid for pid in workers if _runs(pid)]


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def test_a_killed_worker_is_replaced_and_no_charge_is_doubled_or_lost(
    database: Database,
) -> None:
    with running_service(database, workers=2) as service:
        load = Load(service, [account_with_credits(service) for _ in range(8)], insist=True)
        wait_for(lambda: len(worker_pids(service.process)) == 2, "both workers")
        async with load.running():
            for _ in range(2):
                await load.more_answers(100)
                before = worker_pids(service.process)
                victim = min(before)
                psutil.Process(victim).kill()
                await asyncio.to_thread(
                    wait_for,
                    partial(has_two_workers_beside, service.process, victim),
                    "a new worker",
                )
                await load.more_answers(100)
                assert before - {victim} <= worker_pids(service.process)
        assert service.process.stop() == 0
    assert load.unanswered == set()  # requests were sent again and answered then
    load.check_against(database)


def test_workers_end_when_their_parent_is_killed(database: Database, tmp_path: Path) -> None:
    # What it can no longer remove is in a folder that pytest removes.
    with running_service(database, workers=2, TMPDIR=str(tmp_path)) as service:
        workers = worker_pids(service.process)
        service.process.process.kill()
        wait_for(lambda: not [pid for pid in workers if _runs(pid)], "the workers to end")
        assert _refuses(service)
