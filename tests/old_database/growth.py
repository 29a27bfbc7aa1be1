"""`python -m tests.old_database.growth`: how long taking over a large old database takes, and how
much memory the command needs. Fails beyond ten minutes or 200 MB."""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from server.embedded import Cluster, find_binaries
from tests.old_database import build
from tests.support import BILLING, clean_environment

MOST_SECONDS, MOST_MEGABYTES = 600, 200


def main() -> int:
    """Builds such a database in a temporary cluster with durable commits."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.old_database.growth", description=__doc__
    )
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--charges", type=int, default=5_000_000)
    parser.add_argument("--folder", help="where there are 15 GB of disk", default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ciris-adopt-", dir=options.folder) as folder:
        Path(folder).chmod(0o755)
        settings = {"max_wal_size": "8GB", "shared_buffers": "512MB"}
        cluster = Cluster(Path(folder) / "cluster", find_binaries(18), settings=settings)
        cluster.start()
        try:
            pid = int((Path(folder) / "cluster" / "pg" / "postmaster.pid").read_text().split()[0])
            return _measure(cluster.dsn("postgres"), pid, options.accounts, options.charges)
        finally:
            cluster.stop()


def _measure(dsn: str, postmaster: int, accounts: int, charges: int) -> int:
    started = time.monotonic()
    build(dsn, accounts=accounts, charges=charges)
    print(f"built in {time.monotonic() - started:.0f} s", flush=True)
    _run(dsn, "--adopt", "--dry-run")
    busy = _busy_seconds(postmaster)
    seconds = _run(dsn, "--adopt")
    print(f"PostgreSQL was busy for {_busy_seconds(postmaster) - busy:.0f} s of that", flush=True)
    started = time.monotonic()
    subprocess.run([BILLING, "verify"], env={**os.environ, "DATABASE_URL": dsn}, check=True)
    print(f"verified in {time.monotonic() - started:.0f} s")
    # Of the largest of all commands above.
    megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"taken over in {seconds:.0f} s; the largest command took {megabytes:.0f} MB")
    return int(seconds > MOST_SECONDS or megabytes > MOST_MEGABYTES)


def _busy_seconds(postmaster: int) -> float:
    """The processor time of all its processes that have ended. What other programs of the machine
    do meanwhile does not count."""
    fields = Path(f"/proc/{postmaster}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def _run(dsn: str, *arguments: str) -> float:
    environment = {
        **clean_environment(),
        "DATABASE_URL": dsn,
        "ENCRYPTION_KEY": "a-key-of-this-run-long-enough-0123456789",
    }
    started = last = time.monotonic()
    command = subprocess.Popen(
        [BILLING, "migrate", *arguments],
        env=environment,
        stdout=sys.stdout,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stderr is not None
    step = ""
    for line in command.stderr:
        now = time.monotonic()
        if step:
            print(f"{now - last:7.1f} s {step}", flush=True)
        step, last = line.strip(), now
    if command.wait() != 0:
        raise SystemExit(f"{' '.join(arguments)} failed: {step}")
    print(f"{' '.join(arguments)}: {time.monotonic() - started:.0f} s", flush=True)
    return time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())
