-- Health: can this database take a charge now?

-- Takes everything that a charge takes except an account: a transaction number with its lock, and
-- the locks of the tables and of all their indexes. It matches no row, so it delays nobody and
-- writes nothing. It waits for a table's lock for 100 ms at most. When this call succeeds, charges
-- can be expected to succeed.
-- Locks: accounts and charges, both ROW EXCLUSIVE, to the end of the transaction. Writes: nothing.
-- Errors: PostgreSQL's own: 25006 when the database is read-only, 53200 when no lock is left, 55P03
-- when another session holds a table.
-- Example: SELECT billing.try_writing();
CREATE OR REPLACE FUNCTION billing.try_writing() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $$
BEGIN
    PERFORM pg_current_xact_id();
    UPDATE billing_data.accounts AS a SET updated_at = a.updated_at WHERE false;
    INSERT INTO billing_data.charges (id) SELECT NULL::uuid WHERE false;
END
$$;
COMMENT ON FUNCTION billing.try_writing IS
    'Takes the locks a charge takes, but no account''s, and writes nothing. '
    'For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.try_writing TO billing_server, billing_dba;
