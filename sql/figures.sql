-- Figures over time for the dashboard. The time that is over is rolled up in slots of five minutes;
-- newer usage is counted from the ledger itself. A reader always gets both, so the figures are
-- never late.

-- The smallest id that a row written at this time or later can have. Ids are UUIDs of version 7,
-- which begin with their time in milliseconds.
CREATE OR REPLACE FUNCTION billing_data.first_id(p_at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN CASE
    WHEN p_at = '-infinity' THEN '00000000-0000-0000-0000-000000000000'::uuid
    ELSE (
        lpad(to_hex(greatest((extract(EPOCH FROM p_at) * 1000)::bigint, 0)), 12, '0')
        || '00000000000000000000'
    )::uuid
END;
COMMENT ON FUNCTION billing_data.first_id IS
    'The smallest id of a row written at a given time or later. Helper.';

-- The end of the slots that are over. A slot counts as over a minute after its end, when every call
-- that began in it has long been committed or undone.
CREATE OR REPLACE FUNCTION billing_data.figures_border() RETURNS timestamptz
LANGUAGE sql STABLE
RETURN date_bin('5 minutes', clock_timestamp() - interval '1 minute', '2000-01-01 00:00Z');
COMMENT ON FUNCTION billing_data.figures_border IS
    'The time up to which figures can be rolled up by now. Helper.';

-- The end of this UTC day. A row that a clock ahead of ours wrote later in this day belongs to it.
CREATE OR REPLACE FUNCTION billing_data.end_of_today() RETURNS timestamptz
LANGUAGE sql STABLE
RETURN date_trunc('day', clock_timestamp(), 'UTC') + interval '24 hours';
COMMENT ON FUNCTION billing_data.end_of_today IS 'The end of this UTC day. Helper.';

-- The times up to which the rolled-up figures are valid, for slots and for users. A time ahead of
-- the clock means that the clock was set back: rows are written in slots that were thought to be
-- over. Then the figures are valid only up to the start of the day before the newest slot that is
-- over by this clock. Readers count the rest from the ledger, and the next roll-up counts all of it
-- again.
CREATE OR REPLACE FUNCTION billing_data.figures_through()
RETURNS TABLE (slots timestamptz, users timestamptz, is_set_back boolean)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_border timestamptz := billing_data.figures_border();
BEGIN
    SELECT s.complete_through, s.users_through INTO STRICT slots, users
    FROM billing_data.usage_figures_state AS s;
    is_set_back := greatest(slots, users) > v_border;
    IF is_set_back THEN
        SELECT
            coalesce(
                date_trunc('day', max(f.slot), 'UTC') - interval '1 day', '-infinity'
            )
        INTO STRICT slots
        FROM billing_data.usage_figures AS f
        WHERE f.slot < v_border;
        users := least(users, slots);
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing_data.figures_through IS
    'The times up to which the rolled-up figures are valid. Helper.';

-- The range of ids that rows written from p_from on can have. Ids of the old service are of another
-- kind, so the range is all ids until everything was rolled up once. The range ends ten years
-- ahead, for clocks that were ahead; most ids of the old service are greater.
CREATE OR REPLACE FUNCTION billing_data.ids_from(
    p_from timestamptz, OUT first_id uuid, OUT last_id uuid
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF (SELECT t.slots = '-infinity' FROM billing_data.figures_through() AS t) THEN
        first_id := '00000000-0000-0000-0000-000000000000';
        last_id := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
    ELSE
        first_id := billing_data.first_id(p_from - interval '1 minute');
        last_id := billing_data.first_id(clock_timestamp() + interval '10 years');
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.ids_from IS
    'The range of ids of rows written since a given time. Helper.';

-- Counts what happened from p_from on, by slot, from the ledger and the checks themselves. Ledger
-- rows are found by a range of ids that is widened by a minute, and then filtered by their times.
CREATE OR REPLACE FUNCTION billing_data.count_usage(p_from timestamptz)
RETURNS SETOF billing_data.usage_figures
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_first uuid;
    v_end uuid;
    v_origin timestamptz := timestamptz '2000-01-01 00:00Z';
BEGIN
    SELECT i.first_id, i.last_id INTO STRICT v_first, v_end
    FROM billing_data.ids_from(p_from) AS i;
    RETURN QUERY
    WITH events AS (
        SELECT
            date_bin('5 minutes', k.created_at, v_origin) AS slot,
            count(*) AS checks,
            count(*) FILTER (WHERE NOT k.has_credit) AS checks_denied,
            0::bigint AS charges, 0::bigint AS free_charges, 0::numeric AS charge_amount,
            0::numeric AS credits_used, 0::bigint AS credits, 0::numeric AS credits_added,
            0::numeric AS credits_sold, 0::numeric AS credits_taken_back,
            0::bigint AS accounts_created
        FROM billing_data.credit_checks AS k
        WHERE k.created_at >= p_from
        GROUP BY 1
        UNION ALL
        SELECT
            date_bin('5 minutes', c.created_at, v_origin), 0, 0, count(*),
            count(*) FILTER (WHERE c.paid_with = 'free'), sum(c.amount_minor),
            coalesce(sum(c.amount_minor) FILTER (WHERE c.paid_with = 'paid'), 0), 0, 0, 0, 0, 0
        FROM billing_data.charges AS c
        WHERE c.id >= v_first AND c.id <= v_end AND c.created_at >= p_from
        GROUP BY 1
        UNION ALL
        SELECT
            date_bin('5 minutes', c.created_at, v_origin), 0, 0, 0, 0, 0, 0,
            count(*) FILTER (WHERE c.amount_minor > 0),
            coalesce(sum(c.amount_minor) FILTER (WHERE c.amount_minor > 0), 0),
            coalesce(sum(c.amount_minor) FILTER (WHERE c.transaction_type = 'purchase'), 0),
            coalesce(sum(-c.amount_minor) FILTER (WHERE c.amount_minor < 0), 0), 0
        FROM billing_data.credits AS c
        WHERE c.id >= v_first AND c.id <= v_end AND c.created_at >= p_from
        GROUP BY 1
        UNION ALL
        SELECT
            date_bin('5 minutes', a.created_at, v_origin), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, count(*)
        FROM billing_data.accounts AS a
        WHERE a.created_at >= p_from
        GROUP BY 1
    )
    SELECT
        e.slot, sum(e.checks)::bigint, sum(e.checks_denied)::bigint, sum(e.charges)::bigint,
        sum(e.free_charges)::bigint, sum(e.charge_amount), sum(e.credits_used),
        sum(e.credits)::bigint, sum(e.credits_added), sum(e.credits_sold),
        sum(e.credits_taken_back), sum(e.accounts_created)::bigint
    FROM events AS e
    GROUP BY e.slot;
END
$$;
COMMENT ON FUNCTION billing_data.count_usage IS
    'Counts usage since a given time, by slots of five minutes, from the ledger. Helper.';

-- Which users used the service on which UTC day, from p_from to p_to. A user is an account that was
-- charged, with a free use or with credits. A check or a purchase alone is not a use.
CREATE OR REPLACE FUNCTION billing_data.find_users(p_from timestamptz, p_to timestamptz)
RETURNS TABLE (day date, account_id uuid)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_first uuid;
    v_end uuid;
BEGIN
    SELECT i.first_id, i.last_id INTO STRICT v_first, v_end
    FROM billing_data.ids_from(p_from) AS i;
    IF p_from = '-infinity' THEN
        v_end := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
    END IF;
    RETURN QUERY
    SELECT DISTINCT (c.created_at AT TIME ZONE 'UTC')::date, c.account_id
    FROM billing_data.charges AS c
    WHERE c.id >= v_first AND c.id <= v_end AND c.created_at >= p_from AND c.created_at < p_to;
END
$$;
COMMENT ON FUNCTION billing_data.find_users IS
    'Who was charged on which day of a span, from the ledger. Helper.';

-- The newest UTC day before p_day on which an account was charged, '-infinity' when there is none.
-- It reads the account's charges from the newest back to that day.
CREATE OR REPLACE FUNCTION billing_data.day_of_use_before(p_account_id uuid, p_day date)
RETURNS date
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(
        (
            SELECT (c.created_at AT TIME ZONE 'UTC')::date
            FROM billing_data.charges AS c
            WHERE c.account_id = p_account_id
                AND c.ledger_version > 0
                AND c.created_at < p_day::timestamp AT TIME ZONE 'UTC'
            ORDER BY c.ledger_version DESC
            LIMIT 1
        ),
        '-infinity'
    );
$$;
COMMENT ON FUNCTION billing_data.day_of_use_before IS
    'The newest day before a day on which an account was charged. Helper.';

-- Rolls up the slots that are over. One caller at a time does it; the others return false at once.
-- Where the clock was set back, what was rolled up too early is counted again.
-- Writes: usage_figures, user_activity, users_by_day, user_pauses.
-- Example: SELECT billing.refresh_figures();
CREATE OR REPLACE FUNCTION billing.refresh_figures() RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_to timestamptz;
    v_through record;
    v_day date;
BEGIN
    PERFORM FROM billing_data.usage_figures_state AS s FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    v_to := billing_data.figures_border();
    SELECT t.slots, t.users, t.is_set_back INTO STRICT v_through
    FROM billing_data.figures_through() AS t;
    IF least(v_through.slots, v_through.users) >= v_to THEN
        RETURN false;
    END IF;
    -- Once something is rolled up, newer rows are found by their ids. Ids of the old service are of
    -- another kind, so the first roll-up waits until the last row of the old service is in a slot
    -- that is over.
    IF v_through.slots = '-infinity' AND (
        EXISTS (
            SELECT FROM billing_data.charges AS c
            WHERE c.created_at >= v_to
                AND billing_data.is_old_entry(c.id, c.database_role, c.request_fingerprint)
        )
        OR EXISTS (
            SELECT FROM billing_data.credits AS c
            WHERE c.created_at >= v_to
                AND billing_data.is_old_entry(c.id, c.database_role, c.request_fingerprint)
        )
    ) THEN
        RETURN false;
    END IF;
    IF NOT EXISTS (SELECT FROM billing_data.user_pauses) THEN
        -- The release before did not count pauses: all users are found again.
        v_through.users := '-infinity';
    END IF;
    UPDATE billing_data.usage_figures_state AS s
    SET complete_through = v_through.slots, users_through = v_through.users;
    IF v_through.users = '-infinity' THEN
        DELETE FROM billing_data.users_by_day;
        DELETE FROM billing_data.user_activity;
        DELETE FROM billing_data.user_pauses;
    ELSIF v_through.is_set_back THEN
        -- Users active from that day on are found again below.
        v_day := (v_through.users AT TIME ZONE 'UTC')::date;
        DELETE FROM billing_data.users_by_day AS d WHERE d.day >= v_day;
        DELETE FROM billing_data.user_pauses AS p WHERE p.day >= v_day;
        UPDATE billing_data.user_activity AS a
        SET last_day = billing_data.day_of_use_before(a.account_id, v_day)
        WHERE a.last_day >= v_day;
    END IF;
    DELETE FROM billing_data.usage_figures AS f WHERE f.slot >= v_through.slots;
    INSERT INTO billing_data.usage_figures AS f (
        slot, checks, checks_denied, charges, free_charges, charge_amount, credits_used, credits,
        credits_added, credits_sold, credits_taken_back, accounts_created
    )
    SELECT
        u.slot, u.checks, u.checks_denied, u.charges, u.free_charges, u.charge_amount,
        u.credits_used, u.credits, u.credits_added, u.credits_sold, u.credits_taken_back,
        u.accounts_created
    FROM billing_data.count_usage(v_through.slots) AS u
    WHERE u.slot < v_to;
    WITH found AS MATERIALIZED (
        SELECT
            u.day, u.account_id,
            coalesce(
                lag(u.day) OVER (PARTITION BY u.account_id ORDER BY u.day), a.last_day, '-infinity'
            ) AS previous_day
        FROM billing_data.find_users(v_through.users, v_to) AS u
        LEFT JOIN billing_data.user_activity AS a ON a.account_id = u.account_id
        WHERE a.last_day IS NULL OR a.last_day < u.day
    ),
    kept AS (
        INSERT INTO billing_data.user_activity AS a (account_id, last_day)
        SELECT f.account_id, max(f.day) FROM found AS f GROUP BY f.account_id
        ON CONFLICT ON CONSTRAINT user_activity_pkey DO UPDATE SET last_day = excluded.last_day
    ),
    pauses AS (
        INSERT INTO billing_data.user_pauses AS p (day, previous_day, users)
        SELECT f.day, f.previous_day, count(*) FROM found AS f GROUP BY f.day, f.previous_day
        ON CONFLICT ON CONSTRAINT user_pauses_pkey DO UPDATE SET users = p.users + excluded.users
    )
    INSERT INTO billing_data.users_by_day AS d (day, users)
    SELECT f.day, count(*) FROM found AS f GROUP BY f.day
    ON CONFLICT ON CONSTRAINT users_by_day_pkey DO UPDATE SET users = d.users + excluded.users;
    UPDATE billing_data.usage_figures_state AS s
    SET complete_through = v_to, users_through = v_to;
    RETURN true;
END
$$;
COMMENT ON FUNCTION billing.refresh_figures IS
    'Rolls up the dashboard''s figures of the time that is over. '
    'For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.refresh_figures TO billing_server, billing_dba;

-- Discards the rolled-up figures and counts them again from the ledger. Call it after a repair of
-- the ledger, or when a transaction stayed open for minutes. Writes: the figures, admin_audit_logs
-- 1.
-- Errors: actor_required.
-- Example: SELECT billing.rebuild_figures();
CREATE OR REPLACE FUNCTION billing.rebuild_figures() RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_actor billing_data.actor := billing_data.authorize(NULL, NULL, 'billing:write');
BEGIN
    PERFORM billing_data.write_audit('figures.rebuild', 'usage_figures', NULL, NULL, NULL, v_actor);
    UPDATE billing_data.usage_figures_state AS s
    SET complete_through = '-infinity', users_through = '-infinity';
    RETURN billing.refresh_figures();
END
$$;
COMMENT ON FUNCTION billing.rebuild_figures IS
    'Counts the dashboard''s figures anew from the ledger. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.rebuild_figures TO billing_dba;

-- The slots from p_from up to and without p_to: first the rolled-up ones, then newer ones counted
-- from the ledger.
CREATE OR REPLACE FUNCTION billing_data.usage_since(
    p_from timestamptz, p_to timestamptz DEFAULT 'infinity'
) RETURNS SETOF billing_data.usage_figures
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_through timestamptz;
BEGIN
    SELECT t.slots INTO STRICT v_through FROM billing_data.figures_through() AS t;
    RETURN QUERY
    SELECT
        f.slot, f.checks, f.checks_denied, f.charges, f.free_charges, f.charge_amount,
        f.credits_used, f.credits, f.credits_added, f.credits_sold, f.credits_taken_back,
        f.accounts_created
    FROM billing_data.usage_figures AS f
    WHERE f.slot >= p_from AND f.slot < least(v_through, p_to)
    UNION ALL
    SELECT
        u.slot, u.checks, u.checks_denied, u.charges, u.free_charges, u.charge_amount,
        u.credits_used, u.credits, u.credits_added, u.credits_sold, u.credits_taken_back,
        u.accounts_created
    FROM billing_data.count_usage(greatest(p_from, v_through)) AS u
    WHERE v_through < p_to AND u.slot < p_to;
END
$$;
COMMENT ON FUNCTION billing_data.usage_since IS
    'Usage by slots of five minutes since a given time, up to now or another time. Helper.';

-- The same, added up by steps, which are counted from a UTC midnight: hours or days.
CREATE OR REPLACE FUNCTION billing_data.usage_by(
    p_step interval, p_from timestamptz, p_to timestamptz
) RETURNS TABLE (
    slot timestamptz, checks bigint, checks_denied bigint, charges bigint, free_charges bigint,
    charge_amount numeric, credits_used numeric, credits bigint, credits_added numeric,
    credits_sold numeric, credits_taken_back numeric, accounts_created bigint
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT
        date_bin(p_step, u.slot, '2000-01-01 00:00Z'), sum(u.checks)::bigint,
        sum(u.checks_denied)::bigint, sum(u.charges)::bigint, sum(u.free_charges)::bigint,
        sum(u.charge_amount), sum(u.credits_used), sum(u.credits)::bigint, sum(u.credits_added),
        sum(u.credits_sold), sum(u.credits_taken_back), sum(u.accounts_created)::bigint
    FROM billing_data.usage_since(p_from, p_to) AS u
    GROUP BY 1;
$$;
COMMENT ON FUNCTION billing_data.usage_by IS 'Usage by hours or days. Helper.';

-- How many users there were from the UTC day p_first up to and without p_beyond, each counted once:
-- of the days that are rolled up, those who were last there before p_first, plus those who were
-- charged in the time not rolled up yet and are not among the first. Where the roll-up is not to be
-- trusted, all are counted from the ledger.
CREATE OR REPLACE FUNCTION billing_data.count_users(p_first date, p_beyond date) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_through timestamptz;
    v_from timestamptz := p_first::timestamp AT TIME ZONE 'UTC';
    v_to timestamptz := p_beyond::timestamp AT TIME ZONE 'UTC';
    v_users bigint := 0;
    v_more bigint := 0;
BEGIN
    SELECT
        CASE
            WHEN t.is_set_back OR NOT EXISTS (SELECT FROM billing_data.user_pauses)
                THEN '-infinity'
            ELSE t.users
        END
    INTO STRICT v_through
    FROM billing_data.figures_through() AS t;
    IF v_through > v_from THEN
        SELECT coalesce(sum(p.users), 0) INTO STRICT v_users
        FROM billing_data.user_pauses AS p
        WHERE p.day >= p_first AND p.day < p_beyond AND p.previous_day < p_first;
    END IF;
    IF v_through < v_to THEN
        SELECT count(DISTINCT u.account_id) INTO STRICT v_more
        FROM billing_data.find_users(greatest(v_through, v_from), v_to) AS u
        WHERE v_through <= v_from OR NOT EXISTS (
            SELECT FROM billing_data.user_activity AS a
            WHERE a.account_id = u.account_id AND a.last_day >= p_first
        );
    END IF;
    RETURN v_users + v_more;
END
$$;
COMMENT ON FUNCTION billing_data.count_users IS
    'How many accounts were charged in a period, each counted once. Helper.';

-- The service at a glance. The counts of the last 24 hours and 7 days are of whole slots of five
-- minutes. unique_users_30d counts the users of today and the 29 days before, each once.
-- Errors: actor errors. Example: SELECT * FROM billing.get_overview();
CREATE OR REPLACE FUNCTION billing.get_overview(p_session_hash bytea DEFAULT NULL)
RETURNS TABLE (
    total_users bigint,
    active_users bigint,
    total_api_keys bigint,
    active_api_keys bigint,
    total_balance_minor numeric,
    total_charged_all_time numeric,
    total_credited_all_time numeric,
    charges_last_24h bigint,
    credits_last_24h bigint,
    charges_last_7d bigint,
    credits_last_7d bigint,
    payment_problems bigint,
    unique_users_30d bigint
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_day timestamptz := clock_timestamp() - interval '24 hours';
    v_week timestamptz := clock_timestamp() - interval '7 days';
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    SELECT
        coalesce(sum(u.accounts_created), 0), coalesce(sum(u.credits_used), 0),
        coalesce(sum(u.credits_added), 0),
        coalesce(sum(u.charges) FILTER (WHERE u.slot >= v_day), 0),
        coalesce(sum(u.credits) FILTER (WHERE u.slot >= v_day), 0),
        coalesce(sum(u.charges) FILTER (WHERE u.slot >= v_week), 0),
        coalesce(sum(u.credits) FILTER (WHERE u.slot >= v_week), 0)
    INTO STRICT
        total_users, total_charged_all_time, total_credited_all_time, charges_last_24h,
        credits_last_24h, charges_last_7d, credits_last_7d
    FROM billing_data.usage_since('-infinity') AS u;
    SELECT total_users - count(*) INTO STRICT active_users
    FROM billing_data.accounts AS a
    WHERE a.status <> 'active';
    SELECT count(*), count(*) FILTER (WHERE k.status = 'active')
    INTO STRICT total_api_keys, active_api_keys
    FROM billing_data.api_keys AS k;
    -- balance_minor is reserved for real money; only billing.create_account sets it.
    SELECT coalesce(sum(a.balance_minor), 0) INTO STRICT total_balance_minor
    FROM billing_data.accounts AS a
    WHERE a.balance_minor <> 0;
    SELECT count(*) INTO STRICT payment_problems
    FROM billing_data.find_payment_problems() AS q;
    unique_users_30d := billing_data.count_users(
        (clock_timestamp() AT TIME ZONE 'UTC')::date - 29,
        (clock_timestamp() AT TIME ZONE 'UTC')::date + 1
    );
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION billing.get_overview IS
    'The service at a glance: users, keys, charges, credits. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.get_overview TO billing_server, billing_dba;

-- Figures by UTC day, oldest first, with p_to as the last, or else today: p_days + 1 rows,
-- including days on which nothing happened.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.list_daily_figures(p_days => 30);
CREATE OR REPLACE FUNCTION billing.list_daily_figures(
    p_days integer DEFAULT 30,
    p_to date DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    day date,
    checks bigint,
    checks_denied bigint,
    charges bigint,
    free_charges bigint,
    charge_amount numeric,
    credits_used numeric,
    credits bigint,
    credits_added numeric,
    credits_sold numeric,
    credits_taken_back numeric,
    accounts_created bigint,
    unique_users bigint
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_last date := coalesce(p_to, (clock_timestamp() AT TIME ZONE 'UTC')::date);
    v_first date;
    v_beyond timestamptz;
    v_through record;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require(p_days BETWEEN 0 AND 366, 'p_days', 'it must be 0 to 366');
    PERFORM billing_data.require_moment(p_to::timestamptz, 'p_to');
    v_first := v_last - p_days;
    v_beyond := least(
        billing_data.end_of_today(), (v_last + 1)::timestamp AT TIME ZONE 'UTC'
    );
    SELECT t.users AS users, t.is_set_back INTO STRICT v_through
    FROM billing_data.figures_through() AS t;
    RETURN QUERY
    WITH newer AS (
        -- The users of the time that is not rolled up yet who were not counted on that day before.
        SELECT n.day, count(*) AS users
        FROM billing_data.find_users(
            greatest(v_through.users, v_first::timestamp AT TIME ZONE 'UTC'), v_beyond
        ) AS n
        WHERE v_through.is_set_back OR NOT EXISTS (
            SELECT FROM billing_data.user_activity AS a
            WHERE a.account_id = n.account_id AND a.last_day >= n.day
        )
        GROUP BY n.day
    )
    SELECT
        d.day, coalesce(u.checks, 0), coalesce(u.checks_denied, 0), coalesce(u.charges, 0),
        coalesce(u.free_charges, 0), coalesce(u.charge_amount, 0), coalesce(u.credits_used, 0),
        coalesce(u.credits, 0), coalesce(u.credits_added, 0), coalesce(u.credits_sold, 0),
        coalesce(u.credits_taken_back, 0), coalesce(u.accounts_created, 0),
        coalesce(b.users, 0) + coalesce(n.users, 0)
    FROM (
        SELECT v_first + g.n AS day FROM generate_series(0, p_days) AS g (n)
    ) AS d
    LEFT JOIN billing_data.usage_by(
        '1 day', v_first::timestamp AT TIME ZONE 'UTC', v_beyond
    ) AS u ON u.slot = d.day::timestamp AT TIME ZONE 'UTC'
    LEFT JOIN billing_data.users_by_day AS b
        ON b.day = d.day
        AND NOT (v_through.is_set_back AND b.day::timestamp AT TIME ZONE 'UTC' >= v_through.users)
    LEFT JOIN newer AS n ON n.day = d.day
    ORDER BY d.day;
END
$$;
COMMENT ON FUNCTION billing.list_daily_figures IS
    'Lists usage by UTC day up to today or another day. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_daily_figures TO billing_server, billing_dba;

-- Figures by hour of one UTC day, by default today: 24 rows, oldest first, hours in which nothing
-- happened and those to come included. unique_users counts each account that was charged once an
-- hour; for this the charges of the day are read.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.list_hourly_figures(p_day => '2026-11-22');
CREATE OR REPLACE FUNCTION billing.list_hourly_figures(
    p_day date DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    hour timestamptz,
    checks bigint,
    checks_denied bigint,
    charges bigint,
    free_charges bigint,
    charge_amount numeric,
    credits_used numeric,
    credits bigint,
    credits_added numeric,
    credits_sold numeric,
    credits_taken_back numeric,
    accounts_created bigint,
    unique_users bigint
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_from timestamptz;
    v_to timestamptz;
    v_ids record;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require_moment(p_day::timestamptz, 'p_day');
    v_from := coalesce(p_day, (clock_timestamp() AT TIME ZONE 'UTC')::date)::timestamp
        AT TIME ZONE 'UTC';
    v_to := v_from + interval '24 hours';
    SELECT i.first_id, i.last_id INTO STRICT v_ids
    FROM billing_data.ids_between(v_from, v_to) AS i;
    RETURN QUERY
    WITH charged AS (
        SELECT c.hour, count(*) AS users
        FROM (
            SELECT DISTINCT date_bin('1 hour', n.created_at, v_from) AS hour, n.account_id
            FROM billing_data.charges AS n
            WHERE n.id >= v_ids.first_id AND n.id <= v_ids.last_id
                AND n.created_at >= v_from AND n.created_at < v_to
        ) AS c
        GROUP BY c.hour
    )
    SELECT
        h.hour, coalesce(u.checks, 0), coalesce(u.checks_denied, 0), coalesce(u.charges, 0),
        coalesce(u.free_charges, 0), coalesce(u.charge_amount, 0), coalesce(u.credits_used, 0),
        coalesce(u.credits, 0), coalesce(u.credits_added, 0), coalesce(u.credits_sold, 0),
        coalesce(u.credits_taken_back, 0), coalesce(u.accounts_created, 0), coalesce(n.users, 0)
    FROM (
        SELECT v_from + g.n * interval '1 hour' AS hour FROM generate_series(0, 23) AS g (n)
    ) AS h
    LEFT JOIN billing_data.usage_by('1 hour', v_from, v_to) AS u ON u.slot = h.hour
    LEFT JOIN charged AS n ON n.hour = h.hour
    ORDER BY h.hour;
END
$$;
COMMENT ON FUNCTION billing.list_hourly_figures IS
    'Lists usage by hour of one UTC day. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_hourly_figures TO billing_server, billing_dba;

-- The figures of a period of UTC days, from p_from up to and without p_to (by default this month),
-- as one row. users counts each account that was charged once; accounts are those made.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.get_figures(p_from => '2026-11-01', p_to => '2026-12-01');
CREATE OR REPLACE FUNCTION billing.get_figures(
    p_from date DEFAULT NULL,
    p_to date DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    checks bigint, checks_denied bigint, charges bigint, free_charges bigint, credits_used numeric,
    credits_added numeric, credits_sold numeric, credits_taken_back numeric, accounts bigint,
    users bigint
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_first date;
    v_beyond date;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    SELECT d.first, d.beyond INTO STRICT v_first, v_beyond
    FROM billing_data.period_of_days(p_from, p_to) AS d;
    RETURN QUERY
    SELECT
        coalesce(sum(u.checks), 0)::bigint, coalesce(sum(u.checks_denied), 0)::bigint,
        coalesce(sum(u.charges), 0)::bigint, coalesce(sum(u.free_charges), 0)::bigint,
        coalesce(sum(u.credits_used), 0), coalesce(sum(u.credits_added), 0),
        coalesce(sum(u.credits_sold), 0), coalesce(sum(u.credits_taken_back), 0),
        coalesce(sum(u.accounts_created), 0)::bigint,
        billing_data.count_users(v_first, v_beyond)
    FROM billing_data.usage_since(
        v_first::timestamp AT TIME ZONE 'UTC', v_beyond::timestamp AT TIME ZONE 'UTC'
    ) AS u;
END
$$;
COMMENT ON FUNCTION billing.get_figures IS
    'The usage of a period in one row. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.get_figures TO billing_server, billing_dba;
