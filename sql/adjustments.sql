-- Corrections by staff: credits that are given or taken by hand, and free uses that are set anew.

-- Adds or takes away paid credits by a staff member's decision. A balance below zero is refused.
-- When the idempotency key was used before for the same change, nothing is done and replayed is
-- true.
-- Locks: the account. A caller that adjusts several accounts in one transaction must go in
-- ascending order of their ids, or call billing.adjust_several_credits, which does so; otherwise
-- two such callers can deadlock, and one is undone (40P01).
-- Writes: accounts 1, credits 1, admin_audit_logs 1. Errors: actor errors,
-- invalid_argument, account_not_found, insufficient_credits, balance_overflow,
-- idempotency_key_reused.
-- Example: SELECT * FROM billing.adjust_credits(p_account_id => '...', p_amount => 5,
--              p_reason => 'goodwill');
CREATE OR REPLACE FUNCTION billing.adjust_credits(
    p_account_id uuid,
    p_amount bigint,
    p_reason text,
    p_idempotency_key text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    credit_id uuid, amount_minor bigint, balance_before bigint, balance_after bigint,
    created_at timestamptz, replayed boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_account billing_data.accounts;
    v_credit billing_data.credits;
    v_fingerprint bytea;
BEGIN
    PERFORM billing_data.require(p_amount <> 0, 'p_amount', 'it must not be 0');
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require_short(p_idempotency_key, 'p_idempotency_key');
    PERFORM billing_data.require_durable_commit();
    SELECT a.* INTO v_account
    FROM billing_data.accounts AS a
    WHERE a.id = p_account_id
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
    v_fingerprint := billing_data.fingerprint(
        billing_data.field_hash('adjustment', p_amount::text)
        # billing_data.field_hash('reason', p_reason)
    );
    SELECT c.* INTO v_credit
    FROM billing_data.credits AS c
    WHERE c.account_id = v_account.id AND c.idempotency_key = p_idempotency_key;
    replayed := FOUND;
    IF replayed AND (
        -- a credit of the old service, which had no adjustments
        v_credit.request_fingerprint IS NULL
        OR billing_data.is_other_request(v_credit.request_fingerprint, v_fingerprint)
    ) THEN
        PERFORM billing_data.raise_error('idempotency_key_reused');
    ELSIF NOT replayed THEN
        IF p_amount > 0 AND v_account.paid_credits > billing_data.max_amount() - p_amount THEN
            PERFORM billing_data.raise_error('balance_overflow', jsonb_build_object(
                'balance', v_account.paid_credits, 'amount', p_amount,
                'maximum', billing_data.max_amount()
            ));
        ELSIF v_account.paid_credits < -p_amount::numeric THEN
            PERFORM billing_data.raise_error('insufficient_credits', jsonb_build_object(
                'balance', v_account.paid_credits, 'required', -p_amount::numeric
            ));
        END IF;
        v_credit := billing_data.append_credit(
            v_account, p_amount, CASE WHEN p_amount > 0 THEN 'grant' ELSE 'adjustment' END,
            p_reason, NULL, p_idempotency_key, v_fingerprint, clock_timestamp(), NULL,
            v_actor.admin_user_id, v_actor.database_role, NULL
        );
        PERFORM billing_data.write_audit(
            'account.adjust_credits', 'account', v_account.id::text,
            jsonb_build_object(
                'amount', p_amount, 'credit_id', v_credit.id,
                'before', v_credit.balance_before, 'after', v_credit.balance_after
            ),
            p_reason, v_actor
        );
    END IF;
    credit_id := v_credit.id;
    amount_minor := v_credit.amount_minor;
    balance_before := v_credit.balance_before;
    balance_after := v_credit.balance_after;
    created_at := v_credit.created_at;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.adjust_credits IS
    'Adds or takes away paid credits, with a reason. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.adjust_credits TO billing_server, billing_dba;

-- Adjusts several accounts, all or none. It calls billing.adjust_credits for each, in ascending
-- order of their ids, whatever order they are given in, so that two callers cannot deadlock. All
-- accounts get the same reason and the same idempotency key.
-- Locks: the accounts in id order. Writes and errors: as billing.adjust_credits, and
-- invalid_argument for an account that is named twice.
-- Example: SELECT * FROM billing.adjust_several_credits(
--     p_account_ids => ARRAY['...'::uuid], p_amounts => ARRAY[5::bigint], p_reason => 'goodwill');
CREATE OR REPLACE FUNCTION billing.adjust_several_credits(
    p_account_ids uuid[],
    p_amounts bigint[],
    p_reason text,
    p_idempotency_key text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    account_id uuid, credit_id uuid, amount_minor bigint, balance_before bigint,
    balance_after bigint, created_at timestamptz, replayed boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_change record;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:write');
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require_short(p_idempotency_key, 'p_idempotency_key');
    PERFORM billing_data.require_same_length(
        ARRAY[cardinality(p_account_ids), cardinality(p_amounts)], '{}',
        ARRAY[array_dims(p_account_ids), array_dims(p_amounts)]
    );
    PERFORM billing_data.require(
        cardinality(p_account_ids) = (
            SELECT count(DISTINCT u.id) FROM unnest(p_account_ids) AS u (id)
        ),
        'p_account_ids', 'each account must be named once'
    );
    FOR v_change IN
        SELECT u.id, u.amount
        FROM unnest(p_account_ids, p_amounts) AS u (id, amount)
        ORDER BY u.id
    LOOP
        account_id := v_change.id;
        SELECT
            a.credit_id, a.amount_minor, a.balance_before, a.balance_after, a.created_at, a.replayed
        INTO STRICT credit_id, amount_minor, balance_before, balance_after, created_at, replayed
        FROM billing.adjust_credits(
            p_account_id => v_change.id,
            p_amount => v_change.amount,
            p_reason => p_reason,
            p_idempotency_key => p_idempotency_key,
            p_session_hash => p_session_hash
        ) AS a;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION billing.adjust_several_credits IS
    'Adjusts the credits of several accounts, all or none. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.adjust_several_credits TO billing_dba;

-- Sets an account's free uses, by default to what new accounts get. This is not a ledger entry,
-- because the ledger is about paid credits. The audit row proves it, with the ledger version that
-- the account had.
-- Locks: the account. Writes: accounts 0..1, admin_audit_logs 0..1.
-- Errors: actor errors, invalid_argument, account_not_found.
-- Example: SELECT * FROM billing.reset_free_uses(p_account_id => '...', p_reason => 'a new start');
CREATE OR REPLACE FUNCTION billing.reset_free_uses(
    p_account_id uuid,
    p_reason text,
    p_free_uses bigint DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (free_uses_before bigint, free_uses_remaining bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_version bigint;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require(
        p_free_uses IS NULL OR p_free_uses >= 0, 'p_free_uses', 'it must be 0 or more'
    );
    PERFORM billing_data.require_durable_commit();
    SELECT a.free_uses_remaining, a.ledger_version INTO free_uses_before, v_version
    FROM billing_data.accounts AS a
    WHERE a.id = p_account_id
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
    SELECT coalesce(p_free_uses, s.free_uses) INTO STRICT free_uses_remaining
    FROM billing_data.settings AS s;
    IF free_uses_remaining <> free_uses_before THEN
        UPDATE billing_data.accounts AS a
        SET free_uses_remaining = reset_free_uses.free_uses_remaining,
            updated_at = clock_timestamp()
        WHERE a.id = p_account_id;
        PERFORM billing_data.write_audit(
            'account.reset_free_uses', 'account', p_account_id::text,
            jsonb_build_object(
                'before', free_uses_before, 'after', free_uses_remaining,
                'ledger_version', v_version
            ),
            p_reason, v_actor
        );
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.reset_free_uses IS
    'Sets an account''s free uses, with a reason. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.reset_free_uses TO billing_server, billing_dba;
