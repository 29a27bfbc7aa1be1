SET LOCAL lock_timeout = '5s';

DROP SCHEMA IF EXISTS billing CASCADE;

ALTER TABLE billing_data.charges
    DROP COLUMN ledger_version,
    DROP COLUMN paid_with,
    DROP COLUMN free_uses_after,
    DROP COLUMN request_fingerprint,
    DROP COLUMN api_key_id,
    DROP COLUMN admin_user_id,
    DROP COLUMN database_role;

ALTER TABLE billing_data.credits
    DROP COLUMN ledger_version,
    DROP COLUMN request_fingerprint,
    DROP COLUMN api_key_id,
    DROP COLUMN admin_user_id,
    DROP COLUMN database_role;
