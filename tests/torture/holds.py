"""Holds under load: they are made, captured, released, extended, or end by themselves, on accounts
that all clients share and that have few credits. Every request is sent again until it is answered,
and some that were answered are sent once more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from random import Random

from tests.support import charge_body, credit_body, identity
from tests.torture.history import Answer, History, Hold, Json
from tests.torture.model import WrongAnswer

_MOST_KNOWN = 8  # holds that a client goes on working with
_REFUSED = (402, 409)


class Holder:
    """The part of a client that works with holds. `ask` sends one request, and returns None when
    its outcome is unknown."""

    def __init__(
        self,
        ask: Callable[..., Awaitable[Answer | None]],
        history: History,
        *,
        name: str,
        accounts: Sequence[str],
        rng: Random,
    ) -> None:
        self._ask = ask
        self._history = history
        self._name = name
        self._accounts = accounts
        self._rng = rng
        self._count = 0
        self._holds: list[Hold] = []

    def actions(self) -> list[tuple[Callable[[], Awaitable[None]], int]]:
        """What it does, and how often."""
        return [
            (self._make, 4),
            (self._make_with_check, 2),
            (self._capture, 5),
            (self._capture_together, 2),
            (self._release, 1),
            (self._extend, 1),
            (self._charge, 1),
            (self._grant, 1),
        ]

    async def _make(self) -> None:
        hold = self._new_hold()
        body = {**self._some_account(), **self._terms(hold)}
        answer = await self._insist("holds", body, {"Idempotency-Key": hold.name})
        if answer.status != 402:
            self._made(hold, answer.body)

    async def _make_with_check(self) -> None:
        hold = self._new_hold()
        terms = {**self._terms(hold), "idempotency_key": hold.name}
        answer = await self._insist("credits/check", {**self._some_account(), "hold": terms})
        if answer.body["has_credit"] != (answer.body["hold"] is not None):
            raise WrongAnswer(f"a check with hold {hold.name} was answered {answer.body}")
        if answer.body["has_credit"]:
            self._made(hold, answer.body["hold"])

    async def _capture(self) -> None:
        for hold in self._some_holds(1):
            body = self._usage(hold)
            answer = await self._insist(f"holds/{hold.id}/capture", body)
            self._captured(hold, body, answer.status, answer.body)

    async def _capture_together(self) -> None:
        """Captures and a charge in one list, under a key of the list or without one."""
        holds, charge = self._some_holds(2), self._new_name()
        captures = [self._usage(hold) | {"hold_id": hold.id} for hold in holds]
        body = charge_body(self._rng.choice(self._accounts), description=charge)
        body["idempotency_key"] = charge
        headers = self._rng.choice([{}, {"Idempotency-Key": charge}])
        answer = await self._insist("charges:batch", {"charges": [*captures, body]}, headers)
        *captured, charged = answer.body["results"]
        for hold, usage, result in zip(holds, captures, captured, strict=True):
            self._captured(hold, usage, result["status"], result["body"])
        self._acknowledge(charge, charged["status"], charged["body"])

    async def _release(self) -> None:
        for hold in self._some_holds(1):
            hold.asked.add("released")
            answer = await self._insist(f"holds/{hold.id}/release", {})
            if answer.status == 200:
                self._settled(hold, answer.body, "released")
            else:
                self._refused(hold, answer.body, "hold_settled")

    async def _extend(self) -> None:
        for hold in self._some_holds(1):
            body = {"expires_in_seconds": self._rng.choice([1, 2, 900])}
            answer = await self._insist(f"holds/{hold.id}/extend", body)
            if answer.status == 200:
                self._is_open(hold, answer.body)
            else:
                self._refused(hold, answer.body, "hold_settled", "hold_expired")

    async def _charge(self) -> None:
        name = self._new_name()
        body = charge_body(self._rng.choice(self._accounts), description=name)
        answer = await self._insist("charges", body, {"Idempotency-Key": name})
        self._acknowledge(name, answer.status, answer.body)

    async def _grant(self) -> None:
        name = self._new_name()
        body = credit_body(
            self._rng.choice(self._accounts), self._rng.randint(1, 12), description=name
        )
        answer = await self._insist("credits", body, {"Idempotency-Key": name})
        self._acknowledge(name, answer.status, answer.body)

    # What is asked for.

    def _new_name(self) -> str:
        self._count += 1
        name = f"{self._name}-h{self._count}"
        self._history.asked.add(name)
        self._history.hot.add(name)
        return name

    def _new_hold(self) -> Hold:
        hold = Hold(self._new_name(), self._rng.randint(1, 8))
        self._history.holds[hold.name] = hold
        return hold

    def _terms(self, hold: Hold) -> Json:
        """Most holds are short, so that many end while the round lasts."""
        return {
            "amount_minor": hold.amount,
            "expires_in_seconds": self._rng.choice([1, 1, 2, 3, 900]),
            "description": hold.name,
        }

    def _usage(self, hold: Hold) -> Json:
        hold.asked.add("captured")
        return {
            "amount_minor": self._rng.choice(
                [0, None, self._rng.randint(1, hold.amount), hold.amount + self._rng.randint(1, 4)]
            ),
            "overage": self._rng.choice(["refuse", "available", "available"]),
        }

    def _some_account(self) -> Json:
        return dict(identity(self._rng.choice(self._accounts)))

    def _some_holds(self, most: int) -> list[Hold]:
        return self._rng.sample(self._holds, min(most, len(self._holds)))

    async def _insist(self, path: str, body: Json, headers: dict[str, str] | None = None) -> Answer:
        """Sends a request until it is answered; some, once more. Both answers must say the
        same."""
        answer = await self._answered(path, body, headers)
        settles = path.endswith(("/capture", "/release"))
        if settles and answer.status == 200 and self._rng.random() < 0.3:
            again = await self._answered(path, body, headers)
            first, second = (_outcome(each.body) for each in (answer, again))
            if not again.replayed or first != second:
                raise WrongAnswer(f"{path} was answered {answer.body}, then {again.body}")
        return answer

    async def _answered(self, path: str, body: Json, headers: dict[str, str] | None) -> Answer:
        while True:
            answer = await self._ask("POST", path, body, headers, wanted=(200, 201, *_REFUSED))
            if answer is not None:
                return answer
            await asyncio.sleep(0.02)

    # What is answered.

    def _made(self, hold: Hold, told: Json) -> None:
        hold.id = told["hold_id"]
        if told["amount_minor"] != hold.amount or told["status"] not in ("open", "expired"):
            raise WrongAnswer(f"{hold} was made as {told}")
        self._is_open(hold, told)
        self._holds = [*self._holds[1 - _MOST_KNOWN :], hold]

    def _is_open(self, hold: Hold, told: Json) -> None:
        _judge_figures(told)
        if hold.settled is not None:
            raise WrongAnswer(f"{hold} is settled, and was answered {told}")
        hold.ends = max(hold.ends, datetime.fromisoformat(told["expires_at"]).timestamp())

    def _captured(self, hold: Hold, usage: Json, status: int, told: Json) -> None:
        asked = hold.amount if usage["amount_minor"] is None else usage["amount_minor"]
        exceeds = asked > hold.amount and usage["overage"] == "refuse"
        if status == 200:
            self._settled(hold, told, "captured")
            if exceeds or not min(asked, hold.amount) <= told["captured_minor"] <= asked:
                raise WrongAnswer(f"{usage} of {hold} was answered {told}")
        elif exceeds:
            self._refused(hold, told, "hold_settled", "capture_exceeds_hold")
        else:
            self._refused(hold, told, "hold_settled", "hold_expired")

    def _settled(self, hold: Hold, told: Json, state: str) -> None:
        _judge_figures(told)
        first = hold.settled or told
        if told["status"] != state or _outcome(first) != _outcome(told):
            raise WrongAnswer(f"{hold} was answered {told}")
        hold.settled = first

    def _refused(self, hold: Hold, told: Json, *codes: str) -> None:
        """Judges a refusal: a hold is settled only by its client, and over only at its end."""
        code = told["code"]
        if (
            code not in codes
            or (code == "hold_settled") != (hold.settled is not None)
            or (code == "hold_expired" and time.time() < hold.ends)
        ):
            raise WrongAnswer(f"{hold} was answered {told}")

    def _acknowledge(self, name: str, status: int, told: Json) -> None:
        if status == 201:
            self._history.acknowledged[name] = told
        elif status == 409 and "charge" in told:  # made by an attempt whose answer was lost
            self._history.acknowledged[name] = told["charge"]
        elif status != 402:
            raise WrongAnswer(f"{name} was answered {status} {told}")


def _outcome(told: Json) -> tuple[object, ...]:
    return told["status"], told["captured_minor"], told["charge_id"]


def _judge_figures(told: Json) -> None:
    if (
        told["available"] != told["balance"] - told["held"]
        or min(told["available"], told["held"], told["free_uses_available"]) < 0
    ):
        raise WrongAnswer(f"a hold was answered {told}")
