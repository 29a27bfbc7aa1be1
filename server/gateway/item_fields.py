"""The fields of the composite types for lists of items, read from sql/items.sql."""

from __future__ import annotations

import re
from functools import cache

from server.resources import resource_folder


def fields_of(kind: str) -> tuple[str, ...]:
    """The fields of `kind` (charge_outcome ...), in the order of its newest version."""
    return tuple(name for _, name in _lines()[kind])


def newest(name: str, kind: str) -> str:
    """The name of a type, or of a function that takes it, for the newest version of `kind`."""
    version = max(since for since, _ in _lines()[kind])
    return name if version == 1 else f"{name}_{version}"


@cache
def _lines() -> dict[str, list[tuple[int, str]]]:
    text = (resource_folder("sql") / "items.sql").read_text(encoding="utf-8")
    kinds: dict[str, list[tuple[int, str]]] = {}
    for kind, since, name in re.findall(r"^ +\('(\w+)', (\d+), '(\w+)', '", text, re.MULTILINE):
        kinds.setdefault(kind, []).append((int(since), name))
    return kinds
