SET LOCAL lock_timeout = '1s';

DROP SCHEMA IF EXISTS billing CASCADE;

-- Takes a row of what this rollback changes.
DROP FUNCTION IF EXISTS billing_data.key_fault;

ALTER TABLE billing_data.api_keys DROP COLUMN credential;
