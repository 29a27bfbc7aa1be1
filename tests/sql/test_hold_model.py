"""Holds beside charges and grants agree with a small model after every step, while time goes on."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
import pytest

from tests.sql.helpers import Caller, Refusal, ledger_problems, new_user
from tests.sql.holds import figures, later, stopped_clock
from tests.support import Database

_STEPS = 60


@dataclass
class Hold:
    """A hold according to the rules."""

    id: Any
    amount: int
    is_free: bool
    expires_at: datetime
    state: str = "open"
    asked: tuple[int, str] | None = None


@dataclass
class Account:
    """An account according to the rules, at the time `now`."""

    now: datetime
    paid: int
    free: int
    holds: list[Hold] = field(default_factory=list)

    def go_on(self, seconds: float) -> None:
        """Time goes on, and holds end."""
        self.now = later(self.now, seconds)
        for hold in self.holds:
            if hold.state == "open" and hold.expires_at <= self.now:
                hold.state = "expired"

    def held(self) -> int:
        return sum(h.amount for h in self.holds if h.state == "open" and not h.is_free)

    def available(self) -> int:
        return self.paid - self.held()

    def free_available(self) -> int:
        return self.free - sum(h.is_free for h in self.holds if h.state == "open")

    def hold(self, amount: int, seconds: int) -> str:
        if self.free_available() == 0 and self.available() < amount:
            return "insufficient_credits"
        is_free = self.free_available() > 0
        self.holds.append(Hold(None, amount, is_free, later(self.now, seconds)))
        return "created"

    def charge(self, amount: int) -> str:
        if self.free_available() > 0:
            self.free -= 1
        elif self.available() >= amount:
            self.paid -= amount
        else:
            return "insufficient_credits"
        return "created"

    def capture(self, hold: Hold, asked: int | None, overage: str) -> tuple[str, int]:
        wanted = hold.amount if asked is None else asked
        if hold.state in ("captured", "released"):
            return ("replayed" if hold.asked == (wanted, overage) else "hold_settled"), 0
        if wanted > hold.amount and overage == "refuse":
            return "capture_exceeds_hold", 0
        within, late = min(wanted, hold.amount), hold.state == "expired"
        if wanted and hold.is_free and (not late or self.free_available() > 0):
            hold.state, hold.asked = "captured", (wanted, overage)
            self.free -= 1
            return "created", wanted
        if late and self.available() < within:
            return "hold_expired", 0
        more = self.available() - (within if late else 0)
        captured = within + min(wanted - within, more)
        hold.state, hold.asked = "captured", (wanted, overage)
        self.paid -= captured
        return "created", captured

    def release(self, hold: Hold) -> str:
        if hold.state == "captured":
            return "hold_settled"
        outcome = "replayed" if hold.state == "released" else "created"
        hold.state = "released"
        return outcome

    def extend(self, hold: Hold, seconds: int) -> str:
        if hold.state != "open":
            return "hold_expired" if hold.state == "expired" else "hold_settled"
        hold.expires_at = max(hold.expires_at, later(self.now, seconds))
        return "created"


def _outcome(caller: Caller, function: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    try:
        row = caller.row(function, **arguments)
    except psycopg.Error as error:
        return str(Refusal.of(error).slug), {}
    return str(row.get("outcome", "created")), row


def _step(
    chance: random.Random, dba: Caller, who: dict[str, str], account: Account
) -> tuple[str, str]:
    """One call and its outcome, beside what the model says."""
    amount = chance.choice([1, 2, 3, 5, 8, 13])
    kind = chance.choice(["hold", "hold", "capture", "capture", "release", "extend", "charge"])
    if kind == "hold" or not account.holds:
        seconds = chance.choice([1, 10, 60])
        wanted = account.hold(amount, seconds)
        told, row = _outcome(
            dba, "create_hold", **who, amount_minor=amount, expires_in_seconds=seconds
        )
        if told == wanted == "created":
            account.holds[-1].id = row["hold_id"]
        return told, wanted
    hold = chance.choice(account.holds[-6:])
    if kind == "charge":
        wanted = account.charge(amount)
        return _outcome(dba, "create_charge", **who, amount_minor=amount)[0], wanted
    if kind == "capture":
        asked = chance.choice([None, 0, amount, hold.amount, hold.amount + 1])
        overage = chance.choice(["refuse", "available"])
        wanted, captured = account.capture(hold, asked, overage)
        told, row = _outcome(
            dba, "capture_hold", hold_id=hold.id, amount_minor=asked, overage=overage
        )
        assert told != "created" or row["captured_minor"] == captured
        return told, wanted
    if kind == "release":
        wanted = account.release(hold)
        return _outcome(dba, "release_hold", hold_id=hold.id, reason="a test")[0], wanted
    wanted = account.extend(hold, 30)
    return _outcome(dba, "extend_hold", hold_id=hold.id, expires_in_seconds=30)[0], wanted


@pytest.mark.parametrize("seed", range(6))
def test_holds_agree_with_the_model_after_every_step(
    module_database: Database, dba: Caller, seed: int
) -> None:
    chance = random.Random(seed)
    who = new_user(module_database, paid=30, free=seed % 2 == 0)
    start = dba.execute("SELECT clock_timestamp() AS now")[0]["now"]
    paid, _, free, _, _ = figures(module_database, who)
    account = Account(start, paid, free)
    for _ in range(_STEPS):
        # Often a hold ends at exactly this microsecond.
        account.go_on(chance.choice([0, 0, 1, 10]))
        with stopped_clock(module_database, 0, account.now):
            told, wanted = _step(chance, dba, who, account)
            assert told == wanted, seed
            check = dba.row("check_credit", **who)
            left = (check["credits_remaining"], check["free_uses_remaining"])
            assert left == (account.available(), account.free_available())
            assert account.available() >= 0
            assert check["has_credit"] is (max(left) > 0)
    assert ledger_problems(module_database) == []
