"""How large what comes in may be. The lengths of texts are those of sql/limits.sql, which is read
here."""

from __future__ import annotations

import re
from functools import cache

from server.resources import resource_folder

INT64_MAX = 2**63 - 1  # PostgreSQL's bigint


def most(field: str = "") -> int:
    """How many characters a field may have: what sql/limits.sql says of it, or of all others."""
    lengths = _lengths()
    return lengths.get(field, lengths[""])


@cache
def _lengths() -> dict[str, int]:
    text = (resource_folder("sql") / "limits.sql").read_text(encoding="utf-8")
    lines = re.findall(r"^    (?:WHEN '([^']+)' THEN|ELSE) (\d+)", text, re.MULTILINE)
    return {field: int(length) for field, length in lines}
