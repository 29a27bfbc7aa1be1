SET LOCAL lock_timeout = '5s';

DROP SCHEMA IF EXISTS billing CASCADE;

-- Helpers that take rows of what earlier rollbacks drop.
DROP FUNCTION IF EXISTS billing_data.apply_return;
DROP FUNCTION IF EXISTS billing_data.purchase_of_payment;
DROP FUNCTION IF EXISTS billing_data.purchase_status;
DROP TABLE billing_data.payment_returns;

ALTER TABLE billing_data.payment_events
    DROP CONSTRAINT payment_events_outcome,
    DROP COLUMN account_id,
    DROP COLUMN livemode,
    DROP COLUMN deliveries,
    DROP COLUMN last_received_at,
    DROP COLUMN resolved_at,
    DROP COLUMN resolution;

-- What a provider's word wrote keeps a writer; what took credits back stays, as history does, so
-- the old rule comes back with room for it.
ALTER TABLE billing_data.credits
    DROP CONSTRAINT credits_one_writer,
    DROP CONSTRAINT credits_amount,
    DROP CONSTRAINT credits_balance_after_non_negative;
ALTER TABLE billing_data.credits DISABLE TRIGGER USER;
UPDATE billing_data.credits AS c
SET database_role = c.payment_provider
WHERE c.payment_provider IS NOT NULL;
ALTER TABLE billing_data.credits ENABLE TRIGGER USER;
ALTER TABLE billing_data.credits
    DROP COLUMN payment_provider,
    ADD CONSTRAINT ck_credit_amount_positive
        CHECK (amount_minor > 0 OR transaction_type IN ('refund', 'adjustment')),
    ADD CONSTRAINT credits_one_writer
        CHECK (num_nonnulls(api_key_id, admin_user_id, database_role) = 1);

DROP INDEX billing_data.purchases_idempotency;
DROP INDEX billing_data.purchases_payment_id;
CREATE INDEX purchases_payment_id ON billing_data.purchases (provider, payment_id)
    WHERE payment_id IS NOT NULL;
UPDATE billing_data.purchases AS p SET customer_email = '' WHERE p.customer_email IS NULL;
ALTER TABLE billing_data.purchases
    ADD COLUMN status text NOT NULL DEFAULT 'offered',
    DROP COLUMN payment_status,
    DROP COLUMN idempotency_key,
    DROP COLUMN request_fingerprint,
    DROP COLUMN credit_id,
    ALTER COLUMN customer_email SET NOT NULL;
UPDATE billing_data.purchases AS p
SET status = CASE
    WHEN p.settled_at IS NOT NULL THEN 'settled'
    WHEN p.payment_id IS NOT NULL THEN 'pending'
    ELSE 'offered'
END;
ALTER TABLE billing_data.purchases
    ADD CONSTRAINT purchases_status CHECK (status IN ('offered', 'pending', 'settled', 'failed')),
    ADD CONSTRAINT purchases_settled CHECK ((status = 'settled') = (settled_at IS NOT NULL));
