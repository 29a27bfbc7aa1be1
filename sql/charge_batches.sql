-- A list of charges under one idempotency key: the whole list takes effect once.

-- The key that a line of rotations began with; the key itself when it was not made by a rotation.
-- (BEGIN ATOMIC would make the column it reads undroppable for the rollback of the step that adds it.)
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

-- What is remembered of a batch of this API key, or else of its line of keys: no row when nothing is.
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

-- Makes the charges of one request of the web tier, in their order, and remembers the outcomes
-- under p_idempotency_key for the API key and all that it was rotated from or to, nobody else: the
-- same request again gets the first outcomes (replayed true) and charges nothing, another request is
-- refused. p_batch_fingerprint is a digest of the request that is the same under each API key;
-- p_request_fingerprint is one that is not, by which releases without the former tell requests of
-- one API key apart. Everything is one transaction: when an account is held, nothing is done but to
-- wait for it, with no other one locked; with p_wait false, that is the outcome 'busy' of every item
-- after a moment, and nothing is remembered. Locks: as billing.create_charges, then the
-- batch_requests row.
-- Writes: batch_requests 0..1, and as billing.create_charges.
-- Errors: actor and key errors, idempotency_key_reused, and lock_not_available when an account stays
-- held; all else is an item's outcome.
-- Example: SELECT * FROM billing.create_charges_once(p_idempotency_key => 'batch-1',
--     p_request_fingerprint => '\x00', p_api_key_id => '...', p_oauth_providers => ARRAY['oauth:google'],
--     p_external_ids => ARRAY['1'], p_amounts_minor => ARRAY[1], ...);
CREATE OR REPLACE FUNCTION billing.create_charges_once(
    p_idempotency_key text,
    p_request_fingerprint bytea,
    p_api_key_id uuid,
    p_oauth_providers text[],
    p_external_ids text[],
    p_amounts_minor bigint[],
    p_currencies text[],
    p_descriptions text[],
    p_idempotency_keys text[],
    p_metadata_message_ids text[],
    p_metadata_agent_ids text[],
    p_metadata_channel_ids text[],
    p_metadata_request_ids text[],
    p_customer_emails text[],
    p_user_roles text[],
    p_agent_ids text[],
    p_marketing_opt_ins boolean[],
    p_marketing_opt_in_sources text[],
    p_batch_fingerprint bytea DEFAULT NULL,
    p_wait boolean DEFAULT true
) RETURNS TABLE (
    item integer,
    outcome text,
    charge_id uuid,
    account_id uuid,
    amount_minor bigint,
    currency text,
    description text,
    balance_before bigint,
    balance_after bigint,
    free_uses_after bigint,
    paid_with text,
    created_at timestamptz,
    metadata_message_id text,
    metadata_agent_id text,
    metadata_channel_id text,
    metadata_request_id text,
    balance bigint,
    account_currency text,
    replayed boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_first_key_id uuid;
    v_first record;
    v_is_free boolean;
    v_answer jsonb;
    v_replayed boolean := false;
    v_key_id uuid;
BEGIN
    v_key_id := (billing_data.authorize(p_api_key_id, NULL, 'billing:write')).api_key_id;
    PERFORM billing_data.require(p_api_key_id IS NOT NULL, 'p_api_key_id', 'it must be given');
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
        v_is_free := billing_data.lock_accounts(
            billing_data.accounts_to_charge(
                p_oauth_providers => p_oauth_providers,
                p_external_ids => p_external_ids,
                p_idempotency_keys => p_idempotency_keys,
                p_customer_emails => p_customer_emails,
                p_user_roles => p_user_roles,
                p_agent_ids => p_agent_ids,
                p_marketing_opt_ins => p_marketing_opt_ins
            ),
            p_wait
        );
        IF NOT v_is_free THEN
            FOR v_item IN 1 .. cardinality(p_external_ids) LOOP
                item := v_item;
                outcome := 'busy';
                replayed := false;
                RETURN NEXT;
            END LOOP;
            RETURN;
        END IF;
        -- In the way may be a row of this API key, or of another one of its line.
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
        FROM billing.create_charges(
            p_oauth_providers => p_oauth_providers,
            p_external_ids => p_external_ids,
            p_amounts_minor => p_amounts_minor,
            p_currencies => p_currencies,
            p_descriptions => p_descriptions,
            p_idempotency_keys => p_idempotency_keys,
            p_metadata_message_ids => p_metadata_message_ids,
            p_metadata_agent_ids => p_metadata_agent_ids,
            p_metadata_channel_ids => p_metadata_channel_ids,
            p_metadata_request_ids => p_metadata_request_ids,
            p_customer_emails => p_customer_emails,
            p_user_roles => p_user_roles,
            p_agent_ids => p_agent_ids,
            p_marketing_opt_ins => p_marketing_opt_ins,
            p_marketing_opt_in_sources => p_marketing_opt_in_sources,
            p_api_key_ids => array_fill(p_api_key_id, ARRAY[cardinality(p_external_ids)]),
            p_wait => false
        ) AS c;
        IF v_answer @> '[{"outcome": "busy"}]' THEN
            RAISE lock_not_available USING MESSAGE = 'An account came, and was taken, after our look';
        END IF;
        -- A key that ended since our look refuses the whole; kept as the batch's answer, that would be
        -- told to the key that follows it.
        PERFORM billing_data.authorize(p_api_key_id, NULL, 'billing:write');
        UPDATE billing_data.batch_requests AS b
        SET answer = v_answer
        WHERE b.api_key_id = v_key_id AND b.idempotency_key = p_idempotency_key;
    ELSE
        -- Rows of the release before have no digest that holds under another API key: then it is
        -- taken to be the same request.
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
    SELECT
        r.item, r.outcome, r.charge_id, r.account_id, r.amount_minor, r.currency,
        r.description, r.balance_before, r.balance_after, r.free_uses_after, r.paid_with, r.created_at,
        r.metadata_message_id, r.metadata_agent_id, r.metadata_channel_id, r.metadata_request_id, r.balance, r.account_currency,
        v_replayed
    FROM jsonb_to_recordset(v_answer) AS r (
        item integer,
        outcome text,
        charge_id uuid,
        account_id uuid,
        amount_minor bigint,
        currency text,
        description text,
        balance_before bigint,
        balance_after bigint,
        free_uses_after bigint,
        paid_with text,
        created_at timestamptz,
        metadata_message_id text,
        metadata_agent_id text,
        metadata_channel_id text,
        metadata_request_id text,
        balance bigint,
        account_currency text
    );
END
$$;
COMMENT ON FUNCTION billing.create_charges_once IS
    'Makes a list of charges once per idempotency key. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.create_charges_once TO billing_server, billing_dba;
