"""Taking over a database of the old service from every kind of revision, on every PostgreSQL
version; and random old databases, of which nothing may be lost."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from server.migrate import status
from tests.old_database import OldKey, add_keys, revisions
from tests.sql.adoption.helpers import (
    FIRST,
    LAST,
    STORES,
    add_account,
    assert_carried_over,
    bare_database,
    by_identity,
    old_database,
    take_over,
)
from tests.sql.helpers import Caller, ledger_problems, session
from tests.support import (
    Database,
    TestCluster,
    identity,
)


@pytest.mark.parametrize("revision", [FIRST, STORES, LAST])
def test_an_old_database_is_taken_over_and_its_books_agree(
    any_cluster: TestCluster, revision: str
) -> None:
    with old_database(any_cluster, revision) as (database, _):
        before = by_identity(database, "public")
        extra = {
            table: database.value(f"SELECT count(*) FROM public.{table}")
            for table in (
                *("google_play_purchases", "apple_storekit_purchases", "llm_usage_logs"),
                *("product_inventory", "product_usage_logs", "revoked_tokens"),
            )
            if database.value("SELECT to_regclass(%s)", f"public.{table}")
        }
        report = take_over(database)
        after = by_identity(database, "billing_data")
        assert_carried_over(before, after)
        assert database.value("SELECT count(*) FROM billing_data.accounts") == len(before)
        assert ledger_problems(database) == []
        assert all(step.applied for step in status(database.dsn()))
        kept = {table.table: table.rows for table in report.kept}
        for table, rows in extra.items():
            assert kept[f"legacy_service.{table}"] == rows > 0
            assert database.value(f"SELECT count(*) FROM legacy_service.{table}") == rows
        assert _tables(database, "legacy_service") - {"adoption"} == {
            table.table.removeprefix("legacy_service.") for table in report.kept
        }
        # Nothing of the old service is where it would look for it, and the old service does not
        # start again.
        assert _tables(database, "public") == {
            *("_billing_deploy", "_yoyo_log", "_yoyo_migration", "_yoyo_version", "yoyo_lock"),
            "alembic_version",
        }
        assert database.value("SELECT version_num FROM public.alembic_version") not in revisions()
        _use_it(database)


def _tables(database: Database, schema: str) -> set[str]:
    rows = database.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", schema)
    return {row[0] for row in rows}


def _use_it(database: Database) -> None:
    """Calls of a user and of a DBA, old and new, on a database that was taken over."""
    provider, external, paid, free = database.execute(
        "SELECT oauth_provider, external_id, paid_credits, free_uses_remaining"
        " FROM billing_data.accounts WHERE status = 'active' AND paid_credits > 0"
        " AND currency = 'USD' ORDER BY external_id LIMIT 1"
    )[0]
    with session(database, "t_dba") as dba:
        who = {"oauth_provider": provider, "external_id": external}
        assert dba.row("check_credit", **who)["has_credit"]
        charged = dba.row("create_charge", **who, idempotency_key="after adoption")
        assert charged["balance_after"] == paid - (0 if free else 1)
        dba.row("check_credit", **identity("somebody new"))
        dba.row("create_charge", **identity("somebody new"))
    assert ledger_problems(database) == []


@pytest.mark.parametrize("seed", range(3))
def test_of_any_old_database_nothing_is_lost(cluster: TestCluster, seed: int) -> None:
    dice = random.Random(seed)
    with bare_database(cluster, dice.choice(revisions()[:9])) as (database, connection):
        _fill(connection, dice)
        keys = add_keys(connection.connection, datetime.now(UTC))
        connection.commit()
        before = by_identity(database, "public")
        take_over(database)
        assert_carried_over(before, by_identity(database, "billing_data"))
        assert ledger_problems(database) == []
        with session(database, "t_web") as web:
            for key in keys:
                _assert_verdict(web, key)


def _assert_verdict(web: Caller, key: OldKey) -> None:
    found = web.rows("find_api_key", key_prefix=key.secret[:20])
    asked = {"api_key_id": found[0]["api_key_id"] if found else None, "permission": "billing:read"}
    if key.works:
        assert web.value("require_api_key", **asked), key.name
    elif found:
        assert web.refusal("require_api_key", **asked).sqlstate in ("PB401", "PB403"), key.name


def _fill(connection: Any, dice: random.Random) -> None:
    """Makes accounts, many of them of one identity, with charges and credits that agree or do
    not."""
    start = datetime(2025, 10, 9, tzinfo=UTC)

    def moment() -> datetime:
        return start + timedelta(seconds=dice.randrange(400 * 86400))

    for number in range(60):
        account = add_account(
            connection,
            f"user-{dice.randrange(30)}",
            wa_id=dice.choice([None, str(number)]),
            currency=dice.choice(["USD", "USD", "usd", "EUR", "???"]),
            paid_credits=dice.choice([0, 0, 5, 2**40]),
            total_uses=dice.randrange(5),
            free_uses_remaining=dice.randrange(12),
            balance_minor=dice.choice([0, 0, 7]),
            status=dice.choice(["active", "active", "suspended", "closed"]),
            created_at=moment(),
            updated_at=moment(),
            marketing_opt_in=dice.random() < 0.3,
            marketing_opt_in_at=dice.choice([None, moment()]),
        )
        keys = dice.sample(["a", "b", "c", "", *([None] * 4)], 8)
        for key in keys[: dice.randrange(8)]:
            before, amount = dice.randrange(-3, 50), dice.randrange(1, 9)
            after = dice.choice([before, before - amount, before - amount, before + 1])
            connection.execute(
                "INSERT INTO public.charges (account_id, amount_minor, currency, balance_before,"
                " balance_after, description, idempotency_key, created_at)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                (
                    *(account, amount, dice.choice(["USD", "xx"]), before, after),
                    *("text " * dice.choice([1, 1, 400]), key, moment()),
                ),
            )
        for key in dice.sample(keys, dice.randrange(4)):
            before, amount = dice.randrange(-3, 50), dice.randrange(1, 900)
            payment = dice.choice([None, f"pi_{dice.randrange(20)}", "GPA.1"])
            connection.execute(
                "INSERT INTO public.credits (account_id, amount_minor, currency, balance_before,"
                " balance_after, transaction_type, description, external_transaction_id,"
                " idempotency_key, created_at) VALUES (%s, %s, 'USD', %s, %s, %s, %s, %s, %s, %s)"
                " ON CONFLICT DO NOTHING",
                (
                    *(account, amount, before, before + amount),
                    *("purchase" if payment else "grant", "words", payment),
                    *(f"stripe-{payment}" if payment else key, moment()),
                ),
            )
