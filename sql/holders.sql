-- Who holds an account.

-- Whether somebody else than the service holds an account: the service's sessions are known by their
-- application_name, whichever server they belong to. Their calls are short and take turns, so whoever
-- waits for them gets through; whoever waits for another's transaction may have to be refused. An
-- account that is being created right now, and is not to be seen yet, counts as held by others.
-- Locks: the account if it is free, to the end of the transaction; it waits 50 ms at most, where a
-- row was replaced meanwhile. Writes: nothing. Errors: 55P03 when it would have waited longer.
-- Example: SELECT billing.is_held_by_others(p_oauth_provider => 'oauth:google', p_external_id => '1');
CREATE OR REPLACE FUNCTION billing.is_held_by_others(p_oauth_provider text, p_external_id text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '50ms'
AS $$
DECLARE
    v_holder xid;
BEGIN
    PERFORM a.id
    FROM billing_data.accounts AS a
    WHERE a.oauth_provider = p_oauth_provider AND a.external_id = p_external_id
    FOR NO KEY UPDATE SKIP LOCKED;
    IF FOUND THEN
        RETURN false;
    END IF;
    SELECT a.xmax INTO v_holder
    FROM billing_data.accounts AS a
    WHERE a.oauth_provider = p_oauth_provider AND a.external_id = p_external_id;
    RETURN NOT EXISTS (
        SELECT FROM pg_catalog.pg_locks AS l
        INNER JOIN pg_catalog.pg_stat_activity AS s ON s.pid = l.pid
        WHERE l.locktype = 'transactionid' AND l.transactionid = v_holder AND l.granted
            AND s.application_name = 'ciris-billing'
    );
END
$$;
COMMENT ON FUNCTION billing.is_held_by_others IS
    'Tells whether somebody else than the service holds an account. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.is_held_by_others TO billing_server, billing_dba;
