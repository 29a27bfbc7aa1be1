-- Views for analysts. They contain no identity, no e-mail address, and no free text that a person
-- may have typed.

CREATE OR REPLACE VIEW billing.account_balances AS
SELECT
    a.id AS account_id,
    a.plan_name,
    a.status,
    a.currency,
    a.free_uses_remaining,
    a.paid_credits,
    a.total_uses,
    a.ledger_version,
    a.marketing_opt_in,
    a.created_at
FROM billing_data.accounts AS a;
COMMENT ON VIEW billing.account_balances IS
    'One row an account: balances and state, no identity. For billing_analyst and billing_dba.';
GRANT SELECT ON billing.account_balances TO billing_analyst, billing_dba;

CREATE OR REPLACE VIEW billing.ledger AS
SELECT
    c.account_id,
    c.ledger_version,
    'charge' AS type,
    c.id AS transaction_id,
    -c.amount_minor AS amount_minor,
    CASE c.paid_with WHEN 'paid' THEN -c.amount_minor ELSE 0 END AS balance_change,
    c.balance_after,
    c.currency,
    c.paid_with,
    NULL::text AS transaction_type,
    c.created_at,
    CASE c.paid_with WHEN 'free' THEN -1 ELSE 0 END::bigint AS free_uses_change,
    NULL::uuid AS corrects_id,
    NULL::uuid AS transfer_id
FROM billing_data.charges AS c
UNION ALL
SELECT
    c.account_id,
    c.ledger_version,
    'credit',
    c.id,
    c.amount_minor,
    c.amount_minor,
    c.balance_after,
    c.currency,
    NULL,
    c.transaction_type::text,
    c.created_at,
    coalesce(c.free_uses, 0),
    coalesce(c.corrects_charge_id, c.corrects_credit_id),
    c.transfer_id
FROM billing_data.credits AS c;
COMMENT ON VIEW billing.ledger IS
    'Every charge and credit, no identity and no free text. For billing_analyst and billing_dba.';
GRANT SELECT ON billing.ledger TO billing_analyst, billing_dba;

CREATE OR REPLACE VIEW billing.daily_usage AS
SELECT
    (l.created_at AT TIME ZONE 'UTC')::date AS day,
    count(*) FILTER (WHERE l.type = 'charge') AS charges,
    count(*) FILTER (WHERE l.paid_with = 'free') AS free_charges,
    count(*) FILTER (WHERE l.type = 'credit') AS credits,
    coalesce(sum(-l.amount_minor) FILTER (WHERE l.paid_with = 'paid'), 0) AS credits_used,
    coalesce(sum(l.amount_minor) FILTER (WHERE l.type = 'credit' AND l.amount_minor > 0), 0)
        AS credits_added,
    coalesce(sum(-l.amount_minor) FILTER (WHERE l.type = 'credit' AND l.amount_minor < 0), 0)
        AS credits_taken_back,
    -- Users are accounts that were charged; accounts that only bought are not counted.
    count(DISTINCT l.account_id) FILTER (WHERE l.type = 'charge') AS unique_accounts
FROM billing.ledger AS l
GROUP BY 1;
COMMENT ON VIEW billing.daily_usage IS
    'Charges and credits by UTC day; reads the whole ledger. For billing_analyst and billing_dba.';
GRANT SELECT ON billing.daily_usage TO billing_analyst, billing_dba;
