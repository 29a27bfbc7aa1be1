-- The login behind every row of the audit log, beside whom the row names. Rows from before have
-- none: the default is set apart, so that it does not fill them with the login of who migrates.
-- What a server of the release before writes meanwhile has it too.
-- depends: 2026_11_26_0044_batch_requests_first_key
SET LOCAL lock_timeout = '1s';

ALTER TABLE billing_data.admin_audit_logs
    ADD COLUMN database_login text,
    ALTER COLUMN database_login SET DEFAULT session_user;
