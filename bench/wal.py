"""The contents of a load's write-ahead log, by table and index, read with pg_waldump."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import Database

_LENGTHS = re.compile(r"len \(rec/tot\): +(\d+)/ +(\d+)")
_BLOCK = re.compile(r"rel \d+/(\d+)/(\d+) (?:fork \w+ )?blk \d+( FPW)?")
_OTHER = "(none)"


@dataclass(slots=True)
class Written:
    """Bytes of records and of the whole pages in them, and the number of such pages, by table or
    index; and bytes per request for each round."""

    requests: int = 0
    records: Counter[str] = field(default_factory=Counter)
    page_bytes: Counter[str] = field(default_factory=Counter)
    pages: Counter[str] = field(default_factory=Counter)
    rounds: list[float] = field(default_factory=list)

    def add(self, database: Database, begin: str, end: str, requests: int) -> None:
        """Adds a round: the log from `begin` to `end`."""
        before = self._bytes()
        names = _names(database)
        for line in _dumped(database, begin, end):
            if lengths := _LENGTHS.search(line):
                blocks = [
                    (names.get((oid, file), _OTHER), bool(whole))
                    for oid, file, whole in _BLOCK.findall(line)
                ]
                self._count(int(lengths[1]), int(lengths[2]), blocks)
        self.requests += requests
        self.rounds.append((self._bytes() - before) / max(requests, 1))

    def _count(self, record: int, total: int, blocks: list[tuple[str, bool]]) -> None:
        """Counts a record with these lengths, without and with its whole pages. It belongs to the
        first table or index that it touches."""
        self.records[blocks[0][0] if blocks else _OTHER] += record
        whole = [name for name, is_whole in blocks if is_whole]
        for name in whole:
            self.pages[name] += 1
            self.page_bytes[name] += (total - record) // len(whole)

    def _bytes(self) -> int:
        return self.records.total() + self.page_bytes.total()

    def summary(self) -> dict[str, Any]:
        """Everything per request, largest first."""
        per = max(self.requests, 1)

        def share(bytes_: int, page_bytes: int, pages: int) -> dict[str, Any]:
            return {"bytes": bytes_ / per, "page_bytes": page_bytes / per, "pages": pages / per}

        return {
            **share(self._bytes(), self.page_bytes.total(), self.pages.total()),
            "rounds": [round(one) for one in self.rounds],
            "relations": {
                name: share(size, self.page_bytes[name], self.pages[name])
                for name, size in (self.records + self.page_bytes).most_common()
            },
        }


def position(database: Database) -> str:
    """The position up to which the log is on disk."""
    return str(database.value("SELECT pg_current_wal_flush_lsn()::text"))


def _names(database: Database) -> dict[tuple[str, str], str]:
    """The tables and indexes of this database, by its oid and their file. Partitions and their
    indexes count under their parent."""
    rows = database.execute(
        "SELECT d.oid::text, pg_relation_filenode(c.oid)::text,"
        " coalesce(pg_partition_root(c.oid)::regclass, c.oid::regclass)::text"
        " FROM pg_class AS c CROSS JOIN pg_database AS d"
        " WHERE d.datname = current_database() AND pg_relation_filenode(c.oid) IS NOT NULL"
    )
    return {(oid, file): name.removeprefix("billing_data.") for oid, file, name in rows}


def _dumped(database: Database, begin: str, end: str) -> Iterator[str]:
    """One line for each record. The record that `begin` is in the middle of is skipped."""
    cluster = database.cluster.cluster
    command: list[str | Path] = [cluster.binaries / "pg_waldump"]
    command += ["--path", cluster.directory / "pg" / "pg_wal", "--start", begin, "--end", end]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as dump:
        assert dump.stdout is not None
        yield from dump.stdout
    if dump.returncode:
        raise RuntimeError(f"pg_waldump cannot read from {begin} to {end}")
