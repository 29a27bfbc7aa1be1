"""What the database's own catalogue says about schema billing and the tables behind it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.sql.alerts import listening, old_delivery
from tests.sql.catalogue import (
    DBA,
    EVERYBODY,
    FUNCTIONS,
    HEADERS,
    SQL,
    VIEWS,
    WEB,
    runnable_example,
)
from tests.sql.helpers import Caller, charge_all, new_user, person, session
from tests.sql.payments import (
    attach,
    begin,
    bought,
)
from tests.support import Database

# Names from before the rule <table>_<rule>; the old service's tables have them.
LEGACY_NAMES = {
    "ck_account_status",
    "ck_balance_non_negative",
    "ck_free_uses_non_negative",
    "ck_paid_credits_non_negative",
    "ck_total_uses_non_negative",
    "ck_charge_amount_positive",
    "fk_charges_account",
    "ck_credit_balance_consistency",
    "ck_transaction_type",
    "fk_credits_account",
    "ck_api_keys_environment",
    "ck_api_keys_status",
    "ck_admin_users_role",
    "uq_admin_users_google_id",
    "idx_admin_users_email",
    "idx_admin_users_google_id",
    "idx_admin_users_role",
    "idx_admin_audit_logs_action",
    "idx_admin_audit_logs_admin_user_id",
    "idx_admin_audit_logs_created_at",
    "idx_admin_audit_logs_resource_type_resource_id",
}


# With '' no unqualified name is found. Listing pg_temp last also keeps temporary types out.
SAFE_SEARCH_PATHS = {'search_path=""', "search_path=pg_catalog, pg_temp"}


@pytest.fixture(scope="module")
def functions(module_database: Database) -> list[dict[str, Any]]:
    with session(module_database, "postgres") as root:
        return root.execute("""
            SELECT
                n.nspname AS schema, p.proname AS name, p.prosecdef AS definer,
                p.proowner::regrole::text AS owner, p.proconfig AS config,
                p.prosqlbody IS NOT NULL AS is_resolved,
                p.proisstrict AS is_strict, p.provolatile AS volatility,
                p.prorettype = 'trigger'::regtype AS is_trigger,
                obj_description(p.oid, 'pg_proc') AS comment,
                coalesce((
                    SELECT array_agg(CASE a.grantee WHEN 0 THEN 'PUBLIC'
                        ELSE a.grantee::regrole::text END)
                    FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
                    WHERE a.grantee <> p.proowner
                ), '{}') AS granted_to
            FROM pg_proc AS p
            INNER JOIN pg_namespace AS n ON n.oid = p.pronamespace
            WHERE n.nspname IN ('billing', 'billing_data')
            ORDER BY 1, 2
        """)


@pytest.fixture(scope="module")
def relations(module_database: Database) -> list[dict[str, Any]]:
    with session(module_database, "postgres") as root:
        return root.execute("""
            SELECT
                n.nspname AS schema, c.relname AS name, c.relkind AS kind,
                c.relowner::regrole::text AS owner,
                obj_description(c.oid, 'pg_class') AS comment,
                coalesce((
                    SELECT jsonb_object_agg(g.role, g.rights) FROM (
                        SELECT
                            CASE a.grantee WHEN 0 THEN 'PUBLIC'
                                ELSE a.grantee::regrole::text END AS role,
                            array_agg(a.privilege_type ORDER BY 1) AS rights
                        FROM aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS a
                        WHERE a.grantee <> c.relowner
                        GROUP BY 1
                    ) AS g
                ), '{}') AS granted_to
            FROM pg_class AS c
            INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
            WHERE n.nspname IN ('billing', 'billing_data') AND c.relkind NOT IN ('i', 'I', 't')
            ORDER BY 1, 2
        """)


def _callable(functions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [function for function in functions if function["schema"] == "billing"]


def test_the_functions_of_schema_billing_are_the_ones_listed_here_and_none_is_overloaded(
    functions: list[dict[str, Any]],
) -> None:
    assert [function["name"] for function in _callable(functions)] == sorted(FUNCTIONS)


def test_every_function_of_schema_billing_runs_as_the_owner_and_may_be_called_with_null(
    functions: list[dict[str, Any]],
) -> None:
    for function in _callable(functions):
        assert function["definer"], function["name"]
        assert not function["is_strict"], function["name"]


def test_every_function_of_both_schemas_is_owned_by_billing_owner(
    functions: list[dict[str, Any]],
) -> None:
    assert {function["owner"] for function in functions} == {"billing_owner"}


def test_every_function_of_both_schemas_has_a_pinned_search_path(
    functions: list[dict[str, Any]],
) -> None:
    for function in functions:
        # The names in a body of standard SQL were resolved when the function was created. Only
        # helpers may omit search_path; what runs with the owner's rights must pin it all the same.
        if not (function["is_resolved"] and not function["definer"]):
            assert SAFE_SEARCH_PATHS & set(function["config"] or ()), function["name"]


def test_reading_functions_are_stable_and_writing_ones_volatile(
    functions: list[dict[str, Any]],
) -> None:
    found = {function["name"]: function["volatility"] for function in _callable(functions)}
    assert found == {name: volatility for name, (_, volatility) in FUNCTIONS.items()}


def test_every_function_says_its_volatility_in_its_definition() -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in sorted(SQL.glob("*.sql")))
    definitions = re.findall(
        r"^CREATE OR REPLACE FUNCTION (\w+\.\w+)(.*?)^(?:AS \$|BEGIN ATOMIC|RETURN )",
        text,
        re.MULTILINE | re.DOTALL,
    )
    assert len(definitions) > len(FUNCTIONS)
    silent = [
        name
        for name, head in definitions
        if "RETURNS trigger" not in head and not re.search(r"\b(STABLE|VOLATILE|IMMUTABLE)\b", head)
    ]
    assert silent == []


def test_every_function_is_granted_to_exactly_its_audiences(
    functions: list[dict[str, Any]],
) -> None:
    found = {function["name"]: set(function["granted_to"]) for function in _callable(functions)}
    assert found == {name: audiences for name, (audiences, _) in FUNCTIONS.items()}


def test_every_comment_names_exactly_the_audiences_of_its_function(
    functions: list[dict[str, Any]],
) -> None:
    for function in _callable(functions):
        comment = function["comment"]
        assert comment, function["name"]
        effect, _, audience = comment.rpartition(" For ")
        assert effect.endswith("."), comment
        named = set(re.findall(r"billing_\w+", audience))
        if "everybody with a billing role" in audience:
            named = EVERYBODY
        assert named == FUNCTIONS[function["name"]][0], comment


def test_helpers_and_trigger_functions_are_granted_to_nobody_and_have_a_comment(
    functions: list[dict[str, Any]],
) -> None:
    helpers = [function for function in functions if function["schema"] == "billing_data"]
    assert len(helpers) > 5
    for helper in helpers:
        assert helper["granted_to"] == [], helper["name"]
        assert helper["comment"], helper["name"]
        assert not helper["definer"], helper["name"]
        expected = "Trigger: " if helper["is_trigger"] else "Helper."
        assert expected in helper["comment"], helper["name"]


def test_no_helper_has_the_name_of_a_public_function_but_for_its_ending(
    functions: list[dict[str, Any]],
) -> None:
    public = {function["name"] for function in functions if function["schema"] == "billing"}
    helpers = {function["name"] for function in functions if function["schema"] == "billing_data"}
    alike = [
        (helper, name)
        for helper in helpers
        for name in public
        if helper == name or _stem(helper) == _stem(name)
    ]
    assert alike == []


def _stem(name: str) -> str:
    return re.sub(r"(s|_once|_all|_one|_[0-9]+)$", "", name)


def test_the_map_names_every_file_once_and_says_what_is_in_it() -> None:
    lines = (SQL / "load.sql").read_text(encoding="utf-8").splitlines()
    placed = [
        (lines[at - 1], line[4:]) for at, line in enumerate(lines) if line.startswith("\\ir ")
    ]
    assert sorted(name for _, name in placed) == sorted(
        file.name for file in SQL.glob("*.sql") if file.name != "load.sql"
    )
    assert [name for said, name in placed if not re.match(r"--   \w", said)] == []


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_billing_dba_may_call_every_function_but_the_web_tiers_own(
    module_database: Database, name: str
) -> None:
    executable = module_database.execute(
        "SELECT has_function_privilege('billing_dba', p.oid, 'EXECUTE') FROM pg_proc AS p"
        " WHERE p.pronamespace = 'billing'::regnamespace AND p.proname = %s",
        name,
    )
    assert executable == [(FUNCTIONS[name][0] != WEB,)]


def test_every_callable_function_has_a_header_comment_with_an_example() -> None:
    assert sorted(HEADERS) == sorted(FUNCTIONS)
    without = [name for name, header in HEADERS.items() if "Example" not in header]
    assert without == []


def test_every_table_and_view_is_owned_by_billing_owner(relations: list[dict[str, Any]]) -> None:
    assert len(relations) > len(VIEWS)
    assert {relation["owner"] for relation in relations} == {"billing_owner"}


def test_nobody_but_the_dbas_has_a_right_on_a_table_and_they_may_only_read(
    relations: list[dict[str, Any]],
) -> None:
    tables = [relation for relation in relations if relation["kind"] in ("r", "p")]
    assert {table["schema"] for table in tables} == {"billing_data"}
    granted = {table["name"]: table["granted_to"] for table in tables}
    assert all(rights in ({}, {"billing_dba": ["SELECT"]}) for rights in granted.values()), granted


def test_the_views_are_read_by_their_audiences_and_written_by_nobody(
    relations: list[dict[str, Any]],
) -> None:
    views = [relation for relation in relations if relation["kind"] == "v"]
    assert {view["schema"] for view in views} == {"billing"}
    assert {view["name"]: view["granted_to"] for view in views} == {
        name: {role: ["SELECT"] for role in roles} for name, roles in VIEWS.items()
    }
    assert all(view["comment"] for view in views)


def test_nothing_but_tables_views_and_the_types_of_items_lies_in_the_two_schemas(
    relations: list[dict[str, Any]],
) -> None:
    assert {relation["kind"] for relation in relations} == {"r", "p", "v", "c"}
    types = {relation["name"] for relation in relations if relation["kind"] == "c"}
    items = {
        "capture_item", "charge_item", "charge_outcome", "check_item", "check_outcome",
        "hold_item", "hold_outcome",
    }  # fmt: skip
    assert types == {"actor", "cap_request", "capped_item"} | items


def test_only_the_three_audiences_may_enter_the_schemas(module_database: Database) -> None:
    rows = module_database.execute("""
        SELECT n.nspname, a.grantee::regrole::text, a.privilege_type
        FROM pg_namespace AS n CROSS JOIN LATERAL aclexplode(n.nspacl) AS a
        WHERE n.nspname IN ('billing', 'billing_data') AND a.grantee <> n.nspowner
        ORDER BY 1, 2
    """)
    assert rows == [
        ("billing", "billing_analyst", "USAGE"),
        ("billing", "billing_dba", "USAGE"),
        ("billing", "billing_server", "USAGE"),
        ("billing_data", "billing_dba", "USAGE"),
    ]


def test_a_function_made_later_is_not_executable_by_everybody(database: Database) -> None:
    database.execute(
        "SET ROLE billing_owner; CREATE FUNCTION billing.later() RETURNS integer"
        " LANGUAGE sql RETURN 1"
    )
    granted = database.execute(
        "SELECT has_function_privilege(r.name, 'billing.later()', 'EXECUTE')"
        " FROM unnest(ARRAY['t_web', 't_dba', 't_analyst']) AS r (name)"
    )
    assert granted == [(False,)] * 3


def test_the_roles_are_made_without_login_and_without_any_power(module_database: Database) -> None:
    rows = module_database.execute("""
        SELECT r.rolname, r.rolcanlogin, r.rolsuper, r.rolcreaterole, r.rolcreatedb, r.rolbypassrls
        FROM pg_roles AS r WHERE r.rolname LIKE 'billing%' ORDER BY 1
    """)
    assert rows == [
        (role, False, False, False, False, False)
        for role in ("billing_analyst", "billing_dba", "billing_owner", "billing_server")
    ]


def test_constraints_and_indexes_are_named_after_their_table(module_database: Database) -> None:
    rows = module_database.execute("""
        SELECT c.conrelid::regclass::text, c.conname
        FROM pg_constraint AS c
        WHERE c.connamespace = 'billing_data'::regnamespace AND c.contype <> 'n'
        UNION
        SELECT i.indrelid::regclass::text, x.relname
        FROM pg_index AS i INNER JOIN pg_class AS x ON x.oid = i.indexrelid
        WHERE x.relnamespace = 'billing_data'::regnamespace
    """)
    assert len(rows) > len(LEGACY_NAMES)
    odd = {
        name
        for table, name in rows
        if not name.startswith(f"{table.removeprefix('billing_data.')}_")
    }
    assert odd <= LEGACY_NAMES, odd - LEGACY_NAMES
    assert odd >= LEGACY_NAMES, "LEGACY_NAMES lists names that are gone"


def test_what_changes_with_every_charge_carries_no_index_and_its_page_leaves_room(
    module_database: Database,
) -> None:
    # The columns in an expression or a condition of an index count as well.
    indexed = {
        row[0]
        for row in module_database.execute("""
            SELECT a.attname FROM pg_index AS i
            INNER JOIN pg_attribute AS a ON a.attrelid = i.indrelid
            WHERE i.indrelid = 'billing_data.accounts'::regclass AND (
                a.attnum = ANY (i.indkey) OR EXISTS (
                    SELECT FROM pg_depend AS d
                    WHERE d.objid = i.indexrelid AND d.refobjid = i.indrelid
                        AND d.refobjsubid = a.attnum
                )
            )
        """)
    }
    identity = {"id", "oauth_provider", "external_id", "customer_email"}
    assert indexed == identity | {"balance_minor", "created_at", "status"}
    options = module_database.value(
        "SELECT reloptions FROM pg_class WHERE oid = 'billing_data.accounts'::regclass"
    )
    assert "fillfactor=75" in options


def test_help_lists_every_function_and_view_with_what_it_does(database: Database) -> None:
    with session(database, "postgres") as root:
        rows = root.rows("help")
    names = [f"billing.{name}" for name in (*FUNCTIONS, *VIEWS)]
    assert sorted(row["name"] for row in rows) == sorted(names)
    assert all(row["description"] for row in rows)


def test_help_finds_by_a_word_of_the_name_or_of_the_effect(dba: Caller) -> None:
    assert [row["name"] for row in dba.rows("help", search="verify")] == ["billing.verify_ledger"]
    by_effect = [row["name"] for row in dba.rows("help", search="GRACE and nothing")]
    assert by_effect == []
    assert "billing.create_charge" in [row["name"] for row in dba.rows("help", search="FREE uses")]


def test_the_errors_view_lists_each_slug_once_and_its_sqlstate_is_its_http_status(
    dba: Caller,
) -> None:
    rows = dba.execute("SELECT * FROM billing.errors")
    assert len({row["slug"] for row in rows}) == len(rows)
    for row in rows:
        assert row["sqlstate"] == f"PB{row['http_status']}"
        assert row["message"], row["slug"]
        assert row["hint"], row["slug"]


def test_every_slug_the_functions_raise_is_in_the_errors_view(dba: Caller) -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in sorted(SQL.glob("*.sql")))
    raised = set(re.findall(r"raise_error\(\s*'(\w+)'", text))
    assert len(raised) > 5
    assert raised <= {row["slug"] for row in dba.execute("SELECT e.slug FROM billing.errors AS e")}


@pytest.mark.parametrize("name", sorted(HEADERS))
def test_the_example_in_a_functions_header_works_as_it_stands(
    database: Database, name: str
) -> None:
    with runnable_example(database, name) as (caller, statement):
        if ", ...)" in statement:  # too many arguments to show: the shown ones must exist
            told = caller.rows("help", search=name)
            shown = set(re.findall(r"\b(p_\w+) =>", statement))
            assert shown
            assert shown <= {row["name"] for row in told if row["section"] == "argument"}
            return
        assert "..." not in statement
        if name == "require_api_key":
            with session(database, "t_dba") as dba:
                assert dba.refused(statement).slug == "actor_not_allowed"
        cursor = caller.connection.execute(statement.encode())
        assert cursor.description
        assert f"billing.{name}(" in statement


# --- who did it ----------------------------------------------------------------------------------

# Functions by which a DBA may change something without a row in the audit log, and why.
NOT_AUDITED = {
    "begin_purchase": "purchases.database_role says who, and nothing is credited",
    "begin_verification": "verification_runs.started_by says who",
    "continue_verification": "it keeps what it found, and changes nothing",
    "capture_hold": "the charge's database_role says who, or that of hold_changes",
    "capture_items": "the charge's database_role says who, or that of hold_changes",
    "charge_items": "charges.database_role says who",
    "charge_items_once": "it is done in the name of an API key only",
    "check_credit": "credit_checks.database_role says who",
    "check_items": "credit_checks.database_role says who",
    "check_credits": "credit_checks.database_role says who",
    "create_account": "it gives no more than the first check of anybody does",
    "create_charge": "charges.database_role says who",
    "create_charges": "charges.database_role says who",
    "create_charges_once": "it is done in the name of an API key only",
    "create_hold": "holds.database_role says who",
    "extend_hold": "hold_changes.database_role says who",
    "hold_items": "holds.database_role says who",
    "tidy_holds": "it books what is so by the clock",
    "check_and_hold": "credit_checks.database_role and holds.database_role say who",
    "settle_items_once": "only an API key has batches",
    "create_check_partitions": "it makes room for checks and changes none",
    "get_account_holders": "it changes nothing; it tries locks",
    "refresh_figures": "the figures follow from the ledger, every minute",
    "seal_entries": "what it seals follows from the ledger",
    "seed_settings": "the first deploy does it, once: settings.seeded_at",
    "try_writing": "it changes nothing",
}


def _change(database: Database, dba: Caller, name: str, example: str) -> str:
    """A call of the function that changes something: its example, or a similar one."""
    if name == "reset_free_uses":
        dba.row("create_charge", **person("1"))
    elif name == "set_admin":
        return example.replace("'viewer'", "'admin'")
    elif name == "set_admin_domain":
        return example.replace("example.com", "example.org")
    elif name == "settle_purchase":
        attach(dba, begin(dba, new_user(database)), "pi_1")
    elif name == "return_payment":
        return example.replace("'pi_1'", f"'{bought(database)[1]}'")
    elif name == "erase_personal_data":
        return example.replace("p_dry_run => true", "p_dry_run => false")
    elif name == "delete_refused_charges":
        charge_all(dba, [{**new_user(database, free=False), "amount_minor": 1}])
        database.execute(
            "UPDATE billing_data.refused_charges SET minute = '2020-01-01', first_at ="
            " '2020-01-01', last_at = '2020-01-01'"
        )
    elif name == "delete_deliveries":
        old_delivery(database, listening(database))
    elif name == "drop_check_partitions":
        database.execute(
            "INSERT INTO billing_data.credit_checks (id, oauth_provider, external_id, has_credit,"
            " created_at) VALUES (gen_random_uuid(), 'oauth:google', 'x', true, '2020-01-01')"
        )
    return example


@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for name, (audiences, volatility) in FUNCTIONS.items()
        if volatility == "v" and audiences >= DBA and name not in NOT_AUDITED
    ),
)
def test_what_a_dba_changes_leaves_an_audit_row_with_their_login(
    database: Database, name: str
) -> None:
    with runnable_example(database, name) as (caller, example):
        statement = _change(database, caller, name, example)
        before = database.value("SELECT count(*) FROM billing_data.admin_audit_logs")
        caller.connection.execute(statement.encode())
        rows = database.execute(
            "SELECT l.database_role, l.database_login FROM billing_data.admin_audit_logs AS l"
            " ORDER BY l.created_at OFFSET %s",
            before,
        )
    assert rows
    assert set(rows) == {("t_dba", "t_dba")}


def test_what_leaves_no_audit_row_is_callable_by_a_dba_and_writes() -> None:
    for name in NOT_AUDITED:
        audiences, volatility = FUNCTIONS[name]
        assert (audiences >= DBA, volatility) == (True, "v"), name


LONGEST_BODY = 120  # lines

# Function -> the lines of its body. No function may join these, and none of them may grow.
LONG_BODIES = {
    "capture_round": 136,
    "explain_denial": 135,
    "find_account_faults": 173,
    "find_guard_faults": 131,
    "list_open_doors": 177,
    "personal_data": 148,
    "process_payment_event": 158,
    "record_credit": 143,
    "set_grant_schedule": 157,
    "settle_payment": 131,
}
LISTS = {"argument_meanings", "manual", "topics"}  # they hold rows and decide nothing


def test_no_function_is_too_long_to_read(module_database: Database) -> None:
    with session(module_database, "postgres") as root:
        rows = root.execute("""
            SELECT p.proname AS name, regexp_count(
                coalesce(nullif(p.prosrc, ''), pg_get_functiondef(p.oid)), chr(10)
            ) AS lines
            FROM pg_proc AS p
            WHERE p.pronamespace IN ('billing'::regnamespace, 'billing_data'::regnamespace)
        """)
    lengths = {row["name"]: row["lines"] for row in rows if row["name"] not in LISTS}
    assert len(lengths) > 300
    too_long = {name: lines for name, lines in lengths.items() if lines > LONGEST_BODY}
    assert too_long.keys() == LONG_BODIES.keys()
    assert {name for name, lines in too_long.items() if lines > LONG_BODIES[name]} == set()
