"""When the client package repeats a call, when it does not, and how long it waits. The steps of a
call need no server: these tests play its part."""

from __future__ import annotations

import asyncio
import json
import math
import pickle
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from ciris_billing_client import (
    AsyncBilling,
    Billing,
    CapReached,
    InsufficientCredits,
    NoAnswer,
    RateLimited,
    ServiceFault,
    Unavailable,
    UnreadableAnswer,
    User,
    operations,
)
from ciris_billing_client.exchange import (
    Lost,
    Operation,
    Options,
    Pause,
    Reply,
    Send,
    exchange,
    retry_after,
)

from tests.run import free_port
from tests.support import Service, held_account, running_service, unique

ADA = User("oauth:google", "ada")
CHECKED = Reply(
    200,
    {},
    b'{"has_credit":true,"credits_remaining":0,"plan_name":"free","reason":null,'
    b'"free_uses_remaining":3,"total_uses":0,"purchase_required":false,'
    b'"purchase_price_minor":null,"purchase_uses":null,"a_later_field":1}',
)
LOST = Lost("the connection broke")


def reply(status: int, **headers: str) -> Reply:
    body = b'{"detail":"no","code":"some_code","request_id":"r"}'
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


class Run:
    """A call whose service gives these answers. `sent` and `pauses` say what the call did; its
    clock goes on by its pauses alone."""

    def __init__(
        self,
        operation: Operation[Any],
        answers: Iterable[Reply | Lost],
        *,
        chance: float = 1.0,
        **options: float,
    ) -> None:
        self.sent: list[Send] = []
        self.pauses: list[float] = []
        self.now = 1000.0
        self.result: Any = None
        self.error: Exception | None = None
        steps = exchange(
            operation,
            Options(**options),  # type: ignore[arg-type]
            clock=lambda: self.now,
            chance=lambda: chance,
        )
        coming = iter(answers)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    self.pauses.append(step.seconds)
                    self.now += step.seconds
                    step = steps.send(None)
                else:
                    self.sent.append(step)
                    step = steps.send(next(coming))
        except StopIteration as end:
            self.result = end.value
        except Exception as error:
            self.error = error


@pytest.mark.parametrize("failure", [LOST, reply(429), reply(502), reply(503), reply(504)], ids=str)
def test_what_may_pass_is_repeated_with_the_same_key(failure: Reply | Lost) -> None:
    run = Run(operations.check(ADA), [failure, CHECKED])
    assert run.result.has_credit
    charging = Run(operations.charge(ADA), [failure, reply(402)])
    assert isinstance(charging.error, InsufficientCredits)
    first, second = charging.sent
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert first.content == second.content
    assert first.headers["X-Request-ID"] == second.headers["X-Request-ID"]


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 415, 422, 500])
def test_what_will_not_pass_is_not_repeated(status: int) -> None:
    run = Run(operations.charge(ADA), [reply(status)])
    assert len(run.sent) == 1
    assert run.error is not None
    assert run.error.status == status  # type: ignore[attr-defined]
    assert run.error.idempotency_key == run.sent[0].headers["Idempotency-Key"]  # type: ignore[attr-defined]


def test_a_cap_that_will_free_is_waited_for_and_one_that_is_too_small_is_not() -> None:
    cap = {
        "cap_id": "019a9c2e-51d0-7c3b-8a44-6f1e2d3c4b5a",
        "scope": "api_key",
        "period": "minute",
        "limit": 1000,
        "used": 998,
        "resets_at": "2026-11-23T00:00:00Z",
    }
    body: dict[str, Any] = {"code": "cap_reached", "cap": cap, "required": 5, "retryable": True}
    frees = Reply(429, {"retry-after": "9"}, json.dumps(body).encode())
    assert Run(operations.charge(ADA), [frees, reply(402)], chance=0.0).pauses == [9]
    too_small = json.dumps({**body, "retryable": False}).encode()
    run = Run(operations.charge(ADA), [Reply(429, {"retry-after": "9"}, too_small)])
    assert isinstance(run.error, CapReached)
    assert (run.error.cap.limit, run.error.cap.period, run.error.required) == (1000, "minute", 5)
    assert run.pauses == []


@pytest.mark.parametrize("failure", [LOST, reply(429), reply(503)], ids=str)
def test_what_writes_without_a_key_is_never_repeated(failure: Reply | Lost) -> None:
    keyless = Operation("POST", "/v1/billing/charges", operations.charge(ADA).read, {})
    run = Run(keyless, [failure])
    assert len(run.sent) == 1
    assert isinstance(run.error, NoAnswer | RateLimited | Unavailable)


def test_the_pauses_grow_are_random_and_bounded() -> None:
    longest = Run(operations.check(ADA), [LOST] * 9, deadline=1000)
    assert longest.pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    shortest = Run(operations.check(ADA), [LOST] * 9, chance=0.0)
    assert shortest.pauses == [0.0] * 8
    assert isinstance(shortest.error, NoAnswer)


def test_retry_after_is_waited_for_and_a_little_more() -> None:
    run = Run(operations.check(ADA), [reply(503, retry_after="3"), CHECKED], chance=0.5)
    assert run.pauses == [3.05]


def test_a_date_in_retry_after_is_understood_and_nonsense_is_not() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    wanted = retry_after({"retry-after": date})
    assert wanted is not None
    assert 50 < wanted <= 60
    assert retry_after({"retry-after": "Thu, 01 Jan 2026 00:00:00 GMT"}) == 0
    for nonsense in ("", "soon", "-1", "1.5", "٣", f"Fri, 01 Jan 2026 {10**20}:00:00"):
        assert retry_after({"retry-after": nonsense}) is None


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    run = Run(operations.check(ADA), [reply(429, retry_after="60")], deadline=30)
    assert isinstance(run.error, RateLimited)
    assert run.error.retry_after == 60
    assert (len(run.sent), run.pauses) == (1, [])


def test_an_attempt_has_no_more_time_than_the_call() -> None:
    answers = [reply(503, retry_after="4"), CHECKED]
    run = Run(operations.check(ADA), answers, timeout=10, deadline=5, chance=0.0)
    assert [step.timeout for step in run.sent] == [5, 1]


@pytest.mark.parametrize(
    "limit",
    [
        {"timeout": 0.0}, {"timeout": -1.0}, {"timeout": math.inf}, {"timeout": 1e300},
        {"timeout": math.nan}, {"deadline": 0.0}, {"deadline": math.nan}, {"retries": -1},
    ],
    ids=str,
)  # fmt: skip
def test_a_limit_that_is_none_is_refused_at_once(limit: dict[str, Any]) -> None:
    client = Billing("http://127.0.0.1:9", "cbk_test_x")
    for make in (
        lambda: Billing("http://127.0.0.1:9", "cbk_test_x", **limit),
        lambda: AsyncBilling("http://127.0.0.1:9", "cbk_test_x", **limit),
        lambda: client.with_options(**limit),
    ):
        with pytest.raises(ValueError, match=f"^{next(iter(limit))} must be"):
            make()
    client.with_options(deadline=math.inf).close()


def test_no_answer_tells_the_key_under_which_to_ask_again() -> None:
    run = Run(operations.charge(ADA, idempotency_key="job-1"), [LOST, LOST], retries=1)
    assert isinstance(run.error, NoAnswer)
    assert run.error.idempotency_key == "job-1"
    assert run.error.request_id in str(run.error)


def test_an_answer_of_a_later_release_is_read_and_one_of_another_service_is_an_error() -> None:
    assert Run(operations.check(ADA), [CHECKED]).result.free_uses_remaining == 3
    strange = Run(operations.check(ADA), [Reply(200, {}, b"<html>")])
    assert isinstance(strange.error, UnreadableAnswer)
    proxy = Run(operations.check(ADA), [Reply(500, {}, b"<html>\xff")])
    assert isinstance(proxy.error, ServiceFault)
    assert "<html>" in str(proxy.error)
    other = Run(operations.check(ADA), [Reply(402, {}, b'{"code": "cap_reached", "cap": {}}')])
    assert isinstance(other.error, CapReached)
    absent: list[Any] = [other.error.cap, other.error.required]
    assert absent == [None, None]
    for body in (b'{"detail":"\xff"}', b'{"a":' * 100_000):
        assert isinstance(Run(operations.check(ADA), [Reply(500, {}, body)]).error, ServiceFault)
        unread = Run(operations.check(ADA), [Reply(200, {}, body)])
        assert isinstance(unread.error, UnreadableAnswer)


def test_an_error_reaches_another_process_whole() -> None:
    """A worker pool pickles it."""
    lost = Run(operations.charge(ADA, idempotency_key="k"), [LOST], retries=0).error
    refused = Run(operations.charge(ADA, idempotency_key="k"), [reply(402)]).error
    for error in (lost, refused):
        copied = pickle.loads(pickle.dumps(error))
        assert (type(copied), str(copied)) == (type(error), str(error))
        assert vars(copied) == vars(error)


@pytest.mark.parametrize("key", ["", " ", " a", "a ", "a\nb", "ключ", "k" * 256])
def test_a_key_that_no_header_can_carry_is_refused_before_it_is_sent(key: str) -> None:
    with pytest.raises(ValueError, match="idempotency key"):
        operations.charge(ADA, idempotency_key=key)


# With a real server


async def test_a_locked_account_is_waited_for(service: Service) -> None:
    """The server answers 503 with Retry-After while another session holds the account."""
    user = User("oauth:google", unique())
    with running_service(service.database, LOCK_TIMEOUT="0.2") as impatient:
        async with AsyncBilling(impatient.base_url, impatient.key.secret) as billing:
            await billing.check(user)
            with held_account(service.database, user.external_id):
                with pytest.raises(Unavailable) as refused:
                    await billing.with_options(retries=0).charge(user, idempotency_key="k")
                assert refused.value.retry_after is not None
                waiting = asyncio.create_task(billing.charge(user, idempotency_key="k"))
                done, _ = await asyncio.wait([waiting], timeout=0.5)
                assert not done
            charge = await waiting
            assert not charge.replayed


async def test_a_call_to_nobody_ends_with_its_deadline() -> None:
    url, key = f"http://127.0.0.1:{free_port()}", "cbk_test_x"
    with pytest.raises(NoAnswer):
        await AsyncBilling(url, key, deadline=0.3).charge(ADA)
    with pytest.raises(NoAnswer), Billing(url, key, deadline=0.3) as billing:
        billing.charge(ADA)


async def test_a_service_that_is_silent_costs_no_more_than_the_deadline() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with AsyncBilling(url, "cbk_test_x", deadline=0.3) as billing:
            async with asyncio.timeout(10):
                with pytest.raises(NoAnswer):
                    await billing.charge(ADA)

        def sync() -> None:
            with Billing(url, "cbk_test_x", deadline=0.3) as billing:
                billing.charge(ADA)

        async with asyncio.timeout(10):
            with pytest.raises(NoAnswer):
                await asyncio.to_thread(sync)


async def test_an_answer_that_comes_in_pieces_costs_no_more_than_the_deadline() -> None:
    """httpx2 bounds each piece. A service that sends its headers byte by byte is never silent, and
    one that sends a piece just before the deadline has the time for another."""

    async def head(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def body(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")
        await asyncio.sleep(0.9 * deadline)
        writer.write(b"}")
        await asyncio.sleep(9 * deadline)

    async def asking(drip: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> None:
        async def drop_by_drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            dripping = asyncio.ensure_future(drip(writer))
            with suppress(ConnectionError):
                await reader.read()  # until the client hangs up
            dripping.cancel()
            await asyncio.wait([dripping])
            writer.close()
            hung_up.release()

        hung_up = asyncio.Semaphore(0)
        server = await asyncio.start_server(drop_by_drop, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        billing = Billing(url, "cbk_test_x", deadline=deadline)
        client = AsyncBilling(url, "cbk_test_x", deadline=deadline)
        ended = await asyncio.gather(
            timed(client.charge(ADA)), timed(asyncio.to_thread(billing.charge, ADA))
        )
        assert max(ended) < 1.6 * deadline
        await client.aclose()
        billing.close()
        for _ in ended:
            await hung_up.acquire()
        server.close()

    async def timed(call: Awaitable[object]) -> float:
        started = time.monotonic()
        with pytest.raises(NoAnswer):
            await call
        return time.monotonic() - started

    deadline = 1.0
    async with asyncio.timeout(30):
        await asyncio.gather(asking(head), asking(body))
