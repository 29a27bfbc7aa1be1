-- Lists what can be called, from the catalogue itself, so that the list is always up to date.
-- Example: SELECT * FROM billing.help('charge');
CREATE OR REPLACE FUNCTION billing.help(p_search text DEFAULT '')
RETURNS TABLE (name text, what_it_does text, arguments text, returns text)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET quote_all_identifiers = off
BEGIN ATOMIC
    SELECT
        'billing.' || p.proname::text,
        obj_description(p.oid, 'pg_proc'),
        pg_get_function_arguments(p.oid),
        pg_get_function_result(p.oid)
    FROM pg_catalog.pg_proc AS p
    WHERE p.pronamespace = 'billing'::regnamespace
        AND (p.proname::text || ' ' || coalesce(obj_description(p.oid, 'pg_proc'), ''))
        ILIKE '%' || p_search || '%'
    UNION ALL
    SELECT 'billing.' || c.relname::text, obj_description(c.oid, 'pg_class'), NULL, 'view'
    FROM pg_catalog.pg_class AS c
    WHERE c.relnamespace = 'billing'::regnamespace AND c.relkind = 'v'
        AND (c.relname::text || ' ' || coalesce(obj_description(c.oid, 'pg_class'), ''))
        ILIKE '%' || p_search || '%'
    ORDER BY 4 DESC, 1;
END;
COMMENT ON FUNCTION billing.help IS
    'Lists every function and view with what it does and its arguments. '
    'For everybody with a billing role.';
GRANT EXECUTE ON FUNCTION billing.help TO billing_server, billing_dba, billing_analyst;
