-- Fills the settings row from the environment of the first deploy; later calls change nothing.
-- Locks: the settings row. Errors: actor_required for the web tier.
-- Example: SELECT * FROM billing.seed_settings(p_free_uses => 3);
CREATE OR REPLACE FUNCTION billing.seed_settings(
    p_free_uses bigint DEFAULT NULL,
    p_pack_uses bigint DEFAULT NULL,
    p_pack_price_minor bigint DEFAULT NULL,
    p_pack_currency text DEFAULT NULL,
    p_admin_email_domain text DEFAULT NULL
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.caller_role();
    PERFORM billing_data.require_durable_commit();
    UPDATE billing_data.settings AS s
    SET free_uses = coalesce(p_free_uses, s.free_uses),
        pack_uses = coalesce(p_pack_uses, s.pack_uses),
        pack_price_minor = coalesce(p_pack_price_minor, s.pack_price_minor),
        pack_currency = coalesce(p_pack_currency, s.pack_currency),
        admin_email_domain = coalesce(p_admin_email_domain, s.admin_email_domain),
        seeded_at = now(),
        updated_at = now()
    WHERE s.seeded_at IS NULL;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION billing.seed_settings IS
    'Sets free uses, pack and price on the first deploy only; true when it did. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.seed_settings TO billing_dba;

-- Reads the business settings. Example: SELECT * FROM billing.get_settings();
CREATE OR REPLACE FUNCTION billing.get_settings()
RETURNS TABLE (
    free_uses bigint,
    pack_uses bigint,
    pack_price_minor bigint,
    pack_currency text,
    admin_email_domain text
)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT s.free_uses, s.pack_uses, s.pack_price_minor, s.pack_currency, s.admin_email_domain
    FROM billing_data.settings AS s;
END;
COMMENT ON FUNCTION billing.get_settings IS
    'Reads free uses, pack size and price. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.get_settings TO billing_server, billing_dba;

-- The newest migration step of this database, for health checks: a server compares it with the
-- newest step it knows. Example: SELECT billing.get_schema_version();
CREATE OR REPLACE FUNCTION billing.get_schema_version() RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_step text;
BEGIN
    SELECT max(m.migration_id) INTO v_step FROM public._yoyo_migration AS m;
    RETURN v_step;
END
$$;
COMMENT ON FUNCTION billing.get_schema_version IS
    'Names the newest migration step of this database. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.get_schema_version TO billing_server, billing_dba;
