"""Finds the `ciris-billing dev` that runs in this folder, for other commands."""

from __future__ import annotations

import fcntl
import json
import sys
from collections.abc import MutableMapping
from pathlib import Path

DATA_DIRECTORY = Path(".data")
LOCK = "dev.lock"
FACTS = "dev.json"
SECRETS = ("ENCRYPTION_KEY", "ADMIN_JWT_SECRET")
_DATABASES = ("DATABASE_URL", "MIGRATION_DATABASE_URL")


def use_running_dev(environment: MutableMapping[str, str]) -> None:
    """Points a command to the database and the secrets of the `dev` that runs here, when the
    environment names no database. It prints that it does so, because nobody should change another
    database than they mean."""
    if any(environment.get(name) or environment.get(f"{name}_FILE") for name in _DATABASES):
        return
    found = find_running_dev()
    if found is None:
        return
    directory, facts = found
    print(f"ciris-billing: on the database of the `dev` in {directory}/", file=sys.stderr)
    environment["DATABASE_URL"] = facts["dsn"]
    for name in SECRETS:
        path = secret_file(directory, name)
        if not environment.get(name) and not environment.get(f"{name}_FILE") and path.exists():
            environment[f"{name}_FILE"] = str(path)
    if "stripe_api_base" in facts:
        environment.setdefault("STRIPE_API_BASE", facts["stripe_api_base"])


def find_running_dev() -> tuple[Path, dict[str, str]] | None:
    """The folder of a `dev` that serves in this folder or in .data/, and the contents of its
    dev.json."""
    for directory in (DATA_DIRECTORY, Path()):
        try:
            facts = json.loads((directory / FACTS).read_text(encoding="utf-8"))
            if _is_held(directory / LOCK) and facts["dsn"] and facts["base_url"]:
                return directory, facts
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def secret_file(directory: Path, name: str) -> Path:
    """The file in which `dev` keeps a secret that it made."""
    return directory / name.lower()


def _is_held(lock: Path) -> bool:
    # The dev.json of a killed dev is still there, but its lock is free.
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
