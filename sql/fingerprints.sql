-- Fingerprints of requests. They tell a repeated request from another request under the same
-- idempotency key. Absent fields are left out, so that a field that a later release adds does not
-- change the fingerprints of requests that do not have it.

-- The part of a fingerprint that one field makes. Parts are combined by exclusive or, so an absent
-- field changes nothing. The hash function is that of hash partitioning, which does not change
-- between PostgreSQL versions. It need not be secret: a caller who makes two different requests
-- collide harms only themselves.
CREATE OR REPLACE FUNCTION billing_data.field_hash(p_name text, p_value text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(hashtextextended(p_value, hashtextextended(p_name, 0)), 0);
COMMENT ON FUNCTION billing_data.field_hash IS
    'The part of a request''s fingerprint that one field makes. Helper.';

-- The part that the profile fields make, in requests of every kind.
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
    'The part of a request''s fingerprint that the profile makes. Helper.';

-- The fingerprint of all fields: the version of its format, 2, and the combined parts.
CREATE OR REPLACE FUNCTION billing_data.fingerprint(p_parts bigint) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN decode('02', 'hex') || int8send(p_parts);
COMMENT ON FUNCTION billing_data.fingerprint IS 'The fingerprint of a request. Helper.';

-- Whether the request recorded under a key differs from the request presented now. A recorded
-- fingerprint in another format (releases before the first version wrote 32 bytes), or none, as in
-- rows of the old service, counts as the same request.
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
    'The outcome of a request whose key was used before. Helper.';
