-- Actors: who is calling. There are three kinds: an API key (the web tier names it), a staff member
-- (the web tier names them), or a database role that calls in its own name (recorded under
-- session_user).

-- True when the caller is the web tier: its current role is billing_server, or its login is a
-- member of that role and of no stronger one. The login of a DBA or owner is not the web tier.
CREATE OR REPLACE FUNCTION billing_data.is_web_tier() RETURNS boolean
LANGUAGE sql STABLE
RETURN current_setting('role') = 'billing_server'
    OR NOT pg_has_role(session_user, 'billing_dba', 'MEMBER');
COMMENT ON FUNCTION billing_data.is_web_tier IS
    'Tells whether the caller must name an API key or staff member as the actor. Helper.';

-- Raises the reason why a caller may not act. p_names_actor says whether the caller named an API
-- key or staff member; the web tier must, and a database role must not.
CREATE OR REPLACE FUNCTION billing_data.refuse_caller(p_names_actor boolean) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_names_actor THEN
        PERFORM billing_data.raise_error('actor_not_allowed');
    ELSIF billing_data.is_web_tier() THEN
        PERFORM billing_data.raise_error('actor_required');
    END IF;
    PERFORM billing_data.raise_error(
        'login_name_reserved', jsonb_build_object('login', session_user)
    );
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION billing_data.refuse_caller IS 'Raises why a caller may not act. Helper.';

-- The database role to record a call under when no key or staff member is named. A login must not
-- have the name of another kind of writer: 'legacy', which marks rows of the old service, or a
-- payment provider.
-- Errors: actor_required when the caller is the web tier; login_name_reserved.
CREATE OR REPLACE FUNCTION billing_data.caller_role() RETURNS text
LANGUAGE sql STABLE
RETURN CASE
    WHEN NOT billing_data.is_web_tier()
        AND session_user <> 'legacy'
        AND NOT billing_data.is_name_of_provider(session_user) THEN session_user::text
    ELSE billing_data.refuse_caller(false)
END;
COMMENT ON FUNCTION billing_data.caller_role IS
    'The database role a call without another actor is recorded under. Helper.';

-- The slug of what is wrong with an API key for this permission when the statement began, or NULL
-- when nothing is: api_key_invalid (unknown or revoked), api_key_expired, permission_missing. (With
-- clock_timestamp(), PostgreSQL could not put the expression in the place of the call, and would
-- run a query for every item of a list.)
CREATE OR REPLACE FUNCTION billing_data.key_fault(p_key billing_data.api_keys, p_permission text)
RETURNS text
LANGUAGE sql STABLE
RETURN CASE
    WHEN (p_key).id IS NULL OR (p_key).status = 'revoked' THEN 'api_key_invalid'
    WHEN (p_key).expires_at <= statement_timestamp() THEN 'api_key_expired'
    WHEN (p_permission = ANY ((p_key).permissions)) IS NOT TRUE THEN 'permission_missing'
END;
COMMENT ON FUNCTION billing_data.key_fault IS
    'Names what is wrong with an API key for a permission, NULL when nothing is. Helper.';

-- The database role to record checks or charges under. It is NULL when the items name API keys,
-- which only the web tier may do. p_api_key_id is the key of the first item.
-- Errors: actor_required,
-- actor_not_allowed, login_name_reserved.
CREATE OR REPLACE FUNCTION billing_data.role_of_caller(p_api_key_id uuid) RETURNS text
LANGUAGE sql STABLE
RETURN CASE
    WHEN p_api_key_id IS NULL THEN billing_data.caller_role()
    WHEN NOT billing_data.is_web_tier() THEN billing_data.refuse_caller(true)
END;
COMMENT ON FUNCTION billing_data.role_of_caller IS
    'The database role to record checks or charges under, NULL beside API keys. Helper.';

-- What is wrong with the actor of one check or charge. A web tier's item is judged by p_key, the
-- API key with the credential p_credential. Where the caller is a database role (p_role), it is a
-- fault when the item names a key as well.
CREATE OR REPLACE FUNCTION billing_data.item_fault(
    p_role text, p_credential uuid, p_key billing_data.api_keys, p_permission text
) RETURNS text
LANGUAGE sql STABLE
RETURN CASE
    WHEN p_role IS NULL THEN billing_data.key_fault(p_key, p_permission)
    WHEN p_credential IS NOT NULL THEN 'actor_not_allowed'
END;
COMMENT ON FUNCTION billing_data.item_fault IS
    'Names what is wrong with the actor of a check or charge, NULL when nothing is. Helper.';

-- The id of the API key with this credential; NULL unless the key is good for the permission.
CREATE OR REPLACE FUNCTION billing_data.good_key(p_credential uuid, p_permission text) RETURNS uuid
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_credential IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN (
        SELECT k.id
        FROM billing_data.api_keys AS k
        WHERE coalesce(k.credential, k.id) = p_credential
            AND billing_data.key_fault(k, p_permission) IS NULL
    );
END
$$;
COMMENT ON FUNCTION billing_data.good_key IS
    'The id of an API key that is good for a permission. Helper.';

-- Whether the profile fields that an actor sends count. They do not with a key that has
-- billing:read only.
CREATE OR REPLACE FUNCTION billing_data.may_write(p_role text, p_key billing_data.api_keys)
RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN p_role IS NOT NULL OR ('billing:write' = ANY ((p_key).permissions)) IS TRUE;
COMMENT ON FUNCTION billing_data.may_write IS
    'Whether the profile fields that the actor of a check sends count. Helper.';

-- The owner of the session or bearer token with this hash. There is no row when the hash is unknown
-- or the session has ended. The owner may be deactivated; the caller must look at that.
CREATE OR REPLACE FUNCTION billing_data.find_session(p_session_hash bytea)
RETURNS TABLE (admin billing_data.admin_users, kind text, expires_at timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT u, s.kind, s.expires_at
    FROM billing_data.admin_sessions AS s
    INNER JOIN billing_data.admin_users AS u ON u.id = s.admin_user_id
    WHERE s.session_hash = p_session_hash AND s.expires_at > clock_timestamp();
END
$$;
COMMENT ON FUNCTION billing_data.find_session IS
    'Tells whose session or bearer token has a hash, while it lasts. Helper.';

-- Returns who is acting, and refuses the call unless this actor may do it. The actor is one of
-- these: an API key that has p_permission, named by its credential; the owner of a session or
-- bearer token, named by its SHA-256, who must be active and, unless the call only reads, of role
-- admin; or a database role. At most one of the first two may be given, and only by the web tier.
-- Errors: actor_required,
-- actor_not_allowed, api_key_*, permission_missing, session_over, admin_deactivated,
-- admin_role_required.
CREATE OR REPLACE FUNCTION billing_data.authorize(
    p_api_key_id uuid, p_session_hash bytea, p_permission text
) RETURNS billing_data.actor
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor;
    v_fault text;
    v_admin billing_data.admin_users;
BEGIN
    IF p_api_key_id IS NULL AND p_session_hash IS NULL THEN
        v_actor.database_role := billing_data.caller_role();
        RETURN v_actor;
    END IF;
    IF NOT billing_data.is_web_tier() OR num_nonnulls(p_api_key_id, p_session_hash) > 1 THEN
        PERFORM billing_data.raise_error('actor_not_allowed');
    END IF;
    IF p_api_key_id IS NOT NULL THEN
        SELECT k.id, billing_data.key_fault(k, p_permission) INTO v_actor.api_key_id, v_fault
        FROM billing_data.api_keys AS k
        WHERE coalesce(k.credential, k.id) = p_api_key_id;
        IF v_actor.api_key_id IS NULL OR v_fault IS NOT NULL THEN
            PERFORM billing_data.raise_error(
                coalesce(v_fault, 'api_key_invalid'), jsonb_build_object('permission', p_permission)
            );
        END IF;
        RETURN v_actor;
    END IF;
    SELECT (s.admin).* INTO v_admin FROM billing_data.find_session(p_session_hash) AS s;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error('session_over');
    ELSIF NOT v_admin.is_active THEN
        PERFORM billing_data.raise_error(
            'admin_deactivated', jsonb_build_object('email', v_admin.email)
        );
    ELSIF v_admin.role <> 'admin' AND p_permission <> 'billing:read' THEN
        PERFORM billing_data.raise_error(
            'admin_role_required', jsonb_build_object('role', v_admin.role)
        );
    END IF;
    v_actor.admin_user_id := v_admin.id;
    RETURN v_actor;
END
$$;
COMMENT ON FUNCTION billing_data.authorize IS
    'Tells who is acting; refuses the call unless they may do it. Helper.';

-- Money is durable: in a session that runs with synchronous_commit off, this switches it on for the
-- current transaction. (A SET clause on the function would end before the commit and have no
-- effect.)
CREATE OR REPLACE FUNCTION billing_data.require_durable_commit() RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.require_durable_commit IS
    'Makes the current transaction''s commit durable. Helper.';
