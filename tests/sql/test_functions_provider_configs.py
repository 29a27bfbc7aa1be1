"""billing.set_provider_config, list_provider_configs and get_provider_config."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from tests.sql.helpers import Caller, at_once, key_id, session, staff
from tests.sql.payments import configure_provider, sealed
from tests.support import Database

TEST_KEY = sealed("sk_test_12345678", "test")
LIVE_KEY = sealed("sk_live_87654321", "live")
HOOK = sealed("whsec_abcd")


def _set(caller: Caller, config: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    given = {"provider_type": "stripe", "config_data": json.dumps(config), **arguments}
    return caller.row("set_provider_config", **given)


def _stored(database: Database, provider: str = "stripe") -> dict[str, Any]:
    found: dict[str, Any] = database.value(
        "SELECT c.config_data FROM billing_data.provider_configs AS c WHERE c.provider_type = %s",
        provider,
    )
    return found


def _audited(database: Database) -> list[Any]:
    return database.execute(
        "SELECT l.changes, l.reason, l.admin_user_id, l.database_role"
        " FROM billing_data.admin_audit_logs AS l WHERE l.action = 'provider_config.set'"
        " AND l.resource_type = 'provider_config' AND l.resource_id = 'stripe'"
        " ORDER BY l.created_at"
    )


def test_an_administrator_sets_up_a_provider_and_secrets_stay_sealed(database: Database) -> None:
    ada = staff(database, "admin")
    config = {"api_key": TEST_KEY, "webhook_secret": HOOK, "publishable_key": "pk_test_1"}
    with session(database, "t_web") as web:
        answer = _set(web, config, reason="first set-up", session_hash=ada.session_hash)
        assert [answer] == web.rows("list_provider_configs", session_hash=ada.session_hash)
        found = web.row("get_provider_config", provider_type="stripe")
    masked = {"api_key": "…5678", "webhook_secret": "…abcd", "publishable_key": "pk_test_1"}
    assert answer["config_data"] == masked
    assert (answer["provider_type"], answer["is_active"], answer["mode"]) == (
        "stripe",
        True,
        "test",
    )
    assert _stored(database) == config
    assert found == {
        "is_active": True,
        "config_data": config,
        "mode": "test",
        "updated_at": answer["updated_at"],
    }
    ((changes, reason, admin, role),) = _audited(database)
    assert (reason, admin, role) == ("first set-up", ada.id, None)
    assert sorted(changes["changed"]) == sorted(config)
    assert changes["after"] == {**masked, "is_active": True}
    assert database.value(
        "SELECT c.updated_by FROM billing_data.provider_configs AS c"
    ) == ada.id  # fmt: skip


def test_no_secret_reaches_the_audit_log_or_a_list(database: Database) -> None:
    config = configure_provider(database)
    with session(database, "t_dba") as dba:
        _set(dba, {"api_key": None})
        shown = repr(dba.rows("list_provider_configs")) + repr(_audited(database))
    for name in ("api_key", "webhook_secret"):
        assert config[name]["encrypted"] not in shown
        assert config[name]["masked"] in shown


def test_what_is_not_named_is_kept_and_a_null_takes_away(database: Database) -> None:
    config = configure_provider(database)
    with session(database, "t_dba") as dba:
        changed = sealed("whsec_wxyz")
        assert _set(dba, {"webhook_secret": changed})["is_active"]
        assert _stored(database) == {**config, "webhook_secret": changed}
        _set(dba, {"webhook_secret": None, "never_there": None})
        assert _stored(database) == {name: config[name] for name in ("api_key", "publishable_key")}
        before = _stored(database)
        _set(dba, {}, is_active=False)
        assert _stored(database) == before
        assert not dba.row("get_provider_config", provider_type="stripe")["is_active"]
        assert not _set(dba, {})["is_active"]
        assert _set(dba, {}, is_active=True)["is_active"]
        assert dba.row("set_provider_config", provider_type="stripe")["is_active"]
        assert _stored(database) == before


def test_several_webhook_secrets_are_kept_by_their_masks_added_and_taken_away(
    database: Database,
) -> None:
    configure_provider(database)
    first, second, third = sealed("whsec_aaaa"), sealed("whsec_bbbb"), sealed("whsec_cccc")
    clear = "whsec_in_clear_text_dddd"
    with session(database, "t_dba") as dba:

        def secrets(given: Any, shown: str | None, stored: Any) -> None:
            answer = _set(dba, {"webhook_secret": given})
            assert answer["config_data"].get("webhook_secret") == shown
            assert _stored(database).get("webhook_secret") == stored

        secrets(first, "…aaaa", first)
        secrets([first, second], "…aaaa,…bbbb", [first, second])
        secrets(["…bbbb", "…aaaa", third], "…bbbb,…aaaa,…cccc", [second, first, third])
        secrets(["…cccc", "…bbbb"], "…cccc,…bbbb", [third, second])
        # A single secret is stored in the form that every release knows.
        secrets(["…bbbb"], "…bbbb", second)
        secrets(["…bbbb", third], "…bbbb,…cccc", [second, third])
        before = _stored(database)
        for wrong in (["…eeee"], ["…bbbb", "…eeee"], [], [5], [clear], ["…bbbb", clear], [None]):
            refusal = dba.refusal(
                "set_provider_config",
                provider_type="stripe",
                config_data=json.dumps({"webhook_secret": wrong}),
            )
            assert (refusal.slug, refusal.detail["argument"]) == (
                "invalid_argument",
                "p_config_data",
            )
            assert clear not in refusal.message
        refusal = dba.refusal(
            "set_provider_config",
            provider_type="stripe",
            config_data=json.dumps({"webhook_secret": [sealed("whsec_ffff")] * 11}),
        )
        assert "1 to 10" in refusal.message
        assert _stored(database) == before
        assert dba.rows("list_provider_configs")[0]["config_data"]["webhook_secret"] == (
            "…bbbb,…cccc"
        )
        # A secret that an older release stored in clear text is kept, too.
        database.execute(
            "UPDATE billing_data.provider_configs"
            " SET config_data = config_data || jsonb_build_object('webhook_secret', %s::text)",
            clear,
        )
        secrets(["…dddd", first], "…dddd,…aaaa", [clear, first])
        secrets(None, None, None)
    for secret in (first, second, third):
        assert secret["encrypted"] not in repr(_audited(database))
    assert clear not in repr(_audited(database))


def test_a_provider_can_be_set_up_inactive(database: Database) -> None:
    with session(database, "t_dba") as dba:
        assert not _set(dba, {"api_key": TEST_KEY}, is_active=False)["is_active"]


def test_providers_are_kept_apart_and_listed_by_name(database: Database) -> None:
    with session(database, "t_dba") as dba:
        assert dba.rows("list_provider_configs") == []
        assert dba.rows("get_provider_config", provider_type="stripe") == []
        for provider in ("stripe", "paypal", "square"):
            _set(dba, {"api_key": sealed(f"key-of-{provider}")}, provider_type=provider)
        rows = dba.rows("list_provider_configs")
        assert [row["provider_type"] for row in rows] == ["paypal", "square", "stripe"]
        assert [row["config_data"]["api_key"] for row in rows] == ["…ypal", "…uare", "…ripe"]
        assert [row["mode"] for row in rows] == [None] * 3
        assert dba.rows("get_provider_config", provider_type="bank") == []


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({}, {"api_key": TEST_KEY, "publishable_key": "pk_live_1"}),
        ({}, {"api_key": LIVE_KEY, "publishable_key": "pk_test_1"}),
        ({"api_key": TEST_KEY, "publishable_key": "pk_test_1"}, {"api_key": LIVE_KEY}),
        ({"api_key": TEST_KEY, "publishable_key": "pk_test_1"}, {"publishable_key": "pk_live_1"}),
    ],
    ids=["test", "live", "one key", "one publishable key"],
)
def test_test_and_live_keys_are_not_mixed(
    database: Database, first: dict[str, Any], then: dict[str, Any]
) -> None:
    with session(database, "t_dba") as dba:
        _set(dba, first)
        audited = _audited(database)
        arguments = {"provider_type": "stripe", "config_data": json.dumps(then)}
        refusal = dba.refusal("set_provider_config", **arguments)
        assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
        assert refusal.detail["problem"].startswith("test and live keys cannot be mixed")
        assert _stored(database) == first
        assert _audited(database) == audited


def test_both_keys_change_their_mode_together(database: Database) -> None:
    configure_provider(database)
    with session(database, "t_dba") as dba:
        changed = _set(dba, {"api_key": LIVE_KEY, "publishable_key": "pk_live_1"})
    assert changed["mode"] == "live"


@pytest.mark.parametrize(
    "arguments",
    [
        {"provider_type": "bank"},
        {"provider_type": ""},
        {"provider_type": None},
        {"config_data": "[]"},
        {"config_data": "null"},
        {"config_data": '"sk_test_1"'},
        {"config_data": None},
        {"config_data": '{"api_key": "sk_test_1"}'},
        {"config_data": '{"api_key": ""}'},
        {"config_data": '{"api_key": {"encrypted": "x"}}'},
        {"config_data": '{"api_key": {"masked": "x"}}'},
        {"config_data": '{"api_key": {"encrypted": 1, "masked": "x"}}'},
        {"config_data": '{"api_key": ["x"]}'},
        {"config_data": '{"webhook_secret": "whsec_1"}'},
        {"config_data": '{"odd": 1}'},
        {"config_data": '{"publishable_key": {"encrypted": "x", "masked": "x"}}'},
        {"config_data": '{"publishable_key": 1}'},
    ],
    ids=lambda arguments: str(arguments)[:60],
)
def test_a_secret_in_clear_text_or_a_faulty_argument_is_refused(
    database: Database, arguments: dict[str, Any]
) -> None:
    with session(database, "t_dba") as dba:
        refusal = dba.refusal("set_provider_config", **{"provider_type": "stripe", **arguments})
        assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
        assert refusal.detail["argument"] in ("p_provider_type", "p_config_data")
        if '": "sk' in str(arguments) or "whsec" in str(arguments):
            assert "must be encrypted" in refusal.message
            assert "sk_test_1" not in refusal.message
        assert dba.rows("list_provider_configs") == []
    assert _audited(database) == []


def test_what_an_older_release_left_in_clear_text_is_masked(database: Database) -> None:
    database.execute(
        "INSERT INTO billing_data.provider_configs (provider_type, config_data) VALUES ('stripe',"
        """ '{"api_key": "sk_live_12345678", "webhook_secret": "whsec_abcd", "publishable_key":"""
        """ "pk_live_1"}')"""
    )
    with session(database, "t_dba") as dba:
        (row,) = dba.rows("list_provider_configs")
        assert row["config_data"] == {
            "api_key": "…5678",
            "webhook_secret": "…",  # too short to show a part of it
            "publishable_key": "pk_live_1",
        }
        assert row["mode"] == "live"
        assert _set(dba, {"webhook_secret": HOOK})["mode"] == "live"
    assert "12345678" not in repr(_audited(database))


@pytest.mark.parametrize(
    ("api_key", "mode"),
    [
        (TEST_KEY, "test"),
        (LIVE_KEY, "live"),
        (sealed("rk_live_1"), None),
        ("sk_live_1", "live"),
        ("rk_test_1", "test"),
        ("live_1", None),
        (None, None),
    ],
    ids=["test", "live", "no mode sealed", "clear live", "clear test", "no prefix", "none"],
)
def test_the_mode_is_that_of_the_api_key(database: Database, api_key: Any, mode: Any) -> None:
    config = {"api_key": api_key, "publishable_key": f"pk_{mode or 'test'}_1"}
    database.execute(
        "INSERT INTO billing_data.provider_configs (provider_type, config_data)"
        " VALUES ('stripe', %s)",
        json.dumps(config),
    )
    with session(database, "t_dba") as dba:
        assert dba.row("get_provider_config", provider_type="stripe")["mode"] == mode


def test_a_viewer_reads_the_masks_and_changes_nothing(
    module_database: Database, web: Caller
) -> None:
    config = configure_provider(module_database)
    viewer = staff(module_database, "viewer")
    (row,) = web.rows("list_provider_configs", session_hash=viewer.session_hash)
    assert row["config_data"]["api_key"] == config["api_key"]["masked"]
    change = {"provider_type": "stripe", "is_active": False}
    refusal = web.refusal("set_provider_config", **change, session_hash=viewer.session_hash)
    assert refusal.slug == "admin_role_required"
    for function in ("list_provider_configs", "set_provider_config"):
        arguments = change if function == "set_provider_config" else {}
        refusal = web.refusal(function, **arguments, api_key_id=key_id(module_database))
        assert refusal.sqlstate == "42883"  # the function takes no API key
    assert _stored(module_database) == config


def test_the_server_reads_the_sealed_secrets_without_an_actor_and_an_analyst_does_not(
    module_database: Database, web: Caller
) -> None:
    config = configure_provider(module_database)
    assert web.row("get_provider_config", provider_type="stripe")["config_data"] == config
    with session(module_database, "t_analyst") as analyst:
        refusal = analyst.refusal("get_provider_config", provider_type="stripe")
        assert refusal.sqlstate == "42501"


def test_changes_at_once_lose_none(database: Database) -> None:
    secrets = {f"secret_{number}": sealed(f"s{number:04}") for number in range(20)}
    calls = [
        partial(
            Caller.row,
            function="set_provider_config",
            provider_type="stripe",
            config_data=json.dumps({name: secret}),
        )
        for name, secret in secrets.items()
    ]
    assert len(at_once(database, calls, 20)) == 20
    assert _stored(database) == secrets
    assert sorted(row[0]["changed"] for row in _audited(database)) == sorted(
        [name] for name in secrets
    )
