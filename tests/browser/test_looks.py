"""Pages that are seen rarely: a top-up, an endpoint that was tried, a refusal, a tried call."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import ARTEFACTS, NARROW, WIDE, Person, Shop
from tests.identity_provider import FOUNDER
from tests.receiver import Receiver, running_receiver
from tests.sql.helpers import new_user
from tests.support import unique, wait_for
from tests.top_ups import saver, use_up, wait_for_attempt

Look = Callable[[Page, str], None]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


def test_a_top_up_shows_its_attempts_and_is_ended(clerk: Person, looked_at: Look) -> None:
    shop, service = clerk.shop, clerk.shop.service
    user, _ = saver(service, shop.double)
    use_up(service, user)
    _, _, payment_id = wait_for_attempt(shop.database, user, "succeeded")
    assert shop.double.deliver(shop.url, shop.double.succeeded_event(payment_id)).is_success
    shop.double.wear_out(payment_id, "4000000000000341")
    use_up(service, user)
    wait_for_attempt(shop.database, user, "failed", 2)
    clerk.goes(f"/admin/accounts/{shop.account_of(user)}")
    top_up = clerk.page.get_by_role("region", name="Top-up")
    assert "Failures in a row: 1 of 3." in top_up.inner_text()
    top_up.get_by_text("What the person agreed to").click()
    top_up.locator("summary", has_text="End the top-up").click()
    looked_at(clerk.page, "account-top-up")
    top_up.get_by_role("button", name="End the top-up").click()
    assert "Give a reason" in top_up.inner_text()
    top_up.get_by_label("Reason").fill("the card was stolen")
    top_up.get_by_role("button", name="End the top-up").click()
    assert "The top-up is off" in clerk.message


def test_an_endpoint_is_made_tried_and_switched_on_and_its_deliveries_are_read(
    clerk: Person, receiver: Receiver, looked_at: Look
) -> None:
    page, name = clerk.page, unique("crm")
    clerk.goes("/admin/webhooks")
    form = page.locator("section", has=page.locator("#create"))
    form.get_by_label("Name").fill(name)
    form.get_by_label("Address").fill(receiver.url)
    form.get_by_label("Reason").fill("the CRM wants to know")
    form.get_by_role("button", name="Add endpoint").click()
    receiver.secrets.append(page.get_by_label("Secret", exact=True).input_value())
    page.get_by_role("link", name="I have copied it").click()
    endpoint = page.locator("article", has_text=name)
    endpoint.get_by_role("button", name="Try it").click()
    assert "The test event was accepted (204)." in clerk.message
    endpoint.locator("summary", has_text="Switch").click()
    endpoint.get_by_label("Reason").first.fill("it works")
    endpoint.get_by_role("button", name="Switch on").click()
    assert f"{name} is on." in clerk.message
    _suspend(clerk.shop)
    _wait_for_attempts(clerk.shop, name, 1)
    receiver.behaviours[:] = [500] * 100  # also when it is tried again while pictures are taken
    _suspend(clerk.shop)
    _wait_for_attempts(clerk.shop, name, 2)
    clerk.goes("/admin/webhooks")
    for summary in endpoint.locator("summary").all():
        summary.click()
    looked_at(page, "webhooks")
    clerk.goes("/admin/webhooks/deliveries")
    tried = page.locator("tbody tr", has_text="it answered 500")
    expect(tried).to_have_count(1)
    tried.get_by_text("Body").click()
    tried.locator("summary", has_text="Send again").click()
    looked_at(page, "webhook-deliveries")
    receiver.behaviours.clear()
    tried.get_by_label("Reason").fill("it is up again")
    tried.get_by_role("button", name="Send again").click()
    assert "The delivery is due again." in clerk.message
    receiver.wait(3)
    clerk.goes("/admin/webhooks")
    endpoint.locator("summary", has_text="Switch").click()
    endpoint.get_by_label("Reason").first.fill("the old one leaked")
    endpoint.get_by_role("button", name="Make a new secret").click()
    looked_at(page, "webhook-secret")


def _wait_for_attempts(shop: Shop, endpoint: str, alerts: int) -> None:
    wait_for(
        lambda: shop.database.value(
            "SELECT count(*) >= %s FROM billing_data.outbox AS o"
            " INNER JOIN billing_data.webhook_endpoints AS e ON e.id = o.endpoint_id"
            " WHERE e.name = %s AND o.answer_status IS NOT NULL",
            alerts,
            endpoint,
        ),
        f"an attempt of {alerts} alerts",
    )


def _suspend(shop: Shop) -> None:
    """Raises an alert."""
    shop.database.execute(
        "SELECT billing.set_account_status(p_oauth_provider => %s, p_external_id => %s,"
        " p_status => 'suspended', p_reason => 'a test')",
        *new_user(shop.database).values(), user="t_dba",
    )  # fmt: skip


def test_who_is_an_administrator_no_more_is_told_so(clerk: Person, looked_at: Look) -> None:
    shop = clerk.shop
    external_id = new_user(shop.database)["external_id"]
    clerk.goes(f"/admin/accounts/{shop.account_of(external_id)}?do=grant")
    clerk.page.get_by_text("20", exact=True).click()
    clerk.page.locator("#grant-reason").fill("goodwill")
    role = "UPDATE billing_data.admin_users SET role = %s WHERE email = %s"
    shop.database.execute(role, "viewer", FOUNDER)
    try:
        clerk.page.get_by_role("button", name="Grant", exact=True).click()
        assert clerk.heading == "Only administrators can change this"
        assert "Nothing was changed." in clerk.page.locator("main").inner_text()
        looked_at(clerk.page, "forbidden")
    finally:
        shop.database.execute(role, "admin", FOUNDER)


def test_a_call_is_copied_and_tried(stranger: Person, shop: Shop, looked_at: Look) -> None:
    page = stranger.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    stranger.goes("/docs/agents")
    page.get_by_label("Filter the calls").fill("credits/check")
    check = page.locator("article.operation:visible")
    check.get_by_role("button", name="Copy: ").first.click()
    expect(check.get_by_text("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").startswith("curl ")
    check.get_by_text("Try it").click()
    check.get_by_label("API key").fill(shop.database.create_key().secret)
    check.get_by_role("button", name="Send POST to this server").click()
    expect(check.get_by_label("What this server answered")).to_contain_text("200 OK")
    # Axe takes long for what is hidden, too.
    page.locator("[hidden], .introduction").evaluate_all("all => all.map(part => part.remove())")
    looked_at(page, "docs-tried")


def test_the_whole_description_fits_each_width(plain: Person) -> None:
    plain.goes("/docs")
    for name, width in (("wide", WIDE), ("narrow", NARROW)):
        plain.page.set_viewport_size(width)
        plain.page.screenshot(path=ARTEFACTS / f"docs-{name}.png")
        assert plain.page.evaluate("document.documentElement.scrollWidth") <= width["width"]
