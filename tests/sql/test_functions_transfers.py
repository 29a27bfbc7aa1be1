"""Credits that move from one account to another."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.sql.helpers import (
    BIGGEST,
    NOBODY,
    Caller,
    at_once,
    ledger_problems,
    new_user,
    session,
    staff,
    tamper,
)
from tests.sql.merges import User, everything, merge, paid, row_of, rows_of_transfer, user
from tests.support import Database, unique


def _transfer(one: User, other: User, amount: int, **more: Any) -> dict[str, Any]:
    return {
        "from_account_id": one.id,
        "to_account_id": other.id,
        "amount": amount,
        "reason": "the wrong sign-in",
        **more,
    }


def test_a_transfer_writes_two_linked_rows_that_add_up_to_nothing(
    module_database: Database, web: Caller
) -> None:
    ada, one, other = (
        staff(module_database, "admin"),
        user(module_database, paid=9),
        user(module_database, paid=1),
    )
    made = web.row("transfer_credits", **_transfer(one, other, 7), session_hash=ada.session_hash)
    assert (made["from_balance_before"], made["from_balance_after"]) == (9, 2)
    assert (made["to_balance_before"], made["to_balance_after"]) == (1, 8)
    assert paid(module_database, one, other) == [2, 8]
    assert rows_of_transfer(module_database, made["transfer_id"]) == [
        (one.id, -7, None, "adjustment", "the wrong sign-in"),
        (other.id, 7, None, "adjustment", "the wrong sign-in"),
    ]
    audit = module_database.execute(
        "SELECT l.resource_id, l.changes ->> 'amount', l.reason, l.admin_user_id"
        " FROM billing_data.admin_audit_logs AS l WHERE l.action = 'account.transfer_credits'"
        " AND l.changes ->> 'transfer_id' = %s ORDER BY 2",
        str(made["transfer_id"]),
    )
    assert audit == [
        (str(one.id), "-7", "the wrong sign-in", ada.id),
        (str(other.id), "7", "the wrong sign-in", ada.id),
    ]
    assert ledger_problems(module_database) == []


def test_a_dry_run_answers_as_the_transfer_would_and_writes_nothing(
    module_database: Database, dba: Caller
) -> None:
    one, other = user(module_database, paid=5), user(module_database)
    before = everything(module_database)
    shown = dba.row("transfer_credits", **_transfer(one, other, 5), dry_run=True)
    refused = dba.refusal("transfer_credits", **_transfer(one, other, 6), dry_run=True)
    assert everything(module_database) == before
    assert refused.slug == "insufficient_credits"
    made = dba.row("transfer_credits", **_transfer(one, other, 5))
    new = {"transfer_id", "created_at"}
    assert {shown[name] for name in new} == {None}
    assert all(made[name] == shown[name] for name in shown.keys() - new)
    assert None not in made.values()


def test_a_transfer_with_its_key_happens_once_and_with_another_request_is_refused(
    module_database: Database, dba: Caller
) -> None:
    one, other, third = (user(module_database, paid=20) for _ in range(3))
    asked = _transfer(one, other, 6, idempotency_key=unique())
    first = dba.row("transfer_credits", **asked)
    again = dba.row("transfer_credits", **asked)
    assert (first.pop("replayed"), again.pop("replayed")) == (False, True)
    assert again == first
    for change in ({"amount": 7}, {"to_account_id": third.id}, {"reason": "another"}):
        assert dba.refusal("transfer_credits", **{**asked, **change}).slug == (
            "idempotency_key_reused"
        )
    # A key that a gift used is no transfer's.
    dba.row("adjust_credits", account_id=one.id, amount=1, reason="a gift", idempotency_key="k")
    refusal = dba.refusal("transfer_credits", **_transfer(one, other, 1, idempotency_key="k"))
    assert refusal.slug == "idempotency_key_reused"
    # Both accounts are merged since: the key still belongs to the first one.
    merge(module_database, one, third)
    merge(module_database, other, third)
    assert dba.row("transfer_credits", **asked)["transfer_id"] == first["transfer_id"]
    assert ledger_problems(module_database) == []


@pytest.mark.parametrize(
    ("change", "slug"),
    [
        ({"amount": 0}, "invalid_argument"),
        ({"amount": -1}, "invalid_argument"),
        ({"amount": None}, "invalid_argument"),
        ({"dry_run": None}, "invalid_argument"),
        ({"amount": 6}, "insufficient_credits"),
        ({"amount": BIGGEST}, "insufficient_credits"),
        ({"reason": "  "}, "invalid_argument"),
        ({"reason": None}, "invalid_argument"),
        ({"idempotency_key": "x" * 256}, "invalid_argument"),
        ({"to_account_id": NOBODY}, "account_not_found"),
        ({"from_account_id": NOBODY}, "account_not_found"),
        ({"from_account_id": None}, "account_not_found"),
        ({"to_account_id": None}, "account_not_found"),
    ],
)
def test_what_cannot_be_moved_is_refused_with_a_sentence(
    module_database: Database, dba: Caller, change: dict[str, Any], slug: str
) -> None:
    one, other = user(module_database, paid=5), user(module_database)
    refusal = dba.refusal("transfer_credits", **{**_transfer(one, other, 5), **change})
    assert refusal.slug == slug
    assert paid(module_database, one, other) == [5, 0]


def test_credits_never_leave_for_the_same_account_another_currency_or_above_the_greatest(
    database: Database,
) -> None:
    one, other = user(database, paid=5), user(database, paid=BIGGEST - 4)
    with session(database, "t_dba") as dba:
        refusal = dba.refusal("transfer_credits", **_transfer(one, one, 1))
        assert (refusal.sqlstate, refusal.slug) == ("PB409", "accounts_are_one")
        assert refusal.message == f"Both ids lead to one account: {one.id}"
        refusal = dba.refusal("transfer_credits", **_transfer(one, other, 5))
        assert (refusal.slug, refusal.detail["balance"]) == ("balance_overflow", BIGGEST - 4)
        dba.row("transfer_credits", **_transfer(one, other, 4))
        who = {"oauth_provider": "oauth:google", "external_id": unique()}
        euros = dba.row("create_account", **who, currency="EUR")["account_id"]
        refusal = dba.refusal("transfer_credits", **_transfer(one, User(who, euros), 1))
        assert refusal.message == "The accounts have different currencies: USD and EUR"
    assert ledger_problems(database) == []


@pytest.mark.parametrize("status", ["suspended", "closed"])
def test_credits_leave_only_an_active_account_and_any_account_takes_them(
    module_database: Database, dba: Caller, status: str
) -> None:
    one, other = user(module_database, paid=5), user(module_database, paid=5)
    dba.row("set_account_status", **one.who, status=status, reason="a test")
    refusal = dba.refusal("transfer_credits", **_transfer(one, other, 1))
    assert (refusal.sqlstate, refusal.message) == ("PB409", f"Account {one.id} is {status}")
    dba.row("transfer_credits", **_transfer(other, one, 5))
    assert paid(module_database, one, other) == [10, 0]


def test_opposite_transfers_at_once_neither_deadlock_nor_lose_a_credit(
    database: Database,
) -> None:
    one, other = user(database, paid=50), user(database, paid=50)
    calls = [
        partial(
            Caller.row,
            function="transfer_credits",
            **_transfer(*((one, other) if number % 2 else (other, one)), 1),
        )
        for number in range(100)
    ]
    answers = at_once(database, calls, connections=10)
    assert len({answer["transfer_id"] for answer in answers}) == 100
    assert paid(database, one, other) == [50, 50]
    assert ledger_problems(database) == []


def test_one_key_at_once_moves_the_credits_once(database: Database) -> None:
    one, other = user(database, paid=50), user(database)
    asked = _transfer(one, other, 3, idempotency_key="k")
    answers = at_once(
        database, [partial(Caller.row, function="transfer_credits", **asked)] * 30, connections=10
    )
    assert len({answer["transfer_id"] for answer in answers}) == 1
    assert sum(not answer["replayed"] for answer in answers) == 1
    assert paid(database, one, other) == [47, 3]


def test_verify_ledger_finds_a_transfer_that_lost_a_side_or_does_not_balance(
    database: Database,
) -> None:
    one, other = user(database, paid=9), user(database)
    with session(database, "t_dba") as dba:
        made = dba.row("transfer_credits", **_transfer(one, other, 4))
    assert ledger_problems(database) == []
    new_user(database)
    tamper(
        database,
        "UPDATE billing_data.credits AS c SET transfer_id = NULL"
        " WHERE c.transfer_id = %(id)s AND c.amount_minor > 0",
        id=made["transfer_id"],
    )
    tamper(
        database,
        "UPDATE billing_data.credits AS c SET digest = billing_data.credit_digest(c)"
        " WHERE c.account_id = %(other)s",
        other=other.id,
    )
    assert ledger_problems(database) == [
        (
            one.id,
            f"the rows of transfer {made['transfer_id']} do not balance",
            "2 rows of 2 accounts, together 0",
            "1 rows of 1 accounts, together -4",
        )
    ]
    assert row_of(database, one)["paid_credits"] == 5
