SET LOCAL lock_timeout = '1s';

ALTER TABLE billing_data.webhook_endpoints DROP COLUMN problem;
