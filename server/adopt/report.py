"""What adoption found, did and left, for people and for scripts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

from server.adopt.keys import EndedKey


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that is counted; `before` is None where the old database has no such thing."""

    rule: str
    before: int | None
    after: int


@dataclass(frozen=True, slots=True)
class KeptTable:
    """A table of the old service that we have no feature for, or what of it did not fit."""

    table: str
    rows: int
    what: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What a person should look at, and the rows it is about: the first ones, and how many."""

    what: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AdoptionReport:
    """A dry run's report says what will be; `seconds` is then an estimate."""

    revision: str
    is_dry_run: bool
    rules: tuple[Rule, ...]
    ended_keys: tuple[EndedKey, ...]
    findings: tuple[Finding, ...]
    kept: tuple[KeptTable, ...]
    untouched: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()
    seconds: float = 0.0
    encrypted_providers: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"The old service's database at revision {self.revision}:"
        width = max(len(rule.rule) for rule in self.rules)
        yield f"  {'':{width}}  {'before':>12}  {'after':>12}"
        for rule in self.rules:
            before = "-" if rule.before is None else f"{rule.before:,}"
            yield f"  {rule.rule:{width}}  {before:>12}  {rule.after:>12,}"
        for key in self.ended_keys:
            yield (
                f"Ends: API key {key.prefix}... ({key.name}, {key.environment}) was being replaced"
                f" and {key.why}."
            )
        for finding in self.findings:
            more = ", ..." if finding.count > len(finding.examples) else ""
            examples = ", ".join(finding.examples)
            yield f"Look at: {finding.what} ({finding.count:,}): {examples}{more}"
        for table in self.kept:
            yield f"Kept: {table.table} ({table.rows:,} rows): {table.what}"
        for name in self.untouched:
            yield f"Left alone: {name} is no table of the old service."
        if self.is_dry_run:
            yield f"Adoption will take about {duration(self.seconds)} on two cores."
            for writer in self.writers:
                yield f"In the way until it ends: {writer}"
            yield "Nothing was changed."


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} seconds"
    return f"{round(seconds / 60)} minutes"


def as_count(value: Decimal | int | None) -> int | None:
    """A count as the database gives it."""
    return None if value is None else int(value)
