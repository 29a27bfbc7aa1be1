"""Kills the command, or PostgreSQL, during the takeover of an old database: the old database must
be whole, and the next run must succeed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.old_database import build
from tests.sql.adoption.helpers import KEY
from tests.sql.helpers import dump_of, ledger_problems
from tests.support import (
    BILLING,
    Database,
    TestCluster,
    clean_environment,
    temporary_cluster,
    wait_for,
)

MOMENTS = [
    "finding accounts of one identity",
    "finding where each account's books begin",
    "moving the old tables aside",
    "making our tables",
    "carrying over charges",
    "carrying over checks",
    "making indexes",
    "loading sql/",
    "verifying the books",
    "putting the old tables away",
]


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[TestCluster]:
    """A cluster that may be killed."""
    with temporary_cluster(18) as cluster:
        yield cluster


@pytest.fixture
def old(own_cluster: TestCluster) -> Iterator[Database]:
    """An old database in which the last table cannot be dropped, so that no run reaches its end
    while that is in force. Otherwise a late kill would miss the run."""
    with own_cluster.database(template=None) as database:
        build(database.dsn(), accounts=50, charges=200)
        database.execute(
            "CREATE FUNCTION public.hold_on() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF current_query() ~ 'DROP TABLE .* legacy_service.accounts' THEN"
            " PERFORM pg_sleep(600); END IF; END $$"
        )
        database.execute(
            "CREATE EVENT TRIGGER hold_on ON ddl_command_start WHEN TAG IN ('DROP TABLE')"
            " EXECUTE FUNCTION public.hold_on()"
        )
        database.execute(
            f"ALTER DATABASE {database.name} SET client_connection_check_interval = 50"
        )
        yield database


def test_the_command_is_killed_at_ten_moments(old: Database) -> None:
    whole = dump_of(old)
    for moment in MOMENTS:
        command = _run_until(old, moment)
        command.kill()
        command.communicate()
        wait_for(lambda: _sessions(old) == 0, "the end of its session")
        assert dump_of(old) == whole, moment
    _succeeds(old)


def test_postgresql_is_killed_at_ten_moments(old: Database, own_cluster: TestCluster) -> None:
    whole = dump_of(old)
    for moment in MOMENTS:
        command = _run_until(old, moment)
        own_cluster.cluster.kill()
        told = command.communicate(timeout=60)[1]
        assert command.returncode == 1
        assert "was undone" in told, told
        own_cluster.cluster.start()
        assert dump_of(old) == whole, moment
    _succeeds(old)


def _run_until(old: Database, moment: str) -> subprocess.Popen[str]:
    command = subprocess.Popen([BILLING, "migrate", "--adopt"], **_way(old))
    assert command.stderr is not None
    seen = []
    for line in command.stderr:
        seen.append(line)
        if line == f"{moment}\n":
            return command
    raise AssertionError(f"it never came to {moment}: {seen}")


def _way(old: Database) -> dict[str, Any]:
    return {
        "env": {**clean_environment(), "DATABASE_URL": old.dsn(), "ENCRYPTION_KEY": KEY},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }


def _sessions(old: Database) -> int:
    found: int = old.value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    return found


def _succeeds(old: Database) -> None:
    old.execute("DROP EVENT TRIGGER hold_on")
    done = subprocess.run([BILLING, "migrate", "--adopt"], check=False, **_way(old))
    assert done.returncode == 0, done.stderr
    assert "The books agree." in done.stdout
    assert ledger_problems(old) == []
