-- Checks: may this user go on? A check consumes nothing; it creates the account if there is none,
-- applies profile updates and leaves an audit row with the decision it really made.

-- Whether an item of a batch has the shape of a check; NULL is no identity, but a fine rest.
CREATE OR REPLACE FUNCTION billing_data.is_check(
    p_oauth_provider text,
    p_external_id text,
    p_wa_id text,
    p_tenant_id text,
    p_context_agent_id text,
    p_context_channel_id text,
    p_context_request_id text,
    p_customer_email text,
    p_user_role text,
    p_agent_id text,
    p_marketing_opt_in_source text
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    starts_with(p_oauth_provider, 'oauth:') AND length(p_external_id) > 0
    AND greatest(
        length(p_oauth_provider), length(p_external_id), length(p_wa_id), length(p_tenant_id),
        length(p_context_agent_id), length(p_context_channel_id),
        length(p_context_request_id), length(p_customer_email), length(p_agent_id)
    ) <= billing_data.most('external_id')
    AND coalesce(length(p_user_role), 0) <= billing_data.most('user_role')
    AND coalesce(length(p_marketing_opt_in_source), 0)
        <= billing_data.most('marketing_opt_in_source')
) IS TRUE;
COMMENT ON FUNCTION billing_data.is_check IS
    'Whether an item of a batch has the shape of a check. Helper.';

-- The core of every check: one item per array position, all arrays of one length. An item's
-- outcome is 'checked', or the slug of what refused it; 'busy' only when p_wait is false and
-- somebody else holds what the item would have to change. Nothing an item meets fails another.
-- A profile is billing:write's to give: what comes with a key of billing:read alone is not looked at.
-- Locks: per item, only where its profile changes, the account (id order); of a new
-- account the identity's index entry. Writes: accounts (new, profile), credit_checks 1 per checked item.
-- The commit is asynchronous when nothing but audit rows was written.
-- Errors: actor_required, actor_not_allowed; all else is an outcome.
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
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_nothing_written boolean := pg_current_xact_id_if_assigned() IS NULL;
    v_only_audit boolean := true;
    v_role text;
    v_faulty boolean := false;
    v_readers uuid[];  -- the keys that may read only
    v_settings billing_data.settings;
    v_item record;
    v_account billing_data.accounts;
    v_changed billing_data.accounts;
    v_check billing_data.credit_checks;
    v_checks billing_data.credit_checks[] := ARRAY[]::billing_data.credit_checks[];
    v_found record;
    v_current billing_data.accounts;  -- the account of the item before, as it is by now
    v_created uuid[] := ARRAY[]::uuid[];  -- in the order in which the loop meets them
    v_next integer := 1;  -- the first of them that it has not met
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
    IF p_api_key_ids IS NULL THEN
        v_role := billing_data.caller_role();
    ELSIF NOT billing_data.is_web_tier() THEN
        PERFORM billing_data.raise_error('actor_not_allowed');
    ELSE
        SELECT k.ids, k.faulty, k.readers INTO STRICT p_api_key_ids, v_faulty, v_readers
        FROM billing_data.find_keys(p_api_key_ids, 'billing:read') AS k;
    END IF;
    -- Whoever may only read changes nobody's profile: what they send of one is passed over.
    IF v_readers IS NOT NULL THEN
        SELECT
            array_agg(CASE WHEN w.may THEN i.customer_email END ORDER BY i.item),
            array_agg(CASE WHEN w.may THEN i.user_role END ORDER BY i.item),
            array_agg(CASE WHEN w.may THEN i.agent_id END ORDER BY i.item),
            array_agg(CASE WHEN w.may THEN i.marketing_opt_in END ORDER BY i.item),
            array_agg(CASE WHEN w.may THEN i.marketing_opt_in_source END ORDER BY i.item)
        INTO STRICT
            p_customer_emails, p_user_roles, p_agent_ids, p_marketing_opt_ins,
            p_marketing_opt_in_sources
        FROM unnest(
            p_api_key_ids, p_customer_emails, p_user_roles, p_agent_ids, p_marketing_opt_ins,
            p_marketing_opt_in_sources
        ) WITH ORDINALITY AS i (
            api_key_id, customer_email, user_role, agent_id, marketing_opt_in,
            marketing_opt_in_source, item
        )
        CROSS JOIN LATERAL (SELECT (i.api_key_id <> ALL (v_readers)) IS TRUE) AS w (may);
    END IF;
    SELECT s.* INTO STRICT v_settings FROM billing_data.settings AS s;

    IF p_wait THEN
        -- New accounts first, in the order of their identities; then the loop meets all rows, and
        -- locks those it must, in the order of their ids. Two calls cannot wait for each other.
        FOR v_item IN
            SELECT DISTINCT ON (i.oauth_provider, i.external_id)
                i.oauth_provider, i.external_id, i.wa_id, i.tenant_id, i.customer_email,
                i.user_role, i.agent_id, i.marketing_opt_in, i.marketing_opt_in_source
            FROM unnest(
                p_oauth_providers, p_external_ids, p_wa_ids, p_tenant_ids, p_context_agent_ids,
                p_context_channel_ids, p_context_request_ids, p_customer_emails, p_user_roles,
                p_agent_ids, p_marketing_opt_ins, p_marketing_opt_in_sources, p_api_key_ids
            ) WITH ORDINALITY AS i (
                oauth_provider, external_id, wa_id, tenant_id, context_agent_id, context_channel_id,
                context_request_id, customer_email, user_role, agent_id, marketing_opt_in,
                marketing_opt_in_source, api_key_id, item
            )
            LEFT JOIN billing_data.accounts AS a
                ON a.oauth_provider = i.oauth_provider AND a.external_id = i.external_id
            WHERE a.id IS NULL
                AND billing_data.is_check(
                    i.oauth_provider, i.external_id, i.wa_id, i.tenant_id, i.context_agent_id,
                    i.context_channel_id, i.context_request_id, i.customer_email, i.user_role,
                    i.agent_id, i.marketing_opt_in_source
                )
                AND (
                    p_api_key_ids IS NULL
                    OR billing_data.api_key_fault(i.api_key_id, 'billing:read') IS NULL
                )
            ORDER BY i.oauth_provider, i.external_id, i.item
        LOOP
            SELECT f.account, f.created INTO STRICT v_found
            FROM billing_data.find_or_create_account(
                v_item.oauth_provider, v_item.external_id, v_item.wa_id, v_item.tenant_id, 0,
                'USD', 'free', v_item.customer_email, v_item.user_role, v_item.agent_id,
                v_item.marketing_opt_in, v_item.marketing_opt_in_source, p_wait => true
            ) AS f;
            IF v_found.created THEN
                v_created := array_append(v_created, (v_found.account).id);
                v_only_audit := false;
            END IF;
        END LOOP;
        v_created := ARRAY(SELECT c.id FROM unnest(v_created) AS c (id) ORDER BY c.id);
    END IF;

    FOR v_item IN
        SELECT
            i.item, i.oauth_provider, i.external_id, i.wa_id, i.tenant_id, i.context_agent_id,
            i.context_channel_id, i.context_request_id, i.customer_email, i.user_role, i.agent_id,
            i.marketing_opt_in, i.marketing_opt_in_source, i.api_key_id, a AS account,
            billing_data.is_check(
                i.oauth_provider, i.external_id, i.wa_id, i.tenant_id, i.context_agent_id,
                i.context_channel_id, i.context_request_id, i.customer_email, i.user_role,
                i.agent_id, i.marketing_opt_in_source
            ) AS is_valid
        FROM unnest(
            p_oauth_providers, p_external_ids, p_wa_ids, p_tenant_ids, p_context_agent_ids,
            p_context_channel_ids, p_context_request_ids, p_customer_emails, p_user_roles,
            p_agent_ids, p_marketing_opt_ins, p_marketing_opt_in_sources, p_api_key_ids
        ) WITH ORDINALITY AS i (
            oauth_provider, external_id, wa_id, tenant_id, context_agent_id, context_channel_id,
            context_request_id, customer_email, user_role, agent_id, marketing_opt_in,
            marketing_opt_in_source, api_key_id, item
        )
        LEFT JOIN billing_data.accounts AS a
            ON a.oauth_provider = i.oauth_provider AND a.external_id = i.external_id
        ORDER BY a.id, i.oauth_provider, i.external_id, i.item
    LOOP
        v_account := v_item.account;
        IF v_account.id = v_current.id THEN
            v_account := v_current;
        END IF;
        account_created := coalesce(v_account.id = v_created[v_next], false);
        outcome := CASE WHEN v_item.is_valid THEN 'checked' ELSE 'invalid_argument' END;
        <<prepare>>
        BEGIN
            IF p_api_key_ids IS NOT NULL AND (v_faulty OR v_item.api_key_id IS NULL) THEN
                outcome := coalesce(
                    billing_data.api_key_fault(v_item.api_key_id, 'billing:read'), outcome
                );
            END IF;
            EXIT prepare WHEN outcome <> 'checked';

            IF v_account.id IS NULL THEN
                SELECT f.account, f.created INTO v_found
                FROM billing_data.find_or_create_account(
                    v_item.oauth_provider, v_item.external_id, v_item.wa_id, v_item.tenant_id, 0,
                    'USD', 'free', v_item.customer_email, v_item.user_role, v_item.agent_id,
                    v_item.marketing_opt_in, v_item.marketing_opt_in_source, p_wait
                ) AS f;
                IF NOT FOUND THEN
                    outcome := 'busy';
                    EXIT prepare;
                END IF;
                v_account := v_found.account;
                account_created := v_found.created;
                v_only_audit := v_only_audit AND NOT v_found.created;
            ELSIF account_created THEN
                v_next := v_next + 1;
            END IF;

            EXIT prepare WHEN v_item.marketing_opt_in IS NOT TRUE
                AND num_nonnulls(v_item.customer_email, v_item.user_role, v_item.agent_id) = 0;
            v_changed := billing_data.with_profile(
                v_account, v_item.customer_email, v_item.user_role, v_item.agent_id,
                v_item.marketing_opt_in, v_item.marketing_opt_in_source, v_now
            );
            EXIT prepare WHEN v_changed IS NOT DISTINCT FROM v_account;
            -- Decide again on the row as it is once it is ours.
            IF p_wait THEN
                SELECT a.* INTO v_account
                FROM billing_data.accounts AS a WHERE a.id = v_changed.id
                FOR NO KEY UPDATE;
            ELSE
                SELECT a.* INTO v_account
                FROM billing_data.accounts AS a WHERE a.id = v_changed.id
                FOR NO KEY UPDATE SKIP LOCKED;
                IF NOT FOUND THEN
                    outcome := 'busy';
                    EXIT prepare;
                END IF;
            END IF;
            v_changed := billing_data.with_profile(
                v_account, v_item.customer_email, v_item.user_role, v_item.agent_id,
                v_item.marketing_opt_in, v_item.marketing_opt_in_source, v_now
            );
            UPDATE billing_data.accounts AS a
            SET customer_email = v_changed.customer_email,
                user_role = v_changed.user_role,
                agent_id = v_changed.agent_id,
                marketing_opt_in = v_changed.marketing_opt_in,
                marketing_opt_in_at = v_changed.marketing_opt_in_at,
                marketing_opt_in_source = v_changed.marketing_opt_in_source,
                updated_at = v_now
            WHERE a.id = v_account.id AND v_changed IS DISTINCT FROM v_account;
            v_account := v_changed;
            v_only_audit := false;
        END prepare;

        item := v_item.item;
        v_current := v_account;
        IF outcome <> 'checked' THEN
            v_account := NULL;
            account_created := false;
        END IF;
        credits_remaining := v_account.paid_credits;
        free_uses_remaining := v_account.free_uses_remaining;
        total_uses := v_account.total_uses;
        plan_name := v_account.plan_name;
        reason := CASE
            WHEN v_account.status = 'suspended' THEN 'Account suspended'
            WHEN v_account.status = 'closed' THEN 'Account closed'
            WHEN v_account.free_uses_remaining <= 0 AND v_account.paid_credits <= 0
                THEN 'No free uses or credits remaining'
        END;
        has_credit := outcome = 'checked' AND reason IS NULL;
        purchase_required := NOT has_credit AND v_account.status = 'active';
        purchase_price_minor := CASE WHEN purchase_required THEN v_settings.pack_price_minor END;
        purchase_uses := CASE WHEN purchase_required THEN v_settings.pack_uses END;
        RETURN NEXT;
        CONTINUE WHEN outcome <> 'checked';

        v_check.id := billing_data.new_id();
        v_check.account_id := v_account.id;
        v_check.oauth_provider := v_item.oauth_provider;
        v_check.external_id := v_item.external_id;
        v_check.wa_id := v_item.wa_id;
        v_check.tenant_id := v_item.tenant_id;
        v_check.has_credit := has_credit;
        v_check.credits_remaining := credits_remaining;
        v_check.free_uses_remaining := free_uses_remaining;
        v_check.plan_name := plan_name;
        v_check.denial_reason := reason;
        v_check.context_agent_id := v_item.context_agent_id;
        v_check.context_channel_id := v_item.context_channel_id;
        v_check.context_request_id := v_item.context_request_id;
        v_check.api_key_id := v_item.api_key_id;
        v_check.database_role := v_role;
        v_check.created_at := v_now;
        v_checks := array_append(v_checks, v_check);
    END LOOP;

    IF v_only_audit AND v_nothing_written THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    ELSE
        PERFORM billing_data.require_durable_commit();
    END IF;
    INSERT INTO billing_data.credit_checks (
        id, account_id, oauth_provider, external_id, wa_id, tenant_id, has_credit,
        credits_remaining, free_uses_remaining, plan_name, denial_reason, context_agent_id,
        context_channel_id, context_request_id, api_key_id, database_role, created_at
    )
    SELECT
        c.id, c.account_id, c.oauth_provider, c.external_id, c.wa_id, c.tenant_id, c.has_credit,
        c.credits_remaining, c.free_uses_remaining, c.plan_name, c.denial_reason,
        c.context_agent_id, c.context_channel_id, c.context_request_id, c.api_key_id,
        c.database_role, c.created_at
    FROM unnest(v_checks) AS c;
END
$$;
COMMENT ON FUNCTION billing.check_credits IS
    'Checks several users at once, an outcome per item. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.check_credits TO billing_server, billing_dba;

-- May this user go on? One check; billing.check_credits with one item and errors raised.
-- Errors: actor and key errors, invalid_argument. A denial is an answer, not an error.
-- Example: SELECT * FROM billing.check_credit(p_oauth_provider => 'oauth:google', p_external_id => '1');
CREATE OR REPLACE FUNCTION billing.check_credit(
    p_oauth_provider text,
    p_external_id text,
    p_wa_id text DEFAULT NULL,
    p_tenant_id text DEFAULT NULL,
    p_context_agent_id text DEFAULT NULL,
    p_context_channel_id text DEFAULT NULL,
    p_context_request_id text DEFAULT NULL,
    p_customer_email text DEFAULT NULL,
    p_user_role text DEFAULT NULL,
    p_agent_id text DEFAULT NULL,
    p_marketing_opt_in boolean DEFAULT false,
    p_marketing_opt_in_source text DEFAULT NULL,
    p_api_key_id uuid DEFAULT NULL
) RETURNS TABLE (
    has_credit boolean,
    reason text,
    credits_remaining bigint,
    free_uses_remaining bigint,
    total_uses bigint,
    plan_name text,
    purchase_required boolean,
    purchase_price_minor bigint,
    purchase_uses bigint
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_outcome text;
BEGIN
    PERFORM billing_data.require_identity(p_oauth_provider, p_external_id);
    SELECT
        c.outcome, c.has_credit, c.reason, c.credits_remaining, c.free_uses_remaining,
        c.total_uses, c.plan_name, c.purchase_required, c.purchase_price_minor, c.purchase_uses
    INTO STRICT
        v_outcome, has_credit, reason, credits_remaining, free_uses_remaining, total_uses,
        plan_name, purchase_required, purchase_price_minor, purchase_uses
    FROM billing.check_credits(
        p_oauth_providers => ARRAY[p_oauth_provider],
        p_external_ids => ARRAY[p_external_id],
        p_wa_ids => ARRAY[p_wa_id],
        p_tenant_ids => ARRAY[p_tenant_id],
        p_context_agent_ids => ARRAY[p_context_agent_id],
        p_context_channel_ids => ARRAY[p_context_channel_id],
        p_context_request_ids => ARRAY[p_context_request_id],
        p_customer_emails => ARRAY[p_customer_email],
        p_user_roles => ARRAY[p_user_role],
        p_agent_ids => ARRAY[p_agent_id],
        p_marketing_opt_ins => ARRAY[p_marketing_opt_in],
        p_marketing_opt_in_sources => ARRAY[p_marketing_opt_in_source],
        p_api_key_ids => CASE WHEN p_api_key_id IS NOT NULL THEN ARRAY[p_api_key_id] END
    ) AS c;
    IF v_outcome = 'invalid_argument' THEN
        PERFORM billing_data.require_short(p_wa_id, 'p_wa_id');
        PERFORM billing_data.require_short(p_tenant_id, 'p_tenant_id');
        PERFORM billing_data.require_short(p_context_agent_id, 'p_context_agent_id');
        PERFORM billing_data.require_short(p_context_channel_id, 'p_context_channel_id');
        PERFORM billing_data.require_short(p_context_request_id, 'p_context_request_id');
        PERFORM billing_data.require_profile(
            p_customer_email, p_user_role, p_agent_id, p_marketing_opt_in_source
        );
    END IF;
    IF v_outcome <> 'checked' THEN
        PERFORM billing_data.raise_error(
            v_outcome, jsonb_build_object('permission', 'billing:read')
        );
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.check_credit IS
    'Tells whether a user may go on; creates the account if new. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.check_credit TO billing_server, billing_dba;
