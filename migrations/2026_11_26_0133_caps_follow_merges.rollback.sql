-- Caps stay with the accounts that they count for now.
SET LOCAL lock_timeout = '1s';

ALTER TABLE billing_data.caps DROP COLUMN made_for;
