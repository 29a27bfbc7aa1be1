"""What is believed of the identity provider, and what is not."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator

import httpx2
import orjson
import pytest
from joserfc.jwk import RSAKey

from tests.http.sign_in.helpers import (
    FAILED,
    HOUR,
    STATE,
    Lie,
    answer,
    assert_refused,
    claims,
)
from tests.identity_provider import (
    CLIENT_ID,
    CLIENT_SECRET,
    Console,
    HostileProvider,
    hostile_provider,
    running_console,
)
from tests.support import Database, free_port

USER_INFORMATION = f"{FAILED}Failed to get user information"


@pytest.fixture(scope="module")
def misled(module_database: Database, lying_provider: HostileProvider) -> Iterator[Console]:
    """Our server with the lying provider."""
    with running_console(module_database, lying_provider.discovery_url) as console:
        yield console


# What the provider says


def test_an_honest_answer_of_the_provider_that_lies_is_believed(
    misled: Console, hostile: HostileProvider
) -> None:
    """Without this, the refusals below would prove nothing."""
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


def signing(how: str) -> Lie:
    return lambda provider: setattr(provider, "signing", how)


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
    assert_refused(browser.come_back(attempt), STATE)  # the failed attempt is used up


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
    thread.join(20)  # our server gives up after ten seconds, before the provider does
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
    # The old keys, which were withdrawn, are no longer accepted.
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
