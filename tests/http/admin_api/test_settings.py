"""The payment provider and the price in the staff API."""

from __future__ import annotations

import json
import re
import secrets
from typing import Any

import httpx2
import pytest

from tests.http.admin_api.helpers import (
    AGENT,
    STRIPE,
    Z_TIME,
    Person,
    audit_rows,
    hire,
    staff_environment,
)
from tests.http.contract import (
    INT64_MAX,
    assert_error,
    faults_of,
)
from tests.sql.helpers import set_staff_domain
from tests.support import (
    Database,
    Service,
    running_service,
)

# Settings


def stripe_row(service: Service) -> Any:
    """Stripe's configuration as it is stored."""
    rows = service.database.execute(
        "SELECT c.config_data FROM billing_data.provider_configs AS c"
        " WHERE c.provider_type = 'stripe'"
    )
    return rows[0][0] if rows else None


def assert_silent(service: Service, answer: httpx2.Response) -> None:
    """No secret of STRIPE is told, recorded or logged."""
    recorded = service.database.value(
        "SELECT string_agg(l::text, ' ') FROM billing_data.admin_audit_logs AS l"
    )
    stored = json.dumps(stripe_row(service))
    for name in ("api_key", "webhook_secret"):
        for place in (answer.text, recorded, stored, service.process.output):
            assert STRIPE[name] not in place
            assert STRIPE[name][8:24] not in place


def test_a_provider_is_set_up_masked_and_kept(service: Service, admin: Person) -> None:
    body = {"config_data": STRIPE, "reason": "first set-up"}
    made = admin.put("/config/providers/stripe", body)
    assert made.status_code == 200
    provider = made.json()
    assert tuple(provider)[:5] == (
        *("id", "provider_name", "is_enabled", "config_data", "updated_at"),
    )
    masked = {
        "api_key": f"sk_…{STRIPE['api_key'][-4:]}",
        "webhook_secret": f"whsec_…{STRIPE['webhook_secret'][-4:]}",
        "publishable_key": STRIPE["publishable_key"],
    }
    assert provider["config_data"] == masked
    assert (provider["provider_name"], provider["is_enabled"]) == ("stripe", True)
    assert provider["mode"] == "test"
    assert re.fullmatch(Z_TIME, provider["updated_at"])
    assert_silent(service, made)
    (listed,) = [one for one in admin.get("/config/providers") if one["provider_name"] == "stripe"]
    assert listed == provider
    stored = stripe_row(service)
    kept = (masked, {**masked, "api_key": ""}, dict.fromkeys(masked, "  "), None)
    for config_data in kept:
        again = admin.put("/config/providers/stripe", {"config_data": config_data})
        assert again.json()["config_data"] == masked
        assert stripe_row(service) == stored
    off = admin.put("/config/providers/stripe", {"is_enabled": False})
    assert (off.json()["is_enabled"], off.json()["config_data"]) == (False, masked)
    still = admin.put("/config/providers/stripe", {"is_enabled": None, "config_data": None})
    assert still.json()["is_enabled"] is False
    part = {name: masked[name] for name in ("api_key", "publishable_key")}
    replaced = admin.put("/config/providers/stripe", {"config_data": part})
    assert replaced.json()["config_data"] == part
    emptied = admin.put("/config/providers/stripe", {"config_data": {"api_key": None}})
    assert emptied.json()["config_data"] == {}
    newest, *_, first = audit_rows(service, "stripe")
    assert first[:3] == ("provider_config.set", admin.id, "first set-up")
    assert first[4:6] == ("127.0.0.1", AGENT)
    assert first[3]["before"] in (None, {"is_active": True})  # there was none
    assert first[3]["after"] == {**masked, "is_active": True}
    assert newest[3]["before"] == {**part, "is_active": False}
    assert_silent(service, emptied)


def test_several_webhook_secrets_are_set_added_and_taken_away(
    service: Service, admin: Person
) -> None:
    first, second, third = (f"whsec_{secrets.token_hex(16)}" for _ in range(3))
    one, two, three = (f"whsec_…{secret[-4:]}" for secret in (first, second, third))

    def put(value: Any) -> Any:
        answer = admin.put("/config/providers/stripe", {"config_data": {"webhook_secret": value}})
        assert answer.status_code == 200, answer.text
        for secret in (first, second, third):
            assert secret not in answer.text
        return answer.json()["config_data"].get("webhook_secret")

    assert put([first, second]) == f"{one},{two}"
    assert put(f"{one},{two}") == f"{one},{two}"  # as it was read
    assert put([one, two, third]) == f"{one},{two},{three}"
    assert put([three, one]) == f"{three},{one}"
    assert put(f"{one}, {second}") == f"{one},{two}"
    assert put("") == put(f"{two}") == f"{one},{two}"  # one mask alone keeps what is stored
    assert put([two]) == two
    assert put(third) == three
    for wrong in ([one], [5], {"a": "b"}, [third, "sk_test_1"], [f"{third}x", one]):
        answer = admin.put("/config/providers/stripe", {"config_data": {"webhook_secret": wrong}})
        assert answer.status_code == 422
        assert third not in answer.text
    assert put(three) == three
    assert put([]) is None


def test_providers_are_listed_by_name(service: Service, admin: Person) -> None:
    for name in ("stripe", "paypal", "square"):
        answer = admin.put(f"/config/providers/{name}", {"is_enabled": False})
        assert answer.json()["provider_name"] == name
    names = [one["provider_name"] for one in admin.get("/config/providers")]
    assert names == ["paypal", "square", "stripe"]


@pytest.mark.parametrize("name", ["Stripe", "adyen", "stripe%20", "%27;--"])
def test_an_unknown_provider_is_refused(admin: Person, name: str) -> None:
    answer = admin.put(f"/config/providers/{name}", {"is_enabled": True})
    (entry,) = faults_of(answer)
    assert (entry["type"], entry["loc"]) == ("string_pattern_mismatch", ["path", "provider"])


@pytest.mark.parametrize(
    "config_data",
    [
        STRIPE["api_key"],
        [STRIPE["api_key"]],
        {"api_key": 7},
        {"api_key": {"encrypted": "x", "masked": STRIPE["api_key"]}},
        {"api_key": f"wrong {STRIPE['api_key']}"},
        {"api_key": STRIPE["webhook_secret"]},
        {"secret": STRIPE["api_key"]},
        {"webhook_secret": f"{STRIPE['api_key']}\0"},
        {f"{STRIPE['api_key']}\0": "x"},
        {"publishable_key": "pk_test_\0"},
        {"publishable_key": STRIPE["api_key"]},
    ],
    ids=[str(number) for number in range(11)],
)
def test_settings_that_cannot_be_are_refused_without_repeating_them(
    service: Service, admin: Person, config_data: Any
) -> None:
    before = stripe_row(service)
    answer = admin.put("/config/providers/stripe", {"config_data": config_data})
    for entry in faults_of(answer):
        assert entry["loc"][:2] == ["body", "config_data"]
        assert entry["input"] is None
    assert stripe_row(service) == before
    if not any("\0" in name for name in config_data if isinstance(config_data, dict)):
        assert_silent(service, answer)


def test_test_and_live_keys_are_not_mixed(service: Service, admin: Person) -> None:
    live = STRIPE["publishable_key"].replace("_test_", "_live_")
    answer = admin.put(
        "/config/providers/stripe", {"config_data": {**STRIPE, "publishable_key": live}}
    )
    assert_error(
        answer,
        422,
        "Invalid config_data: test and live keys cannot be mixed: give api_key and publishable_key"
        " of one mode together",
    )
    assert answer.json()["code"] == "invalid_argument"
    assert_silent(service, answer)


def test_without_an_encryption_key_no_secret_is_stored(database: Database) -> None:
    set_staff_domain(database)
    environment = {k: v for k, v in staff_environment().items() if k != "ENCRYPTION_KEY"}
    with running_service(database, **environment) as service:
        admin = hire(service, "admin")
        answer = admin.put("/config/providers/stripe", {"config_data": STRIPE})
        (entry,) = faults_of(answer)
        assert entry["msg"].endswith("cannot be stored: ENCRYPTION_KEY is not set")
        assert admin.get("/config/providers") == []


def test_the_price_is_changed_in_part(service: Service, admin: Person) -> None:
    before = admin.get("/config/pricing")
    assert tuple(before) == ("free_uses", "pack_uses", "pack_price_minor", "pack_currency")
    try:
        body = {"pack_uses": before["pack_uses"] + 1, "pack_currency": "eur", "reason": "Europe"}
        changed = admin.put("/config/pricing", body).json()
        assert changed == {**before, "pack_uses": body["pack_uses"], "pack_currency": "EUR"}
        assert admin.get("/config/pricing") == changed
        newest = audit_rows(service, "pricing")[0]
        assert newest[:6] == (
            "settings.set_pricing",
            admin.id,
            "Europe",
            {"before": before, "after": changed},
            "127.0.0.1",
            AGENT,
        )
        rows = len(audit_rows(service, "pricing"))
        assert admin.put("/config/pricing", {"reason": "nothing"}).json() == changed
        assert len(audit_rows(service, "pricing")) == rows
    finally:
        admin.put("/config/pricing", {**before, "reason": "back"})
    for fault_ in (
        {"free_uses": -1},
        {"pack_uses": 0},
        {"pack_price_minor": 0},
        {"pack_price_minor": INT64_MAX + 1},
        {"pack_currency": "dollars"},
        {"pack_currency": "U$D"},
        {"reason": " "},
    ):
        assert faults_of(admin.put("/config/pricing", {"reason": "x", **fault_}))
    for refused, allowed in (
        ({"pack_price_minor": 49}, "The least price that Stripe takes in USD is $0.50"),
        ({"pack_price_minor": 10**8}, "The highest price that Stripe takes in USD is $999999.99"),
        ({"pack_price_minor": 500_001, "pack_currency": "UGX"}, "only multiples of 1 UGX"),
        ({"pack_currency": "XXX"}, "It must be a currency that billing.currencies lists"),
    ):
        answer = admin.put("/config/pricing", {"reason": "x", **refused})
        assert answer.status_code == 422
        assert allowed in answer.text
    assert admin.get("/config/pricing") == before
