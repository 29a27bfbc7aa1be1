SET LOCAL lock_timeout = '1s';

ALTER TABLE billing_data.sign_in_tickets DROP CONSTRAINT sign_in_tickets_hash;
ALTER TABLE billing_data.admin_sessions DROP CONSTRAINT admin_sessions_hash;
ALTER TABLE billing_data.settings DROP CONSTRAINT settings_admin_email_domain;
ALTER TABLE billing_data.provider_configs DROP CONSTRAINT provider_configs_config_data;
ALTER TABLE billing_data.purchases DROP CONSTRAINT purchases_payment_status;
ALTER TABLE billing_data.payment_returns DROP CONSTRAINT payment_returns_resolution;
ALTER TABLE billing_data.payment_events
    DROP CONSTRAINT payment_events_payload,
    DROP CONSTRAINT payment_events_resolution;
ALTER TABLE billing_data.api_keys
    DROP CONSTRAINT api_keys_description,
    DROP CONSTRAINT api_keys_key_hash_length,
    DROP CONSTRAINT api_keys_permissions;
ALTER TABLE billing_data.admin_audit_logs
    DROP CONSTRAINT admin_audit_logs_reason,
    DROP CONSTRAINT admin_audit_logs_user_agent,
    DROP CONSTRAINT admin_audit_logs_changes;
ALTER TABLE billing_data.credits DROP CONSTRAINT credits_description;
ALTER TABLE billing_data.charges DROP CONSTRAINT charges_description;
