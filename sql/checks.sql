-- Checks: may this user go on? A check consumes nothing; it creates the account if there is none,
-- applies profile updates and leaves an audit row with the decision it really made.

-- Whether an item has the shape of a check. The identity must not be NULL; any other field may.
CREATE OR REPLACE FUNCTION billing_data.is_check(p_item billing.check_item) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    starts_with((p_item).oauth_provider, 'oauth:') AND length((p_item).external_id) > 0
    AND greatest(
        length((p_item).oauth_provider), length((p_item).external_id), length((p_item).wa_id),
        length((p_item).tenant_id), length((p_item).context_agent_id),
        length((p_item).context_channel_id), length((p_item).context_request_id),
        length((p_item).customer_email), length((p_item).agent_id)
    ) <= billing_data.most('external_id')
    AND coalesce(length((p_item).user_role), 0) <= billing_data.most('user_role')
    AND coalesce(length((p_item).marketing_opt_in_source), 0)
        <= billing_data.most('marketing_opt_in_source')
) IS TRUE;
COMMENT ON FUNCTION billing_data.is_check IS
    'Whether an item of a list has the shape of a check. Helper.';

-- Why an account may not go on; NULL when it may.
CREATE OR REPLACE FUNCTION billing_data.denial_reason(
    p_status text, p_free_uses bigint, p_paid_credits bigint
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN p_status = 'suspended' THEN 'Account suspended'
    WHEN p_status = 'closed' THEN 'Account closed'
    WHEN p_free_uses <= 0 AND p_paid_credits <= 0 THEN 'No free uses or credits remaining'
END;
COMMENT ON FUNCTION billing_data.denial_reason IS
    'Why an account may not go on, NULL when it may. Helper.';

-- Whether the answer offers a purchase: the user was denied for lack of credits, and the account
-- could use them.
CREATE OR REPLACE FUNCTION billing_data.wants_purchase(p_status text, p_denial_reason text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN p_denial_reason IS NOT NULL AND p_status = 'active';
COMMENT ON FUNCTION billing_data.wants_purchase IS
    'Whether a denied user could go on with a purchase. Helper.';

-- The items of a list with the identities of the accounts that merged ones lead to.
CREATE OR REPLACE FUNCTION billing_data.follow_checks(p_items billing.check_item[])
RETURNS billing.check_item[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(
        CASE
            WHEN n.id IS NULL THEN i.asked
            ELSE jsonb_populate_record(i.asked, jsonb_build_object(
                'oauth_provider', n.oauth_provider, 'external_id', n.external_id
            ))
        END
        ORDER BY i.item
    )
    FROM (
        SELECT asked, row_number() OVER ()::integer AS item FROM unnest(p_items) AS asked
    ) AS i
    LEFT JOIN LATERAL (
        SELECT o.id FROM billing_data.accounts AS o
        WHERE o.oauth_provider = (i.asked).oauth_provider
            AND o.external_id = (i.asked).external_id AND o.status = 'merged'
        OFFSET 0
    ) AS a ON true
    LEFT JOIN LATERAL (
        SELECT o.id, o.oauth_provider, o.external_id FROM billing_data.accounts AS o
        WHERE o.id = billing_data.surviving_account(a.id)
        OFFSET 0
    ) AS n ON true
$$;
COMMENT ON FUNCTION billing_data.follow_checks IS
    'A list of checks with the identities of the accounts in use. Helper.';

-- Books what is due for the accounts of checks that are still to be decided (p_rest). Where there
-- is something, it locks all accounts of these checks, because their profiles may change, too.
-- Returns p_busy with the items whose account another transaction holds.
-- Locks: the accounts, in id order.
CREATE OR REPLACE FUNCTION billing_data.book_for_checks(
    p_items billing.check_item[], p_rest boolean[], p_busy boolean[], p_wait boolean
) RETURNS boolean[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_items integer[];
    v_accounts uuid[];
    v_is_due boolean;
    v_locked uuid[];
BEGIN
    SELECT array_agg(i.item), array_agg(a.id), bool_or(a.due_at <= billing_data.clock())
    INTO STRICT v_items, v_accounts, v_is_due
    FROM generate_subscripts(p_items, 1) AS i (item)
    CROSS JOIN LATERAL (
        SELECT o.id, o.due_at FROM billing_data.accounts AS o
        WHERE o.oauth_provider = (p_items[i.item]).oauth_provider
            AND o.external_id = (p_items[i.item]).external_id
        OFFSET 0
    ) AS a
    WHERE p_rest[i.item];
    IF v_is_due IS NOT TRUE THEN
        RETURN p_busy;
    END IF;
    v_locked := billing_data.lock_for_list(
        ARRAY(SELECT DISTINCT u.id FROM unnest(v_accounts) AS u (id) ORDER BY u.id), p_wait
    );
    FOR v_place IN 1 .. cardinality(v_items) LOOP
        IF v_accounts[v_place] <> ALL (v_locked) THEN
            p_busy[v_items[v_place]] := true;
        END IF;
    END LOOP;
    RETURN p_busy;
END
$$;
COMMENT ON FUNCTION billing_data.book_for_checks IS
    'Books what is due for accounts before checks are decided. Helper.';

-- Creates the accounts and applies the profile updates that a list of checks needs before it is
-- decided. p_rest marks the items concerned. It creates accounts in the order of their identities
-- and then updates profiles in the order of account ids, so that two calls cannot deadlock. Returns
-- which items created an account, and, with p_wait false, which items met a lock of another
-- transaction.
CREATE OR REPLACE FUNCTION billing_data.prepare_checks(
    p_items billing.check_item[], p_role text, p_rest boolean[], p_wait boolean,
    OUT created boolean[], OUT busy boolean[]
)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    v_item record;
    v_created boolean;
BEGIN
    created := array_fill(false, ARRAY[cardinality(p_items)]);
    busy := created;
    FOR v_item IN
        SELECT DISTINCT ON ((i.asked).oauth_provider, (i.asked).external_id)
            i.item, (i.asked).*, billing_data.may_write(p_role, k) AS may_write
        FROM (
            SELECT asked, row_number() OVER ()::integer AS item FROM unnest(p_items) AS asked
        ) AS i
        LEFT JOIN billing_data.api_keys AS k
            ON coalesce(k.credential, k.id) = (i.asked).api_key_id
        WHERE p_rest[i.item] AND NOT EXISTS (
            SELECT FROM billing_data.accounts AS a
            WHERE a.oauth_provider = (i.asked).oauth_provider
                AND a.external_id = (i.asked).external_id
            OFFSET 0
        )
        ORDER BY (i.asked).oauth_provider, (i.asked).external_id, i.item
    LOOP
        SELECT f.created INTO v_created
        FROM billing_data.find_or_create_account(
            v_item.oauth_provider, v_item.external_id, v_item.wa_id, v_item.tenant_id, 0, 'USD',
            'free', CASE WHEN v_item.may_write THEN v_item.customer_email END,
            CASE WHEN v_item.may_write THEN v_item.user_role END,
            CASE WHEN v_item.may_write THEN v_item.agent_id END,
            v_item.may_write AND v_item.marketing_opt_in,
            CASE WHEN v_item.may_write THEN v_item.marketing_opt_in_source END, p_wait
        ) AS f;
        IF v_created IS NULL THEN
            FOR v_number IN 1 .. cardinality(p_items) LOOP
                busy[v_number] := busy[v_number] OR (
                    p_rest[v_number]
                    AND (p_items[v_number]).oauth_provider = v_item.oauth_provider
                    AND (p_items[v_number]).external_id = v_item.external_id
                );
            END LOOP;
        ELSIF v_created THEN
            created[v_item.item] := true;
        END IF;
    END LOOP;
    busy := billing_data.book_for_checks(p_items, p_rest, busy, p_wait);
    -- Every profile update for these accounts is applied in the order of the list: one that changes
    -- nothing now may change something after an earlier one.
    FOR v_item IN
        SELECT s.item, (s.asked).*, s.account_id
        FROM (
            SELECT
                i.item, i.asked, a.id AS account_id,
                bool_or(p_rest[i.item]) OVER (PARTITION BY a.id) AS is_due,
                billing_data.may_write(p_role, k) AND billing_data.is_check(i.asked)
                AND billing_data.item_fault(p_role, (i.asked).api_key_id, k, 'billing:read') IS NULL
                    AS counts
            FROM (
                SELECT asked, row_number() OVER ()::integer AS item FROM unnest(p_items) AS asked
            ) AS i
            CROSS JOIN LATERAL (
                SELECT o.id FROM billing_data.accounts AS o
                WHERE o.oauth_provider = (i.asked).oauth_provider
                    AND o.external_id = (i.asked).external_id
                OFFSET 0
            ) AS a
            LEFT JOIN billing_data.api_keys AS k
                ON coalesce(k.credential, k.id) = (i.asked).api_key_id
        ) AS s
        WHERE s.is_due AND s.counts
            AND billing_data.has_profile(
                (s.asked).customer_email, (s.asked).user_role, (s.asked).agent_id,
                (s.asked).marketing_opt_in
            )
        ORDER BY s.account_id, s.item
    LOOP
        IF NOT p_wait THEN
            PERFORM FROM billing_data.accounts AS a
            WHERE a.id = v_item.account_id
            FOR NO KEY UPDATE SKIP LOCKED;
            IF NOT FOUND THEN
                busy[v_item.item] := true;
                CONTINUE;
            END IF;
        END IF;
        PERFORM billing_data.change_profile(
            v_item.account_id, v_item.customer_email, v_item.user_role, v_item.agent_id,
            v_item.marketing_opt_in, v_item.marketing_opt_in_source
        );
    END LOOP;
END
$$;
COMMENT ON FUNCTION billing_data.prepare_checks IS
    'Makes accounts and changes profiles before checks are decided. Helper.';

-- Adds to the outcomes of checks when the accounts' next credits end, and how many.
CREATE OR REPLACE FUNCTION billing_data.with_next_expiry(
    p_items billing.check_item[], p_outcomes billing.check_outcome[]
) RETURNS billing.check_outcome[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_outcome billing.check_outcome;
    v_outcomes billing.check_outcome[] := ARRAY[]::billing.check_outcome[];
BEGIN
    FOREACH v_outcome IN ARRAY p_outcomes LOOP
        IF v_outcome.outcome = 'checked' THEN
            SELECT n.at, n.amount_minor
            INTO v_outcome.next_expiry_at, v_outcome.next_expiry_amount_minor
            FROM billing_data.accounts AS a
            CROSS JOIN LATERAL billing_data.next_expiry(a.id) AS n
            WHERE a.has_lots
                AND a.oauth_provider = (p_items[v_outcome.item]).oauth_provider
                AND a.external_id = (p_items[v_outcome.item]).external_id;
        END IF;
        v_outcomes := v_outcomes || v_outcome;
    END LOOP;
    RETURN v_outcomes;
END
$$;
COMMENT ON FUNCTION billing_data.with_next_expiry IS
    'The outcomes of checks with what ends next of their accounts'' credits. Helper.';

-- Checks a list of items. Every check goes through here but the plain case of billing.check_credit.
-- An item's outcome is 'checked', the slug of the refusal, or, only with p_wait false, 'busy', when
-- another transaction holds the account or identity that the item would change. One item's refusal
-- does not affect the others. A profile update needs billing:write: from a key without it the
-- update is ignored.
-- Locks, per item: the account, only where its profile changes (in id order); for a new account,
-- the identity's index entry. Writes: accounts (new ones, profiles); credit_checks, 1 per checked
-- item. The commit is asynchronous when only audit rows were written.
-- Errors: actor_required, actor_not_allowed, invalid_argument; all else is an outcome.
-- Example: SELECT * FROM billing.check_items(p_items => ARRAY[jsonb_populate_record(
--     NULL::billing.check_item, '{"oauth_provider": "oauth:google", "external_id": "1"}')]);
CREATE OR REPLACE FUNCTION billing.check_items(
    p_items billing.check_item[], p_wait boolean DEFAULT true
) RETURNS SETOF billing.check_outcome
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    v_only_audit boolean := pg_current_xact_id_if_assigned() IS NULL;
    v_role text := billing_data.role_of_caller((p_items[1]).api_key_id);
    v_now timestamptz := billing_data.clock();
    v_seed bytea := billing_data.id_seed();
    v_decided billing.check_outcome[];
    v_outcomes billing.check_outcome[];
    -- Items that need a new account, a profile update or the account that a merged one leads to
    -- before they are decided.
    v_rest boolean[];
    v_leads_on boolean;  -- an item's account was merged
    v_has_lots boolean;  -- some of an item's account's credits may end
    v_created boolean[];
    v_busy boolean[];
BEGIN
    PERFORM billing_data.require_list(array_dims(p_items), cardinality(p_items), 'p_items');
    LOOP
        WITH found AS MATERIALIZED (
            SELECT
                i.item, i.asked, k.id AS api_key_id, a.id AS account_id,
                nullif(a.held_credits, 0) AS held,
                a.paid_credits - a.held_credits AS paid_credits,
                a.free_uses_remaining - a.held_free_uses AS free_uses_remaining, a.total_uses,
                a.plan_name, a.status, a.has_lots,
                billing_data.denial_reason(
                    a.status, a.free_uses_remaining - a.held_free_uses,
                    a.paid_credits - a.held_credits
                ) AS reason,
                coalesce(
                    billing_data.item_fault(v_role, (i.asked).api_key_id, k, 'billing:read'),
                    CASE
                        WHEN NOT billing_data.is_check(i.asked) THEN 'invalid_argument'
                        WHEN v_busy[i.item] THEN 'busy'
                        WHEN a.status = 'merged' THEN NULL
                        WHEN v_rest IS NOT NULL THEN 'checked'
                        WHEN a.due_at <= v_now THEN NULL
                        WHEN a.id IS NOT NULL AND (
                            billing_data.changes_profile(
                                a.account, (i.asked).customer_email, (i.asked).user_role,
                                (i.asked).agent_id, (i.asked).marketing_opt_in
                            )
                            AND billing_data.may_write(v_role, k)
                        ) IS NOT TRUE THEN 'checked'
                    END
                ) AS outcome
            FROM (
                SELECT asked, row_number() OVER ()::integer AS item FROM unnest(p_items) AS asked
            ) AS i
            LEFT JOIN billing_data.api_keys AS k
                ON coalesce(k.credential, k.id) = (i.asked).api_key_id
            -- OFFSET makes every plan look the accounts up one by one, also a plan made when there
            -- were few.
            LEFT JOIN LATERAL (
                SELECT o.*, o AS account FROM billing_data.accounts AS o
                WHERE o.oauth_provider = (i.asked).oauth_provider
                    AND o.external_id = (i.asked).external_id
                OFFSET 0
            ) AS a ON true
            WHERE v_rest IS NULL OR v_rest[i.item]
        ),
        audited AS (
            INSERT INTO billing_data.credit_checks (
                id, account_id, oauth_provider, external_id, wa_id, tenant_id, has_credit,
                credits_remaining, free_uses_remaining, plan_name, denial_reason,
                context_agent_id, context_channel_id, context_request_id, api_key_id,
                database_role, created_at
            )
            SELECT
                billing_data.nth_id(v_seed, f.item), f.account_id, (f.asked).oauth_provider,
                (f.asked).external_id, (f.asked).wa_id, (f.asked).tenant_id, f.reason IS NULL,
                f.paid_credits, f.free_uses_remaining, f.plan_name, f.reason,
                (f.asked).context_agent_id, (f.asked).context_channel_id,
                (f.asked).context_request_id, f.api_key_id, v_role, v_now
            FROM found AS f
            WHERE f.outcome = 'checked'
        )
        SELECT
            array_agg(
                ROW(
                    f.item, f.outcome, c.item IS NOT NULL AND c.reason IS NULL, c.reason,
                    c.paid_credits, c.free_uses_remaining, c.total_uses, c.plan_name, w.is_wanted,
                    CASE WHEN w.is_wanted THEN s.pack_price_minor END,
                    CASE WHEN w.is_wanted THEN s.pack_uses END,
                    coalesce(v_created[c.item], false),
                    billing_data.is_low(s.low_balance, c.free_uses_remaining, c.paid_credits),
                    c.held, NULL, NULL
                )::billing.check_outcome
            ) FILTER (WHERE f.outcome IS NOT NULL),
            CASE WHEN bool_or(f.outcome IS NULL) THEN array_agg(f.outcome IS NULL) END,
            bool_or(f.status = 'merged'), bool_or(f.has_lots)
        INTO v_decided, v_rest, v_leads_on, v_has_lots
        FROM found AS f
        CROSS JOIN billing_data.settings AS s
        LEFT JOIN LATERAL (SELECT f.* WHERE f.outcome = 'checked') AS c ON true
        CROSS JOIN LATERAL (
            SELECT billing_data.wants_purchase(c.status, c.reason)
        ) AS w (is_wanted);
        IF v_has_lots AND v_decided IS NOT NULL THEN
            v_decided := billing_data.with_next_expiry(p_items, v_decided);
        END IF;
        v_outcomes := v_outcomes || v_decided;
        EXIT WHEN v_rest IS NULL;
        v_only_audit := false;
        IF v_leads_on THEN
            p_items := billing_data.follow_checks(p_items);
        END IF;
        SELECT p.created, p.busy INTO STRICT v_created, v_busy
        FROM billing_data.prepare_checks(p_items, v_role, v_rest, p_wait) AS p;
    END LOOP;
    IF v_only_audit THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    ELSE
        PERFORM billing_data.require_durable_commit();
    END IF;
    RETURN QUERY SELECT o.* FROM unnest(v_outcomes) AS o;
END
$$;
COMMENT ON FUNCTION billing.check_items IS
    'Checks several users at once, an outcome per item. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.check_items TO billing_server, billing_dba;

-- Raises what refused an item, unless it was checked.
CREATE OR REPLACE FUNCTION billing_data.require_checked(p_item billing.check_item, p_outcome text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_outcome = 'invalid_argument' THEN
        PERFORM billing_data.require_identity(p_item.oauth_provider, p_item.external_id);
        PERFORM billing_data.require_short(f.value, 'p_' || f.key)
        FROM jsonb_each_text(to_jsonb(p_item)) AS f;
    END IF;
    IF p_outcome <> 'checked' THEN
        PERFORM billing_data.raise_error(
            p_outcome, jsonb_build_object('permission', 'billing:read')
        );
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.require_checked IS
    'Raises what refused an item, unless it was checked. Helper.';

-- May this user go on? The plain case is decided here by plain statements; anything else goes to
-- billing.check_items as a list of one, and a refusal is raised as an error. With p_only_plain, a
-- case that is not plain returns no row and does nothing.
-- Locks and writes: as billing.check_items. Errors: actor and key errors, invalid_argument. A
-- denial is an answer, not an error.
-- Example: SELECT * FROM billing.check_credit(
--     p_oauth_provider => 'oauth:google', p_external_id => '1');
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
    p_api_key_id uuid DEFAULT NULL,
    p_only_plain boolean DEFAULT false
) RETURNS TABLE (
    has_credit boolean,
    reason text,
    credits_remaining bigint,
    free_uses_remaining bigint,
    total_uses bigint,
    plan_name text,
    purchase_required boolean,
    purchase_price_minor bigint,
    purchase_uses bigint,
    low_balance boolean,
    held bigint,
    next_expiry_at timestamptz,
    next_expiry_amount_minor bigint
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_variable
DECLARE
    v_item billing.check_item := ROW(
        p_oauth_provider, p_external_id, p_wa_id, p_tenant_id, p_context_agent_id,
        p_context_channel_id, p_context_request_id, p_customer_email, p_user_role, p_agent_id,
        p_marketing_opt_in, p_marketing_opt_in_source, p_api_key_id
    )::billing.check_item;
    v_role text := billing_data.role_of_caller(p_api_key_id);
    v_api_key_id uuid := billing_data.good_key(p_api_key_id, 'billing:read');
    v_account_id uuid;
    v_status text;
    v_has_lots boolean;
    v_outcome text;
BEGIN
    IF num_nonnulls(v_role, v_api_key_id) > 0 AND billing_data.is_check(v_item) THEN
        SELECT
            a.id, a.status, a.paid_credits - a.held_credits,
            a.free_uses_remaining - a.held_free_uses, a.total_uses, a.plan_name,
            billing_data.denial_reason(
                a.status, a.free_uses_remaining - a.held_free_uses, a.paid_credits - a.held_credits
            ),
            billing_data.is_low(
                (SELECT s.low_balance FROM billing_data.settings AS s),
                a.free_uses_remaining - a.held_free_uses, a.paid_credits - a.held_credits
            ),
            nullif(a.held_credits, 0), a.has_lots
        INTO
            v_account_id, v_status, credits_remaining, free_uses_remaining, total_uses, plan_name,
            reason, low_balance, held, v_has_lots
        FROM billing_data.accounts AS a
        WHERE a.oauth_provider = p_oauth_provider AND a.external_id = p_external_id
            AND a.status <> 'merged' AND (a.due_at > billing_data.clock()) IS NOT FALSE
            AND NOT billing_data.changes_profile(
                a, p_customer_email, p_user_role, p_agent_id, p_marketing_opt_in
            );
    END IF;
    IF v_account_id IS NOT NULL THEN
        IF pg_current_xact_id_if_assigned() IS NULL THEN
            -- An assignment is evaluated as an expression; PERFORM would run a query.
            v_outcome := set_config('synchronous_commit', 'off', true);
        END IF;
        has_credit := reason IS NULL;
        purchase_required := billing_data.wants_purchase(v_status, reason);
        IF purchase_required THEN
            SELECT s.pack_price_minor, s.pack_uses INTO purchase_price_minor, purchase_uses
            FROM billing_data.settings AS s;
        END IF;
        IF v_has_lots THEN
            SELECT n.at, n.amount_minor INTO next_expiry_at, next_expiry_amount_minor
            FROM billing_data.next_expiry(v_account_id) AS n;
        END IF;
        INSERT INTO billing_data.credit_checks (
            id, account_id, oauth_provider, external_id, wa_id, tenant_id, has_credit,
            credits_remaining, free_uses_remaining, plan_name, denial_reason, context_agent_id,
            context_channel_id, context_request_id, api_key_id, database_role, created_at
        )
        VALUES (
            billing_data.new_id(), v_account_id, p_oauth_provider, p_external_id, p_wa_id,
            p_tenant_id, has_credit, credits_remaining, free_uses_remaining, plan_name, reason,
            p_context_agent_id, p_context_channel_id, p_context_request_id, v_api_key_id, v_role,
            clock_timestamp()
        );
        RETURN NEXT;
        RETURN;
    END IF;
    IF p_only_plain THEN
        RETURN;
    END IF;
    SELECT
        c.outcome, c.has_credit, c.reason, c.credits_remaining, c.free_uses_remaining,
        c.total_uses, c.plan_name, c.purchase_required, c.purchase_price_minor, c.purchase_uses,
        c.low_balance, c.held, c.next_expiry_at, c.next_expiry_amount_minor
    INTO STRICT
        v_outcome, has_credit, reason, credits_remaining, free_uses_remaining, total_uses,
        plan_name, purchase_required, purchase_price_minor, purchase_uses, low_balance, held,
        next_expiry_at, next_expiry_amount_minor
    FROM billing.check_items(ARRAY[v_item]) AS c;
    PERFORM billing_data.require_checked(v_item, v_outcome);
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.check_credit IS
    'Says if a user may go on; creates the account if new. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.check_credit TO billing_server, billing_dba;

-- An account's checks, newest first, with why they were denied; those of accounts that were merged
-- into it too. Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.list_checks(p_account_id => '...');
CREATE OR REPLACE FUNCTION billing.list_checks(
    p_account_id uuid,
    p_limit bigint DEFAULT 50,
    p_offset bigint DEFAULT 0,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    check_id uuid,
    has_credit boolean,
    denial_reason text,
    credits_remaining bigint,
    free_uses_remaining bigint,
    context_agent_id text,
    context_channel_id text,
    context_request_id text,
    created_at timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_family uuid[] := billing_data.merged_family(billing_data.surviving_account(p_account_id));
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_page(p_limit, p_offset, 501);
    RETURN QUERY
    SELECT
        k.id, k.has_credit, k.denial_reason::text, k.credits_remaining, k.free_uses_remaining,
        k.context_agent_id::text, k.context_channel_id::text, k.context_request_id::text,
        k.created_at
    FROM unnest(v_family) AS f (id)
    CROSS JOIN LATERAL (
        SELECT n.*
        FROM billing_data.credit_checks AS n
        WHERE n.account_id = f.id
        ORDER BY n.created_at DESC, n.id DESC
        LIMIT least(p_offset, billing_data.max_amount() - p_limit) + p_limit
    ) AS k
    ORDER BY k.created_at DESC, k.id DESC
    LIMIT p_limit OFFSET p_offset;
END
$$;
COMMENT ON FUNCTION billing.list_checks IS
    'Lists an account''s checks, newest first. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_checks TO billing_server, billing_dba;
