"""One round of one load: by wrk over HTTP, by pgbench, or by asyncpg alone. Each round is bounded
and returns a Round."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import uvloop

from bench import thin
from bench.cluster import Stage
from bench.data import PROVIDER
from bench.processes import Usage, measured, resident_mb
from server.agent.charges import CHARGE
from server.agent.checks import CHECK
from server.app import ITEM_FIELDS
from server.config import ServeConfig
from server.gateway import Gateway
from server.gateway.opener import WEB_ROLE
from server.gateway.pool import Pool
from tests.support import Database

_SCRIPT = Path(__file__).parent / "load.lua"
_TIMEOUT = "5s"  # as long as agents wait; a later answer is an error
BATCH = 100  # items a request, as in load.lua
# The statuses with which each kind of load may be answered; every other is an error.
EXPECTED = {
    "check": {200},
    "charge": {201},
    "replay": {409},
    "mixed": {200, 201, 409},
    "soak": {200, 201},
    "hold": {200, 201},
    "batch": {200},
    "history": {200},
    "history10": {200},
}


@dataclass(slots=True)
class Round:
    """Requests in seconds, latencies in milliseconds (None: not known), errors, HTTP statuses as
    the server counted them, bytes of write-ahead log."""

    requests: int
    seconds: float
    errors: int
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    statuses: dict[str, int] = field(default_factory=dict)
    wal_bytes: int = 0
    worker_mb: list[float] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)


class MissingProgram(Exception):
    """A program that the benchmark needs is not installed."""


def want_programs() -> None:
    """Raises MissingProgram where wrk is not installed."""
    if shutil.which("wrk") is None:
        raise MissingProgram("bench needs wrk as load generator: apt-get install wrk")


# --- over HTTP -----------------------------------------------------------------------------------


def wrk(
    stage: Stage,
    kind: str,
    connections: int,
    seconds: int,
    *,
    url: str | None = None,
    users: int | None = None,
    groups: Mapping[str, Sequence[int]] = {},
) -> Round:
    """A round of `kind` (load.lua) on the stage's server, or on `url` in front of it."""
    before = _counted(stage.service.base_url)
    outcomes = _outcomes(stage.service.base_url)
    wal = _wal_position(stage.database)
    with measured({**stage.groups, **groups}) as usage:
        told = _run_wrk(
            url or stage.service.base_url,
            kind,
            connections,
            seconds,
            key=stage.service.key.secret,
            users=users or stage.accounts,
            used=stage.used,
        )
    after = _settled(stage.service.base_url)
    statuses = {
        status: after[status] - before[status] for status in after if after[status] > before[status]
    }
    unexpected = sum(n for status, n in statuses.items() if int(status) not in EXPECTED[kind])
    # Answers of 400 and above that the server did not count came from a proxy in front of it.
    foreign = max(0, told["refused"] - sum(n for s, n in statuses.items() if int(s) >= 400))
    unmade = 0
    if kind == "batch":
        made = _outcomes(stage.service.base_url) - outcomes
        unmade = sum(made.values()) - made["created"]
    return _told(
        told,
        told["broken"] + unexpected + foreign + unmade,
        usage,
        statuses=statuses,
        wal_bytes=_wal_position(stage.database) - wal,
        worker_mb=resident_mb(stage.worker_pids),
    )


def wrk_thin(
    stage: Stage, service: tuple[str, Sequence[int]], kind: str, connections: int, seconds: int
) -> Round:
    """A round on the thin service (URL, process ids). It must refuse nothing, and must have written
    what it answered."""
    url, pids = service
    wal, written = _wal_position(stage.database), thin.written(stage.database, kind)
    with measured({**stage.groups, "thin": pids}) as usage:
        told = _run_wrk(
            url,
            kind,
            connections,
            seconds,
            key=stage.service.key.secret,
            users=stage.accounts,
            used=stage.used,
        )
    unwritten = told["requests"] - (thin.written(stage.database, kind) - written)
    return _told(
        told,
        told["broken"] + told["refused"] + max(0, unwritten),
        usage,
        wal_bytes=_wal_position(stage.database) - wal,
        worker_mb=resident_mb(pids),
    )


def wrk_echo(url: str, pids: Sequence[int], connections: int, seconds: int) -> Round:
    """A round on the echo server; it must answer nothing but 200."""
    with measured({"echo": pids}) as usage:
        told = _run_wrk(url, "echo", connections, seconds, key="none", users=10_000, used="none")
    return _told(told, told["broken"] + told["refused"], usage, worker_mb=resident_mb(pids))


def _told(told: dict[str, Any], errors: int, usage: Usage, **more: Any) -> Round:
    """The Round that load.lua reports."""
    figures = {name: told[name] for name in ("requests", "seconds", "p50", "p95", "p99")}
    return Round(errors=errors, usage=usage, **figures, **more)


def _run_wrk(
    url: str, kind: str, connections: int, seconds: int, *, key: str, users: int, used: str
) -> dict[str, Any]:
    """Runs wrk and returns what load.lua prints at the end."""
    command = ["wrk", f"-t{min(2, connections)}", f"-c{connections}", f"-d{seconds}s"]
    command += ["--timeout", _TIMEOUT, "-s", str(_SCRIPT), url, "--"]
    command += [kind, key, str(users), str(connections), f"b{secrets.token_hex(5)}", used]
    output = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, timeout=seconds + 60
    ).stdout
    told: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    if not told["requests"]:
        told["broken"] += 1  # there was no answer at all
    return told


_REQUESTS = re.compile(r"^billing_http_requests_total\{(.*)\} ([\d.e+]+)$", re.M)
_CHARGES = re.compile(r'^billing_charges_total\{outcome="(\w+)"\} ([\d.e+]+)$', re.M)


def _metrics(base_url: str) -> str:
    with urllib.request.urlopen(f"{base_url}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def _counted(base_url: str) -> Counter[str]:
    """The requests of agents that the server has answered, by status. wrk cannot tell a 409 from a
    500 unless it parses every answer, and that would cost the time it is to measure."""
    counts: Counter[str] = Counter()
    for labels, number in _REQUESTS.findall(_metrics(base_url)):
        label = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if label["endpoint"].startswith("/v1/"):
            counts[label["status"]] += int(float(number))
    return counts


def _settled(base_url: str) -> Counter[str]:
    """The same counts once they no longer change: everything that wrk left behind has been
    answered."""
    counts = _counted(base_url)
    for _ in range(50):
        time.sleep(0.05)
        before, counts = counts, _counted(base_url)
        if before == counts:
            break
    return counts


def _outcomes(base_url: str) -> Counter[str]:
    return Counter({name: int(float(n)) for name, n in _CHARGES.findall(_metrics(base_url))})


def _wal_position(database: Database) -> int:
    return int(database.value("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))


# --- by pgbench ----------------------------------------------------------------------------------

# pgbench takes a colon and a name for a variable, even inside a string.
_IDENTITY = (
    "p_oauth_provider => '{}' || chr(58) || '{}', p_external_id => 'user-' || (:id)::text".format(
        *PROVIDER.split(":")
    )
)
_ANY_USER = "\\set id random(0, :accounts - 1)\n"
_NEW_KEY = "\\set key random(1, 9000000000000000000)\n"
_PGBENCH = {
    "check": f"""{_ANY_USER}
SELECT * FROM billing.check_credit({_IDENTITY});
""",
    "charge": f"""{_ANY_USER}{_NEW_KEY}
SELECT * FROM billing.create_charge({_IDENTITY}, p_description => 'Message interaction',
    p_idempotency_key => 'pgbench-' || (:key)::text);
""",
}
_PLAIN = {
    "check": f"""{_ANY_USER}
SELECT * FROM thin.check_credit({_IDENTITY});
""",
    "charge": f"""{_ANY_USER}{_NEW_KEY}
SELECT * FROM thin.charge({_IDENTITY}, p_amount => 1, p_description => 'Message interaction',
    p_key => 'pgbench-' || (:key)::text);
""",
}


def pgbench(
    stage: Stage, kind: str, clients: int, seconds: int, *, users: int | None = None
) -> Round:
    """A round of the function for one item, prepared, with a DBA's login: the speed of the database
    without the web tier."""
    return _pgbench(stage, _PGBENCH[kind], clients, seconds, users)


def pgbench_plain(
    stage: Stage, kind: str, clients: int, seconds: int, *, users: int | None = None
) -> Round:
    """The same with the plain function of thin.sql, each call of which writes a row."""
    written = thin.written(stage.database, kind)
    taken = _pgbench(stage, _PLAIN[kind], clients, seconds, users)
    written = thin.written(stage.database, kind) - written
    taken.errors += max(0, taken.requests - written)
    return taken


def _pgbench(stage: Stage, script: str, clients: int, seconds: int, users: int | None) -> Round:
    cluster = stage.database.cluster.cluster
    wal = _wal_position(stage.database)
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file, measured(stage.groups) as usage:
        file.write(script)
        file.flush()
        command: list[str | Path] = [cluster.binaries / "pgbench", "-n", "-M", "prepared"]
        command += ["-f", file.name, "-c", str(clients), "-j", "2", "-T", str(seconds)]
        command += ["-D", f"accounts={users or stage.accounts}", stage.database.dsn("t_dba")]
        output = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
        ).stdout
    requests = int(_read(r"transactions actually processed: (\d+)", output))
    return Round(
        requests=requests,
        seconds=requests / _read(r"tps = ([\d.]+)", output),
        errors=int(_read(r"failed transactions: (\d+)", output)),
        mean=_read(r"latency average = ([\d.]+)", output),
        wal_bytes=_wal_position(stage.database) - wal,
        usage=usage,
    )


def _read(pattern: str, output: str) -> float:
    found = re.search(pattern, output)
    if found is None:
        raise RuntimeError(f"pgbench did not say {pattern}: {output}")
    return float(found[1])


# --- by asyncpg alone ----------------------------------------------------------------------------

_USER, _KEY = "user of the lone call", "key of the lone call"


def asyncpg_alone(stage: Stage, kind: str, seconds: int) -> Round:
    """A round of the call that the server makes for a lone request, prepared, on one connection. No
    web tier can be faster than this."""
    with measured(stage.groups) as usage:
        taken, whole = uvloop.run(_call_alone(stage, kind, seconds))
    taken.sort()

    def percentile(share: float) -> float:
        return taken[min(len(taken) - 1, int(share * len(taken)))] * 1000

    return Round(
        requests=len(taken),
        seconds=whole,
        errors=0,
        p50=percentile(0.5),
        p95=percentile(0.95),
        p99=percentile(0.99),
        usage=usage,
    )


async def _call_alone(stage: Stage, kind: str, seconds: int) -> tuple[list[float], float]:
    sql, arguments = await _as_the_server_calls(stage, kind)
    connection = await asyncpg.connect(
        stage.database.dsn("t_web"), server_settings={"jit": "off", "timezone": "UTC"}
    )
    try:
        await connection.execute(f"SET ROLE {WEB_ROLE}")
        statement = await connection.prepare(sql)
        prefix = f"alone-{secrets.token_hex(5)}-"
        taken: list[float] = []
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds:
            user = f"user-{secrets.randbelow(stage.accounts)}"
            values = _replaced(arguments, {_USER: user, _KEY: f"{prefix}{len(taken)}"})
            started = time.perf_counter()
            rows = await statement.fetch(*values)
            taken.append(time.perf_counter() - started)
            assert rows[0]["outcome"] in ("created", "checked"), rows[0]["outcome"]
        return taken, time.perf_counter() - begun
    finally:
        await connection.close()


async def _as_the_server_calls(stage: Stage, kind: str) -> tuple[str, Any]:
    """The statement and the arguments that the gateway sends for a lone item."""
    sent: list[tuple[str, Any]] = []

    async def listen(pool: Pool, connection: Any, sql: str, *arguments: Any) -> Any:
        sent.append((sql, arguments))
        return await fetch(pool, connection, sql, *arguments)

    fetch: Callable[..., Any] = Pool.fetch
    Pool.fetch = listen  # type: ignore[method-assign,assignment]
    try:
        gateway = Gateway(ServeConfig(stage.database.dsn("t_web")), ITEM_FIELDS)
        known: dict[str, Any] = {
            "oauth_provider": PROVIDER,
            "external_id": _USER,
            "amount_minor": 1,
            "currency": "USD",
            "description": "Message interaction",
            "idempotency_key": _KEY,
            "marketing_opt_in": False,
            "api_key_id": UUID(stage.service.key.id),
        }
        if kind == "charge":
            await gateway.create_charge(tuple(map(known.get, CHARGE.fields)))
        else:
            await gateway.check_credit(tuple(map(known.get, CHECK.fields)))
        await gateway.close()
    finally:
        Pool.fetch = fetch  # type: ignore[method-assign]
    return next((sql, arguments) for sql, arguments in sent if _USER in repr(arguments))


def _replaced(value: Any, replacements: Mapping[str, str]) -> Any:
    if isinstance(value, (list, tuple)):
        parts = [_replaced(part, replacements) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts  # a composite is sent as a tuple
    return replacements.get(value, value) if isinstance(value, str) else value
