-- Alerts: what other systems are told about accounts. An alert is written to the outbox in the
-- transaction of its cause, a row for each endpoint that wants its kind. When the cause is rolled
-- back, so is the alert. Where no endpoint wants the kind, nothing is written.

-- The kinds of alerts: the one list of them.
CREATE OR REPLACE FUNCTION billing_data.alert_kinds() RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY[
    'balance.low', 'balance.empty', 'balance.recovered', 'credits.expiring', 'cap.reached',
    'purchase.credited', 'topup.failed', 'account.suspended', 'account.reactivated'
];
COMMENT ON FUNCTION billing_data.alert_kinds IS 'The kinds of alerts. Helper.';

-- Whether what an account has left, free uses and paid credits together, is at the threshold or
-- below; NULL where there is no threshold. (The sum of both may be greater than a bigint.)
CREATE OR REPLACE FUNCTION billing_data.is_low(
    p_threshold bigint, p_free_uses bigint, p_paid_credits bigint
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN p_paid_credits <= p_threshold - p_free_uses;
COMMENT ON FUNCTION billing_data.is_low IS
    'Whether an account''s balance is low, NULL without a threshold. Helper.';

-- Whether an account has nothing left.
CREATE OR REPLACE FUNCTION billing_data.is_empty(p_free_uses bigint, p_paid_credits bigint)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN p_free_uses <= 0 AND p_paid_credits <= 0;
COMMENT ON FUNCTION billing_data.is_empty IS 'Whether an account has nothing left. Helper.';

-- The kinds of alerts that a change of a balance raises. A balance that is low recovers above the
-- threshold; without a threshold, an empty one recovers with the first credit or free use.
CREATE OR REPLACE FUNCTION billing_data.balance_alerts(
    p_threshold bigint,
    p_free_before bigint,
    p_paid_before bigint,
    p_free_after bigint,
    p_paid_after bigint
) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN array_remove(ARRAY[
    CASE
        WHEN billing_data.is_low(p_threshold, p_free_after, p_paid_after)
            AND NOT billing_data.is_low(p_threshold, p_free_before, p_paid_before)
            THEN 'balance.low'
    END,
    CASE
        WHEN billing_data.is_empty(p_free_after, p_paid_after)
            AND NOT billing_data.is_empty(p_free_before, p_paid_before) THEN 'balance.empty'
    END,
    CASE
        WHEN coalesce(
            billing_data.is_low(p_threshold, p_free_before, p_paid_before),
            billing_data.is_empty(p_free_before, p_paid_before)
        ) AND NOT coalesce(
            billing_data.is_low(p_threshold, p_free_after, p_paid_after),
            billing_data.is_empty(p_free_after, p_paid_after)
        ) THEN 'balance.recovered'
    END
], NULL);
COMMENT ON FUNCTION billing_data.balance_alerts IS
    'The kinds of alerts that a change of a balance raises. Helper.';

-- Whether a charge makes a balance cross the threshold, or leaves nothing. It is evaluated for
-- every charge, so it is an expression.
CREATE OR REPLACE FUNCTION billing_data.charge_crosses(
    p_threshold bigint,
    p_paid_with text,
    p_balance_before bigint,
    p_balance_after bigint,
    p_free_uses_after bigint
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    (p_balance_after <= 0 AND p_free_uses_after <= 0)
    OR (
        p_balance_after <= p_threshold - p_free_uses_after
        AND p_balance_before
            > p_threshold - p_free_uses_after - CASE p_paid_with WHEN 'free' THEN 1 ELSE 0 END
    )
) IS TRUE;
COMMENT ON FUNCTION billing_data.charge_crosses IS
    'Whether a charge raises an alert of a balance. Helper.';

-- Whether an endpoint wants to be told of a kind of alert.
CREATE OR REPLACE FUNCTION billing_data.is_wanted(p_kind text) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT
        FROM billing_data.webhook_endpoints AS e
        WHERE e.status <> 'off' AND (e.kinds = '{}' OR p_kind = ANY (e.kinds))
    )
$$;
COMMENT ON FUNCTION billing_data.is_wanted IS
    'Whether an endpoint wants to be told of a kind of alert. Helper.';

-- Raises an alert about an account (NULL: about none): it is sent, with its data, to every endpoint
-- that is switched on or paused and wants its kind. The account's identity is added when it is
-- sent, so that nothing here names a person who is erased. Nobody is told of an account that is
-- erased or merged.
-- Locks: none. Writes: outbox, 1 per endpoint. Errors: invalid_argument for an unknown kind.
CREATE OR REPLACE FUNCTION billing_data.raise_alert(
    p_kind text, p_account_id uuid, p_data jsonb DEFAULT '{}'
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_event_id uuid := billing_data.new_id();
    v_now timestamptz := clock_timestamp();
BEGIN
    PERFORM billing_data.require(
        p_kind = ANY (billing_data.alert_kinds()), 'p_kind', 'it must be a kind of alert'
    );
    INSERT INTO billing_data.outbox (
        id, event_id, endpoint_id, kind, account_id, data, created_at, due_at
    )
    SELECT billing_data.new_id(), v_event_id, e.id, p_kind, p_account_id, p_data, v_now, v_now
    FROM billing_data.webhook_endpoints AS e
    WHERE e.status <> 'off'
        AND (e.kinds = '{}' OR p_kind = ANY (e.kinds))
        AND NOT billing_data.is_erased(p_account_id)
        AND NOT EXISTS (
            SELECT FROM billing_data.accounts AS a
            WHERE a.id = p_account_id AND a.status = 'merged'
        );
END
$$;
COMMENT ON FUNCTION billing_data.raise_alert IS
    'Writes an alert to the outbox for every endpoint that wants it. Helper.';

-- Raises the alerts of a change of an account's balance. p_data says what changed it.
-- Locks: none. Writes: outbox, 1 per alert and endpoint.
CREATE OR REPLACE FUNCTION billing_data.raise_balance_alerts(
    p_account_id uuid,
    p_free_before bigint,
    p_paid_before bigint,
    p_free_after bigint,
    p_paid_after bigint,
    p_data jsonb DEFAULT '{}'
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_threshold bigint := (SELECT s.low_balance FROM billing_data.settings AS s);
    v_kind text;
BEGIN
    FOREACH v_kind IN ARRAY billing_data.balance_alerts(
        v_threshold, p_free_before, p_paid_before, p_free_after, p_paid_after
    ) LOOP
        PERFORM billing_data.raise_alert(
            v_kind, p_account_id,
            p_data || jsonb_build_object(
                'free_uses_remaining', p_free_after, 'credits_remaining', p_paid_after,
                'threshold', v_threshold
            )
        );
    END LOOP;
END
$$;
COMMENT ON FUNCTION billing_data.raise_balance_alerts IS
    'Raises the alerts of a change of an account''s balance. Helper.';

-- A charge for billing_data.raise_charge_alerts.
CREATE OR REPLACE FUNCTION billing_data.crossing(
    p_item integer,
    p_account_id uuid,
    p_charge_id uuid,
    p_paid_with text,
    p_balance_before bigint,
    p_balance_after bigint,
    p_free_uses_after bigint
) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jsonb_build_object(
    'item', p_item, 'account_id', p_account_id, 'charge_id', p_charge_id,
    'paid_with', p_paid_with, 'balance_before', p_balance_before,
    'balance_after', p_balance_after, 'free_uses_after', p_free_uses_after
);
COMMENT ON FUNCTION billing_data.crossing IS 'A charge that raises an alert, as JSON. Helper.';

-- Raises the alerts of charges, in their order. p_crossed is a list of charges for which
-- billing_data.charge_crosses is true, as billing_data.crossing makes them.
-- Locks: none. Writes: outbox, 1 per alert and endpoint.
CREATE OR REPLACE FUNCTION billing_data.raise_charge_alerts(p_crossed jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.raise_balance_alerts(
        c.account_id, c.free_uses_after + (c.paid_with = 'free')::integer, c.balance_before,
        c.free_uses_after, c.balance_after, jsonb_build_object('charge_id', c.charge_id)
    )
    FROM (
        SELECT p.*
        FROM jsonb_to_recordset(p_crossed) AS p (
            item integer, account_id uuid, charge_id uuid, paid_with text, balance_before bigint,
            balance_after bigint, free_uses_after bigint
        )
        ORDER BY p.item
    ) AS c;
END
$$;
COMMENT ON FUNCTION billing_data.raise_charge_alerts IS
    'Raises the alerts of charges that made balances cross. Helper.';
