"""Caps on charges: at their limits, for whom they count, what they tell, and how they are set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.sql.caps import account_id, cap_now, charge_list, no_caps, rotated, set_cap, used
from tests.sql.helpers import (
    BIGGEST,
    NOBODY,
    Caller,
    account_of,
    key_id,
    ledger_problems,
    new_user,
    outcomes,
    session,
    staff,
)
from tests.sql.merges import merge, user
from tests.support import Database, unique


@pytest.fixture(autouse=True)
def _caps_go(dba: Caller) -> Any:
    yield
    no_caps(dba)


# --- at the limit --------------------------------------------------------------------------------


def test_what_equals_the_limit_passes_and_one_more_is_refused(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=100, free=False)
    cap = set_cap(dba, "account", 10, account_id(module_database, who))
    assert dba.row("create_charge", **who, amount_minor=7)["balance_after"] == 93
    refusal = dba.refusal("create_charge", **who, amount_minor=4)
    assert (refusal.sqlstate, refusal.slug) == ("PB402", "account_cap_reached")
    assert dba.row("create_charge", **who, amount_minor=3)["balance_after"] == 90
    assert dba.refusal("create_charge", **who).slug == "account_cap_reached"
    told = cap_now(dba, cap)
    assert (told["used_minor"], told["left_minor"]) == (10, 0)
    assert account_of(module_database, who)["paid_credits"] == 90
    assert ledger_problems(module_database) == []


def test_a_limit_of_0_refuses_everything_and_a_greater_one_lets_it_pass_at_once(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database)
    cap = set_cap(dba, "all", 0)
    assert dba.refusal("create_charge", **who).slug == "cap_reached"
    raised = set_cap(dba, "all", 1)
    assert raised["cap_id"] == cap["cap_id"]
    dba.row("create_charge", **who)
    assert dba.refusal("create_charge", **who).slug == "cap_reached"


def test_a_refusal_says_which_cap_it_was_how_much_is_used_and_when_it_frees(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=100)
    cap = set_cap(dba, "all", 10, period="month")
    dba.row("create_charge", **who, amount_minor=8)
    refusal = dba.refusal("create_charge", **who, amount_minor=3)
    frees = f"{cap['resets_at'].astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    assert refusal.sqlstate == "PB429"
    assert refusal.message == (
        f"Cap of 10 per month for all charges reached, 8 used; it frees at {frees}"
    )
    assert refusal.detail.items() >= {
        "cap_id": str(cap["cap_id"]), "scope": "all", "period": "month", "limit": 10, "used": 8,
        "required": 3, "resets_at": frees,
    }.items()  # fmt: skip
    assert refusal.hint is not None
    assert "billing.set_cap" in refusal.hint


def test_a_free_use_counts_its_amount_too(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database)
    cap = set_cap(dba, "all", 10)
    assert dba.row("create_charge", **who, amount_minor=10)["paid_with"] == "free"
    assert used(dba, cap) == 10
    assert dba.refusal("create_charge", **who).slug == "cap_reached"
    assert account_of(module_database, who)["free_uses_remaining"] == 2


def test_what_the_credits_refuse_counts_nothing_and_is_told_as_before(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=1, free=False)
    cap = set_cap(dba, "all", 5)
    assert dba.refusal("create_charge", **who, amount_minor=2).slug == "insufficient_credits"
    assert dba.refusal("create_charge", **who, amount_minor=9).slug == "insufficient_credits"
    assert used(dba, cap) == 0


# --- whom a cap is for ---------------------------------------------------------------------------


def test_a_keys_cap_covers_the_keys_it_was_rotated_from_and_to_and_no_other(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    first = key_id(module_database)
    second = rotated(module_database, first)
    cap = set_cap(dba, "api_key", 3, second)
    third = rotated(module_database, second)
    for key in (first, second, third):
        assert web.row("create_charge", **new_user(module_database), api_key_id=key)
    assert used(dba, cap) == 3
    who = new_user(module_database)
    for key in (first, second, third):
        assert web.refusal("create_charge", **who, api_key_id=key).slug == "cap_reached"
    other = key_id(module_database)
    assert web.row("create_charge", **who, api_key_id=other)
    assert dba.row("create_charge", **who)
    assert used(dba, cap) == 3


def test_a_key_is_named_by_its_first_characters_and_a_cap_shows_whose_it_is(
    module_database: Database, dba: Caller
) -> None:
    key = module_database.create_key(name="Scout")
    cap = set_cap(dba, "api_key", 3, key.prefix)
    assert (cap["subject"], cap["subject_name"]) == (key.id, f"Scout ({key.prefix}...)")
    who = new_user(module_database)
    named = set_cap(dba, "account", 3, f"{who['oauth_provider']}:{who['external_id']}")
    assert named["subject"] == account_id(module_database, who)
    assert named["subject_name"] == f"{who['oauth_provider']}:{who['external_id']}"


def test_caps_of_an_agent_and_an_account_count_only_theirs(
    module_database: Database, dba: Caller
) -> None:
    who, other = new_user(module_database, paid=9), new_user(module_database, paid=9)
    agent, account = set_cap(dba, "agent", 2, "scout"), set_cap(
        dba, "account", 4, account_id(module_database, who)
    )  # fmt: skip
    rows = charge_list(
        dba,
        [
            {**other, "metadata_agent_id": "scout"},
            {**other, "metadata_agent_id": "Scout"},
            {**who, "metadata_agent_id": "scout"},
            {**other, "metadata_agent_id": "scout"},
            {**who, "amount_minor": 3},
            {**who},
            {**other, "amount_minor": 5},
        ],
    )
    assert outcomes(rows) == [
        "created", "created", "created", "cap_reached", "created", "account_cap_reached", "created",
    ]  # fmt: skip
    assert (used(dba, agent), used(dba, account)) == (2, 4)
    assert [row["cap"] and row["cap"]["cap_id"] for row in rows] == [
        None, None, None, str(agent["cap_id"]), None, str(account["cap_id"]), None,
    ]  # fmt: skip


def test_of_two_caps_the_one_that_frees_last_is_told_and_a_refusal_counts_on_neither(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=99)
    account = account_id(module_database, who)
    hour, month = set_cap(dba, "all", 5, period="day"), set_cap(
        dba, "account", 6, account, period="month"
    )  # fmt: skip
    dba.row("create_charge", **who, amount_minor=4)
    assert (used(dba, hour), used(dba, month)) == (4, 4)
    assert dba.refusal("create_charge", **who, amount_minor=2).slug == "cap_reached"
    refusal = dba.refusal("create_charge", **who, amount_minor=3)
    assert refusal.slug == "account_cap_reached"
    assert refusal.detail["cap_id"] == str(month["cap_id"])
    assert (used(dba, hour), used(dba, month)) == (4, 4)
    dba.row("create_charge", **who, amount_minor=1)
    assert (used(dba, hour), used(dba, month)) == (5, 5)


def test_an_alert_cap_never_refuses_and_is_marked_once_when_it_is_reached(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=99)
    cap = set_cap(dba, "all", 5, mode="alert")
    dba.row("create_charge", **who, amount_minor=4)
    assert cap_now(dba, cap)["reached_at"] is None
    dba.row("create_charge", **who, amount_minor=1)
    reached = cap_now(dba, cap)["reached_at"]
    assert reached is not None
    dba.row("create_charge", **who, amount_minor=50)
    told = cap_now(dba, cap)
    assert (told["used_minor"], told["left_minor"], told["reached_at"]) == (55, 0, reached)


def test_a_hard_cap_is_marked_by_its_first_refusal_though_it_is_not_used_up(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=99)
    cap = set_cap(dba, "all", 5)
    assert outcomes(charge_list(dba, [{**who, "amount_minor": 6}])) == ["cap_reached"]
    told = cap_now(dba, cap)
    assert (told["used_minor"], told["reached_at"] is None) == (0, False)


def test_the_greatest_amounts_overflow_no_count(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database)
    watched = set_cap(dba, "all", 5, mode="alert")
    bound = set_cap(dba, "all", BIGGEST, period="month")
    assert dba.row("create_charge", **who, amount_minor=BIGGEST)["paid_with"] == "free"
    asked = [{**who, "amount_minor": BIGGEST}, {**who, "amount_minor": 1}]
    assert outcomes(charge_list(dba, asked)) == ["cap_reached", "cap_reached"]
    dba.row("delete_cap", cap_id=bound["cap_id"], reason="a test")
    assert outcomes(charge_list(dba, asked)) == ["created", "created"]
    assert used(dba, watched) == BIGGEST


# --- lists ---------------------------------------------------------------------------------------


def test_a_list_of_1000_that_is_half_over_a_cap_charges_exactly_what_fits(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    users = [new_user(module_database, paid=1000, free=False) for _ in range(3)]
    key = key_id(module_database)
    cap = set_cap(dba, "api_key", 1003, key)
    asked = [{**users[n % 3], "amount_minor": 2, "api_key_id": key} for n in range(1000)]
    rows = charge_list(web, asked)
    assert outcomes(rows) == ["created"] * 501 + ["cap_reached"] * 499
    assert used(dba, cap) == 1002
    assert outcomes(charge_list(web, [{**users[0], "api_key_id": key}])) == ["created"]
    assert used(dba, cap) == 1003
    assert ledger_problems(module_database) == []


def test_a_replay_is_a_replay_when_the_cap_is_reached(
    module_database: Database, dba: Caller
) -> None:
    who, key = new_user(module_database, paid=9), unique()
    cap = set_cap(dba, "all", 2)
    first = charge_list(dba, [{**who, "amount_minor": 2, "idempotency_key": key}])
    again = charge_list(
        dba,
        [
            {**who, "amount_minor": 2, "idempotency_key": key},
            {**who, "amount_minor": 3, "idempotency_key": key},
            {**who, "idempotency_key": unique()},
            {**who, "amount_minor": 0},
        ],
    )
    assert outcomes(again) == ["replayed", "conflict", "cap_reached", "invalid_argument"]
    assert again[0]["charge_id"] == first[0]["charge_id"]
    assert [row["cap"] is None for row in again] == [True, True, False, True]
    assert used(dba, cap) == 2


def test_a_list_under_one_key_is_answered_as_the_first_time_also_what_a_cap_refused(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    who, key = new_user(module_database, paid=9), key_id(module_database)
    cap = set_cap(dba, "api_key", 1, key)
    statement = (
        "SELECT c.* FROM billing.charge_items_once(p_idempotency_key => %s,"
        " p_request_fingerprint => 'x', p_batch_fingerprint => 'y', p_items => ARRAY("
        " SELECT jsonb_populate_record(NULL::billing.charge_item, jsonb_build_object("
        " 'oauth_provider', %s::text, 'external_id', %s::text, 'amount_minor', 1,"
        " 'currency', 'USD', 'description', 'x', 'api_key_id', %s::text))"
        " FROM generate_series(1, 2))) AS c ORDER BY c.item"
    )
    values = (unique(), who["oauth_provider"], who["external_id"], str(key))
    first = web.execute(statement, *values)
    assert outcomes(first) == ["created", "cap_reached"]
    set_cap(dba, "api_key", 9, key)
    again = web.execute(statement, *values)
    assert [row["replayed"] for row in again] == [True, True]
    assert again[1]["cap"] == first[1]["cap"]
    assert first[1]["cap"]["cap_id"] == str(cap["cap_id"])
    assert used(dba, cap) == 1


# --- what is told afterwards ---------------------------------------------------------------------


def test_a_refusal_by_a_cap_is_explained_and_what_would_help_now(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    who, key = new_user(module_database, paid=9), module_database.create_key(name="Scout")
    account = account_id(module_database, who)
    cap = set_cap(dba, "api_key", 4, key.id)
    asked = {**who, "api_key_id": key.id}
    assert outcomes(charge_list(web, [{**asked, "amount_minor": n} for n in (3, 2)])) == [
        "created", "cap_reached",
    ]  # fmt: skip
    told = dba.row("explain_denial", account_id=account)
    frees = f"{cap['resets_at'].astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    assert told["sentence"].endswith(
        "wanted to charge 2 credits in USD. It was refused because the cap per day for this API"
        f" key was reached: 3 of 4 credits were used until it freed at {frees}."
    )
    assert (told["reason"], told["would_pass_now"]) == ("cap_reached", False)
    assert told["what_helps"] == (
        f"The cap per day for this API key frees at {frees}. An administrator can raise or"
        " delete it."
    )
    set_cap(dba, "api_key", 5, key.id)
    assert dba.row("explain_denial", account_id=account)["would_pass_now"] is True
    set_cap(dba, "api_key", 1, key.id)
    told = dba.row("explain_denial", account_id=account)
    assert "but the charge is more than all of it" in told["what_helps"]


# --- giving back ---------------------------------------------------------------------------------


def test_a_reversal_gives_back_to_the_caps_that_counted_the_charge(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    who, key = new_user(module_database, paid=9, free=False), key_id(module_database)
    asked = {**who, "api_key_id": key}
    early = set_cap(dba, "api_key", 5, key)
    charge = web.row("create_charge", **asked, amount_minor=5, metadata_agent_id="scout")
    late = set_cap(dba, "agent", 5, "scout")
    web.row("create_charge", **who, api_key_id=key_id(module_database), amount_minor=2,
            metadata_agent_id="scout")  # fmt: skip
    back = {"charge_id": charge["charge_id"], "reason": "a test"}
    web.row("reverse_charge", **back, amount=2, api_key_id=key, dry_run=True)
    assert used(dba, early) == 5
    web.row("reverse_charge", **back, amount=2, idempotency_key="k", api_key_id=key)
    web.row("reverse_charge", **back, amount=2, idempotency_key="k", api_key_id=key)
    assert (used(dba, early), used(dba, late)) == (3, 2)
    dba.row("reverse_charge", **back)
    assert (used(dba, early), used(dba, late)) == (0, 2)


def test_a_free_use_that_is_given_back_gives_its_amount_back(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database)
    cap = set_cap(dba, "all", 5)
    charge = dba.row("create_charge", **who, amount_minor=5)
    dba.row("reverse_charge", charge_id=charge["charge_id"], reason="a test")
    assert used(dba, cap) == 0


# --- how they are set ----------------------------------------------------------------------------


def test_caps_go_with_a_merged_account_and_come_back_when_that_is_undone(
    module_database: Database, dba: Caller
) -> None:
    gone, stays, third = (user(module_database, paid=9) for _ in range(3))
    moves, stands = (set_cap(dba, "account", 5, gone.id, period) for period in ("day", "month"))
    own = set_cap(dba, "account", 50, stays.id, "month")
    before = dba.row("create_charge", **gone.who, amount_minor=4)
    merge(module_database, gone, stays)
    assert used(dba, moves) == 4
    for who in (gone.who, stays.who):
        assert dba.refusal("create_charge", **who, amount_minor=2).slug == "account_cap_reached"
    merge(module_database, stays, third)
    later = dba.row("create_charge", **third.who, amount_minor=1)
    assert [used(dba, cap) for cap in (moves, stands, own)] == [5, 4, 1]
    # What was charged before the merge comes back to the caps that counted it.
    for charge in (before, later):
        dba.row("reverse_charge", charge_id=charge["charge_id"], reason="x")
    assert [used(dba, cap) for cap in (moves, stands, own)] == [0, 0, 0]


def test_undoing_a_merge_gives_each_account_its_own_caps_back(
    module_database: Database, dba: Caller
) -> None:
    first, gone, stays = (user(module_database) for _ in range(3))
    set_cap(dba, "account", 1, first.id, "minute")
    set_cap(dba, "account", 2, gone.id, "day")
    merge(module_database, first, gone)
    merge(module_database, gone, stays)
    set_cap(dba, "account", 3, gone.id, "month")
    assert len(dba.rows("list_caps", account_id=first.id)) == 3
    dba.row("undo_merge", account_id=gone.id, reason="two people")
    for account, limits in ((first, {1, 2}), (gone, {1, 2}), (stays, {3})):
        rows = dba.rows("list_caps", account_id=account.id)
        assert {row["limit_minor"] for row in rows} == limits


def test_setting_and_deleting_a_cap_leaves_who_and_why_in_the_audit_log(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    admin = staff(module_database, "admin")
    cap = set_cap(web, "agent", 5, "audited", session_hash=admin.session_hash)
    set_cap(web, "agent", 5, "audited", session_hash=admin.session_hash)
    set_cap(dba, "agent", 7, "audited")
    gone = web.row(
        "delete_cap", cap_id=cap["cap_id"], reason="done", session_hash=admin.session_hash
    )
    assert (gone["limit_minor"], gone["subject"]) == (7, "audited")
    rows = dba.rows("list_audit_log", resource_id=str(cap["cap_id"]))
    assert [(row["action"], row["who"], row["reason"]) for row in rows] == [
        ("cap.delete", admin.email, "done"),
        ("cap.set", "t_dba", "a test"),
        ("cap.set", admin.email, "a test"),
    ]
    assert rows[1]["changes"] == {
        "scope": "agent", "subject": "audited", "period": "day", "mode": "hard", "before": 5,
        "after": 7,
    }  # fmt: skip
    refusal = dba.refusal("delete_cap", cap_id=cap["cap_id"], reason="again")
    assert refusal.slug == "cap_not_found"


def test_a_viewer_sees_caps_and_sets_none(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    viewer = staff(module_database, "viewer")
    cap = set_cap(dba, "all", 5)
    (seen,) = web.rows("list_caps", session_hash=viewer.session_hash)
    assert seen["cap_id"] == cap["cap_id"]
    asked = {"reason": "a test", "session_hash": viewer.session_hash}
    refusal = web.refusal("set_cap", scope="all", period="day", limit_minor=6, **asked)
    assert refusal.slug == "admin_role_required"
    assert web.refusal("delete_cap", cap_id=cap["cap_id"], **asked).slug == "admin_role_required"
    assert cap_now(dba, cap) == seen


@pytest.mark.parametrize(
    ("asked", "argument"),
    [
        ({"scope": "key"}, "p_scope"),
        ({"scope": None}, "p_scope"),
        ({"scope": "all", "subject": "x"}, "p_subject"),
        ({"scope": "agent", "subject": ""}, "p_subject"),
        ({"scope": "agent"}, "p_subject"),
        ({"scope": "agent", "subject": "x" * 256}, "p_subject"),
        ({"period": "hour"}, "p_period"),
        ({"period": None}, "p_period"),
        ({"mode": "soft"}, "p_mode"),
        ({"mode": None}, "p_mode"),
        ({"limit_minor": -1}, "p_limit_minor"),
        ({"limit_minor": None}, "p_limit_minor"),
        ({"reason": " "}, "p_reason"),
    ],
)
def test_a_cap_that_makes_no_sense_is_refused_by_its_argument(
    dba: Caller, asked: dict[str, Any], argument: str
) -> None:
    good = {"scope": "all", "period": "day", "limit_minor": 1, "reason": "a test"}
    refusal = dba.refusal("set_cap", **{**good, **asked})
    assert (refusal.slug, refusal.detail["argument"]) == ("invalid_argument", argument)
    assert dba.rows("list_caps") == []


@pytest.mark.parametrize(
    ("scope", "subject", "slug"),
    [
        ("api_key", str(NOBODY), "api_key_not_found"),
        ("api_key", "cbk_live_none", "api_key_not_found"),
        ("account", "oauth:google:nobody", "account_not_found"),
    ],
)
def test_a_cap_is_for_somebody_that_there_is(
    dba: Caller, scope: str, subject: str, slug: str
) -> None:
    refusal = dba.refusal(
        "set_cap", scope=scope, subject=subject, period="day", limit_minor=1, reason="a test"
    )
    assert refusal.slug == slug


def test_a_limit_below_what_was_used_refuses_and_shows_nothing_left(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=9)
    cap = set_cap(dba, "all", 9)
    dba.row("create_charge", **who, amount_minor=6)
    told = set_cap(dba, "all", 2)
    assert (told["used_minor"], told["left_minor"]) == (6, 0)
    assert dba.refusal("create_charge", **who).detail["used"] == 6
    assert used(dba, cap) == 6


def test_maintenance_deletes_windows_that_are_over_and_keeps_those_that_are_not(
    module_database: Database, dba: Caller
) -> None:
    month, minute = (set_cap(dba, "all", 5, period=period) for period in ("month", "minute"))
    dba.row("create_charge", **new_user(module_database))
    now = datetime.now(UTC)
    for cap, start in (
        (month["cap_id"], now - timedelta(days=70)),
        (minute["cap_id"], now - timedelta(days=1, minutes=2)),
        (minute["cap_id"], now - timedelta(hours=23)),
        (NOBODY, now - timedelta(days=2)),
    ):
        module_database.execute(
            "INSERT INTO billing_data.cap_usage (cap_id, window_start, used_minor)"
            " VALUES (%s, %s, 1)",
            cap,
            start,
        )
    (row,) = dba.rows("maintenance", steps=["caps"])
    assert row["detail"] == "3 windows of caps are over and deleted"
    assert module_database.value("SELECT count(*) FROM billing_data.cap_usage") == 3


def test_a_deleted_cap_leaves_no_count_behind(module_database: Database) -> None:
    with session(module_database, "t_dba") as dba:
        cap = set_cap(dba, "all", 5)
        dba.row("create_charge", **new_user(module_database))
        dba.row("delete_cap", cap_id=cap["cap_id"], reason="a test")
        assert used(dba, set_cap(dba, "all", 5)) == 0
