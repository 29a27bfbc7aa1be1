"""Batches of checks, waiting, durability, partitions and the rights of keys."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.sql.checks import recorded_checks, set_status
from tests.sql.helpers import (
    NOBODY,
    Caller,
    account_of,
    check_all,
    key_id,
    new_user,
    outcomes,
    person,
    session,
)
from tests.support import Database, unique

# --- several at once -----------------------------------------------------------------------------


def test_each_item_of_a_batch_is_answered(module_database: Database, dba: Caller) -> None:
    rich, empty, closed = (
        new_user(module_database, paid=2),
        new_user(module_database, free=False),
        new_user(module_database),
    )
    set_status(dba, closed, "closed")
    rows = check_all(dba, [rich, empty, closed, person(), rich])
    assert outcomes(rows) == ["checked"] * 5
    assert [row["has_credit"] for row in rows] == [True, False, False, True, True]
    assert [row["account_created"] for row in rows] == [False, False, False, True, False]
    assert [row["credits_remaining"] for row in rows] == [2, 0, 0, 0, 2]
    assert [row["purchase_required"] for row in rows] == [False, True, False, False, False]
    assert len(recorded_checks(module_database, rich)) == 3


def test_a_new_user_several_times_in_one_call_is_one_account_made_once(
    module_database: Database, dba: Caller
) -> None:
    who = person()
    rows = check_all(dba, [{**who, "customer_email": f"{n}@example.com"} for n in range(3)])
    assert outcomes(rows) == ["checked"] * 3
    assert account_of(module_database, who)["customer_email"] == "2@example.com"
    assert len(recorded_checks(module_database, who)) == 3
    assert [row["account_created"] for row in rows] == [True, False, False]


def test_items_of_one_account_change_its_profile_in_their_order(
    module_database: Database, dba: Caller
) -> None:
    who = person()
    dba.row("check_credit", **who, customer_email="first@example.com")
    emails = ["second@example.com", "third@example.com", "first@example.com"]
    check_all(dba, [{**who, "customer_email": email} for email in emails])
    assert account_of(module_database, who)["customer_email"] == "first@example.com"


def test_an_empty_batch_does_nothing(dba: Caller) -> None:
    assert dba.rows("check_credits", oauth_providers=[], external_ids=[]) == []
    with pytest.raises(psycopg.Error) as refused:
        dba.rows("check_credits", oauth_providers=None, external_ids=None)
    assert refused.value.sqlstate == "PB422"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("oauth_provider", None),
        ("external_id", None),
        ("external_id", "x" * 256),
        ("wa_id", "x" * 256),
        ("context_channel_id", "x" * 256),
        ("customer_email", "x" * 256),
        ("user_role", "x" * 51),
    ],
    ids=lambda value: str(value)[:20],
)
def test_one_bad_item_is_refused_alone(
    module_database: Database, dba: Caller, field: str, value: Any
) -> None:
    good = new_user(module_database)
    rows = check_all(dba, [good, {**person(), field: value}, person()])
    assert outcomes(rows) == ["checked", "invalid_argument", "checked"]


@pytest.mark.parametrize("short", ["oauth_providers", "external_ids", "wa_ids"])
def test_arrays_of_different_lengths_are_refused_as_a_whole(dba: Caller, short: str) -> None:
    arrays: dict[str, list[Any]] = {
        "oauth_providers": ["oauth:google"] * 2,
        "external_ids": [unique(), unique()],
        "wa_ids": ["w", "w"],
    }
    arrays[short] = arrays[short][:1]
    refusal = dba.refusal("check_credits", **arrays)
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")


def test_nulls_among_the_optional_fields_mean_not_given(
    module_database: Database, dba: Caller
) -> None:
    who, other = new_user(module_database), new_user(module_database)
    nothing: dict[str, Any] = dict.fromkeys(
        ("wa_id", "customer_email", "user_role", "agent_id", "marketing_opt_in")
    )
    rows = check_all(dba, [{**who, **nothing}, {**other, "customer_email": "b@example.com"}])
    assert outcomes(rows) == ["checked", "checked"]
    assert account_of(module_database, who)["customer_email"] is None
    assert account_of(module_database, other)["customer_email"] == "b@example.com"


# --- not waiting ---------------------------------------------------------------------------------


def test_without_waiting_only_a_profile_change_of_a_locked_account_is_busy(
    module_database: Database, dba: Caller
) -> None:
    held, free = new_user(module_database), new_user(module_database)
    with session(module_database, "t_dba", autocommit=False) as other:
        other.row("create_charge", **held)
        began = time.monotonic()
        rows = check_all(
            dba,
            [
                {**held, "customer_email": "ada@example.com"},
                held,
                {**free, "customer_email": "ben@example.com"},
            ],
            wait=False,
        )
        assert time.monotonic() - began < 1
        other.connection.rollback()
    assert outcomes(rows) == ["busy", "checked", "checked"]
    busy = {name: value for name, value in rows[0].items() if name not in ("item", "outcome")}
    assert busy["has_credit"] is False
    assert busy["credits_remaining"] is None
    assert account_of(module_database, held)["customer_email"] is None
    assert account_of(module_database, free)["customer_email"] == "ben@example.com"
    assert len(recorded_checks(module_database, held)) == 2


def test_without_waiting_an_identity_that_somebody_is_creating_is_busy(
    module_database: Database, dba: Caller
) -> None:
    coming, fine, new = person(), new_user(module_database), person()
    with session(module_database, "t_dba", autocommit=False) as other:
        other.row("check_credit", **coming)
        began = time.monotonic()
        rows = check_all(dba, [coming, fine, new], wait=False)
        assert time.monotonic() - began < 1
        other.connection.commit()
    assert outcomes(rows) == ["busy", "checked", "checked"]
    assert [row["account_created"] for row in rows] == [False, False, True]
    assert outcomes(check_all(dba, [coming], wait=False)) == ["checked"]


def test_a_check_waits_for_who_is_creating_the_same_account(module_database: Database) -> None:
    who = person()
    with (
        session(module_database, "t_dba", autocommit=False) as first,
        session(module_database, "t_dba") as second,
    ):
        first.row("check_credit", **who)
        second.execute("SET lock_timeout = '200ms'")
        assert second.refusal("check_credit", **who).sqlstate == "55P03"
        first.connection.commit()
        assert second.row("check_credit", **who)["has_credit"]
    account_of(module_database, who)


# --- durability ----------------------------------------------------------------------------------


def _durability(caller: Caller) -> str:
    (row,) = caller.execute("SHOW synchronous_commit")
    value: str = row["synchronous_commit"]
    return value


def test_a_check_alone_commits_asynchronously_and_for_its_transaction_only(
    module_database: Database,
) -> None:
    who = new_user(module_database)
    with session(module_database, "t_dba", autocommit=False) as dba:
        assert _durability(dba) == "on"
        dba.row("check_credit", **who)
        assert _durability(dba) == "off"
        dba.connection.commit()
        assert _durability(dba) == "on"


def test_a_denied_check_and_a_batch_commit_asynchronously_too(module_database: Database) -> None:
    who = new_user(module_database, free=False)
    with session(module_database, "t_dba", autocommit=False) as dba:
        check_all(dba, [who, who])
        assert _durability(dba) == "off"
        dba.connection.rollback()


@pytest.mark.parametrize("what", ["a new account", "a changed profile"])
def test_a_check_that_changes_an_account_commits_durably(
    module_database: Database, what: str
) -> None:
    who = person() if what == "a new account" else new_user(module_database)
    with session(module_database, "t_dba", autocommit=False) as dba:
        dba.row("check_credit", **who, customer_email="ada@example.com")
        assert _durability(dba) == "on"
        dba.connection.rollback()


def test_one_changed_profile_makes_its_whole_batch_durable(module_database: Database) -> None:
    plain, changed = new_user(module_database), new_user(module_database)
    with session(module_database, "t_dba", autocommit=False) as dba:
        check_all(dba, [plain, {**changed, "customer_email": "ada@example.com"}, plain])
        assert _durability(dba) == "on"
        dba.connection.rollback()


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("create_charge", {}),
        ("create_credit", {"amount_minor": 1}),
        ("set_account_status", {"status": "suspended", "reason": "a test"}),
    ],
)
def test_a_check_before_or_after_a_write_leaves_the_transaction_durable(
    module_database: Database, function: str, arguments: dict[str, Any]
) -> None:
    who = new_user(module_database)
    with session(module_database, "t_dba", autocommit=False) as dba:
        dba.row(function, **who, **arguments)
        dba.row("check_credit", **who)
        assert _durability(dba) == "on"
        dba.connection.rollback()
        dba.row("check_credit", **who)
        dba.row(function, **who, **arguments)
        assert _durability(dba) == "on"
        dba.connection.rollback()


def test_a_check_after_a_write_of_the_dbas_own_leaves_the_transaction_durable(
    module_database: Database,
) -> None:
    who = new_user(module_database)
    with session(module_database, "t_dba", autocommit=False) as dba:
        dba.execute("CREATE TEMP TABLE notes (id integer) ON COMMIT DROP")
        dba.row("check_credit", **who)
        assert _durability(dba) == "on"
        dba.connection.rollback()


# --- monthly partitions --------------------------------------------------------------------------


def _partitions(database: Database) -> list[str]:
    return [
        row[0]
        for row in database.execute("""
            SELECT c.relname FROM pg_inherits AS i
            INNER JOIN pg_class AS c ON c.oid = i.inhrelid
            WHERE i.inhparent = 'billing_data.credit_checks'::regclass ORDER BY 1
        """)
    ]


def _month(offset: int) -> str:
    today = datetime.now(UTC)
    years, month = divmod(today.year * 12 + today.month - 1 + offset, 12)
    return f"credit_checks_{years:04}_{month + 1:02}"


def test_the_first_deploy_makes_this_month_and_three_more(module_database: Database) -> None:
    months = [_month(offset) for offset in range(4)]
    assert _partitions(module_database) == [*months, "credit_checks_default"]


def test_coming_months_are_made_once(database: Database) -> None:
    with session(database, "t_web") as web:
        made = web.rows("create_check_partitions", months=5)
        assert [row["partition_name"] for row in made] == [_month(4), _month(5)]
        assert web.rows("create_check_partitions", months=5) == []
        assert web.rows("create_check_partitions", months=0) == []
    assert len(_partitions(database)) == 7
    assert _partitions(database)[:-1] == [_month(offset) for offset in range(6)]


@pytest.mark.parametrize("months", [-1, 121, None])
def test_a_senseless_number_of_months_is_refused(dba: Caller, months: int | None) -> None:
    refusal = dba.refusal("create_check_partitions", months=months)
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
    assert refusal.message == "Invalid p_months: it must be 0 to 120"


def test_making_a_month_moves_its_rows_out_of_the_default_partition(database: Database) -> None:
    this_month = _month(0)
    who = person()
    with session(database, "t_dba") as dba:
        dba.row("check_credit", **who)
        # The state when nobody made the month in time.
        database.execute(
            f"ALTER TABLE billing_data.credit_checks DETACH PARTITION billing_data.{this_month}"
        )
        database.execute(
            f"INSERT INTO billing_data.credit_checks SELECT * FROM billing_data.{this_month}"
        )
        database.execute(f"DROP TABLE billing_data.{this_month}")
        dba.row("check_credit", **who)
        database.execute(
            "INSERT INTO billing_data.credit_checks (id, oauth_provider, external_id, has_credit,"
            " created_at) VALUES (gen_random_uuid(), 'oauth:google', 'old', true, '2020-02-01')"
        )
        assert database.value("SELECT count(*) FROM billing_data.credit_checks_default") == 3
        assert [row["partition_name"] for row in dba.rows("create_check_partitions")] == [
            this_month
        ]
    rows = database.execute(
        "SELECT c.tableoid::regclass::text, c.external_id FROM billing_data.credit_checks AS c"
        " ORDER BY c.created_at"
    )
    assert rows == [
        ("billing_data.credit_checks_default", "old"),
        (f"billing_data.{this_month}", who["external_id"]),
        (f"billing_data.{this_month}", who["external_id"]),
    ]


def test_a_new_month_has_the_indexes_and_the_owner_of_the_table(database: Database) -> None:
    with session(database, "t_web") as web:
        web.rows("create_check_partitions", months=4)
    rows = database.execute(
        "SELECT c.relowner::regrole::text, count(i.indexrelid) FROM pg_class AS c"
        " LEFT JOIN pg_index AS i ON i.indrelid = c.oid"
        " WHERE c.relname = %s GROUP BY 1",
        _month(4),
    )
    assert rows == [("billing_owner", 2)]  # one by account and one by time, for the dashboard


def test_dropping_takes_the_months_that_ended_before_and_no_other(database: Database) -> None:
    database.execute("""
        CREATE TABLE billing_data.credit_checks_2020_01 PARTITION OF billing_data.credit_checks
            FOR VALUES FROM ('2020-01-01 00:00Z') TO ('2020-02-01 00:00Z');
        CREATE TABLE billing_data.credit_checks_2020_02 PARTITION OF billing_data.credit_checks
            FOR VALUES FROM ('2020-02-01 00:00Z') TO ('2020-03-01 00:00Z');
        ALTER TABLE billing_data.credit_checks_2020_01 OWNER TO billing_owner;
        ALTER TABLE billing_data.credit_checks_2020_02 OWNER TO billing_owner;
    """)
    with session(database, "t_dba") as dba:
        dba.execute("SET TimeZone = 'Pacific/Kiritimati'")
        assert dba.rows("drop_check_partitions", before="2020-01-31 23:59Z") == []
        dropped = dba.rows("drop_check_partitions", before="2020-02-01 00:00Z")
        assert dropped == [{"partition_name": "credit_checks_2020_01"}]
        dropped = dba.rows("drop_check_partitions", before=datetime.now(UTC) - timedelta(days=40))
        assert dropped == [{"partition_name": "credit_checks_2020_02"}]
    assert _partitions(database) == [
        *(_month(offset) for offset in range(4)),
        "credit_checks_default",
    ]


@pytest.mark.parametrize("before", [None, datetime.now(UTC), datetime.now(UTC) + timedelta(90)])
def test_what_is_younger_than_a_month_cannot_be_dropped(
    dba: Caller, before: datetime | None
) -> None:
    refusal = dba.refusal("drop_check_partitions", before=before)
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
    assert refusal.message == "Invalid p_before: it must lie at least a month back"


# --- what a key that may only read cannot change --------------------------------------------------

_PROFILE = {
    "customer_email": "eve@example.com",
    "user_role": "admin",
    "agent_id": "eve",
    "marketing_opt_in": True,
    "marketing_opt_in_source": "eve",
}


_FIELDS = (*_PROFILE, "marketing_opt_in_at")


def _profile(database: Database, who: dict[str, str]) -> dict[str, Any]:
    account = account_of(database, who)
    return {name: account[name] for name in _FIELDS}


def test_a_check_by_a_key_that_may_only_read_leaves_the_profile_as_it_is(
    module_database: Database, web: Caller
) -> None:
    reader, writer = key_id(module_database, "billing:read"), key_id(module_database)
    old, new = person(), person()
    given = {**_PROFILE, "customer_email": "ada@example.com", "marketing_opt_in": False}
    web.row("check_credit", **old, **given, api_key_id=writer)
    before = account_of(module_database, old)
    for who in (old, new):
        assert web.row("check_credit", **who, **_PROFILE, api_key_id=reader)["has_credit"] is True
    assert account_of(module_database, old) == before
    nothing = dict.fromkeys(_FIELDS) | {"marketing_opt_in": False}
    assert _profile(module_database, new) == nothing
    # The same call with a key that may write.
    web.row("check_credit", **new, **_PROFILE, api_key_id=writer)
    assert _profile(module_database, new) | {"marketing_opt_in_at": None} == {
        **_PROFILE,
        "marketing_opt_in_at": None,
    }


@pytest.mark.parametrize("wait", [True, False])
def test_each_item_of_a_batch_has_the_rights_of_its_own_key(
    module_database: Database, web: Caller, wait: bool
) -> None:
    reader, writer = key_id(module_database, "billing:read"), key_id(module_database)
    odd = key_id(module_database, "billing:read", "billing:write ")
    known, mixed = new_user(module_database), person()
    items = [
        {**known, **_PROFILE, "api_key_id": reader},
        {**mixed, "customer_email": "eve@example.com", "api_key_id": odd},
        {**mixed, "agent_id": "ada", "api_key_id": writer},
        {**mixed, "agent_id": "eve", "api_key_id": reader},
    ]
    rows = check_all(web, items, wait=wait)
    assert outcomes(rows) == ["checked"] * len(items)
    assert _profile(module_database, known)["user_role"] is None
    found = _profile(module_database, mixed)
    assert (found["agent_id"], found["customer_email"]) == ("ada", None)
    keys = [row["api_key_id"] for row in recorded_checks(module_database, mixed)]
    assert sorted(keys) == sorted([odd, writer, reader])


@pytest.mark.parametrize("unknown", [NOBODY, None])
def test_an_unknown_key_in_a_batch_takes_no_profile_from_the_items_of_others(
    module_database: Database, web: Caller, unknown: uuid.UUID | None
) -> None:
    who, other = person(), person()
    items = [
        {**other, **_PROFILE, "api_key_id": unknown},
        {**who, **_PROFILE, "api_key_id": key_id(module_database)},
    ]
    assert outcomes(check_all(web, items)) == ["api_key_invalid", "checked"]
    assert _profile(module_database, who)["customer_email"] == _PROFILE["customer_email"]
