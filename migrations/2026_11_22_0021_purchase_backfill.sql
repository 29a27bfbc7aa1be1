-- What the old service sold is known by its credits alone: each becomes a settled purchase, so that
-- a redelivered event finds it and a refund knows what to take back. The price stands in the
-- credit's description; one that was written otherwise gets the present price.
-- depends: 2026_11_22_0020_purchase_columns
SET LOCAL lock_timeout = '5s';

-- Rolled back and applied again, the steps meet purchases that were settled before.
UPDATE billing_data.purchases AS p
SET credit_id = c.id
FROM billing_data.credits AS c
WHERE p.settled_at IS NOT NULL
    AND p.credit_id IS NULL
    AND c.account_id = p.account_id
    AND c.idempotency_key = p.provider || '-' || p.payment_id;

INSERT INTO billing_data.purchases (
    account_id, id, provider, payment_id, uses, price_minor, currency, database_role, created_at,
    settled_at, credit_id
)
SELECT
    c.account_id, c.id, 'stripe', c.external_transaction_id, c.amount_minor,
    coalesce(
        nullif(replace(substring(c.description FROM '\$(\d{1,12}\.\d\d)'), '.', '')::bigint, 0),
        s.pack_price_minor
    ),
    'USD', 'legacy', c.created_at, c.created_at, c.id
FROM billing_data.credits AS c
CROSS JOIN billing_data.settings AS s
WHERE c.transaction_type = 'purchase'
    AND starts_with(c.external_transaction_id, 'pi_')
    AND c.idempotency_key = 'stripe-' || c.external_transaction_id
    AND c.amount_minor > 0
ON CONFLICT DO NOTHING;
