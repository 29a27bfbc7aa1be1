"""billing.verify_ledger against an attacker who can change everything: a change of the books, or of
what guards them, is found and named. What is legal is not reported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from server.config import SettingsSeed
from server.migrate import migrate
from tests.sql.helpers import (
    BIGGEST,
    Caller,
    account_of,
    charge_all,
    key_id,
    ledger_problems,
    new_user,
    session,
    staff,
    tamper,
)
from tests.sql.payments import (
    PRICE,
    attach,
    begin,
    bought,
    configure_provider,
    deliver,
    give_back,
)
from tests.sql.watching import watch
from tests.support import Database, TestCluster, unique

ONE = "WHERE account_id = %(id)s AND ledger_version = "


@pytest.fixture
def books(database: Database) -> tuple[Database, dict[str, str], Any]:
    """Books of every kind of entry. Of the account: free charges of amounts 1, 2 and 3 (versions 1
    to 3), a gift of 10 credits (4), charges of 1 and 2 (5, 6), a bought pack (7), half of it given
    back (8)."""
    configure_provider(database)
    key = key_id(database)
    new_user(database, paid=5, free=False)
    who = new_user(database)
    with session(database, "t_dba") as dba, session(database, "t_web") as web:
        charge_all(dba, [{**who, "amount_minor": amount} for amount in (1, 2, 3)])
        dba.row("create_credit", **who, amount_minor=10, idempotency_key="gift")
        charge_all(web, [{**who, "amount_minor": amount, "api_key_id": key} for amount in (1, 2)])
        sold = begin(web, who, api_key_id=key)
        attach(web, sold, "pi_1", api_key_id=key)
        payload = f'{{"data": {{"object": {{"amount_received": {PRICE}}}}}}}'
        assert deliver(web, "evt_1", "pi_1", payload=payload)["outcome"] == "credited"
        give_back(web, "pi_1", ("re_1", PRICE // 2))
    assert ledger_problems(database) == []
    return database, who, account_of(database, who)["id"]


_ENTRY = "entry {} is not as it was written"
# What is done -> (statements, the problems that must be reported for the account).
TAMPERING: dict[str, tuple[list[str], set[str]]] = {
    "a free use of a larger amount": (
        [f"UPDATE billing_data.charges SET amount_minor = 9 {ONE} 2"],
        {_ENTRY.format(2)},
    ),
    "a free use made a paid one": (
        [
            "ALTER TABLE billing_data.charges DROP CONSTRAINT charges_balance_chain",
            f"UPDATE billing_data.charges SET paid_with = 'paid' {ONE} 2",
        ],
        {
            _ENTRY.format(2),
            "entry 2 does not move the balance by what it says",
            "paid_credits is not the sum of the entries",
            "free_uses_remaining is not what was given less what was used",
        },
    ),
    "a paid use made a free one": (
        [
            "ALTER TABLE billing_data.charges DROP CONSTRAINT charges_balance_chain",
            f"UPDATE billing_data.charges SET paid_with = 'free' {ONE} 5",
        ],
        {
            "entry 5 does not move the balance by what it says",
            "free_uses_remaining is not what was given less what was used",
        },
    ),
    "a charge that was paid with something else": (
        [
            "ALTER TABLE billing_data.charges DROP CONSTRAINT charges_paid_with",
            f"UPDATE billing_data.charges SET paid_with = 'beer', balance_after = 10 {ONE} 5",
        ],
        {"entry 5 was paid with nothing that there is"},
    ),
    "a charge of less than nothing": (
        [
            "ALTER TABLE billing_data.charges DROP CONSTRAINT ck_charge_amount_positive",
            f"UPDATE billing_data.charges SET amount_minor = -1, balance_after = 11 {ONE} 5",
        ],
        {"entry 5 has an amount that none can have"},
    ),
    "an amount that no sum can hold": (
        [
            "ALTER TABLE billing_data.credits DROP CONSTRAINT ck_credit_balance_consistency",
            f"UPDATE billing_data.credits SET amount_minor = {BIGGEST} {ONE} 4",
        ],
        {"entry 4 does not move the balance by what it says"},
    ),
    "the smallest amount there is": (
        [
            "ALTER TABLE billing_data.charges DROP CONSTRAINT ck_charge_amount_positive",
            "ALTER TABLE billing_data.charges DROP CONSTRAINT charges_balance_chain",
            f"UPDATE billing_data.charges SET amount_minor = {-BIGGEST - 1} {ONE} 5",
        ],
        {"entry 5 has an amount that none can have"},
    ),
    "a free use whose balances were both raised": (
        [
            "UPDATE billing_data.charges SET balance_before = balance_before + 5,"
            f" balance_after = balance_after + 5 {ONE} 2"
        ],
        {"entry 2 does not continue the one before", _ENTRY.format(2)},
    ),
    "a free use that left more": (
        [f"UPDATE billing_data.charges SET free_uses_after = 2 {ONE} 2"],
        {"entry 2 leaves other free uses than there were", _ENTRY.format(2)},
    ),
    "free uses that were minted": (
        ["UPDATE billing_data.accounts SET free_uses_remaining = 1000 WHERE id = %(id)s"],
        {"free_uses_remaining is not what was given less what was used"},
    ),
    "free uses that were minted with their proof": (
        [
            "UPDATE billing_data.accounts SET free_uses_remaining = 1000, free_uses_granted = 1003"
            " WHERE id = %(id)s"
        ],
        {"entry 1 leaves other free uses than there were"},
    ),
    "what the account was opened with": (
        ["UPDATE billing_data.accounts SET free_uses_granted = 4 WHERE id = %(id)s"],
        {"free_uses_remaining is not what was given less what was used"},
    ),
    "paid credits": (
        ["UPDATE billing_data.accounts SET paid_credits = paid_credits + 1 WHERE id = %(id)s"],
        {
            "paid_credits is not the sum of the entries",
            "paid_credits is not the newest entry's balance_after",
        },
    ),
    "total uses": (
        ["UPDATE billing_data.accounts SET total_uses = 0 WHERE id = %(id)s"],
        {"total_uses is not the number of charges"},
    ),
    "the account's currency": (
        ["UPDATE billing_data.accounts SET currency = 'EUR' WHERE id = %(id)s"],
        {f"entry {version} is in another currency" for version in range(1, 9)},
    ),
    "an entry's currency": (
        [f"UPDATE billing_data.credits SET currency = 'EUR' {ONE} 4"],
        {"entry 4 is in another currency"},
    ),
    "a key that was given to somebody else's request": (
        [f"UPDATE billing_data.credits SET idempotency_key = NULL {ONE} 4"],
        {_ENTRY.format(4)},
    ),
    "a time": (
        [f"UPDATE billing_data.charges SET created_at = created_at - interval '1 year' {ONE} 5"],
        {_ENTRY.format(5)},
    ),
    "a change whose digest was taken away": (
        [
            f"UPDATE billing_data.charges SET amount_minor = 9, digest = NULL,"
            f" created_at = created_at + interval '2 minutes' {ONE} 2"
        ],
        {_ENTRY.format(2)},
    ),
    "a kind of credit": (
        [f"UPDATE billing_data.credits SET transaction_type = 'purchase' {ONE} 4"],
        {_ENTRY.format(4)},
    ),
    "a gift made less than nothing": (
        [
            "ALTER TABLE billing_data.credits DROP CONSTRAINT credits_amount",
            f"UPDATE billing_data.credits SET amount_minor = -1, balance_before = 11 {ONE} 4",
        ],
        {"entry 4 has an amount that none can have", "entry 4 does not continue the one before"},
    ),
    "a pack that was sold": (
        ["UPDATE billing_data.purchases SET uses = 2000 WHERE account_id = %(id)s"],
        {"purchase {purchase} was not credited with what was sold"},
    ),
    "a price": (
        ["UPDATE billing_data.purchases SET price_minor = 1 WHERE account_id = %(id)s"],
        {"purchase {purchase} was not sold for what was paid"},
    ),
    "a purchase that is gone": (
        [
            "DELETE FROM billing_data.payment_returns WHERE account_id = %(id)s",
            "DELETE FROM billing_data.purchases WHERE account_id = %(id)s",
        ],
        {
            "credit {credit} was paid for and belongs to no purchase",
            "credit {taken} moved credits for a return of money that is not here",
        },
    ),
    "a return's purchase that is gone": (
        ["DELETE FROM billing_data.purchases WHERE account_id = %(id)s"],
        {"return re_1 is of a purchase that is not here"},
    ),
    "a return of money that is gone": (
        ["DELETE FROM billing_data.payment_returns WHERE account_id = %(id)s"],
        {"credit {taken} moved credits for a return of money that is not here"},
    ),
    "a credit that is gone": (
        [f"DELETE FROM billing_data.credits {ONE} 7"],
        {
            "ledger_version has a gap or a duplicate",
            "purchase {purchase} was not credited with what was sold",
        },
    ),
    "an account that is gone": (
        ["DELETE FROM billing_data.accounts WHERE id = %(id)s"],
        {
            "the account is gone and its entries are not",
            "the account is gone and purchase {purchase} is not",
        },
    ),
    "an opening that was made up": (
        [
            "INSERT INTO billing_data.ledger_openings (account_id, ledger_version, paid_credits,"
            " total_uses, free_uses) VALUES (%(id)s, 8, 17, 5, 0)"
        ],
        {f"entry {version} is not of the old service" for version in range(1, 9)},
    ),
    "entries put down to the old service": (
        [
            "ALTER TABLE billing_data.charges DROP CONSTRAINT charges_balance_chain",
            "UPDATE billing_data.charges SET database_role = 'legacy', api_key_id = NULL,"
            f" amount_minor = 1, digest = NULL {ONE} 6",
        ],
        {"entry 6 does not move the balance by what it says"},
    ),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_what_was_changed_behind_the_books_back_is_found_and_named(
    books: tuple[Database, dict[str, str], Any], what: str
) -> None:
    database, _, account = books
    statements, expected = TAMPERING[what]
    names = {
        name: database.value(
            f"SELECT id FROM billing_data.{table} WHERE account_id = %s AND {which}", account
        )
        for name, table, which in (
            ("purchase", "purchases", "true"),
            ("credit", "credits", "transaction_type = 'purchase'"),
            ("taken", "credits", "transaction_type = 'refund'"),
        )
    }
    schema = [statement for statement in statements if statement.startswith("ALTER")]
    for statement in schema:
        database.execute(statement)
    tamper(database, *statements[len(schema) :], id=account)
    found = ledger_problems(database)
    assert {row[0] for row in found} == {account, *([None] if schema else [])}
    assert {row[1] for row in found if row[0]} >= {text.format(**names) for text in expected}
    # Nothing may hide a loss: the constraints that had to be dropped are reported as missing too.
    for statement in schema:
        assert any(statement.split()[-1] in row[1] for row in found)


def test_what_a_dba_settled_belongs_to_a_purchase_too(database: Database) -> None:
    configure_provider(database)
    who, _ = bought(database)  # the event was delivered by a DBA
    account = account_of(database, who)["id"]
    assert ledger_problems(database) == []
    tamper(database, "DELETE FROM billing_data.purchases WHERE account_id = %(id)s", id=account)
    (found,) = ledger_problems(database)
    assert found[0] == account
    assert found[1].endswith("was paid for and belongs to no purchase")


def test_an_opening_whose_account_is_gone_is_found(database: Database) -> None:
    tamper(
        database,
        "INSERT INTO billing_data.ledger_openings (account_id, ledger_version, paid_credits,"
        " total_uses, free_uses) VALUES (gen_random_uuid(), 0, 0, 0, 7)",
    )
    assert [row[1] for row in ledger_problems(database)] == [
        "the account is gone and its opening is not"
    ]


# --- what guards the books -----------------------------------------------------------------------

GUARDS = [
    ("accounts", "accounts_fixed"),
    ("admin_audit_logs", "admin_audit_logs_append_only"),
    ("admin_audit_logs", "admin_audit_logs_erased_only"),
    ("api_keys", "api_keys_fixed"),
    ("api_keys", "api_keys_not_truncated"),
    ("charges", "charges_append_only"),
    ("charges", "charges_erased_only"),
    ("credits", "credits_append_only"),
    ("credits", "credits_erased_only"),
    ("erased_accounts", "erased_accounts_append_only"),
    ("erased_audit_logs", "erased_audit_logs_append_only"),
    ("erased_entries", "erased_entries_append_only"),
    ("hold_changes", "hold_changes_append_only"),
    ("hold_lots", "hold_lots_append_only"),
    ("holds", "holds_fixed"),
    ("ledger_openings", "ledger_openings_fixed"),
    ("lot_allocations", "lot_allocations_append_only"),
    ("lots", "lots_fixed"),
    ("purchases", "purchases_fixed"),
    ("scheduled_grants", "scheduled_grants_append_only"),
    ("seal_heads", "seal_heads_append_only"),
    ("seals", "seals_append_only"),
    ("top_ups", "top_ups_fixed"),
]


def test_every_trigger_that_guards_the_books_fires_always(database: Database) -> None:
    rows = database.execute(
        "SELECT t.tgrelid::regclass::text, t.tgname, t.tgenabled::text FROM pg_trigger AS t"
        " WHERE NOT t.tgisinternal ORDER BY 1, 2"
    )
    assert rows == [(f"billing_data.{table}", name, "A") for table, name in GUARDS]


@pytest.mark.parametrize(
    "how",
    [
        "ALTER TABLE billing_data.{table} DISABLE TRIGGER {name}",
        "ALTER TABLE billing_data.{table} DISABLE TRIGGER USER",
        "ALTER TABLE billing_data.{table} ENABLE TRIGGER {name}",
        "ALTER TABLE billing_data.{table} ENABLE REPLICA TRIGGER {name}",
        "DROP TRIGGER {name} ON billing_data.{table}",
        "DROP TRIGGER {name} ON billing_data.{table}; CREATE TRIGGER {name} BEFORE TRUNCATE ON"
        " billing_data.{table} EXECUTE FUNCTION billing_data.refuse_change('nothing');"
        " ALTER TABLE billing_data.{table} ENABLE ALWAYS TRIGGER {name}",
    ],
    ids=["disabled", "all disabled", "ordinary", "of a replica", "dropped", "another"],
)
def test_each_trigger_that_does_not_guard_is_found_and_the_next_deploy_mends_all(
    module_database: Database, how: str
) -> None:
    for table, name in GUARDS:
        problem = f"trigger {name} of {table} does not guard it"
        before = {row[1] for row in ledger_problems(module_database)}
        assert problem not in before or "USER" in how
        for statement in how.format(table=table, name=name).split(";"):
            module_database.execute(statement)
        found = ledger_problems(module_database)
        assert {row[1] for row in found} >= {problem, *before}
        assert {row[0] for row in found} == {None}
    assert watch(module_database)[1] == []
    assert _guard_faults(module_database) == len(found)
    migrate(module_database.dsn(), SettingsSeed())
    assert ledger_problems(module_database) == []
    assert _guard_faults(module_database) == 0


def _guard_faults(database: Database) -> int:
    found: int = database.value("SELECT guard_faults FROM billing.watch_books()", user="t_web")
    return found


@contextmanager
def _undone(database: Database) -> Iterator[Caller]:
    """A superuser's transaction that is rolled back at its end."""
    with session(database, "postgres", autocommit=False) as root:
        yield root
        root.connection.rollback()


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("ALTER TABLE billing_data.charges DROP CONSTRAINT charges_balance_chain",
         "constraint charges_balance_chain of charges is not in force"),
        ("ALTER TABLE billing_data.accounts DROP CONSTRAINT ck_paid_credits_non_negative, ADD"
         " CONSTRAINT ck_paid_credits_non_negative CHECK (paid_credits >= 0) NOT VALID",
         "constraint ck_paid_credits_non_negative of accounts is not in force"),
        ("ALTER TABLE billing_data.charges DISABLE TRIGGER ALL",
         "constraint fk_charges_account of charges is not in force"),
        ("DROP INDEX billing_data.charges_ledger_version",
         "unique index charges_ledger_version is not in force"),
        ("UPDATE pg_index SET indisvalid = false WHERE indexrelid ="
         " 'billing_data.credits_idempotency'::regclass",
         "unique index credits_idempotency is not in force"),
        ("CREATE RULE lost AS ON INSERT TO billing_data.charges DO INSTEAD NOTHING",
         "rule lost of charges changes what is written"),
    ],
)  # fmt: skip
def test_a_constraint_index_or_rule_that_the_proof_relies_on_is_looked_at(
    module_database: Database, statement: str, problem: str
) -> None:
    with _undone(module_database) as root:
        root.execute(statement)
        assert problem in [row["problem"] for row in root.rows("verify_ledger")]
        assert root.row("watch_books")["guard_faults"] >= 1
    assert ledger_problems(module_database) == []


def test_a_constraint_that_is_not_enforced_is_found(module_database: Database) -> None:
    """PostgreSQL 18 has this state for checks and foreign keys."""
    with _undone(module_database) as root:
        root.execute(
            "ALTER TABLE billing_data.charges ALTER CONSTRAINT fk_charges_account NOT ENFORCED"
        )
        assert "constraint fk_charges_account of charges is not in force" in [
            row["problem"] for row in root.rows("verify_ledger")
        ]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM billing_data.charges",
        "UPDATE billing_data.credits SET amount_minor = 1",
        "TRUNCATE billing_data.admin_audit_logs",
        "UPDATE billing_data.accounts SET free_uses_granted = 9",
        "UPDATE billing_data.purchases SET uses = 9",
        "DELETE FROM billing_data.ledger_openings",
        "INSERT INTO billing_data.ledger_openings SELECT a.id, 1, 0, 0, 9"
        " FROM billing_data.accounts AS a",
        "DELETE FROM billing_data.api_keys",
    ],
)
def test_a_session_that_says_it_is_a_replica_passes_no_guard(
    module_database: Database, statement: str
) -> None:
    new_user(module_database, paid=1)
    key_id(module_database)
    with session(module_database, "postgres") as root:
        root.execute("SET session_replication_role = replica")
        assert root.refused(statement).sqlstate == "PB403"


# --- names of writers ----------------------------------------------------------------------------


@pytest.fixture
def login(database: Database, request: pytest.FixtureRequest) -> Iterator[str]:
    """A DBA's login with the name that the test asks for."""
    name: str = request.param
    database.execute(f"CREATE ROLE {name} LOGIN IN ROLE billing_dba")
    yield name
    database.execute(f"DROP ROLE {name}")


@pytest.mark.parametrize("login", ["legacy", "stripe", "square", "paypal"], indirect=True)
def test_a_login_named_as_another_kind_of_writer_writes_nothing(
    database: Database, login: str
) -> None:
    who = new_user(database, paid=5)
    configure_provider(database)
    with session(database, login) as dba:
        for function, arguments in (
            ("create_charge", who),
            ("create_credit", {**who, "amount_minor": 5}),
            ("settle_purchase", {"payment_id": "pi_1", "amount_minor": PRICE, **who}),
            ("process_payment_event", {
                "event_id": unique("evt"), "event_type": "payment_intent.succeeded",
                "payload": "{}", "action": "settle", "payment_id": "pi_1",
                "amount_minor": PRICE, "currency": "USD", **who,
            }),
        ):  # fmt: skip
            refusal = dba.refusal(function, **arguments)
            assert (refusal.sqlstate, refusal.slug) == ("PB403", "login_name_reserved"), function
            assert login in refusal.message
    assert ledger_problems(database) == []


def test_entries_of_a_role_named_legacy_are_held_to_the_books_like_any_other(
    books: tuple[Database, dict[str, str], Any],
) -> None:
    """A database may have such entries when its DBA had that name: the name proves nothing."""
    database, _, account = books
    tamper(
        database,
        "UPDATE billing_data.charges SET database_role = 'legacy', api_key_id = NULL"
        " WHERE account_id = %(id)s",
        "UPDATE billing_data.credits SET database_role = 'legacy', api_key_id = NULL,"
        " payment_provider = NULL WHERE account_id = %(id)s",
        "UPDATE billing_data.charges SET digest = billing_data.charge_digest(charges)"
        " WHERE account_id = %(id)s",
        "UPDATE billing_data.credits SET digest = billing_data.credit_digest(credits)"
        " WHERE account_id = %(id)s",
        id=account,
    )
    assert ledger_problems(database) == []
    tamper(
        database,
        "UPDATE billing_data.accounts SET paid_credits = 1000000, total_uses = 1 WHERE id = %(id)s",
        id=account,
    )
    assert {row[1] for row in ledger_problems(database)} == {
        "paid_credits is not the sum of the entries",
        "paid_credits is not the newest entry's balance_after",
        "total_uses is not the number of charges",
    }


# --- what is legal is no finding -----------------------------------------------------------------


def test_free_uses_that_staff_gave_are_proven_by_the_audit_log(database: Database) -> None:
    who = new_user(database)
    account = account_of(database, who)["id"]
    with session(database, "t_dba") as dba, session(database, "t_web") as web:
        admin = staff(database, "admin")
        for number in (7, 0, 4, 4, 2):
            charge_all(dba, [who, who])
            dba.row("create_credit", **who, amount_minor=9)
            web.row("reset_free_uses", account_id=account, reason="a test", free_uses=number,
                    session_hash=admin.session_hash)  # fmt: skip
            charge_all(dba, [who])
            assert ledger_problems(database) == []
    tamper(
        database,
        "DELETE FROM billing_data.admin_audit_logs WHERE action = 'account.reset_free_uses'"
        " AND (changes ->> 'after') = '7'",
    )
    assert "free_uses_remaining is not what was given less what was used" in {
        row[1] for row in ledger_problems(database)
    }


def test_free_uses_are_held_to_what_was_configured_when_the_account_was_opened(
    database: Database,
) -> None:
    with session(database, "t_dba") as dba:
        for number in (0, 5, 1):
            dba.row("set_pricing", free_uses=number, reason="a test")
            who = new_user(database, paid=9)
            assert account_of(database, who)["free_uses_granted"] == number
            charge_all(dba, [who] * 7)
    assert ledger_problems(database) == []


def test_entries_without_a_digest_are_legal_from_before_a_deploy_that_brought_digests(
    books: tuple[Database, dict[str, str], Any],
) -> None:
    """The state after an older release, whose functions make no digests, was deployed and replaced
    again."""
    database, who, account = books
    database.execute("UPDATE billing_data.settings SET digests_since = now() - interval '1 hour'")
    tamper(
        database,
        "UPDATE billing_data.charges SET digest = NULL WHERE account_id = %(id)s",
        id=account,
    )
    assert {row[1] for row in ledger_problems(database)} == {
        _ENTRY.format(version) for version in (1, 2, 3, 5, 6)
    }
    database.execute("DROP FUNCTION billing_data.charge_digest")  # what an older release drops
    migrate(database.dsn(), SettingsSeed())
    assert ledger_problems(database) == []
    since = database.value("SELECT digests_since FROM billing_data.settings")
    migrate(database.dsn(), SettingsSeed())
    assert database.value("SELECT digests_since FROM billing_data.settings") == since
    with session(database, "t_dba") as dba:
        dba.row("create_charge", **who)
    assert database.value("SELECT count(*) FROM billing_data.charges WHERE digest IS NOT NULL") > 0


def test_where_the_settings_are_gone_entries_are_still_looked_at(
    books: tuple[Database, dict[str, str], Any],
) -> None:
    database, _, account = books
    tamper(
        database,
        "DELETE FROM billing_data.settings",
        f"UPDATE billing_data.charges SET amount_minor = 9 {ONE} 2",
        id=account,
    )
    assert _ENTRY.format(2) in {row[1] for row in ledger_problems(database)}


def test_a_digest_is_the_same_on_every_version(any_cluster: TestCluster) -> None:
    """A database keeps its digests when a dump is restored or the database is upgraded."""
    with any_cluster.database() as database:
        for table, digest in (("charge", -7642746448413926218), ("credit", -5942709664071957987)):
            found = database.value(
                f"SELECT billing_data.{table}_digest(jsonb_populate_record("
                f" NULL::billing_data.{table}s, %s))",
                json.dumps(ENTRY),
            )
            assert found == digest


ENTRY = {
    "account_id": "00000000-0000-7000-8000-000000000001",
    "ledger_version": 3,
    "id": "00000000-0000-7000-8000-000000000002",
    "amount_minor": 5,
    "currency": "USD",
    "balance_before": 7,
    "balance_after": 2,
    "free_uses_after": 0,
    "paid_with": "paid",
    "transaction_type": "grant",
    "description": "one use",
    "idempotency_key": "key",
    "created_at": "2026-01-02 03:04:05.678Z",
    "database_role": "ada",
}


def test_updates_of_a_charge_stay_hot(database: Database) -> None:
    who = new_user(database, paid=1000)
    with session(database, "t_dba") as dba:
        for _ in range(50):
            dba.row("create_charge", **who)
        # Without this, the figures are there only after the session has ended, some time after
        # this.
        dba.connection.execute("SELECT pg_stat_force_next_flush()")
    row = database.execute(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_all_tables"
        " WHERE relid = 'billing_data.accounts'::regclass"
    )[0]
    assert row[0] == row[1] >= 51


def test_the_alarm_sees_a_changed_entry_and_a_login_that_is_not_the_old_service(
    books: tuple[Database, dict[str, str], Any],
) -> None:
    database, _, account = books
    tamper(
        database,
        "UPDATE billing_data.charges SET description = 'else', database_role = 'legacy',"
        " api_key_id = NULL WHERE account_id = %(id)s",
        "UPDATE billing_data.credits SET description = 'else' WHERE account_id = %(id)s"
        " AND ledger_version = 8",
        id=account,
    )
    assert watch(database)[1] == [account]
