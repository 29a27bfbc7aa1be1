SET LOCAL lock_timeout = '5s';

DROP SCHEMA IF EXISTS billing CASCADE;
DROP TABLE billing_data.batch_requests;
