-- Caps: how much may be charged in a minute, a day or a month of the UTC calendar, for an API key
-- and the keys that it is rotated to, for an account, for an agent, or for all. What counts is the
-- amount of every charge, whether a free use or paid credits paid for it. A hard cap refuses what
-- would exceed it; an alert cap only tells that it was reached.
--
-- The order of locks: accounts, then rows of cap_usage in the order of their caps. Whoever holds a
-- row of cap_usage takes no account. billing_data.lock_caps makes the rows of new windows before it
-- locks any, so that two calls cannot wait for each other.

-- The beginning of the window that a moment is in.
CREATE OR REPLACE FUNCTION billing_data.window_start(p_period text, p_at timestamptz)
RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
RETURN date_trunc(p_period, p_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
COMMENT ON FUNCTION billing_data.window_start IS
    'The beginning of the window of a cap that a moment is in. Helper.';

-- The end of the window that a moment is in: the first moment of the next one.
CREATE OR REPLACE FUNCTION billing_data.window_end(p_period text, p_at timestamptz)
RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
RETURN (
    date_trunc(p_period, p_at AT TIME ZONE 'UTC')
    + CASE p_period
        WHEN 'minute' THEN interval '1 minute'
        WHEN 'day' THEN interval '1 day'
        WHEN 'month' THEN interval '1 month'
    END
) AT TIME ZONE 'UTC';
COMMENT ON FUNCTION billing_data.window_end IS
    'The end of the window of a cap that a moment is in. Helper.';

-- The caps that apply to a charge of an account by an API key (NULL: a database role charges) for
-- an agent (NULL: none is named).
CREATE OR REPLACE FUNCTION billing_data.caps_of(
    p_account_id uuid, p_api_key_id uuid, p_agent_id text
) RETURNS SETOF billing_data.caps
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.*
    FROM (
        VALUES
        ('all', ''), ('account', p_account_id::text), ('agent', p_agent_id),
        ('api_key', billing_data.first_key_id(p_api_key_id)::text)
    ) AS s (scope, subject)
    INNER JOIN billing_data.caps AS c ON c.scope = s.scope AND c.subject = s.subject
$$;
COMMENT ON FUNCTION billing_data.caps_of IS 'The caps that apply to a charge. Helper.';

-- Whether a cap applies to a charge. While there is no cap at all, callers need not ask.
CREATE OR REPLACE FUNCTION billing_data.is_capped(
    p_account_id uuid, p_api_key_id uuid, p_agent_id text
) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM billing_data.caps_of(p_account_id, p_api_key_id, p_agent_id))
$$;
COMMENT ON FUNCTION billing_data.is_capped IS 'Whether a cap applies to a charge. Helper.';

-- When the window of a cap that a moment is in ends, as programs read it.
CREATE OR REPLACE FUNCTION billing_data.cap_resets_at(p_period text, p_at timestamptz)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN billing_data.instant_text(billing_data.window_end(p_period, p_at));
COMMENT ON FUNCTION billing_data.cap_resets_at IS
    'The end of a window of a cap, for programs. Helper.';

-- A refusal by a cap, as values for the wording of the error and for programs. p_used is what the
-- cap's window has used.
CREATE OR REPLACE FUNCTION billing_data.cap_refusal(
    p_cap billing_data.caps, p_used bigint, p_required bigint, p_now timestamptz
) RETURNS jsonb
LANGUAGE sql STABLE
RETURN jsonb_build_object(
    'cap_id', (p_cap).id, 'scope', (p_cap).scope, 'period', (p_cap).period,
    'capped', CASE (p_cap).scope
        WHEN 'all' THEN 'all charges'
        WHEN 'api_key' THEN 'this API key'
        ELSE 'this ' || (p_cap).scope
    END,
    'limit', (p_cap).limit_minor, 'used', p_used, 'required', p_required,
    'resets_at', billing_data.cap_resets_at((p_cap).period, p_now)
);
COMMENT ON FUNCTION billing_data.cap_refusal IS
    'A refusal by a cap, in values for people and programs. Helper.';

-- What an alert tells of a cap that was reached. An account's identity is added when it is sent.
CREATE OR REPLACE FUNCTION billing_data.cap_alert(
    p_cap billing_data.caps, p_used bigint, p_now timestamptz
) RETURNS jsonb
LANGUAGE sql STABLE
RETURN jsonb_build_object(
    'cap_id', (p_cap).id, 'scope', (p_cap).scope, 'subject', (p_cap).subject,
    'period', (p_cap).period, 'mode', (p_cap).mode, 'limit', (p_cap).limit_minor, 'used', p_used,
    'resets_at', billing_data.cap_resets_at((p_cap).period, p_now)
);
COMMENT ON FUNCTION billing_data.cap_alert IS 'What an alert tells of a cap. Helper.';

-- The slug of a refusal by a cap; NULL without one. An account's cap is its owner's budget; the
-- others bound how much is asked for.
CREATE OR REPLACE FUNCTION billing_data.cap_slug(p_refusal jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN p_refusal ->> 'scope' = 'account' THEN 'account_cap_reached'
    WHEN p_refusal IS NOT NULL THEN 'cap_reached'
END;
COMMENT ON FUNCTION billing_data.cap_slug IS 'The slug of a refusal by a cap. Helper.';

-- The refusal by the hard cap that refuses a charge of this amount now; NULL when none does. Where
-- several refuse it, the refusal names the cap whose window ends last: before that time the charge
-- cannot pass.
CREATE OR REPLACE FUNCTION billing_data.cap_that_refuses(
    p_account_id uuid, p_api_key_id uuid, p_agent_id text, p_amount bigint, p_now timestamptz
) RETURNS jsonb
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT billing_data.cap_refusal(c, u.used, p_amount, p_now)
    FROM billing_data.caps_of(p_account_id, p_api_key_id, p_agent_id) AS c
    CROSS JOIN LATERAL (
        SELECT coalesce(max(n.used_minor), 0) AS used
        FROM billing_data.cap_usage AS n
        WHERE n.cap_id = c.id AND n.window_start = billing_data.window_start(c.period, p_now)
    ) AS u
    WHERE c.mode = 'hard' AND p_amount > c.limit_minor - u.used
    ORDER BY billing_data.window_end(c.period, p_now) DESC, c.limit_minor - u.used, c.id
    LIMIT 1
$$;
COMMENT ON FUNCTION billing_data.cap_that_refuses IS
    'The cap that would refuse a charge now. Helper.';

-- The items of a list of charges to which caps apply, a row for each item and each of its caps;
-- NULL when there is none. p_locked are the accounts that the call holds: only their items can be
-- charged.
CREATE OR REPLACE FUNCTION billing_data.capped_items(
    p_items billing_data.cap_request[], p_locked uuid[]
) RETURNS billing_data.capped_item[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    v_capped billing_data.capped_item[];
BEGIN
    WITH asked AS MATERIALIZED (
        SELECT
            row_number() OVER ()::integer AS item, i.oauth_provider, i.external_id, i.api_key_id,
            i.metadata_agent_id, greatest(i.amount_minor, 0) AS amount
        FROM unnest(p_items) AS i
    )
    SELECT array_agg(ROW(n.item, n.cap_id, n.amount)::billing_data.capped_item ORDER BY n.item)
    INTO v_capped
    FROM (
        SELECT a.item, c.id AS cap_id, a.amount
        FROM billing_data.caps AS c
        CROSS JOIN asked AS a
        WHERE c.scope = 'all'
        UNION ALL
        SELECT a.item, c.id, a.amount
        FROM (SELECT DISTINCT d.api_key_id FROM asked AS d) AS d
        INNER JOIN billing_data.api_keys AS k ON coalesce(k.credential, k.id) = d.api_key_id
        INNER JOIN billing_data.caps AS c
            ON c.scope = 'api_key' AND c.subject = billing_data.first_key_id(k.id)::text
        INNER JOIN asked AS a ON a.api_key_id = d.api_key_id
        UNION ALL
        SELECT a.item, c.id, a.amount
        FROM (SELECT DISTINCT d.metadata_agent_id FROM asked AS d) AS d
        INNER JOIN billing_data.caps AS c ON c.scope = 'agent' AND c.subject = d.metadata_agent_id
        INNER JOIN asked AS a ON a.metadata_agent_id = d.metadata_agent_id
        UNION ALL
        SELECT a.item, c.id, a.amount
        FROM asked AS a
        INNER JOIN billing_data.accounts AS n
            ON n.oauth_provider = a.oauth_provider AND n.external_id = a.external_id
        INNER JOIN billing_data.caps AS c ON c.scope = 'account' AND c.subject = n.id::text
        -- One look-up for the whole list: where no account has a cap, none is looked up by itself.
        WHERE EXISTS (
            SELECT
            FROM billing_data.caps AS h
            WHERE h.scope = 'account'
                AND h.subject = ANY (ARRAY(SELECT l.id::text FROM unnest(p_locked) AS l (id)))
        )
    ) AS n;
    RETURN v_capped;
END
$$;
COMMENT ON FUNCTION billing_data.capped_items IS
    'The items of a list of charges with the caps that apply to each. Helper.';

-- Locks the rows of cap_usage that a list counts on, and returns whether all that the list asks for
-- fits into every hard cap. The caller holds the accounts. With p_wait false it waits half a second
-- at most: calls of the service hold these rows for milliseconds, and a queue of them is soon over.
-- Locks: cap_usage, in the order of the caps. Writes: cap_usage, 1 per cap whose window is new.
-- Errors: lock_not_available.
CREATE OR REPLACE FUNCTION billing_data.lock_caps(
    p_capped billing_data.capped_item[], p_now timestamptz, p_wait boolean
) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_lock_timeout text := current_setting('lock_timeout');
    v_caps uuid[] := ARRAY(SELECT DISTINCT i.cap_id FROM unnest(p_capped) AS i ORDER BY i.cap_id);
BEGIN
    IF NOT p_wait THEN
        PERFORM set_config('lock_timeout', '500ms', true);
    END IF;
    INSERT INTO billing_data.cap_usage (cap_id, window_start)
    SELECT c.id, billing_data.window_start(c.period, p_now)
    FROM billing_data.caps AS c
    WHERE c.id = ANY (v_caps) AND NOT EXISTS (
        SELECT FROM billing_data.cap_usage AS u
        WHERE u.cap_id = c.id AND u.window_start = billing_data.window_start(c.period, p_now)
    )
    ORDER BY c.id
    ON CONFLICT ON CONSTRAINT cap_usage_pkey DO NOTHING;
    PERFORM
    FROM billing_data.cap_usage AS u
    INNER JOIN billing_data.caps AS c ON c.id = u.cap_id
    WHERE u.cap_id = ANY (v_caps) AND u.window_start = billing_data.window_start(c.period, p_now)
    ORDER BY u.cap_id
    FOR NO KEY UPDATE OF u;
    PERFORM set_config('lock_timeout', v_lock_timeout, true);
    RETURN NOT EXISTS (
        SELECT
        FROM (
            SELECT i.cap_id, sum(i.amount_minor) AS amount
            FROM unnest(p_capped) AS i
            GROUP BY i.cap_id
        ) AS n
        INNER JOIN billing_data.caps AS c ON c.id = n.cap_id
        INNER JOIN billing_data.cap_usage AS u
            ON u.cap_id = c.id AND u.window_start = billing_data.window_start(c.period, p_now)
        WHERE c.mode = 'hard' AND u.used_minor + n.amount > c.limit_minor
    );
END
$$;
COMMENT ON FUNCTION billing_data.lock_caps IS
    'Locks the caps of a list of charges; tells whether all fits. Helper.';

-- Finds and locks the caps of a list (capped; NULL: none applies). is_near says that not everything
-- that the list asks for fits, so that billing_data.weigh_caps must decide. With p_dry_run nothing
-- is locked or written.
-- Locks, writes and errors: as billing_data.lock_caps.
CREATE OR REPLACE FUNCTION billing_data.begin_caps(
    p_items billing_data.cap_request[], p_locked uuid[], p_now timestamptz, p_wait boolean,
    p_dry_run boolean DEFAULT false,
    OUT capped billing_data.capped_item[], OUT is_near boolean
)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    capped := billing_data.capped_items(p_items, p_locked);
    is_near := false;
    IF capped IS NOT NULL THEN
        is_near := p_dry_run;
        IF NOT p_dry_run THEN
            is_near := NOT billing_data.lock_caps(capped, p_now, p_wait);
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.begin_caps IS
    'Finds and locks the caps that apply to a list. Helper.';

-- What caps decide about the undecided items of a list (p_left; NULL: all), where not all fit. An
-- item that alone exceeds what a cap has left is refused (refusals), whatever becomes of the items
-- before it, since these can only use more. The other items fit up to the first that might exceed
-- what is left after those before it; that one and all later items must wait (due is false) until
-- these are charged. Items that cannot be charged for another reason count nothing. A refusal names
-- the cap whose window ends last.
CREATE OR REPLACE FUNCTION billing_data.weigh_caps(
    p_items billing_data.cap_request[], p_capped billing_data.capped_item[], p_left boolean[],
    p_now timestamptz, OUT due boolean[], OUT refusals jsonb[]
)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    p_left := coalesce(p_left, array_fill(true, ARRAY[cardinality(p_items)]));
    WITH asked AS MATERIALIZED (
        SELECT i.item
        FROM (
            SELECT asked, row_number() OVER ()::integer AS item FROM unnest(p_items) AS asked
        ) AS i
        INNER JOIN billing_data.accounts AS a
            ON a.oauth_provider = (i.asked).oauth_provider AND a.external_id = (i.asked).external_id
        WHERE p_left[i.item]
            AND billing_data.charge_verdict(
                a.status, a.currency, (i.asked).currency, a.free_uses_remaining - a.held_free_uses,
                a.paid_credits - a.held_credits, (i.asked).amount_minor
            ) = 'created'
            AND NOT EXISTS (
                SELECT FROM billing_data.charges AS c
                WHERE c.account_id = a.id AND c.idempotency_key = (i.asked).idempotency_key
            )
    ),
    wanted AS MATERIALIZED (
        SELECT
            i.item, i.cap_id, i.amount_minor AS amount, c AS cap, n.used, c.limit_minor - n.used
                AS free,
            billing_data.window_end(c.period, p_now) AS ends_at
        FROM unnest(p_capped) AS i
        INNER JOIN asked AS a ON a.item = i.item
        INNER JOIN billing_data.caps AS c ON c.id = i.cap_id
        LEFT JOIN billing_data.cap_usage AS u
            ON u.cap_id = c.id AND u.window_start = billing_data.window_start(c.period, p_now)
        CROSS JOIN LATERAL (SELECT coalesce(u.used_minor, 0)) AS n (used)
        WHERE c.mode = 'hard'
    ),
    refused AS MATERIALIZED (
        SELECT DISTINCT ON (w.item)
            w.item, billing_data.cap_refusal(w.cap, w.used, w.amount, p_now) AS refusal
        FROM wanted AS w
        WHERE w.amount > w.free
        ORDER BY w.item, w.ends_at DESC, w.free, w.cap_id
    ),
    first_to_wait AS (
        SELECT min(s.item) AS item
        FROM (
            SELECT
                w.item,
                sum(w.amount) OVER (PARTITION BY w.cap_id ORDER BY w.item) > w.free AS is_too_much
            FROM wanted AS w
            WHERE NOT EXISTS (SELECT FROM refused AS r WHERE r.item = w.item)
        ) AS s
        WHERE s.is_too_much
    )
    SELECT
        array_agg(n.is_left AND (n.item < f.item) IS NOT FALSE ORDER BY n.item),
        array_agg(r.refusal ORDER BY n.item)
    INTO STRICT due, refusals
    FROM unnest(p_left) WITH ORDINALITY AS n (is_left, item)
    CROSS JOIN first_to_wait AS f
    LEFT JOIN refused AS r ON r.item = n.item;
END
$$;
COMMENT ON FUNCTION billing_data.weigh_caps IS
    'Which items of a list caps refuse, and which can be decided now. Helper.';

-- Counts the items of a list that made a charge or a hold. Marks a cap as reached once in a window:
-- when the limit is used up, or when the cap refused something (p_refusals).
-- Locks: none; the caller holds the rows (billing_data.lock_caps). Writes: cap_usage, 1 per cap;
-- outbox, 1 per cap that was reached and endpoint.
CREATE OR REPLACE FUNCTION billing_data.use_caps(
    p_capped billing_data.capped_item[], p_made integer[], p_refusals jsonb[], p_now timestamptz
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_reached record;
BEGIN
    UPDATE billing_data.cap_usage AS u
    SET used_minor = least(u.used_minor + s.amount, billing_data.max_amount())::bigint
    FROM (
        SELECT i.cap_id, sum(i.amount_minor) AS amount
        FROM unnest(p_made) AS m (item)
        INNER JOIN unnest(p_capped) AS i ON i.item = m.item
        GROUP BY i.cap_id
    ) AS s
    INNER JOIN billing_data.caps AS c ON c.id = s.cap_id
    WHERE u.cap_id = c.id AND u.window_start = billing_data.window_start(c.period, p_now);
    FOR v_reached IN
        UPDATE billing_data.cap_usage AS u
        SET reached_at = p_now
        FROM billing_data.caps AS c
        WHERE c.id = ANY (ARRAY(SELECT i.cap_id FROM unnest(p_capped) AS i))
            AND u.cap_id = c.id AND u.window_start = billing_data.window_start(c.period, p_now)
            AND u.reached_at IS NULL
            AND (
                u.used_minor >= greatest(c.limit_minor, 1)
                OR c.id = ANY (
                    ARRAY(SELECT (r.told ->> 'cap_id')::uuid FROM unnest(p_refusals) AS r (told))
                )
            )
        RETURNING c AS cap, u.used_minor
    LOOP
        PERFORM billing_data.raise_alert(
            'cap.reached',
            CASE WHEN (v_reached.cap).scope = 'account' THEN (v_reached.cap).subject::uuid END,
            billing_data.cap_alert(v_reached.cap, v_reached.used_minor, p_now)
        );
    END LOOP;
END
$$;
COMMENT ON FUNCTION billing_data.use_caps IS 'Counts charges on the caps that apply. Helper.';

-- The caps that counted a charge of an account: those that apply to it and, where the account was
-- merged since, those that moved with the merge.
CREATE OR REPLACE FUNCTION billing_data.caps_that_counted(
    p_account_id uuid, p_api_key_id uuid, p_agent_id text
) RETURNS SETOF billing_data.caps
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.* FROM billing_data.caps_of(p_account_id, p_api_key_id, p_agent_id) AS c
    UNION ALL
    SELECT c.*
    FROM billing_data.surviving_account(p_account_id) AS s (id)
    INNER JOIN billing_data.caps AS c ON c.scope = 'account' AND c.subject = s.id::text
    WHERE s.id <> p_account_id AND c.made_for = ANY (billing_data.merged_family(p_account_id))
$$;
COMMENT ON FUNCTION billing_data.caps_that_counted IS
    'The caps that counted a charge. Helper.';

-- Gives amounts back to the caps that counted them, where their windows are still open. A cap that
-- was set later has not counted them. p_back is a list of objects with account_id, api_key_id,
-- agent_id, amount (below 0: the cap counts it on top) and counted_at.
-- Locks: cap_usage, in the order of the caps; the caller holds the accounts. Writes: cap_usage, 1
-- per cap.
CREATE OR REPLACE FUNCTION billing_data.give_back_to_caps(p_back jsonb, p_now timestamptz)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM billing_data.caps) THEN
        RETURN;
    END IF;
    WITH back AS MATERIALIZED (
        SELECT
            c.id AS cap_id, billing_data.window_start(c.period, p_now) AS start,
            sum(b.amount) AS amount
        FROM jsonb_to_recordset(p_back) AS b (
            account_id uuid, api_key_id uuid, agent_id text, amount bigint, counted_at timestamptz
        )
        CROSS JOIN LATERAL billing_data.caps_that_counted(
            b.account_id, b.api_key_id, b.agent_id
        ) AS c
        WHERE c.created_at <= b.counted_at
            AND billing_data.window_start(c.period, b.counted_at)
            = billing_data.window_start(c.period, p_now)
        GROUP BY c.id, c.period
    ),
    held AS MATERIALIZED (
        SELECT u.cap_id, u.window_start
        FROM billing_data.cap_usage AS u
        WHERE (u.cap_id, u.window_start) IN (SELECT b.cap_id, b.start FROM back AS b)
        ORDER BY u.cap_id
        FOR NO KEY UPDATE
    )
    UPDATE billing_data.cap_usage AS u
    SET used_minor = least(
            greatest(u.used_minor - b.amount, 0), billing_data.max_amount()
        )::bigint
    FROM held AS h
    INNER JOIN back AS b ON b.cap_id = h.cap_id
    WHERE u.cap_id = h.cap_id AND u.window_start = h.window_start;
END
$$;
COMMENT ON FUNCTION billing_data.give_back_to_caps IS
    'Gives amounts back to the caps that counted them. Helper.';

-- Gives a part of a charge back to the caps that counted it. A charge was counted when it was made.
-- Where it captured a hold, it was counted when the hold was made, and what it took beyond the hold
-- when it was made itself. A charge is given back from its end: what it took beyond the hold comes
-- first. p_before is how much of the charge was reversed before.
-- Locks and writes: as billing_data.give_back_to_caps.
CREATE OR REPLACE FUNCTION billing_data.give_charge_back_to_caps(
    p_charge billing_data.charges, p_amount bigint, p_before bigint
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_hold billing_data.holds;
    v_beyond bigint;  -- how much of p_amount the charge took beyond its hold
BEGIN
    SELECT h.* INTO v_hold FROM billing_data.holds AS h WHERE h.charge_id = p_charge.id;
    v_beyond := CASE
        WHEN v_hold.id IS NULL THEN p_amount
        ELSE least(
            p_amount, greatest(p_charge.amount_minor - p_before - v_hold.amount_minor, 0)
        )
    END;
    PERFORM billing_data.give_back_to_caps(
        (
            SELECT jsonb_agg(jsonb_build_object(
                'account_id', b.account_id,
                'api_key_id',
                CASE WHEN v_hold.id IS NULL THEN p_charge.api_key_id ELSE v_hold.api_key_id END,
                'agent_id', p_charge.metadata_agent_id, 'amount', b.amount,
                'counted_at', b.counted_at
            ))
            FROM (
                VALUES
                (p_charge.account_id, v_beyond, p_charge.created_at),
                (v_hold.account_id, p_amount - v_beyond, v_hold.created_at)
            ) AS b (account_id, amount, counted_at)
            WHERE b.amount > 0
        ),
        billing_data.clock()
    );
END
$$;
COMMENT ON FUNCTION billing_data.give_charge_back_to_caps IS
    'Gives a part of a charge back to the caps that counted it. Helper.';
