SET LOCAL lock_timeout = '1s';

DROP SCHEMA IF EXISTS billing CASCADE;

-- Helpers that take or give what this rollback drops.
DROP FUNCTION IF EXISTS billing_data.authorize;
DROP FUNCTION IF EXISTS billing_data.write_audit;

ALTER TABLE billing_data.admin_users DROP COLUMN invited_until;
DELETE FROM billing_data.admin_sessions AS s WHERE s.kind <> 'browser';
ALTER TABLE billing_data.admin_sessions
    DROP CONSTRAINT admin_sessions_kind,
    DROP COLUMN kind;
DROP TYPE billing_data.actor CASCADE;  -- with the helpers that take it
