-- The greatest length of each input field, in characters: the one list of them. The web tier reads
-- this file too (server/limits.py). The tables' constraints are a second line of defence.
CREATE OR REPLACE FUNCTION billing_data.most(p_field text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE p_field
    WHEN 'config_data' THEN 65536  -- a provider's settings, with encrypted secrets, as JSON
    WHEN 'consent_text' THEN 1000
    WHEN 'currency' THEN 3
    WHEN 'description' THEN 1000
    WHEN 'items' THEN 50000  -- the items of an array
    WHEN 'marketing_opt_in_source' THEN 50
    WHEN 'note' THEN 2000
    WHEN 'payload' THEN 2097152  -- an event of the payment provider, as JSON
    WHEN 'permissions of a key' THEN 50
    WHEN 'picture_url' THEN 512
    WHEN 'plan_name' THEN 100
    WHEN 'reason' THEN 500
    WHEN 'return_id' THEN 200
    WHEN 'secret' THEN 1000  -- a secret, encrypted, as JSON
    WHEN 'url' THEN 2000
    WHEN 'user_agent' THEN 500
    WHEN 'user_role' THEN 50
    ELSE 255
END;
COMMENT ON FUNCTION billing_data.most IS 'The greatest length of a field. Helper.';

-- The greatest amount and the greatest balance: what bigint holds.
CREATE OR REPLACE FUNCTION billing_data.max_amount() RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 9223372036854775807;
COMMENT ON FUNCTION billing_data.max_amount IS 'The greatest amount. Helper.';
