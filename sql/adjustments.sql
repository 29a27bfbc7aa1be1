-- Corrections by staff: credits that are given or taken away by hand, and free uses that are set
-- anew.

-- Refuses accounts and amounts that make no adjustment.
CREATE OR REPLACE FUNCTION billing_data.require_adjustments(
    p_account_ids uuid[], p_account_id uuid, p_amounts bigint[], p_amount bigint
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require_list(
        array_dims(p_account_ids), cardinality(p_account_ids), 'p_account_ids'
    );
    PERFORM billing_data.require(
        num_nonnulls(p_account_ids, p_account_id) < 2, 'p_account_ids',
        'either one account or a list is given'
    );
    PERFORM billing_data.require(
        p_account_ids IS NULL OR cardinality(p_account_ids) = (
            SELECT count(DISTINCT billing_data.surviving_account(u.id))
            FROM unnest(p_account_ids) AS u (id)
        ),
        'p_account_ids', 'each account must be named once'
    );
    IF p_amounts IS NULL THEN
        PERFORM billing_data.require(p_amount <> 0, 'p_amount', 'it must not be 0');
        RETURN;
    END IF;
    PERFORM billing_data.require(
        p_amount IS NULL, 'p_amounts', 'either one amount or a list is given'
    );
    PERFORM billing_data.require_same_length(
        ARRAY[cardinality(p_account_ids), cardinality(p_amounts)], '{}',
        ARRAY[array_dims(p_account_ids), array_dims(p_amounts)]
    );
    PERFORM billing_data.require(
        (0 <> ALL (p_amounts)) IS TRUE OR cardinality(p_amounts) = 0,
        'p_amounts', 'none of them may be 0'
    );
END
$$;
COMMENT ON FUNCTION billing_data.require_adjustments IS
    'Raises invalid_argument unless the accounts and amounts of an adjustment are good. Helper.';

-- Adjusts one account, p_account_id. p_asked_id is the id that the caller named: idempotency keys
-- that were used on an account before it was merged are still recognised.
-- Locks: none, the caller holds the account. Writes: accounts 1, credits 1, admin_audit_logs 1.
CREATE OR REPLACE FUNCTION billing_data.adjust_account(
    p_account_id uuid, p_asked_id uuid, p_amount bigint, p_reason text, p_idempotency_key text,
    p_dry_run boolean, p_actor billing_data.actor, p_expires_at timestamptz DEFAULT NULL,
    p_priority bigint DEFAULT NULL, p_source text DEFAULT NULL
) RETURNS TABLE (
    credit_id uuid, amount_minor bigint, balance_before bigint, balance_after bigint,
    created_at timestamptz, replayed boolean
)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_account billing_data.accounts;
    v_credit billing_data.credits;
    v_fingerprint bytea := billing_data.fingerprint(
        billing_data.field_hash('adjustment', p_amount::text)
        # billing_data.field_hash('reason', p_reason)
        # billing_data.kind_hash(p_source, p_priority, p_expires_at)
    );
BEGIN
    SELECT a.* INTO STRICT v_account FROM billing_data.accounts AS a WHERE a.id = p_account_id;
    PERFORM billing_data.require_account_of(p_asked_id, v_account.id, v_account.status);
    v_credit := billing_data.credit_under_key(
        billing_data.merge_path(p_asked_id), p_idempotency_key, v_fingerprint
    );
    replayed := v_credit.id IS NOT NULL;
    IF NOT replayed THEN
        PERFORM billing_data.require(
            coalesce(p_expires_at > billing_data.clock(), true), 'p_expires_at',
            'it must be a time to come'
        );
        PERFORM billing_data.require_room_in(v_account, p_amount);
        v_credit.amount_minor := p_amount;
        v_credit.balance_before := v_account.paid_credits;
        v_credit.balance_after := v_account.paid_credits + p_amount;
    END IF;
    IF NOT (replayed OR p_dry_run) THEN
        v_credit := billing_data.append_credit(
            v_account, p_amount, CASE WHEN p_amount > 0 THEN 'grant' ELSE 'adjustment' END,
            p_reason, NULL, p_idempotency_key, v_fingerprint, clock_timestamp(), NULL,
            p_actor.admin_user_id, p_actor.database_role, NULL
        );
        IF p_amount > 0 THEN
            PERFORM billing_data.make_lot(v_credit, p_source, p_priority, p_expires_at);
        END IF;
        PERFORM billing_data.write_audit(
            'account.adjust_credits', 'account', v_account.id::text,
            jsonb_build_object(
                'amount', p_amount, 'credit_id', v_credit.id,
                'before', v_credit.balance_before, 'after', v_credit.balance_after
            ) || billing_data.kind_told(p_source, p_priority, p_expires_at),
            p_reason, p_actor
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
COMMENT ON FUNCTION billing_data.adjust_account IS
    'Adjusts the credits of an account that is locked. Helper.';

-- Adds or takes away paid credits by a staff member's decision, for one account (p_account_id) or
-- for several (p_account_ids), all or none. Several accounts get an amount each (p_amounts), or all
-- the same (p_amount). They get the same reason and the same idempotency key, which belongs to an
-- account. A balance below zero is refused. When the key was used before for the same change,
-- nothing is done for that account and replayed is true. With p_dry_run nothing is written and
-- credit_id is NULL. What is given may end (p_expires_at), have a priority (0 to 100, lower ones
-- are spent first) or be a promotion (p_source). Returns a row for each account, in the order of
-- their ids.
-- Locks: the accounts, in id order, so that two callers cannot deadlock. Writes: accounts 1,
-- credits 1, lots 0..1, admin_audit_logs 1 for each. Errors: actor errors, invalid_argument,
-- account_not_found, account_erased, insufficient_credits, balance_overflow,
-- idempotency_key_reused.
-- Example: SELECT * FROM billing.adjust_credits(p_account_id => '...', p_amount => 5,
--              p_reason => 'goodwill');
CREATE OR REPLACE FUNCTION billing.adjust_credits(
    p_account_id uuid DEFAULT NULL,
    p_amount bigint DEFAULT NULL,
    p_reason text DEFAULT NULL,
    p_idempotency_key text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL,
    p_account_ids uuid[] DEFAULT NULL,
    p_amounts bigint[] DEFAULT NULL,
    p_dry_run boolean DEFAULT false,
    p_expires_at timestamptz DEFAULT NULL,
    p_priority bigint DEFAULT NULL,
    p_source text DEFAULT NULL
) RETURNS TABLE (
    account_id uuid, credit_id uuid, amount_minor bigint, balance_before bigint,
    balance_after bigint, created_at timestamptz, replayed boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_asked uuid[] := coalesce(p_account_ids, ARRAY[p_account_id]);
    v_amounts bigint[] := coalesce(p_amounts, array_fill(p_amount, ARRAY[cardinality(v_asked)]));
    v_ids uuid[];
    v_change record;
BEGIN
    PERFORM billing_data.require_adjustments(p_account_ids, p_account_id, p_amounts, p_amount);
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require_short(p_idempotency_key, 'p_idempotency_key');
    PERFORM billing_data.require(p_dry_run IS NOT NULL, 'p_dry_run', 'it must be true or false');
    PERFORM billing_data.require_kind('grant', p_source, p_priority, p_expires_at);
    PERFORM billing_data.require(
        num_nonnulls(p_source, p_priority, p_expires_at) = 0 OR 0 < ALL (v_amounts),
        'p_amount', 'what is taken away has no end, priority or source'
    );
    PERFORM billing_data.require_durable_commit();
    v_ids := ARRAY(SELECT billing_data.surviving_account(u.id) FROM unnest(v_asked) AS u (id));
    IF (
        SELECT count(*) FROM billing_data.accounts AS a WHERE a.id = ANY (v_ids)
    ) <> cardinality(v_ids) THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
    PERFORM billing_data.lock_accounts(v_ids, p_wait => true);
    PERFORM billing_data.refuse_erased(u.id) FROM unnest(v_ids) AS u (id);
    FOR v_change IN
        SELECT u.id, u.asked_id, u.amount
        FROM unnest(v_ids, v_asked, v_amounts) AS u (id, asked_id, amount)
        ORDER BY u.id
    LOOP
        RETURN QUERY
        SELECT v_change.id, a.*
        FROM billing_data.adjust_account(
            v_change.id, v_change.asked_id, v_change.amount, p_reason, p_idempotency_key,
            p_dry_run, v_actor, p_expires_at, p_priority, p_source
        ) AS a;
    END LOOP;
END
$$;
COMMENT ON FUNCTION billing.adjust_credits IS
    'Adds or takes away paid credits of one account or several, with a reason. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.adjust_credits TO billing_server, billing_dba;

-- Sets an account's free uses, by default to what new accounts get. This is not a ledger entry,
-- because the ledger is about paid credits. The audit row proves it, with the ledger version that
-- the account had.
-- Locks: the account. Writes: accounts 0..1, admin_audit_logs 0..1, outbox 0..n.
-- Errors: actor errors, invalid_argument, account_not_found, account_erased.
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
    v_account billing_data.accounts;
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require(
        p_free_uses IS NULL OR p_free_uses >= 0, 'p_free_uses', 'it must be 0 or more'
    );
    PERFORM billing_data.require_durable_commit();
    v_account := billing_data.lock_account(p_account_id);
    IF v_account.id IS NULL THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
    PERFORM billing_data.refuse_erased(v_account.id);
    free_uses_before := v_account.free_uses_remaining;
    SELECT coalesce(p_free_uses, s.free_uses) INTO STRICT free_uses_remaining
    FROM billing_data.settings AS s;
    PERFORM billing_data.require(
        free_uses_remaining >= v_account.held_free_uses, 'p_free_uses',
        'it must not be less than what open holds keep'
    );
    IF free_uses_remaining <> free_uses_before THEN
        UPDATE billing_data.accounts AS a
        SET free_uses_remaining = reset_free_uses.free_uses_remaining,
            updated_at = clock_timestamp()
        WHERE a.id = v_account.id;
        PERFORM billing_data.write_audit(
            'account.reset_free_uses', 'account', v_account.id::text,
            jsonb_build_object(
                'before', free_uses_before, 'after', free_uses_remaining,
                'ledger_version', v_account.ledger_version
            ),
            p_reason, v_actor
        );
        PERFORM billing_data.raise_balance_alerts(
            v_account.id, free_uses_before, v_account.paid_credits, free_uses_remaining,
            v_account.paid_credits
        );
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.reset_free_uses IS
    'Sets an account''s free uses, with a reason. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.reset_free_uses TO billing_server, billing_dba;
