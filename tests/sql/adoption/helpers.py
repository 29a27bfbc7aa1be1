"""Old databases, taking them over, and what the tests of it look at."""

from __future__ import annotations

import contextlib
import subprocess
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from server.adopt import AdoptionReport, adopt
from server.config import SettingsSeed
from server.migrate import MigrationError, migrate
from tests.old_database import OldKey, build, build_schema
from tests.sql.helpers import dump_of
from tests.support import (
    BILLING,
    Database,
    TestCluster,
    clean_environment,
    wait_for,
)

KEY = "a-key-of-this-test-long-enough-0123456789"
SEED = SettingsSeed()
FIRST, STORES, LAST = "2025_10_21_0008", "2026_01_29_0017", "2026_08_28_0021"
ACCOUNTS, CHARGES = 100, 400


@contextlib.contextmanager
def old_database(
    cluster: TestCluster, revision: str = FIRST, **sizes: int
) -> Iterator[tuple[Database, list[OldKey]]]:
    with cluster.database(template=None) as database:
        made: dict[str, Any] = {"accounts": ACCOUNTS, "charges": CHARGES, **sizes}
        yield database, build(database.dsn(), revision, **made)


def take_over(database: Database, seed: SettingsSeed = SEED) -> AdoptionReport:
    report = adopt(database.dsn(), seed, [KEY])
    assert report is not None
    migrate(database.dsn(), seed)
    return report


_DUMPING = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE application_name = 'pg_dump' AND datname = current_database()"
)


def dump(database: Database) -> str:
    """Everything in a database, as text, once the session that read it is gone: it counts as one
    that writes."""
    text = dump_of(database)
    wait_for(lambda: not database.value(_DUMPING), "the end of the session of pg_dump")
    return text


def by_identity(database: Database, schema: str) -> dict[tuple[str, str], dict[str, Any]]:
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


def assert_carried_over(
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
        self.before = by_identity(database, "public")
        database.execute(f"ALTER DATABASE {database.name} SET log_statement = 'all'")
        database.execute(f"ALTER DATABASE {database.name} SET log_min_duration_statement = 0")
        self.report = take_over(database)
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


@contextlib.contextmanager
def bare_database(
    cluster: TestCluster, revision: str = FIRST
) -> Iterator[tuple[Database, Filling]]:
    """An old database without rows, and what fills it."""
    with cluster.database(template=None) as database:
        connection = psycopg.connect(database.dsn())
        build_schema(connection, revision)
        filling = Filling(connection)
        yield database, filling
        connection.close()


@dataclass
class Filling:
    """A connection for one transaction. If it stayed open, adoption would wait for its session."""

    connection: psycopg.Connection[Any]

    def execute(self, statement: Any, arguments: Any = None) -> Any:
        return self.connection.execute(statement, arguments)

    def commit(self) -> None:
        self.connection.commit()
        self.connection.close()


def add_account(connection: Any, external_id: str, **columns: Any) -> uuid.UUID:
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


def refused(database: Database, seed: SettingsSeed = SEED, keys: list[str] | None = None) -> str:
    """Returns why adoption is refused; the database must be unchanged afterwards."""
    before = dump(database)
    with pytest.raises(MigrationError) as refusal:
        adopt(database.dsn(), seed, [KEY] if keys is None else keys)
    assert dump(database) == before
    return str(refusal.value)


def migrate_command(
    database: Database, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BILLING, "migrate", *arguments],
        env={**clean_environment(), "DATABASE_URL": database.dsn(), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
