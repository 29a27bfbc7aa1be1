-- Problems: where money and credits do not agree, and what a person did about it.

-- The problems that a person must look at, in no order. Three indexes of what is open find them.
CREATE OR REPLACE FUNCTION billing_data.find_payment_problems()
RETURNS TABLE (
    problem text,
    provider text,
    reference text,
    payment_id text,
    account_id uuid,
    what_is_wrong text,
    happened_at timestamptz
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT
        e.outcome AS problem, e.provider, e.event_id::text AS reference,
        e.payment_id::text AS payment_id, e.account_id,
        billing_data.payment_outcome_words(e.outcome) AS what_is_wrong,
        e.received_at AS happened_at
    FROM billing_data.payment_events AS e
    WHERE billing_data.is_payment_fault(e.outcome)
        AND e.resolved_at IS NULL
        -- A payment that reconciliation has credited since then is no longer a problem.
        AND NOT (
            e.outcome IN (
                'account_not_found', 'amount_mismatch', 'credited_by_hand', 'metadata_missing',
                'not_sold_here'
            )
            AND EXISTS (
                SELECT FROM billing_data.purchases AS p
                WHERE p.provider = e.provider
                    AND p.payment_id = e.payment_id
                    AND p.settled_at IS NOT NULL
            )
        )
    UNION ALL
    SELECT
        'shortfall', r.provider, r.return_id::text, p.payment_id::text, r.account_id,
        format(
            '%s of %s: %s uses were due, %s could be taken, %s are short', r.kind,
            billing_data.money_text(r.away_minor, p.currency), r.uses_due, r.uses_taken,
            r.uses_due - r.uses_taken
        ),
        r.updated_at
    FROM billing_data.payment_returns AS r
    INNER JOIN billing_data.purchases AS p
        ON p.account_id = r.account_id AND p.id = r.purchase_id
    WHERE r.status = 'taken' AND r.uses_taken < r.uses_due AND r.resolved_at IS NULL
    UNION ALL
    SELECT
        w.kind, w.provider, w.warning_id::text, w.payment_id::text, w.account_id,
        CASE w.kind
            WHEN 'fraud_warning' THEN 'the bank of the card''s owner reports fraud'
            WHEN 'paid_after_erasure' THEN 'it was paid after the person''s data was erased'
            ELSE 'a second credit names this payment'
        END,
        w.created_at
    FROM billing_data.payment_warnings AS w
    WHERE w.resolved_at IS NULL;
$$;
COMMENT ON FUNCTION billing_data.find_payment_problems IS
    'Finds payments that could not be credited and credits that could not be taken back. Helper.';

-- Lists what a person must look at, newest first: events whose payment could not be credited or
-- taken back, returns of money for which no credits were left to take, reports of fraud, and second
-- credits for a payment.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.list_payment_problems();
CREATE OR REPLACE FUNCTION billing.list_payment_problems(
    p_limit bigint DEFAULT 100,
    p_offset bigint DEFAULT 0,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    problem text,
    provider text,
    reference text,
    payment_id text,
    account_id uuid,
    what_is_wrong text,
    happened_at timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, p_offset, 501);
    RETURN QUERY
    SELECT
        q.problem, q.provider, q.reference, q.payment_id, q.account_id, q.what_is_wrong,
        q.happened_at
    FROM billing_data.find_payment_problems() AS q
    ORDER BY q.happened_at DESC, q.reference
    LIMIT p_limit OFFSET p_offset;
END
$$;
COMMENT ON FUNCTION billing.list_payment_problems IS
    'Lists payments that could not be credited and credits that could not be taken back. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_payment_problems TO billing_server, billing_dba;

-- How many rows billing.list_payment_problems lists: at most p_most, and is_more says that there
-- are more. It stops at p_most.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.count_payment_problems();
CREATE OR REPLACE FUNCTION billing.count_payment_problems(
    p_most bigint DEFAULT 10000,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (problems bigint, is_more boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_most(p_most);
    RETURN QUERY
    SELECT least(count(*), p_most), count(*) > p_most
    FROM (
        SELECT FROM billing_data.find_payment_problems()
        LIMIT p_most + 1
    ) AS n;
END
$$;
COMMENT ON FUNCTION billing.count_payment_problems IS
    'Counts what a person must look at of payments. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.count_payment_problems TO billing_server, billing_dba;

-- Refuses a resolution that does not say what it resolves, or why.
CREATE OR REPLACE FUNCTION billing_data.require_resolution(
    p_reference text, p_argument text, p_reason text
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require_filled(p_reference, p_argument, 'reference');
    PERFORM billing_data.require_reason(p_reason);
END
$$;
COMMENT ON FUNCTION billing_data.require_resolution IS
    'Raises invalid_argument unless a resolution says what it resolves and why. Helper.';

-- What was paid, as the provider reported it in a stored event; no row when it did not.
CREATE OR REPLACE FUNCTION billing_data.money_paid(p_provider text, p_payment_id text)
RETURNS TABLE (amount_minor bigint, currency text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (o.payment ->> 'amount_received')::bigint, upper(o.payment ->> 'currency')
    FROM billing_data.payment_events AS e
    CROSS JOIN LATERAL (SELECT e.payload #> '{data,object}' AS payment) AS o
    WHERE e.provider = p_provider
        AND e.payment_id = p_payment_id
        AND o.payment ->> 'id' = p_payment_id
        AND o.payment ->> 'amount_received' ~ '^[1-9][0-9]{0,17}$'
        AND length(o.payment ->> 'currency') = 3
    ORDER BY e.received_at DESC
    LIMIT 1
$$;
COMMENT ON FUNCTION billing_data.money_paid IS
    'What was paid, by the newest stored event that says so. Helper.';

-- Refuses a credit that cannot belong to a payment: it took credits away, it is a correction or was
-- reversed, it belongs to another payment or to a return, it went to another account than the
-- payment's, or its amount is less than half or more than twice what the money buys.
-- Errors: credit_not_usable.
CREATE OR REPLACE FUNCTION billing_data.require_credit_of_payment(
    p_credit billing_data.credits, p_purchase billing_data.purchases
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_problem text := CASE
        WHEN (p_credit).id IS NULL THEN 'it does not exist'
        WHEN (p_credit).amount_minor < 0 THEN 'it took credits away'
        WHEN billing_data.is_correction(p_credit) THEN 'it is itself a correction'
        WHEN EXISTS (
            SELECT FROM billing_data.reversed_entries AS r WHERE r.entry_id = (p_credit).id
        ) THEN 'it was reversed'
        WHEN NOT billing_data.is_one_account((p_credit).account_id, (p_purchase).account_id)
            THEN 'it was given to another account than the payment was sold to'
        WHEN EXISTS (
            SELECT FROM billing_data.payment_effects AS x
            WHERE x.credit_id = (p_credit).id
                AND (x.provider, x.payment_id) <> ((p_purchase).provider, (p_purchase).payment_id)
        )
        OR EXISTS (
            SELECT FROM billing_data.purchases AS p
            WHERE p.credit_id = (p_credit).id
        ) THEN 'it is the credit of another payment'
        WHEN EXISTS (
            SELECT FROM billing_data.payment_return_credits AS n
            WHERE n.credit_id = (p_credit).id
        ) THEN 'it belongs to a refund or dispute'
        WHEN (p_credit).amount_minor * 2::numeric < (p_purchase).uses
            OR (p_credit).amount_minor > (p_purchase).uses * 2::numeric
            THEN format(
                'it gave %s credits, and what was paid buys %s', (p_credit).amount_minor,
                (p_purchase).uses
            )
    END;
BEGIN
    IF v_problem IS NOT NULL THEN
        PERFORM billing_data.raise_error('credit_not_usable', jsonb_build_object(
            'credit_id', (p_credit).id, 'payment_id', (p_purchase).payment_id, 'problem', v_problem
        ));
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.require_credit_of_payment IS
    'Refuses a credit that cannot be the one of a payment. Helper.';

-- Assigns a credit that was given by hand to a payment, whose effect the caller has claimed. If the
-- payment has a purchase of as many uses as the credit gave, for the money that was paid, that
-- purchase is settled with the credit. Where another number or price was offered, or nothing, a new
-- purchase takes its place. So the payment is not credited again, and when money goes back later,
-- credits are taken back from the credit's account.
-- Locks: none, the caller holds account, purchase and effect. Writes: purchases 1..2,
-- payment_effects 1, credits 0..n, accounts 0..1, payment_returns 0..n. Errors: credit_not_usable.
CREATE OR REPLACE FUNCTION billing_data.settle_with_credit(
    p_provider text,
    p_payment_id text,
    p_credit_id uuid,
    p_amount_minor bigint,
    p_currency text,
    p_actor billing_data.actor
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_purchase billing_data.purchases := billing_data.purchase_of_payment(
        p_provider, p_payment_id, NULL, NULL
    );
    v_before billing_data.purchases := v_purchase;
    v_credit billing_data.credits;
    v_paid record;
    v_outcome text;
BEGIN
    SELECT c.* INTO v_credit
    FROM billing_data.credits AS c
    WHERE c.id = p_credit_id;
    IF v_purchase.id IS NULL THEN
        SELECT s.pack_uses, s.pack_price_minor, s.pack_currency
        INTO STRICT v_purchase.uses, v_purchase.price_minor, v_purchase.currency
        FROM billing_data.settings AS s;
        v_purchase.account_id := v_credit.account_id;
        v_purchase.id := v_credit.id;
        v_purchase.provider := p_provider;
        v_purchase.payment_id := p_payment_id;
    END IF;
    SELECT
        coalesce(p_amount_minor, max(m.amount_minor), v_purchase.price_minor) AS amount_minor,
        coalesce(upper(p_currency), max(m.currency), v_purchase.currency) AS currency
    INTO STRICT v_paid
    FROM billing_data.money_paid(p_provider, p_payment_id) AS m;
    IF v_paid.currency = v_purchase.currency THEN
        v_purchase.uses := greatest(
            least(
                round(v_purchase.uses * v_paid.amount_minor::numeric / v_purchase.price_minor),
                billing_data.max_amount()
            ),
            1
        );
    END IF;
    PERFORM billing_data.require_credit_of_payment(v_credit, v_purchase);

    UPDATE billing_data.payment_effects AS x
    SET effect = 'credited',
        account_id = v_credit.account_id,
        credit_id = v_credit.id,
        purchase_before = CASE WHEN v_before.id IS NOT NULL THEN to_jsonb(v_before) END
    WHERE x.provider = p_provider AND x.payment_id = p_payment_id;
    IF v_before.id IS NULL
        OR (v_before.uses, v_before.price_minor, v_before.currency)
            <> (v_credit.amount_minor, v_paid.amount_minor, v_paid.currency)
    THEN
        -- An offer never changes: what came of it is a purchase of its own.
        UPDATE billing_data.purchases AS p
        SET payment_id = NULL,
            payment_status = NULL,
            idempotency_key = NULL,
            request_fingerprint = NULL
        WHERE p.account_id = v_before.account_id AND p.id = v_before.id;
        INSERT INTO billing_data.purchases (
            account_id, id, provider, payment_id, payment_status, uses, price_minor, currency,
            customer_email, idempotency_key, request_fingerprint, admin_user_id, database_role,
            created_at
        )
        SELECT
            a.id, v_credit.id, p_provider, p_payment_id, 'succeeded', v_credit.amount_minor,
            v_paid.amount_minor, v_paid.currency, a.customer_email, v_before.idempotency_key,
            v_before.request_fingerprint, p_actor.admin_user_id, p_actor.database_role,
            clock_timestamp()
        FROM billing_data.accounts AS a
        WHERE a.id = v_purchase.account_id;
        UPDATE billing_data.payment_returns AS r
        SET purchase_id = v_credit.id
        WHERE r.account_id = v_before.account_id AND r.purchase_id = v_before.id;
        v_purchase.id := v_credit.id;
    END IF;
    SELECT s.outcome INTO STRICT v_outcome
    FROM billing_data.settle_payment(
        p_provider, p_payment_id, v_paid.amount_minor, v_paid.currency, v_purchase.account_id,
        v_purchase.id, p_actor.database_role, NULL
    ) AS s;
    ASSERT v_outcome = 'already_credited', v_outcome;
END
$$;
COMMENT ON FUNCTION billing_data.settle_with_credit IS
    'Assigns a credit that was given by hand to a payment. Helper.';

-- Records how a person has dealt with a payment that is not credited: 'credited' with a credit that
-- was given by hand, 'refunded', or 'other'. After this the payment is never credited again.
-- Locks: the payment's events in id order, the account, the purchase, the effect. Writes:
-- payment_effects 1, payment_events 0..n; for 'credited' what settle_with_credit writes.
-- Errors: invalid_argument, payment_already_credited, credit_not_usable.
CREATE OR REPLACE FUNCTION billing_data.record_resolution(
    p_provider text,
    p_payment_id text,
    p_how text,
    p_reason text,
    p_credit_id uuid,
    p_amount_minor bigint,
    p_currency text,
    p_now timestamptz,
    p_actor billing_data.actor
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_effect billing_data.payment_effects;
BEGIN
    PERFORM billing_data.require(
        p_how IN ('credited', 'refunded', 'other'), 'p_how',
        'it must be credited, refunded or other'
    );
    PERFORM billing_data.require(
        (p_how = 'credited') = (p_credit_id IS NOT NULL), 'p_credit_id',
        'it is needed when the payment was credited by hand, and only then'
    );
    PERFORM billing_data.lock_payment(p_provider, p_payment_id, p_credit_id);
    INSERT INTO billing_data.payment_effects (
        provider, payment_id, effect, created_at, resolved_at, resolution
    )
    VALUES (p_provider, p_payment_id, 'other', p_now, p_now, p_reason)
    ON CONFLICT ON CONSTRAINT payment_effects_pkey DO NOTHING;
    IF NOT FOUND THEN
        v_effect := billing_data.effect_of_payment(p_provider, p_payment_id);
    END IF;
    -- This is checked after the effect is claimed: another transaction that was about to credit the
    -- payment has done so by now.
    IF v_effect.resolved_at IS NOT NULL
        OR (billing_data.purchase_of_payment(p_provider, p_payment_id, NULL, NULL)).settled_at
            IS NOT NULL
    THEN
        PERFORM billing_data.raise_error(
            'payment_already_credited', jsonb_build_object('payment_id', p_payment_id)
        );
    END IF;
    UPDATE billing_data.payment_effects AS x
    SET effect = CASE p_how WHEN 'credited' THEN x.effect ELSE p_how END,
        account_id = CASE p_how WHEN 'credited' THEN x.account_id END,
        credit_id = CASE p_how WHEN 'credited' THEN x.credit_id END,
        resolved_at = p_now,
        resolution = p_reason
    WHERE x.provider = p_provider AND x.payment_id = p_payment_id;
    IF p_how = 'credited' THEN
        PERFORM billing_data.settle_with_credit(
            p_provider, p_payment_id, p_credit_id, p_amount_minor, p_currency, p_actor
        );
    END IF;
    -- Money that went back before the payment was known here is taken back when its event comes
    -- again.
    UPDATE billing_data.payment_events AS e
    SET resolved_at = p_now, resolution = p_reason
    WHERE e.provider = p_provider
        AND e.payment_id = p_payment_id
        AND e.resolved_at IS NULL
        AND billing_data.is_payment_fault(e.outcome)
        AND (p_how <> 'credited' OR e.outcome <> 'payment_unknown');
END
$$;
COMMENT ON FUNCTION billing_data.record_resolution IS
    'Records how a person has dealt with a payment. Helper.';

-- Locks what belongs to a payment in the order that every function keeps: its events by id, its
-- account (the credit's account where a credit is named) and the one that it leads to, its
-- purchase.
CREATE OR REPLACE FUNCTION billing_data.lock_payment(
    p_provider text, p_payment_id text, p_credit_id uuid
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM billing_data.payment_events AS e
    WHERE e.provider = p_provider AND e.payment_id = p_payment_id
    ORDER BY e.event_id
    FOR NO KEY UPDATE;
    PERFORM FROM billing_data.accounts AS a
    WHERE a.id IN (
        SELECT unnest(billing_data.merge_path(p.account_id))
        FROM billing_data.purchases AS p
        WHERE p.provider = p_provider AND p.payment_id = p_payment_id
        UNION ALL
        SELECT unnest(billing_data.merge_path(c.account_id))
        FROM billing_data.credits AS c
        WHERE c.id = p_credit_id
    )
    ORDER BY a.id
    FOR NO KEY UPDATE;
    PERFORM FROM billing_data.purchases AS p
    WHERE p.provider = p_provider AND p.payment_id = p_payment_id
    FOR UPDATE;
END
$$;
COMMENT ON FUNCTION billing_data.lock_payment IS
    'Locks a payment''s events, account and purchase, in that order. Helper.';

-- Records a provider's report of fraud: the warning p_warning_id about one of our payments, which
-- is open until the money has gone back or a person has dealt with it. Returns the outcome:
-- 'acknowledged', or 'ignored' where the payment was not sold here. A warning that was closed stays
-- closed.
-- Locks: the warning. Writes: payment_warnings 0..1.
CREATE OR REPLACE FUNCTION billing_data.note_fraud_warning(
    p_provider text, p_payment_id text, p_warning_id text, p_is_open boolean
) RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_purchase billing_data.purchases := billing_data.purchase_of_payment(
        p_provider, p_payment_id, NULL, NULL
    );
    v_closed text := CASE WHEN NOT p_is_open THEN 'the money has gone back, or is disputed' END;
BEGIN
    IF v_purchase.id IS NULL THEN
        RETURN 'ignored';
    END IF;
    INSERT INTO billing_data.payment_warnings AS w (
        provider, warning_id, kind, payment_id, account_id, created_at, resolved_at, resolution
    )
    VALUES (
        p_provider, p_warning_id, 'fraud_warning', p_payment_id, v_purchase.account_id, v_now,
        CASE WHEN NOT p_is_open THEN v_now END, v_closed
    )
    ON CONFLICT ON CONSTRAINT payment_warnings_pkey DO UPDATE
    SET resolved_at = excluded.resolved_at, resolution = excluded.resolution
    WHERE w.resolved_at IS NULL;
    RETURN 'acknowledged';
END
$$;
COMMENT ON FUNCTION billing_data.note_fraud_warning IS
    'Records a provider''s report of fraud about one of our payments; gives an outcome. Helper.';

-- Records how a person has dealt with a payment that could not be credited: p_how is 'credited'
-- with p_credit_id, the credit that was given for it by hand; 'refunded'; or 'other'. The
-- resolution belongs to the payment: no event and no reconciliation credits it again, and its open
-- events leave the list of problems. p_amount_minor and p_currency give the amount paid where no
-- stored event has it; a later refund uses them to take back its share of the credit. Where
-- p_provider is NULL, the payment's id tells its provider.
-- Locks and writes: billing_data.record_resolution, and admin_audit_logs 1. Errors: actor errors,
-- invalid_argument, payment_already_credited, credit_not_usable.
-- Example: SELECT billing.resolve_payment(p_payment_id => 'pi_1', p_how => 'refunded',
--              p_reason => 'refunded in the dashboard');
CREATE OR REPLACE FUNCTION billing.resolve_payment(
    p_payment_id text,
    p_how text,
    p_reason text,
    p_credit_id uuid DEFAULT NULL,
    p_amount_minor bigint DEFAULT NULL,
    p_currency text DEFAULT NULL,
    p_provider text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
BEGIN
    PERFORM billing_data.require_resolution(p_payment_id, 'p_payment_id', p_reason);
    p_provider := coalesce(
        p_provider, billing_data.provider_of_payment(p_payment_id),
        billing.default_payment_provider()
    );
    PERFORM billing_data.require_payment_provider(p_provider);
    PERFORM billing_data.require(
        p_amount_minor IS NULL OR p_amount_minor > 0, 'p_amount_minor', 'it must be greater than 0'
    );
    PERFORM billing_data.require_currency_length(p_currency) WHERE p_currency IS NOT NULL;
    PERFORM billing_data.require_durable_commit();
    PERFORM billing_data.record_resolution(
        p_provider, p_payment_id, p_how, p_reason, p_credit_id, p_amount_minor, p_currency,
        clock_timestamp(), v_actor
    );
    PERFORM billing_data.write_audit(
        'payment.resolve', 'payment', p_payment_id,
        jsonb_strip_nulls(jsonb_build_object('how', p_how, 'credit_id', p_credit_id)),
        p_reason, v_actor
    );
END
$$;
COMMENT ON FUNCTION billing.resolve_payment IS
    'Records how a person has dealt with a payment that was not credited. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.resolve_payment TO billing_server, billing_dba;

-- Takes back a person's resolution of a payment: its purchase returns to its earlier state, its
-- events are listed again, and it can be credited. No balance changes. Where p_provider is NULL,
-- the payment's id tells its provider.
-- Locks: the payment's events in id order, the account, the purchase, the effect. Writes:
-- payment_effects 1, purchases 0..1, payment_events 0..n, admin_audit_logs 1. Errors: actor errors,
-- invalid_argument, payment_not_resolved (also when money of it went back since then).
-- Example: SELECT billing.reopen_payment(p_payment_id => 'pi_1', p_reason => 'a wrong payment');
CREATE OR REPLACE FUNCTION billing.reopen_payment(
    p_payment_id text,
    p_reason text,
    p_provider text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_effect billing_data.payment_effects;
    v_purchase billing_data.purchases;
    v_before billing_data.purchases;
    v_problem text;
BEGIN
    PERFORM billing_data.require_resolution(p_payment_id, 'p_payment_id', p_reason);
    p_provider := coalesce(
        p_provider, billing_data.provider_of_payment(p_payment_id),
        billing.default_payment_provider()
    );
    PERFORM billing_data.require_payment_provider(p_provider);
    PERFORM billing_data.require_durable_commit();
    PERFORM billing_data.lock_payment(p_provider, p_payment_id, NULL);
    v_effect := billing_data.effect_of_payment(p_provider, p_payment_id);
    IF v_effect.effect = 'credited' THEN
        v_purchase := billing_data.purchase_of_payment(p_provider, p_payment_id, NULL, NULL);
    END IF;
    v_problem := CASE
        WHEN v_effect.resolved_at IS NULL THEN 'no person has resolved it'
        WHEN EXISTS (
            SELECT FROM billing_data.payment_returns AS r
            WHERE r.account_id = v_purchase.account_id AND r.purchase_id = v_purchase.id
        ) THEN 'money of it went back'
    END;
    IF v_problem IS NOT NULL THEN
        PERFORM billing_data.raise_error('payment_not_resolved', jsonb_build_object(
            'payment_id', p_payment_id, 'problem', v_problem
        ));
    END IF;
    v_before := jsonb_populate_record(NULL::billing_data.purchases, v_effect.purchase_before);
    DELETE FROM billing_data.purchases AS p
    WHERE p.account_id = v_purchase.account_id
        AND p.id = v_purchase.id
        AND p.id IS DISTINCT FROM v_before.id;
    UPDATE billing_data.purchases AS p
    SET payment_id = v_before.payment_id,
        payment_status = v_before.payment_status,
        idempotency_key = v_before.idempotency_key,
        request_fingerprint = v_before.request_fingerprint,
        settled_at = NULL,
        credit_id = NULL
    WHERE p.account_id = v_before.account_id AND p.id = v_before.id;
    -- A credit that names the payment still belongs to the payment.
    UPDATE billing_data.payment_effects AS x
    SET resolved_at = NULL, resolution = NULL, purchase_before = NULL
    FROM billing_data.credits AS c
    WHERE x.provider = p_provider
        AND x.payment_id = p_payment_id
        AND c.id = x.credit_id
        AND c.external_transaction_id = p_payment_id;
    DELETE FROM billing_data.payment_effects AS x
    WHERE x.provider = p_provider
        AND x.payment_id = p_payment_id
        AND x.resolved_at IS NOT NULL;
    UPDATE billing_data.payment_events AS e
    SET resolved_at = NULL, resolution = NULL
    WHERE e.provider = p_provider
        AND e.payment_id = p_payment_id
        AND e.resolved_at = v_effect.resolved_at;
    PERFORM billing_data.write_audit(
        'payment.reopen', 'payment', p_payment_id,
        jsonb_strip_nulls(jsonb_build_object(
            'how', v_effect.effect, 'credit_id', v_effect.credit_id,
            'resolution', v_effect.resolution
        )),
        p_reason, v_actor
    );
END
$$;
COMMENT ON FUNCTION billing.reopen_payment IS
    'Takes a person''s resolution of a payment back. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.reopen_payment TO billing_server, billing_dba;

-- Closes an event that ended in a fault, after a person has put right what it was about: it leaves
-- the list of problems, and its redelivery is accepted. Where its payment is not credited, this
-- also resolves the payment, as billing.resolve_payment does: p_how is 'credited' with p_credit_id,
-- 'refunded', or 'other' (also when neither is given). When the event is a return of money whose
-- payment was not reported yet, it does not resolve the payment, unless p_how is given.
-- Locks: the payment's events in id order, and what billing_data.record_resolution locks. Writes:
-- payment_events 1, admin_audit_logs 1, and what that writes. Errors: actor errors,
-- invalid_argument, payment_event_not_found, payment_already_credited, credit_not_usable.
-- Example: SELECT billing.resolve_payment_event(p_event_id => 'evt_1',
--              p_reason => 'refunded in the dashboard', p_how => 'refunded');
CREATE OR REPLACE FUNCTION billing.resolve_payment_event(
    p_event_id text,
    p_reason text,
    p_provider text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL,
    p_how text DEFAULT NULL,
    p_credit_id uuid DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_how text := coalesce(p_how, CASE WHEN p_credit_id IS NOT NULL THEN 'credited' END);
    v_event billing_data.payment_events;
    v_is_done boolean;
BEGIN
    PERFORM billing_data.require_resolution(p_event_id, 'p_event_id', p_reason);
    PERFORM billing_data.require_durable_commit();
    p_provider := coalesce(p_provider, (
        SELECT e.provider
        FROM billing_data.payment_providers AS k
        INNER JOIN billing_data.payment_events AS e
            ON e.provider = k.kind AND e.event_id = p_event_id
        ORDER BY k.place
        LIMIT 1
    ));
    SELECT e.* INTO v_event
    FROM billing_data.payment_events AS e
    WHERE e.provider = p_provider AND e.event_id = p_event_id;
    PERFORM billing_data.lock_payment(p_provider, v_event.payment_id, p_credit_id);
    UPDATE billing_data.payment_events AS e
    SET resolved_at = clock_timestamp(), resolution = p_reason
    WHERE e.provider = p_provider
        AND e.event_id = p_event_id
        AND e.resolved_at IS NULL
        AND billing_data.is_payment_fault(e.outcome)
    RETURNING e.* INTO v_event;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error(
            'payment_event_not_found', jsonb_build_object('event_id', p_event_id)
        );
    END IF;
    v_is_done := (
        billing_data.purchase_of_payment(p_provider, v_event.payment_id, NULL, NULL)
    ).settled_at IS NOT NULL
        OR billing_data.is_resolved_without_credit(p_provider, v_event.payment_id);
    IF v_how = 'credited' OR (
        v_event.payment_id IS NOT NULL
        AND NOT v_is_done
        AND (v_how IS NOT NULL OR v_event.outcome <> 'payment_unknown')
    ) THEN
        PERFORM billing_data.record_resolution(
            p_provider, v_event.payment_id, coalesce(v_how, 'other'), p_reason, p_credit_id, NULL,
            NULL, v_event.resolved_at, v_actor
        );
    END IF;
    PERFORM billing_data.write_audit(
        'payment_event.resolve', 'payment_event', p_event_id,
        jsonb_strip_nulls(jsonb_build_object(
            'outcome', v_event.outcome, 'how', v_how, 'credit_id', p_credit_id
        )),
        p_reason, v_actor
    );
END
$$;
COMMENT ON FUNCTION billing.resolve_payment_event IS
    'Closes an event that a person has dealt with, with a reason. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.resolve_payment_event TO billing_server, billing_dba;

-- Closes a warning about a payment (a report of fraud or a second credit) that a person has dealt
-- with: it leaves the list of problems. No balance changes. Locks: the warning. Writes:
-- payment_warnings 1, admin_audit_logs 1. Errors: actor errors, invalid_argument,
-- payment_warning_not_found.
-- Example: SELECT billing.resolve_payment_warning(p_warning_id => 'issfr_1',
--              p_reason => 'refunded in the dashboard');
CREATE OR REPLACE FUNCTION billing.resolve_payment_warning(
    p_warning_id text,
    p_reason text,
    p_provider text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_warning billing_data.payment_warnings;
BEGIN
    PERFORM billing_data.require_resolution(p_warning_id, 'p_warning_id', p_reason);
    PERFORM billing_data.require_durable_commit();
    p_provider := coalesce(p_provider, (
        SELECT w.provider
        FROM billing_data.payment_providers AS k
        INNER JOIN billing_data.payment_warnings AS w
            ON w.provider = k.kind AND w.warning_id = p_warning_id
        ORDER BY k.place
        LIMIT 1
    ));
    UPDATE billing_data.payment_warnings AS w
    SET resolved_at = clock_timestamp(), resolution = p_reason
    WHERE w.provider = p_provider AND w.warning_id = p_warning_id AND w.resolved_at IS NULL
    RETURNING w.* INTO v_warning;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error(
            'payment_warning_not_found', jsonb_build_object('warning_id', p_warning_id)
        );
    END IF;
    PERFORM billing_data.write_audit(
        'payment_warning.resolve', 'payment_warning', p_warning_id,
        jsonb_build_object(
            'kind', v_warning.kind, 'payment_id', v_warning.payment_id,
            'account_id', v_warning.account_id
        ),
        p_reason, v_actor
    );
END
$$;
COMMENT ON FUNCTION billing.resolve_payment_warning IS
    'Closes a warning that a person has dealt with, with a reason. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.resolve_payment_warning TO billing_server, billing_dba;

-- Writes off the shortfall of a return of money: it leaves the list of problems.
-- Locks: the return. Writes: payment_returns 1, admin_audit_logs 1. Errors: actor errors,
-- invalid_argument, payment_return_not_found.
-- Example: SELECT billing.resolve_shortfall(p_return_id => 're_1', p_reason => 'written off');
CREATE OR REPLACE FUNCTION billing.resolve_shortfall(
    p_return_id text,
    p_reason text,
    p_provider text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_return billing_data.payment_returns;
BEGIN
    PERFORM billing_data.require_resolution(p_return_id, 'p_return_id', p_reason);
    PERFORM billing_data.require_durable_commit();
    p_provider := coalesce(p_provider, (
        SELECT r.provider
        FROM billing_data.payment_providers AS k
        INNER JOIN billing_data.payment_returns AS r
            ON r.provider = k.kind AND r.return_id = p_return_id
        ORDER BY k.place
        LIMIT 1
    ));
    UPDATE billing_data.payment_returns AS r
    SET resolved_at = clock_timestamp(), resolution = p_reason
    WHERE r.provider = p_provider
        AND r.return_id = p_return_id
        AND r.status = 'taken'
        AND r.uses_taken < r.uses_due
        AND r.resolved_at IS NULL
    RETURNING r.* INTO v_return;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error(
            'payment_return_not_found', jsonb_build_object('return_id', p_return_id)
        );
    END IF;
    PERFORM billing_data.write_audit(
        'payment_return.resolve', 'payment_return', p_return_id,
        jsonb_build_object(
            'account_id', v_return.account_id, 'shortfall', v_return.uses_due - v_return.uses_taken
        ),
        p_reason, v_actor
    );
END
$$;
COMMENT ON FUNCTION billing.resolve_shortfall IS
    'Writes off credits that could not be taken back, with a reason. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.resolve_shortfall TO billing_server, billing_dba;
