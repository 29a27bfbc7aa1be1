"""Calls Stripe's API by its official SDK: asynchronously, with bounds on time and number, each call
with its own key (never the SDK's global one)."""

from __future__ import annotations

import asyncio
import re
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from importlib import import_module
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp

from server import __version__
from server.lazy_import import LazyModule
from server.limits import most
from server.observe import metrics
from server.payments.provider import (
    ListedPayment,
    ListedReturn,
    MoneyReturn,
    NotPermitted,
    Payment,
    PaymentEvent,
    PaymentMissing,
    PaymentProviderError,
    Purchase,
    Refund,
    RequestRefused,
    ReturnListing,
    SavedCard,
)
from server.payments.stripe.events import (
    claim_of,
    dispute_return,
    payment_id_of,
    refund_return,
    with_refunds,
)

if TYPE_CHECKING:
    import stripe
else:
    stripe = LazyModule("stripe")

_RETRIES = 1
_AT_ONCE = 50
_PAGE = 100
_REFUND_ID = "billing_refund_id"  # under this name a refund's metadata has our id of it
_PAYMENT_ID = re.compile(rf"[A-Za-z0-9_]{{1,{most('payment_id')}}}")
_WORD = re.compile("[a-z][a-z0-9_]{0,99}")
T = TypeVar("T")


class StripeApi:
    """Stripe with one API key. `base_url` replaces Stripe's own address, for tests. `timeout`, in
    seconds, is for one attempt; there are at most two attempts."""

    def __init__(
        self, api_key: str, base_url: str | None, timeout: float, session: aiohttp.ClientSession
    ) -> None:
        sdk: Any = import_module("stripe")
        sdk.enable_telemetry = False
        stripe.set_app_info("ciris-billing", version=__version__)
        addresses: Any = {"api": base_url} if base_url else None
        self._session = session
        self._client = stripe.StripeClient(
            api_key,
            http_client=stripe.AIOHTTPClient(
                timeout=aiohttp.ClientTimeout(total=timeout), session=session
            ),
            base_addresses=addresses,
            max_network_retries=_RETRIES,
        )
        self._slots = asyncio.Semaphore(_AT_ONCE)

    @classmethod
    async def open(cls, api_key: str, base_url: str | None, seconds: float) -> StripeApi:
        """Makes a client. Reading the trusted certificates takes a while, so it runs in a
        thread."""
        trusted = await asyncio.to_thread(ssl.create_default_context, cafile=stripe.ca_bundle_path)
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusted))
        return cls(api_key, base_url, seconds, session)

    async def close(self) -> None:
        """Closes the connections."""
        await self._session.close()

    async def begin_payment(self, purchase: Purchase) -> Payment:
        """Asks for the payment of a purchase. The purchase's id is Stripe's idempotency key: when
        asked again, Stripe returns the same payment. Raises PaymentProviderError."""
        needed: Any = {
            "amount": purchase.price_minor,
            "currency": purchase.currency.lower(),
            "metadata": {
                "account_id": purchase.account_id,
                "oauth_provider": purchase.oauth_provider,
                "external_id": purchase.external_id,
                "purchase_id": purchase.purchase_id,
            },
            **await self._card_of(purchase),
        }
        courtesies: Any = {
            "description": f"Purchase {purchase.uses} uses",
            **({"receipt_email": purchase.customer_email} if purchase.customer_email else {}),
        }
        create = self._client.v1.payment_intents.create_async
        try:
            made = await self._ask(
                "create_intent",
                lambda: create(
                    needed | courtesies,
                    {"idempotency_key": f"purchase-{purchase.purchase_id}"},
                ),
            )
        except RequestRefused:
            # A receipt that cannot be sent is no reason not to sell (what agents send as an address
            # may not be one). Other parameters need another idempotency key.
            made = await self._ask(
                "create_intent",
                lambda: create(
                    needed, {"idempotency_key": f"purchase-{purchase.purchase_id}-plain"}
                ),
            )
        except _ServerFault:
            # Stripe may remember its failure under the key for a day. If it made a payment all the
            # same, that payment is never paid, because nobody is given its secret.
            key = f"purchase-{purchase.purchase_id}-{secrets.token_hex(4)}"
            made = await self._ask(
                "create_intent", lambda: create(needed | courtesies, {"idempotency_key": key})
            )
        return _payment(made)

    async def _card_of(self, purchase: Purchase) -> Mapping[str, Any]:
        """What an intent says of the card: the one that pays, or that it is to be saved, for a new
        customer of Stripe's."""
        if purchase.card is not None:
            return {
                "customer": purchase.card.customer_id,
                "payment_method": purchase.card.payment_method_id,
                # A means of payment that leads to another page needs its owner.
                "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
            }
        if not purchase.save_card:
            return {}
        params: Any = {"metadata": {"account_id": purchase.account_id}}
        create = self._client.v1.customers.create_async
        key = f"customer-{purchase.purchase_id}"
        customer = await self._ask(
            "create_customer", lambda: create(params, {"idempotency_key": key})
        )
        return {"customer": customer.id, "setup_future_usage": "off_session"}

    async def get_saved_card(self, payment_id: str) -> SavedCard | None:
        """The card that a payment saved. Raises PaymentMissing, PaymentProviderError."""
        retrieve = self._client.v1.payment_intents.retrieve_async
        expand: Any = {"expand": ["payment_method"]}
        intent = (await self._ask("get_intent", lambda: retrieve(payment_id, expand))).to_dict()
        method, customer_id = intent.get("payment_method"), intent.get("customer")
        if intent.get("status") != "succeeded" or not customer_id or not isinstance(method, dict):
            return None
        card = method.get("card") or {}
        text = f"{card.get('brand') or method.get('type')} {card.get('last4') or ''}".strip()
        return SavedCard(customer_id, method["id"], text[: most("card")])

    async def charge_card(self, payment_id: str) -> Payment:
        """Confirms an intent without its customer, by the card that it names. Stripe pays an intent
        once at most. Raises PaymentMissing, PaymentProviderError."""
        confirm = self._client.v1.payment_intents.confirm_async
        params: Any = {"off_session": True}
        try:
            return _payment(await self._ask("confirm_intent", lambda: confirm(payment_id, params)))
        except RequestRefused:  # the card was declined, or another server was first
            payment = await self.get_payment(payment_id)
            if payment.is_untried:
                raise
            return payment

    async def cancel_payment(self, payment_id: str) -> Payment:
        """Cancels an intent that is not paid. Raises PaymentMissing, PaymentProviderError."""
        cancel = self._client.v1.payment_intents.cancel_async
        try:
            return _payment(await self._ask("cancel_intent", lambda: cancel(payment_id)))
        except RequestRefused:  # it is paid, or was canceled before
            payment = await self.get_payment(payment_id)
            if payment.status not in ("succeeded", "canceled"):
                raise
            return payment

    async def get_payment(self, payment_id: str) -> Payment:
        """Reads a payment. Raises PaymentMissing, PaymentProviderError."""
        if not _PAYMENT_ID.fullmatch(payment_id):
            raise PaymentMissing
        retrieve = self._client.v1.payment_intents.retrieve_async
        return _payment(await self._ask("get_intent", lambda: retrieve(payment_id)))

    async def refund(self, refund: Refund) -> str:
        """Refunds an amount of a payment. Raises RequestRefused, PaymentMissing,
        PaymentProviderError."""
        if not _PAYMENT_ID.fullmatch(refund.payment_id):
            raise PaymentMissing
        if refund.may_be_made:
            # Stripe forgets idempotency keys after a day, and keeps what a refund carries.
            listed = self._pages(
                "refunds", self._client.v1.refunds, {"payment_intent": refund.payment_id}
            )
            async for made in listed:
                if (made.get("metadata") or {}).get(_REFUND_ID) == refund.refund_id:
                    return str(made["id"])
        params: Any = {
            "payment_intent": refund.payment_id,
            "amount": refund.amount_minor,
            "metadata": {_REFUND_ID: refund.refund_id},
        }
        create = self._client.v1.refunds.create_async
        made = await self._ask(
            "create_refund",
            lambda: create(params, {"idempotency_key": f"refund-{refund.refund_id}"}),
        )
        return str(made.id)

    async def complete(self, event: PaymentEvent) -> PaymentEvent:
        """Adds all refunds of the charge in the event, as Stripe has them now. Raises
        PaymentProviderError."""
        params = {"charge": event.unlisted_refunds_of}
        refunds = self._pages("refunds", self._client.v1.refunds, params)
        try:
            return with_refunds(event, [refund async for refund in refunds])
        except (NotPermitted, PaymentMissing):
            return replace(event, action="unreadable")

    async def list_payments(self, since: datetime) -> AsyncIterator[ListedPayment]:
        """Yields charges made then or later that succeeded. Raises PaymentProviderError."""
        # "Later than the second before", because not every double of Stripe supports "at or later".
        params = {"created": {"gt": int(since.timestamp()) - 1}}
        async for charge in self._pages("charges", self._client.v1.charges, params):
            payment_id = payment_id_of(charge)
            if (
                charge.get("status") == "succeeded"
                and charge.get("captured", True)
                and payment_id is not None
            ):
                yield ListedPayment(
                    payment_id,
                    charge.get("amount_captured") or charge["amount"],
                    charge["currency"].upper(),
                    _time(charge),
                    bool(charge.get("refunded")),
                )

    def list_returns(self, since: datetime) -> Sequence[ReturnListing]:
        """Lists refunds and disputes made then or later."""
        start, stripe_v1 = int(since.timestamp()), self._client.v1
        return (
            ReturnListing(
                "refunds", self._returns("refunds", stripe_v1.refunds, refund_return, start)
            ),
            ReturnListing(
                "disputes",
                self._returns("disputes", stripe_v1.disputes, dispute_return, start),
                may_be_missing=True,
            ),
        )

    async def _returns(
        self,
        what: str,
        service: Any,
        read: Callable[[Mapping[str, Any]], MoneyReturn | None],
        start: int,
    ) -> AsyncIterator[ListedReturn]:
        # They come newest first, so reading ends at the first older one.
        async for subject in self._pages(what, service, {}):
            if subject["created"] < start:
                return
            payment_id, money = payment_id_of(subject), read(subject)
            if payment_id is not None and money is not None:
                yield ListedReturn(
                    payment_id, str(subject["currency"]).upper(), _time(subject), money
                )

    async def test(self) -> None:
        """Raises PaymentProviderError unless Stripe accepts the key for reading payments."""
        params: Any = {"limit": 1}
        await self._ask("test", lambda: self._client.v1.payment_intents.list_async(params))

    async def _pages(
        self, what: str, service: Any, params: Mapping[str, Any]
    ) -> AsyncIterator[dict[str, Any]]:
        after: dict[str, str] = {}
        while True:
            wanted = {**params, **after, "limit": _PAGE}
            answer = await self._ask(f"list_{what}", lambda w=wanted: service.list_async(w))
            page = answer.to_dict()
            items = page.get("data")
            if not isinstance(items, list):
                raise PaymentProviderError(f"Stripe's answer is no list of {what}")
            for item in items:
                yield item
            if not items or not page.get("has_more"):
                return
            after = {"starting_after": items[-1]["id"]}

    async def _ask(self, operation: str, call: Any) -> Any:
        if self._slots.locked():
            metrics.count_provider_request(operation, "error")
            raise PaymentProviderError("too many calls of Stripe are under way")
        started = perf_counter()
        result = "error"
        try:
            async with self._slots:
                answer = await _explained(call())
            result = "success"
            return answer
        except PaymentMissing:
            result = "success"
            raise
        finally:
            metrics.count_provider_request(operation, result)
            metrics.PROVIDER_DURATION.observe(perf_counter() - started)


class _ServerFault(PaymentProviderError):
    """Stripe answered with a server error."""


async def _explained(call: Awaitable[T]) -> T:
    """Returns the result of `call`, or raises its failure in our words: Stripe's own may quote what
    was sent."""
    try:
        return await call
    except stripe.AuthenticationError:
        raise PaymentProviderError(
            "Stripe does not accept the API key: check it by `ciris-billing providers test`"
        ) from None
    except stripe.PermissionError:
        raise NotPermitted(
            "the Stripe API key lacks a permission: it needs PaymentIntents and Refunds (write),"
            " Charges and Disputes (read), and for top-ups Customers (write), PaymentMethods (read)"
        ) from None
    except stripe.RateLimitError:
        raise PaymentProviderError("Stripe limits our requests (429)") from None
    except stripe.InvalidRequestError as error:
        if error.http_status == 404 or error.code == "resource_missing":
            raise PaymentMissing from None
        raise RequestRefused(
            f"Stripe refuses the request: status {error.http_status}, code {error.code},"
            f" parameter {error.param}"
        ) from None
    except stripe.CardError as error:
        raise RequestRefused(f"Stripe could not charge the card: {error.code}") from None
    except stripe.APIConnectionError:
        raise PaymentProviderError("Stripe cannot be reached, or is too slow") from None
    except stripe.StripeError as error:
        if error.http_status == 404:  # the address does not exist
            raise PaymentMissing from None
        failure = _ServerFault if (error.http_status or 0) >= 500 else PaymentProviderError
        raise failure(
            f"Stripe failed: {type(error).__name__}, status {error.http_status}"
        ) from None
    except (TimeoutError, OSError, aiohttp.ClientError) as error:
        # The SDK does not translate errors that occur while the body of an answer is read.
        raise PaymentProviderError(f"Stripe's answer broke off: {type(error).__name__}") from None


def _payment(made: Any) -> Payment:
    try:
        intent = made.to_dict()
        return Payment(
            intent["id"],
            intent["client_secret"],
            intent["amount"],
            intent["currency"].upper(),
            intent["status"],
            claim_of(intent.get("metadata")),
            is_untried=intent["status"] == "requires_confirmation",
            is_processing=intent["status"] == "processing",
            problem=_problem(intent),
        )
    except (KeyError, TypeError, AttributeError):
        raise PaymentProviderError("Stripe's answer is no payment") from None


def _problem(intent: Mapping[str, Any]) -> str:
    """Why a payment failed, in one word of the bank's or of Stripe's."""
    error = intent.get("last_payment_error")
    if intent["status"] == "requires_action":
        return "authentication_required"
    if not isinstance(error, dict):
        return ""
    code, why = error.get("code"), error.get("decline_code")
    word = code if why in (None, "generic_decline", "authentication_required") else why
    return word if isinstance(word, str) and _WORD.fullmatch(word) else "card_declined"


def _time(subject: Mapping[str, Any]) -> datetime:
    return datetime.fromtimestamp(subject["created"]).astimezone()
