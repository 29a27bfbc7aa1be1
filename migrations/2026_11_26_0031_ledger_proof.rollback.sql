-- Digests are lost: entries written with one count as entries of before afterwards.
SET LOCAL lock_timeout = '1s';

DROP SCHEMA IF EXISTS billing CASCADE;

DROP TRIGGER IF EXISTS accounts_fixed ON billing_data.accounts;
DROP FUNCTION IF EXISTS billing_data.charge_digest;
DROP FUNCTION IF EXISTS billing_data.credit_digest;
DROP TABLE billing_data.ledger_openings;
ALTER TABLE billing_data.settings DROP COLUMN digests_since;
ALTER TABLE billing_data.credits DROP COLUMN digest;
ALTER TABLE billing_data.charges DROP COLUMN digest;
ALTER TABLE billing_data.accounts DROP COLUMN free_uses_granted;
