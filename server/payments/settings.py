"""A payment provider's configuration (contract.md 5 and 8.17). Secrets are encrypted where they are
stored and masked where they are shown. A masked or blank value that comes back means "keep the
stored one".

Some secrets may have several values at a time: webhook secrets of several endpoints, or the old and
the new one during a change. A list, or a text with commas between them, gives the complete set; a
mask in it keeps the secret that it stands for."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from server.encryption import LONG_ENOUGH, Cipher, DecryptionFailed, mask, seal
from server.payment_kinds import PROVIDER_KINDS
from server.payments.provider import PaymentProvider, ProviderSettings
from server.payments.registry import provider_of

_LOG = logging.getLogger(__name__)
_MASK = re.compile(r"…|\.\.\.|\*\*\*|•••")


class InvalidSetting(ValueError):
    """A value that cannot be right. The text says which value, and what it should look like."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """Which settings of a provider are public, and which may have several values."""

    public: frozenset[str]
    several: frozenset[str]


# The settings that the old service's interface had for every provider.
_OLD_SHAPE = _Shape(frozenset({"publishable_key"}), frozenset({"webhook_secret"}))


def _shape_of(kind: str) -> _Shape:
    if kind not in PROVIDER_KINDS:
        return _OLD_SHAPE
    settings = provider_of(kind).settings
    return _Shape(
        frozenset(setting.name for setting in settings if setting.is_public),
        frozenset(setting.name for setting in settings if setting.may_be_several),
    )


def public_settings(kind: str) -> frozenset[str]:
    """The names of a provider's settings that are not secret."""
    return _shape_of(kind).public


def open_settings(
    kind: str, config_data: Mapping[str, Any], cipher: Cipher | None
) -> ProviderSettings | None:
    """The configuration with its secrets decrypted. None when they cannot be decrypted; the log
    says why."""
    values: dict[str, tuple[str, ...]] = {}
    try:
        for setting in provider_of(kind).settings:
            stored = config_data.get(setting.name)
            if setting.is_public:
                values[setting.name] = (stored,) if isinstance(stored, str) else ()
            else:
                values[setting.name] = _opened(setting.name, stored, cipher)
    except DecryptionFailed:
        return None
    return ProviderSettings(values)


def _opened(name: str, stored: Any, cipher: Cipher | None) -> tuple[str, ...]:
    items = [item for item in _items(stored) if item]
    # A blank secret would be a secret that everybody knows.
    return tuple(secret for item in items if (secret := _open(name, item, cipher)).strip())


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


def seal_settings(kind: str, given: Mapping[str, Any], cipher: Cipher | None) -> dict[str, Any]:
    """What to store of `given`, for billing.set_provider_config. A masked or blank value is left
    out, which keeps what is stored; None removes the value.

    Raises InvalidSetting for a value that cannot be right, or a secret without a cipher."""
    several = _shape_of(kind).several
    sealed: dict[str, Any] = {}
    for name, value in given.items():
        plain = value.strip() if isinstance(value, str) else value
        if plain is None:
            sealed[name] = None
        elif name in several and (parts := secrets_of(name, plain)) != [plain]:
            if parts or plain == []:
                sealed[name] = [
                    part if _MASK.search(part) else _sealed(kind, name, part, cipher)
                    for part in parts
                ] or None
        elif not isinstance(plain, str):
            raise InvalidSetting(f"{name} must be a string")
        elif plain and not _MASK.search(plain):
            sealed[name] = _sealed(kind, name, plain, cipher)
    return sealed


def secrets_of(name: str, value: Any) -> list[str]:
    """The secrets of a setting that is a list, or a text with commas or white space between them.
    Raises InvalidSetting for anything else."""
    texts = _items(value)
    if not all(isinstance(text, str) for text in texts):
        raise InvalidSetting(f"{name} must be a string or a list of strings")
    return list(dict.fromkeys(part for text in texts for part in re.split(r"[\s,]+", text) if part))


def joined_secrets(kept: Iterable[str], added: Iterable[str]) -> list[str]:
    """The secrets of a setting: the masks of those that stay, and new ones. A secret that is given
    again is not added twice."""
    added = list(added)
    again = {mask(secret) for secret in added if len(secret) >= LONG_ENOUGH}
    return [*(shown for shown in kept if shown not in again), *added]


def _sealed(kind: str, name: str, plain: str, cipher: Cipher | None) -> Any:
    if kind in PROVIDER_KINDS:
        _require_shape(provider_of(kind), name, plain)
    if name in _shape_of(kind).public:
        return plain
    if cipher is None:
        raise InvalidSetting(f"{name} cannot be stored: ENCRYPTION_KEY is not set")
    return seal(plain, cipher)


def seal_anew(kind: str, config_data: Mapping[str, Any], cipher: Cipher) -> dict[str, Any]:
    """The configuration with every secret encrypted anew by the newest key. Raises
    DecryptionFailed."""
    shape = _shape_of(kind)
    sealed: dict[str, Any] = {}
    for name, value in config_data.items():
        if name in shape.public or not value:
            continue
        if name in shape.several and isinstance(value, list):
            sealed[name] = [seal(_unsealed(item, cipher), cipher) for item in value]
        else:
            sealed[name] = seal(_unsealed(value, cipher), cipher)
    return sealed


def _unsealed(value: Any, cipher: Cipher) -> str:
    if isinstance(value, dict) and "encrypted" in value:
        return cipher.decrypt(str(value["encrypted"]))
    # The old service accepted any value; a value that is not text is kept as its JSON.
    return value if isinstance(value, str) else json.dumps(value)


def _require_shape(provider: PaymentProvider, name: str, value: str) -> None:
    settings = {setting.name: setting for setting in provider.settings}
    if name not in settings:
        raise InvalidSetting(
            f"{provider.name} has no setting of that name: use {', '.join(sorted(settings))}"
        )
    if not re.fullmatch(settings[name].pattern, value) or not value.isascii():
        raise InvalidSetting(f"{name} must be {settings[name].shape}")
