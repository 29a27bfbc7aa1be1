"""Many calls at once against caps while a period ends."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import psycopg

from tests.sql.caps import set_cap
from tests.sql.helpers import Caller, Refusal, at_once, key_id, ledger_problems, new_user_by
from tests.support import Database

_CALLS = 400
_KINDS = ["charge"] * 4 + ["hold"] * 4 + ["capture"] * 4 + ["release", "try"]
_REFUSALS = {"cap_reached", "hold_settled"}


class _Work:
    """What sessions do with the holds of all, each under the key that made it."""

    def __init__(self, database: Database, dba: Caller) -> None:
        self.users = [new_user_by(dba, paid=100_000, free=False) for _ in range(6)]
        self.keys = [key_id(database) for _ in range(3)]
        self.holds: list[tuple[Any, Any]] = []

    def call(self, number: int) -> Callable[[Caller], tuple[str, str]]:
        """One call that is drawn now and made later."""
        dice = random.Random(number)
        what, used, pick = dice.choice(_KINDS), dice.randint(0, 12), dice.random()
        asked = {
            **dice.choice(self.users),
            "amount_minor": dice.randint(1, 9),
            "metadata_agent_id": dice.choice(["scout", "guide", None]),
            "api_key_id": dice.choice(self.keys),
        }

        def make(web: Caller) -> tuple[str, str]:
            try:
                self._make(web, what, asked, used, pick)
            except psycopg.Error as error:
                return what, str(Refusal.of(error).slug)
            return what, "done"

        return make

    def _make(self, web: Caller, what: str, asked: dict[str, Any], used: int, pick: float) -> None:
        if what == "charge":
            web.row("create_charge", **asked)
        elif what == "try":
            web.row("create_hold", **asked, dry_run=True)
        elif what == "hold" or not self.holds:
            self.holds.append((web.row("create_hold", **asked)["hold_id"], asked["api_key_id"]))
        else:
            hold_id, key = self.holds[int(pick * len(self.holds))]
            if what == "release":
                web.row("release_hold", hold_id=hold_id, api_key_id=key)
            else:
                web.row(
                    "capture_hold", hold_id=hold_id, amount_minor=used, overage="available",
                    api_key_id=key,
                )  # fmt: skip


def _jump(database: Database) -> tuple[str, str]:
    """The clock of the rules goes on by a minute at once."""
    database.execute(
        "CREATE OR REPLACE FUNCTION billing_data.clock() RETURNS timestamptz LANGUAGE sql VOLATILE"
        " RETURN clock_timestamp() + interval '1 minute'"
    )
    return "jump", "done"


# What charges and holds say that each window of a cap has used: what was charged and held in it,
# less what was given back while it lasted, and what was captured beyond holds in it.
_COUNTED = """
    WITH uses (amount, at, counted_until, api_key_id, agent_id) AS (
        SELECT c.amount_minor, c.created_at, c.created_at, c.api_key_id, c.metadata_agent_id
        FROM billing_data.charges AS c
        WHERE NOT EXISTS (SELECT FROM billing_data.holds AS h WHERE h.charge_id = c.id)
        UNION ALL
        SELECT h.amount_minor, h.created_at, h.created_at, h.api_key_id, h.metadata_agent_id
        FROM billing_data.holds AS h
        UNION ALL
        SELECT
            d.more, CASE WHEN d.more < 0 THEN h.created_at ELSE h.settled_at END, h.settled_at,
            h.api_key_id, h.metadata_agent_id
        FROM billing_data.holds AS h
        CROSS JOIN LATERAL (SELECT coalesce(h.captured_minor, 0) - h.amount_minor) AS d (more)
        WHERE h.settled_at IS NOT NULL
    )
    SELECT
        c.scope, c.limit_minor, u.used_minor,
        u.window_start = billing_data.window_start(c.period, billing_data.clock()),
        (
            SELECT coalesce(sum(e.amount), 0)::bigint FROM uses AS e
            WHERE billing_data.window_start(c.period, e.at) = u.window_start
                AND billing_data.window_start(c.period, e.counted_until) = u.window_start
                AND e.at >= c.created_at
                AND c.subject IN ('', e.api_key_id::text, e.agent_id)
        )
    FROM billing_data.cap_usage AS u
    INNER JOIN billing_data.caps AS c ON c.id = u.cap_id
"""


def test_50_sessions_over_the_end_of_a_minute_are_counted_once_and_exceed_no_cap(
    module_database: Database, dba: Caller
) -> None:
    work = _Work(module_database, dba)
    set_cap(dba, "all", 200, period="minute")
    set_cap(dba, "all", 5000, period="month")
    for scope, subjects in (("api_key", work.keys), ("agent", ["scout", "guide"])):
        for subject in subjects:
            set_cap(dba, scope, 90, subject, period="minute")
    calls = [work.call(number) for number in range(_CALLS)]
    calls.insert(_CALLS // 2, lambda _: _jump(module_database))
    told = at_once(module_database, calls, user="t_web", connections=50)
    assert {outcome for _, outcome in told} == {"done", *_REFUSALS}
    assert {what for what, outcome in told if outcome == "done"} == {*_KINDS, "jump"}
    windows = module_database.execute(_COUNTED)
    assert len(windows) >= 12  # of two minutes
    for scope, limit, used, is_open, counted in windows:
        assert counted <= used <= limit, scope
        # A release that begins in one minute and ends in the next gives nothing back to the first.
        assert used == counted or not is_open, scope
    assert ledger_problems(module_database) == []
