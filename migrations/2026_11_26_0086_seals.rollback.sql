-- Seals are lost. Heads that were exported can no longer be compared with anything.
SET LOCAL lock_timeout = '1s';

DROP SCHEMA IF EXISTS billing CASCADE;
DROP FUNCTION IF EXISTS billing_data.entry_leaves, billing_data.first_broken_entry;
DROP TABLE billing_data.verification_ranges;
DROP TABLE billing_data.verification_runs;
DROP TABLE billing_data.seal_state;
DROP TABLE billing_data.seal_heads;
DROP TABLE billing_data.seals;
