SET LOCAL lock_timeout = '5s';

ALTER TABLE billing_data.purchases
    DROP CONSTRAINT purchases_settled,
    DROP CONSTRAINT purchases_credit,
    DROP CONSTRAINT purchases_credit_once;
