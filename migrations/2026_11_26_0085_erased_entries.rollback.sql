-- Seals of erased entries can no longer be computed afterwards; the entries stay erased.
SET LOCAL lock_timeout = '1s';

DROP TRIGGER IF EXISTS charges_append_only ON billing_data.charges;
DROP TRIGGER IF EXISTS charges_erased_only ON billing_data.charges;
DROP TRIGGER IF EXISTS credits_append_only ON billing_data.credits;
DROP TRIGGER IF EXISTS credits_erased_only ON billing_data.credits;
DROP TABLE billing_data.erased_entries;
DROP TABLE billing_data.seal_salts;
