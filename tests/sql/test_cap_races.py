"""Caps under load: lists against a model, many sessions at once, and rows that others hold."""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.sql.caps import account_id, charge_list, no_caps, set_cap, used
from tests.sql.helpers import (
    Caller,
    account_of,
    at_once,
    is_blocked,
    key_id,
    ledger_problems,
    new_user,
    new_user_by,
    outcomes,
    session,
)
from tests.support import Database, wait_for


@pytest.fixture(autouse=True)
def _caps_go(dba: Caller) -> Any:
    yield
    no_caps(dba)


# --- a model -------------------------------------------------------------------------------------


class Model:
    """What accounts and caps should be, decided one charge after the other."""

    def __init__(self) -> None:
        self.accounts: dict[str, list[int]] = {}  # external id -> free uses, paid credits
        self.caps: list[dict[str, Any]] = []
        self.keys: set[tuple[str, str]] = set()

    def charge(self, item: dict[str, Any]) -> set[str]:
        """What the answer may be: an outcome, or the id of a cap that refuses."""
        user, amount = item["external_id"], item["amount_minor"]
        if (user, item["idempotency_key"]) in self.keys:
            return {"used"}
        free, paid = self.accounts[user]
        if free == 0 and paid < amount:
            return {"insufficient_credits"}
        applying = [
            cap
            for cap in self.caps
            if cap["scope"] == "all"
            or (cap["scope"] == "account" and cap["user"] == user)
            or (cap["scope"] == "agent" and cap["subject"] == item["metadata_agent_id"])
        ]
        refusing = [
            cap
            for cap in applying
            if cap["mode"] == "hard" and cap["used_minor"] + amount > cap["limit_minor"]
        ]
        if refusing:
            return {str(cap["cap_id"]) for cap in refusing}
        for cap in applying:
            cap["used_minor"] += amount
        if item["idempotency_key"] is not None:
            self.keys.add((user, item["idempotency_key"]))
        self.accounts[user] = [free - 1, paid] if free else [free, paid - amount]
        return {"created"}


def _told(row: dict[str, Any]) -> str:
    if row["cap"] is not None:
        assert row["outcome"] == (
            "account_cap_reached" if row["cap"]["scope"] == "account" else "cap_reached"
        )
        return str(row["cap"]["cap_id"])
    return "used" if row["outcome"] in ("replayed", "conflict") else str(row["outcome"])


@pytest.mark.parametrize("round_", range(12))
def test_any_list_ends_as_its_items_one_after_the_other_would(
    module_database: Database, dba: Caller, round_: int
) -> None:
    seed = random.randrange(10**9)
    print("seed", seed)
    dice = random.Random(seed)
    model = Model()
    users = []
    for _ in range(3):
        paid = dice.choice([0, 1, 20, 500])
        users.append(new_user_by(dba, paid=paid, free=dice.random() < 0.5))
        free = account_of(module_database, users[-1])["free_uses_remaining"]
        model.accounts[users[-1]["external_id"]] = [free, paid]
    for _ in range(dice.randint(1, 5)):
        scope = dice.choice(["all", "account", "agent"])
        user = dice.choice(users)
        subject = {"all": None, "account": account_id(module_database, user), "agent": "a"}[scope]
        cap = set_cap(
            dba, scope, dice.choice([0, 1, 7, 30, 100]), subject,
            period=dice.choice(["day", "month"]), mode=dice.choice(["hard", "hard", "alert"]),
        )  # fmt: skip
        model.caps = [c for c in model.caps if c["cap_id"] != cap["cap_id"]]
        model.caps.append({**cap, "user": user["external_id"]})
    for _ in range(4):
        asked = [
            {
                **dice.choice(users),
                "amount_minor": dice.choice([1, 1, 1, 2, 3, 8, 15, 40]),
                "metadata_agent_id": dice.choice([None, "a", "b"]),
                "idempotency_key": dice.choice([None, None, f"k{dice.randint(0, 9)}"]),
            }
            for _ in range(dice.choice([1, 3, 40, 120]))
        ]
        rows = charge_list(dba, asked)
        for row, item in zip(rows, asked, strict=True):
            assert _told(row) in model.charge(item)
        for cap in model.caps:
            assert used(dba, cap) == cap["used_minor"]
        for user in users:
            account = account_of(module_database, user)
            assert [account["free_uses_remaining"], account["paid_credits"]] == (
                model.accounts[user["external_id"]]
            )
    assert ledger_problems(module_database) == []


def test_a_list_that_is_made_to_need_many_rounds_is_decided_in_a_few_seconds(
    module_database: Database, dba: Caller
) -> None:
    # Each account can pay any one of its items and none after the first; every item is more than
    # half of what the cap has left.
    users = [new_user_by(dba, paid=600, free=False) for _ in range(100)]
    set_cap(dba, "all", 1000)
    asked = [{**user, "amount_minor": amount} for user in users for amount in (1, *([600] * 9))]
    began = time.monotonic()
    told = Counter(outcomes(charge_list(dba, asked)))
    assert time.monotonic() - began < 30
    assert told == {"created": 100, "insufficient_credits": 900}


# --- at once -------------------------------------------------------------------------------------


def test_50_sessions_on_10_accounts_charge_exactly_what_their_keys_cap_allows(
    module_database: Database, dba: Caller
) -> None:
    users = [new_user_by(dba, paid=100, free=False) for _ in range(10)]
    key = key_id(module_database)
    cap = set_cap(dba, "api_key", 70, key)

    def charge(number: int) -> Any:
        asked = {**users[number % 10], "api_key_id": key, "amount_minor": 1}

        def call(web: Caller) -> str:
            try:
                web.row("create_charge", **asked)
            except psycopg.Error as error:
                return error.diag.constraint_name or str(error)
            return "created"

        return call

    told = Counter(at_once(module_database, [charge(n) for n in range(200)], user="t_web"))
    assert told == {"created": 70, "cap_reached": 130}
    assert used(dba, cap) == 70
    left = sum(account_of(module_database, user)["paid_credits"] for user in users)
    assert left == 1000 - 70
    assert ledger_problems(module_database) == []


def test_lists_and_reversals_that_meet_on_several_caps_neither_deadlock_nor_exceed_any(
    module_database: Database, dba: Caller
) -> None:
    users = [new_user_by(dba, paid=1000, free=False) for _ in range(8)]
    keys = [key_id(module_database) for _ in range(3)]
    caps = [
        set_cap(dba, "all", 900),
        set_cap(dba, "all", 5000, period="minute"),
        *(set_cap(dba, "api_key", 350, key, period="month") for key in keys),
        *(set_cap(dba, "agent", 250, agent) for agent in "abcd"),
        *(set_cap(dba, "account", 200, account_id(module_database, user)) for user in users),
    ]

    def work(number: int) -> Any:
        dice = random.Random(number)
        key = dice.choice(keys)
        asked = [
            {
                **dice.choice(users),
                "amount_minor": dice.randint(1, 6),
                "metadata_agent_id": dice.choice([*"abcd", None]),
                "api_key_id": key,
            }
            for _ in range(12)
        ]

        def call(web: Caller) -> int:
            rows = charge_list(web, asked)
            charged = sum(row["amount_minor"] for row in rows if row["outcome"] == "created")
            for row in rows[:2]:
                if row["outcome"] == "created":
                    back = web.row(
                        "reverse_charge", charge_id=row["charge_id"], reason="x", api_key_id=key
                    )
                    charged -= back["amount_minor"]
            return charged

        return call

    charged = sum(
        at_once(module_database, [work(n) for n in range(60)], connections=12, user="t_web")
    )
    assert all(used(dba, cap) <= cap["limit_minor"] for cap in caps)
    assert used(dba, caps[0]) == charged
    assert charged > 600


# --- held rows -----------------------------------------------------------------------------------


def test_without_waiting_a_call_ends_soon_when_a_cap_is_held_and_has_done_nothing(
    module_database: Database, dba: Caller
) -> None:
    holder, who = new_user(module_database), new_user(module_database)
    cap = set_cap(dba, "all", 5)
    with session(module_database, "t_dba", autocommit=False) as other:
        other.row("create_charge", **holder)
        began = time.monotonic()
        with pytest.raises(psycopg.errors.LockNotAvailable):
            charge_list(dba, [who, new_user(module_database)], wait=False)
        assert 0.4 < time.monotonic() - began < 5
        other.connection.commit()
    assert account_of(module_database, who)["total_uses"] == 0
    assert outcomes(charge_list(dba, [who], wait=False)) == ["created"]
    assert used(dba, cap) == 2


def test_a_call_that_waits_for_a_cap_sees_what_was_charged_meanwhile(
    module_database: Database, dba: Caller
) -> None:
    set_cap(dba, "all", 1)
    users = [new_user(module_database) for _ in range(2)]
    with (
        ThreadPoolExecutor(1) as pool,
        session(module_database, "t_dba") as waiting,
        session(module_database, "t_dba", autocommit=False) as other,
    ):
        other.row("create_charge", **users[0])
        refusal = pool.submit(waiting.refusal, "create_charge", **users[1])
        wait_for(lambda: is_blocked(module_database, waiting), "the second call to wait")
        other.connection.commit()
        assert refusal.result(timeout=60).slug == "cap_reached"
