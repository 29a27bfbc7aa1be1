"""What staff read and correct in the console: accounts, checks, purchases, events, audit log."""

from __future__ import annotations

import ipaddress
import random
import uuid
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.sql.helpers import (
    BIGGEST,
    NOBODY,
    Caller,
    account_of,
    at_once,
    charge_all,
    ledger_problems,
    new_user,
    person,
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
from tests.sql.totals import TOTALS, assert_totals
from tests.support import Database, unique

LISTS = {
    "list_accounts": {},
    "list_audit_log": {},
    "list_checks": {"account_id": NOBODY},
    "list_payment_events": {},
    "list_purchases": {},
}


LARGEST = {name: 10_000 if name == "list_audit_log" else 501 for name in LISTS}


def _assert_argument(caller: Caller, function: str, argument: str, **arguments: Any) -> None:
    refusal = caller.refusal(function, **arguments)
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument"), refusal
    assert refusal.detail["argument"] == argument


def _id(database: Database, who: dict[str, str]) -> uuid.UUID:
    found: uuid.UUID = account_of(database, who)["id"]
    return found


# --- every list ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LISTS)
def test_a_page_has_a_size_within_bounds(dba: Caller, name: str) -> None:
    for limit in (-1, LARGEST[name] + 1, None):
        _assert_argument(dba, name, "p_limit", **LISTS[name], limit=limit)
    for offset in (-1, None):
        _assert_argument(dba, name, "p_offset", **LISTS[name], offset=offset)
    dba.rows(name, **LISTS[name], limit=LARGEST[name], offset=0)
    assert dba.rows(name, **LISTS[name], limit=0) == []
    assert dba.rows(name, **LISTS[name], offset=BIGGEST) == []


# --- the list of accounts ------------------------------------------------------------------------


def _create(dba: Caller, external_id: str, email: str | None = None, **more: Any) -> uuid.UUID:
    arguments = {**person(external_id), "customer_email": email, **more}
    found: uuid.UUID = dba.row("create_account", **arguments)["account_id"]
    return found


def _found(caller: Caller, **arguments: Any) -> list[str]:
    return [row["external_id"] for row in caller.rows("list_accounts", **arguments)]


_PEOPLE = {
    "ada": "Ada@Example.com",
    "ADA-2": "ada.lovelace@example.com",
    "ben": "ben@ada.example",
    "50%": "half@x.test",
    "50 percent": None,
    "under_score": "a_b@x.test",
    "underXscore": "aXb@x.test",
    r"back\slash": r"c\d@x.test",
    "quote'd": "o'neil@x.test",
    'say "x"': None,
    "$1 || true --": None,
    "Ärger": "ärger@x.test",
    "A\u0308pfel": "apfel@x.test",  # the same letter in two characters
}


@pytest.mark.parametrize(
    ("search", "prefix", "substring"),
    [
        ("ada", {"ada", "ADA-2"}, {"ada", "ADA-2", "ben"}),
        ("ADA", {"ada", "ADA-2"}, {"ada", "ADA-2", "ben"}),
        ("ada@example.com", {"ada"}, {"ada"}),
        ("example.com", set(), {"ada", "ADA-2"}),
        ("50%", {"50%"}, {"50%"}),
        ("%", set(), {"50%"}),
        ("under_", {"under_score"}, {"under_score"}),
        ("_", set(), {"under_score"}),
        ("a_b", {"under_score"}, {"under_score"}),
        ("back\\", {"back\\slash"}, {"back\\slash"}),
        ("\\", set(), {"back\\slash"}),
        ("c\\d", {"back\\slash"}, {"back\\slash"}),
        ("o'neil", {"quote'd"}, {"quote'd"}),
        ("'", set(), {"quote'd"}),
        ("quote'd", {"quote'd"}, {"quote'd"}),
        ('say "', {'say "x"'}, {'say "x"'}),
        ("$1 ||", {"$1 || true --"}, {"$1 || true --"}),
        ("' OR true --", set(), set()),
        ("äRGER", {"Ärger"}, {"Ärger"}),
        ("a\u0308rger", {"Ärger"}, {"Ärger"}),
        ("äpf", {"A\u0308pfel"}, {"A\u0308pfel"}),
        ("ä", {"Ärger", "A\u0308pfel"}, {"Ärger", "A\u0308pfel"}),
        (" ada", set(), set()),
        ("nobody", set(), set()),
        ("", set(_PEOPLE), set(_PEOPLE)),
        (None, set(_PEOPLE), set(_PEOPLE)),
    ],
)
def test_accounts_are_found_by_what_their_address_or_id_begins_with_or_contains(
    people: Caller, search: str | None, prefix: set[str], substring: set[str]
) -> None:
    for match, expected in (("prefix", prefix), ("substring", substring)):
        rows = people.rows("list_accounts", search=search, match=match, count=True)
        found = {row["external_id"] for row in rows if row["account_id"]}
        assert found == expected
        assert {row["total_count"] for row in rows} == {len(expected)}
        assert {row["total_count"] for row in people.rows("list_accounts", search=search)} <= {None}


@pytest.fixture(scope="module")
def people(module_database: Database) -> Any:
    """A DBA's session on a database with the people above."""
    with (
        module_database.cluster.database() as database,
        session(database, "t_dba") as dba,
    ):
        for external_id, email in _PEOPLE.items():
            _create(dba, external_id, email)
        yield dba


def test_an_account_is_found_by_its_id_and_by_an_external_id_that_looks_like_one(
    database: Database,
) -> None:
    with session(database, "t_dba") as dba:
        looks_like_one = str(uuid.uuid4())
        ada, _ = _create(dba, "ada"), _create(dba, looks_like_one.upper())
        for search in (str(ada), str(ada).upper()):
            for match in ("prefix", "substring"):
                assert _found(dba, search=search, match=match) == ["ada"]
        assert _found(dba, search=looks_like_one) == [looks_like_one.upper()]
        assert dba.row("list_accounts", search=str(NOBODY), count=True)["total_count"] == 0
        for odd in (str(ada)[:-1], f"{ada}0", f"{{{ada}}}"):
            assert _found(dba, search=odd) == []


def test_accounts_are_filtered_by_status(database: Database) -> None:
    with session(database, "t_dba") as dba:
        for name, status in (("a", "active"), ("s", "suspended"), ("c", "closed")):
            for n in range(2):
                _create(dba, f"{name}{n}")
                who = person(f"{name}{n}")
                dba.row("set_account_status", **who, status=status, reason="a test")
        for name, status in (("a", "active"), ("s", "suspended"), ("c", "closed")):
            rows = dba.rows("list_accounts", status=status, count=True)
            assert {row["external_id"] for row in rows} == {f"{name}0", f"{name}1"}
            assert {(row["status"], row["total_count"]) for row in rows} == {(status, 2)}
            assert _found(dba, status=status, search=f"{name.upper()}1") == [f"{name}1"]
        assert _found(dba, status="suspended", search="a") == []
        assert _found(dba, status="odd") == []


def _many(database: Database, seed: int = 1) -> list[dict[str, Any]]:
    """Accounts with many ties in everything they are sorted by."""
    rng = random.Random(seed)
    born = datetime(2026, 1, 1, tzinfo=UTC)
    for n in range(60):
        database.execute(
            "INSERT INTO billing_data.accounts (oauth_provider, external_id, customer_email,"
            " paid_credits, total_uses, created_at) VALUES ('oauth:google', %s, %s, %s, %s, %s)",
            f"user-{n}",
            rng.choice([None, "a@x.test", "B@x.test", "c@x.test"]),
            rng.choice([0, 1, BIGGEST]),
            rng.choice([0, 5, 9]),
            born + timedelta(days=rng.randint(0, 3)),
        )
    with session(database, "postgres") as root:
        return root.execute("SELECT * FROM billing_data.accounts")


_SORTS: dict[str, Any] = {
    "newest": lambda a: (-a["created_at"].timestamp(), -a["id"].int),
    "oldest": lambda a: (a["created_at"].timestamp(), a["id"].int),
    "email": lambda a: (
        a["customer_email"] is None,
        (a["customer_email"] or "").lower(),
        a["id"].int,
    ),
    "credits": lambda a: (-a["paid_credits"], a["id"].int),
    "uses": lambda a: (-a["total_uses"], a["id"].int),
}


def test_every_order_is_stable_and_the_pages_show_each_account_once(database: Database) -> None:
    accounts = _many(database)
    with session(database, "t_dba") as dba:
        for sort, key in _SORTS.items():
            expected = [a["id"] for a in sorted(accounts, key=key)]
            for size in (7, 60, 501):
                pages: list[uuid.UUID] = []
                for offset in range(0, 60, size):
                    rows = dba.rows("list_accounts", sort=sort, limit=size, offset=offset)
                    pages += [row["account_id"] for row in rows]
                assert pages == expected, (sort, size)


def test_a_page_beyond_the_last_is_empty_and_still_tells_the_number(database: Database) -> None:
    _many(database)
    with session(database, "t_dba") as dba:
        assert dba.rows("list_accounts", offset=60) == []
        for arguments in ({}, {"search": "user"}, {"search": "r", "match": "substring"}):
            (row,) = dba.rows("list_accounts", offset=60, count=True, **arguments)
            assert row.pop("total_count") == 60
            assert set(row.values()) == {None}
            (row,) = dba.rows("list_accounts", limit=0, count=True, **arguments)
            assert row["total_count"] == 60
            rows = dba.rows("list_accounts", limit=2, offset=59, count=True, **arguments)
            assert [row["total_count"] for row in rows] == [60]
        dba.value("refresh_figures")
        assert dba.row("list_accounts", limit=1, count=True)["total_count"] == 60


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"sort": "id"}, "p_sort"),
        ({"sort": "newest; DROP TABLE billing_data.accounts"}, "p_sort"),
        ({"sort": None}, "p_sort"),
        ({"match": "exact"}, "p_match"),
        ({"match": None}, "p_match"),
    ],
)
def test_a_faulty_list_of_accounts_is_refused(
    dba: Caller, arguments: dict[str, Any], argument: str
) -> None:
    _assert_argument(dba, "list_accounts", argument, **arguments)


def test_totals_are_the_sums_of_the_ledger(database: Database) -> None:
    configure_provider(database)
    rng = random.Random(3)
    new_user(database)
    users = [new_user(database, paid=rng.randint(0, 50)) for _ in range(6)]
    who, payment_id = bought(database)
    with session(database, "t_dba") as dba:
        give_back(dba, payment_id, ("re_1", PRICE // 4), ("re_2", PRICE // 4))
        give_back(dba, payment_id, ("re_2", PRICE // 4), withdrawn=False)
        for _ in range(60):
            user = rng.choice([*users, who])
            charge_all(dba, [{**user, "amount_minor": rng.randint(1, 4)}])
            if rng.random() < 0.3:
                account = _id(database, user)
                arguments = {"account_id": account, "reason": "a test"}
                dba.row("adjust_credits", **arguments, amount=rng.randint(1, 9))
                balance = account_of(database, user)["paid_credits"]
                dba.row("adjust_credits", **arguments, amount=-rng.randint(1, balance))
        dba.row("reset_free_uses", account_id=_id(database, who), reason="a test", free_uses=9)
    assert_totals(database)
    assert ledger_problems(database) == []


def test_totals_of_accounts_of_the_old_service_are_counted(database: Database) -> None:
    """Their balances were in another unit: they say nothing about what was charged."""
    with session(database, "postgres") as root:
        root.execute("ALTER TABLE billing_data.ledger_openings DISABLE TRIGGER USER")
        for name, free, table in (("a", False, "charges"), ("b", True, "charges"),
                                  ("c", False, "credits")):  # fmt: skip
            (row,) = root.execute(
                "INSERT INTO billing_data.accounts (oauth_provider, external_id, paid_credits,"
                " total_uses, ledger_version) VALUES ('oauth:google', %s, 13, 40, 2) RETURNING id",
                name,
            )
            root.execute(
                "INSERT INTO billing_data.ledger_openings VALUES (%s, 2, 13, 40, 3)", row["id"]
            )
            for version in (1, 2):
                kind = ("free" if free else "paid") if table == "charges" else "grant"
                after = 500 if free else 493 if table == "charges" else 507
                column = "paid_with" if table == "charges" else "transaction_type"
                root.execute(
                    f"INSERT INTO billing_data.{table} (id, account_id, amount_minor, currency,"
                    f" balance_before, balance_after, description, ledger_version, {column},"
                    " database_role) VALUES (%s, %s, 7, 'USD', 500, %s, 'd', %s, %s, 'legacy')",
                    uuid.uuid4(),
                    row["id"],
                    after,
                    version,
                    kind,
                )
    assert_totals(database)
    with session(database, "t_dba") as dba:
        for name in ("a", "b", "c"):
            charge_all(dba, [{**person(name), "amount_minor": 2}] * 5)
            dba.row("create_credit", **person(name), amount_minor=5)
    assert_totals(database)


def test_one_account_is_read_with_everything_about_it(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who = person()
    dba.row(
        "create_account", **who, wa_id="w", tenant_id="t", customer_email=EMAIL, user_role="r",
        agent_id="agent", marketing_opt_in=True, marketing_opt_in_source="web",
    )  # fmt: skip
    dba.row("create_credit", **who, amount_minor=5)
    stored = account_of(module_database, who)
    viewer = staff(module_database, "viewer")
    row = web.row("get_account_by_id", account_id=stored["id"], session_hash=viewer.session_hash)
    assert row.pop("account_id") == stored["id"]
    assert {name: row[name] for name in row if name not in TOTALS} == {
        name: stored[name] for name in row if name not in TOTALS
    }
    assert (row["marketing_opt_in_source"], row["total_credited"]) == ("web", 5)
    for nobody in (NOBODY, None):
        refusal = web.refusal(
            "get_account_by_id", account_id=nobody, session_hash=viewer.session_hash
        )
        assert (refusal.sqlstate, refusal.slug) == ("PB404", "account_not_found")


# --- adjusting credits ---------------------------------------------------------------------------


def _audit(database: Database, action: str, resource: Any) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = database.execute(
        "SELECT l.changes, l.reason, l.admin_user_id, l.database_role"
        " FROM billing_data.admin_audit_logs AS l"
        " WHERE l.action = %s AND l.resource_id = %s ORDER BY l.created_at",
        action,
        str(resource),
    )
    return rows


def test_credits_are_added_and_taken_away_with_a_reason_and_an_audit_row(
    module_database: Database, web: Caller
) -> None:
    who, ada = new_user(module_database, paid=5), staff(module_database, "admin")
    account = _id(module_database, who)
    given = web.row(
        "adjust_credits",
        account_id=account,
        amount=7,
        reason="goodwill",
        session_hash=ada.session_hash,
    )
    taken = web.row(
        "adjust_credits",
        account_id=account,
        amount=-12,
        reason="a mistake",
        session_hash=ada.session_hash,
    )
    assert (given["balance_before"], given["balance_after"], given["replayed"]) == (5, 12, False)
    assert (taken["balance_before"], taken["balance_after"], taken["amount_minor"]) == (12, 0, -12)
    assert account_of(module_database, who)["paid_credits"] == 0
    assert _audit(module_database, "account.adjust_credits", account) == [
        (
            {
                "amount": amount,
                "credit_id": str(row["credit_id"]),
                "before": before,
                "after": after,
            },
            reason,
            ada.id,
            None,
        )
        for row, amount, before, after, reason in (
            (given, 7, 5, 12, "goodwill"),
            (taken, -12, 12, 0, "a mistake"),
        )
    ]
    rows = web.rows("list_transactions", **who, session_hash=ada.session_hash)
    assert [(row["transaction_type"], row["description"]) for row in rows[:2]] == [
        ("adjustment", "a mistake"),
        ("grant", "goodwill"),
    ]
    assert ledger_problems(module_database) == []


@pytest.mark.parametrize(("balance", "amount"), [(0, -1), (5, -6), (5, -(2**63))])
def test_a_balance_never_goes_below_zero(
    module_database: Database, dba: Caller, balance: int, amount: int
) -> None:
    account = _id(module_database, new_user(module_database, paid=balance))
    refusal = dba.refusal("adjust_credits", account_id=account, amount=amount, reason="a test")
    assert (refusal.sqlstate, refusal.slug) == ("PB402", "insufficient_credits")
    assert refusal.detail == {"balance": balance, "required": -amount}
    assert dba.row("get_account_by_id", account_id=account)["paid_credits"] == balance
    assert _audit(module_database, "account.adjust_credits", account) == []


def test_a_balance_never_overflows(database: Database) -> None:
    account = _id(database, new_user(database, paid=1))
    with session(database, "t_dba") as dba:
        arguments = {"account_id": account, "reason": "a test"}
        refusal = dba.refusal("adjust_credits", **arguments, amount=BIGGEST)
        assert (refusal.sqlstate, refusal.slug) == ("PB422", "balance_overflow")
        assert refusal.detail == {"balance": 1, "amount": BIGGEST, "maximum": BIGGEST}
        row = dba.row("adjust_credits", **arguments, amount=BIGGEST - 1)
        assert row["balance_after"] == BIGGEST
        assert dba.row("adjust_credits", **arguments, amount=-BIGGEST)["balance_after"] == 0


def test_an_adjustment_that_is_repeated_with_its_key_happens_once(
    module_database: Database, dba: Caller
) -> None:
    account = _id(module_database, new_user(module_database, paid=5))
    arguments = {
        "account_id": account, "amount": -5, "reason": "a test", "idempotency_key": unique("k"),
    }  # fmt: skip
    first = dba.row("adjust_credits", **arguments)
    again = dba.row("adjust_credits", **arguments)
    assert (first.pop("replayed"), again.pop("replayed")) == (False, True)
    assert again == first
    assert len(_audit(module_database, "account.adjust_credits", account)) == 1
    for change in ({"amount": 5}, {"reason": "another"}):
        refusal = dba.refusal("adjust_credits", **{**arguments, **change})
        assert (refusal.sqlstate, refusal.slug) == ("PB422", "idempotency_key_reused")
    # The key is this account's own.
    other = _id(module_database, new_user(module_database, paid=5))
    assert dba.row("adjust_credits", **{**arguments, "account_id": other})["balance_after"] == 0
    without = {**arguments, "amount": 1, "idempotency_key": None}
    assert [dba.row("adjust_credits", **without)["balance_after"] for _ in range(2)] == [1, 2]


def test_a_key_that_a_credit_of_another_kind_used_is_a_conflict(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database)
    dba.row("create_credit", **who, amount_minor=5, idempotency_key="k")
    refusal = dba.refusal(
        "adjust_credits",
        account_id=_id(module_database, who),
        amount=5,
        reason="Granted",
        idempotency_key="k",
    )
    assert refusal.slug == "idempotency_key_reused"


def test_adjustments_made_at_once_all_count_and_repeated_ones_once(database: Database) -> None:
    account = _id(database, new_user(database, paid=10))
    calls = [
        partial(
            Caller.row,
            function="adjust_credits",
            account_id=account,
            amount=3,
            reason="a test",
            idempotency_key=f"k{n % 10}",
        )
        for n in range(40)
    ]
    answers = at_once(database, calls, 20)
    assert [row["replayed"] for row in answers].count(False) == 10
    assert database.value("SELECT a.paid_credits FROM billing_data.accounts AS a") == 40
    chain = [row[0] for row in _audit(database, "account.adjust_credits", account)]
    assert sorted((c["before"], c["after"]) for c in chain) == [
        (10 + 3 * n, 13 + 3 * n) for n in range(10)
    ]
    assert ledger_problems(database) == []


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"amount": 0}, "p_amount"),
        ({"amount": None}, "p_amount"),
        ({"reason": None}, "p_reason"),
        ({"reason": ""}, "p_reason"),
        ({"reason": "  "}, "p_reason"),
        ({"reason": "x" * 501}, "p_reason"),
        ({"idempotency_key": "x" * 256}, "p_idempotency_key"),
    ],
)
def test_a_faulty_adjustment_is_refused(
    module_database: Database, dba: Caller, arguments: dict[str, Any], argument: str
) -> None:
    good = {"account_id": NOBODY, "amount": 1, "reason": "a test"}
    _assert_argument(dba, "adjust_credits", argument, **{**good, **arguments})


@pytest.mark.parametrize("function", ["adjust_credits", "reset_free_uses"])
def test_nobodys_account_is_not_corrected(dba: Caller, function: str) -> None:
    more = {"amount": 1} if function == "adjust_credits" else {}
    for nobody in (NOBODY, None):
        refusal = dba.refusal(function, account_id=nobody, reason="a test", **more)
        assert (refusal.sqlstate, refusal.slug) == ("PB404", "account_not_found")


@pytest.mark.parametrize("function", ["adjust_credits", "reset_free_uses"])
def test_corrections_commit_durably(module_database: Database, function: str) -> None:
    account = _id(module_database, new_user(module_database))
    more = {"amount": 1} if function == "adjust_credits" else {"free_uses": 8}
    with session(module_database, "t_dba", autocommit=False) as dba:
        dba.execute("SET synchronous_commit = off")
        dba.row(function, account_id=account, reason="a test", **more)
        assert dba.execute("SHOW synchronous_commit") == [{"synchronous_commit": "on"}]
        dba.connection.rollback()


# --- free uses -----------------------------------------------------------------------------------


def test_free_uses_are_reset_to_what_new_accounts_get_or_to_a_number(
    module_database: Database, web: Caller
) -> None:
    who, ada = new_user(module_database, free=False), staff(module_database, "admin")
    account = _id(module_database, who)
    arguments = {"account_id": account, "reason": "a new start", "session_hash": ada.session_hash}
    before = account_of(module_database, who)
    assert web.row("reset_free_uses", **arguments) == {
        "free_uses_before": 0,
        "free_uses_remaining": 3,
    }
    for number in (10, 0, BIGGEST):
        row = web.row("reset_free_uses", **arguments, free_uses=number)
        assert row["free_uses_remaining"] == number
    after = account_of(module_database, who)
    assert after["free_uses_remaining"] == BIGGEST
    changed = {name for name, value in after.items() if value != before[name]}
    assert changed == {"free_uses_remaining", "updated_at"}
    chain = [(0, 3), (3, 10), (10, 0), (0, BIGGEST)]
    # With the version of the ledger, since the audit row is what proves these free uses.
    assert _audit(module_database, "account.reset_free_uses", account) == [
        ({"before": one, "after": two, "ledger_version": 3}, "a new start", ada.id, None)
        for one, two in chain
    ]
    assert ledger_problems(module_database) == []


def test_a_reset_that_changes_nothing_is_not_recorded(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database)
    before = account_of(module_database, who)
    row = dba.row("reset_free_uses", account_id=before["id"], reason="a test")
    assert (row["free_uses_before"], row["free_uses_remaining"]) == (3, 3)
    assert account_of(module_database, who) == before
    assert _audit(module_database, "account.reset_free_uses", before["id"]) == []


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"reason": None}, "p_reason"),
        ({"reason": " "}, "p_reason"),
        ({"free_uses": -1}, "p_free_uses"),
    ],
)
def test_a_faulty_reset_is_refused(dba: Caller, arguments: dict[str, Any], argument: str) -> None:
    good = {"account_id": NOBODY, "reason": "a test"}
    _assert_argument(dba, "reset_free_uses", argument, **{**good, **arguments})


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
    account = _id(module_database, who)
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
    _assert_argument(dba, "list_purchases", "p_status", status=status)


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


# --- the audit log -------------------------------------------------------------------------------


def _logged(caller: Caller, **arguments: Any) -> list[str]:
    return [row["action"] for row in caller.rows("list_audit_log", **arguments)]


def test_the_audit_log_is_filtered_by_person_action_thing_and_day(database: Database) -> None:
    ada, who = staff(database, "admin"), new_user(database)
    account = _id(database, who)
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
    account = _id(database, new_user(database))
    with session(database, "t_web", autocommit=False) as web:
        act = partial(
            web.row, "adjust_credits", account_id=account, amount=1, session_hash=ada.session_hash
        )
        web.execute("SELECT set_config('billing.client_address', '203.0.113.9', true),"
                    " set_config('billing.client_agent', 'Mozilla/5.0 (\"x\")', true)")  # fmt: skip
        act(reason="told")
        web.connection.commit()
        act(reason="not told")  # what was told holds for its transaction and no longer
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
    account = _id(database, new_user(database))
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
