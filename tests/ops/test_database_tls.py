"""TLS between servers and database: `sslmode=verify-full` in the URL is enough, for `serve` and for
`migrate`, and nothing is sent to a database that cannot prove its identity."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psycopg
import pytest

from server.embedded import find_binaries
from tests.nginx import make_certificate
from tests.support import (
    BILLING,
    Process,
    as_postgres,
    charge_body,
    clean_environment,
    free_port,
    identity,
    wait_for,
    wait_until_healthy,
    want_postgresql,
)

NAMES = "localhost"  # the name in the certificate, beside 127.0.0.1
ANOTHER_NAME = "127.0.0.2"


@dataclass(frozen=True)
class TlsDatabase:
    """A PostgreSQL that listens on TCP. `authority` has signed its certificate; `stranger` has
    not."""

    folder: Path
    port: int

    @property
    def authority(self) -> Path:
        return self.folder / "certificate.pem"

    @property
    def stranger(self) -> Path:
        return self.folder / "stranger" / "certificate.pem"

    def url(self, user: str = "postgres", host: str = NAMES, **options: object) -> str:
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"postgresql://{user}@{host}:{self.port}/postgres?{query}"

    def verified(self, user: str = "postgres") -> str:
        """As docs/deploy.md writes it."""
        return self.url(user, sslmode="verify-full", sslrootcert=self.authority)

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Runs a statement over the socket, as the superuser."""
        url = f"postgresql://postgres@/postgres?host={self.folder}&port={self.port}"
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def _running(folder: Path) -> Iterator[TlsDatabase]:
    database = TlsDatabase(folder, free_port())
    arguments = (
        *("-cfsync=off", f"-cport={database.port}", f"-cunix_socket_directories={folder}"),
        *(f"-clisten_addresses=127.0.0.1,{ANOTHER_NAME}", "-clog_connections=on"),
    )
    postgres = find_binaries(15) / "postgres"
    process = Process(as_postgres(postgres, "-D", folder / "data", *arguments)).start()
    try:

        def answers() -> bool:
            assert process.process.poll() is None, process.output
            with contextlib.suppress(psycopg.OperationalError):
                return database.execute("SELECT 1") == [(1,)]
            return False

        wait_for(answers, "PostgreSQL")
        yield database
    finally:
        process.stop()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A cluster that accepts logins without a password over TLS only, and its certificate."""
    want_postgresql(15)
    with tempfile.TemporaryDirectory(prefix="ciris-test-tls-") as name:
        folder = Path(name)
        (folder / "stranger").mkdir()
        for place in (folder, folder / "stranger"):
            make_certificate(place)
        if os.geteuid() == 0:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, "postgres", "postgres")
        (folder / "key.pem").chmod(0o600)
        initdb = (find_binaries(15) / "initdb", "-D", folder / "data", "-U", "postgres", "-N")
        subprocess.run(as_postgres(*initdb), check=True, stdout=subprocess.DEVNULL)
        (folder / "data" / "pg_hba.conf").write_text(
            "local all all trust\nhostssl all all 127.0.0.0/8 trust\n"
        )
        with (folder / "data" / "postgresql.conf").open("a") as settings:
            settings.write(
                f"ssl = on\nssl_cert_file = '{folder}/certificate.pem'\n"
                f"ssl_key_file = '{folder}/key.pem'\n"
            )
        yield folder


@pytest.fixture(scope="module")
def database(folder: Path) -> Iterator[TlsDatabase]:
    """That cluster, migrated over TLS, with a login for the servers."""
    with _running(folder) as database:
        done = _billing("migrate", MIGRATION_DATABASE_URL=database.verified())
        assert done.returncode == 0, done.stderr
        database.execute("CREATE ROLE web LOGIN IN ROLE billing_server")
        yield database


def _billing(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BILLING, *arguments],
        env={**clean_environment(), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _arguments(command: str) -> list[str]:
    return ["--port", str(free_port())] if command == "serve" else []


def test_servers_and_commands_work_over_tls_alone(database: TlsDatabase) -> None:
    made = _billing("keys", "create", "agent", DATABASE_URL=database.verified())
    assert made.returncode == 0, made.stderr
    key = next(word for word in made.stdout.split() if word.startswith("cbk_"))
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    environment = {
        "DATABASE_URL": database.verified("web"),
        "DATABASE_READ_URL": database.verified("web"),
    }
    process = Process([BILLING, "serve", "--port", str(port)], environment).start()
    try:
        wait_until_healthy(address, process)
        with httpx2.Client(base_url=address, headers={"X-API-Key": key}, verify=False) as client:
            for path, body in (("credits/check", identity("ada")), ("charges", charge_body("ada"))):
                assert client.post(f"/v1/billing/{path}", json=body).status_code in (200, 201)
        sessions = database.execute(
            "SELECT s.ssl, s.version FROM pg_stat_ssl AS s"
            " INNER JOIN pg_stat_activity AS a USING (pid) WHERE a.usename = 'web'"
        )
        assert sessions
        assert set(sessions) == {(True, "TLSv1.3")}
    finally:
        process.stop()


@pytest.mark.parametrize("command", ["serve", "migrate", "verify"])
@pytest.mark.parametrize("fault", ["stranger", "another name", "in the clear"])
def test_a_database_that_is_not_the_one_meant_is_not_talked_to(
    database: TlsDatabase, command: str, fault: str
) -> None:
    url = {
        "stranger": database.url(sslmode="verify-full", sslrootcert=database.stranger),
        "another name": database.url(
            host=ANOTHER_NAME, sslmode="verify-full", sslrootcert=database.authority
        ),
        "in the clear": database.url(sslmode="disable"),
    }[fault]
    done = _billing(command, *_arguments(command), DATABASE_URL=url)
    assert done.returncode == 1
    assert "database" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_without_tls_is_not_talked_to(database: TlsDatabase) -> None:
    rules = database.folder / "data" / "pg_hba.conf"
    strict = rules.read_text()

    def set_tls(state: str) -> None:
        database.execute(f"ALTER SYSTEM SET ssl = {state}")
        database.execute("SELECT pg_reload_conf()")
        wait_for(lambda: database.execute("SHOW ssl") == [(state,)], f"TLS to be {state}")

    rules.write_text(strict + "host all all 127.0.0.0/8 trust\n")
    set_tls("off")
    try:
        assert _billing("verify", DATABASE_URL=database.url(sslmode="prefer")).returncode == 0
        for command in ("serve", "migrate", "verify"):
            done = _billing(command, *_arguments(command), DATABASE_URL=database.verified())
            assert done.returncode == 1
            assert "database" in done.stderr
    finally:
        rules.write_text(strict)
        set_tls("on")
