"""Developers read the API's description, and try a call from it."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.conftest import Person, Shop

Look = Callable[[Page, str], None]


def test_a_developer_filters_the_calls_and_tries_one_with_a_key_that_is_not_kept(
    stranger: Person, shop: Shop, looked_at: Look
) -> None:
    stranger.goes("/docs/agents")
    looked_at(stranger.page, "docs-agents")
    page = stranger.page
    page.keyboard.press("/")
    page.keyboard.type("check")
    shown = page.locator("article.operation:visible")
    assert shown.count() == 1
    assert page.get_by_role("status").inner_text() == "1 call matches"
    assert page.locator(".contents li:visible", has_text="Add paid credits").count() == 0
    shown.get_by_text("Try it").click()
    shown.get_by_role("button", name="Send POST to this server").click()
    answer = shown.get_by_label("What this server answered")
    expect(answer).to_contain_text("401")
    shown.get_by_label("API key").fill(shop.database.create_key().secret)
    shown.get_by_role("button", name="Send POST to this server").click()
    expect(answer).to_contain_text("200 OK")
    assert '"has_credit": true' in answer.inner_text()
    kept = "[localStorage.length, sessionStorage.length, document.cookie]"
    assert page.evaluate(kept) == [0, 0, ""]


def test_the_pages_of_each_audience_read_whole_without_scripts(plain: Person) -> None:
    for audience in ("agents", "webhooks", "staff"):
        plain.goes(f"/docs/{audience}")
        assert plain.page.locator("article.operation").count() > 0
        assert plain.page.locator("article.operation details:not([open])").count() == 0
        assert plain.page.locator("button, input").count() == 0
