"""Compares the schema as a whole with a committed dump: an unexplained difference fails.

`GOLDEN_UPDATE=1 pytest tests/sql/test_golden_schema.py` accepts an intended difference, which is
then reviewed as a part of the commit."""

from __future__ import annotations

import os

import pytest

from tests.sql.golden import GOLDEN, assert_golden, dump
from tests.support import Database, TestCluster


def test_the_schema_is_the_golden_one(module_database: Database) -> None:
    if os.environ.get("GOLDEN_UPDATE") == "1":
        GOLDEN.write_text(dump(module_database), encoding="utf-8")
    assert_golden(module_database)


@pytest.mark.parametrize("version", [16, 15])
def test_the_schema_is_the_golden_one_on_older_versions_too(
    request: pytest.FixtureRequest, version: int
) -> None:
    cluster: TestCluster = request.getfixturevalue(f"cluster_{version}")
    with cluster.database() as database:
        assert_golden(database)
