-- Schema billing: everything callable. Owned by billing_owner like all that follows.
CREATE SCHEMA IF NOT EXISTS billing AUTHORIZATION billing_owner;
SET LOCAL ROLE billing_owner;
COMMENT ON SCHEMA billing IS
    'CIRIS Billing: everything callable. Start with SELECT * FROM billing.help();';
COMMENT ON SCHEMA billing_data IS
    'CIRIS Billing: tables and helpers, reached through schema billing only.';

-- PostgreSQL lets everybody execute a new function; here nobody may unless granted.
ALTER DEFAULT PRIVILEGES FOR ROLE billing_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- A time-ordered id (UUID version 7, RFC 9562): new index entries go to one place instead of all
-- over the index. PostgreSQL 18 has uuidv7() built in, but 15 to 17 are supported too.
-- Functions like this one, a RETURN in plain SQL, need no pinned search_path: their names were resolved
-- when they were created. Without one the planner can put the expression in place of the call.
CREATE OR REPLACE FUNCTION billing_data.new_id() RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN encode(
    set_bit(
        set_bit(
            overlay(
                uuid_send(gen_random_uuid())
                PLACING substring(
                    int8send((extract(EPOCH FROM clock_timestamp()) * 1000)::bigint) FROM 3
                )
                FROM 1 FOR 6
            ),
            52, 1
        ),
        53, 1
    ),
    'hex'
)::uuid;
COMMENT ON FUNCTION billing_data.new_id IS 'Makes a time-ordered UUID (version 7). Helper.';
