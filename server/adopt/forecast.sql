-- For each rule: what adoption finds, and what it will leave. outcome.sql counts by the same rules
-- in our tables. `found` is NULL where the old database has nothing of the kind.
WITH kept AS (
    SELECT
        a.balance_minor <> 0 AND NOT (
            current_setting('adopt.balance_is_copy')::boolean AND a.balance_minor = a.paid_credits
        ) AS has_balance_minor,
        coalesce(g.free_uses_remaining, a.free_uses_remaining) AS free_uses,
        coalesce(g.marketing_opt_in, a.marketing_opt_in, false) AS has_consent,
        coalesce(g.status, a.status) AS status
    FROM public.accounts AS a
    LEFT JOIN adopt_groups AS g ON g.account_id = a.id
    WHERE a.id NOT IN (SELECT m.id FROM adopt_merged AS m)
),
accounts_before AS (
    SELECT
        count(*) AS accounts, coalesce(sum(a.paid_credits), 0) AS paid_credits,
        coalesce(sum(a.total_uses), 0) AS total_uses,
        coalesce(sum(a.free_uses_remaining), 0) AS free_uses,
        count(*) FILTER (WHERE a.marketing_opt_in) AS consents,
        count(*) FILTER (WHERE a.currency <> upper(a.currency)) AS small_currencies,
        count(*) FILTER (WHERE a.balance_minor <> 0) AS balances_minor,
        count(*) FILTER (WHERE a.status <> 'active') AS inactive
    FROM public.accounts AS a
),
accounts_after AS (
    SELECT
        count(*) AS accounts, coalesce(sum(k.free_uses), 0) AS free_uses,
        count(*) FILTER (WHERE k.has_consent) AS consents,
        count(*) FILTER (WHERE k.has_balance_minor) AS balances_minor,
        count(*) FILTER (WHERE k.status <> 'active') AS inactive
    FROM kept AS k
),
entries AS (
    SELECT
        count(*) FILTER (WHERE e.is_charge) AS charges,
        count(*) FILTER (WHERE NOT e.is_charge) AS credits,
        count(*) FILTER (WHERE e.is_free) AS free_charges,
        count(*) FILTER (WHERE e.is_charge AND e.has_key) AS charge_keys,
        count(*) FILTER (WHERE NOT e.is_charge AND e.has_key) AS credit_keys
    FROM adopt_entries AS e
),
changes AS (
    SELECT
        count(*) FILTER (WHERE c.reason = 'key' AND c.is_charge) AS charge_keys,
        count(*) FILTER (WHERE c.reason = 'key' AND NOT c.is_charge) AS credit_keys,
        count(*) FILTER (WHERE c.reason = 'empty key') AS empty_keys,
        count(*) FILTER (WHERE c.reason = 'figures') AS figures,
        count(*) FILTER (WHERE c.reason = 'time') AS times
    FROM adopt_changes AS c
),
payments AS (
    SELECT count(*) AS credits, count(DISTINCT c.external_transaction_id) AS payments
    FROM public.credits AS c
    LEFT JOIN adopt_changes AS k ON k.id = c.id AND NOT k.is_charge AND k.reason = 'key'
    WHERE k.id IS NULL
        AND starts_with(c.external_transaction_id, 'pi_')
        AND c.transaction_type = 'purchase'
        AND c.idempotency_key = 'stripe-' || c.external_transaction_id
),
checks AS (
    SELECT count(*) AS checks, count(*) FILTER (WHERE c.account_id IS NULL) AS unknown
    FROM public.credit_checks AS c
),
keys AS (
    SELECT
        count(*) AS keys,
        count(*) FILTER (
            WHERE k.status = 'active' AND (k.expires_at > now()) IS NOT FALSE
        ) AS active,
        count(*) FILTER (WHERE k.status = 'active' AND k.expires_at <= now()) AS expired,
        count(*) FILTER (WHERE k.status = 'rotating') AS rotating,
        count(*) FILTER (WHERE k.status = 'revoked') AS revoked,
        count(*) FILTER (WHERE v.status = 'rotating') AS still_rotating,
        count(*) FILTER (WHERE v.status = 'revoked') AS revoked_after
    FROM public.api_keys AS k
    INNER JOIN adopt_keys AS v ON v.id = k.id
),
staff AS (
    SELECT
        count(*) FILTER (WHERE u.role = 'admin') AS admins,
        count(*) FILTER (WHERE u.role <> 'admin') AS viewers,
        count(*) FILTER (WHERE NOT u.is_active) AS inactive,
        count(*) FILTER (WHERE u.google_id IS NOT NULL) AS google_ids
    FROM public.admin_users AS u
),
openings AS (
    SELECT
        count(*) FILTER (WHERE o.reason = 'agrees') AS agrees,
        count(*) FILTER (WHERE o.reason = 'no_chain') AS no_chain,
        count(*) FILTER (WHERE o.reason = 'other_balance') AS other_balance,
        count(*) FILTER (WHERE o.reason = 'no_entries') AS no_entries
    FROM adopt_openings AS o
)
SELECT r.rule, r.found::numeric, r.expected::numeric
FROM accounts_before AS b
CROSS JOIN accounts_after AS a
CROSS JOIN entries AS e
CROSS JOIN changes AS x
CROSS JOIN payments AS p
CROSS JOIN checks AS c
CROSS JOIN keys AS k
CROSS JOIN staff AS s
CROSS JOIN openings AS o
CROSS JOIN LATERAL (  -- noqa: ST05
    VALUES
    ('accounts', b.accounts, a.accounts),
    ('accounts merged into another one of their identity', NULL, b.accounts - a.accounts),
    ('paid credits', b.paid_credits, b.paid_credits),
    ('uses', b.total_uses, b.total_uses),
    ('free uses left', b.free_uses, a.free_uses),
    ('accounts that are suspended or closed', b.inactive, a.inactive),
    ('accounts with a consent', b.consents, a.consents),
    ('accounts with a currency in small letters', b.small_currencies, 0),
    ('accounts with a figure in balance_minor', b.balances_minor, a.balances_minor),
    ('charges', e.charges, e.charges),
    ('charges paid with a free use', e.free_charges, e.free_charges),
    ('credits', e.credits, e.credits),
    ('idempotency keys of charges', e.charge_keys, e.charge_keys - x.charge_keys),
    ('idempotency keys of credits', e.credit_keys, e.credit_keys - x.credit_keys),
    ('empty idempotency keys', x.empty_keys, 0),
    ('entries with figures that contradict each other', x.figures, 0),
    ('entries with a time to come', x.times, 0),
    ('openings of accounts whose entries agree with their balance', NULL, o.agrees),
    ('openings of accounts whose entries end at another balance', NULL, o.other_balance),
    ('openings of accounts whose entries do not chain', NULL, o.no_chain),
    ('openings of accounts with something that no entry explains', NULL, o.no_entries),
    ('payments credited', p.credits, p.payments),
    ('checks', c.checks, c.checks),
    ('checks without an account', c.unknown, c.unknown),
    ('API keys', k.keys, k.keys),
    ('API keys that work', k.active, k.active),
    ('API keys that have expired', k.expired, k.expired),
    ('API keys that are replaced and work until their grace ends', k.rotating, k.still_rotating),
    ('API keys that are revoked', k.revoked, k.revoked_after),
    ('administrators', s.admins, s.admins),
    ('viewers', s.viewers, s.viewers),
    ('staff who are inactive', s.inactive, s.inactive),
    ('staff with a Google account', s.google_ids, s.google_ids),
    ('rows of the audit log', (SELECT count(*) FROM public.admin_audit_logs),
        (SELECT count(*) FROM public.admin_audit_logs)),
    ('payment providers with settings in clear text',
        (SELECT count(*) FROM public.provider_configs AS f WHERE f.config_data <> '{}'), 0)
) AS r (rule, found, expected)
