-- The cursor of a page of an account's history, as clients carry it: the account and the ledger
-- version of the page's first row, 24 bytes in 32 characters that may stand in a URL.
CREATE OR REPLACE FUNCTION billing_data.history_cursor(p_account_id uuid, p_version bigint)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN translate(encode(uuid_send(p_account_id) || int8send(p_version), 'base64'), '+/', '-_');
COMMENT ON FUNCTION billing_data.history_cursor IS
    'The cursor of a page of an account''s history, as clients carry it. Helper.';

-- The ledger version in a cursor. Errors: invalid_argument unless billing_data.history_cursor made
-- it of this account, which has p_newest versions.
CREATE OR REPLACE FUNCTION billing_data.version_of_cursor(
    p_cursor text, p_account_id uuid, p_newest bigint
) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_bytes bytea := CASE
        WHEN p_cursor ~ '^[A-Za-z0-9_-]{32}$' THEN decode(translate(p_cursor, '-_', '+/'), 'base64')
    END;
    v_version bigint := ('x' || encode(substr(v_bytes, 17), 'hex'))::bit(64)::bigint;
BEGIN
    PERFORM billing_data.require(
        substr(v_bytes, 1, 16) = uuid_send(p_account_id) AND v_version BETWEEN 1 AND p_newest,
        'p_cursor', 'it must be a next_cursor of this account''s history'
    );
    RETURN v_version;
END
$$;
COMMENT ON FUNCTION billing_data.version_of_cursor IS
    'The ledger version in a cursor of an account''s history. Helper.';

-- An account's history: charges and credits, newest first. An account's ledger versions are 1, 2, 3
-- ... without a gap, so its newest version is the number of its rows, and a page is one range of
-- versions. Therefore the cost of a page does not grow with the offset, nor with the distance of a
-- cursor. Each row has the cursor of the page after its own; it is NULL on the last page. Rows that
-- are added while a client follows the cursors do not shift its pages. A cursor cannot be combined
-- with an offset.
-- Each row says which entry it corrects (corrects_id) and how much of it has been reversed.
-- writer_kind and writer say who wrote an entry; agents are not told the writer.
-- Returns one row for each transaction. An empty page is one row with only total_count (0 for an
-- unknown account) and next_cursor.
-- Errors: actor and key errors, invalid_argument.
-- Example: SELECT * FROM billing.list_transactions(p_oauth_provider => 'oauth:google',
--              p_external_id => '1', p_limit => 10);
CREATE OR REPLACE FUNCTION billing.list_transactions(
    p_oauth_provider text,
    p_external_id text,
    p_limit bigint DEFAULT 50,
    p_offset bigint DEFAULT 0,
    p_api_key_id uuid DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL,
    p_cursor text DEFAULT NULL
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
    ledger_version bigint,
    next_cursor text,
    free_uses_change bigint,
    corrects_id uuid,
    transfer_id uuid,
    reversed_minor bigint,
    writer_kind text,
    writer text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_account_id uuid;
    v_newest bigint;
    v_first bigint;  -- the page has the versions above v_beyond, up to v_first
    v_beyond bigint;
BEGIN
    PERFORM billing_data.authorize(p_api_key_id, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, p_offset, 500);
    SELECT a.id, a.ledger_version INTO v_account_id, v_newest
    FROM billing_data.accounts AS a
    WHERE a.id = billing_data.account_of_identity(p_oauth_provider, p_external_id);
    total_count := coalesce(v_newest, 0);
    v_first := greatest(total_count - p_offset, 0);
    IF p_cursor IS NOT NULL THEN
        PERFORM billing_data.require(p_offset = 0, 'p_offset', 'it must be 0 beside a cursor');
        v_first := billing_data.version_of_cursor(p_cursor, v_account_id, v_newest);
    END IF;
    v_beyond := v_first - p_limit;
    IF v_beyond > 0 THEN
        next_cursor := billing_data.history_cursor(v_account_id, v_beyond);
    END IF;
    IF v_first = 0 OR p_limit = 0 THEN
        RETURN NEXT;
        RETURN;
    END IF;
    RETURN QUERY
    SELECT
        v_newest, e.transaction_id, e.type, e.amount_minor, e.currency, e.description,
        e.created_at, e.balance_after, e.transaction_type, e.external_transaction_id,
        e.message_id, e.agent_id, e.channel_id, e.request_id, e.paid_with, e.ledger_version,
        list_transactions.next_cursor, e.free_uses_change, e.corrects_id, e.transfer_id,
        coalesce(r.reversed_minor, 0), e.writer_kind,
        CASE WHEN p_api_key_id IS NULL THEN e.writer END
    FROM billing_data.list_entries(v_account_id, v_beyond, v_first) AS e
    LEFT JOIN billing_data.reversed_entries AS r ON r.entry_id = e.transaction_id
    ORDER BY e.ledger_version DESC;
END
$$;
COMMENT ON FUNCTION billing.list_transactions IS
    'Lists an account''s charges and credits, newest first. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_transactions TO billing_server, billing_dba;
