"""Whether this thread has to share its processor with other programs, such as PostgreSQL on the
same machine. Then it counts what all of them compute together; otherwise, that none waits for
another."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

# Linux counts the nanoseconds for which a thread ran, and for which it could have run but another
# program had the processor.
_COUNTS = Path("/proc/thread-self/schedstat")
_INTERVAL = 1.0  # seconds between two looks at the counts
# Measured under load: with PostgreSQL on the same two cores a worker waits 0.5 to 0.8 of the time
# for which it runs; with a core of its own, at most 0.16.
_SHARED = 0.25


class Processor:
    """The processor of the thread that calls it, as `counts` tell."""

    def __init__(self, counts: Path = _COUNTS) -> None:
        self._counts = counts
        self._ran, self._waited = self._read()
        self._looked_at = monotonic()
        self._shared = False

    def is_shared(self) -> bool:
        """Whether the thread lately waited for it more than a quarter of the time for which it ran.
        False where the system does not count this."""
        now = monotonic()
        if now - self._looked_at >= _INTERVAL:
            ran, waited = self._read()
            self._shared = waited - self._waited > _SHARED * (ran - self._ran)
            self._ran, self._waited, self._looked_at = ran, waited, now
        return self._shared

    def _read(self) -> tuple[int, int]:
        try:
            ran, waited, _ = self._counts.read_text().split()
        except (OSError, ValueError):
            return 0, 0
        return int(ran), int(waited)
