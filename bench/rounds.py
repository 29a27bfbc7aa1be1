"""Runs the rounds of loads in turn and makes a Result of each load's rounds."""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from bench.load import Round
from bench.scenarios import Load


@dataclass(slots=True)
class Result:
    """A load's medians over its rounds: requests per second, milliseconds, busy cores, microseconds
    of processor time per request and megabytes by group of processes, bytes of write-ahead log per
    request. Errors are the sum over all rounds, including the warm-up."""

    id: str
    per_second: float
    errors: int
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    cores: dict[str, float] = field(default_factory=dict)
    cpu_us: dict[str, float] = field(default_factory=dict)
    memory_mb: dict[str, float] = field(default_factory=dict)
    worker_mb: float | None = None
    wal_bytes: float | None = None
    statuses: dict[str, int] = field(default_factory=dict)
    rounds: list[float] = field(default_factory=list)


class Progress:
    """Progress: on a terminal, a line that says what runs and how much is left; elsewhere, plain
    lines."""

    def __init__(self, total: int) -> None:
        self._bar = tqdm(
            total=total,
            file=sys.stderr,
            disable=None,  # where there is no terminal
            bar_format="{desc:44} {bar:20} {n_fmt}/{total_fmt} rounds, {remaining} left",
        )

    def say(self, text: str) -> None:
        """Shows what runs now."""
        if self._bar.disable:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.set_description_str(text)

    def line(self, text: str) -> None:
        """Prints a line that stays on the terminal."""
        self._bar.write(text, file=sys.stderr)

    def step(self, count: int = 1) -> None:
        self._bar.update(count)

    def close(self) -> None:
        self._bar.close()


def take(
    scenario: str, loads: Sequence[Load], rounds: int, seconds: int, progress: Progress
) -> list[Result]:
    """Warms each load up, then runs `rounds` rounds of all of them in turn."""
    taken: list[list[Round]] = [[] for _ in loads]
    for number in range(rounds + 1):
        for load, into in zip(loads, taken, strict=True):
            what = f"round {number}" if number else "warm-up"
            progress.say(f"{scenario}: {load.name}, {what}")
            into.append(load.run(seconds if number else min(2, seconds)))
            progress.step()
    return [
        summary(f"{scenario}/{load.name}", into, load.weight)
        for load, into in zip(loads, taken, strict=True)
    ]


def summary(name: str, rounds: Sequence[Round], weight: float = 1) -> Result:
    """The medians without the first round, which was the warm-up."""
    measured = rounds[1:] or rounds

    def middle(value: Callable[[Round], float | None]) -> float | None:
        values = [found for one in measured if (found := value(one)) is not None]
        return statistics.median(values) if values else None

    def by_group(value: Callable[[Round], dict[str, float]]) -> dict[str, float]:
        return {
            group: round(statistics.median(value(one)[group] for one in measured), 3)
            for group in value(measured[0])
        }

    rates = [one.requests * weight / one.seconds for one in measured]
    return Result(
        id=name,
        per_second=statistics.median(rates),
        errors=sum(one.errors for one in rounds),
        mean=middle(lambda one: one.mean),
        p50=middle(lambda one: one.p50),
        p95=middle(lambda one: one.p95),
        p99=middle(lambda one: one.p99),
        cores=by_group(
            lambda one: {name: used / one.seconds for name, used in one.usage.cpu_seconds.items()}
        ),
        cpu_us=by_group(
            lambda one: {
                name: 1e6 * used / (max(one.requests, 1) * weight)
                for name, used in one.usage.cpu_seconds.items()
            }
        ),
        memory_mb=by_group(lambda one: one.usage.memory_mb),
        worker_mb=middle(lambda one: max(one.worker_mb) if one.worker_mb else None),
        wal_bytes=middle(
            lambda one: one.wal_bytes / (one.requests * weight) if one.wal_bytes else None
        ),
        statuses=dict(_added(one.statuses for one in rounds)),
        rounds=[round(rate, 1) for rate in rates],
    )


def _added(counts: Iterable[dict[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return total
