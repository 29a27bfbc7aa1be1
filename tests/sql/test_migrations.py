"""Every step up and down, on every version, with rows present; sql/ loaded on each deploy."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yoyo

from server.config import SettingsSeed
from server.embedded import Cluster, find_binaries
from server.migrate import (
    KeptSetting,
    MigrationError,
    MigrationReport,
    latest_step,
    migrate,
    rollback,
    status,
)
from tests.sql.figures import assert_figures_right
from tests.sql.golden import assert_golden
from tests.sql.helpers import (
    Caller,
    account_of,
    charge_all,
    charge_once,
    key_id,
    ledger_problems,
    outcomes,
    person,
    session,
)
from tests.sql.payments import (
    PRICE,
    USES,
    attach,
    begin,
    bought,
    configure_provider,
    deliver,
    give_back,
    legacy,
    problems_of,
    sealed,
)
from tests.sql.totals import assert_totals
from tests.support import (
    BILLING,
    THROW_AWAY,
    Database,
    TestCluster,
    clean_environment,
    unique,
    wait_for,
    want_postgresql,
)

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
STEPS = sorted(
    file.stem for file in MIGRATIONS.glob("*.sql") if not file.stem.endswith(".rollback")
)
LEGACY = [step for step in STEPS if step < "2026"]
OWN = [step for step in STEPS if step > "2026"]
SEED = SettingsSeed()


def _tables(database: Database) -> list[str]:
    """Every table, view and function outside PostgreSQL's own schemas and the tables that every
    deploy makes for itself (yoyo's, and the one it locks)."""
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


def _apply_first(database: Database, count: int) -> None:
    """Brings an empty database to its `count`th step, as an old release would have."""
    backend = yoyo.get_backend("postgresql+psycopg://" + database.dsn().partition("://")[2])
    try:
        backend.ensure_internal_schema_updated()
        steps = yoyo.read_migrations(str(MIGRATIONS))
        for step in list(backend.to_apply(steps))[:count]:
            backend.apply_one(step)
    finally:
        backend.connection.close()


def _command(database: Database, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BILLING, "migrate", *arguments],
        env={**clean_environment(), "DATABASE_URL": database.dsn()},
        capture_output=True,
        text=True,
        check=False,
    )


def _applied(database: Database) -> list[str]:
    return [step.step for step in status(database.dsn()) if step.applied]


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
            _apply_first(database, 1)
            assert rollback(database.dsn(), 1).rolled_back == [step]
            _apply_first(database, 1)
            assert len(_applied(database)) == count
        migrate(database.dsn(), SEED)
        assert_golden(database)


def test_the_command_line_goes_down_only_when_it_is_told_yes_and_up_again(
    cluster: TestCluster,
) -> None:
    with cluster.database() as database:
        unconfirmed = _command(database, "--rollback", str(len(STEPS)))
        assert unconfirmed.returncode == 1
        assert "--yes" in unconfirmed.stderr
        assert _applied(database) == STEPS
        down = _command(database, "--rollback", str(len(STEPS)), "--yes")
        assert (down.returncode, down.stdout) == (0, f"Rolled back {len(STEPS)} steps.\n")
        assert _tables(database) == []
        pending = json.loads(_command(database, "--status", "--json").stdout)
        assert pending["pending"] == len(STEPS)
        up = json.loads(_command(database, "--json").stdout)
        assert up["applied"] == STEPS
        assert _command(database, "--status").stdout.endswith("up to date\n")
        assert_golden(database)


def test_rolling_back_more_steps_than_there_are_rolls_back_all(cluster: TestCluster) -> None:
    with cluster.database() as database:
        assert len(rollback(database.dsn(), 1000).rolled_back) == len(STEPS)
        assert rollback(database.dsn(), 1).rolled_back == []


def _use(database: Database) -> dict[str, str]:
    """Rows in every table that functions write; gives an identity with charges and credits
    written by a key, by staff and by a DBA."""
    who = person()
    key = key_id(database)
    with session(database, "t_dba") as dba, session(database, "t_web") as web:
        ada = dba.row("add_admin", email=f"{unique('ada')}@ciris.ai", role="admin")
        dba.row("check_credit", **who)
        web.row("check_credit", **who, api_key_id=key)
        for caller in ({}, {"api_key_id": key}):
            (web if caller else dba).row("create_charge", **who, idempotency_key=unique(), **caller)
        charge_all(web, [{**who, "api_key_id": key}] * 3)
        charge_once(web, [who], key, "list")
        dba.row("create_credit", **who, amount_minor=20, idempotency_key="gift")
        token = sha256(b"ada").digest()
        dba.row("create_staff_token", token_hash=token, email=ada["email"])
        web.row("create_credit", **who, amount_minor=5, session_hash=token)
        web.row("create_charge", **who, amount_minor=4, api_key_id=key, idempotency_key="paid")
        dba.row("set_account_status", **who, status="suspended", reason="a test")
        dba.row("set_account_status", **who, status="active", reason="a test")
        dba.row("create_account", **who, idempotency_key="account")
        second = key_id(database)
        dba.row("revoke_api_key", api_key_id=second)
        configure_provider(database)
        begin(dba, who)
        attach(dba, begin(dba, who), "pi_pending")
        for payment_id in ("pi_kept", "pi_returned"):
            sold = begin(web, who, idempotency_key=payment_id, api_key_id=key)
            attach(web, sold, payment_id, api_key_id=key)
            assert deliver(web, f"evt_{payment_id}", payment_id)["outcome"] == "credited"
        deliver(web, "evt_lost", "pi_lost")
        deliver(web, "evt_old", "pi_old", **legacy(database, who))
        give_back(web, "pi_returned", ("re_1", PRICE // 2), ("re_2", PRICE // 2))
        give_back(web, "pi_returned", ("re_2", PRICE // 2), withdrawn=False)
        give_back(web, "pi_old", ("re_3", PRICE))
        for name in (b"one", b"two"):
            web.row("sign_in_admin", email="ben@ciris.ai", google_id="ben",
                    session_hash=sha256(name).digest())  # fmt: skip
        web.value("create_sign_in_ticket", ticket_hash=sha256(b"three").digest())
        dba.value("create_sign_in_link", email="ben@ciris.ai", ticket_hash=sha256(b"4").digest())
        web.value("refresh_figures")
    return who


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


# What was sold and paid for. The step that makes the tables takes them with it when it is rolled
# back: on the way up the settled purchases are told from their credits.
_SOLD = """
    SELECT p.payment_id, p.account_id, p.uses, p.price_minor, p.currency, p.settled_at, p.credit_id
    FROM billing_data.purchases AS p WHERE p.settled_at IS NOT NULL ORDER BY 1
"""
_EVENTS = """
    SELECT e.provider, e.event_id, e.event_type, e.payment_id, e.payload, e.outcome, e.received_at
    FROM billing_data.payment_events AS e ORDER BY 2
"""
_SESSIONS = """
    SELECT s.session_hash, s.expires_at FROM billing_data.admin_sessions AS s
    UNION ALL SELECT t.ticket_hash, t.expires_at FROM billing_data.sign_in_tickets AS t ORDER BY 1
"""
# What was heard of a return last goes with its column, and comes back as far as events tell it.
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


@pytest.mark.parametrize("steps_back", range(1, len(OWN) + 1), ids=lambda n: OWN[-n][11:])
def test_own_steps_go_down_and_up_again_with_rows_present(
    cluster: TestCluster, steps_back: int
) -> None:
    with cluster.database() as database:
        who = _use(database)
        before = _kept(database)
        assert all(before.values())
        sold, events = database.execute(_SOLD), database.execute(_EVENTS)
        returns = database.execute(_RETURNS)
        sessions = database.execute(_SESSIONS)
        assert len(sessions) == 5
        without_token = [row for row in sessions if row[0] != sha256(b"ada").digest()]
        figures, overview = _figures(database)
        assert [row[0] for row in sold] == ["pi_kept", "pi_old", "pi_returned"]
        assert len(returns) == 3
        assert len(rollback(database.dsn(), steps_back).rolled_back) == steps_back
        assert migrate(database.dsn(), SEED).applied == STEPS[-steps_back:]
        assert _kept(database) == before
        assert database.execute(_SOLD) == sold
        tables_stayed = "2026_11_22_0018_payments" not in STEPS[-steps_back:]
        assert database.execute(_EVENTS) == (events if tables_stayed else [])
        returns_stayed = "2026_11_22_0020_purchase_columns" not in STEPS[-steps_back:]
        assert database.execute(_RETURNS) == (returns if returns_stayed else [])
        # Sessions end with their table; the figures are counted anew from the ledger.
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
    """How many steps back it is to before `step`."""
    return len(STEPS) - STEPS.index(step)


def test_batches_from_before_the_scope_of_their_keys_are_still_recognised(
    cluster: TestCluster,
) -> None:
    """Rows as the release before left them: each of one API key, with a digest only it can make."""
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
        for key in line[1:]:  # who cannot make the digest that was recorded
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
        (purchase,) = database.execute(_SOLD)
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
    _use(database)
    for step in OWN[:0:-1]:
        assert rollback(database.dsn(), 1).rolled_back == [step]
        with session(database, "postgres") as root:
            for table in ("charges", "credits", "admin_audit_logs"):
                assert root.refused(f"DELETE FROM billing_data.{table}").slug == "append_only", step


def test_rows_of_the_last_step_before_ours_survive_the_way_down(cluster: TestCluster) -> None:
    with cluster.database() as database:
        _use(database)
        before = _kept(database)
        rollback(database.dsn(), len(OWN))
        for table, columns in _KEPT.items():
            rows = database.execute(f"SELECT {columns} FROM public.{table} ORDER BY id")
            assert rows == before[table], table


# --- again and at once ---------------------------------------------------------------------------


def test_migrating_again_changes_nothing(any_cluster: TestCluster) -> None:
    objects = """
        SELECT p.oid, p.oid::regprocedure::text, p.proacl::text, p.prosrc FROM pg_proc AS p
        WHERE p.pronamespace::regnamespace::text LIKE 'billing%'
        UNION ALL
        SELECT c.oid, c.oid::regclass::text, c.relacl::text, NULL FROM pg_class AS c
        WHERE c.relnamespace::regnamespace::text LIKE 'billing%' AND c.relname !~ '_20[0-9_]+$'
        UNION ALL
        SELECT t.oid, t.tgname, t.tgenabled::text, NULL FROM pg_trigger AS t
        ORDER BY 1
    """
    with any_cluster.database() as database:
        who = _use(database)
        paid = account_of(database, who)["paid_credits"]
        before = database.execute(objects)
        settings = database.execute("SELECT * FROM billing_data.settings")
        again = migrate(database.dsn(), SettingsSeed(free_uses=9))
        kept = KeptSetting("FREE_USES", "9", "3", "the console's settings, or billing.set_pricing")
        assert again == MigrationReport([], [], [], False, [kept])
        assert database.execute(objects) == before
        assert database.execute("SELECT * FROM billing_data.settings") == settings
        with session(database, "t_dba") as dba:
            assert dba.row("create_charge", **who, amount_minor=1)["balance_after"] == paid - 1


def test_a_session_that_is_in_use_survives_a_deploy(database: Database) -> None:
    who = _use(database)
    with session(database, "t_dba") as dba:
        dba.row("create_charge", **who)
        migrate(database.dsn(), SEED)
        dba.row("create_charge", **who)


def test_two_deploys_at_once_apply_each_step_once(any_cluster: TestCluster) -> None:
    with any_cluster.database(template=None) as database, ThreadPoolExecutor(2) as pool:
        gate = threading.Barrier(2)

        def deploy(_: int) -> MigrationReport:
            gate.wait(timeout=30)
            return migrate(database.dsn(), SEED)

        reports = list(pool.map(deploy, range(2)))
        assert sorted(report.applied for report in reports) == [[], STEPS]
        assert sorted(report.seeded for report in reports) == [False, True]
        assert_golden(database)


@contextmanager
def _bare_cluster(folder: Path, version: int) -> Iterator[Cluster]:
    """A cluster that has never seen this service: none of its roles exist."""
    cluster = Cluster(folder / "bare", find_binaries(version), settings=THROW_AWAY)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


def _run(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_the_first_deploys_of_two_databases_of_one_cluster_do_not_disturb_each_other(
    tmp_path: Path,
) -> None:
    with _bare_cluster(tmp_path, 18) as cluster, ThreadPoolExecutor(2) as pool:
        names = ("one", "two")
        _run(cluster.dsn(), *(f"CREATE DATABASE {name}" for name in names))
        gate = threading.Barrier(2)

        def deploy(name: str) -> list[str]:
            gate.wait(timeout=30)
            return migrate(cluster.dsn(name), SEED).applied

        assert list(pool.map(deploy, names)) == [STEPS, STEPS]


@pytest.mark.parametrize("version", [18, 16, 15])
def test_a_login_that_owns_the_database_and_may_make_roles_is_enough(
    tmp_path: Path, version: int
) -> None:
    want_postgresql(version)
    with _bare_cluster(tmp_path, version) as cluster:
        _run(
            cluster.dsn(),
            "CREATE ROLE owner_login LOGIN CREATEROLE NOSUPERUSER",
            "CREATE DATABASE billing OWNER owner_login",
        )
        dsn = cluster.dsn("billing", "owner_login")
        assert migrate(dsn, SEED).applied == STEPS
        assert migrate(dsn, SEED) == MigrationReport([], [], [], False)
        who = person()
        with psycopg.connect(dsn, autocommit=True) as owner:
            identity = (who["oauth_provider"], who["external_id"])
            owner.execute("SELECT * FROM billing.check_credit(%s, %s)", identity)
            owner.execute("SELECT * FROM billing.create_charge(%s, %s)", identity)
            # Where one login does everything, the server gives its rights away like this.
            owner.execute("SET ROLE billing_server")
            with pytest.raises(psycopg.Error, match="must name who it is for"):
                owner.execute("SELECT * FROM billing.create_charge(%s, %s)", identity)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                owner.execute("SELECT * FROM billing_data.accounts")
        assert rollback(dsn, len(STEPS)).rolled_back == STEPS[::-1]
        assert migrate(dsn, SEED).applied == STEPS


# --- sql/ on each deploy -------------------------------------------------------------------------


def _as_owner(database: Database, *statements: str) -> None:
    _run(database.dsn(), "SET ROLE billing_owner", *statements)


def test_a_function_and_a_view_of_an_older_release_are_dropped(database: Database) -> None:
    _as_owner(
        database,
        "CREATE FUNCTION billing.old_charge(p integer) RETURNS integer LANGUAGE sql RETURN p",
        "CREATE FUNCTION billing_data.old_helper() RETURNS integer LANGUAGE sql RETURN 1",
        "CREATE VIEW billing.old_view AS SELECT billing_data.old_helper() AS one",
    )
    report = migrate(database.dsn(), SEED)
    assert report.dropped_definitions == [
        "billing.old_charge",
        "billing.old_view",
        "billing_data.old_helper",
    ]
    assert_golden(database)


@pytest.mark.parametrize(
    "statements",
    [
        (
            "DROP FUNCTION billing.get_settings()",
            "CREATE FUNCTION billing.get_settings() RETURNS text LANGUAGE sql RETURN 'old'",
        ),
        (
            "DROP FUNCTION billing.get_settings()",
            "CREATE FUNCTION billing.get_settings(p_old text) RETURNS text LANGUAGE sql"
            " RETURN p_old",
        ),
        (
            "DROP FUNCTION billing.get_admin(text)",
            "CREATE FUNCTION billing.get_admin(p_address text) RETURNS text LANGUAGE sql"
            " RETURN p_address",
        ),
        (
            "DROP FUNCTION billing.check_credit",
            "CREATE FUNCTION billing.check_credit(p_oauth_provider text, p_external_id text)"
            " RETURNS boolean LANGUAGE sql RETURN true",
        ),
        (
            "DROP FUNCTION billing_data.refuse_change() CASCADE",
            "CREATE FUNCTION billing_data.refuse_change() RETURNS integer LANGUAGE sql RETURN 1",
        ),
        (
            "DROP VIEW billing.ledger CASCADE",
            "CREATE VIEW billing.ledger AS SELECT 1 AS old",
            "CREATE VIEW billing.daily_usage AS SELECT l.old AS day FROM billing.ledger AS l",
        ),
        (
            "DROP VIEW billing.errors",
            "CREATE VIEW billing.errors AS SELECT 'x' AS sqlstate, 1 AS slug",
        ),
    ],
    ids=lambda statements: statements[-1][:60],
)
def test_a_definition_of_another_shape_is_replaced(
    database: Database, statements: tuple[str, ...]
) -> None:
    _as_owner(database, *statements)
    migrate(database.dsn(), SEED)
    assert_golden(database)
    assert migrate(database.dsn(), SEED).dropped_definitions == []
    granted = database.execute("""
        SELECT has_function_privilege(
            CASE p.proname WHEN 'get_admin' THEN 't_dba' ELSE 't_web' END, p.oid, 'EXECUTE'
        ) FROM pg_proc AS p
        WHERE p.pronamespace = 'billing'::regnamespace
            AND p.proname IN ('get_settings', 'get_admin', 'check_credit')
    """)
    assert granted == [(True,)] * 3
    assert database.value("SELECT has_table_privilege('t_analyst', 'billing.ledger', 'SELECT')")


@pytest.mark.parametrize(
    "overload",
    [
        "billing.get_settings(p_more integer)",
        "billing.help()",
        "billing.check_credit(p_oauth_provider text)",
    ],
)
def test_an_overload_beside_a_function_of_ours_goes_and_ours_stays(
    database: Database, overload: str
) -> None:
    _as_owner(
        database, f"CREATE FUNCTION {overload} RETURNS text LANGUAGE sql RETURN 'an overload'"
    )
    migrate(database.dsn(), SEED)
    assert_golden(database)


def test_a_grant_made_by_hand_goes_with_the_next_deploy_or_is_ours(database: Database) -> None:
    _as_owner(
        database,
        "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA billing TO PUBLIC, billing_dba",
        "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA billing_data TO PUBLIC",
        "GRANT USAGE ON SCHEMA billing_data TO PUBLIC",
    )
    migrate(database.dsn(), SEED)
    open_to_all = database.execute("""
        SELECT p.proname FROM pg_proc AS p CROSS JOIN LATERAL aclexplode(p.proacl) AS a
        WHERE p.pronamespace::regnamespace::text LIKE 'billing%' AND a.grantee = 0
    """)
    assert open_to_all == []
    with session(database, "t_web") as web:
        assert web.refused("SELECT billing_data.new_id()").sqlstate == "42501"
    with session(database, "t_dba") as dba:  # an older release let DBAs sign in for others
        assert dba.refusal("end_session", session_hash=bytes(32)).sqlstate == "42501"


def _definitions(database: Database) -> list[Any]:
    return database.execute("""
        SELECT p.oid, p.xmin::text FROM pg_proc AS p
        WHERE p.pronamespace::regnamespace::text LIKE 'billing%'
        UNION ALL
        SELECT c.oid, c.xmin::text FROM pg_class AS c
        WHERE c.relnamespace::regnamespace::text LIKE 'billing%'
        ORDER BY 1
    """)


def test_a_file_that_fails_leaves_everything_as_it_was(database: Database) -> None:
    # A table stands where a file near the end wants to put its view.
    _as_owner(
        database,
        "DROP VIEW billing.daily_usage",
        "CREATE TABLE billing.daily_usage (day date)",
        "CREATE FUNCTION billing.stale() RETURNS integer LANGUAGE sql RETURN 1",
        "DROP FUNCTION billing.get_settings()",
        "CREATE FUNCTION billing.get_settings() RETURNS text LANGUAGE sql RETURN 'old'",
    )
    before = _definitions(database)
    with pytest.raises(MigrationError, match="loading sql/ failed and was undone") as caught:
        migrate(database.dsn(), SEED)
    assert "daily_usage" in str(caught.value)
    assert _definitions(database) == before
    assert database.value("SELECT billing.get_settings()") == "old"
    _as_owner(database, "DROP TABLE billing.daily_usage")
    assert migrate(database.dsn(), SEED).dropped_definitions == ["billing.stale"]
    assert_golden(database)


# What `migrate` locks: after each command of its, what it holds that a server's call would meet.
_WATCH = """
    CREATE TABLE public.watched (number serial, at timestamptz, command text, locked text[]);
    CREATE FUNCTION public.watch() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        INSERT INTO public.watched (at, command, locked)
        SELECT clock_timestamp(), tg_tag, ARRAY(
            SELECT l.relation::regclass::text || ' ' || l.mode
            FROM pg_locks AS l
            INNER JOIN pg_class AS c ON c.oid = l.relation
            WHERE l.pid = pg_backend_pid() AND c.relnamespace::regnamespace::text LIKE 'billing%'
                AND c.oid::regclass::text NOT LIKE '%scratch%'
                AND l.mode NOT IN (
                    'AccessShareLock', 'RowShareLock', 'RowExclusiveLock',
                    'ShareUpdateExclusiveLock'
                )
        );
    END
    $$;
    CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION public.watch();
    CREATE EVENT TRIGGER watch_drops ON sql_drop EXECUTE FUNCTION public.watch();
"""
_LOCKED = """
    SELECT w.command, w.locked,
        extract(EPOCH FROM max(w.at) OVER () - w.at)::float
            / extract(EPOCH FROM max(w.at) OVER () - min(w.at) OVER ())
    FROM public.watched AS w ORDER BY w.number
"""


def _watch(database: Database) -> None:
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        connection.execute(_WATCH.encode())


def test_a_deploy_that_changes_no_table_locks_none(any_cluster: TestCluster) -> None:
    with any_cluster.database() as database:
        _watch(database)
        migrate(database.dsn(), SEED)
        rows = database.execute(_LOCKED)
        assert len(rows) > 100
        assert [row for row in rows if row[1]] == []


def test_a_deploy_waits_for_nobody_where_it_changes_no_table(database: Database) -> None:
    who = _use(database)
    with session(database, "t_dba", autocommit=False) as person_at_work:
        person_at_work.row("create_charge", **who)
        person_at_work.row("create_credit", **who, amount_minor=1)
        person_at_work.row("set_account_status", **who, status="closed", reason="a test")
        assert person_at_work.refusal("get_account", **person()).slug == "account_not_found"
        assert migrate(database.dsn(), SEED) == MigrationReport([], [], [], False)


def test_what_a_deploy_changes_of_views_and_triggers_it_locks_last_and_briefly(
    any_cluster: TestCluster,
) -> None:
    """A disabled trigger, a missing one, one for another event and another errors view are mended,
    and what no release has is dropped; all the other definitions come before."""
    with any_cluster.database() as database:
        views = "SELECT pg_get_viewdef('billing.errors'::regclass)"
        triggers = """
            SELECT pg_get_triggerdef(t.oid), t.tgenabled::text FROM pg_trigger AS t
            WHERE NOT t.tgisinternal ORDER BY 1
        """
        before = database.value(views), database.execute(triggers)
        _as_owner(
            database,
            "ALTER TABLE billing_data.charges DISABLE TRIGGER charges_append_only",
            "DROP TRIGGER api_keys_fixed ON billing_data.api_keys",
            "CREATE OR REPLACE TRIGGER credits_append_only BEFORE DELETE ON billing_data.credits"
            " FOR EACH STATEMENT EXECUTE FUNCTION billing_data.refuse_change()",
            "CREATE OR REPLACE VIEW billing.errors AS SELECT e.slug, e.sqlstate, e.http_status,"
            " e.message, e.hint FROM (VALUES ('a', 'PB422', 422, 'm', 'h'))"
            " AS e (slug, sqlstate, http_status, message, hint)",
            "CREATE VIEW billing.old_view AS SELECT 1 AS one",
        )
        _watch(database)
        assert migrate(database.dsn(), SEED).dropped_definitions == ["billing.old_view"]
        assert (database.value(views), database.execute(triggers)) == before
        rows = database.execute(_LOCKED)
        locked = [row for row in rows if row[1]]
        assert rows[-len(locked) :] == locked
        commands = {command for command, *_ in locked}
        changed = {"CREATE TRIGGER", "ALTER TABLE", "DROP TRIGGER", "CREATE VIEW", "DROP VIEW"}
        assert commands == changed
        assert {lock.split()[0] for lock in locked[-1][1]} == {
            "billing.errors",
            "billing_data.charges",
            "billing_data.credits",
            "billing_data.api_keys",
        }
        assert locked[0][2] < 0.25, "of the whole load"
        assert_golden(database)


def test_a_deploy_that_must_lock_a_held_table_lets_others_pass_until_it_can(
    database: Database,
) -> None:
    """Its locks come last: until it gets them it holds nothing that a charge needs."""
    who, other = _use(database), person()
    _as_owner(database, "ALTER TABLE billing_data.charges DISABLE TRIGGER charges_append_only")
    with session(database, "t_dba") as dba, ThreadPoolExecutor(1) as pool:
        dba.row("check_credit", **other)
        with session(database, "t_dba", autocommit=False) as person_at_work:
            person_at_work.row("create_charge", **who)
            deploy = pool.submit(migrate, database.dsn(), SEED)
            wait_for(
                lambda: database.value(
                    "SELECT count(*) FROM pg_locks AS l WHERE NOT l.granted"
                    " AND l.relation = 'billing_data.charges'::regclass"
                ),
                "the deploy to meet the lock",
            )
            dba.execute("SET lock_timeout = '50ms'")  # the least that a server may be given
            for _ in range(3):
                dba.row("create_charge", **other)
            assert not deploy.done()
            person_at_work.connection.commit()
        deploy.result(timeout=60)
    assert database.execute(
        "SELECT t.tgname FROM pg_trigger AS t WHERE t.tgenabled = 'D'"
    ) == []  # fmt: skip


def test_a_database_nobody_can_reach_is_said_in_one_line(cluster: TestCluster) -> None:
    with pytest.raises(MigrationError, match="cannot connect to the database"):
        migrate(cluster.dsn(f"missing_{uuid.uuid4().hex}"), SEED)


# --- the old service's databases -----------------------------------------------------------------


@pytest.mark.parametrize("action", ["migrate", "rollback", "the command line"])
def test_a_database_of_the_old_service_is_refused_untouched(
    cluster: TestCluster, action: str
) -> None:
    with cluster.database(template=None) as database:
        _run(
            database.dsn(),
            "CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)",
            "INSERT INTO alembic_version VALUES ('2025_10_21_0008')",
            "CREATE TABLE accounts (id uuid PRIMARY KEY)",
        )
        before = database.execute("SELECT c.oid, c.relname, c.xmin::text FROM pg_class AS c")
        if action == "the command line":
            done = _command(database)
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


_LEGACY_ROWS = """
    INSERT INTO accounts (id, oauth_provider, external_id, wa_id, paid_credits,
        free_uses_remaining, total_uses, created_at)
    VALUES
        ('00000000-0000-0000-0000-00000000000a', 'oauth:google', 'ada', 'w', 13, 0, 5, '2025-10-1'),
        ('00000000-0000-0000-0000-00000000000b', 'oauth:google', 'ben', NULL, 6, 3, 2, '2025-10-1'),
        ('00000000-0000-0000-0000-00000000000c', 'oauth:x', 'ada', NULL, 0, 3, 0, '2025-10-1'),
        ('00000000-0000-0000-0000-00000000000d', 'oauth:discord', 'cleo', NULL, 190, 3, 0,
            '2025-10-1'),
        ('00000000-0000-0000-0000-00000000000e', 'oauth:discord', 'dan', NULL, 20, 3, 0,
            '2025-10-1');

    -- Ada: three free uses, a pack, two paid uses; the pack and the next use in one moment.
    INSERT INTO charges (id, account_id, amount_minor, currency, balance_before, balance_after,
        description, idempotency_key, metadata_message_id, created_at)
    SELECT ('10000000-0000-0000-0000-00000000000' || v.n)::uuid,
        '00000000-0000-0000-0000-00000000000a', v.amount, 'USD', v.before, v.after,
        'charge ' || v.n, v.key, 'm' || v.n, v.at
    FROM (VALUES
        (1, 1, 0, 0, 'k1', timestamptz '2025-10-02 10:00Z'),
        (2, 7, 0, 0, NULL, timestamptz '2025-10-02 11:00Z'),
        (3, 1, 0, 0, NULL, timestamptz '2025-10-02 12:00Z'),
        (4, 5, 20, 15, 'k4', timestamptz '2025-10-03 10:00Z'),
        (5, 2, 15, 13, NULL, timestamptz '2025-10-04 10:00Z')
    ) AS v (n, amount, before, after, key, at);
    INSERT INTO credits (id, account_id, amount_minor, currency, balance_before, balance_after,
        transaction_type, description, external_transaction_id, idempotency_key, created_at)
    VALUES ('20000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-00000000000a', 20,
        'USD', 0, 20, 'purchase', 'a pack', 'pi_1', 'pi_1', '2025-10-03 10:00Z');

    -- Ben: his rows are cents of an earlier time, which do not meet his credits.
    INSERT INTO charges (account_id, amount_minor, currency, balance_before, balance_after,
        description, created_at)
    VALUES
        ('00000000-0000-0000-0000-00000000000b', 7, 'USD', 500, 493, 'cents', '2025-10-02'),
        ('00000000-0000-0000-0000-00000000000b', 7, 'USD', 493, 486, 'cents', '2025-10-03');

    -- Cleo: packs bought by Stripe, with descriptions as the old service wrote them and otherwise,
    -- and credits that were no such thing. Dan: a payment that Cleo was credited for too.
    INSERT INTO credits (account_id, amount_minor, currency, balance_before, balance_after,
        transaction_type, description, external_transaction_id, idempotency_key, created_at)
    SELECT '00000000-0000-0000-0000-00000000000d', v.amount, 'USD', v.before,
        v.before + v.amount, v.type, v.description, v.payment, v.key,
        timestamptz '2025-10-05' + v.before * interval '1 minute'
    FROM (VALUES
        (0, 20, 'purchase', 'Purchased $5.00 (20 uses) via Stripe', 'pi_5', 'stripe-pi_5'),
        (20, 50, 'purchase', 'Purchased $1234.50 (50 uses) via Stripe', 'pi_6', 'stripe-pi_6'),
        (70, 20, 'purchase', 'a pack without a price', 'pi_7', 'stripe-pi_7'),
        (90, 20, 'purchase', 'Purchased $0.00 (20 uses) via Stripe', 'pi_8', 'stripe-pi_8'),
        (110, 20, 'purchase', 'Purchased $5.00 (20 uses) via Stripe', 'pi_9', 'stripe-pi_9'),
        (130, 10, 'grant', 'Purchased $5.00 (20 uses) via Stripe', 'pi_10', 'stripe-pi_10'),
        (140, 10, 'purchase', 'Purchased $5.00 (20 uses) via Stripe', 'ch_1', 'stripe-ch_1'),
        (150, 10, 'purchase', 'Purchased $5.00 (20 uses) via Stripe', 'pi_11', NULL),
        (160, 10, 'purchase', 'Purchased $5.00 (20 uses) via Stripe', 'pi_12', 'stripe-pi_13'),
        (170, 20, 'purchase', 'Purchased $5.00 (20 uses) via Stripe', NULL, 'stripe-pi_14')
    ) AS v (before, amount, type, description, payment, key);
    INSERT INTO credits (account_id, amount_minor, currency, balance_before, balance_after,
        transaction_type, description, external_transaction_id, idempotency_key)
    VALUES ('00000000-0000-0000-0000-00000000000e', 20, 'USD', 0, 20, 'purchase',
        'Purchased $5.00 (20 uses) via Stripe', 'pi_9', 'stripe-pi_9');

    INSERT INTO credit_checks (account_id, oauth_provider, external_id, has_credit, created_at)
    VALUES
        ('00000000-0000-0000-0000-00000000000a', 'oauth:google', 'ada', true, '2025-10-02'),
        (NULL, 'oauth:google', 'nobody', false, now());
    INSERT INTO admin_users (id, email, full_name, role)
    VALUES ('30000000-0000-0000-0000-000000000001', 'ada@ciris.ai', 'Ada', 'admin');
    INSERT INTO api_keys (key_hash, key_prefix, name, environment, created_by)
    VALUES ('$argon2id$x', 'cbk_live_12345678901', 'agent', 'live',
        '30000000-0000-0000-0000-000000000001');
    INSERT INTO admin_audit_logs (action, resource_type) VALUES ('old', 'thing');
"""
ADA, BEN = person("ada"), person("ben")
CLEO = {"oauth_provider": "oauth:discord", "external_id": "cleo"}


@pytest.fixture(scope="module")
def taken_over(cluster: TestCluster) -> Iterator[Database]:
    """A database with rows as the old service left them at its ninth step, brought up to now."""
    with cluster.database(template=None) as database:
        _apply_first(database, len(LEGACY))
        assert _applied(database) == LEGACY
        _run(database.dsn(), _LEGACY_ROWS)
        assert migrate(database.dsn(), SEED).applied == OWN
        yield database


@pytest.fixture
def history(taken_over: Database) -> Iterator[Caller]:
    with session(taken_over, "t_dba") as dba:
        yield dba


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
        del row["next_cursor"]  # of the page after the row's own
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
        _apply_first(database, len(LEGACY))
        _run(database.dsn(), _LEGACY_ROWS)
        migrate(database.dsn(), SEED)
        with session(database, "t_dba") as dba:
            give_back(dba, "pi_6", ("re_6", 123450))
        sold = database.execute(_SOLD)
        rollback(database.dsn(), STEPS[::-1].index("2026_11_22_0021_purchase_backfill") + 1)
        assert database.execute(_SOLD) == [row for row in sold if row[0] == "pi_6"]
        migrate(database.dsn(), SEED)
        assert database.execute(_SOLD) == sold
        assert ledger_problems(database) == []


def test_duplicate_identities_stop_the_step_that_forbids_them_and_lose_nothing(
    cluster: TestCluster,
) -> None:
    with cluster.database(template=None) as database:
        _apply_first(database, len(LEGACY))
        _run(
            database.dsn(),
            "INSERT INTO accounts (oauth_provider, external_id) VALUES ('oauth:google', 'ada'),"
            " ('oauth:google', 'ada')",
        )
        with pytest.raises(MigrationError, match="0010_account_identity failed and was undone"):
            migrate(database.dsn(), SEED)
        assert _applied(database) == [*LEGACY, OWN[0]]
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
        # As the release before knows it: what is away is the amount, and at most two entries.
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
            # News from before the newest event is still old, and what is new counts.
            late = give_back(web, "pi_1", ("re_1", PRICE), occurred_at=told - timedelta(days=1))
            assert late["outcome"] == "unchanged"
            lost = give_back(web, "pi_3", ("du_3", PRICE), kind="dispute")
            assert lost["outcome"] == "taken_back"
        assert ledger_problems(database) == []
