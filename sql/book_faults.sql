-- What is wrong with the books: each function here looks for one kind of fault, and
-- billing.verify_ledger (ledger.sql) asks all of them.

-- Whether the old service wrote an entry: its writer is 'legacy', its id is not of our kind, and it
-- has no request fingerprint. An entry of a login named 'legacy' has an id of our kind and a
-- fingerprint.
CREATE OR REPLACE FUNCTION billing_data.is_old_entry(
    p_id uuid, p_database_role text, p_request_fingerprint bytea
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN p_database_role = 'legacy' AND p_request_fingerprint IS NULL
    AND get_byte(uuid_send(p_id), 6) >> 4 <> 7;
COMMENT ON FUNCTION billing_data.is_old_entry IS
    'Tells whether an entry is one of the old service. Helper.';

-- Whether a credit was written for a payment or for a return of money, by an event of the provider
-- or by a DBA who settled it. Every other credit of ours has a request fingerprint.
CREATE OR REPLACE FUNCTION billing_data.is_of_payment(
    p_payment_provider text, p_request_fingerprint bytea, p_digest bigint
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN p_payment_provider IS NOT NULL
    OR (p_request_fingerprint IS NULL AND p_digest IS NOT NULL);
COMMENT ON FUNCTION billing_data.is_of_payment IS
    'Tells whether a credit was written for a payment or its return. Helper.';

-- Finds what is wrong with reversals. Each must give back what it corrects, to the account of that
-- entry or to the one that this account was merged into. All reversals of one entry together must
-- be no more than the entry, and they must be counted.
CREATE OR REPLACE FUNCTION billing_data.find_reversal_faults()
RETURNS TABLE (account_id uuid, problem text, expected text, found text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH reversals AS MATERIALIZED (
        SELECT
            c.account_id, c.ledger_version,
            coalesce(c.corrects_charge_id, c.corrects_credit_id) AS entry_id,
            coalesce(h.amount_minor, abs(k.amount_minor)) AS entry_minor,
            CASE
                WHEN c.free_uses IS NOT NULL THEN h.amount_minor
                ELSE abs(c.amount_minor)
            END AS reversed_minor,
            CASE
                WHEN h.paid_with = 'free' THEN c.amount_minor = 0 AND c.free_uses = 1
                WHEN h.paid_with = 'paid' THEN c.amount_minor > 0 AND c.free_uses IS NULL
                ELSE sign(c.amount_minor) = -sign(k.amount_minor)
            END
            AND c.currency = coalesce(h.currency, k.currency)
            AND billing_data.surviving_account(c.account_id)
            = billing_data.surviving_account(coalesce(h.account_id, k.account_id)) AS is_right
        FROM billing_data.credits AS c
        LEFT JOIN billing_data.charges AS h ON h.id = c.corrects_charge_id
        LEFT JOIN billing_data.credits AS k ON k.id = c.corrects_credit_id
        WHERE num_nonnulls(c.corrects_charge_id, c.corrects_credit_id) > 0
            AND c.transfer_id IS NULL
    ),
    sums AS (
        SELECT
            min(r.account_id::text)::uuid AS account_id, r.entry_id,
            min(r.entry_minor) AS entry_minor, sum(r.reversed_minor) AS reversed_minor
        FROM reversals AS r
        GROUP BY r.entry_id
    )
    SELECT
        r.account_id, format('entry %s does not give back what it corrects', r.ledger_version),
        'a reversal of entry ' || r.entry_id, 'another account, currency or payment'
    FROM reversals AS r
    WHERE r.is_right IS NOT TRUE
    UNION ALL
    SELECT
        s.account_id, format('entry %s is reversed by more than it was', s.entry_id),
        s.entry_minor::text, s.reversed_minor::text
    FROM sums AS s
    WHERE s.reversed_minor > s.entry_minor
    UNION ALL
    SELECT
        coalesce(s.account_id, n.account_id),
        format('the reversals of entry %s are not as counted', coalesce(s.entry_id, n.entry_id)),
        format('%s of %s', coalesce(s.reversed_minor, 0), coalesce(s.entry_minor, n.amount_minor)),
        format('%s of %s', coalesce(n.reversed_minor, 0), n.amount_minor)
    FROM sums AS s
    FULL JOIN billing_data.reversed_entries AS n ON n.entry_id = s.entry_id
    WHERE (s.reversed_minor = n.reversed_minor AND s.entry_minor = n.amount_minor) IS NOT TRUE;
$$;
COMMENT ON FUNCTION billing_data.find_reversal_faults IS
    'Finds reversals that do not match what they correct. Helper.';

-- What is wrong with transfers and merges: the two rows of a transfer add up to 0 and are of two
-- accounts; the rows of a merge, and of its undoing, move what the merge says; an account is merged
-- where its id leads to another one, and has nothing left.
CREATE OR REPLACE FUNCTION billing_data.find_transfer_faults()
RETURNS TABLE (account_id uuid, problem text, expected text, found text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH transfers AS MATERIALIZED (
        SELECT
            c.transfer_id, (array_agg(c.account_id ORDER BY c.amount_minor, c.id))[1] AS from_id,
            sum(c.amount_minor) AS net, count(DISTINCT c.account_id) AS accounts,
            count(*) AS row_count,
            bool_or(c.amount_minor <> 0) AS moves, bool_or(c.free_uses IS NOT NULL) AS moves_uses,
            count(DISTINCT c.currency) AS currencies
        FROM billing_data.credits AS c
        WHERE c.transfer_id IS NOT NULL
        GROUP BY c.transfer_id
    ),
    moves AS (
        SELECT
            m.id AS transfer_id, v.account_id, v.amount_minor, nullif(v.free_uses, 0) AS free_uses
        FROM billing_data.account_merges AS m
        CROSS JOIN LATERAL (
            VALUES (m.merged_account_id, -m.credits, -m.free_uses_taken),
            (m.account_id, m.credits, m.free_uses_given)
        ) AS v (account_id, amount_minor, free_uses)
        UNION ALL
        SELECT m.undo_id, v.account_id, v.amount_minor, nullif(v.free_uses, 0)
        FROM billing_data.account_merges AS m
        CROSS JOIN LATERAL (
            VALUES (m.merged_account_id, m.credits, m.free_uses_taken),
            (m.account_id, -m.credits, -m.free_uses_given)
        ) AS v (account_id, amount_minor, free_uses)
        WHERE m.undo_id IS NOT NULL
    )
    SELECT
        t.from_id, format('the rows of transfer %s do not balance', t.transfer_id),
        '2 rows of 2 accounts, together 0', format(
            '%s rows of %s accounts, together %s', t.row_count, t.accounts, t.net
        )
    FROM transfers AS t
    WHERE t.net <> 0
        OR t.accounts <> t.row_count
        OR t.row_count > 2
        OR (t.moves AND t.row_count <> 2)
        OR t.currencies > 1
    UNION ALL
    SELECT t.from_id, format('transfer %s moves free uses and is of no merge', t.transfer_id),
        'a merge', 'none'
    FROM transfers AS t
    WHERE t.moves_uses
        AND NOT EXISTS (SELECT FROM moves AS m WHERE m.transfer_id = t.transfer_id)
    UNION ALL
    SELECT m.account_id, format('merge %s did not move what it says', m.transfer_id),
        format('%s credits, %s free uses', m.amount_minor, coalesce(m.free_uses, 0)),
        format('%s credits, %s free uses', c.amount_minor, coalesce(c.free_uses, 0))
    FROM moves AS m
    LEFT JOIN billing_data.credits AS c
        ON c.account_id = m.account_id AND c.transfer_id = m.transfer_id
    WHERE (coalesce(c.amount_minor, 0), coalesce(c.free_uses, 0))
        <> (m.amount_minor, coalesce(m.free_uses, 0))
    UNION ALL
    SELECT a.id, 'the account is merged and leads nowhere', 'an account', 'none'
    FROM billing_data.accounts AS a
    WHERE a.status <> 'active'
        AND a.status = 'merged'
        AND NOT EXISTS (SELECT FROM billing_data.merged_accounts AS m WHERE m.id = a.id)
    UNION ALL
    SELECT a.id, 'the account leads to another one and is not merged', 'merged, with nothing left',
        format(
            '%s, with %s credits and %s free uses', a.status, a.paid_credits, a.free_uses_remaining
        )
    FROM billing_data.merged_accounts AS m
    INNER JOIN billing_data.accounts AS a ON a.id = m.id
    WHERE (a.status, a.paid_credits, a.free_uses_remaining) <> ('merged', 0, 0)
    UNION ALL
    SELECT m.merged_account_id, format('merge %s is in force and leads elsewhere', m.id),
        m.account_id::text, l.account_id::text
    FROM billing_data.account_merges AS m
    LEFT JOIN billing_data.merged_accounts AS l ON l.id = m.merged_account_id
    WHERE m.undone_at IS NULL AND l.account_id IS DISTINCT FROM m.account_id
$$;
COMMENT ON FUNCTION billing_data.find_transfer_faults IS
    'Finds transfers that do not balance, and merges that moved something else. Helper.';

-- Whether an id is one of those that a proof is about: one account's (p_account_id), those that
-- follow p_after, those up to p_through. Where the arguments are known when the query is planned,
-- PostgreSQL can use an index for it.
CREATE OR REPLACE FUNCTION billing_data.is_in_range(
    p_id uuid, p_account_id uuid, p_after uuid, p_through uuid
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (p_account_id IS NULL OR p_id = p_account_id)
    AND (p_after IS NULL OR p_id > p_after)
    AND (p_through IS NULL OR p_id <= p_through);
COMMENT ON FUNCTION billing_data.is_in_range IS
    'Whether an account is one of those that a proof is about. Helper.';

-- What is wrong with each entry by itself: it moves the balance by what it says, has an amount and
-- a currency that it can have, and is as it was written.
CREATE OR REPLACE FUNCTION billing_data.find_entry_faults(
    p_account_id uuid, p_after uuid, p_through uuid
)
RETURNS TABLE (account_id uuid, problem text, expected text, found text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    WITH entries AS (
        SELECT
            c.account_id, c.ledger_version, c.created_at, c.balance_before, c.balance_after,
            c.currency, c.amount_minor, c.paid_with,
            CASE WHEN c.paid_with <> 'free' THEN c.amount_minor ELSE 0 END AS used,
            c.amount_minor > 0 AS is_amount,
            c.digest, billing_data.charge_digest(c) AS digest_now,
            billing_data.is_old_entry(c.id, c.database_role, c.request_fingerprint) AS looks_old,
            true AS is_charge
        FROM billing_data.charges AS c
        WHERE c.ledger_version > 0
            AND billing_data.is_in_range(c.account_id, p_account_id, p_after, p_through)
        UNION ALL
        SELECT
            c.account_id, c.ledger_version, c.created_at, c.balance_before, c.balance_after,
            c.currency, c.amount_minor, NULL, -c.amount_minor::numeric,
            c.amount_minor > 0
            OR (
                c.transaction_type IN ('refund', 'adjustment')
                AND (c.amount_minor < 0 OR c.free_uses IS NOT NULL)
            ),
            c.digest, billing_data.credit_digest(c),
            billing_data.is_old_entry(c.id, c.database_role, c.request_fingerprint), false
        FROM billing_data.credits AS c
        WHERE c.ledger_version > 0
            AND billing_data.is_in_range(c.account_id, p_account_id, p_after, p_through)
    )
    SELECT e.account_id, p.problem, p.expected, p.found
    FROM entries AS e
    LEFT JOIN billing_data.settings AS d ON true
    LEFT JOIN billing_data.accounts AS a
        ON a.id = e.account_id
            AND billing_data.is_in_range(a.id, p_account_id, p_after, p_through)
    LEFT JOIN billing_data.ledger_openings AS o ON o.account_id = a.id
    CROSS JOIN LATERAL (
        SELECT
            e.ledger_version > coalesce(o.ledger_version, 0) AS is_ours,
            -- numeric, because an amount that somebody made huge must be reported and must not fail
            -- the check.
            e.balance_before::numeric - e.used AS balance_after,
            coalesce(
                e.digest <> e.digest_now,
                e.created_at > coalesce(d.digests_since, '-infinity')
            ) AS is_changed
    ) AS t
    CROSS JOIN LATERAL (
        VALUES
        (t.is_ours AND e.balance_after <> t.balance_after,
            format('entry %s does not move the balance by what it says', e.ledger_version),
            t.balance_after::text, e.balance_after::text),
        (t.is_ours AND NOT e.is_amount,
            format('entry %s has an amount that none can have', e.ledger_version), 'more than 0',
            e.amount_minor::text),
        (t.is_ours AND e.is_charge AND (e.paid_with IN ('free', 'paid')) IS NOT TRUE,
            format('entry %s was paid with nothing that there is', e.ledger_version),
            'free or paid', e.paid_with),
        (t.is_ours AND e.currency <> a.currency,
            format('entry %s is in another currency', e.ledger_version), a.currency, e.currency),
        (t.is_changed, format('entry %s is not as it was written', e.ledger_version),
            'digest ' || e.digest_now, coalesce('digest ' || e.digest, 'no digest')),
        (NOT t.is_ours AND e.looks_old IS NOT TRUE,
            format('entry %s is not of the old service', e.ledger_version),
            'an entry of the account''s own books', 'before they begin')
    ) AS p (is_so, problem, expected, found)
    WHERE (
            t.is_changed
            OR CASE
                WHEN t.is_ours THEN e.balance_after <> t.balance_after
                    OR NOT e.is_amount
                    OR e.currency <> a.currency
                    OR (e.is_charge AND (e.paid_with IN ('free', 'paid')) IS NOT TRUE)
                ELSE e.looks_old IS NOT TRUE
            END
        )
        AND p.is_so;
END
$$;
COMMENT ON FUNCTION billing_data.find_entry_faults IS
    'Finds entries that contradict themselves or were changed. Helper.';

-- What is wrong with the entries of each account together: their versions have no gap, each entry
-- continues the one before, and the account's version, paid credits, total uses and free uses are
-- what its entries add up to.
CREATE OR REPLACE FUNCTION billing_data.find_account_faults(
    p_account_id uuid, p_after uuid, p_through uuid
)
RETURNS TABLE (account_id uuid, problem text, expected text, found text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    WITH entries AS (
        SELECT
            c.account_id, c.ledger_version, c.balance_before, c.balance_after, c.free_uses_after,
            CASE WHEN c.paid_with = 'free' THEN 1 END AS free_uses_taken,
            CASE WHEN c.paid_with <> 'free' THEN c.amount_minor END AS used,
            NULL::bigint AS added,
            true AS is_charge
        FROM billing_data.charges AS c
        WHERE c.ledger_version > 0
            AND billing_data.is_in_range(c.account_id, p_account_id, p_after, p_through)
        UNION ALL
        SELECT
            c.account_id, c.ledger_version, c.balance_before, c.balance_after, NULL, -c.free_uses,
            NULL, c.amount_minor, false
        FROM billing_data.credits AS c
        WHERE c.ledger_version > 0
            AND billing_data.is_in_range(c.account_id, p_account_id, p_after, p_through)
    ),
    gifts AS (
        SELECT
            l.resource_id AS account_id,
            (l.changes ->> 'ledger_version')::bigint AS ledger_version,
            (l.changes ->> 'after')::bigint - (l.changes ->> 'before')::bigint AS free_uses
        FROM billing_data.admin_audit_logs AS l
        WHERE l.action = 'account.reset_free_uses'
    ),
    gifts_in_all AS (
        SELECT
            g.account_id, sum(g.free_uses) AS free_uses,
            bool_and(g.ledger_version IS NOT NULL) AS are_placed
        FROM gifts AS g
        GROUP BY g.account_id
    ),
    openings AS (
        SELECT
            a.id, a.free_uses_remaining, a.paid_credits, a.total_uses, a.ledger_version,
            coalesce(o.ledger_version, 0) AS opened_at,
            coalesce(o.paid_credits, 0) AS opened_with,
            coalesce(o.total_uses, 0) AS opened_uses,
            coalesce(o.free_uses, a.free_uses_granted) AS free_uses,
            coalesce(g.free_uses, 0) AS free_uses_given,
            g.are_placed AS gifts_are_placed
        FROM billing_data.accounts AS a
        LEFT JOIN billing_data.ledger_openings AS o ON o.account_id = a.id
        LEFT JOIN gifts_in_all AS g ON g.account_id = a.id::text
        WHERE billing_data.is_in_range(a.id, p_account_id, p_after, p_through)
    ),
    chained AS (
        SELECT
            e.account_id, e.ledger_version, e.balance_before, e.balance_after, e.free_uses_after,
            e.free_uses_taken, e.is_charge, e.used, e.added,
            e.ledger_version > coalesce(o.opened_at, 0) AS is_ours,
            lag(e.ledger_version, 1, 0::bigint) OVER w AS version_before,
            CASE
                WHEN lag(e.ledger_version, 1, 0::bigint) OVER w <= coalesce(o.opened_at, 0)
                    THEN coalesce(o.opened_with, 0)
                ELSE lag(e.balance_after) OVER w
            END AS balance_of_row_before,
            lead(e.ledger_version) OVER w IS NULL AS is_newest,
            o.free_uses - coalesce(sum(e.free_uses_taken) FILTER (
                WHERE e.ledger_version > o.opened_at
            ) OVER w, 0) + CASE
                WHEN o.gifts_are_placed IS NULL THEN 0
                -- Audit rows of earlier releases do not tell the ledger version: only the sum of
                -- these gifts counts.
                WHEN o.gifts_are_placed THEN (
                    SELECT coalesce(sum(g.free_uses), 0)
                    FROM gifts AS g
                    WHERE g.account_id = o.id::text AND g.ledger_version < e.ledger_version
                )
            END AS free_uses_left
        FROM entries AS e
        LEFT JOIN openings AS o ON o.id = e.account_id
        WINDOW w AS (PARTITION BY e.account_id ORDER BY e.ledger_version)
    ),
    judged AS (
        SELECT
            c.account_id, c.ledger_version, c.balance_before, c.balance_after, c.free_uses_after,
            c.free_uses_left, c.version_before, c.balance_of_row_before, c.is_charge,
            c.free_uses_taken, c.used, c.added, c.is_ours, c.is_newest,
            c.ledger_version <> c.version_before + 1 AS has_gap,
            c.is_ours AND c.balance_before <> c.balance_of_row_before AS is_loose,
            c.is_ours AND c.free_uses_after <> c.free_uses_left AS is_miscounted
        FROM chained AS c
    ),
    sums AS MATERIALIZED (
        SELECT
            j.account_id,
            max(j.ledger_version) AS newest,
            count(*) AS entry_count,
            coalesce(sum(j.added) FILTER (WHERE j.is_ours), 0)
            - coalesce(sum(j.used) FILTER (WHERE j.is_ours), 0) AS change,
            count(*) FILTER (WHERE j.is_ours AND j.is_charge) AS uses,
            sum(j.free_uses_taken) FILTER (WHERE j.is_ours) AS free_uses,
            max(j.balance_after) FILTER (WHERE j.is_ours AND j.is_newest) AS balance_after,
            jsonb_agg(to_jsonb(j)) FILTER (
                WHERE j.has_gap OR j.is_loose OR j.is_miscounted
            ) AS faults
        FROM judged AS j
        GROUP BY j.account_id
    ),
    books AS MATERIALIZED (
        SELECT
            coalesce(o.id, s.account_id) AS account_id,
            o.id IS NULL AS is_gone,
            o.ledger_version, o.paid_credits, o.total_uses, o.free_uses_remaining, o.opened_at,
            coalesce(s.newest, 0) AS newest,
            coalesce(s.entry_count, 0) AS entry_count,
            o.opened_with + coalesce(s.change, 0) AS balance,
            coalesce(s.balance_after, o.opened_with) AS newest_balance,
            s.entry_count IS NOT NULL AS has_entries,
            o.opened_uses + coalesce(s.uses, 0) AS uses,
            o.free_uses + o.free_uses_given - coalesce(s.free_uses, 0) AS free_uses
        FROM openings AS o
        FULL JOIN sums AS s ON s.account_id = o.id
    )
    SELECT s.account_id, p.problem, p.expected, p.found
    FROM sums AS s
    CROSS JOIN LATERAL jsonb_to_recordset(s.faults) AS f (
        ledger_version bigint, version_before bigint, balance_before bigint,
        balance_of_row_before bigint, free_uses_after bigint, free_uses_left bigint,
        has_gap boolean, is_loose boolean, is_miscounted boolean
    )
    CROSS JOIN LATERAL (
        VALUES
        (f.has_gap, 'ledger_version has a gap or a duplicate', (f.version_before + 1)::text,
            f.ledger_version::text),
        (f.is_loose, format('entry %s does not continue the one before', f.ledger_version),
            f.balance_of_row_before::text, f.balance_before::text),
        (f.is_miscounted,
            format('entry %s leaves other free uses than there were', f.ledger_version),
            f.free_uses_left::text, f.free_uses_after::text)
    ) AS p (is_so, problem, expected, found)
    WHERE s.faults IS NOT NULL AND p.is_so
    UNION ALL
    SELECT b.account_id, 'the account is gone and its entries are not', 'an account',
        format('%s entries', b.entry_count)
    FROM books AS b
    WHERE b.is_gone
    UNION ALL
    SELECT b.account_id, 'accounts.ledger_version is not the number of entries',
        b.entry_count::text, b.ledger_version::text
    FROM books AS b
    WHERE b.ledger_version <> b.newest OR b.opened_at > b.newest
    UNION ALL
    SELECT b.account_id, 'paid_credits is not the sum of the entries', b.balance::text,
        b.paid_credits::text
    FROM books AS b
    WHERE b.paid_credits <> b.balance
    UNION ALL
    SELECT b.account_id, 'paid_credits is not the newest entry''s balance_after',
        b.newest_balance::text, b.paid_credits::text
    FROM books AS b
    WHERE b.has_entries AND b.paid_credits <> b.newest_balance
    UNION ALL
    SELECT b.account_id, 'total_uses is not the number of charges', b.uses::text,
        b.total_uses::text
    FROM books AS b
    WHERE b.total_uses <> b.uses
    UNION ALL
    SELECT b.account_id, 'free_uses_remaining is not what was given less what was used',
        b.free_uses::text, b.free_uses_remaining::text
    FROM books AS b
    WHERE b.free_uses_remaining <> b.free_uses
    UNION ALL
    SELECT o.account_id, 'the account is gone and its opening is not', 'an account', 'none'
    FROM billing_data.ledger_openings AS o
    WHERE NOT EXISTS (SELECT FROM billing_data.accounts AS a WHERE a.id = o.account_id)
        AND billing_data.is_in_range(o.account_id, p_account_id, p_after, p_through);
END
$$;
COMMENT ON FUNCTION billing_data.find_account_faults IS
    'Finds accounts that are not what their entries add up to. Helper.';

-- What is wrong with purchases and returns of money: each is compared with its credits, and credits
-- with them.
CREATE OR REPLACE FUNCTION billing_data.find_purchase_faults(
    p_account_id uuid, p_after uuid, p_through uuid
)
RETURNS TABLE (account_id uuid, problem text, expected text, found text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT v.account_id, v.problem, v.expected, v.found
    FROM (
        SELECT
            p.account_id, format('purchase %s was not credited with what was sold', p.id),
            p.uses::text, c.amount_minor::text
        FROM billing_data.purchases AS p
        LEFT JOIN billing_data.credits AS c
            ON c.id = p.credit_id AND billing_data.is_one_account(c.account_id, p.account_id)
        WHERE p.settled_at IS NOT NULL AND c.amount_minor IS DISTINCT FROM p.uses
        UNION ALL
        SELECT
            r.account_id,
            format('the returns of purchase %s did not take what they say', r.purchase_id),
            sum(r.uses_taken)::text, sum(e.taken)::text
        FROM billing_data.payment_returns AS r
        CROSS JOIN LATERAL (
            SELECT -coalesce(sum(c.amount_minor), 0) AS taken
            FROM billing_data.payment_return_credits AS n
            INNER JOIN billing_data.credits AS c
                ON c.id = n.credit_id AND billing_data.is_one_account(c.account_id, n.account_id)
            WHERE n.account_id = r.account_id
                AND n.provider = r.provider
                AND n.return_id = r.return_id
        ) AS e
        GROUP BY r.account_id, r.purchase_id
        HAVING sum(r.uses_taken) <> sum(e.taken)
        UNION ALL
        SELECT
            p.account_id,
            format('what is due of purchase %s is not what its money stands for', p.id),
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
        HAVING sum(r.uses_due) > p.uses
        UNION ALL
        SELECT
            c.account_id, format('credit %s was paid for and belongs to no purchase', c.id),
            'a purchase', 'none'
        FROM billing_data.credits AS c
        WHERE billing_data.is_of_payment(c.payment_provider, c.request_fingerprint, c.digest)
            AND c.transaction_type = 'purchase'
            AND NOT EXISTS (
                SELECT FROM billing_data.purchases AS p
                WHERE p.credit_id = c.id AND billing_data.is_one_account(p.account_id, c.account_id)
            )
        UNION ALL
        SELECT
            c.account_id,
            format('credit %s moved credits for a return of money that is not here', c.id),
            c.external_transaction_id::text, 'none'
        FROM billing_data.credits AS c
        WHERE billing_data.is_of_payment(c.payment_provider, c.request_fingerprint, c.digest)
            AND c.transaction_type <> 'purchase'
            AND NOT EXISTS (
                SELECT FROM billing_data.payment_returns AS r
                WHERE r.return_id = c.external_transaction_id
                    AND r.account_id = ANY (billing_data.merged_family(c.account_id))
            )
        UNION ALL
        SELECT
            p.account_id, format('the account is gone and purchase %s is not', p.id),
            'an account', 'none'
        FROM billing_data.purchases AS p
        WHERE NOT EXISTS (SELECT FROM billing_data.accounts AS a WHERE a.id = p.account_id)
        UNION ALL
        SELECT
            r.account_id, format('return %s is of a purchase that is not here', r.return_id),
            r.purchase_id::text, 'none'
        FROM billing_data.payment_returns AS r
        WHERE NOT EXISTS (
            SELECT FROM billing_data.purchases AS p
            WHERE p.account_id = r.account_id AND p.id = r.purchase_id
        )
        UNION ALL
        -- What the provider itself said was paid, where its event is kept.
        SELECT
            p.account_id, format('purchase %s was not sold for what was paid', p.id),
            (e.payload #>> '{data,object,amount_received}'), p.price_minor::text
        FROM billing_data.purchases AS p
        INNER JOIN billing_data.payment_events AS e
            ON e.provider = p.provider AND e.payment_id = p.payment_id AND e.outcome = 'credited'
        WHERE (e.payload #>> '{data,object,amount_received}') ~ '^[1-9]'
            AND (e.payload #>> '{data,object,amount_received}') <> p.price_minor::text
    ) AS v (account_id, problem, expected, found)
    WHERE billing_data.is_in_range(v.account_id, p_account_id, p_after, p_through);
END
$$;
COMMENT ON FUNCTION billing_data.find_purchase_faults IS
    'Finds purchases and returns that are not what was credited. Helper.';
