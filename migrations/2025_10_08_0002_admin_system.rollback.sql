-- Keys, staff, provider settings and the audit log are lost.

SET LOCAL lock_timeout = '5s';

DROP TABLE public.admin_audit_logs;
DROP TABLE public.provider_configs;
DROP TABLE public.admin_users;
DROP TABLE public.api_keys;
