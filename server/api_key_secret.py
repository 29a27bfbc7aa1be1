"""Makes, hashes and verifies the secrets of API keys, which are never stored (contract.md 7.8)."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from uuid import UUID

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

PREFIX_LENGTH = 20

# A key holds 256 random bits, so a cheap hash does not help anybody to guess it. These are the
# smallest parameters that OWASP recommends; they keep the first use of a key under about 20 ms.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A new API key: `plaintext` is shown once, `prefix` and `hash` are stored."""

    plaintext: str
    prefix: str
    hash: str

    @property
    def digest(self) -> bytes:
        """The digest from which the credential in agents' calls is made."""
        return digest_of(self.plaintext)


def digest_of(secret: str) -> bytes:
    """A key's SHA-256. A key has 256 random bits, so no slow hash is needed here."""
    return hashlib.sha256(secret.encode()).digest()


def credential_of(digest: bytes) -> UUID:
    """The credential that calls name the key of this digest by; see billing.create_api_key."""
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
