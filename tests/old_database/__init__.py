"""Builds a database as the old service left it, of any size and at any of its revisions, with all
the irregularities that such databases are known for: for tests, and for operators who rehearse the
takeover."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from argon2 import PasswordHasher
from psycopg.types.json import Jsonb

from server.adopt.bulk import without_indexes

BASE = "2025_10_21_0008"
_HERE = Path(__file__).resolve().parent
_MIGRATIONS = _HERE.parents[1] / "migrations"
_BULKY = ("public.accounts", "public.charges", "public.credits", "public.credit_checks")
# The old service's parameters, which are the package's defaults, for one key; cheap ones for the
# others: a hash says what it costs.
_HASHER = PasswordHasher()
_CHEAP_HASHER = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True)
class OldKey:
    """An API key of the old service. `works` says whether it must work after adoption."""

    name: str
    secret: str
    works: bool
    is_ended: bool = False


def revisions() -> list[str]:
    """The revisions that can be built, oldest first."""
    return [BASE, *(name for name, _ in _sections("later_revisions.sql"))]


def build(
    dsn: str,
    revision: str = BASE,
    accounts: int = 350,
    charges: int = 1750,
    seed: int = 1,
    *,
    now: datetime | None = None,
) -> list[OldKey]:
    """Fills the empty database `dsn`. Returns its API keys with their secrets."""
    with psycopg.connect(dsn) as connection:
        build_schema(connection, revision)
        settings = {
            "old.accounts": accounts,
            "old.charges": charges,
            "old.seed": seed,
            "old.has_duplicates": revision < "2025_12_17_0016",
        }
        for name, value in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, str(value)))
        with without_indexes(connection, _BULKY):
            _run(connection, (_HERE / "rows.sql").read_text(encoding="utf-8"))
            for name, statements in _sections("later_rows.sql"):
                if name <= revision:
                    _run(connection, statements)
        keys = add_keys(connection, now or datetime.now(UTC))
        connection.commit()
        connection.autocommit = True
        connection.execute("ANALYZE")
    return keys


def build_schema(connection: Connection, revision: str) -> None:
    """The old service's tables at a revision, without rows."""
    if revision not in revisions():
        raise ValueError(f"the old service has no revision {revision}")
    for step in sorted(_MIGRATIONS.glob("2025_*.sql")):
        if not step.stem.endswith(".rollback"):
            _run(connection, step.read_text(encoding="utf-8"))
    for name, statements in _sections("later_revisions.sql"):
        if name <= revision:
            _run(connection, statements)
    connection.execute("CREATE TABLE public.alembic_version (version_num varchar(32) PRIMARY KEY)")
    connection.execute("INSERT INTO public.alembic_version VALUES (%s)", (revision,))
    connection.execute("SET lock_timeout TO DEFAULT")


def _sections(file: str) -> list[tuple[str, str]]:
    text = (_HERE / file).read_text(encoding="utf-8")
    parts = re.split(r"^-- revision (\S+)\n", text, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def _run(connection: Connection, statements: str) -> None:
    # The statements come from files of this folder and of migrations/.
    connection.execute(statements)


def add_keys(connection: Connection, now: datetime) -> list[OldKey]:
    """API keys in every state that the old service left them in."""
    hour, day = timedelta(hours=1), timedelta(days=1)
    added: list[OldKey] = []

    def add(name: str, works: bool, is_ended: bool = False, **columns: Any) -> None:
        environment = columns.get("environment", "live")
        secret = f"cbk_{environment}_{secrets.token_urlsafe(32)}"
        row = {
            "key_hash": (_CHEAP_HASHER if added else _HASHER).hash(secret),
            "key_prefix": secret[:20],
            "name": name,
            "environment": environment,
            "created_at": now - 30 * day,
            **columns,
        }
        row["metadata"] = Jsonb(row.get("metadata", {}))
        connection.execute(
            f"INSERT INTO public.api_keys (created_by, {', '.join(row)})"
            " SELECT coalesce((SELECT u.id FROM public.admin_users AS u"
            " WHERE u.email = 'ada@ciris.ai'), gen_random_uuid()),"
            f" {', '.join(['%s'] * len(row))}".encode(),
            list(row.values()),
        )
        added.append(OldKey(name, secret, works, is_ended))

    def grace(end: Any, successor: str = "successor") -> dict[str, Any]:
        row = connection.execute(
            "SELECT k.id::text FROM public.api_keys AS k WHERE k.name = %s", (successor,)
        ).fetchone()
        rotated_to = row[0] if row else "00000000-0000-4000-8000-000000000000"
        return {"rotated_to": rotated_to, "grace_period_until": end}

    add("active, live", True)
    add("active, test", True, environment="test")
    add("will expire", True, expires_at=now + 5 * day)
    add("expired", False, expires_at=now - day)
    add("revoked", False, status="revoked")
    add("successor", True, created_at=now - hour)
    later = (now + 12 * hour).isoformat()
    add("rotating, in its grace", True, status="rotating", metadata=grace(later))
    add(
        "rotating, expires before its grace ends",
        False,
        is_ended=True,
        status="rotating",
        expires_at=now - hour,
        metadata=grace(later),
    )
    add(
        "rotating, past its grace",
        False,
        is_ended=True,
        status="rotating",
        metadata=grace((now - hour).isoformat()),
    )
    add("rotating, no grace recorded", False, is_ended=True, status="rotating")
    add(
        "rotating, unreadable grace",
        False,
        is_ended=True,
        status="rotating",
        metadata=grace("tomorrow"),
    )
    add(
        "rotating, successor gone",
        True,
        status="rotating",
        metadata=grace(later.replace("+00:00", "Z"), successor="nobody"),
    )
    add("old permissions", False, permissions=["billing:admin"])
    add("long description", True, description="long " * 500)
    return added
