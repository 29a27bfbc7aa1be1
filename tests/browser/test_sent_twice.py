"""Forms that are sent twice, by Back, in two tabs, by a double click, or after the session ended.
Nothing is done twice, and no words are lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from playwright.sync_api import Page

from tests.browser.conftest import Person
from tests.identity_provider import FOUNDER
from tests.sql.helpers import new_user
from tests.support import wait_for

Look = Callable[[Page, str], None]


def _account(person: Person) -> str:
    """The path of a new account's page, with the form open that grants credits."""
    external_id = new_user(person.shop.database)["external_id"]
    return f"/admin/accounts/{person.shop.account_of(external_id)}?do=grant"


def _balance(person: Person, path: str) -> Any:
    return person.shop.database.value(
        "SELECT paid_credits FROM billing_data.accounts WHERE id = %s", _account_id(path)
    )


def _account_id(path: str) -> str:
    return path.rpartition("/")[2].partition("?")[0]


def _fill_in(page: Page, reason: str = "goodwill") -> None:
    page.locator("#grant").get_by_text("20", exact=True).click()
    page.locator("#grant-reason").fill(reason)


def _grant(page: Page) -> None:
    page.get_by_role("button", name="Grant", exact=True).click()


def test_back_after_a_grant_grants_nothing_and_leads_to_a_form_that_works(clerk: Person) -> None:
    path = _account(clerk)
    clerk.goes(path)
    _fill_in(clerk.page)
    _grant(clerk.page)
    assert "20 credits granted." in clerk.message
    clerk.page.go_back()
    assert _balance(clerk, path) == 20
    # The form is a new one: it shows what was granted, and is empty.
    assert "Paid credits\n20" in clerk.page.locator("main").inner_text()
    assert clerk.page.locator("#grant-reason").input_value() == ""
    _fill_in(clerk.page)
    _grant(clerk.page)
    assert "The balance was 20 and is 40 now." in clerk.message
    assert _balance(clerk, path) == 40


def test_a_page_that_is_sent_again_by_reloading_it_grants_nothing(clerk: Person) -> None:
    path = _account(clerk)
    clerk.goes(path)
    _fill_in(clerk.page)
    clerk.page.get_by_role("button", name="Preview").click()
    clerk.page.reload()
    assert _balance(clerk, path) == 0
    _grant(clerk.page)
    clerk.page.reload()
    assert _balance(clerk, path) == 20


@contextmanager
def _busy(person: Person, path: str) -> Iterator[None]:
    """A server that answers late: somebody else holds the account's lock for a moment."""
    with psycopg.connect(person.shop.database.dsn()) as holder:
        holder.execute(
            "SELECT FROM billing_data.accounts WHERE id = %s FOR UPDATE", (_account_id(path),)
        )
        yield
        wait_for(
            lambda: person.shop.database.value(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ),
            "the form to wait for the account",
        )
        person.page.wait_for_timeout(300)  # a second request has the time to come, too


def test_a_double_click_grants_once(clerk: Person) -> None:
    path = _account(clerk)
    clerk.goes(path)
    _fill_in(clerk.page)
    with _busy(clerk, path):
        clerk.page.get_by_role("button", name="Grant", exact=True).dblclick(
            delay=60, no_wait_after=True
        )
    clerk.page.get_by_role("status").wait_for()
    assert _balance(clerk, path) == 20


def test_a_double_click_writes_one_note(admin: Person) -> None:
    path = _account(admin)
    admin.goes(path)
    admin.page.get_by_text("Write a note").click()
    admin.page.get_by_role("textbox", name="Note").fill("she called")
    with _busy(admin, path):
        admin.page.get_by_role("button", name="Write").dblclick(delay=60, no_wait_after=True)
    admin.page.get_by_role("status").wait_for()
    admin.goes(path)
    assert admin.page.locator(".note").count() == 1


def test_a_refund_that_is_confirmed_in_two_tabs_is_made_once(clerk: Person) -> None:
    payment_id = clerk.shop.buy()
    tabs = [clerk.page, clerk.context.new_page()]
    for tab in tabs:
        tab.goto(f"{clerk.shop.url}/admin/payments/{payment_id}")
        tab.get_by_label("Reason").fill("bought twice")
        tab.get_by_role("button", name="See what it does").click()
    for tab in tabs:
        tab.get_by_role("button", name="Refund $5.00").click()
    assert "Stripe refunds $5.00." in clerk.message
    told = tabs[1].get_by_role("alert").inner_text()
    assert "Nothing was changed." in told
    assert "went back already, or was asked back" in told
    assert clerk.shop.double.charge_of(payment_id)["amount_refunded"] == 500


def test_two_tabs_suspend_an_account_once_and_each_grant_tells_its_balances(clerk: Person) -> None:
    path = _account(clerk)
    tabs = [clerk.page, clerk.context.new_page()]
    for tab in tabs:
        tab.goto(clerk.shop.url + path)
        _fill_in(tab)
    for tab, told in zip(tabs, ("was 0 and is 20", "was 20 and is 40"), strict=True):
        _grant(tab)
        assert f"The balance {told} now." in tab.get_by_role("status").inner_text()
    for tab in tabs:
        tab.goto(clerk.shop.url + path.replace("grant", "status"))
        tab.locator("#status-reason").fill("a look at it")
    for tab, told in zip(tabs, ("was active and is suspended", "suspended already"), strict=True):
        tab.get_by_role("button", name="Change status").click()
        assert told in tab.get_by_role("status").inner_text()


def test_what_was_typed_outlives_the_session(clerk: Person, looked_at: Look) -> None:
    path = _account(clerk)
    clerk.goes(path)
    _fill_in(clerk.page, "goodwill after the outage of Monday")
    _end_session(clerk)
    _grant(clerk.page)
    assert clerk.heading == "Your session has ended"
    assert "Nothing was changed." in clerk.message
    told = clerk.page.locator("main").inner_text()
    assert "Grant credits" in told
    assert "goodwill after the outage of Monday" in told
    looked_at(clerk.page, "session-ended")
    with clerk.context.expect_page() as opened:
        clerk.page.get_by_role("link", name="Sign in, in a new tab").click()
    _sign_in(opened.value)
    assert opened.value.locator("#grant-reason").is_visible()
    clerk.page.get_by_role("button", name="I am signed in again").click()
    assert clerk.heading == "Send this again?"
    assert FOUNDER in clerk.message
    looked_at(clerk.page, "send-again")
    assert _balance(clerk, path) == 0
    clerk.page.get_by_role("button", name="Send it now").click()
    assert "20 credits granted." in clerk.message
    assert _balance(clerk, path) == 20
    assert "goodwill after the outage of Monday" in clerk.page.locator("main").inner_text()


def test_a_confirmation_asks_again_and_a_secret_is_not_kept(clerk: Person) -> None:
    payment_id = clerk.shop.buy()
    clerk.goes(f"/admin/payments/{payment_id}")
    clerk.page.get_by_label("Reason").fill("bought twice")
    clerk.page.get_by_role("button", name="See what it does").click()
    settings = clerk.context.new_page()
    settings.goto(f"{clerk.shop.url}/admin/settings")
    settings.locator("#stripe-api_key").fill("sk_test_a_new_secret_key")
    settings.locator("#stripe-reason").fill("the old one leaked")
    _end_session(clerk)
    clerk.page.get_by_role("button", name="Refund $5.00").click()
    settings.get_by_role("button", name="Store").click()
    with clerk.context.expect_page() as opened:
        clerk.page.get_by_role("link", name="Sign in, in a new tab").click()
    _sign_in(opened.value)
    clerk.page.get_by_role("button", name="I am signed in again").click()
    clerk.page.get_by_role("button", name="Send it now").click()
    assert clerk.heading == "Refund $5.00?"
    assert clerk.shop.double.charge_of(payment_id)["amount_refunded"] == 0
    told = settings.locator("main").inner_text()
    assert "A secret is not kept." in told
    assert "the old one leaked" in told
    assert settings.get_by_role("button").count() == 0
    assert "sk_test_a_new_secret_key" not in settings.content()


def _end_session(person: Person) -> None:
    """A day passes, and the browser drops the session's cookie."""
    person.context.clear_cookies(name="admin_token")


def _sign_in(page: Page) -> None:
    page.get_by_role("link", name="Sign in with Google").click()
    page.locator("input[name=sub]").fill(FOUNDER)
    page.locator("input[name=sub]").press("Enter")
    page.wait_for_url("**/admin/**")
