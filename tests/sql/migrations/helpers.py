"""What the tests of migrations share."""

from __future__ import annotations

import subprocess
from hashlib import sha256
from pathlib import Path

import psycopg
import yoyo

from server.config import SettingsSeed
from server.migrate import (
    status,
)
from tests.sql.helpers import (
    charge_all,
    charge_once,
    key_id,
    person,
    session,
)
from tests.sql.payments import (
    PRICE,
    attach,
    begin,
    configure_provider,
    deliver,
    give_back,
    legacy,
)
from tests.support import (
    BILLING,
    Database,
    clean_environment,
    unique,
)

MIGRATIONS = Path(__file__).resolve().parents[3] / "migrations"


STEPS = sorted(
    file.stem for file in MIGRATIONS.glob("*.sql") if not file.stem.endswith(".rollback")
)


LEGACY = [step for step in STEPS if step < "2026"]


OWN = [step for step in STEPS if step > "2026"]


SEED = SettingsSeed()


def apply_first(database: Database, count: int) -> None:
    """Brings an empty database to its `count`th step, as an old release would have done."""
    backend = yoyo.get_backend("postgresql+psycopg://" + database.dsn().partition("://")[2])
    try:
        backend.ensure_internal_schema_updated()
        steps = yoyo.read_migrations(str(MIGRATIONS))
        for step in list(backend.to_apply(steps))[:count]:
            backend.apply_one(step)
    finally:
        backend.connection.close()


def run_migrate(database: Database, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BILLING, "migrate", *arguments],
        env={**clean_environment(), "DATABASE_URL": database.dsn()},
        capture_output=True,
        text=True,
        check=False,
    )


def applied_steps(database: Database) -> list[str]:
    return [step.step for step in status(database.dsn()) if step.applied]


def use_everything(database: Database) -> dict[str, str]:
    """Fills every table that functions write. Returns an identity with charges and credits written
    by a key, by staff and by a DBA."""
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


# What was sold and paid for. Rolling back the step that makes these tables drops their rows; on the
# way up the settled purchases are made again from their credits.
SOLD = """
    SELECT p.payment_id, p.account_id, p.uses, p.price_minor, p.currency, p.settled_at, p.credit_id
    FROM billing_data.purchases AS p WHERE p.settled_at IS NOT NULL ORDER BY 1
"""


def run_statements(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


LEGACY_ROWS = """
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
