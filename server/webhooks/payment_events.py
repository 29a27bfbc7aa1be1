"""POST /v1/billing/webhooks/<kind>: a payment provider's events (contract.md 3). An event is
answered 200 only once its effect is committed; whatever else happens, the provider is told so and
sends it again."""

import logging
from typing import Annotated, Literal

import orjson
from aiohttp import web
from typing_extensions import TypedDict

from server.gateway import (
    DatabaseFault,
    FunctionCall,
    Gateway,
    Refused,
    Unavailable,
    functions,
)
from server.http import fields as f
from server.http.app_keys import GATEWAY, REQUEST_ID
from server.http.errors import ApiError, from_refused, json_response, known_error
from server.http.example_values import ACCOUNT_ID, ADA, EVENT_ID, PAYMENT_ID
from server.http.route import SIGNED, Example, Handler, Route
from server.observe import metrics
from server.payments.advice import advice_on
from server.payments.payments import PAYMENTS
from server.payments.provider import (
    InvalidEvent,
    NotConfigured,
    PaymentEvent,
    PaymentProvider,
    PaymentProviderError,
    ProviderSettings,
    StaleSignature,
    WrongSignature,
)
from server.payments.registry import all_providers, webhook_path


class EventReceipt(TypedDict):
    """The event has been processed; it need not be sent again."""

    status: Annotated[
        Literal["success", "acknowledged", "ignored"],
        f.means("Whether it was about a payment, is noted, or is of no concern here."),
    ]
    event_id: Annotated[
        str | None,
        f.means("The event's id at the payment provider; null for an ignored one that has none."),
    ]


_LOG = logging.getLogger(__name__)
_STATUS = {"ignored": "ignored", "acknowledged": "acknowledged", "not_sold_here": "ignored"}

_EXAMPLE_PURCHASE = {
    "account_id": ACCOUNT_ID,
    **ADA,
    "purchase_id": "019a9c2e-c0de-7b44-8a1f-5d3e9b7c2f08",
}


def webhook_routes() -> tuple[Route, ...]:
    """The path of each provider's events."""
    return tuple(
        Route(
            "POST",
            webhook_path(provider.kind),
            SIGNED,
            _handler(provider),
            f"{provider.name}'s events",
            answer=EventReceipt,
            example=Example(
                {"status": "success", "event_id": EVENT_ID},
                request=provider.example_event(EVENT_ID, PAYMENT_ID, _EXAMPLE_PURCHASE),
            ),
            errors=(
                "webhook_metadata_missing",
                "webhook_signature_invalid",
                "webhook_failed",
                "payment_provider_not_configured",
            ),
        )
        for provider in all_providers()
    )


def _handler(provider: PaymentProvider) -> Handler:
    async def receive(request: web.Request) -> web.StreamResponse:
        return await _receive(request, provider)

    receive.__name__ = f"receive_{provider.kind}_event"
    receive.__doc__ = f"""For {provider.name} alone: it reports here what became of payments,
        refunds and disputes. An event is answered 200 once its effect is stored for good, and has
        one effect however often it is sent."""
    return receive


async def _receive(request: web.Request, provider: PaymentProvider) -> web.StreamResponse:
    body = await request.read()
    log = logging.LoggerAdapter(_LOG, {"request_id": request[REQUEST_ID]})
    gateway = request.app[GATEWAY]
    try:
        settings, event = await _read(request, provider, body, log)
        log.extra = {**(log.extra or {}), "event_id": event.id, "event_type": event.type}
        if event.complaint:
            log.warning("a webhook event is ignored: %s", event.complaint)
        if event.id is None:
            _count("ignored")
            return json_response(200, {"status": "ignored", "event_id": None})
        if event.unlisted_refunds_of is not None:
            api = await request.app[PAYMENTS].api(provider.kind, settings)
            event = await api.complete(event)
        row = await gateway.process_payment_event(_call_of(provider, event))
    except (Unavailable, DatabaseFault, PaymentProviderError, Refused) as error:
        _count("error")
        log.error(
            "a webhook event was not processed, %s will send it again: %s",
            provider.name,
            str(error) or type(error).__name__,
        )
        raise _failed() from error
    _count(row["outcome"])
    if row["needs_attention"]:
        log.error(
            "payment %s was not credited (%s): %s"
            if event.action == "settle"
            else "money that went back of payment %s was not booked (%s): %s",
            event.payment_id,
            row["outcome"],
            advice_on(row["outcome"], provider.kind),
        )
        if row["outcome"] == "metadata_missing":
            raise known_error("webhook_metadata_missing")
        if row["outcome"] != "not_sold_here":  # and no further attempt can change that
            raise _failed()
    if row["credits_added"]:
        metrics.CREDITS_ADDED.labels("purchase").inc()
        metrics.CREDIT_AMOUNT.observe(row["credits_added"])
        metrics.write_verified("confirmed").inc()
    log.info("payment event: %s", row["outcome"])
    status = _STATUS.get(row["outcome"], "success")
    return json_response(200, {"status": status, "event_id": event.id})


async def _read(
    request: web.Request,
    provider: PaymentProvider,
    body: bytes,
    log: logging.LoggerAdapter[logging.Logger],
) -> tuple[ProviderSettings, PaymentEvent]:
    """Returns the event, and the settings that verified it. Raises ApiError: 503 unless the
    provider is active, set up, and its secrets can be decrypted; otherwise as _signed_event."""
    gateway = request.app[GATEWAY]
    try:
        settings = await _settings(request, gateway, provider)
        return settings, _signed_event(request, provider, settings, body, log)
    except NotConfigured:
        refused = await gateway.refused("payment_provider_not_configured")
        raise from_refused(refused) from None


def _signed_event(
    request: web.Request,
    provider: PaymentProvider,
    settings: ProviderSettings,
    body: bytes,
    log: logging.LoggerAdapter[logging.Logger],
) -> PaymentEvent:
    """Returns the event, if the provider signed it just now. Raises NotConfigured, and ApiError
    (401); the log and the metric tell what is wrong."""
    signature = ",".join(request.headers.getall(provider.webhook.header, []))
    try:
        return provider.read_event(settings, signature, body)
    except WrongSignature as error:
        _count("invalid_signature")
        log.warning(
            "a webhook without a valid signature was refused: %s. Is the webhook secret the one"
            " %s shows for this address?",
            error,
            provider.name,
        )
    except StaleSignature as error:
        _count("stale_signature")
        log.warning(
            "a webhook with a valid signature was refused for its age: %s. Is this server's clock"
            " right? If it is, the request was held up or sent again on its way",
            error,
        )
    except InvalidEvent as error:
        _count("malformed")
        log.error("a webhook with a valid signature was refused for its shape: %s", error)
    raise known_error("webhook_signature_invalid")


async def _settings(
    request: web.Request, gateway: Gateway, provider: PaymentProvider
) -> ProviderSettings:
    """Returns the provider's settings. Raises NotConfigured unless the provider is active, set up,
    and its secrets can be decrypted."""
    rows = await gateway.read(functions.get_provider_config(provider_type=provider.kind))
    if not rows or not rows[0]["is_active"]:
        raise NotConfigured
    settings = request.app[PAYMENTS].settings(provider.kind, orjson.loads(rows[0]["config_data"]))
    if settings is None:
        raise NotConfigured
    return settings


def _call_of(provider: PaymentProvider, event: PaymentEvent) -> FunctionCall:
    assert event.id is not None
    claim, returns = event.claim, event.returns
    return functions.process_payment_event(
        event_id=event.id,
        event_type=event.type,
        payload=event.payload,
        action=event.action,
        livemode=event.livemode,
        payment_id=event.payment_id,
        amount_minor=event.amount_minor,
        currency=event.currency,
        account_id=claim.account_id,
        purchase_id=claim.purchase_id,
        oauth_provider=claim.oauth_provider,
        external_id=claim.external_id,
        return_ids=[item.id for item in returns],
        return_kinds=[item.kind for item in returns],
        return_amounts_minor=[item.amount_minor for item in returns],
        return_away_minor=[item.away_minor for item in returns],
        return_states=[item.state for item in returns],
        return_transactions=[item.transactions for item in returns],
        occurred_at=event.created,
        is_claimed=claim.is_claimed,
        is_foreign=claim.is_foreign,
        warning_id=event.warning_id,
        warning_is_open=event.warning_is_open,
        provider=provider.kind,
    )


def _count(outcome: str) -> None:
    metrics.PAYMENT_EVENTS.labels(outcome).inc()


def _failed() -> ApiError:
    return known_error("webhook_failed")
