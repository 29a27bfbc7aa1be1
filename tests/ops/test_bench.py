"""The mechanics of the benchmark, not its figures: `python -m bench` in its smallest form."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx2
import psycopg
import pytest

from bench import load, report, soak, thin
from bench.cluster import Stage
from bench.data import Contents, fill
from bench.goals import Goal
from tests.support import Database, Process, Service, running_service

ACCOUNTS = 50
Thin = tuple[str, list[int]]  # its URL and process ids
CONTENTS = Contents(ACCOUNTS, 6)


@pytest.fixture(scope="module")
def filled_database(module_database: Database) -> Database:
    """A small version of a year of service."""
    with psycopg.connect(module_database.dsn(), autocommit=True) as connection:
        fill(connection, CONTENTS)
    thin.make(module_database, CONTENTS)
    return module_database


@pytest.fixture(scope="module")
def bench_service(filled_database: Database) -> Any:
    with running_service(filled_database) as service:
        yield service


def stage(service: Service) -> Stage:
    return Stage(service.database, service, ACCOUNTS, "k")


@pytest.fixture(scope="module")
def thin_service(bench_service: Service) -> Iterator[Thin]:
    """Two processes of the thin service."""
    key = bench_service.key.secret
    with thin.running_thin(bench_service.database, key, workers=2) as running:
        yield running


@dataclass
class Run:
    """A run of the benchmark beside the tests, which read its result at the end."""

    process: Process
    output: Path

    def ended(self) -> int:
        """Its exit code."""
        return self.process.process.wait(120)

    @property
    def document(self) -> Any:
        return json.loads(self.output.read_text())


def start_run(tree: Path, folder: Path, *options: str) -> Run:
    output = folder / "results.json"
    small = ["--rounds", "1", "--seconds", "1", "--accounts", "100", "--workers", "1"]
    command = [sys.executable, "-m", "bench", *options, *small, "--output", str(output)]
    return Run(Process(command, cwd=tree).start(), output)


@pytest.fixture(scope="module", autouse=True)
def runs(tmp_path_factory: pytest.TempPathFactory, tree: Path) -> Iterator[tuple[Run, ...]]:
    """Three runs: one as it should be, one whose key is wrong, and one of growth."""
    if shutil.which("wrk") is None and os.environ.get("CI") != "true":
        pytest.skip("wrk is not installed")
    folders = [tmp_path_factory.mktemp(name) for name in ("good", "wrong", "growth")]
    good = start_run(tree, folders[0], "--only", "replay")
    wrong = start_run(tree, folders[1], "--only", "history", "--wrong-key")
    growth = start_run(tree, folders[2], "growth", "--small-accounts", "50", "--ledger", "1000")
    yield good, wrong, growth
    for one in (good, wrong, growth):
        one.process.stop(timeout=60)


@pytest.fixture(scope="module")
def good_run(runs: tuple[Run, ...]) -> Run:
    """The run that succeeded."""
    assert runs[0].ended() == 0, runs[0].process.output[-3000:]
    return runs[0]


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


@pytest.mark.parametrize("kind", ["check", "charge"])
def test_the_thin_service_writes_what_it_answers(
    bench_service: Service, thin_service: Thin, kind: str
) -> None:
    before = thin.written(bench_service.database, kind)
    taken = load.wrk_thin(stage(bench_service), thin_service, kind, 8, 1)
    assert taken.errors == 0
    assert thin.written(bench_service.database, kind) - before >= taken.requests > 0
    assert taken.usage.cpu_seconds["thin"] > 0
    assert thin.wrong_books(bench_service.database) == 0


@pytest.mark.parametrize(("kind", "users"), [("check", None), ("charge", None), ("charge", 1)])
def test_pgbench_on_the_plain_functions_writes_what_it_counts(
    bench_service: Service, kind: str, users: int | None
) -> None:
    before = thin.written(bench_service.database, kind)
    taken = load.pgbench_plain(stage(bench_service), kind, 4, 1, users=users)
    assert taken.errors == 0
    assert thin.written(bench_service.database, kind) - before == taken.requests > 0
    assert thin.wrong_books(bench_service.database) == 0


def test_calls_that_write_nothing_are_errors_of_the_plain_functions(
    bench_service: Service, thin_service: Thin
) -> None:
    nobody = Stage(bench_service.database, bench_service, ACCOUNTS * 1000, "k")
    assert load.pgbench_plain(nobody, "charge", 1, 1).errors > 0
    assert load.wrk_thin(nobody, thin_service, "charge", 1, 1).errors > 0


def test_the_thin_service_answers_as_the_real_one_does(
    bench_service: Service, thin_service: Thin
) -> None:
    database = bench_service.database
    database.execute(
        "INSERT INTO thin.accounts (oauth_provider, external_id, credits_given, paid_credits,"
        " free_uses_remaining) VALUES ('oauth:google', 'three uses', 2, 2, 1)"
    )
    headers = {"X-API-Key": bench_service.key.secret}
    user = {"oauth_provider": "oauth:google", "external_id": "three uses"}
    charge = {"amount_minor": 1, "currency": "USD", "description": "Message interaction"}
    with httpx2.Client(base_url=thin_service[0], headers=headers, verify=False) as client:

        def post(path: str, **body: Any) -> tuple[int, Any]:
            answer = client.post(f"/v1/billing/{path}", json=user | body)
            return answer.status_code, answer.json()

        def pay(key: str | None, **body: Any) -> tuple[int, int | None]:
            status, told = post("charges", **charge, **body, idempotency_key=key)
            return status, told.get("balance_after")

        assert post("credits/check")[1]["free_uses_remaining"] == 1
        assert [pay("a"), pay("b"), pay("a"), pay(None)] == [
            (201, 2),
            (201, 1),
            (409, None),
            (201, 0),
        ]
        assert [pay("b"), pay("c"), pay("d", external_id="nobody")] == [
            (409, None),
            (402, None),
            (404, None),
        ]
        status, told = post("credits/check")
        assert (status, told["has_credit"], told["total_uses"]) == (200, False, 3)
        assert post("credits/check", external_id="")[0] == 422
        assert post("charges", **(charge | {"amount_minor": 0}))[0] == 422
        client.headers["X-API-Key"] = "another"
        assert post("credits/check")[0] == 401
    assert thin.wrong_books(database) == 0


def test_a_batch_of_the_thin_service_charges_as_its_single_function_does(
    bench_service: Service,
) -> None:
    database = bench_service.database
    items = [
        ("twice", 1, "k1"),
        ("plain", 3, "k1"),
        ("twice", 1, "k1"),  # a repeated key
        ("nobody", 1, "k1"),
        ("plain", 1, None),
        ("short", 2, "k1"),
        ("short", 2, "k2"),
        ("short", 2, "k3"),  # a charge for which too few credits are left
        ("closed", 1, "k1"),
    ]

    def accounts(name: str) -> None:
        for user in ("twice", "plain", "short", "closed"):
            database.execute(
                "INSERT INTO thin.accounts (oauth_provider, external_id, status, credits_given,"
                " paid_credits, free_uses_remaining) VALUES (%s, %s, %s, 3, 3, 1)",
                *(name, user, "closed" if user == "closed" else "active"),
            )

    accounts("single")
    accounts("batch")
    one_by_one = [
        database.execute(
            "SELECT outcome, balance_after FROM thin.charge('single', %s, %s, 'd', %s)", *item
        )[0]
        for item in items
    ]
    users, amounts, keys = map(list, zip(*items, strict=True))
    together = database.execute(
        "SELECT outcome, balance_after FROM thin.charge_batch(%s, %s, %s::bigint[], %s, %s)",
        *(["batch"] * len(items), users, amounts, ["d"] * len(items), keys),
    )
    assert together == one_by_one
    assert [outcome for outcome, _ in together] == [
        *("created", "created", "duplicate", "not_found", "created"),
        *("created", "created", "insufficient", "not_active"),
    ]
    assert thin.wrong_books(database) == 0


def test_the_books_of_the_yardstick_are_checked(bench_service: Service) -> None:
    database = bench_service.database
    paid = "UPDATE thin.accounts SET paid_credits = paid_credits + %s WHERE external_id = 'user-7'"
    database.execute(paid, 1)
    try:
        assert thin.wrong_books(database) == 1
    finally:
        database.execute(paid, -1)


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
    results: dict[str, dict[str, Any]] = {
        "a": {"per_second": 10 * value},
        "b": {"per_second": 5},
        "c": {"per_second": 10},
    }
    assert goal.value(results) == pytest.approx(value)
    assert goal.reached(results) is reached
    assert goal.reached({"a": {"per_second": 1}}) is None


def test_a_ratio_of_rates_is_also_given_by_processor_time() -> None:
    def load(rate: float, **cpu_us: float) -> dict[str, Any]:
        return {"per_second": rate, "p50": 1, "cpu_us": cpu_us}

    results = {
        "ours": load(10, postgres=60, workers=140, generator=20, others=900),
        "slow": load(5, postgres=500, generator=10),
        "best": load(20, postgres=40, thin=60, generator=30, others=10),
    }
    goal = Goal("a", 1.0, "ours", ("slow", "best"))
    assert goal.by_processor_time(results) == pytest.approx(0.5)
    assert Goal("a", 1.0, "ours", ("best",), field="p50").by_processor_time(results) is None
    assert goal.by_processor_time({}) is None


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


def test_a_run_measures_each_load_and_ends_well(good_run: Run) -> None:
    document = good_run.document
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
        assert one["cpu_us"]["workers"] > one["cpu_us"]["generator"] > 0
    assert set(results["replay/HTTP replay 64"]["statuses"]) == {"409"}
    assert set(results["replay/HTTP charge 64"]["statuses"]) == {"201"}
    assert results["replay/HTTP charge 64"]["wal_bytes"] > 100
    assert document["wrong_books"] == 0
    assert document["settings"]["fsync"] == document["settings"]["synchronous_commit"] == "on"


def test_a_run_prints_a_table_and_the_figures_to_reach(good_run: Run) -> None:
    lines = good_run.process.output.splitlines()
    assert any(line.startswith("replay: HTTP replay 64 ") for line in lines)
    (goal,) = (line for line in lines if line.startswith("replayed charges : new charges "))
    assert goal.endswith("reached")
    assert "the books agree" in lines


def test_the_report_writes_the_figures_and_the_chart(
    good_run: Run, tree: Path, tmp_path: Path
) -> None:
    shutil.copy(tree / "docs" / "performance.md", tmp_path)
    report.write([good_run.output], tmp_path)
    page = (tmp_path / "performance.md").read_text()
    assert "| replay: HTTP replay 64 | " in page
    assert "| checks, 64 connections : pgbench | at least 0.65 | - | - | not measured |" in page
    assert (
        page.split(report.BEGIN)[0]
        == (tree / "docs/performance.md").read_text().split(report.BEGIN)[0]
    )
    drawn = ElementTree.parse(tmp_path / "performance.svg").getroot()
    words = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "replayed charges : new charges" in words


def test_a_run_that_is_answered_wrongly_ends_with_1(runs: tuple[Run, ...]) -> None:
    assert runs[1].ended() == 1, runs[1].process.output[-3000:]
    (result,) = runs[1].document["results"]
    assert "401" in result["statuses"]
    assert "200" not in result["statuses"]
    assert result["errors"] > 0


def test_growth_tells_what_the_log_of_a_charge_consists_of(
    runs: tuple[Run, ...], tree: Path, tmp_path: Path
) -> None:
    assert runs[2].ended() == 0, runs[2].process.output[-3000:]
    document = runs[2].document
    assert document["settings"]["max_wal_size"] == "8GB"
    results = {one["id"]: one for one in document["results"]}
    for size, written in document["wal"].items():
        relations = written["relations"]
        assert set(relations) > {"accounts", "charges", "charges_idempotency"}
        assert sum(one["bytes"] for one in relations.values()) == pytest.approx(written["bytes"])
        assert relations["charges"]["bytes"] > 100
        assert relations["accounts"]["pages"] > 0  # the rounds begin with a checkpoint
        assert 0 < written["page_bytes"] < written["bytes"]
        last = results[f"growth/{size} charge 64"]["wal_bytes"]
        assert written["rounds"][-1] == pytest.approx(last, rel=0.2)
    shutil.copy(tree / "docs" / "performance.md", tmp_path)
    report.write([runs[2].output], tmp_path)
    assert "| large: charges_idempotency | " in (tmp_path / "performance.md").read_text()


def test_growth_tells_how_many_pages_a_request_asks_for(runs: tuple[Run, ...]) -> None:
    """Each counter is the database's own. A charge asks for more than a refused one; a database of
    this size fits into the buffers whole, so hardly anything is read."""
    assert runs[2].ended() == 0, runs[2].process.output[-3000:]
    pages = runs[2].document["pages"]
    assert set(pages) == {
        f"{size} {kind} 64"
        for size in ("small", "large")
        for kind in ("check", "charge", "replay", "history10")
    }
    for size in ("small", "large"):
        assert 1 < pages[f"{size} replay 64"]["found"] < pages[f"{size} charge 64"]["found"] < 200
        assert pages[f"{size} replay 64"]["read"] < 1


def test_books_that_do_not_agree_fail_a_run() -> None:
    assert report.failures({"wrong_books": 1, "results": [{"errors": 0}]}) == 1
    assert report.failures({"wrong_books": 0, "results": [{"errors": 0}]}) == 0
