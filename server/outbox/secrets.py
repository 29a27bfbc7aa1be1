"""The secrets of webhook endpoints. A secret is made here, shown once, and stored encrypted."""

from __future__ import annotations

import base64
import json
import secrets
from typing import Any

from server.encryption import Cipher, seal

_BYTES = 32


def new_secret() -> str:
    """A new secret in the form of Standard Webhooks."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(_BYTES)).decode()}"


def sealed(secret: str, cipher: Cipher) -> str:
    """A secret as the database stores it."""
    return json.dumps(seal(secret, cipher))


def opened(stored: str | bytes, cipher: Cipher) -> list[str]:
    """The secrets in a list as the database stores it. Raises DecryptionFailed."""
    items: list[dict[str, Any]] = json.loads(stored)
    return [cipher.decrypt(str(item["encrypted"])) for item in items]
