-- What payments have come to already: settled purchases; credits made by hand that name a payment,
-- the first of each, the others listed for a person; payments whose events a person has resolved.
-- depends: 2026_11_26_0037_payment_effects
SET LOCAL lock_timeout = '1s';

INSERT INTO billing_data.payment_effects (
    provider, payment_id, effect, account_id, credit_id, created_at
)
SELECT p.provider, p.payment_id, 'credited', p.account_id, p.credit_id, p.settled_at
FROM billing_data.purchases AS p
WHERE p.settled_at IS NOT NULL
ON CONFLICT DO NOTHING;

WITH named AS (
    SELECT
        coalesce(p.provider, 'stripe') AS provider, c.external_transaction_id AS payment_id,
        c.account_id, c.id, c.created_at
    FROM billing_data.credits AS c
    LEFT JOIN billing_data.purchases AS p ON p.payment_id = c.external_transaction_id
    WHERE c.amount_minor > 0
        AND (p.payment_id IS NOT NULL OR starts_with(c.external_transaction_id, 'pi_'))
),
made AS (
    INSERT INTO billing_data.payment_effects (
        provider, payment_id, effect, account_id, credit_id, created_at
    )
    SELECT DISTINCT ON (n.provider, n.payment_id)
        n.provider, n.payment_id, 'credited', n.account_id, n.id, n.created_at
    FROM named AS n
    ORDER BY n.provider, n.payment_id, n.created_at, n.id
    ON CONFLICT DO NOTHING
    RETURNING credit_id
)
INSERT INTO billing_data.payment_warnings (
    provider, warning_id, kind, payment_id, account_id, created_at
)
SELECT n.provider, n.id::text, 'credited_twice', n.payment_id, n.account_id, n.created_at
FROM named AS n
WHERE NOT EXISTS (SELECT FROM made AS m WHERE m.credit_id = n.id)
    AND NOT EXISTS (
        SELECT FROM billing_data.payment_effects AS e WHERE e.credit_id = n.id
    )
ON CONFLICT DO NOTHING;

INSERT INTO billing_data.payment_effects (
    provider, payment_id, effect, created_at, resolved_at, resolution
)
SELECT DISTINCT ON (e.provider, e.payment_id)
    e.provider, e.payment_id, 'other', e.resolved_at, e.resolved_at,
    coalesce(nullif(left(e.resolution, 500), ''), 'resolved')
FROM billing_data.payment_events AS e
WHERE e.resolved_at IS NOT NULL AND e.payment_id IS NOT NULL AND e.outcome <> 'payment_unknown'
ORDER BY e.provider, e.payment_id, e.resolved_at DESC
ON CONFLICT DO NOTHING;
