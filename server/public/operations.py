"""What the API's description says about each route beyond the route table: words, examples, and
the errors that are the operation's own. The tests send every example to a running server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from server.public.answers import Schema, ref
from server.public.service import ROOT

TITLE = ROOT["service"]

INTRODUCTION = """\
Decides whether an agent may work for a user, and keeps the account of it. A user has free uses \
first, then paid credits: one use costs one credit.

## Getting started

Two things are needed: the address of the service, and an API key, which its operator makes with \
`ciris-billing keys create`. With both set, every example here can be pasted into a shell:

```
export BILLING_URL=http://127.0.0.1:8000
export BILLING_KEY=cbk_test_...
```

- Ask first: `POST /v1/billing/credits/check`. A no is answered 200 too: read `has_credit`. \
The first check of a user makes the account.
- Charge for the work: `POST /v1/billing/charges` with an `Idempotency-Key`. 201 means go on; 402 \
means that nothing is left to pay with.
- After a time-out, a lost connection or a 503, send the same again with the same key.

## Conventions

- Requests and answers are JSON in UTF-8. Fields that are not described here are ignored in \
requests; answers may gain fields.
- A user is known by `oauth_provider` and `external_id` together.
- Amounts are whole numbers. 1 is one use, although fields are called `amount_minor` and carry a \
currency.
- Times are in UTC, like `2026-11-22T10:24:00.948849+00:00`; ids are UUIDs.
- Every answer has an `X-Request-ID`. Send one of your own and it is used, in the service's logs \
too.
- A path that ends in a slash is redirected (307) to the path without it.
- Any web page may call with a key of its own; cookies mean nothing to the calls of agents.

## Repeating a request safely

Networks fail after the work is done and before the answer arrives. A key makes it safe to send a \
request again: within an account it stands for one charge, one credit or one answer, for ever. \
Which API key presents it makes no difference there. A batch has no account: its header belongs \
to your API key, through every rotation.

- In the `Idempotency-Key` header: the same request is answered with its first answer, status and \
body, plus `Idempotent-Replayed: true`. Another request with that key is refused with 422.
- In the body's `idempotency_key`: a repeat, whatever it asks for, is answered 409, the first \
charge or credit beside it. \
Nothing happened twice, so a 409 is a success.
- A refusal is not remembered: after a 402, the same request with the same key is decided anew.

## For staff

What the staff console's pages do, scripts can do under `/admin/api`, with a staff member's token:

```
export BILLING_TOKEN=$(ciris-billing admins token you@example.com)
```

- Viewers read; administrators change things, and say why. Everything that is changed is in the \
audit log.
- Times end in `Z` here, like `2026-11-22T10:24:05.141499Z`.
- Lists come in pages: `page` begins at 1, and a page past the end is empty.

## Errors

Every error body has `detail` for people, `code` for programs and `request_id` for whoever looks \
into it. `detail` is a sentence, and for `validation_error` a list with an entry per fault. Codes \
stay what they are; wordings may be improved.
"""

TAGS: Mapping[str, str] = {
    "Checks and charges": "The two calls an agent makes all day.",
    "Credits": "What users pay with once their free uses are gone.",
    "Purchases": "Users buy credits in packs; Stripe takes the payment.",
    "Accounts": "Who the users are and what became of their uses.",
    "Service": "About the service itself; needs no key.",
    "Staff: accounts": "Looking after the users' accounts.",
    "Staff: API keys": "Who may use the service.",
    "Staff: figures": "How much the service is used.",
    "Staff: payments": "What was bought, what Stripe said of it, and what needs a person.",
    "Staff: settings": "The price, and the payment providers.",
    "Staff: staff": "Who may do all this, and who did what.",
    "Staff: signing in": "For browsers: signing in by the identity provider, and out again.",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One route's part of the description. `answer` is a schema, or None where the answer is not
    JSON; `request` an example body; `values` example values of the path and query parameters;
    `errors` the codes beyond those of every such route; `guard_errors` those of the guard where
    they are others, `headerless` when its 401 does not say how to sign in. Without `content_type`
    the answer has no body."""

    id: str
    tag: str
    description: str
    answer: Schema | None = None
    example: Any = None
    content_type: str = "application/json"
    request: Any = None
    values: Mapping[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None
    headers: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    guard_errors: tuple[str, ...] = ()
    headerless: bool = False


_ADA = {"oauth_provider": "oauth:google", "external_id": "user-1042"}
_STRANGER = {"oauth_provider": "oauth:discord", "external_id": "user-7731"}
_ACCOUNT_ID = "019a9c2e-5b1d-7c40-8f3a-6d2b9e0c4a17"
_CHARGE_ID = "019a9c2e-7f06-7a52-9c1e-0b8d4f6a2e93"
_CREDIT_ID = "019a9c2e-a3c8-7d11-b5f2-4e7a1c9d0368"

_CHARGE = {
    "charge_id": _CHARGE_ID,
    "account_id": _ACCOUNT_ID,
    "amount_minor": 1,
    "currency": "USD",
    "balance_after": 0,
    "created_at": "2026-11-22T10:24:00.948849+00:00",
    "description": "Answered a message",
    "metadata": {
        "message_id": "msg-5561",
        "agent_id": "scout",
        "channel_id": "general",
        "request_id": None,
    },
    "paid_with": "free",
    "free_uses_remaining": 2,
}
_BATCH_CHARGE = {
    **_CHARGE,
    "charge_id": "019a9c2e-9b44-7e0f-a6d8-3c5f7b1e2d60",
    "created_at": "2026-11-22T10:24:07.310426+00:00",
    "metadata": dict.fromkeys(("message_id", "agent_id", "channel_id", "request_id")),
    "free_uses_remaining": 1,
}
_CREDIT = {
    "credit_id": _CREDIT_ID,
    "account_id": _ACCOUNT_ID,
    "amount_minor": 20,
    "currency": "USD",
    "balance_after": 20,
    "transaction_type": "grant",
    "description": "Welcome gift",
    "external_transaction_id": None,
    "created_at": "2026-11-22T10:25:12.004117+00:00",
}
_ACCOUNT = {
    "account_id": _ACCOUNT_ID,
    **_ADA,
    "wa_id": None,
    "tenant_id": None,
    "customer_email": "ada@example.com",
    "balance_minor": 0,
    "currency": "USD",
    "plan_name": "free",
    "status": "active",
    "paid_credits": 20,
    "marketing_opt_in": False,
    "marketing_opt_in_at": None,
    "marketing_opt_in_source": None,
    "created_at": "2026-11-22T10:23:58.120006+00:00",
    "updated_at": "2026-11-22T10:25:12.004117+00:00",
}
_PAYMENT_ID = "pi_3RkX2eLkdIwHu7ix0nW5f1Qa"
_PAYMENT = {
    "payment_id": _PAYMENT_ID,
    "client_secret": f"{_PAYMENT_ID}_secret_example",
    "amount_minor": 500,
    "currency": "USD",
    "uses_purchased": 20,
    "status": "requires_payment_method",
    "publishable_key": "pk_test_example",
    "credits_added": 0,
}
_PAID = {**_PAYMENT, "status": "succeeded", "credits_added": 20}
_PAYMENT_FAULTS = ("payment_provider_not_configured", "payment_provider_unavailable")
_ENTRY = ("amount_minor", "currency", "description", "created_at", "balance_after")

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("POST", "/v1/billing/credits/check"): Operation(
        "checkCredit",
        "Checks and charges",
        "Answers whether the user has a free use or a paid credit left, and uses up nothing. A no"
        " is an answer, not an error: the status is 200 and `reason` says why not. A user who is"
        " not known yet gets an account with free uses. E-mail address, role, agent and marketing"
        " consent are stored when given.",
        answer=ref("CreditCheck"),
        request={
            **_ADA,
            "context": {"agent_id": "scout", "channel_id": "general", "request_id": "req-88"},
            "customer_email": "ada@example.com",
        },
        example={
            "has_credit": True,
            "credits_remaining": 0,
            "plan_name": "free",
            "reason": None,
            "free_uses_remaining": 3,
            "total_uses": 0,
            "purchase_required": False,
            "purchase_price_minor": None,
            "purchase_uses": None,
        },
    ),
    ("POST", "/v1/billing/charges"): Operation(
        "createCharge",
        "Checks and charges",
        "Uses up one free use, whatever the amount, or, when none is left, the whole amount of paid"
        " credits: never a part of each. The account must exist; a check makes it. Of two requests"
        " for the last credit one is answered 201 and the other 402.",
        answer=ref("Charge"),
        request={
            **_ADA,
            "amount_minor": 1,
            "currency": "USD",
            "description": "Answered a message",
            "metadata": {
                "message_id": "msg-5561",
                "agent_id": "scout",
                "channel_id": "general",
            },
        },
        example=_CHARGE,
        idempotency_key="msg-5561",
        headers=("Idempotent-Replayed",),
        errors=(
            "idempotency_key_reused",
            "charge_currency_mismatch",
            "insufficient_credits",
            "account_suspended",
            "account_closed",
            "account_not_found",
            "charge_already_exists",
        ),
    ),
    ("POST", "/v1/billing/charges:batch"): Operation(
        "createCharges",
        "Checks and charges",
        "Charges for up to 1,000 uses at once. Each charge is decided by itself, charges of one"
        " account in the order sent, and one that fails leaves the others alone: `status` and"
        " `body` of its result are what `POST /v1/billing/charges` would have answered. Give each"
        " charge an `idempotency_key`, or send an Idempotency-Key header, which stands for the"
        " whole list: the same list again gets the first answer, refusals included, and charges"
        " nothing. The header belongs to your API key and the keys it was rotated from or to; under"
        " any other API key the list is another one. An `idempotency_key` belongs to the account,"
        " whatever the API key.",
        headers=("Idempotent-Replayed",),
        errors=("idempotency_key_reused",),
        answer=ref("ChargeBatch"),
        request={
            "charges": [
                {
                    **_ADA,
                    "amount_minor": 1,
                    "currency": "USD",
                    "description": "Answered a message",
                },
                {
                    **_STRANGER,
                    "amount_minor": 1,
                    "currency": "USD",
                    "description": "Summarised a channel",
                },
            ]
        },
        example={
            "results": [
                {"index": 0, "status": 201, "body": _BATCH_CHARGE},
                {
                    "index": 1,
                    "status": 404,
                    "body": {
                        "detail": "Account not found",
                        "code": "account_not_found",
                        "request_id": "4c1f0c9b7a5e4d0f8b6a2e9d3c7f1a50",
                    },
                },
            ],
            "created_count": 1,
            "total_count": 2,
        },
        idempotency_key="scout-batch-17",
    ),
    ("POST", "/v1/billing/credits"): Operation(
        "createCredit",
        "Credits",
        "Adds paid credits to an account that exists, suspended and closed ones too. All four kinds"
        " of `transaction_type` add; the kind is for the history. An `external_transaction_id` that"
        " is the id of a payment makes this the payment's credit: a payment that was sold here has"
        " one.",
        answer=ref("Credit"),
        request={
            **_ADA,
            "amount_minor": 20,
            "currency": "USD",
            "description": "Welcome gift",
            "transaction_type": "grant",
        },
        example=_CREDIT,
        idempotency_key="welcome-user-1042",
        headers=("Idempotent-Replayed",),
        errors=(
            "idempotency_key_reused",
            "credit_currency_mismatch",
            "account_not_found",
            "credit_already_exists",
            "balance_overflow",
            "payment_already_credited",
            "payment_of_another_account",
        ),
    ),
    ("POST", "/v1/billing/accounts"): Operation(
        "createAccount",
        "Accounts",
        "Makes the user's account, with free uses, or gives back the one there is, untouched. The"
        " answer is 201 either way.",
        answer=ref("Account"),
        request={**_ADA, "customer_email": "ada@example.com"},
        example=_ACCOUNT,
        idempotency_key="signup-user-1042",
        headers=("Idempotent-Replayed",),
        errors=("idempotency_key_reused",),
    ),
    ("GET", "/v1/billing/accounts/{oauth_provider}/{external_id}"): Operation(
        "getAccount",
        "Accounts",
        "Reads one account. Percent-encode what is special in a path; an `external_id` with a slash"
        " cannot be read here.",
        answer=ref("Account"),
        values=_ADA,
        example=_ACCOUNT,
        errors=("account_not_found",),
    ),
    ("GET", "/v1/billing/transactions"): Operation(
        "listTransactions",
        "Accounts",
        "Lists an account's charges and credits together, newest first. An unknown user has an"
        " empty history. Go on with `cursor`, not `offset`: entries that are added meanwhile move"
        " an offset, and nothing that a cursor gives comes twice.",
        answer=ref("TransactionPage"),
        values={**_ADA, "limit": 2, "offset": 0},
        example={
            "transactions": [
                {
                    "transaction_id": _CREDIT_ID,
                    "type": "credit",
                    **{name: _CREDIT[name] for name in _ENTRY},
                    "transaction_type": "grant",
                    "external_transaction_id": None,
                    "metadata": None,
                },
                {
                    "transaction_id": _CHARGE_ID,
                    "type": "charge",
                    **{name: _CHARGE[name] for name in _ENTRY},
                    "amount_minor": -1,
                    "transaction_type": None,
                    "external_transaction_id": None,
                    "metadata": _CHARGE["metadata"],
                },
            ],
            "total_count": 2,
            "has_more": False,
            "next_cursor": None,
        },
    ),
    ("POST", "/v1/billing/purchases"): Operation(
        "createPurchase",
        "Purchases",
        "Offers the present pack at the present price and has Stripe make a payment for it. Give"
        " `client_secret` and `publishable_key` to Stripe's script in the user's client: it takes"
        " the card. The credits are added when Stripe says that the money has come, a moment after"
        " the user paid. A user who is not known yet gets an account. The same request with the"
        " same Idempotency-Key (`customer_email` may differ) is given the same payment, in its"
        " state of today: `status` and `credits_added` may have changed. Where `payable` is false"
        " the payment can no longer be paid: buy again, with a new Idempotency-Key.",
        answer=ref("Payment"),
        request={**_ADA, "customer_email": "ada@example.com"},
        example=_PAYMENT,
        idempotency_key="purchase-user-1042",
        headers=("Idempotent-Replayed",),
        errors=("idempotency_key_reused", *_PAYMENT_FAULTS),
    ),
    ("GET", "/v1/billing/purchases/{payment_id}"): Operation(
        "getPurchase",
        "Purchases",
        "Reads a payment as Stripe has it now. The user may go on once `credits_added` is not 0."
        " Where `payable` is false the payment can no longer be paid: buy again.",
        answer=ref("Payment"),
        values={"payment_id": _PAYMENT_ID},
        example=_PAID,
        errors=("payment_not_found", *_PAYMENT_FAULTS),
    ),
    ("GET", "/v1/billing/purchases/{payment_id}/status"): Operation(
        "getPurchaseStatus",
        "Purchases",
        "The same as without `/status`.",
        answer=ref("Payment"),
        values={"payment_id": _PAYMENT_ID},
        example=_PAID,
        errors=("payment_not_found", *_PAYMENT_FAULTS),
    ),
    ("POST", "/v1/billing/webhooks/stripe"): Operation(
        "receiveStripeEvent",
        "Purchases",
        "For Stripe alone: it reports here what became of payments, refunds and disputes. An event"
        " is answered 200 once its effect is stored for good, and has one effect however often it"
        " is sent.",
        answer=ref("EventReceipt"),
        request={
            "id": "evt_1RkX3aLkdIwHu7ixq0v5s2Zb",
            "object": "event",
            "type": "payment_intent.succeeded",
            "livemode": False,
            "data": {
                "object": {
                    "id": _PAYMENT_ID,
                    "object": "payment_intent",
                    "amount_received": 500,
                    "currency": "usd",
                    "metadata": {
                        "account_id": _ACCOUNT_ID,
                        **_ADA,
                        "purchase_id": "019a9c2e-c0de-7b44-8a1f-5d3e9b7c2f08",
                    },
                }
            },
        },
        example={"status": "success", "event_id": "evt_1RkX3aLkdIwHu7ixq0v5s2Zb"},
        errors=(
            "webhook_metadata_missing",
            "webhook_signature_invalid",
            "webhook_failed",
            "payment_provider_not_configured",
        ),
    ),
    ("GET", "/"): Operation(
        "getRoot",
        "Service",
        "Names the service and the version of the wire contract.",
        answer=ref("ServiceInfo"),
        example=ROOT,
    ),
    ("GET", "/health"): Operation(
        "getHealth",
        "Service",
        "For load balancers: 200 when the database answers within a second and has the schema that"
        " this release needs, 503 otherwise.",
        answer=ref("Health"),
        example={
            "status": "healthy",
            "database": "connected",
            "timestamp": "2026-11-22T10:24:00.948849+00:00",
        },
    ),
    ("GET", "/openapi.json"): Operation(
        "getOpenapi",
        "Service",
        "This description, as OpenAPI 3.1: for generating clients, and for agents to read.",
        answer={"type": "object", "description": "An OpenAPI document."},
        example={"openapi": "3.1.0", "info": {"title": TITLE}},
    ),
    ("GET", "/docs"): Operation(
        "getDocs",
        "Service",
        "The same, for people. The page needs no script.",
        content_type="text/html",
    ),
    ("GET", "/static/{name}"): Operation(
        "getStaticFile",
        "Service",
        "What pages are dressed with.",
        content_type="text/css",
        values={"name": "base.css"},
        headers=("Cache-Control",),
        errors=("not_found",),
    ),
}

REQUEST_ID_EXAMPLE = "9f2d6c0e4b8a4f7c81d3e5a7b9c0d2f4"

UNHEALTHY_EXAMPLE = {
    "detail": {
        "status": "unhealthy",
        "database": "disconnected",
        "error": "the database does not answer",
        "timestamp": "2026-11-22T10:24:00.948849+00:00",
    },
    "code": "unhealthy",
    "request_id": REQUEST_ID_EXAMPLE,
}

# Placeholders in wordings, and the further fields of some error bodies.
ERROR_VALUES: Mapping[str, Any] = {
    "balance": 0,
    "required": 1,
    "account_currency": "USD",
    "currency": "EUR",
    "permission": "billing:write",
    "limit": 1048576,
    "payment_id": "pi_unknown",
    "return_id": "re_unknown",
    "warning_id": "issfr_unknown",
    "credit_id": "0197f2a0-0000-7000-8000-000000000000",
    "account_id": _ACCOUNT_ID,
    "api_key_id": "7f0c2b1e-90d4-4c59-8a37-1f5b6e2d9c08",
    "email": "ada@example.com",
    "event_id": "evt_unknown",
    "reason": "Invalid OAuth state",
    "role": "viewer",
    "status": "revoked",
    "argument": "config_data",
    "problem": "test and live keys cannot be mixed: give api_key and publishable_key of one mode"
    " together",
}
ERROR_EXTRAS: Mapping[str, Mapping[str, Any]] = {
    "insufficient_credits": {
        "balance": 0,
        "required": 1,
        "shortfall": 1,
        "retryable": False,
        "purchase_url": "https://example.com/buy",
    },
    "charge_already_exists": {"charge": _CHARGE},
    "credit_already_exists": {"credit": _CREDIT},
    "balance_overflow": {
        "detail": "Balance overflow: 20 and 9223372036854775807 together exceed 9223372036854775807"
    },
    "validation_error": {
        "detail": [
            {
                "type": "missing",
                "loc": ["body", "external_id"],
                "msg": "Field required",
                "input": {"oauth_provider": "oauth:google"},
            }
        ]
    },
}
