"""Merges beside each other and beside everything else: no deadlock, and nothing is lost.

A call that finds accounts merged at its moment ends with serialization_failure and is made again,
as the service does (try_again)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.sql.caps import set_cap
from tests.sql.helpers import (
    Caller,
    Refusal,
    at_once,
    charge_all,
    is_blocked,
    ledger_problems,
    outcomes,
    session,
)
from tests.sql.merges import User, merge, paid, row_of, try_again, user
from tests.sql.payments import USES, attach, begin, configure_provider, deliver
from tests.support import Database, unique, wait_for


@pytest.fixture(autouse=True)
def the_books_are_right_afterwards(module_database: Database) -> Iterator[None]:
    """Whatever a test did, every account's books agree at its end."""
    yield
    assert ledger_problems(module_database) == []


def _outcome(caller: Caller, function: str, **arguments: Any) -> str:
    """'done', or the slug of the refusal."""
    try:
        try_again(caller, function, **arguments)
    except psycopg.Error as error:
        return Refusal.of(error).slug or error.sqlstate or ""
    return "done"


def _merge(one: User, other: User) -> Any:
    return partial(
        _outcome,
        function="merge_accounts",
        account_id=one.id,
        into_account_id=other.id,
        reason="one person",
    )


def test_two_merges_of_one_pair_in_both_directions_leave_one(module_database: Database) -> None:
    for _ in range(5):
        one, other = user(module_database, paid=3), user(module_database, paid=4)
        answers = at_once(module_database, [_merge(one, other), _merge(other, one)], connections=2)
        assert sorted(answers) == ["accounts_are_one", "done"]
        assert sorted(paid(module_database, one, other)) == [0, 7]


def test_merges_that_make_a_chain_at_once_lead_everybody_to_its_end(
    module_database: Database, dba: Caller
) -> None:
    for _ in range(5):
        one, other, third = (user(module_database, paid=1) for _ in range(3))
        answers = at_once(
            module_database, [_merge(one, other), _merge(other, third)], connections=2
        )
        assert answers == ["done", "done"]
        assert paid(module_database, one, other, third) == [0, 0, 3]
        assert dba.row("get_account", **one.who)["account_id"] == third.id


def test_merges_of_a_ring_at_once_leave_one_account_and_no_circle(
    module_database: Database, dba: Caller
) -> None:
    for _ in range(5):
        ring = [user(module_database, paid=1) for _ in range(4)]
        pairs = zip(ring, [*ring[1:], ring[0]], strict=True)
        answers = at_once(module_database, [_merge(*pair) for pair in pairs], connections=4)
        assert sorted(answers) == ["accounts_are_one", "done", "done", "done"]
        assert sorted(paid(module_database, *ring)) == [0, 0, 0, 4]
        assert len({dba.row("get_account", **account.who)["account_id"] for account in ring}) == 1


def test_a_merge_and_charges_of_both_identities_at_once_lose_nothing(
    module_database: Database,
) -> None:
    """Charges by the function for one, by lists that wait and that do not, with keys that are all
    used twice."""

    def charge(caller: Caller, way: str, account: User, key: str) -> str:
        item = {**account.who, "idempotency_key": key}
        if way == "one":
            return _outcome(caller, "create_charge", **item)
        for _ in range(200):
            try:
                (row,) = charge_all(caller, [item], wait=way == "list")
            except psycopg.errors.SerializationFailure:
                continue
            if row["outcome"] != "busy":
                return str(row["outcome"])
        return "busy"

    for _ in range(3):
        one, other = user(module_database, paid=40), user(module_database, paid=40)
        calls = [
            partial(charge, way=way, account=account, key=f"{way}-{number // 2}")
            for number in range(12)
            for way in ("one", "list", "skip")
            for account in (one, other)
        ]
        calls.insert(30, _merge(one, other))
        answers = at_once(module_database, calls, connections=8)
        made = sum(answer in ("done", "created") for answer in answers) - 1
        again = sum(answer in ("charge_already_exists", "replayed") for answer in answers)
        assert (made + again, len(answers)) == (72, 73), answers
        assert paid(module_database, one) == [0]
        assert made == 80 - paid(module_database, other)[0]
        # Each identity used each of its keys once; after the merge both share the keys.
        assert 18 <= made <= 36
        uses = [row_of(module_database, account)["total_uses"] for account in (one, other)]
        assert sum(uses) == made + 6  # three free ones each


def test_a_charge_that_waits_for_a_merge_is_made_where_the_identity_leads(
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
            answer = pool.submit(try_again, waiting, "create_charge", **one.who)
            wait_for(lambda: is_blocked(module_database, waiting), "the charge to wait")
            assert outcomes(charge_in(module_database, one)) == ["busy"]
            merging.connection.commit()
            assert answer.result()["account_id"] == other.id
    assert paid(module_database, one, other) == [0, 9]


def charge_in(database: Database, account: User) -> list[dict[str, Any]]:
    """A list of one charge that does not wait, in a session of its own."""
    with session(database, "t_dba") as caller:
        return charge_all(caller, [account.who], wait=False)


def test_a_merge_beside_a_purchase_that_settles_credits_it_once(
    module_database: Database, dba: Caller
) -> None:
    configure_provider(module_database)
    for _ in range(4):
        one, other = user(module_database), user(module_database)
        payments = [unique("pi") for _ in range(3)]
        for payment in payments:
            attach(dba, begin(dba, one.who), payment)

        def settle(caller: Caller, payment: str) -> str:
            for _ in range(5):
                try:
                    return str(deliver(caller, unique("evt"), payment)["outcome"])
                except psycopg.errors.SerializationFailure:
                    continue
            raise AssertionError("the event was refused again and again")

        calls = [partial(settle, payment=payment) for payment in payments * 2]
        calls.insert(2, _merge(one, other))
        answers = at_once(module_database, calls, connections=7)
        assert sorted(answers) == sorted(["already_credited", "credited"] * 3 + ["done"])
        assert paid(module_database, one, other) == [0, 3 * USES]


def test_merges_undone_beside_transfers_and_gifts_lose_nothing(
    module_database: Database, dba: Caller
) -> None:
    """Whatever order they get, the credits of all accounts together are what was given."""
    for _ in range(6):
        one, other, third = (user(module_database, paid=10) for _ in range(3))
        merge(module_database, one, other)
        move: dict[str, Any] = {"amount": 1, "reason": "x"}
        calls = [
            partial(_outcome, function="undo_merge", account_id=one.id, reason="two people"),
            partial(
                _outcome, function="transfer_credits", from_account_id=one.id,
                to_account_id=third.id, **move,
            ),
            partial(
                _outcome, function="transfer_credits", from_account_id=third.id,
                to_account_id=one.id, **move,
            ),
            partial(_outcome, function="adjust_credits", account_id=one.id, **move),
            _merge(third, other),
        ]  # fmt: skip
        answers = at_once(module_database, calls, connections=5)
        # The undoing may come too late; two accounts may be one by then.
        assert answers.count("done") >= 2, answers
        assert set(answers) <= {"done", "merge_stands", "accounts_are_one"}
        given = sum(
            module_database.value(
                "SELECT coalesce(sum(c.amount_minor), 0) FROM billing_data.credits AS c"
                " WHERE c.account_id = %s AND c.transfer_id IS NULL",
                account.id,
            )
            for account in (one, other, third)
        )
        assert sum(paid(module_database, one, other, third)) == given == 31


def test_a_cap_that_is_set_while_its_account_is_merged_is_not_left_behind(
    module_database: Database, dba: Caller
) -> None:
    one, other = user(module_database), user(module_database)
    set_cap(dba, "account", 5, one.id)
    with (
        ThreadPoolExecutor(2) as pool,
        session(module_database, "t_dba") as setting,
        session(module_database, "t_dba") as merging,
        session(module_database, "t_dba", autocommit=False) as holding,
    ):
        set_cap(holding, "account", 6, one.id)
        asked = {"scope": "account", "subject": str(one.id), "period": "day", "limit_minor": 7}
        is_set = pool.submit(try_again, setting, "set_cap", **asked, reason="a test")
        wait_for(lambda: is_blocked(module_database, setting), "the second change to wait")
        merged = pool.submit(_merge(one, other), merging)
        wait_for(lambda: is_blocked(module_database, merging), "the merge to wait")
        holding.connection.commit()
        assert merged.result(timeout=60) == "done"
        assert is_set.result(timeout=60)["limit_minor"] == 7
    caps = dba.rows("list_caps", scope="account")
    assert [(row["subject"], row["limit_minor"]) for row in caps] == [(str(other.id), 7)]
