"""Staff bearer tokens: HS256 JWTs, valid for 24 hours. What a token says is informative: whose it
is, how long it is good and what its owner may do is what the database knows by its hash."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

import jwt

LIFETIME = timedelta(hours=24)


def issue_token(secret: str, admin_user_id: str, email: str, role: str, now: datetime) -> str:
    """Signs a token for a staff member with `secret`, which config.py has found strong. It is good
    once billing.create_staff_token knows its hash."""
    claims = {
        "sub": admin_user_id,
        "email": email,
        "role": role,
        "iat": now,
        "exp": now + LIFETIME,
    }
    return jwt.encode(claims, secret, algorithm="HS256")


def hashed(secret: str) -> bytes:
    """A random secret, or a token, as the database knows it."""
    return hashlib.sha256(secret.encode()).digest()
