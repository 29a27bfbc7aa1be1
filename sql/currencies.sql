-- Currencies: the one table of those that Stripe takes payments in. From it follow how an amount is
-- written for people and which prices can be charged. Every amount is in Stripe's minor units, as
-- Stripe sends and expects them. From https://docs.stripe.com/currencies:
-- - decimals: how many decimals people write; stripe_decimals: how many Stripe's minor unit stands
--   for. They differ for ISK and UGX, which only Stripe counts in hundredths.
-- - step: a charge must be a multiple of it. Stripe takes no hundredths of ISK and UGX, and no
--   thousandths of dinars and rials.
-- - minimum_minor: the least charge. Stripe publishes one for some currencies (minimum_published).
--   For the others it is the value of 0.50 USD on the day of the charge; the figure here is about
--   that much at the rates of 2026, rounded down to one digit, so that Stripe certainly refuses
--   anything below it. Stripe counts in the currency of the shop's account and may ask for more.
-- - maximum_minor: Stripe takes eight digits.
-- Names are those of Unicode's CLDR; a test compares them and the decimals.
CREATE OR REPLACE VIEW billing.currencies AS
SELECT
    c.code, c.name, c.decimals, c.stripe_decimals, c.step, c.minimum_minor, c.minimum_published,
    99999999 / c.step * c.step AS maximum_minor
FROM (
    VALUES
        ('AED', 'United Arab Emirates Dirham', 2, 2, 1, 200, true),
        ('AFN', 'Afghan Afghani', 2, 2, 1, 3000, false),
        ('ALL', 'Albanian Lek', 2, 2, 1, 4000, false),
        ('AMD', 'Armenian Dram', 2, 2, 1, 10000, false),
        ('ANG', 'Netherlands Antillean Guilder', 2, 2, 1, 80, false),
        ('AOA', 'Angolan Kwanza', 2, 2, 1, 40000, false),
        ('ARS', 'Argentine Peso', 2, 2, 1, 70000, false),
        ('AUD', 'Australian Dollar', 2, 2, 1, 50, true),
        ('AWG', 'Aruban Florin', 2, 2, 1, 80, false),
        ('AZN', 'Azerbaijani Manat', 2, 2, 1, 80, false),
        ('BAM', 'Bosnia-Herzegovina Convertible Mark', 2, 2, 1, 80, false),
        ('BBD', 'Barbadian Dollar', 2, 2, 1, 100, false),
        ('BDT', 'Bangladeshi Taka', 2, 2, 1, 6000, false),
        ('BGN', 'Bulgarian Lev', 2, 2, 1, 100, true),
        ('BHD', 'Bahraini Dinar', 3, 3, 10, 100, false),
        ('BIF', 'Burundian Franc', 0, 0, 1, 1000, false),
        ('BMD', 'Bermudan Dollar', 2, 2, 1, 50, false),
        ('BND', 'Brunei Dollar', 2, 2, 1, 60, false),
        ('BOB', 'Bolivian Boliviano', 2, 2, 1, 300, false),
        ('BRL', 'Brazilian Real', 2, 2, 1, 50, true),
        ('BSD', 'Bahamian Dollar', 2, 2, 1, 50, false),
        ('BWP', 'Botswanan Pula', 2, 2, 1, 600, false),
        ('BYN', 'Belarusian Ruble', 2, 2, 1, 100, false),
        ('BZD', 'Belize Dollar', 2, 2, 1, 100, false),
        ('CAD', 'Canadian Dollar', 2, 2, 1, 50, true),
        ('CDF', 'Congolese Franc', 2, 2, 1, 100000, false),
        ('CHF', 'Swiss Franc', 2, 2, 1, 50, true),
        ('CLP', 'Chilean Peso', 0, 0, 1, 400, false),
        ('CNY', 'Chinese Yuan', 2, 2, 1, 300, false),
        ('COP', 'Colombian Peso', 2, 2, 1, 200000, false),
        ('CRC', 'Costa Rican Colón', 2, 2, 1, 20000, false),
        ('CVE', 'Cape Verdean Escudo', 2, 2, 1, 4000, false),
        ('CZK', 'Czech Koruna', 2, 2, 1, 1500, true),
        ('DJF', 'Djiboutian Franc', 0, 0, 1, 80, false),
        ('DKK', 'Danish Krone', 2, 2, 1, 250, true),
        ('DOP', 'Dominican Peso', 2, 2, 1, 3000, false),
        ('DZD', 'Algerian Dinar', 2, 2, 1, 6000, false),
        ('EGP', 'Egyptian Pound', 2, 2, 1, 2000, false),
        ('ETB', 'Ethiopian Birr', 2, 2, 1, 7000, false),
        ('EUR', 'Euro', 2, 2, 1, 50, true),
        ('FJD', 'Fijian Dollar', 2, 2, 1, 100, false),
        ('FKP', 'Falkland Islands Pound', 2, 2, 1, 30, false),
        ('GBP', 'British Pound', 2, 2, 1, 30, true),
        ('GEL', 'Georgian Lari', 2, 2, 1, 100, false),
        ('GIP', 'Gibraltar Pound', 2, 2, 1, 30, false),
        ('GMD', 'Gambian Dalasi', 2, 2, 1, 3000, false),
        ('GNF', 'Guinean Franc', 0, 0, 1, 4000, false),
        ('GTQ', 'Guatemalan Quetzal', 2, 2, 1, 300, false),
        ('GYD', 'Guyanaese Dollar', 2, 2, 1, 10000, false),
        ('HKD', 'Hong Kong Dollar', 2, 2, 1, 400, true),
        ('HNL', 'Honduran Lempira', 2, 2, 1, 1000, false),
        ('HTG', 'Haitian Gourde', 2, 2, 1, 6000, false),
        ('HUF', 'Hungarian Forint', 2, 2, 1, 17500, true),
        ('IDR', 'Indonesian Rupiah', 2, 2, 1, 800000, false),
        ('ILS', 'Israeli New Shekel', 2, 2, 1, 100, false),
        ('INR', 'Indian Rupee', 2, 2, 1, 50, true),
        ('ISK', 'Icelandic Króna', 0, 2, 100, 6000, false),
        ('JMD', 'Jamaican Dollar', 2, 2, 1, 8000, false),
        ('JOD', 'Jordanian Dinar', 3, 3, 10, 300, false),
        ('JPY', 'Japanese Yen', 0, 0, 1, 50, true),
        ('KES', 'Kenyan Shilling', 2, 2, 1, 6000, false),
        ('KGS', 'Kyrgystani Som', 2, 2, 1, 4000, false),
        ('KHR', 'Cambodian Riel', 2, 2, 1, 200000, false),
        ('KMF', 'Comorian Franc', 0, 0, 1, 200, false),
        ('KRW', 'South Korean Won', 0, 0, 1, 700, false),
        ('KWD', 'Kuwaiti Dinar', 3, 3, 10, 100, false),
        ('KYD', 'Cayman Islands Dollar', 2, 2, 1, 40, false),
        ('KZT', 'Kazakhstani Tenge', 2, 2, 1, 20000, false),
        ('LAK', 'Laotian Kip', 2, 2, 1, 1000000, false),
        ('LBP', 'Lebanese Pound', 2, 2, 1, 4000000, false),
        ('LKR', 'Sri Lankan Rupee', 2, 2, 1, 10000, false),
        ('LRD', 'Liberian Dollar', 2, 2, 1, 9000, false),
        ('LSL', 'Lesotho Loti', 2, 2, 1, 800, false),
        ('MAD', 'Moroccan Dirham', 2, 2, 1, 400, false),
        ('MDL', 'Moldovan Leu', 2, 2, 1, 800, false),
        ('MGA', 'Malagasy Ariary', 0, 0, 1, 2000, false),
        ('MKD', 'Macedonian Denar', 2, 2, 1, 2000, false),
        ('MMK', 'Myanmar Kyat', 2, 2, 1, 100000, false),
        ('MNT', 'Mongolian Tugrik', 2, 2, 1, 100000, false),
        ('MOP', 'Macanese Pataca', 2, 2, 1, 400, false),
        ('MUR', 'Mauritian Rupee', 2, 2, 1, 2000, false),
        ('MVR', 'Maldivian Rufiyaa', 2, 2, 1, 700, false),
        ('MWK', 'Malawian Kwacha', 2, 2, 1, 80000, false),
        ('MXN', 'Mexican Peso', 2, 2, 1, 1000, true),
        ('MYR', 'Malaysian Ringgit', 2, 2, 1, 200, true),
        ('MZN', 'Mozambican Metical', 2, 2, 1, 3000, false),
        ('NAD', 'Namibian Dollar', 2, 2, 1, 800, false),
        ('NGN', 'Nigerian Naira', 2, 2, 1, 70000, false),
        ('NIO', 'Nicaraguan Córdoba', 2, 2, 1, 1000, false),
        ('NOK', 'Norwegian Krone', 2, 2, 1, 300, true),
        ('NPR', 'Nepalese Rupee', 2, 2, 1, 7000, false),
        ('NZD', 'New Zealand Dollar', 2, 2, 1, 50, true),
        ('OMR', 'Omani Rial', 3, 3, 10, 100, false),
        ('PAB', 'Panamanian Balboa', 2, 2, 1, 50, false),
        ('PEN', 'Peruvian Sol', 2, 2, 1, 100, false),
        ('PGK', 'Papua New Guinean Kina', 2, 2, 1, 200, false),
        ('PHP', 'Philippine Peso', 2, 2, 1, 2000, false),
        ('PKR', 'Pakistani Rupee', 2, 2, 1, 10000, false),
        ('PLN', 'Polish Zloty', 2, 2, 1, 200, true),
        ('PYG', 'Paraguayan Guarani', 0, 0, 1, 3000, false),
        ('QAR', 'Qatari Riyal', 2, 2, 1, 100, false),
        ('RON', 'Romanian Leu', 2, 2, 1, 200, true),
        ('RSD', 'Serbian Dinar', 2, 2, 1, 5000, false),
        ('RUB', 'Russian Ruble', 2, 2, 1, 4000, false),
        ('RWF', 'Rwandan Franc', 0, 0, 1, 700, false),
        ('SAR', 'Saudi Riyal', 2, 2, 1, 100, false),
        ('SBD', 'Solomon Islands Dollar', 2, 2, 1, 400, false),
        ('SCR', 'Seychellois Rupee', 2, 2, 1, 700, false),
        ('SEK', 'Swedish Krona', 2, 2, 1, 300, true),
        ('SGD', 'Singapore Dollar', 2, 2, 1, 50, true),
        ('SHP', 'St. Helena Pound', 2, 2, 1, 30, false),
        ('SLE', 'Sierra Leonean Leone', 2, 2, 1, 1000, false),
        ('SOS', 'Somali Shilling', 2, 2, 1, 20000, false),
        ('SRD', 'Surinamese Dollar', 2, 2, 1, 1000, false),
        ('STD', 'São Tomé & Príncipe Dobra (1977–2017)', 2, 2, 1, 1000000, false),
        ('SZL', 'Swazi Lilangeni', 2, 2, 1, 800, false),
        ('THB', 'Thai Baht', 2, 2, 1, 1000, true),
        ('TJS', 'Tajikistani Somoni', 2, 2, 1, 400, false),
        ('TND', 'Tunisian Dinar', 3, 3, 10, 1000, false),
        ('TOP', 'Tongan Paʻanga', 2, 2, 1, 100, false),
        ('TRY', 'Turkish Lira', 2, 2, 1, 2000, false),
        ('TTD', 'Trinidad & Tobago Dollar', 2, 2, 1, 300, false),
        ('TWD', 'New Taiwan Dollar', 2, 2, 1, 1000, false),
        ('TZS', 'Tanzanian Shilling', 2, 2, 1, 100000, false),
        ('UAH', 'Ukrainian Hryvnia', 2, 2, 1, 2000, false),
        ('UGX', 'Ugandan Shilling', 0, 2, 100, 100000, false),
        ('USD', 'US Dollar', 2, 2, 1, 50, true),
        ('UYU', 'Uruguayan Peso', 2, 2, 1, 1000, false),
        ('UZS', 'Uzbekistani Som', 2, 2, 1, 600000, false),
        ('VND', 'Vietnamese Dong', 0, 0, 1, 10000, false),
        ('VUV', 'Vanuatu Vatu', 0, 0, 1, 60, false),
        ('WST', 'Samoan Tala', 2, 2, 1, 100, false),
        ('XAF', 'Central African CFA Franc', 0, 0, 1, 200, false),
        ('XCD', 'East Caribbean Dollar', 2, 2, 1, 100, false),
        ('XCG', 'Caribbean guilder', 2, 2, 1, 80, false),
        ('XOF', 'West African CFA Franc', 0, 0, 1, 200, false),
        ('XPF', 'CFP Franc', 0, 0, 1, 50, false),
        ('YER', 'Yemeni Rial', 2, 2, 1, 10000, false),
        ('ZAR', 'South African Rand', 2, 2, 1, 800, false),
        ('ZMW', 'Zambian Kwacha', 2, 2, 1, 1000, false)
) AS c (
    code, name, decimals, stripe_decimals, step, minimum_minor, minimum_published
);
COMMENT ON VIEW billing.currencies IS
    'The currencies Stripe takes: decimals for people and for Stripe, step, least and highest '
    'charge.';
GRANT SELECT ON billing.currencies TO billing_server, billing_dba, billing_analyst;

-- An amount of money for people: $5.00 or -$5.00 for USD, 5.00 EUR for others, with the currency's
-- decimals.
-- An amount that has more decimals than people write is shown with Stripe's decimals, so that
-- nothing is hidden. A currency that Stripe does not have (an old row may hold any text) gets two
-- decimals.
CREATE OR REPLACE FUNCTION billing_data.money_text(
    p_amount_minor bigint, p_currency text, p_with_currency boolean DEFAULT true
) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT
        CASE WHEN p_amount_minor < 0 THEN '-' ELSE '' END
        || CASE WHEN p_with_currency AND p_currency = 'USD' THEN '$' ELSE '' END
        || round(
            abs(p_amount_minor::numeric) * 0.1 ^ coalesce(c.stripe_decimals, 2),
            CASE
                WHEN p_amount_minor % (10 ^ (c.stripe_decimals - c.decimals))::bigint = 0
                    THEN c.decimals
                ELSE coalesce(c.stripe_decimals, 2)
            END
        )
        || CASE WHEN p_currency = 'USD' OR NOT p_with_currency THEN '' ELSE ' ' || p_currency END
    FROM (VALUES (upper(p_currency))) AS g (code)
    LEFT JOIN billing.currencies AS c ON c.code = g.code;
$$;
COMMENT ON FUNCTION billing_data.money_text IS 'An amount of money as people write it. Helper.';

-- Refuses a price that Stripe would refuse, and says which prices Stripe takes.
CREATE OR REPLACE FUNCTION billing_data.require_price(
    p_pack_price_minor bigint, p_pack_currency text
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_currency billing.currencies;
BEGIN
    SELECT c.* INTO v_currency FROM billing.currencies AS c WHERE c.code = p_pack_currency;
    PERFORM billing_data.require(
        FOUND, 'p_pack_currency',
        format(
            'Stripe takes no payments in %s. It must be a currency that billing.currencies lists,'
            ' such as USD, EUR or JPY', p_pack_currency
        )
    );
    PERFORM billing_data.require(
        p_pack_price_minor % v_currency.step = 0, 'p_pack_price_minor',
        format(
            'it must be a multiple of %s. Stripe counts %s in units of %s and takes only multiples'
            ' of %s', v_currency.step, v_currency.code,
            billing_data.money_text(1, v_currency.code),
            billing_data.money_text(v_currency.step, v_currency.code)
        )
    );
    PERFORM billing_data.require(
        p_pack_price_minor >= v_currency.minimum_minor, 'p_pack_price_minor',
        format(
            'it must be at least %s. The least price that Stripe takes in %s is %s%s',
            v_currency.minimum_minor, v_currency.code,
            CASE WHEN v_currency.minimum_published THEN '' ELSE 'about ' END,
            billing_data.money_text(v_currency.minimum_minor, v_currency.code)
        )
    );
    PERFORM billing_data.require(
        p_pack_price_minor <= v_currency.maximum_minor, 'p_pack_price_minor',
        format(
            'it must be at most %s. The highest price that Stripe takes in %s is %s',
            v_currency.maximum_minor, v_currency.code,
            billing_data.money_text(v_currency.maximum_minor, v_currency.code)
        )
    );
END
$$;
COMMENT ON FUNCTION billing_data.require_price IS
    'Raises invalid_argument for a price that Stripe does not take. Helper.';

-- Writes an amount in Stripe's minor units as people write it, with its currency, or, with
-- p_with_currency false, as the number alone. Changes nothing.
-- Example: SELECT billing.describe_money(p_amount_minor => 500, p_currency => 'USD');
CREATE OR REPLACE FUNCTION billing.describe_money(
    p_amount_minor bigint, p_currency text, p_with_currency boolean DEFAULT true
) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
RETURN billing_data.money_text(
    p_amount_minor, left(p_currency, billing_data.most('currency')), p_with_currency
);
COMMENT ON FUNCTION billing.describe_money IS
    'Writes an amount of money as people do. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.describe_money TO billing_server, billing_dba;

-- Reads an amount that a person typed, like 7.99, and returns it in Stripe's minor units. Refuses
-- what could be read in two ways, such as 1,000, and more decimals than the currency has.
-- Errors: invalid_argument.
-- Example: SELECT billing.read_money(p_amount_text => '7.99', p_currency => 'USD');
CREATE OR REPLACE FUNCTION billing.read_money(p_amount_text text, p_currency text) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_currency text := upper(left(p_currency, billing_data.most('currency')));
    v_minor_decimals integer;
    v_decimals integer;
    v_amount numeric;
BEGIN
    SELECT c.stripe_decimals, c.decimals INTO v_minor_decimals, v_decimals
    FROM billing.currencies AS c
    WHERE c.code = v_currency;
    v_minor_decimals := coalesce(v_minor_decimals, 2);
    v_decimals := coalesce(v_decimals, 2);
    PERFORM billing_data.require(
        btrim(p_amount_text) ~ '^[0-9]{1,18}([.][0-9]{1,18})?$', 'p_amount_text',
        format(
            'write the amount like %s, with nothing but digits%s',
            round(7.99, v_decimals), CASE WHEN v_decimals > 0 THEN ' and a point' ELSE '' END
        )
    );
    v_amount := btrim(p_amount_text)::numeric * 10 ^ v_minor_decimals;
    PERFORM billing_data.require(
        v_amount = trunc(v_amount), 'p_amount_text',
        CASE
            WHEN v_decimals = 0 THEN format('%s has no decimals', v_currency)
            ELSE format('%s has at most %s decimals', v_currency, v_decimals)
        END
    );
    PERFORM billing_data.require(
        v_amount BETWEEN 1 AND billing_data.max_amount(), 'p_amount_text',
        'it must be more than 0, and not too great to store'
    );
    RETURN v_amount::bigint;
END
$$;
COMMENT ON FUNCTION billing.read_money IS
    'Reads an amount of money that a person typed. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.read_money TO billing_server, billing_dba;

-- Writes a price as people write it, before it is set. Refuses what billing.set_pricing would
-- refuse.
-- Errors: invalid_argument.
-- Example: SELECT billing.describe_price(p_pack_price_minor => 500, p_pack_currency => 'USD');
CREATE OR REPLACE FUNCTION billing.describe_price(p_pack_price_minor bigint, p_pack_currency text)
RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require_price(p_pack_price_minor, p_pack_currency);
    RETURN billing_data.money_text(p_pack_price_minor, p_pack_currency);
END
$$;
COMMENT ON FUNCTION billing.describe_price IS
    'Writes a price as people do, or says why Stripe would not take it. '
    'For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.describe_price TO billing_server, billing_dba;
