"""What the API's description says about the staff's calls; see operations.py."""

from __future__ import annotations

from collections.abc import Mapping

from server.public.answers import array, ref
from server.public.operations import ERROR_VALUES, Operation

_ACCOUNT_ID = str(ERROR_VALUES["account_id"])
_KEY_ID = str(ERROR_VALUES["api_key_id"])
_NEW_KEY_ID = "c3a95d70-64be-4b21-9f08-d2e17a40b6f5"
_STAFF_ID = "41d8be03-7a2c-4f96-b5e0-9c6a3d18f724"
_EVENT_ID = "evt_1RkX3aLkdIwHu7ixq0v5s2Zb"
_PAYMENT_ID = "pi_3RkX2eLkdIwHu7ix0nW5f1Qa"
_AT = "2026-11-22T10:24:05.141499Z"
_THEN = "2026-11-20T08:00:00.948849Z"
_USER_PATH = {"account_id": _ACCOUNT_ID}
_KEY_PATH = {"api_key_id": _KEY_ID}
_PAGING = {"page": 1, "page_size": 50}
_COUNTED = {"total": 1, **_PAGING, "total_pages": 1}
_PAGED = {**_PAGING, "has_more": False}

_USER = {
    "account_id": _ACCOUNT_ID,
    "oauth_provider": "oauth:google",
    "external_id": "user-1042",
    "wa_id": None,
    "tenant_id": None,
    "customer_email": "ada@example.com",
    "balance_minor": 0,
    "currency": "USD",
    "plan_name": "free",
    "status": "active",
    "created_at": _THEN,
    "last_charge_at": _AT,
    "last_credit_at": _THEN,
    "total_charged": 3,
    "total_credited": 20,
    "charge_count": 6,
    "credit_count": 1,
    "paid_credits": 17,
    "free_uses_remaining": 0,
    "total_uses": 6,
}
_KEY = {
    "id": _KEY_ID,
    "name": "scout",
    "key_prefix": "cbk_live_Zx81kQw0aBc",
    "environment": "live",
    "permissions": ["billing:read", "billing:write"],
    "status": "active",
    "created_at": _THEN,
    "expires_at": None,
    "last_used_at": _AT,
    "created_by_email": "ada@example.com",
    "description": None,
    "last_used_ip": "203.0.113.7",
    "rotated_to": None,
}
_SECRET = "cbk_live_..."  # noqa: S105
_NEW = {"name": "scout", "environment": "live", "permissions": ["billing:read", "billing:write"]}
_PROVIDER = {
    "id": "0b9f6f7c-1f53-4dd5-93a4-5f2f6f5b8f11",
    "provider_name": "stripe",
    "is_enabled": True,
    "config_data": {
        "api_key": "sk_…4242",
        "webhook_secret": "whsec_…9f1c",
        "publishable_key": "pk_test_example",
    },
    "updated_at": _AT,
    "mode": "test",
}
_PRICING = {
    "free_uses": 3,
    "pack_uses": 20,
    "pack_price_minor": 500,
    "pack_currency": "USD",
}
_MEMBER = {
    "id": _STAFF_ID,
    "email": "grace@example.com",
    "name": "Grace",
    "role": "viewer",
    "is_active": True,
}

STAFF_OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("GET", "/admin/api/users"): Operation(
        "listUsers",
        "Staff: accounts",
        "Finds accounts, the newest first unless `sort` says otherwise. Without `search`, lists"
        " all.",
        answer=ref("UserPage"),
        values={"search": "ada@", **_PAGING},
        example={"users": [_USER], **_COUNTED},
    ),
    ("GET", "/admin/api/users/{account_id}"): Operation(
        "getUser",
        "Staff: accounts",
        "Reads one account: who it belongs to, its balances, its totals.",
        answer=ref("UserDetails"),
        values=_USER_PATH,
        example={
            **_USER,
            "user_role": "user",
            "agent_id": "scout",
            "marketing_opt_in": False,
            "marketing_opt_in_at": None,
            "marketing_opt_in_source": None,
            "updated_at": _AT,
        },
        errors=("user_not_found",),
    ),
    ("GET", "/admin/api/users/{account_id}/transactions"): Operation(
        "listUserTransactions",
        "Staff: accounts",
        "Lists an account's ledger, newest first, with the balance after each entry. Go on with"
        " `cursor`, not `page`, where entries may be added meanwhile.",
        answer=ref("LedgerPage"),
        values=_USER_PATH,
        example={
            "transactions": [
                {
                    "transaction_id": "019a9c2e-a3c8-7d11-b5f2-4e7a1c9d0368",
                    "type": "credit",
                    "amount_minor": 20,
                    "currency": "USD",
                    "description": "Welcome gift",
                    "created_at": _THEN,
                    "balance_after": 20,
                    "transaction_type": "grant",
                    "external_transaction_id": None,
                    "paid_with": None,
                    "metadata": None,
                }
            ],
            **_COUNTED,
            "next_cursor": None,
        },
        errors=("user_not_found", "invalid_argument"),
    ),
    ("GET", "/admin/api/users/{account_id}/checks"): Operation(
        "listUserChecks",
        "Staff: accounts",
        "Lists how an account's checks were answered, newest first, and why with no.",
        answer=ref("CheckPage"),
        values=_USER_PATH,
        example={
            "checks": [
                {
                    "check_id": "019a9c2e-5b1d-7c40-8f3a-6d2b9e0c4a18",
                    "has_credit": False,
                    "created_at": _AT,
                    "reason": "No free uses or credits remaining",
                    "credits_remaining": 0,
                    "free_uses_remaining": 0,
                    "agent_id": "scout",
                    "channel_id": "general",
                    "request_id": "req-88",
                }
            ],
            **_PAGED,
        },
        errors=("user_not_found",),
    ),
    ("POST", "/admin/api/users/{account_id}/credits"): Operation(
        "adjustCredits",
        "Staff: accounts",
        "Adds paid credits to an account, or takes some away, but never more than there are.",
        answer=ref("Adjustment"),
        values=_USER_PATH,
        request={"amount_minor": 5, "reason": "Goodwill after the outage"},
        example={
            "credit_id": "019a9c2e-a3c8-7d11-b5f2-4e7a1c9d0368",
            "account_id": _ACCOUNT_ID,
            "amount_minor": 5,
            "balance_before": 17,
            "balance_after": 22,
            "created_at": _AT,
        },
        idempotency_key="ticket-311",
        headers=("Idempotent-Replayed",),
        errors=(
            "insufficient_credits",
            "user_not_found",
            "balance_overflow",
            "idempotency_key_reused",
        ),
    ),
    ("POST", "/admin/api/users/{account_id}/free-uses"): Operation(
        "resetFreeUses",
        "Staff: accounts",
        "Sets how many free uses an account has left, by default to what new accounts get.",
        answer=ref("FreeUsesReset"),
        values=_USER_PATH,
        request={"reason": "A new start"},
        example={"account_id": _ACCOUNT_ID, "free_uses_before": 0, "free_uses_remaining": 3},
        errors=("user_not_found",),
    ),
    ("PUT", "/admin/api/users/{account_id}/status"): Operation(
        "setUserStatus",
        "Staff: accounts",
        "Suspends an account, closes it, or makes it active again. A suspended or closed account"
        " is not charged.",
        answer=ref("StatusChange"),
        values=_USER_PATH,
        request={"status": "suspended", "reason": "Card reported stolen"},
        example={
            "account_id": _ACCOUNT_ID,
            "status": "suspended",
            "previous_status": "active",
        },
        errors=("user_not_found",),
    ),
    ("GET", "/admin/api/api-keys"): Operation(
        "listApiKeys",
        "Staff: API keys",
        "Lists all keys, newest first, revoked ones included; never a secret.",
        answer=array(ref("ApiKey")),
        values={"environment": "live"},
        example=[_KEY],
    ),
    ("POST", "/admin/api/api-keys"): Operation(
        "createApiKey",
        "Staff: API keys",
        "Makes a key. Its secret is in the answer and nowhere else.",
        answer=ref("CreatedKey"),
        request={"name": "scout", "expires_in_days": 365},
        example={
            "id": _KEY_ID,
            "name": "scout",
            "key_prefix": "cbk_live_Zx81kQw0aBc",
            "plaintext_key": _SECRET,
            "environment": "live",
            "permissions": ["billing:read", "billing:write"],
            "expires_at": "2027-11-22T10:24:05.141499Z",
            "created_at": _AT,
        },
        errors=("invalid_argument",),
    ),
    ("DELETE", "/admin/api/api-keys/{api_key_id}"): Operation(
        "revokeApiKey",
        "Staff: API keys",
        "Ends a key: its next request is refused. Ending it again is fine.",
        content_type="",
        values=_KEY_PATH,
        errors=("api_key_not_found",),
    ),
    ("POST", "/admin/api/api-keys/{api_key_id}/rotate"): Operation(
        "rotateApiKey",
        "Staff: API keys",
        "Replaces a key: the successor has the same name, environment, permissions and remaining"
        " lifetime. The old key works for 24 more hours.",
        answer=ref("RotatedKey"),
        values=_KEY_PATH,
        example={
            "id": _NEW_KEY_ID,
            "name": "scout",
            "new_key_prefix": "cbk_live_Yw72jPv9zAb",
            "new_plaintext_key": _SECRET,
            "old_key_expires_at": "2026-11-23T10:24:05.141499Z",
            "new_key": {
                "id": _NEW_KEY_ID,
                **_NEW,
                "key_prefix": "cbk_live_Yw72jPv9zAb",
                "plaintext_key": _SECRET,
                "expires_at": None,
            },
        },
        errors=("api_key_unknown", "api_key_not_active"),
    ),
    ("GET", "/admin/api/analytics/overview"): Operation(
        "getOverview",
        "Staff: figures",
        "The service at a glance. The last 24 hours and 7 days are exact to five minutes.",
        answer=ref("Overview"),
        example={
            "total_users": 1042,
            "active_users": 1040,
            "total_api_keys": 4,
            "active_api_keys": 3,
            "total_balance_minor": 0,
            "total_charged_all_time": 88210,
            "total_credited_all_time": 91400,
            "charges_last_24h": 412,
            "credits_last_24h": 9,
            "charges_last_7d": 2980,
            "credits_last_7d": 61,
        },
    ),
    ("GET", "/admin/api/analytics/daily"): Operation(
        "listDailyFigures",
        "Staff: figures",
        "A row for each of the last `days` days, the oldest first, and one for today.",
        answer=array(ref("Daily")),
        values={"days": 1},
        example=[
            {
                "date": f"2026-11-{day}",
                "charges": 412,
                "credits": 9,
                "charge_amount": 412,
                "credit_amount": 180,
                "unique_users": 77,
                "free_charges": 30,
                "credits_used": 382,
                "credits_sold": 160,
                "credits_taken_back": 0,
                "checks": 640,
                "checks_denied": 12,
                "accounts_created": 10,
            }
            for day in (21, 22)
        ],
    ),
    ("GET", "/admin/api/config/providers"): Operation(
        "listProviders",
        "Staff: settings",
        "Lists the payment providers that are set up, by name, their secrets masked.",
        answer=array(ref("Provider")),
        example=[_PROVIDER],
    ),
    ("PUT", "/admin/api/config/providers/{provider}"): Operation(
        "setProvider",
        "Staff: settings",
        "Sets a payment provider up, or switches it on or off. Secrets are stored encrypted. What"
        " was read may be sent back: masked values keep what is stored.",
        answer=ref("Provider"),
        values={"provider": "stripe"},
        request={
            "is_enabled": True,
            "config_data": {"api_key": "sk_…4242", "publishable_key": "pk_test_example"},
            "reason": "New publishable key",
        },
        example=_PROVIDER,
        errors=("invalid_argument",),
    ),
    ("GET", "/admin/api/config/pricing"): Operation(
        "getPricing",
        "Staff: settings",
        "Reads what new users get free and what a pack is.",
        answer=ref("Pricing"),
        example=_PRICING,
    ),
    ("PUT", "/admin/api/config/pricing"): Operation(
        "setPricing",
        "Staff: settings",
        "Changes what new users get free and what a pack is. What is already offered keeps its"
        " price. A price that the payment provider would refuse is refused, with what it takes.",
        answer=ref("Pricing"),
        request={"pack_price_minor": 500, "reason": "Back to the old price"},
        example=_PRICING,
        errors=("invalid_argument",),
    ),
    ("GET", "/admin/api/purchases"): Operation(
        "listPurchases",
        "Staff: payments",
        "Lists purchases, newest first, and what became of them.",
        answer=ref("PurchasePage"),
        values={"account_id": _ACCOUNT_ID, "status_filter": "settled"},
        example={
            "purchases": [
                {
                    "purchase_id": "019a9c2e-1c5f-7e02-a9d4-3b7f5e8c2d60",
                    "account_id": _ACCOUNT_ID,
                    "oauth_provider": "oauth:google",
                    "external_id": "user-1042",
                    "customer_email": "ada@example.com",
                    "provider": "stripe",
                    "payment_id": _PAYMENT_ID,
                    "status": "settled",
                    "uses": 20,
                    "price_minor": 500,
                    "currency": "USD",
                    "created_at": _THEN,
                    "settled_at": _AT,
                    "returned_minor": 0,
                    "uses_taken_back": 0,
                    "shortfall": 0,
                }
            ],
            **_PAGED,
        },
    ),
    ("GET", "/admin/api/payment-events"): Operation(
        "listPaymentEvents",
        "Staff: payments",
        "Lists what the payment provider reported, newest first, and what became of it.",
        answer=ref("PaymentEventPage"),
        values=_PAGING,
        example={
            "events": [
                {
                    "provider": "stripe",
                    "event_id": _EVENT_ID,
                    "event_type": "payment_intent.succeeded",
                    "payment_id": _PAYMENT_ID,
                    "account_id": _ACCOUNT_ID,
                    "outcome": "settled",
                    "needs_attention": False,
                    "deliveries": 1,
                    "livemode": False,
                    "received_at": _AT,
                    "last_received_at": _AT,
                    "resolved_at": None,
                    "resolution": None,
                }
            ],
            **_PAGED,
        },
    ),
    ("GET", "/admin/api/payment-problems"): Operation(
        "listPaymentProblems",
        "Staff: payments",
        "Lists payments that could not be credited, refunds for which no credits were left to take,"
        " reports of fraud and second credits for one payment.",
        answer=ref("PaymentProblemPage"),
        values=_PAGING,
        example={
            "problems": [
                {
                    "problem": "metadata_missing",
                    "provider": "stripe",
                    "reference": _EVENT_ID,
                    "payment_id": _PAYMENT_ID,
                    "account_id": None,
                    "what_is_wrong": "the payment does not say whom it is for",
                    "happened_at": _AT,
                }
            ],
            **_PAGED,
        },
    ),
    ("POST", "/admin/api/payment-events/{event_id}/resolve"): Operation(
        "resolvePaymentEvent",
        "Staff: payments",
        "Says that a person has put right what an event was about: it leaves the list of problems,"
        " and its payment, unless it is credited, counts as resolved by `how`, or as `other`.",
        answer=ref("ResolvedEvent"),
        values={"event_id": _EVENT_ID},
        request={"reason": "Refunded in the dashboard", "how": "refunded"},
        example={"event_id": _EVENT_ID, "resolution": "Refunded in the dashboard"},
        errors=(
            "invalid_argument",
            "payment_event_not_found",
            "payment_already_credited",
            "credit_not_usable",
        ),
    ),
    ("POST", "/admin/api/payments/{payment_id}/resolve"): Operation(
        "resolvePayment",
        "Staff: payments",
        "Says how a person has dealt with a payment that was not credited: `credited` by hand with"
        " the credit `credit_id`, `refunded`, or `other`. It is never credited again. What was paid"
        " is only asked for where no stored event tells.",
        answer=ref("ResolvedPayment"),
        values={"payment_id": _PAYMENT_ID},
        request={"how": "refunded", "reason": "Refunded in the dashboard"},
        example={"payment_id": _PAYMENT_ID, "resolution": "Refunded in the dashboard"},
        errors=("invalid_argument", "payment_already_credited", "credit_not_usable"),
    ),
    ("POST", "/admin/api/payments/{payment_id}/reopen"): Operation(
        "reopenPayment",
        "Staff: payments",
        "Takes a person's resolution of a payment back: its problems are listed again, and it can"
        " be credited. No balance changes.",
        answer=ref("ReopenedPayment"),
        values={"payment_id": _PAYMENT_ID},
        request={"reason": "It was another payment"},
        example={"payment_id": _PAYMENT_ID, "reason": "It was another payment"},
        errors=("payment_not_resolved",),
    ),
    ("POST", "/admin/api/payment-warnings/{warning_id}/resolve"): Operation(
        "resolvePaymentWarning",
        "Staff: payments",
        "Closes a report of fraud, or a second credit for a payment, that a person has dealt with:"
        " it leaves the list of problems. No balance changes.",
        answer=ref("ResolvedWarning"),
        values={"warning_id": "issfr_1RkX2eLkdIwHu7ix1pQ8sT4b"},
        request={"reason": "Refunded in the dashboard"},
        example={
            "warning_id": "issfr_1RkX2eLkdIwHu7ix1pQ8sT4b",
            "resolution": "Refunded in the dashboard",
        },
        errors=("payment_warning_not_found",),
    ),
    ("POST", "/admin/api/payment-returns/{return_id}/resolve"): Operation(
        "resolveShortfall",
        "Staff: payments",
        "Writes off the credits that could not be taken back after a refund or dispute: it leaves"
        " the list of problems. No balance changes.",
        answer=ref("ResolvedReturn"),
        values={"return_id": "re_3RkX2eLkdIwHu7ix1pQ8sT4b"},
        request={"reason": "Written off"},
        example={"return_id": "re_3RkX2eLkdIwHu7ix1pQ8sT4b", "resolution": "Written off"},
        errors=("payment_return_not_found",),
    ),
    ("GET", "/admin/api/staff"): Operation(
        "listStaff",
        "Staff: staff",
        "Lists everybody who may, or once might, sign in.",
        answer=ref("StaffList"),
        example={"staff": [{**_MEMBER, "created_at": _THEN, "last_login_at": None}]},
    ),
    ("POST", "/admin/api/staff"): Operation(
        "addStaff",
        "Staff: staff",
        "Lets somebody sign in. Whoever is there already gets this role, and may sign in again.",
        answer=ref("StaffMember"),
        request={"email": "grace@example.com", "name": "Grace", "role": "viewer"},
        example=_MEMBER,
        errors=("invalid_argument", "last_admin"),
    ),
    ("PUT", "/admin/api/staff/{email}"): Operation(
        "changeStaff",
        "Staff: staff",
        "Changes somebody's role, or whether they may sign in. The last administrator stays one.",
        answer=ref("StaffMember"),
        values={"email": "grace@example.com"},
        request={"is_active": True, "reason": "Back from leave"},
        example=_MEMBER,
        errors=("admin_not_found", "last_admin"),
    ),
    ("GET", "/admin/api/audit-log"): Operation(
        "listAuditLog",
        "Staff: staff",
        "Lists what staff and database administrators did, newest first.",
        answer=ref("AuditPage"),
        values={"action": "account", "from": "2026-11-01"},
        example={
            "entries": [
                {
                    "id": "019a9c2e-7f06-7a52-9c1e-0b8d4f6a2e94",
                    "created_at": _AT,
                    "who": "grace@example.com",
                    "action": "account.set_status",
                    "resource_type": "account",
                    "resource_id": _ACCOUNT_ID,
                    "reason": "Card reported stolen",
                    "changes": {"before": "active", "after": "suspended"},
                    "ip_address": "203.0.113.7",
                    "user_agent": "curl/8.14.1",
                }
            ],
            **_PAGED,
        },
    ),
    ("GET", "/admin/oauth/login"): Operation(
        "beginSignIn",
        "Staff: signing in",
        "Sends the browser to the identity provider, to come back to a page of the console.",
        content_type="",
        values={"redirect_uri": "/admin"},
        headers=("Cache-Control",),
        errors=(
            "invalid_redirect",
            "too_many_attempts",
            "sign_in_unavailable",
            "sign_in_not_configured",
            "unavailable",
        ),
    ),
    ("GET", "/admin/oauth/callback"): Operation(
        "finishSignIn",
        "Staff: signing in",
        "Where the identity provider sends the browser back to. It gets a session and goes on to"
        " the page asked for.",
        content_type="",
        headers=("Cache-Control",),
        errors=(
            "sign_in_failed",
            "too_many_attempts",
            "sign_in_unavailable",
            "sign_in_not_configured",
            "unavailable",
            "validation_error",
        ),
    ),
    ("POST", "/admin/oauth/logout"): Operation(
        "signOut",
        "Staff: signing in",
        "Ends the browser's session, if it has one.",
        answer=ref("SignedOut"),
        example={"message": "Logged out successfully"},
        headers=("Cache-Control",),
        errors=("sign_in_not_configured", "unavailable"),
    ),
    ("GET", "/admin/oauth/user"): Operation(
        "getSignedIn",
        "Staff: signing in",
        "Says who is signed in.",
        answer=ref("SignedIn"),
        example={
            "id": _STAFF_ID,
            "email": "grace@example.com",
            "name": "Grace",
            "picture": None,
            "role": "viewer",
        },
        guard_errors=("not_authenticated", "not_authorized"),
        headerless=True,
    ),
}
