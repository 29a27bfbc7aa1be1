-- An account's history, newest first over charges and credits. An account's ledger versions are
-- 1, 2, 3 ... without a gap, so its newest version is the number of its rows, and a page is one
-- range of versions: its cost does not grow with the offset.
-- Gives one row a transaction; where the page is empty, one row with only total_count (0 for an
-- unknown account). Errors: actor and key errors, invalid_argument.
-- Example: SELECT * FROM billing.list_transactions(p_oauth_provider => 'oauth:google',
--              p_external_id => '1', p_limit => 10);
CREATE OR REPLACE FUNCTION billing.list_transactions(
    p_oauth_provider text,
    p_external_id text,
    p_limit bigint DEFAULT 50,
    p_offset bigint DEFAULT 0,
    p_api_key_id uuid DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    total_count bigint,
    transaction_id uuid,
    type text,
    amount_minor bigint,
    currency text,
    description text,
    created_at timestamptz,
    balance_after bigint,
    transaction_type text,
    external_transaction_id text,
    metadata_message_id text,
    metadata_agent_id text,
    metadata_channel_id text,
    metadata_request_id text,
    paid_with text,
    ledger_version bigint
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_account_id uuid;
    v_newest bigint;
BEGIN
    PERFORM billing_data.authorize(p_api_key_id, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, p_offset, 500);
    SELECT a.id, a.ledger_version INTO v_account_id, v_newest
    FROM billing_data.accounts AS a
    WHERE a.oauth_provider = p_oauth_provider AND a.external_id = p_external_id;
    IF NOT FOUND OR p_limit = 0 OR p_offset >= v_newest THEN
        total_count := coalesce(v_newest, 0);
        RETURN NEXT;
        RETURN;
    END IF;
    RETURN QUERY
    SELECT
        v_newest, e.id, e.type, e.amount_minor, e.currency::text, e.description::text,
        e.created_at, e.balance_after, e.transaction_type::text, e.external_transaction_id::text,
        e.message_id::text, e.agent_id::text, e.channel_id::text, e.request_id::text, e.paid_with,
        e.ledger_version
    FROM (
        SELECT
            c.id, 'charge' AS type, -c.amount_minor AS amount_minor, c.currency, c.description,
            c.created_at, c.balance_after, NULL AS transaction_type,
            NULL AS external_transaction_id, c.metadata_message_id AS message_id,
            c.metadata_agent_id AS agent_id, c.metadata_channel_id AS channel_id,
            c.metadata_request_id AS request_id, c.paid_with, c.ledger_version
        FROM billing_data.charges AS c
        WHERE c.account_id = v_account_id
            AND c.ledger_version <= v_newest - p_offset
            AND c.ledger_version > v_newest - p_offset - p_limit
            AND c.ledger_version > 0  -- what the index states
        UNION ALL
        SELECT
            c.id, 'credit', c.amount_minor, c.currency, c.description, c.created_at,
            c.balance_after, c.transaction_type, c.external_transaction_id, NULL, NULL, NULL,
            NULL, NULL, c.ledger_version
        FROM billing_data.credits AS c
        WHERE c.account_id = v_account_id
            AND c.ledger_version <= v_newest - p_offset
            AND c.ledger_version > v_newest - p_offset - p_limit
            AND c.ledger_version > 0  -- what the index states
    ) AS e
    ORDER BY e.ledger_version DESC;
END
$$;
COMMENT ON FUNCTION billing.list_transactions IS
    'Lists an account''s charges and credits, newest first. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_transactions TO billing_server, billing_dba;
