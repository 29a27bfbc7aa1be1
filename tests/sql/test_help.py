"""billing.help(): functions by task, found by the words that people use; all about one by its
name. Its parts stand once: tasks, words and arguments in sql/topics.sql, the rest in the comments
of sql/."""

from __future__ import annotations

import os
import subprocess

import pytest

from server.embedded import find_binaries
from tests.sql.catalogue import DBA, EVERYBODY, FUNCTIONS, VIEWS
from tests.sql.helpers import Caller, session
from tests.sql.manual import MANUAL, example, manual, write_manual
from tests.support import Database

COLUMNS = 100
TASKS = [
    "find", "use", "give", "correct", "people", "pay", "prove", "keys", "staff", "set up", "alert",
    "watch", "maintain", "serve",
]  # fmt: skip


def names(caller: Caller, *words: str) -> list[str]:
    """What the words find."""
    found = caller.rows("help", search=" ".join(words)) if words else caller.rows("help")
    return [row["name"].removeprefix("billing.") for row in found]


def details(caller: Caller, name: str) -> dict[str, dict[str, str]]:
    """Section -> name -> description of help about one thing."""
    told: dict[str, dict[str, str]] = {}
    for row in caller.rows("help", search=name):
        told.setdefault(row["section"], {})[row["name"]] = row["description"]
    return told


def test_the_manual_is_made_of_the_comments_in_sql() -> None:
    if os.environ.get("GOLDEN_UPDATE") == "1":
        write_manual()
    assert MANUAL.read_text(encoding="utf-8") == manual()


def test_every_function_and_view_has_one_task_and_words_and_no_other_thing_has(
    module_database: Database,
) -> None:
    rows = module_database.execute("SELECT t.name, t.task, t.words FROM billing_data.topics() AS t")
    assert sorted(row[0] for row in rows) == sorted((*FUNCTIONS, *VIEWS))
    assert list(dict.fromkeys(row[1] for row in rows)) == TASKS
    assert all(row[2] for row in rows)


def test_every_argument_has_a_meaning_and_every_meaning_an_argument(
    module_database: Database,
) -> None:
    silent = module_database.execute("""
        SELECT p.proname, a.argument
        FROM pg_proc AS p
        CROSS JOIN LATERAL unnest(p.proargnames[:p.pronargs]) AS a (argument)
        WHERE p.pronamespace = 'billing'::regnamespace
            AND has_function_privilege('billing_dba', p.oid, 'EXECUTE')
            AND NOT EXISTS (
                SELECT FROM billing_data.argument_meanings() AS m
                WHERE coalesce(m.function_name, p.proname) = p.proname
                    AND coalesce(m.argument, a.argument) = a.argument
            )
    """)
    assert silent == []
    idle = module_database.execute("""
        SELECT m.function_name, m.argument
        FROM billing_data.argument_meanings() AS m
        WHERE NOT EXISTS (
            SELECT FROM pg_proc AS p
            WHERE p.pronamespace = 'billing'::regnamespace
                AND p.proname = coalesce(m.function_name, p.proname)
                AND coalesce(m.argument, p.proargnames[1]) = ANY (p.proargnames[:p.pronargs])
        )
    """)
    assert idle == []


def test_help_lists_what_a_login_may_use_by_task_and_nothing_else(
    module_database: Database, dba: Caller
) -> None:
    may = {name for name, (roles, _) in FUNCTIONS.items() if roles >= DBA} | set(VIEWS)
    assert set(names(dba)) == may
    assert [row["section"] for row in dba.rows("help")] == sorted(
        (row["section"] for row in dba.rows("help")), key=TASKS.index
    )
    with session(module_database, "t_analyst") as analyst:
        views = {name for name, roles in VIEWS.items() if "billing_analyst" in roles}
        functions = {name for name, (roles, _) in FUNCTIONS.items() if roles == EVERYBODY}
        assert set(names(analyst)) == views | functions


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("grant", "adjust_credits"),
        ("REFUND", "create_credit"),
        ("why denied", "list_checks"),
        ("denied", "explain_denial"),
        ("csv", "grant_credits"),
        ("reverse", "reverse_charge"),
        ("consent", "withdraw_consent"),
        ("export", "export_personal_data"),
        ("erase", "erase_personal_data"),
        ("statement month", "statement"),
        ("cron", "maintenance"),
        ("balance", "get_account"),
        ("find e-mail", "list_accounts"),
        ("rotate", "rotate_api_key"),
        ("suspend", "set_account_status"),
        ("lock", "get_account_holders"),
        ("who wrote", "list_audit_log"),
        ("retention", "drop_check_partitions"),
        ("books agree", "verify_ledger"),
        ("chargeback", "list_payment_problems"),
        ("stripe", "find_purchase"),
    ],
)
def test_the_words_of_people_find_something(dba: Caller, words: str, wanted: str) -> None:
    assert wanted in names(dba, words)


def test_words_that_fit_nothing_find_nothing_and_no_sign_is_special(dba: Caller) -> None:
    assert names(dba, "grant", "frobnicate") == []
    assert names(dba, "%_%") == []
    assert names(dba, "  ") == names(dba)
    assert dba.rows("help", search=None) == dba.rows("help")


def test_details_name_arguments_refusals_results_and_an_example(dba: Caller) -> None:
    for spelled in ("adjust_credits", "billing.adjust_credits", " Adjust_Credits(uuid, bigint)"):
        told = details(dba, spelled)
        assert next(iter(told)) == "what"
        amount = told["argument"]["p_amount"]
        assert amount.startswith("bigint, default NULL: credits")
        assert told["argument"]["p_idempotency_key"].startswith("text, default NULL: ")
        assert told["refuses"]["insufficient_credits"].startswith("PB402: ")
        assert "Locks: the accounts, in id order" in told["effects"][""]
        assert told["returns"]["replayed"] == "boolean"
        assert told["example"][""] == example("adjust_credits")
    assert details(dba, "ledger")["column"]["paid_with"] == "text"
    assert "t_dba may not" in details(dba, "get_session")["may use"]["you"].replace("\n", " ")
    assert "may use" not in details(dba, "adjust_credits")


def test_every_function_that_a_dba_may_call_has_its_arguments_and_example_in_help(
    module_database: Database, dba: Caller
) -> None:
    for name, (roles, _) in FUNCTIONS.items():
        if roles >= DBA:
            told = details(dba, name)
            arguments = module_database.value(
                "SELECT coalesce(p.proargnames[:p.pronargs], '{}') FROM pg_proc AS p"
                " WHERE p.pronamespace = 'billing'::regnamespace AND p.proname = %s",
                name,
            )
            assert list(told.get("argument", {})) == arguments, name
            assert f"billing.{name}(" in told["example"][""]


def test_help_fits_in_a_window_of_100_columns(module_database: Database) -> None:
    # \gexec prints each function's help as psql does.
    script = (
        "SELECT * FROM billing.help();\n"
        "SELECT format('SELECT * FROM billing.help(%L)', h.name) FROM billing.help() AS h \\gexec\n"
    )
    done = subprocess.run(
        [find_binaries(18) / "psql", "-X", "-q", module_database.dsn("t_dba")],
        input=script, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) > 1000
    wide = [line for line in lines if len(line) > COLUMNS]
    # A value of JSON in an example has no place to break.
    assert [line for line in wide if "jsonb_populate_record" not in line] == []
