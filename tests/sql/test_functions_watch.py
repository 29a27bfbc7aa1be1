"""billing.watch_books: what the alarms see of the books and the payments."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql.helpers import tamper
from tests.sql.watching import watch
from tests.support import Database, unique

SPOIL = "UPDATE billing_data.accounts SET paid_credits = paid_credits + %s WHERE external_id = %s"


def user_with_entries(database: Database) -> tuple[str, Any]:
    """A user with free and paid charges and a credit."""
    user = unique()
    for statement in (
        "SELECT billing.check_credit(p_oauth_provider => 'oauth:google', p_external_id => %s)",
        *["SELECT billing.create_charge(p_oauth_provider => 'oauth:google', p_external_id => %s)"]
        * 3,
        "SELECT billing.create_credit(p_oauth_provider => 'oauth:google', p_external_id => %s,"
        " p_amount_minor => 5, p_transaction_type => 'grant', p_description => 'a gift')",
        "SELECT billing.create_charge(p_oauth_provider => 'oauth:google', p_external_id => %s)",
    ):
        database.execute(statement, user, user="t_dba")
    account = database.value(
        "SELECT a.id FROM billing_data.accounts AS a WHERE a.external_id = %s", user
    )
    return user, account


def test_books_that_agree_raise_no_alarm(database: Database) -> None:
    assert watch(database) == (0, [], 0)
    user_with_entries(database)
    user_with_entries(database)
    assert watch(database) == (2, [], 0)
    assert database.execute("SELECT * FROM billing.verify_ledger()") == []


@pytest.mark.parametrize(
    "spoil",
    [
        SPOIL.replace("%s", "1", 1),
        "UPDATE billing_data.accounts SET ledger_version = ledger_version + 1"
        " WHERE external_id = %s",
        "DELETE FROM billing_data.charges USING billing_data.accounts AS a WHERE a.external_id = %s"
        " AND charges.account_id = a.id AND charges.ledger_version = a.ledger_version",
        "DELETE FROM billing_data.credits USING billing_data.accounts AS a WHERE a.external_id = %s"
        " AND credits.account_id = a.id",
    ],
)
def test_an_account_whose_newest_entries_say_something_else_is_named(
    database: Database, spoil: str
) -> None:
    user_with_entries(database)
    user, account = user_with_entries(database)
    tamper(database, spoil.replace("%s", "%(user)s"), user=user)
    assert watch(database) == (2, [account], 0)
    assert {row[0] for row in database.execute("SELECT * FROM billing.verify_ledger()")} == {
        account
    }


def test_an_account_found_wrong_is_looked_at_until_it_is_mended(database: Database) -> None:
    user, account = user_with_entries(database)
    database.execute(SPOIL, 1, user)
    user_with_entries(database)
    assert watch(database, entries=1)[:2] == (1, [])  # newer entries have taken its place
    assert watch(database, [account], entries=1)[:2] == (2, [account])
    database.execute(SPOIL, -1, user)
    assert watch(database, [account], entries=1)[:2] == (2, [])


def test_payments_that_a_person_must_look_at_are_counted(database: Database) -> None:
    database.execute(
        "SELECT billing.process_payment_event(p_event_id => 'evt_1', p_event_type =>"
        " 'payment_intent.succeeded', p_payload => '{}', p_action => 'settle', p_livemode => false,"
        " p_payment_id => 'pi_1', p_amount_minor => 500, p_currency => 'USD')",
        user="t_dba",
    )
    problems = database.value("SELECT count(*) FROM billing.list_payment_problems()", user="t_dba")
    assert problems == 1
    assert watch(database) == (0, [], 1)


def test_more_entries_than_an_alarm_should_read_are_refused(database: Database) -> None:
    with pytest.raises(psycopg.Error, match="p_entries"):
        watch(database, entries=10_001)
