"""What the tests of signing in share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx2

from tests.identity_provider import (
    JWT_SECRET,
    TREE,
    Browser,
    Console,
    GoodProvider,
    HostileProvider,
)
from tests.support import Database, clean_environment, unique

FAILED = "OAuth authentication failed: "


STATE = f"{FAILED}Invalid OAuth state"


def staff_address(name: str = "ada") -> str:
    return f"{unique(name)}@ciris.ai"


def assert_refused(response: httpx2.Response, detail: str, status: int = 400) -> None:
    assert (response.status_code, response.json()["detail"]) == (status, detail)
    assert response.headers["content-type"] == "application/json"
    assert "location" not in response.headers


def signed_in(console: Console, good: GoodProvider, email: str | None = None) -> Browser:
    """A browser in which a person, by default a new viewer, has signed in."""
    browser = console.browser()
    assert good.sign_in(browser, email or staff_address()).status_code == 302
    return browser


def person(database: Database, email: str) -> dict[str, Any]:
    """The stored data of a person."""
    columns = "id", "role", "is_active", "full_name", "picture_url", "google_id", "last_login_at"
    rows = database.execute(
        f"SELECT {', '.join(columns)} FROM billing_data.admin_users WHERE email = %s", email
    )
    return dict(zip(columns, rows[0], strict=True)) if rows else {}


def sessions_of(database: Database, email: str) -> int:
    return int(
        database.value(
            "SELECT count(*) FROM billing_data.admin_sessions AS s"
            " JOIN billing_data.admin_users AS u ON u.id = s.admin_user_id WHERE u.email = %s",
            email,
        )
    )


def set_person(database: Database, email: str, **changes: Any) -> None:
    """As a DBA does it."""
    arguments = {"email": email, "reason": "a test", **changes}
    named = ", ".join(f"p_{name} => %s" for name in arguments)
    database.execute(
        f"SELECT role FROM billing.set_admin({named})", *arguments.values(), user="t_dba"
    )


HOUR = 3600


Lie = Callable[[HostileProvider], None]


def claims(**lies: Any) -> Lie:
    return lambda provider: provider.lies.update(lies)


def answer(**lies: Any) -> Lie:
    return lambda provider: provider.answer_lies.update(lies)


def keys_of(database: Database) -> int:
    return int(database.value("SELECT count(*) FROM billing_data.api_keys"))


# Bearer tokens


def billing(database: Database, *arguments: str) -> str:
    """Returns what `ciris-billing` prints."""
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        env={
            **clean_environment(),
            "PYTHONPATH": str(TREE),
            "DATABASE_URL": database.dsn("t_dba"),
            "ADMIN_JWT_SECRET": JWT_SECRET,
        },
        cwd=TREE,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def add(database: Database, email: str, role: str = "viewer") -> str:
    """Adds a staff member; returns their id."""
    return str(
        database.value(
            "SELECT admin_user_id FROM billing.add_admin(p_email => %s, p_role => %s)",
            email,
            role,
            user="t_dba",
        )
    )


def token_of(database: Database, email: str) -> str:
    return billing(database, "admins", "token", email).strip()


def bearer(console: Console, token: str, path: str = "/admin/oauth/user") -> httpx2.Response:
    return console.browser().get(path, headers={"Authorization": f"Bearer {token}"})
