"""server/gateway/functions.py against the database.

A wanted difference is taken over by `make golden` and reviewed as a part of the commit. Nothing is
imported here that imports handlers: those want the functions that are not written yet."""

from __future__ import annotations

import os
from pathlib import Path

from tests.gateway_functions import MODULE, functions_module
from tests.support import Database


def test_the_gateways_functions_are_those_of_the_database(
    module_database: Database, tree: Path
) -> None:
    made = functions_module(module_database, tree)
    if os.environ.get("GOLDEN_UPDATE") == "1":
        (tree / MODULE).write_text(made, encoding="utf-8")
    assert (tree / MODULE).read_text(encoding="utf-8") == made
