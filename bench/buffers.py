"""The pages of tables and indexes that a load asks for: found in PostgreSQL's own buffers, or read
from the operating system, as the database counts them itself (pg_stat_database)."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from bench.load import Round
from bench.scenarios import Load
from tests.support import Database

# A session tells its counts once a second while it works, and after ten seconds without work.
_TOLD_AFTER = 11


@dataclass(slots=True)
class Pages:
    """What one load asked for, over all its rounds and the warm-up."""

    database: Database
    requests: int = 0
    begin: tuple[float, ...] = ()

    def counted(self, load: Load) -> Load:
        """The same load; its requests are added up."""
        self.begin = _counters(self.database)

        def run(seconds: int) -> Round:
            taken = load.run(seconds)
            self.requests += taken.requests
            return taken

        return replace(load, run=run)

    def per_request(self) -> dict[str, float]:
        """Pages found, pages read, and microseconds of waiting for the latter, per request, once
        `settle` has returned after the load."""
        found, read, waited = (
            (after - before) / max(self.requests, 1)
            for before, after in zip(self.begin, _counters(self.database), strict=True)
        )
        return {"found": found, "read": read, "read_us": 1000 * waited}


def settle() -> None:
    """Waits until every session has told what it counted."""
    time.sleep(_TOLD_AFTER)


def _counters(database: Database) -> tuple[float, ...]:
    return tuple(
        database.execute(
            "SELECT blks_hit, blks_read, blk_read_time FROM pg_stat_database"
            " WHERE datname = current_database()"
        )[0]
    )
