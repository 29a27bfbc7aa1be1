"""Staff bearer tokens (contract.md 4): HS256 JWTs, valid for 24 hours. The role in a token is
informative; what a staff member may do is read from the database at each use."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import jwt

LIFETIME = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Token:
    """A signed token and when it ends."""

    text: str
    expires_at: datetime


def issue_token(secret: str, admin_user_id: str, email: str, role: str, now: datetime) -> Token:
    """Signs a token for a staff member with `secret`, which config.py has found strong."""
    expires_at = now + LIFETIME
    claims = {"sub": admin_user_id, "email": email, "role": role, "iat": now, "exp": expires_at}
    return Token(jwt.encode(claims, secret, algorithm="HS256"), expires_at)
