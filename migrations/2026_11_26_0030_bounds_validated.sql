-- Validates the bounds of the step before, which reads the tables without holding up anybody's
-- writes. Where older rows are longer, a bound stays as it is, for new rows only, and a notice says
-- so: history is not changed.
-- depends: 2026_11_26_0029_bounds
SET LOCAL lock_timeout = '1s';

DO $bounds$
DECLARE
    v_bound record;
BEGIN
    FOR v_bound IN
        SELECT c.conrelid::regclass AS table_name, c.conname AS name
        FROM pg_catalog.pg_constraint AS c
        WHERE c.connamespace = 'billing_data'::regnamespace
            AND NOT c.convalidated
            AND c.conname IN (
                'charges_description', 'credits_description', 'admin_audit_logs_reason',
                'admin_audit_logs_user_agent', 'admin_audit_logs_changes', 'api_keys_description',
                'api_keys_key_hash_length', 'api_keys_permissions', 'payment_events_payload',
                'payment_events_resolution', 'payment_returns_resolution',
                'purchases_payment_status', 'provider_configs_config_data',
                'settings_admin_email_domain', 'admin_sessions_hash', 'sign_in_tickets_hash'
            )
        ORDER BY c.conname
    LOOP
        BEGIN
            EXECUTE format(
                'ALTER TABLE %s VALIDATE CONSTRAINT %I', v_bound.table_name, v_bound.name
            );
        EXCEPTION
            WHEN check_violation THEN
                RAISE NOTICE '% holds for new rows only: older ones are longer', v_bound.name;
        END;
    END LOOP;
END
$bounds$;
