"""Carrying out a refund that billing.begin_refund has recorded: the provider is asked, and its
answer is recorded. Pages, scripts and commands all use this module."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol
from uuid import UUID

from server.payments.provider import PaymentMissing, ProviderApi, Refund, RequestRefused

UNKNOWN_PAYMENT = "the payment provider does not know the payment"


class Finish(Protocol):
    """Calls billing.finish_refund."""

    def __call__(
        self, *, refund_id: UUID, return_id: str | None, failure: str | None
    ) -> Awaitable[Any]: ...


async def carry_out(
    begun: Mapping[str, Any], connect: Callable[[], Awaitable[ProviderApi]], finish: Finish
) -> str:
    """Asks the provider for the refund of a row of billing.begin_refund, and records the answer.
    Returns the refund's id at the provider; a refund that has one is not asked for again.

    Raises RequestRefused, when the provider gives nothing back: that is recorded, and the refund is
    over. Raises PaymentProviderError when its answer is not known: the refund stays open, and the
    same call with the same idempotency key goes on with it."""
    if begun["return_id"] is not None:
        return str(begun["return_id"])
    if begun["failure"] is not None:
        raise RequestRefused(begun["failure"])
    refund = Refund(
        str(begun["refund_id"]), begun["payment_id"], begun["amount_minor"], begun["replayed"]
    )
    try:
        return_id = await (await connect()).refund(refund)
    except (RequestRefused, PaymentMissing) as error:
        failure = str(error) or UNKNOWN_PAYMENT
        await finish(refund_id=begun["refund_id"], return_id=None, failure=failure)
        raise RequestRefused(failure) from None
    await finish(refund_id=begun["refund_id"], return_id=return_id, failure=None)
    return return_id
