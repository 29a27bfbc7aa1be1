"""The payment providers whose code is in this package."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from server.payment_kinds import PROVIDER_KINDS
from server.payments.provider import PaymentProvider


@cache
def provider_of(kind: str) -> PaymentProvider:
    """The provider of this name. Raises KeyError for one without code."""
    if kind not in PROVIDER_KINDS:
        raise KeyError(kind)
    provider: PaymentProvider = import_module(f"server.payments.{kind}").PROVIDER
    return provider


def all_providers() -> tuple[PaymentProvider, ...]:
    """Every provider with code, in the order of registration."""
    return tuple(map(provider_of, PROVIDER_KINDS))


def name_of(kind: str) -> str:
    """The name of a provider for people."""
    return provider_of(kind).name if kind in PROVIDER_KINDS else kind.title()


def title_of(provider: PaymentProvider, name: str) -> str:
    """The name of a setting of a provider for people."""
    return next(setting.title for setting in provider.settings if setting.name == name)


def webhook_path(kind: str) -> str:
    """The path at which a provider's events arrive."""
    return f"/v1/billing/webhooks/{kind}"
