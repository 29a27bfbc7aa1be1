"""The months of the check audit are made and dropped while checks go on: none is refused or
lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from server.config import SettingsSeed
from server.migrate import MigrationError, migrate, runner
from tests.sql.helpers import at_once, new_user, person, session
from tests.support import Database, TestCluster

OLD = "2020-02-01 12:00Z"
DEFAULT = "credit_checks_default"


def _month(offset: int) -> str:
    today = datetime.now(UTC)
    years, month = divmod(today.year * 12 + today.month - 1 + offset, 12)
    return f"credit_checks_{years:04}_{month + 1:02}"


def _forget_month(database: Database) -> None:
    """The state when nobody made this month in time: its rows are in the default partition."""
    database.execute(
        f"ALTER TABLE billing_data.credit_checks DETACH PARTITION billing_data.{_month(0)}"
    )
    database.execute(
        f"INSERT INTO billing_data.credit_checks SELECT * FROM billing_data.{_month(0)}"
    )
    database.execute(f"DROP TABLE billing_data.{_month(0)}")


def _write(database: Database, count: int, at: str) -> None:
    database.execute(
        "INSERT INTO billing_data.credit_checks (id, oauth_provider, external_id, has_credit,"
        " created_at) SELECT gen_random_uuid(), 'oauth:google', 'x', true,"
        " %s::timestamptz - g.n * interval '1 millisecond' FROM generate_series(1, %s) AS g (n)",
        at,
        count,
    )


def _lie(database: Database, partition: str) -> int:
    found: int = database.value(f"SELECT count(*) FROM ONLY billing_data.{partition}")
    return found


def _all(database: Database) -> int:
    found: int = database.value("SELECT count(*) FROM billing_data.credit_checks")
    return found


@dataclass
class Traffic:
    """Checks that go on as a server makes them, and a reader that counts them meanwhile."""

    done: int = 0
    faults: list[str] = field(default_factory=list)
    lost: bool = False


@contextmanager
def _traffic(database: Database, connections: int = 3) -> Iterator[Traffic]:
    traffic, stop, lock = Traffic(), threading.Event(), threading.Lock()
    begun = threading.Barrier(connections + 2)
    user = new_user(database)
    before = _all(database)

    def check(_: int) -> None:
        with session(database, "t_dba") as dba:
            dba.execute("SET lock_timeout = '2s'")
            dba.execute("SET statement_timeout = '5s'")
            begun.wait(timeout=60)
            while not stop.is_set():
                try:
                    dba.row("check_credit", **user)
                except psycopg.Error as error:
                    traffic.faults.append(str(error))
                else:
                    with lock:
                        traffic.done += 1

    def count() -> None:
        most = 0
        with session(database, "postgres") as root:
            begun.wait(timeout=60)
            while not stop.is_set():
                (row,) = root.execute("SELECT count(*) AS n FROM billing_data.credit_checks")
                traffic.lost = traffic.lost or row["n"] < most
                most = row["n"]

    with ThreadPoolExecutor(connections + 1) as pool:
        workers = [pool.submit(check, number) for number in range(connections)]
        workers.append(pool.submit(count))
        try:
            begun.wait(timeout=60)
            yield traffic
        finally:
            stop.set()
        for worker in workers:
            worker.result()
    assert traffic.faults == []
    assert not traffic.lost
    assert traffic.done > 0
    assert _all(database) == before + traffic.done


def test_a_month_whose_rows_lie_in_the_default_partition_is_made_while_checks_go_on(
    any_cluster: TestCluster,
) -> None:
    with any_cluster.database() as database:
        _write(database, 2000, OLD)
        for _ in range(5):
            _write(database, 2000, datetime.now(UTC).isoformat())
            _forget_month(database)
            with _traffic(database), session(database, "t_web") as web:
                made = web.rows("create_check_partitions", months=1)
            assert [row["partition_name"] for row in made] == [_month(0)]
            assert _lie(database, DEFAULT) == 2000
            assert _lie(database, _month(0)) == _all(database) - 2000


def test_a_deploy_makes_the_month_while_checks_go_on(database: Database) -> None:
    _write(database, 20000, datetime.now(UTC).isoformat())
    _forget_month(database)
    with _traffic(database):
        migrate(database.dsn(), SettingsSeed())
    assert _lie(database, DEFAULT) == 0


def test_a_month_of_the_default_partition_is_neither_lost_nor_made_twice_by_many_at_once(
    database: Database,
) -> None:
    _write(database, 2000, datetime.now(UTC).isoformat())
    _forget_month(database)
    with _traffic(database, 1):
        made = at_once(
            database, [lambda caller: caller.rows("create_check_partitions", months=5)] * 6, 6
        )
    names = [row["partition_name"] for rows in made for row in rows]
    assert sorted(names) == [_month(0), _month(4), _month(5)]
    assert _lie(database, DEFAULT) == 0


def test_a_deploy_that_cannot_make_the_month_says_so_in_a_sentence(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_user(database)
    _forget_month(database)
    monkeypatch.setattr(runner, "_LOCK_PATIENCE_SECONDS", 0.0)
    with session(database, "postgres", autocommit=False) as reader:
        reader.execute(f"SELECT count(*) FROM billing_data.{DEFAULT}")
        with pytest.raises(MigrationError, match="making the coming months of the check audit"):
            migrate(database.dsn(), SettingsSeed())
        # The call that waits for the lock delays no check meanwhile.
        with session(database, "t_dba") as dba:
            dba.execute("SET lock_timeout = '2s'")
            assert dba.row("check_credit", **person())
    migrate(database.dsn(), SettingsSeed())
    assert _lie(database, DEFAULT) == 0


def test_settings_that_are_refused_end_a_deploy_with_a_sentence(cluster: TestCluster) -> None:
    with (
        cluster.database(template=None) as database,
        pytest.raises(MigrationError, match="the first settings were refused"),
    ):
        migrate(database.dsn(), SettingsSeed(pack_uses=-1))


def test_months_in_which_somebody_made_a_partition_by_hand_are_left_alone(
    database: Database,
) -> None:
    database.execute(f"DROP TABLE billing_data.{_month(2)}")
    database.execute(f"DROP TABLE billing_data.{_month(3)}")
    year, month = _month(2)[-7:].split("_")
    database.execute(
        "CREATE TABLE billing_data.by_hand PARTITION OF billing_data.credit_checks"
        f" FOR VALUES FROM ('{year}-{month}-03 00:00Z') TO ('{year}-{month}-05 00:00Z')"
    )
    # A table has the other month's name and is not a partition.
    database.execute(f"CREATE TABLE billing_data.{_month(3)} (id integer)")
    with session(database, "t_web") as web:
        made = web.rows("create_check_partitions", months=3)
        assert [row["partition_name"] for row in made] == [f"{_month(3)}_new"]
        assert web.rows("create_check_partitions", months=3) == []
    _write(database, 1, f"{year}-{month}-20 00:00Z")
    assert _lie(database, DEFAULT) == 1


@pytest.mark.parametrize("style", ["SQL, DMY", "German", "Postgres, MDY", "ISO, YMD"])
def test_bounds_are_of_utc_whatever_the_callers_settings_are(
    any_cluster: TestCluster, style: str
) -> None:
    with any_cluster.database() as database, session(database, "t_dba") as dba:
        for setting in (
            f"DateStyle = '{style}'",
            "TimeZone = 'Pacific/Kiritimati'",
            "standard_conforming_strings = off",
            "IntervalStyle = sql_standard",
        ):
            dba.execute(f"SET {setting}")
        assert len(dba.rows("create_check_partitions", months=6)) == 3
        assert dba.rows("create_check_partitions", months=6) == []
        rows = database.execute(
            "SELECT l.starts_at, l.ends_at FROM billing_data.list_check_partitions() AS l"
        )
        assert len(rows) == 7
        for (starts_at, ends_at), (following, _) in zip(rows, [*rows[1:], (rows[-1][1], None)],
                                                        strict=True):  # fmt: skip
            at = starts_at.astimezone(UTC)
            assert (at.day, at.hour, at.minute) == (1, 0, 0)
            assert ends_at == following


def test_a_month_of_which_too_much_lies_in_the_default_partition_is_left_to_a_deploy(
    database: Database,
) -> None:
    _write(database, 50, datetime.now(UTC).isoformat())
    _forget_month(database)
    lies = _lie(database, DEFAULT)
    with session(database, "t_web") as web:
        made = web.rows("create_check_partitions", months=4, most_rows=lies - 1)
        assert [row["partition_name"] for row in made] == [_month(4)]  # the others are not kept
        made = web.rows("create_check_partitions", months=4, most_rows=lies)
        assert [row["partition_name"] for row in made] == [_month(0)]


# --- retention -----------------------------------------------------------------------------------


@pytest.mark.alone
def test_old_checks_of_the_default_partition_are_deleted_in_bounded_batches_while_checks_go_on(
    any_cluster: TestCluster,
) -> None:
    with any_cluster.database() as database:
        _write(database, 2500, OLD)
        _write(database, 7, "2021-06-01 00:00Z")
        database.execute(
            "CREATE TABLE billing_data.credit_checks_2020_03 PARTITION OF"
            " billing_data.credit_checks FOR VALUES FROM ('2020-03-01 00:00Z')"
            " TO ('2020-04-01 00:00Z')"
        )
        before = "2021-01-01 00:00Z"
        lost = 0
        with session(database, "t_dba") as dba, ThreadPoolExecutor(1) as pool:
            named = []
            stop = threading.Event()
            checks = pool.submit(_check_until, database, stop)
            try:
                for _ in range(4):
                    rows = dba.rows("drop_check_partitions", before=before, rows=1000)
                    named.append([row["partition_name"] for row in rows])
            finally:
                stop.set()  # otherwise the pool waits for ever
            lost = checks.result()
        assert named == [[DEFAULT, "credit_checks_2020_03"], [DEFAULT], [DEFAULT], []]
        assert lost == 0
        assert _lie(database, DEFAULT) == 7
        with session(database, "t_dba") as dba:
            later = datetime.now(UTC) - timedelta(days=40)
            assert [row["partition_name"] for row in dba.rows(
                "drop_check_partitions", before=later)] == [DEFAULT]  # fmt: skip
        assert _lie(database, DEFAULT) == 0


def _check_until(database: Database, stop: threading.Event) -> int:
    """How many of the checks made until then are missing."""
    user, done = new_user(database), 1
    with session(database, "t_dba") as dba:
        dba.execute("SET lock_timeout = '2s'")
        while not stop.is_set():
            dba.row("check_credit", **user)
            done += 1
    found: int = database.value(
        "SELECT count(*) FROM billing_data.credit_checks AS c WHERE c.external_id = %s",
        user["external_id"],
    )
    return done - found


def test_dropping_goes_by_what_a_partition_holds_and_not_by_its_name(database: Database) -> None:
    database.execute(
        "CREATE TABLE billing_data.odd PARTITION OF billing_data.credit_checks"
        " FOR VALUES FROM (MINVALUE) TO ('2020-01-01 00:00Z')"
    )
    database.execute(
        "CREATE TABLE billing_data.credit_checks_2019_01 PARTITION OF billing_data.credit_checks"
        " FOR VALUES FROM ('2020-01-01 00:00Z') TO ('2023-01-01 00:00Z')"
    )
    with session(database, "t_dba") as dba:
        dba.execute("SET DateStyle = 'SQL, DMY'")
        dropped = dba.rows("drop_check_partitions", before="2022-01-01 00:00Z")
    assert dropped == [{"partition_name": "odd"}]


@pytest.mark.parametrize("rows", [0, -1, None, 5_000_001])
def test_a_senseless_number_of_rows_is_refused(database: Database, rows: int | None) -> None:
    with session(database, "t_dba") as dba:
        refusal = dba.refusal("drop_check_partitions", before="2020-01-01", rows=rows)
    assert (refusal.sqlstate, refusal.detail["argument"]) == ("PB422", "p_rows")
