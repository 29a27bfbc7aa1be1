"""Backups with the real pgBackRest, by the files of ops/postgres and the steps of
docs/backups.md."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ops.load import Load, account_with_credits
from tests.replica import ReplicaCluster, owner_of, socket_folder
from tests.support import (
    BILLING,
    TEMPLATE,
    Database,
    Service,
    TestCluster,
    clean_environment,
    running_service,
    wait_for,
    want_postgresql,
)

PGBACKREST = Path("/usr/bin/pgbackrest")


class Archived:
    """A PostgreSQL 15 with the settings of ops/postgres/primary.conf, and a repository beside
    it."""

    def __init__(self, folder: Path, tree: Path) -> None:
        self.folder = folder
        self.tree = tree
        self.cluster = TestCluster(folder / "primary", 15)
        self.database = Database(self.cluster, TEMPLATE)
        self.data = folder / "primary" / "pg"
        self.account = owner_of(self.data)
        self.config = folder / "pgbackrest.conf"
        for name in ("repository", "log", "lock"):
            (folder / name).mkdir()
            if self.account:
                os.chown(folder / name, self.account["user"], self.account["group"])
        text = (tree / "ops/postgres/pgbackrest.conf").read_text()
        for old, new in (
            ("/var/lib/pgbackrest", folder / "repository"),
            ("/var/log/pgbackrest", folder / "log"),
            ("/var/lib/postgresql/15/main", self.data),
            ("/var/run/postgresql", socket_folder(self.cluster.dsn("postgres"))),
        ):
            assert old in text
            text = text.replace(old, str(new))
        text = text.replace("[global]", f"[global]\nlock-path={folder / 'lock'}")
        self.config.write_text(text)
        settings = (tree / "ops/postgres/primary.conf").read_text()
        assert "'pgbackrest --stanza" in settings
        self.settings = folder / "primary.conf"
        self.settings.write_text(
            settings.replace("'pgbackrest ", f"'{PGBACKREST} --config={self.config} ")
        )
        folder.chmod(0o755)
        self.include(self.data, self.settings)
        self.restart()

    @staticmethod
    def include(data: Path, settings: Path) -> None:
        with (data / "postgresql.conf").open("a") as file:
            file.write(f"\ninclude = '{settings}'\n")

    def restart(self) -> None:
        self.cluster.cluster.stop()
        self.cluster.cluster.start()

    def pgbackrest(self, *arguments: str) -> str:
        """Runs pgBackRest as the account that owns the data; returns its output."""
        done = subprocess.run(
            [PGBACKREST, f"--config={self.config}", "--stanza=billing", *arguments],
            check=False,
            cwd="/",
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            capture_output=True,
            text=True,
            **self.account,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def archive_all(self) -> None:
        """Returns when everything that was written so far is in the repository."""
        segment = self.database.value("SELECT pg_walfile_name(pg_switch_wal())")
        wait_for(
            lambda: self.database.value(
                "SELECT last_archived_wal >= %s FROM pg_stat_archiver", segment
            ),
            "the archive",
        )

    def destroy(self) -> None:
        """The server crashes, and its disk is empty afterwards."""
        self.cluster.cluster.kill()
        for entry in self.data.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def recover(self) -> None:
        """Starts the restored server; returns when it accepts writes."""
        self.cluster.cluster.start()
        wait_for(
            lambda: not self.database.value("SELECT pg_is_in_recovery()"), "the end of recovery"
        )


@pytest.fixture(scope="module")
def archived(tree: Path) -> Iterator[Archived]:
    """One for the module, whose tests run one after the other."""
    want_postgresql(15)
    if not PGBACKREST.exists():
        assert os.environ.get("CI") != "true", "pgBackRest is missing"
        pytest.skip("Debian's package pgbackrest is not installed")
    with tempfile.TemporaryDirectory(prefix="ciris-test-") as folder:
        archived = Archived(Path(folder), tree)
        yield archived
        archived.cluster.stop()


async def _charges(service: Service, users: list[str], count: int = 100) -> dict[str, str]:
    """The acknowledged charges of a load: idempotency keys with the ids of their charges."""
    load = Load(service, users, clients=8)
    async with load.running():
        await load.more_answers(count)
    assert load.wrong == []
    assert load.unanswered == set()
    return load.charged


def _verify(database: Database) -> None:
    """`ciris-billing verify`."""
    done = subprocess.run(
        [BILLING, "verify"],
        check=False,
        env={**clean_environment(), "DATABASE_URL": database.dsn("t_dba")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The books agree.\n")


def _ledger(database: Database) -> dict[str, Any]:
    return dict(
        database.execute(
            "SELECT idempotency_key, id::text FROM billing_data.charges"
            " WHERE idempotency_key LIKE 'load-%'"
        )
    )


async def test_a_destroyed_database_comes_back_as_it_was_at_a_moment(archived: Archived) -> None:
    database = archived.database
    archived.pgbackrest("stanza-create")
    archived.pgbackrest("check")
    with running_service(database) as service:
        users = [account_with_credits(service) for _ in range(4)]
        kept = await _charges(service, users)
        archived.pgbackrest("backup", "--type=full")
        backed_up = time.time()
        kept |= await _charges(service, users)
        # pgBackRest records the end of a backup to the second.
        wait_for(lambda: time.time() > backed_up + 1, "the next second")
        moment = str(database.value("SELECT clock_timestamp()"))
        lost = await _charges(service, users)
    assert _ledger(database) == {**kept, **lost}
    archived.archive_all()
    archived.destroy()

    archived.pgbackrest("restore", "--type=time", f"--target={moment}", "--target-action=promote")
    archived.recover()
    _verify(database)
    assert _ledger(database) == kept
    with running_service(database) as service:  # and the service goes on
        after = await _charges(service, users, 20)
    assert _ledger(database) == {**kept, **after}
    _verify(database)

    archived.pgbackrest("backup", "--type=diff")
    assert "diff backup" in archived.pgbackrest("info")

    # Without a target, everything that was archived comes back, across the new timeline too.
    archived.archive_all()
    archived.destroy()
    archived.pgbackrest("restore")
    archived.recover()
    assert _ledger(database) == {**kept, **after}
    _verify(database)


def test_a_replica_has_the_settings_of_the_examples(archived: Archived) -> None:
    settings = archived.folder / "replica.conf"
    text = (archived.tree / "ops/postgres/replica.conf").read_text()
    settings.write_text(text)
    folder = archived.folder / "replica"
    replica = ReplicaCluster(archived.cluster, folder, "replica1", include=settings)
    try:
        replica.catch_up(archived.database)
        twin = replica.twin(archived.database)
        assert _ledger(twin) == _ledger(archived.database)
        assert twin.value("SHOW hot_standby_feedback") == "on"
        assert archived.database.value("SELECT application_name FROM pg_stat_replication") == (
            "replica1"
        )
    finally:
        replica.stop()
        archived.database.execute("SELECT pg_drop_replication_slot('replica1')")
