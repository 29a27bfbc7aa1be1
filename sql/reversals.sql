-- Reversals: a charge that is given back, and a credit that is taken back. Each is a ledger entry
-- of its own that names what it corrects. What was written stays as it was.

-- Refuses arguments that no reversal can have. Makes the commit durable.
CREATE OR REPLACE FUNCTION billing_data.require_reversal(
    p_reason text, p_amount bigint, p_idempotency_key text, p_dry_run boolean
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require(
        p_amount IS NULL OR p_amount > 0, 'p_amount', 'it must be greater than 0'
    );
    PERFORM billing_data.require_short(p_idempotency_key, 'p_idempotency_key');
    PERFORM billing_data.require(p_dry_run IS NOT NULL, 'p_dry_run', 'it must be true or false');
    PERFORM billing_data.require_durable_commit();
END
$$;
COMMENT ON FUNCTION billing_data.require_reversal IS
    'Raises invalid_argument unless the arguments of a reversal are good. Helper.';

CREATE OR REPLACE FUNCTION billing_data.reversal_fingerprint(
    p_entry_id uuid, p_amount bigint, p_reason text
) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN billing_data.fingerprint(
    billing_data.field_hash('reverses', p_entry_id::text)
    # billing_data.field_hash('amount', p_amount::text)
    # billing_data.field_hash('reason', p_reason)
);
COMMENT ON FUNCTION billing_data.reversal_fingerprint IS
    'The fingerprint of a request to reverse an entry. Helper.';

-- Refuses a credit that a reversal cannot take back: a credit that belongs to a payment, and a
-- credit that is itself a correction. Errors: credit_of_payment, correction_not_reversible.
CREATE OR REPLACE FUNCTION billing_data.require_reversible_credit(p_credit billing_data.credits)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF billing_data.is_correction(p_credit) THEN
        PERFORM billing_data.raise_error(
            'correction_not_reversible', jsonb_build_object('credit_id', (p_credit).id)
        );
    ELSIF billing_data.is_of_payment(
            (p_credit).payment_provider, (p_credit).request_fingerprint, (p_credit).digest
        )
        OR EXISTS (
            SELECT FROM billing_data.payment_effects AS x WHERE x.credit_id = (p_credit).id
        )
        OR EXISTS (SELECT FROM billing_data.purchases AS p WHERE p.credit_id = (p_credit).id)
    THEN
        PERFORM billing_data.raise_error(
            'credit_of_payment', jsonb_build_object('credit_id', (p_credit).id)
        );
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.require_reversible_credit IS
    'Refuses a credit of a payment, and a correction. Helper.';

-- How much of an entry a call reverses: the part that it asks for, or all that is left. The entry
-- belongs to p_account_id and is of p_amount_minor, more than 0.
-- Errors: entry_of_old_service, already_reversed, reversal_too_great.
CREATE OR REPLACE FUNCTION billing_data.part_to_reverse(
    p_account_id uuid, p_ledger_version bigint, p_entry_id uuid, p_amount_minor bigint,
    p_asked bigint
) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_left bigint := p_amount_minor - coalesce(
        (
            SELECT r.reversed_minor
            FROM billing_data.reversed_entries AS r
            WHERE r.entry_id = p_entry_id
        ),
        0
    );
BEGIN
    IF EXISTS (
        SELECT FROM billing_data.ledger_openings AS o
        WHERE o.account_id = p_account_id AND o.ledger_version >= p_ledger_version
    ) THEN
        PERFORM billing_data.raise_error(
            'entry_of_old_service', jsonb_build_object('entry_id', p_entry_id)
        );
    ELSIF v_left = 0 THEN
        PERFORM billing_data.raise_error(
            'already_reversed', jsonb_build_object('entry_id', p_entry_id)
        );
    ELSIF p_asked > v_left THEN
        PERFORM billing_data.raise_error('reversal_too_great', jsonb_build_object(
            'entry_id', p_entry_id, 'amount', p_asked, 'left', v_left
        ));
    END IF;
    RETURN coalesce(p_asked, v_left);
END
$$;
COMMENT ON FUNCTION billing_data.part_to_reverse IS
    'How much of an entry a call reverses; refuses what is more than is left. Helper.';

-- Writes the reversal of p_part of an entry, which is of p_entry_minor, more than 0.
-- Locks: the reversed_entries row; the caller holds p_account. Writes: reversed_entries 1, credits
-- 1, accounts 1; admin_audit_logs 1 where staff or a database role reverses.
CREATE OR REPLACE FUNCTION billing_data.append_reversal(
    p_account billing_data.accounts,
    p_entry_minor bigint,
    p_part bigint,
    p_credits bigint,
    p_free_uses bigint,
    p_charge_id uuid,
    p_credit_id uuid,
    p_reason text,
    p_idempotency_key text,
    p_fingerprint bytea,
    p_actor billing_data.actor
) RETURNS billing_data.credits
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_reversal billing_data.credits;
BEGIN
    -- The constraint reversed_entries_at_most_all bounds the sum, whatever the caller has checked.
    INSERT INTO billing_data.reversed_entries AS r (
        entry_id, account_id, amount_minor, reversed_minor
    )
    VALUES (coalesce(p_charge_id, p_credit_id), p_account.id, p_entry_minor, p_part)
    ON CONFLICT ON CONSTRAINT reversed_entries_pkey
        DO UPDATE SET reversed_minor = r.reversed_minor + excluded.reversed_minor;
    v_reversal := billing_data.append_credit(
        p_account, p_credits, CASE WHEN p_charge_id IS NULL THEN 'adjustment' ELSE 'refund' END,
        p_reason, NULL, p_idempotency_key, p_fingerprint, clock_timestamp(), p_actor.api_key_id,
        p_actor.admin_user_id, p_actor.database_role, NULL, NULL, p_charge_id, p_credit_id, NULL,
        p_free_uses
    );
    IF p_actor.api_key_id IS NULL THEN
        PERFORM billing_data.write_audit(
            CASE WHEN p_charge_id IS NULL THEN 'account.reverse_credit'
                ELSE 'account.reverse_charge' END,
            'account', p_account.id::text,
            jsonb_strip_nulls(jsonb_build_object(
                'charge_id', p_charge_id, 'credit_id', p_credit_id, 'reversal_id', v_reversal.id,
                'amount', p_part, 'free_uses', nullif(p_free_uses, 0),
                'before', v_reversal.balance_before, 'after', v_reversal.balance_after
            )),
            p_reason, p_actor
        );
    END IF;
    RETURN v_reversal;
END
$$;
COMMENT ON FUNCTION billing_data.append_reversal IS
    'Writes a reversal and counts it, for an account that is locked. Helper.';

-- Gives a charge back, whole or in part, to what paid for it: a free use is given back whole, paid
-- credits as far as p_amount says (by default all that is left). All reversals of a charge together
-- never exceed it. An API key reverses only what it, or a key of its chain of rotations, charged;
-- it does not find any other charge, nor a charge of a person who was erased. The account's state
-- does not matter. A charge of a merged account is given back to the account that stayed.
-- total_uses counts charges, so it stays. When the idempotency key was used before for the same
-- reversal, nothing is done and replayed is true; reversed_minor and free_uses_remaining are then
-- the present ones. With p_dry_run nothing is written and reversal_id is NULL. Caps that counted
-- the charge get it back while their minute, day or month is not over.
-- Locks: the account, the reversed_entries row, then cap_usage in the order of the caps. Writes:
-- reversed_entries 1, credits 1, accounts 1, cap_usage 1 per cap, and admin_audit_logs 1 unless an
-- API key calls.
-- Errors: actor and key errors, invalid_argument, charge_not_found, account_erased (not for API
-- keys), entry_of_old_service, already_reversed, reversal_too_great, free_use_is_whole,
-- balance_overflow, idempotency_key_reused.
-- Example: SELECT * FROM billing.reverse_charge(p_charge_id => '...',
--              p_reason => 'the job failed');
CREATE OR REPLACE FUNCTION billing.reverse_charge(
    p_charge_id uuid,
    p_reason text,
    p_amount bigint DEFAULT NULL,
    p_idempotency_key text DEFAULT NULL,
    p_dry_run boolean DEFAULT false,
    p_api_key_id uuid DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    reversal_id uuid, charge_id uuid, account_id uuid, amount_minor bigint, currency text,
    paid_with text, free_uses bigint, balance_before bigint, balance_after bigint,
    free_uses_remaining bigint, reversed_minor bigint, charge_minor bigint, reason text,
    created_at timestamptz, replayed boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor :=
        billing_data.authorize(p_api_key_id, p_session_hash, 'billing:write');
    v_charge billing_data.charges;
    v_account billing_data.accounts;
    v_reversal billing_data.credits;
    v_fingerprint bytea;
BEGIN
    PERFORM billing_data.require_reversal(p_reason, p_amount, p_idempotency_key, p_dry_run);
    SELECT c.* INTO v_charge FROM billing_data.charges AS c WHERE c.id = p_charge_id;
    IF v_charge.id IS NULL OR (
        v_actor.api_key_id IS NOT NULL
        AND v_actor.api_key_id IS DISTINCT FROM v_charge.api_key_id
        AND billing_data.first_key_id(v_actor.api_key_id)
        IS DISTINCT FROM billing_data.first_key_id(v_charge.api_key_id)
    ) THEN
        PERFORM billing_data.raise_error(
            'charge_not_found', jsonb_build_object('charge_id', p_charge_id)
        );
    END IF;
    v_account := billing_data.lock_account(v_charge.account_id);
    IF v_actor.api_key_id IS NOT NULL AND billing_data.is_erased(v_account.id) THEN
        PERFORM billing_data.raise_error(
            'charge_not_found', jsonb_build_object('charge_id', p_charge_id)
        );
    END IF;
    PERFORM billing_data.refuse_erased(v_account.id);
    v_fingerprint := billing_data.reversal_fingerprint(p_charge_id, p_amount, p_reason);
    v_reversal := billing_data.credit_under_key(
        billing_data.merge_path(v_charge.account_id), p_idempotency_key, v_fingerprint
    );
    replayed := v_reversal.id IS NOT NULL;
    SELECT r.reversed_minor INTO reversed_minor
    FROM billing_data.reversed_entries AS r
    WHERE r.entry_id = p_charge_id;
    IF replayed THEN
        free_uses := coalesce(v_reversal.free_uses, 0);
        amount_minor := CASE WHEN free_uses > 0 THEN v_charge.amount_minor
            ELSE v_reversal.amount_minor END;
    ELSE
        amount_minor := billing_data.part_to_reverse(
            v_charge.account_id, v_charge.ledger_version, v_charge.id, v_charge.amount_minor,
            p_amount
        );
        free_uses := (v_charge.paid_with = 'free')::integer;
        IF free_uses > 0 AND amount_minor <> v_charge.amount_minor THEN
            PERFORM billing_data.raise_error('free_use_is_whole', jsonb_build_object(
                'amount', amount_minor, 'left', v_charge.amount_minor
            ));
        END IF;
        v_reversal.amount_minor := CASE WHEN free_uses > 0 THEN 0 ELSE amount_minor END;
        PERFORM billing_data.require_room_in(v_account, v_reversal.amount_minor);
        PERFORM billing_data.require_room(v_account.free_uses_remaining, free_uses);
        reversed_minor := coalesce(reversed_minor, 0) + amount_minor;
        v_reversal.balance_before := v_account.paid_credits;
        v_reversal.balance_after := v_account.paid_credits + v_reversal.amount_minor;
        IF NOT p_dry_run THEN
            v_reversal := billing_data.append_reversal(
                v_account, v_charge.amount_minor, amount_minor, v_reversal.amount_minor, free_uses,
                p_charge_id, NULL, p_reason, p_idempotency_key, v_fingerprint, v_actor
            );
            PERFORM billing_data.give_charge_back_to_caps(
                v_charge, amount_minor, reversed_minor - amount_minor
            );
            PERFORM billing_data.give_back_to_lots(
                ARRAY[v_charge.id], v_charge.amount_minor, v_account.id, v_reversal,
                reversed_minor - amount_minor
            );
        END IF;
    END IF;
    reversal_id := v_reversal.id;
    charge_id := v_charge.id;
    account_id := v_account.id;
    currency := v_charge.currency;
    paid_with := v_charge.paid_with;
    balance_before := v_reversal.balance_before;
    balance_after := v_reversal.balance_after;
    free_uses_remaining := v_account.free_uses_remaining
        + CASE WHEN replayed THEN 0 ELSE free_uses END;
    charge_minor := v_charge.amount_minor;
    reason := p_reason;
    created_at := v_reversal.created_at;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.reverse_charge IS
    'Gives a charge back, whole or in part, to what paid for it. '
    'For billing_server (agents and staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.reverse_charge TO billing_server, billing_dba;

-- Takes a grant or another credit back, whole or in part (p_amount, more than 0; by default all
-- that is left), and gives back credits that staff took away, to the lots that they were taken of.
-- All reversals of a credit together never exceed it, and never take more than the account has. A
-- credit that belongs to a payment is refused: a refund at the provider takes it back. A correction
-- is not reversed again. When the idempotency key was used before for the same reversal, nothing is
-- done and replayed is true. With p_dry_run nothing is written and reversal_id is NULL.
-- Locks: the account, then the reversed_entries row. Writes: reversed_entries 1, credits 1,
-- accounts 1, admin_audit_logs 1, and what billing_data.give_back_to_lots writes.
-- Errors: actor errors, invalid_argument, credit_not_found, account_erased, credit_of_payment,
-- correction_not_reversible, entry_of_old_service, already_reversed, reversal_too_great,
-- insufficient_credits, balance_overflow, idempotency_key_reused.
-- Example: SELECT * FROM billing.reverse_credit(p_credit_id => '...',
--              p_reason => 'granted by mistake');
CREATE OR REPLACE FUNCTION billing.reverse_credit(
    p_credit_id uuid,
    p_reason text,
    p_amount bigint DEFAULT NULL,
    p_idempotency_key text DEFAULT NULL,
    p_dry_run boolean DEFAULT false,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    reversal_id uuid, credit_id uuid, account_id uuid, amount_minor bigint, currency text,
    balance_before bigint, balance_after bigint, reversed_minor bigint, credit_minor bigint,
    reason text, created_at timestamptz, replayed boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_credit billing_data.credits;
    v_account billing_data.accounts;
    v_reversal billing_data.credits;
    v_fingerprint bytea;
    v_part bigint;
BEGIN
    PERFORM billing_data.require_reversal(p_reason, p_amount, p_idempotency_key, p_dry_run);
    SELECT c.* INTO v_credit FROM billing_data.credits AS c WHERE c.id = p_credit_id;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error(
            'credit_not_found', jsonb_build_object('credit_id', p_credit_id)
        );
    END IF;
    v_account := billing_data.lock_account(v_credit.account_id);
    PERFORM billing_data.refuse_erased(v_account.id);
    v_fingerprint := billing_data.reversal_fingerprint(p_credit_id, p_amount, p_reason);
    v_reversal := billing_data.credit_under_key(
        billing_data.merge_path(v_credit.account_id), p_idempotency_key, v_fingerprint
    );
    replayed := v_reversal.id IS NOT NULL;
    SELECT r.reversed_minor INTO reversed_minor
    FROM billing_data.reversed_entries AS r
    WHERE r.entry_id = p_credit_id;
    IF NOT replayed THEN
        PERFORM billing_data.require_reversible_credit(v_credit);
        v_part := billing_data.part_to_reverse(
            v_credit.account_id, v_credit.ledger_version, v_credit.id, abs(v_credit.amount_minor),
            p_amount
        );
        v_reversal.amount_minor := -sign(v_credit.amount_minor)::bigint * v_part;
        PERFORM billing_data.require_room_in(v_account, v_reversal.amount_minor);
        reversed_minor := coalesce(reversed_minor, 0) + v_part;
        v_reversal.balance_before := v_account.paid_credits;
        v_reversal.balance_after := v_account.paid_credits + v_reversal.amount_minor;
        IF NOT p_dry_run THEN
            v_reversal := billing_data.append_reversal(
                v_account, abs(v_credit.amount_minor), v_part, v_reversal.amount_minor, 0, NULL,
                p_credit_id, p_reason, p_idempotency_key, v_fingerprint, v_actor
            );
            -- An entry that ended a lot has no lot to go back to: the lot would end again.
            IF v_credit.amount_minor < 0
                AND v_credit.database_role IS DISTINCT FROM 'billing_owner'
            THEN
                PERFORM billing_data.give_back_to_lots(
                    ARRAY[v_credit.id], -v_credit.amount_minor, v_account.id, v_reversal,
                    reversed_minor - v_part
                );
            END IF;
        END IF;
    END IF;
    reversal_id := v_reversal.id;
    credit_id := v_credit.id;
    account_id := v_account.id;
    amount_minor := v_reversal.amount_minor;
    currency := v_credit.currency;
    balance_before := v_reversal.balance_before;
    balance_after := v_reversal.balance_after;
    credit_minor := v_credit.amount_minor;
    reason := p_reason;
    created_at := v_reversal.created_at;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.reverse_credit IS
    'Takes a credit back, whole or in part. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.reverse_credit TO billing_server, billing_dba;
