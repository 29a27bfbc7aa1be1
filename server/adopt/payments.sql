-- Payments of which the old service kept a payment intent. Steps 0021 and 0038 find in its credits
-- afterwards what else it sold.
-- stage: carrying over payment intents; needs stripe_payment_intents
-- Intents that were credited become purchases at the price that was paid.
INSERT INTO billing_data.purchases (
    account_id, id, provider, payment_id, uses, price_minor, currency, customer_email,
    database_role, created_at, settled_at, credit_id
)
SELECT DISTINCT ON (i.payment_intent_id)
    c.account_id, c.id, 'stripe', i.payment_intent_id, c.amount_minor, i.amount_minor,
    upper(i.currency), a.customer_email, 'legacy', i.created_at, c.created_at, c.id
FROM legacy_service.stripe_payment_intents AS i
LEFT JOIN adopt_merged AS m ON m.id = i.account_id
INNER JOIN billing_data.accounts AS a ON a.id = coalesce(m.account_id, i.account_id)
INNER JOIN billing_data.credits AS c
    ON c.account_id = a.id AND c.idempotency_key = 'stripe-' || i.payment_intent_id
WHERE starts_with(i.payment_intent_id, 'pi_')
    AND c.transaction_type = 'purchase'
    AND c.external_transaction_id = i.payment_intent_id
    AND i.amount_minor > 0
ORDER BY i.payment_intent_id, c.created_at, c.id;
-- Intents that were not credited become purchases that wait for their payment.
INSERT INTO billing_data.purchases (
    account_id, id, provider, payment_id, uses, price_minor, currency, customer_email,
    database_role, created_at
)
SELECT
    a.id, gen_random_uuid(), 'stripe', i.payment_intent_id, i.uses_purchased, i.amount_minor,
    upper(i.currency), a.customer_email, 'legacy', i.created_at
FROM legacy_service.stripe_payment_intents AS i
LEFT JOIN adopt_merged AS m ON m.id = i.account_id
INNER JOIN billing_data.accounts AS a ON a.id = coalesce(m.account_id, i.account_id)
WHERE i.status <> 'credited' AND i.uses_purchased > 0 AND i.amount_minor > 0
    AND NOT EXISTS (
        SELECT FROM billing_data.credits AS c
        WHERE c.external_transaction_id = i.payment_intent_id
    )
ON CONFLICT DO NOTHING;
-- Intents that have become purchases need not be kept.
DELETE FROM legacy_service.stripe_payment_intents AS i
USING billing_data.purchases AS p
WHERE p.provider = 'stripe' AND p.payment_id = i.payment_intent_id;
