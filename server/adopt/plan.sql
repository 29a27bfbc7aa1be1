-- Works out, from the tables of the old database, what adoption will do, and writes it to temporary
-- tables. Nothing else is changed. Each section begins with a line that names it. The setting
-- adopt.free_uses says how many free uses an account may have.
-- stage: finding accounts of one identity
-- The earliest account of an identity stays; the others are merged into it.
CREATE TEMPORARY TABLE adopt_merged ON COMMIT DROP AS
SELECT r.id, r.account_id
FROM (
    SELECT
        a.id,
        first_value(a.id) OVER (
            PARTITION BY a.oauth_provider, a.external_id ORDER BY a.created_at, a.id
        ) AS account_id
    FROM public.accounts AS a
) AS r
WHERE r.id <> r.account_id;
CREATE UNIQUE INDEX adopt_merged_id ON adopt_merged (id);
ANALYZE adopt_merged;

-- The credits and uses of the accounts are added up. Free uses are added up to the number that one
-- account may have, but never to less than one of the accounts has. For each field of the profile
-- the newest value is kept, because the old service replaced older ones too. A consent that was
-- given once stays given. Of several states the strictest is kept.
CREATE TEMPORARY TABLE adopt_groups ON COMMIT DROP AS
SELECT
    g.account_id,
    sum(a.paid_credits)::bigint AS paid_credits,
    sum(a.total_uses)::bigint AS total_uses,
    least(
        sum(a.free_uses_remaining)::bigint,
        greatest(max(a.free_uses_remaining), current_setting('adopt.free_uses')::bigint)
    ) AS free_uses_remaining,
    CASE
        WHEN bool_or(a.status = 'closed') THEN 'closed'
        WHEN bool_or(a.status = 'suspended') THEN 'suspended'
        ELSE 'active'
    END AS status,
    count(DISTINCT a.status) > 1 AS had_several_states,
    count(DISTINCT upper(a.currency)) > 1 AS had_several_currencies,
    (array_agg(a.plan_name ORDER BY a.updated_at DESC, a.id))[1] AS plan_name,
    (array_agg(a.customer_email ORDER BY a.updated_at DESC, a.id)
        FILTER (WHERE a.customer_email IS NOT NULL))[1] AS customer_email,
    (array_agg(a.user_role ORDER BY a.updated_at DESC, a.id)
        FILTER (WHERE a.user_role IS NOT NULL))[1] AS user_role,
    (array_agg(a.agent_id ORDER BY a.updated_at DESC, a.id)
        FILTER (WHERE a.agent_id IS NOT NULL))[1] AS agent_id,
    coalesce(bool_or(a.marketing_opt_in), false) AS marketing_opt_in,
    (array_agg(
        a.marketing_opt_in_at
        ORDER BY a.marketing_opt_in DESC NULLS LAST, a.updated_at DESC, a.id
    ))[1] AS marketing_opt_in_at,
    (array_agg(
        a.marketing_opt_in_source
        ORDER BY a.marketing_opt_in DESC NULLS LAST, a.updated_at DESC, a.id
    ))[1] AS marketing_opt_in_source,
    max(a.updated_at) AS updated_at
FROM public.accounts AS a
LEFT JOIN adopt_merged AS m ON m.id = a.id
CROSS JOIN LATERAL (SELECT coalesce(m.account_id, a.id) AS account_id) AS g  -- noqa: ST05
WHERE g.account_id IN (SELECT t.account_id FROM adopt_merged AS t)
GROUP BY g.account_id;
CREATE UNIQUE INDEX adopt_groups_account ON adopt_groups (account_id);
ANALYZE adopt_groups;

-- stage: putting the entries of each account in order
CREATE TEMPORARY TABLE adopt_entries ON COMMIT DROP AS
SELECT
    e.id, e.is_charge, e.account_id, e.is_free, e.has_key, e.balance_after,
    row_number() OVER w AS ledger_version,
    e.balance_before = lag(e.balance_after, 1, 0::bigint) OVER w AS continues,
    lead(e.id) OVER w IS NULL AS is_newest
FROM (
    SELECT
        c.id, true AS is_charge, coalesce(m.account_id, c.account_id) AS account_id, c.created_at,
        c.balance_before, c.balance_after, c.balance_after = c.balance_before AS is_free,
        c.idempotency_key <> '' AS has_key
    FROM public.charges AS c
    LEFT JOIN adopt_merged AS m ON m.id = c.account_id
    UNION ALL
    SELECT
        c.id, false, coalesce(m.account_id, c.account_id), c.created_at, c.balance_before,
        c.balance_after, false, c.idempotency_key <> ''
    FROM public.credits AS c
    LEFT JOIN adopt_merged AS m ON m.id = c.account_id
) AS e
WINDOW w AS (PARTITION BY e.account_id ORDER BY e.created_at, e.is_charge, e.id);
ANALYZE adopt_entries;

-- stage: looking for entries that cannot stay as they are
-- An idempotency key may belong to one entry of an account only. Where accounts are merged, the
-- first entry with the key keeps it. An entry must say what it did to the balance, and its time
-- must not lie in the future.
CREATE TEMPORARY TABLE adopt_changes ON COMMIT DROP AS
SELECT k.is_charge, k.id, 'key' AS reason
FROM (
    SELECT
        e.is_charge, e.id,
        row_number() OVER (
            PARTITION BY e.is_charge, e.account_id, e.idempotency_key
            ORDER BY e.created_at, e.id
        ) AS place
    FROM (
        SELECT true AS is_charge, c.id, m.account_id, c.idempotency_key, c.created_at
        FROM public.charges AS c
        INNER JOIN (
            SELECT t.id, t.account_id FROM adopt_merged AS t
            UNION ALL
            SELECT g.account_id, g.account_id FROM adopt_groups AS g
        ) AS m ON m.id = c.account_id
        WHERE c.idempotency_key <> ''
        UNION ALL
        SELECT false, c.id, m.account_id, c.idempotency_key, c.created_at
        FROM public.credits AS c
        INNER JOIN (
            SELECT t.id, t.account_id FROM adopt_merged AS t
            UNION ALL
            SELECT g.account_id, g.account_id FROM adopt_groups AS g
        ) AS m ON m.id = c.account_id
        WHERE c.idempotency_key <> ''
    ) AS e
) AS k
WHERE k.place > 1;
INSERT INTO adopt_changes (is_charge, id, reason)
SELECT true, c.id, r.reason
FROM public.charges AS c
CROSS JOIN LATERAL (
    VALUES
    (
        c.balance_after < 0
        OR c.balance_after NOT IN (c.balance_before, c.balance_before - c.amount_minor),
        'figures'
    ),
    (c.created_at > now(), 'time'),
    (c.idempotency_key = '', 'empty key')
) AS r (is_so, reason)
WHERE (
        c.balance_after < 0
        OR c.balance_after NOT IN (c.balance_before, c.balance_before - c.amount_minor)
        OR c.created_at > now()
        OR c.idempotency_key = ''
    )
    AND r.is_so;
INSERT INTO adopt_changes (is_charge, id, reason)
SELECT false, c.id, r.reason
FROM public.credits AS c
CROSS JOIN LATERAL (
    VALUES
    (c.balance_before < 0, 'figures'), (c.created_at > now(), 'time'),
    (c.idempotency_key = '', 'empty key')
) AS r (is_so, reason)
WHERE (c.balance_before < 0 OR c.created_at > now() OR c.idempotency_key = '') AND r.is_so;
ANALYZE adopt_changes;

-- stage: finding where each account's books begin
-- Every account that has more than free uses gets an opening. It says what the account has, after
-- which entry, and why.
CREATE TEMPORARY TABLE adopt_openings ON COMMIT DROP AS
WITH books AS (
    SELECT
        e.account_id, count(*) AS entries, bool_and(e.continues) AS is_chain,
        max(e.balance_after) FILTER (WHERE e.is_newest) AS balance_after
    FROM adopt_entries AS e
    GROUP BY e.account_id
)
SELECT
    a.id AS account_id,
    coalesce(b.entries, 0) AS ledger_version,
    t.paid_credits,
    t.total_uses,
    t.free_uses,
    CASE
        WHEN b.entries IS NULL THEN 'no_entries'
        WHEN NOT b.is_chain THEN 'no_chain'
        WHEN b.balance_after <> t.paid_credits THEN 'other_balance'
        ELSE 'agrees'
    END AS reason
FROM public.accounts AS a
LEFT JOIN adopt_groups AS g ON g.account_id = a.id
LEFT JOIN books AS b ON b.account_id = a.id
CROSS JOIN LATERAL (  -- noqa: ST05
    SELECT
        coalesce(g.paid_credits, a.paid_credits) AS paid_credits,
        coalesce(g.total_uses, a.total_uses) AS total_uses,
        coalesce(g.free_uses_remaining, a.free_uses_remaining) AS free_uses
) AS t
WHERE a.id NOT IN (SELECT m.id FROM adopt_merged AS m)
    AND (b.entries IS NOT NULL OR t.paid_credits > 0 OR t.total_uses > 0);
ANALYZE adopt_openings;
