-- Keys without a staff author get the nil uuid, the old service's NOT NULL being what it was.
SET LOCAL lock_timeout = '5s';

DROP SCHEMA IF EXISTS billing CASCADE;

ALTER TABLE billing_data.admin_audit_logs DISABLE TRIGGER USER;
ALTER TABLE billing_data.admin_audit_logs
    DROP COLUMN database_role,
    DROP COLUMN reason;
ALTER TABLE billing_data.admin_audit_logs ENABLE TRIGGER USER;

-- Staff of another domain cannot be kept by a constraint that names one; new rows must obey it.
ALTER TABLE billing_data.admin_users
    ADD CONSTRAINT ck_admin_users_ciris_domain CHECK (email LIKE '%@ciris.ai') NOT VALID;

ALTER TABLE billing_data.api_keys DROP CONSTRAINT api_keys_one_author;
UPDATE billing_data.api_keys AS k
SET created_by = '00000000-0000-0000-0000-000000000000'
WHERE k.created_by IS NULL;

ALTER TABLE billing_data.api_keys
    DROP COLUMN created_by_role,
    DROP COLUMN rotated_to,
    ALTER COLUMN created_by SET NOT NULL,
    RESET (fillfactor);
CREATE INDEX idx_api_keys_created_by ON billing_data.api_keys (created_by);
CREATE INDEX idx_api_keys_prefix_active ON billing_data.api_keys (key_prefix)
    WHERE status = 'active';
CREATE INDEX idx_api_keys_status ON billing_data.api_keys (status);
