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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg

from bench.data import FILLING, Connection, Contents, fill
from server.config import SettingsSeed
from server.embedded import Cluster, find_binaries
from server.migrate import migrate

PAGE = 50
# The bounds that the console promises, in milliseconds of server time.
LIMITS = {"accounts": 150, "dashboard": 300}


@dataclass(frozen=True, slots=True)
class Result:
    """One question: milliseconds of the first call after a restart, of the best later call and of
    their median, and the most it may take, if there is a bound."""

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
            charges = max(options.ledger // options.accounts - 1, 1)
            contents = Contents(options.accounts, charges, "1 + k % 97", for_console=True)
            with psycopg.connect(cluster.dsn("bench"), autocommit=True) as connection:
                fill(connection, contents)
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
    cluster = Cluster(folder, find_binaries(18), settings=FILLING)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


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
    """Name -> the calls of one page. The parts of a page are also measured one by one."""
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
    # Questions that no index can serve without making every charge more expensive are measured and
    # have no bound.
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
