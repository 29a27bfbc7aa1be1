"""/admin/settings: the free uses of new accounts, the pack and its price, and the payment
providers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from server.admin_pages.money import read_money, write_money
from server.admin_pages.page import FormFault, done, form_of, reason_of, render, whole_number
from server.admin_pages.provider_view import (
    provider_view,
    read_providers,
    sealed,
    test_connection,
)
from server.admin_pages.refusals import FORM, all_of, fault_of
from server.gateway import Refused, functions
from server.http.app_keys import GATEWAY
from server.http.route import PAGE, Route
from server.limits import CURRENCY_CODE, INT64_MAX
from server.payments.provider import PaymentProvider
from server.payments.registry import all_providers
from server.staff.guard import Visit, require_admin

_PAGE = "/admin/settings"
_FIELDS = {
    "p_reason": "reason",
    "p_free_uses": "free_uses",
    "p_pack_uses": "pack_uses",
    "p_pack_price_minor": "pack_price",
    "p_amount_text": "pack_price",
    "p_pack_currency": "pack_currency",
}
_PRICING = (
    ("free_uses", "Free uses of a new account"),
    ("pack_uses", "Uses in a pack"),
    ("pack_currency", "Currency"),
)

_SENT = ("free_uses", "pack_uses", "pack_price", "pack_currency")


async def show(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Shows pricing and the payment providers."""
    return await _show(visit)


async def set_pricing(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Changes the pricing after the old and new values were shown and confirmed."""
    await require_admin(visit)
    form = await form_of(request)
    try:
        before = await _read_pricing(request)
        changed, reason = all_of(
            lambda: _given_pricing(form),
            lambda: reason_of(form),
        )
        changed = _changed(await _with_price(request, form, changed, before), before)
        if form.get("confirm") != "yes":
            after = {**before, **changed}
            return await render(
                visit,
                "admin/settings/confirm_pricing.html",
                lines=[(title, before[name], after[name]) for name, title in _PRICING],
                price_before=await _price(request, before),
                price_after=await _price_after(request, before, changed),
                sent={name: form.get(name, "") for name in _SENT},
                reason=reason,
            )
        now = await visit.row(functions.set_pricing(reason=reason, **changed))
    except (FormFault, Refused) as error:
        return await _failed(visit, "pricing", form, error)
    message = f"New accounts get {now['free_uses']:,} free uses; a pack is {now['pack_uses']:,}"
    return await done(visit, _PAGE, f"{message} uses for {await _price(request, now)}.")


def _given_pricing(form: Mapping[str, str]) -> dict[str, Any]:
    """The form's values except the price; None for a field that is empty. Raises FormFault."""
    values = all_of(
        lambda: whole_number(form, "free_uses", 0, INT64_MAX, optional=True),
        lambda: whole_number(form, "pack_uses", 1, INT64_MAX, optional=True),
        lambda: _currency(form),
    )
    return dict(zip((name for name, _ in _PRICING), values, strict=True))


async def _with_price(
    request: web.Request,
    form: Mapping[str, str],
    given: Mapping[str, Any],
    before: Mapping[str, Any],
) -> dict[str, Any]:
    """Adds the price, which is typed with the decimals of its currency. Raises Refused."""
    text = form.get("pack_price", "")
    currency = given["pack_currency"] or before["pack_currency"]
    price = await read_money(request, text, currency) if text else None
    return {**given, "pack_price_minor": price}


def _changed(given: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The given values that differ from the stored ones; an empty field keeps its value. Raises
    FormFault when nothing does."""
    changed = {
        name: value for name, value in given.items() if value is not None and value != before[name]
    }
    if not changed:
        raise FormFault(**{FORM: "These are the present settings. Change one of them."})
    return changed


def _currency(form: Mapping[str, str]) -> str | None:
    code = form.get("pack_currency", "").upper()
    if code and not re.fullmatch(CURRENCY_CODE, code):
        raise FormFault(pack_currency="Give three letters, like USD.")
    return code or None


async def _price_after(
    request: web.Request, before: Mapping[str, Any], changed: Mapping[str, Any]
) -> str:
    """The price as money after a change. Raises Refused for one that Stripe does not take."""
    changes_price = changed.keys() & {"pack_price_minor", "pack_currency"}
    after = {**before, **changed}
    return await (_checked_price if changes_price else _price)(request, after)


async def _price(request: web.Request, settings: Mapping[str, Any]) -> str:
    return await write_money(request, settings["pack_price_minor"], settings["pack_currency"])


async def _checked_price(request: web.Request, settings: Mapping[str, Any]) -> str:
    row = await request.app[GATEWAY].sign_in(
        functions.describe_price(
            pack_price_minor=settings["pack_price_minor"], pack_currency=settings["pack_currency"]
        )
    )
    assert row is not None
    return str(row["describe_price"])


def provider_routes() -> tuple[Route, ...]:
    """The paths of each payment provider's forms."""
    return tuple(
        route for provider in all_providers() for route in _routes_of(provider, provider.kind)
    )


def _routes_of(provider: PaymentProvider, kind: str) -> tuple[Route, Route]:
    async def set_provider(request: web.Request, visit: Visit) -> web.StreamResponse:
        """Changes the stored settings of the provider; an empty field keeps its value."""
        return await _set_provider(request, visit, provider)

    async def test_provider(request: web.Request, visit: Visit) -> web.StreamResponse:
        """Asks the provider whether it accepts the stored credential."""
        await require_admin(visit)
        works, message = await test_connection(request, provider)
        return await done(visit, _PAGE, message, "success" if works else "error")

    address = f"{_PAGE}/{kind}"
    return (
        Route("POST", address, PAGE, set_provider, f"Set up {provider.name}"),
        Route("POST", f"{address}/test", PAGE, test_provider, f"Try {provider.name}"),
    )


async def _set_provider(
    request: web.Request, visit: Visit, provider: PaymentProvider
) -> web.StreamResponse:
    await require_admin(visit)
    form = await form_of(request)
    try:
        stored = (await read_providers(visit))[provider.kind]
        config, reason = all_of(
            lambda: sealed(request, provider, form, stored),
            lambda: reason_of(form),
        )
        await visit.row(
            functions.set_provider_config(provider_type=provider.kind, reason=reason, **config)
        )
    except (FormFault, Refused) as error:
        return await _failed(visit, provider.kind, form, error)
    message = f"{provider.name}'s settings are stored. Test the connection next."
    return await done(visit, _PAGE, message)


async def _failed(
    visit: Visit, name: str, form: Mapping[str, str], error: FormFault | Refused
) -> web.StreamResponse:
    fault = fault_of(error, _FIELDS) if isinstance(error, Refused) else error
    return await _show(visit, name, form, fault.faults)


async def _read_pricing(request: web.Request) -> dict[str, Any]:
    row = await request.app[GATEWAY].sign_in(functions.get_settings())
    assert row is not None
    return dict(row)


async def _show(
    visit: Visit,
    failed: str = "",
    form: Mapping[str, str] | None = None,
    faults: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    pricing = await _read_pricing(visit.request)
    price = await write_money(
        visit.request, pricing["pack_price_minor"], pricing["pack_currency"], with_currency=False
    )
    typed, said = form or {}, faults or {}
    stored = await read_providers(visit)
    return await render(
        visit,
        "admin/settings/show.html",
        status=422 if failed else 200,
        pricing=pricing,
        price=await _price(visit.request, pricing),
        pricing_values=typed if failed == "pricing" else {**pricing, "pack_price": price},
        pricing_faults=said if failed == "pricing" else {},
        providers=[
            provider_view(
                visit.request,
                provider,
                stored[provider.kind],
                typed if failed == provider.kind else None,
                said if failed == provider.kind else {},
            )
            for provider in all_providers()
        ],
    )
