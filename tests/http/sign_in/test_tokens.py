"""Bearer tokens, and what every page carries."""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx2
import jwt
import pytest

from server.http.route import OPEN_PAGE, PAGE
from server.routes import ROUTES
from tests.http.sign_in.helpers import (
    HOUR,
    add,
    assert_refused,
    bearer,
    billing,
    keys_of,
    person,
    set_person,
    signed_in,
    staff_address,
    token_of,
)
from tests.identity_provider import (
    CLIENT_SECRET,
    FOUNDER,
    JWT_SECRET,
    Browser,
    Console,
    GoodProvider,
    HostileProvider,
    running_console,
)
from tests.support import Database


def made(subject: Any, secret: str = JWT_SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """A token with any claims; None leaves one out. The database does not know it."""
    now = datetime.now(UTC)
    content = {
        "sub": subject,
        "iat": now,
        "exp": now + timedelta(hours=1),
        "jti": secrets.token_hex(8),
        **claims,
    }
    return jwt.encode(
        {name: value for name, value in content.items() if value is not None},
        secret or None,  # type: ignore[arg-type]
        algorithm=algorithm,
    )


def signed(content: str, secret: bytes) -> str:
    """A token signed by hand, because libraries warn of such secrets."""
    digest = hmac.digest(secret, content.encode(), "sha256")
    return f"{content}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def test_a_token_of_the_command_line_speaks_for_its_owner(
    console: Console, module_database: Database
) -> None:
    email = staff_address()
    admin_id = add(module_database, email, "admin")
    token = token_of(module_database, email)
    response = bearer(console, token)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "id": admin_id,
        "email": email,
        "name": email.partition("@")[0],
        "picture": None,
        "role": "admin",
    }
    claims = jwt.decode(token, JWT_SECRET, algorithms=["HS256"])
    assert (claims["sub"], claims["email"], claims["role"]) == (admin_id, email, "admin")
    assert claims["exp"] - claims["iat"] == 24 * HOUR
    for scheme in ("bearer", "BEARER", "Bearer "):
        headers = {"Authorization": f"{scheme} {token}"}
        assert console.browser().get("/admin/oauth/user", headers=headers).status_code == 200


def test_nobody_is_not_authenticated(console: Console) -> None:
    token_in_the_address = "/admin/oauth/user?authorization=Bearer%20x&token=x"
    for path, headers in (
        ("/admin/oauth/user", {}),
        ("/admin/oauth/user", {"Authorization": "Basic eDp5"}),
        ("/admin/oauth/user", {"Authorization": "Bearer"}),
        (token_in_the_address, {}),
    ):
        response = console.browser().get(path, headers=headers)
        assert_refused(response, "Not authenticated", 401)
        assert "www-authenticate" not in response.headers
    response = console.browser().get("/admin/api/api-keys")
    assert_refused(response, "Not authenticated", 401)
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_token_that_is_not_good_is_refused(console: Console, module_database: Database) -> None:
    email = staff_address()
    subject = add(module_database, email, "admin")
    now = datetime.now(UTC)
    head, body, signature = module_database.know_token(made(subject), email).split(".")
    assert bearer(console, f"{head}.{body}.{signature}").status_code == 200
    assert signed(f"{head}.{body}", JWT_SECRET.encode()) == f"{head}.{body}.{signature}"
    bad = {
        "expired": made(subject, exp=now - timedelta(seconds=1)),
        "without an end": made(subject, exp=None),
        "without a beginning": made(subject, iat=None),
        "of the future": made(subject, iat=now + timedelta(hours=1)),
        "not valid yet": made(subject, nbf=now + timedelta(hours=1)),
        "alg none": made(subject, "", "none"),
        "alg none, signed": f"{made(subject, '', 'none')}{signature}",
        "another algorithm": made(subject, algorithm="HS384"),
        "another secret": made(subject, "quite another secret of the tests Yh72bQ0"),
        "the empty secret": signed(f"{head}.{body}", b""),
        "our name for the secret": signed(f"{head}.{body}", b"ADMIN_JWT_SECRET"),
        "no signature": f"{head}.{body}.",
        "another body": f"{head}.{made(subject, role='admin').split('.')[1]}.{signature}",
        "no token": "x",
        "three dots": "a.b.c",
    }
    response = bearer(console, made(subject), "/admin/api/api-keys")  # good, but given to nobody
    assert_refused(response, "Invalid or expired token", 401)
    for what, token in bad.items():
        response = bearer(console, module_database.know_token(token, email))
        assert response.status_code == 401, what
        assert response.json()["detail"] == "Invalid or expired token", what
        assert "www-authenticate" not in response.headers
        response = bearer(console, token, "/admin/api/api-keys")
        assert (response.status_code, response.json()["detail"]) == (
            401,
            "Invalid or expired token",
        )
        assert response.headers["www-authenticate"] == "Bearer"


def test_a_token_for_nobody_is_refused(console: Console, module_database: Database) -> None:
    email = staff_address()
    gone = add(module_database, email)
    for subject in ("ada", "", None):
        token = module_database.know_token(made(subject), email)
        response = bearer(console, token, "/admin/api/api-keys")
        assert_refused(response, "Invalid token payload", 401)
    token = module_database.know_token(made(gone), email)
    assert bearer(console, token).status_code == 200
    set_person(module_database, email, is_active=False)
    response = bearer(console, token)
    assert_refused(response, "User not authorized", 403)
    response = bearer(console, token, "/admin/api/api-keys")
    assert_refused(response, "User account is deactivated", 403)


def test_a_token_is_revoked_on_the_command_line(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    email = staff_address()
    browser = signed_in(console, good, email)
    token = token_of(module_database, email)
    assert bearer(console, token).status_code == 200
    printed = billing(module_database, "admins", "logout", email, "--reason", "laptop lost")
    assert printed == f"2 sessions and tokens of {email} have ended\n"
    assert_refused(bearer(console, token), "Invalid or expired token", 401)
    assert_refused(browser.get("/admin/oauth/user"), "Invalid or expired token", 401)


def test_what_a_token_says_of_the_role_does_not_count(
    console: Console, module_database: Database
) -> None:
    email = staff_address()
    lie = made(add(module_database, email), role="admin", email=FOUNDER, is_admin=True)
    token = module_database.know_token(lie, email)
    assert bearer(console, token).json()["role"] == "viewer"
    before = keys_of(module_database)
    response = console.browser().request(
        "POST",
        "/admin/api/api-keys",
        json={"name": "a key"},
        headers={"Authorization": f"Bearer {token}"},
    )
    assert_refused(response, "Admin role required. Your role: viewer (read-only)", 403)
    assert keys_of(module_database) == before


def test_the_token_counts_before_the_cookie(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    browser, email = signed_in(console, good), staff_address()
    add(module_database, email)
    headers = {"Authorization": f"Bearer {token_of(module_database, email)}"}
    assert browser.get("/admin/oauth/user", headers=headers).json()["email"] == email
    response = browser.get("/admin/oauth/user", headers={"Authorization": "Bearer x"})
    assert_refused(response, "Invalid or expired token", 401)


def test_a_token_opens_no_page(console: Console, module_database: Database) -> None:
    email = staff_address()
    add(module_database, email, "admin")
    response = bearer(console, token_of(module_database, email), "/admin")
    assert response.status_code == 303


# What every page carries


PAGES = sorted(
    re.sub(r"\{[^}]+\}", str(uuid4()), route.path)
    for route in ROUTES
    if route.method == "GET"
    and route.guard in (PAGE, OPEN_PAGE)
    and not route.path.startswith("/admin/api/")  # whose errors are JSON
)


def assert_kept_to_itself(response: httpx2.Response) -> None:
    headers = response.headers
    assert "no-store" in headers["cache-control"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"
    policy = {
        name: value
        for name, _, value in (
            part.strip().partition(" ") for part in headers["content-security-policy"].split(";")
        )
    }
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert not re.search(r"<script(?! src=\"/static/)|<style|\sstyle=|\son\w+=", response.text)


@pytest.mark.parametrize("path", PAGES, ids=[str(number) for number in range(len(PAGES))])
def test_every_page_keeps_to_itself(console: Console, founder: Browser, path: str) -> None:
    response = founder.get(path)
    if response.status_code == 303:  # the sign-in page redirects people who are signed in
        assert path == "/admin/sign-in"
    else:
        assert response.status_code < 500
        assert_kept_to_itself(response)
    stranger = console.browser().get(path)
    assert "no-store" in stranger.headers["cache-control"]
    if stranger.status_code == 303:
        assert stranger.headers["location"].startswith("/admin/sign-in?next=%2Fadmin")
        assert stranger.text == ""
    else:
        assert_kept_to_itself(stranger)


def test_errors_keep_to_themselves(console: Console, good: GoodProvider) -> None:
    browser = signed_in(console, good)
    assert_kept_to_itself(browser.post("/admin/keys", {}))
    assert_kept_to_itself(browser.get("/admin/no/such/page"))
    for path in ("/admin/oauth/user", "/admin/oauth/callback?code=x&state=y"):
        assert "no-store" in browser.get(path).headers["cache-control"]


def test_the_log_holds_no_address_no_code_and_no_token(
    cluster: Any, good: GoodProvider, hostile: HostileProvider
) -> None:
    with cluster.database() as database:
        email = staff_address()
        with running_console(database, good.discovery_url, LOG_LEVEL="DEBUG") as console:
            browser = console.browser()
            good.knows(email)
            callback = good.agrees(browser.begin(), email)
            browser.get(callback)
            browser.get(f"/admin/audit?who={email}")
            refused = good.sign_in(console.browser(), "eve@evil.example")
            assert refused.status_code == 400
            set_person(database, email, is_active=False)
            assert good.sign_in(console.browser(), email).status_code == 400
            token = made(str(person(database, email)["id"]))
            bearer(console, token)
            secret_texts = [
                email,
                "eve@evil.example",
                httpx2.URL(callback).params["code"],
                httpx2.URL(callback).params["state"],
                browser.cookies["admin_token"],
                token,
                CLIENT_SECRET,
            ]
            assert '"endpoint":"/admin/oauth/callback"' in console.process.output
            for secret in secret_texts:
                assert secret not in console.process.output
        with running_console(database, hostile.discovery_url, LOG_LEVEL="DEBUG") as console:
            hostile.raw_answer = (500, b"lied-about@ciris.ai")
            hostile.sign_in(console.browser())
            hostile.honest()
            hostile.sign_in(console.browser())
            assert "lied-about" not in console.process.output
