-- The outbox: alerts on their way to webhook endpoints. A row is one alert for one endpoint. A
-- server claims rows for a short time and records the result of each. A server that dies in between
-- loses nothing: the claim ends, and the alert is delivered again under the same webhook-id.

-- After how many attempts a delivery is parked as failed. With the pauses below, that takes about a
-- day.
CREATE OR REPLACE FUNCTION billing_data.most_attempts() RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 11;
COMMENT ON FUNCTION billing_data.most_attempts IS
    'After how many attempts a delivery is given up. Helper.';

-- The pause after a failed attempt: 5 s, three times as long after each further one, 9 h at most.
-- It is up to a fifth longer or shorter, so that deliveries that failed together are not tried
-- together again.
CREATE OR REPLACE FUNCTION billing_data.delivery_pause(p_attempts integer) RETURNS interval
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN least(5 * 3 ^ least(p_attempts - 1, 20), 32400) * (0.8 + 0.4 * random())
    * interval '1 second';
COMMENT ON FUNCTION billing_data.delivery_pause IS
    'How long a delivery waits after a failed attempt. Helper.';

-- What is sent: the kind, the time and the data of an alert, with the account's identity as it is
-- now. (The body is a string: as an expression it would depend on the table, which the step's
-- rollback drops.)
CREATE OR REPLACE FUNCTION billing_data.delivery_payload(p_row billing_data.outbox) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
AS $$
    SELECT json_build_object(
        'type', (p_row).kind,
        'timestamp', to_char((p_row).created_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'data', coalesce(
            (
                SELECT jsonb_build_object(
                    'account_id', a.id, 'oauth_provider', a.oauth_provider,
                    'external_id', a.external_id
                )
                FROM billing_data.accounts AS a
                WHERE a.id = (p_row).account_id
            ),
            '{}'
        ) || (p_row).data
    )::text
$$;
COMMENT ON FUNCTION billing_data.delivery_payload IS 'The body of a delivery. Helper.';

-- Claims deliveries that are due, up to p_most for each endpoint that is switched on and is not one
-- of p_busy, for a minute. The caller sends each and records the result. The commit is
-- asynchronous: a claim that a crash loses is made again. No actor is needed: the servers call it
-- by themselves.
-- Locks: the rows it claims; held ones are left out. Writes: outbox 1 per claimed row.
-- Errors: invalid_argument.
-- Example: SELECT * FROM billing.claim_deliveries(p_most => 10);
CREATE OR REPLACE FUNCTION billing.claim_deliveries(
    p_most integer DEFAULT 10, p_busy uuid[] DEFAULT '{}'
) RETURNS TABLE (
    delivery_id uuid, event_id uuid, endpoint_id uuid, attempt integer, url text, secrets jsonb,
    payload text
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    PERFORM billing_data.require(p_most > 0 AND p_most <= 1000, 'p_most', 'it must be 1 to 1000');
    PERFORM billing_data.require_list(array_dims(p_busy), cardinality(p_busy), 'p_busy');
    PERFORM set_config('synchronous_commit', 'off', true);
    RETURN QUERY
    WITH due AS MATERIALIZED (
        SELECT n.id
        FROM billing_data.webhook_endpoints AS e
        CROSS JOIN LATERAL (
            SELECT o.id
            FROM billing_data.outbox AS o
            WHERE o.endpoint_id = e.id AND o.state = 'waiting' AND o.due_at <= v_now
            ORDER BY o.due_at
            LIMIT p_most
            FOR UPDATE SKIP LOCKED
        ) AS n
        WHERE e.status = 'on' AND (e.id = ANY (p_busy)) IS NOT TRUE
    ),
    claimed AS (
        UPDATE billing_data.outbox AS o
        SET attempts = o.attempts + 1, attempted_at = v_now, due_at = v_now + interval '1 minute'
        FROM due AS d
        WHERE o.id = d.id
        RETURNING o.id, o.event_id, o.endpoint_id, o.attempts
    )
    SELECT
        c.id, c.event_id, c.endpoint_id, c.attempts, e.url, billing_data.signing_secrets(e),
        billing_data.delivery_payload(o)
    FROM claimed AS c
    INNER JOIN billing_data.outbox AS o ON o.id = c.id
    INNER JOIN billing_data.webhook_endpoints AS e ON e.id = c.endpoint_id
    ORDER BY c.id;
END
$$;
COMMENT ON FUNCTION billing.claim_deliveries IS
    'Claims alerts that are due, for a minute. For billing_server.';
GRANT EXECUTE ON FUNCTION billing.claim_deliveries TO billing_server;

-- Records the result of an attempt. p_error NULL says that the alert was delivered; otherwise it is
-- tried again after a pause, or parked as failed after the last attempt. The answer 410 Gone says
-- that the receiver wants no alerts any more: its endpoint is switched off, and what waits for it
-- is parked. A failure is not recorded when the delivery was claimed again meanwhile. Returns the
-- delivery's state; NULL when nothing was recorded.
-- Locks: after a 410 the endpoint; the row. Writes: outbox 0..1; after a 410 outbox 0..n and what
-- billing_data.switch_off_gone writes. Errors: invalid_argument.
-- Example: SELECT billing.note_delivery(p_delivery_id => '...', p_attempt => 1,
--     p_answer_status => 204);
CREATE OR REPLACE FUNCTION billing.note_delivery(
    p_delivery_id uuid,
    p_attempt integer,
    p_answer_status integer DEFAULT NULL,
    p_error text DEFAULT NULL
) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_endpoint_id uuid;
    v_is_gone boolean := false;
    v_state text;
BEGIN
    PERFORM billing_data.require_short(p_error, 'p_error');
    IF p_answer_status = 410 THEN
        SELECT o.endpoint_id, billing_data.switch_off_gone(o.endpoint_id, o.attempted_at)
        INTO v_endpoint_id, v_is_gone
        FROM billing_data.outbox AS o
        WHERE o.id = p_delivery_id AND o.state = 'waiting' AND o.attempts = p_attempt;
    END IF;
    UPDATE billing_data.outbox AS o
    SET state = n.state, answer_status = p_answer_status, error = p_error,
        settled_at = CASE WHEN n.state <> 'waiting' THEN v_now END,
        due_at = CASE
            WHEN n.state = 'waiting' THEN v_now + billing_data.delivery_pause(p_attempt)
            ELSE o.due_at
        END
    FROM (
        SELECT
            w.id,
            CASE
                WHEN p_error IS NULL THEN 'delivered'
                WHEN v_is_gone OR w.attempts >= billing_data.most_attempts() THEN 'failed'
                ELSE 'waiting'
            END AS state
        FROM billing_data.outbox AS w
        WHERE w.id = p_delivery_id
    ) AS n
    WHERE o.id = n.id AND o.state = 'waiting' AND (p_error IS NULL OR o.attempts = p_attempt)
    RETURNING o.state INTO v_state;
    IF v_is_gone THEN
        PERFORM billing_data.park_deliveries(v_endpoint_id);
    END IF;
    RETURN v_state;
END
$$;
COMMENT ON FUNCTION billing.note_delivery IS
    'Records the result of an attempt to deliver an alert. For billing_server.';
GRANT EXECUTE ON FUNCTION billing.note_delivery TO billing_server;

-- The ids of the deliveries that a list or a count finds, newest first: of one endpoint, state,
-- kind or account only where one is named, and of the UTC days p_from to p_to on which the alerts
-- were raised, both included. (It returns ids, not rows of the table, because the step's rollback
-- drops the table's type.)
-- Errors: invalid_argument.
CREATE OR REPLACE FUNCTION billing_data.found_deliveries(
    p_endpoint_id uuid,
    p_state text,
    p_kind text,
    p_account_id uuid,
    p_from date,
    p_to date,
    p_limit bigint,
    p_offset bigint
) RETURNS SETOF uuid
LANGUAGE plpgsql STABLE ROWS 50
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_family uuid[] := billing_data.merged_family(billing_data.surviving_account(p_account_id));
BEGIN
    PERFORM billing_data.require_moment(p_from::timestamptz, 'p_from');
    PERFORM billing_data.require_moment(p_to::timestamptz, 'p_to');
    RETURN QUERY
    SELECT o.id
    FROM billing_data.outbox AS o
    WHERE (p_endpoint_id IS NULL OR o.endpoint_id = p_endpoint_id)
        AND (p_state IS NULL OR o.state = p_state)
        AND (p_kind IS NULL OR o.kind = p_kind)
        AND (p_account_id IS NULL OR o.account_id = ANY (v_family))
        AND (p_from IS NULL OR o.created_at >= p_from::timestamp AT TIME ZONE 'UTC')
        AND (p_to IS NULL OR o.created_at < (p_to + 1)::timestamp AT TIME ZONE 'UTC')
    ORDER BY o.id DESC
    LIMIT p_limit OFFSET p_offset;
END
$$;
COMMENT ON FUNCTION billing_data.found_deliveries IS
    'The deliveries that a list or a count finds. Helper.';

-- Lists deliveries, newest first: only those of an endpoint, state, kind or account where one is
-- named, and only those whose alerts were raised on the UTC days p_from to p_to, both included.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.list_deliveries(p_state => 'failed');
CREATE OR REPLACE FUNCTION billing.list_deliveries(
    p_endpoint_id uuid DEFAULT NULL,
    p_state text DEFAULT NULL,
    p_kind text DEFAULT NULL,
    p_account_id uuid DEFAULT NULL,
    p_limit bigint DEFAULT 50,
    p_offset bigint DEFAULT 0,
    p_from date DEFAULT NULL,
    p_to date DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    delivery_id uuid, event_id uuid, endpoint_id uuid, endpoint_name text, kind text,
    account_id uuid, payload text, state text, attempts integer, created_at timestamptz,
    due_at timestamptz, attempted_at timestamptz, answer_status integer, error text,
    settled_at timestamptz, account text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, p_offset, 501);
    RETURN QUERY
    SELECT
        o.id, o.event_id, o.endpoint_id, e.name, o.kind, o.account_id,
        billing_data.delivery_payload(o), o.state, o.attempts, o.created_at,
        CASE WHEN o.state = 'waiting' THEN o.due_at END, o.attempted_at, o.answer_status, o.error,
        o.settled_at, coalesce(a.customer_email, a.external_id)::text
    FROM billing_data.found_deliveries(
        p_endpoint_id => p_endpoint_id, p_state => p_state, p_kind => p_kind,
        p_account_id => p_account_id, p_from => p_from, p_to => p_to,
        p_limit => p_limit, p_offset => p_offset
    ) AS f (id)
    INNER JOIN billing_data.outbox AS o ON o.id = f.id
    LEFT JOIN billing_data.webhook_endpoints AS e ON e.id = o.endpoint_id
    LEFT JOIN billing_data.accounts AS a ON a.id = o.account_id
    ORDER BY o.id DESC;
END
$$;
COMMENT ON FUNCTION billing.list_deliveries IS
    'Lists alerts on their way and delivered, newest first. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_deliveries TO billing_server, billing_dba;

-- How many deliveries billing.list_deliveries lists for the same filters: at most p_most, and
-- is_more says that there are more. It stops at p_most.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.count_deliveries(p_state => 'failed');
CREATE OR REPLACE FUNCTION billing.count_deliveries(
    p_endpoint_id uuid DEFAULT NULL,
    p_state text DEFAULT NULL,
    p_kind text DEFAULT NULL,
    p_account_id uuid DEFAULT NULL,
    p_from date DEFAULT NULL,
    p_to date DEFAULT NULL,
    p_most bigint DEFAULT 10000,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (deliveries bigint, is_more boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_most(p_most);
    RETURN QUERY
    SELECT least(count(*), p_most), count(*) > p_most
    FROM billing_data.found_deliveries(
        p_endpoint_id => p_endpoint_id, p_state => p_state, p_kind => p_kind,
        p_account_id => p_account_id, p_from => p_from, p_to => p_to,
        p_limit => p_most + 1, p_offset => 0
    );
END
$$;
COMMENT ON FUNCTION billing.count_deliveries IS
    'Counts alerts on their way and delivered. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.count_deliveries TO billing_server, billing_dba;

-- Sends one delivery again (p_delivery_id), whatever its state, or all failed ones of an endpoint
-- (p_endpoint_id): they are due at once, with all attempts ahead, under the same webhook-id.
-- Returns how many deliveries those are.
-- Locks: the rows. Writes: outbox 1..n, admin_audit_logs 1 when there were any. Errors: actor
-- errors, invalid_argument, delivery_not_found, webhook_endpoint_not_found, webhook_endpoint_off.
-- Example: SELECT billing.resend_deliveries(p_endpoint_id => '...', p_reason => 'mended');
CREATE OR REPLACE FUNCTION billing.resend_deliveries(
    p_reason text,
    p_delivery_id uuid DEFAULT NULL,
    p_endpoint_id uuid DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_endpoint_id uuid := p_endpoint_id;
    v_resent bigint;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require(
        num_nonnulls(p_delivery_id, p_endpoint_id) = 1, 'p_delivery_id',
        'give either one delivery or an endpoint'
    );
    PERFORM billing_data.require_durable_commit();
    IF p_delivery_id IS NOT NULL THEN
        SELECT o.endpoint_id INTO v_endpoint_id
        FROM billing_data.outbox AS o
        WHERE o.id = p_delivery_id;
        IF NOT FOUND THEN
            PERFORM billing_data.raise_error(
                'delivery_not_found', jsonb_build_object('delivery_id', p_delivery_id)
            );
        END IF;
    END IF;
    IF (billing_data.lock_endpoint(v_endpoint_id)).status = 'off' THEN
        PERFORM billing_data.raise_error(
            'webhook_endpoint_off', jsonb_build_object('endpoint_id', v_endpoint_id)
        );
    END IF;
    UPDATE billing_data.outbox AS o
    SET state = 'waiting', attempts = 0, due_at = clock_timestamp(), settled_at = NULL
    WHERE o.id = p_delivery_id
        OR (o.endpoint_id = p_endpoint_id AND o.state = 'failed');
    GET DIAGNOSTICS v_resent = ROW_COUNT;
    IF v_resent > 0 THEN
        PERFORM billing_data.write_audit(
            'webhook.resend', 'webhook_endpoint', v_endpoint_id::text,
            jsonb_build_object('delivery_id', p_delivery_id, 'deliveries', v_resent), p_reason,
            v_actor
        );
    END IF;
    RETURN v_resent;
END
$$;
COMMENT ON FUNCTION billing.resend_deliveries IS
    'Sends a delivery again, or all failed ones of an endpoint, with a reason. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.resend_deliveries TO billing_server, billing_dba;

-- What an alarm needs to know about endpoints that are switched on: how many deliveries wait, when
-- the first of them is or was due, and how many were given up.
-- Example: SELECT * FROM billing.watch_outbox();
CREATE OR REPLACE FUNCTION billing.watch_outbox()
RETURNS TABLE (waiting bigint, due_since timestamptz, failed bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT
        count(*) FILTER (WHERE o.state = 'waiting'),
        min(o.due_at) FILTER (WHERE o.state = 'waiting'),
        count(*) FILTER (WHERE o.state = 'failed')
    FROM billing_data.webhook_endpoints AS e
    INNER JOIN billing_data.outbox AS o ON o.endpoint_id = e.id
    WHERE e.status = 'on' AND o.state <> 'delivered';
END
$$;
COMMENT ON FUNCTION billing.watch_outbox IS
    'Tells what waits in the outbox, for alarms. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.watch_outbox TO billing_server, billing_dba;

-- Retention of the outbox: deletes up to p_rows deliveries that were settled before p_before, and
-- those of endpoints that are gone. Returns how many deliveries were deleted.
-- Locks: none that a charge waits for. Writes: admin_audit_logs 1 when it deleted. Errors:
-- actor_required, invalid_argument.
-- Example: SELECT billing.delete_deliveries(p_before => now() - interval '13 months');
CREATE OR REPLACE FUNCTION billing.delete_deliveries(
    p_before timestamptz, p_rows bigint DEFAULT 500000
) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'  -- of the time in the audit log
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, NULL, 'billing:write');
    v_deleted bigint;
BEGIN
    PERFORM billing_data.require_retention(p_before, p_rows);
    DELETE FROM billing_data.outbox AS o
    WHERE o.id = ANY (ARRAY(
        SELECT n.id FROM billing_data.outbox AS n
        WHERE n.settled_at < p_before
            OR NOT EXISTS (
                SELECT FROM billing_data.webhook_endpoints AS e WHERE e.id = n.endpoint_id
            )
        LIMIT p_rows
    ));
    GET DIAGNOSTICS v_deleted = ROW_COUNT;
    IF v_deleted > 0 THEN
        PERFORM billing_data.write_audit(
            'outbox.delete', 'outbox', NULL,
            jsonb_build_object('before', p_before, 'deleted', v_deleted), NULL, v_actor
        );
    END IF;
    RETURN v_deleted;
END
$$;
COMMENT ON FUNCTION billing.delete_deliveries IS
    'Deletes deliveries that were settled before a time. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.delete_deliveries TO billing_dba;

-- How long before credits end the alert is raised that they expire soon.
CREATE OR REPLACE FUNCTION billing_data.expiry_notice() RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN interval '7 days';
COMMENT ON FUNCTION billing_data.expiry_notice IS
    'How long before credits end an alert says so. Helper.';

-- Raises an alert for each lot of credits that ends within seven days and has something left, once
-- for each lot. Does nothing while no endpoint wants this kind of alert. Returns how many alerts it
-- raised. The servers call it by themselves, every minute.
-- Locks: none that a charge waits for. Writes: announced_lots 1 per lot, outbox 1 per lot and
-- endpoint. Errors: invalid_argument.
-- Example: SELECT billing.announce_expiring_credits(p_most => 100);
CREATE OR REPLACE FUNCTION billing.announce_expiring_credits(p_most integer DEFAULT 500)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'  -- of the times in the alerts
AS $$
DECLARE
    v_now timestamptz := billing_data.clock();
    v_lot billing_data.lots;
    v_announced bigint := 0;
BEGIN
    PERFORM billing_data.require(p_most > 0 AND p_most <= 10000, 'p_most', 'it must be 1 to 10000');
    IF NOT billing_data.is_wanted('credits.expiring') THEN
        RETURN 0;
    END IF;
    FOR v_lot IN
        WITH announced AS (
            INSERT INTO billing_data.announced_lots AS n (lot_id, announced_at)
            SELECT l.id, v_now
            FROM billing_data.lots AS l
            WHERE l.has_left
                AND l.expires_at > v_now
                AND l.expires_at <= v_now + billing_data.expiry_notice()
                AND NOT EXISTS (
                    SELECT FROM billing_data.announced_lots AS k WHERE k.lot_id = l.id
                )
            ORDER BY l.expires_at, l.id
            LIMIT p_most
            ON CONFLICT ON CONSTRAINT announced_lots_pkey DO NOTHING
            RETURNING n.lot_id
        )
        SELECT l.*
        FROM announced AS n
        INNER JOIN billing_data.lots AS l ON l.id = n.lot_id
        ORDER BY l.expires_at, l.id
    LOOP
        PERFORM billing_data.raise_alert(
            'credits.expiring', v_lot.account_id,
            jsonb_build_object(
                'lot_id', v_lot.id, 'credits', v_lot.left_minor, 'expires_at', v_lot.expires_at
            )
        );
        v_announced := v_announced + 1;
    END LOOP;
    RETURN v_announced;
END
$$;
COMMENT ON FUNCTION billing.announce_expiring_credits IS
    'Raises an alert for each lot of credits that ends within a week. For billing_server.';
GRANT EXECUTE ON FUNCTION billing.announce_expiring_credits TO billing_server;
