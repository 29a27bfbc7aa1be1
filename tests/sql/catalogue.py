"""The functions of schema billing with their callers, and the examples in their headers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.api_key_secret import new_secret
from tests.sql.alerts import alerted, failed_delivery, raised, switch_on
from tests.sql.helpers import (
    Caller,
    account_of,
    new_user,
    person,
    session,
    set_staff_domain,
)
from tests.sql.payments import (
    PRICE,
    attach,
    begin,
    bought,
    configure_provider,
    deliver,
    give_back,
    warn,
)
from tests.sql.top_ups import agree
from tests.support import Database

SQL = Path(__file__).resolve().parents[2] / "sql"


EVERYBODY = {"billing_server", "billing_dba", "billing_analyst"}


BOTH = {"billing_server", "billing_dba"}


DBA = {"billing_dba"}


WEB = {"billing_server"}


# View -> who may read it.
VIEWS = {
    "account_balances": {"billing_dba", "billing_analyst"},
    "currencies": EVERYBODY,
    "daily_usage": {"billing_dba", "billing_analyst"},
    "errors": EVERYBODY,
    "ledger": {"billing_dba", "billing_analyst"},
}


# Function -> who may call it, and whether it only reads (s) or may write (v).
FUNCTIONS: dict[str, tuple[set[str], str]] = {
    "add_admin": (BOTH, "v"),
    "add_note": (BOTH, "v"),
    "adjust_credits": (BOTH, "v"),
    "announce_expiring_credits": (WEB, "v"),
    "attach_payment": (BOTH, "v"),
    "balance_at": (BOTH, "s"),
    "begin_purchase": (BOTH, "v"),
    "begin_refund": (BOTH, "v"),
    "begin_verification": (DBA, "v"),
    "capture_hold": (BOTH, "v"),
    "capture_items": (BOTH, "v"),
    "change_grant_schedule": (BOTH, "v"),
    "charge_items": (BOTH, "v"),
    "charge_items_once": (BOTH, "v"),
    "check_credit": (BOTH, "v"),
    "check_credits": (BOTH, "v"),
    "check_items": (BOTH, "v"),
    "claim_deliveries": (WEB, "v"),
    "claim_top_ups": (WEB, "v"),
    "continue_verification": (DBA, "v"),
    "count_audit_log": (BOTH, "s"),
    "count_caps": (BOTH, "s"),
    "count_deliveries": (BOTH, "s"),
    "count_payment_problems": (BOTH, "s"),
    "count_payment_events": (BOTH, "s"),
    "create_account": (BOTH, "v"),
    "create_api_key": (BOTH, "v"),
    "create_charge": (BOTH, "v"),
    "create_charges": (BOTH, "v"),
    "create_charges_once": (BOTH, "v"),
    "create_check_partitions": (BOTH, "v"),
    "create_credit": (BOTH, "v"),
    "check_and_hold": (BOTH, "v"),
    "create_hold": (BOTH, "v"),
    "create_sign_in_link": (DBA, "v"),
    "create_sign_in_ticket": (WEB, "v"),
    "create_staff_token": (BOTH, "v"),
    "create_webhook_endpoint": (BOTH, "v"),
    "default_payment_provider": (BOTH, "s"),
    "delete_deliveries": (DBA, "v"),
    "delete_refused_charges": (DBA, "v"),
    "delete_webhook_endpoint": (BOTH, "v"),
    "delete_cap": (BOTH, "v"),
    "describe_money": (BOTH, "s"),
    "describe_openings": (DBA, "s"),
    "describe_price": (BOTH, "s"),
    "drop_check_partitions": (DBA, "v"),
    "end_session": (WEB, "v"),
    "end_staff_sessions": (BOTH, "v"),
    "end_top_up": (BOTH, "v"),
    "end_grant_schedule": (BOTH, "v"),
    "erase_personal_data": (BOTH, "v"),
    "explain_account": (BOTH, "s"),
    "explain_denial": (BOTH, "s"),
    "export_personal_data": (BOTH, "v"),
    "extend_hold": (BOTH, "v"),
    "find_account": (BOTH, "s"),
    "find_api_key": (BOTH, "s"),
    "find_entry": (BOTH, "s"),
    "find_purchase": (BOTH, "s"),
    "finish_refund": (BOTH, "v"),
    "get_account": (BOTH, "s"),
    "get_account_by_id": (BOTH, "s"),
    "get_account_holders": (BOTH, "v"),
    "get_admin": (DBA, "s"),
    "get_hold": (BOTH, "s"),
    "get_figures": (BOTH, "s"),
    "get_overview": (BOTH, "s"),
    "get_proof": (BOTH, "s"),
    "get_provider_config": (BOTH, "s"),
    "get_schema_version": (BOTH, "s"),
    "get_session": (WEB, "s"),
    "get_settings": (BOTH, "s"),
    "get_webhook_endpoint": (BOTH, "s"),
    "get_top_up": (BOTH, "s"),
    "grant_credits": (DBA, "v"),
    "help": (EVERYBODY, "s"),
    "hold_items": (BOTH, "v"),
    "invite_admin": (BOTH, "v"),
    "list_account_days": (BOTH, "s"),
    "list_accounts": (BOTH, "s"),
    "list_admins": (BOTH, "s"),
    "list_api_keys": (BOTH, "s"),
    "list_allocations": (BOTH, "s"),
    "list_audit_log": (BOTH, "s"),
    "list_book_problems": (DBA, "s"),
    "list_caps": (BOTH, "s"),
    "list_checks": (BOTH, "s"),
    "list_daily_figures": (BOTH, "s"),
    "list_grant_schedules": (BOTH, "s"),
    "list_holds": (BOTH, "s"),
    "list_deliveries": (BOTH, "s"),
    "list_lots": (BOTH, "s"),
    "list_merges": (BOTH, "s"),
    "list_notes": (BOTH, "s"),
    "list_hourly_figures": (BOTH, "s"),
    "list_money": (BOTH, "s"),
    "list_open_doors": (DBA, "s"),
    "list_payment_events": (BOTH, "s"),
    "list_payment_problems": (BOTH, "s"),
    "list_payments": (DBA, "s"),
    "list_provider_configs": (BOTH, "s"),
    "list_purchases": (BOTH, "s"),
    "list_refunds": (BOTH, "s"),
    "list_seal_heads": (DBA, "s"),
    "list_seals": (DBA, "s"),
    "list_origins": (BOTH, "s"),
    "list_timeline": (BOTH, "s"),
    "list_top_consumers": (BOTH, "s"),
    "list_top_up_attempts": (BOTH, "s"),
    "list_top_ups": (BOTH, "s"),
    "list_transactions": (BOTH, "s"),
    "list_usage": (BOTH, "s"),
    "list_webhook_endpoints": (BOTH, "s"),
    "maintenance": (DBA, "v"),
    "merge_accounts": (BOTH, "v"),
    "note_delivery": (WEB, "v"),
    "note_top_up": (WEB, "v"),
    "pause_grant_schedule": (BOTH, "v"),
    "process_payment_event": (BOTH, "v"),
    "rebuild_figures": (DBA, "v"),
    "record_api_key_use": (WEB, "v"),
    "read_money": (BOTH, "s"),
    "record_credit": (BOTH, "v"),
    "record_webhook_try": (BOTH, "v"),
    "refresh_figures": (BOTH, "v"),
    "release_hold": (BOTH, "v"),
    "reopen_payment": (BOTH, "v"),
    "remove_note": (BOTH, "v"),
    "require_api_key": (BOTH, "s"),
    "resend_deliveries": (BOTH, "v"),
    "reseal_webhook_secrets": (DBA, "v"),
    "reset_free_uses": (BOTH, "v"),
    "resolve_payment": (BOTH, "v"),
    "resolve_payment_event": (BOTH, "v"),
    "resolve_payment_warning": (BOTH, "v"),
    "resolve_shortfall": (BOTH, "v"),
    "retire_expired_api_key": (WEB, "v"),
    "return_payment": (DBA, "v"),
    "reverse_charge": (BOTH, "v"),
    "reverse_credit": (BOTH, "v"),
    "revoke_api_key": (BOTH, "v"),
    "rotate_api_key": (BOTH, "v"),
    "rotate_webhook_secret": (BOTH, "v"),
    "seal_entries": (BOTH, "v"),
    "seed_founders": (DBA, "v"),
    "seed_settings": (DBA, "v"),
    "set_account_status": (BOTH, "v"),
    "search": (BOTH, "s"),
    "set_admin": (BOTH, "v"),
    "set_admin_domain": (DBA, "v"),
    "set_low_balance": (BOTH, "v"),
    "set_cap": (BOTH, "v"),
    "set_grant_schedule": (BOTH, "v"),
    "set_pricing": (BOTH, "v"),
    "set_provider_config": (BOTH, "v"),
    "set_webhook_endpoint": (BOTH, "v"),
    "set_top_up": (BOTH, "v"),
    "settle_purchase": (DBA, "v"),
    "sign_in_admin": (WEB, "v"),
    "statement": (BOTH, "s"),
    "settle_items_once": (BOTH, "v"),
    "tidy_holds": (BOTH, "v"),
    "total_purchases": (BOTH, "s"),
    "transfer_credits": (BOTH, "v"),
    "try_writing": (BOTH, "v"),
    "undo_merge": (BOTH, "v"),
    "use_sign_in_link": (WEB, "v"),
    "use_sign_in_ticket": (WEB, "v"),
    "verify_ledger": (DBA, "s"),
    "watch_books": (BOTH, "s"),
    "watch_holds": (BOTH, "s"),
    "watch_outbox": (BOTH, "s"),
    "withdraw_consent": (BOTH, "v"),
}


_HEADER_AND_NAME = re.compile(
    r"((?:^--.*\n)+)CREATE OR REPLACE FUNCTION (billing|billing_data)\.(\w+)", re.MULTILINE
)


def _headers() -> Iterator[tuple[str, str, str]]:
    for file in sorted(SQL.glob("*.sql")):
        for comment, schema, name in _HEADER_AND_NAME.findall(file.read_text(encoding="utf-8")):
            yield schema, name, re.sub(r"^-- ?", "", comment, flags=re.MULTILINE)


HEADERS = {name: comment for schema, name, comment in _headers() if schema == "billing"}


# Functions whose examples need something of the account, with the function that makes it.
_MADE_FOR_EXAMPLES = (
    ("create_charge", "charge_id", ("find_entry", "reverse_charge")),
    ("create_credit", "credit_id", ("reverse_credit",)),
    ("create_hold", "hold_id", ("capture_hold", "extend_hold", "get_hold", "release_hold")),
)


_ARGUMENTS = {"create_credit": {"amount_minor": 1}, "create_hold": {"amount_minor": 5}}


def _about_what_was_made(dba: Caller, name: str, statement: str) -> str:
    """The call with the id of a charge, credit, hold or cap, where it needs one."""
    for maker, made, names in _MADE_FOR_EXAMPLES:
        if name in names:
            dba.row("create_credit", **person("1"), amount_minor=9)
            row = dba.row(maker, **person("1"), **_ARGUMENTS.get(maker, {}))
            statement = statement.replace("'...'", f"'{row[made]}'")
    if name == "delete_cap":
        cap = dba.row("set_cap", scope="agent", subject="x", period="day", limit_minor=1,
                      reason="a test")  # fmt: skip
        statement = statement.replace("'...'", f"'{cap['cap_id']}'")
    return statement


def _about_two_accounts(database: Database, dba: Caller, name: str, statement: str) -> str:
    """The call with the ids of two accounts that it can be made for, where it needs two."""
    if name not in ("merge_accounts", "transfer_credits", "undo_merge"):
        return statement
    one, other = (str(account_of(database, new_user(database, paid=5))["id"]) for _ in range(2))
    if name == "undo_merge":
        dba.row("merge_accounts", account_id=one, into_account_id=other, reason="a test")
    return statement.replace("'...'", f"'{one}'", 1).replace("'...'", f"'{other}'", 1)


def _about_an_endpoint(database: Database, name: str, statement: str) -> str:
    """The call with the id of an endpoint or a delivery that it can be made for, where it needs
    one."""
    if name not in (
        "delete_webhook_endpoint", "get_webhook_endpoint", "note_delivery", "record_webhook_try",
        "resend_deliveries", "reseal_webhook_secrets", "rotate_webhook_secret",
        "set_webhook_endpoint",
    ):  # fmt: skip
        return statement
    endpoint = alerted(database)
    if name != "delete_webhook_endpoint":  # it deletes one that is off
        switch_on(database, endpoint)
    if name == "resend_deliveries":
        failed_delivery(database, endpoint)
    thing = raised(database, endpoint) if name == "note_delivery" else endpoint
    return statement.replace("'...'", f"'{thing}'")


def _about_a_note(database: Database, dba: Caller, name: str, statement: str) -> str:
    """The call with the id of a note, where it needs one."""
    if name != "remove_note":
        return statement
    account = account_of(database, person("1"))["id"]
    note = dba.row("add_note", account_id=account, note="a test")["note_id"]
    return statement.replace("'...'", f"'{note}'")


def _prepare(database: Database, dba: Caller, name: str) -> None:
    """Makes what the example of a function is about."""
    """Makes what the call in a function's header names."""
    if name in (
        "get_admin", "set_admin", "create_sign_in_link", "create_staff_token",
        "end_staff_sessions",
    ):  # fmt: skip
        dba.row("add_admin", email="ada@example.com")
    if name == "invite_admin":
        dba.row("add_admin", email="ada@example.com", role="admin")
    configure_provider(database)
    if name == "resolve_payment_event":  # it resolves an event that ended in a fault
        assert deliver(dba, "evt_1", "pi_1")["needs_attention"]
    if name in ("begin_refund", "finish_refund", "list_refunds"):
        attach(dba, offer := begin(dba, new_user(database)), "pi_1")
        deliver(dba, "evt_1", "pi_1", offer)
    if name == "reopen_payment":  # it takes back a person's resolution
        dba.row("resolve_payment", payment_id="pi_1", how="other", reason="a test")
    if name == "resolve_payment_warning":  # about a payment of ours
        warn(dba, bought(database)[1], "issfr_1")
    if name == "resolve_shortfall":  # for a pack that was spent before the money went back
        who, payment_id = bought(database)
        dba.row("create_charge", **who, amount_minor=20)
        give_back(dba, payment_id, ("re_1", PRICE))


def _about_a_saved_card(database: Database, dba: Caller, name: str, statement: str) -> str:
    """The call with a payment that saved a card, where it needs one; others get a consent too."""
    if name not in ("end_top_up", "get_top_up", "set_top_up"):
        return statement
    _, payment_id = bought(database, person("1"))
    if name != "set_top_up":
        agree(dba, person("1"), payment_id)
    return statement.replace("pi_1", payment_id)


def _about_a_schedule(database: Database, dba: Caller, name: str, statement: str) -> str:
    """The call with the id of a schedule of grants, where it needs one."""
    if name not in ("change_grant_schedule", "end_grant_schedule", "pause_grant_schedule"):
        return statement
    account = account_of(database, person("1"))["id"]
    made = dba.row("set_grant_schedule", account_id=account, amount=1, reason="a test")
    return statement.replace("'...'", f"'{made['schedule_id']}'")


@contextmanager
def runnable_example(database: Database, name: str) -> Iterator[tuple[Caller, str]]:
    """A caller that may make the call in a function's header, and the call. Everything that the
    call names exists. The call ends in ", ...)" where it has too many arguments to show."""
    key = database.create_key()
    other = new_secret("live")
    set_staff_domain(database)
    with session(database, "t_dba") as dba:
        dba.row("create_account", oauth_provider="oauth:google", external_id="1")
        _prepare(database, dba, name)
        example = re.search(r"Example.*?(SELECT .*?;)", HEADERS[name], re.DOTALL)
        assert example, HEADERS[name]
        statement = example[1]
        # Where an example cannot know a value it shows three dots, which a real value replaces
        # here.
        statement = re.sub(r"(p_key_prefix => )'[^']*\.\.\.'", rf"\g<1>'{other.prefix}'", statement)
        statement = re.sub(r"(p_key_hash => )'\.\.\.'", rf"\g<1>'{other.hash}'", statement)
        statement = _about_two_accounts(database, dba, name, statement)
        statement = _about_a_schedule(database, dba, name, statement)
        statement = _about_an_endpoint(database, name, statement)
        statement = _about_a_note(database, dba, name, statement)
        statement = _about_a_saved_card(database, dba, name, statement)
        if name in (
            "add_note", "adjust_credits", "end_top_up", "erase_personal_data", "explain_account",
            "explain_denial", "export_personal_data", "get_account_by_id", "get_top_up",
            "reset_free_uses",
            "add_note", "adjust_credits", "erase_personal_data", "explain_account",
            "explain_denial", "export_personal_data", "get_account_by_id", "reset_free_uses",
            "adjust_credits", "erase_personal_data", "explain_denial", "export_personal_data",
            "get_account_by_id", "list_allocations", "list_grant_schedules", "list_lots",
            "reset_free_uses", "set_grant_schedule",
        ):  # fmt: skip
            account = account_of(database, person("1"))["id"]
            statement = statement.replace("'...'", f"'{account}'")
        statement = _about_what_was_made(dba, name, statement)
        if name == "finish_refund":
            refund = dba.row("begin_refund", payment_id="pi_1", reason="a test")["refund_id"]
            statement = statement.replace("'...'", f"'{refund}'")
        if name == "attach_payment":
            purchase = begin(dba, person("1"))
            for argument in ("account_id", "purchase_id"):
                statement = statement.replace(
                    f"p_{argument} => '...'", f"p_{argument} => '{purchase[argument]}'"
                )
        statement = statement.replace("'...'", f"'{key.id}'")
        # Only the web tier may name a key.
        if name == "require_api_key" or FUNCTIONS[name][0] == WEB:
            with session(database, "t_web") as web:
                yield web, statement
            return
        yield dba, statement
