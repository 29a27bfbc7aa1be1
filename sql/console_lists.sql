-- Lists that staff page through: purchases, payment events, the audit log. Newest first; a page asks
-- for one row more than it shows and so knows whether there is a next.

-- Lists purchases. p_status: offered, pending, settled; or returned: money of it went back.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.list_purchases(p_status => 'settled', p_limit => 10);
CREATE OR REPLACE FUNCTION billing.list_purchases(
    p_account_id uuid DEFAULT NULL,
    p_status text DEFAULT NULL,
    p_limit bigint DEFAULT 50,
    p_offset bigint DEFAULT 0,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    purchase_id uuid,
    account_id uuid,
    oauth_provider text,
    external_id text,
    customer_email text,
    provider text,
    payment_id text,
    status text,
    uses bigint,
    price_minor bigint,
    currency text,
    price_text text,
    created_at timestamptz,
    settled_at timestamptz,
    returned_minor numeric,
    uses_taken_back numeric,
    shortfall numeric,
    returned_text text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_where text := 'true';
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, p_offset, 501);
    PERFORM billing_data.require(
        p_status IS NULL OR p_status IN ('offered', 'pending', 'settled', 'returned'),
        'p_status', 'it must be offered, pending, settled or returned'
    );
    IF p_account_id IS NOT NULL THEN
        v_where := 'p.account_id = $1';
    END IF;
    v_where := v_where || CASE p_status
        WHEN 'offered' THEN ' AND p.payment_id IS NULL'
        WHEN 'pending' THEN ' AND p.payment_id IS NOT NULL AND p.settled_at IS NULL'
        WHEN 'settled' THEN ' AND p.settled_at IS NOT NULL'
        WHEN 'returned' THEN ' AND EXISTS (SELECT FROM billing_data.payment_returns AS n'
            ' WHERE n.account_id = p.account_id AND n.purchase_id = p.id)'
        ELSE ''
    END;
    RETURN QUERY EXECUTE
        'SELECT p.id, p.account_id, a.oauth_provider::text, a.external_id::text,'
        || ' p.customer_email::text, p.provider, p.payment_id::text,'
        || ' billing_data.purchase_status(p), p.uses, p.price_minor, p.currency::text,'
        || ' billing_data.money_text(p.price_minor, p.currency), p.created_at, p.settled_at,'
        || ' r.money, r.taken, r.short, CASE WHEN r.money > 0 THEN'
        || ' billing_data.money_text(r.money::bigint, p.currency) ELSE '''' END'
        || ' FROM billing_data.purchases AS p'
        || ' INNER JOIN billing_data.accounts AS a ON a.id = p.account_id'
        || ' CROSS JOIN LATERAL (SELECT coalesce(sum(n.away_minor), 0) AS money,'
        || ' coalesce(sum(n.uses_taken), 0) AS taken,'
        || ' coalesce(sum(n.uses_due - n.uses_taken), 0) AS short'
        || ' FROM billing_data.payment_returns AS n WHERE n.account_id = p.account_id'
        || ' AND n.purchase_id = p.id AND n.status = ''taken'') AS r'
        || ' WHERE ' || v_where
        || ' ORDER BY p.created_at DESC, p.id DESC LIMIT $2 OFFSET $3'
    USING p_account_id, p_limit, p_offset;
END
$$;
COMMENT ON FUNCTION billing.list_purchases IS
    'Lists purchases and what became of them. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_purchases TO billing_server, billing_dba;

-- Lists the payment provider's events, without their payloads. Errors: actor errors,
-- invalid_argument. Example: SELECT * FROM billing.list_payment_events(p_limit => 10);
CREATE OR REPLACE FUNCTION billing.list_payment_events(
    p_limit bigint DEFAULT 50,
    p_offset bigint DEFAULT 0,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    provider text,
    event_id text,
    event_type text,
    payment_id text,
    account_id uuid,
    outcome text,
    needs_attention boolean,
    deliveries bigint,
    livemode boolean,
    received_at timestamptz,
    last_received_at timestamptz,
    resolved_at timestamptz,
    resolution text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, p_offset, 501);
    RETURN QUERY
    SELECT
        e.provider, e.event_id::text, e.event_type::text, e.payment_id::text, e.account_id,
        e.outcome, billing_data.is_payment_fault(e.outcome) AND e.resolved_at IS NULL,
        e.deliveries, e.livemode, e.received_at, e.last_received_at, e.resolved_at, e.resolution
    FROM billing_data.payment_events AS e
    ORDER BY e.received_at DESC, e.event_id DESC
    LIMIT p_limit OFFSET p_offset;
END
$$;
COMMENT ON FUNCTION billing.list_payment_events IS
    'Lists the payment provider''s events. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_payment_events TO billing_server, billing_dba;

-- Lists the audit log: who (a staff member's e-mail or a database role), what (action; a word before
-- the dot finds all of its kind), on which thing, in which days (UTC, both included).
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
    user_agent text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_where text := 'true';
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, p_offset, 10000);
    PERFORM billing_data.require_moment(d.at, d.argument)
    FROM (VALUES (p_from::timestamptz, 'p_from'), (p_to::timestamptz, 'p_to')) AS d (at, argument);
    v_where := v_where
        || CASE WHEN p_who <> ''
            THEN ' AND lower(coalesce(u.email, l.database_role)) = lower($1)' ELSE '' END
        || CASE WHEN p_action <> ''
            THEN ' AND (l.action = $2 OR starts_with(l.action, $2 || ''.''))' ELSE '' END
        || CASE WHEN p_resource_id <> '' THEN ' AND l.resource_id = $3' ELSE '' END
        || CASE WHEN p_from IS NOT NULL
            THEN ' AND l.created_at >= $4::timestamp AT TIME ZONE ''UTC''' ELSE '' END
        || CASE WHEN p_to IS NOT NULL
            THEN ' AND l.created_at < ($5 + 1)::timestamp AT TIME ZONE ''UTC''' ELSE '' END;
    RETURN QUERY EXECUTE
        'SELECT l.id, l.created_at, coalesce(u.email::text, l.database_role), l.action::text,'
        || ' l.resource_type::text, l.resource_id::text, l.reason, l.changes, l.ip_address,'
        || ' l.user_agent'
        || ' FROM billing_data.admin_audit_logs AS l'
        || ' LEFT JOIN billing_data.admin_users AS u ON u.id = l.admin_user_id'
        || ' WHERE ' || v_where
        || ' ORDER BY l.created_at DESC, l.id DESC LIMIT $6 OFFSET $7'
    USING p_who, p_action, p_resource_id, p_from, p_to, p_limit, p_offset;
END
$$;
COMMENT ON FUNCTION billing.list_audit_log IS
    'Lists what staff and DBAs did, when and why. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_audit_log TO billing_server, billing_dba;
