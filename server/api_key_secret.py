"""API key secrets: made, hashed and verified here, never stored (contract.md 7.8)."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from uuid import UUID

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

PREFIX_LENGTH = 20

# A key holds 256 random bits, so no guessing strategy gains from a cheap hash; these are the
# smallest parameters OWASP recommends, which keep the first use of a key under about 20 ms.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A fresh API key: `plaintext` is shown once, `prefix` and `hash` are stored."""

    plaintext: str
    prefix: str
    hash: str

    @property
    def digest(self) -> bytes:
        """What the database knows the key by when an agent's call names it."""
        return digest_of(self.plaintext)


def digest_of(secret: str) -> bytes:
    """A key's SHA-256: its 256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).digest()


def credential_of(digest: bytes) -> UUID:
    """What calls name the key of this digest by; see billing.create_api_key."""
    return UUID(bytes=digest[:16])


def new_secret(environment: str) -> NewSecret:
    """Makes a key for `environment` (test or live): cbk_{environment}_ and 43 random characters."""
    plaintext = f"cbk_{environment}_{secrets.token_urlsafe(32)}"
    return NewSecret(plaintext, plaintext[:PREFIX_LENGTH], _HASHER.hash(plaintext))


def verify_secret(key_hash: str, presented: str) -> bool:
    """Whether `presented` is the key behind `key_hash`. Takes tens of milliseconds of CPU: call
    it in a thread."""
    try:
        return _HASHER.verify(key_hash, presented)
    except (VerificationError, InvalidHashError):
        return False
