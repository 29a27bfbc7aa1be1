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
    "accounts_created": "Accounts made that day.",
    "action": "What was done: a kind of thing, a dot and a verb. A word before the dot finds all"
    " of its kind.",
    "active_api_keys": "API keys in the state active.",
    "active_users": "Accounts in the state active.",
    "agent_id": "The agent that works for the user.",
    "amount_minor": "Credits: 1 is one use, whatever the currency.",
    "api_key_id": "The API key.",
    "balance": "Paid credits the account has.",
    "balance_after": "Paid credits after this entry; a free use leaves them as they were.",
    "balance_before": "Paid credits before this entry.",
    "balance_minor": "Reserved for real money; nothing can spend it.",
    "changes": "What exactly was changed, as it was before and after; never a secret.",
    "channel_id": "Where the agent and the user talk.",
    "charge": "The charge that the idempotency key already made.",
    "charge_amount": "Credits that were charged, those that free uses paid for included.",
    "charge_count": "How many charges there are, those that free uses paid for included.",
    "charge_id": "The charge.",
    "charges": "The charges, each decided by itself.",
    "charges_last_24h": "Charges of the last 24 hours.",
    "charges_last_7d": "Charges of the last 7 days.",
    "check_id": "The check.",
    "checks": "Checks.",
    "checks_denied": "Checks that were answered with no.",
    "client_secret": "With the publishable key, what Stripe's script in the user's client needs to"
    " take the payment. Keep it to that client.",
    "code": "What went wrong, for programs: decide by this.",
    "config_data": "The provider's settings by name. Secrets are masked, like `sk_…1234`; several"
    " webhook secrets have commas between their masks.",
    "context": "Where the check comes from; kept with its audit record.",
    "created_at": "When, in UTC.",
    "created_by_email": "Who made the key; null when it was made in the database or on the command"
    " line.",
    "created_count": "How many charges this request made; replayed ones do not count.",
    "credit": "The credit that the idempotency key already made.",
    "credit_amount": "Credits that were added.",
    "credit_count": "How many credits and corrections there are.",
    "credit_id": "The credit.",
    "credits": "How often credits were added.",
    "credits_added": "Credits the payment has added: 0 until it is credited.",
    "credits_last_24h": "How often credits were added in the last 24 hours.",
    "credits_last_7d": "How often credits were added in the last 7 days.",
    "credits_remaining": "Paid credits left.",
    "credits_sold": "Credits that were bought.",
    "credits_taken_back": "Credits that were taken away, after refunds or by staff.",
    "credits_used": "Paid credits that were charged.",
    "ctx": "The bound or the reason, where there is one.",
    "currency": "Three letters; it must be the account's.",
    "cursor": "The `next_cursor` of the page before; goes without an offset.",
    "customer_email": "The user's e-mail address; replaces the stored one when given.",
    "database": "Whether the database answers.",
    "date": "The day, in UTC.",
    "days": "How many days before today; the answer has one row more, for today.",
    "deliveries": "How often the provider has sent it.",
    "description": "For people who read the history.",
    "email": "The staff member's e-mail address.",
    "entries": "The entries of this page.",
    "environment": "A label: `test` and `live` keys see the same data.",
    "error": "What is the matter.",
    "event_id": "The event's id at the payment provider.",
    "event_type": "What the provider calls it.",
    "events": "The events of this page.",
    "expires_at": "When the key ends; null when it does not.",
    "expires_in_days": "How long the key works; null for ever.",
    "external_id": "The user's id at the provider.",
    "external_transaction_id": "The payment's id at the payment provider.",
    "free_charges": "Charges that free uses paid for.",
    "free_uses": "Free uses of a new account.",
    "free_uses_before": "Free uses left before.",
    "free_uses_remaining": "Free uses left.",
    "from": "The first day, in UTC.",
    "happened_at": "When, in UTC.",
    "has_credit": "Whether the user may go on.",
    "has_more": "Whether there is a page after this one.",
    "how": "How it was dealt with: `credited` by hand, `refunded`, or `other`.",
    "id": "Its id.",
    "idempotency_key": "Names this request within the account: a repeat makes nothing new and is"
    " answered 409 with what the first one made. Wins over the Idempotency-Key header.",
    "index": "The charge's place in the request, from 0.",
    "initial_balance_minor": "Kept as `balance_minor`, which nothing can spend.",
    "input": "What was sent there.",
    "ip_address": "Where the call came from; null when that is not known.",
    "is_active": "Whether they may sign in.",
    "is_enabled": "Whether it is in use.",
    "key_prefix": "The key's first 20 characters, to know it by.",
    "last_charge_at": "When the account was last charged, in UTC; null before that.",
    "last_credit_at": "When credits were last added or taken away, in UTC; null before that.",
    "last_login_at": "When they last signed in, in UTC; null before that.",
    "last_received_at": "When it was last sent, in UTC.",
    "last_used_at": "When it was last used, in UTC; null before that.",
    "last_used_ip": "Where it was last used from; null before that.",
    "limit": "How many entries at most.",
    "livemode": "Whether real money moved; null when the provider does not say.",
    "loc": "Where: header, path, query or body, then the field.",
    "marketing_opt_in": "Whether the user agreed to marketing; true sets it, false clears nothing.",
    "marketing_opt_in_at": "When the user agreed to marketing.",
    "marketing_opt_in_source": "Where the user agreed to marketing.",
    "match": "Whether `search` finds what begins with it, which is quick, or contains it.",
    "message": "What happened.",
    "message_id": "The message that was worked on.",
    "metadata": "Where the charge comes from; kept with it.",
    "mode": "Whether the API key is for test or for live payments; null when nothing says.",
    "msg": "The fault as a sentence.",
    "name": "The file's name.",
    "needs_attention": "Whether a person must look at it.",
    "new_key": "The successor; its secret is shown this once.",
    "new_key_prefix": "The successor's first 20 characters.",
    "new_plaintext_key": "The successor's secret. It is shown this once and stored nowhere.",
    "next_cursor": "Where the next page begins, for `cursor`; null on the last page.",
    "oauth_provider": "Who vouches for the user: `oauth:` and a name, as in `oauth:google`.",
    "offset": "How many of the newest entries to pass over.",
    "old_key_expires_at": "Until when the old key goes on working, in UTC.",
    "outcome": "What became of it.",
    "pack_currency": "Three letters: the currency of the price.",
    "pack_price_minor": "What a pack costs, in minor units such as cents.",
    "pack_uses": "How many uses a pack has.",
    "page": "Which page, from 1.",
    "page_size": "How many entries a page has.",
    "paid_credits": "Paid credits left.",
    "paid_with": "Whether a free use or paid credits paid.",
    "payment_id": "The payment's id at the payment provider.",
    "permissions": "What the key may do: `billing:read`, `billing:write`.",
    "picture": "The address of their picture; null when there is none.",
    "plaintext_key": "The key's secret. It is shown this once and stored nowhere.",
    "plan_name": "The account's plan.",
    "previous_status": "The state the account was in.",
    "price_minor": "What was asked for, in minor units such as cents.",
    "problem": "The kind of problem.",
    "problems": "The problems of this page.",
    "provider": "The payment provider.",
    "provider_name": "The payment provider.",
    "publishable_key": "The payment provider's public key, for its script in the client.",
    "purchase_id": "The purchase.",
    "purchase_price_minor": "What the next pack costs, in minor units such as cents; null unless"
    " one is needed.",
    "purchase_required": "Whether the user must buy credits to go on.",
    "purchase_url": "Where credits can be bought; absent unless the operator set it.",
    "purchase_uses": "How many uses the next pack has; null unless one is needed.",
    "purchases": "The purchases of this page.",
    "reason": "Why not; null when the user may go on.",
    "received_at": "When it was first sent, in UTC.",
    "redirect_uri": "The page of the console to come back to.",
    "reference": "The id of the event, the return of money or the warning at the payment provider,"
    " or of the second credit.",
    "replayed": "True when this is the first answer over again; otherwise absent.",
    "request_id": "The request's id, as in X-Request-ID.",
    "required": "Credits the charge asked for.",
    "resolution": "How a person put it right.",
    "resolved_at": "When a person put it right, in UTC; null before that.",
    "resource_id": "The id of what it was done to.",
    "resource_type": "The kind of thing it was done to.",
    "results": "A result for each charge, in the order sent.",
    "retryable": "False: sending it again without more credits ends the same.",
    "return_id": "The refund's or dispute's id at the payment provider.",
    "return_url": "Accepted and ignored.",
    "returned_minor": "How much of the money went back, in minor units such as cents.",
    "role": "`admin` may change things, `viewer` may look.",
    "rotated_to": "The key that replaces it.",
    "search": "Finds accounts by e-mail address or external id, whatever the case; or the account"
    " of this id.",
    "service": "Its name.",
    "settled_at": "When the money came and the credits were added, in UTC; null before that.",
    "shortfall": "Credits missing.",
    "sort": "Which accounts come first.",
    "staff": "Everybody who may, or once might, sign in.",
    "state": "What the identity provider was given to hand back.",
    "status": "The state it is in.",
    "status_filter": "Only those in this state.",
    "tenant_id": "Stored when the account is created; an account is not found by it.",
    "timestamp": "When, in UTC.",
    "to": "The last day, in UTC.",
    "total": "How many there are in all.",
    "total_api_keys": "API keys in any state.",
    "total_balance_minor": "Reserved for real money; nothing can spend it.",
    "total_charged": "Paid credits that were charged in all.",
    "total_charged_all_time": "Paid credits that were ever charged.",
    "total_count": "How many there are in all.",
    "total_credited": "Credits that were added in all.",
    "total_credited_all_time": "Credits that were ever added.",
    "total_pages": "How many pages there are.",
    "total_users": "Accounts in any state.",
    "total_uses": "How often the account was charged.",
    "transaction_id": "The charge's or the credit's id.",
    "transaction_type": "Why credits are added.",
    "transactions": "The entries of this page.",
    "type": "A charge or a credit.",
    "unique_users": "Users of that day: accounts that were charged, with a free use or credits.",
    "updated_at": "When the account last changed, in UTC.",
    "user_agent": "The program the call came from; null when that is not known.",
    "user_role": "The user's role; replaces the stored one when given.",
    "users": "The accounts of this page.",
    "uses": "How many uses were sold.",
    "uses_purchased": "How many uses the pack has.",
    "uses_taken_back": "How many of the uses were taken back.",
    "version": "The version of the wire contract.",
    "wa_id": "Stored when the account is created; an account is not found by it.",
    "warning_id": "The report's id at the payment provider, or the second credit's id.",
    "what_is_wrong": "What is wrong, for people.",
    "who": "The staff member's e-mail address, or the database role.",
    "Account.currency": "The currency of its charges and credits.",
    "Account.customer_email": "The user's e-mail address.",
    "Account.marketing_opt_in": "Whether the user agreed to marketing.",
    "AccountQuery.tenant_id": "Accepted and ignored.",
    "AccountQuery.wa_id": "Accepted and ignored.",
    "AccountRequest.currency": "Three letters: the currency of its charges and credits.",
    "AccountRequest.customer_email": "The user's e-mail address.",
    "AccountRequest.marketing_opt_in": "Whether the user agreed to marketing.",
    "AccountRequest.user_role": "The user's role.",
    "AddStaffRequest.email": "An address of the staff's domain.",
    "AddStaffRequest.name": "The full name; by default the address's first part.",
    "AddStaffRequest.role": "`admin` may change things, `viewer` may look.",
    "AdjustCreditsRequest.amount_minor": "Credits to add; negative to take away. Not 0.",
    "AdjustCreditsRequest.reason": "Why, for the account's history and the audit log.",
    "Adjustment.amount_minor": "Credits added; negative when they were taken away.",
    "Adjustment.balance_after": "Paid credits afterwards.",
    "ApiKey.description": "What it is for.",
    "ApiKey.name": "Whose key it is, for people.",
    "ApiKey.status": "`rotating` keys are replaced and work until they expire.",
    "AuditEntry.reason": "Why, in the words of who did it; null where nobody asked.",
    "CallbackQuery.code": "What the identity provider gave the browser.",
    "ChangeStaffRequest.is_active": "Whether they may sign in; null keeps. Whoever may not is out"
    " at once.",
    "ChangeStaffRequest.reason": "Why, for the audit log.",
    "ChangeStaffRequest.role": "`admin` may change things, `viewer` may look; null keeps.",
    "Charge.amount_minor": "As asked for, also when a free use paid.",
    "Charge.currency": "The account's currency.",
    "Charge.free_uses_remaining": "Free uses left after the charge; absent for charges that the"
    " service before this one made.",
    "ChargeBatch.total_count": "How many charges were sent.",
    "ChargeMetadata.request_id": "The agent's own id for what it worked on.",
    "ChargeResult.body": "The charge, or the error body.",
    "ChargeResult.status": "The HTTP status: 201 for a charge, else the error's.",
    "Check.agent_id": "The agent that asked.",
    "Check.request_id": "The agent's own id for what it was about to work on.",
    "CheckContext.request_id": "The agent's own id for what it will work on.",
    "CreateKeyRequest.description": "What it is for.",
    "CreateKeyRequest.name": "Whose key it is, for people.",
    "CreatedKey.name": "Whose key it is, for people.",
    "Credit.balance_after": "Paid credits afterwards.",
    "Credit.currency": "The account's currency.",
    "Daily.charges": "Charges, those that free uses paid for included.",
    "Error.detail": "What went wrong, for people.",
    "EventReceipt.status": "Whether it was about a payment, is noted, or is of no concern here.",
    "EventReceipt.event_id": "The event's id at the payment provider; null for an ignored one that"
    " has none.",
    "LedgerEntry.amount_minor": "Credits; negative for charges, and for credits that were taken"
    " away.",
    "LedgerEntry.currency": "The account's currency.",
    "LedgerEntry.external_transaction_id": "The payment's id at the payment provider; null for"
    " charges.",
    "LedgerEntry.metadata": "Where the charge comes from; null for credits.",
    "LedgerEntry.paid_with": "Whether a free use or paid credits paid; null for credits.",
    "LedgerEntry.transaction_type": "Why credits were added or taken away; null for charges.",
    "NewKey.name": "Whose key it is, for people.",
    "Payment.amount_minor": "What the pack costs, in minor units such as cents.",
    "Payment.currency": "The currency of the price.",
    "Payment.client_secret": "With the publishable key, what Stripe's script in the user's client"
    " needs to take the payment. Keep it to that client. Empty when the payment cannot be read.",
    "Payment.code": "Why it can no longer be paid: `payment_canceled` at the payment provider, or"
    " `payment_unreadable` because the service has changed its provider account or its mode.",
    "Payment.payable": "False when the payment was not paid and can no longer be: buy again, with a"
    " new Idempotency-Key. Absent otherwise.",
    "Payment.status": "The payment's status in Stripe's words, such as `requires_payment_method`"
    " or `succeeded`; `unknown` when it cannot be read.",
    "PaymentEvent.account_id": "Whose payment it is about; null when that is not known.",
    "PaymentEvent.payment_id": "The payment it is about; null when it is about none.",
    "PaymentProblem.account_id": "The account; null when that is not known.",
    "PaymentProblem.payment_id": "The payment's id at the payment provider; null when that is not"
    " known.",
    "Purchase.currency": "The currency of the price.",
    "Purchase.customer_email": "Where the payment provider sends its receipt.",
    "Purchase.payment_id": "The payment's id at the payment provider; null for a mere offer.",
    "Purchase.shortfall": "Uses that were due back and could not be taken.",
    "Purchase.status": "`offered`, `pending` (the payment is under way) or `settled`.",
    "PurchaseRequest.customer_email": "Where the payment provider sends its receipt; stored when"
    " the account is created.",
    "PurchaseRequest.marketing_opt_in": "Whether the user agreed to marketing; stored when the"
    " account is created.",
    "PurchaseRequest.user_role": "The user's role; stored when the account is created.",
    "PurchasesQuery.account_id": "Only those of this account.",
    "PurchasesQuery.status_filter": "Only those in this state; `returned`: money of it went back.",
    "ResetFreeUsesRequest.free_uses": "How many free uses to leave; null for what new accounts"
    " get.",
    "ResetFreeUsesRequest.reason": "Why, for the audit log.",
    "ResolveRequest.reason": "How it was put right.",
    "ResolvedEvent.resolution": "How it was put right.",
    "RotatedKey.name": "Whose key it is, for people.",
    "SetPricingRequest.free_uses": "Free uses of a new account; null keeps.",
    "SetPricingRequest.pack_currency": "Three letters; null keeps.",
    "SetPricingRequest.pack_price_minor": "What a pack costs, in minor units such as cents; null"
    " keeps.",
    "SetPricingRequest.pack_uses": "How many uses a pack has; null keeps.",
    "SetPricingRequest.reason": "Why, for the audit log.",
    "SetProviderRequest.config_data": "The provider's settings by name: for Stripe `api_key`,"
    " `webhook_secret` and `publishable_key`. It replaces all there are, but a value that is"
    " masked or blank keeps what is stored. `webhook_secret` may be a list, or a text with commas:"
    " these are then all there are, and a mask among them keeps the secret it stands for. Null"
    " keeps everything.",
    "SetProviderRequest.is_enabled": "Whether to use it; null keeps, and is true for a provider"
    " that is new.",
    "SetProviderRequest.reason": "Why, for the audit log.",
    "SetStatusRequest.reason": "Why, for the audit log.",
    "SetStatusRequest.status": "The state the account shall be in.",
    "SignedIn.name": "Their full name.",
    "StaffEntry.name": "Their full name.",
    "StaffMember.name": "Their full name.",
    "Transaction.amount_minor": "Credits; negative for charges, and for credits that were taken"
    " back after a refund.",
    "Transaction.currency": "The account's currency.",
    "Transaction.external_transaction_id": "The payment's id at the payment provider; null for"
    " charges.",
    "Transaction.metadata": "Where the charge comes from; null for credits.",
    "Transaction.transaction_type": "Why credits were added; null for charges.",
    "TransactionsQuery.tenant_id": "Accepted and ignored.",
    "TransactionsQuery.wa_id": "Accepted and ignored.",
    "User.currency": "The currency of its charges and credits.",
    "User.customer_email": "The user's e-mail address.",
    "User.total_uses": "How often the account was charged.",
    "UserDetails.currency": "The currency of its charges and credits.",
    "UserDetails.customer_email": "The user's e-mail address.",
    "UserDetails.marketing_opt_in": "Whether the user agreed to marketing.",
    "UserDetails.total_uses": "How often the account was charged.",
    "UserDetails.user_role": "The user's role.",
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
        "The body is not signed with one of the webhook secrets, or was signed more than 300"
        " seconds ago, or is no event. The service's log says which.",
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
    "api_key_unknown": ErrorCode(
        400, "API key not found: {api_key_id}", "There is no such key to rotate."
    ),
    "invalid_redirect": ErrorCode(
        400,
        "redirect_uri must be a page of this console",
        "Signing in leads to pages of the console only.",
    ),
    "sign_in_failed": ErrorCode(
        400,
        "OAuth authentication failed: {reason}",
        "The person was not signed in; the reason says why. Begin anew at `/admin/sign-in`.",
    ),
    "not_authenticated": ErrorCode(
        401,
        "Not authenticated",
        "There is no staff token and no session, or it is not good (any more): the wording varies.",
    ),
    "admin_deactivated": ErrorCode(
        403,
        "User account is deactivated",
        "An administrator can make the account active again.",
    ),
    "admin_role_required": ErrorCode(
        403,
        "Admin role required. Your role: {role} (read-only)",
        "Viewers change nothing: ask an administrator.",
    ),
    "cross_origin": ErrorCode(
        403,
        "Calls with a browser session must come from our own pages",
        "Programs send a token in the Authorization header instead of the cookie.",
    ),
    "not_authorized": ErrorCode(
        403, "User not authorized", "The token's owner is not a member of staff (any more)."
    ),
    "admin_not_found": ErrorCode(
        404, "Staff member not found: {email}", "Nobody of this address is a member of staff."
    ),
    "api_key_not_found": ErrorCode(404, "API key not found: {api_key_id}", "There is no such key."),
    "payment_event_not_found": ErrorCode(
        404,
        "Payment event not found: {event_id}",
        "There is no such event, or it needs nobody's attention.",
    ),
    "payment_return_not_found": ErrorCode(
        404,
        "No open shortfall of {return_id}",
        "There is no such refund or dispute, or all its credits were taken back.",
    ),
    "payment_warning_not_found": ErrorCode(
        404, "No open warning {warning_id}", "There is no such warning, or it was closed."
    ),
    "user_not_found": ErrorCode(
        404, "User {account_id} not found", "There is no account of this id."
    ),
    "credit_not_usable": ErrorCode(
        409,
        "Credit {credit_id} cannot be the credit of payment {payment_id}: {problem}",
        "Name the credit that was given for this payment, or resolve it as `other`.",
    ),
    "payment_already_credited": ErrorCode(
        409,
        "Payment {payment_id} was credited or dealt with before",
        "One payment has one credit: leave its id out of a credit that is for something else.",
    ),
    "payment_not_resolved": ErrorCode(
        409,
        "Payment {payment_id} cannot be opened again: {problem}",
        "No person has resolved it, or money of it went back since then.",
    ),
    "payment_of_another_account": ErrorCode(
        409,
        "Payment {payment_id} was made by another account",
        "The payment was sold to another account than the one to be credited.",
    ),
    "api_key_not_active": ErrorCode(
        409,
        "API key cannot be rotated: its status is {status}",
        "Only an active key can be rotated: rotate its successor, or create a new key.",
    ),
    "last_admin": ErrorCode(
        409,
        "This would leave nobody with the role admin",
        "Make somebody else an administrator first.",
    ),
    "invalid_argument": ErrorCode(
        422, "Invalid {argument}: {problem}", "What was sent cannot be; `detail` says why."
    ),
    "too_many_attempts": ErrorCode(
        429,
        "Too many sign-in attempts, please wait",
        "Somebody at this address tries to sign in too often.",
    ),
    "sign_in_unavailable": ErrorCode(
        500,
        "Failed to initiate OAuth login",
        "The identity provider does not answer. The wording varies.",
    ),
    "console_closed": ErrorCode(
        503,
        "The staff console is not set up",
        "The operator has not set ADMIN_JWT_SECRET.",
    ),
    "sign_in_not_configured": ErrorCode(
        503,
        "Signing in is not set up: the operator must set ADMIN_JWT_SECRET, GOOGLE_CLIENT_ID,"
        " GOOGLE_CLIENT_SECRET and PUBLIC_BASE_URL",
        "People cannot sign in here; programs can use a token.",
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


def record(summary: str, optional: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    """An object; all fields but the `optional` ones are always there."""
    return {
        "type": "object",
        "description": summary,
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }


def array(items: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": items}


def or_null(schema: Schema) -> Schema:
    """The same, or null."""
    return {**schema, "type": [schema["type"], "null"]}


def one_of(*values: str) -> Schema:
    """One of these strings."""
    return {"type": "string", "enum": list(values)}


METADATA: Schema = {
    "properties": {
        name: or_null(STRING) for name in ("message_id", "agent_id", "channel_id", "request_id")
    },
    "required": ["message_id", "agent_id", "channel_id", "request_id"],
}
# The other request_id is this service's; here it is the agent's.
METADATA["properties"]["request_id"] = {
    **or_null(STRING),
    "description": FIELDS["ChargeMetadata.request_id"],
}
_ERROR: dict[str, Schema] = {
    "detail": {**STRING, "description": FIELDS["Error.detail"]},
    "code": STRING,
    "request_id": STRING,
}

SCHEMAS: Mapping[str, Schema] = {
    "CreditCheck": record(
        "Whether a user may go on. Every field is always present.",
        has_credit=BOOLEAN,
        credits_remaining=or_null(COUNT),
        plan_name=or_null(STRING),
        reason=or_null(STRING),
        free_uses_remaining=or_null(COUNT),
        total_uses=or_null(COUNT),
        purchase_required=BOOLEAN,
        purchase_price_minor=or_null(COUNT),
        purchase_uses=or_null(COUNT),
    ),
    "Charge": record(
        "A charge as it stands in the ledger.",
        ("free_uses_remaining",),
        charge_id=ID,
        account_id=ID,
        amount_minor={**INTEGER, "minimum": 1},
        currency=STRING,
        balance_after=COUNT,
        created_at=TIME,
        description=STRING,
        metadata={"type": "object", **METADATA},
        paid_with=one_of("free", "paid"),
        free_uses_remaining=COUNT,
    ),
    "ChargeBatch": record(
        "What became of a batch.",
        results=array(ref("ChargeResult")),
        created_count=COUNT,
        total_count=COUNT,
    ),
    "ChargeResult": record(
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
    "Credit": record(
        "Added credits as they stand in the ledger.",
        credit_id=ID,
        account_id=ID,
        amount_minor={**INTEGER, "minimum": 1},
        currency=STRING,
        balance_after=COUNT,
        transaction_type=one_of("purchase", "grant", "refund", "adjustment"),
        description=STRING,
        external_transaction_id=or_null(STRING),
        created_at=TIME,
    ),
    "Account": record(
        "A user's account.",
        account_id=ID,
        oauth_provider=STRING,
        external_id=STRING,
        wa_id=or_null(STRING),
        tenant_id=or_null(STRING),
        customer_email=or_null(STRING),
        balance_minor=COUNT,
        currency=STRING,
        plan_name=STRING,
        status=one_of("active", "suspended", "closed"),
        paid_credits=COUNT,
        marketing_opt_in=BOOLEAN,
        marketing_opt_in_at=or_null(TIME),
        marketing_opt_in_source=or_null(STRING),
        created_at=TIME,
        updated_at=TIME,
    ),
    "TransactionPage": record(
        "A page of an account's history; empty for an unknown account.",
        transactions=array(ref("Transaction")),
        total_count=COUNT,
        has_more=BOOLEAN,
        next_cursor=or_null(STRING),
    ),
    "Transaction": record(
        "An entry of an account's history.",
        transaction_id=ID,
        type=one_of("charge", "credit"),
        amount_minor=INTEGER,
        currency=STRING,
        description=STRING,
        created_at=TIME,
        balance_after=COUNT,
        transaction_type={
            "type": ["string", "null"],
            "enum": ["purchase", "grant", "refund", "adjustment", None],
        },
        external_transaction_id=or_null(STRING),
        metadata={"type": ["object", "null"], **METADATA},
    ),
    "Payment": record(
        "A payment as the payment provider has it now.",
        ("payable", "code"),
        payment_id=STRING,
        client_secret=STRING,
        amount_minor={**INTEGER, "minimum": 1},
        currency=STRING,
        uses_purchased={**INTEGER, "minimum": 1},
        status=STRING,
        publishable_key=STRING,
        credits_added=COUNT,
        payable={"type": "boolean", "const": False},
        code=one_of("payment_canceled", "payment_unreadable"),
    ),
    "EventReceipt": record(
        "The event is dealt with; it need not be sent again.",
        status=one_of("success", "acknowledged", "ignored"),
        event_id=or_null(STRING),
    ),
    "ServiceInfo": record("What answers here.", service=STRING, version=STRING, status=STRING),
    "Health": record(
        "The service is fit to serve.",
        status={"const": "healthy", "type": "string"},
        database={"const": "connected", "type": "string"},
        timestamp=TIME,
    ),
    "Unhealthy": record(
        "The service is not fit to serve.",
        detail=record(
            "What is the matter.",
            status={"const": "unhealthy", "type": "string"},
            database=one_of("connected", "disconnected"),
            error=STRING,
            timestamp=TIME,
        ),
        code={"const": "unhealthy", "type": "string"},
        request_id=STRING,
    ),
    "Error": record("An error.", **_ERROR),
    "InsufficientCredits": record(
        "The account cannot pay.",
        ("purchase_url",),
        **_ERROR,
        balance=COUNT,
        required={**INTEGER, "minimum": 1},
        shortfall={**INTEGER, "minimum": 1},
        retryable={"type": "boolean", "const": False},
        purchase_url={"type": "string", "format": "uri"},
    ),
    "ChargeExists": record(
        "The idempotency key has made a charge before.", **_ERROR, charge=ref("Charge")
    ),
    "CreditExists": record(
        "The idempotency key has added credits before.", **_ERROR, credit=ref("Credit")
    ),
    "ValidationError": record(
        "Something sent has the wrong shape.",
        **{**_ERROR, "detail": {**array(ref("ValidationFault")), "minItems": 1}},
    ),
    "ValidationFault": record(
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
        "`true` when this is the first answer over again; otherwise absent.", one_of("true")
    ),
    "X-Existing-Charge-ID": _header("The charge that the idempotency key made.", ID),
    "X-Existing-Credit-ID": _header("The credit that the idempotency key made.", ID),
    "WWW-Authenticate": _header("How to sign in.", one_of("ApiKey", "Bearer")),
    "Retry-After": _header("Seconds to wait before sending the same again.", COUNT),
    "Cache-Control": _header("Whether, and how long, the answer may be kept.", STRING),
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
    "not_authenticated": "WWW-Authenticate",
    "too_many_attempts": "Retry-After",
    "sign_in_failed": "Cache-Control",
}
