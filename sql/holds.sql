-- Holds: credits, or one free use, that are kept for a use whose price is known afterwards. A hold
-- is made before the work and settled once: captured, which makes a charge of what was used, or
-- released. A hold that is over keeps nothing any more, from that moment on; it can still be
-- captured while the credits are there. What open holds keep is counted in the account, and a
-- constraint keeps it within what the account has.

-- An account's paid credits and what its open holds keep at this moment, computed from its row.
-- They are as they will be once everything that is due is booked.
CREATE OR REPLACE FUNCTION billing_data.standing(
    p_account billing_data.accounts,
    OUT held bigint,
    OUT held_free_uses bigint,
    OUT paid_credits bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_due numeric;
BEGIN
    held := p_account.held_credits;
    held_free_uses := p_account.held_free_uses;
    paid_credits := p_account.paid_credits;
    IF p_account.due_at <= billing_data.clock() THEN
        SELECT
            held - coalesce(sum(h.amount_minor) FILTER (WHERE h.free_uses = 0), 0),
            held_free_uses - coalesce(sum(h.free_uses), 0)
        INTO STRICT held, held_free_uses
        FROM billing_data.holds AS h
        WHERE h.account_id = p_account.id AND h.state = 'open'
            AND h.expires_at <= billing_data.clock();
        paid_credits := paid_credits
            - billing_data.credits_over(p_account.id, billing_data.clock());
        v_due := billing_data.credits_due(p_account.id, billing_data.clock());
        -- A grant that the balance has no room for is left out when it is booked.
        IF v_due <= billing_data.max_amount() - paid_credits THEN
            paid_credits := paid_credits + v_due;
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.standing IS
    'What an account has at this moment, and what open holds keep of it. Helper.';

-- Books what is due for accounts: the end of holds, the end of lots, and grants. The caller holds
-- the accounts. Writes: holds 0..n, hold_changes 0..n, what billing_data.end_lots and
-- billing_data.make_due_grants write, accounts 1 for each account with something due.
CREATE OR REPLACE FUNCTION billing_data.bring_up_to_date(p_account_ids uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    v_now timestamptz := billing_data.clock();
    v_due uuid[] := ARRAY(
        SELECT a.id
        FROM billing_data.accounts AS a
        WHERE a.id = ANY (p_account_ids) AND a.due_at <= v_now
    );
    v_ended uuid[];  -- holds
BEGIN
    IF v_due = '{}' THEN
        RETURN;
    END IF;
    WITH ended AS (
        UPDATE billing_data.holds AS h
        SET state = 'expired'
        WHERE h.account_id = ANY (v_due) AND h.state = 'open' AND h.expires_at <= v_now
        RETURNING h.id, h.account_id, h.amount_minor, h.free_uses, h.expires_at
    ),
    noted AS (
        INSERT INTO billing_data.hold_changes (id, hold_id, change, created_at)
        SELECT billing_data.new_id(), e.id, 'expired', e.expires_at FROM ended AS e
    ),
    given AS (
        UPDATE billing_data.accounts AS a
        SET held_credits = a.held_credits - t.credits,
            held_free_uses = a.held_free_uses - t.free_uses
        FROM (
            SELECT
                e.account_id,
                coalesce(sum(e.amount_minor) FILTER (WHERE e.free_uses = 0), 0) AS credits,
                sum(e.free_uses) AS free_uses
            FROM ended AS e
            GROUP BY e.account_id
        ) AS t
        WHERE a.id = t.account_id
    )
    SELECT array_agg(e.id) INTO v_ended FROM ended AS e;
    IF v_ended IS NOT NULL THEN
        PERFORM billing_data.give_back_held_lots(v_ended);
    END IF;
    PERFORM billing_data.end_lots(v_due, v_now);
    PERFORM billing_data.make_due_grants(v_due, v_now);
    UPDATE billing_data.accounts AS a
    SET due_at = billing_data.next_due(a.id)
    WHERE a.id = ANY (v_due);
END
$$;
COMMENT ON FUNCTION billing_data.bring_up_to_date IS
    'Books what is due for accounts that are locked. Helper.';

-- Books what is due for up to p_accounts accounts: the end of holds and credits that are over, and
-- grants. No decision depends on this call, because every function counts what is due anyway. It
-- only makes lists and sums show it soon. Returns how many accounts it booked for.
-- Locks: the accounts; those that another transaction holds are left out. Writes: as
-- billing_data.bring_up_to_date. No actor is needed: the web tier calls it by itself.
-- Errors: invalid_argument. Example: SELECT billing.tidy_holds();
CREATE OR REPLACE FUNCTION billing.tidy_holds(p_accounts bigint DEFAULT 500) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_locked uuid[];
BEGIN
    PERFORM billing_data.require(
        p_accounts BETWEEN 1 AND 10000, 'p_accounts', 'it must be 1 to 10000'
    );
    v_locked := billing_data.lock_for_list(
        ARRAY(
            SELECT DISTINCT n.account_id
            FROM (
                (
                    SELECT h.account_id
                    FROM billing_data.holds AS h
                    WHERE h.state = 'open' AND h.expires_at <= billing_data.clock()
                    LIMIT p_accounts
                )
                UNION ALL
                (
                    SELECT l.account_id
                    FROM billing_data.lots AS l
                    WHERE l.has_left AND l.expires_at <= billing_data.clock()
                    LIMIT p_accounts
                )
                UNION ALL
                (
                    SELECT g.account_id
                    FROM billing_data.grant_schedules AS g
                    WHERE g.next_at <= billing_data.clock() AND NOT g.is_paused
                    LIMIT p_accounts
                )
            ) AS n
            ORDER BY n.account_id
        ),
        p_wait => false
    );
    RETURN cardinality(v_locked);
END
$$;
COMMENT ON FUNCTION billing.tidy_holds IS
    'Books the end of holds and credits that are over, and due grants. '
    'For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.tidy_holds TO billing_server, billing_dba;

-- How many holds are open, and how many credits they keep. When the oldest hold ended whose end is
-- not booked yet (NULL: there is none). How many holds that ended unsettled were booked in the last
-- five minutes.
-- Example: SELECT * FROM billing.watch_holds();
CREATE OR REPLACE FUNCTION billing.watch_holds()
RETURNS TABLE (
    open_holds bigint, credits_held bigint, over_since timestamptz, newly_expired bigint
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT
        count(*), least(
            coalesce(sum(h.amount_minor) FILTER (WHERE h.free_uses = 0), 0),
            billing_data.max_amount()
        )::bigint,
        min(h.expires_at) FILTER (WHERE h.expires_at <= billing_data.clock()),
        (
            SELECT count(*)
            FROM billing_data.hold_changes AS c
            WHERE c.id >= billing_data.first_id(clock_timestamp() - interval '5 minutes')
                AND c.change = 'expired'
        )
    FROM billing_data.holds AS h
    WHERE h.state = 'open';
END
$$;
COMMENT ON FUNCTION billing.watch_holds IS
    'Tells how much is held and how many holds ended unsettled, for alarms. '
    'For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.watch_holds TO billing_server, billing_dba;

-- Whether an item has the shape of a hold.
CREATE OR REPLACE FUNCTION billing_data.is_hold(p_item billing.hold_item) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    (p_item).amount_minor > 0 AND (p_item).expires_in_seconds BETWEEN 1 AND 86400
    AND coalesce(length((p_item).currency) = billing_data.most('currency'), true)
    AND length((p_item).description) BETWEEN 1 AND billing_data.most('description')
    AND coalesce(greatest(
        length((p_item).idempotency_key), length((p_item).metadata_message_id),
        length((p_item).metadata_agent_id), length((p_item).metadata_channel_id),
        length((p_item).metadata_request_id)
    ), 0) <= billing_data.most('idempotency_key')
) IS TRUE;
COMMENT ON FUNCTION billing_data.is_hold IS
    'Whether an item of a list has the shape of a hold. Helper.';

-- The fingerprint of a requested hold. It covers every field but the identity, the idempotency key
-- and the API key.
CREATE OR REPLACE FUNCTION billing_data.hold_fingerprint(p_item billing.hold_item) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN billing_data.fingerprint(
    billing_data.field_hash('hold', (p_item).amount_minor::text)
    # billing_data.field_hash('currency', (p_item).currency)
    # billing_data.field_hash('expires_in_seconds', (p_item).expires_in_seconds::text)
    # billing_data.field_hash('description', (p_item).description)
    # billing_data.field_hash('metadata_message_id', (p_item).metadata_message_id)
    # billing_data.field_hash('metadata_agent_id', (p_item).metadata_agent_id)
    # billing_data.field_hash('metadata_channel_id', (p_item).metadata_channel_id)
    # billing_data.field_hash('metadata_request_id', (p_item).metadata_request_id)
);
COMMENT ON FUNCTION billing_data.hold_fingerprint IS
    'The fingerprint of a requested hold. Helper.';

-- The outcome of an item about a hold, with the account's figures afterwards.
CREATE OR REPLACE FUNCTION billing_data.hold_outcome(
    p_item integer,
    p_outcome text,
    p_hold billing_data.holds,
    p_balance bigint,
    p_held bigint,
    p_free_uses bigint,
    p_account_currency text,
    p_cap jsonb DEFAULT NULL
) RETURNS billing.hold_outcome
LANGUAGE sql IMMUTABLE
RETURN ROW(
    p_item, p_outcome, (p_hold).id, (p_hold).account_id, (p_hold).amount_minor,
    (p_hold).currency, (p_hold).state,
    CASE (p_hold).free_uses WHEN 1 THEN 'free' WHEN 0 THEN 'paid' END,
    (p_hold).captured_minor, (p_hold).charge_id, (p_hold).is_late, (p_hold).description,
    (p_hold).metadata_message_id, (p_hold).metadata_agent_id, (p_hold).metadata_channel_id,
    (p_hold).metadata_request_id, (p_hold).created_at, (p_hold).expires_at,
    (p_hold).settled_at, p_balance, p_held, p_balance - p_held, p_free_uses,
    p_account_currency, p_cap
)::billing.hold_outcome;
COMMENT ON FUNCTION billing_data.hold_outcome IS
    'The outcome of an item about a hold. Helper.';

-- The account for which a hold of an identity is made: the account of the identity itself or, where
-- that was merged, the account that it leads to.
CREATE OR REPLACE FUNCTION billing_data.account_to_hold(p_id uuid, p_status text) RETURNS uuid
LANGUAGE sql STABLE
RETURN CASE WHEN p_status = 'merged' THEN billing_data.surviving_account(p_id) ELSE p_id END;
COMMENT ON FUNCTION billing_data.account_to_hold IS
    'The account that an identity''s own account leads to. Helper.';

-- What becomes of the items of a list of holds, from the accounts' present state and the accounts
-- locked for the list. p_left marks the items to weigh; NULL means all of them. An item has no row
-- while its outcome depends on an earlier item: that item has the same idempotency key, or it
-- needed more credits than the account had left. held_before and free_uses_before are what the
-- account has when the item's turn comes. p_refusals has the refusals by caps, as
-- billing_data.weigh_caps makes them.
CREATE OR REPLACE FUNCTION billing_data.weigh_holds(
    p_items billing.hold_item[], p_left boolean[], p_locked uuid[], p_role text,
    p_refusals jsonb[]
) RETURNS TABLE (
    item integer,
    outcome text,
    asked billing.hold_item,
    used billing_data.holds,
    fingerprint bytea,
    api_key_id uuid,
    account_id uuid,
    account_at tid,
    account_currency text,
    paid_credits bigint,
    held_before bigint,
    free_uses_before bigint
)
LANGUAGE plpgsql VOLATILE
ROWS 1  -- so that the plan looks up each row's hold and account, also when tables were small
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
            i.item, i.asked, (i.asked).idempotency_key, u.used, f.fingerprint, k.id AS api_key_id,
            a.id AS account_id, a.place AS account_at, a.currency::text AS account_currency,
            a.paid_credits, a.held_credits, a.free_uses_remaining - a.held_free_uses AS free_uses,
            CASE
                WHEN c.fault IS NOT NULL THEN c.fault
                WHEN NOT billing_data.is_hold(i.asked) THEN 'invalid_argument'
                WHEN a.id IS NULL THEN 'account_not_found'
                WHEN (u.used).id IS NOT NULL THEN billing_data.replay_outcome(
                    (u.used).request_fingerprint, f.fingerprint
                )
                -- Held by another transaction, merged or created since the accounts were locked.
                WHEN (p_locked[width_bucket(a.id, p_locked)] = a.id) IS NOT TRUE THEN 'busy'
            END AS early,
            billing_data.charge_verdict(
                a.status, a.currency, coalesce((i.asked).currency, a.currency),
                a.free_uses_remaining - a.held_free_uses, a.paid_credits - a.held_credits,
                (i.asked).amount_minor, billing_data.cap_slug(p_refusals[i.item])
            ) AS verdict
        FROM (
            SELECT asked, row_number() OVER ()::integer AS item FROM unnest(p_items) AS asked
        ) AS i
        CROSS JOIN LATERAL (
            SELECT billing_data.hold_fingerprint(i.asked) OFFSET 0
        ) AS f (fingerprint)
        LEFT JOIN billing_data.api_keys AS k
            ON coalesce(k.credential, k.id) = (i.asked).api_key_id
        CROSS JOIN LATERAL (
            SELECT billing_data.item_fault(p_role, (i.asked).api_key_id, k, 'billing:write')
        ) AS c (fault)
        -- OFFSET: as in billing_data.accounts_to_charge.
        LEFT JOIN LATERAL (
            SELECT CASE o.status WHEN 'merged' THEN billing_data.merge_path(o.id)
                ELSE ARRAY[o.id] END AS path
            FROM billing_data.accounts AS o
            WHERE o.oauth_provider = (i.asked).oauth_provider
                AND o.external_id = (i.asked).external_id
            OFFSET 0
        ) AS n ON true
        LEFT JOIN LATERAL (
            SELECT o.*, o.ctid AS place FROM billing_data.accounts AS o
            WHERE o.id = n.path[cardinality(n.path)]
            OFFSET 0
        ) AS a ON true
        -- The keys that were used on the way of a merged account are still those of its identity.
        LEFT JOIN LATERAL (
            SELECT h AS used
            FROM billing_data.holds AS h
            WHERE h.account_id = ANY (n.path) AND h.idempotency_key = (i.asked).idempotency_key
            ORDER BY array_position(n.path, h.account_id)
            LIMIT 1
        ) AS u ON true
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
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS place
        FROM keyed AS k
        WHERE k.before_with_key = 0 OR k.idempotency_key IS NULL
    ),
    summed AS (
        SELECT p.*, c.price, coalesce(sum(c.price) OVER (
            PARTITION BY p.account_id ORDER BY p.item
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ), 0) AS taken
        FROM placed AS p
        CROSS JOIN LATERAL (
            SELECT CASE
                WHEN p.verdict = 'created' AND p.place >= p.free_uses THEN (p.asked).amount_minor
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
        CROSS JOIN LATERAL (
            SELECT s.price > 0 AND s.held_credits + s.taken + s.price > s.paid_credits
        ) AS b (too_much)
    )
    SELECT
        t.item,
        CASE
            WHEN t.too_much THEN 'insufficient_credits'
            -- Where a cap refuses an item that could not be paid after those before it, either.
            WHEN t.verdict = billing_data.cap_slug(p_refusals[t.item]) AND t.place >= t.free_uses
                AND t.held_credits + t.taken + (t.asked).amount_minor > t.paid_credits
                THEN 'insufficient_credits'
            ELSE t.verdict
        END,
        t.asked, NULL::billing_data.holds, t.fingerprint, t.api_key_id, t.account_id,
        t.account_at, t.account_currency, t.paid_credits, (t.held_credits + t.taken)::bigint,
        greatest(t.free_uses - t.place, 0)
    FROM turn AS t
    WHERE t.waits IS NOT TRUE
    UNION ALL
    SELECT
        f.item, f.early, f.asked, f.used, f.fingerprint, f.api_key_id, f.account_id,
        f.account_at, f.account_currency, f.paid_credits, f.held_credits, f.free_uses
    FROM found AS f
    WHERE f.early IS NOT NULL;
END
$$;
COMMENT ON FUNCTION billing_data.weigh_holds IS
    'What becomes of the items of a list of holds. Helper.';

-- Makes the holds of the items that can be decided now, and returns what became of them. With
-- p_dry_run nothing is written.
CREATE OR REPLACE FUNCTION billing_data.hold_round(
    p_items billing.hold_item[],
    p_left boolean[],
    p_locked uuid[],
    p_role text,
    p_dry_run boolean,
    p_now timestamptz,
    p_refusals jsonb[]
) RETURNS billing.hold_outcome[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    v_seed bytea := billing_data.id_seed();
    v_outcomes billing.hold_outcome[];
    v_refused jsonb;
    v_with_lots uuid[];  -- accounts that have lots and new holds
BEGIN
    WITH decided AS MATERIALIZED (
        SELECT
            w.*, w.outcome = 'created' AS is_new, g.hold,
            CASE WHEN (g.hold).free_uses = 0 AND w.outcome = 'created'
                THEN (g.hold).amount_minor ELSE 0 END AS credits,
            CASE WHEN w.outcome = 'created' THEN (g.hold).free_uses ELSE 0 END AS free_uses,
            CASE WHEN w.outcome = billing_data.cap_slug(p_refusals[w.item])
                THEN p_refusals[w.item] END AS cap
        FROM billing_data.weigh_holds(p_items, p_left, p_locked, p_role, p_refusals) AS w
        CROSS JOIN LATERAL (
            SELECT CASE
                WHEN w.outcome = 'created' THEN ROW(
                    billing_data.nth_id(v_seed, w.item), w.account_id, (w.asked).amount_minor,
                    (w.free_uses_before > 0)::integer,
                    coalesce((w.asked).currency, w.account_currency), 'open', p_now,
                    p_now + (w.asked).expires_in_seconds * interval '1 second', NULL, NULL, NULL,
                    NULL, NULL, false, (w.asked).description, (w.asked).idempotency_key,
                    w.fingerprint, (w.asked).metadata_message_id, (w.asked).metadata_agent_id,
                    (w.asked).metadata_channel_id, (w.asked).metadata_request_id, w.api_key_id,
                    p_role
                )::billing_data.holds
                ELSE w.used
            END OFFSET 0
        ) AS g (hold)
    ),
    taken AS (
        UPDATE billing_data.accounts AS a
        SET held_credits = a.held_credits + t.credits,
            held_free_uses = a.held_free_uses + t.free_uses,
            due_at = least(a.due_at, t.due_at),
            updated_at = p_now
        FROM (
            SELECT
                d.account_at, sum(d.credits) AS credits, sum(d.free_uses) AS free_uses,
                min((d.hold).expires_at) AS due_at
            FROM decided AS d
            WHERE d.is_new AND NOT p_dry_run
            GROUP BY d.account_at
        ) AS t
        WHERE a.ctid = t.account_at  -- as in billing_data.charge_round
        RETURNING a.id, a.has_lots
    ),
    entered AS (
        INSERT INTO billing_data.holds
        SELECT (d.hold).* FROM decided AS d WHERE d.is_new AND NOT p_dry_run
    )
    SELECT
        array_agg(billing_data.hold_outcome(
            d.item, d.outcome, d.hold, d.paid_credits, d.held_before + d.credits,
            d.free_uses_before - d.free_uses, d.account_currency, d.cap
        )),
        jsonb_agg(jsonb_build_object(
            'account_id', d.account_id, 'reason', d.outcome, 'api_key_id', d.api_key_id,
            'database_role', p_role, 'amount_minor', (d.asked).amount_minor,
            'currency', coalesce((d.asked).currency, d.account_currency),
            'paid_credits', d.paid_credits - d.held_before,
            'free_uses_remaining', d.free_uses_before, 'account_currency', d.account_currency,
            'agent_id', (d.asked).metadata_agent_id, 'channel_id', (d.asked).metadata_channel_id,
            'request_id', (d.asked).metadata_request_id, 'cap', d.cap
        ) ORDER BY d.item) FILTER (
            WHERE d.cap IS NOT NULL OR d.outcome IN (
                'insufficient_credits', 'account_suspended', 'account_closed',
                'charge_currency_mismatch'
            )
        ),
        (SELECT array_agg(t.id) FROM taken AS t WHERE t.has_lots)
    INTO v_outcomes, v_refused, v_with_lots
    FROM decided AS d;
    IF v_with_lots IS NOT NULL THEN
        PERFORM billing_data.take_lots_for_holds(v_outcomes, v_with_lots);
    END IF;
    IF v_refused IS NOT NULL AND NOT p_dry_run THEN
        PERFORM billing_data.note_refusals(v_refused, p_now);
    END IF;
    RETURN v_outcomes;
END
$$;
COMMENT ON FUNCTION billing_data.hold_round IS
    'Makes the holds of a list that can be decided now. Helper.';

-- Holds credits for a list of items. An item holds one free use instead while the account has one.
-- Items of one account are decided in the order of the list. An item's outcome is one of these:
-- 'created'; 'replayed' or 'conflict', with the first hold's row, when its idempotency key was used
-- before by the same or by another request; the slug of the refusal; 'busy', only with p_wait
-- false, when another transaction holds the account. What is held is not available to anything else
-- from that moment on, until it is settled or its time is over. With p_dry_run nothing is held.
-- Locks: the accounts, in id order, then cap_usage of the caps that apply, by cap. Writes: holds
-- and accounts 1 for each created item, cap_usage 1 for each cap that applies, refused_charges 1
-- for each account, key and reason refused.
-- Errors: actor_required, actor_not_allowed, invalid_argument, lock_not_available when an account
-- stays held, and serialization_failure when accounts were merged at this moment; all else is an
-- outcome.
-- Example: SELECT * FROM billing.hold_items(p_items => ARRAY[jsonb_populate_record(
--     NULL::billing.hold_item, '{"oauth_provider": "oauth:google", "external_id": "1",
--     "amount_minor": 5, "expires_in_seconds": 900, "description": "one use"}')]);
CREATE OR REPLACE FUNCTION billing.hold_items(
    p_items billing.hold_item[], p_wait boolean DEFAULT true, p_dry_run boolean DEFAULT false
) RETURNS SETOF billing.hold_outcome
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    v_role text := billing_data.role_of_caller((p_items[1]).api_key_id);
    v_locked uuid[];
    v_round billing.hold_outcome[];
    v_outcomes billing.hold_outcome[] := ARRAY[]::billing.hold_outcome[];
    v_left boolean[];
    v_now timestamptz;
    v_requests billing_data.cap_request[];  -- the holds as caps see them
    v_capped billing_data.capped_item[];
    v_is_near boolean := false;  -- whether a cap may refuse an item
    v_due boolean[];  -- the items to decide next, where it is near
    v_refusals jsonb[];
BEGIN
    PERFORM billing_data.require_list(array_dims(p_items), cardinality(p_items), 'p_items');
    PERFORM billing_data.require_durable_commit();
    v_locked := billing_data.lock_for_list(
        ARRAY(
            SELECT DISTINCT billing_data.account_to_hold(a.id, a.status) AS id
            FROM unnest(p_items) AS i
            CROSS JOIN LATERAL (
                SELECT o.id, o.status FROM billing_data.accounts AS o
                WHERE o.oauth_provider = i.oauth_provider AND o.external_id = i.external_id
                OFFSET 0
            ) AS a
            ORDER BY id
        ),
        p_wait
    );
    v_now := billing_data.clock();
    IF EXISTS (SELECT FROM billing_data.caps) THEN
        v_requests := billing_data.holds_for_caps(p_items);
        SELECT b.capped, b.is_near INTO STRICT v_capped, v_is_near
        FROM billing_data.begin_caps(v_requests, v_locked, v_now, p_wait, p_dry_run) AS b;
    END IF;
    LOOP
        IF v_is_near THEN
            SELECT w.due, w.refusals INTO STRICT v_due, v_refusals
            FROM billing_data.weigh_caps(v_requests, v_capped, v_left, v_now) AS w;
        END IF;
        v_round := billing_data.hold_round(
            p_items, CASE WHEN v_is_near THEN v_due ELSE v_left END, v_locked, v_role, p_dry_run,
            v_now, v_refusals
        );
        IF v_capped IS NOT NULL AND NOT p_dry_run THEN
            PERFORM billing_data.use_caps(
                v_capped,
                ARRAY(SELECT o.item FROM unnest(v_round) AS o WHERE o.outcome = 'created'),
                ARRAY(SELECT o.cap FROM unnest(v_round) AS o WHERE o.cap IS NOT NULL), v_now
            );
        END IF;
        v_outcomes := v_outcomes || v_round;
        EXIT WHEN cardinality(v_outcomes) = coalesce(cardinality(p_items), 0);
        v_left := billing_data.undecided(
            cardinality(p_items), ARRAY(SELECT o.item FROM unnest(v_outcomes) AS o), 32
        );
    END LOOP;
    IF p_wait AND EXISTS (SELECT FROM unnest(v_outcomes) AS o WHERE o.outcome = 'busy') THEN
        PERFORM billing_data.raise_merged_meanwhile();
    END IF;
    RETURN QUERY SELECT o.* FROM unnest(v_outcomes) AS o;
END
$$;
COMMENT ON FUNCTION billing.hold_items IS
    'Holds credits for several users at once, an outcome per item. '
    'For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.hold_items TO billing_server, billing_dba;

-- The holds of which a list captured more or less than was held.
CREATE OR REPLACE FUNCTION billing_data.captured_now(p_outcomes billing.hold_outcome[])
RETURNS uuid[]
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(o.hold_id)
    FROM unnest(p_outcomes) AS o
    WHERE o.outcome = 'created' AND o.captured_minor <> o.amount_minor
$$;
COMMENT ON FUNCTION billing_data.captured_now IS
    'The holds of which a list captured more or less than was held. Helper.';

-- Whether an item has the shape of a capture.
CREATE OR REPLACE FUNCTION billing_data.is_capture(p_item billing.capture_item) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce((p_item).amount_minor, 0) >= 0
    AND coalesce((p_item).overage, 'refuse') IN ('refuse', 'available');
COMMENT ON FUNCTION billing_data.is_capture IS
    'Whether an item of a list has the shape of a capture. Helper.';

-- Whether a hold belongs to the caller. It belongs to the API key that made it, to the keys of its
-- chain of rotations, and to every database role.
CREATE OR REPLACE FUNCTION billing_data.owns_hold(
    p_role text, p_api_key_id uuid, p_hold_key_id uuid
) RETURNS boolean
LANGUAGE sql STABLE
RETURN p_role IS NOT NULL
    OR p_api_key_id = p_hold_key_id
    OR billing_data.first_key_id(p_api_key_id) = billing_data.first_key_id(p_hold_key_id);
COMMENT ON FUNCTION billing_data.owns_hold IS 'Whether a hold belongs to the caller. Helper.';

-- What a capture does, given the hold and its account: how much is charged, whether a free use pays
-- for it, or the slug of the refusal. A hold that is over keeps nothing: its capture needs
-- available credits, as a charge does. Overage takes what else is available and what caps have room
-- for (p_room; NULL: no cap applies), and never more. Without a pinned search_path the planner can
-- inline it.
CREATE OR REPLACE FUNCTION billing_data.weigh_capture(
    p_hold billing_data.holds,
    p_asked bigint,
    p_overage text,
    p_available bigint,
    p_free_uses bigint,
    p_room bigint
) RETURNS TABLE (outcome text, captured bigint, is_free boolean)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT
        o.outcome,
        CASE
            WHEN o.outcome <> 'created' THEN 0
            WHEN f.is_free THEN h.within + least(p_asked - h.within, p_room)
            ELSE h.within + least(p_asked - h.within, p_available - f.not_kept, p_room)
        END,
        o.outcome = 'created' AND f.is_free
    FROM (SELECT least(p_asked, (p_hold).amount_minor) AS within) AS h
    CROSS JOIN LATERAL (
        SELECT
            p_asked > 0 AND (p_hold).free_uses = 1
            AND ((p_hold).state <> 'expired' OR p_free_uses > 0) AS is_free,
            -- What a hold that is over must find among the available credits.
            CASE WHEN (p_hold).state = 'expired' THEN h.within ELSE 0 END AS not_kept
    ) AS f
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN (p_hold).state IN ('captured', 'released') THEN CASE
                WHEN (p_hold).capture_asked = p_asked AND (p_hold).capture_overage = p_overage
                    THEN 'replayed'
                ELSE 'hold_settled'
            END
            WHEN p_asked > (p_hold).amount_minor AND p_overage = 'refuse'
                THEN 'capture_exceeds_hold'
            WHEN NOT f.is_free AND p_available < f.not_kept THEN 'hold_expired'
            ELSE 'created'
        END
    ) AS o (outcome);
END;
COMMENT ON FUNCTION billing_data.weigh_capture IS 'What a capture of a hold does. Helper.';

-- A hold as it is once it is captured.
CREATE OR REPLACE FUNCTION billing_data.captured_hold(
    p_hold billing_data.holds, p_charge_id uuid, p_captured bigint, p_now timestamptz
) RETURNS billing_data.holds
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ROW(
    (p_hold).id, (p_hold).account_id, (p_hold).amount_minor, (p_hold).free_uses, (p_hold).currency,
    'captured', (p_hold).created_at, (p_hold).expires_at, p_now, p_charge_id, p_captured,
    (p_hold).capture_asked, (p_hold).capture_overage, (p_hold).state = 'expired',
    (p_hold).description, (p_hold).idempotency_key, (p_hold).request_fingerprint,
    (p_hold).metadata_message_id, (p_hold).metadata_agent_id, (p_hold).metadata_channel_id,
    (p_hold).metadata_request_id, (p_hold).api_key_id, (p_hold).database_role
)::billing_data.holds;
COMMENT ON FUNCTION billing_data.captured_hold IS 'A hold as it is once it is captured. Helper.';

-- What becomes of the items of a list of captures, from the accounts' present state and the
-- accounts locked for the list. p_left marks the items to weigh; NULL means all of them. An item
-- has no row while its outcome depends on an earlier item of its account: that item captures the
-- same hold, or changes the available credits that this item needs. credits, free_uses and uses are
-- what the item takes and credits_kept and free_uses_kept what its hold keeps until then; each as a
-- sum with those of the account's items before it. p_is_capped says that caps bound what is
-- captured beyond the held amount.
CREATE OR REPLACE FUNCTION billing_data.weigh_captures(
    p_items billing.capture_item[], p_left boolean[], p_locked uuid[], p_role text,
    p_now timestamptz, p_is_capped boolean
) RETURNS TABLE (
    item integer,
    outcome text,
    asked_minor bigint,
    overage text,
    api_key_id uuid,
    hold billing_data.holds,
    hold_at tid,
    account billing_data.accounts,
    account_at tid,
    captured bigint,
    is_free boolean,
    price bigint,
    credits bigint,
    free_uses bigint,
    uses bigint,
    credits_kept bigint,
    free_uses_kept bigint
)
LANGUAGE plpgsql VOLATILE
ROWS 1  -- so that the plan looks up each row's hold and account, also when tables were small
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
            i.item, k.id AS api_key_id, g.hold, g.hold_at, a.account, a.account_at,
            q.asked_minor, q.overage, w.captured, w.is_free,
            CASE
                WHEN c.fault IS NOT NULL THEN c.fault
                WHEN NOT billing_data.is_capture(i.asked) THEN 'invalid_argument'
                WHEN (g.hold).id IS NULL OR a.is_erased
                    OR billing_data.owns_hold(p_role, k.id, (g.hold).api_key_id) IS NOT TRUE
                    THEN 'hold_not_found'
                -- Held by another transaction, or merged since the accounts were locked.
                WHEN (p_locked[width_bucket((a.account).id, p_locked)] = (a.account).id) IS NOT TRUE
                    OR (a.account).status = 'merged'
                    THEN 'busy'
                ELSE w.outcome
            END AS outcome
        FROM (
            SELECT asked, row_number() OVER ()::integer AS item FROM unnest(p_items) AS asked
        ) AS i
        LEFT JOIN billing_data.api_keys AS k
            ON coalesce(k.credential, k.id) = (i.asked).api_key_id
        CROSS JOIN LATERAL (
            SELECT billing_data.item_fault(p_role, (i.asked).api_key_id, k, 'billing:write')
        ) AS c (fault)
        LEFT JOIN LATERAL (
            SELECT h AS hold, h.ctid AS hold_at
            FROM billing_data.holds AS h
            WHERE h.id = (i.asked).hold_id
            OFFSET 0
        ) AS g ON true
        LEFT JOIN LATERAL (
            SELECT o.id, o.status FROM billing_data.accounts AS o
            WHERE o.id = (g.hold).account_id
            OFFSET 0
        ) AS n ON true
        LEFT JOIN LATERAL (
            SELECT o AS account, o.ctid AS account_at, e.account_id IS NOT NULL AS is_erased
            FROM billing_data.accounts AS o
            LEFT JOIN billing_data.erased_accounts AS e ON e.account_id = o.id
            WHERE o.id = billing_data.account_to_hold(n.id, n.status)
            OFFSET 0
        ) AS a ON true
        CROSS JOIN LATERAL (
            SELECT
                coalesce((i.asked).amount_minor, (g.hold).amount_minor),
                coalesce((i.asked).overage, 'refuse'),
                CASE WHEN p_is_capped THEN billing_data.cap_room(g.hold, p_now) END
        ) AS q (asked_minor, overage, room)
        CROSS JOIN LATERAL billing_data.weigh_capture(
            g.hold, q.asked_minor, q.overage,
            (a.account).paid_credits - (a.account).held_credits,
            (a.account).free_uses_remaining - (a.account).held_free_uses, q.room
        ) AS w
        WHERE p_left IS NULL OR p_left[i.item]
    ),
    placed AS (
        SELECT
            f.*, f.outcome = 'created' AS is_new,
            -- A capture of more than was held, or of a hold that is over, takes what the items
            -- before it have left. So it can only be decided after them.
            f.outcome IN ('created', 'hold_expired')
            AND ((f.hold).state <> 'open' OR f.asked_minor > (f.hold).amount_minor) AS depends,
            count(*) FILTER (WHERE f.outcome = 'created') OVER (
                PARTITION BY (f.account).id ORDER BY f.item
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS made_before,
            count(*) FILTER (WHERE f.outcome = 'created') OVER (
                PARTITION BY (f.hold).id ORDER BY f.item
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS made_of_hold
        FROM found AS f
    ),
    turn AS (
        SELECT p.*, bool_or(p.made_of_hold > 0 OR (p.depends AND p.made_before > 0)) OVER (
            PARTITION BY (p.account).id ORDER BY p.item
        ) AS waits
        FROM placed AS p
    ),
    taking AS (
        SELECT
            t.*, CASE WHEN t.is_new AND NOT t.is_free THEN t.captured ELSE 0 END AS price,
            (t.is_new AND t.is_free)::integer AS free_use,
            (t.is_new AND t.captured > 0)::integer AS one_use,
            CASE WHEN t.is_new AND (t.hold).state = 'open' AND (t.hold).free_uses = 0
                THEN (t.hold).amount_minor ELSE 0 END AS kept,
            CASE WHEN t.is_new AND (t.hold).state = 'open'
                THEN (t.hold).free_uses ELSE 0 END AS free_kept
        FROM turn AS t
        WHERE t.waits IS NOT TRUE
    )
    SELECT
        n.item, n.outcome, n.asked_minor, n.overage, n.api_key_id, n.hold, n.hold_at, n.account,
        n.account_at, n.captured, n.is_free, n.price, (sum(n.price) OVER w)::bigint,
        sum(n.free_use) OVER w,
        sum(n.one_use) OVER w, (sum(n.kept) OVER w)::bigint, (sum(n.free_kept) OVER w)::bigint
    FROM taking AS n
    WINDOW w AS (
        PARTITION BY (n.account).id ORDER BY n.item
        ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    );
END
$$;
COMMENT ON FUNCTION billing_data.weigh_captures IS
    'What becomes of the items of a list of captures. Helper.';

-- Captures the holds of the items that can be decided now, and returns what became of them.
CREATE OR REPLACE FUNCTION billing_data.capture_round(
    p_items billing.capture_item[], p_left boolean[], p_locked uuid[], p_role text,
    p_now timestamptz, p_is_capped boolean
) RETURNS billing.hold_outcome[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    v_seed bytea := billing_data.id_seed();
    v_outcomes billing.hold_outcome[];
    v_of_lots jsonb;  -- captures of accounts that have lots
    v_crossed jsonb;
BEGIN
    WITH decided AS MATERIALIZED (
        SELECT
            w.*, w.outcome = 'created' AS is_new,
            CASE WHEN w.is_free THEN 'free' ELSE 'paid' END AS paid_with,
            (w.account).paid_credits - w.credits AS balance_after,
            (w.account).free_uses_remaining - w.free_uses AS free_uses_after,
            CASE WHEN w.captured > 0 THEN billing_data.nth_id(v_seed, w.item) END AS charge_id
        FROM billing_data.weigh_captures(
            p_items, p_left, p_locked, p_role, p_now, p_is_capped
        ) AS w
    ),
    taken AS (
        UPDATE billing_data.accounts AS a
        SET paid_credits = a.paid_credits - t.credits,
            free_uses_remaining = a.free_uses_remaining - t.free_uses,
            held_credits = a.held_credits - t.credits_kept,
            held_free_uses = a.held_free_uses - t.free_uses_kept,
            total_uses = a.total_uses + t.uses,
            ledger_version = a.ledger_version + t.uses,
            updated_at = p_now
        FROM (
            SELECT
                d.account_at, max(d.credits) AS credits, max(d.free_uses) AS free_uses,
                max(d.credits_kept) AS credits_kept, max(d.free_uses_kept) AS free_uses_kept,
                max(d.uses) AS uses
            FROM decided AS d
            WHERE d.is_new
            GROUP BY d.account_at
        ) AS t
        WHERE a.ctid = t.account_at  -- as in billing_data.charge_round
    ),
    entered AS (
        INSERT INTO billing_data.charges (
            account_id, ledger_version, id, amount_minor, currency, balance_before, balance_after,
            free_uses_after, paid_with, description, metadata_message_id, metadata_agent_id,
            metadata_channel_id, metadata_request_id, created_at, request_fingerprint, api_key_id,
            database_role, digest
        )
        SELECT
            c.account_id, c.ledger_version, c.id, c.amount_minor, c.currency, c.balance_before,
            c.balance_after, c.free_uses_after, c.paid_with, c.description, c.metadata_message_id,
            c.metadata_agent_id, c.metadata_channel_id, c.metadata_request_id, p_now,
            c.request_fingerprint, c.api_key_id, p_role,
            billing_data.new_charge_digest(
                c.account_id, c.ledger_version, c.id, c.amount_minor, c.currency, c.balance_before,
                c.balance_after, c.free_uses_after, c.paid_with, c.description, NULL,
                c.request_fingerprint, p_now, c.api_key_id, NULL, p_role
            )
        FROM (
            SELECT
                (d.account).id AS account_id, (d.account).ledger_version + d.uses AS ledger_version,
                d.charge_id AS id, d.captured AS amount_minor, (d.hold).currency,
                d.balance_after + d.price AS balance_before, d.balance_after, d.free_uses_after,
                d.paid_with, (d.hold).description, (d.hold).metadata_message_id,
                (d.hold).metadata_agent_id, (d.hold).metadata_channel_id,
                (d.hold).metadata_request_id, (d.hold).request_fingerprint, d.api_key_id
            FROM decided AS d
            WHERE d.is_new AND d.captured > 0
        ) AS c
    ),
    settled AS (
        UPDATE billing_data.holds AS h
        SET state = 'captured',
            settled_at = p_now,
            charge_id = d.charge_id,
            captured_minor = d.captured,
            capture_asked = d.asked_minor,
            capture_overage = d.overage,
            is_late = (d.hold).state = 'expired'
        FROM decided AS d
        WHERE d.is_new AND h.ctid = d.hold_at  -- the account is locked, so nobody moves the row
    ),
    noted AS (  -- only captures without a charge: a charge says who captured the hold
        INSERT INTO billing_data.hold_changes (
            id, hold_id, change, amount_minor, created_at, api_key_id, database_role
        )
        SELECT
            billing_data.nth_id(v_seed, d.item), (d.hold).id, 'captured', 0, p_now, d.api_key_id,
            p_role
        FROM decided AS d
        WHERE d.is_new AND d.captured = 0
    )
    SELECT array_agg(
        billing_data.hold_outcome(
            d.item, d.outcome, c.hold, d.balance_after,
            (d.account).held_credits - d.credits_kept,
            (d.account).free_uses_remaining - (d.account).held_free_uses
            - d.free_uses + d.free_uses_kept,
            (d.account).currency
        )
    ),
    jsonb_agg(jsonb_build_object(
        'account_id', (d.account).id, 'charge_id', d.charge_id, 'captured', d.price,
        'available', (d.account).paid_credits - (d.account).held_credits, 'hold', to_jsonb(d.hold)
    ) ORDER BY d.item) FILTER (WHERE (d.account).has_lots AND d.is_new),
    jsonb_agg(billing_data.crossing(
        d.item, (d.account).id, d.charge_id, d.paid_with, d.balance_after + d.price,
        d.balance_after, d.free_uses_after
    )) FILTER (
        WHERE d.is_new AND d.captured > 0 AND billing_data.charge_crosses(
            s.low_balance, d.paid_with, d.balance_after + d.price, d.balance_after,
            d.free_uses_after
        )
    )
    INTO v_outcomes, v_of_lots, v_crossed
    FROM decided AS d
    CROSS JOIN LATERAL (
        SELECT
            CASE
                WHEN d.is_new THEN billing_data.captured_hold(
                    d.hold, d.charge_id, d.captured, p_now
                )
                WHEN d.outcome IN (
                    'replayed', 'hold_settled', 'hold_expired', 'capture_exceeds_hold'
                ) THEN d.hold
            END AS hold
        OFFSET 0
    ) AS c
    CROSS JOIN billing_data.settings AS s;
    IF v_of_lots IS NOT NULL THEN
        v_outcomes := billing_data.settle_lots(v_outcomes, v_of_lots);
    END IF;
    IF v_crossed IS NOT NULL THEN
        PERFORM billing_data.raise_charge_alerts(v_crossed);
    END IF;
    RETURN v_outcomes;
END
$$;
COMMENT ON FUNCTION billing_data.capture_round IS
    'Captures the holds of a list that can be decided now. Helper.';

-- Captures a list of holds: a charge is made of what was used, and the rest is given back. Captures
-- of holds of one account are decided in the order of the list. amount_minor is 0 or more (NULL:
-- all that is held). With overage 'available' more than is held can be asked for: it takes what
-- else is available, never below zero, so captured_minor may be less than was asked for. A hold
-- that is over is captured (is_late) as long as the credits are still there. The account's state
-- does not matter: the work was done. An item's outcome is 'created'; 'replayed' when the hold was
-- captured before by the same request; the slug of the refusal; 'busy', only with p_wait false,
-- when another transaction holds the account.
-- Locks: the accounts, in id order, then cap_usage of the caps that apply, by cap. Writes: for each
-- created item accounts and holds 1, charges 1 where more than 0 is captured, else hold_changes 1,
-- cap_usage 1 for each cap where the captured amount is not the held one, outbox 1 for each
-- endpoint and each cap that was reached.
-- Errors: actor_required, actor_not_allowed, invalid_argument, lock_not_available when an account
-- stays held, and serialization_failure when accounts were merged at this moment; all else is an
-- outcome.
-- Example: SELECT * FROM billing.capture_items(p_items => ARRAY[jsonb_populate_record(
--     NULL::billing.capture_item, '{"hold_id": "019a9c2f-10d2-7b3e-8e57-52f0c6a1b9d4",
--     "amount_minor": 3}')]);
CREATE OR REPLACE FUNCTION billing.capture_items(
    p_items billing.capture_item[], p_wait boolean DEFAULT true
) RETURNS SETOF billing.hold_outcome
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    v_role text := billing_data.role_of_caller((p_items[1]).api_key_id);
    v_locked uuid[];
    v_round billing.hold_outcome[];
    v_outcomes billing.hold_outcome[] := ARRAY[]::billing.hold_outcome[];
    v_left boolean[];
    v_now timestamptz;
    v_capped billing_data.capped_item[];
    v_is_capped boolean := false;
    v_most integer := 32;  -- items of a round after the first
BEGIN
    PERFORM billing_data.require_list(array_dims(p_items), cardinality(p_items), 'p_items');
    PERFORM billing_data.require_durable_commit();
    v_locked := billing_data.lock_for_list(
        ARRAY(
            SELECT DISTINCT billing_data.account_to_hold(a.id, a.status) AS id
            FROM unnest(p_items) AS i
            CROSS JOIN LATERAL (
                SELECT n.account_id FROM billing_data.holds AS n WHERE n.id = i.hold_id OFFSET 0
            ) AS h
            CROSS JOIN LATERAL (
                SELECT o.id, o.status FROM billing_data.accounts AS o
                WHERE o.id = h.account_id
                OFFSET 0
            ) AS a
            ORDER BY id
        ),
        p_wait
    );
    v_now := billing_data.clock();
    -- What a capture asks for beyond its hold counts towards caps. Where a cap applies to any of
    -- it, the items are decided one after the other.
    IF EXISTS (SELECT FROM billing_data.caps) THEN
        v_capped := billing_data.capped_items(
            billing_data.overages_for_caps(p_items), v_locked
        );
        v_is_capped := v_capped IS NOT NULL;
    END IF;
    IF v_is_capped THEN
        PERFORM billing_data.lock_caps(v_capped, v_now, p_wait);
        v_most := 1;
        v_left := billing_data.undecided(cardinality(p_items), '{}', v_most);
    END IF;
    LOOP
        v_round := billing_data.capture_round(
            p_items, v_left, v_locked, v_role, v_now, v_is_capped
        );
        v_outcomes := v_outcomes || v_round;
        IF v_is_capped THEN
            PERFORM billing_data.settle_caps_of_holds(
                billing_data.captured_now(v_round), v_now
            );
        END IF;
        EXIT WHEN cardinality(v_outcomes) = coalesce(cardinality(p_items), 0);
        v_left := billing_data.undecided(
            cardinality(p_items), ARRAY(SELECT o.item FROM unnest(v_outcomes) AS o), v_most
        );
    END LOOP;
    IF v_is_capped THEN
        -- Everything is counted. This marks the caps that were reached.
        PERFORM billing_data.use_caps(v_capped, NULL, NULL, v_now);
    ELSE
        PERFORM billing_data.settle_caps_of_holds(billing_data.captured_now(v_outcomes), v_now);
    END IF;
    IF p_wait AND EXISTS (SELECT FROM unnest(v_outcomes) AS o WHERE o.outcome = 'busy') THEN
        PERFORM billing_data.raise_merged_meanwhile();
    END IF;
    RETURN QUERY SELECT o.* FROM unnest(v_outcomes) AS o;
END
$$;
COMMENT ON FUNCTION billing.capture_items IS
    'Captures several holds at once, an outcome per item. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.capture_items TO billing_server, billing_dba;

-- Raises the refusal of an item about a hold. Returns when the item was done, now or before.
CREATE OR REPLACE FUNCTION billing_data.require_held(
    p_outcome billing.hold_outcome, p_hold_id uuid, p_required bigint, p_currency text
) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_outcome.outcome IN ('created', 'replayed') THEN
        RETURN;
    END IF;
    PERFORM billing_data.raise_error(
        CASE p_outcome.outcome WHEN 'conflict' THEN 'hold_already_exists' ELSE p_outcome.outcome
        END,
        jsonb_strip_nulls(jsonb_build_object(
            'hold_id', coalesce(p_outcome.hold_id, p_hold_id), 'balance', p_outcome.available,
            'available', p_outcome.available, 'held', p_outcome.amount_minor,
            'required', coalesce(p_required, p_outcome.amount_minor), 'state', p_outcome.state,
            'account_currency', p_outcome.account_currency, 'currency', p_currency,
            'permission', CASE p_outcome.outcome WHEN 'permission_missing' THEN 'billing:write' END
        )) || coalesce(p_outcome.cap, jsonb_build_object())
    );
END
$$;
COMMENT ON FUNCTION billing_data.require_held IS
    'Raises the refusal of an item about a hold. Helper.';

-- Refuses arguments that make no hold, and names the one at fault.
-- Errors: invalid_argument.
CREATE OR REPLACE FUNCTION billing_data.require_hold_shape(p_item billing.hold_item) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.require_identity(p_item.oauth_provider, p_item.external_id);
    PERFORM billing_data.require(
        p_item.amount_minor > 0, 'p_amount_minor', 'it must be greater than 0'
    );
    PERFORM billing_data.require(
        p_item.expires_in_seconds BETWEEN 1 AND 86400,
        'p_expires_in_seconds', 'it must be 1 to 86400'
    );
    PERFORM billing_data.require(
        length(p_item.description) > 0, 'p_description', 'it must not be empty'
    );
    IF p_item.currency IS NOT NULL THEN
        PERFORM billing_data.require_currency_length(p_item.currency);
    END IF;
    PERFORM billing_data.require_short(f.value, 'p_' || f.key)
    FROM jsonb_each_text(to_jsonb(p_item)) AS f;
END
$$;
COMMENT ON FUNCTION billing_data.require_hold_shape IS
    'Raises invalid_argument for arguments that make no hold. Helper.';

-- Holds credits of an account, or one free use while it has one, for p_expires_in_seconds (1 to
-- 86400). Any outcome but a new hold, or the same hold again under its idempotency key, is raised
-- as an error. With p_dry_run nothing is held, and hold_id is NULL.
-- Locks and writes: as billing.hold_items. Errors: actor and key errors, invalid_argument,
-- account_not_found, account_suspended, account_closed, charge_currency_mismatch,
-- insufficient_credits, account_cap_reached, cap_reached, hold_already_exists.
-- Example: SELECT * FROM billing.create_hold(p_oauth_provider => 'oauth:google',
--     p_external_id => '1', p_amount_minor => 5);
CREATE OR REPLACE FUNCTION billing.create_hold(
    p_oauth_provider text,
    p_external_id text,
    p_amount_minor bigint,
    p_expires_in_seconds bigint DEFAULT 900,
    p_description text DEFAULT 'one use',
    p_idempotency_key text DEFAULT NULL,
    p_currency text DEFAULT NULL,
    p_metadata_message_id text DEFAULT NULL,
    p_metadata_agent_id text DEFAULT NULL,
    p_metadata_channel_id text DEFAULT NULL,
    p_metadata_request_id text DEFAULT NULL,
    p_dry_run boolean DEFAULT false,
    p_api_key_id uuid DEFAULT NULL
) RETURNS billing.hold_outcome
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_item billing.hold_item := ROW(
        p_oauth_provider, p_external_id, p_amount_minor, p_currency, p_expires_in_seconds,
        p_description, p_idempotency_key, p_metadata_message_id, p_metadata_agent_id,
        p_metadata_channel_id, p_metadata_request_id, p_api_key_id
    )::billing.hold_item;
    v_outcome billing.hold_outcome;
BEGIN
    PERFORM billing_data.require_hold_shape(v_item);
    PERFORM billing_data.require(p_dry_run IS NOT NULL, 'p_dry_run', 'it must be true or false');
    SELECT o.* INTO STRICT v_outcome
    FROM billing.hold_items(ARRAY[v_item], p_dry_run => p_dry_run) AS o;
    PERFORM billing_data.require_held(v_outcome, NULL, p_amount_minor, p_currency);
    IF p_dry_run AND v_outcome.outcome = 'created' THEN
        v_outcome.hold_id := NULL;
    END IF;
    RETURN v_outcome;
END
$$;
COMMENT ON FUNCTION billing.create_hold IS
    'Holds credits, or a free use, for a use whose price is known afterwards. '
    'For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.create_hold TO billing_server, billing_dba;

-- Whether a user may go on with work that may use up to p_amount_minor: checks, as
-- billing.check_credit does, and makes a hold in the same transaction. Where the hold cannot be
-- made, has_credit is false, reason says why, and nothing is held; a hold that its idempotency key
-- made before counts as made. credits_remaining and free_uses_remaining are what is available
-- beside the hold. hold.outcome is that of billing.hold_items.
-- Locks and writes: as billing.check_items, then as billing.hold_items. Errors: actor and key
-- errors, invalid_argument, and other refusals of billing.hold_items. A conflict of the idempotency
-- key, too few credits, a suspended or closed account and a cap are outcomes, not errors.
-- Example: SELECT * FROM billing.check_and_hold(
--     p_oauth_provider => 'oauth:google', p_external_id => '1', p_amount_minor => 5);
CREATE OR REPLACE FUNCTION billing.check_and_hold(
    p_oauth_provider text,
    p_external_id text,
    p_amount_minor bigint,
    p_expires_in_seconds bigint DEFAULT 900,
    p_description text DEFAULT 'one use',
    p_idempotency_key text DEFAULT NULL,
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
) RETURNS TABLE (checked billing.check_outcome, hold billing.hold_outcome)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_check_item billing.check_item := ROW(
        p_oauth_provider, p_external_id, p_wa_id, p_tenant_id, p_context_agent_id,
        p_context_channel_id, p_context_request_id, p_customer_email, p_user_role, p_agent_id,
        p_marketing_opt_in, p_marketing_opt_in_source, p_api_key_id
    )::billing.check_item;
    v_hold_item billing.hold_item := ROW(
        p_oauth_provider, p_external_id, p_amount_minor, NULL, p_expires_in_seconds, p_description,
        p_idempotency_key, NULL, p_context_agent_id, p_context_channel_id, p_context_request_id,
        p_api_key_id
    )::billing.hold_item;
    v_check billing.check_outcome;
    v_hold billing.hold_outcome;
BEGIN
    PERFORM billing_data.authorize(p_api_key_id, NULL, 'billing:write');
    PERFORM billing_data.require_hold_shape(v_hold_item);
    SELECT c.* INTO STRICT v_check FROM billing.check_items(ARRAY[v_check_item]) AS c;
    PERFORM billing_data.require_checked(v_check_item, v_check.outcome);
    SELECT o.* INTO STRICT v_hold FROM billing.hold_items(ARRAY[v_hold_item]) AS o;
    IF v_hold.outcome NOT IN (
        'created', 'replayed', 'conflict', 'insufficient_credits', 'account_suspended',
        'account_closed', 'cap_reached', 'account_cap_reached'
    ) THEN
        PERFORM billing_data.require_held(v_hold, NULL, p_amount_minor, NULL);
    END IF;
    v_check.has_credit := v_hold.outcome IN ('created', 'replayed');
    v_check.reason := CASE
        WHEN v_check.has_credit THEN NULL
        WHEN v_check.reason IS NOT NULL THEN v_check.reason
        WHEN v_hold.outcome = 'insufficient_credits'
            THEN 'Fewer credits are available than the hold needs'
        WHEN v_hold.cap IS NOT NULL THEN (
            SELECT billing_data.filled(e.message, v_hold.cap)
            FROM billing.errors AS e
            WHERE e.slug = v_hold.outcome
        )
    END;
    v_check.purchase_required := v_hold.outcome = 'insufficient_credits';
    v_check.credits_remaining := v_hold.available;
    v_check.free_uses_remaining := v_hold.free_uses_available;
    v_check.held := nullif(v_hold.held, 0);
    SELECT
        CASE WHEN v_check.purchase_required THEN s.pack_price_minor END,
        CASE WHEN v_check.purchase_required THEN s.pack_uses END,
        billing_data.is_low(s.low_balance, v_hold.free_uses_available, v_hold.available)
    INTO STRICT v_check.purchase_price_minor, v_check.purchase_uses, v_check.low_balance
    FROM billing_data.settings AS s;
    RETURN QUERY SELECT v_check, v_hold;
END
$$;
COMMENT ON FUNCTION billing.check_and_hold IS
    'Says if a user may go on, and holds what that may use. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.check_and_hold TO billing_server, billing_dba;

-- Captures a hold, as billing.capture_items does, and raises a refusal as an error.
-- Locks and writes: as billing.capture_items. Errors: actor and key errors, invalid_argument,
-- hold_not_found, hold_settled, hold_expired, capture_exceeds_hold.
-- Example: SELECT * FROM billing.capture_hold(p_hold_id => '...', p_amount_minor => 3);
CREATE OR REPLACE FUNCTION billing.capture_hold(
    p_hold_id uuid,
    p_amount_minor bigint DEFAULT NULL,
    p_overage text DEFAULT 'refuse',
    p_api_key_id uuid DEFAULT NULL
) RETURNS billing.hold_outcome
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_outcome billing.hold_outcome;
BEGIN
    PERFORM billing_data.require(
        coalesce(p_amount_minor, 0) >= 0, 'p_amount_minor', 'it must be 0 or more'
    );
    PERFORM billing_data.require(
        p_overage IN ('refuse', 'available'), 'p_overage', 'it must be refuse or available'
    );
    SELECT o.* INTO STRICT v_outcome
    FROM billing.capture_items(
        ARRAY[ROW(p_hold_id, p_amount_minor, p_overage, p_api_key_id)::billing.capture_item]
    ) AS o;
    PERFORM billing_data.require_held(v_outcome, p_hold_id, p_amount_minor, NULL);
    RETURN v_outcome;
END
$$;
COMMENT ON FUNCTION billing.capture_hold IS
    'Captures a hold: makes a charge of what was used. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.capture_hold TO billing_server, billing_dba;

-- Locks the account of a hold, brings it up to date, and returns the hold. An API key that may not
-- act on the hold does not find it.
-- Locks: the account. Errors: hold_not_found.
CREATE OR REPLACE FUNCTION billing_data.lock_hold(p_hold_id uuid, p_actor billing_data.actor)
RETURNS billing_data.holds
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_hold billing_data.holds;
    v_account billing_data.accounts;
BEGIN
    SELECT h.* INTO v_hold FROM billing_data.holds AS h WHERE h.id = p_hold_id;
    v_account := billing_data.lock_account(v_hold.account_id);
    IF v_hold.id IS NULL
        OR (
            p_actor.api_key_id IS NOT NULL AND (
                billing_data.is_erased(v_account.id)
                OR billing_data.owns_hold(NULL, p_actor.api_key_id, v_hold.api_key_id) IS NOT TRUE
            )
        )
    THEN
        PERFORM billing_data.raise_error(
            'hold_not_found', jsonb_build_object('hold_id', p_hold_id)
        );
    END IF;
    SELECT h.* INTO STRICT v_hold FROM billing_data.holds AS h WHERE h.id = p_hold_id;
    RETURN v_hold;
END
$$;
COMMENT ON FUNCTION billing_data.lock_hold IS
    'A hold whose account is locked and up to date. Helper.';

-- Records what became of a hold, and who did it.
-- Writes: hold_changes 1.
CREATE OR REPLACE FUNCTION billing_data.note_hold_change(
    p_hold_id uuid, p_change text, p_amount bigint, p_expires_at timestamptz, p_reason text,
    p_now timestamptz, p_actor billing_data.actor
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO billing_data.hold_changes (
        id, hold_id, change, amount_minor, expires_at, reason, created_at, api_key_id,
        admin_user_id, database_role
    )
    VALUES (
        billing_data.new_id(), p_hold_id, p_change, p_amount, p_expires_at, p_reason, p_now,
        p_actor.api_key_id, p_actor.admin_user_id, p_actor.database_role
    );
END
$$;
COMMENT ON FUNCTION billing_data.note_hold_change IS
    'Writes what became of a hold. Helper.';

-- Gives back what a hold keeps, and ends it. The caller holds the account, which is up to date.
-- Writes: holds 1, hold_changes 1, accounts 1 where the hold keeps something.
CREATE OR REPLACE FUNCTION billing_data.settle_hold(
    p_hold billing_data.holds, p_reason text, p_actor billing_data.actor
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now timestamptz := billing_data.clock();
BEGIN
    UPDATE billing_data.holds AS h
    SET state = 'released', settled_at = v_now
    WHERE h.id = p_hold.id;
    IF p_hold.state = 'open' THEN
        PERFORM billing_data.give_back_held_lots(ARRAY[p_hold.id]);
    END IF;
    UPDATE billing_data.accounts AS a
    SET held_credits = a.held_credits
            - CASE WHEN p_hold.free_uses = 0 THEN p_hold.amount_minor ELSE 0 END,
        held_free_uses = a.held_free_uses - p_hold.free_uses,
        updated_at = v_now
    WHERE a.id = p_hold.account_id AND p_hold.state = 'open';
    PERFORM billing_data.note_hold_change(
        p_hold.id, 'released', NULL, NULL, p_reason, v_now, p_actor
    );
END
$$;
COMMENT ON FUNCTION billing_data.settle_hold IS
    'Gives back what a hold keeps, for an account that is locked. Helper.';

-- Releases the open holds of accounts. The caller holds the accounts.
-- Writes: as billing_data.settle_hold for each.
CREATE OR REPLACE FUNCTION billing_data.give_back_held(
    p_account_ids uuid[], p_reason text, p_actor billing_data.actor
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_hold billing_data.holds;
    v_released uuid[] := ARRAY[]::uuid[];
BEGIN
    FOR v_hold IN
        SELECT h.*
        FROM billing_data.holds AS h
        WHERE h.account_id = ANY (p_account_ids) AND h.state = 'open'
        ORDER BY h.id
    LOOP
        PERFORM billing_data.settle_hold(v_hold, p_reason, p_actor);
        v_released := v_released || v_hold.id;
    END LOOP;
    PERFORM billing_data.settle_caps_of_holds(v_released, billing_data.clock());
END
$$;
COMMENT ON FUNCTION billing_data.give_back_held IS 'Releases the open holds of accounts. Helper.';

-- The row of a hold as the functions about holds return it, with its account's figures of now.
CREATE OR REPLACE FUNCTION billing_data.tell_hold(p_hold_id uuid, p_outcome text)
RETURNS billing.hold_outcome
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_hold billing_data.holds;
    v_account billing_data.accounts;
    v_standing record;
BEGIN
    SELECT h.* INTO STRICT v_hold FROM billing_data.holds AS h WHERE h.id = p_hold_id;
    SELECT a.* INTO STRICT v_account
    FROM billing_data.accounts AS a
    WHERE a.id = billing_data.surviving_account(v_hold.account_id);
    SELECT s.* INTO STRICT v_standing FROM billing_data.standing(v_account) AS s;
    IF v_hold.state = 'open' AND v_hold.expires_at <= billing_data.clock() THEN
        v_hold.state := 'expired';
    END IF;
    RETURN billing_data.hold_outcome(
        NULL, p_outcome, v_hold, v_standing.paid_credits, v_standing.held,
        v_account.free_uses_remaining - v_standing.held_free_uses, v_account.currency
    );
END
$$;
COMMENT ON FUNCTION billing_data.tell_hold IS
    'A hold, with its account''s figures of now. Helper.';

-- Releases a hold: nothing was used, and what it keeps is given back. A hold that is over is
-- released, too, so that it cannot be captured late. A hold that was released before is returned
-- with outcome 'replayed'. An API key releases its own holds and those of its chain of rotations;
-- staff and database roles release any, with a reason.
-- Locks: the account. Writes: holds 1, hold_changes 1, accounts 0..1; admin_audit_logs 1 unless an
-- API key calls. Errors: actor and key errors, invalid_argument, hold_not_found, hold_settled.
-- Example: SELECT * FROM billing.release_hold(p_hold_id => '...', p_reason => 'the job failed');
CREATE OR REPLACE FUNCTION billing.release_hold(
    p_hold_id uuid,
    p_reason text DEFAULT NULL,
    p_api_key_id uuid DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS billing.hold_outcome
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor :=
        billing_data.authorize(p_api_key_id, p_session_hash, 'billing:write');
    v_hold billing_data.holds;
BEGIN
    IF v_actor.api_key_id IS NULL THEN
        PERFORM billing_data.require_reason(p_reason);
    END IF;
    PERFORM billing_data.require_short(p_reason, 'p_reason');
    PERFORM billing_data.require_durable_commit();
    v_hold := billing_data.lock_hold(p_hold_id, v_actor);
    IF v_hold.state = 'released' THEN
        RETURN billing_data.tell_hold(p_hold_id, 'replayed');
    ELSIF v_hold.state = 'captured' THEN
        PERFORM billing_data.raise_error(
            'hold_settled', jsonb_build_object('hold_id', p_hold_id, 'state', v_hold.state)
        );
    END IF;
    PERFORM billing_data.settle_hold(v_hold, p_reason, v_actor);
    PERFORM billing_data.settle_caps_of_holds(ARRAY[p_hold_id], billing_data.clock());
    IF v_actor.api_key_id IS NULL THEN
        PERFORM billing_data.write_audit(
            'account.release_hold', 'account', v_hold.account_id::text,
            jsonb_build_object('hold_id', p_hold_id, 'amount', v_hold.amount_minor), p_reason,
            v_actor
        );
    END IF;
    RETURN billing_data.tell_hold(p_hold_id, 'created');
END
$$;
COMMENT ON FUNCTION billing.release_hold IS
    'Releases a hold: nothing was used. For billing_server (agents and staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.release_hold TO billing_server, billing_dba;

-- Lets a hold that is open end later: p_expires_in_seconds from now (1 to 86400). A hold never ends
-- earlier because of this. A hold that is over cannot be extended: make another one.
-- Locks: the account. Writes: holds 0..1, hold_changes 0..1, accounts 0..1.
-- Errors: actor and key errors, invalid_argument, hold_not_found, hold_settled, hold_expired.
-- Example: SELECT * FROM billing.extend_hold(p_hold_id => '...', p_expires_in_seconds => 900);
CREATE OR REPLACE FUNCTION billing.extend_hold(
    p_hold_id uuid, p_expires_in_seconds bigint DEFAULT 900, p_api_key_id uuid DEFAULT NULL
) RETURNS billing.hold_outcome
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(p_api_key_id, NULL, 'billing:write');
    v_now timestamptz;
    v_hold billing_data.holds;
    v_expires_at timestamptz;
BEGIN
    PERFORM billing_data.require(
        p_expires_in_seconds BETWEEN 1 AND 86400, 'p_expires_in_seconds', 'it must be 1 to 86400'
    );
    PERFORM billing_data.require_durable_commit();
    v_hold := billing_data.lock_hold(p_hold_id, v_actor);
    IF v_hold.state <> 'open' THEN
        PERFORM billing_data.raise_error(
            CASE v_hold.state WHEN 'expired' THEN 'hold_expired' ELSE 'hold_settled' END,
            jsonb_build_object(
                'hold_id', p_hold_id, 'state', v_hold.state, 'required', v_hold.amount_minor,
                'available', (billing_data.tell_hold(p_hold_id, 'created')).available
            )
        );
    END IF;
    v_now := billing_data.clock();
    v_expires_at := v_now + p_expires_in_seconds * interval '1 second';
    IF v_expires_at > v_hold.expires_at THEN
        UPDATE billing_data.holds AS h SET expires_at = v_expires_at WHERE h.id = p_hold_id;
        PERFORM billing_data.note_hold_change(
            p_hold_id, 'extended', NULL, v_expires_at, NULL, v_now, v_actor
        );
    END IF;
    RETURN billing_data.tell_hold(p_hold_id, 'created');
END
$$;
COMMENT ON FUNCTION billing.extend_hold IS
    'Lets an open hold end later. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.extend_hold TO billing_server, billing_dba;

-- A hold, as it is now.
-- Errors: actor and key errors, hold_not_found.
-- Example: SELECT * FROM billing.get_hold(p_hold_id => '...');
CREATE OR REPLACE FUNCTION billing.get_hold(
    p_hold_id uuid, p_api_key_id uuid DEFAULT NULL, p_session_hash bytea DEFAULT NULL
) RETURNS billing.hold_outcome
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor :=
        billing_data.authorize(p_api_key_id, p_session_hash, 'billing:read');
BEGIN
    IF NOT EXISTS (
        SELECT FROM billing_data.holds AS h
        WHERE h.id = p_hold_id
            AND (
                v_actor.api_key_id IS NULL
                OR (
                    billing_data.owns_hold(NULL, v_actor.api_key_id, h.api_key_id)
                    AND NOT billing_data.is_erased(h.account_id)
                )
            )
    ) THEN
        PERFORM billing_data.raise_error(
            'hold_not_found', jsonb_build_object('hold_id', p_hold_id)
        );
    END IF;
    RETURN billing_data.tell_hold(p_hold_id, 'created');
END
$$;
COMMENT ON FUNCTION billing.get_hold IS
    'A hold, as it is now. For billing_server (agents and staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.get_hold TO billing_server, billing_dba;

-- An account's holds, newest first, of one state (p_state: open, captured, released, expired) or of
-- all, also those of accounts that were merged into it. p_after is the id of the last hold of the
-- page before. An API key sees its own holds and those of its chain of rotations.
-- Errors: actor and key errors, invalid_argument, account_not_found.
-- Example: SELECT * FROM billing.list_holds(p_oauth_provider => 'oauth:google',
--     p_external_id => '1', p_state => 'open');
CREATE OR REPLACE FUNCTION billing.list_holds(
    p_oauth_provider text DEFAULT NULL,
    p_external_id text DEFAULT NULL,
    p_account_id uuid DEFAULT NULL,
    p_state text DEFAULT NULL,
    p_after uuid DEFAULT NULL,
    p_limit bigint DEFAULT 50,
    p_api_key_id uuid DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS SETOF billing.hold_outcome
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor :=
        billing_data.authorize(p_api_key_id, p_session_hash, 'billing:read');
    v_now timestamptz := billing_data.clock();
    v_first_key_id uuid := billing_data.first_key_id(v_actor.api_key_id);
    v_account_id uuid;
    v_keys uuid[];
    v_family uuid[];
BEGIN
    PERFORM billing_data.require_page(p_limit, 0, 501);
    PERFORM billing_data.require(
        coalesce(p_state IN ('open', 'captured', 'released', 'expired'), true), 'p_state',
        'it must be open, captured, released or expired'
    );
    IF v_actor.api_key_id IS NOT NULL THEN
        v_keys := ARRAY(
            SELECT k.id
            FROM billing_data.api_keys AS k
            WHERE billing_data.first_key_id(k.id) = v_first_key_id
        );
    END IF;
    v_account_id := coalesce(
        billing_data.surviving_account(p_account_id),
        billing_data.account_of_identity(p_oauth_provider, p_external_id)
    );
    IF NOT EXISTS (SELECT FROM billing_data.accounts AS a WHERE a.id = v_account_id) THEN
        PERFORM billing_data.raise_error('account_not_found');
    END IF;
    v_family := billing_data.merged_family(v_account_id);
    RETURN QUERY
    SELECT t.*
    FROM (
        SELECT n.id
        FROM unnest(v_family) AS f (account_id)
        CROSS JOIN LATERAL (
            (
                SELECT h.id
                FROM billing_data.holds AS h
                WHERE h.account_id = f.account_id AND h.state = 'open' AND p_state = 'open'
                    AND h.expires_at > v_now
                    AND (p_after IS NULL OR h.id < p_after)
                    AND (v_keys IS NULL OR h.api_key_id = ANY (v_keys))
                ORDER BY h.id DESC
                LIMIT p_limit
            )
            UNION ALL
            (
                SELECT h.id
                FROM billing_data.holds AS h
                WHERE h.account_id = f.account_id AND p_state IS DISTINCT FROM 'open'
                    AND (
                        p_state IS NULL OR p_state = CASE
                            WHEN h.state = 'open' AND h.expires_at <= v_now THEN 'expired'
                            ELSE h.state
                        END
                    )
                    AND (p_after IS NULL OR h.id < p_after)
                    AND (v_keys IS NULL OR h.api_key_id = ANY (v_keys))
                ORDER BY h.id DESC
                LIMIT p_limit
            )
        ) AS n
        ORDER BY n.id DESC
        LIMIT p_limit
    ) AS g
    CROSS JOIN LATERAL billing_data.tell_hold(g.id, 'created') AS t
    ORDER BY g.id DESC;
END
$$;
COMMENT ON FUNCTION billing.list_holds IS
    'Lists an account''s holds, newest first. For billing_server (agents and staff) and '
    'billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_holds TO billing_server, billing_dba;

-- Finds what is wrong with holds. An account must count what its open holds keep. The end of every
-- open hold must be due to be booked. The charge of a captured hold must have the captured amount,
-- and belong to the account of the hold or to one that it was merged with. It looks at the accounts
-- that billing.verify_ledger looks at.
CREATE OR REPLACE FUNCTION billing_data.find_hold_faults(
    p_account_id uuid, p_after uuid, p_through uuid
) RETURNS TABLE (account_id uuid, problem text, expected text, found text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT a.id, 'what is held is not what open holds keep',
        format('%s credits, %s free uses', coalesce(t.credits, 0), coalesce(t.free_uses, 0)),
        format('%s credits, %s free uses', a.held_credits, a.held_free_uses)
    FROM billing_data.accounts AS a
    LEFT JOIN (
        SELECT
            h.account_id, sum(h.amount_minor) FILTER (WHERE h.free_uses = 0) AS credits,
            sum(h.free_uses) AS free_uses
        FROM billing_data.holds AS h
        WHERE h.state = 'open'
            AND billing_data.is_in_range(h.account_id, p_account_id, p_after, p_through)
        GROUP BY h.account_id
    ) AS t ON t.account_id = a.id
    WHERE billing_data.is_in_range(a.id, p_account_id, p_after, p_through)
        AND (a.held_credits, a.held_free_uses)
        <> (coalesce(t.credits, 0), coalesce(t.free_uses, 0))
    UNION ALL
    SELECT h.account_id, format('hold %s ends and nothing will book it', h.id),
        'due at ' || h.expires_at, 'due at ' || a.due_at
    FROM billing_data.holds AS h
    INNER JOIN billing_data.accounts AS a ON a.id = h.account_id
    WHERE h.state = 'open'
        AND billing_data.is_in_range(h.account_id, p_account_id, p_after, p_through)
        AND (a.due_at <= h.expires_at) IS NOT TRUE
    UNION ALL
    SELECT h.account_id, format('hold %s is not captured by its charge', h.id),
        h.captured_minor::text, c.amount_minor::text
    FROM billing_data.holds AS h
    LEFT JOIN billing_data.charges AS c ON c.id = h.charge_id
    WHERE h.captured_minor > 0
        AND billing_data.is_in_range(h.account_id, p_account_id, p_after, p_through)
        AND (
            c.amount_minor = h.captured_minor
            AND c.currency = h.currency
            AND billing_data.surviving_account(c.account_id)
            = billing_data.surviving_account(h.account_id)
        ) IS NOT TRUE;
END
$$;
COMMENT ON FUNCTION billing_data.find_hold_faults IS
    'Finds holds that are not counted, will not be booked, or do not match their charges. Helper.';
