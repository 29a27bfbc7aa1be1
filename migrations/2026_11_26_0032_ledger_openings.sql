-- Where the books of taken-over accounts begin: after the entries of the old service, which are
-- told by their writer, by ids of another kind than ours and by having no fingerprint of a request
-- (a login that is named 'legacy' makes neither). What the account had there is what its next entry
-- starts from. Free uses are those left now and those used since, less what staff gave. Other
-- accounts are named only if they did not begin with the free uses that are the column's default.
-- No row of accounts is changed or locked.
-- depends: 2026_11_26_0031_ledger_proof
SET LOCAL lock_timeout = '1s';

-- One statement sees one moment, and charges that are made meanwhile change none of these numbers.
WITH entries AS (
    SELECT
        c.account_id, c.ledger_version, c.balance_before, c.paid_with = 'free' AS is_free,
        1 AS uses,
        c.database_role = 'legacy' AND c.request_fingerprint IS NULL
        AND substring(c.id::text FROM 15 FOR 1) <> '7' AS is_old
    FROM billing_data.charges AS c
    UNION ALL
    SELECT
        c.account_id, c.ledger_version, c.balance_before, false, 0,
        c.database_role = 'legacy' AND c.request_fingerprint IS NULL
        AND substring(c.id::text FROM 15 FOR 1) <> '7'
    FROM billing_data.credits AS c
),
bounds AS (
    SELECT
        e.account_id,
        coalesce(
            min(e.ledger_version) FILTER (WHERE e.is_old IS NOT TRUE) - 1, max(e.ledger_version)
        ) AS ledger_version
    FROM entries AS e
    GROUP BY e.account_id
),
since AS (
    SELECT
        e.account_id,
        (array_agg(e.balance_before ORDER BY e.ledger_version))[1] AS paid_credits,
        sum(e.uses) AS uses,
        count(*) FILTER (WHERE e.is_free) AS free_uses
    FROM entries AS e
    INNER JOIN bounds AS b ON b.account_id = e.account_id
    WHERE e.ledger_version > b.ledger_version
    GROUP BY e.account_id
),
given AS (
    SELECT
        l.resource_id,
        sum((l.changes ->> 'after')::bigint - (l.changes ->> 'before')::bigint) AS free_uses
    FROM billing_data.admin_audit_logs AS l
    WHERE l.action = 'account.reset_free_uses'
    GROUP BY l.resource_id
),
found AS (
    SELECT
        a.id AS account_id,
        a.free_uses_granted,
        coalesce(b.ledger_version, 0) AS ledger_version,
        coalesce(s.paid_credits, a.paid_credits) AS paid_credits,
        a.total_uses - coalesce(s.uses, 0) AS total_uses,
        a.free_uses_remaining + coalesce(s.free_uses, 0) - coalesce(g.free_uses, 0) AS free_uses
    FROM billing_data.accounts AS a
    LEFT JOIN bounds AS b ON b.account_id = a.id
    LEFT JOIN since AS s ON s.account_id = a.id
    LEFT JOIN given AS g ON g.resource_id = a.id::text
)
INSERT INTO billing_data.ledger_openings (
    account_id, ledger_version, paid_credits, total_uses, free_uses
)
SELECT
    f.account_id, f.ledger_version,
    -- Books that began with nothing are held to that, whatever is found in them now.
    CASE WHEN f.ledger_version > 0 THEN f.paid_credits ELSE 0 END,
    CASE WHEN f.ledger_version > 0 THEN f.total_uses ELSE 0 END,
    f.free_uses
FROM found AS f
WHERE f.ledger_version > 0 OR f.free_uses <> f.free_uses_granted;
