"""The process's hold on its payment provider: decrypts the configuration that each call reads from
the database, and keeps one set of connections per API key."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from server.config import ServeConfig
from server.encryption import Cipher
from server.payments.settings import ProviderSettings, open_settings, seal_settings
from server.payments.stripe.api import StripeApi


class Payments:
    """Opens configurations and hands out Stripe clients."""

    def __init__(self, config: ServeConfig) -> None:
        self._cipher = Cipher(config.encryption_keys) if config.encryption_keys else None
        self._base_url = config.stripe_api_base
        self._timeout = config.stripe_timeout
        self._api: StripeApi | None = None
        self._api_key = ""
        self._retired: list[StripeApi] = []
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """Closes the connections; call it when no call is under way."""
        for api in [*self._retired, *([self._api] if self._api else [])]:
            await api.close()

    def settings(self, config_data: Mapping[str, Any]) -> ProviderSettings | None:
        """A stored configuration opened; None when it cannot be, or has no API key."""
        settings = open_settings(config_data, self._cipher)
        return settings if settings is not None and settings.api_key else None

    def seal(self, provider: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """What of `given` is to be stored, secrets encrypted. Raises InvalidSetting."""
        return seal_settings(provider, given, self._cipher)

    async def stripe(self, settings: ProviderSettings) -> StripeApi:
        """Stripe with these settings."""
        async with self._opening:
            if self._api is None or self._api_key != settings.api_key:
                if self._api is not None:
                    self._retired.append(self._api)  # calls may still be under way in it
                self._api = await StripeApi.open(settings.api_key, self._base_url, self._timeout)
                self._api_key = settings.api_key
            return self._api


PAYMENTS = web.AppKey("payments", Payments)
