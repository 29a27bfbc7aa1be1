"""/admin/api/purchases, payment-events and payment-problems, and how staff resolve problems."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from aiohttp import web
from typing_extensions import TypedDict

from server.admin_api.endpoint import Call, answer, page_of
from server.admin_api.models import (
    EventPath,
    EventsQuery,
    PaymentPath,
    ProblemsQuery,
    PurchasesQuery,
    ResolveEventRequest,
    ResolvePaymentRequest,
    ResolveRequest,
    ReturnPath,
    WarningPath,
)
from server.gateway import Row, functions
from server.http import fields as f
from server.http.answers import From, reader
from server.http.example_values import (
    ACCOUNT_ID,
    ADA,
    AT,
    BOUNDED,
    EVENT_ID,
    PAGED,
    PAGING,
    PAYMENT_ID,
    THEN,
)
from server.http.route import Example

# A test compares these with the database.
Fault = Literal[
    "account_not_found", "amount_mismatch", "balance_overflow", "charge_unreadable",
    "credited_by_hand", "currency_mismatch", "metadata_missing", "mode_mismatch", "not_sold_here",
    "payment_mismatch", "payment_unknown",
]  # fmt: skip
Outcome = Literal[
    "credited", "already_credited", "taken_back", "restored", "waiting", "unchanged",
    "acknowledged", "ignored", "resolved", Fault,
]  # fmt: skip
Warned = Literal["fraud_warning", "credited_twice", "paid_after_erasure"]


def _net(row: Row) -> int:
    return int(row["gross_minor"] - row["returned_minor"])


class Purchase(TypedDict):
    """A purchase and what became of it."""

    purchase_id: Annotated[UUID, f.means("The purchase.")]
    account_id: Annotated[UUID, f.ACCOUNT_ID]
    oauth_provider: f.OAuthProvider
    external_id: Annotated[str, f.EXTERNAL_ID]
    customer_email: Annotated[str | None, f.means("Where the payment provider sends its receipt.")]
    provider: Annotated[str, f.PROVIDER]
    payment_id: Annotated[
        str | None, f.means("The payment's id at the payment provider; null for a mere offer.")
    ]
    status: Annotated[
        Literal["offered", "pending", "settled"],
        f.means("`offered`, `pending` (the payment is under way) or `settled`."),
    ]
    uses: Annotated[f.Count, f.means("How many uses were sold.")]
    price_minor: Annotated[f.Count, f.means("What was asked for, in minor units such as cents.")]
    currency: Annotated[str, f.PRICE_CURRENCY]
    created_at: Annotated[datetime, f.WHEN]
    settled_at: Annotated[
        datetime | None,
        f.means("When the money came and the credits were added, in UTC; null before that."),
    ]
    returned_minor: Annotated[
        f.Count, f.means("How much of the money went back, in minor units such as cents.")
    ]
    uses_taken_back: Annotated[f.Count, f.means("How many of the uses were taken back.")]
    shortfall: Annotated[f.Count, f.means("Uses that were due back and could not be taken.")]


class PurchaseTotal(TypedDict):
    """What the purchases of a list in one currency come to."""

    currency: Annotated[str, f.PRICE_CURRENCY]
    purchases: Annotated[f.Count, f.means("How many purchases there are, mere offers included.")]
    paid: Annotated[f.Count, f.means("How many of them were paid.")]
    gross_minor: Annotated[f.Count, f.means("What came in, in minor units such as cents.")]
    returned_minor: Annotated[f.Count, f.means("How much of it went back.")]
    net_minor: Annotated[int, From(_net), f.means("What is left of it.")]


class PurchasePage(f.OpenPage):
    """A page of purchases."""

    purchases: Annotated[list[Purchase], f.means("The purchases of this page.")]
    totals: Annotated[
        list[PurchaseTotal], f.means("What the purchases of all pages come to, by currency.")
    ]


class PaymentEvent(TypedDict):
    """What the payment provider reported, and what became of it."""

    provider: Annotated[str, f.PROVIDER]
    event_id: Annotated[str, f.EVENT_ID]
    event_type: Annotated[str, f.means("What the provider calls it.")]
    payment_id: Annotated[
        str | None, f.means("The payment it is about; null when it is about none.")
    ]
    account_id: Annotated[
        UUID | None, f.means("Whose payment it is about; null when that is not known.")
    ]
    outcome: Annotated[
        Outcome, f.means("What became of it; some of these need a person (`needs_attention`).")
    ]
    needs_attention: Annotated[bool, f.means("Whether a person must look at it.")]
    deliveries: Annotated[f.Count, f.means("How often the provider has sent it.")]
    livemode: Annotated[
        bool | None, f.means("Whether real money moved; null when the provider does not say.")
    ]
    received_at: Annotated[datetime, f.means("When it was first sent, in UTC.")]
    last_received_at: Annotated[datetime, f.means("When it was last sent, in UTC.")]
    resolved_at: Annotated[
        datetime | None, f.means("When a person put it right, in UTC; null before that.")
    ]
    resolution: Annotated[str | None, f.RESOLUTION]


class PaymentEventPage(f.BoundedPage):
    """A page of events."""

    events: Annotated[list[PaymentEvent], f.means("The events of this page.")]


class PaymentProblem(TypedDict):
    """Where money and credits do not agree."""

    problem: Annotated[
        Fault | Literal["shortfall"] | Warned,
        f.means(
            "The outcome of an event; `shortfall`: credits that were due back and could not be"
            " taken; or a warning."
        ),
    ]
    provider: Annotated[str, f.PROVIDER]
    reference: Annotated[
        str,
        f.means(
            "The id of the event, the return of money or the warning at the payment provider,"
            " or of the second credit."
        ),
    ]
    payment_id: Annotated[
        str | None,
        f.means("The payment's id at the payment provider; null when that is not known."),
    ]
    account_id: Annotated[UUID | None, f.means("The account; null when that is not known.")]
    what_is_wrong: Annotated[str, f.means("What is wrong, for people.")]
    happened_at: Annotated[datetime, f.WHEN]


class PaymentProblemPage(f.BoundedPage):
    """A page of problems."""

    problems: Annotated[list[PaymentProblem], f.means("The problems of this page.")]


class ResolvedEvent(TypedDict):
    """An event that a person has dealt with."""

    event_id: Annotated[str, f.EVENT_ID]
    resolution: Annotated[str, f.means("How it was put right.")]


class ResolvedPayment(TypedDict):
    """A payment that a person has dealt with."""

    payment_id: Annotated[str, f.PAYMENT_ID]
    resolution: Annotated[str, f.RESOLUTION]


class ReopenedPayment(TypedDict):
    """A payment whose resolution was taken back."""

    payment_id: Annotated[str, f.PAYMENT_ID]
    reason: Annotated[str, f.AUDIT_REASON]


class ResolvedWarning(TypedDict):
    """A warning that a person has dealt with."""

    warning_id: Annotated[str, f.WARNING_ID]
    resolution: Annotated[str, f.RESOLUTION]


class ResolvedReturn(TypedDict):
    """A shortfall that a person has written off."""

    return_id: Annotated[str, f.RETURN_ID]
    resolution: Annotated[str, f.RESOLUTION]


_WARNING_ID = "issfr_1RkX2eLkdIwHu7ix1pQ8sT4b"
_RETURN_ID = "re_3RkX2eLkdIwHu7ix1pQ8sT4b"
_REFUNDED = "Refunded in the dashboard"
PURCHASES = Example(
    {
        "purchases": [
            {
                "purchase_id": "019a9c2e-1c5f-7e02-a9d4-3b7f5e8c2d60",
                "account_id": ACCOUNT_ID,
                **ADA,
                "customer_email": "ada@example.com",
                "provider": "stripe",
                "payment_id": PAYMENT_ID,
                "status": "settled",
                "uses": 20,
                "price_minor": 500,
                "currency": "USD",
                "created_at": THEN,
                "settled_at": AT,
                "returned_minor": 0,
                "uses_taken_back": 0,
                "shortfall": 0,
            }
        ],
        "totals": [
            {
                "currency": "USD",
                "purchases": 1,
                "paid": 1,
                "gross_minor": 500,
                "returned_minor": 0,
                "net_minor": 500,
            }
        ],
        **PAGED,
    },
    values={"account_id": ACCOUNT_ID, "status_filter": "settled"},
)
EVENTS = Example(
    {
        "events": [
            {
                "provider": "stripe",
                "event_id": EVENT_ID,
                "event_type": "payment_intent.succeeded",
                "payment_id": PAYMENT_ID,
                "account_id": ACCOUNT_ID,
                "outcome": "credited",
                "needs_attention": False,
                "deliveries": 1,
                "livemode": False,
                "received_at": AT,
                "last_received_at": AT,
                "resolved_at": None,
                "resolution": None,
            }
        ],
        **BOUNDED,
    },
    values=PAGING,
)
PROBLEMS = Example(
    {
        "problems": [
            {
                "problem": "metadata_missing",
                "provider": "stripe",
                "reference": EVENT_ID,
                "payment_id": PAYMENT_ID,
                "account_id": None,
                "what_is_wrong": "the payment does not say whom it is for",
                "happened_at": AT,
            }
        ],
        **BOUNDED,
    },
    values=PAGING,
)
RESOLVED_EVENT = Example(
    {"event_id": EVENT_ID, "resolution": _REFUNDED},
    request={"reason": _REFUNDED, "how": "refunded"},
    values={"event_id": EVENT_ID},
)
RESOLVED_PAYMENT = Example(
    {"payment_id": PAYMENT_ID, "resolution": _REFUNDED},
    request={"how": "refunded", "reason": _REFUNDED},
    values={"payment_id": PAYMENT_ID},
)
REOPENED = Example(
    {"payment_id": PAYMENT_ID, "reason": "It was another payment"},
    request={"reason": "It was another payment"},
    values={"payment_id": PAYMENT_ID},
)
RESOLVED_WARNING = Example(
    {"warning_id": _WARNING_ID, "resolution": _REFUNDED},
    request={"reason": _REFUNDED},
    values={"warning_id": _WARNING_ID},
)
RESOLVED_RETURN = Example(
    {"return_id": _RETURN_ID, "resolution": "Written off"},
    request={"reason": "Written off"},
    values={"return_id": _RETURN_ID},
)

_purchase = reader(Purchase, functions.list_purchases.columns)
_total = reader(PurchaseTotal, functions.total_purchases.columns)
_event = reader(PaymentEvent, functions.list_payment_events.columns)
_problem = reader(PaymentProblem, functions.list_payment_problems.columns)


async def list_purchases(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists purchases, newest first, and what became of them."""
    query: PurchasesQuery = call.query
    filters: dict[str, Any] = {
        "account_id": query.account_id,
        "status": query.status_filter,
        "days_of": query.days_of,
        **query.days,
    }
    rows = await call.rows(
        functions.list_purchases(**filters, limit=query.page_size + 1, offset=query.offset)
    )
    totals = await call.rows(functions.total_purchases(**filters))
    page = page_of("purchases", rows, query, _purchase)
    return answer(200, {**page, "totals": [_total(row) for row in totals]})


async def list_payment_events(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists what the payment provider reported, newest first, and what became of it."""
    query: EventsQuery = call.query
    rows = await call.rows(
        functions.list_payment_events(**query.days, limit=query.page_size + 1, offset=query.offset)
    )
    counted = await call.row(functions.count_payment_events(**query.days))
    return answer(200, page_of("events", rows, query, _event, counted))


async def list_payment_problems(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists payments that could not be credited, refunds for which no credits were left to take,
    reports of fraud and second credits for one payment."""
    query: ProblemsQuery = call.query
    rows = await call.rows(
        functions.list_payment_problems(limit=query.page_size + 1, offset=query.offset)
    )
    counted = await call.row(functions.count_payment_problems())
    return answer(200, page_of("problems", rows, query, _problem, counted))


async def resolve_payment_event(request: web.Request, call: Call) -> web.StreamResponse:
    """Records that a person has put right what an event was about. The event leaves the list of
    problems. Its payment, unless it is credited, counts as resolved by `how`, or as `other`."""
    path: EventPath = call.path
    body: ResolveEventRequest = call.body
    await call.rows(
        functions.resolve_payment_event(
            event_id=path.event_id,
            reason=body.reason,
            how=body.how,
            credit_id=body.credit_id,
        )
    )
    resolved: ResolvedEvent = {"event_id": path.event_id, "resolution": body.reason}
    return answer(200, resolved)


async def resolve_payment(request: web.Request, call: Call) -> web.StreamResponse:
    """Records how a person has dealt with a payment that was not credited: `credited` by hand with
    the credit `credit_id`, `refunded`, or `other`. The payment is never credited again. Give the
    amount paid only where no stored event has it."""
    path: PaymentPath = call.path
    body: ResolvePaymentRequest = call.body
    await call.rows(
        functions.resolve_payment(
            payment_id=path.payment_id,
            how=body.how,
            reason=body.reason,
            credit_id=body.credit_id,
            amount_minor=body.amount_minor,
            currency=body.currency,
        )
    )
    resolved: ResolvedPayment = {"payment_id": path.payment_id, "resolution": body.reason}
    return answer(200, resolved)


async def reopen_payment(request: web.Request, call: Call) -> web.StreamResponse:
    """Takes a person's resolution of a payment back: its problems are listed again, and it can be
    credited. No balance changes."""
    path: PaymentPath = call.path
    body: ResolveRequest = call.body
    await call.rows(functions.reopen_payment(payment_id=path.payment_id, reason=body.reason))
    reopened: ReopenedPayment = {"payment_id": path.payment_id, "reason": body.reason}
    return answer(200, reopened)


async def resolve_payment_warning(request: web.Request, call: Call) -> web.StreamResponse:
    """Closes a report of fraud, or a second credit for a payment, that a person has dealt with: it
    leaves the list of problems. No balance changes."""
    path: WarningPath = call.path
    body: ResolveRequest = call.body
    await call.rows(
        functions.resolve_payment_warning(warning_id=path.warning_id, reason=body.reason)
    )
    resolved: ResolvedWarning = {"warning_id": path.warning_id, "resolution": body.reason}
    return answer(200, resolved)


async def resolve_shortfall(request: web.Request, call: Call) -> web.StreamResponse:
    """Writes off the credits that could not be taken back after a refund or dispute. The return of
    money leaves the list of problems. No balance changes."""
    path: ReturnPath = call.path
    body: ResolveRequest = call.body
    await call.rows(functions.resolve_shortfall(return_id=path.return_id, reason=body.reason))
    resolved: ResolvedReturn = {"return_id": path.return_id, "resolution": body.reason}
    return answer(200, resolved)
