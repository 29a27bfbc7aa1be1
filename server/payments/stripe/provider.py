"""Stripe as a payment provider: its settings, its events, and the steps to set it up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from server.config import ProviderConnection
from server.payments.provider import (
    Console,
    NotConfigured,
    PaymentEvent,
    PaymentProvider,
    ProviderApi,
    ProviderSettings,
    Setting,
    Step,
    Webhook,
)
from server.payments.stripe.events import read_event
from server.payments.stripe.signature import verify

_API_KEY, _WEBHOOK_SECRET, _PUBLISHABLE_KEY = "api_key", "webhook_secret", "publishable_key"


class Stripe:
    """Stripe. Its kinds of keys are those of https://docs.stripe.com/keys."""

    kind = "stripe"
    name = "Stripe"
    credential = _API_KEY
    slow_modules = ("stripe", "server.payments.stripe.api")
    settings = (
        Setting(
            _API_KEY,
            "API key",
            pattern=r"(sk|rk)_(test|live)_\S+",
            shape="a secret or restricted key: sk_test_..., sk_live_...",
            invalid="Give a secret or restricted key: it begins with sk_test_, sk_live_, rk_test_"
            " or rk_live_.",
            hint="From Stripe: sk_test_… or sk_live_…, or a restricted rk_…",
            missing="There is no API key: nothing can be sold.",
        ),
        Setting(
            _WEBHOOK_SECRET,
            "Webhook secret",
            pattern=r"whsec_\S+",
            shape="a webhook's signing secret: whsec_...",
            invalid="Give a webhook's signing secret: it begins with whsec_.",
            hint="From Stripe: whsec_…",
            missing="There is no webhook secret: payments cannot be credited.",
            may_be_several=True,
        ),
        Setting(
            _PUBLISHABLE_KEY,
            "Publishable key",
            pattern=r"pk_(test|live)_\S+",
            shape="a publishable key: pk_test_... or pk_live_...",
            invalid="Give a publishable key: it begins with pk_test_ or pk_live_.",
            hint="pk_test_… or pk_live_…, of the same mode as the API key. It is public.",
            missing="There is no publishable key: the users' clients cannot pay.",
            is_public=True,
        ),
    )
    webhook = Webhook(
        header="Stripe-Signature",
        description="Made by Stripe from the body, the time and the webhook's secret.",
        # The events that events.py uses; docs/payments.md says what each does.
        events=(
            "payment_intent.succeeded",
            "payment_intent.payment_failed",
            "charge.refunded",
            "refund.updated",
            "refund.failed",
            "charge.dispute.created",
            "charge.dispute.updated",
            "charge.dispute.funds_withdrawn",
            "charge.dispute.funds_reinstated",
            "charge.dispute.closed",
            "radar.early_fraud_warning.created",
            "radar.early_fraud_warning.updated",
        ),
    )
    console = Console(
        disabled="Stripe is disabled: nothing is sold, and payments under way wait.",
        unreachable="Stripe reaches https addresses only: the operator must set PUBLIC_BASE_URL to"
        " the public one.",
        steps=(
            Step(
                "In Stripe's dashboard, under Developers, API keys: copy the secret key and the"
                " publishable key, first of test mode. A restricted key needs PaymentIntents and"
                " Refunds (write), and Charges and Disputes (read); for top-ups also Customers"
                " (write) and PaymentMethods (read)."
            ),
            Step("Store both here, and test the connection."),
            Step(
                "In Stripe's dashboard, under Developers, Webhooks: add an endpoint with the"
                " address",
                then="and the events",
                has_address=True,
            ),
            Step("Store its signing secret here as the webhook secret."),
            Step(
                "Buy a pack with card 4242 4242 4242 4242. When the credits are there, do the same"
                " with the keys and an endpoint of live mode."
            ),
        ),
    )

    def payment_page(self, payment_id: str, is_test: bool) -> str:
        """The payment in Stripe's dashboard."""
        mode = "test/" if is_test else ""
        return f"https://dashboard.stripe.com/{mode}payments/{quote(payment_id, safe='')}"

    def client_key(self, settings: ProviderSettings) -> str:
        """The publishable key."""
        return settings.get(_PUBLISHABLE_KEY)

    async def connect(
        self, settings: ProviderSettings, connection: ProviderConnection
    ) -> ProviderApi:
        """Stripe's API with these settings."""
        # Imported late: `serve` must set the folder of its metrics before anything imports them.
        from server.payments.stripe.api import StripeApi

        return await StripeApi.open(settings.get(_API_KEY), connection.base_url, connection.timeout)

    def example_event(
        self, event_id: str, payment_id: str, purchase: Mapping[str, str]
    ) -> Mapping[str, Any]:
        """A payment that succeeded."""
        intent = {
            "id": payment_id,
            "object": "payment_intent",
            "amount_received": 500,
            "currency": "usd",
            "metadata": purchase,
        }
        return {
            "id": event_id,
            "object": "event",
            "type": "payment_intent.succeeded",
            "livemode": False,
            "data": {"object": intent},
        }

    def read_event(self, settings: ProviderSettings, signature: str, body: bytes) -> PaymentEvent:
        """Returns the event of a webhook request that Stripe has just sent."""
        secrets = settings.all_of(_WEBHOOK_SECRET)
        if not secrets:
            raise NotConfigured
        verify(body, signature, secrets)
        return read_event(body)


PROVIDER: PaymentProvider = Stripe()
