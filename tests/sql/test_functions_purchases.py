"""billing.begin_purchase, attach_payment and find_purchase: everything up to the payment."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.sql.helpers import (
    NOBODY,
    Caller,
    account_of,
    at_once,
    key_id,
    ledger_problems,
    new_user,
    person,
    session,
    staff,
)
from tests.sql.payments import (
    EMAIL,
    PRICE,
    USES,
    attach,
    begin,
    configure_provider,
    deliver,
    purchases_of,
    sealed,
)
from tests.support import Database, unique

NOT_CONFIGURED = ("PB503", "payment_provider_not_configured", "Payment provider not configured")
PACK = (USES, PRICE, "USD")


@pytest.fixture(autouse=True)
def provider(module_database: Database) -> Iterator[dict[str, Any]]:
    """Stripe is set up; the ledger is right at the end."""
    yield configure_provider(module_database)
    assert ledger_problems(module_database) == []


def _pack(row: dict[str, Any]) -> tuple[int, int, str]:
    return row["uses"], row["price_minor"], row["currency"]


# --- begin_purchase ------------------------------------------------------------------------------


def test_a_purchase_is_offered_at_the_present_price_and_makes_the_account(
    module_database: Database, dba: Caller, provider: dict[str, Any]
) -> None:
    who = person()
    profile = {
        "wa_id": "w",
        "tenant_id": "t",
        "user_role": "observer",
        "agent_id": "datum",
        "marketing_opt_in": True,
        "marketing_opt_in_source": "shop",
    }
    answer = begin(dba, who, **profile)
    account = account_of(module_database, who)
    assert answer == {
        "purchase_id": answer["purchase_id"],
        "account_id": account["id"],
        "uses": USES,
        "price_minor": PRICE,
        "currency": "USD",
        "payment_id": None,
        "payment_status": None,
        "account_created": True,
        "replayed": False,
        "config_data": provider,
        "credits_added": 0,
        "provider": "stripe",
    }
    expected = {**who, **profile, "customer_email": EMAIL, "currency": "USD", "plan_name": "free"}
    assert {name: account[name] for name in expected} == expected
    assert (account["free_uses_remaining"], account["paid_credits"]) == (3, 0)
    assert account["marketing_opt_in_at"] == account["created_at"]
    (row,) = purchases_of(module_database, account["id"])
    assert (row["id"], row["provider"]) == (answer["purchase_id"], "stripe")
    assert _pack(row) == PACK
    assert row["customer_email"] == EMAIL
    assert (row["payment_id"], row["settled_at"], row["credit_id"]) == (None, None, None)


def test_an_account_that_exists_keeps_its_profile(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database, paid=5)
    before = account_of(module_database, who)
    answer = begin(dba, who, customer_email="ben@example.com", user_role="x", marketing_opt_in=True)
    assert (answer["account_created"], answer["account_id"]) == (False, before["id"])
    assert account_of(module_database, who) == before
    (row,) = purchases_of(module_database, before["id"])
    assert row["customer_email"] == "ben@example.com"


@pytest.mark.parametrize("status", ["suspended", "closed"])
def test_suspended_and_closed_accounts_may_buy(
    module_database: Database, dba: Caller, status: str
) -> None:
    who = new_user(module_database)
    dba.row("set_account_status", **who, status=status, reason="a test")
    assert _pack(begin(dba, who)) == PACK


def test_the_purchase_names_who_asked_for_it(module_database: Database, web: Caller) -> None:
    key, ada, who = key_id(module_database), staff(module_database, "admin"), person()
    begin(web, who, api_key_id=key)
    begin(web, who, session_hash=ada.session_hash)
    with session(module_database, "t_dba") as dba:
        begin(dba, who)
    rows = purchases_of(module_database, account_of(module_database, who)["id"])
    writers = [(row["api_key_id"], row["admin_user_id"], row["database_role"]) for row in rows]
    assert writers == [(key, None, None), (None, ada.id, None), (None, None, "t_dba")]


def test_a_changed_price_is_offered_from_then_on_and_what_was_offered_stays(
    database: Database,
) -> None:
    configure_provider(database)
    who = person()
    with session(database, "t_dba") as dba:
        first = begin(dba, who, idempotency_key="first")
        dba.row(
            "set_pricing",
            reason="a test",
            free_uses=7,
            pack_uses=50,
            pack_price_minor=999,
            pack_currency="EUR",
        )
        assert _pack(begin(dba, who)) == (50, 999, "EUR")
        again = begin(dba, who, idempotency_key="first")
        assert (_pack(again), again["purchase_id"]) == (PACK, first["purchase_id"])
        newcomer = person()
        begin(dba, newcomer)
    assert account_of(database, who)["free_uses_remaining"] == 3
    assert account_of(database, newcomer)["free_uses_remaining"] == 7


def _without_provider(database: Database) -> None:
    """Nothing is set up."""


def _inactive(database: Database) -> None:
    configure_provider(database)
    with session(database, "t_dba") as dba:
        dba.row("set_provider_config", provider_type="stripe", is_active=False)


def _without_key(database: Database) -> None:
    database.execute(
        "INSERT INTO billing_data.provider_configs (provider_type, config_data)"
        """ VALUES ('stripe', '{"webhook_secret": "x", "publishable_key": "pk_test_1"}')"""
    )


def _blank_key(database: Database) -> None:
    database.execute(
        "INSERT INTO billing_data.provider_configs (provider_type, config_data)"
        """ VALUES ('stripe', '{"api_key": ""}')"""
    )


def _another(database: Database) -> None:
    configure_provider(database, provider="paypal")


@pytest.mark.parametrize(
    "state", [_without_provider, _inactive, _without_key, _blank_key, _another]
)
def test_nothing_is_sold_and_no_account_is_made_without_a_provider(
    database: Database, state: Any
) -> None:
    state(database)
    who = person()
    with session(database, "t_dba") as dba:
        for function, arguments in {
            "begin_purchase": {**who, "customer_email": EMAIL},
            "find_purchase": {"payment_id": "pi_1"},
        }.items():
            refusal = dba.refusal(function, **arguments)
            assert (refusal.sqlstate, refusal.slug, refusal.message) == NOT_CONFIGURED
        assert dba.refusal("get_account", **who).slug == "account_not_found"
    assert database.value("SELECT count(*) FROM billing_data.purchases") == 0


@pytest.mark.parametrize("provider_name", ["paypal", "bank", None])
def test_a_provider_that_is_not_set_up_sells_nothing(
    dba: Caller, provider_name: str | None
) -> None:
    arguments = {**person(), "customer_email": EMAIL, "provider": provider_name}
    assert dba.refusal("begin_purchase", **arguments).slug == NOT_CONFIGURED[1]


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"oauth_provider": "google"}, "p_oauth_provider"),
        ({"oauth_provider": None}, "p_oauth_provider"),
        ({"external_id": ""}, "p_external_id"),
        ({"external_id": None}, "p_external_id"),
        ({"external_id": "x" * 256}, "p_external_id"),
        ({"customer_email": ""}, "p_customer_email"),
        ({"customer_email": None}, "p_customer_email"),
        ({"customer_email": "x" * 256}, "p_customer_email"),
        ({"wa_id": "x" * 256}, "p_wa_id"),
        ({"tenant_id": "x" * 256}, "p_tenant_id"),
        ({"user_role": "x" * 51}, "p_user_role"),
        ({"agent_id": "x" * 256}, "p_agent_id"),
        ({"marketing_opt_in_source": "x" * 51}, "p_marketing_opt_in_source"),
        ({"idempotency_key": "x" * 256}, "p_idempotency_key"),
    ],
    ids=lambda value: (
        ",".join(f"{k}={str(v)[:9]}" for k, v in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_a_faulty_argument_is_named(
    module_database: Database, dba: Caller, arguments: dict[str, Any], argument: str
) -> None:
    count = "SELECT count(*) FROM billing_data.accounts"
    before = module_database.value(count)
    refusal = dba.refusal("begin_purchase", **{**person(), "customer_email": EMAIL, **arguments})
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
    assert refusal.detail["argument"] == argument
    assert module_database.value(count) == before


def test_the_same_request_again_is_given_the_same_purchase(
    module_database: Database, dba: Caller
) -> None:
    who, key = person(), unique()
    first = begin(dba, who, idempotency_key=key)
    again = begin(dba, who, idempotency_key=key)
    assert again == {**first, "replayed": True, "account_created": False}
    attach(dba, first, "pi_" + key)
    later = begin(dba, who, idempotency_key=key)
    assert (later["payment_id"], later["payment_status"]) == (
        "pi_" + key,
        "requires_payment_method",
    )
    assert later["purchase_id"] == first["purchase_id"]
    assert len(purchases_of(module_database, first["account_id"])) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"user_role": "admin"},
        {"agent_id": "datum"},
        {"marketing_opt_in": True},
        {"marketing_opt_in_source": "shop"},
    ],
    ids=str,
)
def test_a_used_key_with_another_request_is_refused(
    module_database: Database, dba: Caller, change: dict[str, Any]
) -> None:
    who, key = person(), unique()
    first = begin(dba, who, idempotency_key=key)
    refusal = dba.refusal(
        "begin_purchase", **{**who, "customer_email": EMAIL, **change, "idempotency_key": key}
    )
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "idempotency_key_reused")
    assert len(purchases_of(module_database, first["account_id"])) == 1


def test_another_address_for_the_receipt_is_the_same_request(
    module_database: Database, dba: Caller
) -> None:
    who, key = person(), unique()
    first = begin(dba, who, idempotency_key=key)
    again = begin(dba, who, idempotency_key=key, customer_email="ben@example.com")
    assert again == {**first, "replayed": True, "account_created": False}
    (row,) = purchases_of(module_database, first["account_id"])
    assert row["customer_email"] == EMAIL


@pytest.mark.parametrize("email", [EMAIL, "ben@example.com"])
def test_a_purchase_whose_fingerprint_has_the_address_in_it_is_still_recognised(
    module_database: Database, dba: Caller, email: str
) -> None:
    """Releases up to 0.2.0 recorded it in this form, which no longer tells requests apart."""
    who, key = person(), unique()
    first = begin(dba, who, idempotency_key=key, agent_id="datum")
    module_database.execute(
        "UPDATE billing_data.purchases SET request_fingerprint = sha256(convert_to(ROW("
        "customer_email::text, NULL::text, 'datum'::text, false, NULL::text, 'stripe'::text"
        ")::text, 'UTF8')) WHERE id = %s",
        first["purchase_id"],
    )
    asked = {"idempotency_key": key, "customer_email": email}
    assert begin(dba, who, **asked, agent_id="datum")["purchase_id"] == first["purchase_id"]
    assert begin(dba, who, **asked, agent_id="scout")["purchase_id"] == first["purchase_id"]


def test_a_repeat_tells_the_credits_that_have_come_since(dba: Caller) -> None:
    who, key, payment_id = person(), unique(), unique("pi")
    first = begin(dba, who, idempotency_key=key)
    assert first["credits_added"] == 0
    attach(dba, first, payment_id)
    assert begin(dba, who, idempotency_key=key)["credits_added"] == 0
    deliver(dba, unique("evt"), payment_id)
    assert begin(dba, who, idempotency_key=key)["credits_added"] == USES


def test_two_purchases_without_a_key_or_of_two_users_with_one_key_are_two(dba: Caller) -> None:
    ada, ben, key = person(), person(), unique()
    found = {begin(dba, ada)["purchase_id"] for _ in range(2)}
    found |= {begin(dba, who, idempotency_key=key)["purchase_id"] for who in (ada, ben)}
    assert len(found) == 4


def test_a_purchase_can_be_started_again_after_its_first_was_paid(dba: Caller) -> None:
    who, payment_id = person(), unique("pi")
    first = begin(dba, who)
    deliver(dba, unique("evt"), payment_id, first)
    assert begin(dba, who)["purchase_id"] != first["purchase_id"]


def test_one_key_at_once_makes_one_account_and_one_purchase(module_database: Database) -> None:
    who, key = person(), unique()
    answers = at_once(
        module_database, [lambda caller: begin(caller, who, idempotency_key=key)] * 50
    )
    assert Counter(answer["replayed"] for answer in answers) == {False: 1, True: 49}
    assert Counter(answer["account_created"] for answer in answers)[True] == 1
    assert len({answer["purchase_id"] for answer in answers}) == 1
    assert len(purchases_of(module_database, answers[0]["account_id"])) == 1


def test_purchases_without_a_key_at_once_are_as_many(module_database: Database) -> None:
    who = new_user(module_database)
    answers = at_once(module_database, [lambda caller: begin(caller, who)] * 30, 30)
    assert len({answer["purchase_id"] for answer in answers}) == 30


@pytest.mark.parametrize("function", ["begin_purchase", "attach_payment"])
def test_what_writes_a_purchase_commits_durably(module_database: Database, function: str) -> None:
    who = new_user(module_database)
    with session(module_database, "t_dba", autocommit=False) as dba:
        purchase = begin(dba, who)
        dba.connection.commit()
        dba.execute("SET synchronous_commit = off")
        if function == "begin_purchase":
            begin(dba, who)
        else:
            attach(dba, purchase, unique("pi"))
        assert dba.execute("SHOW synchronous_commit") == [{"synchronous_commit": "on"}]
        dba.connection.rollback()


# --- attach_payment ------------------------------------------------------------------------------


def test_the_first_payment_that_is_attached_stays(module_database: Database, web: Caller) -> None:
    key, first, second = key_id(module_database), unique("pi"), unique("pi")
    purchase = begin(web, person(), api_key_id=key)
    kept = {"payment_id": first, "payment_status": "requires_payment_method"}
    assert attach(web, purchase, first, api_key_id=key) == kept
    for payment_id in (first, second):
        answer = web.row(
            "attach_payment",
            account_id=purchase["account_id"],
            purchase_id=purchase["purchase_id"],
            payment_id=payment_id,
            payment_status="processing",
            api_key_id=key,
        )
        assert answer == kept
    (row,) = purchases_of(module_database, purchase["account_id"])
    assert (row["payment_id"], row["payment_status"]) == tuple(kept.values())


def test_two_payments_attached_at_once_agree_on_one(module_database: Database, dba: Caller) -> None:
    for _ in range(5):
        purchase = begin(dba, person())
        calls = [partial(attach, purchase=purchase, payment_id=unique("pi")) for _ in range(10)]
        answers = at_once(module_database, calls, 10)
        (kept,) = {answer["payment_id"] for answer in answers}
        (row,) = purchases_of(module_database, purchase["account_id"])
        assert row["payment_id"] == kept


def test_a_payment_attached_after_it_was_paid_changes_only_the_status(
    module_database: Database, dba: Caller
) -> None:
    purchase, paid = begin(dba, person()), unique("pi")
    deliver(dba, unique("evt"), paid, purchase)
    (before,) = purchases_of(module_database, purchase["account_id"])
    assert before["payment_id"] == paid
    answer = attach(dba, purchase, unique("pi"))
    assert answer == {"payment_id": paid, "payment_status": "requires_payment_method"}
    (after,) = purchases_of(module_database, purchase["account_id"])
    assert after == {**before, "payment_status": "requires_payment_method"}


def test_a_purchase_that_is_unknown_or_anothers_takes_no_payment(
    module_database: Database, dba: Caller
) -> None:
    ada, ben = begin(dba, person()), begin(dba, person())
    for wrong in (
        {"purchase_id": NOBODY},
        {"account_id": NOBODY},
        {"account_id": ben["account_id"]},
        {"purchase_id": None},
    ):
        refusal = dba.refusal(
            "attach_payment",
            **{
                "account_id": ada["account_id"],
                "purchase_id": ada["purchase_id"],
                "payment_id": "pi_x",
                "payment_status": "x",
                **wrong,
            },
        )
        assert (refusal.sqlstate, refusal.slug) == ("PB404", "payment_not_found")
        assert refusal.message == "Payment not found: pi_x"
    for purchase in (ada, ben):
        (row,) = purchases_of(module_database, purchase["account_id"])
        assert row["payment_id"] is None


@pytest.mark.parametrize("payment_id", ["", None, "x" * 256], ids=["empty", "none", "long"])
def test_a_senseless_payment_is_not_attached(dba: Caller, payment_id: Any) -> None:
    refusal = dba.refusal(
        "attach_payment",
        account_id=NOBODY,
        purchase_id=NOBODY,
        payment_id=payment_id,
        payment_status="x",
    )
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
    assert refusal.detail["argument"] == "p_payment_id"


# --- find_purchase -------------------------------------------------------------------------------


def test_a_purchase_is_found_by_its_payment_in_every_state(
    module_database: Database, web: Caller, provider: dict[str, Any]
) -> None:
    reader, writer = (
        key_id(module_database, f"billing:{permission}") for permission in ("read", "write")
    )
    payment_id = unique("pi")
    purchase = begin(web, person(), api_key_id=writer)

    def find() -> dict[str, Any]:
        return web.row("find_purchase", payment_id=payment_id, api_key_id=reader)

    assert find()["purchase_id"] is None
    attach(web, purchase, payment_id, api_key_id=writer)
    pending = find()
    assert pending == {
        "purchase_id": purchase["purchase_id"],
        "account_id": purchase["account_id"],
        "status": "pending",
        "uses": USES,
        "price_minor": PRICE,
        "currency": "USD",
        "credits_added": 0,
        "created_at": pending["created_at"],
        "settled_at": None,
        "config_data": provider,
        "provider": "stripe",
    }
    deliver(web, unique("evt"), payment_id)
    settled = find()
    assert settled["settled_at"] >= pending["created_at"]
    assert settled == {
        **pending,
        "status": "settled",
        "credits_added": USES,
        "settled_at": settled["settled_at"],
    }


def test_an_unknown_payment_is_one_row_with_the_present_pack(
    dba: Caller, provider: dict[str, Any]
) -> None:
    assert dba.row("find_purchase", payment_id=unique("pi")) == {
        **dict.fromkeys(("purchase_id", "account_id", "status", "created_at", "settled_at")),
        "uses": USES,
        "price_minor": PRICE,
        "currency": "USD",
        "credits_added": 0,
        "config_data": provider,
        "provider": "stripe",
    }


def test_what_was_sold_is_found_after_the_settings_changed(database: Database) -> None:
    configure_provider(database)
    with session(database, "t_dba") as dba:
        attach(dba, begin(dba, person()), "pi_1")
        dba.row("set_pricing", reason="a test", pack_uses=1, pack_price_minor=50)
        assert _pack(dba.row("find_purchase", payment_id="pi_1")) == PACK
        assert _pack(dba.row("find_purchase", payment_id="pi_2")) == (1, 50, "USD")


def test_a_payment_of_another_provider_with_the_same_id_is_another(database: Database) -> None:
    configure_provider(database)
    configure_provider(database, provider="paypal")
    with session(database, "t_dba") as dba:
        stripe = begin(dba, person())
        paypal = begin(dba, person(), provider="paypal")
        for purchase in (stripe, paypal):
            assert attach(dba, purchase, "pay_1")["payment_id"] == "pay_1"
        found = [
            dba.row("find_purchase", payment_id="pay_1", provider=name)["purchase_id"]
            for name in ("stripe", "paypal")
        ]
    assert found == [stripe["purchase_id"], paypal["purchase_id"]]


def test_an_offer_is_made_by_the_configuration_of_the_moment(database: Database) -> None:
    configure_provider(database)
    who = person()
    with session(database, "t_dba") as dba:
        begin(dba, who, idempotency_key="k")
        live = configure_provider(database, "live")
        assert begin(dba, who, idempotency_key="k")["config_data"] == live
        assert dba.row("find_purchase", payment_id="pi_1")["config_data"] == live


def test_a_key_that_may_only_read_does_not_buy_and_one_that_only_writes_does_not_look(
    module_database: Database, web: Caller
) -> None:
    reader, writer = (
        key_id(module_database, f"billing:{permission}") for permission in ("read", "write")
    )
    offer = {**person(), "customer_email": EMAIL}
    assert web.refusal("begin_purchase", **offer, api_key_id=reader).slug == "permission_missing"
    found = web.refusal("find_purchase", payment_id="pi_1", api_key_id=writer)
    assert found.slug == "permission_missing"
    payment = {"payment_id": "pi_1", "payment_status": "x"}
    ids = {"account_id": NOBODY, "purchase_id": uuid.uuid4()}
    refusal = web.refusal("attach_payment", **ids, **payment, api_key_id=reader)
    assert refusal.slug == "permission_missing"


def test_a_sealed_key_is_enough_to_sell(database: Database) -> None:
    with session(database, "t_dba") as dba:
        database.execute(
            "INSERT INTO billing_data.provider_configs (provider_type, config_data)"
            " VALUES ('stripe', '{}')"
        )
        sealed_key = sealed("sk_test_12345678", "test")
        database.execute(
            "UPDATE billing_data.provider_configs SET config_data = jsonb_build_object('api_key',"
            " jsonb_build_object('encrypted', %s::text, 'masked', %s::text))",
            sealed_key["encrypted"],
            sealed_key["masked"],
        )
        assert _pack(begin(dba, person())) == PACK
