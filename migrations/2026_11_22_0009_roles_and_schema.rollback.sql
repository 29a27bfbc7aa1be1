SET LOCAL lock_timeout = '5s';

-- The functions stand on the tables; the next deploy of a newer release brings them back.
DROP SCHEMA IF EXISTS billing CASCADE;

ALTER TABLE billing_data.accounts OWNER TO CURRENT_USER;
ALTER TABLE billing_data.charges OWNER TO CURRENT_USER;
ALTER TABLE billing_data.credits OWNER TO CURRENT_USER;
ALTER TABLE billing_data.credit_checks OWNER TO CURRENT_USER;
ALTER TABLE billing_data.api_keys OWNER TO CURRENT_USER;
ALTER TABLE billing_data.admin_users OWNER TO CURRENT_USER;
ALTER TABLE billing_data.provider_configs OWNER TO CURRENT_USER;
ALTER TABLE billing_data.admin_audit_logs OWNER TO CURRENT_USER;

ALTER TABLE billing_data.accounts SET SCHEMA public;
ALTER TABLE billing_data.charges SET SCHEMA public;
ALTER TABLE billing_data.credits SET SCHEMA public;
ALTER TABLE billing_data.credit_checks SET SCHEMA public;
ALTER TABLE billing_data.api_keys SET SCHEMA public;
ALTER TABLE billing_data.admin_users SET SCHEMA public;
ALTER TABLE billing_data.provider_configs SET SCHEMA public;
ALTER TABLE billing_data.admin_audit_logs SET SCHEMA public;

-- CASCADE takes the helper functions and with them the append-only triggers.
DROP SCHEMA billing_data CASCADE;
