SET LOCAL lock_timeout = '1s';

DROP INDEX billing_data.batch_requests_first_key;
ALTER TABLE billing_data.batch_requests
    DROP COLUMN batch_fingerprint,
    DROP COLUMN first_key_id;
DROP INDEX billing_data.api_keys_rotated_to;
