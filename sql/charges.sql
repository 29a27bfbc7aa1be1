-- Charges: this user used one. Free uses go first, one per charge whatever the amount; then paid
-- credits, the whole amount or nothing. Every accepted charge is one ledger row.

-- Whether an item has the shape of a charge. The identity is not checked here: an identity that
-- breaks a rule has no account.
CREATE OR REPLACE FUNCTION billing_data.is_charge(p_item billing.charge_item) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    (p_item).amount_minor > 0 AND length((p_item).currency) = billing_data.most('currency')
    AND length((p_item).description) BETWEEN 1 AND billing_data.most('description')
    AND coalesce(greatest(
        length((p_item).idempotency_key), length((p_item).metadata_message_id),
        length((p_item).metadata_agent_id), length((p_item).metadata_channel_id),
        length((p_item).metadata_request_id), length((p_item).customer_email),
        length((p_item).agent_id)
    ), 0) <= billing_data.most('customer_email')
    AND coalesce(length((p_item).user_role), 0) <= billing_data.most('user_role')
    AND coalesce(length((p_item).marketing_opt_in_source), 0)
        <= billing_data.most('marketing_opt_in_source')
) IS TRUE;
COMMENT ON FUNCTION billing_data.is_charge IS
    'Whether an item of a list has the shape of a charge. Helper.';

-- The fingerprint of a requested charge. It covers every field but the identity, the idempotency
-- key and the API key.
CREATE OR REPLACE FUNCTION billing_data.charge_fingerprint(p_item billing.charge_item)
RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN billing_data.fingerprint(
    billing_data.field_hash('amount_minor', (p_item).amount_minor::text)
    # billing_data.field_hash('currency', (p_item).currency)
    # billing_data.field_hash('description', (p_item).description)
    # billing_data.field_hash('metadata_message_id', (p_item).metadata_message_id)
    # billing_data.field_hash('metadata_agent_id', (p_item).metadata_agent_id)
    # billing_data.field_hash('metadata_channel_id', (p_item).metadata_channel_id)
    # billing_data.field_hash('metadata_request_id', (p_item).metadata_request_id)
    # billing_data.profile_hash(
        (p_item).customer_email, (p_item).user_role, (p_item).agent_id,
        (p_item).marketing_opt_in, (p_item).marketing_opt_in_source
    )
);
COMMENT ON FUNCTION billing_data.charge_fingerprint IS
    'The fingerprint of a charge that is asked for. Helper.';

-- The one rule of charging: the outcome of a charge, given the account's present state. An account
-- that was merged is never charged: the charge must be tried again where its identity leads. p_cap
-- is the slug of a refusal by a cap, which counts where nothing else refuses.
CREATE OR REPLACE FUNCTION billing_data.charge_verdict(
    p_status text,
    p_account_currency text,
    p_currency text,
    p_free_uses bigint,
    p_paid_credits bigint,
    p_amount_minor bigint,
    p_cap text DEFAULT NULL
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN p_status = 'suspended' THEN 'account_suspended'
    WHEN p_status = 'closed' THEN 'account_closed'
    WHEN p_account_currency <> p_currency THEN 'charge_currency_mismatch'
    WHEN p_status = 'merged' THEN 'busy'
    WHEN p_free_uses <= 0 AND p_paid_credits < p_amount_minor THEN 'insufficient_credits'
    ELSE coalesce(p_cap, 'created')
END;
COMMENT ON FUNCTION billing_data.charge_verdict IS
    'What becomes of a charge at an account as it is. Helper.';

-- The items of a list as they are to be charged: an item whose identity belongs to a merged account
-- gets the identity of the account that is charged for it, or of the one where its idempotency key
-- was used before (the earliest in the order of the merges).
CREATE OR REPLACE FUNCTION billing_data.follow_charges(p_items billing.charge_item[])
RETURNS billing.charge_item[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(
        CASE
            WHEN t.external_id IS NULL THEN i.asked
            ELSE jsonb_populate_record(i.asked, jsonb_build_object(
                'oauth_provider', t.oauth_provider, 'external_id', t.external_id
            ))
        END
        ORDER BY i.item
    )
    FROM (
        SELECT asked, row_number() OVER ()::integer AS item FROM unnest(p_items) AS asked
    ) AS i
    LEFT JOIN billing_data.accounts AS a
        ON a.oauth_provider = (i.asked).oauth_provider
            AND a.external_id = (i.asked).external_id AND a.status = 'merged'
    LEFT JOIN LATERAL (
        SELECT n.oauth_provider, n.external_id
        FROM unnest(billing_data.merge_path(a.id)) WITH ORDINALITY AS p (id, place)
        INNER JOIN billing_data.accounts AS n ON n.id = p.id
        LEFT JOIN billing_data.charges AS c
            ON c.account_id = p.id AND c.idempotency_key = (i.asked).idempotency_key
        ORDER BY CASE WHEN c.id IS NOT NULL THEN p.place END, p.place DESC
        LIMIT 1
    ) AS t ON true
$$;
COMMENT ON FUNCTION billing_data.follow_charges IS
    'A list of charges with the identities of the accounts to charge. Helper.';

-- The accounts that a list of charges must lock, in id order. An item needs no lock when its
-- idempotency key was used before and it changes no profile: ledger rows never change. Where items
-- of merged accounts are to be charged, items has the whole list as billing_data.follow_charges
-- makes it; otherwise it is NULL.
CREATE OR REPLACE FUNCTION billing_data.accounts_to_charge(
    p_items billing.charge_item[],
    OUT ids uuid[], OUT changes_profiles boolean, OUT items billing.charge_item[]
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    v_follow boolean;
BEGIN
    SELECT
        coalesce(array_agg(DISTINCT a.id ORDER BY a.id), '{}'), bool_or(p.changes),
        bool_or(a.status = 'merged')
    INTO STRICT ids, changes_profiles, v_follow
    FROM unnest(p_items) AS i
    -- OFFSET makes every plan look accounts and keys up one by one. A plan made when there were few
    -- of them would read all of them, also later.
    CROSS JOIN LATERAL (
        SELECT o.id, o.status, o AS account FROM billing_data.accounts AS o
        WHERE o.oauth_provider = i.oauth_provider AND o.external_id = i.external_id
        OFFSET 0
    ) AS a
    CROSS JOIN LATERAL (
        SELECT billing_data.changes_profile(
            a.account, i.customer_email, i.user_role, i.agent_id, i.marketing_opt_in
        )
    ) AS p (changes)
    WHERE p.changes OR NOT EXISTS (
        SELECT FROM billing_data.charges AS c
        WHERE c.account_id = a.id AND c.idempotency_key = i.idempotency_key
        OFFSET 0
    );
    IF v_follow THEN
        items := billing_data.follow_charges(p_items);
        SELECT w.ids, w.changes_profiles INTO STRICT ids, changes_profiles
        FROM billing_data.accounts_to_charge(items) AS w;
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.accounts_to_charge IS
    'The accounts that a list of charges must lock, and whether a profile changes. Helper.';

-- Refuses to go on with a list that was followed (p_followed is NULL when it was not) where merges
-- changed before its accounts were locked.
-- Errors: serialization_failure.
CREATE OR REPLACE FUNCTION billing_data.require_followed(
    p_items billing.charge_item[], p_followed billing.charge_item[]
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_followed <> billing_data.follow_charges(p_items) THEN
        PERFORM billing_data.raise_merged_meanwhile();
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.require_followed IS
    'Raises serialization_failure where merges changed since a list was followed. Helper.';

-- Applies the profile updates that a list of charges carries. It changes only accounts in p_locked,
-- whose locks this transaction holds.
CREATE OR REPLACE FUNCTION billing_data.apply_profiles(
    p_items billing.charge_item[], p_locked uuid[], p_role text
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS $$
DECLARE
    v_item record;
BEGIN
    FOR v_item IN
        SELECT (i.asked).*, a.id AS account_id
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
        WHERE p_locked[width_bucket(a.id, p_locked)] = a.id AND billing_data.is_charge(i.asked)
            AND billing_data.item_fault(p_role, (i.asked).api_key_id, k, 'billing:write') IS NULL
            AND billing_data.has_profile(
                (i.asked).customer_email, (i.asked).user_role, (i.asked).agent_id,
                (i.asked).marketing_opt_in
            )
        ORDER BY a.id, i.item
    LOOP
        PERFORM billing_data.change_profile(
            v_item.account_id, v_item.customer_email, v_item.user_role, v_item.agent_id,
            v_item.marketing_opt_in, v_item.marketing_opt_in_source
        );
    END LOOP;
END
$$;
COMMENT ON FUNCTION billing_data.apply_profiles IS
    'Makes the profile updates of a list of charges. Helper.';

-- The outcome of an item that can be decided without weighing the account's balance; NULL when the
-- item is to be charged. p_changes says that the item changes the account's profile, which needs
-- the account's lock. p_locked are the accounts that this transaction has locked.
CREATE OR REPLACE FUNCTION billing_data.early_outcome(
    p_fault text,
    p_is_charge boolean,
    p_account_id uuid,
    p_used billing_data.charges,
    p_fingerprint bytea,
    p_changes boolean,
    p_locked uuid[],
    p_wait boolean
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN p_fault IS NOT NULL THEN p_fault
    WHEN NOT p_is_charge THEN 'invalid_argument'
    WHEN p_account_id IS NULL THEN 'account_not_found'
    -- Another transaction holds the account, or it was created after we looked for it. p_locked is
    -- sorted, so width_bucket finds the account's place in it by binary search.
    WHEN ((p_used).id IS NULL OR p_changes)
        AND (p_locked[width_bucket(p_account_id, p_locked)] = p_account_id) IS NOT TRUE
        THEN CASE WHEN p_wait THEN 'account_not_found' ELSE 'busy' END
    WHEN (p_used).id IS NOT NULL
        THEN billing_data.replay_outcome((p_used).request_fingerprint, p_fingerprint)
END;
COMMENT ON FUNCTION billing_data.early_outcome IS
    'What becomes of an item that needs no look at its account. Helper.';

-- The outcome of each item of a list of charges, from the accounts' present state and the accounts
-- locked for the list. p_left marks the items to weigh; NULL means all of them. p_refusals has the
-- refusals by caps, as billing_data.weigh_caps makes them. An item has no row while its outcome
-- depends on an earlier item: that item has the same idempotency key, or it needed more credits
-- than the account had left.
CREATE OR REPLACE FUNCTION billing_data.weigh_charges(
    p_items billing.charge_item[],
    p_left boolean[],
    p_locked uuid[],
    p_role text,
    p_wait boolean,
    p_refusals jsonb[]
) RETURNS TABLE (
    item integer,
    outcome text,
    asked billing.charge_item,
    used billing_data.charges,
    fingerprint bytea,
    api_key_id uuid,
    account_id uuid,
    account_at tid,
    account_currency text,
    ledger_version bigint,
    balance_before bigint,
    balance_after bigint,
    free_uses_after bigint,
    paid_with text
)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH found AS MATERIALIZED (
        SELECT
            i.*, (i.asked).amount_minor AS amount, (i.asked).idempotency_key, u.used, f.fingerprint,
            k.id AS api_key_id, a.id AS account_id, a.place AS account_at,
            a.free_uses_remaining - a.held_free_uses AS free_uses, a.held_free_uses,
            a.currency::text AS account_currency, a.paid_credits, a.held_credits, a.ledger_version,
            billing_data.early_outcome(
                g.fault, billing_data.is_charge(i.asked), a.id, u.used, f.fingerprint, g.changes,
                p_locked, p_wait
            ) AS early,
            -- An amount above the balance now is above it, too, after earlier items were charged.
            billing_data.charge_verdict(
                a.status, a.currency, (i.asked).currency, a.free_uses_remaining - a.held_free_uses,
                a.paid_credits - a.held_credits, (i.asked).amount_minor,
                CASE WHEN p_refusals IS NOT NULL THEN billing_data.cap_slug(p_refusals[i.item]) END
            ) AS verdict
        FROM (
            SELECT asked, row_number() OVER ()::integer AS item FROM unnest(p_items) AS asked
        ) AS i
        CROSS JOIN LATERAL (
            SELECT billing_data.charge_fingerprint(i.asked) OFFSET 0
        ) AS f (fingerprint)
        LEFT JOIN billing_data.api_keys AS k
            ON coalesce(k.credential, k.id) = (i.asked).api_key_id
        LEFT JOIN LATERAL (
            SELECT o.*, o.ctid AS place, o AS account FROM billing_data.accounts AS o
            WHERE o.oauth_provider = (i.asked).oauth_provider
                AND o.external_id = (i.asked).external_id
            OFFSET 0
        ) AS a ON true
        -- LIMIT keeps the look-up apart, so that its index is always searched with both columns.
        LEFT JOIN LATERAL (
            SELECT c AS used
            FROM billing_data.charges AS c
            WHERE c.account_id = a.id AND c.idempotency_key = (i.asked).idempotency_key
            LIMIT 1
        ) AS u ON true
        -- Apart, because PostgreSQL does not inline a call that uses a long argument twice.
        CROSS JOIN LATERAL (
            SELECT
                billing_data.item_fault(p_role, (i.asked).api_key_id, k, 'billing:write'),
                billing_data.changes_profile(
                    a.account, (i.asked).customer_email, (i.asked).user_role, (i.asked).agent_id,
                    (i.asked).marketing_opt_in
                )
            OFFSET 0
        ) AS g (fault, changes)
        WHERE p_left IS NULL OR p_left[i.item]
    ),
    keyed AS (
        SELECT f.*, count(*) FILTER (WHERE f.verdict = 'created') OVER (
            PARTITION BY f.account_id, f.idempotency_key ORDER BY f.item
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS before_with_key
        FROM found AS f
        WHERE f.early IS NULL
    ),
    placed AS (
        SELECT k.*, count(*) FILTER (WHERE k.verdict = 'created') OVER (
            PARTITION BY k.account_id ORDER BY k.item
        ) AS place
        FROM keyed AS k
        WHERE k.before_with_key = 0 OR k.idempotency_key IS NULL
    ),
    summed AS (
        SELECT p.*, c.price, p.paid_credits - sum(c.price) OVER (
            PARTITION BY p.account_id ORDER BY p.item
        ) AS balance_after
        FROM placed AS p
        CROSS JOIN LATERAL (
            SELECT CASE
                WHEN p.verdict = 'created' AND p.place > p.free_uses THEN p.amount
                ELSE 0
            END
        ) AS c (price)
    ),
    turn AS (
        SELECT s.*, b.too_much, bool_or(b.too_much) OVER (
            PARTITION BY s.account_id ORDER BY s.item
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS waits
        FROM summed AS s
        CROSS JOIN LATERAL (SELECT s.price > 0 AND s.balance_after < s.held_credits) AS b (too_much)
    )
    SELECT
        t.item,
        CASE
            WHEN t.too_much THEN 'insufficient_credits'
            -- Where a cap refuses an item that could not be paid after those before it, either.
            WHEN p_refusals IS NOT NULL
                AND t.verdict = billing_data.cap_slug(p_refusals[t.item])
                AND t.place >= t.free_uses AND t.balance_after - t.held_credits < t.amount
                THEN 'insufficient_credits'
            ELSE t.verdict
        END,
        t.asked, NULL, t.fingerprint, t.api_key_id, t.account_id, t.account_at, t.account_currency,
        t.ledger_version + t.place,
        -- A refusal tells what is available.
        (
            t.balance_after + t.price
            - CASE WHEN t.verdict = 'created' AND NOT t.too_much THEN 0 ELSE t.held_credits END
        )::bigint,
        CASE WHEN t.balance_after >= 0 THEN t.balance_after::bigint END,
        greatest(t.free_uses - t.place, 0)
        + CASE WHEN t.verdict = 'created' AND NOT t.too_much THEN t.held_free_uses ELSE 0 END,
        CASE WHEN t.price > 0 THEN 'paid' ELSE 'free' END
    FROM turn AS t
    WHERE t.waits IS NOT TRUE
    UNION ALL
    SELECT
        f.item, f.early, f.asked, CASE WHEN f.early IN ('replayed', 'conflict') THEN f.used END,
        f.fingerprint, f.api_key_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    FROM found AS f
    WHERE f.early IS NOT NULL;
END
$$;
COMMENT ON FUNCTION billing_data.weigh_charges IS
    'What becomes of the items of a list of charges. Helper.';

-- The answer for an item that makes no charge: the earlier charge of its idempotency key, or the
-- refusal. p_cap is what a cap says, where a cap refused.
CREATE OR REPLACE FUNCTION billing_data.charge_outcome(
    p_item integer,
    p_outcome text,
    p_asked billing.charge_item,
    p_used billing_data.charges,
    p_balance bigint,
    p_account_currency text,
    p_cap jsonb
) RETURNS billing.charge_outcome
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ROW(
    p_item, p_outcome, (p_used).id, (p_used).account_id,
    coalesce((p_used).amount_minor, (p_asked).amount_minor),
    coalesce((p_used).currency, left((p_asked).currency, billing_data.most('currency'))),
    (p_used).description, (p_used).balance_before, (p_used).balance_after,
    (p_used).free_uses_after, (p_used).paid_with, (p_used).created_at,
    (p_used).metadata_message_id, (p_used).metadata_agent_id,
    (p_used).metadata_channel_id, (p_used).metadata_request_id, p_balance, p_account_currency,
    false, p_cap
)::billing.charge_outcome;
COMMENT ON FUNCTION billing_data.charge_outcome IS
    'What comes of an item of which no charge is made. Helper.';

-- Records refused charges, so that billing.explain_denial can tell why: one row for all refusals of
-- an account, API key and reason in a minute, with the amounts of the last one. p_refused is a list
-- of rows of billing_data.refused_charges as JSON, each for one refusal.
-- Locks: none; the caller holds the accounts. Writes: refused_charges 1..n.
CREATE OR REPLACE FUNCTION billing_data.note_refusals(p_refused jsonb, p_now timestamptz)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO billing_data.refused_charges AS r (
        account_id, minute, reason, api_key_id, database_role, refusals, first_at, last_at,
        amount_minor, currency, paid_credits, free_uses_remaining, account_currency, agent_id,
        channel_id, request_id, cap
    )
    SELECT DISTINCT ON (n.account_id, n.reason, n.api_key_id)
        n.account_id, date_bin('1 minute', p_now, 'epoch'), n.reason, n.api_key_id,
        n.database_role, count(*) OVER (PARTITION BY n.account_id, n.reason, n.api_key_id),
        p_now, p_now, n.amount_minor, n.currency, n.paid_credits, n.free_uses_remaining,
        n.account_currency, n.agent_id, n.channel_id, n.request_id, n.cap
    FROM (
        SELECT p.*, row_number() OVER () AS place
        FROM jsonb_populate_recordset(NULL::billing_data.refused_charges, p_refused) AS p
    ) AS n
    ORDER BY n.account_id, n.reason, n.api_key_id, n.place DESC
    ON CONFLICT ON CONSTRAINT refused_charges_once DO UPDATE
    SET refusals = r.refusals + excluded.refusals,
        -- The clock may have been set back.
        first_at = least(r.first_at, excluded.first_at),
        last_at = greatest(r.last_at, excluded.last_at),
        database_role = excluded.database_role,
        amount_minor = excluded.amount_minor,
        currency = excluded.currency,
        paid_credits = excluded.paid_credits,
        free_uses_remaining = excluded.free_uses_remaining,
        account_currency = excluded.account_currency,
        agent_id = excluded.agent_id,
        channel_id = excluded.channel_id,
        request_id = excluded.request_id,
        cap = excluded.cap;
END
$$;
COMMENT ON FUNCTION billing_data.note_refusals IS
    'Records refused charges, a row per account, key, reason and minute. Helper.';

-- Makes the charges of a list that can be decided at once, records those that are refused, and
-- returns their outcomes.
CREATE OR REPLACE FUNCTION billing_data.charge_round(
    p_items billing.charge_item[],
    p_left boolean[],
    p_locked uuid[],
    p_role text,
    p_wait boolean,
    p_now timestamptz,
    p_refusals jsonb[]
) RETURNS billing.charge_outcome[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    v_seed bytea := billing_data.id_seed();
    v_outcomes billing.charge_outcome[];
    v_refused jsonb;
    v_with_lots uuid[];  -- accounts that were charged and have lots
    v_crossed jsonb;
BEGIN
    WITH weighed AS MATERIALIZED (
        SELECT w.*, billing_data.nth_id(v_seed, w.item) AS id
        FROM billing_data.weigh_charges(
            p_items, p_left, p_locked, p_role, p_wait, p_refusals
        ) AS w
    ),
    taken AS (
        UPDATE billing_data.accounts AS a
        SET free_uses_remaining = t.free_uses_after,
            paid_credits = t.balance_after,
            total_uses = a.total_uses + t.uses,
            ledger_version = a.ledger_version + t.uses,
            updated_at = p_now
        FROM (
            SELECT
                w.account_at, min(w.free_uses_after) AS free_uses_after,
                min(w.balance_after) AS balance_after, count(*) AS uses
            FROM weighed AS w
            WHERE w.outcome = 'created'
            GROUP BY w.account_at
        ) AS t
        -- The row's place, so that no plan looks for an id in all accounts. The account is locked,
        -- so nobody else moves its row.
        WHERE a.ctid = t.account_at
        RETURNING a.id, a.has_lots
    ),
    entered AS (
        INSERT INTO billing_data.charges (
            account_id, ledger_version, id, amount_minor, currency, balance_before, balance_after,
            free_uses_after, paid_with, description, idempotency_key, metadata_message_id,
            metadata_agent_id, metadata_channel_id, metadata_request_id, created_at,
            request_fingerprint, api_key_id, database_role, digest
        )
        SELECT
            w.account_id, w.ledger_version, w.id, (w.asked).amount_minor, (w.asked).currency,
            w.balance_before, w.balance_after, w.free_uses_after, w.paid_with,
            (w.asked).description, (w.asked).idempotency_key, (w.asked).metadata_message_id,
            (w.asked).metadata_agent_id, (w.asked).metadata_channel_id,
            (w.asked).metadata_request_id, p_now, w.fingerprint, w.api_key_id, p_role,
            billing_data.new_charge_digest(
                w.account_id, w.ledger_version, w.id, (w.asked).amount_minor,
                (w.asked).currency, w.balance_before, w.balance_after, w.free_uses_after,
                w.paid_with, (w.asked).description, (w.asked).idempotency_key, w.fingerprint,
                p_now, w.api_key_id, NULL, p_role
            )
        FROM weighed AS w
        WHERE w.outcome = 'created'
    )
    SELECT array_agg(
        CASE
            WHEN w.outcome = 'created' THEN ROW(
                w.item, w.outcome, w.id, w.account_id, (w.asked).amount_minor,
                (w.asked).currency, (w.asked).description, w.balance_before, w.balance_after,
                w.free_uses_after, w.paid_with, p_now, (w.asked).metadata_message_id,
                (w.asked).metadata_agent_id, (w.asked).metadata_channel_id,
                (w.asked).metadata_request_id, NULL, NULL, false, NULL
            )::billing.charge_outcome
            ELSE billing_data.charge_outcome(
                w.item, w.outcome, w.asked, w.used, w.balance_before, w.account_currency,
                CASE WHEN w.outcome = billing_data.cap_slug(p_refusals[w.item])
                    THEN p_refusals[w.item] END
            )
        END
    ),
    jsonb_agg(jsonb_build_object(
        'account_id', w.account_id, 'reason', w.outcome, 'api_key_id', w.api_key_id,
        'database_role', p_role, 'amount_minor', (w.asked).amount_minor,
        'currency', (w.asked).currency, 'paid_credits', w.balance_before,
        'free_uses_remaining', w.free_uses_after, 'account_currency', w.account_currency,
        'agent_id', (w.asked).metadata_agent_id, 'channel_id', (w.asked).metadata_channel_id,
        'request_id', (w.asked).metadata_request_id,
        'cap', CASE WHEN w.outcome = billing_data.cap_slug(p_refusals[w.item])
            THEN p_refusals[w.item] END
    )) FILTER (
        WHERE w.account_id IS NOT NULL AND w.outcome <> 'created' AND w.outcome <> 'busy'
    ),
    (SELECT array_agg(t.id) FROM taken AS t WHERE t.has_lots),
    jsonb_agg(billing_data.crossing(
        w.item, w.account_id, w.id, w.paid_with, w.balance_before, w.balance_after,
        w.free_uses_after
    )) FILTER (
        WHERE w.outcome = 'created' AND billing_data.charge_crosses(
            s.low_balance, w.paid_with, w.balance_before, w.balance_after, w.free_uses_after
        )
    )
    INTO v_outcomes, v_refused, v_with_lots, v_crossed
    FROM weighed AS w
    -- A join, because PostgreSQL does not inline an expression with a sub-select as its argument.
    CROSS JOIN billing_data.settings AS s;
    IF v_with_lots IS NOT NULL THEN
        PERFORM billing_data.take_lots_for_charges(v_outcomes, v_with_lots);
    END IF;
    IF v_crossed IS NOT NULL THEN
        PERFORM billing_data.raise_charge_alerts(v_crossed);
    END IF;
    IF v_refused IS NOT NULL THEN
        PERFORM billing_data.note_refusals(v_refused, p_now);
    END IF;
    RETURN v_outcomes;
END
$$;
COMMENT ON FUNCTION billing_data.charge_round IS
    'Makes those charges of a list that can be told at once. Helper.';

-- Which items of a list are decided in the next round: those without an outcome, the first p_most
-- of them (NULL: all). Two rounds decide every ordinary list. A list built to need many rounds is
-- decided in small parts, so that its cost stays linear. p_decided are the items that have one.
CREATE OR REPLACE FUNCTION billing_data.undecided(
    p_count integer, p_decided integer[], p_most integer
) RETURNS boolean[]
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ARRAY(
        SELECT
            o.item IS NULL AND (
                p_most IS NULL
                OR count(*) FILTER (WHERE o.item IS NULL) OVER (ORDER BY i.item) <= p_most
            )
        FROM generate_series(1, p_count) AS i (item)
        LEFT JOIN unnest(p_decided) AS o (item) ON o.item = i.item
        ORDER BY i.item
    );
END
$$;
COMMENT ON FUNCTION billing_data.undecided IS
    'Which items of a list are decided in the next round. Helper.';

-- A list of charges as caps see it.
CREATE OR REPLACE FUNCTION billing_data.charges_for_caps(p_items billing.charge_item[])
RETURNS billing_data.cap_request[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(
        ROW(
            (i.asked).oauth_provider, (i.asked).external_id, (i.asked).amount_minor,
            (i.asked).currency, (i.asked).idempotency_key, (i.asked).metadata_agent_id,
            (i.asked).api_key_id
        )::billing_data.cap_request
        ORDER BY i.item
    )
    FROM (
        SELECT asked, row_number() OVER () AS item FROM unnest(p_items) AS asked
    ) AS i
$$;
COMMENT ON FUNCTION billing_data.charges_for_caps IS 'A list of charges as caps see it. Helper.';

-- Charges a list of items. Every charge goes through here but the plain case of
-- billing.create_charge. Items of one account are decided in the order of the list. An item's
-- outcome is one of these: 'created'; 'replayed' or 'conflict', with the first charge's row, when
-- its idempotency key was used before by the same or by another request (a merged account's keys
-- are still those of its identity); the slug of the refusal;
-- 'busy', only with p_wait false, when another transaction holds the account. A refused item writes
-- nothing but the profile update it carries and, where an account was found, its part in a row of
-- refused_charges. With p_wait false the call never waits for an account. With p_wait true it waits
-- for one account at a time and holds no other meanwhile. Where caps apply, the call holds what
-- they have used to its end, so that all calls together never exceed a hard cap.
-- Locks: the accounts of billing_data.accounts_to_charge, in a statement of its own, so that the
-- next statement sees every charge committed before; then cap_usage of the caps that apply, in the
-- order of the caps. Writes: accounts, 1 per changed account; charges, 1 per created item;
-- refused_charges, 1 per account, key and reason refused; cap_usage, 1 per cap that applies;
-- outbox, 1 per alert and endpoint.
-- Errors: actor_required, actor_not_allowed, invalid_argument, lock_not_available when an account
-- or a cap stays held, and serialization_failure when accounts were merged at this moment; all else
-- is an outcome.
-- Example: SELECT * FROM billing.charge_items(p_items => ARRAY[jsonb_populate_record(
--     NULL::billing.charge_item, '{"oauth_provider": "oauth:google", "external_id": "1",
--     "amount_minor": 1, "currency": "USD", "description": "one use"}')]);
CREATE OR REPLACE FUNCTION billing.charge_items(
    p_items billing.charge_item[], p_wait boolean DEFAULT true
) RETURNS SETOF billing.charge_outcome
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    v_role text := billing_data.role_of_caller((p_items[1]).api_key_id);
    v_wanted uuid[];
    v_changes_profiles boolean;
    v_followed billing.charge_item[];  -- the list, where an item is charged elsewhere
    v_locked uuid[];
    v_round billing.charge_outcome[];
    v_outcomes billing.charge_outcome[] := ARRAY[]::billing.charge_outcome[];
    v_left boolean[];
    v_most integer;  -- items of a round
    v_now timestamptz;
    v_has_caps boolean;
    v_requests billing_data.cap_request[];  -- the items as caps see them
    v_capped billing_data.capped_item[];
    v_is_near boolean := false;  -- whether a cap may refuse an item
    v_due boolean[];  -- the items to decide next, where it is near
    v_refusals jsonb[];
BEGIN
    PERFORM billing_data.require_list(array_dims(p_items), cardinality(p_items), 'p_items');
    PERFORM billing_data.require_durable_commit();
    SELECT w.ids, w.changes_profiles, w.items, EXISTS (SELECT FROM billing_data.caps)
    INTO STRICT v_wanted, v_changes_profiles, v_followed, v_has_caps
    FROM billing_data.accounts_to_charge(p_items) AS w;
    v_locked := billing_data.lock_for_list(v_wanted, p_wait);
    IF v_followed IS NOT NULL THEN
        PERFORM billing_data.require_followed(p_items, v_followed);
        p_items := v_followed;
    END IF;
    IF v_changes_profiles THEN
        PERFORM billing_data.apply_profiles(p_items, v_locked, v_role);
    END IF;
    v_now := billing_data.clock();
    IF v_has_caps THEN
        v_requests := billing_data.charges_for_caps(p_items);
        SELECT b.capped, b.is_near INTO STRICT v_capped, v_is_near
        FROM billing_data.begin_caps(v_requests, v_locked, v_now, p_wait) AS b;
    END IF;
    LOOP
        IF v_is_near THEN
            SELECT w.due, w.refusals INTO STRICT v_due, v_refusals
            FROM billing_data.weigh_caps(v_requests, v_capped, v_left, v_now) AS w;
        END IF;
        IF v_locked = '{}' THEN
            -- Nothing can be charged, as where every key was used before: there is only a look.
            SELECT array_agg(billing_data.charge_outcome(
                w.item, w.outcome, w.asked, w.used, w.balance_before, w.account_currency, NULL
            ))
            INTO v_round
            FROM billing_data.weigh_charges(p_items, v_left, v_locked, v_role, p_wait, NULL) AS w;
        ELSE
            v_round := billing_data.charge_round(
                p_items, CASE WHEN v_is_near THEN v_due ELSE v_left END, v_locked, v_role, p_wait,
                v_now, v_refusals
            );
        END IF;
        IF v_capped IS NOT NULL THEN
            PERFORM billing_data.use_caps(
                v_capped, ARRAY(
                    SELECT o.item FROM unnest(v_round) AS o WHERE o.outcome = 'created'
                ),
                ARRAY(SELECT o.cap FROM unnest(v_round) AS o WHERE o.cap IS NOT NULL), v_now
            );
        END IF;
        v_outcomes := v_outcomes || v_round;
        EXIT WHEN cardinality(v_outcomes) = coalesce(cardinality(p_items), 0);
        IF v_round IS NULL THEN
            RAISE EXCEPTION 'no remaining item could be decided';
        END IF;
        v_left := billing_data.undecided(
            cardinality(p_items), ARRAY(SELECT o.item FROM unnest(v_outcomes) AS o), v_most
        );
        v_most := 32;
    END LOOP;
    IF p_wait AND EXISTS (SELECT FROM unnest(v_outcomes) AS o WHERE o.outcome = 'busy') THEN
        PERFORM billing_data.raise_merged_meanwhile();
    END IF;
    RETURN QUERY SELECT o.* FROM unnest(v_outcomes) AS o;
END
$$;
COMMENT ON FUNCTION billing.charge_items IS
    'Charges several uses at once, an outcome per item. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.charge_items TO billing_server, billing_dba;

-- Raises what refused an item, unless a charge was made of it.
CREATE OR REPLACE FUNCTION billing_data.require_charged(
    p_item billing.charge_item, p_outcome billing.charge_outcome
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_outcome.outcome = 'created' THEN
        RETURN;
    END IF;
    PERFORM billing_data.require_identity(p_item.oauth_provider, p_item.external_id);
    IF p_outcome.outcome = 'invalid_argument' THEN
        PERFORM billing_data.require(
            p_item.amount_minor > 0, 'p_amount_minor', 'it must be greater than 0'
        );
        PERFORM billing_data.require(
            length(p_item.description) > 0, 'p_description', 'it must not be empty'
        );
        PERFORM billing_data.require_currency_length(p_item.currency);
        PERFORM billing_data.require_short(f.value, 'p_' || f.key)
        FROM jsonb_each_text(to_jsonb(p_item)) AS f;
    END IF;
    PERFORM billing_data.raise_error(
        CASE
            WHEN p_outcome.outcome IN ('replayed', 'conflict') THEN 'charge_already_exists'
            ELSE p_outcome.outcome
        END,
        jsonb_strip_nulls(jsonb_build_object(
            'charge_id', p_outcome.charge_id, 'balance', p_outcome.balance,
            'required', p_outcome.amount_minor, 'account_currency', p_outcome.account_currency,
            'currency', p_outcome.currency,
            'permission', CASE p_outcome.outcome WHEN 'permission_missing' THEN 'billing:write' END
        )) || coalesce(p_outcome.cap, jsonb_build_object())
    );
END
$$;
COMMENT ON FUNCTION billing_data.require_charged IS
    'Raises what refused an item, unless a charge was made of it. Helper.';

-- Charges one use. The plain case is decided here by plain statements; anything else goes to
-- billing.charge_items as a list of one. Any outcome but a new charge is raised as an error, which
-- also undoes the profile update the call carries and the record of the refusal. With p_only_plain,
-- a case that is not plain returns no row and does nothing.
-- Locks and writes: as billing.charge_items, in the same order. Errors: actor and key errors,
-- invalid_argument, charge_already_exists, account_not_found, account_suspended, account_closed,
-- charge_currency_mismatch, insufficient_credits, account_cap_reached, cap_reached.
-- Example: SELECT * FROM billing.create_charge(p_oauth_provider => 'oauth:google',
--              p_external_id => '1', p_amount_minor => 1, p_description => 'one use');
CREATE OR REPLACE FUNCTION billing.create_charge(
    p_oauth_provider text,
    p_external_id text,
    p_amount_minor bigint DEFAULT 1,
    p_currency text DEFAULT 'USD',
    p_description text DEFAULT 'one use',
    p_idempotency_key text DEFAULT NULL,
    p_metadata_message_id text DEFAULT NULL,
    p_metadata_agent_id text DEFAULT NULL,
    p_metadata_channel_id text DEFAULT NULL,
    p_metadata_request_id text DEFAULT NULL,
    p_customer_email text DEFAULT NULL,
    p_user_role text DEFAULT NULL,
    p_agent_id text DEFAULT NULL,
    p_marketing_opt_in boolean DEFAULT false,
    p_marketing_opt_in_source text DEFAULT NULL,
    p_api_key_id uuid DEFAULT NULL,
    p_only_plain boolean DEFAULT false
) RETURNS TABLE (
    charge_id uuid,
    account_id uuid,
    amount_minor bigint,
    currency text,
    description text,
    balance_before bigint,
    balance_after bigint,
    free_uses_after bigint,
    paid_with text,
    created_at timestamptz
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_variable
DECLARE
    v_item billing.charge_item := ROW(
        p_oauth_provider, p_external_id, p_amount_minor, p_currency, p_description,
        p_idempotency_key, p_metadata_message_id, p_metadata_agent_id, p_metadata_channel_id,
        p_metadata_request_id, p_customer_email, p_user_role, p_agent_id, p_marketing_opt_in,
        p_marketing_opt_in_source, p_api_key_id
    )::billing.charge_item;
    v_role text := billing_data.role_of_caller(p_api_key_id);
    v_api_key_id uuid := billing_data.good_key(p_api_key_id, 'billing:write');
    v_version bigint;
    v_fingerprint bytea;
    v_low_balance bigint;
    v_outcome billing.charge_outcome;
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM billing_data.require_durable_commit();
    END IF;
    IF num_nonnulls(v_role, v_api_key_id) > 0 AND billing_data.is_charge(v_item) THEN
        SELECT
            a.id, a.ledger_version + 1, CASE WHEN f.is_free THEN 'free' ELSE 'paid' END,
            a.paid_credits, a.paid_credits - CASE WHEN f.is_free THEN 0 ELSE p_amount_minor END,
            a.free_uses_remaining - f.is_free::integer, billing_data.new_id(), clock_timestamp(),
            billing_data.charge_fingerprint(v_item), p_amount_minor, p_currency, p_description,
            (SELECT s.low_balance FROM billing_data.settings AS s)
        INTO
            account_id, v_version, paid_with, balance_before, balance_after, free_uses_after,
            charge_id, created_at, v_fingerprint, amount_minor, currency, description, v_low_balance
        FROM billing_data.accounts AS a
        CROSS JOIN LATERAL (SELECT a.free_uses_remaining > a.held_free_uses) AS f (is_free)
        WHERE a.oauth_provider = p_oauth_provider AND a.external_id = p_external_id
            AND NOT billing_data.changes_profile(
                a, p_customer_email, p_user_role, p_agent_id, p_marketing_opt_in
            )
            AND (a.due_at > billing_data.clock()) IS NOT FALSE
            AND (f.is_free OR NOT a.has_lots)
            AND billing_data.charge_verdict(
                a.status, a.currency, p_currency, a.free_uses_remaining - a.held_free_uses,
                a.paid_credits - a.held_credits, p_amount_minor
            ) = 'created'
            AND NOT EXISTS (
                SELECT FROM billing_data.charges AS c
                WHERE c.account_id = a.id AND c.idempotency_key = p_idempotency_key
                OFFSET 0  -- as in billing_data.accounts_to_charge
            )
            AND (
                NOT EXISTS (SELECT FROM billing_data.caps)
                OR NOT billing_data.is_capped(a.id, v_api_key_id, p_metadata_agent_id)
            )
        FOR NO KEY UPDATE OF a SKIP LOCKED;
    END IF;
    IF account_id IS NOT NULL THEN
        INSERT INTO billing_data.charges (
            account_id, ledger_version, id, amount_minor, currency, balance_before, balance_after,
            free_uses_after, paid_with, description, idempotency_key, metadata_message_id,
            metadata_agent_id, metadata_channel_id, metadata_request_id, created_at,
            request_fingerprint, api_key_id, database_role, digest
        )
        VALUES (
            account_id, v_version, charge_id, p_amount_minor, p_currency, balance_before,
            balance_after, free_uses_after, paid_with, p_description, p_idempotency_key,
            p_metadata_message_id, p_metadata_agent_id, p_metadata_channel_id,
            p_metadata_request_id, created_at, v_fingerprint, v_api_key_id, v_role,
            billing_data.new_charge_digest(
                account_id, v_version, charge_id, p_amount_minor, p_currency, balance_before,
                balance_after, free_uses_after, paid_with, p_description, p_idempotency_key,
                v_fingerprint, created_at, v_api_key_id, NULL, v_role
            )
        )
        ON CONFLICT DO NOTHING;
        IF FOUND THEN  -- otherwise another call used the key after our SELECT
            UPDATE billing_data.accounts AS a
            SET free_uses_remaining = free_uses_after,
                paid_credits = balance_after,
                total_uses = a.total_uses + 1,
                ledger_version = v_version,
                updated_at = created_at
            WHERE a.id = account_id;
            IF billing_data.charge_crosses(
                v_low_balance, paid_with, balance_before, balance_after, free_uses_after
            ) THEN
                PERFORM billing_data.raise_charge_alerts(jsonb_build_array(billing_data.crossing(
                    1, account_id, charge_id, paid_with, balance_before, balance_after,
                    free_uses_after
                )));
            END IF;
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;
    IF p_only_plain THEN
        RETURN;
    END IF;
    SELECT c.* INTO STRICT v_outcome FROM billing.charge_items(ARRAY[v_item]) AS c;
    PERFORM billing_data.require_charged(v_item, v_outcome);
    RETURN QUERY SELECT
        v_outcome.charge_id, v_outcome.account_id, v_outcome.amount_minor, v_outcome.currency,
        v_outcome.description, v_outcome.balance_before, v_outcome.balance_after,
        v_outcome.free_uses_after, v_outcome.paid_with, v_outcome.created_at;
END
$$;
COMMENT ON FUNCTION billing.create_charge IS
    'Charges one use: free uses first, then paid credits. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.create_charge TO billing_server, billing_dba;

-- The rest is about lists of charges under one idempotency key: the whole list takes effect once.

-- The record of a batch under this API key, or else under another key of its chain of rotations; no
-- row when there is none.
CREATE OR REPLACE FUNCTION billing_data.find_batch(
    p_api_key_id uuid, p_first_key_id uuid, p_idempotency_key text
) RETURNS TABLE (
    api_key_id uuid, request_fingerprint bytea, batch_fingerprint bytea, answer jsonb
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT b.api_key_id, b.request_fingerprint, b.batch_fingerprint, b.answer
    FROM billing_data.batch_requests AS b
    WHERE b.idempotency_key = p_idempotency_key
        AND (b.api_key_id = p_api_key_id OR b.first_key_id = p_first_key_id)
    ORDER BY b.api_key_id = p_api_key_id DESC
    LIMIT 1
$$;
COMMENT ON FUNCTION billing_data.find_batch IS
    'What is remembered of a batch under its idempotency key. Helper.';

-- Makes the captures and then the charges of one request, in their order, and records the outcomes
-- under p_idempotency_key for this API key and every key of its chain of rotations; see
-- billing.settle_items_once. answer is NULL, and nothing was done, where p_wait is false and an
-- account is held; else it has the charges' outcomes, and those of captures under "capture".
-- Locks: the accounts, in id order, then the batch_requests row.
CREATE OR REPLACE FUNCTION billing_data.settle_once(
    p_idempotency_key text,
    p_request_fingerprint bytea,
    p_items billing.charge_item[],
    p_captures billing.capture_item[],
    p_batch_fingerprint bytea,
    p_wait boolean,
    OUT answer jsonb,
    OUT replayed boolean
)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_credential uuid := coalesce((p_items[1]).api_key_id, (p_captures[1]).api_key_id);
    v_first_key_id uuid;
    v_first record;
    v_key_id uuid;
BEGIN
    v_key_id := (billing_data.authorize(v_credential, NULL, 'billing:write')).api_key_id;
    PERFORM billing_data.require(
        (
            v_credential = ALL (
                ARRAY(SELECT i.api_key_id FROM unnest(p_items) AS i)
                || ARRAY(SELECT i.api_key_id FROM unnest(p_captures) AS i)
            )
        ) IS TRUE,
        'p_items', 'they must all name one API key'
    );
    PERFORM billing_data.require_filled(p_idempotency_key, 'p_idempotency_key');
    PERFORM billing_data.require(
        length(p_request_fingerprint) BETWEEN 1 AND 64,
        'p_request_fingerprint', 'it must be a digest of 1 to 64 bytes'
    );
    PERFORM billing_data.require(
        coalesce(length(p_batch_fingerprint), 1) BETWEEN 1 AND 64,
        'p_batch_fingerprint', 'it must be a digest of 1 to 64 bytes'
    );
    PERFORM billing_data.require_durable_commit();
    v_first_key_id := billing_data.first_key_id(v_key_id);
    SELECT f.api_key_id, f.request_fingerprint, f.batch_fingerprint, f.answer INTO v_first
    FROM billing_data.find_batch(v_key_id, v_first_key_id, p_idempotency_key) AS f;
    IF v_first.api_key_id IS NULL THEN
        IF NOT billing_data.lock_accounts(
            ARRAY(
                SELECT u.id
                FROM unnest((billing_data.accounts_to_charge(p_items)).ids) AS u (id)
                UNION
                SELECT billing_data.surviving_account(h.account_id)
                FROM unnest(p_captures) AS i
                INNER JOIN billing_data.holds AS h ON h.id = i.hold_id
                ORDER BY 1
            ),
            p_wait
        ) THEN
            RETURN;
        END IF;
        -- A conflicting row may be of this API key or of another one of its chain.
        INSERT INTO billing_data.batch_requests (
            api_key_id, idempotency_key, first_key_id, request_fingerprint, batch_fingerprint,
            answer
        )
        VALUES (
            v_key_id, p_idempotency_key, v_first_key_id, p_request_fingerprint,
            p_batch_fingerprint, '[]'
        )
        ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            SELECT f.api_key_id, f.request_fingerprint, f.batch_fingerprint, f.answer INTO v_first
            FROM billing_data.find_batch(v_key_id, v_first_key_id, p_idempotency_key) AS f;
        END IF;
    END IF;
    replayed := v_first.api_key_id IS NOT NULL;
    IF NOT replayed THEN
        answer := '[]';
        IF p_captures <> '{}' THEN
            SELECT jsonb_agg(jsonb_build_object('outcome', c.outcome, 'capture', to_jsonb(c)))
            INTO STRICT answer
            FROM billing.capture_items(p_captures, p_wait => false) AS c;
        END IF;
        IF p_items <> '{}' THEN
            SELECT jsonb_agg(to_jsonb(c)) || answer INTO STRICT answer
            FROM billing.charge_items(p_items, p_wait => false) AS c;
        END IF;
        IF answer @> '[{"outcome": "busy"}]' THEN
            RAISE lock_not_available
                USING MESSAGE = 'An account was created and locked after the look-up';
        END IF;
        -- A key that was revoked meanwhile refuses the whole call. Recorded as the batch's answer,
        -- that refusal would be replayed to the key's successor.
        PERFORM billing_data.authorize(v_credential, NULL, 'billing:write');
        UPDATE billing_data.batch_requests AS b
        SET answer = settle_once.answer
        WHERE b.api_key_id = v_key_id AND b.idempotency_key = p_idempotency_key;
        RETURN;
    END IF;
    -- Rows of the release before have no digest that is comparable across API keys. Such a row
    -- counts as the same request.
    IF (
        v_first.batch_fingerprint = p_batch_fingerprint
        OR v_first.request_fingerprint = p_request_fingerprint
        OR (
            num_nulls(v_first.batch_fingerprint, p_batch_fingerprint) > 0
            AND v_first.api_key_id <> v_key_id
        )
    ) IS NOT TRUE THEN
        PERFORM billing_data.raise_error('idempotency_key_reused');
    END IF;
    answer := v_first.answer;
END
$$;
COMMENT ON FUNCTION billing_data.settle_once IS
    'Makes a list of captures and charges once per idempotency key. Helper.';

-- Makes the charges of one request, in their order, and records the outcomes under
-- p_idempotency_key for this API key and every key of its chain of rotations. The same request
-- again returns the first outcomes (replayed true) and charges nothing; another request under the
-- same key is refused. All items name one API key. p_batch_fingerprint is a digest of the request
-- that does not depend on the API key and leaves absent fields out; p_request_fingerprint depends
-- on the key, for servers of releases that know no other. Everything is one transaction. While an
-- account is held, the call waits for it and holds no other; with p_wait false, every item's
-- outcome is 'busy' after a moment, and nothing is recorded.
-- Locks: as billing.charge_items, then the batch_requests row. Writes: batch_requests 0..1, and as
-- billing.charge_items.
-- Errors: actor and key errors, invalid_argument, idempotency_key_reused, and lock_not_available
-- when an account stays held; all else is an item's outcome.
-- Example: SELECT * FROM billing.charge_items_once(p_idempotency_key => 'batch-1',
--     p_request_fingerprint => decode('00', 'hex'), p_items => ..., ...);
CREATE OR REPLACE FUNCTION billing.charge_items_once(
    p_idempotency_key text,
    p_request_fingerprint bytea,
    p_items billing.charge_item[],
    p_batch_fingerprint bytea DEFAULT NULL,
    p_wait boolean DEFAULT true
) RETURNS SETOF billing.charge_outcome
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_settled record;
BEGIN
    PERFORM billing_data.require_list(array_dims(p_items), cardinality(p_items), 'p_items');
    SELECT o.answer, o.replayed INTO STRICT v_settled
    FROM billing_data.settle_once(
        p_idempotency_key, p_request_fingerprint, p_items, '{}', p_batch_fingerprint, p_wait
    ) AS o;
    RETURN QUERY
    SELECT r.*
    FROM jsonb_array_elements(coalesce(v_settled.answer, (
        SELECT jsonb_agg(jsonb_build_object('item', i.item, 'outcome', 'busy'))
        FROM generate_subscripts(p_items, 1) AS i (item)
    ))) AS a (outcome)
    CROSS JOIN LATERAL jsonb_populate_record(
        NULL::billing.charge_outcome,
        a.outcome || jsonb_build_object('replayed', coalesce(v_settled.replayed, false))
    ) AS r;
END
$$;
COMMENT ON FUNCTION billing.charge_items_once IS
    'Makes a list of charges once per idempotency key. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.charge_items_once TO billing_server, billing_dba;

-- Captures the holds and then makes the charges of one request, as billing.charge_items_once does:
-- all in one transaction, once per idempotency key. Each row has a charge's outcome or that of a
-- capture. With p_wait false there is no row where an account is held, and nothing was done.
-- Locks, writes and errors: as billing.charge_items_once and billing.capture_items.
-- Example: SELECT * FROM billing.settle_items_once(p_idempotency_key => 'batch-1',
--     p_request_fingerprint => decode('00', 'hex'), p_captures => ..., ...);
CREATE OR REPLACE FUNCTION billing.settle_items_once(
    p_idempotency_key text,
    p_request_fingerprint bytea,
    p_captures billing.capture_item[],
    p_items billing.charge_item[] DEFAULT '{}',
    p_batch_fingerprint bytea DEFAULT NULL,
    p_wait boolean DEFAULT true
) RETURNS TABLE (charge billing.charge_outcome, capture billing.hold_outcome, replayed boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require_list(
        array_dims(p_captures), cardinality(p_captures), 'p_captures'
    );
    IF p_items IS DISTINCT FROM '{}' THEN
        PERFORM billing_data.require_list(array_dims(p_items), cardinality(p_items), 'p_items');
    END IF;
    RETURN QUERY
    SELECT
        CASE WHEN a.outcome -> 'capture' IS NULL THEN
            jsonb_populate_record(
                NULL::billing.charge_outcome,
                a.outcome || jsonb_build_object('replayed', o.replayed)
            )
        END,
        CASE WHEN a.outcome -> 'capture' IS NOT NULL THEN
            jsonb_populate_record(NULL::billing.hold_outcome, a.outcome -> 'capture')
        END,
        o.replayed
    FROM billing_data.settle_once(
        p_idempotency_key, p_request_fingerprint, p_items, p_captures, p_batch_fingerprint, p_wait
    ) AS o
    CROSS JOIN LATERAL jsonb_array_elements(o.answer) AS a (outcome);
END
$$;
COMMENT ON FUNCTION billing.settle_items_once IS
    'Captures holds and makes charges once per idempotency key. '
    'For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.settle_items_once TO billing_server, billing_dba;
