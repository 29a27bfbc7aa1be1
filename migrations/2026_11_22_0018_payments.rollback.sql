SET LOCAL lock_timeout = '5s';

DROP SCHEMA IF EXISTS billing CASCADE;
DROP TABLE billing_data.payment_events;
DROP TABLE billing_data.purchases;
