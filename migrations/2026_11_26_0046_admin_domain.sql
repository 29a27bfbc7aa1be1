-- The domain of staff's addresses in small letters, as identity providers name it: one with
-- capitals let nobody in.
-- depends: 2026_11_26_0045_audit_login
SET LOCAL lock_timeout = '1s';

UPDATE billing_data.settings AS s
SET admin_email_domain = lower(s.admin_email_domain)
WHERE s.admin_email_domain <> lower(s.admin_email_domain);
ALTER TABLE billing_data.settings
    ADD CONSTRAINT settings_admin_email_domain_small
    CHECK (admin_email_domain = lower(admin_email_domain));
