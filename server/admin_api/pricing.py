"""/admin/api/config/pricing: the free uses of new users, and the pack and its price."""

from typing import Annotated

from aiohttp import web
from typing_extensions import TypedDict

from server.admin_api.endpoint import Call, answer
from server.admin_api.models import (
    SetPricingRequest,
)
from server.gateway import functions
from server.http import fields as f
from server.http.answers import reader
from server.http.app_keys import GATEWAY
from server.http.route import Example


class Pricing(TypedDict):
    """What new users get free and what a pack is."""

    free_uses: Annotated[f.Count, f.means("Free uses of a new account.")]
    pack_uses: Annotated[f.Count, f.means("How many uses a pack has.")]
    pack_price_minor: Annotated[
        f.Count, f.means("What a pack costs, in minor units such as cents.")
    ]
    pack_currency: Annotated[str, f.means("Three letters: the currency of the price.")]


_EXAMPLE = {"free_uses": 3, "pack_uses": 20, "pack_price_minor": 500, "pack_currency": "USD"}
PRICING = Example(_EXAMPLE)
NEW_PRICING = Example(
    _EXAMPLE, request={"pack_price_minor": 500, "reason": "Back to the old price"}
)

_pricing = reader(Pricing, functions.set_pricing.columns)


async def get_pricing(request: web.Request, call: Call) -> web.StreamResponse:
    """Returns how many uses new users get free, and the pack's size and price."""
    row = await request.app[GATEWAY].sign_in(functions.get_settings())
    assert row is not None
    return answer(200, _pricing(row))


async def set_pricing(request: web.Request, call: Call) -> web.StreamResponse:
    """Changes the free uses of new users and the pack's size and price. Packs that were already
    offered keep their price. A price that the payment provider would refuse is refused; the error
    says which prices it takes."""
    body: SetPricingRequest = call.body
    row = await call.row(
        functions.set_pricing(
            reason=body.reason,
            free_uses=body.free_uses,
            pack_uses=body.pack_uses,
            pack_price_minor=body.pack_price_minor,
            pack_currency=body.pack_currency,
        )
    )
    return answer(200, _pricing(row))
