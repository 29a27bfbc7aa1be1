"""Staff, settings, and what the service asks the database about itself."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from server.migrate import latest_step
from tests.sql.helpers import (
    BIGGEST,
    Caller,
    at_once,
    key_id,
    person,
    session,
    set_staff_domain,
    staff,
)
from tests.support import Database, unique


@pytest.fixture(scope="module", autouse=True)
def example_domain(module_database: Database) -> None:
    set_staff_domain(module_database)


def _email() -> str:
    return f"{unique('ada')}@example.com"


def test_a_staff_member_is_added_as_a_viewer_named_after_their_address(
    module_database: Database, dba: Caller
) -> None:
    email = _email()
    answer = dba.row("add_admin", email=email)
    assert (answer["email"], answer["role"], answer["is_active"]) == (email, "viewer", True)
    assert answer["full_name"] == email.split("@")[0]
    rows = module_database.execute(
        "SELECT l.action, l.resource_type, l.changes, l.database_role"
        " FROM billing_data.admin_audit_logs AS l WHERE l.resource_id = %s",
        str(answer["admin_user_id"]),
    )
    changes = {
        "email": email,
        "role": "viewer",
        "before": None,
        "after": {"role": "viewer", "is_active": True},
    }
    assert rows == [("admin.add", "admin_user", changes, "t_dba")]


def test_adding_again_changes_role_and_name_and_brings_them_back(
    module_database: Database, dba: Caller
) -> None:
    email = _email()
    staff(module_database, "admin")  # there is another administrator when this one becomes a viewer
    first = dba.row("add_admin", email=email, full_name="Ada", role="viewer")
    module_database.execute(
        "UPDATE billing_data.admin_users SET is_active = false WHERE email = %s", email
    )
    again = dba.row("add_admin", email=email.upper(), role="admin")
    assert again["admin_user_id"] == first["admin_user_id"]
    assert (again["role"], again["full_name"], again["is_active"]) == ("admin", "Ada", True)
    renamed = dba.row("add_admin", email=email, full_name="Ada Lovelace")
    assert (renamed["role"], renamed["full_name"]) == ("viewer", "Ada Lovelace")


def test_an_administrator_adds_another(module_database: Database, web: Caller) -> None:
    ada = staff(module_database, "admin")
    added = web.row("add_admin", email=_email(), role="admin", session_hash=ada.session_hash)
    actor = module_database.value(
        "SELECT l.admin_user_id FROM billing_data.admin_audit_logs AS l WHERE l.resource_id = %s",
        str(added["admin_user_id"]),
    )
    assert actor == ada.id


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"email": None}, "p_email"),
        ({"email": ""}, "p_email"),
        ({"email": "ada"}, "p_email"),
        ({"email": "@example.com"}, "p_email"),
        ({"email": "ada@other.example.com"}, "p_email"),
        ({"email": "ada@example.com.evil.example.org"}, "p_email"),
        ({"email": "ada@notexample.com"}, "p_email"),
        ({"email": "ada@evil.example.org@example.com"}, "p_email"),
        ({"email": "ada lovelace@example.com"}, "p_email"),
        ({"email": "ada@example.com\n"}, "p_email"),
        ({"email": "a" * 244 + "@example.com"}, "p_email"),
        ({"role": "super_admin"}, "p_role"),
        ({"role": None}, "p_role"),
        ({"full_name": ""}, "p_full_name"),
        ({"full_name": "x" * 256}, "p_full_name"),
    ],
    ids=lambda value: (
        ",".join(f"{k}={str(v)[:34]!r}" for k, v in value.items())
        if isinstance(value, dict)
        else ""
    ),
)
def test_a_faulty_argument_is_named(dba: Caller, arguments: dict[str, Any], argument: str) -> None:
    refusal = dba.refusal("add_admin", **{"email": _email(), **arguments})
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
    assert refusal.detail["argument"] == argument


def test_staff_come_from_the_configured_domain(database: Database) -> None:
    set_staff_domain(database, "Example.ORG")
    with session(database, "t_dba") as dba:
        refusal = dba.refusal("add_admin", email="ada@example.com")
        assert refusal.message == "Invalid p_email: only addresses at example.org are allowed"
        assert dba.row("add_admin", email="Ada@EXAMPLE.org")["email"] == "ada@example.org"


def test_an_active_staff_member_is_found_by_address_in_any_case(
    module_database: Database, dba: Caller
) -> None:
    email = _email()
    added = dba.row("add_admin", email=email, role="admin")
    found = dba.row("get_admin", email=email.upper())
    assert found == {name: added[name] for name in ("admin_user_id", "email", "full_name", "role")}
    module_database.execute(
        "UPDATE billing_data.admin_users SET is_active = false WHERE email = %s", email
    )
    refusal = dba.refusal("get_admin", email=email)
    assert (refusal.sqlstate, refusal.slug) == ("PB404", "admin_not_found")
    assert refusal.message == f"Staff member not found: {email}"
    assert refusal.detail == {"email": email}
    assert refusal.hint == "SELECT * FROM billing.list_admins();"


@pytest.mark.parametrize("email", ["nobody@example.com", "%", "", None])
def test_nobody_is_not_found(dba: Caller, email: str | None) -> None:
    assert dba.refusal("get_admin", email=email).slug == "admin_not_found"


def test_staff_are_listed_by_address_inactive_ones_included(database: Database) -> None:
    set_staff_domain(database)
    with session(database, "t_dba") as dba:
        for name in ("cleo", "ada", "ben"):
            dba.row("add_admin", email=f"{name}@example.com")
        database.execute("UPDATE billing_data.admin_users SET is_active = (email ~ '^a')")
        rows = dba.rows("list_admins")
    assert [row["email"].split("@")[0] for row in rows] == ["ada", "ben", "cleo"]
    assert [row["is_active"] for row in rows] == [True, False, False]


# --- settings ------------------------------------------------------------------------------------


def test_settings_are_the_defaults_until_they_are_seeded(database: Database) -> None:
    with session(database, "t_web") as web:
        assert web.row("get_settings") == {
            "free_uses": 3,
            "pack_uses": 20,
            "pack_price_minor": 500,
            "pack_currency": "USD",
            "admin_email_domain": "ciris.ai",
            "low_balance": None,
        }


def test_settings_are_seeded_once(database: Database) -> None:
    database.execute("UPDATE billing_data.settings SET seeded_at = NULL")
    with session(database, "t_dba") as dba:
        seeded = {
            "free_uses": 5,
            "pack_uses": 50,
            "pack_price_minor": 999,
            "pack_currency": "EUR",
            "admin_email_domain": "example.com",
        }
        assert dba.value("seed_settings", **seeded) is True
        assert dba.row("get_settings") == {**seeded, "low_balance": None}
        assert dba.value("seed_settings", free_uses=9) is False
        assert dba.row("get_settings") == {**seeded, "low_balance": None}


def test_the_first_deploy_seeds_even_with_nothing_given(database: Database) -> None:
    assert database.value("SELECT s.seeded_at IS NOT NULL FROM billing_data.settings AS s")
    with session(database, "t_dba") as dba:
        assert dba.value("seed_settings", free_uses=9) is False
        assert dba.row("get_settings")["free_uses"] == 3


def test_what_is_not_given_keeps_its_default(database: Database) -> None:
    database.execute("UPDATE billing_data.settings SET seeded_at = NULL")
    with session(database, "t_dba") as dba:
        assert dba.value("seed_settings", pack_uses=7) is True
        settings = dba.row("get_settings")
    assert (settings["pack_uses"], settings["free_uses"]) == (7, 3)


@pytest.mark.parametrize(
    "change",
    [{"free_uses": -1}, {"pack_uses": 0}, {"pack_price_minor": 0}, {"pack_currency": "usd"}],
    ids=str,
)
def test_senseless_settings_are_refused(database: Database, change: dict[str, Any]) -> None:
    database.execute("UPDATE billing_data.settings SET seeded_at = NULL")
    with session(database, "t_dba") as dba:
        assert dba.refusal("seed_settings", **change).sqlstate in ("PB422", "23514")
        assert dba.row("get_settings")["free_uses"] == 3


def test_there_is_one_row_of_settings_and_no_second(database: Database) -> None:
    with session(database, "postgres") as root:
        for value in ("true", "false"):
            refusal = root.refused(f"INSERT INTO billing_data.settings (id) VALUES ({value})")
            assert refusal.sqlstate in ("23505", "23514")


PRICING = {"free_uses": 5, "pack_uses": 50, "pack_price_minor": 999, "pack_currency": "EUR"}
DEFAULTS = {"free_uses": 3, "pack_uses": 20, "pack_price_minor": 500, "pack_currency": "USD"}


def _audited_pricing(database: Database) -> list[Any]:
    return database.execute(
        "SELECT changes, reason, admin_user_id, database_role FROM billing_data.admin_audit_logs"
        " WHERE action = 'settings.set_pricing' AND resource_type = 'settings' ORDER BY created_at"
    )


def test_an_administrator_changes_the_price_and_it_is_audited(database: Database) -> None:
    ada = staff(database, "admin")
    with session(database, "t_web") as web:
        changed = web.row(
            "set_pricing", reason="new year", **PRICING, session_hash=ada.session_hash
        )
        assert changed == PRICING
        assert web.row("get_settings") == {
            **PRICING, "admin_email_domain": "example.com", "low_balance": None,
        }  # fmt: skip
        answer = web.row("check_credit", **person(), api_key_id=key_id(database))
    assert (answer["free_uses_remaining"], answer["purchase_required"]) == (5, False)
    changes = {"before": DEFAULTS, "after": PRICING}
    assert _audited_pricing(database) == [(changes, "new year", ada.id, None)]


@pytest.mark.parametrize("name", PRICING)
def test_what_is_not_named_keeps_its_value(database: Database, name: str) -> None:
    with session(database, "t_dba") as dba:
        changed = dba.row("set_pricing", reason="a test", **{name: PRICING[name]})
    assert changed == {**DEFAULTS, name: PRICING[name]}
    assert [row[3] for row in _audited_pricing(database)] == ["t_dba"]


def test_a_change_that_changes_nothing_is_not_audited(database: Database) -> None:
    with session(database, "t_dba") as dba:
        assert dba.row("set_pricing", reason="a test") == DEFAULTS
        assert dba.row("set_pricing", reason="a test", **DEFAULTS) == DEFAULTS
    assert _audited_pricing(database) == []


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"reason": ""}, "p_reason"),
        ({"reason": None}, "p_reason"),
        ({"free_uses": -1}, "p_free_uses"),
        ({"pack_uses": 0}, "p_pack_uses"),
        ({"pack_price_minor": 0}, "p_pack_price_minor"),
        ({"pack_price_minor": -1}, "p_pack_price_minor"),
        ({"pack_currency": "usd"}, "p_pack_currency"),
        ({"pack_currency": "US"}, "p_pack_currency"),
        ({"pack_currency": "EURO"}, "p_pack_currency"),
    ],
    ids=str,
)
def test_a_senseless_price_is_refused(
    database: Database, change: dict[str, Any], argument: str
) -> None:
    with session(database, "t_dba") as dba:
        refusal = dba.refusal("set_pricing", **{"reason": "a test", **change})
        assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
        assert refusal.detail["argument"] == argument
        assert {name: dba.row("get_settings")[name] for name in DEFAULTS} == DEFAULTS
    assert _audited_pricing(database) == []


def test_the_smallest_and_the_largest_price_are_taken(database: Database) -> None:
    with session(database, "t_dba") as dba:
        for number, price in ((1, 50), (BIGGEST, 99_999_999)):
            sizes = {"pack_uses": number, "pack_price_minor": price}
            assert dba.row("set_pricing", reason="a test", free_uses=number - 1, **sizes)
        assert dba.row("check_credit", **person())["free_uses_remaining"] == BIGGEST - 1


def test_prices_changed_at_once_follow_each_other_in_the_audit_log(database: Database) -> None:
    calls = [
        partial(Caller.row, function="set_pricing", reason="a test", pack_price_minor=price)
        for price in range(51, 71)
    ]
    at_once(database, calls, 10)
    rows = _audited_pricing(database)
    assert len(rows) == 20
    chain = {
        row[0]["before"]["pack_price_minor"]: row[0]["after"]["pack_price_minor"] for row in rows
    }
    price, seen = 500, []
    while price in chain:
        price = chain.pop(price)
        seen.append(price)
    assert sorted(seen) == list(range(51, 71))
    with session(database, "t_dba") as dba:
        assert dba.row("get_settings")["pack_price_minor"] == price


@pytest.mark.parametrize("function", ["set_pricing", "set_provider_config"])
def test_what_changes_the_set_up_commits_durably(database: Database, function: str) -> None:
    with session(database, "t_dba", autocommit=False) as dba:
        dba.execute("SET synchronous_commit = off")
        arguments = {"set_pricing": {}, "set_provider_config": {"provider_type": "stripe"}}
        dba.row(function, reason="a test", **arguments[function])
        assert dba.execute("SHOW synchronous_commit") == [{"synchronous_commit": "on"}]
        dba.connection.rollback()


def test_the_schema_version_is_the_newest_step(web: Caller) -> None:
    assert web.value("get_schema_version") == latest_step()


def test_the_domain_of_staff_is_changed_in_small_letters_and_audited(database: Database) -> None:
    with session(database, "t_dba") as dba:
        for given, kept in (("Example.COM", "example.com"), ("example.com", "example.com")):
            assert dba.value("set_admin_domain", domain=given, reason="a new name") == kept
        for wrong in ("", "example", "@example.com", "a b.com", "x" * 300 + ".com", None):
            assert dba.refusal("set_admin_domain", domain=wrong, reason="x").sqlstate == "PB422"
        assert dba.refusal("set_admin_domain", domain="example.org", reason=" ").sqlstate == "PB422"
        assert dba.row("add_admin", email="Ada@Example.com")["email"] == "ada@example.com"
    changes = database.execute(
        "SELECT changes, reason, database_role FROM billing_data.admin_audit_logs"
        " WHERE action = 'settings.set_admin_domain'"
    )
    assert changes == [({"before": "ciris.ai", "after": "example.com"}, "a new name", "t_dba")]
