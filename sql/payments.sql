-- Payments: what a payment provider reports as paid. The credits that were sold are added, once per
-- payment. Lock order everywhere: the event, the account, the purchase, the payment's effect.

-- Whether an outcome means that money and credits do not agree and that a person must look at it.
-- It has no settings of its own, so that PostgreSQL puts the expression in place of the call and
-- the index of these outcomes can serve.
CREATE OR REPLACE FUNCTION billing_data.is_payment_fault(p_outcome text) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN p_outcome IN (
    'account_not_found', 'amount_mismatch', 'balance_overflow', 'charge_unreadable',
    'credited_by_hand', 'currency_mismatch', 'metadata_missing', 'mode_mismatch',
    'not_sold_here', 'payment_mismatch', 'payment_unknown'
);
COMMENT ON FUNCTION billing_data.is_payment_fault IS
    'Tells whether a payment''s outcome needs a person. Helper.';

-- What an outcome means, for people: the one list of these words.
CREATE OR REPLACE FUNCTION billing_data.payment_outcome_words(p_outcome text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE p_outcome
    WHEN 'credited' THEN 'the credits were added'
    WHEN 'already_credited' THEN 'the credits had been added before'
    WHEN 'taken_back' THEN 'the credits were taken back'
    WHEN 'restored' THEN 'the credits were given back'
    WHEN 'resolved' THEN 'a person has dealt with it'
    WHEN 'waiting' THEN 'it waits for the payment'
    WHEN 'unchanged' THEN 'there was nothing to do'
    WHEN 'acknowledged' THEN 'it was noted; it moves no credits'
    WHEN 'ignored' THEN 'it does not concern this service'
    WHEN 'account_not_found' THEN 'the payment names an identity without an account'
    WHEN 'amount_mismatch' THEN 'another amount was paid than was asked for'
    WHEN 'balance_overflow' THEN 'the account cannot hold that many credits'
    WHEN 'credited_by_hand'
        THEN 'somebody has credited it by hand, on another account or with another amount'
    WHEN 'charge_unreadable'
        THEN 'money went back, and the payment provider does not show us the charge'
    WHEN 'currency_mismatch' THEN 'it was paid in another currency than was asked for'
    WHEN 'metadata_missing' THEN 'the payment does not say whom it is for'
    WHEN 'mode_mismatch' THEN 'a test event met a live set-up, or the other way round'
    WHEN 'not_sold_here'
        THEN 'it names a purchase or an account that it cannot show to be its own'
    WHEN 'payment_mismatch' THEN 'the purchase already has another payment'
    WHEN 'payment_unknown' THEN 'money went back for a payment that was not reported yet'
    ELSE p_outcome
END;
COMMENT ON FUNCTION billing_data.payment_outcome_words IS
    'Tells people what the outcome of a payment event means. Helper.';

-- The purchase that a payment was made for: the purchase that waits for the payment, or else the
-- one that the payment itself names, of one of the accounts. (The latter happens when a server died
-- after it asked the provider and before it recorded the answer.)
-- Locks: none. An empty row when there is none.
CREATE OR REPLACE FUNCTION billing_data.purchase_of_payment(
    p_provider text, p_payment_id text, p_account_ids uuid[], p_purchase_id uuid
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
        WHERE p.account_id = ANY (p_account_ids)
            AND p.id = p_purchase_id
            AND p.provider = p_provider;
    END IF;
    RETURN v_purchase;
END
$$;
COMMENT ON FUNCTION billing_data.purchase_of_payment IS
    'The purchase a payment was made for; changes nothing. Helper.';

-- Decides whose a payment is. Ours is a payment that this database sold: one that a purchase waits
-- for, whatever else is reported of it, or one that names a purchase and its account and
-- contradicts neither. Also ours is a payment that the old service offered: it named the account by
-- its id and its identity, which must agree. Metadata is easily copied, so nothing else is trusted.
-- p_is_claimed says that the metadata has something of ours. p_is_foreign says that the payment
-- belongs to another Stripe account (Connect), or names something that cannot be an id of ours.
-- Locks: none. outcome is NULL for ours; then purchase_id is NULL for a payment of the old service.
-- Otherwise outcome is 'ignored' (nobody claims it), 'resolved' (a person has dealt with it and
-- nothing is to be credited), or why the claim does not hold: 'metadata_missing',
-- 'account_not_found', 'not_sold_here'.
CREATE OR REPLACE FUNCTION billing_data.owner_of_payment(
    p_provider text,
    p_payment_id text,
    p_account_id uuid,
    p_purchase_id uuid,
    p_oauth_provider text,
    p_external_id text,
    p_is_claimed boolean,
    p_is_foreign boolean
) RETURNS TABLE (outcome text, account_id uuid, purchase_id uuid)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_purchase billing_data.purchases;
    v_named_id uuid;
    -- A payment that was offered before accounts were merged names the merged account, and its
    -- purchase belongs to that one, or to the one that stayed when the old service's were merged.
    v_path uuid[] := billing_data.merge_path(p_account_id);
    v_account_id uuid := v_path[cardinality(v_path)];
BEGIN
    IF billing_data.is_resolved_without_credit(p_provider, p_payment_id) THEN
        outcome := 'resolved';
        RETURN NEXT;
        RETURN;
    END IF;
    v_purchase := billing_data.purchase_of_payment(p_provider, p_payment_id, NULL, NULL);
    IF v_purchase.id IS NULL AND NOT p_is_claimed THEN
        outcome := 'ignored';
        RETURN NEXT;
        RETURN;
    END IF;
    v_named_id := billing_data.account_of_identity(p_oauth_provider, p_external_id);
    IF v_purchase.id IS NULL AND NOT p_is_foreign
        AND (
            num_nonnulls(p_oauth_provider, p_external_id) = 0
            OR v_named_id = v_account_id
            -- The identity of an account that was erased is gone, or is another account's now.
            OR billing_data.is_erased(v_account_id)
        )
    THEN
        v_purchase := billing_data.purchase_of_payment(
            p_provider, p_payment_id, v_path, p_purchase_id
        );
    END IF;
    account_id := v_purchase.account_id;
    purchase_id := v_purchase.id;
    outcome := CASE
        WHEN v_purchase.id IS NOT NULL THEN NULL
        WHEN p_is_foreign THEN 'not_sold_here'
        WHEN num_nulls(p_oauth_provider, p_external_id) > 0 THEN 'metadata_missing'
        WHEN p_purchase_id IS NOT NULL THEN 'not_sold_here'
        WHEN v_named_id IS NULL THEN 'account_not_found'
        WHEN v_named_id IS DISTINCT FROM v_account_id THEN 'not_sold_here'
    END;
    IF outcome IS NULL AND account_id IS NULL THEN
        account_id := v_named_id;
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing_data.owner_of_payment IS
    'Tells whose a payment is, and why it is not ours; changes nothing. Helper.';

-- The credit entry that a payment or a return of money has made already on one of the accounts,
-- found by its idempotency key. The rest of the entry must fit as well, because clients of the API
-- can use the same keys.
CREATE OR REPLACE FUNCTION billing_data.credit_of_payment(
    p_account_ids uuid[], p_key text, p_transaction_type text, p_external_transaction_id text
) RETURNS billing_data.credits
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_credit billing_data.credits;
BEGIN
    SELECT c.* INTO v_credit
    FROM billing_data.credits AS c
    WHERE c.account_id = ANY (p_account_ids)
        AND c.idempotency_key = p_key
        AND c.transaction_type = p_transaction_type
        AND c.external_transaction_id = p_external_transaction_id;
    RETURN v_credit;
END
$$;
COMMENT ON FUNCTION billing_data.credit_of_payment IS
    'The entry that a payment or return has made already; an empty row when none. Helper.';

-- The idempotency key for a new entry; NULL where a client of the API has used the key for
-- something else. Even without the key, purchases and payment_returns make sure that an effect
-- happens once.
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

-- Credits, once, what was sold for a payment that succeeded and is ours by
-- billing_data.owner_of_payment. Where the purchase's account was merged, the purchase stays with
-- it and the credits go to the account that it leads to. A payment of the old service has no
-- purchase here (p_purchase_id NULL) and must have paid the present price.
-- Locks: the account, the purchase, the effect. Writes: purchases 0..1, payment_effects 0..1,
-- credits 0..n, accounts 0..1, outbox 0..n, payment_warnings 0..1 (paid for an erased person),
-- payment_returns 0..n (those that waited for the payment). Returns an
-- outcome: 'credited', 'already_credited', 'resolved' (a person has dealt with the payment in
-- another way), or what is wrong; in the last case nothing is written.
CREATE OR REPLACE FUNCTION billing_data.settle_payment(
    p_provider text,
    p_payment_id text,
    p_amount_minor bigint,
    p_currency text,
    p_account_id uuid,
    p_purchase_id uuid,
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
    v_key_credit billing_data.credits;
    v_credit billing_data.credits;
    v_credit_id uuid := billing_data.new_id();
    v_effect billing_data.payment_effects;
    v_now timestamptz;
    v_return billing_data.payment_returns;
    v_is_new boolean := false;
BEGIN
    credits_added := 0;
    v_account := billing_data.lock_account(p_account_id);
    account_id := v_account.id;
    -- What happened to the payment while we waited for the account. It does not change after this.
    PERFORM FROM billing_data.purchases AS p
    WHERE p.account_id = p_account_id AND p.id = p_purchase_id
    FOR UPDATE;
    v_purchase := billing_data.purchase_of_payment(
        p_provider, p_payment_id, ARRAY[p_account_id], p_purchase_id
    );
    v_now := clock_timestamp();
    IF v_purchase.id IS NULL THEN
        v_is_new := true;
        SELECT s.pack_uses, s.pack_price_minor, s.pack_currency
        INTO STRICT v_purchase.uses, v_purchase.price_minor, v_purchase.currency
        FROM billing_data.settings AS s;
    END IF;
    purchase_id := v_purchase.id;
    v_key_credit := billing_data.credit_of_payment(
        billing_data.merge_path(p_account_id), v_key, 'purchase', p_payment_id
    );
    LOOP
        v_effect := billing_data.effect_of_payment(p_provider, p_payment_id);
        SELECT c.* INTO v_credit
        FROM billing_data.credits AS c
        WHERE c.id = coalesce(v_effect.credit_id, v_key_credit.id);
        outcome := CASE
            WHEN v_purchase.settled_at IS NOT NULL AND v_purchase.payment_id = p_payment_id
                THEN 'already_credited'
            WHEN v_purchase.payment_id <> p_payment_id OR v_purchase.account_id <> p_account_id
                THEN 'payment_mismatch'
            WHEN v_effect.effect <> 'credited' THEN 'resolved'
            -- Credited by the old service, whatever the pack was then, or by hand.
            WHEN billing_data.is_one_account(v_credit.account_id, v_account.id)
                AND (
                    v_credit.amount_minor = v_purchase.uses
                    OR (v_is_new AND v_credit.id = v_key_credit.id)
                ) THEN 'already_credited'
            WHEN v_effect.credit_id IS NOT NULL THEN 'credited_by_hand'
            WHEN upper(p_currency) IS DISTINCT FROM v_purchase.currency THEN 'currency_mismatch'
            WHEN p_amount_minor IS DISTINCT FROM v_purchase.price_minor THEN 'amount_mismatch'
            WHEN v_account.paid_credits > billing_data.max_amount() - v_purchase.uses
                THEN 'balance_overflow'
            ELSE 'credited'
        END;
        -- Another transaction claimed the payment first: look again at what it did.
        EXIT WHEN outcome <> 'credited'
            OR billing_data.claim_payment(p_provider, p_payment_id, v_account.id, v_credit_id);
    END LOOP;
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
                billing_data.provider_name(p_provider)
            ),
            p_payment_id, billing_data.free_key(v_account.id, v_key), NULL, v_now, NULL, NULL,
            p_database_role, p_payment_provider, v_credit_id
        );
        credits_added := v_credit.amount_minor;
        PERFORM billing_data.raise_alert(
            'purchase.credited', v_account.id,
            jsonb_build_object(
                'credit_id', v_credit.id, 'credits', v_credit.amount_minor,
                'credits_remaining', v_credit.balance_after, 'provider', p_provider,
                'payment_id', p_payment_id, 'amount_minor', p_amount_minor,
                'currency', v_purchase.currency
            )
        );
        IF billing_data.is_erased(v_account.id) THEN
            INSERT INTO billing_data.payment_warnings (
                provider, warning_id, kind, payment_id, account_id, created_at
            )
            VALUES (
                p_provider, v_credit.id, 'paid_after_erasure', p_payment_id, v_account.id, v_now
            );
        END IF;
    END IF;
    -- A credit that was found by its key has not claimed the payment yet.
    PERFORM billing_data.claim_payment(p_provider, p_payment_id, v_account.id, v_credit.id);
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
        SELECT r.*
        FROM billing_data.payment_returns AS r
        WHERE r.account_id = v_purchase.account_id
            AND r.purchase_id = v_purchase.id
            AND r.status = 'waiting'
        ORDER BY r.created_at, r.return_id
    LOOP
        PERFORM billing_data.book_return(
            v_purchase, v_return, v_return.away_minor, p_database_role, p_payment_provider
        );
    END LOOP;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing_data.settle_payment IS
    'Credits what was sold for a payment, once; gives an outcome. Helper.';

-- Credits what was sold for a payment that succeeded at the provider, once per payment. It is for
-- reconciliation and for a DBA who has seen the payment there; the provider's events go through
-- billing.process_payment_event and have the same effect. The payment's metadata is trusted only as
-- far as this database confirms it. Any other payment a person credits by billing.create_credit.
-- Locks: the account. Writes: purchases, credits, accounts, admin_audit_logs 1 when it credited.
-- Errors: actor_required, invalid_argument; the outcome tells what prevents crediting.
-- Example: SELECT * FROM billing.settle_purchase(p_payment_id => 'pi_1', p_amount_minor => 500);
CREATE OR REPLACE FUNCTION billing.settle_purchase(
    p_payment_id text,
    p_amount_minor bigint,
    p_currency text DEFAULT 'USD',
    p_account_id uuid DEFAULT NULL,
    p_purchase_id uuid DEFAULT NULL,
    p_oauth_provider text DEFAULT NULL,
    p_external_id text DEFAULT NULL,
    p_provider text DEFAULT billing.default_payment_provider(),
    p_is_foreign boolean DEFAULT false
) RETURNS TABLE (outcome text, account_id uuid, purchase_id uuid, credits_added bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, NULL, 'billing:write');
    v_owner record;
BEGIN
    PERFORM billing_data.require_filled(p_payment_id, 'p_payment_id');
    PERFORM billing_data.require(p_amount_minor > 0, 'p_amount_minor', 'it must be greater than 0');
    PERFORM billing_data.require_payment_provider(p_provider);
    PERFORM billing_data.require_durable_commit();
    SELECT o.outcome, o.account_id, o.purchase_id INTO STRICT v_owner
    FROM billing_data.owner_of_payment(
        p_provider, p_payment_id, p_account_id, p_purchase_id, p_oauth_provider, p_external_id,
        true, coalesce(p_is_foreign, false)
    ) AS o;
    IF v_owner.outcome IS NOT NULL THEN
        RETURN QUERY SELECT v_owner.outcome, v_owner.account_id, v_owner.purchase_id, 0::bigint;
        RETURN;
    END IF;
    SELECT s.outcome, s.account_id, s.purchase_id, s.credits_added
    INTO STRICT outcome, account_id, purchase_id, credits_added
    FROM billing_data.settle_payment(
        p_provider, p_payment_id, p_amount_minor, p_currency, v_owner.account_id,
        v_owner.purchase_id, v_actor.database_role, NULL
    ) AS s;
    IF outcome = 'credited' THEN
        PERFORM billing_data.write_audit(
            'payment.settle', 'payment', p_payment_id,
            jsonb_build_object(
                'provider', p_provider, 'amount_minor', p_amount_minor,
                'currency', upper(p_currency), 'account_id', account_id,
                'purchase_id', purchase_id, 'credits_added', credits_added
            ),
            NULL, v_actor
        );
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.settle_purchase IS
    'Credits what was sold for a payment that succeeded, once per payment. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.settle_purchase TO billing_dba;
