-- API keys. The secret is made and hashed (Argon2id) outside the database. Only its hash and its
-- first twenty characters ever arrive here.

-- The closed set of permissions that a key can have. Keys of the old service may have other
-- strings, which allow nothing here. Permissions are matched exactly.
CREATE OR REPLACE FUNCTION billing_data.key_permissions() RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY['billing:read', 'billing:write'];
COMMENT ON FUNCTION billing_data.key_permissions IS
    'The permissions that a key can be given. Helper.';

-- Stores a key with any permissions. The caller has checked the permissions of a new key; a
-- successor gets those of its predecessor.
-- Writes: api_keys 1, admin_audit_logs 1. Errors: invalid_argument.
CREATE OR REPLACE FUNCTION billing_data.store_api_key(
    p_name text,
    p_key_prefix text,
    p_key_hash text,
    p_environment text,
    p_permissions text[],
    p_description text,
    p_expires_in_days integer,
    p_reason text,
    p_key_digest bytea,
    p_actor billing_data.actor
) RETURNS billing_data.api_keys
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_key billing_data.api_keys;
BEGIN
    PERFORM billing_data.require(
        starts_with(p_key_prefix, 'cbk_') AND length(p_key_prefix) = 20,
        'p_key_prefix', 'it must be the first 20 characters of the key'
    );
    PERFORM billing_data.require(
        starts_with(p_key_hash, '$argon2id$'), 'p_key_hash', 'it must be an Argon2id hash'
    );
    PERFORM billing_data.require(
        p_key_digest IS NULL OR length(p_key_digest) = 32,
        'p_key_digest', 'it must be a SHA-256 hash'
    );
    PERFORM billing_data.require_short(p_key_hash, 'p_key_hash');
    PERFORM billing_data.require_short(p_reason, 'p_reason');
    PERFORM billing_data.require_durable_commit();
    INSERT INTO billing_data.api_keys AS k (
        credential, name, key_prefix, key_hash, environment, permissions, description, expires_at,
        created_by, created_by_role
    )
    VALUES (
        encode(substring(p_key_digest FROM 1 FOR 16), 'hex')::uuid, p_name, p_key_prefix,
        p_key_hash, p_environment, p_permissions, p_description,
        clock_timestamp() + make_interval(days => p_expires_in_days), p_actor.admin_user_id,
        p_actor.database_role
    )
    RETURNING k.* INTO v_key;
    PERFORM billing_data.write_audit(
        'api_key.create', 'api_key', v_key.id::text,
        jsonb_build_object(
            'name', v_key.name, 'environment', v_key.environment,
            'permissions', v_key.permissions, 'expires_at', v_key.expires_at
        ),
        coalesce(nullif(btrim(p_reason), ''), nullif(btrim(p_description), '')),
        p_actor
    );
    RETURN v_key;
END
$$;
COMMENT ON FUNCTION billing_data.store_api_key IS 'Stores an API key and audits it. Helper.';

-- Creates a key from the prefix and hash of a secret. With p_key_digest (the secret's SHA-256),
-- agents' calls name the key by the first 128 bits of the digest and by nothing else; without it,
-- by the key's id. The audit log's reason is p_reason, or else the description.
-- Writes: api_keys 1, admin_audit_logs 1.
-- Errors: actor errors, invalid_argument.
-- Example (a hash comes from `ciris-billing keys create`, which calls this):
--   SELECT * FROM billing.create_api_key(p_name => 'agent', p_key_prefix => '...',
--       p_key_hash => '...');
CREATE OR REPLACE FUNCTION billing.create_api_key(
    p_name text,
    p_key_prefix text,
    p_key_hash text,
    p_environment text DEFAULT 'live',
    p_permissions text[] DEFAULT ARRAY['billing:read', 'billing:write'],
    p_description text DEFAULT NULL,
    p_expires_in_days integer DEFAULT NULL,
    p_reason text DEFAULT NULL,
    p_key_digest bytea DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    api_key_id uuid,
    name text,
    key_prefix text,
    environment text,
    permissions text[],
    status text,
    created_at timestamptz,
    expires_at timestamptz
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'  -- of the times in the audit log
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_key billing_data.api_keys;
BEGIN
    PERFORM billing_data.require_filled(p_name, 'p_name');
    PERFORM billing_data.require(
        p_environment IN ('test', 'live'), 'p_environment', 'it must be test or live'
    );
    PERFORM billing_data.require_short(p_description, 'p_description');
    PERFORM billing_data.require_list(
        array_dims(p_permissions), cardinality(p_permissions), 'p_permissions',
        'permissions of a key'
    );
    PERFORM billing_data.require(
        p_permissions <@ billing_data.key_permissions(), 'p_permissions',
        'it must be a list of ' || array_to_string(billing_data.key_permissions(), ', ')
    );
    PERFORM billing_data.require(
        p_expires_in_days IS NULL OR p_expires_in_days BETWEEN 1 AND 3650,
        'p_expires_in_days', 'it must be 1 to 3650 days'
    );
    v_key := billing_data.store_api_key(
        p_name, p_key_prefix, p_key_hash, p_environment, p_permissions, p_description,
        p_expires_in_days, p_reason, p_key_digest, v_actor
    );
    RETURN QUERY SELECT
        v_key.id, v_key.name::text, v_key.key_prefix::text, v_key.environment::text,
        v_key.permissions::text[], v_key.status::text, v_key.created_at, v_key.expires_at;
END
$$;
COMMENT ON FUNCTION billing.create_api_key IS
    'Stores a new API key''s prefix and hash. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.create_api_key TO billing_server, billing_dba;

-- Replaces an active key. The successor has the same name, environment, permissions and remaining
-- lifetime in whole days. The old key works for 24 more hours, but never past its own expiry.
-- Locks: the old key. Writes: api_keys 2, admin_audit_logs 2.
-- Errors: actor errors, invalid_argument, api_key_not_found, api_key_not_active.
-- Example: SELECT * FROM billing.rotate_api_key(p_api_key_id => '...', p_key_prefix => '...',
--              p_key_hash => '...', p_reason => 'yearly rotation');
CREATE OR REPLACE FUNCTION billing.rotate_api_key(
    p_api_key_id uuid,
    p_key_prefix text,
    p_key_hash text,
    p_reason text DEFAULT NULL,
    p_key_digest bytea DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    api_key_id uuid,
    name text,
    key_prefix text,
    environment text,
    permissions text[],
    expires_at timestamptz,
    old_key_expires_at timestamptz
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'  -- of the times in the audit log
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_now timestamptz := clock_timestamp();
    v_old billing_data.api_keys;
    v_new billing_data.api_keys;
    v_days integer;
    v_grace_ends_at timestamptz;
BEGIN
    SELECT k.* INTO v_old
    FROM billing_data.api_keys AS k
    WHERE k.id = p_api_key_id
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error(
            'api_key_not_found', jsonb_build_object('api_key_id', p_api_key_id)
        );
    END IF;
    IF v_old.status <> 'active' OR v_old.expires_at <= v_now THEN
        PERFORM billing_data.raise_error('api_key_not_active', jsonb_build_object(
            'status', CASE v_old.status WHEN 'active' THEN 'expired' ELSE v_old.status END
        ));
    END IF;
    -- A remaining lifetime of less than a day counts as a day, so that the successor does not
    -- expire at once.
    v_days := least(
        3650, greatest(1, floor(extract(EPOCH FROM v_old.expires_at - v_now) / 86400))
    )::integer;
    IF v_old.expires_at IS NULL THEN
        v_days := NULL;
    END IF;
    v_new := billing_data.store_api_key(
        v_old.name, p_key_prefix, p_key_hash, v_old.environment, v_old.permissions,
        v_old.description, v_days, p_reason, p_key_digest, v_actor
    );
    v_grace_ends_at := least(v_old.expires_at, v_now + interval '24 hours');
    UPDATE billing_data.api_keys AS k
    SET status = 'rotating', rotated_to = v_new.id, expires_at = v_grace_ends_at
    WHERE k.id = p_api_key_id;
    PERFORM billing_data.write_audit(
        'api_key.rotate', 'api_key', p_api_key_id::text,
        jsonb_build_object(
            'rotated_to', v_new.id,
            'before', jsonb_build_object('status', v_old.status, 'expires_at', v_old.expires_at),
            'after', jsonb_build_object('status', 'rotating', 'expires_at', v_grace_ends_at)
        ),
        nullif(btrim(p_reason), ''), v_actor
    );
    RETURN QUERY SELECT
        v_new.id, v_new.name::text, p_key_prefix, v_new.environment::text,
        v_new.permissions::text[], v_new.expires_at, v_grace_ends_at;
END
$$;
COMMENT ON FUNCTION billing.rotate_api_key IS
    'Replaces an API key; the old one works 24 hours more. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.rotate_api_key TO billing_server, billing_dba;

-- Revokes a key: every process refuses it from the next request on. Revoking it again has no
-- effect.
-- Locks: the key. Writes: api_keys 0..1, admin_audit_logs 0..1. Errors: actor errors,
-- invalid_argument, api_key_not_found.
-- Example: SELECT * FROM billing.revoke_api_key(p_api_key_id => '...', p_reason => 'it leaked');
CREATE OR REPLACE FUNCTION billing.revoke_api_key(
    p_api_key_id uuid,
    p_reason text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (api_key_id uuid, name text, key_prefix text, status text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_status text;
BEGIN
    PERFORM billing_data.require_short(p_reason, 'p_reason');
    PERFORM billing_data.require_durable_commit();
    SELECT k.status INTO v_status
    FROM billing_data.api_keys AS k
    WHERE k.id = p_api_key_id
    FOR NO KEY UPDATE;
    IF v_status <> 'revoked' THEN
        UPDATE billing_data.api_keys AS k SET status = 'revoked' WHERE k.id = p_api_key_id;
        PERFORM billing_data.write_audit(
            'api_key.revoke', 'api_key', p_api_key_id::text,
            jsonb_build_object(
                'before', jsonb_build_object('status', v_status),
                'after', jsonb_build_object('status', 'revoked')
            ),
            nullif(btrim(p_reason), ''), v_actor
        );
    END IF;
    RETURN QUERY
    SELECT k.id, k.name::text, k.key_prefix::text, k.status::text
    FROM billing_data.api_keys AS k
    WHERE k.id = p_api_key_id;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error(
            'api_key_not_found', jsonb_build_object('api_key_id', p_api_key_id)
        );
    END IF;
END
$$;
COMMENT ON FUNCTION billing.revoke_api_key IS
    'Ends an API key from the next request on. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.revoke_api_key TO billing_server, billing_dba;

-- Lists keys, newest first, including revoked ones, without their hashes.
-- Errors: actor errors.
-- Example: SELECT * FROM billing.list_api_keys(p_status => 'active');
CREATE OR REPLACE FUNCTION billing.list_api_keys(
    p_environment text DEFAULT NULL,
    p_status text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    api_key_id uuid,
    name text,
    key_prefix text,
    environment text,
    permissions text[],
    status text,
    description text,
    created_at timestamptz,
    expires_at timestamptz,
    last_used_at timestamptz,
    last_used_ip inet,
    rotated_to uuid,
    created_by_email text,
    created_by_role text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    RETURN QUERY
    SELECT
        k.id, k.name::text, k.key_prefix::text, k.environment::text, k.permissions::text[],
        k.status::text, k.description, k.created_at, k.expires_at, k.last_used_at, k.last_used_ip,
        k.rotated_to, u.email::text, k.created_by_role
    FROM billing_data.api_keys AS k
    LEFT JOIN billing_data.admin_users AS u ON u.id = k.created_by
    WHERE (p_environment IS NULL OR k.environment = p_environment)
        AND (p_status IS NULL OR k.status = p_status)
    ORDER BY k.created_at DESC, k.id;
END
$$;
COMMENT ON FUNCTION billing.list_api_keys IS
    'Lists API keys, newest first, without hashes. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_api_keys TO billing_server, billing_dba;

-- Returns the hash of the key with these first twenty characters, against which the web tier
-- verifies a presented secret. Also returns whether calls name the key by its secret's SHA-256; the
-- SHA-256 itself is never returned. This is the only way to read a hash, and only one prefix at a
-- time. There is no row when no key has this prefix or the key is revoked.
-- Example: SELECT * FROM billing.find_api_key(p_key_prefix => 'cbk_live_...');
CREATE OR REPLACE FUNCTION billing.find_api_key(p_key_prefix text)
RETURNS TABLE (api_key_id uuid, key_hash text, acts_by_digest boolean)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT k.id, k.key_hash, k.credential IS NOT NULL
    FROM billing_data.api_keys AS k
    WHERE k.key_prefix = p_key_prefix AND k.status <> 'revoked';
END;
COMMENT ON FUNCTION billing.find_api_key IS
    'Gives the Argon2id hash of the key with this prefix. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.find_api_key TO billing_server, billing_dba;

-- Refuses the call unless the key is good for the permission. The web tier calls it before it tells
-- a caller what is wrong with a request.
-- Errors: api_key_*, permission_missing, actor errors.
-- Example: SELECT billing.require_api_key(p_api_key_id => '...', p_permission => 'billing:read');
CREATE OR REPLACE FUNCTION billing.require_api_key(p_api_key_id uuid, p_permission text)
RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require_short(p_permission, 'p_permission');
    PERFORM billing_data.authorize(p_api_key_id, NULL, p_permission);
    RETURN true;
END
$$;
COMMENT ON FUNCTION billing.require_api_key IS
    'Refuses unless an API key is good for a permission. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.require_api_key TO billing_server, billing_dba;

-- Marks an expired key as revoked, so that it is reported as invalid from then on. A key that has
-- not expired is left alone, whoever calls.
-- Writes: api_keys 0..1. Errors: none.
-- Example: SELECT billing.retire_expired_api_key(p_api_key_id => '...');
CREATE OR REPLACE FUNCTION billing.retire_expired_api_key(p_api_key_id uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require_durable_commit();
    UPDATE billing_data.api_keys AS k
    SET status = 'revoked'
    WHERE coalesce(k.credential, k.id) = p_api_key_id AND k.status <> 'revoked'
        AND k.expires_at <= clock_timestamp();
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION billing.retire_expired_api_key IS
    'Marks a key revoked if it has expired; true when it did. For billing_server.';
GRANT EXECUTE ON FUNCTION billing.retire_expired_api_key TO billing_server;

-- Records when and from where keys were last used. The arrays have one length, with one entry for
-- each key. The web tier collects uses and calls this every few seconds.
-- Locks: the keys, in id order; a locked key is skipped, because its next use will be recorded.
-- Writes: api_keys 0..n; its commit may be asynchronous.
-- Example: SELECT billing.record_api_key_use(ARRAY['...'::uuid], ARRAY[now()],
--     ARRAY['127.0.0.1'::inet]);
CREATE OR REPLACE FUNCTION billing.record_api_key_use(
    p_api_key_ids uuid[],
    p_used_at timestamptz[],
    p_used_from inet[]
) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_count integer;
BEGIN
    IF coalesce(cardinality(p_api_key_ids), 0) = 0 THEN
        RETURN 0;
    END IF;
    PERFORM billing_data.require_same_length(
        ARRAY[cardinality(p_api_key_ids), cardinality(p_used_at), cardinality(p_used_from)], '{}',
        ARRAY[array_dims(p_api_key_ids), array_dims(p_used_at), array_dims(p_used_from)]
    );
    PERFORM billing_data.require_moment(u.used_at, 'p_used_at')
    FROM unnest(p_used_at) AS u (used_at);
    IF pg_current_xact_id_if_assigned() IS NULL THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    WITH used AS (
        SELECT u.id, u.used_at, u.used_from
        FROM unnest(p_api_key_ids, p_used_at, p_used_from) AS u (id, used_at, used_from)
    ),
    lockable AS (
        SELECT k.id, coalesce(k.credential, k.id) AS credential
        FROM billing_data.api_keys AS k
        WHERE coalesce(k.credential, k.id) = ANY (p_api_key_ids)
        ORDER BY k.id
        FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE billing_data.api_keys AS k
    SET last_used_at = used.used_at, last_used_ip = used.used_from
    FROM lockable
    INNER JOIN used ON used.id = lockable.credential
    WHERE k.id = lockable.id AND (k.last_used_at IS NULL OR k.last_used_at < used.used_at);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END
$$;
COMMENT ON FUNCTION billing.record_api_key_use IS
    'Records the last use of several API keys. For billing_server.';
GRANT EXECUTE ON FUNCTION billing.record_api_key_use TO billing_server;

-- The first key of a chain of rotations; the key itself when no rotation made it. (The body is a
-- string, because BEGIN ATOMIC would record a dependency on a column that a migration's rollback
-- drops.)
CREATE OR REPLACE FUNCTION billing_data.first_key_id(p_api_key_id uuid) RETURNS uuid
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE line (id) AS (
        SELECT p_api_key_id
        UNION
        SELECT k.id
        FROM line AS l
        INNER JOIN billing_data.api_keys AS k ON k.rotated_to = l.id
    )
    SELECT l.id
    FROM line AS l
    WHERE NOT EXISTS (SELECT FROM billing_data.api_keys AS k WHERE k.rotated_to = l.id);
$$;
COMMENT ON FUNCTION billing_data.first_key_id IS
    'The API key that a line of rotations began with. Helper.';
