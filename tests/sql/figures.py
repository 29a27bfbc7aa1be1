"""Compares the dashboard's figures with counts from the ledger."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from tests.sql.helpers import Caller, session
from tests.support import Database

DAYS = 30


# Every figure of a day, counted straight from the tables.
_COUNTED = """
    SELECT
        d.day::date AS day,
        (SELECT count(*) FROM billing_data.credit_checks AS k
            WHERE (k.created_at AT TIME ZONE 'UTC')::date = d.day) AS checks,
        (SELECT count(*) FROM billing_data.credit_checks AS k
            WHERE (k.created_at AT TIME ZONE 'UTC')::date = d.day AND NOT k.has_credit)
            AS checks_denied,
        (SELECT count(*) FROM billing_data.charges AS c
            WHERE (c.created_at AT TIME ZONE 'UTC')::date = d.day) AS charges,
        (SELECT count(*) FROM billing_data.charges AS c
            WHERE (c.created_at AT TIME ZONE 'UTC')::date = d.day AND c.paid_with = 'free')
            AS free_charges,
        (SELECT coalesce(sum(c.amount_minor), 0) FROM billing_data.charges AS c
            WHERE (c.created_at AT TIME ZONE 'UTC')::date = d.day) AS charge_amount,
        (SELECT coalesce(sum(c.balance_before - c.balance_after), 0)
            FROM billing_data.charges AS c
            WHERE (c.created_at AT TIME ZONE 'UTC')::date = d.day) AS credits_used,
        (SELECT count(*) FROM billing_data.credits AS c
            WHERE (c.created_at AT TIME ZONE 'UTC')::date = d.day AND c.amount_minor > 0)
            AS credits,
        (SELECT coalesce(sum(greatest(c.amount_minor, 0)), 0) FROM billing_data.credits AS c
            WHERE (c.created_at AT TIME ZONE 'UTC')::date = d.day) AS credits_added,
        (SELECT coalesce(sum(c.amount_minor), 0) FROM billing_data.credits AS c
            WHERE (c.created_at AT TIME ZONE 'UTC')::date = d.day
                AND c.transaction_type = 'purchase') AS credits_sold,
        (SELECT coalesce(sum(-least(c.amount_minor, 0)), 0) FROM billing_data.credits AS c
            WHERE (c.created_at AT TIME ZONE 'UTC')::date = d.day) AS credits_taken_back,
        (SELECT count(*) FROM billing_data.accounts AS a
            WHERE (a.created_at AT TIME ZONE 'UTC')::date = d.day) AS accounts_created,
        (SELECT count(*) FROM (
            SELECT DISTINCT c.account_id FROM billing_data.charges AS c
            WHERE (c.created_at AT TIME ZONE 'UTC')::date = d.day
        ) AS u) AS unique_users
    FROM generate_series(
        ((now() AT TIME ZONE 'UTC')::date - %s)::timestamp,
        ((now() AT TIME ZONE 'UTC')::date)::timestamp, '1 day'
    ) AS d (day)
    ORDER BY 1
"""


_OVERVIEW = """
    SELECT
        (SELECT count(*) FROM billing_data.accounts) AS total_users,
        (SELECT count(*) FROM billing_data.accounts AS a WHERE a.status = 'active')
            AS active_users,
        (SELECT count(*) FROM billing_data.api_keys) AS total_api_keys,
        (SELECT count(*) FROM billing_data.api_keys AS k WHERE k.status = 'active')
            AS active_api_keys,
        (SELECT coalesce(sum(a.balance_minor), 0) FROM billing_data.accounts AS a)
            AS total_balance_minor,
        (SELECT coalesce(sum(c.balance_before - c.balance_after), 0)
            FROM billing_data.charges AS c) AS total_charged_all_time,
        (SELECT coalesce(sum(greatest(c.amount_minor, 0)), 0) FROM billing_data.credits AS c)
            AS total_credited_all_time,
        (SELECT count(*) FROM billing.list_payment_problems()) AS payment_problems,
        (SELECT count(DISTINCT c.account_id) FROM billing_data.charges AS c
            WHERE (c.created_at AT TIME ZONE 'UTC')::date > (now() AT TIME ZONE 'UTC')::date - 30
                AND (c.created_at AT TIME ZONE 'UTC')::date <= (now() AT TIME ZONE 'UTC')::date)
            AS unique_users_30d
"""


def assert_figures_right(database: Database) -> list[dict[str, Any]]:
    """Returns the days' figures after comparing them and the overview with the ledger."""
    # One statement sees one moment. In a transaction of this kind, all statements see the same
    # moment.
    with session(database, "t_dba", autocommit=False) as dba:
        dba.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        found = dba.rows("list_daily_figures", days=DAYS)
        assert found == dba.execute(_COUNTED, DAYS)
        assert dba.rows("list_daily_figures", days=3) == found[-4:]
        assert dba.rows("list_daily_figures", days=0) == found[-1:]
        _assert_periods_right(dba, found)
        overview = dba.row("get_overview")
        (counted,) = dba.execute(_OVERVIEW)
        assert {name: overview[name] for name in counted} == counted
        for name, hours in (("24h", 24), ("7d", 7 * 24)):
            # Slots count as a whole: a slot that began within the span counts with everything in
            # it.
            (row,) = dba.execute(
                """
                SELECT
                    (SELECT count(*) FROM billing_data.charges AS c
                        WHERE date_bin('5 min', c.created_at, '2000-01-01Z') >= s.at) AS charges,
                    (SELECT count(*) FROM billing_data.credits AS c
                        WHERE date_bin('5 min', c.created_at, '2000-01-01Z') >= s.at
                            AND c.amount_minor > 0) AS credits
                FROM (SELECT now() - make_interval(hours => %s) AS at) AS s
                """,
                hours,
            )
            for what, count in row.items():
                assert overview[f"{what}_last_{name}"] == count
        dba.connection.rollback()
    return found


def _assert_periods_right(dba: Caller, days: list[dict[str, Any]]) -> None:
    """Compares the figures of periods within these days, and of all time, with the ledger."""
    first, last = days[0]["day"], days[-1]["day"]
    third = timedelta(days=len(days) // 3)
    for start, end in ((first, last), (first, first), (first + third, last - third), (last, last)):
        within = [day for day in days if start <= day["day"] <= end]
        found = dba.row("get_figures", **{"from": start, "to": end + timedelta(days=1)})
        assert found.pop("users") == _users(dba, start, end)
        assert found.pop("accounts") == sum(day["accounts_created"] for day in within)
        assert found == {name: sum(day[name] for day in within) for name in found}
        assert dba.rows("list_daily_figures", days=len(within) - 1, to=end) == within
    for day in (days[0], days[-2], days[-1]):
        _assert_hours_right(dba, day)


def _assert_hours_right(dba: Caller, day: dict[str, Any]) -> None:
    """Compares the hours of a day with the day's figures, and their users with the ledger."""
    hours = dba.rows("list_hourly_figures", day=day["day"])
    start = datetime.combine(day["day"], time(), UTC)
    assert [row["hour"] for row in hours] == [start + timedelta(hours=n) for n in range(24)]
    for name in day.keys() - {"day", "unique_users"}:
        assert sum(row[name] for row in hours) == day[name], name
    found = dba.execute(
        "SELECT date_trunc('hour', c.created_at, 'UTC') AS hour,"
        " count(DISTINCT c.account_id) AS users FROM billing_data.charges AS c"
        " WHERE (c.created_at AT TIME ZONE 'UTC')::date = %s GROUP BY 1 ORDER BY 1",
        day["day"],
    )
    users = [(row["hour"], row["unique_users"]) for row in hours if row["unique_users"]]
    assert users == [(row["hour"], row["users"]) for row in found]


def _users(dba: Caller, first: date, last: date) -> int:
    (row,) = dba.execute(
        "SELECT count(DISTINCT c.account_id) AS users FROM billing_data.charges AS c"
        " WHERE (c.created_at AT TIME ZONE 'UTC')::date BETWEEN %s AND %s",
        first,
        last,
    )
    return int(row["users"])
