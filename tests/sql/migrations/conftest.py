"""What the tests of migrations share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from server.migrate import (
    migrate,
)
from tests.sql.helpers import (
    Caller,
    session,
)
from tests.sql.migrations.helpers import (
    LEGACY,
    LEGACY_ROWS,
    OWN,
    SEED,
    applied_steps,
    apply_first,
    run_statements,
)
from tests.support import (
    Database,
    TestCluster,
)


@pytest.fixture(scope="module")
def taken_over(cluster: TestCluster) -> Iterator[Database]:
    """A database with rows as the old service left them at its ninth step, migrated to the
    present."""
    with cluster.database(template=None) as database:
        apply_first(database, len(LEGACY))
        assert applied_steps(database) == LEGACY
        run_statements(database.dsn(), LEGACY_ROWS)
        assert migrate(database.dsn(), SEED).applied == OWN
        yield database


@pytest.fixture
def history(taken_over: Database) -> Iterator[Caller]:
    with session(taken_over, "t_dba") as dba:
        yield dba
