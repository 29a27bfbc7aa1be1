"""The payment provider as the settings page shows, changes and tries it. A secret is never part of
a page: not the stored one, and not one that was just typed."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from server.admin_pages.page import FormFault
from server.admin_pages.refusals import FORM
from server.gateway import functions
from server.http.app_keys import CONFIG, GATEWAY, REQUEST_ID
from server.payments.payments import PAYMENTS
from server.payments.settings import WEBHOOK_SECRET, InvalidSetting, joined_secrets, secrets_of
from server.payments.stripe.api import PaymentMissing, PaymentProviderError
from server.staff.guard import Visit

_LOG = logging.getLogger(__name__)
_PROVIDER = "stripe"
_WEBHOOK_PATH = "/v1/billing/webhooks/stripe"
_SECRETS = ("api_key", WEBHOOK_SECRET)
_REMOVED = "remove_webhook_secret_"  # and a number: the mask of a secret to take away
_PUBLIC = "publishable_key"
_LOOKS_SECRET = re.compile(r"(sk|rk)_(test|live)_|whsec_")

# What the webhook acts on (docs/payments.md).
EVENTS = (
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
)
_INVALID = {
    "api_key": "Give a secret or restricted key: it begins with sk_test_, sk_live_, rk_test_ or"
    " rk_live_.",
    "webhook_secret": "Give a webhook's signing secret: it begins with whsec_.",
    _PUBLIC: "Give a publishable key: it begins with pk_test_ or pk_live_.",
}


@dataclass(frozen=True, slots=True)
class Provider:
    """What is stored of the provider, secrets masked."""

    exists: bool
    is_active: bool
    mode: str | None
    shown: Mapping[str, str]
    updated_at: Any

    @property
    def webhook_secrets(self) -> list[str]:
        """The masks of the webhook secrets."""
        return secrets_of(self.shown.get(WEBHOOK_SECRET, ""))


async def read_provider(visit: Visit) -> Provider:
    """The stored configuration as it may be shown."""
    for row in await visit.rows(functions.list_provider_configs()):
        if row["provider_type"] == _PROVIDER:
            shown = orjson.loads(row["config_data"])
            return Provider(True, row["is_active"], row["mode"], shown, row["updated_at"])
    return Provider(False, False, None, {}, None)


def provider_view(
    request: web.Request, stored: Provider, typed: Mapping[str, str] | None
) -> dict[str, Any]:
    """What the page shows. Of a form that failed it keeps what cannot be a secret."""
    config = request.app[CONFIG]
    public_url = config.staff.public_url if config.staff else ""
    values = {_PUBLIC: stored.shown.get(_PUBLIC, ""), "is_active": _yes(stored.is_active)}
    if not stored.exists:
        values["is_active"] = "yes"
    for name, value in (typed or {}).items():
        if name not in _SECRETS and not _LOOKS_SECRET.search(value):
            values[name] = value
    return {
        "stored": stored,
        "values": values,
        "has_encryption_key": bool(config.encryption_keys),
        "warnings": _warnings(stored),
        "webhook_url": f"{public_url}{_WEBHOOK_PATH}",
        "reachable": public_url.startswith("https:"),
        "events": EVENTS,
    }


def _warnings(stored: Provider) -> list[str]:
    if not stored.exists:
        return []
    found = []
    if not stored.shown.get("api_key"):
        found.append("There is no API key: nothing can be sold.")
    if not stored.shown.get("webhook_secret"):
        found.append("There is no webhook secret: payments cannot be credited.")
    if not stored.shown.get(_PUBLIC):
        found.append("There is no publishable key: the users' clients cannot pay.")
    if not stored.is_active:
        found.append("Stripe is disabled: nothing is sold, and payments under way wait.")
    return found


def sealed(request: web.Request, form: Mapping[str, str], stored: Provider) -> dict[str, Any]:
    """The arguments of set_provider_config that the form stands for. Raises FormFault."""
    config: dict[str, Any] = {}
    faults: dict[str, str] = {}
    if _LOOKS_SECRET.search(form.get("reason", "")):
        faults["reason"] = "This holds a secret. Give the reason without it."
    given = {
        "api_key": form.get("api_key", ""),
        WEBHOOK_SECRET: _webhook_secrets(form, stored),
        _PUBLIC: form.get(_PUBLIC, ""),
    }
    for name, value in given.items():
        try:
            config |= request.app[PAYMENTS].seal(_PROVIDER, {name: value})
        except InvalidSetting as error:
            has_keys = request.app[CONFIG].encryption_keys
            faults[name] = _INVALID[name] if has_keys else str(error)
    if faults:
        raise FormFault(**faults)
    if config.get(_PUBLIC) == stored.shown.get(_PUBLIC):
        config.pop(_PUBLIC, None)
    is_active = {"yes": True, "no": False}.get(form.get("is_active", ""))
    if not config and (is_active is None or (stored.exists and is_active == stored.is_active)):
        raise FormFault(**{FORM: "These are the present settings. Change one of them."})
    return {"config_data": orjson.dumps(config).decode(), "is_active": is_active}


def _webhook_secrets(form: Mapping[str, str], stored: Provider) -> str | list[str]:
    """The secrets as they are to be, those that stay by their masks; empty text keeps all."""
    typed = form.get(WEBHOOK_SECRET, "")
    removed = {mask for name, mask in form.items() if name.startswith(_REMOVED)}
    if not typed and not removed:
        return ""
    kept = [mask for mask in stored.webhook_secrets if mask not in removed]
    return joined_secrets(kept, secrets_of(typed))


async def test_connection(request: web.Request) -> tuple[bool, str]:
    """Whether Stripe accepts the stored API key, and what to say about it."""
    rows = await request.app[GATEWAY].read(functions.get_provider_config(provider_type=_PROVIDER))
    stored = orjson.loads(rows[0]["config_data"]) if rows else {}
    if not stored.get("api_key"):
        return False, "There is no API key to test yet."
    payments = request.app[PAYMENTS]
    settings = payments.settings(stored)
    if settings is None:
        return False, (
            "The stored secrets cannot be decrypted: ENCRYPTION_KEY is missing or another one."
            " Give the key back, or set the secrets again."
        )
    try:
        await (await payments.stripe(settings)).test()
    except (PaymentProviderError, PaymentMissing) as error:
        _LOG.warning(
            "payment provider: %s", error or "not found", extra={"request_id": request[REQUEST_ID]}
        )
        return False, f"The test failed: {str(error) or 'Stripe does not know this address'}."
    return True, "Stripe accepts the API key."


def _yes(value: bool) -> str:
    return "yes" if value else "no"
