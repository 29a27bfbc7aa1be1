-- The entries of the ledger with who wrote them, as every reader of one account's books gets them.

-- What kind of writer an entry names: api_key, staff, database (a login), payment_provider, or
-- old_service for what was taken over and names nobody.
CREATE OR REPLACE FUNCTION billing_data.writer_kind(
    p_api_key_id uuid, p_admin_user_id uuid, p_payment_provider text, p_is_old boolean
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN p_api_key_id IS NOT NULL THEN 'api_key'
    WHEN p_admin_user_id IS NOT NULL THEN 'staff'
    WHEN p_payment_provider IS NOT NULL THEN 'payment_provider'
    WHEN p_is_old THEN 'old_service'
    ELSE 'database'
END;
COMMENT ON FUNCTION billing_data.writer_kind IS 'What kind of writer an entry names. Helper.';

-- The name of an entry's writer: an API key's name and first characters, a staff member's e-mail
-- address, a login, or a payment provider.
CREATE OR REPLACE FUNCTION billing_data.writer_name(
    p_key_name text, p_key_prefix text, p_email text, p_payment_provider text, p_database_role text
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(
    p_key_name || ' (' || p_key_prefix || ')', p_email, p_payment_provider, p_database_role
);
COMMENT ON FUNCTION billing_data.writer_name IS 'The name of an entry''s writer. Helper.';

-- The entries of an account whose ledger versions are above p_after and up to p_through: charges
-- and credits in one, each with what it changed, what it corrects (the charge or credit that it
-- reverses) or the transfer of which it is one side, its reason (what its writer said of it) and
-- its writer. It reads one range of each table's index of versions.
CREATE OR REPLACE FUNCTION billing_data.list_entries(
    p_account_id uuid, p_after bigint, p_through bigint
) RETURNS TABLE (
    ledger_version bigint,
    transaction_id uuid,
    type text,
    transaction_type text,
    paid_with text,
    amount_minor bigint,
    credits_change bigint,
    free_uses_change bigint,
    balance_after bigint,
    currency text,
    description text,
    created_at timestamptz,
    external_transaction_id text,
    message_id text,
    agent_id text,
    channel_id text,
    request_id text,
    corrects_id uuid,
    transfer_id uuid,
    writer_kind text,
    writer text
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT
        e.ledger_version, e.id, e.type, e.transaction_type, e.paid_with, e.amount_minor,
        e.credits_change, e.free_uses_change, e.balance_after, e.currency, e.description,
        e.created_at, e.external_transaction_id, e.message_id, e.agent_id, e.channel_id,
        e.request_id, e.corrects_id, e.transfer_id,
        billing_data.writer_kind(
            e.api_key_id, e.admin_user_id, e.payment_provider,
            billing_data.is_old_entry(e.id, e.database_role, e.request_fingerprint)
        ),
        billing_data.writer_name(
            k.name, k.key_prefix, u.email, e.payment_provider, e.database_role
        )
    FROM (
        SELECT
            c.ledger_version, c.id, 'charge' AS type, NULL AS transaction_type, c.paid_with,
            -c.amount_minor AS amount_minor,
            CASE c.paid_with WHEN 'free' THEN 0 ELSE -c.amount_minor END AS credits_change,
            CASE c.paid_with WHEN 'free' THEN -1 ELSE 0 END::bigint AS free_uses_change,
            c.balance_after, c.currency, c.description, c.created_at,
            NULL AS external_transaction_id, c.metadata_message_id AS message_id,
            c.metadata_agent_id AS agent_id, c.metadata_channel_id AS channel_id,
            c.metadata_request_id AS request_id,
            NULL::uuid AS corrects_id, NULL::uuid AS transfer_id, c.api_key_id, c.admin_user_id,
            NULL AS payment_provider, c.database_role, c.request_fingerprint
        FROM billing_data.charges AS c
        WHERE c.account_id = p_account_id
            AND c.ledger_version > p_after
            AND c.ledger_version <= p_through
            AND c.ledger_version > 0  -- the condition of the index
        UNION ALL
        SELECT
            c.ledger_version, c.id, 'credit', c.transaction_type, NULL, c.amount_minor,
            c.amount_minor, coalesce(c.free_uses, 0), c.balance_after, c.currency, c.description,
            c.created_at, c.external_transaction_id, NULL, NULL, NULL, NULL,
            coalesce(c.corrects_charge_id, c.corrects_credit_id), c.transfer_id,
            c.api_key_id, c.admin_user_id,
            c.payment_provider, c.database_role, c.request_fingerprint
        FROM billing_data.credits AS c
        WHERE c.account_id = p_account_id
            AND c.ledger_version > p_after
            AND c.ledger_version <= p_through
            AND c.ledger_version > 0  -- the condition of the index
    ) AS e
    LEFT JOIN billing_data.api_keys AS k ON k.id = e.api_key_id
    LEFT JOIN billing_data.admin_users AS u ON u.id = e.admin_user_id
$$;
COMMENT ON FUNCTION billing_data.list_entries IS
    'An account''s entries of a range of ledger versions, with their writers. Helper.';

-- The newest entry of an account that was written before p_before: its ledger version, 0 where
-- there is none. p_newest is the account's newest version. The order of the books is that of the
-- versions; the times of entries follow it, except where a clock was set back. A search by halves
-- finds the place one day later, and from there it goes back entry by entry. Therefore the answer
-- is exact unless a clock was set back by more than a day, and it reads no more than the entries of
-- a day.
CREATE OR REPLACE FUNCTION billing_data.version_before(
    p_account_id uuid, p_newest bigint, p_before timestamptz
) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_surely_after timestamptz := p_before + interval '1 day';
    v_low bigint := 0;
    v_high bigint := p_newest + 1;  -- entries from here on were written at or after p_before
    v_middle bigint;
    v_written_at timestamptz;
BEGIN
    WHILE v_high - v_low > 1 LOOP
        v_middle := v_low + (v_high - v_low) / 2;
        SELECT e.created_at INTO v_written_at
        FROM (
            SELECT c.created_at FROM billing_data.charges AS c
            WHERE c.account_id = p_account_id
                AND c.ledger_version = v_middle AND c.ledger_version > 0
            UNION ALL
            SELECT c.created_at FROM billing_data.credits AS c
            WHERE c.account_id = p_account_id
                AND c.ledger_version = v_middle AND c.ledger_version > 0
        ) AS e;
        IF v_written_at >= v_surely_after THEN
            v_high := v_middle;
        ELSE
            v_low := v_middle;
        END IF;
    END LOOP;
    RETURN greatest(
        0,
        (
            SELECT c.ledger_version FROM billing_data.charges AS c
            WHERE c.account_id = p_account_id AND c.ledger_version > 0
                AND c.ledger_version < v_high AND c.created_at < p_before
            ORDER BY c.ledger_version DESC
            LIMIT 1
        ),
        (
            SELECT c.ledger_version FROM billing_data.credits AS c
            WHERE c.account_id = p_account_id AND c.ledger_version > 0
                AND c.ledger_version < v_high AND c.created_at < p_before
            ORDER BY c.ledger_version DESC
            LIMIT 1
        )
    );
END
$$;
COMMENT ON FUNCTION billing_data.version_before IS
    'The ledger version of an account''s newest entry before a given time. Helper.';

-- When staff set an account's free uses, and from what to what. These are rows of the audit log and
-- no entries. ledger_version is that of the entry after which it was done; rows of earlier releases
-- do not have it, and are placed by their time.
CREATE OR REPLACE FUNCTION billing_data.list_free_use_sets(p_account_id uuid)
RETURNS TABLE (
    id uuid,
    ledger_version bigint,
    created_at timestamptz,
    before bigint,
    after bigint,
    reason text,
    admin_user_id uuid,
    writer text
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT
        l.id,
        coalesce(
            (l.changes ->> 'ledger_version')::bigint,
            billing_data.version_before(p_account_id, a.ledger_version, l.created_at)
        ),
        l.created_at, (l.changes ->> 'before')::bigint, (l.changes ->> 'after')::bigint, l.reason,
        l.admin_user_id,
        billing_data.writer_name(NULL, NULL, u.email, NULL, l.database_role)
    FROM billing_data.admin_audit_logs AS l
    INNER JOIN billing_data.accounts AS a ON a.id = p_account_id
    LEFT JOIN billing_data.admin_users AS u ON u.id = l.admin_user_id
    WHERE l.resource_type = 'account'
        AND l.resource_id = p_account_id::text
        AND l.action = 'account.reset_free_uses'
$$;
COMMENT ON FUNCTION billing_data.list_free_use_sets IS
    'When staff set an account''s free uses, with the entry before. Helper.';

-- The free uses that an account had after its entry p_version, with what staff set before p_before.
-- NULL for a version before its books begin. Charges and what staff set say how many were left;
-- credits that give free uses back, or take them, say by how many they changed.
CREATE OR REPLACE FUNCTION billing_data.free_uses_at(
    p_account_id uuid, p_version bigint, p_before timestamptz
) RETURNS bigint
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT l.free_uses + (
        SELECT coalesce(sum(c.free_uses), 0)::bigint FROM billing_data.credits AS c
        WHERE c.account_id = p_account_id AND c.ledger_version > 0
            AND c.ledger_version > l.ledger_version AND c.ledger_version <= p_version
    )
    FROM (
        SELECT
            coalesce(o.ledger_version, 0) AS ledger_version, 1 AS place, NULL::timestamptz AS at,
            coalesce(o.free_uses, a.free_uses_granted) AS free_uses
        FROM billing_data.accounts AS a
        LEFT JOIN billing_data.ledger_openings AS o ON o.account_id = a.id
        WHERE a.id = p_account_id AND coalesce(o.ledger_version, 0) <= p_version
        UNION ALL
        (
            SELECT c.ledger_version, 2, c.created_at, c.free_uses_after
            FROM billing_data.charges AS c
            WHERE c.account_id = p_account_id AND c.ledger_version > 0
                AND c.ledger_version <= p_version AND c.free_uses_after IS NOT NULL
            ORDER BY c.ledger_version DESC
            LIMIT 1
        )
        UNION ALL
        SELECT f.ledger_version, 3, f.created_at, f.after
        FROM billing_data.list_free_use_sets(p_account_id) AS f
        WHERE f.ledger_version < p_version
            OR (f.ledger_version = p_version AND f.created_at < p_before)
    ) AS l
    ORDER BY l.ledger_version DESC, l.place DESC, l.at DESC
    LIMIT 1
$$;
COMMENT ON FUNCTION billing_data.free_uses_at IS
    'The free uses that an account had at a place in its ledger. Helper.';

-- Finds one account by what a person has: its id (or that of an account that was merged into it),
-- its provider and external id with a colon between them, or its e-mail address, if it is the only
-- account that has it. Returns the account's id.
-- Errors: actor errors, invalid_argument (several accounts match), account_not_found.
-- Example: SELECT billing.find_account('oauth:google:1');
CREATE OR REPLACE FUNCTION billing.find_account(
    p_account text, p_session_hash bytea DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_ids uuid[];
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_length(
        p_account, 2 * billing_data.most('external_id') + 1, 'p_account'
    );
    IF billing_data.is_uuid(p_account) THEN
        SELECT array_agg(a.id) INTO v_ids
        FROM billing_data.accounts AS a
        WHERE a.id = billing_data.surviving_account(p_account::uuid);
    END IF;
    IF v_ids IS NULL THEN
        -- Providers and external ids may contain colons too: each colon may be the one between.
        SELECT array_agg(a.id) INTO v_ids
        FROM generate_series(2, length(p_account) - 1) AS n (place)
        INNER JOIN billing_data.accounts AS a
            ON a.oauth_provider = left(p_account, n.place - 1)
            AND a.external_id = substr(p_account, n.place + 1)
        WHERE substr(p_account, n.place, 1) = ':';
    END IF;
    IF v_ids IS NULL THEN
        SELECT array_agg(f.id) INTO v_ids
        FROM (
            SELECT a.id FROM billing_data.accounts AS a
            WHERE lower(a.customer_email) = lower(p_account)
            LIMIT 2
        ) AS f;
    END IF;
    IF v_ids IS NULL THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
    PERFORM billing_data.require(
        cardinality(v_ids) = 1, 'p_account',
        'several accounts match; give an account id or provider:external id'
    );
    RETURN v_ids[1];
END
$$;
COMMENT ON FUNCTION billing.find_account IS
    'Finds an account by id, provider:external id or e-mail address. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.find_account TO billing_server, billing_dba;

-- Who wrote an entry of the ledger, when and why: the charge or credit with this id, its account,
-- its writer and what its writer said, and for what staff or a DBA did also the row of the audit
-- log and the login behind it. Errors: actor errors, entry_not_found.
-- Example: SELECT * FROM billing.find_entry(p_transaction_id => '...');
CREATE OR REPLACE FUNCTION billing.find_entry(
    p_transaction_id uuid, p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    account_id uuid,
    ledger_version bigint,
    type text,
    transaction_type text,
    paid_with text,
    amount_minor bigint,
    balance_after bigint,
    created_at timestamptz,
    reason text,
    corrects_id uuid,
    transfer_id uuid,
    writer_kind text,
    writer text,
    api_key_id uuid,
    admin_user_id uuid,
    audit_id uuid,
    database_login text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    RETURN QUERY
    SELECT
        w.account_id, w.ledger_version, e.type, e.transaction_type, e.paid_with, e.amount_minor,
        e.balance_after, e.created_at, e.description, e.corrects_id,
        e.transfer_id, e.writer_kind, e.writer, w.api_key_id, w.admin_user_id, l.id,
        l.database_login
    FROM (
        SELECT c.account_id, c.ledger_version, c.api_key_id, c.admin_user_id
        FROM billing_data.charges AS c
        WHERE c.id = p_transaction_id
        UNION ALL
        SELECT c.account_id, c.ledger_version, c.api_key_id, c.admin_user_id
        FROM billing_data.credits AS c
        WHERE c.id = p_transaction_id
    ) AS w
    CROSS JOIN LATERAL billing_data.list_entries(
        w.account_id, w.ledger_version - 1, w.ledger_version
    ) AS e
    LEFT JOIN LATERAL (
        SELECT g.id, g.database_login
        FROM billing_data.admin_audit_logs AS g
        WHERE g.resource_type = 'account'
            AND g.resource_id = w.account_id::text
            AND g.changes ->> 'credit_id' = p_transaction_id::text
        ORDER BY g.created_at, g.id
        LIMIT 1
    ) AS l ON true;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error('entry_not_found');
    END IF;
END
$$;
COMMENT ON FUNCTION billing.find_entry IS
    'Tells who wrote a charge or credit, when and why. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.find_entry TO billing_server, billing_dba;
