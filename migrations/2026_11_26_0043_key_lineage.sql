-- A batch's idempotency key belongs to the API key and to all keys it was rotated from or to. A key
-- has one predecessor at most, so such a line of keys has one first key:
-- batch_requests.first_key_id. The list is compared by batch_fingerprint, which, unlike
-- request_fingerprint, is the same under each key. The index is made before there is anything in
-- it: 0044 fills the column.
-- depends: 2026_11_26_0040_users
SET LOCAL lock_timeout = '1s';

CREATE UNIQUE INDEX api_keys_rotated_to ON billing_data.api_keys (rotated_to)
    WHERE rotated_to IS NOT NULL;
ALTER TABLE billing_data.batch_requests
    ADD COLUMN first_key_id uuid,
    ADD COLUMN batch_fingerprint bytea,
    ADD CONSTRAINT batch_requests_batch_fingerprint_length
        CHECK (length(batch_fingerprint) <= 64);
CREATE UNIQUE INDEX batch_requests_first_key
    ON billing_data.batch_requests (first_key_id, idempotency_key)
    WHERE first_key_id IS NOT NULL;
