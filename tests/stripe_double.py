"""A Stripe of our own: localstripe as a process, with tests/stripe_front.py in front of it. By this
class, tests do what a customer, a bank or Stripe's staff would do."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import re
import secrets
import sys
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, TypeVar

import httpx2
import stripe

from tests.stripe_front import (
    Drop,
    DropAfter,
    Fault,
    Form,
    Front,
    HoldAfter,
    HoldBefore,
    Json,
    Recorded,
    Script,
    Slow,
    Status,
    StatusAfter,
)
from tests.support import Process, free_port, wait_for

__all__ = [
    "Drop",
    "DropAfter",
    "HoldAfter",
    "HoldBefore",
    "Recorded",
    "Slow",
    "Status",
    "StatusAfter",
    "StripeDouble",
    "running_stripe",
]

WEBHOOK_PATH = "/v1/billing/webhooks/stripe"
# Its own command line listens on all addresses and saves everything in one file for all runs.
LOCALSTRIPE = """
import sys
from aiohttp import web
from localstripe import resources, server
resources.Store.dump_to_disk = lambda self: None
port = int(sys.argv[1])
web.run_app(server.app, host="127.0.0.1", port=port, shutdown_timeout=1, print=None)
"""
T = TypeVar("T")


class StripeDouble:
    """Stripe's API on loopback, empty at the start. Use it as a context manager."""

    def __init__(self) -> None:
        self.api_key = f"sk_test_{secrets.token_hex(12)}"
        self.publishable_key = f"pk_test_{secrets.token_hex(12)}"
        self.webhook_secret = f"whsec_{secrets.token_hex(16)}"

    def start(self) -> StripeDouble:
        port = free_port()
        self.direct_url = f"http://127.0.0.1:{port}"
        self._localstripe = Process([sys.executable, "-c", LOCALSTRIPE, str(port)]).start()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stripe", daemon=True)
        self._thread.start()
        self._front = Front(self.direct_url, self.api_key)
        self.base_url = f"http://127.0.0.1:{self._front.port}"
        self._run(self._front.open())
        try:
            wait_for(self._answers, "localstripe")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        try:
            self._run(self._front.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        finally:
            self._localstripe.stop()

    def forget(self) -> None:
        """Makes it empty, as at the start."""
        httpx2.delete(f"{self.direct_url}/_config/data", verify=False).raise_for_status()
        self._front.forget()

    def __enter__(self) -> StripeDouble:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        if self._localstripe.process.poll() is not None:
            raise AssertionError(f"localstripe ended:\n{self._localstripe.output[-3000:]}")
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(self.direct_url, verify=False).status_code > 0
        return False

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    # What the service requested, and faults for its requests

    @property
    def requests(self) -> list[Recorded]:
        """The requests that came to `base_url`, in order; what tests do by this class is not
        included. Clear the list with `.clear()`."""
        return self._front.requests

    def on(self, method: str, path_regex: str, fault: Fault, times: int = 1) -> Any:
        """Sets the fault for the next `times` requests of this method whose path matches the
        pattern. Faults for the same requests come in the order given. Returns the fault."""
        self._front.scripts.append(Script(method, re.compile(path_regex), fault, times))
        return fault

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """During the block, open connections are closed and new ones are refused."""
        self._run(self._front.refuse())
        try:
            yield
        finally:
            self._run(self._front.listen())

    def age(self, object_id: str, seconds: int) -> None:
        """Makes an intent, charge, refund or dispute older."""
        shifts = self._front.shifts
        shifts[object_id] = shifts.get(object_id, 0) + seconds

    # Payments

    def create_intent(self, **params: Any) -> Json:
        """An intent that was not made by the service. `params` are the API's, nested ones as
        dicts."""
        return self._run(self._front.create_intent(flat(params)))

    def intent(self, payment_id: str) -> Json:
        return self._run(self._front.one("payment_intent", payment_id))

    def pay(self, payment_id: str, card: str = "4242424242424242") -> Json:
        """The customer pays; returns the intent. With a card of stripe_front.DECLINED its status
        stays requires_payment_method, and last_payment_error says why; the customer may try another
        card. With 4000002500003155 it becomes requires_action."""
        return self._run(self._front.pay(payment_id, card))

    def wear_out(self, payment_id: str, card: str | None) -> None:
        """From now on the card that a payment saved is declined as `card` is, one of
        stripe_front.DECLINED, or its owner must confirm (4000002500003155); None makes it good."""
        method = self.intent(payment_id)["payment_method"]
        if card is None:
            self._front.worn.pop(method, None)
        else:
            self._front.worn[method] = card

    def cancel(self, payment_id: str) -> Json:
        """The shop's staff cancel a payment that is not paid; gives the intent."""
        return self._run(self._front.change_intent(payment_id, "cancel", {}))

    def charge_of(self, payment_id: str) -> Json:
        """The intent's latest charge."""
        charge_id = self.intent(payment_id)["latest_charge"]
        assert charge_id is not None, f"{payment_id} has no charge"
        return self._run(self._front.one("charge", charge_id))

    def refund(self, payment_id: str, amount: int | None = None) -> Json:
        """Refunds an amount, or everything that is left."""
        form = {"payment_intent": payment_id}
        if amount is not None:
            form["amount"] = str(amount)
        return self._run(self._front.create_refund(form))

    def fail_refund(self, refund_id: str) -> Json:
        """The bank sends a refund back; it no longer counts in the charge's amount_refunded."""
        return self._run(self._front.fail_refund(refund_id))

    def dispute(
        self, payment_id: str, amount: int | None = None, status: str = "needs_response"
    ) -> Json:
        """The cardholder disputes a payment; with a warning_... status it is an inquiry."""
        return self._run(self._front.create_dispute(payment_id, amount, status))

    def close_dispute(self, dispute_id: str, status: str) -> Json:
        """The bank decides: won, which gives back the money that is away, or lost."""
        return self._run(self._front.change_dispute(dispute_id, status))

    def move_dispute(self, dispute_id: str, amount: int) -> Json:
        """The bank withdraws (below 0) or reinstates money, whatever the dispute's status."""
        return self._run(self._front.move_dispute(dispute_id, amount))

    # Webhooks

    def event(
        self,
        type: str,
        object: Mapping[str, Any],
        *,
        event_id: str | None = None,
        livemode: bool = False,
        created: int | None = None,
    ) -> Json:
        """An event about an object. Delivered twice, it is the same event twice."""
        live = {"livemode": livemode} if "livemode" in object else {}
        return {
            "id": event_id or f"evt_{secrets.token_hex(12)}",
            "object": "event",
            "api_version": stripe.api_version,
            "created": int(time.time()) if created is None else created,
            "data": {"object": {**object, **live}},
            "livemode": livemode,
            "pending_webhooks": 1,
            "request": {"id": None, "idempotency_key": None},
            "type": type,
        }

    def succeeded_event(self, payment_id: str, **fields: Any) -> Json:
        """payment_intent.succeeded; `fields` as of event()."""
        return self.event("payment_intent.succeeded", self.intent(payment_id), **fields)

    def failed_event(self, payment_id: str, **fields: Any) -> Json:
        return self.event("payment_intent.payment_failed", self.intent(payment_id), **fields)

    def refunded_event(self, payment_id: str, embed_refunds: bool = False, **fields: Any) -> Json:
        """charge.refunded, with the present charge; with `embed_refunds` as API versions before
        2022-11-15 send it."""
        charge = self.charge_of(payment_id)
        if embed_refunds:
            charge["refunds"] = self._run(self._front.page("refund", {"charge": charge["id"]}))
        return self.event("charge.refunded", charge, **fields)

    def refund_event(self, type: str, refund: Mapping[str, Any], **fields: Any) -> Json:
        """refund.created, refund.updated, refund.failed or charge.refund.updated."""
        return self.event(type, refund, **fields)

    def dispute_event(self, type: str, dispute: Mapping[str, Any], **fields: Any) -> Json:
        """charge.dispute.created, .updated, .closed, .funds_withdrawn or .funds_reinstated."""
        return self.event(type, dispute, **fields)

    def sign(self, body: bytes, *, secret: str | None = None, timestamp: int | None = None) -> str:
        """The Stripe-Signature header for a body."""
        at = int(time.time()) if timestamp is None else timestamp
        key = (secret or self.webhook_secret).encode()
        return f"t={at},v1={hmac.new(key, b'%d.%s' % (at, body), hashlib.sha256).hexdigest()}"

    def deliver(
        self,
        base_url: str,
        event: Mapping[str, Any],
        *,
        secret: str | None = None,
        timestamp: int | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30,
    ) -> httpx2.Response:
        """Posts a signed event to the service; `headers` add to Stripe's, or replace them."""
        body = json.dumps(event, indent=2).encode()
        sent = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": self.sign(body, secret=secret, timestamp=timestamp),
            **(headers or {}),
        }
        url = f"{base_url}{WEBHOOK_PATH}"
        return httpx2.post(url, content=body, headers=sent, timeout=timeout, verify=False)

    def send_webhooks_to(self, url: str) -> None:
        """From now on localstripe signs and posts payment_intent.succeeded and .payment_failed to
        this URL, once and a second late. Its intents are old-fashioned: latest_charge is an object,
        and fields that it does not know (amount_received, description, ...) are missing."""
        types = ["payment_intent.succeeded", "payment_intent.payment_failed"]
        hook = {"url": url, "secret": self.webhook_secret, "events": types}
        httpx2.post(
            f"{self.direct_url}/_config/webhooks/tests", json=hook, verify=False
        ).raise_for_status()


def flat(params: Mapping[str, Any], outer: str = "") -> Form:
    """Nested parameters as form fields: {"metadata": {"a": 1}} -> {"metadata[a]": "1"}."""
    form: Form = {}
    for name, value in params.items():
        full = f"{outer}[{name}]" if outer else name
        if isinstance(value, Mapping):
            form.update(flat(value, full))
        else:
            form[full] = str(value).lower() if isinstance(value, bool) else str(value)
    return form


@contextlib.contextmanager
def running_stripe() -> Iterator[StripeDouble]:
    """A Stripe double until the block ends."""
    with StripeDouble() as double:
        yield double
