SET LOCAL lock_timeout = '1s';

DROP SCHEMA IF EXISTS billing CASCADE;

DROP INDEX billing_data.payment_returns_created_at;
DROP INDEX billing_data.purchases_settled_at;
DROP TABLE billing_data.user_pauses;
