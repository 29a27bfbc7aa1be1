"""Signing in: who is let in, tickets and links that are good once, sessions and how they end."""

from __future__ import annotations

import hashlib
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.sql.helpers import (
    NO_SESSION,
    Caller,
    Refusal,
    at_once,
    key_id,
    new_user,
    session,
    set_staff_domain,
    staff,
)
from tests.support import Database, unique, wait_for


@pytest.fixture(scope="module", autouse=True)
def example_domain(module_database: Database) -> None:
    set_staff_domain(module_database)


def _hash() -> bytes:
    return hashlib.sha256(uuid.uuid4().bytes).digest()


def _email() -> str:
    return f"{unique('ada')}@example.com"


def _sign_in(caller: Caller, email: str, **arguments: Any) -> dict[str, Any]:
    return caller.row("sign_in_admin", **_as_given(email, **arguments))


def _refused_sign_in(caller: Caller, email: str, **arguments: Any) -> Refusal:
    return caller.refusal("sign_in_admin", **_as_given(email, **arguments))


def _as_given(email: str, **arguments: Any) -> dict[str, Any]:
    google = f"google's {email.lower()}"
    return {"email": email, "google_id": google, "session_hash": _hash(), **arguments}


def _end_invitation(database: Database, email: str) -> None:
    database.execute(
        "UPDATE billing_data.admin_users SET invited_until = now() - interval '1 second'"
        " WHERE email = %s",
        email,
    )


def _member(database: Database, email: str) -> dict[str, Any]:
    with session(database, "postgres") as root:
        (row,) = root.execute("SELECT * FROM billing_data.admin_users WHERE email = %s", email)
    return row


def _audited(database: Database, admin_user_id: uuid.UUID) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = database.execute(
        "SELECT l.action, l.changes, l.reason FROM billing_data.admin_audit_logs AS l"
        " WHERE l.resource_id = %s ORDER BY l.created_at, l.action",
        str(admin_user_id),
    )
    return rows


def _age(database: Database, table: str, column: str, value: bytes, seconds: int) -> None:
    """Makes a ticket or session that many seconds older."""
    database.execute(
        f"UPDATE billing_data.{table} SET expires_at = expires_at - make_interval(secs => %s)"
        f" WHERE {column} = %s",
        seconds,
        value,
    )


def _assert_argument(caller: Caller, function: str, argument: str, **arguments: Any) -> None:
    refusal = caller.refusal(function, **arguments)
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument"), refusal
    assert refusal.detail["argument"] == argument


# --- who is let in -------------------------------------------------------------------------------


def test_somebody_new_becomes_a_viewer_and_has_a_session_for_a_day(
    module_database: Database, web: Caller
) -> None:
    email, opened = _email(), _hash()
    found = _sign_in(
        web, email.upper(), session_hash=opened, full_name="Ada", picture_url="https://x.test/a.png"
    )
    assert (found["email"], found["full_name"], found["role"]) == (email, "Ada", "viewer")
    mine = web.row("get_session", session_hash=opened)
    left = mine.pop("expires_at") - datetime.now(UTC)
    assert timedelta(hours=23, minutes=59) < left <= timedelta(hours=24)
    assert mine == {**found, "picture_url": "https://x.test/a.png", "is_active": True}
    assert _audited(module_database, found["admin_user_id"]) == [
        ("admin.add", {"email": email, "role": "viewer"}, "first sign-in"),
        ("admin.sign_in", {"by": "identity provider"}, None),
    ]
    assert _member(module_database, email)["last_login_at"] is not None


def test_whom_the_operator_named_becomes_an_administrator_at_their_first_sign_in_only(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    staff(module_database, "admin")
    email = _email()
    assert dba.value("seed_founders", emails=[email.upper(), email]) == 1
    assert dba.value("seed_founders", emails=[email]) == 0  # invited already
    assert _sign_in(web, email)["role"] == "admin"
    dba.row("set_admin", email=email, role="viewer", reason="a test")
    assert dba.value("seed_founders", emails=[email]) == 0
    assert _sign_in(web, email)["role"] == "viewer"


def test_an_operators_invitation_is_renewed_until_it_was_followed(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    email = _email()
    dba.value("seed_founders", emails=[email])
    _end_invitation(module_database, email)
    assert _refused_sign_in(web, email).slug == "admin_not_invited"
    assert dba.value("seed_founders", emails=[email]) == 1
    assert _sign_in(web, email)["role"] == "admin"
    assert dba.value("seed_founders", emails=[email]) == 0
    assert _sign_in(web, email)["role"] == "admin"


def test_an_administrators_address_is_of_no_use_to_another_account(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    email, opened = _email(), _hash()
    dba.row("add_admin", email=email, role="admin")
    assert _sign_in(web, email, google_id="hers" + email, session_hash=opened)["role"] == "admin"
    before = _member(module_database, email)
    refusal = _refused_sign_in(web, email, google_id="his" + email)
    assert refusal.slug == "admin_not_invited"
    assert refusal.detail == {"email": email}  # and not whose it is
    assert _member(module_database, email) == before
    assert dba.row("add_admin", email=email, role="admin")["role"] == "admin"  # changes nothing
    assert _refused_sign_in(web, email, google_id="his" + email).slug == "admin_not_invited"
    # Who has another account now is invited again; what was open under the old one ends.
    dba.value("invite_admin", email=email, reason="a new account")
    assert web.rows("get_session", session_hash=opened) == []
    assert _sign_in(web, email, google_id="his" + email)["role"] == "admin"
    assert _refused_sign_in(web, email, google_id="hers" + email).slug == "admin_not_invited"


@pytest.mark.parametrize("how", ["add_admin", "set_admin"])
def test_who_becomes_an_administrator_signs_in_again_and_nobody_else_is_carried_along(
    module_database: Database, web: Caller, dba: Caller, how: str
) -> None:
    email, planted = _email(), _hash()
    _sign_in(web, email, google_id="made up" + email, session_hash=planted)
    dba.row(how, email=email, role="admin", reason="promoted")
    assert web.rows("get_session", session_hash=planted) == []
    assert web.refusal("list_accounts", session_hash=planted).slug == "session_over"
    assert _sign_in(web, email, google_id="true" + email)["role"] == "admin"
    assert _refused_sign_in(web, email, google_id="made up" + email).slug == "admin_not_invited"


def test_an_invitation_lasts_seven_days(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    email = _email()
    dba.row("add_admin", email=email, role="admin")
    until = module_database.value(
        "SELECT u.invited_until FROM billing_data.admin_users AS u WHERE u.email = %s", email
    )
    left = until - datetime.now(UTC)
    assert timedelta(days=6, hours=23) < left <= timedelta(days=7)
    _end_invitation(module_database, email)
    refusal = _refused_sign_in(web, email)
    assert (refusal.sqlstate, refusal.slug) == ("PB403", "admin_not_invited")
    assert _member(module_database, email)["google_id"] is None


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
    email, opened, token, other = _email(), _hash(), _hash(), _hash()
    _sign_in(web, email, session_hash=opened)
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
    ada, opened = staff(module_database, "admin"), _hash()
    email = _email()
    _sign_in(web, email, session_hash=opened)
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
        opened = _session(web, owner.email)
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
    email = _email()
    added = dba.row("add_admin", email=email, full_name="Ada", role="admin")
    found = _sign_in(web, email, full_name="Ada Lovelace", picture_url="https://x.test/1")
    assert found == {
        "admin_user_id": added["admin_user_id"],
        "email": email,
        "full_name": "Ada Lovelace",
        "role": "admin",
    }
    for nothing in (None, ""):
        again = _sign_in(web, email, full_name=nothing)
        assert again["full_name"] == "Ada Lovelace"
    assert _member(module_database, email)["picture_url"] == "https://x.test/1"
    actions = [row[0] for row in _audited(module_database, added["admin_user_id"])]
    assert actions == ["admin.add", "admin.sign_in", "admin.sign_in", "admin.sign_in"]


def test_without_a_name_somebody_new_is_called_as_their_address_begins(web: Caller) -> None:
    email = _email()
    assert _sign_in(web, email, full_name="")["full_name"] == email.split("@")[0]


def test_names_and_pictures_that_are_too_long_are_cut(
    module_database: Database, web: Caller
) -> None:
    email = _email()
    for _ in range(2):
        found = _sign_in(web, email, full_name="ä" * 300, picture_url="https://x.test/" + "p" * 600)
        assert found["full_name"] == "ä" * 255
        assert len(_member(module_database, email)["picture_url"]) == 512


def test_the_same_person_under_a_new_address_is_a_new_member_and_the_old_one_lets_go(
    module_database: Database, web: Caller
) -> None:
    old, new, google = _email(), _email(), unique("google")
    first = _sign_in(web, old, google_id=google)
    second = _sign_in(web, new, google_id=google)
    assert second["admin_user_id"] != first["admin_user_id"]
    assert _member(module_database, old)["google_id"] is None
    assert _member(module_database, new)["google_id"] == google


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
    refusal = web.refusal("sign_in_admin", email=email, google_id="1", session_hash=_hash())
    assert (refusal.sqlstate, refusal.slug) == ("PB403", "admin_domain_refused")
    assert refusal.message == f"Only @example.com emails are allowed. Got: {email}"
    assert module_database.value("SELECT count(*) FROM billing_data.admin_users") == before


def test_the_domain_is_the_setting_whatever_its_case(database: Database) -> None:
    set_staff_domain(database, "Example.ORG")
    with session(database, "t_web") as web:
        assert _sign_in(web, "Ada@EXAMPLE.org")["email"] == "ada@example.org"
        refusal = web.refusal(
            "sign_in_admin", email="ada@example.com", google_id="1", session_hash=_hash()
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
    good = {"email": _email(), "google_id": "1", "session_hash": _hash()}
    _assert_argument(web, "sign_in_admin", argument, **{**good, **arguments})


def test_who_is_deactivated_is_refused_and_nothing_about_them_changes(
    module_database: Database, web: Caller
) -> None:
    gone = staff(module_database, "admin", active=False)
    email = gone.email
    before, opened = _member(module_database, email), _hash()
    refusal = web.refusal(
        "sign_in_admin",
        email=email,
        google_id="1",
        session_hash=opened,
        full_name="Other",
    )
    assert (refusal.sqlstate, refusal.slug) == ("PB403", "admin_deactivated")
    assert refusal.message == f"User account {email} is deactivated"
    assert _member(module_database, email) == before
    assert web.rows("get_session", session_hash=opened) == []


def test_somebody_new_who_signs_in_many_times_at_once_is_one_member(database: Database) -> None:
    set_staff_domain(database)
    for n in range(5):
        google, email = f"google-{n}", f"ada{n}@example.com"
        hashes = [_hash() for _ in range(20)]
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
        added = [row for row in _audited(database, found[0]["admin_user_id"]) if "add" in row[0]]
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
            session_hash=_hash(),
        )
        for n in range(40)
    ]
    assert len(at_once(database, calls, 20, "t_web")) == 40
    assert database.value("SELECT count(*) FROM billing_data.admin_users") == 4
    assert database.value("SELECT count(google_id) FROM billing_data.admin_users") == 1


# --- tickets -------------------------------------------------------------------------------------


def test_a_ticket_is_good_once_and_for_ten_minutes(module_database: Database, web: Caller) -> None:
    ticket = _hash()
    expires_at = web.value("create_sign_in_ticket", ticket_hash=ticket)
    left = expires_at - datetime.now(UTC)
    assert timedelta(minutes=9, seconds=50) < left <= timedelta(minutes=10)
    assert web.value("use_sign_in_ticket", ticket_hash=ticket) is True
    assert web.value("use_sign_in_ticket", ticket_hash=ticket) is False
    for seconds, good in ((590, True), (601, False)):
        ticket = _hash()
        web.value("create_sign_in_ticket", ticket_hash=ticket)
        _age(module_database, "sign_in_tickets", "ticket_hash", ticket, seconds)
        assert web.value("use_sign_in_ticket", ticket_hash=ticket) is good


@pytest.mark.parametrize("ticket", [bytes(32), b"", None])
def test_a_ticket_that_never_was_is_not_good(web: Caller, ticket: bytes | None) -> None:
    assert web.value("use_sign_in_ticket", ticket_hash=ticket) is False


@pytest.mark.parametrize("ticket", [b"", bytes(31), bytes(33), None])
def test_a_ticket_is_made_of_a_hash(web: Caller, ticket: bytes | None) -> None:
    _assert_argument(web, "create_sign_in_ticket", "p_ticket_hash", ticket_hash=ticket)


def test_tickets_that_are_over_are_cleared_away(database: Database) -> None:
    with session(database, "t_web") as web:
        old = _hash()
        web.value("create_sign_in_ticket", ticket_hash=old)
        _age(database, "sign_in_tickets", "ticket_hash", old, 601)
        new = _hash()
        web.value("create_sign_in_ticket", ticket_hash=new)
        rows = database.execute("SELECT t.ticket_hash FROM billing_data.sign_in_tickets AS t")
        assert rows == [(new,)]


def test_a_ticket_that_many_use_at_once_is_good_for_one(module_database: Database) -> None:
    tickets = [_hash() for _ in range(10)]
    with session(module_database, "t_web") as web:
        for ticket in tickets:
            web.value("create_sign_in_ticket", ticket_hash=ticket)
    calls = [
        partial(Caller.value, function="use_sign_in_ticket", ticket_hash=ticket)
        for ticket in tickets
        for _ in range(20)
    ]
    assert sum(at_once(module_database, calls, 20, "t_web")) == len(tickets)


# --- links ---------------------------------------------------------------------------------------


def _link(dba: Caller, email: str) -> bytes:
    ticket = _hash()
    dba.value("create_sign_in_link", email=email, ticket_hash=ticket)
    return ticket


def _added(dba: Caller, role: str = "viewer") -> str:
    email: str = dba.row("add_admin", email=_email(), role=role)["email"]
    return email


def test_a_link_signs_its_owner_in_once(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    email, opened = _added(dba, "admin"), _hash()
    link = _link(dba, email.upper())
    found = web.row("use_sign_in_link", ticket_hash=link, session_hash=opened)
    assert (found["email"], found["role"]) == (email, "admin")
    assert web.row("get_session", session_hash=opened)["admin_user_id"] == found["admin_user_id"]
    again = _hash()
    assert web.rows("use_sign_in_link", ticket_hash=link, session_hash=again) == []
    assert web.rows("get_session", session_hash=again) == []
    last = _audited(module_database, found["admin_user_id"])[-1]
    assert last == ("admin.sign_in", {"by": "link"}, None)


@pytest.mark.parametrize(("seconds", "rows"), [(590, 1), (601, 0)])
def test_a_link_is_good_for_ten_minutes(
    module_database: Database, dba: Caller, web: Caller, seconds: int, rows: int
) -> None:
    link = _link(dba, _added(dba))
    _age(module_database, "sign_in_tickets", "ticket_hash", link, seconds)
    assert len(web.rows("use_sign_in_link", ticket_hash=link, session_hash=_hash())) == rows


def test_a_link_that_many_use_at_once_opens_one_session(
    module_database: Database, dba: Caller
) -> None:
    link = _link(dba, _added(dba))
    calls = [
        partial(Caller.rows, function="use_sign_in_link", ticket_hash=link, session_hash=_hash())
        for _ in range(40)
    ]
    assert sorted(map(len, at_once(module_database, calls, 20, "t_web"))) == [0] * 39 + [1]


def test_a_link_is_no_ticket_and_a_ticket_no_link(dba: Caller, web: Caller) -> None:
    link, ticket = _link(dba, _added(dba)), _hash()
    web.value("create_sign_in_ticket", ticket_hash=ticket)
    assert web.value("use_sign_in_ticket", ticket_hash=link) is False
    assert web.rows("use_sign_in_link", ticket_hash=ticket, session_hash=_hash()) == []
    # Neither was used up by the wrong door.
    assert web.value("use_sign_in_ticket", ticket_hash=ticket) is True
    assert len(web.rows("use_sign_in_link", ticket_hash=link, session_hash=_hash())) == 1


def test_a_link_of_somebody_deactivated_since_opens_nothing(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    email = _added(dba)
    link, opened = _link(dba, email), _hash()
    dba.row("set_admin", email=email, is_active=False, reason="a test")
    assert web.rows("use_sign_in_link", ticket_hash=link, session_hash=opened) == []
    assert dba.refusal("create_sign_in_link", email=email, ticket_hash=_hash()).slug == (
        "admin_not_found"
    )


def test_a_faulty_link_is_refused(dba: Caller, web: Caller) -> None:
    email = _added(dba)
    for bad in (None, b"", bytes(31)):
        _assert_argument(dba, "create_sign_in_link", "p_ticket_hash", email=email, ticket_hash=bad)
        _assert_argument(
            web, "use_sign_in_link", "p_session_hash", ticket_hash=_hash(), session_hash=bad
        )
    refusal = dba.refusal("create_sign_in_link", email="nobody@example.com", ticket_hash=_hash())
    assert (refusal.sqlstate, refusal.slug) == ("PB404", "admin_not_found")


# --- sessions ------------------------------------------------------------------------------------


def _session(web: Caller, email: str) -> bytes:
    opened = _hash()
    _sign_in(web, email, session_hash=opened)
    return opened


def test_a_session_ends_when_its_owner_signs_out_and_no_other_does(
    module_database: Database, web: Caller
) -> None:
    email = _email()
    here, there = _session(web, email), _session(web, email)
    assert web.value("end_session", session_hash=here) is True
    assert web.rows("get_session", session_hash=here) == []
    assert web.value("end_session", session_hash=here) is False
    assert len(web.rows("get_session", session_hash=there)) == 1
    actions = [row[0] for row in _audited(module_database, _member(module_database, email)["id"])]
    assert actions.count("admin.sign_out") == 1


@pytest.mark.parametrize(("seconds", "rows"), [(24 * 3600 - 10, 1), (24 * 3600 + 1, 0)])
def test_a_session_ends_after_a_day(
    module_database: Database, web: Caller, seconds: int, rows: int
) -> None:
    opened = _session(web, _email())
    _age(module_database, "admin_sessions", "session_hash", opened, seconds)
    assert len(web.rows("get_session", session_hash=opened)) == rows


def test_sessions_that_are_over_are_cleared_away_by_the_next_sign_in(database: Database) -> None:
    set_staff_domain(database)
    with session(database, "t_web") as web:
        old = _session(web, "ada@example.com")
        _age(database, "admin_sessions", "session_hash", old, 24 * 3600 + 1)
        new = _session(web, "ben@example.com")
    rows = database.execute("SELECT s.session_hash FROM billing_data.admin_sessions AS s")
    assert rows == [(new,)]


@pytest.mark.parametrize("unknown", [bytes(32), b"", None])
def test_no_session_belongs_to_nobody(web: Caller, unknown: bytes | None) -> None:
    assert web.rows("get_session", session_hash=unknown) == []
    assert web.value("end_session", session_hash=unknown) is False


def test_deactivation_ends_every_session_and_reactivation_brings_none_back(
    dba: Caller, web: Caller
) -> None:
    email, other = _email(), _session(web, _email())
    mine = [_session(web, email) for _ in range(3)]
    dba.row("set_admin", email=email, is_active=False, reason="left")
    assert [web.rows("get_session", session_hash=hash_) for hash_ in mine] == [[]] * 3
    dba.row("set_admin", email=email, is_active=True, reason="came back")
    assert [web.rows("get_session", session_hash=hash_) for hash_ in mine] == [[]] * 3
    assert len(web.rows("get_session", session_hash=other)) == 1


def test_a_session_shows_the_role_of_this_moment(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    staff(module_database, "admin")
    email = _email()
    opened = _session(web, email)
    assert web.row("get_session", session_hash=opened)["role"] == "viewer"
    # More is never given to who came in before it was given: they sign in again.
    dba.row("set_admin", email=email, role="admin", reason="a test")
    assert web.rows("get_session", session_hash=opened) == []
    opened = _session(web, email)
    for role in ("admin", "viewer"):
        dba.row("set_admin", email=email, role=role, reason="a test")
        assert web.row("get_session", session_hash=opened)["role"] == role


def test_a_sign_in_by_link_during_a_deactivation_leaves_no_session(
    module_database: Database, dba: Caller
) -> None:
    email = _added(dba)
    link, opened = _link(dba, email), _hash()
    used = threading.Event()

    def use() -> list[dict[str, Any]]:
        with session(module_database, "t_web") as other:
            used.set()
            return other.rows("use_sign_in_link", ticket_hash=link, session_hash=opened)

    with (
        ThreadPoolExecutor(1) as pool,
        session(module_database, "t_dba", autocommit=False) as deactivating,
    ):
        deactivating.row("set_admin", email=email, is_active=False, reason="a test")
        answer = pool.submit(use)
        assert used.wait(20)
        _wait_for_a_waiting_session(module_database)
        deactivating.connection.commit()
        assert answer.result(20) == []
    rows = module_database.execute(
        "SELECT 1 FROM billing_data.admin_sessions AS s WHERE s.session_hash = %s", opened
    )
    assert rows == []


def _wait_for_a_waiting_session(database: Database) -> None:
    wait_for(
        lambda: database.value(
            "SELECT count(*) FROM pg_stat_activity AS a WHERE a.wait_event_type = 'Lock'"
            " AND a.datname = current_database()"
        ),
        "a session that waits for a lock",
    )


def test_a_token_tells_whose_it_is_also_when_they_are_deactivated(
    module_database: Database, web: Caller
) -> None:
    viewer = staff(module_database, "viewer")
    gone = staff(module_database, "admin", active=False)
    assert web.row("get_session", session_hash=viewer.session_hash)["is_active"] is True
    found = web.row("get_session", session_hash=gone.session_hash)
    assert (found["admin_user_id"], found["role"], found["is_active"]) == (gone.id, "admin", False)
    assert web.rows("get_session", session_hash=NO_SESSION) == []
    assert web.rows("get_session", session_hash=None) == []


@pytest.mark.parametrize(
    ("user", "function", "arguments"),
    [
        (
            "t_web",
            "sign_in_admin",
            {"email": "ada@example.com", "google_id": "d", "session_hash": bytes(32)},
        ),
        ("t_dba", "set_admin", {"email": "durable@example.com", "reason": "a test"}),
    ],
)
def test_signing_in_and_changing_staff_commit_durably(
    module_database: Database, dba: Caller, user: str, function: str, arguments: dict[str, Any]
) -> None:
    dba.row("add_admin", email="durable@example.com")
    with session(module_database, user, autocommit=False) as caller:
        caller.execute("SET synchronous_commit = off")
        caller.row(function, **arguments)
        assert caller.execute("SHOW synchronous_commit") == [{"synchronous_commit": "on"}]
        caller.connection.rollback()


# --- changing staff ------------------------------------------------------------------------------


def test_a_role_is_changed_and_the_audit_log_says_from_what_to_what(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    ada = staff(module_database, "admin")
    email = _added(dba)
    changed = web.row(
        "set_admin",
        email=email.upper(),
        role="admin",
        reason="promoted",
        session_hash=ada.session_hash,
    )
    assert (changed["email"], changed["role"], changed["is_active"]) == (email, "admin", True)
    rows = module_database.execute(
        "SELECT l.changes, l.reason, l.admin_user_id, l.database_role"
        " FROM billing_data.admin_audit_logs AS l"
        " WHERE l.action = 'admin.set' AND l.resource_id = %s",
        str(changed["admin_user_id"]),
    )
    before, after = {"role": "viewer", "is_active": True}, {"role": "admin", "is_active": True}
    changes = {"email": email, "before": before, "after": after}
    assert rows == [(changes, "promoted", ada.id, None)]


def test_a_change_that_changes_nothing_is_not_recorded(
    module_database: Database, dba: Caller
) -> None:
    email = _added(dba)
    for arguments in ({}, {"role": "viewer"}, {"is_active": True}):
        changed = dba.row("set_admin", email=email, reason="a test", **arguments)
    actions = [row[0] for row in _audited(module_database, changed["admin_user_id"])]
    assert actions == ["admin.add"]


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"role": "root"}, "p_role"),
        ({"role": ""}, "p_role"),
        ({"reason": ""}, "p_reason"),
        ({"reason": None}, "p_reason"),
    ],
)
def test_a_faulty_change_of_staff_is_refused(
    dba: Caller, arguments: dict[str, Any], argument: str
) -> None:
    good = {"email": _added(dba), "role": "admin", "reason": "a test"}
    _assert_argument(dba, "set_admin", argument, **{**good, **arguments})


@pytest.mark.parametrize("email", ["nobody@example.com", "", "%", None])
def test_nobody_is_changed(dba: Caller, email: str | None) -> None:
    refusal = dba.refusal("set_admin", email=email, reason="a test")
    assert (refusal.sqlstate, refusal.slug) == ("PB404", "admin_not_found")


@pytest.mark.parametrize(
    ("function", "change"),
    [
        ("set_admin", {"role": "viewer", "reason": "a test"}),
        ("set_admin", {"is_active": False, "reason": "a test"}),
        ("set_admin", {"role": "viewer", "is_active": False, "reason": "a test"}),
        ("add_admin", {"role": "viewer"}),
        ("add_admin", {}),
    ],
)
def test_the_last_active_administrator_stays_one(
    database: Database, function: str, change: dict[str, Any]
) -> None:
    last = staff(database, "admin")
    staff(database, "viewer")
    staff(database, "admin", active=False)
    with session(database, "t_dba") as dba, session(database, "t_web") as web:
        email = last.email
        opened = _session(web, email)
        for caller, actor in ((dba, {}), (web, {"session_hash": last.session_hash})):
            refusal = caller.refusal(function, email=email, **change, **actor)
            assert (refusal.sqlstate, refusal.slug) == ("PB409", "last_admin")
        assert web.row("get_session", session_hash=opened)["role"] == "admin"
        staff(database, "admin")
        changed = web.row(function, email=email, **change, session_hash=last.session_hash)
        assert changed["role"] == "viewer" or not changed["is_active"]


def test_a_viewer_and_somebody_deactivated_may_go_when_there_is_no_administrator(
    database: Database,
) -> None:
    set_staff_domain(database)
    with session(database, "t_dba") as dba:
        email = dba.row("add_admin", email="ada@example.com")["email"]
        assert not dba.row("set_admin", email=email, is_active=False, reason="x")["is_active"]
        assert dba.row("add_admin", email=email)["is_active"]


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("change", [{"role": "viewer"}, {"is_active": False}], ids=str)
def test_administrators_who_remove_each_other_at_once_leave_one(
    database: Database, count: int, change: dict[str, Any]
) -> None:
    people = [staff(database, "admin") for _ in range(count)]
    gate = threading.Barrier(count)

    def remove(n: int) -> str | None:
        with session(database, "t_web") as web:
            gate.wait(20)
            try:
                web.row(
                    "set_admin",
                    email=people[(n + 1) % count].email,
                    reason="a test",
                    session_hash=people[n].session_hash,
                    **change,
                )
            except psycopg.Error as error:
                return error.diag.constraint_name
        return None

    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(remove, range(count)))
    left = database.value(
        "SELECT count(*) FROM billing_data.admin_users AS u WHERE u.role = 'admin' AND u.is_active"
    )
    assert left >= 1
    assert left == count - answers.count(None)
    assert set(answers) <= {None, "last_admin", "admin_role_required", "admin_deactivated"}


def test_staff_are_listed_for_staff(module_database: Database, web: Caller) -> None:
    viewer = staff(module_database, "viewer")
    email = viewer.email
    _session(web, email)
    rows = {row["email"]: row for row in web.rows("list_admins", session_hash=viewer.session_hash)}
    assert rows[email]["last_login_at"] is not None
    assert list(rows) == sorted(rows)


def test_who_was_deactivated_can_neither_read_nor_write_from_then_on(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    staff(module_database, "admin")
    ada = staff(module_database, "admin")
    who = new_user(module_database)
    web.row("get_account", **who, session_hash=ada.session_hash)
    email = ada.email
    dba.row("set_admin", email=email, is_active=False, reason="a test")
    for function in ("get_account", "create_credit"):
        extra = {"amount_minor": 1} if function == "create_credit" else {}
        refusal = web.refusal(function, **who, **extra, session_hash=ada.session_hash)
        assert refusal.slug == "admin_deactivated"
    assert web.row("get_account", **who, api_key_id=key_id(module_database))
