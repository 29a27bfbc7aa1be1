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

-- One account's part of it is a range of the indexes of ledger versions. writer and reason are for
-- DBAs: they may name people.
CREATE OR REPLACE VIEW billing.ledger AS
SELECT
    e.account_id,
    e.ledger_version,
    e.type,
    e.transaction_id,
    e.amount_minor,
    e.balance_change,
    e.balance_after,
    e.currency,
    e.paid_with,
    e.transaction_type,
    e.created_at,
    e.free_uses_change,
    e.corrects_id,
    e.transfer_id,
    -- As billing_data.writer_kind and writer_name say, which readers of the view may not call.
    CASE
        WHEN e.api_key_id IS NOT NULL THEN 'api_key'
        WHEN e.admin_user_id IS NOT NULL THEN 'staff'
        WHEN e.payment_provider IS NOT NULL THEN 'payment_provider'
        WHEN e.database_role = 'legacy' AND e.request_fingerprint IS NULL
            AND get_byte(uuid_send(e.transaction_id), 6) >> 4 <> 7 THEN 'old_service'
        ELSE 'database'
    END AS writer_kind,
    CASE
        WHEN (SELECT pg_has_role('billing_dba', 'MEMBER')) THEN coalesce(
            k.name || ' (' || k.key_prefix || ')', u.email, e.payment_provider, e.database_role
        )
    END AS writer,
    CASE
        WHEN (SELECT pg_has_role('billing_dba', 'MEMBER')) THEN e.description::text
    END AS reason
FROM (
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
        NULL::uuid AS transfer_id,
        c.description,
        c.api_key_id,
        c.admin_user_id,
        NULL::text AS payment_provider,
        c.database_role,
        c.request_fingerprint
    FROM billing_data.charges AS c
    WHERE c.ledger_version > 0  -- every entry's is; the condition of the index
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
        c.transfer_id,
        c.description,
        c.api_key_id,
        c.admin_user_id,
        c.payment_provider,
        c.database_role,
        c.request_fingerprint
    FROM billing_data.credits AS c
    WHERE c.ledger_version > 0
) AS e
LEFT JOIN billing_data.api_keys AS k ON k.id = e.api_key_id
LEFT JOIN billing_data.admin_users AS u ON u.id = e.admin_user_id;
COMMENT ON VIEW billing.ledger IS
    'Every charge and credit, no identity and no free text; for DBAs also writer and reason. '
    'For billing_analyst and billing_dba.';
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
