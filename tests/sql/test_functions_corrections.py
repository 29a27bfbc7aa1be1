"""What staff do to an account: credits added, taken away, free uses reset."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.sql.console import account_id_of, assert_argument_refused
from tests.sql.helpers import (
    BIGGEST,
    NOBODY,
    Caller,
    account_of,
    at_once,
    ledger_problems,
    new_user,
    session,
    staff,
)
from tests.support import Database, unique

# --- adjusting credits ---------------------------------------------------------------------------


def _audit(database: Database, action: str, resource: Any) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = database.execute(
        "SELECT l.changes, l.reason, l.admin_user_id, l.database_role"
        " FROM billing_data.admin_audit_logs AS l"
        " WHERE l.action = %s AND l.resource_id = %s ORDER BY l.created_at",
        action,
        str(resource),
    )
    return rows


def test_credits_are_added_and_taken_away_with_a_reason_and_an_audit_row(
    module_database: Database, web: Caller
) -> None:
    who, ada = new_user(module_database, paid=5), staff(module_database, "admin")
    account = account_id_of(module_database, who)
    given = web.row(
        "adjust_credits",
        account_id=account,
        amount=7,
        reason="goodwill",
        session_hash=ada.session_hash,
    )
    taken = web.row(
        "adjust_credits",
        account_id=account,
        amount=-12,
        reason="a mistake",
        session_hash=ada.session_hash,
    )
    assert (given["balance_before"], given["balance_after"], given["replayed"]) == (5, 12, False)
    assert (taken["balance_before"], taken["balance_after"], taken["amount_minor"]) == (12, 0, -12)
    assert account_of(module_database, who)["paid_credits"] == 0
    assert _audit(module_database, "account.adjust_credits", account) == [
        (
            {
                "amount": amount,
                "credit_id": str(row["credit_id"]),
                "before": before,
                "after": after,
            },
            reason,
            ada.id,
            None,
        )
        for row, amount, before, after, reason in (
            (given, 7, 5, 12, "goodwill"),
            (taken, -12, 12, 0, "a mistake"),
        )
    ]
    rows = web.rows("list_transactions", **who, session_hash=ada.session_hash)
    assert [(row["transaction_type"], row["description"]) for row in rows[:2]] == [
        ("adjustment", "a mistake"),
        ("grant", "goodwill"),
    ]
    assert ledger_problems(module_database) == []


@pytest.mark.parametrize(("balance", "amount"), [(0, -1), (5, -6), (5, -(2**63))])
def test_a_balance_never_goes_below_zero(
    module_database: Database, dba: Caller, balance: int, amount: int
) -> None:
    account = account_id_of(module_database, new_user(module_database, paid=balance))
    refusal = dba.refusal("adjust_credits", account_id=account, amount=amount, reason="a test")
    assert (refusal.sqlstate, refusal.slug) == ("PB402", "insufficient_credits")
    assert refusal.detail == {"balance": balance, "required": -amount}
    assert dba.row("get_account_by_id", account_id=account)["paid_credits"] == balance
    assert _audit(module_database, "account.adjust_credits", account) == []


def test_a_balance_never_overflows(database: Database) -> None:
    account = account_id_of(database, new_user(database, paid=1))
    with session(database, "t_dba") as dba:
        arguments = {"account_id": account, "reason": "a test"}
        refusal = dba.refusal("adjust_credits", **arguments, amount=BIGGEST)
        assert (refusal.sqlstate, refusal.slug) == ("PB422", "balance_overflow")
        assert refusal.detail == {"balance": 1, "amount": BIGGEST, "maximum": BIGGEST}
        row = dba.row("adjust_credits", **arguments, amount=BIGGEST - 1)
        assert row["balance_after"] == BIGGEST
        assert dba.row("adjust_credits", **arguments, amount=-BIGGEST)["balance_after"] == 0


def test_an_adjustment_that_is_repeated_with_its_key_happens_once(
    module_database: Database, dba: Caller
) -> None:
    account = account_id_of(module_database, new_user(module_database, paid=5))
    arguments = {
        "account_id": account, "amount": -5, "reason": "a test", "idempotency_key": unique("k"),
    }  # fmt: skip
    first = dba.row("adjust_credits", **arguments)
    again = dba.row("adjust_credits", **arguments)
    assert (first.pop("replayed"), again.pop("replayed")) == (False, True)
    assert again == first
    assert len(_audit(module_database, "account.adjust_credits", account)) == 1
    for change in ({"amount": 5}, {"reason": "another"}):
        refusal = dba.refusal("adjust_credits", **{**arguments, **change})
        assert (refusal.sqlstate, refusal.slug) == ("PB422", "idempotency_key_reused")
    # An idempotency key belongs to one account.
    other = account_id_of(module_database, new_user(module_database, paid=5))
    assert dba.row("adjust_credits", **{**arguments, "account_id": other})["balance_after"] == 0
    without = {**arguments, "amount": 1, "idempotency_key": None}
    assert [dba.row("adjust_credits", **without)["balance_after"] for _ in range(2)] == [1, 2]


def test_a_key_that_a_credit_of_another_kind_used_is_a_conflict(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database)
    dba.row("create_credit", **who, amount_minor=5, idempotency_key="k")
    refusal = dba.refusal(
        "adjust_credits",
        account_id=account_id_of(module_database, who),
        amount=5,
        reason="Granted",
        idempotency_key="k",
    )
    assert refusal.slug == "idempotency_key_reused"


def test_adjustments_made_at_once_all_count_and_repeated_ones_once(database: Database) -> None:
    account = account_id_of(database, new_user(database, paid=10))
    calls = [
        partial(
            Caller.row,
            function="adjust_credits",
            account_id=account,
            amount=3,
            reason="a test",
            idempotency_key=f"k{n % 10}",
        )
        for n in range(40)
    ]
    answers = at_once(database, calls, 20)
    assert [row["replayed"] for row in answers].count(False) == 10
    assert database.value("SELECT a.paid_credits FROM billing_data.accounts AS a") == 40
    chain = [row[0] for row in _audit(database, "account.adjust_credits", account)]
    assert sorted((c["before"], c["after"]) for c in chain) == [
        (10 + 3 * n, 13 + 3 * n) for n in range(10)
    ]
    assert ledger_problems(database) == []


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"amount": 0}, "p_amount"),
        ({"amount": None}, "p_amount"),
        ({"reason": None}, "p_reason"),
        ({"reason": ""}, "p_reason"),
        ({"reason": "  "}, "p_reason"),
        ({"reason": "x" * 501}, "p_reason"),
        ({"idempotency_key": "x" * 256}, "p_idempotency_key"),
    ],
)
def test_a_faulty_adjustment_is_refused(
    module_database: Database, dba: Caller, arguments: dict[str, Any], argument: str
) -> None:
    good = {"account_id": NOBODY, "amount": 1, "reason": "a test"}
    assert_argument_refused(dba, "adjust_credits", argument, **{**good, **arguments})


@pytest.mark.parametrize("function", ["adjust_credits", "reset_free_uses"])
def test_nobodys_account_is_not_corrected(dba: Caller, function: str) -> None:
    more = {"amount": 1} if function == "adjust_credits" else {}
    for nobody in (NOBODY, None):
        refusal = dba.refusal(function, account_id=nobody, reason="a test", **more)
        assert (refusal.sqlstate, refusal.slug) == ("PB404", "account_not_found")


@pytest.mark.parametrize("function", ["adjust_credits", "reset_free_uses"])
def test_corrections_commit_durably(module_database: Database, function: str) -> None:
    account = account_id_of(module_database, new_user(module_database))
    more = {"amount": 1} if function == "adjust_credits" else {"free_uses": 8}
    with session(module_database, "t_dba", autocommit=False) as dba:
        dba.execute("SET synchronous_commit = off")
        dba.row(function, account_id=account, reason="a test", **more)
        assert dba.execute("SHOW synchronous_commit") == [{"synchronous_commit": "on"}]
        dba.connection.rollback()


# --- free uses -----------------------------------------------------------------------------------


def test_free_uses_are_reset_to_what_new_accounts_get_or_to_a_number(
    module_database: Database, web: Caller
) -> None:
    who, ada = new_user(module_database, free=False), staff(module_database, "admin")
    account = account_id_of(module_database, who)
    arguments = {"account_id": account, "reason": "a new start", "session_hash": ada.session_hash}
    before = account_of(module_database, who)
    assert web.row("reset_free_uses", **arguments) == {
        "free_uses_before": 0,
        "free_uses_remaining": 3,
    }
    for number in (10, 0, BIGGEST):
        row = web.row("reset_free_uses", **arguments, free_uses=number)
        assert row["free_uses_remaining"] == number
    after = account_of(module_database, who)
    assert after["free_uses_remaining"] == BIGGEST
    changed = {name for name, value in after.items() if value != before[name]}
    assert changed == {"free_uses_remaining", "updated_at"}
    chain = [(0, 3), (3, 10), (10, 0), (0, BIGGEST)]
    # With the ledger's version, because the audit row is what proves these free uses.
    assert _audit(module_database, "account.reset_free_uses", account) == [
        ({"before": one, "after": two, "ledger_version": 3}, "a new start", ada.id, None)
        for one, two in chain
    ]
    assert ledger_problems(module_database) == []


def test_a_reset_that_changes_nothing_is_not_recorded(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database)
    before = account_of(module_database, who)
    row = dba.row("reset_free_uses", account_id=before["id"], reason="a test")
    assert (row["free_uses_before"], row["free_uses_remaining"]) == (3, 3)
    assert account_of(module_database, who) == before
    assert _audit(module_database, "account.reset_free_uses", before["id"]) == []


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"reason": None}, "p_reason"),
        ({"reason": " "}, "p_reason"),
        ({"free_uses": -1}, "p_free_uses"),
    ],
)
def test_a_faulty_reset_is_refused(dba: Caller, arguments: dict[str, Any], argument: str) -> None:
    good = {"account_id": NOBODY, "reason": "a test"}
    assert_argument_refused(dba, "reset_free_uses", argument, **{**good, **arguments})
