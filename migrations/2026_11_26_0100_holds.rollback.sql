-- Refused while something is held: the release before would spend it.
SET LOCAL lock_timeout = '1s';

DO $$
BEGIN
    IF EXISTS (SELECT FROM billing_data.holds AS h WHERE h.state = 'open') THEN
        RAISE EXCEPTION USING
            MESSAGE = 'credits are held in this database, so it cannot go back to a release that'
                ' knows nothing of holds',
            HINT = 'Release them: SELECT billing.release_hold(h.id, ''going back'')'
                ' FROM billing_data.holds AS h WHERE h.state = ''open'';';
    END IF;
END
$$;
-- Functions that take rows of these tables go before them.
DROP SCHEMA IF EXISTS billing CASCADE;
DROP FUNCTION IF EXISTS
    billing_data.hold_outcome, billing_data.weigh_capture, billing_data.captured_hold,
    billing_data.lock_hold, billing_data.settle_hold;
DROP TABLE billing_data.hold_changes;
DROP TABLE billing_data.holds;
ALTER TABLE billing_data.accounts
    DROP CONSTRAINT accounts_held,
    DROP COLUMN held_credits,
    DROP COLUMN held_free_uses,
    DROP COLUMN due_at;
