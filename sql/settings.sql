-- Fills the settings row from the environment of the first deploy. Later calls change nothing.
-- Locks: the settings row. Errors: actor_required for the web tier, invalid_argument for a price
-- that Stripe does not take.
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
DECLARE
    v_after billing_data.settings;
BEGIN
    PERFORM billing_data.caller_role();
    PERFORM billing_data.require_short(p_admin_email_domain, 'p_admin_email_domain');
    PERFORM billing_data.require_short(p_pack_currency, 'p_pack_currency');
    PERFORM billing_data.require_durable_commit();
    UPDATE billing_data.settings AS s
    SET free_uses = coalesce(p_free_uses, s.free_uses),
        pack_uses = coalesce(p_pack_uses, s.pack_uses),
        pack_price_minor = coalesce(p_pack_price_minor, s.pack_price_minor),
        pack_currency = coalesce(p_pack_currency, s.pack_currency),
        admin_email_domain = coalesce(lower(p_admin_email_domain), s.admin_email_domain),
        seeded_at = now(),
        updated_at = now()
    WHERE s.seeded_at IS NULL
    RETURNING s.* INTO v_after;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF num_nonnulls(p_pack_price_minor, p_pack_currency) > 0 THEN
        PERFORM billing_data.require_price(v_after.pack_price_minor, v_after.pack_currency);
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION billing.seed_settings IS
    'Sets free uses, pack and price on the first deploy only; true when it did. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.seed_settings TO billing_dba;

-- Changes the domain that staff's e-mail addresses must have. Staff with an address elsewhere keep
-- their session until it ends and cannot sign in again.
-- Locks: the settings row. Writes:
-- settings 1, admin_audit_logs 1 when it changed. Errors: actor_required, invalid_argument.
-- Example: SELECT billing.set_admin_domain(p_domain => 'example.com', p_reason => 'a new name');
CREATE OR REPLACE FUNCTION billing.set_admin_domain(p_domain text, p_reason text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor;
    v_before text;
    v_after text := lower(p_domain);
BEGIN
    v_actor.database_role := billing_data.caller_role();
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require_short(p_domain, 'p_domain');
    PERFORM billing_data.require(
        v_after ~ '^[a-z0-9.-]+[.][a-z]+$', 'p_domain', 'it must be a domain like example.com'
    );
    PERFORM billing_data.require_durable_commit();
    SELECT s.admin_email_domain INTO STRICT v_before
    FROM billing_data.settings AS s
    FOR NO KEY UPDATE;
    IF v_before <> v_after THEN
        UPDATE billing_data.settings AS s
        SET admin_email_domain = v_after, updated_at = clock_timestamp();
        PERFORM billing_data.write_audit(
            'settings.set_admin_domain', 'settings', NULL,
            jsonb_build_object('before', v_before, 'after', v_after), p_reason, v_actor
        );
    END IF;
    RETURN v_after;
END
$$;
COMMENT ON FUNCTION billing.set_admin_domain IS
    'Changes the domain that staff''s addresses must be at, with a reason. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.set_admin_domain TO billing_dba;

-- Changes how many uses new users get free and what a pack is; NULL keeps the present value. A pack
-- that was already offered keeps its price. A price is in Stripe's minor units and must be one that
-- Stripe takes (see billing.currencies).
-- Locks: the settings row. Writes: settings 1, admin_audit_logs 1 when
-- something changed. Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.set_pricing(p_pack_price_minor => 700, p_reason => 'new price');
CREATE OR REPLACE FUNCTION billing.set_pricing(
    p_reason text,
    p_free_uses bigint DEFAULT NULL,
    p_pack_uses bigint DEFAULT NULL,
    p_pack_price_minor bigint DEFAULT NULL,
    p_pack_currency text DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    free_uses bigint, pack_uses bigint, pack_price_minor bigint, pack_currency text
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_before billing_data.settings;
    v_after billing_data.settings;
    v_columns text[] := ARRAY['free_uses', 'pack_uses', 'pack_price_minor', 'pack_currency'];
BEGIN
    PERFORM billing_data.require_reason(p_reason);
    PERFORM billing_data.require(
        p_free_uses IS NULL OR p_free_uses >= 0, 'p_free_uses', 'it must be 0 or more'
    );
    PERFORM billing_data.require(
        p_pack_uses IS NULL OR p_pack_uses > 0, 'p_pack_uses', 'it must be greater than 0'
    );
    PERFORM billing_data.require(
        p_pack_price_minor IS NULL OR p_pack_price_minor > 0,
        'p_pack_price_minor', 'it must be greater than 0, in minor units such as cents'
    );
    IF p_pack_currency IS NOT NULL THEN
        PERFORM billing_data.require_currency(p_pack_currency, 'p_pack_currency');
    END IF;
    PERFORM billing_data.require_durable_commit();
    SELECT s.* INTO STRICT v_before FROM billing_data.settings AS s FOR UPDATE;
    UPDATE billing_data.settings AS s
    SET free_uses = coalesce(p_free_uses, s.free_uses),
        pack_uses = coalesce(p_pack_uses, s.pack_uses),
        pack_price_minor = coalesce(p_pack_price_minor, s.pack_price_minor),
        pack_currency = coalesce(p_pack_currency, s.pack_currency),
        updated_at = clock_timestamp()
    RETURNING s.* INTO v_after;
    IF num_nonnulls(p_pack_price_minor, p_pack_currency) > 0 THEN
        PERFORM billing_data.require_price(v_after.pack_price_minor, v_after.pack_currency);
    END IF;
    IF (v_before.free_uses, v_before.pack_uses, v_before.pack_price_minor, v_before.pack_currency)
        <> (v_after.free_uses, v_after.pack_uses, v_after.pack_price_minor, v_after.pack_currency)
    THEN
        PERFORM billing_data.write_audit(
            'settings.set_pricing', 'settings', 'pricing',
            (
                SELECT jsonb_build_object(
                    'before', jsonb_object_agg(c.name, to_jsonb(v_before) -> c.name),
                    'after', jsonb_object_agg(c.name, to_jsonb(v_after) -> c.name)
                )
                FROM unnest(v_columns) AS c (name)
            ),
            p_reason, v_actor
        );
    END IF;
    RETURN QUERY SELECT
        v_after.free_uses, v_after.pack_uses, v_after.pack_price_minor, v_after.pack_currency;
END
$$;
COMMENT ON FUNCTION billing.set_pricing IS
    'Changes free uses, pack size and price, with a reason. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.set_pricing TO billing_server, billing_dba;

-- Reads the business settings. Example: SELECT * FROM billing.get_settings();
CREATE OR REPLACE FUNCTION billing.get_settings()
RETURNS TABLE (
    free_uses bigint,
    pack_uses bigint,
    pack_price_minor bigint,
    pack_currency text,
    admin_email_domain text,
    low_balance bigint
)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT
        s.free_uses, s.pack_uses, s.pack_price_minor, s.pack_currency, s.admin_email_domain,
        s.low_balance
    FROM billing_data.settings AS s;
END;
COMMENT ON FUNCTION billing.get_settings IS
    'Reads free uses, pack size and price. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.get_settings TO billing_server, billing_dba;

-- The newest migration step of this database, for health checks. A server compares it with the
-- newest step it knows.
-- Example: SELECT billing.get_schema_version();
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
