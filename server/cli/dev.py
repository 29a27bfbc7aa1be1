"""`ciris-billing dev`: everything on one machine in one folder: an embedded PostgreSQL, the
schema, a first API key, the server. For trying and developing, not for production."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import psycopg
from psycopg import sql

from server.api_key_secret import verify_secret
from server.cli.keys import create_key
from server.cli.output import CommandFailed
from server.cli.serve import run_server
from server.config import ServeConfig, SettingsSeed, load_migration_config, load_serve_config
from server.embedded import Cluster, EmbeddedError, find_binaries, growing_settings
from server.staff.admin_token import hashed

_DATABASE = "billing"
_SERVER_LOGIN = "billing_web"
_LOCK_PATIENCE = 10.0


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "dev",
        help="run everything here: PostgreSQL, schema, a first key, the server",
        description="Ctrl-C stops all of it; running it again resumes on the same data.",
    )
    parser.add_argument("--port", type=int, help="port to listen on (PORT, default 8000)")
    parser.add_argument("--workers", type=int, help="worker processes (default 1)")
    parser.add_argument(
        "--data-dir", type=Path, default=Path(".data"), help="everything is kept below (.data)"
    )
    parser.add_argument(
        "--postgres", type=int, choices=(16, 18), default=18, help="PostgreSQL major version"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    directory: Path = options.data_dir.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    for name in ("DATABASE_URL", "MIGRATION_DATABASE_URL"):  # dev brings its own database
        for given in (name, f"{name}_FILE"):
            environment.pop(given, None)
            os.environ.pop(given, None)
    for name, value in (("PORT", options.port), ("WORKERS", options.workers)):
        if value is not None:
            environment[name] = str(value)
    environment.setdefault("ACCESS_LOG_SAMPLE", "1")
    with _only_one(directory / "dev.lock"):
        try:
            binaries = find_binaries(options.postgres)
            settings = growing_settings(binaries)
            cluster = Cluster(directory / "postgres", binaries, settings=settings)
            cluster.start()
        except EmbeddedError as error:
            raise CommandFailed(str(error)) from error
        try:
            return _serve(directory, cluster, environment)
        finally:
            (directory / "dev.json").unlink(missing_ok=True)
            with contextlib.suppress(KeyboardInterrupt):
                cluster.stop()


def _serve(directory: Path, cluster: Cluster, environment: dict[str, str]) -> int:
    from server import migrate

    _create_database(cluster.dsn("postgres"))
    owner_dsn = cluster.dsn(_DATABASE)
    environment["DATABASE_URL"] = owner_dsn
    _, seed = load_migration_config(environment)
    _migrate(migrate, owner_dsn, seed)
    _create_login(owner_dsn)
    os.environ["DATABASE_URL"] = owner_dsn  # for create_key
    key = _first_key(directory / "api_key")

    for name in ("ENCRYPTION_KEY", "ADMIN_JWT_SECRET"):
        if not environment.get(name) and not environment.get(f"{name}_FILE"):
            environment[f"{name}_FILE"] = str(_secret(directory / name.lower()))
    environment["DATABASE_URL"] = cluster.dsn(_DATABASE, _SERVER_LOGIN)
    config = load_serve_config(environment)
    assert config.staff is not None
    config = replace(config, staff=replace(config.staff, sign_in_links=True))
    base_url = f"http://{config.host}:{config.port}"
    facts = {
        "base_url": base_url,
        "api_key": key,
        "dsn": owner_dsn,
        "admin_url": f"{base_url}/admin",
    }

    def ready() -> None:
        # Good for ten minutes from now, once.
        facts["sign_in_url"] = f"{base_url}/admin/sign-in/{_sign_in_ticket(owner_dsn)}"
        _write_private(directory / "dev.json", orjson.dumps(facts, option=orjson.OPT_INDENT_2))
        _print_welcome(config, facts, cluster)

    return run_server(config, on_ready=ready, scratch=directory)


def _migrate(migrate: Any, dsn: str, seed: SettingsSeed) -> None:
    try:
        migrate.migrate(dsn, seed)
    except migrate.MigrationError as error:
        raise CommandFailed(str(error)) from error


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """One dev per folder. The lock goes with the process; after a kill -9 its workers hold it for
    the second they need to notice."""
    with path.open("a") as file:
        deadline = time.monotonic() + _LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CommandFailed(
                        f"another `ciris-billing dev` is using {path.parent}:"
                        " stop it, or give this one --data-dir and --port of its own"
                    ) from None
                time.sleep(0.1)
        yield


def _create_database(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(
            "SELECT 1 FROM pg_database WHERE datname = %s", (_DATABASE,)
        ).fetchone()
        if row is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_DATABASE)))


def _create_login(dsn: str) -> None:
    """The login the server uses: a member of billing_server and nothing else, as in production."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(
            "SELECT 1 FROM pg_roles WHERE rolname = %s", (_SERVER_LOGIN,)
        ).fetchone()
        if row is None:
            login = sql.Identifier(_SERVER_LOGIN)
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN IN ROLE billing_server").format(login))


def _first_key(path: Path) -> str:
    """The key of the last time, if it still works; else a new one."""
    from server.cli.database import call_function

    if path.exists():
        text = path.read_text(encoding="utf-8").strip()
        rows = call_function(
            "SELECT * FROM billing.find_api_key(p_key_prefix => %(prefix)s)", prefix=text[:20]
        )
        if rows and verify_secret(rows[0]["key_hash"], text):
            return text
    key = str(create_key("dev", "test")["plaintext_key"])
    _write_private(path, key.encode())
    return key


def _sign_in_ticket(dsn: str) -> str:
    """A ticket that signs in, once, an administrator made for the purpose."""
    ticket = secrets.token_urlsafe(32)
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT admin_email_domain FROM billing.get_settings()").fetchone()
        assert row is not None
        email = f"dev@{row[0]}"
        connection.execute(
            "SELECT billing.add_admin(p_email => %s, p_full_name => 'Developer', p_role => 'admin')"
            " WHERE NOT EXISTS (SELECT FROM billing.list_admins() AS a WHERE a.email = %s)",
            (email, email),
        )
        connection.execute(
            "SELECT billing.create_sign_in_link(p_email => %s, p_ticket_hash => %s)",
            (email, hashed(ticket)),
        )
    return ticket


def _secret(path: Path) -> Path:
    """The file of a secret that is made once."""
    if not path.exists():
        _write_private(path, secrets.token_urlsafe(48).encode())
    return path


def _write_private(path: Path, content: bytes) -> None:
    """Replaces `path` in one step, readable by its owner only."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    temporary.replace(path)


def _print_welcome(config: ServeConfig, facts: dict[str, str], cluster: Cluster) -> None:
    psql = shutil.which("psql") or str(cluster.binaries / "psql")
    body = '{"oauth_provider": "oauth:google", "external_id": "user-1"}'
    print(
        f"""
CIRIS Billing is running at {facts["base_url"]}

  API key   {facts["api_key"]}

  Try it    curl -s {facts["base_url"]}/v1/billing/credits/check \\
              -H 'X-API-Key: {facts["api_key"]}' \\
              -H 'Content-Type: application/json' \\
              -d '{body}'

  Console   {facts["sign_in_url"]}
            (signs you in once, within ten minutes)

  API       {facts["base_url"]}/docs
  psql      {psql} '{facts["dsn"]}'

            billing.help() lists what to call

Ctrl-C stops it; `make run` again resumes.
""",
        flush=True,
    )
