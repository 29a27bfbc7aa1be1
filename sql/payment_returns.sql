-- Returns of money. Gone back (refund, dispute): credits are taken back, never more than are left.
-- Come back (a dispute won, a refund failed): what was taken is given back.

-- How many of a purchase's uses are due when so much of its money has gone back: its share, rounded
-- down; all of them for all the money.
CREATE OR REPLACE FUNCTION billing_data.uses_due(
    p_uses bigint, p_price_minor bigint, p_money numeric
) RETURNS bigint
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN floor(p_uses * least(coalesce(p_money, 0), p_price_minor) / p_price_minor)::bigint;
COMMENT ON FUNCTION billing_data.uses_due IS
    'The uses due for money that went back, rounded down. Helper.';

-- Takes back what a return of money is due, or gives it back when the money came again. A return is
-- keyed by the provider's id for it (refund or dispute); repeated and reordered calls end the same,
-- and one that came back is never taken again. What all returns of a purchase that stand are due
-- together is billing_data.uses_due of their money: when one of several comes back, what it took
-- stays taken as far as the others are due it.
-- Locks: none, the caller holds account and purchase. Gives the outcome.
CREATE OR REPLACE FUNCTION billing_data.apply_return(
    p_purchase billing_data.purchases,
    p_return_id text,
    p_kind text,
    p_amount_minor bigint,
    p_withdrawn boolean,
    p_database_role text,
    p_payment_provider text
) RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_key text := p_purchase.provider || '-' || p_return_id;
    v_account billing_data.accounts;
    v_return billing_data.payment_returns;
    v_credit billing_data.credits;
    v_sums record;
    v_due bigint;
    v_uses bigint;
    v_what text := format(
        '%s of %s via %s', initcap(p_kind),
        billing_data.money_text(p_amount_minor, p_purchase.currency), initcap(p_purchase.provider)
    );
BEGIN
    SELECT r.* INTO v_return
    FROM billing_data.payment_returns AS r
    WHERE r.account_id = p_purchase.account_id
        AND r.provider = p_purchase.provider
        AND r.return_id = p_return_id;
    IF NOT FOUND THEN
        -- Money that came back before we heard of its going leaves nothing to take, now or later.
        INSERT INTO billing_data.payment_returns AS r (
            account_id, provider, return_id, purchase_id, kind, status, amount_minor, created_at,
            updated_at
        )
        VALUES (
            p_purchase.account_id, p_purchase.provider, p_return_id, p_purchase.id, p_kind,
            CASE WHEN p_withdrawn THEN 'waiting' ELSE 'restored' END, p_amount_minor, v_now, v_now
        )
        RETURNING r.* INTO v_return;
    ELSIF v_return.purchase_id <> p_purchase.id THEN
        RETURN 'payment_mismatch';
    END IF;
    SELECT a.* INTO STRICT v_account
    FROM billing_data.accounts AS a
    WHERE a.id = p_purchase.account_id;
    -- The other returns that stand.
    SELECT
        coalesce(sum(r.amount_minor), 0) AS money, coalesce(sum(r.uses_due), 0)::bigint AS due,
        coalesce(sum(r.uses_taken), 0)::bigint AS taken
    INTO STRICT v_sums
    FROM billing_data.payment_returns AS r
    WHERE r.account_id = p_purchase.account_id
        AND r.purchase_id = p_purchase.id
        AND r.status = 'taken'
        AND r.return_id <> p_return_id;

    IF p_withdrawn AND v_return.status = 'waiting' THEN
        IF p_purchase.settled_at IS NULL THEN
            RETURN 'waiting';
        END IF;
        v_due := greatest(
            billing_data.uses_due(
                p_purchase.uses, p_purchase.price_minor, v_sums.money + v_return.amount_minor
            ) - v_sums.due,
            0
        );
        v_credit := billing_data.credit_of_payment(
            v_account.id, v_key, 'refund', p_return_id
        );
        v_uses := least(v_due, v_account.paid_credits);
        IF v_credit.id IS NOT NULL THEN
            v_uses := least(v_due, -v_credit.amount_minor);  -- taken before a rollback of this table
        ELSIF v_uses > 0 THEN
            v_credit := billing_data.append_credit(
                v_account, -v_uses, 'refund', format('%s (%s uses taken back)', v_what, v_uses),
                p_return_id, billing_data.free_key(v_account.id, v_key), NULL, v_now, NULL, NULL,
                p_database_role, p_payment_provider
            );
        END IF;
        UPDATE billing_data.payment_returns AS r
        SET status = 'taken',
            uses_due = v_due,
            uses_taken = v_uses,
            credit_id = v_credit.id,
            updated_at = v_now
        WHERE r.account_id = v_return.account_id
            AND r.provider = v_return.provider
            AND r.return_id = p_return_id;
        RETURN 'taken_back';
    ELSIF NOT p_withdrawn AND v_return.status <> 'restored' THEN
        v_due := billing_data.uses_due(p_purchase.uses, p_purchase.price_minor, v_sums.money);
        v_uses := greatest(v_sums.taken + v_return.uses_taken - v_due, 0);
        IF v_account.paid_credits > 9223372036854775807 - v_uses THEN
            RETURN 'balance_overflow';
        ELSIF v_uses > 0 THEN
            v_credit := billing_data.append_credit(
                v_account, v_uses, 'adjustment',
                format('%s undone (%s uses given back)', v_what, v_uses), p_return_id,
                billing_data.free_key(v_account.id, v_key || '-restored'), NULL, v_now, NULL, NULL,
                p_database_role, p_payment_provider
            );
        END IF;
        UPDATE billing_data.payment_returns AS r
        SET status = 'restored',
            uses_due = 0,
            uses_taken = 0,
            restoring_credit_id = v_credit.id,
            updated_at = v_now
        WHERE r.account_id = v_return.account_id
            AND r.provider = v_return.provider
            AND r.return_id = p_return_id;
        -- What stays due and taken falls to the others, the oldest first.
        UPDATE billing_data.payment_returns AS r
        SET uses_due = o.due,
            uses_taken = greatest(
                least(o.due, v_sums.taken + v_return.uses_taken - v_uses - o.due_before), 0
            ),
            updated_at = v_now
        FROM (
            SELECT
                m.return_id,
                billing_data.uses_due(p_purchase.uses, p_purchase.price_minor, m.money)
                    - billing_data.uses_due(
                        p_purchase.uses, p_purchase.price_minor, m.money - m.amount_minor
                    ) AS due,
                billing_data.uses_due(
                    p_purchase.uses, p_purchase.price_minor, m.money - m.amount_minor
                ) AS due_before
            FROM (
                SELECT
                    n.return_id, n.amount_minor,
                    sum(n.amount_minor) OVER (ORDER BY n.created_at, n.return_id) AS money
                FROM billing_data.payment_returns AS n
                WHERE n.account_id = p_purchase.account_id
                    AND n.purchase_id = p_purchase.id
                    AND n.status = 'taken'
            ) AS m
        ) AS o
        WHERE r.account_id = p_purchase.account_id
            AND r.provider = p_purchase.provider
            AND r.return_id = o.return_id
            AND (r.uses_due <> o.due OR v_return.uses_taken > 0);
        RETURN 'restored';
    END IF;
    RETURN 'unchanged';
END
$$;
COMMENT ON FUNCTION billing_data.apply_return IS
    'Takes back or gives back the credits of one refund or dispute. Helper.';

-- Records that money of a payment went back (p_withdrawn) or came again, and moves the credits.
-- Locks: the account. Gives an outcome: 'taken_back', 'restored', 'waiting' (the payment itself has
-- not been credited yet), 'unchanged', 'ignored' (not one of our payments), 'payment_unknown' (ours,
-- by its metadata, but not heard of yet), or what is wrong.
CREATE OR REPLACE FUNCTION billing_data.return_money(
    p_provider text,
    p_payment_id text,
    p_account_id uuid,
    p_purchase_id uuid,
    p_is_ours boolean,
    p_return_id text,
    p_kind text,
    p_amount_minor bigint,
    p_currency text,
    p_withdrawn boolean,
    p_database_role text,
    p_payment_provider text
) RETURNS TABLE (outcome text, account_id uuid, purchase_id uuid)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_purchase billing_data.purchases;
BEGIN
    v_purchase := billing_data.purchase_of_payment(
        p_provider, p_payment_id, p_account_id, p_purchase_id
    );
    account_id := v_purchase.account_id;
    purchase_id := v_purchase.id;
    IF v_purchase.id IS NULL THEN
        outcome := CASE WHEN p_is_ours THEN 'payment_unknown' ELSE 'ignored' END;
        RETURN NEXT;
        RETURN;
    END IF;
    PERFORM FROM billing_data.accounts AS a
    WHERE a.id = v_purchase.account_id
    FOR NO KEY UPDATE;
    PERFORM FROM billing_data.purchases AS p
    WHERE p.account_id = v_purchase.account_id AND p.id = v_purchase.id
    FOR UPDATE;
    v_purchase := billing_data.purchase_of_payment(
        p_provider, p_payment_id, p_account_id, p_purchase_id
    );
    outcome := CASE
        WHEN v_purchase.payment_id <> p_payment_id THEN 'payment_mismatch'
        WHEN upper(p_currency) IS DISTINCT FROM v_purchase.currency THEN 'currency_mismatch'
        ELSE billing_data.apply_return(
            v_purchase, p_return_id, p_kind, p_amount_minor, p_withdrawn, p_database_role,
            p_payment_provider
        )
    END;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing_data.return_money IS
    'Moves credits after money went back or came again; gives an outcome. Helper.';

-- Takes back the credits of money that went back to the customer, in proportion and never below
-- zero, or gives them back when it came again (p_withdrawn false); once per refund or dispute id.
-- Locks: the account. Writes: payment_returns, credits, accounts. Errors: actor_required,
-- invalid_argument; the outcome tells the rest.
-- Example: SELECT * FROM billing.return_payment(p_payment_id => 'pi_1', p_return_id => 're_1',
--              p_kind => 'refund', p_amount_minor => 250);
CREATE OR REPLACE FUNCTION billing.return_payment(
    p_payment_id text,
    p_return_id text,
    p_kind text,
    p_amount_minor bigint,
    p_currency text DEFAULT 'USD',
    p_withdrawn boolean DEFAULT true,
    p_provider text DEFAULT 'stripe'
) RETURNS TABLE (outcome text, account_id uuid, purchase_id uuid)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_role text := billing_data.caller_role();
BEGIN
    PERFORM billing_data.require(
        length(p_payment_id) BETWEEN 1 AND 255, 'p_payment_id', 'it must have 1 to 255 characters'
    );
    PERFORM billing_data.require(
        length(p_return_id) BETWEEN 1 AND 200, 'p_return_id', 'it must have 1 to 200 characters'
    );
    PERFORM billing_data.require(
        p_kind IN ('refund', 'dispute'), 'p_kind', 'it must be refund or dispute'
    );
    PERFORM billing_data.require(p_amount_minor > 0, 'p_amount_minor', 'it must be greater than 0');
    PERFORM billing_data.require(p_withdrawn IS NOT NULL, 'p_withdrawn', 'it must be true or false');
    PERFORM billing_data.require_payment_provider(p_provider);
    PERFORM billing_data.require_durable_commit();
    RETURN QUERY
    SELECT r.outcome, r.account_id, r.purchase_id
    FROM billing_data.return_money(
        p_provider, p_payment_id, NULL, NULL, false, p_return_id, p_kind, p_amount_minor,
        p_currency, p_withdrawn, v_role, NULL
    ) AS r;
END
$$;
COMMENT ON FUNCTION billing.return_payment IS
    'Takes back, or gives back, the credits of one refund or dispute. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.return_payment TO billing_dba;
