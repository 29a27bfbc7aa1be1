"""The payment providers' clients of this process: it decrypts the configuration that each call
reads from the database, and keeps one set of connections for each provider and settings."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from server.config import ServeConfig
from server.encryption import Cipher
from server.gateway import Gateway, functions
from server.payment_kinds import PROVIDER_KINDS
from server.payments.provider import NotConfigured, ProviderApi, ProviderSettings
from server.payments.registry import provider_of, title_of
from server.payments.settings import open_settings, seal_settings


class Payments:
    """Decrypts configurations and provides the providers' interfaces."""

    def __init__(self, config: ServeConfig) -> None:
        self._cipher = Cipher(config.encryption_keys) if config.encryption_keys else None
        self._connections = config.provider_connections
        self._open: dict[str, tuple[ProviderSettings, ProviderApi]] = {}
        self._retired: list[ProviderApi] = []
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """Closes the connections. Call it when no call is under way."""
        for api in [*self._retired, *(api for _, api in self._open.values())]:
            await api.close()

    def settings(self, kind: str, config_data: Mapping[str, Any]) -> ProviderSettings | None:
        """Decrypts a stored configuration. Returns None when that fails, when it has no credential,
        or when its provider has no code here."""
        if kind not in PROVIDER_KINDS:
            return None
        settings = open_settings(kind, config_data, self._cipher)
        return settings if settings and settings.get(provider_of(kind).credential) else None

    async def stored_api(self, gateway: Gateway, kind: str) -> ProviderApi:
        """Returns the interface of the provider with its stored settings, also when nothing is
        sold. Raises NotConfigured, whose text says what is missing."""
        rows = await gateway.read(functions.get_provider_config(provider_type=kind))
        config = orjson.loads(rows[0]["config_data"]) if rows else {}
        provider = provider_of(kind)
        if not config.get(provider.credential):
            raise NotConfigured(f"{provider.name} has no {title_of(provider, provider.credential)}")
        settings = self.settings(kind, config)
        if settings is None:
            raise NotConfigured(
                "The stored secrets cannot be decrypted: ENCRYPTION_KEY is missing or another one."
                " Give the key back, or set the secrets again"
            )
        return await self.api(kind, settings)

    def seal(self, kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what to store of `given`, with encrypted secrets. Raises InvalidSetting."""
        return seal_settings(kind, given, self._cipher)

    async def api(self, kind: str, settings: ProviderSettings) -> ProviderApi:
        """Returns the interface of the provider with these settings."""
        async with self._opening:
            held, api = self._open.get(kind, (None, None))
            if api is None or held != settings:
                if api is not None:
                    self._retired.append(api)  # calls may still be under way on its connections
                api = await provider_of(kind).connect(settings, self._connections[kind])
                self._open[kind] = settings, api
            return api


PAYMENTS = web.AppKey("payments", Payments)
