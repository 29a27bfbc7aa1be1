"""Uses of the client package: credits are held while the work is done, and settled afterwards,
whatever becomes of the work."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import httpx2
import pytest
from ciris_billing_client import (
    AsyncBilling,
    AsyncUse,
    Billing,
    Capture,
    CaptureExceedsHold,
    HoldExpired,
    HoldSettled,
    InsufficientCredits,
    Metadata,
    NewCharge,
    NewHold,
    NotFound,
    Use,
    User,
)

from tests.clients.conftest import Either
from tests.clients.example import running_example
from tests.ops.load import account_with_credits
from tests.run import free_port
from tests.sql.holds import SECOND, stopped_clock
from tests.support import (
    Service,
    clean_environment,
    held_account,
    running_service,
    unique,
)


@pytest.fixture
def user(service: Service) -> User:
    """A user with ten credits and no free uses."""
    return User("oauth:google", account_with_credits(service, 10))


async def spend(
    billing: Either, user: User, up_to: int, work: Callable[[Any], None], **details: Any
) -> Use | AsyncUse:
    """A use in whose block this work is done."""
    use: Use | AsyncUse
    if isinstance(billing.client, Billing):
        with billing.client.use(user, up_to, **details) as use:
            work(use)
    else:
        async with billing.client.use(user, up_to, **details) as use:
            work(use)
    return use


def nothing(use: Any) -> None:
    """Work that does not settle."""


async def test_what_was_settled_is_taken_and_the_rest_is_free_again(
    billing: Either, user: User
) -> None:
    seen = []

    def work(use: Any) -> None:
        seen.append((use.hold.status, use.hold.held, use.hold.available))
        use.settle(2)
        use.settle(3)  # the last call counts

    use = await spend(billing, user, 5, work, description="a job", metadata=Metadata(agent_id="a"))
    assert seen == [("open", 5, 5)]
    hold = use.hold
    assert (hold.status, hold.captured_minor, hold.late) == ("captured", 3, False)
    assert (hold.balance, hold.held, hold.available) == (7, 0, 7)
    assert (hold.description, hold.metadata.agent_id) == ("a job", "a")
    assert await billing.get_hold(hold.hold_id) == hold
    [charge] = [entry for entry in await billing.all_history(user) if entry.amount_minor == -3]
    assert charge.transaction_id == hold.charge_id


async def test_all_that_is_held_is_taken_where_no_amount_is_settled(
    billing: Either, user: User
) -> None:
    use = await spend(billing, user, 4, lambda use: use.settle())
    assert (use.hold.captured_minor, use.hold.balance) == (4, 6)


@pytest.mark.parametrize("amount", [-1, 2.5, "3", True])
async def test_what_cannot_be_settled_is_refused_before_the_block_ends(
    billing: Either, user: User, amount: Any
) -> None:
    refused = []

    def work(use: Any) -> None:
        with pytest.raises(ValueError, match="0 or more"):
            use.settle(amount)
        refused.append(amount)

    use = await spend(billing, user, 5, work)
    assert (refused, use.hold.status) == ([amount], "released")


async def test_a_block_that_does_not_settle_gives_everything_back(
    billing: Either, user: User
) -> None:
    use = await spend(billing, user, 5, nothing)
    assert (use.hold.status, use.hold.available) == ("released", 10)


async def test_an_error_before_settling_gives_everything_back(billing: Either, user: User) -> None:
    uses = []

    def work(use: Any) -> None:
        uses.append(use)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await spend(billing, user, 5, work)
    assert uses[0].hold.status == "released"


async def test_what_was_settled_before_an_error_stays_taken(billing: Either, user: User) -> None:
    def work(use: Any) -> None:
        use.settle(2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        await spend(billing, user, 5, work)
    assert not hasattr(raised.value, "__notes__")
    assert (await billing.balance(user)).paid_credits == 8


async def test_without_enough_credits_the_work_is_not_begun(billing: Either, user: User) -> None:
    with pytest.raises(InsufficientCredits) as refused:
        await spend(billing, user, 11, pytest.fail)
    assert (refused.value.required, refused.value.shortfall) == (11, 1)
    with pytest.raises(NotFound):
        await spend(billing, User("oauth:google", unique()), 1, pytest.fail)


async def test_more_than_was_held_is_refused_or_taken_as_far_as_there_is(
    billing: Either, user: User
) -> None:
    with pytest.raises(CaptureExceedsHold) as refused:
        await spend(billing, user, 5, lambda use: use.settle(6))
    assert (refused.value.available, refused.value.required) == (5, 6)
    [hold] = (await billing.list_holds(user)).holds
    assert hold.status == "open"
    taken = await billing.capture(hold.hold_id, 6, overage="available")
    assert (taken.captured_minor, taken.available) == (6, 4)
    assert (await billing.capture(hold.hold_id, 6, overage="available")).replayed
    with pytest.raises(HoldSettled) as settled:
        await billing.release(hold.hold_id)
    assert settled.value.code == "hold_settled"


async def test_a_use_is_entered_once(billing: Either, user: User) -> None:
    use = await spend(billing, user, 2, lambda use: use.settle(1))
    with pytest.raises(RuntimeError, match="once"):
        _ = use.__enter__() if isinstance(use, Use) else await use.__aenter__()
    assert (await billing.balance(user)).paid_credits == 9


async def test_a_key_whose_use_was_given_back_does_no_work_for_nothing(
    billing: Either, user: User
) -> None:
    await spend(billing, user, 2, nothing, idempotency_key="job-1")
    with pytest.raises(HoldSettled, match="another key"):
        await spend(billing, user, 2, pytest.fail, idempotency_key="job-1")
    for _ in range(2):  # what was taken before is taken once
        await spend(billing, user, 2, lambda use: use.settle(1), idempotency_key="job-2")
    assert (await billing.balance(user)).paid_credits == 9


async def test_a_failure_to_settle_does_not_hide_the_error_of_the_block(
    billing: Either, user: User, caplog: pytest.LogCaptureFixture
) -> None:
    def work(use: Any) -> None:
        use.settle(6)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        await spend(billing, user, 5, work)
    assert "was not settled: 409 capture_exceeds_hold" in raised.value.__notes__[0]
    assert "was not settled" in caplog.text


async def test_a_hold_is_tried_made_once_extended_and_released(billing: Either, user: User) -> None:
    assert (await billing.try_hold(user, 10)).available == 0
    assert (await billing.list_holds(user)).holds == ()
    hold = await billing.hold(user, 4, expires_in_seconds=60, idempotency_key="job-1")
    again = await billing.hold(user, 4, expires_in_seconds=60, idempotency_key="job-1")
    assert (again.hold_id, again.replayed, again.available) == (hold.hold_id, True, 6)
    longer = await billing.extend(hold.hold_id, 600)
    assert (longer.expires_at - hold.expires_at).total_seconds() > 500
    assert (await billing.release(hold.hold_id, "not needed")).available == 10


async def test_a_check_holds_in_the_same_call(billing: Either, user: User) -> None:
    wanted = NewHold(amount=7, expires_in_seconds=60, description="a job", idempotency_key="job")
    for _ in range(2):  # the same hold, under its key
        check = await billing.check(user, hold=wanted)
        assert (check.has_credit, check.hold.status, check.hold.available) == (True, "open", 3)
    assert (check.held, check.available) == (7, 3)
    refused = await billing.check(user, hold=NewHold(amount=7))
    assert (refused.has_credit, refused.hold) == (False, None)
    assert (await billing.capture(check.hold.hold_id, 2)).available == 8
    assert len((await billing.list_holds(user)).holds) == 1


async def test_a_batch_captures_beside_its_charges(billing: Either, user: User) -> None:
    hold = await billing.hold(user, 5)
    entries = [
        NewCharge(user=user),
        Capture(hold_id=hold.hold_id, amount=2),
        Capture(hold_id=uuid4()),
    ]
    key = unique("batch")
    for _ in range(2):
        batch = await billing.batch(entries, idempotency_key=key)
        charge, captured, unknown = (result.outcome for result in batch.results)
        assert (charge.amount_minor, captured.status, captured.captured_minor) == (1, "captured", 2)
        assert isinstance(unknown, NotFound)
    assert batch.replayed
    assert (await billing.balance(user)).paid_credits == 7


async def test_a_free_use_can_be_held(billing: Either) -> None:
    user = User("oauth:google", unique())
    await billing.check(user)
    use = await spend(billing, user, 5, lambda use: use.settle(2))
    assert (use.hold.paid_with, use.hold.free_uses_available) == ("free", 2)


async def test_a_cancelled_block_gives_everything_back(service: Service, user: User) -> None:
    async with AsyncBilling(service.base_url, service.key.secret) as billing:
        with anyio.CancelScope() as scope:
            async with billing.use(user, 5) as use:
                scope.cancel()
                await anyio.sleep_forever()
        assert (await billing.get_hold(use.hold.hold_id)).status == "released"


async def test_a_use_that_is_cancelled_while_it_settles_is_settled_all_the_same(
    service: Service, user: User
) -> None:
    """As when a web server cancels the request of a client that hung up."""

    async def work() -> None:
        async with billing.use(user, 5) as use:
            use.settle(3)
            holds.append(use.hold.hold_id)
            await may_end.wait()

    holds: list[UUID] = []
    may_end = asyncio.Event()
    with running_service(service.database, LOCK_TIMEOUT="0.2") as impatient:
        async with AsyncBilling(impatient.base_url, impatient.key.secret) as billing:
            task = asyncio.create_task(work())
            while not holds:
                await asyncio.sleep(0.01)
            with held_account(service.database, user.external_id):
                may_end.set()
                # The server refuses the first attempt meanwhile.
                assert not (await asyncio.wait([task], timeout=0.5))[0]
                task.cancel()
                assert not (await asyncio.wait([task], timeout=0.1))[0]
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await billing.get_hold(holds[0])).captured_minor == 3


async def test_the_hold_of_a_process_that_died_expires(
    service: Service, user: User, tree: Path
) -> None:
    program = (
        "import os, signal\n"
        "from ciris_billing_client import Billing\n"
        f"with Billing().use({tuple(user)!r}, 5, expires_in_seconds=60) as use:\n"
        "    use.settle(5)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    died = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        env={
            **clean_environment(),
            "PYTHONPATH": str(tree / "clients/python"),
            "CIRIS_BILLING_URL": service.base_url,
            "CIRIS_BILLING_API_KEY": service.key.secret,
        },
    )
    assert died.returncode == -signal.SIGKILL
    async with AsyncBilling(service.base_url, service.key.secret) as billing:
        [hold] = (await billing.list_holds(user)).holds
        assert (hold.status, hold.available) == ("open", 5)
        with stopped_clock(service.database, 59 * SECOND, hold.created_at):
            assert (await billing.check(user)).credits_remaining == 5
        with stopped_clock(service.database, 60 * SECOND, hold.created_at):
            assert (await billing.check(user)).credits_remaining == 10
            assert (await billing.get_hold(hold.hold_id)).status == "expired"


async def test_a_late_use_is_settled_while_the_credits_are_there(
    billing: Either, user: User, service: Service
) -> None:
    first = await billing.hold(user, 5)
    second = await billing.hold(user, 5)
    with stopped_clock(service.database, 901 * SECOND, second.created_at):
        late = await billing.capture(first.hold_id, 4)
        assert (late.late, late.captured_minor, late.available) == (True, 4, 6)
        await billing.charge(user, 4)
        with pytest.raises(HoldExpired) as over:
            await billing.capture(second.hold_id)
        assert (over.value.available, over.value.required) == (2, 5)


def test_the_aiohttp_example_answers_takes_and_refuses(service: Service, tree: Path) -> None:
    user, port = account_with_credits(service, 6), free_port()
    with (
        running_example(service, tree, port),
        httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):

        def ask(who: str, question: str) -> httpx2.Response:
            return client.post("/ask", json={"user": who, "question": question})

        first = ask(user, "How are you?")
        assert first.status_code == 200
        assert (first.json()["credits_used"], first.json()["credits_left"]) == (3, 3)
        refused = ask(user, "And you?")  # five cannot be held of three
        assert (refused.status_code, refused.json()["error"]) == (402, "no credits left")
        fresh = ask(unique(), "Hello").json()
        assert (fresh["paid_with"], fresh["free_uses_left"]) == ("free", 2)
        assert ask(unique(), "").status_code == 422
