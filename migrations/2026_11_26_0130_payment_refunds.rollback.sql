SET LOCAL lock_timeout = '1s';

DROP SCHEMA IF EXISTS billing CASCADE;

DROP TABLE billing_data.payment_refunds;
