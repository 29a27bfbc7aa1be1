-- Waits until no other transaction holds the lock of this name, and holds it until the end of this
-- transaction.
-- Locks: the row of billing_data.locks.
CREATE OR REPLACE FUNCTION billing_data.take_lock(p_name text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM billing_data.locks AS l WHERE l.name = p_name FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'billing_data.locks has no row %', p_name;
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.take_lock IS
    'Takes the lock of this name for the rest of the transaction. Helper.';
