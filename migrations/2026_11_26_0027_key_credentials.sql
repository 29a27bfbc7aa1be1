-- What an agent's call names its API key by: the first 128 bits of the key's SHA-256, which only
-- somebody who has seen the key can name. A key that has none, made by a release before, acts by
-- its id until it is rotated: its SHA-256 is not known here.
-- depends: 2026_11_26_0026_staff_sessions_act
SET LOCAL lock_timeout = '1s';

ALTER TABLE billing_data.api_keys ADD COLUMN credential uuid;
CREATE UNIQUE INDEX api_keys_acting ON billing_data.api_keys (coalesce(credential, id));
