"""No process and no folder of a test run outlives the run, however it ends."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.browser.conftest import want_chromium
from tests.support import Process, wait_for

# It starts a cluster, a server and a browser, prints their process ids, and then waits to be ended.
WAITING = """
import json, os, pathlib, signal

def test_it_waits(service, browser):
    browser.new_page().goto(f"{service.base_url}/health")
    said = pathlib.Path(__file__).with_name("said")
    said.write_text(json.dumps({
        "worker": os.getpid(),
        "folder": os.environ["BILLING_TEST_RUN"],
        "cluster": str(service.database.cluster.cluster.directory),
    }))
    said.rename(said.with_name("waits"))
    signal.pause()
"""


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("options", "victim", "number"),
    [
        ((), "pytest", signal.SIGTERM),
        (("-n", "1"), "pytest", signal.SIGTERM),
        (("-n", "1"), "pytest", signal.SIGKILL),
        (("-n", "1"), "worker", signal.SIGTERM),
    ],
    ids=["alone", "with a worker", "killed", "its worker"],
)
def test_nothing_is_left_behind_by_a_run_that_is_ended(
    tree: Path, tmp_path: Path, options: tuple[str, ...], victim: str, number: signal.Signals
) -> None:
    want_chromium()
    (tmp_path / "test_waiting.py").write_text(WAITING)
    plugins = ("-p", "tests.conftest", "-p", "tests.browser.conftest")
    command = (sys.executable, "-m", "pytest", "-c", tree / "setup.cfg", *plugins, *options)
    run = Process([str(part) for part in (*command, tmp_path)], cwd=tree).start()
    try:

        def waits() -> Any:
            assert run.process.poll() is None, run.output
            found = tmp_path / "waits"
            return json.loads(found.read_text()) if found.exists() else None

        said = wait_for(waits, "the test to wait", 120)
        folder = Path(said["folder"])
        assert Path(said["cluster"]).is_relative_to(folder)
        postmaster = Path(said["cluster"], "pg", "postmaster.pid").read_text().split()[0]
        started = psutil.Process(run.process.pid).children(recursive=True)
        started += [psutil.Process(int(postmaster))]
        names = " ".join(process.name() for process in started)
        assert "postgres" in names
        assert "chromium" in names
        assert "ciris-billing" in names
        victims = {"pytest": run.process.pid, "worker": said["worker"]}
        psutil.Process(victims[victim]).send_signal(number)
        wait_for(lambda: not any(map(lives, started)), "all its processes to end", 60)
        wait_for(lambda: not folder.exists(), "the run's folder to go")
    finally:
        run.stop(signal.SIGKILL)
