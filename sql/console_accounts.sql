-- Accounts as staff look after them: found, read, corrected. By account id, as pages name them.

-- Whether a text is a UUID in its usual form.
CREATE OR REPLACE FUNCTION billing_data.is_uuid(p_text text) RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN coalesce(p_text ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$', false);
COMMENT ON FUNCTION billing_data.is_uuid IS 'Tells whether a text is a UUID. Helper.';

-- The LIKE patterns that find what contains a text, or with p_match 'prefix' begins with it, whatever
-- the case and whichever of Unicode's two normal forms it is stored in: é may be one character or two.
CREATE OR REPLACE FUNCTION billing_data.search_patterns(p_search text, p_match text)
RETURNS text[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(
        DISTINCT
        CASE p_match WHEN 'substring' THEN '%' ELSE '' END
        || replace(
            replace(replace(lower(f.form), E'\\', E'\\\\'), '%', E'\\%'), '_', E'\\_'
        ) || '%'
    )
    FROM (
        SELECT p_search AS form
        UNION ALL
        -- Only a database in UTF-8 has normal forms.
        SELECT normalize(p_search, NFC) WHERE getdatabaseencoding() = 'UTF8'
        UNION ALL
        SELECT normalize(p_search, NFD) WHERE getdatabaseencoding() = 'UTF8'
    ) AS f;
$$;
COMMENT ON FUNCTION billing_data.search_patterns IS
    'The LIKE patterns that find a text in either normal form. Helper.';

-- An account's totals. Every use is a charge and every charge is in the balance, so they follow from
-- the account's own columns and its few credits; only of accounts that the old service wrote to must
-- the charges be counted, their balances having been in another unit.
CREATE OR REPLACE FUNCTION billing_data.account_totals(p_account billing_data.accounts)
RETURNS TABLE (
    last_charge_at timestamptz,
    last_credit_at timestamptz,
    total_charged numeric,
    total_credited numeric,
    charge_count bigint,
    credit_count bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_net numeric;
BEGIN
    SELECT c.created_at INTO last_charge_at
    FROM billing_data.charges AS c
    WHERE c.account_id = p_account.id AND c.ledger_version > 0
    ORDER BY c.ledger_version DESC
    LIMIT 1;
    SELECT
        max(c.created_at), coalesce(sum(c.amount_minor) FILTER (WHERE c.amount_minor > 0), 0),
        coalesce(sum(c.amount_minor), 0), count(*)
    INTO STRICT last_credit_at, total_credited, v_net, credit_count
    FROM billing_data.credits AS c
    WHERE c.account_id = p_account.id AND c.ledger_version > 0;
    IF EXISTS (
        SELECT FROM billing_data.ledger_openings AS o
        WHERE o.account_id = p_account.id AND o.ledger_version > 0
    ) THEN
        SELECT
            coalesce(sum(c.amount_minor) FILTER (WHERE c.paid_with = 'paid'), 0), count(*)
        INTO STRICT total_charged, charge_count
        FROM billing_data.charges AS c
        WHERE c.account_id = p_account.id AND c.ledger_version > 0;
    ELSE
        total_charged := v_net - p_account.paid_credits;
        charge_count := p_account.total_uses;
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing_data.account_totals IS
    'What was charged and credited to an account in all. Helper.';

-- Lists accounts. p_search finds what an e-mail address or external id begins with (p_match
-- 'prefix', by index) or contains (p_match 'substring', reads every account), whatever the case and
-- the normal form;
-- or the account whose id (or whole external id) is this UUID. p_sort: newest, oldest, email, credits, uses; ties by id.
-- total_count counts all that match when p_count is true, else it is NULL; where the page is empty
-- and p_count is true, one row with only total_count. Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.list_accounts(p_search => 'ada@', p_limit => 10);
CREATE OR REPLACE FUNCTION billing.list_accounts(
    p_search text DEFAULT NULL,
    p_status text DEFAULT NULL,
    p_sort text DEFAULT 'newest',
    p_match text DEFAULT 'prefix',
    p_limit bigint DEFAULT 50,
    p_offset bigint DEFAULT 0,
    p_count boolean DEFAULT false,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    total_count bigint,
    account_id uuid,
    oauth_provider text,
    external_id text,
    wa_id text,
    tenant_id text,
    customer_email text,
    balance_minor bigint,
    currency text,
    plan_name text,
    status text,
    paid_credits bigint,
    free_uses_remaining bigint,
    total_uses bigint,
    created_at timestamptz,
    last_charge_at timestamptz,
    last_credit_at timestamptz,
    total_charged numeric,
    total_credited numeric,
    charge_count bigint,
    credit_count bigint
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_search text := lower(nullif(p_search, ''));
    v_patterns text[];
    v_where text := 'true';
    v_order text;
    v_id uuid;
    v_ids uuid[];
    v_count bigint;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, p_offset, 501);
    PERFORM billing_data.require(
        p_match IN ('prefix', 'substring'), 'p_match', 'it must be prefix or substring'
    );
    v_order := CASE p_sort
        WHEN 'newest' THEN 'a.created_at DESC, a.id DESC'
        WHEN 'oldest' THEN 'a.created_at, a.id'
        WHEN 'email' THEN 'lower(a.customer_email) USING ~<~, a.id'
        WHEN 'credits' THEN 'a.paid_credits DESC, a.id'
        WHEN 'uses' THEN 'a.total_uses DESC, a.id'
    END;
    PERFORM billing_data.require(
        v_order IS NOT NULL, 'p_sort', 'it must be newest, oldest, email, credits or uses'
    );
    IF billing_data.is_uuid(v_search) THEN
        v_id := v_search::uuid;
        v_where := '(a.id = $5 OR lower(a.external_id) = $2)';
    ELSIF v_search IS NOT NULL THEN
        v_patterns := billing_data.search_patterns(p_search, p_match);
        -- One LIKE for each pattern: an index of prefixes serves that, and not LIKE ANY.
        SELECT '(' || string_agg(
            format('lower(a.customer_email) LIKE $1[%s] OR lower(a.external_id) LIKE $1[%s]', n, n),
            ' OR '
        ) || ')'
        INTO STRICT v_where
        FROM generate_series(1, cardinality(v_patterns)) AS s (n);
    END IF;
    IF p_status = 'active' THEN
        v_where := v_where || ' AND a.status = ''active''';
    ELSIF p_status IS NOT NULL THEN
        -- So worded, the index of the few that are not active serves.
        v_where := v_where || ' AND a.status <> ''active'' AND a.status = $6';
    END IF;

    IF p_count AND v_where = 'true' THEN
        SELECT coalesce(sum(u.accounts_created), 0)::bigint INTO STRICT v_count
        FROM billing_data.usage_since('-infinity') AS u;
    ELSIF p_count THEN
        EXECUTE 'SELECT count(*) FROM billing_data.accounts AS a WHERE ' || v_where
        INTO STRICT v_count
        USING v_patterns, v_search, p_limit, p_offset, v_id, p_status;
    END IF;
    -- First which accounts, from as little of each as an index has, then all about these. Where no
    -- index serves, the first alone can be done by several processes.
    EXECUTE
        'SELECT array_agg(p.id) FROM (SELECT a.id FROM billing_data.accounts AS a WHERE ' || v_where
        || ' ORDER BY ' || v_order || ' LIMIT $3 OFFSET $4) AS p'
    INTO STRICT v_ids
    USING v_patterns, v_search, p_limit, p_offset, v_id, p_status;
    RETURN QUERY EXECUTE
        'SELECT $1, a.id, a.oauth_provider::text, a.external_id::text, a.wa_id::text,'
        || ' a.tenant_id::text, a.customer_email::text, a.balance_minor, a.currency::text,'
        || ' a.plan_name::text, a.status::text, a.paid_credits, a.free_uses_remaining,'
        || ' a.total_uses, a.created_at, h.last_charge_at, h.last_credit_at, h.total_charged,'
        || ' h.total_credited, h.charge_count, h.credit_count'
        || ' FROM billing_data.accounts AS a'
        || ' CROSS JOIN LATERAL billing_data.account_totals(a) AS h'
        || ' WHERE a.id = ANY ($2) ORDER BY ' || v_order
    USING v_count, v_ids;
    IF NOT FOUND AND p_count THEN
        total_count := v_count;
        RETURN NEXT;
    END IF;
END
$$;
COMMENT ON FUNCTION billing.list_accounts IS
    'Finds and lists accounts with their totals. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_accounts TO billing_server, billing_dba;

-- Reads one account by its id, with its totals. Errors: actor errors, account_not_found.
-- Example: SELECT * FROM billing.get_account_by_id(p_account_id => '...');
CREATE OR REPLACE FUNCTION billing.get_account_by_id(
    p_account_id uuid,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    account_id uuid,
    oauth_provider text,
    external_id text,
    wa_id text,
    tenant_id text,
    customer_email text,
    user_role text,
    agent_id text,
    balance_minor bigint,
    currency text,
    plan_name text,
    status text,
    paid_credits bigint,
    free_uses_remaining bigint,
    total_uses bigint,
    ledger_version bigint,
    marketing_opt_in boolean,
    marketing_opt_in_at timestamptz,
    marketing_opt_in_source text,
    created_at timestamptz,
    updated_at timestamptz,
    last_charge_at timestamptz,
    last_credit_at timestamptz,
    total_charged numeric,
    total_credited numeric,
    charge_count bigint,
    credit_count bigint
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    RETURN QUERY
    SELECT
        a.id, a.oauth_provider::text, a.external_id::text, a.wa_id::text, a.tenant_id::text,
        a.customer_email::text, a.user_role::text, a.agent_id::text, a.balance_minor,
        a.currency::text, a.plan_name::text, a.status::text, a.paid_credits,
        a.free_uses_remaining, a.total_uses, a.ledger_version, a.marketing_opt_in,
        a.marketing_opt_in_at, a.marketing_opt_in_source::text, a.created_at, a.updated_at,
        h.last_charge_at, h.last_credit_at, h.total_charged, h.total_credited, h.charge_count,
        h.credit_count
    FROM billing_data.accounts AS a
    CROSS JOIN LATERAL billing_data.account_totals(a) AS h
    WHERE a.id = p_account_id;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
END
$$;
COMMENT ON FUNCTION billing.get_account_by_id IS
    'Reads one account by its id, with its totals. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.get_account_by_id TO billing_server, billing_dba;

-- Adds or takes away paid credits by a staff member's decision; below zero is refused. With an
-- idempotency key used before for the same change: nothing more, replayed true.
-- Locks: the account. Whoever adjusts several accounts in one transaction calls in ascending order of
-- the accounts' ids, or takes billing.adjust_several_credits, which does; else two of them may wait
-- for each other and one is undone (40P01).
-- Writes: accounts 1, credits 1, admin_audit_logs 1. Errors: actor errors,
-- invalid_argument, account_not_found, insufficient_credits, balance_overflow,
-- idempotency_key_reused.
-- Example: SELECT * FROM billing.adjust_credits(p_account_id => '...', p_amount => 5,
--              p_reason => 'goodwill');
CREATE OR REPLACE FUNCTION billing.adjust_credits(
    p_account_id uuid,
    p_amount bigint,
    p_reason text,
    p_idempotency_key text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    credit_id uuid, amount_minor bigint, balance_before bigint, balance_after bigint,
    created_at timestamptz, replayed boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_account billing_data.accounts;
    v_credit billing_data.credits;
    v_fingerprint bytea;
BEGIN
    PERFORM billing_data.require(p_amount <> 0, 'p_amount', 'it must not be 0');
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require_short(p_idempotency_key, 'p_idempotency_key');
    PERFORM billing_data.require_durable_commit();
    SELECT a.* INTO v_account
    FROM billing_data.accounts AS a
    WHERE a.id = p_account_id
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
    v_fingerprint := billing_data.fingerprint(
        billing_data.field_hash('adjustment', p_amount::text)
        # billing_data.field_hash('reason', p_reason)
    );
    SELECT c.* INTO v_credit
    FROM billing_data.credits AS c
    WHERE c.account_id = v_account.id AND c.idempotency_key = p_idempotency_key;
    replayed := FOUND;
    IF replayed AND (
        v_credit.request_fingerprint IS NULL  -- a credit of the old service, which adjusted none
        OR billing_data.is_other_request(v_credit.request_fingerprint, v_fingerprint)
    ) THEN
        PERFORM billing_data.raise_error('idempotency_key_reused');
    ELSIF NOT replayed THEN
        IF p_amount > 0 AND v_account.paid_credits > 9223372036854775807 - p_amount THEN
            PERFORM billing_data.raise_error('balance_overflow', jsonb_build_object(
                'balance', v_account.paid_credits, 'amount', p_amount,
                'maximum', 9223372036854775807
            ));
        ELSIF v_account.paid_credits < -p_amount::numeric THEN
            PERFORM billing_data.raise_error('insufficient_credits', jsonb_build_object(
                'balance', v_account.paid_credits, 'required', -p_amount::numeric
            ));
        END IF;
        v_credit := billing_data.append_credit(
            v_account, p_amount, CASE WHEN p_amount > 0 THEN 'grant' ELSE 'adjustment' END,
            p_reason, NULL, p_idempotency_key, v_fingerprint, clock_timestamp(), NULL,
            v_actor.admin_user_id, v_actor.database_role, NULL
        );
        PERFORM billing_data.write_audit(
            'account.adjust_credits', 'account', v_account.id::text,
            jsonb_build_object(
                'amount', p_amount, 'credit_id', v_credit.id,
                'before', v_credit.balance_before, 'after', v_credit.balance_after
            ),
            p_reason, v_actor
        );
    END IF;
    credit_id := v_credit.id;
    amount_minor := v_credit.amount_minor;
    balance_before := v_credit.balance_before;
    balance_after := v_credit.balance_after;
    created_at := v_credit.created_at;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.adjust_credits IS
    'Adds or takes away paid credits, with a reason. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.adjust_credits TO billing_server, billing_dba;

-- Adjusts several accounts, all or none: billing.adjust_credits of each, in ascending order of their
-- ids whatever order they are given in, so that two callers cannot wait for each other. One reason,
-- and one idempotency key of each account, for all.
-- Locks: the accounts in id order. Writes and errors: as billing.adjust_credits, and
-- invalid_argument for an account that is named twice.
-- Example: SELECT * FROM billing.adjust_several_credits(
--     p_account_ids => ARRAY['...'::uuid], p_amounts => ARRAY[5::bigint], p_reason => 'goodwill');
CREATE OR REPLACE FUNCTION billing.adjust_several_credits(
    p_account_ids uuid[],
    p_amounts bigint[],
    p_reason text,
    p_idempotency_key text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    account_id uuid, credit_id uuid, amount_minor bigint, balance_before bigint,
    balance_after bigint, created_at timestamptz, replayed boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_change record;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:write');
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require_short(p_idempotency_key, 'p_idempotency_key');
    PERFORM billing_data.require_same_length(
        ARRAY[cardinality(p_account_ids), cardinality(p_amounts)], '{}',
        ARRAY[array_dims(p_account_ids), array_dims(p_amounts)]
    );
    PERFORM billing_data.require(
        cardinality(p_account_ids) = (
            SELECT count(DISTINCT u.id) FROM unnest(p_account_ids) AS u (id)
        ),
        'p_account_ids', 'each account must be named once'
    );
    FOR v_change IN
        SELECT u.id, u.amount
        FROM unnest(p_account_ids, p_amounts) AS u (id, amount)
        ORDER BY u.id
    LOOP
        account_id := v_change.id;
        SELECT
            a.credit_id, a.amount_minor, a.balance_before, a.balance_after, a.created_at, a.replayed
        INTO STRICT credit_id, amount_minor, balance_before, balance_after, created_at, replayed
        FROM billing.adjust_credits(
            p_account_id => v_change.id,
            p_amount => v_change.amount,
            p_reason => p_reason,
            p_idempotency_key => p_idempotency_key,
            p_session_hash => p_session_hash
        ) AS a;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION billing.adjust_several_credits IS
    'Adjusts the credits of several accounts, all or none. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.adjust_several_credits TO billing_dba;

-- Sets an account's free uses, by default to what new accounts get. Not a ledger entry: the ledger
-- is of paid credits; the audit row proves it, with the version of the ledger that it came after.
-- Locks: the account. Writes: accounts 0..1, admin_audit_logs 0..1.
-- Errors: actor errors, invalid_argument, account_not_found.
-- Example: SELECT * FROM billing.reset_free_uses(p_account_id => '...', p_reason => 'a new start');
CREATE OR REPLACE FUNCTION billing.reset_free_uses(
    p_account_id uuid,
    p_reason text,
    p_free_uses bigint DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (free_uses_before bigint, free_uses_remaining bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_version bigint;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require(
        p_free_uses IS NULL OR p_free_uses >= 0, 'p_free_uses', 'it must be 0 or more'
    );
    PERFORM billing_data.require_durable_commit();
    SELECT a.free_uses_remaining, a.ledger_version INTO free_uses_before, v_version
    FROM billing_data.accounts AS a
    WHERE a.id = p_account_id
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
    SELECT coalesce(p_free_uses, s.free_uses) INTO STRICT free_uses_remaining
    FROM billing_data.settings AS s;
    IF free_uses_remaining <> free_uses_before THEN
        UPDATE billing_data.accounts AS a
        SET free_uses_remaining = reset_free_uses.free_uses_remaining, updated_at = clock_timestamp()
        WHERE a.id = p_account_id;
        PERFORM billing_data.write_audit(
            'account.reset_free_uses', 'account', p_account_id::text,
            jsonb_build_object(
                'before', free_uses_before, 'after', free_uses_remaining,
                'ledger_version', v_version
            ),
            p_reason, v_actor
        );
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.reset_free_uses IS
    'Sets an account''s free uses, with a reason. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.reset_free_uses TO billing_server, billing_dba;

-- An account's checks, newest first, with why they were denied. Errors: actor errors,
-- invalid_argument. Example: SELECT * FROM billing.list_checks(p_account_id => '...');
CREATE OR REPLACE FUNCTION billing.list_checks(
    p_account_id uuid,
    p_limit bigint DEFAULT 50,
    p_offset bigint DEFAULT 0,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    check_id uuid,
    has_credit boolean,
    denial_reason text,
    credits_remaining bigint,
    free_uses_remaining bigint,
    context_agent_id text,
    context_channel_id text,
    context_request_id text,
    created_at timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, p_offset, 501);
    RETURN QUERY
    SELECT
        k.id, k.has_credit, k.denial_reason::text, k.credits_remaining, k.free_uses_remaining,
        k.context_agent_id::text, k.context_channel_id::text, k.context_request_id::text,
        k.created_at
    FROM billing_data.credit_checks AS k
    WHERE k.account_id = p_account_id
    ORDER BY k.created_at DESC, k.id DESC
    LIMIT p_limit OFFSET p_offset;
END
$$;
COMMENT ON FUNCTION billing.list_checks IS
    'Lists an account''s checks, newest first. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_checks TO billing_server, billing_dba;
