-- The table is built anew rather than altered: columns that come back by ALTER TABLE would stand at
-- its end, and this must be the table of step 0002. Grants made on it by hand have to be given
-- again.
--
-- Passwords and second factors are gone for good. Everyone gets the hash '!', which no password
-- has, so each password must be set again before its owner can sign in. Who was a super_admin stays
-- an admin; google_id and picture_url are lost.

SET LOCAL lock_timeout = '5s';

LOCK TABLE public.admin_users IN ACCESS EXCLUSIVE MODE;

CREATE TEMPORARY TABLE admin_users_kept ON COMMIT DROP AS
SELECT a.id, a.email, a.full_name, a.role, a.is_active, a.created_at, a.last_login_at
FROM public.admin_users AS a;

DROP TABLE public.admin_users;

CREATE TABLE public.admin_users (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    email varchar(255) NOT NULL UNIQUE,
    password_hash text NOT NULL,
    full_name varchar(255) NOT NULL,
    role varchar(20) NOT NULL DEFAULT 'viewer',
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_login_at timestamptz,
    mfa_enabled boolean NOT NULL DEFAULT false,
    mfa_secret text,
    CONSTRAINT ck_admin_users_role CHECK (role IN ('super_admin', 'admin', 'viewer')),
    CONSTRAINT ck_admin_users_email_format
        CHECK (email ~* '^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}$')
);

INSERT INTO public.admin_users
    (id, email, password_hash, full_name, role, is_active, created_at, last_login_at)
SELECT k.id, k.email, '!', k.full_name, k.role, k.is_active, k.created_at, k.last_login_at
FROM pg_temp.admin_users_kept AS k;

CREATE INDEX idx_admin_users_email ON public.admin_users (email);
CREATE INDEX idx_admin_users_role ON public.admin_users (role);
