-- The audit log: what staff and database roles did, to which thing, and why.

-- Writes one row of the audit log: what a staff member or database role did, to which thing, and
-- why.
CREATE OR REPLACE FUNCTION billing_data.write_audit(
    p_action text,
    p_resource_type text,
    p_resource_id text,
    p_changes jsonb,
    p_reason text,
    p_actor billing_data.actor
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The client's address: the web tier sets it for the transaction; in psql it is the address of
    -- the session itself.
    INSERT INTO billing_data.admin_audit_logs (
        action, resource_type, resource_id, changes, reason, admin_user_id, database_role,
        ip_address, user_agent
    )
    VALUES (
        p_action, p_resource_type, p_resource_id, p_changes, p_reason, p_actor.admin_user_id,
        p_actor.database_role,
        CASE
            WHEN p_actor.admin_user_id IS NULL THEN inet_client_addr()
            ELSE nullif(current_setting('billing.client_address', true), '')::inet
        END,
        CASE
            WHEN p_actor.admin_user_id IS NOT NULL
                THEN left(
                    nullif(current_setting('billing.client_agent', true), ''),
                    billing_data.most('user_agent')
                )
        END
    );
END
$$;
COMMENT ON FUNCTION billing_data.write_audit IS 'Writes one row of the audit log. Helper.';

-- The account that an entry of the audit log is about: the thing itself, or the one that the
-- changes name. NULL when there is none.
CREATE OR REPLACE FUNCTION billing_data.account_of_entry(
    p_resource_type text, p_resource_id text, p_changes jsonb
) RETURNS uuid
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN billing_data.is_uuid(n.id) THEN n.id::uuid END
    FROM (
        SELECT CASE
            WHEN p_resource_type = 'account' THEN p_resource_id
            WHEN jsonb_typeof(p_changes) = 'object' THEN p_changes ->> 'account_id'
        END AS id
    ) AS n;
$$;
COMMENT ON FUNCTION billing_data.account_of_entry IS
    'The account that an entry of the audit log is about. Helper.';

-- The other account beside p_account_id of the transfer, merge or undone merge that an entry of the
-- audit log tells of. NULL for other entries.
CREATE OR REPLACE FUNCTION billing_data.other_account_of_entry(p_changes jsonb, p_account_id uuid)
RETURNS uuid
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN billing_data.is_uuid(n.id) THEN n.id::uuid END
    FROM (
        SELECT CASE
            WHEN p_changes ? 'merge_id' AND p_changes ->> 'account_id' <> p_account_id::text
                THEN p_changes ->> 'account_id'
            WHEN p_changes ? 'merge_id' THEN p_changes ->> 'merged_account_id'
            ELSE p_changes ->> 'other_account_id'
        END AS id
    ) AS n;
$$;
COMMENT ON FUNCTION billing_data.other_account_of_entry IS
    'The other account of a transfer or merge that the audit log tells of. Helper.';

-- The conditions of the lists of the audit log, for their statements: $1 is who, $2 the action, $3
-- the thing, $4 and $5 the days, $6 the entry; u is the staff member of the entry l. A filter that
-- is not given has no condition. Errors: invalid_argument.
CREATE OR REPLACE FUNCTION billing_data.audit_filter(
    p_who text, p_action text, p_resource_id text, p_from date, p_to date, p_entry_id uuid
) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require_moment(d.at, d.argument)
    FROM (VALUES (p_from::timestamptz, 'p_from'), (p_to::timestamptz, 'p_to')) AS d (at, argument);
    RETURN 'true'
        || CASE WHEN p_who <> ''
            THEN ' AND lower($1) IN (lower(coalesce(u.email, l.database_role)),'
                || ' lower(l.database_login))'
            ELSE '' END
        || CASE WHEN p_action <> ''
            THEN ' AND (l.action = $2 OR starts_with(l.action, $2 || ''.''))' ELSE '' END
        || CASE WHEN p_resource_id <> '' THEN ' AND l.resource_id = $3' ELSE '' END
        || CASE WHEN p_from IS NOT NULL
            THEN ' AND l.created_at >= $4::timestamp AT TIME ZONE ''UTC''' ELSE '' END
        || CASE WHEN p_to IS NOT NULL
            THEN ' AND l.created_at < ($5 + 1)::timestamp AT TIME ZONE ''UTC''' ELSE '' END
        || CASE WHEN p_entry_id IS NOT NULL THEN ' AND l.id = $6' ELSE '' END;
END
$$;
COMMENT ON FUNCTION billing_data.audit_filter IS
    'The conditions of the lists of the audit log. Helper.';

-- Lists the audit log. The filters are who acted (a staff member's e-mail, a database role, or the
-- database login of the session), what was done (an action; the word before the dot alone finds
-- every action of that kind), to which thing, and the days (UTC, both included); p_entry_id finds
-- one entry. With p_reverse, the oldest come first. account_id is the account that an entry is
-- about, if any, and account_name its address or external id; other_account_id and
-- other_account_name are those of the other side of a transfer or a merge.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.list_audit_log(p_action => 'account', p_limit => 10);
CREATE OR REPLACE FUNCTION billing.list_audit_log(
    p_who text DEFAULT NULL,
    p_action text DEFAULT NULL,
    p_resource_id text DEFAULT NULL,
    p_from date DEFAULT NULL,
    p_to date DEFAULT NULL,
    p_limit bigint DEFAULT 50,
    p_offset bigint DEFAULT 0,
    p_entry_id uuid DEFAULT NULL,
    p_reverse boolean DEFAULT false,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    id uuid,
    created_at timestamptz,
    who text,
    action text,
    resource_type text,
    resource_id text,
    reason text,
    changes jsonb,
    ip_address inet,
    user_agent text,
    database_login text,
    account_id uuid,
    account_name text,
    other_account_id uuid,
    other_account_name text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_where text;
    v_order text := CASE WHEN p_reverse THEN 'l.created_at, l.id'
        ELSE 'l.created_at DESC, l.id DESC' END;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, p_offset, 10001);
    v_where := billing_data.audit_filter(
        p_who, p_action, p_resource_id, p_from, p_to, p_entry_id
    );
    RETURN QUERY EXECUTE
        'SELECT l.id, l.created_at, l.who, l.action::text, l.resource_type::text,'
        || ' l.resource_id::text, l.reason, l.changes, l.ip_address, l.user_agent,'
        || ' l.database_login, a.id, coalesce(a.customer_email, a.external_id)::text,'
        || ' o.id, coalesce(o.customer_email, o.external_id)::text'
        || ' FROM (SELECT l.*, coalesce(u.email::text, l.database_role) AS who,'
        || ' billing_data.account_of_entry(l.resource_type, l.resource_id, l.changes) AS account_id'
        || ' FROM billing_data.admin_audit_logs AS l'
        || ' LEFT JOIN billing_data.admin_users AS u ON u.id = l.admin_user_id'
        || ' WHERE ' || v_where
        || ' ORDER BY ' || v_order || ' LIMIT $7 OFFSET $8) AS l'
        || ' LEFT JOIN billing_data.accounts AS a ON a.id = l.account_id'
        || ' LEFT JOIN billing_data.accounts AS o'
        || ' ON o.id = billing_data.other_account_of_entry(l.changes, a.id)'
        || ' ORDER BY ' || v_order
    USING p_who, p_action, p_resource_id, p_from, p_to, p_entry_id, p_limit, p_offset;
END
$$;
COMMENT ON FUNCTION billing.list_audit_log IS
    'Lists what staff and DBAs did, when and why. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_audit_log TO billing_server, billing_dba;

-- How many entries billing.list_audit_log lists for the same filters: at most p_most, and is_more
-- says that there are more. It stops at p_most, so that it is quick however long the log is.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.count_audit_log(p_action => 'account', p_from => '2026-11-01');
CREATE OR REPLACE FUNCTION billing.count_audit_log(
    p_who text DEFAULT NULL,
    p_action text DEFAULT NULL,
    p_resource_id text DEFAULT NULL,
    p_from date DEFAULT NULL,
    p_to date DEFAULT NULL,
    p_entry_id uuid DEFAULT NULL,
    p_most bigint DEFAULT 10000,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (entries bigint, is_more boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_where text;
    v_staff text := '';
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_most(p_most);
    v_where := billing_data.audit_filter(
        p_who, p_action, p_resource_id, p_from, p_to, p_entry_id
    );
    IF p_who <> '' THEN
        v_staff := ' LEFT JOIN billing_data.admin_users AS u ON u.id = l.admin_user_id';
    END IF;
    RETURN QUERY EXECUTE
        'SELECT least(count(*), $7), count(*) > $7'
        || ' FROM (SELECT FROM billing_data.admin_audit_logs AS l' || v_staff
        || ' WHERE ' || v_where
        -- In the list's order, so that the list's index serves.
        || ' ORDER BY l.created_at DESC, l.id DESC LIMIT $7 + 1) AS c'
    USING p_who, p_action, p_resource_id, p_from, p_to, p_entry_id, p_most;
END
$$;
COMMENT ON FUNCTION billing.count_audit_log IS
    'Counts entries of the audit log. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.count_audit_log TO billing_server, billing_dba;
