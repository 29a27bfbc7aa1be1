-- Refunds that staff ask for. What is asked for is written down first, then the payment provider is
-- asked, then its answer is written down. The credits are taken back when the provider reports the
-- refund, by the rules of every return of money.

-- Records that a payment is to be refunded, whole or in part: p_amount_minor, by default all that
-- is left. The caller then asks the provider and records its answer by billing.finish_refund.
-- Nothing else changes yet: the credits are taken back when the provider reports the refund.
-- credits_due says how many that will be, and credits_there how many the account has now. With the
-- key of the same refund nothing is written and replayed is true: the caller asks the provider
-- again under the same refund_id, unless return_id or failure says how it ended. With p_dry_run
-- nothing is written and refund_id is NULL.
-- Locks: the purchase. Writes: payment_refunds 1, admin_audit_logs 1.
-- Errors: actor errors, invalid_argument, payment_not_found, payment_not_settled,
-- payment_refunded, refund_too_great, idempotency_key_reused.
-- Example: SELECT * FROM billing.begin_refund(p_payment_id => 'pi_1',
--              p_reason => 'bought by mistake');
CREATE OR REPLACE FUNCTION billing.begin_refund(
    p_payment_id text,
    p_reason text,
    p_amount_minor bigint DEFAULT NULL,
    p_idempotency_key text DEFAULT NULL,
    p_dry_run boolean DEFAULT false,
    p_provider text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    refund_id uuid, account_id uuid, purchase_id uuid, provider text, payment_id text,
    amount_minor bigint, currency text, amount_text text, left_minor bigint, left_text text,
    credits_due bigint, credits_there bigint, reason text, created_at timestamptz,
    return_id text, failure text, replayed boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_purchase billing_data.purchases;
    v_refund billing_data.payment_refunds;
    v_away numeric;
BEGIN
    PERFORM billing_data.require_reversal(p_reason, p_amount_minor, p_idempotency_key, p_dry_run);
    provider := coalesce(
        p_provider, billing_data.provider_of_payment(p_payment_id),
        billing.default_payment_provider()
    );
    SELECT p.* INTO v_purchase
    FROM billing_data.purchases AS p
    WHERE p.provider = begin_refund.provider AND p.payment_id = p_payment_id
    FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error(
            'payment_not_found', jsonb_build_object('payment_id', p_payment_id)
        );
    ELSIF v_purchase.settled_at IS NULL THEN
        PERFORM billing_data.raise_error(
            'payment_not_settled', jsonb_build_object('payment_id', p_payment_id)
        );
    END IF;
    left_minor := billing_data.left_to_refund(
        v_purchase.account_id, v_purchase.id, v_purchase.provider, v_purchase.price_minor,
        v_purchase.settled_at
    );
    SELECT f.* INTO v_refund
    FROM billing_data.payment_refunds AS f
    WHERE f.account_id = v_purchase.account_id
        AND f.purchase_id = v_purchase.id
        AND f.idempotency_key = p_idempotency_key;
    replayed := FOUND;
    IF NOT replayed THEN
        v_refund.amount_minor := coalesce(p_amount_minor, left_minor);
        IF left_minor = 0 THEN
            PERFORM billing_data.raise_error(
                'payment_refunded', jsonb_build_object('payment_id', p_payment_id)
            );
        ELSIF v_refund.amount_minor > left_minor THEN
            PERFORM billing_data.raise_error('refund_too_great', jsonb_build_object(
                'payment_id', p_payment_id,
                'amount', billing_data.money_text(p_amount_minor, v_purchase.currency),
                'left', billing_data.money_text(left_minor, v_purchase.currency)
            ));
        END IF;
    ELSIF (p_reason, coalesce(p_amount_minor, v_refund.amount_minor))
        <> (v_refund.reason, v_refund.amount_minor)
    THEN
        PERFORM billing_data.raise_error('idempotency_key_reused');
    END IF;
    IF NOT replayed AND NOT p_dry_run THEN
        INSERT INTO billing_data.payment_refunds AS f (
            id, account_id, purchase_id, amount_minor, reason, idempotency_key, admin_user_id,
            database_role, created_at
        )
        VALUES (
            billing_data.new_id(), v_purchase.account_id, v_purchase.id, v_refund.amount_minor,
            p_reason, p_idempotency_key, v_actor.admin_user_id, v_actor.database_role,
            clock_timestamp()
        )
        RETURNING f.* INTO v_refund;
        PERFORM billing_data.write_audit(
            'payment.refund', 'payment', p_payment_id,
            jsonb_build_object(
                'account_id', v_purchase.account_id, 'refund_id', v_refund.id,
                'amount_minor', v_refund.amount_minor, 'currency', v_purchase.currency,
                'money', billing_data.money_text(v_refund.amount_minor, v_purchase.currency)
            ),
            p_reason, v_actor
        );
    END IF;
    SELECT coalesce(sum(r.away_minor), 0) INTO STRICT v_away
    FROM billing_data.payment_returns AS r
    WHERE r.account_id = v_purchase.account_id AND r.purchase_id = v_purchase.id;
    RETURN QUERY
    SELECT
        v_refund.id, v_purchase.account_id, v_purchase.id, v_purchase.provider,
        v_purchase.payment_id::text, v_refund.amount_minor, v_purchase.currency::text,
        billing_data.money_text(v_refund.amount_minor, v_purchase.currency), left_minor,
        billing_data.money_text(left_minor, v_purchase.currency),
        billing_data.uses_due(
            v_purchase.uses, v_purchase.price_minor, v_away + v_refund.amount_minor
        ) - billing_data.uses_due(v_purchase.uses, v_purchase.price_minor, v_away),
        s.paid_credits - s.held, p_reason, v_refund.created_at, v_refund.return_id::text,
        v_refund.failure, begin_refund.replayed
    FROM billing_data.accounts AS a
    CROSS JOIN LATERAL billing_data.standing(a) AS s
    WHERE a.id = billing_data.surviving_account(v_purchase.account_id);
END
$$;
COMMENT ON FUNCTION billing.begin_refund IS
    'Records that a payment is to be refunded, before the provider is asked. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.begin_refund TO billing_server, billing_dba;

-- Records how the provider answered a refund: p_return_id, the refund's id there, or p_failure, why
-- it was refused. The first answer stays. A refund that was refused can be asked for anew.
-- Locks: the payment_refunds row. Writes: payment_refunds 0..1, admin_audit_logs 0..1.
-- Errors: actor errors, invalid_argument, refund_not_found.
-- Example: SELECT * FROM billing.finish_refund(p_refund_id => '...', p_return_id => 're_1');
CREATE OR REPLACE FUNCTION billing.finish_refund(
    p_refund_id uuid,
    p_return_id text DEFAULT NULL,
    p_failure text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (refund_id uuid, return_id text, failure text, finished_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_refund billing_data.payment_refunds;
BEGIN
    PERFORM billing_data.require(
        num_nonnulls(p_return_id, p_failure) = 1, 'p_return_id',
        'either it or p_failure must be given'
    );
    PERFORM billing_data.require_short(p_return_id, 'p_return_id');
    PERFORM billing_data.require_durable_commit();
    UPDATE billing_data.payment_refunds AS f
    SET return_id = p_return_id,
        failure = left(p_failure, billing_data.most('reason')),
        finished_at = clock_timestamp()
    WHERE f.id = p_refund_id AND f.finished_at IS NULL
    RETURNING f.* INTO v_refund;
    IF FOUND THEN
        PERFORM billing_data.write_audit(
            CASE WHEN p_failure IS NULL THEN 'payment.refund_made'
                ELSE 'payment.refund_refused' END,
            'payment', p.payment_id::text,
            jsonb_strip_nulls(jsonb_build_object(
                'account_id', v_refund.account_id, 'refund_id', v_refund.id,
                'return_id', v_refund.return_id, 'amount_minor', v_refund.amount_minor,
                'currency', p.currency,
                'money', billing_data.money_text(v_refund.amount_minor, p.currency)
            )),
            coalesce(v_refund.failure, v_refund.reason), v_actor
        )
        FROM billing_data.purchases AS p
        WHERE p.account_id = v_refund.account_id AND p.id = v_refund.purchase_id;
    END IF;
    RETURN QUERY
    SELECT f.id, f.return_id::text, f.failure, f.finished_at
    FROM billing_data.payment_refunds AS f
    WHERE f.id = p_refund_id;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error(
            'refund_not_found', jsonb_build_object('refund_id', p_refund_id)
        );
    END IF;
END
$$;
COMMENT ON FUNCTION billing.finish_refund IS
    'Records how the provider answered a refund. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.finish_refund TO billing_server, billing_dba;

-- Lists how money of a payment went back, newest first: what staff asked for (refund_id), what the
-- provider reported (return_id), or both. state: asked (the provider has not answered), refused,
-- sent (the provider has it, and has not reported it yet), or what was reported: inquiry, open,
-- closed. asked_text is the amount that staff asked for, without its currency.
-- Errors: actor errors, payment_not_found.
-- Example: SELECT * FROM billing.list_refunds(p_payment_id => 'pi_1');
CREATE OR REPLACE FUNCTION billing.list_refunds(
    p_payment_id text,
    p_provider text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    refund_id uuid, return_id text, kind text, state text, amount_minor bigint, currency text,
    amount_text text, away_minor bigint, away_text text, credits_due bigint, credits_taken bigint,
    who text, reason text, failure text, idempotency_key text, asked_text text,
    created_at timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_purchase billing_data.purchases;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    SELECT p.* INTO v_purchase
    FROM billing_data.purchases AS p
    WHERE p.provider = coalesce(
            p_provider, billing_data.provider_of_payment(p_payment_id),
            billing.default_payment_provider()
        )
        AND p.payment_id = p_payment_id;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error(
            'payment_not_found', jsonb_build_object('payment_id', p_payment_id)
        );
    END IF;
    RETURN QUERY
    WITH asked AS (
        SELECT f.*, coalesce(u.email::text, f.database_role) AS who
        FROM billing_data.payment_refunds AS f
        LEFT JOIN billing_data.admin_users AS u ON u.id = f.admin_user_id
        WHERE f.account_id = v_purchase.account_id AND f.purchase_id = v_purchase.id
    ),
    reported AS (
        SELECT r.*
        FROM billing_data.payment_returns AS r
        WHERE r.account_id = v_purchase.account_id AND r.purchase_id = v_purchase.id
    )
    SELECT
        a.id, coalesce(r.return_id, a.return_id)::text, coalesce(r.kind, 'refund'),
        CASE
            WHEN r.return_id IS NOT NULL THEN r.state
            WHEN a.failure IS NOT NULL THEN 'refused'
            WHEN a.return_id IS NOT NULL THEN 'sent'
            ELSE 'asked'
        END,
        coalesce(r.amount_minor, a.amount_minor), v_purchase.currency::text,
        billing_data.money_text(coalesce(r.amount_minor, a.amount_minor), v_purchase.currency),
        coalesce(r.away_minor, 0),
        billing_data.money_text(coalesce(r.away_minor, 0), v_purchase.currency),
        coalesce(r.uses_due, 0), coalesce(r.uses_taken, 0), a.who, a.reason, a.failure,
        a.idempotency_key::text,
        billing_data.money_text(a.amount_minor, v_purchase.currency, p_with_currency => false),
        coalesce(a.created_at, r.created_at)
    FROM asked AS a
    FULL JOIN reported AS r ON r.return_id = a.return_id
    ORDER BY coalesce(a.created_at, r.created_at) DESC, a.id, r.return_id;
END
$$;
COMMENT ON FUNCTION billing.list_refunds IS
    'Lists how money of a payment went back, and who asked for it. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_refunds TO billing_server, billing_dba;
