-- The tables leave schema public for one that nobody but their owner may enter; people and
-- programs reach them through functions only. Roles belong to the whole cluster, so another
-- database may have made them already, and the rollback leaves them alone.
-- depends: 2025_10_21_0008_paid_credits
SET LOCAL lock_timeout = '5s';

DO $roles$
DECLARE
    v_role text;
BEGIN
    FOREACH v_role IN ARRAY ARRAY[
        'billing_owner', 'billing_server', 'billing_dba', 'billing_analyst'
    ]
    LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles AS r WHERE r.rolname = v_role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', v_role);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                RAISE NOTICE 'role % was made by another database meanwhile', v_role;
            END;
        END IF;
    END LOOP;
    -- Whoever migrates hands objects over to the owner role; where one login does everything, the
    -- server later gives its rights away by becoming billing_server. The owner may do what DBAs
    -- may.
    FOREACH v_role IN ARRAY ARRAY['billing_owner', 'billing_server']
    LOOP
        IF NOT pg_has_role(current_user, v_role, 'USAGE') THEN
            EXECUTE format('GRANT %I TO %I', v_role, current_user);
        END IF;
    END LOOP;
    IF NOT pg_has_role('billing_owner', 'billing_dba', 'MEMBER') THEN
        GRANT billing_dba TO billing_owner;
    END IF;
END
$roles$;

CREATE SCHEMA billing_data AUTHORIZATION billing_owner;

ALTER TABLE public.accounts SET SCHEMA billing_data;
ALTER TABLE public.charges SET SCHEMA billing_data;
ALTER TABLE public.credits SET SCHEMA billing_data;
ALTER TABLE public.credit_checks SET SCHEMA billing_data;
ALTER TABLE public.api_keys SET SCHEMA billing_data;
ALTER TABLE public.admin_users SET SCHEMA billing_data;
ALTER TABLE public.provider_configs SET SCHEMA billing_data;
ALTER TABLE public.admin_audit_logs SET SCHEMA billing_data;

ALTER TABLE billing_data.accounts OWNER TO billing_owner;
ALTER TABLE billing_data.charges OWNER TO billing_owner;
ALTER TABLE billing_data.credits OWNER TO billing_owner;
ALTER TABLE billing_data.credit_checks OWNER TO billing_owner;
ALTER TABLE billing_data.api_keys OWNER TO billing_owner;
ALTER TABLE billing_data.admin_users OWNER TO billing_owner;
ALTER TABLE billing_data.provider_configs OWNER TO billing_owner;
ALTER TABLE billing_data.admin_audit_logs OWNER TO billing_owner;
