-- One call of billing.maintenance works at a time.
-- depends: 2026_11_26_0087_erased_accounts
SET LOCAL lock_timeout = '1s';
INSERT INTO billing_data.locks (name) VALUES ('maintenance') ON CONFLICT DO NOTHING;
