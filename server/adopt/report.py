"""Reports what adoption found, did and left, for people and for scripts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

from server.adopt.keys import EndedKey


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that is counted. `before` is None where the old database has nothing of the
    kind."""

    rule: str
    before: int | None
    after: int


@dataclass(frozen=True, slots=True)
class KeptTable:
    """A table that is kept: of a feature that this service does not have, or with rows that did not
    fit into our tables."""

    table: str
    rows: int
    what: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What a person should look at, how many rows it is about, and the first of them."""

    what: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AdoptionReport:
    """What adoption did. In the report of a dry run: what it will do, with an estimate in
    `seconds`."""

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
                f"API key {key.prefix}... ({key.name}, {key.environment}) ends: it was being"
                f" replaced, and {key.why}."
            )
        for finding in self.findings:
            more = ", ..." if finding.count > len(finding.examples) else ""
            examples = ", ".join(finding.examples)
            yield f"Look at: {finding.what} ({finding.count:,}): {examples}{more}"
        for table in self.kept:
            yield f"Kept: {table.table} ({table.rows:,} rows): {table.what}"
        for name in self.untouched:
            yield f"Left as it is: {name}, which is not a table of the old service."
        if self.is_dry_run:
            yield f"Adoption will take about {duration(self.seconds)} on two cores."
            for writer in self.writers:
                yield f"Adoption must wait until this has ended: {writer}"
            yield "Nothing was changed."


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} seconds"
    return f"{round(seconds / 60)} minutes"


def as_count(value: Decimal | int | None) -> int | None:
    """A count as the database gives it."""
    return None if value is None else int(value)
