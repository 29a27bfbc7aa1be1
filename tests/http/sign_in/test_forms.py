"""Forged requests, limits and doors."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

import httpx2
import pytest

from tests.http.sign_in.helpers import (
    STATE,
    add,
    assert_refused,
    bearer,
    keys_of,
    signed_in,
    staff_address,
    token_of,
)
from tests.identity_provider import (
    FOUNDER,
    Browser,
    Console,
    GoodProvider,
    running_console,
)
from tests.support import Database

# Forged requests


def admin(console: Console, good: GoodProvider) -> Browser:
    return signed_in(console, good, FOUNDER)


NEW_KEY = {
    "name": "a key",
    "description": "for a test",
    "environment": "test",
    "permissions": "billing:read",
}


def test_a_form_without_the_token_of_its_session_changes_nothing(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    browser, other = admin(console, good), admin(console, good)
    before = keys_of(module_database)
    for token in (None, "", "x", other.csrf_token(), browser.csrf_token()[:-1]):
        form = NEW_KEY if token is None else {**NEW_KEY, "csrf_token": token}
        response = browser.post("/admin/keys", form)
        assert response.status_code == 403
        assert "<h1>This form is out of date</h1>" in response.text
        assert browser.post("/admin/sign-out", form).status_code == 403
    assert keys_of(module_database) == before
    assert browser.is_signed_in()
    good_form = {**NEW_KEY, "csrf_token": browser.csrf_token()}
    assert browser.post("/admin/keys", good_form).status_code == 201
    assert keys_of(module_database) == before + 1


def test_the_token_of_a_form_is_not_taken_from_anywhere_else(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    browser = admin(console, good)
    token, before = browser.csrf_token(), keys_of(module_database)
    for options in (
        {"params": {"csrf_token": token}, "data": NEW_KEY},
        {"headers": {"X-CSRF-Token": token}, "data": NEW_KEY},
        {"json": {**NEW_KEY, "csrf_token": token}},
        {"files": {"csrf_token": ("token", token.encode())}, "data": NEW_KEY},
        {"content": token.encode(), "headers": {"Content-Type": "text/plain"}},
    ):
        assert browser.request("POST", "/admin/keys", **options).status_code == 403, options
    assert keys_of(module_database) == before


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded; charset=nonsense", b"csrf_token=x"),
        ("application/x-www-form-urlencoded", b"csrf_token=\xff\xfe"),
        ("application/x-www-form-urlencoded", b"csrf_token=%ff%00"),
        ("application/x-www-form-urlencoded", b"a=1&" * 200_000),
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=b", b"never ends"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="csrf_token"\r\n\r\n\xff\r\n--b--\r\n',
        ),
    ],
)
def test_a_form_that_is_no_form_is_the_callers_fault(
    console: Console, good: GoodProvider, content_type: str, body: bytes
) -> None:
    browser = signed_in(console, good)
    response = browser.request(
        "POST", "/admin/keys", content=body, headers={"Content-Type": content_type}
    )
    assert response.status_code in (400, 403, 413)
    assert response.headers["content-type"].startswith("text/html")


def test_a_form_of_somebody_signed_out_leads_to_the_sign_in_page(
    console: Console, module_database: Database
) -> None:
    before = keys_of(module_database)
    response = console.browser().post("/admin/keys", NEW_KEY)
    assert response.status_code == 303
    assert response.headers["location"] == "/admin/sign-in?next=%2Fadmin"
    assert keys_of(module_database) == before


def test_a_call_with_the_cookie_changes_things_for_our_own_pages_only(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    browser = admin(console, good)
    before = keys_of(module_database)
    for headers in (
        {},
        {"Origin": "https://evil.example"},
        {"Origin": f"{console.base_url}.evil.example"},
        {"Origin": console.base_url.replace("127.0.0.1", "localhost")},
        {"Origin": f"{console.base_url}:80"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
        {"Referer": f"{console.base_url}/admin"},
    ):
        response = browser.request(
            "POST", "/admin/api/api-keys", json={"name": "a key"}, headers=headers
        )
        assert response.status_code == 403, headers
        assert response.json()["code"] == "cross_origin"
    assert keys_of(module_database) == before
    for headers in ({"Origin": console.base_url}, {"Sec-Fetch-Site": "same-origin"}):
        response = browser.request(
            "POST", "/admin/api/api-keys", json={"name": "a key"}, headers=headers
        )
        assert response.status_code == 201, headers
    assert browser.get("/admin/oauth/user").status_code == 200  # reading needs no origin


def test_other_origins_are_not_let_in_with_cookies(console: Console, good: GoodProvider) -> None:
    browser = signed_in(console, good)
    response = browser.get("/admin/oauth/user", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-credentials" not in response.headers
    assert response.headers.get("access-control-allow-origin") in (None, "*")


# Limits and doors


def assert_told_to_wait(response: httpx2.Response) -> None:
    assert_refused(response, "Too many sign-in attempts, please wait", 429)
    assert 1 <= int(response.headers["retry-after"]) <= 60


def test_attempts_to_sign_in_are_limited_by_client_and_never_for_all(
    database: Database, good: GoodProvider
) -> None:
    """Strangers, from any number of addresses, do not use up the attempts of the staff."""
    login, callback = "/admin/oauth/login", "/admin/oauth/callback?code=x&state=y"
    with running_console(
        database, good.discovery_url, TRUSTED_PROXIES="127.0.0.0/8 ::1/128"
    ) as console:

        def from_address(address: str) -> Browser:
            browser = console.browser()
            browser.headers["X-Forwarded-For"] = address
            return browser

        for number, path in enumerate((login, callback)):
            browser = from_address(f"192.0.2.{number}")
            answers = [browser.get(path) for _ in range(21)]
            assert {response.status_code for response in answers[:20]} <= {302, 400}
            assert_told_to_wait(answers[20])
            assert_told_to_wait(browser.get(callback if path == login else login))
            assert browser.get("/admin/sign-in").status_code == 200
        # One client has 2^64 IPv6 addresses.
        answers = [from_address(f"2001:db8:0:7::{n:x}").get(callback) for n in range(21)]
        assert {response.status_code for response in answers[:20]} == {400}
        assert_told_to_wait(answers[20])
        assert from_address("2001:db8:0:8::1").get(callback).status_code == 400
        for number in range(300):
            assert (
                from_address(f"198.51.{number % 2}.{number // 2}").get(callback).status_code == 400
            )
        email = staff_address()
        good.knows(email)
        member = from_address("203.0.113.7")
        assert member.get(good.agrees(member.begin(), email)).status_code == 302


def test_the_door_of_dev_does_not_exist_in_serve(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    signed_in(console, good, FOUNDER)
    ticket = secrets.token_urlsafe(32)
    digest = hashlib.sha256(ticket.encode()).digest()
    module_database.execute(
        "SELECT billing.create_sign_in_link(p_email => %s, p_ticket_hash => %s)",
        FOUNDER,
        digest,
        user="t_dba",
    )
    browser = console.browser()
    response = browser.get(f"/admin/sign-in/{ticket}")
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/html")
    assert browser.cookies == {}
    assert (
        module_database.value(
            "SELECT count(*) FROM billing_data.sign_in_tickets WHERE ticket_hash = %s", digest
        )
        == 1
    )
    # Such a ticket is no state of a sign-in either.
    browser.begin()
    assert_refused(
        browser.get("/admin/oauth/callback", params={"code": "x", "state": ticket}), STATE
    )


def test_without_its_configuration_the_console_says_what_is_missing(database: Database) -> None:
    names = ("GOOGLE_CLIENT_ID", "GOOGLE_CLIENT_SECRET", "PUBLIC_BASE_URL")
    nothing: dict[str, Any] = dict.fromkeys(names, "")
    with running_console(database, "", **nothing, ADMIN_JWT_SECRET="") as console:
        browser = console.browser()
        page = browser.get("/admin")
        assert page.status_code == 503
        assert "ADMIN_JWT_SECRET" in page.text
        for path in ("/admin/oauth/login", "/admin/oauth/callback?code=x&state=y"):
            assert browser.get(path).status_code == 503
        assert browser.get("/admin/oauth/user").status_code == 503
        assert browser.post("/admin/oauth/logout").status_code == 503
    with running_console(database, "", **nothing) as console:
        browser = console.browser()
        page = browser.get("/admin/sign-in")
        assert page.status_code == 200
        assert "GOOGLE_CLIENT_ID" in page.text
        assert browser.get("/admin/oauth/login").status_code == 503
        assert browser.post("/admin/oauth/logout").status_code == 200
        email = staff_address()
        add(database, email)
        assert bearer(console, token_of(database, email)).status_code == 200
