"""Encryption of values that are stored but must not be readable in the database. It is
authenticated (Fernet, from the package cryptography) and takes several keys, so that they can be
rotated. The package is imported where it is used: it is large, and most commands encrypt
nothing."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any

_SHOWN = 4  # how many last characters of a secret are shown, if it is long enough to stay secret
LONG_ENOUGH = 16


class DecryptionFailed(Exception):
    """No key decrypts the text: another key encrypted it, or it was changed since."""


class Cipher:
    """Encrypts with the first of `secrets` (the newest) and decrypts with any of them."""

    def __init__(self, secrets: Sequence[str]) -> None:
        from cryptography.fernet import Fernet, MultiFernet

        self._fernet = MultiFernet([Fernet(derived_key(s, "encryption v1")) for s in secrets])

    def encrypt(self, text: str) -> str:
        """Encrypts `text` into an opaque token."""
        return self._fernet.encrypt(text.encode()).decode()

    def decrypt(self, token: str) -> str:
        """Decrypts a token. Raises DecryptionFailed."""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(token.encode()).decode()
        except (InvalidToken, UnicodeError):
            raise DecryptionFailed from None


def seal(value: str, cipher: Cipher) -> dict[str, Any]:
    """One secret as it is stored: encrypted, with its mask and its mode."""
    mode = re.match(r"[a-z]+_(test|live)_", value)
    sealed = {"encrypted": cipher.encrypt(value), "masked": mask(value)}
    return {**sealed, "mode": mode[1]} if mode else sealed


def mask(value: str) -> str:
    """A secret as it may be shown, like sk_…1234."""
    kind = re.match(r"[a-z]{2,6}_", value)
    shown = value[-_SHOWN:] if len(value) >= LONG_ENOUGH else ""
    return f"{kind[0] if kind else ''}…{shown}"


def derived_key(secret: str, purpose: str) -> bytes:
    """Derives a Fernet key for one purpose from a secret of any form. Keys for different purposes,
    or from secrets that share a part, have nothing in common."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derived = HKDF(SHA256(), length=32, salt=None, info=f"ciris-billing {purpose}".encode())
    return base64.urlsafe_b64encode(derived.derive(secret.encode()))
