"""Decides what becomes of the API keys and the payment providers' secrets of an old database. There
are few of either, so Python handles them one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from server.adopt.old_database import Connection
from server.encryption import Cipher
from server.migrate import MigrationError
from server.payments.settings import public_settings, seal_anew


@dataclass(frozen=True, slots=True)
class EndedKey:
    """A key that adoption ends, and why."""

    prefix: str
    name: str
    environment: str
    why: str


@dataclass(frozen=True, slots=True)
class _Verdict:
    status: str
    expires_at: datetime | None
    why_ended: str | None = None


def judge_keys(connection: Connection) -> list[EndedKey]:
    """Writes what becomes of each key into the temporary table adopt_keys. Returns the keys that
    end.

    A key in rotation works until the end of grace that its metadata records, but not longer than
    until it expires. It ends if no such time in the future is recorded."""
    rows = connection.execute(
        "SELECT k.id, k.key_prefix, k.name, k.environment, k.status, k.expires_at, k.metadata,"
        " k.created_at, now() FROM public.api_keys AS k ORDER BY k.created_at, k.id"
    ).fetchall()
    made_at = {row[0]: row[7] for row in rows}
    verdicts = {row[0]: _judge(row[4], row[5], row[6], row[8]) for row in rows}
    # A key has one predecessor. Of several, one that still works is preferred.
    rows.sort(key=lambda row: verdicts[row[0]].status != "rotating")
    successors: set[UUID] = set()
    connection.execute(
        "CREATE TEMPORARY TABLE adopt_keys (id uuid PRIMARY KEY, status text NOT NULL,"
        " expires_at timestamptz, rotated_to uuid) ON COMMIT DROP"
    )
    ended: list[EndedKey] = []
    for key_id, prefix, name, environment, status, _, metadata, _, _ in rows:
        verdict = verdicts[key_id]
        successor = _successor(metadata, key_id, made_at) if status == "rotating" else None
        if successor in successors:
            successor = None
        elif successor:
            successors.add(successor)
        connection.execute(
            "INSERT INTO adopt_keys VALUES (%s, %s, %s, %s)",
            (key_id, verdict.status, verdict.expires_at, successor),
        )
        if verdict.why_ended:
            ended.append(EndedKey(prefix, name, environment, verdict.why_ended))
    return ended


def _judge(status: str, expires_at: datetime | None, metadata: Any, now: datetime) -> _Verdict:
    if status != "rotating":
        return _Verdict(status, expires_at)
    recorded = metadata.get("grace_period_until") if isinstance(metadata, dict) else None
    if recorded is None:
        return _Verdict("revoked", expires_at, "no end of its grace period is recorded")
    grace = _moment(recorded)
    if grace is None:
        return _Verdict("revoked", expires_at, "the end of its grace period cannot be read")
    if grace <= now:
        return _Verdict("revoked", expires_at, f"its grace period ended at {grace.isoformat()}")
    if expires_at is not None and expires_at <= now:
        return _Verdict("revoked", expires_at, f"it expired at {expires_at.isoformat()}")
    return _Verdict("rotating", min(grace, expires_at or grace))


def _moment(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _successor(metadata: Any, key_id: UUID, made_at: Mapping[UUID, datetime]) -> UUID | None:
    try:
        successor = UUID(metadata["rotated_to"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    is_later = successor in made_at and made_at[successor] >= made_at[key_id]
    return successor if is_later and successor != key_id else None


def has_secrets(connection: Connection) -> bool:
    """Whether any payment provider or store has settings."""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM public.provider_configs AS c WHERE c.config_data <> '{}')"
    ).fetchone()
    return bool(row and row[0])


def require_cipher(secrets: Sequence[str]) -> Cipher:
    """Returns a cipher that encrypts with the newest of `secrets`. Raises MigrationError if there
    are none."""
    if not secrets:
        raise MigrationError(
            "the old database has payment providers' secrets in clear text, and ENCRYPTION_KEY is"
            " not set: set it, or ENCRYPTION_KEY_FILE, to at least 32 random characters. The"
            " servers must use the same key. Nothing was changed"
        )
    return Cipher(secrets)


def carry_over_providers(connection: Connection, cipher: Cipher | None) -> None:
    """Carries over the settings of payment providers, with their secrets encrypted. Settings of
    providers that we know go into our table. Settings of stores are encrypted as a whole and go
    into a table that is kept."""
    rows = connection.execute(
        "SELECT c.id, c.provider_type, c.is_active, c.config_data, c.created_at, c.updated_at,"
        " c.updated_by FROM legacy_service.provider_configs AS c"
    ).fetchall()
    ours = {
        row[0]
        for row in connection.execute("SELECT p.kind FROM billing_data.payment_providers AS p")
    }
    connection.execute(
        "CREATE TABLE legacy_service.store_settings (provider_type text PRIMARY KEY,"
        " is_active boolean NOT NULL, encrypted_config_data text NOT NULL,"
        " created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL)"
    )
    for row_id, provider, is_active, config, created_at, updated_at, updated_by in rows:
        if provider in ours:
            connection.execute(
                "INSERT INTO billing_data.provider_configs (id, provider_type, is_active,"
                " config_data, created_at, updated_at, updated_by)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s)",
                (
                    *(row_id, provider, is_active),
                    Jsonb(_sealed(provider, config, cipher)),
                    *(created_at, updated_at, updated_by),
                ),
            )
        else:
            token = cipher.encrypt(json.dumps(config)) if cipher else ""
            connection.execute(
                "INSERT INTO legacy_service.store_settings VALUES (%s, %s, %s, %s, %s)",
                (provider, is_active, token, created_at, updated_at),
            )


def _sealed(provider: str, config: Any, cipher: Cipher | None) -> dict[str, Any]:
    if not isinstance(config, dict):
        config = {"value": config}
    sealed = seal_anew(provider, config, cipher) if cipher else {}
    for name in public_settings(provider):
        if isinstance(config.get(name), str) and config[name]:
            sealed[name] = config[name]
    return sealed
