"""What calls of functions become, and what their errors become."""

from __future__ import annotations

from datetime import date
from uuid import UUID

import pytest

from server.app import ITEM_FIELDS
from server.config import ServeConfig
from server.gateway import (
    DatabaseFault,
    Gateway,
    Refused,
    SchemaMismatch,
    Unavailable,
    functions,
)
from server.http.errors import from_refused
from tests.support import Database, unique


async def test_arguments_that_a_call_does_not_give_have_the_defaults_of_sql(
    module_database: Database,
) -> None:
    gateway = Gateway(ServeConfig(module_database.dsn("t_web")), ITEM_FIELDS)
    key = UUID(str(module_database.create_key().id))
    provider, user = "oauth:google", unique()
    try:
        made = await gateway.write(
            functions.create_account(oauth_provider=provider, external_id=user, api_key_id=key)
        )
        [page] = await gateway.read(
            functions.list_transactions(oauth_provider=provider, external_id=user, api_key_id=key)
        )
    finally:
        await gateway.close()
    assert (made["currency"], made["plan_name"], made["balance_minor"]) == ("USD", "free", 0)
    assert page["total_count"] == 0


def test_a_call_names_the_arguments_that_it_gives_and_every_column() -> None:
    assert functions.list_admins().statement.sql == (
        "SELECT f.admin_user_id, f.email, f.full_name, f.role, f.is_active, f.created_at,"
        " f.last_login_at FROM billing.list_admins() AS f"
    )
    days = functions.list_audit_log(to=date(2026, 11, 22), from_=date(2026, 11, 1))
    assert days.statement.sql.endswith(
        " FROM billing.list_audit_log(p_to => $1, p_from => $2) AS f"
    )
    one_value = functions.require_api_key(api_key_id=UUID(int=1), permission="billing:read")
    assert one_value.statement.sql == (
        "SELECT billing.require_api_key(p_api_key_id => $1, p_permission => $2) AS require_api_key"
    )


async def test_a_server_does_not_start_where_a_function_lacks_an_argument_that_it_knows(
    database: Database,
) -> None:
    database.execute("DROP FUNCTION billing.find_api_key(text)")
    database.execute("ALTER FUNCTION billing.list_admins(bytea) RENAME TO list_admins_before")
    database.execute(
        "CREATE FUNCTION billing.list_admins() RETURNS integer LANGUAGE sql AS 'SELECT 1'"
    )
    gateway = Gateway(ServeConfig(database.dsn("t_web")), ITEM_FIELDS)
    try:
        with pytest.raises(SchemaMismatch) as raised:
            await gateway.compare_with_database()
    finally:
        await gateway.close()
    assert raised.value.faults == [
        "billing.find_api_key does not exist",
        "billing.list_admins lacks p_session_hash, admin_user_id, email, full_name, role,"
        " is_active, created_at, last_login_at",
    ]


async def test_a_refusal_is_worded_alike_whether_a_function_raises_it_or_gives_it_as_an_outcome(
    module_database: Database,
) -> None:
    gateway = Gateway(ServeConfig(module_database.dsn("t_web")), ITEM_FIELDS)
    key = UUID(str(module_database.create_key(("billing:read",)).id))
    try:
        with pytest.raises(Refused) as raised:
            await gateway.require_api_key(key, "billing:write")
        outcome = await gateway.refused("permission_missing", {"permission": "billing:write"})
    finally:
        await gateway.close()
    assert raised.value.slug == outcome.slug == "permission_missing"
    assert (raised.value.status, raised.value.message) == (outcome.status, outcome.message)
    assert from_refused(raised.value).detail == from_refused(outcome).detail


def _let_it_fail(database: Database, times: int, state: str, message: str) -> None:
    """From now on billing.get_schema_version fails so many times, and then gives 'there'."""
    database.execute("CREATE SEQUENCE billing_data.attempts")
    database.execute("GRANT USAGE ON SEQUENCE billing_data.attempts TO PUBLIC")
    database.execute(
        f"""CREATE OR REPLACE FUNCTION billing.get_schema_version() RETURNS text
            LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS $$
            BEGIN
                IF nextval('billing_data.attempts') <= {times} THEN
                    RAISE EXCEPTION '{message}' USING ERRCODE = '{state}';
                END IF;
                RETURN 'there';
            END $$"""
    )


@pytest.mark.parametrize(
    ("state", "message", "attempts"),
    [
        ("40001", "could not serialize access", 4),
        ("40P01", "deadlock detected", 4),
        # As a call fails that meets a deploy being committed.
        ("42883", "function does not exist", 4),
        ("42804", "structure of query does not match function result type", 4),
        ("XX000", "cache lookup failed for function 16384", 4),
        ("XX000", "something else", 1),
        ("23505", "duplicate key", 1),
        ("55P03", "canceling statement due to lock timeout", 1),
    ],
)
async def test_a_call_is_made_again_where_its_error_says_that_this_may_help(
    database: Database, state: str, message: str, attempts: int
) -> None:
    _let_it_fail(database, 3, state, message)
    gateway = Gateway(ServeConfig(database.dsn("t_web")), ITEM_FIELDS)
    try:
        if attempts == 4:
            assert await gateway.get_schema_version() == "there"
        else:
            with pytest.raises((DatabaseFault, Unavailable)):
                await gateway.get_schema_version()
    finally:
        await gateway.close()
    assert database.value("SELECT last_value FROM billing_data.attempts") == attempts
