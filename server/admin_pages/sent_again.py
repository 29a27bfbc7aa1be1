"""A form that comes after its session ended: what was typed is shown again, and the person sends it
once more. Nothing is sent by itself, a secret is not repeated, and what asks for a confirmation
asks again."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from server.http.app_keys import ROUTE_TABLE
from server.payments.registry import all_providers
from server.staff.guard import is_from_our_pages, local_path, visit_of_browser

_NEVER_AGAIN = ("csrf_token", "confirm")
_NOT_SHOWN = ("action", "idempotency_key")
_SIGN_OUT = "/admin/sign-out"


async def form_to_send_again(request: web.Request) -> dict[str, Any] | None:
    """What the page shows that asks to send a form again. None for what is not a form of ours."""
    if request.method != "POST" or request.path == _SIGN_OUT or not is_from_our_pages(request):
        return None
    try:
        form = await request.post()
    except (ValueError, LookupError):  # the body is not a form, or its character set is unknown
        return None
    fields = [
        (name, value.replace("\0", ""))
        for name, value in form.items()
        if isinstance(value, str) and name not in _NEVER_AGAIN
    ]
    secrets = _secrets()
    visit = await visit_of_browser(request)
    return {
        "fields": [(name, value) for name, value in fields if name not in secrets],
        "not_shown": _NOT_SHOWN,
        "has_secret": any(value for name, value in fields if name in secrets),
        "what": _summary(request),
        "address": request.path,
        "back": local_path(request, request.headers.get("Referer")) or "/admin",
        "email": visit.email if visit else None,
        "csrf_token": visit.session.csrf_token if visit and visit.session else "",
    }


def _summary(request: web.Request) -> str:
    """What the form does, in the words of the route table."""
    resource = request.match_info.route.resource
    path = resource.canonical if resource else request.path
    for section in request.app[ROUTE_TABLE]:
        for route in section.routes:
            if (route.method, route.path) == (request.method, path):
                return route.summary
    return request.path


def _secrets() -> set[str]:
    return {
        setting.name
        for provider in all_providers()
        for setting in provider.settings
        if not setting.is_public
    }
