-- Until now the service had one trusted caller and no staff. Agents get API keys of their own (kept
-- as a hash, found by prefix, replaceable without a gap), staff get sign-ins with roles, payment
-- providers are set up in the database rather than in each server's environment, and the audit log
-- keeps who changed what. The log grows at its end and is read by time span, hence a BRIN index on
-- created_at.

-- depends: 2025_10_08_0001_usage_tracking

SET LOCAL lock_timeout = '5s';

CREATE TABLE public.api_keys (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    key_hash text NOT NULL,
    key_prefix varchar(20) NOT NULL UNIQUE,
    name varchar(255) NOT NULL,
    description text,
    environment varchar(10) NOT NULL,
    permissions varchar[] NOT NULL DEFAULT '{billing:read,billing:write}',
    created_by uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    last_used_at timestamptz,
    last_used_ip inet,
    status varchar(20) NOT NULL DEFAULT 'active',
    metadata jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT ck_api_keys_environment CHECK (environment IN ('test', 'live')),
    CONSTRAINT ck_api_keys_status CHECK (status IN ('active', 'rotating', 'revoked'))
);

CREATE INDEX idx_api_keys_created_by ON public.api_keys (created_by);
CREATE INDEX idx_api_keys_prefix_active ON public.api_keys (key_prefix) WHERE status = 'active';
CREATE INDEX idx_api_keys_status ON public.api_keys (status);

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

CREATE INDEX idx_admin_users_email ON public.admin_users (email);
CREATE INDEX idx_admin_users_role ON public.admin_users (role);

CREATE TABLE public.provider_configs (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    provider_type varchar(50) NOT NULL UNIQUE,
    is_active boolean NOT NULL DEFAULT true,
    config_data jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    updated_by uuid,
    CONSTRAINT ck_provider_configs_type CHECK (provider_type IN ('stripe', 'square', 'paypal'))
);

CREATE TABLE public.admin_audit_logs (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    admin_user_id uuid,
    action varchar(100) NOT NULL,
    resource_type varchar(50) NOT NULL,
    resource_id varchar(255),
    changes jsonb,
    ip_address inet,
    user_agent text,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX idx_admin_audit_logs_action ON public.admin_audit_logs (action);
CREATE INDEX idx_admin_audit_logs_admin_user_id ON public.admin_audit_logs (admin_user_id);
CREATE INDEX idx_admin_audit_logs_created_at ON public.admin_audit_logs USING brin (created_at);
CREATE INDEX idx_admin_audit_logs_resource_type_resource_id
    ON public.admin_audit_logs (resource_type, resource_id);
