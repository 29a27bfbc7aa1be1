"""Who may no longer, the session and its end."""

from __future__ import annotations

import base64
import re
from datetime import timedelta

import pytest

from tests.http.sign_in.helpers import (
    FAILED,
    assert_refused,
    bearer,
    sessions_of,
    set_person,
    signed_in,
    staff_address,
    token_of,
)
from tests.identity_provider import (
    Console,
    GoodProvider,
    running_console,
)
from tests.support import Database

# Who may no longer


def test_a_deactivated_person_is_refused_and_their_open_session_ends_at_once(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    email = staff_address()
    browser = signed_in(console, good, email)
    assert browser.is_signed_in()
    set_person(module_database, email, is_active=False)
    assert not browser.is_signed_in()
    assert_refused(browser.get("/admin/oauth/user"), "Invalid or expired token", 401)
    assert_refused(
        good.sign_in(console.browser(), email), f"{FAILED}User account {email} is deactivated"
    )
    assert sessions_of(module_database, email) == 0
    set_person(module_database, email, is_active=True)
    assert not browser.is_signed_in()  # the old session does not come back
    assert signed_in(console, good, email).is_signed_in()


# There must be another administrator, because the last one cannot be changed.
@pytest.mark.usefixtures("founder")
def test_a_changed_role_counts_from_the_next_request_on(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    email = staff_address()
    browser = signed_in(console, good, email)
    assert browser.user()["role"] == "viewer"
    set_person(module_database, email, role="admin")
    # A session never gets more rights than it began with; the person must sign in after the change.
    assert not browser.is_signed_in()
    browser = signed_in(console, good, email)
    assert browser.user()["role"] == "admin"
    assert 'name="expires_in_days"' in browser.get("/admin/keys").text
    set_person(module_database, email, role="viewer")
    assert 'name="expires_in_days"' not in browser.get("/admin/keys").text


# The session


def test_the_session_cookie_is_for_the_browser_only(console: Console, good: GoodProvider) -> None:
    browser = signed_in(console, good)
    line = browser.set_cookies["admin_token"]
    first, *attributes = (part.strip() for part in line.split(";"))
    assert {attribute.lower() for attribute in attributes if "expires" not in attribute} == {
        "httponly",
        "secure",
        "samesite=lax",
        "path=/",
        "max-age=86400",
    }
    assert len(line) < 1024  # browsers silently drop cookies over 4 KB
    value = first.partition("=")[2].strip('"')
    content = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    for secret in (browser.csrf_token(), browser.user()["email"], "csrf", "ciris"):
        assert secret not in line
        assert secret.encode() not in content
    for name in ("admin_sign_in", "admin_flash"):
        if name in browser.set_cookies and "Max-Age=0" not in browser.set_cookies[name]:
            assert "Secure" in browser.set_cookies[name]


def test_the_cookie_of_a_sign_in_under_way_is_for_the_browser_only(console: Console) -> None:
    browser = console.browser()
    attempt = browser.begin("/admin/audit?who=" + "x" * 700)
    line = browser.set_cookies["admin_sign_in"]
    for attribute in ("HttpOnly", "Secure", "SameSite=Lax", "Path=/admin", "Max-Age=600"):
        assert attribute in line
    assert len(line) < 4000
    value = browser.cookies["admin_sign_in"]
    content = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    for secret in (attempt.state, attempt.query["nonce"]):
        assert secret not in line
        assert secret.encode() not in content


def test_each_sign_in_is_a_session_of_its_own(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    email = staff_address()
    here, there = signed_in(console, good, email), signed_in(console, good, email)
    assert here.cookies["admin_token"] != there.cookies["admin_token"]
    assert sessions_of(module_database, email) == 2
    before = here.cookies["admin_token"]
    good.sign_in(here, email)
    assert here.cookies["admin_token"] != before  # a sign-in starts a new session
    here.post("/admin/oauth/logout")
    assert there.is_signed_in()


def test_a_session_that_a_stranger_set_is_none(console: Console, good: GoodProvider) -> None:
    browser = console.browser()
    for value in ("x", "a" * 200, "gAAAAA" + "A" * 100, "null", "%C3%A9"):
        browser.cookies["admin_token"] = value
        assert not browser.is_signed_in()
        assert_refused(browser.get("/admin/oauth/user"), "Invalid or expired token", 401)
    assert good.sign_in(browser, staff_address()).status_code == 302
    assert browser.is_signed_in()


def test_a_cookie_that_was_tampered_with_is_none(console: Console, good: GoodProvider) -> None:
    browser = signed_in(console, good)
    value = browser.cookies["admin_token"]
    for place in (0, 12, 40, len(value) // 2, len(value) - 6):
        other = "A" if value[place] != "A" else "B"
        browser.cookies["admin_token"] = value[:place] + other + value[place + 1 :]
        assert not browser.is_signed_in()
    browser.cookies["admin_token"] = value
    assert browser.is_signed_in()


def test_a_cookie_of_another_kind_is_no_session(console: Console, good: GoodProvider) -> None:
    browser = signed_in(console, good)
    browser.begin()
    browser.cookies["admin_token"] = browser.cookies["admin_sign_in"]
    assert not browser.is_signed_in()


def test_a_bearer_token_is_no_session_and_a_session_no_bearer_token(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    browser, email = console.browser(), staff_address()
    signed_in(console, good, email)
    browser.cookies["admin_token"] = token_of(module_database, email)
    assert not browser.is_signed_in()
    cookie = signed_in(console, good).cookies["admin_token"]
    assert_refused(bearer(console, cookie), "Invalid or expired token", 401)


def test_a_session_ends_after_24_hours(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    email = staff_address()
    browser = signed_in(console, good, email)
    left = module_database.value(
        "SELECT s.expires_at - clock_timestamp() FROM billing_data.admin_sessions AS s"
        " JOIN billing_data.admin_users AS u ON u.id = s.admin_user_id WHERE u.email = %s",
        email,
    )
    assert timedelta(hours=23, minutes=59) < left <= timedelta(hours=24)
    module_database.execute(
        "UPDATE billing_data.admin_sessions AS s"
        " SET expires_at = s.expires_at - interval '24 hours'"
        " FROM billing_data.admin_users AS u WHERE u.id = s.admin_user_id AND u.email = %s",
        email,
    )
    assert not browser.is_signed_in()
    assert_refused(browser.get("/admin/oauth/user"), "Invalid or expired token", 401)
    signed_in(console, good)  # clears away what is over
    assert sessions_of(module_database, email) == 0


def test_a_session_ends_on_signing_out(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    email = staff_address()
    browser = signed_in(console, good, email)
    old = browser.cookies["admin_token"]
    response = browser.post("/admin/sign-out", {"csrf_token": browser.csrf_token()})
    assert (response.status_code, response.headers["location"]) == (
        303,
        "/admin/sign-in?signed-out",
    )
    assert "admin_token" not in browser.cookies
    assert "You are signed out." in browser.get(response.headers["location"]).text
    browser.cookies["admin_token"] = old
    assert not browser.is_signed_in()
    assert sessions_of(module_database, email) == 0
    assert (
        module_database.value(
            "SELECT count(*) FROM billing_data.admin_audit_logs AS l"
            " JOIN billing_data.admin_users AS u ON u.id = l.admin_user_id"
            " WHERE u.email = %s AND l.action = 'admin.sign_out'",
            email,
        )
        == 1
    )


def test_a_session_ends_on_logging_out_by_a_call(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    email = staff_address()
    browser = signed_in(console, good, email)
    old = browser.cookies["admin_token"]
    response = browser.post("/admin/oauth/logout")
    assert response.status_code == 200
    assert response.json() == {"message": "Logged out successfully"}
    assert re.match(r'admin_token="?"?;', response.headers["set-cookie"])
    assert "Max-Age=0" in response.headers["set-cookie"]
    browser.cookies["admin_token"] = old
    assert not browser.is_signed_in()
    assert sessions_of(module_database, email) == 0


def test_logging_out_needs_no_session(console: Console) -> None:
    response = console.browser().post("/admin/oauth/logout")
    assert response.status_code == 200
    assert response.json() == {"message": "Logged out successfully"}


def test_sessions_outlive_a_restart_but_not_a_change_of_the_secret(
    database: Database, good: GoodProvider
) -> None:
    with running_console(database, good.discovery_url) as console:
        browser, half_way = signed_in(console, good), console.browser()
        email = staff_address()
        good.knows(email)
        attempt = half_way.begin()
        console.process.stop()
        console.start()
        assert browser.is_signed_in()
        assert half_way.get(good.agrees(attempt, email)).status_code == 302
        assert half_way.is_signed_in()
        console.process.stop()
        console.start(ADMIN_JWT_SECRET="quite another secret of the tests Yh72bQ0")
        assert not browser.is_signed_in()
        assert not half_way.is_signed_in()


def test_whichever_worker_is_asked_knows_sign_ins_and_sessions(
    database: Database, good: GoodProvider
) -> None:
    with running_console(database, good.discovery_url, workers=2) as console:
        browsers = [signed_in(console, good) for _ in range(10)]
        for browser in browsers * 3:
            assert browser.is_signed_in()
        browsers[0].post("/admin/oauth/logout")
        for _ in range(20):
            assert not browsers[0].is_signed_in()
