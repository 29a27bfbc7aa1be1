"""What takes credits away beside open holds: refunds of payments, reversals and erasing."""

from __future__ import annotations

from tests.sql.helpers import Caller, account_of, ledger_problems, new_user
from tests.sql.holds import figures, make_hold
from tests.sql.payments import PRICE, bought, configure_provider, give_back
from tests.support import Database, unique


def test_a_refund_takes_what_no_hold_keeps(module_database: Database, dba: Caller) -> None:
    configure_provider(module_database)
    who, payment_id = bought(module_database)
    hold = make_hold(dba, who, 15)["hold_id"]
    give_back(dba, payment_id, (unique("re"), PRICE))
    assert figures(module_database, who)[:2] == (15, 15)
    captured = dba.row("capture_hold", hold_id=hold, amount_minor=15)
    assert (captured["captured_minor"], captured["balance"]) == (15, 0)
    assert ledger_problems(module_database) == []


def test_a_reversed_credit_takes_what_no_hold_keeps(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database, free=False)
    credit = dba.row("create_credit", **who, amount_minor=10)["credit_id"]
    make_hold(dba, who, 7)
    asked = {"credit_id": credit, "reason": "a mistake"}
    refusal = dba.refusal("reverse_credit", **asked)
    assert (refusal.slug, refusal.detail["balance"]) == ("insufficient_credits", 3)
    assert dba.row("reverse_credit", **asked, amount=3)["balance_after"] == 7
    assert ledger_problems(module_database) == []


def test_free_uses_are_not_set_below_what_holds_keep(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database)
    make_hold(dba, who, 1)
    account = account_of(module_database, who)["id"]
    refusal = dba.refusal("reset_free_uses", account_id=account, free_uses=0, reason="x")
    assert (refusal.slug, refusal.detail["argument"]) == ("invalid_argument", "p_free_uses")
    assert dba.row("reset_free_uses", account_id=account, free_uses=1, reason="x")
    assert ledger_problems(module_database) == []


def test_erasing_a_person_releases_their_holds(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database, paid=10, free=False)
    account = account_of(module_database, who)["id"]
    hold = make_hold(dba, who, 7, description="a secret job")["hold_id"]
    dba.rows("erase_personal_data", account_id=account, reason="asked for", force=True)
    (row,) = module_database.execute(
        "SELECT h.state, h.description, a.held_credits, a.paid_credits"
        " FROM billing_data.holds AS h INNER JOIN billing_data.accounts AS a"
        " ON a.id = h.account_id WHERE h.id = %s",
        hold,
    )
    assert row == ("released", "erased", 0, 0)
    assert ledger_problems(module_database) == []


def test_a_merge_with_holds_of_the_account_that_stays_is_undone(
    module_database: Database, dba: Caller
) -> None:
    one, other = (new_user(module_database, paid=5, free=False) for _ in range(2))
    hold = make_hold(dba, other, 5)["hold_id"]
    merged, stays = (account_of(module_database, who)["id"] for who in (one, other))
    dba.row("merge_accounts", account_id=merged, into_account_id=stays, reason="one person")
    dba.row("undo_merge", account_id=merged, reason="two people")
    assert figures(module_database, other)[:2] == (5, 5)
    assert dba.row("capture_hold", hold_id=hold)["balance"] == 0
    assert figures(module_database, one)[:2] == (5, 0)
    assert ledger_problems(module_database) == []
