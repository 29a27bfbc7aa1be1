-- Staff. They sign in through the identity provider, so no password is stored here.

-- Refuses the change when no active administrator would be left. The caller has locked all
-- administrators.
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

-- Invites a staff member for seven days. The first account of the identity provider that signs in
-- under the staff member's address is bound to them from then on. With p_anew the account bound
-- before is forgotten, and their open sessions and tokens end, so that nobody who came in before
-- under that address keeps access.
-- Writes: admin_users 1, admin_sessions.
CREATE OR REPLACE FUNCTION billing_data.open_invitation(p_admin_user_id uuid, p_anew boolean)
RETURNS timestamptz
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_until timestamptz := clock_timestamp() + interval '7 days';
BEGIN
    UPDATE billing_data.admin_users AS u
    SET google_id = CASE WHEN NOT p_anew THEN u.google_id END, invited_until = v_until
    WHERE u.id = p_admin_user_id;
    DELETE FROM billing_data.admin_sessions AS s
    WHERE s.admin_user_id = p_admin_user_id AND p_anew;
    RETURN v_until;
END
$$;
COMMENT ON FUNCTION billing_data.open_invitation IS
    'Lets a staff member''s next sign-in decide which account is theirs. Helper.';

-- Adds a staff member, or changes the role and name of an existing one and reactivates them. The
-- last active administrator cannot lose that role. Somebody who becomes an administrator by this
-- call must sign in (again) within seven days: see billing.sign_in_admin.
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
        split_part(v_email, '@', 2) = v_domain,
        'p_email', format('only addresses at %s are allowed', v_domain)
    );
    PERFORM billing_data.require(
        p_role IN ('admin', 'viewer'), 'p_role', 'it must be admin or viewer'
    );
    IF p_full_name IS NOT NULL THEN
        PERFORM billing_data.require_filled(p_full_name, 'p_full_name');
    END IF;
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
    END IF;
    -- A staff member who has signed in as an administrator keeps the identity provider's account
    -- that is bound to them.
    IF v_after.role = 'admin' THEN
        IF v_before ->> 'role' IS DISTINCT FROM 'admin' THEN
            PERFORM billing_data.open_invitation(v_after.id, p_anew => true);
        ELSIF v_after.google_id IS NULL THEN
            PERFORM billing_data.open_invitation(v_after.id, p_anew => false);
        END IF;
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

-- Invites an administrator again, for seven days, when the last invitation has expired or when they
-- have another account of the identity provider now. Their sessions and tokens end.
-- Locks: the staff member. Writes: admin_users 1, admin_sessions, admin_audit_logs 1. Errors: actor
-- errors, invalid_argument, admin_not_found (also for somebody who is not an active administrator:
-- viewers need no invitation).
-- Example: SELECT billing.invite_admin(p_email => 'ada@example.com', p_reason => 'a new account');
CREATE OR REPLACE FUNCTION billing.invite_admin(
    p_email text, p_reason text, p_session_hash bytea DEFAULT NULL
) RETURNS timestamptz
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'  -- of the times in the audit log
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_id uuid;
    v_until timestamptz;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require_durable_commit();
    SELECT u.id INTO v_id
    FROM billing_data.admin_users AS u
    WHERE u.email = lower(p_email) AND u.role = 'admin' AND u.is_active
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error('admin_not_found', jsonb_build_object('email', p_email));
    END IF;
    v_until := billing_data.open_invitation(v_id, p_anew => true);
    PERFORM billing_data.write_audit(
        'admin.invite', 'admin_user', v_id::text,
        jsonb_build_object('email', lower(p_email), 'until', v_until), p_reason, v_actor
    );
    RETURN v_until;
END
$$;
COMMENT ON FUNCTION billing.invite_admin IS
    'Lets an administrator sign in with another account, within seven days. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.invite_admin TO billing_server, billing_dba;

-- Invites the administrators whom the operator names at a deploy. A new address is added; a named
-- administrator who has not signed in yet and whose invitation has expired is invited again; all
-- others stay as they are. Returns how many were invited. Not for the web tier.
-- Writes: as billing.add_admin. Errors: actor_required,
-- invalid_argument. Example: SELECT billing.seed_founders(p_emails => '{ada@example.com}');
CREATE OR REPLACE FUNCTION billing.seed_founders(p_emails text[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_email text;
    v_count bigint := 0;
BEGIN
    PERFORM billing_data.caller_role();
    PERFORM billing_data.require_list(array_dims(p_emails), cardinality(p_emails), 'p_emails');
    FOR v_email IN
        SELECT DISTINCT lower(f.email)
        FROM unnest(p_emails) AS f (email)
        LEFT JOIN billing_data.admin_users AS u ON u.email = lower(f.email)
        WHERE u.id IS NULL OR (
            u.role = 'admin' AND u.is_active AND u.last_login_at IS NULL
            AND (u.invited_until > clock_timestamp()) IS NOT TRUE
        )
        ORDER BY 1
    LOOP
        PERFORM billing.add_admin(
            p_email => v_email, p_role => 'admin', p_reason => 'named by the operator'
        );
        v_count := v_count + 1;
    END LOOP;
    RETURN v_count;
END
$$;
COMMENT ON FUNCTION billing.seed_founders IS
    'Invites the administrators whom the operator names. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.seed_founders TO billing_dba;

-- Changes a staff member's role, or whether they may sign in; NULL keeps the present value. When a
-- staff member is deactivated, their sessions end at once. Somebody who becomes an administrator
-- must sign in again within seven days: see billing.sign_in_admin. The last active administrator
-- cannot lose that role.
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
    -- The tokens of a deactivated staff member stay, so that a request with one can be told why it
    -- is refused.
    IF NOT v_after.is_active THEN
        DELETE FROM billing_data.admin_sessions AS s
        WHERE s.admin_user_id = v_after.id AND s.kind = 'browser';
    END IF;
    IF v_before.role <> 'admin' AND v_after.role = 'admin' THEN
        PERFORM billing_data.open_invitation(v_after.id, p_anew => true);
    END IF;
    IF (v_before.role, v_before.is_active) <> (v_after.role, v_after.is_active) THEN
        PERFORM billing_data.write_audit(
            'admin.set', 'admin_user', v_after.id::text,
            jsonb_build_object(
                'email', v_after.email,
                'before',
                jsonb_build_object('role', v_before.role, 'is_active', v_before.is_active),
                'after',
                jsonb_build_object('role', v_after.role, 'is_active', v_after.is_active)
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
    'Changes a staff member''s role or deactivates them. '
    'For billing_server (staff) and billing_dba.';
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

-- Reads one active staff member by e-mail. Not for the web tier, because the call tells who is
-- staff.
-- Errors: admin_not_found.
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
