"""/admin/proof: what is sealed, and what the newest proof of the books found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.identity_provider import Browser, good_provider, running_console
from tests.sql.helpers import account_of, new_user, session, tamper
from tests.sql.seals import age, seal_all
from tests.support import Database


@pytest.fixture
def browser(database: Database) -> Iterator[Browser]:
    """A viewer's browser."""
    with good_provider() as provider, running_console(database, provider.discovery_url) as console:
        browser = console.browser()
        provider.sign_in(browser, "grace@ciris.ai")
        yield browser


def _verify(database: Database) -> None:
    with session(database, "t_dba") as dba:
        dba.row("begin_verification", restart=True)
        while dba.rows("continue_verification"):
            pass


def test_the_page_tells_the_newest_head_and_what_the_newest_proof_found(
    database: Database, browser: Browser
) -> None:
    shown = browser.get("/admin/proof").text
    assert "No day is sealed yet" in shown
    assert "The books were not proven yet" in shown
    account = account_of(database, new_user(database, paid=5))["id"]
    age(database, 3)
    assert seal_all(database)
    _verify(database)
    shown = browser.get("/admin/proof").text
    assert database.value("SELECT head FROM billing.get_proof()") in shown
    assert "1 accounts, 1 entries" in shown
    assert "nothing that does not agree" in shown
    tamper(database, "UPDATE billing_data.accounts SET paid_credits = 6")
    _verify(database)
    shown = browser.get("/admin/proof").text
    assert f'href="/admin/accounts/{account}"' in shown
    assert "paid_credits is not the sum of the entries" in shown
    # What is mended is not told any more after the next proof.
    tamper(database, "UPDATE billing_data.accounts SET paid_credits = 5")
    _verify(database)
    assert "nothing that does not agree" in browser.get("/admin/proof").text
