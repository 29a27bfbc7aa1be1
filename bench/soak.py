"""`python -m bench soak`: checks and charges at 64 connections for minutes on end. Do the workers
grow, do the answers slow down?"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from bench import load
from bench.cluster import durable_cluster, filled, settings, stage, wrong_books
from bench.data import Contents
from bench.processes import resident_mb
from bench.rounds import Progress, summary

CONNECTIONS = 64


def soak(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Returns the results: a sample for each slice of the time, and the judgement of them."""
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(durable_cluster())
        shown = settings(cluster)
        contents = Contents(options.accounts, options.charges)
        database = stack.enter_context(filled(cluster, contents, progress.say))
        samples: list[dict[str, Any]] = []
        rounds = []
        with stage(cluster, database, options.accounts, "k", workers=options.workers) as at:
            rounds.append(load.wrk(at, "soak", CONNECTIONS, min(2, options.every)))  # the warm-up
            for number in range(rounds_of(options)):
                one = load.wrk(at, "soak", CONNECTIONS, options.every)
                rounds.append(one)
                samples.append(
                    {
                        "second": (number + 1) * options.every,
                        "per_second": one.requests / one.seconds,
                        "p50": one.p50,
                        "p99": one.p99,
                        "worker_mb": resident_mb(at.worker_pids),
                        "errors": one.errors,
                    }
                )
                _tell(samples[-1], progress)
        progress.say("verifying the books")
        wrong = wrong_books(database)
    return {
        "results": [summary(f"soak/HTTP soak {CONNECTIONS}", rounds)],
        "values": judged(samples),
        "samples": samples,
        "settings": shown,
        "wrong_books": wrong,
    }


def rounds_of(options: argparse.Namespace) -> int:
    """The number of samples."""
    return max(2, round(options.minutes * 60 / options.every))


def judged(samples: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The largest worker at the end; how much one worker grew in the second half, when everything
    that a process keeps has been stored; and how much slower the answers were at the end than at
    the beginning."""
    workers = list(zip(*(one["worker_mb"] for one in samples[len(samples) // 2 :]), strict=True))
    p50 = [one["p50"] for one in samples]
    return {
        "soak/memory": {
            "worker_mb": max(samples[-1]["worker_mb"]),
            "growth_mb": max(rise(worker) for worker in workers),
        },
        "soak/latency": {"drift": 1 + rise(p50) / statistics.median(p50)},
    }


def rise(values: Sequence[float]) -> float:
    """The rise from the first to the last of equidistant values, by the median of all slopes, which
    a few extreme values do not change."""
    pairs = combinations(enumerate(values), 2)
    slopes = [(later - earlier) / (j - i) for (i, earlier), (j, later) in pairs]
    return statistics.median(slopes) * (len(values) - 1) if slopes else 0.0


def _tell(sample: dict[str, Any], progress: Progress) -> None:
    workers = " ".join(f"{size:.1f}" for size in sample["worker_mb"])
    progress.line(
        f"{sample['second']:5} s {sample['per_second']:10,.0f} /s   p50 {sample['p50']:6.2f} ms"
        f"   p99 {sample['p99']:6.2f} ms   workers {workers} MB   {sample['errors']} errors"
    )
    progress.step()
