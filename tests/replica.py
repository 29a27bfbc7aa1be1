"""A real streaming replica of a test cluster, made by pg_basebackup as docs/backups.md says."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil

from server.embedded import Cluster
from tests.support import THROW_AWAY, Database, TestCluster, wait_for

# Without this option, pg_basebackup waits for the primary's next checkpoint.
BASE_BACKUP = ("--checkpoint=fast", "--write-recovery-conf", "--wal-method=stream")


def owner_of(folder: Path) -> dict[str, Any]:
    """The options that start a program as the account that owns a folder."""
    found = folder.stat()
    if os.geteuid() in {found.st_uid, found.st_uid or 1}:
        return {}
    return {"user": found.st_uid, "group": found.st_gid, "extra_groups": []}


def socket_folder(dsn: str) -> str:
    """Where the server of a DSN listens."""
    return parse_qs(urlsplit(dsn).query)["host"][0]


class ReplicaCluster(TestCluster):
    """A replica of `primary` with the name `name`, in `directory`, which must not exist yet."""

    def __init__(
        self,
        primary: TestCluster,
        directory: Path,
        name: str,
        settings: Mapping[str, str] = {},
        *,
        include: Path | None = None,
    ):
        binaries = primary.cluster.binaries
        directory.mkdir()
        data = directory / "pg"
        data.mkdir(mode=0o700)
        account = owner_of(primary.cluster.directory / "pg")
        if account:
            os.chown(data, account["user"], account["group"])
        # Its programs pass through the folders above, as the primary's do.
        directory.chmod(0o755)
        host = socket_folder(primary.dsn("postgres"))
        done = subprocess.run(
            [
                binaries / "pg_basebackup",
                f"--host={host}",
                "--port=5432",
                "--username=postgres",
                f"--pgdata={data}",
                *BASE_BACKUP,
                "--create-slot",
                f"--slot={name}",
            ],
            check=False,
            cwd="/",
            env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            **account,
        )
        assert done.returncode == 0, done.stderr
        if include is not None:
            with (data / "postgresql.conf").open("a") as file:
                file.write(f"\ninclude = '{include}'\n")
        self.primary = primary
        # synchronous_standby_names knows it by this name.
        self.cluster = Cluster(
            directory, binaries, settings={**THROW_AWAY, "cluster_name": name, **settings}
        )
        self.cluster.start()

    def twin(self, database: Database) -> Database:
        """The copy of the primary's database."""
        return Database(self, database.name)

    def catch_up(self, database: Database) -> None:
        """Returns when everything that the primary has written has arrived here."""
        position = database.value("SELECT pg_current_wal_lsn()::text")
        anywhere = Database(self, "postgres")
        wait_for(
            lambda: anywhere.value("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", position),
            "the replica to catch up",
        )

    def processes(self) -> list[psutil.Process]:
        """The server's processes."""
        pid = int((self.cluster.directory / "pg" / "postmaster.pid").read_text().split()[0])
        postmaster = psutil.Process(pid)
        return [postmaster, *postmaster.children()]
