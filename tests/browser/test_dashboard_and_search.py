"""Staff read the figures of a period, find anything by one search, and work with the keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import Person, Shop
from tests.support import unique

Look = Callable[[Page, str], None]


@pytest.fixture(scope="module")
def sold(shop: Shop) -> str:
    """A user who paid for a pack and whose credit an administrator corrected; the payment's id."""
    from tests.sql.helpers import account_of, session
    from tests.sql.payments import bought

    who, payment_id = bought(shop.database)
    with session(shop.database, "t_dba") as dba:
        dba.row("check_credit", **who)
        dba.row("create_charge", **who)
        account = account_of(shop.database, who)["id"]
        dba.row("adjust_credits", account_id=account, amount=-2, reason="counted twice")
    return payment_id


def test_the_dashboard_shows_a_range_of_days_with_money_and_who_did_what(
    admin: Person, sold: str, looked_at: Look
) -> None:
    admin.goes("/admin")
    looked_at(admin.page, "dashboard")
    assert "30 in all" not in admin.page.content()
    assert "in 30 days" in admin.page.locator("figure").first.inner_text()
    assert admin.page.locator("figure").first.locator("rect").count() == 30
    main = admin.page.locator("main").inner_text()
    assert re.search(r"Gross, USD\s+\$5.00", main)
    assert re.search(r"t_dba took 2 credits from .*\n?.*counted twice", main)
    admin.page.get_by_role("link", name="7 days").click()
    assert "range=7" in admin.page.url
    assert admin.page.locator("figure").first.locator("rect").count() == 7
    admin.page.get_by_label("First day").fill("2026-01-01")
    admin.page.get_by_label("Last day").fill("2026-01-03")
    admin.page.get_by_role("button", name="Show").click()
    assert "from=2026-01-01&to=2026-01-03" in admin.page.url
    assert "No money came in" in admin.page.locator("main").inner_text()
    admin.page.locator(".by-day summary").click()
    assert admin.page.locator(".by-day tbody tr").count() == 3
    looked_at(admin.page, "dashboard-days")
    assert admin.goes("/admin?from=2026-02-02&to=2026-02-01").status == 422
    assert "The last day is before the first." in admin.page.content()


def test_one_hit_goes_there_and_several_are_grouped(
    plain: Person, sold: str, looked_at: Look
) -> None:
    plain.goes("/admin/keys")
    plain.page.locator("#find").fill(sold)
    plain.page.locator("#find").press("Enter")
    assert plain.heading == "Payment of $5.00"
    plain.page.locator("#find").fill("counted tw")
    plain.page.get_by_role("button", name="Search").click()
    assert plain.heading == "Audit log"
    assert plain.page.locator("tbody tr").count() == 1
    plain.page.locator("#find").fill("e")
    plain.page.get_by_role("button", name="Search").click()
    assert plain.page.locator(".empty").is_visible()


def test_a_search_with_several_hits_shows_them_by_kind(
    admin: Person, sold: str, looked_at: Look
) -> None:
    name = unique("grouped")
    for suffix in ("a", "b"):
        admin.shop.database.execute(
            "SELECT billing.create_account(p_oauth_provider => 'oauth:google',"
            " p_external_id => %s)", f"{name}{suffix}", user="t_dba",
        )  # fmt: skip
    admin.goes(f"/admin/search?q={name}")
    assert admin.page.locator(".hits li").count() == 2
    looked_at(admin.page, "search")


def test_keys_reach_the_search_the_pages_and_the_rows(admin: Person, sold: str) -> None:
    admin.goes("/admin/accounts")
    admin.page.keyboard.press("/")
    assert admin.page.evaluate("document.activeElement.id") == "find"
    admin.page.keyboard.type("?")  # typed, not a command
    assert admin.page.locator("dialog[open]").count() == 0
    admin.page.locator("h1").click()
    admin.page.keyboard.press("?")
    assert admin.page.get_by_role("dialog", name="Keys").is_visible()
    admin.page.keyboard.press("Escape")
    admin.page.keyboard.press("j")
    assert admin.page.evaluate("document.activeElement.closest('tbody tr') !== null")
    admin.page.keyboard.press("g")
    admin.page.keyboard.press("p")
    admin.page.wait_for_url("**/admin/payments")


def test_lists_are_sorted_by_their_heads_and_exported(admin: Person, sold: str) -> None:
    admin.goes("/admin/accounts?status=active")
    head = admin.page.get_by_role("columnheader", name="Paid credits")
    head.get_by_role("link").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert "status=active&sort=credits" in admin.page.url
    head.get_by_role("link").click()
    assert head.get_attribute("aria-sort") == "ascending"
    shown = admin.page.locator("td[data-label='Paid credits']").all_inner_texts()
    assert [int(text) for text in shown] == sorted(int(text) for text in shown)
    address = admin.page.get_by_role("link", name="Export as CSV").get_attribute("href")
    answer = admin.page.request.get(f"{admin.shop.url}{address}")
    assert answer.headers["x-truncated"] == "false"
    assert len(answer.text().splitlines()) == len(shown) + 1
    assert admin.goes("/admin/accounts?sort=no%27such&from=x").status == 422


def test_times_say_how_long_ago_they_were_and_the_local_time(admin: Person, sold: str) -> None:
    admin.goes(f"/admin/payments/{sold}")
    time = admin.page.locator("main time").first
    title = time.get_attribute("title") or ""
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", title)
    assert len(title.splitlines()) == 2
    assert re.search(r"just now|min ago", admin.page.locator("main .ago").first.inner_text())
    admin.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    admin.page.get_by_role("button", name=f"Copy {sold}").first.click()
    assert admin.page.evaluate("navigator.clipboard.readText()") == sold
