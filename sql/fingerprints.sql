-- Fingerprints of requests: by them a repeated request is told from another one under the same
-- idempotency key. Fields that are absent are left out, so that one that a later release adds makes
-- no other request of what was sent before.

-- A field's part of a fingerprint; parts are put together by exclusive or, in which an absent field
-- is nothing. The hash function is that of hash partitioning, which stays what it is over versions.
-- It is no secret and need not be: whoever makes two requests alike deceives nobody but themselves.
CREATE OR REPLACE FUNCTION billing_data.field_hash(p_name text, p_value text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(hashtextextended(p_value, hashtextextended(p_name, 0)), 0);
COMMENT ON FUNCTION billing_data.field_hash IS
    'The part of a request''s fingerprint that a field is. Helper.';

-- The part that the profile is, in requests of every kind.
CREATE OR REPLACE FUNCTION billing_data.profile_hash(
    p_customer_email text,
    p_user_role text,
    p_agent_id text,
    p_marketing_opt_in boolean,
    p_marketing_opt_in_source text
) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN billing_data.field_hash('customer_email', p_customer_email)
    # billing_data.field_hash('user_role', p_user_role)
    # billing_data.field_hash('agent_id', p_agent_id)
    # billing_data.field_hash('marketing_opt_in', nullif(p_marketing_opt_in, false)::text)
    # billing_data.field_hash('marketing_opt_in_source', p_marketing_opt_in_source);
COMMENT ON FUNCTION billing_data.profile_hash IS
    'The part of a request''s fingerprint that the profile is. Helper.';

-- The fingerprint of all fields: the version of its form, 2, and the parts.
CREATE OR REPLACE FUNCTION billing_data.fingerprint(p_parts bigint) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN decode('02', 'hex') || int8send(p_parts);
COMMENT ON FUNCTION billing_data.fingerprint IS 'The fingerprint of a request. Helper.';

-- Whether the request that was recorded under a key is another one than what is presented now. What
-- has a fingerprint of another form (those of releases before the first version have 32 bytes), or
-- none, as rows of the old service, is taken to be the same.
CREATE OR REPLACE FUNCTION billing_data.is_other_request(p_recorded bytea, p_presented bytea)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    p_recorded <> p_presented AND length(p_recorded) = length(p_presented)
    AND get_byte(p_recorded, 0) = get_byte(p_presented, 0)
) IS TRUE;
COMMENT ON FUNCTION billing_data.is_other_request IS
    'Tells a repeated request from another one under the same key. Helper.';

CREATE OR REPLACE FUNCTION billing_data.replay_outcome(p_recorded bytea, p_presented bytea)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN billing_data.is_other_request(p_recorded, p_presented) THEN 'conflict' ELSE 'replayed'
END;
COMMENT ON FUNCTION billing_data.replay_outcome IS
    'What comes of a request whose key was used before. Helper.';
