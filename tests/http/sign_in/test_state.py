"""The state of a sign-in: ours, this browser's, good once and for ten minutes."""

from __future__ import annotations

import hashlib
import secrets
import threading
from datetime import timedelta

import httpx2

from tests.http.sign_in.helpers import (
    FAILED,
    STATE,
    assert_refused,
    person,
    sessions_of,
    signed_in,
    staff_address,
)
from tests.identity_provider import (
    Console,
    GoodProvider,
)
from tests.support import Database

# The state: ours, of this browser, single-use, valid for ten minutes


def test_a_forged_state_is_refused(console: Console, good: GoodProvider) -> None:
    browser = console.browser()
    attempt = browser.begin()
    for state in ("", "x", secrets.token_urlsafe(32), attempt.state[:-1], f"{attempt.state} "):
        response = browser.get("/admin/oauth/callback", params={"code": "any", "state": state})
        assert_refused(response, STATE)
    email = staff_address()
    good.knows(email)
    assert browser.get(good.agrees(attempt, email)).status_code == 302  # the true one is not spent


def test_a_state_of_another_browser_is_refused_and_stays_good_for_its_own(
    console: Console, good: GoodProvider
) -> None:
    mine, email = console.browser(), staff_address()
    good.knows(email)
    attempt = mine.begin()
    callback = good.agrees(attempt, email)
    nobody, other = console.browser(), console.browser()
    other.begin()
    for browser in (nobody, other):
        assert_refused(browser.get(callback), STATE)
        assert not browser.is_signed_in()
    assert mine.get(callback).status_code == 302
    assert mine.is_signed_in()


def test_a_callback_is_good_once(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    browser, email = console.browser(), staff_address()
    good.knows(email)
    attempt = browser.begin()
    under_way = browser.cookies["admin_sign_in"]
    callback = good.agrees(attempt, email)
    assert browser.get(callback).status_code == 302
    assert "admin_sign_in" not in browser.cookies
    assert_refused(browser.get(callback), STATE)
    thief = console.browser()
    thief.cookies["admin_sign_in"] = under_way  # also with the cookie that belongs to it
    assert_refused(thief.get(callback), STATE)
    assert sessions_of(module_database, email) == 1
    assert browser.is_signed_in()


def test_of_two_callbacks_at_once_one_is_good(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    browser, email = console.browser(), staff_address()
    good.knows(email)
    callback = good.agrees(browser.begin(), email)
    headers = {"Cookie": f"admin_sign_in={browser.cookies['admin_sign_in']}"}
    answers: list[int] = []

    def come_back() -> None:
        answers.append(httpx2.get(callback, headers=headers, verify=False).status_code)

    threads = [threading.Thread(target=come_back) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [302] + [400] * 7
    assert sessions_of(module_database, email) == 1


def test_two_tabs_sign_in_in_any_order(console: Console, good: GoodProvider) -> None:
    for order in ((0, 1), (1, 0)):
        browser, email = console.browser(), staff_address()
        good.knows(email)
        tabs = [browser.begin(), browser.begin()]
        for tab in order:
            assert browser.get(good.agrees(tabs[tab], email)).status_code == 302
            assert browser.is_signed_in()
        assert "admin_sign_in" not in browser.cookies


def test_many_tabs_keep_the_cookie_short_enough_for_a_browser(
    console: Console, good: GoodProvider
) -> None:
    browser, email = console.browser(), staff_address()
    good.knows(email)
    page = "/admin/accounts?search=" + "x" * 900
    for _ in range(12):
        last = browser.begin(page)
        assert len(browser.set_cookies["admin_sign_in"]) < 4096
    answer = browser.get(good.agrees(last, email))
    assert (answer.status_code, answer.headers["location"]) == (302, page)


def test_the_back_button_to_a_used_callback_leads_whoever_is_signed_in_on(
    console: Console, good: GoodProvider
) -> None:
    browser, email = console.browser(), staff_address()
    good.knows(email)
    callback = good.agrees(browser.begin(), email)
    assert browser.get(callback).status_code == 302
    html = {"Accept": "text/html,application/xhtml+xml"}
    again = browser.get(callback, headers=html)
    assert (again.status_code, again.headers["location"]) == (302, "/admin")
    stranger = console.browser().get(callback, headers=html)
    assert stranger.status_code == 400
    assert stranger.headers["content-type"].startswith("text/html")
    assert_refused(browser.get(callback), STATE)  # scripts get the same answer as before


def test_cookies_of_other_services_do_not_break_a_page(
    console: Console, good: GoodProvider
) -> None:
    browser = signed_in(console, good)
    for kilobytes in (9, 30, 60):
        browser.cookies["theirs"] = "x" * kilobytes * 1000
        page = browser.get("/admin")
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")


def test_a_code_is_good_once(console: Console, good: GoodProvider) -> None:
    browser, email = console.browser(), staff_address()
    good.knows(email)
    callback = good.agrees(browser.begin(), email)
    assert browser.get(callback).status_code == 302
    thief = console.browser()
    code = httpx2.URL(callback).params["code"]
    assert_refused(thief.come_back(thief.begin(), code), f"{FAILED}Failed to exchange code: 400")
    assert not thief.is_signed_in()


def test_a_state_older_than_ten_minutes_is_refused(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    browser, email = console.browser(), staff_address()
    good.knows(email)
    attempt = browser.begin()
    digest = hashlib.sha256(attempt.state.encode()).digest()
    left = module_database.value(
        "SELECT expires_at - clock_timestamp() FROM billing_data.sign_in_tickets"
        " WHERE ticket_hash = %s",
        digest,
    )
    assert timedelta(minutes=9, seconds=50) < left <= timedelta(minutes=10)
    assert "Max-Age=600" in browser.set_cookies["admin_sign_in"]
    module_database.execute(
        "UPDATE billing_data.sign_in_tickets SET expires_at = expires_at - interval '10 minutes'"
        " WHERE ticket_hash = %s",
        digest,
    )
    assert_refused(browser.get(good.agrees(attempt, email)), STATE)
    assert person(module_database, email) == {}


def test_the_database_knows_states_and_sessions_by_their_hash_only(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    browser = signed_in(console, good)
    attempt = browser.begin()
    for table in ("sign_in_tickets", "admin_sessions"):
        rows = str(module_database.execute(f"SELECT t::text FROM billing_data.{table} AS t"))
        assert attempt.state not in rows
        assert attempt.state.encode().hex() not in rows
