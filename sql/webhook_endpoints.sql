-- Webhook endpoints: where alerts are sent. Secrets are encrypted before they arrive here and
-- decrypted outside the database, as those of payment providers are. An endpoint is switched on
-- after it has answered a signed test event; while it is paused, its alerts wait. One that answers
-- 410 Gone is switched off by the sender, and its row says so until it accepts a test event again.

-- Refuses a name, an address or kinds that make no endpoint. Only the shape of the address is
-- checked here: the servers look it up and decide whether they send to it.
-- Errors: invalid_argument.
CREATE OR REPLACE FUNCTION billing_data.require_endpoint(p_name text, p_url text, p_kinds text[])
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require_filled(p_name, 'p_name');
    PERFORM billing_data.require(
        p_url ~ '^https?://[^[:space:]/?#@]+([/?][^[:space:]#]*)?$', 'p_url',
        'it must be an address like https://example.com/billing, without user, password and #'
    );
    PERFORM billing_data.require_short(p_url, 'p_url');
    PERFORM billing_data.require_list(array_dims(p_kinds), cardinality(p_kinds), 'p_kinds');
    PERFORM billing_data.require(
        p_kinds <@ billing_data.alert_kinds() AND array_position(p_kinds, NULL) IS NULL, 'p_kinds',
        'they must be of ' || array_to_string(billing_data.alert_kinds(), ', ')
    );
END
$$;
COMMENT ON FUNCTION billing_data.require_endpoint IS
    'Raises invalid_argument unless an endpoint''s name, address and kinds are good. Helper.';

-- An endpoint, locked. Errors: webhook_endpoint_not_found.
CREATE OR REPLACE FUNCTION billing_data.lock_endpoint(p_endpoint_id uuid)
RETURNS billing_data.webhook_endpoints
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_endpoint billing_data.webhook_endpoints;
BEGIN
    SELECT e.* INTO v_endpoint
    FROM billing_data.webhook_endpoints AS e
    WHERE e.id = p_endpoint_id
    FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error(
            'webhook_endpoint_not_found', jsonb_build_object('endpoint_id', p_endpoint_id)
        );
    END IF;
    RETURN v_endpoint;
END
$$;
COMMENT ON FUNCTION billing_data.lock_endpoint IS 'An endpoint, locked. Helper.';

-- What is shown of an endpoint.
CREATE OR REPLACE FUNCTION billing_data.shown_endpoint(p_endpoint billing_data.webhook_endpoints)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT to_jsonb(p_endpoint) - '{id,created_at,updated_at,tried_at}'::text[]
        || jsonb_build_object(
            'secret', billing_data.mask_of((p_endpoint).secret),
            'old_secret', billing_data.mask_of((p_endpoint).old_secret)
        )
$$;
COMMENT ON FUNCTION billing_data.shown_endpoint IS
    'An endpoint with masked secrets, for the audit log. Helper.';

-- Makes an endpoint. It is off until it has been tried. p_secret comes encrypted; an empty list of
-- kinds stands for all kinds.
-- Locks: the settings row, so that the count is right. Writes: webhook_endpoints 1,
-- admin_audit_logs 1. Errors: actor errors, invalid_argument.
-- Example: SELECT billing.create_webhook_endpoint(p_name => 'shop',
--     p_url => 'https://example.com/billing', p_reason => 'the shop tops up',
--     p_secret => '{"encrypted": "as the server makes it", "masked": "whsec_…wxyz"}');
CREATE OR REPLACE FUNCTION billing.create_webhook_endpoint(
    p_name text,
    p_url text,
    p_secret jsonb,
    p_reason text,
    p_kinds text[] DEFAULT '{}',
    p_session_hash bytea DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_now timestamptz;
    v_endpoint billing_data.webhook_endpoints;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require_endpoint(p_name, p_url, p_kinds);
    PERFORM billing_data.require(
        billing_data.is_sealed(p_secret), 'p_secret', 'it must be encrypted, with its mask'
    );
    PERFORM billing_data.require_short(p_secret::text, 'p_secret');
    PERFORM billing_data.require_durable_commit();
    PERFORM FROM billing_data.settings AS s FOR NO KEY UPDATE;
    PERFORM billing_data.require(
        (SELECT count(*) < 20 FROM billing_data.webhook_endpoints AS e), 'p_url',
        'there can be 20 endpoints at most'
    );
    v_now := clock_timestamp();
    INSERT INTO billing_data.webhook_endpoints AS e (
        id, name, url, kinds, secret, created_at, updated_at
    )
    VALUES (billing_data.new_id(), p_name, p_url, p_kinds, p_secret, v_now, v_now)
    RETURNING e.* INTO v_endpoint;
    PERFORM billing_data.write_audit(
        'webhook.create', 'webhook_endpoint', v_endpoint.id::text,
        jsonb_build_object('after', billing_data.shown_endpoint(v_endpoint)), p_reason, v_actor
    );
    RETURN v_endpoint.id;
END
$$;
COMMENT ON FUNCTION billing.create_webhook_endpoint IS
    'Makes an endpoint for alerts, switched off. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.create_webhook_endpoint TO billing_server, billing_dba;

-- Parks the deliveries that wait for an endpoint that is switched off; they can be sent again
-- later. The caller holds the endpoint. Writes: outbox 0..n.
CREATE OR REPLACE FUNCTION billing_data.park_deliveries(p_endpoint_id uuid) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE billing_data.outbox AS o
    SET state = 'failed', error = 'the endpoint was switched off', settled_at = clock_timestamp()
    WHERE o.endpoint_id = p_endpoint_id AND o.state = 'waiting'
$$;
COMMENT ON FUNCTION billing_data.park_deliveries IS
    'Parks the deliveries that wait for an endpoint that is switched off. Helper.';

-- Switches an endpoint off that answered 410 Gone to a delivery which was claimed at p_claimed_at,
-- unless it was tried again since then, perhaps at another address. It must be tried before it is
-- switched on again. Returns whether it was switched off.
-- Locks: the endpoint. Writes: webhook_endpoints 0..1, admin_audit_logs 0..1 under the server's
-- login.
CREATE OR REPLACE FUNCTION billing_data.switch_off_gone(
    p_endpoint_id uuid, p_claimed_at timestamptz
) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_before billing_data.webhook_endpoints;
    v_after billing_data.webhook_endpoints;
BEGIN
    SELECT e.* INTO v_before
    FROM billing_data.webhook_endpoints AS e
    WHERE e.id = p_endpoint_id AND e.status <> 'off' AND e.tried_at <= p_claimed_at
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM billing_data.require_durable_commit();
    UPDATE billing_data.webhook_endpoints AS e
    SET status = 'off', tried_at = NULL, updated_at = clock_timestamp(),
        problem = 'it answered 410 Gone: its owner wants no alerts any more'
    WHERE e.id = p_endpoint_id
    RETURNING e.* INTO v_after;
    PERFORM billing_data.write_audit(
        'webhook.gone', 'webhook_endpoint', p_endpoint_id::text,
        jsonb_build_object(
            'before', billing_data.shown_endpoint(v_before),
            'after', billing_data.shown_endpoint(v_after)
        ),
        v_after.problem, ROW(NULL, NULL, session_user)::billing_data.actor
    );
    RETURN true;
END
$$;
COMMENT ON FUNCTION billing_data.switch_off_gone IS
    'Switches an endpoint off that answered 410 Gone. Helper.';

-- Changes an endpoint, or switches it on, off or pauses it; NULL keeps the present value. An
-- endpoint that gets another address is off until it has been tried there. What waits for an
-- endpoint that is switched off is parked as failed, and can be sent again later.
-- Locks: the endpoint. Writes: webhook_endpoints 0..1, outbox 0..n, admin_audit_logs 1 when it
-- changed. Errors: actor errors, invalid_argument, webhook_endpoint_not_found, webhook_not_tried.
-- Example: SELECT * FROM billing.set_webhook_endpoint(p_endpoint_id => '...',
--     p_status => 'paused', p_reason => 'the shop is being moved');
CREATE OR REPLACE FUNCTION billing.set_webhook_endpoint(
    p_endpoint_id uuid,
    p_reason text,
    p_name text DEFAULT NULL,
    p_url text DEFAULT NULL,
    p_kinds text[] DEFAULT NULL,
    p_status text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (endpoint_id uuid, name text, url text, status text, previous_status text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_before billing_data.webhook_endpoints;
    v_after billing_data.webhook_endpoints;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require(
        p_status IS NULL OR p_status IN ('off', 'on', 'paused'), 'p_status',
        'it must be off, on or paused'
    );
    PERFORM billing_data.require_durable_commit();
    v_before := billing_data.lock_endpoint(p_endpoint_id);
    v_after := v_before;
    v_after.name := coalesce(p_name, v_before.name);
    v_after.url := coalesce(p_url, v_before.url);
    v_after.kinds := coalesce(p_kinds, v_before.kinds);
    PERFORM billing_data.require_endpoint(v_after.name, v_after.url, v_after.kinds);
    IF v_after.url <> v_before.url THEN
        v_after.tried_at := NULL;
        v_after.problem := NULL;
        v_after.status := 'off';
    END IF;
    v_after.status := coalesce(p_status, v_after.status);
    IF v_after.status <> 'off' AND v_after.tried_at IS NULL THEN
        PERFORM billing_data.raise_error(
            'webhook_not_tried', jsonb_build_object('endpoint_id', p_endpoint_id)
        );
    END IF;
    IF v_after IS DISTINCT FROM v_before THEN
        UPDATE billing_data.webhook_endpoints AS e
        SET name = v_after.name, url = v_after.url, kinds = v_after.kinds,
            status = v_after.status, tried_at = v_after.tried_at, problem = v_after.problem,
            updated_at = clock_timestamp()
        WHERE e.id = p_endpoint_id;
        IF v_after.status = 'off' THEN
            PERFORM billing_data.park_deliveries(p_endpoint_id);
        END IF;
        PERFORM billing_data.write_audit(
            'webhook.set', 'webhook_endpoint', p_endpoint_id::text,
            jsonb_build_object(
                'before', billing_data.shown_endpoint(v_before),
                'after', billing_data.shown_endpoint(v_after)
            ),
            p_reason, v_actor
        );
    END IF;
    RETURN QUERY SELECT
        p_endpoint_id, v_after.name, v_after.url, v_after.status, v_before.status;
END
$$;
COMMENT ON FUNCTION billing.set_webhook_endpoint IS
    'Changes an endpoint, or switches it on, off or pauses it, with a reason. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.set_webhook_endpoint TO billing_server, billing_dba;

-- Gives an endpoint another secret. Alerts are signed with both secrets for a day, so that the
-- receiver can change over meanwhile. A further rotation within that day ends the oldest secret at
-- once.
-- Locks: the endpoint. Writes: webhook_endpoints 1, admin_audit_logs 1. Errors: actor errors,
-- invalid_argument, webhook_endpoint_not_found.
-- Example: SELECT billing.rotate_webhook_secret(p_endpoint_id => '...', p_reason => 'leaked',
--     p_secret => '{"encrypted": "as the server makes it", "masked": "whsec_…wxyz"}');
CREATE OR REPLACE FUNCTION billing.rotate_webhook_secret(
    p_endpoint_id uuid, p_secret jsonb, p_reason text, p_session_hash bytea DEFAULT NULL
) RETURNS timestamptz
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_before billing_data.webhook_endpoints;
    v_until timestamptz := clock_timestamp() + interval '1 day';
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require(
        billing_data.is_sealed(p_secret), 'p_secret', 'it must be encrypted, with its mask'
    );
    PERFORM billing_data.require_short(p_secret::text, 'p_secret');
    PERFORM billing_data.require_durable_commit();
    v_before := billing_data.lock_endpoint(p_endpoint_id);
    UPDATE billing_data.webhook_endpoints AS e
    SET secret = p_secret, old_secret = e.secret, old_secret_until = v_until,
        updated_at = clock_timestamp()
    WHERE e.id = p_endpoint_id;
    PERFORM billing_data.write_audit(
        'webhook.rotate', 'webhook_endpoint', p_endpoint_id::text,
        jsonb_build_object(
            'before', billing_data.mask_of(v_before.secret),
            'after', billing_data.mask_of(p_secret)
        ),
        p_reason, v_actor
    );
    RETURN v_until;
END
$$;
COMMENT ON FUNCTION billing.rotate_webhook_secret IS
    'Gives an endpoint another secret and returns until when the old one signs, too. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.rotate_webhook_secret TO billing_server, billing_dba;

-- Stores the secrets that sign an endpoint's alerts, encrypted with another key; the secrets
-- themselves stay the same. An old secret that signs no more is deleted. Returns false, and writes
-- nothing, where the endpoint was changed after p_unchanged_since or has other secrets by now. Then
-- the caller reads it again.
-- Locks: the endpoint. Writes: webhook_endpoints 0..1, admin_audit_logs 0..1. Errors: actor errors,
-- invalid_argument, webhook_endpoint_not_found.
-- Example: SELECT billing.reseal_webhook_secrets(p_endpoint_id => '...', p_reason => 'a new key',
--     p_secrets => '[{"encrypted": "as the server makes it", "masked": "whsec_…test"}]');
CREATE OR REPLACE FUNCTION billing.reseal_webhook_secrets(
    p_endpoint_id uuid,
    p_secrets jsonb,
    p_reason text,
    p_unchanged_since timestamptz DEFAULT NULL
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, NULL, 'billing:write');
    v_before billing_data.webhook_endpoints;
    v_now timestamptz;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require_moment(p_unchanged_since, 'p_unchanged_since');
    PERFORM billing_data.require(
        (
            SELECT bool_and(
                billing_data.is_sealed(s.value)
                AND length(s.value::text) <= billing_data.most('secret')
            )
            FROM jsonb_array_elements(
                CASE WHEN jsonb_typeof(p_secrets) = 'array' THEN p_secrets END
            ) AS s (value)
        ),
        'p_secrets', 'they must be encrypted, each with its mask'
    );
    PERFORM billing_data.require_durable_commit();
    v_before := billing_data.lock_endpoint(p_endpoint_id);
    v_now := clock_timestamp();
    IF v_before.updated_at > p_unchanged_since
        OR jsonb_path_query_array(p_secrets, '$[*].masked')
            <> jsonb_path_query_array(billing_data.signing_secrets(v_before), '$[*].masked')
    THEN
        RETURN false;
    END IF;
    UPDATE billing_data.webhook_endpoints AS e
    SET secret = p_secrets -> 0,
        old_secret = p_secrets -> 1,
        old_secret_until = CASE WHEN p_secrets -> 1 IS NOT NULL THEN e.old_secret_until END,
        updated_at = v_now
    WHERE e.id = p_endpoint_id;
    PERFORM billing_data.write_audit(
        'webhook.reseal', 'webhook_endpoint', p_endpoint_id::text,
        jsonb_build_object('secrets', jsonb_path_query_array(p_secrets, '$[*].masked')), p_reason,
        v_actor
    );
    RETURN true;
END
$$;
COMMENT ON FUNCTION billing.reseal_webhook_secrets IS
    'Stores an endpoint''s secrets as another key has encrypted them. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.reseal_webhook_secrets TO billing_dba;

-- Deletes an endpoint that is switched off, and all deliveries to it.
-- Locks: the endpoint. Writes: webhook_endpoints 1, outbox 0..n, admin_audit_logs 1. Errors: actor
-- errors, invalid_argument, webhook_endpoint_not_found, webhook_endpoint_in_use.
-- Example: SELECT billing.delete_webhook_endpoint(p_endpoint_id => '...', p_reason => 'gone');
CREATE OR REPLACE FUNCTION billing.delete_webhook_endpoint(
    p_endpoint_id uuid, p_reason text, p_session_hash bytea DEFAULT NULL
) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_endpoint billing_data.webhook_endpoints;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require_durable_commit();
    v_endpoint := billing_data.lock_endpoint(p_endpoint_id);
    IF v_endpoint.status <> 'off' THEN
        PERFORM billing_data.raise_error(
            'webhook_endpoint_in_use',
            jsonb_build_object('endpoint_id', p_endpoint_id, 'status', v_endpoint.status)
        );
    END IF;
    DELETE FROM billing_data.outbox AS o WHERE o.endpoint_id = p_endpoint_id;
    DELETE FROM billing_data.webhook_endpoints AS e WHERE e.id = p_endpoint_id;
    PERFORM billing_data.write_audit(
        'webhook.delete', 'webhook_endpoint', p_endpoint_id::text,
        jsonb_build_object('before', billing_data.shown_endpoint(v_endpoint)), p_reason, v_actor
    );
    RETURN v_endpoint.name;
END
$$;
COMMENT ON FUNCTION billing.delete_webhook_endpoint IS
    'Deletes an endpoint that is switched off. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.delete_webhook_endpoint TO billing_server, billing_dba;

-- Lists the endpoints with masked secrets, and how many deliveries wait or have failed. problem
-- says why the sender switched one off.
-- Errors: actor errors.
-- Example: SELECT * FROM billing.list_webhook_endpoints();
CREATE OR REPLACE FUNCTION billing.list_webhook_endpoints(p_session_hash bytea DEFAULT NULL)
RETURNS TABLE (
    endpoint_id uuid, name text, url text, kinds text[], status text, secret text,
    old_secret text, old_secret_until timestamptz, tried_at timestamptz, waiting bigint,
    failed bigint, created_at timestamptz, updated_at timestamptz, problem text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    RETURN QUERY
    SELECT
        e.id, e.name, e.url, e.kinds, e.status, billing_data.mask_of(e.secret),
        CASE WHEN e.old_secret_until > now() THEN billing_data.mask_of(e.old_secret) END,
        CASE WHEN e.old_secret_until > now() THEN e.old_secret_until END, e.tried_at,
        n.waiting, n.failed, e.created_at, e.updated_at, e.problem
    FROM billing_data.webhook_endpoints AS e
    CROSS JOIN LATERAL (
        SELECT
            count(*) FILTER (WHERE o.state = 'waiting') AS waiting,
            count(*) FILTER (WHERE o.state = 'failed') AS failed
        FROM billing_data.outbox AS o
        WHERE o.endpoint_id = e.id AND o.state <> 'delivered'
    ) AS n
    ORDER BY e.created_at, e.id;
END
$$;
COMMENT ON FUNCTION billing.list_webhook_endpoints IS
    'Lists the endpoints for alerts, secrets masked. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_webhook_endpoints TO billing_server, billing_dba;

-- Reads an endpoint with the encrypted secrets that sign now, to try it. Errors: actor errors,
-- webhook_endpoint_not_found.
-- Example: SELECT * FROM billing.get_webhook_endpoint(p_endpoint_id => '...');
CREATE OR REPLACE FUNCTION billing.get_webhook_endpoint(
    p_endpoint_id uuid, p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (endpoint_id uuid, name text, url text, status text, secrets jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:write');
    RETURN QUERY
    SELECT e.id, e.name, e.url, e.status, billing_data.signing_secrets(e)
    FROM billing_data.webhook_endpoints AS e
    WHERE e.id = p_endpoint_id;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error(
            'webhook_endpoint_not_found', jsonb_build_object('endpoint_id', p_endpoint_id)
        );
    END IF;
END
$$;
COMMENT ON FUNCTION billing.get_webhook_endpoint IS
    'Reads an endpoint, secrets encrypted. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.get_webhook_endpoint TO billing_server, billing_dba;

-- The secrets that an endpoint's alerts are signed with, the newest first.
CREATE OR REPLACE FUNCTION billing_data.signing_secrets(p_endpoint billing_data.webhook_endpoints)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_array((p_endpoint).secret) || CASE
        WHEN (p_endpoint).old_secret_until > clock_timestamp()
            THEN jsonb_build_array((p_endpoint).old_secret)
        ELSE '[]'
    END
$$;
COMMENT ON FUNCTION billing_data.signing_secrets IS
    'The secrets that sign an endpoint''s alerts, encrypted. Helper.';

-- Records that an endpoint was tried at p_url: p_error NULL says that it accepted the test event,
-- and that it can be switched on while it has this address.
-- Locks: the endpoint. Writes: webhook_endpoints 0..1, admin_audit_logs 1. Errors: actor errors,
-- invalid_argument, webhook_endpoint_not_found.
-- Example: SELECT billing.record_webhook_try(p_endpoint_id => '...',
--     p_url => 'https://example.com/billing', p_error => 'it answered 500');
CREATE OR REPLACE FUNCTION billing.record_webhook_try(
    p_endpoint_id uuid,
    p_url text,
    p_error text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_endpoint billing_data.webhook_endpoints;
    v_is_accepted boolean;
BEGIN
    PERFORM billing_data.require_short(p_error, 'p_error');
    PERFORM billing_data.require_short(p_url, 'p_url');
    PERFORM billing_data.require_durable_commit();
    v_endpoint := billing_data.lock_endpoint(p_endpoint_id);
    v_is_accepted := p_error IS NULL AND v_endpoint.url IS NOT DISTINCT FROM p_url;
    IF v_is_accepted THEN
        UPDATE billing_data.webhook_endpoints AS e
        SET tried_at = clock_timestamp(), problem = NULL
        WHERE e.id = p_endpoint_id;
    END IF;
    PERFORM billing_data.write_audit(
        'webhook.try', 'webhook_endpoint', p_endpoint_id::text,
        jsonb_build_object('url', p_url, 'accepted', v_is_accepted, 'error', p_error), NULL,
        v_actor
    );
    RETURN v_is_accepted;
END
$$;
COMMENT ON FUNCTION billing.record_webhook_try IS
    'Records the result of trying an endpoint. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.record_webhook_try TO billing_server, billing_dba;

-- Sets the balance at which an account counts as low: free uses left and paid credits together.
-- While it is set, checks say low_balance, and the alerts balance.low and balance.recovered are
-- raised when a balance crosses it. NULL switches that off.
-- Locks: the settings row. Writes: settings 0..1, admin_audit_logs 1 when it changed. Errors: actor
-- errors, invalid_argument.
-- Example: SELECT billing.set_low_balance(p_threshold => 5, p_reason => 'tell users in time');
CREATE OR REPLACE FUNCTION billing.set_low_balance(
    p_reason text, p_threshold bigint DEFAULT NULL, p_session_hash bytea DEFAULT NULL
) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_before bigint;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require(
        p_threshold IS NULL OR p_threshold BETWEEN 1 AND 1000000000000, 'p_threshold',
        'it must be 1 to 1000000000000, or NULL for none'
    );
    PERFORM billing_data.require_durable_commit();
    SELECT s.low_balance INTO STRICT v_before
    FROM billing_data.settings AS s
    FOR NO KEY UPDATE;
    IF v_before IS DISTINCT FROM p_threshold THEN
        UPDATE billing_data.settings AS s
        SET low_balance = p_threshold, updated_at = clock_timestamp();
        PERFORM billing_data.write_audit(
            'settings.set_low_balance', 'settings', 'low_balance',
            jsonb_build_object('before', v_before, 'after', p_threshold), p_reason, v_actor
        );
    END IF;
    RETURN p_threshold;
END
$$;
COMMENT ON FUNCTION billing.set_low_balance IS
    'Sets the balance that counts as low, NULL for none, with a reason. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.set_low_balance TO billing_server, billing_dba;
