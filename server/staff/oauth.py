"""Signing in by the identity provider, under /admin/oauth (contract.md 4, changed by 8.18). A
cookie binds state, nonce and PKCE verifier to the browser. The state works once, in whichever
process, by a row in the database. Nothing but cookies is given to the visitor."""

import hmac
import logging
import secrets
from typing import Annotated, Literal
from uuid import UUID

from aiohttp import web
from typing_extensions import TypedDict

from server.config import StaffConfig
from server.gateway import Refused, functions
from server.http import fields as f
from server.http.app_keys import CONFIG, GATEWAY
from server.http.client_address import client_address
from server.http.errors import ApiError, json_response, known_error, validation_error
from server.http.example_values import STAFF_ID
from server.http.route import Example
from server.http.validation import missing
from server.staff.admin_token import hashed
from server.staff.guard import client_of, local_path, visit_of_browser, visit_of_script
from server.staff.identity_provider import (
    IDENTITY_PROVIDER,
    Person,
    ProviderUnavailable,
    SignInFailed,
)
from server.staff.limiter import LIMITER
from server.staff.sessions import COOKIES, new_session


class SignedIn(TypedDict):
    """Who is signed in."""

    id: Annotated[UUID, f.ITS_ID]
    email: Annotated[str, f.EMAIL]
    name: Annotated[str, f.FULL_NAME]
    picture: Annotated[
        str | None, f.means("The address of their picture; null when there is none.")
    ]
    role: Annotated[Literal["admin", "viewer"], f.ROLE]


class SignedOut(TypedDict):
    """The session is over."""

    message: Annotated[str, f.means("What happened.")]


_LOG = logging.getLogger(__name__)


LOGIN = Example(values={"redirect_uri": "/admin"})
LOGOUT = Example({"message": "Logged out successfully"})
USER = Example(
    {
        "id": STAFF_ID,
        "email": "grace@example.com",
        "name": "Grace",
        "picture": None,
        "role": "viewer",
    }
)


async def begin_sign_in(request: web.Request) -> web.StreamResponse:
    """Sends the browser to the identity provider, to come back to a page of the console."""
    _open_console(request)
    limit_attempts(request)
    target = request.query.get("redirect_uri", "/admin")
    path = local_path(request, target)
    if path is None:
        raise known_error("invalid_redirect")
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    domain = await _staff_domain(request)
    try:
        url = await request.app[IDENTITY_PROVIDER].authorization_url(state, nonce, verifier, domain)
    except ProviderUnavailable:
        _LOG.error("the identity provider does not answer: is OIDC_DISCOVERY_URL right?")
        raise known_error("sign_in_unavailable") from None
    await request.app[GATEWAY].sign_in(functions.create_sign_in_ticket(ticket_hash=hashed(state)))
    response = web.Response(status=302, headers={"Location": url, **_NO_STORE})
    cookies = request.app[COOKIES]
    begun = {"state": state, "nonce": nonce, "verifier": verifier, "path": path}
    await cookies.set_sign_ins(request, response, [*await cookies.sign_ins(request), begun])
    return response


async def finish_sign_in(request: web.Request) -> web.StreamResponse:
    """The identity provider sends the browser back to this address. The browser gets a session and
    goes on to the page that was asked for."""
    _open_console(request)
    limit_attempts(request)
    query = request.query
    entries = [missing("query", name) for name in ("code", "state") if name not in query]
    if entries and "error" not in query:
        raise validation_error(entries)
    begun = await request.app[COOKIES].sign_ins(request)
    under_way = await _end_sign_in(request, query.get("state", ""), begun)
    if under_way is None:
        if "text/html" in request.headers.get("Accept", "") and await visit_of_browser(request):
            # The back button or a second tab leads here; the visitor is signed in already.
            return web.Response(status=302, headers={"Location": "/admin", **_NO_STORE})
        raise _failed("Invalid OAuth state")
    if "error" in query:
        raise _failed("The identity provider did not sign you in")
    domain = await _staff_domain(request)
    try:
        person = await request.app[IDENTITY_PROVIDER].person(
            query["code"], under_way["verifier"], under_way["nonce"], domain
        )
    except SignInFailed as error:
        raise _failed(str(error)) from None
    except ProviderUnavailable:
        _LOG.error("the identity provider does not answer")
        raise ApiError(500, "sign_in_unavailable", "OAuth authentication error") from None
    session = new_session()
    await _sign_in(request, person, session.hash)
    response = web.Response(status=302, headers={"Location": under_way["path"], **_NO_STORE})
    await request.app[COOKIES].set_session(request, response, session)
    await request.app[COOKIES].set_sign_ins(
        request, response, [other for other in begun if other is not under_way]
    )
    return response


async def sign_out(request: web.Request) -> web.StreamResponse:
    """Ends the browser's session, if it has one."""
    _open_console(request, with_provider=False)
    session = await request.app[COOKIES].session(request)
    if session is not None:
        await request.app[GATEWAY].sign_in(
            functions.end_session(session_hash=session.hash), client=client_of(request)
        )
    response = json_response(200, LOGOUT.answer, _NO_STORE)
    await request.app[COOKIES].end_session(request, response)
    return response


async def get_signed_in(request: web.Request) -> web.StreamResponse:
    """Says who is signed in."""
    try:
        visit = await visit_of_script(request)
    except ApiError as error:
        if error.code == "admin_deactivated":
            raise known_error("not_authorized") from None
        error.headers = {}
        raise
    signed_in: SignedIn = {
        "id": visit.admin_user_id,
        "email": visit.email,
        "name": visit.name,
        "picture": visit.picture_url,
        "role": visit.role,
    }
    return json_response(200, signed_in, _NO_STORE)


_NO_STORE = {"Cache-Control": "no-store"}


def limit_attempts(request: web.Request) -> None:
    """Raises ApiError (429) when signing in is tried too often."""
    wait = request.app[LIMITER].retry_after(client_address(request) or "")
    if wait is not None:
        raise known_error("too_many_attempts", headers={"Retry-After": str(wait)})


def _open_console(request: web.Request, *, with_provider: bool = True) -> StaffConfig:
    config = request.app[CONFIG].staff
    if config is None or (with_provider and config.client_id is None):
        raise known_error("sign_in_not_configured", headers={"Retry-After": "60"})
    return config


async def _staff_domain(request: web.Request) -> str:
    settings = await request.app[GATEWAY].sign_in(functions.get_settings())
    assert settings is not None
    return str(settings["admin_email_domain"])


async def _end_sign_in(
    request: web.Request, state: str, begun: list[dict[str, str]]
) -> dict[str, str] | None:
    """Returns the sign-in that this browser began with the state, and uses the state up. None when
    the browser began none, or it has expired."""
    for under_way in begun:
        if hmac.compare_digest(state.encode(), under_way["state"].encode()):
            row = await request.app[GATEWAY].sign_in(
                functions.use_sign_in_ticket(ticket_hash=hashed(state))
            )
            return under_way if row is not None and row["use_sign_in_ticket"] else None
    return None


async def _sign_in(request: web.Request, person: Person, session_hash: bytes) -> None:
    try:
        await request.app[GATEWAY].sign_in(
            functions.sign_in_admin(
                email=person.email,
                google_id=person.subject,
                session_hash=session_hash,
                full_name=person.name,
                picture_url=person.picture_url,
            ),
            client=client_of(request),
        )
    except Refused as error:
        raise _failed(error.message) from None


def _failed(reason: str) -> ApiError:
    return known_error("sign_in_failed", headers=_NO_STORE, reason=reason)
