SET LOCAL lock_timeout = '1s';

UPDATE billing_data.batch_requests AS b
SET first_key_id = NULL
WHERE b.first_key_id IS NOT NULL;
