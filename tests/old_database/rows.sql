-- The rows of an old database, the same for the same seed. The class of an account, its number
-- modulo 350, says which irregularity it has: the sample that this follows had six accounts in 350
-- with a balance that no row explains. The settings old.accounts, old.charges, old.seed and
-- old.has_duplicates say what to make.
CREATE FUNCTION pg_temp.old_id(p_kind text, p_number bigint) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN overlay(overlay(
    md5(p_kind || ':' || p_number || ':' || current_setting('old.seed')) PLACING '4' FROM 13
) PLACING 'a' FROM 17)::uuid;

CREATE TEMPORARY TABLE old_plan AS
SELECT
    n.number,
    n.class,
    pg_temp.old_id('account', n.number) AS id,
    -- Classes 41, 43 and 44 repeat the identities of 40 and 42.
    CASE
        WHEN NOT current_setting('old.has_duplicates')::boolean THEN n.number
        WHEN n.class IN (41, 43) THEN n.number - 1
        WHEN n.class = 44 THEN n.number - 2
        ELSE n.number
    END AS identity,
    CASE WHEN n.class IN (1, 2, 3) OR n.class % 10 = 9 THEN 0 END AS uses,
    timestamptz '2025-10-09 08:00:00+00' + n.number % 29 * interval '1 day'
    + n.number % 86400 * interval '1 second' AS created_at,
    (hashint8extended(n.number, current_setting('old.seed')::bigint) & 1023) AS roll
FROM (
    SELECT i AS number, (i - 1) % 350 AS class
    FROM generate_series(1, current_setting('old.accounts')::bigint) AS i
) AS n;

CREATE TEMPORARY TABLE old_active AS
SELECT p.id, row_number() OVER (ORDER BY p.number) - 1 AS place
FROM old_plan AS p
WHERE p.uses IS NULL;

UPDATE old_plan AS p
SET uses = m.per_account + (a.place < m.rest)::integer
FROM old_active AS a
CROSS JOIN (
    SELECT
        current_setting('old.charges')::bigint / greatest(count(*), 1) AS per_account,
        current_setting('old.charges')::bigint % greatest(count(*), 1) AS rest
    FROM old_active AS t
) AS m
WHERE a.id = p.id;

-- Free uses come first, then packs are bought: as many as the charges need, and one more for some.
ALTER TABLE old_plan ADD COLUMN packs bigint, ADD COLUMN paid_uses bigint;
UPDATE old_plan AS p
SET paid_uses = greatest(p.uses - 3, 0),
    packs = ceil(greatest(p.uses - 3, 0) / 20.0) + (p.roll % 2)
WHERE p.uses > 0;
UPDATE old_plan AS p SET paid_uses = 0, packs = 0 WHERE p.uses = 0;
CREATE UNIQUE INDEX old_plan_id ON old_plan (id);
ANALYZE old_plan;

INSERT INTO public.accounts (
    id, oauth_provider, external_id, wa_id, tenant_id, balance_minor, currency, plan_name, status,
    created_at, updated_at, free_uses_remaining, total_uses, marketing_opt_in, marketing_opt_in_at,
    marketing_opt_in_source, user_role, agent_id, customer_email, paid_credits
)
SELECT
    p.id,
    'oauth:' || (ARRAY['google', 'discord', 'wa', 'api'])[1 + p.identity % 4],
    'user-' || p.identity,
    -- Clients send different wa_id values for one user; NULLs let duplicates in.
    CASE WHEN p.identity <> p.number OR p.class % 3 = 0 THEN NULL ELSE 'wa-' || p.number END,
    CASE WHEN p.class % 7 = 0 THEN 'tenant-' || p.number % 5 END,
    CASE p.class WHEN 56 THEN 77 ELSE 0 END,
    CASE
        WHEN p.class IN (43, 52) THEN 'EUR'
        WHEN p.class = 53 THEN 'usd'
        WHEN p.class = 54 THEN 'XXX'
        ELSE 'USD'
    END,
    CASE p.class WHEN 55 THEN 'pro' ELSE 'free' END,
    CASE
        WHEN p.class IN (44, 50) THEN 'suspended'
        WHEN p.class = 51 THEN 'closed'
        ELSE 'active'
    END,
    p.created_at,
    p.created_at + p.uses * interval '1 hour' + p.class * interval '1 minute',
    -- The default was 3 and later 10.
    CASE p.class WHEN 31 THEN 10 ELSE greatest(3 - p.uses, 0) END,
    -- Before step 0007 a free use was counted and left no row.
    p.uses + CASE p.class WHEN 30 THEN 2 WHEN 39 THEN 3 ELSE 0 END,
    p.class IN (40, 60, 62),
    CASE WHEN p.class IN (40, 61, 62) THEN p.created_at END,
    CASE WHEN p.class IN (61, 62) THEN 'app' END,
    CASE p.class % 5 WHEN 0 THEN 'observer' END,
    CASE p.class % 6 WHEN 0 THEN 'agent-' || p.class END,
    CASE WHEN p.class % 3 <> 0 THEN 'User-' || p.number || '@example.com' END,
    greatest(
        0,
        20 * p.packs - p.paid_uses
        -- Given at creation: no row explains it.
        + CASE WHEN p.class BETWEEN 1 AND 6 THEN 50 ELSE 0 END
        -- Lost in a race: the rows say one more or less.
        + CASE p.class WHEN 7 THEN -1 WHEN 8 THEN 1 ELSE 0 END
    )
FROM old_plan AS p;

-- Accounts of classes 10 to 29 wrote cents: their rows continue each other and do not agree with
-- paid_credits.
INSERT INTO public.charges (
    id, account_id, amount_minor, currency, balance_before, balance_after, description,
    idempotency_key, metadata_message_id, metadata_agent_id, metadata_channel_id,
    metadata_request_id, created_at
)
SELECT
    pg_temp.old_id('charge', c.number),
    p.id,
    CASE WHEN c.nth <= 3 AND p.class % 4 = 0 THEN 7 ELSE 1 END * u.unit,
    -- An account's charges have its currency; some old accounts have none of these currencies.
    CASE p.class WHEN 52 THEN 'EUR' WHEN 53 THEN 'usd' WHEN 54 THEN 'xx' ELSE 'USD' END,
    b.before,
    b.before - CASE
        WHEN c.nth <= 3 THEN 0
        -- Without the constraint of step 0007, nothing kept these figures consistent.
        WHEN p.class = 38 AND c.nth = 5 THEN 2
        ELSE u.unit
    END,
    CASE WHEN p.class = 59 AND c.nth = 1 THEN repeat('long ', 400) ELSE 'Message interaction' END,
    CASE
        WHEN p.class = 58 AND c.nth = 1 THEN ''
        WHEN p.class BETWEEN 40 AND 44 AND c.nth = 2 THEN 'shared'
        WHEN c.number % 3 = 0 THEN NULL
        ELSE 'charge_' || c.number
    END,
    'message-' || c.number,
    CASE WHEN c.number % 2 = 0 THEN 'agent-' || c.number % 10 END,
    CASE WHEN c.number % 5 = 0 THEN 'channel' END,
    CASE WHEN c.number % 7 = 0 THEN 'request-' || c.number END,
    p.created_at + c.nth * interval '1 hour'
FROM (
    SELECT
        j AS number, (j - 1) % m.accounts AS place, (j - 1) / m.accounts + 1 AS nth
    FROM generate_series(1, current_setting('old.charges')::bigint) AS j
    CROSS JOIN (SELECT count(*) AS accounts FROM old_active AS t) AS m
) AS c
INNER JOIN old_active AS a ON a.place = c.place
INNER JOIN old_plan AS p ON p.id = a.id
CROSS JOIN LATERAL (SELECT CASE WHEN p.class BETWEEN 10 AND 29 THEN 25 ELSE 1 END AS unit) AS u
CROSS JOIN LATERAL (
    SELECT CASE WHEN c.nth <= 3 THEN 0 ELSE (20 * p.packs - (c.nth - 4)) * u.unit END AS before
) AS b;

INSERT INTO public.credits (
    id, account_id, amount_minor, currency, balance_before, balance_after, transaction_type,
    description, external_transaction_id, idempotency_key, created_at
)
SELECT
    pg_temp.old_id('credit', p.number * 1000000 + q),
    p.id,
    20 * u.unit,
    CASE p.class WHEN 52 THEN 'EUR' ELSE 'USD' END,
    20 * u.unit * (q - 1),
    20 * u.unit * q,
    t.kind,
    CASE
        WHEN t.kind <> 'purchase' THEN 'A ' || t.kind || ' by staff'
        WHEN p.class = 45 THEN 'Bought at the counter'
        ELSE 'Purchased $4.99 (20 uses) via Stripe'
    END,
    t.payment_id,
    CASE WHEN t.kind = 'purchase' THEN 'stripe-' || t.payment_id
        WHEN p.class BETWEEN 40 AND 44 AND q = 1 THEN 'shared' END,
    p.created_at + interval '3 hours' + q * interval '1 second'
FROM old_plan AS p
CROSS JOIN LATERAL generate_series(1, p.packs) AS q
CROSS JOIN LATERAL (SELECT CASE WHEN p.class BETWEEN 10 AND 29 THEN 25 ELSE 1 END AS unit) AS u
CROSS JOIN LATERAL (
    SELECT
        k.kind,
        CASE
            WHEN k.kind <> 'purchase' THEN NULL
            WHEN p.class IN (70, 71) THEN 'GPA.' || p.number || '-' || q
            -- Each of two duplicates was credited for one payment.
            WHEN p.class IN (42, 43) THEN 'pi_' || p.identity || '_' || q
            ELSE 'pi_' || p.number || '_' || q
        END AS payment_id
    FROM (
        SELECT CASE
            WHEN p.class IN (40, 41) AND q = 1 THEN 'grant'
            WHEN p.class % 8 = 1 THEN (ARRAY['grant', 'refund', 'adjustment'])[1 + q % 3]
            ELSE 'purchase'
        END AS kind
    ) AS k
) AS t;

-- The checks are few, and wrong for users with free uses; some belong to no account.
INSERT INTO public.credit_checks (
    id, account_id, oauth_provider, external_id, wa_id, tenant_id, has_credit, credits_remaining,
    plan_name, denial_reason, context_agent_id, context_channel_id, context_request_id, created_at
)
SELECT
    pg_temp.old_id('check', p.number),
    CASE WHEN p.number % 12 = 0 THEN NULL ELSE p.id END,
    'oauth:' || (ARRAY['google', 'discord', 'wa', 'api'])[1 + p.identity % 4],
    'user-' || p.identity, NULL, NULL, p.packs > 0,
    CASE WHEN p.number % 12 <> 0 THEN p.packs END, 'free',
    CASE WHEN p.packs = 0 THEN 'No credits remaining' END,
    'agent', NULL, 'request', p.created_at + p.roll * interval '5 hours'
FROM old_plan AS p
WHERE p.number % 2 = 0;

INSERT INTO public.admin_users (
    id, email, full_name, role, is_active, created_at, last_login_at, google_id, picture_url
)
SELECT
    pg_temp.old_id('admin', u.number), u.email, u.full_name, u.role, u.is_active,
    timestamptz '2025-10-08 09:00:00+00', CASE WHEN u.google_id IS NOT NULL THEN now() END,
    u.google_id, 'https://example.com/picture.png'
FROM (
    VALUES
    (1, 'ada@ciris.ai', 'Ada', 'admin', true, '1001'),
    (2, 'ben@ciris.ai', 'Ben', 'viewer', true, '1002'),
    (3, 'cyd@ciris.ai', 'Cyd', 'admin', false, '1003'),
    (4, 'dan@ciris.ai', 'Dan', 'admin', true, NULL),
    (5, 'Eve@ciris.ai', 'Eve', 'viewer', true, '1005')
) AS u (number, email, full_name, role, is_active, google_id);

INSERT INTO public.provider_configs (id, provider_type, is_active, config_data, updated_by)
VALUES (
    pg_temp.old_id('provider', 1), 'stripe', true,
    jsonb_build_object(
        'api_key', 'sk_' || 'test_' || md5('api' || current_setting('old.seed')),
        'webhook_secret', 'whsec_' || md5('webhook' || current_setting('old.seed')),
        'publishable_key', 'pk_' || 'test_' || md5('publishable' || current_setting('old.seed'))
    ),
    pg_temp.old_id('admin', 1)
);

-- Rows that were sometimes written by hand: one repeats a secret.
INSERT INTO public.admin_audit_logs (
    id, admin_user_id, action, resource_type, resource_id, changes, user_agent, created_at
)
SELECT
    pg_temp.old_id('audit', 1), pg_temp.old_id('admin', 1), 'update', 'provider_config', 'stripe',
    jsonb_build_object('config_data', c.config_data), repeat('agent ', 200),
    timestamptz '2025-10-10 09:00:00+00'
FROM public.provider_configs AS c
WHERE c.provider_type = 'stripe';
