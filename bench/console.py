"""`python -m bench.console`: how long the staff console's questions take the database when there
are a million accounts and ten million ledger rows.

It fills a cluster of its own, asks as a DBA would, and prints the best and the median of several
calls. A benchmark, not a test: the machine and whatever else runs on it are in the numbers."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from server.config import SettingsSeed
from server.embedded import Cluster, find_binaries
from server.migrate import migrate

DAYS = 365
PAGE = 50
# What the console promises: milliseconds of server time.
LIMITS = {"accounts": 150, "dashboard": 300}

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Result:
    """One question: milliseconds of the first call after a restart, of the best and the median of
    the later ones, and what it may take at most, if anything is promised."""

    name: str
    first_ms: float
    best_ms: float
    median_ms: float
    limit_ms: int | None


def main() -> int:
    """Fills a cluster, asks every question and prints a table and JSON; 1 if a promise fails."""
    parser = argparse.ArgumentParser(prog="python -m bench.console", description=__doc__)
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--ledger", type=int, default=10_000_000, help="charges and credits in all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="keeps the filled cluster there, or takes it")
    options = parser.parse_args()
    with _folder(options.folder) as folder, _cluster(folder) as cluster:
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            filled = connection.execute("SELECT FROM pg_database WHERE datname = 'bench'").rowcount
            if not filled:
                connection.execute("CREATE DATABASE bench")
        migrate(cluster.dsn("bench"), SettingsSeed())
        if not filled:
            with psycopg.connect(cluster.dsn("bench"), autocommit=True) as connection:
                _fill(connection, options.accounts, max(options.ledger // options.accounts - 1, 1))
        cluster.stop()
        cluster.start()
        with psycopg.connect(cluster.dsn("bench"), autocommit=True) as connection:
            results = [
                _measure(connection, name, statements, options.rounds)
                for name, statements in _questions(options.accounts).items()
            ]
    _print(results)
    print(json.dumps([asdict(result) for result in results], indent=2))
    return int(any(r.limit_ms is not None and r.best_ms > r.limit_ms for r in results))


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="ciris-bench-") as folder:
        yield Path(folder)


@contextmanager
def _cluster(folder: Path) -> Iterator[Cluster]:
    settings = {
        "shared_buffers": "1GB",
        "maintenance_work_mem": "512MB",
        "max_wal_size": "8GB",
        "fsync": "off",  # nothing here outlives the program
        "full_page_writes": "off",
    }
    cluster = Cluster(folder, find_binaries(18), settings=settings)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


# --- filling -------------------------------------------------------------------------------------

# An id as billing_data.new_id makes it, of a moment that is given.
_ID = """(lpad(to_hex((extract(EPOCH FROM {at}) * 1000)::bigint), 12, '0')
    || '7' || substr(md5({seed}::text), 1, 3) || '8' || substr(md5({seed}::text), 4, 15))::uuid"""


def _fill(connection: Connection, accounts: int, charges: int) -> None:
    """Accounts with a credit and `charges` charges each, three of them free, over a year up to
    now; in the order of time, as a service would have written them."""
    free = min(charges, 3)
    paid = charges - free
    total = accounts * charges
    account = "md5('account ' || {k})::uuid"
    at = f"now() - interval '{DAYS} days' * (1 - ({{n}})::float8 / {{of}})"
    created = at.format(n="k", of=accounts * (charges + 1))
    charged = at.format(n=f"{accounts} + g.n", of=accounts + total)
    # Account k is charged for the time i at n = i * accounts + k: versions rise with time.
    statements = {
        "accounts": f"""
            INSERT INTO billing_data.accounts (id, oauth_provider, external_id, customer_email,
                status, paid_credits, free_uses_remaining, total_uses, ledger_version, created_at,
                updated_at)
            SELECT {account.format(k="k")}, 'oauth:google', 'user-' || k,
                CASE WHEN k % 10 > 0 THEN 'person' || k || '@example.com' END,
                CASE WHEN k % 100 = 0 THEN 'suspended' ELSE 'active' END,
                k % 97, {3 - free}, {charges}, {charges + 1}, {created}, {created}
            FROM generate_series(0, {accounts - 1}) AS g (k)""",
        "credits": f"""
            INSERT INTO billing_data.credits (id, account_id, ledger_version, amount_minor,
                currency, balance_before, balance_after, transaction_type, description,
                database_role, created_at)
            SELECT {_ID.format(at=created, seed="k")}, {account.format(k="k")}, 1,
                {paid} + k % 97, 'USD', 0, {paid} + k % 97,
                CASE WHEN k % 4 = 0 THEN 'grant' ELSE 'purchase' END, 'a pack', 'bench', {created}
            FROM generate_series(0, {accounts - 1}) AS g (k)
            WHERE {paid} + k % 97 > 0""",
        "charges": f"""
            INSERT INTO billing_data.charges (id, account_id, ledger_version, amount_minor,
                currency, balance_before, balance_after, free_uses_after, paid_with, description,
                idempotency_key, database_role, created_at)
            SELECT {_ID.format(at=charged, seed="g.n")}, {account.format(k="v.k")}, 2 + v.i, 1,
                'USD', {paid} + v.k % 97 - greatest(v.i - {free}, 0),
                {paid} + v.k % 97 - greatest(v.i - {free - 1}, 0), greatest({2} - v.i, 0),
                CASE WHEN v.i < {free} THEN 'free' ELSE 'paid' END, 'Message interaction',
                'k' || g.n, 'bench', {charged}
            FROM generate_series(0, {total - 1}) AS g (n)
            CROSS JOIN LATERAL (SELECT g.n % {accounts} AS k, g.n / {accounts} AS i) AS v""",
        "checks": f"""
            INSERT INTO billing_data.credit_checks (id, account_id, oauth_provider, external_id,
                has_credit, denial_reason, database_role, created_at)
            SELECT gen_random_uuid(), {account.format(k=f"(n % {accounts})")}, 'oauth:google',
                'user-' || n % {accounts}, n % 20 > 0,
                CASE WHEN n % 20 = 0 THEN 'no credit' END, 'bench', {at.format(n="n", of=accounts)}
            FROM generate_series(0, {accounts - 1}) AS g (n)""",
        "payment events": f"""
            INSERT INTO billing_data.payment_events (provider, event_id, event_type, payment_id,
                payload, outcome, received_at, last_received_at)
            SELECT 'stripe', 'evt_' || n, 'payment_intent.succeeded', 'pi_' || n, '{{}}',
                CASE WHEN n % 10000 = 0 THEN 'metadata_missing' ELSE 'credited' END,
                {at.format(n="n", of=accounts)}, now()
            FROM generate_series(0, {accounts - 1}, 4) AS g (n)""",
        "the audit log": f"""
            INSERT INTO billing_data.admin_audit_logs (action, resource_type, resource_id, reason,
                database_role, created_at)
            SELECT 'account.adjust_credits', 'account', {account.format(k="n")}::text, 'goodwill',
                'bench', {at.format(n="n", of=accounts)}
            FROM generate_series(0, {accounts - 1}, 10) AS g (n)""",
    }
    connection.execute("SELECT billing.create_check_partitions()")
    # That the rows fit together is made so above: 10,000,000 look-ups of accounts are left out.
    connection.execute("SET session_replication_role = replica")
    with _without_indexes(connection):
        for name, statement in statements.items():
            _timed(name, partial(connection.execute, statement.encode()))
    connection.execute("SET session_replication_role = origin")
    _timed("vacuum and analyze", lambda: connection.execute("VACUUM ANALYZE"))
    _timed("first roll-up", lambda: connection.execute("SELECT billing.refresh_figures()"))
    connection.execute("VACUUM ANALYZE billing_data.active_accounts, billing_data.usage_figures")


@contextmanager
def _without_indexes(connection: Connection) -> Iterator[None]:
    """Makes the indexes of the large tables after the block instead of row by row within it."""
    found = connection.execute("""
        SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
        FROM pg_index AS i INNER JOIN pg_class AS c ON c.oid = i.indrelid
        WHERE c.relnamespace = 'billing_data'::regnamespace
            AND c.relname IN ('accounts', 'charges', 'credits')
            AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid)
    """).fetchall()
    for name, _ in found:
        connection.execute(f"DROP INDEX {name}".encode())
    yield
    for name, definition in found:
        _timed(name, partial(connection.execute, definition.encode()))


def _timed(what: str, work: Callable[[], object]) -> None:
    begun = time.perf_counter()
    work()
    print(f"{what}: {time.perf_counter() - begun:.1f} s", file=sys.stderr, flush=True)


# --- asking --------------------------------------------------------------------------------------

_ACCOUNT = (
    "SELECT a.id FROM billing_data.accounts AS a WHERE a.external_id = 'user-4242'"
    " OR a.external_id = 'user-42' ORDER BY a.external_id DESC LIMIT 1"
)
_OVERVIEW = "SELECT * FROM billing.get_overview()"
_FIGURES = "SELECT * FROM billing.list_daily_figures(p_days => 30)"
_AUDIT = "SELECT * FROM billing.list_audit_log(p_limit => 11)"


def _accounts(arguments: str) -> str:
    return f"SELECT * FROM billing.list_accounts({arguments}p_limit => {PAGE + 1})"


def _questions(accounts: int) -> dict[str, tuple[str, ...]]:
    """Name -> what is asked for one page. The parts of a page are also asked one by one."""
    deep = min(PAGE * 999, accounts - PAGE)
    identity = "p_oauth_provider => 'oauth:google', p_external_id => 'user-42'"
    return {
        "dashboard": (_OVERVIEW, _FIGURES, _AUDIT),
        "dashboard: the overview": (_OVERVIEW,),
        "dashboard: 30 days": (_FIGURES,),
        "dashboard: the audit log": (_AUDIT,),
        "accounts, newest": (_accounts(""),),
        "accounts, newest, counted": (_accounts("p_count => true, "),),
        "accounts, page 1,000": (_accounts(f"p_offset => {deep}, "),),
        "accounts, search by prefix": (_accounts("p_search => 'Person1234', "),),
        "accounts, search by a common prefix": (_accounts("p_search => 'p', "),),
        "accounts, search by prefix, counted": (
            _accounts("p_search => 'person12', p_count => true, "),
        ),
        "accounts, suspended": (_accounts("p_status => 'suspended', "),),
        "accounts, by e-mail": (_accounts("p_sort => 'email', "),),
        "accounts, by credits": (_accounts("p_sort => 'credits', "),),
        "accounts, search by substring": (
            _accounts("p_search => '4242', p_match => 'substring', "),
        ),
        "accounts, search by a rare substring": (
            _accounts("p_search => 'nobody', p_match => 'substring', "),
        ),
        "one account": (
            f"SELECT * FROM billing.get_account_by_id(p_account_id => ({_ACCOUNT}))",
            f"SELECT * FROM billing.list_transactions({identity}, p_limit => 50)",
            f"SELECT * FROM billing.list_checks(p_account_id => ({_ACCOUNT}))",
            f"SELECT * FROM billing.list_purchases(p_account_id => ({_ACCOUNT}))",
        ),
        "payment events": ("SELECT * FROM billing.list_payment_events()",),
        "payment problems": ("SELECT * FROM billing.list_payment_problems()",),
        "audit log of one thing": (
            f"SELECT * FROM billing.list_audit_log(p_resource_id => ({_ACCOUNT})::text)",
        ),
        "audit log of one kind": ("SELECT * FROM billing.list_audit_log(p_action => 'account')",),
    }


def _limit(name: str) -> int | None:
    if name == "dashboard":
        return LIMITS["dashboard"]
    # What no index can serve without making every charge dearer is measured, not promised.
    unpromised = ("by credits", "substring", "counted")
    if name.startswith("accounts") and not name.endswith(unpromised):
        return LIMITS["accounts"]
    return None


def _measure(connection: Connection, name: str, statements: tuple[str, ...], rounds: int) -> Result:
    taken = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        for statement in statements:
            connection.execute(statement.encode()).fetchall()
        taken.append((time.perf_counter() - begun) * 1000)
    first, *later = taken
    return Result(name, first, min(later), statistics.median(later), _limit(name))


def _print(results: list[Result]) -> None:
    print(f"\n{'':40}{'first ms':>10}{'best ms':>10}{'median ms':>11}{'limit ms':>10}")
    for result in results:
        limit = str(result.limit_ms) if result.limit_ms is not None else ""
        print(
            f"{result.name:40}{result.first_ms:10.1f}{result.best_ms:10.1f}"
            f"{result.median_ms:11.1f}{limit:>10}"
        )
    print()


if __name__ == "__main__":
    sys.exit(main())
