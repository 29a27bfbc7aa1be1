-- Usage and money by day, of one account or of all, and who used the service most.

-- The range of ids of the rows written from p_from to p_to. The time in an id and the time of its
-- row differ by less than a minute. Rows of the old service have ids of another kind: they are
-- older than billing_data.settings.digests_since, so the range is all ids when the period begins
-- before that.
CREATE OR REPLACE FUNCTION billing_data.ids_between(
    p_from timestamptz, p_to timestamptz, OUT first_id uuid, OUT last_id uuid
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT
        CASE WHEN d.has_times THEN billing_data.first_id(p_from - interval '1 minute')
            ELSE '00000000-0000-0000-0000-000000000000' END,
        CASE WHEN d.has_times THEN billing_data.first_id(p_to + interval '1 minute')
            ELSE 'ffffffff-ffff-ffff-ffff-ffffffffffff' END
    FROM (
        SELECT p_from >= s.digests_since IS TRUE AS has_times FROM billing_data.settings AS s
    ) AS d
$$;
COMMENT ON FUNCTION billing_data.ids_between IS
    'The range of ids of the rows of a period. Helper.';

-- A period of UTC days: from p_from, by default the first of this month, up to and without p_to, by
-- default a month later. At most ten years. Errors: invalid_argument.
CREATE OR REPLACE FUNCTION billing_data.period_of_days(
    p_from date, p_to date, OUT first date, OUT beyond date
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    first := coalesce(p_from, date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC'));
    PERFORM billing_data.require(
        first BETWEEN '0001-01-01' AND '9999-12-31', 'p_from',
        'it must be a day of the years 1 to 9999'
    );
    beyond := coalesce(p_to, first + interval '1 month');
    PERFORM billing_data.require(
        beyond BETWEEN first AND first + 3653, 'p_to',
        'it must not be before p_from, nor more than ten years later'
    );
END
$$;
COMMENT ON FUNCTION billing_data.period_of_days IS
    'A period of days with its defaults, or a refusal. Helper.';

-- Usage of one account by UTC day, from its ledger. An entry whose time lies outside of the period,
-- because a clock was set back, counts on the period's nearest day, so that the sum is that of the
-- account's statement.
CREATE OR REPLACE FUNCTION billing_data.count_usage_of(
    p_account_id uuid, p_first date, p_beyond date
) RETURNS TABLE (
    day date, charges bigint, free_charges bigint, credits_used numeric, credits_added numeric,
    credits_sold numeric, credits_taken_back numeric
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_newest bigint;
    v_after bigint;
    v_through bigint;
BEGIN
    SELECT a.ledger_version INTO STRICT v_newest
    FROM billing_data.accounts AS a
    WHERE a.id = p_account_id;
    v_through := billing_data.version_before(
        p_account_id, v_newest, p_beyond::timestamp AT TIME ZONE 'UTC'
    );
    v_after := billing_data.version_before(
        p_account_id, v_through, p_first::timestamp AT TIME ZONE 'UTC'
    );
    RETURN QUERY
    SELECT
        greatest(
            p_first, least(p_beyond - 1, (e.created_at AT TIME ZONE 'UTC')::date)
        ) AS day,
        count(*) FILTER (WHERE e.paid_with IS NOT NULL),
        count(*) FILTER (WHERE e.paid_with = 'free'),
        coalesce(sum(e.amount_minor) FILTER (WHERE e.paid_with = 'paid'), 0),
        coalesce(sum(e.amount_minor) FILTER (WHERE e.paid_with IS NULL AND e.amount_minor > 0), 0),
        coalesce(sum(e.amount_minor) FILTER (WHERE e.transaction_type = 'purchase'), 0),
        coalesce(sum(-e.amount_minor) FILTER (WHERE e.paid_with IS NULL AND e.amount_minor < 0), 0)
    FROM (
        SELECT c.created_at, c.amount_minor, c.paid_with, NULL AS transaction_type
        FROM billing_data.charges AS c
        WHERE c.account_id = p_account_id AND c.ledger_version > 0
            AND c.ledger_version > v_after AND c.ledger_version <= v_through
        UNION ALL
        SELECT c.created_at, c.amount_minor, NULL, c.transaction_type
        FROM billing_data.credits AS c
        WHERE c.account_id = p_account_id AND c.ledger_version > 0
            AND c.ledger_version > v_after AND c.ledger_version <= v_through
    ) AS e
    GROUP BY 1;
END
$$;
COMMENT ON FUNCTION billing_data.count_usage_of IS
    'Counts the usage of one account by day, from its ledger. Helper.';

-- Money by UTC day and currency, of one account or, with NULL, of all: what purchases brought that
-- were credited on this day, and what went back by refunds and disputes that were reported on this
-- day and is away now.
CREATE OR REPLACE FUNCTION billing_data.count_money(
    p_account_id uuid, p_first date, p_beyond date
) RETURNS TABLE (day date, currency text, sold_minor numeric, returned_minor numeric)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_from timestamptz := p_first::timestamp AT TIME ZONE 'UTC';
    v_to timestamptz := p_beyond::timestamp AT TIME ZONE 'UTC';
BEGIN
    RETURN QUERY
    SELECT
        (m.at AT TIME ZONE 'UTC')::date, m.currency::text, coalesce(sum(m.sold_minor), 0),
        coalesce(sum(m.returned_minor), 0)
    FROM (
        SELECT p.settled_at AS at, p.currency, p.price_minor AS sold_minor, 0 AS returned_minor
        FROM billing_data.purchases AS p
        WHERE p.account_id = p_account_id
        UNION ALL
        SELECT p.settled_at, p.currency, p.price_minor, 0
        FROM billing_data.purchases AS p
        WHERE p_account_id IS NULL AND p.settled_at >= v_from AND p.settled_at < v_to
        UNION ALL
        SELECT r.created_at, p.currency, 0, r.away_minor
        FROM billing_data.payment_returns AS r
        INNER JOIN billing_data.purchases AS p
            ON p.account_id = r.account_id AND p.id = r.purchase_id
        WHERE (p_account_id IS NULL OR r.account_id = p_account_id)
            AND r.created_at >= v_from AND r.created_at < v_to
    ) AS m
    WHERE m.at >= v_from AND m.at < v_to
    GROUP BY 1, 2;
END
$$;
COMMENT ON FUNCTION billing_data.count_money IS
    'Counts what was paid and paid back by day and currency. Helper.';

-- Usage and money by UTC day, of one account or, without p_account_id, of all: a row for every day
-- from p_from up to and without p_to, oldest first, days on which nothing happened included. p_from
-- is the beginning of this month and p_to a month after p_from unless they are given. Money has a
-- currency: where money of several currencies moved on one day, the day has a row for each, and its
-- usage is in the first, so that sums are right. sold_minor is what purchases brought that were
-- credited that day; returned_minor what went back by refunds and disputes reported that day.
-- Errors: actor errors, invalid_argument, account_not_found.
-- Example: SELECT * FROM billing.list_usage('2026-11-01', '2026-12-01');
CREATE OR REPLACE FUNCTION billing.list_usage(
    p_from date DEFAULT NULL,
    p_to date DEFAULT NULL,
    p_account_id uuid DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    day date,
    charges bigint,
    free_charges bigint,
    credits_used numeric,
    credits_added numeric,
    credits_sold numeric,
    credits_taken_back numeric,
    currency text,
    sold_minor numeric,
    returned_minor numeric
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_first date;
    v_beyond date;
    v_account_id uuid;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    SELECT d.first, d.beyond INTO STRICT v_first, v_beyond
    FROM billing_data.period_of_days(p_from, p_to) AS d;
    IF p_account_id IS NOT NULL THEN
        v_account_id := (billing_data.require_account(p_account_id)).id;
    END IF;
    RETURN QUERY
    WITH used AS (
        SELECT
            u.day, u.charges, u.free_charges, u.credits_used, u.credits_added, u.credits_sold,
            u.credits_taken_back
        FROM billing_data.count_usage_of(v_account_id, v_first, v_beyond) AS u
        WHERE v_account_id IS NOT NULL
        UNION ALL
        SELECT
            (u.slot AT TIME ZONE 'UTC')::date, sum(u.charges)::bigint,
            sum(u.free_charges)::bigint, sum(u.credits_used), sum(u.credits_added),
            sum(u.credits_sold), sum(u.credits_taken_back)
        FROM billing_data.usage_since(
            v_first::timestamp AT TIME ZONE 'UTC', v_beyond::timestamp AT TIME ZONE 'UTC'
        ) AS u
        WHERE v_account_id IS NULL
        GROUP BY 1
    ),
    money AS (
        SELECT
            m.day, m.currency, m.sold_minor, m.returned_minor,
            row_number() OVER (PARTITION BY m.day ORDER BY m.currency) AS place
        FROM billing_data.count_money(v_account_id, v_first, v_beyond) AS m
    )
    SELECT
        d.day, coalesce(u.charges, 0), coalesce(u.free_charges, 0), coalesce(u.credits_used, 0),
        coalesce(u.credits_added, 0), coalesce(u.credits_sold, 0),
        coalesce(u.credits_taken_back, 0), m.currency, coalesce(m.sold_minor, 0),
        coalesce(m.returned_minor, 0)
    FROM (
        SELECT v_first + g.n AS day FROM generate_series(0, v_beyond - v_first - 1) AS g (n)
    ) AS d
    LEFT JOIN money AS m ON m.day = d.day
    LEFT JOIN used AS u ON u.day = d.day AND coalesce(m.place, 1) = 1
    ORDER BY d.day, m.currency;
END
$$;
COMMENT ON FUNCTION billing.list_usage IS
    'Lists usage and money by UTC day, of one account or of all. '
    'For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_usage TO billing_server, billing_dba;

-- The money of a period of UTC days, from p_from up to and without p_to (by default this month), by
-- currency: gross_minor is what purchases brought that were credited then; refunded_minor what went
-- back by refunds and disputes reported then and is away now.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.list_money(p_from => '2026-11-01', p_to => '2026-12-01');
CREATE OR REPLACE FUNCTION billing.list_money(
    p_from date DEFAULT NULL,
    p_to date DEFAULT NULL,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    currency text, gross_minor numeric, refunded_minor numeric, net_minor numeric, gross_text text,
    refunded_text text, net_text text
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
        s.currency, s.gross, s.refunded, s.gross - s.refunded,
        billing_data.money_text(s.gross::bigint, s.currency),
        billing_data.money_text(s.refunded::bigint, s.currency),
        billing_data.money_text((s.gross - s.refunded)::bigint, s.currency)
    FROM (
        SELECT m.currency, sum(m.sold_minor) AS gross, sum(m.returned_minor) AS refunded
        FROM billing_data.count_money(NULL, v_first, v_beyond) AS m
        GROUP BY m.currency
    ) AS s
    ORDER BY s.currency;
END
$$;
COMMENT ON FUNCTION billing.list_money IS
    'The money of a period by currency. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_money TO billing_server, billing_dba;

-- The accounts that used most in a period of UTC days, from p_from up to and without p_to (by
-- default this month): how often each was charged, and how many credits. p_sort is uses (charges,
-- free ones included) or credits (paid credits used); equals are ordered by id. Charges of accounts
-- that were merged count for the account that stayed. It reads every charge of the period.
-- Errors: actor errors, invalid_argument.
-- Example: SELECT * FROM billing.list_top_consumers('2026-11-01', '2026-12-01');
CREATE OR REPLACE FUNCTION billing.list_top_consumers(
    p_from date DEFAULT NULL,
    p_to date DEFAULT NULL,
    p_sort text DEFAULT 'uses',
    p_limit bigint DEFAULT 20,
    p_session_hash bytea DEFAULT NULL
) RETURNS TABLE (
    place bigint,
    account_id uuid,
    oauth_provider text,
    external_id text,
    customer_email text,
    charges bigint,
    free_charges bigint,
    credits_used numeric,
    last_charge_at timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET work_mem = '64MB'
AS $$
DECLARE
    v_from timestamptz;
    v_to timestamptz;
    v_first_id uuid;
    v_last_id uuid;
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    PERFORM billing_data.require(
        p_sort IN ('uses', 'credits'), 'p_sort', 'it must be uses or credits'
    );
    -- A CSV has 10,000 rows at most; one row more tells that it is cut.
    PERFORM billing_data.require_page(p_limit, 0, 10001);
    SELECT d.first::timestamp AT TIME ZONE 'UTC', d.beyond::timestamp AT TIME ZONE 'UTC'
    INTO STRICT v_from, v_to
    FROM billing_data.period_of_days(p_from, p_to) AS d;
    SELECT i.first_id, i.last_id INTO STRICT v_first_id, v_last_id
    FROM billing_data.ids_between(v_from, v_to) AS i;
    RETURN QUERY
    WITH used AS (
        SELECT
            c.account_id, count(*) AS charges,
            count(*) FILTER (WHERE c.paid_with = 'free') AS free_charges,
            coalesce(sum(c.amount_minor) FILTER (WHERE c.paid_with = 'paid'), 0) AS credits_used,
            max(c.created_at) AS last_charge_at
        FROM billing_data.charges AS c
        WHERE c.id >= v_first_id AND c.id <= v_last_id
            AND c.created_at >= v_from AND c.created_at < v_to
        GROUP BY c.account_id
    ),
    owned AS (
        SELECT
            CASE
                WHEN m.id IS NULL THEN u.account_id
                ELSE billing_data.surviving_account(u.account_id)
            END AS account_id,
            sum(u.charges)::bigint AS charges, sum(u.free_charges)::bigint AS free_charges,
            sum(u.credits_used) AS credits_used, max(u.last_charge_at) AS last_charge_at
        FROM used AS u
        LEFT JOIN billing_data.merged_accounts AS m ON m.id = u.account_id
        GROUP BY 1
    ),
    best AS (
        SELECT
            row_number() OVER (
                ORDER BY
                    CASE p_sort WHEN 'credits' THEN o.credits_used ELSE o.charges END DESC,
                    o.account_id
            ) AS place,
            o.account_id, o.charges, o.free_charges, o.credits_used, o.last_charge_at
        FROM owned AS o
        ORDER BY 1
        LIMIT p_limit
    )
    SELECT
        b.place, b.account_id, a.oauth_provider::text, a.external_id::text,
        a.customer_email::text, b.charges, b.free_charges, b.credits_used, b.last_charge_at
    FROM best AS b
    INNER JOIN billing_data.accounts AS a ON a.id = b.account_id
    ORDER BY b.place;
END
$$;
COMMENT ON FUNCTION billing.list_top_consumers IS
    'Lists the accounts that used most in a period. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_top_consumers TO billing_server, billing_dba;
