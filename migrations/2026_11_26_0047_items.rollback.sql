SET LOCAL lock_timeout = '1s';

DROP SCHEMA IF EXISTS billing CASCADE;
-- Their rows are of what earlier steps take back.
DROP FUNCTION IF EXISTS
    billing_data.item_fault, billing_data.may_write, billing_data.early_outcome,
    billing_data.changes_profile;

COMMENT ON COLUMN billing_data.charges.request_fingerprint IS NULL;
