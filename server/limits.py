"""Limits and forms of inputs. The lengths of texts are read from sql/limits.sql."""

from __future__ import annotations

import re
from functools import cache

from server.resources import resource_folder

CURRENCY_CODE = "[A-Z]{3}"  # as billing_data.require_currency (sql/errors.sql) requires it
INT64_MAX = 2**63 - 1  # the greatest value of PostgreSQL's bigint


def most(field: str = "") -> int:
    """The greatest length of a field in characters: its own in sql/limits.sql, or that of all
    others."""
    lengths = _lengths()
    return lengths.get(field, lengths[""])


@cache
def _lengths() -> dict[str, int]:
    text = (resource_folder("sql") / "limits.sql").read_text(encoding="utf-8")
    lines = re.findall(r"^    (?:WHEN '([^']+)' THEN|ELSE) (\d+)", text, re.MULTILINE)
    return {field: int(length) for field, length in lines}
