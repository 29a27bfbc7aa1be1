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

-- How much of a purchase's money is with us and not asked back yet. A refund that was asked for
-- counts until the provider has reported it or refused it; from then on the report counts. It takes
-- columns, not a row, as billing_data.purchase_credits does.
CREATE OR REPLACE FUNCTION billing_data.left_to_refund(
    p_account_id uuid, p_purchase_id uuid, p_provider text, p_price_minor bigint,
    p_settled_at timestamptz
) RETURNS bigint
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN p_settled_at IS NULL THEN 0 ELSE greatest(
        p_price_minor
        - (
            SELECT coalesce(sum(r.away_minor), 0)
            FROM billing_data.payment_returns AS r
            WHERE r.account_id = p_account_id AND r.purchase_id = p_purchase_id
        )
        - (
            SELECT coalesce(sum(f.amount_minor), 0)
            FROM billing_data.payment_refunds AS f
            WHERE f.account_id = p_account_id
                AND f.purchase_id = p_purchase_id
                AND f.failure IS NULL
                AND NOT EXISTS (
                    SELECT FROM billing_data.payment_returns AS r
                    WHERE r.account_id = f.account_id
                        AND r.provider = p_provider
                        AND r.return_id = f.return_id
                )
        ), 0)::bigint END;
$$;
COMMENT ON FUNCTION billing_data.left_to_refund IS
    'How much of a purchase''s money can still be given back. Helper.';

-- The time by which a list of purchases p is limited to days, as text: of payment, or of offer.
CREATE OR REPLACE FUNCTION billing_data.purchase_day(p_is_paid boolean) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN p_is_paid THEN 'p.settled_at' ELSE 'p.created_at' END;
COMMENT ON FUNCTION billing_data.purchase_day IS
    'The time by which purchases are limited to days. Helper.';

-- The condition on purchases p for the filters of lists, as text: $1 account ids, $2 payment, $3
-- first day, $4 last day. p_place is what require_purchase_filter returned; with p_is_paid these
-- are days of payment.
CREATE OR REPLACE FUNCTION billing_data.purchase_filter(
    p_of_account boolean, p_place integer, p_of_payment boolean, p_from date, p_to date,
    p_is_paid boolean
) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN 'true'
    || CASE WHEN p_of_account THEN ' AND p.account_id = ANY ($1)' ELSE '' END
    -- The kinds are named so that the index by provider and payment serves.
    || CASE WHEN p_of_payment
        THEN ' AND p.provider IN (SELECT k.kind FROM billing_data.payment_providers AS k)'
            ' AND p.payment_id = $2'
        ELSE '' END
    || CASE WHEN p_from IS NOT NULL
        THEN ' AND ' || billing_data.purchase_day(p_is_paid)
            || ' >= $3::timestamp AT TIME ZONE ''UTC''' ELSE '' END
    || CASE WHEN p_to IS NOT NULL
        THEN ' AND ' || billing_data.purchase_day(p_is_paid)
            || ' < ($4 + 1)::timestamp AT TIME ZONE ''UTC''' ELSE '' END
    || CASE p_place
        WHEN 1 THEN ' AND p.payment_id IS NULL'
        WHEN 2 THEN ' AND p.payment_id IS NOT NULL AND p.settled_at IS NULL'
        WHEN 3 THEN ' AND p.settled_at IS NOT NULL'
        WHEN 4 THEN ' AND EXISTS (SELECT FROM billing_data.payment_returns AS n'
            ' WHERE n.account_id = p.account_id AND n.purchase_id = p.id)'
        ELSE ''
    END;
COMMENT ON FUNCTION billing_data.purchase_filter IS
    'The condition on purchases for the filters of lists. Helper.';

-- Refuses filters of purchases that mean nothing, and returns the place of the status: 1 offered, 2
-- pending, 3 settled, 4 returned. Errors: invalid_argument.
CREATE OR REPLACE FUNCTION billing_data.require_purchase_filter(
    p_status text, p_from date, p_to date, p_days_of text
) RETURNS integer
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_place integer := array_position(ARRAY['offered', 'pending', 'settled', 'returned'], p_status);
BEGIN
    PERFORM billing_data.require(
        p_status IS NULL OR v_place IS NOT NULL,
        'p_status', 'it must be offered, pending, settled or returned'
    );
    PERFORM billing_data.require_moment(p_from::timestamptz, 'p_from');
    PERFORM billing_data.require_moment(p_to::timestamptz, 'p_to');
    PERFORM billing_data.require(
        p_days_of IN ('offered', 'paid'), 'p_days_of', 'it must be offered or paid'
    );
    RETURN v_place;
END
$$;
COMMENT ON FUNCTION billing_data.require_purchase_filter IS
    'Raises invalid_argument for filters of purchases that mean nothing. Helper.';

-- The order of a list of purchases p, as text. p_place: 1 newest, 2 settled, 3 price, 4 uses.
-- Only the newest have an index of this order. Any other order reads all purchases: of 100,000, a
-- page takes 30 ms, and one far down 50 ms, so that more indexes would cost more than they save.
CREATE OR REPLACE FUNCTION billing_data.purchase_order(p_place integer, p_reverse boolean)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN CASE
    WHEN p_place = 1 AND p_reverse THEN 'p.created_at, p.id'
    WHEN p_place = 1 THEN 'p.created_at DESC, p.id DESC'
    WHEN p_place = 2 AND p_reverse THEN 'p.settled_at, p.id'
    WHEN p_place = 2 THEN 'p.settled_at DESC NULLS LAST, p.id DESC'
    WHEN p_place = 3 AND p_reverse THEN 'p.price_minor, p.id'
    WHEN p_place = 3 THEN 'p.price_minor DESC, p.id DESC'
    WHEN p_reverse THEN 'p.uses, p.id'
    ELSE 'p.uses DESC, p.id DESC'
END;
COMMENT ON FUNCTION billing_data.purchase_order IS 'The order of a list of purchases. Helper.';

-- Lists purchases; those of an account with those of the accounts that were merged into it.
-- p_status: offered, pending, settled, or returned (some of its money went back). p_from and p_to:
-- the UTC days on which they were offered, both included; with p_days_of paid, those on which they
-- were paid. p_sort: newest, settled, price, uses; p_reverse turns the order round. left_minor is
-- what can still be refunded. livemode is what the provider's events say, or else the mode of the
-- stored key.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.list_purchases(p_status => 'settled', p_limit => 10);
CREATE OR REPLACE FUNCTION billing.list_purchases(
    p_account_id uuid DEFAULT NULL,
    p_status text DEFAULT NULL,
    p_limit bigint DEFAULT 50,
    p_offset bigint DEFAULT 0,
    p_payment_id text DEFAULT NULL,
    p_from date DEFAULT NULL,
    p_to date DEFAULT NULL,
    p_sort text DEFAULT 'newest',
    p_reverse boolean DEFAULT false,
    p_days_of text DEFAULT 'offered',
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
    returned_text text,
    left_minor bigint,
    left_text text,
    livemode boolean
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_sort integer := array_position(ARRAY['newest', 'settled', 'price', 'uses'], p_sort);
    v_place integer;
    v_of_payment boolean := p_payment_id IS NOT NULL;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, p_offset, 501);
    v_place := billing_data.require_purchase_filter(p_status, p_from, p_to, p_days_of);
    PERFORM billing_data.require(
        v_sort IS NOT NULL, 'p_sort', 'it must be newest, settled, price or uses'
    );
    RETURN QUERY EXECUTE
        'SELECT p.id, p.account_id, a.oauth_provider::text, a.external_id::text,'
        || ' p.customer_email::text, p.provider, p.payment_id::text,'
        || ' billing_data.purchase_status(p), p.uses, p.price_minor, p.currency::text,'
        || ' billing_data.money_text(p.price_minor, p.currency), p.created_at, p.settled_at,'
        || ' r.money, r.taken, r.short, CASE WHEN r.money > 0 THEN'
        || ' billing_data.money_text(r.money::bigint, p.currency) ELSE '''' END,'
        || ' l.left_minor, billing_data.money_text(l.left_minor, p.currency),'
        || ' coalesce(e.livemode, (SELECT billing_data.provider_mode(c.provider_type,'
        || ' c.config_data) = ''live'' FROM billing_data.provider_configs AS c'
        || ' WHERE c.provider_type = p.provider))'
        || ' FROM (SELECT p.account_id, p.id FROM billing_data.purchases AS p WHERE '
        || billing_data.purchase_filter(
            p_account_id IS NOT NULL, v_place, v_of_payment, p_from, p_to,
            p_days_of = 'paid'
        )
        || ' ORDER BY ' || billing_data.purchase_order(v_sort, p_reverse)
        || ' LIMIT $5 OFFSET $6) AS k'
        || ' INNER JOIN billing_data.purchases AS p ON p.account_id = k.account_id AND p.id = k.id'
        || ' INNER JOIN billing_data.accounts AS a ON a.id = p.account_id'
        || ' CROSS JOIN LATERAL (SELECT coalesce(sum(n.away_minor), 0) AS money,'
        || ' coalesce(sum(n.uses_taken), 0) AS taken,'
        || ' coalesce(sum(n.uses_due - n.uses_taken), 0) AS short'
        || ' FROM billing_data.payment_returns AS n WHERE n.account_id = p.account_id'
        || ' AND n.purchase_id = p.id AND n.status = ''taken'') AS r'
        || ' CROSS JOIN LATERAL (SELECT billing_data.left_to_refund('
        || ' p.account_id, p.id, p.provider, p.price_minor, p.settled_at) AS left_minor) AS l'
        || ' LEFT JOIN LATERAL (SELECT v.livemode FROM billing_data.payment_events AS v'
        || ' WHERE v.provider = p.provider AND v.payment_id = p.payment_id'
        || ' AND v.livemode IS NOT NULL LIMIT 1) AS e ON true'
        || ' ORDER BY ' || billing_data.purchase_order(v_sort, p_reverse)
    USING
        CASE WHEN p_account_id IS NOT NULL
            THEN coalesce(
                billing_data.merged_family(billing_data.surviving_account(p_account_id)),
                ARRAY[p_account_id]
            )
        END,
        p_payment_id, p_from, p_to, p_limit, p_offset;
END
$$;
COMMENT ON FUNCTION billing.list_purchases IS
    'Lists purchases and what became of them. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_purchases TO billing_server, billing_dba;

-- Adds up the purchases that billing.list_purchases lists for the same filters, by currency: how
-- many there are, and of those that were paid what came in, what went back and what is left.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.total_purchases(p_from => '2026-11-01', p_to => '2026-11-30');
CREATE OR REPLACE FUNCTION billing.total_purchases(
    p_account_id uuid DEFAULT NULL,
    p_status text DEFAULT NULL,
    p_payment_id text DEFAULT NULL,
    p_from date DEFAULT NULL,
    p_to date DEFAULT NULL,
    p_days_of text DEFAULT 'offered',
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    currency text, purchases bigint, paid bigint, gross_minor numeric, returned_minor numeric,
    gross_text text, returned_text text, net_text text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_place integer;
    v_of_payment boolean := p_payment_id IS NOT NULL;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    v_place := billing_data.require_purchase_filter(p_status, p_from, p_to, p_days_of);
    RETURN QUERY EXECUTE
        'SELECT t.currency, t.purchases, t.paid, t.gross, t.returned,'
        || ' billing_data.money_text(t.gross::bigint, t.currency),'
        || ' billing_data.money_text(t.returned::bigint, t.currency),'
        || ' billing_data.money_text((t.gross - t.returned)::bigint, t.currency)'
        || ' FROM (SELECT p.currency::text AS currency, count(*) AS purchases,'
        || ' count(p.settled_at) AS paid,'
        || ' coalesce(sum(p.price_minor) FILTER (WHERE p.settled_at IS NOT NULL), 0) AS gross,'
        || ' coalesce(sum(r.money) FILTER (WHERE p.settled_at IS NOT NULL), 0) AS returned'
        || ' FROM billing_data.purchases AS p'
        || ' LEFT JOIN (SELECT n.account_id, n.purchase_id, sum(n.away_minor) AS money'
        || ' FROM billing_data.payment_returns AS n GROUP BY 1, 2) AS r'
        || ' ON r.account_id = p.account_id AND r.purchase_id = p.id WHERE '
        || billing_data.purchase_filter(
            p_account_id IS NOT NULL, v_place, v_of_payment, p_from, p_to,
            p_days_of = 'paid'
        )
        || ' GROUP BY 1) AS t ORDER BY 1'
    USING
        CASE WHEN p_account_id IS NOT NULL
            THEN coalesce(
                billing_data.merged_family(billing_data.surviving_account(p_account_id)),
                ARRAY[p_account_id]
            )
        END,
        p_payment_id, p_from, p_to;
END
$$;
COMMENT ON FUNCTION billing.total_purchases IS
    'Adds up purchases by currency. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.total_purchases TO billing_server, billing_dba;
