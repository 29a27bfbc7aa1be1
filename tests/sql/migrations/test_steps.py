"""The migrations: the way up, the way down, and rows that survive both."""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import psycopg
import pytest

from server.migrate import (
    MigrationReport,
    latest_step,
    migrate,
    rollback,
)
from tests.sql.golden import assert_golden
from tests.sql.helpers import (
    charge_once,
    key_id,
    ledger_problems,
    person,
    session,
)
from tests.sql.migrations.helpers import (
    LEGACY,
    MIGRATIONS,
    OWN,
    SEED,
    SOLD,
    STEPS,
    applied_steps,
    apply_first,
    run_migrate,
    use_everything,
)
from tests.sql.payments import (
    USES,
    attach,
    begin,
    bought,
    configure_provider,
    deliver,
    give_back,
    problems_of,
    sealed,
)
from tests.support import (
    Database,
    TestCluster,
)


def _tables(database: Database) -> list[str]:
    """Every table, view and function outside PostgreSQL's own schemas, without the tables that
    every deploy makes for itself (yoyo's, and the one it locks)."""
    return [
        row[0]
        for row in database.execute("""
            SELECT c.oid::regclass::text FROM pg_class AS c
            WHERE c.relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema',
                'pg_toast') AND c.relkind <> 'i' AND c.relname !~ '^_?yoyo|^_billing_deploy$'
            UNION ALL
            SELECT p.oid::regprocedure::text FROM pg_proc AS p
            WHERE p.pronamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema')
            ORDER BY 1
        """)
    ]


# --- the files -----------------------------------------------------------------------------------


def test_the_history_of_production_comes_first_and_under_its_own_names() -> None:
    assert LEGACY == [
        "2025_10_08_0000_initial_schema",
        "2025_10_08_0001_usage_tracking",
        "2025_10_08_0002_admin_system",
        "2025_10_08_0003_oauth_instead_of_passwords",
        "2025_10_08_0004_marketing_consent",
        "2025_10_09_0005_user_role_and_agent_id",
        "2025_10_15_0006_customer_email",
        "2025_10_16_0007_drop_charge_balance_constraint",
        "2025_10_21_0008_paid_credits",
    ]
    assert latest_step() == OWN[-1]


@pytest.mark.parametrize("step", STEPS)
def test_every_step_says_why_bounds_its_waiting_and_can_be_undone(step: str) -> None:
    up = (MIGRATIONS / f"{step}.sql").read_text(encoding="utf-8")
    down = (MIGRATIONS / f"{step}.rollback.sql").read_text(encoding="utf-8")
    assert up.startswith("-- ")
    for text in (up, down):
        assert re.search(r"^SET LOCAL lock_timeout = ", text, re.MULTILINE)
        assert not re.search(r"CREATE (OR REPLACE )?(FUNCTION|VIEW|PROCEDURE)", text)
    before = STEPS.index(step) - 1
    if before >= 0:
        assert f"-- depends: {STEPS[before]}\n" in up


# --- up and down ---------------------------------------------------------------------------------


def test_an_empty_database_goes_all_the_way_up_and_down_and_up_again(
    any_cluster: TestCluster,
) -> None:
    with any_cluster.database(template=None) as database:
        first = migrate(database.dsn(), SEED)
        assert first == MigrationReport(STEPS, [], [], True)
        assert_golden(database)
        down = rollback(database.dsn(), len(STEPS))
        assert down == MigrationReport([], STEPS[::-1], [], False)
        assert _tables(database) == []
        assert database.execute(
            "SELECT n.nspname FROM pg_namespace AS n WHERE n.nspname LIKE 'billing%'"
        ) == []  # fmt: skip
        assert migrate(database.dsn(), SEED) == MigrationReport(STEPS, [], [], True)
        assert_golden(database)
        with session(database, "t_dba") as dba:
            assert dba.row("check_credit", **person())["free_uses_remaining"] == 3


def test_each_step_goes_down_and_up_by_itself_on_the_way(cluster: TestCluster) -> None:
    with cluster.database(template=None) as database:
        for count, step in enumerate(STEPS, 1):
            apply_first(database, 1)
            assert rollback(database.dsn(), 1).rolled_back == [step]
            apply_first(database, 1)
            assert len(applied_steps(database)) == count
        migrate(database.dsn(), SEED)
        assert_golden(database)


def test_the_command_line_goes_down_only_when_it_is_told_yes_and_up_again(
    cluster: TestCluster,
) -> None:
    with cluster.database() as database:
        unconfirmed = run_migrate(database, "--rollback", str(len(STEPS)))
        assert unconfirmed.returncode == 1
        assert "--yes" in unconfirmed.stderr
        assert applied_steps(database) == STEPS
        down = run_migrate(database, "--rollback", str(len(STEPS)), "--yes")
        assert (down.returncode, down.stdout) == (0, f"Rolled back {len(STEPS)} steps.\n")
        assert _tables(database) == []
        pending = json.loads(run_migrate(database, "--status", "--json").stdout)
        assert pending["pending"] == len(STEPS)
        up = json.loads(run_migrate(database, "--json").stdout)
        assert up["applied"] == STEPS
        assert run_migrate(database, "--status").stdout.endswith("up to date\n")
        assert_golden(database)


def test_rolling_back_more_steps_than_there_are_rolls_back_all(cluster: TestCluster) -> None:
    with cluster.database() as database:
        assert len(rollback(database.dsn(), 1000).rolled_back) == len(STEPS)
        assert rollback(database.dsn(), 1).rolled_back == []


_KEPT = {
    "accounts": "id, oauth_provider, external_id, paid_credits, free_uses_remaining, total_uses,"
    " status, created_at",
    "charges": "id, account_id, amount_minor, balance_before, balance_after, idempotency_key,"
    " created_at",
    "credits": "id, account_id, amount_minor, balance_before, balance_after, idempotency_key,"
    " created_at",
    "credit_checks": "id, oauth_provider, external_id, has_credit, created_at",
    "api_keys": "id, key_hash, key_prefix, status",
    "admin_users": "id, email, role",
    "admin_audit_logs": "id, action, resource_id, changes",
    "provider_configs": "id, provider_type",
}


_EVENTS = """
    SELECT e.provider, e.event_id, e.event_type, e.payment_id, e.payload, e.outcome, e.received_at
    FROM billing_data.payment_events AS e ORDER BY 2
"""


_SESSIONS = """
    SELECT s.session_hash, s.expires_at FROM billing_data.admin_sessions AS s
    UNION ALL SELECT t.ticket_hash, t.expires_at FROM billing_data.sign_in_tickets AS t ORDER BY 1
"""


# The newest report of a return is lost with its column, and comes back as far as stored events tell
# it.
_RETURNS = """
    SELECT r.account_id, r.provider, r.return_id, r.purchase_id, r.kind, r.status, r.amount_minor,
        r.away_minor, r.uses_due, r.uses_taken, r.created_at, n.entries
    FROM billing_data.payment_returns AS r
    CROSS JOIN LATERAL (
        SELECT array_agg(c.credit_id ORDER BY c.credit_id) AS entries
        FROM billing_data.payment_return_credits AS c
        WHERE c.account_id = r.account_id AND c.return_id = r.return_id
    ) AS n
    ORDER BY r.return_id
"""


def _kept(database: Database) -> dict[str, list[Any]]:
    """What no rollback of our own steps may lose."""
    return {
        table: database.execute(f"SELECT {columns} FROM billing_data.{table} ORDER BY id")
        for table, columns in _KEPT.items()
    }


def _figures(database: Database) -> tuple[list[Any], list[Any]]:
    """What the dashboard shows."""
    with session(database, "t_dba") as dba:
        return dba.rows("list_daily_figures"), dba.rows("get_overview")


class _Used:
    """A database that everything was done in, with its contents. It goes back step by step, and
    each test takes a copy of it."""

    def __init__(self, cluster: TestCluster, database: Database) -> None:
        self.cluster, self.database, self.steps_back = cluster, database, 0
        self.who = use_everything(database)
        self.kept = _kept(database)
        self.sold, self.events = database.execute(SOLD), database.execute(_EVENTS)
        self.returns = database.execute(_RETURNS)
        self.sessions = database.execute(_SESSIONS)
        self.figures, self.overview = _figures(database)

    @contextlib.contextmanager
    def gone_back(self, steps_back: int) -> Iterator[Database]:
        """The database after its newest steps were rolled back."""
        assert steps_back > self.steps_back
        further = steps_back - self.steps_back
        assert len(rollback(self.database.dsn(), further).rolled_back) == further
        self.steps_back = steps_back
        with self.cluster.database(template=self.database.name) as database:
            yield database


@pytest.fixture(scope="module")
def used(cluster: TestCluster) -> Iterator[_Used]:
    """A database that everything was done in."""
    with cluster.database() as database:
        yield _Used(cluster, database)


@pytest.mark.parametrize("steps_back", range(1, len(OWN) + 1), ids=lambda n: OWN[-n][11:])
def test_own_steps_go_down_and_up_again_with_rows_present(used: _Used, steps_back: int) -> None:
    with used.gone_back(steps_back) as database:
        who, before, sold, events = used.who, used.kept, used.sold, used.events
        returns, sessions = used.returns, used.sessions
        assert all(before.values())
        assert len(sessions) == 5
        without_token = [row for row in sessions if row[0] != sha256(b"ada").digest()]
        figures, overview = used.figures, used.overview
        assert [row[0] for row in sold] == ["pi_kept", "pi_old", "pi_returned"]
        assert len(returns) == 3
        assert migrate(database.dsn(), SEED).applied == STEPS[-steps_back:]
        assert _kept(database) == before
        assert database.execute(SOLD) == sold
        tables_stayed = "2026_11_22_0018_payments" not in STEPS[-steps_back:]
        assert database.execute(_EVENTS) == (events if tables_stayed else [])
        returns_stayed = "2026_11_22_0020_purchase_columns" not in STEPS[-steps_back:]
        assert database.execute(_RETURNS) == (returns if returns_stayed else [])
        # Sessions are lost with their table. The figures are counted again from the ledger.
        sessions_stayed = "2026_11_22_0023_staff_sessions" not in STEPS[-steps_back:]
        tokens_stayed = "2026_11_26_0026_staff_sessions_act" not in STEPS[-steps_back:]
        stayed = sessions if tokens_stayed else without_token
        assert database.execute(_SESSIONS) == (stayed if sessions_stayed else [])
        for _ in range(2):
            assert _figures(database)[0] == figures
            if returns_stayed:
                assert _figures(database)[1] == overview
            database.execute("SELECT billing.refresh_figures()", user="t_web")
        assert_golden(database)
        assert ledger_problems(database) == []
        with session(database, "t_dba") as dba:
            for payment_id, *_ in sold:
                again = deliver(dba, f"evt_again_{payment_id}", payment_id, **who)
                assert again["outcome"] == "already_credited"
            assert ledger_problems(database) == []
            history = dba.rows("list_transactions", **who)
            assert [row["ledger_version"] for row in history] == list(range(len(history), 0, -1))
            assert dba.refusal("create_charge", **who, idempotency_key="paid").slug == (
                "charge_already_exists"
            )
            assert dba.row("create_charge", **who, amount_minor=1)["paid_with"] == "paid"
        with session(database, "postgres") as root:
            for table in ("charges", "credits", "admin_audit_logs"):
                refusal = root.refused(f"DELETE FROM billing_data.{table}")
                assert refusal.slug == "append_only", table
            assert root.refused("DELETE FROM billing_data.api_keys").slug == "api_key_fixed"
        assert database.execute(
            "SELECT t.tgrelid::regclass, t.tgname FROM pg_trigger AS t"
            " WHERE t.tgenabled <> CASE WHEN t.tgisinternal THEN 'O' ELSE 'A' END"
        ) == []  # fmt: skip


def _steps_from(step: str) -> int:
    """How many steps must be rolled back to undo `step`."""
    return len(STEPS) - STEPS.index(step)


def test_batches_from_before_the_scope_of_their_keys_are_still_recognised(
    cluster: TestCluster,
) -> None:
    """Rows as the release before left them: each belongs to one API key, with a digest that only
    this key can make."""
    with cluster.database() as database:
        line = [key_id(database)]
        for _ in range(3):
            line.append(uuid.UUID(database.rotate_key(line[-1]).id))
        stranger = key_id(database)
        rollback(database.dsn(), _steps_from("2026_11_26_0043_key_lineage"))
        for number, key, batch in (
            (1, line[0], "by the first"),
            (2, line[1], "by the second"),
            (3, line[0], "by two"),
            (4, line[1], "by two"),
            (5, stranger, "by the first"),
        ):
            database.execute(
                "INSERT INTO billing_data.batch_requests"
                " (api_key_id, idempotency_key, request_fingerprint, answer, created_at)"
                " VALUES (%s, %s, %s, %s, now() + %s * interval '1 second')",
                *(key, batch, b"as sent", json.dumps([{"item": number, "outcome": "created"}])),
                number,
            )
        migrate(database.dsn(), SEED)

        def answered(key: uuid.UUID, batch: str, fingerprint: bytes = b"as sent") -> int:
            with session(database, "t_web") as web:
                (row,) = charge_once(
                    web, [person()], key, batch, fingerprint, batch_fingerprint=b"of the list"
                )
            assert row["replayed"]
            return int(row["item"])

        for key in line:
            assert answered(key, "by the second") == 2
        for key in line[1:]:  # a key that cannot make the recorded digest
            assert answered(key, "by the first", b"by another API key") == 1
        assert [answered(key, "by two") for key in line] == [3, 4, 4, 4]
        assert answered(stranger, "by the first") == 5
        with pytest.raises(psycopg.Error, match="different request"):
            answered(line[0], "by the first", b"another list")


def test_what_was_done_about_payments_before_is_known_after_the_deploy(database: Database) -> None:
    who = person()
    with session(database, "t_dba") as dba:
        configure_provider(database)
        dba.row("create_account", **who)
        sold = begin(dba, who)
        attach(dba, sold, "pi_sold")
        deliver(dba, "evt_sold", "pi_sold")
        resolved = {"pi_resolved": "evt_resolved", "pi_open": "evt_open"}
        for payment_id, event_id in resolved.items():
            deliver(dba, event_id, payment_id, **person())
        dba.row("resolve_payment_event", event_id="evt_resolved", reason="granted by hand")
        credits = [
            dba.row("create_credit", **who, amount_minor=5, external_transaction_id=name)
            for name in ("pi_hand", "pi_hand", "order 1", "order 1")
        ]
        rollback(database.dsn(), _steps_from("2026_11_26_0037_payment_effects"))
        migrate(database.dsn(), SEED)
        effects = database.execute(
            "SELECT x.payment_id, x.effect, x.credit_id, x.resolution"
            " FROM billing_data.payment_effects AS x ORDER BY 1"
        )
        (purchase,) = database.execute(SOLD)
        assert effects == [
            ("pi_hand", "credited", credits[0]["credit_id"], None),
            ("pi_resolved", "other", None, "granted by hand"),
            ("pi_sold", "credited", purchase[-1], None),
        ]
        problems = {row["reference"]: row["problem"] for row in dba.rows("list_payment_problems")}
        assert problems == {
            "evt_open": "account_not_found",
            str(credits[1]["credit_id"]): "credited_twice",
        }
        assert deliver(dba, "evt_2", "pi_resolved", **who)["outcome"] == "resolved"
    assert ledger_problems(database) == []


def test_a_charge_that_cannot_be_read_stays_a_problem_when_its_step_is_rolled_back(
    database: Database,
) -> None:
    configure_provider(database)
    who, payment_id = bought(database)
    with session(database, "t_web") as web:
        give_back(web, payment_id, event_id="evt_1", action="unreadable")
    outcome = "SELECT e.outcome FROM billing_data.payment_events AS e WHERE e.event_id = 'evt_1'"
    assert database.value(outcome) == "charge_unreadable"
    # And of several webhook secrets the first.
    secrets = [sealed("whsec_aaaa"), sealed("whsec_bbbb")]
    with session(database, "t_dba") as dba:
        dba.row(
            "set_provider_config",
            provider_type="stripe",
            config_data=json.dumps({"webhook_secret": secrets}),
        )
    rollback(database.dsn(), len(OWN) - OWN.index("2026_11_26_0035_unreadable_charges"))
    assert database.value(outcome) == "payment_unknown"
    config = database.value("SELECT c.config_data FROM billing_data.provider_configs AS c")
    assert config["webhook_secret"] == secrets[0]
    migrate(database.dsn(), SEED)
    with session(database, "t_dba") as dba:
        assert [row["reference"] for row in problems_of(dba, payment_id)] == ["evt_1"]
        assert dba.row("get_account", **who)["paid_credits"] == USES


def test_history_stays_protected_while_steps_are_rolled_back(database: Database) -> None:
    use_everything(database)
    for step in OWN[:0:-1]:
        assert rollback(database.dsn(), 1).rolled_back == [step]
        with session(database, "postgres") as root:
            for table in ("charges", "credits", "admin_audit_logs"):
                assert root.refused(f"DELETE FROM billing_data.{table}").slug == "append_only", step


def test_rows_of_the_last_step_before_ours_survive_the_way_down(cluster: TestCluster) -> None:
    with cluster.database() as database:
        use_everything(database)
        before = _kept(database)
        rollback(database.dsn(), len(OWN))
        for table, columns in _KEPT.items():
            rows = database.execute(f"SELECT {columns} FROM public.{table} ORDER BY id")
            assert rows == before[table], table
