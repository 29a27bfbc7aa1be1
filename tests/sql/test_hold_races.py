"""Many holds, captures, releases and extensions of few accounts at once, while holds end."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import psycopg

from tests.sql.helpers import Caller, Refusal, at_once, ledger_problems, new_user
from tests.sql.holds import figures
from tests.support import Database, wait_for

_ACCOUNTS, _CALLS, _PAID = 3, 1000, 400
_REFUSALS = {"insufficient_credits", "hold_settled", "hold_expired", "capture_exceeds_hold"}


_KINDS = ["create_hold"] * 4 + ["capture_hold"] * 4 + ["release_hold", "extend_hold"]


def _call(
    chance: random.Random, users: list[dict[str, str]], known: list[Any]
) -> Callable[..., Any]:
    what = chance.choice(_KINDS)
    seconds, amount = chance.choice([1, 900]), chance.randint(1, 20)
    user, pick = chance.choice(users), chance.random()
    overage = chance.choice(["refuse", "available"])

    def make(caller: Caller) -> tuple[str, str]:
        arguments: dict[str, Any]
        if what == "create_hold" or not known:
            name = "create_hold"
            arguments = {**user, "amount_minor": amount, "expires_in_seconds": seconds}
        else:
            name, arguments = what, {"hold_id": known[int(pick * len(known))]}
            if name == "capture_hold":
                arguments |= {"amount_minor": amount, "overage": overage}
            elif name == "release_hold":
                arguments["reason"] = "not needed"
        try:
            row = caller.row(name, **arguments)
        except psycopg.Error as error:
            return name, str(Refusal.of(error).slug)
        if name == "create_hold":
            known.append(row["hold_id"])
        assert row["available"] >= 0
        return name, str(row["outcome"])

    return make


def _short_ones(database: Database) -> int:
    count: int = database.value(
        "SELECT count(*) FROM billing_data.holds AS h"
        " WHERE h.state = 'open' AND h.expires_at < h.created_at + interval '1 minute'"
    )
    return count


def test_a_thousand_calls_at_once_hold_nothing_twice_and_nothing_for_ever(
    module_database: Database, dba: Caller
) -> None:
    chance = random.Random(16)
    users = [new_user(module_database, paid=_PAID, free=number == 0) for number in range(_ACCOUNTS)]
    free_before = [figures(module_database, user)[2] for user in users]
    known: list[Any] = []
    told = at_once(
        module_database, [_call(chance, users, known) for _ in range(_CALLS)], connections=16
    )
    assert {outcome for _, outcome in told} <= _REFUSALS | {"created", "replayed"}
    for name in ("create_hold", "capture_hold", "release_hold", "extend_hold"):
        assert (name, "created") in told
    assert ledger_problems(module_database) == []
    # Each hold was settled at most once, and what was captured is what was charged.
    twice = module_database.execute(
        "SELECT h.id FROM billing_data.holds AS h LEFT JOIN billing_data.hold_changes AS c"
        " ON c.hold_id = h.id AND c.change IN ('captured', 'released') GROUP BY h.id"
        " HAVING count(c.id) + (h.charge_id IS NOT NULL)::integer > 1"
    )
    assert twice == []
    for user, free in zip(users, free_before, strict=True):
        paid, _, free_left, _, _ = figures(module_database, user)
        captured = module_database.execute(
            "SELECT coalesce(sum(h.captured_minor) FILTER (WHERE c.paid_with = 'paid'), 0)::bigint,"
            " count(*) FILTER (WHERE c.paid_with = 'free')"
            " FROM billing_data.holds AS h"
            " INNER JOIN billing_data.accounts AS a ON a.id = h.account_id"
            " INNER JOIN billing_data.charges AS c ON c.id = h.charge_id"
            " WHERE a.external_id = %s",
            user["external_id"],
        )[0]
        assert captured == (_PAID - paid, free - free_left)
    # What nobody settled ends by itself: only the long ones are left.
    wait_for(lambda: dba.value("tidy_holds") == 0 and not _short_ones(module_database), "the end")
    for row in module_database.execute("SELECT id FROM billing_data.holds WHERE state = 'open'"):
        dba.row("release_hold", hold_id=row[0], reason="the end of the test")
    assert [figures(module_database, user)[1::2] for user in users] == [(0, 0)] * _ACCOUNTS
    assert ledger_problems(module_database) == []
