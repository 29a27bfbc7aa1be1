"""A payment provider on the settings page: shown, changed and tried. A secret is never part of a
page, neither the stored one nor one that was just typed."""

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
from server.gateway import Row, functions
from server.http.app_keys import CONFIG, GATEWAY, REQUEST_ID
from server.payments.payments import PAYMENTS
from server.payments.provider import (
    NotConfigured,
    PaymentMissing,
    PaymentProvider,
    PaymentProviderError,
    Setting,
)
from server.payments.registry import all_providers, title_of, webhook_path
from server.payments.settings import InvalidSetting, joined_secrets, secrets_of
from server.staff.guard import Visit

_LOG = logging.getLogger(__name__)
_PATTERNS = (
    setting.pattern
    for provider in all_providers()
    for setting in provider.settings
    if not setting.is_public
)
_LOOKS_SECRET = re.compile("|".join(f"(?:{pattern})" for pattern in _PATTERNS))


@dataclass(frozen=True, slots=True)
class Stored:
    """The stored settings of a provider, with masked secrets."""

    exists: bool
    is_active: bool
    mode: str | None
    shown: Mapping[str, str]
    updated_at: Any

    def masks(self, name: str) -> list[str]:
        """The masks of a setting that may have several values."""
        return secrets_of(name, self.shown.get(name, ""))


async def read_providers(visit: Visit) -> dict[str, Stored]:
    """The stored configuration of every provider with masked secrets, by the provider's kind."""
    rows = await visit.rows(functions.list_provider_configs())
    by_kind = {row["provider_type"]: row for row in rows}
    return {provider.kind: _stored(by_kind.get(provider.kind)) for provider in all_providers()}


def _stored(row: Row | None) -> Stored:
    if row is None:
        return Stored(False, False, None, {}, None)
    shown = orjson.loads(row["config_data"])
    return Stored(True, row["is_active"], row["mode"], shown, row["updated_at"])


def provider_view(
    request: web.Request,
    provider: PaymentProvider,
    stored: Stored,
    typed: Mapping[str, str] | None,
    faults: Mapping[str, str],
) -> dict[str, Any]:
    """The values that the page shows for a provider. From a form that failed it keeps only what
    cannot be a secret."""
    config = request.app[CONFIG]
    public_url = config.staff.public_url if config.staff else ""
    values = {
        setting.name: stored.shown.get(setting.name, "")
        for setting in provider.settings
        if setting.is_public
    }
    values["is_active"] = _yes(stored.is_active or not stored.exists)
    secrets = {setting.name for setting in provider.settings if not setting.is_public}
    for name, value in (typed or {}).items():
        if name not in secrets and not _LOOKS_SECRET.search(value):
            values[name] = value
    return {
        "provider": provider,
        "stored": stored,
        "values": values,
        "faults": faults,
        "has_encryption_key": bool(config.encryption_keys),
        "warnings": _warnings(provider, stored),
        "webhook_url": f"{public_url}{webhook_path(provider.kind)}",
        "reachable": public_url.startswith("https:"),
    }


def _warnings(provider: PaymentProvider, stored: Stored) -> list[str]:
    if not stored.exists:
        return []
    found = [setting.missing for setting in provider.settings if not stored.shown.get(setting.name)]
    return found if stored.is_active else [*found, provider.console.disabled]


def sealed(
    request: web.Request, provider: PaymentProvider, form: Mapping[str, str], stored: Stored
) -> dict[str, Any]:
    """The arguments of set_provider_config for the form. Raises FormFault."""
    config: dict[str, Any] = {}
    faults: dict[str, str] = {}
    if _LOOKS_SECRET.search(form.get("reason", "")):
        faults["reason"] = "This holds a secret. Give the reason without it."
    for setting in provider.settings:
        name = setting.name
        value = _secrets(form, setting, stored) if setting.may_be_several else form.get(name, "")
        try:
            config |= request.app[PAYMENTS].seal(provider.kind, {name: value})
        except InvalidSetting as error:
            has_keys = request.app[CONFIG].encryption_keys
            faults[name] = setting.invalid if has_keys else str(error)
        if setting.is_public and config.get(name) == stored.shown.get(name):
            config.pop(name, None)
    if faults:
        raise FormFault(**faults)
    is_active = {"yes": True, "no": False}.get(form.get("is_active", ""))
    if not config and (is_active is None or (stored.exists and is_active == stored.is_active)):
        raise FormFault(**{FORM: "These are the present settings. Change one of them."})
    return {"config_data": orjson.dumps(config).decode(), "is_active": is_active}


def _secrets(form: Mapping[str, str], setting: Setting, stored: Stored) -> str | list[str]:
    """The secrets after the change, where a mask stands for a secret that stays. An empty text
    keeps all. A field named remove_<setting>_<number> has the mask of a secret to remove."""
    typed = form.get(setting.name, "")
    prefix = f"remove_{setting.name}_"
    removed = {mask for name, mask in form.items() if name.startswith(prefix)}
    if not typed and not removed:
        return ""
    kept = [mask for mask in stored.masks(setting.name) if mask not in removed]
    return joined_secrets(kept, secrets_of(setting.name, typed))


async def test_connection(request: web.Request, provider: PaymentProvider) -> tuple[bool, str]:
    """Whether the provider accepts the stored credential, and the message about it."""
    try:
        api = await request.app[PAYMENTS].stored_api(request.app[GATEWAY], provider.kind)
        await api.test()
    except NotConfigured as error:
        return False, f"{error}."
    except (PaymentProviderError, PaymentMissing) as error:
        _LOG.warning(
            "payment provider: %s", error or "not found", extra={"request_id": request[REQUEST_ID]}
        )
        why = str(error) or f"{provider.name} does not know this address"
        return False, f"The test failed: {why}."
    return True, f"{provider.name} accepts the {title_of(provider, provider.credential)}."


def _yes(value: bool) -> str:
    return "yes" if value else "no"
