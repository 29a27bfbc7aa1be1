SET LOCAL lock_timeout = '1s';

DROP SCHEMA IF EXISTS billing CASCADE;
DROP TABLE billing_data.locks;

-- The functions of the release before take advisory locks; the newer release took that right from
-- everybody where it could (docs/dba.md).
DO $advisory$
DECLARE
    v_function regprocedure;
BEGIN
    FOR v_function IN
        SELECT p.oid::regprocedure
        FROM pg_catalog.pg_proc AS p
        WHERE p.pronamespace = 'pg_catalog'::regnamespace
            AND p.proname IN (
                'pg_advisory_xact_lock', 'pg_try_advisory_xact_lock', 'pg_advisory_lock'
            )
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', v_function);
    END LOOP;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'a superuser may have to grant EXECUTE on pg_advisory_xact_lock to'
            ' billing_owner';
END
$advisory$;
