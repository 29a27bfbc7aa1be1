-- No text without an end enters a row. The functions refuse it (sql/limits.sql says how long a
-- field may be); these constraints are the net below them. Rows that are already there may be
-- longer, so the next step looks at them. A row that will be changed again must fit: what was
-- longer in a description of a key is cut, and so is a resolution, which the audit log has in full.
-- depends: 2026_11_26_0028_locks
SET LOCAL lock_timeout = '1s';

UPDATE billing_data.api_keys AS k
SET description = left(k.description, 1000)
WHERE length(k.description) > 1000;
UPDATE billing_data.payment_events AS e
SET resolution = left(e.resolution, 500)
WHERE length(e.resolution) > 500;
UPDATE billing_data.payment_returns AS r
SET resolution = left(r.resolution, 500)
WHERE length(r.resolution) > 500;

ALTER TABLE billing_data.admin_audit_logs
    ADD CONSTRAINT admin_audit_logs_reason CHECK (length(reason) <= 1000) NOT VALID,
    ADD CONSTRAINT admin_audit_logs_user_agent CHECK (length(user_agent) <= 500) NOT VALID,
    ADD CONSTRAINT admin_audit_logs_changes
        CHECK (octet_length(changes::text) <= 1048576) NOT VALID;
ALTER TABLE billing_data.api_keys
    ADD CONSTRAINT api_keys_description CHECK (length(description) <= 1000) NOT VALID,
    ADD CONSTRAINT api_keys_key_hash_length CHECK (length(key_hash) <= 255) NOT VALID,
    ADD CONSTRAINT api_keys_permissions CHECK (cardinality(permissions) <= 50) NOT VALID;
ALTER TABLE billing_data.payment_events
    ADD CONSTRAINT payment_events_payload
        CHECK (octet_length(payload::text) <= 4194304) NOT VALID,
    ADD CONSTRAINT payment_events_resolution CHECK (length(resolution) <= 500) NOT VALID;
ALTER TABLE billing_data.payment_returns
    ADD CONSTRAINT payment_returns_resolution CHECK (length(resolution) <= 500) NOT VALID;
ALTER TABLE billing_data.purchases
    ADD CONSTRAINT purchases_payment_status CHECK (length(payment_status) <= 255) NOT VALID;
ALTER TABLE billing_data.provider_configs
    ADD CONSTRAINT provider_configs_config_data
        CHECK (octet_length(config_data::text) <= 262144) NOT VALID;
ALTER TABLE billing_data.settings
    ADD CONSTRAINT settings_admin_email_domain CHECK (length(admin_email_domain) <= 255) NOT VALID;
ALTER TABLE billing_data.admin_sessions
    ADD CONSTRAINT admin_sessions_hash CHECK (length(session_hash) = 32) NOT VALID;
ALTER TABLE billing_data.sign_in_tickets
    ADD CONSTRAINT sign_in_tickets_hash CHECK (length(ticket_hash) = 32) NOT VALID;
-- Last, since charges wait for these two.
ALTER TABLE billing_data.charges
    ADD CONSTRAINT charges_description CHECK (length(description) <= 1000) NOT VALID;
ALTER TABLE billing_data.credits
    ADD CONSTRAINT credits_description CHECK (length(description) <= 1000) NOT VALID;
