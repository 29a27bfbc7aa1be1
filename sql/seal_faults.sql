-- These functions find what is not as it was sealed, from the database alone. Where somebody made
-- seals and heads anew, only heads that were exported show it: `ciris-billing seal check`.

-- Finds heads that do not follow from their seals, and closed days that have seals and no head.
CREATE OR REPLACE FUNCTION billing_data.find_head_faults()
RETURNS TABLE (problem text, expected text, found text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET DateStyle = 'ISO, YMD'
AS $$
    SELECT
        format('the head of %s is not that of its seals', h.day), encode(c.head, 'hex'),
        encode(h.head, 'hex')
    FROM (
        SELECT h.day, h.head, h.seals, h.entries, lag(h.head) OVER (ORDER BY h.day) AS previous
        FROM billing_data.seal_heads AS h
    ) AS h
    CROSS JOIN LATERAL billing_data.compute_head(h.day, h.previous) AS c
    WHERE (c.head, c.seals, c.entries) IS DISTINCT FROM (h.head, h.seals, h.entries)
    UNION ALL
    SELECT format('the day %s has seals and no head', s.day), 'a head', 'none'
    FROM billing_data.seals AS s
    WHERE s.day < (SELECT max(h.day) FROM billing_data.seal_heads AS h)
        AND NOT EXISTS (SELECT FROM billing_data.seal_heads AS h WHERE h.day = s.day)
    GROUP BY s.day;
$$;
COMMENT ON FUNCTION billing_data.find_head_faults IS
    'Finds heads of days that do not follow from their seals. Helper.';

-- The first entry that is not as a seal says: the first whose leaf does not begin as the seal says,
-- or the first that is gone. No row where all leaves begin as the seal says.
CREATE OR REPLACE FUNCTION billing_data.first_broken_entry(
    p_seal billing_data.seals, p_salt bytea
)
RETURNS TABLE (ledger_version bigint, expected text, found text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT v.ledger_version, encode(v.leaf, 'hex'), encode(substring(t.leaf FOR 8), 'hex')
    FROM (
        SELECT
            p_seal.first_version + g.place AS ledger_version,
            substring(p_seal.leaves FROM (8 * g.place + 1)::integer FOR 8) AS leaf
        FROM generate_series(0, p_seal.last_version - p_seal.first_version) AS g (place)
    ) AS v
    LEFT JOIN billing_data.entry_leaves(
        p_seal.account_id, p_seal.first_version - 1, p_seal.last_version, p_salt
    ) AS t ON t.ledger_version = v.ledger_version
    WHERE v.leaf IS DISTINCT FROM substring(t.leaf FOR 8)
    ORDER BY v.ledger_version
    LIMIT 1;
$$;
COMMENT ON FUNCTION billing_data.first_broken_entry IS
    'The first entry of a seal that is not as it was sealed. Helper.';

-- The first thing of each account in a range that is not as it was sealed: an entry or a seal that
-- was rewritten, removed or put in. It reads every sealed entry of the range.
CREATE OR REPLACE FUNCTION billing_data.find_seal_faults(
    p_account_id uuid, p_after uuid, p_through uuid
)
RETURNS TABLE (account_id uuid, problem text, expected text, found text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = 'force_custom_plan'
SET DateStyle = 'ISO, YMD'
AS $$
DECLARE
    v_first date := (SELECT min(h.day) FROM billing_data.seal_heads AS h);
    v_closed timestamptz := (
        SELECT billing_data.end_of_day(max(h.day)) FROM billing_data.seal_heads AS h
    );
BEGIN
    RETURN QUERY
    WITH chained AS (
        SELECT
            s AS seal, k.salt,
            lag(s.digest) OVER w AS previous,
            lag(s.last_version, 1, 0::bigint) OVER w AS version_before
        FROM billing_data.seals AS s
        LEFT JOIN billing_data.seal_salts AS k ON k.account_id = s.account_id
        WHERE billing_data.is_in_range(s.account_id, p_account_id, p_after, p_through)
        WINDOW w AS (PARTITION BY s.account_id ORDER BY s.last_version)
    ),
    judged AS (
        SELECT
            c.seal, c.salt, c.version_before,
            billing_data.seal_digest(
                c.previous, (c.seal).account_id, (c.seal).day, (c.seal).first_version,
                (c.seal).last_version, n.leaves
            ) IS DISTINCT FROM (c.seal).digest
            OR n.prefixes IS DISTINCT FROM (c.seal).leaves AS is_broken,
            (c.seal).first_version <> c.version_before + 1 AS has_gap,
            CASE WHEN (c.seal).day > v_first THEN n.late_version END AS late_version
        FROM chained AS c
        CROSS JOIN LATERAL (
            SELECT
                coalesce(string_agg(t.leaf, ''::bytea ORDER BY t.ledger_version), '') AS leaves,
                string_agg(substring(t.leaf FOR 8), ''::bytea ORDER BY t.ledger_version)
                    AS prefixes,
                min(t.ledger_version) FILTER (
                    WHERE t.created_at < billing_data.end_of_day((c.seal).day - 1)
                ) AS late_version
            FROM billing_data.entry_leaves(
                (c.seal).account_id, (c.seal).first_version - 1, (c.seal).last_version, c.salt
            ) AS t
        ) AS n
    ),
    first_faults AS (
        SELECT DISTINCT ON ((j.seal).account_id)
            j.seal, j.salt, j.version_before, j.is_broken, j.has_gap, j.late_version
        FROM judged AS j
        WHERE j.is_broken OR j.has_gap OR j.late_version IS NOT NULL
        ORDER BY (j.seal).account_id, (j.seal).last_version
    )
    SELECT (f.seal).account_id, p.problem, p.expected, p.found
    FROM first_faults AS f
    LEFT JOIN LATERAL billing_data.first_broken_entry(f.seal, f.salt) AS b ON f.is_broken
    CROSS JOIN LATERAL (
        VALUES
        (1, f.has_gap, format('entries %s to %s have no seal', f.version_before + 1,
            (f.seal).first_version - 1), 'a seal', 'none'),
        (2, f.is_broken AND b.found IS NOT NULL,
            format('entry %s is not as it was sealed for %s', b.ledger_version, (f.seal).day),
            'leaf ' || b.expected, 'leaf ' || b.found),
        (3, f.is_broken AND b.ledger_version IS NOT NULL AND b.found IS NULL,
            format('entry %s was sealed for %s and is gone', b.ledger_version, (f.seal).day),
            'leaf ' || b.expected, 'none'),
        (4, f.is_broken AND b.ledger_version IS NULL,
            format('the seal of entries %s to %s of %s is not as it was made',
                (f.seal).first_version, (f.seal).last_version, (f.seal).day),
            'the digest of its entries and of the seal before',
            'digest ' || encode((f.seal).digest, 'hex')),
        (5, f.late_version IS NOT NULL,
            format('entry %s was put in after its day was sealed', f.late_version),
            format('an entry of %s or later', (f.seal).day), 'an entry of before')
    ) AS p (place, is_so, problem, expected, found)
    WHERE p.is_so
    UNION ALL
    -- Entries that have no seal yet, of days that are sealed.
    SELECT
        a.id, format('entry %s was put in after its day was sealed', min(t.ledger_version)),
        'a seal', 'none'
    FROM billing_data.accounts AS a
    CROSS JOIN LATERAL (
        SELECT coalesce(max(s.last_version), 0) AS last_version
        FROM billing_data.seals AS s
        WHERE s.account_id = a.id
    ) AS n
    CROSS JOIN LATERAL (
        SELECT c.ledger_version, c.created_at
        FROM billing_data.charges AS c
        WHERE c.account_id = a.id
            AND c.ledger_version > 0
            AND c.ledger_version > n.last_version
        UNION ALL
        SELECT c.ledger_version, c.created_at
        FROM billing_data.credits AS c
        WHERE c.account_id = a.id
            AND c.ledger_version > 0
            AND c.ledger_version > n.last_version
    ) AS t
    WHERE billing_data.is_in_range(a.id, p_account_id, p_after, p_through)
        AND a.ledger_version > n.last_version
        AND t.created_at < v_closed
    GROUP BY a.id;
END
$$;
COMMENT ON FUNCTION billing_data.find_seal_faults IS
    'Finds what is not as it was sealed: per account, the first entry or seal. Helper.';
