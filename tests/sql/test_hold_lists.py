"""Lists of holds and captures: several items of one account, and what happens at the same time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.sql.helpers import (
    Caller,
    is_blocked,
    key_id,
    ledger_problems,
    new_user,
    outcomes,
    session,
)
from tests.sql.holds import SECOND, capture_all, figures, hold_all, later, make_hold, stopped_clock
from tests.sql.merges import merge, paid, try_again, user
from tests.support import Database, unique, wait_for


@pytest.fixture(autouse=True)
def the_books_are_right_afterwards(module_database: Database) -> Iterator[None]:
    """Whatever a test did, every account's books agree at its end."""
    yield
    assert ledger_problems(module_database) == []


_TOLD = ("outcome", "state", "paid_with", "amount_minor", "captured_minor", "is_late")
_FIGURES = ("balance", "held", "available", "free_uses_available")
_OF_BEFORE = ("replayed", "conflict", "hold_settled")


def _told(rows: list[dict[str, Any]]) -> list[list[Any]]:
    """What the answers say. With what was settled before come the figures of the list's end."""
    return [
        [row[name] for name in _TOLD]
        + [row[name] for name in _FIGURES if row["outcome"] not in _OF_BEFORE]
        for row in rows
    ]


def _some_holds(chance: random.Random) -> list[dict[str, Any]]:
    return [
        {
            "amount_minor": chance.choice([1, 2, 3, 5, 8, 13]),
            "expires_in_seconds": chance.choice([10, 900]),
            "idempotency_key": chance.choice([None, None, "a", "b"]),
        }
        for _ in range(chance.randint(1, 12))
    ]


def _some_captures(chance: random.Random, count: int) -> list[tuple[int, dict[str, Any]]]:
    return [
        (
            chance.randrange(count),
            {
                "amount_minor": chance.choice([None, 0, 1, 2, 5, 9, 2**63 - 1]),
                "overage": chance.choice([None, "refuse", "available"]),
            },
        )
        for _ in range(chance.randint(1, 14))
    ]


@pytest.mark.parametrize("seed", range(12))
def test_a_list_does_what_its_items_do_one_after_the_other(
    module_database: Database, dba: Caller, seed: int
) -> None:
    chance = random.Random(seed)
    credits, free = chance.randint(1, 40), chance.random() < 0.5
    together, alone = (new_user(module_database, paid=credits, free=free) for _ in range(2))
    wanted = _some_holds(chance)
    start = dba.execute("SELECT clock_timestamp() AS now")[0]["now"]
    with stopped_clock(module_database, 0, start):
        made = hold_all(dba, [{**together, **item} for item in wanted])
        singly = [hold_all(dba, [{**alone, **item}])[0] for item in wanted]
    assert _told(made) == _told(singly)
    pairs = [
        (one["hold_id"], other["hold_id"])
        for one, other in zip(made, singly, strict=True)
        if one["outcome"] == "created"
    ]
    if not pairs:
        return
    with stopped_clock(module_database, 0, later(start, 10)):  # some are over
        captures = _some_captures(chance, len(pairs))
        settled = capture_all(dba, [{"hold_id": pairs[at][0], **item} for at, item in captures])
        settled_singly = [
            capture_all(dba, [{"hold_id": pairs[at][1], **item}])[0] for at, item in captures
        ]
        assert _told(settled) == _told(settled_singly)
        assert figures(module_database, together) == figures(module_database, alone)
        assert ledger_problems(module_database) == []


def test_many_items_of_one_account_are_decided_in_few_rounds(
    module_database: Database, dba: Caller
) -> None:
    """A round for each item would look at all the others each time."""
    who = new_user(module_database, paid=300, free=False)
    module_database.execute(
        "CREATE SEQUENCE public.rounds; GRANT USAGE ON SEQUENCE public.rounds TO PUBLIC"
    )
    with session(module_database, "t_dba") as caller:
        caller.execute("SET track_functions = 'all'")
        made = hold_all(caller, [{**who, "amount_minor": 1}] * 200)
        assert outcomes(made) == ["created"] * 200
        done = capture_all(caller, [{"hold_id": row["hold_id"]} for row in made])
        assert outcomes(done) == ["created"] * 200
    assert [row["balance"] for row in done] == list(range(299, 99, -1))
    calls = module_database.execute(
        "SELECT f.funcname, f.calls FROM pg_stat_user_functions AS f"
        " WHERE f.funcname IN ('hold_round', 'capture_round')"
    )
    assert {name: count <= 100 for name, count in calls} == {
        "hold_round": True, "capture_round": True,
    }  # fmt: skip


def test_a_hold_that_waits_for_a_merge_is_made_where_the_identity_leads(
    module_database: Database,
) -> None:
    one, other = user(module_database, paid=5), user(module_database, paid=5)
    with (
        session(module_database, "t_dba", autocommit=False) as merging,
        session(module_database, "t_dba") as waiting,
    ):
        merging.row(
            "merge_accounts", account_id=one.id, into_account_id=other.id, reason="one person"
        )
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(try_again, waiting, "create_hold", **one.who, amount_minor=6)
            wait_for(lambda: is_blocked(module_database, waiting), "the hold to wait")
            merging.connection.commit()
            assert answer.result()["account_id"] == other.id
    assert paid(module_database, one, other) == [0, 10]


def test_a_merged_accounts_keys_are_still_those_of_its_identity(
    module_database: Database, dba: Caller
) -> None:
    one, other = user(module_database, paid=5), user(module_database, paid=5)
    key = unique("hold")
    first = make_hold(dba, one.who, 2, idempotency_key=key)
    dba.row("release_hold", hold_id=first["hold_id"], reason="not needed")
    merge(module_database, one, other)
    again = make_hold(dba, one.who, 2, idempotency_key=key)
    assert (again["outcome"], again["hold_id"]) == ("replayed", first["hold_id"])
    assert again["state"] == "released"
    assert make_hold(dba, other.who, 2, idempotency_key=key)["outcome"] == "created"


def test_a_late_capture_says_what_all_of_it_needs(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database, paid=10, free=False)
    made = make_hold(dba, who, 7, expires_in_seconds=1)
    with stopped_clock(module_database, SECOND, made["created_at"]):
        dba.row("create_charge", **who, amount_minor=4)
        refusal = dba.refusal("capture_hold", hold_id=made["hold_id"])
    assert refusal.detail["required"] == 7
    assert refusal.message.endswith("Available: 6, Required: 7")


def test_holds_are_listed_by_state_as_it_is_now(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    who = new_user(module_database, paid=100, free=False)
    ours, theirs = (key_id(module_database) for _ in range(2))
    names: dict[Any, str] = {}
    for name, key in (("open", ours), ("captured", ours), ("released", ours), ("theirs", theirs)):
        made = make_hold(web, who, 5, api_key_id=key)
        names[made["hold_id"]] = name
        if name == "captured":
            web.row("capture_hold", hold_id=made["hold_id"], api_key_id=key)
        elif name == "released":
            web.row("release_hold", hold_id=made["hold_id"], api_key_id=key)
    short = make_hold(web, who, 5, expires_in_seconds=1, api_key_id=ours)
    names[short["hold_id"]] = "expired"

    def listed(**arguments: Any) -> list[str]:
        rows = web.rows("list_holds", **who, **{"api_key_id": ours, **arguments})
        return [names[row["hold_id"]] for row in rows]

    with stopped_clock(module_database, SECOND, short["created_at"]):
        assert listed() == ["expired", "released", "captured", "open"]
        assert listed(api_key_id=theirs) == ["theirs"]
        for state in ("open", "captured", "released", "expired"):
            assert listed(state=state) == [state]
        assert listed(limit=2) == ["expired", "released"]
        after = next(each for each, name in names.items() if name == "released")
        assert listed(after=after, limit=1) == ["captured"]
        assert len(dba.rows("list_holds", **who)) == 5


@pytest.mark.parametrize("function", ["check_items", "charge_items", "hold_items", "capture_items"])
def test_no_list_at_all_has_no_outcomes(dba: Caller, function: str) -> None:
    dba.execute("SET statement_timeout = '5s'")
    assert dba.execute(f"SELECT * FROM billing.{function}(p_items => NULL)") == []
