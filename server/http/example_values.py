"""The people and things in the examples of the API's description."""

from __future__ import annotations

from typing import Any

ADA = {"oauth_provider": "oauth:google", "external_id": "user-1042"}
STRANGER = {"oauth_provider": "oauth:discord", "external_id": "user-7731"}
ACCOUNT_ID = "019a9c2e-5b1d-7c40-8f3a-6d2b9e0c4a17"
CREDIT_ID = "019a9c2e-a3c8-7d11-b5f2-4e7a1c9d0368"
HOLD_ID = "019a9c2f-0c74-7a18-9d3e-5b8f2e6c1a47"
PAYMENT_ID = "pi_3RkX2eLkdIwHu7ix0nW5f1Qa"
EVENT_ID = "evt_1RkX3aLkdIwHu7ixq0v5s2Zb"
API_KEY_ID = "7f0c2b1e-90d4-4c59-8a37-1f5b6e2d9c08"
REQUEST_ID = "9f2d6c0e4b8a4f7c81d3e5a7b9c0d2f4"

NEW_API_KEY_ID = "c3a95d70-64be-4b21-9f08-d2e17a40b6f5"
STAFF_ID = "41d8be03-7a2c-4f96-b5e0-9c6a3d18f724"
AT = "2026-11-22T10:24:05.141499Z"
THEN = "2026-11-20T08:00:00.948849Z"
PAGING = {"page": 1, "page_size": 50}
PAGED = {**PAGING, "has_more": False}
BOUNDED = {**PAGED, "total": 1, "total_is_minimum": False}
COUNTED = {"total": 1, **PAGING, "total_pages": 1}

# Values for the {placeholders} of error wordings.
ERROR_VALUES: dict[str, Any] = {
    "endpoint_id": "0197f2a0-0000-7000-8000-0000000000e1",
    "delivery_id": "0197f2a0-0000-7000-8000-0000000000d1",
    "balance": 0,
    "required": 1,
    "account_currency": "USD",
    "currency": "EUR",
    "other_currency": "USD",
    "into_account_id": "019a9c2d-4a3b-7e19-8d55-2f7c1e9b6a40",
    "permission": "billing:write",
    "limit": 1048576,
    "period": "day",
    "capped": "this API key",
    "used": 1048576,
    "resets_at": "2026-11-23T00:00:00Z",
    "payment_id": "pi_unknown",
    "return_id": "re_unknown",
    "warning_id": "issfr_unknown",
    "credit_id": "0197f2a0-0000-7000-8000-000000000000",
    "charge_id": "0197f2a0-0000-7000-8000-000000000001",
    "hold_id": "0197f2a0-0000-7000-8000-000000000002",
    "schedule_id": "0197f2a0-0000-7000-8000-000000000003",
    "held": 5,
    "available": 2,
    "state": "captured",
    "cap_id": "019a9c2e-51d0-7c3b-8a44-6f1e2d3c4b5a",
    "entry_id": "019a9c2e-7f06-7a52-9c1e-0b8d4f6a2e93",
    "left": 1,
    "amount": 2,
    "account_id": ACCOUNT_ID,
    "api_key_id": API_KEY_ID,
    "email": "ada@example.com",
    "event_id": "evt_unknown",
    "price": "$5.00",
    "reason": "Invalid OAuth state",
    "role": "viewer",
    "status": "revoked",
    "argument": "config_data",
    "problem": "test and live keys cannot be mixed: give api_key and publishable_key of one mode"
    " together",
}
