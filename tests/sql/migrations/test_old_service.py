"""A database of the old service that was taken over."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from server.migrate import (
    MigrationError,
    migrate,
    rollback,
)
from tests.sql.figures import assert_figures_right
from tests.sql.helpers import (
    Caller,
    account_of,
    charge_all,
    ledger_problems,
    outcomes,
    person,
    session,
)
from tests.sql.migrations.helpers import (
    LEGACY,
    LEGACY_ROWS,
    OWN,
    SEED,
    SOLD,
    STEPS,
    applied_steps,
    apply_first,
    run_migrate,
    run_statements,
)
from tests.sql.payments import (
    PRICE,
    begin,
    configure_provider,
    deliver,
    give_back,
)
from tests.sql.totals import assert_totals
from tests.support import (
    Database,
    TestCluster,
)

# --- the old service's databases -----------------------------------------------------------------


@pytest.mark.parametrize("action", ["migrate", "rollback", "the command line"])
def test_a_database_of_the_old_service_is_refused_untouched(
    cluster: TestCluster, action: str
) -> None:
    with cluster.database(template=None) as database:
        run_statements(
            database.dsn(),
            "CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)",
            "INSERT INTO alembic_version VALUES ('2025_10_21_0008')",
            "CREATE TABLE accounts (id uuid PRIMARY KEY)",
        )
        before = database.execute("SELECT c.oid, c.relname, c.xmin::text FROM pg_class AS c")
        if action == "the command line":
            done = run_migrate(database)
            assert done.returncode == 1
            message = done.stderr
        else:
            with pytest.raises(MigrationError) as caught:
                _ = migrate(database.dsn(), SEED) if action == "migrate" else rollback(
                    database.dsn(), 1
                )  # fmt: skip
            message = str(caught.value)
        assert "alembic_version" in message
        after = database.execute("SELECT c.oid, c.relname, c.xmin::text FROM pg_class AS c")
        assert after == before


ADA, BEN = person("ada"), person("ben")


CLEO = {"oauth_provider": "oauth:discord", "external_id": "cleo"}


def test_old_rows_get_versions_without_a_gap_by_time(taken_over: Database) -> None:
    rows = taken_over.execute("""
        SELECT a.external_id, a.ledger_version, array_agg(l.ledger_version ORDER BY l.created_at,
            l.ledger_version)
        FROM billing_data.accounts AS a LEFT JOIN billing.ledger AS l ON l.account_id = a.id
        WHERE a.oauth_provider = 'oauth:google' GROUP BY a.id, 1, 2 ORDER BY 1
    """)
    assert rows == [("ada", 6, [1, 2, 3, 4, 5, 6]), ("ben", 2, [1, 2])]
    assert taken_over.value(
        "SELECT a.ledger_version FROM billing_data.accounts AS a"
        " WHERE a.oauth_provider = 'oauth:x'"
    ) == 0  # fmt: skip


def test_old_charges_that_left_the_balance_alone_were_free(taken_over: Database) -> None:
    rows = taken_over.execute("""
        SELECT c.description, c.paid_with, c.database_role, c.free_uses_after, c.api_key_id
        FROM billing_data.charges AS c ORDER BY c.account_id, c.ledger_version
    """)
    assert rows == [
        ("charge 1", "free", "legacy", None, None),
        ("charge 2", "free", "legacy", None, None),
        ("charge 3", "free", "legacy", None, None),
        ("charge 4", "paid", "legacy", None, None),
        ("charge 5", "paid", "legacy", None, None),
        ("cents", "paid", "legacy", None, None),
        ("cents", "paid", "legacy", None, None),
    ]


def test_the_history_of_an_old_account_is_right_page_by_page(history: Caller) -> None:
    whole = history.rows("list_transactions", **ADA)
    shown = [(row["type"], row["amount_minor"], row["balance_after"]) for row in whole]
    assert shown == [
        ("charge", -2, 13),
        ("charge", -5, 15),
        ("credit", 20, 20),
        ("charge", -1, 0),
        ("charge", -7, 0),
        ("charge", -1, 0),
    ]
    assert {row["total_count"] for row in whole} == {6}
    assert whole[2]["external_transaction_id"] == "pi_1"
    pages = [
        row
        for offset in (0, 2, 4)
        for row in history.rows("list_transactions", **ADA, limit=2, offset=offset)
    ]
    for row in (*pages, *whole):
        del row["next_cursor"]  # the cursor of the page after the row's own
    assert pages == whole


def test_old_balances_and_checks_are_kept(taken_over: Database) -> None:
    ada = account_of(taken_over, ADA)
    assert (ada["paid_credits"], ada["free_uses_remaining"], ada["total_uses"]) == (13, 0, 5)
    assert ada["wa_id"] == "w"
    rows = taken_over.execute(
        "SELECT c.external_id, c.has_credit, c.database_role FROM billing_data.credit_checks AS c"
        " WHERE c.database_role = 'legacy' ORDER BY 1"
    )
    assert rows == [("ada", True, "legacy"), ("nobody", False, "legacy")]


def test_a_recent_old_check_lies_in_its_month(taken_over: Database) -> None:
    assert taken_over.execute(
        "SELECT c.external_id FROM billing_data.credit_checks_default AS c"
    ) == [("ada",)]


def test_the_ledger_of_old_accounts_checks_out(taken_over: Database) -> None:
    assert ledger_problems(taken_over) == []


def test_the_figures_and_totals_of_a_taken_over_database_are_those_of_its_ledger(
    taken_over: Database,
) -> None:
    for _ in range(2):  # before and after the first roll-up
        assert_figures_right(taken_over)
        assert_totals(taken_over)
        taken_over.execute("SELECT billing.refresh_figures()", user="t_web")


def test_an_old_accounts_ledger_goes_on(taken_over: Database, history: Caller) -> None:
    before = account_of(taken_over, BEN)
    rows = charge_all(history, [{**BEN, "amount_minor": 2}] * 4)
    assert outcomes(rows) == ["created"] * 4
    assert rows[-1]["balance_after"] == 4
    assert account_of(taken_over, BEN)["ledger_version"] == before["ledger_version"] + 4
    newest = history.rows("list_transactions", **BEN, limit=1)[0]
    assert (newest["ledger_version"], newest["amount_minor"]) == (6, -2)
    assert ledger_problems(taken_over) == []


@pytest.mark.parametrize("amount", [1, 5, 9])
def test_an_old_key_is_remembered_and_taken_for_the_same_request(
    history: Caller, amount: int
) -> None:
    item = {**ADA, "idempotency_key": "k4", "amount_minor": amount}
    (row,) = charge_all(history, [item])
    assert row["outcome"] == "replayed"
    assert row["charge_id"] == uuid.UUID("10000000-0000-0000-0000-000000000004")
    credit = history.row(
        "record_credit",
        **ADA,
        amount_minor=amount,
        transaction_type="purchase",
        description="a pack",
        idempotency_key="pi_1",
    )
    assert credit["outcome"] == "replayed"
    assert credit["credit_id"] == uuid.UUID("20000000-0000-0000-0000-000000000001")


def test_an_old_key_and_its_author_are_still_listed(history: Caller) -> None:
    (key,) = history.rows("list_api_keys")
    assert (key["created_by_email"], key["created_by_role"]) == ("ada@ciris.ai", None)
    assert (key["status"], key["rotated_to"]) == ("active", None)


def test_what_the_old_service_sold_by_stripe_becomes_settled_purchases_and_nothing_else_does(
    taken_over: Database,
) -> None:
    rows = taken_over.execute("""
        SELECT p.payment_id, p.uses, p.price_minor, p.currency, p.database_role, p.provider
        FROM billing_data.purchases AS p
        INNER JOIN billing_data.credits AS c ON c.id = p.credit_id AND c.id = p.id
            AND c.account_id = p.account_id AND c.created_at = p.settled_at
            AND c.created_at = p.created_at
        ORDER BY 1
    """)
    assert rows == [
        ("pi_5", 20, 500, "USD", "legacy", "stripe"),
        ("pi_6", 50, 123450, "USD", "legacy", "stripe"),
        ("pi_7", 20, 500, "USD", "legacy", "stripe"),
        ("pi_8", 20, 500, "USD", "legacy", "stripe"),
        ("pi_9", 20, 500, "USD", "legacy", "stripe"),
    ]
    assert taken_over.value("SELECT count(*) FROM billing_data.purchases") == len(rows)


def test_an_old_payments_event_that_comes_again_adds_nothing(
    taken_over: Database, history: Caller
) -> None:
    before = account_of(taken_over, CLEO)
    for payment_id in ("pi_5", "pi_6", "pi_7"):
        answer = deliver(history, f"evt_{payment_id}", payment_id, **CLEO)
        assert (answer["outcome"], answer["account_id"]) == ("already_credited", before["id"])
    assert account_of(taken_over, CLEO) == before


def test_an_old_payment_that_is_refunded_takes_back_what_was_sold(
    taken_over: Database, history: Caller
) -> None:
    before = account_of(taken_over, CLEO)["paid_credits"]
    assert give_back(history, "pi_6", ("re_6", 61725))["outcome"] == "taken_back"
    assert account_of(taken_over, CLEO)["paid_credits"] == before - 25
    assert ledger_problems(taken_over) == []


def test_undoing_the_purchases_of_the_old_service_keeps_those_whose_money_went_back(
    cluster: TestCluster,
) -> None:
    with cluster.database(template=None) as database:
        apply_first(database, len(LEGACY))
        run_statements(database.dsn(), LEGACY_ROWS)
        migrate(database.dsn(), SEED)
        with session(database, "t_dba") as dba:
            give_back(dba, "pi_6", ("re_6", 123450))
        sold = database.execute(SOLD)
        rollback(database.dsn(), STEPS[::-1].index("2026_11_22_0021_purchase_backfill") + 1)
        assert database.execute(SOLD) == [row for row in sold if row[0] == "pi_6"]
        migrate(database.dsn(), SEED)
        assert database.execute(SOLD) == sold
        assert ledger_problems(database) == []


def test_duplicate_identities_stop_the_step_that_forbids_them_and_lose_nothing(
    cluster: TestCluster,
) -> None:
    with cluster.database(template=None) as database:
        apply_first(database, len(LEGACY))
        run_statements(
            database.dsn(),
            "INSERT INTO accounts (oauth_provider, external_id) VALUES ('oauth:google', 'ada'),"
            " ('oauth:google', 'ada')",
        )
        with pytest.raises(MigrationError, match="0010_account_identity failed and was undone"):
            migrate(database.dsn(), SEED)
        assert applied_steps(database) == [*LEGACY, OWN[0]]
        assert database.value("SELECT count(*) FROM billing_data.accounts") == 2
        database.execute(
            "DELETE FROM billing_data.accounts WHERE ctid ="
            " (SELECT max(a.ctid) FROM billing_data.accounts AS a)"
        )
        assert migrate(database.dsn(), SEED).applied == OWN[1:]


def _returned(database: Database) -> dict[str, Any]:
    """What is known of the returns, by their ids."""
    rows = database.execute("""
        SELECT r.return_id, r.amount_minor, r.away_minor, r.status, r.state, r.as_of,
            array_agg(c.amount_minor ORDER BY c.ledger_version)
        FROM billing_data.payment_returns AS r
        LEFT JOIN billing_data.payment_return_credits AS n
            ON n.account_id = r.account_id AND n.return_id = r.return_id
        LEFT JOIN billing_data.credits AS c ON c.id = n.credit_id
        GROUP BY r.account_id, r.provider, r.return_id ORDER BY 1
    """)
    return {row[0]: row[1:] for row in rows}


def test_returns_of_the_release_before_become_money_that_is_away_and_go_back_again(
    cluster: TestCluster,
) -> None:
    first_of_two = "2026_11_26_0033_money_away"
    with cluster.database() as database:
        configure_provider(database)
        who = person()
        with session(database, "t_dba") as dba, session(database, "t_web") as web:
            dba.row("create_account", **who)
            for number in (1, 2, 3):
                deliver(web, f"evt_{number}", f"pi_{number}", begin(dba, who))
            told = datetime(2026, 11, 1, tzinfo=UTC)
            payload = json.dumps(
                {"created": int(told.timestamp()), "data": {"object": {"id": "re_1"}}}
            )
            give_back(web, "pi_1", ("re_1", PRICE // 2), payload=payload, occurred_at=told)
            for number, away in enumerate((500, 0, 500, 300)):
                give_back(
                    web, "pi_2", ("du_2", PRICE), kind="dispute",
                    return_away_minor=[away], return_transactions=[number],
                )  # fmt: skip
            give_back(web, "pi_3", ("du_3", PRICE), kind="dispute")
            give_back(web, "pi_3", ("du_3", PRICE), kind="dispute", withdrawn=False)
        before = _returned(database)
        assert [row[-1] for row in before.values()] == [[-20, 20, -20, 8], [-20, 20], [-10]]
        back = STEPS[::-1].index(first_of_two) + 1

        rollback(database.dsn(), back)
        # As the release before knows it: the amount away is the whole amount, and there are at most
        # two entries.
        assert database.execute("""
            SELECT r.return_id, r.status, r.amount_minor, c.amount_minor, g.amount_minor
            FROM billing_data.payment_returns AS r
            LEFT JOIN billing_data.credits AS c ON c.id = r.credit_id
            LEFT JOIN billing_data.credits AS g ON g.id = r.restoring_credit_id
            ORDER BY 1
        """) == [
            ("du_2", "taken", 300, -20, None),
            ("du_3", "restored", 500, -20, 20),
            ("re_1", "taken", 250, -10, None),
        ]
        migrate(database.dsn(), SEED)
        after = _returned(database)
        assert after["re_1"] == before["re_1"]
        assert after["re_1"][4] == told
        assert after["du_2"][:3] == (300, 300, "taken")
        assert after["du_3"][:4] == (500, 0, "restored", "closed")
        assert [row[-1] for row in after.values()] == [row[-1] for row in before.values()]
        assert ledger_problems(database) == []
        with session(database, "t_web") as web:
            # A report older than the newest event is still old, and a newer one counts.
            late = give_back(web, "pi_1", ("re_1", PRICE), occurred_at=told - timedelta(days=1))
            assert late["outcome"] == "unchanged"
            lost = give_back(web, "pi_3", ("du_3", PRICE), kind="dispute")
            assert lost["outcome"] == "taken_back"
        assert ledger_problems(database) == []
