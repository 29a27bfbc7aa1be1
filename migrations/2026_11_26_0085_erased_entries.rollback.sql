-- Seals of erased entries can no longer be computed afterwards; the entries stay erased.
SET LOCAL lock_timeout = '1s';

DROP TRIGGER IF EXISTS charges_append_only ON billing_data.charges;
DROP TRIGGER IF EXISTS charges_erased_only ON billing_data.charges;
DROP TRIGGER IF EXISTS credits_append_only ON billing_data.credits;
DROP TRIGGER IF EXISTS credits_erased_only ON billing_data.credits;
DROP FUNCTION IF EXISTS billing_data.charge_leaf;
DROP FUNCTION IF EXISTS billing_data.charge_personal_digest;
DROP FUNCTION IF EXISTS billing_data.credit_leaf;
DROP FUNCTION IF EXISTS billing_data.credit_personal_digest;
DROP TABLE billing_data.erased_entries;
DROP TABLE billing_data.seal_salts;
