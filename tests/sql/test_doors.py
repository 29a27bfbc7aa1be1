"""What a login may do in the database without being granted it: nothing beyond its needs, so that
no login can stop the others. The login itself tries each statement, after a deploy."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from server.config import SettingsSeed
from server.migrate import migrate, open_doors
from tests.sql.helpers import session
from tests.support import Database, TestCluster, unique

NO_RIGHT = "42501"
# Login, statement: each is refused for want of a right.
ATTACKS = {
    "200,000 advisory locks": "SELECT pg_advisory_lock(n) FROM generate_series(1, 200000) AS n",
    "tried": "SELECT pg_try_advisory_lock(1, 2)",
    "of a transaction": "SELECT pg_advisory_xact_lock(1)",
    "shared": "SELECT pg_try_advisory_xact_lock_shared(1)",
    "a large object": "SELECT lo_create(0)",
    "a large object of bytes": "SELECT lo_from_bytea(0, 'x')",
    "a large object by libpq": "SELECT lo_creat(-1)",
    "a temporary table": "CREATE TEMPORARY TABLE mine (n integer)",
    "a table": "CREATE TABLE public.mine (n integer)",
    "a number for each savepoint": "SELECT pg_current_xact_id()",
    "a number by its old name": "SELECT txid_current()",
}


@pytest.fixture(scope="module")
def deployed(cluster: TestCluster) -> Iterator[Database]:
    """A database after a deploy by a superuser; a clone of the template does not have its
    rights."""
    with cluster.database() as database:
        migrate(database.dsn(), SettingsSeed())
        yield database


def _role(database: Database, options: str) -> str:
    name = unique("door").replace("-", "_")
    database.execute(f"CREATE ROLE {name} LOGIN {options}")
    return name


def test_a_login_without_any_role_cannot_connect(deployed: Database) -> None:
    name = _role(deployed, "")
    try:
        with (
            pytest.raises(psycopg.OperationalError, match="permission denied for database"),
            session(deployed, name),
        ):
            pass
    finally:
        deployed.execute(f"DROP ROLE {name}")


@pytest.mark.parametrize("login", ["t_web", "t_dba", "t_analyst"])
@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_no_login_may_use_up_what_all_share(deployed: Database, login: str, attack: str) -> None:
    with session(deployed, login) as caller:
        assert caller.refused(ATTACKS[attack]).sqlstate == NO_RIGHT


def test_what_a_pool_says_when_a_connection_comes_back_is_allowed(deployed: Database) -> None:
    with session(deployed, "t_web") as web:
        web.execute("SELECT pg_advisory_unlock_all()")
        web.execute("DISCARD ALL")


@pytest.mark.parametrize("options", ["", "NOINHERIT"])
def test_a_member_of_a_role_may_connect_whether_it_inherits_or_not(
    deployed: Database, options: str
) -> None:
    name = _role(deployed, f"{options} IN ROLE billing_server")
    try:
        migrate(deployed.dsn(), SettingsSeed())
        with session(deployed, name) as login:
            login.execute("SET ROLE billing_server")
            assert login.value("get_schema_version")
    finally:
        deployed.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_logins_get_limits_and_keep_those_they_have(deployed: Database) -> None:
    plain = _role(deployed, "IN ROLE billing_analyst")
    chosen = _role(deployed, "CONNECTION LIMIT 7 IN ROLE billing_analyst")
    deployed.execute(f"ALTER ROLE {chosen} SET lock_timeout = '77s'")
    try:
        migrate(deployed.dsn(), SettingsSeed())
        limits = dict(
            deployed.execute(
                "SELECT r.rolname::text, r.rolconnlimit FROM pg_roles AS r"
                " WHERE r.rolname IN (%s, %s)",
                plain,
                chosen,
            )
        )
        assert limits[chosen] == 7
        assert 5 <= limits[plain] < 100
        for name, lock_timeout in ((plain, "5s"), (chosen, "77s")):
            with session(deployed, name) as login:
                (row,) = login.execute(
                    "SELECT current_setting('lock_timeout') AS lock,"
                    " current_setting('statement_timeout') AS statement,"
                    " current_setting('idle_in_transaction_session_timeout') AS idle"
                )
            assert row == {"lock": lock_timeout, "statement": "5min", "idle": "1min"}
    finally:
        for name in (plain, chosen):
            deployed.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_a_dba_sees_what_others_do_and_counts_calls_of_functions_and_nobody_else_does(
    deployed: Database,
) -> None:
    with session(deployed, "t_dba") as dba, session(deployed, "t_web") as web:
        web.rows("get_settings")
        seen = (
            "SELECT a.query LIKE '%%get_settings%%' AS it FROM pg_stat_activity AS a"
            " WHERE a.usename = 't_web' AND a.datname = current_database()"
        )
        assert dba.execute(seen) == [{"it": True}]
        dba.execute("SET track_functions = 'pl'")
        dba.rows("list_audit_log")
        dba.execute("SELECT pg_stat_force_next_flush()")
        counted = dba.execute(
            "SELECT f.calls FROM pg_stat_user_functions AS f WHERE f.funcname = 'list_audit_log'"
        )
        assert counted == [{"calls": 1}]
        assert web.refused("SET track_functions = 'pl'").sqlstate == NO_RIGHT
        assert web.execute("SELECT pg_has_role('pg_monitor', 'MEMBER') AS it") == [{"it": False}]


def test_the_service_works_behind_closed_doors(deployed: Database) -> None:
    assert [door for door in open_doors(deployed.dsn()) if "connect to" not in door.door] == []
    with session(deployed, "t_dba") as dba:
        dba.row("check_credit", oauth_provider="oauth:google", external_id="1")
        dba.row("create_charge", oauth_provider="oauth:google", external_id="1")
        dba.rows("try_writing")


def test_an_owner_who_is_no_superuser_is_told_what_one_must_do(any_cluster: TestCluster) -> None:
    with any_cluster.database(template=None) as database:
        owner = _role(database, "CREATEROLE")
        database.execute(
            f"GRANT billing_owner, billing_server TO {owner} WITH ADMIN OPTION;"
            f" ALTER DATABASE {database.name} OWNER TO {owner}"
        )
        try:
            report = migrate(database.dsn(owner), SettingsSeed())
            left = {door.door for door in report.open_doors}
            assert "everybody may use advisory locks" in left
            assert not {door for door in left if door.startswith("everybody has")}
            outsider = _role(database, "")
            with pytest.raises(psycopg.OperationalError), session(database, outsider):
                pass
            database.execute(f"DROP ROLE {outsider}")
            # A superuser does what the report says; then nothing is left.
            for door in report.open_doors:
                if "connect to" not in door.door:
                    database.execute(door.mend)
            again = migrate(database.dsn(owner), SettingsSeed())
            assert [door for door in again.open_doors if "connect to" not in door.door] == []
        finally:
            database.execute(f"ALTER DATABASE {database.name} OWNER TO postgres")
            database.execute(f"REASSIGN OWNED BY {owner} TO postgres; DROP OWNED BY {owner}")
            database.execute(f"DROP ROLE {owner}")
