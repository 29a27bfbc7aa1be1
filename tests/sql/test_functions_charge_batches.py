"""Batches of charges, and lists of charges that take effect once."""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.sql.charges import charges_of, set_status
from tests.sql.helpers import (
    Caller,
    Refusal,
    account_of,
    charge_all,
    charge_once,
    is_blocked,
    key_id,
    ledger_problems,
    new_user,
    outcomes,
    person,
    session,
)
from tests.support import Database, held_account, unique, wait_for

# --- several at once -----------------------------------------------------------------------------


def test_each_item_of_a_batch_has_its_own_outcome(module_database: Database, dba: Caller) -> None:
    fine, empty = new_user(module_database, paid=9), new_user(module_database, free=False)
    suspended, closed = new_user(module_database), new_user(module_database)
    set_status(dba, suspended, "suspended")
    set_status(dba, closed, "closed")
    used = dba.row("create_charge", **fine, idempotency_key="used")
    rows = charge_all(
        dba,
        [
            fine,
            empty,
            suspended,
            closed,
            person(),
            {**fine, "currency": "EUR"},
            {**fine, "idempotency_key": "used"},
            {**fine, "idempotency_key": "used", "amount_minor": 2},
            {**fine, "description": "the last"},
        ],
    )
    assert outcomes(rows) == [
        "created",
        "insufficient_credits",
        "account_suspended",
        "account_closed",
        "account_not_found",
        "charge_currency_mismatch",
        "replayed",
        "conflict",
        "created",
    ]
    assert rows[1]["balance"] == 0
    assert (rows[5]["account_currency"], rows[5]["currency"]) == ("USD", "EUR")
    for repeated in rows[6:8]:
        assert repeated["charge_id"] == used["charge_id"]
        assert repeated["created_at"] == used["created_at"]
        assert repeated["amount_minor"] == used["amount_minor"]
        assert repeated["free_uses_after"] == used["free_uses_after"]
    assert rows[8]["description"] == "the last"
    refused = [row for row in rows if row["outcome"] not in ("created", "replayed", "conflict")]
    assert [row["charge_id"] for row in refused] == [None] * 5
    assert account_of(module_database, fine)["total_uses"] == 3


def test_items_of_one_account_are_decided_in_their_order(
    module_database: Database, dba: Caller
) -> None:
    who, other = new_user(module_database, paid=3), new_user(module_database)
    amounts = [9, 1, 1, 2, 2, 1, 1]
    items: list[dict[str, Any]] = [{**who, "amount_minor": amount} for amount in amounts]
    items.insert(3, other)
    rows = charge_all(dba, items)
    assert outcomes(rows) == [
        "created",
        "created",
        "created",
        "created",
        "created",
        "insufficient_credits",
        "created",
        "insufficient_credits",
    ]
    mine = [row for index, row in enumerate(rows) if index != 3]
    assert [row["paid_with"] for row in mine] == [*["free"] * 3, "paid", None, "paid", None]
    assert [row["balance_after"] for row in mine] == [3, 3, 3, 1, None, 0, None]
    assert rows[7]["balance"] == 0
    stored = charges_of(module_database, who)
    assert [row["ledger_version"] for row in stored] == [2, 3, 4, 5, 6]
    assert [row["id"] for row in stored] == [row["charge_id"] for row in mine if row["charge_id"]]
    assert ledger_problems(module_database) == []


def test_a_key_given_twice_in_one_call_charges_once(module_database: Database, dba: Caller) -> None:
    who, key = new_user(module_database), unique()
    item = {**who, "idempotency_key": key}
    rows = charge_all(dba, [item, item, {**item, "amount_minor": 2}, who])
    assert outcomes(rows) == ["created", "replayed", "conflict", "created"]
    assert {row["charge_id"] for row in rows[:3]} == {rows[0]["charge_id"]}
    assert rows[2]["amount_minor"] == 1
    assert len(charges_of(module_database, who)) == 2


def test_one_key_for_two_accounts_in_one_call_charges_both(
    module_database: Database, dba: Caller
) -> None:
    ada, ben, key = new_user(module_database), new_user(module_database), unique()
    items = [{**who, "idempotency_key": key} for who in (ada, ben, ada, ben)]
    assert outcomes(charge_all(dba, items)) == ["created", "created", "replayed", "replayed"]


def test_a_refused_item_leaves_its_key_to_a_later_one(
    module_database: Database, dba: Caller
) -> None:
    who, key = new_user(module_database, free=False, paid=1), unique()
    items = [
        {**who, "idempotency_key": key, "amount_minor": 2},
        {**who, "idempotency_key": key, "amount_minor": 1},
    ]
    assert outcomes(charge_all(dba, items)) == ["insufficient_credits", "created"]


def test_a_thousand_items_are_charged_in_one_call(module_database: Database, dba: Caller) -> None:
    users = [new_user(module_database, paid=100) for _ in range(10)]
    rows = charge_all(dba, [users[number % 10] for number in range(1000)])
    assert set(outcomes(rows)) == {"created"}
    assert [account_of(module_database, who)["paid_credits"] for who in users] == [3] * 10
    assert ledger_problems(module_database) == []


def test_an_empty_batch_does_nothing(dba: Caller) -> None:
    nothing: dict[str, list[Any]] = {
        "oauth_providers": [],
        "external_ids": [],
        "amounts_minor": [],
        "currencies": [],
        "descriptions": [],
    }
    assert dba.rows("create_charges", **nothing) == []
    with pytest.raises(psycopg.Error) as refused:
        dba.rows("create_charges", **dict.fromkeys(nothing))
    assert refused.value.sqlstate == "PB422"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("amount_minor", None),
        ("amount_minor", 0),
        ("amount_minor", -5),
        ("currency", None),
        ("description", None),
        ("idempotency_key", "x" * 256),
        ("metadata_request_id", "x" * 256),
        ("customer_email", "x" * 256),
        ("user_role", "x" * 51),
    ],
    ids=lambda value: str(value)[:20],
)
def test_one_bad_item_is_refused_alone(
    module_database: Database, dba: Caller, field: str, value: Any
) -> None:
    good = new_user(module_database, paid=5, free=False)
    bad = new_user(module_database, paid=5, free=False)
    before = account_of(module_database, bad)
    rows = charge_all(dba, [good, {**bad, field: value}, good])
    assert outcomes(rows) == ["created", "invalid_argument", "created"]
    assert account_of(module_database, bad) == before


@pytest.mark.parametrize("field", ["oauth_provider", "external_id"])
def test_an_item_without_an_identity_is_refused_alone(
    module_database: Database, dba: Caller, field: str
) -> None:
    good = new_user(module_database)
    rows = charge_all(dba, [good, {**good, field: None}])
    assert rows[0]["outcome"] == "created"
    assert rows[1]["outcome"] in ("account_not_found", "invalid_argument")


@pytest.mark.parametrize(
    "short",
    ["external_ids", "amounts_minor", "currencies", "descriptions", "idempotency_keys"],
)
def test_arrays_of_different_lengths_are_refused_as_a_whole(
    module_database: Database, dba: Caller, short: str
) -> None:
    who = new_user(module_database)
    arrays: dict[str, list[Any]] = {
        "oauth_providers": [who["oauth_provider"]] * 2,
        "external_ids": [who["external_id"]] * 2,
        "amounts_minor": [1, 1],
        "currencies": ["USD", "USD"],
        "descriptions": ["one use", "one use"],
        "idempotency_keys": ["k1", "k2"],
    }
    arrays[short] = arrays[short][:1]
    refusal = dba.refusal("create_charges", **arrays)
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
    assert charges_of(module_database, who) == []


def test_fewer_keys_than_items_let_no_item_through_unnamed(
    module_database: Database, web: Caller
) -> None:
    who, key = new_user(module_database), key_id(module_database)
    arrays: dict[str, list[Any]] = {
        "oauth_providers": [who["oauth_provider"]] * 2,
        "external_ids": [who["external_id"]] * 2,
        "amounts_minor": [1, 1],
        "currencies": ["USD", "USD"],
        "descriptions": ["one use", "one use"],
    }
    for keys in ([], [None], [None, None]):
        try:
            rows = web.rows("create_charges", **arrays, api_key_ids=keys)
        except psycopg.Error as error:
            assert Refusal.of(error).slug == "invalid_argument"  # noqa: PT017
        else:
            assert outcomes(rows) == ["api_key_invalid"] * 2
    try:
        rows = web.rows("create_charges", **arrays, api_key_ids=[key])
    except psycopg.Error as error:
        assert Refusal.of(error).slug == "invalid_argument"  # noqa: PT017
    else:
        assert sorted(outcomes(rows)) == ["api_key_invalid", "created"]


def test_each_item_is_charged_by_its_own_key(module_database: Database, web: Caller) -> None:
    who = new_user(module_database)
    keys = [key_id(module_database) for _ in range(2)]
    charge_all(web, [{**who, "api_key_id": key} for key in keys])
    assert [row["api_key_id"] for row in charges_of(module_database, who)] == keys


# --- a whole list once --------------------------------------------------------------------------


def test_a_list_takes_effect_once_and_its_answer_is_given_again(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    key, users = key_id(module_database), [new_user(module_database, paid=5) for _ in range(2)]
    more = {**users[0], "amount_minor": 2, "description": "n"}
    items: list[dict[str, Any]] = [users[0], users[1], person(), more]
    first = charge_once(web, items, key, "list")
    assert outcomes(first) == ["created", "created", "account_not_found", "created"]
    assert {row["replayed"] for row in first} == {False}
    states = [account_of(module_database, who) for who in users]
    again = charge_once(web, items, key, "list")
    assert [row.pop("replayed") for row in again] == [True] * 4
    assert again == [{name: row[name] for name in row if name != "replayed"} for row in first]
    assert [account_of(module_database, who) for who in users] == states
    assert states[0]["total_uses"] == 2
    for who in users:
        dba.row("set_account_status", **who, status="closed", reason="a test")
    assert outcomes(charge_once(web, items, key, "list")) == outcomes(first)


def test_a_list_whose_api_key_ends_meanwhile_is_refused_and_free_for_the_next_key(
    database: Database,
) -> None:
    """The refusal must not be kept as the list's answer: otherwise the next key would get it for
    ever."""
    who = new_user(database, paid=5)
    old = database.create_key()
    with (
        session(database, "t_web") as web,
        ThreadPoolExecutor(1) as pool,
        held_account(database, who["external_id"]) as holder,
    ):
        waiting = pool.submit(charge_once, web, [who], uuid.UUID(old.id), "list")
        wait_for(lambda: is_blocked(database, web), "the list to wait for the account")
        new = database.rotate_key(old.id)
        database.execute("SELECT billing.revoke_api_key(p_api_key_id => %s)", old.id, user="t_dba")
        holder.rollback()
        with pytest.raises(psycopg.Error) as caught:
            waiting.result(30)
        assert Refusal.of(caught.value).slug == "api_key_invalid"
        assert charges_of(database, who) == []
        (row,) = charge_once(web, [who], uuid.UUID(new.id), "list")
        assert (row["outcome"], row["replayed"]) == ("created", False)


def test_another_list_under_a_used_key_is_refused_and_charges_nothing(
    module_database: Database, web: Caller
) -> None:
    key, who = key_id(module_database), new_user(module_database)
    charge_once(web, [who], key, "list")
    with pytest.raises(psycopg.Error) as caught:
        charge_once(web, [who, who], key, "list", b"another")
    assert Refusal.of(caught.value).slug == "idempotency_key_reused"
    assert len(charges_of(module_database, who)) == 1


def test_a_lists_key_belongs_to_its_api_key(module_database: Database, web: Caller) -> None:
    who = new_user(module_database)
    for _ in range(2):
        (row,) = charge_once(web, [who], key_id(module_database), "list")
        assert (row["outcome"], row["replayed"]) == ("created", False)


def test_a_lists_key_survives_the_rotation_of_its_api_key(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who = new_user(module_database, paid=5)
    line = [key_id(module_database)]
    for _ in range(2):
        line.append(uuid.UUID(module_database.rotate_key(line[-1]).id))
    # The key in the middle asks first. The oldest key no longer works, and the newest was made
    # later.
    dba.row("revoke_api_key", api_key_id=line[0])
    first = charge_once(web, [who, who], line[1], "list", b"by 1", batch_fingerprint=b"as sent")
    assert outcomes(first) == ["created", "created"]
    again = charge_once(web, [who, who], line[2], "list", b"by 2", batch_fingerprint=b"as sent")
    assert [{**row, "replayed": False} for row in again] == first
    assert {row["replayed"] for row in again} == {True}
    assert len(charges_of(module_database, who)) == 2
    with pytest.raises(psycopg.Error) as caught:
        charge_once(web, [who], line[2], "list", b"by 2", batch_fingerprint=b"another")
    assert Refusal.of(caught.value).slug == "idempotency_key_reused"


@pytest.mark.parametrize("older", ["old key", "new key"])
def test_one_list_under_both_keys_of_a_rotation_at_once_takes_effect_once(
    module_database: Database, web: Caller, older: str
) -> None:
    who = new_user(module_database, paid=5)
    old = key_id(module_database)
    keys = [old, uuid.UUID(module_database.rotate_key(old).id)]
    if older == "new key":
        keys.reverse()
    sent = {"batch_fingerprint": b"as sent"}
    with (
        session(module_database, "t_web", autocommit=False) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        first = charge_once(other, [who], keys[0], "list", b"by 1", **sent)
        waiting = pool.submit(charge_once, web, [who], keys[1], "list", b"by 2", **sent)
        wait_for(lambda: is_blocked(module_database, web), "the second to wait for the first")
        other.connection.commit()
        again = waiting.result(timeout=30)
    assert [row["charge_id"] for row in again] == [row["charge_id"] for row in first]
    assert (first[0]["replayed"], again[0]["replayed"]) == (False, True)
    assert len(charges_of(module_database, who)) == 1


def _all_but_the_last(database: Database, count: int = 4) -> tuple[list[Any], dict[str, str]]:
    """Identities in the order in which their accounts are locked, and the last one."""
    users = [new_user(database, paid=5) for _ in range(count)]
    users.sort(key=lambda who: account_of(database, who)["id"])
    return users[:-1], users[-1]


def _take(database: Database, users: list[dict[str, str]]) -> None:
    """Locks the accounts for a moment; fails when somebody holds one of them."""
    with session(database, "postgres") as root:
        for who in users:
            root.execute(
                "SELECT FROM billing_data.accounts WHERE external_id = %s FOR UPDATE NOWAIT",
                who["external_id"],
            )


@pytest.mark.parametrize("form", ["once per key", "by hand"])
def test_a_list_that_waits_for_an_account_holds_no_other(
    module_database: Database, web: Caller, dba: Caller, form: str
) -> None:
    others, held = _all_but_the_last(module_database)
    caller = web if form == "once per key" else dba
    with (
        ThreadPoolExecutor(1) as pool,
        held_account(module_database, held["external_id"]) as holder,
    ):
        if form == "once per key":
            key = key_id(module_database)
            waiting = pool.submit(charge_once, web, [*others, held], key, "list")
        else:
            waiting = pool.submit(charge_all, dba, [*others, held])
        wait_for(lambda: is_blocked(module_database, caller), "the list to wait")
        _take(module_database, others)
        assert not waiting.done()
        holder.rollback()
        assert outcomes(waiting.result(timeout=30)) == ["created"] * 4
    for who in (*others, held):
        assert len(charges_of(module_database, who)) == 1
    assert ledger_problems(module_database) == []


@pytest.mark.parametrize("form", ["once per key", "by hand"])
def test_a_list_whose_account_stays_held_does_nothing_at_all(
    module_database: Database, form: str
) -> None:
    others, held = _all_but_the_last(module_database)
    key = key_id(module_database)

    def charge(caller: Caller) -> list[dict[str, Any]]:
        if form == "by hand":
            return charge_all(caller, [*others, held])
        return charge_once(caller, [*others, held], key, "list")

    with session(module_database, "t_web" if form == "once per key" else "t_dba") as caller:
        caller.execute("SET lock_timeout = '300ms'")
        with held_account(module_database, held["external_id"]):
            began = time.monotonic()
            with pytest.raises(psycopg.errors.LockNotAvailable):
                charge(caller)
            assert 0.25 < time.monotonic() - began < 5
            assert [charges_of(module_database, who) for who in others] == [[]] * 3
        assert outcomes(charge(caller)) == ["created"] * 4
        assert caller.execute("SHOW lock_timeout") == [{"lock_timeout": "300ms"}]


def test_without_waiting_a_list_with_a_held_account_is_busy_as_a_whole(
    module_database: Database, web: Caller
) -> None:
    others, held = _all_but_the_last(module_database)
    key = key_id(module_database)
    with held_account(module_database, held["external_id"]):
        rows = charge_once(web, [*others, held, person()], key, "list", wait=False)
        assert outcomes(rows) == ["busy"] * 5
        _take(module_database, others)
    assert [charges_of(module_database, who) for who in (*others, held)] == [[]] * 4
    rows = charge_once(web, [*others, held, person()], key, "list", wait=False)
    assert outcomes(rows) == ["created"] * 4 + ["account_not_found"]
    assert {row["replayed"] for row in rows} == {False}
    # The charge was made before, so it is only read.
    with held_account(module_database, held["external_id"]):
        again = charge_once(web, [*others, held, person()], key, "list", wait=False)
    assert outcomes(again) == outcomes(rows)
    assert {row["replayed"] for row in again} == {True}


def test_one_list_sent_twice_that_waits_for_an_account_takes_effect_once(
    module_database: Database,
) -> None:
    others, held = _all_but_the_last(module_database)
    key = key_id(module_database)
    with (
        session(module_database, "t_web") as one,
        session(module_database, "t_web") as other,
        ThreadPoolExecutor(2) as pool,
    ):
        with held_account(module_database, held["external_id"]):
            sent = [
                pool.submit(charge_once, caller, [*others, held], key, "list")
                for caller in (one, other)
            ]
            for caller in (one, other):
                wait_for(partial(is_blocked, module_database, caller), "both to wait")
        answers = [answer.result(timeout=30) for answer in sent]
    assert sorted(rows[0]["replayed"] for rows in answers) == [False, True]
    first, again = ([row["charge_id"] for row in rows] for rows in answers)
    assert first == again
    for who in (*others, held):
        assert len(charges_of(module_database, who)) == 1


def test_lists_get_through_while_others_take_their_accounts_again_and_again(
    module_database: Database,
) -> None:
    users = [new_user(module_database, paid=1000) for _ in range(6)]
    key, stop = key_id(module_database), threading.Event()

    def charge(number: int) -> int:
        made = 0
        with session(module_database, "t_web") as caller:
            while not stop.is_set():
                items = [{**who, "api_key_id": key} for who in users[number % 3 :: 2]]
                made += outcomes(charge_all(caller, items, wait=False)).count("created")
        return made

    with session(module_database, "t_web") as web, ThreadPoolExecutor(4) as pool:
        web.execute("SET lock_timeout = '20s'")
        others = [pool.submit(charge, number) for number in range(4)]
        try:
            for number in range(20):
                rows = charge_once(web, users, key, f"list {number}")
                assert set(outcomes(rows)) <= {"created", "insufficient_credits"}
        finally:
            stop.set()
        assert sum(other.result(timeout=30) for other in others) > 0
    assert ledger_problems(module_database) == []


def test_an_empty_list_has_an_empty_answer(module_database: Database, web: Caller) -> None:
    key = key_id(module_database)
    assert charge_once(web, [], key, "empty") == []
    assert charge_once(web, [], key, "empty") == []


def test_a_dba_who_makes_a_list_is_refused_in_words_or_served(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database)
    try:
        rows = charge_once(dba, [who], None, unique())
    except psycopg.Error as error:
        assert Refusal.of(error).sqlstate.startswith("PB")  # noqa: PT017
    else:
        assert outcomes(rows) == ["created"]


@pytest.mark.parametrize("key", [None, "x" * 256], ids=["null", "too long"])
def test_a_list_needs_a_key_that_can_be_kept(
    module_database: Database, web: Caller, key: Any
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        charge_once(web, [new_user(module_database)], key_id(module_database), key)
    assert Refusal.of(caught.value).slug == "invalid_argument"
