-- Functions that servers of the release before call. They stay as long as such servers may run
-- beside ours, so that a deploy fails no request.

-- When an item type has a new version, each function that takes it is defined once more for the
-- version before, from the list in sql/items.sql alone. It calls the new function with the new
-- fields absent. It is kept until the next version.
DO $kept$
DECLARE
    v_function record;
BEGIN
    FOR v_function IN
        SELECT p.oid::regprocedure::text AS signature
        FROM pg_proc AS p
        WHERE p.pronamespace = 'billing'::regnamespace
            AND obj_description(p.oid, 'pg_proc') LIKE 'Kept for servers of the release before.%'
    LOOP
        EXECUTE format('DROP FUNCTION %s', v_function.signature);
    END LOOP;
    FOR v_function IN
        WITH item AS (
            SELECT
                c.oid AS relid, c.reltype AS type, t.typarray AS list, c.relname AS name,
                v.base, v.version, max(v.version) OVER (PARTITION BY v.base) AS newest
            FROM pg_class AS c
            INNER JOIN pg_type AS t ON t.oid = c.reltype
            CROSS JOIN LATERAL (
                SELECT
                    substring(c.relname FROM '^[a-z]+_item'),
                    coalesce(substring(c.relname FROM '_item_([0-9]+)$')::integer, 1)
            ) AS v (base, version)
            WHERE c.relnamespace = 'billing'::regnamespace AND c.relkind = 'c'
                AND c.relname ~ '^[a-z]+_item(_[0-9]+)?$'
        )
        SELECT
            p.proname AS new_name,
            regexp_replace(p.proname, '_' || new.newest || '$', '')
            || CASE WHEN old.version > 1 THEN '_' || old.version ELSE '' END AS old_name,
            replace(
                pg_get_function_arguments(p.oid), format_type(new.list, NULL),
                format_type(old.list, NULL)
            ) AS arguments,
            pg_get_function_result(p.oid) AS result,
            (
                SELECT string_agg(
                    format('%1$I => ', a.name) || CASE
                        WHEN a.type = new.list THEN format(
                            'ARRAY(SELECT ROW(%s)::%s FROM unnest(%I) WITH ORDINALITY AS i'
                            ' ORDER BY i.ordinality)',
                            (
                                SELECT string_agg(
                                    coalesce('i.' || quote_ident(b.attname), 'NULL'), ', '
                                    ORDER BY n.attnum
                                )
                                FROM pg_attribute AS n
                                LEFT JOIN pg_attribute AS b
                                    ON b.attrelid = old.relid AND b.attname = n.attname
                                WHERE n.attrelid = new.relid AND n.attnum > 0
                            ),
                            format_type(new.type, NULL), a.name
                        )
                        ELSE format('%I', a.name)
                    END,
                    ', ' ORDER BY a.place
                )
                FROM unnest(p.proargnames, p.proargtypes::oid[]) WITH ORDINALITY
                    AS a (name, type, place)
                WHERE a.type IS NOT NULL
            ) AS passed
        FROM item AS new
        INNER JOIN item AS old ON old.base = new.base AND old.version = new.version - 1
        INNER JOIN pg_proc AS p
            ON p.pronamespace = 'billing'::regnamespace AND new.list = ANY (p.proargtypes::oid[])
        WHERE new.version = new.newest
    LOOP
        EXECUTE format(
            'CREATE OR REPLACE FUNCTION billing.%I(%s) RETURNS %s'
            ' LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp'
            ' AS $body$ BEGIN RETURN QUERY SELECT k.* FROM billing.%I(%s) AS k; END $body$',
            v_function.old_name, v_function.arguments, v_function.result, v_function.new_name,
            v_function.passed
        );
        EXECUTE format(
            'COMMENT ON FUNCTION billing.%I IS %L', v_function.old_name,
            'Kept for servers of the release before. For billing_server and billing_dba.'
        );
        EXECUTE format(
            'GRANT EXECUTE ON FUNCTION billing.%I TO billing_server, billing_dba',
            v_function.old_name
        );
    END LOOP;
    FOR v_function IN
        SELECT c.relname AS name
        FROM pg_class AS c
        WHERE c.relnamespace = 'billing'::regnamespace AND c.relkind = 'c'
            AND c.relname ~ '^[a-z]+_item(_[0-9]+)?$'
            AND (
                SELECT count(*)
                FROM pg_class AS n
                WHERE n.relnamespace = c.relnamespace AND n.relkind = 'c'
                    AND substring(n.relname FROM '^[a-z]+_item')
                        = substring(c.relname FROM '^[a-z]+_item')
                    AND coalesce(substring(n.relname FROM '[0-9]+$')::integer, 1)
                        > coalesce(substring(c.relname FROM '[0-9]+$')::integer, 1)
            ) > 1
    LOOP
        EXECUTE format('DROP TYPE billing.%I', v_function.name);
    END LOOP;
END
$kept$;

-- The functions below take an array for each field of an item, and make items of the arrays.


-- A key id that no API key has. It stands for an item without a key in a list where other items
-- have one.
CREATE OR REPLACE FUNCTION billing_data.no_key() RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '00000000-0000-0000-0000-000000000000'::uuid;
COMMENT ON FUNCTION billing_data.no_key IS 'The id of no API key. Helper.';

-- As billing.check_items, with one array for each field.
-- Locks, writes and errors: as billing.check_items.
-- Example: SELECT * FROM billing.check_credits(p_oauth_providers => ARRAY['oauth:google'],
--              p_external_ids => ARRAY['1']);
CREATE OR REPLACE FUNCTION billing.check_credits(
    p_oauth_providers text[],
    p_external_ids text[],
    p_wa_ids text[] DEFAULT NULL,
    p_tenant_ids text[] DEFAULT NULL,
    p_context_agent_ids text[] DEFAULT NULL,
    p_context_channel_ids text[] DEFAULT NULL,
    p_context_request_ids text[] DEFAULT NULL,
    p_customer_emails text[] DEFAULT NULL,
    p_user_roles text[] DEFAULT NULL,
    p_agent_ids text[] DEFAULT NULL,
    p_marketing_opt_ins boolean[] DEFAULT NULL,
    p_marketing_opt_in_sources text[] DEFAULT NULL,
    p_api_key_ids uuid[] DEFAULT NULL,
    p_wait boolean DEFAULT true
) RETURNS TABLE (
    item integer,
    outcome text,
    has_credit boolean,
    reason text,
    credits_remaining bigint,
    free_uses_remaining bigint,
    total_uses bigint,
    plan_name text,
    purchase_required boolean,
    purchase_price_minor bigint,
    purchase_uses bigint,
    account_created boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require_same_length(
        ARRAY[cardinality(p_oauth_providers), cardinality(p_external_ids)],
        ARRAY[
            cardinality(p_wa_ids), cardinality(p_tenant_ids), cardinality(p_context_agent_ids),
            cardinality(p_context_channel_ids), cardinality(p_context_request_ids),
            cardinality(p_customer_emails), cardinality(p_user_roles), cardinality(p_agent_ids),
            cardinality(p_marketing_opt_ins), cardinality(p_marketing_opt_in_sources),
            cardinality(p_api_key_ids)
        ],
        ARRAY[
            array_dims(p_oauth_providers), array_dims(p_external_ids), array_dims(p_wa_ids),
            array_dims(p_tenant_ids), array_dims(p_context_agent_ids),
            array_dims(p_context_channel_ids), array_dims(p_context_request_ids),
            array_dims(p_customer_emails), array_dims(p_user_roles), array_dims(p_agent_ids),
            array_dims(p_marketing_opt_ins), array_dims(p_marketing_opt_in_sources),
            array_dims(p_api_key_ids)
        ]
    );
    RETURN QUERY
    SELECT
        c.item, c.outcome, c.has_credit, c.reason, c.credits_remaining, c.free_uses_remaining,
        c.total_uses, c.plan_name, c.purchase_required, c.purchase_price_minor, c.purchase_uses,
        c.account_created
    FROM billing.check_items(
        ARRAY(
            SELECT ROW(
                i.oauth_provider, i.external_id, i.wa_id, i.tenant_id, i.context_agent_id,
                i.context_channel_id, i.context_request_id, i.customer_email, i.user_role,
                i.agent_id, i.marketing_opt_in, i.marketing_opt_in_source,
                CASE
                    WHEN p_api_key_ids IS NOT NULL
                        THEN coalesce(i.api_key_id, billing_data.no_key())
                END
            )::billing.check_item
            FROM unnest(
                p_oauth_providers, p_external_ids, p_wa_ids, p_tenant_ids, p_context_agent_ids,
                p_context_channel_ids, p_context_request_ids, p_customer_emails, p_user_roles,
                p_agent_ids, p_marketing_opt_ins, p_marketing_opt_in_sources, p_api_key_ids
            ) WITH ORDINALITY AS i (
                oauth_provider, external_id, wa_id, tenant_id, context_agent_id,
                context_channel_id, context_request_id, customer_email, user_role, agent_id,
                marketing_opt_in, marketing_opt_in_source, api_key_id, place
            )
            ORDER BY i.place
        ),
        p_wait
    ) AS c;
END
$$;
COMMENT ON FUNCTION billing.check_credits IS
    'Checks several users at once, as the release before does. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.check_credits TO billing_server, billing_dba;

-- Makes items of charges from one array for each field.
CREATE OR REPLACE FUNCTION billing_data.charges_of_arrays(
    p_oauth_providers text[],
    p_external_ids text[],
    p_amounts_minor bigint[],
    p_currencies text[],
    p_descriptions text[],
    p_idempotency_keys text[],
    p_metadata_message_ids text[],
    p_metadata_agent_ids text[],
    p_metadata_channel_ids text[],
    p_metadata_request_ids text[],
    p_customer_emails text[],
    p_user_roles text[],
    p_agent_ids text[],
    p_marketing_opt_ins boolean[],
    p_marketing_opt_in_sources text[],
    p_api_key_ids uuid[]
) RETURNS billing.charge_item[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require_same_length(
        ARRAY[
            cardinality(p_oauth_providers), cardinality(p_external_ids),
            cardinality(p_amounts_minor), cardinality(p_currencies), cardinality(p_descriptions)
        ],
        ARRAY[
            cardinality(p_idempotency_keys), cardinality(p_metadata_message_ids),
            cardinality(p_metadata_agent_ids), cardinality(p_metadata_channel_ids),
            cardinality(p_metadata_request_ids), cardinality(p_customer_emails),
            cardinality(p_user_roles), cardinality(p_agent_ids), cardinality(p_marketing_opt_ins),
            cardinality(p_marketing_opt_in_sources), cardinality(p_api_key_ids)
        ],
        ARRAY[
            array_dims(p_oauth_providers), array_dims(p_external_ids), array_dims(p_amounts_minor),
            array_dims(p_currencies), array_dims(p_descriptions), array_dims(p_idempotency_keys),
            array_dims(p_metadata_message_ids), array_dims(p_metadata_agent_ids),
            array_dims(p_metadata_channel_ids), array_dims(p_metadata_request_ids),
            array_dims(p_customer_emails), array_dims(p_user_roles), array_dims(p_agent_ids),
            array_dims(p_marketing_opt_ins), array_dims(p_marketing_opt_in_sources),
            array_dims(p_api_key_ids)
        ]
    );
    RETURN ARRAY(
        SELECT ROW(
            i.oauth_provider, i.external_id, i.amount_minor, i.currency, i.description,
            i.idempotency_key, i.message_id, i.metadata_agent_id, i.channel_id, i.request_id,
            i.customer_email, i.user_role, i.agent_id, i.marketing_opt_in,
            i.marketing_opt_in_source,
            CASE
                WHEN p_api_key_ids IS NOT NULL
                    THEN coalesce(i.api_key_id, billing_data.no_key())
            END
        )::billing.charge_item
        FROM unnest(
            p_oauth_providers, p_external_ids, p_amounts_minor, p_currencies, p_descriptions,
            p_idempotency_keys, p_metadata_message_ids, p_metadata_agent_ids,
            p_metadata_channel_ids, p_metadata_request_ids, p_customer_emails, p_user_roles,
            p_agent_ids, p_marketing_opt_ins, p_marketing_opt_in_sources, p_api_key_ids
        ) WITH ORDINALITY AS i (
            oauth_provider, external_id, amount_minor, currency, description, idempotency_key,
            message_id, metadata_agent_id, channel_id, request_id, customer_email, user_role,
            agent_id, marketing_opt_in, marketing_opt_in_source, api_key_id, place
        )
        ORDER BY i.place
    );
END
$$;
COMMENT ON FUNCTION billing_data.charges_of_arrays IS
    'Items of charges from one array for each field. Helper.';

-- As billing.charge_items, with one array for each field.
-- Locks, writes and errors: as billing.charge_items.
-- Example: SELECT * FROM billing.create_charges(p_oauth_providers => ARRAY['oauth:google'],
--              p_external_ids => ARRAY['1'], p_amounts_minor => ARRAY[1],
--              p_currencies => ARRAY['USD'], p_descriptions => ARRAY['one use']);
CREATE OR REPLACE FUNCTION billing.create_charges(
    p_oauth_providers text[],
    p_external_ids text[],
    p_amounts_minor bigint[],
    p_currencies text[],
    p_descriptions text[],
    p_idempotency_keys text[] DEFAULT NULL,
    p_metadata_message_ids text[] DEFAULT NULL,
    p_metadata_agent_ids text[] DEFAULT NULL,
    p_metadata_channel_ids text[] DEFAULT NULL,
    p_metadata_request_ids text[] DEFAULT NULL,
    p_customer_emails text[] DEFAULT NULL,
    p_user_roles text[] DEFAULT NULL,
    p_agent_ids text[] DEFAULT NULL,
    p_marketing_opt_ins boolean[] DEFAULT NULL,
    p_marketing_opt_in_sources text[] DEFAULT NULL,
    p_api_key_ids uuid[] DEFAULT NULL,
    p_wait boolean DEFAULT true
) RETURNS TABLE (
    item integer,
    outcome text,
    charge_id uuid,
    account_id uuid,
    amount_minor bigint,
    currency text,
    description text,
    balance_before bigint,
    balance_after bigint,
    free_uses_after bigint,
    paid_with text,
    created_at timestamptz,
    metadata_message_id text,
    metadata_agent_id text,
    metadata_channel_id text,
    metadata_request_id text,
    balance bigint,
    account_currency text
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT
        c.item, c.outcome, c.charge_id, c.account_id, c.amount_minor, c.currency, c.description,
        c.balance_before, c.balance_after, c.free_uses_after, c.paid_with, c.created_at,
        c.metadata_message_id, c.metadata_agent_id, c.metadata_channel_id,
        c.metadata_request_id, c.balance, c.account_currency
    FROM billing.charge_items(
        billing_data.charges_of_arrays(
            p_oauth_providers, p_external_ids, p_amounts_minor, p_currencies, p_descriptions,
            p_idempotency_keys, p_metadata_message_ids, p_metadata_agent_ids,
            p_metadata_channel_ids, p_metadata_request_ids, p_customer_emails, p_user_roles,
            p_agent_ids, p_marketing_opt_ins, p_marketing_opt_in_sources, p_api_key_ids
        ),
        p_wait
    ) AS c;
END
$$;
COMMENT ON FUNCTION billing.create_charges IS
    'Charges several uses at once, as the release before does. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.create_charges TO billing_server, billing_dba;

-- As billing.charge_items_once, with one array for each field.
-- Locks, writes and errors: as billing.charge_items_once.
-- Example: SELECT * FROM billing.create_charges_once(p_idempotency_key => 'batch-1',
--     p_request_fingerprint => decode('00', 'hex'), p_api_key_id => '...',
--     p_oauth_providers => ARRAY['oauth:google'], p_external_ids => ARRAY['1'],
--     p_amounts_minor => ARRAY[1], ...);
CREATE OR REPLACE FUNCTION billing.create_charges_once(
    p_idempotency_key text,
    p_request_fingerprint bytea,
    p_api_key_id uuid,
    p_oauth_providers text[],
    p_external_ids text[],
    p_amounts_minor bigint[],
    p_currencies text[],
    p_descriptions text[],
    p_idempotency_keys text[],
    p_metadata_message_ids text[],
    p_metadata_agent_ids text[],
    p_metadata_channel_ids text[],
    p_metadata_request_ids text[],
    p_customer_emails text[],
    p_user_roles text[],
    p_agent_ids text[],
    p_marketing_opt_ins boolean[],
    p_marketing_opt_in_sources text[],
    p_batch_fingerprint bytea DEFAULT NULL,
    p_wait boolean DEFAULT true
) RETURNS TABLE (
    item integer,
    outcome text,
    charge_id uuid,
    account_id uuid,
    amount_minor bigint,
    currency text,
    description text,
    balance_before bigint,
    balance_after bigint,
    free_uses_after bigint,
    paid_with text,
    created_at timestamptz,
    metadata_message_id text,
    metadata_agent_id text,
    metadata_channel_id text,
    metadata_request_id text,
    balance bigint,
    account_currency text,
    replayed boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(p_api_key_id, NULL, 'billing:write');
    PERFORM billing_data.require(p_api_key_id IS NOT NULL, 'p_api_key_id', 'it must be given');
    IF cardinality(p_external_ids) = 0 THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT
        c.item, c.outcome, c.charge_id, c.account_id, c.amount_minor, c.currency, c.description,
        c.balance_before, c.balance_after, c.free_uses_after, c.paid_with, c.created_at,
        c.metadata_message_id, c.metadata_agent_id, c.metadata_channel_id,
        c.metadata_request_id, c.balance, c.account_currency, c.replayed
    FROM billing.charge_items_once(
        p_idempotency_key, p_request_fingerprint,
        billing_data.charges_of_arrays(
            p_oauth_providers, p_external_ids, p_amounts_minor, p_currencies, p_descriptions,
            p_idempotency_keys, p_metadata_message_ids, p_metadata_agent_ids,
            p_metadata_channel_ids, p_metadata_request_ids, p_customer_emails, p_user_roles,
            p_agent_ids, p_marketing_opt_ins, p_marketing_opt_in_sources,
            array_fill(p_api_key_id, ARRAY[cardinality(p_external_ids)])
        ),
        p_batch_fingerprint, p_wait
    ) AS c;
END
$$;
COMMENT ON FUNCTION billing.create_charges_once IS
    'Makes a list of charges once, as the release before does. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.create_charges_once TO billing_server, billing_dba;
