"""The real PgBouncer in transaction mode, in front of the test cluster."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from tests.support import Process, free_port, wait_for

PGBOUNCER = Path("/usr/sbin/pgbouncer")


def want_pgbouncer() -> None:
    """Skips the test where PgBouncer is not installed; in CI nothing may be missing."""
    if not PGBOUNCER.exists():
        assert os.environ.get("CI") != "true", "PgBouncer is missing"
        pytest.skip("Debian's package pgbouncer is not installed")


class PgBouncer:
    """A PgBouncer in front of the server of `dsn`, for every database name. It listens on a port of
    127.0.0.1 and trusts everybody, as the tests' cluster does."""

    def __init__(self, folder: Path, dsn: str, *, pool_size: int = 6, **settings: str) -> None:
        server = parse_qs(urlsplit(dsn).query)
        self.port = free_port()
        users = folder / "users.txt"
        users.write_text(
            "".join(f'"{name}" ""\n' for name in ("postgres", "t_web", "t_dba", "t_analyst"))
        )
        options = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": str(users),
            "admin_users": "postgres",
            "pool_mode": "transaction",
            "default_pool_size": str(pool_size),
            "max_client_conn": "500",
            "query_wait_timeout": "2",
            "server_login_retry": "1",
            "server_reset_query": "",
            **settings,
        }
        lines = [
            "[databases]",
            f"* = host={server['host'][0]} port={server['port'][0]}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in options.items()),
        ]
        self._file = folder / "pgbouncer.ini"
        self._file.write_text("\n".join(lines) + "\n")
        self._folder = folder
        for path in (users, self._file):
            path.chmod(0o644)

    def start(self) -> None:
        """Returns once it accepts connections."""
        command = [str(PGBOUNCER), str(self._file)]
        if os.geteuid() == 0:  # it refuses to run as root, and it must reach the cluster's socket
            command[1:1] = ["--user", _unprivileged()]
        self.process = Process(command).start()
        wait_for(self._accepts, "PgBouncer")

    def stop(self) -> None:
        """Ends it at once: its connections break."""
        self.process.stop()

    def dsn(self, database: str, user: str) -> str:
        """The URL that leads through it."""
        return f"postgresql://{quote(user)}@127.0.0.1:{self.port}/{quote(database)}"

    def _accepts(self) -> bool:
        assert self.process.process.poll() is None, self.process.output
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        return False


def _unprivileged() -> str:
    for name in ("postgres", "ciris-postgres"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise AssertionError("there is no account that may run PgBouncer")


@contextlib.contextmanager
def running_pgbouncer(dsn: str, *, pool_size: int = 6, **settings: str) -> Iterator[PgBouncer]:
    """A PgBouncer in front of `dsn`'s server until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="ciris-test-pgbouncer-"))
    folder.chmod(0o755)
    try:
        bouncer = PgBouncer(folder, dsn, pool_size=pool_size, **settings)
        bouncer.start()
        try:
            yield bouncer
        finally:
            bouncer.stop()
    finally:
        shutil.rmtree(folder)
