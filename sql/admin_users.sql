-- Staff. They sign in through the identity provider, so there is no password here.

-- Refuses to go on when nobody is an active administrator any more. The caller holds all of them.
CREATE OR REPLACE FUNCTION billing_data.require_an_admin() RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM billing_data.admin_users AS u WHERE u.role = 'admin' AND u.is_active
    ) THEN
        PERFORM billing_data.raise_error('last_admin');
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.require_an_admin IS
    'Raises last_admin when there is no active administrator. Helper.';

-- Adds a staff member, or changes the role and name of an existing one and reactivates them. The last
-- active administrator stays one.
-- Locks: all administrators. Writes: admin_users 1, admin_audit_logs 1. Errors: actor errors,
-- invalid_argument, last_admin.
-- Example: SELECT * FROM billing.add_admin(p_email => 'ada@example.com', p_role => 'admin');
CREATE OR REPLACE FUNCTION billing.add_admin(
    p_email text,
    p_full_name text DEFAULT NULL,
    p_role text DEFAULT 'viewer',
    p_reason text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    admin_user_id uuid, email text, full_name text, role text, is_active boolean,
    created_at timestamptz
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_email text := lower(p_email);
    v_domain text;
    v_before jsonb;
    v_after billing_data.admin_users;
BEGIN
    SELECT s.admin_email_domain INTO STRICT v_domain FROM billing_data.settings AS s;
    PERFORM billing_data.require(
        v_email ~ '^[^@[:space:]]+@[^@[:space:]]+$', 'p_email', 'it must be an e-mail address'
    );
    PERFORM billing_data.require_short(p_email, 'p_email');
    PERFORM billing_data.require_short(p_reason, 'p_reason');
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
    PERFORM FROM billing_data.admin_users AS u
    WHERE u.role = 'admin' OR u.email = v_email
    ORDER BY u.id
    FOR NO KEY UPDATE;
    SELECT jsonb_build_object('role', u.role, 'is_active', u.is_active) INTO v_before
    FROM billing_data.admin_users AS u
    WHERE u.email = v_email;
    INSERT INTO billing_data.admin_users AS u (email, full_name, role)
    VALUES (v_email, coalesce(p_full_name, split_part(v_email, '@', 1)), p_role)
    ON CONFLICT ON CONSTRAINT admin_users_email_key DO UPDATE
    SET role = excluded.role, full_name = coalesce(p_full_name, u.full_name), is_active = true
    RETURNING u.* INTO v_after;
    IF v_before @> '{"role": "admin", "is_active": true}' THEN
        PERFORM billing_data.require_an_admin();
    ELSIF v_before @> '{"is_active": false}' THEN
        DELETE FROM billing_data.admin_sessions AS s WHERE s.admin_user_id = v_after.id;
    END IF;
    PERFORM billing_data.write_audit(
        'admin.add', 'admin_user', v_after.id::text,
        jsonb_build_object(
            'email', v_email, 'role', v_after.role, 'before', v_before,
            'after', jsonb_build_object('role', v_after.role, 'is_active', true)
        ),
        p_reason, v_actor
    );
    RETURN QUERY SELECT
        v_after.id, v_after.email::text, v_after.full_name::text, v_after.role::text,
        v_after.is_active, v_after.created_at;
END
$$;
COMMENT ON FUNCTION billing.add_admin IS
    'Adds a staff member or changes their role. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.add_admin TO billing_server, billing_dba;

-- Changes a staff member's role, or whether they may sign in; NULL keeps. Whoever is deactivated is
-- out at once: their sessions end. The last active administrator stays one.
-- Locks: all administrators (so that two cannot remove each other). Writes: admin_users 0..1,
-- admin_sessions, admin_audit_logs 0..1. Errors: actor errors, invalid_argument, admin_not_found,
-- last_admin.
-- Example: SELECT * FROM billing.set_admin(p_email => 'ada@example.com', p_role => 'viewer',
--              p_reason => 'moved to another team');
CREATE OR REPLACE FUNCTION billing.set_admin(
    p_email text,
    p_reason text,
    p_role text DEFAULT NULL,
    p_is_active boolean DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    admin_user_id uuid, email text, full_name text, role text, is_active boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_before billing_data.admin_users;
    v_after billing_data.admin_users;
BEGIN
    PERFORM billing_data.require(
        p_role IS NULL OR p_role IN ('admin', 'viewer'), 'p_role', 'it must be admin or viewer'
    );
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require_short(p_email, 'p_email');
    PERFORM billing_data.require_durable_commit();
    PERFORM FROM billing_data.admin_users AS u
    WHERE u.role = 'admin' OR u.email = lower(p_email)
    ORDER BY u.id
    FOR NO KEY UPDATE;
    SELECT u.* INTO v_before FROM billing_data.admin_users AS u WHERE u.email = lower(p_email);
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error('admin_not_found', jsonb_build_object('email', p_email));
    END IF;
    UPDATE billing_data.admin_users AS u
    SET role = coalesce(p_role, u.role), is_active = coalesce(p_is_active, u.is_active)
    WHERE u.id = v_before.id
    RETURNING u.* INTO v_after;
    IF v_before.is_active AND v_before.role = 'admin' THEN
        PERFORM billing_data.require_an_admin();
    END IF;
    -- Tokens of who is deactivated are refused, and told so until they are over; coming back
    -- does not bring them back.
    IF v_before.is_active <> v_after.is_active THEN
        DELETE FROM billing_data.admin_sessions AS s
        WHERE s.admin_user_id = v_after.id AND (v_after.is_active OR s.kind = 'browser');
    END IF;
    IF (v_before.role, v_before.is_active) <> (v_after.role, v_after.is_active) THEN
        PERFORM billing_data.write_audit(
            'admin.set', 'admin_user', v_after.id::text,
            jsonb_build_object(
                'email', v_after.email,
                'before', jsonb_build_object('role', v_before.role, 'is_active', v_before.is_active),
                'after', jsonb_build_object('role', v_after.role, 'is_active', v_after.is_active)
            ),
            p_reason, v_actor
        );
    END IF;
    RETURN QUERY SELECT
        v_after.id, v_after.email::text, v_after.full_name::text, v_after.role::text,
        v_after.is_active;
END
$$;
COMMENT ON FUNCTION billing.set_admin IS
    'Changes a staff member''s role or deactivates them. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.set_admin TO billing_server, billing_dba;

-- Lists staff by e-mail. Errors: actor errors. Example: SELECT * FROM billing.list_admins();
CREATE OR REPLACE FUNCTION billing.list_admins(p_session_hash bytea DEFAULT NULL)
RETURNS TABLE (
    admin_user_id uuid, email text, full_name text, role text, is_active boolean,
    created_at timestamptz, last_login_at timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    RETURN QUERY
    SELECT
        u.id, u.email::text, u.full_name::text, u.role::text, u.is_active, u.created_at,
        u.last_login_at
    FROM billing_data.admin_users AS u
    ORDER BY u.email;
END
$$;
COMMENT ON FUNCTION billing.list_admins IS
    'Lists staff with role and last sign-in. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_admins TO billing_server, billing_dba;

-- Reads one active staff member by e-mail. Not for the web tier, which could learn from it who is
-- staff. Errors: admin_not_found.
-- Example: SELECT * FROM billing.get_admin(p_email => 'ada@example.com');
CREATE OR REPLACE FUNCTION billing.get_admin(p_email text)
RETURNS TABLE (admin_user_id uuid, email text, full_name text, role text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require_short(p_email, 'p_email');
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
    'Reads one active staff member by e-mail. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.get_admin TO billing_dba;
