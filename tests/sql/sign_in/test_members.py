"""Signing in: who may sign in, single-use tickets and links, sessions and how they end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from tests.sql.helpers import (
    Caller,
    Refusal,
    at_once,
    session,
    set_staff_domain,
    staff,
)
from tests.sql.sign_in.helpers import (
    as_given,
    assert_argument_refused,
    audited,
    member_row,
    new_email,
    new_hash,
    new_session,
    sign_in_as,
)
from tests.support import Database, unique


def _refused_sign_in(caller: Caller, email: str, **arguments: Any) -> Refusal:
    return caller.refusal("sign_in_admin", **as_given(email, **arguments))


def _end_invitation(database: Database, email: str) -> None:
    database.execute(
        "UPDATE billing_data.admin_users SET invited_until = now() - interval '1 second'"
        " WHERE email = %s",
        email,
    )


# --- who is let in -------------------------------------------------------------------------------


def test_somebody_new_becomes_a_viewer_and_has_a_session_for_a_day(
    module_database: Database, web: Caller
) -> None:
    email, opened = new_email(), new_hash()
    found = sign_in_as(
        web, email.upper(), session_hash=opened, full_name="Ada", picture_url="https://x.test/a.png"
    )
    assert (found["email"], found["full_name"], found["role"]) == (email, "Ada", "viewer")
    mine = web.row("get_session", session_hash=opened)
    left = mine.pop("expires_at") - datetime.now(UTC)
    assert timedelta(hours=23, minutes=59) < left <= timedelta(hours=24)
    assert mine == {**found, "picture_url": "https://x.test/a.png", "is_active": True}
    assert audited(module_database, found["admin_user_id"]) == [
        ("admin.add", {"email": email, "role": "viewer"}, "first sign-in"),
        ("admin.sign_in", {"by": "identity provider"}, None),
    ]
    assert member_row(module_database, email)["last_login_at"] is not None


def test_whom_the_operator_named_becomes_an_administrator_at_their_first_sign_in_only(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    staff(module_database, "admin")
    email = new_email()
    assert dba.value("seed_founders", emails=[email.upper(), email]) == 1
    assert dba.value("seed_founders", emails=[email]) == 0  # invited already
    assert sign_in_as(web, email)["role"] == "admin"
    dba.row("set_admin", email=email, role="viewer", reason="a test")
    assert dba.value("seed_founders", emails=[email]) == 0
    assert sign_in_as(web, email)["role"] == "viewer"


def test_an_operators_invitation_is_renewed_until_it_was_followed(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    email = new_email()
    dba.value("seed_founders", emails=[email])
    _end_invitation(module_database, email)
    assert _refused_sign_in(web, email).slug == "admin_not_invited"
    assert dba.value("seed_founders", emails=[email]) == 1
    assert sign_in_as(web, email)["role"] == "admin"
    assert dba.value("seed_founders", emails=[email]) == 0
    assert sign_in_as(web, email)["role"] == "admin"


def test_an_administrators_address_is_of_no_use_to_another_account(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    email, opened = new_email(), new_hash()
    dba.row("add_admin", email=email, role="admin")
    assert sign_in_as(web, email, google_id="hers" + email, session_hash=opened)["role"] == "admin"
    before = member_row(module_database, email)
    refusal = _refused_sign_in(web, email, google_id="his" + email)
    assert refusal.slug == "admin_not_invited"
    assert refusal.detail == {"email": email}  # and not whose it is
    assert member_row(module_database, email) == before
    assert dba.row("add_admin", email=email, role="admin")["role"] == "admin"  # changes nothing
    assert _refused_sign_in(web, email, google_id="his" + email).slug == "admin_not_invited"
    # A person who has another account now is invited again; sessions of the old account end.
    dba.value("invite_admin", email=email, reason="a new account")
    assert web.rows("get_session", session_hash=opened) == []
    assert sign_in_as(web, email, google_id="his" + email)["role"] == "admin"
    assert _refused_sign_in(web, email, google_id="hers" + email).slug == "admin_not_invited"


@pytest.mark.parametrize("how", ["add_admin", "set_admin"])
def test_who_becomes_an_administrator_signs_in_again_and_nobody_else_is_carried_along(
    module_database: Database, web: Caller, dba: Caller, how: str
) -> None:
    email, planted = new_email(), new_hash()
    sign_in_as(web, email, google_id="made up" + email, session_hash=planted)
    dba.row(how, email=email, role="admin", reason="promoted")
    assert web.rows("get_session", session_hash=planted) == []
    assert web.refusal("list_accounts", session_hash=planted).slug == "session_over"
    assert sign_in_as(web, email, google_id="true" + email)["role"] == "admin"
    assert _refused_sign_in(web, email, google_id="made up" + email).slug == "admin_not_invited"


def test_an_invitation_lasts_seven_days(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    email = new_email()
    dba.row("add_admin", email=email, role="admin")
    until = module_database.value(
        "SELECT u.invited_until FROM billing_data.admin_users AS u WHERE u.email = %s", email
    )
    left = until - datetime.now(UTC)
    assert timedelta(days=6, hours=23) < left <= timedelta(days=7)
    _end_invitation(module_database, email)
    refusal = _refused_sign_in(web, email)
    assert (refusal.sqlstate, refusal.slug) == ("PB403", "admin_not_invited")
    assert member_row(module_database, email)["google_id"] is None


def test_only_an_active_administrator_is_invited_again(
    module_database: Database, dba: Caller
) -> None:
    viewer, gone = staff(module_database, "viewer"), staff(module_database, "admin", active=False)
    for email in (viewer.email, gone.email, "nobody@example.com", None):
        refusal = dba.refusal("invite_admin", email=email, reason="a test")
        assert refusal.slug == "admin_not_found"


# --- tokens --------------------------------------------------------------------------------------


def test_who_is_signed_in_gets_a_token_of_their_own_and_a_token_gets_none(
    module_database: Database, web: Caller
) -> None:
    email, opened, token, other = new_email(), new_hash(), new_hash(), new_hash()
    sign_in_as(web, email, session_hash=opened)
    made = web.row("create_staff_token", token_hash=token, session_hash=opened)
    assert (made["email"], made["role"]) == (email, "viewer")
    assert web.row("get_session", session_hash=token)["email"] == email
    assert web.rows("list_accounts", session_hash=token) is not None
    for arguments in (
        {"session_hash": token},
        {"session_hash": opened, "email": email},
        {"session_hash": opened, "email": staff(module_database, "admin").email},
    ):
        refusal = web.refusal("create_staff_token", token_hash=other, **arguments)
        assert refusal.slug == "invalid_argument"
    assert web.rows("get_session", session_hash=other) == []


def test_a_hash_that_is_in_use_becomes_nobody_elses(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    ada, opened = staff(module_database, "admin"), new_hash()
    email = new_email()
    sign_in_as(web, email, session_hash=opened)
    dba.row("create_staff_token", token_hash=ada.session_hash, email=ada.email)  # again
    for taken in (opened, ada.session_hash):
        refusal = dba.refusal("create_staff_token", token_hash=taken, email=email)
        assert refusal.slug == "invalid_argument"
    assert web.row("get_session", session_hash=ada.session_hash)["email"] == ada.email


def test_sessions_and_tokens_are_ended_by_their_owner_an_administrator_or_a_dba(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    for ender in ("owner", "admin", "dba"):
        owner, other = staff(module_database, "viewer"), staff(module_database, "viewer")
        opened = new_session(web, owner.email)
        end = {"email": owner.email.upper(), "reason": "lost"}
        refusal = web.refusal("end_staff_sessions", **end, session_hash=other.session_hash)
        assert refusal.slug == "admin_role_required"
        hash_ = (
            owner.session_hash
            if ender == "owner"
            else (staff(module_database, "admin").session_hash)
        )
        ended = (
            dba.value("end_staff_sessions", **end)
            if ender == "dba"
            else web.value("end_staff_sessions", **end, session_hash=hash_)
        )
        assert ended == 2
        for over in (opened, owner.session_hash):
            assert web.refusal("list_accounts", session_hash=over).slug == "session_over"
        assert web.rows("list_accounts", session_hash=other.session_hash) is not None


def test_somebody_known_keeps_their_role_and_gets_their_new_name_and_picture(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    email = new_email()
    added = dba.row("add_admin", email=email, full_name="Ada", role="admin")
    found = sign_in_as(web, email, full_name="Ada Lovelace", picture_url="https://x.test/1")
    assert found == {
        "admin_user_id": added["admin_user_id"],
        "email": email,
        "full_name": "Ada Lovelace",
        "role": "admin",
    }
    for nothing in (None, ""):
        again = sign_in_as(web, email, full_name=nothing)
        assert again["full_name"] == "Ada Lovelace"
    assert member_row(module_database, email)["picture_url"] == "https://x.test/1"
    actions = [row[0] for row in audited(module_database, added["admin_user_id"])]
    assert actions == ["admin.add", "admin.sign_in", "admin.sign_in", "admin.sign_in"]


def test_without_a_name_somebody_new_is_called_as_their_address_begins(web: Caller) -> None:
    email = new_email()
    assert sign_in_as(web, email, full_name="")["full_name"] == email.split("@")[0]


def test_names_and_pictures_that_are_too_long_are_cut(
    module_database: Database, web: Caller
) -> None:
    email = new_email()
    for _ in range(2):
        found = sign_in_as(
            web, email, full_name="ä" * 300, picture_url="https://x.test/" + "p" * 600
        )
        assert found["full_name"] == "ä" * 255
        assert len(member_row(module_database, email)["picture_url"]) == 512


def test_the_same_person_under_a_new_address_is_a_new_member_and_the_old_one_lets_go(
    module_database: Database, web: Caller
) -> None:
    old, new, google = new_email(), new_email(), unique("google")
    first = sign_in_as(web, old, google_id=google)
    second = sign_in_as(web, new, google_id=google)
    assert second["admin_user_id"] != first["admin_user_id"]
    assert member_row(module_database, old)["google_id"] is None
    assert member_row(module_database, new)["google_id"] == google


@pytest.mark.parametrize(
    "email",
    [
        "ada@other.example",
        "ada@example.com.other.example",
        "ada@other.example@example.com",
        "ada@sub.example.com",
        "ada@notexample.com",
        "@example.com",
        "ada lovelace@example.com",
        "ada@example.com\n",
        "ada@example.com ",
        "example.com",
    ],
)
def test_addresses_of_other_domains_are_refused(
    module_database: Database, web: Caller, email: str
) -> None:
    before = module_database.value("SELECT count(*) FROM billing_data.admin_users")
    refusal = web.refusal("sign_in_admin", email=email, google_id="1", session_hash=new_hash())
    assert (refusal.sqlstate, refusal.slug) == ("PB403", "admin_domain_refused")
    assert refusal.message == f"Only @example.com emails are allowed. Got: {email}"
    assert module_database.value("SELECT count(*) FROM billing_data.admin_users") == before


def test_the_domain_is_the_setting_whatever_its_case(database: Database) -> None:
    set_staff_domain(database, "Example.ORG")
    with session(database, "t_web") as web:
        assert sign_in_as(web, "Ada@EXAMPLE.org")["email"] == "ada@example.org"
        refusal = web.refusal(
            "sign_in_admin", email="ada@example.com", google_id="1", session_hash=new_hash()
        )
        assert refusal.slug == "admin_domain_refused"


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"email": None}, "p_email"),
        ({"email": ""}, "p_email"),
        ({"email": "a" * 244 + "@example.com"}, "p_email"),
        ({"google_id": None}, "p_google_id"),
        ({"google_id": ""}, "p_google_id"),
        ({"google_id": "1" * 256}, "p_google_id"),
        ({"session_hash": None}, "p_session_hash"),
        ({"session_hash": bytes(31)}, "p_session_hash"),
        ({"session_hash": bytes(33)}, "p_session_hash"),
    ],
)
def test_a_faulty_sign_in_is_refused(web: Caller, arguments: dict[str, Any], argument: str) -> None:
    good = {"email": new_email(), "google_id": "1", "session_hash": new_hash()}
    assert_argument_refused(web, "sign_in_admin", argument, **{**good, **arguments})


def test_who_is_deactivated_is_refused_and_nothing_about_them_changes(
    module_database: Database, web: Caller
) -> None:
    gone = staff(module_database, "admin", active=False)
    email = gone.email
    before, opened = member_row(module_database, email), new_hash()
    refusal = web.refusal(
        "sign_in_admin",
        email=email,
        google_id="1",
        session_hash=opened,
        full_name="Other",
    )
    assert (refusal.sqlstate, refusal.slug) == ("PB403", "admin_deactivated")
    assert refusal.message == f"User account {email} is deactivated"
    assert member_row(module_database, email) == before
    assert web.rows("get_session", session_hash=opened) == []


def test_somebody_new_who_signs_in_many_times_at_once_is_one_member(database: Database) -> None:
    set_staff_domain(database)
    for n in range(5):
        google, email = f"google-{n}", f"ada{n}@example.com"
        hashes = [new_hash() for _ in range(20)]
        calls = [
            partial(
                Caller.row,
                function="sign_in_admin",
                email=email,
                google_id=google,
                session_hash=hash_,
            )
            for hash_ in hashes
        ]
        found = at_once(database, calls, 20, "t_web")
        assert len({row["admin_user_id"] for row in found}) == 1
        added = [row for row in audited(database, found[0]["admin_user_id"]) if "add" in row[0]]
        assert len(added) == 1
        with session(database, "t_web") as web:
            assert all(web.rows("get_session", session_hash=hash_) for hash_ in hashes)


def test_one_person_under_many_addresses_at_once_ends_up_with_one(database: Database) -> None:
    set_staff_domain(database)
    calls = [
        partial(
            Caller.row,
            function="sign_in_admin",
            email=f"ada{n % 4}@example.com",
            google_id="the same",
            session_hash=new_hash(),
        )
        for n in range(40)
    ]
    assert len(at_once(database, calls, 20, "t_web")) == 40
    assert database.value("SELECT count(*) FROM billing_data.admin_users") == 4
    assert database.value("SELECT count(google_id) FROM billing_data.admin_users") == 1
