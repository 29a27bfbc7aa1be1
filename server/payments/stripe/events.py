"""Translates Stripe's webhook events into the terms of billing.process_payment_event. Event types:
https://docs.stripe.com/api/events/types"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any
from uuid import UUID

import orjson

from server.limits import INT64_MAX, most
from server.payments.provider import Claim, InvalidEvent, MoneyReturn, PaymentEvent

_OURS = ("account_id", "oauth_provider", "external_id", "purchase_id")
_REFUND_EVENTS = frozenset(
    {"charge.refund.updated", "refund.created", "refund.updated", "refund.failed"}
)
_SETTLED, _FAILED = "payment_intent.succeeded", "payment_intent.payment_failed"
_WARNINGS = "radar.early_fraud_warning."
_THIN = "v2.core.event"
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
_REFUND_UNDONE = frozenset({"failed", "canceled"})
_DISPUTE_CLOSED = frozenset({"won", "lost"})
_LAST_SECOND = 253_402_300_799  # of the year 9999


def read_event(body: bytes) -> PaymentEvent:
    """Reads the event of a webhook request that Stripe has signed. An event of a kind or shape that
    we do not use is to be ignored. Raises InvalidEvent for what is not an event, and for an event
    of a kind that we use without an id to store it by: Stripe sends that event again, and nothing
    is lost."""
    try:
        event = orjson.loads(_NUL.sub(r"\1", body.decode()))
    except ValueError:
        raise InvalidEvent("it is not JSON") from None
    if not isinstance(event, dict):
        raise InvalidEvent("it is JSON, and no object")
    kind = event.get("type")
    made = PaymentEvent(
        id=event["id"] if _is_name(event.get("id")) else None,
        type=kind[: most("event_type")] if kind and isinstance(kind, str) else "unknown",
        livemode=event["livemode"] if isinstance(event.get("livemode"), bool) else None,
        payload=_payload(event),
        created=_time(event.get("created")),
        claim=Claim(is_foreign=bool(event.get("account"))),  # Connect: an event of another account
    )
    if event.get("object") == _THIN:
        return replace(made, complaint="it is a thin event: give the endpoint snapshot events")
    if not _is_used(made.type):
        return made
    if made.id is None:
        raise InvalidEvent(f"{made.type} has no id")
    data = event.get("data")
    subject = data.get("object") if isinstance(data, dict) else None
    if not isinstance(subject, dict) or not _is_name(subject.get("id")):
        return replace(made, complaint="it does not carry the object that it is about")
    return _interpreted(made, subject)


def with_refunds(event: PaymentEvent, refunds: Iterable[Mapping[str, Any]]) -> PaymentEvent:
    """Adds to the event the refunds that it did not contain, as Stripe has them now."""
    return replace(event, created=None, returns=_returns(map(refund_return, refunds)))


def refund_return(refund: Mapping[str, Any]) -> MoneyReturn | None:
    """A Stripe refund as a return of money; None for one without an id or amount."""
    undone = refund.get("status") in _REFUND_UNDONE
    return _return(
        refund, "refund", 0 if undone else refund.get("amount"), "closed" if undone else "open"
    )


def dispute_return(dispute: Mapping[str, Any]) -> MoneyReturn | None:
    """A Stripe dispute as a return of money; None for one without an id or amount. Its balance
    transactions tell what is away; its status tells it only where there are none, as in doubles of
    Stripe."""
    status = str(dispute.get("status"))
    is_inquiry = status.startswith("warning_") or status == "prevented"
    state = "inquiry" if is_inquiry else "closed" if status in _DISPUTE_CLOSED else "open"
    moves = _balance_moves(dispute)
    if moves is None:
        away = 0 if is_inquiry or status == "won" else dispute.get("amount")
        return _return(dispute, "dispute", away, state)
    return _return(dispute, "dispute", _away(dispute, moves), state, len(moves))


def payment_id_of(subject: Mapping[str, Any]) -> str | None:
    """The PaymentIntent that a charge, refund or dispute belongs to; it may be expanded."""
    intent = subject.get("payment_intent")
    if isinstance(intent, dict):
        intent = intent.get("id")
    return intent if _is_name(intent) else None


def claim_of(metadata: Any) -> Claim:
    """The purchase that a payment's metadata names."""
    known = metadata if isinstance(metadata, dict) else {}
    # Without NUL, which PostgreSQL cannot store.
    texts = {
        name: known[name].replace("\0", "") for name in _OURS if isinstance(known.get(name), str)
    }
    # An identity counts only together with the account's id, as both services write them.
    identity = texts if texts.get("account_id") else {}
    account_id, purchase_id = _uuid(texts.get("account_id")), _uuid(texts.get("purchase_id"))
    return Claim(
        is_claimed=any(name in known for name in _OURS),
        is_foreign=bool(identity.get("oauth_provider") and identity.get("external_id"))
        and (account_id is None or (purchase_id is None and bool(known.get("purchase_id")))),
        account_id=account_id,
        purchase_id=purchase_id,
        oauth_provider=identity.get("oauth_provider") or None,
        external_id=identity.get("external_id") or None,
    )


def _is_used(event_type: str) -> bool:
    return (
        event_type in (_SETTLED, _FAILED, "charge.refunded")
        or event_type in _REFUND_EVENTS
        or event_type.startswith(("charge.dispute.", _WARNINGS))
    )


def _interpreted(event: PaymentEvent, subject: dict[str, Any]) -> PaymentEvent:
    if event.type == _SETTLED:
        return _paid(event, subject)
    if event.type == _FAILED:
        return replace(event, action="acknowledge", payment_id=subject["id"])
    if event.type.startswith(_WARNINGS):
        return _warned(event, subject)
    return _returned(event, subject)


def _warned(event: PaymentEvent, warning: dict[str, Any]) -> PaymentEvent:
    payment_id, warning_id = payment_id_of(warning), warning.get("id")
    if payment_id is None or not isinstance(warning_id, str) or not warning_id:
        return event
    return replace(
        event,
        action="warn",
        payment_id=payment_id,
        warning_id=warning_id[: most("warning_id")],
        warning_is_open=warning.get("actionable") is not False,
    )


def _paid(event: PaymentEvent, intent: dict[str, Any]) -> PaymentEvent:
    # The database decides whose payment it is.
    if intent.get("status", "succeeded") != "succeeded":
        return event
    return replace(
        _claimed(event, intent.get("metadata")),
        action="settle",
        payment_id=intent["id"],
        amount_minor=_amount(intent.get("amount_received", intent.get("amount"))),
        currency=str(intent.get("currency")),
    )


def _returned(event: PaymentEvent, subject: dict[str, Any]) -> PaymentEvent:
    payment_id = payment_id_of(subject)
    if payment_id is None:
        return event
    returned = replace(
        _claimed(event, subject.get("metadata")),
        action="return",
        payment_id=payment_id,
        currency=str(subject.get("currency")),
    )
    if event.type.startswith("charge.dispute."):
        return _with_return(event, returned, dispute_return(subject))
    if event.type in _REFUND_EVENTS:
        return _with_return(event, returned, refund_return(subject))
    # Newer versions of Stripe's API do not embed a charge's refunds, and any version may cut the
    # list.
    listed = subject.get("refunds")
    if isinstance(listed, dict) and listed.get("data") and not listed.get("has_more"):
        return replace(returned, returns=_returns(map(refund_return, listed["data"])))
    return replace(returned, unlisted_refunds_of=subject["id"])


def _claimed(event: PaymentEvent, metadata: Any) -> PaymentEvent:
    claim = claim_of(metadata)
    is_foreign = claim.is_foreign or event.claim.is_foreign
    return replace(event, claim=replace(claim, is_foreign=is_foreign))


def _with_return(
    event: PaymentEvent, returned: PaymentEvent, found: MoneyReturn | None
) -> PaymentEvent:
    return event if found is None else replace(returned, returns=(found,))


def _returns(found: Iterable[MoneyReturn | None]) -> tuple[MoneyReturn, ...]:
    return tuple(item for item in found if item is not None)


def _return(
    subject: Mapping[str, Any], kind: str, away: Any, state: str, transactions: int | None = None
) -> MoneyReturn | None:
    amount = _amount(subject.get("amount"))
    if amount is None or not _is_name(subject.get("id")):
        return None
    away = min(max(away, 0), amount)
    return MoneyReturn(subject["id"][: most("return_id")], kind, amount, away, state, transactions)


def _balance_moves(dispute: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """A dispute's balance transactions, oldest first; None where the dispute does not contain
    them."""
    listed = dispute.get("balance_transactions")
    if not isinstance(listed, list):
        return None
    if not all(isinstance(item, dict) and _is_integer(item.get("amount")) for item in listed):
        return None
    return sorted(listed, key=lambda item: _amount(item.get("created")) or 0)


def _away(dispute: Mapping[str, Any], moves: list[Mapping[str, Any]]) -> int:
    """The amount that a dispute's balance transactions leave away, in the dispute's currency.
    Negative amounts were withdrawn, positive ones reinstated. Where they are in another currency,
    into which the payment was settled, each counts as its share of the first withdrawal, at its own
    rate."""
    amounts = [Fraction(move["amount"]) for move in moves]
    own = dispute.get("currency")
    if any(move.get("currency", own) != own for move in moves):
        rates = [_rate(move.get("exchange_rate")) for move in moves]
        if all(rates):
            amounts = [amount / rate for amount, rate in zip(amounts, rates, strict=True) if rate]
        first = next((-amount for amount in amounts if amount < 0), None)
        if first is None:
            return 0
        amounts = [amount * (_amount(dispute.get("amount")) or 0) / first for amount in amounts]
    return round(-sum(amounts))


def _rate(value: Any) -> Fraction | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return Fraction(str(value)) if is_number and 0 < value < 1e12 else None


def _time(value: Any) -> datetime | None:
    if _is_integer(value) and 0 <= value <= _LAST_SECOND:
        return datetime.fromtimestamp(value, UTC)
    return None


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _amount(value: Any) -> int | None:
    if _is_integer(value) and 0 < value <= INT64_MAX:
        return int(value)
    return None


def _payload(event: dict[str, Any]) -> str:
    try:
        return orjson.dumps(event).decode()
    except TypeError:  # nested too deep to be written: only its name is kept
        return orjson.dumps(
            {name: value for name, value in event.items() if not isinstance(value, dict | list)}
        ).decode()


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= most()


def _uuid(value: Any) -> UUID | None:
    try:
        return UUID(value)
    except (ValueError, TypeError, AttributeError):
        return None
