-- Fingerprints of requests say which form they have: rows from before have 32 bytes and are taken
-- for the same request. What items are made of is in sql/items.sql; this step takes that back.
-- depends: 2026_11_26_0046_admin_domain
SET LOCAL lock_timeout = '1s';
COMMENT ON COLUMN billing_data.charges.request_fingerprint IS
    'What was asked under the idempotency key; the first of 9 bytes is the version of its form.';
