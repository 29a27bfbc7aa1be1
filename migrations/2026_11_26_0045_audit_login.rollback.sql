SET LOCAL lock_timeout = '1s';

ALTER TABLE billing_data.admin_audit_logs DROP COLUMN database_login;
