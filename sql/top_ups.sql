-- Top-ups: a saved card that buys packs by itself when the credits run low. A row of top_ups is one
-- consent, with what the person agreed to. An account has at most one consent in force. An attempt
-- is a purchase that the servers make: they look for accounts that need one
-- (billing.claim_top_ups), have the provider charge the card, and record the result
-- (billing.note_top_up). Charges and checks know nothing of top-ups. The credits come as for every
-- purchase, when the provider reports the payment. Lock order: the account, the top-up, the
-- attempt. A claim locks no account: its new rows refer to the account by foreign keys, and the
-- lock of a charge does not block these.

-- What went wrong with a top-up, for people: the one list of these words. The provider's own
-- reasons for declining a card, which may be others, are shown as they are.
CREATE OR REPLACE FUNCTION billing_data.top_up_problem_words(p_problem text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE p_problem
    WHEN 'authentication_required' THEN 'the bank wants the user to confirm the payment'
    WHEN 'cap_reached' THEN 'the monthly cap would be exceeded'
    WHEN 'card_declined' THEN 'the card was declined'
    WHEN 'card_missing' THEN 'the payment provider does not know the card any more'
    WHEN 'card_refused' THEN 'the payment provider cannot charge the card'
    WHEN 'expired_card' THEN 'the card has expired'
    WHEN 'insufficient_funds' THEN 'the card does not have enough money'
    WHEN 'money_returned' THEN 'money of a payment went back; the user must agree again'
    WHEN 'price_changed' THEN 'a top-up costs more than was agreed to'
    WHEN 'processing' THEN 'the payment is still being processed'
    WHEN 'provider_unavailable' THEN 'the payment provider does not answer'
    ELSE 'the card was declined: ' || replace(p_problem, '_', ' ')
END;
COMMENT ON FUNCTION billing_data.top_up_problem_words IS
    'Tells people what went wrong with a top-up. Helper.';

-- How long nothing is tried after p_failures failures in a row. The third failure ends the top-up.
CREATE OR REPLACE FUNCTION billing_data.top_up_pause(p_failures bigint) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE p_failures WHEN 0 THEN interval '0' WHEN 1 THEN interval '1 hour'
    ELSE interval '1 day' END;
COMMENT ON FUNCTION billing_data.top_up_pause IS
    'How long a top-up waits after failures in a row. Helper.';

-- How long an attempt belongs to the server that works on it. After that another server may ask the
-- provider what became of it.
CREATE OR REPLACE FUNCTION billing_data.top_up_lease() RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN interval '1 minute';
COMMENT ON FUNCTION billing_data.top_up_lease IS
    'How long an attempt belongs to the server that works on it. Helper.';

-- The beginning of the UTC month of a time, or of the month after.
CREATE OR REPLACE FUNCTION billing_data.month_of(p_at timestamptz, p_ahead integer DEFAULT 0)
RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (date_trunc('month', p_at AT TIME ZONE 'UTC') + p_ahead * interval '1 month')
    AT TIME ZONE 'UTC';
COMMENT ON FUNCTION billing_data.month_of IS 'The beginning of a UTC month. Helper.';

-- The money that top-ups of an account, and of those that were merged into it, took, or are about
-- to take, in the UTC month of p_at. Attempts that failed or were canceled took none. A payment
-- that was refunded since still counts.
CREATE OR REPLACE FUNCTION billing_data.top_up_spent(
    p_account_id uuid, p_currency text, p_at timestamptz
) RETURNS bigint
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    -- The cap, a bigint, bounds the sum.
    SELECT coalesce(sum(p.price_minor), 0)::bigint
    FROM billing_data.top_up_attempts AS x
    INNER JOIN billing_data.purchases AS p ON p.account_id = x.account_id AND p.id = x.purchase_id
    WHERE x.account_id = ANY (billing_data.merged_family(p_account_id))
        AND x.state IN ('open', 'succeeded')
        AND x.created_at >= billing_data.month_of(p_at)
        AND x.created_at < billing_data.month_of(p_at, 1)
        AND p.currency = p_currency
$$;
COMMENT ON FUNCTION billing_data.top_up_spent IS
    'The money that top-ups of an account take in a month. Helper.';

-- Whether money of a payment of an account went back since a time, by a refund or a dispute, and is
-- away. Somebody did not want to pay then, so the card is not charged again for the credits that
-- were taken back.
CREATE OR REPLACE FUNCTION billing_data.money_went_back(p_account_id uuid, p_since timestamptz)
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT
        FROM billing_data.payment_returns AS r
        WHERE r.account_id = ANY (billing_data.merged_family(p_account_id))
            AND r.created_at >= p_since
            AND r.away_minor > 0
    )
$$;
COMMENT ON FUNCTION billing_data.money_went_back IS
    'Whether money of an account''s payments went back since a time. Helper.';

-- Ends the top-ups in force of these accounts, and returns how many it ended. An attempt that is
-- open ends without a payment, unless the provider is charging the card at this moment.
-- Locks and writes: top_ups 0..n.
CREATE OR REPLACE FUNCTION billing_data.withdraw_top_ups(p_account_ids uuid[], p_end_reason text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_ended bigint;
BEGIN
    UPDATE billing_data.top_ups AS t
    SET ended_at = billing_data.clock(), end_reason = p_end_reason
    WHERE t.account_id = ANY (p_account_ids) AND t.ended_at IS NULL;
    GET DIAGNOSTICS v_ended = ROW_COUNT;
    RETURN v_ended;
END
$$;
COMMENT ON FUNCTION billing_data.withdraw_top_ups IS
    'Ends the top-ups in force of accounts. Helper.';

-- Refuses a consent that no top-up can follow: its price is not the present one, its threshold is
-- so high that one top-up does not lift the credits above it, or its monthly cap is below the price
-- of one top-up.
-- Errors: invalid_argument, top_up_price_changed.
CREATE OR REPLACE FUNCTION billing_data.require_top_up(
    p_threshold bigint,
    p_packs bigint,
    p_amount_minor bigint,
    p_currency text,
    p_monthly_cap_minor bigint
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_uses numeric;
    v_price numeric;
    v_currency text;
BEGIN
    PERFORM billing_data.require(
        p_packs > 0 AND p_packs <= 1000, 'p_packs', 'it must be 1 to 1000'
    );
    SELECT s.pack_uses::numeric * p_packs, s.pack_price_minor::numeric * p_packs, s.pack_currency
    INTO STRICT v_uses, v_price, v_currency
    FROM billing_data.settings AS s;
    IF (p_amount_minor, p_currency) IS DISTINCT FROM (v_price, v_currency) THEN
        PERFORM billing_data.raise_error('top_up_price_changed', jsonb_build_object(
            'price', billing_data.money_text(v_price::bigint, v_currency)
        ));
    END IF;
    PERFORM billing_data.require_price(p_amount_minor, p_currency);
    PERFORM billing_data.require(
        p_threshold >= 0 AND p_threshold < v_uses, 'p_threshold',
        format('it must be 0 or more, and less than the %s credits that a top-up brings', v_uses)
    );
    PERFORM billing_data.require(
        p_monthly_cap_minor >= p_amount_minor, 'p_monthly_cap_minor',
        format('it must be at least %s, the price of one top-up', p_amount_minor)
    );
END
$$;
COMMENT ON FUNCTION billing_data.require_top_up IS
    'Refuses a consent that does not fit the present price. Helper.';

-- The card that a top-up shall charge: the one that a payment of the account saved, or, where no
-- payment is named, the one of the top-up before (p_top_up_id, which may be NULL).
-- Errors: payment_not_found, top_up_card_missing.
CREATE OR REPLACE FUNCTION billing_data.saved_card(
    p_top_up_id uuid,
    p_account_id uuid,
    p_payment_id text,
    p_customer_id text,
    p_payment_method_id text,
    p_card text
) RETURNS TABLE (
    provider text, payment_id text, customer_id text, payment_method_id text, card text
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_payment_id IS NULL THEN
        SELECT t.provider, t.payment_id, t.customer_id, t.payment_method_id, t.card
        INTO provider, payment_id, customer_id, payment_method_id, card
        FROM billing_data.top_ups AS t
        WHERE t.id = p_top_up_id;
    ELSE
        SELECT p.provider, p.payment_id, p_customer_id, p_payment_method_id, p_card
        INTO provider, payment_id, customer_id, payment_method_id, card
        FROM billing_data.purchases AS p
        WHERE p.payment_id = p_payment_id
            AND p.account_id = ANY (billing_data.merged_family(p_account_id));
        IF NOT FOUND THEN
            PERFORM billing_data.raise_error(
                'payment_not_found', jsonb_build_object('payment_id', p_payment_id)
            );
        END IF;
    END IF;
    IF num_nonnulls(nullif(customer_id, ''), nullif(payment_method_id, '')) < 2 THEN
        PERFORM billing_data.raise_error('top_up_card_missing');
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing_data.saved_card IS
    'The card that a top-up shall charge; refuses where there is none. Helper.';

-- Records a person's consent that a saved card buys p_packs packs whenever the available paid
-- credits are p_threshold or fewer, for at most p_monthly_cap_minor in a UTC month. The consent is
-- stored with its words, its version, the time, and who recorded it. p_amount_minor is what one
-- top-up costs now, as the person was told; when packs become dearer, the top-up ends. p_payment_id
-- is a payment of the account by which the card was saved, with the provider's ids of the customer
-- and the card; without it, the card of the top-up before is used. A consent replaces the one in
-- force. The same consent again changes nothing (changed false), unless money of a payment went
-- back since.
-- Locks: the account, its top-up. Writes: top_ups 0..2, admin_audit_logs 0..1 for a DBA.
-- Errors: actor and key errors, invalid_argument, account_not_found, payment_not_found,
-- top_up_card_missing, top_up_price_changed.
-- Example: SELECT * FROM billing.set_top_up(p_oauth_provider => 'oauth:google',
--     p_external_id => '1', p_threshold => 2, p_packs => 1, p_amount_minor => 500,
--     p_currency => 'USD', p_monthly_cap_minor => 2000, p_consent_version => '2026-11',
--     p_consent_text => 'Charge my card $5.00 when 2 credits are left.', p_payment_id => 'pi_1',
--     p_customer_id => 'cus_1', p_payment_method_id => 'pm_1');
CREATE OR REPLACE FUNCTION billing.set_top_up(
    p_oauth_provider text,
    p_external_id text,
    p_threshold bigint,
    p_packs bigint,
    p_amount_minor bigint,
    p_currency text,
    p_monthly_cap_minor bigint,
    p_consent_version text,
    p_consent_text text,
    p_payment_id text DEFAULT NULL,
    p_customer_id text DEFAULT NULL,
    p_payment_method_id text DEFAULT NULL,
    p_card text DEFAULT NULL,
    p_api_key_id uuid DEFAULT NULL
) RETURNS TABLE (account_id uuid, top_up_id uuid, changed boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(p_api_key_id, NULL, 'billing:write');
    v_before billing_data.top_ups;
    v_card record;
BEGIN
    PERFORM billing_data.require_identity(p_oauth_provider, p_external_id);
    PERFORM billing_data.require_filled(p_consent_version, 'p_consent_version');
    PERFORM billing_data.require_filled(p_consent_text, 'p_consent_text');
    PERFORM billing_data.require_short(p_payment_id, 'p_payment_id');
    PERFORM billing_data.require_short(p_customer_id, 'p_customer_id');
    PERFORM billing_data.require_short(p_payment_method_id, 'p_payment_method_id');
    PERFORM billing_data.require_short(p_card, 'p_card');
    PERFORM billing_data.require_top_up(
        p_threshold, p_packs, p_amount_minor, p_currency, p_monthly_cap_minor
    );
    PERFORM billing_data.require_durable_commit();
    SELECT k.id INTO account_id
    FROM billing_data.lock_account_of_identity(p_oauth_provider, p_external_id) AS k;
    IF account_id IS NULL THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
    SELECT t.* INTO v_before
    FROM billing_data.top_ups AS t
    WHERE t.account_id = set_top_up.account_id
    ORDER BY t.ended_at IS NULL DESC, t.consented_at DESC
    LIMIT 1
    FOR NO KEY UPDATE;
    SELECT c.provider, c.payment_id, c.customer_id, c.payment_method_id, c.card
    INTO STRICT v_card
    FROM billing_data.saved_card(
        v_before.id, account_id, p_payment_id, p_customer_id, p_payment_method_id, p_card
    ) AS c;
    changed := v_before.id IS NULL OR v_before.ended_at IS NOT NULL
    OR billing_data.money_went_back(account_id, v_before.consented_at) OR (
        v_before.threshold, v_before.packs, v_before.amount_minor, v_before.currency,
        v_before.monthly_cap_minor, v_before.consent_version, v_before.consent_text,
        v_before.payment_id
    ) <> (
        p_threshold, p_packs, p_amount_minor, p_currency, p_monthly_cap_minor, p_consent_version,
        p_consent_text, v_card.payment_id
    );
    top_up_id := v_before.id;
    IF changed THEN
        PERFORM billing_data.withdraw_top_ups(ARRAY[account_id], 'replaced');
        top_up_id := billing_data.new_id();
        INSERT INTO billing_data.top_ups (
            id, account_id, threshold, packs, amount_minor, currency, monthly_cap_minor, provider,
            payment_id, customer_id, payment_method_id, card, consent_version, consent_text,
            consented_at, api_key_id, database_role, next_attempt_at
        )
        VALUES (
            top_up_id, set_top_up.account_id, p_threshold, p_packs, p_amount_minor, p_currency,
            p_monthly_cap_minor, v_card.provider, v_card.payment_id, v_card.customer_id,
            v_card.payment_method_id, v_card.card, p_consent_version, p_consent_text,
            billing_data.clock(), v_actor.api_key_id, v_actor.database_role, billing_data.clock()
        );
        IF p_api_key_id IS NULL THEN
            PERFORM billing_data.write_audit(
                'account.set_top_up', 'account', account_id::text,
                jsonb_build_object(
                    'top_up_id', top_up_id, 'threshold', p_threshold,
                    'amount_minor', p_amount_minor, 'currency', p_currency,
                    'monthly_cap_minor', p_monthly_cap_minor
                ),
                NULL, v_actor
            );
        END IF;
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.set_top_up IS
    'Records the consent that a saved card buys credits when they run low. '
    'For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.set_top_up TO billing_server, billing_dba;

-- Ends the top-up of an account at once: the person withdraws the consent through an agent, or
-- staff or a DBA end it with a reason. Nothing is charged from then on. A payment that the provider
-- is charging at this moment is still credited. The account is named by its id or its identity.
-- changed is false when nothing was in force.
-- Locks: the account, its top-up. Writes: top_ups 0..1, admin_audit_logs 0..1 for staff and DBAs.
-- Errors: actor and key errors, invalid_argument, account_not_found, top_up_not_found.
-- Example: SELECT * FROM billing.end_top_up(p_account_id => '...', p_reason => 'asked by e-mail');
CREATE OR REPLACE FUNCTION billing.end_top_up(
    p_account_id uuid DEFAULT NULL,
    p_oauth_provider text DEFAULT NULL,
    p_external_id text DEFAULT NULL,
    p_reason text DEFAULT NULL,
    p_api_key_id uuid DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (account_id uuid, changed boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor :=
        billing_data.authorize(p_api_key_id, p_session_hash, 'billing:write');
    v_account billing_data.accounts;
BEGIN
    IF p_api_key_id IS NULL THEN
        PERFORM billing_data.require_reason(p_reason);
    END IF;
    PERFORM billing_data.require(
        num_nonnulls(p_account_id, p_external_id) = 1
        AND (p_oauth_provider IS NULL) = (p_external_id IS NULL),
        'p_account_id', 'give either the account or the whole identity'
    );
    PERFORM billing_data.require_durable_commit();
    v_account := CASE
        WHEN p_account_id IS NOT NULL THEN billing_data.lock_account(p_account_id)
        ELSE billing_data.lock_account_of_identity(p_oauth_provider, p_external_id)
    END;
    account_id := v_account.id;
    IF account_id IS NULL THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
    PERFORM FROM billing_data.top_ups AS t WHERE t.account_id = end_top_up.account_id;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error('top_up_not_found');
    END IF;
    changed := billing_data.withdraw_top_ups(
        ARRAY[account_id], CASE WHEN p_api_key_id IS NULL THEN 'staff' ELSE 'withdrawn' END
    ) > 0;
    IF changed AND p_api_key_id IS NULL THEN
        PERFORM billing_data.write_audit(
            'account.end_top_up', 'account', account_id::text, NULL, p_reason, v_actor
        );
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.end_top_up IS
    'Ends the top-up of an account at once. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.end_top_up TO billing_server, billing_dba;

-- Reads the newest top-up of an account, named by its id or its identity: what the person agreed
-- to, what was spent in this UTC month, what went wrong last, and the newest attempt. status is on
-- or off. uses are the credits that one top-up brings now.
-- Errors: actor and key errors, invalid_argument, account_not_found, top_up_not_found.
-- Example: SELECT * FROM billing.get_top_up(p_account_id => '...');
CREATE OR REPLACE FUNCTION billing.get_top_up(
    p_account_id uuid DEFAULT NULL,
    p_oauth_provider text DEFAULT NULL,
    p_external_id text DEFAULT NULL,
    p_api_key_id uuid DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    account_id uuid,
    top_up_id uuid,
    status text,
    threshold bigint,
    packs bigint,
    uses bigint,
    amount_minor bigint,
    currency text,
    amount_text text,
    monthly_cap_minor bigint,
    monthly_cap_text text,
    spent_this_month_minor bigint,
    spent_this_month_text text,
    card text,
    consent_version text,
    consent_text text,
    consent_at timestamptz,
    failures bigint,
    problem text,
    problem_text text,
    next_attempt_at timestamptz,
    ended_at timestamptz,
    end_reason text,
    attempt_status text,
    attempt_payment_id text,
    attempt_at timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now timestamptz := billing_data.clock();
BEGIN
    PERFORM billing_data.authorize(p_api_key_id, p_session_hash, 'billing:read');
    PERFORM billing_data.require(
        num_nonnulls(p_account_id, p_external_id) = 1
        AND (p_oauth_provider IS NULL) = (p_external_id IS NULL),
        'p_account_id', 'give either the account or the whole identity'
    );
    account_id := CASE
        WHEN p_account_id IS NOT NULL THEN billing_data.surviving_account(p_account_id)
        ELSE billing_data.account_of_identity(p_oauth_provider, p_external_id)
    END;
    IF NOT EXISTS (SELECT FROM billing_data.accounts AS a WHERE a.id = account_id) THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
    RETURN QUERY
    SELECT
        t.account_id, t.id, CASE WHEN t.ended_at IS NULL THEN 'on' ELSE 'off' END, t.threshold,
        t.packs, least(s.pack_uses::numeric * t.packs, billing_data.max_amount())::bigint,
        t.amount_minor, t.currency::text, billing_data.money_text(t.amount_minor, t.currency),
        t.monthly_cap_minor, billing_data.money_text(t.monthly_cap_minor, t.currency), m.spent,
        billing_data.money_text(m.spent, t.currency), t.card::text,
        t.consent_version::text, t.consent_text::text, t.consented_at, t.failures, t.problem,
        billing_data.top_up_problem_words(t.problem),
        CASE WHEN t.ended_at IS NULL AND t.next_attempt_at > v_now THEN t.next_attempt_at END,
        t.ended_at, t.end_reason, x.state, x.payment_id, x.created_at
    FROM billing_data.top_ups AS t
    CROSS JOIN billing_data.settings AS s
    CROSS JOIN LATERAL billing_data.top_up_spent(t.account_id, t.currency, v_now) AS m (spent)
    LEFT JOIN LATERAL (
        SELECT y.state, p.payment_id::text AS payment_id, y.created_at
        FROM billing_data.top_up_attempts AS y
        INNER JOIN billing_data.purchases AS p
            ON p.account_id = y.account_id AND p.id = y.purchase_id
        WHERE y.account_id = t.account_id
        ORDER BY y.created_at DESC
        LIMIT 1
    ) AS x ON true
    WHERE t.account_id = get_top_up.account_id
    ORDER BY t.ended_at IS NULL DESC, t.consented_at DESC
    LIMIT 1;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error('top_up_not_found');
    END IF;
END
$$;
COMMENT ON FUNCTION billing.get_top_up IS
    'Reads the newest top-up of an account. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.get_top_up TO billing_server, billing_dba;

-- Lists consents to top-ups, newest first: of one account, or of all. p_status is on or off, or
-- NULL for both.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.list_top_ups(p_status => 'on', p_limit => 10);
CREATE OR REPLACE FUNCTION billing.list_top_ups(
    p_account_id uuid DEFAULT NULL,
    p_status text DEFAULT NULL,
    p_limit bigint DEFAULT 50,
    p_offset bigint DEFAULT 0,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    top_up_id uuid,
    account_id uuid,
    oauth_provider text,
    external_id text,
    status text,
    threshold bigint,
    packs bigint,
    amount_text text,
    monthly_cap_text text,
    card text,
    consent_version text,
    consent_text text,
    consent_at timestamptz,
    consent_by text,
    failures bigint,
    problem text,
    problem_text text,
    ended_at timestamptz,
    end_reason text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, p_offset, 501);
    PERFORM billing_data.require(
        p_status IS NULL OR p_status IN ('on', 'off'), 'p_status', 'it must be on or off'
    );
    RETURN QUERY
    SELECT
        t.id, t.account_id, a.oauth_provider::text, a.external_id::text,
        CASE WHEN t.ended_at IS NULL THEN 'on' ELSE 'off' END, t.threshold, t.packs,
        billing_data.money_text(t.amount_minor, t.currency),
        billing_data.money_text(t.monthly_cap_minor, t.currency), t.card::text,
        t.consent_version::text, t.consent_text::text, t.consented_at,
        coalesce(k.name, t.database_role)::text, t.failures, t.problem,
        billing_data.top_up_problem_words(t.problem), t.ended_at, t.end_reason
    FROM billing_data.top_ups AS t
    INNER JOIN billing_data.accounts AS a ON a.id = t.account_id
    LEFT JOIN billing_data.api_keys AS k ON k.id = t.api_key_id
    WHERE (
            p_account_id IS NULL
            OR t.account_id = ANY (
                billing_data.merged_family(billing_data.surviving_account(p_account_id))
            )
        )
        AND (p_status IS NULL OR (p_status = 'on') = (t.ended_at IS NULL))
    ORDER BY t.consented_at DESC, t.id DESC
    LIMIT p_limit OFFSET p_offset;
END
$$;
COMMENT ON FUNCTION billing.list_top_ups IS
    'Lists consents to top-ups. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_top_ups TO billing_server, billing_dba;

-- Lists what top-ups tried to buy, newest first: of one account, or of all. status is open,
-- succeeded, failed or canceled; credited tells whether the credits have arrived.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.list_top_up_attempts(p_limit => 10);
CREATE OR REPLACE FUNCTION billing.list_top_up_attempts(
    p_account_id uuid DEFAULT NULL,
    p_limit bigint DEFAULT 50,
    p_offset bigint DEFAULT 0,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    account_id uuid,
    purchase_id uuid,
    payment_id text,
    status text,
    credited boolean,
    uses bigint,
    price_minor bigint,
    currency text,
    price_text text,
    problem text,
    problem_text text,
    created_at timestamptz,
    ended_at timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, p_offset, 501);
    RETURN QUERY
    SELECT
        x.account_id, x.purchase_id, p.payment_id::text, x.state, p.settled_at IS NOT NULL, p.uses,
        p.price_minor, p.currency::text, billing_data.money_text(p.price_minor, p.currency),
        x.problem, billing_data.top_up_problem_words(x.problem), x.created_at, x.ended_at
    FROM billing_data.top_up_attempts AS x
    INNER JOIN billing_data.purchases AS p ON p.account_id = x.account_id AND p.id = x.purchase_id
    WHERE p_account_id IS NULL
        OR x.account_id = ANY (
            billing_data.merged_family(billing_data.surviving_account(p_account_id))
        )
    ORDER BY x.created_at DESC, x.purchase_id DESC
    LIMIT p_limit OFFSET p_offset;
END
$$;
COMMENT ON FUNCTION billing.list_top_up_attempts IS
    'Lists what top-ups tried to buy. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_top_up_attempts TO billing_server, billing_dba;
