"""What servers ask the database about itself: whether it can take a charge, and who holds an
account."""

from __future__ import annotations

import psycopg
import pytest

from tests.sql.helpers import Caller, new_user
from tests.support import Database, held_account, unique


def test_trying_to_write_holds_no_account_and_writes_nothing(
    module_database: Database, web: Caller
) -> None:
    who = new_user(module_database)
    charges = "SELECT count(*) FROM billing_data.charges"
    before = module_database.value(charges)
    with held_account(module_database, who["external_id"]):
        web.value("try_writing")
    with psycopg.connect(module_database.dsn("t_web")) as trying:
        trying.execute("SELECT billing.try_writing()")
        with psycopg.connect(module_database.dsn()) as other:  # while its transaction is open
            other.execute("SELECT FROM billing_data.accounts FOR UPDATE NOWAIT")
            other.rollback()
    assert module_database.value(charges) == before


def test_trying_to_write_fails_where_a_charge_would(module_database: Database) -> None:
    with psycopg.connect(module_database.dsn("t_web"), autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = on")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("SELECT billing.try_writing()")


@pytest.mark.parametrize("table", ["accounts", "charges"])
def test_trying_to_write_does_not_wait_for_who_holds_a_table(
    module_database: Database, table: str
) -> None:
    with (
        psycopg.connect(module_database.dsn()) as holder,
        psycopg.connect(module_database.dsn("t_web"), autocommit=True) as connection,
    ):
        holder.execute(f"LOCK TABLE billing_data.{table}")
        connection.execute("SET lock_timeout = '60s'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            connection.execute("SELECT billing.try_writing()")
        holder.rollback()


def _holders(web: Caller, *external_ids: str) -> str | None:
    found: str | None = web.value(
        "get_account_holders",
        oauth_providers=["oauth:google"] * len(external_ids),
        external_ids=list(external_ids),
    )
    return found


def test_who_holds_an_account_is_nobody_the_service_or_somebody_else(
    module_database: Database, web: Caller
) -> None:
    free, held = (new_user(module_database)["external_id"] for _ in range(2))
    assert _holders(web, free, held) is None
    with held_account(module_database, held) as holder:
        assert _holders(web, free, held) == "others"
        assert _holders(web, free) is None
        holder.execute("SET application_name = 'ciris-billing'")
        number = holder.execute("SELECT pg_current_xact_id()::xid::text").fetchone()
        assert (_holders(web, free, held),) == number
    assert _holders(web, free, held) is None


def test_an_account_that_is_not_to_be_seen_yet_is_held_by_others(web: Caller) -> None:
    assert _holders(web, unique()) == "others"
