"""Has saved cards charged for accounts whose credits run low. The database decides who needs a
top-up and hands out attempts; a payment is recorded there before its card is charged, and a payment
is paid once at most. So a server that is killed at any moment costs nobody money: another one reads
at the provider what became of the payment, and goes on from there."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from time import perf_counter

import orjson

from server.gateway import DatabaseFault, Gateway, Refused, Row, Unavailable, functions
from server.observe import metrics
from server.payments.payments import Payments
from server.payments.provider import (
    Payment,
    PaymentMissing,
    PaymentProviderError,
    ProviderApi,
    Purchase,
    RequestRefused,
    SavedCard,
    SavedCards,
)

_LOG = logging.getLogger(__name__)
_INTERVAL = 1.0
_REST = 50  # the pause after a look is this many times its length, so looking takes 2 % of the time
_AT_ONCE = 8
_LAST_WORDS = 5.0  # how long an ending process waits for its attempts; other servers continue them


class TopUps:
    """The attempts of this process. `run` ends when it is cancelled."""

    def __init__(self, gateway: Gateway, payments: Payments) -> None:
        self._gateway = gateway
        self._payments = payments
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Looks every second for attempts, and works on them."""
        try:
            while True:
                took = await self._look()
                await asyncio.sleep(max(_INTERVAL, _REST * took))
        finally:
            if self._under_way:
                await asyncio.wait(self._under_way, timeout=_LAST_WORDS)
            for task in self._under_way:
                task.cancel()

    async def _look(self) -> float:
        """Begins to work on the attempts that the database hands out. Returns how long the database
        took."""
        began = perf_counter()
        free = _AT_ONCE - len(self._under_way)
        try:
            rows = await self._gateway.work(functions.claim_top_ups(limit=free)) if free else []
        except (Unavailable, DatabaseFault, Refused) as error:
            _LOG.warning("top-ups could not be looked for: %s", type(error).__name__)
            rows = []
        for row in rows:
            task = asyncio.create_task(self._attempt(row))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        return perf_counter() - began

    async def _attempt(self, row: Row) -> None:
        try:
            await self._work_on(row)
        except (Unavailable, DatabaseFault, Refused) as error:
            # The attempt stays open, and is handed out again.
            _LOG.warning("a top-up could not be noted: %s", type(error).__name__)

    async def _work_on(self, row: Row) -> None:
        """Brings an attempt as far as the provider lets it."""
        settings = self._payments.settings(row["provider"], orjson.loads(row["config_data"]))
        if settings is None:
            await self._note(row, "unknown", problem="provider_unavailable")
            return
        api = await self._payments.api(row["provider"], settings)
        outcome: str | None
        try:
            outcome, problem = await self._outcome(api, row)
        except PaymentMissing:
            outcome, problem = "failed", "card_missing"
        except RequestRefused as error:
            _LOG.error("a top-up failed: %s", error)
            outcome, problem = "failed", "card_refused"
        except PaymentProviderError as error:
            _LOG.warning("it is not known what became of a top-up: %s", error)
            outcome, problem = "unknown", "provider_unavailable"
        if outcome is not None:
            await self._note(row, outcome, problem=problem)

    async def _outcome(self, api: ProviderApi, row: Row) -> tuple[str | None, str]:
        """What became of an attempt, and why; None when it has ended already. Raises PaymentMissing
        and PaymentProviderError."""
        assert isinstance(api, SavedCards)
        if row["payment_id"] is not None:
            payment = await api.get_payment(row["payment_id"])
        elif row["customer_id"] is None:  # the person was erased in the meantime
            return "canceled", ""
        else:
            payment = await api.begin_payment(_purchase(row))
        if not payment.is_paid:
            noted = await self._note(row, "made", payment_id=payment.id)
            if noted["next_step"] == "stop":
                return None, ""
            if noted["payment_id"] != payment.id:  # another server was first
                payment = await api.get_payment(noted["payment_id"])
            if payment.is_untried and noted["next_step"] == "charge":
                payment = await _charged(api, payment)
        return await _verdict(api, payment)

    async def _note(
        self, row: Row, outcome: str, *, payment_id: str | None = None, problem: str = ""
    ) -> Row:
        [noted] = await self._gateway.work(
            functions.note_top_up(
                account_id=row["account_id"],
                purchase_id=row["purchase_id"],
                outcome=outcome,
                payment_id=payment_id,
                problem=problem or None,
            )
        )
        if outcome != "made":
            metrics.TOP_UPS.labels(outcome).inc()
        if noted["switched_off"]:
            metrics.TOP_UPS.labels("switched_off").inc()
        return noted


def _purchase(row: Row) -> Purchase:
    return Purchase(
        purchase_id=str(row["purchase_id"]),
        account_id=str(row["account_id"]),
        oauth_provider=row["oauth_provider"],
        external_id=row["external_id"],
        uses=row["uses"],
        price_minor=row["price_minor"],
        currency=row["currency"],
        customer_email=row["customer_email"] or "",
        card=SavedCard(row["customer_id"], row["payment_method_id"], ""),
    )


async def _charged(api: SavedCards, payment: Payment) -> Payment:
    """Has the card charged, and returns the payment as it is then."""
    try:
        return await api.charge_card(payment.id)
    except RequestRefused as error:
        _LOG.error("a card cannot be charged: %s", error)
        return replace(payment, problem="card_refused")


async def _verdict(api: SavedCards, payment: Payment) -> tuple[str, str]:
    """The outcome of an attempt. A payment that is not paid is canceled, so that it never is."""
    problem = payment.problem
    if payment.is_processing:
        return "unknown", "processing"
    if not payment.is_paid:
        try:
            payment = await api.cancel_payment(payment.id)
        except RequestRefused as error:  # it may still be paid, so it is asked for later
            _LOG.warning("a payment that was not paid cannot be canceled now: %s", error)
            return "unknown", "processing"
    if payment.is_paid:
        return "succeeded", ""
    return ("failed", problem) if problem else ("canceled", "")
