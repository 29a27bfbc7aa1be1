"""An account's timeline, its days, its state in words, and the notes on it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from tests.sql.checks import set_status
from tests.sql.helpers import (
    NOBODY,
    Caller,
    account_of,
    charge_all,
    check_all,
    key_id,
    new_user,
    session,
    staff,
)
from tests.sql.payments import attach, begin, bought, configure_provider, warn
from tests.support import Database, unique


def _pages(caller: Caller, account: Any, limit: int, **more: Any) -> list[dict[str, Any]]:
    """All rows, read page after page."""
    rows: list[dict[str, Any]] = []
    cursor = None
    for _ in range(200):
        page = caller.rows("list_timeline", account_id=account, limit=limit, cursor=cursor, **more)
        rows += [row for row in page if row["kind"] is not None]
        cursor = page[-1]["next_cursor"] if page else None
        if cursor is None:
            return rows
    raise AssertionError("the pages do not end")


@pytest.fixture(scope="module")
def busy(module_database: Database, dba: Caller, web: Caller) -> dict[str, Any]:
    """An account with something of every kind: a check and a charge that were denied, free and paid
    charges, a grant by staff that was reversed in part, a pack, a status that changed, and what an
    account had that was merged into it."""
    who = new_user(module_database, paid=4, free=False)
    account = account_of(module_database, who)["id"]
    key = key_id(module_database)
    admin = staff(module_database, "admin")
    charge_all(web, [{**who, "api_key_id": key, "amount_minor": 4, "description": "a long job"}])
    check_all(web, [{**who, "api_key_id": key, "context_agent_id": "scout"}])
    charge_all(web, [{**who, "api_key_id": key, "amount_minor": 7}] * 2)
    granted = web.row(
        "adjust_credits", account_id=account, amount=9, reason="goodwill",
        session_hash=admin.session_hash,
    )  # fmt: skip
    web.row(
        "reverse_credit", credit_id=granted["credit_id"], amount=2, reason="too much",
        session_hash=admin.session_hash,
    )  # fmt: skip
    for amount in (1, 2, 3):
        dba.row("create_hold", **who, amount_minor=amount, description="a job")
    dba.row("release_hold", hold_id=dba.rows("list_holds", **who)[0]["hold_id"], reason="failed")
    configure_provider(module_database)
    attach(dba, begin(dba, who), unique("pi"))
    for status in ("suspended", "active"):
        dba.row("set_account_status", **who, status=status, reason="a look at it")
    other = new_user(module_database, free=False)
    dba.row("check_credit", **other)
    dba.rows(
        "merge_accounts", account_id=account_of(module_database, other)["id"],
        into_account_id=account, reason="one person",
    )  # fmt: skip
    return {"who": who, "id": account, "admin": admin, "credit": granted["credit_id"]}


def test_a_timeline_tells_of_every_kind_with_writer_reason_and_audit_entry(
    dba: Caller, busy: dict[str, Any]
) -> None:
    rows = dba.rows("list_timeline", account_id=busy["id"], limit=500)
    assert {row["kind"] for row in rows} == {
        "check", "denial", "charge", "credit", "hold", "purchase", "staff",
    }  # fmt: skip
    assert rows == sorted(rows, key=lambda row: row["at"], reverse=True)
    held = [(row["what"], row["amount_minor"]) for row in rows if row["kind"] == "hold"]
    assert held == [("released", 3), ("open", 2), ("open", 1)]
    grant = next(row for row in rows if row["reason"] == "goodwill")
    assert (grant["kind"], grant["what"], grant["id"]) == ("credit", "grant", busy["credit"])
    assert (grant["writer_kind"], grant["writer"]) == ("staff", busy["admin"].email)
    assert (grant["credits_change"], grant["left_to_reverse"]) == (9, 7)
    audit = {row["id"]: row for row in dba.rows("list_audit_log", limit=500)}
    assert audit[grant["audit_id"]]["action"] == "account.adjust_credits"
    undone = next(row for row in rows if row["reason"] == "too much")
    assert (undone["corrects_id"], undone["left_to_reverse"]) == (busy["credit"], 0)
    assert audit[undone["audit_id"]]["action"] == "account.reverse_credit"
    refused = next(row for row in rows if row["kind"] == "denial")
    assert (refused["reason"], refused["amount_minor"]) == ("insufficient_credits", 7)
    assert (refused["writer_kind"], refused["times"]) == ("api_key", 2)
    denied = next(row for row in rows if row["kind"] == "check" and row["agent_id"])
    assert (denied["what"], denied["agent_id"]) == ("denied", "scout")
    job = next(row for row in rows if row["reason"] == "a long job")
    assert (job["kind"], job["credits_change"], job["balance_after"]) == ("charge", -4, 0)
    status = [row for row in rows if row["what"] == "account.set_status"]
    assert [row["changes"]["after"] for row in status] == ["active", "suspended"]
    assert {row["reason"] for row in status} == {"a look at it"}
    (pack,) = [row for row in rows if row["kind"] == "purchase"]
    assert (pack["what"], bool(pack["amount_text"])) == ("pending", True)
    # The check of the account that was merged into this one.
    assert sum(row["kind"] == "check" for row in rows) == 4
    # An act that wrote an entry is told once.
    assert not {"account.adjust_credits", "account.reverse_credit"} & {row["what"] for row in rows}


def test_pages_of_every_size_have_each_row_once_and_in_one_order(
    dba: Caller, busy: dict[str, Any]
) -> None:
    whole = [row["id"] for row in dba.rows("list_timeline", account_id=busy["id"], limit=500)]
    assert len(whole) == len(set(whole)) > 15
    for limit in (1, 2, 3, 7):
        assert [row["id"] for row in _pages(dba, busy["id"], limit)] == whole
    for kinds in (["staff"], ["charge"], ["credit", "hold"], ["hold"], ["check", "denial"]):
        told = dba.rows("list_timeline", account_id=busy["id"], limit=500, kinds=kinds)
        assert told, kinds
        assert {row["kind"] for row in told} == set(kinds), kinds
        paged = [row["id"] for row in _pages(dba, busy["id"], 2, kinds=kinds)]
        assert paged == [row["id"] for row in told]
    acts = {row["what"] for row in _pages(dba, busy["id"], 50, kinds=["staff"])}
    assert acts >= {"account.adjust_credits", "account.reverse_credit", "account.merge"}
    denied = _pages(dba, busy["id"], 1, kinds=["denial"])
    assert [row["what"] for row in denied].count("refused") == 1
    assert [row["what"] for row in denied].count("denied") == 2


def test_a_timeline_begins_with_the_row_that_is_asked_for(
    dba: Caller, busy: dict[str, Any], module_database: Database
) -> None:
    account = busy["id"]
    rows = _pages(dba, account, 500)
    asked = 0
    for place, row in enumerate(rows):
        if row["kind"] in ("charge", "credit", "hold", "purchase"):
            asked += 1
            found = dba.rows("list_timeline", account_id=account, limit=500, row_id=row["id"])
            assert [one["id"] for one in found] == [one["id"] for one in rows[place:]]
            cursor = found[0]["next_cursor"]
            assert cursor is None
            (first, *_) = dba.rows("list_timeline", account_id=account, limit=1, row_id=row["id"])
            assert first["id"] == row["id"]
    assert asked > 8
    other = account_of(module_database, new_user(module_database, paid=1))["id"]
    (theirs,) = dba.rows("list_timeline", account_id=other, kinds=["credit"])
    for wrong in (NOBODY, theirs["id"]):
        refusal = dba.refusal("list_timeline", account_id=account, row_id=wrong)
        assert refusal.slug == "invalid_argument"
        assert refusal.detail["argument"] == "p_row_id"


def test_days_bound_a_timeline_and_rows_that_are_added_shift_no_page(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=20)
    account = account_of(module_database, who)["id"]
    today = datetime.now(UTC).date()
    for _ in range(5):
        dba.row("create_charge", **who)
    assert dba.rows("list_timeline", account_id=account, to=today - timedelta(days=1)) == []
    tomorrow = {"from": today + timedelta(days=1)}
    assert dba.rows("list_timeline", account_id=account, **tomorrow) == []
    assert len(dba.rows("list_timeline", account_id=account, **{"from": today}, to=today)) == 7
    page = dba.rows("list_timeline", account_id=account, limit=3)
    dba.row("create_charge", **who)
    more = dba.rows("list_timeline", account_id=account, limit=500, cursor=page[-1]["next_cursor"])
    assert not {row["id"] for row in page} & {row["id"] for row in more}
    assert len(page) + len(more) == 7


def test_what_is_not_a_timeline_is_refused(
    module_database: Database, dba: Caller, web: Caller, busy: dict[str, Any]
) -> None:
    cursor = dba.rows("list_timeline", account_id=busy["id"], limit=1)[0]["next_cursor"]
    other = account_of(module_database, new_user(module_database))["id"]
    wrong: dict[str, Any]
    for wrong in (
        {"kinds": []},
        {"kinds": ["all"]},
        {"limit": 0},
        {"limit": 501},
        {"cursor": "x"},
        {"cursor": "_" * 64},
        {"account_id": other, "cursor": cursor},
        {"from": date.max},
    ):
        refusal = dba.refusal("list_timeline", **{"account_id": busy["id"], **wrong})
        assert refusal.slug == "invalid_argument", wrong
    for call in ("list_timeline", "list_account_days", "explain_account", "list_notes"):
        assert dba.refusal(call, account_id=NOBODY).slug == "account_not_found"
        assert web.refusal(call, account_id=busy["id"]).slug == "actor_required"
        viewer = staff(module_database, "viewer")
        web.rows(call, account_id=busy["id"], session_hash=viewer.session_hash)


def test_an_entry_whose_clock_was_set_back_keeps_its_place_in_the_books(
    database: Database,
) -> None:
    who = new_user(database, paid=50, free=False)
    account = account_of(database, who)["id"]
    with session(database, "t_dba") as dba:
        for _ in range(6):
            dba.row("create_charge", **who)
        database.execute("ALTER TABLE billing_data.charges DISABLE TRIGGER USER")
        database.execute(
            "UPDATE billing_data.charges SET created_at = created_at - interval '1 hour'"
            " WHERE account_id = %s AND ledger_version IN (6, 8)", account,
        )  # fmt: skip
        whole = [row["id"] for row in dba.rows("list_timeline", account_id=account, limit=500)]
        entries = [
            row["id"]
            for row in dba.rows("list_timeline", account_id=account, kinds=["charge", "credit"])
        ]
        ledger = dba.rows("list_transactions", **who)
        assert entries == [row["transaction_id"] for row in ledger]
        for limit in (1, 2, 3):
            assert [row["id"] for row in _pages(dba, account, limit)] == whole


def test_a_page_of_denials_looks_at_ten_thousand_checks_and_says_where_to_go_on(
    database: Database,
) -> None:
    who = new_user(database)
    account = account_of(database, who)["id"]
    database.execute(
        "INSERT INTO billing_data.credit_checks (id, account_id, oauth_provider, external_id,"
        " has_credit, denial_reason, database_role, created_at)"
        " SELECT gen_random_uuid(), %s, %s, %s, n.n > 1, CASE n.n WHEN 1 THEN 'old' END, 't_dba',"
        " now() - interval '1 hour' + n.n * interval '1 millisecond'"
        " FROM generate_series(1, 12000) AS n (n)",
        account, who["oauth_provider"], who["external_id"],
    )  # fmt: skip
    with session(database, "t_dba") as dba:
        (nothing,) = dba.rows("list_timeline", account_id=account, kinds=["denial"])
        assert nothing["kind"] is None
        (found,) = dba.rows(
            "list_timeline", account_id=account, kinds=["denial"], cursor=nothing["next_cursor"]
        )
        assert (found["reason"], found["next_cursor"]) == ("old", None)


def test_days_count_charges_and_used_credits_as_the_ledger_has_them(
    module_database: Database, dba: Caller, busy: dict[str, Any]
) -> None:
    days = dba.rows("list_account_days", account_id=busy["id"], days=3)
    assert [row["day"] for row in days] == [
        datetime.now(UTC).date() - timedelta(days=back) for back in (2, 1, 0)
    ]
    assert [(row["charges"], row["credits_used"]) for row in days[:2]] == [(0, 0), (0, 0)]
    assert (days[2]["charges"], days[2]["credits_used"]) == (4, 4)  # three of them were free
    usage = dba.rows(
        "list_usage", account_id=busy["id"], **{"from": days[0]["day"]},
        to=days[2]["day"] + timedelta(days=1),
    )  # fmt: skip
    assert [(row["charges"], row["credits_used"]) for row in usage] == [
        (row["charges"], row["credits_used"]) for row in days
    ]
    for wrong in (0, 367, None):
        assert dba.refusal("list_account_days", account_id=busy["id"], days=wrong).slug == (
            "invalid_argument"
        )


def test_a_state_is_told_in_words_with_what_helps(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    configure_provider(module_database)
    who, payment_id = bought(module_database)
    account = account_of(module_database, who)["id"]
    assert dba.rows("explain_account", account_id=account) == []
    warn(dba, payment_id, unique("issfr"))
    (problem,) = dba.rows("explain_account", account_id=account)
    assert (problem["kind"], problem["payment_id"]) == ("payment_problem", payment_id)
    assert "reports fraud" in problem["sentence"]
    set_status(dba, who, "suspended")
    charge_all(web, [{**who, "api_key_id": key_id(module_database)}])
    states = dba.rows("explain_account", account_id=account)
    assert [row["kind"] for row in states] == ["suspended", "payment_problem", "denied"]
    since = states[0]["since"].astimezone(UTC)
    assert f"suspended since {since:%Y-%m-%d %H:%M:%S} UTC, by t_dba: " in states[0]["sentence"]
    assert (states[2]["is_over"], states[2]["credits_needed"]) == (False, None)
    set_status(dba, who, "active")
    states = dba.rows("explain_account", account_id=account)
    assert [(row["kind"], row["is_over"]) for row in states] == [
        ("payment_problem", False), ("denied", True),
    ]  # fmt: skip
    empty = new_user(module_database, free=False)
    account = account_of(module_database, empty)["id"]
    (out,) = dba.rows("explain_account", account_id=account)
    assert (out["kind"], out["credits_needed"]) == ("out_of_credits", 1)
    charge_all(
        web,
        [{**empty, "api_key_id": key_id(module_database), "amount_minor": 5,
          "metadata_agent_id": "scout"}],
    )  # fmt: skip
    denied = dba.rows("explain_account", account_id=account)[-1]
    assert (denied["kind"], denied["agent_id"], denied["credits_needed"]) == ("denied", "scout", 5)
    assert denied["sentence"].endswith("would have been enough. The agent was scout.")
    dba.row("create_credit", **empty, amount_minor=2)
    (denied,) = dba.rows("explain_account", account_id=account)
    assert denied["credits_needed"] == 3
    dba.rows("erase_personal_data", account_id=account, reason="asked for", force=True)
    assert [row["kind"] for row in dba.rows("explain_account", account_id=account)] == ["erased"]


def test_notes_are_written_read_and_removed_and_the_audit_log_has_no_words_of_them(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    account = account_of(module_database, new_user(module_database))["id"]
    viewer, admin = staff(module_database, "viewer"), staff(module_database, "admin")
    for wrong in ("", " \n", "x" * 2001, None):
        assert dba.refusal("add_note", account_id=account, note=wrong).slug == "invalid_argument"
    assert dba.refusal("add_note", account_id=NOBODY, note="x").slug == "account_not_found"
    assert web.refusal(
        "add_note", account_id=account, note="x", session_hash=viewer.session_hash
    ).slug == "admin_role_required"  # fmt: skip
    said = unique("likes letters")
    by_staff = {"session_hash": admin.session_hash}
    note = web.row("add_note", account_id=account, note=said, **by_staff)["note_id"]
    other = account_of(module_database, new_user(module_database))["id"]
    dba.rows("merge_accounts", account_id=account, into_account_id=other, reason="one person")
    (found,) = web.rows("list_notes", account_id=other, session_hash=viewer.session_hash)
    assert (found["note"], found["who"], found["account_id"]) == (said, admin.email, account)
    assert web.refusal("remove_note", note_id=note, session_hash=viewer.session_hash).slug == (
        "admin_role_required"
    )
    assert web.row("remove_note", note_id=note, **by_staff)["changed"]
    assert not web.row("remove_note", note_id=note, **by_staff)["changed"]
    assert dba.rows("list_notes", account_id=other) == []
    log = dba.rows("list_audit_log", resource_id=str(account), limit=500)
    assert {"account.add_note", "account.remove_note"} <= {row["action"] for row in log}
    assert said not in str(log)
