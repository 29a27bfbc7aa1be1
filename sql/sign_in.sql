-- Signing in. The identity provider says who somebody is. The functions here decide whether that is
-- a member of staff, and what their browser's session may do. The web tier calls them before there
-- is a staff member to name as the actor. Secrets arrive as hashes.

-- Refuses a ticket's or session's hash that is not a SHA-256.
CREATE OR REPLACE FUNCTION billing_data.require_hash(p_hash bytea, p_argument text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require(length(p_hash) = 32, p_argument, 'it must be a SHA-256 hash');
END
$$;
COMMENT ON FUNCTION billing_data.require_hash IS
    'Raises invalid_argument unless it is a SHA-256. Helper.';

-- Issues a single-use ticket, valid for ten minutes: the state of a sign-in under way. Expired
-- tickets are deleted.
-- Writes: sign_in_tickets. Errors: invalid_argument.
-- Example: SELECT billing.create_sign_in_ticket(p_ticket_hash => sha256('random'));
CREATE OR REPLACE FUNCTION billing.create_sign_in_ticket(p_ticket_hash bytea) RETURNS timestamptz
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_expires_at timestamptz := clock_timestamp() + interval '10 minutes';
BEGIN
    PERFORM billing_data.require_hash(p_ticket_hash, 'p_ticket_hash');
    DELETE FROM billing_data.sign_in_tickets AS t WHERE t.expires_at < clock_timestamp();
    INSERT INTO billing_data.sign_in_tickets (ticket_hash, expires_at)
    VALUES (p_ticket_hash, v_expires_at);
    RETURN v_expires_at;
END
$$;
COMMENT ON FUNCTION billing.create_sign_in_ticket IS
    'Remembers a sign-in under way for ten minutes. For billing_server.';
GRANT EXECUTE ON FUNCTION billing.create_sign_in_ticket TO billing_server;

-- Uses up a ticket. Returns true the first time; false after that, and for a ticket that does not
-- exist or has expired.
-- Example: SELECT billing.use_sign_in_ticket(p_ticket_hash => sha256('random'));
CREATE OR REPLACE FUNCTION billing.use_sign_in_ticket(p_ticket_hash bytea) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM billing_data.sign_in_tickets AS t
    WHERE t.ticket_hash = p_ticket_hash
        AND t.admin_user_id IS NULL
        AND t.expires_at >= clock_timestamp();
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION billing.use_sign_in_ticket IS
    'Uses up the ticket of a sign-in; true when it was good. For billing_server.';
GRANT EXECUTE ON FUNCTION billing.use_sign_in_ticket TO billing_server;

-- Opens a session for a staff member. Both ways of signing in use it. Expired sessions are deleted.
CREATE OR REPLACE FUNCTION billing_data.open_session(
    p_admin_user_id uuid, p_session_hash bytea, p_how text
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM billing_data.admin_sessions AS s WHERE s.expires_at < clock_timestamp();
    INSERT INTO billing_data.admin_sessions (session_hash, admin_user_id, expires_at)
    VALUES (p_session_hash, p_admin_user_id, clock_timestamp() + interval '24 hours');
    UPDATE billing_data.admin_users AS u
    SET last_login_at = clock_timestamp()
    WHERE u.id = p_admin_user_id;
    PERFORM billing_data.write_audit(
        'admin.sign_in', 'admin_user', p_admin_user_id::text, jsonb_build_object('by', p_how),
        NULL, ROW(NULL, p_admin_user_id, NULL)::billing_data.actor
    );
END
$$;
COMMENT ON FUNCTION billing_data.open_session IS 'Opens a staff member''s browser session. Helper.';

-- Signs in the person whom the identity provider has identified, and opens their session. Only the
-- web tier says that the provider did so; therefore a web tier that lies can gain only what anybody
-- at the staff's domain gets: a new person becomes a viewer, and a known viewer stays one. An
-- administrator is signed in only from the provider's account (Google's subject) that is bound to
-- them, and no function reveals that account. The first sign-in after an invitation
-- (billing.add_admin, set_admin, invite_admin) binds it, while the invitation is valid. Name and
-- picture are refreshed. Only addresses of the staff's domain may sign in.
-- Locks: 'sign_in', the staff member. Writes: admin_users 1..2, admin_sessions 1,
-- admin_audit_logs 1..2. Errors: invalid_argument, admin_domain_refused, admin_deactivated,
-- admin_not_invited.
-- Example: SELECT * FROM billing.sign_in_admin(p_email => 'ada@example.com',
--              p_google_id => '1', p_session_hash => sha256('random'));
CREATE OR REPLACE FUNCTION billing.sign_in_admin(
    p_email text,
    p_google_id text,
    p_session_hash bytea,
    p_full_name text DEFAULT NULL,
    p_picture_url text DEFAULT NULL
) RETURNS TABLE (admin_user_id uuid, email text, full_name text, role text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_email text := lower(p_email);
    v_domain text;
    v_user billing_data.admin_users;
BEGIN
    PERFORM billing_data.require_hash(p_session_hash, 'p_session_hash');
    PERFORM billing_data.require(
        length(v_email) BETWEEN 3 AND billing_data.most('email'), 'p_email',
        format('it must have 3 to %s characters', billing_data.most('email'))
    );
    PERFORM billing_data.require_filled(p_google_id, 'p_google_id');
    SELECT s.admin_email_domain INTO STRICT v_domain FROM billing_data.settings AS s;
    IF v_email !~ '^[^@[:space:]]+@[^@[:space:]]+$' OR split_part(v_email, '@', 2) <> v_domain THEN
        PERFORM billing_data.raise_error(
            'admin_domain_refused', jsonb_build_object('domain', v_domain, 'email', v_email)
        );
    END IF;
    PERFORM billing_data.require_durable_commit();
    -- Sign-ins are serialized, because at a person's first two sign-ins there is no row to lock
    -- yet.
    PERFORM billing_data.take_lock('sign_in');
    -- The same person has a new address: the old address no longer belongs to them.
    UPDATE billing_data.admin_users AS u
    SET google_id = NULL
    WHERE u.google_id = p_google_id AND u.email <> v_email;
    INSERT INTO billing_data.admin_users AS u (email, full_name, role)
    VALUES (
        v_email,
        left(
            coalesce(nullif(p_full_name, ''), split_part(v_email, '@', 1)),
            billing_data.most('full_name')
        ),
        'viewer'
    )
    ON CONFLICT ON CONSTRAINT admin_users_email_key DO NOTHING
    RETURNING u.* INTO v_user;
    IF FOUND THEN
        PERFORM billing_data.write_audit(
            'admin.add', 'admin_user', v_user.id::text,
            jsonb_build_object('email', v_email, 'role', v_user.role), 'first sign-in',
            ROW(NULL, v_user.id, NULL)::billing_data.actor
        );
    END IF;
    SELECT u.* INTO STRICT v_user
    FROM billing_data.admin_users AS u
    WHERE u.email = v_email
    FOR NO KEY UPDATE;
    IF NOT v_user.is_active THEN
        PERFORM billing_data.raise_error(
            'admin_deactivated', jsonb_build_object('email', v_email)
        );
    ELSIF v_user.role = 'admin' AND v_user.google_id IS DISTINCT FROM p_google_id
        AND (v_user.google_id IS NULL AND v_user.invited_until > clock_timestamp()) IS NOT TRUE
    THEN
        PERFORM billing_data.raise_error(
            'admin_not_invited', jsonb_build_object('email', v_email)
        );
    END IF;
    UPDATE billing_data.admin_users AS u
    SET full_name = coalesce(
            left(nullif(p_full_name, ''), billing_data.most('full_name')), u.full_name
        ),
        picture_url = coalesce(
            left(p_picture_url, billing_data.most('picture_url')), u.picture_url
        ),
        google_id = p_google_id,
        invited_until = NULL
    WHERE u.id = v_user.id
    RETURNING u.* INTO v_user;
    PERFORM billing_data.open_session(v_user.id, p_session_hash, 'identity provider');
    RETURN QUERY SELECT
        v_user.id, v_user.email::text, v_user.full_name::text, v_user.role::text;
END
$$;
COMMENT ON FUNCTION billing.sign_in_admin IS
    'Opens a session for a person the identity provider identified. For billing_server.';
GRANT EXECUTE ON FUNCTION billing.sign_in_admin TO billing_server;

-- Makes a link that signs a staff member in once, within ten minutes. `ciris-billing dev`, which
-- has no identity provider, signs in by it. Only a DBA may call it. Writes: sign_in_tickets 1,
-- admin_audit_logs 1.
-- Errors: actor_required, invalid_argument, admin_not_found.
-- Example: SELECT billing.create_sign_in_link(p_email => 'ada@example.com',
--              p_ticket_hash => sha256('random'));
CREATE OR REPLACE FUNCTION billing.create_sign_in_link(p_email text, p_ticket_hash bytea)
RETURNS timestamptz
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, NULL, 'billing:write');
    v_expires_at timestamptz := clock_timestamp() + interval '10 minutes';
    v_id uuid;
BEGIN
    PERFORM billing_data.require_hash(p_ticket_hash, 'p_ticket_hash');
    PERFORM billing_data.require_durable_commit();
    SELECT g.admin_user_id INTO STRICT v_id FROM billing.get_admin(p_email => p_email) AS g;
    INSERT INTO billing_data.sign_in_tickets (ticket_hash, admin_user_id, expires_at)
    VALUES (p_ticket_hash, v_id, v_expires_at);
    PERFORM billing_data.write_audit(
        'admin.create_sign_in_link', 'admin_user', v_id::text,
        jsonb_build_object('email', lower(p_email)), NULL, v_actor
    );
    RETURN v_expires_at;
END
$$;
COMMENT ON FUNCTION billing.create_sign_in_link IS
    'Makes a link that signs a staff member in once. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.create_sign_in_link TO billing_dba;

-- Uses up a link and opens its session. There is no row when the link was used or has expired, or
-- when its owner is deactivated.
-- Locks: the ticket, the staff member (so that a deactivation at the same time ends
-- this session too). Writes: sign_in_tickets, admin_sessions 0..1, admin_audit_logs 0..1.
-- Example: SELECT * FROM billing.use_sign_in_link(p_ticket_hash => sha256('random'),
--              p_session_hash => sha256('another'));
CREATE OR REPLACE FUNCTION billing.use_sign_in_link(p_ticket_hash bytea, p_session_hash bytea)
RETURNS TABLE (admin_user_id uuid, email text, full_name text, role text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_id uuid;
    v_user billing_data.admin_users;
BEGIN
    PERFORM billing_data.require_hash(p_session_hash, 'p_session_hash');
    DELETE FROM billing_data.sign_in_tickets AS t
    WHERE t.ticket_hash = p_ticket_hash
        AND t.admin_user_id IS NOT NULL
        AND t.expires_at >= clock_timestamp()
    RETURNING t.admin_user_id INTO v_id;
    SELECT u.* INTO v_user
    FROM billing_data.admin_users AS u
    WHERE u.id = v_id AND u.is_active
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM billing_data.require_durable_commit();
    PERFORM billing_data.open_session(v_id, p_session_hash, 'link');
    RETURN QUERY SELECT
        v_user.id, v_user.email::text, v_user.full_name::text, v_user.role::text;
END
$$;
COMMENT ON FUNCTION billing.use_sign_in_link IS
    'Uses up a sign-in link and opens its session. For billing_server.';
GRANT EXECUTE ON FUNCTION billing.use_sign_in_link TO billing_server;

-- The owner of this session or bearer token. There is no row when it does not exist, has expired or
-- was ended. is_active is false for a token whose owner is deactivated; such a token allows
-- nothing.
-- Example: SELECT * FROM billing.get_session(p_session_hash => sha256('random'));
CREATE OR REPLACE FUNCTION billing.get_session(p_session_hash bytea)
RETURNS TABLE (
    admin_user_id uuid, email text, full_name text, picture_url text, role text,
    expires_at timestamptz, is_active boolean
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT
        (s.admin).id, (s.admin).email::text, (s.admin).full_name::text,
        (s.admin).picture_url::text, (s.admin).role::text, s.expires_at, (s.admin).is_active
    FROM billing_data.find_session(p_session_hash) AS s
    WHERE (s.admin).is_active OR s.kind = 'token';
END
$$;
COMMENT ON FUNCTION billing.get_session IS
    'Tells whose browser session or bearer token this is. For billing_server.';
GRANT EXECUTE ON FUNCTION billing.get_session TO billing_server;

-- Registers a bearer token for 24 hours, for the staff member whom a DBA names or for the one whose
-- browser session asks. A token cannot be used to register another, so that access ends with its 24
-- hours.
-- Writes: admin_sessions 1, admin_audit_logs 1. Errors: actor errors, invalid_argument,
-- admin_not_found. Example (a token comes from `ciris-billing admins token`, which calls this):
--   SELECT * FROM billing.create_staff_token(p_token_hash => sha256('random'),
--       p_email => 'ada@example.com');
CREATE OR REPLACE FUNCTION billing.create_staff_token(
    p_token_hash bytea,
    p_email text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (admin_user_id uuid, email text, role text, expires_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'  -- of the times in the audit log
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:read');
    v_user billing_data.admin_users;
BEGIN
    PERFORM billing_data.require_hash(p_token_hash, 'p_token_hash');
    PERFORM billing_data.require(
        (p_email IS NULL) = (p_session_hash IS NOT NULL),
        'p_email', 'a DBA names somebody; who is signed in gets a token of their own'
    );
    PERFORM billing_data.require(
        p_session_hash IS NULL OR EXISTS (
            SELECT FROM billing_data.find_session(p_session_hash) AS s WHERE s.kind = 'browser'
        ),
        'p_session_hash', 'a token cannot make another: sign in with a browser'
    );
    PERFORM billing_data.require_durable_commit();
    SELECT u.* INTO v_user
    FROM billing_data.admin_users AS u
    WHERE (u.email = lower(p_email) OR u.id = v_actor.admin_user_id) AND u.is_active
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error('admin_not_found', jsonb_build_object('email', p_email));
    END IF;
    INSERT INTO billing_data.admin_sessions AS s (session_hash, admin_user_id, kind, expires_at)
    VALUES (p_token_hash, v_user.id, 'token', clock_timestamp() + interval '24 hours')
    -- The same token twice within one second is one token.
    ON CONFLICT ON CONSTRAINT admin_sessions_pkey DO UPDATE
    SET expires_at = excluded.expires_at
    WHERE s.admin_user_id = v_user.id AND s.kind = 'token'
    RETURNING s.expires_at INTO expires_at;
    PERFORM billing_data.require(FOUND, 'p_token_hash', 'it is in use');
    PERFORM billing_data.write_audit(
        'admin.create_token', 'admin_user', v_user.id::text,
        jsonb_build_object('email', v_user.email, 'expires_at', expires_at), NULL, v_actor
    );
    RETURN QUERY SELECT v_user.id, v_user.email::text, v_user.role::text, expires_at;
END
$$;
COMMENT ON FUNCTION billing.create_staff_token IS
    'Registers a staff member''s bearer token. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.create_staff_token TO billing_server, billing_dba;

-- Ends every session and bearer token of a staff member, at once and everywhere: for a lost laptop
-- or a leaked token. Staff may end their own; only an administrator or a DBA may end those of
-- others.
-- Locks: the staff member. Writes: admin_sessions, admin_audit_logs 1. Errors: actor errors,
-- invalid_argument, admin_not_found.
-- Example: SELECT billing.end_staff_sessions(p_email => 'ada@example.com',
--     p_reason => 'laptop lost');
CREATE OR REPLACE FUNCTION billing.end_staff_sessions(
    p_email text, p_reason text, p_session_hash bytea DEFAULT NULL
) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:read');
    v_id uuid;
    v_count bigint;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    SELECT u.id INTO v_id FROM billing_data.admin_users AS u WHERE u.email = lower(p_email);
    IF v_id IS DISTINCT FROM v_actor.admin_user_id THEN
        PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:write');
    END IF;
    IF v_id IS NULL THEN
        PERFORM billing_data.raise_error('admin_not_found', jsonb_build_object('email', p_email));
    END IF;
    PERFORM billing_data.require_durable_commit();
    -- A session that is being opened locks its owner: either it is committed and ended here, or it
    -- is opened after this call.
    PERFORM FROM billing_data.admin_users AS u WHERE u.id = v_id FOR NO KEY UPDATE;
    DELETE FROM billing_data.admin_sessions AS s WHERE s.admin_user_id = v_id;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    PERFORM billing_data.write_audit(
        'admin.end_sessions', 'admin_user', v_id::text,
        jsonb_build_object('email', lower(p_email), 'ended', v_count), p_reason, v_actor
    );
    RETURN v_count;
END
$$;
COMMENT ON FUNCTION billing.end_staff_sessions IS
    'Ends all sessions and tokens of a staff member. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.end_staff_sessions TO billing_server, billing_dba;

-- Ends a session. Returns true when there was one.
-- Writes: admin_sessions 0..1, admin_audit_logs 0..1.
-- Example: SELECT billing.end_session(p_session_hash => sha256('random'));
CREATE OR REPLACE FUNCTION billing.end_session(p_session_hash bytea) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_id uuid;
BEGIN
    DELETE FROM billing_data.admin_sessions AS s
    WHERE s.session_hash = p_session_hash
    RETURNING s.admin_user_id INTO v_id;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM billing_data.require_durable_commit();
    PERFORM billing_data.write_audit(
        'admin.sign_out', 'admin_user', v_id::text, NULL, NULL,
        ROW(NULL, v_id, NULL)::billing_data.actor
    );
    RETURN true;
END
$$;
COMMENT ON FUNCTION billing.end_session IS
    'Ends a browser session. For billing_server.';
GRANT EXECUTE ON FUNCTION billing.end_session TO billing_server;
