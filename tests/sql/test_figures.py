"""Compares the dashboard's figures with counts from the ledger, whatever was rolled up."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from tests.sql.figures import DAYS, assert_figures_right
from tests.sql.helpers import (
    Caller,
    account_of,
    at_once,
    charge_all,
    key_id,
    new_user,
    person,
    session,
    staff,
)
from tests.sql.payments import PRICE, bought, configure_provider, deliver, give_back
from tests.support import Database, unique

SLOT = timedelta(minutes=5)


EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def _at(moment: datetime) -> uuid.UUID:
    """An id of a given time, as the service makes it."""
    head = int(moment.timestamp() * 1000).to_bytes(6, "big")
    rest = bytearray(uuid.uuid4().bytes[6:])
    rest[0] = rest[0] & 0x0F | 0x70  # version 7; the variant is that of version 4 too
    return uuid.UUID(bytes=head + bytes(rest))


def _write(database: Database, moments: list[datetime], rng: random.Random) -> None:
    """Writes ledger rows and checks of these times, as if calls had been made then: of every kind,
    for a few accounts, with versions and balances in order."""
    with session(database, "postgres", autocommit=False) as root:
        accounts: dict[uuid.UUID, list[int]] = {}
        for _ in range(max(len(moments) // 5, 1)):
            created = rng.choice(moments)
            (row,) = root.execute(
                "INSERT INTO billing_data.accounts (oauth_provider, external_id, created_at,"
                " status) VALUES ('oauth:google', %s, %s, %s) RETURNING id",
                unique(),
                created,
                rng.choice(["active", "active", "suspended", "closed"]),
            )
            accounts[row["id"]] = [0, 0, 0]  # version, balance, uses
        for moment in sorted(moments):
            id_ = rng.choice(list(accounts))
            state = accounts[id_]
            kind = rng.choice(["check", "free", "paid", "purchase", "grant", "refund"])
            if kind == "check":
                root.execute(
                    "INSERT INTO billing_data.credit_checks (id, account_id, oauth_provider,"
                    " external_id, has_credit, created_at, database_role)"
                    " VALUES (%s, %s, 'oauth:google', 'x', %s, %s, 'test')",
                    _at(moment), id_, rng.random() < 0.7, moment,
                )  # fmt: skip
                continue
            amount = rng.randint(1, 9)
            before = state[1]
            if kind in ("paid", "refund") and before < amount:
                kind = "free" if kind == "paid" else "grant"
            state[0] += 1
            if kind in ("free", "paid"):
                state[2] += 1
                state[1] -= amount if kind == "paid" else 0
                root.execute(
                    "INSERT INTO billing_data.charges (id, account_id, amount_minor, currency,"
                    " balance_before, balance_after, description, ledger_version, paid_with,"
                    " database_role, created_at)"
                    " VALUES (%s, %s, %s, 'USD', %s, %s, 'd', %s, %s, 'test', %s)",
                    _at(moment), id_, amount, before, state[1], state[0], kind, moment,
                )  # fmt: skip
            else:
                signed = -amount if kind == "refund" else amount
                state[1] += signed
                root.execute(
                    "INSERT INTO billing_data.credits (id, account_id, amount_minor, currency,"
                    " balance_before, balance_after, transaction_type, description,"
                    " ledger_version, database_role, created_at)"
                    " VALUES (%s, %s, %s, 'USD', %s, %s, %s, 'd', %s, 'test', %s)",
                    _at(moment), id_, signed, before, state[1], kind, state[0], moment,
                )  # fmt: skip
        for id_, (version, balance, uses) in accounts.items():
            root.execute(
                "UPDATE billing_data.accounts SET ledger_version = %s, paid_credits = %s,"
                " total_uses = %s WHERE id = %s",
                version, balance, uses, id_,
            )  # fmt: skip
        root.connection.commit()


def _refresh(database: Database) -> bool:
    done: bool = database.value("SELECT billing.refresh_figures()", user="t_web")
    return done


def _through(database: Database) -> datetime:
    found: datetime = database.value(
        "SELECT s.complete_through FROM billing_data.usage_figures_state AS s"
    )
    return found


def _roll_up_to(database: Database, moment: datetime) -> None:
    """Sets the figures to their state when everything up to `moment`, the border of a slot, was
    rolled up."""
    database.execute(
        "UPDATE billing_data.usage_figures_state SET complete_through = %s, users_through = %s",
        moment,
        moment,
    )
    database.execute("DELETE FROM billing_data.usage_figures AS f WHERE f.slot >= %s", moment)
    database.execute("DELETE FROM billing_data.users_by_day")
    database.execute("DELETE FROM billing_data.user_activity")
    database.execute("DELETE FROM billing_data.user_pauses")
    database.execute(
        "INSERT INTO billing_data.user_pauses SELECT d.day, coalesce(d.previous, '-infinity'),"
        " count(*) FROM (SELECT c.day, lag(c.day) OVER (PARTITION BY c.account_id ORDER BY c.day)"
        " AS previous FROM (SELECT DISTINCT c.account_id, (c.created_at AT TIME ZONE 'UTC')::date"
        " AS day FROM billing_data.charges AS c WHERE c.created_at < %s) AS c) AS d GROUP BY 1, 2",
        moment,
    )
    for table, columns in (
        ("users_by_day", "(c.created_at AT TIME ZONE 'UTC')::date, count(DISTINCT c.account_id)"),
        ("user_activity", "c.account_id, max((c.created_at AT TIME ZONE 'UTC')::date)"),
    ):
        database.execute(
            f"INSERT INTO billing_data.{table} SELECT {columns} FROM billing_data.charges AS c"
            " WHERE c.created_at < %s GROUP BY 1",
            moment,
        )


def _slot(moment: datetime) -> datetime:
    return EPOCH + (moment - EPOCH) // SLOT * SLOT


def _moments(rng: random.Random, count: int) -> list[datetime]:
    """Times of the last weeks, many of them at the borders of days and slots, and some of now."""
    now = datetime.now(UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    tick = timedelta(microseconds=1)
    made: list[Callable[[], datetime]] = [
        lambda: now - timedelta(seconds=rng.uniform(0, (DAYS + 5) * 86400)),
        lambda: now - timedelta(seconds=rng.uniform(0, 2 * 86400)),
        lambda: now - timedelta(seconds=rng.uniform(0, 900)),
        lambda: today - timedelta(days=rng.randint(0, DAYS)),
        lambda: today - timedelta(days=rng.randint(0, DAYS)) - tick,
        lambda: _slot(now - timedelta(seconds=rng.uniform(0, 86400))),
        lambda: _slot(now - timedelta(seconds=rng.uniform(0, 86400))) - tick,
    ]
    return [min(rng.choice(made)(), now) for _ in range(count)]


@pytest.mark.parametrize("seed", range(6))
def test_the_figures_are_what_the_ledger_says_before_and_after_every_roll_up(
    database: Database, seed: int
) -> None:
    rng = random.Random(seed)
    _write(database, _moments(rng, 60), rng)
    assert_figures_right(database)
    assert _refresh(database) is True
    assert_figures_right(database)
    for _ in range(4):
        # More happens after the roll-up.
        through = _through(database)
        now = datetime.now(UTC)
        span = (now - through).total_seconds()
        moments = [through + timedelta(seconds=rng.uniform(0, span)) for _ in range(15)]
        _write(database, [*moments, through], rng)
        for who in [new_user(database, paid=rng.randint(0, 3)) for _ in range(2)]:
            with session(database, "t_dba") as dba:
                charge_all(dba, [who] * rng.randint(1, 5))
        assert_figures_right(database)
        # Time goes on. This is the same as if less had been rolled up before.
        border = _slot(now - timedelta(seconds=rng.uniform(0, 2 * 86400)))
        _roll_up_to(database, border)
        assert_figures_right(database)
        assert _refresh(database) is True
        days = assert_figures_right(database)
    database.execute("SELECT billing.rebuild_figures()", user="t_dba")
    assert assert_figures_right(database)[:-1] == days[:-1]


def test_every_kind_of_call_is_counted_today(database: Database) -> None:
    configure_provider(database)
    rich = new_user(database, paid=100)
    with session(database, "t_dba") as dba:
        charge_all(dba, [{**rich, "amount_minor": 4}] * 5)  # the first three are free
        poor = new_user(database, free=False)
        assert not dba.row("check_credit", **poor)["has_credit"]
        _, payment_id = bought(database)
        give_back(dba, payment_id, ("re_1", PRICE // 2))
        deliver(dba, unique("evt"), unique("pi"))  # the event does not name its user
        dba.row("set_account_status", **poor, status="suspended", reason="a test")
        database.execute("UPDATE billing_data.accounts SET balance_minor = 7"
                         " WHERE external_id = %s", rich["external_id"])  # fmt: skip
        revoked = key_id(database)
        key_id(database)
        dba.row("revoke_api_key", api_key_id=revoked)
    today = assert_figures_right(database)[-1]
    assert today == {
        "day": datetime.now(UTC).date(),
        "checks": 4,
        "checks_denied": 1,
        "charges": 11,
        "free_charges": 9,
        "charge_amount": 26,
        "credits_used": 8,
        "credits": 2,
        "credits_added": 120,
        "credits_sold": 20,
        "credits_taken_back": 10,
        "accounts_created": 3,
        "unique_users": 3,
    }
    with session(database, "t_web") as web:
        overview = web.row("get_overview", session_hash=staff(database, "viewer").session_hash)
    assert overview == {
        "total_users": 3,
        "active_users": 2,
        "total_api_keys": 2,
        "active_api_keys": 1,
        "total_balance_minor": 7,
        "total_charged_all_time": 8,
        "total_credited_all_time": 120,
        "charges_last_24h": 11,
        "credits_last_24h": 2,
        "charges_last_7d": 11,
        "credits_last_7d": 2,
        "payment_problems": 1,
        "unique_users_30d": 3,
    }


def test_a_service_without_anything_has_figures_of_nothing(database: Database) -> None:
    for refresh in (False, True):
        if refresh:
            assert _refresh(database) is True
        days = assert_figures_right(database)
        assert len(days) == DAYS + 1
        assert [row["day"] for row in days] == [
            datetime.now(UTC).date() - timedelta(days=DAYS - n) for n in range(DAYS + 1)
        ]
        assert {value for row in days for name, value in row.items() if name != "day"} == {0}


def _rolled_up(database: Database) -> list[Any]:
    return [
        database.execute(f"SELECT t.* FROM billing_data.{table} AS t ORDER BY 1, 2")
        for table in ("usage_figures", "user_activity", "users_by_day")
    ]


def test_rolling_up_twice_changes_nothing(database: Database) -> None:
    rng = random.Random(7)
    _write(database, _moments(rng, 80), rng)
    assert _refresh(database) is True
    before, through = _rolled_up(database), _through(database)
    assert before[0]
    assert (datetime.now(UTC) - through) >= timedelta(minutes=1)
    assert _slot(through) == through
    # A slot may have ended between the two, on a slow machine.
    if not _refresh(database):
        assert _rolled_up(database) == before
        assert _through(database) == through
    assert_figures_right(database)


def test_slots_that_are_not_over_for_a_minute_are_left_alone(database: Database) -> None:
    new_user(database, paid=3, free=False)
    _refresh(database)
    through = _through(database)
    assert through <= datetime.now(UTC) - timedelta(minutes=1)
    newest = database.value("SELECT max(f.slot) FROM billing_data.usage_figures AS f")
    assert newest is None or newest < through
    assert assert_figures_right(database)[-1]["charges"] == 3


def test_of_many_who_roll_up_at_once_one_does_it(database: Database) -> None:
    rng = random.Random(8)
    _write(database, _moments(rng, 100), rng)
    calls = [partial(Caller.value, function="refresh_figures") for _ in range(20)]
    through = _slot(datetime.now(UTC) - timedelta(minutes=1))
    done = at_once(database, calls, 10)
    assert done.count(True) >= 1
    if _through(database) == through:
        assert done.count(True) == 1
    assert_figures_right(database)


def test_who_rolls_up_while_another_does_is_told_no_and_waits_for_nothing(
    database: Database,
) -> None:
    with session(database, "t_web", autocommit=False) as one, session(database, "t_web") as two:
        assert one.value("refresh_figures") is True
        two.execute("SET lock_timeout = '1ms'")
        assert two.value("refresh_figures") is False
        viewer = staff(database, "viewer")
        assert two.row("get_overview", session_hash=viewer.session_hash)["total_users"] == 0
        one.connection.rollback()
        assert two.value("refresh_figures") is True


def test_a_person_is_one_user_of_a_day_however_often_and_whenever_they_come(
    database: Database,
) -> None:
    who = new_user(database, paid=10)
    border = _slot(datetime.now(UTC) - timedelta(minutes=1))
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    account = account_of(database, who)["id"]
    # One person is charged yesterday, at the day's first and last moment, and today before the
    # roll-up.
    moments = [today - timedelta(days=1), today - timedelta(microseconds=1), today, border - SLOT]
    for version, moment in enumerate(moments, 1000):
        database.execute(
            "INSERT INTO billing_data.charges (id, account_id, amount_minor, currency,"
            " balance_before, balance_after, description, ledger_version, paid_with,"
            " database_role, created_at)"
            " VALUES (%s, %s, 1, 'USD', 10, 10, 'd', %s, 'free', 'test', %s)",
            _at(moment), account, version, moment,
        )  # fmt: skip
    for _ in range(3):
        days = assert_figures_right(database)
        assert [row["unique_users"] for row in days[-2:]] == [1, 1]
        _refresh(database)
        with session(database, "t_dba") as dba:
            dba.row("create_charge", **who)


def test_a_user_of_several_days_is_one_user_of_the_month_and_a_buyer_is_none(
    database: Database,
) -> None:
    now = datetime.now(UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    first = today - timedelta(days=29)  # the first of 30 days, the last of which is today
    tick = timedelta(microseconds=1)
    for moments in (
        [now - timedelta(days=days) for days in range(5)],
        [now - timedelta(days=3), now - timedelta(days=40)],
        [first],
        [first - tick],
        [now - timedelta(hours=1)],
    ):
        _charge_at(database, account_of(database, new_user(database))["id"], moments)
    new_user(database, paid=10)  # this user only bought
    with session(database, "t_dba") as dba:
        dba.row("check_credit", **person())  # this user only asked
        for _ in range(2):
            overview = dba.row("get_overview")
            assert overview["unique_users_30d"] == 4
            days = assert_figures_right(database)
            assert sum(row["unique_users"] for row in days[1:]) == 8
            _refresh(database)


def _charge_at(database: Database, account: Any, moments: list[datetime]) -> None:
    """Charges free uses at these times, as if calls had been made then."""
    for moment in sorted(moments):
        database.execute(
            "INSERT INTO billing_data.charges (id, account_id, amount_minor, currency,"
            " balance_before, balance_after, description, ledger_version, paid_with,"
            " database_role, created_at) SELECT %s, %s, 1, 'USD', 10, 10, 'd',"
            " coalesce(max(c.ledger_version), 0) + 1, 'free', 'test', %s"
            " FROM billing_data.charges AS c WHERE c.account_id = %s",
            _at(moment), account, moment, account,
        )  # fmt: skip


@pytest.mark.parametrize(
    "ahead", [timedelta(minutes=6), timedelta(hours=3), timedelta(days=2), timedelta(days=400)]
)
@pytest.mark.parametrize("is_rolled_up", [True, False], ids=["rolled up ahead", "mark alone"])
def test_a_clock_that_was_set_back_falsifies_nothing_and_the_next_roll_up_heals(
    database: Database, ahead: timedelta, *, is_rolled_up: bool
) -> None:
    rng = random.Random(12)
    _write(database, _moments(rng, 60), rng)
    # The clock was ahead: there are rows of that time, and figures are rolled up to it.
    there = datetime.now(UTC) + ahead
    rows = [there, there - timedelta(minutes=7)]
    _charge_at(database, account_of(database, new_user(database))["id"], rows)
    _refresh(database)
    if is_rolled_up:
        database.execute(
            "INSERT INTO billing_data.usage_figures (slot, charges, accounts_created)"
            " VALUES (%s, 1, 5) ON CONFLICT DO NOTHING",
            _slot(there - timedelta(minutes=7)),
        )
        database.execute(
            "INSERT INTO billing_data.users_by_day (day, users) VALUES (%s, 1)"
            " ON CONFLICT (day) DO UPDATE SET users = users_by_day.users + 1",
            (there - timedelta(minutes=7)).date(),
        )
        database.execute(
            "UPDATE billing_data.user_activity SET last_day = %s", (there + ahead).date()
        )
    database.execute(
        "UPDATE billing_data.usage_figures_state SET complete_through = %s, users_through = %s",
        _slot(there),
        _slot(there),
    )
    # New calls, by the present clock, fall in slots that were thought to be over.
    for who in [new_user(database, paid=rng.randint(0, 3)) for _ in range(3)]:
        with session(database, "t_dba") as dba:
            charge_all(dba, [who] * rng.randint(1, 5))
    if not is_rolled_up:
        assert_figures_right(database)
    assert _refresh(database) is True
    assert _through(database) <= datetime.now(UTC) - timedelta(minutes=1)
    assert_figures_right(database)
    days = assert_figures_right(database)
    database.execute("SELECT billing.rebuild_figures()", user="t_dba")
    assert assert_figures_right(database) == days


def test_slots_thought_to_be_over_in_which_more_was_written_are_counted_again(
    database: Database,
) -> None:
    """The clock was set back by hours a while ago, and nothing was rolled up since."""
    now = datetime.now(UTC)
    account = account_of(database, new_user(database))["id"]
    _charge_at(database, account, [now - timedelta(hours=hours) for hours in (1, 2, 5, 30)])
    _refresh(database)
    _charge_at(database, account, [now - timedelta(hours=hours) for hours in (1, 2, 4)])
    with pytest.raises(AssertionError):
        assert_figures_right(database)
    database.execute(
        "UPDATE billing_data.usage_figures_state SET complete_through = %s",
        _slot(now + timedelta(hours=1)),
    )
    assert_figures_right(database)
    assert _refresh(database) is True
    assert_figures_right(database)


def test_rows_of_the_old_service_with_ids_of_another_kind_are_counted_too(
    database: Database,
) -> None:
    now = datetime.now(UTC)
    who = new_user(database, paid=10)
    account = account_of(database, who)["id"]
    for version, (days, id_) in enumerate(
        [
            (1, uuid.UUID(int=1)),
            (2, uuid.UUID(int=2**128 - 1)),
            (3, uuid.uuid4()),
            (40, uuid.UUID(int=2)),
            (800, uuid.UUID(int=2**128 - 2)),
        ],
        1000,
    ):
        for table, columns, values in (
            ("charges", "paid_with", "'free'"),
            ("credits", "transaction_type", "'purchase'"),
        ):
            after = 11 if table == "credits" else 10
            database.execute(
                f"INSERT INTO billing_data.{table} (id, account_id, amount_minor, currency,"
                f" balance_before, balance_after, description, ledger_version, {columns},"
                " database_role, created_at) VALUES (%s, %s, 1, 'USD', 10, %s, 'd', %s,"
                f" {values}, 'legacy', %s)",
                id_,
                account,
                after,
                version,
                now - timedelta(days=days),
            )
    for _ in range(2):
        days_ = assert_figures_right(database)
        assert [row["charges"] for row in days_[-4:-1]] == [1, 1, 1]
        assert [row["unique_users"] for row in days_[-4:-1]] == [1, 1, 1]
        assert [row["credits_sold"] for row in days_[-4:-1]] == [1, 1, 1]
        _refresh(database)
    database.execute("SELECT billing.rebuild_figures()", user="t_dba")
    assert assert_figures_right(database) == days_


def test_the_first_roll_up_waits_for_the_last_rows_of_the_old_service(database: Database) -> None:
    account = account_of(database, new_user(database))["id"]
    for table, kind, value in (
        ("charges", "paid_with", "free"),
        ("credits", "transaction_type", "grant"),
    ):
        balance = 10 if table == "charges" else 11
        database.execute(
            f"INSERT INTO billing_data.{table} (id, account_id, amount_minor, currency,"
            f" balance_before, balance_after, description, ledger_version, {kind}, database_role)"
            " VALUES (%s, %s, 1, 'USD', 10, %s, 'd', 1000, %s, 'legacy')",
            uuid.UUID(int=1),
            account,
            balance,
            value,
        )
        assert _refresh(database) is False
        assert assert_figures_right(database)[-1][table] == 1
    for table in ("charges", "credits"):
        database.execute(f"ALTER TABLE billing_data.{table} DISABLE TRIGGER USER")
        database.execute(
            f"UPDATE billing_data.{table} SET created_at = created_at - interval '6 minutes'"
        )
    assert _refresh(database) is True
    assert_figures_right(database)


def test_figures_that_went_wrong_are_put_right_by_a_rebuild(database: Database) -> None:
    rng = random.Random(9)
    _write(database, _moments(rng, 60), rng)
    _refresh(database)
    database.execute("UPDATE billing_data.usage_figures SET charges = charges + 1")
    database.execute("UPDATE billing_data.users_by_day SET users = users + 1")
    with pytest.raises(AssertionError):
        assert_figures_right(database)
    assert database.value("SELECT billing.rebuild_figures()", user="t_dba") is True
    assert_figures_right(database)


def test_a_rebuild_and_roll_ups_at_once_leave_right_figures(database: Database) -> None:
    rng = random.Random(10)
    _write(database, _moments(rng, 60), rng)
    calls = [
        partial(Caller.value, function=function)
        for function in ("rebuild_figures", "refresh_figures", "refresh_figures") * 5
    ]
    at_once(database, calls, 5)
    assert_figures_right(database)


def test_activity_during_roll_ups_is_neither_lost_nor_counted_twice(database: Database) -> None:
    who = new_user(database, paid=1000)
    calls: list[Callable[[Caller], Any]] = []
    for _ in range(40):
        calls += [
            lambda caller: caller.row("create_charge", **who),
            lambda caller: caller.value("refresh_figures"),
            lambda caller: caller.row("check_credit", **person()),
        ]
    at_once(database, calls, 8)
    assert assert_figures_right(database)[-1]["charges"] == 40


@pytest.mark.parametrize("days", [-1, 367, None])
def test_a_span_of_days_out_of_bounds_is_refused(database: Database, days: int | None) -> None:
    with session(database, "t_dba") as dba:
        refusal = dba.refusal("list_daily_figures", days=days)
        assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
        assert refusal.detail["argument"] == "p_days"
        assert len(dba.rows("list_daily_figures", days=366)) == 367
        assert len(dba.rows("list_daily_figures", days=0)) == 1


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Los_Angeles", "UTC"])
def test_days_are_of_utc_wherever_the_session_is(database: Database, zone: str) -> None:
    rng = random.Random(11)
    _write(database, _moments(rng, 40), rng)
    with session(database, "t_dba") as dba:
        dba.execute(f"SET TimeZone = '{zone}'")
        assert dba.rows("list_daily_figures") == assert_figures_right(database)
        assert dba.value("refresh_figures") is True
        assert dba.rows("list_daily_figures") == assert_figures_right(database)


def test_an_id_of_a_moment_begins_with_it(database: Database) -> None:
    for moment in (EPOCH, datetime.now(UTC), datetime(1970, 1, 1, tzinfo=UTC)):
        first = database.value("SELECT billing_data.first_id(%s)", moment)
        milliseconds = int.from_bytes(first.bytes[:6], "big")
        # The time in an id is rounded too.
        assert abs(milliseconds - moment.timestamp() * 1000) <= 0.51
        assert first.bytes[6:] == bytes(10)
    for early in ("-infinity", "1969-01-01Z"):
        first = database.value("SELECT billing_data.first_id(%s::timestamptz)", early)
        assert first == uuid.UUID(int=0)
    made = database.value("SELECT billing_data.new_id()")
    now = datetime.now(UTC)
    low, high = (
        database.value("SELECT billing_data.first_id(%s)", now + timedelta(seconds=seconds))
        for seconds in (-60, 60)
    )
    assert low < made < high
