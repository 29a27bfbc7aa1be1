"""What every page has: the frame, headers that keep it out of caches and other sites' frames, a
message that is shown once, errors in the same style, and redirects between pages."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache, wraps
from typing import Any
from urllib.parse import urlencode

import aiohttp_jinja2
from aiohttp import web
from jinja2 import Environment

from server.admin_pages.sent_again import form_to_send_again
from server.admin_pages.visible import finalize, mark_exact, mark_visible
from server.gateway import ConnectionLost, Refused, Unavailable
from server.http.app_keys import CONFIG, REQUEST_ID, ROUTE_TABLE
from server.http.errors import ApiError
from server.http.route import Section
from server.limits import most
from server.payments.registry import all_providers
from server.staff.guard import (
    ConsoleClosed,
    ForgedForm,
    Handler,
    NotSignedIn,
    SessionOver,
    Visit,
    staff_page,
)
from server.staff.sessions import COOKIES

_LOG = logging.getLogger(__name__)
PAGE_SIZE = 50
CSV_LIMIT = 10_000  # rows of a list that are sent at once
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self';"
    " img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

RequestHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FormFault(Exception):
    """A form's input is not acceptable; `faults` says why, by field."""

    def __init__(self, **faults: str) -> None:
        super().__init__(str(faults))
        self.faults = faults


def page(handler: Handler) -> RequestHandler:
    """Guards a page for signed-in staff."""
    return public_page(staff_page(handler))


def public_page(handler: RequestHandler) -> RequestHandler:
    """Wraps a page for everybody, so that its errors are pages too."""

    async def endpoint(request: web.Request) -> web.StreamResponse:
        try:
            return await _or_form_again(handler, request)
        except NotSignedIn:
            asked_for = str(request.rel_url) if request.method == "GET" else "/admin"
            return see_other(f"/admin/sign-in?{urlencode({'next': asked_for})}")
        except web.HTTPException as error:
            if error.status < 400 or request.path.startswith("/admin/api/"):
                raise  # scripts get a 404 in JSON
            return error_page(request, error.status, error.reason, _WHERE.get(error.status, ""))
        except Exception as error:
            return _failure(request, error)

    return endpoint


async def _or_form_again(handler: RequestHandler, request: web.Request) -> web.StreamResponse:
    """Handles the request. A form that comes after its session ended is shown again."""
    try:
        return await handler(request)
    except SessionOver:
        raise
    except (NotSignedIn, ForgedForm):
        again = await form_to_send_again(request)
        if again is None:
            raise
        return render_public(request, "admin/sent_again.html", status=403, **again)


def page_for_browsers(handler: RequestHandler) -> RequestHandler:
    """Wraps what scripts call too: errors are pages for callers that ask for HTML, and JSON for
    others."""
    for_people = public_page(handler)

    @wraps(handler)
    async def endpoint(request: web.Request) -> web.StreamResponse:
        wants_page = "text/html" in request.headers.get("Accept", "")
        return await (for_people if wants_page else handler)(request)

    return endpoint


def _failure(request: web.Request, error: Exception) -> web.StreamResponse:
    match error:
        case ConsoleClosed():
            shown = (503, "The console is not set up", _CLOSED)
        case ForgedForm():
            shown = (403, "This form is out of date", _FORGED)
        case Refused(code="admin_role_required") | ApiError(code="admin_role_required"):
            shown = (403, "Only administrators can change this", _VIEWER)
        case Refused():
            shown = (error.status, error.message, "")
        case ApiError():
            title, advice = str(error.detail), ""
            if error.code in _SIGN_IN_CODES:
                title, advice = "You are not signed in", f"{title}. {_SIGN_IN_AGAIN}"
            elif error.code == "validation_error":
                title, advice = "This address is not complete", _SIGN_IN_AGAIN
            return error_page(request, error.status, title, advice, error.headers)
        case ConnectionLost() if request.method == "POST":
            _LOG.warning("unknown outcome: %s", error, extra={"request_id": request[REQUEST_ID]})
            shown = (503, "The connection to the database broke", _UNKNOWN)
        case Unavailable():
            _LOG.warning("unavailable: %s", error, extra={"request_id": request[REQUEST_ID]})
            shown = (503, "The service is busy or starting", _AGAIN)
        case _:
            _LOG.error("unhandled error", exc_info=error, extra={"request_id": request[REQUEST_ID]})
            shown = (500, "Something went wrong here", _OURS)
    return error_page(request, *shown)


_WHERE = {404: "Nothing is here. Check the address, or begin at the dashboard."}
_CLOSED = "Its operator must set ADMIN_JWT_SECRET; docs/operations.md says how."
_FORGED = "Your session may have ended in the meantime. Go back, load the page again and retry."
_VIEWER = (
    "Nothing was changed. Your role is viewer: you see everything and change nothing. An"
    " administrator can do it, or give you the role admin under Staff."
)
_AGAIN = "Nothing was changed. Try again in a moment."
_UNKNOWN = (
    "It is not known whether the change was made. Look at what you wanted to change, or at the"
    " audit log, before you try again."
)
_SIGN_IN_CODES = ("sign_in_failed", "sign_in_unavailable", "invalid_redirect")
_SIGN_IN_AGAIN = "The link below leads back to the sign-in page."
_OURS = "Nothing was half done. If it happens again, tell the operator the request id below."


@cache
def _navigation(table: tuple[Section, ...]) -> list[tuple[str, str]]:
    """The addresses and names of the pages that have a tab."""
    return [(route.path, route.tab) for part in table for route in part.routes if route.tab]


async def render(
    visit: Visit, template: str, *, status: int = 200, **context: Any
) -> web.StreamResponse:
    """Renders a page with the frame for signed-in staff. A waiting message is shown."""
    request = visit.request
    cookies = request.app[COOKIES]
    flash = await cookies.flash(request)
    response = _response(
        request,
        template,
        status,
        {
            "visit": visit,
            "is_admin": visit.is_admin,
            "csrf_token": visit.session.csrf_token if visit.session else "",
            "flash": flash,
            "navigation": _navigation(request.app[ROUTE_TABLE]),
            "path": request.path,
            **context,
        },
    )
    if flash is not None:
        await cookies.set_flash(request, response, {})
    return response


def render_public(
    request: web.Request, template: str, *, status: int = 200, **context: Any
) -> web.StreamResponse:
    """Renders a page for somebody who is not signed in."""
    return _response(request, template, status, context)


def error_page(
    request: web.Request,
    status: int,
    title: str,
    advice: str,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Renders an error in the console's style."""
    response = _response(
        request,
        "admin/error.html",
        status,
        {"status": status, "title": title, "advice": advice, "request_id": request[REQUEST_ID]},
    )
    for name, value in (headers or {}).items():
        response.headers[name] = value
    return response


def _response(
    request: web.Request, template: str, status: int, context: Mapping[str, Any]
) -> web.Response:
    html = aiohttp_jinja2.get_env(request.app).get_template(template).render(context)
    response = web.Response(text=html, status=status, content_type="text/html", headers=HEADERS)
    config = request.app[CONFIG].staff
    if config is not None and config.public_url.startswith("https:"):
        response.headers["Strict-Transport-Security"] = "max-age=31536000"
    return response


def see_other(location: str) -> web.Response:
    """Redirects to another page (303), as after every form."""
    return web.Response(status=303, headers={"Location": location, "Cache-Control": "no-store"})


async def done(visit: Visit, location: str, message: str, kind: str = "success") -> web.Response:
    """Redirects to another page, which says once what was done."""
    response = see_other(location)
    await visit.request.app[COOKIES].set_flash(
        visit.request, response, {"kind": kind, "message": message}
    )
    return response


def page_number(given: Mapping[str, str]) -> int:
    """The page number in a query or a form; 1 for anything that is not a number of a page."""
    text = given.get("page", "1")
    return int(text) if text.isdecimal() and 0 < int(text) <= 1_000_000 else 1


async def form_of(request: web.Request) -> dict[str, str]:
    """A form's fields. When a field is given twice, the last one counts. Surrounding white space is
    dropped, and so is NUL, which the database cannot store."""
    return {
        name: value.replace("\0", "").strip()
        for name, value in (await request.post()).items()
        if isinstance(value, str)
    }


def whole_number(
    form: Mapping[str, str], field: str, low: int, high: int, *, optional: bool = False
) -> int | None:
    """A field's number. Raises FormFault unless it is a whole number between the bounds, or empty
    where it is optional."""
    text = form.get(field, "").replace(",", "").replace("_", "")
    if not text and optional:
        return None
    try:
        value = int(text)
    except ValueError:
        raise FormFault(**{field: "Give a whole number."}) from None
    if not low <= value <= high:
        raise FormFault(**{field: f"Give a number from {low:,} to {high:,}."})
    return value


def end_of_day(form: Mapping[str, str], field: str) -> datetime | None:
    """The moment at which the day in a field is over, in UTC; None when it is empty. Raises
    FormFault."""
    text = form.get(field, "")
    if not text:
        return None
    try:
        day = date.fromisoformat(text)
        return datetime.combine(day + timedelta(days=1), time(), UTC)
    except (ValueError, OverflowError):
        raise FormFault(**{field: "Give a day as 2027-01-31."}) from None


def required(form: Mapping[str, str], field: str, what: str = "this") -> str:
    """A field's text. Raises FormFault when it is empty or too long."""
    limit = most(field)
    text = form.get(field, "")
    if not text:
        raise FormFault(**{field: f"Give {what}."})
    if len(text) > limit:
        raise FormFault(**{field: f"Use at most {limit} characters."})
    return text


def reason_of(form: Mapping[str, str]) -> str:
    """The reason that every change asks for. Raises FormFault when it is missing."""
    return required(form, "reason", "a reason; it goes into the audit log")


def add_filters(environment: Environment) -> None:
    """Adds the filters that write amounts, times and users' texts in one way everywhere."""
    environment.finalize = finalize
    environment.filters["visible"] = mark_visible
    environment.filters["exact"] = mark_exact
    environment.filters["amount"] = _amount
    environment.filters["time"] = _time
    environment.filters["iso"] = _iso
    environment.filters["moment"] = _moment
    environment.filters["ago"] = _ago
    environment.globals["most"] = most
    environment.globals["csv_limit"] = CSV_LIMIT
    environment.globals["payment_providers"] = all_providers()


def _amount(value: int | Decimal | None) -> str:
    return "-" if value is None else f"{int(value):,}"


def _time(value: datetime | None) -> str:
    return "never" if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def _moment(value: datetime) -> str:
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _ago(value: datetime) -> str:
    """How long ago a time was, or how soon it will be; empty where that is more than a month."""
    seconds = (datetime.now(UTC) - value).total_seconds()
    if abs(seconds) < 60:
        return "just now" if seconds > -2 else "in a moment"  # hosts' clocks may differ a little
    for size, unit, most_of_it in ((60, "min", 60), (3600, "h", 48), (86400, "days", 31)):
        count = int(abs(seconds) // size)
        if count < most_of_it:
            return f"{count} {unit} ago" if seconds > 0 else f"in {count} {unit}"
    return ""


def _iso(value: datetime) -> str:
    return value.astimezone(UTC).isoformat()
