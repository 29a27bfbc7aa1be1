SET LOCAL lock_timeout = '1s';

-- Functions of the release that knows these columns; `migrate` of the release before brings its
-- own.
DROP SCHEMA IF EXISTS billing CASCADE;

-- Helpers that take rows of what earlier rollbacks drop.
DROP FUNCTION IF EXISTS billing_data.is_news_of_return;
DROP FUNCTION IF EXISTS billing_data.book_return;
DROP FUNCTION IF EXISTS billing_data.spread_returns;
DROP FUNCTION IF EXISTS billing_data.return_money;
DROP FUNCTION IF EXISTS billing_data.told_returns;

UPDATE billing_data.payment_events AS e
SET outcome = 'metadata_missing'
WHERE e.outcome = 'not_sold_here';
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
        || replace(v_outcomes, '''not_sold_here''::text, ', '');
    DROP INDEX billing_data.payment_events_faults;
    EXECUTE replace(v_index, '''not_sold_here''::text, ', '');
END
$$;

DROP TABLE billing_data.payment_return_credits;
ALTER TABLE billing_data.payment_returns
    DROP COLUMN away_minor,
    DROP COLUMN state,
    DROP COLUMN transactions,
    DROP COLUMN as_of;
