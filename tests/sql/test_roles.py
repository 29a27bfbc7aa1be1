"""Who may do what: tried out as each role, by every door that PostgreSQL has."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest

from tests.sql.helpers import (
    NO_SESSION,
    NOBODY,
    Caller,
    Refusal,
    account_of,
    charge_all,
    check_all,
    key_id,
    new_user,
    outcomes,
    person,
    session,
    set_staff_domain,
    staff,
)
from tests.sql.payments import begin, configure_provider, deliver
from tests.support import Database, TestCluster, unique

TABLES = (
    "account_requests",
    "accounts",
    "active_accounts",
    "active_accounts_by_day",
    "admin_audit_logs",
    "admin_sessions",
    "admin_users",
    "api_keys",
    "batch_requests",
    "charges",
    "credit_checks",
    "credit_checks_default",
    "credits",
    "ledger_openings",
    "locks",
    "payment_effects",
    "payment_events",
    "payment_return_credits",
    "payment_returns",
    "payment_warnings",
    "provider_configs",
    "purchases",
    "settings",
    "sign_in_tickets",
    "usage_figures",
    "usage_figures_state",
    "user_activity",
    "users_by_day",
)
STATEMENTS = {
    "SELECT": "SELECT count(*) FROM billing_data.{table}",
    "INSERT": "INSERT INTO billing_data.{table} DEFAULT VALUES",
    "UPDATE": "UPDATE billing_data.{table} SET {column} = NULL",
    "DELETE": "DELETE FROM billing_data.{table}",
    "TRUNCATE": "TRUNCATE billing_data.{table}",
    "LOCK": "DO $$ BEGIN LOCK TABLE billing_data.{table}; END $$",
    "COPY TO": "COPY billing_data.{table} TO STDOUT",
    "COPY FROM": "COPY billing_data.{table} FROM STDIN",
    "ALTER": "ALTER TABLE billing_data.{table} ADD COLUMN mine text",
    "DROP": "DROP TABLE billing_data.{table}",
}
# A column of each table that has no id.
COLUMNS = {
    "account_requests": "account_id",
    "active_accounts": "account_id",
    "active_accounts_by_day": "accounts",
    "ledger_openings": "account_id",
    "user_activity": "account_id",
    "users_by_day": "users",
    "admin_sessions": "admin_user_id",
    "batch_requests": "api_key_id",
    "locks": "name",
    "payment_effects": "effect",
    "payment_events": "event_id",
    "payment_return_credits": "return_id",
    "payment_returns": "return_id",
    "payment_warnings": "kind",
    "sign_in_tickets": "admin_user_id",
    "usage_figures": "slot",
    "usage_figures_state": "complete_through",
}
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

# Calls that write for somebody, each good but for its missing actor.
HASH = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$c29tZWhhc2g"
WRITES: dict[str, dict[str, Any]] = {
    "add_admin": {"email": "ada@example.com"},
    "adjust_credits": {"account_id": NOBODY, "amount": 1, "reason": "a test"},
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
    "end_staff_sessions": {"email": "nobody@example.com", "reason": "a test"},
    "invite_admin": {"email": "nobody@example.com", "reason": "a test"},
    "record_credit": {
        **person("nobody"),
        "amount_minor": 1,
        "transaction_type": "grant",
        "description": "a gift",
    },
    "reset_free_uses": {"account_id": NOBODY, "reason": "a test"},
    "reopen_payment": {"payment_id": "pi_nobody", "reason": "a test"},
    "resolve_payment": {"payment_id": "pi_nobody", "how": "refunded", "reason": "a test"},
    "resolve_payment_event": {"event_id": "evt_nobody", "reason": "a test"},
    "resolve_payment_warning": {"warning_id": "issfr_nobody", "reason": "a test"},
    "resolve_shortfall": {"return_id": "re_nobody", "reason": "a test"},
    "revoke_api_key": {"api_key_id": NOBODY},
    "rotate_api_key": {
        "api_key_id": NOBODY,
        "key_prefix": "cbk_test_12345678901",
        "key_hash": HASH,
    },
    "set_account_status": {**person("nobody"), "status": "closed", "reason": "a test"},
    "set_admin": {"email": "nobody@example.com", "reason": "a test"},
    "set_pricing": {"reason": "a test"},
    "set_provider_config": {"provider_type": "stripe"},
}
# Items in the text form of a composite, the API key last.
_CHECK = "(oauth:google,nobody,,,,,,,,,,,)"
_CHARGE = '(oauth:google,nobody,1,USD,"one use",,,,,,,,,,,)'
WRITES["check_items"] = {"items": [_CHECK]}
WRITES["charge_items"] = {"items": [_CHARGE]}
WRITES["charge_items_once"] = {
    "idempotency_key": "k",
    "request_fingerprint": b"x",
    "items": [_CHARGE],
}
WRITES["create_charges_once"] = {
    **dict.fromkeys(CHARGE_ARRAYS),
    **WRITES["create_charges"],
    "idempotency_key": "k",
    "request_fingerprint": b"x",
    "api_key_id": None,
}
READS: dict[str, dict[str, Any]] = {
    "find_purchase": {"payment_id": "pi_nobody"},
    "get_account": person("nobody"),
    "list_transactions": person("nobody"),
}
STAFF_READS: dict[str, dict[str, Any]] = {
    "get_account_by_id": {"account_id": NOBODY},
    "get_overview": {},
    "list_accounts": {},
    "list_admins": {},
    "list_api_keys": {},
    "list_audit_log": {},
    "list_checks": {"account_id": NOBODY},
    "list_daily_figures": {},
    "list_payment_events": {},
    "list_payment_problems": {},
    "list_provider_configs": {},
    "list_purchases": {},
}
# What the web tier calls before there is anybody to name: a sign-in under way has no staff member
# yet, a session or a token is what tells who it is, and the
# figures are rolled up, and the books watched, for nobody.
_HASH = bytes(32)
BEFORE_ANYBODY: dict[str, dict[str, Any]] = {
    "create_sign_in_ticket": {"ticket_hash": _HASH},
    "end_session": {"session_hash": _HASH},
    "get_session": {"session_hash": _HASH},
    "refresh_figures": {},
    "sign_in_admin": {"email": "new@example.com", "google_id": "1", "session_hash": _HASH},
    "use_sign_in_link": {"ticket_hash": _HASH, "session_hash": _HASH},
    "use_sign_in_ticket": {"ticket_hash": _HASH},
    "watch_books": {},
}
ONE_KEY = (
    "attach_payment",
    "begin_purchase",
    "check_credit",
    "create_account",
    "create_charge",
    "create_charges_once",
    "create_credit",
    "record_credit",
)
BATCHES = ("check_credits", "create_charges")
# Any staff member may have a token.
STAFF = tuple(
    sorted(
        set(WRITES)
        - set(BATCHES)
        - {"check_credit", "create_charge", "create_charges_once", "create_staff_token"}
        - {"check_items", "charge_items", "charge_items_once"}
    )
)
FOR_DBAS: dict[str, dict[str, Any]] = {
    "create_sign_in_link": {"email": "ada@example.com", "ticket_hash": _HASH},
    "rebuild_figures": {},
    "seed_founders": {"emails": ["ada@example.com"]},
    "seed_settings": {},
    "set_admin_domain": {"domain": "example.com", "reason": "a test"},
    "verify_ledger": {},
    "drop_check_partitions": {"before": "2020-01-01"},
    "list_payments": {},
    "return_payment": {
        "payment_id": "pi_nobody",
        "return_id": "re_nobody",
        "kind": "refund",
        "amount_minor": 1,
    },
    "settle_purchase": {"payment_id": "pi_nobody", "amount_minor": 500},
}
# What the web tier calls without an actor, because the payment provider is the author.
EVENT: dict[str, Any] = {
    "event_id": "evt_nobody",
    "event_type": "customer.created",
    "payload": "{}",
    "action": "ignore",
}


def _statement(name: str, table: str) -> str:
    return STATEMENTS[name].format(table=table, column=COLUMNS.get(table, "id"))


# --- the web tier and the tables -----------------------------------------------------------------


def test_every_table_is_tried(module_database: Database) -> None:
    rows = module_database.execute("""
        SELECT c.relname FROM pg_class AS c
        WHERE c.relnamespace = 'billing_data'::regnamespace AND c.relkind IN ('r', 'p')
            AND c.relname !~ '^credit_checks_\\d{4}_\\d{2}$'
    """)
    assert sorted(row[0] for row in rows) == sorted(TABLES)


@pytest.mark.parametrize("user", ["t_web", "t_analyst"])
@pytest.mark.parametrize("table", TABLES)
def test_neither_the_web_tier_nor_an_analyst_can_touch_a_table(
    module_database: Database, table: str, user: str
) -> None:
    with session(module_database, user) as caller:
        for name in STATEMENTS:
            refusal = caller.refused(_statement(name, table))
            assert refusal.sqlstate == NO_RIGHT, (name, refusal)


@pytest.mark.parametrize("table", TABLES)
def test_a_dba_reads_every_table_and_writes_none(module_database: Database, table: str) -> None:
    with session(module_database, "t_dba") as dba:
        dba.execute(_statement("SELECT", table))
        for name in set(STATEMENTS) - {"SELECT", "COPY TO"}:
            refusal = dba.refused(_statement(name, table))
            assert refusal.sqlstate == NO_RIGHT, (name, refusal)


def test_a_dba_reads_the_monthly_partitions_by_name_too(module_database: Database) -> None:
    months = module_database.execute("""
        SELECT c.oid::regclass::text FROM pg_class AS c
        WHERE c.relnamespace = 'billing_data'::regnamespace AND c.relkind = 'r'
            AND c.relname ~ '^credit_checks_\\d{4}_\\d{2}$'
    """)
    assert months
    with session(module_database, "t_dba") as dba:
        for (month,) in months:
            dba.execute(f"SELECT count(*) FROM {month}")


@pytest.mark.parametrize("view", ["account_balances", "ledger", "daily_usage"])
def test_the_web_tier_cannot_read_the_analysts_views(module_database: Database, view: str) -> None:
    with session(module_database, "t_web") as web:
        assert web.refused(f"SELECT count(*) FROM billing.{view}").sqlstate == NO_RIGHT


@pytest.mark.parametrize("user", ["t_web", "t_analyst", "t_dba"])
def test_nobody_makes_an_object_in_our_schemas(module_database: Database, user: str) -> None:
    with session(module_database, user) as caller:
        for schema in ("billing", "billing_data", "public"):
            refusal = caller.refused(f"CREATE TABLE {schema}.mine (id integer)")
            assert refusal.sqlstate == NO_RIGHT
        assert caller.refused("CREATE SCHEMA mine").sqlstate == NO_RIGHT


def test_the_web_tier_cannot_call_a_helper(module_database: Database) -> None:
    with session(module_database, "t_web") as web:
        for call in (
            "billing_data.write_audit('a', 'b', 'c', NULL, NULL, NULL, 'root')",
            "billing_data.caller_role()",
            "billing_data.find_or_create_account('oauth:x', 'y', NULL, NULL, 0, 'USD', 'free',"
            " NULL, NULL, NULL, false, NULL, true)",
        ):
            assert web.refused(f"SELECT {call}").sqlstate == NO_RIGHT


# --- API key hashes ------------------------------------------------------------------------------


def test_the_web_tier_reads_a_hash_by_its_prefix_and_in_no_other_way(
    module_database: Database, web: Caller
) -> None:
    key = module_database.create_key()
    found = web.row("find_api_key", key_prefix=key.prefix)
    assert str(found["api_key_id"]) == key.id
    assert found["key_hash"].startswith("$argon2id$")
    for pattern in (None, "", "%", "cbk_test_%", key.prefix[:-1], f"{key.prefix}x", key.secret):
        assert web.rows("find_api_key", key_prefix=pattern) == []
    viewer = staff(module_database, "viewer")
    assert "key_hash" not in web.rows("list_api_keys", session_hash=viewer.session_hash)[0]


def test_a_revoked_key_gives_no_hash(module_database: Database, dba: Caller, web: Caller) -> None:
    key = module_database.create_key()
    dba.row("revoke_api_key", api_key_id=uuid.UUID(key.id))
    assert web.rows("find_api_key", key_prefix=key.prefix) == []


# --- who must be named ---------------------------------------------------------------------------


@pytest.mark.parametrize("function", sorted(FOR_DBAS))
def test_the_web_tier_cannot_call_what_is_for_dbas(web: Caller, function: str) -> None:
    assert web.refusal(function, **FOR_DBAS[function]).sqlstate == NO_RIGHT


@pytest.mark.parametrize("function", sorted({**WRITES, **READS, **STAFF_READS}))
def test_the_web_tier_must_name_an_actor(web: Caller, function: str) -> None:
    refusal = web.refusal(function, **{**WRITES, **READS, **STAFF_READS}[function])
    assert refusal == Refusal(
        "PB403",
        "actor_required",
        "This call must name who it is for",
        {},
        "The web tier passes p_api_key_id or p_session_hash; other callers need role billing_dba.",
    )


def test_every_writing_function_is_tried_without_an_actor(module_database: Database) -> None:
    # These do nothing for anybody: housekeeping that any session of the service may do.
    housekeeping = {
        "create_check_partitions",
        "get_account_holders",
        "record_api_key_use",
        "retire_expired_api_key",
        "try_writing",
    }
    # Its author is the payment provider: the web tier has verified the signature and no key or
    # staff member stands behind the call, so there is nobody it could name.
    provider = {"process_payment_event"}
    rows = module_database.execute("""
        SELECT p.proname FROM pg_proc AS p
        WHERE p.pronamespace = 'billing'::regnamespace AND p.provolatile = 'v'
            AND has_function_privilege('t_web', p.oid, 'EXECUTE')
    """)
    unnamed = {"get_session", "watch_books"}  # these only read
    signing_in = set(BEFORE_ANYBODY) - unnamed
    assert {row[0] for row in rows} == set(WRITES) | housekeeping | provider | signing_in


def test_signing_in_and_the_roll_up_need_nobody_to_be_named(database: Database) -> None:
    set_staff_domain(database)
    with session(database, "t_web") as web:
        for function, arguments in BEFORE_ANYBODY.items():
            web.rows(function, **arguments)
        (who,) = database.execute("SELECT u.email, u.role FROM billing_data.admin_users AS u")
        assert who == ("new@example.com", "viewer")
        # Who has only just signed in can be named, and is held to their role.
        refusal = web.refusal("set_pricing", reason="a test", session_hash=_HASH)
        assert refusal.slug == "admin_role_required"


@pytest.mark.parametrize(
    "function", sorted(set(BEFORE_ANYBODY) - {"refresh_figures", "watch_books"})
)
def test_a_dba_can_neither_sign_in_nor_out_for_somebody(dba: Caller, function: str) -> None:
    assert dba.refusal(function, **BEFORE_ANYBODY[function]).sqlstate == NO_RIGHT


def test_a_dba_cannot_say_when_a_key_was_used(dba: Caller) -> None:
    use = dict.fromkeys(("api_key_ids", "used_at", "used_from"))
    assert dba.refusal("record_api_key_use", **use).sqlstate == NO_RIGHT
    assert dba.refusal("retire_expired_api_key", api_key_id=None).sqlstate == NO_RIGHT


def test_the_login_behind_what_staff_do_is_recorded_beside_them(
    module_database: Database, web: Caller
) -> None:
    ada, who = staff(module_database, "admin"), new_user(module_database)
    web.row("create_credit", **who, amount_minor=5, session_hash=ada.session_hash)
    key = key_id(module_database)
    web.row("create_credit", **who, amount_minor=7, api_key_id=key)
    rows = module_database.execute(
        "SELECT action, admin_user_id, database_role, database_login, (changes->>'amount')::integer"
        " FROM billing_data.admin_audit_logs WHERE resource_id = %s",
        str(account_of(module_database, who)["id"]),
    )
    # What a key credits says so itself, in the ledger.
    assert rows == [("account.create_credit", ada.id, None, "t_web", 5)]


def test_every_reading_function_of_staff_is_tried_without_an_actor(
    module_database: Database,
) -> None:
    # What these tell is no secret to the web tier, which asks them for itself.
    own = {
        "describe_money", "describe_price", "find_api_key", "get_provider_config",
        "get_schema_version", "get_session", "get_settings", "help", "require_api_key",
        "watch_books",
    }  # fmt: skip
    rows = module_database.execute("""
        SELECT p.proname FROM pg_proc AS p
        WHERE p.pronamespace = 'billing'::regnamespace AND p.provolatile <> 'v'
            AND has_function_privilege('t_web', p.oid, 'EXECUTE')
    """)
    assert {row[0] for row in rows} == set(READS) | set(STAFF_READS) | own


def test_what_a_payment_provider_tells_needs_no_actor_and_names_the_provider_as_the_writer(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    assert web.row("process_payment_event", **EVENT)["outcome"] == "ignored"
    configure_provider(module_database)
    rows = []
    for caller in (web, dba):
        who = new_user(module_database)
        purchase = begin(dba, who)
        deliver(caller, unique("evt"), unique("pi"), purchase)
        rows += module_database.execute(
            "SELECT c.payment_provider, c.database_role, c.api_key_id, c.admin_user_id"
            " FROM billing_data.credits AS c WHERE c.account_id = %s",
            purchase["account_id"],
        )
    assert rows == [("stripe", None, None, None), (None, "t_dba", None, None)]


def _bad_keys(database: Database) -> dict[str, tuple[uuid.UUID, str, str, str]]:
    """Kind -> a key's id and how a call by it is refused."""
    revoked, expired, reader = key_id(database), key_id(database), key_id(database, "billing:other")
    database.execute("UPDATE billing_data.api_keys SET status = 'revoked' WHERE id = %s", revoked)
    database.execute(
        "UPDATE billing_data.api_keys SET expires_at = now() - interval '1 s' WHERE id = %s",
        expired,
    )
    return {
        "unknown": (
            NOBODY, "PB401", "api_key_invalid", "Authentication failed: Invalid API key"
        ),
        "revoked": (
            revoked, "PB401", "api_key_invalid", "Authentication failed: Invalid API key"
        ),
        "expired": (
            expired, "PB401", "api_key_expired", "Authentication failed: API key expired"
        ),
        "unpermitted": (
            reader, "PB403", "permission_missing", "Missing required permission: billing:"
        ),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["unknown", "revoked", "expired", "unpermitted"])
def test_a_key_that_is_not_good_can_do_nothing(
    module_database: Database, web: Caller, kind: str
) -> None:
    bad, sqlstate, slug, message = _bad_keys(module_database)[kind]
    for function in (*ONE_KEY, *READS):
        arguments = {**WRITES, **READS}[function]
        refusal = web.refusal(function, **{**arguments, "api_key_id": bad})
        assert (refusal.sqlstate, refusal.slug) == (sqlstate, slug), function
        assert refusal.message.startswith(message), function
    for permission in ("billing:read", "billing:write"):
        refusal = web.refusal("require_api_key", api_key_id=bad, permission=permission)
        assert (refusal.sqlstate, refusal.slug) == (sqlstate, slug)
    good, who = key_id(module_database), new_user(module_database)
    items = [{**who, "api_key_id": bad}, {**who, "api_key_id": good}]
    assert outcomes(charge_all(web, items)) == [slug, "created"]
    assert outcomes(check_all(web, items)) == [slug, "checked"]


def test_a_key_needs_the_permission_of_what_it_does(module_database: Database, web: Caller) -> None:
    reader = key_id(module_database, "billing:read")
    writer = key_id(module_database, "billing:write")
    who = new_user(module_database)
    assert web.row("check_credit", **who, api_key_id=reader)["has_credit"]
    assert web.row("get_account", **who, api_key_id=reader)["external_id"] == who["external_id"]
    assert web.refusal("create_charge", **who, api_key_id=reader).slug == "permission_missing"
    assert web.row("create_charge", **who, api_key_id=writer)["paid_with"] == "free"
    refusal = web.refusal("check_credit", **who, api_key_id=writer)
    assert refusal.message == "Missing required permission: billing:read"
    assert web.refusal("list_transactions", **who, api_key_id=writer).slug == "permission_missing"


@pytest.mark.parametrize("kind", ["nobody", "a viewer", "an inactive administrator"])
@pytest.mark.parametrize("function", STAFF)
def test_who_is_not_an_active_administrator_cannot_write(
    module_database: Database, web: Caller, function: str, kind: str
) -> None:
    who = staff(
        module_database, "viewer" if kind == "a viewer" else "admin", active=kind == "a viewer"
    )
    session_hash = NO_SESSION if kind == "nobody" else who.session_hash
    refusal = web.refusal(function, **WRITES[function], session_hash=session_hash)
    wanted = {
        "nobody": Refusal(
            "PB401",
            "session_over",
            "Invalid or expired token",
            {},
            "Sign in again: no session or token with this hash is open.",
        ),
        "a viewer": Refusal(
            "PB403",
            "admin_role_required",
            "Admin role required. Your role: viewer (read-only)",
            {"role": "viewer"},
            "Ask an administrator.",
        ),
        "an inactive administrator": Refusal(
            "PB403",
            "admin_deactivated",
            f"User account {who.email} is deactivated",
            {"email": who.email},
            "An administrator can make the account active again.",
        ),
    }
    assert refusal == wanted[kind]


def test_a_viewer_may_read_everything_that_staff_can_read(
    module_database: Database, web: Caller
) -> None:
    who, viewer = new_user(module_database), staff(module_database, "viewer")
    configure_provider(module_database)
    account = account_of(module_database, who)["id"]
    for function, arguments in {**READS, **STAFF_READS}.items():
        identity = who if "external_id" in arguments else dict(arguments)
        if "account_id" in identity:
            identity["account_id"] = account
        web.rows(function, **identity, session_hash=viewer.session_hash)


@pytest.mark.parametrize("function", [*READS, *STAFF_READS])
def test_who_is_not_active_staff_cannot_read(
    module_database: Database, web: Caller, function: str
) -> None:
    arguments = {**READS, **STAFF_READS}[function]
    for session_hash, slug in (
        (NO_SESSION, "session_over"),
        (b"too short", "session_over"),
        (staff(module_database, "admin", active=False).session_hash, "admin_deactivated"),
    ):
        assert web.refusal(function, **arguments, session_hash=session_hash).slug == slug


def test_an_administrator_writes_and_is_recorded(module_database: Database, web: Caller) -> None:
    who, ada = new_user(module_database), staff(module_database, "admin")
    web.row("create_credit", **who, amount_minor=5, session_hash=ada.session_hash)
    rows = module_database.execute(
        "SELECT c.admin_user_id, c.api_key_id, c.database_role FROM billing_data.credits AS c"
        " INNER JOIN billing_data.accounts AS a ON a.id = c.account_id WHERE a.external_id = %s",
        who["external_id"],
    )
    assert rows == [(ada.id, None, None)]


def test_a_key_and_a_staff_member_cannot_both_be_the_actor(
    module_database: Database, web: Caller
) -> None:
    both = {
        "api_key_id": key_id(module_database),
        "session_hash": staff(module_database, "admin").session_hash,
    }
    writes = ("attach_payment", "begin_purchase", "create_account", "create_credit")
    for function in (*writes, "record_credit", *READS):
        refusal = web.refusal(function, **{**WRITES, **READS}[function], **both)
        assert refusal.slug == "actor_not_allowed", function


@pytest.mark.parametrize("function", [*ONE_KEY, *READS])
def test_a_dba_cannot_hide_behind_an_api_key(
    module_database: Database, dba: Caller, function: str
) -> None:
    arguments = {**WRITES, **READS}[function]
    refusal = dba.refusal(function, **{**arguments, "api_key_id": key_id(module_database)})
    assert refusal == Refusal(
        "PB403",
        "actor_not_allowed",
        "Only the web tier may name an API key or a staff member as the actor",
        {},
        "Leave out p_api_key_id and p_session_hash: the call is recorded under your own role.",
    )


@pytest.mark.parametrize("function", BATCHES)
def test_a_dba_cannot_hide_behind_api_keys_in_a_batch(
    module_database: Database, dba: Caller, function: str
) -> None:
    for ids in ([key_id(module_database)], [None]):
        refusal = dba.refusal(function, **WRITES[function], api_key_ids=ids)
        assert (refusal.sqlstate, refusal.slug) == ("PB403", "actor_not_allowed")


@pytest.mark.parametrize("function", [*STAFF, *READS, *STAFF_READS])
def test_a_dba_cannot_hide_behind_a_staff_member(
    module_database: Database, dba: Caller, function: str
) -> None:
    ada = staff(module_database, "admin")
    arguments = {**WRITES, **READS, **STAFF_READS}[function]
    refusal = dba.refusal(function, **arguments, session_hash=ada.session_hash)
    assert (refusal.sqlstate, refusal.slug) == ("PB403", "actor_not_allowed")


def test_what_a_dba_does_is_recorded_under_their_own_role(module_database: Database) -> None:
    who = new_user(module_database, paid=5)
    with session(module_database, "t_dba") as dba:
        dba.row("create_charge", **who)
        dba.row("set_account_status", **who, status="suspended", reason="a test")
    account = account_of(module_database, who)["id"]
    for table in ("charges", "credits", "credit_checks"):
        rows = module_database.execute(
            f"SELECT database_role, api_key_id FROM billing_data.{table} WHERE account_id = %s",
            account,
        )
        assert rows == [("t_dba", None)], table
    rows = module_database.execute(
        "SELECT database_role, admin_user_id, reason FROM billing_data.admin_audit_logs"
        " WHERE resource_id = %s ORDER BY created_at",
        str(account),
    )
    assert rows == [("t_dba", None, "Granted"), ("t_dba", None, "a test")]


def test_a_dba_who_takes_on_another_role_is_still_recorded_as_themselves(
    module_database: Database,
) -> None:
    who = new_user(module_database)
    with session(module_database, "t_dba") as dba:
        dba.execute("SET ROLE billing_dba")
        dba.row("create_charge", **who)
    rows = module_database.execute(
        "SELECT c.database_role FROM billing_data.charges AS c WHERE c.account_id = %s",
        account_of(module_database, who)["id"],
    )
    assert rows == [("t_dba",)]


def test_a_superuser_who_became_billing_server_is_treated_as_the_web_tier(
    module_database: Database,
) -> None:
    who, key = new_user(module_database), key_id(module_database)
    with session(module_database, "postgres") as root:
        root.execute("SET ROLE billing_server")
        assert root.refusal("create_charge", **who).slug == "actor_required"
        assert root.refused("SELECT count(*) FROM billing_data.accounts").sqlstate == NO_RIGHT
        assert root.refusal("verify_ledger").sqlstate == NO_RIGHT
        assert root.row("create_charge", **who, api_key_id=key)["paid_with"] == "free"
        root.execute("RESET ROLE")
        assert root.refusal("create_charge", **who, api_key_id=key).slug == "actor_not_allowed"
        assert root.row("create_charge", **who)["paid_with"] == "free"
    rows = module_database.execute(
        "SELECT c.api_key_id, c.database_role FROM billing_data.charges AS c"
        " WHERE c.account_id = %s ORDER BY c.ledger_version",
        account_of(module_database, who)["id"],
    )
    assert rows == [(key, None), (None, "postgres")]


def test_an_owners_login_that_became_billing_server_is_treated_as_the_web_tier(
    database: Database,
) -> None:
    owner = f"t_owner_{uuid.uuid4().hex[:8]}"
    database.execute(f"CREATE ROLE {owner} LOGIN IN ROLE billing_owner, billing_server")
    try:
        who = new_user(database)
        with session(database, owner) as caller:
            caller.row("create_charge", **who)
            caller.execute("SET ROLE billing_server")
            assert caller.refusal("create_charge", **who).slug == "actor_required"
    finally:
        database.execute(f"DROP ROLE {owner}")


@pytest.mark.parametrize(
    "trick",
    [
        "RESET ROLE",
        "SET ROLE NONE",
        "SET ROLE t_web",
        "SET ROLE billing_server",
        "SET LOCAL ROLE NONE",
        "RESET SESSION AUTHORIZATION",
        "SET SESSION AUTHORIZATION t_web",
        "DISCARD ALL",
        "SET search_path = pg_temp",
        "SELECT set_config('role', 'none', false)",
    ],
)
def test_playing_with_its_role_gains_the_web_tier_nothing(
    module_database: Database, trick: str
) -> None:
    who = new_user(module_database)
    with session(module_database, "t_web") as web:
        web.execute(trick)
        assert web.refusal("create_charge", **who).slug == "actor_required"
        assert web.refusal("get_account", **who).slug == "actor_required"
        assert web.refusal("verify_ledger").sqlstate == NO_RIGHT
        assert web.refused("SELECT count(*) FROM billing_data.accounts").sqlstate == NO_RIGHT


@pytest.mark.parametrize(
    "statement",
    [
        "SET ROLE billing_dba",
        "SET ROLE billing_owner",
        "SET ROLE postgres",
        "SET ROLE t_dba",
        "SET SESSION AUTHORIZATION t_dba",
        "SET session_replication_role = replica",
        "GRANT billing_dba TO t_web",
        "ALTER ROLE t_web SUPERUSER",
        "ALTER FUNCTION billing.verify_ledger() OWNER TO t_web",
        "ALTER TABLE billing_data.charges DISABLE TRIGGER ALL",
        "DROP TRIGGER charges_append_only ON billing_data.charges",
    ],
)
def test_the_web_tier_cannot_become_somebody_else(
    module_database: Database, statement: str
) -> None:
    with session(module_database, "t_web") as web:
        assert web.refused(statement).sqlstate in (NO_RIGHT, "22023")


# --- attacks through names -----------------------------------------------------------------------

# What an attacker would have run with the owner's rights.
_LOOT = """
    CREATE FUNCTION pg_temp.loot() RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
        IF current_user <> session_user THEN
            UPDATE billing_data.accounts SET paid_credits = 1000000;
        END IF;
        RETURN true;
    END $$
"""


def _assert_nothing_was_looted(database: Database) -> None:
    assert database.value(
        "SELECT count(*) FROM billing_data.accounts AS a WHERE a.paid_credits > 900000"
    ) == 0  # fmt: skip


def test_temporary_tables_and_views_with_our_names_fool_no_function(database: Database) -> None:
    who, key = new_user(database, free=False), key_id(database)
    with session(database, "t_web") as web:
        web.execute("CREATE TEMP TABLE accounts (id uuid, oauth_provider text, external_id text)")
        web.execute("CREATE TEMP TABLE api_keys (id uuid, status text, permissions text[])")
        web.execute(f"INSERT INTO pg_temp.api_keys VALUES ('{NOBODY}', 'active', '{{a}}')")
        web.execute("CREATE TEMP TABLE settings (free_uses bigint)")
        web.execute("INSERT INTO pg_temp.settings VALUES (1000)")
        web.execute("CREATE TEMP VIEW pg_roles AS SELECT 't_web' AS rolname")
        web.execute("SET search_path = pg_temp, billing_data, billing, pg_catalog")
        assert web.refusal("create_charge", **who, api_key_id=NOBODY).slug == "api_key_invalid"
        assert web.refusal("create_charge", **who).slug == "actor_required"
        refusal = web.refusal("create_charge", **who, api_key_id=key)
        assert refusal.slug == "insufficient_credits"
        assert web.row("check_credit", **person(), api_key_id=key)["free_uses_remaining"] == 3


def test_temporary_functions_and_operators_with_our_names_fool_no_function(
    database: Database,
) -> None:
    who, key = new_user(database, free=False), key_id(database)
    with session(database, "t_web") as web:
        web.execute(_LOOT)
        for signature in (
            "pg_has_role(name, text, text)",
            "current_setting(text)",
            "clock_timestamp()",
            "is_web_tier()",
            "length(text)",
            "starts_with(text, text)",
            "num_nonnulls(VARIADIC anyarray)",
        ):
            result = "timestamptz" if "clock" in signature else "text"
            web.execute(
                f"CREATE FUNCTION pg_temp.{signature} RETURNS {result} LANGUAGE plpgsql"
                " AS $$ BEGIN PERFORM pg_temp.loot(); RETURN NULL; END $$"
            )
        web.execute(
            "CREATE FUNCTION pg_temp.equal(text, text) RETURNS boolean LANGUAGE plpgsql"
            " AS $$ BEGIN RETURN pg_temp.loot(); END $$"
        )
        for operator in ("=", "<>", "<=", "~", "||"):
            web.execute(
                f"CREATE OPERATOR pg_temp.{operator}"
                " (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.equal)"
            )
        web.execute("SET search_path = pg_temp, pg_catalog")
        assert web.refusal("create_charge", **who).slug == "actor_required"
        refusal = web.refusal("create_charge", **who, api_key_id=key)
        assert refusal.slug == "insufficient_credits"
        web.row("check_credit", **who, api_key_id=key, customer_email="ada@example.com")
    _assert_nothing_was_looted(database)


@pytest.mark.parametrize("name", ["text", "uuid", "jsonb", "timestamptz", "bytea", "record"])
def test_a_temporary_type_with_a_built_in_name_runs_nothing_as_the_owner(
    database: Database, name: str
) -> None:
    who, key = new_user(database, free=False), key_id(database)
    viewer = staff(database, "viewer")
    base = "text" if name == "record" else name
    with session(database, "t_web") as web:
        web.execute(_LOOT)
        # A schema for temporary objects comes first for type names unless it is named last.
        web.execute(f"CREATE DOMAIN pg_temp.{name} AS pg_catalog.{base} CHECK (pg_temp.loot())")
        for function, arguments in {
            "create_charge": {**who, "api_key_id": key},
            "check_credit": {**who, "api_key_id": key, "customer_email": "ada@example.com"},
            "record_credit": {**who, **WRITES["record_credit"], "api_key_id": key},
            "create_account": {**who, "api_key_id": key, "idempotency_key": "k"},
            "list_transactions": {**who, "api_key_id": key},
            "begin_purchase": {**WRITES["begin_purchase"], "api_key_id": key},
            "find_purchase": {**READS["find_purchase"], "api_key_id": key},
            "process_payment_event": {
                **EVENT,
                "action": "settle",
                "payment_id": "pi_1",
                "amount_minor": 500,
                "currency": "usd",
                **who,
            },
            "find_api_key": {"key_prefix": "x"},
            "get_schema_version": {},
            "list_accounts": {"search": "x", "count": True, "session_hash": viewer.session_hash},
            "list_audit_log": {"who": "x", "action": "x", "session_hash": viewer.session_hash},
            "list_purchases": {"status": "settled", "session_hash": viewer.session_hash},
            **BEFORE_ANYBODY,
        }.items():
            try:
                web.rows(function, **arguments)
            except psycopg.Error as error:
                # Being refused is fine, for a charge without credits or an odd type.
                assert error.sqlstate  # noqa: PT017
    _assert_nothing_was_looted(database)


# --- the analyst ---------------------------------------------------------------------------------


def test_an_analyst_reads_the_views_and_calls_nothing_but_help(
    module_database: Database,
) -> None:
    with session(module_database, "t_analyst") as analyst:
        for view in ("account_balances", "ledger", "daily_usage", "errors", "currencies"):
            analyst.execute(f"SELECT * FROM billing.{view}")
        assert analyst.rows("help")
        calls = {**WRITES, **READS, **STAFF_READS, **FOR_DBAS, "process_payment_event": EVENT}
        calls["get_provider_config"] = {"provider_type": "stripe"}
        for function, arguments in calls.items():
            assert analyst.refusal(function, **arguments).sqlstate == NO_RIGHT, function
        for function, arguments in BEFORE_ANYBODY.items():
            assert analyst.refusal(function, **arguments).sqlstate == NO_RIGHT, function
        for function in ("list_admins", "list_api_keys", "get_settings"):
            assert analyst.refusal(function).sqlstate == NO_RIGHT, function


def test_the_views_show_no_identity_and_nothing_a_person_typed(module_database: Database) -> None:
    secret = unique("personal")
    who = {"oauth_provider": f"oauth:{secret}", "external_id": secret}
    with session(module_database, "t_dba") as dba:
        dba.row(
            "create_account",
            **who,
            wa_id=secret,
            tenant_id=secret,
            customer_email=f"{secret}@example.com",
            user_role=secret,
            agent_id=secret,
            marketing_opt_in=True,
            marketing_opt_in_source=secret[:50],
        )
        dba.row(
            "create_credit",
            **who,
            amount_minor=5,
            description=secret,
            external_transaction_id=secret,
            idempotency_key=secret,
        )
        dba.row(
            "create_charge",
            **who,
            description=secret,
            idempotency_key=secret,
            metadata_message_id=secret,
            metadata_agent_id=secret,
            metadata_channel_id=secret,
            metadata_request_id=secret,
        )
    account = account_of(module_database, who)["id"]
    with session(module_database, "t_analyst") as analyst:
        rows = analyst.execute(
            "SELECT * FROM billing.ledger AS l WHERE l.account_id = %s", account
        ) + analyst.execute(
            "SELECT * FROM billing.account_balances AS b WHERE b.account_id = %s", account
        )
        days = analyst.execute("SELECT * FROM billing.daily_usage")
    assert len(rows) == 3
    assert days
    assert secret not in repr(rows) + repr(days)


# --- history -------------------------------------------------------------------------------------

HISTORY = ("charges", "credits", "admin_audit_logs")


@pytest.fixture
def history(database: Database) -> Database:
    """A database with a row in each table that is history, and with an API key."""
    new_user(database, paid=5, free=False)
    database.create_key()
    return database


def _refused_as(database: Database, role: str, statement: str) -> Refusal:
    with session(database, "postgres") as root:
        root.execute(f"SET ROLE {role}")
        return root.refused(statement)


@pytest.mark.parametrize("role", ["postgres", "billing_owner"])
@pytest.mark.parametrize("table", HISTORY)
def test_nobody_changes_history_not_even_its_owner_or_a_superuser(
    history: Database, table: str, role: str
) -> None:
    before = history.execute(f"SELECT * FROM billing_data.{table}")
    assert before
    for statement in (
        f"UPDATE billing_data.{table} SET created_at = now()",
        f"UPDATE billing_data.{table} SET created_at = now() WHERE false",
        f"DELETE FROM billing_data.{table}",
        f"DELETE FROM billing_data.{table} WHERE false",
        f"TRUNCATE billing_data.{table}",
        f"TRUNCATE billing_data.{table} CASCADE",
        f"WITH gone AS (DELETE FROM billing_data.{table} RETURNING 1) SELECT count(*) FROM gone",
        f"MERGE INTO billing_data.{table} AS t USING (VALUES (1)) AS v (x) ON t.id IS NOT NULL"
        " WHEN MATCHED THEN DELETE",
        f"INSERT INTO billing_data.{table} AS t SELECT * FROM billing_data.{table}"
        f" ON CONFLICT ON CONSTRAINT {table}_pkey DO UPDATE SET created_at = now()",
    ):
        refusal = _refused_as(history, role, statement)
        if table == "credits" and statement == "TRUNCATE billing_data.credits":
            # What refers to the credits refuses first, before any trigger.
            assert refusal.sqlstate == "0A000"
            continue
        assert (refusal.sqlstate, refusal.slug) == ("PB403", "append_only"), statement
        assert refusal.message.endswith(
            f"on billing_data.{table} is not allowed: its rows are history"
        )
        assert refusal.hint == "Correct a wrong entry by a new one."
    assert history.execute(f"SELECT * FROM billing_data.{table}") == before


@pytest.mark.parametrize("role", ["postgres", "billing_owner"])
def test_truncating_the_accounts_does_not_take_the_ledger_with_it(
    history: Database, role: str
) -> None:
    refusal = _refused_as(history, role, "TRUNCATE billing_data.accounts CASCADE")
    assert refusal.slug == "append_only"
    assert history.value("SELECT count(*) FROM billing_data.charges") == 3


@pytest.mark.parametrize("role", ["postgres", "billing_owner"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing_data.api_keys SET key_hash = 'x'",
        "UPDATE billing_data.api_keys SET key_prefix = 'x'",
        "UPDATE billing_data.api_keys SET id = gen_random_uuid()",
        "DELETE FROM billing_data.api_keys",
        "TRUNCATE billing_data.api_keys",
        "TRUNCATE billing_data.api_keys CASCADE",
    ],
)
def test_nobody_changes_a_keys_hash_or_deletes_a_key(
    history: Database, role: str, statement: str
) -> None:
    before = history.execute("SELECT * FROM billing_data.api_keys")
    refusal = _refused_as(history, role, statement)
    # A foreign key may refuse first to truncate what it refers to.
    assert refusal.slug == "api_key_fixed" or refusal.sqlstate == "0A000"
    assert history.execute("SELECT * FROM billing_data.api_keys") == before


def test_what_may_change_about_a_key_still_does(history: Database) -> None:
    history.execute("UPDATE billing_data.api_keys SET status = 'revoked', last_used_at = now()")
    assert history.value("SELECT k.status FROM billing_data.api_keys AS k") == "revoked"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing_data.accounts SET paid_credits = -1",
        "UPDATE billing_data.accounts SET free_uses_remaining = -1",
        "UPDATE billing_data.accounts SET total_uses = -1",
        "UPDATE billing_data.accounts SET balance_minor = -1",
        "UPDATE billing_data.accounts SET ledger_version = -1",
        "UPDATE billing_data.accounts SET status = 'odd'",
    ],
)
def test_the_tables_refuse_impossible_accounts_even_from_a_superuser(
    history: Database, statement: str
) -> None:
    assert _refused_as(history, "postgres", statement).sqlstate == "23514"


def test_the_logins_of_these_tests_are_members_of_one_role_each(cluster: TestCluster) -> None:
    with cluster.database() as database:
        rows = database.execute("""
            SELECT m.member::regrole::text, m.roleid::regrole::text
            FROM pg_auth_members AS m WHERE m.member::regrole::text ~ '^t_(web|dba|analyst)$'
            ORDER BY 1
        """)
    assert rows == [
        ("t_analyst", "billing_analyst"),
        ("t_dba", "billing_dba"),
        ("t_web", "billing_server"),
    ]
