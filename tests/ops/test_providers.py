"""`ciris-billing providers`, as an operator runs it: what is stored, shown and refused. No run of
the command may print a secret, and neither tables nor the audit log may contain one."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from server.config import ConfigError, load_provider_config
from server.encryption import Cipher, DecryptionFailed, mask
from server.payments.settings import InvalidSetting, seal_settings
from tests.ops.command_line import refused, run
from tests.stripe_double import Status, StripeDouble, running_stripe
from tests.support import Database, wait_for

KEY, NEWER_KEY = (secrets.token_urlsafe(48) for _ in range(2))
INTENTS = "/v1/payment_intents$"
SETTINGS = {
    "api_key": "STRIPE_API_KEY",
    "webhook_secret": "STRIPE_WEBHOOK_SECRET",
    "publishable_key": "STRIPE_PUBLISHABLE_KEY",
}
Json = dict[str, Any]


def random_key(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


class Operator:
    """An operator at a shell with a DBA's login; `printed` is all output."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.secrets = [KEY, NEWER_KEY]
        self.printed = ""
        self.clear_text = False

    def plant(self, secret: str) -> str:
        """Registers a secret that must never be printed or stored in clear text."""
        self.secrets.append(secret)
        return secret

    def run(
        self, *arguments: str, user: str = "t_dba", key: str | None = KEY, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        if key is not None:
            environment["ENCRYPTION_KEY"] = key
        environment = {"DATABASE_URL": self.database.dsn(user), **environment}
        done = run("providers", *arguments, environment=environment)
        self.printed += done.stdout + done.stderr
        return done

    def ok(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        done = self.run(*arguments, **options)
        assert done.returncode == 0, done.stderr
        return done

    def refused(self, code: int, *arguments: str, **options: Any) -> str:
        done = self.run(*arguments, **options)
        assert done.stdout == ""
        return refused(done, code)

    def row(self, *arguments: str, **options: Any) -> Json:
        """The one provider that the command shows as JSON."""
        [row] = json.loads(self.ok(*arguments, "--json", **options).stdout)
        assert isinstance(row, dict)
        return row

    def stored(self) -> Json:
        """Stripe's settings as they are in the table."""
        [(stored,)] = self.database.execute("SELECT config_data FROM billing_data.provider_configs")
        assert isinstance(stored, dict)
        return stored

    def opened(self, *keys: str) -> dict[str, str]:
        """The stored secrets, decrypted by these keys."""
        cipher = Cipher(keys)
        return {
            name: cipher.decrypt(value["encrypted"])
            for name, value in self.stored().items()
            if name != "publishable_key"
        }

    def audit(self) -> list[tuple[str, str, Json]]:
        """The audit log, oldest first: who, why, what."""
        return self.database.execute(
            "SELECT database_role, reason, changes FROM billing_data.admin_audit_logs"
            " WHERE action = 'provider_config.set' AND resource_id = 'stripe' ORDER BY created_at"
        )

    def store(self, given: dict[str, str], key: str = KEY) -> None:
        """Sets Stripe up without the command."""
        sealed = json.dumps(seal_settings("stripe", given, Cipher([key])))
        self.database.execute(
            "SELECT * FROM billing.set_provider_config(p_provider_type => 'stripe',"
            " p_config_data => %s::jsonb)",
            sealed,
            user="t_dba",
        )


@pytest.fixture
def operator(database: Database) -> Iterator[Operator]:
    operator = Operator(database)
    yield operator
    places = {
        "output": operator.printed,
        "audit log": str(database.execute("SELECT l FROM billing_data.admin_audit_logs AS l")),
    }
    if not operator.clear_text:
        rows = database.execute("SELECT c FROM billing_data.provider_configs AS c")
        places["table"] = str(rows)
    assert [name for name, text in places.items() if any(s in text for s in operator.secrets)] == []


@pytest.fixture
def keys(operator: Operator) -> dict[str, str]:
    """Keys of Stripe's test mode."""
    return {
        "api_key": operator.plant(random_key("sk_test")),
        "webhook_secret": operator.plant(random_key("whsec")),
        "publishable_key": random_key("pk_test"),
    }


@pytest.fixture(scope="module")
def double() -> Iterator[StripeDouble]:
    with running_stripe() as double:
        yield double


def environment(given: dict[str, str]) -> dict[str, str]:
    return {SETTINGS[name]: value for name, value in given.items()}


# Setting


def test_secrets_are_taken_from_variables_and_files_stored_encrypted_and_shown_masked(
    operator: Operator, keys: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "webhook-secret"
    file.write_text(f"{keys['webhook_secret']}\n")
    row = operator.row(
        *("set", "stripe", "--reason", "first set-up"),
        STRIPE_API_KEY=keys["api_key"],
        STRIPE_WEBHOOK_SECRET_FILE=str(file),
        STRIPE_PUBLISHABLE_KEY=keys["publishable_key"],
    )
    shown = {
        "api_key": f"sk_…{keys['api_key'][-4:]}",
        "webhook_secret": f"whsec_…{keys['webhook_secret'][-4:]}",
        "publishable_key": keys["publishable_key"],
    }
    assert set(row) == {"id", "provider_type", "is_active", "config_data", "mode", "updated_at"}
    assert (row["provider_type"], row["is_active"], row["mode"]) == ("stripe", True, "test")
    assert row["config_data"] == shown

    assert operator.opened(KEY) == {name: keys[name] for name in ("api_key", "webhook_secret")}
    [(who, why, changes)] = operator.audit()
    assert (who, why) == ("t_dba", "first set-up")
    assert sorted(changes["changed"]) == sorted(SETTINGS)
    assert changes["before"] is None  # there was none before
    assert changes["after"] == {**shown, "is_active": True}

    assert operator.row("list", key=None) == row
    listed = operator.ok("list", key=None)
    assert listed.stderr == ""
    for text in ("stripe", " on ", " test ", *shown.values()):
        assert text in listed.stdout


def test_what_is_masked_or_blank_keeps_what_is_stored(
    operator: Operator, keys: dict[str, str]
) -> None:
    operator.store(keys)
    before = operator.stored()
    newer = random_key("pk_test")
    row = operator.row(
        *("set", "stripe"),
        STRIPE_API_KEY=mask(keys["api_key"]),
        STRIPE_WEBHOOK_SECRET="  ",
        STRIPE_PUBLISHABLE_KEY=f" {newer}\n",
    )
    assert row["config_data"]["publishable_key"] == newer
    assert operator.stored() == {**before, "publishable_key": newer}
    assert operator.audit()[-1][2]["changed"] == ["publishable_key"]

    message = operator.refused(
        *(1, "set", "stripe"),
        STRIPE_API_KEY="****",
        STRIPE_WEBHOOK_SECRET="••••••••1234",
        STRIPE_PUBLISHABLE_KEY="",
    )
    assert "nothing to set" in message
    for name in SETTINGS.values():
        assert name in message
    assert operator.stored() == {**before, "publishable_key": newer}
    assert len(operator.audit()) == 2


@pytest.mark.parametrize("kept", ["", " \n", "sk_…1234", "…", "****", "sk_****", "••••", "•••1234"])
def test_every_form_of_mask_is_left_out(kept: str) -> None:
    given = {"api_key": kept, "webhook_secret": kept, "publishable_key": kept}
    assert seal_settings("stripe", given, None) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("api_key", "pk_test_0123456789abcdef"),
        ("api_key", "sk_prod_0123456789abcdef"),
        ("api_key", "sk_test_"),
        ("api_key", "sk_test_two words"),
        ("api_key", "sk_test_0123456789\nabcdef"),
        ("api_key", "sk_test_\uff10123456789"),
        ("api_key", "whsec_0123456789abcdef"),
        ("api_key", "cbk_live_0123456789abcdef"),
        ("webhook_secret", "sk_test_0123456789abcdef"),
        ("webhook_secret", "whsec_"),
        ("publishable_key", "sk_test_0123456789abcdef"),
        ("publishable_key", "pk_0123456789abcdef"),
    ],
)
def test_a_value_of_another_shape_is_named_and_not_repeated(name: str, value: str) -> None:
    with pytest.raises(InvalidSetting, match=f"^{name} must be ") as caught:
        seal_settings("stripe", {name: value}, Cipher([KEY]))
    assert len(value) < 12 or value not in str(caught.value)


def test_one_wrong_value_stops_all_of_them(operator: Operator, keys: dict[str, str]) -> None:
    wrong = {**keys, "webhook_secret": operator.plant(random_key("whsek"))}
    message = operator.refused(1, "set", "stripe", **environment(wrong))
    assert "webhook_secret must be" in message
    assert "whsec_..." in message
    assert operator.database.execute("SELECT 1 FROM billing_data.provider_configs") == []
    assert operator.audit() == []


def test_test_and_live_keys_are_not_mixed_and_nothing_is_half_written(
    operator: Operator, keys: dict[str, str]
) -> None:
    live = {
        "api_key": operator.plant(random_key("rk_live")),
        "publishable_key": random_key("pk_live"),
    }
    mixed = {**keys, "api_key": live["api_key"]}
    assert "cannot be mixed" in operator.refused(1, "set", "stripe", **environment(mixed))
    assert operator.database.execute("SELECT 1 FROM billing_data.provider_configs") == []

    operator.store(keys)
    before = operator.stored()
    half = {
        "publishable_key": live["publishable_key"],
        "webhook_secret": operator.plant(random_key("whsec")),
    }
    message = operator.refused(1, "set", "stripe", "--disable", **environment(half))
    assert "together" in message  # what to do
    assert operator.stored() == before
    assert operator.database.value("SELECT is_active FROM billing_data.provider_configs") is True
    assert len(operator.audit()) == 1

    row = operator.row("set", "stripe", **environment(live))
    assert row["mode"] == "live"
    assert row["config_data"]["api_key"] == f"rk_…{live['api_key'][-4:]}"
    assert operator.opened(KEY)["webhook_secret"] == keys["webhook_secret"]


def test_selling_is_switched_off_and_on(operator: Operator, keys: dict[str, str]) -> None:
    operator.store({name: keys[name] for name in ("api_key", "publishable_key")})
    before = operator.stored()
    off = operator.ok("set", "stripe", "--disable", key=None)
    assert re.search(r"^stripe +off +test ", off.stdout, re.MULTILINE)
    assert off.stderr == ""
    on = operator.ok("set", "stripe", "--enable", "--reason", "back", key=None)
    assert re.search(r"^stripe +on +test ", on.stdout, re.MULTILINE)
    assert "no webhook secret: payments cannot be credited" in on.stderr
    assert operator.stored() == before
    changes = [(changes["before"], changes["after"]) for _, _, changes in operator.audit()[1:]]
    states = [(before["is_active"], after["is_active"]) for before, after in changes]
    assert states == [(True, False), (False, True)]


def test_what_has_no_api_key_cannot_sell(operator: Operator, keys: dict[str, str]) -> None:
    message = operator.refused(1, "set", "stripe", "--enable")
    assert "STRIPE_API_KEY" in message
    assert operator.database.execute("SELECT 1 FROM billing_data.provider_configs") == []
    public = {"publishable_key": keys["publishable_key"]}
    operator.refused(1, "set", "stripe", "--enable", **environment(public))
    assert operator.row("set", "stripe", "--enable", **environment(keys))["is_active"] is True


def test_without_an_encryption_key_only_what_is_public_is_stored(
    operator: Operator, keys: dict[str, str]
) -> None:
    message = operator.refused(1, "set", "stripe", key=None, **environment(keys))
    assert "ENCRYPTION_KEY is not set" in message
    assert operator.database.execute("SELECT 1 FROM billing_data.provider_configs") == []
    public = {"publishable_key": keys["publishable_key"]}
    row = operator.row("set", "stripe", key=None, **environment(public))
    assert (row["config_data"], row["mode"]) == (public, None)


def test_an_unusable_environment_is_named_fault_by_fault(
    operator: Operator, keys: dict[str, str], tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.write_text(" \n")
    weak = operator.plant("hunter2hunter2")
    message = operator.refused(
        *(2, "set", "stripe"),
        key=weak,
        STRIPE_API_KEY=keys["api_key"],
        STRIPE_API_KEY_FILE=str(empty),
        STRIPE_WEBHOOK_SECRET_FILE=str(tmp_path / "absent"),
        STRIPE_PUBLISHABLE_KEY_FILE=str(empty),
        STRIPE_API_BASE="http://api.example.com",
        STRIPE_TIMEOUT="nan",
    )
    named = re.findall(r"^  - (\w+)", message, re.MULTILINE)
    assert sorted(named) == [
        "ENCRYPTION_KEY",
        "STRIPE_API_BASE",
        "STRIPE_API_KEY",
        "STRIPE_PUBLISHABLE_KEY_FILE",
        "STRIPE_TIMEOUT",
        "STRIPE_WEBHOOK_SECRET_FILE",
    ]
    assert operator.database.execute("SELECT 1 FROM billing_data.provider_configs") == []


@pytest.mark.parametrize("action", ["test", "reencrypt"])
def test_secrets_cannot_be_read_without_an_encryption_key(operator: Operator, action: str) -> None:
    message = operator.refused(2, action, key=None)
    assert "ENCRYPTION_KEY is not set" in message
    assert "at least 32" in message


@pytest.mark.parametrize(
    "arguments",
    [("set", "paypal"), ("set", "stripe", "--enable", "--disable")],
    ids=" ".join,
)
def test_a_wrong_command_line_is_answered_with_the_usage(arguments: tuple[str, ...]) -> None:
    assert refused(run("providers", *arguments), 2).startswith("usage: ciris-billing providers")


def test_where_nothing_is_set_up_each_command_says_what_to_do(operator: Operator) -> None:
    with ThreadPoolExecutor(2) as threads:
        listed = threads.submit(operator.ok, "list", key=None)
        as_json = threads.submit(operator.ok, "list", "--json", key=None)
        encrypted = threads.submit(operator.ok, "reencrypt")
        tried = threads.submit(operator.refused, 1, "test")
        setting = threads.submit(operator.refused, 1, "set", "stripe")
    for text in (listed.result().stdout, encrypted.result().stdout, tried.result()):
        assert "ciris-billing providers set stripe" in text
    assert json.loads(as_json.result().stdout) == []
    assert "nothing to set" in setting.result()
    assert operator.audit() == []


def test_the_servers_own_login_may_not_set_anything_up(
    operator: Operator, keys: dict[str, str]
) -> None:
    operator.store(keys)
    before = operator.stored()
    newer = environment({"webhook_secret": operator.plant(random_key("whsec"))})
    with ThreadPoolExecutor(2) as threads:
        asked = [
            threads.submit(operator.refused, 1, "set", "stripe", user="t_web", **newer),
            threads.submit(operator.refused, 1, "reencrypt", user="t_web"),
        ]
        for answer in asked:
            assert answer.result().startswith("ciris-billing: ")
    assert operator.stored() == before


# Several webhook secrets


def test_webhook_secrets_are_set_added_and_taken_away_one_by_one(
    operator: Operator, keys: dict[str, str], tmp_path: Path
) -> None:
    operator.store(keys)
    first, second, third, fourth = (operator.plant(random_key("whsec")) for _ in range(4))

    def shown(*arguments: str, **environment: str) -> list[str]:
        row = operator.row("set", "stripe", *arguments, **environment)
        return str(row["config_data"].get("webhook_secret", "")).split(",")

    def opened() -> list[str]:
        stored = operator.stored()["webhook_secret"]
        return [Cipher([KEY]).decrypt(one["encrypted"]) for one in stored]

    assert shown(STRIPE_WEBHOOK_SECRET=f"{first},{second}") == [mask(first), mask(second)]
    assert opened() == [first, second]
    both = [mask(first), mask(second), mask(third)]
    assert shown("--add-webhook-secret", STRIPE_WEBHOOK_SECRET=third) == both
    assert opened() == [first, second, third]
    listed = operator.ok("list", key=None)
    assert ",".join(both) in listed.stdout
    # When secrets are only taken away, those in the environment are not read.
    without = shown("--remove-webhook-secret", mask(first), STRIPE_WEBHOOK_SECRET=first)
    assert without == [mask(second), mask(third)]
    file = tmp_path / "webhook-secrets"
    file.write_text(f"{fourth}\n{first}\n")
    changed = shown(
        *("--add-webhook-secret", "--remove-webhook-secret", mask(second)),
        *("--remove-webhook-secret", mask(third)),
        STRIPE_WEBHOOK_SECRET_FILE=str(file),
    )
    assert changed == [mask(fourth), mask(first)]
    assert opened() == [fourth, first]
    assert shown("--add-webhook-secret", STRIPE_WEBHOOK_SECRET=first) == [mask(fourth), mask(first)]
    assert opened() == [fourth, first]
    before = operator.stored()
    message = operator.refused(1, "set", "stripe", "--remove-webhook-secret", mask(second))
    assert "no webhook secret is shown as" in message
    message = operator.refused(1, "set", "stripe", "--add-webhook-secret")
    assert "needs STRIPE_WEBHOOK_SECRET" in message
    wrong = operator.plant("wh_" + "x" * 20)
    message = operator.refused(
        1, "set", "stripe", "--add-webhook-secret", STRIPE_WEBHOOK_SECRET=f"{third},{wrong}"
    )
    assert "webhook_secret must be" in message
    assert operator.stored() == before
    removed = [option for one in changed for option in ("--remove-webhook-secret", one)]
    assert shown(*removed) == [""]
    assert "webhook_secret" not in operator.stored()


def test_all_webhook_secrets_are_encrypted_anew(operator: Operator, keys: dict[str, str]) -> None:
    other = operator.plant(random_key("whsec"))
    operator.store({**keys, "webhook_secret": f"{keys['webhook_secret']},{other}"})
    operator.ok("reencrypt", key=f"{NEWER_KEY},{KEY}")
    stored = operator.stored()["webhook_secret"]
    opened = [Cipher([NEWER_KEY]).decrypt(one["encrypted"]) for one in stored]
    assert opened == [keys["webhook_secret"], other]


# Keys that encrypt


def test_a_key_is_rotated_without_a_moment_in_which_the_secrets_cannot_be_read(
    operator: Operator, keys: dict[str, str], double: StripeDouble, tmp_path: Path
) -> None:
    operator.store({**keys, "api_key": operator.plant(double.api_key)})
    both, base = f"{NEWER_KEY},{KEY}", double.base_url

    operator.ok("test", key=both, STRIPE_API_BASE=base)  # the old key still decrypts
    newer = operator.plant(random_key("whsec"))
    operator.ok("set", "stripe", key=both, STRIPE_WEBHOOK_SECRET=newer)  # the newest key encrypts
    sealed = operator.stored()
    assert Cipher([NEWER_KEY]).decrypt(sealed["webhook_secret"]["encrypted"]) == newer
    assert Cipher([KEY]).decrypt(sealed["api_key"]["encrypted"]) == double.api_key
    for action in ("test", "reencrypt"):  # the old key is still needed
        message = operator.refused(1, action, key=NEWER_KEY, STRIPE_API_BASE=base)
        assert "with a key that ENCRYPTION_KEY does not have" in message
    assert operator.stored() == sealed

    file = tmp_path / "keys"
    file.write_text(f"{NEWER_KEY}\n{KEY}\n")
    shown = operator.row("reencrypt", key=None, ENCRYPTION_KEY_FILE=str(file))
    assert shown["config_data"]["api_key"] == mask(double.api_key)
    assert operator.opened(NEWER_KEY) == {"api_key": double.api_key, "webhook_secret": newer}
    with pytest.raises(DecryptionFailed):
        operator.opened(KEY)
    assert operator.stored()["publishable_key"] == keys["publishable_key"]
    who, why, changes = operator.audit()[-1]
    assert (who, why) == ("t_dba", "encrypted with the newest key")
    assert changes["before"] == changes["after"]

    operator.ok("test", key=NEWER_KEY, STRIPE_API_BASE=base)  # the old key is no longer needed


def test_a_key_changed_while_the_secrets_are_encrypted_anew_is_not_lost(
    operator: Operator, keys: dict[str, str]
) -> None:
    operator.store(keys)
    newer = operator.plant(random_key("sk_test"))
    sealed = json.dumps(seal_settings("stripe", {"api_key": newer}, Cipher([KEY])))
    with (
        psycopg.connect(operator.database.dsn("t_dba")) as colleague,
        ThreadPoolExecutor(1) as threads,
    ):
        colleague.execute(
            "SELECT * FROM billing.set_provider_config(p_provider_type => 'stripe',"
            " p_config_data => %s::jsonb)",
            (sealed,),
        )
        started = threads.submit(operator.run, "reencrypt", key=f"{NEWER_KEY},{KEY}")
        wait_for(
            lambda: (
                started.done()
                or operator.database.value(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND wait_event_type = 'Lock'"
                )
            ),
            "the command to wait for the row",
        )
        colleague.commit()
        done = started.result()
    assert done.returncode in (0, 1), done.stderr
    assert operator.opened(KEY, NEWER_KEY)["api_key"] == newer


# What the old service left


def test_clear_text_of_the_old_service_works_with_a_warning_until_it_is_encrypted(
    operator: Operator, keys: dict[str, str], double: StripeDouble
) -> None:
    operator.clear_text = True
    old = {**keys, "api_key": operator.plant(double.api_key)}
    operator.database.execute(
        "INSERT INTO billing_data.provider_configs (provider_type, config_data)"
        " VALUES ('stripe', %s::jsonb)",
        json.dumps(old),
    )
    tried = operator.ok("test", STRIPE_API_BASE=double.base_url)
    for name in ("api_key", "webhook_secret"):
        assert f"{name} of the payment provider is stored in clear text" in tried.stderr
    assert "providers reencrypt" in tried.stderr
    assert operator.row("list")["config_data"]["api_key"] == f"…{double.api_key[-4:]}"

    assert operator.row("reencrypt")["mode"] == "test"
    operator.clear_text = False  # from here on the table is searched, too
    assert operator.opened(KEY) == {name: old[name] for name in ("api_key", "webhook_secret")}
    tried = operator.ok("test", STRIPE_API_BASE=double.base_url)
    assert (tried.stdout, tried.stderr) == ("Stripe accepts the API key.\n", "")


def test_what_else_the_old_services_settings_hold_is_no_obstacle(
    operator: Operator, keys: dict[str, str], double: StripeDouble
) -> None:
    """The old service's administrators could store any JSON object."""
    operator.clear_text = True
    old = {"api_key": operator.plant(double.api_key), "webhook_secret": None, "capture": True}
    operator.database.execute(
        "INSERT INTO billing_data.provider_configs (provider_type, config_data)"
        " VALUES ('stripe', %s::jsonb)",
        json.dumps({**old, "retries": 3, "urls": ["https://example.com"], "nested": {"a": 1}}),
    )
    with ThreadPoolExecutor(3) as threads:
        tried = threads.submit(operator.run, "test", STRIPE_API_BASE=double.base_url)
        listed = threads.submit(operator.run, "list")
    assert tried.result().returncode == 0, tried.result().stderr
    assert listed.result().returncode == 0, listed.result().stderr
    encrypted = operator.run("reencrypt")
    assert "Traceback" not in encrypted.stderr
    assert encrypted.returncode == 0, encrypted.stderr
    assert Cipher([KEY]).decrypt(operator.stored()["api_key"]["encrypted"]) == old["api_key"]


# Trying


def test_the_provider_is_asked_whether_it_accepts_the_key(
    operator: Operator, keys: dict[str, str], double: StripeDouble
) -> None:
    base = {"STRIPE_API_BASE": double.base_url, "STRIPE_TIMEOUT": "2"}
    operator.store(keys)  # a key that the double does not know
    assert "does not accept the API key" in operator.refused(1, "test", **base)
    operator.store({"api_key": operator.plant(double.api_key)})
    assert json.loads(operator.ok("test", "--json", **base).stdout) == {
        "provider": "stripe",
        "accepted": True,
    }
    with double.outage():
        assert "cannot be reached" in operator.refused(1, "test", **base)
    double.on("GET", INTENTS, Status(403))
    assert "lacks a permission" in operator.refused(1, "test", "--json", **base)
    double.on("GET", INTENTS, Status(500), times=2)
    assert "Stripe failed" in operator.refused(1, "test", **base)


@pytest.mark.parametrize(
    "address",
    [
        "http://api.example.com",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "http://0.0.0.0:1",
        "http://[::2]:1",
        "http://[::1",
        "http://127.0.0.1@example.com",
        "http://",
        "ftp://127.0.0.1",
        "https://api.example.com/v2",
        "https://api.example.com?x",
        "127.0.0.1",
        "HTTP://api.example.com",
    ],
)
def test_the_api_key_is_not_sent_in_the_clear_or_to_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="STRIPE_API_BASE must be"):
        load_provider_config({"STRIPE_API_BASE": address}, need_keys=False)


@pytest.mark.parametrize(
    "address",
    [
        "https://api.example.com",
        "https://api.example.com:8443/",
        "http://127.0.0.1:12111",
        "http://localhost:12111/",
        "http://LOCALHOST",
        "http://[::1]:12111",
    ],
)
def test_https_and_this_machine_are_allowed_to_stand_in_for_stripe(address: str) -> None:
    config = load_provider_config({"STRIPE_API_BASE": address}, need_keys=False)
    assert config.connection.base_url == address.rstrip("/")
