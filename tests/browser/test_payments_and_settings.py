"""Staff look after payments, set the price, and connect Stripe."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Page

from tests.browser.conftest import Person, Shop
from tests.stripe_double import DropAfter

Look = Callable[[Page, str], None]


def test_purchases_and_events_are_listed(admin: Person, looked_at: Look) -> None:
    paid, open_ = admin.shop.buy(), admin.shop.buy(paid=False)
    admin.goes("/admin/payments")
    looked_at(admin.page, "payments")
    assert paid in admin.page.content()
    assert open_ in admin.page.content()
    admin.goes("/admin/payments?status=settled")
    assert paid in admin.page.content()
    assert open_ not in admin.page.content()
    admin.page.get_by_role("link", name="Events").click()
    assert "payment_intent.succeeded" in admin.page.content()
    looked_at(admin.page, "payment-events")


def test_a_payment_that_does_not_fit_is_shown_and_resolved(
    admin: Person, viewer: Person, looked_at: Look
) -> None:
    payment_id = admin.shop.buy(paid=False)
    admin.shop.double.pay(payment_id)
    event = admin.shop.double.succeeded_event(payment_id)
    event["data"]["object"]["amount_received"] = 400
    assert admin.shop.double.deliver(admin.shop.url, event).status_code == 500
    admin.goes("/admin")
    admin.page.get_by_role("link", name="needs a person").click()
    problem = admin.page.locator("article", has_text=event["id"])
    looked_at(admin.page, "payment-problems")
    viewer.goes("/admin/payments/problems")
    assert viewer.page.locator("main form[method=post]").count() == 0
    problem.get_by_label("What you did about it").fill("refunded in the dashboard")
    problem.get_by_role("button", name="Resolve").click()
    assert f"{event['id']} is resolved." in admin.message
    assert admin.shop.double.deliver(admin.shop.url, event).status_code == 200


def test_credits_that_could_not_be_taken_back_are_shown(admin: Person, looked_at: Look) -> None:
    payment_id = admin.shop.buy()
    _spend(admin.shop, payment_id)
    admin.shop.double.refund(payment_id)
    refunded = admin.shop.double.refunded_event(payment_id)
    assert admin.shop.double.deliver(admin.shop.url, refunded).is_success
    admin.goes("/admin/payments/problems")
    assert "15 are short" in admin.page.content()
    looked_at(admin.page, "payment-shortfall")
    shortfall = admin.page.locator("article", has_text="15 are short")
    shortfall.get_by_label("What you did about it").fill("written off")
    shortfall.get_by_role("button", name="Resolve").click()
    assert "is resolved." in admin.message
    assert "15 are short" not in admin.page.content()


def _spend(shop: Shop, payment_id: str) -> None:
    external_id = shop.database.value(
        "SELECT a.external_id FROM billing_data.accounts AS a"
        " INNER JOIN billing_data.purchases AS p ON p.account_id = a.id WHERE p.payment_id = %s",
        payment_id,
    )
    for amount in (1, 1, 1, 15):  # the three free uses come first
        shop.database.execute(
            "SELECT billing.create_charge(p_oauth_provider => 'oauth:google',"
            " p_external_id => %s, p_amount_minor => %s)",
            external_id,
            amount,
            user="t_dba",
        )


def test_the_price_is_changed_after_a_look_at_before_and_after(
    admin: Person, looked_at: Look
) -> None:
    admin.goes("/admin/settings")
    looked_at(admin.page, "settings")
    pricing = admin.page.get_by_role("region", name="Pricing")
    pricing.locator("[name=pack_price]").fill("0.49")
    pricing.locator("[name=reason]").fill("too little for Stripe")
    pricing.get_by_role("button", name="Show before and after").click()
    assert admin.heading == "Settings"
    assert "The least price that Stripe takes in USD is $0.50." in admin.page.content()
    pricing.locator("[name=pack_price]").fill("7.99")
    pricing.locator("[name=reason]").fill("autumn price")
    pricing.get_by_role("button", name="Show before and after").click()
    assert admin.heading == "Change the price?"
    looked_at(admin.page, "settings-confirm")
    admin.page.get_by_role("button", name="Change the price").click()
    assert admin.shop.database.value("SELECT pack_price_minor FROM billing.get_settings()") == 799
    admin.goes("/admin/settings")
    assert pricing.locator("[name=pack_price]").input_value() == "7.99"
    pricing.locator("[name=pack_price]").fill("5")
    pricing.locator("[name=reason]").fill("back again")
    pricing.get_by_role("button", name="Show before and after").click()
    admin.page.get_by_role("button", name="Change the price").click()


def test_stripe_is_connected_and_no_secret_is_ever_shown(admin: Person) -> None:
    admin.goes("/admin/settings")
    stripe = admin.page.get_by_role("region", name="Stripe")
    stripe.get_by_role("button", name="Test connection").click()
    assert "Stripe accepts the API key." in admin.message
    stripe.locator("[name=api_key]").fill("sk_live_" + "x" * 30)
    stripe.locator("[name=reason]").fill("the wrong one")
    stripe.get_by_role("button", name="Store").click()
    # Live and test mode are not mixed, and the value is not echoed.
    assert "sk_live_x" not in admin.page.content()
    assert admin.shop.double.api_key not in admin.page.content()
    admin.goes("/admin/settings")
    stripe.locator("[name=webhook_secret]").fill(admin.shop.double.webhook_secret)
    stripe.locator("[name=reason]").fill("the endpoint was made anew")
    stripe.get_by_role("button", name="Store").click()
    assert "Stripe's settings are stored." in admin.message
    for secret in (admin.shop.double.api_key, admin.shop.double.webhook_secret):
        assert secret not in admin.page.content()
        assert secret[-4:] in admin.page.content()


def test_webhook_secrets_are_added_and_taken_away_by_themselves(
    admin: Person, looked_at: Look
) -> None:
    stripe = admin.page.get_by_role("region", name="Stripe")
    old, new = admin.shop.double.webhook_secret, "whsec_" + "n" * 32

    def shown() -> str:
        value: str = admin.shop.database.value(
            "SELECT c.config_data ->> 'webhook_secret' FROM billing.list_provider_configs() AS c",
            user="t_dba",
        )
        return value

    admin.goes("/admin/settings")
    stripe.locator("[name=webhook_secret]").fill(new)
    stripe.locator("[name=reason]").fill("the secret is rolled")
    stripe.get_by_role("button", name="Store").click()
    assert shown() == f"whsec_…{old[-4:]},whsec_…nnnn"
    looked_at(admin.page, "settings-webhook-secrets")
    stripe.get_by_label(f"whsec_…{old[-4:]}").check()
    stripe.locator("[name=reason]").fill("the old one is over")
    stripe.get_by_role("button", name="Store").click()
    assert shown() == "whsec_…nnnn"
    stripe.locator("[name=webhook_secret]").fill(old)
    stripe.get_by_label("whsec_…nnnn").check()
    stripe.locator("[name=reason]").fill("back again")
    stripe.get_by_role("button", name="Store").click()
    assert shown() == f"whsec_…{old[-4:]}"


def test_a_viewer_sees_the_price_and_no_form(viewer: Person, looked_at: Look) -> None:
    viewer.goes("/admin/settings")
    assert viewer.page.locator("main form[method=post]").count() == 0
    looked_at(viewer.page, "settings-viewer")


def test_a_payment_is_refunded_once_though_the_answer_is_lost(
    admin: Person, looked_at: Look
) -> None:
    payment_id = admin.shop.buy()
    admin.goes("/admin/payments")
    row = admin.page.locator("tr", has_text=payment_id)
    row.get_by_role("link", name="Refund").click()
    looked_at(admin.page, "payment")
    admin.page.get_by_label("Amount in USD").fill("2,5")
    admin.page.get_by_label("Reason").fill("used only a part")
    admin.page.get_by_role("button", name="See what it does").click()
    assert "Write the amount like 7.99" in admin.page.get_by_role("alert").inner_text()
    admin.page.get_by_label("Amount in USD").fill("9")
    admin.page.get_by_role("button", name="See what it does").click()
    assert "At most $5.00 can" in admin.page.get_by_role("alert").inner_text()
    assert admin.page.get_by_label("Reason").input_value() == "used only a part"
    admin.page.get_by_label("Amount in USD").fill("2.50")
    admin.page.get_by_role("button", name="See what it does").click()
    assert admin.heading == "Refund $2.50?"
    looked_at(admin.page, "payment-confirm-refund")
    # Stripe makes the refund, and its answer is lost: asking again gives the money back once.
    admin.shop.double.on("POST", "/v1/refunds", DropAfter(), times=2)
    admin.page.get_by_role("button", name="Refund $2.50").click()
    assert "It is not known whether Stripe made the refund" in admin.message
    admin.page.get_by_role("button", name="Ask again").click()
    assert "Stripe refunds $2.50." in admin.message
    assert admin.shop.double.charge_of(payment_id)["amount_refunded"] == 250
    assert admin.shop.double.deliver(
        admin.shop.url, admin.shop.double.refunded_event(payment_id, embed_refunds=True)
    ).is_success
    admin.goes(f"/admin/payments/{payment_id}")
    assert "10 uses were taken back" in admin.page.locator("main").inner_text()
    refund = admin.page.get_by_role("region", name="Refunds and disputes").first.inner_text()
    assert "went back" in refund
    assert "used only a part" in refund
    looked_at(admin.page, "payment-refunded")


def test_what_stripe_refuses_to_refund_is_told_and_a_viewer_sees_no_form(
    admin: Person, viewer: Person
) -> None:
    payment_id = admin.shop.buy()
    admin.shop.double.dispute(payment_id)
    viewer.goes(f"/admin/payments/{payment_id}")
    assert viewer.page.locator("main form[method=post]").count() == 0
    admin.goes(f"/admin/payments/{payment_id}")
    admin.page.get_by_label("Reason").fill("by mistake")
    admin.page.get_by_role("button", name="See what it does").click()
    admin.page.get_by_role("button", name="Refund $5.00").click()
    assert "Stripe refunded nothing: Stripe refuses the request" in admin.message
    assert "Stripe refused it" in admin.page.locator("main").inner_text()
    assert "Can be refunded\n$5.00" in admin.page.locator("main").inner_text()


def test_a_currency_without_decimals_is_sold_refunded_and_added_up(
    clerk: Person, looked_at: Look
) -> None:
    page, shop = clerk.page, clerk.shop
    _set_price(shop, 550, "JPY")
    try:
        clerk.goes("/admin/settings")
        assert page.locator("[name=pack_price]").input_value() == "550"
        payment_id = shop.buy()
    finally:
        _set_price(shop, 500, "USD")
    clerk.goes("/admin/payments")
    row = page.locator("tr", has_text=payment_id)
    assert "550 JPY" in row.inner_text()
    row.get_by_role("link", name="Refund").click()
    for amount, fault in (("1.5", "JPY has no decimals."), ("600", "At most 550 JPY can")):
        page.get_by_label("Amount in JPY").fill(amount)
        page.get_by_label("Reason").fill("used only a part")
        page.get_by_role("button", name="See what it does").click()
        assert fault in page.get_by_role("alert").inner_text()
    page.get_by_label("Amount in JPY").fill("220")
    page.get_by_role("button", name="See what it does").click()
    assert "8 will be taken back" in page.locator("main").inner_text()
    page.get_by_role("button", name="Refund 220 JPY").click()
    assert "Stripe refunds 220 JPY." in clerk.message
    assert shop.double.charge_of(payment_id)["amount_refunded"] == 220
    told = shop.double.refunded_event(payment_id, embed_refunds=True)
    assert shop.double.deliver(shop.url, told).is_success
    clerk.goes(f"/admin/payments/{payment_id}")
    assert "220 JPY, 8 uses were taken back" in page.locator("main").inner_text()
    looked_at(page, "payment-yen")
    clerk.goes("/admin")
    main = page.locator("main").inner_text()
    assert re.search(r"Gross, JPY\s+[0-9,]+ JPY", main)
    assert re.search(r"Refunded, JPY\s+[0-9,]+ JPY", main)
    account = shop.database.value(
        "SELECT account_id FROM billing_data.purchases WHERE payment_id = %s", payment_id
    )
    clerk.goes(f"/admin/accounts/{account}/statement")
    assert "Purchased 550 JPY (20 uses)" in page.locator("table.statement").inner_text()
    assert not re.search(r"[0-9]\.[0-9]+ JPY", page.content())


def _set_price(shop: Shop, price: int, currency: str) -> None:
    shop.database.execute(
        "SELECT billing.set_pricing(p_reason => 'a test', p_pack_price_minor => %s,"
        " p_pack_currency => %s)",
        price, currency, user="t_dba",
    )  # fmt: skip
