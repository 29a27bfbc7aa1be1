"""Rows as CSV (RFC 4180, UTF-8) that a spreadsheet opens as it is meant: what a person typed is
never taken for a formula, and numbers stay numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

# What begins a formula, in the full width form of East Asian keyboards too.
_BEGINS_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_IS_SKIPPED = " \t\r\n\v\f\u00a0\u3000\ufeff"


def csv_lines(rows: Iterable[Sequence[Any]]) -> bytes:
    """Returns the rows as lines of CSV."""
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_MINIMAL, lineterminator="\r\n").writerows(
        [_cell(value) for value in row] for row in rows
    )
    return text.getvalue().encode(errors="replace")


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case Decimal():
            return f"{value:f}"
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case _:
            return harmless(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def harmless(text: str) -> str:
    """Returns a text that a spreadsheet treats as text: an apostrophe stands before what it would
    take for a formula, perhaps after white space, and before text that begins with a control
    character."""
    is_formula = text.lstrip(_IS_SKIPPED).startswith(_BEGINS_FORMULA)
    return f"'{text}" if is_formula or text.startswith(("\t", "\r", "\n")) else text
