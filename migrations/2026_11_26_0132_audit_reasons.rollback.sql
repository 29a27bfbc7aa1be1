SET LOCAL lock_timeout = '1s';

DROP INDEX billing_data.admin_audit_logs_reason;
