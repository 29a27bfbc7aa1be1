-- One more outcome of events: one about a charge that Stripe does not show us is kept for a person.
-- The list of outcomes is extended, not written again, so that steps that do so may come in any
-- order.
-- depends: 2026_11_26_0034_money_away_backfill
SET LOCAL lock_timeout = '1s';

DO $$
DECLARE
    v_outcomes text;
    v_index text := pg_get_indexdef('billing_data.payment_events_faults'::regclass);
BEGIN
    SELECT pg_get_constraintdef(c.oid) INTO STRICT v_outcomes
    FROM pg_catalog.pg_constraint AS c
    WHERE c.conrelid = 'billing_data.payment_events'::regclass
        AND c.conname = 'payment_events_outcome';
    ALTER TABLE billing_data.payment_events DROP CONSTRAINT payment_events_outcome;
    EXECUTE 'ALTER TABLE billing_data.payment_events ADD CONSTRAINT payment_events_outcome '
        || replace(v_outcomes, 'ARRAY[', 'ARRAY[''charge_unreadable''::text, ');
    DROP INDEX billing_data.payment_events_faults;
    EXECUTE replace(v_index, 'ARRAY[', 'ARRAY[''charge_unreadable''::text, ');
END
$$;
