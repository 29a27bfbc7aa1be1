-- A staff member's session or bearer token is what acts, no longer an id that anybody could name:
-- tokens are rows of admin_sessions too, kept by their hash like a browser's session. Whoever is
-- given the role admin must sign in within a time that an administrator or DBA opened
-- (invited_until); from then on the address belongs to that Google account.
-- depends: 2026_11_22_0025_console_indexes
SET LOCAL lock_timeout = '1s';

CREATE TYPE billing_data.actor AS (
    api_key_id uuid,
    admin_user_id uuid,
    database_role text
);
ALTER TYPE billing_data.actor OWNER TO billing_owner;
COMMENT ON TYPE billing_data.actor IS 'Who makes a call; exactly one of the three is set.';

ALTER TABLE billing_data.admin_sessions
    ADD COLUMN kind text NOT NULL DEFAULT 'browser',
    ADD CONSTRAINT admin_sessions_kind CHECK (kind IN ('browser', 'token'));

ALTER TABLE billing_data.admin_users ADD COLUMN invited_until timestamptz;
