"""`ciris-billing serve` and accounts that somebody else holds."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import psycopg
import pytest

from tests.ops.load import account_with_credits
from tests.ops.serve.helpers import (
    BATCH,
    CHARGES,
    CHECK,
    CREDITS,
    arrived,
    session_for,
    timed_post,
)
from tests.support import (
    Database,
    Service,
    charge_body,
    credit_body,
    held_account,
    identity,
    running_service,
    unique,
)

PROMPTLY = 1.0  # seconds; a request that is not delayed takes a few milliseconds


async def charge_all(
    session: aiohttp.ClientSession, users: Sequence[str], **fields: Any
) -> list[tuple[int, float, dict[str, Any]]]:
    """Sends a charge for each user, all at once."""
    return await asyncio.gather(
        *(timed_post(session, CHARGES, charge_body(user, **fields)) for user in users)
    )


# Accounts that another session holds


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
            else:  # also for a call that only reads the held account
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
    """Charges the users in turn until `until` is done; returns the seconds of the longest
    charge."""
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
        # The held account should be the last by id: then most of the others come before it.
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
    """However many of them wait in a row."""
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
