"""The command `ciris-billing`, run as its users run it: exit codes, output, configuration."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest

from server.migrate import latest_step
from tests.ops.command_line import SECRET, refused, run
from tests.support import (
    BILLING,
    Database,
    Service,
    TestCluster,
    clean_environment,
    identity,
)

COMMANDS = [
    (),
    ("dev",),
    ("serve",),
    ("migrate",),
    ("verify",),
    ("maintenance",),
    ("seal",),
    ("seal", "run"),
    ("seal", "export"),
    ("seal", "check"),
    ("keys",),
    ("keys", "create"),
    ("keys", "list"),
    ("keys", "rotate"),
    ("keys", "revoke"),
    ("admins",),
    ("admins", "add"),
    ("admins", "list"),
    ("admins", "token"),
    ("admins", "link"),
    ("admins", "logout"),
    ("admins", "invite"),
    ("admins", "deactivate"),
    ("admins", "activate"),
    ("accounts",),
    ("accounts", "find"),
    ("accounts", "show"),
    ("accounts", "suspend"),
    ("accounts", "reactivate"),
    ("accounts", "reverse"),
    ("accounts", "grant"),
    ("payments",),
    ("payments", "find"),
    ("payments", "refund"),
    ("payments", "problems"),
    ("payments", "resolve"),
    ("payments", "reopen"),
    ("payments", "resolve-warning"),
    ("providers",),
    ("providers", "list"),
    ("providers", "set"),
    ("providers", "test"),
    ("providers", "reencrypt"),
    ("reconcile",),
    ("completion",),
]


# The arguments of a complete command line, beside the command's name.
ARGUMENTS: dict[tuple[str, ...], list[str]] = {
    ("keys", "create"): ["agent"],
    ("keys", "rotate"): ["cbk_test_00000000000"],
    ("keys", "revoke"): ["cbk_test_00000000000"],
    ("admins", "add"): ["ada@example.com"],
    ("admins", "token"): ["ada@example.com"],
    ("admins", "link"): ["ada@example.com"],
    ("admins", "logout"): ["ada@example.com", "--reason", "a test"],
    ("admins", "invite"): ["ada@example.com", "--reason", "a test"],
    ("admins", "deactivate"): ["ada@example.com", "--reason", "a test"],
    ("admins", "activate"): ["ada@example.com", "--reason", "a test"],
    ("accounts", "find"): ["ada"],
    ("accounts", "show"): ["ada@example.com"],
    ("accounts", "suspend"): ["ada@example.com", "--reason", "a test"],
    ("accounts", "reactivate"): ["ada@example.com", "--reason", "a test"],
    ("accounts", "reverse"): ["019a9c2e-7f06-7a52-9c1e-0b8d4f6a2e93", "--reason", "a test"],
    ("payments", "find"): ["pi_1"],
    ("payments", "refund"): ["pi_1", "--reason", "a test"],
    ("accounts", "grant"): ["--file", "november.csv", "--reason", "a test"],
    ("payments", "resolve"): ["pi_1", "--how", "other", "--reason", "a test"],
    ("payments", "reopen"): ["pi_1", "--reason", "a test"],
    ("payments", "resolve-warning"): ["issfr_1", "--reason", "a test"],
    ("providers", "set"): ["stripe"],
    ("reconcile",): ["stripe", "--since", "2026-11-01"],
    ("seal", "check"): ["seals"],
    ("completion",): ["bash"],
}


def on(database: Database, *arguments: str, user: str = "postgres", **environment: str) -> str:
    """Returns what the command prints when it succeeds on this database."""
    done = run(*arguments, environment={"DATABASE_URL": database.dsn(user), **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def staff_database(cluster: TestCluster) -> Iterator[Database]:
    """A database that the command itself has migrated, for staff at example.com."""
    with cluster.database(template=None) as database:
        on(database, "migrate", ADMIN_EMAIL_DOMAIN="Example.Com")
        yield database


# Usage


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    done = run(*command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {' '.join(['ciris-billing', *command])} ")
    assert "--help" in done.stdout


def test_the_help_lists_no_command_that_these_tests_do_not_know() -> None:
    for group in ((), ("keys",), ("admins",), ("providers",)):
        text = run(*group, "--help").stdout.partition("COMMAND\n" if not group else "ACTION\n")[2]
        listed = set(re.findall(r"^    (\w+)", text, re.MULTILINE))
        known = {command[-1] for command in COMMANDS if command and command[:-1] == group}
        assert listed == known


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_unknown_option_is_answered_with_the_usage(command: tuple[str, ...]) -> None:
    message = refused(run(*command, *ARGUMENTS.get(command, []), "--frobnicate"), 2)
    assert message.startswith("usage: ciris-billing")
    assert "--frobnicate" in message or "required" in message


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("frobnicate",),
        ("keys",),
        ("keys", "frobnicate"),
        ("keys", "create"),
        ("keys", "create", "agent", "--environment", "moon"),
        ("keys", "create", "agent", "--expires-in-days", "soon"),
        ("keys", "list", "--status", "lost"),
        ("admins", "add", "ada@example.com", "--role", "emperor"),
        ("admins", "token"),
        ("admins", "logout", "ada@example.com"),
        ("serve", "--port", "http"),
        ("dev", "--postgres", "9"),
        ("migrate", "--rollback", "0"),
        ("migrate", "--rollback", "some"),
        ("migrate", "--status", "--rollback", "1"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_answered_with_the_usage(arguments: tuple[str, ...]) -> None:
    assert refused(run(*arguments), 2).startswith("usage: ciris-billing")


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("kyes", "list"), "keys"),
        (("admins", "lnk", "ada@example.com"), "link"),
        (("keys", "list", "--enviroment", "test"), "--environment"),
        (("keys", "list", "--enviroment=test"), "--environment"),
        (("keys", "create", "agent", "--environment", "tset"), "test"),
    ],
    ids=" ".join,
)
def test_what_was_probably_meant_is_named(arguments: tuple[str, ...], meant: str) -> None:
    assert f"did you mean {meant}?" in refused(run(*arguments), 2)
    assert "did you mean" not in refused(run("keys", "list", "--frobnicate"), 2)


def test_a_shell_completes_commands_and_options(tmp_path: Path) -> None:
    def completed(line: str) -> set[str]:
        """The words that bash offers at the line's end, by the printed function."""
        script = f"""
            eval "$(ciris-billing completion bash)"
            COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)} COMP_TYPE=9
            COMP_WORDS=({line}) COMP_CWORD={len(line.split()) - 1}
            _python_argcomplete ciris-billing
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        done = subprocess.run(
            ["bash", "-c", script],
            check=True,
            capture_output=True,
            text=True,
            env={**clean_environment(), "PATH": f"{Path(BILLING).parent}:{os.environ['PATH']}"},
            cwd=tmp_path,
        )
        return {word.strip() for word in done.stdout.splitlines()}

    assert completed("ciris-billing pro") == {"providers"}
    assert completed("ciris-billing keys r") == {"rotate", "revoke"}
    assert completed("ciris-billing keys list --env") == {"--environment"}


def test_the_version_is_told() -> None:
    assert re.fullmatch(r"ciris-billing \d+\.\d+\.\d+\n", run("--version").stdout)


# Migrating


def test_migrate_brings_an_empty_database_up_and_then_changes_nothing(cluster: TestCluster) -> None:
    with cluster.database(template=None) as database:
        before = json.loads(on(database, "migrate", "--status", "--json"))
        assert before["pending"] == len(before["steps"]) > 9
        tables = "SELECT count(*) FROM pg_tables WHERE schemaname !~ '^(pg_|information_)'"
        assert database.value(tables) == 0  # asking for the status creates nothing

        assert latest_step() in on(database, "migrate")
        assert "up to date" in on(database, "migrate", "--status")
        again = json.loads(on(database, "migrate", "--json"))
        assert (again["applied"], again["dropped_definitions"]) == ([], [])
        after = json.loads(on(database, "migrate", "--status", "--json"))
        assert after["pending"] == 0
        assert [step["step"] for step in after["steps"]] == sorted(
            step["step"] for step in before["steps"]
        )


def test_migrate_prefers_the_owners_url(database: Database) -> None:
    done = run(
        "migrate",
        environment={
            "DATABASE_URL": database.dsn("t_web"),
            "MIGRATION_DATABASE_URL": database.dsn(),
        },
    )
    assert done.returncode == 0, done.stderr


def test_migrate_by_a_login_that_may_not_is_refused_with_advice(cluster: TestCluster) -> None:
    with cluster.database(template=None) as empty:
        message = refused(run("migrate", environment={"DATABASE_URL": empty.dsn("t_web")}), 1)
    assert re.search(r"MIGRATION_DATABASE_URL|\bown(s|er|ed)?\b|superuser", message)


def test_a_first_price_that_stripe_does_not_take_is_explained_and_can_be_mended(
    cluster: TestCluster,
) -> None:
    with cluster.database(template=None) as empty:
        environment = {"DATABASE_URL": empty.dsn(), "PACK_CURRENCY": "HUF"}
        message = refused(run("migrate", environment=environment), 1)
        assert "The least price that Stripe takes in HUF is 175.00 HUF" in message
        assert "PACK_PRICE_MINOR" in message
        on(empty, "migrate", PACK_CURRENCY="HUF", PACK_PRICE_MINOR="50000")
        price = empty.value("SELECT pack_price_minor FROM billing.get_settings()")
        assert price == 50_000


def test_migrate_rolls_back_only_when_told_twice(cluster: TestCluster) -> None:
    with cluster.database() as database:
        environment = {"DATABASE_URL": database.dsn()}
        hesitant = run("migrate", "--rollback", "1", environment=environment)
        assert hesitant.returncode in (1, 2)
        assert "--yes" in hesitant.stderr
        assert json.loads(on(database, "migrate", "--status", "--json"))["pending"] == 0

        done = json.loads(on(database, "migrate", "--rollback", "1", "--yes", "--json"))
        assert done["rolled_back"] == [latest_step()]
        assert json.loads(on(database, "migrate", "--status", "--json"))["pending"] == 1
        on(database, "migrate")


# Keys


def test_a_key_is_created_used_rotated_and_revoked(service: Service) -> None:
    database = service.database

    def status(secret: str) -> int:
        with service.client() as client:
            answer = client.post(
                "/v1/billing/credits/check", json=identity(), headers={"X-API-Key": secret}
            )
            return answer.status_code

    made = json.loads(on(database, "keys", "create", "agent one", "--environment=test", "--json"))
    old = made["plaintext_key"]
    assert re.fullmatch(r"cbk_test_[A-Za-z0-9_-]{43}", old)
    assert made["key_prefix"] == old[:20]
    assert made["permissions"] == ["billing:read", "billing:write"]
    assert status(old) == 200

    turned = json.loads(on(database, "keys", "rotate", made["key_prefix"], "--json"))
    new = turned["plaintext_key"]
    grace = datetime.fromisoformat(turned["old_key_expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=23, minutes=55) < grace <= timedelta(hours=24)
    assert (status(old), status(new)) == (200, 200)

    assert "agent one" in on(database, "keys", "revoke", turned["api_key_id"])
    assert (status(old), status(new)) == (200, 401)
    revoked = json.loads(on(database, "keys", "revoke", made["api_key_id"], "--json"))
    assert revoked["status"] == "revoked"
    assert (status(old), status(new)) == (401, 401)
    on(database, "keys", "revoke", made["api_key_id"])  # revoking it again is allowed


def test_a_key_is_shown_once_and_then_never_again(database: Database) -> None:
    shown = on(
        database,
        *("keys", "create", "proxy", "--permission", "billing:read", "--expires-in-days", "7"),
        *("--description", "the proxy beside agent one"),
    )
    [secret] = re.findall(r"cbk_live_[A-Za-z0-9_-]{43}", shown)
    assert "billing:read" in shown
    assert "billing:write" not in shown
    listings = [
        on(database, "keys", "list"),
        on(database, "keys", "list", "--json"),
        on(database, "keys", "list", "--environment", "live", "--status", "active"),
    ]
    for listing in listings:
        assert secret[:20] in listing
        assert secret not in listing
        assert "argon2" not in listing
    [row] = json.loads(listings[1])
    assert row["permissions"] == ["billing:read"]
    left = datetime.fromisoformat(row["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=6, hours=23) < left <= timedelta(days=7)
    assert json.loads(on(database, "keys", "list", "--status", "revoked", "--json")) == []
    assert "proxy" not in on(database, "keys", "list", "--environment", "test")


def test_an_empty_list_of_keys_says_what_to_do(database: Database) -> None:
    assert "keys create" in on(database, "keys", "list")
    assert json.loads(on(database, "keys", "list", "--json")) == []


@pytest.mark.parametrize("action", ["rotate", "revoke"])
def test_a_key_that_is_not_there_is_named(database: Database, action: str) -> None:
    for key in ("cbk_test_00000000000", "00000000-0000-4000-8000-000000000000"):
        done = run("keys", action, key, environment={"DATABASE_URL": database.dsn()})
        assert f"API key not found: {key}" in refused(done, 1)


def test_a_revoked_key_cannot_be_rotated(database: Database) -> None:
    key = database.create_key()
    on(database, "keys", "revoke", key.prefix)
    done = run("keys", "rotate", key.prefix, environment={"DATABASE_URL": database.dsn()})
    assert "API key cannot be rotated: its status is revoked" in refused(done, 1)


def test_what_the_database_refuses_is_said_in_its_words(database: Database) -> None:
    environment = {"DATABASE_URL": database.dsn()}
    for days in ("0", "3651"):
        done = run("keys", "create", "agent", "--expires-in-days", days, environment=environment)
        assert done.returncode in (1, 2)
        assert "1 to 3650" in done.stderr
    done = run("keys", "create", "agent", "--permission", "billing:wirte", environment=environment)
    assert "it must be a list of billing:read, billing:write" in refused(done, 1)
    assert "1 to 255 characters" in refused(run("keys", "create", "", environment=environment), 1)


@pytest.mark.parametrize(
    ("arguments", "user"),
    [
        (("keys", "create", "a" * 300), "postgres"),
        (("keys", "create", "agent", "--permission", "billing:all"), "postgres"),
        (("keys", "create", "agent", "--expires-in-days", "9999999999"), "postgres"),
        (("keys", "rotate", "00000000-0000-4000-8000-000000000000"), "postgres"),
        (("keys", "list"), "t_web"),
        (("keys", "create", "agent"), "t_web"),
        (("admins", "add", "nobody"), "postgres"),
        (("admins", "invite", "nobody@example.com", "--reason", " "), "postgres"),
        (("payments", "resolve", "pi_1", "--how", "credited", "--reason", "x"), "postgres"),
        (("payments", "reopen", "pi_1", "--reason", "x"), "postgres"),
        (("payments", "resolve-warning", "issfr_1", "--reason", "x"), "postgres"),
    ],
    ids=" ".join,
)
def test_a_refusal_names_nothing_that_only_psql_knows(
    module_database: Database, arguments: tuple[str, ...], user: str
) -> None:
    done = run(*arguments, environment={"DATABASE_URL": module_database.dsn(user)})
    message = refused(done, 1)
    assert not re.search(r"\bp_[a-z]|\bbilling(_data)?\.|\bfunction\b|\bSELECT\b|PB\d", message)


def test_a_function_that_is_missing_is_not_named(database: Database) -> None:
    database.execute("DROP FUNCTION billing.verify_ledger")
    message = refused(run("verify", environment={"DATABASE_URL": database.dsn()}), 1)
    assert "ciris-billing migrate" in message
    assert "verify_ledger" not in message


def test_the_servers_own_login_may_not_make_keys(database: Database) -> None:
    done = run("keys", "create", "agent", environment={"DATABASE_URL": database.dsn("t_web")})
    assert "who it is for" in refused(done, 1)
    assert "cbk_" not in done.stdout
    assert database.value("SELECT count(*) FROM billing_data.api_keys") == 0


# Staff


def test_staff_are_added_listed_and_changed(staff_database: Database) -> None:
    added = json.loads(
        on(staff_database, "admins", "add", "Grace@example.com", "--name", "Grace H", "--json")
    )
    assert (added["email"], added["role"]) == ("grace@example.com", "viewer")
    changed = on(staff_database, "admins", "add", "grace@example.com", "--role", "admin")
    assert "grace@example.com is admin" in changed
    listed = json.loads(on(staff_database, "admins", "list", "--json"))
    [row] = [row for row in listed if row["email"] == "grace@example.com"]
    assert (row["role"], row["full_name"], row["is_active"]) == ("admin", "Grace H", True)
    assert row["admin_user_id"] == added["admin_user_id"]
    assert "grace@example.com" in on(staff_database, "admins", "list")


def test_an_empty_list_of_staff_says_what_to_do(database: Database) -> None:
    assert "admins add" in on(database, "admins", "list")


@pytest.mark.parametrize("email", ["eve@example.org", "eve@sub.example.com", "eve", "@example.com"])
def test_staff_of_another_domain_are_refused(staff_database: Database, email: str) -> None:
    environment = {"DATABASE_URL": staff_database.dsn()}
    message = refused(run("admins", "add", email, environment=environment), 1)
    assert "example.com" in message or "e-mail address" in message


def test_a_token_is_a_jwt_that_lives_for_a_day(staff_database: Database, tmp_path: Path) -> None:
    added = json.loads(
        on(staff_database, "admins", "add", "ada@example.com", "--role", "admin", "--json")
    )
    secret_file = tmp_path / "jwt-secret"
    secret_file.write_text(f"{SECRET}\n")
    before = datetime.now(UTC).replace(microsecond=0)
    printed = on(staff_database, "admins", "token", "ADA@example.com", ADMIN_JWT_SECRET=SECRET)
    as_json = json.loads(
        on(
            staff_database,
            *("admins", "token", "ada@example.com", "--json"),
            ADMIN_JWT_SECRET_FILE=str(secret_file),
        )
    )
    for token in (printed.strip(), as_json["token"]):
        claims = jwt.decode(token, SECRET, algorithms=["HS256"])
        assert set(claims) == {"sub", "email", "role", "iat", "exp"}
        assert claims["sub"] == added["admin_user_id"]
        assert (claims["email"], claims["role"]) == ("ada@example.com", "admin")
        assert claims["exp"] - claims["iat"] == 24 * 3600
        assert before <= datetime.fromtimestamp(claims["iat"], UTC) <= datetime.now(UTC)
        with pytest.raises(jwt.InvalidSignatureError):
            jwt.decode(token, SECRET[::-1], algorithms=["HS256"])
    assert datetime.fromisoformat(as_json["expires_at"]) > before + timedelta(hours=23)


@pytest.mark.parametrize("secret", [None, "", "short-1", "a" * 64, "ab" * 40])
def test_no_token_without_a_strong_secret(staff_database: Database, secret: str | None) -> None:
    on(staff_database, "admins", "add", "ada@example.com", "--role", "admin")
    environment = {"DATABASE_URL": staff_database.dsn()}
    if secret is not None:
        environment["ADMIN_JWT_SECRET"] = secret
    done = run("admins", "token", "ada@example.com", environment=environment)
    message = refused(done, 2)
    assert "ADMIN_JWT_SECRET" in message
    assert "at least 32" in message
    assert done.stdout == ""
    assert not secret or secret not in message


def test_no_token_for_who_is_not_active_staff(staff_database: Database) -> None:
    on(staff_database, "admins", "add", "gone@example.com")
    staff_database.execute(
        "UPDATE billing_data.admin_users SET is_active = false WHERE email = 'gone@example.com'"
    )
    environment = {"DATABASE_URL": staff_database.dsn(), "ADMIN_JWT_SECRET": SECRET}
    for email in ("gone@example.com", "never@example.com"):
        done = run("admins", "token", email, environment=environment)
        assert f"Staff member not found: {email}" in refused(done, 1)
        assert done.stdout == ""


def test_sign_in_links_are_made_where_dev_runs(staff_database: Database) -> None:
    environment = {"DATABASE_URL": staff_database.dsn()}
    message = refused(run("admins", "link", "ada@example.com", environment=environment), 1)
    assert "ciris-billing dev" in message


# Verifying


def test_verify_finds_what_was_damaged(database: Database) -> None:
    for user in ("1", "2"):
        database.execute(
            "SELECT * FROM billing.check_credit(p_oauth_provider => 'oauth:google',"
            " p_external_id => %s)",
            user,
            user="t_dba",
        )
    assert "agree" in on(database, "verify")
    assert json.loads(on(database, "verify", "--json")) == {"problems": []}
    damaged = database.value(
        "UPDATE billing_data.accounts SET paid_credits = paid_credits + 5"
        " WHERE external_id = '2' RETURNING id::text"
    )
    done = run("verify", environment={"DATABASE_URL": database.dsn()})
    assert done.returncode == 1
    assert damaged in done.stdout
    as_json = run("verify", "--json", environment={"DATABASE_URL": database.dsn()})
    assert as_json.returncode == 1
    problems = json.loads(as_json.stdout)["problems"]
    assert {problem["account_id"] for problem in problems} == {damaged}
