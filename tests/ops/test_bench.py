"""The benchmark's machinery, not its figures: `python -m bench` in its smallest form."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psycopg
import pytest

from bench import load, report, soak
from bench.cluster import Stage
from bench.data import Contents, fill
from bench.goals import Goal
from bench.rounds import summary
from tests.support import Database, Key, Service, running_service

ACCOUNTS = 50


@pytest.fixture(scope="module", autouse=True)
def _wrk() -> None:
    if shutil.which("wrk") is None:
        pytest.skip("wrk is not installed")


@pytest.fixture(scope="module")
def filled_database(module_database: Database) -> Database:
    """As after a year of service, in small."""
    with psycopg.connect(module_database.dsn(), autocommit=True) as connection:
        fill(connection, Contents(ACCOUNTS, 6))
    return module_database


@pytest.fixture(scope="module")
def bench_service(filled_database: Database) -> Any:
    with running_service(filled_database) as service:
        yield service


def stage(service: Service) -> Stage:
    return Stage(service.database, service, ACCOUNTS, "k")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tree: Path) -> tuple[Path, str]:
    """The results of one run and what it printed."""
    output = tmp_path_factory.mktemp("bench") / "results.json"
    options = ["--only", "replay", "--rounds", "1", "--seconds", "1", "--accounts", "100"]
    ended = subprocess.run(
        [sys.executable, "-m", "bench", *options, "--workers", "1", "--output", output],
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return output, ended.stdout


def test_a_run_measures_each_load_and_ends_well(run: tuple[Path, str]) -> None:
    document = json.loads(run[0].read_text())
    results = {one["id"]: one for one in document["results"]}
    assert set(results) == {
        "replay/HTTP replay 64",
        "replay/HTTP charge 64",
    }
    for one in results.values():
        assert one["per_second"] > 0
        assert 0 < one["p50"] <= one["p95"] <= one["p99"]
        assert one["errors"] == 0
        assert one["cores"]["postgres"] > 0
    assert set(results["replay/HTTP replay 64"]["statuses"]) == {"409"}
    assert set(results["replay/HTTP charge 64"]["statuses"]) == {"201"}
    assert results["replay/HTTP charge 64"]["wal_bytes"] > 100
    assert document["wrong_books"] == 0
    assert document["settings"]["fsync"] == document["settings"]["synchronous_commit"] == "on"


def test_a_run_prints_a_table_and_the_figures_to_reach(run: tuple[Path, str]) -> None:
    lines = run[1].splitlines()
    assert any(line.startswith("replay: HTTP replay 64 ") for line in lines)
    (goal,) = (line for line in lines if line.startswith("replayed charges : new charges "))
    assert goal.endswith("reached")
    assert "the books agree" in lines


def test_the_report_writes_the_figures_and_the_chart(
    run: tuple[Path, str], tree: Path, tmp_path: Path
) -> None:
    shutil.copy(tree / "docs" / "performance.md", tmp_path)
    report.write([run[0]], tmp_path)
    page = (tmp_path / "performance.md").read_text()
    assert "| replay: HTTP replay 64 | " in page
    assert "| checks, 64 connections : pgbench | at least 0.65 | - | not measured |" in page
    assert (
        page.split(report.BEGIN)[0]
        == (tree / "docs/performance.md").read_text().split(report.BEGIN)[0]
    )
    drawn = ElementTree.parse(tmp_path / "performance.svg").getroot()
    words = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "replayed charges : new charges" in words


@pytest.mark.parametrize(("charges", "left"), [(0, "5"), (6, "1 + k % 97")])
def test_what_the_generator_makes_agrees_with_the_ledgers_rules(
    database: Database, charges: int, left: str
) -> None:
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        fill(connection, Contents(ACCOUNTS, charges, left, for_console=True))
    assert database.value("SELECT count(*) FROM billing_data.charges") == ACCOUNTS * charges
    assert database.execute("SELECT * FROM billing.verify_ledger()") == []


@pytest.mark.parametrize("kind", ["soak", "batch", "history"])
def test_each_kind_of_load_is_answered_as_it_expects(bench_service: Service, kind: str) -> None:
    taken = load.wrk(stage(bench_service), kind, 4, 1)
    assert taken.requests > 0
    assert taken.errors == 0, taken.statuses
    assert set(taken.statuses) == {str(status) for status in load.EXPECTED[kind]}


def test_a_proxys_interaction_is_charged_once(bench_service: Service) -> None:
    taken = load.wrk(stage(bench_service), "mixed", 4, 1)
    assert taken.errors == 0, taken.statuses
    assert taken.statuses["409"] > 5 * taken.statuses["201"]


def test_the_lone_call_charges_as_the_server_does(bench_service: Service) -> None:
    newest = (
        "SELECT count(*), count(api_key_id), count(request_fingerprint)"
        " FROM billing_data.charges WHERE idempotency_key LIKE 'alone-%%'"
    )
    taken = load.asyncpg_alone(stage(bench_service), "charge", 1)
    assert bench_service.database.execute(newest, user="postgres") == [(taken.requests,) * 3]


def test_wrong_answers_are_errors_and_fail_the_run(bench_service: Service) -> None:
    wrong = Service(
        bench_service.database,
        bench_service.process,
        bench_service.base_url,
        Key(bench_service.key.id, "cbk_test_" + "0" * 43, bench_service.key.prefix),
    )
    taken = load.wrk(stage(wrong), "charge", 2, 1)
    assert taken.errors >= taken.requests > 0
    result = {"errors": summary("charge", [taken]).errors}
    assert report.failures({"wrong_books": 0, "results": [result]}) > 0
    assert report.failures({"wrong_books": 1, "results": []}) > 0


def test_refused_items_of_a_batch_are_errors(bench_service: Service) -> None:
    nobody = Stage(bench_service.database, bench_service, ACCOUNTS * 1000, "k")
    taken = load.wrk(nobody, "batch", 1, 1)
    assert set(taken.statuses) == {"200"}
    assert taken.errors > 0


@pytest.mark.parametrize(
    ("at_most", "value", "reached"),
    [(False, 2.0, True), (False, 1.9, False), (True, 2.0, True), (True, 2.1, False)],
)
def test_a_goal_is_reached_at_its_bound(at_most: bool, value: float, reached: bool) -> None:
    goal = Goal("a", 2.0, "a", ("b", "c"), at_most=at_most)
    results = {"a": {"per_second": 10 * value}, "b": {"per_second": 5}, "c": {"per_second": 10}}
    assert goal.value(results) == pytest.approx(value)
    assert goal.reached(results) is reached
    assert goal.reached({"a": {"per_second": 1}}) is None


def test_the_soak_tells_growth_from_noise() -> None:
    def sample(second: int, size: float, p50: float) -> dict[str, Any]:
        return {"second": second, "worker_mb": [80.0, size], "p50": p50}

    flat = [sample(n, 90 + n % 2, 5 + n % 3) for n in range(40)]
    judged = soak.judged(flat)
    assert judged["soak/memory"] == {"worker_mb": 91, "growth_mb": pytest.approx(0, abs=0.1)}
    assert judged["soak/latency"]["drift"] == pytest.approx(1, abs=0.1)
    growing = soak.judged([sample(n, 90 + n, 5 + n / 10) for n in range(40)])
    assert growing["soak/memory"]["growth_mb"] == pytest.approx(19)
    assert growing["soak/latency"]["drift"] > 1.4
