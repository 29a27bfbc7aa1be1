"""Staff find an account, read it, and correct it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import Person, Shop
from tests.support import unique

Look = Callable[[Page, str], None]

XSS = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture
def ada(shop: Shop) -> dict[str, str]:
    """Somebody with an e-mail address, ten credits and a short history."""
    name = unique("ada")
    email = f"{name}@example.com"
    calls = (
        "billing.check_credit(p_oauth_provider => 'oauth:google', p_external_id => %(id)s,"
        " p_customer_email => %(email)s)",
        "billing.create_charge(p_oauth_provider => 'oauth:google', p_external_id => %(id)s)",
        "billing.create_credit(p_oauth_provider => 'oauth:google', p_external_id => %(id)s,"
        " p_amount_minor => 10, p_description => 'welcome')",
    )
    for call in calls:
        _execute(shop, f"SELECT {call}", id=name, email=email)
    account_id = str(
        shop.database.value("SELECT id FROM billing_data.accounts WHERE external_id = %s", name)
    )
    return {"id": account_id, "external_id": name, "email": email}


def _execute(shop: Shop, statement: str, **arguments: Any) -> None:
    import psycopg

    with psycopg.connect(shop.database.dsn("t_dba"), autocommit=True) as connection:
        connection.execute(statement, arguments)


def _balance(shop: Shop, account_id: str) -> int:
    return int(
        shop.database.value(
            "SELECT paid_credits FROM billing_data.accounts WHERE id = %s", account_id
        )
    )


def _action(person: Person, summary: str) -> Any:
    """One of the account's forms, opened."""
    box = person.page.locator("details", has=person.page.locator("summary", has_text=summary))
    if box.get_attribute("open") is None:
        box.locator("summary").click()
    return box


def test_an_account_is_found_by_the_beginning_of_its_address_or_any_part_of_its_id(
    admin: Person, ada: dict[str, str], looked_at: Look
) -> None:
    admin.goes("/admin/accounts")
    admin.page.get_by_label("Search").fill(ada["email"][:-4].upper())
    admin.page.get_by_role("button", name="Show").click()
    looked_at(admin.page, "accounts")
    assert admin.page.locator("tbody tr").count() == 1
    admin.page.get_by_label("Search").fill(ada["external_id"][2:])
    admin.page.get_by_role("button", name="Show").click()
    assert admin.page.locator("tbody tr").count() == 1
    admin.page.locator("tbody a").first.click()
    assert admin.heading == ada["email"]


def test_what_is_not_found_is_said(admin: Person, looked_at: Look) -> None:
    admin.goes("/admin/accounts?search=nobody-like-this")
    assert admin.page.locator(".empty").is_visible()
    looked_at(admin.page, "accounts-empty")


def test_an_account_shows_its_ledger_checks_and_purchases(
    admin: Person, ada: dict[str, str], looked_at: Look
) -> None:
    admin.goes(f"/admin/accounts/{ada['id']}")
    looked_at(admin.page, "account")
    assert "welcome" in admin.page.get_by_role("region", name="Ledger").inner_text()
    admin.goes(f"/admin/accounts/{ada['id']}?tab=checks")
    assert admin.page.locator("[aria-current=page]").last.inner_text() == "Checks"
    looked_at(admin.page, "account-checks")
    admin.goes(f"/admin/accounts/{ada['id']}?tab=purchases")
    looked_at(admin.page, "account-purchases")


def test_credits_are_granted_with_a_reason(admin: Person, ada: dict[str, str]) -> None:
    admin.goes(f"/admin/accounts/{ada['id']}")
    form = _action(admin, "Grant or take away credits")
    form.get_by_label("Credits").fill("5")
    form.get_by_label("Reason").fill("goodwill after an outage")
    form.get_by_role("button", name="Change credits").click()
    assert "5 credits granted. The balance was 10 and is 15 now." in admin.message
    assert "goodwill after an outage" in admin.page.content()
    assert _balance(admin.shop, ada["id"]) == 15
    # The message is shown once.
    admin.goes(f"/admin/accounts/{ada['id']}")
    assert admin.page.get_by_role("status").count() == 0


def test_taking_credits_away_asks_first_and_states_the_amounts(
    admin: Person, ada: dict[str, str], looked_at: Look
) -> None:
    admin.goes(f"/admin/accounts/{ada['id']}")
    form = _action(admin, "Grant or take away credits")
    form.get_by_label("Credits").fill("-4")
    form.get_by_label("Reason").fill("granted twice")
    form.get_by_role("button", name="Change credits").click()
    assert admin.heading == "Take away 4 credits?"
    assert re.search(r"10[\s\S]*6", admin.page.locator("main").inner_text())
    assert _balance(admin.shop, ada["id"]) == 10
    looked_at(admin.page, "account-confirm")
    admin.page.get_by_role("button", name="Take away 4 credits").click()
    assert "The balance was 10 and is 6 now." in admin.message
    assert _balance(admin.shop, ada["id"]) == 6


def test_a_form_that_cannot_be_keeps_what_was_typed_and_says_why(
    admin: Person, ada: dict[str, str], looked_at: Look
) -> None:
    admin.goes(f"/admin/accounts/{ada['id']}")
    form = _action(admin, "Grant or take away credits")
    form.get_by_label("Credits").fill("many")
    form.get_by_label("Reason").fill("a typing error")
    form.get_by_role("button", name="Change credits").click()
    assert "Nothing was changed." in admin.page.get_by_role("alert").inner_text()
    assert "Give a whole number." in admin.page.content()
    form = _action(admin, "Grant or take away credits")
    assert form.get_by_label("Reason").input_value() == "a typing error"
    looked_at(admin.page, "account-fault")
    form.get_by_label("Credits").fill("-11")
    form.get_by_role("button", name="Change credits").click()
    assert _balance(admin.shop, ada["id"]) == 10
    assert "The account has only 10 credits." in admin.page.content()


def test_free_uses_are_reset_and_an_account_is_suspended_reactivated_and_closed(
    plain: Person, ada: dict[str, str], looked_at: Look
) -> None:
    plain.goes(f"/admin/accounts/{ada['id']}")
    form = _action(plain, "Reset free uses")
    form.get_by_label("Free uses").fill("9")
    form.get_by_label("Reason").fill("a new start")
    form.get_by_role("button", name="Reset free uses").click()
    assert "Free uses were 2 and are 9 now." in plain.message
    for status, now in (("suspended", "suspended"), ("active", "active")):
        form = _action(plain, "or close")
        form.get_by_label("New status").select_option(status)
        form.get_by_label("Reason").fill("a test")
        form.get_by_role("button", name="Change status").click()
        assert f"is {now} now." in plain.message
    form = _action(plain, "or close")
    form.get_by_label("New status").select_option("closed")
    form.get_by_label("Reason").fill("asked for it")
    form.get_by_role("button", name="Change status").click()
    assert plain.heading == "Close this account?"
    plain.page.get_by_role("button", name="Close the account").click()
    assert "is closed now." in plain.message


def test_a_viewer_sees_everything_and_no_form(viewer: Person, ada: dict[str, str]) -> None:
    viewer.goes(f"/admin/accounts/{ada['id']}")
    assert viewer.heading == ada["email"]
    assert viewer.page.locator("main form[method=post]").count() == 0


def test_what_users_typed_is_shown_as_text(admin: Person, shop: Shop, looked_at: Look) -> None:
    _execute(
        shop,
        "SELECT billing.check_credit(p_oauth_provider => %(provider)s, p_external_id => %(id)s,"
        " p_customer_email => %(email)s, p_agent_id => %(id)s, p_wa_id => %(id)s,"
        " p_context_channel_id => %(id)s)",
        provider=f"oauth:{XSS}",
        id=XSS,
        email=f"{XSS}@example.com",
    )
    _execute(
        shop,
        "SELECT billing.create_credit(p_oauth_provider => %(provider)s, p_external_id => %(id)s,"
        " p_amount_minor => 1, p_description => %(id)s)",
        provider=f"oauth:{XSS}",
        id=XSS,
    )
    account_id = shop.database.value(
        "SELECT id FROM billing_data.accounts WHERE external_id = %s", XSS
    )
    for path in (
        "/admin/accounts",
        f"/admin/accounts/{account_id}",
        f"/admin/accounts/{account_id}?tab=checks",
    ):
        admin.goes(path)
        assert admin.page.title() != "owned"
        assert admin.page.locator("main script, main img").count() == 0
    form = _action(admin, "Grant or take away credits")
    form.get_by_label("Credits").fill("1")
    form.get_by_label("Reason").fill(XSS)
    form.get_by_role("button", name="Change credits").click()
    for path in (
        "/admin",
        "/admin/audit",
        f"/admin/audit?who={XSS}",
        f"/admin/accounts?search={XSS}",
    ):
        admin.goes(path)
        assert admin.page.title() != "owned"
        assert admin.page.locator("main script, main img").count() == 0


def test_why_an_account_was_denied_is_one_click_from_where_it_was_found(
    admin: Person, ada: dict[str, str], looked_at: Look
) -> None:
    who = {"id": ada["external_id"]}
    charge = (
        "SELECT billing.create_charge(p_oauth_provider => 'oauth:google', p_external_id => %(id)s,"
        " p_amount_minor => %(amount)s)"
    )
    for amount in (1, 1, 10):
        _execute(admin.shop, charge, **who, amount=amount)
    _execute(
        admin.shop,
        "SELECT billing.check_credit(p_oauth_provider => 'oauth:google', p_external_id => %(id)s,"
        " p_context_agent_id => 'scout')",
        **who,
    )
    admin.goes(f"/admin/accounts?search={ada['external_id']}")
    admin.page.locator("tbody a").first.click()
    state = admin.page.get_by_role("region", name="State of the account")
    assert "It was refused because the account had no free uses" in state.inner_text()
    assert "The agent was scout." in state.inner_text()
    looked_at(admin.page, "account-denied")
    # The next act is beside it, and takes a reason and a click.
    state.get_by_role("link", name="Grant credits").click()
    grant = admin.page.locator("#grant")
    grant.get_by_label("Reason").fill("goodwill")
    grant.get_by_text("20", exact=True).click()
    grant.get_by_role("button", name="Preview").click()
    assert "The balance is 0 and would be 20." in admin.message
    grant.get_by_role("button", name="Grant").click()
    assert "20 credits granted. The balance was 0 and is 20 now." in admin.message
    assert _balance(admin.shop, ada["id"]) == 20
