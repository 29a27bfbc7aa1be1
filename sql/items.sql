-- The one list of the fields of checks, charges, holds, captures and their outcomes. The functions
-- that take them (billing.check_items, billing.charge_items ...) get a whole list of items as one
-- argument.
--
-- A running server sends the fields it was built with, so an item type cannot grow. A new field
-- (since 2) makes a new type, charge_item_2, and functions that take it, charge_items_2. The types
-- and functions of the version before are made here and in kept.sql from this same list, so that
-- servers of the release before go on working. Outcomes are read by column name, so their types
-- grow in place.
DO $types$
DECLARE
    v_type record;
    v_found text[];
    v_common integer;  -- fields that this release and the database both have
    v_later text;
BEGIN
    FOR v_type IN
        WITH field (type, since, name, field_type) AS (
            VALUES
            ('check_item', 1, 'oauth_provider', 'text'),
            ('check_item', 1, 'external_id', 'text'),
            ('check_item', 1, 'wa_id', 'text'),
            ('check_item', 1, 'tenant_id', 'text'),
            ('check_item', 1, 'context_agent_id', 'text'),
            ('check_item', 1, 'context_channel_id', 'text'),
            ('check_item', 1, 'context_request_id', 'text'),
            ('check_item', 1, 'customer_email', 'text'),
            ('check_item', 1, 'user_role', 'text'),
            ('check_item', 1, 'agent_id', 'text'),
            ('check_item', 1, 'marketing_opt_in', 'boolean'),
            ('check_item', 1, 'marketing_opt_in_source', 'text'),
            ('check_item', 1, 'api_key_id', 'uuid'),

            ('charge_item', 1, 'oauth_provider', 'text'),
            ('charge_item', 1, 'external_id', 'text'),
            ('charge_item', 1, 'amount_minor', 'bigint'),
            ('charge_item', 1, 'currency', 'text'),
            ('charge_item', 1, 'description', 'text'),
            ('charge_item', 1, 'idempotency_key', 'text'),
            ('charge_item', 1, 'metadata_message_id', 'text'),
            ('charge_item', 1, 'metadata_agent_id', 'text'),
            ('charge_item', 1, 'metadata_channel_id', 'text'),
            ('charge_item', 1, 'metadata_request_id', 'text'),
            ('charge_item', 1, 'customer_email', 'text'),
            ('charge_item', 1, 'user_role', 'text'),
            ('charge_item', 1, 'agent_id', 'text'),
            ('charge_item', 1, 'marketing_opt_in', 'boolean'),
            ('charge_item', 1, 'marketing_opt_in_source', 'text'),
            ('charge_item', 1, 'api_key_id', 'uuid'),

            ('hold_item', 1, 'oauth_provider', 'text'),
            ('hold_item', 1, 'external_id', 'text'),
            ('hold_item', 1, 'amount_minor', 'bigint'),
            ('hold_item', 1, 'currency', 'text'),
            ('hold_item', 1, 'expires_in_seconds', 'bigint'),
            ('hold_item', 1, 'description', 'text'),
            ('hold_item', 1, 'idempotency_key', 'text'),
            ('hold_item', 1, 'metadata_message_id', 'text'),
            ('hold_item', 1, 'metadata_agent_id', 'text'),
            ('hold_item', 1, 'metadata_channel_id', 'text'),
            ('hold_item', 1, 'metadata_request_id', 'text'),
            ('hold_item', 1, 'api_key_id', 'uuid'),

            ('capture_item', 1, 'hold_id', 'uuid'),
            ('capture_item', 1, 'amount_minor', 'bigint'),
            ('capture_item', 1, 'overage', 'text'),
            ('capture_item', 1, 'api_key_id', 'uuid'),

            ('check_outcome', 1, 'item', 'integer'),
            ('check_outcome', 1, 'outcome', 'text'),
            ('check_outcome', 1, 'has_credit', 'boolean'),
            ('check_outcome', 1, 'reason', 'text'),
            ('check_outcome', 1, 'credits_remaining', 'bigint'),
            ('check_outcome', 1, 'free_uses_remaining', 'bigint'),
            ('check_outcome', 1, 'total_uses', 'bigint'),
            ('check_outcome', 1, 'plan_name', 'text'),
            ('check_outcome', 1, 'purchase_required', 'boolean'),
            ('check_outcome', 1, 'purchase_price_minor', 'bigint'),
            ('check_outcome', 1, 'purchase_uses', 'bigint'),
            ('check_outcome', 1, 'account_created', 'boolean'),
            ('check_outcome', 1, 'low_balance', 'boolean'),
            ('check_outcome', 1, 'held', 'bigint'),
            ('check_outcome', 1, 'next_expiry_at', 'timestamp with time zone'),
            ('check_outcome', 1, 'next_expiry_amount_minor', 'bigint'),

            ('charge_outcome', 1, 'item', 'integer'),
            ('charge_outcome', 1, 'outcome', 'text'),
            ('charge_outcome', 1, 'charge_id', 'uuid'),
            ('charge_outcome', 1, 'account_id', 'uuid'),
            ('charge_outcome', 1, 'amount_minor', 'bigint'),
            ('charge_outcome', 1, 'currency', 'text'),
            ('charge_outcome', 1, 'description', 'text'),
            ('charge_outcome', 1, 'balance_before', 'bigint'),
            ('charge_outcome', 1, 'balance_after', 'bigint'),
            ('charge_outcome', 1, 'free_uses_after', 'bigint'),
            ('charge_outcome', 1, 'paid_with', 'text'),
            ('charge_outcome', 1, 'created_at', 'timestamp with time zone'),
            ('charge_outcome', 1, 'metadata_message_id', 'text'),
            ('charge_outcome', 1, 'metadata_agent_id', 'text'),
            ('charge_outcome', 1, 'metadata_channel_id', 'text'),
            ('charge_outcome', 1, 'metadata_request_id', 'text'),
            ('charge_outcome', 1, 'balance', 'bigint'),
            ('charge_outcome', 1, 'account_currency', 'text'),
            ('charge_outcome', 1, 'replayed', 'boolean'),
            ('charge_outcome', 1, 'cap', 'jsonb'),

            ('hold_outcome', 1, 'item', 'integer'),
            ('hold_outcome', 1, 'outcome', 'text'),
            ('hold_outcome', 1, 'hold_id', 'uuid'),
            ('hold_outcome', 1, 'account_id', 'uuid'),
            ('hold_outcome', 1, 'amount_minor', 'bigint'),
            ('hold_outcome', 1, 'currency', 'text'),
            ('hold_outcome', 1, 'state', 'text'),
            ('hold_outcome', 1, 'paid_with', 'text'),
            ('hold_outcome', 1, 'captured_minor', 'bigint'),
            ('hold_outcome', 1, 'charge_id', 'uuid'),
            ('hold_outcome', 1, 'is_late', 'boolean'),
            ('hold_outcome', 1, 'description', 'text'),
            ('hold_outcome', 1, 'metadata_message_id', 'text'),
            ('hold_outcome', 1, 'metadata_agent_id', 'text'),
            ('hold_outcome', 1, 'metadata_channel_id', 'text'),
            ('hold_outcome', 1, 'metadata_request_id', 'text'),
            ('hold_outcome', 1, 'created_at', 'timestamp with time zone'),
            ('hold_outcome', 1, 'expires_at', 'timestamp with time zone'),
            ('hold_outcome', 1, 'settled_at', 'timestamp with time zone'),
            ('hold_outcome', 1, 'balance', 'bigint'),
            ('hold_outcome', 1, 'held', 'bigint'),
            ('hold_outcome', 1, 'available', 'bigint'),
            ('hold_outcome', 1, 'free_uses_available', 'bigint'),
            ('hold_outcome', 1, 'account_currency', 'text'),
            ('hold_outcome', 1, 'cap', 'jsonb')
        ),
        placed AS MATERIALIZED (  -- before anything that sorts
            SELECT
                f.type, f.since, format('%I %s', f.name, f.field_type) AS definition,
                row_number() OVER () AS place, f.type LIKE '%outcome' AS grows
            FROM field AS f
        ),
        versioned AS (
            SELECT p.*, max(p.since) OVER (PARTITION BY p.type) AS newest FROM placed AS p
        )
        SELECT
            p.type
            || CASE WHEN v.version > 1 AND NOT p.grows THEN '_' || v.version ELSE '' END AS name,
            p.type AS base, p.newest, p.grows, array_agg(p.definition ORDER BY p.place) AS fields
        FROM versioned AS p
        CROSS JOIN LATERAL generate_series(greatest(p.newest - 1, 1), p.newest) AS v (version)
        WHERE p.since <= v.version AND (v.version = p.newest OR NOT p.grows)
        GROUP BY p.type, p.grows, p.newest, v.version
    LOOP
        v_found := ARRAY(
            SELECT format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod))
            FROM pg_attribute AS a
            WHERE a.attrelid = to_regclass('billing.' || v_type.name)
                AND a.attnum > 0 AND NOT a.attisdropped
            ORDER BY a.attnum
        );
        v_common := least(cardinality(v_found), cardinality(v_type.fields));
        IF v_found = '{}' THEN
            EXECUTE format(
                'CREATE TYPE billing.%I AS (%s)', v_type.name, array_to_string(v_type.fields, ', ')
            );
            EXECUTE format(
                'COMMENT ON TYPE billing.%I IS %L', v_type.name,
                'An item of a list of checks or charges, or what comes of it.'
            );
        ELSIF v_found[:v_common] <> v_type.fields[:v_common]
            OR (cardinality(v_found) <> cardinality(v_type.fields) AND NOT v_type.grows)
        THEN
            RAISE EXCEPTION 'billing.% has other fields in this database', v_type.name
                USING HINT = 'A new field of an item belongs to a new version;'
                    ' a new field of an outcome comes last.';
        ELSE
            FOR v_new IN cardinality(v_found) + 1 .. cardinality(v_type.fields) LOOP
                EXECUTE format(
                    'ALTER TYPE billing.%I ADD ATTRIBUTE %s', v_type.name, v_type.fields[v_new]
                );
            END LOOP;
            -- These fields are of a later release, which is being rolled back.
            FOR v_new IN v_common + 1 .. cardinality(v_found) LOOP
                EXECUTE format(
                    'ALTER TYPE billing.%I DROP ATTRIBUTE %s', v_type.name,
                    split_part(v_found[v_new], ' ', 1)
                );
            END LOOP;
        END IF;
        FOR v_later IN
            SELECT c.relname
            FROM pg_class AS c
            WHERE c.relnamespace = 'billing'::regnamespace AND c.relkind = 'c'
                AND NOT v_type.grows AND c.relname ~ ('^' || v_type.base || '_[0-9]+$')
                AND substring(c.relname FROM '[0-9]+$')::integer > v_type.newest
        LOOP
            EXECUTE format('DROP TYPE billing.%I CASCADE', v_later);
        END LOOP;
    END LOOP;
END
$types$;
