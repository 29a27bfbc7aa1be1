-- Rotate and revoke an API key
--
-- A key is kept as an Argon2id hash, which PostgreSQL cannot make, and no secret enters the database: the command makes both, under
-- the login of `DATABASE_URL`, and shows the secret once. Revoking needs no secret, so a function does it.
\! ciris-billing keys create scout | grep -E '^(Permissions|Expires)'
SELECT api_key_id AS key_id FROM billing.list_api_keys(p_status => 'active') AS k
WHERE k.name = 'scout' \gset
\setenv KEY_ID :key_id
\! ciris-billing keys rotate "$KEY_ID" --reason 'yearly rotation' | grep -c 'New key'
SELECT name, status, expires_at < now() + interval '25 hours' AS ends_in_a_day
FROM billing.list_api_keys() WHERE name = 'scout';
SELECT name, status FROM billing.revoke_api_key(p_api_key_id => :'key_id', p_reason => 'leaked');
