"""`ciris-billing providers reencrypt`: afterwards the old key can be thrown away."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from datetime import timedelta

from server.encryption import Cipher
from server.outbox.secrets import new_secret, opened, sealed
from server.payments.settings import seal_settings
from tests.ops.command_line import refused, run
from tests.sql.helpers import session
from tests.support import Database

KEY, NEWER_KEY = (secrets.token_hex(48) for _ in range(2))


def reencrypt(database: Database, keys: str) -> subprocess.CompletedProcess[str]:
    """Runs the command with these keys, the newest first."""
    environment = {"DATABASE_URL": database.dsn("t_dba"), "ENCRYPTION_KEY": keys}
    return run("providers", "reencrypt", environment=environment)


def sealed_anywhere(database: Database) -> list[str]:
    """Whatever is encrypted, in any column of any table."""
    tables = database.execute(
        "SELECT c.oid::regclass::text FROM pg_class AS c WHERE c.relkind = 'r'"
        " AND c.relnamespace::regnamespace::text LIKE 'billing%'"
    )
    rows = " UNION ALL ".join(f"SELECT t::text FROM {name} AS t" for (name,) in tables)
    texts = database.execute(f"SELECT x.t FROM ({rows}) AS x (t) WHERE x.t LIKE '%gAAAA%'")
    return [token for (text,) in texts for token in re.findall(r"gAAAA[\w=-]+", text)]


def test_afterwards_nothing_in_the_database_needs_the_old_key(database: Database) -> None:
    keys = {"api_key": f"sk_test_{KEY[:24]}", "webhook_secret": f"whsec_{KEY[24:48]}"}
    with session(database, "t_dba") as dba:
        dba.row(
            "set_provider_config",
            provider_type="stripe",
            config_data=json.dumps(seal_settings("stripe", keys, Cipher([KEY]))),
        )
        made = {}
        for name, count in (("one secret", 1), ("two", 2), ("an old one that signs no more", 2)):
            made[name] = [new_secret() for _ in range(count)]
            first, *more = (sealed(secret, Cipher([KEY])) for secret in made[name])
            endpoint = dba.value(
                "create_webhook_endpoint",
                name=name,
                url="https://example.com/",
                secret=first,
                reason="x",
            )
            for secret in more:
                dba.value("rotate_webhook_secret", endpoint_id=endpoint, secret=secret, reason="x")
        database.execute(
            "UPDATE billing_data.webhook_endpoints SET old_secret_until = '2020-01-01'"
            " WHERE name LIKE 'an old one%'"
        )
        assert len(sealed_anywhere(database)) == 2 + 1 + 2 + 2
        message = refused(reencrypt(database, NEWER_KEY), 1)
        assert "with a key that ENCRYPTION_KEY does not have" in message
        done = reencrypt(database, f"{NEWER_KEY},{KEY}")
        assert done.returncode == 0
        assert done.stderr == "Webhook endpoints with their secrets: 3\n"
        left = sealed_anywhere(database)
        newest = Cipher([NEWER_KEY])
        one, two, old = made.values()
        expected = [*one, *two, old[1], keys["api_key"], keys["webhook_secret"]]
        assert sorted(map(newest.decrypt, left)) == sorted(expected)
        for endpoint in dba.rows("list_webhook_endpoints"):
            signing = dba.row("get_webhook_endpoint", endpoint_id=endpoint["endpoint_id"])
            secrets = opened(json.dumps(signing["secrets"]), newest)
            assert secrets == made[endpoint["name"]][:-3:-1][: len(secrets)]
            # What was changed meanwhile is not put back.
            again = {
                "endpoint_id": endpoint["endpoint_id"],
                "secrets": json.dumps(signing["secrets"]),
                "reason": "x",
            }
            before = endpoint["updated_at"] - timedelta(microseconds=1)
            assert not dba.value("reseal_webhook_secrets", **again, unchanged_since=before)
            others = json.dumps([{**signing["secrets"][0], "masked": "whsec_…xxxx"}])
            assert not dba.value("reseal_webhook_secrets", **{**again, "secrets": others})
    log = database.execute(
        "SELECT count(*) FROM billing_data.admin_audit_logs WHERE action = 'webhook.reseal'"
    )
    assert log == [(3,)]
