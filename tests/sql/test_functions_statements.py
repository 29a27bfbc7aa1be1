"""An account's books at a past time: its balance then, statements of a period, and who wrote an
entry."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from tests.sql.console import account_id_of, assert_argument_refused
from tests.sql.helpers import (
    BIGGEST,
    NOBODY,
    Caller,
    key_id,
    new_user,
    person,
    session,
    staff,
    tamper,
)
from tests.sql.payments import begin, configure_provider, deliver
from tests.support import Database, unique

Row = dict[str, Any]
NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)
DAY = timedelta(days=1)
ALWAYS = datetime(2020, 1, 1, tzinfo=UTC), datetime(2120, 1, 1, tzinfo=UTC)


def _date(database: Database, account_id: uuid.UUID, *times: datetime) -> None:
    """Dates an account's entries, in the order of their versions, and its creation a day before
    the first of them."""
    tamper(
        database,
        """
        WITH dated AS (
            SELECT u.at, u.version
            FROM unnest(%(times)s::timestamptz[]) WITH ORDINALITY AS u (at, version)
        ), charged AS (
            UPDATE billing_data.charges AS c SET created_at = d.at FROM dated AS d
            WHERE c.account_id = %(id)s AND c.ledger_version = d.version
        ), credited AS (
            UPDATE billing_data.credits AS c SET created_at = d.at FROM dated AS d
            WHERE c.account_id = %(id)s AND c.ledger_version = d.version
        )
        UPDATE billing_data.accounts AS a SET created_at = %(made)s WHERE a.id = %(id)s
        """,
        times=list(times),
        id=account_id,
        made=min(times) - DAY,
    )


def _statement(caller: Caller, account_id: uuid.UUID, *period: datetime, **more: Any) -> list[Row]:
    return caller.rows(
        "statement", account_id=account_id, **{"from": period[0], "to": period[1]}, **more
    )


def _balances(row: Row) -> tuple[Any, Any]:
    return row["balance_after"], row["free_uses_after"]


def _assert_adds_up(rows: Sequence[Row]) -> None:
    """Opening, plus the changes of all rows, is closing, and each row says what was left."""
    opening, *between, closing = rows
    paid, free = _balances(opening)
    for row in between:
        paid += row["credits_change"]
        free += row["free_uses_change"]
        assert row["free_uses_after"] == free
        assert row["balance_after"] in (paid, None if row["kind"] == "free_uses" else paid)
    assert _balances(closing) == (paid, free)


@pytest.fixture(scope="module")
def ada(module_database: Database) -> uuid.UUID:
    """An account with 10 credits, three free uses used and two credits used. Its entries are at the
    edges of November 2026: a credit in October, the free uses at the first moment of November, an
    instant later and an instant before December, the other uses at the first moment of December."""
    who = new_user(module_database, paid=10, free=False)
    with session(module_database, "t_dba") as dba:
        for _ in range(2):
            dba.row("create_charge", **who)
    account_id = account_id_of(module_database, who)
    _date(
        module_database, account_id, NOVEMBER - DAY, NOVEMBER, NOVEMBER + INSTANT,
        DECEMBER - INSTANT, DECEMBER, DECEMBER + DAY,
    )  # fmt: skip
    return account_id


# --- statements ----------------------------------------------------------------------------------


def test_an_entry_at_the_beginning_belongs_to_the_period_and_one_at_the_end_to_the_next(
    dba: Caller, ada: uuid.UUID
) -> None:
    november = _statement(dba, ada, NOVEMBER, DECEMBER)
    assert [row["kind"] for row in november] == ["opening", *["entry"] * 3, "closing"]
    assert [row["ledger_version"] for row in november] == [1, 2, 3, 4, 4]
    assert [_balances(row) for row in november] == [(10, 3), (10, 2), (10, 1), (10, 0), (10, 0)]
    assert (november[0]["at"], november[-1]["at"]) == (NOVEMBER, DECEMBER)
    december = _statement(dba, ada, DECEMBER, DECEMBER + 31 * DAY)
    assert [row["ledger_version"] for row in december] == [4, 5, 6, 6]
    assert [_balances(row) for row in december] == [(10, 0), (9, 0), (8, 0), (8, 0)]
    for rows in (november, december):
        _assert_adds_up(rows)


@pytest.mark.parametrize(
    ("first", "beyond", "versions"),
    [
        (NOVEMBER, NOVEMBER + INSTANT, [2]),
        (NOVEMBER + INSTANT, DECEMBER - INSTANT, [3]),
        (NOVEMBER - INSTANT, NOVEMBER, []),
        (DECEMBER - INSTANT, DECEMBER + INSTANT, [4, 5]),
        (NOVEMBER + DAY, NOVEMBER + 2 * DAY, []),
        (NOVEMBER, NOVEMBER, []),
        (DECEMBER + 40 * DAY, DECEMBER + 50 * DAY, []),
    ],
    ids=str,
)
def test_a_period_is_half_open_to_the_microsecond(
    dba: Caller, ada: uuid.UUID, first: datetime, beyond: datetime, versions: list[int]
) -> None:
    rows = _statement(dba, ada, first, beyond)
    assert [row["ledger_version"] for row in rows[1:-1]] == versions
    _assert_adds_up(rows)
    if not versions:
        assert _balances(rows[0]) == _balances(rows[-1])


def test_periods_that_meet_fit_together_wherever_they_are_cut(dba: Caller, ada: uuid.UUID) -> None:
    cuts = [NOVEMBER - 2 * DAY, NOVEMBER, NOVEMBER + INSTANT, NOVEMBER + DAY, DECEMBER,
            DECEMBER + 2 * DAY]  # fmt: skip
    parts = [_statement(dba, ada, *period) for period in pairwise(cuts)]
    for before, after in pairwise(parts):
        assert _balances(before[-1]) == _balances(after[0])
    entries = [row["ledger_version"] for part in parts for row in part[1:-1]]
    assert entries == [1, 2, 3, 4, 5, 6]


def test_an_account_that_was_made_within_the_period_opens_when_it_was_made(
    dba: Caller, ada: uuid.UUID
) -> None:
    opening, *_, closing = _statement(dba, ada, NOVEMBER - 9 * DAY, NOVEMBER)
    assert (opening["at"], opening["reason"]) == (NOVEMBER - 2 * DAY, "The account was made")
    assert (_balances(opening), _balances(closing)) == ((0, 3), (10, 3))
    before = _statement(dba, ada, NOVEMBER - 9 * DAY, NOVEMBER - 5 * DAY)
    assert [(row["kind"], *_balances(row)) for row in before] == [
        ("opening", None, None), ("closing", None, None)
    ]  # fmt: skip
    assert {row["reason"] for row in before} == {"The account did not exist yet"}


def test_free_uses_that_staff_set_stand_between_the_entries_and_add_up(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, boss = new_user(module_database, paid=4), staff(module_database, "admin")
    account_id = account_id_of(module_database, who)
    gift = {"account_id": account_id, "session_hash": boss.session_hash}
    web.row("reset_free_uses", **gift, reason="a gift", free_uses=9)
    dba.row("create_charge", **who)
    between = dba.execute("SELECT clock_timestamp() AS at")[0]["at"]
    web.row("reset_free_uses", **gift, reason="a mistake", free_uses=0)
    dba.row("create_charge", **who)
    web.row("reset_free_uses", **gift, reason="again", free_uses=2)
    rows = _statement(dba, account_id, *ALWAYS)
    _assert_adds_up(rows)
    assert [(row["kind"], row["free_uses_change"]) for row in rows[1:-1]] == [
        ("entry", 0), ("free_uses", 6), ("entry", -1), ("free_uses", -8), ("entry", 0),
        ("free_uses", 2),
    ]  # fmt: skip
    given = rows[2]
    assert (given["reason"], given["writer_kind"], given["writer"]) == (
        "a gift", "staff", boss.email
    )  # fmt: skip
    first = _statement(dba, account_id, between - DAY, between)
    second = _statement(dba, account_id, between, between + DAY)
    assert [row["kind"] for row in first[1:-1]] == ["entry", "free_uses", "entry"]
    assert [row["kind"] for row in second[1:-1]] == ["free_uses", "entry", "free_uses"]
    for part in (first, second):
        _assert_adds_up(part)
    assert _balances(first[-1]) == _balances(second[0]) == (4, 8)


def test_what_is_given_back_counts_and_names_what_it_reverses(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=5)
    account_id = account_id_of(module_database, who)
    charges = [dba.row("create_charge", **who)["charge_id"] for _ in range(4)]
    for charge_id in (charges[0], charges[3]):
        dba.row("reverse_charge", charge_id=charge_id, reason="the job failed")
    rows = _statement(dba, account_id, *ALWAYS)
    _assert_adds_up(rows)
    assert _balances(rows[-1]) == (5, 1)
    assert [row["corrects_id"] for row in rows[1:-1]] == [
        None, None, None, None, None, charges[0], charges[3]
    ]  # fmt: skip
    assert [_balances(row) for row in rows[5:-1]] == [(4, 0), (4, 1), (5, 1)]
    at = dba.row("balance_at", account_id=account_id, at=rows[6]["at"])
    assert (at["paid_credits"], at["free_uses"]) == (4, 1)


def test_pages_put_together_are_the_whole_statement(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database, paid=50)
    account_id = account_id_of(module_database, who)
    for number in range(12):
        dba.row("create_charge", **who)
        if number % 3 == 0:
            dba.row("reset_free_uses", account_id=account_id, reason="r", free_uses=number)
    whole = _statement(dba, account_id, *ALWAYS)
    end = dba.row("balance_at", account_id=account_id, at=ALWAYS[1])
    for limit in (1, 2, 5, 12, 13, 14, 10000):
        pages: list[Row] = []
        after = None
        while not pages or pages[-1]["kind"] != "closing":
            page = _statement(
                dba, account_id, *ALWAYS, after=after, limit=limit, through=end["ledger_version"]
            )
            assert len([row for row in page if row["kind"] == "entry"]) <= limit
            pages += page
            after = max(row["ledger_version"] for row in page if row["kind"] == "entry")
        assert pages == whole


def test_books_that_were_taken_over_begin_with_a_row_that_says_so(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=70, free=False)
    account_id = account_id_of(module_database, who)
    tamper(
        module_database,
        "INSERT INTO billing_data.ledger_openings (account_id, ledger_version, paid_credits,"
        " total_uses, free_uses, reason) VALUES (%(id)s, 3, 70, 2, 1, 'other_balance')",
        id=account_id,
    )
    rows = _statement(dba, account_id, *ALWAYS)
    assert [(row["kind"], row["ledger_version"], *_balances(row)) for row in rows] == [
        ("opening", 0, None, None),
        ("entry", 1, None, None),
        ("entry", 2, None, None),
        ("entry", 3, None, None),
        ("opening", 3, 70, 1),
        ("entry", 4, 70, 0),
        ("closing", 4, 70, 0),
    ]
    assert [row["amount_minor"] for row in rows[1:4]] == [70, -1, -1]
    assert "taken over from the old service" in rows[4]["reason"]
    _assert_adds_up(rows[4:])
    at = {row["ledger_version"]: row["at"] for row in rows if row["kind"] == "entry"}
    states = [dba.row("balance_at", account_id=account_id, at=at[version]) for version in (2, 3, 4)]
    assert [(row["state"], row["paid_credits"], row["free_uses"]) for row in states] == [
        ("before_books", None, None), ("known", 70, 1), ("known", 70, 0)
    ]  # fmt: skip


def test_the_period_is_this_utc_month_unless_it_is_given(
    module_database: Database, ada: uuid.UUID
) -> None:
    with session(module_database, "t_dba") as dba:
        dba.execute("SET TimeZone = 'Pacific/Kiritimati'")  # 14 hours ahead of UTC
        now = dba.execute("SELECT clock_timestamp() AS at")[0]["at"].astimezone(UTC)
        rows = dba.rows("statement", account_id=ada)
        assert rows[0]["at"] == now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        following = rows[0]["at"].astimezone(UTC) + 32 * DAY
        assert rows[-1]["at"] == following.replace(day=1, hour=0)
        only_from = dba.rows("statement", account_id=ada, **{"from": NOVEMBER})
        assert only_from[-1]["at"] == DECEMBER


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"from": DECEMBER, "to": NOVEMBER}, "p_to"),
        ({"from": "infinity"}, "p_from"),
        ({"from": NOVEMBER, "to": "infinity"}, "p_to"),
        ({"limit": 0}, "p_limit"),
        ({"limit": 10001}, "p_limit"),
        ({"after": -1}, "p_after"),
        ({"after": 7}, "p_after"),
        ({"through": BIGGEST}, "p_through"),
    ],
    ids=str,
)
def test_a_senseless_statement_is_refused(
    dba: Caller, ada: uuid.UUID, arguments: dict[str, Any], argument: str
) -> None:
    assert_argument_refused(dba, "statement", argument, account_id=ada, **arguments)


def test_nobody_has_neither_a_statement_nor_a_balance(dba: Caller) -> None:
    assert dba.refusal("statement", account_id=NOBODY).slug == "account_not_found"
    refusal = dba.refusal("balance_at", account_id=NOBODY, at=NOVEMBER)
    assert refusal.slug == "account_not_found"


# --- a balance at a past time --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (NOVEMBER - 2 * DAY - INSTANT, ("before_account", None, None, 0)),
        (NOVEMBER - 2 * DAY, ("known", 0, 3, 0)),
        (NOVEMBER - DAY - INSTANT, ("known", 0, 3, 0)),
        (NOVEMBER - DAY, ("known", 10, 3, 1)),
        (NOVEMBER - INSTANT, ("known", 10, 3, 1)),
        (NOVEMBER, ("known", 10, 2, 2)),
        (NOVEMBER + INSTANT, ("known", 10, 1, 3)),
        (DECEMBER, ("known", 9, 0, 5)),
        (DECEMBER + 999 * DAY, ("known", 8, 0, 6)),
    ],
    ids=str,
)
def test_a_balance_at_a_time_includes_what_was_written_at_that_time(
    dba: Caller, ada: uuid.UUID, at: datetime, expected: tuple[Any, ...]
) -> None:
    row = dba.row("balance_at", account_id=ada, at=at)
    found = (row["state"], row["paid_credits"], row["free_uses"], row["ledger_version"])
    assert found == expected
    if row["ledger_version"]:
        entry = dba.row("find_entry", transaction_id=row["transaction_id"])
        assert (entry["ledger_version"], entry["created_at"]) == (expected[3], row["created_at"])
        assert row["created_at"] <= at
    else:
        assert row["transaction_id"] is None


def test_a_balance_needs_a_time_that_there_is(dba: Caller, ada: uuid.UUID) -> None:
    for at in (None, "infinity", "-infinity"):
        assert_argument_refused(dba, "balance_at", "p_at", account_id=ada, at=at)


def _act(dba: Caller, chance: random.Random, who: dict[str, str], account_id: uuid.UUID) -> None:
    """Does something that changes what the account has, or is refused."""
    match chance.randrange(6):
        case 0:
            dba.row("create_credit", **who, amount_minor=chance.randint(1, 9))
        case 1:
            amount = chance.choice([-2, -1, 3])
            if amount > 0 or dba.row("get_account", **who)["paid_credits"] >= -amount:
                dba.row("adjust_credits", account_id=account_id, amount=amount, reason="r")
        case 2:
            free_uses = chance.randint(0, 4)
            dba.row("reset_free_uses", account_id=account_id, reason="r", free_uses=free_uses)
        case 3:
            charges = dba.execute(
                "SELECT c.id FROM billing_data.charges AS c LEFT JOIN billing_data.reversed_entries"
                " AS r ON r.entry_id = c.id WHERE c.account_id = %s AND r.entry_id IS NULL"
                " ORDER BY c.ledger_version",
                account_id,
            )
            if charges:
                charge_id = chance.choice(charges)["id"]
                dba.row("reverse_charge", charge_id=charge_id, reason="the job failed")
        case _:
            account = dba.row("get_account", **who)
            if account["free_uses_remaining"] + account["paid_credits"] > 0:
                dba.row("create_charge", **who)


def test_a_balance_at_a_time_is_what_the_account_had_then_in_random_histories(
    dba: Caller,
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(6):
        who = person()
        account_id = dba.row("create_account", **who)["account_id"]
        seen = []
        for _ in range(25):
            _act(dba, chance, who, account_id)
            account = dba.row("get_account", **who)
            at = dba.execute("SELECT clock_timestamp() AS at")[0]["at"]
            seen.append((at, account["paid_credits"], account["free_uses_remaining"]))
        for at, paid_credits, free_uses in seen:
            row = dba.row("balance_at", account_id=account_id, at=at)
            assert (row["paid_credits"], row["free_uses"]) == (paid_credits, free_uses)
        cuts = sorted(chance.sample([at for at, *_ in seen], 6))
        for first, beyond in pairwise(cuts):
            rows = _statement(dba, account_id, first, beyond)
            _assert_adds_up(rows)
            ends = [dba.row("balance_at", account_id=account_id, at=t - INSTANT)
                    for t in (first, beyond)]  # fmt: skip
            assert [_balances(rows[0]), _balances(rows[-1])] == [
                (end["paid_credits"], end["free_uses"]) for end in ends
            ]


def test_a_clock_that_was_set_back_leaves_no_entry_out_and_none_in_two_periods(
    module_database: Database, dba: Caller
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    who = new_user(module_database, paid=100, free=False)
    for _ in range(36):
        dba.row("create_charge", **who)
    account_id = account_id_of(module_database, who)
    # An entry each hour, by a clock that is up to a day behind at any time.
    times = [
        NOVEMBER + timedelta(hours=hour - chance.choice([0, 0, 0, chance.uniform(0, 23)]))
        for hour in range(40)
    ]
    _date(module_database, account_id, *times)
    cuts = sorted(chance.sample(times, 8))
    for cut in cuts:
        row = dba.row("balance_at", account_id=account_id, at=cut)
        newest = max(version for version, at in enumerate(times, 1) if at <= cut)
        assert row["ledger_version"] == newest
    parts = [
        _statement(dba, account_id, *period)
        for period in pairwise([NOVEMBER - 9 * DAY, *cuts, DECEMBER])
    ]
    assert [row["ledger_version"] for part in parts for row in part[1:-1]] == list(range(1, 41))
    for part in parts:
        _assert_adds_up(part)


# --- who wrote an entry --------------------------------------------------------------------------


def test_every_kind_of_writer_is_named_with_the_reason(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    configure_provider(module_database)
    who = new_user(module_database)
    deliver(web, unique("evt"), unique("pi"), begin(dba, who))
    boss = staff(module_database, "admin")
    key = module_database.create_key(name="scout's key")
    account_id = account_id_of(module_database, who)
    web.row("create_charge", **who, description="a message", api_key_id=key.id)
    web.row("adjust_credits", account_id=account_id, amount=-2, reason="a mistake",
            session_hash=boss.session_hash)  # fmt: skip
    dba.row("create_credit", **who, amount_minor=1, description="a gift")
    rows = _statement(dba, account_id, *ALWAYS)[1:-1]
    told = [(row["writer_kind"], row["writer"], row["reason"]) for row in rows]
    assert told[0][:2] == ("payment_provider", "stripe")
    assert told[1:] == [
        ("api_key", f"scout's key ({key.prefix})", "a message"),
        ("staff", boss.email, "a mistake"),
        ("database", "t_dba", "a gift"),
    ]
    history = dba.rows("list_transactions", **who)[::-1]
    in_view = dba.execute(
        "SELECT l.writer_kind, l.writer, l.reason FROM billing.ledger AS l"
        " WHERE l.account_id = %s ORDER BY l.ledger_version",
        account_id,
    )
    found = [dba.row("find_entry", transaction_id=row["transaction_id"]) for row in rows]
    assert [(r["writer_kind"], r["writer"], r["description"]) for r in history] == told
    assert [(r["writer_kind"], r["writer"], r["reason"]) for r in in_view] == told
    assert [(r["writer_kind"], r["writer"], r["reason"]) for r in found] == told
    assert [row["audit_id"] is not None for row in found] == [False, False, True, True]
    assert found[2]["database_login"] == "t_web"
    assert found[3]["database_login"] == "t_dba"
    assert [str(found[1]["api_key_id"]), found[2]["admin_user_id"]] == [key.id, boss.id]


def test_agents_and_analysts_are_told_the_kind_of_a_writer_and_not_who(
    module_database: Database, web: Caller, ada: uuid.UUID
) -> None:
    reader = key_id(module_database, "billing:read")
    balance = web.row("balance_at", account_id=ada, at=DECEMBER, api_key_id=reader)
    rows = web.rows("statement", account_id=ada, api_key_id=reader,
                    **{"from": NOVEMBER, "to": DECEMBER})[1:-1]  # fmt: skip
    for row in (*rows, balance):
        assert (row["writer_kind"], row["writer"]) == ("database", None)
    with session(module_database, "t_analyst") as analyst:
        row = analyst.execute("SELECT * FROM billing.ledger AS l WHERE l.account_id = %s", ada)[0]
    assert (row["writer_kind"], row["writer"], row["reason"]) == ("database", None, None)


def test_an_entry_of_the_old_service_has_no_writer_to_name(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=1)
    account_id = account_id_of(module_database, who)
    tamper(
        module_database,
        "UPDATE billing_data.credits SET id = gen_random_uuid(), database_role = 'legacy',"
        " request_fingerprint = NULL WHERE account_id = %(id)s",
        id=account_id,
    )
    row = _statement(dba, account_id, *ALWAYS)[1]
    in_view = dba.execute("SELECT * FROM billing.ledger WHERE account_id = %s", account_id)[0]
    assert {row["writer_kind"], in_view["writer_kind"]} == {"old_service"}


def test_an_id_of_no_entry_is_said_to_be_none(dba: Caller) -> None:
    refusal = dba.refusal("find_entry", transaction_id=NOBODY)
    assert (refusal.sqlstate, refusal.slug) == ("PB404", "entry_not_found")


# --- finding an account --------------------------------------------------------------------------


def test_an_account_is_found_by_id_by_provider_and_external_id_and_by_its_address(
    dba: Caller,
) -> None:
    name = unique("a:b")
    who = {"oauth_provider": "oauth:own:x", "external_id": name}
    email = f"{unique('Person')}@example.com"
    account = dba.row("create_account", **who, customer_email=email)["account_id"]
    for text in (str(account), str(account).upper(), f"oauth:own:x:{name}", email, email.upper()):
        assert dba.value("find_account", account=text) == account
    for other in ("", ":", "::::", name, f"oauth:own:{name}", str(NOBODY), "%@example.com", None):
        assert dba.refusal("find_account", account=other).slug == "account_not_found", other
    dba.row("create_account", **person(), customer_email=email.lower())
    assert_argument_refused(dba, "find_account", "p_account", account=email)
    # The same text can be split in two ways.
    dba.row("create_account", oauth_provider="oauth:own", external_id=f"x:{name}")
    assert_argument_refused(dba, "find_account", "p_account", account=f"oauth:own:x:{name}")
    assert_argument_refused(dba, "find_account", "p_account", account="x" * 600)
