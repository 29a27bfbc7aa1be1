-- Keys made in psql or on the command line have no staff member behind them: the database role is
-- their author. A rotated key points at its successor; its grace end is simply its expires_at.
-- Whose mail domain staff come from is a setting, no longer a constant in a constraint.
-- depends: 2026_11_22_0015_credit_checks_by_month
SET LOCAL lock_timeout = '5s';

ALTER TABLE billing_data.api_keys
    ALTER COLUMN created_by DROP NOT NULL,
    ADD COLUMN created_by_role text,
    ADD COLUMN rotated_to uuid,
    ADD CONSTRAINT api_keys_one_author CHECK (num_nonnulls(created_by, created_by_role) = 1),
    SET (fillfactor = 70);
DROP INDEX billing_data.idx_api_keys_created_by;
DROP INDEX billing_data.idx_api_keys_prefix_active;
DROP INDEX billing_data.idx_api_keys_status;

ALTER TABLE billing_data.admin_users DROP CONSTRAINT ck_admin_users_ciris_domain;

ALTER TABLE billing_data.admin_audit_logs
    ADD COLUMN database_role text,
    ADD COLUMN reason text;
