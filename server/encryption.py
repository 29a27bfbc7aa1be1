"""Encryption of values that are stored but must not be readable in the database. It is
authenticated (Fernet, from the package cryptography) and takes several keys, so that they can be
rotated. The package is imported where it is used: it is large, and most commands encrypt
nothing."""

from __future__ import annotations

import base64
from collections.abc import Sequence


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


def derived_key(secret: str, purpose: str) -> bytes:
    """Derives a Fernet key for one purpose from a secret of any form. Keys for different purposes,
    or from secrets that share a part, have nothing in common."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derived = HKDF(SHA256(), length=32, salt=None, info=f"ciris-billing {purpose}".encode())
    return base64.urlsafe_b64encode(derived.derive(secret.encode()))
