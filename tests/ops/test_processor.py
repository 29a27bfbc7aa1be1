"""Whether the server notices that it shares its processors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from server.gateway.processor import Processor
from tests.support import clean_environment

# Computes for a while on one processor, together with two other programs.
_COMPUTE = r"""
import os, subprocess, sys, time
from server.gateway.processor import Processor

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
others = [
    subprocess.Popen([sys.executable, "-c", "import time\nwhile time.process_time() < 20: pass"])
    for _ in range(2)
]
try:
    processor = Processor()
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        pass
    print(processor.is_shared())
finally:
    for other in others:
        other.kill()
        other.wait()
"""


def test_a_processor_that_others_compute_on_is_shared(tree: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", _COMPUTE],
        env={**clean_environment(), "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert told.stdout.strip() == "True", told.stderr


@pytest.mark.parametrize(
    ("waited", "shared"), [(0, False), (250_000_000, False), (250_000_001, True)]
)
def test_it_is_shared_beyond_a_quarter_of_the_time(
    waited: int, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = tmp_path / "schedstat"
    counts.write_text("5000000000 9000000000 77\n")
    monkeypatch.setattr("server.gateway.processor._INTERVAL", 60.0)
    processor = Processor(counts)
    counts.write_text(f"6000000000 {9_000_000_000 + waited} 99\n")
    assert not processor.is_shared()  # it has not looked yet
    monkeypatch.setattr("server.gateway.processor._INTERVAL", 0.0)
    assert processor.is_shared() is shared


def test_where_nothing_is_counted_it_is_not_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.gateway.processor._INTERVAL", 0.0)
    assert not Processor(tmp_path / "absent").is_shared()
