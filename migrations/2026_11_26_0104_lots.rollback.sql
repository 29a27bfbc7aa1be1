-- Refused while a lot has something left: the release before would let it live for ever.
SET LOCAL lock_timeout = '1s';

DO $$
BEGIN
    IF EXISTS (SELECT FROM billing_data.accounts AS a WHERE a.has_lots) THEN
        RAISE EXCEPTION USING
            MESSAGE = 'some credits of this database end at a time, so it cannot go back to a'
                ' release that knows nothing of that',
            HINT = 'Wait until they are spent, or take them back: billing.list_lots() shows them.';
    END IF;
END
$$;
-- Functions that take rows of these tables go before them.
DROP SCHEMA IF EXISTS billing CASCADE;
DROP FUNCTION IF EXISTS billing_data.end_lot, billing_data.capture_lots;
DROP TABLE billing_data.hold_lots;
DROP TABLE billing_data.lot_allocations;
DROP TABLE billing_data.lots;
ALTER TABLE billing_data.accounts DROP COLUMN has_lots;
