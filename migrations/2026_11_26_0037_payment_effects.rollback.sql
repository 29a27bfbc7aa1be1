SET LOCAL lock_timeout = '1s';

DROP SCHEMA IF EXISTS billing CASCADE;

-- Helpers that read, take or give rows of what this rollback and earlier ones drop.
DROP FUNCTION IF EXISTS billing_data.require_credit_of_payment;
DROP FUNCTION IF EXISTS billing_data.effect_of_payment;
DROP FUNCTION IF EXISTS billing_data.is_resolved_without_credit;
DROP FUNCTION IF EXISTS billing_data.provider_of_payment;
DROP FUNCTION IF EXISTS billing_data.is_known_payment;

-- The words that the outcomes had before.
UPDATE billing_data.payment_events AS e
SET outcome = CASE e.outcome WHEN 'resolved' THEN 'unchanged' ELSE 'payment_mismatch' END
WHERE e.outcome IN ('resolved', 'credited_by_hand');
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
        || replace(v_outcomes, '''resolved''::text, ''credited_by_hand''::text, ', '');
    DROP INDEX billing_data.payment_events_faults;
    EXECUTE replace(v_index, '''credited_by_hand''::text, ', '');
END
$$;

DROP TABLE billing_data.payment_warnings;
DROP TABLE billing_data.payment_effects;
