-- A settled purchase has exactly the payment and the credit that settled it.
-- depends: 2026_11_22_0021_purchase_backfill
SET LOCAL lock_timeout = '5s';

ALTER TABLE billing_data.purchases
    ADD CONSTRAINT purchases_settled CHECK (
        num_nonnulls(settled_at, credit_id) = 0
        OR num_nonnulls(settled_at, credit_id, payment_id) = 3
    ),
    ADD CONSTRAINT purchases_credit FOREIGN KEY (credit_id)
        REFERENCES billing_data.credits (id) ON DELETE RESTRICT,
    ADD CONSTRAINT purchases_credit_once UNIQUE (credit_id);
