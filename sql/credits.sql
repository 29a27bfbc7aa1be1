-- Credits: paid credits that are added to an account, bought or granted. All four transaction types
-- add.

-- The one place that writes a credit entry: the row and what it leaves the account. The amount may
-- be negative where credits are taken; p_free_uses are given back, or taken where negative. The
-- caller makes sure that neither becomes negative or too great. A caller that has claimed a payment
-- for the entry passes the entry's id. What is taken comes from the credit or lot p_own_id first.
-- Locks: none, the caller holds the account. Writes: credits 1, accounts 1, outbox 0..n; where the
-- account has lots and loses credits, what billing_data.take_lots writes.
CREATE OR REPLACE FUNCTION billing_data.append_credit(
    p_account billing_data.accounts,
    p_amount_minor bigint,
    p_transaction_type text,
    p_description text,
    p_external_transaction_id text,
    p_idempotency_key text,
    p_request_fingerprint bytea,
    p_now timestamptz,
    p_api_key_id uuid,
    p_admin_user_id uuid,
    p_database_role text,
    p_payment_provider text,
    p_credit_id uuid DEFAULT NULL,
    p_corrects_charge_id uuid DEFAULT NULL,
    p_corrects_credit_id uuid DEFAULT NULL,
    p_transfer_id uuid DEFAULT NULL,
    p_free_uses bigint DEFAULT NULL,
    p_own_id uuid DEFAULT NULL
) RETURNS billing_data.credits
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_credit billing_data.credits;
BEGIN
    v_credit.account_id := p_account.id;
    v_credit.ledger_version := p_account.ledger_version + 1;
    v_credit.id := coalesce(p_credit_id, billing_data.new_id());
    v_credit.amount_minor := p_amount_minor;
    v_credit.currency := p_account.currency;
    v_credit.balance_before := p_account.paid_credits;
    v_credit.balance_after := p_account.paid_credits + p_amount_minor;
    v_credit.transaction_type := p_transaction_type;
    v_credit.description := p_description;
    v_credit.external_transaction_id := p_external_transaction_id;
    v_credit.idempotency_key := p_idempotency_key;
    v_credit.created_at := p_now;
    v_credit.request_fingerprint := p_request_fingerprint;
    v_credit.api_key_id := p_api_key_id;
    v_credit.admin_user_id := p_admin_user_id;
    v_credit.database_role := p_database_role;
    v_credit.payment_provider := p_payment_provider;
    v_credit.corrects_charge_id := p_corrects_charge_id;
    v_credit.corrects_credit_id := p_corrects_credit_id;
    v_credit.transfer_id := p_transfer_id;
    v_credit.free_uses := nullif(p_free_uses, 0);
    v_credit.digest := billing_data.credit_digest(v_credit);
    INSERT INTO billing_data.credits (
        account_id, ledger_version, id, amount_minor, currency, balance_before, balance_after,
        transaction_type, description, external_transaction_id, idempotency_key, created_at,
        request_fingerprint, api_key_id, admin_user_id, database_role, payment_provider, digest,
        corrects_charge_id, corrects_credit_id, transfer_id, free_uses
    )
    VALUES (
        v_credit.account_id, v_credit.ledger_version, v_credit.id, v_credit.amount_minor,
        v_credit.currency, v_credit.balance_before, v_credit.balance_after,
        v_credit.transaction_type, v_credit.description, v_credit.external_transaction_id,
        v_credit.idempotency_key, v_credit.created_at, v_credit.request_fingerprint,
        v_credit.api_key_id, v_credit.admin_user_id, v_credit.database_role,
        v_credit.payment_provider, v_credit.digest, v_credit.corrects_charge_id,
        v_credit.corrects_credit_id, v_credit.transfer_id, v_credit.free_uses
    );
    UPDATE billing_data.accounts AS a
    SET paid_credits = v_credit.balance_after,
        free_uses_remaining = a.free_uses_remaining + coalesce(v_credit.free_uses, 0),
        ledger_version = v_credit.ledger_version,
        updated_at = p_now
    WHERE a.id = p_account.id;
    IF p_account.has_lots AND p_amount_minor < 0 THEN
        PERFORM billing_data.take_lots(
            p_account.id, v_credit.id, -p_amount_minor,
            p_account.paid_credits - p_account.held_credits,
            coalesce(p_own_id, p_corrects_credit_id)
        );
    END IF;
    PERFORM billing_data.raise_balance_alerts(
        p_account.id, p_account.free_uses_remaining, p_account.paid_credits,
        p_account.free_uses_remaining + coalesce(v_credit.free_uses, 0), v_credit.balance_after,
        jsonb_build_object('credit_id', v_credit.id)
    );
    RETURN v_credit;
END
$$;
COMMENT ON FUNCTION billing_data.append_credit IS
    'Writes a credit entry and the balance it leaves, for an account that is locked. Helper.';

-- Whether a credit entry is a reversal, or one side of a transfer or merge. (The body is a string:
-- as an expression it would depend on columns, which the step's rollback drops.)
CREATE OR REPLACE FUNCTION billing_data.is_correction(p_credit billing_data.credits)
RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT num_nonnulls(
        (p_credit).corrects_charge_id, (p_credit).corrects_credit_id, (p_credit).transfer_id
    ) > 0
$$;
COMMENT ON FUNCTION billing_data.is_correction IS
    'Whether a credit entry corrects or moves what was there. Helper.';

-- The credit entry that an idempotency key made in one of these accounts; an empty row when none.
-- Errors: idempotency_key_reused when another request made it, also the old service, which had no
-- fingerprints.
CREATE OR REPLACE FUNCTION billing_data.credit_under_key(
    p_account_ids uuid[], p_idempotency_key text, p_fingerprint bytea
) RETURNS billing_data.credits
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_credit billing_data.credits;
BEGIN
    SELECT c.* INTO v_credit
    FROM billing_data.credits AS c
    WHERE c.account_id = ANY (p_account_ids) AND c.idempotency_key = p_idempotency_key
    ORDER BY c.request_fingerprint IS NOT DISTINCT FROM p_fingerprint DESC
    LIMIT 1;
    IF v_credit.request_fingerprint <> p_fingerprint
        OR (v_credit.id IS NOT NULL AND v_credit.request_fingerprint IS NULL)
    THEN
        PERFORM billing_data.raise_error('idempotency_key_reused');
    END IF;
    RETURN v_credit;
END
$$;
COMMENT ON FUNCTION billing_data.credit_under_key IS
    'The credit entry that an idempotency key made; refuses another request''s. Helper.';

-- Refuses a change that a balance has no room for.
-- Errors: insufficient_credits, balance_overflow.
CREATE OR REPLACE FUNCTION billing_data.require_room(p_balance bigint, p_change bigint)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_balance + p_change::numeric > billing_data.max_amount() THEN
        PERFORM billing_data.raise_error('balance_overflow', jsonb_build_object(
            'balance', p_balance, 'amount', p_change, 'maximum', billing_data.max_amount()
        ));
    ELSIF p_balance + p_change::numeric < 0 THEN
        PERFORM billing_data.raise_error('insufficient_credits', jsonb_build_object(
            'balance', p_balance, 'required', -p_change::numeric
        ));
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.require_room IS
    'Refuses a change that would leave a balance below zero or too great. Helper.';

-- Refuses a change of an account's paid credits that there is no room for: what open holds keep
-- cannot be taken.
-- Errors: insufficient_credits, balance_overflow.
CREATE OR REPLACE FUNCTION billing_data.require_room_in(
    p_account billing_data.accounts, p_change bigint
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require_room(
        p_account.paid_credits - CASE WHEN p_change < 0 THEN p_account.held_credits ELSE 0 END,
        p_change
    );
END
$$;
COMMENT ON FUNCTION billing_data.require_room_in IS
    'Refuses a change of paid credits that an account has no room for. Helper.';

-- Refuses an unknown kind of credits, and a source that does not fit the transaction type: only
-- grants and adjustments can be promotions.
-- Errors: invalid_argument.
CREATE OR REPLACE FUNCTION billing_data.require_kind(
    p_transaction_type text, p_source text, p_priority bigint, p_expires_at timestamptz
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require(
        p_source IS NULL
        OR p_source = billing_data.usual_source(p_transaction_type)
        OR (p_source = 'promotion' AND p_transaction_type IN ('grant', 'adjustment')),
        'p_source',
        'it must be purchase, grant, promotion or refund, and go with the transaction type'
    );
    PERFORM billing_data.require(
        p_priority IS NULL OR p_priority BETWEEN 0 AND 100, 'p_priority', 'it must be 0 to 100'
    );
    PERFORM billing_data.require_moment(p_expires_at, 'p_expires_at');
END
$$;
COMMENT ON FUNCTION billing_data.require_kind IS
    'Refuses an unknown kind of credits. Helper.';

-- The part of a fingerprint that is about the kind of credits; 0 where none is named.
CREATE OR REPLACE FUNCTION billing_data.kind_hash(
    p_source text, p_priority bigint, p_expires_at timestamptz
) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
RETURN billing_data.field_hash('source', p_source)
    # billing_data.field_hash('priority', p_priority::text)
    # billing_data.field_hash('expires_at', extract(EPOCH FROM p_expires_at)::text);
COMMENT ON FUNCTION billing_data.kind_hash IS
    'The part of a fingerprint about the kind of credits. Helper.';

-- What the audit log says of the kind of credits.
CREATE OR REPLACE FUNCTION billing_data.kind_told(
    p_source text, p_priority bigint, p_expires_at timestamptz
) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN jsonb_strip_nulls(jsonb_build_object(
    'source', p_source, 'priority', p_priority, 'expires_at', p_expires_at
));
COMMENT ON FUNCTION billing_data.kind_told IS
    'What the audit log says of the kind of credits. Helper.';

-- Adds credits, and returns an outcome instead of an error where an HTTP caller must be told the
-- difference: 'created'; 'replayed' or 'conflict', with the first credit's row, when the
-- idempotency key was used before by the same or by another request; account_not_found,
-- credit_currency_mismatch, balance_overflow; payment_already_credited and
-- payment_of_another_account when p_external_transaction_id names a payment that is known here. A
-- profile update that the call carries is kept whatever the outcome. Suspended and closed accounts
-- take credits. With p_effective_at in the future the credits come then, and credit_id is the id of
-- the entry that will be written (schedules.sql); until then billing.end_grant_schedule takes it
-- back, with this id. Credits with a time at which they end, another priority than 50 (0 to 100,
-- lower ones are spent first) or the source promotion are a lot of their own (lots.sql).
-- Locks: the account, then the payment's row of payment_effects.
-- Writes: accounts 0..1, credits 0..1,
-- payment_effects 0..1, payment_warnings 0..1, lots 0..1, grant_schedules 0..1; admin_audit_logs 1
-- where staff or a database role credits. Errors: actor and key errors, invalid_argument.
-- Example: SELECT * FROM billing.record_credit(p_oauth_provider =>
--     'oauth:google', p_external_id => '1', p_amount_minor => 20, p_transaction_type => 'grant',
--     p_description => 'a gift');
CREATE OR REPLACE FUNCTION billing.record_credit(
    p_oauth_provider text,
    p_external_id text,
    p_amount_minor bigint,
    p_transaction_type text,
    p_description text,
    p_currency text DEFAULT 'USD',
    p_external_transaction_id text DEFAULT NULL,
    p_idempotency_key text DEFAULT NULL,
    p_customer_email text DEFAULT NULL,
    p_user_role text DEFAULT NULL,
    p_agent_id text DEFAULT NULL,
    p_marketing_opt_in boolean DEFAULT false,
    p_marketing_opt_in_source text DEFAULT NULL,
    p_api_key_id uuid DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL,
    p_expires_at timestamptz DEFAULT NULL,
    p_priority bigint DEFAULT NULL,
    p_source text DEFAULT NULL,
    p_effective_at timestamptz DEFAULT NULL
) RETURNS TABLE (
    outcome text,
    credit_id uuid,
    account_id uuid,
    amount_minor bigint,
    currency text,
    balance_before bigint,
    balance_after bigint,
    transaction_type text,
    description text,
    external_transaction_id text,
    created_at timestamptz,
    balance bigint,
    account_currency text
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor :=
        billing_data.authorize(p_api_key_id, p_session_hash, 'billing:write');
    v_now timestamptz;
    v_path uuid[];  -- the accounts of the identity, of which the last one is in use
    v_account billing_data.accounts;
    v_changed billing_data.accounts;
    v_credit billing_data.credits;
    v_credit_id uuid := billing_data.new_id();
    v_fingerprint bytea;
BEGIN
    PERFORM billing_data.require_identity(p_oauth_provider, p_external_id);
    PERFORM billing_data.require(p_amount_minor > 0, 'p_amount_minor', 'it must be greater than 0');
    PERFORM billing_data.require(
        p_transaction_type IN ('purchase', 'grant', 'refund', 'adjustment'),
        'p_transaction_type', 'it must be purchase, grant, refund or adjustment'
    );
    PERFORM billing_data.require(
        length(p_description) > 0, 'p_description', 'it must not be empty'
    );
    PERFORM billing_data.require_short(p_description, 'p_description');
    PERFORM billing_data.require_currency_length(p_currency);
    PERFORM billing_data.require_short(p_external_transaction_id, 'p_external_transaction_id');
    PERFORM billing_data.require_short(p_idempotency_key, 'p_idempotency_key');
    PERFORM billing_data.require_profile(
        p_customer_email, p_user_role, p_agent_id, p_marketing_opt_in_source
    );
    PERFORM billing_data.require_kind(p_transaction_type, p_source, p_priority, p_expires_at);
    PERFORM billing_data.require_moment(p_effective_at, 'p_effective_at');
    PERFORM billing_data.require(
        num_nonnulls(p_effective_at, p_external_transaction_id) < 2, 'p_effective_at',
        'what was paid is credited at once'
    );
    PERFORM billing_data.require(
        (p_expires_at <= p_effective_at) IS NOT TRUE, 'p_expires_at',
        'it must be after p_effective_at'
    );
    PERFORM billing_data.require_durable_commit();

    v_path := billing_data.path_of_identity(p_oauth_provider, p_external_id);
    v_account := billing_data.lock_account(v_path[1]);
    IF v_account.id IS NULL THEN
        outcome := 'account_not_found';
        RETURN NEXT;
        RETURN;
    END IF;
    v_now := clock_timestamp();
    v_changed := billing_data.with_profile(
        v_account, p_customer_email, p_user_role, p_agent_id, p_marketing_opt_in,
        p_marketing_opt_in_source, v_now
    );

    v_fingerprint := billing_data.fingerprint(
        billing_data.field_hash('amount_minor', p_amount_minor::text)
        # billing_data.field_hash('currency', p_currency)
        # billing_data.field_hash('transaction_type', p_transaction_type)
        # billing_data.field_hash('description', p_description)
        # billing_data.field_hash('external_transaction_id', p_external_transaction_id)
        # billing_data.profile_hash(
            p_customer_email, p_user_role, p_agent_id, p_marketing_opt_in,
            p_marketing_opt_in_source
        )
        # billing_data.kind_hash(p_source, p_priority, p_expires_at)
        # billing_data.field_hash('effective_at', extract(EPOCH FROM p_effective_at)::text)
    );
    SELECT c.* INTO v_credit
    FROM billing_data.credits AS c
    WHERE c.account_id = ANY (v_path) AND c.idempotency_key = p_idempotency_key
    ORDER BY array_position(v_path, c.account_id)
    LIMIT 1;
    IF v_credit.id IS NULL AND p_idempotency_key IS NOT NULL THEN
        v_credit := billing_data.coming_credit(v_path, p_idempotency_key);
    END IF;
    outcome := CASE
        WHEN v_credit.id IS NOT NULL
            THEN billing_data.replay_outcome(v_credit.request_fingerprint, v_fingerprint)
        WHEN v_account.currency <> p_currency THEN 'credit_currency_mismatch'
        WHEN v_account.paid_credits > billing_data.max_amount() - p_amount_minor
            THEN 'balance_overflow'
        ELSE coalesce(
            billing_data.claim_named_payment(
                p_external_transaction_id, v_account.id, v_credit_id
            ),
            'created'
        )
    END;

    UPDATE billing_data.accounts AS a
    SET customer_email = v_changed.customer_email,
        user_role = v_changed.user_role,
        agent_id = v_changed.agent_id,
        marketing_opt_in = v_changed.marketing_opt_in,
        marketing_opt_in_at = v_changed.marketing_opt_in_at,
        marketing_opt_in_source = v_changed.marketing_opt_in_source,
        updated_at = v_now
    WHERE a.id = v_account.id AND v_changed IS DISTINCT FROM v_account;
    IF outcome = 'created' THEN
        PERFORM billing_data.require(
            coalesce(p_expires_at > billing_data.clock(), true), 'p_expires_at',
            'it must be a time to come'
        );
    END IF;
    IF outcome = 'created' AND p_effective_at > billing_data.clock() THEN
        v_credit := billing_data.schedule_credit(
            v_account, v_credit_id, p_amount_minor, p_transaction_type, p_description,
            p_idempotency_key, v_fingerprint, p_source, p_priority, p_expires_at, p_effective_at,
            v_actor
        );
    ELSIF outcome = 'created' THEN
        v_credit := billing_data.append_credit(
            v_account, p_amount_minor, p_transaction_type, p_description,
            p_external_transaction_id, p_idempotency_key, v_fingerprint, v_now, v_actor.api_key_id,
            v_actor.admin_user_id, v_actor.database_role, NULL, v_credit_id
        );
        PERFORM billing_data.make_lot(v_credit, p_source, p_priority, p_expires_at);
        IF p_api_key_id IS NULL THEN
            PERFORM billing_data.write_audit(
                'account.create_credit', 'account', v_account.id::text,
                jsonb_build_object(
                    'credit_id', v_credit.id, 'amount', p_amount_minor,
                    'transaction_type', p_transaction_type,
                    'balance_after', v_credit.balance_after
                ) || billing_data.kind_told(p_source, p_priority, p_expires_at),
                left(p_description, billing_data.most('reason')), v_actor
            );
        END IF;
    END IF;

    credit_id := v_credit.id;
    account_id := v_account.id;
    amount_minor := coalesce(v_credit.amount_minor, p_amount_minor);
    currency := coalesce(v_credit.currency, p_currency);
    balance_before := v_credit.balance_before;
    balance_after := v_credit.balance_after;
    transaction_type := v_credit.transaction_type;
    description := v_credit.description;
    external_transaction_id := v_credit.external_transaction_id;
    created_at := v_credit.created_at;
    balance := v_account.paid_credits;
    account_currency := v_account.currency;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.record_credit IS
    'Adds paid credits to an account, with an outcome. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.record_credit TO billing_server, billing_dba;

-- Adds credits as billing.record_credit does, and raises every outcome but a new credit as an
-- error.
-- Errors: actor and key errors, invalid_argument, credit_already_exists, account_not_found,
-- credit_currency_mismatch, balance_overflow, payment_already_credited, payment_of_another_account.
-- Example: SELECT * FROM billing.create_credit(p_oauth_provider => 'oauth:google',
--     p_external_id => '1', p_amount_minor => 20);
CREATE OR REPLACE FUNCTION billing.create_credit(
    p_oauth_provider text,
    p_external_id text,
    p_amount_minor bigint,
    p_transaction_type text DEFAULT 'grant',
    p_description text DEFAULT 'Granted',
    p_currency text DEFAULT 'USD',
    p_external_transaction_id text DEFAULT NULL,
    p_idempotency_key text DEFAULT NULL,
    p_api_key_id uuid DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL,
    p_expires_at timestamptz DEFAULT NULL,
    p_priority bigint DEFAULT NULL,
    p_source text DEFAULT NULL,
    p_effective_at timestamptz DEFAULT NULL
) RETURNS TABLE (
    credit_id uuid,
    account_id uuid,
    amount_minor bigint,
    currency text,
    balance_before bigint,
    balance_after bigint,
    transaction_type text,
    description text,
    external_transaction_id text,
    created_at timestamptz
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_credit record;
BEGIN
    SELECT
        r.outcome, r.credit_id, r.account_id, r.amount_minor, r.currency, r.balance_before,
        r.balance_after, r.transaction_type, r.description, r.external_transaction_id,
        r.created_at, r.balance, r.account_currency
    INTO STRICT v_credit
    FROM billing.record_credit(
        p_oauth_provider => p_oauth_provider,
        p_external_id => p_external_id,
        p_amount_minor => p_amount_minor,
        p_transaction_type => p_transaction_type,
        p_description => p_description,
        p_currency => p_currency,
        p_external_transaction_id => p_external_transaction_id,
        p_idempotency_key => p_idempotency_key,
        p_api_key_id => p_api_key_id,
        p_session_hash => p_session_hash,
        p_expires_at => p_expires_at,
        p_priority => p_priority,
        p_source => p_source,
        p_effective_at => p_effective_at
    ) AS r;
    IF v_credit.outcome <> 'created' THEN
        PERFORM billing_data.raise_error(
            CASE
                WHEN v_credit.outcome IN ('replayed', 'conflict') THEN 'credit_already_exists'
                ELSE v_credit.outcome
            END,
            jsonb_strip_nulls(jsonb_build_object(
                'credit_id', v_credit.credit_id, 'balance', v_credit.balance,
                'amount', p_amount_minor, 'maximum', billing_data.max_amount(),
                'account_currency', v_credit.account_currency, 'currency', p_currency,
                'payment_id', p_external_transaction_id
            ))
        );
    END IF;
    RETURN QUERY SELECT
        v_credit.credit_id, v_credit.account_id, v_credit.amount_minor, v_credit.currency,
        v_credit.balance_before, v_credit.balance_after, v_credit.transaction_type,
        v_credit.description, v_credit.external_transaction_id, v_credit.created_at;
END
$$;
COMMENT ON FUNCTION billing.create_credit IS
    'Adds paid credits to an account. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.create_credit TO billing_server, billing_dba;
