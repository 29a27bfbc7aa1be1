"""The files that travel with the package: sql/, migrations/, templates/ and static/. In a wheel
they are inside the package, in a checkout beside it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource_folder(name: str) -> Path:
    """The folder `name` that travels with the package.

    Raises FileNotFoundError when the installation is incomplete."""
    for parent in (_PACKAGE, _PACKAGE.parent):
        folder = parent / name
        if folder.is_dir() and any(folder.iterdir()):
            return folder
    raise FileNotFoundError(f"{name}/ is missing from the installation at {_PACKAGE}")


def step_files() -> list[Path]:
    """The migration steps of this release, without their rollbacks."""
    return [
        file
        for file in resource_folder("migrations").glob("*.sql")
        if not file.name.endswith(".rollback.sql")
    ]


@cache
def latest_step() -> str:
    """The newest step that this release knows. A database at this step or a later one can be
    served."""
    return max(file.stem for file in step_files())
