"""The figures the service is to reach, as data: ratios of results of one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Goal:
    """`field` of the result `of`, divided by the best of the results `to` (or by `to_field` of
    them); at least `bound`, or at most. Without `to` it is the value itself."""

    name: str
    bound: float
    of: str
    to: tuple[str, ...] = ()
    field: str = "per_second"
    to_field: str | None = None
    at_most: bool = False

    def value(self, results: Results) -> float | None:
        """What was measured; None where something of it was not."""
        if any(name not in results for name in (self.of, *self.to)):
            return None
        above = results[self.of].get(self.field)
        if above is None or not self.to:
            return None if above is None else float(above)
        below = [float(results[name].get(self.to_field or self.field) or 0) for name in self.to]
        return float(above) / max(below) if max(below) > 0 else None

    def reached(self, results: Results) -> bool | None:
        value = self.value(results)
        if value is None:
            return None
        return value <= self.bound if self.at_most else value >= self.bound


def _best(scenario: str, kind: str) -> tuple[str, ...]:
    return tuple(f"{scenario}/pgbench {kind} {clients}" for clients in (16, 64))


CHARGE, CHECK = "charge/HTTP charge", "check/HTTP check"

GOALS = (
    Goal("charges, 64 connections : pgbench", 1.2, f"{CHARGE} 64", _best("charge", "charge")),
    Goal("charges, 256 connections : pgbench", 1.6, f"{CHARGE} 256", _best("charge", "charge")),
    Goal("checks, 64 connections : pgbench", 0.65, f"{CHECK} 64", _best("check", "check")),
    Goal("checks, 256 connections : pgbench", 0.85, f"{CHECK} 256", _best("check", "check")),
    Goal(
        "replayed charges : new charges", 1.5, "replay/HTTP replay 64", ("replay/HTTP charge 64",)
    ),
    Goal("one hot account : pgbench on it", 5, "hot/HTTP charge 64", _best("hot", "charge")),
    Goal(
        "items by charges:batch : charges one by one",
        1.7,
        "batch/HTTP batch 64",
        ("batch/HTTP charge 64",),
    ),
    *(
        Goal(
            f"{kind}, large database : small",
            0.8,
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
        4,
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
    """Each goal with what was measured and whether that reaches it (None: not measured)."""
    return [
        {
            "name": goal.name,
            "bound": goal.bound,
            "at_most": goal.at_most,
            "value": goal.value(results),
            "reached": goal.reached(results),
        }
        for goal in GOALS
    ]
