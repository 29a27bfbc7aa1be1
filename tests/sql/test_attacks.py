"""What an attacker with a stolen connection string may try: one row for each attack (login,
statement, how it is refused). A newly found hole is a new row here. docs/architecture.md says what
stays possible."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg import sql

from server.api_key_secret import credential_of, new_secret
from tests.sql.helpers import (
    account_of,
    charge_all,
    charge_once,
    key_id,
    new_user,
    session,
    set_staff_domain,
    staff,
)
from tests.sql.payments import configure_provider, deliver
from tests.support import Database, unique

NO_RIGHT = "42501"
NO_SUCH_FUNCTION = "42883"
WEB, DBA, ANALYST, NOBODY = "t_web", "t_dba", "t_analyst", "nobody"


@dataclass(frozen=True)
class Attack:
    """Who tries what, with the scene's values. `refused` is a SQLSTATE or the slug of an error."""

    login: str
    what: str
    statement: str
    refused: str


_SIGN_IN = "SELECT * FROM billing.sign_in_admin(p_email => %(admin)s, p_session_hash => %(mine)s, "
ATTACKS = (
    # To become an administrator
    Attack(WEB, "to call oneself a founder", _SIGN_IN + "p_google_id => 'x', p_is_founder => true)",
           NO_SUCH_FUNCTION),
    Attack(WEB, "to name founders", "SELECT billing.seed_founders(p_emails => ARRAY[%(new)s])",
           NO_RIGHT),
    Attack(WEB, "to set the staff's domain",
           "SELECT billing.seed_settings(p_admin_email_domain => 'evil.example')", NO_RIGHT),
    Attack(WEB, "to come from another domain", "SELECT * FROM billing.sign_in_admin("
           "p_email => 'ada@evil.example', p_google_id => 'x', p_session_hash => %(mine)s)",
           "admin_domain_refused"),
    Attack(WEB, "to sign in as an administrator", _SIGN_IN + "p_google_id => 'made up')",
           "admin_not_invited"),
    Attack(WEB, "to sign in as one whose invitation is over", "SELECT * FROM billing.sign_in_admin("
           "p_email => %(late)s, p_google_id => 'made up', p_session_hash => %(mine)s)",
           "admin_not_invited"),
    Attack(WEB, "to invite an administrator anew", "SELECT billing.invite_admin("
           "p_email => %(admin)s, p_reason => 'x', p_session_hash => %(viewer)s)",
           "admin_role_required"),
    Attack(WEB, "to promote oneself", "SELECT * FROM billing.set_admin(p_email => %(self)s,"
           " p_role => 'admin', p_reason => 'x', p_session_hash => %(viewer)s)",
           "admin_role_required"),
    Attack(WEB, "to add oneself as an administrator", "SELECT * FROM billing.add_admin("
           "p_email => %(new)s, p_role => 'admin', p_session_hash => %(viewer)s)",
           "admin_role_required"),
    Attack(WEB, "to add oneself for nobody", "SELECT * FROM billing.add_admin("
           "p_email => %(new)s, p_role => 'admin')", "actor_required"),
    Attack(WEB, "to take the subject that an address belongs to",
           "SELECT u.google_id FROM billing_data.admin_users AS u", NO_RIGHT),
    Attack(WEB, "to make a sign-in link", "SELECT billing.create_sign_in_link("
           "p_email => %(admin)s, p_ticket_hash => %(mine)s)", NO_RIGHT),
    Attack(WEB, "to use the ticket of a sign-in under way as a link",
           "SELECT 1 / count(*) FROM billing.use_sign_in_link(p_ticket_hash => %(ticket)s,"
           " p_session_hash => %(mine)s)", "22012"),
    # To act as somebody else
    Attack(WEB, "to act as an administrator by their id", "SELECT * FROM billing.adjust_credits("
           "p_account_id => %(account)s, p_amount => 5, p_reason => 'x',"
           " p_admin_user_id => %(admin_id)s)", NO_SUCH_FUNCTION),
    Attack(WEB, "to take an id for a session", "SELECT * FROM billing.adjust_credits("
           "p_account_id => %(account)s, p_amount => 5, p_reason => 'x',"
           " p_session_hash => uuid_send(%(admin_id)s))", "session_over"),
    Attack(WEB, "to guess a session", "SELECT * FROM billing.list_accounts("
           "p_session_hash => sha256('guess'))", "session_over"),
    Attack(WEB, "to use a session that is over", "SELECT * FROM billing.list_accounts("
           "p_session_hash => %(over)s)", "session_over"),
    Attack(WEB, "to use the token of who is deactivated", "SELECT * FROM billing.list_accounts("
           "p_session_hash => %(gone)s)", "admin_deactivated"),
    Attack(WEB, "to open a session", "SELECT billing_data.open_session("
           "%(admin_id)s::uuid, %(mine)s, 'x')", NO_RIGHT),
    Attack(WEB, "to write a session", "INSERT INTO billing_data.admin_sessions VALUES"
           " (%(mine)s, %(admin_id)s, now(), now() + interval '1 day')", NO_RIGHT),
    Attack(WEB, "to read the sessions",
           "SELECT s.session_hash FROM billing_data.admin_sessions AS s", NO_RIGHT),
    Attack(WEB, "to make a token for an administrator", "SELECT * FROM billing.create_staff_token("
           "p_token_hash => %(mine)s, p_email => %(admin)s)", "actor_required"),
    Attack(WEB, "to make a token for an administrator as a viewer",
           "SELECT * FROM billing.create_staff_token(p_token_hash => %(mine)s,"
           " p_email => %(admin)s, p_session_hash => %(viewer)s)", "invalid_argument"),
    Attack(WEB, "to end an administrator's sessions", "SELECT billing.end_staff_sessions("
           "p_email => %(admin)s, p_reason => 'x', p_session_hash => %(viewer)s)",
           "admin_role_required"),
    Attack(WEB, "to learn who is staff", "SELECT * FROM billing.get_admin(p_email => %(admin)s)",
           NO_RIGHT),
    Attack(WEB, "to learn it by id", "SELECT * FROM billing.find_admin(p_admin_user_id =>"
           " %(admin_id)s)", NO_SUCH_FUNCTION),
    Attack(WEB, "to list staff for nobody", "SELECT * FROM billing.list_admins()",
           "actor_required"),
    # To turn a viewer's session, which a stolen web login can make, into money or keys
    Attack(WEB, "to give credits as a viewer", "SELECT * FROM billing.adjust_credits("
           "p_account_id => %(account)s, p_amount => 5, p_reason => 'x',"
           " p_session_hash => %(viewer)s)", "admin_role_required"),
    Attack(WEB, "to make a key as a viewer", "SELECT * FROM billing.create_api_key("
           "p_name => 'x', p_key_prefix => 'cbk_test_12345678901', p_key_hash => '$argon2id$x',"
           " p_session_hash => %(viewer)s)", "admin_role_required"),
    Attack(WEB, "to change prices as a viewer", "SELECT * FROM billing.set_pricing("
           "p_reason => 'x', p_pack_price_minor => 1, p_session_hash => %(viewer)s)",
           "admin_role_required"),
    Attack(WEB, "to settle a payment by hand", "SELECT * FROM billing.settle_purchase("
           "p_payment_id => 'pi_1', p_amount_minor => 500)", NO_RIGHT),
    # To act as an agent. A viewer sees ids and the beginnings of keys; a login can read one hash at
    # a time.
    Attack(WEB, "to mint credits by a key's id", "SELECT * FROM billing.record_credit("
           "p_oauth_provider => 'oauth:google', p_external_id => 'x', p_amount_minor => 1,"
           " p_transaction_type => 'grant', p_description => 'x', p_api_key_id => %(new_key)s)",
           "api_key_invalid"),
    Attack(WEB, "to offer a pack by a key's id", "SELECT * FROM billing.begin_purchase("
           "p_oauth_provider => 'oauth:google', p_external_id => 'x',"
           " p_customer_email => 'x@example.com', p_api_key_id => %(new_key)s)",
           "api_key_invalid"),
    Attack(WEB, "to charge by a key's id", "SELECT * FROM billing.create_charge("
           "p_oauth_provider => 'oauth:google', p_external_id => 'x',"
           " p_api_key_id => %(new_key)s)", "api_key_invalid"),
    Attack(WEB, "to act by what the lookup of a key tells", "SELECT * FROM billing.get_account("
           "p_oauth_provider => 'oauth:google', p_external_id => 'x', p_api_key_id =>"
           " (SELECT f.api_key_id FROM billing.find_api_key(p_key_prefix => %(prefix)s) AS f))",
           "api_key_invalid"),
    # To leave one's role
    Attack(WEB, "to become a DBA", "SET ROLE billing_dba", NO_RIGHT),
    Attack(WEB, "to become the owner", "SET ROLE billing_owner", NO_RIGHT),
    Attack(WEB, "to become another login", "SET SESSION AUTHORIZATION t_dba", NO_RIGHT),
    # Other logins
    Attack(DBA, "to act as a staff member", "SELECT * FROM billing.adjust_credits("
           "p_account_id => %(account)s, p_amount => 5, p_reason => 'x',"
           " p_session_hash => %(admin_token)s)", "actor_not_allowed"),
    Attack(DBA, "to act as an agent", "SELECT * FROM billing.create_credit("
           "p_oauth_provider => 'oauth:google', p_external_id => 'x', p_amount_minor => 1,"
           " p_api_key_id => %(key)s)", "actor_not_allowed"),
    Attack(DBA, "to write a session", "INSERT INTO billing_data.admin_sessions VALUES"
           " (%(mine)s, %(admin_id)s, now(), now() + interval '1 day')", NO_RIGHT),
    Attack(DBA, "to write an administrator",
           "UPDATE billing_data.admin_users SET google_id = 'mine'", NO_RIGHT),
    Attack(ANALYST, "to list staff", "SELECT * FROM billing.list_admins()", NO_RIGHT),
    Attack(ANALYST, "to sign in", _SIGN_IN + "p_google_id => 'x')", NO_RIGHT),
    Attack(ANALYST, "to read staff", "SELECT u.email FROM billing_data.admin_users AS u", NO_RIGHT),
    Attack(NOBODY, "to list staff", "SELECT * FROM billing.list_admins()", NO_RIGHT),
    Attack(NOBODY, "to sign in", _SIGN_IN + "p_google_id => 'x')", NO_RIGHT),
    Attack(NOBODY, "to read settings", "SELECT * FROM billing.get_settings()", NO_RIGHT),
    Attack(NOBODY, "to read staff", "SELECT u.email FROM billing_data.admin_users AS u", NO_RIGHT),
)  # fmt: skip


@pytest.fixture(scope="module")
def scene(module_database: Database) -> dict[str, Any]:
    """Everything that the attackers know or could have found out."""
    admin, over = staff(module_database, "admin"), secrets.token_bytes(32)
    gone, viewer, ticket = (
        staff(module_database, "admin", active=False),
        secrets.token_bytes(32),
        secrets.token_bytes(32),
    )
    known = {name: f"{unique(name)}@example.com" for name in ("self", "late", "new")}
    with session(module_database, WEB) as web, session(module_database, DBA) as dba:
        # The administrator has signed in, and one of their sessions is over.
        web.row("sign_in_admin", email=admin.email, google_id="theirs", session_hash=over)
        web.value("end_session", session_hash=over)
        dba.row("add_admin", email=known["late"], role="admin")
        # A stolen web login can sign in a person who is not staff yet.
        web.row("sign_in_admin", email=known["self"], google_id="mine", session_hash=viewer)
        web.value("create_sign_in_ticket", ticket_hash=ticket)
        secret = new_secret("live")
        new_key = dba.row(
            "create_api_key",
            name="x",
            key_prefix=secret.prefix,
            key_hash=secret.hash,
            key_digest=secret.digest,
        )["api_key_id"]
    module_database.execute(
        "UPDATE billing_data.admin_users SET invited_until = now() WHERE email = %s", known["late"]
    )
    return {
        **known,
        "admin": admin.email,
        "admin_id": admin.id,
        "admin_token": admin.session_hash,
        "gone": gone.session_hash,
        "over": over,
        "viewer": viewer,
        "ticket": ticket,
        "mine": secrets.token_bytes(32),
        "account": account_of(module_database, new_user(module_database))["id"],
        "key": key_id(module_database),
        "new_key": new_key,
        "prefix": secret.prefix,
    }


@pytest.fixture(scope="module")
def nobody(module_database: Database) -> Iterator[str]:
    """A login without any of our roles."""
    login = unique("t_nobody").replace("-", "_")
    name = sql.Identifier(login)
    with psycopg.connect(module_database.dsn(), autocommit=True) as root:
        root.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
        yield login
        root.execute(sql.SQL("DROP ROLE {}").format(name))


@pytest.mark.parametrize(
    "attack", ATTACKS, ids=lambda attack: f"{attack.login} tries {attack.what}"
)
def test_an_attack_is_refused_and_changes_nothing(
    module_database: Database, scene: dict[str, Any], nobody: str, attack: Attack
) -> None:
    set_staff_domain(module_database)
    before = _staff(module_database)
    login = nobody if attack.login == NOBODY else attack.login
    with (
        psycopg.connect(module_database.dsn(login), autocommit=True) as connection,
        pytest.raises(psycopg.Error) as refused,
    ):
        connection.execute(attack.statement, scene)
    error = refused.value
    assert attack.refused in (error.sqlstate, error.diag.constraint_name), error
    assert _staff(module_database) == before


def test_a_stolen_web_login_wins_a_viewer_and_no_more(
    module_database: Database, scene: dict[str, Any]
) -> None:
    with session(module_database, WEB) as web:
        mine = web.row("get_session", session_hash=scene["viewer"])
        assert mine["role"] == "viewer"
        assert web.rows("list_accounts", session_hash=scene["viewer"])


@pytest.mark.parametrize(
    "told",
    [
        {"oauth_provider": "oauth:google", "external_id": "theirs"},
        {"account_id": "theirs"},
        {"account_id": "theirs", "oauth_provider": "oauth:google", "external_id": "somebody else"},
        {"account_id": "theirs", "external_id": "theirs", "oauth_provider": "oauth:google",
         "purchase_id": str(uuid.uuid4())},
        {},
    ],
    ids=["an identity", "an account", "an account of another", "no purchase", "nothing"],
)  # fmt: skip
def test_a_made_up_payment_gives_no_credits(
    module_database: Database, told: dict[str, str]
) -> None:
    configure_provider(module_database)
    who = new_user(module_database)
    account = account_of(module_database, who)
    theirs = {"account_id": account["id"], "external_id": who["external_id"]}
    named = {name: theirs[name] if it == "theirs" else it for name, it in told.items()}
    with session(module_database, WEB) as web:
        answer = deliver(web, unique("evt"), unique("pi"), **named)
    assert (answer["credits_added"], answer["outcome"] == "credited") == (0, False)
    assert account_of(module_database, who)["paid_credits"] == account["paid_credits"]


def test_a_key_acts_by_its_digest_and_is_recorded_by_its_id(module_database: Database) -> None:
    secret, who = new_secret("live"), new_user(module_database)
    credential = credential_of(secret.digest)
    with session(module_database, WEB) as web, session(module_database, DBA) as dba:
        made = {"key_prefix": secret.prefix, "key_hash": secret.hash, "key_digest": secret.digest}
        key = dba.row("create_api_key", name="x", **made)["api_key_id"]
        assert key != credential
        assert web.row("find_api_key", key_prefix=secret.prefix) == {
            "api_key_id": key,
            "key_hash": secret.hash,
            "acts_by_digest": True,
        }
        old = key_id(module_database)  # made without a digest, as the release before makes keys
        for acting in (credential, old):
            mine = {**who, "api_key_id": acting}
            web.row("check_credit", **mine)
            web.row("create_charge", **mine)
            web.row("create_credit", **mine, amount_minor=5)
            charge_once(web, [who], acting, unique())
            web.value(
                "record_api_key_use",
                api_key_ids=[acting],
                used_at=[datetime.now(UTC)],
                used_from=["127.0.0.1"],
            )
        charge_all(web, [{**who, "api_key_id": one} for one in (credential, old, credential)])
    account = account_of(module_database, who)["id"]
    for table, ids in (("credit_checks", 1), ("charges", 2), ("credits", 1)):
        rows = module_database.execute(
            f"SELECT api_key_id, count(*) FROM billing_data.{table} WHERE account_id = %s"
            " AND api_key_id IS NOT NULL GROUP BY 1",
            account,
        )
        extra = {key: 2, old: 1} if table == "charges" else {key: 0, old: 0}
        assert dict(rows) == {one: ids + extra[one] for one in (key, old)}, table
    used = module_database.execute(
        "SELECT id FROM billing_data.api_keys WHERE last_used_at IS NOT NULL"
    )
    assert {row[0] for row in used} == {key, old}
    with psycopg.connect(module_database.dsn(), autocommit=True) as root:
        with pytest.raises(psycopg.Error) as refused:
            root.execute("UPDATE billing_data.api_keys SET credential = gen_random_uuid()")
        assert refused.value.diag.constraint_name == "api_key_fixed"


def _staff(database: Database) -> list[Any]:
    return database.execute(
        "SELECT u.email, u.role, u.google_id, u.is_active, u.invited_until,"
        " (SELECT count(*) FROM billing_data.admin_sessions AS s WHERE s.admin_user_id = u.id)"
        " FROM billing_data.admin_users AS u ORDER BY 1"
    )
