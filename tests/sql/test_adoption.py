"""Taking over a database of the old service: the result, on every PostgreSQL version and from every
kind of revision; what is refused; and that a dry run changes nothing."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import re
import subprocess
import termios
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from server.adopt import AdoptionReport, adopt, forecast
from server.config import SettingsSeed
from server.embedded import find_binaries
from server.encryption import Cipher
from server.migrate import MigrationError, migrate, rollback, status
from tests.http.main_road import go_the_main_road
from tests.old_database import OldKey, add_keys, build, build_schema, revisions
from tests.sql.helpers import Caller, ledger_problems, session
from tests.sql.payments import USES, deliver
from tests.support import (
    BILLING,
    Database,
    Service,
    TestCluster,
    clean_environment,
    identity,
    running_service,
    unique,
    wait_for,
)

KEY = "a-key-of-this-test-long-enough-0123456789"
SEED = SettingsSeed()
FIRST, STORES, LAST = "2025_10_21_0008", "2026_01_29_0017", "2026_08_28_0021"
ACCOUNTS, CHARGES = 100, 400


@contextlib.contextmanager
def _old(
    cluster: TestCluster, revision: str = FIRST, **sizes: int
) -> Iterator[tuple[Database, list[OldKey]]]:
    with cluster.database(template=None) as database:
        made: dict[str, Any] = {"accounts": ACCOUNTS, "charges": CHARGES, **sizes}
        yield database, build(database.dsn(), revision, **made)


def _take_over(database: Database, seed: SettingsSeed = SEED) -> AdoptionReport:
    report = adopt(database.dsn(), seed, [KEY])
    assert report is not None
    migrate(database.dsn(), seed)
    return report


_DUMPING = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE application_name = 'pg_dump' AND datname = current_database()"
)


def _dump(database: Database) -> str:
    """Everything in a database, as text."""
    program = find_binaries(18) / "pg_dump"
    dump = subprocess.run(
        [program, "--dbname", database.dsn()], capture_output=True, text=True, check=True
    )
    # The program's session may outlive it for a moment, and counts as one that writes.
    wait_for(lambda: not database.value(_DUMPING), "the end of the session of pg_dump")
    return re.sub(r"^\\(un)?restrict .*$", "", dump.stdout, flags=re.MULTILINE)


def _by_identity(database: Database, schema: str) -> dict[tuple[str, str], dict[str, Any]]:
    """What each identity has: sums of credits and uses, and entries by their ids."""
    found: dict[tuple[str, str], dict[str, Any]] = defaultdict(
        lambda: {"paid": 0, "uses": 0, "free": 0, "entries": set()}
    )
    for provider, external, paid, uses, free in database.execute(
        "SELECT oauth_provider, external_id, paid_credits, total_uses, free_uses_remaining"
        f" FROM {schema}.accounts"
    ):
        one = found[provider, external]
        one["paid"] += paid
        one["uses"] += uses
        one["free"] += free
    for table in ("charges", "credits"):
        for provider, external, entry, amount, text in database.execute(
            "SELECT a.oauth_provider, a.external_id, e.id, e.amount_minor, e.description"
            f" FROM {schema}.{table} AS e INNER JOIN {schema}.accounts AS a ON a.id = e.account_id"
        ):
            found[provider, external]["entries"].add((table, entry, amount, text))
    return found


# --- Every revision on every version -------------------------------------------------------------


@pytest.mark.parametrize("revision", [FIRST, STORES, LAST])
def test_an_old_database_is_taken_over_and_its_books_agree(
    any_cluster: TestCluster, revision: str
) -> None:
    with _old(any_cluster, revision) as (database, _):
        before = _by_identity(database, "public")
        extra = {
            table: database.value(f"SELECT count(*) FROM public.{table}")
            for table in (
                *("google_play_purchases", "apple_storekit_purchases", "llm_usage_logs"),
                *("product_inventory", "product_usage_logs", "revoked_tokens"),
            )
            if database.value("SELECT to_regclass(%s)", f"public.{table}")
        }
        report = _take_over(database)
        after = _by_identity(database, "billing_data")
        _assert_carried_over(before, after)
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


def _assert_carried_over(
    before: dict[tuple[str, str], dict[str, Any]],
    after: dict[tuple[str, str], dict[str, Any]],
    most_free_uses: int = 3,
) -> None:
    assert set(after) == set(before)
    for who, had in before.items():
        assert after[who]["paid"] == had["paid"], who
        assert after[who]["uses"] == had["uses"], who
        assert after[who]["entries"] == had["entries"], who
        assert after[who]["free"] <= had["free"], who
        assert after[who]["free"] >= min(had["free"], most_free_uses), who


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


# --- One database, examined from every side ------------------------------------------------------


class Adopted:
    """A database that was taken over, with its contents before."""

    def __init__(self, database: Database, keys: list[OldKey]) -> None:
        self.database, self.keys = database, keys
        self.secrets = [
            secret
            for row in database.execute("SELECT config_data FROM public.provider_configs")
            for name, secret in row[0].items()
            if name != "publishable_key"
        ]
        self.old_rows = {
            row[0]["id"]: row[0]
            for table in ("accounts", "charges", "credits", "admin_users", "credit_checks")
            for row in database.execute(f"SELECT to_jsonb(t) FROM public.{table} AS t")
        }
        self.before = _by_identity(database, "public")
        database.execute(f"ALTER DATABASE {database.name} SET log_statement = 'all'")
        database.execute(f"ALTER DATABASE {database.name} SET log_min_duration_statement = 0")
        self.report = _take_over(database)
        database.execute(f"ALTER DATABASE {database.name} RESET ALL")

    def accounts(self, class_: int) -> dict[str, Any]:
        """The old row of the account of a class (tests/old_database/rows.sql)."""
        return next(
            row
            for row in self.old_rows.values()
            if row.get("external_id") == f"user-{class_ + 1}"
            and "plan_name" in row
            and "has_credit" not in row
        )

    def account(self, class_: int) -> dict[str, Any]:
        """The present account of a class."""
        row = self.database.execute(
            "SELECT to_jsonb(a) FROM billing_data.accounts AS a WHERE a.external_id = %s",
            f"user-{class_ + 1}",
        )
        found: dict[str, Any] = row[0][0]
        return found

    def rule(self, rule: str) -> tuple[int | None, int]:
        """A rule's count before and after."""
        return next((r.before, r.after) for r in self.report.rules if r.rule == rule)


@pytest.fixture(scope="module")
def adopted(cluster: TestCluster) -> Iterator[Adopted]:
    """An old database at the first revision, taken over."""
    with _old(cluster) as (database, keys):
        yield Adopted(database, keys)


@pytest.fixture(scope="module")
def adopted_service(adopted: Adopted) -> Iterator[Service]:
    """A server on this database."""
    with running_service(adopted.database, ENCRYPTION_KEY=KEY) as service:
        yield service


def test_accounts_of_one_identity_become_the_earliest_one(adopted: Adopted) -> None:
    old = [row for row in adopted.old_rows.values() if row.get("external_id") == "user-43"]
    group = [row for row in old if "paid_credits" in row]
    assert len(group) == 3
    now = adopted.account(42)
    earliest = min(group, key=lambda row: row["created_at"])
    assert (now["id"], now["created_at"]) == (earliest["id"], earliest["created_at"])
    assert now["paid_credits"] == sum(row["paid_credits"] for row in group)
    assert now["total_uses"] == sum(row["total_uses"] for row in group)
    newest = max(group, key=lambda row: row["updated_at"])
    addressed = [row for row in group if row["customer_email"]]
    assert now["customer_email"] == max(addressed, key=lambda r: r["updated_at"])["customer_email"]
    assert now["plan_name"] == newest["plan_name"]
    assert now["status"] == "suspended"  # one of the two was suspended
    assert any("several states" in finding.what for finding in adopted.report.findings)
    assert adopted.rule("accounts merged into another one of their identity") == (None, 3)
    assert adopted.rule("accounts") == (ACCOUNTS, ACCOUNTS - 3)


def test_merged_ledgers_are_in_the_order_of_time(adopted: Adopted) -> None:
    times = adopted.database.execute(
        "SELECT e.created_at FROM (SELECT account_id, ledger_version, created_at"
        " FROM billing_data.charges UNION ALL SELECT account_id, ledger_version, created_at"
        " FROM billing_data.credits) AS e INNER JOIN billing_data.accounts AS a"
        " ON a.id = e.account_id WHERE a.external_id = 'user-43' ORDER BY e.ledger_version"
    )
    assert len(times) > 12
    assert times == sorted(times)


def test_the_id_of_a_merged_account_still_leads_to_the_one_that_stayed(adopted: Adopted) -> None:
    stayed = adopted.account(42)["id"]
    gone = [
        row["id"]
        for row in adopted.old_rows.values()
        if row.get("external_id") == "user-43" and "paid_credits" in row and row["id"] != stayed
    ]
    with session(adopted.database, "t_dba") as dba:
        for old_id in gone:
            found = dba.row("get_account_by_id", account_id=old_id)
            assert str(found["account_id"]) == stayed
        assert dba.refusal("get_account_by_id", account_id=str(uuid.uuid4())).sqlstate == "PB404"


def test_a_payment_offered_to_a_merged_account_reaches_the_one_that_stayed(
    cluster: TestCluster,
) -> None:
    with _old(cluster) as (database, _):
        gone = database.value(
            "SELECT id FROM public.accounts WHERE external_id = 'user-43'"
            " ORDER BY created_at DESC LIMIT 1"
        )
        who = database.execute(
            "SELECT oauth_provider, external_id FROM public.accounts WHERE id = %s", gone
        )[0]
        _take_over(database)
        named = {"account_id": gone, "oauth_provider": who[0], "external_id": who[1]}
        before = database.value(
            "SELECT paid_credits FROM billing_data.accounts WHERE external_id = 'user-43'"
        )
        with session(database, "t_dba") as dba:
            assert deliver(dba, unique("evt"), unique("pi"), **named)["outcome"] == "credited"
        after = database.value(
            "SELECT paid_credits FROM billing_data.accounts WHERE external_id = 'user-43'"
        )
        assert after == before + USES
        assert ledger_problems(database) == []


@pytest.mark.parametrize(("most", "left"), [(3, 3), (4, 4), (10, 6), (0, 2)])
def test_free_uses_of_merged_accounts_add_up_to_what_one_account_may_have(
    cluster: TestCluster, most: int, left: int
) -> None:
    with _bare(cluster) as (database, connection):
        for number in range(3):
            _account(connection, "ada", wa_id=str(number), free_uses_remaining=2)
        _account(connection, "ben", free_uses_remaining=7)
        connection.commit()
        _take_over(database, SettingsSeed(free_uses=most))
        rows = database.execute(
            "SELECT external_id, free_uses_remaining FROM billing_data.accounts ORDER BY 1"
        )
        assert rows == [("ada", left), ("ben", 7)]
        assert ledger_problems(database) == []


def test_an_opening_closes_what_the_entries_do_not_explain(adopted: Adopted) -> None:
    rows = adopted.database.execute(
        "SELECT a.external_id, o.reason, o.paid_credits, a.paid_credits, o.ledger_version"
        " FROM billing_data.ledger_openings AS o"
        " INNER JOIN billing_data.accounts AS a ON a.id = o.account_id"
    )
    reasons = {row[0]: row[1] for row in rows}
    assert all(row[2] == row[3] for row in rows)
    # These were given at creation, so nothing was written about them; or the entries end fifty
    # below.
    assert [reasons[f"user-{number}"] for number in (2, 3, 4)] == ["no_entries"] * 3
    assert [reasons[f"user-{number}"] for number in (5, 6, 7)] == ["other_balance"] * 3
    # Cents, a race, and uses from before the old service recorded them.
    assert [reasons[f"user-{number}"] for number in (12, 8, 40)] == [
        *("other_balance", "other_balance", "no_entries"),
    ]
    assert reasons["user-41"] == reasons["user-43"] == "no_chain"
    assert reasons["user-49"] == "agrees"
    counted = {
        "agrees": "openings of accounts whose entries agree with their balance",
        "other_balance": "openings of accounts whose entries end at another balance",
        "no_chain": "openings of accounts whose entries do not chain",
        "no_entries": "openings of accounts with something that no entry explains",
    }
    for reason, rule in counted.items():
        assert adopted.rule(rule) == (None, list(reasons.values()).count(reason))


def test_verify_is_clean_and_says_what_lies_before(adopted: Adopted) -> None:
    environment = {**clean_environment(), "DATABASE_URL": adopted.database.dsn("t_dba")}
    told = subprocess.run(
        [BILLING, "verify"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert told.startswith("The books agree.\n")
    assert "accounts, before their books begin (they ended at another balance)" in told
    entries = sum(int(number) for number in re.findall(r"Only counted: (\d+) entries", told))
    assert entries == sum(len(one["entries"]) for one in adopted.before.values())


def test_an_entry_that_cannot_stay_as_it_was_is_kept_as_it_was(adopted: Adopted) -> None:
    kept = adopted.database.execute(
        "SELECT reason, kind, entry FROM legacy_service.changed_entries"
    )
    for _, _, entry in kept:
        was = adopted.old_rows[entry["id"]]
        assert entry == was
    reasons = {(reason, kind) for reason, kind, _ in kept}
    assert reasons >= {("key", "charge"), ("empty key", "charge")}
    assert adopted.rule("empty idempotency keys") == (1, 0)


def test_consents_hold_and_nulls_stay(adopted: Adopted) -> None:
    names = ("marketing_opt_in", "marketing_opt_in_at", "marketing_opt_in_source")
    for class_ in (60, 61, 62):
        was, now = adopted.accounts(class_), adopted.account(class_)
        assert [now[name] for name in names] == [was[name] for name in names]
    assert adopted.account(40)["marketing_opt_in"]  # one of the two had consented


def test_a_currency_in_small_letters_is_charged_like_any_other(adopted: Adopted) -> None:
    assert adopted.account(53)["currency"] == "USD"
    assert adopted.account(52)["currency"] == "EUR"
    assert adopted.account(54)["currency"] == "XXX"
    assert adopted.rule("accounts with a currency in small letters") == (1, 0)
    with session(adopted.database, "t_dba") as dba:
        who = {"oauth_provider": adopted.account(53)["oauth_provider"], "external_id": "user-54"}
        assert dba.row("create_charge", **who)["paid_with"] in ("free", "paid")


def test_balance_minor_is_never_added_to_the_credits(cluster: TestCluster) -> None:
    with _old(cluster, LAST) as (database, _):
        paid = dict(database.execute("SELECT external_id, paid_credits FROM public.accounts"))
        stored = dict(database.execute("SELECT external_id, balance_minor FROM public.accounts"))
        assert any(paid[who] and stored[who] == paid[who] for who in paid)
        _take_over(database)
        rows = database.execute(
            "SELECT external_id, paid_credits, balance_minor FROM billing_data.accounts"
        )
        for who, credits, balance in rows:
            assert credits == paid[who]
            assert balance == (0 if stored[who] == paid[who] else stored[who])


def test_checks_keep_their_month_and_go_with_it(adopted: Adopted) -> None:
    database = adopted.database
    unknown, checks = database.execute(
        "SELECT count(*) FILTER (WHERE account_id IS NULL), count(*)"
        " FROM billing_data.credit_checks"
    )[0]
    old = [row for row in adopted.old_rows.values() if "has_credit" in row]
    assert (unknown, checks) == (sum(row["account_id"] is None for row in old), len(old))
    assert unknown > 0
    assert database.value("SELECT count(*) FROM billing_data.credit_checks_default") == 0
    with session(database, "t_dba") as dba:
        dropped = dba.rows("drop_check_partitions", before=datetime.now(UTC) - timedelta(days=32))
    assert "credit_checks_2025_10" in {row["partition_name"] for row in dropped}
    assert database.value("SELECT count(*) FROM billing_data.credit_checks") < checks


# --- Keys, staff, secrets ------------------------------------------------------------------------


def test_every_key_gets_its_right_verdict(adopted: Adopted, adopted_service: Service) -> None:
    with adopted_service.client() as client:
        verdicts = {
            key.name: client.post(
                "/v1/billing/credits/check",
                json=identity("somebody"),
                headers={"X-API-Key": key.secret},
            ).status_code
            for key in adopted.keys
        }
    right = {key.name: 200 if key.works else 401 for key in adopted.keys}
    assert verdicts == {**right, "old permissions": 403}
    named = {ended.name for ended in adopted.report.ended_keys}
    assert named == {key.name for key in adopted.keys if key.is_ended}


def test_a_rotating_key_ends_when_its_recorded_grace_does(adopted: Adopted) -> None:
    row = adopted.database.execute(
        "SELECT k.status, k.expires_at = (k.metadata ->> 'grace_period_until')::timestamptz,"
        " s.name FROM billing_data.api_keys AS k"
        " INNER JOIN billing_data.api_keys AS s ON s.id = k.rotated_to"
        " WHERE k.name = 'rotating, in its grace'"
    )
    assert row == [("rotating", True, "successor")]


def test_an_old_charge_key_is_still_recognised(adopted: Adopted, adopted_service: Service) -> None:
    charge_id, key, provider, external = adopted.database.execute(
        "SELECT c.id, c.idempotency_key, a.oauth_provider, a.external_id"
        " FROM billing_data.charges AS c"
        " INNER JOIN billing_data.accounts AS a ON a.id = c.account_id"
        " WHERE c.database_role = 'legacy' AND a.status = 'active'"
        " AND c.idempotency_key LIKE 'charge_%%' AND a.currency = 'USD' LIMIT 1"
    )[0]
    secret = next(key.secret for key in adopted.keys if key.name == "active, live")
    body = {
        "oauth_provider": provider,
        "external_id": external,
        "amount_minor": 3,
        "currency": "USD",
        "description": "again",
        "idempotency_key": key,
    }
    with adopted_service.client() as client:
        again = client.post("/v1/billing/charges", json=body, headers={"X-API-Key": secret})
        assert (again.status_code, again.json()["detail"]) == (409, "Charge already exists")
        assert again.headers["X-Existing-Charge-ID"] == str(charge_id)
        history = client.get(
            "/v1/billing/transactions",
            params={"oauth_provider": provider, "external_id": external},
            headers={"X-API-Key": secret},
        ).json()
    assert str(charge_id) in {entry["transaction_id"] for entry in history["transactions"]}


def test_the_main_road_is_open_on_a_database_that_was_taken_over(
    adopted: Adopted, adopted_service: Service
) -> None:
    go_the_main_road(adopted_service)
    assert ledger_problems(adopted.database) == []


def test_staff_keep_their_roles_and_google_ids(adopted: Adopted) -> None:
    rows = adopted.database.execute(
        "SELECT email, role, is_active, google_id FROM billing_data.admin_users ORDER BY email"
    )
    assert rows == [
        ("ada@ciris.ai", "admin", True, "1001"),
        ("ben@ciris.ai", "viewer", True, "1002"),
        ("cyd@ciris.ai", "admin", False, "1003"),
        ("dan@ciris.ai", "admin", True, None),
        ("eve@ciris.ai", "viewer", True, "1005"),
    ]
    uninvited = next(f for f in adopted.report.findings if "never signed in" in f.what)
    assert uninvited.examples == ("dan@ciris.ai",)
    with session(adopted.database, "t_web") as web:
        signed_in = web.rows(
            "sign_in_admin",
            email="ada@ciris.ai",
            google_id="1001",
            full_name="Ada",
            session_hash=b"0" * 32,
        )
        assert signed_in[0]["role"] == "admin"


def test_no_secret_is_readable_anywhere_and_the_key_opens_them(adopted: Adopted) -> None:
    config = adopted.database.value(
        "SELECT config_data FROM billing_data.provider_configs WHERE provider_type = 'stripe'"
    )
    cipher = Cipher([KEY])
    opened = {cipher.decrypt(config[name]["encrypted"]) for name in ("api_key", "webhook_secret")}
    assert opened == set(adopted.secrets)
    assert config["publishable_key"].startswith("pk_")
    everything = _dump(adopted.database)
    log = adopted.database.cluster.cluster.log.read_text(encoding="utf-8", errors="replace")
    assert "transformation" not in log
    assert "INSERT INTO billing_data.charges" in log  # it does report what adoption did
    told = json.dumps(adopted.report.as_dict(), default=str) + "\n".join(adopted.report.lines())
    for secret in adopted.secrets:
        assert secret not in everything
        assert secret not in log
        assert secret not in told


def test_settings_of_stores_are_kept_encrypted(cluster: TestCluster) -> None:
    with _old(cluster, STORES, accounts=10, charges=10) as (database, _):
        was = dict(
            database.execute("SELECT provider_type, config_data FROM public.provider_configs")
        )
        _take_over(database)
        rows = database.execute(
            "SELECT provider_type, encrypted_config_data FROM legacy_service.store_settings"
        )
        cipher = Cipher([KEY])
        assert {name: json.loads(cipher.decrypt(token)) for name, token in rows} == {
            name: was[name] for name in ("apple_storekit", "google_play")
        }
        assert was["apple_storekit"]["private_key"] not in _dump(database)


def test_payment_intents_become_purchases(cluster: TestCluster) -> None:
    with _old(cluster, LAST) as (database, _):
        intents = database.execute(
            "SELECT payment_intent_id, status, uses_purchased, amount_minor"
            " FROM public.stripe_payment_intents"
        )
        report = _take_over(database)
        for payment_id, state, uses, amount in intents:
            row = database.execute(
                "SELECT uses, price_minor, settled_at IS NOT NULL FROM billing_data.purchases"
                " WHERE payment_id = %s",
                payment_id,
            )
            assert row == [(uses, amount, state == "credited")]
        assert {state for _, state, _, _ in intents} == {"created", "credited"}
        assert "legacy_service.stripe_payment_intents" not in {t.table for t in report.kept}
        # A payment that was offered before is paid now: what was offered is credited, once.
        opened = next(payment_id for payment_id, state, *_ in intents if state == "created")
        with session(database, "t_dba") as dba:
            paid = [
                deliver(dba, unique("evt"), opened, amount_minor=499)["outcome"] for _ in range(2)
            ]
        assert paid == ["credited", "already_credited"]
        assert ledger_problems(database) == []


# --- What is refused, and what changes nothing ---------------------------------------------------


def _refused(database: Database, seed: SettingsSeed = SEED, keys: list[str] | None = None) -> str:
    """Returns why adoption is refused; the database must be unchanged afterwards."""
    before = _dump(database)
    with pytest.raises(MigrationError) as refusal:
        adopt(database.dsn(), seed, [KEY] if keys is None else keys)
    assert _dump(database) == before
    return str(refusal.value)


def test_another_revision_is_refused(cluster: TestCluster) -> None:
    with _bare(cluster) as (database, connection):
        connection.execute("UPDATE public.alembic_version SET version_num = '2027_01_01_0022'")
        connection.commit()
        told = _refused(database)
        assert "revision 2027_01_01_0022" in told
        assert "alembic upgrade" in told
        database.execute("DELETE FROM public.alembic_version")
        assert "revision none" in _refused(database)


def test_a_database_that_is_ours_or_empty_is_refused(
    database: Database, cluster: TestCluster
) -> None:
    assert "without --adopt" in _refused(database)
    with cluster.database(template=None) as empty:
        assert "no database of the old service" in _refused(empty)


def test_an_incomplete_old_database_is_refused(cluster: TestCluster) -> None:
    with _bare(cluster) as (database, connection):
        connection.execute("DROP TABLE public.credits")
        connection.commit()
        assert "has no credits: is it restored completely?" in _refused(database)


def test_who_may_write_is_in_the_way_and_who_reads_is_not(cluster: TestCluster) -> None:
    with _bare(cluster) as (database, connection):
        connection.execute("CREATE ROLE t_watcher LOGIN IN ROLE pg_monitor")
        connection.commit()
        with psycopg.connect(database.dsn("t_watcher"), application_name="watcher") as watcher:
            with psycopg.connect(database.dsn(), application_name="old service"):
                told = _refused(database)
                assert "1 others may write" in told
                assert "old service" in told
                assert "stop the old service" in told
                report = forecast(database.dsn(), SEED, [KEY])
                assert report is not None
                assert len(report.writers) == 1
            watcher.execute("SELECT 1")
            _take_over(database)
        with psycopg.connect(cluster.dsn("postgres"), autocommit=True) as admin:
            admin.execute("DROP ROLE t_watcher")


def test_a_reader_who_left_a_transaction_open_is_told_of(cluster: TestCluster) -> None:
    with _bare(cluster) as (database, connection):
        connection.execute("CREATE ROLE t_reader LOGIN")
        connection.execute("GRANT SELECT ON public.accounts TO t_reader")
        connection.commit()
        with psycopg.connect(database.dsn("t_reader")) as reader:
            reader.execute("SELECT count(*) FROM public.accounts")
            assert "somebody holds a lock on the old tables" in _refused(database)
        _take_over(database)
        database.execute("DROP OWNED BY t_reader")
        database.execute("DROP ROLE t_reader")


def test_secrets_need_a_key_before_anything_is_done(cluster: TestCluster) -> None:
    with _old(cluster, accounts=10, charges=10) as (database, _):
        told = _refused(database, keys=[])
        assert "ENCRYPTION_KEY is not set" in told
        with pytest.raises(MigrationError, match="ENCRYPTION_KEY is not set"):
            forecast(database.dsn(), SEED, [])
        weak = _command(database, "--adopt", ENCRYPTION_KEY="short")
        assert weak.returncode == 2
        assert "ENCRYPTION_KEY is too weak" in weak.stderr
        database.execute("DELETE FROM public.provider_configs")
        database.execute("DELETE FROM public.admin_audit_logs")
        assert adopt(database.dsn(), SEED, []) is not None


def _command(
    database: Database, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BILLING, "migrate", *arguments],
        env={**clean_environment(), "DATABASE_URL": database.dsn(), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_dry_run_tells_the_same_and_changes_nothing(cluster: TestCluster) -> None:
    with _old(cluster) as (database, _):
        before = _dump(database)
        # The old service runs meanwhile, and neither waits for the other.
        with psycopg.connect(database.dsn()) as running:
            running.execute("UPDATE public.accounts SET updated_at = updated_at")
            dry = _command(database, "--adopt", "--dry-run", "--json", ENCRYPTION_KEY=KEY)
            assert dry.returncode == 0, dry.stderr
            running.rollback()
        assert _dump(database) == before
        foreseen = json.loads(dry.stdout)
        assert foreseen["is_dry_run"] is True
        assert foreseen["seconds"] > 0
        assert len(foreseen["writers"]) == 1
        done = _command(database, "--adopt", "--json", ENCRYPTION_KEY=KEY)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        for part in ("revision", "rules", "ended_keys", "findings"):
            assert report[part] == foreseen[part]
        assert report["is_dry_run"] is False


def test_the_second_run_changes_nothing_and_says_so(adopted: Adopted) -> None:
    before = _dump(adopted.database)
    assert adopt(adopted.database.dsn(), SEED, [KEY]) is None
    assert forecast(adopted.database.dsn(), SEED, [KEY]) is None
    again = _command(adopted.database, "--adopt", ENCRYPTION_KEY=KEY)
    assert (again.returncode, again.stdout) == (
        0,
        "The database was taken over before; nothing was changed.\n",
    )
    assert _dump(adopted.database) == before


def test_migrate_alone_leaves_an_old_database_alone(cluster: TestCluster) -> None:
    with _bare(cluster) as (database, connection):
        connection.commit()
        before = _dump(database)
        told = _command(database)
        assert told.returncode == 1
        assert "take it over by `ciris-billing migrate --adopt`" in told.stderr
        assert _dump(database) == before


def test_the_old_services_steps_are_never_rolled_back_after_adoption(adopted: Adopted) -> None:
    ours = sum(step.step > "2026" for step in status(adopted.database.dsn()))
    before = _dump(adopted.database)
    for steps in (ours + 1, ours + 9):
        with pytest.raises(
            MigrationError, match=r"are the old service's own.*The way back is the backup"
        ):
            rollback(adopted.database.dsn(), steps)
    with pytest.raises(MigrationError, match="was taken over from the old service"):
        rollback(adopted.database.dsn(), ours)
    assert _dump(adopted.database) == before


def test_a_table_with_columns_of_somebodys_own_is_kept_whole(cluster: TestCluster) -> None:
    with _old(cluster, accounts=10, charges=10) as (database, _):
        database.execute("ALTER TABLE public.accounts ADD COLUMN note text DEFAULT 'mine'")
        report = _take_over(database)
        kept = next(t for t in report.kept if t.table == "legacy_service.accounts")
        assert (kept.rows, kept.what) == (10, "it has columns that no revision has: note")
        assert database.value("SELECT count(note) FROM legacy_service.accounts") == 10


def test_a_login_that_owns_the_tables_and_may_make_roles_is_enough(cluster: TestCluster) -> None:
    with cluster.database(template=None) as database:
        database.execute("CREATE ROLE t_old_owner LOGIN CREATEROLE NOSUPERUSER")
        database.execute(f"ALTER DATABASE {database.name} OWNER TO t_old_owner")
        database.execute(
            "GRANT billing_owner, billing_server, billing_dba, billing_analyst TO t_old_owner"
            " WITH ADMIN OPTION"
        )
        build(database.dsn("t_old_owner"), LAST, accounts=50, charges=100)
        assert adopt(database.dsn("t_old_owner"), SEED, [KEY]) is not None
        migrate(database.dsn("t_old_owner"), SEED)
        assert ledger_problems(database) == []
        database.execute("REASSIGN OWNED BY t_old_owner TO postgres")
        database.execute("DROP OWNED BY t_old_owner")
        database.execute("DROP ROLE t_old_owner")


def test_a_failure_leaves_nothing_behind_and_shows_no_row(cluster: TestCluster) -> None:
    with _old(cluster, accounts=10, charges=10) as (database, _):
        database.execute("CREATE VIEW public.somebodys AS SELECT * FROM public.accounts")
        told = _refused(database)
        assert "was undone, the old one is as it was" in told
        assert "depend on it" in told
        database.execute("DROP VIEW public.somebodys")
        _take_over(database)


# --- Any old database ----------------------------------------------------------------------------


@contextlib.contextmanager
def _bare(cluster: TestCluster, revision: str = FIRST) -> Iterator[tuple[Database, _Filling]]:
    """An old database without rows, and what fills it."""
    with cluster.database(template=None) as database:
        connection = psycopg.connect(database.dsn())
        build_schema(connection, revision)
        filling = _Filling(connection)
        yield database, filling
        connection.close()


@dataclass
class _Filling:
    """A connection for one transaction. If it stayed open, adoption would wait for its session."""

    connection: psycopg.Connection[Any]

    def execute(self, statement: Any, arguments: Any = None) -> Any:
        return self.connection.execute(statement, arguments)

    def commit(self) -> None:
        self.connection.commit()
        self.connection.close()


def _account(connection: Any, external_id: str, **columns: Any) -> uuid.UUID:
    row = {
        "id": uuid.uuid4(),
        "oauth_provider": "oauth:google",
        "external_id": external_id,
        **columns,
    }
    connection.execute(
        f"INSERT INTO public.accounts ({', '.join(row)})"
        f" VALUES ({', '.join(['%s'] * len(row))})".encode(),
        list(row.values()),
    )
    found: uuid.UUID = row["id"]
    return found


@pytest.mark.parametrize("seed", range(3))
def test_of_any_old_database_nothing_is_lost(cluster: TestCluster, seed: int) -> None:
    dice = random.Random(seed)
    with _bare(cluster, dice.choice(revisions()[:9])) as (database, connection):
        _fill(connection, dice)
        keys = add_keys(connection.connection, datetime.now(UTC))
        connection.commit()
        before = _by_identity(database, "public")
        _take_over(database)
        _assert_carried_over(before, _by_identity(database, "billing_data"))
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
        account = _account(
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


# --- The switch-over -----------------------------------------------------------------------------


def test_names_of_the_old_services_settings_are_understood_with_a_warning(
    cluster: TestCluster,
) -> None:
    given = {
        "free_uses_per_account": "7",
        "PAID_USES_PER_PURCHASE": "50",
        "PRICE_PER_PURCHASE_MINOR": "499",
        "PACK_PRICE_MINOR": "599",
    }
    with cluster.database(template=None) as database:
        url = database.dsn().replace("postgresql://", "postgresql+asyncpg://")
        done = _command(database, **given, DATABASE_URL=url)
        assert done.returncode == 0, done.stderr
        row = database.execute(
            "SELECT free_uses, pack_uses, pack_price_minor FROM billing_data.settings"
        )
        assert row == [(7, 50, 599)]  # the new service's value counts where both are given
    for old, ours in (
        ("FREE_USES_PER_ACCOUNT", "FREE_USES"),
        ("PAID_USES_PER_PURCHASE", "PACK_USES"),
        ("PRICE_PER_PURCHASE_MINOR", "PACK_PRICE_MINOR"),
    ):
        assert f"{old} is the old service's name" in done.stderr
        assert f"call it {ours}\n" in done.stderr


def test_what_was_written_since_adoption_can_be_saved_before_going_back(
    adopted: Adopted, tree: Path
) -> None:
    guide = (tree / "docs" / "adopting.md").read_text(encoding="utf-8")
    query = re.search(r"\\copy \((SELECT .*)\) TO", guide)
    assert query
    who = unique("since")
    with session(adopted.database, "t_dba") as dba:
        dba.row("check_credit", **identity(who))
        dba.row("create_charge", **identity(who), idempotency_key="since")
        dba.row(
            "create_credit",
            **identity(who),
            amount_minor=4,
            transaction_type="grant",
            description="since",
        )
    saved = adopted.database.execute(query[1], user="t_dba")
    mine = [(row[0], row[3], row[7]) for row in saved if row[2] == who]
    assert mine == [("charge", 1, "since"), ("grant", 4, None)]
    ids = adopted.database.value(
        "SELECT (SELECT count(*) FROM billing_data.charges WHERE digest IS NOT NULL)"
        " + (SELECT count(*) FROM billing_data.credits WHERE digest IS NOT NULL)"
    )
    assert len(saved) == ids


def test_a_terminal_shows_a_bar_by_step(cluster: TestCluster) -> None:
    with _bare(cluster) as (database, connection):
        connection.commit()
        ours, its = pty.openpty()
        termios.tcsetwinsize(ours, (40, 120))
        with subprocess.Popen(
            [BILLING, "migrate", "--adopt"],
            env={**clean_environment(), "DATABASE_URL": database.dsn()},
            stdout=subprocess.DEVNULL,
            stderr=its,
        ) as command:
            os.close(its)
            shown = b""
            with contextlib.suppress(OSError):  # it ends when the command does
                while part := os.read(ours, 4096):
                    shown += part
        os.close(ours)
    assert command.returncode == 0
    seen = [int(number) for number in re.findall(r"(\d+)% ", shown.decode())]
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, 100)
    assert len(set(seen)) > 3
    assert "done" in shown.decode()
