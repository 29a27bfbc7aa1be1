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
-- With the helpers that take their rows.
DROP SCHEMA IF EXISTS billing CASCADE;
DROP TABLE billing_data.hold_changes;
DROP TABLE billing_data.holds CASCADE;
ALTER TABLE billing_data.accounts
    DROP CONSTRAINT accounts_held,
    DROP COLUMN held_credits,
    DROP COLUMN held_free_uses,
    DROP COLUMN due_at;
