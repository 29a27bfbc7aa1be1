"""The command `ciris-billing` and its configuration: every fault is named, with advice."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from server.embedded import Cluster, find_binaries
from tests.ops.command_line import SECRET, refused, run
from tests.support import (
    BILLING,
    Database,
    Process,
    TestCluster,
    free_port,
    running_service,
    wait_until_healthy,
)

USING_THE_DATABASE = [
    ("serve",),
    ("migrate",),
    ("migrate", "--status"),
    ("verify",),
    ("keys", "create", "agent"),
    ("keys", "list"),
    ("keys", "rotate", "cbk_test_00000000000"),
    ("keys", "revoke", "cbk_test_00000000000"),
    ("admins", "add", "ada@example.com"),
    ("admins", "list"),
    ("admins", "token", "ada@example.com"),
    ("admins", "logout", "ada@example.com", "--reason", "a test"),
    ("admins", "invite", "ada@example.com", "--reason", "a test"),
    ("payments", "problems"),
    ("payments", "resolve", "pi_1", "--how", "other", "--reason", "a test"),
    ("payments", "reopen", "pi_1", "--reason", "a test"),
    ("payments", "resolve-warning", "issfr_1", "--reason", "a test"),
    ("providers", "list"),
    ("providers", "set", "stripe", "--enable"),
    ("providers", "test"),
    ("providers", "reencrypt"),
    ("reconcile", "stripe", "--since", "2026-11-01"),
]


SECRETS = {"ADMIN_JWT_SECRET": SECRET, "ENCRYPTION_KEY": SECRET}  # what commands need besides


HUNTER = "hunter2hunter2"  # a password that no output may show


def url(user: str, password: str, host: str = "127.0.0.1", port: object = 5432) -> str:
    return f"postgresql://{user}:{password}@{host}:{port}/billing"


# Configuration


def test_every_fault_of_the_configuration_is_named_at_once() -> None:
    wrong = {
        "DATABASE_URL": f"mysql://root:{HUNTER}@db/billing",
        "ADMIN_JWT_SECRET": HUNTER,
        "PORT": f"{HUNTER}",
        "WORKERS": "0",
        "LOG_LEVEL": HUNTER,
        "ACCESS_LOG_SAMPLE": "nan",
        "MAX_BODY_BYTES": "1e3.5",
        "MAX_QUEUE": "12.5",
        "STATEMENT_TIMEOUT": "-1",
        "LOCK_TIMEOUT": "inf",
        "DATABASE_POOLER": HUNTER,
        "DATABASE_READ_URL": f"mysql://root:{HUNTER}@db/billing",
        "READ_MAX_LAG": "0",
        "PURCHASE_URL": f"javascript:alert('{HUNTER}')",
    }
    done = run("serve", environment=wrong)
    message = refused(done, 2)
    named = re.findall(r"^  - (\w+)", message, re.MULTILINE)
    assert sorted(named) == sorted(wrong)
    assert HUNTER not in done.stdout + message


def test_every_fault_of_a_first_deploys_settings_is_named_at_once() -> None:
    wrong = {
        "MIGRATION_DATABASE_URL": f"root:{HUNTER}@db/billing",
        "FREE_USES": "-1",
        "PACK_USES": "0",
        "PACK_PRICE_MINOR": "five",
        "PACK_CURRENCY": "dollars",
        "ADMIN_EMAIL_DOMAIN": f"@{HUNTER}",
    }
    message = refused(run("migrate", environment=wrong), 2)
    assert sorted(re.findall(r"^  - (\w+)", message, re.MULTILINE)) == sorted(wrong)
    assert HUNTER not in message


@pytest.mark.parametrize("command", USING_THE_DATABASE, ids=" ".join)
def test_no_database_url_is_a_fault_that_is_explained(command: tuple[str, ...]) -> None:
    message = refused(run(*command, environment=SECRETS), 2)
    assert "DATABASE_URL is not set" in message
    assert "postgresql://" in message


def test_options_are_checked_like_the_variables_they_stand_for(database: Database) -> None:
    environment = {"DATABASE_URL": database.dsn("t_web")}
    done = run("serve", "--port", "70000", "--workers", "0", environment=environment)
    message = refused(done, 2)
    assert "PORT" in message
    assert "WORKERS" in message


def test_the_database_url_may_stand_in_a_file(database: Database, tmp_path: Path) -> None:
    secret = tmp_path / "database-url"
    secret.write_text(f"{database.dsn()}\n")
    environment = {"DATABASE_URL_FILE": str(secret)}
    for command in (("keys", "list"), ("migrate", "--status"), ("verify",)):
        assert run(*command, environment=environment).returncode == 0
    port = free_port()
    server = Process([BILLING, "serve", "--port", str(port)], environment).start()
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}", server)
    finally:
        assert server.stop() == 0


def test_a_secret_file_that_is_of_no_use_is_named(database: Database, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "absent", tmp_path, empty, binary):
        message = refused(run("keys", "list", environment={"DATABASE_URL_FILE": str(path)}), 2)
        assert "DATABASE_URL_FILE" in message
    both = {"DATABASE_URL_FILE": str(empty), "DATABASE_URL": database.dsn()}
    assert "keep one" in refused(run("keys", "list", environment=both), 2)


@pytest.fixture(scope="module")
def odd_login(cluster: TestCluster, module_database: Database) -> tuple[str, str]:
    """An owner's login whose name and password need encoding in a URL."""
    user, password = "t odd@%:/?#[]", "p@s%s:/w?o#r[d]% 100&=+ü"
    with psycopg.connect(cluster.dsn("postgres"), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}").format(
                sql.Identifier(user), sql.Literal(password)
            )
        )
    return user, password


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
def test_every_usual_form_of_a_database_url_is_understood(
    module_database: Database, odd_login: tuple[str, str], scheme: str
) -> None:
    user, password = (quote(part, safe="") for part in odd_login)
    database_part = module_database.dsn().partition("@")[2]
    environment = {"DATABASE_URL": f"{scheme}://{user}:{password}@{database_part}"}
    for command in (("keys", "create", scheme), ("migrate",), ("migrate", "--status")):
        done = run(*command, environment=environment)
        assert done.returncode == 0, done.stderr
    made_by = "SELECT created_by_role FROM billing.list_api_keys() WHERE name = %s"
    assert module_database.value(made_by, scheme) == odd_login[0]
    port = free_port()
    server = Process([BILLING, "serve", "--port", str(port)], environment).start()
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}", server)
    finally:
        assert server.stop() == 0
    assert password not in server.last_output
    assert odd_login[1] not in server.last_output


@pytest.mark.parametrize("command", USING_THE_DATABASE, ids=" ".join)
def test_a_database_that_is_down_is_reported_with_advice(command: tuple[str, ...]) -> None:
    environment = {"DATABASE_URL": url("billing", HUNTER, port=free_port()), **SECRETS}
    done = run(*command, environment=environment)
    message = refused(done, 1)
    assert "DATABASE_URL" in message  # where to look
    assert HUNTER not in done.stdout + message


@pytest.mark.parametrize("command", [("serve",), ("migrate",), ("keys", "list")], ids=" ".join)
@pytest.mark.parametrize(
    "broken",
    [
        url("billing", HUNTER, port="not-a-port"),
        url("billing", HUNTER, host="[::1"),
        url("billing", f"{HUNTER}%zz"),
        url("billing", f"{HUNTER}#1"),
        f"postgresql://billing:{HUNTER}@127.0.0.1/billing?sslmode=frobnicate",
        f"postgresql://billing:{HUNTER}@127.0.0.1/billing?frobnicate=1",
    ],
    ids=["port", "host", "percent", "hash", "value", "option"],
)
def test_a_malformed_database_url_is_reported_without_the_password(
    command: tuple[str, ...], broken: str
) -> None:
    done = run(*command, environment={"DATABASE_URL": broken})
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
    assert HUNTER not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "command",
    [command for command in USING_THE_DATABASE if command[0] != "migrate"],
    ids=" ".join,
)
def test_a_database_that_is_not_migrated_is_reported_with_advice(
    cluster: TestCluster, command: tuple[str, ...]
) -> None:
    with cluster.database(template=None) as empty:
        environment = {"DATABASE_URL": empty.dsn(), **SECRETS}
        message = refused(run(*command, environment=environment), 1)
    assert "ciris-billing migrate" in message


def test_a_brand_new_postgresql_is_told_from_one_that_is_down(tmp_path: Path) -> None:
    """A new PostgreSQL does not even have the roles that `migrate` makes."""
    new = Cluster(tmp_path / "pg", find_binaries(18), settings={"fsync": "off"})
    new.start()
    try:
        environment = {"DATABASE_URL": new.dsn()}
        message = refused(run("serve", environment=environment), 1)
        assert "ciris-billing migrate" in message
        assert "is the database up" not in message.lower()
    finally:
        new.stop()


def test_a_port_in_use_is_reported(module_database: Database) -> None:
    with running_service(module_database) as service:
        port = service.base_url.rpartition(":")[2]
        environment = {"DATABASE_URL": module_database.dsn("t_web")}
        message = refused(run("serve", "--port", port, environment=environment), 1)
        assert port in message
        assert "in use" in message
        other = re.search(r"this works: (\S*ciris-billing serve --port (\d+))\n", message)
        assert other is not None
        assert int(other[2]) > int(port)
        with service.client() as client:
            assert client.get("/health").status_code == 200
