"""The way from the old service to this one: dry run, taking over, running it again, and back."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import termios
from pathlib import Path

import psycopg
import pytest

from server.adopt import adopt, forecast
from server.config import ConfigError, load_serve_config
from server.migrate import MigrationError, rollback, status
from tests.sql.adoption.helpers import (
    KEY,
    SEED,
    Adopted,
    bare_database,
    dump,
    migrate_command,
    old_database,
    take_over,
)
from tests.sql.helpers import session
from tests.support import (
    BILLING,
    TestCluster,
    clean_environment,
    identity,
    unique,
)


def test_a_dry_run_tells_the_same_and_changes_nothing(cluster: TestCluster) -> None:
    with old_database(cluster) as (database, _):
        before = dump(database)
        # The old service runs meanwhile, and neither waits for the other.
        with psycopg.connect(database.dsn()) as running:
            running.execute("UPDATE public.accounts SET updated_at = updated_at")
            dry = migrate_command(database, "--adopt", "--dry-run", "--json", ENCRYPTION_KEY=KEY)
            assert dry.returncode == 0, dry.stderr
            running.rollback()
        assert dump(database) == before
        foreseen = json.loads(dry.stdout)
        assert foreseen["is_dry_run"] is True
        assert foreseen["seconds"] > 0
        assert len(foreseen["writers"]) == 1
        done = migrate_command(database, "--adopt", "--json", ENCRYPTION_KEY=KEY)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        for part in ("revision", "rules", "ended_keys", "findings"):
            assert report[part] == foreseen[part]
        assert report["is_dry_run"] is False


def test_the_second_run_changes_nothing_and_says_so(adopted: Adopted) -> None:
    before = dump(adopted.database)
    assert adopt(adopted.database.dsn(), SEED, [KEY]) is None
    assert forecast(adopted.database.dsn(), SEED, [KEY]) is None
    again = migrate_command(adopted.database, "--adopt", ENCRYPTION_KEY=KEY)
    assert (again.returncode, again.stdout) == (
        0,
        "The database was taken over before; nothing was changed.\n",
    )
    assert dump(adopted.database) == before


def test_migrate_alone_leaves_an_old_database_alone(cluster: TestCluster) -> None:
    with bare_database(cluster) as (database, connection):
        connection.commit()
        before = dump(database)
        told = migrate_command(database)
        assert told.returncode == 1
        assert "take it over by `ciris-billing migrate --adopt`" in told.stderr
        assert dump(database) == before


def test_the_old_services_steps_are_never_rolled_back_after_adoption(adopted: Adopted) -> None:
    ours = sum(step.step > "2026" for step in status(adopted.database.dsn()))
    before = dump(adopted.database)
    for steps in (ours + 1, ours + 9):
        with pytest.raises(
            MigrationError, match=r"are the old service's own.*The way back is the backup"
        ):
            rollback(adopted.database.dsn(), steps)
    with pytest.raises(MigrationError, match="was taken over from the old service"):
        rollback(adopted.database.dsn(), ours)
    assert dump(adopted.database) == before


def test_a_table_with_columns_of_somebodys_own_is_kept_whole(cluster: TestCluster) -> None:
    with old_database(cluster, accounts=10, charges=10) as (database, _):
        database.execute("ALTER TABLE public.accounts ADD COLUMN note text DEFAULT 'mine'")
        report = take_over(database)
        kept = next(t for t in report.kept if t.table == "legacy_service.accounts")
        assert (kept.rows, kept.what) == (10, "it has columns that no revision has: note")
        assert database.value("SELECT count(note) FROM legacy_service.accounts") == 10


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
        done = migrate_command(database, **given, DATABASE_URL=url)
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


def test_the_old_services_environment_of_staff_starts_the_console_and_a_weak_secret_does_not() -> (
    None
):
    old = {
        "DATABASE_URL": "postgresql+asyncpg://billing@db.example.com/billing",
        "GOOGLE_CLIENT_ID": "1001.apps.example.com",
        "GOOGLE_CLIENT_SECRET": "what Google gave",
        "ADMIN_JWT_SECRET": "b7Qe2mWk9ZsX4vLt8RnC1yHd6UpJ3fGa",
        "PUBLIC_BASE_URL": "https://billing.example.com",
    }
    staff = load_serve_config(old).staff
    assert staff is not None
    assert (staff.client_id, staff.client_secret) == ("1001.apps.example.com", "what Google gave")
    assert staff.secret == old["ADMIN_JWT_SECRET"]
    for name, value, told in (
        (
            "ADMIN_JWT_SECRET",
            "short",
            "ADMIN_JWT_SECRET is too weak",
        ),
        ("ADMIN_JWT_SECRET", "", "ADMIN_JWT_SECRET is not set"),
        ("GOOGLE_CLIENT_SECRET", "", "GOOGLE_CLIENT_SECRET is not set"),
    ):
        with pytest.raises(ConfigError) as refused:
            load_serve_config({**old, name: value})
        assert told in "; ".join(refused.value.faults)


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
    with bare_database(cluster) as (database, connection):
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
