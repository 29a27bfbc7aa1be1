-- What was erased stays erased.
SET LOCAL lock_timeout = '1s';

UPDATE billing_data.payment_warnings AS w
SET kind = 'credited_twice'
WHERE w.kind = 'paid_after_erasure';
ALTER TABLE billing_data.payment_warnings
    DROP CONSTRAINT payment_warnings_kind,
    ADD CONSTRAINT payment_warnings_kind CHECK (kind IN ('fraud_warning', 'credited_twice'));
DROP TRIGGER IF EXISTS admin_audit_logs_append_only ON billing_data.admin_audit_logs;
DROP TRIGGER IF EXISTS admin_audit_logs_erased_only ON billing_data.admin_audit_logs;
DROP TABLE billing_data.erased_audit_logs;
DROP TABLE billing_data.erased_accounts;
