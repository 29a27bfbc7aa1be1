-- Does the ledger agree with itself and with the balances? No row: it does.

-- Every account whose books do not agree, with what is wrong: versions with a gap, a row whose
-- balance_before is not the balance_after of the row before, a balance that is not the newest
-- row's, a sum of entries that is not the balance, total uses that are not the number of charges,
-- purchases and returns of money whose credit entries say something else.
-- What the old service recorded before its balances became paid credits is outside these rules:
-- rows written by 'legacy' are only counted. Reads everything: minutes on a large database.
-- Errors: actor_required. Example: SELECT * FROM billing.verify_ledger();
CREATE OR REPLACE FUNCTION billing.verify_ledger()
RETURNS TABLE (account_id uuid, problem text, expected text, found text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.caller_role();
    RETURN QUERY
    WITH entries AS (
        SELECT
            c.account_id, c.ledger_version, c.balance_before, c.balance_after,
            c.database_role IS NOT DISTINCT FROM 'legacy' AS is_legacy,
            CASE c.paid_with WHEN 'paid' THEN -c.amount_minor ELSE 0 END AS change, 1 AS uses
        FROM billing_data.charges AS c
        UNION ALL
        SELECT
            c.account_id, c.ledger_version, c.balance_before, c.balance_after,
            c.database_role IS NOT DISTINCT FROM 'legacy', c.amount_minor, 0
        FROM billing_data.credits AS c
    ),
    chained AS (
        SELECT
            e.account_id, e.ledger_version, e.balance_before, e.is_legacy,
            lag(e.ledger_version, 1, 0::bigint) OVER w AS version_before,
            lag(e.balance_after) OVER w AS balance_of_row_before,
            lag(e.is_legacy) OVER w AS row_before_is_legacy
        FROM entries AS e
        WINDOW w AS (PARTITION BY e.account_id ORDER BY e.ledger_version)
    ),
    sums AS (
        SELECT
            e.account_id,
            max(e.ledger_version) AS newest,
            count(*) AS entry_count,
            sum(e.change) AS change,
            sum(e.uses) AS uses,
            bool_or(e.is_legacy) AS has_legacy,
            (array_agg(e.balance_after ORDER BY e.ledger_version DESC))[1] AS balance_after,
            (array_agg(e.is_legacy ORDER BY e.ledger_version DESC))[1] AS newest_is_legacy
        FROM entries AS e
        GROUP BY e.account_id
    )
    SELECT
        c.account_id, 'ledger_version has a gap or a duplicate',
        (c.version_before + 1)::text, c.ledger_version::text
    FROM chained AS c
    WHERE c.ledger_version <> c.version_before + 1
    UNION ALL
    SELECT
        c.account_id, format('entry %s does not continue the one before', c.ledger_version),
        coalesce(c.balance_of_row_before, 0)::text, c.balance_before::text
    FROM chained AS c
    WHERE NOT c.is_legacy AND c.row_before_is_legacy IS NOT TRUE
        AND c.balance_before <> coalesce(c.balance_of_row_before, 0)
    UNION ALL
    SELECT
        a.id, 'accounts.ledger_version is not the number of entries',
        coalesce(s.entry_count, 0)::text, a.ledger_version::text
    FROM billing_data.accounts AS a
    LEFT JOIN sums AS s ON s.account_id = a.id
    WHERE a.ledger_version <> coalesce(s.newest, 0)
    UNION ALL
    SELECT
        a.id, 'paid_credits is not the sum of the entries',
        coalesce(s.change, 0)::text, a.paid_credits::text
    FROM billing_data.accounts AS a
    LEFT JOIN sums AS s ON s.account_id = a.id
    WHERE s.has_legacy IS NOT TRUE AND a.paid_credits <> coalesce(s.change, 0)
    UNION ALL
    SELECT
        a.id, 'paid_credits is not the newest entry''s balance_after',
        s.balance_after::text, a.paid_credits::text
    FROM billing_data.accounts AS a
    INNER JOIN sums AS s ON s.account_id = a.id
    WHERE NOT s.newest_is_legacy AND a.paid_credits <> s.balance_after
    UNION ALL
    SELECT
        a.id, 'total_uses is not the number of charges', coalesce(s.uses, 0)::text,
        a.total_uses::text
    FROM billing_data.accounts AS a
    LEFT JOIN sums AS s ON s.account_id = a.id
    WHERE s.has_legacy IS NOT TRUE AND a.total_uses <> coalesce(s.uses, 0)
    UNION ALL
    SELECT
        p.account_id, format('purchase %s was not credited with what was sold', p.id),
        p.uses::text, c.amount_minor::text
    FROM billing_data.purchases AS p
    LEFT JOIN billing_data.credits AS c ON c.id = p.credit_id AND c.account_id = p.account_id
    WHERE p.settled_at IS NOT NULL AND c.amount_minor IS DISTINCT FROM p.uses
    UNION ALL
    SELECT
        r.account_id, format('the returns of purchase %s did not take what they say', r.purchase_id),
        sum(r.uses_taken)::text, sum(e.taken)::text
    FROM billing_data.payment_returns AS r
    CROSS JOIN LATERAL (
        SELECT -coalesce(sum(c.amount_minor), 0) AS taken
        FROM billing_data.payment_return_credits AS n
        INNER JOIN billing_data.credits AS c
            ON c.id = n.credit_id AND c.account_id = n.account_id
        WHERE n.account_id = r.account_id
            AND n.provider = r.provider
            AND n.return_id = r.return_id
    ) AS e
    GROUP BY r.account_id, r.purchase_id
    HAVING sum(r.uses_taken) <> sum(e.taken)
    UNION ALL
    SELECT
        p.account_id, format('what is due of purchase %s is not what its money stands for', p.id),
        billing_data.uses_due(p.uses, p.price_minor, sum(r.away_minor))::text,
        sum(r.uses_due)::text
    FROM billing_data.purchases AS p
    INNER JOIN billing_data.payment_returns AS r
        ON r.account_id = p.account_id AND r.purchase_id = p.id
    WHERE p.settled_at IS NOT NULL
    GROUP BY p.account_id, p.id, p.uses, p.price_minor
    HAVING sum(r.uses_due) <> billing_data.uses_due(p.uses, p.price_minor, sum(r.away_minor))
    UNION ALL
    SELECT
        p.account_id, format('more was taken back of purchase %s than was sold', p.id),
        p.uses::text, sum(r.uses_due)::text
    FROM billing_data.purchases AS p
    INNER JOIN billing_data.payment_returns AS r
        ON r.account_id = p.account_id AND r.purchase_id = p.id AND r.status = 'taken'
    GROUP BY p.account_id, p.id, p.uses
    HAVING sum(r.uses_due) > p.uses;
END
$$;
COMMENT ON FUNCTION billing.verify_ledger IS
    'Lists every account whose ledger does not agree with its balance. For billing_dba.';
GRANT EXECUTE ON FUNCTION billing.verify_ledger TO billing_dba;

-- What an alarm watches, cheaply: the accounts of the newest p_entries charges and of as many credits,
-- and those of p_known (found wrong before, so that an alarm ends when the books are mended and not
-- when they are old news). Of each it compares the balance and version with the newest entry, and
-- that entry with the one before. It reads a few rows an account, whatever the size of the ledger;
-- whether everything agrees only verify_ledger tells. Also how many payments a person must look at.
-- For no one in particular: the web tier calls it by itself. Errors: invalid_argument.
-- Example: SELECT * FROM billing.watch_books();
CREATE OR REPLACE FUNCTION billing.watch_books(
    p_known uuid[] DEFAULT '{}', p_entries bigint DEFAULT 500
)
RETURNS TABLE (accounts_checked bigint, mismatched uuid[], payment_problems bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- Ids of the old service are no times: most lie beyond this.
    v_end uuid := billing_data.first_id(clock_timestamp() + interval '1 day');
BEGIN
    PERFORM billing_data.require(p_entries BETWEEN 0 AND 10000, 'p_entries', 'it must be 0 to 10000');
    RETURN QUERY
    WITH watched AS (
        SELECT n.account_id
        FROM (
            SELECT c.account_id FROM billing_data.charges AS c
            WHERE c.id <= v_end ORDER BY c.id DESC LIMIT p_entries
        ) AS n
        UNION
        SELECT n.account_id
        FROM (
            SELECT c.account_id FROM billing_data.credits AS c
            WHERE c.id <= v_end ORDER BY c.id DESC LIMIT p_entries
        ) AS n
        UNION
        SELECT k.account_id FROM unnest(p_known) AS k (account_id)
    ),
    tails AS (
        SELECT
            a.id, a.ledger_version, a.paid_credits,
            array_agg(t.ledger_version ORDER BY t.ledger_version DESC) AS versions,
            array_agg(t.balance_before ORDER BY t.ledger_version DESC) AS before,
            array_agg(t.balance_after ORDER BY t.ledger_version DESC) AS after,
            array_agg(t.is_legacy ORDER BY t.ledger_version DESC) AS legacy
        FROM watched AS w
        INNER JOIN billing_data.accounts AS a ON a.id = w.account_id
        LEFT JOIN LATERAL (
            SELECT u.ledger_version, u.balance_before, u.balance_after, u.is_legacy
            FROM (
                (
                    SELECT
                        c.ledger_version, c.balance_before, c.balance_after,
                        c.database_role IS NOT DISTINCT FROM 'legacy' AS is_legacy
                    FROM billing_data.charges AS c
                    WHERE c.account_id = a.id AND c.ledger_version > 0
                    ORDER BY c.ledger_version DESC
                    LIMIT 2
                )
                UNION ALL
                (
                    SELECT
                        c.ledger_version, c.balance_before, c.balance_after,
                        c.database_role IS NOT DISTINCT FROM 'legacy'
                    FROM billing_data.credits AS c
                    WHERE c.account_id = a.id AND c.ledger_version > 0
                    ORDER BY c.ledger_version DESC
                    LIMIT 2
                )
            ) AS u
            ORDER BY u.ledger_version DESC
            LIMIT 2
        ) AS t ON true
        GROUP BY a.id, a.ledger_version, a.paid_credits
    ),
    judged AS (
        SELECT
            t.id,
            t.ledger_version <> coalesce(t.versions[1], 0)
            OR t.versions[1] <> coalesce(t.versions[2], 0) + 1
            OR (NOT t.legacy[1] AND t.paid_credits <> t.after[1])
            OR (
                NOT t.legacy[1] AND t.legacy[2] IS NOT TRUE
                AND t.before[1] <> coalesce(t.after[2], 0)
            ) AS is_wrong
        FROM tails AS t
    )
    SELECT
        count(*),
        coalesce(array_agg(j.id ORDER BY j.id) FILTER (WHERE j.is_wrong), '{}'),
        (SELECT count(*) FROM billing_data.find_payment_problems())
    FROM judged AS j;
END
$$;
COMMENT ON FUNCTION billing.watch_books IS
    'Compares the newest entries with their accounts and counts open payment problems, for alarms. For billing_server and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.watch_books TO billing_server, billing_dba;
