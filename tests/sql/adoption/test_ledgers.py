"""Ledgers, checks and idempotency keys of a database that was taken over."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime, timedelta

from tests.http.main_road import go_the_main_road
from tests.sql.adoption.helpers import (
    Adopted,
)
from tests.sql.helpers import ledger_problems, session
from tests.sql.seals import seal_all
from tests.support import (
    BILLING,
    Service,
    clean_environment,
)


def test_merged_ledgers_are_in_the_order_of_time(adopted: Adopted) -> None:
    times = adopted.database.execute(
        "SELECT e.created_at FROM (SELECT account_id, ledger_version, created_at"
        " FROM billing_data.charges UNION ALL SELECT account_id, ledger_version, created_at"
        " FROM billing_data.credits) AS e INNER JOIN billing_data.accounts AS a"
        " ON a.id = e.account_id WHERE a.external_id = 'user-43' ORDER BY e.ledger_version"
    )
    assert len(times) > 12
    assert times == sorted(times)


def test_an_opening_closes_what_the_entries_do_not_explain(adopted: Adopted) -> None:
    rows = adopted.database.execute(
        "SELECT a.external_id, o.reason, o.paid_credits, a.paid_credits, o.ledger_version"
        " FROM billing_data.ledger_openings AS o"
        " INNER JOIN billing_data.accounts AS a ON a.id = o.account_id"
    )
    reasons = {row[0]: row[1] for row in rows}
    assert all(row[2] == row[3] for row in rows)
    # These were given at creation, so nothing was written about them; or the entries end fifty
    # below.
    assert [reasons[f"user-{number}"] for number in (2, 3, 4)] == ["no_entries"] * 3
    assert [reasons[f"user-{number}"] for number in (5, 6, 7)] == ["other_balance"] * 3
    # Cents, a race, and uses from before the old service recorded them.
    assert [reasons[f"user-{number}"] for number in (12, 8, 40)] == [
        *("other_balance", "other_balance", "no_entries"),
    ]
    assert reasons["user-41"] == reasons["user-43"] == "no_chain"
    assert reasons["user-49"] == "agrees"
    counted = {
        "agrees": "openings of accounts whose entries agree with their balance",
        "other_balance": "openings of accounts whose entries end at another balance",
        "no_chain": "openings of accounts whose entries do not chain",
        "no_entries": "openings of accounts with something that no entry explains",
    }
    for reason, rule in counted.items():
        assert adopted.rule(rule) == (None, list(reasons.values()).count(reason))


def test_verify_is_clean_and_says_what_lies_before(adopted: Adopted) -> None:
    environment = {**clean_environment(), "DATABASE_URL": adopted.database.dsn("t_dba")}
    told = subprocess.run(
        [BILLING, "verify"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert told.startswith("The books agree.\n")
    assert "accounts, before their books begin (they ended at another balance)" in told
    entries = sum(int(number) for number in re.findall(r"Only counted: (\d+) entries", told))
    assert entries == sum(len(one["entries"]) for one in adopted.before.values())


def test_an_entry_that_cannot_stay_as_it_was_is_kept_as_it_was(adopted: Adopted) -> None:
    kept = adopted.database.execute(
        "SELECT reason, kind, entry FROM legacy_service.changed_entries"
    )
    for _, _, entry in kept:
        was = adopted.old_rows[entry["id"]]
        assert entry == was
    reasons = {(reason, kind) for reason, kind, _ in kept}
    assert reasons >= {("key", "charge"), ("empty key", "charge")}
    assert adopted.rule("empty idempotency keys") == (1, 0)


def test_checks_keep_their_month_and_go_with_it(adopted: Adopted) -> None:
    database = adopted.database
    unknown, checks = database.execute(
        "SELECT count(*) FILTER (WHERE account_id IS NULL), count(*)"
        " FROM billing_data.credit_checks"
    )[0]
    old = [row for row in adopted.old_rows.values() if "has_credit" in row]
    assert (unknown, checks) == (sum(row["account_id"] is None for row in old), len(old))
    assert unknown > 0
    assert database.value("SELECT count(*) FROM billing_data.credit_checks_default") == 0
    with session(database, "t_dba") as dba:
        dropped = dba.rows("drop_check_partitions", before=datetime.now(UTC) - timedelta(days=32))
    assert "credit_checks_2025_10" in {row["partition_name"] for row in dropped}
    assert database.value("SELECT count(*) FROM billing_data.credit_checks") < checks


def test_an_old_charge_key_is_still_recognised(adopted: Adopted, adopted_service: Service) -> None:
    charge_id, key, provider, external = adopted.database.execute(
        "SELECT c.id, c.idempotency_key, a.oauth_provider, a.external_id"
        " FROM billing_data.charges AS c"
        " INNER JOIN billing_data.accounts AS a ON a.id = c.account_id"
        " WHERE c.database_role = 'legacy' AND a.status = 'active'"
        " AND c.idempotency_key LIKE 'charge_%%' AND a.currency = 'USD' LIMIT 1"
    )[0]
    secret = next(key.secret for key in adopted.keys if key.name == "active, live")
    body = {
        "oauth_provider": provider,
        "external_id": external,
        "amount_minor": 3,
        "currency": "USD",
        "description": "again",
        "idempotency_key": key,
    }
    with adopted_service.client() as client:
        again = client.post("/v1/billing/charges", json=body, headers={"X-API-Key": secret})
        assert (again.status_code, again.json()["detail"]) == (409, "Charge already exists")
        assert again.headers["X-Existing-Charge-ID"] == str(charge_id)
        history = client.get(
            "/v1/billing/transactions",
            params={"oauth_provider": provider, "external_id": external},
            headers={"X-API-Key": secret},
        ).json()
    assert str(charge_id) in {entry["transaction_id"] for entry in history["transactions"]}


def test_the_entries_of_the_old_service_are_sealed_like_all_others(adopted: Adopted) -> None:
    sealed = sum(entries for _, _, entries in seal_all(adopted.database))
    assert sealed == adopted.database.value(
        "SELECT (SELECT count(*) FROM billing_data.charges WHERE created_at < date_trunc('day',"
        " now(), 'UTC')) + (SELECT count(*) FROM billing_data.credits WHERE created_at <"
        " date_trunc('day', now(), 'UTC'))"
    )
    assert sealed > 100
    assert ledger_problems(adopted.database) == []


def test_the_main_road_is_open_on_a_database_that_was_taken_over(
    adopted: Adopted, adopted_service: Service
) -> None:
    go_the_main_road(adopted_service)
    assert ledger_problems(adopted.database) == []
