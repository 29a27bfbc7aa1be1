-- Payments: what a payment provider says became of a purchase's money. Paid: the credits that were
-- sold are added, once per payment. Gone back (refund, dispute): credits are taken back, never more
-- than are left. Come back (a dispute won, a refund failed): what was taken is given back.
-- Lock order everywhere: the event, the account, the purchase.

-- An amount of money for people: $5.00 for USD, 5.00 EUR for others, with as many decimals as the
-- currency has at Stripe (https://docs.stripe.com/currencies): none, two or three.
CREATE OR REPLACE FUNCTION billing_data.money_text(p_amount_minor bigint, p_currency text)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN CASE
    WHEN p_currency IN (
        'BIF', 'CLP', 'DJF', 'GNF', 'JPY', 'KMF', 'KRW', 'MGA', 'PYG', 'RWF', 'UGX', 'VND', 'VUV',
        'XAF', 'XOF', 'XPF'
    ) THEN p_amount_minor || ' ' || p_currency
    WHEN p_currency IN ('BHD', 'JOD', 'KWD', 'OMR', 'TND')
        THEN round(p_amount_minor / 1000.0, 3) || ' ' || p_currency
    WHEN p_currency = 'USD' THEN '$' || round(p_amount_minor / 100.0, 2)
    ELSE round(p_amount_minor / 100.0, 2) || ' ' || p_currency
END;
COMMENT ON FUNCTION billing_data.money_text IS 'An amount of money as people write it. Helper.';

-- Whether an outcome means that money and credits do not agree and a person must look.
CREATE OR REPLACE FUNCTION billing_data.is_payment_fault(p_outcome text) RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN p_outcome IN (
    'account_not_found', 'amount_mismatch', 'balance_overflow', 'currency_mismatch',
    'metadata_missing', 'mode_mismatch', 'payment_mismatch', 'payment_unknown'
);
COMMENT ON FUNCTION billing_data.is_payment_fault IS
    'Tells whether a payment''s outcome needs a person. Helper.';

-- Refuses a payment provider that there is not.
CREATE OR REPLACE FUNCTION billing_data.require_payment_provider(p_provider text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require(
        p_provider IN ('stripe', 'square', 'paypal'), 'p_provider',
        'it must be stripe, square or paypal'
    );
END
$$;
COMMENT ON FUNCTION billing_data.require_payment_provider IS
    'Raises invalid_argument unless it is a payment provider. Helper.';

-- The purchase a payment was made for: the one that waits for it, else the one the payment itself
-- names (a server that died between asking the provider and writing the answer down left that one).
-- Locks: none. An empty row when there is none.
CREATE OR REPLACE FUNCTION billing_data.purchase_of_payment(
    p_provider text, p_payment_id text, p_account_id uuid, p_purchase_id uuid
) RETURNS billing_data.purchases
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_purchase billing_data.purchases;
BEGIN
    SELECT p.* INTO v_purchase
    FROM billing_data.purchases AS p
    WHERE p.provider = p_provider AND p.payment_id = p_payment_id;
    IF NOT FOUND THEN
        SELECT p.* INTO v_purchase
        FROM billing_data.purchases AS p
        WHERE p.account_id = p_account_id AND p.id = p_purchase_id AND p.provider = p_provider;
    END IF;
    RETURN v_purchase;
END
$$;
COMMENT ON FUNCTION billing_data.purchase_of_payment IS
    'The purchase a payment was made for; changes nothing. Helper.';

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

-- The credit entry that a payment or a return of money has made already, found by its key. A key
-- is only believed with the rest of the entry: keys of API clients share the name space.
CREATE OR REPLACE FUNCTION billing_data.credit_of_payment(
    p_account_id uuid, p_key text, p_transaction_type text, p_external_transaction_id text
) RETURNS billing_data.credits
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_credit billing_data.credits;
BEGIN
    SELECT c.* INTO v_credit
    FROM billing_data.credits AS c
    WHERE c.account_id = p_account_id
        AND c.idempotency_key = p_key
        AND c.transaction_type = p_transaction_type
        AND c.external_transaction_id = p_external_transaction_id;
    RETURN v_credit;
END
$$;
COMMENT ON FUNCTION billing_data.credit_of_payment IS
    'The entry a payment or return has made before; an empty row when none. Helper.';

-- The key as an entry may have it: none where a client of the API has used it for something else;
-- purchases and payment_returns keep effects single without it.
CREATE OR REPLACE FUNCTION billing_data.free_key(p_account_id uuid, p_key text) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN CASE
    WHEN NOT EXISTS (
        SELECT FROM billing_data.credits AS c
        WHERE c.account_id = p_account_id AND c.idempotency_key = p_key
    ) THEN p_key
END;
COMMENT ON FUNCTION billing_data.free_key IS
    'An idempotency key unless the account has used it. Helper.';

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

-- Credits what was sold for a payment that succeeded, once. A payment of the old service has no
-- purchase here: its identity tells the account, and it must have paid the present price.
-- Locks: the account, the purchase. Writes: purchases 0..1, credits 0..n, accounts 0..1,
-- payment_returns 0..n (those that waited for the payment). Gives an outcome: 'credited',
-- 'already_credited', or what is wrong; where something is wrong nothing is written.
CREATE OR REPLACE FUNCTION billing_data.settle_payment(
    p_provider text,
    p_payment_id text,
    p_amount_minor bigint,
    p_currency text,
    p_account_id uuid,
    p_purchase_id uuid,
    p_oauth_provider text,
    p_external_id text,
    p_database_role text,
    p_payment_provider text
) RETURNS TABLE (outcome text, account_id uuid, purchase_id uuid, credits_added bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_key text := p_provider || '-' || p_payment_id;
    v_purchase billing_data.purchases;
    v_account billing_data.accounts;
    v_credit billing_data.credits;
    v_now timestamptz;
    v_return record;
    v_is_new boolean := false;
BEGIN
    credits_added := 0;
    v_purchase := billing_data.purchase_of_payment(
        p_provider, p_payment_id, p_account_id, p_purchase_id
    );
    IF v_purchase.id IS NULL AND num_nulls(p_oauth_provider, p_external_id) > 0 THEN
        outcome := 'metadata_missing';
        RETURN NEXT;
        RETURN;
    END IF;
    account_id := v_purchase.account_id;
    IF account_id IS NULL THEN
        SELECT a.id INTO account_id
        FROM billing_data.accounts AS a
        WHERE a.oauth_provider = p_oauth_provider AND a.external_id = p_external_id;
    END IF;
    SELECT a.* INTO v_account
    FROM billing_data.accounts AS a
    WHERE a.id = settle_payment.account_id
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'account_not_found';
        RETURN NEXT;
        RETURN;
    END IF;
    -- What happened to the payment while we waited for the account; it stays so from here on.
    PERFORM FROM billing_data.purchases AS p
    WHERE p.account_id = v_purchase.account_id AND p.id = v_purchase.id
    FOR UPDATE;
    v_purchase := billing_data.purchase_of_payment(
        p_provider, p_payment_id, p_account_id, p_purchase_id
    );
    v_now := clock_timestamp();
    IF v_purchase.id IS NULL THEN
        v_is_new := true;
        SELECT s.pack_uses, s.pack_price_minor, s.pack_currency
        INTO STRICT v_purchase.uses, v_purchase.price_minor, v_purchase.currency
        FROM billing_data.settings AS s;
    END IF;
    purchase_id := v_purchase.id;
    v_credit := billing_data.credit_of_payment(v_account.id, v_key, 'purchase', p_payment_id);

    outcome := CASE
        WHEN v_purchase.settled_at IS NOT NULL AND v_purchase.payment_id = p_payment_id
            THEN 'already_credited'
        WHEN v_purchase.payment_id <> p_payment_id THEN 'payment_mismatch'
        -- By the old service, or by hand.
        WHEN v_credit.id IS NOT NULL AND (v_is_new OR v_credit.amount_minor = v_purchase.uses)
            THEN 'already_credited'
        WHEN upper(p_currency) IS DISTINCT FROM v_purchase.currency THEN 'currency_mismatch'
        WHEN p_amount_minor IS DISTINCT FROM v_purchase.price_minor THEN 'amount_mismatch'
        WHEN v_account.paid_credits > 9223372036854775807 - v_purchase.uses THEN 'balance_overflow'
        ELSE 'credited'
    END;
    IF outcome NOT IN ('credited', 'already_credited') OR v_purchase.settled_at IS NOT NULL THEN
        RETURN NEXT;
        RETURN;
    END IF;

    IF outcome = 'credited' THEN
        v_credit := billing_data.append_credit(
            v_account, v_purchase.uses, 'purchase',
            format(
                'Purchased %s (%s uses) via %s',
                billing_data.money_text(p_amount_minor, v_purchase.currency), v_purchase.uses,
                initcap(p_provider)
            ),
            p_payment_id, billing_data.free_key(v_account.id, v_key), NULL, v_now, NULL, NULL,
            p_database_role, p_payment_provider
        );
        credits_added := v_credit.amount_minor;
    END IF;
    IF v_is_new THEN
        INSERT INTO billing_data.purchases AS p (
            account_id, id, provider, payment_id, payment_status, uses, price_minor, currency,
            customer_email, database_role, created_at, settled_at, credit_id
        )
        VALUES (
            v_account.id, v_credit.id, p_provider, p_payment_id, 'succeeded', v_credit.amount_minor,
            p_amount_minor, upper(p_currency), v_account.customer_email, 'legacy', v_now, v_now,
            v_credit.id
        )
        RETURNING p.* INTO v_purchase;
        purchase_id := v_purchase.id;
    ELSE
        UPDATE billing_data.purchases AS p
        SET payment_id = p_payment_id, settled_at = v_now, credit_id = v_credit.id
        WHERE p.account_id = v_purchase.account_id AND p.id = v_purchase.id
        RETURNING p.* INTO v_purchase;
    END IF;
    FOR v_return IN
        SELECT r.return_id, r.kind, r.amount_minor
        FROM billing_data.payment_returns AS r
        WHERE r.account_id = v_purchase.account_id
            AND r.purchase_id = v_purchase.id
            AND r.status = 'waiting'
        ORDER BY r.created_at, r.return_id
    LOOP
        PERFORM billing_data.apply_return(
            v_purchase, v_return.return_id, v_return.kind, v_return.amount_minor, true,
            p_database_role, p_payment_provider
        );
    END LOOP;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing_data.settle_payment IS
    'Credits what was sold for a payment, once; gives an outcome. Helper.';

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

-- Credits what was sold for a payment that succeeded at the provider, once per payment; for
-- reconciliation and for a DBA who has seen the payment there. The provider's events go through
-- billing.process_payment_event, to the same effect.
-- Locks: the account. Writes: purchases, credits, accounts. Errors: actor_required,
-- invalid_argument; what stands in the way of crediting is the outcome.
-- Example: SELECT * FROM billing.settle_purchase(p_payment_id => 'pi_1', p_amount_minor => 500);
CREATE OR REPLACE FUNCTION billing.settle_purchase(
    p_payment_id text,
    p_amount_minor bigint,
    p_currency text DEFAULT 'USD',
    p_account_id uuid DEFAULT NULL,
    p_purchase_id uuid DEFAULT NULL,
    p_oauth_provider text DEFAULT NULL,
    p_external_id text DEFAULT NULL,
    p_provider text DEFAULT 'stripe'
) RETURNS TABLE (outcome text, account_id uuid, purchase_id uuid, credits_added bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_role text := billing_data.caller_role();
BEGIN
    PERFORM billing_data.require(
        length(p_payment_id) BETWEEN 1 AND 255, 'p_payment_id', 'it must have 1 to 255 characters'
    );
    PERFORM billing_data.require(p_amount_minor > 0, 'p_amount_minor', 'it must be greater than 0');
    PERFORM billing_data.require_payment_provider(p_provider);
    PERFORM billing_data.require_durable_commit();
    RETURN QUERY
    SELECT s.outcome, s.account_id, s.purchase_id, s.credits_added
    FROM billing_data.settle_payment(
        p_provider, p_payment_id, p_amount_minor, p_currency, p_account_id, p_purchase_id,
        p_oauth_provider, p_external_id, v_role, NULL
    ) AS s;
END
$$;
COMMENT ON FUNCTION billing.settle_purchase IS
    'Credits what was sold for a payment that succeeded, once per payment. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.settle_purchase TO billing_dba;

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
