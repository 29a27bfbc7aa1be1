"""Erasing the personal columns of an account's entries, the one change of an entry there is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sql.helpers import account_of, ledger_problems, new_user, person, session
from tests.sql.payments import bought, configure_provider
from tests.support import Database, unique

SECRET = "ada.lovelace@example.com"
# What a column may hold that it did not hold before, by its type.
OTHER = {
    "uuid": "00000000-0000-7000-8000-000000000001",
    "bigint": 987654321,
    "text": "another",
    "character varying": "ANO",
    "timestamp with time zone": "2001-02-03T04:05:06.789012+00:00",
    "bytea": "\\x0203",
}
PERSONAL = {
    "charges": {
        "description", "idempotency_key", "metadata_message_id", "metadata_agent_id",
        "metadata_channel_id", "metadata_request_id", "request_fingerprint", "digest",
    },
    "credits": {
        "description", "idempotency_key", "external_transaction_id", "request_fingerprint",
        "digest",
    },
}  # fmt: skip
KINDS = {"charges": "charge", "credits": "credit"}
SALT = "'\\x0102'::bytea"


def _spender(database: Database) -> Any:
    """The id of an account whose entries say who its person is."""
    who = new_user(database, paid=5)
    with session(database, "t_dba") as dba:
        dba.row(
            "create_charge", **who, description=SECRET, idempotency_key=unique(SECRET),
            metadata_message_id=SECRET, metadata_agent_id=SECRET, metadata_channel_id=SECRET,
            metadata_request_id=SECRET,
        )  # fmt: skip
        dba.row(
            "create_credit", **who, amount_minor=3, description=SECRET,
            idempotency_key=unique(SECRET), external_transaction_id=SECRET,
        )  # fmt: skip
    return account_of(database, who)["id"]


def _leaves(database: Database, account: Any) -> list[Any]:
    return database.execute(
        "SELECT billing_data.charge_leaf(c, coalesce(e.personal_digest,"
        f" billing_data.charge_personal_digest(c, {SALT})))"
        " FROM billing_data.charges AS c LEFT JOIN billing_data.erased_entries AS e"
        " USING (account_id, ledger_version) WHERE c.account_id = %s"
        " UNION ALL SELECT billing_data.credit_leaf(c, coalesce(e.personal_digest,"
        f" billing_data.credit_personal_digest(c, {SALT})))"
        " FROM billing_data.credits AS c LEFT JOIN billing_data.erased_entries AS e"
        " USING (account_id, ledger_version) WHERE c.account_id = %s ORDER BY 1",
        account,
        account,
    )


def _entries(database: Database, account: Any) -> str:
    return repr(
        [
            database.execute(
                f"SELECT to_jsonb(e)::text FROM billing_data.{table} AS e WHERE e.account_id = %s",
                account,
            )
            for table in KINDS
        ]
    )


@pytest.mark.parametrize("table", KINDS)
def test_every_column_of_an_entry_changes_its_leaf(module_database: Database, table: str) -> None:
    _spender(module_database)
    kind = KINDS[table]
    columns = module_database.execute(
        "SELECT a.attname, format_type(a.atttypid, NULL) FROM pg_attribute AS a"
        f" WHERE a.attrelid = 'billing_data.{table}'::regclass AND a.attnum > 0"
        " AND NOT a.attisdropped"
    )
    for column, of_type in columns:
        leaves = module_database.execute(
            f"SELECT billing_data.{kind}_personal_digest(e, {SALT}),"
            f" billing_data.{kind}_personal_digest(o, {SALT}),"
            f" billing_data.{kind}_leaf(e, '') = billing_data.{kind}_leaf(o, '')"
            f" FROM billing_data.{table} AS e CROSS JOIN LATERAL"
            f" jsonb_populate_record(e, jsonb_build_object('{column}', %s::text)) AS o LIMIT 1",
            str(OTHER[of_type]),
        )
        ((before, after, is_same_leaf),) = leaves
        # A personal column changes the personal digest, which the leaf has, and any other column
        # changes the leaf itself. A new column must be one or the other.
        assert (before != after) == (column in PERSONAL[table]), column
        assert is_same_leaf == (column in PERSONAL[table]), column


def test_an_erased_account_names_nobody_and_its_books_and_leaves_stay_sound(
    database: Database,
) -> None:
    account = _spender(database)
    database.execute(
        f"INSERT INTO billing_data.seal_salts (account_id, salt) VALUES (%s, {SALT} ||"
        " decode(repeat('00', 30), 'hex'))",
        account,
    )
    salted = (
        "SELECT coalesce(e.personal_digest, billing_data.charge_personal_digest(c, s.salt))"
        " FROM billing_data.charges AS c LEFT JOIN billing_data.seal_salts AS s USING (account_id)"
        " LEFT JOIN billing_data.erased_entries AS e USING (account_id, ledger_version)"
        " WHERE c.account_id = %s"
    )
    before = database.execute(salted, account)
    assert SECRET in _entries(database, account)
    assert database.value("SELECT billing_data.erase_entries(%s)", account) == 3
    assert SECRET not in _entries(database, account)
    assert database.execute(salted, account) == before
    assert database.value("SELECT count(*) FROM billing_data.seal_salts") == 0
    assert ledger_problems(database) == []
    # Doing it again changes nothing; what is written later can be erased too.
    assert database.value("SELECT billing_data.erase_entries(%s)", account) == 0
    with session(database, "t_dba") as dba:
        dba.row("adjust_credits", account_id=account, amount=1, reason=SECRET)
    leaves = _leaves(database, account)
    assert database.value("SELECT billing_data.erase_entries(%s)", account) == 1
    assert SECRET not in _entries(database, account)
    assert len(set(leaves) & set(_leaves(database, account))) == 3
    assert ledger_problems(database) == []


def test_a_payment_keeps_the_providers_ids_and_stays_proven(database: Database) -> None:
    configure_provider(database)
    who, payment = bought(database, person())
    account = account_of(database, who)["id"]
    assert database.value("SELECT billing_data.erase_entries(%s)", account) == 1
    assert payment in _entries(database, account)
    assert ledger_problems(database) == []


@pytest.mark.parametrize("table", KINDS)
def test_an_entry_takes_its_erased_form_only_after_its_digest_is_kept(
    database: Database, table: str
) -> None:
    account = _spender(database)
    kind = KINDS[table]
    erase = (
        f"UPDATE billing_data.{table} AS e SET description = f.description, idempotency_key ="
        " f.idempotency_key, request_fingerprint = f.request_fingerprint, digest = f.digest"
        + (
            ", external_transaction_id = f.external_transaction_id"
            if kind == "credit"
            else ", metadata_message_id = NULL, metadata_agent_id = NULL,"
            " metadata_channel_id = NULL, metadata_request_id = NULL"
        )
        + f" FROM billing_data.{table} AS o CROSS JOIN LATERAL billing_data.erased_{kind}(o) AS f"
        " WHERE o.id = e.id"
    )
    others = (
        "description = 'mine'", "description = 'erased'", "digest = 1",
        f"digest = billing_data.{kind}_digest(e), request_fingerprint = NULL",
        "ledger_version = e.ledger_version + 100", "idempotency_key = NULL",
    )  # fmt: skip
    with session(database, "postgres") as root:
        assert root.refused(erase).slug == "append_only"
        root.execute(
            "INSERT INTO billing_data.erased_entries SELECT e.account_id, e.ledger_version,"
            f" billing_data.{kind}_personal_digest(e, {SALT}), now() FROM billing_data.{table} AS e"
            " WHERE e.account_id = %s",
            account,
        )
        for change in others:
            statement = f"UPDATE billing_data.{table} AS e SET {change}"
            assert root.refused(statement).slug == "append_only", change
        for statement in (
            "UPDATE billing_data.erased_entries SET personal_digest = sha256('')",
            "DELETE FROM billing_data.erased_entries",
            "TRUNCATE billing_data.erased_entries",
        ):
            assert root.refused(statement).slug == "append_only"
        root.execute(erase)
    assert SECRET not in repr(
        database.execute(f"SELECT to_jsonb(e)::text FROM billing_data.{table} AS e")
    )
