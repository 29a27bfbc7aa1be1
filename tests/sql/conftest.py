"""Sessions of the two audiences that call functions, and clusters of the other PostgreSQL
versions."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import sqlparse

from tests.sql.helpers import Caller, session
from tests.support import Database, TestCluster, temporary_cluster, want_postgresql

# yoyo reads all migrations again for every request, and splitting a file into statements takes
# longer than running them. The same text always has the same statements, so they are cached.
_split = functools.cache(sqlparse.split)


def _split_once(text: str) -> list[str]:
    return list(_split(text))


sqlparse.split = _split_once  # type: ignore[assignment]


@pytest.fixture(scope="module")
def dba(module_database: Database) -> Iterator[Caller]:
    """A DBA's session on the module's database."""
    with session(module_database, "t_dba") as caller:
        yield caller


@pytest.fixture(scope="module")
def web(module_database: Database) -> Iterator[Caller]:
    """The web tier's session on the module's database."""
    with session(module_database, "t_web") as caller:
        yield caller


# The examples of these functions name things that can exist only once.
_OWN_WORLD = {
    "begin_refund", "finish_refund", "list_refunds", "resolve_payment", "resolve_payment_event",
    "resolve_shortfall", "set_admin",
}  # fmt: skip


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Database:
    """The database in which a test calls the function `name`: the module's database, where that is
    enough."""
    name = request.node.callspec.params["name"]
    found: Database = request.getfixturevalue(
        "database" if name in _OWN_WORLD else "module_database"
    )
    return found


def _other_cluster(version: int) -> Iterator[TestCluster]:
    want_postgresql(version)
    with temporary_cluster(version) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def cluster_16() -> Iterator[TestCluster]:
    """PostgreSQL 16 with a migrated template database."""
    yield from _other_cluster(16)


@pytest.fixture(scope="session")
def cluster_15() -> Iterator[TestCluster]:
    """PostgreSQL 15, the oldest that is supported, with a migrated template database."""
    yield from _other_cluster(15)


@pytest.fixture(params=[18, 16, 15], ids=lambda version: f"pg{version}")
def any_cluster(request: pytest.FixtureRequest) -> TestCluster:
    """Each supported version that is installed, one after the other."""
    name = "cluster" if request.param == 18 else f"cluster_{request.param}"
    cluster: TestCluster = request.getfixturevalue(name)
    return cluster
