-- Staff. They sign in through the identity provider, so there is no password here.

-- Adds a staff member, or changes the role and name of an existing one and reactivates them.
-- Writes: admin_users 1, admin_audit_logs 1. Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.add_admin(p_email => 'ada@example.com', p_role => 'admin');
CREATE OR REPLACE FUNCTION billing.add_admin(
    p_email text,
    p_full_name text DEFAULT NULL,
    p_role text DEFAULT 'viewer',
    p_admin_user_id uuid DEFAULT NULL
) RETURNS TABLE (
    admin_user_id uuid, email text, full_name text, role text, is_active boolean,
    created_at timestamptz
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_caller text := billing_data.authorize(NULL, p_admin_user_id, 'billing:write');
    v_email text := lower(p_email);
    v_domain text;
    v_id uuid;
BEGIN
    SELECT s.admin_email_domain INTO STRICT v_domain FROM billing_data.settings AS s;
    PERFORM billing_data.require(
        v_email ~ '^[^@\s]+@[^@\s]+$' AND length(v_email) <= 255,
        'p_email', 'it must be an e-mail address'
    );
    PERFORM billing_data.require(
        split_part(v_email, '@', 2) = lower(v_domain),
        'p_email', format('only addresses at %s are allowed', v_domain)
    );
    PERFORM billing_data.require(
        p_role IN ('admin', 'viewer'), 'p_role', 'it must be admin or viewer'
    );
    PERFORM billing_data.require(
        p_full_name IS NULL OR length(p_full_name) BETWEEN 1 AND 255,
        'p_full_name', 'it must have 1 to 255 characters'
    );
    PERFORM billing_data.require_durable_commit();
    INSERT INTO billing_data.admin_users AS u (email, full_name, role)
    VALUES (v_email, coalesce(p_full_name, split_part(v_email, '@', 1)), p_role)
    ON CONFLICT ON CONSTRAINT admin_users_email_key DO UPDATE
    SET role = excluded.role, full_name = coalesce(p_full_name, u.full_name), is_active = true
    RETURNING u.id INTO v_id;
    PERFORM billing_data.write_audit(
        'admin.add', 'admin_user', v_id::text, jsonb_build_object('role', p_role), NULL,
        p_admin_user_id, v_caller
    );
    RETURN QUERY
    SELECT u.id, u.email::text, u.full_name::text, u.role::text, u.is_active, u.created_at
    FROM billing_data.admin_users AS u
    WHERE u.id = v_id;
END
$$;
COMMENT ON FUNCTION billing.add_admin IS
    'Adds a staff member or changes their role. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.add_admin TO billing_server, billing_dba;

-- Lists staff by e-mail. Example: SELECT * FROM billing.list_admins();
CREATE OR REPLACE FUNCTION billing.list_admins()
RETURNS TABLE (
    admin_user_id uuid, email text, full_name text, role text, is_active boolean,
    created_at timestamptz, last_login_at timestamptz
)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT
        u.id, u.email::text, u.full_name::text, u.role::text, u.is_active, u.created_at,
        u.last_login_at
    FROM billing_data.admin_users AS u
    ORDER BY u.email;
END;
COMMENT ON FUNCTION billing.list_admins IS
    'Lists staff with role and last sign-in. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_admins TO billing_server, billing_dba;

-- Reads one active staff member by e-mail. Errors: admin_not_found.
-- Example: SELECT * FROM billing.get_admin(p_email => 'ada@example.com');
CREATE OR REPLACE FUNCTION billing.get_admin(p_email text)
RETURNS TABLE (admin_user_id uuid, email text, full_name text, role text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT u.id, u.email::text, u.full_name::text, u.role::text
    FROM billing_data.admin_users AS u
    WHERE u.email = lower(p_email) AND u.is_active;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error('admin_not_found', jsonb_build_object('email', p_email));
    END IF;
END
$$;
COMMENT ON FUNCTION billing.get_admin IS
    'Reads one active staff member by e-mail. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.get_admin TO billing_server, billing_dba;
