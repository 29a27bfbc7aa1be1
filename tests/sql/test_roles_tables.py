"""Objects with our names, the analysts' views, and history that nobody changes."""

from __future__ import annotations

import psycopg
import pytest

from tests.sql.helpers import (
    NOBODY,
    Refusal,
    account_of,
    key_id,
    new_user,
    person,
    session,
    staff,
)
from tests.sql.roles import (
    BEFORE_ANYBODY,
    EVENT,
    FOR_DBAS,
    NO_RIGHT,
    READS,
    STAFF_READS,
    WRITES,
)
from tests.support import Database, TestCluster, unique

# --- attacks through names -----------------------------------------------------------------------

# What an attacker would want to run with the owner's rights.
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
        # For type names, the schema of temporary objects comes first unless it is named last.
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
                # A refusal is fine here, for a charge without credits or an odd type.
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
        if statement in ("TRUNCATE billing_data.charges", "TRUNCATE billing_data.credits"):
            # A table that refers to these rows refuses first, before any trigger.
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
    # A foreign key may refuse first to truncate the table that it refers to.
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
