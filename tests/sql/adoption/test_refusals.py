"""What refuses to be taken over, and stays as it was."""

from __future__ import annotations

import threading

import psycopg
import pytest

from server.adopt import adopt, forecast
from server.migrate import MigrationError, migrate
from tests.old_database import build
from tests.sql.adoption.helpers import (
    KEY,
    LAST,
    SEED,
    bare_database,
    migrate_command,
    old_database,
    refused,
    take_over,
)
from tests.sql.helpers import ledger_problems
from tests.support import (
    Database,
    TestCluster,
)


def test_another_revision_is_refused(cluster: TestCluster) -> None:
    with bare_database(cluster) as (database, connection):
        connection.execute("UPDATE public.alembic_version SET version_num = '2027_01_01_0022'")
        connection.commit()
        told = refused(database)
        assert "revision 2027_01_01_0022" in told
        assert "alembic upgrade" in told
        database.execute("DELETE FROM public.alembic_version")
        assert "revision none" in refused(database)


def test_a_database_that_is_ours_or_empty_is_refused(
    database: Database, cluster: TestCluster
) -> None:
    assert "without --adopt" in refused(database)
    with cluster.database(template=None) as empty:
        assert "no database of the old service" in refused(empty)


def test_an_incomplete_old_database_is_refused(cluster: TestCluster) -> None:
    with bare_database(cluster) as (database, connection):
        connection.execute("DROP TABLE public.credits")
        connection.commit()
        assert "has no credits: is it restored completely?" in refused(database)


def test_who_may_write_is_in_the_way_and_who_reads_is_not(cluster: TestCluster) -> None:
    with bare_database(cluster) as (database, connection):
        connection.execute("CREATE ROLE t_watcher LOGIN IN ROLE pg_monitor")
        connection.commit()
        with psycopg.connect(database.dsn("t_watcher"), application_name="watcher") as watcher:
            with psycopg.connect(database.dsn(), application_name="old service"):
                told = refused(database)
                assert "1 others may write" in told
                assert "old service" in told
                assert "stop the old service" in told
                report = forecast(database.dsn(), SEED, [KEY])
                assert report is not None
                assert len(report.writers) == 1
            watcher.execute("SELECT 1")
            take_over(database)
        with psycopg.connect(cluster.dsn("postgres"), autocommit=True) as admin:
            admin.execute("DROP ROLE t_watcher")


def test_an_idle_session_of_a_login_that_was_named_may_stay_and_a_busy_one_not(
    cluster: TestCluster,
) -> None:
    with bare_database(cluster) as (database, connection):
        connection.commit()
        with psycopg.connect(database.dsn(), autocommit=True) as kept:
            assert "may stay with --idle-login" in refused(database)
            for logins in (["--idle-login", "somebody"], []):
                told = migrate_command(database, "--adopt", *logins)
                assert told.returncode == 1
                assert "1 others may write" in told.stderr
            named = ("--adopt", "--idle-login", "t_web", "--idle-login", "postgres")
            kept.execute("BEGIN")
            assert "1 others may write" in migrate_command(database, *named).stderr
            kept.execute("ROLLBACK")
            foreseen = forecast(database.dsn(), SEED, [KEY], idle_logins=["postgres"])
            assert foreseen is not None
            assert foreseen.writers == ()
            done = migrate_command(database, *named)
            assert done.returncode == 0, done.stderr
            assert kept.execute("SELECT to_regclass('public.charges')").fetchone() == (None,)
        alone = migrate_command(database, "--idle-login", "postgres")
        assert (alone.returncode, "goes with --adopt" in alone.stderr) == (1, True)


def test_a_reader_who_left_a_transaction_open_is_told_of(cluster: TestCluster) -> None:
    with bare_database(cluster) as (database, connection):
        connection.execute("CREATE ROLE t_reader LOGIN")
        connection.execute("GRANT SELECT ON public.accounts TO t_reader")
        connection.commit()
        with psycopg.connect(database.dsn("t_reader")) as reader:
            reader.execute("SELECT count(*) FROM public.accounts")
            assert "somebody holds a lock on the old tables" in refused(database)
        take_over(database)
        database.execute("DROP OWNED BY t_reader")
        database.execute("DROP ROLE t_reader")


def test_secrets_need_a_key_before_anything_is_done(cluster: TestCluster) -> None:
    with old_database(cluster, accounts=10, charges=10) as (database, _):
        told = refused(database, keys=[])
        assert "ENCRYPTION_KEY is not set" in told
        with pytest.raises(MigrationError, match="ENCRYPTION_KEY is not set"):
            forecast(database.dsn(), SEED, [])
        weak = migrate_command(database, "--adopt", ENCRYPTION_KEY="short")
        assert weak.returncode == 2
        assert "ENCRYPTION_KEY is too weak" in weak.stderr
        database.execute("DELETE FROM public.provider_configs")
        database.execute("DELETE FROM public.admin_audit_logs")
        assert adopt(database.dsn(), SEED, []) is not None


def test_a_session_that_ends_at_that_moment_is_not_in_the_way(cluster: TestCluster) -> None:
    with old_database(cluster, accounts=10, charges=10) as (database, _):
        session = psycopg.connect(database.dsn())
        threading.Timer(0.5, session.close).start()
        assert adopt(database.dsn(), SEED, [KEY]) is not None


def test_a_login_that_owns_the_tables_and_may_make_roles_is_enough(cluster: TestCluster) -> None:
    with cluster.database(template=None) as database:
        database.execute("CREATE ROLE t_old_owner LOGIN CREATEROLE NOSUPERUSER")
        database.execute(f"ALTER DATABASE {database.name} OWNER TO t_old_owner")
        database.execute(
            "GRANT billing_owner, billing_server, billing_dba, billing_analyst TO t_old_owner"
            " WITH ADMIN OPTION"
        )
        build(database.dsn("t_old_owner"), LAST, accounts=50, charges=100)
        assert adopt(database.dsn("t_old_owner"), SEED, [KEY]) is not None
        migrate(database.dsn("t_old_owner"), SEED)
        assert ledger_problems(database) == []
        database.execute("REASSIGN OWNED BY t_old_owner TO postgres")
        database.execute("DROP OWNED BY t_old_owner")
        database.execute("DROP ROLE t_old_owner")


def test_a_failure_leaves_nothing_behind_and_shows_no_row(cluster: TestCluster) -> None:
    with old_database(cluster, accounts=10, charges=10) as (database, _):
        database.execute("CREATE VIEW public.somebodys AS SELECT * FROM public.accounts")
        told = refused(database)
        assert "was undone, the old one is as it was" in told
        assert "depend on it" in told
        database.execute("DROP VIEW public.somebodys")
        take_over(database)
