-- Where money and credits do not agree, and what a person did about it.

-- What a person must look at, in no order. Found by the two indexes of what is open.
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
        CASE e.outcome
            WHEN 'account_not_found' THEN 'the payment names an identity without an account'
            WHEN 'amount_mismatch' THEN 'another amount was paid than was asked for'
            WHEN 'balance_overflow' THEN 'the account cannot hold that many credits'
            WHEN 'currency_mismatch' THEN 'it was paid in another currency than was asked for'
            WHEN 'metadata_missing' THEN 'the payment does not say whom it is for'
            WHEN 'mode_mismatch' THEN 'a test event met a live set-up, or the other way round'
            WHEN 'not_sold_here' THEN 'it names a purchase or an account that it cannot show to be its own'
            WHEN 'payment_unknown' THEN 'money went back for a payment that was not reported yet'
            ELSE 'the purchase already has another payment'
        END AS what_is_wrong,
        e.received_at AS happened_at
    FROM billing_data.payment_events AS e
    -- The faults of billing_data.is_payment_fault, so worded that their index serves.
    WHERE e.outcome IN (
            'account_not_found', 'amount_mismatch', 'balance_overflow', 'currency_mismatch',
            'metadata_missing', 'mode_mismatch', 'not_sold_here', 'payment_mismatch',
            'payment_unknown'
        )
        AND e.resolved_at IS NULL
        -- What reconciliation has credited since then is no problem any more.
        AND NOT (
            e.outcome IN (
                'account_not_found', 'amount_mismatch', 'metadata_missing', 'not_sold_here'
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
    WHERE r.status = 'taken' AND r.uses_taken < r.uses_due AND r.resolved_at IS NULL;
$$;
COMMENT ON FUNCTION billing_data.find_payment_problems IS
    'Finds payments that could not be credited and credits that could not be taken back. Helper.';

-- What a person must look at: events whose payment could not be credited or taken back, and returns
-- of money for which no credits were left to take. Newest first. Errors: actor errors,
-- invalid_argument. Example: SELECT * FROM billing.list_payment_problems();
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
    PERFORM billing_data.require_page(p_limit, p_offset, 500);
    RETURN QUERY
    SELECT q.problem, q.provider, q.reference, q.payment_id, q.account_id, q.what_is_wrong, q.happened_at
    FROM billing_data.find_payment_problems() AS q
    ORDER BY q.happened_at DESC, q.reference
    LIMIT p_limit OFFSET p_offset;
END
$$;
COMMENT ON FUNCTION billing.list_payment_problems IS
    'Lists payments that could not be credited and credits that could not be taken back. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_payment_problems TO billing_server, billing_dba;

-- Closes an event that ended in a fault, after a person has put right what it was about: it leaves
-- the list of problems and its redelivery is accepted. Locks: the event. Writes: payment_events 1,
-- admin_audit_logs 1. Errors: actor errors, invalid_argument, payment_event_not_found.
-- Example: SELECT billing.resolve_payment_event(p_event_id => 'evt_1',
--              p_reason => 'granted by hand');
CREATE OR REPLACE FUNCTION billing.resolve_payment_event(
    p_event_id text,
    p_reason text,
    p_provider text DEFAULT 'stripe',
    p_session_hash bytea DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_outcome text;
BEGIN
    PERFORM billing_data.require(length(p_reason) > 0, 'p_reason', 'a reason is needed');
    PERFORM billing_data.require_durable_commit();
    UPDATE billing_data.payment_events AS e
    SET resolved_at = clock_timestamp(), resolution = p_reason
    WHERE e.provider = p_provider
        AND e.event_id = p_event_id
        AND e.resolved_at IS NULL
        AND billing_data.is_payment_fault(e.outcome)
    RETURNING e.outcome INTO v_outcome;
    IF NOT FOUND THEN
        PERFORM billing_data.raise_error(
            'payment_event_not_found', jsonb_build_object('event_id', p_event_id)
        );
    END IF;
    PERFORM billing_data.write_audit(
        'payment_event.resolve', 'payment_event', p_event_id,
        jsonb_build_object('outcome', v_outcome), p_reason, v_actor
    );
END
$$;
COMMENT ON FUNCTION billing.resolve_payment_event IS
    'Closes an event that a person has dealt with, with a reason. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.resolve_payment_event TO billing_server, billing_dba;

-- Writes off the shortfall of a return of money: it leaves the list of problems.
-- Locks: the return. Writes: payment_returns 1, admin_audit_logs 1. Errors: actor errors,
-- invalid_argument, payment_return_not_found.
-- Example: SELECT billing.resolve_shortfall(p_return_id => 're_1', p_reason => 'written off');
CREATE OR REPLACE FUNCTION billing.resolve_shortfall(
    p_return_id text,
    p_reason text,
    p_provider text DEFAULT 'stripe',
    p_session_hash bytea DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_return billing_data.payment_returns;
BEGIN
    PERFORM billing_data.require(length(p_reason) > 0, 'p_reason', 'a reason is needed');
    PERFORM billing_data.require_durable_commit();
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
    'Writes off credits that could not be taken back, with a reason. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.resolve_shortfall TO billing_server, billing_dba;
