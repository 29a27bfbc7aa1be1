"""What the service answers, for the API's description only: schemas of the answers, the error
codes, and what each field means. Nothing here is on the way of a request; the tests hold every
schema against what the running server really sends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]

# One meaning per name, in requests and answers alike; Schema.name where one schema differs.
FIELDS: Mapping[str, str] = {
    "account_id": "The account.",
    "agent_id": "The agent that works for the user.",
    "amount_minor": "Credits: 1 is one use, whatever the currency.",
    "balance": "Paid credits the account has.",
    "balance_after": "Paid credits after this entry; a free use leaves them as they were.",
    "balance_minor": "Reserved for real money; nothing can spend it.",
    "channel_id": "Where the agent and the user talk.",
    "charge": "The charge that the idempotency key already made.",
    "charge_id": "The charge.",
    "charges": "The charges, each decided by itself.",
    "client_secret": "With the publishable key, what Stripe's script in the user's client needs to"
    " take the payment. Keep it to that client.",
    "code": "What went wrong, for programs: decide by this.",
    "context": "Where the check comes from; kept with its audit record.",
    "created_at": "When, in UTC.",
    "created_count": "How many charges this request made; replayed ones do not count.",
    "credit": "The credit that the idempotency key already made.",
    "credit_id": "The credit.",
    "credits_added": "Credits the payment has added: 0 until it is credited.",
    "credits_remaining": "Paid credits left.",
    "ctx": "The bound or the reason, where there is one.",
    "currency": "Three letters; it must be the account's.",
    "customer_email": "The user's e-mail address; replaces the stored one when given.",
    "database": "Whether the database answers.",
    "description": "For people who read the history.",
    "error": "What is the matter.",
    "event_id": "The event's id at the payment provider.",
    "external_id": "The user's id at the provider.",
    "external_transaction_id": "The payment's id at the payment provider.",
    "free_uses_remaining": "Free uses left.",
    "has_credit": "Whether the user may go on.",
    "has_more": "Whether there is a page after this one.",
    "idempotency_key": "Names this request within the account: a repeat makes nothing new and is"
    " answered 409 with what the first one made. Wins over the Idempotency-Key header.",
    "index": "The charge's place in the request, from 0.",
    "initial_balance_minor": "Kept as `balance_minor`, which nothing can spend.",
    "input": "What was sent there.",
    "limit": "How many entries at most.",
    "loc": "Where: header, path, query or body, then the field.",
    "marketing_opt_in": "Whether the user agreed to marketing; true sets it, false clears nothing.",
    "marketing_opt_in_at": "When the user agreed to marketing.",
    "marketing_opt_in_source": "Where the user agreed to marketing.",
    "message_id": "The message that was worked on.",
    "metadata": "Where the charge comes from; kept with it.",
    "msg": "The fault as a sentence.",
    "name": "The file's name.",
    "oauth_provider": "Who vouches for the user: `oauth:` and a name, as in `oauth:google`.",
    "offset": "How many of the newest entries to pass over.",
    "paid_credits": "Paid credits left.",
    "payment_id": "The payment's id at the payment provider.",
    "paid_with": "Whether a free use or paid credits paid.",
    "plan_name": "The account's plan.",
    "purchase_price_minor": "What the next pack costs, in minor units such as cents; null unless"
    " one is needed.",
    "purchase_required": "Whether the user must buy credits to go on.",
    "purchase_url": "Where credits can be bought; absent unless the operator set it.",
    "purchase_uses": "How many uses the next pack has; null unless one is needed.",
    "reason": "Why not; null when the user may go on.",
    "replayed": "True when this is the first answer over again; otherwise absent.",
    "request_id": "The request's id, as in X-Request-ID.",
    "required": "Credits the charge asked for.",
    "results": "A result for each charge, in the order sent.",
    "retryable": "False: sending it again without more credits ends the same.",
    "publishable_key": "The payment provider's public key, for its script in the client.",
    "return_url": "Accepted and ignored.",
    "service": "Its name.",
    "shortfall": "Credits missing.",
    "status": "The state it is in.",
    "tenant_id": "Stored when the account is created; an account is not found by it.",
    "timestamp": "When, in UTC.",
    "total_count": "How many there are in all.",
    "total_uses": "How often the account was charged.",
    "transaction_id": "The charge's or the credit's id.",
    "transaction_type": "Why credits are added.",
    "transactions": "The entries of this page.",
    "type": "A charge or a credit.",
    "updated_at": "When the account last changed, in UTC.",
    "uses_purchased": "How many uses the pack has.",
    "user_role": "The user's role; replaces the stored one when given.",
    "version": "The version of the wire contract.",
    "wa_id": "Stored when the account is created; an account is not found by it.",
    "Account.currency": "The currency of its charges and credits.",
    "Account.customer_email": "The user's e-mail address.",
    "Account.marketing_opt_in": "Whether the user agreed to marketing.",
    "AccountQuery.tenant_id": "Accepted and ignored.",
    "AccountQuery.wa_id": "Accepted and ignored.",
    "AccountRequest.currency": "Three letters: the currency of its charges and credits.",
    "AccountRequest.customer_email": "The user's e-mail address.",
    "AccountRequest.marketing_opt_in": "Whether the user agreed to marketing.",
    "AccountRequest.user_role": "The user's role.",
    "Charge.amount_minor": "As asked for, also when a free use paid.",
    "Charge.currency": "The account's currency.",
    "Charge.free_uses_remaining": "Free uses left after the charge; absent for charges that the"
    " service before this one made.",
    "ChargeBatch.total_count": "How many charges were sent.",
    "ChargeMetadata.request_id": "The agent's own id for what it worked on.",
    "ChargeResult.body": "The charge, or the error body.",
    "ChargeResult.status": "The HTTP status: 201 for a charge, else the error's.",
    "CheckContext.request_id": "The agent's own id for what it will work on.",
    "Credit.currency": "The account's currency.",
    "Credit.balance_after": "Paid credits afterwards.",
    "Error.detail": "What went wrong, for people.",
    "EventReceipt.status": "Whether it was about a payment, is noted, or is of no concern here.",
    "Payment.amount_minor": "What the pack costs, in minor units such as cents.",
    "Payment.currency": "The currency of the price.",
    "Payment.status": "The payment's status in Stripe's words, such as `requires_payment_method`"
    " or `succeeded`.",
    "PurchaseRequest.customer_email": "Where the payment provider sends its receipt; stored when"
    " the account is created.",
    "PurchaseRequest.marketing_opt_in": "Whether the user agreed to marketing; stored when the"
    " account is created.",
    "PurchaseRequest.user_role": "The user's role; stored when the account is created.",
    "Transaction.amount_minor": "Credits; negative for charges, and for credits that were taken"
    " back after a refund.",
    "Transaction.currency": "The account's currency.",
    "Transaction.external_transaction_id": "The payment's id at the payment provider; null for"
    " charges.",
    "Transaction.metadata": "Where the charge comes from; null for credits.",
    "Transaction.transaction_type": "Why credits were added; null for charges.",
    "TransactionsQuery.tenant_id": "Accepted and ignored.",
    "TransactionsQuery.wa_id": "Accepted and ignored.",
    "ValidationError.detail": "What is wrong, an entry per fault.",
    "ValidationFault.type": "The kind of fault, for programs.",
}


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One value of `code`. `detail` is the wording, {placeholders} unfilled."""

    status: int
    detail: str
    meaning: str


# The wording of what the database refuses is billing.errors'; a test compares the two.
ERRORS: Mapping[str, ErrorCode] = {
    "charge_currency_mismatch": ErrorCode(
        400,
        "Data integrity error: Currency mismatch: account={account_currency}, charge={currency}",
        "Charge in the account's currency.",
    ),
    "credit_currency_mismatch": ErrorCode(
        400,
        "Data integrity error: Currency mismatch: account={account_currency}, credit={currency}",
        "Credit in the account's currency.",
    ),
    "api_key_format": ErrorCode(
        401,
        "Authentication failed: Invalid API key format",
        "What X-API-Key carries is no key of this service: keys begin with `cbk_`.",
    ),
    "api_key_invalid": ErrorCode(
        401, "Authentication failed: Invalid API key", "No such key, or it was revoked."
    ),
    "api_key_expired": ErrorCode(
        401,
        "Authentication failed: API key expired",
        "The key is past its date. It is told so once; after that it is invalid.",
    ),
    "insufficient_credits": ErrorCode(
        402,
        "Insufficient credits. Balance: {balance}, Required: {required}",
        "No free use is left and the paid credits do not suffice. Nothing was charged: stop working"
        " for this user until credits are bought.",
    ),
    "permission_missing": ErrorCode(
        403, "Missing required permission: {permission}", "Use a key that has the permission."
    ),
    "account_suspended": ErrorCode(
        403,
        "Account suspended: Account suspended",
        "Staff stopped the account. It is not charged and can still be credited.",
    ),
    "account_closed": ErrorCode(
        403, "Account is closed", "The account is not charged any more; it can still be credited."
    ),
    "account_not_found": ErrorCode(
        404,
        "Account not found",
        "The user is not known yet: a check, or creating the account, makes it known.",
    ),
    "not_found": ErrorCode(404, "Not Found", "Nothing is served at this path."),
    "method_not_allowed": ErrorCode(
        405, "Method Not Allowed", "The path takes other methods: the Allow header names them."
    ),
    "charge_already_exists": ErrorCode(
        409,
        "Charge already exists",
        "The body's idempotency key was used for this account. Nothing was charged a second time:"
        " take it as a success. X-Existing-Charge-ID and `charge` tell what the key made.",
    ),
    "credit_already_exists": ErrorCode(
        409,
        "Credit already exists",
        "The body's idempotency key was used for this account. Nothing was added a second time:"
        " take it as a success. X-Existing-Credit-ID and `credit` tell what the key made.",
    ),
    "payment_not_found": ErrorCode(
        404,
        "Payment not found: {payment_id}",
        "The payment provider does not know it, or it is not for a purchase of this service.",
    ),
    "payment_provider_not_configured": ErrorCode(
        503,
        "Payment provider not configured",
        "Nothing can be bought until the operator has set up the payment provider.",
    ),
    "payment_provider_unavailable": ErrorCode(
        503,
        "Payment provider unavailable",
        "The payment provider did not do what it was asked: try again later. A purchase sent again"
        " with the same Idempotency-Key is the same purchase.",
    ),
    "webhook_failed": ErrorCode(
        500,
        "Webhook processing failed",
        "The event could not be dealt with: it must be sent again, as Stripe does.",
    ),
    "webhook_metadata_missing": ErrorCode(
        400,
        "Missing account metadata in webhook",
        "The payment does not say whom it is for; staff are told.",
    ),
    "webhook_signature_invalid": ErrorCode(
        401,
        "Invalid webhook signature",
        "The body is not signed with the webhook's secret, or was signed more than 300 seconds"
        " ago.",
    ),
    "unsupported_content_encoding": ErrorCode(
        415,
        "Unsupported Content-Encoding: send the body as it is",
        "The body is compressed; nothing is unpacked here.",
    ),
    "malformed_request": ErrorCode(
        400, "Malformed HTTP request", "It is not HTTP as the server can read it."
    ),
    "body_too_large": ErrorCode(
        413,
        "Request body too large: at most {limit} bytes are accepted",
        "Send less in one request.",
    ),
    "validation_error": ErrorCode(
        422,
        "a list, one entry per fault",
        "Something has the wrong shape; `detail` says where and why.",
    ),
    "idempotency_key_reused": ErrorCode(
        422,
        "Idempotency key was used with a different request",
        "The key of the Idempotency-Key header stands for another request: use a new one.",
    ),
    "balance_overflow": ErrorCode(
        422,
        "Balance overflow: {balance} and {amount} together exceed {maximum}",
        "Add fewer credits.",
    ),
    "internal_error": ErrorCode(
        500,
        "Internal Server Error",
        "A fault of the service: tell its operator the `request_id`.",
    ),
    "unavailable": ErrorCode(
        503,
        "Service temporarily unavailable, please retry",
        "Send the same again after Retry-After seconds. Whether the request took effect may be"
        " unknown, so a charge should carry an idempotency key. The wording varies with the cause.",
    ),
}

STRING: Schema = {"type": "string"}
OBJECT: Schema = {"type": "object"}
BOOLEAN: Schema = {"type": "boolean"}
INTEGER: Schema = {"type": "integer", "format": "int64"}
COUNT: Schema = {**INTEGER, "minimum": 0}
ID: Schema = {"type": "string", "format": "uuid"}
TIME: Schema = {"type": "string", "format": "date-time"}


def ref(name: str) -> Schema:
    """A reference to the schema `name`."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(summary: str, optional: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "description": summary,
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


_METADATA: Schema = {
    "properties": {
        name: _or_null(STRING) for name in ("message_id", "agent_id", "channel_id", "request_id")
    },
    "required": ["message_id", "agent_id", "channel_id", "request_id"],
}
# The other request_id is this service's; here it is the agent's.
_METADATA["properties"]["request_id"] = {
    **_or_null(STRING),
    "description": FIELDS["ChargeMetadata.request_id"],
}
_ERROR: dict[str, Schema] = {
    "detail": {**STRING, "description": FIELDS["Error.detail"]},
    "code": STRING,
    "request_id": STRING,
}

SCHEMAS: Mapping[str, Schema] = {
    "CreditCheck": _object(
        "Whether a user may go on. Every field is always present.",
        has_credit=BOOLEAN,
        credits_remaining=_or_null(COUNT),
        plan_name=_or_null(STRING),
        reason=_or_null(STRING),
        free_uses_remaining=_or_null(COUNT),
        total_uses=_or_null(COUNT),
        purchase_required=BOOLEAN,
        purchase_price_minor=_or_null(COUNT),
        purchase_uses=_or_null(COUNT),
    ),
    "Charge": _object(
        "A charge as it stands in the ledger.",
        ("free_uses_remaining",),
        charge_id=ID,
        account_id=ID,
        amount_minor={**INTEGER, "minimum": 1},
        currency=STRING,
        balance_after=COUNT,
        created_at=TIME,
        description=STRING,
        metadata={"type": "object", **_METADATA},
        paid_with=_one_of("free", "paid"),
        free_uses_remaining=COUNT,
    ),
    "ChargeBatch": _object(
        "What became of a batch.",
        results=_array(ref("ChargeResult")),
        created_count=COUNT,
        total_count=COUNT,
    ),
    "ChargeResult": _object(
        "What became of one charge of a batch: the answer it would have been given by itself.",
        index=COUNT,
        status=INTEGER,
        body={
            "anyOf": [
                ref("Charge"),
                ref("Error"),
                ref("InsufficientCredits"),
                ref("ChargeExists"),
                ref("ValidationError"),
            ]
        },
    ),
    "Credit": _object(
        "Added credits as they stand in the ledger.",
        credit_id=ID,
        account_id=ID,
        amount_minor={**INTEGER, "minimum": 1},
        currency=STRING,
        balance_after=COUNT,
        transaction_type=_one_of("purchase", "grant", "refund", "adjustment"),
        description=STRING,
        external_transaction_id=_or_null(STRING),
        created_at=TIME,
    ),
    "Account": _object(
        "A user's account.",
        account_id=ID,
        oauth_provider=STRING,
        external_id=STRING,
        wa_id=_or_null(STRING),
        tenant_id=_or_null(STRING),
        customer_email=_or_null(STRING),
        balance_minor=COUNT,
        currency=STRING,
        plan_name=STRING,
        status=_one_of("active", "suspended", "closed"),
        paid_credits=COUNT,
        marketing_opt_in=BOOLEAN,
        marketing_opt_in_at=_or_null(TIME),
        marketing_opt_in_source=_or_null(STRING),
        created_at=TIME,
        updated_at=TIME,
    ),
    "TransactionPage": _object(
        "A page of an account's history; empty for an unknown account.",
        transactions=_array(ref("Transaction")),
        total_count=COUNT,
        has_more=BOOLEAN,
    ),
    "Transaction": _object(
        "An entry of an account's history.",
        transaction_id=ID,
        type=_one_of("charge", "credit"),
        amount_minor=INTEGER,
        currency=STRING,
        description=STRING,
        created_at=TIME,
        balance_after=COUNT,
        transaction_type={
            "type": ["string", "null"],
            "enum": ["purchase", "grant", "refund", "adjustment", None],
        },
        external_transaction_id=_or_null(STRING),
        metadata={"type": ["object", "null"], **_METADATA},
    ),
    "Payment": _object(
        "A payment as the payment provider has it now.",
        payment_id=STRING,
        client_secret=STRING,
        amount_minor={**INTEGER, "minimum": 1},
        currency=STRING,
        uses_purchased={**INTEGER, "minimum": 1},
        status=STRING,
        publishable_key=STRING,
        credits_added=COUNT,
    ),
    "EventReceipt": _object(
        "The event is dealt with; it need not be sent again.",
        status=_one_of("success", "acknowledged", "ignored"),
        event_id=STRING,
    ),
    "ServiceInfo": _object("What answers here.", service=STRING, version=STRING, status=STRING),
    "Health": _object(
        "The service is fit to serve.",
        status={"const": "healthy", "type": "string"},
        database={"const": "connected", "type": "string"},
        timestamp=TIME,
    ),
    "Unhealthy": _object(
        "The service is not fit to serve.",
        detail=_object(
            "What is the matter.",
            status={"const": "unhealthy", "type": "string"},
            database=_one_of("connected", "disconnected"),
            error=STRING,
            timestamp=TIME,
        ),
        code={"const": "unhealthy", "type": "string"},
        request_id=STRING,
    ),
    "Error": _object("An error.", **_ERROR),
    "InsufficientCredits": _object(
        "The account cannot pay.",
        ("purchase_url",),
        **_ERROR,
        balance=COUNT,
        required={**INTEGER, "minimum": 1},
        shortfall={**INTEGER, "minimum": 1},
        retryable={"type": "boolean", "const": False},
        purchase_url={"type": "string", "format": "uri"},
    ),
    "ChargeExists": _object(
        "The idempotency key has made a charge before.", **_ERROR, charge=ref("Charge")
    ),
    "CreditExists": _object(
        "The idempotency key has added credits before.", **_ERROR, credit=ref("Credit")
    ),
    "ValidationError": _object(
        "Something sent has the wrong shape.",
        **{**_ERROR, "detail": {**_array(ref("ValidationFault")), "minItems": 1}},
    ),
    "ValidationFault": _object(
        "One fault in what was sent.",
        ("ctx",),
        type=STRING,
        loc={"type": "array", "items": {"type": ["string", "integer"]}},
        msg=STRING,
        input={},
        ctx={"type": "object"},
    ),
}

# The error schema of a code; Error where it is not listed.
ERROR_SCHEMAS: Mapping[str, str] = {
    "insufficient_credits": "InsufficientCredits",
    "charge_already_exists": "ChargeExists",
    "credit_already_exists": "CreditExists",
    "validation_error": "ValidationError",
}


def _header(description: str, schema: Schema) -> Schema:
    return {"description": description, "schema": schema}


HEADERS: Mapping[str, Schema] = {
    "X-Request-ID": _header(
        "The request's id: the one sent in X-Request-ID, or one made for it.", STRING
    ),
    "Idempotent-Replayed": _header(
        "`true` when this is the first answer over again; otherwise absent.", _one_of("true")
    ),
    "X-Existing-Charge-ID": _header("The charge that the idempotency key made.", ID),
    "X-Existing-Credit-ID": _header("The credit that the idempotency key made.", ID),
    "WWW-Authenticate": _header("How to sign in.", _one_of("ApiKey")),
    "Retry-After": _header("Seconds to wait before sending the same again.", COUNT),
    "Cache-Control": _header("How long the file may be kept.", STRING),
}

# Which further headers an error carries, by its code.
ERROR_HEADERS: Mapping[str, str] = {
    "api_key_format": "WWW-Authenticate",
    "api_key_invalid": "WWW-Authenticate",
    "api_key_expired": "WWW-Authenticate",
    "charge_already_exists": "X-Existing-Charge-ID",
    "credit_already_exists": "X-Existing-Credit-ID",
    "payment_provider_not_configured": "Retry-After",
    "payment_provider_unavailable": "Retry-After",
    "unavailable": "Retry-After",
}
