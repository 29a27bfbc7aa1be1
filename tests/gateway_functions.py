"""Makes server/gateway/functions.py from a migrated database: the functions that server/ calls,
with the arguments and columns of the catalogue. `make golden` writes it."""

from __future__ import annotations

import keyword
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.support import Database

MODULE = Path("server") / "gateway" / "functions.py"
_HEADING = '''"""The functions of schema billing that server/ calls, made from the catalogue.

Written by `make golden`; not to be edited. What a function does: \\\\df+ billing.*, or sql/."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from uuid import UUID

from server.gateway.call import function
'''
_CATALOGUE = """
    SELECT
        p.proname::text AS name,
        coalesce(p.proargnames[:p.pronargs], '{}') AS arguments,
        ARRAY(
            SELECT format_type(a.type, NULL)
            FROM unnest(p.proargtypes) WITH ORDINALITY AS a (type, place) ORDER BY a.place
        ) AS types,
        ARRAY(
            SELECT pg_get_function_arg_default(p.oid, a.place)
            FROM generate_series(1, p.pronargs) AS a (place) ORDER BY a.place
        ) AS defaults,
        ARRAY(
            SELECT o.name FROM unnest(p.proargnames, p.proargmodes) WITH ORDINALITY
                AS o (name, mode, place)
            WHERE o.mode = 't' ORDER BY o.place
        ) || ARRAY(
            SELECT a.attname::text FROM pg_attribute AS a
            INNER JOIN pg_class AS c ON c.oid = a.attrelid
            WHERE c.reltype = p.prorettype AND a.attnum > 0 AND NOT a.attisdropped
            ORDER BY a.attnum
        ) AS columns
    FROM pg_proc AS p
    WHERE p.pronamespace = 'billing'::regnamespace AND p.proname = ANY (%s)
    ORDER BY p.proname
"""
# The Python type that a call returns for each SQL type.
_TYPES = {
    "bigint": "int",
    "boolean": "bool",
    "bytea": "bytes",
    "date": "date",
    "inet": "str",
    "integer": "int",
    "jsonb": "str",
    "text": "str",
    "timestamp with time zone": "datetime",
    "uuid": "UUID",
}


def _called(tree: Path) -> list[str]:
    """The functions that a module of server/ names."""
    modules = (tree / "server").rglob("*.py")
    names = (
        re.findall(r"\bfunctions\.([a-z_0-9]+)", module.read_text(encoding="utf-8"))
        for module in modules
        if module != tree / MODULE
    )
    return sorted({name for found in names for name in found} - {"py"})


def _type(name: str) -> str:
    element = name.removesuffix("[]")
    return f"Sequence[{_TYPES[element]} | None]" if name != element else _TYPES[element]


def _argument(name: str, kind: str, default: str | None) -> str:
    plain = name.removeprefix("p_")
    plain = f"{plain}_" if keyword.iskeyword(plain) else plain
    if default is None:
        return f"{plain}: {_type(kind)}"
    may_be_null = " | None" if default.startswith("NULL") else ""
    return f"{plain}: {_type(kind)}{may_be_null} = ..."


def _definition(row: Mapping[str, Any]) -> str:
    arguments = [
        _argument(*argument)
        for argument in zip(row["arguments"], row["types"], row["defaults"], strict=True)
    ]
    signature = f"*, {', '.join(arguments)}" if arguments else ""
    lines, line = [], ""
    for column in row["columns"]:
        if len(line) + len(column) > 88:
            lines.append(line)
            line = ""
        line += f"{column} "
    columns = "\n    ".join(f'"{part}"' for part in (*lines, line.rstrip()) if part)
    columns = f"\n    {columns}\n" if lines else columns
    return f"\n\n@function({columns})\ndef {row['name']}({signature}) -> None: ...\n"


def _rows(database: Database, names: list[str]) -> list[dict[str, Any]]:
    with psycopg.connect(database.dsn(), row_factory=dict_row) as connection:
        return connection.execute(_CATALOGUE, (names,)).fetchall()


def functions_module(database: Database, tree: Path) -> str:
    """The module's text for the code in `tree`."""
    names = _called(tree)
    rows = _rows(database, names)
    assert [row["name"] for row in rows] == names
    text = _HEADING + "".join(_definition(row) for row in rows)
    return subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(MODULE), "-"],
        input=text,
        cwd=tree,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
