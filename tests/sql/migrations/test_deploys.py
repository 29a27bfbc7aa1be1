"""A deploy: what it replaces, drops, locks, and whom it lets pass."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from server.config import SettingsSeed
from server.embedded import Cluster, find_binaries
from server.migrate import (
    KeptSetting,
    MigrationError,
    MigrationReport,
    migrate,
    rollback,
)
from tests.sql.golden import assert_golden
from tests.sql.helpers import (
    account_of,
    person,
    session,
)
from tests.sql.migrations.helpers import (
    SEED,
    STEPS,
    run_statements,
    use_everything,
)
from tests.support import (
    THROW_AWAY,
    Database,
    TestCluster,
    wait_for,
    want_postgresql,
)

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
        who = use_everything(database)
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
    who = use_everything(database)
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


def test_the_first_deploys_of_two_databases_of_one_cluster_do_not_disturb_each_other(
    tmp_path: Path,
) -> None:
    with _bare_cluster(tmp_path, 18) as cluster, ThreadPoolExecutor(2) as pool:
        names = ("one", "two")
        run_statements(cluster.dsn(), *(f"CREATE DATABASE {name}" for name in names))
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
        run_statements(
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
            # Where one login does everything, the server gives up its rights in this way.
            owner.execute("SET ROLE billing_server")
            with pytest.raises(psycopg.Error, match="must name who it is for"):
                owner.execute("SELECT * FROM billing.create_charge(%s, %s)", identity)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                owner.execute("SELECT * FROM billing_data.accounts")
        assert rollback(dsn, len(STEPS)).rolled_back == STEPS[::-1]
        assert migrate(dsn, SEED).applied == STEPS


# --- sql/ on each deploy -------------------------------------------------------------------------


def _as_owner(database: Database, *statements: str) -> None:
    run_statements(database.dsn(), "SET ROLE billing_owner", *statements)


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
    # A table has the name under which a file near the end defines a view.
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


# The locks of `migrate`: after each of its commands, the locks it holds that a server's call would
# wait for.
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
    who = use_everything(database)
    with session(database, "t_dba", autocommit=False) as person_at_work:
        person_at_work.row("create_charge", **who)
        person_at_work.row("create_credit", **who, amount_minor=1)
        person_at_work.row("set_account_status", **who, status="closed", reason="a test")
        assert person_at_work.refusal("get_account", **person()).slug == "account_not_found"
        assert migrate(database.dsn(), SEED) == MigrationReport([], [], [], False)


def test_what_a_deploy_changes_of_views_and_triggers_it_locks_last_and_briefly(
    any_cluster: TestCluster,
) -> None:
    """A disabled trigger, a missing one, one for another event, and another errors view are
    repaired, and definitions that no release has are dropped. All other definitions are loaded
    before."""
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
    """Its locks come last: until it gets them, it holds nothing that a charge needs."""
    who, other = use_everything(database), person()
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
            # The least time-out that a server may be given.
            dba.execute("SET lock_timeout = '50ms'")
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
