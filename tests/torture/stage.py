"""What the faults affect: PostgreSQL on a file system of its own, the proxy, and the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import psycopg

from server.api_key_secret import new_secret
from tests.ops.proxy import TcpProxy, socket_of
from tests.support import (
    BILLING,
    Database,
    Key,
    Process,
    TestCluster,
    free_port,
    wait_until_healthy,
    worker_pids,
)

_DISK_BYTES = 512 << 20
_RECOVERY = 60  # seconds; PostgreSQL's own, after the loss of a process
WORKERS = 2
# Durable as in production. Deadlocks are detected quickly, so that a round need not wait for them.
_SETTINGS = {"max_connections": "100", "deadlock_timeout": "100ms", "max_wal_size": "128MB"}
_SERVER = {"LOCK_TIMEOUT": "1", "STATEMENT_TIMEOUT": "3"}


class Stage:
    """Starts all three, and restarts what a fault has ended."""

    def __init__(self, folder: Path, cluster: TestCluster, database: Database, disk: bool) -> None:
        self._folder = folder
        self.cluster = cluster
        self.database = database
        self.has_own_disk = disk
        self.proxy = TcpProxy(socket_of(database.dsn()))
        self.keys = [database.create_key()]
        self.retired: dict[str, float] = {}  # secret of a revoked key -> when that was certain
        self._port = free_port()
        self._logs: list[str] = []

    @property
    def key(self) -> Key:
        """The API key that is valid now."""
        return self.keys[-1]

    @property
    def base_url(self) -> str:
        """The server's URL, the same after a restart."""
        return f"http://127.0.0.1:{self._port}"

    def start_server(self) -> None:
        """Starts the server, unless it runs, and returns when it is healthy."""
        if self._runs():
            return
        self.server = Process(
            [BILLING, "serve", "--port", str(self._port), "--workers", str(WORKERS)],
            {"DATABASE_URL": self.proxy.url(self.database.dsn("t_web")), **_SERVER},
        ).start()
        wait_until_healthy(self.base_url, self.server, timeout=60)

    def stop_server(self) -> None:
        """Ends the server as a deploy does: the requests it accepted are answered first."""
        if self._runs():
            self.server.stop(timeout=60)
        self._logs.append(self.server.output)

    def kill_server(self) -> None:
        """Kills the server and its workers."""
        pids = self.server_pids()
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        self.stop_server()

    def server_pids(self) -> list[int]:
        """The server's master and its workers."""
        if self._runs():
            # The other fault of the round may end it at this moment.
            with contextlib.suppress(psutil.NoSuchProcess):
                return [self.server.process.pid, *sorted(worker_pids(self.server))]
        return []

    def log(self) -> str:
        """Everything that the servers have logged."""
        return "".join(self._logs) + self.server.output

    def start_database(self) -> None:
        """Starts PostgreSQL, unless it runs, and waits until it accepts connections: after the loss
        of a process it recovers by itself. Reports no error that a restart can repair."""
        self.cluster.cluster.start()
        deadline = time.monotonic() + _RECOVERY
        while True:
            try:
                return self.connect().close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def stop_database(self) -> None:
        """Stops PostgreSQL, and kills it when it has not ended after a while: if it loses a process
        at that moment, it may hang in its shutdown."""
        with contextlib.suppress(ProcessLookupError, FileNotFoundError, psutil.NoSuchProcess):
            os.kill(self.postgres_pids()[0], signal.SIGINT)
        deadline = time.monotonic() + 15
        while self.cluster.cluster.running and time.monotonic() < deadline:
            time.sleep(0.05)
        self.cluster.cluster.kill()

    def postgres_pids(self) -> list[int]:
        """PostgreSQL's processes."""
        lock = self.cluster.cluster.directory / "pg" / "postmaster.pid"
        postmaster = psutil.Process(int(lock.read_text().split()[0]))
        return [postmaster.pid, *(child.pid for child in postmaster.children())]

    def recover(self) -> None:
        """Removes every fault: there is room, both programs run, and what is written is kept."""
        self.free_disk()
        self.start_database()
        self.set_read_only("off")
        self.start_server()

    def set_read_only(self, value: str) -> None:
        """Sets whether transactions are read-only by default."""
        with self.connect() as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
            connection.execute("SELECT pg_reload_conf()")

    def replace_key(self) -> None:
        """Rotates the API key and revokes the old one at once."""
        secret, old = new_secret("test"), self.key
        with self.connect("t_dba") as dba:
            rotated = dba.execute(
                "SELECT api_key_id FROM billing.rotate_api_key(p_api_key_id => %s,"
                " p_key_prefix => %s, p_key_hash => %s, p_reason => 'torture')",
                (old.id, secret.prefix, secret.hash),
            ).fetchone()
            assert rotated is not None
            self.keys.append(Key(str(rotated[0]), secret.plaintext, secret.prefix))
            dba.execute(
                "SELECT * FROM billing.revoke_api_key(p_api_key_id => %s, p_reason => 'torture')",
                (old.id,),
            )
        self.retired[old.secret] = time.monotonic()

    def connect(self, user: str = "postgres") -> psycopg.Connection[Any]:
        """A new session in autocommit mode, which bypasses the proxy."""
        return psycopg.connect(self.database.dsn(user), autocommit=True)

    def fill_disk(self) -> None:
        """Leaves PostgreSQL's file system without a free block."""
        with (self._folder / "filler").open("wb") as filler:
            piece = 1 << 20
            while piece >= 4096:
                try:
                    os.posix_fallocate(filler.fileno(), filler.seek(0, os.SEEK_END), piece)
                except OSError:
                    piece //= 4

    def free_disk(self) -> None:
        """Frees these blocks again."""
        (self._folder / "filler").unlink(missing_ok=True)

    def wait_until_quiet(self, seconds: float = 30) -> None:
        """Returns when neither the server nor PostgreSQL works on anything."""
        deadline = time.monotonic() + seconds
        while self._busy():
            if time.monotonic() > deadline:
                raise AssertionError(f"still at work after {seconds:g} s")
            time.sleep(0.02)

    def _busy(self) -> bool:
        try:
            text = httpx2.get(f"{self.base_url}/metrics", timeout=10, verify=False).text
        except httpx2.TransportError:
            return True
        progress = [
            float(line.split()[-1])
            for line in text.splitlines()
            if line.startswith("billing_http_requests_in_progress ")
        ]
        active = self.database.value(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE usename = 't_web' AND state <> 'idle' AND datname = current_database()"
            # A backend that waits for the rest of a message that the network has lost does nothing.
            " AND NOT (state = 'active' AND wait_event IS NOT DISTINCT FROM 'ClientRead')"
        )
        return sum(progress) > 1 or active > 0  # this query counts itself

    def _runs(self) -> bool:
        return hasattr(self, "server") and self.server.process.poll() is None


@contextlib.asynccontextmanager
async def running_stage() -> AsyncIterator[Stage]:
    """A stage in a temporary folder, which is removed afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="ciris-test-") as name,
        _own_disk(Path(name)) as has_own_disk,
    ):
        folder = Path(name)
        cluster = await asyncio.to_thread(TestCluster, folder / "cluster", 18, _SETTINGS)
        try:
            with cluster.database() as database:
                stage = Stage(folder, cluster, database, has_own_disk)
                async with stage.proxy.running():
                    try:
                        await asyncio.to_thread(stage.start_server)
                        yield stage
                    finally:
                        await asyncio.to_thread(stage.recover)
                        await asyncio.to_thread(stage.stop_server)
        finally:
            await asyncio.to_thread(cluster.stop)


@contextlib.contextmanager
def _own_disk(folder: Path) -> Any:
    """Mounts a small file system in memory on `folder` as root; returns whether it did."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    options = ["-t", "tmpfs", "-o", f"size={_DISK_BYTES},mode=0755", "tmpfs", str(folder)]
    made = (
        os.geteuid() == 0
        and mount is not None
        and umount is not None
        and subprocess.run([mount, *options], check=False, capture_output=True).returncode == 0
    )
    try:
        yield made
    finally:
        if made:
            subprocess.run([str(umount), "--lazy", str(folder)], check=True)
