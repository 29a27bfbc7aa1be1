"""What a rule says once: limits, payment providers and payment outcomes stand in one place of sql/,
and the rest asks there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.agent.models import AccountRequest
from server.limits import INT64_MAX, most
from server.payment_kinds import KINDS_WITHOUT_CODE, PROVIDER_KINDS
from server.payments.registry import all_providers
from tests.support import Database

REPOSITORY = Path(__file__).resolve().parents[2]


def lines(*patterns: str) -> Iterator[tuple[str, str]]:
    """Every line of code of these files, without comments, with where it stands."""
    for pattern in patterns:
        for path in sorted(REPOSITORY.glob(pattern)):
            comment = "--" if path.suffix == ".sql" else "#"
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                yield f"{path.relative_to(REPOSITORY)}:{number}", line.split(comment)[0]


@pytest.mark.parametrize(
    ("what", "pattern", "place"),
    [
        ("the greatest amount", r"9223372036854775807|2 ?\*\* ?63\b", "sql/limits.sql"),
        ("a text's limit", r"BETWEEN 1 AND (50|200|255|500|1000)\b", "sql/limits.sql"),
        ("a text's limit in its wording", r"1 to (%s|\d+) characters'", "sql/errors.sql"),
        ("a currency's form", r"\^\[A-Z\]\{3\}\$", "sql/errors.sql"),
        ("a reason's wording", "a reason is needed", "sql/errors.sql"),
    ],
)
def test_a_rule_of_sql_stands_in_one_file(what: str, pattern: str, place: str) -> None:
    found = {where for where, line in lines("sql/*.sql") if re.search(pattern, line)}
    assert {where.split(":")[0] for where in found} <= {place}, (what, sorted(found))


def test_python_takes_limits_from_one_module() -> None:
    patterns = (
        r"9223372036854775807|2 ?\*\* ?63\b",
        r"(max_length|maxLength\"?)\s*[=:]\s*(50|200|255|500|512)\b",
        r"\[\s*:\s*(50|200|255|500|512)\]",
    )
    found = [
        where
        for where, line in lines("server/**/*.py")
        if any(re.search(pattern, line) for pattern in patterns)
        and not where.startswith(("server/limits.py", "server/adopt/"))
    ]
    assert found == []


def test_python_and_the_database_have_the_same_limits(module_database: Database) -> None:
    for field in ("reason", "return_id", "payload", "whatever"):
        assert module_database.value("SELECT billing_data.most(%s)", field) == most(field)
    assert module_database.value("SELECT billing_data.max_amount()") == INT64_MAX


def test_no_function_names_a_payment_provider(module_database: Database) -> None:
    named = module_database.execute("""
        SELECT p.proname, k.kind
        FROM pg_proc AS p
        CROSS JOIN billing_data.payment_providers AS k
        WHERE p.pronamespace IN ('billing'::regnamespace, 'billing_data'::regnamespace)
            AND p.oid <> 'billing_data.manual()'::regprocedure  -- it repeats comments
            AND pg_get_functiondef(p.oid) LIKE '%''' || k.kind || '''%'
    """)
    assert named == []


def test_no_constraint_names_a_payment_provider(module_database: Database) -> None:
    named = module_database.execute("""
        SELECT c.conname
        FROM pg_constraint AS c
        CROSS JOIN billing_data.payment_providers AS k
        WHERE c.connamespace = 'billing_data'::regnamespace
            AND pg_get_constraintdef(c.oid) LIKE '%''' || k.kind || '''%'
    """)
    assert named == []


def test_every_table_with_a_payment_provider_refuses_one_that_has_no_row(
    module_database: Database,
) -> None:
    named = module_database.execute("""
        SELECT a.attrelid::regclass::text
        FROM pg_attribute AS a INNER JOIN pg_class AS c ON c.oid = a.attrelid
        WHERE c.relnamespace = 'billing_data'::regnamespace AND c.relkind = 'r'
            AND a.attname IN ('provider', 'provider_type')
            AND c.relname <> 'payment_return_credits'  -- it refers to a return
    """)
    held = module_database.execute("""
        SELECT c.conrelid::regclass::text
        FROM pg_constraint AS c
        WHERE c.confrelid = 'billing_data.payment_providers'::regclass AND c.convalidated
    """)
    assert sorted(named) == sorted(held)
    assert len(held) == 7


def test_only_its_folder_names_a_payment_provider() -> None:
    allowed = ("server/payments/", "server/payment_kinds.py", "server/adopt/", "server/cli/")
    found = [
        where
        for where, line in lines("server/**/*.py")
        for kind in PROVIDER_KINDS
        if re.search(rf"== ?[\"']{kind}[\"']|_type=[\"']{kind}[\"']", line)
        and not where.startswith(allowed)
    ]
    assert found == []


def test_every_payment_provider_of_python_is_as_its_row_says(module_database: Database) -> None:
    rows = module_database.execute(
        "SELECT p.kind, p.name, p.credential, p.public_settings, p.listed_settings"
        " FROM billing_data.payment_providers AS p ORDER BY p.place"
    )
    assert [row[0] for row in rows] == [*PROVIDER_KINDS, *KINDS_WITHOUT_CODE]
    for provider, row in zip(all_providers(), rows, strict=False):
        assert row == (
            provider.kind,
            provider.name,
            provider.credential,
            [setting.name for setting in provider.settings if setting.is_public],
            [setting.name for setting in provider.settings if setting.may_be_several],
        )


def test_the_list_of_payment_faults_stands_once(module_database: Database) -> None:
    """Beside it stands only what each outcome is called, fault or not."""
    allowed = module_database.value("""
        SELECT pg_get_constraintdef(c.oid) FROM pg_constraint AS c
        WHERE c.conname = 'payment_events_outcome'
    """)
    faults = [
        outcome
        for outcome in re.findall(r"'(\w+)'", allowed)
        if module_database.value("SELECT billing_data.is_payment_fault(%s)", outcome)
    ]
    assert len(faults) > 8
    listing = module_database.execute(
        "SELECT p.proname FROM pg_proc AS p"
        " WHERE p.pronamespace IN ('billing'::regnamespace, 'billing_data'::regnamespace)"
        " AND NOT EXISTS (SELECT FROM unnest(%s::text[]) AS f (name)"
        " WHERE strpos(pg_get_functiondef(p.oid), quote_literal(f.name)) = 0) ORDER BY p.proname",
        faults,
    )
    assert listing == [("is_payment_fault",), ("payment_outcome_words",)]


def test_there_is_one_default_currency(module_database: Database) -> None:
    """The signatures name it, for whoever reads them in psql (docs/design.md, "5. Functions")."""
    defaults = module_database.execute("""
        SELECT p.proname, m[1] AS code
        FROM pg_proc AS p
        CROSS JOIN LATERAL regexp_matches(
            pg_get_function_arguments(p.oid), 'p_currency text DEFAULT ''([A-Z]+)''', 'g'
        ) AS m
        WHERE p.pronamespace = 'billing'::regnamespace
        UNION ALL
        SELECT a.attname, (regexp_match(pg_get_expr(d.adbin, d.adrelid), '([A-Z]+)'))[1]
        FROM pg_attrdef AS d
        INNER JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
        WHERE d.adrelid IN ('billing_data.accounts'::regclass, 'billing_data.settings'::regclass)
            AND right(a.attname, 8) = 'currency'
        UNION ALL
        SELECT p.proname, (regexp_match(p.prosrc, '0, ''([A-Z]+)'',[[:space:]]+''free'''))[1]
        FROM pg_proc AS p
        WHERE p.pronamespace IN ('billing'::regnamespace, 'billing_data'::regnamespace)
            AND p.prosrc ~ '0, ''[A-Z]+'',[[:space:]]+''free'''
    """)
    assert len(defaults) == 10
    assert {code for _, code in defaults} == {AccountRequest.model_fields["currency"].default}
