"""The windows of caps at their first and last microseconds, and holds, which count when they are
made. The clock is moved, never waited for."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import psycopg
import pytest

from tests.sql.alerts import alerts_of, forget_endpoints, listening
from tests.sql.caps import account_id, cap_now, charge_list, clock_at, no_caps, set_cap, used
from tests.sql.helpers import (
    BIGGEST,
    Caller,
    account_of,
    at_once,
    key_id,
    ledger_problems,
    new_user,
    outcomes,
    session,
)
from tests.support import Database


@pytest.fixture(autouse=True)
def _caps_and_endpoints_go(module_database: Database, dba: Caller) -> Any:
    yield
    no_caps(dba)
    forget_endpoints(module_database)


# The last microsecond of a window, and the first of the next one.
EDGES = [
    ("minute", "2027-03-04 05:06:59.999999Z", "2027-03-04 05:07:00Z"),
    ("minute", "2027-12-31 23:59:59.999999Z", "2028-01-01 00:00:00Z"),
    ("day", "2027-03-04 23:59:59.999999Z", "2027-03-05 00:00:00Z"),
    ("day", "2028-02-29 23:59:59.999999Z", "2028-03-01 00:00:00Z"),
    ("month", "2027-01-31 23:59:59.999999Z", "2027-02-01 00:00:00Z"),
    ("month", "2027-02-28 23:59:59.999999Z", "2027-03-01 00:00:00Z"),
    ("month", "2028-02-29 23:59:59.999999Z", "2028-03-01 00:00:00Z"),
    ("month", "2027-12-31 23:59:59.999999Z", "2028-01-01 00:00:00Z"),
]
WITHIN = [
    ("minute", "2027-03-04 05:06:00Z", "2027-03-04 05:06:59.999999Z"),
    ("day", "2028-02-29 00:00:00Z", "2028-02-29 23:59:59.999999Z"),
    ("month", "2028-02-28 23:59:59.999999Z", "2028-02-29 00:00:00Z"),
    ("month", "2027-10-01 00:00:00Z", "2027-10-31 23:59:59.999999Z"),
]


@pytest.mark.parametrize(("period", "last", "first"), EDGES)
@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_a_window_ends_with_its_last_microsecond_whatever_the_sessions_time_zone(
    module_database: Database, period: str, last: str, first: str, zone: str
) -> None:
    who = new_user(module_database, paid=99)
    with session(module_database, "t_dba") as dba:
        dba.execute(f"SET TimeZone = '{zone}'")
        with clock_at(module_database, last):
            cap = set_cap(dba, "all", 3, period=period)
            assert outcomes(charge_list(dba, [{**who, "amount_minor": 3}])) == ["created"]
            (refused,) = charge_list(dba, [who])
            assert refused["outcome"] == "cap_reached"
            told = cap_now(dba, cap)["resets_at"].astimezone(UTC)
            assert f"{told:%Y-%m-%d %H:%M:%S}Z" == first
            assert refused["cap"]["resets_at"] == first.replace(" ", "T")
        with clock_at(module_database, first):
            assert used(dba, cap) == 0
            asked = [{**who, "amount_minor": amount} for amount in (2, 2, 1)]
            assert outcomes(charge_list(dba, asked)) == ["created", "cap_reached", "created"]


@pytest.mark.parametrize(("period", "first", "last"), WITHIN)
def test_the_first_and_the_last_microsecond_of_a_window_count_together(
    module_database: Database, dba: Caller, period: str, first: str, last: str
) -> None:
    who = new_user(module_database)
    with clock_at(module_database, first):
        cap = set_cap(dba, "all", 2, period=period)
        assert outcomes(charge_list(dba, [who])) == ["created"]
    with clock_at(module_database, last):
        assert outcomes(charge_list(dba, [who, who])) == ["created", "cap_reached"]
        assert used(dba, cap) == 2


def test_a_reversal_in_a_later_window_gives_back_only_to_windows_that_are_open(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=99, free=False)
    with clock_at(module_database, "2027-03-04 23:59:59.999999Z"):
        day, month = set_cap(dba, "all", 50), set_cap(dba, "all", 50, period="month")
        (charge,) = charge_list(dba, [{**who, "amount_minor": 9}])
    with clock_at(module_database, "2027-03-05 00:00:00Z"):
        charge_list(dba, [{**who, "amount_minor": 4}])
        dba.row("reverse_charge", charge_id=charge["charge_id"], reason="a test")
        assert (used(dba, day), used(dba, month)) == (4, 4)


def test_reaching_a_cap_raises_one_alert_in_each_window_and_names_whose_it_is(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=99)
    account = account_id(module_database, who)
    listening(module_database, "cap.reached")
    with clock_at(module_database, "2027-03-04 05:06:07Z"):
        mine = set_cap(dba, "account", 3, account, period="day", mode="alert")
        agent = set_cap(dba, "agent", 5, "scout", period="minute")
        asked = {**who, "metadata_agent_id": "scout"}
        charge_list(dba, [{**asked, "amount_minor": 2}])
        assert alerts_of(module_database, account) == []
        charge_list(dba, [asked, {**asked, "amount_minor": 3}])
        charge_list(dba, [{**asked, "amount_minor": 3}, {**asked, "amount_minor": 1}])
        ((kind, data),) = alerts_of(module_database, account)
        assert kind == "cap.reached"
        assert data == {
            "cap_id": str(mine["cap_id"]), "scope": "account", "subject": account,
            "period": "day", "mode": "alert", "limit": 3, "used": 3,
            "resets_at": "2027-03-05T00:00:00Z",
        }  # fmt: skip
    with clock_at(module_database, "2027-03-04 05:07:00Z"):
        charge_list(dba, [{**asked, "amount_minor": 6}])
    told = [
        (data["cap_id"], data["subject"], data["used"], data["resets_at"])
        for data in _unnamed_alerts(module_database)
    ]
    assert told == [
        (str(agent["cap_id"]), "scout", 3, "2027-03-04T05:07:00Z"),
        (str(agent["cap_id"]), "scout", 0, "2027-03-04T05:08:00Z"),
    ]


def test_a_cap_that_was_raised_is_reached_again(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database, paid=99)
    account = account_id(module_database, who)
    listening(module_database, "cap.reached")
    with clock_at(module_database, "2027-03-04 05:06:07Z"):
        cap = set_cap(dba, "account", 3, account, mode="alert")
        charge_list(dba, [{**who, "amount_minor": 4}])
        # A limit that is used up as well, and one that is lower, are not reached again.
        assert set_cap(dba, "account", 4, account, mode="alert")["reached_at"] is not None
        assert set_cap(dba, "account", 2, account, mode="alert")["reached_at"] is not None
        assert set_cap(dba, "account", 5, account, mode="alert")["reached_at"] is None
        assert len(alerts_of(module_database, account)) == 1
        charge_list(dba, [who, who])
        assert cap_now(dba, cap)["reached_at"] is not None
    told = [data["limit"] for _, data in alerts_of(module_database, account)]
    assert told == [3, 5]


def _unnamed_alerts(database: Database) -> list[dict[str, Any]]:
    return [
        row[0]
        for row in database.execute(
            "SELECT o.data FROM billing_data.outbox AS o"
            " WHERE o.kind = 'cap.reached' AND o.account_id IS NULL ORDER BY o.id"
        )
    ]


# --- holds ---------------------------------------------------------------------------------------


def test_a_hold_counts_when_it_is_made_and_gives_back_what_is_not_captured(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    who, key = new_user(module_database, paid=99, free=False), key_id(module_database)
    cap = set_cap(dba, "api_key", 10, key)
    mine = {**who, "api_key_id": key}
    first = web.row("create_hold", **mine, amount_minor=6)
    second = web.row("create_hold", **mine, amount_minor=4)
    assert used(dba, cap) == 10
    refusal = web.refusal("create_hold", **mine, amount_minor=1)
    assert (refusal.sqlstate, refusal.slug) == ("PB429", "cap_reached")
    assert refusal.detail["cap_id"] == str(cap["cap_id"])
    assert web.refusal("create_charge", **mine).slug == "cap_reached"
    web.row("capture_hold", hold_id=first["hold_id"], amount_minor=2, api_key_id=key)
    assert used(dba, cap) == 6
    web.row("capture_hold", hold_id=first["hold_id"], amount_minor=2, api_key_id=key)
    web.row("release_hold", hold_id=second["hold_id"], api_key_id=key)
    web.row("release_hold", hold_id=second["hold_id"], api_key_id=key)
    assert used(dba, cap) == 2
    third = web.row("create_hold", **mine, amount_minor=8)
    web.row("capture_hold", hold_id=third["hold_id"], amount_minor=0, api_key_id=key)
    assert used(dba, cap) == 2
    assert ledger_problems(module_database) == []


def test_a_dry_run_of_a_hold_is_refused_by_a_cap_and_counts_nothing(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=99)
    cap = set_cap(dba, "all", 5)
    dba.row("create_hold", **who, amount_minor=5, dry_run=True)
    asked = {**who, "amount_minor": 6, "dry_run": True}
    assert dba.refusal("create_hold", **asked).slug == "cap_reached"
    told = cap_now(dba, cap)
    assert (told["used_minor"], told["reached_at"]) == (0, None)
    assert module_database.value("SELECT count(*) FROM billing_data.cap_usage") == 0


def test_overage_takes_no_more_than_the_caps_have_room_for_and_counts(
    module_database: Database, dba: Caller
) -> None:
    who, free = new_user(module_database, paid=99, free=False), new_user(module_database)
    cap = set_cap(dba, "all", 20)
    hold, other, gratis = (
        dba.row("create_hold", **user, amount_minor=5)["hold_id"] for user in (who, who, free)
    )
    captured = dba.row("capture_hold", hold_id=hold, amount_minor=8, overage="available")
    assert (captured["captured_minor"], used(dba, cap)) == (8, 18)
    captured = dba.row("capture_hold", hold_id=other, amount_minor=50, overage="available")
    assert (captured["captured_minor"], used(dba, cap)) == (7, 20)
    captured = dba.row("capture_hold", hold_id=gratis, amount_minor=9, overage="available")
    assert (captured["captured_minor"], captured["paid_with"]) == (5, "free")
    assert used(dba, cap) == 20
    assert account_of(module_database, who)["paid_credits"] == 99 - 15


def test_overage_that_uses_a_cap_up_raises_its_alert_once(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=99, free=False)
    account = account_id(module_database, who)
    listening(module_database, "cap.reached")
    watched = set_cap(dba, "account", 8, account, mode="alert")
    bound = set_cap(dba, "account", 12, account, period="month")
    first, second, third = (
        dba.row("create_hold", **who, amount_minor=2)["hold_id"] for _ in range(3)
    )
    dba.row("capture_hold", hold_id=first, amount_minor=3, overage="available")
    assert alerts_of(module_database, account) == []
    dba.row("capture_hold", hold_id=second, amount_minor=3, overage="available")
    dba.row("capture_hold", hold_id=third, amount_minor=50, overage="available")
    told = [(data["cap_id"], data["used"]) for _, data in alerts_of(module_database, account)]
    assert told == [(str(watched["cap_id"]), 8), (str(bound["cap_id"]), 12)]
    assert cap_now(dba, bound)["reached_at"] is not None


def test_overage_is_bounded_by_the_window_of_its_capture_not_by_one_that_is_over(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=99, free=False)
    with clock_at(module_database, "2027-03-04 05:06:59.999999Z"):
        cap = set_cap(dba, "all", 10, period="minute")
        charge_list(dba, [{**who, "amount_minor": 9}])
    with clock_at(module_database, "2027-03-04 05:07:00Z"):
        hold = dba.row("create_hold", **who, amount_minor=5)["hold_id"]
        captured = dba.row("capture_hold", hold_id=hold, amount_minor=8, overage="available")
        assert (captured["captured_minor"], used(dba, cap)) == (8, 8)


def test_a_hold_that_is_over_goes_on_counting_until_it_is_released(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=99, free=False)
    with clock_at(module_database, "2027-03-04 05:00:00Z"):
        cap = set_cap(dba, "all", 10)
        late, gone = (dba.row("create_hold", **who, amount_minor=5)["hold_id"] for _ in range(2))
    with clock_at(module_database, "2027-03-04 06:00:00Z"):
        assert outcomes(charge_list(dba, [who])) == ["cap_reached"]
        assert dba.row("capture_hold", hold_id=late, amount_minor=3)["is_late"]
        assert used(dba, cap) == 8
        dba.row("release_hold", hold_id=gone, reason="a test")
        assert used(dba, cap) == 3


def test_a_reversed_capture_gives_back_to_the_window_in_which_its_hold_was_made(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=99, free=False)
    with clock_at(module_database, "2027-03-04 23:59:00Z"):
        day, month = set_cap(dba, "all", 50), set_cap(dba, "all", 50, period="month")
        hold = dba.row("create_hold", **who, amount_minor=5)["hold_id"]
    with clock_at(module_database, "2027-03-05 00:01:00Z"):
        charge_list(dba, [{**who, "amount_minor": 7}])
        charge = dba.row("capture_hold", hold_id=hold)["charge_id"]
        assert (used(dba, day), used(dba, month)) == (7, 12)
        dba.row("reverse_charge", charge_id=charge, reason="a test")
        assert (used(dba, day), used(dba, month)) == (7, 7)


@pytest.mark.parametrize(
    ("reversed_parts", "day_after", "month_after"),
    [([2], 8, 13), ([3], 7, 12), ([4], 7, 11), ([1, 3, 4], 7, 7), ([8], 7, 7)],
)
def test_overage_is_given_back_first_and_to_the_window_of_its_capture(
    module_database: Database,
    dba: Caller,
    reversed_parts: list[int],
    day_after: int,
    month_after: int,
) -> None:
    who = new_user(module_database, paid=99, free=False)
    with clock_at(module_database, "2027-03-04 23:59:00Z"):
        day, month = set_cap(dba, "all", 50), set_cap(dba, "all", 50, period="month")
        hold = dba.row("create_hold", **who, amount_minor=5)["hold_id"]
    with clock_at(module_database, "2027-03-05 00:01:00Z"):
        charge_list(dba, [{**who, "amount_minor": 7}])
        captured = dba.row("capture_hold", hold_id=hold, amount_minor=8, overage="available")
        assert (used(dba, day), used(dba, month)) == (10, 15)
        for part in reversed_parts:
            dba.row("reverse_charge", charge_id=captured["charge_id"], amount=part, reason="a test")
        assert (used(dba, day), used(dba, month)) == (day_after, month_after)


def test_20_holds_of_75_at_once_against_a_cap_of_500_are_exactly_6(
    module_database: Database, dba: Caller
) -> None:
    users = [new_user(module_database, paid=5000, free=False) for _ in range(4)]
    cap = set_cap(dba, "all", 500)

    def hold(number: int) -> Any:
        def call(caller: Caller) -> str:
            try:
                caller.row("create_hold", **users[number % 4], amount_minor=75)
            except psycopg.Error as error:
                return error.diag.constraint_name or str(error)
            return "created"

        return call

    told = at_once(module_database, [hold(number) for number in range(20)], connections=20)
    assert sorted(told) == ["cap_reached"] * 14 + ["created"] * 6
    assert used(dba, cap) == 450


def test_the_greatest_hold_and_overage_overflow_nothing(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database)
    cap = set_cap(dba, "all", BIGGEST)
    hold = dba.row("create_hold", **who, amount_minor=1)["hold_id"]
    captured = dba.row("capture_hold", hold_id=hold, amount_minor=BIGGEST, overage="available")
    assert (captured["captured_minor"], used(dba, cap)) == (BIGGEST, BIGGEST)
