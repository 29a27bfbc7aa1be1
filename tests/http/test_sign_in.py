"""Signing in to the console (contract 4, 8.11, 8.18): whom the provider vouches for, what it may
not get away with, what a browser's session and a script's token are worth, and for how long."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx2
import jwt
import orjson
import pytest
from joserfc.jwk import RSAKey

from server.http.route import OPEN_PAGE, PAGE
from server.routes import ROUTES
from tests.identity_provider import (
    CLIENT_ID,
    CLIENT_SECRET,
    FOUNDER,
    JWT_SECRET,
    TREE,
    Attempt,
    Browser,
    Console,
    GoodProvider,
    HostileProvider,
    good_provider,
    hostile_provider,
    running_console,
)
from tests.support import Database, clean_environment, free_port, unique

FAILED = "OAuth authentication failed: "
STATE = f"{FAILED}Invalid OAuth state"
USER_INFORMATION = f"{FAILED}Failed to get user information"
ELSEWHERE = [
    "//evil.example",
    "//evil.example/admin",
    "///evil.example",
    "////evil.example/admin",
    "https://evil.example",
    "https://evil.example/admin",
    "http:evil.example",
    "http:///evil.example/admin",
    "HTTPS://evil.example",
    "\\evil.example",
    "/\\evil.example",
    "/\\/evil.example/admin",
    "\\\\evil.example/admin",
    "/admin\\..\\..\\evil",
    "javascript:alert(1)",
    "javascript://127.0.0.1/admin",
    "data:text/html,evil",
    "%2F%2Fevil.example",
    "%2f%2fevil.example/admin",
    "/%2Fevil.example",
    "/%5Cevil.example",
    "/%09/evil.example",
    "/\t/evil.example",
    "\t//evil.example",
    " //evil.example",
    "/admin/\r\nLocation: https://evil.example",
    "{base}.evil.example/admin",
    "{base}@evil.example/admin",
    "{base}:80@evil.example/admin",
    "{base}",
    "{base}/",
    "{base}/docs",
    "{base}\\@evil.example/admin",
    "http://127.0.0.1/admin",
    "http://localhost:8000/admin",
    "http://[",
    "//[",
    "http://evil\u2100.example/admin",
    "",
    "/",
    "/docs",
    "/administer",
    "/admin.evil.example",
    "/admin@evil.example",
    "/admin;//evil.example",
    "/admin/../docs",
    "/admin/../../evil.example",
    "/admin/./../docs",
    "/admin/%2e%2e/docs",
    "/admin/%2E./docs",
    "/admin/..",
    "admin",
    "?next=/admin",
    "/admin/" + "long" * 1000,
]
AT_HOME = {
    "/admin": "/admin",
    "/admin/audit?who=ada%40ciris.ai&page=2": "/admin/audit?who=ada%40ciris.ai&page=2",
    "/admin/accounts?search=//evil.example": "/admin/accounts?search=//evil.example",
    "/admin/staff/a..b": "/admin/staff/a..b",
    "{base}/admin": "/admin",
    "{base}/admin/keys?status=active": "/admin/keys?status=active",
}


def staff_address(name: str = "ada") -> str:
    return f"{unique(name)}@ciris.ai"


def assert_refused(response: httpx2.Response, detail: str, status: int = 400) -> None:
    assert (response.status_code, response.json()["detail"]) == (status, detail)
    assert response.headers["content-type"] == "application/json"
    assert "location" not in response.headers


@pytest.fixture(scope="module")
def good() -> Iterator[GoodProvider]:
    """oidc-provider-mock."""
    with good_provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def console(module_database: Database, good: GoodProvider) -> Iterator[Console]:
    """Our server, signing in by the good provider."""
    with running_console(module_database, good.discovery_url) as console:
        yield console


@pytest.fixture(scope="module")
def lying_provider() -> Iterator[HostileProvider]:
    with hostile_provider() as provider:
        yield provider


@pytest.fixture
def hostile(lying_provider: HostileProvider) -> HostileProvider:
    """A provider that lies when told to; honest at first."""
    lying_provider.honest()
    return lying_provider


@pytest.fixture(scope="module")
def misled(module_database: Database, lying_provider: HostileProvider) -> Iterator[Console]:
    """Our server, signing in by the provider that lies."""
    with running_console(module_database, lying_provider.discovery_url) as console:
        yield console


@pytest.fixture(scope="module")
def founder(console: Console, good: GoodProvider) -> Browser:
    """A browser in which an administrator has signed in."""
    return signed_in(console, good, FOUNDER)


def signed_in(console: Console, good: GoodProvider, email: str | None = None) -> Browser:
    """A browser in which somebody, by default a new viewer, has signed in."""
    browser = console.browser()
    assert good.sign_in(browser, email or staff_address()).status_code == 302
    return browser


def person(database: Database, email: str) -> dict[str, Any]:
    """What is known of somebody."""
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


# Signing in


def test_the_login_sends_the_browser_to_the_provider_as_the_contract_says(
    console: Console, good: GoodProvider
) -> None:
    browser = console.browser()
    response = browser.get("/admin/oauth/login")
    assert response.status_code == 302
    assert "no-store" in response.headers["cache-control"]
    attempt = Attempt.of(response.headers["location"])
    assert attempt.url.startswith(f"{good.url}/oauth2/authorize?")
    query = dict(attempt.query)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", query.pop("state"))
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", query.pop("nonce"))
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", query.pop("code_challenge"))
    assert query == {
        "client_id": CLIENT_ID,
        "redirect_uri": f"{console.base_url}/admin/oauth/callback",
        "response_type": "code",
        "scope": "openid email profile",
        "access_type": "offline",
        "prompt": "select_account",
        "hd": "ciris.ai",
        "code_challenge_method": "S256",
    }


def test_no_header_of_the_request_says_where_we_are(console: Console) -> None:
    response = console.browser().get(
        "/admin/oauth/login",
        headers={
            "Host": "evil.example",
            "X-Forwarded-Host": "evil.example",
            "X-Forwarded-Proto": "https",
        },
    )
    attempt = Attempt.of(response.headers["location"])
    assert attempt.query["redirect_uri"] == f"{console.base_url}/admin/oauth/callback"


def test_each_sign_in_has_secrets_of_its_own(console: Console) -> None:
    attempts = [console.browser().begin() for _ in range(5)]
    for name in ("state", "nonce", "code_challenge"):
        assert len({attempt.query[name] for attempt in attempts}) == 5


def test_a_founder_becomes_an_administrator_and_anybody_else_a_viewer_even_if_first(
    cluster: Any, good: GoodProvider
) -> None:
    email = staff_address()
    with cluster.database() as database, running_console(database, good.discovery_url) as console:
        first = console.browser()
        response = good.sign_in(first, email)
        assert (response.status_code, response.headers["location"]) == (302, "/admin")
        assert first.is_signed_in()
        assert first.user() == {
            "id": str(person(database, email)["id"]),
            "email": email,
            "name": email.partition("@")[0],
            "picture": None,
            "role": "viewer",
        }
        assert database.execute(
            "SELECT action, reason FROM billing_data.admin_audit_logs"
            " WHERE resource_id <> ALL (SELECT u.id::text FROM billing_data.admin_users AS u"
            " WHERE u.role = 'admin') ORDER BY action"
        ) == [("admin.add", "first sign-in"), ("admin.sign_in", None)]
        founder = console.browser()
        picture = "https://pictures.example/fay"
        good.sign_in(founder, FOUNDER, name="Fay Founder", picture=picture)
        assert founder.user() == {
            "id": str(person(database, FOUNDER)["id"]),
            "email": FOUNDER,
            "name": "Fay Founder",
            "picture": picture,
            "role": "admin",
        }


@pytest.mark.usefixtures("founder")  # the last administrator must stay one
def test_a_known_person_keeps_the_role_and_name_and_picture_are_refreshed(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    email = staff_address()
    signed_in(console, good, email)
    set_person(module_database, email, role="admin")
    before = person(module_database, email)
    browser = console.browser()
    good.sign_in(browser, email, name="Ada Lovelace", picture="https://pictures.example/ada")
    after = person(module_database, email)
    assert (after["id"], after["role"]) == (before["id"], "admin")
    assert after["full_name"] == "Ada Lovelace"
    assert after["picture_url"] == "https://pictures.example/ada"
    assert after["google_id"] == email  # the provider's subject
    assert after["last_login_at"] > before["last_login_at"]
    assert browser.user()["name"] == "Ada Lovelace"
    # One who is no longer a founder's equal is not made one by signing in.
    set_person(module_database, email, role="viewer")
    assert browser.user()["role"] == "viewer"


@pytest.mark.usefixtures("founder")
def test_a_founder_who_was_made_a_viewer_stays_one(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    other = "other-founder@ciris.ai"
    browser = signed_in(console, good, other)
    assert browser.user()["role"] == "admin"
    set_person(module_database, other, role="viewer")
    assert signed_in(console, good, other).user()["role"] == "viewer"


def test_letters_of_an_address_in_any_case_are_one_person(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    email = staff_address()
    signed_in(console, good, email)
    browser = console.browser()
    good.sign_in(browser, "another subject", email=email.upper())
    assert browser.user()["email"] == email
    assert browser.user()["id"] == str(person(module_database, email)["id"])


def test_the_browser_comes_back_to_the_page_it_asked_for(
    console: Console, good: GoodProvider
) -> None:
    for target, path in AT_HOME.items():
        browser = console.browser()
        response = good.sign_in(
            browser, staff_address(), target.replace("{base}", console.base_url)
        )
        assert response.headers["location"] == path


def test_somebody_signed_out_is_led_to_the_sign_in_page_and_back(
    console: Console, good: GoodProvider
) -> None:
    browser = console.browser()
    response = browser.get("/admin/audit?who=ada%40ciris.ai")
    assert response.status_code == 303
    page = browser.get(response.headers["location"])
    link = re.search(r'href="(/admin/oauth/login[^"]*)"', page.text)
    assert link is not None
    attempt = Attempt.of(browser.get(link[1].replace("&amp;", "&")).headers["location"])
    email = staff_address()
    good.knows(email)
    back = browser.get(good.agrees(attempt, email))
    assert back.headers["location"] == "/admin/audit?who=ada%40ciris.ai"
    assert browser.get(back.headers["location"]).status_code == 200


def test_no_address_of_ours_holds_a_token_or_code_after_signing_in(
    console: Console, good: GoodProvider
) -> None:
    browser = signed_in(console, good)
    ours = [url for url in browser.sent_to if not url.startswith(good.url)]
    assert ours == ["/admin"]
    session = browser.cookies["admin_token"]
    assert session not in browser.get("/admin").text
    assert session not in browser.get("/admin/oauth/user").text


def test_whoever_declines_at_the_provider_is_told_so(console: Console, good: GoodProvider) -> None:
    browser = console.browser()
    attempt = browser.begin()
    where = httpx2.URL(good.refuses(attempt)).copy_merge_params({"state": attempt.state})
    assert_refused(browser.get(str(where)), f"{FAILED}The identity provider did not sign you in")
    assert not browser.is_signed_in()


def test_a_callback_without_code_or_state_is_a_validation_error(console: Console) -> None:
    def missing(name: str) -> dict[str, Any]:
        return {"type": "missing", "loc": ["query", name], "msg": "Field required", "input": None}

    for query, names in (("", ["code", "state"]), ("?code=x", ["state"]), ("?state=x", ["code"])):
        response = console.browser().get(f"/admin/oauth/callback{query}")
        assert response.status_code == 422
        assert response.json()["detail"] == [missing(name) for name in names]


# Open redirects


def test_the_way_back_leads_nowhere_but_to_our_own_pages(
    database: Database, good: GoodProvider
) -> None:
    with running_console(database, good.discovery_url) as console:  # many attempts, so its own
        for template in ELSEWHERE:
            browser, target = console.browser(), template.replace("{base}", console.base_url)
            response = browser.get("/admin/oauth/login", params={"redirect_uri": target})
            assert response.status_code == 400, target
            assert response.json()["detail"] == "redirect_uri must be a page of this console"
            assert browser.cookies == {}


def test_the_sign_in_page_links_nowhere_but_to_our_own_pages(
    console: Console, good: GoodProvider
) -> None:
    stranger, member = console.browser(), signed_in(console, good)
    for template in ELSEWHERE:
        target = template.replace("{base}", console.base_url)
        page = stranger.get("/admin/sign-in", params={"next": target})
        assert page.status_code == 200, target
        assert 'href="/admin/oauth/login?redirect_uri=%2Fadmin"' in page.text
        assert "evil" not in page.text
        onwards = member.get("/admin/sign-in", params={"next": target})
        assert (onwards.status_code, onwards.headers["location"]) == (303, "/admin"), target
    for target, path in AT_HOME.items():
        onwards = member.get(
            "/admin/sign-in", params={"next": target.replace("{base}", console.base_url)}
        )
        assert onwards.headers["location"] == path


def test_a_domain_that_was_set_with_capitals_lets_its_people_in(
    database: Database, good: GoodProvider
) -> None:
    domain = database.value(
        "SELECT billing.set_admin_domain(p_domain => 'CIRIS.Ai', p_reason => 'a test')",
        user="t_dba",
    )
    assert domain == "ciris.ai"
    with running_console(database, good.discovery_url) as console:
        for email in (staff_address(), staff_address().replace("ciris.ai", "Ciris.AI")):
            good.knows(email)
            browser = console.browser()
            assert browser.get(good.agrees(browser.begin(), email)).status_code == 302
            assert browser.is_signed_in()


# State: ours, this browser's, once, ten minutes


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
    thief.cookies["admin_sign_in"] = under_way  # also with the cookie that went with it
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
    assert_refused(browser.get(callback), STATE)  # scripts are told as before


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


# What the provider says


def test_an_honest_answer_of_the_provider_that_lies_is_believed(
    misled: Console, hostile: HostileProvider
) -> None:
    """What makes the refusals below mean something."""
    browser = misled.browser()
    attempt = browser.begin()
    hostile.nonce = attempt.query["nonce"]
    response = browser.come_back(attempt, "the code")
    assert (response.status_code, response.headers["location"]) == (302, "/admin")
    assert browser.user()["email"] == "lied-about@ciris.ai"
    assert hostile.verifies(attempt)  # PKCE
    request = hostile.token_request
    assert request["code"] == "the code"
    assert request["grant_type"] == "authorization_code"
    assert request["redirect_uri"] == f"{misled.base_url}/admin/oauth/callback"
    basic = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".replace(" ", "%20").encode()).decode()
    raw = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
    assert request["authorization"] in (f"Basic {basic}", f"Basic {raw}")


HOUR = 3600
Lie = Callable[[HostileProvider], None]


def claims(**lies: Any) -> Lie:
    return lambda provider: provider.lies.update(lies)


def signing(how: str) -> Lie:
    return lambda provider: setattr(provider, "signing", how)


def answer(**lies: Any) -> Lie:
    return lambda provider: provider.answer_lies.update(lies)


def raw_answer(status: int, body: bytes) -> Lie:
    return lambda provider: setattr(provider, "raw_answer", (status, body))


LIES: dict[str, tuple[Lie, str]] = {
    "a wrong nonce": (claims(nonce="another"), USER_INFORMATION),
    "no nonce": (claims(nonce=None), USER_INFORMATION),
    "an empty nonce": (claims(nonce=""), USER_INFORMATION),
    "an expired token": (
        claims(iat=int(time.time()) - 2 * HOUR, exp=int(time.time()) - HOUR),
        USER_INFORMATION,
    ),
    "a token without an end": (claims(exp=None), USER_INFORMATION),
    "a token of the future": (claims(iat=int(time.time()) + HOUR), USER_INFORMATION),
    "alg none": (signing("none"), USER_INFORMATION),
    "HS256 with the public key": (signing("HS256"), USER_INFORMATION),
    "HS256 with our secret": (signing("HS256 by the client's secret"), USER_INFORMATION),
    "another key": (signing("a stranger's key"), USER_INFORMATION),
    "a key it brings itself": (signing("a stranger's key in the header"), USER_INFORMATION),
    "a claim changed after signing": (signing("a changed claim"), USER_INFORMATION),
    "another audience": (claims(aud="somebody-else"), USER_INFORMATION),
    "no audience": (claims(aud=None), USER_INFORMATION),
    "another authorized party": (
        claims(aud=[CLIENT_ID, "somebody-else"], azp="somebody-else"),
        USER_INFORMATION,
    ),
    "another issuer": (claims(iss="https://accounts.google.com"), USER_INFORMATION),
    "no issuer": (claims(iss=None), USER_INFORMATION),
    "no subject": (claims(sub=None), USER_INFORMATION),
    "another access token's hash": (claims(at_hash="bm90IHRoaXMgb25l"), USER_INFORMATION),
    "no id_token": (answer(id_token=None), USER_INFORMATION),
    "an id_token that is a number": (answer(id_token=5), USER_INFORMATION),
    "an id_token that is a list": (answer(id_token=["x"]), USER_INFORMATION),
    "an id_token that is empty": (answer(id_token=""), USER_INFORMATION),
    "an id_token that is none": (answer(id_token="a.b.c"), USER_INFORMATION),
    "an unverified address": (
        claims(email_verified=False),
        f"{FAILED}The e-mail address is not verified",
    ),
    "an address nobody speaks of": (
        claims(email_verified=None),
        f"{FAILED}The e-mail address is not verified",
    ),
    "a foreign domain": (
        claims(email="eve@evil.example", hd=None),
        f"{FAILED}Only @ciris.ai emails are allowed. Got: eve@evil.example",
    ),
    "a domain that ends like ours": (
        claims(email="eve@evil-ciris.ai"),
        f"{FAILED}Only @ciris.ai emails are allowed. Got: eve@evil-ciris.ai",
    ),
    "a domain that begins like ours": (
        claims(email="eve@ciris.ai.evil.example"),
        f"{FAILED}Only @ciris.ai emails are allowed. Got: eve@ciris.ai.evil.example",
    ),
    "an address with two domains": (
        claims(email="eve@ciris.ai@evil.example"),
        f"{FAILED}Only @ciris.ai emails are allowed. Got: eve@ciris.ai@evil.example",
    ),
    "an organisation that is not ours": (
        claims(hd="evil.example"),
        f"{FAILED}Only @ciris.ai emails are allowed. Got: lied-about@ciris.ai",
    ),
    "a code it does not take": (
        raw_answer(400, b'{"error": "invalid_grant"}'),
        f"{FAILED}Failed to exchange code: 400",
    ),
    "a client it does not know": (
        raw_answer(401, b'{"error": "invalid_client"}'),
        f"{FAILED}Failed to exchange code: 401",
    ),
    "a failure of its own": (
        raw_answer(500, b"<h1>oops</h1>"),
        f"{FAILED}Failed to exchange code: 500",
    ),
    "nothing to read": (raw_answer(200, b""), f"{FAILED}Failed to exchange authorization code"),
    "no JSON": (raw_answer(200, b"<html>"), f"{FAILED}Failed to exchange authorization code"),
    "a JSON list": (raw_answer(200, b"[]"), f"{FAILED}Failed to exchange authorization code"),
    "a JSON null": (raw_answer(200, b"null"), f"{FAILED}Failed to exchange authorization code"),
    "a JSON number": (raw_answer(200, b"7"), f"{FAILED}Failed to exchange authorization code"),
    "an error it calls success": (
        raw_answer(200, b'{"error": "access_denied"}'),
        f"{FAILED}Failed to exchange authorization code",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_the_provider_is_not_believed(
    misled: Console, hostile: HostileProvider, module_database: Database, lie: str
) -> None:
    before = module_database.value("SELECT count(*) FROM billing_data.admin_sessions")
    tell, detail = LIES[lie]
    browser = misled.browser()
    attempt = browser.begin()
    hostile.nonce = attempt.query["nonce"]
    tell(hostile)
    response = browser.come_back(attempt)
    assert_refused(response, detail)
    assert "admin_token" not in browser.cookies
    assert not browser.is_signed_in()
    assert module_database.value("SELECT count(*) FROM billing_data.admin_sessions") == before
    hostile.honest()
    hostile.nonce = attempt.query["nonce"]
    assert_refused(browser.come_back(attempt), STATE)  # the attempt is used up by failing


def test_a_nonce_of_another_sign_in_is_refused(misled: Console, hostile: HostileProvider) -> None:
    victim, thief = misled.browser(), misled.browser()
    hostile.nonce = victim.begin().query["nonce"]
    assert_refused(thief.come_back(thief.begin()), USER_INFORMATION)


def test_names_of_any_kind_are_taken_as_text(misled: Console, hostile: HostileProvider) -> None:
    for name in ("<script>alert(1)</script>", "{{ 7 * 7 }}", "x" * 5000, "nul\0byte", 5, ["a"]):
        browser = misled.browser()
        hostile.honest()
        hostile.lies = {"name": name, "picture": "javascript:alert(1)"}
        assert hostile.sign_in(browser).status_code == 302, name
        page = browser.get("/admin/staff")
        assert "<script>alert" not in page.text
        assert "javascript:" not in page.text


def test_a_provider_that_hangs_holds_nobody_else_up(
    misled: Console, hostile: HostileProvider
) -> None:
    browser = misled.browser()
    attempt = browser.begin()
    hostile.hangs = True
    answers: list[httpx2.Response] = []
    thread = threading.Thread(target=lambda: answers.append(browser.come_back(attempt)))
    thread.start()
    assert hostile.asked.wait(10)
    started = time.monotonic()
    assert misled.browser().get("/admin/sign-in").status_code == 200
    assert httpx2.get(f"{misled.base_url}/health", verify=False).status_code == 200
    assert time.monotonic() - started < 2
    thread.join(20)  # ours gives up after ten seconds, before the provider does
    assert_refused(answers[0], "OAuth authentication error", 500)
    assert "admin_token" not in browser.cookies
    hostile.released.set()


def test_keys_that_the_provider_has_changed_are_learnt(
    misled: Console, hostile: HostileProvider
) -> None:
    assert hostile.sign_in(misled.browser()).status_code == 302
    old = hostile.keys["own"]
    hostile.keys["own"] = RSAKey.generate_key(2048, {"kid": "2", "use": "sig"})
    assert hostile.sign_in(misled.browser()).status_code == 302
    # And the old ones, withdrawn, are forgotten.
    new, hostile.keys["own"] = hostile.keys["own"], old
    browser = misled.browser()
    attempt = browser.begin()
    hostile.nonce = attempt.query["nonce"]
    token = hostile.id_token()
    hostile.keys["own"] = new
    hostile.answer_lies = {"id_token": token}
    assert_refused(browser.come_back(attempt), USER_INFORMATION)


def test_no_sign_in_begins_while_the_provider_is_not_found(database: Database) -> None:
    document = f"http://127.0.0.1:{free_port()}/.well-known/openid-configuration"
    with running_console(database, document) as console:
        browser = console.browser()
        assert_refused(browser.get("/admin/oauth/login"), "Failed to initiate OAuth login", 500)
        assert browser.cookies == {}
        assert browser.get("/admin/sign-in").status_code == 200
        assert document not in browser.get("/admin/oauth/login").text


def test_a_provider_that_is_found_again_is_used(database: Database) -> None:
    with hostile_provider() as provider:
        good_document = provider.discovery
        half = {"issuer": provider.url, "jwks_uri": f"{provider.url}/jwks"}
        bad = [
            (404, b"{}"),
            (500, b""),
            (200, b"<html>"),
            (200, b"[]"),
            (200, b"{}"),
            (200, orjson.dumps(half)),
            (200, orjson.dumps({**provider.document(), "jwks_uri": f"{provider.url}/nothing"})),
            (200, orjson.dumps({**provider.document(), "jwks_uri": "not an address"})),
        ]
        provider.discovery = bad[0]
        with running_console(database, provider.discovery_url) as console:
            browser = console.browser()
            for provider.discovery in bad:
                response = browser.get("/admin/oauth/login")
                assert_refused(response, "Failed to initiate OAuth login", 500)
            provider.discovery = good_document
            assert provider.sign_in(browser).status_code == 302
            assert browser.is_signed_in()


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


@pytest.mark.usefixtures("founder")  # the last administrator must stay one
def test_a_changed_role_counts_from_the_next_request_on(
    console: Console, good: GoodProvider, module_database: Database
) -> None:
    email = staff_address()
    browser = signed_in(console, good, email)
    assert browser.user()["role"] == "viewer"
    set_person(module_database, email, role="admin")
    # More than one came in with is given to who signs in after it was given.
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
    assert len(line) < 1024  # browsers drop cookies over 4 KB without a word
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
    assert here.cookies["admin_token"] != before  # no session is carried over a sign-in
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


# Forged requests


def admin(console: Console, good: GoodProvider) -> Browser:
    return signed_in(console, good, FOUNDER)


def keys_of(database: Database) -> int:
    return int(database.value("SELECT count(*) FROM billing_data.api_keys"))


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
    """Strangers at however many addresses do not use up what the staff may try."""
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
        # One client has 2^64 addresses of IPv6.
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
    # Nor is such a ticket a state.
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


# Bearer tokens


def billing(database: Database, *arguments: str) -> str:
    """What `ciris-billing` prints."""
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
    """Adds somebody; gives their id."""
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


def made(subject: Any, secret: str = JWT_SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """A token with any claims, None to leave one out. The database does not know it."""
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
    """A token signed by hand: libraries warn of such secrets."""
    digest = hmac.digest(secret, content.encode(), "sha256")
    return f"{content}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def bearer(console: Console, token: str, path: str = "/admin/oauth/user") -> httpx2.Response:
    return console.browser().get(path, headers={"Authorization": f"Bearer {token}"})


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
    if response.status_code == 303:  # the sign-in page has nothing for whoever is signed in
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
