-- The batches there are belong to the first of their keys from now on. Where one idempotency key
-- was used under several keys of one line, that of the newest batch; the older ones keep their own
-- API key alone, and are still answered to it.
-- depends: 2026_11_26_0043_key_lineage
SET LOCAL lock_timeout = '1s';

WITH RECURSIVE line (id, first_key_id) AS (
    SELECT k.id, k.id
    FROM billing_data.api_keys AS k
    WHERE NOT EXISTS (SELECT FROM billing_data.api_keys AS p WHERE p.rotated_to = k.id)
    UNION ALL
    SELECT k.rotated_to, l.first_key_id
    FROM line AS l
    INNER JOIN billing_data.api_keys AS k ON k.id = l.id
    WHERE k.rotated_to IS NOT NULL
),
newest AS (
    SELECT DISTINCT ON (l.first_key_id, b.idempotency_key)
        b.api_key_id, b.idempotency_key, l.first_key_id
    FROM billing_data.batch_requests AS b
    INNER JOIN line AS l ON l.id = b.api_key_id
    ORDER BY l.first_key_id, b.idempotency_key, b.created_at DESC, b.api_key_id
)
UPDATE billing_data.batch_requests AS b
SET first_key_id = n.first_key_id
FROM newest AS n
WHERE b.api_key_id = n.api_key_id AND b.idempotency_key = n.idempotency_key;
