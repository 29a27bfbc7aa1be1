-- Counts in our tables what adoption has left, by the rules of forecast.sql.
WITH accounts_after AS (
    SELECT
        count(*) AS accounts, coalesce(sum(a.paid_credits), 0) AS paid_credits,
        coalesce(sum(a.total_uses), 0) AS total_uses,
        coalesce(sum(a.free_uses_remaining), 0) AS free_uses,
        count(*) FILTER (WHERE a.marketing_opt_in) AS consents,
        count(*) FILTER (WHERE a.currency <> upper(a.currency)) AS small_currencies,
        count(*) FILTER (WHERE a.balance_minor <> 0) AS balances_minor,
        count(*) FILTER (WHERE a.status <> 'active') AS inactive
    FROM billing_data.accounts AS a
),
charges AS (
    SELECT
        count(*) AS charges, count(*) FILTER (WHERE c.paid_with = 'free') AS free_charges,
        count(c.idempotency_key) AS keys,
        count(*) FILTER (WHERE c.idempotency_key = '') AS empty_keys,
        count(*) FILTER (
            WHERE c.balance_after < 0
                OR c.balance_after NOT IN (c.balance_before, c.balance_before - c.amount_minor)
        ) AS figures,
        count(*) FILTER (WHERE c.created_at > now()) AS times
    FROM billing_data.charges AS c
),
credits AS (
    SELECT
        count(*) AS credits, count(c.idempotency_key) AS keys,
        count(*) FILTER (WHERE c.idempotency_key = '') AS empty_keys,
        count(*) FILTER (WHERE c.balance_before < 0) AS figures,
        count(*) FILTER (WHERE c.created_at > now()) AS times
    FROM billing_data.credits AS c
),
checks AS (
    SELECT count(*) AS checks, count(*) FILTER (WHERE c.account_id IS NULL) AS unknown
    FROM billing_data.credit_checks AS c
),
keys AS (
    SELECT
        count(*) AS keys,
        count(*) FILTER (
            WHERE k.status = 'active' AND (k.expires_at > now()) IS NOT FALSE
        ) AS active,
        count(*) FILTER (WHERE k.status = 'active' AND k.expires_at <= now()) AS expired,
        count(*) FILTER (WHERE k.status = 'rotating') AS rotating,
        count(*) FILTER (WHERE k.status = 'revoked') AS revoked
    FROM billing_data.api_keys AS k
),
staff AS (
    SELECT
        count(*) FILTER (WHERE u.role = 'admin') AS admins,
        count(*) FILTER (WHERE u.role <> 'admin') AS viewers,
        count(*) FILTER (WHERE NOT u.is_active) AS inactive,
        count(*) FILTER (WHERE u.google_id IS NOT NULL) AS google_ids
    FROM billing_data.admin_users AS u
),
openings AS (
    SELECT
        count(*) FILTER (WHERE o.reason = 'agrees') AS agrees,
        count(*) FILTER (WHERE o.reason = 'no_chain') AS no_chain,
        count(*) FILTER (WHERE o.reason = 'other_balance') AS other_balance,
        count(*) FILTER (WHERE o.reason = 'no_entries') AS no_entries
    FROM billing_data.ledger_openings AS o
)
SELECT r.rule, r.found::numeric
FROM accounts_after AS a
CROSS JOIN charges AS h
CROSS JOIN credits AS d
CROSS JOIN checks AS c
CROSS JOIN keys AS k
CROSS JOIN staff AS s
CROSS JOIN openings AS o
CROSS JOIN LATERAL (  -- noqa: ST05
    VALUES
    ('accounts', a.accounts),
    ('accounts merged into another one of their identity',
        (SELECT count(*) FROM billing_data.merged_accounts)),
    ('paid credits', a.paid_credits),
    ('uses', a.total_uses),
    ('free uses left', a.free_uses),
    ('accounts that are suspended or closed', a.inactive),
    ('accounts with a consent', a.consents),
    ('accounts with a currency in small letters', a.small_currencies),
    ('accounts with a figure in balance_minor', a.balances_minor),
    ('charges', h.charges),
    ('charges paid with a free use', h.free_charges),
    ('credits', d.credits),
    ('idempotency keys of charges', h.keys),
    ('idempotency keys of credits', d.keys),
    ('empty idempotency keys', h.empty_keys + d.empty_keys),
    ('entries with figures that contradict each other', h.figures + d.figures),
    ('entries with a time to come', h.times + d.times),
    ('openings of accounts whose entries agree with their balance', o.agrees),
    ('openings of accounts whose entries end at another balance', o.other_balance),
    ('openings of accounts whose entries do not chain', o.no_chain),
    ('openings of accounts with something that no entry explains', o.no_entries),
    ('payments credited', (
        SELECT count(*) FROM billing_data.purchases AS p WHERE p.settled_at IS NOT NULL
    )),
    ('checks', c.checks),
    ('checks without an account', c.unknown),
    ('API keys', k.keys),
    ('API keys that work', k.active),
    ('API keys that have expired', k.expired),
    ('API keys that are replaced and work until their grace ends', k.rotating),
    ('API keys that are revoked', k.revoked),
    ('administrators', s.admins),
    ('viewers', s.viewers),
    ('staff who are inactive', s.inactive),
    ('staff with a Google account', s.google_ids),
    ('rows of the audit log', (SELECT count(*) FROM billing_data.admin_audit_logs)),
    ('payment providers with settings in clear text', (
        SELECT count(*)
        FROM billing_data.provider_configs AS f
        WHERE EXISTS (
            SELECT
            FROM jsonb_each(f.config_data) AS e (name, value)
            WHERE e.name <> 'publishable_key' AND NOT billing_data.is_sealed(e.value)
                AND jsonb_typeof(e.value) <> 'array'
        )
    ))
) AS r (rule, found)
