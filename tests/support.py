"""The base of all tests: a private PostgreSQL cluster, databases cloned from a migrated template,
and real server processes. Nothing of our own is mocked."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import psycopg
import pytest

from server.api_key_secret import new_secret
from server.config import SettingsSeed
from server.embedded import Cluster, EmbeddedError, find_binaries
from server.migrate import migrate
from server.staff.admin_token import hashed
from tests.run import free_port, made_once

# A database is thrown away after its test, so the settings that make commits durable would only
# cost time.
THROW_AWAY = {"fsync": "off", "full_page_writes": "off", "max_connections": "300"}
LOGINS = {"web": "billing_server", "dba": "billing_dba", "analyst": "billing_analyst"}
BILLING = str(Path(sys.executable).parent / "ciris-billing")
TEMPLATE = "billing_template"


def want_postgresql(version: int) -> None:
    """Skips the test where this version is not installed; in CI nothing may be missing."""
    try:
        find_binaries(version)
    except EmbeddedError as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing))


def as_postgres(*command: object) -> list[str]:
    """A command that runs as the account that PostgreSQL's programs need; they refuse root."""
    arguments = [str(part) for part in command]
    if os.geteuid() != 0:
        return arguments
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *arguments]


class TestCluster:
    """A PostgreSQL cluster with a migrated template database and a login per audience (t_web,
    t_dba, t_analyst)."""

    __test__ = False

    def __init__(self, directory: Path, version: int, settings: Mapping[str, str] = THROW_AWAY):
        self.cluster = Cluster(directory, find_binaries(version), settings=settings)
        with prepared_data(version) as data:
            directory.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", data, directory / "pg"], check=True)
        self.cluster.start()

    def dsn(self, database: str, user: str = "postgres") -> str:
        return self.cluster.dsn(database, user)

    @contextlib.contextmanager
    def database(self, template: str | None = TEMPLATE) -> Iterator[Database]:
        """A new database: a clone of the template, or an empty one."""
        name = f"t_{secrets.token_hex(6)}"
        # Copying files writes no log, which copying page by page does.
        suffix = f" TEMPLATE {template} STRATEGY file_copy" if template else ""
        self._execute("postgres", f"CREATE DATABASE {name}{suffix}")
        try:
            yield Database(self, name)
        finally:
            self._execute("postgres", f"DROP DATABASE {name} WITH (FORCE)")

    def stop(self) -> None:
        self.cluster.stop()

    def _execute(self, database: str, statement: str) -> None:
        with psycopg.connect(self.dsn(database), autocommit=True) as connection:
            connection.execute(statement)


@contextlib.contextmanager
def prepared_data(version: int) -> Iterator[Path]:
    """The data folder that the tests' clusters begin with, to be copied. It is made once in a run:
    initdb and all migrations take longer than most tests."""
    with made_once(f"postgres-{version}") as (folder, is_missing):
        if is_missing:
            cluster = Cluster(folder, find_binaries(version), settings=THROW_AWAY)
            cluster.start()
            with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {TEMPLATE}".encode())
                migrate(cluster.dsn(TEMPLATE), SettingsSeed())
                for name, role in LOGINS.items():
                    connection.execute(f"CREATE ROLE t_{name} LOGIN IN ROLE {role}".encode())
            cluster.stop()
        yield folder / "pg"


@contextlib.contextmanager
def temporary_cluster(version: int) -> Iterator[TestCluster]:
    """A cluster for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="ciris-test-") as folder:
        cluster = TestCluster(Path(folder), version)
        yield cluster
        cluster.stop()


@dataclass
class Database:
    """One throw-away database."""

    cluster: TestCluster
    name: str

    def dsn(self, user: str = "postgres") -> str:
        """Its DSN for a login: postgres, t_web, t_dba or t_analyst."""
        return self.cluster.dsn(self.name, user)

    def execute(self, statement: str, *arguments: Any, user: str = "postgres") -> list[Any]:
        """Runs one statement in a transaction of its own; returns its rows, if any."""
        with psycopg.connect(self.dsn(user), autocommit=True) as connection:
            cursor = connection.execute(statement, arguments or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, statement: str, *arguments: Any, user: str = "postgres") -> Any:
        """The first column of the first row."""
        return self.execute(statement, *arguments, user=user)[0][0]

    def create_key(
        self, permissions: Sequence[str] = ("billing:read", "billing:write"), name: str = "test"
    ) -> Key:
        """An API key, made as the command line makes it. With permissions that a new key cannot
        have, it is a key of the old service."""
        secret = new_secret("test")
        is_old = not set(permissions) <= {"billing:read", "billing:write"}
        key_id = self.value(
            "SELECT api_key_id FROM billing.create_api_key(p_name => %s, p_key_prefix => %s,"
            " p_key_hash => %s, p_environment => 'test', p_permissions => %s)",
            name,
            secret.prefix,
            secret.hash,
            [] if is_old else list(permissions),
            user="t_dba",
        )
        if is_old:
            self.execute(
                "UPDATE billing_data.api_keys SET permissions = %s WHERE id = %s",
                list(permissions),
                key_id,
            )
        return Key(str(key_id), secret.plaintext, secret.prefix)

    def rotate_key(self, old_id: Any) -> Key:
        """The API key that replaces the one with this id."""
        secret = new_secret("test")
        key_id = self.value(
            "SELECT api_key_id FROM billing.rotate_api_key(p_api_key_id => %s, p_key_prefix => %s,"
            " p_key_hash => %s)",
            *(old_id, secret.prefix, secret.hash),
            user="t_dba",
        )
        return Key(str(key_id), secret.plaintext, secret.prefix)

    def know_token(self, token: str, email: str) -> str:
        """Registers a staff member's bearer token, as the command line does; returns the token."""
        self.execute(
            "SELECT billing.create_staff_token(p_token_hash => %s, p_email => %s)",
            hashed(token),
            email,
            user="t_dba",
        )
        return token


@dataclass(frozen=True)
class Key:
    """An API key with its secret."""

    id: str
    secret: str
    prefix: str


@dataclass
class Process:
    """A program under test. Its output goes to a file, and it is ended by its own process id."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: str | Path | None = None

    def start(self) -> Process:
        self.log = tempfile.NamedTemporaryFile(prefix="ciris-test-", suffix=".log", delete=False)
        self.process = subprocess.Popen(
            [str(argument) for argument in self.arguments],
            env={**clean_environment(), **self.environment},
            cwd=self.cwd,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return self

    @property
    def output(self) -> str:
        """Everything it has written, also after stop()."""
        if self.log.closed:
            return self.last_output
        return Path(self.log.name).read_text(encoding="utf-8", errors="replace")

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 15) -> int:
        """Signals the process and waits; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"it did not stop: {self.output[-3000:]}") from None
        finally:
            self.last_output = self.output
            self.log.close()
            Path(self.log.name).unlink(missing_ok=True)


def clean_environment() -> dict[str, str]:
    """This process's environment without variables that would configure the service."""
    drop = (
        "DATABASE_URL",
        "DATABASE_POOLER",
        "DATABASE_READ_URL",
        "MIGRATION_DATABASE_URL",
        "ADMIN_JWT_SECRET",
        "ENCRYPTION_KEY",
        "STRIPE_",
        "OTEL_",
        "PROMETHEUS_MULTIPROC_DIR",
    )
    return {name: value for name, value in os.environ.items() if not name.startswith(drop)}


@dataclass
class Service:
    """A running `ciris-billing serve` with a full-permission key."""

    database: Database
    process: Process
    base_url: str
    key: Key

    def client(self, key: Key | None = None, **options: Any) -> httpx2.Client:
        """A client that presents the key (by default the service's own)."""
        headers = {"X-API-Key": (key or self.key).secret}
        return httpx2.Client(
            base_url=self.base_url, headers=headers, timeout=30, verify=False, **options
        )

    def async_client(self, key: Key | None = None, connections: int = 100) -> httpx2.AsyncClient:
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        headers = {"X-API-Key": (key or self.key).secret}
        return httpx2.AsyncClient(
            base_url=self.base_url, headers=headers, timeout=60, limits=limits, verify=False
        )


@contextlib.contextmanager
def running_service(
    database: Database,
    *,
    workers: int = 1,
    user: str = "t_web",
    port: int | None = None,
    **environment: str,
) -> Iterator[Service]:
    """`ciris-billing serve` with `database`, on a free port or this one, until the end of the
    block. With BILLING_TEST_POOLER=pgbouncer it reaches the database through a PgBouncer in
    transaction mode."""
    port = port or free_port()
    with _way_to(database, user) as way:
        process = Process(
            [BILLING, "serve", "--port", str(port), "--workers", str(workers)],
            {**way, **environment},
        ).start()
        base_url = f"http://127.0.0.1:{port}"
        try:
            wait_until_healthy(base_url, process)
            # /health answers once one worker is up; tests count on all of them.
            wait_for(lambda: len(worker_pids(process)) >= workers, "all workers")
            yield Service(database, process, base_url, database.create_key())
        finally:
            process.stop()


@contextlib.contextmanager
def _way_to(database: Database, user: str) -> Iterator[dict[str, str]]:
    if os.environ.get("BILLING_TEST_POOLER") != "pgbouncer":
        yield {"DATABASE_URL": database.dsn(user)}
        return
    from tests.pgbouncer import running_pgbouncer, want_pgbouncer

    want_pgbouncer()
    with running_pgbouncer(database.dsn()) as bouncer:
        yield {"DATABASE_URL": bouncer.dsn(database.name, user), "DATABASE_POOLER": "transaction"}


def wait_until_healthy(base_url: str, process: Process, timeout: float = 20) -> None:
    """Returns once /health answers 200; raises with the program's output if it does not."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.process.poll() is not None:
            break
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{base_url}/health", timeout=2, verify=False).status_code == 200:
                return
        time.sleep(0.02)
    raise AssertionError(f"the server did not become healthy:\n{process.output[-5000:]}")


def unique(prefix: str = "user") -> str:
    """An external id that nobody else uses."""
    return f"{prefix}-{secrets.token_hex(6)}"


def identity(external_id: str | None = None) -> dict[str, str]:
    """The identity block of a request."""
    return {"oauth_provider": "oauth:google", "external_id": external_id or unique()}


def charge_body(external_id: str, amount: int = 1, **fields: Any) -> dict[str, Any]:
    """A charge request."""
    return {
        **identity(external_id),
        "amount_minor": amount,
        "currency": "USD",
        "description": "one use",
        **fields,
    }


def credit_body(external_id: str, amount: int = 1, **fields: Any) -> dict[str, Any]:
    """A credit request."""
    return {**charge_body(external_id, amount), "transaction_type": "grant", **fields}


def worker_pids(process: Process) -> set[int]:
    """The worker processes of a running `serve` or `dev`."""
    found = set()
    for child in psutil.Process(process.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since we looked
            if child.status() != psutil.STATUS_ZOMBIE and child.name() != "postgres":
                found.add(child.pid)
    return found


def has_two_workers_beside(process: Process, gone: int) -> bool:
    """Whether two workers run, not counting the one that was ended."""
    return len(worker_pids(process) - {gone}) == 2


def wait_for(condition: Callable[[], Any], what: str, timeout: float = 20) -> Any:
    """Returns the first true value of `condition`; raises AssertionError when there is none in
    time."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(0.02)
    return value


@contextlib.contextmanager
def held_account(database: Database, external_id: str) -> Iterator[psycopg.Connection[Any]]:
    """Another session's open transaction that holds the account's row. It ends with the block, or
    earlier by a rollback."""
    with psycopg.connect(database.dsn()) as connection:
        held = connection.execute(
            "SELECT 1 FROM billing_data.accounts WHERE external_id = %s FOR UPDATE", (external_id,)
        )
        assert held.fetchone() is not None
        yield connection
        connection.rollback()


def copy_tree(tree: Path, target: Path) -> Path:
    """A copy of the working tree as git sees it: with changes that are not committed, without
    ignored files. File times are kept."""
    names = subprocess.run(
        ["git", "-C", tree, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.split("\0")
    for name in names:
        # Without files that were deleted and not committed yet.
        if name and (tree / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tree / name, target / name)
    return target


def make_environment(folder: Path, *paths: Path) -> Path:
    """A virtual environment that finds this one's packages and, before them, `paths`; returns its
    folder bin/. Nothing is installed in it, so making it needs no network and little time. It does
    not see the editable install of the project in this environment."""
    venv.create(folder, symlinks=True)
    site = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    lines = [str(path) for path in (*paths, sysconfig.get_path("purelib"))]
    (site / "packages.pth").write_text("\n".join(lines) + "\n")
    return folder / "bin"
