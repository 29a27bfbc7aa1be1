-- Refused while grants are to come: the release before would not give them.
SET LOCAL lock_timeout = '1s';

DO $$
BEGIN
    IF EXISTS (SELECT FROM billing_data.grant_schedules AS g WHERE g.next_at IS NOT NULL) THEN
        RAISE EXCEPTION USING
            MESSAGE = 'credits are to be given at a time in this database, so it cannot go back to'
                ' a release that knows nothing of that',
            HINT = 'End the schedules: SELECT billing.end_grant_schedule(g.id, ''going back'')'
                ' FROM billing_data.grant_schedules AS g WHERE g.next_at IS NOT NULL;';
    END IF;
END
$$;
-- Functions that take rows of these tables go before them.
DROP SCHEMA IF EXISTS billing CASCADE;
DROP FUNCTION IF EXISTS
    billing_data.due_grants, billing_data.make_grants, billing_data.find_schedule,
    billing_data.lock_schedule;
DROP TABLE billing_data.scheduled_grants;
DROP TABLE billing_data.grant_schedules;
