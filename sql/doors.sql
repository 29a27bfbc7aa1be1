-- Lists what PUBLIC may do in this database, and what our logins may use up, beyond their need.
-- Each row has the SQL statement that ends it. `ciris-billing migrate` runs the statements that
-- concern this database and its logins (is_ours), as far as its own login may, and reports the
-- rest. Only a superuser can revoke from PUBLIC the functions of advisory locks, large objects and
-- transaction numbers; with them, any login could fill the lock table that all sessions of the
-- cluster share. A limit or time-out that somebody has set for a login is kept.
-- Errors: actor_required.
-- Example: SELECT * FROM billing.list_open_doors();
CREATE OR REPLACE FUNCTION billing.list_open_doors()
RETURNS TABLE (door text, mend text, is_ours boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET quote_all_identifiers = off
AS $$
DECLARE
    v_database record;
    v_most integer := current_setting('max_connections')::integer;
BEGIN
    PERFORM billing_data.caller_role();
    SELECT d.oid, d.datname, coalesce(d.datacl, acldefault('d', d.datdba)) AS acl
    INTO STRICT v_database
    FROM pg_database AS d
    WHERE d.datname = current_database();

    -- First those that need access: the roles, and logins that do not inherit from them.
    RETURN QUERY
    SELECT
        format('%s needs CONNECT of its own', r.rolname),
        format('GRANT CONNECT ON DATABASE %I TO %I', v_database.datname, r.rolname), true
    FROM pg_roles AS r
    WHERE NOT r.rolsuper
        AND (
            r.rolname IN ('billing_server', 'billing_dba', 'billing_analyst')
            OR r.rolname = session_user
            OR (
                r.rolcanlogin AND (
                    pg_has_role(r.oid, 'billing_server', 'MEMBER')
                    OR pg_has_role(r.oid, 'billing_dba', 'MEMBER')
                    OR pg_has_role(r.oid, 'billing_analyst', 'MEMBER')
                )
            )
        )
        AND NOT EXISTS (
            SELECT FROM aclexplode(v_database.acl) AS a
            WHERE a.privilege_type = 'CONNECT'
                AND a.grantee <> 0
                AND pg_has_role(r.oid, a.grantee, 'USAGE')
        )
    ORDER BY r.rolcanlogin, r.rolname;

    -- What a DBA needs to see who waits for whom, and to count calls of functions in a session.
    RETURN QUERY
    SELECT 'billing_dba cannot see what other sessions do', 'GRANT pg_monitor TO billing_dba', true
    WHERE NOT pg_has_role('billing_dba', 'pg_monitor', 'USAGE')
    UNION ALL
    SELECT
        'billing_dba cannot count calls of functions',
        'GRANT SET ON PARAMETER track_functions TO billing_dba', true
    WHERE NOT has_parameter_privilege('billing_dba', 'track_functions', 'SET');

    RETURN QUERY
    SELECT
        format('everybody has %s', string_agg(a.privilege_type, ' and ' ORDER BY a.privilege_type)),
        format(
            'REVOKE %s ON DATABASE %I FROM PUBLIC',
            string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type), v_database.datname
        ),
        true
    FROM aclexplode(v_database.acl) AS a
    WHERE a.grantee = 0
    HAVING count(*) > 0;
    RETURN QUERY
    SELECT
        'everybody may create in schema public', 'REVOKE CREATE ON SCHEMA public FROM PUBLIC',
        true
    FROM pg_namespace AS n
    CROSS JOIN LATERAL aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a
    WHERE n.nspname = 'public' AND a.grantee = 0 AND a.privilege_type = 'CREATE';

    RETURN QUERY
    SELECT
        'billing_owner needs pg_current_xact_id of its own',
        'GRANT EXECUTE ON FUNCTION pg_catalog.pg_current_xact_id() TO billing_owner', true
    FROM pg_proc AS p
    WHERE p.oid = 'pg_current_xact_id()'::regprocedure
        AND NOT EXISTS (
            SELECT FROM aclexplode(p.proacl) AS a WHERE a.grantee = 'billing_owner'::regrole
        );
    RETURN QUERY
    SELECT
        format('everybody may use %s', k.kind),
        format(
            'REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC',
            string_agg(
                format(
                    'pg_catalog.%I(%s)', p.proname, pg_get_function_identity_arguments(p.oid)
                ),
                ', ' ORDER BY p.oid
            )
        ),
        true
    FROM (
        -- The functions that release a lock stay public: they do no harm, and drivers call them.
        VALUES ('advisory locks', '^pg_(try_)?advisory_(xact_)?lock'),
        ('large objects', '^lo(_|read|write)'),
        ('transaction numbers', '^(txid_current|pg_current_xact_id)$')
    ) AS k (kind, names)
    INNER JOIN pg_proc AS p ON p.proname ~ k.names
    WHERE p.pronamespace = 'pg_catalog'::regnamespace
        AND EXISTS (
            SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
            WHERE a.grantee = 0
        )
    GROUP BY k.kind
    ORDER BY k.kind;

    RETURN QUERY
    WITH limits (role, connections, setting, value) AS (
        VALUES ('billing_server', 0.8, 'statement_timeout', '30s'),
        ('billing_server', 0.8, 'lock_timeout', '5s'),
        ('billing_server', 0.8, 'idle_in_transaction_session_timeout', '30s'),
        ('billing_server', 0.8, 'transaction_timeout', '1min'),
        ('billing_dba', 0.2, 'statement_timeout', '1h'),
        ('billing_dba', 0.2, 'lock_timeout', '10s'),
        ('billing_dba', 0.2, 'idle_in_transaction_session_timeout', '10min'),
        ('billing_analyst', 0.1, 'statement_timeout', '5min'),
        ('billing_analyst', 0.1, 'lock_timeout', '5s'),
        ('billing_analyst', 0.1, 'idle_in_transaction_session_timeout', '1min'),
        ('billing_analyst', 0.1, 'transaction_timeout', '10min')
    ),
    logins AS (
        -- A login with several roles gets the limits of the strongest one.
        SELECT
            r.oid, r.rolname, r.rolconnlimit,
            CASE
                WHEN pg_has_role(r.oid, 'billing_dba', 'MEMBER') THEN 'billing_dba'
                WHEN pg_has_role(r.oid, 'billing_server', 'MEMBER') THEN 'billing_server'
                WHEN pg_has_role(r.oid, 'billing_analyst', 'MEMBER') THEN 'billing_analyst'
            END AS role
        FROM pg_roles AS r
        WHERE r.rolcanlogin
            AND NOT r.rolsuper
            -- A login that migrates has no time-out.
            AND NOT pg_has_role(r.oid, 'billing_owner', 'MEMBER')
    )
    SELECT DISTINCT
        format('%s may use up all connections', g.rolname),
        format(
            'ALTER ROLE %I CONNECTION LIMIT %s',
            g.rolname, greatest(5, floor(v_most * t.connections))
        ),
        true
    FROM logins AS g
    INNER JOIN limits AS t ON t.role = g.role
    WHERE g.rolconnlimit = -1
    UNION ALL
    SELECT
        format('%s has no %s', g.rolname, t.setting),
        format(
            'ALTER ROLE %I IN DATABASE %I SET %I = %L', g.rolname, v_database.datname, t.setting,
            t.value
        ),
        true
    FROM logins AS g
    INNER JOIN limits AS t ON t.role = g.role
    INNER JOIN pg_settings AS k ON k.name = t.setting  -- some PostgreSQL versions lack one
    WHERE NOT EXISTS (
        SELECT
        FROM pg_db_role_setting AS s
        CROSS JOIN LATERAL unnest(s.setconfig) AS c (setting)
        WHERE s.setrole = g.oid
            AND s.setdatabase IN (0, v_database.oid)
            AND starts_with(c.setting, t.setting || '=')
    )
    ORDER BY 1;

    RETURN QUERY
    SELECT
        format(
            'everybody may connect to %s, and use up the cluster''s locks from there', d.datname
        ),
        format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', d.datname), false
    FROM pg_database AS d
    CROSS JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS a
    WHERE d.datallowconn
        AND d.oid <> v_database.oid
        AND a.grantee = 0
        AND a.privilege_type = 'CONNECT'
    ORDER BY 1;
END
$$;
COMMENT ON FUNCTION billing.list_open_doors IS
    'Lists what logins may do or use up and need not, each with its remedy. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_open_doors TO billing_dba;
