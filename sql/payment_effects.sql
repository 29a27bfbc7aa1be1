-- One payment, one effect. A payment is credited once, with one credit, whoever credits it: the
-- provider's event, a client of the API that names the payment, staff or a DBA. Or a person records
-- that it was refunded or dealt with otherwise. The primary key of payment_effects decides, so that
-- two calls at the same moment, on two accounts, cannot both succeed.
-- Lock order everywhere: the event, the account, the purchase, the effect.

-- Returns what was done about a payment; an empty row when nothing was. Locks: the effect.
CREATE OR REPLACE FUNCTION billing_data.effect_of_payment(p_provider text, p_payment_id text)
RETURNS billing_data.payment_effects
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_effect billing_data.payment_effects;
BEGIN
    SELECT x.* INTO v_effect
    FROM billing_data.payment_effects AS x
    WHERE x.provider = p_provider AND x.payment_id = p_payment_id
    FOR NO KEY UPDATE;
    RETURN v_effect;
END
$$;
COMMENT ON FUNCTION billing_data.effect_of_payment IS
    'Locks what was done about a payment; an empty row when nothing was. Helper.';

-- Claims a payment for a credit that the caller is about to write. Returns false when something
-- else has been done about the payment. Waits for another transaction that is about to decide.
-- Writes:
-- payment_effects 0..1.
CREATE OR REPLACE FUNCTION billing_data.claim_payment(
    p_provider text, p_payment_id text, p_account_id uuid, p_credit_id uuid
) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO billing_data.payment_effects (
        provider, payment_id, effect, account_id, credit_id, created_at
    )
    VALUES (
        p_provider, p_payment_id, 'credited', p_account_id, p_credit_id, clock_timestamp()
    )
    ON CONFLICT ON CONSTRAINT payment_effects_pkey DO NOTHING;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION billing_data.claim_payment IS
    'Claims a payment for a credit, unless the payment has an effect already. Helper.';

-- Whether a person has recorded that the payment was refunded or dealt with otherwise.
CREATE OR REPLACE FUNCTION billing_data.is_resolved_without_credit(
    p_provider text, p_payment_id text
) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN EXISTS (
    SELECT FROM billing_data.payment_effects AS x
    WHERE x.provider = p_provider AND x.payment_id = p_payment_id AND x.effect <> 'credited'
);
COMMENT ON FUNCTION billing_data.is_resolved_without_credit IS
    'Tells whether a person has dealt with a payment without a credit. Helper.';

-- Whether this database has sold the payment or was told of it, or a person has dealt with it.
CREATE OR REPLACE FUNCTION billing_data.is_known_payment(p_provider text, p_payment_id text)
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN EXISTS (
        SELECT FROM billing_data.purchases AS p
        WHERE p.provider = p_provider AND p.payment_id = p_payment_id
    )
    OR EXISTS (
        SELECT FROM billing_data.payment_events AS e
        WHERE e.provider = p_provider AND e.payment_id = p_payment_id
    )
    OR EXISTS (
        SELECT FROM billing_data.payment_effects AS x
        WHERE x.provider = p_provider AND x.payment_id = p_payment_id AND x.resolved_at IS NOT NULL
    );
COMMENT ON FUNCTION billing_data.is_known_payment IS
    'Tells whether a payment was sold, reported or dealt with here. Helper.';

-- The provider whose payment an external id names: the provider of a payment that this database has
-- sold, heard of or dealt with; or else the provider whose payment ids begin as this one does. NULL
-- for every other id.
CREATE OR REPLACE FUNCTION billing_data.provider_of_payment(p_external_transaction_id text)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN coalesce(
    (
        SELECT min(p.kind)
        FROM billing_data.payment_providers AS p
        WHERE billing_data.is_known_payment(p.kind, p_external_transaction_id)
    ),
    (
        SELECT min(p.kind)
        FROM billing_data.payment_providers AS p
        WHERE starts_with(p_external_transaction_id, p.payment_id_prefix)
    )
);
COMMENT ON FUNCTION billing_data.provider_of_payment IS
    'The provider whose payment an external id names, NULL when none. Helper.';

-- Claims the payment that a new credit's external id names. Returns the slug of a refusal, or NULL:
-- 'payment_already_credited' when the payment is known here and has an effect,
-- 'payment_of_another_account' when it was sold to another account. A second credit for a payment
-- that is not known here is made as before, and listed for a person.
-- Locks: the effect; the caller holds the account. Writes: payment_effects 0..1, payment_warnings
-- 0..1.
CREATE OR REPLACE FUNCTION billing_data.claim_named_payment(
    p_external_transaction_id text, p_account_id uuid, p_credit_id uuid
) RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_provider text := billing_data.provider_of_payment(p_external_transaction_id);
    v_purchase billing_data.purchases;
BEGIN
    IF v_provider IS NULL THEN
        RETURN NULL;
    END IF;
    v_purchase := billing_data.purchase_of_payment(
        v_provider, p_external_transaction_id, NULL, NULL
    );
    IF v_purchase.settled_at IS NOT NULL THEN
        RETURN 'payment_already_credited';
    ELSIF NOT billing_data.is_one_account(v_purchase.account_id, p_account_id) THEN
        RETURN 'payment_of_another_account';
    ELSIF billing_data.claim_payment(
        v_provider, p_external_transaction_id, p_account_id, p_credit_id
    ) THEN
        RETURN NULL;
    ELSIF billing_data.is_known_payment(v_provider, p_external_transaction_id) THEN
        RETURN 'payment_already_credited';
    END IF;
    INSERT INTO billing_data.payment_warnings (
        provider, warning_id, kind, payment_id, account_id, created_at
    )
    VALUES (
        v_provider, p_credit_id, 'credited_twice', p_external_transaction_id, p_account_id,
        clock_timestamp()
    );
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION billing_data.claim_named_payment IS
    'Claims the payment that a credit names; gives the slug of a refusal. Helper.';
