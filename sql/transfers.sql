-- Credits that move from one account to another: two ledger rows that have one transfer_id and
-- together add up to 0.

-- Locks two different accounts that exist, and returns their rows in the order in which the caller
-- named them. While the call waits for one of them, it holds neither.
-- Locks: the accounts, in id order. Errors: account_not_found, accounts_are_one, account_erased,
-- serialization_failure when one was merged meanwhile.
CREATE OR REPLACE FUNCTION billing_data.lock_two_accounts(
    p_from_account_id uuid, p_to_account_id uuid
) RETURNS billing_data.accounts[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_from_id uuid := billing_data.surviving_account(p_from_account_id);
    v_to_id uuid := billing_data.surviving_account(p_to_account_id);
    v_from billing_data.accounts;
    v_to billing_data.accounts;
BEGIN
    PERFORM billing_data.raise_error(
        'account_not_found', jsonb_build_object('account_id', i.id)
    )
    FROM unnest(ARRAY[v_from_id, v_to_id]) AS i (id)
    WHERE NOT EXISTS (SELECT FROM billing_data.accounts AS a WHERE a.id = i.id);
    IF v_from_id = v_to_id THEN
        PERFORM billing_data.raise_error(
            'accounts_are_one', jsonb_build_object('account_id', v_from_id)
        );
    END IF;
    PERFORM billing_data.lock_accounts(
        ARRAY[least(v_from_id, v_to_id), greatest(v_from_id, v_to_id)], p_wait => true
    );
    SELECT a.* INTO STRICT v_from FROM billing_data.accounts AS a WHERE a.id = v_from_id;
    SELECT a.* INTO STRICT v_to FROM billing_data.accounts AS a WHERE a.id = v_to_id;
    PERFORM billing_data.require_account_of(p_from_account_id, v_from.id, v_from.status);
    PERFORM billing_data.require_account_of(p_to_account_id, v_to.id, v_to.status);
    PERFORM billing_data.refuse_erased(v_from.id);
    PERFORM billing_data.refuse_erased(v_to.id);
    RETURN ARRAY[v_from, v_to];
END
$$;
COMMENT ON FUNCTION billing_data.lock_two_accounts IS
    'Locks two different accounts in the order of their ids. Helper.';

-- Refuses to move credits between accounts of different currencies, out of an account that is not
-- active (its credits would become usable unnoticed), more than there are, or more than fit.
-- Errors: accounts_of_other_currency, account_not_active, insufficient_credits, balance_overflow.
CREATE OR REPLACE FUNCTION billing_data.require_transfer(
    p_from billing_data.accounts, p_to billing_data.accounts, p_amount bigint
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_from.currency <> p_to.currency THEN
        PERFORM billing_data.raise_error('accounts_of_other_currency', jsonb_build_object(
            'currency', p_from.currency, 'other_currency', p_to.currency
        ));
    ELSIF p_from.status <> 'active' THEN
        PERFORM billing_data.raise_error('account_not_active', jsonb_build_object(
            'account_id', p_from.id, 'status', p_from.status
        ));
    END IF;
    PERFORM billing_data.require_room_in(p_from, -p_amount);
    PERFORM billing_data.require_room_in(p_to, p_amount);
END
$$;
COMMENT ON FUNCTION billing_data.require_transfer IS
    'Refuses a transfer that the accounts do not allow. Helper.';

-- Writes the two rows of a transfer, of which the first one has the idempotency key. A merge also
-- moves free uses; a side that nothing changes has no row. Credits keep their kind: what is taken
-- of lots becomes lots. The credit p_own_id is taken from first.
-- Locks: none, the caller holds both accounts. Writes: credits 0..2, accounts 0..2, lots and
-- lot_allocations 0..n.
CREATE OR REPLACE FUNCTION billing_data.append_transfer(
    p_transfer_id uuid,
    p_from billing_data.accounts,
    p_to billing_data.accounts,
    p_amount bigint,
    p_free_uses_taken bigint,
    p_free_uses_given bigint,
    p_reason text,
    p_idempotency_key text,
    p_fingerprint bytea,
    p_now timestamptz,
    p_actor billing_data.actor,
    p_own_id uuid DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_from billing_data.credits;
    v_to billing_data.credits;
BEGIN
    IF p_amount > 0 OR p_free_uses_taken > 0 THEN
        v_from := billing_data.append_credit(
            p_from, -p_amount, 'adjustment', p_reason, NULL, p_idempotency_key, p_fingerprint,
            p_now, NULL, p_actor.admin_user_id, p_actor.database_role, NULL,
            p_transfer_id => p_transfer_id, p_free_uses => -p_free_uses_taken,
            p_own_id => p_own_id
        );
    END IF;
    IF p_amount > 0 OR p_free_uses_given > 0 THEN
        v_to := billing_data.append_credit(
            p_to, p_amount, 'adjustment', p_reason, NULL, NULL, p_fingerprint, p_now, NULL,
            p_actor.admin_user_id, p_actor.database_role, NULL,
            p_transfer_id => p_transfer_id, p_free_uses => p_free_uses_given
        );
    END IF;
    IF p_from.has_lots THEN
        PERFORM billing_data.move_lots(v_from.id, v_to.id, p_to.id);
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.append_transfer IS
    'Writes both sides of a transfer, for accounts that are locked. Helper.';

-- The two rows of an earlier transfer under an idempotency key; empty rows when there is none.
-- Errors: idempotency_key_reused when the key was used for something else.
CREATE OR REPLACE FUNCTION billing_data.find_transfer(
    p_from_account_id uuid, p_to_account_id uuid, p_idempotency_key text, p_fingerprint bytea
) RETURNS billing_data.credits[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_from billing_data.credits;
    v_to billing_data.credits;
BEGIN
    v_from := billing_data.credit_under_key(
        billing_data.merge_path(p_from_account_id), p_idempotency_key, p_fingerprint
    );
    SELECT c.* INTO v_to
    FROM billing_data.credits AS c
    WHERE c.account_id = ANY (billing_data.merge_path(p_to_account_id))
        AND c.transfer_id = v_from.transfer_id
        AND c.id <> v_from.id;
    RETURN ARRAY[v_from, v_to];
END
$$;
COMMENT ON FUNCTION billing_data.find_transfer IS
    'The rows of the transfer that was made under an idempotency key. Helper.';

-- Moves paid credits from one account to another of the same currency, with two ledger rows of one
-- transfer_id. Credits leave only an active account; any account takes them but that of a person
-- who was erased. When the idempotency key was used before for the same transfer, nothing is done
-- and replayed is true. With p_dry_run nothing is written: the answer, or the refusal, is what the
-- same call would give now, and it has no transfer_id.
-- Locks: both accounts, in id order. Writes: credits 2, accounts 2, admin_audit_logs 2.
-- Errors: actor errors, invalid_argument, account_not_found, accounts_are_one, account_erased,
-- accounts_of_other_currency, account_not_active, insufficient_credits, balance_overflow,
-- idempotency_key_reused, serialization_failure (an account was merged at this moment).
-- Example: SELECT * FROM billing.transfer_credits(p_from_account_id => '...',
--     p_to_account_id => '...', p_amount => 5, p_reason => 'bought with the wrong sign-in');
CREATE OR REPLACE FUNCTION billing.transfer_credits(
    p_from_account_id uuid,
    p_to_account_id uuid,
    p_amount bigint,
    p_reason text,
    p_idempotency_key text DEFAULT NULL,
    p_dry_run boolean DEFAULT false,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    transfer_id uuid,
    from_account_id uuid,
    from_balance_before bigint,
    from_balance_after bigint,
    to_account_id uuid,
    to_balance_before bigint,
    to_balance_after bigint,
    amount_minor bigint,
    currency text,
    created_at timestamptz,
    replayed boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_fingerprint bytea;
    v_from billing_data.accounts;
    v_to billing_data.accounts;
    v_accounts billing_data.accounts[];
    v_rows billing_data.credits[];
    v_first billing_data.credits;
    v_second billing_data.credits;
BEGIN
    PERFORM billing_data.require(p_amount > 0, 'p_amount', 'it must be greater than 0');
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require_short(p_idempotency_key, 'p_idempotency_key');
    PERFORM billing_data.require(p_dry_run IS NOT NULL, 'p_dry_run', 'it must be true or false');
    PERFORM billing_data.require_durable_commit();
    v_fingerprint := billing_data.fingerprint(
        billing_data.field_hash('transfer', p_amount::text)
        # billing_data.field_hash('to_account_id', p_to_account_id::text)
        # billing_data.field_hash('reason', p_reason)
    );
    amount_minor := p_amount;
    -- A transfer between accounts that were merged since is still found by its key. The key is
    -- looked up again under the lock, because the same call may have been under way.
    v_rows := billing_data.find_transfer(
        p_from_account_id, p_to_account_id, p_idempotency_key, v_fingerprint
    );
    IF (v_rows[1]).id IS NULL THEN
        v_accounts := billing_data.lock_two_accounts(p_from_account_id, p_to_account_id);
        v_rows := billing_data.find_transfer(
            p_from_account_id, p_to_account_id, p_idempotency_key, v_fingerprint
        );
    END IF;
    v_first := v_rows[1];
    v_second := v_rows[2];
    replayed := v_first.id IS NOT NULL;
    IF replayed THEN
        transfer_id := v_first.transfer_id;
        from_account_id := v_first.account_id;
        from_balance_before := v_first.balance_before;
        from_balance_after := v_first.balance_after;
        to_account_id := v_second.account_id;
        to_balance_before := v_second.balance_before;
        to_balance_after := v_second.balance_after;
        currency := v_first.currency;
        created_at := v_first.created_at;
        RETURN NEXT;
        RETURN;
    END IF;
    v_from := v_accounts[1];
    v_to := v_accounts[2];
    PERFORM billing_data.require_transfer(v_from, v_to, p_amount);
    from_account_id := v_from.id;
    from_balance_before := v_from.paid_credits;
    from_balance_after := from_balance_before - p_amount;
    to_account_id := v_to.id;
    to_balance_before := v_to.paid_credits;
    to_balance_after := to_balance_before + p_amount;
    currency := v_from.currency;
    IF NOT p_dry_run THEN
        transfer_id := billing_data.new_id();
        created_at := clock_timestamp();
        PERFORM billing_data.append_transfer(
            transfer_id, v_from, v_to, p_amount, 0, 0, p_reason, p_idempotency_key,
            v_fingerprint, created_at, v_actor
        );
        PERFORM billing_data.write_audit(
            'account.transfer_credits', 'account', t.id::text,
            jsonb_build_object(
                'amount', t.amount, 'transfer_id', transfer_id, 'other_account_id', t.other_id,
                'after', t.balance
            ),
            p_reason, v_actor
        )
        FROM (
            VALUES (from_account_id, -p_amount, to_account_id, from_balance_after),
            (to_account_id, p_amount, from_account_id, to_balance_after)
        ) AS t (id, amount, other_id, balance);
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.transfer_credits IS
    'Moves paid credits from one account to another. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.transfer_credits TO billing_server, billing_dba;
