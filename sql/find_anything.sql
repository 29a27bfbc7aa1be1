-- The one search of the console. Each kind of thing is found by an index, or in a table that is
-- small, and at most a few of each kind.

-- How many of the newest accounts are read for a part of an address or external id. All of them are
-- read by billing.list_accounts with p_match 'substring'.
CREATE OR REPLACE FUNCTION billing_data.accounts_searched() RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN 100000;
COMMENT ON FUNCTION billing_data.accounts_searched IS
    'How many of the newest accounts are searched for a part of a word. Helper.';

-- Accounts whose address or external id begins with a text, or, where none does, contains it.
CREATE OR REPLACE FUNCTION billing_data.search_accounts(p_search text, p_limit bigint)
RETURNS SETOF uuid
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_patterns text[] := billing_data.search_patterns(p_search, 'prefix');
    v_pattern text;
BEGIN
    -- One LIKE at a time: an index of prefixes can serve LIKE, but not LIKE ANY.
    FOREACH v_pattern IN ARRAY v_patterns LOOP
        RETURN QUERY EXECUTE
            'SELECT a.id FROM billing_data.accounts AS a'
            || ' WHERE lower(a.customer_email) LIKE $1 LIMIT $2' USING v_pattern, p_limit;
        RETURN QUERY EXECUTE
            'SELECT a.id FROM billing_data.accounts AS a'
            || ' WHERE lower(a.external_id) LIKE $1 LIMIT $2' USING v_pattern, p_limit;
    END LOOP;
END
$$;
COMMENT ON FUNCTION billing_data.search_accounts IS
    'Accounts whose address or external id begins with a text. Helper.';

CREATE OR REPLACE FUNCTION billing_data.search_newest_accounts(p_search text, p_limit bigint)
RETURNS SETOF uuid
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.id
    FROM (
        SELECT n.id, lower(n.customer_email) AS email, lower(n.external_id) AS external_id
        FROM billing_data.accounts AS n
        ORDER BY n.created_at DESC, n.id DESC
        LIMIT billing_data.accounts_searched()
    ) AS a
    -- A sub-query is executed once, a call in its place for every row.
    WHERE a.email LIKE ANY ((SELECT billing_data.search_patterns(p_search, 'substring'))::text[])
        OR a.external_id LIKE ANY (
            (SELECT billing_data.search_patterns(p_search, 'substring'))::text[]
        )
    LIMIT p_limit;
$$;
COMMENT ON FUNCTION billing_data.search_newest_accounts IS
    'The newest accounts whose address or external id contains a text. Helper.';

-- Things that have this id: an account, charge, credit, hold, API key or entry of the audit log.
CREATE OR REPLACE FUNCTION billing_data.search_ids(p_id uuid)
RETURNS TABLE (kind text, id text, name text, detail text, account_id uuid, at timestamptz)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT
        'charge', c.id::text, c.description, c.amount_minor || ' credits', c.account_id,
        c.created_at
    FROM billing_data.charges AS c
    WHERE c.id = p_id
    UNION ALL
    SELECT
        'credit', c.id::text, c.description,
        c.transaction_type || ', ' || c.amount_minor || ' credits', c.account_id, c.created_at
    FROM billing_data.credits AS c
    WHERE c.id = p_id
    UNION ALL
    SELECT
        'hold', h.id::text, h.description, h.state || ', ' || h.amount_minor || ' credits',
        h.account_id, h.created_at
    FROM billing_data.holds AS h
    WHERE h.id = p_id
    UNION ALL
    SELECT 'key', k.id::text, k.name, k.key_prefix || ', ' || k.status, NULL, k.created_at
    FROM billing_data.api_keys AS k
    WHERE k.id = p_id
    UNION ALL
    SELECT 'audit', l.id::text, l.action, l.reason, NULL, l.created_at
    FROM billing_data.admin_audit_logs AS l
    WHERE l.id = p_id;
$$;
COMMENT ON FUNCTION billing_data.search_ids IS 'Things that have an id. Helper.';

-- Things that have a text as their id at a payment provider, as their name or in their reason.
CREATE OR REPLACE FUNCTION billing_data.search_texts(p_search text, p_limit bigint)
RETURNS TABLE (kind text, id text, name text, detail text, account_id uuid, at timestamptz)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    (
        SELECT
            'payment', p.payment_id::text,
            billing_data.money_text(p.price_minor, p.currency), p.customer_email::text,
            p.account_id, p.created_at
        FROM billing_data.payment_providers AS v
        INNER JOIN billing_data.purchases AS p
            ON p.provider = v.kind AND p.payment_id = p_search
    )
    UNION ALL
    (
        SELECT
            'event', e.event_id::text, e.event_type::text, e.payment_id::text, e.account_id,
            e.received_at
        FROM billing_data.payment_providers AS v
        INNER JOIN billing_data.payment_events AS e
            ON e.provider = v.kind AND e.event_id = p_search
    )
    UNION ALL
    (
        SELECT 'key', k.id::text, k.name, k.key_prefix || ', ' || k.status, NULL, k.created_at
        FROM billing_data.api_keys AS k
        WHERE starts_with(k.key_prefix, p_search)
            OR starts_with(p_search, k.key_prefix)
            OR strpos(lower(k.name), lower(p_search)) > 0
        ORDER BY k.created_at DESC
        LIMIT p_limit
    )
    UNION ALL
    (
        SELECT 'staff', u.email::text, u.full_name, u.email || ', ' || u.role, NULL, u.created_at
        FROM billing_data.admin_users AS u
        WHERE strpos(lower(u.email), lower(p_search)) > 0
            OR strpos(lower(u.full_name), lower(p_search)) > 0
        ORDER BY u.email
        LIMIT p_limit
    )
    UNION ALL
    (
        SELECT 'audit', l.id::text, l.action, l.reason, NULL, l.created_at
        FROM billing_data.admin_audit_logs AS l
        WHERE to_tsvector('simple'::regconfig, l.reason) @@ to_tsquery(
            'simple'::regconfig, '''' || translate(p_search, chr(39) || chr(92), '  ') || ''':*'
        )
        ORDER BY l.created_at DESC
        LIMIT p_limit
    );
$$;
COMMENT ON FUNCTION billing_data.search_texts IS
    'Things that a text names, and entries of the audit log with its words. Helper.';

-- Finds what a person types, of every kind: accounts by the beginning of an e-mail address or
-- external id (where nothing at all is found so, by any part of one of the newest 100,000), or by
-- id, also of a merged account; charges, credits and holds by id; payments and events by the
-- provider's id; API keys by prefix or name; staff by address or name; entries of the audit log by
-- words of their reason, the last of which may be unfinished. At most p_limit of each kind. A text
-- of one letter finds nothing.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.search(p_search => 'ada@');
CREATE OR REPLACE FUNCTION billing.search(
    p_search text,
    p_limit bigint DEFAULT 10,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    kind text, id text, name text, detail text, account_id uuid, at timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_search text := btrim(p_search);
    v_ids uuid[];
    v_found boolean := false;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, 0, 100);
    PERFORM billing_data.require_short(v_search, 'p_search');
    IF coalesce(length(v_search), 0) < 2 THEN
        RETURN;
    END IF;
    v_ids := ARRAY(SELECT s.id FROM billing_data.search_accounts(v_search, p_limit) AS s (id));
    IF billing_data.is_uuid(v_search) THEN
        v_ids := v_ids || billing_data.surviving_account(v_search::uuid);
        RETURN QUERY SELECT s.* FROM billing_data.search_ids(v_search::uuid) AS s;
        v_found := FOUND;
    END IF;
    RETURN QUERY SELECT s.* FROM billing_data.search_texts(v_search, p_limit) AS s;
    v_found := v_found OR FOUND;
    IF NOT v_found AND cardinality(v_ids) = 0 THEN
        v_ids := ARRAY(
            SELECT s.id FROM billing_data.search_newest_accounts(v_search, p_limit) AS s (id)
        );
    END IF;
    RETURN QUERY
    SELECT
        'account', a.id::text, coalesce(a.customer_email, a.external_id)::text,
        a.oauth_provider || ' ' || a.external_id || ', ' || a.status, a.id, a.created_at
    FROM billing_data.accounts AS a
    WHERE a.id = ANY (v_ids)
    ORDER BY a.created_at DESC, a.id
    LIMIT p_limit;
END
$$;
COMMENT ON FUNCTION billing.search IS
    'Finds what a person types, of every kind. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.search TO billing_server, billing_dba;
