"""Drives credits of all kinds at random and compares what is left of each with a small model.

The clock of the rules stands still and is moved by a step of its own. After every step the books
are verified, what each lot has left is compared, and nothing that is over is available."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.sql.helpers import Caller, new_user_by
from tests.sql.lots import now_of
from tests.support import Database

HOUR = timedelta(hours=1)
USUAL = 50
FAR = datetime(9999, 1, 1)  # noqa: DTZ001


credits = st.tuples(
    st.integers(1, 9),
    st.sampled_from((None, None, 10, 50, 90)),  # priority
    st.sampled_from((None, 1, 1, 2, 5)),  # hours
)


@dataclass
class Kind:
    """Credits of one kind; the pool is the one without an id."""

    id: Any
    left: int
    priority: int = USUAL
    ends: datetime | None = None
    age: int = 0

    def place(self) -> tuple[Any, ...]:
        """Where they are in the order of spending."""
        ends = self.ends.replace(tzinfo=None) if self.ends else FAR
        return (self.priority, ends, self.id is None, self.age)


@dataclass
class Held:
    """A hold, and what it keeps of each kind."""

    id: Any
    ends: datetime
    parts: list[tuple[Kind, int]] = field(default_factory=list)


@dataclass
class Charge:
    """A charge, and what is not reversed of it, in the order of spending."""

    id: Any
    parts: list[tuple[Kind, int]]


class LotsMachine(RuleBasedStateMachine):
    """One user, few kinds of credits and short times, so that edges are met often."""

    database: Database  # set by the test
    caller: Caller
    steps = 0

    @initialize(first=st.lists(credits, min_size=3, max_size=6))
    def begin(self, first: list[tuple[int, int | None, int | None]]) -> None:
        self.now = now_of(self.database).replace(microsecond=0)
        self.set_clock()
        self.who = new_user_by(self.caller, free=False)
        self.pool = Kind(None, 0)
        self.kinds = [self.pool]
        self.holds: list[Held] = []
        self.charges: list[Charge] = []
        (row,) = self.caller.execute(
            "SELECT id FROM billing_data.accounts WHERE external_id = %s", self.who["external_id"]
        )
        self.account = row["id"]
        for credit in first:
            self.add(*credit)

    def set_clock(self) -> None:
        self.database.execute(
            "CREATE OR REPLACE FUNCTION billing_data.clock() RETURNS timestamptz LANGUAGE sql"
            f" VOLATILE RETURN '{self.now}'::timestamptz"
        )

    def settle(self) -> None:
        """What the clock does: holds that are over give back, then kinds that are over end."""
        for held in [h for h in self.holds if h.ends <= self.now]:
            self.give_back(held.parts)
            self.holds.remove(held)
        for kind in self.kinds:
            if kind.ends and kind.ends <= self.now:
                kind.left = 0

    def give_back(self, parts: list[tuple[Kind, int]]) -> None:
        for kind, amount in parts:
            kind.left += amount

    def draw(self, amount: int) -> list[tuple[Kind, int]]:
        parts = []
        for kind in sorted(self.kinds, key=Kind.place):
            if amount and kind.left:
                part = min(amount, kind.left)
                kind.left -= part
                amount -= part
                parts.append((kind, part))
        assert amount == 0
        return parts

    @property
    def available(self) -> int:
        return sum(kind.left for kind in self.kinds)

    @rule(credit=credits)
    def give(self, credit: tuple[int, int | None, int | None]) -> None:
        self.add(*credit)

    def add(self, amount: int, priority: int | None, hours: int | None) -> None:
        ends = self.now + hours * HOUR if hours else None
        row = self.caller.row(
            "create_credit", **self.who, amount_minor=amount, priority=priority, expires_at=ends
        )
        if ends is None and priority in (None, USUAL):
            self.pool.left += amount
        else:
            age = len(self.kinds)
            self.kinds.append(Kind(row["credit_id"], amount, priority or USUAL, ends, age))

    @rule(amounts=st.lists(st.integers(1, 12), min_size=1, max_size=3))
    def charge(self, amounts: list[int]) -> None:
        for amount in amounts:
            self.charge_one(amount)

    def charge_one(self, amount: int) -> None:
        if amount > self.available:
            refusal = self.caller.refusal("create_charge", **self.who, amount_minor=amount)
            assert (refusal.slug, refusal.detail["balance"]) == (
                "insufficient_credits", self.available,
            )  # fmt: skip
            return
        row = self.caller.row("create_charge", **self.who, amount_minor=amount)
        self.charges.append(Charge(row["charge_id"], self.draw(amount)))

    @rule(amount=st.integers(1, 12), minutes=st.sampled_from((10, 60, 180)))
    def hold(self, amount: int, minutes: int) -> None:
        if amount > self.available:
            return
        row = self.caller.row(
            "create_hold", **self.who, amount_minor=amount, expires_in_seconds=minutes * 60
        )
        ends = self.now + timedelta(minutes=minutes)
        self.holds.append(Held(row["hold_id"], ends, self.draw(amount)))

    @rule(which=st.integers(0, 3), used=st.integers(0, 15))
    def capture(self, which: int, used: int) -> None:
        if which >= len(self.holds):
            return
        held = self.holds.pop(which)
        row = self.caller.row(
            "capture_hold", hold_id=held.id, amount_minor=used, overage="available"
        )
        kept, paid = sum(part for _, part in held.parts), []
        rest = min(used, kept + self.available)
        for kind, part in held.parts:
            taken = min(part, rest)
            kind.left += part - taken
            rest -= taken
            paid += [(kind, taken)] * (taken > 0)
        more: dict[int, int] = {}
        for kind, part in paid + self.draw(rest):
            more[id(kind)] = more.get(id(kind), 0) + part
        parts = [(k, more[id(k)]) for k in sorted(self.kinds, key=Kind.place) if id(k) in more]
        if parts:
            self.charges.append(Charge(row["charge_id"], parts))
        self.settle()

    @rule(which=st.integers(0, 3))
    def release(self, which: int) -> None:
        if which < len(self.holds):
            held = self.holds.pop(which)
            self.caller.row("release_hold", hold_id=held.id, reason="a test")
            self.give_back(held.parts)
            self.settle()

    @rule(newest=st.integers(1, 3), amount=st.integers(1, 6))
    def reverse(self, newest: int, amount: int) -> None:
        if newest > len(self.charges):
            return
        charge = self.charges[-newest]
        amount = min(amount, sum(part for _, part in charge.parts))
        if not amount:
            return
        self.caller.row("reverse_charge", charge_id=charge.id, reason="a test", amount=amount)
        while amount:
            kind, part = charge.parts.pop()
            back = min(part, amount)
            kind.left += back
            amount -= back
            if part > back:
                charge.parts.append((kind, part - back))
        self.settle()

    @rule(which=st.integers(0, 4))
    def take_back(self, which: int) -> None:
        """Takes back what is left of a lot, which leaves the others as they are."""
        lots = [kind for kind in self.kinds if kind.id and kind.left]
        if which < len(lots):
            self.caller.row(
                "reverse_credit", credit_id=lots[which].id, reason="a test",
                amount=lots[which].left,
            )  # fmt: skip
            lots[which].left = 0

    @rule(step=st.sampled_from((timedelta(microseconds=1), HOUR / 6, HOUR, HOUR)))
    def wait(self, step: timedelta) -> None:
        self.now += step - timedelta(microseconds=step == HOUR)
        self.set_clock()
        self.settle()
        if step == HOUR:
            told = self.caller.row("check_credit", **self.who)
            assert told["credits_remaining"] == self.available
            self.now += timedelta(microseconds=1)
            self.set_clock()
            self.settle()

    @invariant()
    def everything_agrees(self) -> None:
        if not hasattr(self, "account"):
            return
        LotsMachine.steps += 1
        told = self.caller.row("check_credit", **self.who)
        assert told["credits_remaining"] == self.available
        rows = self.caller.execute(
            "SELECT id, left_minor FROM billing_data.lots WHERE account_id = %s", self.account
        )
        assert {row["id"]: row["left_minor"] for row in rows} == {
            kind.id: kind.left for kind in self.kinds if kind.id
        }
        listed = self.caller.rows("list_lots", account_id=self.account)
        held = sum(part for h in self.holds for _, part in h.parts)
        assert sum(row["left_minor"] for row in listed) == self.available + held
        assert sum(row["held_minor"] for row in listed) == held
        faults = self.caller.rows("verify_ledger", account_id=self.account)
        assert faults == []


@pytest.mark.parametrize("examples", [40])
def test_credits_of_all_kinds_follow_the_model(database: Database, examples: int) -> None:
    with psycopg.connect(
        database.dsn("t_dba"), autocommit=True, row_factory=psycopg.rows.dict_row
    ) as connection:
        LotsMachine.database, LotsMachine.caller = database, Caller(connection)
        LotsMachine.TestCase.settings = settings(
            max_examples=examples, stateful_step_count=25, deadline=None, print_blob=True
        )
        LotsMachine.TestCase("runTest").runTest()
    print(f"{LotsMachine.steps} steps checked")
    assert LotsMachine.steps > 300
