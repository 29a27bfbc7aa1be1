-- Lists of accounts, as staff search and read them.

-- An account's totals. Every use is a charge and every charge is in the balance, so the totals
-- follow from the account's own columns and its few credits. Only for accounts that the old service
-- wrote to must the charges be counted, because the old balances were in another unit.
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

-- Lists accounts. p_search finds the accounts whose e-mail address or external id begins with it
-- (p_match 'prefix', by index) or contains it (p_match 'substring', reads every account), whatever
-- the case and the Unicode normal form. A UUID finds the account with this id or this external id,
-- and the account that the id leads to.
-- p_from and p_to: the UTC days on which they were made, both included.
-- p_sort: newest, oldest, email, credits, uses; ties are ordered by id, and p_reverse turns the
-- order round. With p_count true,
-- total_count counts all accounts that match, and an empty page is one row with only total_count;
-- with p_count false, total_count is NULL.
-- Errors: actor
-- errors, invalid_argument.
-- Example: SELECT * FROM billing.list_accounts(p_search => 'ada@', p_limit => 10);
CREATE OR REPLACE FUNCTION billing.list_accounts(
    p_search text DEFAULT NULL,
    p_status text DEFAULT NULL,
    p_sort text DEFAULT 'newest',
    p_match text DEFAULT 'prefix',
    p_limit bigint DEFAULT 50,
    p_offset bigint DEFAULT 0,
    p_count boolean DEFAULT false,
    p_from date DEFAULT NULL,
    p_to date DEFAULT NULL,
    p_reverse boolean DEFAULT false,
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
    v_path uuid[];
    v_ids uuid[];
    v_count bigint;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, p_offset, 501);
    PERFORM billing_data.require(
        p_match IN ('prefix', 'substring'), 'p_match', 'it must be prefix or substring'
    );
    PERFORM billing_data.require_moment(p_from::timestamptz, 'p_from');
    PERFORM billing_data.require_moment(p_to::timestamptz, 'p_to');
    -- No index serves credits and uses: each charge changes both columns, and an index of one would
    -- make every charge write to it. The sort reads all accounts: of 100,000, a page takes 30 ms,
    -- and one far down 60 ms. The order is that of the credits that are booked.
    v_order := CASE p_sort || CASE WHEN p_reverse THEN ', reversed' ELSE '' END
        WHEN 'newest' THEN 'a.created_at DESC, a.id DESC'
        WHEN 'newest, reversed' THEN 'a.created_at, a.id'
        WHEN 'oldest' THEN 'a.created_at, a.id'
        WHEN 'oldest, reversed' THEN 'a.created_at DESC, a.id DESC'
        WHEN 'email' THEN 'lower(a.customer_email) USING ~<~, a.id'
        WHEN 'email, reversed' THEN 'lower(a.customer_email) USING ~>~, a.id DESC'
        WHEN 'credits' THEN 'a.paid_credits DESC, a.id'
        WHEN 'credits, reversed' THEN 'a.paid_credits, a.id DESC'
        WHEN 'uses' THEN 'a.total_uses DESC, a.id'
        WHEN 'uses, reversed' THEN 'a.total_uses, a.id DESC'
    END;
    PERFORM billing_data.require(
        v_order IS NOT NULL, 'p_sort', 'it must be newest, oldest, email, credits or uses'
    );
    IF billing_data.is_uuid(v_search) THEN
        v_path := billing_data.merge_path(v_search::uuid);
        v_where := '(a.id = ANY ($5) OR lower(a.external_id) = $2)';
    ELSIF v_search IS NOT NULL THEN
        v_patterns := billing_data.search_patterns(p_search, p_match);
        -- One LIKE for each pattern: an index of prefixes can serve LIKE, but not LIKE ANY.
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
        -- The condition is repeated in this form so that the partial index of accounts that are not
        -- active can serve it.
        v_where := v_where || ' AND a.status <> ''active'' AND a.status = $6';
    END IF;
    IF p_from IS NOT NULL THEN
        v_where := v_where || ' AND a.created_at >= $7::timestamp AT TIME ZONE ''UTC''';
    END IF;
    IF p_to IS NOT NULL THEN
        v_where := v_where || ' AND a.created_at < ($8 + 1)::timestamp AT TIME ZONE ''UTC''';
    END IF;

    IF p_count AND v_where = 'true' THEN
        SELECT coalesce(sum(u.accounts_created), 0)::bigint INTO STRICT v_count
        FROM billing_data.usage_since('-infinity') AS u;
    ELSIF p_count THEN
        EXECUTE 'SELECT count(*) FROM billing_data.accounts AS a WHERE ' || v_where
        INTO STRICT v_count
        USING v_patterns, v_search, p_limit, p_offset, v_path, p_status, p_from, p_to;
    END IF;
    -- Two steps: first choose the accounts, reading only columns that an index has; then read
    -- everything about the chosen ones. Where no index serves, only the first step can run in
    -- parallel workers.
    EXECUTE
        'SELECT array_agg(p.id) FROM (SELECT a.id FROM billing_data.accounts AS a WHERE ' || v_where
        || ' ORDER BY ' || v_order || ' LIMIT $3 OFFSET $4) AS p'
    INTO STRICT v_ids
    USING v_patterns, v_search, p_limit, p_offset, v_path, p_status, p_from, p_to;
    RETURN QUERY EXECUTE
        'SELECT $1, a.id, a.oauth_provider::text, a.external_id::text, a.wa_id::text,'
        || ' a.tenant_id::text, a.customer_email::text, a.balance_minor, a.currency::text,'
        || ' a.plan_name::text, a.status::text, (billing_data.standing(a)).paid_credits,'
        || ' a.free_uses_remaining,'
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

-- Reads one account with its totals, by its id or by the id of an account that was merged into it.
-- Errors: actor errors, account_not_found.
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
        a.currency::text, a.plan_name::text, a.status::text,
        (billing_data.standing(a)).paid_credits,
        a.free_uses_remaining, a.total_uses, a.ledger_version, a.marketing_opt_in,
        a.marketing_opt_in_at, a.marketing_opt_in_source::text, a.created_at, a.updated_at,
        h.last_charge_at, h.last_credit_at, h.total_charged, h.total_credited, h.charge_count,
        h.credit_count
    FROM billing_data.accounts AS a
    CROSS JOIN LATERAL billing_data.account_totals(a) AS h
    WHERE a.id = billing_data.surviving_account(p_account_id);
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
END
$$;
COMMENT ON FUNCTION billing.get_account_by_id IS
    'Reads one account by its id, with its totals. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.get_account_by_id TO billing_server, billing_dba;
