"""The migration steps this release knows. Apart from what runs them, whose packages a server does
without."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from server.resources import resource_folder


@cache
def latest_step() -> str:
    """The newest step this release knows; a database at it or beyond is fit to serve."""
    return max(file.stem for file in step_files())


def step_files() -> list[Path]:
    return [
        file
        for file in resource_folder("migrations").glob("*.sql")
        if not file.name.endswith(".rollback.sql")
    ]
