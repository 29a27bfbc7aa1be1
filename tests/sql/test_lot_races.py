"""Many calls at once on one account with credits of several kinds, while some of them end."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg

from tests.sql.helpers import Caller, Refusal, account_of, at_once, ledger_problems, new_user
from tests.sql.lots import now_of
from tests.sql.payments import PRICE, USES, bought, configure_provider, give_back
from tests.support import Database, unique

_CALLS = 600
_KINDS = ["charge"] * 5 + ["hold"] * 4 + ["capture"] * 4 + ["reverse"] * 3 + [
    "release", "take", "refund"
]  # fmt: skip
_REFUSALS = {
    "insufficient_credits", "hold_settled", "hold_expired", "already_reversed",
    "reversal_too_great",
}  # fmt: skip


class _Work:
    """What the sessions do; they know the holds, the charges and the lots of all."""

    def __init__(self, database: Database) -> None:
        self.database = database
        configure_provider(database)
        self.who, self.payment = bought(database, new_user(database, paid=150, free=False))
        self.holds: list[Any] = []
        self.charges: list[Any] = []
        self.lots: list[Any] = []
        self.chance = random.Random(18)

    def call(self) -> Callable[[Caller], tuple[str, str]]:
        """One call that is drawn now and made later."""
        what, amount = self.chance.choice(_KINDS), self.chance.randint(1, 6)
        pick = self.chance.random()

        def make(caller: Caller) -> tuple[str, str]:
            try:
                return what, getattr(self, what)(caller, amount, pick)
            except psycopg.Error as error:
                return what, str(Refusal.of(error).slug)

        return make

    def charge(self, caller: Caller, amount: int, _: float) -> str:
        row = caller.row("create_charge", **self.who, amount_minor=amount)
        self.charges.append(row["charge_id"])
        return "done"

    def hold(self, caller: Caller, amount: int, pick: float) -> str:
        row = caller.row(
            "create_hold",
            **self.who,
            amount_minor=amount,
            expires_in_seconds=1 + 900 * (pick > 0.5),
        )
        self.holds.append(row["hold_id"])
        return "done"

    def capture(self, caller: Caller, amount: int, pick: float) -> str:
        if not self.holds:
            return "nothing"
        row = caller.row(
            "capture_hold", hold_id=_one(self.holds, pick), amount_minor=amount,
            overage="available",
        )  # fmt: skip
        if row["charge_id"]:
            self.charges.append(row["charge_id"])
        return "done"

    def reverse(self, caller: Caller, amount: int, pick: float) -> str:
        if self.charges:
            caller.row(
                "reverse_charge", charge_id=_one(self.charges, pick), reason="a test",
                amount=min(amount, 3),
            )  # fmt: skip
        return "done" if self.charges else "nothing"

    def release(self, caller: Caller, _: int, pick: float) -> str:
        if self.holds:
            caller.row("release_hold", hold_id=_one(self.holds, pick), reason="a test")
        return "done" if self.holds else "nothing"

    def take(self, caller: Caller, amount: int, pick: float) -> str:
        caller.row(
            "reverse_credit", credit_id=_one(self.lots, pick), reason="a test", amount=amount
        )
        return "done"

    def refund(self, caller: Caller, amount: int, _: float) -> str:
        money = amount * PRICE // USES // 4
        outcome = give_back(caller, self.payment, (unique("re"), money))["outcome"]
        return "done" if outcome == "taken_back" else str(outcome)


def _one(things: list[Any], pick: float) -> Any:
    return things[int(pick * len(things))]


def _jump(database: Database) -> tuple[str, str]:
    """The clock of the rules goes on by an hour at once."""
    database.execute(
        "CREATE OR REPLACE FUNCTION billing_data.clock() RETURNS timestamptz LANGUAGE sql VOLATILE"
        " RETURN clock_timestamp() + interval '1 hour'"
    )
    return "jump", "done"


def test_every_credit_is_accounted_for_after_many_calls_at_once_while_lots_end(
    module_database: Database, dba: Caller
) -> None:
    database, work = module_database, _Work(module_database)
    soon = now_of(database) + timedelta(minutes=30)
    work.lots = [
        dba.row("create_credit", **work.who, **lot)["credit_id"]
        for lot in (
            {"amount_minor": 60, "priority": 10},
            {"amount_minor": 400, "expires_at": soon},
            {"amount_minor": 300, "priority": 90, "source": "promotion"},
        )
    ]
    calls = [work.call() for _ in range(_CALLS)]
    calls.insert(_CALLS // 4, lambda _: _jump(database))
    told = at_once(database, calls, connections=12)
    assert {outcome for _, outcome in told} <= _REFUSALS | {"done", "nothing"}
    assert {kind for kind, outcome in told if outcome == "done"} == {*_KINDS, "jump"}
    dba.value("tidy_holds")
    _assert_accounted_for(database, work)
    # All that is left can be spent, and not one credit more.
    for (hold,) in database.execute("SELECT id FROM billing_data.holds WHERE state = 'open'"):
        dba.row("release_hold", hold_id=hold, reason="a test")
    left = account_of(database, work.who)["paid_credits"]
    if left:
        dba.row("create_charge", **work.who, amount_minor=left)
    assert dba.refusal("create_charge", **work.who).slug == "insufficient_credits"
    _assert_accounted_for(database, work)
    assert database.value("SELECT sum(left_minor) FROM billing_data.lots") == 0


def _assert_accounted_for(database: Database, work: _Work) -> None:
    """Counts every credit by the entries alone, and compares the account and the lots with it."""
    assert ledger_problems(database) == []
    paid = database.value(
        "SELECT (SELECT sum(amount_minor) FROM billing_data.credits)"
        " - (SELECT sum(amount_minor) FROM billing_data.charges WHERE paid_with = 'paid')"
    )
    account = account_of(database, work.who)
    lots = {
        lot: (left, left + taken + kept - amount)
        for lot, amount, left, taken, kept in database.execute(
            "SELECT l.id, l.amount_minor, l.left_minor, (SELECT coalesce(sum(n.amount_minor), 0)"
            " FROM billing_data.lot_allocations AS n WHERE n.lot_id = l.id),"
            " (SELECT coalesce(sum(k.amount_minor), 0) FROM billing_data.hold_lots AS k"
            " INNER JOIN billing_data.holds AS h ON h.id = k.hold_id AND h.state = 'open'"
            " WHERE k.lot_id = l.id) FROM billing_data.lots AS l"
        )
    }
    assert account["paid_credits"] == paid
    assert {difference for _, difference in lots.values()} == {0}
    assert lots[work.lots[1]][0] == 0  # it has ended
    assert sum(left for left, _ in lots.values()) <= paid - account["held_credits"]
    # What was given back to a lot for a charge is no more than the charge had taken of it.
    too_much = database.execute(
        "SELECT n.lot_id FROM billing_data.credits AS c"
        " INNER JOIN billing_data.lot_allocations AS n ON n.entry_id = c.id"
        " LEFT JOIN billing_data.lot_allocations AS t"
        " ON t.entry_id = c.corrects_charge_id AND t.lot_id = n.lot_id"
        " WHERE c.corrects_charge_id IS NOT NULL"
        " GROUP BY c.corrects_charge_id, n.lot_id, t.amount_minor"
        " HAVING (-sum(n.amount_minor) <= t.amount_minor) IS NOT TRUE"
    )
    assert too_much == []
