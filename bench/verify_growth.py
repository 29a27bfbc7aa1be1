"""`python -m bench.verify_growth`: how long it takes to seal and to verify a large ledger, with two
connections. Fails beyond three minutes for the verification."""

from __future__ import annotations

import argparse
import subprocess
import time

from bench.cluster import durable_cluster, filled
from bench.data import Contents
from tests.support import BILLING, Database, clean_environment

_CHARGES = 9  # of each account, beside one credit
_MOST_SECONDS = 180


def main() -> int:
    """Makes such a ledger in a temporary cluster."""
    parser = argparse.ArgumentParser(prog="python -m bench.verify_growth", description=__doc__)
    parser.add_argument("--accounts", type=int, default=1_000_000)
    options = parser.parse_args()
    contents = Contents(accounts=options.accounts, charges=_CHARGES)
    with durable_cluster() as cluster, filled(cluster, contents, print) as database:
        print(f"sealed in {_timed(database, 'seal', 'run'):.0f} s", flush=True)
        seconds = _timed(database, "verify", "--jobs", "2")
        print(f"verified in {seconds:.0f} s")
        return int(seconds > _MOST_SECONDS)


def _timed(database: Database, *arguments: str) -> float:
    started = time.monotonic()
    environment = clean_environment() | {"DATABASE_URL": database.dsn()}
    subprocess.run([BILLING, *arguments], env=environment, check=True)
    return time.monotonic() - started


if __name__ == "__main__":
    raise SystemExit(main())
