"""Signing in as tests do it."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

from tests.sql.helpers import (
    Caller,
    session,
)
from tests.support import Database, unique


def new_hash() -> bytes:
    return hashlib.sha256(uuid.uuid4().bytes).digest()


def new_email() -> str:
    return f"{unique('ada')}@example.com"


def sign_in_as(caller: Caller, email: str, **arguments: Any) -> dict[str, Any]:
    return caller.row("sign_in_admin", **as_given(email, **arguments))


def as_given(email: str, **arguments: Any) -> dict[str, Any]:
    google = f"google's {email.lower()}"
    return {"email": email, "google_id": google, "session_hash": new_hash(), **arguments}


def member_row(database: Database, email: str) -> dict[str, Any]:
    with session(database, "postgres") as root:
        (row,) = root.execute("SELECT * FROM billing_data.admin_users WHERE email = %s", email)
    return row


def audited(database: Database, admin_user_id: uuid.UUID) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = database.execute(
        "SELECT l.action, l.changes, l.reason FROM billing_data.admin_audit_logs AS l"
        " WHERE l.resource_id = %s ORDER BY l.created_at, l.action",
        str(admin_user_id),
    )
    return rows


def assert_argument_refused(caller: Caller, function: str, argument: str, **arguments: Any) -> None:
    refusal = caller.refusal(function, **arguments)
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument"), refusal
    assert refusal.detail["argument"] == argument


# --- sessions ------------------------------------------------------------------------------------


def new_session(web: Caller, email: str) -> bytes:
    opened = new_hash()
    sign_in_as(web, email, session_hash=opened)
    return opened
