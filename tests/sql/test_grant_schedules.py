"""Credits that are given at a time, or every day, week or month."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.sql.console import assert_argument_refused
from tests.sql.helpers import (
    Caller,
    account_of,
    at_once,
    charge_all,
    ledger_problems,
    new_user,
    outcomes,
    session,
)
from tests.sql.lots import clock_at
from tests.support import Database

WHY = {"reason": "a plan"}
MICROSECOND = timedelta(microseconds=1)


def _day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.fixture(scope="module")
def far_clock(module_database: Database) -> Iterator[None]:
    """The clock of the rules stands in 2027, so that every date of these tests is to come."""
    with clock_at(module_database, _day("2027-12-15 10:00")):
        yield


@pytest.fixture
def account(module_database: Database, far_clock: None) -> dict[str, Any]:
    """Somebody without credits and free uses, with the account's id."""
    who = new_user(module_database, free=False)
    return {**who, "account_id": account_of(module_database, who)["id"]}


def _who(account: dict[str, Any]) -> dict[str, str]:
    return {name: account[name] for name in ("oauth_provider", "external_id")}


def _set(caller: Caller, account: dict[str, Any], amount: int = 20, **more: Any) -> dict[str, Any]:
    arguments = {"account_id": account["account_id"], "amount": amount, **WHY, **more}
    return caller.row("set_grant_schedule", **arguments)


@contextmanager
def _at(database: Database, text: str, less: timedelta = timedelta()) -> Iterator[None]:
    with clock_at(database, _day(text) - less):
        yield


def _balance(caller: Caller, account: dict[str, Any]) -> int:
    balance: int = caller.row("check_credit", **_who(account))["credits_remaining"]
    return balance


@pytest.mark.parametrize(
    ("after", "repeat", "day", "expected"),
    [
        ("2028-01-01", "monthly", 1, "2028-02-01"),
        ("2027-12-31 23:59:59.999999", "monthly", 1, "2028-01-01"),
        ("2028-01-31", "monthly", 31, "2028-02-29"),  # a leap year
        ("2028-02-29", "monthly", 31, "2028-03-31"),
        ("2027-02-01", "monthly", 29, "2027-02-28"),
        ("2028-02-01", "monthly", 29, "2028-02-29"),
        ("2028-02-28", "monthly", 28, "2028-03-28"),
        ("2028-04-01", "monthly", 31, "2028-04-30"),
        ("2100-02-01", "monthly", 29, "2100-02-28"),  # no leap year
        ("2028-01-03", "weekly", 1, "2028-01-10"),  # a Monday
        ("2028-01-02 23:00", "weekly", 1, "2028-01-03"),
        ("2028-01-03", "weekly", 7, "2028-01-09"),
        ("2028-02-28 12:00", "daily", None, "2028-02-29"),
        ("2028-12-31", "daily", None, "2029-01-01"),
    ],
)
def test_the_next_grant_is_at_midnight_utc_of_its_day_whatever_the_session_s_time_zone(
    module_database: Database, after: str, repeat: str, day: int | None, expected: str
) -> None:
    with session(module_database, "postgres") as root:
        root.execute("SET timezone = 'America/Sao_Paulo'")
        (row,) = root.execute(
            "SELECT billing_data.next_grant(%s, %s, %s) AS at", _day(after), repeat, day
        )
    assert row["at"] == _day(expected)


def test_without_rollover_the_rest_of_a_grant_ends_when_the_next_one_comes(
    module_database: Database, dba: Caller, account: dict[str, Any]
) -> None:
    made = _set(dba, account)
    assert made["next_at"] == _day("2028-01-01")
    assert _balance(dba, account) == 0
    with _at(module_database, "2028-01-01", MICROSECOND):
        assert _balance(dba, account) == 0
    with _at(module_database, "2028-01-01"):
        assert dba.row("create_charge", **_who(account), amount_minor=5)["balance_after"] == 15
    with _at(module_database, "2028-02-01", MICROSECOND):
        assert _balance(dba, account) == 15
    with _at(module_database, "2028-02-01"):
        assert _balance(dba, account) == 20
        assert ledger_problems(module_database) == []
    # Nobody used it for months: only the newest grant counts.
    with _at(module_database, "2028-06-10"):
        assert _balance(dba, account) == 20
        lots = dba.rows("list_lots", account_id=account["account_id"])
        assert [(r["left_minor"], r["expires_at"]) for r in lots] == [(20, _day("2028-07-01"))]
        (row,) = dba.rows("list_grant_schedules", account_id=account["account_id"])
        assert (row["grants"], row["next_at"]) == (3, _day("2028-07-01"))
        assert ledger_problems(module_database) == []


def test_with_rollover_every_period_is_given_and_a_lot_ends_after_its_days(
    module_database: Database, dba: Caller, account: dict[str, Any]
) -> None:
    _set(dba, account, 10, repeat="daily", rollover=True, lasts_days=7)
    _set(dba, account, 3, repeat="weekly", day=1, rollover=True)
    # Given on the 16th, 17th ... 30th; what was given until the 23rd is over.
    with _at(module_database, "2027-12-30"):
        assert _balance(dba, account) == 7 * 10 + 2 * 3
        assert ledger_problems(module_database) == []
        usual = [r for r in dba.rows("list_lots", account_id=account["account_id"]) if r["in_pool"]]
        assert sum(r["left_minor"] for r in usual) == 6


def test_a_schedule_ends_with_its_time_or_its_number_of_grants(
    module_database: Database, dba: Caller, account: dict[str, Any]
) -> None:
    options: tuple[dict[str, Any], ...] = ({"ends_at": _day("2028-03-01")}, {"grants": 2})
    for more in options:
        _set(dba, account, rollover=True, **more)
    with _at(module_database, "2028-09-01"):
        assert _balance(dba, account) == 80
        assert dba.rows("list_grant_schedules", account_id=account["account_id"]) == []
        states = {
            (row["state"], row["grants"])
            for row in dba.rows("list_grant_schedules", account_id=account["account_id"], all=True)
        }
        assert states == {("ended", 2)}


def test_a_credit_comes_at_its_time_under_the_id_and_key_it_was_made_with(
    module_database: Database, dba: Caller, account: dict[str, Any]
) -> None:
    asked = {
        **_who(account), "amount_minor": 5, "idempotency_key": "later", "transaction_type": "grant",
        "description": "a gift", "effective_at": _day("2028-01-05 09:30"),
        "expires_at": _day("2028-01-06"),
    }  # fmt: skip
    first = dba.row("record_credit", **asked)
    assert (first["outcome"], first["balance_after"], _balance(dba, account)) == ("created", 0, 0)
    assert dba.row("record_credit", **asked)["outcome"] == "replayed"
    other = dba.row("record_credit", **{**asked, "amount_minor": 6})
    assert (other["outcome"], other["credit_id"]) == ("conflict", first["credit_id"])
    with _at(module_database, "2028-01-05 09:30"):
        assert _balance(dba, account) == 5
        assert dba.row("record_credit", **asked)["outcome"] == "replayed"
        (lot,) = dba.rows("list_lots", account_id=account["account_id"])
        assert (lot["lot_id"], lot["expires_at"]) == (first["credit_id"], _day("2028-01-06"))
    with _at(module_database, "2028-01-06"):
        assert _balance(dba, account) == 0
        assert ledger_problems(module_database) == []


def test_a_paused_schedule_gives_nothing_for_its_pause_and_an_ended_one_nothing_more(
    module_database: Database, dba: Caller, account: dict[str, Any]
) -> None:
    schedule = {"schedule_id": _set(dba, account, rollover=True)["schedule_id"], **WHY}
    dba.row("pause_grant_schedule", **schedule)
    with _at(module_database, "2028-03-10"):
        assert _balance(dba, account) == 0
        again = dba.row("pause_grant_schedule", **schedule, paused=False)
        assert again["next_at"] == _day("2028-04-01")
    with _at(module_database, "2028-04-01"):
        assert _balance(dba, account) == 20
        dba.row("end_grant_schedule", **schedule)
    with _at(module_database, "2029-01-01"):
        assert _balance(dba, account) == 20
        for call in ("pause_grant_schedule", "end_grant_schedule"):
            assert dba.refusal(call, **schedule).slug == "grant_schedule_over"
    assert ledger_problems(module_database) == []


def test_what_is_changed_of_a_running_schedule_counts_from_its_next_grant_on(
    module_database: Database, dba: Caller, account: dict[str, Any]
) -> None:
    made = _set(dba, account, 20, grants=3)
    schedule = {"schedule_id": made["schedule_id"], "reason": "a greater plan"}
    with _at(module_database, "2028-01-01"):
        assert _balance(dba, account) == 20
        changed = dba.row("change_grant_schedule", **schedule, amount=30, rollover=True)
        assert (changed["schedule_id"], changed["next_at"]) == (
            made["schedule_id"], _day("2028-02-01"),
        )  # fmt: skip
        # The same again changes nothing, and nothing is logged for it.
        dba.row("change_grant_schedule", **schedule, amount=30)
        (logged,) = dba.rows("list_audit_log", action="account.change_grant_schedule")
        assert (logged["reason"], logged["changes"]["before"], logged["changes"]["after"]) == (
            "a greater plan",
            {"amount": 20, "rollover": False, "description": "Monthly grant"},
            {"amount": 30, "rollover": True, "description": "Monthly grant"},
        )
        assert _balance(dba, account) == 20
    with _at(module_database, "2028-02-01"):
        assert _balance(dba, account) == 30  # what was given before the change ends as it was to
        dba.row("change_grant_schedule", **schedule, description="the greater plan")
        (told,) = dba.rows("list_grant_schedules", account_id=account["account_id"])
        assert (told["amount_minor"], told["rollover"], told["description"]) == (
            30, True, "the greater plan",
        )  # fmt: skip
        assert (told["grants"], told["grants_left"], told["reason"]) == (2, 1, "a greater plan")
        for wrong in ({"amount": 0}, {"amount": -1}, {"description": ""}):
            assert dba.refusal("change_grant_schedule", **schedule, **wrong).slug == (
                "invalid_argument"
            )
    with _at(module_database, "2028-03-01"):
        assert _balance(dba, account) == 60
        over = dba.refusal("change_grant_schedule", **schedule, amount=1)
        assert over.slug == "grant_schedule_over"
    assert ledger_problems(module_database) == []


def test_a_changed_schedule_gives_anew_from_now_on_and_never_twice_for_a_moment(
    module_database: Database, dba: Caller, account: dict[str, Any]
) -> None:
    schedule = _set(dba, account, 20, rollover=True)["schedule_id"]
    with _at(module_database, "2028-01-01"):
        assert _balance(dba, account) == 20
        changed = _set(dba, account, 30, rollover=True, schedule_id=schedule)
        assert (changed["schedule_id"], changed["next_at"]) == (schedule, _day("2028-02-01"))
        assert _balance(dba, account) == 20
    with _at(module_database, "2028-02-01"):
        assert _balance(dba, account) == 50
    assert ledger_problems(module_database) == []


def test_an_account_that_nobody_uses_gets_its_grants_from_the_tidying_call(
    module_database: Database, dba: Caller, web: Caller, account: dict[str, Any]
) -> None:
    _set(dba, account)
    with _at(module_database, "2028-01-01"):
        # Who reads before it is booked is told the same.
        with session(module_database, "postgres") as root:
            (row,) = root.execute(
                "SELECT s.* FROM billing_data.accounts AS a,"
                " LATERAL billing_data.standing(a) AS s WHERE a.id = %s", account["account_id"],
            )  # fmt: skip
        assert row["paid_credits"] == 20
        assert account_of(module_database, _who(account))["paid_credits"] == 0
        web.value("tidy_holds")
        assert account_of(module_database, _who(account))["paid_credits"] == 20
    with _at(module_database, "2028-01-01"):
        web.value("tidy_holds")
    assert account_of(module_database, _who(account))["paid_credits"] == 20


def test_many_at_once_book_a_grant_once(
    module_database: Database, dba: Caller, account: dict[str, Any]
) -> None:
    _set(dba, account, 6)
    with _at(module_database, "2028-01-01"):

        def charge(caller: Caller) -> list[str]:
            return outcomes(charge_all(caller, [{**_who(account), "amount_minor": 1}]))

        answers = at_once(module_database, [charge] * 12, connections=12)
        assert sorted(answers) == [["created"]] * 6 + [["insufficient_credits"]] * 6
        assert ledger_problems(module_database) == []


def test_a_grant_that_the_balance_has_no_room_for_is_left_out_and_blocks_nothing(
    module_database: Database, dba: Caller, account: dict[str, Any]
) -> None:
    biggest = 2**63 - 1
    dba.row("create_credit", **_who(account), amount_minor=biggest)
    _set(dba, account, 1)
    with _at(module_database, "2028-01-01"):
        assert dba.row("get_account", **_who(account))["paid_credits"] == biggest
        assert dba.row("create_charge", **_who(account), amount_minor=1)["balance_after"] == (
            biggest - 1
        )
    with _at(module_database, "2028-02-01"):
        assert _balance(dba, account) == biggest
    assert ledger_problems(module_database) == []


def test_schedules_go_where_an_account_is_merged_and_come_back_when_it_is_undone(
    module_database: Database, dba: Caller, account: dict[str, Any]
) -> None:
    stays = new_user(module_database, free=False)
    stays_id = account_of(module_database, stays)["id"]
    _set(dba, account)
    ids = {"account_id": account["account_id"], **WHY}
    dba.row("merge_accounts", **ids, into_account_id=stays_id)
    assert ledger_problems(module_database) == []
    (row,) = dba.rows("list_grant_schedules", account_id=stays_id)
    assert row["account_id"] == stays_id
    dba.row("undo_merge", **ids)
    assert dba.rows("list_grant_schedules", account_id=stays_id) == []
    with _at(module_database, "2028-01-01"):
        assert _balance(dba, account) == 20
    assert ledger_problems(module_database) == []


@pytest.mark.parametrize(
    ("more", "argument"),
    [
        ({"amount": 0}, "p_amount"),
        ({"repeat": "yearly"}, "p_repeat"),
        ({"day": 0}, "p_day"),
        ({"day": 32}, "p_day"),
        ({"repeat": "weekly", "day": 8}, "p_day"),
        ({"repeat": "daily", "day": 1}, "p_day"),
        ({"lasts_days": 0}, "p_lasts_days"),
        ({"lasts_days": 3651}, "p_lasts_days"),
        # It would end at this moment.
        (
            {"repeat": "once", "lasts_days": 1, "starts_at": _day("2027-12-14 10:00")},
            "p_lasts_days",
        ),
        ({"grants": 0}, "p_grants"),
        ({"ends_at": _day("2028-01-01")}, "p_ends_at"),
        ({"priority": 101}, "p_priority"),
        ({"source": "purchase"}, "p_source"),
        ({"description": ""}, "p_description"),
        ({"reason": " "}, "p_reason"),
        ({"rollover": None}, "p_rollover"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(
    dba: Caller, account: dict[str, Any], more: dict[str, Any], argument: str
) -> None:
    asked = {"account_id": account["account_id"], "amount": 1, **WHY, **more}
    assert_argument_refused(dba, "set_grant_schedule", argument, **asked)


def test_what_is_given_for_a_past_moment_may_end_a_microsecond_from_now(
    dba: Caller, account: dict[str, Any]
) -> None:
    began = _day("2027-12-14 10:00") + MICROSECOND
    _set(dba, account, repeat="once", lasts_days=1, starts_at=began)
    assert _balance(dba, account) == 20


def test_a_schedule_is_made_once_for_its_key(dba: Caller, account: dict[str, Any]) -> None:
    first = _set(dba, account, idempotency_key="plan")
    again = _set(dba, account, idempotency_key="plan")
    assert (again["schedule_id"], again["replayed"]) == (first["schedule_id"], True)
    refusal = dba.refusal(
        "set_grant_schedule", account_id=account["account_id"], amount=21, **WHY,
        idempotency_key="plan",
    )  # fmt: skip
    assert refusal.slug == "idempotency_key_reused"


def test_a_schedule_gives_for_a_moment_once_also_after_it_was_changed(
    module_database: Database, dba: Caller, account: dict[str, Any]
) -> None:
    daily = _set(dba, account, repeat="daily")
    once = {
        "account_id": account["account_id"], "amount": 5, **WHY, "repeat": "once",
        "schedule_id": daily["schedule_id"],
    }  # fmt: skip
    with _at(module_database, "2027-12-16 12:00"):
        assert _balance(dba, account) == 20
        assert_argument_refused(
            dba, "set_grant_schedule", "p_starts_at", **once, starts_at=daily["next_at"]
        )
        _set(dba, account, **{**once, "starts_at": daily["next_at"] + MICROSECOND})
        assert _balance(dba, account) == 25


@pytest.mark.parametrize(
    "more", [{}, {"repeat": "once", "lasts_days": 1}], ids=["every month", "once"]
)
def test_a_schedule_has_no_moments_after_the_year_9999(
    dba: Caller, account: dict[str, Any], more: dict[str, Any]
) -> None:
    asked = {"account_id": account["account_id"], "amount": 1, **WHY, **more}
    assert_argument_refused(
        dba, "set_grant_schedule", "p_starts_at", **asked, starts_at=_day("9999-12-31 12:00")
    )
    assert dba.rows("list_grant_schedules", account_id=account["account_id"]) == []
