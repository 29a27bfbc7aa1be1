"""Encryption of what is stored but must not be read from the database: authenticated (Fernet, from
the package cryptography), with several keys so that they can be rotated."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


class DecryptionFailed(Exception):
    """No key opens the text: it was encrypted by another one, or changed since."""


class Cipher:
    """Encrypts with the first of `secrets` (the newest) and decrypts with any of them."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(derived_key(s, "encryption v1")) for s in secrets])

    def encrypt(self, text: str) -> str:
        """`text` as an opaque token."""
        return self._fernet.encrypt(text.encode()).decode()

    def decrypt(self, token: str) -> str:
        """The text of a token. Raises DecryptionFailed."""
        try:
            return self._fernet.decrypt(token.encode()).decode()
        except (InvalidToken, UnicodeError):
            raise DecryptionFailed from None


def derived_key(secret: str, purpose: str) -> bytes:
    """A Fernet key for one purpose from a secret of any form. Keys for different purposes, or from
    secrets that share a part, have nothing in common."""
    derived = HKDF(SHA256(), length=32, salt=None, info=f"ciris-billing {purpose}".encode())
    return base64.urlsafe_b64encode(derived.derive(secret.encode()))
