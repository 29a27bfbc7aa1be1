-- Carries the rows of the old tables over into ours, as plan.sql worked out. The old tables have
-- been moved to schema legacy_service. Each section begins with a line that names it. The line may
-- also name a table or a column that the section needs and that not every revision has.
-- stage: carrying over accounts
INSERT INTO billing_data.accounts (
    id, oauth_provider, external_id, wa_id, tenant_id, balance_minor, currency, plan_name, status,
    created_at, updated_at, free_uses_remaining, free_uses_granted, total_uses, marketing_opt_in,
    marketing_opt_in_at, marketing_opt_in_source, user_role, agent_id, customer_email,
    paid_credits, ledger_version
)
SELECT
    a.id, a.oauth_provider, a.external_id, a.wa_id, a.tenant_id,
    -- Later revisions kept a copy of paid_credits in balance_minor.
    CASE
        WHEN current_setting('adopt.balance_is_copy')::boolean AND a.balance_minor = a.paid_credits
            THEN 0
        ELSE a.balance_minor
    END,
    upper(a.currency),
    coalesce(g.plan_name, a.plan_name),
    coalesce(g.status, a.status),
    a.created_at,
    coalesce(g.updated_at, a.updated_at),
    coalesce(g.free_uses_remaining, a.free_uses_remaining),
    coalesce(g.free_uses_remaining, a.free_uses_remaining),
    coalesce(g.total_uses, a.total_uses),
    coalesce(g.marketing_opt_in, a.marketing_opt_in, false),
    CASE WHEN g.account_id IS NULL THEN a.marketing_opt_in_at ELSE g.marketing_opt_in_at END,
    CASE
        WHEN g.account_id IS NULL THEN a.marketing_opt_in_source
        ELSE g.marketing_opt_in_source
    END,
    coalesce(g.user_role, a.user_role),
    coalesce(g.agent_id, a.agent_id),
    coalesce(g.customer_email, a.customer_email),
    coalesce(g.paid_credits, a.paid_credits),
    coalesce(o.ledger_version, 0)
FROM legacy_service.accounts AS a
LEFT JOIN adopt_groups AS g ON g.account_id = a.id
LEFT JOIN adopt_openings AS o ON o.account_id = a.id
WHERE a.id NOT IN (SELECT m.id FROM adopt_merged AS m);

INSERT INTO billing_data.merge_ranks (account_id, rank)
SELECT m.id, 1 FROM adopt_merged AS m
UNION
SELECT m.account_id, 2 FROM adopt_merged AS m;
INSERT INTO billing_data.merged_accounts (id, account_id)
SELECT m.id, m.account_id FROM adopt_merged AS m;

-- Keeps the accounts of one identity as they were before they were merged, with the one that stays.
CREATE TABLE legacy_service.accounts_before_merging AS
SELECT a.*, coalesce(m.account_id, a.id) AS merged_into  -- noqa: AM04
FROM legacy_service.accounts AS a
LEFT JOIN adopt_merged AS m ON m.id = a.id
WHERE m.id IS NOT NULL OR a.id IN (SELECT g.account_id FROM adopt_groups AS g);

-- stage: carrying over charges
INSERT INTO billing_data.charges (
    id, account_id, amount_minor, currency, balance_before, balance_after, description,
    idempotency_key, metadata_message_id, metadata_agent_id, metadata_channel_id,
    metadata_request_id, created_at, ledger_version, paid_with, database_role
)
SELECT
    c.id, e.account_id, c.amount_minor, c.currency,
    CASE
        WHEN e.is_free THEN greatest(c.balance_after, 0)
        ELSE greatest(c.balance_after, 0) + c.amount_minor
    END,
    greatest(c.balance_after, 0),
    c.description,
    CASE WHEN e.has_key AND k.id IS NULL THEN c.idempotency_key END,
    c.metadata_message_id, c.metadata_agent_id, c.metadata_channel_id, c.metadata_request_id,
    least(c.created_at, now()), e.ledger_version,
    CASE WHEN e.is_free THEN 'free' ELSE 'paid' END,
    'legacy'
FROM legacy_service.charges AS c
INNER JOIN adopt_entries AS e ON e.id = c.id AND e.is_charge
LEFT JOIN adopt_changes AS k ON k.id = c.id AND k.is_charge AND k.reason = 'key';

-- stage: carrying over credits
INSERT INTO billing_data.credits (
    id, account_id, amount_minor, currency, balance_before, balance_after, transaction_type,
    description, external_transaction_id, idempotency_key, created_at, ledger_version,
    database_role
)
SELECT
    c.id, e.account_id, c.amount_minor, c.currency, greatest(c.balance_before, 0),
    greatest(c.balance_before, 0) + c.amount_minor, c.transaction_type, c.description,
    c.external_transaction_id, CASE WHEN e.has_key AND k.id IS NULL THEN c.idempotency_key END,
    least(c.created_at, now()), e.ledger_version, 'legacy'
FROM legacy_service.credits AS c
INNER JOIN adopt_entries AS e ON e.id = c.id AND NOT e.is_charge
LEFT JOIN adopt_changes AS k ON k.id = c.id AND NOT k.is_charge AND k.reason = 'key'
ORDER BY c.created_at, c.id;

-- Keeps the entries that had to be changed, as they were before.
CREATE TABLE legacy_service.changed_entries AS
SELECT k.reason, 'charge' AS kind, c.id, to_jsonb(c) AS entry
FROM adopt_changes AS k
INNER JOIN legacy_service.charges AS c ON c.id = k.id
WHERE k.is_charge
UNION ALL
SELECT k.reason, 'credit', c.id, to_jsonb(c)
FROM adopt_changes AS k
INNER JOIN legacy_service.credits AS c ON c.id = k.id
WHERE NOT k.is_charge;

-- stage: opening the books
INSERT INTO billing_data.ledger_openings (
    account_id, ledger_version, paid_credits, total_uses, free_uses, reason
)
SELECT
    o.account_id, o.ledger_version, o.paid_credits, o.total_uses, o.free_uses, o.reason
FROM adopt_openings AS o;

-- stage: carrying over checks
-- Each month of checks gets a partition of its own, also for checks that name no account: a
-- partition is dropped when its time is over.
DO $$
DECLARE
    v_start timestamp;
    v_name text;
BEGIN
    FOR v_start IN
        SELECT generate_series(
            greatest(
                date_trunc('month', min(c.created_at) AT TIME ZONE 'UTC'),
                date_trunc('month', now() AT TIME ZONE 'UTC') - interval '10 years'
            ),
            date_trunc('month', now() AT TIME ZONE 'UTC'), interval '1 month'
        )
        FROM legacy_service.credit_checks AS c
    LOOP
        v_name := 'credit_checks_' || to_char(v_start, 'YYYY_MM');
        EXECUTE format(
            'CREATE TABLE billing_data.%I PARTITION OF billing_data.credit_checks
                FOR VALUES FROM (%L) TO (%L)',
            v_name, v_start || '+00', v_start + interval '1 month' || '+00'
        );
        EXECUTE format('ALTER TABLE billing_data.%I OWNER TO billing_owner', v_name);
    END LOOP;
END
$$;
INSERT INTO billing_data.credit_checks (
    id, account_id, oauth_provider, external_id, wa_id, tenant_id, has_credit, credits_remaining,
    plan_name, denial_reason, context_agent_id, context_channel_id, context_request_id,
    database_role, created_at
)
SELECT
    c.id, coalesce(m.account_id, c.account_id), c.oauth_provider, c.external_id, c.wa_id,
    c.tenant_id, c.has_credit, c.credits_remaining, c.plan_name, c.denial_reason,
    c.context_agent_id, c.context_channel_id, c.context_request_id, 'legacy', c.created_at
FROM legacy_service.credit_checks AS c
LEFT JOIN adopt_merged AS m ON m.id = c.account_id
ORDER BY c.created_at;

-- stage: carrying over keys and staff
INSERT INTO billing_data.admin_users (
    id, email, full_name, role, is_active, created_at, last_login_at, google_id, picture_url
)
SELECT
    u.id,
    -- Staff are found by their address in small letters. Where two addresses differ in capitals
    -- only, the account that signed in last gets the address in small letters.
    CASE
        WHEN row_number() OVER (
            PARTITION BY lower(u.email) ORDER BY u.last_login_at DESC NULLS LAST, u.id
        ) = 1 THEN lower(u.email)
        ELSE u.email
    END,
    u.full_name, u.role, u.is_active, u.created_at, u.last_login_at, u.google_id, u.picture_url
FROM legacy_service.admin_users AS u;

INSERT INTO billing_data.api_keys (
    id, key_hash, key_prefix, name, description, environment, permissions, created_by, created_at,
    expires_at, last_used_at, last_used_ip, status, metadata, rotated_to
)
SELECT
    k.id, k.key_hash, k.key_prefix, k.name, left(k.description, 1000), k.environment,
    k.permissions[1:50], k.created_by, k.created_at, v.expires_at, k.last_used_at, k.last_used_ip,
    v.status, k.metadata, v.rotated_to
FROM legacy_service.api_keys AS k
INNER JOIN adopt_keys AS v ON v.id = k.id;

-- Replaces secrets in the audit log, so that nobody can read them there or in the message about a
-- row that fails.
CREATE FUNCTION pg_temp.adopt_without_secrets(p_changes jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_text text := p_changes::text;
    v_secret text;
BEGIN
    FOR v_secret IN
        SELECT btrim(to_jsonb(s.value #>> '{}')::text, '"')
        FROM legacy_service.provider_configs AS c
        CROSS JOIN LATERAL jsonb_path_query(c.config_data, 'strict $.**') AS s (value)
        WHERE jsonb_typeof(s.value) = 'string'
            AND length(s.value #>> '{}') >= 12
            AND NOT starts_with(s.value #>> '{}', 'pk_')
    LOOP
        v_text := replace(v_text, v_secret, '…');
    END LOOP;
    RETURN v_text::jsonb;
END
$$;
-- Old rows do not say which login wrote them.
INSERT INTO billing_data.admin_audit_logs (
    id, admin_user_id, action, resource_type, resource_id, changes, ip_address, user_agent,
    created_at, database_login
)
SELECT
    l.id, l.admin_user_id, l.action, l.resource_type, l.resource_id,
    pg_temp.adopt_without_secrets(l.changes), l.ip_address, l.user_agent, l.created_at, NULL
FROM legacy_service.admin_audit_logs AS l;

-- stage: keeping daily free uses; needs accounts.daily_free_uses_limit
CREATE TABLE legacy_service.daily_free_uses AS
SELECT
    a.id AS account_id, a.daily_free_uses_remaining, a.daily_free_uses_reset_at,
    a.daily_free_uses_limit
FROM legacy_service.accounts AS a;
-- stage: keeping display names; needs accounts.display_name
CREATE TABLE legacy_service.display_names AS
SELECT a.id AS account_id, a.display_name
FROM legacy_service.accounts AS a
WHERE a.display_name IS NOT NULL;
-- stage: keeping the marks of test purchases; needs credits.is_test
CREATE TABLE legacy_service.test_credits AS
SELECT c.id AS credit_id FROM legacy_service.credits AS c WHERE c.is_test;
