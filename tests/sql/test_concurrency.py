"""Many sessions at once: nothing is charged twice, nothing is lost, nobody deadlocks."""

from __future__ import annotations

import itertools
import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import psycopg
import pytest

from server.api_key_secret import new_secret
from tests.sql.helpers import (
    Caller,
    Refusal,
    account_of,
    at_once,
    charge_all,
    check_all,
    is_blocked,
    ledger_problems,
    new_user,
    outcomes,
    person,
    session,
)
from tests.support import Database, unique, wait_for


@pytest.fixture(autouse=True)
def the_ledger_is_right_afterwards(module_database: Database) -> Iterator[None]:
    """Whatever a test did, every account's books agree at its end."""
    yield
    assert ledger_problems(module_database) == []


def _outcome(caller: Caller, function: str, **arguments: Any) -> str | Refusal:
    """'done', or how the call was refused."""
    try:
        caller.row(function, **arguments)
    except psycopg.Error as error:
        return Refusal.of(error)
    return "done"


def _slugs(answers: Sequence[str | Refusal]) -> Counter[str | None]:
    return Counter(answer if isinstance(answer, str) else answer.slug for answer in answers)


def test_a_thousand_charges_at_once_spend_one_credit_once(module_database: Database) -> None:
    who = new_user(module_database, paid=1, free=False)
    answers = at_once(
        module_database, [lambda caller: _outcome(caller, "create_charge", **who)] * 1000
    )
    assert _slugs(answers) == {"done": 1, "insufficient_credits": 999}
    messages = {answer.message for answer in answers if isinstance(answer, Refusal)}
    assert messages == {"Insufficient credits. Balance: 0, Required: 1"}
    account = account_of(module_database, who)
    assert (account["paid_credits"], account["total_uses"]) == (0, 4)
    assert account["ledger_version"] == 5


def test_free_uses_are_not_overspent_either(module_database: Database) -> None:
    who = new_user(module_database, paid=2)
    answers = at_once(
        module_database, [lambda caller: _outcome(caller, "create_charge", **who)] * 200
    )
    assert _slugs(answers) == {"done": 5, "insufficient_credits": 195}
    account = account_of(module_database, who)
    assert (account["free_uses_remaining"], account["paid_credits"]) == (0, 0)


def test_two_hundred_first_checks_at_once_make_one_account(module_database: Database) -> None:
    who = person()
    answers = at_once(module_database, [lambda caller: caller.row("check_credit", **who)] * 200)
    assert len(answers) == 200
    assert all(answer["has_credit"] for answer in answers)
    account = account_of(module_database, who)
    checks = module_database.execute(
        "SELECT DISTINCT c.account_id, count(*) OVER () FROM billing_data.credit_checks AS c"
        " WHERE c.external_id = %s",
        who["external_id"],
    )
    assert checks == [(account["id"], 200)]


@pytest.mark.parametrize("function", ["check_credits", "create_account"])
def test_one_of_many_who_come_at_once_is_told_to_have_made_the_account(
    module_database: Database, function: str
) -> None:
    def first(caller: Caller) -> bool:
        row = check_all(caller, [who])[0] if function == "check_credits" else caller.row(
            function, **who
        )  # fmt: skip
        made: bool = row["account_created"]
        return made

    made = []
    for _ in range(10):
        who = person()
        made.append(sum(at_once(module_database, [first] * 20, connections=20)))
    assert made == [1] * 10


def test_one_key_a_hundred_times_at_once_charges_once_and_all_others_learn_its_id(
    module_database: Database,
) -> None:
    who, key = new_user(module_database), unique()
    answers = at_once(
        module_database,
        [lambda caller: _outcome(caller, "create_charge", **who, idempotency_key=key)] * 100,
    )
    assert _slugs(answers) == {"done": 1, "charge_already_exists": 99}
    charges = module_database.execute(
        "SELECT c.id::text FROM billing_data.charges AS c WHERE c.idempotency_key = %s", key
    )
    assert len(charges) == 1
    told = {answer.detail["charge_id"] for answer in answers if isinstance(answer, Refusal)}
    assert told == {charges[0][0]}
    assert account_of(module_database, who)["free_uses_remaining"] == 2


def test_one_key_a_hundred_times_at_once_credits_once(module_database: Database) -> None:
    who, key = new_user(module_database), unique()
    answers = at_once(
        module_database,
        [
            lambda caller: _outcome(
                caller, "create_credit", **who, amount_minor=20, idempotency_key=key
            )
        ]
        * 100,
    )
    assert _slugs(answers) == {"done": 1, "credit_already_exists": 99}
    assert account_of(module_database, who)["paid_credits"] == 20


def test_one_key_for_a_new_account_at_once_makes_it_once_and_replays_the_rest(
    module_database: Database,
) -> None:
    who, key = person(), unique()
    answers = at_once(
        module_database,
        [lambda caller: caller.row("create_account", **who, idempotency_key=key)] * 100,
    )
    assert Counter(answer["replayed"] for answer in answers) == {False: 1, True: 99}
    assert {answer["account_id"] for answer in answers} == {account_of(module_database, who)["id"]}


def test_batches_over_the_same_accounts_in_opposite_order_do_not_deadlock(
    module_database: Database,
) -> None:
    users = [new_user(module_database, paid=1000) for _ in range(50)]
    rounds, sessions = 20, 4

    def batch(number: int) -> Callable[[Caller], list[str]]:
        order = users if number % 2 else users[::-1]
        return lambda caller: outcomes(charge_all(caller, order))

    answers = at_once(
        module_database, [batch(number) for number in range(rounds * sessions)], sessions
    )
    assert {outcome for answer in answers for outcome in answer} == {"created"}
    for who in users:
        account = account_of(module_database, who)
        assert account["total_uses"] == rounds * sessions
        assert account["paid_credits"] == 1000 - (rounds * sessions - 3)


def _mixed_batches(
    users: Sequence[dict[str, str]], dice: random.Random
) -> list[Callable[[Caller], list[str]]]:
    def batch(number: int) -> Callable[[Caller], list[str]]:
        items = [
            {**who, "customer_email": f"{number}-{index}@example.com"}
            for index, who in enumerate(dice.choices(users, k=25))
        ]
        if number % 3:
            return lambda caller: outcomes(charge_all(caller, items))
        return lambda caller: outcomes(check_all(caller, items))

    return [batch(number) for number in range(200)]


def test_batches_of_checks_and_charges_in_any_order_do_not_deadlock(
    module_database: Database,
) -> None:
    users = [new_user(module_database, paid=1000) for _ in range(30)]
    answers = at_once(module_database, _mixed_batches(users, random.Random(1)), 12)
    assert {outcome for answer in answers for outcome in answer} == {"created", "checked"}


def test_batches_about_users_who_are_being_created_do_not_deadlock(
    module_database: Database,
) -> None:
    for seed in range(5):
        users = [person() for _ in range(30)]
        answers = at_once(module_database, _mixed_batches(users, random.Random(seed)), 12)
        found = {outcome for answer in answers for outcome in answer}
        assert found <= {"created", "checked", "account_not_found", "insufficient_credits"}
        for who in users:
            account_of(module_database, who)


def test_a_check_locks_accounts_that_appeared_meanwhile_in_id_order_too(
    module_database: Database,
) -> None:
    start = unique()
    first, middle, last = (person(f"{start}-{letter}") for letter in "abc")
    with (
        session(module_database, "t_dba", autocommit=False) as creator,
        session(module_database, "t_dba", autocommit=False) as delayer,
        session(module_database, "t_dba") as checker,
        session(module_database, "t_dba") as charger,
        ThreadPoolExecutor(2) as pool,
    ):
        # The ids are random; the test needs the third account to have the smallest id.
        while True:
            ids = [creator.row("create_account", **who)["account_id"] for who in (first, last)]
            if ids[1] < ids[0]:
                break
            creator.connection.rollback()
        delayer.row("create_account", **middle)
        items = [{**who, "customer_email": "ada@example.com"} for who in (first, middle, last)]
        checks = pool.submit(check_all, checker, items)
        wait_for(lambda: is_blocked(module_database, checker), "the check to wait for the first")
        creator.connection.commit()
        wait_for(
            lambda: (
                delayer.connection.info.backend_pid
                in module_database.value(
                    "SELECT pg_blocking_pids(%s)", checker.connection.info.backend_pid
                )
            ),
            "the check to wait for the middle one",
        )
        charges = pool.submit(charge_all, charger, [first, last])
        wait_for(
            lambda: charges.done() or is_blocked(module_database, charger), "the charge to go on"
        )
        delayer.connection.commit()
        assert outcomes(checks.result(timeout=30)) == ["checked"] * 3
        assert outcomes(charges.result(timeout=30)) == ["created"] * 2


def test_charges_and_credits_that_race_add_up(module_database: Database) -> None:
    who = new_user(module_database, paid=10, free=False)
    charge = [lambda caller: _outcome(caller, "create_charge", **who, amount_minor=2)] * 200
    credit = [lambda caller: _outcome(caller, "create_credit", **who, amount_minor=1)] * 200
    calls = [call for pair in zip(charge, credit, strict=True) for call in pair]
    slugs = _slugs(at_once(module_database, calls))
    assert set(slugs) <= {"done", "insufficient_credits"}
    charged = 400 - 200 - slugs["insufficient_credits"]
    account = account_of(module_database, who)
    assert account["paid_credits"] == 10 + 200 - 2 * charged
    assert account["total_uses"] == 3 + charged
    assert account["ledger_version"] == 1 + 3 + 200 + charged


def test_a_batch_that_does_not_wait_never_does_and_charges_each_item_at_most_once(
    module_database: Database,
) -> None:
    users = [new_user(module_database, paid=10_000, free=False) for _ in range(20)]

    def batch(caller: Caller) -> list[str]:
        # SKIP LOCKED skips locked rows. But PostgreSQL waits for a moment where a row was updated
        # between its look-up and its lock; then the whole call fails.
        try:
            return outcomes(charge_all(caller, users, wait=False))
        except psycopg.errors.LockNotAvailable:
            return ["busy"] * len(users)

    answers = at_once(module_database, [batch] * 100, 8)
    counted = Counter(outcome for answer in answers for outcome in answer)
    assert set(counted) <= {"created", "busy"}
    spent = sum(10_000 - account_of(module_database, who)["paid_credits"] for who in users)
    assert spent == counted["created"]


def test_a_revocation_holds_from_the_moment_it_is_committed(module_database: Database) -> None:
    who = new_user(module_database, paid=100_000)
    key = uuid.UUID(module_database.create_key().id)
    revoked = threading.Event()
    late: list[str | Refusal] = []

    def charge_on() -> None:
        with session(module_database, "t_web") as web:
            while True:
                was_revoked = revoked.is_set()
                answer = _outcome(web, "create_charge", **who, api_key_id=key)
                if was_revoked:
                    late.append(answer)
                    return

    threads = [threading.Thread(target=charge_on) for _ in range(8)]
    for thread in threads:
        thread.start()
    with session(module_database, "t_dba") as dba:
        dba.row("revoke_api_key", api_key_id=key)
    revoked.set()
    for thread in threads:
        thread.join(timeout=60)
    assert _slugs(late) == {"api_key_invalid": 8}


def test_one_key_rotated_at_once_has_one_successor(module_database: Database) -> None:
    key = uuid.UUID(module_database.create_key().id)
    secrets = [new_secret("test") for _ in range(10)]

    def rotate(number: int) -> Callable[[Caller], str | Refusal]:
        return lambda caller: _outcome(
            caller,
            "rotate_api_key",
            api_key_id=key,
            key_prefix=secrets[number].prefix,
            key_hash=secrets[number].hash,
        )

    answers = at_once(module_database, [rotate(number) for number in range(10)], 10)
    assert _slugs(answers) == {"done": 1, "api_key_not_active": 9}


def test_coming_months_made_at_once_are_made_once(database: Database) -> None:
    def months(caller: Caller) -> list[str]:
        return [row["partition_name"] for row in caller.rows("create_check_partitions", months=6)]

    made = list(itertools.chain.from_iterable(at_once(database, [months] * 8, 8)))
    assert len(made) == len(set(made)) == 3


def test_months_are_made_while_checks_go_on(database: Database) -> None:
    who = new_user(database)
    calls: list[Callable[[Caller], Any]] = [lambda caller: caller.row("check_credit", **who)] * 200
    for number in range(5, 11):
        calls.insert(
            number * 15,
            partial(Caller.rows, function="create_check_partitions", months=number),
        )
    assert len(at_once(database, calls, 8)) == 206
    assert database.value("SELECT count(*) FROM billing_data.credit_checks") == 201
