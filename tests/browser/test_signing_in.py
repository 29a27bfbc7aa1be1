"""Staff sign in by the identity provider, and out again."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page

from tests.browser.conftest import VIEWER, Person
from tests.identity_provider import FOUNDER

Look = Callable[[Page, str], None]


def test_an_administrator_signs_in_looks_around_and_signs_out(
    stranger: Person, looked_at: Look
) -> None:
    stranger.goes("/admin/accounts?status=suspended")
    assert stranger.heading == "Sign in"
    looked_at(stranger.page, "sign-in")
    stranger.page.get_by_role("link", name="Sign in with Google").click()
    stranger.page.locator("input[name=sub]").fill(FOUNDER)
    stranger.page.locator("input[name=sub]").press("Enter")
    stranger.page.wait_for_url("**/admin/accounts?status=suspended")
    assert stranger.heading == "Accounts"
    stranger.page.get_by_role("button", name="Sign out").click()
    assert "You are signed out." in stranger.message
    assert stranger.goes("/admin").ok
    assert stranger.heading == "Sign in"


def test_a_viewer_is_told_so(viewer: Person) -> None:
    viewer.goes("/admin")
    assert viewer.page.locator("header").get_by_text("viewer").is_visible()
    assert viewer.page.locator("header").get_by_text(VIEWER).is_visible()


def test_the_dashboard_shows_today_and_a_month(admin: Person, looked_at: Look) -> None:
    admin.shop.database.execute(
        "SELECT billing.check_credit(p_oauth_provider => 'oauth:google', p_external_id => 'ada')",
        user="t_dba",
    )
    for _ in range(2):
        admin.shop.database.execute(
            "SELECT billing.create_charge(p_oauth_provider => 'oauth:google',"
            " p_external_id => 'ada')",
            user="t_dba",
        )
    admin.goes("/admin")
    assert admin.heading == "Dashboard"
    for span in ("Today", "30 days"):
        admin.page.get_by_role("link", name=span, exact=True).click()
        assert "Charges, free\n2" in admin.page.locator("main").inner_text()
    assert admin.page.locator("figure.chart svg").count() == 4
    inside = """svg => [...svg.querySelectorAll('text')].map(text => text.getBBox())
        .every(box => box.x >= 0 && box.x + box.width <= svg.viewBox.baseVal.width)"""
    assert admin.page.locator("figure.chart svg").evaluate_all(
        f"charts => charts.every({inside})"
    ), "a label is cut off"
    admin.page.get_by_text("Figures").first.click()
    looked_at(admin.page, "dashboard")


def test_what_is_not_there_is_a_page_too(admin: Person, looked_at: Look) -> None:
    assert admin.goes("/admin/nowhere").status == 404
    assert "begin at the dashboard" in admin.page.locator("main").inner_text()
    looked_at(admin.page, "not-found")


def test_a_sign_in_that_fails_is_told_on_a_page_with_a_way_back(
    stranger: Person, looked_at: Look
) -> None:
    assert stranger.goes("/admin/oauth/callback?code=x&state=forged").status == 400
    assert stranger.heading == "You are not signed in"
    assert "Invalid OAuth state" in stranger.page.locator("main").inner_text()
    looked_at(stranger.page, "sign-in-failed")
    stranger.page.get_by_role("link", name="To the dashboard").click()
    assert stranger.heading == "Sign in"


def test_a_fault_of_ours_is_a_page_with_a_request_id(admin: Person, looked_at: Look) -> None:
    database = admin.shop.database
    database.execute("ALTER FUNCTION billing.list_admins RENAME TO list_admins_gone")
    try:
        assert admin.goes("/admin/staff").status == 500
        assert admin.heading == "Something went wrong here"
        assert "Request id" in admin.page.locator("main").inner_text()
        assert "list_admins" not in admin.page.content()
        looked_at(admin.page, "fault")
    finally:
        database.execute("ALTER FUNCTION billing.list_admins_gone RENAME TO list_admins")
    assert admin.goes("/admin/staff").ok


def test_everything_can_be_reached_by_keyboard(admin: Person) -> None:
    admin.goes("/admin")
    admin.page.keyboard.press("Tab")
    assert admin.page.evaluate("document.activeElement.className") == "skip-link"
    reached = set()
    for _ in range(40):
        admin.page.keyboard.press("Tab")
        reached.add(admin.page.evaluate("document.activeElement.textContent.trim()"))
    assert {"Accounts", "Payments", "API keys", "Settings", "Staff", "Audit log", "Sign out"} <= (
        reached
    )


def test_pages_work_without_scripts(plain: Person) -> None:
    plain.goes("/admin")
    plain.page.get_by_role("link", name="Audit log").first.click()
    assert plain.heading == "Audit log"
