"""plpgsql_check analyses every function as a compiler would: dead code, wrong types, unknown
names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Database, TestCluster

# Lists with filters. Their query is composed at run time, so that the index of each filter can
# serve.
DYNAMIC = (
    "billing.list_accounts", "billing.list_audit_log", "billing.list_payment_events",
    "billing.count_audit_log", "billing.count_payment_events",
    "billing.list_purchases", "billing.total_purchases", "billing_data.search_accounts",
)  # fmt: skip
# Lists whose conditions another function composes, as their counts have the same ones. It cannot
# see that these texts are all constants; a test below does.
FILTERED = (
    "billing.list_audit_log", "billing.count_audit_log",
    "billing.list_payment_events", "billing.count_payment_events",
)  # fmt: skip
LIBRARY = Path("/usr/lib/postgresql/15/lib/plpgsql_check.so")

pytestmark = pytest.mark.skipif(
    not LIBRARY.exists() and os.environ.get("CI") != "true",
    reason="Debian's postgresql-15-plpgsql-check is not installed",
)


@pytest.fixture(scope="module")
def checked(cluster_15: TestCluster) -> Iterator[Database]:
    """A database with the extension, on the version for which Debian packages it."""
    with cluster_15.database() as database:
        database.execute("CREATE EXTENSION plpgsql_check WITH SCHEMA public")
        yield database


_FUNCTIONS = """
    SELECT p.oid, coalesce(t.tgrelid, 0)::oid AS relation, p.oid::regprocedure::text AS name
    FROM pg_proc AS p
    INNER JOIN pg_language AS l ON l.oid = p.prolang
    LEFT JOIN pg_trigger AS t ON t.tgfoid = p.oid
    WHERE p.pronamespace IN ('billing'::regnamespace, 'billing_data'::regnamespace)
        AND l.lanname = 'plpgsql'
"""


def test_plpgsql_check_finds_nothing_in_any_function(checked: Database) -> None:
    rows = checked.execute(f"""
        SELECT f.name, f.relation::regclass::text, c.*
        FROM ({_FUNCTIONS}) AS f
        CROSS JOIN LATERAL public.plpgsql_check_function(
            f.oid, f.relation, fatal_errors => false, other_warnings => true,
            extra_warnings => true, performance_warnings => false,
            security_warnings => split_part(f.name, '(', 1) <> ALL (%s)
        ) AS c
    """, list(FILTERED))  # fmt: skip
    dynamic = [
        row[0]
        for row in checked.execute(
            f"SELECT f.name FROM ({_FUNCTIONS}) AS f INNER JOIN pg_proc AS p ON p.oid = f.oid"
            " WHERE p.prosrc ~ 'RETURN QUERY EXECUTE'"
        )
    ]
    assert sorted(name.split("(")[0] for name in dynamic) == sorted(DYNAMIC)
    # It cannot check a query that is composed at run time; the tests of these functions do.
    unseen = re.compile(
        r'extra:00000:OUT variable "\w+" is maybe unmodified|^Detail: cannot to det'
    )
    found = [row for row in rows if not (row[0] in dynamic and unseen.search(row[2]))]
    assert found == []


@pytest.mark.parametrize(
    ("call", "texts"),
    [
        ("audit_filter(%s, %s, %s, '2026-01-01', '2026-01-02', gen_random_uuid())", 3),
        ("payment_event_filter(%s, %s, '2026-01-01', '2026-01-02')", 2),
    ],
)
def test_the_conditions_of_a_list_have_no_text_of_its_caller(
    checked: Database, call: str, texts: int
) -> None:
    harmless, hostile = (
        checked.value(f"SELECT billing_data.{call}", *[text] * texts)
        for text in ("a", "' OR true; --")
    )
    assert hostile == harmless
    assert harmless.count("$") >= texts


def test_every_plpgsql_function_is_looked_at_and_each_trigger_function_with_its_tables(
    checked: Database,
) -> None:
    rows = checked.execute(_FUNCTIONS)
    names = {row[2] for row in rows}
    callable_ = checked.value(
        "SELECT count(*) FROM pg_proc AS p INNER JOIN pg_language AS l ON l.oid = p.prolang"
        " WHERE p.pronamespace::regnamespace::text LIKE 'billing%' AND l.lanname = 'plpgsql'"
    )
    assert len(names) == callable_
    tables = [row[1] for row in rows if row[2] == "billing_data.refuse_change()"]
    assert len(tables) == 18
    assert all(tables)


def test_plpgsql_check_would_find_a_fault(checked: Database) -> None:
    checked.execute(
        "CREATE FUNCTION public.faulty() RETURNS integer LANGUAGE plpgsql AS $$"
        " BEGIN RETURN (SELECT a.no_such_column FROM billing_data.accounts AS a); END $$"
    )
    assert checked.execute("SELECT public.plpgsql_check_function('public.faulty()')")
    checked.execute("DROP FUNCTION public.faulty()")
