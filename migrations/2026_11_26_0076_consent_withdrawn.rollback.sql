-- The function is made anew, as it was, when the release before loads its definitions.
SET LOCAL lock_timeout = '1s';

DROP FUNCTION IF EXISTS billing_data.changes_profile;
ALTER TABLE billing_data.accounts DROP COLUMN marketing_withdrawn_at;
