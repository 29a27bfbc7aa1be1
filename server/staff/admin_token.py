"""Staff bearer tokens: HS256 JWTs, valid for 24 hours. The claims in a token are only informative.
The database knows, by the token's hash, who owns it, how long it is valid and what its owner may
do."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from server.lazy_import import LazyModule

if TYPE_CHECKING:
    import jwt
else:
    jwt = LazyModule("jwt")

LIFETIME = timedelta(hours=24)


def issue_token(secret: str, admin_user_id: str, email: str, role: str, now: datetime) -> str:
    """Signs a token for a staff member with `secret`, which config.py has found strong enough. The
    token is valid once billing.create_staff_token has stored its hash."""
    claims = {
        "sub": admin_user_id,
        "email": email,
        "role": role,
        "iat": now,
        "exp": now + LIFETIME,
    }
    return jwt.encode(claims, secret, algorithm="HS256")


def claims_of(token: str, secret: str) -> Mapping[str, Any] | None:
    """The claims of a token that was signed with `secret` and is not over; None for any other."""
    try:
        claims: Mapping[str, Any] = jwt.decode(
            token, secret, algorithms=["HS256"], options={"require": ["exp", "iat"]}
        )
    except jwt.InvalidTokenError:
        return None
    return claims


def hashed(secret: str) -> bytes:
    """The hash by which the database knows a random secret or a token."""
    return hashlib.sha256(secret.encode()).digest()
