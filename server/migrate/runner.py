"""Applies and rolls back the yoyo steps. A lock on a table that only its owner may lock keeps two
deploys apart. (yoyo's own lock is a row, which a killed deploy leaves behind.)"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, LiteralString

import psycopg
import yoyo
from yoyo.migrations import MigrationList

from server.config import SettingsSeed
from server.migrate.definitions import load_definitions
from server.resources import resource_folder, step_files

_LOCK_PATIENCE_SECONDS = 60.0
_DEPLOY_TABLE: LiteralString = "public._billing_deploy"
_LAST_STEP_OF_OLD_SERVICE = "2025_10_21_0008_paid_credits"
_STEP_OF_ADOPTION = "2026_11_26_0060_adoption"
Progress = Callable[[str], None]


class MigrationError(Exception):
    """The database could not be brought to the wanted state. The failing step leaves nothing
    behind.
    """


@dataclass(frozen=True, slots=True)
class StepStatus:
    """One migration step and whether the database has it."""

    step: str
    applied: bool


@dataclass(frozen=True, slots=True)
class OpenDoor:
    """Something that a login may do without need, and the statement that ends it."""

    door: str
    mend: str


@dataclass(frozen=True, slots=True)
class KeptSetting:
    """A setting of the environment that has no effect, because the first deploy stored another
    value in the database; `change` is the command that changes the stored value."""

    name: str
    given: str
    kept: str
    change: str


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """The result of a run: the steps in order, the stale definitions dropped, whether settings were
    seeded, the settings that were not because they were seeded before, and what the run could not
    close, with the statements for a superuser."""

    applied: list[str]
    rolled_back: list[str]
    dropped_definitions: list[str]
    seeded: bool
    kept_settings: list[KeptSetting] = field(default_factory=list)
    open_doors: list[OpenDoor] = field(default_factory=list, compare=False)


def migrate(dsn: str, seed: SettingsSeed, progress: Progress = lambda _: None) -> MigrationReport:
    """Applies all pending steps, loads sql/, and seeds the settings of a first deploy.

    `dsn` must name a login that owns the database, or a superuser. Raises MigrationError."""
    with _exclusive(dsn) as connection, _backend(dsn) as (backend, steps):
        pending = list(backend.to_apply(steps))
        for number, step in enumerate(pending, 1):
            progress(f"applying {step.id} ({number} of {len(pending)})")
            _run(f"step {step.id}", partial(backend.apply_one, step))
        progress("loading sql/")
        dropped = _load_definitions(connection)
        seeded = seed_settings(connection, seed)
        kept = _kept_settings(connection, seed)
        # This runs here, where no time-out applies: with many rows the first run takes a while.
        for what, statement in _AFTERWARDS.items():
            _run(what, partial(connection.execute, statement))
        open_doors = _close_doors(connection)
    return MigrationReport([step.id for step in pending], [], dropped, seeded, kept, open_doors)


def rollback(dsn: str, steps_back: int, progress: Progress = lambda _: None) -> MigrationReport:
    """Rolls back the newest `steps_back` steps, newest first. With the first of our own steps the
    callable functions are dropped; `migrate` of the release that fits creates them again. Raises
    MigrationError."""
    with _exclusive(dsn) as connection, _backend(dsn) as (backend, steps):
        undone = list(backend.to_rollback(steps))[:steps_back]
        _refuse_to_drop_adopted(connection, [step.id for step in undone])
        for step in undone:
            progress(f"rolling back {step.id}")
            _run(f"step {step.id}", partial(backend.rollback_one, step))
    return MigrationReport([], [step.id for step in undone], [], False)


def _refuse_to_drop_adopted(
    connection: psycopg.Connection[tuple[Any, ...]], undone: list[str]
) -> None:
    row = connection.execute("SELECT to_regclass('legacy_service.adoption') IS NOT NULL").fetchone()
    if not (row and row[0]):
        return
    if any(step <= _LAST_STEP_OF_OLD_SERVICE for step in undone):
        raise MigrationError(
            f"the steps up to {_LAST_STEP_OF_OLD_SERVICE} are the old service's own, and this"
            " database was taken over from it: undoing them would drop its accounts. The way back"
            " is the backup, see docs/adopting.md"
        )
    if any(step <= _STEP_OF_ADOPTION for step in undone):
        raise MigrationError(
            "this database was taken over from the old service, so it cannot go back to a release"
            " that knows nothing of that. The way back is the backup, see docs/adopting.md"
        )


def open_doors(dsn: str) -> list[OpenDoor]:
    """Lists what logins may do in this database without need; nothing when its schema is older than
    that list."""
    with connect(dsn) as connection:
        row = connection.execute(
            "SELECT to_regprocedure('billing.list_open_doors()') IS NOT NULL"
        ).fetchone()
        return _list_doors(connection, only_ours=False) if row and row[0] else []


def _list_doors(
    connection: psycopg.Connection[tuple[Any, ...]], *, only_ours: bool
) -> list[OpenDoor]:
    rows = connection.execute(
        "SELECT d.door, d.mend FROM billing.list_open_doors() AS d WHERE d.is_ours OR NOT %s",
        (only_ours,),
    )
    return [OpenDoor(*row) for row in rows]


def _close_doors(connection: psycopg.Connection[tuple[Any, ...]]) -> list[OpenDoor]:
    """Closes what this login may close. Returns the rest, including other databases."""
    for _ in range(3):  # another database's deploy may change the same login at this moment
        for open_door in _list_doors(connection, only_ours=True):
            with suppress(psycopg.errors.InsufficientPrivilege, psycopg.errors.InternalError_):
                connection.execute(open_door.mend.encode())
    return _list_doors(connection, only_ours=False)


def status(dsn: str) -> list[StepStatus]:
    """Lists every step that this release knows and whether the database has it; changes nothing."""
    with connect(dsn) as connection:
        applied: set[str] = set()
        row = connection.execute("SELECT to_regclass('public._yoyo_migration')").fetchone()
        if row and row[0]:
            rows = connection.execute("SELECT migration_id FROM public._yoyo_migration")
            applied = {row[0] for row in rows}
    return [StepStatus(step.stem, step.stem in applied) for step in sorted(step_files())]


def connect(dsn: str) -> psycopg.Connection[tuple[Any, ...]]:
    """Opens a connection in autocommit mode. Raises MigrationError."""
    try:
        return psycopg.connect(dsn, autocommit=True, connect_timeout=10)
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()[0]
        raise MigrationError(
            f"cannot connect to the database ({reason}): is MIGRATION_DATABASE_URL, or without it"
            " DATABASE_URL, right and the database up?"
        ) from None


@contextmanager
def _exclusive(dsn: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with connect(dsn) as connection:
        row = connection.execute(
            "SELECT has_database_privilege(current_database(), 'CREATE')"
            " AND has_schema_privilege('public', 'CREATE'), current_user, current_database()"
        ).fetchone()
        if row and not row[0]:
            raise MigrationError(
                f"the login {row[1]} may not create anything in the database {row[2]}: connect as"
                " its owner by MIGRATION_DATABASE_URL"
            )
        legacy = connection.execute(
            "SELECT to_regclass('public.alembic_version') IS NOT NULL"
            " AND to_regclass('public._yoyo_migration') IS NULL"
        ).fetchone()
        if legacy and legacy[0]:
            raise MigrationError(
                "this database was made by the old service (it has a table alembic_version), so"
                " nothing was changed: take it over by `ciris-billing migrate --adopt`, see"
                " docs/adopting.md"
            )
        with _only_deploy(dsn):
            yield connection


@contextmanager
def _only_deploy(dsn: str) -> Iterator[None]:
    """Waits for a deploy that is under way, and makes the next one wait. An open transaction holds
    the lock, so it ends with the process; EXCLUSIVE lets pg_dump read the table."""
    with connect(dsn) as connection:
        # The login's own limits do not apply: a deploy takes as long as its steps.
        connection.execute(
            "SELECT set_config(s.name, '0', false) FROM pg_settings AS s WHERE s.name IN"
            " ('lock_timeout', 'statement_timeout', 'transaction_timeout',"
            " 'idle_in_transaction_session_timeout')"
        )
        try:
            _make_deploy_table(connection)
            connection.execute("BEGIN")
            connection.execute(f"LOCK TABLE {_DEPLOY_TABLE} IN EXCLUSIVE MODE")
        except psycopg.errors.InsufficientPrivilege as error:
            raise MigrationError(
                f"{str(error).strip()}: migrate as the login that made {_DEPLOY_TABLE}"
            ) from None
        yield


def _make_deploy_table(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    # IF NOT EXISTS does not see a table that another session is creating at this moment.
    with suppress(
        psycopg.errors.UniqueViolation,
        psycopg.errors.DuplicateObject,
        psycopg.errors.DuplicateTable,
    ):
        connection.execute(f"CREATE TABLE IF NOT EXISTS {_DEPLOY_TABLE} ()")


@contextmanager
def _backend(dsn: str) -> Iterator[tuple[Any, MigrationList]]:
    backend = yoyo.get_backend("postgresql+psycopg://" + dsn.partition("://")[2])
    try:
        _run("step of yoyo's own tables", backend.ensure_internal_schema_updated)
        yield backend, yoyo.read_migrations(str(resource_folder("migrations")))
    finally:
        backend.connection.close()


def _run(what: str, action: Callable[[], object]) -> None:
    """Runs a step or a call. It waits for a lock for less time than a request does; when it fails
    to get the lock, it is tried again, for a minute. Raises MigrationError."""
    deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
    try:
        while True:
            try:
                action()
                return
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)  # for the sessions that queued behind it
    except psycopg.Error as error:
        raise MigrationError(f"{what} failed and was undone: {str(error).strip()}") from error


_AFTERWARDS: dict[str, LiteralString] = {
    "making the coming months of the check audit": (
        "SELECT count(*) FROM billing.create_check_partitions(p_months => 3)"
    ),
    "rolling up the figures": (
        "SELECT billing.refresh_figures() WHERE EXISTS (SELECT FROM billing_data.accounts)"
    ),
}


def _load_definitions(connection: psycopg.Connection[tuple[Any, ...]]) -> list[str]:
    try:
        return load_definitions(connection)
    except psycopg.Error as error:
        raise MigrationError(f"loading sql/ failed and was undone: {str(error).strip()}") from error


def seed_settings(connection: psycopg.Connection[tuple[Any, ...]], seed: SettingsSeed) -> bool:
    """Gives a database its first settings and invites its founders. Returns whether it had no
    settings before. Raises MigrationError."""
    statement: LiteralString = (
        "SELECT billing.seed_settings(p_free_uses => %s, p_pack_uses => %s,"
        " p_pack_price_minor => %s, p_pack_currency => %s, p_admin_email_domain => %s)"
    )
    values = (
        seed.free_uses,
        seed.pack_uses,
        seed.pack_price_minor,
        seed.pack_currency,
        seed.admin_email_domain,
    )
    try:
        row = connection.execute(statement, values).fetchone()
    except psycopg.Error as error:
        raise MigrationError(
            f"the first settings were refused ({error.diag.message_primary}): correct FREE_USES,"
            " PACK_USES, PACK_PRICE_MINOR or PACK_CURRENCY and run it again"
        ) from error
    if seed.founders:
        try:
            connection.execute(
                "SELECT billing.seed_founders(p_emails => %s)", (list(seed.founders),)
            )
        except psycopg.Error as error:
            raise MigrationError(f"ADMIN_EMAILS: {str(error).splitlines()[0]}") from None
    return bool(row and row[0])


_CHANGES = {
    **dict.fromkeys(
        ("FREE_USES", "PACK_USES", "PACK_PRICE_MINOR", "PACK_CURRENCY"),
        "the console's settings, or billing.set_pricing",
    ),
    "ADMIN_EMAIL_DOMAIN": "billing.set_admin_domain",
}


def _kept_settings(
    connection: psycopg.Connection[tuple[Any, ...]], seed: SettingsSeed
) -> list[KeptSetting]:
    row = connection.execute(
        "SELECT s.free_uses, s.pack_uses, s.pack_price_minor, s.pack_currency,"
        " s.admin_email_domain FROM billing.get_settings() AS s"
    ).fetchone()
    assert row is not None
    given = (
        seed.free_uses,
        seed.pack_uses,
        seed.pack_price_minor,
        seed.pack_currency,
        seed.admin_email_domain,
    )
    return [
        KeptSetting(name, str(value), str(kept), _CHANGES[name])
        for name, value, kept in zip(_CHANGES, given, row, strict=True)
        if value is not None and value != kept
    ]
