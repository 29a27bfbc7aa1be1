"""/v1/billing/accounts/{provider}/{id}/top-up: the user agrees that a saved card buys packs when
credits run low, looks at it, and withdraws the consent. server/payments/top_ups.py has the card
charged."""

from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field, StringConstraints

from server.agent.endpoint import Call
from server.agent.models import AccountPath, Amount
from server.agent.purchases import PROVIDER_FAULTS, open_provider, provider_unavailable
from server.gateway import Refused, functions
from server.http import fields as f
from server.http.answers import reader
from server.http.errors import json_response
from server.http.example_values import ADA, PAYMENT_ID
from server.http.route import Example
from server.http.top_ups import EXAMPLE_TOP_UP, TopUp
from server.http.validation import Currency, Name255, RequestModel, Text, refused_field
from server.limits import INT64_MAX, most
from server.payments.provider import PaymentMissing, PaymentProviderError, SavedCard, SavedCards


class TopUpConsent(RequestModel):
    """The consent of the user, and the words that the user agreed to."""

    agreed: Annotated[Literal[True], f.means("The user agreed to these words.")]
    version: Annotated[Name255, f.means("Which version of the words, in your own numbering.")]
    text: Annotated[
        Text,
        StringConstraints(max_length=most("consent_text")),
        f.means("The words that the user saw and agreed to."),
    ]


class TopUpRequest(RequestModel):
    """PUT /v1/billing/accounts/{oauth_provider}/{external_id}/top-up"""

    threshold: Annotated[
        Annotated[int, Field(ge=0, le=INT64_MAX)],
        f.means(
            "A top-up is bought when the paid credits left are this many or fewer. Less than one"
            " top-up brings."
        ),
    ]
    packs: Annotated[
        Annotated[int, Field(ge=1, le=1000)], f.means("How many packs one top-up buys.")
    ] = 1
    amount_minor: Annotated[
        Amount,
        f.means(
            "What one top-up costs, as the user was told: `packs` times the present price of a"
            " pack, in minor units. A top-up never takes more."
        ),
    ]
    currency: Annotated[Currency, f.PRICE_CURRENCY]
    monthly_cap_minor: Annotated[
        Amount, f.means("What all top-ups of a UTC month may cost together, in minor units.")
    ]
    payment_id: Annotated[
        Name255 | None,
        f.means(
            "A paid purchase of this account that was made with `save_card`: its card is charged."
            " Null for the card of the top-up before."
        ),
    ] = None
    consent: Annotated[TopUpConsent, f.means("What the user agreed to; it is kept.")]


AGREED = Example(
    EXAMPLE_TOP_UP,
    request={
        "threshold": 2,
        "amount_minor": 500,
        "currency": "USD",
        "monthly_cap_minor": 2000,
        "payment_id": PAYMENT_ID,
        "consent": {
            "agreed": True,
            "version": "2026-11",
            "text": "Charge my card $5.00 for 20 uses when 2 are left, at most $20.00 a month.",
        },
    },
    values=ADA,
)
READ = Example(EXAMPLE_TOP_UP, values=ADA)
WITHDRAWN = Example(
    {
        **EXAMPLE_TOP_UP,
        "status": "off",
        "ended_at": "2026-11-23T08:00:00.948849+00:00",
        "end_reason": "withdrawn",
    },
    values=ADA,
)
ERRORS = ("account_not_found", "top_up_not_found")
CONSENT_ERRORS = (
    "account_not_found",
    "payment_not_found",
    "top_up_card_missing",
    "top_up_price_changed",
    *PROVIDER_FAULTS,
)

_top_up = reader(TopUp, functions.get_top_up.columns)


async def set_top_up(request: web.Request, call: Call) -> web.StreamResponse:
    """Records that the user agrees to have a saved card charged when the credits run low, and
    replaces what was agreed to before. The card is charged by the service itself, outside of any
    request; the credits come as for every purchase. Ask the user first, and send the words. The
    same consent again changes nothing, unless money went back since. It ends when it is withdrawn,
    after three failures in a row, and when packs become dearer than agreed."""
    path: AccountPath = call.path
    body: TopUpRequest = call.body
    card = await _saved_card(request, call, body.payment_id)
    try:
        await call.gateway.write(
            functions.set_top_up(
                oauth_provider=path.oauth_provider,
                external_id=path.external_id,
                threshold=body.threshold,
                packs=body.packs,
                amount_minor=body.amount_minor,
                currency=body.currency,
                monthly_cap_minor=body.monthly_cap_minor,
                consent_version=body.consent.version,
                consent_text=body.consent.text,
                payment_id=body.payment_id,
                customer_id=card.customer_id if card else None,
                payment_method_id=card.payment_method_id if card else None,
                card=card.text if card else None,
                api_key_id=call.api_key_id,
            )
        )
    except Refused as error:
        raise refused_field(error, "body", body) from None
    return await get_top_up(request, call)


async def get_top_up(request: web.Request, call: Call) -> web.StreamResponse:
    """Reads what the user agreed to last, and how it goes. Show `problem_text` to the user when a
    top-up failed: with another card, they buy and agree once more."""
    path: AccountPath = call.path
    [row] = await call.gateway.read(
        functions.get_top_up(
            oauth_provider=path.oauth_provider,
            external_id=path.external_id,
            api_key_id=call.api_key_id,
        )
    )
    return json_response(200, _top_up(row))


async def end_top_up(request: web.Request, call: Call) -> web.StreamResponse:
    """The user withdraws the consent: nothing is charged any more, from this moment on. (What
    Stripe is charging at this moment is credited.) To agree again, send the consent again."""
    path: AccountPath = call.path
    await call.gateway.write(
        functions.end_top_up(
            oauth_provider=path.oauth_provider,
            external_id=path.external_id,
            api_key_id=call.api_key_id,
        )
    )
    return await get_top_up(request, call)


async def _saved_card(request: web.Request, call: Call, payment_id: str | None) -> SavedCard | None:
    """The card that a payment saved; None where it saved none. The database decides whether the
    payment is the account's."""
    if payment_id is None:
        return None
    [known] = await call.gateway.read(
        functions.find_purchase(payment_id=payment_id, api_key_id=call.api_key_id)
    )
    if known["purchase_id"] is None:
        raise await call.gateway.refused("payment_not_found", {"payment_id": payment_id})
    api, _ = await open_provider(request, call, known)
    if not isinstance(api, SavedCards):
        return None
    try:
        return await api.get_saved_card(payment_id)
    except PaymentMissing:
        return None
    except PaymentProviderError as error:
        raise provider_unavailable(request, known, error) from error
