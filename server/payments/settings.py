"""A payment provider's configuration (contract.md 5 and 8.17): encrypted where it is stored, masked
where it is shown, and a masked or blank value that comes back means "keep what you have".

There may be several webhook secrets at a time: of several endpoints, or while one is changed. Given
as a list, or with commas between them, they are all there are; a mask among them keeps the secret
that it stands for."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from server.encryption import Cipher, DecryptionFailed

_LOG = logging.getLogger(__name__)
PUBLIC = "publishable_key"
WEBHOOK_SECRET = "webhook_secret"  # noqa: S105 - a name, not a secret
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
    webhook_secrets: tuple[str, ...] = field(repr=False)
    publishable_key: str


def open_settings(config_data: Mapping[str, Any], cipher: Cipher | None) -> ProviderSettings | None:
    """The configuration with its secrets decrypted; None when they cannot be, which the log
    explains."""
    try:
        api_keys = _opened("api_key", config_data, cipher)
        webhook_secrets = _opened(WEBHOOK_SECRET, config_data, cipher)
    except DecryptionFailed:
        return None
    public = config_data.get(PUBLIC)
    return ProviderSettings(
        api_keys[0] if api_keys else "",
        webhook_secrets,
        public if isinstance(public, str) else "",
    )


def _opened(name: str, config_data: Mapping[str, Any], cipher: Cipher | None) -> tuple[str, ...]:
    stored = [item for item in _items(config_data.get(name)) if item]
    # A blank secret would be one that anybody knows.
    return tuple(secret for item in stored if (secret := _open(name, item, cipher)).strip())


def _open(name: str, stored: Any, cipher: Cipher | None) -> str:
    if isinstance(stored, str):
        _LOG.warning(
            "%s of the payment provider is stored in clear text:"
            " run `ciris-billing providers reencrypt`",
            name,
        )
        return stored
    try:
        if cipher is None or not isinstance(stored, dict):
            raise DecryptionFailed
        return cipher.decrypt(str(stored.get("encrypted")))
    except DecryptionFailed:
        _LOG.error(
            "%s of the payment provider cannot be decrypted: %s",
            name,
            "ENCRYPTION_KEY is not set"
            if cipher is None
            else "it was encrypted with a key that ENCRYPTION_KEY does not have",
        )
        raise


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def seal_settings(provider: str, given: Mapping[str, Any], cipher: Cipher | None) -> dict[str, Any]:
    """What of `given` is to be stored, ready for billing.set_provider_config: a masked or blank
    value is left out (it keeps what is stored), None takes the value away.

    Raises InvalidSetting for a value that cannot be right, or a secret without a cipher."""
    sealed: dict[str, Any] = {}
    for name, value in given.items():
        plain = value.strip() if isinstance(value, str) else value
        if plain is None:
            sealed[name] = None
        elif name == WEBHOOK_SECRET and (parts := secrets_of(plain)) != [plain]:
            if parts or plain == []:
                sealed[name] = [
                    part if _MASK.search(part) else _sealed(provider, name, part, cipher)
                    for part in parts
                ] or None
        elif not isinstance(plain, str):
            raise InvalidSetting(f"{name} must be a string")
        elif plain and not _MASK.search(plain):
            sealed[name] = _sealed(provider, name, plain, cipher)
    return sealed


def secrets_of(value: Any) -> list[str]:
    """The webhook secrets of a list, or of a text with commas or white space between them. Raises
    InvalidSetting for what is neither."""
    texts = _items(value)
    if not all(isinstance(text, str) for text in texts):
        raise InvalidSetting(f"{WEBHOOK_SECRET} must be a string or a list of strings")
    return list(dict.fromkeys(part for text in texts for part in re.split(r"[\s,]+", text) if part))


def joined_secrets(kept: Iterable[str], added: Iterable[str]) -> list[str]:
    """Webhook secrets: those that stay, by their masks, and new ones. One that is given again is
    not there twice."""
    added = list(added)
    again = {mask(secret) for secret in added if len(secret) >= _LONG_ENOUGH}
    return [*(shown for shown in kept if shown not in again), *added]


def _sealed(provider: str, name: str, plain: str, cipher: Cipher | None) -> Any:
    if provider == "stripe":
        _require_stripe_shape(name, plain)
    if name == PUBLIC:
        return plain
    if cipher is None:
        raise InvalidSetting(f"{name} cannot be stored: ENCRYPTION_KEY is not set")
    return seal(plain, cipher)


def seal(value: str, cipher: Cipher) -> dict[str, Any]:
    """One secret as it is stored: encrypted, with its mask and the mode it is for."""
    mode = re.match(r"[a-z]+_(test|live)_", value)
    sealed = {"encrypted": cipher.encrypt(value), "masked": mask(value)}
    return {**sealed, "mode": mode[1]} if mode else sealed


def seal_anew(config_data: Mapping[str, Any], cipher: Cipher) -> dict[str, Any]:
    """Every secret of a configuration encrypted with the newest key. Raises DecryptionFailed."""
    sealed: dict[str, Any] = {}
    for name, value in config_data.items():
        if name == PUBLIC or not value:
            continue
        if name == WEBHOOK_SECRET and isinstance(value, list):
            sealed[name] = [seal(_unsealed(item, cipher), cipher) for item in value]
        else:
            sealed[name] = seal(_unsealed(value, cipher), cipher)
    return sealed


def _unsealed(value: Any, cipher: Cipher) -> str:
    if isinstance(value, dict) and "encrypted" in value:
        return cipher.decrypt(str(value["encrypted"]))
    # The old service took anything; what is no text is kept as its JSON.
    return value if isinstance(value, str) else json.dumps(value)


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
