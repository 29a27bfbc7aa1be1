"""The figures that the service is to reach, as data: ratios of results of one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.processes import GENERATOR, OTHERS

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Goal:
    """`field` of the result `of`, divided by the best of the results `to` (or by their `to_field`).
    It must be at least `bound`, or at most. Without `to` it is the value itself."""

    name: str
    bound: float
    of: str
    to: tuple[str, ...] = ()
    field: str = "per_second"
    to_field: str | None = None
    at_most: bool = False

    def value(self, results: Results) -> float | None:
        """The measured value; None where a part of it was not measured."""
        if any(name not in results for name in (self.of, *self.to)):
            return None
        above = results[self.of].get(self.field)
        if above is None or not self.to:
            return None if above is None else float(above)
        below = [float(results[name].get(self.to_field or self.field) or 0) for name in self.to]
        return float(above) / max(below) if max(below) > 0 else None

    def by_processor_time(self, results: Results) -> float | None:
        """The same ratio as if both sides had the same processor time: the cost of the other's
        request divided by the cost of ours, without the load generator. None for a goal that does
        not compare rates."""
        if self.field != "per_second" or not self.to or self.value(results) is None:
            return None
        best = max(self.to, key=lambda name: float(results[name]["per_second"]))
        ours, other = served(results[self.of]), served(results[best])
        return other / ours if ours > 0 else None

    def reached(self, results: Results) -> bool | None:
        value = self.value(results)
        if value is None:
            return None
        return value <= self.bound if self.at_most else value >= self.bound


def served(result: Mapping[str, Any]) -> float:
    """Microseconds of processor time that the serving processes need for a request of this load."""
    return sum(used for group, used in costs(result).items() if group != GENERATOR)


def costs(result: Mapping[str, Any]) -> dict[str, float]:
    """Microseconds of processor time of a request by group of processes, without other programs and
    idle groups."""
    found: Mapping[str, float] = result.get("cpu_us", {})
    return {group: used for group, used in found.items() if group != OTHERS and used >= 0.5}


def _best(scenario: str, kind: str, via: str = "pgbench") -> tuple[str, ...]:
    return tuple(f"{scenario}/{via} {kind} {clients}" for clients in (16, 64))


def _beside_thin(kind: str, bounds: Mapping[int, float]) -> Iterator[Goal]:
    """Our rate over HTTP divided by that of the thin service with the same number of
    connections."""
    for connections, bound in bounds.items():
        name = f"{kind}s, {connections} connection{'s' * (connections > 1)} : thin service"
        ours, thin = (f"{kind}/{via} {kind} {connections}" for via in ("HTTP", "thin"))
        yield Goal(name, bound, ours, (thin,))


CHARGE, CHECK = "charge/HTTP charge", "check/HTTP check"

GOALS = (
    *_beside_thin("charge", {1: 0.7, 16: 0.9, 64: 0.95, 256: 0.85}),
    *_beside_thin("check", {1: 0.65, 16: 0.75, 64: 0.8, 256: 0.8}),
    *(
        Goal(
            f"pgbench, 16 clients, single {kind} : plain function",
            bound,
            f"{kind}/pgbench {kind} 16",
            (f"{kind}/plain {kind} 16",),
        )
        for kind, bound in (("charge", 0.7), ("check", 0.6))
    ),
    Goal("checks, 64 connections : echo", 0.55, f"{CHECK} 64", ("check/aiohttp echo 64",)),
    Goal("charges, 64 connections : echo", 0.27, f"{CHARGE} 64", ("charge/aiohttp echo 64",)),
    Goal(
        "charges, 64 connections : pgbench, plain function",
        1.0,
        f"{CHARGE} 64",
        _best("charge", "charge", "plain"),
    ),
    Goal("charges, 64 connections : pgbench", 1.2, f"{CHARGE} 64", _best("charge", "charge")),
    Goal("charges, 256 connections : pgbench", 1.6, f"{CHARGE} 256", _best("charge", "charge")),
    Goal("checks, 64 connections : pgbench", 0.65, f"{CHECK} 64", _best("check", "check")),
    Goal("checks, 256 connections : pgbench", 0.85, f"{CHECK} 256", _best("check", "check")),
    Goal(
        "replayed charges : new charges", 1.8, "replay/HTTP replay 64", ("replay/HTTP charge 64",)
    ),
    Goal(
        "one hot account : pgbench on it, plain function",
        3,
        "hot/HTTP charge 64",
        _best("hot", "charge", "plain"),
    ),
    Goal("one hot account : pgbench on it", 5, "hot/HTTP charge 64", _best("hot", "charge")),
    Goal(
        "items by charges:batch : charges one by one",
        1.7,
        "batch/HTTP batch 64",
        ("batch/HTTP charge 64",),
    ),
    Goal("hold and capture : charges", 0.45, "hold/HTTP hold 64", ("hold/HTTP charge 64",)),
    *(
        Goal(
            f"{kind}, large database : small",
            0.9,
            f"growth/large {kind} 64",
            (f"growth/small {kind} 64",),
        )
        for kind in ("charge", "check", "replay", "history10")
    ),
    Goal("charges, 1,000 connections : 64", 0.95, f"{CHARGE} 1000", (f"{CHARGE} 64",)),
    Goal("checks, 1,000 connections : 64", 0.95, f"{CHECK} 1000", (f"{CHECK} 64",)),
    Goal(
        "charges, nginx with TLS : direct", 0.6, "nginx/nginx charge 64", ("nginx/HTTP charge 64",)
    ),
    Goal("checks, nginx with TLS : direct", 0.6, "nginx/nginx check 64", ("nginx/HTTP check 64",)),
    Goal(
        "lone charge, p50 : asyncpg alone",
        2.0,
        "lone/HTTP charge 1",
        ("lone/asyncpg charge 1",),
        field="p50",
        at_most=True,
    ),
    Goal(
        "charges, 64 connections, p99 : p50",
        2.5,
        f"{CHARGE} 64",
        (f"{CHARGE} 64",),
        field="p99",
        to_field="p50",
        at_most=True,
    ),
    Goal("largest worker after the soak, MB", 120, "soak/memory", field="worker_mb", at_most=True),
    Goal("a worker's growth in the soak, MB", 5, "soak/memory", field="growth_mb", at_most=True),
    Goal("latency at the soak's end : begin", 1.15, "soak/latency", field="drift", at_most=True),
)


def verdicts(results: Results) -> list[dict[str, Any]]:
    """Each goal with its measured value and whether the value reaches it (None: not measured)."""
    return [
        {
            "name": goal.name,
            "bound": goal.bound,
            "at_most": goal.at_most,
            "value": goal.value(results),
            "by_processor_time": goal.by_processor_time(results),
            "reached": goal.reached(results),
        }
        for goal in GOALS
    ]
