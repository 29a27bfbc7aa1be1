"""billing.currencies and what follows from it: how money is written, which prices can be set."""

from __future__ import annotations

from typing import Any

import pytest
from babel import Locale
from babel.numbers import get_currency_precision

from tests.sql.helpers import Caller, session
from tests.support import Database

# CLDR drops the hundredths of these, because they no longer buy anything; Stripe still takes them.
HUNDREDTHS_THAT_STRIPE_TAKES = {"AFN", "ALL", "LAK", "LBP", "MMK", "RSD", "SOS", "STD", "YER"}
# https://docs.stripe.com/currencies
WITHOUT_DECIMALS = {
    *("BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV"),
    *("XAF", "XOF", "XPF"),
}
IN_HUNDREDTHS_FOR_STRIPE_ALONE = {"ISK", "UGX"}
WITH_THREE_DECIMALS = {"BHD", "JOD", "KWD", "OMR", "TND"}
PUBLISHED_MINIMUMS = {
    **{"USD": 50, "AED": 200, "AUD": 50, "BGN": 100, "BRL": 50, "CAD": 50, "CHF": 50, "CZK": 1500},
    **{"DKK": 250, "EUR": 50, "GBP": 30, "HKD": 400, "HUF": 17500, "INR": 50, "JPY": 50},
    **{"MXN": 1000, "MYR": 200, "NOK": 300, "NZD": 50, "PLN": 200, "RON": 200, "SEK": 300},
    **{"SGD": 50, "THB": 1000},
}


def _currencies(dba: Caller) -> dict[str, dict[str, Any]]:
    rows = dba.execute("SELECT * FROM billing.currencies")
    found = {row["code"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def test_names_and_decimals_are_those_of_the_unicode_consortium(dba: Caller) -> None:
    names = Locale("en").currencies
    for code, row in _currencies(dba).items():
        assert row["name"] == names[code]
        hidden = code in HUNDREDTHS_THAT_STRIPE_TAKES
        assert get_currency_precision(code) == (0 if hidden else row["decimals"]), code
        assert not hidden or row["decimals"] == 2


def test_decimals_steps_and_bounds_are_those_of_stripe(dba: Caller) -> None:
    found = _currencies(dba)
    assert len(found) > 130
    for code, row in found.items():
        decimals = 0 if code in WITHOUT_DECIMALS else 3 if code in WITH_THREE_DECIMALS else 2
        assert row["stripe_decimals"] == decimals, code
        alone = code in IN_HUNDREDTHS_FOR_STRIPE_ALONE
        assert row["decimals"] == (0 if alone else decimals), code
        step = 100 if alone else 10 if code in WITH_THREE_DECIMALS else 1
        assert (row["step"], row["maximum_minor"]) == (step, 99_999_999 // step * step)
        assert step <= row["minimum_minor"] <= row["maximum_minor"]
        assert row["minimum_minor"] % step == 0
    published = {
        code: row["minimum_minor"] for code, row in found.items() if row["minimum_published"]
    }
    assert published == PUBLISHED_MINIMUMS
    special = WITHOUT_DECIMALS | WITH_THREE_DECIMALS | IN_HUNDREDTHS_FOR_STRIPE_ALONE
    assert special <= set(found)


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        (500, "USD", "$5.00"),
        (0, "USD", "$0.00"),
        (-1250, "USD", "-$12.50"),
        (500, "EUR", "5.00 EUR"),
        (-1250, "EUR", "-12.50 EUR"),
        (500, "JPY", "500 JPY"),
        (-500, "JPY", "-500 JPY"),
        (500_000, "UGX", "5000 UGX"),
        (100, "ISK", "1 ISK"),
        (12_345, "UGX", "123.45 UGX"),  # part of a refund: nothing is hidden
        (17_500, "HUF", "175.00 HUF"),
        (1000, "TWD", "10.00 TWD"),
        (12_340, "KWD", "12.340 KWD"),
        (2**63 - 1, "KWD", "9223372036854775.807 KWD"),
        (-(2**63), "USD", "-$92233720368547758.08"),
        # Old rows may hold values like these.
        (500, "usd", "5.00 usd"),
        (500_000, "ugx", "5000 ugx"),
        (500, "XXX", "5.00 XXX"),
        (500, "", "5.00 "),
        (500, "?$1", "5.00 ?$1"),
    ],
)
def test_money_is_written_as_people_write_it(
    dba: Caller, amount: int, currency: str, text: str
) -> None:
    assert dba.value("describe_money", amount_minor=amount, currency=currency) == text


@pytest.mark.parametrize(
    ("price", "currency", "argument", "problem"),
    [
        (500, "XXX", "p_pack_currency", "Stripe takes no payments in XXX. It must be a currency"),
        (500, "KPW", "p_pack_currency", "Stripe takes no payments in KPW. It must be a currency"),
        (49, "USD", "p_pack_price_minor", "it must be at least 50. The least price that Stripe"
         " takes in USD is $0.50"),
        (29, "GBP", "p_pack_price_minor", "it must be at least 30. The least price that Stripe"
         " takes in GBP is 0.30 GBP"),
        (49, "JPY", "p_pack_price_minor", "it must be at least 50. The least price that Stripe"
         " takes in JPY is 50 JPY"),
        (17_499, "HUF", "p_pack_price_minor", "it must be at least 17500. The least price that"
         " Stripe takes in HUF is 175.00 HUF"),
        (100, "UGX", "p_pack_price_minor", "it must be at least 100000. The least price that Stripe"
         " takes in UGX is about 1000 UGX"),
        (500_050, "UGX", "p_pack_price_minor", "it must be a multiple of 100. Stripe counts UGX in"
         " units of 0.01 UGX and takes only multiples of 1 UGX"),
        (60_001, "ISK", "p_pack_price_minor", "it must be a multiple of 100. Stripe counts ISK in"
         " units of 0.01 ISK and takes only multiples of 1 ISK"),
        (5_005, "KWD", "p_pack_price_minor", "it must be a multiple of 10. Stripe counts KWD in"
         " units of 0.001 KWD and takes only multiples of 0.010 KWD"),
        (100_000_000, "USD", "p_pack_price_minor", "it must be at most 99999999. The highest price"
         " that Stripe takes in USD is $999999.99"),
        (100_000_000, "UGX", "p_pack_price_minor", "it must be at most 99999900. The highest price"
         " that Stripe takes in UGX is 999999 UGX"),
        (2**63 - 1, "JPY", "p_pack_price_minor", "it must be at most 99999999. The highest price"
         " that Stripe takes in JPY is 99999999 JPY"),
    ],
)  # fmt: skip
def test_a_price_that_stripe_would_refuse_is_refused_and_told_what_is_allowed(
    database: Database, price: int, currency: str, argument: str, problem: str
) -> None:
    database.execute("UPDATE billing_data.settings SET seeded_at = NULL")
    given = {"pack_price_minor": price, "pack_currency": currency}
    with session(database, "t_dba") as dba:
        before = dba.row("get_settings")
        refusals = [
            dba.refusal("set_pricing", reason="a test", **given),
            dba.refusal("seed_settings", **given),
            dba.refusal("describe_price", **given),
        ]
        assert dba.row("get_settings") == before
    for refusal in refusals:
        assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
        assert refusal.detail["argument"] == argument
        assert refusal.detail["problem"].startswith(problem)


@pytest.mark.parametrize(
    ("price", "currency", "text"),
    [
        (50, "USD", "$0.50"),
        (99_999_999, "USD", "$999999.99"),
        (500_000, "UGX", "5000 UGX"),
        (99_999_900, "ISK", "999999 ISK"),
        (5_010, "KWD", "5.010 KWD"),
        (17_500, "HUF", "175.00 HUF"),
        (50, "JPY", "50 JPY"),
    ],
)
def test_a_price_that_stripe_takes_can_be_set(
    database: Database, price: int, currency: str, text: str
) -> None:
    given = {"pack_price_minor": price, "pack_currency": currency}
    with session(database, "t_dba") as dba:
        assert dba.value("describe_price", **given) == text
        changed = dba.row("set_pricing", reason="a test", **given)
    assert {name: changed[name] for name in given} == given


def test_a_price_and_a_currency_are_looked_at_together(database: Database) -> None:
    with session(database, "t_dba") as dba:
        # 500 is a valid price in USD, and too little in HUF.
        refusal = dba.refusal("set_pricing", reason="a test", pack_currency="HUF")
        assert refusal.detail["argument"] == "p_pack_price_minor"
        dba.row("set_pricing", reason="a test", pack_price_minor=20_000, pack_currency="HUF")
        assert dba.refusal("set_pricing", reason="a test", pack_price_minor=500)
        # A price that an older release accepted does not prevent a change of other settings.
        database.execute("UPDATE billing_data.settings SET pack_price_minor = 1")
        assert dba.row("set_pricing", reason="a test", free_uses=5)["free_uses"] == 5
