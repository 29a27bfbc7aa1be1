"""Signing in, as people do it, and where it leads."""

from __future__ import annotations

import re
from typing import Any

import httpx2
import pytest

from tests.http.sign_in.helpers import (
    FAILED,
    assert_refused,
    person,
    set_person,
    signed_in,
    staff_address,
)
from tests.identity_provider import (
    CLIENT_ID,
    FOUNDER,
    Attempt,
    Console,
    GoodProvider,
    running_console,
)
from tests.support import Database

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


# There must be another administrator, because the last one cannot be changed.
@pytest.mark.usefixtures("founder")
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
    # A person who is no longer an administrator does not become one by signing in.
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
