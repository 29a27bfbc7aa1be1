-- Payment providers' configuration. Secrets are encrypted before they arrive here and decrypted
-- outside the database. A secret is an object {encrypted, masked, mode}, and only `masked` is ever
-- listed. The provider's row in payment_providers says which settings are public and stored in
-- clear, and which may have several values at a time. Those are arrays: webhook secrets of several
-- endpoints, or the old and the new one during a change.

-- Whether a value of config_data has the form of a stored secret.
CREATE OR REPLACE FUNCTION billing_data.is_sealed(p_value jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN coalesce(
    jsonb_typeof(p_value) = 'object'
    AND jsonb_typeof(p_value -> 'encrypted') = 'string'
    AND p_value ->> 'encrypted' <> ''
    AND jsonb_typeof(p_value -> 'masked') = 'string',
    false
);
COMMENT ON FUNCTION billing_data.is_sealed IS
    'Tells whether a configuration value is an encrypted secret with its mask. Helper.';

-- The mask that is shown for a secret. For a secret that an older release stored in clear text, it
-- shows the last four characters.
CREATE OR REPLACE FUNCTION billing_data.mask_of(p_secret jsonb) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN CASE
    WHEN billing_data.is_sealed(p_secret) THEN p_secret ->> 'masked'
    WHEN length(p_secret #>> '{}') >= 16 THEN '…' || right(p_secret #>> '{}', 4)
    ELSE '…'
END;
COMMENT ON FUNCTION billing_data.mask_of IS 'The mask of a secret. Helper.';

-- The secrets of a configuration value, which is one secret or an array of them.
CREATE OR REPLACE FUNCTION billing_data.secrets_of(p_value jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN CASE jsonb_typeof(p_value)
    WHEN 'array' THEN p_value
    WHEN 'null' THEN '[]'
    ELSE coalesce(jsonb_build_array(p_value), '[]')
END;
COMMENT ON FUNCTION billing_data.secrets_of IS
    'The secrets of a configuration value, as an array. Helper.';

-- The configuration as it may be shown: masks for secrets, separated by commas where there are
-- several.
CREATE OR REPLACE FUNCTION billing_data.mask_config(p_kind text, p_config_data jsonb) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT coalesce(
        jsonb_object_agg(
            e.key,
            CASE
                WHEN e.key = ANY (p.public_settings) THEN e.value
                WHEN e.key = ANY (p.listed_settings) THEN (
                    SELECT to_jsonb(string_agg(billing_data.mask_of(s.value), ',' ORDER BY s.place))
                    FROM jsonb_array_elements(billing_data.secrets_of(e.value))
                        WITH ORDINALITY AS s (value, place)
                )
                ELSE to_jsonb(billing_data.mask_of(e.value))
            END
        ),
        '{}'
    )
    FROM billing_data.payment_providers AS p
    CROSS JOIN jsonb_each(p_config_data) AS e
    WHERE p.kind = p_kind;
END;
COMMENT ON FUNCTION billing_data.mask_config IS
    'A provider''s configuration with its secrets masked. Helper.';

-- The mode (test or live) of a provider's credential; NULL when nothing tells it.
CREATE OR REPLACE FUNCTION billing_data.provider_mode(p_kind text, p_config_data jsonb) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN (
    SELECT coalesce(
        p_config_data #>> ARRAY[p.credential, 'mode'],
        CASE
            WHEN p_config_data ->> p.credential ~ '^[a-z]+_live_' THEN 'live'
            WHEN p_config_data ->> p.credential ~ '^[a-z]+_test_' THEN 'test'
        END
    )
    FROM billing_data.payment_providers AS p
    WHERE p.kind = p_kind
);
COMMENT ON FUNCTION billing_data.provider_mode IS
    'Whether a provider is set up for test or for live payments. Helper.';

-- The new secrets of a setting that may have several: the new ones given, and those stored ones
-- whose masks are given. A single secret is not stored as an array, as releases before there could
-- be several expect it.
-- Errors: invalid_argument for a mask that no stored secret has, and for more than ten secrets.
CREATE OR REPLACE FUNCTION billing_data.kept_secrets(
    p_setting text, p_stored jsonb, p_given jsonb
) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_secrets jsonb[];
BEGIN
    SELECT array_agg(coalesce(s.value, g.value) ORDER BY g.place, s.place) INTO v_secrets
    FROM jsonb_array_elements(p_given) WITH ORDINALITY AS g (value, place)
    LEFT JOIN jsonb_array_elements(billing_data.secrets_of(p_stored))
        WITH ORDINALITY AS s (value, place)
        ON jsonb_typeof(g.value) = 'string' AND billing_data.mask_of(s.value) = g.value #>> '{}'
    WHERE s.value IS NOT NULL OR billing_data.is_sealed(g.value);
    PERFORM billing_data.require(
        NOT EXISTS (
            SELECT FROM jsonb_array_elements(p_given) AS g (value)
            WHERE jsonb_typeof(g.value) = 'string' AND NOT EXISTS (
                SELECT FROM jsonb_array_elements(billing_data.secrets_of(p_stored)) AS s (value)
                WHERE billing_data.mask_of(s.value) = g.value #>> '{}'
            )
        ),
        'p_config_data',
        format(
            'a mask in %s is of no secret that is stored: see billing.list_provider_configs',
            p_setting
        )
    );
    PERFORM billing_data.require(
        cardinality(v_secrets) BETWEEN 1 AND 10, 'p_config_data',
        format('there can be 1 to 10 %ss', replace(p_setting, '_', ' '))
    );
    RETURN CASE cardinality(v_secrets) WHEN 1 THEN v_secrets[1] ELSE to_jsonb(v_secrets) END;
END
$$;
COMMENT ON FUNCTION billing_data.kept_secrets IS
    'The new secrets of a provider''s setting; masks stand for secrets that stay. Helper.';

-- Changes a provider's configuration. Each member of p_config_data replaces the member of the same
-- name; a null removes it; a member that is not named stays. A setting that may have several values
-- may be given as an array, in which a mask stands for a stored secret that stays. Test and live
-- keys cannot be mixed. With p_unchanged_since (an updated_at that was read), a change since then
-- is not overwritten.
-- Locks: the provider's row. Writes: provider_configs 1, admin_audit_logs 1 (names and masks only).
-- Errors: actor errors, invalid_argument, provider_config_changed.
-- Example: SELECT * FROM billing.set_provider_config(p_provider_type => 'stripe',
--              p_is_active => false);
CREATE OR REPLACE FUNCTION billing.set_provider_config(
    p_provider_type text,
    p_config_data jsonb DEFAULT '{}',
    p_is_active boolean DEFAULT NULL,
    p_reason text DEFAULT NULL,
    p_unchanged_since timestamptz DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    id uuid, provider_type text, is_active boolean, config_data jsonb, mode text,
    updated_at timestamptz
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, p_session_hash, 'billing:write');
    v_before billing_data.provider_configs;
    v_after billing_data.provider_configs;
    v_is_new boolean;
    v_provider billing_data.payment_providers;
    v_member record;
    v_config_data jsonb := p_config_data;
BEGIN
    PERFORM billing_data.require_payment_provider(p_provider_type, 'p_provider_type');
    SELECT p.* INTO STRICT v_provider
    FROM billing_data.payment_providers AS p
    WHERE p.kind = p_provider_type;
    PERFORM billing_data.require(
        jsonb_typeof(p_config_data) = 'object', 'p_config_data', 'it must be an object'
    );
    PERFORM billing_data.require_short(p_config_data::text, 'p_config_data');
    PERFORM billing_data.require_short(p_reason, 'p_reason');
    PERFORM billing_data.require_moment(p_unchanged_since, 'p_unchanged_since');
    FOR v_member IN SELECT e.key, e.value FROM jsonb_each(p_config_data) AS e LOOP
        PERFORM billing_data.require(
            jsonb_typeof(v_member.value) = 'null'
            OR CASE
                WHEN v_member.key = ANY (v_provider.public_settings)
                    THEN jsonb_typeof(v_member.value) = 'string'
                ELSE billing_data.is_sealed(v_member.value)
            END
            OR (
                v_member.key = ANY (v_provider.listed_settings)
                AND jsonb_typeof(v_member.value) = 'array'
                AND NOT EXISTS (
                    SELECT
                    FROM jsonb_array_elements(billing_data.secrets_of(v_member.value)) AS s (value)
                    WHERE NOT billing_data.is_sealed(s.value)
                        AND (jsonb_typeof(s.value) = 'string' AND s.value #>> '{}' ~ '…')
                            IS NOT TRUE
                )
            ),
            'p_config_data',
            format('%s must be encrypted: set it by `ciris-billing providers set`', v_member.key)
        );
    END LOOP;
    PERFORM billing_data.require_durable_commit();

    INSERT INTO billing_data.provider_configs AS c (provider_type, is_active, config_data)
    VALUES (p_provider_type, coalesce(p_is_active, true), '{}')
    ON CONFLICT ON CONSTRAINT provider_configs_provider_type_key DO NOTHING;
    v_is_new := FOUND;
    SELECT c.* INTO STRICT v_before
    FROM billing_data.provider_configs AS c
    WHERE c.provider_type = p_provider_type
    FOR UPDATE;
    IF v_before.updated_at <> p_unchanged_since THEN
        PERFORM billing_data.raise_error('provider_config_changed');
    END IF;
    FOR v_member IN SELECT e.key, e.value FROM jsonb_each(p_config_data) AS e LOOP
        CONTINUE WHEN jsonb_typeof(v_member.value) <> 'array';
        v_config_data := v_config_data || jsonb_build_object(
            v_member.key,
            billing_data.kept_secrets(
                v_member.key, v_before.config_data -> v_member.key, v_member.value
            )
        );
    END LOOP;
    UPDATE billing_data.provider_configs AS c
    SET config_data = (
            SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}')
            FROM jsonb_each(c.config_data || v_config_data) AS e
            WHERE jsonb_typeof(e.value) <> 'null'
        ),
        is_active = coalesce(p_is_active, c.is_active),
        updated_at = clock_timestamp(),
        updated_by = v_actor.admin_user_id
    WHERE c.provider_type = p_provider_type
    RETURNING c.* INTO v_after;

    FOR v_member IN SELECT e.key, e.value FROM jsonb_each_text(v_after.config_data) AS e LOOP
        PERFORM billing_data.require(
            (
                v_member.key = ANY (v_provider.public_settings)
                AND substring(v_member.value FROM '^[a-z]+_(test|live)_')
                    <> billing_data.provider_mode(p_provider_type, v_after.config_data)
            ) IS NOT TRUE,
            'p_config_data',
            format(
                'test and live keys cannot be mixed: give %s and %s of one mode together',
                v_provider.credential, v_member.key
            )
        );
    END LOOP;
    PERFORM billing_data.write_audit(
        'provider_config.set', 'provider_config', p_provider_type,
        jsonb_build_object(
            'changed', (
                SELECT coalesce(jsonb_agg(k.key), '[]')
                FROM jsonb_object_keys(p_config_data) AS k (key)
            ),
            'before', CASE WHEN NOT v_is_new THEN
                billing_data.mask_config(p_provider_type, v_before.config_data)
                || jsonb_build_object('is_active', v_before.is_active)
            END,
            'after', billing_data.mask_config(p_provider_type, v_after.config_data)
                || jsonb_build_object('is_active', v_after.is_active)
        ),
        p_reason, v_actor
    );
    RETURN QUERY SELECT
        v_after.id, v_after.provider_type::text, v_after.is_active,
        billing_data.mask_config(p_provider_type, v_after.config_data),
        billing_data.provider_mode(p_provider_type, v_after.config_data), v_after.updated_at;
END
$$;
COMMENT ON FUNCTION billing.set_provider_config IS
    'Changes a payment provider''s configuration, secrets encrypted. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.set_provider_config TO billing_server, billing_dba;

-- Lists the payment providers with masked secrets. Errors: actor errors.
-- Example: SELECT * FROM billing.list_provider_configs();
CREATE OR REPLACE FUNCTION billing.list_provider_configs(p_session_hash bytea DEFAULT NULL)
RETURNS TABLE (
    id uuid, provider_type text, is_active boolean, config_data jsonb, mode text,
    updated_at timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    RETURN QUERY
    SELECT
        c.id, c.provider_type::text, c.is_active,
        billing_data.mask_config(c.provider_type, c.config_data),
        billing_data.provider_mode(c.provider_type, c.config_data), c.updated_at
    FROM billing_data.provider_configs AS c
    ORDER BY c.provider_type;
END
$$;
COMMENT ON FUNCTION billing.list_provider_configs IS
    'Lists the payment providers with masked secrets. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_provider_configs TO billing_server, billing_dba;

-- Reads a provider's configuration with encrypted secrets, for a caller that holds the encryption
-- key. No API key is needed, because the server needs the secrets to find out who sends a webhook.
-- No row when there is none.
-- Example: SELECT * FROM billing.get_provider_config(p_provider_type => 'stripe');
CREATE OR REPLACE FUNCTION billing.get_provider_config(p_provider_type text)
RETURNS TABLE (is_active boolean, config_data jsonb, mode text, updated_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT
        c.is_active, c.config_data, billing_data.provider_mode(c.provider_type, c.config_data),
        c.updated_at
    FROM billing_data.provider_configs AS c
    WHERE c.provider_type = p_provider_type;
END;
COMMENT ON FUNCTION billing.get_provider_config IS
    'Reads a payment provider''s configuration, secrets encrypted. '
    'For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.get_provider_config TO billing_server, billing_dba;
