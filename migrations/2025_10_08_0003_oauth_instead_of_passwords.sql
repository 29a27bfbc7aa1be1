-- Staff sign in with Google. That ends the keeping of passwords and second factors, which is
-- Google's work now, and lets the company domain decide who can be staff at all. Two roles proved
-- enough: those who change things and those who look; a super_admin becomes an admin. A staff
-- member outside the domain stops this step, so that a person decides about that row.

-- depends: 2025_10_08_0002_admin_system

SET LOCAL lock_timeout = '5s';

ALTER TABLE public.admin_users
    DROP CONSTRAINT ck_admin_users_role,
    DROP CONSTRAINT ck_admin_users_email_format,
    DROP COLUMN password_hash,
    DROP COLUMN mfa_enabled,
    DROP COLUMN mfa_secret,
    ADD COLUMN google_id varchar(255),
    ADD COLUMN picture_url varchar(512),
    ADD CONSTRAINT uq_admin_users_google_id UNIQUE (google_id);

UPDATE public.admin_users SET role = 'admin' WHERE role = 'super_admin';

ALTER TABLE public.admin_users
    ADD CONSTRAINT ck_admin_users_role CHECK (role IN ('admin', 'viewer')),
    ADD CONSTRAINT ck_admin_users_ciris_domain CHECK (email LIKE '%@ciris.ai');

CREATE INDEX idx_admin_users_google_id ON public.admin_users (google_id);
