"""`ciris-billing dev`: everything on one machine in one folder: an embedded PostgreSQL, the schema,
a first API key and the server. It is for trying and developing, not for production."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from server.cli.admins import create_sign_in_link
from server.cli.database import call_function
from server.cli.fake_stripe import SETTINGS as FAKE_STRIPE
from server.cli.fake_stripe import running_fake_stripe
from server.cli.keys import create_key
from server.cli.output import CommandFailed
from server.cli.port import require_free_port
from server.cli.running_dev import DATA_DIRECTORY, FACTS, LOCK, SECRETS, secret_file
from server.cli.sample_data import make_sample_data
from server.cli.serve import run_server
from server.config import ServeConfig, SettingsSeed, load_migration_config, load_serve_config
from server.embedded import Cluster, EmbeddedError, find_binaries, growing_settings
from server.encryption import Cipher, mask
from server.payments.settings import seal_settings

_STEPS = 4
# A placeholder until the database exists: the rest of the configuration is checked first.
_NO_DATABASE = "postgresql:///"
_DATABASE = "billing"
_SERVER_LOGIN = "billing_web"
_LOCK_PATIENCE = 10.0
_PORT_PATIENCE = 2.0


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
    parser.add_argument(
        "--sample-data", action="store_true", help="add a few users and what they did"
    )
    parser.add_argument(
        "--fake-stripe",
        action="store_true",
        help="sell through a fake Stripe on this machine (needs the extra fake-stripe)",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    directory: Path = options.data_dir.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    with _only_one(directory / LOCK), contextlib.ExitStack() as at_end:
        environment = _environment(options, directory)
        config = _config(environment, _NO_DATABASE)
        # After a dev was killed, its workers hold the port until they notice.
        require_free_port(config.host, config.port, patience=_PORT_PATIENCE)
        if options.fake_stripe:
            environment["STRIPE_API_BASE"] = at_end.enter_context(
                running_fake_stripe(f"http://{config.host}:{config.port}")
            )
        _say(1, f"starting PostgreSQL {options.postgres} in {directory / 'postgres'}")
        cluster = at_end.enter_context(_running_cluster(directory, options.postgres))
        at_end.callback((directory / FACTS).unlink, missing_ok=True)
        return _serve(options, directory, cluster, environment)


def _environment(options: argparse.Namespace, directory: Path) -> dict[str, str]:
    """The environment of the server: that of this process without its database, with the options,
    and with secrets that are kept in the folder."""
    for name in ("DATABASE_URL", "MIGRATION_DATABASE_URL"):  # dev brings its own database
        for given in (name, f"{name}_FILE"):
            os.environ.pop(given, None)
    environment = dict(os.environ)
    for name, value in (("PORT", options.port), ("WORKERS", options.workers)):
        if value is not None:
            environment[name] = str(value)
    environment.setdefault("ACCESS_LOG_SAMPLE", "1")
    for name in SECRETS:
        if not environment.get(name) and not environment.get(f"{name}_FILE"):
            environment[f"{name}_FILE"] = str(_secret(secret_file(directory, name)))
    return environment


def _config(environment: dict[str, str], dsn: str, sign_in_command: str = "") -> ServeConfig:
    config = load_serve_config({**environment, "DATABASE_URL": dsn})
    assert config.staff is not None
    return replace(config, staff=replace(config.staff, sign_in_command=sign_in_command))


def _link_command(directory: Path) -> str:
    """The command that makes another sign-in link, for a shell in any folder."""
    return f"cd {shlex.quote(str(directory))} && {_own_command()} admins link {_developer()}"


def _own_command() -> str:
    return shlex.quote(str(Path(sys.argv[0]).absolute()))


@contextlib.contextmanager
def _running_cluster(directory: Path, version: int) -> Iterator[Cluster]:
    try:
        binaries = find_binaries(version)
        settings = growing_settings(binaries)
        cluster = Cluster(directory / "postgres", binaries, settings=settings)
        cluster.start()
    except EmbeddedError as error:
        raise CommandFailed(str(error)) from error
    try:
        yield cluster
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            cluster.stop()


def _serve(
    options: argparse.Namespace, directory: Path, cluster: Cluster, environment: dict[str, str]
) -> int:
    owner_dsn = cluster.dsn(_DATABASE)
    _create_database(cluster.dsn("postgres"))
    _, seed = load_migration_config({**environment, "DATABASE_URL": owner_dsn})
    _say(2, "bringing the database to this release")
    _migrate(owner_dsn, seed)
    _create_login(owner_dsn)
    os.environ["DATABASE_URL"] = owner_dsn  # for the database calls of commands
    server_dsn = cluster.dsn(_DATABASE, _SERVER_LOGIN)
    config = _config(environment, server_dsn, _link_command(directory))
    _say(3, "preparing an API key" + (" and sample data" if options.sample_data else ""))
    base_url = f"http://{config.host}:{config.port}"
    facts = {
        "base_url": base_url,
        "api_key": _first_key(directory / "api_key"),
        "dsn": owner_dsn,
        "admin_url": f"{base_url}/admin",
    }
    if options.sample_data:
        make_sample_data()
    _set_up_fake_stripe(config, wanted=options.fake_stripe)
    if options.fake_stripe:
        facts["stripe_api_base"] = environment["STRIPE_API_BASE"]

    def ready() -> None:
        # The link works once, within ten minutes from now.
        facts["sign_in_url"] = create_sign_in_link(base_url, _developer())["sign_in_url"]
        _write_private(directory / FACTS, json.dumps(facts, indent=2).encode())
        _print_welcome(options, facts, cluster)

    _say(4, f"starting the server at {base_url}")
    return run_server(config, on_ready=ready, scratch=directory)


def _say(step: int, what: str) -> None:
    print(f"Step {step} of {_STEPS}: {what}", flush=True)


def _migrate(dsn: str, seed: SettingsSeed) -> None:
    from server import migrate

    def show(text: str) -> None:
        print(f"\r  {text[:76]:76}", end="", flush=True)

    is_watched = sys.stdout.isatty()
    try:
        migrate.migrate(dsn, seed, show if is_watched else lambda _: None)
    except migrate.MigrationError as error:
        raise CommandFailed(str(error)) from error
    finally:
        if is_watched:
            print(f"\r{'':78}\r", end="", flush=True)


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Allows one dev per folder. The lock ends with the process; after a kill -9 the workers hold
    it for the second they need to notice."""
    with path.open("a") as file:
        deadline = time.monotonic() + _LOCK_PATIENCE
        waiting = False
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
                if not waiting:
                    print(f"Waiting for the `dev` that uses {path.parent} to end", flush=True)
                    waiting = True
                time.sleep(0.1)
        yield


def _create_database(dsn: str) -> None:
    import psycopg
    from psycopg import sql

    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(
            "SELECT 1 FROM pg_database WHERE datname = %s", (_DATABASE,)
        ).fetchone()
        if row is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_DATABASE)))


def _create_login(dsn: str) -> None:
    """Creates the login that the server uses: a member of billing_server and nothing else, as in
    production."""
    import psycopg
    from psycopg import sql

    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(
            "SELECT 1 FROM pg_roles WHERE rolname = %s", (_SERVER_LOGIN,)
        ).fetchone()
        if row is None:
            login = sql.Identifier(_SERVER_LOGIN)
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN IN ROLE billing_server").format(login))


def _first_key(path: Path) -> str:
    """Returns the key of the last run if it still works, and otherwise a new one."""
    from server.api_key_secret import verify_secret

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


def _developer() -> str:
    """Returns the address of an administrator that is made for this purpose."""
    domain = call_function("SELECT admin_email_domain FROM billing.get_settings()")[0]
    email = f"dev@{domain['admin_email_domain']}"
    call_function(
        "SELECT billing.add_admin(p_email => %(email)s, p_full_name => 'Developer',"
        " p_role => 'admin')"
        " WHERE NOT EXISTS (SELECT FROM billing.list_admins() AS a WHERE a.email = %(email)s)",
        email=email,
    )
    return email


def _set_up_fake_stripe(config: ServeConfig, *, wanted: bool) -> None:
    """Sets up selling through the fake Stripe, or ends it. Keys that a user has set are not
    touched."""
    rows = call_function("SELECT * FROM billing.get_provider_config(p_provider_type => 'stripe')")
    stored = rows[0]["config_data"].get("api_key") if rows else None
    is_fake = isinstance(stored, dict) and stored.get("masked") == mask(FAKE_STRIPE["api_key"])
    if wanted and stored and not is_fake:
        raise CommandFailed(
            "Stripe is set up in this folder with keys of your own: give --fake-stripe another"
            " folder with --data-dir"
        )
    if not wanted and not (is_fake and rows[0]["is_active"]):
        return
    given = FAKE_STRIPE if wanted else {}
    sealed = seal_settings("stripe", given, Cipher(config.encryption_keys))
    call_function(
        "SELECT 1 FROM billing.set_provider_config(p_provider_type => 'stripe',"
        " p_config_data => %(config)s, p_is_active => %(wanted)s)",
        config=json.dumps(sealed),
        wanted=wanted,
    )


def _secret(path: Path) -> Path:
    """Returns the file of a secret, which is made once."""
    if not path.exists():
        _write_private(path, secrets.token_urlsafe(48).encode())
    return path


def _write_private(path: Path, content: bytes) -> None:
    """Replaces `path` in one step with a file that only its owner can read."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    temporary.replace(path)


def _where(directory: Path) -> str:
    """Where other commands find this `dev`: in the folder of its data, or in the one above."""
    if directory.resolve() == DATA_DIRECTORY.resolve():
        return ""
    return f", in {shlex.quote(str(directory.resolve()))}"


def _print_welcome(options: argparse.Namespace, facts: dict[str, str], cluster: Cluster) -> None:
    psql = shutil.which("psql") or str(cluster.binaries / "psql")
    body = '{"oauth_provider": "oauth:google", "external_id": "user-1"}'
    print(
        f"""
CIRIS Billing is running at {facts["base_url"]}

  API key   {facts["api_key"]}

  Try it    {_curl(facts, "credits/check", body)}
{_how_to_buy(facts) if options.fake_stripe else ""}
  Console   {facts["sign_in_url"]}
            (signs you in once, within ten minutes; for another link{_where(options.data_dir)}:
            {_own_command()} admins link {_developer()})

  API       {facts["base_url"]}/docs
  psql      {psql} '{facts["dsn"]}'

            billing.help() lists what to call

Ctrl-C stops it; the same command again resumes on the same data.
""",
        flush=True,
    )


def _curl(facts: dict[str, str], path: str, body: str) -> str:
    return f"""curl -s {facts["base_url"]}/v1/billing/{path} \\
              -H 'X-API-Key: {facts["api_key"]}' \\
              -H 'Content-Type: application/json' \\
              -d '{body}'"""


def _how_to_buy(facts: dict[str, str]) -> str:
    body = (
        '{"oauth_provider": "oauth:google", "external_id": "user-1",'
        ' "customer_email": "user-1@example.com"}'
    )
    return f"""
  Buy       {_curl(facts, "purchases", body)}

  Pay       curl -s -X POST {facts["stripe_api_base"]}/_config/pay/PAYMENT_ID
            (the payment_id of that answer; the credits are there a second later)
"""
