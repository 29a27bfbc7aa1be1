"""API keys: creation, rotation, revocation, expiry, and the record of their use."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from server.api_key_secret import new_secret
from tests.sql.helpers import NOBODY, Caller, key_id, new_user, session, staff
from tests.support import Database, unique

DAY = timedelta(days=1)


def _secret() -> dict[str, str]:
    secret = new_secret("live")
    return {"key_prefix": secret.prefix, "key_hash": secret.hash}


def _stored(database: Database, api_key_id: uuid.UUID) -> dict[str, Any]:
    with session(database, "postgres") as root:
        (row,) = root.execute("SELECT * FROM billing_data.api_keys WHERE id = %s", api_key_id)
    return row


def _expire(database: Database, api_key_id: uuid.UUID, moment: str) -> None:
    database.execute(
        f"UPDATE billing_data.api_keys SET expires_at = {moment} WHERE id = %s", api_key_id
    )


def _audit(database: Database, api_key_id: uuid.UUID) -> list[tuple[Any, ...]]:
    return database.execute(
        "SELECT l.action, l.changes, l.database_role, l.admin_user_id, l.reason"
        " FROM billing_data.admin_audit_logs AS l"
        " WHERE l.resource_type = 'api_key' AND l.resource_id = %s ORDER BY l.created_at",
        str(api_key_id),
    )


def _works(web: Caller, api_key_id: uuid.UUID) -> bool:
    return bool(web.value("require_api_key", api_key_id=api_key_id, permission="billing:read"))


def _fault(web: Caller, api_key_id: uuid.UUID) -> str | None:
    return web.refusal("require_api_key", api_key_id=api_key_id, permission="billing:read").slug


# --- making --------------------------------------------------------------------------------------


def test_a_key_is_made_with_sensible_defaults(module_database: Database, dba: Caller) -> None:
    secret = _secret()
    answer = dba.row("create_api_key", name="agent", **secret)
    assert answer["permissions"] == ["billing:read", "billing:write"]
    assert (answer["environment"], answer["status"]) == ("live", "active")
    assert (answer["name"], answer["key_prefix"]) == ("agent", secret["key_prefix"])
    assert answer["expires_at"] is None
    assert "key_hash" not in answer
    row = _stored(module_database, answer["api_key_id"])
    assert row["key_hash"] == secret["key_hash"]
    assert (row["created_by"], row["created_by_role"]) == (None, "t_dba")
    assert _audit(module_database, answer["api_key_id"]) == [
        (
            "api_key.create",
            {
                "name": "agent",
                "environment": "live",
                "permissions": ["billing:read", "billing:write"],
                "expires_at": None,
            },
            "t_dba",
            None,
            None,
        )
    ]


def test_a_key_made_by_staff_names_them_and_lives_as_long_as_asked(
    module_database: Database, web: Caller
) -> None:
    ada = staff(module_database, "admin")
    answer = web.row(
        "create_api_key",
        name="agent",
        **_secret(),
        environment="test",
        permissions=["billing:read"],
        description="for tests",
        expires_in_days=30,
        session_hash=ada.session_hash,
    )
    assert answer["permissions"] == ["billing:read"]
    assert abs(answer["expires_at"] - datetime.now(UTC) - 30 * DAY) < timedelta(minutes=5)
    row = _stored(module_database, answer["api_key_id"])
    assert (row["created_by"], row["created_by_role"]) == (ada.id, None)
    assert row["description"] == "for tests"
    assert _audit(module_database, answer["api_key_id"])[0][2:] == (None, ada.id, "for tests")


def test_a_prefix_is_unique(dba: Caller) -> None:
    secret = _secret()
    dba.row("create_api_key", name="one", **secret)
    assert dba.refusal("create_api_key", name="two", **secret).sqlstate == "23505"


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"name": ""}, "p_name"),
        ({"name": None}, "p_name"),
        ({"name": "x" * 256}, "p_name"),
        ({"environment": "production"}, "p_environment"),
        ({"environment": None}, "p_environment"),
        ({"key_prefix": "cbk_live_"}, "p_key_prefix"),
        ({"key_prefix": "xyz_live_12345678901"}, "p_key_prefix"),
        ({"key_prefix": None}, "p_key_prefix"),
        ({"key_hash": "cbk_live_a_secret_in_clear"}, "p_key_hash"),
        ({"key_hash": None}, "p_key_hash"),
        ({"permissions": None}, "p_permissions"),
        ({"permissions": ["billing:read", None]}, "p_permissions"),
        ({"permissions": ["billing:read", "billing:wirte"]}, "p_permissions"),
        ({"permissions": ["billing:read "]}, "p_permissions"),
        ({"permissions": ["BILLING:READ"]}, "p_permissions"),
        ({"permissions": ["*"]}, "p_permissions"),
        ({"permissions": [""]}, "p_permissions"),
        ({"expires_in_days": 0}, "p_expires_in_days"),
        ({"expires_in_days": -1}, "p_expires_in_days"),
        ({"expires_in_days": 3651}, "p_expires_in_days"),
    ],
    ids=lambda value: (
        ",".join(f"{k}={str(v)[:12]}" for k, v in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_a_faulty_argument_is_named(dba: Caller, arguments: dict[str, Any], argument: str) -> None:
    refusal = dba.refusal("create_api_key", **{"name": "agent", **_secret(), **arguments})
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
    assert refusal.detail["argument"] == argument


@pytest.mark.parametrize("days", [1, 3650])
def test_the_shortest_and_the_longest_life(dba: Caller, days: int) -> None:
    answer = dba.row("create_api_key", name="agent", **_secret(), expires_in_days=days)
    assert answer["expires_at"] - answer["created_at"] <= days * DAY + timedelta(hours=1)
    assert answer["expires_at"] - answer["created_at"] >= days * DAY - timedelta(hours=1)


def test_a_key_without_permissions_may_do_nothing(dba: Caller, web: Caller) -> None:
    made = dba.row("create_api_key", name="agent", **_secret(), permissions=[])
    assert _fault(web, made["api_key_id"]) == "permission_missing"


def test_a_key_of_the_old_service_keeps_its_permissions_when_it_is_rotated(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    old = key_id(module_database, "billing:read", "billing:*")
    made = dba.row("rotate_api_key", api_key_id=old, **_secret())
    assert made["permissions"] == ["billing:read", "billing:*"]
    assert _works(web, made["api_key_id"])


def test_permissions_match_exactly(module_database: Database, web: Caller) -> None:
    key = key_id(module_database, "billing:read", "billing:write ", "BILLING:ADMIN", "*")
    assert _works(web, key)
    for permission in ("billing:write", "billing:admin", "billing", "", "billing:rea"):
        refusal = web.refusal("require_api_key", api_key_id=key, permission=permission)
        assert (refusal.sqlstate, refusal.slug) == ("PB403", "permission_missing"), permission
    refusal = web.refusal("require_api_key", api_key_id=key, permission="billing:write")
    assert refusal.message == "Missing required permission: billing:write"
    assert refusal.detail == {"permission": "billing:write"}


def test_no_permission_at_all_is_not_had_by_any_key(module_database: Database, web: Caller) -> None:
    key = key_id(module_database)
    refusal = web.refusal("require_api_key", api_key_id=key, permission=None)
    assert (refusal.sqlstate, refusal.slug) == ("PB403", "permission_missing")


def test_a_null_among_the_permissions_of_an_old_key_grants_nothing(
    module_database: Database, web: Caller
) -> None:
    who, key = new_user(module_database), key_id(module_database)
    module_database.execute(
        "UPDATE billing_data.api_keys SET permissions = '{billing:read,NULL}' WHERE id = %s", key
    )
    assert _works(web, key)
    assert web.refusal("create_charge", **who, api_key_id=key).slug == "permission_missing"


# --- rotating ------------------------------------------------------------------------------------


def test_a_rotated_key_works_for_a_day_beside_its_successor(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    old = key_id(module_database, "billing:read")
    secret = _secret()
    answer = dba.row("rotate_api_key", api_key_id=old, **secret)
    new = answer["api_key_id"]
    before, after = _stored(module_database, old), _stored(module_database, new)
    assert new != old
    assert (before["status"], before["rotated_to"]) == ("rotating", new)
    assert before["expires_at"] == answer["old_key_expires_at"]
    assert abs(before["expires_at"] - datetime.now(UTC) - DAY) < timedelta(minutes=5)
    for field in ("name", "environment", "permissions", "description"):
        assert after[field] == before[field], field
    assert (after["status"], after["expires_at"], answer["expires_at"]) == ("active", None, None)
    assert (after["key_prefix"], after["key_hash"]) == tuple(secret.values())
    assert _works(web, old)
    assert _works(web, new)
    assert web.rows("find_api_key", key_prefix=before["key_prefix"])
    _expire(module_database, old, "now() + interval '1 minute'")
    assert _works(web, old)
    _expire(module_database, old, "now()")
    assert _fault(web, old) == "api_key_expired"
    assert _works(web, new)


def test_a_rotation_is_audited_for_the_old_key_and_the_new(
    module_database: Database, web: Caller
) -> None:
    old, ada = key_id(module_database), staff(module_database, "admin")
    answer = web.row(
        "rotate_api_key",
        api_key_id=old,
        **_secret(),
        reason="yearly",
        session_hash=ada.session_hash,
    )
    new, grace_ends_at = answer["api_key_id"], answer["old_key_expires_at"]
    action, changes, *who = _audit(module_database, old)[-1]
    assert (action, who) == ("api_key.rotate", [None, ada.id, "yearly"])
    assert datetime.fromisoformat(changes["after"].pop("expires_at")) == grace_ends_at
    assert changes == {
        "rotated_to": str(new),
        "before": {"status": "active", "expires_at": None},
        "after": {"status": "rotating"},
    }
    ((action, _, *who),) = _audit(module_database, new)
    assert (action, who) == ("api_key.create", [None, ada.id, "yearly"])


def test_why_a_key_was_made_is_the_reason_given_else_what_it_is_for(
    module_database: Database, dba: Caller
) -> None:
    for reason, description, why in (
        ("asked for by mail", "proxy", "asked for by mail"),
        (" ", "proxy", "proxy"),
        (None, None, None),
    ):
        answer = dba.row(
            "create_api_key", name="k", **_secret(), reason=reason, description=description
        )
        assert _audit(module_database, answer["api_key_id"])[0][-1] == why


def test_a_revocation_is_audited_with_what_the_key_was_and_why(
    module_database: Database, dba: Caller
) -> None:
    key = key_id(module_database)
    dba.row("revoke_api_key", api_key_id=key, reason="it leaked")
    assert _audit(module_database, key)[-1] == (
        "api_key.revoke",
        {"before": {"status": "active"}, "after": {"status": "revoked"}},
        "t_dba",
        None,
        "it leaked",
    )


@pytest.mark.parametrize("function", ["create_api_key", "rotate_api_key", "revoke_api_key"])
def test_a_reason_has_at_most_500_characters(
    module_database: Database, dba: Caller, function: str
) -> None:
    arguments: dict[str, Any] = {"reason": "x" * 501}
    if function != "create_api_key":
        arguments["api_key_id"] = key_id(module_database)
    if function != "revoke_api_key":
        arguments |= _secret()
    if function == "create_api_key":
        arguments["name"] = "k"
    refusal = dba.refusal(function, **arguments)
    assert (refusal.slug, refusal.detail["argument"]) == ("invalid_argument", "p_reason")


@pytest.mark.parametrize(
    ("left", "days", "grace_hours"),
    [
        ("interval '90 days 1 hour'", 90, 24),
        ("interval '90 days 23 hours'", 90, 24),
        ("interval '24 hours 1 minute'", 1, 24),
        ("interval '2 hours'", 1, 2),
    ],
)
def test_the_successor_has_the_whole_days_that_were_left_and_the_grace_never_outlives_the_key(
    module_database: Database, dba: Caller, left: str, days: int, grace_hours: int
) -> None:
    old = key_id(module_database)
    _expire(module_database, old, f"now() + {left}")
    answer = dba.row("rotate_api_key", api_key_id=old, **_secret())
    now, slack = datetime.now(UTC), timedelta(hours=1, minutes=5)
    assert abs(answer["expires_at"] - now - days * DAY) < slack
    grace = answer["old_key_expires_at"] - now
    assert abs(grace - timedelta(hours=grace_hours)) < timedelta(minutes=5)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("status = 'revoked'", "revoked"),
        ("status = 'rotating'", "rotating"),
        ("expires_at = now()", "expired"),
    ],
)
def test_only_an_active_key_can_be_rotated(
    module_database: Database, dba: Caller, change: str, status: str
) -> None:
    key = key_id(module_database)
    module_database.execute(f"UPDATE billing_data.api_keys SET {change} WHERE id = %s", key)
    refusal = dba.refusal("rotate_api_key", api_key_id=key, **_secret())
    assert (refusal.sqlstate, refusal.slug) == ("PB409", "api_key_not_active")
    assert refusal.message == f"API key cannot be rotated: its status is {status}"
    assert refusal.detail == {"status": status}


def test_a_faulty_secret_leaves_the_old_key_as_it_was(
    module_database: Database, dba: Caller
) -> None:
    key = key_id(module_database)
    before = _stored(module_database, key)
    for arguments in ({"key_prefix": None}, {"key_hash": "clear"}):
        refusal = dba.refusal("rotate_api_key", api_key_id=key, **{**_secret(), **arguments})
        assert refusal.slug == "invalid_argument"
    assert _stored(module_database, key) == before


@pytest.mark.parametrize("function", ["rotate_api_key", "revoke_api_key"])
@pytest.mark.parametrize("key", [NOBODY, None])
def test_a_key_that_does_not_exist_is_not_found(
    dba: Caller, function: str, key: uuid.UUID | None
) -> None:
    arguments = _secret() if function == "rotate_api_key" else {}
    refusal = dba.refusal(function, api_key_id=key, **arguments)
    assert (refusal.sqlstate, refusal.slug) == ("PB404", "api_key_not_found")
    assert refusal.message == f"API key not found: {key or 'null'}"


# --- ending --------------------------------------------------------------------------------------


def test_a_revoked_key_ends_at_once_in_sessions_that_used_it(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    who, key = new_user(module_database), key_id(module_database)
    for _ in range(2):
        web.row("create_charge", **who, api_key_id=key)
    answer = dba.row("revoke_api_key", api_key_id=key)
    assert (answer["api_key_id"], answer["status"]) == (key, "revoked")
    assert web.refusal("create_charge", **who, api_key_id=key).slug == "api_key_invalid"
    assert web.refusal("check_credit", **who, api_key_id=key).slug == "api_key_invalid"


def test_revoking_again_is_fine_and_audited_once(module_database: Database, dba: Caller) -> None:
    key = key_id(module_database)
    for _ in range(2):
        assert dba.row("revoke_api_key", api_key_id=key)["status"] == "revoked"
    assert [row[0] for row in _audit(module_database, key)] == ["api_key.create", "api_key.revoke"]


def test_revoking_a_rotating_key_ends_its_grace_and_not_its_successor(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    old = key_id(module_database)
    new = dba.row("rotate_api_key", api_key_id=old, **_secret())["api_key_id"]
    dba.row("revoke_api_key", api_key_id=old)
    assert _fault(web, old) == "api_key_invalid"
    assert _works(web, new)


@pytest.mark.parametrize(
    ("moment", "fault"),
    [
        ("now() - interval '1 day'", "api_key_expired"),
        ("now()", "api_key_expired"),
        ("now() + interval '1 minute'", None),
    ],
)
def test_a_key_works_until_it_expires(
    module_database: Database, web: Caller, moment: str, fault: str | None
) -> None:
    key = key_id(module_database)
    _expire(module_database, key, moment)
    if fault:
        refusal = web.refusal("require_api_key", api_key_id=key, permission="billing:read")
        assert (refusal.sqlstate, refusal.slug) == ("PB401", fault)
        assert refusal.message == "Authentication failed: API key expired"
        assert refusal.hint == "Create or rotate the key."
    else:
        assert _works(web, key)


def test_an_expired_key_is_retired_once_and_is_invalid_from_then_on(
    module_database: Database, web: Caller
) -> None:
    key = key_id(module_database)
    assert web.value("retire_expired_api_key", api_key_id=key) is False
    assert _works(web, key)
    _expire(module_database, key, "now()")
    assert web.value("retire_expired_api_key", api_key_id=key) is True
    assert _fault(web, key) == "api_key_invalid"
    assert web.value("retire_expired_api_key", api_key_id=key) is False
    for nothing in (NOBODY, None):
        assert web.value("retire_expired_api_key", api_key_id=nothing) is False


# --- listing and use -----------------------------------------------------------------------------


def test_keys_are_listed_newest_first_without_hashes(database: Database) -> None:
    ada = staff(database, "admin")
    with session(database, "t_dba") as dba, session(database, "t_web") as web:
        first = dba.row("create_api_key", name="one", **_secret(), environment="test")
        second = web.row("create_api_key", name="two", **_secret(), session_hash=ada.session_hash)
        dba.row("revoke_api_key", api_key_id=first["api_key_id"])
        rows = web.rows("list_api_keys", session_hash=ada.session_hash)
        assert [row["name"] for row in rows] == ["two", "one"]
        assert [row["status"] for row in rows] == ["active", "revoked"]
        assert rows[0]["created_by_email"].endswith("@example.com")
        assert (rows[0]["created_by_role"], rows[1]["created_by_role"]) == (None, "t_dba")
        assert not [value for row in rows for value in row.values() if "$argon2" in str(value)]
        only = dba.rows("list_api_keys", environment="live", status="active")
        assert [row["api_key_id"] for row in only] == [second["api_key_id"]]
        assert dba.rows("list_api_keys", environment="live", status="revoked") == []


def test_the_last_use_is_recorded_and_never_goes_back(
    module_database: Database, web: Caller
) -> None:
    one, two = key_id(module_database), key_id(module_database)
    now = datetime.now(UTC)
    recorded = web.value(
        "record_api_key_use",
        api_key_ids=[one, two, NOBODY],
        used_at=[now, now - DAY, now],
        used_from=["192.0.2.1", "2001:db8::1", None],
    )
    assert recorded == 2
    recorded = web.value(
        "record_api_key_use",
        api_key_ids=[one, two],
        used_at=[now - DAY, now],
        used_from=["192.0.2.9", "192.0.2.2"],
    )
    assert recorded == 1
    rows = [_stored(module_database, key) for key in (one, two)]
    assert [row["last_used_at"] for row in rows] == [now, now]
    assert [str(row["last_used_ip"]) for row in rows] == ["192.0.2.1", "192.0.2.2"]


def test_recording_nothing_changes_nothing(web: Caller) -> None:
    assert web.value("record_api_key_use", api_key_ids=[], used_at=[], used_from=[]) == 0
    assert web.value("record_api_key_use", api_key_ids=None, used_at=None, used_from=None) == 0


def test_recording_a_use_skips_a_locked_key_and_commits_asynchronously(
    module_database: Database,
) -> None:
    held, free = key_id(module_database), key_id(module_database)
    now = datetime.now(UTC)
    with (
        session(module_database, "t_dba", autocommit=False) as other,
        session(module_database, "t_web", autocommit=False) as web,
    ):
        other.row("revoke_api_key", api_key_id=held)
        web.execute("SET lock_timeout = '100ms'")
        recorded = web.value(
            "record_api_key_use", api_key_ids=[held, free], used_at=[now, now], used_from=[None] * 2
        )
        assert recorded == 1
        assert web.execute("SHOW synchronous_commit") == [{"synchronous_commit": "off"}]
        web.connection.commit()
        other.connection.rollback()
    assert _stored(module_database, held)["last_used_at"] is None
    assert _stored(module_database, free)["last_used_at"] == now


@pytest.mark.parametrize("function", ["create_api_key", "rotate_api_key", "revoke_api_key"])
def test_what_changes_keys_commits_durably(module_database: Database, function: str) -> None:
    key = key_id(module_database)
    calls: dict[str, dict[str, Any]] = {
        "create_api_key": {"name": unique(), **_secret()},
        "rotate_api_key": {"api_key_id": key, **_secret()},
        "revoke_api_key": {"api_key_id": key},
    }
    with session(module_database, "t_dba", autocommit=False) as dba:
        dba.execute("SET synchronous_commit = off")
        dba.row(function, **calls[function])
        assert dba.execute("SHOW synchronous_commit") == [{"synchronous_commit": "on"}]
        dba.connection.rollback()
