-- Charges: this user used one. Free uses go first, one per charge whatever the amount; then paid
-- credits, the whole amount or nothing. Every accepted charge is one ledger row.

-- Whether an item carries something that a profile update could change.
CREATE OR REPLACE FUNCTION billing_data.has_profile(
    p_customer_email text, p_user_role text, p_agent_id text, p_marketing_opt_in boolean
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN num_nonnulls(p_customer_email, p_user_role, p_agent_id) > 0 OR p_marketing_opt_in IS TRUE;
COMMENT ON FUNCTION billing_data.has_profile IS
    'Whether an item carries a profile update. Helper.';

-- What a used key means for a request: the same once more, or another one under the same key. A row
-- of the old service has no fingerprint: taken to be the same request.
CREATE OR REPLACE FUNCTION billing_data.replay_outcome(p_recorded bytea, p_presented bytea)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN p_recorded <> p_presented THEN 'conflict' ELSE 'replayed' END;
COMMENT ON FUNCTION billing_data.replay_outcome IS
    'Tells a repeated request from another one under the same key. Helper.';

-- The accounts that a list of charges must lock, in id order. An item whose key was used, and that
-- carries no profile, needs none: what the ledger says once it says for ever.
CREATE OR REPLACE FUNCTION billing_data.accounts_to_charge(
    p_oauth_providers text[],
    p_external_ids text[],
    p_idempotency_keys text[],
    p_customer_emails text[],
    p_user_roles text[],
    p_agent_ids text[],
    p_marketing_opt_ins boolean[]
) RETURNS uuid[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
BEGIN
    RETURN ARRAY(
        SELECT DISTINCT a.id
        FROM unnest(
            p_oauth_providers, p_external_ids, p_idempotency_keys, p_customer_emails,
            p_user_roles, p_agent_ids, p_marketing_opt_ins
        ) AS i (
            oauth_provider, external_id, idempotency_key, customer_email, user_role, agent_id,
            marketing_opt_in
        )
        INNER JOIN billing_data.accounts AS a
            ON a.oauth_provider = i.oauth_provider AND a.external_id = i.external_id
        WHERE billing_data.has_profile(
                i.customer_email, i.user_role, i.agent_id, i.marketing_opt_in
            )
            OR NOT EXISTS (
                SELECT FROM billing_data.charges AS c
                WHERE c.account_id = a.id AND c.idempotency_key = i.idempotency_key
            )
        ORDER BY a.id
    );
END
$$;
COMMENT ON FUNCTION billing_data.accounts_to_charge IS
    'The accounts that a list of charges must lock. Helper.';

-- The core of every charge: one item per array position, all arrays of one length. Items of one
-- account are decided in array order. An item's outcome is 'created'; 'replayed' or 'conflict' when
-- its idempotency key was used before with the same or another request, with the first charge's
-- row; the slug of what refused it; 'busy' only when p_wait is false and somebody else holds the
-- account. A refused item writes nothing but the profile update it carries. Whoever p_wait is
-- false for never waits for a lock; who waits for one account holds no other meanwhile.
-- Locks: the accounts of billing_data.accounts_to_charge, in a statement of its own, so that the next
-- one sees every charge committed before. Writes: accounts 1 per changed account, charges 1 per created item.
-- Errors: actor_required, actor_not_allowed, invalid_argument, and lock_not_available when an
-- account stays held; all else is an outcome.
-- Example: SELECT * FROM billing.create_charges(p_oauth_providers => ARRAY['oauth:google'],
--              p_external_ids => ARRAY['1'], p_amounts_minor => ARRAY[1], p_currencies => ARRAY['USD'],
--              p_descriptions => ARRAY['one use']);
CREATE OR REPLACE FUNCTION billing.create_charges(
    p_oauth_providers text[],
    p_external_ids text[],
    p_amounts_minor bigint[],
    p_currencies text[],
    p_descriptions text[],
    p_idempotency_keys text[] DEFAULT NULL,
    p_metadata_message_ids text[] DEFAULT NULL,
    p_metadata_agent_ids text[] DEFAULT NULL,
    p_metadata_channel_ids text[] DEFAULT NULL,
    p_metadata_request_ids text[] DEFAULT NULL,
    p_customer_emails text[] DEFAULT NULL,
    p_user_roles text[] DEFAULT NULL,
    p_agent_ids text[] DEFAULT NULL,
    p_marketing_opt_ins boolean[] DEFAULT NULL,
    p_marketing_opt_in_sources text[] DEFAULT NULL,
    p_api_key_ids uuid[] DEFAULT NULL,
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
    account_currency text
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    v_now timestamptz;
    v_role text;
    v_faulty boolean := false;
    v_locked uuid[];
    v_lock_timeout text;
    v_mine boolean := false;
    v_item record;
    v_account billing_data.accounts;
    v_changed billing_data.accounts;
    v_dirty boolean := false;
    v_accounts billing_data.accounts[] := ARRAY[]::billing_data.accounts[];
    v_charge billing_data.charges;
    v_charges billing_data.charges[] := ARRAY[]::billing_data.charges[];
    v_keys text[] := ARRAY[]::text[];
    v_keys_at integer[] := ARRAY[]::integer[];
    v_seen integer;
BEGIN
    PERFORM billing_data.require_same_length(
        ARRAY[
            cardinality(p_oauth_providers), cardinality(p_external_ids),
            cardinality(p_amounts_minor), cardinality(p_currencies), cardinality(p_descriptions)
        ],
        ARRAY[
            cardinality(p_idempotency_keys), cardinality(p_metadata_message_ids),
            cardinality(p_metadata_agent_ids), cardinality(p_metadata_channel_ids),
            cardinality(p_metadata_request_ids), cardinality(p_customer_emails),
            cardinality(p_user_roles), cardinality(p_agent_ids), cardinality(p_marketing_opt_ins),
            cardinality(p_marketing_opt_in_sources), cardinality(p_api_key_ids)
        ],
        ARRAY[
            array_dims(p_oauth_providers), array_dims(p_external_ids), array_dims(p_amounts_minor),
            array_dims(p_currencies), array_dims(p_descriptions), array_dims(p_idempotency_keys),
            array_dims(p_metadata_message_ids), array_dims(p_metadata_agent_ids),
            array_dims(p_metadata_channel_ids), array_dims(p_metadata_request_ids),
            array_dims(p_customer_emails), array_dims(p_user_roles), array_dims(p_agent_ids),
            array_dims(p_marketing_opt_ins), array_dims(p_marketing_opt_in_sources),
            array_dims(p_api_key_ids)
        ]
    );
    PERFORM billing_data.require_durable_commit();
    IF p_api_key_ids IS NULL THEN
        v_role := billing_data.caller_role();
    ELSIF NOT billing_data.is_web_tier() THEN
        PERFORM billing_data.raise_error('actor_not_allowed');
    ELSE
        SELECT k.ids, k.faulty INTO STRICT p_api_key_ids, v_faulty
        FROM billing_data.find_keys(p_api_key_ids, 'billing:write') AS k;
    END IF;

    IF p_wait THEN
        v_locked := billing_data.accounts_to_charge(
            p_oauth_providers => p_oauth_providers,
            p_external_ids => p_external_ids,
            p_idempotency_keys => p_idempotency_keys,
            p_customer_emails => p_customer_emails,
            p_user_roles => p_user_roles,
            p_agent_ids => p_agent_ids,
            p_marketing_opt_ins => p_marketing_opt_ins
        );
        PERFORM billing_data.lock_accounts(v_locked, p_wait => true);
    ELSE
        -- SKIP LOCKED passes over held rows, but waits where a row was replaced between the look
        -- and the lock by one that is held: not for long, and then for the whole call.
        v_lock_timeout := current_setting('lock_timeout');
        PERFORM set_config('lock_timeout', '50ms', true);
        v_locked := ARRAY(
            SELECT a.id
            FROM unnest(
                p_oauth_providers, p_external_ids, p_idempotency_keys, p_customer_emails,
                p_user_roles, p_agent_ids, p_marketing_opt_ins
            ) AS i (
                oauth_provider, external_id, idempotency_key, customer_email, user_role, agent_id,
                marketing_opt_in
            )
            INNER JOIN billing_data.accounts AS a
                ON a.oauth_provider = i.oauth_provider AND a.external_id = i.external_id
            WHERE billing_data.has_profile(
                    i.customer_email, i.user_role, i.agent_id, i.marketing_opt_in
                )
                OR NOT EXISTS (
                    SELECT FROM billing_data.charges AS c
                    WHERE c.account_id = a.id AND c.idempotency_key = i.idempotency_key
                )
            ORDER BY a.id
            FOR NO KEY UPDATE OF a SKIP LOCKED
        );
        PERFORM set_config('lock_timeout', v_lock_timeout, true);
    END IF;
    v_now := clock_timestamp();

    FOR v_item IN
        SELECT
            i.item, i.amount_minor, i.currency, i.description, i.idempotency_key, i.message_id,
            i.metadata_agent_id, i.channel_id, i.request_id, i.customer_email, i.user_role,
            i.agent_id, i.marketing_opt_in, i.marketing_opt_in_source, i.api_key_id,
            a.id AS account_id, a AS account, used.id AS existing_id, used.row AS existing,
            billing_data.has_profile(
                i.customer_email, i.user_role, i.agent_id, i.marketing_opt_in
            ) AS has_profile,
            sha256(convert_to(ROW(
                i.amount_minor, i.currency, i.description, i.message_id, i.metadata_agent_id,
                i.channel_id, i.request_id, i.customer_email, i.user_role, i.agent_id,
                coalesce(i.marketing_opt_in, false), i.marketing_opt_in_source
            )::text, 'UTF8')) AS fingerprint,
            (
                i.amount_minor > 0 AND length(i.currency) = billing_data.most('currency')
                AND length(i.description) BETWEEN 1 AND billing_data.most('description')
                AND coalesce(greatest(
                    length(i.idempotency_key), length(i.message_id), length(i.metadata_agent_id),
                    length(i.channel_id), length(i.request_id), length(i.customer_email),
                    length(i.agent_id)
                ), 0) <= billing_data.most('customer_email')
                AND coalesce(length(i.user_role), 0) <= billing_data.most('user_role')
                AND coalesce(length(i.marketing_opt_in_source), 0)
                    <= billing_data.most('marketing_opt_in_source')
            ) IS TRUE AS is_valid
        FROM unnest(
            p_oauth_providers, p_external_ids, p_amounts_minor, p_currencies, p_descriptions,
            p_idempotency_keys, p_metadata_message_ids, p_metadata_agent_ids,
            p_metadata_channel_ids, p_metadata_request_ids, p_customer_emails, p_user_roles,
            p_agent_ids, p_marketing_opt_ins, p_marketing_opt_in_sources, p_api_key_ids
        ) WITH ORDINALITY AS i (
            oauth_provider, external_id, amount_minor, currency, description, idempotency_key,
            message_id, metadata_agent_id, channel_id, request_id, customer_email, user_role,
            agent_id, marketing_opt_in, marketing_opt_in_source, api_key_id, item
        )
        LEFT JOIN billing_data.accounts AS a
            ON a.oauth_provider = i.oauth_provider AND a.external_id = i.external_id
        -- LIMIT keeps the look-up apart, so that its index is always searched with both columns.
        LEFT JOIN LATERAL (
            SELECT c.id, c AS row
            FROM billing_data.charges AS c
            WHERE c.account_id = a.id AND c.idempotency_key = i.idempotency_key
            LIMIT 1
        ) AS used ON true
        ORDER BY a.id, i.item
    LOOP
        v_charge := NULL;
        balance := NULL;
        account_currency := NULL;
        <<decide>>
        BEGIN
            IF p_api_key_ids IS NOT NULL AND (v_faulty OR v_item.api_key_id IS NULL) THEN
                outcome := billing_data.api_key_fault(v_item.api_key_id, 'billing:write');
                EXIT decide WHEN outcome IS NOT NULL;
            END IF;
            IF NOT v_item.is_valid THEN
                outcome := 'invalid_argument';
                EXIT decide;
            END IF;
            IF v_item.account_id IS NULL THEN
                outcome := 'account_not_found';
                EXIT decide;
            END IF;
            IF v_item.existing_id IS NOT NULL AND NOT v_item.has_profile THEN
                v_charge := v_item.existing;
                outcome := billing_data.replay_outcome(
                    v_charge.request_fingerprint, v_item.fingerprint
                );
                EXIT decide;
            END IF;

            -- The first item of another account: keep what the last one came to, take up this one.
            IF v_account.id IS DISTINCT FROM v_item.account_id THEN
                IF v_dirty THEN
                    v_accounts := array_append(v_accounts, v_account);
                END IF;
                v_account := v_item.account;
                v_mine := v_account.id = ANY (v_locked);
                v_dirty := false;
                v_keys := ARRAY[]::text[];
                v_keys_at := ARRAY[]::integer[];
            END IF;
            IF NOT v_mine THEN
                -- Held by another transaction, or created after our look for it.
                outcome := CASE WHEN p_wait THEN 'account_not_found' ELSE 'busy' END;
                EXIT decide;
            END IF;

            IF v_item.has_profile THEN
                v_changed := billing_data.with_profile(
                    v_account, v_item.customer_email, v_item.user_role, v_item.agent_id,
                    v_item.marketing_opt_in, v_item.marketing_opt_in_source, v_now
                );
                IF v_changed IS DISTINCT FROM v_account THEN
                    v_account := v_changed;
                    v_account.updated_at := v_now;
                    v_dirty := true;
                END IF;
            END IF;

            -- Was the key used: in an earlier transaction, or by an earlier item of this call?
            IF v_item.existing_id IS NOT NULL THEN
                v_charge := v_item.existing;
            ELSIF v_item.idempotency_key IS NOT NULL THEN
                v_seen := array_position(v_keys, v_item.idempotency_key);
                IF v_seen IS NOT NULL THEN
                    v_charge := v_charges[v_keys_at[v_seen]];
                END IF;
            END IF;
            IF v_charge.id IS NOT NULL THEN
                outcome := billing_data.replay_outcome(
                    v_charge.request_fingerprint, v_item.fingerprint
                );
                EXIT decide;
            END IF;

            outcome := CASE
                WHEN v_account.status = 'suspended' THEN 'account_suspended'
                WHEN v_account.status = 'closed' THEN 'account_closed'
                WHEN v_account.currency <> v_item.currency THEN 'charge_currency_mismatch'
                WHEN v_account.free_uses_remaining <= 0
                    AND v_account.paid_credits < v_item.amount_minor THEN 'insufficient_credits'
                ELSE 'created'
            END;
            IF outcome <> 'created' THEN
                v_charge := NULL;
                balance := v_account.paid_credits;
                account_currency := v_account.currency;
                EXIT decide;
            END IF;

            v_charge.balance_before := v_account.paid_credits;
            IF v_account.free_uses_remaining > 0 THEN
                v_charge.paid_with := 'free';
                v_account.free_uses_remaining := v_account.free_uses_remaining - 1;
            ELSE
                v_charge.paid_with := 'paid';
                v_account.paid_credits := v_account.paid_credits - v_item.amount_minor;
            END IF;
            v_account.total_uses := v_account.total_uses + 1;
            v_account.ledger_version := v_account.ledger_version + 1;
            v_account.updated_at := v_now;
            v_dirty := true;

            v_charge.account_id := v_account.id;
            v_charge.ledger_version := v_account.ledger_version;
            v_charge.id := billing_data.new_id();
            v_charge.amount_minor := v_item.amount_minor;
            v_charge.currency := v_item.currency;
            v_charge.balance_after := v_account.paid_credits;
            v_charge.free_uses_after := v_account.free_uses_remaining;
            v_charge.description := v_item.description;
            v_charge.idempotency_key := v_item.idempotency_key;
            v_charge.metadata_message_id := v_item.message_id;
            v_charge.metadata_agent_id := v_item.metadata_agent_id;
            v_charge.metadata_channel_id := v_item.channel_id;
            v_charge.metadata_request_id := v_item.request_id;
            v_charge.created_at := v_now;
            v_charge.request_fingerprint := v_item.fingerprint;
            v_charge.api_key_id := v_item.api_key_id;
            v_charge.database_role := v_role;
            v_charges := array_append(v_charges, v_charge);
            IF v_item.idempotency_key IS NOT NULL THEN
                v_keys := array_append(v_keys, v_item.idempotency_key);
                v_keys_at := array_append(v_keys_at, cardinality(v_charges));
            END IF;
        END decide;

        item := v_item.item;
        charge_id := v_charge.id;
        account_id := v_charge.account_id;
        amount_minor := coalesce(v_charge.amount_minor, v_item.amount_minor);
        currency := coalesce(
            v_charge.currency, left(v_item.currency, billing_data.most('currency'))
        );
        description := v_charge.description;
        balance_before := v_charge.balance_before;
        balance_after := v_charge.balance_after;
        free_uses_after := v_charge.free_uses_after;
        paid_with := v_charge.paid_with;
        created_at := v_charge.created_at;
        metadata_message_id := v_charge.metadata_message_id;
        metadata_agent_id := v_charge.metadata_agent_id;
        metadata_channel_id := v_charge.metadata_channel_id;
        metadata_request_id := v_charge.metadata_request_id;
        RETURN NEXT;
    END LOOP;
    IF v_dirty THEN
        v_accounts := array_append(v_accounts, v_account);
    END IF;

    UPDATE billing_data.accounts AS a
    SET free_uses_remaining = u.free_uses_remaining,
        paid_credits = u.paid_credits,
        total_uses = u.total_uses,
        ledger_version = u.ledger_version,
        customer_email = u.customer_email,
        user_role = u.user_role,
        agent_id = u.agent_id,
        marketing_opt_in = u.marketing_opt_in,
        marketing_opt_in_at = u.marketing_opt_in_at,
        marketing_opt_in_source = u.marketing_opt_in_source,
        updated_at = u.updated_at
    FROM unnest(v_accounts) AS u
    WHERE a.id = u.id;

    INSERT INTO billing_data.charges (
        account_id, ledger_version, id, amount_minor, currency, balance_before, balance_after,
        free_uses_after, paid_with, description, idempotency_key, metadata_message_id,
        metadata_agent_id, metadata_channel_id, metadata_request_id, created_at,
        request_fingerprint, api_key_id, database_role, digest
    )
    SELECT
        c.account_id, c.ledger_version, c.id, c.amount_minor, c.currency, c.balance_before,
        c.balance_after, c.free_uses_after, c.paid_with, c.description, c.idempotency_key,
        c.metadata_message_id, c.metadata_agent_id, c.metadata_channel_id, c.metadata_request_id,
        c.created_at, c.request_fingerprint, c.api_key_id, c.database_role,
        billing_data.charge_digest(c)
    FROM unnest(v_charges) AS c;
END
$$;
COMMENT ON FUNCTION billing.create_charges IS
    'Charges several uses at once, an outcome per item. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.create_charges TO billing_server, billing_dba;

-- Charges one use: billing.create_charges with one item, and anything but a new charge raised,
-- which also undoes the profile update the call carries.
-- Errors: actor and key errors, invalid_argument, charge_already_exists, account_not_found,
-- account_suspended, account_closed, charge_currency_mismatch, insufficient_credits.
-- Example: SELECT * FROM billing.create_charge(p_oauth_provider => 'oauth:google',
--              p_external_id => '1', p_amount_minor => 1, p_description => 'one use');
CREATE OR REPLACE FUNCTION billing.create_charge(
    p_oauth_provider text,
    p_external_id text,
    p_amount_minor bigint DEFAULT 1,
    p_currency text DEFAULT 'USD',
    p_description text DEFAULT 'one use',
    p_idempotency_key text DEFAULT NULL,
    p_metadata_message_id text DEFAULT NULL,
    p_metadata_agent_id text DEFAULT NULL,
    p_metadata_channel_id text DEFAULT NULL,
    p_metadata_request_id text DEFAULT NULL,
    p_customer_email text DEFAULT NULL,
    p_user_role text DEFAULT NULL,
    p_agent_id text DEFAULT NULL,
    p_marketing_opt_in boolean DEFAULT false,
    p_marketing_opt_in_source text DEFAULT NULL,
    p_api_key_id uuid DEFAULT NULL
) RETURNS TABLE (
    charge_id uuid,
    account_id uuid,
    amount_minor bigint,
    currency text,
    description text,
    balance_before bigint,
    balance_after bigint,
    free_uses_after bigint,
    paid_with text,
    created_at timestamptz
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_outcome text;
    v_balance bigint;
    v_account_currency text;
BEGIN
    PERFORM billing_data.require_identity(p_oauth_provider, p_external_id);
    SELECT
        c.outcome, c.charge_id, c.account_id, c.amount_minor, c.currency, c.description,
        c.balance_before, c.balance_after, c.free_uses_after, c.paid_with, c.created_at, c.balance,
        c.account_currency
    INTO STRICT
        v_outcome, charge_id, account_id, amount_minor, currency, description, balance_before,
        balance_after, free_uses_after, paid_with, created_at, v_balance, v_account_currency
    FROM billing.create_charges(
        p_oauth_providers => ARRAY[p_oauth_provider],
        p_external_ids => ARRAY[p_external_id],
        p_amounts_minor => ARRAY[p_amount_minor],
        p_currencies => ARRAY[p_currency],
        p_descriptions => ARRAY[p_description],
        p_idempotency_keys => ARRAY[p_idempotency_key],
        p_metadata_message_ids => ARRAY[p_metadata_message_id],
        p_metadata_agent_ids => ARRAY[p_metadata_agent_id],
        p_metadata_channel_ids => ARRAY[p_metadata_channel_id],
        p_metadata_request_ids => ARRAY[p_metadata_request_id],
        p_customer_emails => ARRAY[p_customer_email],
        p_user_roles => ARRAY[p_user_role],
        p_agent_ids => ARRAY[p_agent_id],
        p_marketing_opt_ins => ARRAY[p_marketing_opt_in],
        p_marketing_opt_in_sources => ARRAY[p_marketing_opt_in_source],
        p_api_key_ids => CASE WHEN p_api_key_id IS NOT NULL THEN ARRAY[p_api_key_id] END
    ) AS c;
    IF v_outcome = 'invalid_argument' THEN
        -- Only now: which one it is costs nothing where all are right.
        PERFORM billing_data.require(
            p_amount_minor > 0, 'p_amount_minor', 'it must be greater than 0'
        );
        PERFORM billing_data.require(
            length(p_description) > 0, 'p_description', 'it must not be empty'
        );
        PERFORM billing_data.require_short(p_description, 'p_description');
        PERFORM billing_data.require(
            length(p_currency) = 3, 'p_currency', 'it must have 3 characters'
        );
        PERFORM billing_data.require_short(p_idempotency_key, 'p_idempotency_key');
        PERFORM billing_data.require_short(p_metadata_message_id, 'p_metadata_message_id');
        PERFORM billing_data.require_short(p_metadata_agent_id, 'p_metadata_agent_id');
        PERFORM billing_data.require_short(p_metadata_channel_id, 'p_metadata_channel_id');
        PERFORM billing_data.require_short(p_metadata_request_id, 'p_metadata_request_id');
        PERFORM billing_data.require_profile(
            p_customer_email, p_user_role, p_agent_id, p_marketing_opt_in_source
        );
    END IF;
    IF v_outcome <> 'created' THEN
        PERFORM billing_data.raise_error(
            CASE
                WHEN v_outcome IN ('replayed', 'conflict') THEN 'charge_already_exists'
                ELSE v_outcome
            END,
            jsonb_strip_nulls(jsonb_build_object(
                'charge_id', charge_id, 'balance', v_balance, 'required', amount_minor,
                'account_currency', v_account_currency, 'currency', currency,
                'permission', CASE v_outcome WHEN 'permission_missing' THEN 'billing:write' END
            ))
        );
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.create_charge IS
    'Charges one use: free uses first, then paid credits. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.create_charge TO billing_server, billing_dba;
