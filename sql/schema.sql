-- Schema billing holds everything callable. billing_owner owns it and everything that follows.
CREATE SCHEMA IF NOT EXISTS billing AUTHORIZATION billing_owner;
SET LOCAL ROLE billing_owner;
COMMENT ON SCHEMA billing IS
    'CIRIS Billing: everything callable. Start with SELECT * FROM billing.help();';
COMMENT ON SCHEMA billing_data IS
    'CIRIS Billing: tables and helpers, reached through schema billing only.';

-- PostgreSQL lets PUBLIC execute every new function. Here a function must be granted first.
ALTER DEFAULT PRIVILEGES FOR ROLE billing_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- A time-ordered id (UUID version 7, RFC 9562). New index entries go to one place instead of all
-- over the index. For PostgreSQL 15 to 17 it is composed here; PostgreSQL 18 has a built-in
-- function.
-- A function like this one, a RETURN in plain SQL, needs no pinned search_path: its names were
-- resolved when it was created. Without a pinned path the planner can inline the expression.
CREATE OR REPLACE FUNCTION billing_data.new_id() RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN encode(
    set_bit(
        set_bit(
            overlay(  -- noqa
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
DO $built_in$
BEGIN
    IF to_regprocedure('pg_catalog.uuidv7()') IS NOT NULL THEN
        CREATE OR REPLACE FUNCTION billing_data.new_id() RETURNS uuid
        LANGUAGE sql VOLATILE PARALLEL SAFE
        RETURN uuidv7();
    END IF;
END
$built_in$;
COMMENT ON FUNCTION billing_data.new_id IS 'Makes a time-ordered UUID (version 7). Helper.';

-- The clock of every rule that goes by time, such as the end of a hold. A test that moves the clock
-- replaces this function.
CREATE OR REPLACE FUNCTION billing_data.clock() RETURNS timestamptz
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN clock_timestamp();
COMMENT ON FUNCTION billing_data.clock IS 'The time that rules go by. Helper.';

-- A moment as programs read it, to the second, whatever the session's time zone.
CREATE OR REPLACE FUNCTION billing_data.instant_text(p_at timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN to_char(p_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"');
COMMENT ON FUNCTION billing_data.instant_text IS 'A moment as programs read it. Helper.';

-- The ids of one list of rows are made of one new id's first 12 bytes and a number for each row.
-- Fresh randomness for each row would be most of the cost of an id.
CREATE OR REPLACE FUNCTION billing_data.id_seed() RETURNS bytea
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN substring(uuid_send(billing_data.new_id()) FOR 12);
COMMENT ON FUNCTION billing_data.id_seed IS
    'The common beginning of the ids of a list of rows. Helper.';

CREATE OR REPLACE FUNCTION billing_data.nth_id(p_seed bytea, p_place integer) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN encode(p_seed || int4send(p_place), 'hex')::uuid;
COMMENT ON FUNCTION billing_data.nth_id IS 'The id of a row of a list. Helper.';
