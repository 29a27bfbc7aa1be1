"""Top-ups of accounts that are suspended, merged or erased."""

from __future__ import annotations

import pytest

from tests.sql.helpers import Caller, account_of, ledger_problems, new_user
from tests.sql.payments import PRICE, USES, configure_provider, deliver
from tests.sql.top_ups import Saver, agree, note
from tests.support import Database, unique


@pytest.fixture(scope="module", autouse=True)
def provider(module_database: Database) -> None:
    configure_provider(module_database)


@pytest.mark.parametrize("status", ["suspended", "closed"])
def test_a_suspended_or_closed_account_is_not_topped_up(
    module_database: Database, dba: Caller, web: Caller, status: str
) -> None:
    saver = Saver(module_database, 0)
    dba.row("set_account_status", **saver.who, status=status, reason="a test")
    assert saver.attempts(web) == []
    dba.row("set_account_status", **saver.who, status="active", reason="a test")
    attempt = saver.attempt(web)
    dba.row("set_account_status", **saver.who, status=status, reason="a test")
    assert note(web, attempt, "made", payment_id=unique("pi"))["next_step"] == "cancel"


def test_a_merge_ends_the_top_up_of_the_merged_account_and_keeps_the_others(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    merged, stays = Saver(module_database, 0), Saver(module_database, 5)
    attempt = merged.attempt(web)
    dba.row("merge_accounts", account_id=merged.id, into_account_id=stays.id, reason="one person")
    assert note(web, attempt, "made", payment_id=unique("pi"))["next_step"] == "cancel"
    states = {row["account_id"]: row for row in dba.rows("list_top_ups", account_id=stays.id)}
    assert (states[merged.id]["status"], states[merged.id]["end_reason"]) == ("off", "merged")
    assert states[stays.id]["status"] == "on"
    assert dba.row("get_top_up", **merged.who)["account_id"] == stays.id


def test_an_attempt_that_was_charged_before_the_merge_brings_its_credits_to_the_other_account(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    merged, stays = Saver(module_database, 0), new_user(module_database)
    attempt, payment_id = merged.attempt(web), unique("pi")
    note(web, attempt, "made", payment_id=payment_id)
    into = account_of(module_database, stays)["id"]
    dba.row("merge_accounts", account_id=merged.id, into_account_id=into, reason="one person")
    note(web, attempt, "succeeded")
    assert deliver(dba, unique("evt"), payment_id)["outcome"] == "credited"
    assert account_of(module_database, stays)["paid_credits"] == USES
    assert ledger_problems(module_database) == []


def test_what_a_merged_account_bought_is_waited_for_and_counts_for_the_cap(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    merged = Saver(module_database, 0)
    attempt, payment_id = merged.attempt(web), unique("pi")
    stays = Saver(module_database, 0, monthly_cap_minor=PRICE)
    note(web, attempt, "made", payment_id=payment_id)
    note(web, attempt, "succeeded")
    dba.row("merge_accounts", account_id=merged.id, into_account_id=stays.id, reason="one person")
    assert stays.attempts(web) == []
    state = stays.state(dba)
    assert (state["problem"], state["spent_this_month_minor"]) == (None, PRICE)
    deliver(dba, unique("evt"), payment_id)
    stays.keep(dba, 0)
    assert stays.attempts(web) == []
    assert stays.state(dba)["problem"] == "cap_reached"
    agree(dba, stays.who, None, monthly_cap_minor=2 * PRICE)
    assert stays.attempt(web)


def test_erasing_a_person_ends_the_top_up_and_forgets_the_card(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    saver = Saver(module_database, 0)
    attempt = saver.attempt(web)
    dba.rows("erase_personal_data", account_id=saver.id, reason="asked for", force=True)
    (row,) = dba.rows("list_top_ups", account_id=saver.id)
    assert (row["status"], row["end_reason"], row["card"]) == ("off", "erased", None)
    assert (row["consent_text"], row["consent_version"]) == ("erased", "erased")
    saver.later()
    again = saver.attempt(web)
    assert (again["purchase_id"], again["customer_id"]) == (attempt["purchase_id"], None)
    assert note(web, again, "made", payment_id=unique("pi"))["next_step"] == "cancel"
