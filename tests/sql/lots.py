"""The clock of the rules, for tests of credits that come and end at a time."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime

from tests.sql.holds import stopped_clock
from tests.support import Database


def clock_at(database: Database, moment: datetime) -> AbstractContextManager[None]:
    """Stops the clock of the rules at a moment."""
    return stopped_clock(database, 0, moment)


def now_of(database: Database) -> datetime:
    """What the clock of the rules shows."""
    moment: datetime = database.execute("SELECT billing_data.clock()")[0][0]
    return moment
