"""Stripe's webhook events: their signature, and what they say in the terms of
billing.process_payment_event. Event types: https://docs.stripe.com/api/events/types"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import orjson
import stripe

from server.validation import INT64_MAX

TOLERANCE = 300  # seconds between Stripe's signature and its arrival here
_OURS = ("account_id", "oauth_provider", "external_id", "purchase_id")
_REFUND_EVENTS = frozenset(
    {"charge.refund.updated", "refund.created", "refund.updated", "refund.failed"}
)
_REFUND_UNDONE = frozenset({"failed", "canceled"})


class InvalidEvent(Exception):
    """Not signed by Stripe with our secret just now, or not an event."""


@dataclass(frozen=True, slots=True)
class MoneyReturn:
    """A refund or a dispute; `withdrawn` is false once the money came again."""

    id: str
    kind: str
    amount_minor: int
    withdrawn: bool


@dataclass(frozen=True, slots=True)
class PaymentEvent:
    """An event as billing.process_payment_event takes it. Amounts in minor units."""

    id: str
    type: str
    livemode: bool | None
    payload: str
    action: str = "ignore"
    payment_id: str | None = None
    amount_minor: int | None = None
    currency: str | None = None
    account_id: UUID | None = None
    purchase_id: UUID | None = None
    oauth_provider: str | None = None
    external_id: str | None = None
    returns: tuple[MoneyReturn, ...] = ()
    unlisted_refunds_of: str | None = None  # a charge whose refunds the event does not carry


def read_event(body: bytes, signature: str | None, secret: str) -> PaymentEvent:
    """The event of a webhook request. Raises InvalidEvent."""
    try:
        text = body.decode()
        stripe.WebhookSignature.verify_header(text, signature or "", secret, TOLERANCE)
        event = _without_nul(orjson.loads(text))
        made = PaymentEvent(
            id=_name(event["id"]),
            type=_name(event["type"]),
            livemode=event["livemode"] if isinstance(event.get("livemode"), bool) else None,
            payload=orjson.dumps(event).decode(),
        )
        subject = event["data"]["object"]
    except (stripe.SignatureVerificationError, ValueError, KeyError, TypeError):
        raise InvalidEvent from None
    return _interpreted(made, subject) if isinstance(subject, dict) else made


def with_refunds(event: PaymentEvent, refunds: Iterable[Mapping[str, Any]]) -> PaymentEvent:
    """The event with the refunds it did not carry."""
    return replace(event, returns=_returns(map(refund_return, refunds)))


def refund_return(refund: Mapping[str, Any]) -> MoneyReturn | None:
    """A Stripe refund as a return of money; None for one without an id or amount."""
    return _return(refund, "refund", refund.get("status") not in _REFUND_UNDONE)


def dispute_return(dispute: Mapping[str, Any], event_type: str = "") -> MoneyReturn | None:
    """A Stripe dispute as a return of money; None while it is an inquiry, which moves none."""
    status = str(dispute.get("status"))
    if status == "won" or event_type == "charge.dispute.funds_reinstated":
        return _return(dispute, "dispute", withdrawn=False)
    inquiry = status.startswith("warning_") or status == "prevented"
    if inquiry and event_type != "charge.dispute.funds_withdrawn":
        return None
    return _return(dispute, "dispute", withdrawn=True)


def payment_id_of(subject: Mapping[str, Any]) -> str | None:
    """The PaymentIntent that a charge, refund or dispute belongs to; it may be expanded."""
    intent = subject.get("payment_intent")
    if isinstance(intent, dict):
        intent = intent.get("id")
    return intent if isinstance(intent, str) and 0 < len(intent) <= 255 else None


def purchase_metadata(metadata: Any) -> dict[str, Any]:
    """What a payment's metadata says of its purchase, in the names of PaymentEvent; a part that is
    missing or malformed is None."""
    known = _without_nul(metadata) if isinstance(metadata, dict) else {}
    texts = {name: known[name] for name in _OURS if isinstance(known.get(name), str)}
    # An identity counts only beside the account's id, as both services write them.
    identity = texts if texts.get("account_id") else {}
    return {
        "account_id": _uuid(texts.get("account_id")),
        "purchase_id": _uuid(texts.get("purchase_id")),
        "oauth_provider": identity.get("oauth_provider") or None,
        "external_id": identity.get("external_id") or None,
    }


def is_ours(metadata: Any) -> bool:
    """Whether a payment's metadata has anything that this service, or the one before, writes."""
    return isinstance(metadata, dict) and any(name in metadata for name in _OURS)


def _interpreted(event: PaymentEvent, subject: dict[str, Any]) -> PaymentEvent:
    if event.type == "payment_intent.succeeded":
        return _paid(event, subject)
    if event.type == "payment_intent.payment_failed":
        payment_id = subject.get("id")
        return replace(
            event,
            action="acknowledge",
            payment_id=payment_id if isinstance(payment_id, str) else None,
        )
    if event.type == "charge.refunded" or event.type in _REFUND_EVENTS:
        return _returned(event, subject)
    if event.type.startswith("charge.dispute."):
        return _returned(event, subject)
    return event


def _paid(event: PaymentEvent, intent: dict[str, Any]) -> PaymentEvent:
    if not is_ours(intent.get("metadata")) or not isinstance(intent.get("id"), str):
        return event  # somebody else's payment through the same Stripe account
    return replace(
        event,
        action="settle",
        payment_id=intent["id"][:255],
        amount_minor=_amount(intent.get("amount_received", intent.get("amount"))),
        currency=str(intent.get("currency")),
        **purchase_metadata(intent.get("metadata")),
    )


def _returned(event: PaymentEvent, subject: dict[str, Any]) -> PaymentEvent:
    payment_id = payment_id_of(subject)
    if payment_id is None:
        return event
    returned = replace(
        event,
        action="return",
        payment_id=payment_id,
        currency=str(subject.get("currency")),
        **purchase_metadata(subject.get("metadata")),
    )
    if event.type.startswith("charge.dispute."):
        return _with_returns(event, returned, dispute_return(subject, event.type))
    if event.type in _REFUND_EVENTS:
        return _with_returns(event, returned, refund_return(subject))
    # Newer versions of Stripe's API do not embed a charge's refunds, and any may cut the list.
    listed = subject.get("refunds")
    if isinstance(listed, dict) and listed.get("data") and not listed.get("has_more"):
        return with_refunds(returned, listed["data"])
    return replace(returned, unlisted_refunds_of=str(subject.get("id")))


def _with_returns(
    event: PaymentEvent, returned: PaymentEvent, found: MoneyReturn | None
) -> PaymentEvent:
    return event if found is None else replace(returned, returns=(found,))


def _returns(found: Iterable[MoneyReturn | None]) -> tuple[MoneyReturn, ...]:
    return tuple(item for item in found if item is not None)


def _return(subject: Mapping[str, Any], kind: str, withdrawn: bool) -> MoneyReturn | None:
    amount = _amount(subject.get("amount"))
    if amount is None or not isinstance(subject.get("id"), str):
        return None
    return MoneyReturn(subject["id"][:200], kind, amount, withdrawn)


def _amount(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= INT64_MAX:
        return value
    return None


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 255:
        raise ValueError("not a name")
    return value


def _uuid(value: Any) -> UUID | None:
    try:
        return UUID(value)
    except (ValueError, TypeError, AttributeError):
        return None


def _without_nul(value: Any) -> Any:
    """What PostgreSQL can store: its text has no NUL character."""
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(item) for name, item in value.items()}
    return value
