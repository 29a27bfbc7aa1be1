"""`ciris-billing serve` when things go wrong: signals, killed workers, a database that goes away,
accounts that others hold, a charge that the database chokes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import psutil
import psycopg
import pytest

from tests.ops.load import Load, account_with_credits
from tests.support import (
    BILLING,
    Database,
    Process,
    Service,
    TestCluster,
    charge_body,
    credit_body,
    free_port,
    has_two_workers_beside,
    held_account,
    identity,
    running_service,
    temporary_cluster,
    unique,
    wait_for,
    wait_until_healthy,
    worker_pids,
)

CHECK, CHARGES, CREDITS = (
    f"/v1/billing/{name}" for name in ("credits/check", "charges", "credits")
)
BATCH = "/v1/billing/charges:batch"
PROMPTLY = 1.0  # seconds; what nobody holds up takes a few milliseconds


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


@pytest.fixture(scope="module")
def impatient(module_database: Database) -> Iterator[Service]:
    """One worker, so that all requests meet, that waits three seconds for an account."""
    with running_service(module_database, LOCK_TIMEOUT="3") as service:
        yield service


@contextlib.asynccontextmanager
async def session_for(service: Service) -> AsyncIterator[aiohttp.ClientSession]:
    """Unlimited connections, presenting the service's key."""
    async with aiohttp.ClientSession(
        service.base_url,
        headers={"X-API-Key": service.key.secret},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=30),
    ) as session:
        yield session


async def timed_post(
    session: aiohttp.ClientSession, path: str, body: Any, headers: dict[str, str] | None = None
) -> tuple[int, float, dict[str, Any]]:
    """Status, seconds, body. A 503 must carry Retry-After."""
    began = time.monotonic()
    async with session.post(path, json=body, headers=headers) as answer:
        content = await answer.json()
        if answer.status == 503:
            assert int(answer.headers["Retry-After"]) >= 1
        return answer.status, time.monotonic() - began, content


async def charge_all(
    session: aiohttp.ClientSession, users: Sequence[str], **fields: Any
) -> list[tuple[int, float, dict[str, Any]]]:
    """A charge on each user, all at once."""
    return await asyncio.gather(
        *(timed_post(session, CHARGES, charge_body(user, **fields)) for user in users)
    )


async def arrived(service: Service, session: aiohttp.ClientSession, count: int = 1) -> None:
    """Returns when `count` requests are being worked on and those among them that are checks and
    charges have been tried: others, sent after them, have come back."""

    def in_progress() -> bool:
        text = httpx2.get(f"{service.base_url}/metrics", verify=False).text
        found = re.search(r"^billing_http_requests_in_progress (\S+)$", text, re.MULTILINE)
        return found is not None and float(found[1]) > count  # it counts itself

    await asyncio.to_thread(wait_for, in_progress, f"{count} requests to arrive")
    assert (await timed_post(session, CHECK, identity("bystander")))[0] == 200
    assert (await timed_post(session, CHARGES, charge_body("nobody")))[0] == 404


def calls(service: Service, function: str, result: str = "success") -> float:
    """How often the server has called a function."""
    name = f'billing_db_queries_total{{function="{function}",result="{result}"}} '
    lines = httpx2.get(f"{service.base_url}/metrics", verify=False).text.splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def exceptions(service: Service) -> str:
    """The first traceback in the server's log, for a failure's message."""
    for line in service.process.output.splitlines():
        if '"exception":' in line:
            return str(json.loads(line)["exception"])
    return ""


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
    assert min(seconds) < 4  # 2 s by itself; twice that where others compute beside it


def test_it_answers_before_it_has_loaded_what_only_some_requests_need(database: Database) -> None:
    environment: dict[str, Any] = {
        "PYTHONPROFILEIMPORTTIME": "1",  # Python writes down whatever it loads
        "ENCRYPTION_KEY": "0123456789abcdef-of-the-tests-only",
    }
    with running_service(database, **environment) as service:

        def loaded() -> set[str]:
            lines = service.process.output.splitlines()
            return {line.rpartition("|")[2].strip() for line in lines if "import time:" in line}

        at_start = loaded()
        assert {"aiohttp", "asyncpg", "pydantic"} <= at_start
        assert at_start & {"psycopg", "yoyo", "stripe", "requests", "authlib", "httpx2"} == set()
        # Then it does, before somebody has to wait for it.
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
                    # It has stopped to accept, and still works on what it has.
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
    """Or else the client sends its next request into a connection that is about to close."""
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
    assert load.unanswered == set()  # sent again, and answered then
    load.check_against(database)


def test_workers_end_when_their_parent_is_killed(database: Database, tmp_path: Path) -> None:
    # What it can no longer remove stays in a folder that pytest removes.
    with running_service(database, workers=2, TMPDIR=str(tmp_path)) as service:
        workers = worker_pids(service.process)
        service.process.process.kill()
        wait_for(lambda: not [pid for pid in workers if _runs(pid)], "the workers to end")
        assert _refuses(service)


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
    """By a fail-over, a proxy's time-out or an administrator."""
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
    # Without a key nothing may be tried again: charged when answered 201, once at most otherwise.
    rows = own_database.execute(
        "SELECT description, count(*) FROM billing_data.charges"
        " WHERE description LIKE 'keyless-%' GROUP BY 1"
    )
    assert {count for _, count in rows} == {1}
    assert set(keyless.values()) <= {201, 503}
    answered = {description for description, status in keyless.items() if status == 201}
    assert answered
    assert answered <= {description for description, _ in rows}


# Accounts that somebody else holds


@pytest.mark.alone
async def test_a_held_account_holds_up_no_other(
    impatient: Service, module_database: Database
) -> None:
    users = await asyncio.to_thread(
        lambda: [account_with_credits(impatient) for _ in range(10)],
    )
    held = users[4]
    async with session_for(impatient) as session:
        with held_account(module_database, held):
            answers = await charge_all(session, users * 3)
        for user, (status, seconds, body) in zip(users * 3, answers, strict=True):
            if user == held:
                assert status == 503
                assert body["code"] in ("unavailable", "busy")
                assert 0.9 < seconds < 4
            else:
                assert (status, seconds < PROMPTLY) == (201, True), (seconds, body)
        with held_account(module_database, held) as holder:
            waiting = asyncio.create_task(timed_post(session, CHARGES, charge_body(held)))
            await arrived(impatient, session)
            assert {status for status, _, _ in await charge_all(session, users[:4])} == {201}
            assert not waiting.done()
            holder.rollback()
            assert (await waiting)[0] == 201
    count = "SELECT count(*) FROM billing_data.charges AS c INNER JOIN billing_data.accounts AS a"
    charged = f"{count} ON a.id = c.account_id WHERE a.external_id = %s AND c.paid_with = 'paid'"
    assert module_database.value(charged, held) == 1


@pytest.mark.alone
async def test_an_account_that_is_free_again_does_not_wait_for_those_that_are_not(
    database: Database,
) -> None:
    with running_service(database, LOCK_TIMEOUT="3") as service:
        users = await asyncio.to_thread(
            lambda: [account_with_credits(service) for _ in range(5)],
        )
        async with session_for(service) as session:
            with contextlib.ExitStack() as holders:
                for user in users[:4]:
                    holders.enter_context(held_account(database, user))
                stuck = asyncio.gather(
                    *(timed_post(session, CHARGES, charge_body(user)) for user in users[:4])
                )
                await arrived(service, session, 4)
                with held_account(database, users[4]) as holder:
                    mine = asyncio.create_task(timed_post(session, CHARGES, charge_body(users[4])))
                    await arrived(service, session, 5)
                    holder.rollback()
                    released = time.monotonic()
                status, _, _ = await mine
                seconds = time.monotonic() - released
            await stuck
    assert status == 201
    assert seconds < 2 * PROMPTLY, f"it was free and yet waited for {seconds:.1f} s"


@pytest.mark.alone
async def test_a_check_that_changes_a_held_account_holds_up_no_other(
    impatient: Service, module_database: Database
) -> None:
    users = await asyncio.to_thread(
        lambda: [account_with_credits(impatient) for _ in range(6)],
    )
    held = users[2]
    changed = {"customer_email": "grace@example.com"}
    bodies = [{**identity(user), **changed} for user in users] + [identity(held)]
    async with session_for(impatient) as session:
        with held_account(module_database, held):
            answers = await asyncio.gather(*(timed_post(session, CHECK, body) for body in bodies))
        for body, (status, seconds, content) in zip(bodies, answers, strict=True):
            if body["external_id"] == held and "customer_email" in body:
                assert status == 503
                assert 0.9 < seconds < 4
            else:  # also the one that only reads the held account
                assert (status, seconds < PROMPTLY) == (200, True), (seconds, content)
        with held_account(module_database, held) as holder:
            waiting = asyncio.create_task(timed_post(session, CHECK, bodies[2]))
            await arrived(impatient, session)
            holder.rollback()
            assert (await waiting)[0] == 200
    email = "SELECT customer_email FROM billing_data.accounts WHERE external_id = %s"
    assert module_database.value(email, held) == "grace@example.com"


@pytest.mark.alone
@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_a_first_check_waits_for_who_is_creating_the_account_and_nobody_else_does(
    impatient: Service, module_database: Database, end: str
) -> None:
    user, others = unique(), [unique() for _ in range(5)]
    with psycopg.connect(module_database.dsn("t_dba")) as creator:
        creator.execute(
            "SELECT * FROM billing.create_account(p_oauth_provider => 'oauth:google',"
            " p_external_id => %s, p_plan_name => 'made by hand')",
            (user,),
        )
        async with session_for(impatient) as session:
            # Too long: the server does not wait for ever.
            answers = await asyncio.gather(
                *(timed_post(session, CHECK, identity(name)) for name in (user, *others))
            )
            assert answers[0][0] == 503
            for status, seconds, _ in answers[1:]:
                assert (status, seconds < PROMPTLY) == (200, True)
            waiting = asyncio.create_task(timed_post(session, CHECK, identity(user)))
            await arrived(impatient, session)
            getattr(creator, end)()
            status, _, content = await waiting
    assert status == 200
    assert content["plan_name"] == ("made by hand" if end == "commit" else "free")
    count = "SELECT count(*) FROM billing_data.accounts WHERE external_id = %s"
    assert module_database.value(count, user) == 1


@pytest.mark.alone
async def test_a_batch_request_with_a_held_account_answers_the_others(
    impatient: Service, module_database: Database
) -> None:
    users = await asyncio.to_thread(
        lambda: [account_with_credits(impatient) for _ in range(3)],
    )
    async with session_for(impatient) as session:
        with held_account(module_database, users[1]):
            body = {"charges": [charge_body(user) for user in users]}
            request = asyncio.create_task(timed_post(session, BATCH, body))
            await arrived(impatient, session)
            for status, seconds, _ in await charge_all(session, [users[0], users[2]]):
                assert (status, seconds < PROMPTLY) == (201, True)
            status, _, content = await request
    assert status == 200
    assert [result["status"] for result in content["results"]] == [201, 503, 201]


@pytest.mark.alone
@pytest.mark.parametrize("keyed", [False, True], ids=["without a key", "with a key"])
async def test_batch_requests_that_wait_for_an_account_hold_up_nothing_else(
    impatient: Service, module_database: Database, keyed: bool
) -> None:
    users = await asyncio.to_thread(
        lambda: [account_with_credits(impatient) for _ in range(6)],
    )
    body = {"charges": [charge_body(users[0])]}
    async with session_for(impatient) as session:
        with held_account(module_database, users[0]):
            waiting = [
                asyncio.create_task(
                    timed_post(
                        session, BATCH, body, {"Idempotency-Key": f"key-{number}"} if keyed else {}
                    )
                )
                for number in range(20)
            ]
            await arrived(impatient, session, 20)
            for status, seconds, _ in await charge_all(session, users[1:]):
                assert (status, seconds < PROMPTLY) == (201, True), seconds
            status, seconds, _ = await timed_post(session, CREDITS, credit_body(users[1]))
            assert (status, seconds < PROMPTLY) == (201, True), seconds
            assert not all(request.done() for request in waiting)
        for status, _, _ in await asyncio.gather(*waiting):
            assert status in (200, 503)


async def _keep_charging(session: aiohttp.ClientSession, users: list[str], until: Any) -> float:
    """Charges the users in turn until something is done; gives the longest one's seconds."""
    longest = 0.0
    while not until.done():
        for user in users:
            status, seconds, _ = await timed_post(session, CHARGES, charge_body(user))
            assert status == 201
            longest = max(longest, seconds)
    return longest


@pytest.mark.alone
@pytest.mark.parametrize("freed", [False, True], ids=["held for long", "freed in time"])
async def test_a_keyed_batch_with_a_held_account_holds_up_none_of_its_others(
    impatient: Service, module_database: Database, freed: bool
) -> None:
    users = await asyncio.to_thread(
        lambda: [account_with_credits(impatient) for _ in range(6)],
    )
    made = (
        "SELECT count(*) FROM billing_data.charges AS c"
        " INNER JOIN billing_data.accounts AS a ON a.id = c.account_id"
        " WHERE a.external_id = ANY (%s) AND c.description = 'batch'"
    )
    body = {"charges": [charge_body(user, description="batch") for user in users]}
    headers = {"Idempotency-Key": unique("batch")}
    async with session_for(impatient) as session:
        # Whichever is held: in the order of their ids, most of the others come before the last.
        held = module_database.value(
            "SELECT external_id FROM billing_data.accounts WHERE external_id = ANY (%s)"
            " ORDER BY id DESC LIMIT 1",
            users,
        )
        neighbours = [user for user in users if user != held]
        with held_account(module_database, held) as holder:
            batches = asyncio.gather(
                *(timed_post(session, BATCH, body, headers) for _ in range(3)),
                timed_post(session, BATCH, body, {"Idempotency-Key": unique("another")}),
            )
            await arrived(impatient, session, 4)
            charging = asyncio.create_task(_keep_charging(session, neighbours, batches))
            free = {"charges": [charge_body(user) for user in neighbours]}
            status, seconds, content = await timed_post(
                session, BATCH, free, {"Idempotency-Key": unique("free")}
            )
            assert (status, content["created_count"]) == (200, 5)
            assert seconds < PROMPTLY
            if freed:
                holder.rollback()
            answers = await batches
            assert await charging < PROMPTLY
        if not freed:
            for status, seconds, _ in answers:
                assert status == 503
                assert 2.9 < seconds < 6
            assert module_database.value(made, users) == 0
            answers = [await timed_post(session, BATCH, body, headers)]
        assert {status for status, _, _ in answers} == {200}
        assert {content["created_count"] for _, _, content in answers} == {6}
        (first, *again) = (content["results"] for _, _, content in answers[:3])
        assert all(results == first for results in again)
    assert module_database.execute(f"{made} GROUP BY a.id", users) == [(2 if freed else 1,)] * 6


@pytest.mark.alone
async def test_credits_that_wait_for_an_account_hold_up_nothing_else(
    impatient: Service, module_database: Database
) -> None:
    users = await asyncio.to_thread(
        lambda: [account_with_credits(impatient) for _ in range(2)],
    )
    fresh_key = module_database.create_key()
    async with session_for(impatient) as session:
        with held_account(module_database, users[0]):
            waiting = [
                asyncio.create_task(timed_post(session, CREDITS, credit_body(users[0])))
                for _ in range(12)
            ]
            await arrived(impatient, session, 12)
            for path, headers in (
                ("/health", {}),  # four slow requests must not take the server out of service
                (f"/v1/billing/accounts/oauth:google/{users[1]}", {}),
                (
                    f"/v1/billing/accounts/oauth:google/{users[1]}",
                    {"X-API-Key": fresh_key.secret},
                ),
            ):
                began = time.monotonic()
                async with session.get(path, headers=headers) as answer:
                    assert answer.status == 200, (path, await answer.text())
                assert time.monotonic() - began < PROMPTLY, path
            status, seconds, _ = await timed_post(session, CREDITS, credit_body(users[1]))
            assert (status, seconds < PROMPTLY) == (201, True), seconds
            assert not all(request.done() for request in waiting)
        assert {status for status, _, _ in await asyncio.gather(*waiting)} <= {201, 503}


async def test_credits_for_a_held_account_wait_for_the_lock_time_out_and_no_longer(
    database: Database,
) -> None:
    """However many of them stand in a row."""
    with running_service(database, LOCK_TIMEOUT="1") as service:
        held = await asyncio.to_thread(account_with_credits, service)
        async with session_for(service) as session:
            with held_account(database, held):
                answers = await asyncio.gather(
                    *(timed_post(session, CREDITS, credit_body(held)) for _ in range(8))
                )
            assert {status for status, _, _ in answers} == {503}
            assert max(seconds for _, seconds, _ in answers) < 3
            assert (await timed_post(session, CREDITS, credit_body(held)))[0] == 201


@pytest.mark.parametrize("kind", ["charge", "check", "batch", "keyed batch"])
async def test_who_holds_an_account_for_long_is_a_reason_to_refuse_unless_it_is_the_service(
    database: Database, kind: str
) -> None:
    with running_service(database, LOCK_TIMEOUT="1") as service:
        user = await asyncio.to_thread(account_with_credits, service)
        async with session_for(service) as session:

            async def call() -> tuple[int, float]:
                headers = {"Idempotency-Key": unique()} if kind == "keyed batch" else None
                path, body = {
                    "charge": (CHARGES, charge_body(user)),
                    "check": (
                        CHECK,
                        {**identity(user), "customer_email": f"{unique()}@example.com"},
                    ),
                }.get(kind, (BATCH, {"charges": [charge_body(user)]}))
                status, seconds, content = await timed_post(session, path, body, headers)
                if path == BATCH and status == 200:
                    status = content["results"][0]["status"]
                return status, seconds

            with held_account(database, user) as holder:
                status, seconds = await call()
                assert status == 503
                assert 0.9 < seconds < 3
                # As calls of a server, of this process or another one: they take turns.
                holder.execute("SET application_name = 'ciris-billing'")
                waiting = asyncio.create_task(call())
                await asyncio.sleep(1.5)
                assert not waiting.done()
                holder.rollback()
                assert (await waiting)[0] in (200, 201)
            with held_account(database, user) as holder:
                # But one that never ends is given up, too.
                holder.execute("SET application_name = 'ciris-billing'")
                status, seconds = await call()
                assert status == 503
                assert 1.9 < seconds < 6


async def test_hot_accounts_are_served_by_two_workers_without_a_refusal(
    database: Database,
) -> None:
    """Over hundreds of connections, with hardly any time to wait for a lock."""
    connections, each = 400, 6
    with running_service(database, workers=2, LOCK_TIMEOUT="0.05") as service:
        users = [await asyncio.to_thread(account_with_credits, service) for _ in range(4)]
        async with session_for(service) as session:

            async def charge_again_and_again(user: str) -> list[tuple[int, float, Any]]:
                body = charge_body(user)
                return [await timed_post(session, CHARGES, body) for _ in range(each)]

            clients = await asyncio.gather(
                *(charge_again_and_again(users[number % 4]) for number in range(connections))
            )
    answers = [answer for answers in clients for answer in answers]
    seconds = sorted(taken for _, taken, _ in answers)
    print(f"{len(seconds)} charges: p99 {seconds[-len(seconds) // 100]:.2f} s, {seconds[-1]:.2f} s")
    assert {status for status, _, _ in answers} == {201}
    paid = "SELECT count(*) FROM billing_data.charges WHERE paid_with = 'paid'"
    assert database.value(paid) == connections * each


async def test_a_full_queue_is_a_503_at_once(database: Database) -> None:
    with running_service(database, MAX_QUEUE="5", LOCK_TIMEOUT="10") as service:
        held = await asyncio.to_thread(account_with_credits, service)
        async with session_for(service) as session:
            with held_account(database, held) as holder:
                requests = [
                    asyncio.create_task(timed_post(session, CHARGES, charge_body(held)))
                    for _ in range(40)
                ]

                def refusals() -> list[tuple[int, float, dict[str, Any]]]:
                    return [request.result() for request in requests if request.done()]

                async with asyncio.timeout(5):
                    while len(refusals()) < 20:
                        await asyncio.sleep(0.01)
                for status, _, content in refusals():
                    assert status == 503
                    assert content["code"] == "unavailable"
                holder.rollback()
            statuses = [status for status, _, _ in await asyncio.gather(*requests)]
            # Those that had a place were charged, and there is room again.
            created = statuses.count(201)
            assert created > 0
            assert set(statuses) == {201, 503}
            paid = "SELECT count(*) FROM billing_data.charges WHERE paid_with = 'paid'"
            assert database.value(paid) == created
            assert (await timed_post(session, CHARGES, charge_body(held)))[0] == 201


async def test_a_busy_account_is_served_by_several_workers_without_a_refusal(
    database: Database,
) -> None:
    """Its own charges are all that holds it."""
    with running_service(database, workers=3) as service:
        user = await asyncio.to_thread(account_with_credits, service)
        async with session_for(service) as session:

            async def one_after_the_other() -> list[tuple[int, float, dict[str, Any]]]:
                body = charge_body(user)
                return [await timed_post(session, CHARGES, body) for _ in range(20)]

            clients = await asyncio.gather(*(one_after_the_other() for _ in range(60)))
        answers = [answer for answers in clients for answer in answers]
        seconds = sorted(taken for _, taken, _ in answers)
        print(f"1,200 charges on one account: p99 {seconds[-12]:.2f} s, most {seconds[-1]:.2f} s")
        assert [status for status, _, _ in answers if status != 201] == []
    paid = "SELECT count(*) FROM billing_data.charges WHERE paid_with = 'paid'"
    assert database.value(paid) == 1200
    assert database.execute("SELECT * FROM billing.verify_ledger()") == []


# A charge or check that the database chokes on


async def test_a_poisonous_charge_fails_alone(
    impatient: Service, module_database: Database
) -> None:
    users = await asyncio.to_thread(
        lambda: [account_with_credits(impatient) for _ in range(4)],
    )
    module_database.execute(
        "ALTER TABLE billing_data.charges ADD CONSTRAINT charges_poison"
        " CHECK (description <> 'poison') NOT VALID"
    )
    bodies = [
        charge_body(
            users[number % 4],
            description="poison" if number % 12 == 7 else "wholesome",
            idempotency_key=f"poison-{number}",
        )
        for number in range(60)
    ]
    try:
        async with session_for(impatient) as session:
            answers = await asyncio.gather(*(timed_post(session, CHARGES, body) for body in bodies))
            # In one request of several it is an error of that request, and nothing is charged.
            status, _, content = await timed_post(
                session,
                BATCH,
                {
                    "charges": [
                        charge_body(users[0], description=text, idempotency_key=f"batch-{text}")
                        for text in ("wholesome", "poison")
                    ]
                },
            )
    finally:
        module_database.execute("ALTER TABLE billing_data.charges DROP CONSTRAINT charges_poison")
    for body, (status_of_one, _, content_of_one) in zip(bodies, answers, strict=True):
        if body["description"] == "poison":
            assert status_of_one == 500
            assert content_of_one["detail"] == "Internal Server Error"
            assert set(content_of_one) == {"detail", "code", "request_id"}
        else:
            assert status_of_one == 201, (content_of_one, exceptions(impatient))
    # Each poisonous one failed once by itself, and before that others were in the same call.
    assert calls(impatient, "create_charges", "error") > 5
    keys = "SELECT idempotency_key FROM billing_data.charges WHERE idempotency_key LIKE %s"
    charged = {key for (key,) in module_database.execute(keys, "poison-%")}
    assert charged == {
        body["idempotency_key"] for body in bodies if body["description"] == "wholesome"
    }
    batched = {key for (key,) in module_database.execute(keys, "batch-%")}
    if status == 500:
        assert batched == set()
    else:
        assert [result["status"] for result in content["results"]] == [201, 500]
        assert batched == {"batch-wholesome"}
    assert module_database.execute("SELECT * FROM billing.verify_ledger()") == []


async def test_a_poisonous_charge_fails_alone_among_those_that_waited_for_an_account(
    impatient: Service, module_database: Database
) -> None:
    user = await asyncio.to_thread(account_with_credits, impatient)
    module_database.execute(
        "ALTER TABLE billing_data.charges ADD CONSTRAINT charges_poison"
        " CHECK (description <> 'poison') NOT VALID"
    )
    try:
        async with session_for(impatient) as session:
            with held_account(module_database, user) as holder:
                waiting = [
                    asyncio.create_task(
                        timed_post(
                            session,
                            CHARGES,
                            charge_body(user, description="poison" if number == 6 else "wholesome"),
                        )
                    )
                    for number in range(12)
                ]
                await arrived(impatient, session, 12)
                holder.rollback()
            statuses = [status for status, _, _ in await asyncio.gather(*waiting)]
    finally:
        module_database.execute("ALTER TABLE billing_data.charges DROP CONSTRAINT charges_poison")
    assert statuses == [201] * 6 + [500] + [201] * 5


async def test_a_poisonous_check_fails_alone(impatient: Service, module_database: Database) -> None:
    module_database.execute(
        "ALTER TABLE billing_data.credit_checks ADD CONSTRAINT credit_checks_poison"
        " CHECK (context_request_id IS DISTINCT FROM 'poison')"
    )
    bodies: list[dict[str, Any]] = [
        {**identity(), "context": {"request_id": "poison" if number % 12 == 7 else "wholesome"}}
        for number in range(60)
    ]
    try:
        async with session_for(impatient) as session:
            answers = await asyncio.gather(*(timed_post(session, CHECK, body) for body in bodies))
    finally:
        module_database.execute(
            "ALTER TABLE billing_data.credit_checks DROP CONSTRAINT credit_checks_poison"
        )
    for body, (status, _, content) in zip(bodies, answers, strict=True):
        expected = 500 if body["context"]["request_id"] == "poison" else 200
        assert status == expected, content
