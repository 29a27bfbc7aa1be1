SET LOCAL lock_timeout = '1s';

ALTER TABLE billing_data.settings DROP CONSTRAINT settings_admin_email_domain_small;
