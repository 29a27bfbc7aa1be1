"""The cost of a load: processor seconds and memory by group of processes."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import psutil

GENERATOR = "generator"  # wrk or pgbench: a child process that ends within the block
OTHERS = "others"  # all other programs of this machine, which disturb the measurement


@dataclass(slots=True)
class Usage:
    """The usage in one round: processor seconds by group, and megabytes by group at its end."""

    cpu_seconds: dict[str, float] = field(default_factory=dict)
    memory_mb: dict[str, float] = field(default_factory=dict)


@contextlib.contextmanager
def measured(groups: Mapping[str, Sequence[int]]) -> Iterator[Usage]:
    """Fills in the usage of the block. `groups` names process ids; their child processes count
    too."""
    usage = Usage()
    before = {name: _seconds(pids) for name, pids in groups.items()}
    ended, busy = _ended_children(), _busy()
    yield usage
    usage.cpu_seconds = {name: _seconds(pids) - before[name] for name, pids in groups.items()}
    usage.cpu_seconds[GENERATOR] = _ended_children() - ended
    usage.cpu_seconds[OTHERS] = max(0.0, _busy() - busy - sum(usage.cpu_seconds.values()))
    usage.memory_mb = {
        name: sum(_megabytes(process) for process in _tree(pids)) for name, pids in groups.items()
    }


def resident_mb(pids: Sequence[int]) -> list[float]:
    """The resident memory of each process."""
    return [round(psutil.Process(pid).memory_info().rss / 1e6, 1) for pid in sorted(pids)]


def _tree(pids: Sequence[int]) -> Iterator[psutil.Process]:
    for pid in pids:
        root = psutil.Process(pid)
        yield root
        yield from root.children(recursive=True)


def _seconds(pids: Sequence[int]) -> float:
    """The processor seconds of these processes, their children, and those children that ended and
    were waited for: a backend's time is added to the postmaster's once its connection is closed."""
    total = 0.0
    for _ in range(20):
        before, total = _ended(pids), _ended(pids)
        for process in _tree(pids):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        # Otherwise one ended while we read, and was missed or counted twice.
        if before == _ended(pids):
            break
    return total


def _ended(pids: Sequence[int]) -> float:
    """The processor seconds of children that ended."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(
        getattr(one, "children_user", 0.0) + getattr(one, "children_system", 0.0) for one in times
    )


def _busy() -> float:
    """The busy seconds of all processors, since they were started."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0) + getattr(times, "guest", 0)
    return float(sum(times) - idle)


def _ended_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _megabytes(process: psutil.Process) -> float:
    """The memory of a process. Shared pages are divided among the processes that share them, where
    the system reports them."""
    with contextlib.suppress(psutil.Error):
        full = process.memory_full_info()
        return float(getattr(full, "pss", full.rss)) / 1e6
    return 0.0
