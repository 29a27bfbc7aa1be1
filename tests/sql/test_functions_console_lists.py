"""The console's lists: checks, purchases, events, keys and the audit log."""

from __future__ import annotations

import ipaddress
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.sql.console import account_id_of, assert_argument_refused
from tests.sql.helpers import (
    NOBODY,
    Caller,
    charge_all,
    new_user,
    session,
    staff,
)
from tests.sql.payments import (
    EMAIL,
    PRICE,
    USES,
    attach,
    begin,
    bought,
    configure_provider,
    deliver,
    give_back,
)
from tests.support import Database

# --- checks --------------------------------------------------------------------------------------


def test_an_accounts_checks_are_listed_newest_first_with_why_they_were_denied(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    who = new_user(module_database)
    other = new_user(module_database)
    dba.row("check_credit", **who, context_agent_id="a", context_channel_id="c",
            context_request_id="r")  # fmt: skip
    charge_all(dba, [who] * 3)
    denied = dba.row("check_credit", **who)
    dba.row("set_account_status", **who, status="suspended", reason="a test")
    dba.row("check_credit", **who)
    dba.row("check_credit", **other)
    viewer = staff(module_database, "viewer")
    account = account_id_of(module_database, who)
    rows = web.rows("list_checks", account_id=account, session_hash=viewer.session_hash)
    assert [row["has_credit"] for row in rows] == [False, False, True, True]
    assert all(row["denial_reason"] for row in rows[:2])
    assert "suspended" in rows[0]["denial_reason"].lower()
    assert [row["denial_reason"] for row in rows[2:]] == [None, None]
    assert (rows[1]["free_uses_remaining"], denied["has_credit"]) == (0, False)
    context = ("context_agent_id", "context_channel_id", "context_request_id")
    assert [rows[2][name] for name in context] == ["a", "c", "r"]
    assert [row["created_at"] for row in rows] == sorted(
        (row["created_at"] for row in rows), reverse=True
    )
    pages = [
        row
        for offset in range(4)
        for row in dba.rows("list_checks", account_id=account, limit=1, offset=offset)
    ]
    assert pages == rows
    assert dba.rows("list_checks", account_id=NOBODY) == []
    assert dba.rows("list_checks", account_id=None) == []


# --- purchases -----------------------------------------------------------------------------------


def test_purchases_are_listed_by_what_became_of_them(database: Database) -> None:
    configure_provider(database)
    with session(database, "t_dba") as dba:
        ada, ben = new_user(database, free=False), new_user(database)
        offered = begin(dba, ada)
        pending = begin(dba, ben)
        attach(dba, pending, "pi_pending")
        _, settled = bought(database, ada)
        _, returned = bought(database, ada)
        charge_all(dba, [{**ada, "amount_minor": USES * 2 - 5}])
        give_back(dba, returned, ("re_1", PRICE // 2), ("re_2", PRICE // 4))
        _, again = bought(database, ben)
        give_back(dba, again, ("re_3", PRICE))
        give_back(dba, again, ("re_3", PRICE), withdrawn=False)

        def listed(**arguments: Any) -> list[Any]:
            return [row["payment_id"] for row in dba.rows("list_purchases", **arguments)]

        everything = [again, returned, settled, "pi_pending", None]
        assert listed() == everything
        assert listed(status="offered") == [None]
        assert listed(status="pending") == ["pi_pending"]
        assert listed(status="settled") == [again, returned, settled]
        assert returned in listed(status="returned")
        assert settled not in listed(status="returned")
        assert listed(account_id=offered["account_id"]) == [returned, settled, None]
        assert listed(account_id=offered["account_id"], status="pending") == []
        assert listed(account_id=offered["account_id"], status="returned") == [returned]
        assert listed(account_id=NOBODY) == []
        pages = [payment for offset in range(0, 6, 2) for payment in listed(limit=2, offset=offset)]
        assert pages == everything
        rows = {row["payment_id"]: row for row in dba.rows("list_purchases")}
    figures = ("returned_minor", "uses_taken_back", "shortfall")
    assert [rows[returned][name] for name in figures] == [PRICE * 3 // 4, 5, USES * 3 // 4 - 5]
    for payment in (settled, again, None):
        assert [rows[payment][name] for name in figures] == [0, 0, 0]
    assert {row["status"] for row in rows.values()} == {"offered", "pending", "settled"}
    row = rows[settled]
    assert (row["account_id"], row["external_id"]) == (offered["account_id"], ada["external_id"])
    assert (row["customer_email"], row["provider"], row["uses"]) == (EMAIL, "stripe", USES)
    assert (row["price_minor"], row["currency"], row["price_text"]) == (PRICE, "USD", "$5.00")
    assert (row["settled_at"] is not None, rows[None]["settled_at"]) == (True, None)


@pytest.mark.parametrize("status", ["", "odd", "SETTLED"])
def test_a_status_that_no_purchase_has_is_refused(dba: Caller, status: str) -> None:
    assert_argument_refused(dba, "list_purchases", "p_status", status=status)


# --- payment events ------------------------------------------------------------------------------


def test_payment_events_are_listed_newest_first_and_say_which_need_attention(
    database: Database,
) -> None:
    configure_provider(database)
    with session(database, "t_dba") as dba:
        who = new_user(database)
        purchase = begin(dba, who)
        deliver(dba, "evt_good", "pi_1", purchase, livemode=False)
        deliver(dba, "evt_good", "pi_1", purchase)
        deliver(dba, "evt_lost", "pi_2")
        deliver(dba, "evt_settled", "pi_3")
        dba.rows("resolve_payment_event", event_id="evt_settled", reason="refunded by hand")
        rows = dba.rows("list_payment_events")
        assert [row["event_id"] for row in rows] == ["evt_settled", "evt_lost", "evt_good"]
        assert [row["needs_attention"] for row in rows] == [False, True, False]
        assert [row["resolution"] for row in rows] == ["refunded by hand", None, None]
        good = rows[2]
        assert (good["deliveries"], good["outcome"], good["livemode"]) == (2, "credited", False)
        assert good["account_id"] == purchase["account_id"]
        assert good["last_received_at"] > good["received_at"]
        assert "payload" not in good
        assert dba.rows("list_payment_events", limit=1, offset=1) == rows[1:2]
        day = str(good["received_at"].date())
        for filters in (
            {}, {"event_id": "evt_lost"}, {"payment_id": "pi_1"}, {"event_id": "evt_none"},
            {"from": day, "to": day}, {"to": "2026-01-01"}, {"from": "9999-01-01"},
        ):  # fmt: skip
            found = len(dba.rows("list_payment_events", **filters))
            counted = dba.row("count_payment_events", **filters)
            assert counted == {"events": found, "is_more": False}
        assert dba.row("count_payment_events", most=2) == {"events": 2, "is_more": True}
        for most in (0, 1_000_001, None):
            for count in (
                "count_payment_events", "count_audit_log", "count_deliveries", "count_caps",
                "count_payment_problems",
            ):  # fmt: skip
                assert_argument_refused(dba, count, "p_most", most=most)


# --- the audit log -------------------------------------------------------------------------------


def _logged(caller: Caller, **arguments: Any) -> list[str]:
    """The actions that a filter finds; they are as many as are counted for it."""
    actions = [row["action"] for row in caller.rows("list_audit_log", **arguments)]
    count = partial(caller.row, "count_audit_log", **arguments)
    assert count() == {"entries": len(actions), "is_more": False}
    if actions:
        most = len(actions)
        assert count(most=most) == {"entries": most, "is_more": False}
    if len(actions) > 1:
        assert count(most=most - 1) == {"entries": most - 1, "is_more": True}
    return actions


def test_the_audit_log_is_filtered_by_person_action_thing_and_day(database: Database) -> None:
    ada, who = staff(database, "admin"), new_user(database)
    account = account_id_of(database, who)
    database.create_key()
    with session(database, "t_web") as web, session(database, "t_dba") as dba:
        email = ada.email
        by_ada = partial(web.row, session_hash=ada.session_hash)
        by_ada("adjust_credits", account_id=account, amount=5, reason="one")
        dba.row("adjust_credits", account_id=account, amount=6, reason="two")
        by_ada("reset_free_uses", account_id=account, free_uses=9, reason="x")
        rows = web.rows("list_audit_log", session_hash=staff(database, "viewer").session_hash)
        assert [(row["action"], row["who"]) for row in rows[2:]] == [
            ("account.reset_free_uses", email),
            ("account.adjust_credits", "t_dba"),
            ("account.adjust_credits", email),
            ("api_key.create", "t_dba"),
            ("admin.create_token", "t_dba"),
            ("admin.add", "t_dba"),
        ]
        assert (rows[3]["resource_type"], rows[3]["resource_id"]) == ("account", str(account))
        assert (rows[3]["reason"], rows[3]["changes"]["after"]) == ("two", 11)
        mine = ["account.reset_free_uses", "account.adjust_credits"]
        assert _logged(dba, who=email) == _logged(dba, who=email.upper()) == mine
        assert _logged(dba, who="t_web") == mine  # the login of the session that did it for Ada
        assert _logged(dba, who="t_dba", action="account") == ["account.adjust_credits"]
        assert _logged(dba, who=email[:-1]) == _logged(dba, who="%") == []
        both = ["account.adjust_credits"] * 2
        assert _logged(dba, action="account.adjust_credits") == both
        assert _logged(dba, action="account") == ["account.reset_free_uses", *both]
        for nothing in ("acc", "account.", "account.adjust", "%", "a_count", "' OR true"):
            assert _logged(dba, action=nothing) == []
        assert len(_logged(dba, resource_id=str(account))) == 3
        assert _logged(dba, resource_id=str(account)[:-1]) == []
        assert _logged(dba, resource_id=str(account), who=email, action="account") == mine
        for empty in ({"who": ""}, {"action": ""}, {"resource_id": ""}):
            assert len(_logged(dba, **empty)) == len(rows)
        pages = [
            row
            for offset in range(0, len(rows), 2)
            for row in dba.rows("list_audit_log", limit=2, offset=offset)
        ]
        assert pages == rows


def test_days_of_the_audit_log_are_of_utc_and_both_ends_are_included(database: Database) -> None:
    for n, moment in enumerate(
        (
            "2026-03-01 23:59:59.999999Z",
            "2026-03-02 00:00Z",
            "2026-03-02 23:59:59.999999Z",
            "2026-03-03 00:00Z",
        )
    ):
        database.execute(
            "INSERT INTO billing_data.admin_audit_logs (action, resource_type, created_at,"
            " database_role) VALUES (%s, 'test', %s, 'test')",
            f"a{n}",
            moment,
        )
    with session(database, "t_dba") as dba:
        for zone in ("UTC", "Pacific/Kiritimati", "America/Los_Angeles"):
            dba.execute(f"SET TimeZone = '{zone}'")
            assert _logged(dba) == ["a3", "a2", "a1", "a0"]
            assert _logged(dba, **{"from": "2026-03-02", "to": "2026-03-02"}) == ["a2", "a1"]
            assert _logged(dba, **{"from": "2026-03-02"}) == ["a3", "a2", "a1"]
            assert _logged(dba, to="2026-03-02") == ["a2", "a1", "a0"]
            assert _logged(dba, **{"from": "2026-03-03", "to": "2026-03-02"}) == []


def test_the_audit_log_says_from_where_staff_acted(database: Database) -> None:
    ada = staff(database, "admin")
    account = account_id_of(database, new_user(database))
    with session(database, "t_web", autocommit=False) as web:
        act = partial(
            web.row, "adjust_credits", account_id=account, amount=1, session_hash=ada.session_hash
        )
        web.execute("SELECT set_config('billing.client_address', '203.0.113.9', true),"
                    " set_config('billing.client_agent', 'Mozilla/5.0 (\"x\")', true)")  # fmt: skip
        act(reason="told")
        web.connection.commit()
        act(reason="not told")  # what the web tier said holds for its transaction only
        web.connection.commit()
        web.execute("SELECT set_config('billing.client_address', '2001:db8::1', true)")
        act(reason="an address alone")
        web.connection.commit()
    with session(database, "t_dba") as dba:
        rows = {row["reason"]: row for row in dba.rows("list_audit_log", action="account")}
    where = {reason: (row["ip_address"], row["user_agent"]) for reason, row in rows.items()}
    assert where == {
        "told": (ipaddress.ip_address("203.0.113.9"), 'Mozilla/5.0 ("x")'),
        "not told": (None, None),
        "an address alone": (ipaddress.ip_address("2001:db8::1"), None),
    }


def test_the_audit_log_says_from_which_address_a_dba_acted_whatever_they_claim(
    database: Database,
) -> None:
    account = account_id_of(database, new_user(database))
    with session(database, "t_dba") as dba:
        expected = dba.execute("SELECT inet_client_addr() AS at")[0]["at"]
        dba.execute("SELECT set_config('billing.client_address', '203.0.113.9', false),"
                    " set_config('billing.client_agent', 'a lie', false)")  # fmt: skip
        dba.row("adjust_credits", account_id=account, amount=1, reason="a test")
        row = dba.row("list_audit_log", action="account")
    assert (row["ip_address"], row["user_agent"]) == (expected, None)
    parameters = psycopg.conninfo.conninfo_to_dict(database.dsn("t_dba"))
    if str(parameters.get("host", "")).startswith("/"):
        assert expected is None, "a session through a socket has no address"


# --- API keys ------------------------------------------------------------------------------------


def test_keys_are_listed_for_viewers(module_database: Database, web: Caller) -> None:
    module_database.create_key()
    rows = web.rows("list_api_keys", session_hash=staff(module_database, "viewer").session_hash)
    assert rows
    assert "key_hash" not in rows[0]
