"""How many clicks the most common questions and tasks take, and that the keyboard alone is enough.
Each is done with and without scripts."""

from __future__ import annotations

import pytest
from playwright.sync_api import ViewportSize, expect

from tests.browser.conftest import NARROW, WIDE, Person
from tests.support import unique

WIDTHS = pytest.mark.parametrize("width", [WIDE, NARROW], ids=["wide", "narrow"])


def _denied(person: Person) -> str:
    """The address of somebody who used up everything and was denied then."""
    name = unique("denied")
    who = "p_oauth_provider => 'oauth:google', p_external_id => %s"
    for call in (
        f"check_credit({who}, p_customer_email => %s)",
        *[f"create_charge({who})"] * 3,
        f"check_credit({who}, p_context_agent_id => 'scout')",
    ):
        given = (name, f"{name}@example.com")[: call.count("%s")]
        person.shop.database.execute(f"SELECT billing.{call}", *given, user="t_dba")
    return f"{name}@example.com"


@WIDTHS
def test_why_was_she_denied_takes_one_click(clerk: Person, width: ViewportSize) -> None:
    email = _denied(clerk)
    clerk.page.set_viewport_size(width)
    answer = clerk.page.get_by_text("The agent was scout.")

    clerk.goes("/admin")
    clerk.clicks_on(clerk.page.get_by_label("Find anything"))
    clerk.page.keyboard.type(email)
    clerk.page.keyboard.press("Enter")
    expect(answer).to_be_in_viewport()
    assert clerk.clicks == 1

    clerk.goes(f"/admin/accounts?search={email}")
    clerk.clicks_on(clerk.page.get_by_role("link", name=email.partition("@")[0]))
    expect(answer).to_be_in_viewport()
    assert clerk.clicks == 2


@WIDTHS
def test_a_payment_is_refunded_with_three_clicks(clerk: Person, width: ViewportSize) -> None:
    payment_id = clerk.shop.buy()
    clerk.page.set_viewport_size(width)
    clerk.goes("/admin/payments")
    clerk.clicks_on(clerk.page.get_by_role("link", name=f"Refund {payment_id}"))
    expect(clerk.page.get_by_label("Reason")).to_be_focused()
    expect(clerk.page.get_by_role("heading", name="Refund this payment")).to_be_in_viewport()
    clerk.page.keyboard.type("bought twice")
    clerk.clicks_on(clerk.page.get_by_role("button", name="See what it does"))
    assert "20 will be taken back" in clerk.page.locator("main").inner_text()
    clerk.clicks_on(clerk.page.get_by_role("button", name="Refund $5.00"))
    assert "Stripe refunds $5.00." in clerk.message
    assert clerk.clicks == 3
    assert clerk.shop.double.charge_of(payment_id)["amount_refunded"] == 500


def test_a_payment_is_refunded_by_keyboard_alone(clerk: Person) -> None:
    payment_id = clerk.shop.buy()
    keyboard = clerk.page.keyboard
    clerk.goes("/admin/payments")
    clerk.tabs_to(f"Refund {payment_id}")
    keyboard.press("Enter")
    expect(clerk.page.get_by_label("Reason")).to_be_focused()
    keyboard.type("bought twice")
    clerk.tabs_to("See what it does")
    keyboard.press("Enter")
    expect(clerk.page.locator("h1")).to_have_text("Refund $5.00?")
    clerk.tabs_to("Refund $5.00")
    keyboard.press("Enter")
    expect(clerk.page.get_by_role("status")).to_contain_text("Stripe refunds $5.00.")
    assert clerk.shop.double.charge_of(payment_id)["amount_refunded"] == 500


def test_a_suspended_account_leads_to_the_field_of_its_status(clerk: Person) -> None:
    email = _denied(clerk)
    clerk.shop.database.execute(
        "SELECT billing.set_account_status(p_oauth_provider => 'oauth:google',"
        " p_external_id => %s, p_status => 'suspended', p_reason => 'a look at it')",
        email.partition("@")[0], user="t_dba",
    )  # fmt: skip
    clerk.goes(f"/admin/search?q={email}")
    clerk.page.get_by_role("link", name="Change the status").click()
    expect(clerk.page.get_by_label("New status")).to_be_focused()
