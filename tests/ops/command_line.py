"""Runs of the command `ciris-billing`."""

from __future__ import annotations

import subprocess
from typing import Any

from tests.support import (
    BILLING,
    clean_environment,
)

SECRET = "correct-horse-battery-staple-0123456789"


def run(
    *arguments: str, environment: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    return subprocess.run(
        [BILLING, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**clean_environment(), **(environment or {})},
        stdin=subprocess.DEVNULL,
        timeout=60,
        **{"cwd": "/", **options},  # a folder where no `dev` runs
    )


def refused(done: subprocess.CompletedProcess[str], code: int) -> str:
    """What the command writes to standard error when it ends with this code; there must be no
    traceback."""
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
    return done.stderr
