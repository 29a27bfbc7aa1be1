"""Calls of Stripe's API by its official SDK: asynchronous, bounded in time and number, each with a
key of its own (never the SDK's global one)."""

from __future__ import annotations

import asyncio
import re
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp

from server import __version__
from server.lazy_import import LazyModule
from server.observe import metrics

if TYPE_CHECKING:
    import stripe
else:
    stripe = LazyModule("stripe")

_RETRIES = 1
_AT_ONCE = 50
_PAGE = 100
_PAYMENT_ID = re.compile(r"[A-Za-z0-9_]{1,255}")
T = TypeVar("T")


class PaymentProviderError(Exception):
    """Stripe did not do what was asked; the text says why, for the log, and has no secret in it."""


class NotPermitted(PaymentProviderError):
    """The API key may not do this; restricted keys are often made without a permission."""


class PaymentMissing(Exception):
    """Stripe does not know the payment."""


@dataclass(frozen=True, slots=True)
class Intent:
    """A PaymentIntent. Amounts in minor units."""

    id: str
    client_secret: str = field(repr=False)
    amount_minor: int
    currency: str
    status: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Purchase:
    """What a PaymentIntent is made for."""

    purchase_id: str
    account_id: str
    oauth_provider: str
    external_id: str
    uses: int
    price_minor: int
    currency: str
    customer_email: str = field(repr=False)


class StripeApi:
    """Stripe with one API key. `base_url` replaces Stripe's own address, for tests; `timeout` in
    seconds is for one attempt, of which there are at most two."""

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
        """Makes a client. Reading the certificates it trusts takes a while, so a thread does it."""
        trusted = await asyncio.to_thread(ssl.create_default_context, cafile=stripe.ca_bundle_path)
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusted))
        return cls(api_key, base_url, seconds, session)

    async def close(self) -> None:
        """Closes the connections."""
        await self._session.close()

    async def create_intent(self, purchase: Purchase) -> Intent:
        """Asks for the payment of a purchase. The purchase's id is Stripe's idempotency key:
        asked again, Stripe gives the same payment. Raises PaymentProviderError."""
        needed: Any = {
            "amount": purchase.price_minor,
            "currency": purchase.currency.lower(),
            "metadata": {
                "account_id": purchase.account_id,
                "oauth_provider": purchase.oauth_provider,
                "external_id": purchase.external_id,
                "purchase_id": purchase.purchase_id,
            },
        }
        courtesies: Any = {
            "description": f"Purchase {purchase.uses} uses",
            "receipt_email": purchase.customer_email,
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
        except _InvalidRequest:
            # A receipt that cannot be sent (what agents know of an address may be no address) is
            # no reason not to sell. Other parameters want another idempotency key.
            made = await self._ask(
                "create_intent",
                lambda: create(
                    needed, {"idempotency_key": f"purchase-{purchase.purchase_id}-plain"}
                ),
            )
        except _ServerFault:
            # Stripe may remember its failure under the key for a day. A payment it made all the
            # same is never paid: nobody is given its secret.
            key = f"purchase-{purchase.purchase_id}-{secrets.token_hex(4)}"
            made = await self._ask(
                "create_intent", lambda: create(needed | courtesies, {"idempotency_key": key})
            )
        return _intent(made)

    async def get_intent(self, payment_id: str) -> Intent:
        """Reads a payment. Raises PaymentMissing, PaymentProviderError."""
        if not _PAYMENT_ID.fullmatch(payment_id):
            raise PaymentMissing
        retrieve = self._client.v1.payment_intents.retrieve_async
        return _intent(await self._ask("get_intent", lambda: retrieve(payment_id)))

    async def list_refunds_of(self, charge_id: str) -> list[dict[str, Any]]:
        """All refunds of a charge, as Stripe has them now. Raises PaymentProviderError."""
        params = {"charge": charge_id}
        return [item async for item in self._pages("refunds", self._client.v1.refunds, params)]

    def list_charges(self, since: int) -> AsyncIterator[dict[str, Any]]:
        """Charges made at `since` (Unix seconds) or later. Raises PaymentProviderError."""
        # "Later than the second before", since not every double of Stripe knows "at or later".
        params = {"created": {"gt": since - 1}}
        return self._pages("charges", self._client.v1.charges, params)

    async def list_refunds(self, since: int) -> AsyncIterator[dict[str, Any]]:
        """Refunds made at `since` or later: they come newest first, so reading ends at the first
        that is older. Raises PaymentProviderError."""
        async for refund in self._pages("refunds", self._client.v1.refunds, {}):
            if refund["created"] < since:
                return
            yield refund

    async def list_disputes(self, since: int) -> AsyncIterator[dict[str, Any]]:
        """Disputes opened at `since` or later, newest first. Raises PaymentProviderError."""
        async for dispute in self._pages("disputes", self._client.v1.disputes, {}):
            if dispute["created"] < since:
                return
            yield dispute

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


class _InvalidRequest(PaymentProviderError):
    """Stripe refuses the parameters."""


class _ServerFault(PaymentProviderError):
    """Stripe answered that it failed."""


async def _explained(call: Awaitable[T]) -> T:
    """What `call` gives, or its failure in our words: Stripe's own may quote what was sent."""
    try:
        return await call
    except stripe.AuthenticationError:
        raise PaymentProviderError(
            "Stripe does not accept the API key: check it by `ciris-billing providers test`"
        ) from None
    except stripe.PermissionError:
        raise NotPermitted(
            "the Stripe API key lacks a permission: it needs PaymentIntents (write), Charges,"
            " Refunds and Disputes (read)"
        ) from None
    except stripe.RateLimitError:
        raise PaymentProviderError("Stripe limits our requests (429)") from None
    except stripe.InvalidRequestError as error:
        if error.http_status == 404 or error.code == "resource_missing":
            raise PaymentMissing from None
        raise _InvalidRequest(
            f"Stripe refuses the request: status {error.http_status}, code {error.code},"
            f" parameter {error.param}"
        ) from None
    except stripe.APIConnectionError:
        raise PaymentProviderError("Stripe cannot be reached, or is too slow") from None
    except stripe.StripeError as error:
        if error.http_status == 404:  # of an address that there is not
            raise PaymentMissing from None
        failure = _ServerFault if (error.http_status or 0) >= 500 else PaymentProviderError
        raise failure(
            f"Stripe failed: {type(error).__name__}, status {error.http_status}"
        ) from None
    except (TimeoutError, OSError, aiohttp.ClientError) as error:
        # The SDK does not translate what goes wrong while an answer's body is read.
        raise PaymentProviderError(f"Stripe's answer broke off: {type(error).__name__}") from None


def _intent(made: Any) -> Intent:
    try:
        intent = made.to_dict()
        return Intent(
            intent["id"],
            intent["client_secret"],
            intent["amount"],
            intent["currency"].upper(),
            intent["status"],
            intent.get("metadata") or {},
        )
    except (KeyError, TypeError, AttributeError):
        raise PaymentProviderError("Stripe's answer is no payment") from None
