"""`make bench`: checks and charges per second over HTTP beside pgbench calling the single-call
functions, in one run on one cluster, durable commits on both sides.

It is a benchmark, not a test: it fails only when something answers wrongly. Compare the ratios,
not the numbers: machines differ and are shared."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from server.api_key_secret import new_secret
from server.config import SettingsSeed
from server.embedded import Cluster, find_binaries
from server.migrate import migrate

HERE = Path(__file__).parent
BILLING = Path(sys.executable).parent / "ciris-billing"
ACCOUNTS = 10_000
CHECK = '{"oauth_provider":"oauth:bench","external_id":"{user}"}'
CHARGE = (
    '{"oauth_provider":"oauth:bench","external_id":"{user}","amount_minor":1,"currency":"USD",'
    '"description":"Message interaction","idempotency_key":"{key}"}'
)


@dataclass(frozen=True, slots=True)
class Result:
    """One scenario: calls per second (median of the rounds), latencies in milliseconds."""

    name: str
    per_second: float
    p50: float
    p99: float | None
    errors: int


def main() -> int:
    """Runs every scenario and prints a table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=int, default=6, help="length of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        print("bench needs wrk as load generator: apt-get install wrk", file=sys.stderr)
        return 1
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="ciris-bench-") as folder, _cluster(folder) as cluster:
        key = _prepare(cluster)
        for name, call in (("check", _CHECK_SQL), ("charge", _CHARGE_SQL)):
            for clients in (16, options.connections):
                _say(f"pgbench {name}, {clients} clients")
                results.append(_pgbench(cluster, name, call, clients, options))
        with _server(cluster, options.workers) as url:
            for name, path, body in (
                ("check", "/v1/billing/credits/check", CHECK),
                ("charge", "/v1/billing/charges", CHARGE),
            ):
                for connections in (1, options.connections):
                    _say(f"HTTP {name}, {connections} connections")
                    results.append(_wrk(url, name, path, body, key, connections, options))
        books = _verify(cluster)
    if options.json:
        print(json.dumps({result.name: vars_of(result) for result in results}, indent=2))
    else:
        _print(results)
    failed = sum(result.errors for result in results) + books
    return 1 if failed else 0


# pgbench takes a colon and a name for a variable, in a string too.
_PROVIDER = "'oauth' || chr(58) || 'bench'"
_CHECK_SQL = f"""\\set id random(1, :accounts)
SELECT * FROM billing.check_credit(p_oauth_provider => {_PROVIDER},
    p_external_id => 'user-' || (:id)::text);
"""
_CHARGE_SQL = f"""\\set id random(1, :accounts)
\\set key random(1, 9000000000000000000)
SELECT * FROM billing.create_charge(p_oauth_provider => {_PROVIDER},
    p_external_id => 'user-' || (:id)::text, p_description => 'Message interaction',
    p_idempotency_key => 'pgbench-' || (:key)::text);
"""


def vars_of(result: Result) -> dict[str, float | int | None]:
    """A result without its name."""
    return {
        "per_second": result.per_second,
        "p50_ms": result.p50,
        "p99_ms": result.p99,
        "errors": result.errors,
    }


@contextmanager
def _cluster(folder: str) -> Iterator[Cluster]:
    settings = {"max_connections": "200", "shared_buffers": "512MB"}
    cluster = Cluster(Path(folder), find_binaries(18), settings=settings)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


def _prepare(cluster: Cluster) -> str:
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE bench")
    migrate(cluster.dsn("bench"), SettingsSeed())
    secret = new_secret("test")
    with psycopg.connect(cluster.dsn("bench"), autocommit=True) as connection:
        connection.execute("CREATE ROLE bench_web LOGIN IN ROLE billing_server")
        connection.execute("CREATE ROLE bench_dba LOGIN IN ROLE billing_dba")
        connection.execute(
            "SELECT billing.create_api_key(p_name => 'bench', p_key_prefix => %s,"
            " p_key_hash => %s)",
            (secret.prefix, secret.hash),
        )
        # Enough credits that nothing is refused, granted as everybody grants them.
        for function in (
            "billing.create_account(p_oauth_provider => 'oauth:bench',"
            " p_external_id => 'user-' || n)",
            "billing.create_credit(p_oauth_provider => 'oauth:bench',"
            " p_external_id => 'user-' || n, p_amount_minor => 1000000)",
        ):
            connection.execute(
                f"SELECT count(*) FROM generate_series(1, {ACCOUNTS}) AS n, LATERAL {function} AS f"
            )
        connection.execute("VACUUM ANALYZE")
    return secret.plaintext


@contextmanager
def _server(cluster: Cluster, workers: int) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    process = subprocess.Popen(
        [BILLING, "serve", "--port", str(port), "--workers", str(workers)],
        env={**os.environ, "DATABASE_URL": cluster.dsn("bench", "bench_web")},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _wrk(  # noqa: PLR0917
    url: str,
    name: str,
    path: str,
    body: str,
    key: str,
    connections: int,
    options: argparse.Namespace,
) -> Result:
    rounds = []
    for seconds in [2] + [options.seconds] * options.rounds:  # the first warms up
        threads = min(2, connections)
        command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--latency"]
        command += ["-s", str(HERE / "load.lua"), url, "--", path, key, str(ACCOUNTS), body]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        rounds.append(json.loads(output.strip().splitlines()[-1]))
    measured = rounds[1:]
    return Result(
        f"HTTP {name}, {connections} connections",
        statistics.median(entry["requests"] / entry["seconds"] for entry in measured),
        statistics.median(entry["p50"] for entry in measured),
        statistics.median(entry["p99"] for entry in measured),
        sum(entry["errors"] for entry in rounds),
    )


def _pgbench(
    cluster: Cluster, name: str, script: str, clients: int, options: argparse.Namespace
) -> Result:
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        rounds = []
        for seconds in [2] + [options.seconds] * options.rounds:
            command = [cluster.binaries / "pgbench", "-n", "-M", "prepared", "-f", file.name]
            command += ["-c", str(clients), "-j", "2", "-T", str(seconds)]
            command += ["-D", f"accounts={ACCOUNTS}", cluster.dsn("bench", "bench_dba")]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            rounds.append(output)
    measured = rounds[1:]
    failed = sum(int(re.search(r"failed transactions: (\d+)", text)[1]) for text in rounds)  # type: ignore[index]
    return Result(
        f"pgbench {name}, {clients} clients",
        statistics.median(float(re.search(r"tps = ([\d.]+)", text)[1]) for text in measured),  # type: ignore[index]
        statistics.median(
            float(re.search(r"latency average = ([\d.]+)", text)[1])  # type: ignore[index]
            for text in measured
        ),
        None,
        failed,
    )


def _verify(cluster: Cluster) -> int:
    with psycopg.connect(cluster.dsn("bench"), autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM billing.verify_ledger()").fetchone()
    wrong = int(row[0]) if row else 1
    _say("the books agree" if not wrong else f"{wrong} accounts whose books do not agree")
    return wrong


def _print(results: list[Result]) -> None:
    print(f"\n{'':36}{'per second':>12}{'p50 ms':>10}{'p99 ms':>10}{'errors':>8}")
    for result in results:
        p99 = f"{result.p99:.2f}" if result.p99 is not None else "-"
        print(
            f"{result.name:36}{result.per_second:12,.0f}{result.p50:10.2f}{p99:>10}"
            f"{result.errors:8}"
        )
    print()
    for name in ("check", "charge"):
        best = max(r.per_second for r in results if r.name.startswith(f"pgbench {name}"))
        http = max(r.per_second for r in results if r.name.startswith(f"HTTP {name}"))
        print(f"{name}: HTTP : pgbench at its best = {http / best:.2f}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
