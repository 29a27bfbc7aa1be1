-- Validates the check of the step before, which reads the accounts and holds up nobody's writes.
-- depends: 2026_11_26_0100_holds
SET LOCAL lock_timeout = '1s';

ALTER TABLE billing_data.accounts VALIDATE CONSTRAINT accounts_held;
