"""Calls that each need a caller: in whose name tests make them."""

from __future__ import annotations

from typing import Any

from tests.sql.helpers import (
    NOBODY,
    person,
)

NO_RIGHT = "42501"


CHARGE_ARRAYS = (
    "idempotency_keys",
    "metadata_message_ids",
    "metadata_agent_ids",
    "metadata_channel_ids",
    "metadata_request_ids",
    "customer_emails",
    "user_roles",
    "agent_ids",
    "marketing_opt_ins",
    "marketing_opt_in_sources",
)


# Calls that write in somebody's name. Each is valid except that it names no actor.
HASH = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$c29tZWhhc2g"


WRITES: dict[str, dict[str, Any]] = {
    "add_admin": {"email": "ada@example.com"},
    "add_note": {"account_id": NOBODY, "note": "a test"},
    "remove_note": {"note_id": NOBODY},
    "adjust_credits": {"account_id": NOBODY, "amount": 1, "reason": "a test"},
    "merge_accounts": {"account_id": NOBODY, "into_account_id": NOBODY, "reason": "a test"},
    "transfer_credits": {
        "from_account_id": NOBODY,
        "to_account_id": NOBODY,
        "amount": 1,
        "reason": "a test",
    },
    "undo_merge": {"account_id": NOBODY, "reason": "a test"},
    "erase_personal_data": {"account_id": NOBODY, "reason": "a test"},
    "export_personal_data": {"account_id": NOBODY},
    "withdraw_consent": {"account_id": NOBODY, "reason": "a test"},
    "attach_payment": {
        "account_id": NOBODY,
        "purchase_id": NOBODY,
        "payment_id": "pi_nobody",
        "payment_status": "requires_payment_method",
    },
    "begin_purchase": {**person("nobody"), "customer_email": "ada@example.com"},
    "check_credit": person("nobody"),
    "check_credits": {"oauth_providers": ["oauth:google"], "external_ids": ["nobody"]},
    "create_account": person("nobody"),
    "create_api_key": {"name": "k", "key_prefix": "cbk_test_12345678901", "key_hash": HASH},
    "create_charge": person("nobody"),
    "create_charges": {
        "oauth_providers": ["oauth:google"],
        "external_ids": ["nobody"],
        "amounts_minor": [1],
        "currencies": ["USD"],
        "descriptions": ["one use"],
    },
    "create_credit": {**person("nobody"), "amount_minor": 1},
    "create_staff_token": {"token_hash": bytes(32)},
    "delete_cap": {"cap_id": NOBODY, "reason": "a test"},
    "end_top_up": {"account_id": NOBODY, "reason": "a test"},
    "set_top_up": {
        **person("nobody"),
        "threshold": 2,
        "packs": 1,
        "amount_minor": 500,
        "currency": "USD",
        "monthly_cap_minor": 2000,
        "consent_version": "1",
        "consent_text": "Charge my card.",
    },
    "end_staff_sessions": {"email": "nobody@example.com", "reason": "a test"},
    "invite_admin": {"email": "nobody@example.com", "reason": "a test"},
    "record_credit": {
        **person("nobody"),
        "amount_minor": 1,
        "transaction_type": "grant",
        "description": "a gift",
    },
    "begin_refund": {"payment_id": "pi_1", "reason": "a test"},
    "finish_refund": {"refund_id": NOBODY, "return_id": "re_1"},
    "reset_free_uses": {"account_id": NOBODY, "reason": "a test"},
    "reopen_payment": {"payment_id": "pi_nobody", "reason": "a test"},
    "resolve_payment": {"payment_id": "pi_nobody", "how": "refunded", "reason": "a test"},
    "resolve_payment_event": {"event_id": "evt_nobody", "reason": "a test"},
    "resolve_payment_warning": {"warning_id": "issfr_nobody", "reason": "a test"},
    "resolve_shortfall": {"return_id": "re_nobody", "reason": "a test"},
    "capture_hold": {"hold_id": NOBODY},
    "create_hold": {**person("nobody"), "amount_minor": 1},
    "check_and_hold": {**person("nobody"), "amount_minor": 1},
    "extend_hold": {"hold_id": NOBODY},
    "release_hold": {"hold_id": NOBODY, "reason": "a test"},
    "set_grant_schedule": {"account_id": NOBODY, "amount": 1, "reason": "a test"},
    "change_grant_schedule": {"schedule_id": NOBODY, "reason": "a test"},
    "pause_grant_schedule": {"schedule_id": NOBODY, "reason": "a test"},
    "end_grant_schedule": {"schedule_id": NOBODY, "reason": "a test"},
    "reverse_charge": {"charge_id": NOBODY, "reason": "a test"},
    "reverse_credit": {"credit_id": NOBODY, "reason": "a test"},
    "revoke_api_key": {"api_key_id": NOBODY},
    "rotate_api_key": {
        "api_key_id": NOBODY,
        "key_prefix": "cbk_test_12345678901",
        "key_hash": HASH,
    },
    "set_account_status": {**person("nobody"), "status": "closed", "reason": "a test"},
    "set_admin": {"email": "nobody@example.com", "reason": "a test"},
    "set_cap": {"scope": "all", "period": "day", "limit_minor": 9, "reason": "a test"},
    "set_pricing": {"reason": "a test"},
    "set_provider_config": {"provider_type": "stripe"},
    "create_webhook_endpoint": {
        "name": "shop",
        "url": "https://example.com/",
        "secret": '{"encrypted": "x", "masked": "x"}',
        "reason": "a test",
    },
    "delete_webhook_endpoint": {"endpoint_id": NOBODY, "reason": "a test"},
    "record_webhook_try": {"endpoint_id": NOBODY, "url": "https://example.com/"},
    "resend_deliveries": {"endpoint_id": NOBODY, "reason": "a test"},
    "rotate_webhook_secret": {
        "endpoint_id": NOBODY,
        "secret": '{"encrypted": "x", "masked": "x"}',
        "reason": "a test",
    },
    "set_low_balance": {"threshold": 5, "reason": "a test"},
    "set_webhook_endpoint": {"endpoint_id": NOBODY, "reason": "a test"},
}


# Items in the text form of a composite, with the API key last.
CHECK = "(oauth:google,nobody,,,,,,,,,,,)"


CHARGE = '(oauth:google,nobody,1,USD,"one use",,,,,,,,,,,)'


WRITES["check_items"] = {"items": [CHECK]}


WRITES["charge_items"] = {"items": [CHARGE]}


WRITES["hold_items"] = {"items": ['(oauth:google,nobody,1,USD,900,"one use",,,,,,)']}


WRITES["capture_items"] = {"items": [f"({NOBODY},1,refuse,)"]}


WRITES["settle_items_once"] = {
    "idempotency_key": "k",
    "request_fingerprint": b"1",
    "captures": [f"({NOBODY},1,refuse,)"],
}
WRITES["charge_items_once"] = {
    "idempotency_key": "k",
    "request_fingerprint": b"x",
    "items": [CHARGE],
}


WRITES["create_charges_once"] = {
    **dict.fromkeys(CHARGE_ARRAYS),
    **WRITES["create_charges"],
    "idempotency_key": "k",
    "request_fingerprint": b"x",
    "api_key_id": None,
}


READS: dict[str, dict[str, Any]] = {
    "balance_at": {"account_id": NOBODY, "at": "2026-11-01 00:00Z"},
    "find_purchase": {"payment_id": "pi_nobody"},
    "get_account": person("nobody"),
    "get_hold": {"hold_id": NOBODY},
    "list_holds": person("nobody"),
    "get_top_up": {"account_id": NOBODY},
    "list_transactions": person("nobody"),
    "statement": {"account_id": NOBODY},
}


STAFF_READS: dict[str, dict[str, Any]] = {
    "explain_account": {"account_id": NOBODY},
    "list_refunds": {"payment_id": "pi_1"},
    "search": {"search": "ada"},
    "total_purchases": {},
    "list_allocations": {"account_id": NOBODY},
    "list_grant_schedules": {},
    "list_lots": {"account_id": NOBODY},
    "explain_denial": {"account_id": NOBODY},
    "list_account_days": {"account_id": NOBODY},
    "list_notes": {"account_id": NOBODY},
    "list_origins": {"account_id": NOBODY},
    "list_timeline": {"account_id": NOBODY},
    "find_account": {"account": "nobody@example.com"},
    "find_entry": {"transaction_id": NOBODY},
    "get_account_by_id": {"account_id": NOBODY},
    "get_overview": {},
    "get_webhook_endpoint": {"endpoint_id": NOBODY},
    "list_accounts": {},
    "list_admins": {},
    "list_api_keys": {},
    "list_audit_log": {},
    "count_audit_log": {},
    "count_caps": {},
    "count_deliveries": {},
    "count_payment_problems": {},
    "count_payment_events": {},
    "list_hourly_figures": {},
    "list_caps": {},
    "list_checks": {"account_id": NOBODY},
    "list_merges": {"account_id": NOBODY},
    "get_figures": {},
    "list_daily_figures": {},
    "list_deliveries": {},
    "list_webhook_endpoints": {},
    "list_money": {},
    "list_payment_events": {},
    "list_payment_problems": {},
    "list_provider_configs": {},
    "list_purchases": {},
    "list_top_consumers": {},
    "list_top_up_attempts": {},
    "list_top_ups": {},
    "list_usage": {},
}


# Functions that the web tier calls before there is an actor to name: a sign-in under way has no
# staff member yet, a session or token is what identifies the actor, and figures are rolled up and
# books watched for nobody in particular.
NO_HASH = bytes(32)


BEFORE_ANYBODY: dict[str, dict[str, Any]] = {
    "create_sign_in_ticket": {"ticket_hash": NO_HASH},
    "end_session": {"session_hash": NO_HASH},
    "get_session": {"session_hash": NO_HASH},
    "refresh_figures": {},
    "sign_in_admin": {"email": "new@example.com", "google_id": "1", "session_hash": NO_HASH},
    "use_sign_in_link": {"ticket_hash": NO_HASH, "session_hash": NO_HASH},
    "use_sign_in_ticket": {"ticket_hash": NO_HASH},
    "watch_books": {},
}


FOR_DBAS: dict[str, dict[str, Any]] = {
    "create_sign_in_link": {"email": "ada@example.com", "ticket_hash": NO_HASH},
    "rebuild_figures": {},
    "seed_founders": {"emails": ["ada@example.com"]},
    "seed_settings": {},
    "set_admin_domain": {"domain": "example.com", "reason": "a test"},
    "begin_verification": {},
    "list_seal_heads": {},
    "list_seals": {"day": "2026-11-25"},
    "list_book_problems": {},
    "verify_ledger": {},
    "continue_verification": {},
    "drop_check_partitions": {"before": "2020-01-01"},
    "delete_deliveries": {"before": "2020-01-01"},
    "reseal_webhook_secrets": {
        "endpoint_id": NOBODY,
        "secrets": '[{"encrypted": "x", "masked": "x"}]',
        "reason": "a test",
    },
    "list_payments": {},
    "return_payment": {
        "payment_id": "pi_nobody",
        "return_id": "re_nobody",
        "kind": "refund",
        "amount_minor": 1,
    },
    "settle_purchase": {"payment_id": "pi_nobody", "amount_minor": 500},
}


# Functions that the web tier calls without an actor, because the payment provider is the author.
EVENT: dict[str, Any] = {
    "event_id": "evt_nobody",
    "event_type": "customer.created",
    "payload": "{}",
    "action": "ignore",
}
