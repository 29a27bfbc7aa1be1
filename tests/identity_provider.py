"""Helpers for tests of signing in: `ciris-billing serve` as a console, browsers that keep their own
cookies, a real OpenID provider (oidc-provider-mock) for the good cases, and a lying provider of our
own for what a good provider never does."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import secrets
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import httpx2
import orjson
from cryptography.fernet import Fernet
from joserfc import jwt
from joserfc.jwk import KeySet, OctKey, RSAKey

from server.encryption import derived_key
from tests.support import (
    Database,
    Process,
    free_port,
    wait_for,
    wait_until_healthy,
    worker_pids,
)

TREE = Path(__file__).resolve().parent.parent
JWT_SECRET = "a secret of the tests only 8bY2qLxWm4 and long enough for any HMAC"
CLIENT_ID = "console-of-the-tests"
CLIENT_SECRET = "what only the provider and the console know"
FOUNDER = "founder@ciris.ai"


# The console


@dataclass
class Console:
    """A running `serve` that staff can sign in to. It can be stopped and started again."""

    database: Database
    base_url: str
    port: int
    workers: int
    environment: Mapping[str, str]
    process: Process = field(init=False)

    def start(self, **environment: str) -> Console:
        self.process = Process(
            [
                *(sys.executable, "-m", "server", "serve"),
                *("--port", str(self.port), "--workers", str(self.workers)),
            ],
            {**self.environment, "PYTHONPATH": str(TREE), **environment},
            cwd=TREE,
        ).start()
        wait_until_healthy(self.base_url, self.process)
        wait_for(lambda: len(worker_pids(self.process)) >= self.workers, "all workers")
        return self

    def browser(self) -> Browser:
        """A browser that nobody has used, with an address of its own, because attempts to sign in
        are counted by address."""
        return Browser(self.base_url)


@contextlib.contextmanager
def running_console(
    database: Database, discovery_url: str, *, workers: int = 1, **environment: str
) -> Iterator[Console]:
    """`serve` with the console open, on a port whose URL is its public address."""
    database.execute(
        "SELECT billing.seed_founders(p_emails => %s)",
        ["other-founder@ciris.ai", FOUNDER.upper()],
        user="t_dba",
    )
    port = free_port()
    base_url = f"http://127.0.0.1:{port}"
    console = Console(
        database,
        base_url,
        port,
        workers,
        {
            "DATABASE_URL": database.dsn("t_web"),
            "ADMIN_JWT_SECRET": JWT_SECRET,
            "GOOGLE_CLIENT_ID": CLIENT_ID,
            "GOOGLE_CLIENT_SECRET": CLIENT_SECRET,
            "PUBLIC_BASE_URL": base_url,
            "OIDC_DISCOVERY_URL": discovery_url,
            "ACCESS_LOG_SAMPLE": "1",
            **environment,
        },
    ).start()
    try:
        yield console
    finally:
        console.process.stop()


class Browser:
    """A browser. It keeps cookies whatever their attributes (there is no TLS here, and httpx2 would
    not send Secure cookies), follows no redirect by itself, and records every URL it was sent to.
    """

    def __init__(self, base_url: str, address: str | None = None) -> None:
        # Every address in 127/8 is this machine, so each browser can have an address of its own.
        self.address = address or f"127.{secrets.randbelow(200) + 1}.{secrets.randbelow(256)}.7"
        self.base_url = base_url
        self.headers: dict[str, str] = {}
        self.cookies: dict[str, str] = {}
        self.set_cookies: dict[str, str] = {}
        self.sent_to: list[str] = []

    def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        headers = self.headers | dict(options.pop("headers", {}))
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        # A new connection for each request, so that any worker may take it.
        with httpx2.Client(
            transport=httpx2.HTTPTransport(local_address=self.address, verify=False), timeout=30
        ) as client:
            response = client.request(method, self._url(path), headers=headers, **options)
        for line in response.headers.get_list("set-cookie"):
            name, _, rest = line.partition("=")
            value = rest.partition(";")[0].strip('"')
            self.set_cookies[name] = line
            self.cookies[name] = value
            if not value:
                del self.cookies[name]
        if "location" in response.headers:
            self.sent_to.append(response.headers["location"])
        return response

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, form: Mapping[str, Any] | None = None) -> httpx2.Response:
        return self.request("POST", path, data=form or {})

    def _url(self, path: str) -> str:
        return path if path.startswith("http") else f"{self.base_url}{path}"

    # What people do

    def begin(self, target: str | None = None) -> Attempt:
        """Follows the link of the sign-in page. The attempt is what the provider is asked."""
        query = f"?{urlencode({'redirect_uri': target})}" if target else ""
        response = self.get(f"/admin/oauth/login{query}")
        assert response.status_code == 302, response.text
        return Attempt.of(response.headers["location"])

    def come_back(self, attempt: Attempt, code: str = "any") -> httpx2.Response:
        """Returns from the provider with a code."""
        query = urlencode({"code": code, "state": attempt.state})
        return self.get(f"/admin/oauth/callback?{query}")

    def csrf_token(self) -> str:
        """The token in this session's forms."""
        match = re.search(r'name="csrf_token" value="([^"]+)"', self.get("/admin").text)
        assert match is not None
        return match[1]

    def is_signed_in(self) -> bool:
        response = self.get("/admin")
        if response.status_code == 200:
            return True
        assert response.status_code == 303
        assert response.headers["location"] == "/admin/sign-in?next=%2Fadmin"
        return False

    def user(self) -> Any:
        """What /admin/oauth/user answers about the signed-in person."""
        response = self.get("/admin/oauth/user")
        assert response.status_code == 200, response.text
        return response.json()


@dataclass(frozen=True)
class Attempt:
    """The request of our sign-in to the provider."""

    url: str
    query: Mapping[str, str]

    @classmethod
    def of(cls, url: str) -> Attempt:
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        return cls(url, query)

    @property
    def state(self) -> str:
        return self.query["state"]


# The provider that follows the standard


@dataclass
class GoodProvider:
    """oidc-provider-mock as a process."""

    url: str

    @property
    def discovery_url(self) -> str:
        return f"{self.url}/.well-known/openid-configuration"

    def knows(self, subject: str, **claims: Any) -> None:
        """Sets who somebody is from now on; the e-mail address counts as verified."""
        claims = {"email": subject, "email_verified": True, **claims}
        httpx2.put(
            f"{self.url}/users/{quote(subject, safe='')}", json=claims, verify=False
        ).raise_for_status()

    def agrees(self, attempt: Attempt, subject: str) -> str:
        """Somebody signs in at the provider. Returns the URL it sends their browser to."""
        response = httpx2.post(attempt.url, data={"sub": subject}, verify=False)
        assert response.status_code == 302, response.text
        return str(response.headers["location"])

    def refuses(self, attempt: Attempt) -> str:
        """Somebody declines at the provider. Returns the URL it sends their browser to."""
        response = httpx2.post(attempt.url, data={"action": "deny"}, verify=False)
        assert response.status_code == 302, response.text
        return str(response.headers["location"])

    def sign_in(
        self, browser: Browser, subject: str, target: str | None = None, **claims: Any
    ) -> httpx2.Response:
        """Signs in from beginning to end. Returns our answer to the provider's redirect."""
        self.knows(subject, **claims)
        return browser.get(self.agrees(browser.begin(target), subject))


@contextlib.contextmanager
def good_provider() -> Iterator[GoodProvider]:
    """oidc-provider-mock on a free port; it requires a nonce."""
    port = free_port()
    process = Process(
        [sys.executable, "-m", "oidc_provider_mock", "--port", str(port), "--require-nonce", "true"]
    ).start()
    provider = GoodProvider(f"http://127.0.0.1:{port}")

    def answers() -> bool:
        assert process.process.poll() is None, process.output
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(provider.discovery_url, verify=False).status_code == 200
        return False

    try:
        wait_for(answers, "the identity provider")
        yield provider
    finally:
        process.stop()


# The provider that lies


class HostileProvider:
    """An OpenID provider that answers as the test says. `lies` are claims that replace the honest
    ones; None leaves a claim out."""

    def __init__(self) -> None:
        self.keys = {"own": RSAKey.generate_key(2048, {"kid": "1", "use": "sig"})}
        self.stranger = RSAKey.generate_key(2048, {"kid": "1", "use": "sig"})
        self.released = threading.Event()
        self.asked = threading.Event()
        self.honest()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/jwks":
                    keys = KeySet(list(provider.keys.values()))
                    self.answer(200, orjson.dumps(keys.as_dict(private=False)))
                else:
                    self.answer(*provider.discovery)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                provider.token_request = {
                    "authorization": self.headers.get("Authorization"),
                    **{name: values[0] for name, values in parse_qs(body).items()},
                }
                provider.asked.set()
                if provider.hangs:
                    provider.released.wait(30)
                self.answer(*provider.token_answer())

            def answer(self, status: int, body: bytes) -> None:
                # A client that has closed its connection gets no answer.
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.discovery: tuple[int, bytes] = (200, orjson.dumps(self.document()))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def discovery_url(self) -> str:
        return f"{self.url}/.well-known/openid-configuration"

    def document(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
            "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
        }

    def honest(self) -> None:
        """Removes all lies."""
        self.lies: dict[str, Any] = {}
        self.signing = "RS256"
        self.nonce = ""
        self.raw_answer: tuple[int, bytes] | None = None
        self.answer_lies: dict[str, Any] = {}
        self.hangs = False
        self.token_request: dict[str, Any] = {}
        self.asked.clear()

    def token_answer(self) -> tuple[int, bytes]:
        if self.raw_answer is not None:
            return self.raw_answer
        answer = {
            "access_token": "an access token",
            "token_type": "Bearer",
            "expires_in": 3600,
            "id_token": self.id_token(),
            **self.answer_lies,
        }
        return 200, orjson.dumps({key: value for key, value in answer.items() if value is not None})

    def id_token(self) -> str:
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": CLIENT_ID,
            "sub": "subject-1",
            "iat": now,
            "exp": now + 3600,
            "nonce": self.nonce,
            "email": "lied-about@ciris.ai",
            "email_verified": True,
            "hd": "ciris.ai",
            **self.lies,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        own = self.keys["own"]
        header: dict[str, Any] = {"alg": "RS256", "kid": str(own.kid)}
        key: RSAKey | OctKey
        match self.signing:
            case "none":
                head = _encoded(orjson.dumps({"alg": "none", "kid": own.kid}))
                return f"{head}.{_encoded(orjson.dumps(claims))}."
            case "HS256":  # signed with the public key, which everybody knows
                header["alg"], key = "HS256", OctKey.import_key(self._public_key_as_secret())
            case "HS256 by the client's secret":
                header["alg"], key = "HS256", OctKey.import_key(CLIENT_SECRET)
            case "a stranger's key":
                key = self.stranger
            case "a stranger's key in the header":
                header, key = {"alg": "RS256", "jwk": _public(self.stranger)}, self.stranger
            case _:
                key = own
        token = jwt.encode(header, claims, key)
        if self.signing == "a changed claim":
            head, _, signature = token.split(".")
            claims["email"] = FOUNDER
            token = f"{head}.{_encoded(orjson.dumps(claims))}.{signature}"
        return token

    def _public_key_as_secret(self) -> str:
        return _encoded(self.keys["own"].as_der(private=False))

    def verifies(self, attempt: Attempt) -> bool:
        """Whether the code was redeemed by the client that asked for it (PKCE)."""
        digest = hashlib.sha256(self.token_request["code_verifier"].encode()).digest()
        return _encoded(digest) == attempt.query["code_challenge"]

    def sign_in(self, browser: Browser, target: str | None = None) -> httpx2.Response:
        """Signs in from beginning to end. Returns our answer to the provider's redirect."""
        attempt = browser.begin(target)
        self.nonce = attempt.query["nonce"]
        return browser.come_back(attempt)

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def hostile_provider() -> Iterator[HostileProvider]:
    """A provider that lies when a test says so."""
    provider = HostileProvider()
    try:
        yield provider
    finally:
        provider.close()


def _public(key: RSAKey) -> dict[str, Any]:
    return dict(key.as_dict(private=False))


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def browser_cookie(database: Database, secret: str, email: str, subject: str) -> str:
    """The cookie of a browser in which this member of staff has signed in, at a server with this
    ADMIN_JWT_SECRET."""
    session_id = secrets.token_urlsafe(32)
    database.execute(
        "SELECT s.email FROM billing.sign_in_admin(p_email => %s, p_google_id => %s,"
        " p_session_hash => %s) AS s",
        email,
        subject,
        hashlib.sha256(session_id.encode()).digest(),
        user="t_web",
    )
    content = {"created": int(time.time()), "session": {"id": session_id, "csrf": "token"}}
    cipher = Fernet(derived_key(secret, "cookie admin_token"))
    return f"admin_token={cipher.encrypt(json.dumps(content).encode()).decode()}"
