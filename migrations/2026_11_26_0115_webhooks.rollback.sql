-- What was not delivered is lost, and so are the endpoints.
SET LOCAL lock_timeout = '1s';

DROP SCHEMA IF EXISTS billing CASCADE;
DROP FUNCTION IF EXISTS
    billing_data.delivery_payload, billing_data.lock_endpoint, billing_data.shown_endpoint,
    billing_data.signing_secrets;
DROP TABLE billing_data.outbox;
DROP TABLE billing_data.webhook_endpoints;
ALTER TABLE billing_data.settings DROP COLUMN low_balance;
