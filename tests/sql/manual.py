"""Makes sql/manual.sql, from which help() tells details, of the header comments of the functions.
`make golden` writes it."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from tests.sql.catalogue import HEADERS, SQL

MANUAL = SQL / "manual.sql"
_WIDTH = 52  # of a line of help() in a window of 100 columns
_HEADING = """-- What the header comments of the functions say, so that help() can say it in psql.
-- Written by `make golden` from these comments; not to be edited.
CREATE OR REPLACE FUNCTION billing_data.manual()
RETURNS TABLE (name text, about text, effects text, example text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $manual$
    SELECT m.name, m.about, m.effects, m.example
    FROM (
        VALUES
"""
_END = """    ) AS m (name, about, effects, example);
$manual$;
COMMENT ON FUNCTION billing_data.manual IS
    'What the header comments of the functions say, for help(). Helper.';
"""
_EXAMPLE = re.compile(r"\bExample\b[^:]*:\s*(SELECT .*?;)", re.DOTALL)
_EFFECTS = re.compile(r"\b(?:Locks|Writes|Errors)(?:, \w+)?(?: and \w+)?: ")


def example(name: str) -> str:
    """The example in a function's header, an argument a line where one line is too short."""
    found = _EXAMPLE.search(HEADERS[name])
    assert found, f"the header of {name} has no example"
    line = re.sub(r"\s*\n\s*", " ", found[1]).replace("( ", "(")
    if len(line) <= _WIDTH:
        return line
    parts = re.split(r"(?<=\() ?(?=p_)|(?<=,) (?=p_\w+ =>)| (?=FROM )", line)
    lines = []
    for part in parts:
        indent = "    " if part.startswith("p_") else ""
        lines += textwrap.wrap(
            part, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False
        )
    return "\n".join(lines)


def manual() -> str:
    """The text of sql/manual.sql."""
    rows = ",\n".join(_row(name) for name in sorted(HEADERS))
    return _HEADING + rows + "\n" + _END


def _row(name: str) -> str:
    text = " ".join(re.split(r"\bExample\b[^:]*:", HEADERS[name])[0].split())
    effects = _EFFECTS.search(text)
    at = effects.start() if effects else len(text)
    fields = (_words(text[:at]), _words(text[at:]), example(name))
    return f"        ('{name}',\n" + ",\n".join(map(_literal, fields)) + ")"


def _words(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 90, break_long_words=False))


def _literal(text: str) -> str:
    assert "$t$" not in text
    return f"$t${text}$t$"


def write_manual(path: Path = MANUAL) -> None:
    """Writes the file anew."""
    path.write_text(manual(), encoding="utf-8")
