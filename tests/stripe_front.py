"""The server in front of localstripe. It adds what Stripe has and localstripe lacks: idempotency
keys, Stripe's errors, filters and pages, disputes, and faults on demand."""

from __future__ import annotations

import asyncio
import operator
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote

import aiohttp
from aiohttp import web

Json = dict[str, Any]
Form = dict[str, str]  # as on the wire: {"metadata[key]": "value"}

# The lists that are filtered and paged here, and the filters of each besides `created`.
FILTERS = {
    "payment_intent": {"customer"},
    "charge": {"customer", "payment_intent"},
    "refund": {"charge", "payment_intent"},
    "dispute": {"charge", "payment_intent"},
}
CREATED = {
    "created": operator.eq,
    "created[gt]": operator.gt,
    "created[gte]": operator.ge,
    "created[lt]": operator.lt,
    "created[lte]": operator.le,
}
# An intent's fields that localstripe refuses, and others that it does not return.
TEXTS = (
    "cancellation_reason",
    "description",
    "receipt_email",
    "setup_future_usage",
    "statement_descriptor",
    "statement_descriptor_suffix",
)
UNSET = ("application", "automatic_payment_methods", "canceled_at", "processing", "review")
# Stripe's test cards that fail when charged -> error code, decline code. localstripe declines most
# of them only when they are attached to a customer, so there each is charged as DECLINING.
DECLINED = {
    "4000000000000002": ("card_declined", "generic_decline"),
    "4000000000000341": ("card_declined", "generic_decline"),
    "4000000000009995": ("card_declined", "insufficient_funds"),
    "4000000000000069": ("expired_card", "expired_card"),
    "4000000000000127": ("incorrect_cvc", "incorrect_cvc"),
    "4000000000000119": ("processing_error", "processing_error"),
}
DECLINING = "4000000000000341"
SMALLEST_USD = 50  # cents: Stripe refuses smaller amounts
HOLD_SECONDS = 30


class Refusal(Exception):
    """An error answer."""

    def __init__(
        self, status: int, message: str, kind: str = "invalid_request_error", **fields: Any
    ):
        super().__init__(message)
        self.status = status
        self.body = {"error": {"type": kind, "message": message, **fields}}


class Dropped(Exception):
    """The connection is closed without an answer."""


class Fault:
    """A fault around one request: `before` the request reaches Stripe, or `after` Stripe has
    handled it."""

    async def before(self) -> web.Response | None:
        """Returns the answer if Stripe is not to be asked."""
        return None

    async def after(self) -> web.Response | None:
        """Runs when the answer is ready and not sent yet; may return another one."""
        return None


@dataclass
class Status(Fault):
    """Answers this status; Stripe does nothing. With `remembered`, the same idempotency key gets
    this answer again, as it does when Stripe itself failed midway."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    remembered: bool = False

    async def before(self) -> web.Response:
        return web.json_response(self.content, status=self.status, headers=self.headers)

    @property
    def content(self) -> Any:
        return self.body or {"error": {"type": "api_error", "message": "An error on our side."}}


@dataclass
class Slow(Fault):
    """Waits before the request reaches Stripe, which handles it even if the client has gone."""

    seconds: float

    async def before(self) -> None:
        await asyncio.sleep(self.seconds)


@dataclass
class StatusAfter(Fault):
    """Answers this status; Stripe has done what was asked."""

    status: int

    async def after(self) -> web.Response:
        return web.json_response(Status(self.status).content, status=self.status)


class Drop(Fault):
    """Closes the connection; Stripe does nothing."""

    async def before(self) -> None:
        raise Dropped


class DropAfter(Fault):
    """Closes the connection; Stripe has done what was asked."""

    async def after(self) -> None:
        raise Dropped


class Hold(Fault):
    """Waits for `release()`, or for the double's end; `reached` is set when a request waits."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._released: Future[None] = Future()

    def release(self) -> None:
        if not self._released.done():
            self._released.set_result(None)

    async def wait(self) -> None:
        self.reached.set()
        await asyncio.wait([asyncio.wrap_future(self._released)], timeout=HOLD_SECONDS)


class HoldBefore(Hold):
    """Holds the request; Stripe has not seen it yet."""

    async def before(self) -> None:
        await self.wait()


class HoldAfter(Hold):
    """Holds the answer; Stripe has done what was asked."""

    async def after(self) -> None:
        await self.wait()


@dataclass
class Recorded:
    """A request as it came. `status` is that of the answer, None while (or if) there is none. Names
    of headers are in lower case, names of form fields as on the wire (`metadata[key]`)."""

    method: str
    path: str
    query: Form
    headers: dict[str, str]
    form: Form
    status: int | None = None


@dataclass
class Script:
    """A fault for the next `times` requests of this kind."""

    method: str
    path: re.Pattern[str]
    fault: Fault
    times: int


class Front:
    """Stripe's API before a localstripe. All methods run on one event loop."""

    def __init__(self, localstripe: str, api_key: str):
        self.localstripe = localstripe
        self.api_key = api_key
        self.forget()
        self.socket = bound_socket()
        self.port = int(self.socket.getsockname()[1])

    def forget(self) -> None:
        """Begins again; localstripe keeps what it knows."""
        self.requests: list[Recorded] = []
        self.scripts: list[Script] = []
        self.disputes: dict[str, Json] = {}
        self.kept: dict[str, Json] = {}  # fields of an object that localstripe does not keep
        self.shifts: dict[str, int] = {}  # seconds by which an object is older
        self.cards: dict[str, str] = {}  # intent -> the card last charged
        self.worn: dict[str, str] = {}  # saved card -> the card of whose kind it is by now
        self.failed_refunds: dict[str, Json] = {}
        self.answers: dict[str, tuple[Any, tuple[int, Json] | None]] = {}  # by idempotency key

    async def open(self) -> None:
        self.session = aiohttp.ClientSession(self.localstripe)
        await self.listen()

    async def close(self) -> None:
        for script in self.scripts:
            if isinstance(script.fault, Hold):
                script.fault.release()
        await self.runner.cleanup()
        await self.session.close()
        self.socket.close()

    async def listen(self) -> None:
        self.runner = web.ServerRunner(web.Server(self._serve), shutdown_timeout=0.2)
        await self.runner.setup()
        await web.SockSite(self.runner, self.socket).start()

    async def refuse(self) -> None:
        """Closes all connections. The port stays ours but accepts no new ones."""
        await self.runner.cleanup()
        self.socket = bound_socket(self.port)

    # From the request to the answer

    async def _serve(self, request: web.BaseRequest) -> web.Response:
        recorded = Recorded(
            request.method,
            request.path,
            dict(request.query),
            {name.lower(): value for name, value in request.headers.items()},
            dict(parse_qsl(await request.text(), keep_blank_values=True)),
        )
        self.requests.append(recorded)
        fault = self._fault(request)
        try:
            response = await fault.before() or await self._response(recorded)
            if isinstance(fault, Status) and fault.remembered:
                key = recorded.headers.get("idempotency-key", "")
                asked = (recorded.path, recorded.form)
                self.answers[key] = (asked, (fault.status, fault.content))
            response = await fault.after() or response
        except Dropped:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        recorded.status = response.status
        response.headers["Request-Id"] = f"req_{secrets.token_hex(7)}"
        return response

    def _fault(self, request: web.BaseRequest) -> Fault:
        for script in self.scripts:
            fits = script.method == request.method and script.path.search(request.path)
            if fits and script.times > 0:
                script.times -= 1
                return script.fault
        return Fault()

    async def _response(self, recorded: Recorded) -> web.Response:
        headers = {}
        try:
            if recorded.headers.get("authorization") != f"Bearer {self.api_key}":
                raise Refusal(401, "Invalid API Key provided: ****")
            key = recorded.headers.get("idempotency-key")
            if recorded.method != "POST" or not key:
                status, body = await self._answer(recorded)
            else:
                if key in self.answers:
                    headers = {"Idempotent-Replayed": "true"}
                status, body = await self._answer_once(key, recorded)
        except Refusal as refusal:
            status, body, headers = refusal.status, refusal.body, {}
        return web.json_response(body, status=status, headers=headers)

    async def _answer_once(self, key: str, recorded: Recorded) -> tuple[int, Json]:
        asked = (recorded.path, recorded.form)
        if key in self.answers:
            first_asked, first = self.answers[key]
            if asked != first_asked:
                message = "Keys for idempotent requests can only be used with the same parameters."
                raise Refusal(400, message, "idempotency_error")
            if first is None:
                message = "There is currently another in-progress request using this key."
                raise Refusal(409, message, "idempotency_error", code="idempotency_key_in_use")
            return first
        self.answers[key] = (asked, None)
        try:
            answer = await self._answer(recorded)
        except Refusal as refusal:
            if refusal.status != 402:
                del self.answers[key]
                raise
            answer = refusal.status, refusal.body
        self.answers[key] = (asked, answer)
        return answer

    async def _answer(self, recorded: Recorded) -> tuple[int, Json]:
        plural, *rest = recorded.path.removeprefix("/v1/").split("/")
        kind, form, query = plural.removesuffix("s"), dict(recorded.form), dict(recorded.query)
        wanted = [*pop_group(form, "expand").values(), *pop_group(query, "expand").values()]
        match recorded.method, kind, rest:
            case "GET", _, [] if kind in FILTERS:
                body = await self.page(kind, query)
            case "GET", _, [object_id] if kind in FILTERS:
                body = await self.one(kind, object_id)
            case "POST", "payment_intent", []:
                body = await self.create_intent(form)
            case "POST", "payment_intent", [object_id, *action]:
                body = await self.change_intent(object_id, "".join(action), form)
            case "POST", "refund", []:
                body = await self.create_refund(form)
            case _:
                body = await self.ask(recorded.method, recorded.path, form, query)
        await self._expand(body, wanted)
        return 200, body

    async def ask(
        self, method: str, path: str, form: Any = None, query: Any = None, json: Any = None
    ) -> Json:
        """What localstripe answers; its errors are raised in Stripe's shape."""
        async with self.session.request(
            method,
            path,
            data=form or None,
            params=query,
            json=json,
            headers={"Authorization": f"Bearer {self.api_key}"},
        ) as response:
            if response.content_type != "application/json":
                if response.status == 404:
                    raise Refusal(404, f"Unrecognized request URL ({method}: {path}).")
                raise Refusal(500, "localstripe failed.", "api_error")
            body: Json = await response.json()
        if response.status < 400:
            return body
        error = body["error"]
        message = error.pop("message", "Bad request")
        if response.status == 402:
            raise Refusal(402, message, "card_error", **without(error, "type"))
        if response.status == 404 and path.count("/") > 2:
            plural, object_id = path.split("/")[2:4]
            raise missing(plural.removesuffix("s"), object_id)
        if message.startswith("Unexpected "):
            raise unknown_parameter(message.removeprefix("Unexpected "))
        raise Refusal(response.status, message, error.pop("type"), **error)

    async def _expand(self, body: Json, paths: Iterable[str]) -> None:
        for path in paths:
            head, _, rest = path.partition(".")
            if head == "refunds" and body["object"] == "charge":
                body["refunds"] = await self.page("refund", {"charge": body["id"]})
            elif head not in body:
                raise Refusal(400, f"This property cannot be expanded ({path}).")
            elif isinstance(body[head], str):
                kind = "charge" if head == "latest_charge" else head
                body[head] = await self.one(kind, body[head])
            if rest:
                inner = body[head] if isinstance(body[head], list) else [body[head]]
                for one in filter(None, inner):
                    await self._expand(one, [rest])

    # Objects as Stripe shows them

    async def one(self, kind: str, object_id: str) -> Json:
        if kind == "dispute":
            if object_id not in self.disputes:
                raise missing(kind, object_id)
            return self._shown(kind, self.disputes[object_id], {})
        raw = await self.ask("GET", f"/v1/{kind}s/{quote(object_id, safe='')}")
        intents = {}
        if kind == "charge" and (intent_id := raw["payment_intent"]):
            intents[intent_id] = await self.one("payment_intent", intent_id)
        return self._shown(kind, raw, intents)

    async def all(self, kind: str) -> list[Json]:
        """All objects of a kind, newest first."""
        if kind == "dispute":
            raws = list(self.disputes.values())
        else:
            raws = (await self.ask("GET", f"/v1/{kind}s", query={"limit": "1000000"}))["data"]
        intents = {}
        if kind == "charge":
            intents = {intent["id"]: intent for intent in await self.all("payment_intent")}
        # Within one second the order of creation is kept, because sorting is stable.
        raws.sort(key=lambda raw: raw["created"])
        shown = [self._shown(kind, raw, intents) for raw in raws]
        shown.sort(key=lambda one: one["created"])
        return shown[::-1]

    async def page(self, kind: str, query: Form) -> Json:
        """A list's page. `query` may hold limit, starting_after, created[...] and filters."""
        limit = integer(query.pop("limit", "10"), "limit")
        if not 1 <= limit <= 100:
            raise Refusal(400, "Limit can range between 1 and 100.", param="limit")
        after = query.pop("starting_after", None)
        rows = await self.all(kind)
        if after is not None:
            ids = [row["id"] for row in rows]
            if after not in ids:
                raise missing(kind, after, "starting_after", 400)
            rows = rows[ids.index(after) + 1 :]
        for name, value in query.items():
            if name in CREATED:
                number, holds = integer(value, name), CREATED[name]
                rows = [row for row in rows if holds(row["created"], number)]
            elif name in FILTERS[kind]:
                rows = [row for row in rows if row[name] == value]
            else:
                raise unknown_parameter(name)
        return {
            "object": "list",
            "url": f"/v1/{kind}s",
            "has_more": len(rows) > limit,
            "data": rows[:limit],
        }

    def _shown(self, kind: str, raw: Json, intents: Mapping[str, Json]) -> Json:
        shown = {**raw, **self.kept.get(raw["id"], {})}
        shown["created"] = raw["created"] - self.shifts.get(raw["id"], 0)
        if kind == "payment_intent":
            return self._shown_intent(shown)
        if kind == "charge":
            return self._shown_charge(shown, intents.get(raw["payment_intent"], {}))
        if kind == "refund":
            unset = dict.fromkeys(("failure_reason", "reason", "receipt_number"))
            return {**unset, **without(shown, "date", "livemode")}
        return shown

    def _shown_intent(self, intent: Json) -> Json:
        shown = {**dict.fromkeys((*TEXTS, *UNSET)), **without(intent, "charges", "invoice")}
        amount, status = int(intent["amount"]), intent["status"]
        shown["amount"] = amount
        shown["amount_received"] = amount if status == "succeeded" else 0
        shown["amount_capturable"] = amount if status == "requires_capture" else 0
        shown["payment_method_types"] = ["card"]
        shown["latest_charge"] = intent["latest_charge"] and intent["latest_charge"]["id"]
        error = shown["last_payment_error"]
        if error and "charge" in error:
            code, decline_code = DECLINED[self.cards.get(intent["id"], DECLINING)]
            error.update(type="card_error", code=code, decline_code=decline_code)
            shown["payment_method"] = None  # Stripe removes a declined one
        return shown

    def _shown_charge(self, charge: Json, intent: Json) -> Json:
        shown = without(charge, "refunds")
        shown["amount_captured"] = charge["amount"] if charge["captured"] and charge["paid"] else 0
        for refund in self.failed_refunds.values():
            shown["amount_refunded"] -= refund["amount"] * (refund["charge"] == charge["id"])
        shown["refunded"] = shown["amount_refunded"] >= charge["amount"]
        shown["disputed"] = any(one["charge"] == charge["id"] for one in self.disputes.values())
        for name in ("metadata", "description", "receipt_email"):
            shown[name] = intent.get(name, charge[name])
        return shown

    # Changes

    async def create_intent(self, form: Form) -> Json:
        kept = kept_fields(form)
        for name in ("amount", "currency"):
            if not form.get(name):
                message = f"Missing required param: {name}."
                raise Refusal(400, message, code="parameter_missing", param=name)
        if integer(form["amount"], "amount") < SMALLEST_USD and form["currency"] == "usd":
            message = "Amount must be at least $0.50 usd"
            raise Refusal(400, message, code="amount_too_small", param="amount")
        raw = await self.ask("POST", "/v1/payment_intents", form)
        self.kept[raw["id"]] = kept
        return await self.one("payment_intent", raw["id"])

    async def change_intent(self, intent_id: str, action: str, form: Form) -> Json:
        """Updates an intent, or confirms, captures or cancels it."""
        intent = await self.one("payment_intent", intent_id)
        kept = kept_fields(form)
        form.pop("off_session", None)
        if action == "confirm":
            self._decline_worn_card(intent)
        if action:
            try:
                await self.ask("POST", f"/v1/payment_intents/{intent_id}/{action}", form)
            except Refusal as refusal:
                if str(refusal) != "Bad request":
                    raise
                message = f"You cannot {action} this PaymentIntent: it is {intent['status']}."
                code = "payment_intent_unexpected_state"
                raise Refusal(400, message, code=code, payment_intent=intent) from None
        elif form:
            await self.ask("POST", f"/v1/payment_intents/{intent_id}", form)
        if action == "cancel":
            self.kept.get(intent_id, {}).pop("status", None)
            kept["canceled_at"] = int(time.time())
        self.kept.setdefault(intent_id, {}).update(kept)
        return await self.one("payment_intent", intent_id)

    def _decline_worn_card(self, intent: Json) -> None:
        """Refuses to charge a saved card that is declined by now, or whose owner must confirm."""
        if intent["status"] != "requires_confirmation":
            return  # localstripe refuses
        card = self.worn.get(intent["payment_method"])
        if card is None:
            return
        code, decline_code = DECLINED.get(card, ("authentication_required",) * 2)
        error = {"type": "card_error", "code": code, "decline_code": decline_code}
        self.kept.setdefault(intent["id"], {}).update(
            status="requires_payment_method", last_payment_error=error, payment_method=None
        )
        raise Refusal(402, "Your card was declined.", "card_error", **without(error, "type"))

    async def pay(self, intent_id: str, card: str) -> Json:
        """Does what a customer's browser does. After a declined card, another may follow."""
        intent = await self.one("payment_intent", intent_id)
        if intent["status"] not in ("requires_payment_method", "requires_confirmation"):
            raise AssertionError(f"{intent_id} cannot be paid: it is {intent['status']}")
        number = DECLINING if card in DECLINED else card
        details = {"number": number, "exp_month": 12, "exp_year": 2050, "cvc": "123"}
        method = await self.ask(
            "POST", "/v1/payment_methods", json={"type": "card", "card": details}
        )
        # Without its declined charge, localstripe allows an intent to be confirmed again.
        change = {"payment_method": method["id"], "latest_charge": None}
        await self.ask("POST", f"/v1/payment_intents/{intent_id}", json=change)
        self.cards[intent_id] = card
        try:
            await self.ask("POST", f"/v1/payment_intents/{intent_id}/confirm")
        except Refusal as refusal:
            if refusal.status != 402:
                raise
        paid = await self.one("payment_intent", intent_id)
        if paid["status"] == "succeeded" and paid["setup_future_usage"]:
            attach = f"/v1/payment_methods/{method['id']}/attach"
            await self.ask("POST", attach, json={"customer": paid["customer"]})
        return paid

    async def create_refund(self, form: Form) -> Json:
        named = "payment_intent" if form.get("payment_intent") else "charge"
        if not form.get(named):
            raise Refusal(400, "Give one of payment_intent and charge.", code="parameter_missing")
        try:
            found = await self.one(named, form.pop(named))
        except Refusal as refusal:
            refusal.body["error"]["param"] = named
            raise
        charge_id = found["id"] if named == "charge" else found["latest_charge"]
        charge = await self.one("charge", charge_id) if charge_id else None
        if charge is None or charge["status"] != "succeeded":
            raise Refusal(400, f"{found['id']} does not have a successful charge to refund.")
        left = charge["amount"] - charge["amount_refunded"]
        if not left:
            message = f"Charge {charge_id} has already been refunded."
            raise Refusal(400, message, code="charge_already_refunded")
        for dispute in self.disputes.values():
            if dispute["charge"] == charge_id and not dispute["is_charge_refundable"]:
                message = f"Charge {charge_id} has been charged back; cannot issue a refund."
                raise Refusal(400, message, code="charge_disputed")
        form.setdefault("amount", str(left))
        if integer(form["amount"], "amount") > left:
            message = f"Refund amount is greater than unrefunded amount on charge ({left})"
            raise Refusal(400, message, param="amount")
        reason = form.pop("reason", None)
        target = "payment_intent" if charge["payment_intent"] else "charge"
        form[target] = charge["payment_intent"] or charge_id
        raw = await self.ask("POST", "/v1/refunds", form)
        self.kept[raw["id"]] = {"reason": reason}
        return await self.one("refund", raw["id"])

    async def fail_refund(self, refund_id: str) -> Json:
        refund = await self.one("refund", refund_id)
        self.failed_refunds[refund_id] = refund
        failure = {"status": "failed", "failure_reason": "lost_or_stolen_card"}
        self.kept.setdefault(refund_id, {}).update(failure)
        return await self.one("refund", refund_id)

    async def create_dispute(self, intent_id: str, amount: int | None, status: str) -> Json:
        intent = await self.one("payment_intent", intent_id)
        charge = await self.one("charge", intent["latest_charge"])
        dispute = {
            "id": f"du_{secrets.token_hex(12)}",
            "object": "dispute",
            "amount": charge["amount"] if amount is None else amount,
            "balance_transactions": [],
            "charge": charge["id"],
            "created": int(time.time()),
            "currency": charge["currency"],
            "livemode": False,
            "metadata": {},
            "payment_intent": intent_id,
            "reason": "fraudulent",
        }
        self.disputes[dispute["id"]] = dispute
        if not status.startswith("warning_"):
            await self.move_dispute(dispute["id"], -dispute["amount"])
        return await self.change_dispute(dispute["id"], status)

    async def change_dispute(self, dispute_id: str, status: str) -> Json:
        dispute = self.disputes[dispute_id]
        refundable = status.startswith("warning_")  # an inquiry: no money has moved
        dispute.update(status=status, is_charge_refundable=refundable)
        if status == "won":
            away = -sum(move["amount"] for move in dispute["balance_transactions"])
            if away:
                await self.move_dispute(dispute_id, away)
        return await self.one("dispute", dispute_id)

    async def move_dispute(self, dispute_id: str, amount: int) -> Json:
        dispute = self.disputes[dispute_id]
        move = {
            "id": f"txn_{secrets.token_hex(12)}",
            "object": "balance_transaction",
            "amount": amount,
            "created": int(time.time()),
            "currency": dispute["currency"],
            "exchange_rate": None,
            "fee": 1500 if amount < 0 else 0,
            "net": amount - (1500 if amount < 0 else 0),
            "type": "adjustment",
        }
        dispute["balance_transactions"] = [*dispute["balance_transactions"], move]
        return await self.one("dispute", dispute_id)


def bound_socket(port: int = 0) -> socket.socket:
    """A port reserved for the caller, which refuses connections until somebody listens on it."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


def pop_group(form: Form, name: str) -> Form:
    """Takes `name[inner]` fields out of a form and returns {inner: value}."""
    names = [full for full in form if full.startswith(f"{name}[")]
    return {full[len(name) + 1 : -1]: form.pop(full) for full in names}


def kept_fields(form: Form) -> Json:
    """Takes out of an intent's form the fields that localstripe refuses."""
    kept: Json = {name: form.pop(name) or None for name in TEXTS if name in form}
    if methods := pop_group(form, "automatic_payment_methods"):
        enabled = methods.pop("enabled", "") == "true"
        kept["automatic_payment_methods"] = {
            "allow_redirects": "always",
            **methods,
            "enabled": enabled,
        }
    email = kept.get("receipt_email")
    if email and "@" not in email:
        message = f"Invalid email address: {email}"
        raise Refusal(400, message, code="email_invalid", param="receipt_email")
    return kept


def integer(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        message = f"Invalid integer: {text}"
        raise Refusal(400, message, code="parameter_invalid_integer", param=name) from None


def without(body: Json, *names: str) -> Json:
    return {name: value for name, value in body.items() if name not in names}


def missing(kind: str, object_id: str, param: str | None = None, status: int = 404) -> Refusal:
    param = param or ("intent" if kind == "payment_intent" else "id")
    return Refusal(status, f"No such {kind}: '{object_id}'", code="resource_missing", param=param)


def unknown_parameter(name: str) -> Refusal:
    message = f"Received unknown parameter: {name}"
    return Refusal(400, message, code="parameter_unknown", param=name)
