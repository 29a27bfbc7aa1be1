-- A list of charges under one idempotency key: the whole list takes effect once.

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

-- The record of a batch under this API key, or else under another key of its chain of rotations; no
-- row when there is none.
CREATE OR REPLACE FUNCTION billing_data.find_batch(
    p_api_key_id uuid, p_first_key_id uuid, p_idempotency_key text
) RETURNS TABLE (
    api_key_id uuid, request_fingerprint bytea, batch_fingerprint bytea, answer jsonb
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT b.api_key_id, b.request_fingerprint, b.batch_fingerprint, b.answer
    FROM billing_data.batch_requests AS b
    WHERE b.idempotency_key = p_idempotency_key
        AND (b.api_key_id = p_api_key_id OR b.first_key_id = p_first_key_id)
    ORDER BY b.api_key_id = p_api_key_id DESC
    LIMIT 1
$$;
COMMENT ON FUNCTION billing_data.find_batch IS
    'What is remembered of a batch under its idempotency key. Helper.';

-- Makes the charges of one request, in their order, and records the outcomes under
-- p_idempotency_key for this API key and every key of its chain of rotations. The same request
-- again returns the first outcomes (replayed true) and charges nothing; another request under the
-- same key is refused. All items name one API key. p_batch_fingerprint is a digest of the request
-- that does not depend on the API key and leaves absent fields out; p_request_fingerprint depends
-- on the key, for servers of releases that know no other. Everything is one transaction. While an
-- account is held, the call waits for it and holds no other; with p_wait false, every item's
-- outcome is 'busy' after a moment, and nothing is recorded.
-- Locks: as billing.charge_items, then the batch_requests row. Writes: batch_requests 0..1, and as
-- billing.charge_items.
-- Errors: actor and key errors, invalid_argument, idempotency_key_reused, and lock_not_available
-- when an account stays held; all else is an item's outcome.
-- Example: SELECT * FROM billing.charge_items_once(p_idempotency_key => 'batch-1',
--     p_request_fingerprint => '\x00', p_items => ..., ...);
CREATE OR REPLACE FUNCTION billing.charge_items_once(
    p_idempotency_key text,
    p_request_fingerprint bytea,
    p_items billing.charge_item[],
    p_batch_fingerprint bytea DEFAULT NULL,
    p_wait boolean DEFAULT true
) RETURNS SETOF billing.charge_outcome
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_credential uuid := (p_items[1]).api_key_id;
    v_first_key_id uuid;
    v_first record;
    v_answer jsonb;
    v_replayed boolean := false;
    v_key_id uuid;
BEGIN
    PERFORM billing_data.require_list(array_dims(p_items), cardinality(p_items), 'p_items');
    v_key_id := (billing_data.authorize(v_credential, NULL, 'billing:write')).api_key_id;
    PERFORM billing_data.require(
        (v_credential = ALL (ARRAY(SELECT i.api_key_id FROM unnest(p_items) AS i))) IS TRUE,
        'p_items', 'they must all name one API key'
    );
    PERFORM billing_data.require(
        length(p_idempotency_key) BETWEEN 1 AND 255,
        'p_idempotency_key', 'it must have 1 to 255 characters'
    );
    PERFORM billing_data.require(
        length(p_request_fingerprint) BETWEEN 1 AND 64,
        'p_request_fingerprint', 'it must be a digest of 1 to 64 bytes'
    );
    PERFORM billing_data.require(
        coalesce(length(p_batch_fingerprint), 1) BETWEEN 1 AND 64,
        'p_batch_fingerprint', 'it must be a digest of 1 to 64 bytes'
    );
    PERFORM billing_data.require_durable_commit();
    v_first_key_id := billing_data.first_key_id(v_key_id);
    SELECT f.api_key_id, f.request_fingerprint, f.batch_fingerprint, f.answer INTO v_first
    FROM billing_data.find_batch(v_key_id, v_first_key_id, p_idempotency_key) AS f;
    IF v_first.api_key_id IS NULL THEN
        IF NOT billing_data.lock_accounts(
            (billing_data.accounts_to_charge(p_items)).ids, p_wait
        ) THEN
            RETURN QUERY
            SELECT b.*
            FROM generate_subscripts(p_items, 1) AS i (item)
            CROSS JOIN LATERAL jsonb_populate_record(
                NULL::billing.charge_outcome,
                jsonb_build_object('item', i.item, 'outcome', 'busy', 'replayed', false)
            ) AS b;
            RETURN;
        END IF;
        -- A conflicting row may be of this API key or of another one of its chain.
        INSERT INTO billing_data.batch_requests (
            api_key_id, idempotency_key, first_key_id, request_fingerprint, batch_fingerprint,
            answer
        )
        VALUES (
            v_key_id, p_idempotency_key, v_first_key_id, p_request_fingerprint,
            p_batch_fingerprint, '[]'
        )
        ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            SELECT f.api_key_id, f.request_fingerprint, f.batch_fingerprint, f.answer INTO v_first
            FROM billing_data.find_batch(v_key_id, v_first_key_id, p_idempotency_key) AS f;
        END IF;
    END IF;
    IF v_first.api_key_id IS NULL THEN
        SELECT coalesce(jsonb_agg(to_jsonb(c)), '[]') INTO v_answer
        FROM billing.charge_items(p_items, p_wait => false) AS c;
        IF v_answer @> '[{"outcome": "busy"}]' THEN
            RAISE lock_not_available
                USING MESSAGE = 'An account was created and locked after the look-up';
        END IF;
        -- A key that was revoked meanwhile refuses the whole call. Recorded as the batch's answer,
        -- that refusal would be replayed to the key's successor.
        PERFORM billing_data.authorize(v_credential, NULL, 'billing:write');
        UPDATE billing_data.batch_requests AS b
        SET answer = v_answer
        WHERE b.api_key_id = v_key_id AND b.idempotency_key = p_idempotency_key;
    ELSE
        -- Rows of the release before have no digest that is comparable across API keys. Such a row
        -- counts as the same request.
        IF (
            v_first.batch_fingerprint = p_batch_fingerprint
            OR v_first.request_fingerprint = p_request_fingerprint
            OR (
                num_nulls(v_first.batch_fingerprint, p_batch_fingerprint) > 0
                AND v_first.api_key_id <> v_key_id
            )
        ) IS NOT TRUE THEN
            PERFORM billing_data.raise_error('idempotency_key_reused');
        END IF;
        v_answer := v_first.answer;
        v_replayed := true;
    END IF;
    RETURN QUERY
    SELECT r.*
    FROM jsonb_array_elements(v_answer) AS a (outcome)
    CROSS JOIN LATERAL jsonb_populate_record(
        NULL::billing.charge_outcome,
        a.outcome || jsonb_build_object('replayed', v_replayed)
    ) AS r;
END
$$;
COMMENT ON FUNCTION billing.charge_items_once IS
    'Makes a list of charges once per idempotency key. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.charge_items_once TO billing_server, billing_dba;
