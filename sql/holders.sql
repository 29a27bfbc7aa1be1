-- Which transactions hold accounts.

-- Who holds these accounts, named by their identities or by holds of theirs. NULL: all are free;
-- 'others' when a session that is not the service's holds one; otherwise the numbers of the
-- service's transactions that hold them. The service's sessions are recognized by their
-- application_name, whichever server they belong to. Their calls are short and take turns, so a
-- caller that waits for them gets through. A caller that waits for another session's transaction,
-- or for a long time for one and the same transaction, may have to be refused. An account that is
-- being created right now is not visible yet and counts as held by others.
-- Locks: the accounts that are free, to the end of the transaction. It waits 50 ms at most, where a
-- row was updated meanwhile. Writes: nothing. Errors: 55P03 when it would have to wait longer.
-- Example: SELECT billing.get_account_holders(p_oauth_providers => ARRAY['oauth:google'],
--              p_external_ids => ARRAY['1']);
CREATE OR REPLACE FUNCTION billing.get_account_holders(
    p_oauth_providers text[], p_external_ids text[], p_hold_ids uuid[] DEFAULT '{}'
) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '50ms'
AS $$
DECLARE
    v_accounts uuid[];
    v_free uuid[];
    v_holders text;
BEGIN
    PERFORM billing_data.require_same_length(
        ARRAY[cardinality(p_oauth_providers), cardinality(p_external_ids)], '{}',
        ARRAY[array_dims(p_oauth_providers), array_dims(p_external_ids)]
    );
    PERFORM billing_data.require_list(
        array_dims(p_hold_ids), cardinality(p_hold_ids), 'p_hold_ids'
    );
    v_accounts := ARRAY(
        SELECT billing_data.account_of_identity(i.oauth_provider, i.external_id)
        FROM unnest(p_oauth_providers, p_external_ids) AS i (oauth_provider, external_id)
        UNION ALL
        SELECT billing_data.surviving_account(h.account_id)
        FROM billing_data.holds AS h
        WHERE h.id = ANY (p_hold_ids)
    );
    v_free := ARRAY(
        SELECT a.id
        FROM billing_data.accounts AS a
        WHERE a.id = ANY (v_accounts)
        ORDER BY a.id
        FOR NO KEY UPDATE SKIP LOCKED
    );
    SELECT
        CASE
            WHEN bool_or(s.pid IS NULL) THEN 'others'
            ELSE string_agg(DISTINCT a.xmax::text, ' ' ORDER BY a.xmax::text)
        END
    INTO v_holders
    FROM unnest(v_accounts) AS i (account_id)
    LEFT JOIN billing_data.accounts AS a ON a.id = i.account_id
    LEFT JOIN pg_catalog.pg_locks AS l
        ON l.locktype = 'transactionid' AND l.transactionid = a.xmax AND l.granted
    LEFT JOIN pg_catalog.pg_stat_activity AS s
        ON s.pid = l.pid AND s.application_name = 'ciris-billing'
    WHERE (a.id = ANY (v_free)) IS NOT TRUE;
    RETURN v_holders;
END
$$;
COMMENT ON FUNCTION billing.get_account_holders IS
    'Tells who holds accounts: nobody, the service''s transactions, or others. '
    'For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.get_account_holders TO billing_server, billing_dba;
