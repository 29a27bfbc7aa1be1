-- Purchases. What is sold is recorded before the payment provider is asked, and the credits that
-- arrive are those that were sold, whatever the settings say by then. A purchase is `offered` until
-- the provider has made a payment for it, `pending` until that payment is paid, then `settled`.

CREATE OR REPLACE FUNCTION billing_data.purchase_status(p_purchase billing_data.purchases)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN CASE
    WHEN (p_purchase).settled_at IS NOT NULL THEN 'settled'
    WHEN (p_purchase).payment_id IS NOT NULL THEN 'pending'
    ELSE 'offered'
END;
COMMENT ON FUNCTION billing_data.purchase_status IS 'The state a purchase is in. Helper.';

-- The function takes columns, not a row: a function of the row type would prevent a rollback from
-- dropping the table.
CREATE OR REPLACE FUNCTION billing_data.purchase_credits(p_uses bigint, p_settled_at timestamptz)
RETURNS bigint
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN p_settled_at IS NULL THEN 0 ELSE p_uses END;
COMMENT ON FUNCTION billing_data.purchase_credits IS
    'The credits a purchase has brought: 0 until it is settled. Helper.';

-- The provider's configuration with encrypted secrets.
-- Errors: payment_provider_not_configured unless it is active and has its credential.
CREATE OR REPLACE FUNCTION billing_data.active_provider_config(p_provider text) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_config jsonb;
BEGIN
    SELECT c.config_data INTO v_config
    FROM billing_data.provider_configs AS c
    INNER JOIN billing_data.payment_providers AS p ON p.kind = c.provider_type
    WHERE c.provider_type = p_provider AND c.is_active AND c.config_data ->> p.credential <> '';
    IF v_config IS NULL THEN
        PERFORM billing_data.raise_error('payment_provider_not_configured');
    END IF;
    RETURN v_config;
END
$$;
COMMENT ON FUNCTION billing_data.active_provider_config IS
    'An active payment provider''s configuration, secrets encrypted. Helper.';

-- Offers the current pack at the current price to an identity, and returns what the caller needs to
-- ask the provider for a payment. Creates the account when there is none; profile fields are stored
-- on creation only. When the idempotency key was used before for the same request (the receipt's
-- address may differ), returns the first purchase again (replayed true), with the credits it has
-- brought since. p_save_card says that the caller has the provider save the card for top-ups.
-- Writes: accounts 0..1, purchases 0..1.
-- Errors: actor and key errors, invalid_argument, payment_provider_not_configured,
-- idempotency_key_reused.
-- Example: SELECT * FROM billing.begin_purchase(p_oauth_provider => 'oauth:google',
--              p_external_id => '1', p_customer_email => 'ada@example.com');
CREATE OR REPLACE FUNCTION billing.begin_purchase(
    p_oauth_provider text,
    p_external_id text,
    p_customer_email text,
    p_wa_id text DEFAULT NULL,
    p_tenant_id text DEFAULT NULL,
    p_user_role text DEFAULT NULL,
    p_agent_id text DEFAULT NULL,
    p_marketing_opt_in boolean DEFAULT false,
    p_marketing_opt_in_source text DEFAULT NULL,
    p_idempotency_key text DEFAULT NULL,
    p_provider text DEFAULT billing.default_payment_provider(p_to_sell => true),
    p_api_key_id uuid DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL,
    p_save_card boolean DEFAULT false
) RETURNS TABLE (
    purchase_id uuid,
    account_id uuid,
    uses bigint,
    price_minor bigint,
    currency text,
    payment_id text,
    payment_status text,
    account_created boolean,
    replayed boolean,
    config_data jsonb,
    credits_added bigint,
    provider text
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor :=
        billing_data.authorize(p_api_key_id, p_session_hash, 'billing:write');
    v_config jsonb;
    v_found record;
    v_account_id uuid;
    v_former_id uuid;
    v_fingerprint bytea;
    v_purchase billing_data.purchases;
    v_replayed boolean := false;
BEGIN
    PERFORM billing_data.require_identity(p_oauth_provider, p_external_id);
    PERFORM billing_data.require(
        length(p_customer_email) > 0, 'p_customer_email', 'it must not be empty'
    );
    PERFORM billing_data.require_short(p_wa_id, 'p_wa_id');
    PERFORM billing_data.require_short(p_tenant_id, 'p_tenant_id');
    PERFORM billing_data.require_profile(
        p_customer_email, p_user_role, p_agent_id, p_marketing_opt_in_source
    );
    PERFORM billing_data.require_short(p_idempotency_key, 'p_idempotency_key');
    v_config := billing_data.active_provider_config(p_provider);
    PERFORM billing_data.require_durable_commit();

    SELECT f.account, f.created INTO STRICT v_found
    FROM billing_data.find_or_create_account(
        p_oauth_provider, p_external_id, p_wa_id, p_tenant_id, 0, 'USD', 'free', p_customer_email,
        p_user_role, p_agent_id, p_marketing_opt_in, p_marketing_opt_in_source, p_wait => true
    ) AS f;
    v_account_id := (v_found.account).id;
    -- The receipt's address is left out: a request with another address is the same purchase.
    v_fingerprint := billing_data.fingerprint(
        billing_data.field_hash('provider', p_provider)
        # billing_data.field_hash('save_card', nullif(p_save_card, false)::text)
        # billing_data.profile_hash(
            NULL, p_user_role, p_agent_id, p_marketing_opt_in, p_marketing_opt_in_source
        )
    );

    -- A purchase that was begun under the key before its account was merged stays with it.
    SELECT p.account_id INTO v_former_id
    FROM billing_data.purchases AS p
    WHERE p.account_id = ANY (billing_data.path_of_identity(p_oauth_provider, p_external_id))
        AND p.idempotency_key = p_idempotency_key
    ORDER BY p.created_at
    LIMIT 1;
    v_account_id := coalesce(v_former_id, v_account_id);

    -- Only the idempotency key can conflict: the id is new and there is no payment yet.
    INSERT INTO billing_data.purchases AS p (
        account_id, id, provider, uses, price_minor, currency, customer_email, idempotency_key,
        request_fingerprint, api_key_id, admin_user_id, database_role, created_at
    )
    SELECT
        v_account_id, billing_data.new_id(), p_provider, s.pack_uses, s.pack_price_minor,
        s.pack_currency, p_customer_email, p_idempotency_key, v_fingerprint, v_actor.api_key_id,
        v_actor.admin_user_id, v_actor.database_role, clock_timestamp()
    FROM billing_data.settings AS s
    ON CONFLICT DO NOTHING
    RETURNING p.* INTO v_purchase;
    IF NOT FOUND THEN
        SELECT p.* INTO STRICT v_purchase
        FROM billing_data.purchases AS p
        WHERE p.account_id = v_account_id AND p.idempotency_key = p_idempotency_key;
        IF billing_data.is_other_request(v_purchase.request_fingerprint, v_fingerprint) THEN
            PERFORM billing_data.raise_error('idempotency_key_reused');
        END IF;
        v_replayed := true;
    END IF;
    RETURN QUERY SELECT
        v_purchase.id, v_account_id, v_purchase.uses, v_purchase.price_minor,
        v_purchase.currency::text, v_purchase.payment_id::text, v_purchase.payment_status,
        v_found.created, v_replayed, v_config,
        billing_data.purchase_credits(v_purchase.uses, v_purchase.settled_at), p_provider;
END
$$;
COMMENT ON FUNCTION billing.begin_purchase IS
    'Records what is offered to a user, before a payment is asked for. '
    'For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.begin_purchase TO billing_server, billing_dba;

-- Records which payment the provider made for a purchase, and the payment's state. The first
-- payment recorded stays; a second caller gets the first one.
-- Locks: the purchase. Writes: purchases 0..1, admin_audit_logs 1 where staff or a database role
-- says so. Errors: actor and key errors, invalid_argument, payment_not_found, payment_attached.
-- Example: SELECT * FROM billing.attach_payment(p_account_id => '...', p_purchase_id => '...',
--              p_payment_id => 'pi_1', p_payment_status => 'requires_payment_method');
CREATE OR REPLACE FUNCTION billing.attach_payment(
    p_account_id uuid,
    p_purchase_id uuid,
    p_payment_id text,
    p_payment_status text,
    p_api_key_id uuid DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (payment_id text, payment_status text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor :=
        billing_data.authorize(p_api_key_id, p_session_hash, 'billing:write');
    v_purchase billing_data.purchases;
BEGIN
    PERFORM billing_data.require_filled(p_payment_id, 'p_payment_id');
    PERFORM billing_data.require_short(p_payment_status, 'p_payment_status');
    PERFORM billing_data.require_durable_commit();
    UPDATE billing_data.purchases AS p
    SET payment_id = coalesce(p.payment_id, p_payment_id),
        payment_status = coalesce(p.payment_status, p_payment_status)
    WHERE p.account_id = ANY (billing_data.merge_path(p_account_id)) AND p.id = p_purchase_id
    RETURNING p.* INTO v_purchase;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error(
            'payment_not_found', jsonb_build_object('payment_id', p_payment_id)
        );
    END IF;
    IF p_api_key_id IS NULL AND v_purchase.payment_id = p_payment_id THEN
        PERFORM billing_data.write_audit(
            'purchase.attach_payment', 'payment', p_payment_id,
            jsonb_build_object('account_id', p_account_id, 'purchase_id', p_purchase_id),
            NULL, v_actor
        );
    END IF;
    RETURN QUERY SELECT v_purchase.payment_id::text, v_purchase.payment_status;
EXCEPTION
    WHEN unique_violation THEN
        PERFORM billing_data.raise_error(
            'payment_attached', jsonb_build_object('payment_id', p_payment_id)
        );
END
$$;
COMMENT ON FUNCTION billing.attach_payment IS
    'Records which payment a purchase waits for. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.attach_payment TO billing_server, billing_dba;

-- Reads what is known of a payment, with the configuration needed to ask the provider about it.
-- There is always one row. purchase_id is NULL for a payment that is not known here; it may still
-- turn out to be one of the old service, and uses are then those of the current pack. Where
-- p_provider is NULL, the payment's id tells its provider.
-- Errors: actor and key errors, payment_provider_not_configured.
-- Example: SELECT * FROM billing.find_purchase(p_payment_id => 'pi_1');
CREATE OR REPLACE FUNCTION billing.find_purchase(
    p_payment_id text,
    p_provider text DEFAULT NULL,
    p_api_key_id uuid DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    purchase_id uuid,
    account_id uuid,
    status text,
    uses bigint,
    price_minor bigint,
    currency text,
    credits_added bigint,
    created_at timestamptz,
    settled_at timestamptz,
    config_data jsonb,
    provider text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_config jsonb;
BEGIN
    PERFORM billing_data.authorize(p_api_key_id, p_session_hash, 'billing:read');
    p_provider := coalesce(
        p_provider, billing_data.provider_of_payment(p_payment_id),
        billing.default_payment_provider(p_to_sell => true)
    );
    v_config := billing_data.active_provider_config(p_provider);
    RETURN QUERY
    SELECT
        p.id, p.account_id, CASE WHEN p.id IS NOT NULL THEN billing_data.purchase_status(p) END,
        coalesce(p.uses, s.pack_uses), coalesce(p.price_minor, s.pack_price_minor),
        coalesce(p.currency, s.pack_currency)::text,
        billing_data.purchase_credits(p.uses, p.settled_at), p.created_at, p.settled_at, v_config,
        p_provider
    FROM billing_data.settings AS s
    LEFT JOIN billing_data.purchases AS p
        ON p.provider = p_provider AND p.payment_id = p_payment_id;
END
$$;
COMMENT ON FUNCTION billing.find_purchase IS
    'Reads the purchase a payment was made for. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.find_purchase TO billing_server, billing_dba;

-- Lists purchases; those of an account with those of the accounts that were merged into it.
-- p_status: offered, pending, settled, or returned (some of its money went back).
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.list_purchases(p_status => 'settled', p_limit => 10);
CREATE OR REPLACE FUNCTION billing.list_purchases(
    p_account_id uuid DEFAULT NULL,
    p_status text DEFAULT NULL,
    p_limit bigint DEFAULT 50,
    p_offset bigint DEFAULT 0,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    purchase_id uuid,
    account_id uuid,
    oauth_provider text,
    external_id text,
    customer_email text,
    provider text,
    payment_id text,
    status text,
    uses bigint,
    price_minor bigint,
    currency text,
    price_text text,
    created_at timestamptz,
    settled_at timestamptz,
    returned_minor numeric,
    uses_taken_back numeric,
    shortfall numeric,
    returned_text text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_where text := 'true';
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, p_offset, 501);
    PERFORM billing_data.require(
        p_status IS NULL OR p_status IN ('offered', 'pending', 'settled', 'returned'),
        'p_status', 'it must be offered, pending, settled or returned'
    );
    IF p_account_id IS NOT NULL THEN
        v_where := 'p.account_id = ANY ($1)';
    END IF;
    v_where := v_where || CASE p_status
        WHEN 'offered' THEN ' AND p.payment_id IS NULL'
        WHEN 'pending' THEN ' AND p.payment_id IS NOT NULL AND p.settled_at IS NULL'
        WHEN 'settled' THEN ' AND p.settled_at IS NOT NULL'
        WHEN 'returned' THEN ' AND EXISTS (SELECT FROM billing_data.payment_returns AS n'
            ' WHERE n.account_id = p.account_id AND n.purchase_id = p.id)'
        ELSE ''
    END;
    RETURN QUERY EXECUTE
        'SELECT p.id, p.account_id, a.oauth_provider::text, a.external_id::text,'
        || ' p.customer_email::text, p.provider, p.payment_id::text,'
        || ' billing_data.purchase_status(p), p.uses, p.price_minor, p.currency::text,'
        || ' billing_data.money_text(p.price_minor, p.currency), p.created_at, p.settled_at,'
        || ' r.money, r.taken, r.short, CASE WHEN r.money > 0 THEN'
        || ' billing_data.money_text(r.money::bigint, p.currency) ELSE '''' END'
        || ' FROM billing_data.purchases AS p'
        || ' INNER JOIN billing_data.accounts AS a ON a.id = p.account_id'
        || ' CROSS JOIN LATERAL (SELECT coalesce(sum(n.away_minor), 0) AS money,'
        || ' coalesce(sum(n.uses_taken), 0) AS taken,'
        || ' coalesce(sum(n.uses_due - n.uses_taken), 0) AS short'
        || ' FROM billing_data.payment_returns AS n WHERE n.account_id = p.account_id'
        || ' AND n.purchase_id = p.id AND n.status = ''taken'') AS r'
        || ' WHERE ' || v_where
        || ' ORDER BY p.created_at DESC, p.id DESC LIMIT $2 OFFSET $3'
    USING billing_data.merged_family(billing_data.surviving_account(p_account_id)), p_limit,
        p_offset;
END
$$;
COMMENT ON FUNCTION billing.list_purchases IS
    'Lists purchases and what became of them. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_purchases TO billing_server, billing_dba;
