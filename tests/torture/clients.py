"""The load: each client works on an account of its own, and all clients on a few hot ones. Every
answer is compared with what may be true."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import aiohttp

from tests.support import charge_body, credit_body, identity
from tests.torture.history import Answer, History, Json
from tests.torture.holds import Holder
from tests.torture.model import Account, Write, WrongAnswer
from tests.torture.stage import Stage

PROVIDER = "oauth:google"
PATIENCE = 12.0  # seconds a client waits for an answer
_MOST_PENDING = 5


class Client:
    """Works on its account, one request after the other, until it is told to stop."""

    def __init__(
        self,
        stage: Stage,
        session: aiohttp.ClientSession,
        history: History,
        *,
        name: str,
        hot: list[str],
        scarce: list[str],
        rng: Random,
    ) -> None:
        self._stage = stage
        self._session = session
        self._history = history
        self.name = name
        self.account = Account()
        self._hot = hot
        self._rng = rng
        self._count = 0
        self.answered_at = 0.0  # when the last request with a definite answer was sent
        self._begun_at = 0.0
        self.stopping = False
        self._holder = Holder(self._ask, history, name=name, accounts=scarce, rng=rng)

    async def run(self) -> None:
        """Works until it is told to stop; a wrong answer ends it."""
        actions: list[tuple[Callable[[], Awaitable[Any]], int]] = [
            (self._check, 4),
            (self._charge, 6),
            (self._charge_with_body_key, 2),
            (self._charge_once, 3),
            (self._charge_hot, 3),
            (self._grant, 2),
            (self._batch, 2),
            (self._read_history, 1),
            *self._holder.actions(),
        ]
        try:
            while not await self._check():
                pass
            while not self.stopping:
                action = self._rng.choices([a for a, _ in actions], [w for _, w in actions])[0]
                self._begun_at = time.monotonic()
                await action()
        except WrongAnswer as wrong:
            self._history.faults.append(f"{self.name}: {wrong}")

    # Each action sends one request and judges the answer.

    async def _check(self) -> bool:
        answer = await self._ask("POST", "credits/check", identity(self.name))
        if answer is None:
            return False
        body = answer.body
        seen = (body["free_uses_remaining"], body["credits_remaining"], body["total_uses"])
        self.account.seen(
            f"a check said {body}",
            lambda state: (
                (state.free, state.paid, state.uses) == seen
                and body["has_credit"] == (state.free > 0 or state.paid > 0)
            ),
        )
        return True

    async def _charge(self) -> None:
        write = self._write(-self._rng.randint(1, 3))
        body = charge_body(self.name, -write.amount, description=write.name)
        await self._insist("charges", body, write, {"Idempotency-Key": write.name})

    async def _charge_with_body_key(self) -> None:
        write = self._write(-1)
        body = charge_body(self.name, description=write.name, idempotency_key=write.name)
        await self._insist("charges", body, write, {})

    async def _charge_once(self) -> None:
        if len(self.account.pending) >= _MOST_PENDING:
            return
        write = self._write(-1)
        answer = await self._ask(
            "POST", "charges", charge_body(self.name, description=write.name), wanted=(201, 402)
        )
        if answer is None:
            self.account.unknown(write)
        else:
            self._judge(write, answer)

    async def _charge_hot(self) -> None:
        write = self._write(-1)
        self._history.hot.add(write.name)
        body = charge_body(self._rng.choice(self._hot), description=write.name)
        while (
            answer := await self._ask("POST", "charges", body, {"Idempotency-Key": write.name})
        ) is None:
            await asyncio.sleep(0.02)
        self._history.acknowledged[write.name] = answer.body

    async def _grant(self) -> None:
        write = self._write(self._rng.randint(1, 4))
        body = credit_body(self.name, write.amount, description=write.name)
        await self._insist("credits", body, write, {"Idempotency-Key": write.name})

    async def _batch(self) -> None:
        """Two charges under one key for the whole list."""
        writes = [self._write(-1), self._write(-1)]
        charges = [charge_body(self.name, description=write.name) for write in writes]
        headers = {"Idempotency-Key": writes[0].name}
        while (
            answer := await self._ask("POST", "charges:batch", {"charges": charges}, headers)
        ) is None:
            for write in writes:
                self.account.unknown(write)
            await asyncio.sleep(0.02)
        if not all(result["status"] in (201, 402) for result in answer.body["results"]):
            raise WrongAnswer(f"a batch was answered {answer.body}")
        for write, result in zip(writes, answer.body["results"], strict=True):
            self._judge(
                write,
                Answer(result["status"], result["body"], answer.headers, answer.sent_at),
                # Of a batch that was tried before, only the first attempt saw the balance.
                exactly=write.name not in self.account.pending,
            )

    async def _read_history(self) -> None:
        answer = await self._ask(
            "GET", "transactions", None, query={**identity(self.name), "limit": "1"}
        )
        if answer is not None:
            total = answer.body["total_count"]
            self.account.seen(
                f"the history counts {total}", lambda state: len(state.applied) == total
            )

    # Asking and judging.

    def _write(self, amount: int) -> Write:
        self._count += 1
        write = Write(f"{self.name}-{self._count}", amount)
        self._history.asked.add(write.name)
        return write

    async def _insist(self, path: str, body: Json, write: Write, headers: dict[str, str]) -> None:
        """Sends the request again until there is a definite answer."""
        while True:
            answer = await self._ask("POST", path, body, headers, wanted=(201, 402, 409))
            if answer is not None:
                self._judge(write, answer)
                return
            self.account.unknown(write)
            await asyncio.sleep(0.02)

    def _judge(self, write: Write, answer: Answer, *, exactly: bool = True) -> None:
        what = f"{write} was answered {answer.status} {answer.body}"
        if answer.status == 402:
            balance = answer.body["balance"]
            self.account.refused(write, what, lambda state: not exactly or state.paid == balance)
            if not exactly:  # the recorded answer is repeated to all attempts
                self.account.pending.pop(write.name, None)
            return
        body = answer.body
        if answer.status == 409:
            # Also when it was sent once: the server sends it again when its answer was lost.
            body = body["charge" if write.amount < 0 else "credit"]
        self._history.acknowledged[write.name] = body
        after = body["balance_after"]
        free = body.get("free_uses_remaining")
        self.account.written(
            write,
            what,
            lambda state: state.paid == after and free in (None, state.free),
        )

    async def _ask(
        self,
        method: str,
        path: str,
        body: Json | None,
        headers: dict[str, str] | None = None,
        *,
        query: dict[str, str] | None = None,
        wanted: tuple[int, ...] = (200, 201),
    ) -> Answer | None:
        """Returns a definite answer; None when the outcome is unknown or the service could not
        answer."""
        secret = self._stage.key.secret
        sent_at = time.monotonic()
        try:
            async with self._session.request(
                method,
                f"{self._stage.base_url}/v1/billing/{path}",
                json=body,
                params=query,
                headers={"X-API-Key": secret, **(headers or {})},
            ) as response:
                answer = Answer(response.status, await response.json(), response.headers, sent_at)
        except (aiohttp.ClientError, TimeoutError):
            self._history.refusals += 1
            return None
        self._history.answers += 1
        if answer.status == 401 and secret != self._stage.key.secret:
            return None  # the key was revoked meanwhile
        if answer.status == 503 and "Retry-After" in answer.headers:
            self._history.refusals += 1
            return None
        retired = self._stage.retired.get(secret)
        if retired is not None and sent_at > retired:
            raise WrongAnswer(f"a revoked key was answered {answer.status} {answer.body}")
        if answer.status not in wanted:
            raise WrongAnswer(f"{method} {path} {body} was answered {answer.status} {answer.body}")
        self.answered_at = max(self.answered_at, sent_at)
        return answer
