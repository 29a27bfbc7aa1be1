"""In whose name each role acts: keys, staff, DBAs, and who hides behind whom."""

from __future__ import annotations

import uuid

import pytest

from tests.sql.helpers import (
    NO_SESSION,
    NOBODY,
    Caller,
    Refusal,
    account_of,
    charge_all,
    check_all,
    key_id,
    new_user,
    outcomes,
    session,
    staff,
)
from tests.sql.payments import configure_provider
from tests.sql.roles import (
    NO_RIGHT,
    READS,
    STAFF_READS,
    WRITES,
)
from tests.sql.top_ups import agreed
from tests.support import Database

ONE_KEY = (
    "attach_payment",
    "begin_purchase",
    "check_credit",
    "create_account",
    "create_charge",
    "create_charges_once",
    "create_credit",
    "record_credit",
)


BATCHES = ("check_credits", "create_charges")


# Any staff member may have a token.
STAFF = tuple(
    sorted(
        set(WRITES)
        - set(BATCHES)
        - {"check_credit", "create_charge", "create_charges_once", "create_staff_token"}
        - {"check_items", "charge_items", "charge_items_once", "settle_items_once"}
        - {"create_hold", "capture_hold", "extend_hold", "hold_items", "capture_items"}
        - {"check_and_hold", "set_top_up"}
    )
)


def _bad_keys(database: Database) -> dict[str, tuple[uuid.UUID, str, str, str]]:
    """Kind -> a key's id and how a call with it is refused."""
    revoked, expired, reader = key_id(database), key_id(database), key_id(database, "billing:other")
    database.execute("UPDATE billing_data.api_keys SET status = 'revoked' WHERE id = %s", revoked)
    database.execute(
        "UPDATE billing_data.api_keys SET expires_at = now() - interval '1 s' WHERE id = %s",
        expired,
    )
    return {
        "unknown": (
            NOBODY, "PB401", "api_key_invalid", "Authentication failed: Invalid API key"
        ),
        "revoked": (
            revoked, "PB401", "api_key_invalid", "Authentication failed: Invalid API key"
        ),
        "expired": (
            expired, "PB401", "api_key_expired", "Authentication failed: API key expired"
        ),
        "unpermitted": (
            reader, "PB403", "permission_missing", "Missing required permission: billing:"
        ),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["unknown", "revoked", "expired", "unpermitted"])
def test_a_key_that_is_not_good_can_do_nothing(
    module_database: Database, web: Caller, kind: str
) -> None:
    bad, sqlstate, slug, message = _bad_keys(module_database)[kind]
    for function in (*ONE_KEY, *READS):
        arguments = {**WRITES, **READS}[function]
        refusal = web.refusal(function, **{**arguments, "api_key_id": bad})
        assert (refusal.sqlstate, refusal.slug) == (sqlstate, slug), function
        assert refusal.message.startswith(message), function
    for permission in ("billing:read", "billing:write"):
        refusal = web.refusal("require_api_key", api_key_id=bad, permission=permission)
        assert (refusal.sqlstate, refusal.slug) == (sqlstate, slug)
    good, who = key_id(module_database), new_user(module_database)
    items = [{**who, "api_key_id": bad}, {**who, "api_key_id": good}]
    assert outcomes(charge_all(web, items)) == [slug, "created"]
    assert outcomes(check_all(web, items)) == [slug, "checked"]


def test_a_key_needs_the_permission_of_what_it_does(module_database: Database, web: Caller) -> None:
    reader = key_id(module_database, "billing:read")
    writer = key_id(module_database, "billing:write")
    who = new_user(module_database)
    assert web.row("check_credit", **who, api_key_id=reader)["has_credit"]
    assert web.row("get_account", **who, api_key_id=reader)["external_id"] == who["external_id"]
    assert web.refusal("create_charge", **who, api_key_id=reader).slug == "permission_missing"
    assert web.row("create_charge", **who, api_key_id=writer)["paid_with"] == "free"
    refusal = web.refusal("check_credit", **who, api_key_id=writer)
    assert refusal.message == "Missing required permission: billing:read"
    assert web.refusal("list_transactions", **who, api_key_id=writer).slug == "permission_missing"


@pytest.mark.parametrize("kind", ["nobody", "a viewer", "an inactive administrator"])
@pytest.mark.parametrize("function", STAFF)
def test_who_is_not_an_active_administrator_cannot_write(
    module_database: Database, web: Caller, function: str, kind: str
) -> None:
    who = staff(
        module_database, "viewer" if kind == "a viewer" else "admin", active=kind == "a viewer"
    )
    session_hash = NO_SESSION if kind == "nobody" else who.session_hash
    refusal = web.refusal(function, **WRITES[function], session_hash=session_hash)
    wanted = {
        "nobody": Refusal(
            "PB401",
            "session_over",
            "Invalid or expired token",
            {},
            "Sign in again: no session or token with this hash is open.",
        ),
        "a viewer": Refusal(
            "PB403",
            "admin_role_required",
            "Admin role required. Your role: viewer (read-only)",
            {"role": "viewer"},
            "Ask an administrator.",
        ),
        "an inactive administrator": Refusal(
            "PB403",
            "admin_deactivated",
            f"User account {who.email} is deactivated",
            {"email": who.email},
            "An administrator can make the account active again.",
        ),
    }
    assert refusal == wanted[kind]


def test_a_viewer_may_read_everything_that_staff_can_read(
    module_database: Database, web: Caller
) -> None:
    who, viewer = new_user(module_database, paid=1), staff(module_database, "viewer")
    configure_provider(module_database)
    account = account_of(module_database, who)["id"]
    with session(module_database, "t_dba") as dba:
        hold = dba.row("create_hold", **who, amount_minor=1)["hold_id"]
    agreed(module_database, who["external_id"])
    own = {
        "hold_id": hold,
        "payment_id": module_database.value(
            "SELECT payment_id FROM billing_data.purchases WHERE account_id = %s", account
        ),
        "account_id": account,
        "account": str(account),
        "transaction_id": web.rows("list_transactions", **who, session_hash=viewer.session_hash)[0][
            "transaction_id"
        ],
    }
    # What it tells has a secret, which administrators alone may have.
    readable = {**READS, **STAFF_READS}
    del readable["get_webhook_endpoint"]
    for function, arguments in readable.items():
        identity = who if "external_id" in arguments else dict(arguments)
        identity |= {name: value for name, value in own.items() if name in identity}
        web.rows(function, **identity, session_hash=viewer.session_hash)


@pytest.mark.parametrize("function", [*READS, *STAFF_READS])
def test_who_is_not_active_staff_cannot_read(
    module_database: Database, web: Caller, function: str
) -> None:
    arguments = {**READS, **STAFF_READS}[function]
    for session_hash, slug in (
        (NO_SESSION, "session_over"),
        (b"too short", "session_over"),
        (staff(module_database, "admin", active=False).session_hash, "admin_deactivated"),
    ):
        assert web.refusal(function, **arguments, session_hash=session_hash).slug == slug


def test_an_administrator_writes_and_is_recorded(module_database: Database, web: Caller) -> None:
    who, ada = new_user(module_database), staff(module_database, "admin")
    web.row("create_credit", **who, amount_minor=5, session_hash=ada.session_hash)
    rows = module_database.execute(
        "SELECT c.admin_user_id, c.api_key_id, c.database_role FROM billing_data.credits AS c"
        " INNER JOIN billing_data.accounts AS a ON a.id = c.account_id WHERE a.external_id = %s",
        who["external_id"],
    )
    assert rows == [(ada.id, None, None)]


def test_a_key_and_a_staff_member_cannot_both_be_the_actor(
    module_database: Database, web: Caller
) -> None:
    both = {
        "api_key_id": key_id(module_database),
        "session_hash": staff(module_database, "admin").session_hash,
    }
    writes = ("attach_payment", "begin_purchase", "create_account", "create_credit")
    for function in (*writes, "record_credit", *READS):
        refusal = web.refusal(function, **{**WRITES, **READS}[function], **both)
        assert refusal.slug == "actor_not_allowed", function


@pytest.mark.parametrize("function", [*ONE_KEY, *READS])
def test_a_dba_cannot_hide_behind_an_api_key(
    module_database: Database, dba: Caller, function: str
) -> None:
    arguments = {**WRITES, **READS}[function]
    refusal = dba.refusal(function, **{**arguments, "api_key_id": key_id(module_database)})
    assert refusal == Refusal(
        "PB403",
        "actor_not_allowed",
        "Only the web tier may name an API key or a staff member as the actor",
        {},
        "Leave out p_api_key_id and p_session_hash: the call is recorded under your own role.",
    )


@pytest.mark.parametrize("function", BATCHES)
def test_a_dba_cannot_hide_behind_api_keys_in_a_batch(
    module_database: Database, dba: Caller, function: str
) -> None:
    for ids in ([key_id(module_database)], [None]):
        refusal = dba.refusal(function, **WRITES[function], api_key_ids=ids)
        assert (refusal.sqlstate, refusal.slug) == ("PB403", "actor_not_allowed")


@pytest.mark.parametrize("function", [*STAFF, *READS, *STAFF_READS])
def test_a_dba_cannot_hide_behind_a_staff_member(
    module_database: Database, dba: Caller, function: str
) -> None:
    ada = staff(module_database, "admin")
    arguments = {**WRITES, **READS, **STAFF_READS}[function]
    refusal = dba.refusal(function, **arguments, session_hash=ada.session_hash)
    assert (refusal.sqlstate, refusal.slug) == ("PB403", "actor_not_allowed")


def test_what_a_dba_does_is_recorded_under_their_own_role(module_database: Database) -> None:
    who = new_user(module_database, paid=5)
    with session(module_database, "t_dba") as dba:
        dba.row("create_charge", **who)
        dba.row("set_account_status", **who, status="suspended", reason="a test")
    account = account_of(module_database, who)["id"]
    for table in ("charges", "credits", "credit_checks"):
        rows = module_database.execute(
            f"SELECT database_role, api_key_id FROM billing_data.{table} WHERE account_id = %s",
            account,
        )
        assert rows == [("t_dba", None)], table
    rows = module_database.execute(
        "SELECT database_role, admin_user_id, reason FROM billing_data.admin_audit_logs"
        " WHERE resource_id = %s ORDER BY created_at",
        str(account),
    )
    assert rows == [("t_dba", None, "Granted"), ("t_dba", None, "a test")]


def test_a_dba_who_takes_on_another_role_is_still_recorded_as_themselves(
    module_database: Database,
) -> None:
    who = new_user(module_database)
    with session(module_database, "t_dba") as dba:
        dba.execute("SET ROLE billing_dba")
        dba.row("create_charge", **who)
    rows = module_database.execute(
        "SELECT c.database_role FROM billing_data.charges AS c WHERE c.account_id = %s",
        account_of(module_database, who)["id"],
    )
    assert rows == [("t_dba",)]


def test_a_superuser_who_became_billing_server_is_treated_as_the_web_tier(
    module_database: Database,
) -> None:
    who, key = new_user(module_database), key_id(module_database)
    with session(module_database, "postgres") as root:
        root.execute("SET ROLE billing_server")
        assert root.refusal("create_charge", **who).slug == "actor_required"
        assert root.refused("SELECT count(*) FROM billing_data.accounts").sqlstate == NO_RIGHT
        assert root.refusal("verify_ledger").sqlstate == NO_RIGHT
        assert root.row("create_charge", **who, api_key_id=key)["paid_with"] == "free"
        root.execute("RESET ROLE")
        assert root.refusal("create_charge", **who, api_key_id=key).slug == "actor_not_allowed"
        assert root.row("create_charge", **who)["paid_with"] == "free"
    rows = module_database.execute(
        "SELECT c.api_key_id, c.database_role FROM billing_data.charges AS c"
        " WHERE c.account_id = %s ORDER BY c.ledger_version",
        account_of(module_database, who)["id"],
    )
    assert rows == [(key, None), (None, "postgres")]


def test_an_owners_login_that_became_billing_server_is_treated_as_the_web_tier(
    database: Database,
) -> None:
    owner = f"t_owner_{uuid.uuid4().hex[:8]}"
    database.execute(f"CREATE ROLE {owner} LOGIN IN ROLE billing_owner, billing_server")
    try:
        who = new_user(database)
        with session(database, owner) as caller:
            caller.row("create_charge", **who)
            caller.execute("SET ROLE billing_server")
            assert caller.refusal("create_charge", **who).slug == "actor_required"
    finally:
        database.execute(f"DROP ROLE {owner}")


@pytest.mark.parametrize(
    "trick",
    [
        "RESET ROLE",
        "SET ROLE NONE",
        "SET ROLE t_web",
        "SET ROLE billing_server",
        "SET LOCAL ROLE NONE",
        "RESET SESSION AUTHORIZATION",
        "SET SESSION AUTHORIZATION t_web",
        "DISCARD ALL",
        "SET search_path = pg_temp",
        "SELECT set_config('role', 'none', false)",
    ],
)
def test_playing_with_its_role_gains_the_web_tier_nothing(
    module_database: Database, trick: str
) -> None:
    who = new_user(module_database)
    with session(module_database, "t_web") as web:
        web.execute(trick)
        assert web.refusal("create_charge", **who).slug == "actor_required"
        assert web.refusal("get_account", **who).slug == "actor_required"
        assert web.refusal("verify_ledger").sqlstate == NO_RIGHT
        assert web.refused("SELECT count(*) FROM billing_data.accounts").sqlstate == NO_RIGHT


@pytest.mark.parametrize(
    "statement",
    [
        "SET ROLE billing_dba",
        "SET ROLE billing_owner",
        "SET ROLE postgres",
        "SET ROLE t_dba",
        "SET SESSION AUTHORIZATION t_dba",
        "SET session_replication_role = replica",
        "GRANT billing_dba TO t_web",
        "ALTER ROLE t_web SUPERUSER",
        "ALTER FUNCTION billing.get_account(text, text, uuid, bytea) OWNER TO t_web",
        "ALTER TABLE billing_data.charges DISABLE TRIGGER ALL",
        "DROP TRIGGER charges_append_only ON billing_data.charges",
    ],
)
def test_the_web_tier_cannot_become_somebody_else(
    module_database: Database, statement: str
) -> None:
    with session(module_database, "t_web") as web:
        assert web.refused(statement).sqlstate in (NO_RIGHT, "22023")
