"""A payment provider's configuration (contract.md 5 and 8.17): encrypted where it is stored, masked
where it is shown, and a masked or blank value that comes back means "keep what you have"."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from server.encryption import Cipher, DecryptionFailed

_LOG = logging.getLogger(__name__)
PUBLIC = "publishable_key"
_MASK = re.compile(r"…|\.\.\.|\*\*\*|•••")
_SHOWN = 4  # last characters of a secret, if it is long enough to keep the rest secret
_LONG_ENOUGH = 16

# Stripe's kinds of keys, as https://docs.stripe.com/keys names them.
_STRIPE_SHAPES = {
    "api_key": (r"(sk|rk)_(test|live)_\S+", "a secret or restricted key: sk_test_..., sk_live_..."),
    "webhook_secret": (r"whsec_\S+", "a webhook's signing secret: whsec_..."),
    PUBLIC: (r"pk_(test|live)_\S+", "a publishable key: pk_test_... or pk_live_..."),
}


class InvalidSetting(ValueError):
    """A value that cannot be right; the text says which and what it should look like."""


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """What is needed to talk to a provider. The secrets are not shown when this is printed."""

    api_key: str = field(repr=False)
    webhook_secret: str = field(repr=False)
    publishable_key: str


def open_settings(config_data: Mapping[str, Any], cipher: Cipher | None) -> ProviderSettings | None:
    """The configuration with its secrets decrypted; None when they cannot be, which the log
    explains."""
    values: dict[str, str] = {}
    for name in ("api_key", "webhook_secret", PUBLIC):
        stored = config_data.get(name) or ""
        if isinstance(stored, str):
            if stored and name != PUBLIC:
                _LOG.warning(
                    "%s of the payment provider is stored in clear text:"
                    " run `ciris-billing providers reencrypt`",
                    name,
                )
            values[name] = stored
            continue
        try:
            if cipher is None:
                raise DecryptionFailed
            values[name] = cipher.decrypt(str(stored.get("encrypted")))
        except DecryptionFailed:
            _LOG.error(
                "%s of the payment provider cannot be decrypted: %s",
                name,
                "ENCRYPTION_KEY is not set"
                if cipher is None
                else "it was encrypted with a key that ENCRYPTION_KEY does not have",
            )
            return None
    return ProviderSettings(**values)


def seal_settings(provider: str, given: Mapping[str, Any], cipher: Cipher | None) -> dict[str, Any]:
    """What of `given` is to be stored, ready for billing.set_provider_config: a masked or blank
    value is left out (it keeps what is stored), None takes the value away.

    Raises InvalidSetting for a value that cannot be right, or a secret without a cipher."""
    sealed: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            sealed[name] = None
            continue
        if not isinstance(value, str):
            raise InvalidSetting(f"{name} must be a string")
        plain = value.strip()
        if not plain or _MASK.search(plain):
            continue
        if provider == "stripe":
            _require_stripe_shape(name, plain)
        if name == PUBLIC:
            sealed[name] = plain
            continue
        if cipher is None:
            raise InvalidSetting(f"{name} cannot be stored: ENCRYPTION_KEY is not set")
        sealed[name] = seal(plain, cipher)
    return sealed


def seal(value: str, cipher: Cipher) -> dict[str, Any]:
    """One secret as it is stored: encrypted, with its mask and the mode it is for."""
    mode = re.match(r"[a-z]+_(test|live)_", value)
    sealed = {"encrypted": cipher.encrypt(value), "masked": mask(value)}
    return {**sealed, "mode": mode[1]} if mode else sealed


def unseal_all(config_data: Mapping[str, Any], cipher: Cipher) -> dict[str, str]:
    """Every secret of a configuration in clear text, by name. Raises DecryptionFailed."""
    secrets = {}
    for name, value in config_data.items():
        if name == PUBLIC or not value:
            continue
        if isinstance(value, dict) and "encrypted" in value:
            secrets[name] = cipher.decrypt(str(value["encrypted"]))
        else:
            # The old service took anything; what is no text is kept as its JSON.
            secrets[name] = value if isinstance(value, str) else json.dumps(value)
    return secrets


def mask(value: str) -> str:
    """A secret as it may be shown, like sk_…1234."""
    kind = re.match(r"[a-z]{2,6}_", value)
    shown = value[-_SHOWN:] if len(value) >= _LONG_ENOUGH else ""
    return f"{kind[0] if kind else ''}…{shown}"


def _require_stripe_shape(name: str, value: str) -> None:
    if name not in _STRIPE_SHAPES:
        raise InvalidSetting(
            f"Stripe has no setting of that name: use {', '.join(sorted(_STRIPE_SHAPES))}"
        )
    pattern, what = _STRIPE_SHAPES[name]
    if not re.fullmatch(pattern, value) or not value.isascii():
        raise InvalidSetting(f"{name} must be {what}")
