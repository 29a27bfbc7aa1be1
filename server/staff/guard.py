"""The guard of staff requests. A page needs a browser session; a script's call needs a bearer token
or the session. The billing functions, which get the session's hash, decide what a staff member may
do."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID

from aiohttp import web

from server.gateway import FunctionCall, Refused, Row, functions
from server.http.app_keys import CONFIG, GATEWAY
from server.http.client_address import client_address
from server.http.errors import ApiError, known_error
from server.limits import most
from server.staff.admin_token import claims_of, hashed
from server.staff.sessions import COOKIES, BrowserSession

_BEARER = {"WWW-Authenticate": "Bearer"}
_NOT_GOOD = "Invalid or expired token"
_LONGEST_PATH = 1000  # the path travels in a cookie, and browsers drop cookies over 4 KB
Handler = Callable[[web.Request, "Visit"], Awaitable[web.StreamResponse]]


class ConsoleClosed(Exception):
    """The operator has not set up the console."""


class NotSignedIn(Exception):
    """There is no session, or it is not valid, or it has ended."""


class SessionOver(NotSignedIn):
    """The session ended while a request was carried out, which may have changed something."""


class ForgedForm(Exception):
    """A form came without the token of this session."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A staff member's request that passed the guard."""

    request: web.Request
    session_hash: bytes
    admin_user_id: UUID
    email: str
    name: str
    picture_url: str | None
    role: Literal["admin", "viewer"]
    session: BrowserSession | None

    @property
    def is_admin(self) -> bool:
        """Whether to show forms that change something; the billing functions decide again."""
        return self.role == "admin"

    async def rows(self, call: FunctionCall) -> list[Row]:
        """Calls a function in this staff member's name. Raises Refused, and SessionOver when the
        session or token has ended since the guard checked it."""
        try:
            gateway = self.request.app[GATEWAY]
            return await gateway.staff(call, self.session_hash, client_of(self.request))
        except Refused as error:
            if error.slug == "session_over":
                raise SessionOver from None
            raise

    async def row(self, call: FunctionCall) -> Row:
        """Returns the one row of a call."""
        return (await self.rows(call))[0]


def staff_page(handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Guards a page: it needs a session, and a form also needs the session's CSRF token."""

    async def page(request: web.Request) -> web.StreamResponse:
        visit = await visit_of_browser(request)
        if visit is None:
            raise NotSignedIn
        if request.method == "POST":
            await _require_token(request, visit)
        return await handler(request, visit)

    return page


def staff_api(handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Guards a call for scripts: it needs a bearer token or the browser's session. A session may
    write only for our own pages."""

    async def endpoint(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request, await visit_of_script(request))
        except NotSignedIn:
            raise _unauthorized(_NOT_GOOD) from None

    return endpoint


async def visit_of_browser(request: web.Request) -> Visit | None:
    """Returns the staff member of the browser's session; None when the session is not valid."""
    if request.app[CONFIG].staff is None:
        raise ConsoleClosed
    session = await request.app[COOKIES].session(request)
    if session is None:
        return None
    row = await request.app[GATEWAY].sign_in(functions.get_session(session_hash=session.hash))
    if row is None or not row["is_active"]:
        return None
    return _visit(request, row, session.hash, session)


async def visit_of_script(request: web.Request) -> Visit:
    """Returns who is calling, by bearer token or else by session. Raises ApiError (401, 403)."""
    config = request.app[CONFIG].staff
    if config is None:
        raise known_error("console_closed", headers={"Retry-After": "60"})
    header = request.headers.get("Authorization", "")
    if header:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _unauthorized()
        return await _visit_of_token(request, config.secret, token.strip())
    visit = await visit_of_browser(request)
    if visit is None:
        presented = "admin_token" in request.cookies
        raise _unauthorized(_NOT_GOOD if presented else None)
    if request.method not in ("GET", "HEAD") and not is_from_our_pages(request):
        raise known_error("cross_origin")
    return visit


async def require_admin(visit: Visit) -> None:
    """Refuses viewers before their input is checked, with the wording of the billing functions,
    which decide again. Raises ApiError (403)."""
    if not visit.is_admin:
        gateway = visit.request.app[GATEWAY]
        raise await gateway.refused("admin_role_required", {"role": visit.role})


def client_of(request: web.Request) -> tuple[str, str]:
    """The browser's address and name, as the audit log stores them."""
    return client_address(request) or "", _readable(request.headers.get("User-Agent", ""))[
        : most("user_agent")
    ]


def _readable(header: str) -> str:
    """A header as text, even when its bytes are not valid text."""
    return header.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def is_from_our_pages(request: web.Request) -> bool:
    """Whether the browser says that a page of ours sent the request."""
    config = request.app[CONFIG].staff
    public_url = config.public_url if config else ""
    origin = request.headers.get("Origin")
    if origin is not None:
        return hmac.compare_digest(_readable(origin).encode(), public_url.encode())
    return request.headers.get("Sec-Fetch-Site") == "same-origin"


async def _visit_of_token(request: web.Request, secret: str, token: str) -> Visit:
    """The owner of a bearer token that we signed and that the database still knows."""
    text = _readable(token)
    claims = claims_of(text, secret)
    if claims is None:
        raise _unauthorized(_NOT_GOOD)
    try:
        UUID(claims["sub"])
    except (KeyError, ValueError, TypeError, AttributeError):
        raise _unauthorized("Invalid token payload") from None
    row = await request.app[GATEWAY].sign_in(functions.get_session(session_hash=hashed(text)))
    if row is None:
        raise _unauthorized(_NOT_GOOD)
    if not row["is_active"]:
        raise known_error("admin_deactivated")
    return _visit(request, row, hashed(text), None)


def _visit(
    request: web.Request, row: Row, session_hash: bytes, session: BrowserSession | None
) -> Visit:
    return Visit(
        request,
        session_hash,
        row["admin_user_id"],
        row["email"],
        row["full_name"],
        row["picture_url"],
        row["role"],
        session,
    )


async def _require_token(request: web.Request, visit: Visit) -> None:
    try:
        form = await request.post()
    except (ValueError, LookupError):  # the body is not a form, or its character set is unknown
        raise ForgedForm from None
    presented = form.get("csrf_token")
    expected = visit.session.csrf_token if visit.session else ""
    if not isinstance(presented, str) or not expected:
        raise ForgedForm
    if not hmac.compare_digest(presented.encode(), expected.encode()):
        raise ForgedForm


def _unauthorized(detail: str | None = None) -> ApiError:
    error = known_error("not_authenticated", headers=_BEARER)
    error.detail = detail or error.detail
    return error


def local_path(request: web.Request, target: str | None) -> str | None:
    """Returns `target` as a path of our own pages. None when it leads anywhere else (contract.md
    8.18: an open redirect would hand the visitor to a stranger)."""
    config = request.app[CONFIG].staff
    if not target or config is None or len(target) > _LONGEST_PATH:
        return None
    if "\\" in target or any(ord(letter) < 33 for letter in target):
        return None
    try:
        parts = urlsplit(target)
    except ValueError:  # the target is not a URL
        return None
    is_ours = target.startswith(f"{config.public_url}/" if parts.scheme or parts.netloc else "/")
    if not is_ours or target.startswith("//") or not _is_page(parts.path):
        return None
    path = quote(parts.path, safe="/%:@-._~!$&'()*+,;=")
    return f"{path}?{parts.query}" if parts.query else path


def _is_page(path: str) -> bool:
    """Whether a path stays below /admin; browsers resolve dots, plain or percent-encoded."""
    parts = unquote(path).split("/")
    return parts[:2] == ["", "admin"] and {".", ".."}.isdisjoint(parts)
