"""Charges that are given back and credits that are taken back: billing.reverse_charge and
billing.reverse_credit."""

from __future__ import annotations

import uuid
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
    key_id,
    ledger_problems,
    new_user,
    session,
    staff,
    tamper,
)
from tests.sql.payments import bought, configure_provider
from tests.support import Database, unique

WHY = "the job failed"


def _charge(caller: Caller, who: dict[str, str], amount: int = 1, **more: Any) -> uuid.UUID:
    charge: uuid.UUID = caller.row("create_charge", **who, amount_minor=amount, **more)["charge_id"]
    return charge


def _state(database: Database, who: dict[str, str]) -> tuple[int, int, int]:
    account = account_of(database, who)
    return account["free_uses_remaining"], account["paid_credits"], account["total_uses"]


def _everything(database: Database) -> list[Any]:
    """What a call that must change nothing leaves as it was."""
    return database.execute(
        "SELECT (SELECT sum(hashtext(a::text)) FROM billing_data.accounts AS a),"
        " (SELECT count(*) FROM billing_data.credits),"
        " (SELECT coalesce(sum(r.reversed_minor), 0) FROM billing_data.reversed_entries AS r),"
        " (SELECT count(*) FROM billing_data.admin_audit_logs)"
    )


# --- charges -------------------------------------------------------------------------------------


def test_a_charge_that_a_free_use_paid_gives_the_free_use_back_whole(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=5)
    charge = _charge(dba, who, 4)
    assert _state(module_database, who) == (2, 5, 1)
    assert dba.refusal(
        "reverse_charge", charge_id=charge, reason=WHY, amount=3
    ).slug == "free_use_is_whole"  # fmt: skip
    row = dba.row("reverse_charge", charge_id=charge, reason=WHY)
    assert (row["amount_minor"], row["free_uses"], row["paid_with"]) == (4, 1, "free")
    assert (row["balance_before"], row["balance_after"], row["free_uses_remaining"]) == (5, 5, 3)
    assert _state(module_database, who) == (3, 5, 1)  # a use that was given back stays a charge
    assert dba.refusal("reverse_charge", charge_id=charge, reason=WHY).slug == "already_reversed"
    while _state(module_database, who)[0] > 0:  # the next charges count from what was given back
        _charge(dba, who)
    assert ledger_problems(module_database) == []


def test_parts_of_a_paid_charge_are_given_back_and_never_more_than_it(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=20, free=False)
    charge = _charge(dba, who, 10)
    rows = [
        dba.row("reverse_charge", charge_id=charge, reason=WHY, amount=amount) for amount in (1, 6)
    ]
    assert [row["balance_after"] for row in rows] == [11, 17]
    assert [row["reversed_minor"] for row in rows] == [1, 7]
    for amount in (4, BIGGEST):
        refusal = dba.refusal("reverse_charge", charge_id=charge, reason=WHY, amount=amount)
        assert (refusal.sqlstate, refusal.slug) == ("PB422", "reversal_too_great")
        assert refusal.detail["left"] == 3
    assert dba.row("reverse_charge", charge_id=charge, reason=WHY)["amount_minor"] == 3
    refusal = dba.refusal("reverse_charge", charge_id=charge, reason=WHY, amount=1)
    assert (refusal.sqlstate, refusal.slug) == ("PB409", "already_reversed")
    assert _state(module_database, who) == (0, 20, 4)
    assert ledger_problems(module_database) == []


def test_the_history_and_the_views_show_what_a_reversal_corrects(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=5)
    free = _charge(dba, who)
    reversal = dba.row("reverse_charge", charge_id=free, reason=WHY)["reversal_id"]
    back, charged = dba.rows("list_transactions", **who)[:2]
    assert (back["transaction_id"], back["type"], back["transaction_type"], back["description"]) \
        == (reversal, "credit", "refund", WHY)  # fmt: skip
    assert (back["corrects_id"], back["amount_minor"], back["free_uses_change"]) == (free, 0, 1)
    assert (charged["transaction_id"], charged["reversed_minor"]) == (free, 1)
    assert (charged["free_uses_change"], charged["corrects_id"]) == (-1, None)
    (row,) = dba.execute("SELECT * FROM billing.ledger WHERE transaction_id = %s", reversal)
    assert (row["corrects_id"], row["free_uses_change"], row["balance_change"]) == (free, 1, 0)


def test_a_reversal_leaves_an_audit_row_unless_an_agent_makes_it(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    who, ada, key = new_user(module_database, paid=5), staff(module_database, "admin"), key_id(
        module_database
    )  # fmt: skip
    charge = _charge(web, who, api_key_id=key)
    other = _charge(web, who, api_key_id=key)
    row = web.row("reverse_charge", charge_id=charge, reason=WHY, session_hash=ada.session_hash)
    web.row("reverse_charge", charge_id=other, reason=WHY, api_key_id=key)
    logged = dba.rows("list_audit_log", action="account.reverse_charge")[:1]
    assert dba.rows("list_audit_log", resource_id=str(row["account_id"]))[:-1] == logged
    assert (logged[0]["who"], logged[0]["reason"]) == (ada.email, WHY)
    assert logged[0]["changes"] == {
        "charge_id": str(charge), "reversal_id": str(row["reversal_id"]), "amount": 1,
        "free_uses": 1, "before": 5, "after": 5,
    }  # fmt: skip


def test_a_dry_run_tells_what_would_be_and_writes_nothing(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=9, free=False)
    charge, grant = _charge(dba, who, 4), dba.row("create_credit", **who, amount_minor=3)
    key = unique("k")
    for function, target in (("reverse_charge", {"charge_id": charge}),
                             ("reverse_credit", {"credit_id": grant["credit_id"]})):  # fmt: skip
        call = {**target, "reason": WHY, "amount": 2, "idempotency_key": key + function}
        before = _everything(module_database)
        tried = dba.row(function, **call, dry_run=True)
        assert _everything(module_database) == before
        assert dba.refusal(function, **{**call, "amount": 5}, dry_run=True).slug == (
            "reversal_too_great"
        )
        done = dba.row(function, **call)
        same = {"reversal_id", "created_at"}
        assert {k: v for k, v in tried.items() if k not in same} == {
            k: v for k, v in done.items() if k not in same
        }
        assert tried["reversal_id"] is None
        # Beside the real one, a dry run tells that it was done.
        assert dba.row(function, **call, dry_run=True)["replayed"]
    ids = [account_id_of(module_database, who), account_id_of(module_database, new_user(
        module_database
    ))]  # fmt: skip
    before = _everything(module_database)
    rows = dba.rows("adjust_credits", account_ids=ids, amount=7, reason=WHY, dry_run=True)
    assert _everything(module_database) == before
    assert sorted((row["balance_after"], row["credit_id"]) for row in rows) == [
        (7, None), (8 + 7, None),
    ]  # fmt: skip


def test_a_reversal_under_a_key_happens_once(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database, paid=9, free=False)
    key = unique("k")
    # The charge's own key is free for its reversal.
    charge = _charge(dba, who, 6, idempotency_key=key)
    call = {"charge_id": charge, "reason": WHY, "amount": 2, "idempotency_key": key}
    first, again = (dba.row("reverse_charge", **call) for _ in range(2))
    assert (first.pop("replayed"), again.pop("replayed")) == (False, True)
    assert first == again
    other = _charge(dba, who, 1)
    for change in ({"amount": 1}, {"amount": None}, {"reason": "another"}, {"charge_id": other}):
        refusal = dba.refusal("reverse_charge", **{**call, **change})
        assert (refusal.sqlstate, refusal.slug) == ("PB422", "idempotency_key_reused")
    grant = dba.row("create_credit", **who, amount_minor=3, idempotency_key=unique("k"))
    for function, target in (("reverse_credit", {"credit_id": grant["credit_id"]}),
                             ("adjust_credits", {"account_id": grant["account_id"]})):  # fmt: skip
        refusal = dba.refusal(function, **target, amount=2, reason=WHY, idempotency_key=key)
        assert refusal.slug == "idempotency_key_reused"
    assert _state(module_database, who)[1] == 9 - 6 + 2 - 1 + 3


def test_an_agent_reverses_what_its_key_or_one_rotated_from_it_charged_and_nothing_else(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, key, stranger = new_user(module_database), key_id(module_database), key_id(module_database)
    charge = _charge(web, who, api_key_id=key)
    assert charge
    by_dba = _charge(dba, who)
    for target, caller in ((charge, stranger), (by_dba, key), (NOBODY, key), (None, key)):
        refusal = web.refusal("reverse_charge", charge_id=target, reason=WHY, api_key_id=caller)
        assert (refusal.sqlstate, refusal.slug) == ("PB404", "charge_not_found")
    reader = key_id(module_database, "billing:read")
    refusal = web.refusal("reverse_charge", charge_id=charge, reason=WHY, api_key_id=reader)
    assert refusal.slug == "permission_missing"
    successor = dba.row(
        "rotate_api_key",
        api_key_id=key,
        key_prefix=f"cbk_test_{uuid.uuid4().hex[:11]}",
        key_hash="$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$c29tZWhhc2g",
    )["api_key_id"]
    row = web.row("reverse_charge", charge_id=charge, reason=WHY, api_key_id=successor)
    assert row["free_uses"] == 1
    younger = _charge(web, who, api_key_id=successor)  # the old key works until it ends
    assert web.row("reverse_charge", charge_id=younger, reason=WHY, api_key_id=key)["free_uses"]


@pytest.mark.parametrize("status", ["suspended", "closed"])
def test_an_account_that_is_not_charged_is_still_given_back_to(
    module_database: Database, dba: Caller, status: str
) -> None:
    who = new_user(module_database, paid=5, free=False)
    charge = _charge(dba, who, 5)
    dba.row("set_account_status", **who, status=status, reason="a test")
    assert dba.row("reverse_charge", charge_id=charge, reason=WHY)["balance_after"] == 5


def test_nothing_overflows_by_a_reversal(database: Database) -> None:
    who = new_user(database, paid=BIGGEST, free=False)
    account = account_id_of(database, who)
    with session(database, "t_dba") as dba:
        charge = _charge(dba, who, BIGGEST)
        dba.row("create_credit", **who, amount_minor=1)
        refusal = dba.refusal("reverse_charge", charge_id=charge, reason=WHY)
        assert (refusal.sqlstate, refusal.slug) == ("PB422", "balance_overflow")
        assert dba.row("reverse_charge", charge_id=charge, reason=WHY, amount=BIGGEST - 1)
        free = new_user(database)
        charge = _charge(dba, free)
        dba.row("reset_free_uses", account_id=account_id_of(database, free), reason="a test",
                free_uses=BIGGEST)  # fmt: skip
        refusal = dba.refusal("reverse_charge", charge_id=charge, reason=WHY)
        assert refusal.slug == "balance_overflow"
        taken = dba.row("adjust_credits", account_id=account, amount=-BIGGEST, reason="a test")
        row = dba.row("reverse_credit", credit_id=taken["credit_id"], reason=WHY)
        assert (row["amount_minor"], row["balance_after"]) == (BIGGEST, BIGGEST)
    assert ledger_problems(database) == []


@pytest.mark.parametrize("function", ["reverse_charge", "reverse_credit"])
@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"amount": 0}, "p_amount"),
        ({"amount": -1}, "p_amount"),
        ({"amount": -(2**63)}, "p_amount"),
        ({"reason": None}, "p_reason"),
        ({"reason": " "}, "p_reason"),
        ({"reason": "x" * 501}, "p_reason"),
        ({"idempotency_key": "x" * 256}, "p_idempotency_key"),
        ({"dry_run": None}, "p_dry_run"),
    ],
)
def test_a_faulty_reversal_is_refused(
    dba: Caller, function: str, arguments: dict[str, Any], argument: str
) -> None:
    target = function.replace("reverse_", "") + "_id"
    good = {target: NOBODY, "reason": "a test"}
    assert_argument_refused(dba, function, argument, **{**good, **arguments})
    refusal = dba.refusal(function, **good)
    assert (refusal.sqlstate, refusal.slug) == ("PB404", target.replace("_id", "_not_found"))


# --- credits -------------------------------------------------------------------------------------


def test_a_grant_is_taken_back_in_parts_as_far_as_the_account_has_it(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=10, free=False)
    (grant,) = (row["transaction_id"] for row in dba.rows("list_transactions", **who)
                if row["type"] == "credit")  # fmt: skip
    _charge(dba, who, 7)
    refusal = dba.refusal("reverse_credit", credit_id=grant, reason=WHY)
    assert (refusal.sqlstate, refusal.slug) == ("PB402", "insufficient_credits")
    assert refusal.detail == {"balance": 3, "required": 10}
    row = dba.row("reverse_credit", credit_id=grant, reason=WHY, amount=3)
    assert (row["amount_minor"], row["balance_after"], row["reversed_minor"]) == (-3, 0, 3)
    dba.row("create_credit", **who, amount_minor=100)
    assert dba.row("reverse_credit", credit_id=grant, reason=WHY)["amount_minor"] == -7
    assert dba.refusal("reverse_credit", credit_id=grant, reason=WHY).slug == "already_reversed"
    entry = dba.rows("list_transactions", **who, limit=1)[0]
    assert (entry["transaction_type"], entry["corrects_id"]) == ("adjustment", grant)
    assert ledger_problems(module_database) == []


def test_credits_of_payments_and_corrections_are_not_reversed(
    module_database: Database, dba: Caller
) -> None:
    configure_provider(module_database)
    who, _ = bought(module_database)
    named = dba.row(
        "create_credit",
        **who,
        amount_minor=5,
        transaction_type="purchase",
        external_transaction_id=unique("pi_"),
    )
    credits = [row for row in dba.rows("list_transactions", **who) if row["type"] == "credit"]
    assert [row["transaction_type"] for row in credits] == ["purchase"] * 2
    assert credits[0]["transaction_id"] == named["credit_id"]
    for credit in (row["transaction_id"] for row in credits):
        refusal = dba.refusal("reverse_credit", credit_id=credit, reason=WHY)
        assert (refusal.sqlstate, refusal.slug) == ("PB409", "credit_of_payment")
        assert refusal.message.endswith("belongs to a payment: refund the payment at its provider")
    gift = dba.row("create_credit", **who, amount_minor=5)["credit_id"]
    charge = _charge(dba, who)
    for reversal in (
        dba.row("reverse_credit", credit_id=gift, reason=WHY)["reversal_id"],
        dba.row("reverse_charge", charge_id=charge, reason=WHY)["reversal_id"],
    ):
        refusal = dba.refusal("reverse_credit", credit_id=reversal, reason=WHY)
        assert (refusal.sqlstate, refusal.slug) == ("PB409", "correction_not_reversible")


def test_entries_of_the_old_service_are_not_reversed(database: Database) -> None:
    who = new_user(database, paid=5, free=False)
    account = account_id_of(database, who)
    with session(database, "t_dba") as dba:
        charge = _charge(dba, who)
        (grant,) = (row["transaction_id"] for row in dba.rows("list_transactions", **who)
                    if row["type"] == "credit")  # fmt: skip
        tamper(
            database,
            "INSERT INTO billing_data.ledger_openings"
            " (account_id, ledger_version, paid_credits, total_uses, free_uses)"
            " SELECT a.id, a.ledger_version, a.paid_credits, a.total_uses, 0"
            " FROM billing_data.accounts AS a WHERE a.id = %(id)s",
            id=account,
        )
        for function, target in (("reverse_charge", {"charge_id": charge}),
                                 ("reverse_credit", {"credit_id": grant})):  # fmt: skip
            refusal = dba.refusal(function, **target, reason=WHY)
            assert (refusal.sqlstate, refusal.slug) == ("PB409", "entry_of_old_service")


def test_what_belonged_to_a_merged_account_comes_back_to_the_one_that_stayed(
    module_database: Database, dba: Caller
) -> None:
    gone, kept = new_user(module_database, paid=9, free=False), new_user(module_database, paid=1)
    charge = _charge(dba, gone, 6)
    part = {"charge_id": charge, "reason": WHY, "amount": 2, "idempotency_key": unique("k")}
    dba.row("reverse_charge", **part)
    dba.row(
        "merge_accounts",
        account_id=account_id_of(module_database, gone),
        into_account_id=account_id_of(module_database, kept),
        reason="one person",
    )
    assert dba.row("reverse_charge", **part)["replayed"]  # the key is known there too
    assert account_of(module_database, kept)["paid_credits"] == 1 + 9 - 6 + 2
    row = dba.row("reverse_charge", charge_id=charge, reason=WHY)
    assert row["account_id"] == account_id_of(module_database, kept)
    assert (row["amount_minor"], row["balance_after"]) == (4, 10)
    assert dba.refusal("reverse_charge", charge_id=charge, reason=WHY).slug == "already_reversed"
    assert ledger_problems(module_database) == []


def test_the_figures_add_up_to_the_balances_with_reversals(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=30, free=False)
    charge, gift = _charge(dba, who, 6), dba.row("create_credit", **who, amount_minor=5)
    before = dba.rows("list_daily_figures")[-1]
    dba.row("reverse_charge", charge_id=charge, reason=WHY, amount=4)
    dba.row("reverse_credit", credit_id=gift["credit_id"], reason=WHY, amount=3)
    after = dba.rows("list_daily_figures")[-1]
    changed = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert changed == {"credits": 1, "credits_added": 4, "credits_taken_back": 3}
    balances = module_database.value("SELECT sum(a.paid_credits) FROM billing_data.accounts AS a")
    figures = dba.rows("list_daily_figures")
    assert balances == sum(
        row["credits_added"] - row["credits_used"] - row["credits_taken_back"] for row in figures
    )
    totals = dba.row("get_account_by_id", account_id=account_id_of(module_database, who))
    assert (totals["total_charged"], totals["total_credited"]) == (6, 39)


# --- several at once -----------------------------------------------------------------------------


def test_twenty_reversals_of_one_charge_at_once_give_back_exactly_the_charge(
    database: Database,
) -> None:
    who = new_user(database, paid=50, free=False)
    with session(database, "t_dba") as dba:
        charge = _charge(dba, who, 50)
        grant = dba.row("create_credit", **who, amount_minor=50)["credit_id"]

    def part(caller: Caller, number: int) -> str | None:
        call = {"reason": WHY, "amount": 7, "idempotency_key": f"k{number}"}
        if number % 2:
            function, target = "reverse_charge", {"charge_id": charge}
        else:
            function, target = "reverse_credit", {"credit_id": grant}
        if number % 5 == 4:
            return f"charged {_charge(caller, who, 1)}"
        try:
            return str(caller.row(function, **target, **call)["amount_minor"])
        except Exception as error:
            return str(error.diag.constraint_name)  # type: ignore[attr-defined]

    answers = at_once(database, [partial(part, number=number) for number in range(40)], 20)
    assert answers.count("7") == answers.count("-7") == 7
    assert answers.count("reversal_too_great") == 18
    rest = [
        lambda caller: caller.rows("reverse_charge", charge_id=charge, reason=WHY, amount=1)
    ]  # the last one is given back once
    assert len(at_once(database, rest, 1)) == 1
    free, paid, uses = _state(database, who)
    assert (free, paid, uses) == (0, 50 - 8 + 50 - 49, 3 + 1 + 8)
    assert ledger_problems(database) == []


def test_the_same_reversal_at_once_happens_once(database: Database) -> None:
    who = new_user(database)
    with session(database, "t_dba") as dba:
        charge = _charge(dba, who)
    call = partial(
        Caller.row, function="reverse_charge", charge_id=charge, reason=WHY, idempotency_key="k"
    )
    rows = at_once(database, [call] * 20, 20)
    assert [row["replayed"] for row in rows].count(False) == 1
    assert len({row["reversal_id"] for row in rows}) == 1
    assert _state(database, who) == (3, 0, 1)


# --- the proof -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("UPDATE billing_data.reversed_entries SET reversed_minor = 1", "are not as counted"),
        ("DELETE FROM billing_data.reversed_entries", "are not as counted"),
        ("UPDATE billing_data.credits SET corrects_charge_id = %(other)s"
         " WHERE corrects_charge_id IS NOT NULL", "is reversed by more than it was"),
        ("UPDATE billing_data.credits SET corrects_charge_id = %(foreign)s"
         " WHERE corrects_charge_id IS NOT NULL", "does not give back what it corrects"),
        ("UPDATE billing_data.credits SET corrects_charge_id = %(free)s"
         " WHERE corrects_charge_id IS NOT NULL", "does not give back what it corrects"),
        ("UPDATE billing_data.credits SET corrects_charge_id = NULL"
         " WHERE corrects_charge_id IS NOT NULL", "is not as it was written"),
    ],
)  # fmt: skip
def test_the_proof_of_the_books_finds_a_reversal_that_was_changed(
    database: Database, change: str, problem: str
) -> None:
    who, stranger = new_user(database, paid=20), new_user(database, paid=20, free=False)
    with session(database, "t_dba") as dba:
        free = _charge(dba, who, 3)
        for _ in range(2):
            _charge(dba, who)
        charge, other = _charge(dba, who, 3), _charge(dba, who, 2)
        foreign = _charge(dba, stranger, 9)
        dba.row("reverse_charge", charge_id=charge, reason=WHY)
    assert ledger_problems(database) == []
    tamper(database, change, other=other, foreign=foreign, free=free)
    assert any(problem in row[1] for row in ledger_problems(database))


def test_the_database_itself_refuses_more_than_the_whole(database: Database) -> None:
    """What holds even if a function were wrong."""
    who = new_user(database, paid=20, free=False)
    with session(database, "t_dba") as dba:
        charge = _charge(dba, who, 3)
        dba.row("reverse_charge", charge_id=charge, reason=WHY, amount=2)
    with session(database, "postgres") as root:
        refusal = root.refused(
            "UPDATE billing_data.reversed_entries SET reversed_minor = reversed_minor + 2"
        )
        assert refusal.slug == "reversed_entries_at_most_all"
        columns = "amount_minor, balance_before, balance_after, free_uses"
        for values in ("-1, 1, 0, NULL", "0, 1, 1, 2", "1, 1, 2, 1", "0, 1, 1, NULL"):
            refusal = root.refused(
                "INSERT INTO billing_data.credits (id, account_id, currency, transaction_type,"
                f" description, ledger_version, database_role, corrects_charge_id, {columns})"
                f" SELECT %s, a.id, 'USD', 'refund', '', 99, 'x', %s, {values}"
                " FROM billing_data.accounts AS a",
                NOBODY,
                charge,
            )
            assert refusal.slug in ("credits_corrects_charge", "credits_amount"), values
