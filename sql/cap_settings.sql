-- Caps as staff and DBAs set, delete and list them.

-- Whom a cap is for, as billing_data.caps stores it, from what a person gives: for an API key its
-- id or its first 20 characters (the cap is for the whole chain of its rotations); for an account
-- its id, provider:external id or e-mail address; for an agent its id; for all nothing.
-- Errors: invalid_argument, api_key_not_found, account_not_found.
CREATE OR REPLACE FUNCTION billing_data.cap_subject(
    p_scope text, p_subject text, p_session_hash bytea
) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_key_id uuid;
BEGIN
    PERFORM billing_data.require(
        p_scope IN ('all', 'api_key', 'account', 'agent'), 'p_scope',
        'it must be all, api_key, account or agent'
    );
    PERFORM billing_data.require(
        (p_scope = 'all') = (coalesce(p_subject, '') = ''), 'p_subject',
        'it must say whose cap it is, and be left out for all'
    );
    IF p_scope = 'account' THEN
        RETURN billing.find_account(p_subject, p_session_hash);
    ELSIF p_scope = 'api_key' THEN
        SELECT k.id INTO v_key_id
        FROM billing_data.api_keys AS k
        WHERE k.id::text = lower(p_subject) OR k.key_prefix = p_subject;
        IF NOT FOUND THEN
            PERFORM billing_data.raise_error(
                'api_key_not_found', jsonb_build_object('api_key_id', p_subject)
            );
        END IF;
        RETURN billing_data.first_key_id(v_key_id);
    END IF;
    PERFORM billing_data.require_length(p_subject, billing_data.most('agent_id'), 'p_subject');
    RETURN coalesce(p_subject, '');
END
$$;
COMMENT ON FUNCTION billing_data.cap_subject IS
    'Whom a cap is for, as it is stored. Helper.';

-- Whether a cap is of this scope, and of this account or the one that it was merged into; NULL
-- stands for any. PostgreSQL puts it in the place of its call, so that an index can serve it.
CREATE OR REPLACE FUNCTION billing_data.is_cap_of(
    p_cap billing_data.caps, p_scope text, p_account_id uuid
) RETURNS boolean
LANGUAGE sql STABLE
RETURN (p_scope IS NULL OR (p_cap).scope = p_scope)
AND (p_account_id IS NULL OR (
    (p_cap).scope = 'account'
    AND (p_cap).subject = billing_data.surviving_account(p_account_id)::text
));
COMMENT ON FUNCTION billing_data.is_cap_of IS
    'Whether a cap is of this scope and account. Helper.';

-- Lists caps with what their windows have used so far, what is left, and when the windows end
-- (resets_at). A cap counts from when it was set (counts_from). An API key's cap names the first
-- key of its chain of rotations; an account's cap goes with it where it is merged.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.list_caps(p_scope => 'api_key');
CREATE OR REPLACE FUNCTION billing.list_caps(
    p_scope text DEFAULT NULL,
    p_account_id uuid DEFAULT NULL,
    p_cap_id uuid DEFAULT NULL,
    p_limit bigint DEFAULT 500,
    p_offset bigint DEFAULT 0,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    cap_id uuid,
    scope text,
    subject text,
    subject_name text,
    period text,
    mode text,
    limit_minor bigint,
    used_minor bigint,
    left_minor bigint,
    window_start timestamptz,
    resets_at timestamptz,
    reached_at timestamptz,
    counts_from timestamptz,
    updated_at timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now timestamptz := billing_data.clock();
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, p_offset, 501);
    RETURN QUERY
    SELECT
        c.id, c.scope, c.subject,
        CASE c.scope
            WHEN 'all' THEN 'all charges'
            WHEN 'agent' THEN c.subject
            WHEN 'account' THEN a.oauth_provider || ':' || a.external_id
            ELSE format('%s (%s...)', k.name, k.key_prefix)
        END,
        c.period, c.mode, c.limit_minor, coalesce(u.used_minor, 0),
        greatest(c.limit_minor - coalesce(u.used_minor, 0), 0), w.start,
        billing_data.window_end(c.period, v_now), u.reached_at, c.created_at, c.updated_at
    FROM billing_data.caps AS c
    CROSS JOIN LATERAL (SELECT billing_data.window_start(c.period, v_now)) AS w (start)
    LEFT JOIN billing_data.cap_usage AS u ON u.cap_id = c.id AND u.window_start = w.start
    LEFT JOIN billing_data.accounts AS a
        ON a.id = CASE WHEN c.scope = 'account' THEN c.subject::uuid END
    LEFT JOIN billing_data.api_keys AS k
        ON k.id = CASE WHEN c.scope = 'api_key' THEN c.subject::uuid END
    WHERE billing_data.is_cap_of(c, p_scope, p_account_id)
        AND (p_cap_id IS NULL OR c.id = p_cap_id)
    ORDER BY c.scope, c.subject, c.period, c.mode DESC
    LIMIT p_limit OFFSET p_offset;
END
$$;
COMMENT ON FUNCTION billing.list_caps IS
    'Lists caps with what is used and left. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_caps TO billing_server, billing_dba;

-- How many caps billing.list_caps lists for the same filters: at most p_most, and is_more says that
-- there are more. It stops at p_most.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.count_caps(p_scope => 'api_key');
CREATE OR REPLACE FUNCTION billing.count_caps(
    p_scope text DEFAULT NULL,
    p_account_id uuid DEFAULT NULL,
    p_most bigint DEFAULT 10000,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (caps bigint, is_more boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_most(p_most);
    RETURN QUERY
    SELECT least(count(*), p_most), count(*) > p_most
    FROM (
        SELECT FROM billing_data.caps AS c
        WHERE billing_data.is_cap_of(c, p_scope, p_account_id)
        LIMIT p_most + 1
    ) AS n;
END
$$;
COMMENT ON FUNCTION billing.count_caps IS
    'Counts caps. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.count_caps TO billing_server, billing_dba;

-- Sets how many credits may be charged in a period ('minute', 'day' or 'month' of the UTC calendar)
-- by an API key and the keys that it is rotated to, to an account, by an agent, or by all. The mode
-- 'hard' refuses what would exceed the limit; the mode 'alert' only tells that it was reached. A
-- new cap counts from now on. A second call for the same scope, subject, period and mode changes
-- the limit of that cap, and what was counted stays counted. A cap that was reached and has room
-- again by a higher limit counts as not reached. Charges that are under way may still be decided by
-- the old limit.
-- Locks: the account that the cap is for, the cap's row, its row of cap_usage. Writes: caps 1,
-- cap_usage 0..1, admin_audit_logs 1 when something changed. Errors: actor errors,
-- invalid_argument, api_key_not_found, account_not_found, serialization_failure when the account
-- was merged at this moment.
-- Example: SELECT * FROM billing.set_cap(p_scope => 'account', p_subject => 'oauth:google:1',
--              p_period => 'day', p_limit_minor => 1000, p_reason => 'its owner asked for it');
CREATE OR REPLACE FUNCTION billing.set_cap(
    p_scope text,
    p_period text,
    p_limit_minor bigint,
    p_reason text,
    p_subject text DEFAULT NULL,
    p_mode text DEFAULT 'hard',
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    cap_id uuid,
    scope text,
    subject text,
    subject_name text,
    period text,
    mode text,
    limit_minor bigint,
    used_minor bigint,
    left_minor bigint,
    window_start timestamptz,
    resets_at timestamptz,
    reached_at timestamptz,
    counts_from timestamptz,
    updated_at timestamptz
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_now timestamptz := billing_data.clock();
    v_subject text;
    v_before bigint;
    v_cap billing_data.caps;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    v_subject := billing_data.cap_subject(p_scope, p_subject, p_session_hash);
    PERFORM billing_data.require(
        p_period IN ('minute', 'day', 'month'), 'p_period', 'it must be minute, day or month'
    );
    PERFORM billing_data.require(p_mode IN ('hard', 'alert'), 'p_mode', 'it must be hard or alert');
    PERFORM billing_data.require(p_limit_minor >= 0, 'p_limit_minor', 'it must be 0 or more');
    PERFORM billing_data.require_durable_commit();
    IF p_scope = 'account' THEN
        -- With the account locked, a merge comes either before, or after, when the cap moves with
        -- it.
        v_subject := (billing_data.lock_account(v_subject::uuid)).id;
    END IF;
    SELECT c.limit_minor INTO v_before
    FROM billing_data.caps AS c
    WHERE c.scope = p_scope AND c.subject = v_subject AND c.period = p_period AND c.mode = p_mode
    FOR NO KEY UPDATE;
    INSERT INTO billing_data.caps AS c (
        id, scope, subject, made_for, period, mode, limit_minor, created_at, updated_at
    )
    VALUES (
        billing_data.new_id(), p_scope, v_subject,
        CASE WHEN p_scope = 'account' THEN v_subject::uuid END,
        p_period, p_mode, p_limit_minor, v_now, v_now
    )
    ON CONFLICT ON CONSTRAINT caps_once DO UPDATE
    SET limit_minor = excluded.limit_minor,
        updated_at = CASE c.limit_minor
            WHEN excluded.limit_minor THEN c.updated_at ELSE excluded.updated_at END
    RETURNING c.* INTO v_cap;
    UPDATE billing_data.cap_usage AS u
    SET reached_at = NULL
    WHERE v_before < p_limit_minor AND u.cap_id = v_cap.id
        AND u.window_start = billing_data.window_start(p_period, v_now)
        AND u.used_minor < p_limit_minor;
    IF v_before IS DISTINCT FROM p_limit_minor THEN
        PERFORM billing_data.write_audit(
            'cap.set', 'cap', v_cap.id::text,
            jsonb_build_object(
                'scope', v_cap.scope, 'subject', v_cap.subject, 'period', v_cap.period,
                'mode', v_cap.mode, 'before', v_before, 'after', p_limit_minor
            ),
            p_reason, v_actor
        );
    END IF;
    RETURN QUERY
    SELECT l.* FROM billing.list_caps(p_cap_id => v_cap.id, p_session_hash => p_session_hash) AS l;
END
$$;
COMMENT ON FUNCTION billing.set_cap IS
    'Sets how much may be charged in a minute, day or month, with a reason. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.set_cap TO billing_server, billing_dba;

-- Deletes a cap: from the next request on it refuses nothing. Returns the cap as it was.
-- Locks: the cap's row. Writes: caps 1, cap_usage of its windows, admin_audit_logs 1. Errors: actor
-- errors, invalid_argument, cap_not_found.
-- Example: SELECT * FROM billing.delete_cap(p_cap_id => '...', p_reason => 'no longer needed');
CREATE OR REPLACE FUNCTION billing.delete_cap(
    p_cap_id uuid,
    p_reason text,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    cap_id uuid,
    scope text,
    subject text,
    subject_name text,
    period text,
    mode text,
    limit_minor bigint,
    used_minor bigint
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_cap record;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require_durable_commit();
    PERFORM FROM billing_data.caps AS c WHERE c.id = p_cap_id FOR UPDATE;
    SELECT l.* INTO v_cap
    FROM billing.list_caps(p_cap_id => p_cap_id, p_session_hash => p_session_hash) AS l;
    IF NOT FOUND OR p_cap_id IS NULL THEN
        PERFORM billing_data.raise_error('cap_not_found', jsonb_build_object('cap_id', p_cap_id));
    END IF;
    DELETE FROM billing_data.caps AS c WHERE c.id = p_cap_id;
    DELETE FROM billing_data.cap_usage AS u WHERE u.cap_id = p_cap_id;
    PERFORM billing_data.write_audit(
        'cap.delete', 'cap', p_cap_id::text,
        jsonb_build_object(
            'scope', v_cap.scope, 'subject', v_cap.subject, 'period', v_cap.period,
            'mode', v_cap.mode, 'limit', v_cap.limit_minor, 'used', v_cap.used_minor
        ),
        p_reason, v_actor
    );
    RETURN QUERY SELECT
        v_cap.cap_id, v_cap.scope, v_cap.subject, v_cap.subject_name, v_cap.period, v_cap.mode,
        v_cap.limit_minor, v_cap.used_minor;
END
$$;
COMMENT ON FUNCTION billing.delete_cap IS
    'Deletes a cap, with a reason. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.delete_cap TO billing_server, billing_dba;

-- Moves the caps of an account that is merged to the one that stays, with what they counted. Where
-- both accounts have a cap for the same period and mode, the account that stays keeps its own, and
-- the other cap counts nothing any more. When the merge is undone (p_made_for), the caps that were
-- set for the merged account or for accounts merged into it move back.
-- Locks: the caps that move. The caller holds both accounts, so that nobody sets the same cap for
-- the account that they go to at this moment. Writes: caps 0..n.
CREATE OR REPLACE FUNCTION billing_data.move_caps(
    p_from_id uuid, p_to_id uuid, p_made_for uuid[]
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE billing_data.caps AS c
    SET subject = p_to_id::text
    WHERE c.scope = 'account' AND c.subject = p_from_id::text
        AND (p_made_for IS NULL OR c.made_for = ANY (p_made_for))
        AND NOT EXISTS (
            SELECT
            FROM billing_data.caps AS o
            WHERE o.scope = 'account' AND o.subject = p_to_id::text
                AND o.period = c.period AND o.mode = c.mode
        );
END
$$;
COMMENT ON FUNCTION billing_data.move_caps IS
    'Moves caps where an account is merged, or back. Helper.';

-- Deletes the usage of caps' windows that ended before p_before, and returns how many rows were
-- deleted.
CREATE OR REPLACE FUNCTION billing_data.prune_cap_usage(p_before timestamptz) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_deleted bigint;
BEGIN
    DELETE FROM billing_data.cap_usage AS u
    WHERE u.window_start < p_before AND NOT EXISTS (
        SELECT FROM billing_data.caps AS c
        WHERE c.id = u.cap_id AND billing_data.window_end(c.period, u.window_start) > p_before
    );
    GET DIAGNOSTICS v_deleted = ROW_COUNT;
    RETURN v_deleted;
END
$$;
COMMENT ON FUNCTION billing_data.prune_cap_usage IS
    'Deletes what old windows of caps used. Helper.';
