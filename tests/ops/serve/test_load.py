"""`ciris-billing serve` with busy accounts, full queues, and charges that fail in the database."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from tests.ops.load import account_with_credits
from tests.ops.serve.helpers import (
    BATCH,
    CHARGES,
    CHECK,
    arrived,
    exceptions,
    session_for,
    timed_post,
)
from tests.support import (
    Database,
    Service,
    charge_body,
    held_account,
    identity,
    running_service,
    unique,
)


def calls(service: Service, function: str, result: str = "success") -> float:
    """How often the server has called a function."""
    name = f'billing_db_queries_total{{function="{function}",result="{result}"}} '
    lines = httpx2.get(f"{service.base_url}/metrics", verify=False).text.splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


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
                # Like calls of a server, in this process or another one: they take turns.
                holder.execute("SET application_name = 'ciris-billing'")
                waiting = asyncio.create_task(call())
                await asyncio.sleep(1.5)
                assert not waiting.done()
                holder.rollback()
                assert (await waiting)[0] in (200, 201)
            with held_account(database, user) as holder:
                # But the server gives up waiting for one that never ends, too.
                holder.execute("SET application_name = 'ciris-billing'")
                status, seconds = await call()
                assert status == 503
                assert 1.9 < seconds < 6


@pytest.mark.alone
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
            # The requests that had a place were charged, and there is room again.
            created = statuses.count(201)
            assert created > 0
            assert set(statuses) == {201, 503}
            paid = "SELECT count(*) FROM billing_data.charges WHERE paid_with = 'paid'"
            assert database.value(paid) == created
            assert (await timed_post(session, CHARGES, charge_body(held)))[0] == 201


@pytest.mark.alone
async def test_a_busy_account_is_served_by_several_workers_without_a_refusal(
    database: Database,
) -> None:
    """Only its own charges hold it."""
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


# A charge or check that makes the database fail


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
            # In a request with several charges it is an error of that request, and nothing is
            # charged.
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
    # Each of these charges failed once alone, after it had been in a call with others.
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
