"""Fixtures: one PostgreSQL 18 cluster for each process of the run, a cloned database per test or
per module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import hypothesis
import pytest

from tests import run
from tests.support import Database, Service, TestCluster, running_service, temporary_cluster

hypothesis.settings.register_profile("default", print_blob=True, deadline=None)
hypothesis.settings.register_profile("torture", print_blob=True, deadline=None, max_examples=500)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_configure(config: pytest.Config) -> None:
    """The first process of the run begins the run; the workers of xdist join it."""
    if not hasattr(config, "workerinput"):
        config.add_cleanup(run.begin())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files in an order in which the processes of the run are never all waiting: one file
    of tests/ops or tests/browser, where programs start and stop, then one of the others, where
    PostgreSQL computes."""
    waiting: dict[Path, list[pytest.Item]] = {}
    computing: dict[Path, list[pytest.Item]] = {}
    for item in items:
        waits = {"ops", "browser"} & set(item.path.parts)
        (waiting if waits else computing).setdefault(item.path, []).append(item)
    none: list[pytest.Item] = []
    files = zip_longest(waiting.values(), computing.values(), fillvalue=none)
    items[:] = [item for pair in files for file in pair for item in file]


@pytest.fixture(scope="session")
def cluster() -> Iterator[TestCluster]:
    """PostgreSQL 18 with a migrated template database."""
    with temporary_cluster(18) as cluster:
        yield cluster


@pytest.fixture
def database(cluster: TestCluster) -> Iterator[Database]:
    """A migrated database for one test."""
    with cluster.database() as database:
        yield database


@pytest.fixture(scope="module")
def module_database(cluster: TestCluster) -> Iterator[Database]:
    """A migrated database shared by the tests of one module."""
    with cluster.database() as database:
        yield database


@pytest.fixture(scope="module")
def service(module_database: Database) -> Iterator[Service]:
    """A running server shared by the tests of one module."""
    with running_service(module_database) as service:
        yield service


@pytest.fixture(scope="session")
def tree() -> Path:
    """The project's root."""
    return Path(__file__).resolve().parent.parent
