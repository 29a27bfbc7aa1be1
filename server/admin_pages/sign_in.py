"""/admin/sign-in, /admin/sign-out, and the one-time links of `dev` and `admins link`."""

from __future__ import annotations

from urllib.parse import urlencode

from aiohttp import web

from server.admin_pages.page import error_page, render_public, see_other
from server.gateway import functions
from server.http.app_keys import CONFIG, GATEWAY
from server.staff.admin_token import hashed
from server.staff.guard import Visit, client_of, local_path, visit_of_browser
from server.staff.sessions import COOKIES, new_session


async def sign_in(request: web.Request) -> web.StreamResponse:
    """Shows the sign-in page. A visitor who is signed in already is redirected."""
    target = local_path(request, request.query.get("next")) or "/admin"
    if await visit_of_browser(request) is not None:
        return see_other(target)
    config = request.app[CONFIG].staff
    return render_public(
        request,
        "admin/sign_in.html",
        login_url=f"/admin/oauth/login?{urlencode({'redirect_uri': target})}",
        has_provider=config is not None and config.client_id is not None,
        link_command=config.sign_in_command if config is not None else None,
        signed_out="signed-out" in request.query,
    )


async def sign_out(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Ends the session, in the database and in the browser."""
    assert visit.session is not None
    await request.app[GATEWAY].sign_in(
        functions.end_session(session_hash=visit.session.hash), client=client_of(request)
    )
    response = see_other("/admin/sign-in?signed-out")
    await request.app[COOKIES].end_session(request, response)
    return response


async def use_link(request: web.Request) -> web.StreamResponse:
    """Signs in a visitor who has the link, once. Only `dev` makes such links, and only there they
    work."""
    config = request.app[CONFIG].staff
    if config is None or not config.sign_in_links:
        raise web.HTTPNotFound
    session = new_session()
    row = await request.app[GATEWAY].sign_in(
        functions.use_sign_in_link(
            ticket_hash=hashed(request.match_info["token"]), session_hash=session.hash
        ),
        client=client_of(request),
    )
    if row is None:
        return error_page(
            request,
            400,
            "This link was used, or is too old",
            "`ciris-billing admins link EMAIL` prints a new one.",
        )
    response = see_other("/admin")
    await request.app[COOKIES].set_session(request, response, session)
    return response
