"""The scenarios: which loads are compared with each other. The two sides of each ratio are in one
scenario, because its rounds are run in turn: A B A B ..."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench import load
from bench.cluster import Stage
from bench.echo import running_echo
from bench.load import BATCH, Round
from bench.thin import running_thin

CONNECTIONS = (1, 16, 64, 256, 1000)
THIN_CONNECTIONS = CONNECTIONS[:4]
CLIENTS = (16, 64)  # of pgbench; the best rate counts


class NotRun(Exception):
    """A scenario lacks something; the text says what."""


@dataclass(frozen=True)
class Load:
    """Something to measure. `run` takes the seconds of a round. One request counts as `weight`."""

    via: str
    kind: str
    connections: int
    run: Callable[[int], Round]
    weight: float = 1

    @property
    def name(self) -> str:
        return f"{self.via} {self.kind} {self.connections}"


Scenario = Callable[[Stage], contextlib.AbstractContextManager[list[Load]]]


def _simple(make: Callable[[Stage], list[Load]]) -> Scenario:
    @contextlib.contextmanager
    def scenario(stage: Stage) -> Iterator[list[Load]]:
        yield make(stage)

    scenario.__doc__ = make.__doc__
    return scenario


def http(
    stage: Stage,
    kind: str,
    connections: Sequence[int],
    *,
    users: int | None = None,
    weight: float = 1,
    via: str = "HTTP",
) -> list[Load]:
    """Loads by wrk at the stage's server."""

    def make(count: int) -> Load:
        def run(seconds: int) -> Round:
            return load.wrk(stage, kind, count, seconds, users=users)

        return Load(via, kind, count, run, weight)

    return [make(count) for count in connections]


def _pgbench(stage: Stage, kind: str, *, users: int | None = None) -> list[Load]:
    """Our own single function and the plain one, in turn."""

    def make(via: str, clients: int) -> Load:
        take = {"pgbench": load.pgbench, "plain": load.pgbench_plain}[via]

        def run(seconds: int) -> Round:
            return take(stage, kind, clients, seconds, users=users)

        return Load(via, kind, clients, run)

    return [make(via, clients) for clients in CLIENTS for via in ("pgbench", "plain")]


def _with_yardsticks(kind: str) -> Scenario:
    """The service with each number of connections compared with the thin one, pgbench on our
    function compared with the plain one, and the echo server. Each has as many processes as the
    server."""

    @contextlib.contextmanager
    def scenario(stage: Stage) -> Iterator[list[Load]]:
        key, workers = stage.service.key.secret, stage.workers
        with running_thin(stage.database, key, workers) as thin, running_echo(workers) as echo:

            def make_thin(count: int) -> Load:
                def run(seconds: int) -> Round:
                    return load.wrk_thin(stage, thin, kind, count, seconds)

                return Load("thin", kind, count, run)

            loads = []
            for count in CONNECTIONS:
                loads += http(stage, kind, (count,))
                if count in THIN_CONNECTIONS:
                    loads.append(make_thin(count))
            nothing = Load("aiohttp", "echo", 64, lambda seconds: load.wrk_echo(*echo, 64, seconds))
            yield [*loads, *_pgbench(stage, kind), nothing]

    return scenario


@_simple
def _replay(stage: Stage) -> list[Load]:
    """A charge whose key was used before (409), compared with new charges."""
    return [*http(stage, "replay", (64,)), *http(stage, "charge", (64,))]


@_simple
def _hot(stage: Stage) -> list[Load]:
    """All charges to one account."""
    return [*http(stage, "charge", (64,), users=1), *_pgbench(stage, "charge", users=1)]


@_simple
def _mixed(stage: Stage) -> list[Load]:
    """A proxy: a check, then twelve charges under one key, of which eleven are answered 409."""
    return http(stage, "mixed", (64, 256))


@_simple
def _batch(stage: Stage) -> list[Load]:
    """charges:batch of 100 new charges, counted by charge, compared with single charges."""
    return [*http(stage, "batch", (64,), weight=BATCH), *http(stage, "charge", (64,))]


@_simple
def _hold(stage: Stage) -> list[Load]:
    """A hold and its capture, counted as one, compared with charges."""
    return [*http(stage, "hold", (64,), weight=0.5), *http(stage, "charge", (64,))]


@_simple
def _history(stage: Stage) -> list[Load]:
    """The newest 50 transactions of an account that has more."""
    return http(stage, "history", (64,))


@contextlib.contextmanager
def _nginx(stage: Stage) -> Iterator[list[Load]]:
    """Through nginx with TLS, compared with the same load without nginx."""
    try:
        from tests import nginx  # type: ignore[attr-defined,unused-ignore]
    except ImportError:
        raise NotRun("no nginx configuration") from None
    if nginx.NGINX is None:
        raise NotRun("nginx is not installed")
    with nginx.running_nginx([stage.service.base_url], **nginx.UNLIMITED) as proxy:
        groups = {"nginx": [proxy.process.process.pid]}

        def make(kind: str) -> Load:
            def run(seconds: int) -> Round:
                return load.wrk(stage, kind, 64, seconds, url=proxy.url, groups=groups)

            return Load("nginx", kind, 64, run)

        yield [
            one for kind in ("charge", "check") for one in (make(kind), *http(stage, kind, (64,)))
        ]


@_simple
def _lone(stage: Stage) -> list[Load]:
    """One client that waits for each answer, compared with the same call by asyncpg alone."""

    def make(kind: str) -> Load:
        def run(seconds: int) -> Round:
            return load.asyncpg_alone(stage, kind, seconds)

        return Load("asyncpg", kind, 1, run)

    return [one for kind in ("charge", "check") for one in (*http(stage, kind, (1,)), make(kind))]


SCENARIOS: dict[str, Scenario] = {
    "check": _with_yardsticks("check"),
    "charge": _with_yardsticks("charge"),
    "replay": _replay,
    "hot": _hot,
    "mixed": _mixed,
    "batch": _batch,
    "hold": _hold,
    "history": _history,
    "nginx": _nginx,
    "lone": _lone,
}
# How many loads each has, for the progress line.
LOADS = {
    "check": 14,
    "charge": 14,
    "replay": 2,
    "hot": 5,
    "mixed": 2,
    "batch": 2,
    "hold": 2,
    "history": 1,
    "nginx": 4,
    "lone": 4,
}
