"""`python -m bench growth`: the same loads on a new database and on one after a year, side by side
in one cluster."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench import buffers, wal
from bench.cluster import Stage, charge_once, durable_cluster, filled, settings, stage, wrong_books
from bench.data import Contents
from bench.load import Round
from bench.rounds import Progress, Result, take
from bench.scenarios import Load, http
from tests.support import Database

# history10: pages that are full in both databases.
KINDS = ("check", "charge", "replay", "history10")
_TABLES = ("accounts", "charges", "credits", "credit_checks")


def growth(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Returns the results: the loads on both databases, and the state of the tables afterwards."""
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(durable_cluster(shared_buffers=options.shared_buffers))
        shown = settings(cluster)
        charges = max(options.ledger // options.accounts - 1, 1)
        sizes = {
            "small": Contents(options.small_accounts, 0),
            "large": Contents(options.accounts, charges),
        }
        databases = {
            name: stack.enter_context(filled(cluster, contents, progress.say))
            for name, contents in sizes.items()
        }
        # The large database has these keys already: the first charge of each account.
        charge_once(databases["small"], options.small_accounts, "k")
        before = {name: _tables(database) for name, database in databases.items()}
        results: list[Result] = []
        written = {name: wal.Written() for name in sizes}
        pages: dict[str, dict[str, float]] = {}
        with contextlib.ExitStack() as servers:
            stages = [
                servers.enter_context(
                    stage(
                        cluster,
                        databases[name],
                        contents.accounts,
                        "k",
                        name=name,
                        workers=options.workers,
                    )
                )
                for name, contents in sizes.items()
            ]
            for kind in KINDS:
                taken, read = _compare(stages, kind, written, options, progress)
                results += taken
                pages |= read
        tables = {
            name: {
                table: _change(before[name][table], after)
                for table, after in _tables(database).items()
            }
            for name, database in databases.items()
        }
        progress.say("verifying the books")
        wrong = sum(wrong_books(database) for database in databases.values())
    return {
        "results": results,
        "tables": tables,
        "wal": {name: one.summary() for name, one in written.items()},
        "pages": pages,
        "settings": shown,
        "wrong_books": wrong,
    }


def rounds_of(options: argparse.Namespace) -> int:
    """The number of rounds."""
    return len(KINDS) * 2 * (options.rounds + 1)


def _compare(
    stages: list[Stage],
    kind: str,
    written: Mapping[str, wal.Written],
    options: argparse.Namespace,
    progress: Progress,
) -> tuple[list[Result], dict[str, dict[str, float]]]:
    """One kind of load on both databases: its results, and the pages that it asked for."""
    stages[0].database.execute("CHECKPOINT")
    loads = [one for at in stages for one in http(at, kind, (64,), via=at.name)]
    if kind == "charge":
        loads = [_logged(one, at, written[at.name]) for one, at in zip(loads, stages, strict=True)]
    counted = [buffers.Pages(at.database) for at in stages]
    loads = [count.counted(one) for count, one in zip(counted, loads, strict=True)]
    results = take("growth", loads, options.rounds, options.seconds, progress)
    buffers.settle()
    pages = {one.name: count.per_request() for count, one in zip(counted, loads, strict=True)}
    return results, pages


def _logged(load: Load, at: Stage, into: wal.Written) -> Load:
    """The same load; also reads what it writes to the write-ahead log."""

    def run(seconds: int) -> Round:
        begin = wal.position(at.database)
        taken = load.run(seconds)
        into.add(at.database, begin, wal.position(at.database), taken.requests)
        return taken

    return replace(load, run=run)


def _tables(database: Database) -> dict[str, dict[str, float]]:
    """Rows, bytes with indexes, updates and HOT updates of each table, partitions included."""
    found = {}
    for table in _TABLES:
        size, updates, hot = database.execute(
            "SELECT sum(pg_total_relation_size(t.relid))::bigint,"
            " coalesce(sum(s.n_tup_upd), 0)::bigint, coalesce(sum(s.n_tup_hot_upd), 0)::bigint"
            f" FROM (SELECT 'billing_data.{table}'::regclass AS relid"
            f" UNION SELECT p.relid FROM pg_partition_tree('billing_data.{table}') AS p) AS t"
            " LEFT JOIN pg_stat_user_tables AS s ON s.relid = t.relid"
        )[0]
        rows = database.value(f"SELECT count(*) FROM billing_data.{table}")
        found[table] = {"rows": rows, "bytes": size, "updates": updates, "hot": hot}
    return found


def _change(before: dict[str, float], after: dict[str, float]) -> dict[str, float | None]:
    updates = after["updates"] - before["updates"]
    return {
        "rows_before": before["rows"],
        "rows": after["rows"],
        "bytes_per_row_before": before["bytes"] / before["rows"] if before["rows"] else None,
        "bytes_per_row": after["bytes"] / after["rows"] if after["rows"] else None,
        "hot_share": (after["hot"] - before["hot"]) / updates if updates else None,
    }
