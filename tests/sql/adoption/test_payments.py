"""Purchases and the settings of payment providers of a database that was taken over."""

from __future__ import annotations

import json

from server.encryption import Cipher
from tests.sql.adoption.helpers import (
    KEY,
    LAST,
    STORES,
    Adopted,
    dump,
    old_database,
    take_over,
)
from tests.sql.helpers import ledger_problems, session
from tests.sql.payments import USES, deliver
from tests.support import (
    TestCluster,
    unique,
)


def test_a_payment_offered_to_a_merged_account_reaches_the_one_that_stayed(
    cluster: TestCluster,
) -> None:
    with old_database(cluster) as (database, _):
        gone = database.value(
            "SELECT id FROM public.accounts WHERE external_id = 'user-43'"
            " ORDER BY created_at DESC LIMIT 1"
        )
        who = database.execute(
            "SELECT oauth_provider, external_id FROM public.accounts WHERE id = %s", gone
        )[0]
        take_over(database)
        named = {"account_id": gone, "oauth_provider": who[0], "external_id": who[1]}
        before = database.value(
            "SELECT paid_credits FROM billing_data.accounts WHERE external_id = 'user-43'"
        )
        with session(database, "t_dba") as dba:
            assert deliver(dba, unique("evt"), unique("pi"), **named)["outcome"] == "credited"
        after = database.value(
            "SELECT paid_credits FROM billing_data.accounts WHERE external_id = 'user-43'"
        )
        assert after == before + USES
        assert ledger_problems(database) == []


def test_payment_intents_become_purchases(cluster: TestCluster) -> None:
    with old_database(cluster, LAST) as (database, _):
        intents = database.execute(
            "SELECT payment_intent_id, status, uses_purchased, amount_minor"
            " FROM public.stripe_payment_intents"
        )
        report = take_over(database)
        for payment_id, state, uses, amount in intents:
            row = database.execute(
                "SELECT uses, price_minor, settled_at IS NOT NULL FROM billing_data.purchases"
                " WHERE payment_id = %s",
                payment_id,
            )
            assert row == [(uses, amount, state == "credited")]
        assert {state for _, state, _, _ in intents} == {"created", "credited"}
        assert "legacy_service.stripe_payment_intents" not in {t.table for t in report.kept}
        # A payment that was offered before is paid now: what was offered is credited, once.
        opened = next(payment_id for payment_id, state, *_ in intents if state == "created")
        with session(database, "t_dba") as dba:
            paid = [
                deliver(dba, unique("evt"), opened, amount_minor=499)["outcome"] for _ in range(2)
            ]
        assert paid == ["credited", "already_credited"]
        assert ledger_problems(database) == []


def test_no_secret_is_readable_anywhere_and_the_key_opens_them(adopted: Adopted) -> None:
    config = adopted.database.value(
        "SELECT config_data FROM billing_data.provider_configs WHERE provider_type = 'stripe'"
    )
    cipher = Cipher([KEY])
    opened = {cipher.decrypt(config[name]["encrypted"]) for name in ("api_key", "webhook_secret")}
    assert opened == set(adopted.secrets)
    assert config["publishable_key"].startswith("pk_")
    everything = dump(adopted.database)
    log = adopted.database.cluster.cluster.log.read_text(encoding="utf-8", errors="replace")
    assert "transformation" not in log
    assert "INSERT INTO billing_data.charges" in log  # it does report what adoption did
    told = json.dumps(adopted.report.as_dict(), default=str) + "\n".join(adopted.report.lines())
    for secret in adopted.secrets:
        assert secret not in everything
        assert secret not in log
        assert secret not in told


def test_settings_of_stores_are_kept_encrypted(cluster: TestCluster) -> None:
    with old_database(cluster, STORES, accounts=10, charges=10) as (database, _):
        was = dict(
            database.execute("SELECT provider_type, config_data FROM public.provider_configs")
        )
        take_over(database)
        rows = database.execute(
            "SELECT provider_type, encrypted_config_data FROM legacy_service.store_settings"
        )
        cipher = Cipher([KEY])
        assert {name: json.loads(cipher.decrypt(token)) for name, token in rows} == {
            name: was[name] for name in ("apple_storekit", "google_play")
        }
        assert was["apple_storekit"]["private_key"] not in dump(database)
