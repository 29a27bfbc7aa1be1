"""Whether the database has what this release calls. It is compared at start-up, so that a server
that cannot work says so instead of answering 500."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from server.gateway import functions
from server.gateway.call import Function, parameter
from server.gateway.items import ITEM_TYPES, LIST_CALLS

# The functions that the caller's role may call; see compare_with_database.
KNOWN_FUNCTIONS = (
    "SELECT p.proname::text AS name, coalesce(p.proargnames, '{}') || ARRAY("
    "SELECT a.attname::text FROM pg_catalog.pg_attribute AS a"
    " INNER JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid"
    " WHERE c.reltype = p.prorettype AND c.relkind = 'c') AS names,"
    " has_function_privilege(p.oid, 'EXECUTE') AS allowed"
    " FROM pg_catalog.pg_proc AS p"
    " INNER JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace"
    " WHERE n.nspname = 'billing'"
)
KNOWN_TYPES = (
    "SELECT c.relname::text AS name, array_agg(a.attname::text ORDER BY a.attnum) AS fields"
    " FROM pg_catalog.pg_class AS c"
    " INNER JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
    " INNER JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0"
    " WHERE n.nspname = 'billing' AND c.relkind = 'c' AND NOT a.attisdropped"
    " GROUP BY c.relname"
)


class SchemaMismatch(Exception):
    """The database lacks something that this release calls; `faults` says what."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def compare_with_database(
    known_functions: Sequence[Mapping[str, Any]],
    known_types: Sequence[Mapping[str, Any]],
    fields: Mapping[str, Sequence[str]],
) -> None:
    """Raises SchemaMismatch unless the role may call everything that this release calls, with the
    arguments and columns it uses (the rows of KNOWN_FUNCTIONS say so), and unless items have these
    `fields`, by the type's name (the rows of KNOWN_TYPES)."""
    faults = [*_function_faults(known_functions, fields), *_type_faults(known_types, fields)]
    if faults:
        raise SchemaMismatch(faults)


def _function_faults(
    rows: Sequence[Mapping[str, Any]], fields: Mapping[str, Sequence[str]]
) -> list[str]:
    known = {row["name"]: row for row in rows}
    faults = []
    for name, wanted in _needed(fields).items():
        row = known.get(name)
        if row is None:
            faults.append(f"billing.{name} does not exist")
            continue
        if not row["allowed"]:
            faults.append(f"billing.{name} may not be called by this role")
        missing = [each for each in wanted if each not in row["names"]]
        if missing:
            faults.append(f"billing.{name} lacks {', '.join(missing)}")
    return faults


def _needed(fields: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The arguments and columns that this release uses, by the function's name."""
    needed = {
        each.name: [*map(parameter, each.arguments), *each.columns]
        for each in vars(functions).values()
        if isinstance(each, Function)
    }
    for call in LIST_CALLS:
        needed[call.function] = [*map(parameter, call.arguments), *call.columns]
    for item in ITEM_TYPES:
        if item.single is None:
            continue
        needed[item.single] = [*map(parameter, fields[item.name]), "p_only_plain"]
    return needed


def _type_faults(
    rows: Sequence[Mapping[str, Any]], fields: Mapping[str, Sequence[str]]
) -> list[str]:
    found = {row["name"]: row["fields"] for row in rows}
    return [
        f"billing.{item.name} is not {', '.join(fields[item.name])}"
        for item in ITEM_TYPES
        if found.get(item.name) != list(fields[item.name])
    ]
