"""What is measured: an embedded PostgreSQL 18 with durable commits and a filled database, and the
real server in front of it."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg

from bench.data import FILLING, PROVIDER, Contents, fill
from server.embedded import find_binaries, growing_settings
from tests.support import Database, Service, TestCluster, running_service, worker_pids

_VERSION = 18
# Reads are timed, for bench/buffers.py.
_ROOM = {"max_connections": "300", "shared_buffers": "512MB", "track_io_timing": "on"}
_SHOWN = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "wal_sync_method",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "wal_compression",
    "max_connections",
    "autovacuum",
    "jit",
)


@dataclass(frozen=True)
class Stage:
    """One database with a server in front of it. `used` is the prefix of idempotency keys that are
    charged already, one for each account: `used` followed by the account's number."""

    database: Database
    service: Service
    accounts: int
    used: str
    name: str = ""
    workers: int = 1
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def worker_pids(self) -> list[int]:
        return sorted(worker_pids(self.service.process))


@contextlib.contextmanager
def durable_cluster(**settings: str) -> Iterator[TestCluster]:
    """A cluster in a folder that is removed afterwards, with these settings of PostgreSQL besides
    its own."""
    with tempfile.TemporaryDirectory(prefix="ciris-bench-") as folder:
        cluster = TestCluster(Path(folder), _VERSION, _settings() | settings)
        try:
            yield cluster
        finally:
            cluster.stop()


def _settings() -> dict[str, str]:
    """The settings we ship, and room for the load. Everything else is PostgreSQL's default: fsync,
    synchronous_commit and full_page_writes are on."""
    return growing_settings(find_binaries(_VERSION)) | _ROOM


@contextlib.contextmanager
def filled(
    cluster: TestCluster, contents: Contents, say: Callable[[str], None]
) -> Iterator[Database]:
    """A new database with these contents."""
    with cluster.database() as database:
        say(f"making {contents.accounts:,} accounts, {contents.charges:,} charges each")
        large = contents.accounts * (contents.charges + 1) > 100_000
        if large:
            settings = cluster.cluster.settings
            _restart(cluster, settings | FILLING)
        with psycopg.connect(database.dsn(), autocommit=True) as connection:
            fill(connection, contents)
        if large:
            _restart(cluster, settings)
        yield database


def charge_once(database: Database, accounts: int, prefix: str) -> None:
    """Charges user-0, user-1 ... once each, under the key `prefix` and their number."""
    database.execute(
        f"SELECT count(*) FROM generate_series(0, {accounts - 1}) AS k, LATERAL"
        f" billing.create_charge(p_oauth_provider => '{PROVIDER}',"
        " p_external_id => 'user-' || k, p_description => 'Message interaction',"
        f" p_idempotency_key => '{prefix}' || k) AS c"
    )


@contextlib.contextmanager
def stage(
    cluster: TestCluster,
    database: Database,
    accounts: int,
    used: str,
    *,
    name: str = "",
    workers: int,
) -> Iterator[Stage]:
    """`ciris-billing serve` with default settings in front of a filled database."""
    with running_service(database, workers=workers) as service:
        postmaster = int((cluster.cluster.directory / "pg/postmaster.pid").read_text().split()[0])
        groups = {"postgres": [postmaster], "workers": [service.process.process.pid]}
        yield Stage(database, service, accounts, used, name, workers, groups)


def wrong_books(database: Database) -> int:
    """How many problems billing.verify_ledger() finds in the whole database."""
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        connection.execute("SET work_mem = '256MB'")
        row = connection.execute("SELECT count(*) FROM billing.verify_ledger()").fetchone()
    return int(row[0]) if row else 1


def settings(cluster: TestCluster) -> dict[str, str]:
    """The settings that the figures depend on, as the running cluster has them."""
    with psycopg.connect(cluster.dsn("postgres"), autocommit=True) as connection:
        return {name: _show(connection, name) for name in _SHOWN}


def machine() -> dict[str, Any]:
    """The machine and the versions that the figures come from."""
    return {
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "cpu": _cpu_model(),
        "system": platform.system(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "commit": _commit(),
    }


def _restart(cluster: TestCluster, settings: dict[str, str]) -> None:
    cluster.cluster.stop()
    cluster.cluster.settings = dict(settings)
    cluster.cluster.start()


def _show(connection: psycopg.Connection[Any], name: str) -> str:
    row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert row is not None
    return str(row[0])


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit that was measured, with a + when the tree has changes."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(
            ["git", "describe", "--always", "--dirty=+"],
            cwd=Path(__file__).parent,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
    return None
