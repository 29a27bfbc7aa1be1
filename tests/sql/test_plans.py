"""The hot functions find their rows by index, also when the tables are large."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.sql.helpers import Caller, charge_all, check_all, person, session
from tests.sql.holds import capture_all, hold_all
from tests.support import Database, TestCluster, wait_for

ACCOUNTS = 10_000
TABLES = ("accounts", "charges", "credits", "account_requests")


def _fill(database: Database) -> None:
    """10,000 accounts with a charge and a credit each, and statistics about them."""
    database.execute(f"""
        INSERT INTO billing_data.accounts (oauth_provider, external_id, free_uses_remaining,
            paid_credits, total_uses, ledger_version)
        SELECT 'oauth:google', 'user-' || n, 0, 1000, 1, 2 FROM generate_series(1, {ACCOUNTS}) AS n
    """)
    database.execute("""
        INSERT INTO billing_data.credits (account_id, ledger_version, id, amount_minor, currency,
            balance_before, balance_after, transaction_type, description, database_role)
        SELECT a.id, 1, gen_random_uuid(), 1001, 'USD', 0, 1001, 'grant', 'd', 'x'
        FROM billing_data.accounts AS a
    """)
    database.execute("""
        INSERT INTO billing_data.charges (account_id, ledger_version, id, amount_minor, currency,
            balance_before, balance_after, free_uses_after, paid_with, description,
            idempotency_key, database_role)
        SELECT a.id, 2, gen_random_uuid(), 1, 'USD', 1001, 1000, 0, 'paid', 'd', 'k', 'x'
        FROM billing_data.accounts AS a
    """)
    database.execute("""
        INSERT INTO billing_data.account_requests (account_id, idempotency_key,
            request_fingerprint, answer)
        SELECT a.id, 'k', 'x', '{}' FROM billing_data.accounts AS a
    """)


@pytest.fixture(scope="module")
def full(cluster: TestCluster) -> Iterator[Database]:
    """A large database with up-to-date statistics."""
    with cluster.database() as database:
        _fill(database)
        database.execute("ANALYZE")
        yield database


def _id_of(caller: Caller, external_id: str) -> Any:
    return caller.value("find_account", account=f"oauth:google:{external_id}")


def _users(first: int, count: int) -> list[dict[str, str]]:
    return [person(f"user-{number}") for number in range(first, first + count)]


def _calls() -> dict[str, Any]:
    return {
        "one check": lambda c: c.row("check_credit", **person("user-1")),
        "one check of somebody new": lambda c: c.row("check_credit", **person()),
        "one check with a profile": lambda c: c.row(
            "check_credit", **person("user-2"), customer_email="ada@example.com"
        ),
        "a batch of checks": lambda c: check_all(c, _users(100, 64)),
        "one charge": lambda c: c.row("create_charge", **person("user-3"), idempotency_key="n1"),
        "one charge without a key": lambda c: c.row("create_charge", **person("user-3")),
        "a small batch of charges": lambda c: charge_all(c, _users(200, 4)),
        "a large batch of charges": lambda c: charge_all(
            c, [{**who, "idempotency_key": "n2"} for who in _users(300, 500)]
        ),
        "a batch of replays": lambda c: charge_all(
            c, [{**who, "idempotency_key": "k"} for who in _users(900, 64)], wait=False
        ),
        "a credit": lambda c: c.row(
            "create_credit", **person("user-4"), amount_minor=1, idempotency_key="n3"
        ),
        "a page of history": lambda c: c.rows("list_transactions", **person("user-5")),
        "an account": lambda c: c.row("get_account", **person("user-6")),
        "an account's statement": lambda c: c.rows("statement", account_id=_id_of(c, "user-8")),
        "a balance at a time": lambda c: c.row(
            "balance_at", account_id=_id_of(c, "user-9"), at="2026-11-01 00:00Z"
        ),
        "an account's usage": lambda c: c.rows("list_usage", account_id=_id_of(c, "user-9")),
        "an account's part of the view": lambda c: c.execute(
            "SELECT * FROM billing.ledger AS l WHERE l.account_id = %s ORDER BY l.ledger_version",
            _id_of(c, "user-10"),
        ),
        "who wrote an entry": lambda c: c.row(
            "find_entry",
            transaction_id=c.rows("list_transactions", **person("user-11"))[0]["transaction_id"],
        ),
        "an account made with a key": lambda c: c.row(
            "create_account", **person(), idempotency_key="n4"
        ),
    }


def _scans(caller: Caller) -> dict[str, tuple[int, int]]:
    """Table -> sequential scans and index scans in this transaction."""
    rows = caller.execute("""
        SELECT s.relname, s.seq_scan, coalesce(s.idx_scan, 0) AS idx_scan
        FROM pg_stat_xact_user_tables AS s WHERE s.schemaname = 'billing_data'
    """)
    return {row["relname"]: (row["seq_scan"], row["idx_scan"]) for row in rows}


@pytest.mark.parametrize("name", _calls())
def test_no_hot_function_reads_a_large_table_from_end_to_end(full: Database, name: str) -> None:
    with session(full, "t_dba", autocommit=False) as dba:
        for _ in range(7):  # the sixth call of a session may get a generic plan
            before = _scans(dba)
            _calls()[name](dba)
            after = _scans(dba)
            grown = {
                table: tuple(a - b for a, b in zip(after[table], before[table], strict=True))
                for table in TABLES
            }
            assert grown["accounts"][1] > 0, "it did look an account up"
            assert {table: scans[0] for table, scans in grown.items()} == dict.fromkeys(TABLES, 0)
            dba.connection.rollback()


def test_a_page_of_a_long_history_costs_the_same_wherever_it_lies(full: Database) -> None:
    who = person()
    with session(full, "t_dba", autocommit=False) as dba:
        dba.row("create_account", **who)
        dba.row("create_credit", **who, amount_minor=10_000)
        for _ in range(5):
            charge_all(dba, [who] * 1000)
        dba.connection.commit()
        read = []
        for offset in (0, 2500, 4980):
            before = _tuples(dba)
            page = dba.rows("list_transactions", **who, limit=10, offset=offset)
            assert len(page) == 10
            read.append(_tuples(dba) - before)
            before = _tuples(dba)
            cursor = page[0]["next_cursor"]
            assert len(dba.rows("list_transactions", **who, limit=10, cursor=cursor)) == 10
            read.append(_tuples(dba) - before)
    assert max(read) <= 25, read


def test_a_balance_at_any_time_reads_the_entries_of_a_day_and_not_the_history(
    full: Database,
) -> None:
    who = person()
    with session(full, "t_dba") as dba:
        account_id = dba.row("create_account", **who)["account_id"]
    # Entries of 5,000 hours.
    full.execute(
        """
        INSERT INTO billing_data.charges (account_id, ledger_version, id, amount_minor, currency,
            balance_before, balance_after, free_uses_after, paid_with, description, database_role,
            created_at)
        SELECT %s, n, gen_random_uuid(), 1, 'USD', 6000 - n, 5999 - n, 0, 'paid', 'd', 'x',
            '2026-01-01 00:00Z'::timestamptz + n * interval '1 hour'
        FROM generate_series(1, 5000) AS n
        """,
        account_id,
    )
    full.execute("UPDATE billing_data.accounts SET ledger_version = 5000 WHERE id = %s", account_id)
    with session(full, "t_dba", autocommit=False) as dba:
        for at, version in (("2026-01-03", 48), ("2026-03-01", 1416), ("2027-01-01", 5000)):
            before = _tuples(dba)
            row = dba.row("balance_at", account_id=account_id, at=f"{at} 00:00Z")
            assert row["ledger_version"] == version
            assert _tuples(dba) - before < 80


def _tuples(caller: Caller) -> int:
    (row,) = caller.execute("""
        SELECT sum(s.seq_tup_read + coalesce(s.idx_tup_fetch, 0))::bigint AS n
        FROM pg_stat_xact_user_tables AS s WHERE s.relname IN ('charges', 'credits', 'accounts')
    """)
    count: int = row["n"]
    return count


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def test_the_plans_of_postgresql_15_name_the_indexes_that_were_made_for_them(
    cluster_15: TestCluster,
) -> None:
    used: dict[str, set[str]] = {}
    with cluster_15.database() as database:
        _fill(database)
        database.execute("ANALYZE")
        notices: list[str] = []
        with psycopg.connect(database.dsn(), autocommit=True) as connection:
            connection.add_notice_handler(
                lambda notice: notices.append(str(notice.message_primary))
            )
            for setting in (
                "LOAD 'auto_explain'",
                "SET auto_explain.log_min_duration = 0",
                "SET auto_explain.log_nested_statements = on",
                "SET auto_explain.log_format = 'json'",
                "SET auto_explain.log_level = 'notice'",
            ):
                connection.execute(setting.encode())
            for statement in (
                "SELECT * FROM billing.create_charge('oauth:google', 'user-1',"
                " p_idempotency_key => 'n')",
                "SELECT * FROM billing.check_credit('oauth:google', 'user-1')",
                "SELECT * FROM billing.list_transactions('oauth:google', 'user-1')",
            ):
                connection.execute(statement.encode())
    for notice in notices:
        plan = json.loads(notice[notice.index("{") :])["Plan"]
        for node in _nodes(plan):
            if node.get("Relation Name") in TABLES or "Index Name" in node:
                scan = node.get("Index Name", node["Node Type"])
                used.setdefault(node.get("Relation Name", ""), set()).add(scan)
    tables = {table: scans for table, scans in used.items() if table in TABLES}
    assert tables["accounts"] <= {"accounts_identity", "accounts_pkey", "ModifyTable"}
    assert "accounts_identity" in tables["accounts"]
    by_index = {"charges_idempotency", "charges_ledger_version"}
    assert tables["charges"] - {"ModifyTable"} == by_index
    assert tables["credits"] == {"credits_ledger_version"}


def test_one_accounts_part_of_the_ledger_is_a_range_of_the_indexes_of_versions(
    any_cluster: TestCluster,
) -> None:
    with any_cluster.database() as database:
        _fill(database)
        database.execute("ANALYZE")
        account_id = database.value("SELECT a.id FROM billing_data.accounts AS a LIMIT 1")
        for more in ("", " ORDER BY l.ledger_version DESC LIMIT 10"):
            plan = database.execute(
                "EXPLAIN (FORMAT json) SELECT * FROM billing.ledger AS l"
                f" WHERE l.account_id = '{account_id}'{more}",
                user="t_analyst",
            )[0][0]
            scans = {
                (node["Relation Name"], node.get("Index Name", node["Node Type"]))
                for node in _nodes(plan[0]["Plan"])
                if node.get("Relation Name") in TABLES
            }
            assert scans == {
                ("charges", "charges_ledger_version"), ("credits", "credits_ledger_version")
            }  # fmt: skip


def test_holds_are_looked_up_also_by_plans_that_were_made_when_there_were_none(
    database: Database,
) -> None:
    with session(database, "t_dba", autocommit=False) as dba:
        capture_all(dba, [{"hold_id": str(uuid.uuid4())}] * 8)
        users = _users(1, 500)
        check_all(dba, users)
        holds = [
            hold["hold_id"] for hold in hold_all(dba, [{**who, "amount_minor": 1} for who in users])
        ]
        before = _fetched(dba, "holds")
        rows = capture_all(dba, [{"hold_id": hold} for hold in holds[:8]])
        assert {row["outcome"] for row in rows} == {"created"}
        assert _fetched(dba, "holds") - before <= 5 * 8


def _fetched(caller: Caller, table: str) -> int:
    """The rows of a table that this transaction fetched by indexes or read from its beginning."""
    (row,) = caller.execute(
        "SELECT s.idx_tup_fetch + s.seq_tup_read AS fetched"
        " FROM pg_stat_xact_user_tables AS s WHERE s.relname = %s",
        table,
    )
    fetched: int = row["fetched"]
    return fetched


def test_charging_stays_hot(full: Database) -> None:
    """An update that needs no new index entry does not touch the indexes."""
    who = person()
    with session(full, "t_dba") as dba:
        dba.row("create_account", **who)
        dba.row("create_credit", **who, amount_minor=300)
    before = _updates(full)
    with session(full, "t_dba") as dba:
        for _ in range(200):
            dba.row("create_charge", **who)
    # A session reports its statistics when it ends, which is soon after its connection was closed.
    after = wait_for(
        lambda: found if (found := _updates(full))[0] >= before[0] + 200 else None,
        "the statistics of 200 charges",
    )
    updates, hot = after[0] - before[0], after[1] - before[1]
    assert hot / updates > 0.9


def _updates(database: Database) -> tuple[int, int]:
    """Updates of accounts, and how many of them were HOT."""
    found: tuple[int, int] = database.execute("""
        SELECT s.n_tup_upd, s.n_tup_hot_upd FROM pg_stat_user_tables AS s
        WHERE s.relname = 'accounts'
    """)[0]
    return found


# --- what staff page through ---------------------------------------------------------------------

STAFF_TABLES = (
    *TABLES, "admin_audit_logs", "payment_events", "payment_returns", "purchases",
)  # fmt: skip


def _fill_console(database: Database) -> None:
    """The large database of the hot functions with what staff look at. Half of it is a day old and
    rolled up; the ledger's ids are like those of the service."""
    _fill(database)
    database.execute("""
        UPDATE billing_data.accounts AS a SET
            customer_email = CASE WHEN a.external_id LIKE '%0' THEN NULL
                ELSE 'Person' || substr(a.external_id, 6) || '@example.com' END,
            created_at = now() - substr(a.external_id, 6)::integer * interval '1 minute',
            status = CASE WHEN a.external_id LIKE '%00' THEN 'suspended' ELSE 'active' END
    """)
    database.execute(f"""
        INSERT INTO billing_data.charges (account_id, ledger_version, id, amount_minor, currency,
            balance_before, balance_after, free_uses_after, paid_with, description, database_role,
            created_at)
        SELECT a.id, 3, overlay(gen_random_uuid()::text PLACING substr(
                billing_data.first_id(a.created_at)::text, 1, 13) FROM 1 FOR 13)::uuid,
            1, 'USD', 1000, 999, 0, 'paid', 'd', 'x', a.created_at
        FROM billing_data.accounts AS a LIMIT {ACCOUNTS}
    """)
    database.execute(f"""
        INSERT INTO billing_data.payment_events (provider, event_id, event_type, payment_id,
            payload, outcome, received_at)
        SELECT 'stripe', 'evt_' || n, 'x', 'pi_' || n, '{{}}',
            CASE WHEN n % 1000 = 0 THEN 'amount_mismatch' ELSE 'credited' END,
            now() - n * interval '1 minute'
        FROM generate_series(1, {ACCOUNTS}) AS n
    """)
    database.execute("""
        INSERT INTO billing_data.purchases (account_id, id, provider, payment_id, uses, price_minor,
            currency, database_role, created_at)
        SELECT
            a.id, gen_random_uuid(), 'stripe', 'pi_' || a.external_id, 20, 500, 'USD', 'x',
            a.created_at
        FROM billing_data.accounts AS a
    """)
    database.execute(f"""
        INSERT INTO billing_data.admin_audit_logs (action, resource_type, resource_id,
            database_role, created_at)
        SELECT 'test.test', 'test', 'thing ' || n, 'x', now() - n * interval '1 minute'
        FROM generate_series(1, {ACCOUNTS}) AS n
    """)
    database.execute("SELECT billing.refresh_figures()")
    database.execute("VACUUM ANALYZE")


@pytest.fixture(scope="module")
def console(cluster: TestCluster) -> Iterator[Database]:
    """A large database as staff look at it."""
    with cluster.database() as database:
        _fill_console(database)
        yield database


# Call -> the tables whose rows it must find by index only.
_STAFF_CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "the newest accounts": ("list_accounts", {}),
    "the newest accounts, counted": ("list_accounts", {"count": True}),
    "the oldest accounts": ("list_accounts", {"sort": "oldest"}),
    "accounts by address": ("list_accounts", {"sort": "email"}),
    "accounts that are suspended": ("list_accounts", {"status": "suspended"}),
    "accounts by a rare prefix": ("list_accounts", {"search": "PERSON1234"}),
    "accounts by a common prefix": ("list_accounts", {"search": "p"}),
    "accounts by a prefix of their external id": ("list_accounts", {"search": "user-777"}),
    "accounts by a prefix that nobody has": ("list_accounts", {"search": "nobody"}),
    "accounts by a prefix that has two normal forms": ("list_accounts", {"search": "né"}),
    "an account by its id": (
        "list_accounts", {"search": "00000000-0000-7000-8000-000000000000"}
    ),
    "the newest of the audit log": ("list_audit_log", {"limit": 51}),
    "the audit log of one thing": ("list_audit_log", {"resource_id": "thing 77"}),
    "how long the audit log is": ("count_audit_log", {}),
    "how many payment events there are": ("count_payment_events", {}),
    "payment problems": ("list_payment_problems", {}),
    "the newest payment events": ("list_payment_events", {}),
    "the newest purchases": ("list_purchases", {}),
    "the figures of 30 days": ("list_daily_figures", {}),
    "the overview": ("get_overview", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", _STAFF_CALLS)
def test_no_page_of_staff_reads_a_large_table_from_end_to_end(console: Database, name: str) -> None:
    function, arguments = _STAFF_CALLS[name]
    with session(console, "t_dba", autocommit=False) as dba:
        for _ in range(7):
            before = _scans(dba)
            dba.rows(function, **arguments)
            after = _scans(dba)
            read = {
                table: after[table][0] - before[table][0]
                for table in STAFF_TABLES
                # Reading an empty table is as fast as any index.
                if table != "payment_returns"
            }
            assert read == dict.fromkeys(read, 0)
            dba.connection.rollback()


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (
            "SELECT a.id FROM billing_data.accounts AS a ORDER BY a.created_at DESC, a.id DESC"
            " LIMIT 50",
            "accounts_created_at",
        ),
        (
            "SELECT a.id FROM billing_data.accounts AS a"
            " ORDER BY lower(a.customer_email) USING ~<~, a.id LIMIT 50",
            "accounts_customer_email",
        ),
        (
            "SELECT a.id FROM billing_data.accounts AS a"
            " WHERE lower(a.customer_email) LIKE 'person1234%'",
            "accounts_customer_email",
        ),
        (
            "SELECT a.id FROM billing_data.accounts AS a"
            " WHERE lower(a.external_id) LIKE 'user-123%'",
            "accounts_external_id",
        ),
        (
            "SELECT l.id FROM billing_data.admin_audit_logs AS l"
            " ORDER BY l.created_at DESC, l.id DESC LIMIT 50",
            "admin_audit_logs_time",
        ),
        (
            "SELECT c.id FROM billing_data.charges AS c"
            " WHERE c.id >= billing_data.first_id(now() - interval '10 minutes')"
            " AND c.id <= billing_data.first_id(now() + interval '1 day')",
            "charges_pkey",
        ),
        (
            "SELECT e.event_id FROM billing_data.payment_events AS e WHERE e.outcome IN ("
            "'account_not_found', 'amount_mismatch', 'balance_overflow', 'currency_mismatch',"
            " 'metadata_missing', 'mode_mismatch', 'not_sold_here', 'payment_mismatch',"
            " 'payment_unknown')"
            " AND e.resolved_at IS NULL",
            "payment_events_faults",
        ),
    ],
    ids=lambda value: value if "SELECT" not in value else "",
)
def test_each_index_for_staff_serves_what_it_was_made_for(
    console: Database, statement: str, index: str
) -> None:
    plan = console.value(f"EXPLAIN (FORMAT json) {statement}")[0]["Plan"]
    used = {node["Index Name"] for node in _nodes(plan) if "Index Name" in node}
    assert used == {index}


def test_the_index_of_payment_faults_is_of_exactly_the_faults(console: Database) -> None:
    condition = console.value("""
        SELECT pg_get_constraintdef(c.oid) FROM pg_constraint AS c
        WHERE c.conname = 'payment_events_outcome'
    """)
    outcomes = set(re.findall(r"'(\w+)'", condition))
    predicate = console.value(
        "SELECT pg_get_indexdef('billing_data.payment_events_faults'::regclass)"
    )
    faults = {
        outcome
        for outcome in outcomes
        if console.value("SELECT billing_data.is_payment_fault(%s)", outcome)
    }
    assert len(faults) < len(outcomes)
    assert set(re.findall(r"'(\w+)'", predicate)) == faults
    listed = console.value(
        "SELECT p.prosrc FROM pg_proc AS p WHERE p.proname = 'find_payment_problems'"
    )
    assert "WHERE billing_data.is_payment_fault(e.outcome)\n" in listed


def test_the_overview_reads_what_is_new_and_not_the_ledger(console: Database) -> None:
    with session(console, "t_dba", autocommit=False) as dba:
        for function in ("get_overview", "list_daily_figures"):
            before = _tuples(dba)
            dba.rows(function)
            assert _tuples(dba) - before < ACCOUNTS / 10, function
