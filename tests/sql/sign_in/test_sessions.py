"""Tickets, links, sessions and tokens of staff, and their end."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.sql.helpers import (
    NO_SESSION,
    Caller,
    at_once,
    key_id,
    new_user,
    session,
    set_staff_domain,
    staff,
)
from tests.sql.sign_in.helpers import (
    assert_argument_refused,
    audited,
    member_row,
    new_email,
    new_hash,
    new_session,
)
from tests.support import Database, wait_for


def _age(database: Database, table: str, column: str, value: bytes, seconds: int) -> None:
    """Makes a ticket or session this many seconds older."""
    database.execute(
        f"UPDATE billing_data.{table} SET expires_at = expires_at - make_interval(secs => %s)"
        f" WHERE {column} = %s",
        seconds,
        value,
    )


# --- tickets -------------------------------------------------------------------------------------


def test_a_ticket_is_good_once_and_for_ten_minutes(module_database: Database, web: Caller) -> None:
    ticket = new_hash()
    expires_at = web.value("create_sign_in_ticket", ticket_hash=ticket)
    left = expires_at - datetime.now(UTC)
    assert timedelta(minutes=9, seconds=50) < left <= timedelta(minutes=10)
    assert web.value("use_sign_in_ticket", ticket_hash=ticket) is True
    assert web.value("use_sign_in_ticket", ticket_hash=ticket) is False
    for seconds, good in ((590, True), (601, False)):
        ticket = new_hash()
        web.value("create_sign_in_ticket", ticket_hash=ticket)
        _age(module_database, "sign_in_tickets", "ticket_hash", ticket, seconds)
        assert web.value("use_sign_in_ticket", ticket_hash=ticket) is good


@pytest.mark.parametrize("ticket", [bytes(32), b"", None])
def test_a_ticket_that_never_was_is_not_good(web: Caller, ticket: bytes | None) -> None:
    assert web.value("use_sign_in_ticket", ticket_hash=ticket) is False


@pytest.mark.parametrize("ticket", [b"", bytes(31), bytes(33), None])
def test_a_ticket_is_made_of_a_hash(web: Caller, ticket: bytes | None) -> None:
    assert_argument_refused(web, "create_sign_in_ticket", "p_ticket_hash", ticket_hash=ticket)


def test_tickets_that_are_over_are_cleared_away(database: Database) -> None:
    with session(database, "t_web") as web:
        old = new_hash()
        web.value("create_sign_in_ticket", ticket_hash=old)
        _age(database, "sign_in_tickets", "ticket_hash", old, 601)
        new = new_hash()
        web.value("create_sign_in_ticket", ticket_hash=new)
        rows = database.execute("SELECT t.ticket_hash FROM billing_data.sign_in_tickets AS t")
        assert rows == [(new,)]


def test_a_ticket_that_many_use_at_once_is_good_for_one(module_database: Database) -> None:
    tickets = [new_hash() for _ in range(10)]
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
    ticket = new_hash()
    dba.value("create_sign_in_link", email=email, ticket_hash=ticket)
    return ticket


def _added(dba: Caller, role: str = "viewer") -> str:
    email: str = dba.row("add_admin", email=new_email(), role=role)["email"]
    return email


def test_a_link_signs_its_owner_in_once(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    email, opened = _added(dba, "admin"), new_hash()
    link = _link(dba, email.upper())
    found = web.row("use_sign_in_link", ticket_hash=link, session_hash=opened)
    assert (found["email"], found["role"]) == (email, "admin")
    assert web.row("get_session", session_hash=opened)["admin_user_id"] == found["admin_user_id"]
    again = new_hash()
    assert web.rows("use_sign_in_link", ticket_hash=link, session_hash=again) == []
    assert web.rows("get_session", session_hash=again) == []
    last = audited(module_database, found["admin_user_id"])[-1]
    assert last == ("admin.sign_in", {"by": "link"}, None)


@pytest.mark.parametrize(("seconds", "rows"), [(590, 1), (601, 0)])
def test_a_link_is_good_for_ten_minutes(
    module_database: Database, dba: Caller, web: Caller, seconds: int, rows: int
) -> None:
    link = _link(dba, _added(dba))
    _age(module_database, "sign_in_tickets", "ticket_hash", link, seconds)
    assert len(web.rows("use_sign_in_link", ticket_hash=link, session_hash=new_hash())) == rows


def test_a_link_that_many_use_at_once_opens_one_session(
    module_database: Database, dba: Caller
) -> None:
    link = _link(dba, _added(dba))
    calls = [
        partial(Caller.rows, function="use_sign_in_link", ticket_hash=link, session_hash=new_hash())
        for _ in range(40)
    ]
    assert sorted(map(len, at_once(module_database, calls, 20, "t_web"))) == [0] * 39 + [1]


def test_a_link_is_no_ticket_and_a_ticket_no_link(dba: Caller, web: Caller) -> None:
    link, ticket = _link(dba, _added(dba)), new_hash()
    web.value("create_sign_in_ticket", ticket_hash=ticket)
    assert web.value("use_sign_in_ticket", ticket_hash=link) is False
    assert web.rows("use_sign_in_link", ticket_hash=ticket, session_hash=new_hash()) == []
    # Neither was used up by the function for the other kind.
    assert web.value("use_sign_in_ticket", ticket_hash=ticket) is True
    assert len(web.rows("use_sign_in_link", ticket_hash=link, session_hash=new_hash())) == 1


def test_a_link_of_somebody_deactivated_since_opens_nothing(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    email = _added(dba)
    link, opened = _link(dba, email), new_hash()
    dba.row("set_admin", email=email, is_active=False, reason="a test")
    assert web.rows("use_sign_in_link", ticket_hash=link, session_hash=opened) == []
    assert dba.refusal("create_sign_in_link", email=email, ticket_hash=new_hash()).slug == (
        "admin_not_found"
    )


def test_a_faulty_link_is_refused(dba: Caller, web: Caller) -> None:
    email = _added(dba)
    for bad in (None, b"", bytes(31)):
        assert_argument_refused(
            dba, "create_sign_in_link", "p_ticket_hash", email=email, ticket_hash=bad
        )
        assert_argument_refused(
            web, "use_sign_in_link", "p_session_hash", ticket_hash=new_hash(), session_hash=bad
        )
    refusal = dba.refusal("create_sign_in_link", email="nobody@example.com", ticket_hash=new_hash())
    assert (refusal.sqlstate, refusal.slug) == ("PB404", "admin_not_found")


def test_a_session_ends_when_its_owner_signs_out_and_no_other_does(
    module_database: Database, web: Caller
) -> None:
    email = new_email()
    here, there = new_session(web, email), new_session(web, email)
    assert web.value("end_session", session_hash=here) is True
    assert web.rows("get_session", session_hash=here) == []
    assert web.value("end_session", session_hash=here) is False
    assert len(web.rows("get_session", session_hash=there)) == 1
    actions = [row[0] for row in audited(module_database, member_row(module_database, email)["id"])]
    assert actions.count("admin.sign_out") == 1


@pytest.mark.parametrize(("seconds", "rows"), [(24 * 3600 - 10, 1), (24 * 3600 + 1, 0)])
def test_a_session_ends_after_a_day(
    module_database: Database, web: Caller, seconds: int, rows: int
) -> None:
    opened = new_session(web, new_email())
    _age(module_database, "admin_sessions", "session_hash", opened, seconds)
    assert len(web.rows("get_session", session_hash=opened)) == rows


def test_sessions_that_are_over_are_cleared_away_by_the_next_sign_in(database: Database) -> None:
    set_staff_domain(database)
    with session(database, "t_web") as web:
        old = new_session(web, "ada@example.com")
        _age(database, "admin_sessions", "session_hash", old, 24 * 3600 + 1)
        new = new_session(web, "ben@example.com")
    rows = database.execute("SELECT s.session_hash FROM billing_data.admin_sessions AS s")
    assert rows == [(new,)]


@pytest.mark.parametrize("unknown", [bytes(32), b"", None])
def test_no_session_belongs_to_nobody(web: Caller, unknown: bytes | None) -> None:
    assert web.rows("get_session", session_hash=unknown) == []
    assert web.value("end_session", session_hash=unknown) is False


def test_deactivation_ends_every_session_and_reactivation_brings_none_back(
    dba: Caller, web: Caller
) -> None:
    email, other = new_email(), new_session(web, new_email())
    mine = [new_session(web, email) for _ in range(3)]
    dba.row("set_admin", email=email, is_active=False, reason="left")
    assert [web.rows("get_session", session_hash=hash_) for hash_ in mine] == [[]] * 3
    dba.row("set_admin", email=email, is_active=True, reason="came back")
    assert [web.rows("get_session", session_hash=hash_) for hash_ in mine] == [[]] * 3
    assert len(web.rows("get_session", session_hash=other)) == 1


def test_a_session_shows_the_role_of_this_moment(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    staff(module_database, "admin")
    email = new_email()
    opened = new_session(web, email)
    assert web.row("get_session", session_hash=opened)["role"] == "viewer"
    # A session from before a promotion never gets the new rights: the person must sign in again.
    dba.row("set_admin", email=email, role="admin", reason="a test")
    assert web.rows("get_session", session_hash=opened) == []
    opened = new_session(web, email)
    for role in ("admin", "viewer"):
        dba.row("set_admin", email=email, role=role, reason="a test")
        assert web.row("get_session", session_hash=opened)["role"] == role


def test_a_sign_in_by_link_during_a_deactivation_leaves_no_session(
    module_database: Database, dba: Caller
) -> None:
    email = _added(dba)
    link, opened = _link(dba, email), new_hash()
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
    actions = [row[0] for row in audited(module_database, changed["admin_user_id"])]
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
    assert_argument_refused(dba, "set_admin", argument, **{**good, **arguments})


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
        opened = new_session(web, email)
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
    new_session(web, email)
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
