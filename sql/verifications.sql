-- Proving the books range by range: a run goes through all accounts, in ranges of their ids, and
-- keeps what it found. It can be stopped after each range and goes on where it was; several
-- sessions can work on it side by side.

-- Cuts the ids of all accounts into the ranges of a run, of about p_entries ledger rows each. The
-- ranges have no gap, so that entries of accounts that are gone are found too.
CREATE OR REPLACE FUNCTION billing_data.cut_ranges(p_run_id bigint, p_entries bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO billing_data.verification_ranges AS g (
        run_id, place, after, through, accounts, entries
    )
    SELECT
        p_run_id, row_number() OVER w, lag(n.last_id) OVER w,
        CASE WHEN lead(n.part) OVER w IS NOT NULL THEN n.last_id END, n.accounts, n.entries
    FROM (
        SELECT
            p.part, (array_agg(p.id ORDER BY p.id DESC))[1] AS last_id, count(*) AS accounts,
            sum(p.ledger_version) AS entries
        FROM (
            SELECT
                a.id, a.ledger_version,
                div(sum(1 + a.ledger_version) OVER (ORDER BY a.id) - 1, p_entries) AS part
            FROM billing_data.accounts AS a
        ) AS p
        GROUP BY p.part
    ) AS n
    WINDOW w AS (ORDER BY n.part);
    IF NOT FOUND THEN
        INSERT INTO billing_data.verification_ranges AS g (run_id, place, accounts, entries)
        VALUES (p_run_id, 1, 0, 0);
    END IF;
END
$$;
COMMENT ON FUNCTION billing_data.cut_ranges IS 'Cuts all accounts into ranges to verify. Helper.';

-- Returns the run to go on with: the newest one. Where that is finished or began more than a day
-- ago, or with p_restart, it begins a new run. A run has ranges of about p_entries ledger rows.
-- ranges_done tells whether it goes on. The newest ten runs are kept.
-- Locks: verification_runs, for a moment. Writes: verification_runs 1, verification_ranges 1 per
-- range. Errors: actor_required, invalid_argument.
-- Example: SELECT * FROM billing.begin_verification();
CREATE OR REPLACE FUNCTION billing.begin_verification(
    p_restart boolean DEFAULT false, p_entries bigint DEFAULT 500000
)
RETURNS TABLE (run_id bigint, started_at timestamptz, ranges bigint, ranges_done bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_run_id bigint;
BEGIN
    PERFORM billing_data.caller_role();
    PERFORM billing_data.require(
        p_entries BETWEEN 1 AND 100000000, 'p_entries', 'it must be 1 to 100000000'
    );
    LOCK TABLE billing_data.verification_runs IN SHARE ROW EXCLUSIVE MODE;
    SELECT r.id INTO v_run_id
    FROM billing_data.verification_runs AS r
    WHERE p_restart IS NOT TRUE
        AND r.id = (SELECT max(n.id) FROM billing_data.verification_runs AS n)
        AND r.started_at > clock_timestamp() - interval '1 day'
        AND EXISTS (
            SELECT FROM billing_data.verification_ranges AS g
            WHERE g.run_id = r.id AND g.verified_at IS NULL
        );
    IF v_run_id IS NULL THEN
        INSERT INTO billing_data.verification_runs AS r (id, started_at, started_by)
        SELECT coalesce(max(n.id), 0) + 1, clock_timestamp(), session_user
        FROM billing_data.verification_runs AS n
        RETURNING r.id INTO STRICT v_run_id;
        PERFORM billing_data.cut_ranges(v_run_id, p_entries);
        DELETE FROM billing_data.verification_runs AS r WHERE r.id <= v_run_id - 10;
    END IF;
    RETURN QUERY
    SELECT r.id, r.started_at, count(*), count(g.verified_at)
    FROM billing_data.verification_runs AS r
    INNER JOIN billing_data.verification_ranges AS g ON g.run_id = r.id
    WHERE r.id = v_run_id
    GROUP BY r.id;
END
$$;
COMMENT ON FUNCTION billing.begin_verification IS
    'Begins a proof of the books in ranges of accounts, or finds the one to go on with. '
    'For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.begin_verification TO billing_dba;

-- Verifies one range of the newest run that no other session is verifying, as billing.verify_ledger
-- does, and keeps what it found. Returns what was checked in it: accounts, entries and problems. No
-- row means that no range is left. Several sessions can work side by side.
-- Locks: the range. Writes: verification_ranges 1. Errors: actor_required.
-- Example: SELECT * FROM billing.continue_verification();
CREATE OR REPLACE FUNCTION billing.continue_verification()
RETURNS TABLE (run_id bigint, place bigint, accounts bigint, entries bigint, problem_count bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_range billing_data.verification_ranges;
BEGIN
    PERFORM billing_data.caller_role();
    SELECT g.* INTO v_range  -- noqa: AM04
    FROM billing_data.verification_ranges AS g
    WHERE g.verified_at IS NULL
        AND g.run_id = (SELECT max(r.id) FROM billing_data.verification_runs AS r)
    ORDER BY g.place
    LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY
    WITH found AS MATERIALIZED (
        SELECT v.account_id, v.problem, v.expected, v.found
        FROM billing.verify_ledger(p_after => v_range.after, p_through => v_range.through) AS v
    ),
    checked AS (
        SELECT count(*) AS accounts, coalesce(sum(a.ledger_version), 0)::bigint AS entries
        FROM billing_data.accounts AS a
        WHERE billing_data.is_in_range(a.id, NULL, v_range.after, v_range.through)
    )
    UPDATE billing_data.verification_ranges AS g
    SET
        verified_at = clock_timestamp(),
        accounts = c.accounts,
        entries = c.entries,
        problem_count = (SELECT count(*) FROM found AS f),
        problems = (
            SELECT jsonb_agg(to_jsonb(f)) FROM (SELECT f.* FROM found AS f LIMIT 1000) AS f
        )
    FROM checked AS c
    WHERE g.run_id = v_range.run_id AND g.place = v_range.place
    RETURNING g.run_id, g.place, g.accounts, g.entries, g.problem_count;
END
$$;
COMMENT ON FUNCTION billing.continue_verification IS
    'Verifies the next range of the newest proof of the books. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.continue_verification TO billing_dba;

-- What the newest proof of the books found, with at most 1000 problems of each range.
-- Errors: actor_required. Example: SELECT * FROM billing.list_book_problems();
CREATE OR REPLACE FUNCTION billing.list_book_problems()
RETURNS TABLE (account_id uuid, problem text, expected text, found text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.caller_role();
    RETURN QUERY
    SELECT p.account_id, p.problem, p.expected, p.found
    FROM billing_data.verification_ranges AS g
    CROSS JOIN LATERAL jsonb_to_recordset(g.problems) AS p (
        account_id uuid, problem text, expected text, found text
    )
    WHERE g.run_id = (SELECT max(r.id) FROM billing_data.verification_runs AS r)
        AND g.problems IS NOT NULL
    ORDER BY g.place;
END
$$;
COMMENT ON FUNCTION billing.list_book_problems IS
    'Lists what the newest proof of the books found. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.list_book_problems TO billing_dba;

-- What is proven: the day up to which everything is sealed, that day's head, and how many entries
-- are sealed; and the newest proof of the books: when it began and ended (NULL while it is not
-- finished), what it checked and how many problems it found, with the first of them. Columns are
-- NULL where there is none. No actor is needed: the web tier asks for its metrics. Errors: those of
-- p_session_hash.
-- Example: SELECT * FROM billing.get_proof();
CREATE OR REPLACE FUNCTION billing.get_proof(p_session_hash bytea DEFAULT NULL)
RETURNS TABLE (
    sealed_through date, head text, closed_at timestamptz, entries_sealed bigint,
    verification_started_at timestamptz, verified_at timestamptz, ranges bigint,
    ranges_done bigint, accounts_verified bigint, entries_verified bigint, problems bigint,
    first_problem text, first_account_id uuid, is_behind boolean
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_session_hash IS NOT NULL THEN
        PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    END IF;
    RETURN QUERY
    SELECT
        h.day, encode(h.head, 'hex'), h.closed_at,
        (SELECT sum(s.entries)::bigint FROM billing_data.seal_heads AS s),
        v.started_at, v.verified_at, v.ranges, v.ranges_done, v.accounts, v.entries, v.problems,
        v.first_problem ->> 'problem', (v.first_problem ->> 'account_id')::uuid,
        coalesce(h.day < billing_data.newest_day_over() - 1, false)
    FROM (SELECT 1) AS one
    LEFT JOIN LATERAL (
        SELECT s.day, s.head, s.closed_at
        FROM billing_data.seal_heads AS s
        ORDER BY s.day DESC
        LIMIT 1
    ) AS h ON true
    LEFT JOIN LATERAL (
        SELECT
            r.started_at,
            CASE WHEN count(*) = count(g.verified_at) THEN max(g.verified_at) END AS verified_at,
            count(*) AS ranges, count(g.verified_at) AS ranges_done,
            coalesce(sum(g.accounts) FILTER (WHERE g.verified_at IS NOT NULL), 0)::bigint
                AS accounts,
            coalesce(sum(g.entries) FILTER (WHERE g.verified_at IS NOT NULL), 0)::bigint
                AS entries,
            coalesce(sum(g.problem_count), 0)::bigint AS problems,
            (
                array_agg(g.problems -> 0 ORDER BY g.place) FILTER (WHERE g.problem_count > 0)
            )[1] AS first_problem
        FROM billing_data.verification_runs AS r
        INNER JOIN billing_data.verification_ranges AS g ON g.run_id = r.id
        WHERE r.id = (SELECT max(n.id) FROM billing_data.verification_runs AS n)
        GROUP BY r.id
    ) AS v ON true;
END
$$;
COMMENT ON FUNCTION billing.get_proof IS
    'Up to when entries are sealed, and what the newest proof of the books found. '
    'For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.get_proof TO billing_server, billing_dba;
