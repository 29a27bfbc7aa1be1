SET LOCAL lock_timeout = '1s';

-- Functions of the release that knows this outcome; `migrate` of the release before brings its own.
DROP SCHEMA IF EXISTS billing CASCADE;

-- It knows one webhook secret, which is not in an array.
UPDATE billing_data.provider_configs AS c
SET config_data = jsonb_set(
    c.config_data, '{webhook_secret}', c.config_data -> 'webhook_secret' -> 0
)
WHERE jsonb_typeof(c.config_data -> 'webhook_secret') = 'array';
UPDATE billing_data.payment_events AS e
SET outcome = 'payment_unknown'
WHERE e.outcome = 'charge_unreadable';
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
        || replace(v_outcomes, '''charge_unreadable''::text, ', '');
    DROP INDEX billing_data.payment_events_faults;
    EXECUTE replace(v_index, '''charge_unreadable''::text, ', '');
END
$$;
