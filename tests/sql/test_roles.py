"""Who may do what: each role tries every way that PostgreSQL offers."""

from __future__ import annotations

import uuid

import pytest

from tests.sql.helpers import (
    NOBODY,
    Caller,
    Refusal,
    account_of,
    key_id,
    new_user,
    session,
    set_staff_domain,
    staff,
)
from tests.sql.payments import begin, configure_provider, deliver
from tests.sql.roles import (
    BEFORE_ANYBODY,
    EVENT,
    FOR_DBAS,
    NO_HASH,
    NO_RIGHT,
    READS,
    STAFF_READS,
    WRITES,
)
from tests.support import Database, unique

TABLES = (
    "account_merges",
    "account_notes",
    "account_requests",
    "accounts",
    "active_accounts",
    "active_accounts_by_day",
    "admin_audit_logs",
    "admin_sessions",
    "admin_users",
    "announced_lots",
    "api_keys",
    "batch_requests",
    "cap_usage",
    "caps",
    "charges",
    "credit_checks",
    "credit_checks_default",
    "credits",
    "erased_accounts",
    "erased_audit_logs",
    "erased_entries",
    "grant_schedules",
    "hold_changes",
    "hold_lots",
    "holds",
    "ledger_openings",
    "locks",
    "lot_allocations",
    "lots",
    "merge_ranks",
    "merged_accounts",
    "outbox",
    "payment_effects",
    "payment_events",
    "payment_providers",
    "payment_return_credits",
    "payment_refunds",
    "payment_returns",
    "payment_warnings",
    "provider_configs",
    "purchases",
    "reversed_entries",
    "refused_charges",
    "scheduled_grants",
    "seal_heads",
    "seal_salts",
    "seal_state",
    "seals",
    "settings",
    "sign_in_tickets",
    "top_up_attempts",
    "top_ups",
    "usage_figures",
    "usage_figures_state",
    "user_activity",
    "user_pauses",
    "users_by_day",
    "verification_ranges",
    "verification_runs",
    "webhook_endpoints",
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


# A column for each table that has no id.
COLUMNS = {
    "announced_lots": "lot_id",
    "account_requests": "account_id",
    "active_accounts": "account_id",
    "active_accounts_by_day": "accounts",
    "erased_accounts": "account_id",
    "erased_entries": "account_id",
    "hold_lots": "hold_id",
    "ledger_openings": "account_id",
    "lot_allocations": "entry_id",
    "scheduled_grants": "schedule_id",
    "seal_heads": "day",
    "seal_salts": "account_id",
    "seals": "account_id",
    "user_activity": "account_id",
    "user_pauses": "users",
    "users_by_day": "users",
    "admin_sessions": "admin_user_id",
    "batch_requests": "api_key_id",
    "cap_usage": "cap_id",
    "locks": "name",
    "merge_ranks": "rank",
    "payment_effects": "effect",
    "payment_events": "event_id",
    "payment_providers": "kind",
    "payment_return_credits": "return_id",
    "payment_refunds": "reason",
    "payment_returns": "return_id",
    "payment_warnings": "kind",
    "reversed_entries": "entry_id",
    "refused_charges": "reason",
    "sign_in_tickets": "admin_user_id",
    "top_up_attempts": "account_id",
    "usage_figures": "slot",
    "usage_figures_state": "complete_through",
    "verification_ranges": "place",
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
    # Housekeeping that any session of the service may do; it does nothing in anybody's name.
    housekeeping = {
        "announce_expiring_credits",
        "claim_deliveries",
        "claim_top_ups",
        "create_check_partitions",
        "get_account_holders",
        "note_delivery",
        "note_top_up",
        "record_api_key_use",
        "retire_expired_api_key",
        "seal_entries",
        "tidy_holds",
        "try_writing",
    }
    # The author is the payment provider: the web tier has verified the signature, and no key or
    # staff member stands behind the call that it could name.
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
        # A person who has only just signed in can be named, and has only the rights of their role.
        refusal = web.refusal("set_pricing", reason="a test", session_hash=NO_HASH)
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


def test_a_dba_cannot_say_that_an_alert_was_delivered(dba: Caller) -> None:
    assert dba.refusal("claim_deliveries").sqlstate == NO_RIGHT
    assert dba.refusal("note_delivery", delivery_id=NOBODY, attempt=1).sqlstate == NO_RIGHT


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
    # A credit that a key adds says so in the ledger itself.
    assert rows == [("account.create_credit", ada.id, None, "t_web", 5)]


def test_every_reading_function_of_staff_is_tried_without_an_actor(
    module_database: Database,
) -> None:
    # What these return is no secret to the web tier, which calls them for itself.
    own = {
        "describe_money", "describe_price", "find_api_key", "get_provider_config",
        "get_schema_version", "get_session", "get_settings", "help", "require_api_key",
        "watch_books", "watch_holds", "watch_outbox", "default_payment_provider", "get_proof",
        "read_money",
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
